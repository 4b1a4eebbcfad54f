"""The service in memory: an ASGI app that behaves as ``api2.sms4sats.com`` is documented to, for tests and for trying things out.

::

    sandbox = Sandbox(timeline=Timeline.typical())
    async with Client(transport=sandbox.transport()) as client:
        order = await client.create_order(187, "tg")
        sandbox.pay(order.id)
        code = await OrderWatcher(client, order).code()

An order moves in two ways: by hand (:meth:`Sandbox.pay`, :meth:`~Sandbox.assign`, :meth:`~Sandbox.deliver`, :meth:`~Sandbox.fail`,
:meth:`~Sandbox.report`), or by itself, as its :class:`Timeline` says. Nothing runs in the background: what has become due is worked out
from the clock whenever the sandbox is asked, steered or looked at. So it follows virtual time as well as real time.

Where the service is not documented, the sandbox does what its clients expect; the text of most refusals is its own.
"""

import hashlib
import heapq
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast
from urllib.parse import parse_qsl

import anyio
import attrs

from sms4sats_async.models import OrderKind, SmsStatus, mask

if TYPE_CHECKING:
    import httpx

CANCEL_GATE = 120.0
"""Seconds from an order's creation in which the service refuses to cancel it (docs: /cancelorder)."""

HOLD_WINDOW = 1260.0
"""Seconds from the payment after which the service ends an order that has no code (docs: 21 minutes)."""

PAYMENT_WINDOW = 1260.0
"""Seconds from an order's creation in which its invoice can be paid (our choice: as long as the hold)."""

NO_NUMBER = "No available number, payment request is canceled. Your funds are returned to your wallet automatically."
"""The documented ``error`` of an order that no number was found for."""

CANCELED = "Order is canceled, payment request is canceled. Your funds are returned to your wallet automatically."
"""The ``error`` of a cancelled order (our words: the service's are not known)."""

EXPIRED = "No code received in time, payment request is canceled. Your funds are returned to your wallet automatically."
"""The ``error`` of an order whose hold window is over (our words: the service's are not known)."""

AUTO_SELECT = 999
"""The country id that leaves the choice to the service."""

_TOO_EARLY = "order can be canceled after 2 minutes"
_CANNOT_CANCEL = "unable to save data"
_MAX_BODY_BYTES = 65_536
_MAX_MESSAGE_LENGTH = 140
_SEND_SATS = 3000
_NETWORK_PHONE_SATS = 4000

_Scope: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_T = TypeVar("_T")


# --- the catalogue -----------------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Country:
    id: int
    name: str
    other_names: tuple[str, ...] = ()
    receive_sats: int = 1500
    rent_sats: int = 15_000
    digits: str = "88213########"
    """A phone number without its ``+``; each ``#`` stands for any digit."""


# The two prices of rentals in the docs (Indonesia, England) and those of /price (USA) are the service's own; the others are plausible.
_COUNTRIES = (
    _Country(0, "Russia", ("russian", "ru"), 1700, 3900, "79#########"),
    _Country(1, "Ukraine", ("ua",), 1600, 4100, "38067#######"),
    _Country(2, "Kazakhstan", ("kz",), 1600, 4300, "7701#######"),
    _Country(4, "Philippines", ("ph",), 1500, 2100, "63917#######"),
    _Country(6, "Indonesia", ("id",), 1500, 1368, "62812########"),
    _Country(10, "Vietnam", ("vn",), 1500, 2200, "8490#######"),
    _Country(12, "USA (virtual)", (), 1500, 9900, "1646555####"),
    _Country(14, "HongKong", ("hk",), 1900, 5200, "8529#######"),
    _Country(15, "Poland", ("pl",), 1800, 4600, "48512######"),
    _Country(16, "England", ("united kingdom", "gb", "uk"), 1900, 4815, "447400######"),
    _Country(22, "India", ("in",), 1500, 2400, "9198########"),
    _Country(32, "Romania", ("ro",), 1700, 4400, "40721######"),
    _Country(36, "Canada", ("ca",), 1500, 7200, "1416555####"),
    _Country(43, "Germany", ("de",), 2600, 6120, "4915########"),
    _Country(46, "Sweden", ("se",), 2100, 5600, "4670#######"),
    _Country(48, "Netherlands", ("nl",), 2200, 5800, "316########"),
    _Country(52, "Thailand", ("th",), 1600, 2800, "668########"),
    _Country(54, "Mexico", ("mx",), 1600, 3300, "5255########"),
    _Country(56, "Spain", ("es",), 2300, 5700, "346########"),
    _Country(63, "Czech", ("cz",), 1900, 5100, "4207########"),
    _Country(67, "Newzealand", ("nz",), 2000, 6300, "6421#######"),
    _Country(73, "Brazil", ("br",), 1600, 3700, "55119########"),
    _Country(78, "France", ("fr",), 2500, 6400, "336########"),
    _Country(86, "Italy", ("it",), 2400, 6000, "393########"),
    _Country(117, "Portugal", ("pt",), 2200, 5500, "3519########"),
    _Country(175, "Australia", ("au",), 2300, 7000, "614########"),
    _Country(187, "USA", ("united states", "united states of america", "us"), 1500, 15_000, "1202555####"),
    _Country(196, "Singapore", ("sg",), 2000, 6600, "658#######"),
)

