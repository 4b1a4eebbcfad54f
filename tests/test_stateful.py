"""One order second by second, with everything that hypothesis can think of: over the pure core, and end to end over real sockets.

The search of ``lifecycle_model.py`` goes through every course of events, but in whole minutes, with requests that mostly take no time
and a service that does one thing at a time. Here the seconds are real ones: an answer shows how things were when the request was
served, the world goes on while it is under way, the caller changes his mind in between, the loop is blocked, and the program starts
again from a stored order. The truth is ``Held`` of ``tests/faults/service.py``; the promises have the names of ``lifecycle_model.py``.

A run is up to 100 steps. The tests make few; for a hundred thousand runs over the core, and five thousand watches over sockets::

    STATEFUL_RUNS=100000 python -m pytest tests/test_stateful.py
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from sms4sats_async import Client, Order, OrderCancelled, OrderExpired, OrderFailed, OrderStatus, OrderUnresolved, OrderWatcher
from sms4sats_async.errors import APIError, CancelRefused, RateLimited, Sms4SatsError, TransportError
from sms4sats_async.lifecycle import FLOOR, LAST_STEPS, Cancel, End, Failure, Lifecycle, Look, Pace, Rules, default_pace
from tests.conftest import _backends
from tests.faults.service import (
    CANCEL_FROM,
    NEVER,
    Fault,
    Held,
    Service,
    busy,
    closes,
    cut,
    garbage,
    resets,
    slow,
    stalls,
    status,
    unseen,
    with_fields,
)
from tests.lifecycle_model import Broken
from tests.servers import SeenRequest
from tests.test_lifecycle_search import (
    AnEndIsNotTheEnd,
    AnyCancelReplyCountsAsCancelled,
    CancelBeforeTheLastLook,
    ErrorAfterOwnCancelIsFailure,
    LooksAgainAtOnce,
    NoLookAfterCancel,
    StopsTwoMinutesEarly,
)
from tests.virtual_time import in_virtual_time

RUNS = int(os.environ.get("STATEFUL_RUNS", "0"))
TIMEOUT = 10.0
"""Seconds after which a request is given up."""
ID = "64c01dbeef" * 6 + "d4d4"
EPOCH = datetime(2026, 5, 4, tzinfo=UTC)

LOST = [
    TransportError("no answer"),
    APIError("x", status_code=503),
    RateLimited("x"),
    RateLimited("x", retry_after=7.0),
    RateLimited("x", retry_after=1e6),
    APIError("x", status_code=500, reason="order not found"),
]
"""How a request can fail; the first of them also after any time."""


class Setting(NamedTuple):
    """A window of the service, which is also the watcher's, and a pace with which a run of 100 steps can come to its end."""

    window: float
    pace: Pace


SETTINGS = [
    Setting(150.0, default_pace),
    Setting(150.0, lambda _status, _waited: 0.0),
    Setting(300.0, lambda _status, _waited: 20.0),
    Setting(1260.0, lambda _status, _waited: 60.0),
    Setting(1260.0, lambda _status, _waited: math.inf),
]


class Flight(NamedTuple):
    """A request under way; ``answer``: what the service says, once it has served it."""

    step: Look | Cancel
    began: float
    deadline: float
    answer: dict[str, Any] | bool | None


SOON, LATER = st.integers(0, 40), st.integers(100, 1300)


def forbid(promise: str, what_breaks_it: object, what: str) -> None:
    if what_breaks_it:
        raise Broken(promise, what)


