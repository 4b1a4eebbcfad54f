"""A whole job: Redis, worker processes and the service, each a process of its own, and what became of every order.

The service answers by a schedule that is known beforehand, from the order's id: after so many seconds there is a number, after so many a
code. It writes down when it was asked about what, and so do the workers (:mod:`tests.cluster.worker`) when a request had its turn.
"""

import signal
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 30.0
"""Seconds that a process may take to start, or to end."""


class Processes:
    """Processes of a test's own, started in ``place`` and ended by their ids."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, name: str) -> "subprocess.Popen[bytes]":
        """Start ``python -m ...``; what it says goes to a file."""
        with (self.place / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=log, stderr=log, start_new_session=True)
        self.all.append(process)
        return process

    def end(self) -> None:
        """End those that still run, and kill those that do not end."""
        for process in self.all:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        until = time.monotonic() + PATIENCE
        for process in self.all:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        stuck = [process.args for process in self.all if process.poll() is None]
        for process in self.all:
            process.kill()
            process.wait(PATIENCE)
        if stuck:
            raise AssertionError(stuck)


@contextmanager
def processes(place: Path) -> Iterator[Processes]:
    """Processes for the time of a block."""
    there = Processes(place)
    try:
        yield there
    finally:
        there.end()


def service(there: Processes) -> str:
    """Start the service, and return its address."""
    address = there.place / "service.address"
    there.start("tests.cluster.service", str(address), str(there.place / "asked"), name="service")
    until = time.monotonic() + PATIENCE
    while not address.exists():
        if time.monotonic() > until:
            raise AssertionError((there.place / "service.log").read_text())
        time.sleep(0.02)  # another process, in real time, that has no way to call
    return address.read_text()


def order_id(number: int, number_after: float, code_after: float, again: int = 0) -> str:
    """An order whose schedule stands in its id, in milliseconds; 0 for no code."""
    return f"{number:08d}-{round(number_after * 1000):08d}-{round(code_after * 1000):08d}-{again:06d}"


def code_of(order: str) -> str:
    """The code that the service gives for an order."""
    return f"{int(order[:8]):06d}"


def asked(there: Processes) -> dict[str, list[float]]:
    """When the service was asked about each order, in seconds of the monotonic clock; a cancel has a minus before its order."""
    seen: dict[str, list[float]] = defaultdict(list)
    for line in (there.place / "asked").read_text().splitlines():
        order, at = line.split()
        seen[order].append(float(at))
    return seen


def permits(there: Processes) -> list[float]:
    """When requests had their turns, over all workers, in seconds of the monotonic clock."""
    times: list[float] = []
    for file in there.place.glob("permits.*"):
        data = file.read_bytes()
        times += [time for (time,) in struct.iter_unpack("d", data[: len(data) // 8 * 8])]
    return sorted(times)
