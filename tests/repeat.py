"""Runs the cancellation and fault tests again and again, to find one that fails now and then.

    python -m tests.repeat                          # 200 times, as many at once as there are cores
    python -m tests.repeat --times 20 tests/test_watcher.py

Each run is a process of its own; what differs between them is the client's own dice, trio's order of tasks, and the machine. What fails
is printed with its run's output. The exit code is 1 when anything failed, else 0.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

TESTS = ("tests/faults", "tests/test_cancellation.py", "tests/test_batch_leaving.py")
PASSED = 0


@dataclass(frozen=True)
class Run:
    """One run of all the tests."""

    passed: bool
    said: str

    @property
    def summary(self) -> str:
        """What pytest says last."""
        return self.said.strip().rpartition("\n")[2]


def run(tests: Sequence[str]) -> Run:
    """Run the tests once, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Run(done.returncode == PASSED, done.stdout)


def repeat(tests: Sequence[str], times: int, at_once: int) -> Iterator[Run]:
    """Run the tests so many times; each run is given out as it ends."""
    with ThreadPoolExecutor(at_once) as pool:
        yield from (future.result() for future in as_completed([pool.submit(run, tests) for _ in range(times)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Repeat, print what failed, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.repeat", description="find tests that fail now and then")
    parser.add_argument("tests", nargs="*", default=TESTS, help="what to give to pytest")
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    began, failed = time.monotonic(), 0
    for number, ended in enumerate(repeat(options.tests, options.times, options.at_once), 1):
        failed += not ended.passed
        print(f"{number:4} of {options.times}  {ended.summary}" if ended.passed else ended.said, flush=True)
    print(f"{options.times} runs, {failed} with a failure, in {(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
