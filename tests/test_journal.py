"""The journal: what is in it and when, what it does where the disk fails, and who answers for an order."""

import functools
import gc
import logging
import math
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint, current_token

import sms4sats_async
from sms4sats_async import (
    APIError,
    BatchWatcher,
    Client,
    Entry,
    Journal,
    JournalError,
    Order,
    OrderKind,
    OrderWatcher,
    OutcomeUnknown,
    PriceTooHigh,
    TransportError,
    receive_code,
)
from sms4sats_async.book import APPLICATION_ID, FORMAT, Book
from sms4sats_async.journal import RETRY, is_awaited_in
from sms4sats_async.lease import Life, lives
from sms4sats_async.sandbox import Sandbox, Timeline
from sms4sats_async.testing import Clock
from tests.conftest import HAS_TRIO
from tests.servers import Reply, SeenRequest, json_reply, serve
from tests.suspension import no_journal_left

KEY = "journal-key"
QUICK = Timeline(paid_after=5, number_after=10, code_after=40, code="004217")
PLACED = {"status": "OK", "orderId": "a" * 32, "payreq": "paid"}
OURS = os.environ | {"PYTHONPATH": str(Path(sms4sats_async.__file__).parents[1])}
"""The environment of a program: it meets the package that this one has met."""
BACKENDS = ["asyncio", "trio"] if HAS_TRIO else ["asyncio"]
pytestmark = pytest.mark.usefixtures("sms4sats_clock")  # which stands still while the disk is waited for


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@asynccontextmanager
async def desk(path: Path, sandbox: Sandbox | None = None, **options: Any) -> AsyncIterator[tuple[Journal, Client]]:
    """A journal and a client of a sandbox, both open."""
    sandbox = sandbox or Sandbox(timeline=QUICK, accounts={KEY: 100_000})
    journal = Journal(path, **options)
    async with journal, Client(transport=sandbox.transport(), api_key=KEY, journal=journal) as client:
        yield journal, client


def on_disk(path: Path, what: str = "*") -> list[tuple[Any, ...]]:
    """What somebody else reads in the file now."""
    db = sqlite3.connect(path)
    try:
        return db.execute(f"select {what} from entries order by row").fetchall()  # noqa: S608
    finally:
        db.close()


async def really(true: Callable[[], bool], patience: float = 60) -> None:
    """Wait until this is so, in the time of the machine: the writer's thread has no other."""

    def wait() -> None:
        end = time.monotonic() + patience
        while not true():
            assert time.monotonic() < end, "it never came"
            time.sleep(0.01)

    await anyio.to_thread.run_sync(wait)


async def entry_of(journal: Journal, order: Order) -> Entry:
    found = await journal.find(order.id)
    assert found is not None
    return found


# --- what is on the disk, and when ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("immediate", [True, False])
async def test_the_intent_is_on_disk_before_the_call_is_sent_and_the_order_before_anybody_has_it(path: Path, immediate: bool) -> None:
    seen: list[tuple[Any, ...]] = []

    async def answer(request: SeenRequest, reply: Reply) -> None:
        seen.append(on_disk(path, "state, id, prepaid, price")[0])
        await reply.json(PLACED | ({} if immediate else {"payreq": "lnbc15u1" + "q" * 90}))

    def told(order: Order) -> None:
        seen.append(on_disk(path, "state, id, prepaid, price")[0])

    async with serve(answer) as server, Journal(path) as journal:
        async with Client(base_url=server.url, api_key=KEY, journal=journal, on_order=told) as client:
            order = await client.create_order(0, "tg", immediate=immediate)
        assert (await entry_of(journal, order)).order == order
    assert seen == [(0, None, immediate, None), (1, order.id, immediate, None if immediate else 1500)]


async def test_what_a_watcher_sees_is_written_down(path: Path) -> None:
    async with desk(path) as (journal, client):
        order = await client.create_order(187, "tg")
        watcher = OrderWatcher(client, order)
        await watcher.paid()
        assert (await entry_of(journal, order)).paid
        number = await watcher.number()
        found = await entry_of(journal, order)
        assert (found.number, found.end, found.watched, found.price_sats) == (number, None, True, order.amount_sats)
        await watcher.code()
        found = await entry_of(journal, order)
        assert (found.code, found.end, found.watched) == (None, "code", False)
        assert found.ended_at is not None
        assert await journal.open_orders() == []
    text = path.read_bytes()
    assert b"004217" not in text
    assert KEY.encode() not in text


async def test_a_batch_tells_of_an_end_when_its_outcome_is_read(path: Path) -> None:
    async with desk(path) as (journal, client):
        order = await client.create_order(187, "tg")
        async with BatchWatcher(client, [order]) as batch:
            await anyio.sleep(60)
            assert (await entry_of(journal, order)).end is None  # a process that dies now has told nobody of the code
            assert (await anext(batch)).code == "004217"
            assert (await entry_of(journal, order)).end == "code"


async def test_an_outcome_that_nobody_has_read_is_told_of_when_the_batch_is_left(path: Path) -> None:
    async with desk(path) as (journal, client):
        order = await client.create_order(187, "tg")
        async with BatchWatcher(client, [order]):
            await anyio.sleep(60)
        assert (await entry_of(journal, order)).end == "code"


async def test_codes_are_kept_on_demand_only(path: Path) -> None:
    async with desk(path, keep_codes=True) as (journal, client):
        order = await client.create_order(187, "tg")
        await OrderWatcher(client, order).code()
        found = await entry_of(journal, order)
        assert found.code == "004217"
        assert "004217" not in repr(found)
        assert str(found.number) not in repr(found)


