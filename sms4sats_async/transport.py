"""One request to one value, or to one of our errors: lanes, replies, and what may be repeated. The only room that knows httpx.

A **lane** is one ``httpx.AsyncHTTPTransport`` that may hold one connection. Requests go straight to a lane, past ``httpx.AsyncClient``:
its pool costs more with each connection it holds, and a native ``task.cancel()`` leaves that pool with slots that never come back
(httpcore issue 1093). A lane that saw any exception is closed and never used again, so nothing of that kind can add up.
"""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import email.utils
import enum
import functools
import importlib.util
import itertools
import json
import logging
import math
import random
import re
import ssl
import sys
import urllib.parse
import urllib.request
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Generic, NoReturn, TypeGuard, TypeVar, cast

import anyio
import httpx

from sms4sats_async.errors import (
    APIError,
    AuthenticationError,
    DecodeError,
    OutcomeUnknown,
    RateLimited,
    Sms4SatsError,
    TransportError,
    harmless,
    printable,
)
from sms4sats_async.models import mask
from sms4sats_async.shelter import Sheltered, on_asyncio, one_of, sheltered
from sms4sats_async.tracing import CANCELLED, Exchange

AsyncBaseTransport = httpx.AsyncBaseTransport

T = TypeVar("T")

STATUS_LIMIT = 64 * 1024
"""The longest reply that is read, in bytes, where one order or one number is told."""
LIST_LIMIT = 8 * 1024 * 1024
"""The longest reply that is read, in bytes, where a list is told."""
GRACE = 10.0
"""How many seconds a request that spends may go on after its caller was cancelled."""
LONGEST_RETRY_AFTER = 60.0
"""How many seconds a ``Retry-After`` is obeyed at the most."""
_KEEPALIVE = 60.0
"""How many seconds a lane keeps its connection while nothing is asked: longer than the longest pace of a watcher."""
_CLOSE_TIMEOUT = 5.0
_CLOSED = "the client is closed"
_SECRET_FIELDS = frozenset({"orderId", "phone", "message", "webhookUrl"})
_MAX_WORDS = 300
_LONGEST_QUERY = 2_000
_NO_BODY = httpx.ByteStream(b"")
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 8.0
_CONNECTING = httpx.ConnectError | httpx.ConnectTimeout
"""What a lane of ours raises while it has no connection yet, also where a mock speaks for it."""

_logger = logging.getLogger(__name__)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_json = json.JSONDecoder(parse_constant=_refuse)


class Repeat(enum.Enum):
    """What may be repeated. It follows from what an endpoint does, not from its HTTP verb."""

    READ = enum.auto()
    """Changes nothing, or the same thing again: repeated while attempts are left. /cancelorder is one of these."""
    INVOICE = enum.auto()
    """Costs nothing until somebody pays: repeated when surely not sent, and once more when its outcome is unknown."""
    SPEND = enum.auto()
    """Spends at once: repeated only when surely not sent."""


class Call(Generic[T]):
    """One endpoint, called with these arguments.

    Attributes:
        decode: turns the reply's JSON into the value; it raises ``ValueError`` for a reply that breaks the API's promise. It runs
            as soon as the reply is read, before anything else can be cancelled.
        keyed: does the call need the API key? No other call carries it.
        limit: the longest reply in bytes.
        json: False when only the HTTP status counts; ``decode`` then gets ``None``.
        order_id: the order that the call is about.
        salvage: finds an order's id in a part of a reply.
        doubt: what may have happened when the outcome of a spending call is unknown.
        key: the client's key; sent only if ``keyed``, and told to nobody.
        recover: told of an order's id that was read, when its caller was cancelled and the rest of the reply is of no use.
        in_doubt: it spends, was sent, and nobody knows what came of it.
        requests: how many requests were made for it.
    """

    __slots__ = (
        "body",
        "decode",
        "doubt",
        "in_doubt",
        "json",
        "key",
        "keyed",
        "limit",
        "method",
        "order_id",
        "path",
        "query",
        "recover",
        "repeat",
        "requests",
        "salvage",
    )

    def __init__(
        self,
        method: str,
        path: str,
        decode: Callable[[Any], T],
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        keyed: bool = False,
        repeat: Repeat = Repeat.READ,
        limit: int = STATUS_LIMIT,
        json: bool = True,
        order_id: str | None = None,
        salvage: Callable[[bytes], str | None] | None = None,
        doubt: str = "",
    ) -> None:
        self.method = method
        self.path = path
        self.decode = decode
        self.query = query or {}
        self.body = body
        self.keyed = keyed
        self.repeat = repeat
        self.limit = limit
        self.json = json
        self.order_id = order_id
        self.salvage = salvage
        self.doubt = doubt
        self.key: Secret | None = None
        self.recover: Callable[[str], object] | None = None
        self.in_doubt = False
        self.requests = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def without_secrets(self, text: str) -> str:
        """Blot out what we sent and the server may repeat, in any of the forms that it may take on the way."""
        sent = {**self.query, **(self.body or {})}
        secrets = [value for name, value in sent.items() if name in _SECRET_FIELDS and isinstance(value, str)]
        if self.key is not None:
            secrets.append(self.key.reveal())
        for secret in secrets:
            forms = {secret, secret.removeprefix("+"), json.dumps(secret)[1:-1], printable(secret), urllib.parse.quote(secret, safe="")}
            for form in sorted(forms, key=len, reverse=True):
                if len(form) > 3:  # noqa: PLR2004 - "hi" is in many words
                    text = re.sub(re.escape(form), "..", text, flags=re.IGNORECASE)
        return text


