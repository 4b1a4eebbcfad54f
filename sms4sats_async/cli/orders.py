"""An order from its beginning to its end, in front of a person: placed, shown, paid, watched, and cancelled when they leave."""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from sms4sats_async.cli.ends import MONEY_BACK, ON_ITS_WAY_BACK, Interrupted, Unpaid
from sms4sats_async.cli.paying import PayCommand
from sms4sats_async.cli.screen import Answer, View, sats
from sms4sats_async.cli.session import Desk, Stopped
from sms4sats_async.client import Client
from sms4sats_async.errors import CancelRefused, OrderCancelled, OutcomeUnknown, PaymentFailed
from sms4sats_async.lifecycle import HOLD_WINDOW, Pace, default_pace
from sms4sats_async.models import Order, OrderKind, OrderStatus, SmsStatus, mask
from sms4sats_async.payers import PAYMENT_GRACE, PayingWatcher
from sms4sats_async.watcher import OrderWatcher

CANCEL_PATIENCE = 10.0
"""Seconds that the service is asked to cancel, after Ctrl-C."""
SANDBOX_PACE = 1.0
"""Seconds between two looks at the sandbox, the least that a watcher allows."""

_NOTHING_SENT = "nothing was sent"
_WALLET = "with any Lightning wallet; it shows the payment as pending, because the money is only held until the code comes"
_NO_ANSWER = "the service gave no answer to a cancel"
_PAID = {
    OrderKind.receive: "held until the code comes",
    OrderKind.send: "held until the SMS is sent",
    OrderKind.rental: "the number comes next",
    OrderKind.fund: "the money is on its way to the balance",
}
_UNPAID = "it is not paid, and costs nothing unless its invoice is"


@attrs.frozen
class Waiting:
    """How an order is waited for.

    Attributes:
        seconds: for the payment, and from the payment on for the code; ``None`` for the service's own 21 minutes.
        pay: pays the invoice; ``None`` where the person does.
        follow: go on with each new code of a rental.
        cancel: ask the service to cancel when the person leaves.
    """

    seconds: float | None = None
    pay: PayCommand | None = None
    follow: bool = False
    cancel: bool = True


async def place(desk: Desk, call: Callable[[], Awaitable[Order]], *, prepaid: bool = False) -> Order:
    """Place an order and show it.

    Raises:
        Interrupted: before anything was placed.
        OutcomeUnknown: interrupted as well, while it may have been placed and charged.
    """
    if prepaid:
        desk.signals.told = lambda: desk.screen.say("stopping", "a prepaid order under way is finished first, in 10 s at the most")
    try:
        with desk.screen.live(View()):
            order = await desk.signals.interruptible(call)
    except Stopped as stopped:
        if not desk.client.orphaned_orders:
            raise _not_placed(stopped, prepaid=prepaid) from None
        order = desk.client.orphaned_orders[0]  # what comes next is interrupted as well, and sees to it
    finally:
        desk.signals.told = int
    desk.order = order
    desk.screen.token("order", order.id)
    return order


def _not_placed(stopped: Stopped, *, prepaid: bool) -> Exception:
    doubts = [note for note in stopped.notes if not note.endswith(_NOTHING_SENT)]
    if doubts:
        return OutcomeUnknown(f"interrupted; {doubts[0]}")
    if prepaid:
        return Interrupted("interrupted: nothing was ordered")
    return Interrupted("interrupted: there is nothing to pay, because no invoice was shown")


