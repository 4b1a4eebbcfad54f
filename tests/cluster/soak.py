"""Thousands of orders, workers that are killed, and Redis killed and started again in the middle: real processes, in real time.

    python -m tests.cluster.soak --orders 20000 --rate 800 --per-second 80 --code-from 5 --code-to 40 --kill-first 60 --kill-second 130

Two of the three workers are killed with SIGKILL, the second of them with Redis, which starts again. The truth is the service's: it has
noted when it was asked about which order. The turns are noted where they are given, in the workers.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import anyio
import attrs

from sms4sats_async import Order, Outcome
from sms4sats_async.cluster import Cluster
from tests.cluster.jobs import PATIENCE, Processes, asked, code_of, order_id, permits, processes, service
from tests.cluster.redis_server import RedisServer
from tests.test_agenda import most_in_a_second


@attrs.frozen
class Plan:
    """What is to happen. Times are seconds from the first order on."""

    orders: int = 2000
    rate: int = 240
    per_second: float = 1000.0
    """How many orders are put in in a second."""
    code_from: float = 10.0
    code_to: float = 30.0
    kill_first: float = 6.0
    kill_second: float = 14.0
    kills: int = 2
    """How many workers are killed; Redis is at ``kill_second``, whatever this is."""
    redis_away: float = 3.0
    keep_share: float = 10.0
    give_up_after: float = 12.0
    workers: int = 3
    seed: int = 1


@attrs.frozen
class Figures:
    """What was seen."""

    outcomes: int
    told_twice: int
    lost: int
    wrong: int
    cancels: int
    seconds: float
    requests: int
    most_permits: int
    most_arrived: int
    orphans: tuple[int, ...]
    """How many orders each worker that was killed watched then."""
    watched_again: float
    """The longest that an order waited for its first look after its worker's death, in seconds."""
    delays: tuple[float, float, float]
    """From the code to its outcome, in seconds: half, 95 %, most."""
    workers_left: int
    paused_after: float
    """From Redis's end to the last turn before it is back, in seconds."""
    went_on_after: float
    """From its return to the next turn."""


async def run(plan: Plan, place: Path) -> Figures:
    with RedisServer(place) as redis, processes(place) as there:
        url = service(there)
        arguments = [
            *("--redis", redis.url, "--base-url", url, "--rate", str(plan.rate), "--capacity", str(plan.orders)),
            *("--keep-share", str(plan.keep_share), "--give-up-after", str(plan.give_up_after)),
        ]
        workers = [there.start("tests.cluster.worker", str(place), *arguments, name=f"worker{n}") for n in range(plan.workers)]
        deaths: list[float] = []
        away: list[float] = []
        outcomes: list[tuple[Outcome, float]] = []
        rng = random.Random(plan.seed)  # noqa: S311 - a schedule, the same each time
        ids = [order_id(n, 1 + rng.random(), rng.uniform(plan.code_from, plan.code_to)) for n in range(plan.orders)]
        orphans: list[int] = []
        async with Cluster(redis.url) as cluster:
            with anyio.fail_after(PATIENCE):
                while len([state for state in await cluster.workers() if state.share]) < plan.workers:  # noqa: ASYNC110 - of other processes
                    await anyio.sleep(0.1)
            began = time.monotonic()

            async def submit() -> None:
                for number, one in enumerate(ids):
                    await anyio.sleep(max(0.0, began + number / plan.per_second - time.monotonic()))
                    await cluster.submit(Order(one))

            async def read() -> None:
                with anyio.CancelScope() as patience:  # what is lost must not be waited for without end
                    while len({outcome.order.id for outcome, _ in outcomes}) < plan.orders:
                        patience.deadline = anyio.current_time() + plan.code_to + plan.redis_away + 2 * PATIENCE
                        async for outcome in cluster.outcomes():
                            patience.deadline = anyio.current_time() + plan.code_to + plan.redis_away + 2 * PATIENCE
                            outcomes.append((outcome, time.monotonic()))
                        await anyio.sleep(0.1)

            async def kill() -> None:
                for worker, at in zip(workers, (plan.kill_first, plan.kill_second)[: plan.kills], strict=False):
                    await anyio.sleep(max(0.0, began + at - time.monotonic()))
                    orphans.extend(state.watching for state in await cluster.workers() if f"-{worker.pid}-" in state.name)
                    worker.send_signal(signal.SIGKILL)
                    deaths.append(time.monotonic())
                if plan.redis_away:  # pragma: no branch - not, to see how fast it is
                    await anyio.sleep(max(0.0, began + plan.kill_second - time.monotonic()))
                    redis.kill()
                    away.append(time.monotonic())
                    await anyio.sleep(plan.redis_away)
                    away.append(time.monotonic())
                    redis.start()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(submit)
                tasks.start_soon(kill)
                tasks.start_soon(read)
            seconds = time.monotonic() - began
        left = sum(worker.poll() is None for worker in workers)
        return _figures(plan, there, ids, outcomes, deaths, orphans, away, left, seconds)


def _figures(  # noqa: PLR0917
    plan: Plan,
    there: Processes,
    ids: list[str],
    outcomes: list[tuple[Outcome, float]],
    deaths: list[float],
    orphans: list[int],
    away: list[float],
    left: int,
    seconds: float,
) -> Figures:
    looks = asked(there)
    told = Counter(outcome.order.id for outcome, _ in outcomes)
    right = {outcome.order.id for outcome, _ in outcomes if outcome.code == code_of(outcome.order.id)}
    came = {outcome.order.id: at for outcome, at in outcomes}
    delays = sorted(came[one] - looks[one][0] - int(one.split("-")[2]) / 1000 for one in ids if one in came)
    gaps = [
        min((at for at in looks[one] if at > death), default=came.get(one, death)) - death
        for death in deaths
        for one in ids
        if looks[one] and looks[one][0] < death < came.get(one, 0.0)
    ]
    turns = permits(there)
    arrivals = sorted(at for times in looks.values() for at in times)
    return Figures(
        outcomes=len(told),
        told_twice=len(outcomes) - len(told),
        lost=len(set(ids) - right),
        wrong=len(told.keys() - right),
        cancels=sum(one.startswith("-") for one in looks),
        seconds=round(seconds, 1),
        requests=len(turns),
        most_permits=most_in_a_second(turns),
        most_arrived=most_in_a_second(arrivals),
        orphans=tuple(orphans),
        watched_again=round(max(gaps, default=0.0), 1),
        delays=tuple(round(delays[int(part * (len(delays) - 1))], 1) for part in (0.5, 0.95, 1.0)),  # type: ignore[arg-type]
        workers_left=left,
        paused_after=round(max((at - away[0] for at in turns if away and at < away[1]), default=0.0), 1),
        went_on_after=round(min((at - away[1] for at in turns if away and at > away[1]), default=0.0), 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.soak", description="Kill workers and Redis amid thousands of orders.")
    for field in attrs.fields(Plan):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="r") as place:
        figures = anyio.run(run, plan, Path(place))
        for log in sorted(Path(place).glob("worker*.log")):
            print(log.name, log.read_text(), sep="\n", file=sys.stderr)
    print(json.dumps(attrs.asdict(figures), indent=2))
    bad = figures.lost or figures.wrong or figures.cancels or figures.most_permits > plan.rate
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
