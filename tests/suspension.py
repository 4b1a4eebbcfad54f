"""Cancel a call at its k-th suspension, or after n turns of the loop, and say what its caller saw.

Every place where a coroutine can be cancelled is a place where it is suspended, so a sweep over all k tries them all. A call's own
helper tasks are suspended elsewhere: the sweep over the loop's turns reaches those.
"""

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import pytest

from tests.servers import Reply, SeenRequest, json_reply
from tests.virtual_time import in_virtual_time

T = TypeVar("T")

INVOICE = "lnbc2500n1" + "q" * 20
"""An invoice over 250 sat."""


@dataclass
class Ending(Generic[T]):
    """How a call ended for its caller."""

    triggered: bool = False
    suspensions: int = 0
    value: T | None = None
    error: BaseException | None = None
    requests: int = 0
    """asyncio: how many native cancels the caller's task still counts, or a time-out has made: it must have seen them."""
    own: type[BaseException] = field(default_factory=anyio.get_cancelled_exc_class)
    """What its own cancellation looks like to the caller."""
    after: float = 0.0
    """How many seconds after the cancellation the call was over."""

    @property
    def cancelled(self) -> bool:
        return isinstance(self.error, self.own)

    def trigger(self, way: Callable[[], object]) -> None:
        """Cancel in this way, now."""
        self.triggered = True
        self._since = anyio.current_time()
        way()

    def over(self) -> None:
        """The call has ended."""
        if self.triggered:
            self.after = anyio.current_time() - self._since


class Driven(Generic[T]):
    """Awaits a coroutine by hand, and calls ``trigger`` at those of its suspensions (counted from 1) that are in ``when``."""

    def __init__(self, work: Coroutine[Any, Any, T], when: Collection[int], trigger: Callable[[], object], ending: "Ending[T]") -> None:
        self._work = work
        self._when = when
        self._trigger = trigger
        self._ending = ending

    def __await__(self) -> Generator[Any, Any, T]:
        message: Any = None
        thrown: BaseException | None = None
        while True:
            try:
                wish = self._work.send(message) if thrown is None else self._work.throw(thrown)
            except StopIteration as stop:
                value: T = stop.value
                return value
            finally:
                thrown = None
            self._ending.suspensions += 1
            if self._ending.suspensions in self._when:
                self._ending.trigger(self._trigger)
            try:
                message = yield wish
            except BaseException as error:  # noqa: BLE001 - handed on to the coroutine, whatever it is
                message, thrown = None, error


Work = Callable[[], Coroutine[Any, Any, T]]
Way = Callable[[Work[T], int], Awaitable[Ending[T]]]


async def by_scope(work: Work[T], k: int) -> Ending[T]:
    """Cancel through an anyio scope at the k-th suspension."""
    ending: Ending[T] = Ending()
    with anyio.CancelScope() as scope:
        await _note(Driven(work(), {k}, scope.cancel, ending), ending)
    assert scope.cancelled_caught == ending.cancelled
    return ending


async def by_native_cancel(work: Work[T], k: int) -> Ending[T]:
    """asyncio: ``task.cancel()`` at the k-th suspension."""
    return await _natively(work, {k})


async def by_two_native_cancels(work: Work[T], k: int) -> Ending[T]:
    """asyncio: ``task.cancel()`` at the k-th suspension, and again at the next one."""
    return await _natively(work, {k, k + 1})


async def _natively(work: Work[T], when: Collection[int]) -> Ending[T]:
    ending: Ending[T] = Ending()

    async def run() -> None:
        own = asyncio.current_task()
        assert own is not None
        await _note(Driven(work(), when, own.cancel, ending), ending)

    task = asyncio.ensure_future(run())
    await asyncio.wait({task})
    ending.requests = task.cancelling()
    return ending


async def by_asyncio_timeout(work: Work[T], k: int) -> Ending[T]:
    """asyncio: an ``asyncio.timeout`` whose time is up at the k-th suspension; its cancel comes in the turn after that."""
    loop = asyncio.get_running_loop()
    ending: Ending[T] = Ending(own=TimeoutError)

    async def run() -> None:
        try:
            async with asyncio.timeout(None) as timeout:
                try:
                    ending.value = await Driven(work(), {k}, lambda: timeout.reschedule(loop.time()), ending)
                finally:
                    ending.over()
        except BaseException as error:  # noqa: BLE001 - what it is, is for the test to judge
            ending.error = error
        ending.requests = int(timeout.expired())

    task = asyncio.ensure_future(run())
    await asyncio.wait({task})
    task.result()
    assert task.cancelling() == 0
    return ending


