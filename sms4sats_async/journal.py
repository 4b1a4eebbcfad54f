"""The journal: what was ordered and what became of it, on disk, so that no order is lost with its process.

The file (:mod:`~sms4sats_async.book`) waits for the disk, so it lives in a thread of its own, and the loop never waits. What a caller
must be sure of is handed over and awaited: the intent of a call before it is sent, the order before anybody has it. What is seen
later is only handed over, and written together with what comes in the same moment. A watcher never waits for the disk.
"""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import atexit
import logging
import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeGuard, TypeVar, cast

import anyio
from anyio.lowlevel import current_token

from sms4sats_async.errors import JournalError
from sms4sats_async.shelter import sheltered

if TYPE_CHECKING:
    from sms4sats_async.book import Book
    from sms4sats_async.entries import Entry, Intent, Spending
    from sms4sats_async.models import Order, OrderKind

T = TypeVar("T")

COMPANY = 0.05
"""Seconds that what nobody waits for may wait for company: one write of the disk then does for all of it."""
BUSY_TIMEOUT = 5.0
"""Seconds that a file which another process has locked is waited for."""
SETTLE_AFTER = 10.0
"""Seconds in which a program is taken to have done with a code what it is to do."""
CLOSE_GRACE = 10.0
"""Seconds that a cancelled caller, or a program that ends, waits for the file to be closed."""
LONGEST_WAIT = 3600.0
"""Seconds that are waited for at once, at the most: a system has its limits."""
RETRY = 1.0
"""Seconds after which what could not be written is tried again."""

_logger = logging.getLogger(__name__)


