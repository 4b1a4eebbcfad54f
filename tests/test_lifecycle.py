"""The rules of an order's life, each to the second, without a clock and without a service."""

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import attrs
import pytest

from sms4sats_async import errors
from sms4sats_async.errors import (
    APIError,
    AuthenticationError,
    CancelRefused,
    DecodeError,
    JournalError,
    OrderCancelled,
    OrderError,
    OrderExpired,
    OrderFailed,
    OrderUnresolved,
    OutcomeUnknown,
    PaymentFailed,
    PriceTooHigh,
    RateLimited,
    SendFailed,
    Sms4SatsError,
    TransportError,
)
from sms4sats_async.lifecycle import (
    GOOD_ENDS,
    SPREAD,
    Cancel,
    End,
    Failure,
    Lifecycle,
    Look,
    Pace,
    Rules,
    default_pace,
)
from sms4sats_async.models import OrderKind, OrderStatus, SmsStatus

ID = "644bfd59c8e0f600f7b5a947f07c52d8"
MASKED = "order 64..d8"
TIMED_OUT = Failure("no answer in time")
NOT_FOUND = Failure("no such order", refusal="404 no such order")


def status(*, paid: bool = False, **more: Any) -> OrderStatus:
    return OrderStatus(ID, paid, **more)


UNPAID = status()
HELD = status(paid=True)
NUMBERED = status(paid=True, number="+12025550143")
CODED = status(paid=True, number="+12025550143", code="0042")
NO_NUMBER = status(paid=True, error="No available number")


def every(seconds: float) -> Pace:
    return lambda _status, _waited: seconds


def begun(now: float = 0.0, age: float | None = None, **rules: Any) -> Lifecycle:
    return Lifecycle.begin(Rules(**{"pace": every(10), **rules}), now, age)


def seen(*looks: tuple[float, OrderStatus], life: Lifecycle | None = None, **rules: Any) -> Lifecycle:
    """A life in which each status was asked for at its time, and came at once."""
    life = begun(**rules) if life is None else life
    for at, what in looks:
        life = life.saw(what, at, at)
    return life


def missing(life: Lifecycle, failure: Failure, *moments: float) -> Lifecycle:
    for at in moments:
        life = life.missed(failure, at, at)
    return life


def at_window_end(*, prepaid: bool = True, **rules: Any) -> Lifecycle:
    """A life whose hold window of 1260 s, from 0 on, is over, after a last look without a code."""
    return seen((0, HELD), (1260, NUMBERED), prepaid=prepaid, **rules)


def is_step(step: Look | Cancel | None, expected: Look | Cancel) -> bool:
    """Is it this step? As tuples, a look and a cancel at the same time would be equal."""
    return type(step) is type(expected) and step == expected


def error_of(life: Lifecycle) -> OrderError:
    error = life.error(ID)
    assert error is not None
    return error


def expired(life: Lifecycle) -> OrderExpired:
    assert life.end is End.EXPIRED
    error = error_of(life)
    assert isinstance(error, OrderExpired)
    return error


# --- when to look ------------------------------------------------------------------------------------------------------------------


def test_the_first_look_is_at_once() -> None:
    assert is_step(begun(7.0).next(7.0), Look(7.0))
    assert is_step(begun(7.0).next(9.0), Look(7.0))


def test_an_ordinary_look_has_no_limit_but_its_askers_own() -> None:
    step = begun().next(0)
    assert step is not None
    assert (step.before, step.last) == (math.inf, False)


def test_before_the_first_look_nothing_is_known() -> None:
    life = begun()
    assert (life.status, life.started, life.paid_at, life.numbered_at, life.created) == (None,) * 5
    assert (life.failures, life.refusal, life.refusals, life.in_doubt) == (0, None, 0, False)
    assert (life.wish, life.closing, life.answers, life.reason, life.end) == (None, None, 0, None, None)


def test_unless_told_otherwise_an_order_is_looked_at_by_the_default_pace() -> None:
    life = seen((0, UNPAID), life=Lifecycle.begin(Rules(), 0))
    assert is_step(life.next(0), Look(default_pace(UNPAID, 0)))


def test_the_next_look_comes_after_the_interval() -> None:
    assert is_step(seen((0, UNPAID)).next(0), Look(10))


def test_a_looks_own_duration_counts_into_the_interval() -> None:
    assert is_step(begun().saw(UNPAID, 0, 4).next(4), Look(10))
    assert is_step(begun().saw(UNPAID, 0, 14).next(14), Look(10))


@pytest.mark.parametrize("interval", [0.0, 0.5, 1.0, -3.0, math.nan])
def test_no_interval_is_under_a_second(interval: float) -> None:
    assert is_step(seen((0, UNPAID), pace=every(interval)).next(0), Look(1))


@pytest.mark.parametrize("spread", [-1.0, -0.5, 0.0, 1.0])
def test_an_interval_is_spread_by_ten_percent_and_then_floored(spread: float) -> None:
    assert begun().saw(UNPAID, 0, 0, spread).due == pytest.approx(10 + spread)
    assert begun(pace=every(1)).saw(UNPAID, 0, 0, spread).due == pytest.approx(max(1, 1 + spread / 10))


def test_a_custom_pace_is_told_the_status_and_the_seconds_since_the_payment_and_before_it_since_the_first_look() -> None:
    told: list[tuple[bool, float]] = []

    def pace(what: OrderStatus, waited: float) -> float:
        told.append((what.paid, waited))
        return 10

    life = begun(now=100, pace=pace)
    life = life.saw(UNPAID, 100, 103).saw(UNPAID, 110, 111).saw(HELD, 120, 122)
    life.saw(HELD, 130, 135)
    assert told == [(False, 3), (False, 11), (True, 0), (True, 13)]


def test_nothing_was_waited_for_before_the_first_look() -> None:
    assert begun(100).seconds_waited(500) == 0


