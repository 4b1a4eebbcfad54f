"""Thousands of orders under random faults, for hours of virtual time, and a judge that asks the server only.

    python -m tests.soak [--orders 3000] [--faults 30] [--seed 1] [--backend asyncio|trio]
                         [--single|--batch] [--aiohttp] [--memory] [--json]

Users order numbers over real sockets from the fault server, pay (late, or never), and watch their orders with ``poll_interval=3``:
plainly, in a block, by iteration, with two tasks at once; some have short windows. They are cancelled, by scope or natively, and come
back with the order, with its JSON or with its id alone; they cancel orders; every client is closed under its watchers, and a new one goes
on with nothing but the orders. Each request meets a fault with the given probability, before or after its side effect, and outages make
everything fail for 1 to 25 minutes, for one order or for all, some of them across the end of a window. Codes come at random seconds,
in the very last ones too, or never. The exit code is 1 if a promise is broken.

What the judge means:

* A code is **delivered** when the server has taken it in (and the money) before its user is done. It is **lost** when a watch ends with
  anything but the code although the server had it. If the watch was cut short (cancelled, left, or ended with ``OrderUnresolved`` or
  with the server's own stubborn refusal), its user comes back, and is to get it then; and also if the server got it after the window's
  end, and after the last look of a watch that ended with ``OrderExpired`` and without a confirmed cancel.
* ``OrderExpired.cancelled`` means that the server has cancelled, ``OrderFailed`` that it says so. After a cancel whose answer was lost
  an error in a status is taken for its effect: there ``OrderCancelled`` means that the server has ended the order, and gives the money
  back. Nothing is over by time before its window is.
* **Delay** is from the code's arrival at the server to its return to a user who was watching at that moment; codes that arrive in an
  outage of the plan, or less than :data:`SHADOW` seconds after one, are left out.
* A **gap** lies between two looks at an order of one watch, where the first of them reaches the server. The looks around a cancel and
  at a window's end may follow each other at once, and so may the one repeat of a request whose connection broke without an answer.
* **Load in an outage** is what one watch sends after a minute of nothing but 5xx, in requests per 15 s.
* After each wave of orders every lane must carry a request at the same time as all the others; then the client is closed, and a second
  later no connection, and after the server's end no descriptor, task or thread, may be left. Memory is compared between the end of
  the run and the end of its warm-up (a third of the waves). It is what the process **holds**, to the byte, as the C library counts it:
  for that the command runs itself without CPython's own allocator. That one keeps an arena of a MiB as long as one object in it lives,
  so what is resident grows by some MiB when a wave is worse than all before it, and stays there, whether anything is held or not.

Faults that no client could survive are left out: a false code, number or id, a hidden code, a cancel that is confirmed and not done.
"Too many requests" is said to a client, not to an order, and slows a whole batch, which is its job: so a batch meets it in outages of
the whole service only.
"""

import argparse
import asyncio
import ctypes
import functools
import gc
import json
import logging
import math
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from array import array
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from sms4sats_async import (
    APIError,
    BatchWatcher,
    CancelRefused,
    Client,
    Order,
    OrderCancelled,
    OrderError,
    OrderExpired,
    OrderFailed,
    OrderUnresolved,
    OrderWatcher,
    Sms4SatsError,
)
from tests.faults.service import (
    NEVER,
    WINDOW,
    Fault,
    Held,
    Service,
    busy,
    closes,
    cut,
    garbage,
    gzip_bomb,
    lies,
    redirects,
    refusal,
    resets,
    says,
    slow,
    stalls,
    status,
    unseen,
    with_fields,
)
from tests.faults.stacks import Stack
from tests.servers import Reply, SeenRequest, Server
from tests.virtual_time import in_virtual_time

PACE = 3.0
"""Seconds between two looks: what the promised delays are for."""
DELAYS = {0: 3.5, 20: 20.0, 30: 30.0, 60: 150.0}
"""Seconds within which 95 % of the codes must be returned, at so many faults in a hundred requests."""
SHADOW = 70.0
"""Seconds for which an outage can still be felt: the longest pause after a failure, and the look after it."""
LAST_STEPS = 30.0
"""Seconds that the steps at a window's end may take."""
GAP = 0.99
"""Seconds between two looks at the least; a hundredth is left to the clock's own steps."""
GROWTH = 2 * 1024 * 1024
"""Bytes by which memory may grow after the warm-up."""
CLOSED = "the client is closed"


