"""What one status request costs: this client beside bare httpx, in CPU time of the client's process.

    python -m benchmarks.per_request [--rounds 5] [--calls 400] [--delay 0] [--backend asyncio|trio] [--json]

Both clients ask a loopback server in a process of its own, whose CPU time is printed too: where it is far below the client's, the client
is the bottleneck. Rounds take turns; for each one a fresh client is warmed at the same number of calls at once, and the garbage is
collected, outside the time measured. Each contender has a server for itself, which says how many connections were open, on the average,
at a request: a client that holds fewer than there are calls at once has been measured at another task, so such rounds are left out of
the ratio.

httpx keeps 20 connections unless told otherwise, and so holds 20 at 100 calls at once; a second line has it keep all 100, for good.
With ``--delay``, the server takes its time as a real one does, so that all the calls at once are under way at once.
The ratio is our CPU time over that of httpx, round by round: 0.25 means that a call costs a quarter.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import anyio
import httpx

from benchmarks._serving import StatusServer, status_server
from sms4sats_async import Client

HTTPX_KEEPS = 20  # its default
CASES = ((1, HTTPX_KEEPS), (20, HTTPX_KEEPS), (100, HTTPX_KEEPS), (100, 100))
"""Calls at once, and the connections that httpx keeps when idle."""
ENOUGH_CONNECTIONS = 0.9  # of the calls at once: some connections are always between two calls
WARM_UP_CALLS = 2  # per call at once

Call = Callable[[str], Awaitable[object]]


@asynccontextmanager
async def ours(url: str, at_once: int) -> AsyncIterator[Call]:
    """This package's client, with a connection for each call at once."""
    async with Client(base_url=url, max_connections=at_once) as client:
        yield client.get_order_status


@asynccontextmanager
async def bare_httpx(url: str, keeps: int) -> AsyncIterator[Call]:
    """Bare httpx as it comes, or told to keep more idle connections, without letting them expire after its 5 s."""
    kept = httpx.Limits(max_connections=keeps, max_keepalive_connections=keeps, keepalive_expiry=None)
    async with httpx.AsyncClient() if keeps == HTTPX_KEEPS else httpx.AsyncClient(limits=kept) as http:

        async def call(order_id: str) -> object:
            return (await http.get(f"{url}/orderstatus", params={"orderId": order_id})).json()

        yield call


@dataclass(frozen=True)
class Round:
    """One contender's figures of one round."""

    cpu_us: float
    """CPU time of this process, in microseconds per call."""
    server_cpu_us: float
    """CPU time of the server's process, in microseconds per call."""
    connections: float
    """Open at the server when a request came in: the mean."""


@dataclass(frozen=True)
class Comparison:
    """All rounds of one case."""

    at_once: int
    httpx_keeps: int
    httpx: list[Round]
    ours: list[Round]

    @property
    def ratios(self) -> list[float]:
        """CPU time of httpx over ours, for each round in which both held a connection for each call."""
        enough = self.at_once * ENOUGH_CONNECTIONS
        pairs = zip(self.httpx, self.ours, strict=True)
        return [own.cpu_us / bare.cpu_us for bare, own in pairs if min(bare.connections, own.connections) >= enough]


async def compare(at_once: int, httpx_keeps: int, *, rounds: int, calls: int, delay: float = 0.0) -> Comparison:
    """Measure both contenders in turn, the one that begins changing from round to round."""
    bare: list[Round] = []
    own: list[Round] = []
    with status_server(delay=delay) as httpx_server, status_server(delay=delay) as our_server:

        async def measure_httpx() -> None:
            bare.append(await _measure(bare_httpx(httpx_server.url, httpx_keeps), httpx_server, at_once, calls))

        async def measure_ours() -> None:
            own.append(await _measure(ours(our_server.url, at_once), our_server, at_once, calls))

        for turn in range(rounds):
            for measure in (measure_httpx, measure_ours) if turn % 2 else (measure_ours, measure_httpx):
                await measure()
    return Comparison(at_once, httpx_keeps, bare, own)


async def _measure(contender: AbstractAsyncContextManager[Call], server: StatusServer, at_once: int, calls: int) -> Round:
    async with contender as call:
        await _call_many(call, at_once, at_once * WARM_UP_CALLS)
        server.ask("mean")
        gc.collect()
        server_before, before = server.ask("cpu"), time.process_time()
        done = await _call_many(call, at_once, calls)
        spent, server_spent = time.process_time() - before, server.ask("cpu") - server_before
        return Round(cpu_us=spent / done * 1e6, server_cpu_us=server_spent / done * 1e6, connections=server.ask("mean"))


async def _call_many(call: Call, at_once: int, calls: int) -> int:
    """About ``calls`` calls by ``at_once`` tasks, each with its own order; how many they were."""
    per_task = max(1, calls // at_once)

    async def repeat(order_id: str) -> None:
        for _ in range(per_task):
            await call(order_id)

    async with anyio.create_task_group() as tasks:
        for number in range(at_once):
            tasks.start_soon(repeat, f"order-{number}")
    return per_task * at_once


def table(comparisons: Sequence[Comparison]) -> str:
    """The figures for a person: medians, and in brackets the least and the most."""
    lines = ["calls     CPU µs per call: median (min-max)             connections     server µs       ours / httpx"]
    lines += ["at once   httpx                  ours                 httpx    ours   httpx  ours   median (min-max), rounds"]
    for case in comparisons:
        name = f"{case.at_once}" if case.httpx_keeps == HTTPX_KEEPS else f"{case.at_once} kept"
        cpu = [_spread([round_.cpu_us for round_ in side], ".0f") for side in (case.httpx, case.ours)]
        open_ = [statistics.median(round_.connections for round_ in side) for side in (case.httpx, case.ours)]
        server = [statistics.median(round_.server_cpu_us for round_ in side) for side in (case.httpx, case.ours)]
        ratio = f"{_spread(case.ratios, '.2f')}, {len(case.ratios)} of {len(case.ours)}" if case.ratios else "too few connections"
        lines.append(f"{name:8}  {cpu[0]:21}  {cpu[1]:19}  {open_[0]:5.1f}  {open_[1]:6.1f}  {server[0]:6.0f}  {server[1]:4.0f}   {ratio}")
    return "\n".join(lines)


def _spread(figures: Sequence[float], form: str) -> str:
    return f"{statistics.median(figures):{form}} ({min(figures):{form}}-{max(figures):{form}})"


def as_json(comparisons: Sequence[Comparison], backend: str) -> str:
    """The same for a program, every round included, on one line."""
    levels: list[dict[str, Any]] = [{**asdict(each), "ratios": each.ratios} for each in comparisons]
    return json.dumps({"backend": backend, "levels": levels})


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="CPU time per status request, this client beside bare httpx")
    options.add_argument("--rounds", type=int, default=5, help="of each contender at each number of calls at once")
    options.add_argument("--calls", type=int, default=400, help="in a round, about")
    options.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="the longest of the server's random times")
    options.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    options.add_argument("--json", action="store_true", help="no table, only the line of JSON")
    chosen = options.parse_args()

    async def measure_all() -> list[Comparison]:
        return [await compare(*case, rounds=chosen.rounds, calls=chosen.calls, delay=chosen.delay) for case in CASES]

    comparisons = anyio.run(measure_all, backend=chosen.backend)
    if not chosen.json:
        print(table(comparisons))
    print(as_json(comparisons, chosen.backend))


if __name__ == "__main__":
    main()
