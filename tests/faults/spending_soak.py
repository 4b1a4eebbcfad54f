"""Thousands of calls that spend, under a fault in every phase of the wire and cancelled at any time: what was charged, and who knows?

    python -m tests.faults.spending_soak [--calls 20000] [--seed 1] [--stack lanes] [--backend trio]

Numbers, rentals and messages are bought from the balance by a dozen users of one client with four connections, over real sockets and in
virtual time; of each kind of stack on each backend so many. Each call has a ``ref`` of its own, by which the server counts how often it
was processed. The fault server alone says what was charged. The exit code is 1 if a promise is broken:

* **Charged twice**: calls that were processed more than once.
* **Charged and forgotten**: orders that were charged, and of which the caller has neither the order, nor an error with its id, nor an
  `OutcomeUnknown` or, after a cancellation, a note to it that says the same, and that are not in ``orphaned_orders`` either. Where a
  true reply came in time, only the order's id will do.
* **Untold**: orders that a caller has, or that are in ``orphaned_orders``, but which ``on_order`` has not heard of.
* **Groups**, and whatever else is no error of ours and no cancellation of the caller's.
* **Lanes lost**: how many of the client's connections can no longer carry a request, all at once.
* **Left**: connections at the server, tasks and descriptors, a second after the client was closed.

A fault that no client could survive is left out: a no with a reason to a purchase that was made.
"""

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import anyio
import anyio.lowlevel

from sms4sats_async import Client, Order, OutcomeUnknown, Sms4SatsError
from sms4sats_async.models import order_id_in
from tests.faults import stacks
from tests.faults.calls import KEY
from tests.faults.service import (
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
    trickles,
    unseen,
    with_fields,
)
from tests.faults.stacks import Stack
from tests.servers import Reply, SeenRequest, serve
from tests.suspension import files_open, on_asyncio, tasks_alive
from tests.virtual_time import in_virtual_time

USERS = 12
LANES = 4
TIMEOUT = 5.0
"""Seconds for one attempt: a time-out is soon there."""

Buy = Callable[[Client, str, dict[str, Any]], Awaitable[Order]]
"""Buys one of the kinds with this ``ref``."""

KINDS: list[dict[str, Any]] = [
    {"country": 187, "service": "tg"},
    {"country": 6, "service": "full", "rental": True},
    {"country": 187, "service": "tg", "max_sats": 1500},
    {"phone": "+15551234567", "message": "hello"},
    {"phone": "+15551234567", "message": "hello", "max_sats": 3000},
]


async def buy(client: Client, ref: str, kind: dict[str, Any]) -> Order:
    call = client.create_send_order if "phone" in kind else client.create_order
    return await call(**kind, ref=ref, immediate=True)


# --- faults ------------------------------------------------------------------------------------------------------------------------

PAGE = b"<html>error</html>"
BOMB = gzip_bomb(1)


def fault_in_the_reply(dice: Random) -> Fault:
    """Something that comes of a request that was read, be it after the order was charged or before anything was done."""
    at, some = dice.randrange(230), dice.random()
    after: list[Callable[[], Fault]] = [
        lambda: closes,
        lambda: resets,
        lambda: stalls,
        lambda: garbage,
        lambda: slow(7 * some),
        lambda: trickles(0.1 * some),
        lambda: cut(at),
        lambda: cut(at, reset=True),
        lambda: status(dice.choice([400, 401, 404, 500, 502, 503, 504]), dice.choice([PAGE, b"", b"{}", b"[1"])),
        lambda: status(200, dice.choice([PAGE, b"", b"null", b'{"status":"OK"', b"[" * 5000, b" " * 70_000])),
        lambda: status(200, b"broken", [("Content-Encoding", "gzip")]),
        lambda: redirects("http://127.0.0.1:9/", dice.choice([301, 302, 307, 308])),
        lambda: with_fields(orderId=dice.choice([..., "", None, [], True])),
        lambda: with_fields(payreq=dice.choice([..., "", 17, "nothing to pay"])),
        lambda: lies({"status": "error"}, dice.choice([200, 500])),
        lambda: BOMB,
    ]
    before: list[Callable[[], Fault]] = [
        lambda: busy(dice.choice([None, "1", "3", "nan", "-1"])),
        lambda: says(refusal("not enough balance", dice.choice([200, 400, 402, 500, 503]))),
        lambda: status(403, PAGE),
    ]
    if some < 0.35:
        return unseen(dice.choice(after + before)())
    return dice.choice(after)()


