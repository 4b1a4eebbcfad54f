"""A whole job on the real clock, on whichever loop the tests run: that loop is no virtual one here, and may be uvloop's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sms4sats_async import BatchWatcher, Client, Order, OrderUnresolved, OrderWatcher, OutcomeUnknown, TransportError
from tests.loops import asyncio_options
from tests.servers import Handler, Reply, SeenRequest, Server, hangs, resets, serve
from tests.suspension import asyncio_only
from tests.virtual_time import VirtualTimeLoop

real_time = pytest.mark.real_time
ORDER_ID = "0123456789abcdef0123456789abcdef"
PREPAID = {"status": "OK", "orderId": ORDER_ID, "payreq": "paid"}
READY = {"paid": True, "number": "15551234567", "code": "004217"}


@asynccontextmanager
async def service(handler: Handler | list[object], **options: float) -> AsyncIterator[tuple[Server, Client]]:
    async with serve(handler) as server:  # type: ignore[arg-type]
        async with Client(api_key="key", base_url=server.url, **options) as client:  # type: ignore[arg-type]
            yield server, client
        with anyio.fail_after(5):
            while server.connections_open:  # noqa: ASYNC110  # pragma: no branch - it has no event for it, and is rarely late
                await anyio.sleep(0.01)  # pragma: no cover


@real_time
async def test_an_order_is_watched_to_its_code() -> None:
    async with service([PREPAID, {"paid": True}, resets, READY]) as (server, client):
        order = await client.create_order(187, "tg", immediate=True)
        async with OrderWatcher(client, order, poll_interval=1) as watcher:
            assert await watcher.code() == "004217"
        assert len(server.requests) == 4


@real_time
async def test_a_batch_is_watched_to_its_codes() -> None:
    async with service(lambda _, reply: reply.json(READY), max_connections=5) as (server, client):
        async with BatchWatcher(client, [f"{number:032}" for number in range(200)]) as batch:
            assert [outcome.code async for outcome in batch] == ["004217"] * 200
        assert server.connections_opened <= 5


@real_time
async def test_a_charge_goes_on_when_its_caller_is_cancelled() -> None:
    async def slow(_: SeenRequest, reply: Reply) -> None:
        await anyio.sleep(0.5)
        await reply.json(PREPAID)

    async with service(slow) as (server, client):
        with anyio.move_on_after(0.2) as scope:
            await client.create_order(187, "tg", immediate=True)
        assert scope.cancelled_caught
        assert [order.id for order in client.orphaned_orders] == [ORDER_ID]
        assert len(server.requests) == 1


@real_time
@asyncio_only
async def test_a_charge_goes_on_when_its_task_is_cancelled_twice() -> None:
    async def slow(_: SeenRequest, reply: Reply) -> None:
        await anyio.sleep(0.5)
        await reply.json(PREPAID)

    told: list[Order] = []
    async with serve(slow) as server, Client(api_key="key", base_url=server.url, on_order=told.append) as client:
        task = asyncio.ensure_future(client.create_order(187, "tg", immediate=True))
        for _ in range(2):
            await asyncio.sleep(0.2)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [order.id for order in told] == [ORDER_ID]


@real_time
async def test_a_lost_reply_is_of_unknown_outcome_and_a_refused_connection_is_not() -> None:
    async with service(resets) as (server, client):
        with pytest.raises(OutcomeUnknown):
            await client.create_order(187, "tg", immediate=True)
        assert len(server.requests) == 1
    async with Client(api_key="key", base_url="http://127.0.0.1:1", attempts=2) as client:
        with pytest.raises(TransportError) as caught:
            await client.create_order(187, "tg", immediate=True)
        assert type(caught.value) is TransportError


@real_time
async def test_closing_the_client_ends_what_waits() -> None:
    async with serve(hangs) as server:
        client = Client(base_url=server.url)

        async def watch() -> None:
            with pytest.raises(OrderUnresolved):
                await OrderWatcher(client, ORDER_ID).code()

        with anyio.fail_after(8):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                await anyio.sleep(0.2)
                await client.aclose()


# --- which loop that is ------------------------------------------------------------------------------------------------------------


def test_without_a_word_it_is_asyncios_own_and_a_virtual_one_where_it_can_be() -> None:
    assert asyncio_options("", real_time=True) == {}
    assert asyncio_options("", real_time=False) == {"loop_factory": VirtualTimeLoop}


@pytest.mark.parametrize("real", [True, False])
def test_an_eager_loop_begins_each_task_at_once(real: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def factory(loop: asyncio.AbstractEventLoop, coroutine: object) -> None:
        raise AssertionError

    monkeypatch.setattr(asyncio, "eager_task_factory", factory, raising=False)  # Python 3.11 has none
    loop = asyncio_options("eager", real_time=real)["loop_factory"]()
    assert loop.get_task_factory() is factory
    assert isinstance(loop, VirtualTimeLoop) is not real
    loop.close()


def test_uvloop_is_for_the_real_clock() -> None:
    assert asyncio_options("uvloop", real_time=True) == {"use_uvloop": True}
    with pytest.raises(ValueError, match="in real time"):
        asyncio_options("uvloop", real_time=False)
    with pytest.raises(ValueError, match="no TEST_LOOP=x"):
        asyncio_options("x", real_time=True)


@pytest.mark.measured("on both loops")
@real_time
async def test_the_loop_is_the_one_that_was_asked_for(request: pytest.FixtureRequest) -> None:
    name, options = request.getfixturevalue("anyio_backend")
    if name == "asyncio":
        assert type(asyncio.get_running_loop()).__module__.startswith("uvloop" if options.get("use_uvloop") else "asyncio")
