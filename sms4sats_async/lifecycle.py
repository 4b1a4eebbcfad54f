"""When to look at an order, when to cancel it, and how it ends. Pure: times, statuses and failures go in, the next step comes out.

A :class:`Lifecycle` is a frozen, hashable value without a clock, a request or a task. Whoever drives it (a watcher, a batch, a test
that searches every course of events) does this, with the seconds of one monotonic clock::

    state = state.at(now)
    match state.next(now):
        case None:      the order has ended: see state.end
        case Look():    wait until .at, ask for the status, then state.saw(...) or state.missed(...)
        case Cancel():  wait until .at, state.asking(now), ask to cancel, then state.confirmed(), .refused(...) or .unanswered(...)

A wait can be cut short at any time: what comes next is asked anew.

The rules, and where they come from:

* The payment window counts from the first look, the hold window from the first status that shows the payment held: stored times decide
  nothing, because a wrong clock must not end an order early. The service itself ends an order 21 minutes after the payment, so ending
  late costs nothing, and ending early can cost a code.
* When a window ends: look, cancel, look again. A code seen in any of these looks is a code in time.
* A look that fails ends nothing. It is made again after 1, 2, 4 ... 30 s, or when the server asks for it.
* Knowledge never shrinks: a number or a payment that was seen once stays, whatever a later status leaves out.
"""

import enum
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import attrs

from sms4sats_async.errors import (
    APIError,
    OrderCancelled,
    OrderError,
    OrderExpired,
    OrderFailed,
    OrderUnresolved,
    RateLimited,
    SendFailed,
    Sms4SatsError,
    harmless,
)
from sms4sats_async.models import OrderKind, OrderStatus, SmsStatus, mask

Pace = Callable[[OrderStatus, float], float]
"""Seconds to wait after this status, so many seconds after the payment (before it: after the first look)."""

HOLD_WINDOW = 1260.0
"""Seconds after which the service gives the money back by itself: 21 minutes (docs, api-reference)."""
PAYMENT_WINDOW = 1260.0
"""Seconds that an invoice is waited for."""
CANCEL_GATE = 120.0
"""Seconds in which the server refuses a cancel; whether from the order, the payment or the number on is not said (docs, cancel-order)."""
LAST_STEPS = 30.0
"""Seconds that the steps at the end of a window may take."""
LAST_STEP = 10.0
"""Seconds that one of them may take: a look that hangs must leave time for the cancel."""
FLOOR = 1.0
"""Seconds from one look to the next, at least."""
SPREAD = 0.1
"""How much an interval is varied, so that thousands of watchers do not march in step."""
LONGEST_BACKOFF = 30.0
LONGEST_RETRY_AFTER = 60.0
CANCEL_TRIES = 3
REFUSALS, REFUSED_FOR = 5, 60.0
"""How many times in a row, and for how many seconds at least, an order must be refused with the same words to be given up."""
_GATEWAY_ERRORS = (502, 503, 504)
_SENT = (SmsStatus.sent, SmsStatus.delivered)
_MINUTE = 60.0


def default_pace(status: OrderStatus, seconds_waited: float) -> float:
    """Return the default interval in seconds: short while a change is likely, long while it is not, 12 s at the most.

    Where an order that still waits gets its code at a rate of r a second, looking every i seconds costs 1 / i requests and r * i / 2
    seconds of delay for each second of waiting. Whatever a request is worth, the sum is least where i is in proportion to 1 / sqrt(r).
    Most codes come 30 to 120 s after the payment (docs, get-order-status): r is about 0.009 at first and 0.015 in the second minute, for
    which 3 s and 2 s are right, and 3 s do for the number in the first 20 s. Later r is 0.0003, which would make 15 s; but the few late
    codes are the longest delays, so it is 9 s, and 5 s up to the fourth minute for days on which all is slower. ``benchmarks/pace.py``
    has the figures beside those of fixed intervals.

    An invoice is mostly paid in the first two minutes or not at all.
    """
    if not status.paid:
        return 2.0 if seconds_waited < _MINUTE else 4.0 if seconds_waited < 2 * _MINUTE else 12.0
    if seconds_waited < 2 * _MINUTE:
        return 3.0 if seconds_waited < _MINUTE else 2.0
    return 5.0 if seconds_waited < 4 * _MINUTE else 9.0