async def test_a_cancel_is_written_down(path: Path) -> None:
    async with desk(path, Sandbox(timeline=Timeline(paid_after=1))) as (journal, client):
        order = await client.create_order(187, "tg")
        watcher = OrderWatcher(client, order)
        with pytest.raises(Exception, match="2 minutes"):
            await watcher.cancel()
        assert (await entry_of(journal, order)).cancel == "refused"
        await watcher.cancel(when_allowed=True)
        found = await entry_of(journal, order)
        assert (found.cancel, found.end) == ("confirmed", "cancelled")


async def test_an_order_that_was_placed_elsewhere_is_in_the_journal_from_its_first_look_on(path: Path) -> None:
    sandbox = Sandbox(timeline=QUICK)
    async with Client(transport=sandbox.transport()) as client:
        order = await client.create_order(187, "tg")
        other = await client.create_order(187, "tg")
    async with desk(path, sandbox) as (journal, client):
        for one in (order, other.id):
            watcher = OrderWatcher(client, one)
            assert await journal.find(watcher.order.id) is None
            await watcher.paid()
        whole, bare = await journal.open_entries()
        assert (whole.order, whole.bare) == (order, False)
        assert (bare.order.id, bare.bare, bare.order.payreq) == (other.id, True, None)


async def test_a_call_of_unknown_outcome_is_unresolved_and_one_that_was_surely_refused_is_gone(path: Path) -> None:
    replies: list[Callable[[SeenRequest, Reply], Any]] = [
        lambda _, reply: reply.json({"status": "OK", "computed": {"price": 1500}}),
        lambda _, reply: reply.reset(),
        lambda _, reply: reply.json({"status": "error", "reason": "no"}, 500),
        lambda _, reply: reply.reset(),
        lambda _, reply: reply.reset(),
    ]
    async with serve(replies) as server, Journal(path) as journal:
        async with Client(base_url=server.url, api_key=KEY, journal=journal) as client:
            with pytest.raises(OutcomeUnknown):
                await client.create_order(187, "tg", immediate=True, max_sats=2000)
            with pytest.raises(APIError):
                await client.create_order(187, "wa", immediate=True)
            with pytest.raises(TransportError):  # costs nothing: nobody has its invoice
                await client.create_order(187, "vi")
        (intent,) = await journal.unresolved()
        assert (intent.kind, intent.country, intent.service, intent.price_sats) == (OrderKind.receive, 187, "tg", 1500)
        assert abs(intent.created_at.timestamp() - path.stat().st_mtime) < 60
        assert len(on_disk(path)) == 1
        assert await journal.dismiss(intent)
        assert not await journal.dismiss(intent)
        assert await journal.unresolved() == []


async def test_an_id_that_could_be_read_of_a_lost_reply_is_in_the_journal(path: Path) -> None:
    whole = json_reply(PLACED)
    async with serve([lambda _, reply: reply.cut(whole, len(whole) - 3)]) as server, Journal(path) as journal:
        async with Client(base_url=server.url, api_key=KEY, journal=journal) as client:
            with pytest.raises(OutcomeUnknown) as caught:
                await client.create_order(187, "tg", immediate=True)
            assert client.orphaned_orders == []
        (entry,) = await journal.open_entries()
        assert (entry.order.id, entry.order.prepaid) == (caught.value.order_id, True)
        assert await journal.unresolved() == []


@pytest.mark.measured("on both loops")
@pytest.mark.parametrize("native", [False, True])
async def test_an_order_whose_caller_was_cancelled_is_in_the_journal(path: Path, native: bool, anyio_backend_name: str) -> None:
    asked, go = anyio.Event(), anyio.Event()
    told: list[Order] = []

    async def answer(request: SeenRequest, reply: Reply) -> None:
        asked.set()
        await go.wait()
        await reply.json(PLACED)

    async with serve(answer) as server, Journal(path) as journal:
        async with Client(base_url=server.url, api_key=KEY, journal=journal, on_order=told.append) as client:

            async def caller(scope: anyio.CancelScope) -> None:
                if native and anyio_backend_name == "asyncio":
                    import asyncio

                    task = asyncio.current_task()
                    assert task is not None
                    cancels.append(task.cancel)
                    with pytest.raises(asyncio.CancelledError):
                        await client.create_order(187, "tg", immediate=True)
                    task.uncancel()
                else:
                    cancels.append(scope.cancel)
                    with scope:
                        await client.create_order(187, "tg", immediate=True)
                    assert scope.cancelled_caught

            cancels: list[Callable[[], object]] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(caller, anyio.CancelScope())
                await asked.wait()
                assert await journal.unresolved() == []  # it is under way, in a process that lives
                cancels[0]()
                await anyio.sleep(0.05)
                go.set()
            assert [order.id for order in client.orphaned_orders] == [PLACED["orderId"]]
            assert told == client.orphaned_orders
        (entry,) = await journal.open_entries()
        assert (entry.order.id, entry.watched) == (PLACED["orderId"], False)  # nobody has it: the next one may take it up


async def test_an_id_of_a_lost_reply_is_not_lost_with_a_caller_who_is_cancelled_while_it_is_written(path: Path) -> None:
    asked, told, other_program, whole = anyio.Event(), list[Order](), locked(path), json_reply(PLACED)

    async def answer(request: SeenRequest, reply: Reply) -> None:
        other_program.__enter__()
        await reply.cut(whole, len(whole) - 3)
        asked.set()

    async with serve(answer) as server, Journal(path) as journal:
        async with Client(base_url=server.url, api_key=KEY, journal=journal, on_order=told.append) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(functools.partial(client.create_order, 187, "tg", immediate=True))
                await asked.wait()
                await really(functools.partial(is_awaited_in, current_token().native_token))
                tasks.cancel_scope.cancel()
                other_program.__exit__(None, None, None)
            assert [order.id for order in client.orphaned_orders] == [PLACED["orderId"]]
            assert told == client.orphaned_orders
        (entry,) = await journal.open_entries()
        assert (entry.order.id, entry.watched) == (PLACED["orderId"], False)


