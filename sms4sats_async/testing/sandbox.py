"""The service in memory for a test: each order goes as its script says, and the test sees what has become of it."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl

import anyio
import attrs

from sms4sats_async.client import BASE_URL, Client, Keeper
from sms4sats_async.models import Order, OrderKind, mask
from sms4sats_async.sandbox import Sandbox, SandboxCall, SandboxOrder, Timeline
from sms4sats_async.testing.scripts import ABOUT_AN_ORDER, PLACES_AN_ORDER, Script, Trouble, Words
from sms4sats_async.tracing import Exchange

if TYPE_CHECKING:
    import httpx

API_KEY = "sandbox-key"
"""The key of the account that the sandbox knows, and that its clients have."""
BALANCE_SATS = 1_000_000
"""What is on that account when a test begins."""
WALLET_LOOKS = 1.0
"""Seconds from one look of the wallet at a payment to the next."""

_Scope: TypeAlias = MutableMapping[str, Any]
_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]


class PaymentReturned(Exception):
    """The service gave the money back: what a wallet tells at the end of a hold invoice that was cancelled."""


class _ConnectionLost(Exception):
    """No reply goes out: the script says so."""


class ScriptedSandbox(Sandbox):
    """A :class:`Sandbox` that goes by scripts.

    ::

        sandbox.script("no code")                               # every order from now on
        sandbox.script("no number", Script.code(at=90))         # the next order, and then all others

    Until it is told otherwise each order is paid after 2 s, and its code comes 45 s after that. It has one prepaid account, of
    1,000,000 sat.

    Args:
        clock: a function that returns seconds; ``None`` for the running loop's.
        seed: makes another world of ids, numbers and codes.

    Attributes:
        pays_itself: invoices are paid by scripts. ``False`` for a test in which the program pays, by :meth:`wallet`; it applies to orders
            placed after it was set.
    """

    def __init__(self, *, clock: Callable[[], float] | None = None, seed: int | str = 0) -> None:
        # Whether the service says so when it has ended an order is not known. With "no code" a test wants the watcher's window to end.
        super().__init__(timeline=self._begin, clock=clock, accounts={API_KEY: BALANCE_SATS}, says_ended=False, seed=seed)
        self.pays_itself = True
        self._time = clock or anyio.current_time
        self._scripts: list[Script] = [Script()]
        self._script_of: dict[str, Script] = {}
        self._troubles: list[tuple[float, Trouble]] = []

    # --- scripts

    def script(self, *scripts: Script | Words) -> None:
        """Say how the orders go that are placed from now on: each as the next script says, and all further ones as the last.

        Raises:
            ValueError: none, or words that there are no script for; the error has those that there are.
        """
        if not scripts:
            raise ValueError("a script is missing")
        self._scripts = [Script.of(script) for script in scripts]

    def trouble(self, trouble: Trouble) -> None:
        """Let all requests meet this trouble, counted from now; requests that place orders, or ask for prices, as well.

        Raises:
            TypeError: it is no :class:`Trouble`.
        """
        if not isinstance(trouble, Trouble):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"trouble for all is a value, such as Trouble.unavailable(), not {trouble!r}; words are for script()")
        self._troubles.append((self._time(), trouble))

    def _begin(self, order: SandboxOrder) -> Timeline:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self._script_of[order.id] = script
        return script.timeline if self.pays_itself else attrs.evolve(script.timeline, paid_after=None)

    # --- programs

    def client(
        self,
        *,
        api_key: str | None = None,
        base_url: str = BASE_URL,
        timeout: float = 10.0,
        max_connections: int = 20,
        attempts: int = 4,
        proxy: str | None = None,
        trust_env: bool = True,
        transport: object = None,
        on_order: Callable[[Order], object] | None = None,
        journal: Keeper | None = None,
        ssl_context: object = None,
        on_exchange: Callable[[Exchange], object] | None = None,
    ) -> Client:
        """Return a client of this sandbox. It takes what :class:`Client` takes, so that it can stand in for it.

        For a program that makes its own: ``monkeypatch.setattr("bot.Client", sms4sats_sandbox.client)``. Where it would connect to is
        overruled (``base_url``, ``proxy``, ``trust_env``, ``transport``, ``ssl_context``), and any key is taken for the prepaid account's.
        """
        del base_url, proxy, trust_env, transport, ssl_context
        return Client(
            api_key=None if api_key is None else API_KEY,
            timeout=timeout,
            max_connections=max_connections,
            attempts=attempts,
            transport=self.transport(),
            on_order=on_order,
            journal=journal,
            on_exchange=on_exchange,
        )

    async def wallet(self, invoice: str) -> None:
        """Pay an invoice as a wallet does: return when the service has taken the money, which it holds until the code has come.

        Raises:
            ValueError: the sandbox has no such invoice, or it cannot be paid any more.
            PaymentReturned: the service gave the money back.
        """
        order = next((order for order in self.orders.values() if order.payreq == invoice), None)
        if order is None:
            raise ValueError("the sandbox has made no such invoice")
        if order.paid_at is None:
            self.pay(order.id)
        while self.orders[order.id].held:  # noqa: ASYNC110 - an order's time is worked out when somebody looks
            await anyio.sleep(WALLET_LOOKS)
        if order.returned:
            raise PaymentReturned(f"the payment for order {mask(order.id)} came back")

    # --- what has become of it

    @property
    def order(self) -> SandboxOrder:
        """The only order that was placed.

        Raises:
            LookupError: none was, or several were.
        """
        orders = list(self.orders.values())
        if len(orders) != 1:
            raise LookupError(f"{len(orders)} orders were placed, and not one")
        return orders[0]

    @property
    def open_orders(self) -> list[SandboxOrder]:
        """Orders of numbers, and of SMS, that nobody has brought to an end: money is held for them, or their invoice can still be paid."""
        return [order for order in self.orders.values() if order.kind in (OrderKind.receive, OrderKind.send) and _is_open(order)]

    def assert_nothing_open(self) -> None:
        """Fail if an order was placed and forgotten.

        Raises:
            AssertionError: it names each of :attr:`open_orders`.
        """
        left = [
            f"\n    {order.kind} order {mask(order.id)}, placed at {order.created_at:g} s: "
            + ("its invoice can still be paid" if order.paid_at is None else f"{order.amount_sats} sat are held")
            for order in self.open_orders
        ]
        if left:
            raise AssertionError(f"orders that were left open: {len(left)}{''.join(left)}")

    # --- the wire

    def transport(self) -> "httpx.AsyncBaseTransport":
        """Return a transport for ``Client(transport=...)``: the sandbox with no network, but with connections that can be lost."""
        import httpx  # noqa: PLC0415 - a server needs no client

        class Wire(httpx.ASGITransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                try:
                    return await super().handle_async_request(request)
                except _ConnectionLost:
                    raise httpx.ReadError("the connection was lost, as the script says", request=request) from None

        return Wire(app=self)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request, as the scripts say."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        trouble = self._trouble_of(scope["path"], query.get("orderId", ""))
        if trouble is not None:
            had_key = any(name.lower() == b"x-api-key" for name, _ in scope["headers"])
            self.calls.append(SandboxCall(scope["method"], scope["path"], query, None, had_key, self._time()))
            await _strike(trouble, send)
            return
        sent: list[_Message] = []
        await super().__call__(scope, receive, _keeping(sent))
        if scope["path"] in PLACES_AN_ORDER and self._is_lost(b"".join(message.get("body", b"") for message in sent)):
            raise _ConnectionLost
        for message in sent:
            await send(message)

    def _is_lost(self, reply: bytes) -> bool:
        """Is this the reply about an order whose buyer does not hear of it? Others may have been placed while it was made."""
        script = self._script_of.get(json.loads(reply or b"{}").get("orderId"))
        return script is not None and script.reply_lost

    def _trouble_of(self, path: str, order_id: str) -> Trouble | None:
        now = self._time()
        troubles = list(self._troubles)
        order = self.orders.get(order_id)
        if order is not None and path in ABOUT_AN_ORDER:
            troubles += [(order.created_at, trouble) for trouble in self._script_of[order.id].troubles]
        return next((trouble for since, trouble in troubles if _strikes(trouble, now - since, path)), None)


def _strikes(trouble: Trouble, after: float, path: str) -> bool:
    return trouble.begins <= after < trouble.begins + trouble.lasts and (trouble.paths is None or path in trouble.paths)


def _is_open(order: SandboxOrder) -> bool:
    return order.held if order.paid_at is not None else order.ended_at is None


def _keeping(sent: list[_Message]) -> _Send:
    async def send(message: _Message) -> None:
        sent.append(message)

    return send


async def _strike(trouble: Trouble, send: _Send) -> None:
    if trouble.status is None:
        raise _ConnectionLost
    headers = [(b"content-type", b"text/html"), (b"content-length", str(len(trouble.body.encode())).encode())]
    if trouble.retry_after is not None:
        headers.append((b"retry-after", str(trouble.retry_after).encode()))
    await send({"type": "http.response.start", "status": trouble.status, "headers": headers})
    await send({"type": "http.response.body", "body": trouble.body.encode()})
