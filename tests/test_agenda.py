"""What is due when, and how fast it may follow: without a clock, for any schedule of wake-ups."""

import bisect
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms4sats_async.agenda import MARGIN, SLACK, Agenda

ROUNDING = 1e-9
TIMES = st.floats(0, 1000)
RATES = st.integers(1, 1000)


class Order:
    """A thing that cannot be compared with another."""


def taken(agenda: Agenda[int], late: "list[float] | None" = None, start: float = 0.0) -> list[float]:
    """Take all there is, each as soon as it can be taken and ``late`` seconds after that; return the times."""
    times: list[float] = []
    now = start
    lateness = itertools.cycle(late or [0.0])
    while agenda.next_at() < math.inf:
        now = max(now, agenda.next_at() + next(lateness))
        agenda.take(now)
        times.append(now)
    return times


def full(count: int, max_rate: float | None = None, at: float = 0.0) -> Agenda[int]:
    agenda: Agenda[int] = Agenda(max_rate)
    for number in range(count):
        agenda.put(number, at)
    return agenda


def most_in_a_second(times: list[float], second: float = 1.0) -> int:
    """How many of these fall into any one second, its end not included."""
    times = sorted(times)
    return max(bisect.bisect_left(times, time + second - ROUNDING) - number for number, time in enumerate(times))


# --- what comes first --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans())))
def test_the_urgent_come_first_then_the_earliest_then_the_one_put_first(things: list[tuple[int, bool]]) -> None:
    agenda: Agenda[int] = Agenda()
    for number, (at, urgent) in enumerate(things):
        agenda.put(number, at, urgent=urgent)
    got = [agenda.take(10) for _ in things]
    assert got == sorted(range(len(things)), key=lambda number: (not things[number][1], things[number][0], number))
    assert (agenda.next_at(), agenda.clear()) == (math.inf, [])


@given(st.lists(st.tuples(TIMES, st.booleans()), min_size=1))
def test_nothing_is_taken_before_it_is_due_and_everything_at_once_when_it_is(things: list[tuple[float, bool]]) -> None:
    agenda: Agenda[float] = Agenda()
    for at, urgent in things:
        agenda.put(at, at, urgent=urgent)
    got: list[float] = []
    while agenda.next_at() < math.inf:
        now = agenda.next_at()
        got.append(now)
        assert agenda.take(now) == now
    assert got == sorted(at for at, _ in things)


def test_an_urgent_thing_that_is_not_due_yet_lets_the_others_go_first() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.put("urgent", 5, urgent=True)
    agenda.put("ordinary", 3)
    assert agenda.next_at() == 3
    assert agenda.take(4) == "ordinary"
    assert agenda.next_at() == 5
    assert agenda.take(5) == "urgent"


def test_things_of_one_time_need_not_be_comparable() -> None:
    agenda: Agenda[Order] = Agenda()
    orders = [Order() for _ in range(10)]
    for order in orders:
        agenda.put(order, 1)
    assert [agenda.take(1) for _ in orders] == orders


def test_as_many_as_are_due_are_taken_at_once_without_a_rate() -> None:
    assert taken(full(1000, at=7)) == [7] * 1000


# --- how fast ----------------------------------------------------------------------------------------------------------------------


@given(RATES, st.lists(st.floats(0, 3) | st.floats(0, 0.1) | st.just(0.0), min_size=1, max_size=20), TIMES)
def test_no_second_ever_has_more_than_the_rate_however_late_the_wake_ups_are(rate: int, late: list[float], start: float) -> None:
    assert most_in_a_second(taken(full(min(3 * rate, 400), rate), late, start), 1 + MARGIN) <= rate


@pytest.mark.parametrize("rate", [1, 2, 7, 50])
def test_no_second_has_more_than_the_rate_with_the_worst_of_lateness(rate: int) -> None:
    """Late by all that is caught up with, and then never again."""
    for on_time in range(3 * rate):
        assert most_in_a_second(taken(full(3 * rate, rate), [SLACK] + [0.0] * (on_time + 1)), 1 + MARGIN) <= rate


@given(st.integers(1, 50), st.lists(st.floats(0, 2), min_size=1, max_size=50))
def test_no_second_has_more_than_the_rate_whatever_is_put_meanwhile(rate: int, gaps: list[float]) -> None:
    agenda: Agenda[int] = Agenda(rate)
    times: list[float] = []
    now = 0.0
    for gap in gaps:
        now += gap
        for number in range(rate):
            agenda.put(number, now, urgent=number % 3 == 0)
        while agenda.next_at() <= now:
            agenda.take(now)
            times.append(now)
    assert most_in_a_second(times) <= rate


@given(st.floats(0.01, 1000), TIMES)
def test_the_turns_are_spread_evenly(rate: float, start: float) -> None:
    times = taken(full(50, rate), start=start)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    # The first turns may catch up with a lateness that the first of them is taken for.
    assert all(gap <= (1 + SLACK + MARGIN) / rate + ROUNDING for gap in gaps)
    assert all(gap == pytest.approx((1 + SLACK + MARGIN) / rate, abs=1e-6) for gap in gaps[math.ceil(SLACK * rate) + 1 :])


@given(st.integers(1, 500), st.floats(0, 10_000))
def test_what_was_not_taken_for_a_while_makes_no_burst(rate: int, pause: float) -> None:
    agenda = full(1, rate)
    taken(agenda)
    for number in range(rate):
        agenda.put(number, pause)
    times = taken(agenda, start=pause)
    assert times[-1] - pause >= (rate - 1) / rate - SLACK - ROUNDING