async def follow(desk: Desk, order: Order | str, waiting: Waiting, *, kind: OrderKind | None = None) -> None:
    """Watch an order to its end, and give what came of it.

    Raises:
        OrderError: its end.
        OrderCancelled: interrupted, and the service confirmed the cancel.
        Unpaid: the command that pays failed.
        Interrupted: and the order goes on.
    """
    window = HOLD_WINDOW / desk.speed if waiting.seconds is None else waiting.seconds
    pace: Pace = default_pace if desk.speed == 1 else lambda _status, _waited: SANDBOX_PACE
    view = View(pace, window)
    wallet = None if waiting.pay is None else _Wallet(desk, waiting.pay)
    watcher = _watcher(desk.client, order, wallet, kind, {"hold_window": window, "payment_window": window, "poll_interval": view.pace})
    desk.order = watcher.order
    _show_invoice(desk, watcher.order, waiting)
    show = _Showing(desk, view, watcher, guess=kind is None and isinstance(order, str))

    given: list[bool] = []

    def answer() -> Answer:
        return _answer(watcher.status, desk.order or watcher.order, bare=isinstance(order, str))

    async def watch() -> None:
        async with watcher:  # leaving it waits for the wallet; the answer is given by then
            more = True
            while more:
                with desk.screen.live(view):
                    more = await show.until_answer() and waiting.follow
                desk.give(answer())
                given.append(True)
            if wallet is not None and wallet.works:
                desk.screen.say("wallet", f"waiting for {wallet.name} to end, {PAYMENT_GRACE:g} s at the most")

    asks = waiting.cancel and watcher.order.kind is OrderKind.receive
    if asks:
        desk.signals.told = lambda: desk.screen.say("stopping", "asking the service to cancel")
    try:
        await desk.signals.interruptible(watch)
    except Stopped:
        if waiting.follow or not given:  # else it was only the wallet that was waited for
            await _leave(desk, watcher, answer, asks=asks)
    except PaymentFailed as failed:
        await _leave(desk, watcher, answer, asks=asks, failure=failed.__cause__)


class _Wallet:
    """The command that pays, with what a person is to know of it.

    Attributes:
        name: what it is called.
        works: has it begun, and not ended?
        watcher: what watches the order that it pays.
    """

    def __init__(self, desk: Desk, pay: PayCommand) -> None:
        self.name = pay.name
        self.works = False
        self.watcher: OrderWatcher | None = None
        self._desk = desk
        self._pay = pay

    async def __call__(self, invoice: str) -> None:
        self.works = True
        try:
            await self._pay(invoice)
        finally:
            self.works = False
        if self.watcher is not None and not _is_paid(self.watcher.order, self.watcher.status):
            self._desk.screen.say("wallet", f"{self.name} has ended; the payment is not seen yet")
            self._desk.screen.token("invoice", invoice)


def _watcher(client: Client, order: Order | str, wallet: _Wallet | None, kind: OrderKind | None, options: dict[str, Any]) -> OrderWatcher:
    """Return what watches the order; cancelling it is ours, because a person is to be told what came of it."""
    if isinstance(order, Order) and order.payreq is not None and wallet is not None:
        wallet.watcher = PayingWatcher(client, order, pay=wallet, cancel_on_exit=False, **options)
        return wallet.watcher
    return OrderWatcher(client, order, kind=kind, cancel_on_exit=False, **options)


async def _leave(
    desk: Desk, watcher: OrderWatcher, answer: Callable[[], Answer], *, asks: bool, failure: BaseException | None = None
) -> None:
    """See to an order that a person leaves, or whose payment failed; give its code, if that has come all the same.

    Raises:
        OrderError, Interrupted: how it was left.
    """
    order = desk.order or watcher.order
    name = f"order {mask(order.id)}"
    reason: str | None = f"there is no cancel for a {order.kind} order"
    if order.kind is OrderKind.receive:
        reason = await _cancel(desk, watcher) if asks else "the service was not asked to cancel it"
    status = watcher.status
    if reason is None and failure is not None:
        text = f"the payment failed: {failure}; {name} is cancelled"
        raise Unpaid(text, order_id=order.id, status=status, cancelled=True) from failure
    if reason is None:
        was = ON_ITS_WAY_BACK if _is_paid(order, status) else "it was not paid"
        raise OrderCancelled(f"interrupted: {name} is cancelled; {was}", order_id=order.id, status=status)
    if order.kind is OrderKind.receive and status is not None:
        if status.code is not None:
            desk.give(answer())
            return
        if status.error is not None:
            await watcher.code()  # it has ended otherwise, and raises just that
    goes_on = "may be cancelled, or may go on" if reason == _NO_ANSWER else "goes on"
    left = f"{name} {goes_on}: {reason}{_state(order, status)}"
    if failure is not None:
        raise Unpaid(f"the payment failed: {failure}; {left}", order_id=order.id, status=status, reason=reason) from failure
    raise Interrupted(f"interrupted: {left}", order=order, reason=reason)


def _is_paid(order: Order, status: OrderStatus | None) -> bool:
    return order.prepaid or (status is not None and status.paid)


