"""A worker: it takes orders from Redis as it has room, watches them in one batch, and tells how each has ended."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterable, Iterable
from itertools import islice
from typing import Self

import anyio

from sms4sats_async.agenda import SLACK
from sms4sats_async.batch import BatchWatcher, Outcome
from sms4sats_async.client import Client, check_count
from sms4sats_async.cluster.messages import NotAnOrder, order_from_json, order_to_json, outcome_to_json
from sms4sats_async.cluster.store import AGAIN, Beat, Entry, Pulse, RedisAway, Store, Telling, Waiting
from sms4sats_async.errors import OrderUnresolved
from sms4sats_async.lifecycle import HOLD_WINDOW, LAST_STEPS, PAYMENT_WINDOW, Pace
from sms4sats_async.models import Order, OrderKind
from sms4sats_async.shelter import on_asyncio, one_of
from sms4sats_async.steps import positive

CAPACITY = 5_000
"""Orders that a worker watches at once, before it takes no new ones. Those of a dead worker it takes all the same."""
KEEP_SHARE = 10.0
"""Seconds without Redis for which a worker goes on with its last share of the rate."""
GIVE_UP_AFTER = 12.0
"""Seconds without a beat after which a worker's orders are taken over: longer than it keeps its share, so that nobody asks twice."""
BEAT = 0.5
"""Seconds from one beat to the next."""
CHUNK = 100
"""Orders that are taken at once, or outcomes told; and by how many more than its fair part a worker may watch before it leaves new ones."""
RESCUES = 10
"""Such chunks that are taken over at one beat."""
LAST_WORDS = 5.0
"""Seconds that a worker which stops waits for Redis to tell it what is untold."""
COUNTED = 10.0
"""Seconds over which the requests of a second are counted."""
REPORT = 30.0
"""Seconds from one line about the state in the log to the next."""
SECOND = 1.0

_logger = logging.getLogger(__name__)