class _Request(httpx.Request):
    """A request whose repr tells no address: an order's id is in it."""

    def __repr__(self) -> str:
        return f"<Request({self.method!r}, {self.url.path!r})>"


class Secret:
    """A text that shows itself in no repr, log line or pickle."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('..')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client and its api_key cannot be pickled or copied")


class Reply:
    """A reply, whole: everything about it is decided without a loop."""

    __slots__ = ("body", "headers", "status_code")

    def __init__(self, status_code: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status_code = status_code
        self.headers = headers
        self.body = body


class _Outcome(Generic[T]):
    """What one attempt came to.

    Attributes:
        sent: may the server have seen the request? True unless our own lane can prove that it has not.
        witnessed: our lane has told of its connection. One that a mock answers for tells nothing, and so proves nothing.
        status_code: the HTTP status, once a reply has begun to come.
        concluded: ``value`` or ``error`` says what the reply means.
        stale: a kept connection ended as the request was sent, before any reply.
        untrusted: the other side's certificate was refused, and does not get better.
        abandoned: the caller is gone, and nothing was sent: nothing must be sent any more.
        chunks: what has come of the body; bytes, if the transport keeps its promise.
        seconds: how long it took.
    """

    __slots__ = (
        "abandoned",
        "chunks",
        "concluded",
        "error",
        "seconds",
        "sent",
        "stale",
        "status_code",
        "untrusted",
        "value",
        "witnessed",
    )

    def __init__(self, *, sent: bool) -> None:
        self.sent = sent
        self.witnessed = False
        self.status_code: int | None = None
        self.concluded = False
        self.stale = False
        self.untrusted = False
        self.abandoned = False
        self.chunks: list[Any] = []
        self.seconds = 0.0
        self.value: T | None = None
        self.error: Sms4SatsError | None = None


class ClosedError(RuntimeError):
    """The client was closed: before the call, or under it."""


class _Lane:
    """One connection, made when first needed.

    ``stream`` is the connection from its first moment on: httpcore forgets it when a SOCKS proxy says no, or when it is cancelled in a
    TLS handshake, and would leave it to the garbage collector.
    """

    __slots__ = ("own", "stream", "transport", "used")

    def __init__(self, transport: httpx.AsyncBaseTransport, *, own: bool) -> None:
        self.transport = transport
        self.stream: Any = None
        self.own = own
        self.used = False


class Transport:
    """Lanes to one origin, and the rules of asking over them.

    Args:
        base_url: https, or http to a loopback or .onion host; a path in it is kept.
        timeout: the total for one attempt in seconds, from the moment its lane is taken.
        attempts: how often a call is tried, the first time included.
        transport: any httpx transport, shared by all lanes and closed by the caller.
        ssl_context: what verifies the server; ``None`` for httpx's own, which heeds the environment if ``trust_env``.
        on_exchange: told of each request, once, when it is over.
    """

    def __init__(
        self,
        *,
        api_key: Secret | None,
        base_url: str,
        timeout: float,
        max_connections: int,
        attempts: int,
        proxy: str | None,
        trust_env: bool,
        transport: httpx.AsyncBaseTransport | None,
        ssl_context: ssl.SSLContext | None = None,
        on_exchange: Callable[[Exchange], object] | None = None,
    ) -> None:
        self._base = parse_base_url(base_url)
        self._prefix = str(self._base).rstrip("/")
        self._key = api_key
        self._headers = httpx.Headers(
            {
                "Host": self._base.netloc.decode("ascii"),
                "Accept-Encoding": "identity",
                "User-Agent": "sms4sats-async",
            }
        )
        self._timeout = timeout
        self._timeouts = {"timeout": {"connect": timeout / 2, "read": None, "write": None, "pool": None}}
        self._attempts = attempts
        self._proxy = None if transport is not None else _choose_proxy(self._base, proxy, trust_env=trust_env)
        if self._proxy is not None and self._key is not None and _reads_along(self._proxy, self._base):
            raise ValueError("proxy: a plain http proxy on another machine would read the api_key on its way to a plain http base_url")
        self._trust_env = trust_env
        self._transport = transport
        self.max_connections = max_connections
        self._ssl_context = ssl_context
        self._on_exchange = on_exchange
        self._current_loop: Callable[[], object]
        self._clock: Callable[[], float]
        self._loop: object = None
        self._permits: anyio.Semaphore | None = None
        self._free: list[_Lane] = []
        self._flights: dict[anyio.CancelScope, bool] = {}
        self._landed: anyio.Event | None = None
        self._naps: set[anyio.CancelScope] = set()
        self.closed = False

    @property
    def base_url(self) -> str:
        """The origin, and the path in it, without a slash at the end."""
        return self._prefix

    @property
    def has_key(self) -> bool:
        """Was an API key given?"""
        return self._key is not None

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return len(self._flights)

    # --- calls -----------------------------------------------------------------------------------------------------------------

    async def send(self, call: Call[T], *, attempts: int | None = None, departing: Callable[[], Awaitable[None]] | None = None) -> T:
        """Make the call, again where that is safe, and return its value.

        It is tried ``attempts`` times at the most, as often as the client was told by default; a read that met a connection which the
        server had just closed is sent once more, and not counted. ``departing`` is awaited before each request, with its lane taken.

        Raises:
            Sms4SatsError: as :mod:`sms4sats_async.errors` describes it, with the call's order id.
            ClosedError: the client is closed.
        """
        most = self._attempts if attempts is None else attempts
        call.key = self._key
        request = self._request(call)
        unknown = 0
        fresh = False
        for attempt in itertools.count(1):
            outcome = await self._attempt(call, request, fresh=fresh, departing=departing)
            if outcome.stale and call.repeat is Repeat.READ:
                # The server closed a kept connection just as we used it: no fault of anybody's, so it does not count.
                outcome = await self._attempt(call, request, fresh=True, departing=departing)
            error = outcome.error
            if error is None:
                return outcome.value  # type: ignore[return-value]  # no error, so decode has returned a T
            error.order_id = error.order_id or call.order_id
            if outcome.sent and call.repeat is not Repeat.READ and not _decided(error):
                unknown += 1
            if attempt >= most or outcome.untrusted or not _may_repeat(call.repeat, error, sent=outcome.sent, unknown=unknown):
                raise _final(call, error, unknown=unknown)
            pause = functools.partial(self.pause, _backoff(attempt, error))
            await (_unspent(call, pause) if call.repeat is Repeat.SPEND else pause())
            fresh = True
        raise AssertionError("count() does not end")

    async def _attempt(
        self, call: Call[T], request: httpx.Request, *, fresh: bool, departing: Callable[[], Awaitable[None]] | None
    ) -> _Outcome[T]:
        spends = call.repeat is Repeat.SPEND
        if spends:
            lane = await _unspent(call, lambda: self._take(fresh=True))
        else:
            lane = await self._take(fresh=fresh)
        if departing is not None:
            await self._departed(lane, departing)
        flight = anyio.CancelScope()
        self._flights[flight] = spends  # from here on aclose() waits for it
        outcome: _Outcome[T] = _Outcome(sent=not lane.own or call.repeat is Repeat.READ)
        if spends:
            await self._spend(lane, flight, call, request, outcome)
        else:
            await self._exchange(lane, flight, call, request, outcome)
        return outcome

    async def _departed(self, lane: _Lane, departing: Callable[[], Awaitable[None]]) -> None:
        """Wait until the request may leave; give its lane back if it does not."""
        try:
            await departing()
            self._check_open()
        except BaseException:
            assert self._permits is not None  # a lane was taken, so there are permits  # noqa: S101
            self._permits.release()
            if not self.closed:
                self._free.append(lane)
            else:
                await _close(lane)
            raise

    async def _spend(self, lane: _Lane, flight: anyio.CancelScope, call: Call[T], request: httpx.Request, outcome: _Outcome[T]) -> None:
        """Ask once, and to the end, whatever happens to the caller, unless nothing was sent yet."""
        shelter = Sheltered(lambda: self._exchange(lane, flight, call, request, outcome))

        def grace() -> float:
            outcome.abandoned = not outcome.sent
            return 0.0 if outcome.abandoned and outcome.witnessed else GRACE

        try:
            await shelter.run(grace)
        except BaseException as interruption:  # a cancellation; on trio, a Ctrl-C as well
            if not outcome.sent:
                interruption.add_note(f"{call}: nothing was sent")
            elif outcome.value is None:
                note = f"{call}: {call.doubt}; {outcome.error or f'no reply within {GRACE:g} s of the cancellation'}"
                interruption.add_note(note)
                _logger.warning("cancelled in %s", note)
                if outcome.error is not None and outcome.error.order_id is not None and call.recover is not None:
                    call.recover(outcome.error.order_id)
            raise
        finally:
            call.in_doubt |= outcome.sent and outcome.value is None and not (outcome.error is not None and _decided(outcome.error))
        if shelter.error is not None:
            raise shelter.error

    async def _exchange(self, lane: _Lane, flight: anyio.CancelScope, call: Call[T], request: httpx.Request, outcome: _Outcome[T]) -> None:
        """Ask once over this lane, fill in the outcome, and give the lane back, or close it after any exception."""
        whole, theirs = False, sys.exception()  # what the caller is handling: not ours to read or to touch
        call.requests += 1
        began = self._clock()
        flight.deadline = began + self._timeout
        try:
            with flight:
                try:
                    whole = await self._ask(lane, call, request, outcome)
                except BaseExceptionGroup as group:  # on trio, httpcore's connect raises a group of nothing but Cancelled
                    raise one_of(group) from None
                except anyio.get_cancelled_exc_class() as cancellation:
                    _forget_frames(cancellation, theirs)
                    raise
            if flight.cancelled_caught and not outcome.concluded:
                ground = "the client was closed" if self.closed else f"no whole reply within {self._timeout:g} s"
                outcome.error = TransportError(f"{call}: {ground}")
        except Exception as error:  # noqa: BLE001 - whatever comes out of a transport, httpx's or not, is a TransportError
            if not outcome.concluded:
                unanswered = outcome.status_code is None
                outcome.stale = lane.used and unanswered and isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
                outcome.witnessed = outcome.witnessed or isinstance(error, _CONNECTING)
                outcome.untrusted = _is_tls(error, theirs)
                outcome.error = _transport_error(call, error, theirs)
        finally:
            outcome.sent = outcome.sent or not outcome.witnessed
            outcome.seconds = self._clock() - began
            await self._arrive(lane, flight, call, outcome, whole=whole)
        if outcome.error is not None and outcome.error.order_id is None and call.salvage is not None:
            outcome.error.order_id = call.salvage(b"".join(chunk for chunk in outcome.chunks if isinstance(chunk, bytes)))
        if not outcome.concluded and call.repeat is not Repeat.SPEND:
            self._check_open()

    async def _arrive(self, lane: _Lane, flight: anyio.CancelScope, call: Call[T], outcome: _Outcome[T], *, whole: bool) -> None:
        """Give the lane back, or close it, and tell of the request."""
        lane.used = lane.own
        try:
            if not whole or self.closed:
                await _close(lane)
            else:
                self._free.append(lane)
        finally:
            self._release(flight)
            if self._on_exchange is not None:
                _tell(self._on_exchange, call, outcome)

    async def _ask(self, lane: _Lane, call: Call[T], request: httpx.Request, outcome: _Outcome[T]) -> bool:
        """Return True when the reply was read to its end, so that the lane can be used again."""
        if lane.own:
            request.extensions = {**self._timeouts, "trace": _gate(lane, outcome)}
        response = await lane.transport.handle_async_request(request)
        outcome.sent, outcome.status_code = True, response.status_code
        response.headers.encoding = "latin-1"  # which httpx would else find out at each look into them
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)  # httpx's promise for an async transport  # noqa: S101
        whole = False
        try:
            whole = await _read(lane, stream, call.limit, outcome.chunks)
            _conclude(call, Reply(response.status_code, response.headers, b"".join(outcome.chunks)), outcome, whole=whole)
            if whole:
                await stream.aclose()
        finally:
            if not whole and not lane.own:  # our own lane is closed as a whole
                await sheltered(lambda: _quietly(stream.aclose))
        return whole

    def _request(self, call: Call[Any]) -> httpx.Request:
        try:
            url = _url(self._prefix + call.path, *call.query.items())
            stream = _NO_BODY if call.body is None else None  # given a stream, httpx adds no headers: there are none to add
            request = _Request(call.method, url, headers=self._headers, json=call.body, stream=stream, extensions=self._timeouts)
        except (httpx.InvalidURL, ValueError) as error:  # half a character, thousands of digits, an id as long as a book
            raise ValueError(f"{call}: an argument cannot be sent: {type(error).__name__}") from None
        if call.body is None:
            request.read()
        else:
            request.stream = _Body(request.content)
        if call.path == "/cancelorder":
            request.headers["Cache-Control"] = "no-store"
        if call.keyed and call.key is not None:
            request.headers["X-API-Key"] = call.key.reveal()
        return request

    # --- lanes -----------------------------------------------------------------------------------------------------------------

    async def _take(self, *, fresh: bool) -> _Lane:
        """Wait for a lane, in order, and return the one that was used last, or a fresh one."""
        self._check_open()
        permits = self._permits_of_this_loop()
        try:
            permits.acquire_nowait()
        except anyio.WouldBlock:
            await self._queue(permits)
        try:
            self._check_open()
            lane = self._free.pop() if self._free else None
            if lane is not None and lane.used and fresh:
                await _close(lane)
                self._check_open()
                lane = None
            return self._open() if lane is None else lane
        except BaseException:
            permits.release()
            raise

    async def _queue(self, permits: anyio.Semaphore) -> None:
        """Wait for a permit, until the client is closed."""
        admitted = False
        with anyio.CancelScope() as wait:
            self._naps.add(wait)
            try:
                await permits.acquire()
                admitted = True
            finally:
                self._naps.discard(wait)
        if not admitted:
            raise ClosedError(_CLOSED)

    def _open(self) -> _Lane:
        if self._transport is not None:
            return _Lane(self._transport, own=False)
        try:
            if self._ssl_context is None:  # plain http verifies nothing, and need not read the authorities for it
                self._ssl_context = httpx.create_ssl_context(verify=self._base.scheme == "https", trust_env=self._trust_env)
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE)
            return _Lane(httpx.AsyncHTTPTransport(verify=self._ssl_context, limits=limits, proxy=self._proxy), own=True)
        except Exception as error:
            raise TransportError(f"no connection can be made: {printable(_ground(error))}") from error

    def _permits_of_this_loop(self) -> anyio.Semaphore:
        if self._permits is None:
            self._current_loop, self._loop, self._clock = _loop_of_this_task()
            self._permits = anyio.Semaphore(self.max_connections)
        else:
            self.check_loop()
        return self._permits

    def check_loop(self) -> None:
        """Raise ``RuntimeError`` if the client is of another event loop than the one that runs now."""
        if self._permits is not None and self._loop != self._current_loop():
            raise RuntimeError("this client is of another event loop: make one client for each loop")

    def _release(self, flight: anyio.CancelScope) -> None:
        del self._flights[flight]
        if self._landed is not None:
            self._landed.set()
        assert self._permits is not None  # a lane was taken, so there are permits  # noqa: S101
        self._permits.release()

    # --- closing ---------------------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Refuse further calls, wake every pause, end the reads under way, let a spending call come to its end, close all lanes."""
        if not self.closed:
            self.check_loop()
        self.closed = True
        for nap in self._naps:
            nap.cancel()
        await sheltered(self._land)

    async def _land(self) -> None:
        await self._until_landed(lambda spends: spends, GRACE)
        for scope in self._flights:
            scope.cancel()
        await self._until_landed(lambda _: True, _CLOSE_TIMEOUT)
        while self._free:
            await _close(self._free.pop())

    async def _until_landed(self, counts: Callable[[bool], bool], seconds: float) -> None:
        with anyio.move_on_after(seconds):
            for scope, spends in self._flights.items():
                if not counts(spends):
                    scope.cancel()
            while any(counts(spends) for spends in self._flights.values()):
                if self._landed is None or self._landed.is_set():  # another aclose() may wait for it as well
                    self._landed = anyio.Event()
                await self._landed.wait()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError(_CLOSED)

    async def pause(self, seconds: float) -> None:
        """Sleep; raise :class:`ClosedError` as soon as the client is closed."""
        await self.nap(anyio.CancelScope(deadline=anyio.current_time() + seconds))

    async def nap(self, scope: anyio.CancelScope) -> None:
        """Sleep until the scope's deadline, or until it is cancelled; raise :class:`ClosedError` once the client is closed."""
        self._check_open()
        self._naps.add(scope)
        try:
            with scope:
                await anyio.sleep_forever()
        finally:
            self._naps.discard(scope)
        self._check_open()


