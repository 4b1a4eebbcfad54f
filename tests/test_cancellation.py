"""A call that is cancelled anywhere leaves nothing behind: at each suspension, and after each turn of the loop."""

import gc
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from sms4sats_async import Client, Order, OrderWatcher
from tests.servers import Server, hangs, serve
from tests.suspension import (
    Ending,
    Till,
    Way,
    asyncio_only,
    by_two_native_cancels,
    files_open,
    tasks_alive,
    ways,
    ways_by_turns,
)

KEY = "key-of-a-test-0001"
ORDER = "order-to-watch-1"
MOST = 2
"""The client's connections in these tests."""

MOST_TURNS = 50
"""More than a call needs; a watcher sleeps between its looks, and never ends as long as the clock stands still."""

Call = Callable[[Client], Coroutine[Any, Any, Any]]


async def iterate(client: Client) -> list[str | None]:
    return [status.code async for status in OrderWatcher(client, ORDER)]


async def leave(client: Client) -> None:
    async with OrderWatcher(client, ORDER) as watcher:
        await watcher.paid()


async def leave_and_close(client: Client) -> None:
    async with client, OrderWatcher(client, ORDER):
        pass


async def expire(client: Client) -> str:
    """Wait for a code in a window that ends before it comes: look, cancel, look."""
    return await OrderWatcher(client, ORDER, hold_window=0.5).code()


async def close(client: Client) -> None:
    await client.get_balance()
    await client.aclose()


CALLS: dict[str, Call] = {
    "is_available": lambda client: client.is_available(),
    "get_countries": lambda client: client.get_countries(),
    "get_services": lambda client: client.get_services(187),
    "get_rental_countries": lambda client: client.get_rental_countries(),
    "get_price": lambda client: client.get_price(187, "tg"),
    "create_order": lambda client: client.create_order(187, "tg"),
    "create_order, immediate": lambda client: client.create_order(187, "tg", immediate=True),
    "create_order, immediate, with max_sats": lambda client: client.create_order(187, "tg", immediate=True, max_sats=200),
    "create_send_order": lambda client: client.create_send_order("+15551234567", "hello"),
    "create_send_order, immediate": lambda client: client.create_send_order("+15551234567", "hello", immediate=True),
    "get_order_status": lambda client: client.get_order_status(ORDER),
    "cancel_order": lambda client: client.cancel_order(ORDER),
    "fund": lambda client: client.fund(1000),
    "get_balance": lambda client: client.get_balance(),
    "get_history": lambda client: client.get_history(),
    "watcher.paid": lambda client: OrderWatcher(client, ORDER).paid(),
    "watcher.number": lambda client: OrderWatcher(client, ORDER).number(),
    "watcher.code": lambda client: OrderWatcher(client, ORDER).code(),
    "watcher.cancel": lambda client: OrderWatcher(client, ORDER).cancel(),
    "the end of a window": expire,
    "iteration": iterate,
    "leaving the block": leave,
    "leaving the block and closing": leave_and_close,
    "aclose": close,
}


async def try_once(call: Call, way: Way[Any], k: int, *, delay: float = 0.0, warm: bool = False) -> Ending[Any]:
    """Cancel this call once, and check everything that must hold whatever the moment was."""
    told: list[str] = []
    till = Till(delay=delay)
    tasks = tasks_alive()
    async with serve(till) as server:
        client = Client(
            api_key=KEY, base_url=server.url, max_connections=MOST, trust_env=False, on_order=lambda order: told.append(order.id)
        )
        if warm:
            await client.get_balance()
        ending = await way(lambda: call(client), k)
        where = f"{way.__name__} at {k}"
        if ending.triggered and ending.error is not None:
            assert ending.cancelled or call is expire, f"{where}: {ending.error!r}"
        assert not isinstance(ending.error, BaseExceptionGroup), where
        if ending.requests:
            assert ending.cancelled, f"{where}: the native cancel was swallowed"
        returned = [ending.value.id] if isinstance(ending.value, Order) else []
        assert set(till.charged) <= {*told, *returned, *(order.id for order in client.orphaned_orders)}, where
        if not client.is_closed:
            await all_lanes_work(client, server, where)
        await closes_all(client, server, where)
    assert tasks_alive() == tasks, where
    return ending


async def closes_all(client: Client, server: Server, where: str) -> None:
    await client.aclose()
    await anyio.sleep(1)
    assert server.connections_open == 0, where


async def all_lanes_work(client: Client, server: Server, where: str) -> None:
    with anyio.move_on_after(5) as patience:
        async with anyio.create_task_group() as group:
            for _ in range(MOST):
                group.start_soon(client.get_balance)
    assert not patience.cancelled_caught, f"{where}: a lane is lost"
    assert server.connections_open <= MOST, where