_SERVICES = {
    "ot": "Any other",
    "full": "Full rent (rental)",
    "tg": "Telegram",
    "wa": "Whatsapp",
    "go": "Google,youtube,Gmail",
    "gf": "GoogleVoice",
    "fb": "facebook",
    "ig": "Instagram+Threads",
    "tw": "Twitter",
    "ds": "Discord",
    "vk": "vk.com",
    "mm": "Microsoft",
    "lf": "TikTok/Douyin",
    "am": "Amazon",
    "wx": "Apple",
    "ub": "Uber",
    "bw": "Signal",
    "mt": "Steam",
    "dr": "OpenAI",
    "acz": "Claude ",  # with the blank of the operator's own list
    "tn": "LinkedIN",
}

_SERVICE_SURCHARGE_SATS = {"wa": 400, "dr": 900, "acz": 900}
_FULL_RENTAL = "full"
_DEFAULT_COUNTRY = 187


# --- values ------------------------------------------------------------------------------------------------------------------------


def _seconds() -> Any:
    return attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(0)))


@attrs.frozen(kw_only=True)
class Timeline:
    """What happens to an order by itself, and when, in seconds of sandbox time.

    ``paid_after`` counts from the order's creation, everything else from its payment. ``None`` leaves that step to be done by hand.
    A step that was done by hand before its time is left out; what does not apply to the order's kind is ignored.

    Attributes:
        paid_after: the invoice is paid.
        number_after: a number is assigned.
        code_after: a code arrives, with a number if there is none yet.
        no_number_after: the order fails because there is no number, if none was assigned by then.
        sent_after: the SMS of a send order is sent.
        delivered_after: the SMS of a send order is delivered.
        failed_after: the SMS of a send order fails.
        code: the code that arrives; ``None`` for one made from the sandbox's seed.
    """

    paid_after: float | None = _seconds()
    number_after: float | None = _seconds()
    code_after: float | None = _seconds()
    no_number_after: float | None = _seconds()
    sent_after: float | None = _seconds()
    delivered_after: float | None = _seconds()
    failed_after: float | None = _seconds()
    code: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def typical(cls) -> "Timeline":
        """Return the course of most orders: paid by hand, a number after 8 s and a code after 45 s; an SMS sent at 3 s, there at 6 s."""
        return cls(number_after=8.0, code_after=45.0, sent_after=3.0, delivered_after=6.0)


def _quoted_mask(secret: str) -> str:
    return repr(mask(secret))


@attrs.define(eq=False, kw_only=True)
class SandboxOrder:
    """An order as the service sees it. Take it from :attr:`Sandbox.orders`: that brings it up to date.

    All times are seconds of sandbox time, and ``None`` until it has happened.

    Attributes:
        id: the order id, 64 hex characters.
        kind: what the order is for.
        country: the id of the country that the number is from (the chosen one if auto-select was asked for); ``None`` for send and fund.
        service: the service as it was ordered; ``None`` for send and fund.
        amount_sats: the price, in satoshis.
        payreq: the invoice; ``None`` for a prepaid order.
        prepaid: the price was taken from an account's balance.
        api_key: the account that paid, or that is funded; ``None`` for an order without one.
        created_at: when it was placed.
        paid_at: when the money was received.
        number_at: when the number was assigned.
        code_at: when the newest code arrived.
        cancelled_at: when its buyer cancelled it.
        ended_at: when it ended with nothing sold, whoever ended it.
        number: the number in E.164, with ``+``.
        codes: the codes, oldest first. Only a rental can have more than one.
        error: what the status shows as ``error``.
        sms_status: how far the SMS of a send order has come: one of :class:`~sms4sats_async.SmsStatus`, or whatever was reported.
        activation_id: what the status shows as ``id``.
        timeline: what happens by itself.
        phone, message, webhook_url, ref: as they were sent. The webhook is never called.
    """

    id: str = attrs.field(repr=_quoted_mask)
    kind: OrderKind
    country: int | None = None
    service: str | None = None
    amount_sats: int
    payreq: str | None = attrs.field(default=None, repr=False)
    prepaid: bool = False
    api_key: str | None = attrs.field(default=None, repr=False)
    created_at: float
    paid_at: float | None = None
    number_at: float | None = None
    code_at: float | None = None
    cancelled_at: float | None = None
    ended_at: float | None = None
    number: str | None = attrs.field(default=None, repr=False)
    codes: list[str | int] = attrs.field(factory=list[str | int], repr=False)
    error: str | None = None
    sms_status: str | None = None
    activation_id: int | str | None = attrs.field(default=None, repr=False)
    timeline: Timeline = attrs.field(factory=Timeline, repr=False)
    phone: str | None = attrs.field(default=None, repr=False)
    message: str | None = attrs.field(default=None, repr=False)
    webhook_url: str | None = attrs.field(default=None, repr=False)
    ref: str | None = attrs.field(default=None, repr=False)

    @property
    def code(self) -> str | int | None:
        """The newest code, or ``None``; a number if it is sent as one."""
        return self.codes[-1] if self.codes else None

    @property
    def settled(self) -> bool:
        """The money was taken: it is the service's."""
        if self.kind is OrderKind.receive:
            return bool(self.codes)
        if self.kind is OrderKind.send:
            return self.sms_status in (SmsStatus.sent, SmsStatus.delivered)
        return self.paid_at is not None and self.ended_at is None

    @property
    def returned(self) -> bool:
        """The money was given back."""
        return self.paid_at is not None and self.ended_at is not None

    @property
    def held(self) -> bool:
        """The money was received, and neither taken nor given back."""
        return self.paid_at is not None and not self.settled and not self.returned

    @property
    def final(self) -> bool:
        """Nothing will change any more. A rental that was paid goes on for ever."""
        if self.ended_at is not None:
            return True
        if self.kind is OrderKind.send:
            return self.sms_status == SmsStatus.delivered
        return self.settled and self.kind is not OrderKind.rental


