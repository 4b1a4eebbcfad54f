"""What the service answers, as frozen values, each with its decode from the wire.

The wire is decoded leniently, because little of it is documented and nothing was confirmed: numbers come as text and text as numbers,
fields are missing, null or empty, and new ones appear. The rules, for every model here:

* an unknown field is ignored, and stays readable in ``raw``, the server's own reply;
* a missing optional field is ``None``; a missing required one is a :class:`MalformedReply`;
* in a status, an empty string means absent everywhere, and 0 means absent in ``number``, ``code`` and ``id``; elsewhere 0 is 0
  (country 0 is Russia);
* nothing that is wrong in an optional field of a status may hide the code beside it.

No ``repr`` holds a whole order id, number, code, invoice, key or preimage.
"""

import enum
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, TypeGuard, TypeVar

import attrs

SITE = "https://sms4sats.com/"
"""Where relative image addresses stand (seen in BlitzWallet)."""

_MAX_CODE_LENGTH = 4096
_MAX_WORDS = 300
_MILLISECONDS_FROM = 10**11
"""A time stamp from here on counts milliseconds (as documented), below it seconds: the two readings meet in 1973 and in 5138."""

_Row = TypeVar("_Row")


class MalformedReply(ValueError):
    """A reply that breaks the API's promise.

    Attributes:
        order_id: the order's id, when it could be read all the same.
    """

    def __init__(self, message: str, order_id: str | None = None) -> None:
        super().__init__(message)
        self.order_id = order_id


class OrderKind(enum.StrEnum):
    """What an order is for."""

    receive = enum.auto()
    rental = enum.auto()
    send = enum.auto()
    fund = enum.auto()


class SmsStatus(enum.StrEnum):
    """How far the SMS of a send order has come. ``sent``, ``delivered`` and ``failed`` are final; ``sent`` can be skipped."""

    created = enum.auto()
    sent = enum.auto()
    delivered = enum.auto()
    failed = enum.auto()


def _shown(text: str) -> str:
    """What can stand in a log line: nothing of a foreign text may begin a line of its own, or steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def mask(secret: str) -> str:
    """Return enough of a secret to tell it from another, and too little to use it: ``64..d4``."""
    return f"{_shown(secret[:2])}..{_shown(secret[-2:])}" if len(secret) > 8 else ".."  # noqa: PLR2004 - shorter ones would be half given away


def _masked(value: str | None) -> str:
    return "None" if value is None else f"'{mask(value)}'"


def hidden(value: str | None) -> str:
    """A repr that tells no more than whether there is a value."""
    return "None" if value is None else "'..'"


def _told(words: str | None) -> str:
    """The server's words without what could be an id, a number or a code in them."""

    def blotted(found: re.Match[str]) -> str:
        return ".." if re.search("[0-9]", found[0]) else found[0]

    return repr(words and re.sub(r"[0-9A-Za-z_-]{16,}|\+?[0-9]{5,}", blotted, words))


def _raw() -> Any:
    return attrs.field(factory=dict[str, Any], repr=False, eq=False, kw_only=True)


# --- what a value on the wire can mean ---------------------------------------------------------------------------------------------


def _text(value: object) -> str | None:
    """Text, or a number as text; ``None`` for everything else, and for text with nothing in it."""
    if isinstance(value, str):
        return value.strip() or None
    if type(value) is int:  # the common case, at each poll
        return str(value)
    number = _decimal(value)
    return None if number is None else f"{number:f}"