@pytest.mark.parametrize("paid", [False, True])
def test_the_default_pace_stays_between_one_and_fifteen_seconds_whatever_the_spread(paid: bool) -> None:
    intervals = [default_pace(status(paid=paid), waited) for waited in range(2000)]
    assert min(intervals) * (1 - SPREAD) >= 1
    assert max(intervals) * (1 + SPREAD) <= 15


def test_the_default_pace_is_quickest_when_a_code_is_most_likely_and_slow_later() -> None:
    paid = [default_pace(HELD, waited) for waited in (0, 59, 60, 119, 120, 239, 240, 1260)]
    assert paid == [3, 3, 2, 2, 5, 5, 9, 9]
    unpaid = [default_pace(UNPAID, waited) for waited in (0, 59, 60, 119, 120, 1260)]
    assert unpaid == [2, 2, 4, 4, 12, 12]


# --- looks that fail ---------------------------------------------------------------------------------------------------------------


def test_failed_looks_back_off_to_half_a_minute_and_a_good_one_starts_afresh() -> None:
    life, now, pauses = seen((0, HELD)), 10.0, []
    for _ in range(8):
        life = life.missed(TIMED_OUT, now, now)
        pauses.append(life.due - now)
        now = life.due
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    life = life.saw(HELD, now, now).missed(TIMED_OUT, now + 10, now + 10)
    assert life.due == now + 11


def test_a_backoff_counts_from_the_looks_begin_is_spread_and_is_a_second_at_least() -> None:
    assert begun().missed(TIMED_OUT, 0, 10).due == 1
    assert begun().missed(TIMED_OUT, 0, 0, -1).due == 1
    assert begun().missed(TIMED_OUT, 0, 0, 1).due == pytest.approx(1.1)
    assert missing(begun(), TIMED_OUT, 0, 1).missed(TIMED_OUT, 3, 3, -1).due == pytest.approx(3 + 3.6)


def test_thousands_of_failures_are_no_overflow() -> None:
    assert attrs.evolve(begun(), failures=5000).missed(TIMED_OUT, 0, 0).due == 30


@pytest.mark.parametrize(("asked", "waited"), [(20, 20), (60, 60), (61, 60), (1e99, 60), (0, 10), (-5, 10), (3, 10)])
def test_retry_after_is_obeyed_up_to_a_minute_and_never_sooner_than_usual(asked: float, waited: float) -> None:
    assert seen((0, HELD)).missed(Failure("busy", retry_after=asked), 10, 10).due == 10 + waited


def test_retry_after_is_only_ever_spread_to_later() -> None:
    busy = Failure("busy", retry_after=20)
    assert begun().missed(busy, 0, 0, -1).due == begun().missed(busy, 0, 0, 1).due == pytest.approx(22)


def test_before_the_first_status_retry_after_has_the_floor_of_a_second() -> None:
    assert begun().missed(Failure("busy", retry_after=0), 0, 0).due == 1


def test_how_soon_is_usual_is_what_the_pace_says_of_the_last_status_at_the_time_of_the_answer() -> None:
    told: list[tuple[OrderStatus, float]] = []

    def pace(what: OrderStatus, waited: float) -> float:
        told.append((what, waited))
        return 10

    life = seen((0, HELD), pace=pace)
    assert life.missed(Failure("busy", retry_after=3), 10, 14).due == 20
    assert told == [(HELD, 0), (HELD, 14)]


def test_a_failed_look_ends_nothing_but_the_window_does() -> None:
    life, now = begun(), 0.0
    while life.closing is None:
        life = life.missed(TIMED_OUT, now, now)
        assert life.end is None
        step = life.next(now)
        assert step is not None
        now = step.at
    assert now == 1260


# --- refusals that do not change ---------------------------------------------------------------------------------------------------


def test_five_same_refusals_over_a_minute_before_any_status_end_it() -> None:
    life = missing(begun(), NOT_FOUND, 0, 1, 3, 59.5, 60)
    assert life.end is End.REFUSED
    assert life.next(60) is None
    assert life.error(ID) is None


@pytest.mark.parametrize("moments", [(0, 1, 3, 7, 59.9), (0, 30, 60, 90)])
def test_four_refusals_or_less_than_a_minute_are_not_enough(moments: tuple[float, ...]) -> None:
    assert missing(begun(), NOT_FOUND, *moments).end is None


def test_the_minute_counts_from_the_answers() -> None:
    life = begun().missed(NOT_FOUND, 0, 5)
    life = missing(life, NOT_FOUND, 10, 20, 30, 64)
    assert life.end is None
    assert life.missed(NOT_FOUND, 64, 65).end is End.REFUSED


@pytest.mark.parametrize("other", [TIMED_OUT, Failure("other words", refusal="404 other words"), Failure("busy", retry_after=1.0)])
def test_another_failure_in_between_starts_the_count_afresh(other: Failure) -> None:
    life = missing(missing(missing(begun(), NOT_FOUND, 0, 10, 20, 30), other, 40), NOT_FOUND, 50, 60, 70, 100)
    assert life.end is None
    assert missing(life, NOT_FOUND, 109).end is None
    assert missing(life, NOT_FOUND, 110).end is End.REFUSED


def test_refusals_before_another_failure_do_not_count_however_long_it_takes() -> None:
    life = missing(missing(missing(begun(), NOT_FOUND, 0, 10, 20, 30), TIMED_OUT, 40), NOT_FOUND, 50, 80, 110, 200)
    assert life.end is None
    assert missing(life, NOT_FOUND, 201).end is End.REFUSED


def test_a_good_look_forgets_failures_and_refusals() -> None:
    life = missing(begun(), NOT_FOUND, 0, 1, 2)
    assert (life.failures, life.refusal, life.refusals, life.refused_since) == (3, "404 no such order", 3, 0)
    life = seen((4, UNPAID), life=life)
    assert (life.failures, life.refusal, life.refusals, life.in_doubt) == (0, None, 0, False)


def test_after_a_status_no_refusal_ends_it() -> None:
    life = missing(seen((0, UNPAID)), NOT_FOUND, *range(10, 1000, 10))
    assert life.end is None