def _loop_of_this_task() -> tuple[Callable[[], object], object, Callable[[], float]]:
    """How to tell the running loop, which it is, and its clock; each is asked at every call, and asyncio's own answers are quick."""
    if on_asyncio():
        import asyncio  # noqa: PLC0415 - a loop of it is running

        return asyncio._get_running_loop, asyncio.get_running_loop(), asyncio.get_running_loop().time  # noqa: SLF001 - public but in name
    from anyio.lowlevel import current_token  # noqa: PLC0415 - with its first request a client can wait for it

    return current_token, current_token(), anyio.current_time


class _Body(httpx.AsyncByteStream):
    """A request's body in one piece. httpx's own is an async generator, which a cancelled request leaves to the collector."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Pieces(self._body)


class _Pieces(AsyncIterator[bytes]):
    def __init__(self, body: bytes) -> None:
        self._left = [body]

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


@functools.lru_cache(maxsize=1024)
def _url(address: str, *query: tuple[str, str]) -> httpx.URL:
    """Make the address of a call; more orders than are kept here are watched at once."""
    if not query:
        return httpx.URL(address)
    return with_query(_url(address), "&".join([f"{name}={urllib.parse.quote(value, safe='')}" for name, value in query]))


def with_query(endpoint: httpx.URL, query: str) -> httpx.URL:
    """Return an address with this query, which is quoted already. Parsing each anew would cost a tenth of a call.

    That takes a part of httpx that has no public name; where it is another one, the address is parsed.
    """
    parts: Any = getattr(endpoint, "_uri_reference", None)
    if hasattr(parts, "_replace") and len(query) <= _LONGEST_QUERY:
        url = httpx.URL(endpoint)
        url._uri_reference = parts._replace(query=query)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if url.raw_path == endpoint.raw_path + b"?" + query.encode("ascii"):
            return url
    return httpx.URL(f"{endpoint}?{query}")


async def _unspent(call: Call[Any], wait: Callable[[], Awaitable[T]]) -> T:
    """Wait before a call that spends; who is cancelled here, or was already, is told that nothing was spent."""
    try:
        await anyio.sleep(0)  # noqa: ASYNC115 - there may be nothing to wait for
        return await wait()
    except anyio.get_cancelled_exc_class() as cancellation:
        cancellation.add_note(f"{call}: nothing was sent")
        raise


async def _close(lane: _Lane) -> None:
    """Close a lane of ours, whatever happens to the caller meanwhile, and bury what goes wrong: the lane is gone in any case."""
    if lane.own:

        async def close() -> None:
            await _quietly(lane.transport.aclose)
            if lane.stream is not None:
                await _quietly(lane.stream.aclose)

        await sheltered(close)


async def _quietly(close: Callable[[], Awaitable[None]]) -> None:
    theirs = sys.exception()
    with anyio.move_on_after(_CLOSE_TIMEOUT):
        try:
            await close()
        except Exception as error:  # noqa: BLE001
            _logger.debug("closing a connection: %s", type(error).__name__)
            _forget_frames(error, theirs)


def _tell(on_exchange: Callable[[Exchange], object], call: Call[Any], outcome: _Outcome[Any]) -> None:
    failure = type(outcome.error).__name__ if outcome.error is not None else None if outcome.concluded else CANCELLED
    exchange = Exchange(
        method=call.method,
        path=call.path,
        order=None if call.order_id is None else mask(call.order_id),
        attempt=call.requests,
        status_code=outcome.status_code,
        failure=failure,
        seconds=outcome.seconds,
        size=sum(len(chunk) for chunk in outcome.chunks if isinstance(chunk, bytes)),
    )
    try:
        on_exchange(exchange)
    except Exception:
        _logger.exception("on_exchange failed for %s", call)


def _gate(lane: _Lane, outcome: _Outcome[Any]) -> Callable[[str, Mapping[str, Any]], Any]:
    """An httpx trace hook that stands where a request's first byte is about to leave, and knows from then on that it may have."""

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        outcome.witnessed = True
        # What cleans up after a proxy's CONNECT is let go on: it is a cancellation that it cleans up after, and that must not be replaced.
        if outcome.abandoned and not outcome.sent and event.endswith(".started") and not event.endswith(".response_closed.started"):
            raise TransportError("nothing was sent")
        # A proxy's CONNECT carries nothing of ours.
        if event.endswith(".send_request_headers.started") and info["request"].method != b"CONNECT":
            outcome.sent = True
        elif event.endswith(".connect_tcp.complete"):
            lane.stream = info["return_value"]

    return trace


