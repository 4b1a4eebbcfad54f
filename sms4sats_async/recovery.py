"""After a crash, a restart, or a doubt: go on with what the journal has open, and see what became of everything in it."""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import enum
from collections import deque
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import attrs

from sms4sats_async.batch import MAX_WATCHING, BatchWatcher
from sms4sats_async.client import Client, Probe
from sms4sats_async.errors import APIError, Sms4SatsError
from sms4sats_async.journal import Journal
from sms4sats_async.lifecycle import HOLD_WINDOW, PAYMENT_WINDOW, Pace
from sms4sats_async.models import Order, OrderKind, OrderStatus, SmsStatus
from sms4sats_async.shelter import one_of

if TYPE_CHECKING:
    from sms4sats_async.entries import Entry, Intent, Spending

_ENDS = {SmsStatus.sent: "sent", SmsStatus.delivered: "sent", SmsStatus.failed: "send_failed"}


def resume(
    client: Client,
    journal: Journal,
    *,
    hold_window: float | None = HOLD_WINDOW,
    payment_window: float | None = PAYMENT_WINDOW,
    poll_interval: float | Pace | None = None,
    max_rate: float | None = None,
    max_watching: int = MAX_WATCHING,
    cancel_on_exit: bool = False,
) -> BatchWatcher:
    """Watch all orders that the journal has open, and that nobody who lives answers for: after a crash, a restart, a long sleep.

    ::

        async with Journal("orders.db") as journal, Client(journal=journal) as client:
            async with resume(client, journal) as batch:
                async for outcome in batch:
                    print(outcome.order.id, outcome.code or outcome.error)

    The windows begin anew with what this process sees: no stored time, and no clock that was wrong, ends an order early. An order whose
    end was seen in the last 10 s before a crash is among them, because its code may not have reached anybody: so a code can come twice,
    and none gets lost. A rental does not end with its code, so with one among them the outcomes go on until the block is left. Of calls
    without a known order, :meth:`Journal.unresolved` tells.

    Args:
        client: one that was given this journal.
        journal: what to go on with.
        hold_window: as for :class:`BatchWatcher`.
        payment_window: likewise.
        poll_interval: likewise.
        max_rate: likewise.
        max_watching: likewise.
        cancel_on_exit: True to have the service cancel what is still open when the block is left; by default it stays in the journal.

    Raises:
        ValueError: the client has another journal, or none.
        JournalError: the journal cannot be read; raised by the batch, as it begins.
    """
    _check(client, journal)
    if client.journal is not journal:
        raise ValueError("client must be one that was given this journal: Client(journal=journal)")
    return BatchWatcher(
        client,
        _open_orders(journal),
        hold_window=hold_window,
        payment_window=payment_window,
        poll_interval=poll_interval,
        max_rate=max_rate,
        max_watching=max_watching,
        cancel_on_exit=cancel_on_exit,
    )


async def _open_orders(journal: Journal) -> AsyncGenerator[Order | str]:
    waiting = deque(await journal.take_all())
    try:
        while waiting:
            entry = waiting.popleft()
            yield entry.order.id if entry.bare else entry.order
    finally:
        for entry in waiting:
            journal.released(entry.order.id)


class Found(enum.StrEnum):
    """What became of an order, as far as the service says."""

    code = enum.auto()
    """Its code has come: ``status`` has it."""
    sent = enum.auto()
    """Its SMS is sent."""
    send_failed = enum.auto()
    """Its SMS could not be sent."""
    funded = enum.auto()
    """The account has been paid into."""
    failed = enum.auto()
    """The service ended it, and gives the money back: ``status.error`` has its words."""
    paid = enum.auto()
    """It is paid, and goes on."""
    unpaid = enum.auto()
    """It is not paid, and goes on."""
    cancelled = enum.auto()
    """It was cancelled just now, and the service confirmed that."""
    refused = enum.auto()
    """The service would not tell of it: ``error`` has its words."""
    unanswered = enum.auto()
    """There was no usable answer: ``error`` says why. Nothing is known."""


@attrs.frozen
class Finding:
    """What is known of an order that was open.

    Attributes:
        order: the order.
        found: what became of it.
        status: what the service says of it; ``None`` when it said nothing.
        watched: does a live process answer for it? Then it was not cancelled.
        cancel_error: why it was not cancelled, though that was asked for; ``None`` otherwise.
        error: why nothing is known; ``None`` otherwise.
    """

    order: Order
    found: Found
    status: OrderStatus | None = None
    watched: bool = False
    cancel_error: Sms4SatsError | None = None
    error: Sms4SatsError | None = None