@pytest.mark.parametrize("error", [RateLimited("slow down"), TransportError("timed out"), APIError("bad gateway", status_code=503)])
def test_what_is_no_refusal_of_this_order_never_ends_it(error: Sms4SatsError) -> None:
    assert missing(begun(), Failure.of(error), *range(0, 1000, 10)).end is None


def test_a_cancel_under_way_is_not_ended_by_refusals() -> None:
    life = missing(begun(), NOT_FOUND, 0, 20, 40, 55).wishing(56).asking(56).unanswered("timed out")
    life = missing(life, NOT_FOUND, 60)
    assert life.end is None
    assert is_step(life.next(60), Cancel(61, before=71))


# --- what a failure is -------------------------------------------------------------------------------------------------------------

FAILURES: list[tuple[Sms4SatsError, Failure]] = [
    (Sms4SatsError("odd"), Failure("odd")),
    (TransportError("reset"), Failure("reset")),
    (OutcomeUnknown("reset"), Failure("reset")),
    (DecodeError("not JSON", status_code=200), Failure("not JSON")),
    (APIError("said no", status_code=500, reason="no such order"), Failure("no such order", refusal="500 no such order")),
    (APIError("said no", status_code=200, reason="no such order"), Failure("no such order", refusal="200 no such order")),
    (APIError("gone", status_code=404), Failure("gone", refusal="404")),
    (APIError("broken", status_code=500), Failure("broken")),
    (APIError("broken", status_code=502, reason="backend"), Failure("broken")),
    (APIError("broken", status_code=503, reason="backend"), Failure("broken")),
    (APIError("broken", status_code=504, reason="backend"), Failure("broken")),
    (AuthenticationError("forbidden", status_code=403), Failure("forbidden", refusal="403")),
    (AuthenticationError("forbidden", status_code=401, reason="key"), Failure("key", refusal="401 key")),
    (RateLimited("busy"), Failure("busy", too_many=True)),
    (RateLimited("busy", reason="too fast", retry_after=7.0), Failure("busy", retry_after=7.0, too_many=True)),
    (JournalError("ended"), Failure("ended")),
    (OrderError("ended"), Failure("ended")),
    (OrderFailed("ended"), Failure("ended")),
    (OrderExpired("ended"), Failure("ended")),
    (OrderUnresolved("ended"), Failure("ended")),
    (OrderCancelled("ended"), Failure("ended")),
    (CancelRefused("ended"), Failure("ended")),
    (SendFailed("ended"), Failure("ended")),
    (PaymentFailed("ended"), Failure("ended")),
    (PriceTooHigh("ended"), Failure("ended")),
]


@pytest.mark.parametrize(("error", "failure"), FAILURES, ids=[type(error).__name__ for error, _ in FAILURES])
def test_a_failure_is_the_servers_own_no_or_no_answer_at_all(error: Sms4SatsError, failure: Failure) -> None:
    assert Failure.of(error) == failure


def test_only_too_many_requests_concern_other_orders_as_well() -> None:
    assert {type(error) for error, _ in FAILURES if Failure.of(error).too_many} == {RateLimited}


def test_every_error_of_the_tree_has_its_place_among_the_failures() -> None:
    tree = {error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Sms4SatsError)}
    assert {type(error) for error, _ in FAILURES} == tree


# --- windows -----------------------------------------------------------------------------------------------------------------------


def test_the_payment_window_counts_from_the_first_look_good_or_not() -> None:
    assert begun(5).window_end == math.inf
    assert begun(5).saw(UNPAID, 7, 9).window_end == 7 + 1260
    assert begun(5).missed(TIMED_OUT, 7, 9).saw(UNPAID, 20, 20).window_end == 7 + 1260


def test_the_hold_window_counts_from_the_first_status_that_shows_the_payment() -> None:
    life = begun(hold_window=600).saw(UNPAID, 0, 1).saw(HELD, 100, 102)
    assert life.window_end == 702
    assert life.saw(HELD, 110, 110).window_end == 702


def test_a_prepaid_order_is_held_from_its_first_status_on() -> None:
    life = begun(prepaid=True, hold_window=600, payment_window=900)
    assert missing(life, TIMED_OUT, 5).window_end == 905
    assert life.saw(UNPAID, 5, 6).window_end == 606


@pytest.mark.parametrize("age", [None, -7200.0, 0.0, 1e9])
def test_stored_times_move_no_window(age: float | None) -> None:
    life = seen((0, UNPAID), (10, HELD), age=age)
    assert life.window_end == 1270
    assert is_step(life.next(20), Look(20))


def test_without_windows_it_is_looked_at_for_ever() -> None:
    life = seen((0, UNPAID), hold_window=None, payment_window=None)
    assert life.window_end == math.inf
    life = seen((1e6, UNPAID), (2e6, HELD), (9e9, HELD), life=life)
    assert is_step(life.next(9e9), Look(9e9 + 10))


def test_a_rental_has_no_hold_window_but_a_payment_window() -> None:
    life = seen((0, UNPAID), kind=OrderKind.rental)
    assert life.window_end == 1260
    assert seen((10, HELD), life=life).window_end == math.inf


def test_the_last_look_is_at_the_windows_end_and_may_take_ten_seconds() -> None:
    life = seen((0, HELD), (1255, HELD))
    assert is_step(life.next(1255), Look(1260, before=1270, last=True))
    assert is_step(life.next(1400), Look(1260, before=1410, last=True))


def test_a_look_at_the_very_second_of_the_windows_end_is_the_last() -> None:
    assert is_step(seen((0, HELD), (1250, HELD)).next(1250), Look(1260, before=1270, last=True))
    assert is_step(seen((0, HELD), (1249, HELD)).next(1249), Look(1259))


def test_a_look_that_began_before_the_windows_end_is_not_the_last() -> None:
    life = seen((0, HELD)).saw(HELD, 1259, 1275)
    assert life.closing is None
    assert is_step(life.next(1275), Look(1260, before=1285, last=True))


