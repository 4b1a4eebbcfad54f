"""An invoice is paid beside the polls, once, and the order's status decides; the whole job is one call."""

import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import attrs
import httpx
import pytest

from sms4sats_async import (
    APIError,
    Client,
    Order,
    OrderExpired,
    OrderFailed,
    OrderKind,
    OrderUnresolved,
    PayingWatcher,
    PaymentFailed,
    PriceTooHigh,
    Received,
    Sent,
    SmsStatus,
    receive_code,
    send_sms,
)
from sms4sats_async.payers import MOST_REMEMBERED, PAYMENT_GRACE
from sms4sats_async.sandbox import Sandbox, SandboxOrder, Timeline
from tests.suspension import no_task_left, run_virtually, ways
from tests.test_cancellation import backends
from tests.test_watcher import CODED, NO_NUMBER, NUMBERED, ORDER_ID, PAID, TOO_EARLY, Service, order

INVOICE = "lnbc15u1" + "q" * 90
KEY = "key-of-a-test-0001"
SOON: dict[float, dict[str, Any]] = {0: {}, 5: PAID, 10: NUMBERED, 40: CODED}


class Interrupted(BaseException):
    """What ``KeyboardInterrupt`` is to a library: no ``Exception``."""


class NoRouteError(Exception):
    """What a wallet raises."""


class Wallet:
    """A payer: its call takes so many seconds, and ends as told.

    Attributes:
        asked: the invoices that it was given.
        cancelled_at: when its call was cancelled, if it was; ``ended_at``: when it came to any end.
    """

    def __init__(self, takes: float = 0.0, ends: Callable[[], object] = lambda: "settled", *, stubborn: bool = False) -> None:
        self.takes = takes
        self.ends = ends
        self.stubborn = stubborn
        self.asked: list[str] = []
        self.cancelled_at: float | None = None
        self.ended_at: float | None = None

    async def pay(self, invoice: str) -> object:
        self.asked.append(invoice)
        try:
            await self._wait()
            return self.ends()
        except anyio.get_cancelled_exc_class():
            self.cancelled_at = anyio.current_time()
            raise
        finally:
            self.ended_at = anyio.current_time()

    async def _wait(self) -> None:
        try:
            await anyio.sleep(self.takes)
        except anyio.get_cancelled_exc_class():
            if not self.stubborn:
                raise
            await anyio.sleep(self.takes)


HANGS = 1e6


def raising(error: BaseException) -> Callable[[], object]:
    def ends() -> object:
        raise error

    return ends


def unpaid(**options: Any) -> Order:
    return order(payreq=INVOICE, **options)


@asynccontextmanager
async def client_of(service: httpx.AsyncBaseTransport, **options: Any) -> AsyncIterator[Client]:
    async with Client(transport=service, **options) as client:
        if isinstance(service, Service):
            assert service.now == 0
        yield client


async def code_of(service: Service, wallet: Wallet, **options: Any) -> str:
    async with client_of(service) as client, PayingWatcher(client, unpaid(), pay=wallet.pay, **options) as watcher:
        return await watcher.code()


# --- what a payment may do -----------------------------------------------------------------------------------------------------------


async def test_a_payment_that_blocks_until_the_code_comes_runs_beside_the_polls() -> None:
    service, wallet = Service(SOON), Wallet(41)
    with no_task_left():
        assert await code_of(service, wallet) == "004217"
    assert wallet.asked == [INVOICE]
    assert (wallet.ended_at, wallet.cancelled_at) == (41, None)
    assert len([at for at in service.asked if at < 41]) > 10
    assert service.now <= 40 + 3.3
    assert service.cancelled == []


async def test_a_payment_that_is_pending_at_once_is_left_to_the_status() -> None:
    service, wallet = Service(SOON), Wallet(0, lambda: "pending")
    assert await code_of(service, wallet) == "004217"
    assert 40 <= service.now <= 43.3


@pytest.mark.parametrize("takes", [0, 3, 8, 30])
async def test_a_payment_that_raises_though_the_money_is_held_changes_nothing(takes: float) -> None:
    service = Service({0: {}, takes + 1.5: PAID, 40: NUMBERED, 60: CODED})
    assert await code_of(service, Wallet(takes, raising(NoRouteError()))) == "004217"
    assert service.cancelled == []


