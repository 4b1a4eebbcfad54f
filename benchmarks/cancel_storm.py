"""Requests cancelled at random, natively and by scope: are all connections usable afterwards, and is none left at the end?

    python -m benchmarks.cancel_storm [--requests 70000] [--backend asyncio|trio] [--client sms4sats|httpx] [--seed 1]

Forty tasks share ten connections to a loopback server that answers after up to 3 ms, and each gives up on its request after up to
40 ms: half of them through ``task.cancel()``, as ``asyncio.wait_for`` and a web framework's disconnect do, half through a cancel scope.
On asyncio every second native cancellation is followed by another one, which breaks into the clean-up after the first: no shield of
anyio's stops it. Every figure is taken from outside the client, most of them at the server. The exit code is 0 when the client
survived, else 1; the last line is JSON.
With ``--client httpx`` the same storm goes over bare httpx, whose pool does not survive it on asyncio.
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx

from benchmarks._contenders import Call, status_call
from benchmarks._report import line_of_json
from benchmarks._serving import CLOSING, StatusServer, status_server
from sms4sats_async import Client

LANES = 10
TASKS = 40
LONGEST_DELAY = 0.003  # seconds until the server answers
LONGEST_PATIENCE = 0.04  # seconds until a request is cancelled; with 4 ms all would end in the queue, and none reach the server
BETWEEN_CANCELLATIONS = 0.0005  # seconds at most, for a request that is cancelled twice
TIMEOUT = 5.0  # seconds for one request that nobody cancels
ANSWERED = "answered"
CANCELLED = ("cancelled natively", "cancelled by scope")

Contender = Callable[[str], AbstractAsyncContextManager[Call]]
"""Opens a client of the server at a URL, and closes it."""


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Call]:
    """This package's client; one attempt, so that no failure hides behind a second one."""
    async with Client(base_url=url, max_connections=LANES, timeout=TIMEOUT, attempts=1) as client:
        yield client.get_order_status


@asynccontextmanager
async def bare_httpx(url: str) -> AsyncIterator[Call]:
    """Bare httpx with as many connections as there are lanes."""
    limits = httpx.Limits(max_connections=LANES, max_keepalive_connections=LANES)
    async with httpx.AsyncClient(limits=limits, timeout=TIMEOUT) as http:
        yield status_call(http, url)


CLIENTS: dict[str, Contender] = {"sms4sats": ours, "httpx": bare_httpx}


@dataclass(frozen=True)
class Outcome:
    """What a storm came to."""

    during: Counter[str]
    """How the requests of the storm ended: answered, cancelled, or an error's name."""
    after: Counter[str]
    """How as many requests as there are lanes ended afterwards, each answered only when all of them are at the server at once."""
    seen: int
    """Requests that reached the server during the storm."""
    peak: int
    """Most connections the server ever saw established at the same time."""
    left: int
    """Connections still open at the server after the client was closed."""
    seconds: float
    """How long the storm took."""

    @property
    def complaints(self) -> list[str]:
        """All that should not be; empty when the client survived."""
        expected = (ANSWERED, *CANCELLED)
        found = [f"{count} requests of the storm ended in {name}" for name, count in self.during.items() if name not in expected]
        found += [f"{count} of {LANES} requests after the storm ended in {name}" for name, count in self.after.items() if name != ANSWERED]
        if self.peak > LANES:
            found.append(f"{self.peak} connections were open at once, {LANES} were allowed")
        if self.left:
            found.append(f"{self.left} connections were left open {CLOSING:g} s after the client was closed")
        return found


async def storm(server: StatusServer, client: Contender, requests: int, *, seed: int = 1, patience: float = LONGEST_PATIENCE) -> Outcome:
    """Let a storm of ``requests`` requests go over ``client``, each cancelled after ``patience`` seconds at most; look at what it left."""
    async with client(server.url) as call:
        await _all_at_once(call)  # on a busy machine no connection would be made in a request's patience, and none reach the server
        before, began = server.ask("seen"), time.monotonic()
        during = await _cancel_at_random(call, requests, patience, random.Random(seed))  # noqa: S311 - a storm, not a secret
        seconds, seen = time.monotonic() - began, int(server.ask("seen") - before)
        after = await _all_at_once(call)
    left = await server.connections_left()
    return Outcome(during=during, after=after, seen=seen, peak=int(server.ask("peak")), left=left, seconds=seconds)


async def _cancel_at_random(call: Call, requests: int, patience: float, rng: random.Random) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    ways = [_cancelled_natively, _cancelled_by_scope] if _on_asyncio() else [_cancelled_by_scope]
    numbers = iter(range(requests))

    async def give_up_again_and_again() -> None:
        for number in numbers:
            outcomes[await rng.choice(ways)(call, f"order-{number}", rng.uniform(0, patience), rng)] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(TASKS):
            tasks.start_soon(give_up_again_and_again)
    return outcomes


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _cancelled_natively(call: Call, order_id: str, first: float, rng: random.Random) -> str:
    task = asyncio.ensure_future(call(order_id))
    times = [first, first + rng.uniform(0, BETWEEN_CANCELLATIONS)][: rng.randint(1, 2)]
    cancelling = [asyncio.get_running_loop().call_later(at, task.cancel) for at in times]
    try:
        await asyncio.wait({task})
    finally:
        for timer in cancelling:
            timer.cancel()
        task.cancel()
    if task.cancelled():
        return "cancelled natively"
    error = task.exception()
    return ANSWERED if error is None else type(error).__name__


async def _cancelled_by_scope(call: Call, order_id: str, after: float, _: random.Random) -> str:
    with anyio.move_on_after(after):
        return await _outcome(call, order_id)
    return "cancelled by scope"


async def _outcome(call: Call, order_id: str) -> str:
    try:
        await call(order_id)
    except Exception as error:  # noqa: BLE001 - every error is a result here
        return type(error).__name__
    return ANSWERED


async def _all_at_once(call: Call) -> Counter[str]:
    """The outcomes of one request per lane, none of which the server answers before it has them all."""
    outcomes: Counter[str] = Counter()

    async def ask() -> None:
        with anyio.move_on_after(2 * TIMEOUT):
            outcomes[await _outcome(call, f"together-{LANES}")] += 1
            return
        outcomes["no end"] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(LANES):
            tasks.start_soon(ask)
    return outcomes


def main() -> int:
    """Run a storm, print what it came to, and return the exit code."""
    options = argparse.ArgumentParser(description="cancel requests at random and see what is left of the client")
    options.add_argument("--requests", type=int, default=70_000)
    options.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    options.add_argument("--client", choices=sorted(CLIENTS), default="sms4sats")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()

    async def run() -> Outcome:
        with status_server(delay=LONGEST_DELAY) as server:
            return await storm(server, CLIENTS[chosen.client], chosen.requests, seed=chosen.seed)

    outcome = anyio.run(run, backend=chosen.backend)
    print(f"{chosen.client} on {chosen.backend}: {chosen.requests} requests in {outcome.seconds:.1f} s, {TASKS} tasks, {LANES} connections")
    print(f"  during the storm: {_listed(outcome.during)}")
    print(f"  afterwards:       {LANES} at once: {_listed(outcome.after)}")
    print(f"  at the server:    {outcome.seen} requests of the storm, {outcome.peak} connections at most, {outcome.left} left at the end")
    print("\n".join(f"  BROKEN: {complaint}" for complaint in outcome.complaints) or "  survived")
    print(line_of_json("cancel_storm", vars(chosen), {**vars(outcome), "complaints": outcome.complaints}))
    return 1 if outcome.complaints else 0


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


if __name__ == "__main__":
    raise SystemExit(main())
