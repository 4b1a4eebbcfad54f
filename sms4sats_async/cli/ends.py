"""How a command can end: one exit code for each kind of end, and what a program is told of it."""

import shlex
from collections.abc import Iterator
from typing import Any

from sms4sats_async.cli.finding import NotFound
from sms4sats_async.errors import (
    APIError,
    AuthenticationError,
    CancelRefused,
    DecodeError,
    JournalError,
    OrderCancelled,
    OrderExpired,
    OrderFailed,
    OrderUnresolved,
    OutcomeUnknown,
    PaymentFailed,
    PriceTooHigh,
    RateLimited,
    SendFailed,
    TransportError,
)
from sms4sats_async.models import Order, OrderKind, OrderStatus

OK = 0
FAULT = 1
"""Nothing of the service: a port that is taken, an answer that could not be written."""
USAGE = 2


class Interrupted(Exception):
    """Ctrl-C or its like, while there was no order, or with an order that goes on.

    Attributes:
        order: what was placed; ``None`` when nothing was.
        reason: why the server did not cancel it; ``None`` when it was not asked.
        beside: what has come until then, for the document of ``--json``.
    """

    def __init__(
        self, message: str, *, order: Order | None = None, reason: str | None = None, beside: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.beside = beside or {}
        self.order = order
        self.order_id = None if order is None else order.id
        self.reason = reason


class Unpaid(PaymentFailed):
    """The command that pays failed, the invoice is unpaid, and the person does not wait for it any more.

    Attributes:
        cancelled: did the service confirm our cancel?
        reason: why not; ``None`` when it did.
    """

    def __init__(
        self,
        message: str,
        *,
        order_id: str | None = None,
        status: OrderStatus | None = None,
        cancelled: bool = False,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, order_id=order_id, status=status)
        self.cancelled = cancelled
        self.reason = reason


ON_ITS_WAY_BACK = "what was paid for it is on its way back"
MONEY_BACK = "what was paid for it comes back by itself, 21 minutes after the payment, unless a code comes"

CODES: dict[type[Exception], tuple[int, str]] = {
    APIError: (3, "the service said no"),
    AuthenticationError: (4, "the API key was refused"),
    RateLimited: (5, "too many requests"),
    TransportError: (6, "no usable reply came"),
    OutcomeUnknown: (7, "a call that spends may have been charged, and its reply was lost: look before you repeat it"),
    DecodeError: (8, "a reply that is not what the API promises"),
    JournalError: (9, "the journal cannot be used, and nothing was ordered"),
    OrderFailed: (11, "the service ended the order, and gives the money back"),
    OrderExpired: (12, "no payment, or no code, in time"),
    OrderUnresolved: (13, "the time is over and the service could not be asked: watch the order again"),
    OrderCancelled: (14, "interrupted, and the order is cancelled"),
    CancelRefused: (15, "`cancel`: the service would not"),
    SendFailed: (16, "the SMS could not be sent"),
    PriceTooHigh: (17, "it costs more than `--max-sats`"),
    PaymentFailed: (18, "the command of `--pay-with` failed, and the invoice is still unpaid"),
    NotFound: (USAGE, "a mistake in the command, in `SMS4SATS_API_KEY`, or a package that is missing"),
    Interrupted: (130, "interrupted; an order that was placed goes on"),
}
"""The exit code of each error, and its words in the documents. An error without a row of its own takes that of its nearest base."""

OTHER_CODES: dict[int, str] = {
    OK: "the answer is on standard output",
    FAULT: "a fault on this machine: a port that is taken, an output that is closed",
}


def exit_code(error: Exception) -> int:
    """Return the exit code of an error."""
    return next((CODES[base][0] for base in type(error).__mro__ if base in CODES), FAULT)


def table() -> Iterator[tuple[int, str]]:
    """Go through the exit codes and what they mean, lowest first."""
    yield from sorted([*OTHER_CODES.items(), *CODES.values()])


def resume(error: Exception, order: Order | None, base_url: str | None = None) -> str | None:
    """Return the command that watches an order again, there, ready for a shell; ``None`` where none was placed, or it has ended."""
    goes_on = isinstance(error, OrderUnresolved | CancelRefused | Interrupted)
    if order is None or not (goes_on or (isinstance(error, OrderExpired | Unpaid) and not error.cancelled)):
        return None
    kind = [] if order.kind is OrderKind.receive else ["--kind", str(order.kind)]
    return _command("watch", *kind, base_url=base_url, order_id=order.id)


def _command(name: str, *options: str, base_url: str | None, order_id: str | None = None) -> str:
    """Return a command line, ready for a shell whatever is in it: an order's id is the service's word."""
    there = [] if base_url is None else ["--base-url", base_url]
    order = [] if order_id is None else [order_id]
    apart = ["--"] if order_id is not None and order_id.startswith("-") else []
    return shlex.join(["sms4sats", name, *options, *there, *apart, *order])


def hints(error: Exception, order: Order | None = None, base_url: str | None = None) -> Iterator[tuple[str, str, bool]]:
    """Go through what a person should know after this error and can do: a label, the words, and are they to be copied?"""
    if isinstance(error, OutcomeUnknown):
        yield "look", f"{_command('balance', base_url=base_url)}: was it charged?", True
    if isinstance(error, RateLimited) and error.retry_after is not None:
        yield "again", f"in {error.retry_after:g} s", False
    if order is None or order.kind is not OrderKind.receive:
        return
    if isinstance(error, OrderExpired) and error.paid:
        yield "money", ON_ITS_WAY_BACK if error.cancelled else MONEY_BACK, False
    if _TOO_EARLY in (getattr(error, "reason", None) or ""):
        yield "cancel", _command("cancel", "--when-allowed", base_url=base_url, order_id=order.id), True


_TOO_EARLY = "after 2 minutes"
"""What the service says to a cancel in an order's first 2 minutes has this in it."""
_TOLD = ("reason", "status_code", "retry_after", "paid", "cancelled", "price_sats", "max_sats", "suggestions")
"""What a program is told of an error beside its type, its words and its order, where the error has it."""


def error_document(error: Exception, again: str | None, *, code: int | None = None) -> dict[str, Any]:
    """Return what ``--json`` answers instead of the answer. It goes to the owner of the order, so the order's id is whole."""
    document: dict[str, Any] = {
        "type": PaymentFailed.__name__ if isinstance(error, Unpaid) else type(error).__name__,
        "exit_code": exit_code(error) if code is None else code,
        "message": str(error),
        "order_id": getattr(error, "order_id", None),
        "resume": again,
    }
    return {"error": document | {name: getattr(error, name) for name in _TOLD if hasattr(error, name)}}
