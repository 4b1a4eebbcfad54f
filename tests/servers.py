"""A scripted HTTP/1.1 server on raw sockets, in the test's own loop on both backends, for everything a mock cannot do to a client.

    async with serve([{"paid": True}, resets, lambda request, reply: reply.trickle(json_reply({}))]) as server:
        ...                                         # a client talks to server.url
    assert server.connections_open == 0             # counted here: the server is the only judge of what a client leaves behind

The sockets are waited for directly, with no thread and no transport in between: in virtual time every byte is handled before the clock
moves on, and a FIN or RST leaves at the very moment the script says so. All times are seconds of the loop's clock.
"""

import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class SeenRequest:
    """One request as it came off the wire, whether or not anybody waited for its answer."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case; of a name sent twice, the last value."""
    body: bytes
    connection: int
    """The number of its connection, counted from 1 in the order they were opened."""
    at: float
    """When its last byte was read, in seconds of the loop's clock."""


class Reply:
    """What a script can do to one connection. Once the client is gone, writing does nothing: a server's work goes on without it."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self.used = False

    @property
    def client_gone(self) -> bool:
        """True once the connection is over, whoever ended it."""
        return self._connection.over

    async def json(self, obj: Any, status: int = 200, headers: Headers = ()) -> None:
        """Answer with ``obj`` as JSON."""
        await self.raw(json_reply(obj, status, headers))

    async def raw(self, data: bytes) -> None:
        """Send these very bytes; the connection stays open."""
        self.used = True
        await self._connection.send(data)

    async def trickle(self, data: bytes, each: float = 0.3) -> None:
        """Send one byte every ``each`` seconds, until all are sent or the client is gone."""
        for position in range(len(data)):
            if self.client_gone:
                return
            await self.raw(data[position : position + 1])
            await anyio.sleep(each)

    async def cut(self, data: bytes, at: int, *, reset: bool = False) -> None:
        """Send the first ``at`` bytes, then FIN, or RST with ``reset``."""
        await self.raw(data[:at])
        await self._connection.end(reset=reset)

    async def close(self) -> None:
        """End the connection politely, with a FIN."""
        self.used = True
        await self._connection.end()

    async def reset(self) -> None:
        """End the connection with an RST."""
        self.used = True
        await self._connection.end(reset=True)

    async def hang(self) -> None:
        """Never answer: wait until the client goes away."""
        self.used = True
        await self._connection.ended.wait()

    async def read(self, count: int) -> bytes:
        """Take the next bytes from the client, as they are; fewer than ``count`` when it went away before.

        For ``on_connect``, to end a connection in the middle of a request.
        """
        while len(self._connection.unread) < count and await self._connection.more():
            pass
        return self._connection.take(count)


Handler = Callable[[SeenRequest, Reply], Awaitable[None]]
Step = Handler | dict[str, Any] | list[Any]
"""A handler, or the JSON value to answer with status 200."""


def serve(
    script: Handler | Sequence[Step],
    *,
    close_idle: bool = False,
    close_late: bool = False,
    on_connect: Callable[[int, Reply], Awaitable[None]] | None = None,
) -> "Server":
    """A server that answers every request with ``script``, or the n-th request with its n-th step; for ``async with``.

    Args:
        script: Called with each request and the means to answer it; or one step for each request, over all connections.
        close_idle: Every answer is followed by a FIN that no header announced.
        close_late: The keep-alive race, lost by the client every time: an answered connection stays open, and ends unread, unseen and
            unanswered when the first bytes of its next request arrive.
        on_connect: Called with the connection's number before anything is read; it may end the connection there and then.
    """
    return Server(script, close_idle=close_idle, close_late=close_late, on_connect=on_connect)


class Server:
    """What ``serve`` returns. A script's own error, or a request without a step, ends the test with that error."""

    url: str
    """``http://127.0.0.1`` with a free port; known inside the block."""

    def __init__(
        self,
        script: Handler | Sequence[Step],
        *,
        close_idle: bool,
        close_late: bool,
        on_connect: Callable[[int, Reply], Awaitable[None]] | None,
    ) -> None:
        self._handler = script if callable(script) else _in_turn(script)
        self._close_idle = close_idle
        self._close_late = close_late
        self._on_connect = on_connect
        self._connections: list[Connection] = []
        self.requests: list[SeenRequest] = []

    @property
    def connections_opened(self) -> int:
        """How many connections there were, ever."""
        return len(self._connections)

    @property
    def connections_open(self) -> int:
        """How many connections neither side has ended yet. After a client's close, give the loop a moment: ``await anyio.sleep(1)``."""
        return sum(not connection.over for connection in self._connections)

    async def drop(self, number: int, *, reset: bool = False) -> None:
        """End connection ``number`` from outside the script: say, from a trace hook, just before the client writes."""
        await self._connections[number - 1].end(reset=reset)

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._accept, listener)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if exc is None:
            self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup as group:
            error = _only_error(group)
        if error is exc:
            return None
        raise error

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                await anyio.wait_readable(listener)
                connection = Connection(listener.accept()[0])
                self._connections.append(connection)
                self._tasks.start_soon(connection.listen)
                self._tasks.start_soon(self._converse, connection, len(self._connections))

    async def _converse(self, connection: "Connection", number: int) -> None:
        if self._on_connect is not None:
            await self._on_connect(number, Reply(connection))
        while request := await _read_request(connection, number):
            self.requests.append(request)
            reply = Reply(connection)
            await self._handler(request, reply)
            if not (reply.used or reply.client_gone):
                raise AssertionError(f"the script left {request.method} {request.target} without an answer")
            if self._close_late and not connection.unread:
                await connection.more()
            if self._close_idle or self._close_late:
                await connection.end()


