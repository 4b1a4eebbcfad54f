"""The types, as people use them: checked by mypy, pyright and ty, in a file of calls and in the README's own programs."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CALLS = ROOT / "tests" / "typing" / "api.py"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
FRAGMENT = """from sms4sats_async import *  # noqa: F403 - what the README has imported further up
from sms4sats_async import Client, Order

async def fragment(client: Client, order: Order, base_url: str) -> None:
"""
CHAT = """from collections.abc import AsyncIterator

async def messages() -> AsyncIterator[tuple[str, str]]:
    yield "ann", "/code 187 tg"

async def send(user: str, text: str) -> None: ...
"""


def run(tool: str, *arguments: str | Path, cwd: Path = ROOT) -> tuple[int, str]:
    found = shutil.which(tool, path=str(Path(sys.executable).parent))
    assert found is not None, f"{tool} belongs to the group test"
    done = subprocess.run([found, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all Python of the README: its files, its programs, and its fragments, each in a function."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "chat.py").write_text(CHAT)
    for number, block in enumerate(BLOCKS):
        if (name := re.match(r"# (\w+)\.py: ", block)) is not None:
            (folder / f"{name[1]}.py").write_text(block)
        elif re.search(r"^(asyncio|trio)\.run\(", block, re.MULTILINE):
            (folder / f"program_{number}.py").write_text(block)
        else:
            (folder / f"fragment_{number}.py").write_text(FRAGMENT + textwrap.indent(block, "    "))
    return folder


# --- calls: what is right passes, and what is marked as wrong is found ---------------------------------------------------------------


def test_mypy_sees_the_types_that_a_user_writes() -> None:
    code, shown = run("mypy", "--strict", "--warn-unused-ignores", CALLS)
    assert code == 0, shown


@pytest.mark.unmeasured
def test_pyright_sees_the_types_that_a_user_writes() -> None:
    code, shown = run("pyright", "--pythonpath", sys.executable, CALLS)
    assert (code, "0 errors" in shown) == (0, True), shown


def test_ty_sees_the_types_that_a_user_writes() -> None:
    _, shown = run("ty", "check", "--python", sys.prefix, "--output-format", "concise", CALLS)
    found = {int(line) for line in re.findall(r"api\.py:(\d+):\d+: error", shown)}
    marked = {number for number, line in enumerate(CALLS.read_text().splitlines(), 1) if "# type: ignore[" in line}
    assert found == marked, shown


# --- the README's programs, as they are copied: without annotations of their own -----------------------------------------------------


@pytest.mark.unmeasured
def test_mypy_finds_nothing_in_the_programs_of_the_readme(programs: Path) -> None:
    # An empty dict or set in a program without annotations has a type that mypy alone asks for.
    arguments = ["--check-untyped-defs", "--disable-error-code", "var-annotated", "--cache-dir", str(programs / ".cache")]
    code, shown = run("mypy", *arguments, *sorted(programs.glob("*.py")), cwd=programs)
    assert code == 0, shown


@pytest.mark.unmeasured
def test_pyright_finds_nothing_in_the_programs_of_the_readme(programs: Path) -> None:
    code, shown = run("pyright", "--pythonpath", sys.executable, ".", cwd=programs)
    assert (code, "0 errors" in shown) == (0, True), shown


def test_ty_finds_nothing_in_the_programs_of_the_readme(programs: Path) -> None:
    code, shown = run("ty", "check", "--python", sys.prefix, ".", cwd=programs)
    assert code == 0, shown


def test_a_checker_finds_what_is_wrong_in_a_program(programs: Path, tmp_path: Path) -> None:
    """That the checks above look: a call that the client does not have."""
    wrong = (programs / "bot.py").read_text().replace("receive_code(client, country", "receive_code(client, None, country")
    (tmp_path / "bot.py").write_text(wrong)
    (tmp_path / "chat.py").write_text(CHAT)
    code, shown = run("ty", "check", "--python", sys.prefix, ".", cwd=tmp_path)
    assert (code, "bot.py" in shown) == (1, True), shown
