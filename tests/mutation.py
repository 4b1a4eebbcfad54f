"""Mutation testing of what decides: the lifecycle, the decoding, the agenda, and the transport's rules about replies and repeats.

    pip install -e '.[sandbox,trio,aiohttp,socks]' --group test --group mutation
    python -m tests.mutation [lifecycle] [models] [agenda] [replies] [repeats] [--jobs N]

mutmut changes one thing after the other in a copy of the sources: a comparison, a number, a text, an argument, a branch. The tests of
that module must notice each change. What they do not notice is held against ``mutation.md``, where each survivor stands with the reason
why it may live; one that does not stand there, or fewer than 95 % killed, is a failure. It takes about half an hour.

mutmut switches between the variants of a function in a running program. What is decided when a module is imported cannot be switched, so
of constants, defaults and the like each variant is written to the copy, and the tests run in a process of their own.
"""

import argparse
import collections
import contextlib
import difflib
import gc
import importlib
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_suffix(".md")
MUTMUT = str(Path(sysconfig.get_path("scripts")) / "mutmut")
PLUGINS = ("-p", "tests.mutation", "-p", "no:cacheprovider", "-p", "no:unraisableexception")
"""The last looks for lost exceptions after each run, which takes longer than most of the runs."""
ENOUGH = 0.95
FOR_TYPE_CHECKERS = frozenset({"T", "_Row", "Pace"})


class Target(NamedTuple):
    """What is mutated, and who has to notice.

    Attributes:
        name: what it is called at the command line.
        module: a file of the package.
        tests: files of the tests.
        patience: seconds of CPU time that the tests of one variant may take: several times what they need.
        functions: names of functions and methods; all of them when there are none.
        constants: names of what is decided at the import; all of them when there are none.
        at_import: functions that are called at the import only.
    """

    name: str
    module: str
    tests: tuple[str, ...]
    patience: int = 10
    functions: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    at_import: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return f"sms4sats_async/{self.module}.py"


class Mutant(NamedTuple):
    """One change: where it is, and the line that it makes; of a change to several lines, these."""

    target: str
    function: str
    change: str


TARGETS = (
    Target("lifecycle", "lifecycle", ("tests/test_lifecycle.py",)),
    Target("models", "models", ("tests/test_models.py",), patience=40, at_import=("_raw",)),
    Target("agenda", "agenda", ("tests/test_agenda.py",)),
    Target(
        "replies",
        "transport",
        ("tests/test_replies.py",),
        patience=20,
        functions=(
            *("_conclude", "_value", "read_reply", "_host_of", "_says_no", "_parse", "_inflate", "_reason", "_refusal", "_decode_error"),
            *("excerpt", "retry_after", "_http_date", "_unanswered", "_decided", "_may_repeat", "_final", "_backoff", "_transport_error"),
            *("_tells_secret", "_chain", "_ground", "_is_tls", "Call.without_secrets"),
        ),
        constants=("LONGEST_RETRY_AFTER", "_SECRET_FIELDS", "_MAX_WORDS", "_FIRST_BACKOFF", "_json"),
    ),
    Target(
        "repeats",
        "transport",
        ("tests/test_transport.py", "tests/test_spending.py", "tests/test_tracing.py"),
        patience=100,
        functions=("Transport.send", "_gate"),
        constants=("STATUS_LIMIT", "LIST_LIMIT"),
    ),
)
PATIENCE = "MUTATION_PATIENCE"
"""The environment variable that tells the plugin of the patience."""


# --- a plugin for the runs of the tests --------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Find the same examples each time, and take whole functions: some parameters have names that no command line can bring."""
    settings.register_profile("mutation", settings.get_profile("ci"), max_examples=30)
    settings.load_profile("mutation")
    gc.disable()
    if "__mutmut_" in os.environ.get("MUTANT_UNDER_TEST", ""):
        be_patient(int(os.environ[PATIENCE]))
    config.args = sorted({argument.partition("[")[0] for argument in config.args})