@attrs.frozen
class SandboxCall:
    """A request that the sandbox received.

    Attributes:
        method: in capitals.
        path: without the query.
        query: its parameters; of a repeated one, the last value.
        body: the JSON object in the body; ``None`` if there was none.
        had_key: an ``X-API-Key`` header came with it (right or wrong).
        at: when it was received, in seconds of sandbox time.
    """

    method: str
    path: str
    query: dict[str, str] = attrs.field(repr=False)
    body: dict[str, Any] | None = attrs.field(repr=False)
    had_key: bool
    at: float


@attrs.frozen
class _Request:
    query: dict[str, str] = attrs.field(repr=False)
    body: dict[str, Any] | None = attrs.field(repr=False)
    api_key: str | None = attrs.field(repr=False)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the body."""
        if self.body is None:
            raise _RefusedError(400, "body is not a JSON object")
        return self.body

    def field(self, name: str, kind: type[_T]) -> _T | None:
        """Return an optional field of the body, or ``None``; null counts as absent."""
        value = self.fields.get(name)
        if value is None or isinstance(value, kind):
            return value
        raise _RefusedError(500, f"{name} is not a {kind.__name__}")


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


_Step: TypeAlias = Callable[[SandboxOrder, float], None]


# --- the service -------------------------------------------------------------------------------------------------------------------


class Sandbox:
    """The service in memory, as an ASGI app.

    Sandbox time is the clock's time multiplied by ``speed``, and everything that the service counts is counted in it: with
    ``speed=20`` an order can be cancelled after 6 s and ends by itself after 63 s.

    The same ``seed`` and the same calls give the same order ids, numbers and codes.

    Args:
        timeline: what happens to orders by themselves: a :class:`Timeline` for all, or a function that is given each new order and
            returns its own; ``None`` for nothing.
        speed: how much faster than the clock the service's time goes.
        clock: a function that returns seconds; ``None`` for the time of the running event loop, which is virtual where the loop's time
            is. Outside of a loop that one stands still.
        accounts: API keys, each with its balance in satoshis; ``None`` for none.
        says_ended: an order that was cancelled, or that the service ended at 21 minutes, says so as ``error`` in its status. ``False``
            for a service that gives the money back and goes on showing the order as if it were live: neither is documented.
        countries: names by id, in place of the sandbox's own.
        services: names by code, in place of the sandbox's own. Other codes of two or three letters can be ordered as well.
        seed: makes another world of ids, numbers and codes.
        epoch: the Unix time of the sandbox's second 0; ``None`` to take the wall clock's at the first look. It is seen in invoices and
            time stamps only.

    Attributes:
        calls: the requests received, oldest first.

    Raises:
        ValueError: ``speed`` is not positive, or ``countries`` or ``services`` is empty.
    """

    def __init__(
        self,
        *,
        timeline: Timeline | Callable[[SandboxOrder], Timeline] | None = None,
        speed: float = 1.0,
        clock: Callable[[], float] | None = None,
        accounts: Mapping[str, float] | None = None,
        says_ended: bool = True,
        countries: Mapping[int, str] | None = None,
        services: Mapping[str, str] | None = None,
        seed: int | str = 0,
        epoch: float | None = None,
    ) -> None:
        if not speed > 0:
            msg = f"speed must be positive, not {speed}"
            raise ValueError(msg)
        self.calls: list[SandboxCall] = []
        self._timeline = timeline
        self._speed = speed
        self._clock = clock
        self._balances = dict(accounts or {})
        self._says_ended = says_ended
        self._countries = {country.id: country for country in _COUNTRIES}
        if countries is not None:
            self._countries = {number: _named(number, name) for number, name in countries.items()}
        self._services = dict(_SERVICES if services is None else services)
        if not self._countries or not self._services:
            msg = "countries and services must not be empty"
            raise ValueError(msg)
        self._seed = seed
        self._epoch = epoch
        self._now = 0.0
        self._orders: dict[str, SandboxOrder] = {}
        self._due: list[tuple[float, int, SandboxOrder]] = []
        self._planned = 0
        self._routes: dict[str, tuple[str, Callable[[_Request], Any]]] = {
            "/": ("GET", lambda _: {"status": "OK"}),
            "/getCountries": ("GET", self._get_countries),
            "/getnumbersstatus": ("GET", self._get_numbers_status),
            "/getRentalCountries": ("GET", self._get_rental_countries),
            "/price": ("GET", self._get_price),
            "/createorder": ("POST", self._create_order),
            "/createsendorder": ("POST", self._create_send_order),
            "/fund": ("POST", self._fund),
            "/orderstatus": ("GET", self._order_status),
            "/cancelorder": ("GET", self._cancel_order),
            "/balance": ("GET", self._get_balance),
            "/history": ("GET", self._get_history),
        }

    def __repr__(self) -> str:
        return f"<Sandbox: {len(self._orders)} orders, {len(self.calls)} calls>"

    def transport(self) -> "httpx.AsyncBaseTransport":
        """Return a transport for ``Client(transport=...)`` or ``httpx.AsyncClient(transport=...)``: the sandbox, with no network."""
        import httpx  # noqa: PLC0415 - a server needs no client

        return httpx.ASGITransport(app=self)

    # --- looking

    @property
    def orders(self) -> dict[str, SandboxOrder]:
        """All orders by id, oldest first, as they are at this moment."""
        self._catch_up()
        return self._orders

    def balance(self, api_key: str) -> float:
        """Return the balance of an account, in satoshis.

        Raises:
            KeyError: there is no such account.
        """
        self._catch_up()
        if api_key not in self._balances:
            msg = "the sandbox has no account with this API key"
            raise KeyError(msg)
        return self._balances[api_key]

    # --- steering

    def pay(self, order_id: str) -> None:
        """Pay an order's invoice.

        Raises:
            KeyError: there is no such order.
            ValueError: it is paid, cancelled, or its invoice has expired.
        """
        order = self._order(order_id)
        _require(order, order.ended_at is None, "it was cancelled, or its invoice has expired")
        _require(order, order.paid_at is None, "it is paid")
        self._do(self._receive_payment, order)

    def assign(self, order_id: str, number: str | None = None) -> str:
        """Assign a number to an order and return it, in E.164 with ``+``.

        Args:
            order_id: a paid receive order or rental that has no number.
            number: in E.164, with or without ``+``; ``None`` for one that suits the country.

        Raises:
            KeyError: there is no such order.
            ValueError: the order or the number does not allow it.
        """
        order = self._number_order(order_id)
        _require(order, order.number is None, "it has a number")
        if number is not None and re.fullmatch(r"\+?[1-9][0-9]{6,14}", number) is None:
            msg = f"the number for order {mask(order_id)} is not in E.164"
            raise ValueError(msg)
        self._do(lambda order, at: self._give_number(order, at, number), order)
        return str(order.number)

    def deliver(self, order_id: str, code: str | int | None = None) -> str | int:
        """Deliver a code and return it. An order that has no number yet gets one.

        Args:
            order_id: a paid receive order that has no code, or a paid rental.
            code: the code; ``None`` for one of six digits. The service sends text; an ``int`` is sent as a JSON number, as its
                documentation has it.

        Raises:
            KeyError: there is no such order.
            ValueError: the order does not allow it, or the code is empty.
        """
        order = self._number_order(order_id)
        _require(order, code != "", "a code cannot be empty")
        self._do(lambda order, at: self._give_code(order, at, code), order)
        return order.codes[-1]

    def fail(self, order_id: str, error: str = NO_NUMBER) -> None:
        """End an order with no code: its status shows ``error``, and the money goes back.

        Raises:
            KeyError: there is no such order.
            ValueError: it is no paid receive order or rental, it has a code, it has ended, or ``error`` is empty.
        """
        order = self._number_order(order_id)
        _require(order, not order.codes, "it has a code")
        _require(order, bool(error), "an error cannot be empty")
        self._do(lambda order, at: self._end(order, at, error), order)

    def report(self, order_id: str, sms_status: str) -> None:
        """Report how far the SMS of a send order has come.

        Args:
            order_id: a paid send order.
            sms_status: ``sent`` and ``delivered`` settle the order, ``failed`` gives the money back; any other word is shown as it is.

        Raises:
            KeyError: there is no such order.
            ValueError: it is no send order, it is not paid, its SMS was delivered or has failed, or the word is empty or leads back:
                after ``sent`` only ``delivered`` can come.
        """
        order = self._order(order_id)
        _require(order, order.kind is OrderKind.send, f"it is a {order.kind} order")
        _require(order, order.paid_at is not None, "it is not paid")
        _require(order, not order.final, "its end was reported")
        _require(order, bool(sms_status), "a status cannot be empty")
        _require(order, order.sms_status != SmsStatus.sent or sms_status == SmsStatus.delivered, "its SMS was sent")
        self._do(lambda order, at: self._set_sms_status(order, at, sms_status), order)

    def _order(self, order_id: str) -> SandboxOrder:
        orders = self.orders
        if order_id not in orders:
            msg = f"the sandbox has no order {mask(order_id)}"
            raise KeyError(msg)
        return orders[order_id]

    def _number_order(self, order_id: str) -> SandboxOrder:
        order = self._order(order_id)
        _require(order, order.kind in (OrderKind.receive, OrderKind.rental), f"it is a {order.kind} order")
        _require(order, order.paid_at is not None, "it is not paid")
        _require(order, not order.final, "it has a code" if order.codes else "it has ended")
        return order

    # --- what can happen to an order

    def _receive_payment(self, order: SandboxOrder, at: float) -> None:
        order.paid_at = at
        if order.kind is OrderKind.fund and order.api_key is not None:
            self._balances[order.api_key] += order.amount_sats
        elif order.kind is OrderKind.send:
            order.sms_status = SmsStatus.created
            order.activation_id = "SM" + self._hash("activation", order.id)[:32]

    def _give_number(self, order: SandboxOrder, at: float, number: str | None = None) -> None:
        digits = self._draw_number(order) if number is None else number.removeprefix("+")
        order.number = "+" + digits
        order.number_at = at
        order.activation_id = 1_000_000_000 + int(self._hash("activation", order.id), 16) % 1_000_000_000

    def _give_code(self, order: SandboxOrder, at: float, code: str | int | None = None) -> None:
        if order.number is None:
            self._give_number(order, at)
        if code is None:
            code = f"{int(self._hash('code', order.id, len(order.codes)), 16) % 1_000_000:06d}"
        order.codes.append(code)
        order.code_at = at

    def _end(self, order: SandboxOrder, at: float, error: str | None) -> None:
        order.ended_at = at
        order.error = error
        if order.prepaid and order.api_key is not None:
            self._balances[order.api_key] += order.amount_sats

    def _set_sms_status(self, order: SandboxOrder, at: float, sms_status: str) -> None:
        order.sms_status = sms_status
        if sms_status == SmsStatus.failed:
            self._end(order, at, None)

    def _draw_number(self, order: SandboxOrder) -> str:
        pattern = self._country_of(order).digits
        drawn = str(int(self._hash("number", order.id), 16))[-len(pattern) :]
        return "".join(digit if place == "#" else place for place, digit in zip(pattern, drawn, strict=True))

    # --- time

    def _catch_up(self) -> None:
        """Let everything happen that has become due, in its order and at its own time."""
        seconds = _loop_time() if self._clock is None else self._clock()
        if seconds is None:
            return
        self._now = _to_microsecond(seconds * self._speed)
        if self._epoch is None:
            self._epoch = time.time() - self._now
        while self._due and self._due[0][0] <= self._now:
            at, _, order = heapq.heappop(self._due)
            upcoming = self._next_step(order)
            if upcoming is not None and upcoming[0] == at:  # otherwise the order has changed since, and was planned again
                upcoming[1](order, at)
                self._plan(order)

    def _do(self, step: _Step, order: SandboxOrder) -> None:
        step(order, self._now)
        self._plan(order)

    def _plan(self, order: SandboxOrder) -> None:
        upcoming = self._next_step(order)
        if upcoming is not None:
            self._planned += 1  # in a tie, first come, first served
            heapq.heappush(self._due, (upcoming[0], self._planned, order))

    def _next_step(self, order: SandboxOrder) -> tuple[float, _Step] | None:
        """Return what happens to an order by itself next, and when; in a tie, what is named first here."""
        if order.final:
            return None
        plan = order.timeline
        steps: list[tuple[float | None, _Step]] = []
        if order.paid_at is None:
            steps.append((plan.paid_after, self._receive_payment))
            steps.append((PAYMENT_WINDOW, lambda order, at: self._end(order, at, None)))
        elif order.kind is OrderKind.send:
            steps.append((plan.delivered_after, lambda order, at: self._set_sms_status(order, at, SmsStatus.delivered)))
            if order.sms_status != SmsStatus.sent:
                steps.append((plan.sent_after, lambda order, at: self._set_sms_status(order, at, SmsStatus.sent)))
                steps.append((plan.failed_after, lambda order, at: self._set_sms_status(order, at, SmsStatus.failed)))
        else:
            if order.number is None:
                steps.append((plan.number_after, self._give_number))
            if not order.codes:
                steps.append((plan.code_after, lambda order, at: self._give_code(order, at, plan.code)))
            if order.number is None:
                steps.append((plan.no_number_after, lambda order, at: self._end(order, at, NO_NUMBER)))
            if order.kind is OrderKind.receive:
                steps.append((HOLD_WINDOW, lambda order, at: self._end(order, at, EXPIRED if self._says_ended else None)))
        start = order.created_at if order.paid_at is None else order.paid_at
        due = [(_to_microsecond(start + after), step) for after, step in steps if after is not None]
        return min(due, key=lambda at_and_step: at_and_step[0], default=None)

    def _milliseconds(self, at: float) -> int:
        return round(((self._epoch or 0.0) + at) * 1000)

    # --- ASGI

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request, or run through the life of a server. Other kinds of connection are left alone."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            raw = await _read_body(receive)
            if raw is not None:
                await _reply(send, *self._answer(scope, raw))

    def _answer(self, scope: _Scope, raw: bytes) -> tuple[int, Any]:
        self._catch_up()
        method = scope["method"]
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request = _Request(
            query=dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
            body=_json_object(raw),
            api_key=headers.get(b"x-api-key"),
        )
        self.calls.append(SandboxCall(method, path, request.query, request.body, request.api_key is not None, self._now))
        try:
            return 200, self._endpoint(method, path, len(raw))(request)
        except _RefusedError as refused:
            return refused.status, {"status": "error", "reason": refused.reason}

    def _endpoint(self, method: str, path: str, size: int) -> Callable[[_Request], Any]:
        if path not in self._routes:
            raise _RefusedError(404, "not found")
        allowed, endpoint = self._routes[path]
        if method != allowed:
            raise _RefusedError(405, f"{path} takes {allowed} only")
        if size > _MAX_BODY_BYTES:
            raise _RefusedError(413, "body is too large")
        return endpoint

    # --- endpoints: the catalogue

    def _get_countries(self, _: _Request) -> list[dict[str, Any]]:
        flags = {"visible": 1, "retry": 1, "rent": 1, "multiService": 1}
        return [
            {"id": country.id, "rus": country.name, "eng": country.name, "chn": country.name, **flags}
            for country in self._countries.values()
        ]

    def _get_numbers_status(self, request: _Request) -> list[dict[str, Any]]:
        text = request.query.get("country", "")
        country = self._find_country(text)
        if country is None:
            if text.isdecimal():  # a country that exists upstream, with nothing on offer
                return []
            raise _RefusedError(500, "country is missing or unknown")
        return [
            {
                "key": code,
                "text": name,
                "value": code,
                "count": str(int(self._hash("count", country.id, code), 16) % 10_000),
                "image": {"avatar": True, "src": f"assets/{code}.png"},
            }
            for code, name in self._services.items()
            if code != _FULL_RENTAL
        ]

    def _get_rental_countries(self, request: _Request) -> list[dict[str, Any]]:
        if self._find_service(request.query.get("service", _FULL_RENTAL)) is None:
            return []
        return [
            {"cc": country.id, "country": country.name, "duration": "2", "price": country.rent_sats} for country in self._countries.values()
        ]

    def _get_price(self, request: _Request) -> dict[str, Any]:
        country_text, service_text = request.query.get("country"), request.query.get("service")
        if country_text is None or service_text is None:
            usual = self._choice()
            return _prices(usual.receive_sats, usual.rent_sats)
        country, service = self._find_country(country_text), self._find_service(service_text)
        if country is None or service is None:
            raise _RefusedError(500, "country or service is unknown")
        receive_sats = _receive_sats(country, service)
        return {
            **_prices(receive_sats, country.rent_sats),
            "query": {"country": country_text, "service": service_text},
            "computed": {
                "price": receive_sats,
                "country": country.id,
                "description": f"sms4sats payment {country_text.upper()} {service_text}",
            },
        }

    def _find_country(self, asked: int | str) -> _Country | None:
        """Find a country by its id, its name or its ISO code of two letters, in any case."""
        text = str(asked).strip().lower()
        if text in (str(AUTO_SELECT), "auto-select"):
            return self._choice()
        for country in self._countries.values():
            if text in (str(country.id), country.name.lower(), *country.other_names):
                return country
        return None

    def _country_of(self, order: SandboxOrder) -> _Country:
        return next(country for country in self._countries.values() if country.id == order.country)

    def _choice(self) -> _Country:
        """Return the country that auto-select ends in."""
        return self._countries.get(_DEFAULT_COUNTRY) or next(iter(self._countries.values()))

    def _find_service(self, asked: str) -> str | None:
        """Find a service's code by the code or by (part of) the name, in any case."""
        text = asked.strip().lower()
        named = [code for code, name in self._services.items() if name.strip().lower() == text]
        if text in self._services or (not named and re.fullmatch("[a-z]{2,3}", text)):
            return text  # the real catalogue has 1,700 codes, and codes it does not know it passes on
        partly_named = [code for code, name in self._services.items() if text and text in name.lower()]
        return next(iter(named + partly_named), None)

    # --- endpoints: orders

    def _create_order(self, request: _Request) -> dict[str, Any]:
        asked = request.fields.get("country")
        country = self._find_country(asked) if isinstance(asked, int | str) and not isinstance(asked, bool) else None
        service_text = request.field("service", str)
        service = None if service_text is None else self._find_service(service_text)
        if country is None or service is None:
            raise _RefusedError(500, "country or service is missing or unknown")
        rental, network_phone = request.field("isRental", bool), request.field("realphone", bool)
        amount_sats = _receive_sats(country, service)
        if rental:
            amount_sats = country.rent_sats
        elif network_phone:
            amount_sats = _NETWORK_PHONE_SATS
        return self._place(
            request,
            kind=OrderKind.rental if rental else OrderKind.receive,
            amount_sats=amount_sats,
            description=f"sms4sats payment {country.name} {service}",
            details={"country": country.id, "service": service_text, "ref": request.field("ref", str)},
        )

    def _create_send_order(self, request: _Request) -> dict[str, Any]:
        phone, message = request.field("phone", str), request.field("message", str)
        if phone is None or re.fullmatch(r"\+[1-9][0-9]{6,14}", phone) is None:
            raise _RefusedError(500, "phone is missing, or not in E.164")
        if not message or len(message) > _MAX_MESSAGE_LENGTH:
            raise _RefusedError(500, f"message is missing, or longer than {_MAX_MESSAGE_LENGTH} characters")
        return self._place(
            request,
            kind=OrderKind.send,
            amount_sats=_SEND_SATS,
            description="sms4sats send payment",
            details={
                "phone": phone,
                "message": message,
                "webhook_url": request.field("webhookUrl", str),
                "ref": request.field("ref", str),
            },
        )

    def _fund(self, request: _Request) -> dict[str, Any]:
        api_key = self._account(request)
        amount_sats = request.fields.get("amount")
        if type(amount_sats) is not int or amount_sats <= 0:
            raise _RefusedError(500, "backend error")
        details = {"api_key": api_key}
        return self._place(request, kind=OrderKind.fund, amount_sats=amount_sats, description="fund account", details=details)

    def _place(self, request: _Request, *, kind: OrderKind, amount_sats: int, description: str, details: dict[str, Any]) -> dict[str, Any]:
        """Place an order; charge the account at once if ``immediate`` is asked for."""
        prepaid = kind is not OrderKind.fund and bool(request.field("immediate", bool))
        if prepaid:
            details["api_key"] = self._charge(request, amount_sats)
        order_id = self._hash("order", len(self._orders))
        order = SandboxOrder(id=order_id, kind=kind, amount_sats=amount_sats, prepaid=prepaid, created_at=self._now, **details)
        if not prepaid:
            order.payreq = self._invoice(order, description)
        self._orders[order_id] = order
        if prepaid:
            self._receive_payment(order, self._now)
        if self._timeline is not None:
            order.timeline = self._timeline if isinstance(self._timeline, Timeline) else self._timeline(order)
        self._plan(order)
        return {"status": "OK", "orderId": order_id, "payreq": order.payreq or "paid"}

    def _order_status(self, request: _Request) -> dict[str, Any]:
        order = self._orders.get(request.query.get("orderId", ""))
        if order is None:
            raise _RefusedError(500, "order not found")
        reply: dict[str, Any] = {"status": "OK", "paid": order.paid_at is not None}
        if order.code is not None:
            reply["code"] = order.code
        if order.number is not None and order.number_at is not None:
            reply |= {"id": order.activation_id, "number": int(order.number), "timestamp": self._milliseconds(order.number_at)}
            reply |= {"country": self._country_of(order).name, "service": order.service}
        if order.sms_status is not None and order.paid_at is not None:
            reply |= {"id": order.activation_id, "smsStatus": order.sms_status, "timestamp": self._milliseconds(order.paid_at)}
        if order.error is not None:
            reply["error"] = order.error
        return reply

    def _cancel_order(self, request: _Request) -> dict[str, Any]:
        order = self._orders.get(request.query.get("orderId", ""))
        if order is None or order.kind is not OrderKind.receive or order.codes:
            raise _RefusedError(500, _CANNOT_CANCEL)
        if _to_microsecond(self._now - order.created_at) < CANCEL_GATE:
            raise _RefusedError(500, _TOO_EARLY)
        if order.ended_at is None:
            order.cancelled_at = self._now
            self._end(order, self._now, CANCELED if self._says_ended else None)
        return {"status": "OK"}

    # --- endpoints: accounts

    def _get_balance(self, request: _Request) -> dict[str, Any]:
        return {"status": "OK", "balance": self._balances[self._account(request)]}

    def _get_history(self, request: _Request) -> dict[str, Any]:
        api_key = self._account(request)
        fundings = [
            order
            for order in self._orders.values()
            if order.kind is OrderKind.fund and order.api_key == api_key and order.paid_at is not None
        ]
        return {
            "status": "OK",
            "totalAmount": sum(order.amount_sats for order in fundings),
            "orders": [
                {
                    "amount": order.amount_sats,
                    "createdAt": self._milliseconds(order.created_at),
                    "desc": "fund account",
                    "description": "fund account",
                    "holdinvoice": True,
                    "preimage": self._preimage(order),
                    "preimageHash": _hash_of_preimage(self._preimage(order)),
                    "price": order.amount_sats,
                    "userId": api_key,
                }
                for order in fundings
            ],
        }

    def _account(self, request: _Request) -> str:
        if not request.api_key:
            raise _RefusedError(400, "X-API-Key header is missing.")
        if request.api_key not in self._balances:
            raise _RefusedError(401, "X-API-Key is not valid.")
        return request.api_key

    def _charge(self, request: _Request, amount_sats: int) -> str:
        api_key = self._account(request)
        if self._balances[api_key] < amount_sats:
            raise _RefusedError(500, "not enough balance")
        self._balances[api_key] -= amount_sats
        return api_key

    # --- what the seed decides

    def _hash(self, *what: object) -> str:
        return hashlib.sha256(repr((self._seed, *what)).encode()).hexdigest()

    def _preimage(self, order: SandboxOrder) -> str:
        return self._hash("preimage", order.id)

    def _invoice(self, order: SandboxOrder, description: str) -> str:
        return _bolt11(
            amount_sats=order.amount_sats,
            timestamp=self._milliseconds(order.created_at) // 1000,
            payment_hash=bytes.fromhex(_hash_of_preimage(self._preimage(order))),
            payment_secret=bytes.fromhex(self._hash("secret", order.id)),
            description=description,
            expiry=int(PAYMENT_WINDOW),
        )


