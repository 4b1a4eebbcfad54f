"""What it costs to watch 100, 1,000, 10,000 and 50,000 orders in one process, beside the loops that a user would write instead.

    python -m benchmarks.scale [--orders 100,1000,10000] [--seconds 60] [--rounds 3] [--only cpu|memory|lateness|delay]
                               [--transport lanes|aiohttp] [--json]

Whoever watches has a process of its own, fresh for each measurement, and a loopback server of its own beside it, which does the
counting. "batch" is one ``BatchWatcher``, "single" an ``OrderWatcher`` in a task of its own for each order; the others are a task for
each order that loops over ``get(...).json()`` and ``asyncio.sleep(interval)``, and goes on after an exception.

**CPU per poll**, twice, because a poll that has to wake an idle process costs more than one that finds it busy:

* busy: for each number of orders more polls are due than can be made (10,000 in a second), so that nobody idles, and polls per second
  are as many as the CPU allows. An interval is 1 s at least, which 100 orders cannot keep busy: our watchers get a loop whose clock
  runs 100 times as fast then, and nothing else is changed. The processes are measured by turns; the others stand still meanwhile.
* paced: 100 polls per second for each number of orders, 100 orders at 1 s and 10,000 at 100 s, by the real clock. After its first poll
  an order waits for a random part of the interval, so that the polls are spread evenly from then on. All processes are measured at the
  same time.

A window of measuring begins when each order was polled once (the loops: within 5 s); garbage was collected before the first. A ratio is
to the least number of orders in the same window. Whoever cannot say within a minute or so that it is ready has no figures.

**Memory** per order: what was allocated (by ``tracemalloc``), and what is resident, after each order's first poll and beyond the
orders themselves; from the difference of two fresh processes, one with a fifth of the orders, so that fixed costs are left out.

**Lateness**: a batch with ``poll_interval=30`` and ``max_rate=2000``; after each order's first poll ``batch.behind`` is looked at every
50 ms, for so many seconds. The server's longest gap between two polls of one order can be at most 33 s by the rules, and more only by
lateness.

**Delay** of a code: from when the server has it to when the caller has it, for a tenth of the orders, over 15 s; the interval is 2 s, or
as much as makes 500 polls per second. Of polls that are on time half are within half an interval.
The last line is JSON, with every window in it.
"""

import argparse
import asyncio
import gc
import itertools
import json
import logging
import math
import os
import random
import resource
import select
import selectors
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from benchmarks._code_server import code_at, code_server, moment_of
from benchmarks._contenders import AIOHTTP, CONTENDERS, HTTPX, Place
from benchmarks._report import line_of_json, spread, table
from benchmarks._serving import StatusServer
from sms4sats_async import BatchWatcher, Client, Order, OrderStatus, OrderWatcher

BUSY = 10_000  # polls due per second: more than can be made
PACED = 100  # polls per second: what 100 orders can come to
WINDOW = {"busy": 0.4, "paced": 4.0}  # seconds
WARM_UP_OF_LOOPS = 5.0  # seconds
FASTEST = 1.0  # seconds from one poll of an order to the next, at the least, for our watchers
TIMEOUT = 1e6  # seconds, of a clock that may run a hundred times as fast
MANY = 50_000
RARELY = 1000.0  # seconds: nothing is polled a second time while memory is measured
INTERVAL, RATE = 30.0, 2000.0  # of the batch whose lateness is measured
SPREAD = 0.1  # how much our watchers vary an interval
SETTLE = 0.3  # seconds
CATCH_UP = 2.0  # seconds, for second polls that came due while the first ones were made
GLANCE = 0.05  # seconds from one look at the lateness to the next
DELAYED_POLLS = 500  # per second, where the delay of codes is measured
CODES_FOR = 15.0  # seconds over which the codes come
BATCH, SINGLE, SEMAPHORE = "batch", "single", "httpx, semaphore of 10"
OURS = (BATCH, SINGLE)
dice = random.Random(1)  # noqa: S311 - for times, not for secrets
CHILD = "import sys; from benchmarks.scale import child; child(sys.argv[1])"