# --- what goes in ------------------------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """How asking failed.

    Attributes:
        words: what is told to people.
        refusal: what makes two refusals the same one; ``None`` when this is no refusal of this order.
        retry_after: seconds that the server asks to wait; ``None`` when it does not.
        too_many: the server wants fewer requests, and not for this order only.
    """

    words: str
    refusal: str | None = None
    retry_after: float | None = None
    too_many: bool = False

    @classmethod
    def of(cls, error: Sms4SatsError) -> "Failure":
        """Sort a failure: the server's own no, or no answer at all (a time-out, a reset, an error page, too many requests)."""
        if isinstance(error, RateLimited):
            return cls(str(error), retry_after=error.retry_after, too_many=True)
        if isinstance(error, APIError) and error.status_code not in _GATEWAY_ERRORS:
            if error.reason is not None:
                return cls(error.reason, refusal=f"{error.status_code} {error.reason}")
            if error.status_code < 500:  # noqa: PLR2004
                return cls(str(error), refusal=str(error.status_code))
        return cls(str(error))


# --- what comes out ----------------------------------------------------------------------------------------------------------------


class Look(NamedTuple):
    """Ask for the status at this time; give up waiting for it at ``before``. ``last``: one of the last steps of a window."""

    at: float
    before: float = math.inf
    last: bool = False


class Cancel(NamedTuple):
    """Ask the server to cancel at this time; give up waiting for it at ``before``. ``last``: one of the last steps of a window."""

    at: float
    before: float = math.inf
    last: bool = False


class End(enum.Enum):
    """How an order ended for the one who watches it."""

    CODE = enum.auto()
    SENT = enum.auto()
    SEND_FAILED = enum.auto()
    FUNDED = enum.auto()
    FAILED = enum.auto()
    EXPIRED = enum.auto()
    UNRESOLVED = enum.auto()
    CANCELLED = enum.auto()
    REFUSED = enum.auto()


GOOD_ENDS = frozenset({End.CODE, End.SENT, End.FUNDED})
FINAL_ENDS = frozenset(End) - {End.UNRESOLVED, End.REFUSED}
"""Ends of the order itself; after the others it is worth watching again."""


class Answer(enum.Enum):
    """What is known of a cancel."""

    NONE = enum.auto()
    CONFIRMED = enum.auto()
    REFUSED = enum.auto()


# --- the state ---------------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Rules:
    """What does not change while an order is watched. Windows are seconds, ``None`` for no end."""

    kind: OrderKind = OrderKind.receive
    kind_is_guess: bool = False
    prepaid: bool = False
    hold_window: float | None = HOLD_WINDOW
    payment_window: float | None = PAYMENT_WINDOW
    pace: Pace = default_pace


class Wish(NamedTuple):
    """The caller wants the order cancelled, from this time on: asked so many times at the most, within so many seconds."""

    at: float
    tries: int
    within: float


class Closing(NamedTuple):
    """A cancel under way: cancel, look, and again where the answer was lost.

    Attributes:
        window: a window's end, not the caller, began it.
        until: when it must be over.
        cancels: does a cancel come next? Else a look does.
        at: when the next step may be made.
        tries: how many cancels were sent, of ``most``.
        misses: how many steps failed, for the pauses between them.
        answer, reason: what the server said to the newest of the cancels.
        doubted: was an earlier cancel in doubt when the newest was sent?
    """

    window: bool
    until: float
    cancels: bool
    at: float
    most: int = CANCEL_TRIES
    tries: int = 0
    misses: int = 0
    answer: Answer = Answer.NONE
    reason: str | None = None
    doubted: bool = False


