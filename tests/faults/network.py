"""Bad networks, in the test's own loop: a line with weather, proxies, TLS in front of a plain server, and the answers of name lookups.

    async with serve(script) as server, line_to(server.url, Weather(latency=0.2)) as line:
        ...                                         # a client talks to line.url, and the line to the server
        line.weather = Weather(limit=0, beyond="swallows")
    assert line.connections_open == 0               # what the client has left behind is counted at its end of the line

Each of these is a ``serve`` that never reads a request of its own. All times are seconds of the loop's clock.
"""

import asyncio
import ipaddress
import math
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from tests.servers import Connection, Reply, Server, closes, serve
from tests.suspension import on_asyncio

Address = tuple[str, int]


def address_of(url: str) -> Address:
    """The host and the port in an address."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def _prompt(connection: Connection) -> Connection:
    """Let every piece leave at once: the kernel would else keep a small one until the one before is acknowledged, in its own time."""
    connection._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@asynccontextmanager
async def _connected(address: Address) -> AsyncIterator[Connection]:
    """A connection to a server in this loop; ended with the block."""
    connection = _prompt(Connection(socket.create_connection(address)))  # on this machine the kernel connects by itself, and at once
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.listen)
        yield connection
        await connection.end()


# --- a line with weather -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weather:
    """What a line does to the bytes of a connection, in both directions. By default nothing."""

    latency: float = 0.0
    """Seconds that each piece takes; the next one waits for it."""
    jitter: float = 0.0
    """Seconds that a piece takes beyond that, at random, and no more than these."""
    bandwidth: float = math.inf
    """Bytes in a second."""
    slices: int = 65536
    """The most bytes in a piece."""
    limit: float = math.inf
    """How many bytes a connection may carry, both directions together ..."""
    beyond: Literal["resets", "closes", "swallows"] = "resets"
    """... and what it does when it has: what it swallows is never heard of again, and neither is the end of either side."""
    slow_close: float = 0.0
    """Seconds until the end of one side is told to the other."""


class Line:
    """A connection to a server, for each that is made to ``url``. Its weather, and where it leads, can be changed at any moment."""

    url: str

    def __init__(self, address: Address, weather: Weather, seed: int) -> None:
        self.weather = weather
        self.address = address
        self._random = random.Random(seed)  # noqa: S311 - the weather of a test
        self.front: Server

    @property
    def connections_open(self) -> int:
        """How many connections the client has with this line."""
        return self.front.connections_open

    async def carry(self, _: int, reply: Reply) -> None:
        near = _prompt(reply._connection)
        async with _connected(self.address) as far, anyio.create_task_group() as tasks:
            trip = _Trip(near, far)
            tasks.start_soon(self._one_way, trip, far, near)
            await self._one_way(trip, near, far)

    async def _one_way(self, trip: "_Trip", source: Connection, target: Connection) -> None:
        while source.unread or await source.more():
            weather = self.weather
            room = weather.limit - trip.carried
            piece = source.take(int(max(0, min(room, weather.slices, len(source.unread)))))
            if room <= 0 or trip.swallowed:
                await trip.fail("swallows" if trip.swallowed else weather.beyond)
                source.unread.clear()
                continue
            trip.carried += len(piece)
            await anyio.sleep(weather.latency + self._random.uniform(0, weather.jitter) + len(piece) / weather.bandwidth)
            await target.send(piece)
            if trip.carried >= weather.limit:
                await trip.fail(weather.beyond)
        await anyio.sleep(self.weather.slow_close)
        if not trip.swallowed:
            await target.end()


class _Trip:
    """What one connection over a line has come to."""

    def __init__(self, near: Connection, far: Connection) -> None:
        self._ends = near, far
        self.carried = 0
        self.swallowed = False

    async def fail(self, way: str) -> None:
        if way == "swallows":
            self.swallowed = True
            return
        for connection in self._ends:
            await connection.end(reset=way == "resets")


@asynccontextmanager
async def line_to(url: str, weather: Weather = Weather(), *, seed: int = 0) -> AsyncIterator[Line]:
    """A line to a server of this loop."""
    line = Line(address_of(url), weather, seed)
    async with serve(closes, on_connect=line.carry) as line.front:
        line.url = line.front.url
        yield line


# --- TLS and proxies ---------------------------------------------------------------------------------------------------------------


class _Bytes(anyio.abc.ByteStream):
    """A connection as anyio's TLS wants it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = _prompt(connection)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._connection.unread and not await self._connection.more():
            raise anyio.EndOfStream
        return self._connection.take(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._connection.send(item)

    async def send_eof(self) -> NoReturn:
        raise AssertionError("TLS ends both directions at once")

    async def aclose(self) -> None:
        await self._connection.end()


async def _pump(source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
        while True:
            await target.send(await source.receive())
    await target.aclose()


async def _join(near: anyio.abc.ByteStream, address: Address) -> None:
    """Carry every byte between a client and a server, until one of them ends."""
    async with _connected(address) as connection, anyio.create_task_group() as tasks:
        far = _Bytes(connection)
        tasks.start_soon(_pump, far, near)
        await _pump(near, far)


@asynccontextmanager
async def tls_to(url: str, context: ssl.SSLContext) -> AsyncIterator[Server]:
    """An https server in front of a plain one. It ends its connections without TLS's own goodbye (close_notify), as many do."""
    address = address_of(url)

    async def wrap(number: int, reply: Reply) -> None:
        raw = _Bytes(reply._connection)
        try:
            near = await TLSStream.wrap(raw, server_side=True, ssl_context=context, standard_compatible=False)
        except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream):  # the client did not like what it saw
            await raw.aclose()
        else:
            await _join(near, address)

    async with serve(closes, on_connect=wrap) as front:
        front.url = front.url.replace("http", "https", 1)
        yield front


Greeting = Callable[[Reply], Awaitable[Address | None]]
"""What a proxy says before it carries bytes: it returns where they go, or None when it has ended the connection."""


@asynccontextmanager
async def proxy(greet: Greeting) -> AsyncIterator[Server]:
    """A proxy; its ``connections_opened`` is the number of times that it was asked."""

    async def on_connect(number: int, reply: Reply) -> None:
        address = await greet(reply)
        if address is not None:
            await _join(_Bytes(reply._connection), address)

    async with serve(closes, on_connect=on_connect) as front:
        yield front


async def read_head(reply: Reply) -> bytes:
    """The head of an HTTP request, or as much of it as came."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and (byte := await reply.read(1)):
        head += byte
    return head


async def connects(reply: Reply) -> Address | None:
    """An http proxy as it should be: it opens a tunnel for CONNECT."""
    head = (await read_head(reply)).decode()
    method, target, _ = head.split(" ", 2)
    assert method == "CONNECT"
    host, _, port = target.rpartition(":")
    await reply.raw(b"HTTP/1.1 200 Connection established\r\n\r\n")
    return host, int(port)


SOCKS_OK, SOCKS_REFUSED = 0, 5
NUMERIC = 1


def socks5(asked: list[Address], answer: int = SOCKS_OK, *, to: Address | None = None) -> Greeting:
    """A SOCKS5 proxy that notes what it is asked for, and gives this answer; ``to`` is where every name leads."""

    async def greet(reply: Reply) -> Address | None:
        _, methods = await reply.read(2)
        await reply.read(methods)
        await reply.raw(b"\x05\x00")
        *_, kind = await reply.read(4)
        name = await reply.read(4 if kind == NUMERIC else (await reply.read(1))[0])
        host = str(ipaddress.IPv4Address(name)) if kind == NUMERIC else name.decode()
        asked.append((host, int.from_bytes(await reply.read(2), "big")))
        await reply.raw(bytes([5, answer, 0, 1, 0, 0, 0, 0, 0, 0]))
        if answer != SOCKS_OK:
            await reply.close()
            return None
        return to or asked[-1]

    return greet


# --- names -------------------------------------------------------------------------------------------------------------------------

Lookup = Callable[[str], Awaitable[str]]


async def not_found(name: str) -> str:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def no_answer(name: str) -> str:
    await anyio.sleep_forever()
    raise AssertionError


@contextmanager
def names(lookup: Lookup) -> Iterator[list[str]]:
    """Let this answer the name lookups of this loop, in the loop itself, and give the names that were asked for.

    It stands where both backends let a program put a resolver of its own, so there is no thread, and virtual time can pass.
    """
    asked: list[str] = []

    async def getaddrinfo(host: str | bytes | None, port: int, *_: Any, **__: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else str(host)
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (await lookup(name), port))]

    if on_asyncio():
        loop: Any = asyncio.get_running_loop()
        loop.getaddrinfo = getaddrinfo
        try:
            yield asked
        finally:
            del loop.getaddrinfo
    else:
        import trio

        resolver: Any = SimpleNamespace(getaddrinfo=getaddrinfo)
        trio.socket.set_custom_hostname_resolver(resolver)
        try:
            yield asked
        finally:
            trio.socket.set_custom_hostname_resolver(None)


# --- nobody there ------------------------------------------------------------------------------------------------------------------


@contextmanager
def nobody() -> Iterator[tuple[str, socket.socket]]:
    """An address on this machine where connections are refused, and nobody else can listen; and its socket, not listening yet."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{door.getsockname()[1]}", door


def open_door(door: socket.socket, server: Server) -> None:
    """Let this server take the connections at this socket as well."""
    door.listen()
    door.settimeout(0)
    server._tasks.start_soon(server._accept, door)


@contextmanager
def nobody_answers() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """An address on this machine whose queue of connections is full, so that a SYN is not answered; and all that was ever sent there."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        listener.setblocking(False)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())

        def heard() -> bytes:
            data = b""
            with suppress(BlockingIOError):
                while True:
                    taken = sockets.enter_context(listener.accept()[0])
                    taken.setblocking(False)
                    with suppress(BlockingIOError):
                        data += taken.recv(65536)
            return data

        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
