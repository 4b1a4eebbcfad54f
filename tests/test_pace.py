"""The default pace is worth its name: fewer requests and shorter delays than fixed intervals. And the simulation that says so is right."""

import math
import random
from functools import cache, partial

import pytest

from benchmarks.pace import Course, Figures, arrivals, best_steps, code_after, drive, every, in_steps, simulate, still_waiting
from sms4sats_async.lifecycle import End, Pace, default_pace
from sms4sats_async.models import OrderStatus

SLOW, FAST = 2.0, 0.5


def times(factor: float) -> Pace:
    """The default pace with every interval multiplied."""

    def pace(status: OrderStatus, waited: float) -> float:
        return factor * default_pace(status, waited)

    return pace


DEFAULT, EVERY_2_S, EVERY_5_S, BEST_MEAN = default_pace, every(2), every(5), in_steps(best_steps(default_pace))


@cache
def figures(pace: Pace, stretch: float = 1.0) -> Figures:
    """So many orders that their standard errors are a fraction of the margins below."""
    return simulate(pace, 50_000, seed=1, stretch=stretch, courses=50).figures


FEWER = "fewer requests than every 5 s"
SOONER = "a lower mean delay than every 5 s"
SELDOM_LATE = "a lower 95th percentile of the delay than every 5 s"
FAR_FEWER = "less than 60 % of the requests of every 2 s"
HARDLY_LATER = "at most 1.5 times the mean delay of every 2 s"


def broken_promises(pace: Pace) -> set[str]:
    own, five, two = figures(pace), figures(EVERY_5_S), figures(EVERY_2_S)
    kept = {
        FEWER: own.requests < five.requests,
        SOONER: own.mean < five.mean,
        SELDOM_LATE: own.percentile_95 < five.percentile_95,
        FAR_FEWER: own.requests < 0.6 * two.requests,
        HARDLY_LATER: own.mean <= 1.5 * two.mean,
    }
    return {promise for promise, is_kept in kept.items() if not is_kept}


# --- the pace ----------------------------------------------------------------------------------------------------------------------


def test_the_default_pace_beats_every_5_seconds_at_everything_and_is_near_every_2_at_far_fewer_requests() -> None:
    assert broken_promises(DEFAULT) == set()


@pytest.mark.parametrize(
    ("pace", "broken"),
    [
        pytest.param(EVERY_5_S, {FEWER, SOONER, SELDOM_LATE, HARDLY_LATER}, id="every 5 s"),
        pytest.param(every(3), {FEWER, FAR_FEWER}, id="every 3 s"),
        pytest.param(EVERY_2_S, {FEWER, FAR_FEWER}, id="every 2 s"),
        pytest.param(times(2), {SOONER, SELDOM_LATE, HARDLY_LATER}, id="twice the default"),
        pytest.param(times(0.5), {FEWER, FAR_FEWER}, id="half the default"),
        pytest.param(BEST_MEAN, {SELDOM_LATE}, id="the best mean"),
    ],
)
def test_no_fixed_interval_no_multiple_of_the_default_and_not_the_best_mean_keep_all_promises(pace: Pace, broken: set[str]) -> None:
    assert broken_promises(pace) == broken


def test_when_codes_come_twice_as_fast_it_is_better_at_everything() -> None:
    own, five = figures(DEFAULT, FAST), figures(EVERY_5_S, FAST)
    assert own.requests < 0.9 * five.requests
    assert own.mean < 0.75 * five.mean
    assert own.percentile_95 < 0.85 * five.percentile_95


def test_when_codes_come_twice_as_slowly_it_costs_as_much_as_every_5_seconds_and_waits_less() -> None:
    own, five = figures(DEFAULT, SLOW), figures(EVERY_5_S, SLOW)
    assert own.requests < 1.01 * five.requests
    assert own.mean < 0.9 * five.mean
    assert own.percentile_95 < 1.03 * five.percentile_95


def test_the_number_is_seen_less_than_two_seconds_late_on_the_average() -> None:
    assert figures(DEFAULT).number < 2


def test_its_mean_delay_is_near_the_least_that_so_many_requests_can_buy() -> None:
    own, best = figures(DEFAULT), figures(BEST_MEAN)
    assert best.requests == pytest.approx(own.requests, rel=0.01)
    assert best.mean < own.mean < 1.15 * best.mean


# --- the simulation, by hand -------------------------------------------------------------------------------------------------------


def chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - arrivals, not secrets


def steady(pace: Pace, number: float, code: float) -> Course:
    return drive(pace, number, code, lambda: 0.0)


def test_an_order_worked_out_by_hand() -> None:
    course = steady(every(5), number=7, code=12)  # looks at 0, 5, 10 and 15 s; a tenth of a second there, another one back
    assert course.looks == pytest.approx([0.1, 5.1, 10.1, 15.1])
    assert (course.requests, course.end) == (4, End.CODE)
    assert [course.numbered_at, course.ended_at] == pytest.approx([10.2, 15.2])