@attrs.frozen
class Lifecycle:
    """One order, as far as it is known.

    Attributes:
        due: when to look next.
        created: when the order was made, as far as the clocks can tell; decides nothing but when a refused cancel is tried again.
        started, paid_at, numbered_at: when it was first looked at, first seen paid, first seen with a number; ``None`` until then.
        status: all that is known of it; ``None`` before the first good look.
        failures: how many looks in a row have failed.
        refusal, refusals, refused_since: the same refusal, how often in a row, and since when.
        in_doubt: a cancel was sent, and it may have worked.
        answers: how many of the caller's cancels came to nothing; ``reason`` is the server's words to the last of them.
        end: how it ended; ``None`` while it goes on.
    """

    rules: Rules
    due: float
    created: float | None = None
    started: float | None = None
    paid_at: float | None = None
    numbered_at: float | None = None
    status: OrderStatus | None = None
    failures: int = 0
    refusal: str | None = attrs.field(default=None, repr=False)
    refusals: int = 0
    refused_since: float = 0.0
    wish: Wish | None = None
    closing: Closing | None = attrs.field(default=None, repr=False)
    in_doubt: bool = False
    answers: int = 0
    reason: str | None = attrs.field(default=None, repr=False)
    end: End | None = None

    @classmethod
    def begin(cls, rules: Rules, now: float, age: float | None = None) -> "Lifecycle":
        """Start to watch an order, ``age`` seconds old as far as the clocks can tell; ``None`` when they cannot."""
        return cls(rules, due=now, created=None if age is None else now - max(0.0, age))

    # --- what is known -----------------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> OrderKind:
        """What the order is for. A bare id is taken for a receive order until a status shows that it sends."""
        status = self.status
        if not self.rules.kind_is_guess or status is None or status.sms_status is None or status.code is not None:
            return self.rules.kind
        return OrderKind.send

    @property
    def cancellable(self) -> bool:
        """Only a receive order can be cancelled (docs, cancel-order)."""
        return self.kind is OrderKind.receive

    @property
    def cancel_confirmed(self) -> bool:
        """Has the server said yes to a cancel that is under way?"""
        return self.closing is not None and self.closing.answer is Answer.CONFIRMED

    @property
    def cancel_told(self) -> str | None:
        """What became of the newest cancel: ``asked``, ``confirmed`` or ``refused``; ``None`` where none was sent."""
        if self.closing is not None and self.closing.tries:
            return "asked" if self.closing.answer is Answer.NONE else self.closing.answer.name.lower()
        return "refused" if self.answers else None

    @property
    def closing_window(self) -> bool:
        """Are the last steps of a window under way?"""
        return self.closing is not None and self.closing.window

    @property
    def window_end(self) -> float:
        """When the window that is open now ends; infinity when none does. A rental has no hold window."""
        since, window = (self.started, self.rules.payment_window) if self.paid_at is None else (self.paid_at, self.rules.hold_window)
        if since is None or window is None or (self.paid_at is not None and self.kind is OrderKind.rental):
            return math.inf
        return since + window

    def seconds_waited(self, now: float) -> float:
        """Seconds since the payment; before it, since the first look."""
        since = self.paid_at if self.paid_at is not None else self.started
        return 0.0 if since is None else now - since

    # --- what next ---------------------------------------------------------------------------------------------------------------

    def next(self, now: float) -> Look | Cancel | None:
        """Return the next step; ``None`` when the order has ended."""
        if self.end is not None:
            return None
        if (closing := self.closing) is not None:
            step = Cancel if closing.cancels else Look
            return step(closing.at, min(closing.until, max(now, closing.at) + LAST_STEP), last=closing.window)
        if self.wish is not None and self.wish.at <= max(now, min(self.due, self.window_end)):  # before a look that is overdue
            return Cancel(self.wish.at, max(now, self.wish.at) + min(self.wish.within, LAST_STEP))
        if self.due < self.window_end:
            return Look(self.due)
        return Look(self.window_end, max(now, self.window_end) + LAST_STEP, last=True)

    def at(self, now: float) -> "Lifecycle":
        """Let time pass: a cancel under way that took too long comes to what is known of it."""
        if self.end is not None or self.closing is None or now < self.closing.until:
            return self
        if self.closing.window and self.closing.cancels and not self.closing.tries:  # the loop stood still: nothing was tried yet
            return attrs.evolve(self, closing=self.closing._replace(until=now + LAST_STEPS))
        if self.closing.window:
            return self._ended(End.UNRESOLVED)
        return self._answered()

    # --- looks -------------------------------------------------------------------------------------------------------------------

    def saw(self, status: OrderStatus, began: float, now: float, spread: float = 0.0) -> "Lifecycle":
        """Take in the status that a look brought: asked for at ``began``, there at ``now``. ``spread`` is between -1 and 1."""
        if self.end is not None:
            return self
        state = self._knowing(status, began, now)
        known = state.status
        assert known is not None  # noqa: S101
        if (end := state._final(known)) is not None:
            return state._ended(end)
        interval = self.rules.pace(known, state.seconds_waited(now)) * (1 + SPREAD * spread)
        state = attrs.evolve(state, due=began + max(FLOOR, interval), failures=0, refusal=None, refusals=0, in_doubt=False)
        if state.wish is not None and not state.cancellable:
            state = attrs.evolve(state, wish=None, answers=state.answers + 1, reason="there is no cancel for it")
        if state.closing is not None:
            return state._checked(began)
        return state._closing_at_window_end(began)

    def missed(self, failure: Failure, began: float, now: float, spread: float = 0.0) -> "Lifecycle":
        """Take in that a look failed."""
        if self.end is not None:
            return self
        started = began if self.started is None else self.started
        failures = self.failures + 1
        if failure.retry_after is None:
            delay = min(LONGEST_BACKOFF, 2.0 ** min(failures - 1, 10) * (1 + SPREAD * spread))
        else:  # never sooner than asked, and never sooner than usual
            usual = FLOOR if self.status is None else self.rules.pace(self.status, self.seconds_waited(now))
            delay = max(usual, min(failure.retry_after * (1 + SPREAD * abs(spread)), LONGEST_RETRY_AFTER))
        again = failure.refusal is not None and failure.refusal == self.refusal
        state = attrs.evolve(
            self,
            started=started,
            due=began + max(FLOOR, delay),
            failures=failures,
            refusal=failure.refusal,
            refusals=self.refusals + 1 if again else 1,
            refused_since=self.refused_since if again else now,
        )
        if state.closing is not None:
            return state._still_unseen(began)
        stubborn = failure.refusal is not None and state.refusals >= REFUSALS and now - state.refused_since >= REFUSED_FOR
        if stubborn and state.status is None:
            return state._ended(End.REFUSED)
        return state._closing_at_window_end(began)

    def broken_off(self, began: float) -> "Lifecycle":
        """Take in that a look was dropped, and brought nothing: the next one is not made at once for that."""
        return attrs.evolve(self, due=max(self.due, began + FLOOR))

    def _knowing(self, status: OrderStatus, began: float, now: float) -> "Lifecycle":
        """Add what a status says to what is known."""
        known = self.status
        if known is not None:
            status = attrs.evolve(
                status,
                paid=status.paid or known.paid,
                number=status.number or known.number,
                code=status.code or known.code,
                code_was_number=status.code_was_number if status.code is not None else known.code_was_number,
                sms_status=status.sms_status or known.sms_status,
                error=status.error or known.error,
                activation_id=status.activation_id or known.activation_id,
                country=status.country or known.country,
                service=status.service or known.service,
                timestamp=status.timestamp or known.timestamp,
            )
        # Both prove the payment: the service takes it for nothing else (docs, api-reference).
        held = status.paid or self.rules.prepaid or status.code is not None or status.sms_status in _SENT
        return attrs.evolve(
            self,
            status=status,
            started=began if self.started is None else self.started,
            paid_at=now if held and self.paid_at is None else self.paid_at,
            numbered_at=now if status.number is not None and self.numbered_at is None else self.numbered_at,
        )

    def _final(self, status: OrderStatus) -> End | None:
        """What a status ends; a code wins over everything beside it."""
        kind = self.kind
        if status.code is not None and kind is OrderKind.receive:
            return End.CODE
        if kind is OrderKind.send and status.sms_status in _SENT:
            return End.SENT
        if kind is OrderKind.send and status.sms_status == SmsStatus.failed:
            return End.SEND_FAILED
        if status.error is not None:
            return self._end_by_error()
        return End.FUNDED if kind is OrderKind.fund and status.paid else None

    def _end_by_error(self) -> End:
        """The server ended the order. What is first seen after our own cancel is that cancel's effect, unless it was refused."""
        if self.closing is not None and self.closing.window and self.closing.tries:
            return End.EXPIRED
        return End.CANCELLED if self.in_doubt else End.FAILED

    def _closing_at_window_end(self, began: float) -> "Lifecycle":
        """Begin the last steps if this look was the one at the end of the window."""
        if began < self.window_end:
            return self
        if self.cancellable:
            closing = Closing(window=True, until=began + LAST_STEPS, cancels=True, at=began)
        elif self.failures:  # the look failed, and there is nothing to cancel: look again
            closing = Closing(window=True, until=began + LAST_STEPS, cancels=False, at=began + FLOOR, misses=1)
        else:
            return self._ended(End.EXPIRED)
        return attrs.evolve(self, closing=closing)

    # --- cancels -----------------------------------------------------------------------------------------------------------------

    def allowed_at(self, now: float) -> float | None:
        """When the server may begin to allow a cancel, if that is still to come; ``None`` when there is nothing to wait for."""
        gates = self._gates() or [now + CANCEL_GATE]
        return min((gate + 1 for gate in gates if gate + 1 > now), default=None)

    def _gates(self) -> list[float]:
        """Two minutes after the order, after the payment and after the number: nobody knows which of them the server means."""
        made = self.created if self.created is not None else self.started
        return [moment + CANCEL_GATE for moment in (made, self.paid_at, self.numbered_at) if moment is not None]

    def wishing(self, at: float, *, tries: int = CANCEL_TRIES, within: float = LAST_STEPS) -> "Lifecycle":
        """The caller wants it cancelled from this time on. One wish, the earliest, stands for all that wait for an answer."""
        if self.end is not None or (self.wish is not None and self.wish.at <= at):
            return self
        return attrs.evolve(self, wish=Wish(at, tries, within))

    def unwishing(self) -> "Lifecycle":
        """The caller wants it no longer; a cancel that was sent is seen through."""
        return attrs.evolve(self, wish=None)

    def asking(self, now: float) -> "Lifecycle":
        """A cancel is about to be sent. From here on it may have worked, whatever comes back."""
        if self.end is not None:
            return self
        closing = self.closing
        if closing is None:
            wish = self.wish or Wish(now, CANCEL_TRIES, LAST_STEPS)
            closing = Closing(window=False, until=now + wish.within, cancels=True, at=now, most=wish.tries)
        closing = closing._replace(cancels=False, tries=closing.tries + 1, at=now, doubted=self.in_doubt)
        return attrs.evolve(self, closing=closing, wish=self.wish if closing.window else None, in_doubt=True)

    def confirmed(self) -> "Lifecycle":
        """The server said that the order is cancelled."""
        return self._told(Answer.CONFIRMED, None)

    def refused(self, reason: str) -> "Lifecycle":
        """The server said no."""
        state = self._told(Answer.REFUSED, reason)
        return attrs.evolve(state, in_doubt=self.closing is not None and self.closing.doubted)

    def unanswered(self, reason: str) -> "Lifecycle":
        """No answer came to the cancel."""
        return self._told(Answer.NONE, reason)

    def _told(self, answer: Answer, reason: str | None) -> "Lifecycle":
        if self.end is not None or self.closing is None:
            return self
        return attrs.evolve(self, closing=self.closing._replace(answer=answer, reason=reason))

    def _checked(self, began: float) -> "Lifecycle":
        """A look after a cancel came back, with no code and no error in it."""
        closing = self.closing
        assert closing is not None  # noqa: S101
        if closing.answer is Answer.CONFIRMED:
            return self._ended(End.EXPIRED) if closing.window else self._ended(End.CANCELLED)
        if closing.window and began < self.window_end:  # paid after all, in the very last moment: the hold window is open now
            return attrs.evolve(self, closing=None)
        if closing.answer is Answer.NONE and self._may_cancel_again(closing, began):
            return self._once_more(began, cancels=True)
        if not closing.window:
            return self._answered()
        return self._ended(End.EXPIRED)

    def _still_unseen(self, began: float) -> "Lifecycle":
        """A look after a cancel failed."""
        closing = self.closing
        assert closing is not None  # noqa: S101
        if closing.answer is Answer.REFUSED and not closing.window:
            return self._answered()
        again = closing.answer is Answer.NONE and self._may_cancel_again(closing, began)
        if closing.answer is Answer.NONE and not closing.window and not again:
            return self._answered()
        return self._once_more(began, cancels=again)

    def _may_cancel_again(self, closing: Closing, began: float) -> bool:
        """A cancel is made only if there is time left for the look after it, should both of them hang."""
        time_left = began + _pause(closing) + 1.5 * LAST_STEP <= closing.until
        return self.cancellable and closing.tries < closing.most and time_left

    def _once_more(self, began: float, *, cancels: bool) -> "Lifecycle":
        closing = self.closing
        assert closing is not None  # noqa: S101
        closing = closing._replace(cancels=cancels, at=min(began + _pause(closing), closing.until), misses=closing.misses + 1)
        return attrs.evolve(self, closing=closing)

    def _answered(self) -> "Lifecycle":
        """A cancel that the caller wanted has come to what is known of it."""
        closing = self.closing
        assert closing is not None  # noqa: S101
        if closing.answer is Answer.CONFIRMED:
            return self._ended(End.CANCELLED)
        reason = closing.reason or "no answer came"
        return attrs.evolve(self, closing=None, wish=None, answers=self.answers + 1, reason=reason)

    # --- ends --------------------------------------------------------------------------------------------------------------------

    def _ended(self, end: End) -> "Lifecycle":
        return attrs.evolve(self, end=end, wish=None)

    def error(self, order_id: str) -> OrderError | None:
        """Return the error that this end is; ``None`` for a good end, for none, and for a refusal, which is the server's own error."""
        name, status = f"order {mask(order_id)}", self.status

        def words(reason: str | None) -> str:
            return self.harmless(reason or "", order_id)

        match self.end:
            case End.FAILED:
                reason = None if status is None else status.error
                text = f"{name}: the server ended it and gives the money back: {words(reason)}"
                return OrderFailed(text, order_id=order_id, status=status, reason=reason)
            case End.SEND_FAILED:
                return SendFailed(f"{name}: the SMS could not be sent", order_id=order_id, status=status)
            case End.CANCELLED:
                return OrderCancelled(f"{name}: cancelled by this program", order_id=order_id, status=status)
            case End.UNRESOLVED:
                text = f"{name}: its window is over and the server could not be asked: watch it again"
                return OrderUnresolved(text, order_id=order_id, status=status)
            case End.EXPIRED:
                cancelled, reason = self._cancel_told()
                paid = self.paid_at is not None
                what = "no code came in time" if paid else "it was not paid in time"
                open_ = f"no cancel was confirmed: {words(reason)}" if reason else "there is no cancel for it"
                state = "it is cancelled" if cancelled else open_
                text = f"{name}: {what}; {state}"
                return OrderExpired(text, order_id=order_id, status=status, paid=paid, cancelled=cancelled, reason=reason)
            case _:
                return None

    def harmless(self, words: str, order_id: str) -> str:
        """Make the server's words fit for a message: without the order's id, its number and its code."""
        words = re.sub(re.escape(order_id), mask(order_id), words, flags=re.IGNORECASE)
        known: list[str] = []
        if self.status is not None:
            known = [text for text in ((self.status.number or "").removeprefix("+"), self.status.code or "") if len(text) > 3]  # noqa: PLR2004
        for secret in known:
            words = re.sub(re.escape(secret), "..", words, flags=re.IGNORECASE)
        return harmless(words)

    def _cancel_told(self) -> tuple[bool, str | None]:
        """Was the cancel confirmed, and if not, why?"""
        if self.closing is None or not self.cancellable:
            return False, None
        if self.closing.answer is Answer.CONFIRMED:
            return True, None
        ended = None if self.status is None else self.status.error
        return False, self.closing.reason or ended or "no answer came"


def _pause(closing: Closing) -> float:
    return min(LONGEST_BACKOFF, 2.0**closing.misses)
