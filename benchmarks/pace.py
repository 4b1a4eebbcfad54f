"""How often to look at an order: requests per order against how late its code is seen, at the default pace and at fixed ones.

    python -m benchmarks.pace [--orders 10000] [--seed 1] [--json]

No clock, no loop and no network: the package's own :class:`Lifecycle` says when to look, and a few lines stand in for the service. An
order is paid at 0 s; one in five never gets a code; nine of ten others get it 30 to 120 s after the payment, the tenth 120 to 1200 s
after; a number comes after 2 to 20 s, all of them uniformly. Then the same with all these times doubled, and halved. What the service
has not sent after 21 minutes never comes. A request is at the server after 0.1 s, and its reply is back after another 0.1 s. All paces
have the same window, 1260 s from the first reply, then a look, a cancel (it works) and a look, and all intervals are spread by up to
10 % at random. Every request counts, cancels too. A delay is from when the server has the code, or the number, to when the caller has
it, so it is 0.1 s at least.

How an order is looked at does not depend on when its code will come, only on whether it is there. So the lifecycle is driven to its very
end, without a code, for 500 courses, and each of them serves its share of the orders: an order's requests end with the first look that
is at the server after its code. All paces have the same orders, and these are spread evenly over the arrivals instead of drawn at will:
left to chance is how long after a code the next look comes. After ± is the standard error, from ten parts of the courses.

"best mean" is the least mean delay that so many requests can buy, by intervals in proportion to one over the square root of the rate of
arrivals: how near do round figures come to it, and what becomes of the longest delays? The last line is JSON.
"""

import argparse
import math
import random
import statistics
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from benchmarks._report import line_of_json, table
from sms4sats_async.lifecycle import HOLD_WINDOW, Cancel, End, Lifecycle, Pace, Rules, default_pace
from sms4sats_async.models import OrderStatus

THERE, BACK = 0.1, 0.1  # seconds of a request's way to the server, and of its reply's
NEVER = 0.2  # the share of orders that get no code
USUAL, LATE = 0.72, 0.08  # the shares with a code between the seconds below
USUAL_FROM, USUAL_TO, LATE_TO = 30.0, 120.0, 1200.0
NUMBER_FROM, NUMBER_TO = 2.0, 20.0
SPEEDS = {"as stated": 1.0, "twice as slow": 2.0, "twice as fast": 0.5}
"""What the times of all arrivals are multiplied by."""
COURSES = 500
PARTS = 10

HELD = OrderStatus("order", paid=True)
NUMBERED = OrderStatus("order", paid=True, number="+12025550143")
CODED = OrderStatus("order", paid=True, number="+12025550143", code="004217")


def every(seconds: float) -> Pace:
    """A fixed interval."""
    return lambda _status, _waited: seconds


# --- what happens at the server ----------------------------------------------------------------------------------------------------


class Arrivals(NamedTuple):
    """When the server has what orders wait for, in seconds after the payment: one number, and the codes of all orders of a course."""

    number: float
    codes: list[float]
    """Infinity for a code that never comes."""


def code_after(place: float) -> float:
    """Seconds until the code of the order at this place, 0 to 1, among all: first those without one, then by their time."""
    if place < NEVER:
        return math.inf
    if place < NEVER + USUAL:
        return USUAL_FROM + (place - NEVER) / USUAL * (USUAL_TO - USUAL_FROM)
    return USUAL_TO + (place - NEVER - USUAL) / LATE * (LATE_TO - USUAL_TO)


def still_waiting(seconds: float) -> float:
    """The share of all orders that have no code so long after the payment: :func:`code_after`, the other way round."""
    usual = (seconds - USUAL_FROM) / (USUAL_TO - USUAL_FROM)
    late = (seconds - USUAL_TO) / (LATE_TO - USUAL_TO)
    return 1 - USUAL * min(1.0, max(0.0, usual)) - LATE * min(1.0, max(0.0, late))


