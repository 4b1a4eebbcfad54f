"""The client: one thin coroutine for each endpoint, and what an endpoint may ask of its arguments."""

from __future__ import annotations  # anyio loads its parts when they are named: not at our import

import inspect
import logging
import math
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import anyio

from sms4sats_async.errors import JournalError, OutcomeUnknown, PriceTooHigh, Sms4SatsError
from sms4sats_async.models import (
    Country,
    History,
    Order,
    OrderKind,
    OrderStatus,
    Price,
    RentalCountry,
    Service,
    balance_sats,
    confirmation,
    mask,
    order_id_in,
)
from sms4sats_async.shelter import sheltered
from sms4sats_async.tracing import Exchange
from sms4sats_async.transport import LIST_LIMIT, AsyncBaseTransport, Call, Repeat, Secret, Transport

T = TypeVar("T")

BASE_URL = "https://api2.sms4sats.com"
"""https://docs.sms4sats.com/api-reference"""
JOURNAL_GRACE = 10.0
"""Seconds that a cancelled caller waits for the disk to have its order."""
MAX_SECONDS = 1e9
MAX_MESSAGE_LENGTH = 140
"""Characters in one SMS (docs, create-send-order)."""

_logger = logging.getLogger(__name__)


class Keeper(Protocol):
    """What a client and its watchers ask of a journal. Only what is awaited waits for the disk, and can fail."""

    async def intend(
        self, kind: OrderKind, *, country: int | str | None, service: str | None, price_sats: int | None, prepaid: bool
    ) -> int:
        """Write down that a call is about to be sent; return what the next three know it by."""
        ...

    async def placed(self, row: int, order: Order) -> None:
        """Write down the order that came of it. Where that fails, it is tried again later, and so is the next."""
        ...

    async def left(self, row: int) -> None:
        """Write down that nobody knows what came of it."""
        ...

    def dropped(self, row: int) -> None:
        """Forget it: it has surely come to nothing."""
        ...

    def watched(self, order: Order, *, bare: bool) -> None:
        """Note that an order is being watched; ``bare``: only its id is known."""
        ...

    def saw(self, order_id: str, *, paid: bool, number: str | None, code: str | None, cancel: str | None) -> None:
        """Note what is known of an order."""
        ...

    def ended(self, order_id: str, end: str) -> None:
        """Note how an order ended."""
        ...

    def released(self, order_id: str, *, watched: bool = False) -> None:
        """Note that an open order is let go of; ``watched``: by somebody who has watched it until now."""
        ...