def test_a_payment_first_seen_in_the_last_look_of_the_payment_window_starts_the_hold_window() -> None:
    life = seen((0, UNPAID), (1260, HELD))
    assert life.closing is None
    assert is_step(life.next(1260), Look(1270))
    assert life.window_end == 2520


# --- the last steps ----------------------------------------------------------------------------------------------------------------


def test_the_last_steps_are_look_and_cancel_and_look_at_once() -> None:
    life = at_window_end()
    assert is_step(life.next(1260), Cancel(1260, before=1270, last=True))
    life = life.asking(1262).confirmed()
    assert is_step(life.next(1263), Look(1262, before=1273, last=True))
    life = life.saw(NUMBERED, 1263, 1264)
    error = expired(life)
    assert (error.paid, error.cancelled, error.reason, error.status) == (True, True, None, NUMBERED)


def test_an_unpaid_order_is_cancelled_as_well() -> None:
    life = seen((0, UNPAID), (1260, UNPAID))
    assert is_step(life.next(1260), Cancel(1260, before=1270, last=True))
    error = expired(life.asking(1260).confirmed().saw(UNPAID, 1260, 1260))
    assert (error.paid, error.cancelled) == (False, True)


def test_a_window_cancels_whatever_the_orders_age() -> None:
    life = seen((0, HELD), (30, HELD), hold_window=30.0, age=0.0)
    assert is_step(life.next(30), Cancel(30, before=40, last=True))


def test_the_cancel_is_sent_although_the_last_look_failed() -> None:
    life = missing(seen((0, HELD)), TIMED_OUT, 1260)
    assert is_step(life.next(1260), Cancel(1260, before=1270, last=True))


@pytest.mark.parametrize("answer", ["confirmed", "refused", "unanswered"])
def test_a_code_in_the_look_after_the_cancel_is_in_time(answer: str) -> None:
    life = at_window_end().asking(1260)
    life = life.confirmed() if answer == "confirmed" else life.refused("no") if answer == "refused" else life.unanswered("lost")
    assert life.saw(CODED, 1260, 1260).end is End.CODE


def test_a_refused_cancel_is_expired_and_not_cancelled_with_the_servers_reason() -> None:
    error = expired(at_window_end().asking(1260).refused("unable to save data").saw(NUMBERED, 1260, 1260))
    assert (error.cancelled, error.reason) == (False, "unable to save data")


def test_three_cancels_are_sent_at_the_most_each_with_a_look_after_it() -> None:
    life, now, steps = at_window_end(), 1260.0, []
    while (step := life.next(now)) is not None:
        now = max(now, step.at)
        steps.append((type(step), now))
        life = life.asking(now).unanswered("timed out") if isinstance(step, Cancel) else life.saw(HELD, now, now)
    assert steps == [(Cancel, 1260), (Look, 1260), (Cancel, 1261), (Look, 1261), (Cancel, 1263), (Look, 1263)]
    error = expired(life)
    assert (error.cancelled, error.reason) == (False, "timed out")


@pytest.mark.parametrize(("looked_at", "time_is_left"), [(1274, True), (1274.5, False), (1276, False)])
def test_no_cancel_is_sent_again_without_time_for_a_cancel_and_a_look_that_hang(looked_at: float, time_is_left: bool) -> None:
    life = at_window_end().asking(1260).unanswered("timed out").saw(HELD, looked_at, looked_at)
    assert life.end is (None if time_is_left else End.EXPIRED)
    assert not time_is_left or is_step(life.next(looked_at), Cancel(looked_at + 1, before=looked_at + 11, last=True))


def test_a_loop_that_stood_still_in_the_last_steps_is_no_reason_to_keep_the_money_held() -> None:
    life = at_window_end()
    assert is_step(life.next(1260), Cancel(1260, 1270, last=True))
    later = life.at(1320)
    assert is_step(later.next(1320), Cancel(1260, 1330, last=True))
    assert later.asking(1320).at(1350).end is End.UNRESOLVED


def test_the_last_steps_are_over_after_half_a_minute_and_what_was_not_seen_is_unresolved() -> None:
    life, now, steps = missing(seen((0, HELD)), TIMED_OUT, 1260), 1260.0, []
    while (step := life.at(now).next(now)) is not None:
        now = max(now, step.at)
        if now < 1290:
            steps.append((type(step), now))
            life = life.asking(now).unanswered("timed out") if isinstance(step, Cancel) else life.missed(TIMED_OUT, now, now)
    cancels = [at for kind, at in steps if kind is Cancel]
    looks = [at for kind, at in steps if kind is Look]
    assert cancels == [1260, 1261, 1263]
    assert looks == [1260, 1261, 1263, 1267, 1275]
    assert now == 1290
    assert life.at(1289.9).end is None
    assert life.at(1290).end is End.UNRESOLVED
    assert isinstance(life.at(1290).error(ID), OrderUnresolved)


@pytest.mark.parametrize("answer", ["confirmed", "refused"])
def test_an_answered_cancel_is_not_sent_again_when_the_look_after_it_fails(answer: str) -> None:
    life = at_window_end().asking(1260)
    life = (life.confirmed() if answer == "confirmed" else life.refused("no")).missed(TIMED_OUT, 1260, 1270)
    assert is_step(life.next(1270), Look(1261, before=1280, last=True))
    assert life.at(1290).end is End.UNRESOLVED
    assert expired(life.saw(HELD, 1271, 1271)).cancelled is (answer == "confirmed")


def test_a_cancel_whose_end_nobody_heard_is_looked_after() -> None:
    """The task that asked was cancelled while it waited: no answer was ever taken in."""
    life = at_window_end().asking(1260)
    assert is_step(life.next(1270), Look(1260, before=1280, last=True))
    assert is_step(life.saw(HELD, 1270, 1270).next(1270), Cancel(1271, before=1281, last=True))


