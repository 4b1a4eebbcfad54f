"""The file of a journal: an SQLite database with a row for each order. Everything here waits for the disk, and runs in one thread.

A row begins as an **intent**, before the call is sent that places the order; with the reply it becomes the order. What it goes through::

    INTENT ──> OPEN ──> ENDED ──> SETTLED
       └─ gone: surely not ordered

``ENDED`` is what has just ended: its code may not have reached anybody yet, should the process die now. Only after ``settle_after``
seconds, or when the journal is closed, the row is ``SETTLED``, and its owner lets go of it.
"""

import json
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from sms4sats_async.entries import Entry, Intent, Spending
from sms4sats_async.errors import JournalError
from sms4sats_async.lease import Life, lives
from sms4sats_async.models import Order, OrderKind

T = TypeVar("T")

APPLICATION_ID = 0x73347361
"""What tells a journal from other databases: "s4sa"."""
FORMAT = 1
"""The version of the file. A later version of the package reads every earlier one."""
LONGEST_WAIT = 1e6
"""Seconds that SQLite waits for a locked file at the most: it counts in milliseconds, in 32 bits."""
LARGEST = 2**63 - 1
"""The largest number that the file takes."""

INTENT, OPEN, ENDED, SETTLED = range(4)
_GIVEN_BACK = ("failed", "expired", "cancelled")
"""Ends after which the service gives the money back."""
_UNPRICED = "prepaid and id is not null and price is null"

_TABLES = f"""
create table entries (
    row integer primary key,
    state integer not null,
    at real not null,
    id text unique,
    document text,
    price integer,
    prepaid integer not null,
    owner text,
    paid integer,
    number text,
    code text,
    cancel text,
    end text,
    ended real
);
create index pending on entries (state) where state < {SETTLED};
create table facts (name text primary key, value);
pragma application_id = {APPLICATION_ID};
pragma user_version = {FORMAT};
"""
_GROUNDS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it cannot be written to",
    sqlite3.SQLITE_CANTOPEN: "it, or a file beside it, cannot be opened",
    sqlite3.SQLITE_BUSY: "another process has locked it",
    sqlite3.SQLITE_LOCKED: "another process has locked it",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is damaged, or no journal",
    sqlite3.SQLITE_IOERR: "the disk does not work",
}


