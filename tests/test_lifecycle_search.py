"""No course of events breaks a promise, and a lifecycle that is broken on purpose is found out.

The promises have the names of ``lifecycle_model.py``. The search itself runs as the command, so that nothing measures which of its
lines were run: that would take three times as long.
"""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from sms4sats_async.errors import APIError, AuthenticationError, DecodeError, OutcomeUnknown, RateLimited, Sms4SatsError, TransportError
from sms4sats_async.lifecycle import Answer, Cancel, Closing, End, Failure, Lifecycle, Look
from sms4sats_async.models import OrderStatus
from sms4sats_async.transport import Call, Repeat, Transport, _Outcome
from tests.lifecycle_model import DEEP, GATE, SUITE, Broken, Scenario, Search

SCENARIOS = {scenario.name: scenario for scenario in SUITE}


def command(*arguments: str, measured: bool) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if measured or not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.lifecycle_model", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=Path(__file__).parent.parent,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.real_time
def test_no_course_of_events_breaks_a_promise() -> None:
    """One test, because it is one search: through half a million situations, to every end of a receive order."""
    *lines, total = command(measured=False)
    assert total.endswith("every promise kept")
    found = [re.fullmatch(r" *([0-9,]+)  (.*): ([A-Z ]+)", line) for line in lines]
    situations = {match[2]: int(match[1].replace(",", "")) for match in found if match is not None}
    ends = {match[2]: set(match[3].split()) for match in found if match is not None}
    assert list(situations) == list(SCENARIOS)
    assert sum(situations.values()) >= 500_000
    assert min(situations.values()) > 4_000
    assert all(each >= {"CODE", "EXPIRED"} for each in ends.values())
    assert set[str]().union(*ends.values()) == {"CODE", "FAILED", "EXPIRED", "UNRESOLVED", "CANCELLED", "REFUSED"}
    name = "a wish and a fault, prepaid"
    search = Search(SCENARIOS[name])
    assert (search.run(), {end.name for end in search.ends}) == (situations[name], ends[name]), "it depends on where it runs"


@pytest.mark.parametrize("scenario", [*SUITE, *DEEP], ids=lambda scenario: scenario.name)
def test_a_search_stops_at_its_limit_and_knows_how_it_came_there(scenario: Scenario) -> None:
    search = Search(scenario)
    assert 500 <= search.run(500) < 600
    course = search.course(list(search.came_from)[-1])
    assert course[0].startswith("begin")
    assert len(course) > 3


def test_names_tell_the_scenarios_apart() -> None:
    assert len({scenario.name for scenario in [*SUITE, *DEEP]}) == len(SUITE) + len(DEEP)


@pytest.mark.real_time
def test_the_command_stops_at_its_budget() -> None:
    total = command("--budget", "3000", measured=True)[-1]
    assert 3_000 <= int(total.split()[0].replace(",", "")) < 4_000


# --- lifecycles that are broken on purpose -----------------------------------------------------------------------------------------


@attrs.frozen
class NoLookAfterCancel(Lifecycle):
    def _told(self, answer: Answer, reason: str | None) -> Lifecycle:
        state = super()._told(answer, reason)
        return state if answer is Answer.NONE else attrs.evolve(state, end=End.EXPIRED)


@attrs.frozen
class LostCancelReplyCountsAsCancelled(Lifecycle):
    def unanswered(self, reason: str) -> Lifecycle:  # noqa: ARG002
        return self.confirmed()


@attrs.frozen
class AnyCancelReplyCountsAsCancelled(LostCancelReplyCountsAsCancelled):
    def refused(self, reason: str) -> Lifecycle:  # noqa: ARG002
        return self.confirmed()


@attrs.frozen
class StoredTimeEndsTheOrder(Lifecycle):
    @property
    def window_end(self) -> float:
        assert self.created is not None
        assert self.rules.hold_window is not None
        return super().window_end if self.paid_at is None else self.created + self.rules.hold_window


