"""Virtual time in an asyncio loop that is running already, whoever has made it, and only for as long as it is wanted.

There is no public way to that: a loop factory would have to be asked for before the loop is made, and pytest-asyncio shares a loop among
tests, of which one may want real time. So the two places where a loop meets time are replaced on this one loop, and put back after
the test: its ``time()``, and how its selector waits. Where they are not what CPython's loops have, that is said at once.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from sms4sats_async.journal import is_awaited_in
from sms4sats_async.testing.clock import RealTimeError


class AsyncioTime:
    """The virtual time of the loop that runs the caller; it begins at once."""

    def __init__(self, patience: Callable[[], float]) -> None:
        loop = asyncio.get_running_loop()
        self._loop: Any = loop
        self._selector: Any = getattr(loop, "_selector", None)
        if not isinstance(loop, asyncio.BaseEventLoop) or self._selector is None:
            kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
            raise RealTimeError(f"the time of {kind} cannot be virtual: run this test on asyncio's own loop, or on trio")
        self._patience = patience
        self._limiter = anyio.to_thread.current_default_thread_limiter()
        self._calls = 0
        self._settling: list[asyncio.Future[None]] = []
        self._passed = 0.0
        self._shift = _Shift.of(loop)
        self._base = loop.time()
        self._wait: Callable[[float | None], list[Any]] = self._selector.select
        self._call: Callable[..., asyncio.Future[Any]] = loop.run_in_executor
        self._begin()

    def _begin(self) -> None:
        self._selector.select = self._select
        self._loop.run_in_executor = self._run_in_executor
        self._loop.time = self._time

    def seconds(self) -> float:
        """Return the seconds that have passed."""
        return self._passed

    def is_of_this_task(self) -> bool:
        """Is it the loop that runs the caller?"""
        return asyncio._get_running_loop() is self._loop  # noqa: SLF001 - public but in name

    async def settle(self) -> None:
        """Return when everybody else waits."""
        settled = self._loop.create_future()
        self._settling.append(settled)
        await settled

    def end(self) -> None:
        """Let time be real again. It does not go back, so from now on it is ahead."""
        del self._selector.select
        del self._loop.run_in_executor
        self._shift.seconds += self._time() - self._shift.time()
        self._loop.time = self._shift.time

    def _time(self) -> float:
        return self._base + self._passed

    def _select(self, timeout: float | None = None) -> list[Any]:
        ready = self._wait(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        journal_answers = is_awaited_in(self._loop)
        if self._settling and not journal_answers:
            for settled in self._settling:
                if not settled.done():  # who waited may be cancelled
                    settled.set_result(None)
            self._settling.clear()
            return []
        if timeout is None or journal_answers:  # nobody waits for any moment, or may do so yet: only a file or a thread can go on
            return self._wait(None)
        if self._calls or self._limiter.borrowed_tokens or self._waits_for_a_thread():  # time goes on as it does for a thread
            before = self._shift.time()
            ready = self._wait(timeout)
            self._passed += min(self._shift.time() - before, timeout)
            return ready
        if self._has_company() and (ready := self._wait(min(timeout, self._patience()))):
            return ready
        self._passed += timeout
        return []

    def _waits_for_a_thread(self) -> bool:
        """Does a task wait for a thread that a limiter of its own counts? Nothing but the tasks' frames tells of that."""
        return threading.active_count() > 1 and any(_awaits(task, anyio.to_thread.run_sync) for task in asyncio.all_tasks(self._loop))

    def _has_company(self) -> bool:
        """Is there anything beside this loop that it could hear from? Its own waker is a file in its selector."""
        files = getattr(self._selector, "get_map", dict[int, Any])()
        return len(files) > 1 or threading.active_count() > 1

    def _run_in_executor(self, *arguments: Any) -> asyncio.Future[Any]:
        future = self._call(*arguments)
        self._calls += 1
        future.add_done_callback(self._called)
        return future

    def _called(self, _: object) -> None:
        self._calls -= 1


def _awaits(task: asyncio.Task[Any], function: Any) -> bool:
    waiting: Any = task.get_coro()
    while waiting is not None:
        if getattr(waiting, "cr_code", None) is function.__code__:
            return True
        waiting = getattr(waiting, "cr_await", None)
    return False


class _Shift:
    """A loop's real time, and how far virtual times have brought it ahead. One for each loop, however many tests that runs."""

    def __init__(self, real: Callable[[], float]) -> None:
        self._real = real
        self.seconds = 0.0

    @classmethod
    def of(cls, loop: Any) -> "_Shift":
        owner = getattr(loop.time, "__self__", None)
        return owner if isinstance(owner, cls) else cls(loop.time)

    def time(self) -> float:
        return self._real() + self.seconds