class Book:
    """The file, opened.

    Args:
        path: where it is; made if there is nothing.
        keep_codes: are codes written down?
        settle_after: seconds from ``ENDED`` to ``SETTLED``.
        busy_timeout: seconds that a file which another process has locked is waited for.

    Raises:
        JournalError: it cannot be read and written.
    """

    def __init__(self, path: Path, *, keep_codes: bool, settle_after: float, busy_timeout: float) -> None:
        self._path = path
        self._keep_codes = keep_codes
        self._settle_after = settle_after
        self._ended: dict[str, float] = {}
        with self._errors("it cannot be used"):
            self._path = path.resolve()  # whoever comes by another way looks for the same lives
            self._make()
            self._file = self._path.stat()
            db = sqlite3.connect(self._path, timeout=min(busy_timeout, LONGEST_WAIT), isolation_level=None)
            try:
                self._prepare(db, busy_timeout)
                self._life = Life(self._path)
            except BaseException:
                db.close()
                raise
        self._db = db

    def _make(self) -> None:
        """Make the file if there is none, for nobody but its owner to read.

        One that is there is not opened here: closing it again would take from under another connection of this process its locks.
        """
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            mode = self._path.stat().st_mode
            if not stat.S_ISREG(mode):
                raise JournalError(f"{self}: it is no file") from None
            if mode & 0o077 and sys.platform != "win32":
                self._path.chmod(0o600)  # -wal and -shm get the mode of the file

    def _prepare(self, db: sqlite3.Connection, busy_timeout: float) -> None:
        """Make the tables, or see whether they are ours, whole, and can be written to."""

        def ask(what: str) -> Any:
            return db.execute(f"pragma {what}").fetchone()[0]

        empty = ask("schema_version") == 0
        if not empty and ask("application_id") != APPLICATION_ID:
            raise JournalError(f"{self}: it is a database of something else")
        if ask("user_version") > FORMAT:
            raise JournalError(f"{self}: it is of a later version of this package (format {ask('user_version')}; this one knows {FORMAT})")
        _use_wal(db, busy_timeout)
        db.execute("pragma synchronous = full")
        if ask("quick_check(1)") != "ok":
            raise JournalError(f"{self}: it is damaged")
        db.execute("begin immediate")
        if ask("schema_version") == 0:  # else another process has made them meanwhile
            for statement in _TABLES.split(";"):
                db.execute(statement)
        db.execute("insert or replace into facts values ('opened', ?)", (time.time(),))  # can it be written to?
        db.execute("commit")

    def __str__(self) -> str:
        return f"journal {self._path.name}"

    def close(self) -> None:
        """Let go of everything, and close the file."""
        try:
            with suppress(JournalError):
                self.write([Book._let_go])
        finally:
            self._db.close()
            self._life.end()

    @contextmanager
    def _errors(self, words: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise JournalError(f"{self}: {words}: {error.strerror}") from error
        except sqlite3.Error as error:
            ground = _GROUNDS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
            raise JournalError(f"{self}: {words}: {ground or error}") from error

    def write(self, works: Sequence[Callable[["Book"], None]]) -> dict[int, Exception]:
        """Do all of this in one transaction, which is on disk when this returns, and settle what is due.

        What fails by itself, because it cannot be written anywhere, is left out: by its place in the row, why.

        Raises:
            JournalError: nothing of it was done.
        """
        failed: dict[int, Exception] = {}
        now = time.monotonic()
        with self._errors("it cannot be written"):
            if not os.path.samestat(self._path.stat(), self._file):
                raise JournalError(f"{self}: another file has taken its place")
            self._db.execute("begin immediate")
            try:
                settled = self._settle(now)
                for index, work in enumerate(works):
                    self._db.execute("savepoint one")
                    try:
                        work(self)
                    except Exception as error:
                        if _is_of_the_file(error):
                            raise
                        failed[index] = error
                        self._db.execute("rollback to one")
                    self._db.execute("release one")
                self._db.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):  # some failures have ended the transaction already
                    self._db.execute("rollback")
                raise
        for order_id in settled:
            del self._ended[order_id]
        return failed

    def read(self, work: Callable[[], T]) -> T:
        """Return what is read.

        Raises:
            JournalError: it cannot be.
        """
        with self._errors("it cannot be read"):
            return work()

    # --- writing ---------------------------------------------------------------------------------------------------------------

    def intend(self, kind: OrderKind, country: int | str | None, service: str | None, price_sats: int | None, *, prepaid: bool) -> int:
        """Write down that a call is about to be sent, and return its row."""
        document = json.dumps({"kind": kind, "country": country, "service": service})
        row = self._newest() + 1
        what = (row, INTENT, time.time(), document, _price(price_sats), prepaid, self._life.name)
        self._db.execute("insert into entries (row, state, at, document, price, prepaid, owner) values (?, ?, ?, ?, ?, ?, ?)", what)
        return row

    def _newest(self) -> int:
        """The newest row that there ever was: none is used twice, as somebody may still go by the number of the one that is gone."""
        newest: int = self._db.execute("select coalesce(max(row), 0) from entries").fetchone()[0]
        return max(newest, self.kept("newest") or 0)

    def _delete(self, which: str, *values: object) -> int:
        """Delete rows, and return how many that were."""
        self.keep("newest", self._newest())
        return self._db.execute(f"delete from entries where {which}", values).rowcount  # noqa: S608 - words of ours

    def drop(self, row: int) -> None:
        """Forget an intent: it has surely come to nothing."""
        self._delete("row = ? and state = ?", row, INTENT)

    def leave(self, row: int) -> None:
        """Let go of an intent whose outcome is not known."""
        self._db.execute("update entries set owner = null where row = ? and state = ?", (row, INTENT))

    def place(self, row: int, order: Order) -> None:
        """Make the order of an intent."""
        if self._db.execute("select 1 from entries where id = ? and row != ?", (order.id, row)).fetchone():
            self._delete("id = ? and row != ?", order.id, row)
        what = (OPEN, order.id, json.dumps(order.to_dict()), _price(order.amount_sats), order.prepaid, order.prepaid, self._life.name)
        change = "state = ?, id = ?, document = ?, price = coalesce(?, price), prepaid = ?, paid = ?, owner = ?"
        found = self._db.execute(f"update entries set {change} where row = ? and state = ?", (*what, row, INTENT))  # noqa: S608
        if not found.rowcount:
            self.adopt(order, bare=False)  # a person has dismissed it, as the journal was closed meanwhile

    def adopt(self, order: Order, *, bare: bool) -> None:
        """Answer for an order from now on, unless somebody who lives does."""
        found = self._db.execute("select row, state, owner from entries where id = ?", (order.id,)).fetchone()
        if found is None:
            document = None if bare else json.dumps(order.to_dict())
            paid, row = order.prepaid, self._newest() + 1
            what = (row, OPEN, time.time(), order.id, document, _price(order.amount_sats), order.prepaid, paid, self._life.name)
            names = "row, state, at, id, document, price, prepaid, paid, owner"
            self._db.execute(f"insert into entries ({names}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)", what)  # noqa: S608 - names of ours
        elif found[1] == OPEN and not self._lives(found[2]):
            self._db.execute("update entries set owner = ? where row = ?", (self._life.name, found[0]))

    def note(self, order_id: str, *, paid: bool, number: str | None, code: str | None, cancel: str | None) -> None:
        """Write down what is known of an order."""
        self._db.execute(
            "update entries set paid = max(coalesce(paid, 0), ?), number = coalesce(?, number), code = coalesce(?, code), "
            "cancel = coalesce(?, cancel) where id = ?",
            (paid, _storable(number), _storable(code if self._keep_codes else None), cancel, order_id),
        )

    def end(self, order_id: str, end: str) -> None:
        """Write down how an order ended."""
        self._db.execute(
            "update entries set state = max(state, ?), end = ?, ended = ?, owner = iif(state < ?, ?, owner) where id = ?",
            (ENDED, end, time.time(), SETTLED, self._life.name, order_id),
        )
        self._ended.pop(order_id, None)  # the oldest comes first
        self._ended[order_id] = time.monotonic() + self._settle_after

    def release(self, order_id: str) -> None:
        """Answer for an open order no longer."""
        self._db.execute("update entries set owner = null where id = ? and state = ? and owner = ?", (order_id, OPEN, self._life.name))

    def take(self, order_id: str) -> bool:
        """Answer for an open order from now on, if nobody who lives does, and say whether that is so."""
        found = self._db.execute("select state, owner from entries where id = ?", (order_id,)).fetchone()
        if found is None or found[0] not in (OPEN, ENDED) or self._lives(found[1]):
            return False
        self._db.execute("update entries set owner = ?, state = ? where id = ?", (self._life.name, OPEN, order_id))
        return True

    def take_all(self) -> list[Entry]:
        """Answer for all open orders that nobody who lives answers for; those of the dead that had just ended are open again."""
        rows = [row for row in self._rows(f"state in ({OPEN}, {ENDED})") if not self._lives(row[_OWNER])]
        for row in rows:  # an end that was seen stays, unseen: what came back with it has come back
            self._db.execute("update entries set owner = ?, state = ? where row = ?", (self._life.name, OPEN, row[_ROW]))
        return [self._entry(row) for row in rows]

    def dismiss(self, thing: str | int) -> bool:
        """Close an order by its id, or an intent by its row, without another word; was there such a one?"""
        if isinstance(thing, int):
            return self._delete("row = ? and state = ?", thing, INTENT) > 0
        change = "update entries set state = ?, end = coalesce(end, 'dismissed'), ended = ?, owner = null where id = ? and state < ?"
        return self._db.execute(change, (SETTLED, time.time(), thing, SETTLED)).rowcount > 0

    def prune(self, older_than: float) -> int:
        """Delete what ended longer ago than so many seconds, and return how many that were."""
        which = "state = ? and ended < ?"
        values = (SETTLED, time.time() - older_than)
        spent, back = self._sums(which, values)
        self.keep("pruned", [a + b for a, b in zip(self.kept("pruned") or [0, 0], (spent, back), strict=True)])
        if (base := self.kept("balance")) is not None:  # what is older than the balance is in it
            unpriced = self._db.execute(f"select row from entries where {_UNPRICED} and {which}", values).fetchall()  # noqa: S608
            self.keep("unpriced", [row for row in [*self._pruned_unpriced(), *(row for (row,) in unpriced)] if row > base["row"]])
        old = f"state = {INTENT} and not prepaid and at < ?"
        for row in self._rows(old, values[1]):
            if not self._lives(row[_OWNER]):  # a crash has left it: it may have made an order, but nobody has its invoice
                self.drop(row[_ROW])
        return self._delete(which, *values)

    def keep(self, name: str, value: object) -> None:
        """Keep something else under this name."""
        self._db.execute("insert or replace into facts values (?, ?)", (name, json.dumps(value)))

    @property
    def settles_at(self) -> float | None:
        """When there is something to settle, on the monotonic clock; ``None`` when there is nothing."""
        return next(iter(self._ended.values()), None)

    @property
    def is_due(self) -> bool:
        """Is there something to settle now?"""
        at = self.settles_at
        return at is not None and at <= time.monotonic()

    def _settle(self, now: float) -> list[str]:
        """Let go of what ended so long ago that its code has reached whoever it was for, and return the ids."""
        due = list(takewhile(lambda order_id: self._ended[order_id] <= now, self._ended))
        change = "update entries set state = ?, owner = null where id = ? and state = ?"
        self._db.executemany(change, [(SETTLED, order_id, ENDED) for order_id in due])
        return due

    def _let_go(self) -> None:
        me = self._life.name
        self._db.execute("update entries set state = ? where state = ? and owner = ?", (SETTLED, ENDED, me))
        self._db.execute("update entries set owner = null where owner = ?", (me,))

    # --- reading ---------------------------------------------------------------------------------------------------------------

    def open_orders(self) -> list[Entry]:
        """Return what has not ended, and what had just ended when its process died, oldest first."""
        rows = self._rows(f"state in ({OPEN}, {ENDED})")
        return [self._entry(row) for row in rows if row[_STATE] == OPEN or not self._lives(row[_OWNER])]

    def all_orders(self) -> list[Entry]:
        """Return all orders, oldest first."""
        return [self._entry(row) for row in self._rows("id is not null")]

    def find(self, order_id: str) -> Entry | None:
        """Return what is known of an order; ``None`` for one that is not here."""
        return next((self._entry(row) for row in self._rows("id = ?", order_id)), None)

    def unresolved(self, after: int = 0) -> list[Intent]:
        """Return the intents whose outcome is not known and may have cost something, oldest first."""
        rows = self._rows(f"state = {INTENT} and prepaid and row > ?", after)
        return [_intent(row) for row in rows if not self._lives(row[_OWNER])]

    def spending(self, after: int) -> Spending:
        """Return what the journal says was spent; in particular, and in detail, after this row."""
        spent, back = (now + pruned for now, pruned in zip(self._sums("true", ()), self.kept("pruned") or [0, 0], strict=True))
        unpriced = self._db.execute(f"select row from entries where {_UNPRICED} and row > ?", (after,)).fetchall()  # noqa: S608
        pruned = [row for row in self._pruned_unpriced() if row > after]
        under_way = any(self._lives(row[_OWNER]) for row in self._rows(f"state = {INTENT} and prepaid"))
        return Spending(self._newest(), spent, back, len(unpriced) + len(pruned), self.unresolved(after), under_way)

    def kept(self, name: str) -> Any:
        """Return what is kept under this name; ``None`` where nothing is."""
        found = self._db.execute("select value from facts where name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def _pruned_unpriced(self) -> list[int]:
        found: list[int] | None = self.kept("unpriced")
        return found or []

    def _sums(self, which: str, values: tuple[object, ...]) -> tuple[int, int]:
        back = ", ".join(f"'{end}'" for end in _GIVEN_BACK)
        what = f"coalesce(sum(price), 0), coalesce(sum(price) filter (where end in ({back})), 0)"
        found = self._db.execute(f"select {what} from entries where prepaid and id is not null and {which}", values)  # noqa: S608
        spent, given_back = found.fetchone()
        return spent, given_back

    def _rows(self, which: str, *values: object) -> list[tuple[Any, ...]]:
        return self._db.execute(f"select {', '.join(_COLUMNS)} from entries where {which} order by row", values).fetchall()  # noqa: S608

    def _lives(self, owner: str | None) -> bool:
        return owner is not None and (owner == self._life.name or lives(self._path, owner))

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        document = {"id": row[_ID], "created_at": _moment(row[_AT]).isoformat()} if row[_DOCUMENT] is None else json.loads(row[_DOCUMENT])
        return Entry(
            order=Order.from_dict(document),
            bare=row[_DOCUMENT] is None,
            price_sats=row[_PRICE],
            paid=bool(row[_PAID]),
            number=row[_NUMBER],
            code=row[_CODE],
            cancel=row[_CANCEL],
            end=None if row[_STATE] == OPEN else row[_END],
            ended_at=None if row[_STATE] == OPEN or row[_ENDED] is None else _moment(row[_ENDED]),
            watched=row[_STATE] == OPEN and self._lives(row[_OWNER]),
        )


_COLUMNS = ("row", "state", "at", "id", "document", "price", "prepaid", "owner", "paid", "number", "code", "cancel", "end", "ended")
_ROW, _STATE, _AT, _ID, _DOCUMENT, _PRICE, _PREPAID, _OWNER, _PAID, _NUMBER, _CODE, _CANCEL, _END, _ENDED = range(len(_COLUMNS))


def _use_wal(db: sqlite3.Connection, busy_timeout: float) -> None:
    """Make a new file one with a log. Where others do so at the same moment SQLite does not wait for them, whatever its time-out."""
    until = time.monotonic() + busy_timeout
    while True:
        try:
            db.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.005)
        else:
            return


def _intent(row: tuple[Any, ...]) -> Intent:
    wish = json.loads(row[_DOCUMENT])
    return Intent(row[_ROW], _moment(row[_AT]), OrderKind(wish["kind"]), wish["country"], wish["service"], row[_PRICE], bool(row[_PREPAID]))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _storable(text: str | None) -> str | None:
    """What a file can have of a text: JSON can bring halves of characters."""
    return None if text is None else text.encode(errors="replace").decode()


def _price(sats: int | None) -> int | None:
    return None if sats is None or sats > LARGEST else sats


def _is_of_the_file(error: Exception) -> bool:
    """Is it the file or its disk that fails, and not what was to be written?"""
    return isinstance(error, OSError | sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError
