"""The clients that are held against each other: what a user could take, each asking for an order's status as its users write it.

Each library is imported when its client is opened: a process that opens one client pays for that one alone, which is what a measurement
from the start of a process is about.
"""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import asyncio
import importlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp
    import httpx
    import httpx_aiohttp

PATH = "/orderstatus"
HTTPX_KEEPS = 20  # idle connections, by default; of httpx2 the same
AIOHTTP_HOLDS = 100  # connections at the most, by default
LANES = 20  # of this package's client, by default
PERMITS = 10

Call = Callable[[str], Awaitable[object]]
"""Asks for the status of an order by its id."""
Decode = Callable[[bytes, str], object]
"""Makes a value of a reply's body and the order's id."""
Opener = Callable[["Place"], AbstractAsyncContextManager[Call]]
"""Opens a client, and closes it."""


@dataclass(frozen=True)
class Place:
    """Where a client's calls go, and how many at once."""

    url: str
    at_once: int = 1
    ssl_context: ssl.SSLContext | None = None
    """What makes a TLS server trusted; with ``None`` a client is left to what it trusts by itself, the environment heeded."""

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """The same as most libraries want it."""
        return True if self.ssl_context is None else self.ssl_context


@dataclass(frozen=True)
class Contender:
    """A client that takes part."""

    name: str
    open: Opener
    on_trio: bool = True
    connections: int | None = None
    """How many it holds by design; ``None`` for one per call at once."""
    beyond: int = 0
    """It takes part only where more calls than this are made at once."""
    rival: str | None = None
    """Whom to hold it against, apart from bare httpx."""

    def holds(self, at_once: int) -> int:
        """How many connections it is meant to hold."""
        return at_once if self.connections is None else min(at_once, self.connections)


# --- httpx, and what is built like it ----------------------------------------------------------------------------------------------


def status_call(http: httpx.AsyncClient, url: str) -> Call:
    """What a user of httpx writes."""

    async def call(order_id: str) -> object:
        return (await http.get(url + PATH, params={"orderId": order_id})).json()

    return call


def _httpx(library: str, *, keeping_all: bool = False) -> Opener:
    """Its client as it comes, or told to keep a connection for each call at once, for good."""

    @asynccontextmanager
    async def client(place: Place) -> AsyncIterator[Call]:
        made_like_httpx: Any = importlib.import_module(library)
        options = {}
        if keeping_all:
            count = place.at_once
            options["limits"] = made_like_httpx.Limits(max_connections=count, max_keepalive_connections=count, keepalive_expiry=None)
        async with made_like_httpx.AsyncClient(verify=place.verify, **options) as http:
            yield status_call(http, place.url)

    return client


bare_httpx = _httpx("httpx")


@asynccontextmanager
async def _httpx_behind_a_semaphore(place: Place) -> AsyncIterator[Call]:
    import anyio

    permits = anyio.Semaphore(PERMITS, fast_acquire=True)
    async with bare_httpx(place) as call:

        async def call_in_turn(order_id: str) -> object:
            async with permits:
                return await call(order_id)

        yield call_in_turn


@asynccontextmanager
async def _httpx_over_aiohttp(place: Place) -> AsyncIterator[Call]:
    import httpx

    async with _aiohttp_transport(place) as transport, httpx.AsyncClient(transport=transport) as http:
        yield status_call(http, place.url)


def _aiohttp_transport(place: Place) -> httpx_aiohttp.AiohttpTransport:
    import httpx
    import httpx_aiohttp

    return httpx_aiohttp.AiohttpTransport(verify=place.verify, limits=httpx.Limits(max_connections=max(AIOHTTP_HOLDS, place.at_once)))


# --- aiohttp -----------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _aiohttp(place: Place) -> AsyncIterator[Call]:
    async with _aiohttp_session(place) as session:

        async def call(order_id: str) -> object:
            async with session.get(place.url + PATH, params={"orderId": order_id}) as response:
                return await response.json()

        yield call


@asynccontextmanager
async def _aiohttp_decoding(place: Place) -> AsyncIterator[Call]:
    """With this package's model made of the reply: the work our client does over aiohttp, and no more."""
    decode = _our_decode()
    async with _aiohttp_session(place) as session:

        async def call(order_id: str) -> object:
            async with session.get(place.url + PATH, params={"orderId": order_id}) as response:
                return decode(await response.read(), order_id)

        yield call


def _aiohttp_session(place: Place) -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=max(AIOHTTP_HOLDS, place.at_once), ssl=place.verify))


