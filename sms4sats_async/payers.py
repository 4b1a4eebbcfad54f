"""Pay an order's invoice beside the watching; and the whole job in one call.

Paying a hold invoice is no question with an answer. One wallet's call returns when the code is there, another's says "pending" at once,
a third one's "failed" although the receiver holds the money. So the payment runs beside the polls, and whatever comes of it decides
nothing: the order's status does.
"""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import inspect
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import attrs

from sms4sats_async.client import Client, Probe
from sms4sats_async.errors import OrderError, PaymentFailed, Sms4SatsError
from sms4sats_async.lifecycle import HOLD_WINDOW, PAYMENT_WINDOW, Pace
from sms4sats_async.models import Order, OrderKind, OrderStatus, SmsStatus, hidden, mask
from sms4sats_async.shelter import Crew, Sheltered, one_of
from sms4sats_async.steps import Terms, Watch
from sms4sats_async.watcher import OrderWatcher

T = TypeVar("T")
Pay = Callable[[str], Awaitable[object]]
"""Pays the invoice that it is given."""

PAYMENT_GRACE = 10.0
"""Seconds that a payment has after its order's end, to come to its own: a wallet hears of the code a little later than we do."""
LOOKS_AFTER = 2
"""Good looks that must show an invoice unpaid after its payment has raised: the first may have been too early for the service."""

MOST_REMEMBERED = 2_000
"""Orders of which it is remembered that their payment was begun; the oldest are long over then."""

_begun: dict[tuple[str, datetime], None] = {}
"""The orders whose payment was begun in this process, oldest first; two sandboxes may give the same id."""

_logger = logging.getLogger(__name__)