def _state(order: Order, status: OrderStatus | None) -> str:
    """What becomes of the money of an order that goes on."""
    if not _is_paid(order, status):
        return "" if order.payreq is None else f"; {_UNPAID}"
    return f"; {MONEY_BACK}" if order.kind is OrderKind.receive else ""


async def _cancel(desk: Desk, watcher: OrderWatcher) -> str | None:
    """Ask the service to cancel, and return why it did not; ``None`` when it did."""
    try:
        await desk.signals.interruptible(watcher.cancel, anew=True, seconds=CANCEL_PATIENCE)
    except CancelRefused as refused:
        return f"the service would not cancel it: {refused.reason}"
    except Stopped:
        return _NO_ANSWER
    return None


def _show_invoice(desk: Desk, order: Order, waiting: Waiting) -> None:
    screen = desk.screen
    if order.prepaid:
        screen.say("paid", "from the prepaid balance")
    if order.payreq is None:
        return
    screen.say("price", sats(order.amount_sats) if order.amount_sats is not None else "the invoice leaves it to the payer")
    if waiting.pay is not None:
        screen.say("paying", f"with {waiting.pay.name}")
        return
    screen.token("invoice", order.payreq)
    screen.say("pay", _WALLET if order.kind is OrderKind.receive else "with any Lightning wallet")
    if desk.speed != 1:
        screen.say("", "here it is paid by itself: this is the sandbox")
    screen.qr(order.payreq)


class _Showing:
    """Tells a person each thing that happens to an order, once.

    Args:
        guess: is its kind to be taken from its status?
    """

    def __init__(self, desk: Desk, view: View, watcher: OrderWatcher, *, guess: bool) -> None:
        self._desk = desk
        self._screen = desk.screen
        self._view = view
        self._order = watcher.order
        self._guess = guess
        self._statuses = aiter(watcher)
        self._paid = watcher.order.prepaid
        self._number: str | None = None
        self._code: str | None = None
        self._sms: str | None = None
        view.waiting_for = self._next()
        view.counts = self._order.kind is OrderKind.receive

    async def until_answer(self) -> bool:
        """Show what happens until there is an answer; is the order one that can bring another?"""
        async for status in self._statuses:
            self._show(status)
            if status.code != self._code and self._order.kind is OrderKind.rental:
                self._code = status.code
                return True
        return False

    def _show(self, status: OrderStatus) -> None:
        if self._guess and status.sms_status is not None and status.code is None:
            self._order = self._desk.order = attrs.evolve(self._order, kind=OrderKind.send)
            self._view.counts = False
        if status.paid and not self._paid:
            self._paid = True
            self._screen.say("paid", _PAID[self._order.kind])
        if status.number is not None and status.number != self._number:
            self._number = status.number
            self._screen.number(status.number)
        if status.sms_status is not None and status.sms_status != self._sms:
            self._sms = status.sms_status
            if not _is_sent(status):
                self._screen.say("sms", status.sms_status)
        self._view.waiting_for = self._next()

    def _next(self) -> str:
        kind = self._order.kind
        if not self._paid:
            return "the payment"
        if kind is OrderKind.send or self._sms is not None:
            return "the SMS to be sent"
        return "the number" if self._number is None else "the code"


def _is_sent(status: OrderStatus) -> bool:
    return status.sms_status in (SmsStatus.sent, SmsStatus.delivered)


def status_document(status: OrderStatus) -> dict[str, Any]:
    """Return what is known of an order, for ``--json``."""
    return {
        "paid": status.paid,
        "number": status.number,
        "code": status.code,
        "code_was_number": status.code_was_number,
        "sms_status": status.sms_status,
        "error": status.error,
        "country": status.country,
        "service": status.service,
        "timestamp": None if status.timestamp is None else status.timestamp.isoformat(),
    }


def _answer(status: OrderStatus | None, order: Order, *, bare: bool) -> Answer:
    """Return the answer of an order that has come to a good end: its code, how far its SMS has come, or that it is paid."""
    assert status is not None  # a good end was seen in one  # noqa: S101
    document = {"order": order.to_dict() | ({"created_at": None} if bare else {}), **status_document(status)}
    if status.code is not None:
        return Answer(document, [[status.code]], label="code", elsewhere="on standard output")
    if status.sms_status is not None:
        return Answer(document, [[status.sms_status]], label="sms")
    return Answer(document, [["paid"]], label="order")
