"""A program that places and watches orders is killed at random moments, again and again, and goes on each time where it was.

    python -m tests.crash --times 1000 --seed 1    # about 7 minutes

Ctrl-C or SIGTERM ends the killing, and the verdict is that of the kills so far.

The service (``tests/faults/service.py``, over real sockets) is the only judge, with what the program has written down of its codes: every
order that was charged is in the journal, with its id or as unresolved; no code is lost of an order whose id is in it; no call was charged
twice. Just before each kill the process is stopped and the files of the journal are copied: as if the power had gone. Each copy must open,
and be true.

The killed processes are forks of one that has imported everything, so that a kill takes as long as the program has lived.
"""

import argparse
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

import sms4sats_async
from sms4sats_async import Client, Intent, Journal, Order, OrderWatcher, Sms4SatsError, resume
from sms4sats_async.book import Book
from tests.conftest import HAS_TRIO
from tests.faults.service import NEVER, Fault, Held, Service, cut, resets, slow, stalls
from tests.servers import Reply, SeenRequest, json_reply, serve

OURS = os.environ | {"PYTHONPATH": str(Path(sms4sats_async.__file__).parents[1])}
"""The environment of the processes: they meet the package that this one has met."""
CALLS = 3
"""Calls that a process makes: two that charge the balance, one with an invoice."""
LONGEST_LIFE = 0.4
"""Seconds that a process lives at the most, from its first request or, one of four, from its beginning."""
SLOWEST_START = 5.0
"""Seconds after which a process that has not asked anything yet is killed as well."""
PATIENCE = 60.0
"""Seconds after which what should come counts as never coming. No process lives longer, whoever has forgotten it."""


# --- the program that is killed ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a process is to do.

    Attributes:
        first: the number of its first call.
        lives: how many seconds it lives at least, also when there is nothing left to do.
        codes: where it writes down each code that it has.
    """

    url: str
    journal: str
    codes: str
    first: int
    lives: float
    backend: str


class Program:
    """Places orders, pays their invoices, and writes down their codes; before and beside that, goes on with what others have left."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._codes = os.open(job.codes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def run(self) -> None:
        journal = Journal(self._job.journal)
        client = Client(base_url=self._job.url, api_key="key", journal=journal, timeout=1.0, trust_env=False)
        async with journal, client, anyio.create_task_group() as tasks:
            tasks.cancel_scope.deadline = anyio.current_time() + PATIENCE
            tasks.start_soon(anyio.sleep, self._job.lives)
            tasks.start_soon(self._go_on, client, journal)
            for number in range(CALLS):
                tasks.start_soon(self._buy, client, number)

    async def _go_on(self, client: Client, journal: Journal) -> None:
        async with resume(client, journal, poll_interval=1, payment_window=2) as batch:  # nobody pays what a dead one has not
            async for outcome in batch:
                if outcome.code is not None:  # pragma: no branch - as it comes: most are killed before
                    self._write(outcome.order, outcome.code)

    async def _buy(self, client: Client, number: int) -> None:
        call = self._job.first + number
        with suppress(Sms4SatsError):  # the journal has what is to be known of it
            if number == 0:
                order = await client.create_order(call, "tg", ref=f"{call}")
                await self._pay(order)
            else:
                order = await client.create_order(call, "tg", ref=f"{call}", immediate=True, max_sats=5000)
            async with OrderWatcher(client, order, poll_interval=1) as watcher:
                self._write(order, await watcher.code())

    async def _pay(self, order: Order) -> None:
        host, _, port = self._job.url.removeprefix("http://").partition(":")
        async with await anyio.connect_tcp(host, int(port)) as wallet:
            await wallet.send(f"GET /pay?orderId={order.id} HTTP/1.1\r\nHost: wallet\r\n\r\n".encode())
            await wallet.receive()

    def _write(self, order: Order, code: str) -> None:
        os.write(self._codes, f"{order.id} {code}\n".encode())