async def by_ctrl_c(work: Work[T], k: int) -> Ending[T]:
    """Ctrl-C as the main task of a loop of its own is at its k-th suspension; that task goes on, and raises ``error`` in the end."""
    ending: Ending[T] = Ending(own=asyncio.CancelledError if on_asyncio() else KeyboardInterrupt)
    try:
        await _note(Driven(work(), {k}, _ctrl_c(), ending), ending)
        await anyio.lowlevel.checkpoint()  # trio: one that came as the call was ending
    except ending.own as error:
        ending.error = error
    return ending


async def by_ctrl_c_after_turns(work: Work[T], n: int) -> Ending[T]:
    """Ctrl-C after ``n`` turns of the loop, which has a main task of its own."""

    async def turns() -> None:
        for _ in range(n):
            await anyio.lowlevel.checkpoint()

    return await _by_ctrl_c_after(turns, work)


async def by_ctrl_c_after_seconds(work: Work[T], seconds: float) -> Ending[T]:
    """Ctrl-C after so many seconds, in the main task of a loop of its own."""
    return await _by_ctrl_c_after(lambda: anyio.sleep(seconds), work)


async def _by_ctrl_c_after(wait: Callable[[], Awaitable[None]], work: Work[T]) -> Ending[T]:
    ending: Ending[T] = Ending(own=asyncio.CancelledError if on_asyncio() else KeyboardInterrupt)

    async def trigger() -> None:
        await wait()
        ending.trigger(_ctrl_c())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trigger)
        try:
            await _note(work(), ending)
            await anyio.lowlevel.checkpoint()
        except ending.own as error:
            ending.error = error
        tasks.cancel_scope.cancel()
    return ending


def _ctrl_c() -> Callable[[], object]:
    def interrupt() -> None:
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler, "it would end the tests"
        signal.raise_signal(signal.SIGINT)

    if on_asyncio():
        return interrupt
    import trio

    return trio.lowlevel.enable_ki_protection(interrupt)  # else trio raises it here, and not where the task is suspended


