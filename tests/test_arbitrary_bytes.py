"""Whatever bytes a server sends, and whatever anybody stored: a value or one of our errors, and never anything else.

``test_models.py`` and ``test_replies.py`` have hypothesis think of strange replies; here it is the number that counts. The examples are
drawn by a seeded generator: good samples with a few bytes or a few values changed, and noise. That takes a tenth of what a
strategy takes. The tests draw a hundred thousand; for ten million, with another seed if wanted::

    ARBITRARY_EXAMPLES=10000000 ARBITRARY_SEED=7 python -m pytest tests/test_arbitrary_bytes.py

A failure tells the example.
"""

import gzip
import json
import math
import os
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from sms4sats_async import Client, Order, OrderKind, OrderStatus
from sms4sats_async.errors import APIError, DecodeError, OutcomeUnknown, RateLimited, Sms4SatsError, harmless, printable
from sms4sats_async.lifecycle import Failure, Lifecycle, Rules
from sms4sats_async.models import (
    Country,
    History,
    MalformedReply,
    Price,
    RentalCountry,
    Service,
    balance_sats,
    confirmation,
    hidden,
    invoice_sats,
    mask,
    order_id_in,
)
from sms4sats_async.transport import Call, Repeat, Reply, _conclude, _Outcome, excerpt, parse_base_url, retry_after

EXAMPLES = int(os.environ.get("ARBITRARY_EXAMPLES", "100000"))
SEED = int(os.environ.get("ARBITRARY_SEED", "1"))
ID = "0123456789abcdef" * 4
WHEN = datetime(2026, 5, 4, tzinfo=UTC)

SAMPLES = [path.read_bytes() for path in sorted((Path(__file__).parent / "samples").glob("*.json"))]
VALUES = [json.loads(sample) for sample in SAMPLES]
FIELDS = sorted(
    {name for value in VALUES if isinstance(value, dict) for name in value} | {"reason", "computed", "key", "version", "amount"}
)
PIECES = [
    b"",
    b"null",
    b"-",
    b"1e999",
    b"NaN",
    b'"',
    b"\\ud800",
    b"{",
    b"]",
    b"[" * 5000,
    b"9" * 5000,
    b"\xff",
    b"\0",
    b"\xef\xbb\xbf",
    b"\r\n",
]
SCALARS: list[Any] = [
    None, True, False, 0, -1, 187, 10**30, 10**4299, 1.5, -0.0, 1e308, math.inf, "", " ", "0", "-1", "1e99", "1.5", "paid", "OK", "error",
    "lightning:lnbc15u1" + "q" * 90, "lnbc5x1", "004217", "+12025550143", "+", "\ud800", "\x1b[31m", "a" * 5000, "created", "FAILED",
    "2026-05-04T03:02:01+00:00", "2026-05-04", "0001-01-01T00:00:00+23:59", "api key", ID, "https://x.example",
    [], {}, [[]], [None], {"": None},
]  # fmt: skip
TIMES = ["", "7", "-1", "1e99", "nan", "inf", "-inf", "7 s", "1_0", "٣", "Mon, 04 May 2026 03:02:01 GMT", "Mon, 04 May 2026 03:02:01 -0000",
         "Mon, 99 May 99999 99:99:99 +9999", "\ud800", "0x10", "Wed, 21 Oct 2015 07:28:00 GMT", "1" * 400]  # fmt: skip


