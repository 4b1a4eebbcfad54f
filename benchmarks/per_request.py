"""What one status request costs each client that a user could take: CPU time of the client's process, side by side in one run.

    python -m benchmarks.per_request [--rounds 5] [--calls 400] [--at-once 1,20,100] [--loop asyncio|uvloop|trio|all] [--tls]
                                     [--delay 0] [--json]

All ask a loopback server in a process of its own, whose CPU time is told too: where it is far below the client's, the client is the
bottleneck. Rounds take turns, the one that begins changing from round to round. For each round a client is opened afresh and warmed at
the same number of calls at once, and the garbage is collected, outside the time measured. With ``--tls`` all of it goes over TLS; the
handshakes fall into the warm-up.

A ratio is CPU time over that of bare httpx in the same round: 0.25 means that a call costs a quarter. Those that work over aiohttp are
held against bare aiohttp as well: ours against aiohttp that makes the same model of the reply, httpx against one that does not.

The server counts how many connections were open, on the average, at a request. A client that holds fewer than it is meant to, which is
one for each call at once unless it was built otherwise, has been measured at another task: its round is in no ratio. httpx keeps 20
connections unless told otherwise, and so at 100 calls at once shrinks to 20 and has no ratio: there the others are held against a pool
told to keep all 100, for good, which is how httpx behaves with that many connections and not how it comes.
With ``--delay`` the server takes its time as a real one does, so that all the calls at once are under way at once.
The last line is JSON, with every round in it.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from benchmarks._contenders import CONTENDERS, Call, Contender, Place, baseline, field
from benchmarks._report import line_of_json, spread, table
from benchmarks._serving import StatusServer, status_server

ENOUGH_CONNECTIONS = 0.9  # of those meant to be held: some connections are always between two calls
WARM_UP_CALLS = 2  # per call at once
LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


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
class Case:
    """All rounds at one number of calls at once."""

    at_once: int
    rounds: dict[str, list[Round]]
    """Of each contender, in the order they were run: the n-th of one belongs to the n-th of another."""

    def ratios(self, name: str, beside: str) -> list[float]:
        """CPU time of one contender over another's, for each round in which both held the connections they are meant to."""
        pairs = zip(self.rounds[name], self.rounds[beside], strict=True)
        return [own.cpu_us / other.cpu_us for own, other in pairs if self._holds(name, own) and self._holds(beside, other)]

    def _holds(self, name: str, taken: Round) -> bool:
        return taken.connections >= ENOUGH_CONNECTIONS * CONTENDERS[name].holds(self.at_once)


def measure(
    contenders: Sequence[Contender],
    at_once: int,
    *,
    rounds: int,
    calls: int,
    loop: str = "asyncio",
    tls: bool = False,
    delay: float = 0.0,
) -> Case:
    """Let them take turns, ``rounds`` times, at about ``calls`` calls."""
    taken: dict[str, list[Round]] = {each.name: [] for each in contenders}

    async def take_turns() -> None:
        with status_server(delay=delay, tls=tls) as server:
            for turn in range(rounds):
                first = turn % len(contenders)
                for each in (*contenders[first:], *contenders[:first]):
                    taken[each.name].append(await _round(each, server, at_once, calls))

    anyio.run(take_turns, **LOOPS[loop])
    return Case(at_once, taken)


async def _round(contender: Contender, server: StatusServer, at_once: int, calls: int) -> Round:
    left = await server.connections_left()  # of the one before: they must not be counted for this one
    assert left == 0, f"{left} connections were left open before {contender.name}"
    async with contender.open(Place(server.url, at_once, server.ssl_context)) as call:
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


def as_table(case: Case) -> str:
    """The figures for a person: medians, and in brackets the least and the most."""
    rows = [["", "CPU µs per call", "server µs", "connections", "to bare httpx", "to aiohttp"]]
    for name, rounds in case.rounds.items():
        server = statistics.median(each.server_cpu_us for each in rounds)
        connections = statistics.median(each.connections for each in rounds)
        cpu = spread([each.cpu_us for each in rounds], ",.0f")
        to = {whom: _told(ratios, len(rounds)) for whom, ratios in _all_ratios(case, name).items()}
        rows.append([name, cpu, f"{server:.0f}", f"{connections:.1f}", to["httpx"], to["aiohttp"]])
    return table(rows)


def _told(ratios: Sequence[float], rounds: int) -> str:
    return spread(ratios, ".3g") + (f", {len(ratios)} of {rounds} rounds" if 0 < len(ratios) < rounds else "")


def _all_ratios(case: Case, name: str) -> dict[str, list[float]]:
    """Those that say something: nobody is held against itself."""
    base, rival = baseline(case.at_once), CONTENDERS[name].rival
    return {"httpx": [] if name == base else case.ratios(name, base), "aiohttp": [] if rival is None else case.ratios(name, rival)}


def _for_json(case: Case, loop: str) -> dict[str, Any]:
    contenders = {
        name: {"rounds": [vars(each) for each in rounds], "ratios": _all_ratios(case, name)} for name, rounds in case.rounds.items()
    }
    return {"loop": loop, "at_once": case.at_once, "contenders": contenders}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="CPU time per status request, this client beside all that a user could take")
    options.add_argument("--rounds", type=int, default=5, help="of each contender at each number of calls at once")
    options.add_argument("--calls", type=int, default=400, help="in a round, about")
    options.add_argument("--at-once", type=_numbers, default=[1, 20, 100], metavar="N,N", help="numbers of calls at once")
    options.add_argument("--loop", choices=[*LOOPS, "all"], default="asyncio")
    options.add_argument("--tls", action="store_true", help="over TLS")
    options.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="the longest of the server's random times")
    options.add_argument("--json", action="store_true", help="no tables, only the line of JSON")
    chosen = options.parse_args()
    found: list[dict[str, Any]] = []
    for loop in LOOPS if chosen.loop == "all" else [chosen.loop]:
        for at_once in chosen.at_once:
            how = {"rounds": chosen.rounds, "calls": chosen.calls, "loop": loop, "tls": chosen.tls, "delay": chosen.delay}
            case = measure(field(loop, at_once), at_once, **how)
            found.append(_for_json(case, loop))
            if not chosen.json:
                wire = "TLS" if chosen.tls else "plain"
                print(f"{loop}, {wire}, {at_once} at once, {chosen.rounds} rounds of {chosen.calls} calls: median (min-max)")
                print(as_table(case) + "\n", flush=True)
    print(line_of_json("per_request", vars(chosen), found))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