@dataclass(frozen=True)
class Setup:
    """What one process is to do."""

    watcher: str
    orders: int
    interval: float
    """Seconds from one poll of an order to the next, of the process's own clock."""
    transport: str = "lanes"
    haste: float = 1.0
    """How many times as fast as the real one its clock runs."""
    evenly: bool = False
    """Spread the polls over the interval."""

    @classmethod
    def busy(cls, watcher: str, orders: int, transport: str = "lanes") -> "Setup":
        """More polls are due than can be made."""
        interval = orders / BUSY
        haste = max(1.0, FASTEST / interval) if watcher in OURS else 1.0
        return cls(watcher, orders, interval * haste, transport, haste)

    @classmethod
    def paced(cls, watcher: str, orders: int, transport: str = "lanes") -> "Setup":
        """A hundred polls per second, or as many as there are orders."""
        return cls(watcher, orders, max(FASTEST, orders / PACED), transport, evenly=True)


@dataclass(frozen=True)
class Window:
    """What was seen in a window of time."""

    seconds: float
    polls: int
    cpu_us: float
    """CPU time of the watching process, in microseconds per poll."""
    failures: int


@dataclass
class Tally:
    """What came of the polls."""

    codes: dict[str, float] = field(default_factory=dict)
    """When the caller had an order's code, by the monotonic clock."""
    failures: Counter[str] = field(default_factory=Counter)

    def arrived(self, order_id: str) -> None:
        """Note that the caller has this order's code."""
        self.codes[order_id] = time.monotonic()


# --- who watches -------------------------------------------------------------------------------------------------------------------

Watching = Callable[[Setup, str, Sequence[Order], Tally], AbstractAsyncContextManager[None]]
"""Watches these orders at the server of this URL, for the time of the block."""


@asynccontextmanager
async def _client(setup: Setup, url: str) -> AsyncIterator[Client]:
    if setup.transport == "lanes":
        async with Client(base_url=url, timeout=TIMEOUT) as client:
            yield client
        return
    import httpx_aiohttp  # noqa: PLC0415 - it and aiohttp would be in the memory of those who do not use them

    over = httpx_aiohttp.AiohttpTransport(limits=httpx.Limits())
    async with over as transport, Client(base_url=url, timeout=TIMEOUT, transport=transport) as client:
        yield client


def _terms(setup: Setup) -> dict[str, Any]:
    def evenly(_: OrderStatus, seconds_waited: float) -> float:
        return setup.interval if seconds_waited else setup.interval * dice.random()

    return {
        "hold_window": None,  # 21 minutes are soon over by a clock that runs a hundred times as fast
        "payment_window": None,
        "poll_interval": evenly if setup.evenly else setup.interval,
        "cancel_on_exit": False,
    }


@asynccontextmanager
async def _in_a_batch(setup: Setup, url: str, orders: Sequence[Order], tally: Tally) -> AsyncIterator[None]:
    async def read() -> None:
        async for outcome in batch:
            assert outcome.code is not None, outcome.error
            tally.arrived(outcome.order.id)

    terms = _terms(setup)
    async with (
        _client(setup, url) as client,
        BatchWatcher(client, orders, max_watching=len(orders), **terms) as batch,
        _tasks([read()]),
    ):
        yield


@asynccontextmanager
async def _one_by_one(setup: Setup, url: str, orders: Sequence[Order], tally: Tally) -> AsyncIterator[None]:
    terms = _terms(setup)

    async def watch(order: Order) -> None:
        await OrderWatcher(client, order, **terms).code()
        tally.arrived(order.id)

    async with _client(setup, url) as client, _tasks([watch(order) for order in orders]):
        yield