class Dice(random.Random):
    """Draws examples."""

    def noise(self, longest: int = 60) -> bytes:
        return self.randbytes(self.randrange(longest))

    def text(self) -> str:
        kind = self.randrange(4)
        if kind == 0:
            return self.noise().decode("latin-1")
        if kind == 1:
            return "".join(map(chr, self.choices(range(0x11000), k=self.randrange(20))))  # lone surrogates too
        if kind == 2:
            return "".join(self.choices("0123456789+-.eE:/@?#[]% lnbcmup1qaT_Z", k=self.randrange(30)))
        found = self.choice(SCALARS)
        return found if isinstance(found, str) else repr(found)[:50]

    def value(self, depth: int = 3) -> Any:
        """Any JSON value."""
        kind = self.randrange(8)
        if kind == 0 and depth:
            return [self.value(depth - 1) for _ in range(self.randrange(4))]
        if kind == 1 and depth:
            return {self.field(): self.value(depth - 1) for _ in range(self.randrange(5))}
        if kind == 2:
            return self.text()
        return self.choice(SCALARS)

    def field(self) -> str:
        return self.choice(FIELDS) if self.randrange(8) else self.text()

    def changed(self) -> Any:
        """A good value with a few fields changed, or any value at all."""
        value = self.choice(VALUES)
        if not self.randrange(5):
            return self.value()
        row = value[0] if isinstance(value, list) and value else value
        if not isinstance(row, dict):
            return row
        row = {**row, **{self.field(): self.value(2) for _ in range(self.randrange(4))}}
        return [row, self.value(1)] if isinstance(value, list) else row

    def body(self) -> bytes:
        """The bytes of a reply's body."""
        kind = self.randrange(6)
        if kind == 0:
            return self.noise(200)
        if kind == 1:
            return json.dumps(self.changed()).encode(self.choice(["utf-8", "utf-16", "utf-32-le"]))
        body = bytearray(self.choice(SAMPLES))
        for _ in range(self.randrange(4)):
            at = self.randrange(len(body) + 1)
            body[at : at + self.randrange(6)] = self.choice(PIECES) if self.randrange(2) else self.noise(4)
        return bytes(body[: self.randrange(len(body) + 1)] if kind == 2 else body)

    def headers(self) -> dict[str, str]:
        names = ("retry-after", "date", "location", "content-type", "content-encoding")
        return {name: self.choice(TIMES) if self.randrange(2) else self.text() for name in names[:4] if self.randrange(2)}

    def reply(self) -> Reply:
        body, headers = self.body(), self.headers()
        packing = self.randrange(12)
        if packing < 3:
            headers["content-encoding"] = self.choice(["gzip", "deflate", "identity", "br", " GZIP ", "gzip, gzip"])
            packed = gzip.compress(body, 1) if packing == 0 else zlib.compress(body, 1) if packing == 1 else body
            body = packed[: self.randrange(len(packed) + 1)] if self.randrange(2) else packed
        status = (
            self.choice([200, 200, 200, 201, 204, 301, 400, 401, 403, 404, 429, 500, 503])
            if self.randrange(8)
            else self.randrange(100, 1000)
        )
        return Reply(status, httpx.Headers([(name.encode(), value.encode("utf-8", "replace")) for name, value in headers.items()]), body)


def placed(payload: object) -> Order:
    return Order.from_wire(payload, kind=OrderKind.receive, created_at=WHEN)


def charged(payload: object) -> Order:
    return Order.from_wire(payload, kind=OrderKind.send, created_at=WHEN, immediate=True)


def status(payload: object) -> OrderStatus:
    """Of an order, or of a webhook's call: they are the same."""
    return OrderStatus.from_wire(payload, ID)


DECODERS: list[Callable[[object], object]] = [
    Country.list_from_wire, Service.list_from_wire, RentalCountry.list_from_wire, Price.from_wire, History.from_wire,
    placed, charged, status, balance_sats, confirmation,
]  # fmt: skip
CALLS: list[Call[Any]] = [
    *(Call("GET", "/x", decode, {"orderId": ID}, order_id=ID) for decode in DECODERS),
    Call("GET", "/", lambda _: None, json=False),
    Call("POST", "/createorder", charged, body={"phone": "+12025550143"}, repeat=Repeat.SPEND, salvage=order_id_in, doubt="charged?"),
]
ALIVE = Lifecycle.begin(Rules(), 0.0)