async def _read(lane: _Lane, stream: httpx.AsyncByteStream, limit: int, chunks: list[Any]) -> bool:
    """Read the body as it comes over the wire, up to the limit, and say whether that was all of it."""
    size, theirs = 0, sys.exception()
    parts: Any = aiter(stream)
    try:
        async for chunk in parts:
            size += len(chunk)
            if size <= limit:
                chunks.append(chunk)
            elif size <= 4 * limit:  # the next read fails then, and so ends every generator between here and the socket
                await (lane.transport if lane.own else stream).aclose()
            else:
                break
    except Exception as error:
        if size <= limit:
            raise
        _forget_frames(error, theirs)
    if size > limit and hasattr(parts, "aclose"):
        await parts.aclose()
    return size <= limit


# --- replies: pure -----------------------------------------------------------------------------------------------------------------


def _conclude(call: Call[T], reply: Reply, outcome: _Outcome[T], *, whole: bool = True) -> None:
    """Fill in what a reply comes to."""
    try:
        if not whole:
            raise _decode_error(call, reply, f"more than {call.limit} bytes")
        outcome.value = _value(call, read_reply(call, reply), reply)
    except Sms4SatsError as error:
        outcome.error = error
        error.__traceback__ = error.__context__ = None  # both would keep the whole reply alive as long as the error
    outcome.concluded = True


