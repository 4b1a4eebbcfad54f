"""A shortened soak keeps every promise; and the judge is judged: whatever a watcher does wrong, the soak tells."""

import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import anyio
import pytest

from sms4sats_async import Client, Order, OrderCancelled, OrderExpired, OrderFailed, OrderUnresolved, OrderWatcher, Sms4SatsError
from tests import soak as soaking
from tests.conftest import HAS_TRIO
from tests.faults.service import NEVER, WINDOW, Fault, Held, Service, slow, status
from tests.faults.stacks import Stack, every_stack
from tests.servers import SeenRequest
from tests.soak import Fate, Found, Memory, Setup, soak

BACKENDS = ["asyncio", "trio"] if HAS_TRIO else ["asyncio"]


@pytest.fixture(autouse=True)
def own_dice() -> Iterator[None]:
    """A soak seeds the dice of the whole process."""
    state = random.getstate()
    yield
    random.setstate(state)


# --- the promises ------------------------------------------------------------------------------------------------------------------


@pytest.mark.measured("on both loops")
@every_stack
@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
async def test_a_short_soak_keeps_every_promise(stack: Stack, batch: bool) -> None:
    found = await soak(Setup(orders=24, faults=30, seed=3, batch=batch, aiohttp=not stack.own_lanes, wave=12))
    assert found.examples == []
    assert found.broken == {}
    assert found.counts["returned"] == found.counts["delivered"] > 10
    assert found.counts["restarts"] >= 2
    assert len(found.struck) > 15
    assert found.shortest_gap >= 1 - 0.01


async def test_other_types_say_the_same() -> None:
    told: list[Any] = []

    class Reply:
        async def json(self, answer: Any) -> None:
            told.append(answer)

    answer = b'HTTP/1.1 200 OK\r\n\r\n{"paid": true, "number": "15550001111", "code": "048213", "id": 12}'
    await soaking.retyped(Reply(), answer)  # type: ignore[arg-type]  # all that it needs of one
    assert told == [{"paid": True, "number": 15550001111, "code": "048213", "id": "+12"}]


# --- the judge ---------------------------------------------------------------------------------------------------------------------


def soon(dice: random.Random, short: bool) -> Fate:
    """Every code comes soon, which takes little time; three numbers in ten are not to be had."""
    fate = Fate(pay_after=5, number_after=5)
    if dice.random() < 0.3:
        fate.fail_after = 20
    else:
        fate.code_after = dice.uniform(30, 60)
    return fate


def at_the_end(dice: random.Random, short: bool) -> Fate:
    """Every code comes in the last seconds of a short window, mostly after the last look but one."""
    return Fate(pay_after=0, number_after=5, hold_window=60, code_after=59.5)


def paid_late(dice: random.Random, short: bool) -> Fate:
    """Every code comes soon after a payment that takes its time."""
    return Fate(pay_after=dice.choice((5, 60)), number_after=5, code_after=50)


def never(dice: random.Random, short: bool) -> Fate:
    """No code comes."""
    return Fate(pay_after=5, number_after=5, hold_window=150)


def in_an_outage(dice: random.Random, short: bool) -> Fate:
    """Every order meets two minutes of error pages."""
    return Fate(pay_after=5, number_after=5, code_after=150, outage=(10, 130, "5xx 503"))


class Broken(OrderWatcher):
    """A watcher with something wrong; ``kept`` is what it keeps and should not."""

    kept: list[Any]

    def __init__(self, client: Client, order: Order | str, *, hold_window: float, **options: Any) -> None:
        super().__init__(client, order, hold_window=hold_window, **options)
        self.client = client
        self.hold_window = hold_window


class NoLastLook(Broken):
    async def code(self) -> str:
        await self.paid()
        with anyio.move_on_after(self.hold_window - 0.1):
            return await super().code()
        raise OrderExpired("no look at the end", paid=True)


class SaysCancelled(Broken):
    async def code(self) -> str:
        await self.number()
        raise OrderExpired("nobody was asked", paid=True, cancelled=True)


class CancelsNothing(Broken):
    async def cancel(self, when_allowed: bool = False) -> None:  # noqa: ARG002 - as in the watcher
        await anyio.lowlevel.checkpoint()


class SaysItCancelled(Broken):
    async def code(self) -> str:
        await self.number()
        raise OrderCancelled("nobody was asked")


class SaysFailed(Broken):
    async def code(self) -> str:
        await self.number()
        raise OrderFailed("nobody said so")


class EndsEarly(Broken):
    async def code(self) -> str:
        with anyio.move_on_after(20):
            return await super().code()
        raise OrderExpired("20 s are enough", paid=True)


class NeverEnds(Broken):
    async def code(self) -> str:
        try:
            return await super().code()
        except OrderFailed:
            await anyio.sleep(5000)
            raise