def _decimal(value: object) -> Decimal | None:
    """A finite number, or text that is one; ``None`` for everything else (a range of prices, for example)."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if re.fullmatch(r"\s*[+-]?[0-9]{1,30}(\.[0-9]{1,30})?(e\+?[0-9]{1,2})?\s*", value, re.IGNORECASE) is None:
            return None
        value = Decimal(value.strip())
    elif isinstance(value, int):
        value = Decimal(value)
    elif isinstance(value, float) and math.isfinite(value):
        value = Decimal(repr(value))
    else:
        return None
    return value.to_integral_value() if value == value.to_integral_value() else value


def _whole(value: object, rounding: str = ROUND_FLOOR) -> int | None:
    number = _decimal(value)
    return None if number is None else int(number.to_integral_value(rounding))


def _price(value: object) -> int | None:
    """Satoshis that have to be paid: rounded up, as every promise about the most that is paid needs."""
    return _whole(value, ROUND_CEILING)


def _moment(value: object) -> datetime | None:
    stamp = _decimal(value)
    if stamp is None:
        return None
    seconds = float(stamp) / (1000 if abs(stamp) >= _MILLISECONDS_FROM else 1)
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):  # a year that no calendar has
        return None


def _words(value: object) -> str | None:
    """What the server says in a field meant for people: text as it is, anything else as its JSON; cut at 300 characters."""
    if not value:  # None, "", false, 0, {} and [] say nothing
        return None
    text = value if isinstance(value, str) else _as_json(value)
    return text[:_MAX_WORDS] if text.strip() else None


def _as_json(value: object) -> str:
    try:
        return json.dumps(value)
    except RecursionError:  # what was just deep enough to be read is too deep to be written from here
        return "(deeply nested)"


def _number(value: object) -> str | None:
    """A phone number in E.164 with ``+``; text that is no number stays as it is, because the code may stand beside it."""
    text = _text(value)
    number = _decimal(value)
    if text is None or number == 0:
        return None
    if number is not None:  # digits, or the same as 1.555e10
        return f"+{number:f}" if number > 0 and number == number.to_integral_value() else text
    compact = re.sub(r"(?<=.)[\s().-]|\(", "", text)  # a minus in front is no hyphen
    return "+" + compact.removeprefix("+") if re.fullmatch(r"\+?[0-9]+", compact, re.ASCII) else text


def _code(value: object) -> tuple[str | None, bool]:
    """The code, byte for byte, and whether it came as a JSON number (its leading zeros may be missing then)."""
    if value is None or value is False:
        return None, False
    if isinstance(value, str):
        if len(value) > _MAX_CODE_LENGTH:
            raise MalformedReply(f"a code of {len(value)} characters")
        return (value, False) if value.strip() not in ("", "0") else (None, False)
    number = _decimal(value)
    if number is None:  # true, a list, an object, infinity
        raise MalformedReply(f"a code of type {type(value).__name__}")
    return (f"{number:f}", True) if number else (None, False)


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)  # JSON has no keys but strings


def _is_array(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _object(value: object, what: str) -> dict[str, Any]:
    if not _is_object(value):
        raise MalformedReply(f"{what} is not an object but {_json_type(value)}")
    return value


def _json_type(value: object) -> str:
    names: dict[type, str] = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def _rows(payload: object, what: str, read: Callable[[dict[str, Any]], _Row | None]) -> list[_Row]:
    """Read a list of rows, or an object of rows by key, and leave out what is no row.

    One row that cannot be read must not cost the others; a list of which no row can be read is not the list that was asked for.
    """
    rows: list[Any]
    if _is_object(payload):
        rows = [_keyed(key, row) for key, row in payload.items()]
    elif _is_array(payload):
        rows = payload
    else:
        raise MalformedReply(f"the list of {what} is {_json_type(payload)}")
    rows = [row for row in rows if row is not None]
    found = [one for row in rows if _is_object(row) and (one := read(row)) is not None]
    if rows and not found:
        raise MalformedReply(f"none of the {len(rows)} rows in the list of {what} can be read")
    return found


def _keyed(key: str, row: object) -> object:
    """A row of an object of rows: its key stands for the id when the row has none; a bare string is its name."""
    if isinstance(row, str):
        return {"id": key, "name": row}
    return {**row, "id": key} if _is_object(row) and _first(row, "id", "cc") is None else row


def _first(row: Mapping[str, Any], *names: str) -> Any:
    """The first of the fields that is there, and neither null nor empty: the service spells some of them in several ways."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


# --- the catalogue -----------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Country:
    """A country that numbers can be had from.

    Attributes:
        id: the service's own number for it, neither a dial code nor ISO. 0 is Russia, 187 the USA, 999 lets the service choose.
        name: its English name as the service spells it; the id as text when the service sends no name.
    """

    id: int
    name: str
    raw: Mapping[str, Any] = _raw()

    @classmethod
    def list_from_wire(cls, payload: object) -> "list[Country]":
        """Decode GET /getCountries: an array or an object of rows, with ``id`` or ``cc``, ``eng`` or ``country`` or ``name``."""
        return _rows(payload, "countries", cls._from_row)

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> "Country | None":
        number = _whole(_first(row, "id", "cc"))
        if number is None:
            return None
        return cls(number, _text(_first(row, "eng", "country", "name")) or str(number), raw=row)