@attrs.frozen
class Balance:
    """The balance of the prepaid account beside what the journal says. Amounts are satoshis.

    Attributes:
        sats: what the service says it is.
        expected_sats: what it should be: the balance at ``since``, what was paid in since then, what came back, less what was spent;
            ``None`` where that cannot be said: there is no earlier one, a price is not known, orders were placed meanwhile, or it is not
            known, or not written down yet by whoever watches it, what became of one, whose money may have come back.
        since: when the earlier balance was read; ``None`` when there is none: this one is kept, for the next time.
        spent_sats: by the orders since then whose price is known.
        back_sats: what of all spent is taken to have come back since then, because orders ended without a result; the service does not
            say whether it credits them.
        unpriced: orders since then whose price is not known.
        unresolved: calls since then whose outcome is not known.
        unresolved_sats: what those would have cost; ``None`` where a price is not known.
    """

    sats: int
    expected_sats: int | None
    since: datetime | None
    spent_sats: int
    back_sats: int
    unpriced: int
    unresolved: int
    unresolved_sats: int | None

    @property
    def missing_sats(self) -> int | None:
        """How much less there is than expected (more, if it is negative); ``None`` where nothing can be expected."""
        return None if self.expected_sats is None else self.expected_sats - self.sats

    @property
    def charged(self) -> bool | None:
        """Were the unresolved calls charged? ``None`` where the balance does not tell: it fits neither all of them nor none."""
        if not self.unresolved or self.missing_sats is None:
            return None
        return {0: False, self.unresolved_sats: True}.get(self.missing_sats) if self.unresolved_sats else None


@attrs.frozen
class Report:
    """What :func:`reconcile` found.

    Attributes:
        findings: of each order that was open, oldest first.
        unresolved: the calls whose reply was lost, and that may have been charged. Nobody knows the ids of their orders: compare the
            balance, and :meth:`Journal.dismiss` what was seen to.
        balance: the account; ``None`` without an API key, or when it could not be asked for.
        balance_error: why it could not; ``None`` otherwise.
    """

    findings: list[Finding]
    unresolved: list[Intent]
    balance: Balance | None = None
    balance_error: Sms4SatsError | None = None


