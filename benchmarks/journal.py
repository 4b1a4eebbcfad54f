"""What the journal costs on the loop's thread: CPU per order event, beside a bare httpx call.

    python -m benchmarks.journal [--rounds 9] [--orders 200]

An order has six events: its intent and itself, which are waited for, and what a watcher sees: begun, paid, number, end. Both sides take
turns in one process; CPU time is that of the loop's thread alone. A ratio is that of the same round.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import anyio
import httpx

from benchmarks._serving import status_server
from sms4sats_async.journal import Journal
from sms4sats_async.models import Order, OrderKind

EVENTS = 6
INVOICE = "lnbc15u1" + "q" * 300


async def life(journal: Journal, name: str) -> None:
    """All the events of an order."""
    row = await journal.intend(OrderKind.receive, country=187, service="tg", price_sats=None, prepaid=False)
    order = Order(name, payreq=INVOICE, amount_sats=1500, country=187, service="tg")
    await journal.placed(row, order)
    journal.watched(order, bare=False)
    journal.saw(name, paid=True, number=None, code=None, cancel=None)
    journal.saw(name, paid=True, number="+12025550143", code="004217", cancel=None)
    journal.ended(name, "code")


async def measure(url: str, path: Path, rounds: int, orders: int) -> tuple[list[tuple[float, float]], float]:
    """CPU seconds of a bare call and of an event, round by round; and the bytes of the file for an order."""
    found: list[tuple[float, float]] = []
    journal = Journal(path)
    async with journal, httpx.AsyncClient(trust_env=False) as client:
        for number in range(rounds):
            began = time.thread_time()
            for _ in range(orders):
                (await client.get(url)).json()
            middle = time.thread_time()
            for one in range(orders):
                await life(journal, f"{number:016}{one:016}")
            found.append(((middle - began) / orders, (time.thread_time() - middle) / orders / EVENTS))
    return found, path.stat().st_size / rounds / orders  # noqa: ASYNC240 - it is over


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.journal")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--orders", type=int, default=200)
    options = parser.parse_args()
    for backend in ("asyncio", "trio"):
        with status_server() as server, tempfile.TemporaryDirectory() as place:
            target = f"{server.url}/orderstatus?orderId={'a' * 32}"
            found, size = anyio.run(measure, target, Path(place) / "orders.db", options.rounds, options.orders, backend=backend)
        ratios = sorted(event / call for call, event in found)
        call, event = (statistics.median(column) * 1e6 for column in zip(*found, strict=True))
        print(f"{backend}: a bare call {call:.0f} us, an event {event:.0f} us; ratio {statistics.median(ratios):.3f}", end=" ")
        print(f"({ratios[0]:.3f} to {ratios[-1]:.3f}); {size:.0f} bytes of the file for an order")


if __name__ == "__main__":
    main()
