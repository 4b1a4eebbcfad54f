"""One order being watched: its lifecycle, and the steps that the lifecycle asks for, made with a client.

What a watcher of one order and a batch of thousands have in common. Who decides when a step is made, and in which task, stands above.
"""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import copy
import logging
import math
import random
from datetime import UTC, datetime

import anyio

from sms4sats_async.client import Client, Keeper, Probe, check_order_id
from sms4sats_async.errors import Sms4SatsError
from sms4sats_async.lifecycle import FINAL_ENDS, Cancel, End, Failure, Lifecycle, Look, Pace, Rules, default_pace
from sms4sats_async.models import Order, OrderKind, OrderStatus, mask

_logger = logging.getLogger(__name__)


class Terms:
    """How orders are to be watched: the arguments that all watchers have in common, checked."""

    def __init__(
        self,
        client: object,
        *,
        kind: OrderKind | str | None,
        hold_window: float | None,
        payment_window: float | None,
        poll_interval: float | Pace | None,
    ) -> None:
        if not isinstance(client, Client):
            raise TypeError(f"client must be a Client, not {type(client).__name__}")
        self._journal = client.journal
        self._kind = None if kind is None else OrderKind(kind)
        self._hold_window = None if hold_window is None else positive("hold_window", hold_window)
        self._payment_window = None if payment_window is None else positive("payment_window", payment_window)
        self._pace = _checked_pace(poll_interval)
        self._rules: dict[tuple[OrderKind, bool, bool], Rules] = {}

    def watch(self, order: Order | str) -> Watch:
        """Begin to watch an order, or the order with this id.

        Raises:
            TypeError: it is neither.
            ValueError: an empty id, or an order of another kind than the one given.
        """
        age_known = isinstance(order, Order)
        if not isinstance(order, Order):
            check_order_id(order)
            order = Order(order, OrderKind.receive if self._kind is None else self._kind)
        if self._kind is not None and order.kind is not self._kind:
            raise ValueError(f"kind is {self._kind!r}, but the order is of kind {order.kind!r}")
        what = (order.kind, self._kind is None and not age_known, order.prepaid)
        if what not in self._rules:  # one for all orders alike: there may be thousands
            self._rules[what] = Rules(*what, self._hold_window, self._payment_window, self._pace)
        return Watch(order, self._rules[what], age_known=age_known, journal=self._journal)


