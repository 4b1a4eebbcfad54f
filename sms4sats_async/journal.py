"""The journal: what was ordered and what became of it, on disk, so that no order is lost with its process.

The file (:mod:`~sms4sats_async.book`) waits for the disk, so it lives in a thread of its own, and the loop never waits. What a caller
must be sure of is handed over and awaited: the intent of a call before it is sent, the order before anybody has it. What is seen
later is only handed over, and written together with what comes in the same moment. A watcher never waits for the disk.
"""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import logging
import os
import queue
import threading
import time
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
CLOSE_GRACE = 10.0
"""Seconds that a cancelled caller waits for the file to be closed."""
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

    The file is opened when the block is entered, else with the first call. The same journal can serve several clients, and event
    loops. Every coroutine raises :class:`JournalError` where the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_codes: bool = False) -> None:
        self._path = Path(os.fspath(path))
        self._writer = _Writer(self._path, keep_codes=keep_codes)

    def __repr__(self) -> str:
        return f"<Journal {self._path.name}>"

    async def __aenter__(self) -> Self:
        """Open the file.

        Raises:
            JournalError: it is damaged, of a later version, of something else, locked, or on a disk that is full or read-only.
        """
        await self._ask(lambda _: None, writes=True)
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
        _check_age(older_than)
        return await self._ask(lambda book: book.prune(older_than), writes=True)

    # --- for a client ----------------------------------------------------------------------------------------------------------

    async def intend(
        self, kind: OrderKind, *, country: int | str | None, service: str | None, price_sats: int | None, prepaid: bool
    ) -> Callable[[], int]:
        """Write down that a call is about to be sent; return what the others know it by. Whoever is cancelled here sends nothing."""
        intending = _Asked(lambda book: book.intend(kind, country, service, price_sats, prepaid=prepaid))

        def row() -> int:
            return intending.result or 0  # no row has that number: it was never written

        try:
            await self._writer.ask(intending)
        except anyio.get_cancelled_exc_class():
            self._note(lambda book: book.drop(row()))
            raise
        return row

    def dropped(self, row: Callable[[], int]) -> None:
        """Forget an intent that has surely come to nothing."""
        self._note(lambda book: book.drop(row()))

    async def left(self, row: Callable[[], int]) -> None:
        """Let go of an intent whose outcome is not known."""
        await self._ask(lambda book: book.leave(row()), writes=True)

    async def placed(self, row: Callable[[], int], order: Order) -> None:
        """Write down the order of an intent."""
        await self._ask(lambda book: book.place(row(), order), writes=True)

    # --- for watchers: nothing here waits ----------------------------------------------------------------------------------------

    def watched(self, order: Order, *, bare: bool) -> None:
        """Note that an order is being watched."""
        self._note(lambda book: book.adopt(order, bare=bare))

    def saw(self, order_id: str, *, paid: bool, number: str | None, code: str | None, cancel: str | None) -> None:
        """Note what is known of an order."""
        self._note(lambda book: book.note(order_id, paid=paid, number=number, code=code, cancel=cancel))

    def ended(self, order_id: str, end: str) -> None:
        """Note how an order ended."""
        self._note(lambda book: book.end(order_id, end))

    def released(self, order_id: str) -> None:
        """Note that nobody watches an open order here any more."""
        self._note(lambda book: book.release(order_id))

    # --- for resume and reconcile ------------------------------------------------------------------------------------------------

    async def take_all(self) -> list[Entry]:
        """Answer for all open orders that nobody who lives answers for, and return them.

        Among them is what a process had seen the end of just before it died: the code may not have reached anybody.
        """
        return await self._ask(lambda book: book.take_all(), writes=True)

    async def take(self, order_id: str) -> bool:
        """Answer for an open order, if nobody who lives does; is that so?"""
        return await self._ask(lambda book: book.take(order_id), writes=True)

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


def _check_age(older_than: object) -> None:
    if not isinstance(older_than, int | float) or isinstance(older_than, bool):
        raise TypeError(f"older_than must be a number of seconds, not {type(older_than).__name__}")
    if not older_than >= 0:
        raise ValueError(f"older_than must not be negative, not {older_than}")