async def test_a_payment_that_raises_and_did_not_pay_is_told_after_two_looks() -> None:
    service, problem = Service({0: {}}), NoRouteError("no route")
    with pytest.raises(PaymentFailed, match=r"^order 64\.\.d8: its payment raised NoRouteError, and it is still unpaid$") as caught:
        await code_of(service, Wallet(0.5, raising(problem)))
    assert caught.value.__cause__ is problem
    assert (caught.value.order_id, caught.value.status is not None) == (ORDER_ID, True)
    assert service.calls[:4] == ["/orderstatus"] * 3 + ["/cancelorder"]  # the first look was before it; and the invoice could still be paid
    assert 3.6 <= service.now <= 4.4
    assert len(service.cancelled) == 1


async def test_a_look_that_was_under_way_as_the_payment_raised_is_none_of_the_two() -> None:
    service = Service({0: {}}, takes=1)
    with pytest.raises(PaymentFailed):
        await code_of(service, Wallet(0.5, raising(NoRouteError())))
    assert len([at for at in service.asked if 0.5 < at < service.cancelled[0]]) == 2


async def test_one_unpaid_look_after_the_payment_raised_is_not_enough() -> None:
    service = Service({0: {}, 3: PAID, 20: CODED})
    assert await code_of(service, Wallet(1, raising(NoRouteError()))) == "004217"
    assert [at for at in service.asked if 1 < at < 3] != []


async def test_polls_that_fail_are_no_looks() -> None:
    service = Service({0: {}}, down=(0.2, 100))
    with pytest.raises(PaymentFailed):
        await code_of(service, Wallet(0.1, raising(NoRouteError())))
    assert len([at for at in service.asked if at >= 100]) == 2 + 1  # and one after the cancel


async def test_a_payment_that_raised_is_noted_on_another_end_of_an_unpaid_order() -> None:
    service = Service({0: {}}, down=(0.2, 5000))
    with pytest.raises(OrderUnresolved) as caught:
        await code_of(service, Wallet(0.1, raising(NoRouteError())), payment_window=60)
    assert "its payment raised NoRouteError" in caught.value.__notes__


@pytest.mark.parametrize("work", [PayingWatcher.paid, PayingWatcher.number, PayingWatcher.code, lambda watcher: anext(aiter(watcher))])
async def test_every_wait_tells_of_a_failed_payment(work: Callable[[PayingWatcher], Awaitable[object]]) -> None:
    async with client_of(Service({0: {}})) as client:
        with pytest.raises(PaymentFailed):
            async with PayingWatcher(client, unpaid(), pay=Wallet(0, raising(NoRouteError())).pay) as watcher:
                await work(watcher)
                await watcher.code()  # of the iteration: its first status is no end


async def test_several_tasks_that_wait_are_all_told() -> None:
    told: list[PaymentFailed] = []
    service = Service({0: {}})

    async def wait(watcher: PayingWatcher) -> None:
        try:
            await watcher.code()
        except PaymentFailed as error:
            told.append(error)

    async with client_of(service) as client, PayingWatcher(client, unpaid(), pay=Wallet(0, raising(NoRouteError())).pay) as watcher:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait, watcher)
        polls = len(service.asked)
        with pytest.raises(PaymentFailed):
            await watcher.paid()
    assert (len(told), len({id(error) for error in told})) == (3, 3)
    assert len(service.asked) >= polls


async def test_a_payment_that_hangs_has_ten_seconds_after_the_code() -> None:
    service, wallet = Service(SOON), Wallet(HANGS)
    with no_task_left():
        assert await code_of(service, wallet, poll_interval=1) == "004217"
    assert wallet.cancelled_at == pytest.approx(service.asked[-1] + PAYMENT_GRACE)
    assert service.now == pytest.approx(wallet.cancelled_at)


async def test_a_payment_that_overhears_its_cancellation_once_is_cancelled_again() -> None:
    service, wallet = Service(SOON), Wallet(HANGS, stubborn=True)
    with no_task_left():
        assert await code_of(service, wallet) == "004217"
    assert service.now <= 40 + 3.3 + PAYMENT_GRACE