def _value(call: Call[T], payload: object, reply: Reply) -> T:
    try:
        return call.decode(payload)
    except ValueError as error:
        problem = _decode_error(call, reply, str(error))
        problem.order_id = getattr(error, "order_id", None)
        raise problem from None


def read_reply(call: Call[Any], reply: Reply) -> Any:
    """Return the JSON of a reply that says yes.

    Raises:
        APIError: the server said no, by its HTTP status or, whatever that is, with ``"status": "error"``.
        DecodeError: the reply is no JSON, or a redirect (which is not followed: it would carry the key elsewhere).
    """
    status = reply.status_code
    if not call.json and 200 <= status < 300:  # noqa: PLR2004
        return None
    if 300 <= status < 400:  # noqa: PLR2004
        raise _decode_error(call, reply, f"a redirect to {_host_of(reply.headers.get('location', ''))}")
    refused = status >= 400  # noqa: PLR2004
    try:
        payload = _parse(call, reply)
    except DecodeError as error:
        if not refused:
            raise
        raise _refusal(call, reply, None, error.excerpt) from None
    reason = _reason(payload)
    if refused or _says_no(payload, reason):
        raise _refusal(call, reply, reason, "")
    return payload


def _host_of(location: str) -> str:
    try:
        host = urllib.parse.urlsplit(location).hostname
    except ValueError:
        host = None
    return harmless(host or "nowhere")[:80]


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _says_no(payload: object, reason: str | None) -> bool:
    if not _is_object(payload):
        return False
    return str(payload["status"]).lower() == "error" if "status" in payload else reason is not None