class Weather:
    """What happens to each connection and to each request: about half of them are answered, at once or later."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self.clear = False
        """No more faults, from now on."""
        self.met: Counter[str] = Counter()
        """How many faults there were, by the phase of the wire that they struck."""
        self.answered: set[str] = set()
        """The orders whose reply was true, whole and in time, and came while the client still waited for it."""

    async def connected(self, _: int, reply: Reply) -> None:
        """Perhaps end a connection before its request is whole."""
        if self.clear or self._dice.random() > 0.12:
            return
        at = self._dice.choice([0, 1, 20, self._dice.randrange(350)])
        self.met["as it connects" if at == 0 else "in the request"] += 1
        await reply.read(at)
        await (reply.reset() if self._dice.random() < 0.5 else reply.close())

    def plan(self, _: SeenRequest, __: Held | None) -> Fault | None:
        """Choose what a request that was read comes to."""
        chance = self._dice.random()
        if self.clear or chance < 0.5:
            return self._answers(0.0 if self.clear else 20 * max(0.0, chance - 0.35))
        fault = fault_in_the_reply(self._dice)
        self.met["before the charge" if fault.__class__ is unseen else "after the charge"] += 1
        return fault

    def _answers(self, seconds: float) -> Fault:
        """Answer truthfully, so much later, and note who was told."""

        async def answers(reply: Reply, answer: bytes) -> None:
            await slow(seconds)(reply, answer)
            order_id = order_id_in(answer)
            if order_id is not None and not reply.client_gone:
                self.answered.add(order_id)

        return answers


# --- one call ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Spent:
    """What the caller of one call came to know."""

    ended: str = "never begun"
    ids: set[str] = field(default_factory=set)
    told: bool = False
    """It was told that nobody knows."""

    async def watch(self, call: Awaitable[Order]) -> None:
        """Await the call, and note what its caller sees; a cancellation goes on."""
        try:
            order = await call
        except anyio.get_cancelled_exc_class() as cancellation:
            notes = " ".join(getattr(cancellation, "__notes__", []))
            self.told = "may have been" in notes
            self.ended = "cancelled"
            raise
        except OutcomeUnknown as error:
            self.ended, self.told = "unknown", True
            self.ids |= {error.order_id} - {None}  # type: ignore[arg-type]
        except Sms4SatsError as error:
            self.ended = "failed"
            self.ids |= {error.order_id} - {None}  # type: ignore[arg-type]
        except BaseExceptionGroup:
            self.ended = "group"
        except Exception as error:  # noqa: BLE001 - whatever else it is breaks a promise
            self.ended = f"{type(error).__name__}: {error}"
        else:
            self.ended = "ordered"
            self.ids.add(order.id)


async def cancelled(work: Callable[[], Awaitable[None]], dice: Random) -> None:
    """Do this work, and cancel it in one of the ways that the backend has, after some seconds, or some turns of the loop."""
    seconds = dice.choice([0.0, 0.01, 4 * dice.random(), 12 * dice.random()])
    turns = dice.randrange(80) if dice.random() < 0.3 else None
    way = dice.randrange(4 if on_asyncio() else 2)
    if way == 0:
        with anyio.move_on_after(seconds):
            await work()
    elif way == 1:
        async with anyio.create_task_group() as group:
            group.start_soon(_later, seconds, turns, group.cancel_scope.cancel)
            await work()
            group.cancel_scope.cancel()
    elif way == 2:
        try:
            async with asyncio.timeout(seconds):
                await work()
        except TimeoutError:
            return
    else:
        task = asyncio.ensure_future(work())
        await _later(seconds, turns, lambda: None)
        for _ in range(dice.choice([1, 2, 12])):
            task.cancel()
            await asyncio.sleep(dice.choice([0, 0.5]))
        await asyncio.wait({task})


async def _later(seconds: float, turns: int | None, action: Callable[[], None]) -> None:
    """Do this after so many seconds, or so many turns of the loop."""
    if turns is None:
        await anyio.sleep(seconds)
    for _ in range(turns or 0):
        await anyio.lowlevel.checkpoint()
    action()


# --- the soak ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What a soak came to, by the server's truth."""

    calls: int
    ended: Counter[str]
    met: Counter[str]
    charged: int
    most: int
    twice: int
    forgotten: int
    untold: int
    groups: int
    foreign: list[str]
    lanes_lost: int
    connections_left: int
    tasks_left: int
    files_left: int
    virtual: float
    """Seconds of the loop's clock."""

    @property
    def broken(self) -> list[str]:
        """The promises that were broken."""
        bad = {
            "charged twice": self.twice,
            "charged and forgotten": self.forgotten,
            "not told to on_order": self.untold,
            "groups": self.groups,
            f"foreign errors {self.foreign[:3]}": len(self.foreign),
            "lanes lost": self.lanes_lost,
            "connections left": self.connections_left,
            "tasks left": self.tasks_left,
            "descriptors left": self.files_left,
        }
        return [f"{name}: {count}" for name, count in bad.items() if count]


