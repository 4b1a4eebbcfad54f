"""A search through every course of events that an order can take: the lifecycle against a model of the service, and of bad luck.

    python -m tests.lifecycle_model                     # what the tests run: more than 500,000 situations
    python -m tests.lifecycle_model --budget 5000000    # and on from there

A node of the search is one situation: a lifecycle, the service's own truth, what a fair witness has seen (these three are its scene),
and the bad luck still to come. From each node every next step is tried: the service does something or nothing before a request is
served, the request or its answer is lost, or a lie, the caller wants to cancel, the program is restarted. The lifecycle is driven as
``watcher.py`` drives it. Times count from the node's own "now", so a situation that comes back later is the same node; the search is
breadth-first, so a broken promise comes with the shortest course of events that breaks it. What a step leads to and whether it breaks a
promise follows from the scene alone, so it is worked out once for all the bad luck that can go with it.

The promises, named as in ``FAULTS.md``:

* I1 no code is lost: every end but a code is told only when no code is there to be seen, or nobody could look;
* I2 no false release: "cancelled" only if the server confirmed or did it, "failed" only if the server ended the order of itself;
* I3 at most one money POST whose outcome is unknown: the lifecycle makes none; the rules of repeating are searched in
  ``test_lifecycle_search.py``;
* I4 an order ends in time, and is neither ended nor cancelled before its window is over;
* I5 no cancel after a code was seen, and none at a window's end before the look there;
* I6 one request at a time, a second apart at least outside a cancel;
* I7 an end is the end;
* I8 knowledge never shrinks;
* I9 money is not held longer than need be: no order is given up without asking for a cancel;
* I10 a caller's wish to cancel is answered.
"""

import argparse
import functools
import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import attrs

from sms4sats_async.errors import OrderExpired
from sms4sats_async.lifecycle import FLOOR, LAST_STEPS, REFUSALS, REFUSED_FOR, Cancel, End, Failure, Lifecycle, Look, Rules
from sms4sats_async.models import OrderStatus

MINUTE = 60.0
GATE = 2 * MINUTE
LEAVE = 10.0
CALLER_TRIES = 3
GIVEN_UP = "given up"
NEVER = -math.inf
"""So long ago that no passing of time brings it nearer."""

ID = "64c01dbeef" * 6 + "d4d4"
LOST = Failure("no answer in time")
UNKNOWN_ORDER = Failure("no such order", refusal="404 no such order")
TOO_MANY = Failure("slow down", retry_after=45.0, too_many=True)


# --- the service -------------------------------------------------------------------------------------------------------------------


class Manners(NamedTuple):
    """What is not documented of the service, so that each of it may be so."""

    minutes: int = 21
    """After how many minutes does it end an order?"""
    shows_end: bool = True
    """Does the status of an ended order say ``error``?"""
    window_from_order: bool = False
    """Do these minutes count from the order? Else from the payment."""
    gate_from: str = "order"
    """What the 2 minutes without a cancel count from: order, payment or number."""
    cancels_with_code: bool = False
    """Does it accept a cancel although the code has arrived?"""
    cancel_hides_code: bool = False
    """And is the code gone from the status then?"""
    pretends: bool = False
    """Does it say OK to a cancel that it does not carry out?"""
    cancels_twice: bool = True
    """Does it say OK to the cancel of an order that has ended?"""


LIVE, NO_NUMBER, TIME_OVER, CANCELLED, CANCELLED_BEFORE = range(5)
"""How the service ended the order; ``CANCELLED_BEFORE``: by a cancel that the program sent before it was restarted."""
ENDINGS = (None, "No available number", "its time is over", "cancelled", "cancelled")