class _Asked(Generic[T]):
    """Something that somebody waits for.

    Attributes:
        result: what came of it; ``None`` until then.
        problem: why nothing did, in words.
        tell: wakes whoever waits.
        last: nothing comes after it.
    """

    __slots__ = ("last", "problem", "result", "tell", "work", "writes")

    def __init__(self, work: Callable[[Book], T], *, writes: bool = True, last: bool = False) -> None:
        self.work = work
        self.writes = writes
        self.last = last
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
    """The thread that has the file open, and what it is to do."""

    def __init__(self, path: Path, *, keep_codes: bool) -> None:
        self._path = path
        self._keep_codes = keep_codes
        self._thread: threading.Thread | None = None
        self._works: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._book: Book | None = None
        self._unwritten: list[_Work] = []
        self._warned = False

    # --- in the loop's thread ----------------------------------------------------------------------------------------------------

    def note(self, work: _Work) -> None:
        """Have this done, some time soon."""
        if self._thread is None or not self._thread.is_alive():  # a fork takes no threads along
            self._start()
        self._works.put(work)

    async def ask(self, asked: _Asked[T]) -> T:
        """Have this done, and wait for it; whoever is cancelled meanwhile leaves it to be done all the same.

        Raises:
            JournalError: it could not be.
        """
        done = anyio.Event()
        loop: Any = current_token().native_token
        soon: Callable[[Callable[[], None]], object] = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon  # of asyncio, trio
        asked.tell = lambda: soon(done.set)
        self.note(asked)
        await done.wait()
        if asked.problem is not None:
            raise JournalError(asked.problem)
        return cast("T", asked.result)  # there was no problem, so there is a T

    async def close(self) -> None:
        """Have everything done that was to be done, and end the thread."""
        if self._thread is not None and self._thread.is_alive():
            await self.ask(_Asked(lambda _: None, writes=False, last=True))

    def _start(self) -> None:
        self._works = queue.SimpleQueue()
        self._book, self._unwritten = None, []
        self._thread = threading.Thread(target=self._run, name="sms4sats-journal", daemon=True)
        self._thread.start()

    # --- in the thread -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        last = False
        while not last:
            works = self._gather()
            asked = [work for work in works if _is_asked(work)]
            last = any(one.last for one in asked)
            self._write([work for work in works if not _is_asked(work) or work.writes])
            for one in asked:
                if not (one.writes or one.last):
                    self._read(one)
            if last:
                self._thread = None
                if self._book is not None:
                    self._book.close()
            for one in asked:
                with suppress(RuntimeError):  # its loop is over
                    one.tell()

    def _gather(self) -> list[_Work]:
        """Wait until there is something to do; at once if somebody waits for it, else with what comes in the same moment."""
        works: list[_Work] = []
        until = self._awake_at()
        while True:
            try:
                work = self._works.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
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
        return None if self._book is None else self._book.settles_at

    def _write(self, works: list[_Work]) -> None:
        works = self._unwritten + works

        def all_of_it(book: Book) -> None:
            def work() -> None:
                book.settle()
                for one in works:
                    one(book)

            book.write(work)

        self._unwritten = []
        problem = self._attempt([work for work in works if _is_asked(work)], all_of_it)
        if problem is not None:
            self._unwritten = [work for work in works if not _is_asked(work)]
            if self._unwritten and not self._warned:
                self._warned = True
                _logger.warning("%s; orders are watched all the same, and what is seen is written when it can be", problem)
        elif self._warned and works:
            self._warned = False
            _logger.warning("the journal can be written again")

    def _read(self, asked: _Asked[Any]) -> None:
        self._attempt([asked], lambda book: book.read(lambda: asked(book)))

    def _attempt(self, asked: list[_Asked[Any]], work: Callable[[Book], object]) -> str | None:
        """Do some work, and return why it was not done; ``None`` if it was."""
        try:
            if self._book is None:
                from sms4sats_async.book import Book  # noqa: PLC0415 - brings sqlite3, which takes its time

                self._book = Book(self._path, keep_codes=self._keep_codes)
            work(self._book)
        except Exception as error:  # noqa: BLE001 - this thread goes on
            problem = str(error) if isinstance(error, JournalError) else f"journal {self._path.name}: {type(error).__name__}"
            for one in asked:
                one.result, one.problem = None, problem
            return problem
        return None
