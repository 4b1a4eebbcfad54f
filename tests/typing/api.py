"""The package as a user's program sees it, for type checkers; never run.

``assert_type`` fails the check when a type is another one, and ``# type: ignore`` on a line without an error does too.
"""

import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any, assert_type

import httpx

from sms4sats_async import (
    BatchWatcher,
    CancelRefused,
    Client,
    Country,
    Exchange,
    Funding,
    History,
    Order,
    OrderError,
    OrderExpired,
    OrderKind,
    OrderStatus,
    OrderUnresolved,
    OrderWatcher,
    Outcome,
    PayingWatcher,
    PaymentFailed,
    PriceTooHigh,
    RateLimited,
    Received,
    RentalCountry,
    Sent,
    Service,
    Sms4SatsError,
    SmsStatus,
    receive_code,
    send_sms,
)
from sms4sats_async.sandbox import Sandbox, Timeline


async def calls() -> None:
    async with Client(api_key="key", proxy="http://127.0.0.1:3128", on_order=print) as client:
        assert_type(client, Client)
        assert_type(await client.is_available(), bool)
        assert_type(await client.get_countries(), list[Country])
        assert_type(await client.get_services(187), list[Service])
        assert_type(await client.get_rental_countries(), list[RentalCountry])
        assert_type((await client.get_price("us", "google")).sats, int | None)
        order = await client.create_order(187, "tg", max_sats=5000)
        assert_type(order, Order)
        assert_type(order.payreq, str | None)
        assert_type(order.kind, OrderKind)
        assert_type(order.created_at, datetime)
        assert_type(order.to_dict(), dict[str, Any])
        assert_type(await client.get_order_status(order.id), OrderStatus)
        assert_type(await client.get_balance(), int)
        history = await client.get_history()
        assert_type(history, History)
        assert_type(history.fundings, list[Funding])
        assert_type(client.orphaned_orders, list[Order])
        assert_type(client.in_flight, int)
        await client.create_order(187)  # type: ignore[call-arg]
        await client.create_order(187, "tg", True)  # type: ignore[call-arg]
        await client.get_order_status(order)  # type: ignore[arg-type]
        order.id = "other"  # type: ignore[misc]


async def watching(client: Client, order: Order) -> None:
    async with OrderWatcher(client, order, poll_interval=lambda status, waited: 5.0 if status.paid else waited / 10) as watcher:
        assert_type(watcher, OrderWatcher)
        assert_type(watcher.status, OrderStatus | None)
        assert_type(await watcher.number(), str)
        assert_type(await watcher.code(), str)
        assert_type(await watcher.sent(), SmsStatus)
        await watcher.cancel(when_allowed=True)
        assert_type(aiter(watcher), AsyncIterator[OrderStatus])
        async for status in watcher:
            assert_type(status.number, str | None)
            assert_type(status.sms_status, SmsStatus | str | None)
    OrderWatcher(client, "id", kind="send", hold_window=None)
    OrderWatcher(client, 5)  # type: ignore[arg-type]


async def many(client: Client, orders: list[Order], ids: Iterator[str], stream: AsyncIterator[Order | str]) -> None:
    async with BatchWatcher(client, orders, max_rate=50, max_watching=1_000) as batch:
        assert_type(batch, BatchWatcher)
        async for outcome in batch:
            assert_type(outcome, Outcome)
            assert_type(outcome.order, Order)
            assert_type(outcome.code, str | None)
            assert_type(outcome.status, OrderStatus | None)
            assert_type(outcome.error, Sms4SatsError | None)
        batch.add("id")
        batch.add(orders[0])
        batch.add(5)  # type: ignore[arg-type]
    assert_type(batch.unread, list[Outcome])
    assert_type(batch.watching, int)
    assert_type(batch.behind, float)
    BatchWatcher(client, ids, kind="send", hold_window=None, poll_interval=5)
    BatchWatcher(client, stream, cancel_on_exit=False)
    BatchWatcher(client, [5])  # type: ignore[list-item]


class Wallet:
    async def pay(self, invoice: str) -> bytes:
        return invoice.encode()


async def paying(client: Client, order: Order, wallet: Wallet) -> None:
    async with PayingWatcher(client, order, pay=wallet.pay, hold_window=None, cancel_on_exit=False) as watcher:
        assert_type(watcher, PayingWatcher)
        assert_type(await watcher.code(), str)
        async for status in watcher:
            assert_type(status, OrderStatus)
    received = await receive_code(client, 187, "tg", pay=wallet.pay, on_number=print, max_sats=5000)
    assert_type(received, Received)
    assert_type(received.code, str)
    assert_type(received.number, str | None)
    assert_type(received.order, Order)
    sent = await send_sms(client, "+12025550143", "hello", immediate=True)
    assert_type(sent, Sent)
    assert_type(sent.sms_status, SmsStatus)
    PayingWatcher(client, order)  # type: ignore[call-arg]
    PayingWatcher(client, "id", pay=wallet.pay)  # type: ignore[arg-type]
    PayingWatcher(client, order, pay=print)  # type: ignore[arg-type]
    await receive_code(client, 187, "tg", wallet.pay)  # type: ignore[call-arg]


def errors(error: OrderError) -> None:
    assert_type(error.order_id, str | None)
    assert_type(error.status, OrderStatus | None)
    if isinstance(error, OrderExpired | OrderUnresolved | CancelRefused):  # of an order that was watched: watch it again by its id
        assert_type(error.order_id, str)
    if isinstance(error, OrderExpired):
        assert_type(error.cancelled, bool)
        assert_type(error.reason, str | None)
    if isinstance(error, PaymentFailed):
        assert_type(error.status, OrderStatus | None)
    if isinstance(error, PriceTooHigh):
        assert_type(error.order, Order | None)
        assert_type(error.price_sats, int | None)


def seen(exchange: Exchange) -> None:
    assert_type(exchange.path, str)
    assert_type(exchange.status_code, int | None)
    assert_type(exchange.failure, str | None)
    assert_type(exchange.seconds, float)


def made(context: ssl.SSLContext) -> None:
    Client(on_exchange=seen, ssl_context=context)
    Client(on_exchange=lambda exchange: print(exchange.order))
    Client(ssl_context=False)  # type: ignore[arg-type]
    Client(on_exchange=len)  # type: ignore[arg-type]


def stored(status: OrderStatus) -> None:
    assert_type(status.to_dict(), dict[str, Any])
    assert_type(OrderStatus.from_dict(status.to_dict()), OrderStatus)


def called(payload: object) -> None:
    assert_type(OrderStatus.from_wire(payload, "id"), OrderStatus)
    OrderStatus.from_wire(payload)  # type: ignore[call-arg]


def waiting(error: RateLimited) -> float:
    return error.retry_after or 1.0


def transports(mine: httpx.AsyncBaseTransport) -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=1, code_after=30))
    Client(transport=mine)
    Client(transport=sandbox.transport())