def _named(number: int, name: str) -> _Country:
    """Return the sandbox's own country of this id under another name, or a new one."""
    own = next((country for country in _COUNTRIES if country.id == number), None)
    return _Country(number, name) if own is None else attrs.evolve(own, name=name)


def _prices(receive_sats: int, rent_sats: int) -> dict[str, Any]:
    return {"receive": str(receive_sats), "send": _SEND_SATS, "rent": rent_sats, "s4s": str(_NETWORK_PHONE_SATS)}


def _receive_sats(country: _Country, service: str) -> int:
    return country.receive_sats + _SERVICE_SURCHARGE_SATS.get(service, 0)


def _require(order: SandboxOrder, condition: bool, otherwise: str) -> None:  # noqa: FBT001 - a condition, not a flag
    if not condition:
        msg = f"order {mask(order.id)} does not allow this: {otherwise}"
        raise ValueError(msg)


def _loop_time() -> float | None:
    try:
        return anyio.current_time()
    except RuntimeError:  # no loop is running
        return None


def _to_microsecond(seconds: float) -> float:
    """Round away what adding up binary fractions leaves over: 0.1 + 0.2 s is 0.3 s."""
    return round(seconds, 6)


def _hash_of_preimage(preimage: str) -> str:
    return hashlib.sha256(bytes.fromhex(preimage)).hexdigest()