class Client:
    """The sms4sats HTTP API, for asyncio and trio.

    ::

        async with Client() as client:
            order = await client.create_order(187, "tg")

    A client belongs to the event loop it is first used in, and can be used by any number of tasks of that loop at once.

    Args:
        api_key: the key of a prepaid account. It is sent to ``base_url`` only, and only with the calls that need it.
        base_url: where the API is: https, or plain http to a loopback or .onion host.
        timeout: seconds for one attempt, all in all, however slowly the bytes come; half of it for making a connection. Waiting for
            a free one does not count.
        max_connections: how many requests are under way at once at the most; further ones wait in order.
        attempts: how often a call is tried, the first time included. What may be tried again is said by each coroutine.
        proxy: the address of an http, https or SOCKS proxy (SOCKS needs the extra ``socks``).
        trust_env: heed ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``.
        transport: any httpx transport to be used in place of our own connections. You close it. As nobody can prove what it has sent,
            every failure of a call that spends is then :class:`OutcomeUnknown`.
        on_order: a plain function, called with each :class:`Order` as soon as its reply is read; what it raises is logged.
        journal: a :class:`Journal`. Each order is on disk before its caller, or ``on_order``, has it. You close it.
        ssl_context: what verifies the server in place of httpx's own: for a certificate authority of your own, or a client's certificate.
        on_exchange: a plain function, called with one :class:`Exchange` for each request, once, when it is over, whoever made it and
            however it ended: for counters and logs. What it raises is logged. What is not over yet is counted by ``in_flight``.

    Every coroutine raises :class:`Sms4SatsError` as the module ``errors`` draws it, ``ValueError`` or ``TypeError`` for a bad argument
    before anything is sent, and ``RuntimeError`` once the client is closed, or when it is used in a second event loop.

    Attributes:
        orphaned_orders: orders that were placed, but whose caller was cancelled before the call could return them. Of
            :func:`receive_code` and :func:`send_sms` also those that the caller's own error has ended.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str = BASE_URL,
        timeout: float = 10.0,
        max_connections: int = 20,
        attempts: int = 4,
        proxy: str | None = None,
        trust_env: bool = True,
        transport: AsyncBaseTransport | None = None,
        on_order: Callable[[Order], object] | None = None,
        journal: Keeper | None = None,
        ssl_context: ssl.SSLContext | None = None,
        on_exchange: Callable[[Exchange], object] | None = None,
    ) -> None:
        key = _secret(api_key)
        del api_key  # frames are printed with what they hold
        _check_seconds("timeout", timeout)
        check_count("max_connections", max_connections)
        check_count("attempts", attempts)
        _check_function("on_order", on_order)
        _check_function("on_exchange", on_exchange)
        if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("ssl_context must be an ssl.SSLContext")
        if journal is not None and not inspect.iscoroutinefunction(getattr(journal, "intend", None)):
            raise TypeError("journal must be a Journal")
        if transport is not None and not inspect.iscoroutinefunction(getattr(transport, "handle_async_request", None)):
            raise TypeError("transport must be an httpx.AsyncBaseTransport (of a sandbox, it is sandbox.transport())")
        self._transport = Transport(
            api_key=key,
            base_url=base_url,
            timeout=timeout,
            max_connections=max_connections,
            attempts=attempts,
            proxy=proxy,
            trust_env=trust_env,
            transport=transport,
            ssl_context=ssl_context,
            on_exchange=on_exchange,
        )
        self._on_order = on_order
        self._journal = journal
        self.orphaned_orders: list[Order] = []

    def __repr__(self) -> str:
        if not hasattr(self, "_transport"):  # a bad argument: tracebacks show what never came to be
            return "<Client>"
        return f"<Client {self._transport.base_url}{' closed' if self.is_closed else ''}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client. Its running watchers end with :class:`OrderUnresolved`, a call that spends comes to its end first (10 s)."""
        await self._transport.aclose()

    @property
    def is_closed(self) -> bool:
        """Was the client closed?"""
        return self._transport.closed

    @property
    def journal(self) -> Keeper | None:
        """The journal that was given; ``None`` without one."""
        return self._journal

    @property
    def in_flight(self) -> int:
        """How many requests are under way now, those of watchers and batches included."""
        return self._transport.in_flight

    # --- the catalogue ---------------------------------------------------------------------------------------------------------

    async def is_available(self) -> bool:
        """Ask GET / once: True when anything at all says 2xx, False for any other answer and for none."""
        try:
            await self._transport.send(Call("GET", "/", lambda _: None, json=False, limit=LIST_LIMIT), attempts=1)
        except Sms4SatsError:
            return False
        return True

    async def get_countries(self) -> list[Country]:
        """Return the countries that numbers can be had from. A read: repeated after a failure."""
        return await self._transport.send(Call("GET", "/getCountries", Country.list_from_wire, limit=LIST_LIMIT))

    async def get_services(self, country: int | str) -> list[Service]:
        """Return the services that codes can be received from with a number of this country; maybe none. A read.

        Args:
            country: its id (187; 0 is Russia; 999 lets the service choose), or a name, sent as it is. Prefer the id.
        """
        query = {"country": _country(country)}
        return await self._transport.send(Call("GET", "/getnumbersstatus", Service.list_from_wire, query, limit=LIST_LIMIT))

    async def get_rental_countries(self, service: str = "full") -> list[RentalCountry]:
        """Return the countries that numbers can be rented from for a service, or, by default, for all of them. A read."""
        _check_text("service", service)
        query = {"service": service}
        return await self._transport.send(Call("GET", "/getRentalCountries", RentalCountry.list_from_wire, query, limit=LIST_LIMIT))

    async def get_price(self, country: int | str | None = None, service: str | None = None) -> Price:
        """Return the general prices, and, when both are given, the price of this service in this country. A read."""
        query: dict[str, str] = {}
        if country is not None:
            query["country"] = _country(country)
        if service is not None:
            _check_text("service", service)
            query["service"] = service
        return await self._transport.send(Call("GET", "/price", Price.from_wire, query))

    # --- orders ----------------------------------------------------------------------------------------------------------------

    async def create_order(
        self,
        country: int | str,
        service: str,
        *,
        rental: bool = False,
        real_phone: bool = False,
        ref: str | None = None,
        immediate: bool = False,
        max_sats: int | None = None,
    ) -> Order:
        """Order a number to receive a code with, or a rental, and return the order with its hold invoice.

        Without ``immediate`` the order costs nothing until its invoice is paid, so it is tried again when it surely was not sent, and
        once more when its outcome is unknown. With ``immediate`` it is charged to the balance of the API key at once: it is then sent
        once, unless it surely was not sent, and goes on to its end for at most 10 s when the caller is cancelled (see
        ``orphaned_orders``).

        Args:
            country: its id (187; 0 is Russia; 999 lets the service choose), or a name, sent as it is. Prefer the id.
            service: its code ("tg"); names are sent as they are, and some are ambiguous. For a rental "full" means all services.
            rental: rent the number; there is no hold window then, no cancel, and several codes can come.
            real_phone: a phone of the service's own network.
            ref: a Lightning address that gets a share (the service says 10 %).
            immediate: charge the prepaid balance; needs an ``api_key``.
            max_sats: the most it may cost. The invoice's own amount is checked; a prepaid order asks for the price first.

        Raises:
            PriceTooHigh: above ``max_sats``, or of unknown price. Its ``order`` is placed and unpaid, or ``None`` for a prepaid one.
            OutcomeUnknown: with ``immediate``: it may have been charged, and its reply was lost.
        """
        _country(country)
        _check_text("service", service)
        body: dict[str, Any] = {"country": country, "service": service}
        _set_flags(body, isRental=rental, realphone=real_phone, immediate=immediate)
        _set_text(body, "ref", ref)
        self._check_spending(immediate=immediate, max_sats=max_sats)
        kind = OrderKind.rental if rental else OrderKind.receive
        price_sats = None
        if immediate and max_sats is not None:
            price = await self.get_price(country, service)
            price_sats = price.rent_sats if rental else price.s4s_sats if real_phone else price.sats
            _check_price(price_sats, max_sats)
        what: dict[str, Any] = {"price_sats": price_sats, "country": country, "service": service}
        return await self._place("/createorder", body, kind, immediate=immediate, max_sats=max_sats, **what)

    async def create_send_order(
        self,
        phone: str,
        message: str,
        *,
        immediate: bool = False,
        webhook_url: str | None = None,
        ref: str | None = None,
        max_sats: int | None = None,
    ) -> Order:
        """Order the sending of one SMS, and return the order with its hold invoice. What is repeated: as for :meth:`create_order`.

        Args:
            phone: where to, in E.164 with ``+``.
            message: the text, at most 140 characters.
            immediate: charge the prepaid balance; needs an ``api_key``.
            webhook_url: an address of yours that is told of each change. The call names no order: use one address for each.
            ref: a Lightning address that gets a share.
            max_sats: the most it may cost, as for :meth:`create_order`.
        """
        _check_text("phone", phone)
        if re.fullmatch(r"\+[1-9][0-9]{6,14}", phone) is None:
            raise ValueError("phone must be in E.164: a + and 7 to 15 digits, with no blanks")
        _check_text("message", message)
        if len(message) > MAX_MESSAGE_LENGTH:
            raise ValueError(f"message has {len(message)} characters, and {MAX_MESSAGE_LENGTH} is the most")
        body: dict[str, Any] = _Hidden(message=message, phone=phone)
        _set_flags(body, immediate=immediate)
        _set_text(body, "webhookUrl", webhook_url, name="webhook_url")
        if webhook_url is not None and re.match(r"https?://[^/\s]", webhook_url, re.IGNORECASE) is None:
            raise ValueError("webhook_url must be an http or https address")
        _set_text(body, "ref", ref)
        self._check_spending(immediate=immediate, max_sats=max_sats)
        del phone, message, webhook_url  # frames are printed with what they hold
        price_sats = None
        if immediate and max_sats is not None:
            price_sats = (await self.get_price()).send_sats
            _check_price(price_sats, max_sats)
        return await self._place("/createsendorder", body, OrderKind.send, immediate=immediate, max_sats=max_sats, price_sats=price_sats)

    async def get_order_status(self, order_id: str) -> OrderStatus:
        """Return what the service says of an order. A read: repeated after a failure."""
        call = _status_call(order_id)
        del order_id  # frames are printed with what they hold
        return await self._transport.send(call)

    async def cancel_order(self, order_id: str) -> None:
        """Cancel a receive order, and return when the server confirmed it: its payment goes back. Repeated after a failure.

        The server refuses in the first 2 minutes, and once a code has arrived.

        Raises:
            APIError: the server would not.
        """
        call = _cancel_call(order_id)
        del order_id
        await self._transport.send(call)

    # --- the prepaid account ---------------------------------------------------------------------------------------------------

    async def fund(self, amount_sats: int) -> Order:
        """Order a payment into the prepaid account, in satoshis, and return it with its invoice. It costs nothing until that is paid."""
        check_count("amount_sats", amount_sats)
        self._check_key("fund")
        return await self._place("/fund", {"amount": amount_sats}, OrderKind.fund, keyed=True)

    async def get_balance(self) -> int:
        """Return the balance of the prepaid account in whole satoshis, rounded down. A read."""
        self._check_key("get_balance")
        return await self._transport.send(Call("GET", "/balance", balance_sats, keyed=True))

    async def get_history(self) -> History:
        """Return the payments into the prepaid account; what was bought from it is not told. A read."""
        self._check_key("get_history")
        return await self._transport.send(Call("GET", "/history", History.from_wire, keyed=True, limit=LIST_LIMIT))

    # --- placing an order ------------------------------------------------------------------------------------------------------

    async def _place(
        self,
        path: str,
        body: Mapping[str, Any],
        kind: OrderKind,
        *,
        immediate: bool = False,
        keyed: bool = False,
        max_sats: int | None = None,
        price_sats: int | None = None,
        country: int | str | None = None,
        service: str | None = None,
    ) -> Order:
        placed: list[Order] = []
        wish: dict[str, Any] = {"country": country, "service": service}

        def place(order: Order) -> Order:
            placed.append(order)
            if self._journal is None:  # else it is told of when it is on disk
                self._tell(order)
            return order

        def decode(payload: object) -> Order:
            return place(Order.from_wire(payload, kind=kind, created_at=datetime.now(UTC), immediate=immediate, **wish))

        def bare(order_id: str) -> Order:
            return Order(order_id, kind, prepaid=immediate, created_at=datetime.now(UTC), **wish)

        doubt = "the SMS may have been sent and paid for" if kind is OrderKind.send else "the balance may have been charged"
        call = Call(
            "POST",
            path,
            decode,
            body=body,
            keyed=keyed or immediate,
            repeat=Repeat.SPEND if immediate else Repeat.INVOICE,
            salvage=order_id_in,
            doubt=doubt,
        )
        call.recover = lambda order_id: place(bare(order_id))
        try:
            if self._journal is None:
                order = await self._transport.send(call)
            else:
                intent = await self._journal.intend(kind, price_sats=price_sats, prepaid=immediate, **wish)
                order = await self._remembered(self._journal, intent, call, placed, bare)
        except BaseException as error:
            self._adopt(placed, error)
            raise
        if max_sats is not None and not (immediate and order.prepaid):  # that one asked for the price before
            _check_price(order.amount_sats, max_sats, order)
        return order

    async def _remembered(
        self, journal: Keeper, intent: int, call: Call[Order], placed: list[Order], bare: Callable[[str], Order]
    ) -> Order:
        """Place an order whose intent is in the journal; it is there itself before anybody has it, whatever happens to the caller."""
        failure: BaseException | None = None
        salvaged: Order | None = None
        try:
            await self._transport.send(call)
        except BaseException as error:  # noqa: BLE001 - held back, not swallowed
            failure = error
            if isinstance(error, OutcomeUnknown) and error.order_id is not None:
                salvaged = bare(error.order_id)
        order = placed[0] if placed else salvaged

        async def write() -> None:
            try:
                await _write_down(journal, intent, order, in_doubt=call.in_doubt)
            finally:
                for one in placed:
                    self._tell(one)

        try:
            await sheltered(write, grace=JOURNAL_GRACE)
        except BaseException:
            if salvaged is not None:  # the error that has its id is not raised any more
                placed.append(salvaged)
                self._tell(salvaged)
            if failure is None or isinstance(failure, Exception):  # else that is raised, and says the same
                raise
        if failure is not None:
            try:
                raise failure
            finally:
                del failure
        return placed[0]

    def _tell(self, order: Order) -> None:
        if self._on_order is None:
            return
        try:
            self._on_order(order)
        except Exception:
            _logger.exception("on_order failed for order %s", mask(order.id))

    def _adopt(self, placed: list[Order], error: BaseException) -> None:
        """Keep the orders whose caller will not get them."""
        self.orphaned_orders += placed
        for order in placed:
            if self._journal is not None:
                self._journal.released(order.id)
            error.add_note(f"order {mask(order.id)} was placed: it is in client.orphaned_orders, and can be watched or cancelled")

    def _check_spending(self, *, immediate: bool, max_sats: int | None) -> None:
        if immediate:
            self._check_key("immediate=True")
        if max_sats is not None:
            check_count("max_sats", max_sats)

    def _check_key(self, what: str) -> None:
        if not self._transport.has_key:
            raise ValueError(f"{what} needs an api_key")