# --- what goes wrong ---------------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        weight: how often it comes, beside the others.
        make: makes one.
        breaks: ends the connection, perhaps before an answer has begun: such a request may be repeated at once.
        only_status: a lie that is harmless in a status only, and a look has no side effect.
    """

    weight: float
    make: Callable[[random.Random], Fault]
    breaks: bool = False
    only_status: bool = False


_HTML = b"<html><body><h1>It works not</h1></body></html>"
_RETRY_AFTER = (None, None, "0", "-5", "NaN", "soon", "1.5", "2", "1500ms", "Thu, 01 Jan 1970 00:00:00 GMT", "5", "3600", "1e99")
_NO_STATUS: tuple[Any, ...] = (
    {"status": "OK"},
    {"status": "OK", "paid": "true"},
    {"status": "OK", "paid": 1},
    {"status": "OK", "paid": None, "number": 15550001111},
    {"status": "OK", "paid": True, "code": True},
    {"status": "OK", "paid": True, "code": ["0482"]},
    {"paid": "no", "error": 0},
)
_HARMLESS: tuple[dict[str, Any], ...] = (
    {"number": ..., "country": ..., "service": ...},
    {"number": None, "id": 0, "timestamp": -1},
    {"new": {"deep": [1, 2, 3]}, "status": ..., "error": ""},
    {"country": 7, "service": None, "timestamp": "yesterday", "id": "SM12"},
    {"paid": False},
)


async def retyped(reply: Reply, answer: bytes) -> None:
    """Answer truthfully, with text as numbers where no zero is lost, and numbers as text."""
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    for name, value in told.items():
        if isinstance(value, str) and value.isdecimal() and not value.startswith("0"):
            told[name] = int(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            told[name] = f"+{value}"
    await reply.json(told)


def trickles(each: float) -> Fault:
    """Answer truthfully, one byte every so many seconds; and be done with the last of them."""

    async def fault(reply: Reply, answer: bytes) -> None:
        await reply.trickle(answer[:-1], each)
        await reply.raw(answer[-1:])

    return fault


_bomb = functools.cache(gzip_bomb)

KINDS: dict[str, Kind] = {
    "FIN": Kind(6, lambda dice: closes, breaks=True),
    "RST": Kind(6, lambda dice: resets, breaks=True),
    "cut": Kind(10, lambda dice: cut(dice.randrange(300), reset=dice.random() < 0.5), breaks=True),
    "garbage": Kind(4, lambda dice: garbage, breaks=True),
    "stall": Kind(1.5, lambda dice: stalls),
    "trickle": Kind(1, lambda dice: trickles(dice.uniform(0.01, 0.3))),
    "slow": Kind(3, lambda dice: slow(dice.choice((0.2, 1, 3, 8, 15)))),
    "5xx": Kind(10, lambda dice: status(dice.choice((500, 502, 503, 504)), dice.choice((b"", _HTML, b"{}")))),
    "a no": Kind(4, lambda dice: says(refusal("unable to load data", dice.choice((200, 400, 404, 500))))),
    "403": Kind(1, lambda dice: status(403, _HTML)),
    "429": Kind(2, lambda dice: busy(dice.choice(_RETRY_AFTER))),
    "redirect": Kind(3, lambda dice: redirects("http://127.0.0.1:9/login", dice.choice((301, 302, 307, 308)))),
    "no JSON": Kind(6, lambda dice: status(200, dice.choice((_HTML, b"", b"[]", b"null", b'"x"', b'{"paid":', b"\xff\xfe{", b"[" * 5000)))),
    "too long": Kind(1, lambda dice: status(200, b'{"paid": true, "x": "' + b"x" * 70_000 + b'"}')),
    "gzip bomb": Kind(1, lambda dice: _bomb()),
    "no status": Kind(6, lambda dice: lies(dice.choice(_NO_STATUS)), only_status=True),
    "other fields": Kind(6, lambda dice: with_fields(**dice.choice(_HARMLESS)), only_status=True),
    "other types": Kind(3, lambda dice: retyped, only_status=True),
}

OUTAGES: dict[str, Fault] = {
    "5xx 503": status(503, _HTML),
    "5xx 502": status(502),
    "5xx 500": status(500),
    "5xx with a reason": says(refusal("backend error")),
    "429": busy(),
    "429 for 30 s": busy("30"),
    "captive portal": status(200, _HTML),
    "redirect": redirects("http://127.0.0.1:9/login"),
    "FIN": closes,
    "RST": resets,
    "garbage": garbage,
    "stall": stalls,
}


class Outage(NamedTuple):
    """From when to when all requests fail, and how."""

    begin: float
    end: float
    name: str


# --- what users do -----------------------------------------------------------------------------------------------------------------


@dataclass
class Fate:
    """What becomes of one order, and what its user does. Seconds after the payment, or, for the payment itself, after the order."""

    pay_after: float
    number_after: float
    code_after: float = NEVER
    fail_after: float = NEVER
    hold_window: float = WINDOW
    outage: tuple[float, float, str] | None = None


def draw_fate(dice: random.Random, short: bool) -> Fate:
    """Say what becomes of an order. Four in five get a code if they are paid, most of them 30 to 120 s after the payment.

    Users have ``short`` windows of their own only where each order can have one.
    """
    fate = Fate(pay_after=dice.uniform(1, 20), number_after=dice.uniform(2, 20))
    chance = dice.random()
    if chance < 0.73:
        fate.code_after = dice.uniform(30, 120)
    elif chance < 0.80:
        fate.code_after = dice.uniform(120, 1200)
    elif chance < 0.82:  # in the last seconds, as the server counts them
        fate.code_after = WINDOW - dice.uniform(0, 15)
    elif chance < 0.91:
        fate.fail_after = dice.uniform(5, 60)
    elif chance < 0.97 and short:
        fate.hold_window = dice.uniform(60, 240)
    chance = dice.random()
    if chance < 0.007:
        fate.pay_after = NEVER
    elif chance < 0.025:
        fate.pay_after = dice.uniform(20, 900)
    elif chance < 0.03:  # around the end of the payment window
        fate.pay_after = dice.uniform(1240, 1275)
    elif chance < 0.11 and short:  # around the end of a hold window of the user's own
        fate.hold_window = dice.uniform(60, 240)
        fate.code_after = fate.hold_window + dice.choice((dice.uniform(-3, 3), dice.uniform(-5, 14)))
    fate.outage = _draw_outage(dice, fate)
    return fate


def _draw_outage(dice: random.Random, fate: Fate) -> tuple[float, float, str] | None:
    chance = dice.random()
    if chance < 0.05:
        begin, longest = dice.uniform(0, 150), 1500
    elif chance < 0.08 and fate.pay_after < NEVER:  # across the end of the window
        begin, longest = fate.pay_after + fate.hold_window - dice.uniform(0, 60), 600
    else:
        return None
    return begin, begin + dice.uniform(60, longest), dice.choice(list(OUTAGES))


@dataclass
class Watch:
    """One watch of an order, as it looks from the server."""

    begin: float
    hold_window: float
    loose_from: float = NEVER
    """From when on its last steps, or a cancel that its user wants, may be under way."""
    loose_until: float = -NEVER
    """Until when looks may follow a cancel that was seen."""
    looks: "array[float]" = field(default_factory=lambda: array("d"))
    paid_look: float = NEVER
    """The first look that may have shown the payment."""
    last_at: float = -NEVER
    broke: bool = False

    @property
    def window_end(self) -> float:
        """The earliest moment at which a window of it can end."""
        return min(self.begin + WINDOW, self.paid_look + self.hold_window)

    def loose(self, now: float) -> bool:
        """May looks follow each other at once?"""
        return now >= min(self.window_end - 0.01, self.loose_from) or now <= self.loose_until


@dataclass
class User:
    """Somebody who wants the code of one order."""

    number: int
    order: Order
    held: Held
    fate: Fate
    outages: list[Outage]
    watch: Watch | None = None
    left_at: float = -NEVER
    requests: int = 0
    lately: deque[str] = field(default_factory=lambda: deque(maxlen=4))
    """Its last requests, and what struck them."""


@dataclass
class Ended:
    """How a watch ended: with a code, with an error, or, with neither, because its user left."""

    code: str | None = None
    error: Exception | None = None
    left_early: bool = False
    """The client was closed, or the batch left."""


# --- the figures -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What a run is made of. ``faults`` is the probability of a fault in percent."""

    orders: int
    faults: int = 30
    seed: int = 1
    batch: bool = False
    aiohttp: bool = False
    memory: bool = False
    crowd: int = 200
    lanes: int = 20
    wave: int = 400
    watcher: type[OrderWatcher] = OrderWatcher
    draw: Callable[[random.Random, bool], Fate] = draw_fate


