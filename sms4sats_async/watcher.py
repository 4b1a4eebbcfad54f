"""Watch one order: drive its lifecycle with a client and a clock, in the task of whoever waits."""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import anyio

from sms4sats_async.client import Client, Probe
from sms4sats_async.errors import CancelRefused, OrderError, OrderUnresolved, Sms4SatsError
from sms4sats_async.lifecycle import GOOD_ENDS, HOLD_WINDOW, PAYMENT_WINDOW, End, Lifecycle, Pace
from sms4sats_async.models import Order, OrderKind, OrderStatus, SmsStatus
from sms4sats_async.shelter import sheltered
from sms4sats_async.steps import Terms, Watch
from sms4sats_async.transport import ClosedError

T = TypeVar("T")

LEAVE_TIMEOUT = 10.0
"""Seconds that leaving the block may take."""
LAST_STEPS_GRACE = 10.0
"""Seconds that the last steps of a window go on after the caller was cancelled."""

_logger = logging.getLogger(__name__)


class OrderWatcher:
    """Wait for what becomes of an order: its payment, its number, its code.

    ::

        async with OrderWatcher(client, order) as watcher:
            print("call from", await watcher.number())
            print("the code is", await watcher.code())

    Inside the block the watcher owns the order: leaving it before the order has ended asks the server to cancel, so that the money is
    free again. Without the block it only watches: a cancelled task leaves the order as it is.

    The order is polled in the task of whoever waits, and only while somebody does; several tasks may wait at once, it is polled once.
    When the window ends without a code the watcher looks once more, cancels, looks again, and raises :class:`OrderExpired`.
    A poll that fails ends nothing.

    Args:
        order: an :class:`Order`, or the id of one.
        kind: what an id is for. By default it is taken for a receive order, until its status shows that it sends.
        hold_window: seconds to wait for the code, from when the payment is first seen; ``None`` for no end. A rental has no such end.
        payment_window: seconds to wait for the payment, from the first poll; ``None`` for no end.
        poll_interval: seconds from one poll to the next, or a function ``(status, seconds_waited) -> seconds``, where
            ``seconds_waited`` counts from the payment, before that from the first poll; by default
            :func:`~sms4sats_async.lifecycle.default_pace`. Spread by up to 10 % at random, and 1 s at least.
        cancel_on_exit: False to leave the order alone when the block is left. A window's end cancels all the same.

    Attributes:
        order: the order. For a bare id ``payreq`` and ``amount_sats`` are ``None``, and ``created_at`` is now.
    """

    def __init__(
        self,
        client: Client,
        order: Order | str,
        *,
        kind: OrderKind | str | None = None,
        hold_window: float | None = HOLD_WINDOW,
        payment_window: float | None = PAYMENT_WINDOW,
        poll_interval: float | Pace | None = None,
        cancel_on_exit: bool = True,
    ) -> None:
        terms = Terms(client, kind=kind, hold_window=hold_window, payment_window=payment_window, poll_interval=poll_interval)
        self._watch: Watch = terms.watch(order)
        self.order = self._watch.order
        self._probe = Probe(client)
        self._cancel_on_exit = cancel_on_exit
        self._driven = False
        self._changed: anyio.Event | None = None
        self._nap: anyio.CancelScope | None = None
        self._cancellers = 0
        self._leaving = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.order!r}>"

    @property
    def status(self) -> OrderStatus | None:
        """All that is known of the order, as its last status with what earlier ones said; ``None`` before the first good poll."""
        return self._watch.status

    # --- waiting ---------------------------------------------------------------------------------------------------------------

    async def paid(self) -> None:
        """Return when the payment is held. For a fund order that is the end.

        Raises:
            OrderError: the order ended without a payment, or the money went back.
        """

        def ready() -> bool | None:
            if self._state.paid_at is not None and (self._state.end is None or self._state.end in GOOD_ENDS):
                return True
            self._raise_end()
            return None

        await self._until(ready)

    async def number(self) -> str:
        """Return the number, E.164 with ``+``, as soon as one is assigned.

        Raises:
            OrderError: the order ended, or its code came without a number.
            ValueError: it is a send or fund order.
        """
        self._check_kind("number", OrderKind.receive, OrderKind.rental)

        def ready() -> str | None:
            if (status := self.status) is not None and status.number is not None:
                return status.number
            self._raise_end()
            self._raise_other_end("the code came without a number")
            return None

        return await self._until(ready)

    async def code(self) -> str:
        """Return the code: the first one seen, byte for byte.

        Raises:
            OrderFailed: the server ended the order (no number was to be had).
            OrderExpired: the window is over.
            OrderUnresolved: the window is over and the server could not be asked, or the client was closed.
            OrderCancelled: this program cancelled it.
            APIError: the server has refused to tell of this order from the start, for a minute and more.
            ValueError: it is a send or fund order.
        """
        self._check_kind("code", OrderKind.receive, OrderKind.rental)

        def ready() -> str | None:
            if (status := self.status) is not None and status.code is not None:
                return status.code
            self._raise_end()
            self._raise_other_end("it sends an SMS: give its kind, and wait for sent()")
            return None

        return await self._until(ready)

    async def sent(self) -> SmsStatus:
        """Return ``sent`` or ``delivered``, whichever is seen first.

        Raises:
            SendFailed: the SMS could not be sent.
            OrderError: the order ended in another way.
            ValueError: it is no send order.
        """
        self._check_kind("sent", OrderKind.send)

        def ready() -> SmsStatus | None:
            status = self.status
            if self._state.end is End.SENT and status is not None:
                return SmsStatus(status.sms_status or "")
            self._raise_end()
            return None

        return await self._until(ready)

    def __aiter__(self) -> AsyncIterator[OrderStatus]:
        """Go through the statuses, each that differs from the one before; end with the order, or raise what :meth:`code` raises.

        The codes of a rental are not its end: each new one is a new status.
        """
        return _Statuses(self._next_status)

    async def _next_status(self, last: OrderStatus | None) -> OrderStatus:
        def ready() -> OrderStatus | None:
            if self.status is not None and self.status != last:
                return self.status
            self._raise_end()
            if self._state.end is not None:
                raise StopAsyncIteration
            return None

        return await self._until(ready)

    # --- cancelling ------------------------------------------------------------------------------------------------------------

    async def cancel(self, when_allowed: bool = False) -> None:  # noqa: FBT001, FBT002 - the name in the design is positional
        """Cancel the order, and return when the server confirmed it; its payment goes back.

        Args:
            when_allowed: wait for the moment from which the server is likely to allow it, and poll meanwhile. The server refuses in
                the first 2 minutes, but it is not known from when on it counts them: after a refusal the next likely moment is tried.

        Raises:
            CancelRefused: the server would not, or did not say that it would, or the order has ended already. An order that goes on
                can still be waited for.
            ValueError: it is no receive order.
        """
        self._check_kind("cancel", OrderKind.receive)
        at = self._state.allowed_at(anyio.current_time()) if when_allowed else None
        while True:
            reason = await self._cancel_once(at)
            if reason is None:
                return
            at = self._state.allowed_at(anyio.current_time()) if when_allowed and self._state.end is None else None
            if at is None:
                text = f"{self._watch.name}: not cancelled: {self._state.harmless(reason, self.order.id)}"
                raise CancelRefused(text, order_id=self.order.id, status=self.status, reason=reason) from self._watch.failure

    async def _cancel_once(self, at: float | None) -> str | None:
        """Ask to cancel at this time, and return why it was not; ``None`` when it was."""
        self._probe.check_loop()
        answers = self._state.answers
        self._watch.life = self._state.wishing(anyio.current_time() if at is None else at)
        self._wake()
        self._cancellers += 1
        try:
            await self._until(lambda: True if self._state.end is not None or self._state.answers > answers else None)
        finally:
            self._cancellers -= 1
            if not self._cancellers:
                self._watch.life = self._state.unwishing()
        if self._state.end is None:
            return self._state.reason
        end = self._state.error(self.order.id)
        if self._state.end is End.CANCELLED or getattr(end, "cancelled", False):
            return None
        if self._state.end is End.CODE:
            return "the code has arrived"
        return str(end or self._watch.failure or "it has ended")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Ask the server, once, to cancel an order that has not ended; what comes of it is logged, and never raised."""
        try:
            if not self._cancel_on_exit or self._state.end is not None or not self._state.cancellable:
                return
            left = await sheltered(self._leave)
            if left is not None and error is not None:
                error.add_note(left)
        finally:
            self._watch.let_go()

    async def _leave(self) -> str | None:
        """Ask once to cancel; log and return what a person should know: ``None`` when the order is cancelled."""
        self._leaving = True
        left = await self._left_open()
        self._leaving = False
        if left is not None:
            _logger.warning("%s", left)
        return left

    async def _left_open(self) -> str | None:
        name = self._watch.name
        again = "watcher.order is all that is needed to watch it again"
        answers = self._state.answers
        self._watch.life = self._state.wishing(anyio.current_time(), tries=1, within=LEAVE_TIMEOUT)
        self._wake()
        reason: str | None = f"no answer within {LEAVE_TIMEOUT:g} s"
        with anyio.move_on_after(LEAVE_TIMEOUT):
            try:
                await self._until(lambda: True if self._state.end is not None or self._state.answers > answers else None)
                reason = self._state.reason
            except (Sms4SatsError, RuntimeError) as problem:
                reason = str(problem)
        if not self._cancellers:
            self._watch.life = self._state.unwishing()
        if self._state.end is End.CODE:
            return f"{name} was left as its code arrived: the code is in watcher.status"
        if self._state.end is not None or self._state.cancel_confirmed:
            return None
        told = self._state.harmless(reason or "", self.order.id)
        return f"{name} is left open: {told}; what was paid for it comes back 21 minutes after the payment, and {again}"

    # --- driving ---------------------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> Lifecycle:
        return self._watch.life

    async def _until(self, ready: Callable[[], T | None]) -> T:
        """Drive the order until this is ready; while another task drives it, wait for what that brings."""
        self._probe.check_loop()
        while True:
            found = ready()
            if found is not None:
                return found
            self._raise_other_end("it has ended otherwise")
            if self._driven:
                self._changed = self._changed or anyio.Event()
                await self._changed.wait()
            else:
                await self._drive()

    async def _drive(self) -> None:
        """Make one step; hand over to another waiting task after it, and when this one is cancelled."""
        self._driven = True
        try:
            await self._step()
        except ClosedError as closed:
            text = f"{self._watch.name}: {closed}: watch it again with another one"
            raise OrderUnresolved(text, order_id=self.order.id, status=self.status) from None
        finally:
            self._driven = False
            if self._state.end is not None:
                self._watch.let_go()
            if self._changed is not None:
                self._changed.set()
                self._changed = None

    async def _step(self) -> None:
        now = anyio.current_time()
        before = self._state
        self._watch.life = before.at(now)
        step = self._state.next(now)
        if step is None or self._state is not before:  # time has brought an answer: somebody may wait for just that
            return
        if step.at > now:
            await self._sleep(step.at)
        elif step.last and self._leaving:
            await self._last_steps()  # sheltered already, and with a limit of its own
        elif step.last:
            await sheltered(self._last_steps, grace=LAST_STEPS_GRACE)
        else:
            await self._watch.make(step, self._probe)

    async def _last_steps(self) -> None:
        while True:
            now = anyio.current_time()
            self._watch.life = self._state.at(now)
            step = self._state.next(now)
            if step is None or not step.last:
                return
            if step.at > now:
                await self._sleep(step.at)
            else:
                await self._watch.make(step, self._probe)

    async def _sleep(self, until: float) -> None:
        self._nap = anyio.CancelScope(deadline=until)
        try:
            await self._probe.nap(self._nap)
        finally:
            self._nap = None

    def _wake(self) -> None:
        """What comes next has changed: whoever sleeps until then must look again."""
        if self._nap is not None:
            self._nap.cancel()

    # --- ends ------------------------------------------------------------------------------------------------------------------

    def _raise_end(self) -> None:
        """Raise if the order came to a bad end."""
        error = self._watch.error()
        if error is not None:
            raise error

    def _raise_other_end(self, text: str) -> None:
        """Raise if the order came to a good end that is not the one waited for."""
        if self._state.end is not None:
            raise OrderError(f"{self._watch.name}: {text}", order_id=self.order.id, status=self.status)

    def _check_kind(self, what: str, *kinds: OrderKind) -> None:
        if self._state.kind not in kinds:
            raise ValueError(f"{what}() is not for a {self._state.kind} order")


class _Statuses(AsyncIterator[OrderStatus]):
    """The statuses of an order, each that differs from the one before. It holds nothing open between two of them."""

    def __init__(self, following: Callable[[OrderStatus | None], Awaitable[OrderStatus]]) -> None:
        self._following = following
        self._last: OrderStatus | None = None

    async def __anext__(self) -> OrderStatus:
        self._last = await self._following(self._last)
        return self._last