async def soak(stack: Stack, calls: int, seed: int, buy: Buy = buy) -> Figures:
    """Make so many calls over this stack, and judge them. ``buy`` is for a client that is broken on purpose."""
    dice = Random(seed)  # noqa: S311
    weather = Weather(dice)
    service = Service(weather.plan)
    heard: list[Order] = []
    spent = {f"ref-{number}": Spent() for number in range(calls)}
    waiting = iter(spent.items())

    async def user() -> None:
        for ref, one in waiting:
            kind = dice.choice(KINDS)

            async def work(ref: str = ref, one: Spent = one, kind: dict[str, Any] = kind) -> None:
                await one.watch(buy(client, ref, kind))

            if dice.random() < 0.4:
                await cancelled(work, dice)
            else:
                await work()

    async with serve(service, on_connect=weather.connected) as server:
        tasks, files = tasks_alive(), files_open()
        async with stack.client(
            server.url, api_key=KEY, timeout=TIMEOUT, max_connections=LANES, attempts=3, on_order=heard.append
        ) as client:
            async with anyio.create_task_group() as group:
                for _ in range(USERS):
                    group.start_soon(user)
            weather.clear = True
            lanes = await lanes_at_work(service, client)
        await anyio.sleep(1)
        tasks_left, files_left = tasks_alive() - tasks, files_open() - files
        connections_left = server.connections_open
        virtual = anyio.current_time()

    orphaned = {order.id for order in client.orphaned_orders}
    bought = [held for held in service.orders.values() if held.prepaid]
    processed = Counter(held.ref or "" for held in bought)
    had = {held.id for held in bought if held.id in spent[held.ref or ""].ids or held.id in orphaned}
    ended = Counter(one.ended for one in spent.values())
    ordered = {order_id for one in spent.values() if one.ended == "ordered" for order_id in one.ids}
    return Figures(
        calls=calls,
        ended=ended,
        met=weather.met,
        charged=len(bought),
        most=max(processed.values(), default=0),
        twice=sum(times > 1 for times in processed.values()),
        forgotten=sum(held.id not in had and (held.id in weather.answered or not spent[held.ref or ""].told) for held in bought),
        untold=len((ordered | orphaned) - {order.id for order in heard}),
        groups=ended["group"],
        foreign=[how for how in ended if ":" in how],
        lanes_lost=LANES - lanes,
        connections_left=connections_left,
        tasks_left=tasks_left,
        files_left=files_left,
        virtual=virtual,
    )


async def lanes_at_work(service: Service, client: Client) -> int:
    """How many requests of a crowd reach the service while none is answered: as many as there are lanes."""
    crowd = LANES + 2
    service.next("/balance", *[slow(4)] * crowd)
    start = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(crowd):
            group.start_soon(client.get_balance)
    return sum(request.target == "/balance" and request.at < start + 4 for request in service.requests)


# --- the command -------------------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print what it came to, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.spending_soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=20_000, help="calls on each stack and backend")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stack", choices=[stack.name for stack in stacks._STACKS], help="this stack only")
    parser.add_argument("--backend", choices=["asyncio", "trio"], help="this backend only")
    chosen = parser.parse_args(arguments)
    names = {chosen.stack, chosen.backend} - {None}
    runs = [(stack, backend) for stack in stacks._STACKS for backend in stack.backends if names <= {stack.name, backend}]
    broken = [_run(stack, backend, chosen.calls, chosen.seed) for stack, backend in runs]
    return 1 if any(broken) else 0  # pragma: no cover - the tracer has lost this frame (see tests/test_spending.py)


def _run(stack: Stack, backend: str, calls: int, seed: int) -> bool:
    """Soak one stack on one backend, print what it came to, and say whether a promise was broken."""
    began = time.process_time()
    figures = anyio.run(soak, stack, calls, seed, backend=backend, backend_options=in_virtual_time(backend))
    cpu = time.process_time() - began  # pragma: no cover - the tracer has lost this frame
    print(table(f"{backend}, {stack.name}", figures, cpu), flush=True)  # pragma: no cover - nor here
    return bool(figures.broken)  # pragma: no cover - nor here


def table(name: str, figures: Figures, cpu: float) -> str:
    """The figures as text."""

    def counted(counts: Counter[str]) -> str:
        return ", ".join(f"{count} {what}" for what, count in counts.most_common())

    rows = {
        "calls": f"{figures.calls}: {counted(figures.ended)}",
        "faults": counted(figures.met),
        "charged orders": figures.charged,
        "processed per call, at most": figures.most,
        "charged twice": figures.twice,
        "charged and forgotten": figures.forgotten,
        "not told to on_order": figures.untold,
        "exception groups": figures.groups,
        "foreign errors": len(figures.foreign),
        "lanes lost": figures.lanes_lost,
        "connections left": figures.connections_left,
        "tasks, descriptors left": f"{figures.tasks_left}, {figures.files_left}",
        "seconds": f"{figures.virtual:.0f} of the loop's clock, {cpu:.1f} of CPU",
        "broken promises": "; ".join(figures.broken) or "none",
    }
    return f"{name}\n" + "".join(f"  {what:28} {value}\n" for what, value in rows.items())


if __name__ == "__main__":
    logging.getLogger("sms4sats_async").setLevel(logging.ERROR)  # it warns of each lost reply to a cancelled purchase
    sys.exit(main())
