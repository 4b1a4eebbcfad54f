"""Every endpoint: the exact request, what it gives back, and what is refused before anything is sent."""

import json
import pickle
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from sms4sats_async import (
    APIError,
    Client,
    Country,
    DecodeError,
    Order,
    OrderKind,
    OrderStatus,
    PriceTooHigh,
)
from sms4sats_async.sandbox import Sandbox
from tests.samples import sample

KEY = "sk-planted-key"
ORDER_ID = "a&b#c/d=e?f g+%h"
Ask = Callable[[Client], Awaitable[Any]]


class Recorder(httpx.AsyncBaseTransport):
    """Answers every request with the same JSON, and keeps the requests."""

    def __init__(self, answer: Any, status: int = 200) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer
        self._status = status

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self._status, json=self._answer)


def client(recorder: httpx.AsyncBaseTransport, **options: Any) -> Client:
    return Client(transport=recorder, api_key=KEY, **options)


READS: list[tuple[Ask, str, bytes, bool]] = [
    (lambda c: c.is_available(), "price_generic", b"/", False),
    (lambda c: c.get_countries(), "getCountries", b"/getCountries", False),
    (lambda c: c.get_services(0), "getnumbersstatus", b"/getnumbersstatus?country=0", False),
    (
        lambda c: c.get_services("Côte d'Ivoire & co"),
        "getnumbersstatus",
        b"/getnumbersstatus?country=C%C3%B4te%20d%27Ivoire%20%26%20co",
        False,
    ),
    (lambda c: c.get_rental_countries(), "getRentalCountries", b"/getRentalCountries?service=full", False),
    (lambda c: c.get_rental_countries("fb"), "getRentalCountries", b"/getRentalCountries?service=fb", False),
    (lambda c: c.get_price(), "price_generic", b"/price", False),
    (lambda c: c.get_price(0), "price_generic", b"/price?country=0", False),
    (lambda c: c.get_price("us", "google"), "price_country_service", b"/price?country=us&service=google", False),
    (lambda c: c.get_order_status("ab12"), "orderstatus_paid_no_number", b"/orderstatus?orderId=ab12", False),
    (
        lambda c: c.get_order_status(ORDER_ID),
        "orderstatus_paid_no_number",
        b"/orderstatus?orderId=a%26b%23c%2Fd%3De%3Ff%20g%2B%25h",
        False,
    ),
    (lambda c: c.cancel_order(ORDER_ID), "cancelorder_ok", b"/cancelorder?orderId=a%26b%23c%2Fd%3De%3Ff%20g%2B%25h", False),
    (lambda c: c.get_balance(), "balance", b"/balance", True),
    (lambda c: c.get_history(), "history", b"/history", True),
]


@pytest.mark.parametrize(("ask", "answer", "target", "keyed"), READS, ids=[target.decode()[:40] for _, _, target, _ in READS])
async def test_a_read_is_one_get_to_this_very_address(ask: Ask, answer: str, target: bytes, keyed: bool) -> None:
    recorder = Recorder(sample(answer))
    async with client(recorder) as c:
        await ask(c)
    [request] = recorder.requests
    assert (request.method, request.url.raw_path, request.url.host) == ("GET", target, "api2.sms4sats.com")
    assert request.content == b""
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers.get("x-api-key") == (KEY if keyed else None)
    assert request.headers.get("cache-control") == ("no-store" if target.startswith(b"/cancel") else None)
    assert "cookie" not in request.headers