def arrivals(orders: int, courses: int, stretch: float, rng: random.Random) -> list[Arrivals]:
    """Return orders spread evenly over all that can happen, each left to chance within its own small share, and dealt to the courses."""
    codes = [stretch * code_after((index + rng.random()) / orders) for index in range(orders)]
    codes = [code if code <= HOLD_WINDOW else math.inf for code in codes]
    numbers = [stretch * (NUMBER_FROM + (index + rng.random()) / courses * (NUMBER_TO - NUMBER_FROM)) for index in range(courses)]
    rng.shuffle(numbers)
    return [Arrivals(number, codes[course::courses]) for course, number in enumerate(numbers)]


# --- one order ---------------------------------------------------------------------------------------------------------------------


class Course(NamedTuple):
    """How an order was looked at. Times are seconds after the payment."""

    requests: int
    looks: list[float]
    """When each look was at the server."""
    numbered_at: float
    """When the caller had the number."""
    ended_at: float
    end: End | None


def drive(pace: Pace, number: float, code: float, spread: Callable[[], float]) -> Course:
    """Drive a lifecycle from the payment to its end, with the server's times of number and code."""
    life = Lifecycle.begin(Rules(prepaid=True, pace=pace), 0.0)
    now, requests, looks = 0.0, 0, list[float]()
    while (step := life.next(now)) is not None:
        began = max(now, step.at)
        there, now = began + THERE, began + THERE + BACK
        requests += 1
        if isinstance(step, Cancel):
            life = life.asking(began).confirmed()
        else:
            looks.append(there)
            status = CODED if code <= there else NUMBERED if number <= there else HELD
            life = life.saw(status, began, now, spread())
        life = life.at(now)
    return Course(requests, looks, math.nan if life.numbered_at is None else life.numbered_at, now, life.end)


# --- many orders -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What many orders cost and how late they were; delays in seconds."""

    requests: float
    """Per order."""
    mean: float
    median: float
    percentile_95: float
    number: float
    """The mean delay of the number."""
    coded: float
    """The share of orders that got a code."""


@dataclass(frozen=True)
class Result:
    """The figures of all orders, and the standard error of each."""

    figures: Figures
    errors: Figures