async def _write_down(journal: Keeper, intent: int, order: Order | None, *, in_doubt: bool) -> None:
    """Write down what came of an intent; where that cannot be, the order matters more."""
    try:
        if order is not None:
            await journal.placed(intent, order)
        elif in_doubt:
            await journal.left(intent)
        else:
            journal.dropped(intent)
    except JournalError as problem:
        what = "an order of unknown outcome" if order is None else f"order {mask(order.id)}"
        _logger.warning("%s was placed, and is not in the journal yet: %s", what, problem)


class Probe:
    """What a watcher needs of a client: one look or one cancel at a time, made once, and a sleep that ends when the client is closed.

    ``departing`` is awaited whenever a request is about to leave, with its connection at hand; ``departed_at`` is when the last one left.
    """

    __slots__ = ("_departing", "_transport", "departed_at")

    def __init__(self, client: Client, *, departing: Callable[[], Awaitable[None]] | None = None) -> None:
        self._transport = client._transport  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - of the same room
        self._departing = departing
        self.departed_at = -math.inf

    @property
    def lanes(self) -> int:
        """How many requests can be under way at once."""
        return self._transport.max_connections

    @property
    def has_key(self) -> bool:
        """Has the client an API key?"""
        return self._transport.has_key

    def check_loop(self) -> None:
        """Raise ``RuntimeError`` if the client is of another event loop."""
        self._transport.check_loop()

    async def look(self, order_id: str, saw: Callable[[OrderStatus], object]) -> None:
        """Ask for an order's status, once; ``saw`` is told of it as soon as it is read, so that whoever is cancelled just then has it."""
        call = _status_call(order_id, saw)
        del order_id
        await self._transport.send(call, attempts=1, departing=self._depart)

    async def cancel(self, order_id: str) -> None:
        """Ask for an order's cancel, once."""
        call = _cancel_call(order_id)
        del order_id
        await self._transport.send(call, attempts=1, departing=self._depart)

    async def _depart(self) -> None:
        if self._departing is not None:
            await self._departing()
        self.departed_at = anyio.current_time()

    async def nap(self, scope: anyio.CancelScope) -> None:
        """Sleep until the scope's deadline, or its cancel; raise ``ClosedError`` once the client is closed."""
        await self._transport.nap(scope)


