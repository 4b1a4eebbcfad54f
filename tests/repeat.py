"""Runs the cancellation and fault tests again and again, to find one that fails now and then.

    python -m tests.repeat                          # 200 times, as many at once as there are cores
    python -m tests.repeat --whole --times 10       # with all sets of parameters, each time
    python -m tests.repeat --times 20 tests/test_watcher.py

A repeat is a process of its own that runs every test once, with one of its sets of parameters (a backend, a stack, a call): the first
repeat with its first set, the second with its second, and again from the first on. So a test of three sets has been run 200 times in 200
repeats, and 66 times with each of them. What differs beside that are the client's own dice, the hashes, trio's order of tasks, and the
machine. What fails is printed with its run's output, and with the command that runs the same again. The exit code is 1 when anything
failed, else 0.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import pytest

TESTS = ("tests/faults", "tests/test_cancellation.py", "tests/test_batch_leaving.py")
PASSED = 0


# --- a plugin for the runs of the tests --------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--turn", type=int, help="of each test run one set of parameters only: the one whose turn it is")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one item of each test."""
    turn: int | None = config.getoption("--turn")
    if turn is None:
        return
    sets: dict[str, list[pytest.Item]] = {}
    for item in items:
        sets.setdefault(item.nodeid.partition("[")[0], []).append(item)
    items[:] = [of_a_test[turn % len(of_a_test)] for of_a_test in sets.values()]


# --- the command -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run of the tests: the arguments to pytest, whether it passed, and what it said."""

    arguments: tuple[str, ...]
    passed: bool
    said: str

    @property
    def summary(self) -> str:
        """What pytest says last."""
        return self.said.strip().rpartition("\n")[2]


def run(arguments: tuple[str, ...]) -> Run:
    """Run the tests once, in a process of their own, which finds what others have compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    return Run(arguments, done.returncode == PASSED, done.stdout)


def repeat(tests: Sequence[str], times: int, at_once: int, *, whole: bool) -> Iterator[Run]:
    """Run the tests so many times; each run is given out as it ends."""
    common = ("-p", "no:cacheprovider", "-p", "tests.repeat")
    with ThreadPoolExecutor(at_once) as pool:
        turns = [(*common, *(() if whole else ("--turn", str(turn))), *tests) for turn in range(times)]
        yield from (future.result() for future in as_completed([pool.submit(run, arguments) for arguments in turns]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Repeat, print what failed, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.repeat", description="find tests that fail now and then")
    parser.add_argument("tests", nargs="*", default=TESTS, help="what to give to pytest")
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--whole", action="store_true", help="all sets of parameters of a test each time, not one of them in turn")
    options = parser.parse_args(arguments)
    began, failed = time.monotonic(), 0
    for number, ended in enumerate(repeat(options.tests, options.times, options.at_once, whole=options.whole), 1):
        failed += not ended.passed
        told = ended.summary if ended.passed else f"{ended.said}\nagain: python -m pytest {' '.join(ended.arguments)}"
        print(f"{number:4} of {options.times}  {told}", flush=True)
    print(f"{options.times} runs, {failed} with a failure, in {(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
