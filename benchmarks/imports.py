"""What it costs to begin: importing this package beside what it needs and what else one could take, and the way to a first reply.

    python -m benchmarks.imports [--rounds 15] [--tls] [--json]

Everything is measured from outside, in whole processes that take turns. The byte code is compiled and kept before the first round, as an
installer does.

An import's cost is CPU time; that of an interpreter which imports nothing is taken off. It is told by the least of all rounds, for noise
only adds.
The first reply is that of a loopback server in a process of its own, with ``--tls`` over TLS. CPU time is that of the whole process, its
end included; wall time ends where the client has the reply. A ratio is that to bare httpx in the same round.
The last line is JSON, with every round in it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks._contenders import HTTPX, STARTERS
from benchmarks._report import line_of_json, spread, table
from benchmarks._serving import status_server

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
NOTHING, NEEDED, OURS = "pass", "import httpx, attrs, anyio", "import sms4sats_async"
OTHERS = ("import httpx", "import httpx2", "import aiohttp")
FIRST_REPLY = "import asyncio, sys, benchmarks._contenders as it; asyncio.run(it.first_reply(*sys.argv[1:]))"


# --- an import ---------------------------------------------------------------------------------------------------------------------


def cost(rounds: int) -> tuple[float, list[float]]:
    """Return the package's import over that of what it needs: by the least of all rounds (noise only adds), and round by round."""
    taken = imports(rounds, (NOTHING, NEEDED, OURS))
    each = zip(*(taken[code] for code in (NOTHING, NEEDED, OURS)), strict=True)
    return least(taken, OURS) / least(taken, NEEDED), [(ours - nothing) / (needed - nothing) for nothing, needed, ours in each]


def imports(rounds: int, codes: tuple[str, ...]) -> dict[str, list[float]]:
    """CPU seconds of whole interpreters, round by round."""
    with _installed() as environment:
        return _take_turns(rounds, {code: partial(cpu_seconds, code, environment) for code in codes})


def least(taken: Mapping[str, list[float]], code: str) -> float:
    """An import's cost in CPU seconds by the least of all rounds, the interpreter's own taken off."""
    return min(taken[code]) - min(taken[NOTHING])


def cpu_seconds(code: str, environment: dict[str, str]) -> float:
    """CPU time of an interpreter that runs this and ends."""
    before = _cpu_of_children()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return _cpu_of_children() - before


# --- a first reply -----------------------------------------------------------------------------------------------------------------


def first_replies(rounds: int, names: Iterable[str] = tuple(STARTERS), *, tls: bool = False) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds of a process that asks once, and wall seconds from its start to the reply, for each client, round by round."""
    with status_server(tls=tls) as server, _installed() as environment:
        return _take_turns(rounds, {name: partial(_first_reply, name, server.url, environment) for name in names})


def _first_reply(name: str, url: str, environment: dict[str, str]) -> tuple[float, float]:
    before, began = _cpu_of_children(), time.perf_counter()
    command = [sys.executable, "-c", FIRST_REPLY, name, url]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said, waited = process.stdout.readline(), time.perf_counter() - began
    assert (said, process.returncode) == ("replied\n", 0), f"{name} got no reply"
    return _cpu_of_children() - before, waited


# --- both --------------------------------------------------------------------------------------------------------------------------


@contextmanager
def _installed() -> Iterator[dict[str, str]]:
    """An environment for interpreters in which byte code is kept, without what makes one of them dearer than it is: a coverage run."""
    with tempfile.TemporaryDirectory() as cache:
        left_out = ("PYTHONDONTWRITEBYTECODE", "COV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        yield {**kept, "PYTHONPYCACHEPREFIX": cache}


def _take_turns(rounds: int, measures: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Round by round, the one that begins changing from round to round; what comes before the first round compiles the byte code."""
    names = list(measures)
    taken: dict[str, list[T]] = {name: [] for name in names}
    for measure in measures.values():
        measure()
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(measures[name]())
    return taken


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --- the report --------------------------------------------------------------------------------------------------------------------


def table_of_imports(taken: Mapping[str, list[float]]) -> str:
    """CPU time of each, and how many times that of ``import httpx``."""
    costs = {code: least(taken, code) for code in taken if code != NOTHING}
    rows = [[code, f"{seconds * 1e3:.0f}", f"{seconds / costs[OTHERS[0]]:.2f}"] for code, seconds in costs.items()]
    return table([["", "CPU ms, least", "to import httpx"], *rows])


def table_of_first_replies(taken: Mapping[str, list[tuple[float, float]]]) -> str:
    """CPU and wall time of each, and both as ratios, round by round, to those of bare httpx."""
    rows = [["", "CPU ms", "wall ms", "CPU to bare httpx", "wall to bare httpx"]]
    for name, rounds in taken.items():
        pairs = list(zip(rounds, taken[HTTPX], strict=True))
        times = [spread([figures[at] * 1e3 for figures in rounds], ".0f") for at in (0, 1)]
        ratios = [spread([own[at] / bare[at] for own, bare in pairs], ".2f") for at in (0, 1)]
        rows.append([name, *times, *(["-", "-"] if name == HTTPX else ratios)])
    return table(rows)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="what importing the package costs, and the way to a first reply")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--tls", action="store_true", help="the first reply over TLS")
    options.add_argument("--json", action="store_true", help="no tables, only the line of JSON")
    chosen = options.parse_args()
    imported = imports(chosen.rounds, (NOTHING, NEEDED, OURS, *OTHERS))
    replied = first_replies(chosen.rounds, tls=chosen.tls)
    if not chosen.json:
        print(f"import, {chosen.rounds} rounds, the interpreter's own start taken off")
        print(table_of_imports(imported))
        print(f"{OURS} / {NEEDED}: {least(imported, OURS) / least(imported, NEEDED):.2f}\n")
        print(f"to the first reply over {'TLS' if chosen.tls else 'plain http'}, {chosen.rounds} rounds: median (min-max)")
        print(table_of_first_replies(replied) + "\n")
    print(line_of_json("imports", vars(chosen), {"cpu_s_of_import": imported, "cpu_s_and_wall_s_to_first_reply": replied}))


if __name__ == "__main__":
    main()
