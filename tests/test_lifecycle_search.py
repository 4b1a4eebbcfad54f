"""No course of events breaks a promise, and a lifecycle that is broken on purpose is found out."""

import functools
import math
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from sms4sats_async.lifecycle import Answer, Cancel, Closing, End, Failure, Lifecycle, Look
from sms4sats_async.models import OrderStatus
from tests.lifecycle_model import DEEP, GATE, SUITE, Broken, Scenario, Search

SCENARIOS = {scenario.name: scenario for scenario in SUITE}


@functools.cache
def searched(scenario: Scenario) -> tuple[int, frozenset[End]]:
    search = Search(scenario)
    return search.run(), frozenset(search.ends)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_course_of_events_breaks_a_promise(name: str) -> None:
    situations, ends = searched(SCENARIOS[name])
    assert situations > 4_000
    assert {End.CODE, End.EXPIRED} <= ends


def test_the_search_goes_through_two_hundred_thousand_situations_and_every_end_of_a_receive_order() -> None:
    found = [searched(scenario) for scenario in SUITE]
    assert sum(situations for situations, _ in found) >= 200_000
    ends = frozenset[End]().union(*(ends for _, ends in found))
    assert ends == {End.CODE, End.FAILED, End.EXPIRED, End.UNRESOLVED, End.CANCELLED, End.REFUSED}


def test_names_tell_the_scenarios_apart() -> None:
    assert len({scenario.name for scenario in [*SUITE, *DEEP]}) == len(SUITE) + len(DEEP)


@pytest.mark.real_time
def test_the_command_stops_at_its_budget() -> None:
    command = [sys.executable, "-m", "tests.lifecycle_model", "--budget", "3000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stderr) == (0, "")
    total = done.stdout.splitlines()[-1]
    assert 3_000 <= int(total.split()[0].replace(",", "")) < 4_000
    assert total.endswith("every promise kept")


# --- lifecycles that are broken on purpose -----------------------------------------------------------------------------------------


@attrs.frozen
class NoLookAfterCancel(Lifecycle):
    def _told(self, answer: Answer, reason: str | None) -> Lifecycle:
        state = super()._told(answer, reason)
        return state if answer is Answer.NONE else attrs.evolve(state, end=End.EXPIRED)


@attrs.frozen
class AnyCancelReplyCountsAsCancelled(Lifecycle):
    def refused(self, reason: str) -> Lifecycle:  # noqa: ARG002
        return self.confirmed()


@attrs.frozen
class LostCancelReplyCountsAsCancelled(Lifecycle):
    def unanswered(self, reason: str) -> Lifecycle:  # noqa: ARG002
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


@pytest.mark.parametrize(
    ("broken", "promise", "name"),
    [
        (NoLookAfterCancel, "I1", "three faults"),
        (AnyCancelReplyCountsAsCancelled, "I2", "a wish and a fault"),
        (LostCancelReplyCountsAsCancelled, "I2", "three faults"),
        (StoredTimeEndsTheOrder, "I4", "a restart and a wrong clock"),
        (ThreeFailedLooksEndIt, "I4", "three faults"),
        (OneFailedLookAfterTheCancelEndsIt, "I4", "three faults"),
        (WindowFromTheFirstLookOnly, "I4", "three faults"),
        (StopsTwoMinutesEarly, "I4", "21 minutes, a fault"),
        (ErrorAfterOwnCancelIsFailure, "I2", "three faults"),
        (FailureAfterRefusedCancelIsCancelled, "I2", "a wish and a fault"),
        (CancelBeforeTheLastLook, "I5", "three faults"),
        (NoCancelAtTheEnd, "I9", "three faults"),
        (KnowledgeShrinks, "I8", "three faults"),
        (CancelAfterCode, "I5", "three faults"),
        (ErrorBeforeCode, "I1", "three faults"),
        (GoesOnForever, "I4", "three faults"),
        (LooksAgainAtOnce, "I6", "three faults"),
        (AnEndIsNotTheEnd, "I7", "three faults"),
        (ForgetsAWish, "I10", "a wish and a fault"),
        (GivesUpAtTheFirstRefusal, "I4", "an outage of refusals"),
    ],
)
def test_a_broken_lifecycle_is_found_out(broken: type[Lifecycle], promise: str, name: str) -> None:
    with pytest.raises(Broken) as caught:
        Search(SCENARIOS[name], broken).run()
    assert caught.value.promise == promise
    assert str(caught.value).startswith(f"{promise}: ")
    assert "begin" in caught.value.course[0]