async def test_a_payment_has_ten_seconds_after_a_bad_end_too() -> None:
    service, wallet = Service({0: {}, 5: PAID, 20: NO_NUMBER}), Wallet(25)
    with pytest.raises(OrderFailed):
        await code_of(service, wallet)
    assert (wallet.cancelled_at, wallet.ended_at) == (None, 25)


async def test_an_order_that_is_never_paid_expires_while_its_payment_hangs() -> None:
    service, wallet = Service({0: {}}), Wallet(HANGS)
    with pytest.raises(OrderExpired) as caught:
        await code_of(service, wallet, payment_window=300)
    assert (caught.value.paid, caught.value.cancelled) == (False, True)
    assert wallet.cancelled_at == pytest.approx(300, abs=1)  # it must not be paid now
    assert service.now == pytest.approx(wallet.cancelled_at)


async def test_a_payment_that_raises_a_cancellation_of_its_own_has_failed() -> None:
    with pytest.raises(PaymentFailed) as caught:
        await code_of(Service({0: {}}), Wallet(1, raising(await own_cancellation())))
    assert isinstance(caught.value.__cause__, anyio.get_cancelled_exc_class())


async def own_cancellation() -> BaseException:
    seen: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class() as cancelled:
            seen.append(cancelled)
            raise
    return seen[0]


async def test_a_plain_function_that_shows_the_invoice_has_paid_as_well_as_any_other() -> None:
    shown: list[str] = []
    pay: Any = shown.append
    async with client_of(Service(SOON)) as client, PayingWatcher(client, unpaid(), pay=pay) as watcher:
        assert await watcher.code() == "004217"
    assert shown == [INVOICE]


async def test_the_payment_of_an_order_that_ends_in_the_block_is_stopped_then_and_not_as_the_block_is_left() -> None:
    never_paid, paid = Service({0: {}}), Service({0: PAID, 20: NO_NUMBER})
    for service, stopped_at in ((never_paid, 3.0), (paid, 20 + 3.3 + PAYMENT_GRACE)):
        wallet = Wallet(HANGS)
        async with client_of(service) as client, PayingWatcher(client, unpaid(), pay=wallet.pay) as watcher:
            began = anyio.current_time()
            if service is never_paid:
                await anyio.sleep(3)
                await watcher.cancel()
            else:
                with pytest.raises(OrderFailed):
                    await watcher.code()
            await anyio.sleep(500)
            assert wallet.cancelled_at is not None
            assert wallet.cancelled_at - began <= stopped_at


@pytest.mark.measured("on both loops")
@pytest.mark.parametrize("grouped", [False, True])
async def test_what_is_no_exception_is_raised_by_the_wait_and_at_once(grouped: bool) -> None:
    loud = Interrupted()
    service = Service({0: PAID})
    with pytest.raises(Interrupted) as caught:
        await code_of(service, Wallet(1, raising(BaseExceptionGroup("two", [loud, OSError()]) if grouped else loud)), poll_interval=100)
    assert caught.value is loud
    assert service.now < 12


async def test_a_group_of_errors_is_the_cause_of_one_error() -> None:
    problem = ExceptionGroup("two", [OSError(), NoRouteError()])
    with pytest.raises(PaymentFailed) as caught:
        await code_of(Service({0: {}}), Wallet(0, raising(problem)))
    assert caught.value.__cause__ is problem


@pytest.mark.measured("on both loops")
async def test_what_is_no_exception_is_raised_where_nobody_waits() -> None:
    async with client_of(Service({0: CODED})) as client:
        with pytest.raises(Interrupted):
            async with PayingWatcher(client, unpaid(), pay=Wallet(1, raising(Interrupted())).pay) as watcher:
                await watcher.code()