class Worker:
    """Watch a job's orders, together with any number of other workers; asyncio only.

    ::

        async with Client() as client:
            await Worker(client, "redis://localhost", rate=50).run()

    It takes orders from Redis as it has room, and watches each by the rules of :class:`BatchWatcher`. The order's end, and nothing else,
    takes it out of Redis, in one step with telling its outcome. Nothing that a worker does ends an order but its window.

    Args:
        client: its ``max_connections`` is how many requests the worker has under way at once.
        url: where Redis is: ``redis://``, ``rediss://`` (TLS) or ``unix://``. Order ids and codes go through it.
        rate: requests in any one second that all the job's workers together make at the most, cancels included. Redis gives each worker
            its share, in whole requests and by how many orders it watches; where workers were given different rates, the lowest counts.
        name: of the job; each name has orders, outcomes and a rate of its own.
        capacity: how many orders it watches before it takes no new ones.
        hold_window, payment_window, poll_interval: as for :class:`OrderWatcher`. They count anew when an order changes hands.
        keep_share: seconds without Redis for which it goes on with its last share; then it makes no requests until Redis is back.
        give_up_after: seconds without a sign of life after which its orders are taken over by others; more than ``keep_share``. Give the
            same of both to all workers.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        *,
        rate: int,
        name: str = "sms4sats",
        capacity: int = CAPACITY,
        hold_window: float | None = HOLD_WINDOW,
        payment_window: float | None = PAYMENT_WINDOW,
        poll_interval: float | Pace | None = None,
        keep_share: float = KEEP_SHARE,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> None:
        check_count("rate", rate)
        check_count("capacity", capacity)
        if not positive("keep_share", keep_share) + SECOND < positive("give_up_after", give_up_after) < math.inf:
            raise ValueError("give_up_after must be more than a second longer than keep_share, and finite")
        self.client = client
        self.rate = rate
        self.capacity = capacity
        self.keep_share = keep_share
        self.give_up_after = give_up_after
        self._windows = (hold_window, payment_window, poll_interval)
        self._session: _Session | None = None
        self._begun = False
        self._stopping = False
        self._rest: anyio.CancelScope | None = None
        self._homeless: dict[str, Order | str] = {}
        self.let_in = False
        self.heard: tuple[str, float] = ("", 0.0)
        self.loan = _Loan()
        self.untold: deque[Telling] = deque()
        self.store = Store(url, name)
        self.new_batch(())  # a bad argument is told here

    def __repr__(self) -> str:
        return f"<Worker {'at rest' if self._session is None else self._session.name}>"

    def new_batch(self, orders: AsyncIterable[Order] | tuple[()]) -> BatchWatcher:
        """Make a batch that leaves open orders alone and may make no request yet."""
        hold_window, payment_window, poll_interval = self._windows
        return BatchWatcher(
            self.client,
            orders,
            hold_window=hold_window,
            payment_window=payment_window,
            poll_interval=poll_interval,
            max_rate=1,
            max_watching=10**9,  # how many are taken is decided where they are taken
            cancel_on_exit=False,
        )

    @property
    def watching(self) -> int:
        """How many orders it watches."""
        return 0 if self._session is None else len(self._session.orders)

    def stop(self) -> None:
        """Hand back all orders, and let :meth:`run` return. To be called in the loop's own thread."""
        self._stopping = True
        if self._rest is not None:
            self._rest.cancel()
        if self._session is not None:
            self._session.end("it stops")

    async def run(self) -> None:
        """Work until :meth:`stop`, or until the task is cancelled: either way the orders are handed back, at once, and none is cancelled.

        Redis may go and come: codes that came meanwhile are told when it is back.

        Raises:
            RuntimeError: not on asyncio; or the client was closed; or it was run before.
            PermissionError: Redis does not let us in, or not do what is needed; said at the start only.
        """
        if not on_asyncio():
            raise RuntimeError("a worker needs asyncio: Redis's client does")
        if self._begun:
            raise RuntimeError("a worker can be run once")
        self._begun = True
        async with self.store:
            try:
                with anyio.CancelScope() as self._rest:
                    await self._first_word()
                while not self._stopping:
                    self._session = _Session(self)
                    why = await self._session.run()
                    if self._stopping:
                        break
                    _logger.warning("a new start: %s", why)
                    with anyio.CancelScope() as self._rest:
                        await anyio.sleep(SECOND)  # what was asked just now counts in this second
                        await self.settle(math.inf)
            finally:
                await self._last_words()
                self._session = None

    async def _first_word(self) -> None:
        """Wait for Redis, which may start later than we do."""
        waiting = Waiting()
        while not self._stopping:
            try:
                await self.store.check()
            except RedisAway as away:
                await waiting.wait(away)
            else:
                return

    async def put_back(self, orders: Iterable[tuple[str, Order | str]]) -> None:
        """Put these orders in anew, each with its id, because Redis has lost them."""
        self._homeless.update(orders)
        await self.settle(SECOND)

    async def settle(self, seconds: float) -> None:
        """Put back what Redis has lost, and tell what is untold; give up after so many seconds."""
        with anyio.move_on_after(seconds):
            while self._homeless or self.untold:
                try:
                    while self._homeless:
                        orders = list(islice(self._homeless.items(), CHUNK))
                        await self.store.submit((order_id, order_to_json(order)) for order_id, order in orders)
                        for order_id, _ in orders:
                            del self._homeless[order_id]
                    while self.untold:
                        tellings = list(islice(self.untold, CHUNK))  # there may be more when they are told
                        name, heard = self.heard
                        await self.store.tell(tellings, worker=name, heard=heard, keep_share=self.keep_share)
                        assert self._session is not None  # whose outcomes they are  # noqa: S101
                        for told in tellings:
                            self.untold.popleft()
                            self._session.let_go(told)
                except RedisAway:
                    await anyio.sleep(AGAIN)

    async def _last_words(self) -> None:
        with anyio.CancelScope(shield=True):
            await self.settle(LAST_WORDS)
        self._say_what_is_left()

    def _say_what_is_left(self) -> None:
        if self.untold:
            words = "%d outcomes could not be told: their orders are watched again, unless Redis has lost its data"
            _logger.warning(words, len(self.untold))
        if self._homeless:
            _logger.error("%d orders are lost: Redis had lost its data, and has not taken them back", len(self._homeless))


class _Loan:
    """The share of the rate, and what was used of it lately."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, int]] = deque()
        self.share = 0
        self.until = -math.inf

    def take(self, share: int, now: float, until: float) -> None:
        """From now on it is so much, until then."""
        self._past.append((min(now, self.until), self.share))
        self.share, self.until = share, until
        while self._past and self._past[0][0] <= now - SECOND:
            self._past.popleft()

    def used(self, now: float) -> int:
        """Return the most that was allowed at any moment of the last second."""
        return max((share for ended, share in (*self._past, (self.until, self.share)) if ended > now - SECOND), default=0)

    def left(self, now: float) -> int:
        """Return what is allowed now."""
        return self.share if now < self.until else 0


class _None:
    """The orders of a batch that is given each of them by its owner: none by themselves, and no end."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Order:
        await anyio.sleep_forever()
        raise AssertionError("nobody wakes it")


