"""The user's side of a job: orders go in, outcomes come out, and the workers can be seen."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import attrs

from sms4sats_async.batch import Outcome
from sms4sats_async.client import check_order_id
from sms4sats_async.cluster.messages import NotAnOutcome, order_from_json, order_to_json, outcome_from_json
from sms4sats_async.cluster.store import RedisAway, Store, Waiting
from sms4sats_async.models import Order, OrderKind
from sms4sats_async.shelter import on_asyncio

FORGET_EVERY = 0.5
"""Seconds from one time that Redis is told what was read to the next."""

T = TypeVar("T")
_logger = logging.getLogger(__name__)


@attrs.frozen
class WorkerState:
    """What a worker said of itself at its last beat.

    Attributes:
        name: host, process and a word of its own.
        watching: orders that it watches.
        requests_per_second: over the last 10 s.
        share: how many it may make.
        oldest_seconds: for how long its oldest order has been in Redis; ``None`` when it has none.
        silent_seconds: since that beat; one comes every half second.
        left: it has handed back its orders, or was given up.
    """

    name: str
    watching: int
    requests_per_second: float
    share: int
    oldest_seconds: float | None
    silent_seconds: float
    left: bool


@attrs.frozen
class DeadLetter:
    """A message that was no order, or no outcome: its ``reason``, and its fields as they came, which may hold a secret.

    A field of its own that is called ``reason`` is among them as ``its reason``.
    """

    reason: str
    fields: dict[str, bytes] = attrs.field(repr=False)


class Cluster:
    """A job that many workers share; asyncio only.

    ::

        async with Cluster("redis://localhost") as cluster:
            await cluster.submit(order)
            async for outcome in cluster.outcomes():
                print(outcome.order.service, outcome.code or outcome.error)

    Every coroutine waits while Redis does not answer, says so in the log, and goes on when it does: a time-out is yours to set.

    Args:
        url: where Redis is: ``redis://``, ``rediss://`` (TLS) or ``unix://``. Order ids and codes go through it.
        name: of the job, as its workers have it.

    Raises:
        ValueError: ``url`` cannot be read.
        PermissionError: of every coroutine, where Redis does not let us in, or not do what is needed.
        RuntimeError: likewise, where the loop is not asyncio's.
    """

    def __init__(self, url: str, *, name: str = "sms4sats") -> None:
        self._store = Store(url, name)
        self._name = name
        self._latest = 0.0
        self._read: set[str] = set()
        self._forgotten_at = -math.inf

    def __repr__(self) -> str:
        return f"<Cluster {self._name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. The job goes on."""
        try:
            if self._read:
                await self._store.done(self._read)
        except RedisAway:
            _logger.warning("the last %d outcomes that were read will be told again: redis is away", len(self._read))
        finally:
            await self._store.aclose()

    async def submit(self, order: Order | str, *, kind: OrderKind | str | None = None) -> bool:
        """Put an order in to be watched, or the order with this id; returns when Redis has it.

        It can be said again when in doubt: an order that is there already, and has not ended, is not put in twice. ``kind`` is what an
        id is for, as for :class:`OrderWatcher`.

        Returns:
            False if it was there already.

        Raises:
            ValueError, TypeError: it cannot be an order.
        """
        if not isinstance(order, Order):
            check_order_id(order)
            if kind is not None:
                order = Order(order, OrderKind(kind))
        order_id, text = order.id if isinstance(order, Order) else order, order_to_json(order)
        order_from_json(text.encode())  # what no worker could read is refused here
        return bool(await _patiently(lambda: self._store.submit([(order_id, text)])))

    async def outcomes(self, *, reader: str = "reader", forever: bool = False) -> AsyncGenerator[Outcome]:
        """Iterate over the outcomes as they come; the end comes when every order has had its own and all are read.

        An outcome is done with when the next one is asked for, and is forgotten within half a second of that, or as the cluster is closed.
        One that was not is told again to the next reader of this name: a program that dies loses none, and may see its last ones twice.

        Args:
            reader: each outcome goes to one of the readers; two that read at the same time need two names.
            forever: wait for more at the end.
        """
        while True:
            await self._forget()
            more = await _patiently(self._may_come) or forever
            entries = await _patiently(partial(self._store.outcomes, reader, block=more))
            if not (entries or more):
                return
            for entry, fields in entries:
                try:
                    outcome = outcome_from_json(fields.get(b"outcome"))
                except NotAnOutcome as reason:
                    if fields:  # else somebody else has taken it out of Redis
                        _logger.warning("a message is no outcome, and lies with the dead letters: %s", reason)
                        await _patiently(partial(self._store.bury_outcome, (entry, fields), str(reason)))
                else:
                    yield outcome
                self._read.add(entry)
                if anyio.current_time() >= self._forgotten_at + FORGET_EVERY:
                    await self._forget()

    async def _may_come(self) -> bool:
        """Whether there are orders without an end, or Redis has lost its data and the workers will put them back."""
        busy, latest = await self._store.look()
        lost = latest < self._latest
        self._latest = max(latest, self._latest)
        return busy or lost

    async def _forget(self) -> None:
        """Let Redis forget what was read: many at once, because it may wait for its disk each time."""
        if self._read:
            read = set(self._read)
            await _patiently(partial(self._store.done, read))
            self._read -= read  # not before: who is cancelled meanwhile reads none twice
        self._forgotten_at = anyio.current_time()

    async def waiting(self) -> int:
        """Return how many orders have not ended yet."""
        return await _patiently(self._store.waiting)

    async def workers(self) -> list[WorkerState]:
        """Return what the workers say of themselves."""
        now, roll = await _patiently(self._store.roll)
        return [_state(name, record, now) for name, record in sorted(roll.items())]

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the messages that were no orders, or no outcomes."""
        found = await _patiently(self._store.dead_letters)
        letters = [{name.decode(errors="backslashreplace"): value for name, value in fields.items()} for _, fields in found]
        return [DeadLetter(letter.pop("reason").decode(), letter) for letter in letters]


def _state(name: str, record: dict[str, Any], now: float) -> WorkerState:
    said = json.loads(record["state"])
    oldest = said.get("oldest")
    return WorkerState(
        name,
        watching=said.get("watching", 0),
        requests_per_second=said.get("requests_per_second", 0.0),
        share=record["share"],
        oldest_seconds=None if oldest is None else now - oldest,
        silent_seconds=now - record["beat"] / 1000,
        left=record["left"],
    )


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until Redis answers."""
    if not on_asyncio():
        raise RuntimeError("a cluster needs asyncio: Redis's client does")
    waiting = Waiting()
    while True:
        try:
            return await ask()
        except RedisAway as away:
            await waiting.wait(away)