@backends
@pytest.mark.parametrize("loud", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_a_payment_ends_the_program(backend: str, loud: type[BaseException]) -> None:
    async def main() -> None:
        await code_of(Service({0: PAID}), Wallet(1, raising(loud())))

    with pytest.raises(loud):
        run_virtually(backend, main)


async def test_send_and_fund_orders_are_paid_as_well() -> None:
    service = Service({0: {}, 5: PAID | {"smsStatus": "created"}, 9: PAID | {"smsStatus": "delivered"}})
    async with client_of(service) as client, PayingWatcher(client, unpaid(kind=OrderKind.send), pay=Wallet(5).pay) as sms:
        assert await sms.sent() == SmsStatus.delivered
    async with (
        client_of(Service({0: {}, 5: PAID})) as client,
        PayingWatcher(client, unpaid(kind=OrderKind.fund), pay=Wallet(5).pay) as fund,
    ):
        await fund.paid()


async def test_no_words_of_a_payment_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sms4sats_async")
    await code_of(Service(SOON), Wallet(8, raising(NoRouteError(f"of {INVOICE}"))))
    await code_of(Service(SOON), Wallet(1))
    assert "order 64..d8: its payment raised NoRouteError" in caplog.text
    assert "order 64..d8: its payment has returned" in caplog.text
    assert INVOICE not in caplog.text
    assert ORDER_ID not in caplog.text


# --- once, and when ------------------------------------------------------------------------------------------------------------------


async def test_a_payment_is_begun_once_for_an_order() -> None:
    service, wallet = Service(SOON), Wallet()
    ordered = unpaid()
    async with client_of(service) as client:
        watcher = PayingWatcher(client, ordered, pay=wallet.pay)
        async with watcher:
            await watcher.paid()
            with pytest.raises(RuntimeError, match="a PayingWatcher can be entered once"):
                await watcher.__aenter__()
            for again in (ordered, Order.from_dict(ordered.to_dict()), attrs.evolve(ordered, service="wa")):
                with pytest.raises(RuntimeError, match=r"^order 64\.\.d8: its payment was begun before"):
                    await PayingWatcher(client, again, pay=wallet.pay).__aenter__()
            await watcher.code()
    assert wallet.asked == [INVOICE]


async def test_a_stored_order_is_not_paid_again_when_nobody_has_the_first_one_any_more() -> None:
    wallet = Wallet()
    stored: list[dict[str, Any]] = []
    async with client_of(Service(SOON)) as client:

        async def once() -> None:
            ordered = unpaid()
            stored.append(ordered.to_dict())
            async with PayingWatcher(client, ordered, pay=wallet.pay) as watcher:
                await watcher.paid()

        await once()
        gc.collect()
        with pytest.raises(RuntimeError, match="its payment was begun before"):
            await PayingWatcher(client, Order.from_dict(stored[0]), pay=wallet.pay).__aenter__()
    assert wallet.asked == [INVOICE]


async def test_only_the_newest_payments_are_remembered() -> None:
    wallet, first = Wallet(), unpaid()
    async with client_of(Service({0: {}})) as client:
        for ordered in (first, *(Order(f"order-{number}", payreq=INVOICE) for number in range(MOST_REMEMBERED)), first):
            async with PayingWatcher(client, ordered, pay=wallet.pay, cancel_on_exit=False):
                pass
    assert len(wallet.asked) == MOST_REMEMBERED + 2


async def test_nothing_is_paid_before_the_block_is_entered_and_waiting_says_so() -> None:
    service, wallet = Service(SOON), Wallet()
    async with client_of(service) as client:
        watcher = PayingWatcher(client, unpaid(), pay=wallet.pay)
        assert repr(watcher).startswith("<PayingWatcher of Order(id='64..d8'")
        for wait in (watcher.paid, watcher.number, watcher.code, watcher.cancel, lambda: anext(aiter(watcher))):
            with pytest.raises(RuntimeError, match="nothing is paid before the block is entered"):
                await wait()
    assert (wallet.asked, service.calls) == ([], [])


async def test_one_can_wait_on_after_the_block() -> None:
    service = Service({0: {}, 5: PAID, 40: CODED}, [TOO_EARLY])
    async with client_of(service) as client:
        async with PayingWatcher(client, unpaid(), pay=Wallet(HANGS).pay) as watcher:
            await watcher.paid()
        assert await watcher.code() == "004217"


@pytest.mark.parametrize("ordered", [ORDER_ID, Order(ORDER_ID), Order(ORDER_ID, prepaid=True, payreq=INVOICE)])
async def test_there_must_be_an_invoice_to_pay(ordered: Any) -> None:
    async with client_of(Service({})) as client:
        with pytest.raises(ValueError, match="order must have an invoice to pay"):
            PayingWatcher(client, ordered, pay=Wallet().pay)


async def test_pay_must_be_callable() -> None:
    async with client_of(Service({})) as client:
        with pytest.raises(TypeError, match="pay must be callable, not str"):
            PayingWatcher(client, unpaid(), pay="lncli payinvoice")  # type: ignore[arg-type]


async def test_with_a_closed_client_nothing_is_paid() -> None:
    wallet = Wallet()
    client = Client(transport=Service({}))
    await client.aclose()
    with pytest.raises(RuntimeError, match="the client is closed"):
        await PayingWatcher(client, unpaid(), pay=wallet.pay).__aenter__()
    assert wallet.asked == []


async def test_a_payment_ends_with_a_client_that_is_closed_under_it() -> None:
    service, wallet = Service({0: {}}), Wallet(HANGS)
    async with client_of(service) as client, anyio.create_task_group() as tasks:

        async def close() -> None:
            await anyio.sleep(1)
            await client.aclose()

        tasks.start_soon(close)
        with pytest.raises(OrderUnresolved):
            async with PayingWatcher(client, unpaid(), pay=wallet.pay) as watcher:
                await watcher.code()
    assert wallet.cancelled_at == 1


# --- leaving -------------------------------------------------------------------------------------------------------------------------


class Left(Exception):
    """What a block is left by."""


def leaves(by_error: bool) -> None:
    if by_error:
        raise Left


async def leave(service: Service, wallet: Wallet, *, paid: bool, error: bool, **options: Any) -> None:
    """Leave a block, once its order is paid or before, by an error or just so."""
    async with client_of(service) as client:
        with suppress(Left):
            async with PayingWatcher(client, unpaid(**options.pop("of", {})), pay=wallet.pay, **options) as watcher:
                await anyio.sleep(1)
                if paid:
                    await watcher.paid()
                leaves(error)


by_error_or_so = pytest.mark.parametrize("error", [False, True], ids=["just so", "by an error"])


@by_error_or_so
async def test_the_payment_of_an_order_that_is_given_up_unpaid_is_stopped_before_the_service_is_asked(error: bool) -> None:
    service, wallet = Service({0: {}}, takes=0.1), Wallet(HANGS)
    await leave(service, wallet, paid=False, error=error)
    assert wallet.cancelled_at == 1
    assert len(service.cancelled) == 1
    assert service.now == pytest.approx(1.2, abs=0.15)


@by_error_or_so
async def test_the_payment_of_an_order_that_is_paid_has_ten_seconds_after_its_cancel(error: bool) -> None:
    service, wallet = Service({0: PAID}, takes=0.1), Wallet(HANGS)
    await leave(service, wallet, paid=True, error=error)
    assert len(service.cancelled) == 1
    assert wallet.cancelled_at == pytest.approx(1.1 + 0.2 + PAYMENT_GRACE, abs=0.15)


@pytest.mark.parametrize("how", [{"cancel_on_exit": False}, {"of": {"kind": OrderKind.send}}], ids=["asked for", "an sms"])
async def test_the_payment_of_an_order_that_is_left_alone_has_its_ten_seconds(how: dict[str, Any]) -> None:
    service, wallet = Service({0: {}}), Wallet(6)
    await leave(service, wallet, paid=False, error=False, **how)
    assert (wallet.cancelled_at, wallet.ended_at, service.cancelled) == (None, 6, [])


async def test_the_callers_cancellation_stops_the_payment_before_the_service_is_asked() -> None:
    service, wallet = Service({0: PAID}, takes=0.5), Wallet(HANGS)
    with no_task_left(), anyio.move_on_after(20) as scope:
        await code_of(service, wallet)
    assert scope.cancelled_caught
    assert wallet.cancelled_at == 20
    assert len(service.cancelled) == 1
    assert service.now == pytest.approx(21, abs=0.6)


async def test_the_callers_cancellation_cuts_the_ten_seconds_short() -> None:
    service, wallet = Service({0: CODED}), Wallet(HANGS)
    with no_task_left(), anyio.move_on_after(4) as scope:
        await code_of(service, wallet)
    assert scope.cancelled_caught
    assert (service.now, wallet.cancelled_at) == (4, 4)


async def test_the_callers_cancellation_as_the_service_is_asked_leaves_no_ten_seconds() -> None:
    service, wallet = Service({0: PAID}, takes=2), Wallet(HANGS)
    with no_task_left(), anyio.move_on_after(5):
        await leave(service, wallet, paid=True, error=False)
    assert wallet.cancelled_at == service.now < 8


async def test_a_payment_that_is_given_up_before_it_could_begin_is_not_begun() -> None:
    service, wallet = Service({0: {}}), Wallet()
    async with client_of(service) as client:
        with pytest.raises(Left):
            async with PayingWatcher(client, unpaid(), pay=wallet.pay):
                raise Left
    assert wallet.asked == []


# --- the whole job -------------------------------------------------------------------------------------------------------------------


class Till:
    """A sandbox, and a wallet that pays there, and whose call returns when the money is taken or back.

    Attributes:
        numbers: what ``on_number`` was told, and when.
    """

    def __init__(self, timeline: Timeline | None = None, **options: Any) -> None:
        self.sandbox = Sandbox(timeline=timeline or Timeline.typical(), accounts={KEY: 100_000}, **options)
        self.paid: list[str] = []
        self.numbers: list[tuple[str, float]] = []

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        async with Client(transport=self.sandbox.transport(), api_key=KEY, **options) as client:
            yield client

    @property
    def order(self) -> SandboxOrder:
        [only] = self.sandbox.orders.values()
        return only

    async def pay(self, invoice: str) -> str:
        self.paid.append(invoice)
        assert self.order.payreq == invoice
        await anyio.sleep(1)
        self.sandbox.pay(self.order.id)
        while True:
            await anyio.sleep(1)
            if not self.order.held:
                return "settled"

    def tell(self, number: str) -> None:
        self.numbers.append((number, anyio.current_time()))

    async def tell_slowly(self, number: str) -> None:
        self.tell(number)
        await anyio.sleep(300)

    @property
    def asked(self) -> list[str]:
        return [call.path for call in self.sandbox.calls]


@pytest.mark.parametrize("max_sats", [None, 1500])
async def test_the_whole_job_of_a_code_is_one_call(max_sats: int | None) -> None:
    till = Till()
    with no_task_left():
        async with till.client() as client:
            received = await receive_code(client, 187, "tg", pay=till.pay, on_number=till.tell, max_sats=max_sats)
            assert client.orphaned_orders == []
    assert isinstance(received, Received)
    assert (received.code, received.number) == (till.order.code, till.order.number)
    assert (received.order.id, till.paid) == (till.order.id, [received.order.payreq])
    [(number, at)] = till.numbers
    assert number == received.number
    assert 9 <= at <= 13
    assert 46 <= anyio.current_time() <= 49.5
    assert "/cancelorder" not in till.asked
    assert received.code not in repr(received)
    assert number not in repr(received)


async def test_while_on_number_runs_nobody_polls_and_a_code_that_came_meanwhile_is_returned_at_once_after_it() -> None:
    till = Till()
    async with till.client() as client:
        received = await receive_code(client, 187, "tg", pay=till.pay, on_number=till.tell_slowly)
    [(_, at)] = till.numbers
    assert received.code == till.order.code
    assert anyio.current_time() == pytest.approx(at + 300, abs=0.1)
    assert [call.at for call in till.sandbox.calls if at + 0.001 < call.at < at + 299] == []


async def test_a_code_without_a_number_is_returned_without_telling_one() -> None:
    service = Service({0: PAID | {"code": "004217"}})
    placing = Placing(service)
    told: list[str] = []
    async with client_of(placing) as client:
        received = await receive_code(client, 187, "tg", pay=Wallet().pay, on_number=told.append)
    assert (received.code, received.number, told) == ("004217", None, [])


class Placing(httpx.AsyncBaseTransport):
    """A service that takes an order, and what it says of it."""

    def __init__(self, service: Service, payreq: str = INVOICE) -> None:
        self.service = service
        self.payreq = payreq

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"status": "OK", "orderId": ORDER_ID, "payreq": self.payreq})
        return await self.service.handle_async_request(request)


