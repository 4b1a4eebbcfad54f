"""Leaving a batch when something is in the way: looks that hang, a rate, Ctrl-C, and orders that go on being placed."""

import gc
import logging
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import pytest

from sms4sats_async import BatchWatcher, Client, Order, OrderCancelled, OrderUnresolved, Outcome, OutcomeUnknown
from tests.servers import serve
from tests.suspension import Ending, Till, Way, by_two_native_cancels, no_task_left, run_virtually, tasks_alive, ways
from tests.test_agenda import most_in_a_second
from tests.test_batch import Answer, Shop, batching, ends_of, ids
from tests.test_cancellation import DELAY, KEY, MOST, all_lanes_work, backends, closes_all, saw_its_own, sweep, sweep_by_ctrl_c
from tests.test_watcher import PAID


async def test_a_look_that_hangs_does_not_hold_up_the_cancels() -> None:
    """The connections are dead, and the client would wait longer for them than leaving does."""
    shop = Shop({0: PAID})
    async with Client(transport=shop, max_connections=3, timeout=100) as client:
        async with BatchWatcher(client, ids(6), poll_interval=5) as batch:
            await anyio.sleep(200)
            shop.takes = 1000
            await anyio.sleep(10)
            shop.takes = 0.01
            before = anyio.current_time()
        assert anyio.current_time() - before < 1
    assert ends_of(batch.unread) == {OrderCancelled: 6}


async def test_paid_orders_are_cancelled_first() -> None:
    paid = set(ids(40)[::4])
    shop = Shop(lambda order_id, now: {"paid": order_id in paid})
    async with batching(shop, ids(40), connections=1) as batch, batch:
        await anyio.sleep(200)
    assert {asked.order_id for asked in shop.cancels[:9]} < paid


async def test_a_request_that_waited_for_a_connection_waits_for_a_turn_as_well() -> None:
    def look(order_id: str, now: float) -> Answer:
        return PAID

    shop = Shop(look, takes=lambda order_id: 4 if order_id == "somebody else's" else 0.05)
    async with Client(transport=shop, max_connections=5) as client:
        assert shop.now == 0
        async with BatchWatcher(client, ids(50), max_rate=5, cancel_on_exit=False), anyio.create_task_group() as others:
            for _ in range(5):
                await anyio.sleep(5)
                for _ in range(5):
                    others.start_soon(client.get_order_status, "somebody else's")
    assert most_in_a_second([asked.at for asked in shop.looks if asked.order_id != "somebody else's"]) <= 5


async def test_a_client_that_is_closed_while_a_request_waits_for_its_turn_keeps_no_connection() -> None:
    shop = Shop({0: PAID}, takes=lambda order_id: 1 if order_id == "somebody else's" else 0.01)
    client = Client(transport=shop, max_connections=2)
    tasks = tasks_alive()
    async with client, BatchWatcher(client, ids(10), max_rate=1) as batch:
        await anyio.sleep(2.05)  # the next turn comes at 2.1 s, when there is no connection
        async with anyio.create_task_group() as others:
            for _ in range(2):
                others.start_soon(client.get_order_status, "somebody else's")
        await anyio.sleep(0.05)  # now there is one, and the turn after that comes at 3.15 s
        await client.aclose()
        assert len([outcome async for outcome in batch]) == 10
    assert tasks_alive() == tasks


# --- what must be told -------------------------------------------------------------------------------------------------------------


async def test_an_order_placed_while_the_block_is_left_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(5)
        return httpx.Response(200, json={"status": "OK", "orderId": "placed-in-the-meantime"})

    async with Client(api_key="key", transport=httpx.MockTransport(handle)) as client:

        async def orders() -> AsyncIterator[Order]:
            yield await client.create_order(187, "tg", immediate=True)

        async with BatchWatcher(client, orders()):
            await anyio.sleep(1)
        assert [order.id for order in client.orphaned_orders] == ["placed-in-the-meantime"]
    assert "1 orders were placed meanwhile: see client.orphaned_orders" in caplog.text
    assert "placed-in" not in caplog.text


def failing() -> Iterator[str]:
    yield from ids(2)
    raise OutcomeUnknown("perhaps charged", order_id="an-order-of-the-caller")


async def test_what_orders_raised_is_raised_when_the_block_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async with batching(Shop({0: PAID}), failing()) as batch:
        with pytest.raises(OutcomeUnknown) as caught:
            async with batch:
                await anyio.sleep(200)
        assert caught.value.order_id == "an-order-of-the-caller"
        assert ends_of(batch.unread) == {OrderCancelled: 2}
    assert "orders could not be taken: perhaps charged" in caplog.text


async def test_what_orders_raised_is_a_note_on_the_error_that_leaves_the_block() -> None:
    async with batching(Shop({0: PAID}), failing()) as batch:
        with pytest.raises(LookupError) as caught:
            async with batch:
                await anyio.sleep(200)
                raise LookupError
    assert caught.value.__notes__ == ["before that, orders raised OutcomeUnknown: perhaps charged"]


