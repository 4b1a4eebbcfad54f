"""The service as a process, as cheap as can be: ``python -m tests.cluster.service ADDRESS ASKED``. See :mod:`tests.cluster.jobs`.

It writes where it listens to the file ADDRESS, and to ASKED a line for each request: the order, and the time on the monotonic clock.
"""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import IO

from tests.cluster.jobs import code_of


class Script(asyncio.Protocol):
    """One connection."""

    def __init__(self, started: dict[str, float], log: IO[str]) -> None:
        self._started = started
        self._log = log
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while b"\r\n\r\n" in self._unread:
            head, _, self._unread = self._unread.partition(b"\r\n\r\n")
            path, _, order = head.split(b" ", 2)[1].decode().partition("?orderId=")
            self._transport.write(self._answer(path, order))

    def _answer(self, path: str, order: str) -> bytes:
        now = time.monotonic()
        cancel = path == "/cancelorder"
        print("-" * cancel + order, now, file=self._log, flush=True)
        age = now - self._started.setdefault(order, now)
        number_after, code_after = (int(part) / 1000 for part in order.split("-")[1:3])
        told: dict[str, object] = {"status": "OK", "paid": True}
        if age >= number_after:
            told["number"] = 15550001111
        if 0 < code_after <= age:
            told["code"] = code_of(order)
        body = json.dumps(told).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def main(address: Path, asked: Path) -> None:
    started: dict[str, float] = {}
    with asked.open("w") as log:
        server = await asyncio.get_running_loop().create_server(lambda: Script(started, log), "127.0.0.1", 0)
        partial = address.with_suffix(".new")
        partial.write_text(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        partial.rename(address)
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        await told.wait()
        server.close()


if __name__ == "__main__":  # pragma: no branch - nobody imports it
    asyncio.run(main(*map(Path, sys.argv[1:])))