class _Hidden(dict[str, Any]):
    """A body whose repr tells nothing: frames are printed with what they hold."""

    def __repr__(self) -> str:
        return "{..}"


def _status_call(order_id: str, saw: Callable[[OrderStatus], object] | None = None) -> Call[OrderStatus]:
    check_order_id(order_id)

    def decode(payload: object) -> OrderStatus:
        status = OrderStatus.from_wire(payload, order_id)
        if saw is not None:
            saw(status)
        return status

    return Call("GET", "/orderstatus", decode, {"orderId": order_id}, order_id=order_id)


def _cancel_call(order_id: str) -> Call[None]:
    check_order_id(order_id)
    return Call("GET", "/cancelorder", confirmation, {"orderId": order_id}, order_id=order_id)


# --- arguments ---------------------------------------------------------------------------------------------------------------------


def check_order_id(order_id: object) -> None:
    """Raise unless this can be an order's id."""
    if isinstance(order_id, Order):
        raise TypeError("order_id must be a str: pass order.id")
    _check_text("order_id", order_id)


def _secret(api_key: str | None) -> Secret | None:
    if api_key is None:
        return None
    _check_text("api_key", api_key)
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ValueError("api_key must be printable ASCII without blanks")
    return Secret(api_key)


def _check_function(name: str, value: object) -> None:
    if value is not None and (not callable(value) or inspect.iscoroutinefunction(value)):
        raise TypeError(f"{name} must be a plain function: it is called, and not awaited")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty")


