"""Clocks and the machine: a wall clock that steps or lies, a machine that slept, a blocked loop, no descriptors left, many polls."""

import asyncio
import gc
import itertools
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import TaskStatus

from sms4sats_async import (
    Client,
    Order,
    OrderExpired,
    OrderFailed,
    Outcome,
    OutcomeUnknown,
    Sms4SatsError,
    TransportError,
)
from tests.conftest import HAS_TRIO
from tests.faults.service import NEVER, WINDOW, Fault, Held, Service, closes, garbage, slow, status, unseen
from tests.faults.stacks import Stack, every_stack
from tests.faults.watching import Watched, alone, either_way, in_a_batch, on_time
from tests.servers import Reply, SeenRequest
from tests.suspension import on_asyncio
from tests.virtual_time import VirtualTimeLoop, in_virtual_time

ROOT = Path(__file__).parents[2]
HOUR = 3600.0
YEAR = 365 * 24 * HOUR
SELDOM = 60.0

# --- the wall clock ----------------------------------------------------------------------------------------------------------------

PROGRAM = """
import datetime, json, sys, time

true_time, off = time.time, [0.0]
time.time = lambda: true_time() + off[0]
time.time_ns = lambda: int(time.time() * 1e9)

class Stepped(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

datetime.datetime = Stepped  # before anybody has taken the name from there

from tests.faults.test_clocks import lives

def step(seconds):
    off[0] += seconds

backend, scripts = json.loads(sys.argv[1])
print(json.dumps([lives(backend, steps, step) for steps in scripts]))
"""
"""A process whose wall clock, and nothing else, steps when a test wants it to. No machine's own clock is touched."""

Steps = list[tuple[float, float]]
"""When the wall clock steps, in seconds of the loop's clock, and by how many seconds."""


def lives(backend: str, steps: Steps, step: Callable[[float], object]) -> list[Any]:
    """What the service saw of four orders while the wall clock stepped, and how each ended: with a code and without, either way."""
    return [
        anyio.run(_life, steps, step, watched, after, backend=backend, backend_options=in_virtual_time(backend))
        for watched in (alone, in_a_batch)
        for after in (1250, 9e9)
    ]


async def _life(steps: Steps, step: Callable[[float], object], watched: Watched, code_after: float) -> list[Any]:
    random.seed(92)  # the spread of the intervals
    service = Service(says_ended=False)
    async with service.serving() as server, Client(base_url=server.url, trust_env=False) as client, anyio.create_task_group() as group:
        order = await client.create_order(187, "tg")
        held = service.pay(order.id, number_after=5, code_after=code_after)

        async def turn_the_clock() -> None:
            for at, seconds in steps:
                await anyio.sleep(at - anyio.current_time())
                step(seconds)

        group.start_soon(turn_the_clock)
        await anyio.sleep(1)
        outcome = await watched(client, Order.from_dict(order.to_dict()), poll_interval=SELDOM)
        ended = outcome.code if outcome.error is None else f"{type(outcome.error).__name__}: {outcome.error}"
    return [ended, held.looks, held.cancels]


THERE_AND_BACK: Steps = [(0.5, HOUR), (100, -2 * HOUR), (700, HOUR), (1240, -HOUR), (1255, 2 * HOUR)]

SCRIPTS: dict[str, Steps] = {
    "quiet": [],
    "steps": THERE_AND_BACK,
    "steps the other way": [(at, -seconds) for at, seconds in THERE_AND_BACK],
    "years ahead": [(0.0, 10 * YEAR)],
    "years behind": [(0.5, -20 * YEAR)],
}


@cache
def lives_under(backend: str) -> dict[str, Any]:
    """What the service saw in a process of its own, while the wall clock did as each of the scripts says."""
    argument = json.dumps([backend, list(SCRIPTS.values())])
    done = subprocess.run([sys.executable, "-c", PROGRAM, argument], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(SCRIPTS, json.loads(done.stdout), strict=True))


on_each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"] if HAS_TRIO else ["asyncio"])
"""For a test that starts a process, whose loop it is."""


@on_each_backend
def test_row_92_a_wall_clock_that_steps_by_an_hour_changes_nothing(backend: str) -> None:
    seen = lives_under(backend)
    with_code, without, *batch = seen["quiet"]
    assert with_code[::2] == ["048213", []]
    assert without[0].startswith("OrderExpired: ")
    assert len(without[2]) == 1
    assert [life[0] for life in batch] == [with_code[0], without[0]]
    assert seen["steps"] == seen["quiet"]  # every look and every cancel, to the microsecond
    assert seen["steps the other way"] == seen["quiet"]


@on_each_backend
def test_row_95_a_date_that_is_wrong_by_years_changes_no_window(backend: str) -> None:
    seen = lives_under(backend)
    assert seen["years ahead"] == seen["quiet"]
    assert seen["years behind"] == seen["quiet"]