class Service(NamedTuple):
    """The truth about one order. Times are seconds ago, no further back than they matter."""

    ordered: float = 0.0
    paid: float = NEVER
    numbered: float = NEVER
    coded: bool = False
    ended: int = LIVE

    def later(self, seconds: float, manners: Manners) -> "Service":
        """Let time pass; the service ends the order by itself."""
        window = manners.minutes * MINUTE
        ordered = min(self.ordered + seconds, window)
        paid = min(self.paid + seconds, window)
        numbered = min(self.numbered + seconds, GATE)
        over = (ordered if manners.window_from_order else paid) >= window and not self.coded and self.ended == LIVE
        return Service(ordered, paid, numbered, self.coded, TIME_OVER if over else self.ended)

    def may_do(self, seconds: float) -> list[tuple[str, "Service"]]:
        """All that can happen in so many seconds, before they are let pass: in between, things come one right after the other."""
        ways = [("", self)]
        if self.ended != LIVE or self.coded:
            return ways
        paid = self._replace(paid=0.0) if self.paid == NEVER else self
        numbered = paid._replace(numbered=0.0) if self.numbered == NEVER else paid
        if self.paid == NEVER:
            ways.append(("paid", self._replace(paid=-seconds)))
            if seconds:
                ways.append(("paid long before", paid))
        if self.numbered == NEVER:
            ways.append(("number", numbered))
            ways.append(("no number", paid._replace(ended=NO_NUMBER)))
        ways.append(("code", numbered._replace(coded=True)))
        return ways

    def cancel(self, manners: Manners) -> tuple["Service", bool]:
        """Serve a cancel; True when the answer is OK."""
        if self.ended != LIVE:
            return self, manners.cancels_twice
        since = {"order": self.ordered, "payment": self.paid, "number": self.numbered}[manners.gate_from]
        if (self.coded and not manners.cancels_with_code) or (self.ordered if since == NEVER else since) < GATE:
            return self, False
        return (self if manners.pretends else self._replace(ended=CANCELLED)), True

    def shows_code(self, manners: Manners) -> bool:
        return self.coded and not (manners.cancel_hides_code and self.ended != LIVE)

    def view(self, manners: Manners, *, blurred: bool = False) -> "View":
        """What a look shows; a blurred one leaves out what it showed before."""
        error = ENDINGS[self.ended] if manners.shows_end else None
        known = not blurred
        return View(self.paid != NEVER and known, self.numbered != NEVER and known, self.shows_code(manners), error)


class View(NamedTuple):
    paid: bool
    number: bool
    code: bool
    error: str | None

    def status(self) -> OrderStatus:
        return OrderStatus(ID, self.paid, "+15550100" if self.number else None, "0042" if self.code else None, error=self.error)


# --- the lifecycle, with each of its transitions computed once ---------------------------------------------------------------------


class Step(NamedTuple):
    """What the lifecycle does next: after ``passed`` seconds, by when it must be over, and what it is then."""

    passed: float
    life: int
    does: type[Look] | type[Cancel] | None
    before: float
    answered: bool


class Moved(NamedTuple):
    """Where an event leads, and how long it took."""

    life: int
    took: float
    answered: bool


class Machine:
    """Lifecycles by number, with "now" as zero. They are pure, so what was asked once need not be asked again."""

    def __init__(self, make: type[Lifecycle], rules: Rules) -> None:
        self.make, self.rules = make, rules
        self.lives: list[Lifecycle] = []
        self._numbers: dict[Lifecycle, int] = {}
        self._steps: dict[int, Step] = {}
        self._moves: dict[tuple[object, ...], Moved] = {}

    def begin(self, age: float) -> int:
        return self._number(self.make.begin(self.rules, 0.0, age), 0.0)

    def step(self, number: int) -> Step:
        """Wait as the watcher does, asking anew whenever a wait is over."""
        if number not in self._steps:
            life, now = self.lives[number], 0.0
            while True:
                life = life.at(now)
                step = None if life.answers else life.next(now)
                if step is None or step.at <= now:
                    break
                now = step.at
            before = step.before - now if isinstance(step, Look) else math.inf
            does = None if step is None else type(step)
            self._steps[number] = Step(now, self._number(life, now), does, before, life.answers > 0)
        return self._steps[number]

    def saw(self, number: int, view: View, took: float) -> Moved:
        return self._moved(number, took, ("saw", number, view, took), lambda life: life.saw(view.status(), 0.0, took))

    def missed(self, number: int, failure: Failure, took: float) -> Moved:
        return self._moved(number, took, ("missed", number, failure, took), lambda life: life.missed(failure, 0.0, took))

    def asked(self, number: int, answer: bool | None, took: float) -> Moved:
        """A cancel is sent and confirmed, refused or not answered."""

        def ask(life: Lifecycle) -> Lifecycle:
            asking = life.asking(0.0)
            return asking.unanswered("no answer in time") if answer is None else asking.confirmed() if answer else asking.refused("no")

        closing = self.lives[number].asking(0.0).closing
        assert closing is not None
        took = min(took, closing.until)
        return self._moved(number, took, ("asked", number, answer, took), ask)

    def wished(self, number: int, passed: float, at: float, tries: int, within: float) -> int:
        def wish(life: Lifecycle) -> Lifecycle:
            return life.at(passed).wishing(passed + at, tries=tries, within=within)

        return self._moved(number, passed, ("wished", number, passed, at, tries), wish).life

    def unwished(self, number: int) -> int:
        return self._moved(number, 0.0, ("unwished", number), Lifecycle.unwishing).life

    def _moved(self, number: int, took: float, key: tuple[object, ...], move: Callable[[Lifecycle], Lifecycle]) -> Moved:
        if key not in self._moves:
            life = move(self.lives[number])
            self._moves[key] = Moved(self._number(life, took), took, life.answers > 0)
        return self._moves[key]

    def _number(self, life: Lifecycle, now: float) -> int:
        """Number a lifecycle, with ``now`` as zero. Only the growth of ``answers`` is ever read, so it is not kept."""

        def ago(moment: float | None) -> float | None:
            return None if moment is None else moment - now

        wish, closing = life.wish, life.closing
        life = attrs.evolve(
            life,
            due=life.due - now,
            created=ago(life.created),
            started=ago(life.started),
            paid_at=ago(life.paid_at),
            numbered_at=ago(life.numbered_at),
            refused_since=0.0 if life.refusal is None else life.refused_since - now,
            wish=None if wish is None else wish._replace(at=wish.at - now),
            closing=None if closing is None else closing._replace(until=closing.until - now, at=closing.at - now),
            answers=0,
        )
        if life not in self._numbers:
            self._numbers[life] = len(self.lives)
            self.lives.append(life)
        return self._numbers[life]


