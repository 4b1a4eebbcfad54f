"""Going on after a crash, and seeing what became of everything in a journal."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from sms4sats_async import (
    APIError,
    Balance,
    Client,
    Finding,
    Found,
    Journal,
    JournalError,
    Order,
    OrderKind,
    OrderWatcher,
    OutcomeUnknown,
    TransportError,
    reconcile,
    resume,
)
from sms4sats_async.sandbox import Sandbox, Timeline
from tests.faults.service import Held, Service, lies, resets
from tests.test_journal import entry_of

KEY = "recovery-key"
pytestmark = pytest.mark.usefixtures("sms4sats_clock")  # which stands still while the disk is waited for


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@asynccontextmanager
async def desk(path: Path, sandbox: Sandbox, *, keyed: bool = True) -> AsyncIterator[tuple[Journal, Client]]:
    """What a process has: it is gone after the block."""
    journal = Journal(path)
    async with journal, Client(transport=sandbox.transport(), api_key=KEY if keyed else None, journal=journal) as client:
        yield journal, client


def sandbox(timeline: Timeline | None = None) -> Sandbox:
    return Sandbox(timeline=timeline or Timeline(), accounts={KEY: 100_000})


# --- resume ----------------------------------------------------------------------------------------------------------------------------


async def test_the_next_process_goes_on_with_what_is_open(path: Path) -> None:
    service = sandbox()
    async with desk(path, service) as (_, client):
        orders = [await client.create_order(187, "tg", immediate=True) for _ in range(3)]
        sms = await client.create_send_order("+12025550143", "hi", immediate=True)
        with anyio.move_on_after(0.2):
            await OrderWatcher(client, orders[0]).code()
    for number, order in enumerate(orders):
        service.deliver(order.id, f"00{number}")
    service.report(sms.id, "delivered")
    async with desk(path, service) as (journal, client):
        async with resume(client, journal) as batch:
            outcomes = {outcome.order: outcome async for outcome in batch}
        assert [outcomes[order].code for order in orders] == ["000", "001", "002"]
        assert outcomes[sms].error is None
        assert await journal.open_orders() == []
        async with resume(client, journal) as batch:
            assert [outcome async for outcome in batch] == []


async def test_an_order_known_by_its_id_only_is_taken_for_what_its_status_shows(path: Path) -> None:
    service = sandbox()
    async with Client(transport=service.transport(), api_key=KEY) as client:
        sms = await client.create_send_order("+12025550143", "hi", immediate=True)
    async with desk(path, service) as (_, client):
        with anyio.move_on_after(0.2):
            await OrderWatcher(client, sms.id).code()
    service.report(sms.id, "delivered")
    async with desk(path, service) as (journal, client), resume(client, journal) as batch:
        assert (await anext(batch)).error is None
        assert await journal.open_orders() == []


async def test_a_wrong_clock_and_a_long_sleep_end_nothing_early(path: Path) -> None:
    service = sandbox(Timeline(paid_after=0.3, number_after=0.1, code_after=0.3, code="004217"))
    async with desk(path, service) as (_, client):
        order = await client.create_order(187, "tg")
        with anyio.move_on_after(0.1):
            await OrderWatcher(client, order).code()
    db = sqlite3.connect(path)
    db.execute("update entries set at = 0, document = replace(document, ?, '1970-01-01T00:00:00+00:00')", (order.created_at.isoformat(),))
    db.commit()
    db.close()
    async with desk(path, service) as (journal, client), resume(client, journal) as batch:
        outcome = await anext(batch)
        assert (outcome.code, outcome.order.created_at.year) == ("004217", 1970)


async def test_two_processes_that_resume_at_once_share_the_orders_between_them(path: Path) -> None:
    service = sandbox()
    async with desk(path, service) as (_, client):
        orders = [await client.create_order(187, "tg", immediate=True) for _ in range(5)]
    got: list[list[str | None]] = []

    async def process() -> None:
        async with desk(path, service) as (journal, client), resume(client, journal, poll_interval=1) as batch:
            got.append([outcome.code async for outcome in batch])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(process)
        tasks.start_soon(process)
        await anyio.sleep(0.5)
        for order in orders:
            service.deliver(order.id)
    assert sorted(map(len, got)) == [0, 5]


async def test_leaving_early_leaves_the_orders_to_the_next(path: Path) -> None:
    service = sandbox()
    async with desk(path, service) as (_, client):
        orders = [await client.create_order(187, "tg", immediate=True) for _ in range(5)]
    async with Journal(path) as other, desk(path, service) as (journal, client):
        async with resume(client, journal, max_watching=2):
            await anyio.sleep(0.5)
            assert await other.take_all() == []
        await journal.unresolved()
        assert [entry.order for entry in await other.take_all()] == orders
    assert all(call.path != "/cancelorder" for call in service.calls)


async def test_a_client_without_this_journal_is_refused(path: Path) -> None:
    async with Client(transport=sandbox().transport()) as client:
        with pytest.raises(ValueError, match="given this journal"):
            resume(client, Journal(path))
        with pytest.raises(TypeError, match="client must be a Client"):
            resume(None, Journal(path))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="journal must be a Journal"):
            await reconcile(client, path)  # type: ignore[arg-type]


async def test_a_journal_that_cannot_be_read_is_raised_by_the_batch(path: Path) -> None:
    path.write_bytes(b"nothing" * 1000)
    journal = Journal(path)
    async with Client(transport=sandbox().transport(), journal=journal) as client, resume(client, journal) as batch:
        with pytest.raises(JournalError):
            await anext(batch)


# --- reconcile: orders -----------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def after_a_crash(path: Path, service: Service, **options: Any) -> AsyncIterator[tuple[Journal, Client, list[Order]]]:
    """A journal of orders that somebody has placed who is gone: of each kind two, the first of them paid for."""
    async with service.serving() as server:
        journal = Journal(path)
        async with journal, Client(base_url=server.url, api_key=KEY, journal=journal) as client:
            orders = [await client.create_order(187, "tg", immediate=True), await client.create_order(187, "tg")]
            orders += [await client.create_send_order("+12025550143", "hi", immediate=True)]
            orders += [await client.create_order(6, "full", rental=True, immediate=True), await client.fund(1000)]
        async with journal, Client(base_url=server.url, journal=journal, **options) as client:
            yield journal, client, orders


def found_of(findings: list[Finding]) -> list[str]:
    return [finding.found.value for finding in findings]


def ripe(service: Service) -> None:
    """Let the service take a cancel of all its orders."""
    for held in service.orders.values():
        held.cancel_from = 0


async def test_each_order_is_told_of_as_it_is(path: Path) -> None:
    service = Service()
    async with after_a_crash(path, service) as (journal, client, orders):
        report = await reconcile(client, journal)
        assert found_of(report.findings) == ["paid", "unpaid", "paid", "paid", "unpaid"]
        assert [finding.order for finding in report.findings] == orders
        assert (report.unresolved, report.balance, report.balance_error) == ([], None, None)
        for order in orders:
            held = service.pay(order.id, number_after=0, code_after=0)
            held.code = "004217"
        report = await reconcile(client, journal)
        assert found_of(report.findings) == ["code", "code", "sent", "code", "funded"]
        codes = [finding.status.code for finding in report.findings if finding.found is Found.code and finding.status is not None]
        assert codes == ["004217"] * 3
        assert await journal.open_orders() == [orders[3]]  # a rental goes on
        assert (await entry_of(journal, orders[0])).end == "code"
    assert service.asked["/cancelorder"] == 0
    assert service.asked["/createorder"] == 3


async def test_what_the_service_ended_refuses_or_does_not_answer_is_told(path: Path) -> None:
    def plan(request: object, about: Held | None) -> Any:
        if about is None or not answers:
            return None
        return answers[int(about.id[:8], 16)]

    answers: list[Any] = []
    service = Service(plan)
    async with after_a_crash(path, service, attempts=1) as (journal, client, orders):
        answers += [lies({"status": "OK", "paid": True, "error": "no number"}), lies({"status": "error", "reason": "not found"}, 500)]
        answers += [lies({"status": "OK", "paid": True, "smsStatus": "failed"}), resets, resets]
        report = await reconcile(client, journal, cancel=True)
        assert found_of(report.findings) == ["failed", "refused", "send_failed", "unanswered", "unanswered"]
        assert isinstance(report.findings[1].error, APIError)
        assert isinstance(report.findings[3].error, TransportError)
        assert await journal.open_orders() == [orders[1], *orders[3:]]
    assert service.asked["/cancelorder"] == 0


async def test_only_what_can_be_cancelled_is_and_only_on_demand(path: Path) -> None:
    service = Service(says_ended=False)
    async with after_a_crash(path, service) as (journal, client, orders):
        report = await reconcile(client, journal, cancel=True)
        assert found_of(report.findings) == ["paid", "unpaid", "paid", "paid", "unpaid"]
        assert [isinstance(finding.cancel_error, APIError) for finding in report.findings] == [True, True, False, False, False]
        ripe(service)
        report = await reconcile(client, journal, cancel=True)
        assert found_of(report.findings) == ["cancelled", "cancelled", "paid", "paid", "unpaid"]
        assert await journal.open_orders() == orders[2:]
        assert (await entry_of(journal, orders[0])).end == "cancelled"


async def test_a_code_that_beats_the_cancel_is_told(path: Path) -> None:
    def cancelled(request: Any, about: Held | None) -> Any:
        if request.target.startswith("/cancelorder") and about is not None:
            about.code_at = anyio.current_time()
            return lies({"status": "OK"})
        return None

    async with after_a_crash(path, Service(cancelled)) as (journal, client, _):
        report = await reconcile(client, journal, cancel=True)
        assert report.findings[0].found is Found.code
        assert report.findings[0].status is not None


async def test_a_confirmed_cancel_without_a_look_after_it_leaves_the_order_open(path: Path) -> None:
    confirmed = False

    def cancelled(request: Any, about: Held | None) -> Any:
        nonlocal confirmed
        if request.target.startswith("/cancelorder"):
            confirmed = True
        return lies({"status": "OK"}) if request.target.startswith("/cancelorder") else resets if confirmed else None

    async with after_a_crash(path, Service(cancelled), attempts=1, max_connections=1) as (journal, client, orders):
        report = await reconcile(client, journal, cancel=True)
        assert report.findings[0].found is Found.cancelled
        assert report.findings[0].error is not None
        assert orders[0] in await journal.open_orders()


async def test_what_somebody_who_lives_answers_for_is_left_to_them(path: Path) -> None:
    service = Service()
    async with after_a_crash(path, service) as (journal, client, orders), Journal(path) as other:
        ripe(service)
        assert await other.take(orders[0].id)
        service.pay(orders[0].id, code_after=0)
        report = await reconcile(client, journal, cancel=True)
        assert (report.findings[0].watched, report.findings[0].found) == (True, Found.code)
        assert (await entry_of(journal, orders[0])).end is None  # whoever watches it is told of the end, and writes it down
        assert await other.take(orders[2].id)
        assert report.findings[1].found is Found.cancelled


async def test_an_order_that_is_taken_up_in_the_last_moment_is_not_cancelled(path: Path) -> None:
    async with Journal(path) as other:

        async def taken(reply: Any, answer: bytes) -> None:
            for order in await other.open_orders():
                await other.take(order.id)
            await reply.raw(answer)

        service = Service(lambda request, about: taken if request.target.startswith("/orderstatus") else None)
        async with after_a_crash(path, service) as (journal, client, _):
            ripe(service)
            report = await reconcile(client, journal, cancel=True)
            assert report.findings[0].watched
    assert service.asked["/cancelorder"] == 0


async def test_an_order_known_by_its_id_only_that_sends_is_not_cancelled(path: Path) -> None:
    service = Service()
    held = service.order(kind="send", paid_at=0.0)
    async with service.serving() as server, Journal(path) as journal:
        journal.watched(Order(held.id), bare=True)
        async with Client(base_url=server.url) as client:
            report = await reconcile(client, journal, cancel=True)
    assert [finding.watched for finding in report.findings] == [True]
    async with service.serving() as server, Journal(path) as journal, Client(base_url=server.url) as client:
        report = await reconcile(client, journal, cancel=True)
        assert found_of(report.findings) == ["paid"]
    assert service.asked["/cancelorder"] == 0


async def test_a_journal_that_fails_meanwhile_is_an_error_and_no_group(path: Path) -> None:
    service = Service()
    async with after_a_crash(path, service) as (journal, client, _):
        ripe(service)
        path.rename(path.with_name("moved.db"))
        with pytest.raises(JournalError):
            await reconcile(client, journal, cancel=True)
        path.with_name("moved.db").rename(path)


async def test_whoever_is_cancelled_gets_no_group(path: Path) -> None:
    async with after_a_crash(path, Service(lambda _, about: resets if about else None)) as (journal, client, _):
        with anyio.move_on_after(0.1) as scope:
            await reconcile(client, journal)
        assert scope.cancelled_caught


class Interrupted(BaseException):
    """What ``KeyboardInterrupt`` is to a library: no ``Exception``."""


class Interrupting(httpx.AsyncBaseTransport):
    """Raises that, wherever it is."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise Interrupted(request.url)