class PayingWatcher(OrderWatcher):
    """An :class:`OrderWatcher` that pays its order's invoice beside the polls.

    ::

        async with PayingWatcher(client, order, pay=wallet.pay) as watcher:
            print("call from", await watcher.number())
            print("the code is", await watcher.code())

    Entering the block calls ``pay(order.payreq)``, once, in a task of its own. It may take as long as it likes, and what it returns or
    raises decides nothing: the waits go by the order's status. Only where it raised, and two good looks begun after that both show the
    invoice unpaid, do they raise :class:`PaymentFailed`. A failed poll is no such look, and a ``KeyboardInterrupt`` or its like is
    raised as it is.

    Leaving the block first does what that of an :class:`OrderWatcher` does; then the payment has 10 s to come to its end, and is
    cancelled. It is cancelled at once, before anything is asked of the service, when the caller is cancelled, and when an order that was
    never seen paid has ended or is given up: what was not sent to a wallet by then is not sent any more. A cancelled payment that does
    not end keeps its caller from going on.

    Args:
        order: an order with an invoice to pay; no bare id.
        pay: any async callable that takes the invoice and pays it. One whose result cannot be awaited has returned.
        kind, hold_window, payment_window, poll_interval, cancel_on_exit: as for :class:`OrderWatcher`.

    The block can be entered once, and an order's payment is begun once in a process, whatever became of it (the newest 2,000 orders are
    remembered): to go on watching, take an :class:`OrderWatcher`. Before the block is entered nothing is paid, so waiting is a
    ``RuntimeError`` then; after it one can wait on.

    Raises:
        ValueError: there is no invoice to pay.
        TypeError: ``pay`` cannot be called.
    """

    def __init__(
        self,
        client: Client,
        order: Order,
        *,
        pay: Pay,
        kind: OrderKind | str | None = None,
        hold_window: float | None = HOLD_WINDOW,
        payment_window: float | None = PAYMENT_WINDOW,
        poll_interval: float | Pace | None = None,
        cancel_on_exit: bool = True,
    ) -> None:
        _check_callable("pay", pay)
        super().__init__(
            client,
            order,
            kind=kind,
            hold_window=hold_window,
            payment_window=payment_window,
            poll_interval=poll_interval,
            cancel_on_exit=cancel_on_exit,
        )
        if self.order.payreq is None or self.order.prepaid:
            raise ValueError("order must have an invoice to pay: it is prepaid, or known by its id only")
        self._client = client
        self._pay = pay
        self._invoice = self.order.payreq
        self._payment: Sheltered[None] | None = None
        self._probe = self._looks = _Looks(client, lambda: self._raised is not None)

    # --- waiting ---------------------------------------------------------------------------------------------------------------

    @property
    def _raised(self) -> BaseException | None:
        """What the payment has raised by itself; ``None`` while it goes on, and when it was cancelled by us."""
        return None if self._payment is None else self._payment.error

    async def _until(self, ready: Callable[[], T | None]) -> T:
        if self._payment is None:
            raise RuntimeError("nothing is paid before the block is entered: async with PayingWatcher(...) as watcher")
        return await super()._until(ready)

    def _raise_end(self) -> None:
        raised = self._raised
        if raised is not None and _is_loud(raised):
            raise raised
        if raised is None or self._state.paid_at is not None:
            super()._raise_end()
            return
        what = f"its payment raised {type(raised).__name__}"
        try:
            super()._raise_end()
        except OrderError as error:
            error.add_note(what)
            raise
        if self._looks.good >= LOOKS_AFTER:
            text = f"{self._watch.name}: {what}, and it is still unpaid"
            raise PaymentFailed(text, order_id=self.order.id, status=self.status) from raised

    # --- paying ----------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Begin the payment.

        Raises:
            RuntimeError: it was begun before, or the client is closed.
        """
        if self._payment is not None:
            raise RuntimeError("a PayingWatcher can be entered once")
        self._probe.check_loop()
        if self._client.is_closed:
            raise RuntimeError("the client is closed: nothing is paid that it cannot watch")
        order = (self.order.id, self.order.created_at)
        if order in _begun:
            raise RuntimeError(f"{self._watch.name}: its payment was begun before: watch it with an OrderWatcher")
        _begun[order] = None
        if len(_begun) > MOST_REMEMBERED:
            del _begun[next(iter(_begun))]
        self._scope = anyio.CancelScope()
        self._payment = Sheltered(self._paying, loud=True)
        self._crew = await Crew().__aenter__()
        self._crew.start(self._payment)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Leave the order as an :class:`OrderWatcher` does, and see the payment to its end, for 10 s at the most.

        Raises:
            BaseException: what the payment raised, if that is no ``Exception``, and the block itself has raised nothing.
        """
        assert self._payment is not None  # the block was entered  # noqa: S101
        if self._given_up(error):
            self._scope.cancel()
        seconds = 0.0
        try:
            await super().__aexit__(kind, error, traceback)
            seconds = PAYMENT_GRACE
        finally:  # also when the caller is cancelled in there
            self._stop_within(seconds)
            try:
                await self._payment.end(lambda: 0.0)
            finally:
                await self._crew.__aexit__(kind, error, traceback)
        raised = self._raised
        if error is None and raised is not None and _is_loud(raised):
            raise raised

    async def _step(self) -> None:
        await super()._step()
        if self._state.end is not None:
            self._stop_within(0.0 if self._state.paid_at is None else PAYMENT_GRACE)

    def _stop_within(self, seconds: float) -> None:
        """Let the payment go on for so many seconds, or for less if that was said before."""
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + seconds)

    def _given_up(self, error: BaseException | None) -> bool:
        """Is a payment to be stopped before anything is asked of the service?"""
        if error is not None and not isinstance(error, Exception):  # the caller is to go on at once
            return True
        if self._state.paid_at is not None:
            return False
        return error is not None or self._state.end is not None or (self._cancel_on_exit and self._state.cancellable)

    async def _paying(self) -> None:
        with self._scope:
            if self._scope.cancel_called:  # before it could begin: not even the first lines of it are run
                return
            try:
                await self._call()
            except BaseException as raised:
                _logger.debug("%s: its payment raised %s", self._watch.name, type(raised).__name__)  # its words may tell secrets
                if _is_loud(raised):
                    self._wake()
                raise
            _logger.debug("%s: its payment has returned", self._watch.name)

    async def _call(self) -> None:
        try:
            paying: object = self._pay(self._invoice)
            if inspect.isawaitable(paying):
                await paying
        except BaseExceptionGroup as group:
            raise group if isinstance(group, Exception) else one_of(group) from None


class _Looks(Probe):
    """A probe that counts the looks which brought a status, of those begun after ``since`` has come to hold."""

    __slots__ = ("_since", "good")

    def __init__(self, client: Client, since: Callable[[], bool]) -> None:
        super().__init__(client)
        self._since = since
        self.good = 0

    async def look(self, order_id: str, saw: Callable[[OrderStatus], object]) -> None:
        counts = self._since()
        looking = super().look(order_id, saw)
        del order_id  # frames are printed with what they hold
        await looking
        self.good += counts  # not as soon as it is read: the order's state must have taken it in before anybody counts on it