@pytest.mark.parametrize("refused", [False, True])
def test_a_payment_seen_only_after_a_fruitless_cancel_opens_the_hold_window(refused: bool) -> None:
    life = seen((0, UNPAID), (1260, UNPAID)).asking(1260)
    life = (life.refused("no") if refused else life.unanswered("timed out")).saw(HELD, 1261, 1261)
    assert life.end is None
    assert is_step(life.next(1261), Look(1271))
    assert life.window_end == 1261 + 1260


def test_a_payment_seen_only_after_a_confirmed_cancel_changes_nothing() -> None:
    error = expired(seen((0, UNPAID), (1260, UNPAID)).asking(1260).confirmed().saw(HELD, 1261, 1261))
    assert (error.paid, error.cancelled) == (True, True)


def test_an_error_first_seen_after_our_own_cancel_is_that_cancels_effect() -> None:
    ended = status(paid=True, error="payment request is canceled")
    error = expired(at_window_end().asking(1260).confirmed().saw(ended, 1260, 1260))
    assert (error.cancelled, error.reason) == (True, None)
    error = expired(at_window_end().asking(1260).unanswered("timed out").saw(ended, 1260, 1260))
    assert (error.cancelled, error.reason) == (False, "timed out")
    error = expired(at_window_end().asking(1260).saw(ended, 1260, 1260))
    assert (error.cancelled, error.reason) == (False, "payment request is canceled")


def test_without_any_word_of_why_the_reason_is_that_no_answer_came() -> None:
    life = at_window_end()
    for now in (1260, 1262, 1265):
        life = life.asking(now).saw(HELD, now, now)
    assert expired(life).reason == "no answer came"


# --- codes and errors --------------------------------------------------------------------------------------------------------------


def test_a_code_is_the_end() -> None:
    life = seen((0, CODED))
    assert life.end is End.CODE
    assert life.next(0) is None
    assert life.error(ID) is None


def test_a_code_wins_over_an_error_beside_it() -> None:
    assert seen((0, status(paid=True, code="1", error="too late"))).end is End.CODE


def test_an_error_ends_it_with_the_servers_words() -> None:
    life = seen((0, NO_NUMBER))
    assert life.end is End.FAILED
    error = error_of(life)
    assert isinstance(error, OrderFailed)
    assert (error.reason, error.status, error.order_id) == ("No available number", NO_NUMBER, ID)


def test_an_error_in_the_last_look_is_the_servers_own_decision() -> None:
    assert seen((0, HELD), (1260, NO_NUMBER)).end is End.FAILED


def test_what_was_seen_once_stays_known() -> None:
    first = status(
        paid=True,
        number="+1",
        sms_status="queued",
        activation_id="7",
        country="USA",
        service="tg",
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
    )
    life = seen((0, first), (10, UNPAID))
    assert life.status == first
    assert (life.paid_at, life.numbered_at) == (0, 0)


def test_newer_words_replace_older_ones() -> None:
    life = seen((0, status(number="+1")), (10, status(number="+2")))
    assert life.status == status(number="+2")
    assert life.numbered_at == 0


def test_a_newer_time_replaces_an_older_one() -> None:
    older, newer = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    assert seen((0, status(timestamp=older)), (10, status(timestamp=newer))).status == status(timestamp=newer)


def test_the_later_codes_of_a_rental_replace_the_first_and_none_is_the_end() -> None:
    life = seen((0, status(paid=True, code="1", code_was_number=True)), (10, status(paid=True, code="02")), kind=OrderKind.rental)
    assert life.status == status(paid=True, code="02")
    life = seen((20, HELD), life=life)
    assert life.status == status(paid=True, code="02")
    assert life.end is None
    assert seen((30, NO_NUMBER), life=life).end is End.FAILED


def test_that_a_code_was_a_number_stays_with_that_code() -> None:
    life = seen((0, status(paid=True, code="1", code_was_number=True)), (10, HELD), kind=OrderKind.rental)
    assert life.status == status(paid=True, code="1", code_was_number=True)


def test_a_code_proves_the_payment_whatever_the_status_says_of_it() -> None:
    life = seen((0, UNPAID), (10, status(paid=False, code="1")), kind=OrderKind.rental)
    assert (life.paid_at, life.window_end) == (10, math.inf)


# --- orders of other kinds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [SmsStatus.sent, SmsStatus.delivered])
def test_a_message_is_sent_when_it_is_sent_or_delivered_whatever_error_stands_beside(word: SmsStatus) -> None:
    life = seen((0, status(paid=True, sms_status=word, error="odd")), kind=OrderKind.send)
    assert life.end is End.SENT
    assert life.error(ID) is None


def test_a_message_that_failed_is_a_failed_send() -> None:
    life = seen((0, status(paid=True, sms_status=SmsStatus.failed)), kind=OrderKind.send)
    assert life.end is End.SEND_FAILED
    error = error_of(life)
    assert isinstance(error, SendFailed)
    assert str(error) == f"{MASKED}: the SMS could not be sent"


@pytest.mark.parametrize("word", [SmsStatus.created, "queued", None])
def test_other_words_of_a_message_end_nothing_but_an_error_does(word: SmsStatus | str | None) -> None:
    assert seen((0, status(paid=True, sms_status=word)), kind=OrderKind.send).end is None
    assert seen((0, status(paid=True, sms_status=word, error="no")), kind=OrderKind.send).end is End.FAILED


@pytest.mark.parametrize("kind", [OrderKind.send, OrderKind.rental, OrderKind.fund])
def test_what_cannot_be_cancelled_expires_with_its_last_look(kind: OrderKind) -> None:
    life = seen((0, UNPAID), (1260, UNPAID), kind=kind)
    error = expired(life)
    assert (error.paid, error.cancelled, error.reason) == (False, False, None)
    assert str(error) == f"{MASKED}: it was not paid in time; there is no cancel for it"