def fork() -> None:
    """Begin a process for each job that comes by standard input, and tell its number, that it is stopped, and how it has ended."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            job = Job(**json.loads(line))
            sys.exit(anyio.run(Program(job).run, backend=job.backend))
        print(child, flush=True)
        status = os.waitpid(child, os.WUNTRACED)[1]
        if os.WIFSTOPPED(status):
            print("stopped", flush=True)
            status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


class Forker:
    """The process that all the others are forks of."""

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "tests.crash", "--fork"]
        self._process: Process = await anyio.open_process(
            command, stderr=None, env=OURS, start_new_session=True
        )  # a Ctrl-C is for the judge
        assert self._process.stdout is not None
        self._told = TextReceiveStream(self._process.stdout)
        self._unread = ""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.aclose()  # which ends it: nothing comes by its standard input any more

    async def begin(self, job: Job) -> None:
        """Begin a process."""
        assert self._process.stdin is not None
        await self._process.stdin.send(json.dumps(vars(job)).encode() + b"\n")
        self._child = int(await self._line())

    async def stop(self) -> None:
        """Stop it, with all of its threads."""
        os.kill(self._child, signal.SIGSTOP)
        assert await self._line() == "stopped"

    async def kill(self) -> None:
        """Kill it."""
        os.kill(self._child, signal.SIGKILL)
        assert await self.end() == -signal.SIGKILL

    async def end(self) -> int:
        """How it has ended."""
        return int(await self._line())

    async def _line(self) -> str:
        with anyio.fail_after(PATIENCE):
            while "\n" not in self._unread:
                self._unread += await self._told.receive()
        line, _, self._unread = self._unread.partition("\n")
        return line


# --- the judge ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What came of it. The lists should be empty."""

    kills: int = 0
    charged: int = 0
    with_id: int = 0
    unresolved: int = 0
    codes: int = 0
    forgotten: list[str] = field(default_factory=list)
    """Orders that were charged, and are not in the journal."""
    lost: list[str] = field(default_factory=list)
    """Codes that nobody has got, of orders in the journal."""
    twice: list[str] = field(default_factory=list)
    """Calls that were charged more than once."""
    untrue: list[str] = field(default_factory=list)
    """What was wrong with a copy."""

    @property
    def good(self) -> bool:
        return not (self.forgotten or self.lost or self.twice or self.untrue)


