"""The clock of a test: virtual seconds that pass as soon as nobody has anything left to do."""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import math
from typing import TYPE_CHECKING, Protocol

import anyio

from sms4sats_async.shelter import on_asyncio

if TYPE_CHECKING:
    from sms4sats_async.testing.on_asyncio import AsyncioTime
    from sms4sats_async.testing.on_trio import TrioTime

PATIENCE = 0.002
"""Real seconds that are given to what lives outside of the loop before time jumps. An answer over loopback takes a tenth of that, and
some 300 jumps make a window of 21 minutes."""


class RealTimeError(BaseException):
    """The running loop's time is real, and a test in it would wait as long as the service makes people wait.

    It is no ``Exception``, like what ``pytest.fail`` raises: neither a client that repeats calls nor a bot that catches everything may
    swallow it, and wait after all.
    """


class Source(Protocol):
    """What a clock asks a loop for."""

    def seconds(self) -> float:
        """Return the seconds that have passed in this loop since its time is virtual."""
        ...

    def is_of_this_task(self) -> bool:
        """Is it of the loop that runs the caller?"""
        ...

    async def settle(self) -> None:
        """Return when everybody else waits."""
        ...

    def end(self) -> None:
        """Let time be real again."""
        ...


class Clock:
    """A test's time, in seconds since the test began. It is the time of the loop that runs the test: sleeps and time-outs follow it.

    Time stands still as long as anybody has something to do. When all wait, it jumps to the next moment that somebody waits for. While a
    thread of ``asyncio.to_thread``, ``loop.run_in_executor``, ``anyio.to_thread`` or ``trio.to_thread`` works, it goes as fast as real
    time does; while somebody waits for a ``Journal``, it stands still. Other threads, and sockets, cannot be asked whether they still
    have something to say: as long as there are any, each jump is preceded by ``patience``.

    What a program reads from ``time`` and ``datetime`` stays real.

    Attributes:
        patience: real seconds to wait for other threads, processes and machines before each jump. Raise it if one of yours is slower.
    """

    def __init__(self) -> None:
        self.patience = PATIENCE
        self._before = 0.0
        self._source: Source | None = None

    def __repr__(self) -> str:
        return f"<Clock at {self.now:g} s>"

    @property
    def now(self) -> float:
        """Seconds since the test began, to the microsecond, so that what binary fractions leave over is not seen."""
        return round(self._before + (0.0 if self._source is None else self._source.seconds()), 6)

    async def move(self, seconds: float) -> None:
        """Let so many seconds pass, with all that becomes due in them, and return when everybody else waits again.

        Raises:
            ValueError: less than nothing, or no number of seconds.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"time cannot move by {seconds} s")
        source = self._begun()
        await anyio.sleep(seconds)
        await source.settle()

    async def move_to(self, at: float) -> None:
        """Let time pass until ``now`` is ``at``, likewise.

        Raises:
            ValueError: that moment is over.
        """
        if at < self.now:
            raise ValueError(f"it is {self.now:g} s, and time cannot go back to {at:g} s")
        await self.move(at - self.now)

    def begin(self) -> None:
        """Make the running loop's time this clock's. The fixtures do so; it is for a loop that a test starts itself, as the first thing.

        On trio a loop has its clock from the start on: ``trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))``.

        Raises:
            RealTimeError: this loop's time cannot be virtual.
        """
        self._begun()

    def _begun(self) -> Source:
        if self._source is None or not self._source.is_of_this_task():
            source = _asyncio_time(self) if on_asyncio() else _trio_time(self)
            self.end()
            self._source = source
        return self._source

    def end(self) -> None:
        """Let the loop's time be real again, from where it is. ``now`` stays."""
        if self._source is not None:
            self._before = self.now
            self._source.end()
            self._source = None

    def read(self) -> float:
        """Return ``now``; for those who only see that time passes, and must not wait for it.

        Raises:
            RealTimeError: in a loop that this clock has not begun in.
        """
        if in_a_loop() and (self._source is None or not self._source.is_of_this_task()):
            raise RealTimeError(
                "this loop's time is real: await nothing here before sms4sats_clock.begin(), on trio with "
                "trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))"
            )
        return self.now


def in_a_loop() -> bool:
    """Does a loop run the caller?"""
    try:
        anyio.current_time()
    except RuntimeError:
        return False
    return True


def _asyncio_time(clock: Clock) -> AsyncioTime:
    from sms4sats_async.testing.on_asyncio import AsyncioTime  # noqa: PLC0415 - a loop of it is running

    return AsyncioTime(lambda: clock.patience)


def _trio_time(clock: Clock) -> TrioTime:
    from sms4sats_async.testing.on_trio import TrioTime  # noqa: PLC0415 - an extra

    return TrioTime(lambda: clock.patience)
