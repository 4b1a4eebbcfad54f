"""Receive SMS codes for Bitcoin over Lightning: an asyncio and trio client for the sms4sats HTTP API."""

from typing import TYPE_CHECKING, Any

from sms4sats_async.batch import BatchWatcher, Outcome
from sms4sats_async.client import Client
from sms4sats_async.errors import (
    APIError,
    AuthenticationError,
    CancelRefused,
    DecodeError,
    JournalError,
    OrderCancelled,
    OrderError,
    OrderExpired,
    OrderFailed,
    OrderUnresolved,
    OutcomeUnknown,
    PaymentFailed,
    PriceTooHigh,
    RateLimited,
    SendFailed,
    Sms4SatsError,
    TransportError,
)
from sms4sats_async.models import (
    Country,
    Funding,
    History,
    Order,
    OrderKind,
    OrderStatus,
    Price,
    RentalCountry,
    Service,
    SmsStatus,
)
from sms4sats_async.payers import PayingWatcher, Received, Sent, receive_code, send_sms
from sms4sats_async.tracing import Exchange
from sms4sats_async.watcher import OrderWatcher

if TYPE_CHECKING:  # at run time each is loaded when it is asked for: most programs never ask
    from sms4sats_async.entries import Entry, Intent
    from sms4sats_async.journal import Journal
    from sms4sats_async.recovery import Balance, Finding, Found, Report, reconcile, resume

__all__ = [
    "APIError",
    "AuthenticationError",
    "Balance",
    "BatchWatcher",
    "CancelRefused",
    "Client",
    "Country",
    "DecodeError",
    "Entry",
    "Exchange",
    "Finding",
    "Found",
    "Funding",
    "History",
    "Intent",
    "Journal",
    "JournalError",
    "Order",
    "OrderCancelled",
    "OrderError",
    "OrderExpired",
    "OrderFailed",
    "OrderKind",
    "OrderStatus",
    "OrderUnresolved",
    "OrderWatcher",
    "Outcome",
    "OutcomeUnknown",
    "PayingWatcher",
    "PaymentFailed",
    "Price",
    "PriceTooHigh",
    "RateLimited",
    "Received",
    "RentalCountry",
    "Report",
    "SendFailed",
    "Sent",
    "Service",
    "Sms4SatsError",
    "SmsStatus",
    "TransportError",
    "receive_code",
    "reconcile",
    "resume",
    "send_sms",
]


_LATER = {
    "Balance": "recovery",
    "Entry": "entries",
    "Finding": "recovery",
    "Found": "recovery",
    "Intent": "entries",
    "Journal": "journal",
    "Report": "recovery",
    "reconcile": "recovery",
    "resume": "recovery",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module  # noqa: PLC0415 - most programs never ask

        return getattr(import_module(f"sms4sats_async.{_LATER[name]}"), name)
    if name == "__version__":  # looked up when asked for: the version stands in pyproject.toml alone
        from importlib.metadata import version  # noqa: PLC0415 - most programs never ask

        return version("sms4sats-async")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