class Watch:
    """One order being watched.

    Attributes:
        order: the order. For a bare id ``payreq`` and ``amount_sats`` are ``None``, and ``created_at`` is now.
        failure: the last thing that went wrong; ``None`` when nothing has.
        looking: the scope of the look that is under way; ``None`` when none is.
        held: does the journal wait to be told how it ended, because nobody can have had its code yet?
    """

    __slots__ = ("_age_known", "_journal", "_life", "_rules", "_written", "failure", "held", "looking", "order")

    def __init__(self, order: Order, rules: Rules, *, age_known: bool, journal: Keeper | None = None) -> None:
        self.order = order
        self.failure: Sms4SatsError | None = None
        self.looking: anyio.CancelScope | None = None
        self.held = False
        self._age_known = age_known
        self._rules = rules
        self._life: Lifecycle | None = None
        self._journal = journal
        self._written: tuple[object, ...] = ()

    @property
    def name(self) -> str:
        """The order's name in messages and logs; its id is a secret."""
        return f"order {mask(self.order.id)}"

    @property
    def life(self) -> Lifecycle:
        """What is known; it begins when it is first asked for."""
        if self._life is None:
            age = (datetime.now(UTC) - self.order.created_at).total_seconds() if self._age_known else None
            self._life = Lifecycle.begin(self._rules, anyio.current_time(), age)
        return self._life

    @life.setter
    def life(self, life: Lifecycle) -> None:
        self._life = life

    @property
    def status(self) -> OrderStatus | None:
        """All that is known of the order, as its last status with what earlier ones said; ``None`` before the first good look."""
        return None if self._life is None else self._life.status

    def error(self) -> Sms4SatsError | None:
        """Return the error that the order's end is, with the last failure as its cause; ``None`` for a good end, and for none."""
        if self.life.end is End.REFUSED and self.failure is not None:
            return copy.copy(self.failure)
        error = self.life.error(self.order.id)
        if error is not None:
            error.__cause__ = self.failure
        return error

    async def make(self, step: Look | Cancel, probe: Probe) -> Failure | None:
        """Make a step that is due, and return how it failed; ``None`` when it did not.

        Raises:
            ClosedError: the client is closed.
        """
        if self._journal is None:
            return await (self._look(step, probe) if isinstance(step, Look) else self._cancel(step, probe))
        if not self._written:
            self._journal.watched(self.order, bare=not self._age_known)
            self._written = (False, None, None, None)
        try:
            return await (self._look(step, probe) if isinstance(step, Look) else self._cancel(step, probe))
        finally:
            self._write_down(self._journal)

    def _write_down(self, journal: Keeper) -> None:
        """Tell the journal what is new."""
        life, status = self.life, self.status
        number, code = (None, None) if status is None else (status.number, status.code)
        paid, cancel = life.paid_at is not None, life.cancel_told
        if self._written != (paid, number, code, cancel):
            self._written = (paid, number, code, cancel)
            journal.saw(self.order.id, paid=paid, number=number, code=code, cancel=cancel)

    def let_go(self) -> None:
        """Tell the journal that nobody watches the order any more, and how it ended, if it has."""
        if self._journal is None or self.held:
            return
        end = None if self._life is None else self._life.end
        if end is None or end not in FINAL_ENDS:
            self._journal.released(self.order.id, watched=bool(self._written))
        elif self._written:
            self._journal.ended(self.order.id, end.name.lower())
        self._written = ()

    async def _look(self, step: Look, probe: Probe) -> Failure | None:
        began, probe.departed_at = anyio.current_time(), -math.inf  # it departs when it has a connection
        failure = Failure("no answer in time")
        seen: list[OrderStatus] = []
        self.looking = anyio.CancelScope(deadline=step.before)
        try:
            with self.looking:
                await probe.look(self.order.id, seen.append)
        except Sms4SatsError as error:
            failure = self._heard(error)
        except BaseException:
            self.life = self.life.broken_off(probe.departed_at)
            raise
        finally:  # a cancel that comes after the status was read takes nothing away
            self.looking = None
            for status in seen:
                self.life = self.life.saw(status, probe.departed_at, anyio.current_time(), random.uniform(-1, 1))  # noqa: S311
        if seen:
            return None
        self.failed(step, failure, max(began, probe.departed_at))
        return failure

    async def _cancel(self, step: Cancel, probe: Probe) -> Failure | None:
        began = anyio.current_time()
        self.life = self.life.asking(began)
        failure = Failure("no answer in time")
        with anyio.CancelScope(deadline=step.before):
            try:
                await probe.cancel(self.order.id)
            except Sms4SatsError as error:
                failure = self._heard(error)
            else:
                self.life = self.life.confirmed()
                return None
        self.failed(step, failure, began)
        return failure

    def failed(self, step: Look | Cancel, failure: Failure, began: float) -> None:
        """Note that a step failed, which began at this time."""
        if isinstance(step, Look):
            self.life = self.life.missed(failure, began, anyio.current_time(), random.uniform(-1, 1))  # noqa: S311
        elif failure.refusal is None:
            self.life = self.life.unanswered(failure.words)
        else:
            self.life = self.life.refused(failure.words)

    def _heard(self, error: Sms4SatsError) -> Failure:
        """Keep the last failure for the end, without the frames that it came through: they hold replies alive."""
        error.__traceback__ = None
        self.failure = error
        _logger.debug("%s: %s", self.name, error)
        return Failure.of(error)


def positive(name: str, number: object, unit: str = "seconds") -> float:
    """Return a number above zero as a float.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise TypeError(f"{name} must be a number of {unit}, not {type(number).__name__}")
    if not number > 0:
        raise ValueError(f"{name} must be positive, not {number}")
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{name} is too large") from None


def _checked_pace(interval: float | Pace | None) -> Pace:
    if interval is None:
        return default_pace
    if callable(interval):
        return _guarded(interval)
    seconds = positive("poll_interval", interval)
    return lambda _status, _waited: seconds


def _guarded(pace: Pace) -> Pace:
    """A pace of the caller's that cannot cost a code: where it fails, the default one stands in, and the log tells."""

    def guarded(status: OrderStatus, seconds_waited: float) -> float:
        try:
            seconds = float(pace(status, seconds_waited))
        except Exception:
            _logger.exception("poll_interval failed; the default pace stands in for it")
            return default_pace(status, seconds_waited)
        return default_pace(status, seconds_waited) if math.isnan(seconds) else seconds

    return guarded
