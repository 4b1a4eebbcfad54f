"""Work that goes on for a while after its caller was cancelled: a payment under way, the last look at an order, a socket's close.

A shielded scope is not enough for that on asyncio. It holds off anyio's own cancellation, but a native ``task.cancel()`` (that is what
``asyncio.wait_for``, ``asyncio.timeout`` and a web framework's disconnect do), and a second one after it, goes straight through a
shield. What survives is work in a task that is not the caller's; it lives inside the caller's call all the same, so nothing is left
behind when that returns.
"""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import math
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import anyio

if TYPE_CHECKING:
    import asyncio

    from anyio.abc import TaskGroup

T = TypeVar("T")


class Sheltered(Generic[T]):
    """A piece of work, run once; ``result`` holds what it returned, for a caller that was cancelled meanwhile.

    The work's own exception is kept in ``error``, and not raised; but a ``KeyboardInterrupt`` or its like is, where nobody waits for the
    work just now and may never ask (``loud``).
    """

    __slots__ = ("_finished", "_loud", "_scope", "_work", "error", "result")

    def __init__(self, work: Callable[[], Awaitable[T]], *, loud: bool = False) -> None:
        self._work = work
        self._loud = loud
        self._finished = anyio.Event()
        self._scope = anyio.CancelScope(shield=True)
        self.result: T | None = None
        self.error: BaseException | None = None

    async def run(self, grace: Callable[[], float]) -> None:
        """Run the work to its end, also when the caller is cancelled meanwhile: then at most ``grace()`` seconds longer.

        ``grace`` is asked at the moment of the cancellation, and may prepare the work for it. The caller's cancellation, and nothing
        else, is raised, once the work has ended.
        """
        async with Crew() as crew:
            crew.start(self)
            await self.end(grace)

    async def end(self, grace: Callable[[], float]) -> None:
        """Wait for the end of the work; a cancellation of the caller is held back until then, and ends the work after ``grace()`` s.

        So is a first Ctrl-C on trio, where it is raised in here; asyncio makes a cancellation of it.
        """
        try:
            await self._finished.wait()
        except GeneratorExit:
            raise
        except BaseException as first:  # noqa: BLE001 - held back, not swallowed
            interruption = first
            cancelled = anyio.get_cancelled_exc_class()
            self._scope.deadline = anyio.current_time() + grace()
            with anyio.CancelScope(shield=True):  # without it anyio would cancel this wait again at each turn of the loop
                while not self._finished.is_set():
                    try:
                        await self._finished.wait()
                    except cancelled as later:  # only a native one comes through a shield, and nobody else raises it
                        interruption = later
                    except BaseException:  # a second Ctrl-C
                        self.stop()
                        raise
            raise interruption from None

    def stop(self) -> None:
        """Cancel the work."""
        self._scope.cancel()

    async def work(self) -> None:
        """Do the work, in the task that a crew has for it."""
        try:
            with self._scope:
                self.result = await self._work()
        except BaseException as error:  # kept for the caller, so that no exception group is made of it
            self.error = error
            if self._loud and not isinstance(error, Exception | anyio.get_cancelled_exc_class()):
                raise
        finally:
            self._finished.set()


class Crew:
    """Tasks for sheltered work, while the block lasts. Whoever leaves the block sees to it that all of its work has ended."""

    __slots__ = ("_nursery", "_tasks")

    def __init__(self) -> None:
        self._nursery: TaskGroup | None = None
        self._tasks: set[object] = set()

    async def __aenter__(self) -> Self:
        if not on_asyncio():
            self._nursery = anyio.create_task_group()
            await self._nursery.__aenter__()
        return self

    def start(self, work: Sheltered[Any]) -> None:
        """Begin this work in a task of its own."""
        if self._nursery is not None:
            self._nursery.start_soon(work.work)
            return
        import asyncio  # noqa: PLC0415 - a loop of it is running

        # Not through the loop's task factory: an eager one would begin, say, a payment before its caller could see that it is cancelled.
        task = asyncio.Task(work.work(), loop=asyncio.get_running_loop())
        # asyncio.run ends by cancelling every task that it knows of. This one it must not know: the caller's task still waits for the
        # work to end in its own way. This is the documented way for a task to leave the list (asyncio, "Extending").
        asyncio._unregister_task(task)  # noqa: SLF001
        self._tasks.add(task)  # the loop itself holds its tasks weakly
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        task.exception()  # Ctrl-C, which the loop has raised already: asked for, so that asyncio does not log it as forgotten

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._nursery is None:
            return
        try:  # the nursery is not told of the error: it would make a group of it
            await self._nursery.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            raise one_of(group if error is None else BaseExceptionGroup("", [error, group])) from None


async def sheltered(work: Callable[[], Awaitable[T]], *, grace: float = math.inf) -> T:
    """Return what the work returns, or raise what it raises; a cancelled caller waits ``grace`` seconds at most."""
    shelter = Sheltered(work)
    await shelter.run(lambda: grace)
    if shelter.error is not None:
        raise shelter.error
    return cast("T", shelter.result)  # no error, so the work has returned a T


def one_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one exception for a group: a ``KeyboardInterrupt`` or its like, else the cancellation, else the first."""
    leaves = list(leaves_of(group))
    cancelled = anyio.get_cancelled_exc_class()
    loud = [leaf for leaf in leaves if not isinstance(leaf, Exception | cancelled)]
    return (loud or [leaf for leaf in leaves if isinstance(leaf, cancelled)] or leaves)[0]


def leaves_of(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Go through the exceptions of a group, and of the groups in it."""
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from leaves_of(cast("BaseExceptionGroup[BaseException]", inner))
        else:
            yield inner


def on_asyncio() -> bool:
    """Is this task one of asyncio's?"""
    asyncio = sys.modules.get("asyncio")  # where nobody has imported it, none of its loops is running
    if asyncio is None:
        return False
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # trio
        return False