def _loops(name: str) -> Watching:
    """What a user would write with another library."""

    @asynccontextmanager
    async def watching(setup: Setup, url: str, orders: Sequence[Order], tally: Tally) -> AsyncIterator[None]:
        async def watch(order_id: str) -> None:
            if setup.evenly:
                await asyncio.sleep(setup.interval * dice.random())
            while True:
                try:
                    status = await call(order_id)
                except Exception as error:  # noqa: BLE001 - whatever it is, a program that is to last goes on
                    tally.failures[type(error).__name__] += 1
                else:
                    if isinstance(status, dict) and status.get("code"):
                        break
                await asyncio.sleep(setup.interval)
            tally.arrived(order_id)

        async with CONTENDERS[name].open(Place(url)) as call, _tasks([watch(order.id) for order in orders]):
            yield

    return watching


WATCHERS: dict[str, Watching] = {
    BATCH: _in_a_batch,
    SINGLE: _one_by_one,
    HTTPX: _loops(HTTPX),
    SEMAPHORE: _loops(SEMAPHORE),
    AIOHTTP: _loops(AIOHTTP),
}


@asynccontextmanager
async def _tasks(work: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """A task for each, cancelled at the end."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    problems = [end for end in ends if isinstance(end, Exception)]
    assert not problems, problems[0]


# --- in the process that watches ---------------------------------------------------------------------------------------------------


class _HastySelector(selectors.DefaultSelector):
    """Waits for as many seconds of a faster clock."""

    def __init__(self, haste: float) -> None:
        super().__init__()
        self._haste = haste

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._haste)


class HastyLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs ``haste`` times as fast as the real one."""

    def __init__(self, haste: float) -> None:
        self._haste = haste
        super().__init__(_HastySelector(haste))

    def time(self) -> float:
        return super().time() * self._haste


def child(task: str) -> None:
    """Do what this JSON says, in a process made for it: ``[what, setup, argument]``."""
    what, setup, argument = json.loads(task)
    chosen = Setup(**setup)
    logging.disable(logging.WARNING)  # that polls are late, and that orders are left open, is meant to be so here
    with code_server() as server, asyncio.Runner(loop_factory=lambda: HastyLoop(chosen.haste)) as runner:
        runner.run(_CHILDREN[what](chosen, server, argument))


async def _measure_windows(setup: Setup, server: StatusServer, stands_still: bool) -> None:  # noqa: FBT001 - the argument in JSON
    """Measure windows as told on stdin: how many of how many seconds. Before and after each order to do so, stand still or go on."""
    tally = Tally()
    async with WATCHERS[setup.watcher](setup, server.url, _orders(setup), tally):
        await _until_polled(setup, server)
        if setup.evenly:
            await asyncio.sleep(CATCH_UP)
        gc.collect()
        _say("ready")
        while line := sys.stdin.readline() if stands_still else await asyncio.to_thread(sys.stdin.readline):
            count, seconds = json.loads(line)
            _say([asdict(await _window(setup, server, seconds, tally)) for _ in range(count)])


async def _window(setup: Setup, server: StatusServer, seconds: float, tally: Tally) -> Window:
    failed, polls, began, before = tally.failures.total(), server.ask("seen"), time.monotonic(), time.process_time()
    await asyncio.sleep(seconds * setup.haste)
    spent, took, polls = time.process_time() - before, time.monotonic() - began, server.ask("seen") - polls
    return Window(took, int(polls), spent / max(1.0, polls) * 1e6, tally.failures.total() - failed)


async def _until_polled(setup: Setup, server: StatusServer) -> None:
    """Wait until each order was polled once; what does without a state for each order needs no longer than its connections do."""
    until = math.inf if setup.watcher in OURS else time.monotonic() + WARM_UP_OF_LOOPS
    while server.ask("orders") < setup.orders and time.monotonic() < until:  # noqa: ASYNC110 - the server has no way to call
        await asyncio.sleep(0.1 * setup.haste)


async def _measure_memory(setup: Setup, server: StatusServer, traced: bool) -> None:  # noqa: FBT001 - the argument in JSON
    """Say how many bytes watching takes, and, if they are traced, where they were allocated."""
    orders = _orders(setup)
    async with WATCHERS[setup.watcher](setup, server.url, orders[:2], Tally()):
        await asyncio.sleep(SETTLE)  # what is imported with a first request is there afterwards
    gc.collect()
    if traced:
        tracemalloc.start()
    resident = _resident()
    async with WATCHERS[setup.watcher](setup, server.url, orders, Tally()):
        while server.ask("orders") < setup.orders:  # noqa: ASYNC110 - the server has no way to call
            await asyncio.sleep(0.1)
        await asyncio.sleep(SETTLE)  # the last replies are on their way
        gc.collect()
        found = {"resident": _resident() - resident, "traced": tracemalloc.get_traced_memory()[0], "lines": _lines() if traced else {}}
    _say(found)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _lines() -> dict[str, int]:
    """Bytes by the line that allocated them."""
    found: Counter[str] = Counter()
    for statistic in tracemalloc.take_snapshot().statistics("lineno"):
        frame = statistic.traceback[0]
        found["/".join(Path(frame.filename).parts[-2:]) + f":{frame.lineno}"] += statistic.size
    return dict(found)


async def _measure_lateness(setup: Setup, server: StatusServer, seconds: float) -> None:
    """Say how late a batch's polls are."""
    client, orders = _client(setup, server.url), _orders(setup)
    async with (
        client as opened,
        BatchWatcher(opened, orders, poll_interval=setup.interval, max_rate=RATE, max_watching=setup.orders, cancel_on_exit=False) as batch,
    ):
        began = time.monotonic()
        await _until_polled(setup, server)
        first_polls = time.monotonic() - began
        server.ask("gap")
        glances = asyncio.create_task(_glances(batch, seconds))
        window = await _window(setup, server, seconds, Tally())
        gap, (lateness, moments) = server.ask("gap"), await glances
        _say(
            {
                "seconds until each was polled": first_polls,
                "behind, s: at most": max(lateness),
                "behind, s: median": statistics.median(lateness),
                "looks at it": len(lateness),
                "from one look to the next, s: at most": max(later - sooner for sooner, later in itertools.pairwise(moments)),
                "gap at the server, s: at most": gap,
                "the same beyond the longest interval": max(0.0, gap - setup.interval * (1 + SPREAD)),
                "polls per s": window.polls / window.seconds,
                "CPU µs per poll": window.cpu_us,
                "CPU s per s": window.cpu_us * window.polls / window.seconds / 1e6,
                "orders lost": setup.orders - batch.watching,
            }
        )


async def _glances(batch: BatchWatcher, seconds: float) -> tuple[list[float], list[float]]:
    """By how much a batch is behind, and when that was seen."""
    lateness, moments = [batch.behind], [time.monotonic()]
    while moments[-1] < moments[0] + seconds:
        await asyncio.sleep(GLANCE)
        lateness.append(batch.behind)
        moments.append(time.monotonic())
    return lateness, moments


async def _measure_delay(setup: Setup, server: StatusServer, seconds: float) -> None:
    """Say how long after the server the caller had each code; a tenth of the orders get one, at random times within so many seconds."""
    tally = Tally()
    first = time.monotonic() + 0.5 + setup.orders / 1000  # when each order was polled once
    codes = [code_at(first + seconds * dice.random(), number) for number in range(max(1, setup.orders // 10))]
    orders = [*map(Order, codes), *_orders(setup)[len(codes) :]]
    dice.shuffle(orders)
    async with WATCHERS[setup.watcher](setup, server.url, orders, tally):
        until = first + seconds + 2 * setup.interval + 5
        while time.monotonic() < until and len(tally.codes) < len(codes):  # noqa: ASYNC110 - nothing here calls at each code
            await asyncio.sleep(0.1)
    delays = [moment - moment_of(order_id) for order_id, moment in tally.codes.items()]
    _say({"interval": setup.interval, "codes": len(codes), "delays": sorted(delays), "failures": dict(tally.failures)})


def _orders(setup: Setup) -> list[Order]:
    return [Order(f"order-{number}") for number in range(setup.orders)]


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


_CHILDREN: dict[str, Callable[[Setup, StatusServer, Any], Coroutine[Any, Any, None]]] = {
    "windows": _measure_windows,
    "memory": _measure_memory,
    "lateness": _measure_lateness,
    "delay": _measure_delay,
}


# --- in the process that asks ------------------------------------------------------------------------------------------------------


class _Child:
    """A process that watches orders, until it is silent for longer than its patience."""

    def __init__(self, process: "subprocess.Popen[str]", patience: float | None) -> None:
        self._process = process
        self._patience = patience
        self._given_up = False

    def hear(self, after: float = 0.0) -> Any:
        """What it says next, ``after`` so many seconds of work; ``None`` when it was silent for too long: its loop gets nowhere."""
        assert self._process.stdout is not None
        limit = None if self._patience is None else self._patience + after
        if not self._given_up and select.select([self._process.stdout], [], [], limit)[0]:
            return json.loads(self._process.stdout.readline())
        self._given_up = True
        self._process.kill()
        return None

    def ask_for_windows(self, count: int, seconds: float) -> None:
        """Have it measure; the windows are what it says next."""
        assert self._process.stdin is not None
        if self._given_up:
            return
        print(json.dumps([count, seconds]), file=self._process.stdin, flush=True)


@contextmanager
def _started(what: str, setup: Setup, argument: object, patience: float | None = None) -> Iterator[_Child]:
    command = [sys.executable, "-c", CHILD, json.dumps([what, asdict(setup), argument])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], text=True) as process:
        try:
            yield _Child(process, patience)
        finally:
            process.kill()  # to cancel thousands of tasks takes bare httpx minutes; the server ends when this process is gone


def _answer(what: str, setup: Setup, argument: object) -> Any:
    with _started(what, setup, argument) as started:
        return started.hear()


# --- CPU per poll ------------------------------------------------------------------------------------------------------------------


def busy_windows(setups: Sequence[Setup], rounds: int, seconds: float = WINDOW["busy"]) -> list[list[Window]]:
    """Windows in which all wanted polls cannot be made; they take turns, the one that begins changing from round to round.

    The first of each is dropped: everybody slept through the wait for the slowest to be ready, and is awake at once.
    """
    taken: list[list[Window]] = [[] for _ in setups]
    with _watching(setups, stands_still=True) as children:
        for turn in range(rounds + 1):
            for at in _turns(len(setups), turn):
                children[at].ask_for_windows(1, seconds)
                taken[at] += _windows(children[at], seconds)
    return [windows[1:] for windows in taken]


def paced_windows(setups: Sequence[Setup], rounds: int, seconds: float = WINDOW["paced"]) -> list[list[Window]]:
    """Windows of a steady pace, of all at the same time."""
    with _watching(setups, stands_still=False) as children:
        for each in children:
            each.ask_for_windows(rounds, seconds)
        return [_windows(each, rounds * seconds) for each in children]


@contextmanager
def _watching(setups: Sequence[Setup], *, stands_still: bool) -> Iterator[list[_Child]]:
    with ExitStack() as stack:
        children = [stack.enter_context(_started("windows", setup, stands_still, 10 + setup.orders / 250)) for setup in setups]
        for each in children:
            each.hear()  # that it is ready
        yield children


def _windows(started: _Child, after: float) -> list[Window]:
    return [Window(**window) for window in started.hear(after) or ()]


def _turns(count: int, turn: int) -> list[int]:
    return [(turn + at) % count for at in range(count)]


def cpu_ratios(
    kind: Literal["batch", "single"],
    few: int = 100,
    many: int = 10_000,
    *,
    rounds: int = 9,
    transport: str = "lanes",
) -> list[float]:
    """CPU time per poll with many orders over that with few, in windows that take turns; both as busy as the CPU allows."""
    of_few, of_many = busy_windows([Setup.busy(kind, orders, transport) for orders in (few, many)], rounds)
    return ratios(of_many, of_few)


def ratios(windows: Sequence[Window], beside: Sequence[Window]) -> list[float]:
    """CPU time per poll of one over that of another, window by window, where both were polled at all."""
    pairs = zip(windows, beside, strict=False)  # whoever was too slow has fewer
    return [own.cpu_us / other.cpu_us for own, other in pairs if own.polls and other.polls]


# --- memory, lateness, delay -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes per watched order, beyond the order itself."""

    traced: float
    """What Python allocated."""
    resident: float
    """What the process grew by."""
    lines: dict[str, float]
    """Where the most of it was allocated."""


def memory(watcher: str, orders: int, transport: str = "lanes") -> Memory:
    """What watching an order takes: the difference of many and a fifth of them, in fresh processes."""
    much, little = _many_and_few(watcher, orders, transport, traced=True)
    large, small = _many_and_few(watcher, orders, transport, traced=False)
    more = orders - orders // 5
    lines = {line: (size - little["lines"].get(line, 0)) / more for line, size in much["lines"].items()}
    most = sorted(lines, key=lines.__getitem__, reverse=True)[:20]
    traced, resident = much["traced"] - little["traced"], large["resident"] - small["resident"]
    return Memory(traced / more, resident / more, {line: lines[line] for line in most})


def memory_per_order(orders: int = 5_000) -> float:
    """Bytes that Python allocates for a watched order of a batch, beyond the order itself."""
    much, little = _many_and_few(BATCH, orders, "lanes", traced=True)
    per_order: float = (much["traced"] - little["traced"]) / (orders - orders // 5)
    return per_order


def _many_and_few(watcher: str, orders: int, transport: str, *, traced: bool) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        setups = [Setup(watcher, count, RARELY, transport) for count in (orders, orders // 5)]
        children = [stack.enter_context(_started("memory", setup, traced)) for setup in setups]
        return [each.hear() for each in children]


def lateness(orders: int = MANY, seconds: float = 60.0, *, interval: float = INTERVAL, transport: str = "lanes") -> dict[str, float]:
    """How late a batch's polls are, after each order's first one, for so many seconds."""
    found: dict[str, float] = _answer("lateness", Setup(BATCH, orders, interval, transport), seconds)
    return found


def delays(
    watcher: str,
    orders: int,
    seconds: float = CODES_FOR,
    *,
    interval: float | None = None,
    transport: str = "lanes",
) -> dict[str, Any]:
    """Seconds from when the server has a code to when the caller has it, with what was expected and what failed."""
    pace = max(2 * FASTEST, orders / DELAYED_POLLS) if interval is None else interval
    found: dict[str, Any] = _answer("delay", Setup(watcher, orders, pace, transport), seconds)
    return found


# --- the report --------------------------------------------------------------------------------------------------------------------


def _report_busy(sizes: Sequence[int], rounds: int, transport: str) -> tuple[str, Any]:
    taken = {name: busy_windows([Setup.busy(name, orders, transport) for orders in sizes], rounds) for name in WATCHERS}
    return _of_windows("busy", sizes, rounds, taken)


def _report_paced(sizes: Sequence[int], rounds: int, transport: str) -> tuple[str, Any]:
    taken = {name: paced_windows([Setup.paced(name, orders, transport) for orders in sizes], rounds) for name in WATCHERS}
    return _of_windows("paced", sizes, rounds, taken)


def _of_windows(mode: str, sizes: Sequence[int], rounds: int, taken: Mapping[str, list[list[Window]]]) -> tuple[str, Any]:
    text = f"CPU per poll, {mode}, {rounds} windows of {WINDOW[mode]} s: median (min-max)\n{_table_of_windows(sizes, taken)}"
    return text, {name: _by_size(sizes, [[asdict(each) for each in windows] for windows in all_]) for name, all_ in taken.items()}


def _table_of_windows(sizes: Sequence[int], taken: Mapping[str, list[list[Window]]]) -> str:
    rows = [["", "orders", "CPU µs per poll", "polls per s", f"to {sizes[0]:,} orders", "failed polls"]]
    for name, all_ in taken.items():
        for orders, windows in zip(sizes, all_, strict=True):
            polled = [each for each in windows if each.polls]
            cpu, pace = (
                spread(figures, ",.0f") for figures in ([each.cpu_us for each in polled], [each.polls / each.seconds for each in windows])
            )
            ratio = "-" if windows is all_[0] else spread(ratios(windows, all_[0]), ".2f")
            rows.append([name, f"{orders:,}", cpu, pace, ratio, f"{sum(each.failures for each in windows):,}"])
    return table(rows)


def _by_size(sizes: Sequence[int], of_each: Sequence[Any]) -> dict[str, Any]:
    return {str(orders): each for orders, each in zip(sizes, of_each, strict=True)}


def _report_memory(sizes: Sequence[int], transport: str) -> tuple[str, Any]:
    measured = [size for size in sizes if size >= 1000]  # with fewer, fixed costs are not told from those of an order
    found = {name: [memory(name, size, transport) for size in measured] for name in (BATCH, SINGLE, SEMAPHORE, AIOHTTP)}
    rows = [["memory, bytes per order", "orders", "allocated", "resident"]]
    for name, all_ in found.items():
        rows += [[name, f"{size:,}", f"{each.traced:,.0f}", f"{each.resident:,.0f}"] for size, each in zip(measured, all_, strict=True)]
    lines = [["where, in a batch", "bytes per order"], *([line, f"{size:,.0f}"] for line, size in _most(found[BATCH]).items())]
    return f"{table(rows)}\n\n{table(lines)}", {name: _by_size(measured, list(map(asdict, all_))) for name, all_ in found.items()}


def _most(found: Sequence[Memory]) -> dict[str, float]:
    return found[-1].lines if found else {}


def _report_delays(sizes: Sequence[int], transport: str) -> tuple[str, Any]:
    found = {name: [delays(name, size, transport=transport) for size in sizes] for name in WATCHERS}
    rows = [["delay of a code, s", "orders", "interval", "median", "95 %", "most", "codes", "failed polls"]]
    for name, all_ in found.items():
        for size, each in zip(sizes, all_, strict=True):
            took = each["delays"]
            figures = [f"{took[int(part * (len(took) - 1))]:.2f}" if took else "-" for part in (0.5, 0.95, 1)]
            codes = f"{len(took)} of {each['codes']}"
            rows.append([name, f"{size:,}", f"{each['interval']:g}", *figures, codes, f"{sum(each['failures'].values()):,}"])
    return table(rows), {name: _by_size(sizes, all_) for name, all_ in found.items()}


def _report_lateness(orders: int, seconds: float, transport: str) -> tuple[str, Any]:
    found = lateness(orders, seconds, transport=transport)
    rows = [[f"lateness of {orders:,} orders, {seconds:g} s", ""], *([name, f"{figure:,.3f}"] for name, figure in found.items())]
    return table(rows), found


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="CPU, memory, lateness and delay as the orders grow, beside what a user would write")
    options.add_argument("--orders", type=_numbers, metavar="N,N", help="of the lateness the last; by default 100,1000,10000, and 50000")
    options.add_argument("--seconds", type=float, default=60.0, help="of lateness")
    options.add_argument("--rounds", type=int, default=3, help="windows of CPU time for each number of orders")
    options.add_argument("--only", choices=["cpu", "memory", "lateness", "delay"])
    options.add_argument("--transport", choices=["lanes", "aiohttp"], default="lanes", help="of our client")
    options.add_argument("--json", action="store_true", help="no tables, only the line of JSON")
    chosen = options.parse_args()
    sizes, most = chosen.orders or [100, 1000, 10_000], (chosen.orders or [MANY])[-1]
    reports: dict[str, Callable[[], tuple[str, Any]]] = {
        "cpu, busy": lambda: _report_busy(sizes, chosen.rounds, chosen.transport),
        "cpu, paced": lambda: _report_paced(sizes, chosen.rounds, chosen.transport),
        "memory": lambda: _report_memory(sizes, chosen.transport),
        "lateness": lambda: _report_lateness(most, chosen.seconds, chosen.transport),
        "delay": lambda: _report_delays(sizes, chosen.transport),
    }
    found = {}
    for name, report in reports.items():
        if chosen.only is None or name.startswith(chosen.only):
            text, found[name] = report()
            if not chosen.json:
                print(text + "\n", flush=True)
    print(line_of_json("scale", {**vars(chosen), "load": os.getloadavg()[0]}, found))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