def _parse(call: Call[Any], reply: Reply) -> Any:
    try:
        body = _inflate(reply, call.limit)
        return _json.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except zlib.error as error:
        raise _decode_error(call, reply, f"broken compression ({error})") from None
    except (ValueError, RecursionError):  # ValueError: no JSON, no text, or a number of thousands of digits
        kind = reply.headers.get("content-type", "no content type")
        raise _decode_error(call, reply, "an empty body" if not reply.body else f"not JSON but {harmless(kind)[:80]}") from None


def _inflate(reply: Reply, limit: int) -> bytes:
    """Undo a compression that we did not ask for, up to the limit: a small bomb must not become a large one."""
    encoding = reply.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return reply.body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise zlib.error(f"unknown encoding {printable(encoding)[:20]}")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: zlib finds out by itself which of the two it is
    body = inflater.decompress(reply.body, limit + 1)
    if len(body) > limit:
        raise zlib.error(f"more than {limit} bytes unpacked")
    if not inflater.eof:
        raise zlib.error("cut off")
    return body


def _reason(payload: object) -> str | None:
    """The server's own words for its no; ``None`` when it has none."""
    reason: Any = payload.get("reason") if _is_object(payload) else None
    if reason is None or reason == "":
        return None
    return (reason if isinstance(reason, str) else json.dumps(reason))[:10_000]


