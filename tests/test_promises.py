"""Promises whose breach no other test would notice; ``tests/broken.py`` has the clients that break them."""

import gc
import gzip
import random
import tracemalloc
from datetime import UTC, datetime, timedelta
from types import CoroutineType

import anyio
import httpx
import pytest

from sms4sats_async import BatchWatcher, Client, DecodeError, Order, OrderExpired, OrderStatus, OrderWatcher, TransportError
from tests.servers import serve
from tests.suspension import Till, by_native_cancel_after_turns, by_scope_after_turns, on_asyncio

ORDER_ID = "644bfd59c8e0f600f7b5a947f07c52d8"


class Desk(httpx.AsyncBaseTransport):
    """A service that takes its time, and says the same of every order until it is down.

    Attributes:
        asked: the path of each request.
        under_way, most: how many requests it is at now, and how many it was at the most.
        closings: how often it was closed.
    """

    def __init__(self, *, paid: bool = True, down: bool = False) -> None:
        self.paid = paid
        self.down = down
        self.asked: list[str] = []
        self.under_way = self.most = self.closings = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await anyio.sleep(0.01)
        self.under_way -= 1
        if self.down:
            raise httpx.ConnectError("nobody listens")
        return httpx.Response(200, json={"status": "OK", "paid": self.paid})

    async def aclose(self) -> None:
        self.closings += 1


async def test_a_transport_of_the_callers_is_left_open() -> None:
    desk = Desk()
    async with Client(transport=desk) as client, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(client.get_order_status, ORDER_ID)
    assert (desk.most, desk.closings) == (3, 0)
    await desk.aclose()
    assert desk.closings == 1


async def test_several_tasks_that_wait_have_one_poll_under_way() -> None:
    desk = Desk()
    async with Client(transport=desk) as client:
        watcher = OrderWatcher(client, ORDER_ID, poll_interval=5)
        with anyio.move_on_after(52):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(watcher.code)
    assert desk.most == 1
    assert 9 <= len(desk.asked) <= 12


@pytest.mark.parametrize("wrong", [timedelta(hours=-30), timedelta(hours=30)])
async def test_a_stored_time_moves_no_payment_window(wrong: timedelta) -> None:
    async with Client(transport=Desk(paid=False)) as client:
        began = anyio.current_time()
        with pytest.raises(OrderExpired):
            await OrderWatcher(client, Order(ORDER_ID, created_at=datetime.now(UTC) + wrong)).code()
        assert anyio.current_time() - began == pytest.approx(1260, abs=1)


async def test_leaving_asks_once_though_no_answer_comes() -> None:
    desk = Desk()
    async with Client(transport=desk) as client, OrderWatcher(client, ORDER_ID) as watcher:
        await watcher.paid()
        desk.down = True
    assert desk.asked.count("/cancelorder") == 1


async def test_a_cancel_without_an_answer_is_made_again_as_a_read_is() -> None:
    desk = Desk(down=True)
    async with Client(transport=desk, attempts=3) as client:
        with pytest.raises(TransportError):
            await client.cancel_order(ORDER_ID)
    assert desk.asked == ["/cancelorder"] * 3


async def test_a_storm_of_cancellations_costs_no_connection() -> None:
    dice = random.Random(1)  # noqa: S311 - a storm, not a secret
    cancelled = by_native_cancel_after_turns if on_asyncio() else by_scope_after_turns
    async with serve(Till(delay=0.01)) as server, Client(base_url=server.url, trust_env=False, max_connections=2, attempts=1) as client:

        async def give_up_again_and_again() -> None:
            for _ in range(40):
                await cancelled(lambda: client.get_order_status(ORDER_ID), dice.randint(1, 40))

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(give_up_again_and_again)
        before = len(server.requests)
        with anyio.fail_after(1):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(client.get_order_status, ORDER_ID)
        assert len(server.requests) == before + 4
        assert server.connections_open == 2


async def test_a_bomb_takes_no_more_memory_than_a_reply_may() -> None:
    packed = gzip.compress(b" " * 50_000_000)
    desk = httpx.MockTransport(lambda _: httpx.Response(200, stream=httpx.ByteStream(packed), headers={"Content-Encoding": "gzip"}))
    async with Client(transport=desk, attempts=1) as client:
        tracemalloc.start()
        with pytest.raises(DecodeError, match="bytes unpacked"):
            await client.get_order_status(ORDER_ID)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 1_000_000


@pytest.mark.unmeasured
async def test_an_order_in_a_batch_has_one_status_and_no_task_of_its_own() -> None:
    def alive(kind: type) -> int:
        gc.collect()
        return sum(isinstance(thing, kind) for thing in gc.get_objects())

    desk = Desk()
    orders = [f"{number:06}-b7a1c9f0e2d4" for number in range(150)]
    async with Client(transport=desk, max_connections=3) as client:
        statuses, coroutines = alive(OrderStatus), alive(CoroutineType)
        async with BatchWatcher(client, orders, poll_interval=1, cancel_on_exit=False):
            await anyio.sleep(20)
            assert len(desk.asked) >= 15 * len(orders)
            assert alive(OrderStatus) - statuses <= len(orders) + 3
            assert alive(CoroutineType) - coroutines < len(orders) / 2