PLACES: list[tuple[Ask, str, str, dict[str, Any], bool]] = [
    (lambda c: c.create_order(187, "tg"), "createorder_ok", "/createorder", {"country": 187, "service": "tg"}, False),
    (lambda c: c.create_order(0, "tg"), "createorder_ok", "/createorder", {"country": 0, "service": "tg"}, False),
    (lambda c: c.create_order("Germany", "other"), "createorder_ok", "/createorder", {"country": "Germany", "service": "other"}, False),
    (
        lambda c: c.create_order(6, "full", rental=True, ref="me@ln.tips"),
        "createorder_rental_ok",
        "/createorder",
        {"country": 6, "service": "full", "isRental": True, "ref": "me@ln.tips"},
        False,
    ),
    (
        lambda c: c.create_order(187, "tg", real_phone=True, immediate=True),
        "createorder_immediate_paid",
        "/createorder",
        {"country": 187, "service": "tg", "realphone": True, "immediate": True},
        True,
    ),
    (
        lambda c: c.create_send_order("+12025550143", "héllo"),
        "createsendorder_ok",
        "/createsendorder",
        {"message": "héllo", "phone": "+12025550143"},
        False,
    ),
    (
        lambda c: c.create_send_order("+12025550143", "x" * 140, immediate=True, webhook_url="https://me.example/1", ref="me@ln.tips"),
        "createsendorder_immediate_paid",
        "/createsendorder",
        {"message": "x" * 140, "phone": "+12025550143", "immediate": True, "webhookUrl": "https://me.example/1", "ref": "me@ln.tips"},
        True,
    ),
    (lambda c: c.fund(9500), "fund_ok", "/fund", {"amount": 9500}, True),
]


@pytest.mark.parametrize(("ask", "answer", "path", "body", "keyed"), PLACES, ids=[f"{row[2]}-{row[1]}" for row in PLACES])
async def test_an_order_is_one_post_with_this_very_body(
    ask: Ask,
    answer: str,
    path: str,
    body: dict[str, Any],
    keyed: bool,
) -> None:
    recorder = Recorder(sample(answer))
    async with client(recorder) as c:
        order = await ask(c)
    [request] = recorder.requests
    assert (request.method, request.url.path, request.url.query) == ("POST", path, b"")
    sent = json.loads(request.content)
    assert sent == body
    assert all(type(sent[name]) is type(value) for name, value in body.items())
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-length"] == str(len(request.content))
    assert request.headers.get("x-api-key") == (KEY if keyed else None)
    assert isinstance(order, Order)
    assert order.id == sample(answer)["orderId"]
    assert order.prepaid is (sample(answer)["payreq"] == "paid")


async def test_what_comes_back_is_a_model() -> None:
    async with client(Recorder(sample("createorder_ok"))) as c:
        order = await c.create_order(187, "tg")
    assert (order.kind, order.amount_sats, order.country, order.service) == (OrderKind.receive, 1500, 187, "tg")
    async with client(Recorder(sample("createorder_rental_ok"))) as c:
        assert (await c.create_order(6, "full", rental=True)).kind is OrderKind.rental
    async with client(Recorder(sample("createsendorder_ok"))) as c:
        assert (await c.create_send_order("+12025550143", "hi")).kind is OrderKind.send
    async with client(Recorder(sample("fund_ok"))) as c:
        assert (await c.fund(9500)).kind is OrderKind.fund
    async with client(Recorder(sample("getCountries"))) as c:
        assert (await c.get_countries())[0] == Country(0, "Russia")
    async with client(Recorder(sample("orderstatus_code_str_leading_zero"))) as c:
        status = await c.get_order_status("ab12")
    assert isinstance(status, OrderStatus)
    assert (status.order_id, status.number, status.code) == ("ab12", "+12025550143", "004217")
    async with client(Recorder(sample("balance"))) as c:
        assert await c.get_balance() == 10_000
    async with client(Recorder(sample("history"))) as c:
        assert (await c.get_history()).total_sats == 349_500
    async with client(Recorder(sample("cancelorder_ok"))) as c:
        await c.cancel_order("ab12")


async def test_a_path_in_the_base_url_is_kept() -> None:
    recorder = Recorder(sample("balance"))
    async with client(recorder, base_url="https://gate.example/sms/") as c:
        await c.get_balance()
    assert str(recorder.requests[0].url) == "https://gate.example/sms/balance"


@pytest.mark.parametrize("status", [200, 204, 299])
async def test_the_service_is_available_when_anything_says_2xx(status: int) -> None:
    async with client(httpx.MockTransport(lambda _: httpx.Response(status, text="hello"))) as c:
        assert await c.is_available()


@pytest.mark.parametrize("status", [301, 404, 500, 503])
async def test_the_service_is_not_available_otherwise_and_is_asked_once(status: int) -> None:
    recorder = Recorder({}, status)
    async with client(recorder) as c:
        assert not await c.is_available()
    assert len(recorder.requests) == 1