def run_virtually(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run a main task in a loop of its own, in virtual time; Ctrl-C interrupts it, also where a shell has begun us with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        anyio.run(main, backend=backend, backend_options=in_virtual_time(backend))
    finally:
        signal.signal(signal.SIGINT, before)


async def by_scope_after_turns(work: Work[T], n: int) -> Ending[T]:
    """Cancel through an anyio scope after ``n`` turns of the loop; the clock stands still until then."""
    ending: Ending[T] = Ending()

    async def trigger() -> None:
        for _ in range(n):
            await anyio.lowlevel.checkpoint()
        ending.trigger(scope.cancel)

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(trigger)
            await _note(work(), ending)
        tasks.cancel_scope.cancel()
    return ending


async def by_native_cancel_after_turns(work: Work[T], n: int, *, times: int = 1) -> Ending[T]:
    """asyncio: ``task.cancel()`` after ``n`` turns of the loop, and in the turns after that, ``times`` in all."""
    ending: Ending[T] = Ending()
    task = asyncio.ensure_future(_note(work(), ending))
    for _ in range(n):
        await asyncio.sleep(0)
    for _ in range(times):
        if not task.done():
            ending.trigger(task.cancel)
            await asyncio.sleep(0)
    await asyncio.wait({task})
    ending.requests = task.cancelling()
    return ending


async def by_a_storm_after_turns(work: Work[T], n: int) -> Ending[T]:
    """asyncio: eight native cancels, one in each turn of the loop, from the n-th on."""
    return await by_native_cancel_after_turns(work, n, times=8)


async def _note(work: Awaitable[T], ending: Ending[T]) -> None:
    with contextlib.suppress(Exception):
        try:
            ending.value = await work
        except BaseException as error:  # what it is, is for the test to judge
            ending.error = error
            raise
        finally:
            ending.over()


def ways() -> list[Way[Any]]:
    """The ways to cancel at a suspension on this backend."""
    return [by_scope, by_native_cancel, by_two_native_cancels, by_asyncio_timeout] if on_asyncio() else [by_scope]


def ways_by_turns() -> list[Way[Any]]:
    """The ways to cancel after some turns of the loop on this backend."""
    native: list[Way[Any]] = [by_native_cancel_after_turns, by_a_storm_after_turns]
    return [by_scope_after_turns, *native] if on_asyncio() else [by_scope_after_turns]


def on_asyncio() -> bool:
    """Is this test on asyncio now?"""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # trio: no asyncio loop is running
        return False


asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
"""For what only asyncio has: native cancellation, ``asyncio.timeout``, ``asyncio.all_tasks``, aiohttp."""


def tasks_alive() -> int:
    """How many tasks the loop has; one that is hidden from ``asyncio.all_tasks`` is not among them."""
    if on_asyncio():
        return len(asyncio.all_tasks())
    import trio

    return trio.lowlevel.current_statistics().tasks_living


@contextlib.contextmanager
def no_journal_left() -> Iterator[None]:
    """Fail unless each journal that was opened in this block ends its thread, within a moment."""
    before = threading.enumerate()
    yield
    opened = [thread for thread in threading.enumerate() if thread.name == "sms4sats-journal" and thread not in before]
    for thread in opened:
        thread.join(5)  # pragma: no cover - all may have ended
    assert not any(thread.is_alive() for thread in opened)


@contextlib.contextmanager
def no_task_left() -> Iterator[None]:
    """Fail if a task that was begun in this block outlives it; on asyncio also one that is hidden from ``asyncio.all_tasks``."""
    if not on_asyncio():
        before = tasks_alive()
        yield
        assert tasks_alive() == before
        return
    gc.freeze()  # what is here now is not listed below: it would be most of it, thousands of times
    try:
        yield
        loop = asyncio.get_running_loop()
        begun = [thing for thing in gc.get_objects() if isinstance(thing, asyncio.Task)]  # only the collector of garbage knows hidden ones
    finally:
        gc.unfreeze()
    assert [task for task in begun if task.get_loop() is loop and not task.done()] == []


def files_open() -> int:
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - thousands of times


class Till:
    """A service that charges an immediate order on receipt, and answers ``delay`` seconds later. Use it as a server's script.

    Its orders are paid, and have their number and their code at the second look, or were delivered then if their id begins with
    ``send-``; one whose id begins with ``silent-`` gets none.
    """

    def __init__(self, *, delay: float = 0.0) -> None:
        self.delay = delay
        self.charged: list[str] = []
        self.looks = 0

    async def __call__(self, request: SeenRequest, reply: Reply) -> None:
        path = request.target.partition("?")[0]
        answer = self._answer(path, request)
        if self.delay:
            await anyio.sleep(self.delay)
        await reply.json(answer)

    def charge(self) -> bytes:
        """Charge an order, and return the reply that tells of it."""
        self.charged.append(f"order-{len(self.charged):06}-{id(self):x}")
        return json_reply({"status": "OK", "orderId": self.charged[-1], "payreq": "paid"})

    def _answer(self, path: str, request: SeenRequest) -> Any:
        if path in ("/createorder", "/createsendorder", "/fund"):
            if b'"immediate":true' in request.body.replace(b" ", b""):
                self.charge()
                return {"status": "OK", "orderId": self.charged[-1], "payreq": "paid"}
            return {"status": "OK", "orderId": f"{'send-' if path == '/createsendorder' else ''}unpaid-order", "payreq": INVOICE}
        if path == "/orderstatus":
            self.looks += 1
            late = self.looks % 2 == 0 and "=silent-" not in request.target
            if "=send-" in request.target:
                return {"status": "OK", "paid": True, "smsStatus": "delivered" if late else "created"}
            return {"status": "OK", "paid": True, "number": "+15550001111" if late else "", "code": "048213" if late else ""}
        return _ANSWERS[path]


_ANSWERS: dict[str, Any] = {
    "/": {"status": "OK"},
    "/getCountries": [{"id": 187, "eng": "USA"}],
    "/getnumbersstatus": [{"value": "tg", "text": "Telegram", "count": 3}],
    "/getRentalCountries": [{"cc": 1, "country": "USA", "duration": "1 day", "price": 100}],
    "/price": {"status": "OK", "receive": 100, "send": 50, "rent": 900, "s4s": 300, "computed": {"price": 120, "country": 187}},
    "/cancelorder": {"status": "OK"},
    "/balance": {"status": "OK", "balance": 1000.5},
    "/history": {"status": "OK", "totalAmount": 10, "orders": []},
}
