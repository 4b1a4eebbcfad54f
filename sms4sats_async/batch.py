"""Watch thousands of orders in one process: one agenda of what is due, and as many workers as the client has connections."""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import inspect
import logging
import math
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from types import TracebackType
from typing import Self, cast

import anyio
import anyio.lowlevel
import attrs

from sms4sats_async.agenda import SLACK, Agenda
from sms4sats_async.client import Client, Probe, check_count
from sms4sats_async.errors import CancelRefused, OrderUnresolved, Sms4SatsError
from sms4sats_async.lifecycle import (
    FLOOR,
    HOLD_WINDOW,
    LONGEST_BACKOFF,
    LONGEST_RETRY_AFTER,
    PAYMENT_WINDOW,
    SPREAD,
    Cancel,
    Failure,
    Look,
    Pace,
)
from sms4sats_async.models import Order, OrderKind, OrderStatus, hidden
from sms4sats_async.shelter import Crew, Sheltered, sheltered
from sms4sats_async.steps import Terms, Watch, positive
from sms4sats_async.transport import ClosedError

MAX_WATCHING = 10_000
LEAVE_TIMEOUT = 10.0
"""Seconds without any answer of the service after which leaving gives up."""
DOZE = 0.02
"""Seconds that a wait takes at least: at 2,000 requests in a second, waking for each of them costs as much as making it."""
RECONSIDER = 1.0
"""Seconds after which a request that waits for its turn asks again when that is: what is allowed may have changed."""
FAR_BEHIND = 30.0
"""Seconds by which a poll must be late to be worth a warning."""

_logger = logging.getLogger(__name__)


@attrs.frozen
class Outcome:
    """What became of an order in a batch.

    Attributes:
        order: the order. Of a bare id ``payreq`` and ``amount_sats`` are ``None``, and ``created_at`` is when it was taken.
        code: the code; ``None`` when none came, and for orders that have none.
        status: all that is known of the order; ``None`` when it was never seen.
        error: what an :class:`OrderWatcher` would have raised; ``None`` for a good end. :class:`OrderUnresolved` and
            :class:`CancelRefused` are no ends of the order itself: it can be watched again.
    """

    order: Order
    code: str | None = attrs.field(default=None, repr=hidden)
    status: OrderStatus | None = None
    error: Sms4SatsError | None = None