def _json_object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


# --- the ASGI protocol -------------------------------------------------------------------------------------------------------------


async def _live(receive: _Receive, send: _Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _read_body(receive: _Receive) -> bytes | None:
    """Read a request to its end, but keep no more of its body than shows that it is too large; ``None`` if the caller has gone."""
    raw = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        raw = (raw + part)[: _MAX_BODY_BYTES + 1]
        if not message.get("more_body", False):
            return raw


async def _reply(send: _Send, status: int, value: Any) -> None:
    raw = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json; charset=utf-8"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


# --- invoices (BOLT 11) ------------------------------------------------------------------------------------------------------------

_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_MULTIPLIERS = (("", 100_000_000), ("m", 100_000), ("u", 100))
"""The unit each multiplier stands for, in satoshis; a nano-bitcoin is a tenth of one."""
_FEATURES = 1 << 8 | 1 << 14
"""Variable-length onion and payment secret, both required."""


def _bolt11(*, amount_sats: int, timestamp: int, payment_hash: bytes, payment_secret: bytes, description: str, expiry: int) -> str:
    """Return an invoice that every decoder reads, and nobody can pay: its signature is made up."""
    prefix = "lnbc" + _shortest_amount(amount_sats)
    words = [
        *_words(timestamp, 7),
        *_tagged("p", _byte_words(payment_hash)),
        *_tagged("s", _byte_words(payment_secret)),
        *_tagged("d", _byte_words(description.encode())),
        *_tagged("x", _words(expiry, 3)),
        *_tagged("9", _words(_FEATURES, 3)),
        *_byte_words(hashlib.sha512(payment_hash).digest() + b"\0"),
    ]
    return prefix + "1" + "".join(_CHARSET[word] for word in words + _checksum(prefix, words))


def _shortest_amount(sats: int) -> str:
    for multiplier, unit in _MULTIPLIERS:
        if sats % unit == 0:
            return f"{sats // unit}{multiplier}"
    return f"{sats * 10}n"


def _words(value: int, count: int) -> list[int]:
    """Return a number as words of 5 bits, the highest first."""
    return [value >> 5 * place & 31 for place in reversed(range(count))]


def _byte_words(raw: bytes) -> list[int]:
    """Return bytes as words of 5 bits, the last one filled up with zero bits."""
    count = -(-len(raw) * 8 // 5)
    return _words(int.from_bytes(raw, "big") << count * 5 - len(raw) * 8, count)


def _tagged(tag: str, words: list[int]) -> list[int]:
    return [_CHARSET.index(tag), *_words(len(words), 2), *words]


def _checksum(prefix: str, words: list[int]) -> list[int]:
    """Return the six words that end a bech32 string (BIP 173)."""
    check = 1
    for word in [*(ord(c) >> 5 for c in prefix), 0, *(ord(c) & 31 for c in prefix), *words, 0, 0, 0, 0, 0, 0]:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ word
        for place, generator in enumerate(_GENERATORS):
            if top >> place & 1:
                check ^= generator
    return _words(check ^ 1, 6)
