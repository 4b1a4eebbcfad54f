"""Run a command's work in an event loop, so that Ctrl-C and its like come in at one place, at any moment, and nothing is forgotten."""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import logging
import math
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import attrs

from sms4sats_async.cli.screen import Answer, Screen
from sms4sats_async.client import BASE_URL, Client
from sms4sats_async.journal import Journal
from sms4sats_async.models import Order
from sms4sats_async.sandbox import Sandbox, Timeline

if TYPE_CHECKING:
    from sms4sats_async.transport import AsyncBaseTransport

T = TypeVar("T")

KEY_VARIABLE = "SMS4SATS_API_KEY"
JOURNAL_VARIABLE = "SMS4SATS_JOURNAL"
SANDBOX_SPEED = 12.0
"""How fast ``--sandbox`` is: a code after 2 s to look at the invoice and 4 s to look at the rest."""
SANDBOX_PAID_AFTER = 24.0
"""Seconds of sandbox time after which the invoice pays itself."""
SANDBOX_KEY, SANDBOX_SATS = "sandbox", 100_000


class Stopped(Exception):
    """The work was interrupted before its end.

    Attributes:
        notes: what the client has to say about a call that was under way.
    """

    def __init__(self, notes: list[str]) -> None:
        super().__init__("interrupted")
        self.notes = notes


class Signals:
    """Ctrl-C, SIGTERM and SIGHUP.

    Attributes:
        count: how many have come.
        told: called when one comes, to tell the person what happens now.
    """

    def __init__(self) -> None:
        self.count = 0
        self.told: Callable[[], object] = int
        self._scope = anyio.CancelScope()

    async def listen(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Take them in, for ever."""
        async for _ in signals:
            self.count += 1
            if self.count == 1:
                self.told()
            self._scope.cancel()

    async def interruptible(self, work: Callable[[], Awaitable[T]], *, anew: bool = False, seconds: float = math.inf) -> T:
        """Return what the work returns.

        Args:
            work: what is to be done, until a signal comes.
            anew: do it although one has come; the next one stops it.
            seconds: how long it may take.

        Raises:
            Stopped: it was stopped, or took longer.
        """
        notes: list[str] = []
        self._scope = scope = anyio.move_on_after(seconds)
        with scope:
            if self.count and not anew:
                scope.cancel()
            try:
                return await work()
            except anyio.get_cancelled_exc_class() as cancellation:
                notes += getattr(cancellation, "__notes__", [])
                raise
        raise Stopped(notes)


@attrs.frozen
class Options:
    """What every command is told.

    Attributes:
        as_json: answer in JSON.
        sandbox: talk to a service in memory.
        base_url: where the API is; ``None`` for the service's own.
        backend: ``asyncio`` or ``trio``.
        journal: the file that remembers the orders; ``None`` for none. The sandbox's orders are not worth it.
    """

    as_json: bool = False
    sandbox: bool = False
    base_url: str | None = None
    backend: str = "asyncio"
    journal: str | None = None


@contextmanager
def _signals() -> Generator[AsyncIterator[signal.Signals]]:
    """Take in what asks this process to end, while the block lasts; after it all that is left is to say what came of it, in peace."""
    taken = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means it
        taken.append(signal.SIGHUP)
    try:
        with anyio.open_signal_receiver(*taken) as received:
            yield received
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_IGN)


@attrs.frozen
class Surroundings:
    """What a test puts in the place of the world.

    Attributes:
        transport: where the requests go; ``None`` for the network.
        backend_options: of the event loop.
        screen: makes what is shown beside the answer.
        signals: takes in the signals, while its block lasts.
    """

    transport: AsyncBaseTransport | None = None
    backend_options: dict[str, Any] = attrs.field(factory=dict[str, Any])
    screen: Callable[[], Screen] = Screen
    signals: Callable[[], AbstractContextManager[AsyncIterator[signal.Signals]]] = _signals


@attrs.define(eq=False)
class Desk:
    """What a command works with.

    Attributes:
        client: the service.
        screen: what is shown beside the answer.
        signals: Ctrl-C, SIGTERM and SIGHUP.
        give: writes an answer to standard output, at once.
        speed: how much faster than the real service this one is.
        journal: remembers the orders; ``None`` where nothing does.
        order: the order that the command is about; ``None`` until there is one.
    """

    client: Client
    screen: Screen
    signals: Signals
    give: Callable[[Answer], None]
    speed: float = 1.0
    journal: Journal | None = None
    order: Order | None = None


class MissingKey(Exception):
    """The command needs an API key, and the environment has none."""


def _journal(options: Options) -> Journal | None:
    """Return the journal for a command. A code is where it belongs when the command is over."""
    return Journal(options.journal, settle_after=math.inf) if options.journal and not options.sandbox else None


def _client(
    options: Options, surroundings: Surroundings, journal: Journal | None, *, keyed: bool, offers_key: bool
) -> tuple[Client, float]:
    """Return the client for a command, and how fast its service is."""
    if options.sandbox:
        plan = attrs.evolve(Timeline.typical(), paid_after=SANDBOX_PAID_AFTER)
        sandbox = Sandbox(timeline=plan, speed=SANDBOX_SPEED, accounts={SANDBOX_KEY: SANDBOX_SATS})
        return Client(api_key=SANDBOX_KEY, transport=sandbox.transport()), SANDBOX_SPEED
    key = (os.environ.get(KEY_VARIABLE) or None) if keyed or offers_key else None
    if keyed and not key:
        raise MissingKey(f"{KEY_VARIABLE} is not set: the API key comes from the environment, and from nowhere else")
    url = BASE_URL if options.base_url is None else options.base_url
    return Client(api_key=key, base_url=url, transport=surroundings.transport, journal=journal), 1.0


@attrs.frozen
class Task:
    """What a command has to do.

    Attributes:
        work: does it.
        keyed: does it need an API key?
        follows: does it go on after an answer?
        offers_key: does it take an API key where there is one?
        reads_journal: is it about what a journal has already?
    """

    work: Callable[[Desk], Awaitable[None]]
    keyed: bool = False
    follows: bool = False
    offers_key: bool = False
    reads_journal: bool = False


def run(task: Task, options: Options, surroundings: Surroundings, *, screen: Screen, give: Callable[[Answer], None]) -> None:
    """Do a command's work to its end, in an event loop of its own, and raise what it raises."""
    failure: Exception | None = None

    async def main() -> None:
        nonlocal failure
        signals = Signals()
        with surroundings.signals() as received:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(signals.listen, received)
                try:
                    journal = _journal(options)
                    client, speed = _client(options, surroundings, journal, keyed=task.keyed, offers_key=task.offers_key)
                    async with journal or nullcontext(), client:
                        await task.work(Desk(client, screen, signals, give, speed, journal))
                except Exception as error:  # noqa: BLE001 - handed over, so that no group is made of it
                    failure = error
                tasks.cancel_scope.cancel()

    logging.getLogger("sms4sats_async").addHandler(logging.NullHandler())  # the screen tells a person what the log would
    anyio.run(main, backend=options.backend, backend_options=surroundings.backend_options)
    if failure is not None:
        raise failure
