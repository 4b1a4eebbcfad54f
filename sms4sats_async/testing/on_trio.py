"""Virtual time on trio: its own ``MockClock``, with care for threads and sockets, which that has not."""

import math
import threading
from collections.abc import Callable

import trio
from trio.lowlevel import Task
from trio.testing import MockClock, wait_all_tasks_blocked

from sms4sats_async.journal import is_awaited_in
from sms4sats_async.testing.clock import RealTimeError


def virtual_clock() -> MockClock:
    """Return a clock for ``trio.run``."""
    return MockClock(autojump_threshold=0)


class TrioTime(trio.abc.Instrument):
    """The time of the run of the caller, which must have a ``MockClock``. One that does not jump is left to whoever moves it.

    Such a clock jumps when all tasks wait, also when they wait for a thread. So after each step of a task this looks at who is at work
    outside, and sets the clock's pace. The run loop looks at the pace only after that.
    """

    def __init__(self, patience: Callable[[], float]) -> None:
        clock = trio.lowlevel.current_clock()
        if not isinstance(clock, MockClock):
            raise RealTimeError(
                "this trio run has a real clock, which cannot be changed any more: trio.run(main, clock=MockClock(autojump_threshold=0)) "
                "of trio.testing gives it another. In an anyio test, a fixture of a wider scope than the test has started the run: make "
                'it a fixture of the test, or let anyio_backend return ("trio", {"clock": MockClock(autojump_threshold=0)})'
            )
        self._clock = clock
        self._patience = patience
        self._token = trio.lowlevel.current_trio_token()
        self._in_threads: set[Task] = set()
        self._began = clock.current_time()
        self._threshold = clock.autojump_threshold
        self._jumps = clock.rate == 0 and self._threshold < math.inf
        if self._jumps:
            trio.lowlevel.add_instrument(self)

    def seconds(self) -> float:
        """Return the seconds that have passed."""
        return self._clock.current_time() - self._began

    def is_of_this_task(self) -> bool:
        """Is it the run of the caller?"""
        return trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._token

    async def settle(self) -> None:
        """Return when everybody else waits."""
        await wait_all_tasks_blocked()
        while is_awaited_in(self._token):  # the answer comes, and may be about this very moment
            await wait_all_tasks_blocked(self._patience())

    def end(self) -> None:
        """Take the care back. The clock stays what it is, as a run has but one."""
        if self._jumps and self.is_of_this_task():
            trio.lowlevel.remove_instrument(self)

    def after_task_step(self, task: Task) -> None:
        """Set the pace."""
        if _waits_for_a_thread(task):  # whichever limiter counts that
            self._in_threads.add(task)
        else:
            self._in_threads.discard(task)
        if is_awaited_in(self._token):
            rate, threshold = 0.0, math.inf
        elif self._in_threads:
            rate, threshold = 1.0, math.inf
        else:
            rate, threshold = 0.0, max(self._threshold, self._patience() if _has_company() else 0.0)
        if (self._clock.rate, self._clock.autojump_threshold) != (rate, threshold):
            self._clock.rate = rate
            self._clock.autojump_threshold = threshold


def _waits_for_a_thread(task: Task) -> bool:
    if threading.active_count() == 1 or getattr(task.coro, "cr_frame", None) is None:  # there is none, or the task has ended
        return False
    return any(frame.f_code is trio.to_thread.run_sync.__code__ for frame, _ in task.iter_await_frames())


def _has_company() -> bool:
    """Is there anything beside this run that it could hear from?"""
    files = trio.lowlevel.current_statistics().io_statistics
    return threading.active_count() > 1 or getattr(files, "tasks_waiting_read", 0) > 1 or getattr(files, "tasks_waiting_write", 0) > 0