# --- the witness -------------------------------------------------------------------------------------------------------------------


class Witness(NamedTuple):
    """What happened in this life as a fair observer saw it, to judge the lifecycle by. Times are seconds ago."""

    looked: float = NEVER
    """The first look; of no interest once a payment was seen."""
    paid: float = NEVER
    """The first look that showed the payment."""
    last: float = FLOOR
    """The last look, no further back than matters."""
    number: bool = False
    code: bool = False
    good: bool = False
    """Was any look good?"""
    doubt: bool = False
    """Was a cancel sent since the last look that showed the order alive?"""
    confirmed: bool = False
    """Did the server say OK to a cancel?"""
    seen: bool = False
    """Was there a good look since the last cancel?"""
    tried: bool = False
    """Was a look begun after the window's end?"""
    asked: bool = False
    """Was a cancel sent after the window's end?"""
    refusals: int = 0
    refused: float = 0.0
    wish: str = ""
    """What the caller waits for: a cancel now, one when it is allowed, or to leave; or nobody waits, but a cancel was sent."""

    def later(self, seconds: float) -> "Witness":
        if not seconds:
            return self
        looked = self.looked if self.paid != NEVER else self.looked + seconds
        refused = self.refused + seconds if self.refusals else 0.0
        return Witness(looked, self.paid + seconds, min(self.last + seconds, FLOOR), *self[3:12], refused, self.wish)

    def left(self, rules: Rules) -> float:
        """Seconds to the end of the window that is open now."""
        assert rules.payment_window is not None
        assert rules.hold_window is not None
        if self.paid != NEVER:
            return rules.hold_window - self.paid
        return math.inf if self.looked == NEVER else rules.payment_window - self.looked


# --- the search --------------------------------------------------------------------------------------------------------------------


class Luck(NamedTuple):
    """The bad luck and the wishes still to come; ``out``: requests that are still to be lost in this outage."""

    faults: int = 0
    wishes: int = 0
    restarts: int = 0
    outages: int = 0
    out: int = 0


class Scene(NamedTuple):
    """A situation, whatever is still to come."""

    life: int
    service: Service
    witness: Witness


DOCUMENTED, NONE = Manners(), Luck()


@attrs.frozen
class Scenario:
    """What one search goes through.

    Attributes:
        lost_after: seconds after which a lost request is given up.
        reply_takes: seconds that a good reply to a look takes; it shows how things were when it was asked for.
        outages: how many requests in a row an outage may cost.
        outage_says: how every look fails in an outage.
        lies: a fault may also be an OK to a cancel that is refused.
        busy: a fault may also be "too many requests, come back in 45 s".
        pace: seconds from one look to the next.
    """

    name: str
    manners: Manners = DOCUMENTED
    luck: Luck = NONE
    prepaid: bool = False
    hold_minutes: int = 21
    payment_minutes: int = 3
    lost_after: float = 0.0
    reply_takes: float = 0.0
    outages: tuple[int, ...] = (12, 60)
    outage_says: Failure = LOST
    clock_errors: tuple[int, ...] = (-30, 0, 30)
    lies: bool = False
    busy: bool = False
    pace: float = MINUTE


Outcome = tuple[str, Callable[[], Scene]]
"""What can become of a request, and what that leads to."""

Choices = list[tuple[str, int]]
"""What can happen, each with the number of the scene that it leads to."""


