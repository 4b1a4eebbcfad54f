"""A transport of the caller's own: aiohttp's, the fast one on asyncio, and any other that httpx can use."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

import anyio
import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

from sms4sats_async import BatchWatcher, Client, DecodeError, OrderWatcher, TransportError
from sms4sats_async.sandbox import Sandbox, Timeline
from tests.servers import Handler, Reply, SeenRequest, Server, closes, hangs, json_reply, resets, serve
from tests.suspension import Till, asyncio_only, files_open

WAITING, READY = {"paid": True}, {"paid": True, "number": "+15551234567", "code": "004217"}
CODE_AT = 40.0


async def code_after_a_while(request: SeenRequest, reply: Reply) -> None:
    """Every order has its code 40 s after the loop began."""
    await reply.json(READY if anyio.current_time() >= CODE_AT else WAITING)


@asynccontextmanager
async def fast(server: Server, **options: float) -> AsyncIterator[Client]:
    """A client on aiohttp's transport; the caller closes that, as the README says."""
    async with AiohttpTransport() as transport, Client(base_url=server.url, transport=transport, **options) as client:  # type: ignore[arg-type]
        yield client
    await anyio.sleep(0.1)  # aiohttp closes its sockets in the next turns of the loop


@asyncio_only
async def test_an_order_is_watched_to_its_code_through_aiohttp() -> None:
    async with serve(code_after_a_while) as server:
        files = files_open()
        async with fast(server) as client:
            assert await OrderWatcher(client, "a" * 32).code() == "004217"
            assert CODE_AT <= anyio.current_time() < CODE_AT + 5
        assert server.connections_open == 0
        assert files_open() == files


@pytest.mark.unmeasured
@asyncio_only
async def test_a_batch_is_watched_to_its_codes_through_aiohttp() -> None:
    ids = [f"{number:032}" for number in range(300)]
    async with serve(code_after_a_while) as server:
        async with fast(server, max_connections=10) as client, BatchWatcher(client, ids) as batch:
            outcomes = [outcome async for outcome in batch]
        assert sorted(outcome.order.id for outcome in outcomes) == ids
        assert {outcome.code for outcome in outcomes} == {"004217"}
        assert server.connections_opened <= 10
        assert server.connections_open == 0


@asyncio_only
async def test_what_aiohttp_sends_is_what_our_own_connections_send() -> None:
    odd = "a b/c&d=e+f%20g#h"  # aiohttp writes some of these in another way, which must mean the same
    async with serve(lambda _, reply: reply.json(WAITING)) as server:
        async with fast(server) as client:
            await client.get_order_status(odd)
        async with Client(base_url=server.url) as client:
            await client.get_order_status(odd)
        theirs, ours = server.requests
        assert_the_same(theirs, ours, odd)


def assert_the_same(theirs: SeenRequest, ours: SeenRequest, odd: str) -> None:
    for request in (theirs, ours):
        path, _, query = request.target.partition("?")
        assert (path, parse_qsl(query, strict_parsing=True)) == ("/orderstatus", [("orderId", odd)])
    for name in ("host", "user-agent", "accept-encoding"):
        assert theirs.headers[name] == ours.headers[name]
    assert "cookie" not in theirs.headers
    assert (theirs.body, ours.body) == (b"", b"")
    assert "content-length" not in theirs.headers
    assert "transfer-encoding" not in theirs.headers


@asyncio_only
@pytest.mark.parametrize("fault", [closes, resets, hangs, lambda _, reply: reply.trickle(json_reply(WAITING), each=1.0)])
async def test_a_fault_under_aiohttp_is_a_transport_error_within_the_timeout(fault: Handler) -> None:
    async with serve(fault) as server, fast(server, timeout=5, attempts=1) as client:
        with pytest.raises(TransportError):
            await client.get_order_status("a" * 32)
        assert anyio.current_time() <= 5.1


@asyncio_only
async def test_a_fault_under_aiohttp_is_gone_with_the_next_attempt() -> None:
    async with serve([resets, closes, lambda _, reply: reply.raw(b"garbage\r\n\r\n"), READY]) as server, fast(server) as client:
        assert (await client.get_order_status("a" * 32)).code == "004217"