# --- the loop's clock --------------------------------------------------------------------------------------------------------------


def jump(seconds: float) -> None:
    """Let time pass in which the loop did nothing, as when somebody's code has blocked it."""
    if on_asyncio():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop._jumping.jumped += seconds
    else:
        import trio
        from trio.testing import MockClock

        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        clock.jump(seconds)


def slept(held: Held, seconds: float) -> None:
    """Let time pass for the service that the loop's clock knows nothing of, as when a laptop was suspended."""
    held.created_at -= seconds
    held.paid_at -= seconds
    held.number_at -= seconds
    held.code_at -= seconds


@either_way
@every_stack
async def test_row_93_a_code_that_came_while_the_machine_slept_is_had_soon_after_waking(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=500.0)
    got: list[float] = []
    async with service.serving() as server, stack.client(server.url) as client, anyio.create_task_group() as group:

        async def watch() -> None:
            assert (await watched(client, held.id)).code == held.code
            got.append(anyio.current_time())

        group.start_soon(watch)
        await anyio.sleep(250)
        slept(held, 600)
        service.next("/orderstatus", unseen(closes))  # no connection outlives that
    assert 250 < got[0] < 265  # 12 s at the most to the next look, and the first after it may have failed


@either_way
@every_stack
async def test_row_93_a_window_that_ended_while_the_machine_slept_only_ends_later(stack: Stack, watched: Watched) -> None:
    service = Service(says_ended=False)
    held = service.order(paid_at=0.0)
    ends: list[Outcome] = []
    async with service.serving() as server, stack.client(server.url) as client, anyio.create_task_group() as group:

        async def watch() -> None:
            ends.append(await watched(client, held.id, poll_interval=SELDOM))

        group.start_soon(watch)
        await anyio.sleep(1000)
        slept(held, 600)
        assert service.holding == []
    assert anyio.current_time() == pytest.approx(WINDOW, abs=1)
    assert isinstance(ends[0].error, OrderExpired)
    assert service.charged == []