@pytest.mark.parametrize("rate", [10, 100, 1000])
def test_a_loop_that_is_always_a_little_late_still_has_nearly_all_its_turns(rate: int) -> None:
    times = taken(full(5 * rate, rate), [0.7 * SLACK * (number * 7 % 11) / 11 for number in range(11)])
    assert 4.9 <= times[-1] <= 5.4  # 7 % fewer, for the slack and the margin


def test_a_rate_below_one_leaves_so_many_seconds_between_two() -> None:
    times = taken(full(5, 0.1))
    assert min(after - before for before, after in itertools.pairwise(times)) >= 10


def test_the_urgent_are_counted_as_turns_too() -> None:
    agenda = full(10, 10)
    for number in range(10):
        agenda.put(number, 0, urgent=True)
    assert most_in_a_second(taken(agenda)) <= 10


def test_a_turn_can_be_counted_without_taking_anything() -> None:
    agenda, other = full(3, 10), full(3, 10)
    agenda.take(7)
    other.count(7)
    assert agenda.turn == other.turn == pytest.approx(7 - SLACK + (1 + SLACK + MARGIN) / 10)
    assert agenda.next_at() == agenda.turn
    assert (len(agenda.clear()), len(other.clear())) == (2, 3)


# --- the brake ---------------------------------------------------------------------------------------------------------------------


def test_the_brake_holds_all_but_the_urgent() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.put("ordinary", 1)
    agenda.brake(20)
    assert agenda.next_at() == 20
    agenda.put("urgent", 3, urgent=True)
    assert agenda.next_at() == 3
    assert agenda.take(3) == "urgent"
    assert agenda.next_at() == 20
    assert agenda.take(20) == "ordinary"


def test_the_longest_of_several_brakes_counts() -> None:
    agenda = full(1)
    agenda.brake(20)
    agenda.brake(5)
    assert agenda.next_at() == 20
    agenda.brake(25)
    assert agenda.next_at() == 25


def test_the_brake_holds_nobody_for_longer_than_it_says() -> None:
    agenda: Agenda[int] = Agenda()
    agenda.brake(20)
    agenda.put(1, 30)
    assert agenda.next_at() == 30


def test_the_brake_alone_is_nothing_to_wait_for() -> None:
    agenda: Agenda[int] = Agenda(5)
    agenda.brake(20)
    assert agenda.next_at() == math.inf


def test_the_end_of_the_brake_makes_no_burst() -> None:
    agenda = full(100, 10)
    agenda.brake(20)
    times = taken(agenda)
    assert times[0] == 20
    assert most_in_a_second(times) <= 10


# --- what else it tells ------------------------------------------------------------------------------------------------------------


def test_behind_is_how_long_the_most_overdue_waits() -> None:
    agenda: Agenda[str] = Agenda()
    assert agenda.behind(100) == 0
    agenda.put("ordinary", 10)
    assert (agenda.behind(5), agenda.behind(10), agenda.behind(14)) == (0, 0, 4)
    agenda.put("urgent", 7, urgent=True)
    assert agenda.behind(14) == 7
    agenda.take(14)
    assert agenda.behind(14) == 4


def test_what_is_urgent_is_behind_from_its_own_time_on() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.put("a", 10)
    agenda.put("b", 10, urgent=True)
    assert (agenda.behind(5), agenda.behind(12)) == (0, 2)


def test_nothing_is_behind_that_may_not_be_taken_yet() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.put("ordinary", 10)
    agenda.brake(50)
    assert (agenda.behind(40), agenda.behind(50), agenda.behind(53)) == (0, 0, 3)
    agenda.put("urgent", 35, urgent=True)
    assert agenda.behind(40) == 5


@given(st.lists(st.tuples(TIMES, st.booleans())))
def test_clear_gives_everything_back_once(things: list[tuple[float, bool]]) -> None:
    agenda: Agenda[int] = Agenda()
    for number, (at, urgent) in enumerate(things):
        agenda.put(number, at, urgent=urgent)
    assert sorted(agenda.clear()) == list(range(len(things)))
    assert (agenda.next_at(), agenda.behind(9999), agenda.clear()) == (math.inf, 0, [])


def test_clear_forgets_neither_the_turns_nor_the_brake() -> None:
    agenda = full(3, 1)
    agenda.take(0)
    agenda.brake(20)
    agenda.clear()
    agenda.put(1, 0)
    assert agenda.next_at() == 20
    agenda.put(2, 0, urgent=True)
    assert agenda.next_at() == pytest.approx(1, abs=0.05)


# --- a rate on loan ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(1, 40)), min_size=1, max_size=8))
def test_whatever_the_rates_were_no_second_has_more_than_the_highest(loans: list[tuple[int, int]]) -> None:
    agenda = full(400, 1)
    times: list[float] = []
    now = 0.0
    for rate, count in loans:
        agenda.allow(rate, math.inf)
        for _ in range(count):
            now = max(now, agenda.next_at())
            agenda.take(now)
            times.append(now)
    assert most_in_a_second(times) <= max(rate for rate, _ in loans)
    assert agenda.turns == len(times)


def test_a_loan_ends_and_begins_anew() -> None:
    agenda = full(10, 1)
    agenda.allow(10, until=0.3)
    assert taken(agenda) == pytest.approx([0.0, 0.067, 0.174, 0.281])  # the first was late by what is caught up with
    assert (agenda.next_turn(), agenda.next_at()) == (math.inf, math.inf)
    agenda.allow(0, until=math.inf)
    assert agenda.next_turn() == math.inf
    agenda.allow(20, until=math.inf)
    assert len(taken(agenda, start=5.0)) == 6