def a_reply(dice: Dice) -> None:
    call, reply = dice.choice(CALLS), dice.reply()
    with shown(reply.status_code, dict(reply.headers), reply.body):
        outcome: _Outcome[Any] = _Outcome(sent=True)
        _conclude(call, reply, outcome, whole=dice.randrange(20) > 0)
        error = outcome.error
        assert outcome.concluded
        if error is None:
            assert reply.status_code < 300
            return
        assert isinstance(error, APIError | DecodeError)
        assert str(error).isprintable()
        assert call.order_id is None or ID not in str(error)
        waited = ALIVE.missed(Failure.of(error), 0.0, 1.0)
        assert 1.0 <= waited.due <= 66.0


def a_value(dice: Dice) -> None:
    decode, payload = dice.choice(DECODERS), dice.changed()
    with shown(decode, payload):
        try:
            decoded = decode(payload)
        except MalformedReply as error:
            assert len(str(error)) < 100  # noqa: PT017
        else:
            assert isinstance(repr(decoded), str)


def a_status(dice: Dice) -> None:
    payload = dice.changed()
    with shown(payload):
        try:
            told = status(payload)
        except MalformedReply:
            return
        state = ALIVE.saw(told, 0.0, 1.0)
        assert told.code is None or state.status is not None
        error = state.error(ID)
        assert error is None or (str(error).isprintable() and ID not in str(error))


def a_stored_order(dice: Dice) -> None:
    data: Any = dice.value() if not dice.randrange(4) else {**Order(ID).to_dict(), **{dice.field(): dice.value(1) for _ in range(3)}}
    if isinstance(data, dict) and dice.randrange(2):
        data[dice.choice(["id", "kind", "payreq", "created_at", "amount_sats", "country"])] = dice.value(1)
    with shown(data):
        try:
            order = Order.from_dict(data)
        except ValueError as error:
            assert str(error)  # noqa: PT017
        else:
            assert Order.from_dict(order.to_dict()) == order
            assert order.created_at.tzinfo is not None


def a_header(dice: Dice) -> None:
    headers = dice.headers()
    with shown(headers):
        seconds = retry_after(headers)
        assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
        waited = ALIVE.missed(Failure.of(RateLimited("x", retry_after=seconds)), 0.0, 1.0, dice.uniform(-1, 1))
        assert 1.0 <= waited.due <= 60.0


def a_text(dice: Dice) -> None:
    text = dice.text() if dice.randrange(2) else dice.body().decode("utf-8", "surrogateescape")
    text = text[:1000]
    with shown(text):
        assert printable(text).isprintable()
        assert re.search(r"[0-9]{5}", harmless(text.replace("\\", ""))) is None or not text.isprintable()
        assert hidden(text) == "'..'"
        assert len(mask(text)) <= 6
        try:
            sats = invoice_sats(text)
        except ValueError:
            sats = None
        assert sats is None or sats >= 0
        try:
            url = parse_base_url(text)
        except ValueError:
            return
        assert url.scheme in ("http", "https")


def a_body(dice: Dice) -> None:
    body = dice.body()
    with shown(body):
        assert excerpt(body).isprintable()
        found = order_id_in(body)
        assert found is None or 0 < len(found) <= 200