def be_patient(seconds: int) -> None:
    """End this process after so many seconds of CPU time: a busy machine makes no variant look like one that hangs."""
    used = int(time.process_time()) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds + 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is quick."""
    items.sort(key=lambda item: getattr(getattr(item, "obj", None), "is_hypothesis_test", False))


# --- functions, by mutmut ----------------------------------------------------------------------------------------------------------


def copied(target: Target, folder: Path) -> Path:
    """Make a copy of the project, and tell mutmut what to do there."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "mutants", "build", "dist"))
    options = {
        "source_paths": ["sms4sats_async"],
        "only_mutate": [target.path],
        "also_copy": ["README.md"],
        "pytest_add_cli_args": PLUGINS,
        "pytest_add_cli_args_test_selection": target.tests,
        "do_not_mutate_patterns": ["raise AssertionError", r"\bcast\("],  # what is never reached; what is for type checkers
        "use_git_change_detection": ["false"],
        "timeout_multiplier": ["60"],
    }
    lines = [f"{name}=\n    " + "\n    ".join(values) if len(values) > 1 else f"{name}={values[0]}" for name, values in options.items()]
    (folder / "setup.cfg").write_text("\n".join(["[mutmut]", *lines, ""]))
    return folder


def mangled(function: str) -> str:
    """Write the name of a function as mutmut does."""
    owner, _, name = function.rpartition(".")
    return f"xǁ{owner}ǁ{name}" if owner else f"x_{name}"


def plain(name: str) -> str:
    """Read a name as mutmut writes it: the function that a mutant is of."""
    function = re.sub(r".*?\.x(?:ǁ(\w+)ǁ|_)(\w+)__mutmut_\d+", lambda found: f"{found[1] or ''}.{found[2]}", name).lstrip(".")
    return function.replace("._read_", ".")


def changed(diff: list[str]) -> str:
    """Write a change in one line: the new line, or the lines that went where there is none."""
    lines = [line for line in diff if not line.startswith(("---", "+++"))]
    new = [line[1:].strip() for line in lines if line.startswith("+")]
    old = [line[1:].strip() for line in lines if line.startswith("-")]
    return new[0] if len(new) == 1 and len(old) == 1 else f"{' '.join(old)} ⟶ {' '.join(new)}".strip()