async def test_whoever_is_cancelled_before_the_intent_is_on_disk_sends_nothing_and_leaves_nothing(path: Path) -> None:
    async with serve([]) as server, Journal(path) as journal, Client(base_url=server.url, api_key=KEY, journal=journal) as client:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.create_order(187, "tg", immediate=True)
        assert scope.cancelled_caught
        assert await journal.unresolved() == []
        assert on_disk(path) == []


async def test_an_order_above_the_price_is_in_the_journal_as_any_other_that_was_placed(path: Path) -> None:
    async with desk(path) as (journal, client):
        with pytest.raises(PriceTooHigh) as caught:
            await client.create_order(187, "tg", max_sats=1)
        assert await journal.open_orders() == [caught.value.order]


async def test_a_journal_opens_with_its_first_call_and_again_after_its_close(path: Path) -> None:
    journal = Journal(path)
    assert not path.exists()
    await journal.aclose()
    async with Client(transport=Sandbox().transport(), journal=journal) as client:
        order = await client.create_order(187, "tg")
    await journal.aclose()
    assert await journal.open_orders() == [order]
    await journal.aclose()
    assert not path.with_name("orders.db-wal").exists()
    assert list(path.parent.iterdir()) == [path]


async def test_only_its_owner_can_read_it(path: Path) -> None:
    path.touch(0o644)
    async with desk(path) as (_, client):
        await client.create_order(187, "tg")
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(modes) == 4


async def test_an_order_takes_less_than_a_kibibyte(path: Path, sms4sats_clock: Clock) -> None:
    sms4sats_clock.patience = 0  # nobody else has anything to say
    async with desk(path, Sandbox(timeline=QUICK)) as (journal, client):
        orders = [await client.create_order(187, "tg") for _ in range(200)]
        async with BatchWatcher(client, orders, poll_interval=60) as batch:
            assert [outcome.code async for outcome in batch] == ["004217"] * 200
        assert len(await journal.entries()) == 200
    assert path.stat().st_size / 200 <= 1024


async def test_what_ended_long_ago_is_pruned_and_nothing_else(path: Path) -> None:
    async with desk(path) as (journal, client):
        done, going = await client.create_order(187, "tg"), await client.create_order(187, "tg")
        await OrderWatcher(client, done).code()
        assert await journal.prune(0) == 0  # it has ended just now: its code may be on its way
        for prepaid in (True, False):  # a crash can leave these: the second has cost nothing
            await journal.intend(OrderKind.receive, country=0, service="tg", price_sats=None, prepaid=prepaid)
        assert await journal.prune(0) == 0
        assert on_disk(path, "state") == [(2,), (1,), (0,), (0,)]
    async with Journal(path) as journal:
        assert await journal.prune(3600) == 0
        assert await journal.prune(0) == 1
        assert on_disk(path, "state, prepaid") == [(1, 0), (0, 1)]
        assert [entry.order for entry in await journal.entries()] == [going]
        for bad in (-1, float("nan")):
            with pytest.raises(ValueError, match="older_than must not be negative"):
                await journal.prune(bad)
        for worse in (True, "1", timedelta(1)):
            with pytest.raises(TypeError, match="older_than must be a number of seconds"):
                await journal.prune(worse)  # type: ignore[arg-type]


async def test_an_order_is_dismissed_by_itself_or_by_its_id(path: Path) -> None:
    async with desk(path) as (journal, client):
        one, other = await client.create_order(187, "tg"), await client.create_order(187, "tg")
        assert await journal.dismiss(one)
        assert await journal.dismiss(other.id)
        assert not await journal.dismiss(other.id)
        assert (await entry_of(journal, one)).end == "dismissed"
        assert await journal.open_orders() == []
        with pytest.raises(TypeError, match="what must be an order, its id or an intent"):
            await journal.dismiss(None)  # type: ignore[arg-type]


def test_it_tells_nothing_but_its_name(path: Path) -> None:
    assert repr(Journal(path)) == "<Journal orders.db>"


def test_a_client_takes_nothing_else_for_a_journal() -> None:
    with pytest.raises(TypeError, match="journal must be a Journal"):
        Client(journal="orders.db")  # type: ignore[arg-type]


# --- a file that is no good -----------------------------------------------------------------------------------------------------------


def damaged(path: Path) -> None:
    make(path)
    data = bytearray(path.read_bytes())
    data[100:2000] = os.urandom(1900)
    path.write_bytes(data)


def damaged_within(path: Path) -> None:
    make(path)
    db = sqlite3.connect(path)
    db.execute("insert into entries (state, at, prepaid, document) values (3, 0, 0, ?)", ("x" * 60_000,))
    db.commit()
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()
    data = bytearray(path.read_bytes())
    data[-8192:] = b"\xff" * 8192
    path.write_bytes(data)


def make(path: Path) -> None:
    Book(path, keep_codes=False, settle_after=10.0, busy_timeout=5.0).close()


def changed(path: Path, pragma: str) -> None:
    make(path)
    db = sqlite3.connect(path)
    db.execute(f"pragma {pragma}")
    db.close()