def test_what_cannot_be_cancelled_is_looked_at_again_when_the_last_look_fails() -> None:
    life = missing(seen((0, UNPAID), kind=OrderKind.send), TIMED_OUT, 1260)
    assert is_step(life.next(1260), Look(1261, before=1271, last=True))
    life = missing(life, TIMED_OUT, 1261)
    assert is_step(life.next(1261), Look(1263, before=1273, last=True))
    assert life.at(1290).end is End.UNRESOLVED
    assert expired(seen((1263, UNPAID), life=life)).cancelled is False
    assert seen((1263, status(error="no")), life=life).end is End.FAILED


def test_a_fund_order_ends_with_its_payment_but_not_beside_an_error() -> None:
    life = seen((0, UNPAID), (10, HELD), kind=OrderKind.fund)
    assert life.end is End.FUNDED
    assert life.error(ID) is None
    assert seen((0, NO_NUMBER), kind=OrderKind.fund).end is End.FAILED


def test_good_ends_raise_nothing() -> None:
    assert {end for end in End if attrs.evolve(begun(), end=end).error(ID) is None} == {*GOOD_ENDS, End.REFUSED}
    assert begun().error(ID) is None


def test_a_guessed_receive_order_that_turns_out_to_send_is_a_send_order() -> None:
    life = seen((0, status(paid=True, sms_status=SmsStatus.created)), kind_is_guess=True)
    assert (life.kind, life.cancellable) == (OrderKind.send, False)
    assert seen((10, status(paid=True, sms_status=SmsStatus.sent)), life=life).end is End.SENT
    assert seen((1260, HELD), life=life).end is End.EXPIRED


def test_a_guessed_receive_order_stays_one_until_a_status_tells_of_a_message_and_of_no_code() -> None:
    life = begun(kind_is_guess=True)
    assert (life.kind, life.cancellable) == (OrderKind.receive, True)
    assert seen((0, NUMBERED), life=life).kind is OrderKind.receive
    assert seen((0, status(paid=True, code="1", sms_status=SmsStatus.sent)), life=life).end is End.CODE


def test_a_known_receive_order_stays_one_whatever_its_status_says() -> None:
    life = seen((0, status(paid=True, sms_status=SmsStatus.sent)))
    assert (life.kind, life.cancellable, life.end) == (OrderKind.receive, True, None)


@pytest.mark.parametrize("answered", [False, True])
def test_a_guessed_order_that_is_cancelled_before_it_turns_out_to_send_is_not_asked_about_again(answered: bool) -> None:
    life = seen((0, HELD), (1260, HELD), kind_is_guess=True).asking(1260)
    life = life.refused("it sends") if answered else life
    error = expired(life.saw(status(paid=True, sms_status=SmsStatus.created), 1260, 1260))
    assert (error.cancelled, error.reason) == (False, None)


def test_a_wish_for_what_turns_out_to_send_asks_nothing() -> None:
    life = begun(kind_is_guess=True).wishing(5)
    life = seen((0, status(paid=True, sms_status=SmsStatus.created)), life=life)
    assert is_step(life.next(5), Look(10))
    assert (life.answers, life.reason) == (1, "there is no cancel for it")


def test_a_cancel_on_its_way_to_what_turns_out_to_send_is_answered_once() -> None:
    life = begun(kind_is_guess=True).wishing(0).asking(0).unanswered("timed out")
    life = seen((0, status(paid=True, sms_status=SmsStatus.created)), life=life)
    assert (life.answers, life.reason, life.closing, life.wish) == (1, "timed out", None, None)


# --- cancels that the caller wants -------------------------------------------------------------------------------------------------


def test_a_wish_comes_before_a_look_that_is_due_later_or_just_then() -> None:
    life = seen((0, HELD))
    assert is_step(life.wishing(4).next(0), Cancel(4, before=14))
    assert is_step(life.wishing(10).next(0), Cancel(10, before=20))
    assert is_step(life.wishing(11).next(0), Look(10))


def test_a_wish_after_the_windows_end_waits_for_the_last_steps() -> None:
    life = seen((0, HELD), (1255, HELD)).wishing(1262)
    assert is_step(life.next(1255), Look(1260, before=1270, last=True))


def test_a_wish_can_be_taken_back() -> None:
    assert is_step(seen((0, HELD)).wishing(4).unwishing().next(0), Look(10))


def test_a_confirmed_wish_is_cancelled_after_the_look() -> None:
    life = seen((0, HELD)).wishing(4).asking(4).confirmed()
    assert is_step(life.next(4), Look(4, before=14))
    life = life.saw(HELD, 4, 4)
    assert life.end is End.CANCELLED
    assert str(error_of(life)) == f"{MASKED}: cancelled by this program"


def test_a_code_in_the_look_after_a_wish_wins() -> None:
    assert seen((0, HELD)).wishing(4).asking(4).confirmed().saw(CODED, 4, 4).end is End.CODE


@pytest.mark.parametrize("confirmed", [True, False])
def test_an_error_after_a_wish_is_its_effect_unless_it_was_refused(confirmed: bool) -> None:
    life = seen((0, HELD)).wishing(4).asking(4)
    assert life.unanswered("lost").saw(NO_NUMBER, 4, 4).end is End.CANCELLED
    life = life.confirmed() if confirmed else life.refused("too early")
    assert life.saw(NO_NUMBER, 4, 4).end is (End.CANCELLED if confirmed else End.FAILED)


def test_an_error_long_after_an_unanswered_cancel_is_not_its_effect_when_the_order_was_seen_alive_in_between() -> None:
    life = begun().wishing(4, tries=1).saw(HELD, 0, 0).asking(4).unanswered("lost").saw(HELD, 4, 4)
    assert life.end is None
    assert seen((14, NO_NUMBER), life=life).end is End.FAILED


def test_an_error_after_a_cancel_that_was_refused_because_an_earlier_one_worked_is_their_effect() -> None:
    life = seen((0, HELD)).wishing(4, tries=1).asking(4).unanswered("lost").missed(TIMED_OUT, 4, 4)
    assert (life.answers, life.closing) == (1, None)
    life = life.wishing(5).asking(5).refused("it is cancelled already")
    assert life.saw(NO_NUMBER, 5, 5).end is End.CANCELLED


