"""The service on a bad day: it holds the truth about every order, counts what it was asked, and answers as badly as a test wants.

    service = Service()
    service.next("/orderstatus", resets, status(503, b"<html>"), None, cut(40))   # what happens to the first looks; None: nothing
    async with service.serving() as server, Client(base_url=server.url) as client:
        order = await client.create_order(187, "tg")
        service.pay(order.id, number_after=5, code_after=60)
        ...
    assert service.charged == [order.id]

A fault is a function that gets the means to answer and the reply that the service would have sent; ``unseen(fault)`` strikes before the
service has done anything, all others after it. So a side effect happens with or without a reply, and a reply can lie. What a client
counts about itself is never asked: the truth is here, in seconds of the loop's clock.
"""

import json
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio

from tests.servers import Headers, Reply, SeenRequest, Server, json_reply, serve

NEVER = float("inf")
WINDOW = 1260.0
"""Seconds from the payment after which the service gives the money back: 21 minutes."""

CANCEL_FROM = 120.0
"""An order's age in seconds from which the service takes a cancel."""

INVOICE = "lnbc15u1" + "q" * 90
"""An invoice over 1,500 sat."""

NO_NUMBER = "No available number, payment request is canceled. Your funds are returned to your wallet automatically."

Fault = Callable[[Reply, bytes], Awaitable[None]]
"""Gets the means to answer and the whole reply that the service would have sent."""

Plan = Callable[[SeenRequest, "Held | None"], Fault | None]
"""Chooses what happens to a request, knowing the order it is about."""


@dataclass(eq=False)
class Held:
    """An order as the service knows it. Times are seconds of the loop's clock; ``NEVER`` for what does not happen."""

    id: str
    kind: str
    created_at: float
    ref: str | None = None
    prepaid: bool = False
    paid_at: float = NEVER
    number_at: float = NEVER
    code_at: float = NEVER
    failed_at: float = NEVER
    """When no number could be had, and the money went back."""
    cancelled_at: float = NEVER
    number: str = "15550001111"
    code: str = "048213"
    window: float = WINDOW
    cancel_from: float = CANCEL_FROM
    """Its age from which the service takes a cancel."""
    looks: list[float] = field(default_factory=list)
    cancels: list[float] = field(default_factory=list)
    most_at_once: int = 0
    """How many requests about it were ever under way at one time."""
    under_way: list[Reply] = field(default_factory=list)

    @property
    def back_at(self) -> float:
        """When the money goes back, if no code came before."""
        return min(self.cancelled_at, self.failed_at, self.paid_at + self.window)

    @property
    def settled_at(self) -> float:
        """When the code arrives and the money is taken, if ever."""
        return self.code_at if self.paid_at <= self.code_at < self.back_at else NEVER

    def shows(self, now: float, *, says_ended: bool) -> dict[str, Any]:
        """The reply of ``/orderstatus``."""
        told: dict[str, Any] = {"status": "OK", "paid": self.paid_at <= now}
        if self.kind == "send":
            return told | ({"smsStatus": "created" if now < self.code_at else "sent"} if told["paid"] else {})
        if min(now, self.back_at) >= self.number_at:
            told |= {"number": int(self.number), "country": "USA", "service": "tg", "id": 1125699791}
        if now >= self.settled_at:
            return told | {"code": self.code}
        if now >= self.failed_at:
            return told | {"error": NO_NUMBER}
        if says_ended and now >= self.back_at:
            return told | {"error": "order canceled"}
        return told