class Broken(Exception):
    """A promise is broken; ``course`` is the course of events that breaks it."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(promise, what)
        self.promise, self.what = promise, what
        self.course: list[str] = []

    def __str__(self) -> str:
        return "\n".join([f"{self.promise}: {self.what}", *self.course])


class Search:
    """Go through one scenario, breadth-first.

    A node is a number: that of its scene, and that of the luck still to come.
    """

    def __init__(self, scenario: Scenario, make: type[Lifecycle] = Lifecycle) -> None:
        self.scenario, self.manners = scenario, scenario.manners
        self.rules = Rules(
            prepaid=scenario.prepaid,
            hold_window=scenario.hold_minutes * MINUTE,
            payment_window=scenario.payment_minutes * MINUTE,
            pace=lambda _status, _waited: scenario.pace,
        )
        self.machine = Machine(make, self.rules)
        self.ends: set[End] = set()
        self.scenes: list[Scene] = []
        self._numbers: dict[Scene, int] = {}
        self._proven: dict[int, bool] = {}
        self._meanwhiles: dict[tuple[Service, float], list[tuple[str, Service]]] = {}
        self._lucks, self._ways = self._all_lucks()
        first = self.number(Scene(self.machine.begin(0.0), Service(paid=0.0 if scenario.prepaid else NEVER), Witness()))
        self.came_from: dict[int, int] = {self._node(first, scenario.luck): -1}
        self.doing = ""

    def run(self, limit: float = math.inf) -> int:
        """Return how many nodes there are; stop at ``limit``.

        Raises:
            Broken: a promise is broken.
        """
        came_from, all_lucks, ways, todo = self.came_from, len(self._lucks), self._ways, deque(self.came_from)
        while todo and len(came_from) < limit:
            node = todo.popleft()
            scene, luck = divmod(node, all_lucks)
            try:
                for way, left in ways[luck]:
                    for _, leads_to in way.known.get(scene) or way.work_out(scene):
                        following = leads_to * all_lucks + left
                        if following not in came_from:
                            came_from[following] = node
                            todo.append(following)
            except Broken as broken:
                broken.course = [*self.course(node), self.doing]
                raise
        return len(came_from)

    def course(self, node: int) -> list[str]:
        course = []
        while node >= 0:
            before = self.came_from[node]
            scene = self.scenes[node // len(self._lucks)]
            life = self.machine.lives[scene.life]
            known = f"closing={life.closing} in_doubt={life.in_doubt} wish={life.wish}"
            course.append(f"{self._between(before, node)}\n        {scene.service}\n        {known}")
            node = before
        return course[::-1]

    def _between(self, before: int, node: int) -> str:
        """What led from one node to the next."""
        if before < 0:
            return "begin"
        scene, luck = divmod(before, len(self._lucks))
        steps = ((what, leads_to * len(self._lucks) + left) for way, left in self._ways[luck] for what, leads_to in way.known[scene])
        return next(what for what, following in steps if following == node)

    def number(self, scene: Scene) -> int:
        number = self._numbers.setdefault(scene, len(self.scenes))
        if number == len(self.scenes):
            self.scenes.append(scene)
        return number

    def _node(self, scene: int, luck: Luck) -> int:
        return scene * len(self._lucks) + self._lucks.index(luck)

    # --- what can happen, and what luck it takes ---------------------------------------------------------------------------------

    def _all_lucks(self) -> tuple[list[Luck], list[list[tuple["Way", int]]]]:
        """Every luck that can be left, and for each what can happen with it, with the number of the luck that is left then."""
        kinds = (self._time_or_caller, self._wishes, self._restarts, self._fair, self._unlucky, self._outage)
        always, wishes, restarts, fair, unlucky, outage = (Way(self, kind) for kind in kinds)
        begins = {length: Way(self, functools.partial(_begins, length)) for length in self.scenario.outages}
        numbers = {self.scenario.luck: 0}
        lucks, ways = [self.scenario.luck], []
        for luck in lucks:
            left = [(always, luck)]
            left += [(wishes, luck._replace(wishes=luck.wishes - 1))] * (luck.wishes > 0)
            left += [(restarts, luck._replace(restarts=luck.restarts - 1))] * (luck.restarts > 0)
            if luck.out:
                left.append((outage, luck._replace(out=luck.out - 1)))
            else:
                left += [(way, luck._replace(outages=luck.outages - 1, out=out)) for out, way in begins.items() if luck.outages]
                left.append((fair, luck))
                left += [(unlucky, luck._replace(faults=luck.faults - 1))] * (luck.faults > 0)
            for _, new in left:
                if new not in numbers:
                    numbers[new] = len(lucks)
                    lucks.append(new)
            ways.append([(way, numbers[new]) for way, new in left])
        return lucks, ways

    def _time_or_caller(self, scene: Scene) -> Iterator[tuple[str, Scene]]:
        step = self.machine.step(scene.life)
        if scene.witness.wish not in ("", GIVEN_UP):
            closing = self.machine.lives[scene.life].closing
            witness = scene.witness._replace(wish="" if closing is None or closing.window else GIVEN_UP)
            yield "the caller gives up", scene._replace(life=self.machine.unwished(scene.life), witness=witness)
        if step.does is None:
            self.doing = f"{step.passed:g} s pass"
            waited = scene._replace(service=scene.service.later(step.passed, self.manners), witness=scene.witness.later(step.passed))
            yield self.doing, self._heard(waited, Moved(step.life, 0.0, step.answered), "time")

    def _restarts(self, scene: Scene) -> Iterator[tuple[str, Scene]]:
        service = scene.service
        service = service._replace(ended=CANCELLED_BEFORE) if service.ended == CANCELLED else service
        for wrong in self.scenario.clock_errors:
            yield f"restart, clock {wrong:+} min", Scene(self.machine.begin(service.ordered + wrong * MINUTE), service, Witness())

    def _wishes(self, scene: Scene) -> Iterator[tuple[str, Scene]]:
        if scene.witness.wish:
            return
        passed = self.machine.step(scene.life).passed
        for after in [0.0, passed // 2] if passed > 1 else [0.0]:
            service, witness = scene.service.later(after, self.manners), scene.witness.later(after)
            allowed = self.machine.lives[scene.life].allowed_at(after)
            ways = [("now", 0.0, CALLER_TRIES, LAST_STEPS), ("leave", 0.0, 1, LEAVE)]
            if allowed is not None:
                ways.append(("when allowed", allowed - after, CALLER_TRIES, LAST_STEPS))
            for wish, at, tries, within in ways:
                life = self.machine.wished(scene.life, after, at, tries, within)
                yield f"{after:g} s; the caller cancels: {wish}", Scene(life, service, witness._replace(wish=wish))

    def _fair(self, scene: Scene) -> Iterator[tuple[str, Scene]]:
        return self._requests(scene, self._fair_look, self._fair_cancel)

    def _unlucky(self, scene: Scene) -> Iterator[tuple[str, Scene]]:
        return self._requests(scene, self._unlucky_look, self._unlucky_cancel)

    def _outage(self, scene: Scene) -> Iterator[tuple[str, Scene]]:
        return self._requests(scene, self._look_in_the_outage, self._cancel_in_the_outage)

    def _requests(
        self, scene: Scene, looks: Callable[[Scene, float], Iterator[Outcome]], cancels: Callable[[Scene], Iterator[Outcome]]
    ) -> Iterator[tuple[str, Scene]]:
        step = self.machine.step(scene.life)
        if step.does is None:
            return
        witness = scene.witness.later(step.passed)
        for event, service in self._meanwhile(scene.service, step.passed):
            ready = Scene(step.life, service, witness)
            for what, outcome in looks(ready, step.before) if step.does is Look else cancels(ready):
                self.doing = event + what
                yield self.doing, outcome()

    def _meanwhile(self, service: Service, seconds: float) -> list[tuple[str, Service]]:
        """What the service may do while so many seconds pass, and how it stands then."""
        known = self._meanwhiles.get((service, seconds))
        if known is None:
            known = []
            for event, after in service.may_do(seconds):
                prefix = f"{seconds:g} s, {event}; " if event else f"{seconds:g} s; "
                known.append((prefix, after.later(seconds, self.manners)))
            self._meanwhiles[service, seconds] = known
        return known

    # --- requests ----------------------------------------------------------------------------------------------------------------

    def _fair_look(self, scene: Scene, before: float) -> Iterator[Outcome]:
        yield "look", lambda: self._good_look(scene, before, scene.service.view(self.manners))

    def _unlucky_look(self, scene: Scene, before: float) -> Iterator[Outcome]:
        yield "look, lost", lambda: self._lost_look(scene, before, LOST)
        if self.scenario.busy:
            yield "look, too many requests", lambda: self._lost_look(scene, before, TOO_MANY)
        if scene.service.paid != NEVER:
            yield "look, blurred", lambda: self._good_look(scene, before, scene.service.view(self.manners, blurred=True))

    def _look_in_the_outage(self, scene: Scene, before: float) -> Iterator[Outcome]:
        yield "look, in the outage", lambda: self._lost_look(scene, before, self.scenario.outage_says)

    def _begun(self, scene: Scene) -> Witness:
        witness = scene.witness
        if self.machine.lives[scene.life].closing is None and witness.last < FLOOR:
            raise Broken("I6", f"a look {witness.last} s after the one before")
        looked = 0.0 if witness.looked == NEVER else witness.looked
        tried = witness.tried or witness.left(self.rules) <= 0
        return witness._replace(looked=looked, last=0.0, tried=tried)

    def _good_look(self, scene: Scene, before: float, view: View) -> Scene:
        took = min(self.scenario.reply_takes, before)
        moved = self.machine.saw(scene.life, view, took)
        was = self._begun(scene).later(took)
        held = was.paid == NEVER and (view.paid or self.scenario.prepaid)
        witness = Witness(
            looked=0.0 if held else was.looked,
            paid=0.0 if held else was.paid,
            last=was.last,
            number=was.number or view.number,
            code=was.code or view.code,
            good=True,
            doubt=was.doubt and (view.error is not None or not self.manners.shows_end),
            confirmed=was.confirmed,
            seen=True,
            tried=was.tried and not held,
            asked=was.asked and not held,
            wish=was.wish,
        )
        return self._heard(Scene(scene.life, scene.service.later(took, self.manners), witness), moved, "look", view)

    def _lost_look(self, scene: Scene, before: float, failure: Failure) -> Scene:
        took = min(self.scenario.lost_after, before)
        moved = self.machine.missed(scene.life, failure, took)
        witness = self._begun(scene).later(took)
        refusals = witness.refusals + 1 if failure.refusal is not None else 0
        witness = witness._replace(refusals=refusals, refused=witness.refused if refusals > 1 else 0.0)
        return self._heard(Scene(scene.life, scene.service.later(took, self.manners), witness), moved, "lost look")

    def _fair_cancel(self, scene: Scene) -> Iterator[Outcome]:
        served, ok = scene.service.cancel(self.manners)
        yield f"cancel, {'OK' if ok else 'refused'}", lambda: self._cancel(scene, served, ok)

    def _unlucky_cancel(self, scene: Scene) -> Iterator[Outcome]:
        served, ok = scene.service.cancel(self.manners)
        yield "cancel, lost on its way", lambda: self._cancel(scene, scene.service, None)
        yield f"cancel, {'OK' if ok else 'refused'}, the answer lost", lambda: self._cancel(scene, served, None)
        yield "cancel, refused for no reason", lambda: self._cancel(scene, scene.service, False)
        if self.scenario.lies:
            yield "cancel, refused, and called OK", lambda: self._cancel(scene, scene.service, True)

    def _cancel_in_the_outage(self, scene: Scene) -> Iterator[Outcome]:
        yield "cancel, in the outage", lambda: self._cancel(scene, scene.service, None)

    def _cancel(self, scene: Scene, service: Service, answer: bool | None) -> Scene:
        witness = scene.witness
        left = witness.left(self.rules)
        if witness.code:
            raise Broken("I5", "a cancel after a code was seen")
        if not witness.wish and left > 0:
            raise Broken("I4", f"a cancel that nobody wants, {left:g} s before the window's end")
        if not witness.wish and not witness.tried:
            raise Broken("I5", "a cancel before the look at the window's end")
        moved = self.machine.asked(scene.life, answer, self.scenario.lost_after if answer is None else 0.0)
        witness = witness._replace(doubt=True, seen=False, asked=left <= 0, confirmed=witness.confirmed or answer is True)
        following = Scene(scene.life, service.later(moved.took, self.manners), witness.later(moved.took))
        return self._heard(following, moved, "cancel")

    def _heard(self, scene: Scene, moved: Moved, by: str, view: View | None = None) -> Scene:
        """Hand an answer to the caller who waits for it, as the watcher does, and judge what has become of the order."""
        number, witness = moved.life, scene.witness
        if moved.answered and witness.wish:
            number = self.machine.unwished(number)
            allowed = self.machine.lives[number].allowed_at(0.0) if witness.wish == "when allowed" else None
            if allowed is None:
                witness = witness._replace(wish="")
            else:
                number = self.machine.wished(number, 0.0, allowed, CALLER_TRIES, LAST_STEPS)
        life = self.machine.lives[number]
        scene = Scene(number, scene.service, witness)
        self._judge_knowledge(life, witness)
        if life.end is None:
            self._judge_living(life, witness)
        else:
            self.ends.add(life.end)
            self._judge_end(life, scene, by, view)
        return scene

    # --- the promises ------------------------------------------------------------------------------------------------------------

    def _judge_knowledge(self, life: Lifecycle, witness: Witness) -> None:
        status = life.status
        known = (False, False, False, False)
        if status is not None:
            paid = life.paid_at is not None and (status.paid or self.scenario.prepaid)
            known = True, paid, status.number is not None, status.code is not None
        if known != (witness.good, witness.paid != NEVER, witness.number, witness.code):
            raise Broken("I8", "what is known is not what was seen")

    def _judge_living(self, life: Lifecycle, witness: Witness) -> None:
        if witness.left(self.rules) < -(2 * LAST_STEPS + self.scenario.lost_after + self.scenario.reply_takes):
            raise Broken("I4", f"it goes on {-witness.left(self.rules):g} s after its window")
        if witness.wish and life.wish is None and life.closing is None:
            raise Broken("I10", "the caller waits for an answer that nobody will give")

    def _judge_end(self, life: Lifecycle, scene: Scene, by: str, view: View | None) -> None:
        if scene.life not in self._proven:  # the end itself is judged once, and here only what led to it
            error = life.error(ID)
            self._proven[scene.life] = isinstance(error, OrderExpired) and error.cancelled
            self._judge_absorbing(life)
        confirmed = self._proven[scene.life]
        self._judge_code(life.end, scene, by)
        self._judge_release(life.end, scene, view, confirmed=confirmed)
        if life.end in (End.EXPIRED, End.UNRESOLVED):
            self._judge_window(life.end, scene.witness, by, view)
        witness = scene.witness
        if life.end is End.REFUSED and (witness.good or witness.refusals < REFUSALS or witness.refused < REFUSED_FOR):
            raise Broken("I4", f"given up after {witness.refusals} refusals in {witness.refused:g} s")

    def _judge_code(self, end: End | None, scene: Scene, by: str) -> None:
        if (end is End.CODE) != scene.witness.code:
            raise Broken("I1", f"the end is {end}, and was a code seen? {scene.witness.code}")
        nobody_could_look = end in (End.UNRESOLVED, End.REFUSED) or (end is End.CANCELLED and by == "time")
        if scene.service.shows_code(self.manners) and end is not End.CODE and (not nobody_could_look or scene.witness.seen):
            raise Broken("I1", f"a code is there to be seen, and the end is {end}")

    def _judge_release(self, end: End | None, scene: Scene, view: View | None, *, confirmed: bool) -> None:
        service, witness = scene.service, scene.witness
        ended = service.ended != LIVE
        if end is End.FAILED and (view is None or view.error is None or service.ended in (LIVE, CANCELLED)):
            raise Broken("I2", f"the server is said to have ended it of itself: {service}")
        if end is End.CANCELLED and not (witness.confirmed or service.ended == CANCELLED or (witness.doubt and ended)):
            raise Broken("I2", f"it is said to be cancelled by this program: {service}")
        if confirmed and not witness.confirmed:
            raise Broken("I2", "the server is said to have confirmed a cancel")

    def _judge_window(self, end: End, witness: Witness, by: str, view: View | None) -> None:
        told = view is not None and view.error is not None
        too_late = witness.confirmed and witness.paid == 0.0  # the payment was seen only after the cancel was confirmed
        if witness.left(self.rules) > 0 and not told and not too_late:
            raise Broken("I4", f"{end} {witness.left(self.rules):g} s before the window's end")
        if end is End.UNRESOLVED and by != "time":
            raise Broken("I4", f"given up by a {by}")
        if not witness.asked and witness.paid != 0.0:
            raise Broken("I9", f"{end} without a cancel")

    def _judge_absorbing(self, life: Lifecycle) -> None:
        code, error = View(True, True, True, None).status(), View(True, False, False, "too late").status()
        after = [life.saw(code, 0.0, 0.0), life.saw(error, 0.0, 0.0), life.missed(UNKNOWN_ORDER, 0.0, 0.0), life.at(1e9)]
        if any(state != life for state in [*after, life.wishing(0.0), life.unwishing()]) or life.next(1e9) is not None:
            raise Broken("I7", f"something changes what has ended with {life.end}")


class Way:
    """One kind of thing that can happen: what it leads to from a scene is worked out once, when it is first asked for."""

    def __init__(self, search: Search, kind: Callable[[Scene], Iterator[tuple[str, Scene]]]) -> None:
        self._search, self._kind = search, kind
        self.known: dict[int, Choices] = {}

    def work_out(self, scene: int) -> Choices:
        if scene not in self.known:
            before = self._search.scenes[scene]
            ended = self._search.machine.lives[before.life].end is not None
            self.known[scene] = [] if ended else [(what, self._search.number(after)) for what, after in self._kind(before)]
        return self.known[scene]


def _begins(length: int, scene: Scene) -> Iterator[tuple[str, Scene]]:
    yield f"an outage of {length} requests begins", scene


# --- what is searched --------------------------------------------------------------------------------------------------------------

SHORT = Manners(minutes=4)
"""A service with a window of 4 minutes, watched for 4 minutes: the same courses of events, in a fifth of the looks."""


def _short(name: str, manners: Manners, luck: Luck, **more: Any) -> Scenario:
    return Scenario(name, manners, luck, hold_minutes=4, **more)


SILENT = SHORT._replace(shows_end=False, cancels_twice=False)

SUITE = [
    _short("three faults", SHORT, Luck(faults=3), payment_minutes=2),
    Scenario("21 minutes, a fault", luck=Luck(faults=1), payment_minutes=1),
    Scenario("21 minutes, prepaid, two faults", luck=Luck(faults=2), prepaid=True),
    _short("a wish and a fault", SHORT, Luck(faults=1, wishes=1), payment_minutes=2),
    _short("two wishes", SHORT._replace(cancels_twice=False), Luck(wishes=2), payment_minutes=1),
    _short("a wish and a fault, prepaid", SHORT._replace(cancels_twice=False), Luck(faults=1, wishes=1), prepaid=True),
    _short("a restart and a wrong clock", SHORT, Luck(faults=1, restarts=1), payment_minutes=2),
    _short("an outage", SHORT, Luck(outages=1), payment_minutes=2),
    _short("an outage of refusals", SHORT, Luck(outages=1), outage_says=UNKNOWN_ORDER, payment_minutes=2),
    _short("an outage of too many requests", SHORT, Luck(outages=1), outage_says=TOO_MANY, payment_minutes=2),
    _short("slow answers", SHORT, Luck(faults=2), lost_after=10.0, reply_takes=2.0),
    _short("silent ends", SILENT, Luck(faults=2)),
    _short("silent ends and a wish", SILENT, Luck(faults=1, wishes=1), payment_minutes=1),
    _short("a window from the order", SHORT._replace(window_from_order=True), Luck(faults=2)),
    _short("a gate from the payment", SHORT._replace(gate_from="payment"), Luck(faults=2)),
    _short("a gate from the number", SHORT._replace(gate_from="number"), Luck(faults=2)),
    _short("a cancel with the code there", SHORT._replace(cancels_with_code=True), Luck(faults=2)),
    _short("a cancel that hides the code", SHORT._replace(cancels_with_code=True, cancel_hides_code=True), Luck(faults=2)),
    _short("a cancel that is not carried out", SHORT._replace(pretends=True), Luck(wishes=1)),
    _short("an OK to a refused cancel", SHORT, Luck(faults=3), payment_minutes=2, lies=True),
    _short("an OK to a refused cancel, and a wish", SHORT, Luck(faults=1, wishes=1), payment_minutes=1, lies=True),
    _short("too many requests", SHORT, Luck(faults=1), payment_minutes=2, busy=True, pace=20.0),
    Scenario("21 minutes, a late payment and two faults", luck=Luck(faults=2), payment_minutes=5),
    Scenario("21 minutes, a restart and a wrong clock", luck=Luck(restarts=1), payment_minutes=2),
    Scenario("21 minutes, an outage", luck=Luck(outages=1), payment_minutes=2),
]
"""Each of these is searched to its end."""

DEEP = [
    Scenario("two wishes and two faults, prepaid", SILENT._replace(minutes=3, shows_end=True), Luck(faults=2, wishes=2), True, 3),
    _short("two wishes and a fault", SHORT, Luck(faults=1, wishes=2)),
    _short("a wish and two faults", SHORT, Luck(faults=2, wishes=1)),
    _short("a wish and two faults, a gate from the number", SILENT._replace(gate_from="number"), Luck(faults=2, wishes=1)),
    _short("an outage and a wish", SHORT, Luck(outages=1, wishes=1)),
    _short("slow answers, a wish and two faults", SHORT, Luck(faults=2, wishes=1), lost_after=10.0, reply_takes=2.0),
    Scenario("21 minutes, a restart and a fault", luck=Luck(faults=1, restarts=1)),
    Scenario("21 minutes, an outage and a fault", luck=Luck(faults=1, outages=1)),
    Scenario("21 minutes, a wish and a fault", luck=Luck(faults=1, wishes=1)),
    Scenario("21 minutes, three faults", luck=Luck(faults=3)),
    Scenario("21 minutes, everything at once", luck=Luck(faults=3, wishes=2, restarts=1, outages=1)),
]
"""What to go on with, the last of it without an end in sight."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lifecycle_model", description="Search every course of events of an order.")
    parser.add_argument("--budget", type=int, metavar="N", help="how many situations to go through (default: all of SUITE)")
    budget = parser.parse_args().budget
    scenarios = deque(SUITE if budget is None else [*SUITE, *DEEP])
    most = math.inf if budget is None else budget
    gc.disable()  # nothing here goes in circles, and looking for circles takes a fifth of the time
    total, began = 0, time.process_time()
    while scenarios and total < most:
        search = Search(scenarios.popleft())
        count = search.run(most - total)
        total += count
        print(f"{count:>9,}  {search.scenario.name}: {' '.join(sorted(end.name for end in search.ends))}")
    print(f"{total:>9,}  situations in {time.process_time() - began:.1f} s: every promise kept")


if __name__ == "__main__":
    main()