async def sweep(call: Call, way: Way[Any], *, delay: float = 0.0, warm: bool = False, step: int = 1) -> int:
    """Try every k until the call comes to its end before it; return how many there were."""
    for k in range(1, 2_000, step):
        ending = await try_once(call, way, k, delay=delay, warm=warm)
        if not ending.triggered:
            return k
    raise AssertionError("the call does not end")


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_cancelled_at_any_suspension_leaves_nothing(name: str) -> None:
    gc.collect()
    files = files_open()
    for way in ways():
        assert await sweep(CALLS[name], way, step=2 if way is by_two_native_cancels else 1) > 1
    assert files_open() == files


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", ["get_order_status", "create_order, immediate"])
async def test_a_call_cancelled_in_any_turn_of_the_loop_leaves_nothing(name: str, warm: bool) -> None:
    files = files_open()
    for way in ways_by_turns():
        assert await sweep(CALLS[name], way, warm=warm) > 3
    assert files_open() == files


async def test_a_call_cancelled_as_it_waits_for_a_lane_leaves_the_line_in_order() -> None:
    async def crowded(client: Client) -> int:
        """Behind two calls and before one."""
        async with anyio.create_task_group() as group:
            for _ in range(MOST + 1):
                group.start_soon(client.get_balance)
        return await client.get_balance()

    for way in ways():
        assert await sweep(crowded, way) > 3
    for way in ways_by_turns():
        assert await sweep(crowded, way, step=3) > 3


@pytest.mark.parametrize("name", ["get_order_status", "create_order, immediate", "watcher.code", "aclose"])
async def test_a_client_closed_in_any_turn_of_a_call_leaves_no_connection(name: str) -> None:
    for warm in (False, True):
        for n in range(MOST_TURNS):
            if not await closed_in_turn(CALLS[name], n, warm=warm):
                break
        assert n > 5


async def closed_in_turn(call: Call, n: int, *, warm: bool) -> bool:
    """Close the client after n turns of a call; return False when the call was over by then."""
    told: list[str] = []
    till = Till()
    ended: list[object] = []
    async with serve(till) as server:
        client = Client(
            api_key=KEY, base_url=server.url, max_connections=MOST, trust_env=False, on_order=lambda order: told.append(order.id)
        )
        if warm:
            await client.get_balance()

        async def run() -> None:
            try:
                ended.append(await call(client))
            except Exception as error:  # noqa: BLE001 - judged below
                ended.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            for _ in range(n):
                await anyio.lowlevel.checkpoint()
            over = bool(ended)
            await client.aclose()
            sent = len(server.requests)
        await anyio.sleep(1)
        assert server.connections_open == 0, f"closed in turn {n}, {warm=}: {server.connections_open} connections are left"
        assert len(server.requests) == sent, f"closed in turn {n}, {warm=}: {server.requests[-1].target} was sent after aclose() returned"
        assert not any(isinstance(one, BaseExceptionGroup) for one in ended)
        assert set(till.charged) <= set(told)
    return not over


@pytest.mark.parametrize("first", [True, False])
@asyncio_only
async def test_a_native_cancel_at_the_very_moment_of_a_timeout_is_not_swallowed(first: bool) -> None:
    import asyncio

    async with serve(hangs) as server:
        client = Client(base_url=server.url, timeout=2, attempts=1, trust_env=False)
        loop = asyncio.get_running_loop()
        holder: list[asyncio.Task[Any]] = []
        moment = loop.time() + 2
        # Of two timers of one moment the older goes first: ours before the time-out's, or after it.
        plan: list[tuple[float, Any]] = [(moment, lambda: holder[0].cancel()), (moment - 1, lambda: loop.call_at(moment, holder[0].cancel))]  # noqa: PLW0108
        loop.call_at(*plan[0 if first else 1])
        holder.append(asyncio.ensure_future(client.get_order_status(ORDER)))
        await asyncio.wait(holder)
        assert holder[0].cancelled() or loop.time() < moment
        await client.aclose()


@asyncio_only
async def test_nested_asyncio_timeouts_each_see_their_own() -> None:
    import asyncio

    till = Till(delay=5)
    async with serve(till) as server, Client(api_key=KEY, base_url=server.url, trust_env=False) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.create_order(187, "tg", immediate=True)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        inner_ended = False
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                try:
                    async with asyncio.timeout(1):
                        await client.create_order(187, "tg", immediate=True)
                except TimeoutError:  # pragma: no cover - both had passed: it is the outer one's
                    inner_ended = True
        assert (task.cancelling(), inner_ended) == (0, False)
        assert [order.id for order in client.orphaned_orders] == till.charged
        assert len(till.charged) == 2