async def test_an_order_that_is_paid_already_is_not_paid() -> None:
    wallet = Wallet()
    async with client_of(Placing(Service({0: CODED}), "paid")) as client:
        assert (await receive_code(client, 187, "tg", pay=wallet.pay)).code == "004217"
    assert wallet.asked == []


async def test_a_code_is_charged_to_the_balance() -> None:
    till = Till()
    async with till.client() as client:
        received = await receive_code(client, 187, "tg", immediate=True)
    assert (received.code, received.order.prepaid, till.order.settled) == (till.order.code, True, True)


async def test_an_error_of_on_number_is_raised_as_it_is_and_its_order_is_asked_to_be_cancelled() -> None:
    for problem in (Left(), ExceptionGroup("theirs", [Left()])):
        till = Till()
        async with till.client() as client:
            with pytest.raises(type(problem)) as caught:
                await receive_code(client, 187, "tg", pay=till.pay, on_number=lambda _, problem=problem: raising(problem)())  # type: ignore[misc]
            assert caught.value is problem
            assert till.asked.count("/cancelorder") == 1
            assert [order.id for order in client.orphaned_orders] == [till.order.id]
            assert "is in client.orphaned_orders" in caught.value.__notes__[-1]
            assert till.order.id not in str(caught.value.__notes__)