@contextmanager
def shown(*example: object) -> Iterator[None]:
    """Tell the example when it fails."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"the example: {example!r}"[:20_000])
        raise


PROPERTIES: dict[Callable[[Dice], None], float] = {
    a_reply: 0.15, a_value: 0.2, a_status: 0.15, a_stored_order: 0.15, a_header: 0.15, a_text: 0.1, a_body: 0.1,
}  # fmt: skip


@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
def test_only_our_errors_whatever_comes(check: Callable[[Dice], None]) -> None:
    dice = Dice(SEED)
    for _ in range(round(EXAMPLES * PROPERTIES[check])):
        check(dice)


def test_it_is_as_many_examples_as_is_said() -> None:
    assert sum(round(EXAMPLES * share) for share in PROPERTIES.values()) == EXAMPLES


def test_a_failure_tells_its_example() -> None:
    with pytest.raises(KeyError) as caught, shown(b"odd"):
        raise KeyError
    assert caught.value.__notes__ == ["the example: (b'odd',)"]


def test_to_blot_a_long_word_takes_no_time() -> None:
    began = time.process_time()
    harmless("a" * 16_000)
    assert time.process_time() - began < 0.25


def test_a_content_type_tells_no_token() -> None:
    outcome: _Outcome[Any] = _Outcome(sent=True)
    _conclude(CALLS[-1], Reply(200, httpx.Headers({"content-type": ID}), b"<html>"), outcome)
    assert ID not in str(outcome.error)


# --- end to end, but for the sockets -----------------------------------------------------------------------------------------------


class Anything(httpx.AsyncBaseTransport):
    """Answers every request with whatever the dice say."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002
        self.asked += 1
        reply = self._dice.reply()
        return httpx.Response(reply.status_code, headers=reply.headers, stream=httpx.ByteStream(reply.body))


PUBLIC: dict[str, Callable[[Client], Any]] = {
    "is_available": lambda client: client.is_available(),
    "get_countries": lambda client: client.get_countries(),
    "get_services": lambda client: client.get_services(187),
    "get_rental_countries": lambda client: client.get_rental_countries(),
    "get_price": lambda client: client.get_price(187, "tg"),
    "create_order": lambda client: client.create_order(187, "tg", max_sats=5000),
    "create_order, charged": lambda client: client.create_order(187, "tg", immediate=True),
    "create_send_order": lambda client: client.create_send_order("+12025550143", "see you at eight"),
    "get_order_status": lambda client: client.get_order_status(ID),
    "cancel_order": lambda client: client.cancel_order(ID),
    "fund": lambda client: client.fund(1000),
    "get_balance": lambda client: client.get_balance(),
    "get_history": lambda client: client.get_history(),
}


@pytest.mark.parametrize("name", PUBLIC)
async def test_every_call_returns_or_raises_one_of_our_errors(name: str) -> None:
    transport = Anything(Dice(f"{SEED} {name}"))
    raised = 0
    async with Client(api_key="sk-secret", transport=transport) as client:
        for _ in range(40):
            try:
                await PUBLIC[name](client)
            except Sms4SatsError as error:
                raised += 1
                assert str(error).isprintable()  # noqa: PT017
                assert "sk-secret" not in str(error)  # noqa: PT017
                assert isinstance(error, OutcomeUnknown) <= (name == "create_order, charged")  # noqa: PT017
    assert transport.asked >= 40
    assert raised > 5 or name == "is_available"


SENDS: dict[str, Callable[[Client, Any, Any], Any]] = {
    "get_services": lambda client, one, _: client.get_services(one),
    "get_rental_countries": lambda client, one, _: client.get_rental_countries(one),
    "get_price": lambda client, one, two: client.get_price(one, two),
    "create_order": lambda client, one, two: client.create_order(one, two, ref=two),
    "create_send_order": lambda client, one, two: client.create_send_order(one, two, webhook_url=two),
    "get_order_status": lambda client, one, _: client.get_order_status(one),
    "cancel_order": lambda client, one, _: client.cancel_order(one),
    "fund": lambda client, one, _: client.fund(one),
}


@pytest.mark.parametrize("name", SENDS)
async def test_any_argument_is_sent_or_refused_before_anything_is_sent(name: str) -> None:
    dice = Dice(f"{SEED} {name}")
    transport = Anything(dice)
    refused = 0
    async with Client(api_key="sk-secret", transport=transport, attempts=1) as client:
        for _ in range(60):
            before = transport.asked
            one, two = dice.value(1), dice.value(1)
            with shown(one, two):
                try:
                    await SENDS[name](client, one, two)
                except (ValueError, TypeError):
                    refused += 1
                    assert transport.asked == before
                except Sms4SatsError as error:
                    assert str(error).isprintable()  # noqa: PT017
                    assert transport.asked > before
    assert refused > 10