def test_an_error_after_a_second_cancel_that_was_refused_because_the_first_worked_is_their_effect() -> None:
    life = seen((0, HELD)).wishing(4).asking(4).unanswered("lost").missed(TIMED_OUT, 4, 4)
    life = life.asking(5).refused("it is cancelled already")
    assert life.saw(NO_NUMBER, 5, 5).end is End.CANCELLED


@pytest.mark.parametrize("look_fails", [False, True])
def test_a_refused_wish_goes_on_with_the_servers_reason(look_fails: bool) -> None:
    life = seen((0, HELD)).wishing(4).asking(4).refused("too early")
    life = life.missed(TIMED_OUT, 4, 4) if look_fails else life.saw(HELD, 4, 4)
    assert (life.end, life.answers, life.reason) == (None, 1, "too early")
    assert is_step(life.next(4), Look(5 if look_fails else 14))


@pytest.mark.parametrize("look_fails", [False, True])
def test_a_wish_whose_answers_are_lost_asks_three_times_and_goes_on(look_fails: bool) -> None:
    life, now, cancels = seen((0, HELD)).wishing(4), 4.0, []
    while life.answers == 0:
        step = life.next(now)
        assert step is not None
        now = max(now, step.at)
        if isinstance(step, Cancel):
            cancels.append(now)
            life = life.asking(now).unanswered("timed out")
        else:
            life = life.missed(TIMED_OUT, now, now) if look_fails else life.saw(HELD, now, now)
    assert cancels == [4, 5, 7]
    assert (life.end, life.reason, life.closing, life.wish) == (None, "timed out", None, None)


def test_whoever_leaves_asks_once_within_ten_seconds() -> None:
    life = seen((0, HELD)).wishing(4, tries=1, within=10).asking(4)
    assert is_step(life.next(4), Look(4, before=14))
    life = life.unanswered("timed out").saw(HELD, 4, 4)
    assert life.answers == 1
    assert is_step(life.next(4), Look(14))


def test_a_wish_is_answered_when_its_time_is_up() -> None:
    life = seen((0, HELD)).wishing(4, tries=1, within=10).asking(4)
    assert life.at(13.9).answers == 0
    life = life.at(14)
    assert (life.answers, life.reason, life.end) == (1, "no answer came", None)


def test_a_confirmed_wish_is_cancelled_even_if_no_look_succeeds_any_more() -> None:
    life = missing(seen((0, HELD)).wishing(4).asking(4).confirmed(), TIMED_OUT, 4, 5)
    assert is_step(life.next(5), Look(7, before=17))
    assert life.at(34).end is End.CANCELLED


def test_a_wish_that_outlasts_the_window_is_followed_by_the_last_steps() -> None:
    life = seen((0, HELD), (1255, HELD)).wishing(1256).asking(1256).refused("no").saw(HELD, 1261, 1262)
    assert life.answers == 1
    assert is_step(life.next(1262), Look(1260, before=1272, last=True))


def test_a_wish_made_at_the_windows_end_is_kept_when_a_payment_opens_the_next_window() -> None:
    life = seen((0, UNPAID)).wishing(1265)
    life = seen((1260, UNPAID), life=life).asking(1260).refused("too early").saw(HELD, 1261, 1261)
    assert life.end is None
    assert is_step(life.next(1261), Cancel(1265, before=1275))


def test_to_ask_without_a_wish_is_to_wish_it_now() -> None:
    life = seen((0, HELD)).asking(3)
    assert is_step(life.next(3), Look(3, before=13))


def test_a_cancel_asked_for_after_its_wish_was_taken_back_is_asked_three_times_as_well() -> None:
    life = seen((0, HELD)).wishing(4).unwishing()
    for now in (4, 5, 7):
        assert life.answers == 0
        life = life.asking(now).unanswered("timed out").saw(HELD, now, now)
    assert (life.answers, life.closing) == (1, None)


def test_a_wish_made_while_a_cancel_is_under_way_has_the_same_answer() -> None:
    life = seen((0, HELD)).wishing(4).asking(4).wishing(5).refused("too early").saw(HELD, 6, 6)
    assert (life.answers, life.wish) == (1, None)
    assert is_step(life.next(6), Look(16))


def test_what_is_known_of_a_cancel_that_is_under_way() -> None:
    life = seen((0, HELD))
    assert (life.cancel_confirmed, life.closing_window) == (False, False)
    life = life.wishing(4).asking(4)
    assert (life.cancel_confirmed, life.closing_window) == (False, False)
    assert (life.confirmed().cancel_confirmed, life.refused("no").cancel_confirmed) == (True, False)
    assert at_window_end().closing_window
    assert at_window_end().asking(1260).confirmed().cancel_confirmed


def test_an_end_fulfils_or_forgets_the_wish() -> None:
    assert seen((0, CODED), life=begun().wishing(60)).wish is None


# --- when a cancel is likely to be allowed -----------------------------------------------------------------------------------------


def test_a_cancel_is_allowed_two_minutes_after_the_order_or_the_payment_or_the_number() -> None:
    life = seen((0, UNPAID), (50, HELD), (70, NUMBERED), age=20)
    assert [life.allowed_at(now) for now in (0, 100.9, 101, 171, 190.9)] == [101, 101, 171, 191, 191]
    assert life.allowed_at(191) is None


def test_without_an_age_the_gate_counts_from_the_first_look() -> None:
    assert seen((5, UNPAID)).allowed_at(6) == 126


def test_before_anything_is_known_the_gate_counts_from_now() -> None:
    assert begun().allowed_at(30) == 151


def test_an_order_from_the_future_is_made_now() -> None:
    assert begun(now=1000, age=-7200).allowed_at(1000) == 1121
    assert begun(now=1000, age=7200).allowed_at(1000) is None


# --- words -------------------------------------------------------------------------------------------------------------------------