async def test_what_is_louder_than_a_cancel_comes_in_no_group_either(path: Path) -> None:
    async with after_a_crash(path, Service()) as (journal, _, _), Client(transport=Interrupting()) as client:
        with pytest.raises(Interrupted):
            await reconcile(client, journal)


async def test_a_code_is_not_lost_with_a_report_that_nobody_gets(path: Path) -> None:
    hanging = anyio.Event()

    async def hang(reply: Any, answer: bytes) -> None:
        hanging.set()
        await anyio.sleep_forever()

    service = Service(lambda request, about: hang if about is not None and about.paid_at > anyio.current_time() else None)
    async with after_a_crash(path, service) as (journal, client, orders):
        service.pay(orders[0].id, code_after=0).code = "004217"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reconcile, client, journal)
            await hanging.wait()
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()
    async with Journal(path) as journal:
        assert orders[0] in await journal.open_orders()


async def test_what_had_just_ended_before_a_crash_is_nobodys_and_ends_with_the_report(path: Path) -> None:
    service = Service(says_ended=False)
    async with after_a_crash(path, service) as (journal, client, orders):
        ripe(service)
        service.pay(orders[1].id, code_after=0).code = "004217"
        await journal.aclose()
        db = sqlite3.connect(path, isolation_level=None)
        db.execute(
            "update entries set state = 2, owner = 'dead', end = 'expired', ended = at where id in (?, ?)", (orders[0].id, orders[1].id)
        )
        db.close()
        report = await reconcile(client, journal, cancel=True)
        assert found_of(report.findings)[:2] == ["cancelled", "code"]
        assert [finding.watched for finding in report.findings] == [False] * 5
    async with Journal(path) as journal:
        assert await journal.open_orders() == orders[2:]


# --- reconcile: the balance ------------------------------------------------------------------------------------------------------------


async def balance(client: Client, journal: Journal) -> Balance:
    found = (await reconcile(client, journal)).balance
    assert found is not None
    return found


async def test_a_first_balance_has_nothing_to_be_compared_with(path: Path) -> None:
    async with desk(path, sandbox()) as (journal, client):
        found = await balance(client, journal)
        assert (found.sats, found.expected_sats, found.since, found.missing_sats, found.charged) == (100_000, None, None, None, None)


async def test_what_was_spent_and_what_came_back_is_expected(path: Path) -> None:
    service = sandbox()
    async with desk(path, service) as (journal, client):
        await balance(client, journal)
        done, failed = [await client.create_order(187, "tg", immediate=True, max_sats=5000) for _ in range(2)]
        service.deliver(done.id)
        service.fail(failed.id)
        found = await balance(client, journal)
        assert (found.expected_sats, found.spent_sats, found.back_sats) == (None, 3000, 0)
        assert found.sats == 98_500  # one of them came back, and whoever placed it has not told the journal yet
    async with desk(path, service) as (journal, client):
        await reconcile(client, journal)
        found = await balance(client, journal)
        assert (found.missing_sats, found.since is not None) == (0, True)


@pytest.mark.parametrize("charged", [True, False])
async def test_the_balance_tells_whether_a_call_of_unknown_outcome_was_charged(path: Path, charged: bool) -> None:
    left = 100_000

    def plan(request: Any, about: Held | None) -> Any:
        nonlocal left
        if request.target == "/balance":
            return lies({"status": "OK", "balance": left})
        if request.target == "/createorder":
            left -= 1500 * charged
            return resets
        return None

    journal = Journal(path)
    async with Service(plan).serving() as server, journal, Client(base_url=server.url, api_key=KEY, journal=journal) as client:
        await balance(client, journal)
        with pytest.raises(OutcomeUnknown):
            await client.create_order(187, "tg", immediate=True, max_sats=5000)
        for _ in range(2):  # it is compared with the same balance until somebody has seen to it
            report = await reconcile(client, journal)
            assert report.balance is not None
            assert (report.balance.unresolved, report.balance.unresolved_sats) == (1, 1500)
            assert report.balance.missing_sats == 1500 * charged
            assert report.balance.charged is charged
        await journal.dismiss(report.unresolved[0])
        assert (await balance(client, journal)).unresolved == 0
        assert (await balance(client, journal)).missing_sats == 0


