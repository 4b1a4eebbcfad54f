"""The caller's payment runs beside the polls: it raises, blocks, says "pending", or is made twice, and the service holds the truth."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from sms4sats_async import Client, Order, OrderExpired, PayingWatcher, PaymentFailed, Received, receive_code
from sms4sats_async.payers import PAYMENT_GRACE
from tests.faults.service import INVOICE, Service, status
from tests.faults.stacks import Stack, every_stack
from tests.suspension import no_task_left

COURSE = {"number_after": 10.0, "code_after": 45.0}


class NoRouteError(Exception):
    """What a wallet raises."""


class Wallet:
    """A wallet with a node that knows the service.

    Attributes:
        pays: does the money arrive?
        then: what its call does after that.
    """

    def __init__(self, service: Service, then: Callable[[], Awaitable[object]], *, pays: bool = True) -> None:
        self.service = service
        self.then = then
        self.pays = pays
        self.asked: list[str] = []
        self.ended: list[float] = []

    async def pay(self, invoice: str) -> object:
        self.asked.append(invoice)
        try:
            await anyio.sleep(1)
            if self.pays:
                [order_id] = self.service.orders
                self.service.pay(order_id, **COURSE)
            return await self.then()
        finally:
            self.ended.append(anyio.current_time())


async def says_pending() -> str:
    await anyio.sleep(5)
    return "pending"


async def fails() -> None:
    raise NoRouteError("no route")


def blocks(seconds: float) -> Callable[[], Awaitable[object]]:
    return lambda: anyio.sleep(seconds)


async def received(client: Client, wallet: Wallet) -> Received:
    return await receive_code(client, 187, "tg", pay=wallet.pay)


@every_stack
async def test_row_71_a_payment_that_raises_while_the_money_is_held_costs_no_code(stack: Stack) -> None:
    service = Service()
    wallet = Wallet(service, fails)
    async with service.serving() as server, stack.client(server.url) as client:
        result = await received(client, wallet)
        [held] = service.orders.values()
        assert (result.code, service.charged) == (held.code, [held.id])
    assert held.cancels == []


@every_stack
async def test_row_71_a_payment_that_raised_and_did_not_pay_is_told_after_two_good_looks(stack: Stack) -> None:
    service = Service()
    gone = status(503, b"<html>")
    service.next("/orderstatus", None, gone, None, gone, None)
    wallet = Wallet(service, fails, pays=False)
    async with service.serving() as server, stack.client(server.url) as client:
        with pytest.raises(PaymentFailed) as caught:
            await received(client, wallet)
        [held] = service.orders.values()
        assert (caught.value.order_id, service.charged, service.holding) == (held.id, [], [])
    assert isinstance(caught.value.__cause__, NoRouteError)
    assert len(held.cancels) == 1
    assert len([at for at in held.looks if at < held.cancels[0] - 0.01]) == 4  # one before it, and two that failed


@every_stack
async def test_row_72_a_payment_that_blocks_until_it_settles_runs_beside_the_polls(stack: Stack) -> None:
    service = Service()
    wallet = Wallet(service, blocks(46))
    async with service.serving() as server, stack.client(server.url) as client:
        await received(client, wallet)
        [held] = service.orders.values()
        assert service.charged == [held.id]
    assert len(held.looks) > 10
    assert wallet.ended == [47]


@every_stack
async def test_row_72_a_payment_that_hangs_is_cancelled_ten_seconds_after_the_code(stack: Stack) -> None:
    service = Service()
    wallet = Wallet(service, blocks(1e6))
    with no_task_left():
        async with service.serving() as server, stack.client(server.url) as client:
            await received(client, wallet)
            [held] = service.orders.values()
            assert anyio.current_time() == pytest.approx(held.looks[-1] + PAYMENT_GRACE, abs=0.1)
    assert wallet.ended == pytest.approx([held.looks[-1] + PAYMENT_GRACE], abs=0.1)


@every_stack
async def test_row_72_a_cancelled_caller_stops_its_payment_before_the_service_is_asked(stack: Stack) -> None:
    service = Service()
    wallet = Wallet(service, blocks(1e6))
    async with service.serving() as server, stack.client(server.url) as client:
        with anyio.move_on_after(150):
            async with PayingWatcher(client, await client.create_order(187, "tg"), pay=never_pays(wallet)) as watcher:
                await watcher.code()
        [held] = service.orders.values()
        assert (service.charged, service.holding) == ([], [])
    assert wallet.ended == [150]
    assert len(held.cancels) == 1
    assert held.cancels[0] >= 150


def never_pays(wallet: Wallet) -> Callable[[str], Awaitable[object]]:
    wallet.pays = False
    return wallet.pay


@every_stack
async def test_row_73_a_payment_that_says_pending_decides_nothing(stack: Stack) -> None:
    service = Service()
    async with service.serving() as server, stack.client(server.url) as client:
        result = await received(client, Wallet(service, says_pending))
        [held] = service.orders.values()
        assert (result.code, service.charged) == (held.code, [held.id])
        assert held.cancels == []
        service.orders.clear()
        with pytest.raises(OrderExpired) as caught:  # pending for ever is not paid
            await receive_code(client, 187, "tg", pay=Wallet(service, says_pending, pays=False).pay, payment_window=300)
        assert not caught.value.paid


@every_stack
async def test_row_74_an_invoice_is_given_to_a_wallet_once(stack: Stack) -> None:
    service = Service()
    wallet = Wallet(service, blocks(46))
    async with service.serving() as server, stack.client(server.url) as client:
        order = await client.create_order(187, "tg")
        async with PayingWatcher(client, order, pay=wallet.pay) as watcher:
            await watcher.number()
            for again in (order, Order.from_dict(order.to_dict())):
                with pytest.raises(RuntimeError, match="its payment was begun before"):
                    await PayingWatcher(client, again, pay=wallet.pay).__aenter__()
            await watcher.code()
        with pytest.raises(RuntimeError, match="its payment was begun before"):
            await PayingWatcher(client, order, pay=wallet.pay).__aenter__()
        assert service.charged == [order.id]
    assert wallet.asked == [INVOICE]


@every_stack
async def test_row_74_a_node_that_refuses_the_second_payment_costs_no_code(stack: Stack) -> None:
    service = Service()
    wallet = Wallet(service, fails, pays=False)
    async with service.serving() as server, stack.client(server.url) as client:
        order = await client.create_order(187, "tg")
        service.pay(order.id, **COURSE)  # by hand
        async with PayingWatcher(client, order, pay=wallet.pay) as watcher:
            assert await watcher.code() == service.orders[order.id].code
        assert service.charged == [order.id]