BAD: list[tuple[str, Ask, type[Exception], str]] = [
    ("country bool", lambda c: c.create_order(True, "tg"), TypeError, "country must be an int or a str, not bool"),
    ("country None", lambda c: c.create_order(None, "tg"), TypeError, "country must be"),  # type: ignore[arg-type]
    ("country empty", lambda c: c.get_services(" "), ValueError, "country must not be empty"),
    ("country negative", lambda c: c.get_services(-1), ValueError, "country must not be negative"),
    ("country float", lambda c: c.get_price(1.5), TypeError, "country must be"),  # type: ignore[arg-type]
    ("service empty", lambda c: c.create_order(187, ""), ValueError, "service must not be empty"),
    ("service int", lambda c: c.create_order(187, 5), TypeError, "service must be a str, not int"),  # type: ignore[arg-type]
    ("service of a price", lambda c: c.get_price(187, ""), ValueError, "service must not be empty"),
    ("service of rentals", lambda c: c.get_rental_countries(""), ValueError, "service must not be empty"),
    ("rental no bool", lambda c: c.create_order(187, "tg", rental="no"), TypeError, "rental must be a bool"),  # type: ignore[arg-type]
    ("real_phone no bool", lambda c: c.create_order(187, "tg", real_phone=1), TypeError, "real_phone must be a bool"),  # type: ignore[arg-type]
    ("ref empty", lambda c: c.create_order(187, "tg", ref=""), ValueError, "ref must not be empty"),
    ("max_sats zero", lambda c: c.create_order(187, "tg", max_sats=0), ValueError, "max_sats must be positive"),
    ("max_sats float", lambda c: c.create_order(187, "tg", max_sats=1.5), TypeError, "max_sats must be an int"),  # type: ignore[arg-type]
    ("phone without plus", lambda c: c.create_send_order("12025550143", "hi"), ValueError, "phone must be in E.164"),
    ("phone with zero", lambda c: c.create_send_order("+012025550", "hi"), ValueError, "phone must be in E.164"),
    ("phone with a newline", lambda c: c.create_send_order("+12025550143\n", "hi"), ValueError, "phone must be in E.164"),
    (
        "phone in other digits",
        lambda c: c.create_send_order("+1\u0662\u0660\u0662555\u0660143", "hi"),
        ValueError,
        "phone must be in E.164",
    ),
    ("message empty", lambda c: c.create_send_order("+12025550143", ""), ValueError, "message must not be empty"),
    ("message long", lambda c: c.create_send_order("+12025550143", "x" * 141), ValueError, "message has 141 characters"),
    ("webhook no address", lambda c: c.create_send_order("+12025550143", "x", webhook_url="me"), ValueError, "webhook_url must be"),
    ("order id empty", lambda c: c.get_order_status(""), ValueError, "order_id must not be empty"),
    ("order id int", lambda c: c.cancel_order(5), TypeError, "order_id must be a str, not int"),  # type: ignore[arg-type]
    ("an order as its id", lambda c: c.cancel_order(Order("ab")), TypeError, "pass order.id"),  # type: ignore[arg-type]
    ("amount zero", lambda c: c.fund(0), ValueError, "amount_sats must be positive"),
    ("service half a character", lambda c: c.create_order(187, "t\ud800", immediate=True), ValueError, "cannot be sent"),
    ("order id as a book", lambda c: c.get_order_status("a" * 100_000), ValueError, "cannot be sent"),
    ("amount of thousands of digits", lambda c: c.fund(10**5000), ValueError, "cannot be sent"),
    ("amount bool", lambda c: c.fund(True), TypeError, "amount_sats must be an int"),
]