async def test_the_failures_of_thousands_of_orders_keep_no_chains_of_causes() -> None:
    causes: list[weakref.ref[BaseException]] = []

    def look(order_id: str, now: float) -> Answer:
        error = httpx.ConnectError("refused")
        causes.append(weakref.ref(error))
        return error

    async with batching(Shop(look), ids(20), cancel_on_exit=False) as batch, batch:
        await anyio.sleep(1)
        gc.collect()
        assert len(causes) >= 20
        assert not any(cause() for cause in causes)


# --- orders that are placed as the block is cancelled ---------------------------------------------------------------------------------


async def place_and_watch(way: Way[Any], k: int) -> Ending[Any]:
    """Cancel a block whose orders are placed as they are taken; each that was charged is known, once."""
    where = f"{way.__name__} at {k}"
    till = Till(delay=DELAY)
    read: list[Outcome] = []
    with no_task_left():
        async with serve(till) as server:
            client = Client(api_key=KEY, base_url=server.url, max_connections=MOST, trust_env=False)

            async def orders() -> AsyncIterator[Order]:
                for _ in range(2):
                    yield await client.create_order(187, "tg", immediate=True)

            batch = BatchWatcher(client, orders())

            async def block() -> None:
                async with batch:
                    async for outcome in batch:
                        read.append(outcome)

            ending = await way(block, k)
            saw_its_own(ending, where)
            assert ending.after <= 4 * DELAY, f"{where}: it took {ending.after} s"
            known = [outcome.order.id for outcome in (*read, *batch.unread)] + [order.id for order in client.orphaned_orders]
            assert sorted(known) == till.charged, where
            sent = len(server.requests)
            await anyio.sleep(20)
            assert len(server.requests) == sent, where
            await all_lanes_work(client, server, where)
            await closes_all(client, server, where)
    return ending


async def test_orders_placed_as_the_block_is_cancelled_at_any_suspension_are_known() -> None:
    for way in ways():
        assert await sweep(place_and_watch, way, step=3 if way is by_two_native_cancels else 1) > 4


@backends
def test_orders_placed_as_ctrl_c_strikes_the_block_at_any_suspension_are_known(backend: str) -> None:
    assert sweep_by_ctrl_c(place_and_watch, backend) > 4


# --- Ctrl-C, wherever it strikes ------------------------------------------------------------------------------------------------------


class Strike(logging.Handler):
    """Raises when a line is logged: a moment in the middle of the batch's own work."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - logging's name
        logging.getLogger("sms4sats_async").removeHandler(self)
        raise KeyboardInterrupt


class StrikesOnce(list[Order]):
    """A list that is struck when its length is asked for the first time, which leaving a block does."""

    def __init__(self) -> None:
        super().__init__()
        self.strikes: list[BaseException] = [KeyboardInterrupt()]

    def __len__(self) -> int:
        for strike in self.strikes:
            self.strikes = []
            raise strike
        return super().__len__()  # pragma: no cover - it runs, but the tracer has lost this frame (see test_spending.py)


def strike_a_worker(backend: str) -> list[str]:
    """Strike a batch in the middle of its own work, and return the orders that it had something to tell of."""
    batches: list[BatchWatcher] = []
    logger, strike = logging.getLogger("sms4sats_async"), Strike()

    async def main() -> None:
        shop = Shop(lambda order_id, now: httpx.ReadError("reset") if now > 150 else PAID)
        async with Client(transport=shop) as client:
            assert shop.now == 0
            batches.append(BatchWatcher(client, ids(4), poll_interval=60))
            async with batches[0]:
                logger.addHandler(strike)
                await anyio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run_virtually(backend, main)
    assert strike not in logger.handlers
    return sorted(outcome.order.id for outcome in batches[0].unread)


@backends
def test_an_interrupt_that_strikes_a_worker_ends_the_block_and_the_program(
    backend: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "sms4sats_async")
    monkeypatch.setattr(logging.getLogger("sms4sats_async"), "propagate", False)  # what captures the log would keep all of it alive
    assert strike_a_worker(backend) == ids(4)
    gc.collect()
    assert [line.message for line in caplog.records if line.name == "asyncio" and line.levelno >= logging.ERROR] == []


@backends
def test_an_interrupt_that_strikes_leaving_itself_leaves_no_order_untold_and_nothing_running(backend: str) -> None:
    batches: list[BatchWatcher] = []

    async def main() -> None:
        async with Client(transport=Shop({0: PAID})) as client:
            batches.append(BatchWatcher(client, ids(4), poll_interval=60))
            async with batches[0]:
                await anyio.sleep(200)
                client.orphaned_orders = StrikesOnce()

    with pytest.raises(KeyboardInterrupt):
        run_virtually(backend, main)
    assert ends_of(batches[0].unread) == {OrderUnresolved: 4}