def json_reply(obj: Any, status: int = 200, headers: Headers = ()) -> bytes:
    """A whole reply as bytes, for ``raw``, ``trickle`` and ``cut``."""
    body = json.dumps(obj).encode()
    fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode() + body


async def closes(request: SeenRequest, reply: Reply) -> None:
    """A step: read the whole request, then FIN."""
    await reply.close()


async def resets(request: SeenRequest, reply: Reply) -> None:
    """A step: read the whole request, then RST."""
    await reply.reset()


async def hangs(request: SeenRequest, reply: Reply) -> None:
    """A step: read the whole request and never answer."""
    await reply.hang()


def _in_turn(steps: Sequence[Step]) -> Handler:
    waiting = iter(steps)

    async def handler(request: SeenRequest, reply: Reply) -> None:
        step = next(waiting, None)
        if step is None:
            raise AssertionError(f"the script has no step left for {request.method} {request.target}")
        await (step(request, reply) if callable(step) else reply.json(step))

    return handler


class Connection:
    """One accepted socket. ``listen`` alone reads it and alone closes it, so that the end of either side is noticed at once."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a second write waits for the kernel's own clock
        self._socket = sock
        self._listening = anyio.CancelScope()
        self._news = anyio.Event()
        self.unread = bytearray()
        self.ended = anyio.Event()

    @property
    def over(self) -> bool:
        return self.ended.is_set()

    async def listen(self) -> None:
        try:
            with self._listening:
                while data := await self._receive():
                    self.unread += data
                    self._news.set()
        finally:
            self._socket.close()
            self.ended.set()
            self._news.set()

    async def _receive(self) -> bytes:
        await anyio.wait_readable(self._socket)
        try:
            return self._socket.recv(65536)
        except ConnectionError:  # the client's RST is an end like any other
            return b""

    async def more(self) -> bool:
        """Wait for bytes that were not there before; False when there will be none."""
        before = len(self.unread)
        if not self.over:
            self._news = anyio.Event()
            await self._news.wait()
        return len(self.unread) > before

    def take(self, count: int) -> bytes:
        taken = bytes(self.unread[:count])
        del self.unread[:count]
        return taken

    async def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left and not self.over:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:  # megabytes are under way: rare enough for a short wait instead of a second file watcher
                await anyio.sleep(0.001)
            except ConnectionError:  # an RST that `listen` is about to read
                break
        await anyio.lowlevel.checkpoint()

    async def end(self, *, reset: bool = False) -> None:
        """Close with FIN or RST; what the client sent meanwhile is forgotten."""
        if reset and not self.over:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._listening.cancel()
        await self.ended.wait()
        self.unread.clear()


async def _read_request(connection: Connection, number: int) -> SeenRequest | None:
    """The next request; None when the connection ended before it was whole. One that arrived whole counts, even if the client left."""
    while (size := connection.unread.find(b"\r\n\r\n") + 4) < 4:
        if not await connection.more():
            return None
    start, *lines = connection.unread[: size - 4].decode("latin-1").split("\r\n")
    method, target, _ = start.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", 0))
    while len(connection.unread) < size + length:
        if not await connection.more():
            return None
    body = connection.take(size + length)[size:]
    return SeenRequest(method, target, headers, body, number, anyio.current_time())


def _only_error(error: BaseException) -> BaseException:
    """What a group of groups comes down to when it holds one error, so that tests see that error itself; else the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