class BatchWatcher:
    """Wait for what becomes of many orders, thousands of them at once.

    ::

        async with BatchWatcher(client, orders) as batch:
            async for outcome in batch:
                print(outcome.order.id, outcome.code or outcome.error)

    Each order gets one outcome, as soon as it has ended, by the rules of :class:`OrderWatcher`: its windows, its polls and its last
    steps are the same. Only a rental, which does not end with a code, gets an outcome for each new one. The failure of an order is in
    its outcome, and never raised. The iteration ends when ``orders`` has been read to its end and nothing is watched any more;
    :meth:`add` can give it more to do.

    The polls go on, in tasks of the batch's own, until the block is left, however slowly the outcomes are read: a slow reader holds back
    only ``orders``. Leaving the block before the end asks the service to cancel what is still open, as many orders at once as the client
    has connections; it goes on for as long as the service answers, and gives up after 10 s without an answer. Afterwards
    :attr:`unread` has the outcomes that nobody has read, one for each order that was still open among them.

    Args:
        client: its ``max_connections`` is how many requests the batch has under way at once.
        orders: any iterable or asynchronous iterable of orders, or of their ids. It is read as room allows, so it may be endless; an
            asynchronous generator is closed at the end. An order that is being watched already is not taken twice. What is neither
            order nor id, and what ``orders`` itself raises, stops nothing: the first such error is raised when the rest has ended, or
            when the block is left. An order that it is just placing then is in ``client.orphaned_orders``.
        kind: what ids are for, as for :class:`OrderWatcher`.
        hold_window, payment_window, poll_interval: as for :class:`OrderWatcher`, for each order.
        max_rate: requests in any one second, at the most, cancels included; spread evenly. ``None`` for no limit of its own.
        max_watching: how many orders are watched at once, outcomes that nobody has read yet included, before ``orders`` has to wait.
        cancel_on_exit: False to leave open orders alone when the block is left. A window's end cancels all the same.

    "Too many requests" slows the whole batch, for as long as the service asks (60 s at most; 1, 2, 4 ... 30 s where it names no time),
    but for last steps under way.
    """

    def __init__(
        self,
        client: Client,
        orders: Iterable[Order | str] | AsyncIterable[Order | str],
        *,
        kind: OrderKind | str | None = None,
        hold_window: float | None = HOLD_WINDOW,
        payment_window: float | None = PAYMENT_WINDOW,
        poll_interval: float | Pace | None = None,
        max_rate: float | None = None,
        max_watching: int = MAX_WATCHING,
        cancel_on_exit: bool = True,
    ) -> None:
        self._terms = Terms(client, kind=kind, hold_window=hold_window, payment_window=payment_window, poll_interval=poll_interval)
        _check_orders(orders)
        check_count("max_watching", max_watching)
        self._agenda: Agenda[Watch] = Agenda(None if max_rate is None else positive("max_rate", max_rate, "requests per second"))
        self._client = client
        self._probe = Probe(client)
        self._paced = max_rate is not None
        self._patience = LEAVE_TIMEOUT + (0.0 if max_rate is None else 1 / max_rate)
        self._orders = orders
        self._untaken: Iterator[Order | str] | None = None
        self._max_watching = max_watching
        self._cancel_on_exit = cancel_on_exit
        self._watches: dict[str, Watch] = {}
        self._unread: deque[tuple[Outcome, Watch | None]] = deque()  # the watch where it has ended with it
        self._crew: Crew | None = None
        self._fed = False
        self._leaving: anyio.CancelScope | None = None
        self._left: list[Watch] = []
        self._answered_at = 0.0
        self._placed_before = 0
        self._dismissed = False
        self._in_vain = 0
        self._closed: ClosedError | None = None
        self._problem: Exception | None = None
        self._broken: BaseException | None = None
        self._changed: anyio.Event | None = None
        self._nap: anyio.CancelScope | None = None
        self._warned = False

    def __repr__(self) -> str:
        return f"<BatchWatcher of {self.watching} orders, {len(self._unread)} outcomes unread>"

    # --- for the caller --------------------------------------------------------------------------------------------------------

    @property
    def watching(self) -> int:
        """How many orders are being watched."""
        return len(self._watches)

    @property
    def unread(self) -> list[Outcome]:
        """The outcomes that nobody has read yet, in the order in which they came."""
        return [outcome for outcome, _ in self._unread]

    @property
    def behind(self) -> float:
        """By how many seconds the most overdue poll is late just now; well above 1, ``max_rate`` or the client's connections are few."""
        return self._agenda.behind(anyio.current_time())

    @property
    def requests(self) -> int:
        """How many requests have had their turn until now, cancels included."""
        return self._agenda.turns

    @property
    def braked(self) -> float:
        """For how many seconds more no request leaves but for last steps under way, because the service, or :meth:`brake`, asked for it."""
        return max(0.0, self._agenda.braked_until - anyio.current_time())

    def brake(self, seconds: float) -> None:
        """Let no request leave for so many seconds, but for last steps under way: as if the service had said "too many requests" to us.

        For whoever knows that it was said to somebody else with whom the rate is shared.

        Raises:
            ValueError, TypeError: it is no such number.
        """
        self._agenda.brake(anyio.current_time() + positive("seconds", seconds))

    def allow(self, max_rate: float, *, seconds: float = math.inf) -> None:
        """Change ``max_rate`` from now on; 0 for no request at all. It holds for so many seconds: after them no request leaves any more.

        For whoever has a share of a rate, and has it on loan. Nothing is lost by waiting: what fell due meanwhile is made up for when
        requests are allowed again. A window that ends meanwhile ends unresolved.

        Raises:
            ValueError, TypeError: it is no such number.
            RuntimeError: the batch was made without ``max_rate``.
        """
        if not self._paced:
            raise RuntimeError("the batch was made without max_rate")
        rate = 0.0 if max_rate == 0 else positive("max_rate", max_rate, "requests per second")
        until = anyio.current_time() + positive("seconds", seconds)
        self._agenda.allow(rate, until)
        if rate:
            self._patience = LEAVE_TIMEOUT + 1 / rate
        if self._nap is not None:
            self._nap.cancel()

    def add(self, order: Order | str) -> None:
        """Watch one more order from now on, whatever ``max_watching`` says; nothing is done about one that is watched already.

        Raises:
            ValueError, TypeError: it cannot be an order, or is of another kind than the one given.
            RuntimeError: the block is not entered yet, or being left, or the client is closed.
        """
        if self._crew is None or self._leaving is not None or self._closed is not None:
            raise RuntimeError("orders can be added while the block lasts, and the client is open")
        self._probe.check_loop()
        self._take(order)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        """Return the next outcome; several tasks can wait, and each outcome goes to one of them.

        Raises:
            RuntimeError: the block is not entered yet.
        """
        if self._crew is None:
            raise RuntimeError("outcomes come inside the block: async with BatchWatcher(...) as batch")
        self._probe.check_loop()
        await anyio.lowlevel.checkpoint()  # before anything is taken, so that a cancelled reader loses nothing; and the polls go on
        while not self._unread:
            if self._broken is not None:
                raise self._broken
            if self._watches or not self._fed:
                await self._change()
            elif self._problem is not None:
                problem, self._problem = self._problem, None
                raise problem
            else:
                raise StopAsyncIteration
        outcome, ended = self._unread.popleft()
        if ended is not None:  # as late as that: were the process to die before, nobody would have the code
            ended.let_go()
        self._tell()
        return outcome

    async def __aenter__(self) -> Self:
        if self._crew is not None:
            raise RuntimeError("a BatchWatcher can be entered once")
        self._probe.check_loop()
        self._lead = anyio.Lock(fast_acquire=True)
        self._feeder = Sheltered(self._feed, loud=True)
        self._workers = [Sheltered(self._work, loud=True) for _ in range(self._probe.lanes)]
        self._crew = await Crew().__aenter__()
        for work in (self._feeder, *self._workers):
            self._crew.start(work)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Cancel what is still open; what comes of it is in :attr:`unread`, and logged where a person should know.

        Raises:
            Exception: what ``orders`` raised, if no iteration did so and the block itself has raised nothing.
        """
        assert self._crew is not None  # the block was entered  # noqa: S101
        try:
            await sheltered(self._leave)
        finally:  # also when Ctrl-C has struck in there
            self._dismiss()
            try:
                await self._crew.__aexit__(kind, error, traceback)
            finally:
                notes = self._abandon()
        if error is not None:
            for note in notes:
                error.add_note(note)
        elif self._broken is not None:
            raise self._broken
        elif self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    # --- taking orders ---------------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Take orders as room allows."""
        orders = self._orders
        try:
            await self._room()
            if isinstance(orders, AsyncIterable):
                async with _closing(orders):
                    async for order in orders:
                        await self._feed_one(order)
            else:
                for order in self._iterator():
                    await self._feed_one(order)
        except anyio.get_cancelled_exc_class():
            if self._leaving is None and self._closed is None:
                self._spoilt("orders", RuntimeError("orders was cancelled from within"))
            raise
        except Exception as problem:  # noqa: BLE001 - theirs: raised when all the orders have ended that were taken
            self._spoilt("orders", problem)
        except BaseException as broken:
            self._broken = self._broken or broken
            raise
        finally:
            self._fed = True
            self._tell()

    async def _feed_one(self, order: Order | str) -> None:
        try:
            self._take(order)
        except (TypeError, ValueError) as problem:
            self._spoilt("one of the orders", problem)
        await self._room()

    async def _room(self) -> None:
        await anyio.lowlevel.checkpoint()
        while len(self._watches) + len(self._unread) >= self._max_watching:
            await self._change()

    def _judge_untaken(self, closed: ClosedError) -> None:
        """Say so if there is more in ``orders`` than was taken; of an asynchronous one it is taken for granted.

        Whether there is more tells only the next one, which then has its outcome as well.
        """
        try:
            if not isinstance(self._orders, AsyncIterable):
                self._take(next(self._iterator()))
        except StopIteration:
            return
        except Exception as problem:  # noqa: BLE001 - theirs, as in the feeder
            self._spoilt("orders", problem)
        else:
            self._spoilt("the rest of orders", closed)

    def _iterator(self) -> Iterator[Order | str]:
        if self._untaken is None:
            assert isinstance(self._orders, Iterable)  # else it is asynchronous  # noqa: S101
            self._untaken = iter(self._orders)
        return self._untaken

    def _take(self, order: Order | str) -> None:
        watch = self._terms.watch(order)
        if watch.order.id not in self._watches:
            self._watches[watch.order.id] = watch
            self._file(watch)

    def _spoilt(self, what: str, problem: Exception) -> None:
        words = str(problem) if isinstance(problem, Sms4SatsError) else type(problem).__name__  # ours tell no secret
        _logger.warning("%s could not be taken: %s", what, words)
        self._problem = self._problem or problem

    # --- working ---------------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        turn = -math.inf

        async def departing() -> None:
            """A request is about to leave: in the turn that it was given, if that has just come, else in a new one."""
            nonlocal turn
            if anyio.current_time() > turn + SLACK:
                await self._turn()
            turn = -math.inf

        probe = Probe(self._client, departing=departing if self._paced else None)
        watch: Watch | None = None
        try:
            while True:
                watch = None
                watch = await self._next()
                turn = anyio.current_time()
                await self._serve(watch, probe)
        except ClosedError as closed:
            self._closed = closed
            self._feeder.stop()
            self._file_all()
            if not self._fed and self._leaving is None and self._problem is None:
                self._judge_untaken(closed)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as broken:  # Ctrl-C strikes where it likes; anything else must not leave the reader waiting for ever
            self._broken = self._broken or broken
            if watch is not None:
                self._agenda.put(watch, anyio.current_time())
            self._tell()
            raise

    async def _turn(self) -> None:
        """Wait for one more turn, and take it."""
        while (at := self._agenda.next_turn()) > (now := anyio.current_time()):
            await self._probe.nap(anyio.CancelScope(deadline=min(at, now + RECONSIDER)))
        self._agenda.count(now)

    async def _next(self) -> Watch:
        """Wait until something is due, one worker at a time, and take it."""
        await anyio.lowlevel.checkpoint()  # a transport in memory may never wait, and the others must have their turns
        async with self._lead:
            while (at := self._agenda.next_at()) > (now := anyio.current_time()):
                self._nap = anyio.CancelScope(deadline=max(at, now + DOZE))
                try:
                    await self._probe.nap(self._nap)
                finally:
                    self._nap = None
            if not self._warned and (behind := self._agenda.behind(now)) > FAR_BEHIND:
                self._warned = True
                _logger.warning("polls are %.0f s late: max_rate or max_connections is low for %d orders", behind, self.watching)
            return self._agenda.take(now)

    async def _serve(self, watch: Watch, probe: Probe) -> None:
        """Make the step that is due for this order, and note what comes next."""
        now = anyio.current_time()
        watch.life = watch.life.at(now)
        step = watch.life.next(now)
        if step is not None and step.at <= now:
            code = None if watch.status is None else watch.status.code
            try:
                await self._make(watch, step, probe)
            except ClosedError as closed:
                self._finish(watch, self._unresolved(watch, _closed(closed)))
                raise
            except Exception as bug:
                _logger.exception("%s cannot be watched", watch.name)
                unresolved = self._unresolved(watch, f"it cannot be watched: {type(bug).__name__}")
                unresolved.__cause__ = bug
                self._finish(watch, unresolved)
                return
            if watch.life.kind is OrderKind.rental and watch.status is not None and watch.status.code != code:
                self._yield(Outcome(watch.order, watch.status.code, watch.status))
        self._file(watch)

    async def _make(self, watch: Watch, step: Look | Cancel, probe: Probe) -> None:
        """Make a step, and slow down for all orders where the service asks one to."""
        now, before = anyio.current_time(), watch.life
        try:
            failure = await watch.make(step, probe)
        except anyio.get_cancelled_exc_class():
            if self._dismissed:
                raise
            failure = Failure("the transport was cancelled from within")  # as a caller's own may be: no cancellation of ours
            watch.failed(step, failure, now)
        if watch.failure is not None:
            watch.failure.__cause__ = None  # its words name the ground; thousands of chains of causes are many
        if failure is not None and failure.too_many:
            self._slow_down(0.0 if failure.retry_after is None else failure.retry_after)
            if isinstance(step, Cancel) and not step.last:
                watch.life = before  # it was not done, and it is asked for again
        elif failure is None or failure.refusal is not None:
            self._answered_at = anyio.current_time()
            self._in_vain = 0
        self._be_patient()

    def _slow_down(self, retry_after: float) -> None:
        """Brake for as long as the service asks; where it names no time, for 1, 2, 4 ... 30 s, until it answers again."""
        now = anyio.current_time()
        if now >= self._agenda.braked_until:  # what was under way together counts once
            self._in_vain += 1
        unasked = min(LONGEST_BACKOFF, FLOOR * 2.0 ** min(self._in_vain - 1, 10))
        seconds = min(retry_after, LONGEST_RETRY_AFTER) if retry_after >= FLOOR else unasked
        self._agenda.brake(now + seconds * (1 + random.uniform(0, SPREAD)))  # noqa: S311

    def _be_patient(self) -> None:
        """While the block is being left: give up when no answer came for a while; waiting as the service asks does not count."""
        if self._leaving is not None:
            # But a minute of it at the most: a service that answers nothing else must not keep us for ever.
            waiting = min(self._agenda.braked_until, self._answered_at + (1 + SPREAD) * LONGEST_RETRY_AFTER)
            self._leaving.deadline = max(self._answered_at, waiting) + self._patience

    def _file(self, watch: Watch) -> None:
        """Put an order onto the agenda; or, when nothing more is to be done about it, its outcome among the outcomes."""
        now = anyio.current_time()
        if watch.life.end is not None:
            self._finish(watch, watch.error())
            return
        if self._closed is not None:
            self._finish(watch, self._unresolved(watch, _closed(self._closed)))
            return
        if self._leaving is not None and not watch.life.closing_window:
            left_open = self._left_open(watch)
            if left_open is not None:
                self._finish(watch, left_open)
                return
            watch.life = watch.life.wishing(now)
        step = watch.life.next(now)
        assert step is not None  # it has not ended  # noqa: S101
        self._agenda.put(watch, step.at, urgent=watch.life.closing is not None)  # what was begun is seen through
        if self._nap is not None and step.at < self._nap.deadline:
            self._nap.cancel()

    def _file_all(self) -> None:
        """File anew whatever waits for its turn: the rules have changed. What is under way files itself."""
        for watch in self._agenda.clear():
            self._file(watch)

    def _finish(self, watch: Watch, error: Sms4SatsError | None) -> None:
        if self._watches.pop(watch.order.id, None) is None:
            return  # pragma: no cover - finished before: Ctrl-C has struck between filing an order and taking the next
        if self._leaving is not None and isinstance(error, OrderUnresolved | CancelRefused):
            self._left.append(watch)
        status = watch.status
        self._yield(Outcome(watch.order, None if status is None or error is not None else status.code, status, error), watch)

    def _yield(self, outcome: Outcome, ended: Watch | None = None) -> None:
        self._unread.append((outcome, ended))
        self._tell()

    def _unresolved(self, watch: Watch, words: str) -> OrderUnresolved:
        return OrderUnresolved(f"{watch.name}: {words}", order_id=watch.order.id, status=watch.status)

    # --- leaving ---------------------------------------------------------------------------------------------------------------

    async def _leave(self) -> None:
        """Cancel what is open while the service answers, those that are paid first; then end all tasks."""
        self._answered_at = anyio.current_time()
        self._placed_before = len(self._client.orphaned_orders)
        self._leaving = anyio.CancelScope()
        self._feeder.stop()
        for watch in self._watches.values():
            if watch.looking is not None and watch.life.closing is None:
                watch.looking.cancel()  # it may hang, and its order is to be cancelled now
        waiting = sorted(self._agenda.clear(), key=lambda watch: watch.life.paid_at is None)
        for number, watch in enumerate(waiting):
            self._file(watch)
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
        self._be_patient()
        with self._leaving:
            while self._watches or not self._fed:
                await self._change()
        self._dismiss()
        for work in (*self._workers, self._feeder):
            await work.end(lambda: 0.0)

    def _dismiss(self) -> None:
        """End all tasks."""
        self._dismissed = True
        for work in (*self._workers, self._feeder):
            work.stop()

    def _abandon(self) -> list[str]:
        """Give an outcome to each order that is still open; log and return what a person should know of how the block was left."""
        for watch in list(self._watches.values()):
            watch.life = watch.life.at(math.inf)
            error = watch.error()
            if watch.life.end is None:
                error = self._left_open(watch) or self._unresolved(watch, f"left open: no answer for {LEAVE_TIMEOUT:g} s")
            self._finish(watch, error)
        left = self._left if self._cancel_on_exit else []  # else it was meant so
        free = sum(watch.life.cancellable for watch in left)
        for _, ended in self._unread:
            if ended is not None:
                ended.let_go()
        codes = sum(outcome.code is not None for outcome, _ in self._unread)
        placed = len(self._client.orphaned_orders) - self._placed_before
        parts = [
            f"{len(left)} orders are left open" if left else "",
            f"what was paid for {free} of them comes back 21 minutes after the payment" if free else "",
            f"{codes} codes were not read" if codes else "",
        ]
        told = [f"{'; '.join(part for part in parts if part)}: see batch.unread"] if any(parts) else []
        if placed > 0:
            told.append(f"{placed} orders were placed meanwhile: see client.orphaned_orders")
        for words in told:
            _logger.warning("%s", words)
        if self._problem is not None:
            told.append(f"before that, orders raised {type(self._problem).__name__}: {self._problem}")
        return told

    def _left_open(self, watch: Watch) -> OrderUnresolved | CancelRefused | None:
        """The error of an order that is left as it is; ``None`` when it is to be cancelled."""
        if not self._cancel_on_exit or not watch.life.cancellable:
            return self._unresolved(watch, "left open: it can be watched again")
        if not watch.life.answers:
            return None
        reason = watch.life.reason or ""
        text = f"{watch.name} is left open: {watch.life.harmless(reason, watch.order.id)}"
        refused = CancelRefused(text, order_id=watch.order.id, status=watch.status, reason=reason)
        refused.__cause__ = watch.failure
        return refused

    # --- telling ---------------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Wake whoever waits for a change of what is watched, or of what is unread."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _change(self) -> None:
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()


def _closed(closed: ClosedError) -> str:
    return f"{closed}: watch it again with another one"


def _check_orders(orders: object) -> None:
    if isinstance(orders, str | Order) or not isinstance(orders, Iterable | AsyncIterable):
        raise TypeError(f"orders must be an iterable or asynchronous iterable of orders, not {type(orders).__name__}")


def _closing(orders: object) -> AbstractAsyncContextManager[object]:
    """An asynchronous generator is of no use to anybody once we have begun to read it; a stream is its owner's."""
    return aclosing(cast("AsyncGenerator[object]", orders)) if inspect.isasyncgen(orders) else nullcontext()