# --- the whole job -----------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Received:
    """What :func:`receive_code` returns.

    Attributes:
        code: the code, byte for byte.
        number: the number that it came to, E.164 with ``+``; ``None`` if the service told none.
        order: the order.
    """

    code: str = attrs.field(repr=hidden)
    number: str | None = attrs.field(repr=hidden)
    order: Order


@attrs.frozen
class Sent:
    """What :func:`send_sms` returns.

    Attributes:
        sms_status: ``sent`` or ``delivered``, whichever was seen first.
        order: the order.
    """

    sms_status: SmsStatus
    order: Order


async def receive_code(
    client: Client,
    country: int | str,
    service: str,
    *,
    pay: Pay | None = None,
    immediate: bool = False,
    on_number: Callable[[str], object] | None = None,
    max_sats: int | None = None,
    real_phone: bool = False,
    ref: str | None = None,
    hold_window: float | None = HOLD_WINDOW,
    payment_window: float | None = PAYMENT_WINDOW,
    poll_interval: float | Pace | None = None,
) -> Received:
    """Order a number, pay for it, and return the code that comes: the whole job in one call.

    ::

        received = await receive_code(client, 187, "tg", pay=wallet.pay, on_number=print, max_sats=5000)

    Whatever ends it before the code has come, the service is asked to cancel an order that was placed, as leaving the block of a watcher
    does. Where that was the caller's cancellation, an error of ``on_number``, or :class:`PaymentFailed`, the order is also in
    ``client.orphaned_orders``: the cancel may be refused, and a payment that its wallet has given up may still arrive.

    Args:
        client: it is left open.
        country: as for :meth:`Client.create_order`.
        service: likewise.
        pay: as for :class:`PayingWatcher`; either this, or ``immediate``.
        immediate: charge the prepaid balance; needs an ``api_key``.
        on_number: a plain function or an async callable, called once, with the number, as soon as that is known; not at all if the code
            comes without one. An async one is awaited, and while it runs nobody polls: the first look after it is at once, so it finds
            a code that has come meanwhile. What it raises is raised here, as it is.
        max_sats: the most that it may cost.
        real_phone: as for :meth:`Client.create_order`.
        ref: likewise.
        hold_window: seconds, as for :class:`OrderWatcher`.
        payment_window: likewise.
        poll_interval: likewise.

    Raises:
        PaymentFailed: ``pay`` raised, and the invoice is still unpaid.
        PriceTooHigh: above ``max_sats``, or of unknown price; nothing was paid.
        Sms4SatsError: what :meth:`Client.create_order` and :meth:`OrderWatcher.code` raise; ``order_id`` tells of which order.
        ValueError: ``pay`` and ``immediate``, or neither; or as for :meth:`Client.create_order`. Nothing is sent then.
        TypeError: an argument of another kind. Nothing is sent then.
    """
    job = _Job(client, pay, immediate=immediate, hold_window=hold_window, payment_window=payment_window, poll_interval=poll_interval)
    if on_number is not None:
        _check_callable("on_number", on_number)
    order = await client.create_order(country, service, real_phone=real_phone, ref=ref, immediate=immediate, max_sats=max_sats)
    try:
        watcher = job.watcher(order)
        telling = _Telling(watcher, on_number)
        with _unless_it_was_paid(watcher):
            async with watcher:
                await telling.to_the_end()
        await telling.to_the_end()
        code, status = await watcher.code(), watcher.status
    except BaseException as error:
        job.give_up(order, error)
        raise
    job.over()
    return Received(code, None if status is None else status.number, order)