class Service:
    """What the server's script is when truth matters: ``async with service.serving() as server``.

    Args:
        plan: Chooses the fault of each request for which ``next`` left none; None: no fault.
        born: Called with each new order, to say when it is paid, gets its number and its code.
        says_ended: Does a status tell that an order was cancelled or ran out of time? Nobody knows what the real one does.
    """

    def __init__(self, plan: Plan | None = None, *, born: Callable[[Held], object] | None = None, says_ended: bool = True) -> None:
        self._plan = plan
        self._born = born
        self._says_ended = says_ended
        self._next: dict[str, deque[Fault | None]] = {}
        self.orders: dict[str, Held] = {}
        self.requests: list[SeenRequest] = []
        self.asked: Counter[str] = Counter()
        """How many requests each path has had."""
        self.struck = 0
        """How many faults there were."""

    def serving(self) -> Server:
        """The server that this service speaks through."""
        return serve(self)

    def next(self, path: str, *faults: Fault | None) -> None:
        """Say what happens to the next requests for a path, in turn; None lets one pass."""
        self._next.setdefault(path, deque()).extend(faults)

    def order(self, order_id: str = "a" * 32, *, kind: str = "receive", **times: Any) -> Held:
        """Put in an order that was made before, and return it."""
        made = Held(order_id, kind, anyio.current_time(), **times)
        self.orders[order_id] = made
        return made

    def pay(self, order_id: str, *, number_after: float = NEVER, code_after: float = NEVER) -> Held:
        """Pay an order's invoice now; number and code come so many seconds later."""
        held = self.orders[order_id]
        held.paid_at = anyio.current_time()
        held.number_at, held.code_at = held.paid_at + number_after, held.paid_at + code_after
        return held

    @property
    def charged(self) -> list[str]:
        """The orders whose money is taken by now: prepaid ones at once, the others with their code."""
        now = anyio.current_time()
        return [held.id for held in self.orders.values() if held.settled_at <= now or (held.prepaid and held.back_at > now)]

    @property
    def holding(self) -> list[str]:
        """The orders whose money is held now."""
        now = anyio.current_time()
        return [held.id for held in self.orders.values() if held.paid_at <= now < min(held.settled_at, held.back_at)]

    async def __call__(self, request: SeenRequest, reply: Reply) -> None:
        """Do what the request asks for, and answer it, or whatever the fault makes of that."""
        path, about = self._read(request)
        self.requests.append(request)
        self.asked[path] += 1
        waiting = self._next.get(path)
        fault = waiting.popleft() if waiting else self._plan(request, about) if self._plan else None
        with _under_way(about, reply):
            if isinstance(fault, Unseen):
                self.struck += 1
                await fault.fault(reply, json_reply({"status": "error", "reason": "nothing was done"}, 500))
                return
            answer = self._do(path, request, about)
            if fault is None:
                await reply.raw(answer)
            else:
                self.struck += 1
                await fault(reply, answer)

    def _read(self, request: SeenRequest) -> tuple[str, Held | None]:
        url = urlsplit(request.target)
        order_id = parse_qs(url.query).get("orderId", [""])[0]
        return url.path, self.orders.get(order_id)

    def _do(self, path: str, request: SeenRequest, about: Held | None) -> bytes:
        if path in _PLACING:
            return self._place(path, json.loads(request.body))
        if path == "/orderstatus":
            return self._show(about)
        if path == "/cancelorder":
            return self._cancel(about)
        return json_reply(_ELSE[path])

    def _place(self, path: str, asked: dict[str, Any]) -> bytes:
        prepaid = bool(asked.get("immediate"))
        kind = "rental" if asked.get("isRental") else _PLACING[path]
        now = anyio.current_time()
        held = Held(f"{len(self.orders):08x}" * 8, kind, now, asked.get("ref"), prepaid, now if prepaid else NEVER)
        self.orders[held.id] = held
        if self._born is not None:
            self._born(held)
        return json_reply({"status": "OK", "orderId": held.id, "payreq": "paid" if prepaid else INVOICE})

    def _show(self, about: Held | None) -> bytes:
        if about is None:
            return refusal("order not found")
        now = anyio.current_time()
        about.looks.append(now)
        return json_reply(about.shows(now, says_ended=self._says_ended))

    def _cancel(self, about: Held | None) -> bytes:
        if about is None:
            return refusal("order not found")
        now = anyio.current_time()
        about.cancels.append(now)
        if now >= about.settled_at:
            return refusal("code already received")
        if now < about.created_at + about.cancel_from:
            return refusal("order can be canceled after 2 minutes")
        about.cancelled_at = min(about.cancelled_at, now)
        return json_reply({"status": "OK"})


@contextmanager
def _under_way(about: Held | None, reply: Reply) -> Iterator[None]:
    """Count a request about an order as under way, until it is answered or the client has gone away."""
    if about is None:
        yield
        return
    there = about.under_way
    there[:] = [*(one for one in there if not one.client_gone), reply]
    about.most_at_once = max(about.most_at_once, len(there))
    try:
        yield
    finally:
        if reply in there:
            there.remove(reply)


