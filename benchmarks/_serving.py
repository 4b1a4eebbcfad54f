"""Starts the status server in a process of its own, asks it for its figures, and stops it."""

import http.client
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 5.0  # seconds, for an answer to a question and for the process to end by itself


@dataclass(frozen=True)
class StatusServer:
    """A running status server."""

    port: int

    @property
    def url(self) -> str:
        """Its origin, for a client's ``base_url``."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, figure: str) -> float:
        """One of the server's own figures: ``open``, ``seen``, ``mean``, ``peak`` or ``cpu``; see ``status_server``.

        Blocks the caller's loop for the moment it takes: what is being counted must not move on meanwhile.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", f"/_{figure}")
            return float(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def status_server(*, delay: float = 0.0) -> Iterator[StatusServer]:
    """A status server for the time of the block; ``delay`` is the longest of its random times to answer, in seconds."""
    command = [sys.executable, "-m", "benchmarks.status_server", "--delay", str(delay)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield StatusServer(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