@either_way
@every_stack
async def test_row_93_after_a_long_sleep_the_servers_word_is_the_end(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    ends: list[Outcome] = []
    async with service.serving() as server, stack.client(server.url) as client, anyio.create_task_group() as group:

        async def watch() -> None:
            ends.append(await watched(client, held.id))

        group.start_soon(watch)
        await anyio.sleep(250)
        slept(held, 8 * HOUR)
    assert anyio.current_time() < 265
    assert isinstance(ends[0].error, OrderFailed)
    assert held.cancels == []


@either_way
@every_stack
async def test_row_94_only_the_loops_clock_is_asked(stack: Stack, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def watched_over(name: str) -> Callable[..., Any]:
        true = getattr(time, name)

        def ask(*arguments: Any) -> Any:
            asked.append(f"{sys._getframe(1).f_globals.get('__name__')} asks time.{name}")
            return true(*arguments)

        return ask

    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep"):
        monkeypatch.setattr(time, name, watched_over(name))
    service = Service(says_ended=False)
    held = service.order(paid_at=0.0)
    began = time.perf_counter()
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, poll_interval=SELDOM)
    assert isinstance(outcome.error, OrderExpired)
    assert [one for one in asked if one.startswith("sms4sats_async")] == []
    assert asked != []  # httpcore does, and aiohttp
    assert held.cancels == on_time([WINDOW])
    assert all(SELDOM * 0.9 - 0.01 <= after - before <= SELDOM * 1.1 + 0.01 for before, after in itertools.pairwise(held.looks[:-2]))
    assert time.perf_counter() - began < 30  # of 1,260


@either_way
@every_stack
async def test_row_98_after_a_block_of_a_minute_there_is_one_look_at_once(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=70.0)
    async with service.serving() as server, stack.client(server.url) as client, anyio.create_task_group() as group:

        async def block() -> None:
            await anyio.sleep(20.5)
            jump(60)

        group.start_soon(block)
        outcome = await watched(client, held.id)
    assert outcome.code == held.code
    after = [at for at in held.looks if at > 20.5]
    assert after == pytest.approx([80.5], abs=0.1)


@either_way
@every_stack
async def test_row_98_a_request_that_is_made_after_the_block_has_all_its_time(stack: Stack, watched: Watched) -> None:
    service = Service(lambda request, about: slow(9) if anyio.current_time() > 80 else None)
    held = service.order(paid_at=0.0, code_at=70.0)
    async with service.serving() as server, stack.client(server.url, timeout=10) as client, anyio.create_task_group() as group:

        async def block() -> None:
            await anyio.sleep(20.5)
            jump(60)

        group.start_soon(block)
        outcome = await watched(client, held.id)
        assert anyio.current_time() == pytest.approx(89.5, abs=0.1)
    assert outcome.code == held.code
    assert held.looks[-1] == pytest.approx(80.5, abs=0.1)


async def blocked(reply: Reply, answer: bytes) -> None:
    """A fault: while a request is under way the loop is blocked for a minute, and the answer lies in the socket then."""
    jump(60)
    await reply.raw(answer)


@either_way
@every_stack
async def test_row_98_a_block_during_a_request_costs_that_look_at_the_most(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=30.0)
    service.next("/orderstatus", None, blocked)
    async with service.serving() as server, stack.client(server.url, timeout=10) as client:
        outcome = await watched(client, held.id)
        assert anyio.current_time() < 66
    assert outcome.code == held.code
    assert held.most_at_once == 1


@every_stack
async def test_row_98_a_block_during_a_call_that_spends_costs_no_order(stack: Stack) -> None:
    service = Service()
    service.next("/createorder", blocked)
    async with service.serving() as server, stack.client(server.url, api_key="sk-planted", timeout=10) as client:
        bought = await client.create_order(187, "tg", immediate=True)
        assert service.charged == [bought.id]
        assert service.asked["/createorder"] == 1


# --- the machine -------------------------------------------------------------------------------------------------------------------


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process can open nothing: what is open stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@every_stack
async def test_row_96_without_descriptors_nothing_is_sent_and_nothing_is_charged(stack: Stack) -> None:
    service = Service()
    async with service.serving() as server, stack.client(server.url, api_key="sk-planted") as client:
        with no_descriptors_left():
            with pytest.raises(TransportError, match="Too many open files") as read:
                await client.get_balance()
            with pytest.raises(TransportError, match="Too many open files") as spent:
                await client.create_order(187, "tg", immediate=True)
        assert type(read.value) is TransportError
        # Through a transport of the user's nobody can prove that nothing was sent.
        assert type(spent.value) is (TransportError if stack.own_lanes else OutcomeUnknown)
        assert service.requests == []
        assert (await client.create_order(187, "tg", immediate=True)).id in service.charged
    assert len(service.charged) == 1


@either_way
@every_stack
async def test_row_96_a_watch_polls_on_until_there_are_descriptors_again(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=10.0)
    async with service.serving() as server, stack.client(server.url) as client, anyio.create_task_group() as group:

        async def starve(*, task_status: TaskStatus[None]) -> None:
            with no_descriptors_left():
                task_status.started()
                await anyio.sleep(40)
                assert service.requests == []

        await group.start(starve)
        outcome = await watched(client, held.id)
        assert 40 <= anyio.current_time() < 75
    assert outcome.code == held.code


MEASURED = range(45, 334, 36)
"""After how many polls the memory is measured. Every third poll fails, and these do, in the same way each: the last failure is kept, and
one kind takes more than another."""

FAILURES: list[Fault] = [status(503, b"<html>"), garbage, closes]


@either_way
async def test_row_97_a_poll_leaves_nothing_behind(watched: Watched) -> None:
    blocks: list[int] = []
    polls = itertools.count(1)

    def plan(request: SeenRequest, about: Held | None) -> Fault | None:
        assert about is not None
        for counted in (about.looks, service.requests, server.requests, server._connections):  # what the judge notes grows, of course
            counted.clear()
        poll = next(polls)
        if poll in MEASURED:
            gc.collect()
            sys._clear_type_cache()  # it keeps some 4,000 names, one of each exception group that trio has taken apart among them
            blocks.append(sys.getallocatedblocks())
            kept = [one for one in gc.get_objects() if type(one) is httpx.Response]
            assert kept == []  # a traceback of the last error would hold one
            about.code_at = anyio.current_time() if poll == MEASURED[-1] else about.code_at
        return FAILURES[poll // 3 % 3] if poll % 3 == 0 else None

    service = Service(plan)
    held = service.order(paid_at=0.0, window=NEVER)
    gc.freeze()  # what was there before is of no interest, and much
    async with service.serving() as server, Client(base_url=server.url, trust_env=False) as client:
        outcome = await watched(client, held.id, hold_window=None, poll_interval=1)
    gc.unfreeze()
    assert outcome.code == held.code
    growth = sorted(after - before for before, after in itertools.pairwise(blocks))
    assert growth[len(growth) // 2] < 10, growth  # one object for each failed poll would be 12; now and then an allocator grows


@either_way
@every_stack
async def test_row_97_the_last_failure_is_the_cause_of_the_end_without_its_traceback(stack: Stack, watched: Watched) -> None:
    service = Service(lambda request, about: garbage if anyio.current_time() > 1 else None)
    held = service.order(paid_at=0.0, window=NEVER)
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=100)
    assert outcome.error is not None
    cause = outcome.error.__cause__
    assert isinstance(cause, Sms4SatsError)
    while cause is not None:
        assert cause.__traceback__ is None
        cause = cause.__cause__ or cause.__context__