async def test_an_order_whose_caller_was_cancelled_is_not_forgotten() -> None:
    told: list[Order] = []
    till = Till()
    async with till.client(on_order=told.append) as client:
        with anyio.move_on_after(30):
            await receive_code(client, 187, "tg", pay=till.pay)
        assert [order.id for order in client.orphaned_orders] == [till.order.id]
        assert told == client.orphaned_orders
        assert till.asked.count("/cancelorder") == 1


@pytest.mark.parametrize("k", range(1, 12))
async def test_an_order_is_known_wherever_its_caller_is_cancelled(k: int) -> None:
    for way in ways():
        till = Till()
        async with till.client() as client:
            await way(lambda client=client, till=till: receive_code(client, 187, "tg", pay=till.pay), k)  # type: ignore[misc]
            assert {*till.sandbox.orders} >= {order.id for order in client.orphaned_orders}
            assert len(client.orphaned_orders) == len(till.sandbox.orders)
            assert till.paid == [] or till.order.id == client.orphaned_orders[0].id


async def test_an_order_that_is_too_dear_is_never_paid() -> None:
    till = Till()
    async with till.client() as client:
        for job in (
            lambda: receive_code(client, 187, "tg", pay=till.pay, max_sats=1499),
            lambda: send_sms(client, "+12025550143", "hello", pay=till.pay, max_sats=2999),
        ):
            with pytest.raises(PriceTooHigh):
                await job()
    assert till.paid == []


