"""Every piece of Python in the README runs as it stands, against the sandbox instead of the service."""

import ast
import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

import sms4sats_async
from _sms4sats_pytest import FIXTURES
from sms4sats_async import Client
from sms4sats_async.lifecycle import default_pace
from sms4sats_async.models import OrderStatus
from sms4sats_async.sandbox import Sandbox, Timeline
from sms4sats_async.testing import Script, Trouble, Words

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(?!# \w+\.py: )(.*?)^```$", README, re.DOTALL | re.MULTILINE)  # the others: test_programs.py
PROGRAMS = [block for block in BLOCKS if re.search(r"^(asyncio|trio)\.run\(", block, re.MULTILINE)]
TESTS = [block for block in BLOCKS if "sms4sats_sandbox" in block]  # test_pytest_plugin.py runs it, in pytest
KEY = "readme-key"


def line_of(block: str) -> str:
    return f"line {README[: README.index(block)].count(chr(10)) + 1}"


FRAGMENTS = [
    pytest.param(block, backend, id=f"{line_of(block)}-{backend}")
    for block in BLOCKS
    if block not in (*PROGRAMS, *TESTS)
    for backend in ("asyncio", "trio")
    if backend == "asyncio" or "aiohttp" not in block  # which is asyncio's
]


@pytest.mark.parametrize("block", PROGRAMS, ids=line_of)
def test_a_program_runs_and_prints_its_code(
    block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timeline = Timeline(paid_after=0.1, number_after=8, code_after=30, code="004217")
    quick = Sandbox(timeline=timeline, speed=100, accounts={KEY: 1_000_000})
    monkeypatch.setenv("SMS4SATS_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    for call in ("Client()", "Client(api_key", "Client(journal"):
        block = block.replace(call, call.replace("(", "(transport=TRANSPORT, "))
    exec(compile(block, "README.md", "exec"), {"TRANSPORT": quick.transport()})  # noqa: S102
    shown = capsys.readouterr().out
    if "MockClock" in block:
        assert "paid, and cancelled: True True" in shown
    else:
        assert shown.count("004217") == (100 if "BatchWatcher" in block else 1)


async def names(client: Client) -> dict[str, Any]:
    """What a fragment of the README takes for given."""
    public = {name: getattr(sms4sats_async, name) for name in sms4sats_async.__all__}
    return public | {"client": client, "order": await client.create_order(187, "tg"), "base_url": "http://127.0.0.1:1"}


@pytest.mark.parametrize(("block", "anyio_backend"), FRAGMENTS, indirect=["anyio_backend"])
async def test_a_fragment_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=5, number_after=8, code_after=45), accounts={KEY: 100_000})
    async with Client(transport=sandbox.transport(), base_url="http://localhost", api_key=KEY) as client:
        given = await names(client)
        code = compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with anyio.fail_after(3600):
            result = eval(code, given)  # noqa: S307 - our own README
            if inspect.iscoroutine(result):
                await result
    if "HTTPXClientInstrumentor" in block:  # the whole process is traced from there on
        HTTPXClientInstrumentor().uninstrument()
    assert "Traceback" not in capsys.readouterr().out


def test_there_are_programs_and_fragments() -> None:
    assert len(PROGRAMS) == 6
    assert len(TESTS) == 1
    assert len(FRAGMENTS) >= 6


def test_the_first_forty_lines_are_enough_to_start() -> None:
    start = "\n".join(README.splitlines()[:40])
    for needed in ("asyncio.run(main())", "trio.run(main)", "sms4sats_async demo", "-m pytest", "It is no wallet"):
        assert needed in start


def test_the_batch_program_is_short() -> None:
    program = next(block for block in PROGRAMS if "BatchWatcher" in block)
    assert len(program.splitlines()) <= 15


def test_every_call_of_the_client_is_in_the_table_with_its_signature() -> None:
    for name, method in inspect.getmembers(Client, inspect.iscoroutinefunction):
        if name.startswith("_") or name == "aclose":
            continue
        written = re.search(rf"^\| `{name}\((.*?)\)`", README, re.MULTILINE)
        assert written, name
        given = [str(one) for one in inspect.signature(method).parameters.values()][1:]
        bare = [re.sub(r": [^=]+?(?= = |$)", "", one).replace(" = ", "=").replace("'", '"') for one in given]
        assert written[1].replace("*, ", "") == ", ".join(bare), name


def test_the_error_tree_of_the_readme_is_the_real_one() -> None:
    tree = README[README.index("## The errors") : README.index("A bad argument")]
    parents: list[tuple[int, str]] = []
    for line in tree.splitlines():
        found = re.match(r"^([│├└─ ]*)([A-Z]\w+)  ", line)
        if found is None:
            continue
        depth, name = len(found[1]), found[2]
        while parents and parents[-1][0] >= depth:
            parents.pop()
        if parents:
            assert getattr(sms4sats_async, name).__bases__ == (getattr(sms4sats_async, parents[-1][1]),)
        parents.append((depth, name))
    public = [getattr(sms4sats_async, name) for name in sms4sats_async.__all__]
    assert all(one.__name__ in tree for one in public if inspect.isclass(one) and issubclass(one, Exception))


def test_the_default_pace_is_the_one_of_the_table() -> None:
    waits = [int(number) for number in re.findall(r"every (\d+) s", README)]
    unpaid, paid = OrderStatus("ab", paid=False), OrderStatus("ab", paid=True)
    shown = [default_pace(unpaid, 0), default_pace(unpaid, 60), default_pace(unpaid, 120)]
    shown += [default_pace(paid, 0), default_pace(paid, 60), default_pace(paid, 120), default_pace(paid, 240)]
    assert waits[:7] == shown


def test_the_changelog_speaks_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## (?!Unreleased)(\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == project["version"] == sms4sats_async.__version__


def test_ci_calls_the_test_command_of_the_readme() -> None:
    commands = [shlex.split(line) for line in re.findall(r"^python3.11 -m venv .*$", README, re.MULTILINE)]
    demo, tests = commands
    assert demo[-3:] == ["-m", "sms4sats_async", "demo"]
    assert tests[-6:] == ["-m", "pytest", "-n", "auto", "--dist", "worksteal"]
    ci = (ROOT / ".ci" / "run").read_text()
    assert " ".join(tests[-6:]) in ci
    for extra in (".[sandbox,trio,aiohttp,socks,cli,cluster]", "--group test"):
        assert extra in " ".join(tests)
        assert extra in ci


def test_the_scripts_of_the_table_are_those_that_there_are() -> None:
    table = README[README.index("| script | what happens |") : README.index("`Script` and `Trouble` are in")]
    rows = [row.split("|")[1] for row in table.splitlines()[2:] if row.startswith("|")]
    assert sorted(re.findall('`"(.*?)"`', "".join(rows))) == sorted(get_args(Words))
    for written in re.findall(r"`(Script\.\w+\(.*?\)+)`", table):
        assert isinstance(eval(written, {"Script": Script, "Trouble": Trouble}), Script)  # noqa: S307 - our own README


def test_the_fixtures_of_the_table_are_those_that_there_are() -> None:
    assert set(re.findall(r"^\| `(sms4sats_\w+)` \|", README, re.MULTILINE)) == FIXTURES