async def reconcile(client: Client, journal: Journal, *, cancel: bool = False) -> Report:
    """Ask the service about everything that the journal has open, and compare the balance with what it says was spent.

    It spends nothing, and waits for nothing. What has ended by now is written down as ended: its code is in the report, and nowhere
    else; so an order with a code stays open where there is no report, because of an error or a cancel. An order that somebody who lives
    answers for is asked about as well, and left to them.

    Args:
        client: with an ``api_key`` the balance is compared as well; a first time has nothing to compare with.
        journal: what to go through.
        cancel: have the service cancel the receive orders that are still open, if nobody who lives answers for them.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    _check(client, journal)
    entries = await journal.open_entries()
    inquiry = _Inquiry(client, journal, cancel=cancel)
    await inquiry.ask(entries)
    balance, problem = None, None
    if Probe(client).has_key:
        try:
            balance = await _balance(client, journal, settled=not inquiry.in_doubt)
        except Sms4SatsError as error:
            problem = error
    unresolved = await journal.unresolved()
    for order_id in inquiry.codes:
        journal.ended(order_id, Found.code.value)
    return Report([inquiry.findings[entry.order.id] for entry in entries], unresolved, balance, problem)


class _Inquiry:
    """Asks about orders, as many at once as the client has connections.

    Attributes:
        findings: by the order's id.
        codes: the ids of those that end with a code, once somebody has the report.
        in_doubt: may the money of a prepaid order have come back, without the journal's being told so?
    """

    def __init__(self, client: Client, journal: Journal, *, cancel: bool) -> None:
        self._client = client
        self._journal = journal
        self._cancel = cancel
        self.findings: dict[str, Finding] = {}
        self.codes: list[str] = []
        self.in_doubt = False

    async def ask(self, entries: list[Entry]) -> None:
        waiting = iter(entries)
        problems: list[Exception] = []

        async def work() -> None:
            for entry in waiting:
                try:
                    self.findings[entry.order.id] = finding = await self._look(entry)
                    self.in_doubt |= entry.order.prepaid and _is_in_doubt(finding)
                except Exception as problem:  # noqa: BLE001 - handed over, so that no group is made of it
                    problems.append(problem)
                    return

        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(min(len(entries), Probe(self._client).lanes)):
                    tasks.start_soon(work)
        except BaseExceptionGroup as group:
            raise one_of(group) from None
        if problems:
            raise problems[0]

    async def _look(self, entry: Entry) -> Finding:
        finding = await self._ask(entry)
        cancels = self._cancel and finding.found in (Found.paid, Found.unpaid) and _kind(entry, finding) is OrderKind.receive
        if not cancels:
            return finding
        if not await self._journal.take(entry.order.id):
            return attrs.evolve(finding, watched=True)
        try:
            await self._client.cancel_order(entry.order.id)
            finding = await self._ask(entry)  # a code that has come all the same is told as that
            if finding.found is not Found.code:
                finding = attrs.evolve(finding, found=Found.cancelled)
            if finding.found is Found.cancelled and finding.error is None:
                self._journal.ended(entry.order.id, finding.found.value)
        except Sms4SatsError as error:
            finding = attrs.evolve(await self._ask(entry), cancel_error=error)
        finally:
            self._journal.released(entry.order.id)
        return finding

    async def _ask(self, entry: Entry) -> Finding:
        try:
            status = await self._client.get_order_status(entry.order.id)
        except Sms4SatsError as error:
            refused = isinstance(error, APIError) and error.reason is not None
            return Finding(entry.order, Found.refused if refused else Found.unanswered, watched=entry.watched, error=error)
        finding = Finding(entry.order, Found.unpaid, status, watched=entry.watched)
        finding = attrs.evolve(finding, found=_found(entry, finding, status))
        if entry.watched:
            return finding
        self._journal.saw(entry.order.id, paid=status.paid, number=status.number, code=status.code, cancel=None)
        if finding.found is Found.code and entry.order.kind is not OrderKind.rental:
            self.codes.append(entry.order.id)
        elif finding.found not in (Found.paid, Found.unpaid, Found.code):
            self._journal.ended(entry.order.id, finding.found.value)
        return finding


def _is_in_doubt(finding: Finding) -> bool:
    """May its money have come back, and the journal not know of it?"""
    return finding.error is not None or (finding.watched and finding.found is Found.failed)


def _kind(entry: Entry, finding: Finding) -> OrderKind:
    """What an order is for; one that is known by its id only sends, if its status says so."""
    sends = entry.bare and finding.status is not None and finding.status.sms_status is not None and finding.status.code is None
    return OrderKind.send if sends else entry.order.kind


def _found(entry: Entry, finding: Finding, status: OrderStatus) -> Found:
    kind = _kind(entry, finding)
    if status.code is not None and kind in (OrderKind.receive, OrderKind.rental):
        return Found.code
    if kind is OrderKind.send and status.sms_status in _ENDS:
        return Found(_ENDS[SmsStatus(status.sms_status)])
    if status.error is not None:
        return Found.failed
    if status.paid or entry.paid:
        return Found.funded if kind is OrderKind.fund else Found.paid
    return Found.unpaid


async def _balance(client: Client, journal: Journal, *, settled: bool) -> Balance:
    """Compare the balance, and keep it for the next time if nothing about it is in doubt."""
    base = await journal.kept("balance")
    row, spent, back, funded, sats = (
        (0, 0, 0, 0, 0) if base is None else (base[name] for name in ("row", "spent", "back", "funded", "sats"))
    )
    before = await journal.spending(row)
    now, paid_in = await client.get_balance(), (await client.get_history()).total_sats
    after = await journal.spending(row)
    prices = [intent.price_sats for intent in after.unresolved]
    steady = (before.last_row, before.spent_sats, before.back_sats) == (after.last_row, after.spent_sats, after.back_sats)
    steady &= settled and not before.under_way
    expected = None
    if base is not None and steady and not after.unpriced:
        expected = sats + (paid_in - funded) - (after.spent_sats - spent) + (after.back_sats - back)
    balance = Balance(
        sats=now,
        expected_sats=expected,
        since=None if base is None else datetime.fromtimestamp(base["at"], UTC),
        spent_sats=after.spent_sats - spent if base is not None else 0,
        back_sats=after.back_sats - back if base is not None else 0,
        unpriced=after.unpriced if base is not None else 0,
        unresolved=len(prices),
        unresolved_sats=None if None in prices else sum(price for price in prices if price is not None),
    )
    if steady and (base is None or not prices):
        await journal.keep("balance", _base(after, now, paid_in))
    return balance


def _base(spending: Spending, sats: int, funded: int) -> dict[str, object]:
    return {
        "at": datetime.now(UTC).timestamp(),
        "row": spending.last_row,
        "spent": spending.spent_sats,
        "back": spending.back_sats,
        "sats": sats,
        "funded": funded,
    }


def _check(client: object, journal: object) -> None:
    if not isinstance(client, Client):
        raise TypeError(f"client must be a Client, not {type(client).__name__}")
    if not isinstance(journal, Journal):
        raise TypeError(f"journal must be a Journal, not {type(journal).__name__}")