@attrs.frozen
class Service:
    """A service that codes can be received from, in one country.

    Attributes:
        code: what ``create_order`` takes, "tg" for example.
        name: its name for people; the code when the service sends no name.
        count: how many numbers there are; ``None`` when the service does not say.
        image_url: an absolute address of its picture; ``None`` when it has none.
    """

    code: str
    name: str
    count: int | None = None
    image_url: str | None = None
    raw: Mapping[str, Any] = _raw()

    @classmethod
    def list_from_wire(cls, payload: object) -> "list[Service]":
        """Decode GET /getnumbersstatus. An empty list is a country without services; a code that comes twice is kept once."""
        found = _rows(payload, "services", cls._from_row)
        first: dict[str, Service] = {}
        for service in found:
            first.setdefault(service.code, service)
        return list(first.values())

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> "Service | None":
        code = _text(_first(row, "value", "key"))
        if code is None:
            return None
        return cls(code, _text(row.get("text")) or code, _whole(row.get("count")), _image_url(row.get("image")), raw=row)


def _image_url(image: object) -> str | None:
    source = _text(image.get("src") if _is_object(image) else image)
    if source is None or re.match(r"https?://", source, re.IGNORECASE):
        return source
    return "https:" + source if source.startswith("//") else SITE + source.lstrip("/")


@attrs.frozen
class RentalCountry:
    """A country that numbers can be rented from.

    Attributes:
        duration: how long a rental lasts, as the service sends it. Its documentation says weeks, its website hours: trust neither.
        price_sats: the price of one rental in satoshis.
    """

    id: int
    name: str
    duration: str
    price_sats: int
    raw: Mapping[str, Any] = _raw()

    @classmethod
    def list_from_wire(cls, payload: object) -> "list[RentalCountry]":
        """Decode GET /getRentalCountries. A row without an id or a price cannot be ordered and is left out."""
        return _rows(payload, "rental countries", cls._from_row)

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> "RentalCountry | None":
        number, price = _whole(_first(row, "cc", "id")), _price(row.get("price"))
        if number is None or price is None:
            return None
        name = _text(_first(row, "country", "eng", "name")) or str(number)
        return cls(number, name, _text(row.get("duration")) or "", price, raw=row)


@attrs.frozen
class Price:
    """What the service charges, in satoshis, rounded up; ``None`` where it sends nothing, or a range.

    Attributes:
        sats: the price asked for; only when both a country and a service were given.
        receive_sats, send_sats, rent_sats: the general prices of an activation, of sending one SMS, of a rental.
        s4s_sats: the price of a number of the service's own network (``real_phone``).
        country_id: the number of the country asked for.
        description: the service's words for what was asked for.
    """

    sats: int | None = None
    receive_sats: int | None = None
    send_sats: int | None = None
    rent_sats: int | None = None
    s4s_sats: int | None = None
    country_id: int | None = None
    description: str | None = None
    raw: Mapping[str, Any] = _raw()

    @classmethod
    def from_wire(cls, payload: object) -> "Price":
        """Decode GET /price."""
        row = _object(payload, "the price")
        computed = row.get("computed")
        asked: dict[str, Any] = computed if _is_object(computed) else {}
        return cls(
            sats=_price(asked.get("price")),
            receive_sats=_price(row.get("receive")),
            send_sats=_price(row.get("send")),
            rent_sats=_price(row.get("rent")),
            s4s_sats=_price(row.get("s4s")),
            country_id=_whole(asked.get("country")),
            description=_words(asked.get("description")),
            raw=row,
        )


# --- orders ------------------------------------------------------------------------------------------------------------------------

_INVOICE = re.compile(r"ln(?:bcrt|bc|tbs|tb|sb)(?:([0-9]{1,18})([munp]?))?1[02-9ac-hj-np-z]{8,}", re.IGNORECASE | re.ASCII)
_PICO_PER_SATOSHI = 10_000
_PICO = {"": 10**12, "m": 10**9, "u": 10**6, "n": 10**3, "p": 1}