async def test_a_payment_that_failed_in_a_whole_job_is_told_with_its_order() -> None:
    till = Till()
    async with till.client() as client:
        with pytest.raises(PaymentFailed) as caught:
            await receive_code(client, 187, "tg", pay=Wallet(0, raising(NoRouteError())).pay)
        assert [order.id for order in client.orphaned_orders] == [caught.value.order_id] == [till.order.id]  # a payment may come late


class Late:
    """A wallet that gives up after a while, and whose payment arrives all the same, when the order is asked to be cancelled."""

    def __init__(self, timeline: Timeline) -> None:
        self.sandbox = Sandbox(timeline=timeline)
        self.transport = self.sandbox.transport()
        self.numbers: list[str] = []

    async def pay(self, _: str) -> None:
        await anyio.sleep(1)
        raise NoRouteError

    def client(self) -> Client:
        return Client(transport=Before(self.transport, "/cancelorder", self._arrives))

    def _arrives(self) -> None:
        [placed] = self.sandbox.orders
        self.sandbox.pay(placed)


class Before(httpx.AsyncBaseTransport):
    """Does something before a request for this path is handed on."""

    def __init__(self, transport: httpx.AsyncBaseTransport, path: str, do: Callable[[], object]) -> None:
        self._transport = transport
        self._path = path
        self._do = do

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == self._path:
            self._do()
        return await self._transport.handle_async_request(request)


