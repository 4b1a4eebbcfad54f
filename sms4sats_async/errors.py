"""The error tree: everything this package raises, besides ``ValueError``, ``TypeError`` and ``RuntimeError`` for a mistake in a call.

::

    Sms4SatsError
    ├── TransportError            no usable reply came
    │   └── OutcomeUnknown        ... and the request may have moved money
    ├── DecodeError               a reply came that is not what the API promises
    ├── JournalError              the journal cannot be read or written
    ├── APIError                  the server said no
    │   ├── AuthenticationError   ... because of the key
    │   └── RateLimited           ... for now
    └── OrderError                an order ended, or cannot be had as asked
        ├── OrderFailed           the server ended it and gives the money back
        ├── OrderExpired          its window is over
        ├── OrderUnresolved       its window is over and the server could not be asked
        ├── OrderCancelled        this program cancelled it
        ├── CancelRefused         the server would not cancel it
        ├── SendFailed            its SMS could not be sent
        ├── PaymentFailed         the caller's payment raised, and the invoice is still unpaid
        └── PriceTooHigh          it costs more than ``max_sats``

No message holds an API key, a whole order id, a number, a code or the text of an SMS: all of them can be logged. The attributes hold
what a handler needs; an order id is a secret (whoever has it can read the code), so mask it before you log it. An error that is the end
of an order, or of an attempt to end it, is never raised without its ``order_id``: there it is annotated as ``str``.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers only: at run time this room imports nothing of ours
    from sms4sats_async.models import Order, OrderStatus


def printable(text: str) -> str:
    """Make foreign words safe for a message and a log: what cannot be printed becomes an escape."""
    if text.isprintable():  # nearly always
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape", "replace").decode() for char in text)


def harmless(words: str) -> str:
    """Make the server's words fit for a message and a log: what could be an id, a key, a number or a code in them is blotted out."""
    return printable(re.sub(r"[0-9A-Za-z_-]{16,}|\+?[0-9]{5,}", _blotted, words))


def _blotted(found: re.Match[str]) -> str:
    """A long word without a digit is a word."""
    return ".." if re.search("[0-9]", found[0]) else found[0]


class Sms4SatsError(Exception):
    """The base of every error of this package.

    Attributes:
        order_id: the order that the error is about; ``None`` while no order is known.
    """

    def __init__(self, message: str, *, order_id: str | None = None) -> None:
        super().__init__(message)
        self.order_id = order_id


class TransportError(Sms4SatsError):
    """No usable reply came (name lookup, connect, time-out, reset, proxy); the request can be made again."""


class OutcomeUnknown(TransportError):
    """The request may have moved money and its reply was lost: look (balance, history, phone) before you repeat it.

    ``order_id`` is set when it could be read from the part of the reply that came; ``__cause__`` is what went wrong.
    """


class DecodeError(Sms4SatsError):
    """A reply came that is not what the API promises.

    Attributes:
        status_code: the HTTP status of that reply; ``None`` when the text did not come by HTTP.
        excerpt: its first characters, escaped, with everything that could be a secret blotted out.
    """

    def __init__(self, message: str, *, order_id: str | None = None, status_code: int | None = None, excerpt: str = "") -> None:
        super().__init__(message, order_id=order_id)
        self.status_code = status_code
        self.excerpt = excerpt


class JournalError(Sms4SatsError):
    """The journal cannot be read or written: it is damaged, of a later version, locked, or its disk is full or read-only.

    Where a call that places an order raises it, nothing was sent.
    """


class APIError(Sms4SatsError):
    """The server said no.

    Attributes:
        status_code: the HTTP status. It can be 200: the service also refuses with ``"status": "error"`` in a good reply.
        reason: the server's own words; ``None`` when it gave none (a gateway's error page, for example).
    """

    def __init__(self, message: str, *, order_id: str | None = None, status_code: int = 0, reason: str | None = None) -> None:
        super().__init__(message, order_id=order_id)
        self.status_code = status_code
        self.reason = reason


class AuthenticationError(APIError):
    """The server refused the API key, or missed it: HTTP 401, 403, or a refusal that names the key."""


class RateLimited(APIError):
    """The server had too many requests (HTTP 429).

    Attributes:
        retry_after: the seconds that the server asks to wait; ``None`` when it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        order_id: str | None = None,
        status_code: int = 429,
        reason: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, order_id=order_id, status_code=status_code, reason=reason)
        self.retry_after = retry_after


class OrderError(Sms4SatsError):
    """An order ended, or cannot be had as asked.

    Attributes:
        status: the last status seen; ``None`` when none was.
    """

    def __init__(self, message: str, *, order_id: str | None = None, status: "OrderStatus | None" = None) -> None:
        super().__init__(message, order_id=order_id)
        self.status = status


class OrderFailed(OrderError):
    """The server ended the order and gives the money back: no number was to be had, for example.

    Attributes:
        reason: the server's own words.
    """

    order_id: str

    def __init__(
        self, message: str, *, order_id: str | None = None, status: "OrderStatus | None" = None, reason: str | None = None
    ) -> None:
        super().__init__(message, order_id=order_id, status=status)
        self.reason = reason


class OrderExpired(OrderError):
    """The order's window is over and there is no code.

    Attributes:
        paid: was a payment ever seen?
        cancelled: did the server confirm our cancel? If not, it frees the money by itself, 21 minutes after the payment.
        reason: what the server said to the cancel, or how asking failed; ``None`` after a confirmed cancel.
    """

    order_id: str

    def __init__(
        self,
        message: str,
        *,
        order_id: str | None = None,
        status: "OrderStatus | None" = None,
        paid: bool = False,
        cancelled: bool = False,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, order_id=order_id, status=status)
        self.paid = paid
        self.cancelled = cancelled
        self.reason = reason


class OrderUnresolved(OrderError):
    """It is not known how the order ends: watch it again.

    Its window is over and the server could not be asked, or nobody watches it any more: the client was closed, or a batch was left.
    """

    order_id: str


class OrderCancelled(OrderError):
    """This program cancelled the order, and the server confirmed it."""

    order_id: str


class CancelRefused(OrderError):
    """The server would not cancel the order, or did not say that it would; the order goes on.

    Attributes:
        reason: the server's own words, or how asking failed.
    """

    order_id: str

    def __init__(
        self, message: str, *, order_id: str | None = None, status: "OrderStatus | None" = None, reason: str | None = None
    ) -> None:
        super().__init__(message, order_id=order_id, status=status)
        self.reason = reason


class SendFailed(OrderError):
    """The SMS of a send order could not be sent."""

    order_id: str


class PaymentFailed(OrderError):
    """The caller's payment raised, and the invoice is still unpaid: two looks begun after that have shown it so.

    ``__cause__`` is what the payment raised.
    """

    order_id: str


class PriceTooHigh(OrderError):
    """The order costs more than ``max_sats``, or its price is unknown.

    Attributes:
        price_sats: the price in satoshis; ``None`` when it is unknown.
        max_sats: the most that was to be paid.
        order: the order, placed and unpaid, to be left alone or paid all the same; ``None`` when none was placed.
    """

    def __init__(
        self,
        message: str,
        *,
        order_id: str | None = None,
        status: "OrderStatus | None" = None,
        price_sats: int | None = None,
        max_sats: int = 0,
        order: "Order | None" = None,
    ) -> None:
        super().__init__(message, order_id=order_id, status=status)
        self.price_sats = price_sats
        self.max_sats = max_sats
        self.order = order