def invoice_sats(payreq: str) -> int | None:
    """Read the amount of a Lightning invoice (BOLT 11) in satoshis, rounded up; ``None`` when it leaves the amount to the payer.

    Only the part for people is read; whether the checksum is right is for the wallet to say.

    Raises:
        ValueError: the text is no invoice.
    """
    match = _INVOICE.fullmatch(payreq)
    if match is None:
        raise ValueError("not a Lightning invoice")
    digits, multiplier = match.groups()
    return None if digits is None else -(int(digits) * _PICO[multiplier.lower()] // -_PICO_PER_SATOSHI)


@attrs.frozen
class Order:
    """An order as the service took it. Its id is a secret: whoever has it can read the code.

    Attributes:
        id: the service's id of the order; opaque.
        kind: what it is for.
        payreq: the hold invoice to pay (BOLT 11); ``None`` for a prepaid order, and for one known by its id only.
        prepaid: was it charged to the API key's balance?
        amount_sats: the invoice's own amount, rounded up; ``None`` without an invoice or without an amount in it.
        created_at: when its reply was read, by this machine's clock; aware, UTC.
        country, service: as they were ordered; ``None`` where there is none.
    """

    id: str = attrs.field(repr=_masked)
    kind: OrderKind = OrderKind.receive
    payreq: str | None = attrs.field(default=None, repr=_masked)
    prepaid: bool = False
    amount_sats: int | None = None
    created_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    country: int | str | None = None
    service: str | None = None
    raw: Mapping[str, Any] = _raw()

    @classmethod
    def from_wire(
        cls,
        payload: object,
        *,
        kind: OrderKind,
        created_at: datetime,
        immediate: bool = False,
        country: int | str | None = None,
        service: str | None = None,
    ) -> "Order":
        """Decode POST /createorder, /createsendorder or /fund.

        Raises:
            MalformedReply: no ``orderId``, or, unless ``immediate``, no ``payreq`` that is an invoice.
        """
        row = _object(payload, "the order")
        order_id = _text(row.get("orderId"))
        if order_id is None:
            raise MalformedReply("no orderId")
        payreq = _text(row.get("payreq"))
        prepaid = (payreq is None and immediate) or (payreq is not None and payreq.lower() == "paid")
        amount_sats = None
        if prepaid:
            payreq = None
        elif payreq is None:
            raise MalformedReply("no payreq", order_id)
        else:
            payreq = re.sub(r"^lightning:(//)?", "", payreq, flags=re.IGNORECASE)
            try:
                amount_sats = invoice_sats(payreq)
            except ValueError as error:
                raise MalformedReply(f"the payreq is {error}", order_id) from None
        return cls(order_id, kind, payreq, prepaid, amount_sats, created_at, country, service, raw=row)

    def to_dict(self) -> dict[str, Any]:
        """Return the order as plain JSON, to be stored or queued; :meth:`from_dict` reads it back. ``raw`` is left out.

        It holds the order's id, so keep it as you would keep the code.
        """
        return {
            "version": 1,
            "id": self.id,
            "kind": self.kind.value,
            "payreq": self.payreq,
            "prepaid": self.prepaid,
            "amount_sats": self.amount_sats,
            "created_at": self.created_at.isoformat(),
            "country": self.country,
            "service": self.service,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Order":
        """Read what :meth:`to_dict` returned. Unknown fields are ignored, missing ones take their defaults.

        Raises:
            ValueError: there is no id, or a field cannot be what it should be.
        """
        if not _is_object(data):
            raise ValueError(f"order: not an object but {_json_type(data)}")

        def field(name: str, *types: type) -> Any:
            value = data.get(name)
            if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
                raise ValueError(f"order: {name} cannot be {_json_type(value)}")
            return value

        order_id = field("id", str)
        if not order_id:
            raise ValueError("order: no id")
        created_at = field("created_at", str)
        moment = datetime.now(UTC) if created_at is None else datetime.fromisoformat(created_at)
        return cls(
            id=order_id,
            kind=OrderKind(field("kind", str) or OrderKind.receive),
            payreq=field("payreq", str),
            prepaid=field("prepaid", bool) or False,
            amount_sats=field("amount_sats", int),
            created_at=moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC),
            country=field("country", int, str),
            service=field("service", str),
        )


def order_id_in(body: bytes) -> str | None:
    """Find an order's id in a reply that was cut off: one whole ``"orderId": "..."`` pair is enough; ``None`` without one."""
    match = re.search(rb'"orderId"\s*:\s*(?:"([^"\\]{1,200})"|([0-9]{1,40})\s*[,}])', body)
    return None if match is None else (match[1] or match[2]).decode("utf-8", "replace").strip() or None


@attrs.frozen
class OrderStatus:
    """What the service says of an order.

    Attributes:
        order_id: the order that was asked about (a reply names none).
        paid: is the payment held? It stays true when the money is given back after an ``error``.
        number: the number to use, E.164 with ``+``; ``None`` until one is assigned. A number that is none stays as the service sent it.
        code: the activation code, or whatever text came, byte for byte; ``None`` until it arrives.
        code_was_number: the code came as a JSON number, so leading zeros may be missing.
        sms_status: how far the SMS of a send order has come; a value nobody has seen yet is a plain ``str``; ``None`` otherwise.
        error: the server ended the order and gives the money back, in its own words; ``None`` while it has not.
        activation_id: the id at the provider of the number; of no use here but in a talk with the service's people.
        country, service: as the service names them.
        timestamp: the service's own time for the order; aware, UTC. A hint only: nothing is decided by it.
    """

    order_id: str = attrs.field(repr=_masked)
    paid: bool
    number: str | None = attrs.field(default=None, repr=_masked)
    code: str | None = attrs.field(default=None, repr=hidden)
    code_was_number: bool = False
    sms_status: SmsStatus | str | None = None
    error: str | None = attrs.field(default=None, repr=_told)
    activation_id: str | None = attrs.field(default=None, repr=_masked)
    country: str | None = None
    service: str | None = None
    timestamp: datetime | None = None
    raw: Mapping[str, Any] = _raw()

    @classmethod
    def from_wire(cls, payload: object, order_id: str) -> "OrderStatus":
        """Decode GET /orderstatus, or the body of a webhook call, which is the same.

        Args:
            payload: the JSON value.
            order_id: the order that it is about: the payload does not say.

        Raises:
            MalformedReply: a ``ValueError``: no object, no boolean ``paid`` (unless a code is there, which proves the payment), or an
                impossible code.
        """
        row = _object(payload, "the status")
        code, code_was_number = _code(row.get("code"))
        paid = row.get("paid")
        if not isinstance(paid, bool):
            if code is None:
                raise MalformedReply("no boolean paid", order_id)
            paid = True
        activation_id = _text(row.get("id"))
        return cls(
            order_id=order_id,
            paid=paid,
            number=_number(row.get("number")),
            code=code,
            code_was_number=code_was_number,
            sms_status=_sms_status(row.get("smsStatus")),
            error=_words(row.get("error")),
            activation_id=None if activation_id == "0" else activation_id,
            country=_text(row.get("country")),
            service=_text(row.get("service")),
            timestamp=_moment(row.get("timestamp")),
            raw={_STATUS_FIELDS.get(name, name): value for name, value in row.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the status as plain JSON, to be queued, stored or answered with; :meth:`from_dict` reads it back. ``raw`` is left out.

        It holds the code, and the order's id, which is as good: what is shown to others is chosen field by field.
        """
        return {
            "version": 1,
            "order_id": self.order_id,
            "paid": self.paid,
            "number": self.number,
            "code": self.code,
            "code_was_number": self.code_was_number,
            "sms_status": None if self.sms_status is None else str(self.sms_status),
            "error": self.error,
            "activation_id": self.activation_id,
            "country": self.country,
            "service": self.service,
            "timestamp": None if self.timestamp is None else self.timestamp.isoformat(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "OrderStatus":
        """Read what :meth:`to_dict` returned. Unknown fields are ignored, missing ones take their defaults.

        Raises:
            ValueError: there is no order id or no ``paid``, or a field cannot be what it should be.
        """
        if not _is_object(data):
            raise ValueError(f"status: not an object but {_json_type(data)}")

        def field(name: str, kind: type = str) -> Any:
            value = data.get(name)
            if value is not None and type(value) is not kind:
                raise ValueError(f"status: {name} cannot be {_json_type(value)}")
            return value

        order_id, paid, timestamp = field("order_id"), field("paid", bool), field("timestamp")
        if not order_id or paid is None:
            raise ValueError("status: no order_id" if not order_id else "status: no paid")
        moment = None if timestamp is None else datetime.fromisoformat(timestamp)
        return cls(
            order_id=order_id,
            paid=paid,
            number=field("number"),
            code=field("code"),
            code_was_number=field("code_was_number", bool) or False,
            sms_status=_sms_status(field("sms_status")),
            error=field("error"),
            activation_id=field("activation_id"),
            country=field("country"),
            service=field("service"),
            timestamp=moment if moment is None or moment.tzinfo is not None else moment.replace(tzinfo=UTC),
        )


# Thousands of statuses are kept at once, and each reply brings its own copies of these names.
_STATUS_FIELDS = {
    name: name for name in ("status", "paid", "code", "id", "number", "timestamp", "country", "service", "error", "smsStatus")
}


def _sms_status(value: object) -> SmsStatus | str | None:
    text = _text(value)
    if text is None:
        return None
    try:
        return SmsStatus(text.lower())
    except ValueError:
        return text


def confirmation(payload: object) -> None:
    """Decode GET /cancelorder: ``"status": "OK"`` confirms; an empty object, or somebody else's page in JSON, confirms nothing.

    Raises:
        MalformedReply: anything else.
    """
    if str(_object(payload, "the answer").get("status")).upper() != "OK":
        raise MalformedReply("no status OK")


# --- the prepaid account -----------------------------------------------------------------------------------------------------------


def balance_sats(payload: object) -> int:
    """Decode GET /balance: whole satoshis, rounded down (a client was seen to round them, so they may be fractional).

    Raises:
        MalformedReply: no balance that is a number.
    """
    sats = _whole(_object(payload, "the balance").get("balance"))
    if sats is None:
        raise MalformedReply("no balance")
    return sats


def _without_key(row: Mapping[str, Any]) -> dict[str, Any]:
    """The service repeats the whole API key as ``userId``: a value that is stored and pickled must not carry it."""
    return {name: value for name, value in row.items() if name != "userId"}


@attrs.frozen
class Funding:
    """One payment into a prepaid account.

    Attributes:
        amount_sats, price_sats: what was funded and what it cost, in satoshis; ``None`` when the service does not say.
        created_at: aware, UTC; ``None`` when the service does not say.
        hold_invoice: was it paid by hold invoice?
        raw: the server's own row, without ``userId``, which is the API key.
    """

    amount_sats: int | None = None
    price_sats: int | None = None
    created_at: datetime | None = None
    description: str | None = None
    hold_invoice: bool | None = None
    raw: Mapping[str, Any] = _raw()

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Funding":
        """Decode one of the ``orders`` of GET /history."""
        hold_invoice = row.get("holdinvoice")
        return cls(
            amount_sats=_whole(row.get("amount")),
            price_sats=_price(row.get("price")),
            created_at=_moment(row.get("createdAt")),
            description=_words(_first(row, "description", "desc")),
            hold_invoice=hold_invoice if isinstance(hold_invoice, bool) else None,
            raw=_without_key(row),
        )


@attrs.frozen
class History:
    """The payments into a prepaid account; what was bought from it is not told by the service.

    Attributes:
        total_sats: the sum of all payments, in satoshis; added up here when the service sends no sum.
    """

    total_sats: int
    fundings: list[Funding] = attrs.field(factory=list[Funding])
    raw: Mapping[str, Any] = _raw()

    @classmethod
    def from_wire(cls, payload: object) -> "History":
        """Decode GET /history."""
        row = _object(payload, "the history")
        rows = row.get("orders")
        fundings = _rows([] if rows is None else rows, "fundings", Funding.from_row)
        total = _whole(row.get("totalAmount"))
        raw = _without_key(row) | {"orders": [dict(funding.raw) for funding in fundings]}
        return cls(sum(one.amount_sats or 0 for one in fundings) if total is None else total, fundings, raw=raw)