async def send_sms(
    client: Client,
    phone: str,
    message: str,
    *,
    pay: Pay | None = None,
    immediate: bool = False,
    webhook_url: str | None = None,
    ref: str | None = None,
    max_sats: int | None = None,
    payment_window: float | None = PAYMENT_WINDOW,
    hold_window: float | None = HOLD_WINDOW,
    poll_interval: float | Pace | None = None,
) -> Sent:
    """Order the sending of one SMS, pay for it, and return when it is sent: the whole job in one call.

    There is no cancel for it: where the caller was cancelled before the end, or the payment failed, the order goes on, and is in
    ``client.orphaned_orders``.

    Args:
        client: it is left open.
        phone: where to, in E.164 with ``+``.
        message: the text, at most 140 characters.
        pay: as for :class:`PayingWatcher`; either this, or ``immediate``.
        immediate: charge the prepaid balance; needs an ``api_key``.
        webhook_url: as for :meth:`Client.create_send_order`.
        ref: likewise.
        max_sats: the most that it may cost.
        payment_window: seconds, as for :class:`OrderWatcher`.
        hold_window: likewise.
        poll_interval: likewise.

    Raises:
        PaymentFailed: ``pay`` raised, and the invoice is still unpaid.
        PriceTooHigh: above ``max_sats``, or of unknown price; nothing was paid.
        Sms4SatsError: what :meth:`Client.create_send_order` and :meth:`OrderWatcher.sent` raise; ``order_id`` tells of which order.
        ValueError: ``pay`` and ``immediate``, or neither; or as for :meth:`Client.create_send_order`. Nothing is sent then.
        TypeError: an argument of another kind. Nothing is sent then.
    """
    job = _Job(client, pay, immediate=immediate, hold_window=hold_window, payment_window=payment_window, poll_interval=poll_interval)
    placing = client.create_send_order(phone, message, immediate=immediate, webhook_url=webhook_url, ref=ref, max_sats=max_sats)
    del phone, message, webhook_url  # frames are printed with what they hold
    order = await placing
    try:
        watcher = job.watcher(order)
        with _unless_it_was_paid(watcher):
            async with watcher:
                await watcher.sent()
        sms_status = await watcher.sent()
    except BaseException as error:
        job.give_up(order, error)
        raise
    job.over()
    return Sent(sms_status, order)


class _Job:
    """How an order is to be paid and watched, checked before it is placed; and what becomes of it if its caller does not get it."""

    def __init__(
        self,
        client: Client,
        pay: Pay | None,
        *,
        immediate: bool,
        hold_window: float | None,
        payment_window: float | None,
        poll_interval: float | Pace | None,
    ) -> None:
        if pay is not None:
            _check_callable("pay", pay)
        if (pay is None) != immediate:
            raise ValueError("either pay or immediate=True must be given, and not both")
        Terms(client, kind=None, hold_window=hold_window, payment_window=payment_window, poll_interval=poll_interval)
        self._client = client
        self._pay = pay
        self._options: dict[str, Any] = {"hold_window": hold_window, "payment_window": payment_window, "poll_interval": poll_interval}
        self._watcher: OrderWatcher | None = None
        self._held: list[Watch] = []

    def watcher(self, order: Order) -> OrderWatcher:
        """Return what watches this order, and pays it where there is an invoice."""
        if self._pay is None or order.payreq is None:
            self._watcher = OrderWatcher(self._client, order, **self._options)
        else:
            self._watcher = PayingWatcher(self._client, order, pay=self._pay, **self._options)
        watch = self._watcher._watch  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the watcher is made here
        watch.held = True
        self._held.append(watch)
        return self._watcher

    def over(self) -> None:
        """Tell the journal how it ended: not before, as the payment may go on for longer than a code counts as on its way."""
        for watch in self._held:
            watch.held = False
            watch.let_go()

    def give_up(self, order: Order, error: BaseException) -> None:
        """Keep an order whose caller will not get it, unless the error is the order's own end."""
        self.over()
        if isinstance(error, Sms4SatsError) and error.order_id == order.id and not isinstance(error, PaymentFailed):
            return
        self._client.orphaned_orders.append(order)
        status = None if self._watcher is None else self._watcher.status
        come = "" if status is None or status.code is None else ", and its code has come"
        error.add_note(f"order {mask(order.id)} was placed{come}: it is in client.orphaned_orders, and can be watched again")


@contextmanager
def _unless_it_was_paid(watcher: OrderWatcher) -> Generator[None]:
    """Drop a failed payment if the order is seen paid after all, as it is left."""
    try:
        yield
    except PaymentFailed:
        if watcher.status is None or not watcher.status.paid:
            raise


class _Telling:
    """Goes to an order's end, and tells of its number on the way, once."""

    def __init__(self, watcher: OrderWatcher, on_number: Callable[[str], object] | None) -> None:
        self._watcher = watcher
        self._on_number = on_number

    async def to_the_end(self) -> None:
        async for status in self._watcher:
            if self._on_number is not None and status.number is not None:
                tell, self._on_number = self._on_number, None
                telling = tell(status.number)
                if inspect.isawaitable(telling):
                    await telling


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")


def _is_loud(error: BaseException) -> bool:
    """Is it a ``KeyboardInterrupt`` or its like: neither an error nor a cancellation?"""
    return not isinstance(error, Exception | anyio.get_cancelled_exc_class())