@attrs.frozen
class ThreeFailedLooksEndIt(Lifecycle):
    def missed(self, failure: Failure, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        state = super().missed(failure, began, now, spread)
        return attrs.evolve(state, end=End.UNRESOLVED, wish=None) if state.failures == 3 and self.end is None else state


@attrs.frozen
class ThreeFailedLooksAreARelease(Lifecycle):
    def missed(self, failure: Failure, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        state = super().missed(failure, began, now, spread)
        return attrs.evolve(state, end=End.FAILED, wish=None) if state.failures == 3 and self.end is None else state


@attrs.frozen
class LocalClockEndsTheOrder(Lifecycle):
    def at(self, now: float) -> Lifecycle:
        state = super().at(now)
        return attrs.evolve(state, end=End.EXPIRED, wish=None) if self.end is None and now >= self.window_end else state


@attrs.frozen
class OneFailedLookAfterTheCancelEndsIt(Lifecycle):
    def missed(self, failure: Failure, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        state = super().missed(failure, began, now, spread)
        return state if self.closing is None or self.end is not None else attrs.evolve(state, end=End.UNRESOLVED)


@attrs.frozen
class WindowFromTheFirstLookOnly(Lifecycle):
    @property
    def window_end(self) -> float:
        assert self.rules.hold_window is not None
        return super().window_end if self.paid_at is None or self.started is None else self.started + self.rules.hold_window


@attrs.frozen
class StopsTwoMinutesEarly(Lifecycle):
    @property
    def window_end(self) -> float:
        return super().window_end - (0.0 if self.paid_at is None else GATE)


@attrs.frozen
class ErrorAfterOwnCancelIsFailure(Lifecycle):
    def _end_by_error(self) -> End:
        return End.FAILED


@attrs.frozen
class FailureAfterRefusedCancelIsCancelled(Lifecycle):
    def refused(self, reason: str) -> Lifecycle:
        return attrs.evolve(super().refused(reason), in_doubt=True)

    def saw(self, status: OrderStatus, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        return attrs.evolve(super().saw(status, began, now, spread), in_doubt=self.in_doubt)


@attrs.frozen
class CancelBeforeTheLastLook(Lifecycle):
    def next(self, now: float) -> Look | Cancel | None:
        step = super().next(now)
        if isinstance(step, Look) and step.last and self.closing is None:
            return Cancel(step.at, last=True)
        return step


@attrs.frozen
class NoCancelAtTheEnd(Lifecycle):
    def next(self, now: float) -> Look | Cancel | None:
        step = super().next(now)
        return Look(step.at, step.at + 30, last=True) if isinstance(step, Cancel) and step.last else step

    def saw(self, status: OrderStatus, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        state = super().saw(status, began, now, spread)
        return state if state.closing is None or state.end is not None else attrs.evolve(state, end=End.EXPIRED)


@attrs.frozen
class KnowledgeShrinks(Lifecycle):
    def _knowing(self, status: OrderStatus, began: float, now: float) -> Lifecycle:
        return attrs.evolve(super()._knowing(status, began, now), status=status)


@attrs.frozen
class CancelAfterCode(Lifecycle):
    def saw(self, status: OrderStatus, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        state = super().saw(status, began, now, spread)
        if state.end is not End.CODE or self.end is not None:
            return state
        return attrs.evolve(state, end=None, closing=Closing(window=True, until=began + 30, cancels=True, at=began))


@attrs.frozen
class ErrorBeforeCode(Lifecycle):
    def _final(self, status: OrderStatus) -> End | None:
        return End.FAILED if self.paid_at is not None and status.code is not None else super()._final(status)


@attrs.frozen
class GoesOnForever(Lifecycle):
    @property
    def window_end(self) -> float:
        return math.inf


@attrs.frozen
class LooksAgainAtOnce(Lifecycle):
    def missed(self, failure: Failure, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        state = super().missed(failure, began, now, spread)
        return state if state.closing is not None or self.end is not None else attrs.evolve(state, due=now)


@attrs.frozen
class AnEndIsNotTheEnd(Lifecycle):
    def at(self, now: float) -> Lifecycle:
        return attrs.evolve(super().at(now), end=None)


@attrs.frozen
class ForgetsAWish(Lifecycle):
    def saw(self, status: OrderStatus, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        return super().saw(status, began, now, spread).unwishing()


@attrs.frozen
class GivesUpAtTheFirstRefusal(Lifecycle):
    def missed(self, failure: Failure, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        state = super().missed(failure, began, now, spread)
        return state if failure.refusal is None or self.end is not None else attrs.evolve(state, end=End.REFUSED)


@attrs.frozen
class TooManyRequestsEndIt(Lifecycle):
    def missed(self, failure: Failure, began: float, now: float, spread: float = 0.0) -> Lifecycle:
        state = super().missed(failure, began, now, spread)
        return attrs.evolve(state, end=End.REFUSED) if failure.too_many and self.end is None else state


@attrs.frozen
class AnOkIsBelievedOverACode(Lifecycle):
    def _final(self, status: OrderStatus) -> End | None:
        return End.CANCELLED if self.cancel_confirmed else super()._final(status)


MUTANTS: list[tuple[str, type[Lifecycle], str, str]] = [
    ("no look after a cancel", NoLookAfterCancel, "I1", "three faults"),
    ("any cancel reply or error = cancelled", AnyCancelReplyCountsAsCancelled, "I2", "a wish and a fault"),
    ("lost cancel reply = cancelled", LostCancelReplyCountsAsCancelled, "I2", "three faults"),
    ("local clock ends the order", LocalClockEndsTheOrder, "I9", "three faults"),
    ("3 failed polls = released", ThreeFailedLooksAreARelease, "I2", "three faults"),
    ("3 failed polls = unresolved", ThreeFailedLooksEndIt, "I4", "three faults"),
    ("window from creation only", WindowFromTheFirstLookOnly, "I4", "three faults"),
    ("stops 2 min early", StopsTwoMinutesEarly, "I4", "21 minutes, a fault"),
    ("stored times against a wrong wall clock", StoredTimeEndsTheOrder, "I4", "a restart and a wrong clock"),
    ("one failed look after the cancel ends it", OneFailedLookAfterTheCancelEndsIt, "I4", "three faults"),
    ("error after its own cancel = failure", ErrorAfterOwnCancelIsFailure, "I2", "three faults"),
    ("failure after a refused cancel = cancelled", FailureAfterRefusedCancelIsCancelled, "I2", "a wish and a fault"),
    ("cancel before the last look", CancelBeforeTheLastLook, "I5", "three faults"),
    ("no cancel at the end", NoCancelAtTheEnd, "I9", "three faults"),
    ("knowledge shrinks", KnowledgeShrinks, "I8", "three faults"),
    ("cancel after a code", CancelAfterCode, "I5", "three faults"),
    ("error before code", ErrorBeforeCode, "I1", "three faults"),
    ("an OK before a code", AnOkIsBelievedOverACode, "I1", "an OK to a refused cancel"),
    ("goes on for ever", GoesOnForever, "I4", "three faults"),
    ("looks again at once", LooksAgainAtOnce, "I6", "three faults"),
    ("an end is not the end", AnEndIsNotTheEnd, "I7", "three faults"),
    ("forgets a wish", ForgetsAWish, "I10", "a wish and a fault"),
    ("gives up at the first refusal", GivesUpAtTheFirstRefusal, "I4", "an outage of refusals"),
    ("too many requests = refused", TooManyRequestsEndIt, "I4", "too many requests"),
]


@pytest.mark.parametrize(("broken", "promise", "name"), [mutant[1:] for mutant in MUTANTS], ids=[mutant[0] for mutant in MUTANTS])
def test_a_broken_lifecycle_is_found_out(broken: type[Lifecycle], promise: str, name: str) -> None:
    with pytest.raises(Broken) as caught:
        Search(SCENARIOS[name], broken).run()
    assert caught.value.promise == promise
    assert str(caught.value).startswith(f"{promise}: ")
    assert "begin" in caught.value.course[0]


# --- I3: what may be sent again ----------------------------------------------------------------------------------------------------

UNSENT, DECIDED, UNPROVEN = "not sent", "the server decided", "perhaps done"
"""What is true of a request that failed. None: it was answered."""


ATTEMPTS: dict[str, tuple[str | None, Callable[[], Sms4SatsError | None]]] = {
    "an answer": (None, lambda: None),
    "no connection": (UNSENT, lambda: TransportError("x")),
    "a bad certificate": (UNSENT, lambda: TransportError("x")),
    "no answer": (UNPROVEN, lambda: TransportError("x")),
    "a kept connection that ends": (UNPROVEN, lambda: TransportError("x")),
    "half an answer": (UNPROVEN, lambda: DecodeError("x", status_code=200)),
    "an error page": (UNPROVEN, lambda: APIError("x", status_code=502)),
    "a refusal": (DECIDED, lambda: APIError("x", status_code=500, reason="backend error")),
    "no key": (DECIDED, lambda: AuthenticationError("x", status_code=401, reason="x")),
    "too many requests": (DECIDED, lambda: RateLimited("x", retry_after=7.0)),
}


class OutOfScript(Exception):
    """One more request was wanted."""


class Scripted(Transport):
    """The rules of repeating as they are, over attempts that come to what a script says."""

    def __init__(self, attempts: int = 4) -> None:
        address = "https://sms4sats.example"
        super().__init__(
            api_key=None, base_url=address, timeout=1, max_connections=1, attempts=attempts, proxy=None, trust_env=False, transport=None
        )
        self.script: list[str] = []

    def knows_sent(self, truth: str | None) -> bool:
        return truth != UNSENT

    async def _attempt(self, *_: Any, **__: Any) -> _Outcome[Any]:
        if not self.script:
            raise OutOfScript
        came = self.script.pop(0)
        truth, error = ATTEMPTS[came]
        outcome: _Outcome[Any] = _Outcome(sent=self.knows_sent(truth))
        outcome.stale = came == "a kept connection that ends"
        outcome.untrusted = came == "a bad certificate"
        outcome.error = error()
        return outcome

    async def pause(self, seconds: float) -> None:
        pass


class TakesALossForNotSent(Scripted):
    def knows_sent(self, truth: str | None) -> bool:
        return truth not in (UNSENT, UNPROVEN)


Course = tuple[tuple[str, ...], Sms4SatsError | None]


async def courses(repeat: Repeat, transport: Scripted, script: tuple[str, ...] = ()) -> list[Course]:
    """Every course that one call can take, and what it raises at last."""
    transport.script = list(script)
    try:
        await transport.send(Call("POST", "/createorder", lambda payload: payload, body={}, repeat=repeat))
    except Sms4SatsError as error:
        return [(script, error)]
    except OutOfScript:
        return [course for came in ATTEMPTS for course in await courses(repeat, transport, (*script, came))]
    return [(script, None)]


def unproven(course: tuple[str, ...]) -> int:
    """How many requests of unknown outcome were sent."""
    return sum(ATTEMPTS[came][0] == UNPROVEN for came in course)


async def test_a_charge_is_unproven_once_at_the_most_and_then_says_so() -> None:
    found = await courses(Repeat.SPEND, Scripted())
    assert len(found) == 9 + 9 + 9 + 10  # a failed connection is tried three times more, and nothing else is
    for course, error in found:
        assert unproven(course[:-1]) == 0
        assert isinstance(error, OutcomeUnknown) == (unproven(course) == 1)


async def test_an_invoice_is_asked_for_once_more_when_its_outcome_is_unknown() -> None:
    found = await courses(Repeat.INVOICE, Scripted())
    assert max(unproven(course) for course, _ in found) == 2
    assert not any(isinstance(error, OutcomeUnknown) for _, error in found)


@pytest.mark.parametrize(
    ("repeat", "transport"),
    [(Repeat.READ, Scripted), (Repeat.INVOICE, Scripted), (Repeat.SPEND, TakesALossForNotSent)],
    ids=["a charge repeated like a read", "a charge repeated like an invoice", "a loss taken for not sent"],
)
async def test_broken_rules_of_repeating_are_found_out(repeat: Repeat, transport: type[Scripted]) -> None:
    assert max(unproven(course) for course, _ in await courses(repeat, transport(attempts=2))) > 1
