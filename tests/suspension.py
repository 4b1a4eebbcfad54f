"""Cancel a call at its k-th suspension, or after n turns of the loop, and say what its caller saw.

Every place where a coroutine can be cancelled is a place where it is suspended, so a sweep over all k tries them all. A call's own
helper tasks are suspended elsewhere: the sweep over the loop's turns reaches those.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import pytest

from tests.servers import Reply, SeenRequest, json_reply

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
    """asyncio: how many native cancels the caller's task still counts."""

    @property
    def cancelled(self) -> bool:
        return isinstance(self.error, anyio.get_cancelled_exc_class())


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
                self._ending.triggered = True
                self._trigger()
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
        await _note(Driven(work(), when, lambda: task.cancel(), ending), ending)  # noqa: PLW0108 - there is no task yet

    task = asyncio.ensure_future(run())
    await asyncio.wait({task})
    ending.requests = task.cancelling()
    return ending


async def by_scope_after_turns(work: Work[T], n: int) -> Ending[T]:
    """Cancel through an anyio scope after ``n`` turns of the loop; the clock stands still until then."""
    ending: Ending[T] = Ending()

    async def trigger() -> None:
        for _ in range(n):
            await anyio.lowlevel.checkpoint()
        ending.triggered = True
        scope.cancel()

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
            ending.triggered = True
            task.cancel()
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


def ways() -> list[Way[Any]]:
    """The ways to cancel at a suspension on this backend."""
    return [by_scope, by_native_cancel, by_two_native_cancels] if on_asyncio() else [by_scope]


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


def files_open() -> int:
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - thousands of times


class Till:
    """A service that charges an immediate order on receipt, and answers ``delay`` seconds later. Use it as a server's script.

    Its orders are paid, and have their number and their code at the second look.
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
            return {"status": "OK", "orderId": "unpaid-order", "payreq": INVOICE}
        if path == "/orderstatus":
            self.looks += 1
            late = self.looks % 2 == 0
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