async def test_a_balance_that_fits_nothing_and_a_price_that_is_unknown_tell_nothing(path: Path) -> None:
    def of(sats: int, unresolved_sats: int | None) -> Balance:
        return Balance(sats, 10_000, None, 0, 0, 0, 2, unresolved_sats)

    assert [of(10_000, 3000).charged, of(7000, 3000).charged, of(8500, 3000).charged] == [False, True, None]
    assert [of(10_000, None).charged, of(7000, None).charged] == [None, None]
    async with desk(path, sandbox()) as (journal, client):
        await balance(client, journal)
        await client.create_order(187, "tg", immediate=True)
        found = await balance(client, journal)
        assert (found.expected_sats, found.unpriced) == (None, 1)
        assert (await balance(client, journal)).missing_sats == 0


async def test_what_was_pruned_is_still_spent(path: Path) -> None:
    service = sandbox()
    async with desk(path, service) as (journal, client):
        await balance(client, journal)
        order = await client.create_order(187, "tg", immediate=True, max_sats=5000)
        service.deliver(order.id)
        await OrderWatcher(client, order).code()
    async with desk(path, service) as (journal, client):
        assert await journal.prune(0) == 1
        assert (await balance(client, journal)).missing_sats == 0


async def test_orders_that_are_placed_meanwhile_leave_nothing_to_be_expected(path: Path) -> None:
    async with Journal(path) as other:

        async def meanwhile(reply: Any, answer: bytes) -> None:
            row = await other.intend(OrderKind.receive, country=187, service="tg", price_sats=1500, prepaid=True)
            await other.placed(row, Order("b" * 32, prepaid=True))
            await reply.raw(answer)

        service = Service()
        async with service.serving() as server, Journal(path) as journal, Client(base_url=server.url, api_key=KEY) as client:
            await balance(client, journal)
            service.next("/balance", meanwhile)
            assert (await balance(client, journal)).expected_sats is None