class OneOrder(RuleBasedStateMachine):
    """An order, the service that knows the truth about it, and a driver that does with the lifecycle what the watchers do.

    There is ``room`` for what comes from outside: each request makes some, so that most of the steps are requests.
    """

    make: type[Lifecycle] = Lifecycle

    @initialize(setting=st.sampled_from(SETTINGS), prepaid=st.booleans(), says_ended=st.booleans(), age=SOON)
    def the_order_is_made(self, setting: Setting, prepaid: bool, says_ended: bool, age: int) -> None:
        self.now = float(age)
        self.says_ended, self.window = says_ended, setting.window
        self.held = Held(ID, "receive", 0.0, prepaid=prepaid, paid_at=0.0 if prepaid else NEVER, window=setting.window)
        self.rules_ = Rules(prepaid=prepaid, hold_window=setting.window, payment_window=setting.window, pace=setting.pace)
        self.order = Order(ID, prepaid=prepaid, created_at=EPOCH)
        self.room = 3
        self.begin(clock_error=0)

    def begin(self, clock_error: int) -> None:
        order = Order.from_dict(json.loads(json.dumps(self.order.to_dict())))
        wall = EPOCH + timedelta(seconds=self.now, minutes=clock_error)
        self.life = self.make.begin(self.rules_, self.now, (wall - order.created_at).total_seconds())
        self.flight: Flight | None = None
        self.waits: str | None = None
        self.answers = 0
        self.slack = 0.0
        self.first_look = self.last_look = self.paid_seen = NEVER
        self.code_seen = self.looked_late = self.cancel_sent = self.said_ok = self.carried_out = self.lied = self.blocked_late = False
        self.looked_since_cancel = True

    # --- what is true, and what the program can know ---------------------------------------------------------------------------

    @property
    def window_end(self) -> float:
        """When the window that is open now ends, as a fair observer of this life counts it."""
        return (self.paid_seen if self.paid_seen < NEVER else self.first_look) + self.window

    def step(self) -> Look | Cancel | None:
        return self.life.next(self.now)

    @property
    def alive(self) -> bool:
        return self.life.end is None

    @property
    def due(self) -> bool:
        step = self.step()
        return self.flight is None and step is not None and step.at <= self.now

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Whatever changes the lifecycle: hold what it knew and how it ended against what has become of it."""
        before = self.life
        yield
        after = self.life
        forbid("I7", before.end is not None and after != before, f"{before.end} has become {after.end}")
        if before.status is not None and after.status is not None:
            known = (before.status.paid, before.status.number, before.status.code, before.paid_at, before.numbered_at)
            still = (after.status.paid, after.status.number, after.status.code, after.paid_at, after.numbered_at)
            forbid("I8", any(was and was != is_ for was, is_ in zip(known, still, strict=True)), f"{known} has become {still}")
        if before.end is None and after.end is not None:
            self.judge_end(after.end)

    def judge_end(self, end: End) -> None:
        told = self.life.status is not None and self.life.status.error is not None
        error = self.life.error(ID)
        forbid("I1", (end is End.CODE) != self.code_seen, f"{end}, and was a code seen? {self.code_seen}")
        forbid("I1", end is End.EXPIRED and not self.looked_since_cancel, "expired without a look after the cancel")
        forbid("I2", isinstance(error, OrderExpired) and error.cancelled and not self.said_ok, "nobody confirmed a cancel")
        ended = self.held.back_at <= self.now
        forbid("I2", end is End.CANCELLED and not (self.said_ok or (self.cancel_sent and ended)), "nobody cancelled it")
        forbid(
            "I2",
            end is End.FAILED and not (self.held.failed_at <= self.now or (ended and not self.carried_out)),
            "the server did not end it of itself",
        )
        after_all = self.said_ok and self.paid_seen == self.now  # the payment was seen only after the cancel
        forbid(
            "I4",
            end in (End.EXPIRED, End.UNRESOLVED) and self.now < self.window_end and not told and not after_all,
            f"{end} {self.window_end - self.now:g} s before the window's end",
        )
        forbid("I4", end is End.UNRESOLVED and self.now < self.window_end + LAST_STEPS, "given up before the last steps were over")
        forbid("I9", end in (End.EXPIRED, End.UNRESOLVED) and not self.cancel_sent and not self.blocked_late, f"{end} without a cancel")

    @invariant()
    def promises_are_kept(self) -> None:
        end = self.life.end
        forbid("I1", self.code_seen and end is not End.CODE, "a code was seen, and it is not the end")
        forbid(
            "I1",
            end is End.EXPIRED and self.paid_seen < NEVER and not self.lied and self.held.settled_at < NEVER,
            f"a code comes at {self.held.settled_at:g} s to an order that has expired",
        )
        forbid(
            "I4",
            end is None and self.now > self.window_end + 2 * LAST_STEPS + 2 * TIMEOUT + self.slack,
            f"it goes on {self.now - self.window_end:g} s after its window",
        )

    # --- time ------------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.due)
    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        step = self.step()
        until = self.flight.deadline if self.flight is not None else math.inf if step is None else step.at
        self.now = min(self.now + seconds, until)
        self.look_at_the_clock()

    @precondition(lambda self: self.room > 1)
    @rule(seconds=st.integers(1, 90))
    def the_loop_is_blocked(self, seconds: int) -> None:
        self.room = 0
        self.now += seconds
        self.slack += seconds
        self.blocked_late = self.blocked_late or self.now >= self.window_end  # the seconds for the last steps may be over then
        self.look_at_the_clock()

    def look_at_the_clock(self) -> None:
        if self.flight is None:
            with self.judged():
                self.life = self.life.at(self.now)
            self.tell_the_caller()

    # --- the world -------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.room > 0 and self.held.paid_at == NEVER and self.held.back_at > self.now)
    @rule(after=SOON)
    def the_invoice_is_paid(self, after: int) -> None:
        self.room -= 1
        self.held.paid_at = self.now + after

    @precondition(lambda self: self.room > 0 and self.held.number_at == NEVER)
    @rule(after=SOON)
    def a_number_is_assigned(self, after: int) -> None:
        self.room -= 1
        self.held.number_at = self.now + after

    @precondition(lambda self: self.room > 0 and self.held.code_at == NEVER)
    @rule(after=SOON | LATER)
    def the_code_is_delivered(self, after: int) -> None:
        self.room -= 1
        self.held.code_at = self.now + after

    @precondition(lambda self: self.room > 0 and self.held.number_at == NEVER and self.held.code_at == NEVER)
    @rule(after=LATER)
    def no_number_is_to_be_had(self, after: int) -> None:
        self.room = 0
        self.held.failed_at = min(self.held.failed_at, self.now + after)

    @precondition(lambda self: self.room > 2)
    @rule()
    def somebody_else_cancels(self) -> None:
        self.room = 0
        self.cancel_served()

    def cancel_served(self) -> bool:
        """What the service does with a cancel."""
        if self.now >= self.held.settled_at or self.now < self.held.created_at + CANCEL_FROM:
            return False
        self.held.cancelled_at = min(self.held.cancelled_at, self.now)
        return True

    # --- requests --------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.due)
    @rule(served_late=st.booleans())
    def a_request_is_sent(self, served_late: bool) -> None:
        step = self.step()
        assert step is not None
        if isinstance(step, Look):
            forbid(
                "I6",
                self.life.closing is None and self.now - self.last_look < FLOOR and self.last_look < NEVER,
                f"a look {self.now - self.last_look:g} s after the one before",
            )
            self.first_look = min(self.first_look, self.now)
            self.last_look = self.now
            self.looked_late = self.looked_late or self.now >= self.window_end
        else:
            self.judge_cancel()
            self.cancel_sent = True
            self.looked_since_cancel = False
            with self.judged():
                self.life = self.life.asking(self.now)
        self.room = min(self.room + 1, 3)
        self.flight = Flight(step, self.now, min(step.before, self.now + TIMEOUT), None)
        if not served_late:
            self.serve()

    @precondition(lambda self: self.alive and self.flight is None)
    @rule(times=st.integers(1, 8))
    def requests_are_answered_at_once(self, times: int) -> None:
        for _ in range(times):
            if (step := self.step()) is None:
                return
            self.now = max(self.now, step.at)
            self.look_at_the_clock()
            if self.due:
                self.a_request_is_sent(served_late=False)
                self.the_answer_comes()

    def judge_cancel(self) -> None:
        closing = self.life.closing
        wanted = self.waits is not None or (closing is not None and not closing.window)
        forbid("I5", self.code_seen, "a cancel after a code")
        forbid(
            "I4",
            not wanted and self.now < self.window_end,
            f"a cancel that nobody wants, {self.window_end - self.now:g} s before the window's end",
        )
        forbid("I5", not wanted and not self.looked_late, "a cancel before the look at the window's end")

    def serve(self) -> None:
        assert self.flight is not None
        if isinstance(self.flight.step, Look):
            self.flight = self.flight._replace(answer=self.held.shows(self.now, says_ended=self.says_ended))
        else:
            was_live = self.held.back_at > self.now
            self.flight = self.flight._replace(answer=self.cancel_served())
            self.carried_out = self.carried_out or (was_live and self.held.back_at <= self.now)

    @precondition(lambda self: self.flight is not None)
    @rule()
    def the_answer_comes(self) -> None:
        assert self.flight is not None
        if self.now > self.flight.deadline:
            self.the_answer_is_lost(LOST[0])
            return
        if self.flight.answer is None:
            self.serve()
        answer = self.flight.answer
        if isinstance(answer, dict):
            self.heard_status(answer)
        else:
            self.heard_cancel(ok=bool(answer))

    @precondition(lambda self: self.flight is not None)
    @rule(how=st.sampled_from(LOST))
    def the_answer_is_lost(self, how: Sms4SatsError) -> None:
        assert self.flight is not None
        flight, self.flight = self.flight, None
        failure = Failure.of(how)
        with self.judged():
            if isinstance(flight.step, Look):
                self.life = self.life.missed(failure, flight.began, self.now)
            elif failure.refusal is None or flight.answer is not None:  # one that was carried out is not refused
                self.life = self.life.unanswered(failure.words)
            else:
                self.life = self.life.refused(failure.words)
        self.look_at_the_clock()

    @precondition(lambda self: self.flight is not None and self.flight.answer is None and isinstance(self.flight.step, Cancel))
    @rule()
    def a_cancel_is_called_ok_and_not_carried_out(self) -> None:
        self.lied = True
        self.heard_cancel(ok=True)

    @precondition(lambda self: self.flight is not None and isinstance(self.flight.answer, dict) and self.now <= self.flight.deadline)
    @rule(kept=st.sets(st.sampled_from(["number", "country"])))
    def the_status_leaves_out_what_it_showed(self, kept: set[str]) -> None:
        assert self.flight is not None
        assert isinstance(self.flight.answer, dict)
        self.heard_status({"paid": False} | {name: told for name, told in self.flight.answer.items() if name in {"code", "error", *kept}})

    def heard_status(self, told: dict[str, Any]) -> None:
        assert self.flight is not None
        flight, self.flight = self.flight, None
        seen = OrderStatus.from_wire(told, ID)
        if (seen.paid or seen.code is not None or self.held.prepaid) and self.paid_seen == NEVER:
            self.paid_seen, self.looked_late = self.now, False
        self.code_seen = self.code_seen or seen.code is not None
        self.looked_since_cancel = True
        with self.judged():
            self.life = self.life.saw(seen, flight.began, self.now)
        self.look_at_the_clock()

    def heard_cancel(self, *, ok: bool) -> None:
        self.flight = None
        self.said_ok = self.said_ok or ok
        with self.judged():
            self.life = self.life.confirmed() if ok else self.life.refused("no")
        self.look_at_the_clock()

    # --- the caller ------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.room > 2 and self.alive and self.waits is None)
    @rule(how=st.sampled_from(["now", "when allowed", "leave"]))
    def the_caller_cancels(self, how: str) -> None:
        self.room = 0
        self.waits, self.answers = how, self.life.answers
        at = self.life.allowed_at(self.now) if how == "when allowed" else None
        self.wish(self.now if at is None else at)

    def wish(self, at: float) -> None:
        self.slack += LAST_STEPS + TIMEOUT  # it comes before the last steps
        tries, within = (1, 10.0) if self.waits == "leave" else (3, LAST_STEPS)
        with self.judged():
            self.life = self.life.wishing(at, tries=tries, within=within)

    @precondition(lambda self: self.room > 0 and self.waits is not None)
    @rule()
    def the_caller_gives_up(self) -> None:
        self.waits = None
        with self.judged():
            self.life = self.life.unwishing()

    def tell_the_caller(self) -> None:
        """Hand an answer to the caller who waits for it, as the watcher does."""
        if self.waits is None or (self.alive and self.life.answers == self.answers):
            return
        at = self.life.allowed_at(self.now) if self.alive and self.waits == "when allowed" else None
        self.answers = self.life.answers
        if at is not None:
            self.wish(at)
        else:
            self.the_caller_gives_up()

    @precondition(lambda self: self.room > 2 or not self.alive)
    @rule(clock_error=st.sampled_from([-30, 0, 30]), carried_out=st.booleans())
    def the_program_starts_again(self, clock_error: int, carried_out: bool) -> None:
        self.room = 0
        if self.flight is not None and self.flight.answer is None and carried_out:
            self.serve()
        self.begin(clock_error)

    # --- after the end ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.alive)
    @rule(after=st.integers(0, 10_000))
    def nothing_changes_an_end(self, after: int) -> None:
        now = self.now + after
        told = OrderStatus(ID, paid=True, number="+15550100", code="0042", error="x")
        with self.judged():
            self.life = self.life.saw(told, now, now).missed(Failure("x", "x"), now, now).at(now).wishing(now).asking(now).confirmed()
        assert self.life.next(now) is None


def run(machine: type[OneOrder], runs: int, *, derandomize: bool = not RUNS, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    checked = settings(
        max_examples=runs,
        stateful_step_count=100,
        deadline=None,
        database=None,
        phases=phases,
        derandomize=derandomize,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=checked)


def test_the_machine_can_be_led_by_hand() -> None:
    machine = OneOrder()
    machine.the_order_is_made(setting=SETTINGS[0], prepaid=False, says_ended=True, age=0)
    machine.the_invoice_is_paid(after=60)
    machine.the_caller_cancels("when allowed")
    for how in LOST[0], LOST[-1]:  # the first cancel is lost, and the second one refused
        the_next_cancel(machine)
        machine.the_answer_is_lost(how)
    machine.requests_are_answered_at_once(1)
    assert machine.waits == "when allowed"
    the_next_cancel(machine)
    assert machine.now == machine.paid_seen + 121
    machine.a_cancel_is_called_ok_and_not_carried_out()
    machine.requests_are_answered_at_once(2)
    assert (machine.life.end, machine.held.cancelled_at) == (End.CANCELLED, NEVER)


def test_the_last_steps_of_the_machine_can_take_too_long() -> None:
    machine = OneOrder()
    machine.the_order_is_made(setting=SETTINGS[0], prepaid=False, says_ended=True, age=0)
    the_next_cancel(machine)
    machine.the_answer_is_lost(LOST[0])
    machine.now += LAST_STEPS
    machine.requests_are_answered_at_once(1)
    assert machine.life.end is End.UNRESOLVED


def the_next_cancel(machine: OneOrder) -> None:
    while not isinstance(machine.step(), Cancel):
        machine.requests_are_answered_at_once(1)
    machine.time_passes(60)
    machine.a_request_is_sent(served_late=True)


@pytest.mark.unmeasured
def test_no_second_breaks_a_promise() -> None:
    run(OneOrder, RUNS or 150)


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (NoLookAfterCancel, "I1"),
        (AnyCancelReplyCountsAsCancelled, "I2"),
        (ErrorAfterOwnCancelIsFailure, "I2"),
        (StopsTwoMinutesEarly, "I4"),
        (CancelBeforeTheLastLook, "I5"),
        (LooksAgainAtOnce, "I6"),
        (AnEndIsNotTheEnd, "I7"),
    ],
)
def test_a_broken_lifecycle_is_found_out(broken: type[Lifecycle], promise: str) -> None:
    class BrokenOrder(OneOrder):
        make = broken

    with pytest.raises(Broken) as caught:
        run(BrokenOrder, 2_000, derandomize=True, phases=(Phase.generate,))
    assert caught.value.promise == promise


# --- end to end --------------------------------------------------------------------------------------------------------------------

WINDOW = 200.0
"""The windows of a watch over sockets, and of its service: long enough for a cancel to be allowed in them."""

FAULTS: list[Fault] = [
    resets,
    closes,
    stalls,
    garbage,
    cut(30),
    slow(4),
    slow(30),
    status(503, b"<html>"),
    status(500, b'{"status": "error", "reason": "order not found"}'),
    busy(),
    busy("7"),
    with_fields(paid="yes"),
    unseen(resets),
    unseen(stalls),
]
MOMENTS = st.integers(0, 250).map(float)


class Day(NamedTuple):
    """What happens to one order, in seconds from the first look; ``faults``: what strikes the n-th request."""

    paid: float
    number_after: float
    code_after: float
    no_number: float
    says_ended: bool
    faults: dict[int, Fault]
    starts_again: list[float]
    cancels: float


DAYS = st.builds(
    Day,
    paid=st.one_of(st.integers(0, 30).map(float), MOMENTS, st.just(NEVER)),
    number_after=st.integers(0, 60).map(float),
    code_after=st.one_of(MOMENTS, st.just(NEVER)),
    no_number=st.one_of(st.just(NEVER), st.just(NEVER), MOMENTS),
    says_ended=st.booleans(),
    faults=st.dictionaries(st.integers(0, 60), st.sampled_from(FAULTS), max_size=30),
    starts_again=st.lists(MOMENTS, max_size=2).map(sorted),
    cancels=st.one_of(st.just(NEVER), MOMENTS),
)


async def watched(day: Day, held: Held, url: str) -> str | Sms4SatsError:
    """Watch the order as its day has it, and say what its code is, or how it ended."""
    order = Order(held.id)
    for until in [*day.starts_again, NEVER]:
        async with Client(base_url=url, trust_env=False, attempts=1) as client:
            watcher = OrderWatcher(client, Order.from_dict(order.to_dict()), hold_window=WINDOW, payment_window=WINDOW, poll_interval=4.0)
            with anyio.CancelScope(deadline=until):
                try:
                    return await until_the_caller_cancels(watcher, day.cancels)
                except Sms4SatsError as error:
                    return error
    raise AssertionError("the last watch has no deadline")


async def until_the_caller_cancels(watcher: OrderWatcher, at: float) -> str:
    with anyio.move_on_at(at):
        return await watcher.code()
    with suppress(CancelRefused):
        await watcher.cancel()
    return await watcher.code()


async def lived(day: Day) -> None:
    asked: list[str] = []

    def plan(request: SeenRequest, about: Held | None) -> Fault | None:
        asked.append(request.target)
        return day.faults.get(len(asked) - 1)

    service = Service(plan, says_ended=day.says_ended)
    async with service.serving() as server:
        held = service.order(paid_at=day.paid, window=WINDOW, failed_at=day.no_number)
        held.number_at, held.code_at = day.paid + day.number_after, day.paid + day.code_after
        end = await watched(day, held, server.url)
        now = anyio.current_time()
    judge(end, held, now)
    assert now <= 3 * (2 * WINDOW + 90), "I4"
    assert held.most_at_once == 1, "I6"
    assert {target.partition("?")[0] for target in asked} <= {"/orderstatus", "/cancelorder"}, "I3"


def judge(end: str | Sms4SatsError, held: Held, now: float) -> None:
    """Hold what the caller was told against the truth."""
    if isinstance(end, str):
        assert end == held.code, "I1"
        assert held.settled_at <= now, "I1"
        return
    open_ = isinstance(end, OrderUnresolved | APIError) or (isinstance(end, OrderExpired) and not end.paid and not end.cancelled)
    assert open_ or held.settled_at == NEVER, f"I1: {end!r}"
    if isinstance(end, OrderCancelled) or (isinstance(end, OrderExpired) and end.cancelled):
        assert held.back_at <= now, "I2"
    if isinstance(end, OrderFailed):
        assert held.back_at <= now, "I2"


QUIET = Day(10.0, 5.0, 60.0, NEVER, says_ended=True, faults={}, starts_again=[], cancels=NEVER)


@pytest.mark.parametrize("backend", _backends())
@given(day=DAYS)
@example(day=QUIET)
@example(day=QUIET._replace(code_after=NEVER, cancels=130.0, starts_again=[50.0]))
@example(day=QUIET._replace(code_after=NEVER, no_number=20.0))
@settings(max_examples=RUNS // 20 or 30, deadline=None, database=None, derandomize=not RUNS, suppress_health_check=list(HealthCheck))
def test_no_day_breaks_a_promise(backend: str, day: Day) -> None:
    anyio.run(lived, day, backend=backend, backend_options=in_virtual_time(backend))