class Memory(NamedTuple):
    """In bytes: what the process holds, what of it is resident (with what is free and not given back), and what tracemalloc knows."""

    held: int
    resident: int
    traced: int


@dataclass
class Found:
    """What a run has shown, by what the server knows."""

    broken: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    delays: "array[float]" = field(default_factory=lambda: array("d"))
    most_requests: int = 0
    strained_looks: int = 0
    strained_seconds: float = 0.0
    shortest_gap: float = NEVER
    virtual_seconds: float = 0.0
    real_seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: list[Memory] = field(default_factory=list)
    """After each wave."""

    def expect(self, kept: bool, promise: str, where: str) -> None:
        """Note that a promise was broken, if it was; ``where`` helps to find out why."""
        if not kept:
            self.broken[promise] += 1
            if self.broken[promise] <= 5:
                self.examples.append(f"{promise}: {where}")

    def delay(self, share: float) -> float:
        """The delay in seconds that this share of the codes did not exceed; NaN when there were none."""
        ordered = sorted(self.delays)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan

    @property
    def strain(self) -> float:
        """Looks per 15 s after a minute of 5xx; NaN when there were less than five minutes of that."""
        return 15 * self.strained_looks / self.strained_seconds if self.strained_seconds > 300 else math.nan

    @property
    def growth(self) -> Memory:
        """By how many bytes memory has grown since the warm-up."""
        warm, end = self.memory[(len(self.memory) - 1) // 3], self.memory[-1]
        return Memory(*(after - before for before, after in zip(warm, end, strict=True)))

    def figures(self) -> dict[str, Any]:
        """All of it, for a table and for a program."""
        counts = self.counts
        return {
            "orders": counts["orders"],
            "watches": counts["watches"],
            "codes delivered": counts["delivered"],
            "codes returned": counts["returned"],
            "codes lost": counts["delivered"] - counts["returned"],
            "codes returned to who came back": counts["came back for it"],
            "cancels confirmed": counts["cancelled"],
            "taken for cancelled, ended by itself": counts["ended by itself"],
            "restarts": counts["restarts"],
            "ends": dict(self.ends.most_common()),
            "delay, s: p50": self.delay(0.50),
            "delay, s: p95": self.delay(0.95),
            "delay, s: max": self.delay(1.0),
            "delays measured": len(self.delays),
            "requests": counts["requests"],
            "requests per order: mean": counts["requests"] / max(1, counts["orders"]),
            "requests per order: max": self.most_requests,
            "shortest gap, s": self.shortest_gap,
            "looks per 15 s after a minute of 5xx": self.strain,
            "faults struck": sum(self.struck.values()),
            "kinds of faults": dict(self.struck.most_common()),
            "memory growth, KiB: held": self.growth.held / 1024,
            "memory growth, KiB: resident": self.growth.resident / 1024,
            "memory growth, KiB: traced": self.growth.traced / 1024,
            "waves": len(self.memory),
            "held after each wave, KiB": ", ".join(str(each.held // 1024) for each in self.memory),
            "resident after each wave, KiB": ", ".join(str(each.resident // 1024) for each in self.memory),
            "virtual hours": self.virtual_seconds / 3600,
            "real seconds": self.real_seconds,
            "CPU seconds": self.cpu_seconds,
            "broken": dict(self.broken),
            "examples": self.examples,
        }


# --- a wave of orders --------------------------------------------------------------------------------------------------------------


class Wave:
    """Some hundreds of orders with one server: what they do, and what the server sees of it."""

    def __init__(self, setup: Setup, found: Found, numbers: Sequence[int], dice: random.Random) -> None:
        self.setup = setup
        self.found = found
        self.dice = dice
        self.numbers = deque(numbers)
        self.count = len(numbers)
        self.users: dict[str, User] = {}
        self.says_ended = dice.random() < 0.6
        self.service = Service(self._plan, says_ended=self.says_ended)
        self.server: Server
        self.client: Client | None = None
        self.opened = anyio.Event()
        self.together: Fault | None = None
        now = anyio.current_time()
        begin = now + dice.uniform(90, 400)
        self.outages = [Outage(begin, begin + dice.uniform(60, 300), dice.choice(list(OUTAGES)))]
        self.restarts = sorted(now + dice.uniform(30, 700) for _ in range(2))
        self.stack = Stack("aiohttp", ("asyncio",)) if setup.aiohttp else Stack("lanes", ("asyncio", "trio"))
        self.names = list(KINDS)
        rare = {"429": 0.0} if setup.batch else {}
        self.weights = [rare.get(name, kind.weight) for name, kind in KINDS.items()]
        self.sober = [0.0 if kind.only_status else weight for kind, weight in zip(KINDS.values(), self.weights, strict=True)]

    async def run(self) -> None:
        """Let all orders of the wave come to their end, and see what is left of the client."""
        async with self.service.serving() as self.server:
            await (self._in_batches() if self.setup.batch else self._one_by_one())
            await anyio.sleep(1)
            left = self.server.connections_open
            self.found.expect(left == 0, "no connection is left", f"{left} a second after the client was closed")
        self.found.counts["requests"] += sum(self.service.asked.values())

    # --- what the server sees --------------------------------------------------------------------------------------------------

    def _plan(self, request: SeenRequest, about: Held | None) -> Fault | None:
        self.service.requests.clear()  # both would keep every request of the wave
        self.server.requests.clear()
        path, now = request.target.partition("?")[0], request.at
        if path == "/":
            return self.together
        user = None if about is None else self.users.get(about.id)
        repeat = self._seen(user, path, now) if user is not None else False
        outages = self.outages if user is None else [*self.outages, *user.outages]
        outage = next((outage for outage in outages if outage.begin <= now < outage.end), None)
        name, breaks = "", False
        fault: Fault | None = None
        if outage is not None:
            name, fault = f"outage: {outage.name}", unseen(OUTAGES[outage.name])
            breaks = outage.name in KINDS and KINDS[outage.name].breaks
        elif self.dice.random() * 100 < self.setup.faults:
            name = self.dice.choices(self.names, self.weights if path == "/orderstatus" else self.sober)[0]
            kind = KINDS[name]
            fault, breaks = kind.make(self.dice), kind.breaks
            if not kind.only_status and self.dice.random() < 0.5:
                fault = unseen(fault)
        if fault is not None:
            self.found.struck[name] += 1
        if user is not None:
            user.lately.append(f"{path} at {now - user.held.created_at:.2f} {name}")
            if user.watch is not None:
                user.watch.broke = breaks and not repeat
        return fault

    def _seen(self, user: User, path: str, now: float) -> bool:
        """Judge a request by when it comes; True if it repeats the one before, whose connection broke."""
        user.requests += 1
        for other in user.held.under_way:
            self.server._tasks.start_soon(self._expect_alone, user, other)
        watch = user.watch
        if watch is None:
            late = now - user.left_at
            self.found.expect(late < 0.01, "nobody watches, nobody polls", self._where(user, f"{path} {late:.2f} s after the watch"))
            return False
        since, watch.last_at = now - watch.last_at, now
        if watch.broke and since < GAP:
            return True
        if path == "/cancelorder":
            watch.loose_until = now + LAST_STEPS
            return False
        if watch.looks and not watch.loose(now):
            gap = now - watch.looks[-1]
            self.found.shortest_gap = min(self.found.shortest_gap, gap)
            self.found.expect(gap >= GAP, "looks are a second apart", self._where(user, f"{gap:.3f} s at {now - watch.begin:.1f} s"))
        watch.looks.append(now)
        if user.held.paid_at <= now:
            watch.paid_look = min(watch.paid_look, now)
        return False

    async def _expect_alone(self, user: User, other: Reply) -> None:
        """A request that was given up may look alive until the loop's next turns; one that still is a moment later was not given up."""
        if not other.client_gone:
            await anyio.sleep(0.01)
            both = other in user.held.under_way and not other.client_gone
            self.found.expect(not both, "one request at a time for an order", self._where(user, "another one is under way"))

    def _where(self, user: User, what: str) -> str:
        held, now = user.held, anyio.current_time()
        times = (held.paid_at, held.number_at, held.code_at, held.failed_at, held.cancelled_at)
        told = ", ".join(
            f"{name} {at - held.created_at:.1f}"
            for name, at in zip(("paid", "number", "code", "failed", "cancelled"), times, strict=True)
            if at < NEVER
        )
        return f"order {user.number}, {now - held.created_at:.1f} s old ({told}): {what}; lately {', '.join(user.lately)}"

    # --- orders ----------------------------------------------------------------------------------------------------------------

    async def _placed(self, client: Client, number: int) -> User | None:
        """Order a number; None when that failed."""
        try:
            order = await client.create_order(187, "tg")
        except (Sms4SatsError, RuntimeError) as error:
            self._expect_known(error)
            return None
        held, now = self.service.orders[order.id], anyio.current_time()
        fate = self.setup.draw(self.dice, not self.setup.batch)
        held.paid_at = now + fate.pay_after
        held.number_at, held.code_at, held.failed_at = (
            held.paid_at + after for after in (fate.number_after, fate.code_after, fate.fail_after)
        )
        held.code, held.number = f"{number * 7919 % 1_000_000:06d}", f"1555{number % 10_000_000:07d}"
        outages = [] if fate.outage is None else [Outage(now + fate.outage[0], now + fate.outage[1], fate.outage[2])]
        outages = [outage for outage in outages if not (self.setup.batch and outage.name.startswith("429"))]
        user = User(number, order, held, fate, outages)
        self.users[order.id] = user
        self.found.counts["orders"] += 1
        return user

    def _expect_known(self, error: Exception) -> None:
        """Only the package's errors may come out, and what it says of a closed client."""
        known = isinstance(error, Sms4SatsError) or str(error) == CLOSED
        self.found.expect(known, "only errors of the package", f"{type(error).__name__}: {error}")

    def _handed(self, user: User) -> Order | str:
        """What a user has kept of the order."""
        stored = json.dumps(user.order.to_dict())
        return self.dice.choice((user.order, Order.from_dict(json.loads(stored)), user.order.id))

    def _begin(self, user: User, hold_window: float) -> Watch:
        user.watch = Watch(anyio.current_time(), hold_window)
        self.found.counts["watches"] += 1
        return user.watch

    # --- the judge -------------------------------------------------------------------------------------------------------------

    def _done(self, user: User, ended: Ended) -> bool:
        """Judge the end of a watch by what the server knows; True when its user has no reason to come back."""
        watch, held, now = user.watch, user.held, anyio.current_time()
        assert watch is not None
        user.watch, user.left_at = None, now
        self._weigh(user, watch, now)
        error = ended.error
        self.found.ends["code" if ended.code is not None else "left" if error is None else type(error).__name__] += 1
        long = now - watch.begin
        bound = WINDOW + watch.hold_window + LAST_STEPS + 15
        self.found.expect(long <= bound, "every watch ends", self._where(user, f"after {long:.0f} s"))
        if ended.code is not None:
            self._judge_code(user, watch, ended.code)
            return self._audited(user)
        self._judge_end(user, watch, ended)
        cut_short = error is None or isinstance(error, OrderUnresolved | CancelRefused | APIError | RuntimeError)
        if held.settled_at <= now:
            in_time = held.settled_at <= max([watch.window_end, *held.looks]) or not isinstance(error, OrderExpired)
            missed = in_time and not cut_short
            self.found.expect(not missed, "no code is lost", self._where(user, repr(error)))
            self.found.counts["came back for it"] += not missed
            return self._audited(user) if missed else False
        if cut_short:
            return held.back_at <= now and self.dice.random() < 0.9 and self._audited(user)
        if isinstance(error, OrderExpired) and not error.cancelled and held.paid_at <= now < held.back_at:
            return False  # it is still open, and said to be
        if now < held.paid_at:
            held.paid_at = NEVER  # who is told that it is over pays no more
        at = held.settled_at
        self.found.expect(at == NEVER, "what is told as over is over", self._where(user, f"{error!r}, and its code is to come"))
        return self._audited(user)

    def _judge_code(self, user: User, watch: Watch, code: str) -> None:
        held, now = user.held, anyio.current_time()
        self.found.expect(code == held.code, "no code is wrong", self._where(user, f"{code} instead of {held.code}"))
        self.found.counts["returned"] += code == held.code
        begin, end = held.settled_at - SHADOW, now
        if watch.begin <= held.settled_at and not any(out.begin < end and begin < out.end for out in (*self.outages, *user.outages)):
            self.found.delays.append(now - held.settled_at)

    def _judge_end(self, user: User, watch: Watch, ended: Ended) -> None:
        held, now, error = user.held, anyio.current_time(), ended.error
        long = now - watch.begin
        told = f"{type(error).__name__} after {long:.1f} s: {error}"
        if isinstance(error, OrderExpired):
            self.found.expect(
                not error.cancelled or held.cancelled_at <= now, "cancelled means that the server confirmed", self._where(user, told)
            )
            window = watch.hold_window if error.paid else WINDOW
            self.found.expect(long >= window - 0.01, "no window ends early", self._where(user, told))
        elif isinstance(error, OrderCancelled):
            self.found.expect(held.back_at <= now, "cancelled means that the server confirmed", self._where(user, told))
            self.found.counts["ended by itself"] += held.cancelled_at > now
        elif isinstance(error, OrderFailed):
            said = held.failed_at <= now or (self.says_ended and held.back_at <= now)
            self.found.expect(said, "failed means that the server said so", self._where(user, told))
        elif isinstance(error, OrderUnresolved):
            may = ended.left_early or watch.loose(now)
            self.found.expect(may, "unresolved only at a window's end or without a client", self._where(user, told))
        elif error is not None:  # the server's own refusal, five times and more; or the client was closed before the first look
            refused = isinstance(error, APIError) and long >= 60
            closed = isinstance(error, RuntimeError) and ended.left_early
            left = isinstance(error, CancelRefused) and ended.left_early
            self.found.expect(refused or closed or left, "a watch ends as documented", self._where(user, told))

    def _weigh(self, user: User, watch: Watch, now: float) -> None:
        """Count what was asked after a minute of 5xx."""
        outages = [*self.outages, *user.outages]
        for outage in outages:
            others = any(other is not outage and other.begin < outage.end and outage.begin < other.end for other in outages)
            begin = max(outage.begin, watch.begin) + 60
            end = min(outage.end, now, watch.window_end, watch.loose_from)
            if outage.name.startswith("5xx") and not others and begin < end:
                self.found.strained_seconds += end - begin
                self.found.strained_looks += sum(begin <= at < end for at in watch.looks)

    def _audited(self, user: User) -> bool:
        """Take a last look at what the server knows of an order whose user is done, and forget it."""
        held, found = user.held, self.found
        found.counts["delivered"] += held.settled_at <= anyio.current_time()
        found.counts["cancelled"] += held.cancelled_at < NEVER
        found.most_requests = max(found.most_requests, user.requests)
        return True

    # --- single watchers -------------------------------------------------------------------------------------------------------

    async def _one_by_one(self) -> None:
        async with anyio.create_task_group() as tasks:
            over = anyio.Event()
            tasks.start_soon(self._keep_a_client, over)
            async with anyio.create_task_group() as users:
                for _ in range(min(self.setup.crowd, self.count)):
                    users.start_soon(self._order_and_watch)
            await self._use_all_lanes(await self._open_client())
            over.set()

    async def _keep_a_client(self, over: anyio.Event) -> None:
        """Have a client open, and close it under its watchers now and then: whoever goes on has nothing but the orders."""
        while not over.is_set():
            async with self.stack.client(self.server.url, max_connections=self.setup.lanes) as client:
                self.client = client
                self.opened.set()
                until = self.restarts.pop(0) if self.restarts else NEVER
                with anyio.CancelScope(deadline=until):
                    await over.wait()
                self.client, self.opened = None, anyio.Event()
            self.found.counts["restarts"] += not over.is_set()
            await anyio.sleep(self.dice.choice((0, 0.5, 20)))

    async def _open_client(self) -> Client:
        if self.client is None:
            await self.opened.wait()
            return await self._open_client()
        return self.client

    async def _order_and_watch(self) -> None:
        while self.numbers:
            number, user = self.numbers.popleft(), None
            while user is None:
                user = await self._placed(await self._open_client(), number)
                await anyio.sleep(self.dice.uniform(0.1, 3))
            ended = await self._watched(user, await self._open_client())
            while not self._done(user, ended):
                await anyio.sleep(self.dice.choice((0.05, 0.05, 5, 60, 400)) * self.dice.uniform(1, 2))
                ended = await self._watched(user, await self._open_client())

    async def _watched(self, user: User, client: Client) -> Ended:
        """Watch an order in one of the ways there are, perhaps until somebody has enough of it."""
        hold_window = user.fate.hold_window
        watch = self._begin(user, hold_window)
        watcher = self.setup.watcher(client, self._handed(user), poll_interval=PACE, hold_window=hold_window)
        ended = Ended()
        in_a_block = functools.partial(self._in_a_block, watch)
        way = self.dice.choice((self._plainly, self._plainly, in_a_block, in_a_block, self._by_iteration, self._together))

        async def watching() -> None:
            try:
                ended.code = await way(watcher)
            except BaseExceptionGroup as group:
                ended.error = RuntimeError(repr(group))
                self.found.expect(False, "no exception group", self._where(user, repr(group)))
            except (Sms4SatsError, RuntimeError) as error:
                self._expect_known(error)
                ended.error = error.with_traceback(None)

        chance = self.dice.random()
        if chance < 0.12:
            await self._until_cancelled(watching, self.dice.uniform(0, 150))
        elif chance < 0.24:
            with anyio.move_on_after(self.dice.uniform(0, 150)):
                await watching()
        elif chance < 0.30:
            await self._until_cancelled_in_between(watching, watcher, user, watch)
        else:
            await watching()
        ended.left_early = client is not self.client
        return ended

    async def _plainly(self, watcher: OrderWatcher) -> str:
        return await watcher.code()

    async def _in_a_block(self, watch: Watch, watcher: OrderWatcher) -> str:
        async with watcher:
            try:
                with suppress(OrderError):  # the code may come without a number; any other end, code() tells again
                    await watcher.number()
                return await watcher.code()
            finally:
                watch.loose_from = anyio.current_time()  # leaving asks for a cancel

    async def _by_iteration(self, watcher: OrderWatcher) -> str:
        async for _ in watcher:
            pass
        assert watcher.status is not None
        return watcher.status.code or ""

    async def _together(self, watcher: OrderWatcher) -> str:
        """Several tasks wait on one watcher."""
        errors: list[Exception] = []

        async def quietly(wait: Callable[[], Awaitable[object]]) -> None:
            try:
                await wait()
            except (Sms4SatsError, RuntimeError) as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for wait in (watcher.number, watcher.code, watcher.paid):
                tasks.start_soon(quietly, wait)
        return await watcher.code()

    async def _until_cancelled(self, watching: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Cancel the watching task, natively where the backend can, once or twice."""
        if not _on_asyncio():
            with anyio.move_on_after(seconds):
                await watching()
            return
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(watching())
        timers = [loop.call_later(at, task.cancel) for at in (seconds, seconds + self.dice.choice((0.0, 0.001, 1.0)))]
        await asyncio.wait({task})
        for timer in timers:
            timer.cancel()
        if not task.cancelled():
            task.result()

    async def _until_cancelled_in_between(
        self, watching: Callable[[], Awaitable[None]], watcher: OrderWatcher, user: User, watch: Watch
    ) -> None:
        """Watch, and cancel the order after a while."""

        async def cancel() -> None:
            await anyio.sleep(self.dice.uniform(5, 200))
            watch.loose_from = anyio.current_time()
            try:
                await watcher.cancel(when_allowed=self.dice.random() < 0.5)
            except (Sms4SatsError, RuntimeError) as error:
                self._expect_known(error)
            else:
                confirmed = user.held.back_at <= anyio.current_time()
                self.found.expect(confirmed, "cancelled means that the server confirmed", self._where(user, "cancel() returned"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            await watching()
            tasks.cancel_scope.cancel()

    async def _use_all_lanes(self, client: Client) -> None:
        """Have as many requests as there are lanes at the server at once."""
        there, late, all_there = 0, 0, anyio.Event()

        async def together(reply: Reply, answer: bytes) -> None:
            nonlocal there, late
            there += 1
            if there == self.setup.lanes:
                all_there.set()
            with anyio.move_on_after(5) as waiting:
                await all_there.wait()
            late += waiting.cancelled_caught
            await reply.raw(answer)

        self.together = together
        answers: list[bool] = []

        async def ask() -> None:
            answers.append(await client.is_available())

        async with anyio.create_task_group() as tasks:
            for _ in range(self.setup.lanes):
                tasks.start_soon(ask)
        usable = sum(answers)
        kept = usable == self.setup.lanes and not late
        self.found.expect(kept, "no lane is lost", f"{usable} answered, and {late} waited for the others in vain")

    # --- batches ---------------------------------------------------------------------------------------------------------------

    async def _in_batches(self) -> None:
        """Watch all orders in batches: the first are left early, or their clients closed under them."""
        again: deque[User] = deque()
        open_orders = True
        while open_orders:
            until = self.restarts.pop(0) if self.restarts else NEVER
            closing = self.dice.random() < 0.5
            hold_window = self.dice.choice((WINDOW, WINDOW, 200.0))
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(self.stack.client(self.server.url, max_connections=self.setup.lanes))
                orders = self._orders(client, again, hold_window)
                batch = BatchWatcher(
                    client,
                    orders,
                    poll_interval=PACE,
                    hold_window=hold_window,
                    max_watching=self.setup.crowd,
                    cancel_on_exit=self.dice.random() < 0.5,
                )
                closed = await self._read(batch, client, until if closing else NEVER, until, again)
                if not closed:
                    await self._use_all_lanes(client)
            open_orders = until < NEVER
            self.found.counts["restarts"] += open_orders

    @contextmanager
    def _to_its_end(self, closed: Callable[[], bool]) -> Iterator[None]:
        """A batch whose client is closed says so, if it had not taken all of its orders."""
        try:
            yield
        except RuntimeError as error:
            self.found.expect(closed(), "nothing is raised by a batch whose client is open", repr(error))

    async def _read(self, batch: BatchWatcher, client: Client, close_at: float, leave_at: float, again: deque[User]) -> bool:
        """Read the outcomes until all orders are done, or it is time to go; True if the client was closed."""
        closed = False

        def read(order: Order, code: str | None, error: Exception | None) -> None:
            user = self.users[order.id]
            if not self._done(user, Ended(code, error, left_early=closed or leaving)):
                again.append(user)

        async def close() -> None:
            nonlocal closed
            await anyio.sleep_until(close_at)
            closed = True
            await client.aclose()

        leaving = False
        async with anyio.create_task_group() as tasks:
            if close_at < NEVER:
                tasks.start_soon(close)
            with self._to_its_end(lambda: closed):
                async with batch:
                    with self._to_its_end(lambda: closed):
                        async for outcome in batch:
                            read(outcome.order, outcome.code, outcome.error)
                            if anyio.current_time() >= leave_at:
                                break
                    leaving = True
                    for watch in self._watched_now():
                        watch.loose_from = anyio.current_time()
            for outcome in batch.unread:
                read(outcome.order, outcome.code, outcome.error)
            tasks.cancel_scope.cancel()
        without = len(self._watched_now())
        self.found.expect(not without, "every order in a batch has its outcome", f"{without} have none")
        return closed

    async def _orders(self, client: Client, again: deque[User], hold_window: float) -> AsyncIterator[Order | str]:
        """Those that are to be watched again, and new ones, until all orders of the wave are done."""
        while True:
            if again:
                yield self._again(again.popleft(), hold_window)
            elif self.numbers:
                user = await self._placed(client, self.numbers[0])
                if user is None:
                    await anyio.sleep(1)  # in an outage of the whole service: its refusals take no time, and so it would never end
                    continue
                self.numbers.popleft()  # not before: leaving the block ends us where we wait
                self._begin(user, hold_window)
                yield user.order
            elif self._watched_now():
                await anyio.sleep(5)
            else:
                return

    def _watched_now(self) -> list[Watch]:
        return [user.watch for user in self.users.values() if user.watch is not None]

    def _again(self, user: User, hold_window: float) -> Order | str:
        self._begin(user, hold_window)
        return self._handed(user)


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# --- a run -------------------------------------------------------------------------------------------------------------------------


async def soak(setup: Setup) -> Found:
    """Let so many orders live, wave after wave, and return what was found."""
    found = Found()
    dice = random.Random(setup.seed)  # noqa: S311 - faults, not secrets
    random.seed(setup.seed)  # the client's own dice
    began, real, cpu = anyio.current_time(), time.perf_counter(), time.process_time()
    for first in range(0, setup.orders, setup.wave):
        before = _belongings()
        await Wave(setup, found, range(first, min(first + setup.wave, setup.orders)), dice).run()
        gc.collect()
        after = _belongings()
        for what, many in after.items():
            found.expect(many <= before[what], f"no {what} is left", f"{many} after a wave, {before[what]} before it")
        found.memory.append(Memory(_held(), _resident(), tracemalloc.get_traced_memory()[0]))
    found.virtual_seconds = anyio.current_time() - began
    found.real_seconds, found.cpu_seconds = time.perf_counter() - real, time.process_time() - cpu
    lost = found.counts["delivered"] - found.counts["returned"]
    found.expect(lost == 0, "every code delivered is returned", f"{lost} are not")
    most = next((DELAYS[faults] for faults in sorted(DELAYS) if setup.faults <= faults), NEVER)
    late = sum(delay > most for delay in found.delays)
    in_time = late <= max(2, 0.05 * len(found.delays))  # two of a few orders mean nothing
    found.expect(in_time, "95 % of the codes are in time", f"{late} of {len(found.delays)} took more than {most} s")
    found.expect(not found.strain > 1, "one look in 15 s after a minute of 5xx", f"{found.strain:.2f}")
    for growth, what in ((found.growth.held, "held"), (found.growth.traced, "traced")):
        found.expect(growth <= GROWTH, "memory does not grow", f"{what}: by {growth / 1024:.0f} KiB")
    return found


def _belongings() -> dict[str, int]:
    """What the process has open, and what runs in it."""
    if _on_asyncio():
        tasks = len(asyncio.all_tasks())
    else:
        import trio

        tasks = trio.lowlevel.current_statistics().tasks_living
    return {"descriptor": len(list(Path("/proc/self/fd").iterdir())), "task": tasks, "thread": threading.active_count()}


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and newer: see its manual page."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


def _held() -> int:
    """Bytes that are allocated and not freed. While CPython's allocator is in use, all that is resident counts as held."""
    if not _counted():
        return _resident()
    tell = ctypes.CDLL(None).mallinfo2
    tell.restype = _MallInfo
    told = tell()
    return int(told.uordblks) + int(told.hblkhd)


def _counted() -> bool:
    """Does everything go through the C library's allocator, and does that one count?"""
    return os.environ.get("PYTHONMALLOC") == "malloc" and hasattr(ctypes.CDLL(None), "mallinfo2")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


def run(setup: Setup, backend: str) -> Found:
    """Run it in virtual time on this backend."""
    return anyio.run(soak, setup, backend=backend, backend_options=in_virtual_time(backend))


def main() -> int:
    """Run a soak, print what it came to, and return the exit code."""
    options = argparse.ArgumentParser(description="thousands of orders under random faults, judged by what the server knows")
    options.add_argument("--orders", type=int, default=3000)
    options.add_argument("--faults", type=int, default=30, help="probability of a fault at each request, in percent")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    watchers = options.add_mutually_exclusive_group()
    watchers.add_argument("--single", action="store_true", help="an OrderWatcher for each order (the default)")
    watchers.add_argument("--batch", action="store_true", help="a BatchWatcher for all of them")
    options.add_argument("--aiohttp", action="store_true", help="over aiohttp's transport, not over our own lanes")
    options.add_argument("--memory", action="store_true", help="trace memory as well: half as fast")
    options.add_argument("--json", action="store_true", help="one line of JSON, and nothing else")
    chosen = options.parse_args()
    if "PYTHONMALLOC" not in os.environ:  # it is read when the interpreter starts
        again = [sys.executable, "-m", "tests.soak", *sys.argv[1:]]
        return subprocess.run(again, check=False, env=os.environ | {"PYTHONMALLOC": "malloc"}).returncode
    gc.freeze()  # all that was imported
    if chosen.memory:
        tracemalloc.start()
    setup = Setup(chosen.orders, chosen.faults, chosen.seed, chosen.batch, chosen.aiohttp)
    found = run(setup, chosen.backend)
    figures = {"options": vars(chosen), **found.figures()}
    sys.stdout.write(json.dumps(figures) + "\n" if chosen.json else _table(figures))
    return 1 if found.broken else 0


def _table(figures: dict[str, Any]) -> str:
    lines = []
    for name, value in figures.items():
        shown = f"{value:.3f}" if isinstance(value, float) else value
        if isinstance(value, dict):
            shown = ", ".join(f"{each} {many}" for each, many in value.items()) or "nothing"
        lines += [f"  {example}" for example in value] if isinstance(value, list) else [f"{name:<40}{shown}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    logging.getLogger("sms4sats_async").setLevel(logging.ERROR)  # it warns of each order that is left open
    sys.exit(main())