class Judge:
    """Knows what was charged, and what the journal says.

    Args:
        place: an empty directory.
        tell: gets a line of how it goes, after each ``every`` kills.
    """

    def __init__(self, place: Path, dice: random.Random, tell: Callable[[str], object] = str, every: int = 50) -> None:
        self._place = place
        self._dice = dice
        self._tell, self._every = tell, every
        self._journal = place / "orders.db"
        self._codes = place / "codes"
        self._service = Service(self._fault, born=self._born)
        self._stopped = False
        self._asked = anyio.Event()
        self.verdict = Verdict()

    async def run(self, times: int) -> Verdict:
        async with serve(self._answer) as server, Forker() as forker:
            backends = ["asyncio", "trio"] if HAS_TRIO else ["asyncio"]
            job = functools.partial(Job, server.url, str(self._journal), str(self._codes))
            began = time.monotonic()
            for number in range(times):
                if self._stopped:
                    break
                self._asked = anyio.Event()
                await forker.begin(job(number * CALLS, PATIENCE, backends[number % len(backends)]))
                await self._live()
                await forker.stop()
                self._judge_a_copy()
                await forker.kill()
                self.verdict.kills += 1
                if self.verdict.kills % self._every == 0:
                    each = (time.monotonic() - began) / self.verdict.kills
                    self._tell(f"{self.verdict.kills} kills, {each:.2f} s each, {len(self._charged())} orders charged")
            await forker.begin(job(times * CALLS, 0, backends[0]))
            assert await forker.end() == 0, "the last one did not end well"
        self._judge()
        return self.verdict

    def stop(self) -> None:
        """Kill nobody else, and come to a verdict."""
        self._stopped = True

    async def _live(self) -> None:
        """Let a process live for a while; one that is counted from its beginning may be over before it does anything."""
        if self._dice.random() > 0.25:
            with anyio.move_on_after(SLOWEST_START):
                await self._asked.wait()
        await anyio.sleep(self._dice.uniform(0, LONGEST_LIFE))

    def _judge_a_copy(self) -> None:
        """Copy the files as they are on the disk just now, as if the power had gone, and see what is in them."""
        charged = self._charged()
        copy = self._place / "copy.db"
        for end in ("", "-wal"):
            found, to = self._journal.with_name(self._journal.name + end), copy.with_name(copy.name + end)
            to.unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # it is killed before it has begun
                shutil.copyfile(found, to)
        known, unresolved = _read(copy)
        self.verdict.untrue += [f"{order_id} is not in the copy" for order_id in _forgotten(charged, known, unresolved)]
        self.verdict.untrue += [f"{order_id} was never ordered" for order_id in known if order_id not in self._service.orders]

    def _charged(self) -> list[Held]:
        """What was charged to the balance, or is paid for."""
        return [held for held in self._service.orders.values() if held.paid_at < NEVER]

    def _judge(self) -> None:
        verdict, charged = self.verdict, self._charged()
        known, unresolved = _read(self._journal)
        got = dict(line.split() for line in self._codes.read_text().splitlines())
        verdict.charged, verdict.with_id, verdict.unresolved = len(charged), sum(held.id in known for held in charged), len(unresolved)
        verdict.forgotten = _forgotten(charged, known, unresolved)
        verdict.codes = len(got)
        settled = [held for held in charged if held.settled_at < NEVER and held.id in known]
        verdict.lost = [held.id for held in settled if got.get(held.id) != held.code]
        verdict.twice = [call for call, times in Counter(held.ref or "" for held in charged).items() if times > 1]

    # --- the service -----------------------------------------------------------------------------------------------------------

    def _born(self, held: Held) -> None:
        held.cancel_from = 0.0
        if held.prepaid:
            self._soon(held)

    def _soon(self, held: Held) -> None:
        held.code = f"{self._dice.randrange(10**6):06}"
        held.number_at = held.paid_at + self._dice.uniform(0, 0.2)
        held.code_at = held.number_at + self._dice.uniform(0, 0.6)

    async def _answer(self, request: SeenRequest, reply: Reply) -> None:
        self._asked.set()
        path, _, order_id = request.target.partition("?orderId=")
        if path == "/pay":
            self._soon(self._service.pay(order_id))
            await reply.raw(json_reply({}))
        else:
            await self._service(request, reply)

    def _fault(self, request: SeenRequest, _: Held | None) -> Fault | None:
        if self._dice.random() > 0.2:
            return None
        stall = [stalls, cut(150)] if request.method == "POST" else []
        return self._dice.choice([cut(40), resets, slow(0.1), *stall])


def _read(journal: Path) -> tuple[set[str], list[Intent]]:
    """The ids that a journal has, and its unresolved intents."""
    book = Book(journal, keep_codes=False, settle_after=10.0, busy_timeout=5.0)
    try:
        return {entry.order.id for entry in book.all_orders()}, book.unresolved()
    finally:
        book.close()


def _forgotten(charged: list[Held], known: set[str], unresolved: list[Intent]) -> list[str]:
    """The orders that are not in the journal, neither with their ids nor as calls of unknown outcome."""
    calls = {str(intent.country) for intent in unresolved}
    return [held.id for held in charged if held.id not in known and held.ref not in calls]


def memory() -> Path | None:
    """A place in memory, where there is one: a kill takes nothing from the system's files, and a slow disk would leave no time to live."""
    place = Path("/dev/shm")  # noqa: S108 - the directories in it are for their owner only
    return place if os.access(place, os.W_OK) else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description="Kill a program at random moments.")
    parser.add_argument("--times", type=int, default=1000, help="how often (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (default: %(default)s)")
    parser.add_argument("--every", type=int, default=50, help="kills after which it is told how it goes (default: %(default)s)")
    parser.add_argument("--fork", action="store_true", help=argparse.SUPPRESS)
    options: Any = parser.parse_args(arguments)
    if options.fork:
        fork()
        return 0
    with tempfile.TemporaryDirectory(dir=memory()) as place:
        judge = Judge(Path(place), random.Random(options.seed), functools.partial(print, flush=True), options.every)  # noqa: S311 - dice
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: judge.stop())
        return pronounce(anyio.run(judge.run, options.times))


def pronounce(verdict: Verdict) -> int:
    print(verdict)
    print("good" if verdict.good else "BAD")
    return not verdict.good


if __name__ == "__main__":
    sys.exit(main())