class Journal:
    """A file that remembers orders: given to a client, it has each order before its caller does.

    ::

        async with Journal("orders.db") as journal, Client(journal=journal) as client:
            order = await client.create_order(187, "tg")

    Before a call that places an order is sent, its intent is on disk; with the reply, and before anybody has it, the order is, also
    when its caller was cancelled meanwhile. Watchers and batches of that client add what they see: payment, number, cancel, end. They
    never wait for the disk: where it fails, they go on, one warning is logged, and it is tried again. A call that places an order is
    refused then, before it is sent.

    The file is an SQLite database with the mode 0600; ids of orders are secrets, and whoever reads them can read the codes. The codes
    themselves are kept only on demand, the API key never. It must lie on a disk of this machine, not on a network's.

    Several processes may share one file. Whoever has placed an order, or watches it, answers for it, until the order ends, the block of
    its watcher is left, or the process is gone, however that came; :func:`resume` and :func:`reconcile` leave alone what somebody who
    lives answers for. Everybody sees the end: :meth:`find`.

    Args:
        path: the file; made if there is none.
        keep_codes: write down the codes as well.
        settle_after: seconds after its end in which an order still counts as open should this process die: its code may not have reached
            anybody by then, and comes again.
        busy_timeout: seconds that a file which another process has locked is waited for, before that is an error.

    The file is opened when the block is entered, else with the first call, and closed when the block is left or cannot be entered, else
    when the journal is forgotten or the program ends. The same journal can serve several clients, and event loops. A fork of the process
    that has opened it answers for nothing of its parent's, and opens the file anew.

    Every coroutine raises :class:`JournalError` where the file cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep_codes: bool = False,
        settle_after: float = SETTLE_AFTER,
        busy_timeout: float = BUSY_TIMEOUT,
    ) -> None:
        check_seconds("settle_after", settle_after)
        check_seconds("busy_timeout", busy_timeout)
        self._path = Path(os.path.abspath(os.fspath(path)))  # noqa: PTH100 - whoever opens it may be elsewhere by then
        self._writer = _Writer(self._path, keep_codes=keep_codes, settle_after=settle_after, busy_timeout=busy_timeout)
        weakref.finalize(self, self._writer.forgotten).atexit = False  # then _at_exit waits for all of them

    def __repr__(self) -> str:
        return f"<Journal {self._path.name}>"

    async def __aenter__(self) -> Self:
        """Open the file.

        Raises:
            JournalError: it is damaged, of a later version, of something else, locked, or on a disk that is full or read-only.
        """
        await self._writer.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Write what is left to be written, let go of all orders, and close the file. Any later use opens it again."""
        await sheltered(self._writer.close, grace=CLOSE_GRACE)

    # --- for people ------------------------------------------------------------------------------------------------------------

    async def open_orders(self) -> list[Order]:
        """Return the orders that have not ended as far as is known, oldest first, whoever answers for them."""
        return [entry.order for entry in await self.open_entries()]

    async def open_entries(self) -> list[Entry]:
        """Return the same with all that is known of them."""
        return await self._ask(lambda book: book.open_orders())

    async def entries(self) -> list[Entry]:
        """Return all that is known of all orders, oldest first."""
        return await self._ask(lambda book: book.all_orders())

    async def unresolved(self) -> list[Intent]:
        """Return the calls whose reply was lost and that may have been charged, oldest first: nobody knows the id of such an order.

        A call that is under way in a process that lives is none.
        """
        return await self._ask(lambda book: book.unresolved())

    async def find(self, order_id: str) -> Entry | None:
        """Return all that is known of an order, whichever process has seen it; ``None`` for one that is not in the journal."""
        return await self._ask(lambda book: book.find(order_id))

    async def dismiss(self, what: Order | str | Intent) -> bool:
        """Close an open order or its id, or an intent: a person has seen to it. Was there such a one?

        The service is told nothing.
        """
        thing = what if isinstance(what, str) else getattr(what, "row", None) or getattr(what, "id", None)
        if not isinstance(thing, str | int):
            raise TypeError(f"what must be an order, its id or an intent, not {type(what).__name__}")
        return await self._ask(lambda book: book.dismiss(thing), writes=True)

    async def prune(self, older_than: float) -> int:
        """Delete what ended more than ``older_than`` seconds ago, and return how many orders that were.

        What is open, and what is unresolved, is never deleted.
        """
        check_seconds("older_than", older_than)
        return await self._ask(lambda book: book.prune(older_than), writes=True)

    # --- for a client ----------------------------------------------------------------------------------------------------------

    async def intend(
        self, kind: OrderKind, *, country: int | str | None, service: str | None, price_sats: int | None, prepaid: bool
    ) -> int:
        """Write down that a call is about to be sent; return what the others know it by. Whoever is cancelled here sends nothing."""
        intending = _Asked(lambda book: book.intend(kind, country, service, price_sats, prepaid=prepaid))
        return await self._revocable(intending, lambda book, row: book.drop(row))

    def dropped(self, row: int) -> None:
        """Forget an intent that has surely come to nothing."""
        self._note(lambda book: book.drop(row))

    async def left(self, row: int) -> None:
        """Let go of an intent whose outcome is not known; where that fails, it is tried again like what a watcher sees."""
        await self._writer.ask(_Asked(lambda book: book.leave(row), lasting=True))

    async def placed(self, row: int, order: Order) -> None:
        """Write down the order of an intent, likewise."""
        await self._writer.ask(_Asked(lambda book: book.place(row, order), lasting=True))

    # --- for watchers: nothing here waits ----------------------------------------------------------------------------------------

    def watched(self, order: Order, *, bare: bool) -> None:
        """Note that an order is being watched."""
        self._writer.count(order.id, 1)
        self._note(lambda book: book.adopt(order, bare=bare))

    def saw(self, order_id: str, *, paid: bool, number: str | None, code: str | None, cancel: str | None) -> None:
        """Note what is known of an order."""
        self._note(lambda book: book.note(order_id, paid=paid, number=number, code=code, cancel=cancel))

    def ended(self, order_id: str, end: str) -> None:
        """Note how an order ended."""
        self._writer.count(order_id, -1)
        self._note(lambda book: book.end(order_id, end))

    def released(self, order_id: str, *, watched: bool = False) -> None:
        """Note that an open order is let go of, by somebody who has watched it until now, or not; who else watches it answers for it."""
        if not self._writer.count(order_id, -watched):
            self._note(lambda book: book.release(order_id))

    # --- for resume and reconcile ------------------------------------------------------------------------------------------------

    async def take_all(self) -> list[Entry]:
        """Answer for all open orders that nobody who lives answers for, and return them.

        Among them is what a process had seen the end of just before it died: the code may not have reached anybody.
        """

        def undo(book: Book, entries: list[Entry]) -> None:
            for entry in entries:
                book.release(entry.order.id)

        return await self._revocable(_Asked(lambda book: book.take_all()), undo)

    async def take(self, order_id: str) -> bool:
        """Answer for an open order, if nobody who lives does; is that so?"""

        def undo(book: Book, taken: bool) -> None:  # noqa: FBT001 - an answer, not a flag
            if taken:
                book.release(order_id)

        return await self._revocable(_Asked(lambda book: book.take(order_id)), undo)

    async def spending(self, after: int) -> Spending:
        """Return what was spent, and in detail what was spent after this row."""
        return await self._ask(lambda book: book.spending(after))

    async def kept(self, name: str) -> Any:
        """Return what was kept under this name; ``None`` where nothing was."""
        return await self._ask(lambda book: book.kept(name))

    async def keep(self, name: str, value: object) -> None:
        """Keep something in plain JSON."""
        await self._ask(lambda book: book.keep(name, value), writes=True)

    # --- handing over ------------------------------------------------------------------------------------------------------------

    def _note(self, work: Callable[[Book], None]) -> None:
        self._writer.note(work)

    def _ask(self, work: Callable[[Book], T], *, writes: bool = False) -> Awaitable[T]:
        return self._writer.ask(_Asked(work, writes=writes))

    async def _revocable(self, asked: _Asked[T], undo: Callable[[Book, T], None]) -> T:
        """Ask; for whoever is cancelled meanwhile, or gets a Ctrl-C, it is undone."""
        try:
            return await self._writer.ask(asked)
        except JournalError:
            raise
        except BaseException:
            self._note(lambda book: None if asked.result is None else undo(book, asked.result))
            raise