def check_count(name: str, value: object) -> None:
    """Raise unless this is a positive int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be positive, not {value}")


def _check_seconds(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value < MAX_SECONDS:
        raise ValueError(f"{name} must be positive, and less than {MAX_SECONDS:g}")


def _country(country: object) -> str:
    """The country as a query has it. 0 is a country."""
    if isinstance(country, str):
        _check_text("country", country)
    elif not isinstance(country, int) or isinstance(country, bool):
        raise TypeError(f"country must be an int or a str, not {type(country).__name__}")
    elif country < 0:
        raise ValueError(f"country must not be negative, not {country}")
    return str(country)


def _set_flags(body: dict[str, Any], **flags: object) -> None:
    """Put flags into a body that are set; what is not set is not sent."""
    names = {"isRental": "rental", "realphone": "real_phone"}
    for field, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{names.get(field, field)} must be a bool, not {type(flag).__name__}")
        if flag:
            body[field] = True


def _set_text(body: dict[str, Any], field: str, value: object, *, name: str | None = None) -> None:
    if value is not None:
        _check_text(name or field, value)
        body[field] = value


def _check_price(price_sats: int | None, max_sats: int, order: Order | None = None) -> None:
    if price_sats is not None and price_sats <= max_sats:
        return
    found = "the price is unknown" if price_sats is None else f"the price is {price_sats} sat"
    state = "no order was placed" if order is None else "the order is placed, and costs nothing unless its invoice is paid"
    raise PriceTooHigh(
        f"{found}, and max_sats is {max_sats}; {state}",
        order_id=None if order is None else order.id,
        price_sats=price_sats,
        max_sats=max_sats,
        order=order,
    )