class _Session:
    """A worker under one name, with one batch, from its first beat until Redis has forgotten it, or others have given it up."""

    def __init__(self, worker: Worker) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.orders: dict[str, tuple[Order | str, list[str]]] = {}
        self._worker = worker
        self._store = worker.store
        self._epoch = ""
        self._number = 0
        self._fair = 0
        self._entries: set[str] = set()
        self._in_doubt = False
        self._surplus = False
        self._braked_until = -math.inf
        self._lent = anyio.Event()
        self._why: str | None = None
        self._scope = anyio.CancelScope()
        self._news = anyio.Event()
        self._batch = worker.new_batch(_None())
        self._counts: deque[tuple[float, int]] = deque(maxlen=round(COUNTED / BEAT) + 1)
        self._paused_at = -math.inf
        self._watched_on: set[str] = set()
        self._away = False
        self._reported_at = -math.inf

    def end(self, why: str) -> None:
        """Let :meth:`run` come to its end."""
        self._why = self._why or why
        self._scope.cancel()

    def let_go(self, told: Telling) -> None:
        """The entries of what is told are no longer among those that Redis holds us for."""
        self._entries.difference_update(told.entries)

    async def run(self) -> str:
        """Work until the end of the session, and return why it ended. The orders are handed back, and what is untold is kept."""
        worker = self._worker
        try:
            async with self._batch:
                self._batch.allow(0)
                try:
                    await self._work()
                finally:
                    worker.loan.take(0, anyio.current_time(), math.inf)
                    await self._hand_back(worker.keep_share + SECOND)
                if self._why == "forgotten":  # nobody else knows of them
                    await worker.put_back([(order_id, order) for order_id, (order, _) in self.orders.items()])
        finally:
            for outcome in self._batch.unread:
                if not isinstance(outcome.error, OrderUnresolved):  # left open: others watch it now
                    self._note(outcome)
            await self._hand_back(SECOND)
            self.orders.clear()
        return self._why or ""

    async def _work(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._live)
                    tasks.start_soon(self._take_in)
                    tasks.start_soon(self._tell)
                    await self._listen()
                    self.end("the client was closed")  # which the batch raises
        except BaseExceptionGroup as group:
            raise one_of(group) from None

    async def _hand_back(self, keep_share: float) -> None:
        try:
            await self._store.leave(self.name, keep_share)
        except RedisAway as away:
            _logger.warning("%s: the orders are taken over once nothing was heard of them for %g s", away, self._worker.give_up_after)

    # --- taking orders ---------------------------------------------------------------------------------------------------------

    async def _take_in(self) -> None:
        """Take new orders as there is room; in a second no more than may be asked for, because each wants a look at once."""
        while True:
            share = self._worker.loan.left(anyio.current_time())
            room = min(self._room, self._fair + CHUNK - len(self._entries), max(1, round(share * BEAT)))
            if share == 0 or room <= 0:
                with anyio.move_on_after(BEAT):
                    await self._lent.wait()
                continue
            try:
                entries = await self._store.read(self.name, min(room, CHUNK))
            except RedisAway:
                self._in_doubt = True  # they may have been given to us, and lost on the way
                await anyio.sleep(AGAIN)
                continue
            await self._add(entries)
            await anyio.sleep(len(entries) / share)

    @property
    def _room(self) -> int:
        return self._worker.capacity - len(self._entries)

    async def _accept(self, entry: Entry) -> Order | str | None:
        """Note that an entry is ours, and return its order; ``None`` when it is none, or ours already."""
        entry_id, fields = entry
        if entry_id in self._entries:
            return None
        self._entries.add(entry_id)
        try:
            order = order_from_json(fields.get(b"order"))
        except NotAnOrder as reason:
            _logger.warning("a message is no order, and lies with the dead letters: %s", reason)
            try:
                await self._store.bury(entry, str(reason))
            except RedisAway:
                self._in_doubt = True
            self._entries.discard(entry_id)
            return None
        order_id = order.id if isinstance(order, Order) else order
        known = self.orders.get(order_id)
        if known is not None:  # somebody has put it in past submit: one end for both
            known[1].append(entry_id)
            return None
        self.orders[order_id] = (order, [entry_id])
        return order

    async def _add(self, entries: list[Entry]) -> None:
        for entry in entries:
            if (order := await self._accept(entry)) is not None:
                self._batch.add(order)

    # --- living ----------------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Beat; take over the orders of the dead."""
        while True:
            began = anyio.current_time()
            try:
                beat = await self._store.beat(self._pulse(began))
                if beat.word != "ok":
                    self.end(beat.word)
                    return
                self._worker.let_in = True
                self._lend(beat, began)
                await self._rescue(beat)
                await self._look_through(beat)
            except RedisAway as away:
                if away.refused and not self._worker.let_in:
                    raise PermissionError(str(away)) from None
                self._in_doubt = True
                if not self._away:
                    _logger.warning("%s: going on with a share of %d for %g s", away, self._worker.loan.share, self._worker.keep_share)
                self._away = True
            else:
                if self._away:
                    _logger.warning("redis is back")
                self._away = False
                self._report(beat)
            await anyio.sleep(max(0.0, began + BEAT - anyio.current_time()))

    def _pulse(self, now: float) -> Pulse:
        worker = self._worker
        self._number += 1
        self._counts.append((now, self._batch.requests))
        braked = self._batch.braked
        if now + braked <= self._braked_until + SLACK:
            braked = 0.0  # that is what Redis has told: a worker that repeated it would make it longer
        state = {"watching": len(self.orders), "requests_per_second": self._requests_per_second(), "oldest": self._oldest()}
        return Pulse(
            self.name,
            self._epoch,
            0.0 if self._epoch == "" else worker.heard[1],
            worker.rate,
            worker.loan.used(now),
            len(self.orders),
            self._room > 0,
            state,
            braked,
            worker.keep_share,
            worker.give_up_after,
            self._number,
        )

    def _requests_per_second(self) -> float:
        (since, before), (now, requests) = self._counts[0], self._counts[-1]
        return round((requests - before) / (now - since), 1) if now > since else 0.0

    def _oldest(self) -> float | None:
        """Return when the oldest order was put in, in seconds of Redis's clock."""
        return min((int(entry.partition("-")[0]) / 1000 for _, entries in self.orders.values() for entry in entries), default=None)

    def _lend(self, beat: Beat, began: float) -> None:
        now = anyio.current_time()
        self._epoch, self._fair = beat.epoch, beat.fair
        self._worker.heard = (self.name, beat.now)
        self._braked_until = began + beat.braked
        if self._braked_until > now:
            self._batch.brake(self._braked_until - now)
        until = began + self._worker.keep_share  # from before the question: by Redis's own count it ends later
        if self._worker.loan.left(now) == 0 and self.orders:
            self._paused_at = now
            self._watched_on.clear()
        self._worker.loan.take(beat.share, now, until)
        if beat.share == 0 or until <= now:
            self._batch.allow(0)
        else:
            self._batch.allow(beat.share, seconds=until - now)
        self._lent.set()
        self._lent = anyio.Event()

    async def _rescue(self, beat: Beat) -> None:
        for dead in beat.dead:
            for _ in range(RESCUES):
                entries = await self._store.take_over(self.name, dead, self._worker.give_up_after, CHUNK)
                if not entries:
                    break
                _logger.warning("%d orders of %s are taken over", len(entries), dead)
                await self._add(entries)

    async def _look_through(self, beat: Beat) -> None:
        """After doubt, or where Redis has held us for more than we know of for two beats: go through all of it."""
        surplus = beat.held > len(self._entries)
        if not self._in_doubt and not (surplus and self._surplus):
            self._surplus = surplus  # of one beat: they may be on their way
            return
        self._surplus = False
        self._in_doubt = False
        after = "0"
        while entries := await self._store.held(self.name, after):
            await self._add(entries)
            after = entries[-1][0]

    def _report(self, beat: Beat) -> None:
        now = anyio.current_time()
        if now < self._reported_at + REPORT:
            return
        self._reported_at = now
        oldest = self._oldest()
        _logger.info(
            "%s: %d orders, the oldest for %.0f s, %.1f requests a second of a share of %d",
            self.name,
            len(self.orders),
            0.0 if oldest is None else beat.now - oldest,
            self._requests_per_second(),
            beat.share,
        )

    # --- telling ---------------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Note each outcome."""
        async for outcome in self._batch:
            if self._worker.client.is_closed:
                return
            if isinstance(outcome.error, OrderUnresolved) and self._was_paused() and outcome.order.id not in self._watched_on:
                _logger.warning("an order that could not be asked about in a pause is watched on")
                self._watched_on.add(outcome.order.id)
                self._batch.add(self.orders[outcome.order.id][0])
                continue
            self._note(outcome)
            self._news.set()

    def _was_paused(self) -> bool:
        """Whether the last steps of an order that ends now may have fallen into a pause without Redis."""
        now = anyio.current_time()
        return self._worker.loan.left(now) == 0 or now < self._paused_at + 2 * LAST_STEPS

    async def _tell(self) -> None:
        """Tell what was noted, and while that is told, what comes is noted; without Redis it is kept, and the polls go on."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self._worker.settle(math.inf)

    def _note(self, outcome: Outcome) -> None:
        """Keep an outcome until it is told, with the entries that end with it."""
        entries: tuple[str, ...] = ()
        if outcome.error is not None or outcome.order.kind is not OrderKind.rental:  # a rental goes on after a code
            entries = tuple(self.orders.pop(outcome.order.id)[1])
        self._worker.untold.append(Telling(outcome_to_json(outcome), outcome.order.id, self._epoch, entries))
