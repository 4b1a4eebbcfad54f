"""A loopback stand-in for the service that knows when each code comes and when each order was asked for, in a process of its own.

    python -m benchmarks._code_server

The first line on stdout is the port; the process ends when its stdin closes.

    /orderstatus?orderId=…            a paid order with a number and no code (tests/samples/orderstatus_number_assigned.json)
    /orderstatus?orderId=code-at-T-…  the same until T, in seconds of this machine's monotonic clock; from then on with a code
    /_seen      status requests seen since the start
    /_orders    how many orders they were for
    /_gap       seconds between two requests for one order: the longest since the last time this was asked
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._serving import StatusServer, running

SAMPLE = Path(__file__).parents[1] / "tests" / "samples" / "orderstatus_number_assigned.json"
PREFIX = "code-at-"


def code_at(moment: float, number: int) -> str:
    """The id of an order whose code comes at this time of the monotonic clock, which is one for all processes of a machine."""
    return f"{PREFIX}{moment:.6f}-{number}"


def moment_of(order_id: str) -> float:
    """When this order's code comes."""
    return float(order_id.removeprefix(PREFIX).partition("-")[0])


@contextmanager
def code_server() -> Iterator[StatusServer]:
    """A server for the time of the block."""
    with running([sys.executable, "-m", "benchmarks._code_server"]) as process:
        assert process.stdout is not None
        yield StatusServer(int(process.stdout.readline()))


class Service:
    """What all connections share: the replies, and when each order was last asked for."""

    def __init__(self) -> None:
        status: dict[str, Any] = json.loads(SAMPLE.read_bytes())
        self._without_code = _reply(SAMPLE.read_bytes())
        self._with_code = _reply(json.dumps({**status, "code": "123456"}).encode())
        self._seen = 0
        self._gap = 0.0
        self._last: dict[str, float] = {}

    def reply(self, target: str) -> bytes:
        """The reply to a request for this target."""
        path, _, order_id = target.partition("?orderId=")
        if path != "/orderstatus":
            return _reply(str(self._figure(path.removeprefix("/_"))).encode())
        now = time.monotonic()
        self._seen += 1
        self._gap = max(self._gap, now - self._last.get(order_id, now))
        self._last[order_id] = now
        return self._with_code if order_id.startswith(PREFIX) and moment_of(order_id) <= now else self._without_code

    def _figure(self, name: str) -> float:
        if name == "seen":
            return self._seen
        if name == "orders":
            return len(self._last)
        if name == "gap":
            gap, self._gap = self._gap, 0.0
            return gap
        raise ValueError(f"no such figure: {name}")


class Connection(asyncio.Protocol):
    """One client's connection: all requests are GETs, so that a head is a request."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._unread = (self._unread + data).split(b"\r\n\r\n")
        for head in heads:
            self._transport.write(self._service.reply(head.split(b" ", 2)[1].decode()))


def _reply(body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _serve() -> None:
    service = Service()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=1024)
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