@asyncio_only
async def test_a_redirect_and_an_error_page_are_no_reply_under_aiohttp() -> None:
    async def redirects(_: SeenRequest, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

    async with serve(redirects) as server, fast(server, attempts=1) as client:
        with pytest.raises(DecodeError, match="redirect"):
            await client.get_order_status("a" * 32)
        with pytest.raises(DecodeError, match="redirect"):
            await client.get_order_status("a" * 32)
        assert "cookie" not in server.requests[-1].headers


@asyncio_only
async def test_after_cancelled_calls_every_aiohttp_connection_is_still_of_use() -> None:
    async with serve(Till(delay=0.01)) as server:
        async with fast(server, max_connections=5) as client:
            for turn in range(200):
                task = asyncio.ensure_future(client.get_order_status("a" * 32))
                await anyio.sleep(turn % 14 / 1000)
                task.cancel()
                await asyncio.wait([task])
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    for _ in range(5):
                        tasks.start_soon(client.get_order_status, "a" * 32)
        assert server.connections_open == 0


class Counting(httpx.AsyncBaseTransport):
    """What a user writes to see every request: a transport around a transport."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.count = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.count += 1
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        raise AssertionError("it is the caller's to close")


TRANSPORTS: dict[str, Callable[[Sandbox], httpx.AsyncBaseTransport]] = {
    "the sandbox's": Sandbox.transport,
    "httpx.ASGITransport": httpx.ASGITransport,
}


@pytest.mark.parametrize("make", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_any_transport_of_httpx_serves_both_watchers_and_is_left_open(make: Callable[[Sandbox], httpx.AsyncBaseTransport]) -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=5, number_after=8, code_after=45, code="004217"))
    transport = Counting(make(sandbox))
    async with Client(transport=transport) as client:
        assert await OrderWatcher(client, await client.create_order(187, "tg")).code() == "004217"
        async with BatchWatcher(client, [await client.create_order(187, "tg") for _ in range(50)]) as batch:
            assert [outcome.code async for outcome in batch] == ["004217"] * 50
    assert transport.count == len(sandbox.calls)


@pytest.mark.unmeasured
async def test_httpx_own_pool_serves_a_batch() -> None:
    async with serve(code_after_a_while) as server, httpx.AsyncHTTPTransport() as transport:
        client = Client(base_url=server.url, transport=transport)
        async with client, BatchWatcher(client, map(str, range(50))) as batch:
            assert [outcome.code async for outcome in batch] == ["004217"] * 50


class Tiresome(httpx.AsyncByteStream):
    """A body without end that fails as it is closed, each time with the same exception, as aiohttp's does."""

    failure = httpx.ReadError("closed")

    def __init__(self, *, fails_in_close: bool) -> None:
        self.closed = False
        self.fails_in_close = fails_in_close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self.closed:
            yield b" " * 50_000
        raise self.failure

    async def aclose(self) -> None:
        self.closed = True
        if self.fails_in_close:
            raise self.failure


@pytest.mark.parametrize("fails_in_close", [False, True])
async def test_an_exception_that_lives_for_ever_keeps_no_request_alive(fails_in_close: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Tiresome(fails_in_close=fails_in_close))

    async with Client(transport=httpx.MockTransport(answer), attempts=1) as client:
        with pytest.raises(DecodeError, match="more than"):
            await client.get_order_status("a" * 32)
    assert Tiresome.failure.__traceback__ is None


@asyncio_only
async def test_replies_that_are_too_long_leave_nothing_under_aiohttp() -> None:
    async def too_long(request: SeenRequest, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b" " * 70_000)

    def streams() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "AiohttpResponseStream" for thing in gc.get_objects())

    async with serve(too_long) as server, fast(server, attempts=1) as client:
        before = streams()
        for _ in range(5):
            with pytest.raises(DecodeError):
                await client.get_order_status("a" * 32)
        assert streams() <= before