def functions_of(target: Target, folder: Path, jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Try every variant of the functions; True with those that were noticed."""
    copy = copied(target, folder)
    source = copy / target.path  # mutmut does not change what is decorated, so properties are made methods
    as_method = r"    \1 = property(lambda self: self._read_\1())\n\n    def _read_\1(self)"
    source.write_text(re.sub(r"    @property\n    def (\w+)\(self\)", as_method, source.read_text()))
    patterns = [f"sms4sats_async.{target.module}.{mangled(function)}__mutmut_*" for function in target.functions]
    command = [MUTMUT, "run", "--max-children", str(jobs), *(patterns or [f"sms4sats_async.{target.module}.*"])]
    environment = os.environ | {PATIENCE: str(target.patience)}
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        raise RuntimeError(run.stdout[-5000:] + run.stderr[-5000:])
    told = subprocess.run([MUTMUT, "results", "--all", "true"], cwd=copy, capture_output=True, text=True, check=True).stdout
    for name, verdict in re.findall(r"^ *(\S+): (.+)$", told, re.MULTILINE):
        if plain(name) in target.functions or (not target.functions and plain(name) not in target.at_import):
            noticed = verdict in ("killed", "timeout")
            shown = "" if noticed else subprocess.run([MUTMUT, "show", name], cwd=copy, capture_output=True, text=True, check=True).stdout
            yield Mutant(target.name, plain(name), changed(shown.splitlines())), noticed


# --- what is decided at the import -------------------------------------------------------------------------------------------------


def constants_of(target: Target, folder: Path) -> Iterator[tuple[Mutant, bool]]:
    """Try every variant of the constants, the defaults of classes, and the functions that are called at the import only."""
    source = copied(target, folder) / target.path
    original = source.read_text()
    for library in ("anyio", "attrs", "httpx", "trio", "trustme"):  # so that no variant need do it
        importlib.import_module(library)
    if is_noticed(folder, target):
        raise RuntimeError(f"the tests of {target.name} fail without any change")
    with contextlib.chdir(folder):  # mutmut reads its options there
        variants = list(variants_of(target, original))
    for function, variant in variants:
        diff = list(difflib.unified_diff(original.splitlines(), variant.splitlines(), n=0, lineterm=""))
        mutant = Mutant(target.name, function, changed([line for line in diff if not line.startswith("@@")]))
        name = mutant.change.partition(" ")[0].strip(",")
        if name in FOR_TYPE_CHECKERS or (target.constants and name not in target.constants):
            continue
        source.write_text(variant)
        yield mutant, is_noticed(folder, target)


def is_noticed(folder: Path, target: Target) -> bool:
    """Run tests in a process of their own: does one fail, or take too long?"""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    failed = 1
    try:
        be_patient(target.patience)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            failed = pytest.main(["-x", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", *PLUGINS, *target.tests])
    finally:
        os._exit(failed)


def variants_of(target: Target, original: str) -> Iterator[tuple[str, str]]:
    """Make what mutmut would change outside of functions: whose it is, and the whole text."""
    mutmut: Any = importlib.import_module("mutmut.mutation.file_mutation")
    module, mutations, *_ = mutmut.create_mutations(target.path, original)
    for mutation in mutations:
        within = mutation.contained_by_top_level_function
        function = within.name.value if type(within).__name__ == "FunctionDef" else ""
        if not function or function in target.at_import:
            yield function or "import", mutmut.deep_replace(module, mutation.original_node, mutation.mutated_node).code


# --- the list of those that may live -----------------------------------------------------------------------------------------------


def listed() -> set[Mutant]:
    """Read ``mutation.md``."""
    found: set[Mutant] = set()
    target = ""
    for line in LIST.read_text().splitlines():
        if section := re.match(r"## `(\w+)`", line):
            target = section[1]
        if entry := re.fullmatch(r"- `([\w.]+)`: `(.*)`", line):
            found.add(Mutant(target, entry[1], entry[2]))
    return found


def main(arguments: list[str] | None = None) -> int:
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").partition("\n")[0])
    every = f"{', '.join(names)}; all of them by default"
    parser.add_argument("targets", nargs="*", choices=[*names, []], metavar="target", help=every)  # argparse looks for [] among them, too
    parser.add_argument("--jobs", type=int, default=1, help="how many variants are tried at the same time")
    chosen = parser.parse_args(arguments)
    allowed = listed()
    failed = False
    for target in TARGETS:
        if target.name not in (chosen.targets or names):
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            tried = [*functions_of(target, Path(folder, "functions"), chosen.jobs), *constants_of(target, Path(folder, "constants"))]
        survivors = collections.Counter(mutant for mutant, noticed in tried if not noticed)
        killed = len(tried) - survivors.total()
        print(f"{target.name}: {len(tried)} mutants, {killed} killed ({killed / len(tried):.1%}), {survivors.total()} survived", end="")
        print(f", in {(time.monotonic() - began) / 60:.0f} min", flush=True)
        unlisted = sorted(set(survivors) - allowed)
        for mutant in unlisted:
            print(f"  survived, and not listed: - `{mutant.function}`: `{mutant.change}`")
        for mutant in sorted(one for one in allowed - set(survivors) if one.target == target.name):
            print(f"  listed, and killed: - `{mutant.function}`: `{mutant.change}`")
        failed = failed or bool(unlisted) or killed < ENOUGH * len(tried)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