@dataclass(frozen=True)
class _Tally:
    requests: list[int]
    delays: list[float]
    numbers: list[float]

    def figures(self) -> Figures:
        delays = sorted(self.delays)
        return Figures(
            requests=statistics.fmean(self.requests),
            mean=statistics.fmean(delays),
            median=delays[len(delays) // 2],
            percentile_95=delays[len(delays) * 95 // 100],
            number=statistics.fmean(self.numbers),
            coded=len(delays) / len(self.requests),
        )


def simulate(pace: Pace, orders: int = 10_000, seed: int = 1, stretch: float = 1.0, courses: int = COURSES) -> Result:
    """Look at all these orders at this pace; ``stretch`` multiplies the times of all arrivals. The seed alone decides the orders."""
    rng = random.Random(seed)  # noqa: S311 - arrivals, not secrets
    spread = partial(rng.uniform, -1, 1)
    parts = [_Tally([], [], []) for _ in range(PARTS)]
    for index, each in enumerate(arrivals(orders, courses, stretch, rng)):
        _count(parts[index % PARTS], drive(pace, each.number, math.inf, spread), each)
    whole = _Tally(*([figure for part in parts for figure in getattr(part, field.name)] for field in fields(_Tally)))
    return Result(whole.figures(), _standard_errors([part.figures() for part in parts]))


def _count(tally: _Tally, course: Course, at_server: Arrivals) -> None:
    tally.numbers.append(course.numbered_at - at_server.number)
    for code in at_server.codes:
        if code == math.inf:
            tally.requests.append(course.requests)
            continue
        look = bisect_left(course.looks, code)
        tally.requests.append(look + 1)
        tally.delays.append(course.looks[look] + BACK - code)


def _standard_errors(parts: Sequence[Figures]) -> Figures:
    columns = zip(*(asdict(part).values() for part in parts), strict=True)
    return Figures(*(statistics.stdev(column) / math.sqrt(len(parts)) for column in columns))


# --- the best there is -------------------------------------------------------------------------------------------------------------

PIECES = (30, 60, 90, 120, 240, 480, 840, 1200)
"""Seconds between which the rate of arrivals is taken for constant."""


def best_steps(reference: Pace) -> list[tuple[float, float]]:
    """Return until when to look how often, for the least mean delay with as many requests as the reference makes.

    Where codes come to those who wait at a rate of ``r`` a second, the interval is ``c / sqrt(r)``, with one ``c`` for all. Outside of
    the pieces, where no code comes, the interval is the reference's own.
    """
    pieces = [_Piece(*ends) for ends in pairwise(PIECES)]
    requests = sum(still_waiting(second) / reference(NUMBERED, second) for second in range(PIECES[0], PIECES[-1]))
    scale = sum(piece.waiting * piece.seconds * math.sqrt(piece.rate) for piece in pieces) / requests
    steps = [(float(PIECES[0]), reference(HELD, 0))]
    steps += [(float(piece.until), scale / math.sqrt(piece.rate)) for piece in pieces]
    return [*steps, (math.inf, reference(NUMBERED, PIECES[-1]))]


@dataclass(frozen=True)
class _Piece:
    since: int
    until: int

    @property
    def seconds(self) -> int:
        return self.until - self.since

    @property
    def waiting(self) -> float:
        """The share of all orders that wait for a code, on the average."""
        return (still_waiting(self.since) + still_waiting(self.until)) / 2

    @property
    def rate(self) -> float:
        """Codes a second for each order that waits."""
        return (still_waiting(self.since) - still_waiting(self.until)) / self.seconds / self.waiting


def in_steps(steps: Sequence[tuple[float, float]]) -> Pace:
    """The pace that looks so often until then."""
    return lambda _status, waited: next(interval for until, interval in steps if waited < until)


# --- the report --------------------------------------------------------------------------------------------------------------------

PACES: dict[str, Pace] = {"default": default_pace} | {f"every {seconds} s": every(seconds) for seconds in (2, 3, 4, 5)}
HEAD = ("arrivals", "pace", "requests per order", "code: mean", "median", "95th percentile", "number: mean", "with a code")


def measure(orders: int, seed: int) -> dict[str, dict[str, Result]]:
    """Return the results by speed and pace."""
    found = {speed: {name: simulate(pace, orders, seed, stretch) for name, pace in PACES.items()} for speed, stretch in SPEEDS.items()}
    found["as stated"]["best mean"] = simulate(in_steps(best_steps(default_pace)), orders, seed)
    return found


def rows(found: dict[str, dict[str, Result]]) -> list[tuple[str, ...]]:
    """The results as cells of a table; delays are in seconds."""
    return [HEAD, *((speed, name, *_cells(result)) for speed, results in found.items() for name, result in results.items())]


def _cells(result: Result) -> list[str]:
    found, errors = result.figures, result.errors
    delays = [f"{getattr(found, name):.2f} ±{getattr(errors, name):.2f}" for name in ("mean", "median", "percentile_95", "number")]
    return [f"{found.requests:.1f} ±{errors.requests:.1f}", *delays, f"{found.coded:.1%}"]


def ratios(found: dict[str, dict[str, Result]]) -> list[tuple[str, ...]]:
    """The default pace's figures over those of the quickest and the slowest fixed one, as cells of a table."""
    lines: list[tuple[str, ...]] = [("arrivals", "default over", "requests", "code: mean", "95th percentile")]
    for speed, results in found.items():
        for name in ("every 5 s", "every 2 s"):
            own, other = results["default"].figures, results[name].figures
            pairs = ((own.requests, other.requests), (own.mean, other.mean), (own.percentile_95, other.percentile_95))
            lines.append((speed, name, *(f"{ours / theirs:.3f}" for ours, theirs in pairs)))
    return lines


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="requests per order against the delay of its code, for several paces")
    options.add_argument("--orders", type=int, default=10_000, help=f"at each pace; {COURSES} at least")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--json", action="store_true", help="no table, only the line of JSON")
    chosen = options.parse_args()
    found = measure(chosen.orders, chosen.seed)
    steps = best_steps(default_pace)
    if not chosen.json:
        print(table(rows(found)))
        print("best mean:", ", ".join(f"until {until:.0f} s every {interval:.1f} s" for until, interval in steps[:-1]))
        print(table(ratios(found)))
    results = {speed: {name: asdict(result) for name, result in each.items()} for speed, each in found.items()}
    print(line_of_json("pace", vars(chosen), {"speeds": results, "best_steps": steps[:-1]}))


if __name__ == "__main__":
    main()