def test_words_of_the_server_are_escaped_and_the_id_masked_in_the_text_but_not_in_the_reason() -> None:
    foreign = f"no {ID}\x1b[31m\r\nINFO all is well"
    error = error_of(seen((0, status(paid=True, error=foreign))))
    assert str(error) == rf"{MASKED}: the server ended it and gives the money back: no 64..d8\x1b[31m\r\nINFO all is well"
    assert isinstance(error, OrderFailed)
    assert error.reason == foreign


def test_the_text_of_an_expired_order_says_what_was_missing_and_what_became_of_the_cancel() -> None:
    foreign = f"no {ID}\n"
    cancelled = at_window_end().asking(1260).confirmed().saw(HELD, 1260, 1260)
    refused = at_window_end().asking(1260).refused(foreign).saw(HELD, 1260, 1260)
    unpaid = seen((0, UNPAID), (1260, UNPAID)).asking(1260).confirmed().saw(UNPAID, 1260, 1260)
    assert str(expired(cancelled)) == f"{MASKED}: no code came in time; it is cancelled"
    assert str(expired(refused)) == rf"{MASKED}: no code came in time; no cancel was confirmed: no 64..d8\n"
    assert expired(refused).reason == foreign
    assert str(expired(unpaid)) == f"{MASKED}: it was not paid in time; it is cancelled"


def test_the_servers_words_tell_neither_the_id_nor_the_number_nor_the_code_in_any_spelling() -> None:
    known = status(paid=True, number="+1555", code="QxZw")
    life = attrs.evolve(seen((0, known)), end=None)
    assert life.harmless(f"{ID.upper()}: QXZW came for 1555, qxzw for +1555", ID) == "64..d8: .. came for .., .. for +.."


def test_the_servers_words_are_in_no_repr_of_a_life() -> None:
    refused = missing(begun(), Failure(f"{ID} is unknown", refusal=f"404 {ID} is unknown"), 0)
    assert refused.refusal == f"404 {ID} is unknown"
    closing = at_window_end().asking(1260).refused(f"{ID} cannot be canceled")
    assert closing.closing is not None
    assert closing.closing.reason == f"{ID} cannot be canceled"
    answered = seen((0, HELD)).wishing(1, tries=1, within=10).asking(1).refused(f"{ID} cannot be canceled").saw(HELD, 2, 2)
    assert answered.reason == f"{ID} cannot be canceled"
    assert [ID in repr(life) for life in (refused, closing, answered)] == [False] * 3


def test_a_code_of_three_letters_is_in_too_many_words_to_be_blotted() -> None:
    life = seen((0, status(paid=True, number="+155", code="the")))
    assert life.harmless("the 155 others", ID) == "the 155 others"
    assert begun().harmless("XXXX", ID) == "XXXX"


@pytest.mark.parametrize("end", [end for end in End if end not in {*GOOD_ENDS, End.REFUSED}])
def test_every_bad_end_names_its_order_masked_and_carries_id_and_status(end: End) -> None:
    error = error_of(attrs.evolve(seen((0, NUMBERED)), end=end))
    assert str(error).startswith(f"{MASKED}: ")
    assert ID not in str(error)
    assert (error.order_id, error.status) == (ID, NUMBERED)


def test_an_order_that_failed_without_a_status_has_no_words() -> None:
    error = error_of(attrs.evolve(begun(), end=End.FAILED))
    assert isinstance(error, OrderFailed)
    assert (error.reason, error.status) == (None, None)


# --- values ------------------------------------------------------------------------------------------------------------------------


def test_states_are_frozen_hashable_and_equal_by_value() -> None:
    life = seen((0, NUMBERED)).wishing(4).asking(4)
    assert life == seen((0, NUMBERED), pace=life.rules.pace).wishing(4).asking(4)
    assert hash(life) == hash(attrs.evolve(life))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        life.due = 3.0  # type: ignore[misc]
    for part in (life.rules, life.closing, life.next(4), Failure("lost"), seen((0, HELD)).wishing(4).wish):
        assert part is not None
        hash(part)
        for name in ("kind", "until", "at", "words"):
            if hasattr(part, name):
                with pytest.raises(AttributeError):
                    setattr(part, name, 3.0)


@pytest.mark.parametrize("end", list(End))
def test_an_end_absorbs_every_event(end: End) -> None:
    life = attrs.evolve(seen((0, NUMBERED)), end=end)
    assert life.saw(CODED, 1, 1) == life
    assert life.missed(NOT_FOUND, 1, 1) == life
    assert life.at(1e9) == life
    assert life.wishing(1) == life
    assert life.unwishing() == life
    assert life.next(1e9) is None


def test_a_cancel_that_is_not_over_its_time_goes_on_and_without_one_time_changes_nothing() -> None:
    life = seen((0, HELD))
    assert life.at(1e9) is life
    asking = life.wishing(4).asking(4)
    assert asking.at(33.9) is asking


def test_a_look_that_was_broken_off_is_not_made_again_within_a_second() -> None:
    life = seen((0, HELD))
    assert is_step(life.broken_off(9.5).next(9.5), Look(10.5))
    assert is_step(life.broken_off(8.5).next(8.5), Look(10.0))
    assert life.broken_off(9.5).status is life.status


def test_the_intervals_of_a_whole_order_are_never_under_a_second() -> None:
    life, now, looks = begun(pace=default_pace), 0.0, []
    while (step := life.next(now)) is not None and isinstance(step, Look):
        now = step.at
        looks.append(now)
        life = life.saw(UNPAID if now < 60 else HELD, now, now, -1)
    assert min(later - sooner for sooner, later in pairwise(looks)) >= 1
    assert len(looks) <= 430


def test_an_ended_order_takes_in_no_cancel_any_more() -> None:
    ended = seen((0, HELD)).wishing(4).asking(4).confirmed().saw(HELD, 4, 4)
    assert ended.end is End.CANCELLED
    for after in (ended.asking(5), ended.confirmed(), ended.unanswered("lost"), ended.wishing(5)):
        assert after == ended
    life = seen((0, HELD))
    assert life.confirmed() == life  # nobody asked