def check_seconds(name: str, value: object) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless it is a number of seconds, and not negative."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, not {value}")


class _Asked(Generic[T]):
    """Something that somebody waits for.

    Attributes:
        result: what came of it; ``None`` until then.
        problem: why nothing did, in words.
        tell: wakes whoever waits.
        last: nothing comes after it.
        lasting: where the disk fails it is tried again, although whoever waits is told that it was not done.
        idle: it is no use of the journal: the beginning of a block, and, if ``last``, the end of one that could not begin; that gives way
            to whoever uses it.
    """

    __slots__ = ("idle", "last", "lasting", "problem", "result", "tell", "work", "writes")

    def __init__(
        self, work: Callable[[Book], T], *, writes: bool = True, last: bool = False, lasting: bool = False, idle: bool = False
    ) -> None:
        self.work = work
        self.writes = writes
        self.last = last
        self.lasting = lasting
        self.idle = idle
        self.result: T | None = None
        self.problem: str | None = None
        self.tell: Callable[[], object] = int

    def __call__(self, book: Book) -> None:
        """Do it."""
        self.result = self.work(book)


_Work = Callable[["Book"], None]


def _is_asked(work: _Work) -> TypeGuard[_Asked[Any]]:
    return isinstance(work, _Asked)


class _Writer:
    """The thread that has the file open, and what it is to do.

    It is one of our own, and none that anyio lends: it stays with the file it has open, and takes what is only handed over without
    being waited for, for a fraction of what ``to_thread.run_sync`` costs the loop. So it is us who end it: with the journal's block, with
    the journal, and with the program.
    """

    def __init__(self, path: Path, *, keep_codes: bool, settle_after: float, busy_timeout: float) -> None:
        self._path = path
        self._options: dict[str, Any] = {"keep_codes": keep_codes, "settle_after": settle_after, "busy_timeout": busy_timeout}
        self._unwritten: list[_Work] = []
        self._warned = False
        self._fails = False
        self._book: Book | None = None
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()  # around the beginning and the end of the thread, and what several loops count
        self._thread: threading.Thread | None = None
        self._works: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._watchers: dict[str, int] = {}
        self._in_use = False

    # --- in the loop's thread ----------------------------------------------------------------------------------------------------

    def count(self, order_id: str, more: int) -> int:
        """Count those who watch an order here: so many more; return how many they are."""
        with self._lock:
            watchers = self._watchers.pop(order_id, 0) + more
            if watchers > 0:
                self._watchers[order_id] = watchers
        return max(0, watchers)

    def note(self, work: _Work) -> None:
        """Have this done, some time soon."""
        with suppress(JournalError):  # it waits for the next that comes: no watcher may fail by it
            self._hand_over(work)

    async def ask(self, asked: _Asked[T]) -> T:
        """Have this done, and wait for it; whoever is cancelled meanwhile leaves it to be done all the same.

        Raises:
            JournalError: it could not be.
        """
        done = anyio.Event()
        loop: Any = current_token().native_token
        soon: Callable[[Callable[[], None]], object] = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon  # of asyncio, trio
        asked.tell = lambda: soon(done.set)
        self._hand_over(asked)
        _loops_that_wait.append(loop)
        try:
            await done.wait()
        finally:
            _loops_that_wait.remove(loop)
        if asked.problem is not None:
            raise JournalError(asked.problem)
        return cast("T", asked.result)  # there was no problem, so there is a T

    async def open(self) -> None:
        """Open the file for a block; if there will be none, close it again, unless somebody uses it by then.

        Raises:
            JournalError: it cannot be used.
        """
        try:
            await self.ask(_Asked(lambda _: None, idle=True))
        except BaseException:
            self.note(_last(idle=True))
            raise
        with self._lock:
            self._in_use = True

    async def close(self) -> None:
        """Have everything done that was to be done, and end the thread."""
        if self._thread is not None:
            await self.ask(_last())

    def forgotten(self) -> threading.Thread | None:
        """The same, for one that nobody has any more: return the thread that is about to end; ``None`` where there is none."""
        thread = self._thread
        if thread is not None:
            self.note(_last())
        return thread

    def forked(self) -> None:
        """Begin anew in a process that is a fork: it has no threads, and what is unwritten is its parent's, as are the file's locks."""
        if self._book is not None:
            _of_parents.append(self._book)
        self._book, self._unwritten = None, []
        self._begin()

    def _hand_over(self, work: _Work) -> None:
        with self._lock:
            try:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="sms4sats-journal", daemon=True)
                    thread.start()
                    self._thread = thread
            except RuntimeError as error:  # too many, or the program is about to end
                if not _is_asked(work):
                    self._works.put(work)
                raise JournalError(f"journal {self._path.name}: it cannot be written: {error}") from error
            if not (_is_asked(work) and work.idle):
                self._in_use = not (_is_asked(work) and work.last)
            self._works.put(work)

    # --- in the thread -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            works = self._gather()
            asked = [work for work in works if _is_asked(work)]
            self._write([work for work in works if not _is_asked(work) or work.writes])
            for one in asked:
                if not (one.writes or one.last):
                    self._read(one)
            last = any(one.last and not (one.idle and self._in_use) for one in asked)
            if last and self._book is not None:
                book, self._book = self._book, None
                with suppress(Exception):  # what it could not write, or let go of, is found by the next who opens it
                    book.close()
            for one in asked:
                with suppress(RuntimeError):  # its loop is over
                    one.tell()
            if last and self._is_over():
                return

    def _is_over(self) -> bool:
        with self._lock:
            if not self._works.empty():  # somebody goes on all the same
                return False
            self._thread = None
            return True

    def _gather(self) -> list[_Work]:
        """Wait until there is something to do; at once if somebody waits for it, else with what comes in the same moment."""
        works: list[_Work] = []
        until = self._awake_at()
        while True:
            try:
                work = self._works.get(timeout=None if until is None else min(max(0.0, until - time.monotonic()), LONGEST_WAIT))
            except queue.Empty:
                return works
            if _is_asked(work):
                until = 0.0  # what else is there comes along
            elif not works:
                until = time.monotonic() + COMPANY
            works.append(work)

    def _awake_at(self) -> float | None:
        """When there is something to do that nobody has to say; ``None`` if that is never."""
        if self._unwritten:
            return time.monotonic() + RETRY
        at = None if self._book is None else self._book.settles_at
        return max(at, time.monotonic() + RETRY) if self._fails and at is not None else at

    def _write(self, works: list[_Work]) -> None:
        works, self._unwritten = self._unwritten + works, []
        if not works and (self._book is None or not self._book.is_due):
            return  # whoever only reads need not wait for those who write
        failed: dict[int, Exception] = {}
        problem = self._attempt([work for work in works if _is_asked(work)], lambda book: failed.update(book.write(works)))
        for index, error in failed.items():
            self._spoil(works[index], error)
        self._fails = problem is not None
        if problem is not None:
            self._unwritten = [work.work if _is_asked(work) else work for work in works if not _is_asked(work) or work.lasting]
            if self._unwritten and not self._warned:
                self._warned = True
                _logger.warning("%s; orders are watched all the same, and what is seen is written when it can be", problem)
        elif self._warned and works:
            self._warned = False
            _logger.warning("the journal can be written again")

    def _spoil(self, work: _Work, error: Exception) -> None:
        """Give up what cannot be written anywhere, whatever the disk does."""
        problem = f"journal {self._path.name}: {type(error).__name__}"
        if _is_asked(work):
            work.problem = problem
        else:
            _logger.warning("%s; something that was seen of an order is not written", problem)

    def _read(self, asked: _Asked[Any]) -> None:
        self._attempt([asked], lambda book: book.read(lambda: asked(book)))

    def _attempt(self, asked: list[_Asked[Any]], work: Callable[[Book], object]) -> str | None:
        """Do some work, and return why it was not done; ``None`` if it was."""
        try:
            if self._book is None:
                from sms4sats_async.book import Book  # noqa: PLC0415 - brings sqlite3, which takes its time

                self._book = Book(self._path, **self._options)
            work(self._book)
        except Exception as error:  # noqa: BLE001 - this thread goes on
            problem = str(error) if isinstance(error, JournalError) else f"journal {self._path.name}: {type(error).__name__}"
            for one in asked:
                one.result, one.problem = None, problem
            return problem
        return None


def _last(*, idle: bool = False) -> _Asked[None]:
    return _Asked(lambda _: None, writes=False, last=True, idle=idle)


_loops_that_wait: list[object] = []
"""One for each task that waits for a journal."""


def is_awaited_in(loop: object) -> bool:
    """Does a task wait for a journal in this loop of asyncio, or run of trio (its token)? A clock of tests must not jump then."""
    return loop in _loops_that_wait


_writers: weakref.WeakSet[_Writer] = weakref.WeakSet()
_of_parents: list[Book] = []
"""What a fork must not close: SQLite would give up, and clear away, what its parent still uses."""


def _at_exit() -> None:
    """Write what is left, and let go, where nobody has closed it."""
    end = time.monotonic() + CLOSE_GRACE
    for thread in [writer.forgotten() for writer in list(_writers)]:
        if thread is not None:
            thread.join(max(0.0, end - time.monotonic()))


def _in_fork() -> None:
    for writer in list(_writers):
        writer.forked()


atexit.register(_at_exit)
if sys.platform != "win32":  # pragma: no branch - it has no forks
    os.register_at_fork(after_in_child=_in_fork)
