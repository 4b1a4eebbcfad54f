"""A fast loopback stand-in for the service, in a process of its own, that counts what a client leaves behind.

    python -m benchmarks.status_server [--delay 0.003] [--tls IDENTITY.pem]

The first line on stdout is the port; the process ends when its stdin closes. Every reply is built beforehand, so that the client under
test, and not this server, is the bottleneck.

    /orderstatus?orderId=…            one status (tests/samples/orderstatus_number_assigned.json, 151 bytes)
    /orderstatus?orderId=together-N   the same, but held back until N of these are waiting at the same time: proof of N usable connections
    /_open      connections open now
    /_seen      status requests seen since the start
    /_mean      connections open at a status request: the mean since the last time this was asked
    /_peak      most connections established at once since the start, without those whose client has already closed its end
    /_cpu       CPU seconds of this process since its start

A connection that asks for a figure is in none of them, from its question on.
"""

import argparse
import asyncio
import importlib
import importlib.util
import random
import re
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).parents[1] / "tests" / "samples" / "orderstatus_number_assigned.json"
TCP_ESTABLISHED = 1  # the first byte of Linux's struct tcp_info


def main() -> None:
    """Serve until stdin closes."""
    options = argparse.ArgumentParser(description="a loopback server that answers /orderstatus")
    options.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="answer after a random time up to this one")
    options.add_argument("--seed", type=int, default=1, help="of the random times")
    options.add_argument("--tls", metavar="PEM", help="speak TLS, with the key and the certificate in this file")
    chosen = options.parse_args()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(Service(chosen.delay, random.Random(chosen.seed)), _identity(chosen.tls)))  # noqa: S311 - delays, not secrets


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


def _identity(pem: str | None) -> ssl.SSLContext | None:
    if pem is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


async def _serve(service: "Service", identity: ssl.SSLContext | None) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=1024, ssl=identity)
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


class Service:
    """What all connections share: the reply, and the counts."""

    def __init__(self, delay: float, rng: random.Random) -> None:
        self.delay = delay
        self.rng = rng
        self.status_reply = _reply(SAMPLE.read_bytes(), "application/json")
        self.open: set[Connection] = set()
        self.seen = 0
        self.peak = 0
        self._requests = self._connections_at_requests = 0
        self._together: list[Connection] = []

    def count_request(self, connection: "Connection") -> None:
        """Count a status request, and with a connection's first one, the connections established by now."""
        self.seen += 1
        self._requests += 1
        self._connections_at_requests += len(self.open)
        if connection.is_new and len(self.open) > self.peak:
            self.peak = max(self.peak, sum(other.is_established() for other in self.open))
        connection.is_new = False

    def hold(self, connection: "Connection", together: int) -> None:
        """Hold the reply back until ``together`` connections wait for theirs."""
        self._together = [other for other in self._together if other in self.open] + [connection]
        if len(self._together) >= together:
            waiting, self._together = self._together, []
            for each in waiting:
                each.send(self.status_reply)

    def figure(self, name: str) -> str:
        """The answer to ``/_<name>``."""
        if name == "open":
            return str(len(self.open))
        if name == "seen":
            return str(self.seen)
        if name == "peak":
            return str(self.peak)
        if name == "cpu":
            return str(time.process_time())
        if name == "mean":
            mean = self._connections_at_requests / max(1, self._requests)
            self._requests = self._connections_at_requests = 0
            return str(mean)
        raise ValueError(f"no such figure: {name}")


class Connection(asyncio.Protocol):
    """One client's connection: reads no more of a request than its target, and answers in the order of the requests."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._unread = b""
        self._targets: deque[bytes] = deque()
        self._answering = False
        self.is_new = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._service.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._service.open.discard(self)
        self._targets.clear()

    def is_established(self) -> bool:
        """False once the client has closed its end, even if this process has not noticed yet."""
        if self._transport.is_closing():
            return False
        if not hasattr(socket, "TCP_INFO"):
            return True
        state: bytes = self._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return state[0] == TCP_ESTABLISHED

    def data_received(self, data: bytes) -> None:
        *heads, self._unread = (self._unread + data).split(b"\r\n\r\n")  # all requests here are GETs: a head is a request
        self._targets.extend(head.split(b" ", 2)[1] for head in heads)
        if not self._answering:
            self._answer_next()

    def send(self, reply: bytes) -> None:
        """Send the reply to the request being answered, and go on to the next."""
        if not self._transport.is_closing():
            self._transport.write(reply)
        self._answering = False
        self._answer_next()

    def _answer_next(self) -> None:
        if not self._targets:
            return
        self._answering = True
        target = self._targets.popleft()
        service = self._service
        if not target.startswith(b"/orderstatus"):
            service.open.discard(self)
            self.send(_reply(service.figure(target.decode().removeprefix("/_")).encode(), "text/plain"))
            return
        service.count_request(self)
        if together := re.search(rb"=together-(\d+)", target):
            service.hold(self, int(together[1]))
        elif service.delay:
            asyncio.get_running_loop().call_later(service.rng.uniform(0, service.delay), self.send, service.status_reply)
        else:
            self.send(service.status_reply)


def _reply(body: bytes, content_type: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


if __name__ == "__main__":
    main()