def _refusal(call: Call[Any], reply: Reply, reason: str | None, excerpt: str) -> APIError:
    status = reply.status_code
    words = excerpt or "no reason given"
    if reason is not None:  # blotted first: half of a secret would not be found
        words = harmless(call.without_secrets(reason)[:_MAX_WORDS])
        reason = reason[:_MAX_WORDS]
    text = f"{call}: HTTP {status}: {words}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimited(text, status_code=status, reason=reason, retry_after=retry_after(reply.headers))
    names_key = status in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST) and re.search(r"api[-_ ]?key", reason or "", re.IGNORECASE)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or names_key:
        return AuthenticationError(text, status_code=status, reason=reason)
    return APIError(text, status_code=status, reason=reason)


def _decode_error(call: Call[Any], reply: Reply, problem: str) -> DecodeError:
    shown = excerpt(reply.body, call.without_secrets)
    text = f"{call}: HTTP {reply.status_code}: {call.without_secrets(problem)}" + (f": {shown}" if shown else "")
    return DecodeError(text, status_code=reply.status_code, excerpt=shown)


def excerpt(body: bytes, blot: Callable[[str], str] = str) -> str:
    """Return the first 80 characters of a body, escaped, with everything that could be a code, a number, an id or a key blotted out."""
    text = body[:4096].decode(json.detect_encoding(body), "replace").lstrip("\ufeff").replace("\0", "")
    text = blot(text)
    if text.lstrip()[:1] in ("{", "[") or re.search(r'"\s*:', text):  # of what was meant as JSON, show the shape and the names
        text = re.sub(
            r'"(?:[^"\\]|\\.?)*("\s*:|"|$)', lambda string: string[0] if string[1].endswith(":") else '".."', text, flags=re.DOTALL
        )
    text = re.sub(r"[0-9A-Za-z+/=_-]{16,}|[0-9][0-9 ]{2,}", "..", text)
    return printable(text[:80])


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After`` in seconds: a number, or a date, which is held against the reply's own ``Date``; ``None`` if it is neither."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        until, now = _http_date(text), _http_date(headers.get("date", ""))
        seconds = math.nan if until is None or now is None else (until - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _http_date(text: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else None


# --- repeating: pure but for the dice ----------------------------------------------------------------------------------------------


def _unanswered(error: Sms4SatsError) -> bool:
    """No answer of the service itself: nothing came, nothing that can be read, or an error page (502 to 504: a gateway's)."""
    return isinstance(error, TransportError | DecodeError) or (
        isinstance(error, APIError) and error.reason is None and error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
    )


def _decided(error: Sms4SatsError) -> bool:
    """The server's decision about an order: a refusal with a reason in JSON, or a plain "too many requests"."""
    return isinstance(error, RateLimited) or (isinstance(error, APIError) and error.reason is not None)


def _may_repeat(repeat: Repeat, error: Sms4SatsError, *, sent: bool, unknown: int) -> bool:
    if repeat is Repeat.SPEND:
        return not sent
    if isinstance(error, RateLimited) or not sent:
        return True
    if repeat is Repeat.INVOICE:
        return unknown == 1 and _unanswered(error)
    return _unanswered(error)


def _final(call: Call[Any], error: Sms4SatsError, *, unknown: int) -> Sms4SatsError:
    """The error that the caller sees."""
    if call.repeat is not Repeat.SPEND or not unknown:
        return error
    final = OutcomeUnknown(f"{error}; {call.doubt}: look before you repeat it", order_id=error.order_id)
    final.__cause__ = error
    return final


def _backoff(attempt: int, error: Sms4SatsError) -> float:
    """Seconds until the next attempt: doubling, with a spread, or as the server asks."""
    delay = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1)  # noqa: S311
    if isinstance(error, RateLimited) and error.retry_after is not None:
        return max(delay, min(error.retry_after, LONGEST_RETRY_AFTER))
    return delay


def _transport_error(call: Call[Any], error: Exception, theirs: BaseException | None = None) -> TransportError:
    """Ours for whatever a transport raised, with the ground of it, and with no traceback: those hold requests, and requests secrets."""
    tells = [link for link in _chain(error, theirs) if _tells_secret(call, link)]
    ground = call.without_secrets(_ground(error, theirs))
    ground = (harmless(ground) if tells else printable(ground))[:_MAX_WORDS]
    date = f"; is this machine's date right? It says {datetime.now().astimezone():%Y-%m-%d}" if _is_tls(error, theirs) else ""
    ours = TransportError(f"{call}: {ground}{date}")
    _forget_frames(error, theirs)
    if not tells:  # else it would tell wherever a traceback is printed
        ours.__cause__ = error
    return ours


def _tells_secret(call: Call[Any], link: BaseException) -> bool:
    """Does an exception's text hold a secret of this call, or, unless it is the operating system's, what looks like one?"""
    text = str(link)
    return call.without_secrets(text) != text or (not isinstance(link, OSError) and harmless(text) != printable(text))


def _chain(error: BaseException, theirs: BaseException | None = None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on, groups opened, each once."""
    seen: set[int] = {id(theirs)}
    waiting = [error]
    while waiting:
        link = waiting.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting.extend(inner for inner in (link.__context__, link.__cause__) if inner is not None)
        if isinstance(link, BaseExceptionGroup):
            waiting.extend(cast("BaseExceptionGroup[BaseException]", link).exceptions)


def _forget_frames(error: BaseException, theirs: BaseException | None) -> None:
    """Frames hold the request, its key and its order's id; aiohttp raises one exception again and again, and would keep them all."""
    for link in _chain(error, theirs):
        link.__traceback__ = None


def _ground(error: Exception, theirs: BaseException | None = None) -> str:
    """The first thing in the chain that an operating system or a TLS library said; httpx hides it behind words of its own."""
    grounds = [
        link
        for link in _chain(error, theirs)
        if isinstance(link, OSError) and not isinstance(link, ssl.SSLWantReadError | ssl.SSLWantWriteError)
    ]
    grounds = [link for link in grounds if link.args and not isinstance(link.args[0], BaseException)]
    told = next((link for link in grounds if link.errno is not None or isinstance(link, ssl.SSLError)), None)
    text = str(error) or type(error).__name__
    return text if told is None or str(told) in text else f"{text} ({told})"


def _is_tls(error: Exception, theirs: BaseException | None = None) -> bool:
    """Was a certificate refused? A reset in a handshake is an ``SSLError`` as well, or leaves one in the chain."""
    return any(isinstance(link, ssl.SSLCertVerificationError) for link in _chain(error, theirs))


# --- addresses ---------------------------------------------------------------------------------------------------------------------


def parse_base_url(base_url: object) -> httpx.URL:
    """Read a base address.

    Raises:
        TypeError: it is no text.
        ValueError: no https, and neither loopback nor .onion; or it has a user, a query or a fragment.
    """
    if not isinstance(base_url, str):
        raise TypeError(f"base_url must be a str, not {type(base_url).__name__}")
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"base_url: {error}") from None
    if url.scheme not in ("https", "http") or not url.host:
        raise ValueError("base_url must start with https:// and name a host")
    if url.userinfo or "?" in base_url or "#" in base_url:
        raise ValueError("base_url must have no user, query or fragment")
    if url.scheme == "http" and not _is_loopback(url.host) and not url.host.endswith(".onion"):
        raise ValueError("base_url in plain http must be a loopback or .onion host: anybody on the way could read codes and the key")
    return url


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None or host.endswith(".localhost")


def _choose_proxy(base: httpx.URL, proxy: str | None, *, trust_env: bool) -> httpx.Proxy | None:
    """The proxy given, or the environment's: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``; none for a loopback host."""
    if proxy is not None:
        return _proxy(proxy)
    if not trust_env or _is_loopback(base.host):
        return None
    found = urllib.request.getproxies()
    address = found.get(base.scheme) or found.get("all")
    if not address or any(_goes_past(base, entry.strip()) for entry in found.get("no", "").split(",")):
        return None
    return _proxy(address if "://" in address else f"http://{address}")


def _goes_past(base: httpx.URL, entry: str) -> bool:
    """Does an entry of ``NO_PROXY`` name this origin, as httpx reads it? ``.host`` means what is below it, ``host`` itself as well."""
    scheme, _, rest = entry.lower().rpartition("://")
    if entry == "*" or not rest:
        return entry == "*" or scheme in ("all", base.scheme)
    host, port = (rest.strip("[]"), "") if rest.count(":") > 1 else rest.partition(":")[::2]
    if scheme not in ("", "all", base.scheme) or port not in ("", str(base.port)):
        return False
    below = not scheme and base.host.endswith(host if host.startswith(".") else "." + host)
    return base.host == host or below


def _proxy(address: str) -> httpx.Proxy:
    try:
        proxy = httpx.Proxy(address)
    except httpx.InvalidURL as error:
        words = "not an address" if "@" in address else str(error)  # a password may stand in those words
        raise ValueError(f"proxy: {words}") from None
    except ValueError as error:
        raise ValueError(f"proxy: {error}") from None
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ValueError("proxy: SOCKS needs an extra: pip install 'sms4sats-async[socks]'")
    return proxy


def _reads_along(proxy: httpx.Proxy, base: httpx.URL) -> bool:
    return base.scheme == "http" and proxy.url.scheme in ("http", "https") and not _is_loopback(proxy.url.host)