def test_an_order_without_a_code_worked_out_by_hand() -> None:
    course = steady(every(5), number=7, code=math.inf)
    assert course.looks[-3:] == pytest.approx([1260.1, 1260.3, 1260.7])  # the window began with the first reply, at 0.2 s
    assert course.requests == 253 + 1 + 1 + 1  # every 5 s from 0 to 1260 s, the last look, the cancel, the look after it
    assert course.ended_at == pytest.approx(1260.8)
    assert course.end is End.EXPIRED


def test_what_comes_while_a_request_is_on_its_way_is_in_its_reply_and_what_comes_later_is_not() -> None:
    there = steady(every(5), 7, math.inf).looks[3]
    assert steady(every(5), 7, there).requests == 4
    assert steady(every(5), 7, math.nextafter(there, math.inf)).requests == 5


@pytest.mark.parametrize("pace", [DEFAULT, EVERY_5_S], ids=["default", "every 5 s"])
@pytest.mark.parametrize(("number", "code"), [(2, 30.5), (11, 64), (19.9, 119), (7, 241), (13, 1199)])
def test_an_order_without_a_code_is_looked_at_as_one_with_a_code_until_that_is_there(pace: Pace, number: float, code: float) -> None:
    without, with_one = (drive(pace, number, when, partial(chance(1).uniform, -1, 1)) for when in (math.inf, code))
    assert with_one.looks == without.looks[: with_one.requests]
    assert with_one.looks[-2] < code <= with_one.looks[-1]
    assert (with_one.end, with_one.numbered_at) == (End.CODE, without.numbered_at)


def test_many_orders_at_a_fixed_interval_have_the_figures_of_the_formula() -> None:
    found = figures(EVERY_5_S)
    looks = [mean / 5 + 1.5 for mean in (75, 660)]  # half an interval after the code, and the first look at 0 s
    assert found.requests == pytest.approx(0.72 * looks[0] + 0.08 * looks[1] + 0.2 * 256, rel=0.005)
    assert [found.mean, found.median] == pytest.approx([0.1 + 2.5] * 2, rel=0.02)
    assert found.percentile_95 == pytest.approx(0.1 + 0.95 * 5, rel=0.02)
    assert found.coded == pytest.approx(0.8)


# --- the arrivals ------------------------------------------------------------------------------------------------------------------


def codes(stretch: float) -> list[float]:
    return sorted(code for each in arrivals(1000, 10, stretch, chance(1)) for code in each.codes)


def test_the_codes_are_those_that_were_stated() -> None:
    assert [code_after(place) for place in (0, 0.199)] == [math.inf, math.inf]
    assert [code_after(place) for place in (0.2, 0.56, 0.92, 0.96, 1)] == pytest.approx([30, 75, 120, 660, 1200])
    stated = codes(1.0)
    assert [stated.count(math.inf), sum(code < 120 for code in stated), sum(120 <= code <= 1200 for code in stated)] == [200, 720, 80]


def test_the_share_that_still_waits_is_the_share_whose_code_comes_later() -> None:
    assert [still_waiting(seconds) for seconds in (0, 30, 1200, 2000)] == pytest.approx([1, 1, 0.2, 0.2])
    for seconds in (40, 75, 119, 300, 1000):
        later = sum(code_after((index + 0.5) / 10_000) > seconds for index in range(10_000))
        assert still_waiting(seconds) == pytest.approx(later / 10_000, abs=0.0002)


def test_slow_and_fast_arrivals_are_the_same_ones_stretched_and_none_comes_after_21_minutes() -> None:
    stated = codes(1.0)
    assert codes(FAST) == [code / 2 for code in stated]
    assert codes(SLOW) == [code * 2 if code * 2 <= 1260 else math.inf for code in stated]
    assert codes(SLOW).count(math.inf) > stated.count(math.inf)


def test_every_order_has_its_number_long_before_its_code() -> None:
    dealt = arrivals(1000, 10, 1.0, chance(1))
    numbers = sorted(each.number for each in dealt)
    assert all(2 + 1.8 * index <= number <= 2 + 1.8 * (index + 1) for index, number in enumerate(numbers))
    assert {len(each.codes) for each in dealt} == {100}


# --- the best there is -------------------------------------------------------------------------------------------------------------


def test_the_best_intervals_are_in_proportion_to_one_over_the_square_root_of_the_rate() -> None:
    steps = dict(best_steps(default_pace))
    rates = {60: 0.24 / 30 / 0.88, 90: 0.24 / 30 / 0.64, 120: 0.24 / 30 / 0.4}
    assert [steps[until] * math.sqrt(rate) for until, rate in rates.items()] == pytest.approx([steps[60] * math.sqrt(rates[60])] * 3)
    assert in_steps(best_steps(default_pace))(OrderStatus("ab", paid=True), 89.9) == steps[90]