# --- this package's client ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _ours(place: Place, transport: httpx.AsyncBaseTransport | None = None) -> AsyncIterator[Call]:
    """Over its own lanes unless told otherwise. It takes no ssl context: it heeds ``SSL_CERT_FILE``."""
    from sms4sats_async import Client

    async with Client(base_url=place.url, max_connections=max(LANES, place.at_once), transport=transport) as client:
        yield client.get_order_status


@asynccontextmanager
async def _ours_over_aiohttp(place: Place) -> AsyncIterator[Call]:
    async with _aiohttp_transport(place) as transport, _ours(place, transport) as call:
        yield call


# --- the floor ---------------------------------------------------------------------------------------------------------------------


class _OneConnection(asyncio.Protocol):
    """One request at a time over one connection, and no more of HTTP than the status server needs."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, _, body = self._unread.partition(b"\r\n\r\n")
        length = head.rpartition(b"Content-Length: ")[2]
        if body and len(body) == int(length):
            self._unread = b""
            self._body.set_result(body)

    async def get(self, target: str) -> bytes:
        async with self._turn:
            self._body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._transport.write(f"GET {target} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            return await self._body

    def close(self) -> None:
        self._transport.close()


def _raw(how_to_decode: Callable[[], Decode]) -> Opener:
    @asynccontextmanager
    async def client(place: Place) -> AsyncIterator[Call]:
        decode = how_to_decode()
        host, _, port = place.url.rpartition("/")[2].partition(":")
        context = True if place.url.startswith("https:") and place.ssl_context is None else place.ssl_context
        _, connection = await asyncio.get_running_loop().create_connection(_OneConnection, host, int(port), ssl=context)

        async def call(order_id: str) -> object:
            return decode(await connection.get(f"{PATH}?orderId={order_id}"), order_id)

        with closing(connection):
            yield call

    return client


def _json_alone() -> Decode:
    return lambda body, _: json.loads(body)


def _our_decode() -> Decode:
    from sms4sats_async import OrderStatus

    return lambda body, order_id: OrderStatus.from_wire(json.loads(body), order_id)


# --- all of them -------------------------------------------------------------------------------------------------------------------

HTTPX, HTTPX_KEEPING_ALL = "httpx", "httpx, keeping all"
AIOHTTP, AIOHTTP_DECODING = "aiohttp", "aiohttp, our decode"
OURS, OURS_OVER_AIOHTTP = "ours", "ours over aiohttp"

_ALL = (
    Contender(HTTPX, bare_httpx),
    Contender(HTTPX_KEEPING_ALL, _httpx("httpx", keeping_all=True), beyond=HTTPX_KEEPS),
    Contender("httpx, semaphore of 10", _httpx_behind_a_semaphore, connections=PERMITS),
    Contender("httpx2", _httpx("httpx2")),
    Contender("httpx2, keeping all", _httpx("httpx2", keeping_all=True), beyond=HTTPX_KEEPS),
    Contender("httpx over aiohttp", _httpx_over_aiohttp, on_trio=False, rival=AIOHTTP),
    Contender(AIOHTTP, _aiohttp, on_trio=False),
    Contender(AIOHTTP_DECODING, _aiohttp_decoding, on_trio=False, rival=AIOHTTP),
    Contender(OURS, _ours),
    Contender(OURS_OVER_AIOHTTP, _ours_over_aiohttp, on_trio=False, rival=AIOHTTP_DECODING),
    Contender("raw protocol, our decode", _raw(_our_decode), on_trio=False, connections=1),
)
CONTENDERS = {each.name: each for each in _ALL}

STARTERS = {name: CONTENDERS[name] for name in (HTTPX, "httpx2", "httpx over aiohttp", AIOHTTP, OURS, OURS_OVER_AIOHTTP)}
STARTERS["raw protocol"] = Contender("raw protocol", _raw(_json_alone), on_trio=False, connections=1)
"""Those whose way from a process's start to the first reply is of interest: no other library comes in with a decode."""


def field(loop: str, at_once: int) -> list[Contender]:
    """Those who take part on this loop at this many calls at once."""
    return [each for each in _ALL if at_once > each.beyond and (each.on_trio or loop != "trio")]


def baseline(at_once: int) -> str:
    """The bare httpx that holds a connection for each of so many calls at once: its default pool keeps 20."""
    return HTTPX if at_once <= HTTPX_KEEPS else HTTPX_KEEPING_ALL


async def first_reply(name: str, url: str) -> None:
    """Open a client, ask once, and say on stdout that the reply is there."""
    async with STARTERS[name].open(Place(url)) as call:
        await call("order")
        print("replied", flush=True)