_PLACING = {"/createorder": "receive", "/createsendorder": "send", "/fund": "fund"}

_ELSE: dict[str, Any] = {
    "/": {"status": "OK"},
    "/getCountries": [{"id": 187, "eng": "USA"}],
    "/getnumbersstatus": [{"value": "tg", "text": "Telegram", "count": "3"}],
    "/getRentalCountries": [{"cc": 6, "country": "Indonesia", "duration": "2", "price": 1368}],
    "/price": {"receive": "1500", "send": 3000, "rent": 15000, "s4s": "4000", "computed": {"price": 1500, "country": 187}},
    "/balance": {"status": "OK", "balance": 25000.5},
    "/history": {"status": "OK", "totalAmount": 0, "orders": []},
}


def refusal(reason: str, code: int = 500) -> bytes:
    """The service's own no, with its words."""
    return json_reply({"status": "error", "reason": reason}, code)


@dataclass(frozen=True)
class Unseen:
    """A fault that strikes before the service has done anything."""

    fault: Fault

    async def __call__(self, *_: object) -> None:
        raise AssertionError("the service has done something")


unseen = Unseen


async def closes(reply: Reply, answer: bytes) -> None:
    """End the connection politely instead of answering."""
    await reply.close()


async def resets(reply: Reply, answer: bytes) -> None:
    """End the connection with an RST instead of answering."""
    await reply.reset()


async def stalls(reply: Reply, answer: bytes) -> None:
    """Never answer, until the client goes away."""
    await reply.hang()


async def garbage(reply: Reply, answer: bytes) -> None:
    """Answer with what is no HTTP at all."""
    await reply.raw(b"\x16\x03\x01 what is this?\r\n\r\n")
    await reply.close()


def slow(seconds: float) -> Fault:
    """Answer truthfully, but so much later."""

    async def fault(reply: Reply, answer: bytes) -> None:
        reply.used = True
        with anyio.move_on_after(seconds):
            await reply.hang()
        if not reply.client_gone:
            await reply.raw(answer)

    return fault


def trickles(each: float = 0.3) -> Fault:
    """Answer truthfully, one byte every so many seconds."""
    return lambda reply, answer: reply.trickle(answer, each)


def cut(at: int, *, reset: bool = False) -> Fault:
    """Send so many bytes of the true answer, then end the connection."""
    return lambda reply, answer: reply.cut(answer, at, reset=reset)


def says(data: bytes) -> Fault:
    """Answer with these very bytes."""
    return lambda reply, answer: reply.raw(data)


def status(code: int, body: bytes = b"", headers: Headers = ()) -> Fault:
    """Answer with a status, a body as it is, and headers."""
    head = "".join(f"{name}: {value}\r\n" for name, value in [("Content-Length", str(len(body))), *headers])
    return says(f"HTTP/1.1 {code} Scripted\r\n{head}\r\n".encode() + body)


def lies(obj: Any, code: int = 200, headers: Headers = ()) -> Fault:
    """Answer with this JSON value, whatever is true."""
    return says(json_reply(obj, code, headers))


def busy(retry_after: str | None = None) -> Fault:
    """Answer 429, with or without a ``Retry-After``."""
    return status(429, b"slow down", [("Retry-After", retry_after)] if retry_after is not None else [])


def redirects(to: str, code: int = 307) -> Fault:
    """Answer with a redirect."""
    return status(code, headers=[("Location", to)])


def gzip_bomb(mebibytes: int = 32) -> Fault:
    """Answer with a body of a thousandth of what it inflates to."""
    packer = zlib.compressobj(9, wbits=31)
    block = b" " * (1 << 20)
    body = b"".join(packer.compress(block) for _ in range(mebibytes)) + packer.flush()
    return status(200, body, [("Content-Type", "application/json"), ("Content-Encoding", "gzip")])


def with_fields(**fields: Any) -> Fault:
    """Answer truthfully but for these fields; ``...`` takes one away."""

    async def fault(reply: Reply, answer: bytes) -> None:
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        told |= fields
        await reply.json({name: value for name, value in told.items() if value is not ...})

    return fault