async def test_a_balance_that_cannot_be_asked_for_is_told(path: Path) -> None:
    def plan(request: Any, about: Held | None) -> Any:
        return lies({"status": "error", "reason": "no such api key"}, 401) if request.target == "/balance" else None

    async with Service(plan).serving() as server, Journal(path) as journal, Client(base_url=server.url, api_key=KEY) as client:
        report = await reconcile(client, journal)
        assert (report.balance, isinstance(report.balance_error, APIError)) == (None, True)


async def spend(journal: Journal, order_id: str | None, price_sats: int | None = 1500) -> None:
    """A prepaid order of this id; for none, a call of unknown outcome."""
    row = await journal.intend(OrderKind.receive, country=187, service="tg", price_sats=price_sats, prepaid=True)
    await (journal.left(row) if order_id is None else journal.placed(row, Order(order_id, prepaid=True)))


async def test_a_call_after_a_prune_is_after_the_balance(path: Path) -> None:
    async with desk(path, sandbox()) as (journal, client):
        await spend(journal, "a" * 32)
        await journal.dismiss("a" * 32)
        await balance(client, journal)
        await journal.prune(0)
        await spend(journal, None)
        assert (await balance(client, journal)).unresolved == 1


async def test_an_unknown_price_is_not_forgotten_with_a_prune(path: Path) -> None:
    async with desk(path, sandbox()) as (journal, client):
        await spend(journal, "0" * 32, None)
        await journal.dismiss("0" * 32)
        await journal.prune(0)
        await balance(client, journal)
        for name in "ab":
            await spend(journal, name * 32, None)
            await journal.dismiss(name * 32)
            await journal.prune(0)
        found = await balance(client, journal)
        assert (found.expected_sats, found.unpriced) == (None, 2)
        assert (await balance(client, journal)).missing_sats == 0


async def test_a_balance_that_is_read_while_a_call_is_under_way_is_compared_with_nothing(path: Path) -> None:
    async with desk(path, sandbox()) as (journal, client):
        await balance(client, journal)
        row = await journal.intend(OrderKind.receive, country=187, service="tg", price_sats=1500, prepaid=True)
        assert (await balance(client, journal)).expected_sats is None
        await journal.placed(row, Order("a" * 32, prepaid=True))
        await journal.dismiss("a" * 32)
        found = await balance(client, journal)
        assert (found.expected_sats, found.spent_sats) == (98_500, 1500)  # of the first balance: the second was charged or not


async def test_what_came_back_before_a_crash_has_come_back(path: Path) -> None:
    async with desk(path, sandbox()) as (journal, client):
        await balance(client, journal)
        await spend(journal, "a" * 32)
        journal.ended("a" * 32, "expired")
        found = await balance(client, journal)
        assert (found.back_sats, found.missing_sats) == (1500, 0)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("update entries set state = 2, owner = 'dead'")
    db.close()
    async with Journal(path) as journal:
        assert [entry.order.id for entry in await journal.take_all()] == ["a" * 32]
        assert (await journal.spending(0)).back_sats == 1500


async def test_an_order_that_nobody_can_be_asked_about_may_have_come_back(path: Path) -> None:
    service = Service(lambda request, about: resets if about is not None else None)
    async with service.serving() as server, Journal(path) as journal, Client(base_url=server.url, api_key=KEY, attempts=1) as client:
        await balance(client, journal)
        await spend(journal, "a" * 32)
        service.order("a" * 32)
        assert (await balance(client, journal)).expected_sats is None