class Unresolved(Broken):
    async def code(self) -> str:
        await self.number()
        if self.order.id in self.kept:
            return await super().code()
        self.kept.append(self.order.id)
        raise OrderUnresolved("too early")


class WrongCode(Broken):
    async def code(self) -> str:
        return str(int(await super().code()))


class LateCode(Broken):
    async def code(self) -> str:
        code = await super().code()
        await anyio.sleep(31)
        return code


class Twice(Broken):
    async def code(self) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.client.get_order_status, self.order.id)
            tasks.start_soon(self.client.get_order_status, self.order.id)
        return await super().code()


class Hasty(Broken):
    async def code(self) -> str:
        while True:
            status = await self.client.get_order_status(self.order.id)
            if status.code is not None:
                return status.code
            await anyio.sleep(0.5)


class Stubborn(Broken):
    async def code(self) -> str:
        while True:
            with suppress(Sms4SatsError):
                if (code := (await self.client.get_order_status(self.order.id)).code) is not None:
                    return code
            await anyio.sleep(2)


class InBackground(Broken):
    async def code(self) -> str:
        code = await super().code()

        async def look_again() -> None:
            await anyio.sleep(1)
            await self.client.get_order_status(self.order.id)

        self.kept.append(asyncio.ensure_future(look_again()))
        return code


class Groups(Broken):
    async def code(self) -> str:
        code = await super().code()
        if self.order.id in self.kept:
            return code
        self.kept.append(self.order.id)
        raise BaseExceptionGroup("", [OrderFailed("in a group")])


class NotOurs(Broken):
    async def code(self) -> str:
        code = await super().code()
        if self.order.id in self.kept:
            return code
        self.kept.append(self.order.id)
        raise RuntimeError("not of the package")


class TakesLanes(Broken):
    async def code(self) -> str:
        if self.client not in self.kept:
            self.kept.append(self.client)
            self.client._transport._permits_of_this_loop().acquire_nowait()
        return await super().code()


class LeavesConnections(Broken):
    async def code(self) -> str:
        another = Client(base_url=self.client._transport.base_url, trust_env=False)
        self.kept.append(another)
        await another.is_available()
        return await super().code()


class LeavesTasks(Broken):
    async def code(self) -> str:
        self.kept.append(asyncio.ensure_future(anyio.sleep_forever()))
        return await super().code()


class LeavesThreads(Broken):
    async def code(self) -> str:
        self.kept.append(threading.Event())
        threading.Thread(target=self.kept[-1].wait, daemon=True).start()
        return await super().code()


