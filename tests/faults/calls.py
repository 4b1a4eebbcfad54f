"""The calls that place an order, and what must come of each class of calls when its requests meet a fault.

There are four classes: what only reads, a cancel, an order by an invoice that nobody has paid yet, and an order that spends from the
balance at once. The truth is the service's: what it was asked, which orders it has, and which of them cost money.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

from sms4sats_async import (
    CancelRefused,
    Client,
    Order,
    OrderStatus,
    OrderWatcher,
    OutcomeUnknown,
    Sms4SatsError,
    TransportError,
)
from tests.faults.service import NEVER, WINDOW, Fault, Held, Service, Unseen
from tests.faults.stacks import Stack
from tests.suspension import on_asyncio

KEY = "key-of-a-test-0001"
TIMEOUT = 7.0
"""Seconds for one attempt of the clients here."""

Place = Callable[[Client], Awaitable[Order]]
Work = Callable[[], Awaitable[object]]


async def buy(client: Client) -> Order:
    return await client.create_order(187, "tg", immediate=True)


async def rent(client: Client) -> Order:
    return await client.create_order(6, "full", rental=True, immediate=True)


async def text(client: Client) -> Order:
    return await client.create_send_order("+15551234567", "hello", immediate=True)


async def order(client: Client) -> Order:
    return await client.create_order(187, "tg")


async def rental(client: Client) -> Order:
    return await client.create_order(6, "full", rental=True)


async def message(client: Client) -> Order:
    return await client.create_send_order("+15551234567", "hello")


async def fund(client: Client) -> Order:
    return await client.fund(1000)


PATHS: dict[Place, str] = {
    buy: "/createorder",
    rent: "/createorder",
    text: "/createsendorder",
    order: "/createorder",
    rental: "/createorder",
    message: "/createsendorder",
    fund: "/fund",
}
"""What each of them asks for."""

SPENDING: list[Place] = [buy, rent, text]
BY_INVOICE: list[Place] = [order, rental, message, fund]

spending = pytest.mark.parametrize("spend", SPENDING)
"""For a test that takes a ``spend``: each way to spend from the balance."""


def account(stack: Stack, url: str, **options: Any) -> AbstractAsyncContextManager[Client]:
    """A client with a prepaid account."""
    return stack.client(url, **{"api_key": KEY, "timeout": TIMEOUT, **options})


def one_more(service: Service, *, kind: str = "receive", window: float = WINDOW, **times: float) -> Held:
    """One more order, paid now, that can be cancelled at once; ``code_at`` and the like are seconds from now."""
    now = anyio.current_time()
    moments = {name: now + seconds for name, seconds in times.items()}
    return service.order(f"{len(service.orders) + 1:032}", kind=kind, window=window, cancel_from=0.0, **{"paid_at": now} | moments)


# --- what must come of a fault -----------------------------------------------------------------------------------------------------


async def polled_on(stack: Stack, *faults: Fault) -> None:
    """These faults strike the first looks of a watcher, and its order has its code after 24 s all the same."""
    service = Service()
    service.next("/orderstatus", *faults)
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, number_at=5.0, code_at=24.0)
        assert await OrderWatcher(client, held.id, poll_interval=4).code() == held.code
        assert 0 <= anyio.current_time() - held.code_at <= 4.4
        assert (service.struck, held.most_at_once, held.cancels) == (len(faults), 1, [])


async def read_again(stack: Stack, fault: Fault, kind: type[Sms4SatsError] = TransportError, most: int = 4) -> Sms4SatsError:
    """A read meets this fault and is made again; met each time, it is the error of this kind, which is returned."""
    service = Service()
    service.next("/orderstatus", fault)
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, number_at=0.0)
        status: OrderStatus = await client.get_order_status(held.id)
        assert (status.number, service.asked["/orderstatus"]) == ("+15550001111", 2)
        service.next("/orderstatus", *[fault] * 2 * most)
        with pytest.raises(kind) as caught:
            await client.get_order_status(held.id)
        assert caught.value.order_id == held.id
        # Where a kept connection is lost, our lanes ask once more, uncounted; so does aiohttp, at each attempt.
        assert most <= service.asked["/orderstatus"] - 2 <= (most + 1 if stack.own_lanes else 2 * most)
    return caught.value


async def cancelled_anyway(stack: Stack, fault: Fault, kind: type[Sms4SatsError] = TransportError) -> None:
    """A cancel meets this fault and is made again; a watcher looks in between. Met each time, it is an error."""
    service = Service()
    cancelled_once_seen = not isinstance(fault, Unseen)
    async with service.serving() as server, account(stack, server.url) as client:
        held, watched, lost, refused = (one_more(service) for _ in range(4))
        service.next("/cancelorder", fault)
        await client.cancel_order(held.id)
        service.next("/cancelorder", fault)
        await OrderWatcher(client, watched.id).cancel()
        assert max(held.cancelled_at, watched.cancelled_at) < NEVER
        assert watched.looks
        service.next("/cancelorder", *[fault] * 50)
        with pytest.raises(kind) as caught:
            await client.cancel_order(lost.id)
        assert caught.value.order_id == lost.id
        watcher = OrderWatcher(client, refused.id)
        if cancelled_once_seen:
            await watcher.cancel()
        else:
            with pytest.raises(CancelRefused):
                await watcher.cancel()
        assert (refused.cancelled_at < NEVER) is cancelled_once_seen
        assert refused.looks
        assert refused.most_at_once == 1


async def placed_once_more(stack: Stack, fault: Fault, kind: type[Sms4SatsError] = TransportError, *, salvaged: bool = False) -> None:
    """An order that costs nothing yet meets this fault: it is placed once more, and no third time."""
    service = Service()
    async with service.serving() as server, account(stack, server.url, attempts=9) as client:
        for place in BY_INVOICE:
            asked = service.asked.total()
            service.next(PATHS[place], fault)
            assert (await place(client)).id == [*service.orders][-1]
            assert service.asked.total() - asked == 2
            service.next(PATHS[place], fault, fault)
            with pytest.raises(kind) as caught:
                await place(client)
            assert not isinstance(caught.value, OutcomeUnknown)
            assert caught.value.order_id == ([*service.orders][-1] if salvaged else None)
            assert service.asked.total() - asked == 4
        assert service.charged == service.holding == []


async def spent_once(
    stack: Stack, fault: Fault, kind: type[Sms4SatsError] = TransportError, *, lasting: float = 0.0, salvaged: bool = False
) -> None:
    """An order that spends meets this fault: it is sent once, and its outcome is called unknown, with all that there is to look with."""
    service, told = Service(), list[Order]()
    seen = not isinstance(fault, Unseen)
    async with service.serving() as server, account(stack, server.url, attempts=9, on_order=told.append) as client:
        for times, spend in enumerate(SPENDING, 1):
            service.next(PATHS[spend], fault)
            start = anyio.current_time()
            with pytest.raises(OutcomeUnknown) as caught:
                await spend(client)
            assert anyio.current_time() - start == pytest.approx(lasting)
            assert caught.value.order_id == ([*service.orders][-1] if salvaged else None)
            assert isinstance(caught.value.__cause__, kind)
            assert ("the SMS may have been sent" if spend is text else "the balance may have been charged") in str(caught.value)
            assert (service.asked.total(), len(service.charged)) == (times, times * seen)
        assert await client.get_balance() == 25000
        assert told == client.orphaned_orders == []


async def outcome_of(call: Awaitable[Order | None]) -> tuple[str | None, Sms4SatsError | None]:
    """The id of the order that a call returned, or the error of ours that it raised."""
    try:
        placed = await call
    except Sms4SatsError as error:
        return None, error
    return None if placed is None else placed.id, None


# --- cancellation ------------------------------------------------------------------------------------------------------------------


async def cancelled_after(seconds: float, work: Work) -> BaseException:
    """Cancel this work through a scope, and return the cancellation as the one who awaits the work sees it."""
    seen: list[BaseException] = []
    with anyio.move_on_after(seconds) as scope:
        await noted(work, seen)
    assert scope.cancelled_caught
    return seen[0]


async def cancelled_natively_after(seconds: float, work: Work, times: int = 1) -> BaseException:
    """asyncio: cancel the task of this work, so many times, a tenth of a second apart."""
    seen: list[BaseException] = []
    task = asyncio.ensure_future(noted(work, seen))
    await asyncio.sleep(seconds)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.1)
    await asyncio.wait({task})
    assert task.cancelled()
    return seen[0]


async def noted(work: Work, seen: list[BaseException]) -> None:
    """Do this work, and keep what it raises as well."""
    try:
        await work()
    except BaseException as error:
        seen.append(error)
        raise


Cancel = Callable[[float, Work], Awaitable[BaseException]]


def cancels() -> list[Cancel]:
    """The ways to cancel a call on this backend."""
    return [cancelled_after, cancelled_natively_after] if on_asyncio() else [cancelled_after]