@pytest.mark.parametrize("code_after", [0.0, 30.0])
async def test_a_payment_that_arrives_as_its_order_is_given_up_has_paid(code_after: float) -> None:
    late = Late(Timeline(number_after=0, code_after=code_after, code="004217"))
    async with late.client() as client:
        received = await receive_code(client, 187, "tg", pay=late.pay, on_number=late.numbers.append)
        assert (received.code, late.numbers) == ("004217", [received.number])
        assert client.orphaned_orders == []


async def test_an_order_whose_on_number_fails_with_an_error_of_ours_is_not_forgotten() -> None:
    till = Till()

    def ask_of_another(_: str) -> None:
        raise APIError("no such order", order_id="another")

    async with till.client() as client:
        with pytest.raises(APIError, match="no such order") as caught:
            await receive_code(client, 187, "tg", pay=till.pay, on_number=ask_of_another)
        assert [order.id for order in client.orphaned_orders] == [till.order.id]
        assert "was placed: it is in client.orphaned_orders" in caught.value.__notes__[-1]


async def test_whoever_is_cancelled_as_a_code_is_there_is_told_that_it_has_come() -> None:
    till = Till(Timeline(number_after=0, code_after=30))

    async def hangs(invoice: str) -> None:
        till.sandbox.pay(till.order.id)
        await anyio.sleep(HANGS)

    seen: list[BaseException] = []
    async with till.client() as client:
        with anyio.move_on_after(36):
            try:
                await receive_code(client, 187, "tg", pay=hangs)
            except BaseException as error:
                seen.append(error)
                raise
        assert [order.id for order in client.orphaned_orders] == [till.order.id]
    assert any(", and its code has come: it is in client.orphaned_orders" in note for note in seen[0].__notes__)


@pytest.mark.parametrize(
    ("given", "wrong", "words"),
    [
        ({}, ValueError, "either pay or immediate=True"),
        ({"pay": Wallet().pay, "immediate": True}, ValueError, "either pay or immediate=True"),
        ({"pay": "lncli"}, TypeError, "pay must be callable"),
        ({"immediate": 1}, TypeError, "immediate must be a bool"),
        ({"pay": Wallet().pay, "on_number": "call"}, TypeError, "on_number must be callable"),
        ({"pay": Wallet().pay, "hold_window": -1}, ValueError, "hold_window must be positive"),
        ({"pay": Wallet().pay, "poll_interval": "fast"}, TypeError, "poll_interval must be a number"),
        ({"pay": Wallet().pay, "max_sats": 0}, ValueError, "max_sats must be positive"),
    ],
)
async def test_a_mistake_is_told_before_anything_is_sent(given: dict[str, Any], wrong: type[Exception], words: str) -> None:
    till = Till()
    async with till.client() as client:
        with pytest.raises(wrong, match=words):
            await receive_code(client, 187, "tg", **given)
        if "on_number" not in given:
            with pytest.raises(wrong, match=words):
                await send_sms(client, "+12025550143", "hello", **given)
    assert till.asked == []


async def test_the_whole_job_of_an_sms_is_one_call() -> None:
    till = Till()
    async with till.client() as client:
        sent = await send_sms(client, "+12025550143", "hello", pay=till.pay, max_sats=3000)
        assert isinstance(sent, Sent)
        assert (sent.sms_status, sent.order.id, till.order.message) == (SmsStatus.sent, till.order.id, "hello")
        assert (await send_sms(client, "+12025550143", "hello", immediate=True)).order.prepaid


async def test_an_sms_whose_caller_was_cancelled_is_not_forgotten() -> None:
    till = Till(Timeline())
    async with till.client() as client:
        with anyio.move_on_after(30):
            await send_sms(client, "+12025550143", "hello", pay=till.pay)
        assert [order.id for order in client.orphaned_orders] == [till.order.id]