class Hoards(Broken):
    async def code(self) -> str:
        self.kept.append(b"x" * (8 << 20))  # more than a heap has in reserve
        return await super().code()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize(
    ("watcher", "promises"),
    [
        (NoLastLook, {"no code is lost", "every code delivered is returned"}),
        (SaysCancelled, {"cancelled means that the server confirmed", "what is told as over is over", "no window ends early"}),
        (CancelsNothing, {"cancelled means that the server confirmed"}),
        (SaysItCancelled, {"cancelled means that the server confirmed", "what is told as over is over"}),
        (SaysFailed, {"failed means that the server said so"}),
        (EndsEarly, {"no window ends early"}),
        (NeverEnds, {"every watch ends"}),
        (Unresolved, {"unresolved only at a window's end or without a client"}),
        (WrongCode, {"no code is wrong", "every code delivered is returned"}),
        (LateCode, {"95 % of the codes are in time"}),
        (Twice, {"one request at a time for an order"}),
        (Hasty, {"looks are a second apart"}),
        (Stubborn, {"one look in 15 s after a minute of 5xx"}),
        (InBackground, {"nobody watches, nobody polls"}),
        (Groups, {"no exception group"}),
        (NotOurs, {"only errors of the package", "a watch ends as documented"}),
        (TakesLanes, {"no lane is lost"}),
        (LeavesConnections, {"no connection is left", "no descriptor is left"}),
        (LeavesTasks, {"no task is left"}),
        (LeavesThreads, {"no thread is left"}),
        (Hoards, {"memory does not grow"}),
    ],
)
async def test_a_broken_watcher_is_found_out(watcher: type[Broken], promises: set[str]) -> None:
    watcher.kept = []
    draw = {NoLastLook: at_the_end, EndsEarly: paid_late, CancelsNothing: never, Stubborn: in_an_outage}.get(watcher, soon)
    faults = 60 if watcher is Twice else 0
    orders = 24 if watcher is NoLastLook else 12
    found = await soak(Setup(orders, faults, wave=orders // 3, watcher=watcher, draw=draw))
    for kept in watcher.kept:
        await _given_back(kept)
    assert promises - set(found.broken) == set()
    assert {example.partition(":")[0] for example in found.examples} == set(found.broken)


async def _given_back(kept: Any) -> None:
    if isinstance(kept, Client):
        await kept.aclose()
    elif isinstance(kept, threading.Event):
        kept.set()
    elif isinstance(kept, asyncio.Task):
        kept.cancel()
        await asyncio.gather(kept, return_exceptions=True)


# --- the command -------------------------------------------------------------------------------------------------------------------


def test_the_command_prints_json() -> None:
    command = [sys.executable, "-m", "tests.soak", "--orders", "2", "--faults", "20", "--backend", BACKENDS[-1], "--memory", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    assert (found["orders"], found["options"]["faults"], found["broken"]) == (2, 20, {})


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_prints_a_table_and_exits_with_1_if_a_promise_is_broken(
    broken: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Found(memory=[Memory(0, 0, 0)])
    found.expect(not broken, "no code is lost", "order 7")

    def run(setup: Setup, backend: str) -> Found:
        assert (setup, backend) == (Setup(3000, faults=60, seed=4, batch=True), "asyncio")
        return found

    monkeypatch.setattr(soaking, "run", run)
    monkeypatch.setattr("sys.argv", ["soak", "--faults", "60", "--seed", "4", "--batch"])
    monkeypatch.setenv("PYTHONMALLOC", "malloc")  # as in the process that the command starts
    assert soaking.main() == broken
    gc.unfreeze()
    shown = capsys.readouterr().out
    assert ("  no code is lost: order 7\n" in shown) is broken
    assert "delay, s: p95" in shown


def test_what_is_held_is_counted_to_the_byte() -> None:
    """A hoard of 3 MB shows, in a process whose allocator counts, and what is given back does not."""
    program = """
from tests.soak import _held, _resident
print(_held() != _resident())
before = _held()
hoard = [bytes(300) for _ in range(10_000)]
print(_held() - before)
del hoard
print(_held() - before)
"""
    environment = os.environ | {"PYTHONMALLOC": "malloc"}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=environment)
    counted, hoarded, given_back = ran.stdout.split()
    assert counted == "True"
    assert 3_000_000 < int(hoarded) < 4_000_000
    assert int(given_back) < 100_000


def test_a_run_is_in_virtual_time() -> None:
    assert soaking.run(Setup(orders=1, faults=0, draw=soon), "asyncio").virtual_seconds > 30


def test_the_orders_are_those_that_were_stated() -> None:
    dice = random.Random(1)  # noqa: S311 - orders, not secrets
    fates = [soaking.draw_fate(dice, True) for _ in range(10_000)]
    codes = [fate.code_after for fate in fates if fate.code_after < NEVER]
    assert len(codes) / len(fates) == pytest.approx(0.82, abs=0.03)
    assert sum(30 <= code <= 120 for code in codes) / len(codes) == pytest.approx(0.85, abs=0.05)
    assert max(codes) < 1260
    assert sum(fate.fail_after < NEVER for fate in fates) / len(fates) == pytest.approx(0.09, abs=0.01)
    assert sum(fate.pay_after > 1000 for fate in fates) / len(fates) == pytest.approx(0.012, abs=0.004)
    assert sum(fate.hold_window < WINDOW for fate in fates) / len(fates) == pytest.approx(0.13, abs=0.02)
    assert sum(fate.outage is not None for fate in fates) / len(fates) == pytest.approx(0.08, abs=0.01)


@pytest.mark.parametrize("fails", [False, True])
async def test_looks_are_a_second_apart_although_the_first_had_to_wait_for_a_connection(fails: bool) -> None:
    def plan(request: SeenRequest, about: Held | None) -> Fault | None:
        if about is first:
            return slow(2.9)
        return status(503) if fails and not second.looks else None

    service = Service(plan)
    first, second = service.order("1" * 32, paid_at=0.0), service.order("2" * 32, paid_at=0.0)
    async with service.serving() as server, Client(base_url=server.url, max_connections=1, trust_env=False) as client:
        with anyio.move_on_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(OrderWatcher(client, first.id, poll_interval=10).code)
                await anyio.sleep(0.1)
                tasks.start_soon(OrderWatcher(client, second.id, poll_interval=3).code)
    gaps = [later - earlier for earlier, later in pairwise(second.looks)]
    assert len(gaps) > 3
    assert min(gaps) >= 0.99


async def test_a_batch_gets_through_an_outage_in_which_refusals_take_no_time() -> None:
    found, now = Found(), anyio.current_time()
    wave = soaking.Wave(Setup(orders=3, faults=0, batch=True, draw=soon), found, range(3), random.Random(1))  # noqa: S311 - orders, not secrets
    wave.outages = [soaking.Outage(now, now + 60, "5xx with a reason")]
    await wave.run()
    assert 50 <= found.struck["outage: 5xx with a reason"] <= 61  # one a second
    assert (found.counts["orders"], found.broken) == (3, {})