@pytest.mark.parametrize(("ask", "kind", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_a_bad_argument_is_refused_before_anything_is_sent(ask: Ask, kind: type[Exception], words: str) -> None:
    recorder = Recorder({})
    async with client(recorder) as c:
        with pytest.raises(kind, match=words) as caught:
            await ask(c)
    assert recorder.requests == []
    assert type(caught.value) is kind


NEED_A_KEY: list[Ask] = [
    lambda c: c.fund(1),
    lambda c: c.get_balance(),
    lambda c: c.get_history(),
    lambda c: c.create_order(187, "tg", immediate=True),
    lambda c: c.create_send_order("+12025550143", "hi", immediate=True),
]


@pytest.mark.parametrize("ask", NEED_A_KEY)
async def test_what_needs_a_key_is_refused_without_one(ask: Ask) -> None:
    recorder = Recorder({})
    async with Client(transport=recorder) as c:
        with pytest.raises(ValueError, match="needs an api_key"):
            await ask(c)
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"api_key": ""}, ValueError),
        ({"api_key": 5}, TypeError),
        ({"api_key": "two words"}, ValueError),
        ({"api_key": "line\nbreak"}, ValueError),
        ({"api_key": "schlüssel"}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"timeout": None}, TypeError),
        ({"timeout": True}, TypeError),
        ({"max_connections": 0}, ValueError),
        ({"attempts": 0}, ValueError),
        ({"attempts": 1.0}, TypeError),
        ({"on_order": 5}, TypeError),
        ({"on_order": Client.aclose}, TypeError),
        ({"transport": httpx.HTTPTransport()}, TypeError),
        ({"transport": Sandbox()}, TypeError),
        ({"timeout": 10**400}, ValueError),
        ({"base_url": "http://api2.sms4sats.com"}, ValueError),
        ({"base_url": 5}, TypeError),
    ],
)
def test_a_client_with_a_bad_option_is_not_made(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=next(iter(options))) as caught:
        Client(**options)
    assert str(options.get("api_key") or "-none-") not in str(caught.value)


async def test_a_refusal_is_an_api_error_with_the_servers_words_and_the_order() -> None:
    async with client(Recorder(sample("cancelorder_too_early"), 500)) as c:
        with pytest.raises(APIError) as caught:
            await c.cancel_order("644bfd59c8e0f600")
    assert caught.value.reason == "order can be canceled after 2 minutes"
    assert (caught.value.status_code, caught.value.order_id) == (500, "644bfd59c8e0f600")
    assert "644bfd59c8e0f600" not in str(caught.value)


@pytest.mark.parametrize("answer", [{}, {"status": "PENDING"}, {"paid": True}, [], None])
async def test_a_cancel_is_confirmed_by_status_ok_and_nothing_else(answer: Any) -> None:
    async with client(Recorder(answer), attempts=1) as c:
        with pytest.raises(DecodeError):
            await c.cancel_order("ab12")


async def test_a_decode_error_knows_the_order_that_was_read() -> None:
    async with client(Recorder({"status": "OK", "orderId": "ab12cd34ef"})) as c:
        with pytest.raises(DecodeError) as caught:
            await c.create_order(187, "tg")
    assert caught.value.order_id == "ab12cd34ef"
    assert caught.value.status_code == 200


async def test_max_sats_holds_the_invoice_against_its_own_amount() -> None:
    seen: list[Order] = []
    recorder = Recorder(sample("createorder_ok"))
    async with client(recorder, on_order=seen.append) as c:
        assert (await c.create_order(187, "tg", max_sats=1500)).amount_sats == 1500
        with pytest.raises(PriceTooHigh) as caught:
            await c.create_order(187, "tg", max_sats=1499)
    assert (caught.value.price_sats, caught.value.max_sats, caught.value.order) == (1500, 1499, seen[1])
    assert caught.value.order_id == seen[1].id
    assert [request.url.path for request in recorder.requests] == ["/createorder", "/createorder"]


def test_a_client_shows_no_key_and_cannot_be_pickled() -> None:
    c = Client(api_key=KEY)
    assert repr(c) == "<Client https://api2.sms4sats.com>"
    assert KEY not in repr(vars(c)) + repr(vars(c._transport))
    with pytest.raises(TypeError):
        pickle.dumps(c)


def test_a_client_that_was_not_made_has_a_repr_and_no_key_in_its_frames() -> None:
    with pytest.raises(ValueError, match="timeout") as caught:
        Client(api_key="a-key-nobody-may-see", timeout=-1)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    own_frames = shown.partition("client.py")[2]
    assert "<Client>" in own_frames
    assert "nobody-may-see" not in own_frames.replace('api_key="a-key-nobody-may-see"', "")
