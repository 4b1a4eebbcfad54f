"""An asyncio loop whose clock jumps: when nothing is ready, the next timer is.

The rule is the one of trio's ``MockClock(autojump_threshold=0)``: as long as a file is readable or a callback is due, time stands
still; when the loop would wait, it does not wait, and its clock moves on instead. Real loopback sockets work, as long as both ends
live in this loop: Linux hands loopback bytes over at once, so "nothing is readable" means that nobody has anything left to say.
While a journal is waited for, which works in a thread, time stands still.
"""

import asyncio
import selectors
import sys
from collections.abc import Mapping
from typing import Any


class _JumpingSelector(selectors.BaseSelector):
    """A selector that never waits for a timer: it says how long it should have waited, and returns."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.jumped = 0.0
        self.loop: asyncio.AbstractEventLoop | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready:
            return ready
        if timeout is None or (timeout > 0 and _awaits_a_journal(self.loop)):  # no timer at all: only a file, or another thread, can go on
            return self._real.select(None)
        self.jumped += max(0.0, timeout)
        return []


def _awaits_a_journal(loop: object) -> bool:
    journal: Any = sys.modules.get("sms4sats_async.journal")  # where nobody has imported it, there is none
    return journal is not None and journal.is_awaited_in(loop)


def in_virtual_time(backend: str) -> dict[str, Any]:
    """Return what anyio is to be told for a loop of this backend whose clock jumps."""
    if backend == "asyncio":
        return {"loop_factory": VirtualTimeLoop}
    from trio.testing import MockClock

    return {"clock": MockClock(autojump_threshold=0)}


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at 0 s and never waits for a timer."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._jumping.loop = self

    def time(self) -> float:
        return self._jumping.jumped

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own signature
        """Wait for threads as long as they take: from Python 3.12 on there is a limit of 300 s, and this clock would jump over it."""
        del timeout
        await super().shutdown_default_executor()