def other(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("create table notes (text)")
    db.close()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no database": (lambda path: path.write_bytes(b"something else " * 100), "it is damaged, or no journal"),
    "damaged": (damaged, "it is damaged"),
    "damaged within": (damaged_within, "it is damaged"),
    "of something else": (other, "it is a database of something else"),
    "of a later version": (lambda path: changed(path, f"user_version = {FORMAT + 1}"), "it is of a later version of this package"),
    "a directory": (Path.mkdir, "it is no file"),
    "in no directory": (lambda path: path.parent.rmdir(), "it cannot be used: No such file or directory"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_file_that_is_no_good_is_told_at_the_start_and_left_as_it_is(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "place" / "orders.db"
    path.parent.mkdir()
    spoil, words = BAD[bad]
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    journal = Journal(path)
    with no_journal_left(), pytest.raises(JournalError, match=words) as caught:
        async with journal:
            raise AssertionError("it has opened")
    assert str(caught.value).startswith("journal orders.db: ")
    assert (path.read_bytes() if path.is_file() else None) == before


async def not_entered(journal: Journal) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with journal:
            raise AssertionError("it was entered")


async def test_a_journal_that_is_not_entered_again_and_again_is_closed(path: Path) -> None:
    kept = [Journal(path) for _ in range(20)]
    with no_journal_left():
        for journal in kept:
            await not_entered(journal)
            await not_entered(journal)


async def test_a_journal_that_is_in_use_stays_open_when_it_is_not_entered_again(path: Path) -> None:
    async with Journal(path) as journal, Journal(path) as other:
        journal.watched(Order("a" * 32), bare=True)
        assert await journal.find("a" * 32) is not None
        await not_entered(journal)
        assert await journal.find("a" * 32) is not None
        assert not await other.take("a" * 32), "nobody answers for it, though it is watched"


async def test_a_block_that_does_not_begin_ends_nothing_for_whoever_uses_the_journal_by_then(path: Path) -> None:
    async with Journal(path) as other:
        for _ in range(20):
            journal = Journal(path)
            await not_entered(journal)
            call = await journal.intend(OrderKind.receive, country=187, service="tg", price_sats=5, prepaid=True)
            assert await other.unresolved() == [], "nobody answers for a call that is under way"
            journal.dropped(call)
            await journal.aclose()


async def test_what_was_seen_is_written_though_a_block_could_not_begin(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.mkdir()
    journal = Journal(path)
    tries = tries_to_open(path, monkeypatch)
    journal.watched(Order("a" * 32), bare=True)
    with pytest.raises(JournalError, match="it is no file"):
        await journal.__aenter__()
    then = time.monotonic()
    await really(lambda: tries[-1] > then + RETRY / 2, patience=20)
    monkeypatch.undo()
    path.rmdir()
    await really(path.is_file)
    assert [entry.order.id for entry in await journal.entries()] == ["a" * 32]
    await journal.aclose()


def tries_to_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a journal has looked for its file: a list that grows."""
    tries: list[float] = []
    stat = Path.stat

    def told(it: Path, **options: Any) -> os.stat_result:
        tries.extend([time.monotonic()] * (it == path))
        return stat(it, **options)

    monkeypatch.setattr(Path, "stat", told)
    return tries


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program has the file for itself."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("begin immediate")
    try:
        yield
    finally:
        db.close()


@contextmanager
def locked_for_a_moment(path: Path) -> Iterator[None]:
    """A file that another program has for itself for 50 ms."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("begin immediate")
    release = threading.Timer(0.05, db.execute, ["rollback"])
    release.start()
    try:
        yield
    finally:
        release.join()
        db.close()


@pytest.mark.parametrize("new", [False, True])
def test_a_file_that_another_program_has_locked_is_waited_for(path: Path, new: bool) -> None:
    path.touch() if new else make(path)  # SQLite itself does not wait for whoever makes a file at the same moment
    with locked_for_a_moment(path):
        make(path)


@pytest.mark.parametrize("new", [False, True])
async def test_a_file_that_another_program_has_locked_for_long_is_told(path: Path, new: bool) -> None:
    path.touch() if new else make(path)
    with locked(path), pytest.raises(JournalError, match="another process has locked it"):
        async with Journal(path, busy_timeout=0.1):
            raise AssertionError("it has opened")


async def test_a_call_through_a_journal_that_cannot_be_opened_is_not_sent(path: Path) -> None:
    other(path)
    journal = Journal(path)
    async with serve([]) as server, Client(base_url=server.url, api_key=KEY, journal=journal) as client:
        for immediate in (True, False):
            with pytest.raises(JournalError, match="something else"):
                await client.create_order(187, "tg", immediate=immediate)
        with pytest.raises(JournalError, match="something else"):
            await client.create_send_order("+12025550143", "hi")
        with pytest.raises(JournalError, match="something else"):
            await client.fund(1000)
    await journal.aclose()


# --- a disk that fails in the middle ---------------------------------------------------------------------------------------------------


@contextmanager
def spoilt(path: Path) -> Iterator[None]:
    """All but the first page of the file is lost for a while."""

    def write() -> None:  # whoever has pages in memory reads them again
        db.execute("insert or replace into facts values ('other', 0)")
        db.execute("pragma wal_checkpoint(truncate)")

    db = sqlite3.connect(path, isolation_level=None)
    write()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    try:
        yield
    finally:
        path.write_bytes(whole)
        write()
        db.close()


@contextmanager
def gone(path: Path) -> Iterator[None]:
    moved = path.with_name("moved.db")
    path.rename(moved)
    try:
        yield
    finally:
        moved.rename(path)


@contextmanager
def replaced(path: Path) -> Iterator[None]:
    moved = path.with_name("moved.db")
    path.rename(moved)
    path.touch()
    try:
        yield
    finally:
        moved.replace(path)


FAILURES = {"locked": locked, "spoilt": spoilt, "gone": gone, "replaced": replaced}


@pytest.mark.parametrize("failure", FAILURES)
async def test_where_the_disk_fails_nothing_is_ordered_and_every_code_comes(
    path: Path, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = Sandbox(timeline=QUICK, accounts={KEY: 100_000})
    async with desk(path, sandbox, busy_timeout=0.05) as (journal, client):
        order = await client.create_order(187, "tg")
        calls = len(sandbox.calls)
        with FAILURES[failure](path):
            for immediate in (True, False):
                with pytest.raises(JournalError, match=r"it cannot be written|another file has taken its place"):
                    await client.create_order(187, "tg", immediate=immediate)
            assert len(sandbox.calls) == calls
            assert await OrderWatcher(client, order).code() == "004217"
            other = OrderWatcher(client, order.id)
            assert await other.code() == "004217"
            for _ in range(2):
                with pytest.raises(JournalError):  # by now what was seen was tried to be written, once more each time
                    await journal.prune(0)
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "orders are watched all the same" in warnings[0].message
        await journal.prune(3600)
        found = await entry_of(journal, order)
        assert (found.paid, found.end) == (True, "code")
        assert "can be written again" in caplog.text
        assert await client.create_order(187, "tg")
        assert order.id not in caplog.text


FULL = """if True:
    import sys
    from contextlib import suppress
    from pathlib import Path
    import anyio
    from sms4sats_async import Client, Journal, JournalError, OrderWatcher
    from sms4sats_async.sandbox import Sandbox

    async def main():
        sandbox = Sandbox(accounts={"key": 100_000})
        journal = Journal("orders.db")
        async with journal, Client(transport=sandbox.transport(), api_key="key", journal=journal) as client:
            order = await client.create_order(187, "tg", immediate=True)
            sandbox.deliver(order.id, "004217")
            filler = Path("filler").open("wb", buffering=0)
            with suppress(OSError):
                while True:
                    filler.write(b"x" * 4096)
            for immediate in (True, False):
                try:
                    await client.create_order(187, "tg", immediate=immediate)
                except JournalError as error:
                    print(error)
            assert await OrderWatcher(client, order).code() == "004217"
            try:
                async with Journal("other.db"):
                    raise AssertionError
            except JournalError as error:
                print(error)
            assert (await journal.find(order.id)).end is None
            filler.truncate(0)
            await client.create_order(187, "tg", immediate=True)
            assert (await journal.find(order.id)).end == "code"
        assert [call.path for call in sandbox.calls].count("/createorder") == 2

    anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, to mount a disk")
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_full_disk_nothing_is_ordered_and_every_code_comes(tmp_path: Path, backend: str) -> None:
    """A disk of its own, in memory: whoever may do so in a namespace of their own can mount one."""
    mount = 'mount -t tmpfs -o size=256k none "$0" && cd "$0" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", FULL, backend]
    done = subprocess.run(command, check=False, timeout=60, env=OURS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *["journal orders.db: it cannot be written: the disk is full"] * 2,
        "journal other.db: it cannot be used: the disk is full",
    ]
    assert "orders are watched all the same" in done.stderr


async def test_an_order_is_handed_over_where_the_disk_fails_after_its_call_was_sent(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = gone(path)
    told: list[Order] = []

    async def answer(request: SeenRequest, reply: Reply) -> None:
        disk.__enter__()
        await reply.json(PLACED)

    async with serve(answer) as server, Journal(path) as journal:
        async with Client(base_url=server.url, api_key=KEY, journal=journal, on_order=told.append) as client:
            order = await client.create_order(187, "tg", immediate=True)
        with pytest.raises(JournalError):
            await journal.prune(0)
        assert told == [order]
        assert "was placed, and is not in the journal yet" in caplog.text
        disk.__exit__(None, None, None)
        await journal.prune(0)  # it is tried again
        (entry,) = await journal.open_entries()
        assert (entry.order, entry.watched) == (order, True)
        assert await journal.unresolved() == []


async def test_a_call_of_unknown_outcome_is_unresolved_as_soon_as_the_disk_works(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = gone(path)

    async def answer(request: SeenRequest, reply: Reply) -> None:
        disk.__enter__()
        await reply.reset()

    async with serve(answer) as server, Journal(path) as journal:
        async with Client(base_url=server.url, api_key=KEY, journal=journal) as client:
            with pytest.raises(OutcomeUnknown):
                await client.create_order(187, "tg", immediate=True)
        disk.__exit__(None, None, None)
        assert "an order of unknown outcome" in caplog.text
        await journal.prune(0)
        assert len(await journal.unresolved()) == 1  # a program that lives for long is told as well


async def test_what_could_not_be_written_is_tried_again_by_itself(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with desk(path) as (_, client):
        order = await client.create_order(187, "tg")
        with gone(path):
            await OrderWatcher(client, order).code()
            with pytest.raises(JournalError):  # by now all that was seen has been tried
                await client.create_order(187, "tg")
            assert "what is seen is written when it can be" in caplog.text
        await really(lambda: on_disk(path, "end") == [("code",)], patience=15)


async def test_what_is_to_be_settled_is_tried_again_as_seldom_as_what_is_to_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(path, settle_after=0.1) as (journal, client):
        order = await client.create_order(187, "tg")
        await OrderWatcher(client, order).code()
        await journal.find(order.id)
        with gone(path):
            tries = tries_to_open(path, monkeypatch)
            await really(lambda: len(tries) > 1)
            monkeypatch.undo()
        assert tries[1] - tries[0] > RETRY / 2
        await really(lambda: on_disk(path, "state") == [(3,)])


async def test_no_number_of_a_row_is_used_twice(path: Path) -> None:
    async def intend() -> int:
        return await journal.intend(OrderKind.receive, country=0, service="tg", price_sats=None, prepaid=True)

    async with Journal(path) as journal:
        await journal.left(await intend())
        (intent,) = await journal.unresolved()
        assert await journal.dismiss(intent)
        await journal.left(await intend())
        assert not await journal.dismiss(intent)  # it is not the same
        assert len(await journal.unresolved()) == 1
        journal.watched(Order("a" * 32), bare=True)
        await journal.dismiss("a" * 32)
        await journal.prune(0)
        assert await intend() == 4


async def test_an_order_that_was_watched_before_it_could_be_written_is_one_order(path: Path) -> None:
    async with Journal(path) as journal:
        row = await journal.intend(OrderKind.receive, country=187, service="tg", price_sats=1500, prepaid=True)
        journal.watched(Order("a" * 32), bare=True)
        await journal.placed(row, Order("a" * 32, prepaid=True))
        (entry,) = await journal.entries()
        assert (entry.bare, entry.price_sats) == (False, 1500)
        assert (await journal.spending(0)).spent_sats == 1500


async def test_an_order_whose_intent_is_gone_is_in_the_journal(path: Path) -> None:
    async def answer(request: SeenRequest, reply: Reply) -> None:
        await journal.aclose()  # which lets go of all, too early
        async with Journal(path) as other:
            (intent,) = await other.unresolved()
            assert await other.dismiss(intent)
        await reply.json(PLACED)

    journal = Journal(path)
    async with serve(answer) as server, Client(base_url=server.url, api_key=KEY, journal=journal) as client:
        order = await client.create_order(187, "tg", immediate=True)
    assert [(entry.order, entry.watched) for entry in await journal.open_entries()] == [(order, True)]
    await journal.aclose()


async def test_a_journal_that_breaks_in_a_way_of_its_own_is_an_error_of_ours(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Journal(path) as journal:
        with pytest.raises(JournalError, match="TypeError"):
            await journal.keep("name", object())
        await journal.keep("name", [1])
        assert await journal.kept("name") == [1]
        assert await journal.kept("other") is None


async def test_what_cannot_be_written_anywhere_spoils_nothing_else(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    problems: list[str] = []

    async def bad(journal: Journal) -> None:
        with pytest.raises(JournalError, match="TypeError") as caught:
            await journal.keep("bad", object())
        problems.append(str(caught.value))

    async with desk(path) as (journal, client):
        order = await client.create_order(187, "tg")
        journal.saw("\ud800", paid=True, number=None, code=None, cancel=None)
        journal.saw(order.id, paid=True, number="+1\ud800", code=None, cancel=None)  # which JSON can bring
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bad, journal)
            tasks.start_soon(journal.keep, "good", 1)
        found = await entry_of(journal, order)
        assert (found.paid, found.number, await journal.kept("good"), await journal.kept("bad")) == (True, "+1?", 1, None)
    assert problems == ["journal orders.db: TypeError"]
    assert "something that was seen of an order is not written" in caplog.text
    assert "can be written again" not in caplog.text


async def test_a_price_that_no_file_can_have_is_none(path: Path) -> None:
    async with Journal(path) as journal:
        row = await journal.intend(OrderKind.receive, country=0, service="tg", price_sats=2**63, prepaid=True)
        await journal.left(row)
        assert [intent.price_sats for intent in await journal.unresolved()] == [None]


async def test_a_machine_without_threads_orders_nothing_and_loses_no_code(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sandbox = Sandbox(timeline=QUICK)
    async with Client(transport=sandbox.transport()) as elsewhere:
        order = await elsewhere.create_order(187, "tg")
    journal = Journal(path)
    async with Client(transport=sandbox.transport(), journal=journal) as client:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(JournalError, match="it cannot be written: can't start new thread"):
                await client.create_order(187, "tg")
            assert await OrderWatcher(client, order).code() == "004217"
        assert (await entry_of(journal, order)).end == "code"
    assert [call.path for call in sandbox.calls].count("/createorder") == 1
    await journal.aclose()


# --- its thread ------------------------------------------------------------------------------------------------------------------------


async def test_whoever_asks_while_it_is_being_closed_is_answered(path: Path) -> None:
    journal = Journal(path)
    await journal.take("nobody's")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            with locked(path):
                tasks.start_soon(journal.aclose)
                await checkpoint()
                await really(journal._writer._works.empty)  # it waits for the file, to let go of what it answers for
                tasks.start_soon(journal.entries)
                journal.watched(Order("a" * 32), bare=True)
                await checkpoint()
        assert [entry.order.id for entry in await journal.entries()] == ["a" * 32]
        await journal.aclose()


async def test_a_journal_that_is_forgotten_ends_its_thread_and_has_written_all(path: Path) -> None:
    async def forget() -> None:
        journal = Journal(path)
        await journal.open_orders()
        journal.watched(Order("a" * 32), bare=True)

    with no_journal_left():
        await forget()
        gc.collect()
    assert on_disk(path, "id, owner") == [("a" * 32, None)]
    assert not list(path.parent.glob("*.live"))


def test_a_program_that_ends_without_closing_it_has_written_all(path: Path) -> None:
    program = f"""if True:
        import anyio
        from sms4sats_async import Journal, Order
        journal, unused = Journal({str(path)!r}), Journal("unused.db")
        async def main():
            await journal.open_orders()
            journal.watched(Order("a" * 32), bare=True)
        anyio.run(main)
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=path.parent, env=OURS)
    assert on_disk(path, "id, owner") == [("a" * 32, None)]
    assert sorted(file.name for file in path.parent.iterdir()) == ["orders.db"]


async def test_a_cancelled_taker_has_taken_nothing(path: Path) -> None:
    async with desk(path, Sandbox()) as (_, client):
        order = await client.create_order(187, "tg")
    async with Journal(path) as first, Journal(path) as second:
        for taking in (first.take_all, lambda: first.take(order.id), lambda: first.take("nobody's")):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await taking()
            assert scope.cancelled_caught
            await first.entries()
            assert not (await entry_of(second, order)).watched
        assert [entry.order for entry in await second.take_all()] == [order]


# --- who answers for an order ----------------------------------------------------------------------------------------------------------


async def test_an_order_is_answered_for_by_one_of_several_until_that_one_is_gone(path: Path) -> None:
    sandbox = Sandbox(timeline=QUICK)
    async with Journal(path) as second:
        async with desk(path, sandbox) as (first, client):
            order = await client.create_order(187, "tg")
            assert (await entry_of(second, order)).watched
            assert not await second.take(order.id)
            assert await second.take_all() == []
            assert not await first.take(order.id)  # whoever placed it may be about to watch it
        assert not (await entry_of(second, order)).watched
        assert await second.take(order.id)
        assert not await second.take("nobody's")
    async with Journal(path) as third:
        assert [entry.order for entry in await third.take_all()] == [order]


async def test_every_one_of_several_sees_the_end(path: Path) -> None:
    async with Journal(path) as other, desk(path) as (journal, client):
        order = await client.create_order(187, "tg")
        await OrderWatcher(client, order).code()
        await journal.find(order.id)
        found = await other.find(order.id)
        assert found is not None
        assert (found.end, found.paid) == ("code", True)
        assert await other.open_orders() == []


async def test_leaving_a_block_lets_go_of_its_order(path: Path) -> None:
    async with Journal(path) as other, desk(path, Sandbox()) as (journal, client):
        order, never = await client.create_order(187, "tg"), await client.create_order(187, "tg")
        with anyio.move_on_after(10):
            async with OrderWatcher(client, order, cancel_on_exit=False) as watcher:
                await watcher.code()
        async with BatchWatcher(client, [never], cancel_on_exit=False):
            await anyio.sleep(1)
        await journal.find(order.id)
        assert {entry.order.id for entry in await other.take_all()} == {order.id, never.id}


async def test_of_two_who_watch_an_order_the_last_lets_go_of_it(path: Path) -> None:
    async with Journal(path) as other, desk(path, Sandbox()) as (journal, client):
        order = await client.create_order(187, "tg")
        leave = anyio.Event()

        async def watch() -> None:
            async with OrderWatcher(client, order, cancel_on_exit=False) as watcher:
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    await watcher.code()
                await leave.wait()

        scopes: list[anyio.CancelScope] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.sleep(1)
            async with OrderWatcher(client, order, cancel_on_exit=False):  # it has not begun
                pass
            with anyio.move_on_after(1):
                async with OrderWatcher(client, order, cancel_on_exit=False) as watcher:
                    await watcher.code()
            await journal.find(order.id)
            assert not await other.take(order.id)
            scopes[0].cancel()
            leave.set()
        await journal.find(order.id)
        assert await other.take(order.id)


async def test_a_code_counts_as_on_its_way_until_the_payment_is_over_and_the_caller_has_it(path: Path) -> None:
    sandbox = Sandbox(timeline=QUICK)
    ends: list[str | None] = []

    async def pay(invoice: str) -> None:
        await anyio.sleep(49)
        (entry,) = await journal.entries()
        ends.append(entry.end)

    async with desk(path, sandbox) as (journal, client):
        received = await receive_code(client, 187, "tg", pay=pay)
        assert ends == [None]
        assert (await entry_of(journal, received.order)).end == "code"


async def test_whoever_watches_an_order_that_is_free_answers_for_it_and_does_not_take_it_from_another(path: Path) -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=5))
    async with desk(path, sandbox) as (_, client):
        order = await client.create_order(187, "tg")
    async with desk(path, sandbox) as (first, client), desk(path, sandbox) as (second, other):
        await OrderWatcher(client, order).paid()
        await first.find(order.id)
        assert not await second.take(order.id)
        await OrderWatcher(other, order).paid()  # looking on harms nobody
        await second.find(order.id)
        assert on_disk(path, "owner") == [(first._writer._book._life.name,)]  # type: ignore[union-attr]


async def test_the_end_of_an_order_is_open_again_when_its_process_died_before_anybody_can_have_had_its_code(path: Path) -> None:
    async with desk(path) as (_, client):
        order = await client.create_order(187, "tg")
        await OrderWatcher(client, order).code()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("update entries set state = 2, owner = 'dead'")
    db.close()
    async with Journal(path) as journal:
        assert await journal.open_orders() == [order]
        (entry,) = await journal.take_all()
        assert (entry.order, entry.end) == (order, "code")
        assert (await entry_of(journal, order)).end is None


async def test_the_last_codes_before_a_crash_come_again(path: Path) -> None:
    journal = Journal(path)
    async with Client(transport=Sandbox(timeline=QUICK).transport(), journal=journal) as client:
        order = await client.create_order(187, "tg")
        await OrderWatcher(client, order).code()
        await journal.find(order.id)
        await journal.prune(0)  # with what is written, all is settled that is due
        assert await journal.open_orders() == []
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("update entries set owner = 'dead' where owner is not null")  # as it would be, had the process died just now
    db.close()
    async with Journal(path) as other:
        assert [entry.order for entry in await other.take_all()] == [order]
    await journal.aclose()


async def test_an_end_is_settled_a_while_after_it(path: Path) -> None:
    async with desk(path, settle_after=0.05) as (journal, client):
        order = await client.create_order(187, "tg")
        await OrderWatcher(client, order).code()
        await journal.find(order.id)
        await really(lambda: on_disk(path, "state, owner") == [(3, None)])


async def test_times_may_be_endless(path: Path) -> None:
    async with desk(path, settle_after=math.inf, busy_timeout=math.inf) as (journal, client):
        order = await client.create_order(187, "tg")
        await OrderWatcher(client, order).code()
        assert (await entry_of(journal, order)).end == "code"
        assert on_disk(path, "state") == [(2,)]
    assert on_disk(path, "state") == [(3,)]


def test_a_life_ends_with_its_process(path: Path) -> None:
    life = Life(path)
    assert lives(path, life.name)
    life.end()
    assert not lives(path, life.name)
    program = """if True:
        import os
        from pathlib import Path
        from sms4sats_async.lease import Life
        print(Life(Path("orders.db")).name, flush=True)
        os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, cwd=path.parent, env=OURS, stdout=subprocess.PIPE, text=True
    )
    name = done.stdout[:-1]
    left = path.with_name(f"orders.db-{name}.live")
    assert left.exists()
    assert not lives(path, name)
    assert not left.exists()


def test_a_new_life_clears_away_what_dead_ones_have_left(path: Path) -> None:
    living = Life(path)
    path.with_name("orders.db-0123456789abcdef.live").touch()
    new = Life(path)
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(f"orders.db-{life.name}.live" for life in (living, new))
    for life in (living, new):
        life.end()


def test_another_way_to_the_file_leads_to_the_same_lives(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    way = tmp_path / "other" / "way.db"
    way.symlink_to(path)

    async def both() -> None:
        async with desk(path, Sandbox()) as (_, client), Journal(way) as other:
            order = await client.create_order(187, "tg")
            assert not await other.take(order.id)

    anyio.run(both)


def test_what_dead_ones_have_left_is_cleared_away_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "orders[1]*.db"
    left = path.with_name(f"{path.name}-0123456789abcdef.live")
    left.touch()
    Life(path).end()
    assert not left.exists()


def test_one_that_cannot_be_asked_is_taken_to_be_alive(path: Path) -> None:
    unreadable = path.with_name("orders.db-0123456789abcdef.live")
    unreadable.symlink_to(unreadable)
    assert lives(path, "0123456789abcdef")


def test_a_fork_does_not_keep_its_parent_alive(path: Path) -> None:
    program = """if True:
        import os, sys
        from pathlib import Path
        from sms4sats_async.lease import Life
        life = Life(Path("orders.db"))
        if os.fork():
            os._exit(0)
        print(life.name, flush=True)
        sys.stdin.read()  # until the test is over
    """
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=path.parent, env=OURS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        name = parent.stdout.readline()[:-1]
        assert parent.wait(60) == 0
        assert not lives(path, name)
        parent.stdin.close()
        assert parent.stdout.read() == ""  # the fork has ended as well


def test_a_fork_has_a_writer_of_its_own_and_leaves_its_parents_alone(path: Path) -> None:
    program = """if True:
        import os, sys, warnings
        import anyio
        from sms4sats_async import Journal, Order
        warnings.simplefilter("ignore")  # from 3.12 on: it has threads
        journal, closed = Journal("orders.db"), Journal("other.db")
        journal.watched(Order("a" * 32), bare=True)
        anyio.run(journal.open_orders)
        journal.watched(Order("c" * 32), bare=True)
        child = os.fork()
        if not child:
            journal.watched(Order("b" * 32), bare=True)
            anyio.run(journal.aclose)
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
        for entry in anyio.run(journal.entries):
            print(entry.order.id[0], entry.watched)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, cwd=path.parent, env=OURS, stdout=subprocess.PIPE, text=True
    )
    assert sorted(done.stdout.splitlines()) == ["a True", "b False", "c True"]
    assert sorted(on_disk(path, "id, owner")) == [(name * 32, None) for name in "abc"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["orders.db"]


# --- the file's format -----------------------------------------------------------------------------------------------------------------


async def test_a_file_of_today_is_read_for_ever(tmp_path: Path) -> None:
    """``tests/samples/journal_1.sql`` is a journal of format 1; never change it, add the next one beside it."""
    path = tmp_path / "orders.db"
    db = sqlite3.connect(path)
    db.executescript((Path(__file__).parent / "samples" / "journal_1.sql").read_text())
    assert db.execute("pragma application_id").fetchone()[0] == APPLICATION_ID
    db.close()
    async with Journal(path) as journal:
        going, done, bare = await journal.entries()
        assert (going.order.country, going.order.service, going.paid, going.number, going.end) == (187, "tg", True, "+12025550143", None)
        assert (done.end, done.code, done.cancel) == ("expired", None, "confirmed")
        assert (bare.bare, bare.order.id) == (True, "c" * 32)
        assert await journal.open_orders() == [going.order, bare.order]
        (intent,) = await journal.unresolved()
        assert (intent.country, intent.service, intent.price_sats) == (0, "wa", 1500)
