"""The sandbox behaves as the service is documented to, in virtual time, and its invoices are read by a decoder of our own."""

import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx
import pytest

from sms4sats_async.models import OrderKind
from sms4sats_async.sandbox import AUTO_SELECT, CANCELED, EXPIRED, NO_NUMBER, Sandbox, SandboxOrder, Timeline

SAMPLES = Path(__file__).parent / "samples"
KEY = {"X-API-Key": "a-key"}


@asynccontextmanager
async def connected(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=sandbox.transport(), base_url="http://sandbox") as http:
        yield http


async def get(http: httpx.AsyncClient, path: str, *, expect: int = 200, headers: dict[str, str] | None = None, **query: Any) -> Any:
    response = await http.get(path, params=query or None, headers=headers)
    assert response.status_code == expect, response.text
    return response.json()


async def post(http: httpx.AsyncClient, path: str, body: Any, *, expect: int = 200, headers: dict[str, str] | None = None) -> Any:
    response = await http.post(path, json=body, headers=headers)
    assert response.status_code == expect, response.text
    return response.json()


async def place(http: httpx.AsyncClient, **fields: Any) -> str:
    order_id: str = (await post(http, "/createorder", {"country": 187, "service": "tg"} | fields, headers=KEY))["orderId"]
    return order_id


async def place_send(http: httpx.AsyncClient, **fields: Any) -> str:
    body = {"phone": "+12025550143", "message": "hello"} | fields
    order_id: str = (await post(http, "/createsendorder", body, headers=KEY))["orderId"]
    return order_id


async def status(http: httpx.AsyncClient, order_id: str) -> Any:
    return await get(http, "/orderstatus", orderId=order_id)


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text())


def shape(value: Any) -> Any:
    """Return the keys of a JSON value and the types of what they hold; a list is as its first element."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


# --- an independent reader of BOLT 11 invoices -------------------------------------------------------------------------------------

ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def polymod(values: list[int]) -> int:
    """BIP 173, as the BIP has it."""
    chk = 1
    for value in values:
        top = chk >> 25
        chk = (chk & 0x1FFFFFF) << 5 ^ value
        for i, gen in enumerate([0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3]):
            chk ^= gen if ((top >> i) & 1) else 0
    return chk


def to_bytes(groups: list[int]) -> bytes:
    bits = "".join(f"{group:05b}" for group in groups)
    whole = len(bits) // 8 * 8
    assert set(bits[whole:]) <= {"0"}, "padding must be zero"
    return bytes(int(bits[i : i + 8], 2) for i in range(0, whole, 8))


def to_number(groups: list[int]) -> int:
    return int("".join(f"{group:05b}" for group in groups), 2)


@attrs.frozen
class Invoice:
    sats: float
    multiplier: str
    timestamp: int
    fields: dict[str, list[int]]
    signature: bytes


def read_invoice(text: str) -> Invoice:
    prefix, _, data = text.rpartition("1")
    groups = [ALPHABET.index(letter) for letter in data]
    assert polymod([ord(x) >> 5 for x in prefix] + [0] + [ord(x) & 31 for x in prefix] + groups) == 1, "checksum"
    match = re.fullmatch(r"lnbc([1-9][0-9]*)([munp]?)", prefix)
    assert match is not None
    sats = int(match[1]) * {"": 10**8, "m": 10**5, "u": 100, "n": 0.1, "p": 0.0001}[match[2]]
    words, signature, fields = groups[7:-110], groups[-110:-6], dict[str, list[int]]()
    while words:
        length = words[1] * 32 + words[2]
        assert len(words) >= 3 + length
        fields[ALPHABET[words[0]]] = words[3 : 3 + length]
        words = words[3 + length :]
    return Invoice(sats, match[2], to_number(groups[:7]), fields, to_bytes(signature))


def test_the_reader_reads_an_invoice_that_is_not_ours() -> None:
    invoice = read_invoice(sample("createorder_ok")["payreq"])
    assert invoice.sats == 1500
    assert to_bytes(invoice.fields["d"]).startswith(b"sms4sats")


async def test_an_invoice_says_what_was_ordered() -> None:
    async with connected(Sandbox(accounts={"a-key": 0}, epoch=1_766_000_000.5)) as http:
        await anyio.sleep(10)
        start = anyio.current_time()
        text = (await post(http, "/createorder", {"country": 187, "service": "tg"}))["payreq"]
        assert text.startswith("lnbc15u1")
        invoice = read_invoice(text)
        assert invoice.timestamp == int(1_766_000_000.5 + start)
        assert len(invoice.signature) == 65
        assert {tag: len(to_bytes(invoice.fields[tag])) for tag in "ps"} == {"p": 32, "s": 32}
        assert to_bytes(invoice.fields["d"]) == b"sms4sats payment USA tg"
        assert to_number(invoice.fields["x"]) == 1260
        assert to_number(invoice.fields["9"]) == 0b100000100000000


@pytest.mark.parametrize(
    ("sats", "prefix"),
    [(100_000_000, "lnbc1"), (300_000, "lnbc3m"), (150_000, "lnbc1500u"), (9500, "lnbc95u"), (1368, "lnbc13680n"), (1, "lnbc10n")],
)
async def test_an_amount_takes_the_shortest_multiplier(sats: int, prefix: str) -> None:
    async with connected(Sandbox(accounts={"a-key": 0})) as http:
        payreq = (await post(http, "/fund", {"amount": sats}, headers=KEY))["payreq"]
    assert payreq.rpartition("1")[0] == prefix
    assert read_invoice(payreq).sats == pytest.approx(sats)


# --- shapes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "query"),
    [
        ("getCountries", "/getCountries", {}),
        ("getnumbersstatus", "/getnumbersstatus", {"country": 187}),
        ("getnumbersstatus_empty", "/getnumbersstatus", {"country": 172}),
        ("getRentalCountries", "/getRentalCountries", {}),
        ("price_country_service", "/price", {"country": "us", "service": "google"}),
        ("price_generic", "/price", {}),
        ("balance", "/balance", {}),
    ],
)
async def test_a_reply_has_the_shape_of_its_sample(name: str, path: str, query: dict[str, Any]) -> None:
    async with connected(Sandbox(accounts={"a-key": 10_000})) as http:
        assert shape(await get(http, path, headers=KEY, **query)) == shape(sample(name))


@pytest.mark.parametrize("name", ["price_country_service", "price_generic", "balance"])
async def test_the_documented_example_is_answered_to_the_letter(name: str) -> None:
    entry = sample("index")[f"{name}.json"]
    async with connected(Sandbox(accounts={"a-key": 10_000})) as http:
        assert await get(http, entry["endpoint"], headers=KEY) == sample(name)


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("createorder_ok", "/createorder", {"country": 187, "service": "tg"}),
        ("createorder_rental_ok", "/createorder", {"country": 6, "service": "full", "isRental": True}),
        ("createorder_immediate_paid", "/createorder", {"country": 0, "service": "tg", "immediate": True}),
        ("createsendorder_ok", "/createsendorder", {"phone": "+12025550143", "message": "hello"}),
        ("createsendorder_immediate_paid", "/createsendorder", {"phone": "+12025550143", "message": "hello", "immediate": True}),
        ("fund_ok", "/fund", {"amount": 9500}),
    ],
)
async def test_an_order_has_the_shape_of_its_sample(name: str, path: str, body: dict[str, Any]) -> None:
    async with connected(Sandbox(accounts={"a-key": 10_000})) as http:
        reply = await post(http, path, body, headers=KEY)
    expected = sample(name)
    assert shape(reply) == shape(expected)
    assert re.fullmatch("[0-9a-f]{64}", reply["orderId"])
    if expected["payreq"] == "paid":
        assert reply["payreq"] == "paid"
    else:
        assert read_invoice(reply["payreq"]).sats == pytest.approx(read_invoice(expected["payreq"]).sats)


async def test_every_status_of_a_receive_order_has_the_shape_of_its_sample() -> None:
    sandbox = Sandbox(accounts={"a-key": 0})
    async with connected(sandbox) as http:
        order_id = await place(http)
        assert await status(http, order_id) == sample("orderstatus_waiting_unpaid")
        sandbox.pay(order_id)
        assert await status(http, order_id) == sample("orderstatus_paid_no_number")
        sandbox.assign(order_id, "+12025550143")
        assigned = await status(http, order_id)
        assert shape(assigned) == shape(sample("orderstatus_number_assigned"))
        assert (assigned["number"], assigned["country"], assigned["service"]) == (12025550143, "USA", "tg")
        sandbox.deliver(order_id, "004217")
        delivered = await status(http, order_id)
        assert shape(delivered) == shape(sample("orderstatus_code_str_leading_zero"))
        assert delivered == assigned | {"code": "004217"}
        lost = await place(http)
        sandbox.pay(lost)
        sandbox.fail(lost)
        assert await status(http, lost) == sample("orderstatus_no_number_error")
        assert sample("orderstatus_no_number_error")["error"] == NO_NUMBER
        numeric = await place(http)
        sandbox.pay(numeric)
        assert sandbox.deliver(numeric, 48010) == 48010
        assert shape(await status(http, numeric)) == shape(sample("orderstatus_code_int"))


@pytest.mark.parametrize("sms_status", ["created", "sent", "delivered", "failed"])
async def test_every_status_of_a_send_order_has_the_shape_of_its_sample(sms_status: str) -> None:
    sandbox = Sandbox(accounts={"a-key": 0})
    async with connected(sandbox) as http:
        order_id = await place_send(http)
        assert await status(http, order_id) == sample("orderstatus_waiting_unpaid")
        sandbox.pay(order_id)
        if sms_status != "created":
            sandbox.report(order_id, sms_status)
        reply, expected = await status(http, order_id), sample(f"orderstatus_send_{sms_status}")
        assert shape(reply) == shape(expected)
        assert reply["smsStatus"] == expected["smsStatus"]
        assert re.fullmatch("SM[0-9a-f]{32}", reply["id"])


async def test_cancelling_is_answered_as_in_the_samples() -> None:
    sandbox = Sandbox()
    async with connected(sandbox) as http:
        order_id = await place(http)
        assert await get(http, "/cancelorder", expect=500, orderId=order_id) == sample("cancelorder_too_early")
        await anyio.sleep(120)
        assert await get(http, "/cancelorder", orderId=order_id) == sample("cancelorder_ok")
        assert await get(http, "/cancelorder", expect=500, orderId="nobody's") == sample("cancelorder_error_500")


# --- requests that are refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/fund"), ("GET", "/balance"), ("GET", "/history")],
)
async def test_an_account_call_needs_a_key_that_is_known(method: str, path: str) -> None:
    async with connected(Sandbox(accounts={"a-key": 0})) as http:
        keyless = await http.request(method, path, json={"amount": 1})
        assert (keyless.status_code, keyless.json()) == (400, sample("error_400_missing_api_key"))
        strange = await http.request(method, path, json={"amount": 1}, headers={"X-API-Key": "another"})
        assert strange.status_code == 401
        assert shape(strange.json()) == shape(sample("error_500"))


@pytest.mark.parametrize("path", ["/createorder", "/createsendorder"])
async def test_a_prepaid_order_needs_a_key_and_the_money(path: str) -> None:
    sandbox = Sandbox(accounts={"a-key": 1499.5})
    body = {"country": 187, "service": "tg", "phone": "+12025550143", "message": "hello", "immediate": True}
    async with connected(sandbox) as http:
        assert await post(http, path, body, expect=400) == sample("error_400_missing_api_key")
        assert "balance" in (await post(http, path, body, expect=500, headers=KEY))["reason"]
        assert sandbox.orders == {}
        assert sandbox.balance("a-key") == 1499.5


@pytest.mark.parametrize(
    ("path", "wrong", "reason"),
    [
        ("/createorder", {"country": None}, "country"),
        ("/createorder", {"country": 4321}, "country"),
        ("/createorder", {"country": True}, "country"),
        ("/createorder", {"country": [187]}, "country"),
        ("/createorder", {"country": "Atlantis"}, "country"),
        ("/createorder", {"service": None}, "service"),
        ("/createorder", {"service": ""}, "service"),
        ("/createorder", {"service": "Nothing of the kind"}, "service"),
        ("/createorder", {"service": 7}, "service is not a str"),
        ("/createorder", {"isRental": "true"}, "isRental is not a bool"),
        ("/createorder", {"realphone": 1}, "realphone is not a bool"),
        ("/createorder", {"immediate": 1}, "immediate is not a bool"),
        ("/createorder", {"ref": 1}, "ref is not a str"),
        ("/createsendorder", {"phone": None}, "phone"),
        ("/createsendorder", {"phone": "12025550143"}, "phone"),
        ("/createsendorder", {"message": ""}, "message"),
        ("/createsendorder", {"message": "x" * 141}, "message"),
        ("/createsendorder", {"webhookUrl": 1}, "webhookUrl is not a str"),
        ("/fund", {"amount": 0}, "backend error"),
        ("/fund", {"amount": "9500"}, "backend error"),
        ("/fund", {"amount": True}, "backend error"),
    ],
)
async def test_a_wrong_field_is_refused_and_places_nothing(path: str, wrong: dict[str, Any], reason: str) -> None:
    right = {"country": 187, "service": "tg", "phone": "+12025550143", "message": "hello", "amount": 1}
    sandbox = Sandbox(accounts={"a-key": 0})
    async with connected(sandbox) as http:
        reply = await post(http, path, right | wrong, expect=500, headers=KEY)
        assert shape(reply) == shape(sample("error_500"))
        assert reason in reply["reason"]
        assert sandbox.orders == {}


@pytest.mark.parametrize("path", ["/createorder", "/createsendorder", "/fund"])
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_json_object_is_refused(path: str, raw: bytes) -> None:
    async with connected(Sandbox(accounts={"a-key": 0})) as http:
        response = await http.post(path, content=raw, headers=KEY)
    assert (response.status_code, response.json()["status"]) == (400, "error")


async def test_a_body_is_read_up_to_a_limit() -> None:
    async with connected(Sandbox()) as http:
        response = await http.post("/createorder", content=b"x" * 200_000)
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/orderstatus", {}),
        ("/orderstatus", {"orderId": "no such order"}),
        ("/cancelorder", {}),
        ("/getnumbersstatus", {}),
        ("/getnumbersstatus", {"country": "Atlantis"}),
        ("/price", {"country": "Atlantis", "service": "tg"}),
        ("/price", {"country": "us", "service": "Nothing of the kind"}),
    ],
)
async def test_a_question_about_nothing_is_refused(path: str, query: dict[str, Any]) -> None:
    async with connected(Sandbox()) as http:
        assert shape(await get(http, path, expect=500, **query)) == shape(sample("error_500"))


async def test_paths_and_methods_are_the_services_own() -> None:
    async with connected(Sandbox()) as http:
        assert (await http.get("/")).status_code == 200
        assert (await get(http, "/getServices", expect=404))["status"] == "error"
        assert (await get(http, "/createorder", expect=405))["status"] == "error"
        assert (await post(http, "/cancelorder", {}, expect=405))["status"] == "error"


# --- the catalogue -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "chosen", "name"),
    [
        (0, 0, "Russia"),
        ("0", 0, "Russia"),
        ("Russia", 0, "Russia"),
        ("us", 187, "USA"),
        ("usa", 187, "USA"),
        ("United States", 187, "USA"),
        ("187", 187, "USA"),
        (12, 12, "USA (virtual)"),
        ("gb", 16, "England"),
        (AUTO_SELECT, 187, "USA"),
        ("Auto-Select", 187, "USA"),
    ],
)
async def test_a_country_is_ordered_by_id_name_or_iso_code(asked: int | str, chosen: int, name: str) -> None:
    sandbox = Sandbox()
    async with connected(sandbox) as http:
        order_id = await place(http, country=asked)
        assert sandbox.orders[order_id].country == chosen
        sandbox.pay(order_id)
        sandbox.assign(order_id)
        assert (await status(http, order_id))["country"] == name
        assert (await get(http, "/price", country=asked, service="tg"))["computed"]["country"] == chosen


@pytest.mark.parametrize("service", ["go", "google", "Google,youtube,Gmail", "openAI", "other", "claude", "xyz"])
async def test_a_service_is_ordered_by_code_or_name_and_echoed(service: str) -> None:
    sandbox = Sandbox()
    async with connected(sandbox) as http:
        order_id = await place(http, service=service)
        sandbox.pay(order_id)
        sandbox.assign(order_id)
        assert (await status(http, order_id))["service"] == service


@pytest.mark.parametrize("country", [0, 6, 16, 43, 187])
@pytest.mark.parametrize("service", ["tg", "wa", "acz"])
async def test_an_invoice_asks_for_the_price_that_was_quoted(country: int, service: str) -> None:
    async with connected(Sandbox()) as http:
        price = await get(http, "/price", country=country, service=service)
        rentals = {row["cc"]: row["price"] for row in await get(http, "/getRentalCountries", service=service)}
        order = {"country": country, "service": service}

        async def asked(path: str, body: dict[str, Any]) -> int:
            return round(read_invoice((await post(http, path, body))["payreq"]).sats)

        assert await asked("/createorder", order) == price["computed"]["price"] == int(price["receive"])
        assert await asked("/createorder", order | {"isRental": True}) == price["rent"] == rentals[country]
        assert await asked("/createorder", order | {"realphone": True}) == int(price["s4s"])
        assert await asked("/createsendorder", {"phone": "+12025550143", "message": "hello"}) == price["send"]


async def test_an_unknown_service_has_no_rentals() -> None:
    async with connected(Sandbox()) as http:
        assert await get(http, "/getRentalCountries", service="Nothing of the kind") == []


async def test_a_catalogue_can_be_given() -> None:
    sandbox = Sandbox(countries={0: "Rossiya", 61: "Senegal"}, services={"aa": "First", "full": "Rent"})
    async with connected(sandbox) as http:
        assert [(row["id"], row["eng"]) for row in await get(http, "/getCountries")] == [(0, "Rossiya"), (61, "Senegal")]
        assert [row["value"] for row in await get(http, "/getnumbersstatus", country=61)] == ["aa"]
        order_id = await place(http, country=AUTO_SELECT, service="aa")
        assert sandbox.orders[order_id].country == 0
        foreign = await place(http, country="senegal", service="First")
        sandbox.pay(foreign)
        assert re.fullmatch(r"\+[0-9]{7,15}", sandbox.assign(foreign))


@pytest.mark.parametrize("wrong", [{"speed": 0}, {"speed": -1}, {"speed": float("nan")}, {"countries": {}}, {"services": {}}])
def test_a_service_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Sandbox(**wrong)


def test_a_timeline_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="code_after"):
        Timeline(code_after=-1)


# --- the life of a receive order ---------------------------------------------------------------------------------------------------


def money(order: SandboxOrder) -> str:
    """Where an order's money is: exactly one answer at any time."""
    places = [name for name in ("held", "settled", "returned") if getattr(order, name)]
    assert len(places) == (order.paid_at is not None)
    return places[0] if places else "unpaid"


async def test_money_is_held_until_the_code_comes() -> None:
    sandbox = Sandbox()
    async with connected(sandbox) as http:
        order_id = await place(http)
        order = sandbox.orders[order_id]
        assert (money(order), order.final) == ("unpaid", False)
        sandbox.pay(order_id)
        assert (money(order), order.final, order.code) == ("held", False, None)
        number = sandbox.assign(order_id)
        assert (order.number, money(order)) == (number, "held")
        code = sandbox.deliver(order_id)
        assert (order.code, money(order), order.final) == (code, "settled", True)


async def test_each_thing_that_happens_has_its_time() -> None:
    sandbox = Sandbox()
    async with connected(sandbox) as http:
        start = anyio.current_time()
        order_id = await place(http)
        await anyio.sleep(1)
        sandbox.pay(order_id)
        await anyio.sleep(1)
        sandbox.assign(order_id)
        await anyio.sleep(1)
        sandbox.deliver(order_id)
        order = sandbox.orders[order_id]
    times = [order.created_at, order.paid_at, order.number_at, order.code_at]
    assert [round((at or 0) - start) for at in times] == [0, 1, 2, 3]


async def test_time_stamps_count_milliseconds_from_the_epoch() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=2, number_after=3), epoch=1_766_000_000)
    async with connected(sandbox) as http:
        start = anyio.current_time()
        order_id = await place(http)
        await anyio.sleep(60)
        assert (await status(http, order_id))["timestamp"] == round((1_766_000_000 + start + 5) * 1000)


@pytest.mark.parametrize("says_ended", [True, False])
async def test_an_order_with_no_code_ends_by_itself_after_21_minutes(says_ended: bool) -> None:
    sandbox = Sandbox(says_ended=says_ended)
    async with connected(sandbox) as http:
        order_id = await place(http)
        await anyio.sleep(600)
        sandbox.pay(order_id)
        sandbox.assign(order_id)
        await anyio.sleep(1259.9)
        live = await status(http, order_id)
        assert money(sandbox.orders[order_id]) == "held"
        await anyio.sleep(0.1)
        assert money(sandbox.orders[order_id]) == "returned"
        assert await status(http, order_id) == (live | {"error": EXPIRED} if says_ended else live)
        with pytest.raises(ValueError, match="it has ended"):
            sandbox.deliver(order_id)
        assert await get(http, "/cancelorder", orderId=order_id) == {"status": "OK"}
        assert sandbox.orders[order_id].cancelled_at is None


async def test_an_invoice_expires_after_21_minutes() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=1260.5))
    async with connected(sandbox) as http:
        order_id = await place(http)
        await anyio.sleep(1260)
        assert await status(http, order_id) == sample("orderstatus_waiting_unpaid")
        with pytest.raises(ValueError, match="expired"):
            sandbox.pay(order_id)
        await anyio.sleep(10)
        assert money(sandbox.orders[order_id]) == "unpaid"
        assert sandbox.orders[order_id].final


@pytest.mark.parametrize("says_ended", [True, False])
@pytest.mark.parametrize("paid", [True, False])
async def test_a_cancelled_order_gives_the_money_back_once(says_ended: bool, paid: bool) -> None:
    sandbox = Sandbox(says_ended=says_ended, timeline=Timeline(code_after=300))
    async with connected(sandbox) as http:
        order_id = await place(http)
        if paid:
            sandbox.pay(order_id)
        await anyio.sleep(119.9)
        await get(http, "/cancelorder", expect=500, orderId=order_id)
        assert sandbox.orders[order_id].cancelled_at is None
        await anyio.sleep(0.1)
        for _ in range(2):
            assert await get(http, "/cancelorder", orderId=order_id) == {"status": "OK"}
            await anyio.sleep(200)
        order = sandbox.orders[order_id]
        assert order.cancelled_at == pytest.approx(order.created_at + 120)
        assert (money(order), order.code) == ("returned" if paid else "unpaid", None)
        assert (await status(http, order_id)).get("error") == (CANCELED if says_ended else None)
        with pytest.raises(ValueError, match="cancelled"):
            sandbox.pay(order_id)


async def test_an_order_with_a_code_cannot_be_cancelled() -> None:
    sandbox = Sandbox()
    async with connected(sandbox) as http:
        order_id = await place(http)
        sandbox.pay(order_id)
        sandbox.deliver(order_id)
        await anyio.sleep(120)
        assert await get(http, "/cancelorder", expect=500, orderId=order_id) == sample("cancelorder_error_500")
        assert money(sandbox.orders[order_id]) == "settled"


async def test_only_receive_orders_can_be_cancelled() -> None:
    async with connected(Sandbox(accounts={"a-key": 0})) as http:
        fund = (await post(http, "/fund", {"amount": 1}, headers=KEY))["orderId"]
        orders = [await place(http, isRental=True), await place_send(http), fund]
        await anyio.sleep(120)
        for order_id in orders:
            assert await get(http, "/cancelorder", expect=500, orderId=order_id) == sample("cancelorder_error_500")


# --- rentals, messages, funding ----------------------------------------------------------------------------------------------------


async def test_a_rental_settles_at_payment_and_takes_many_codes() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=1, number_after=2, code_after=3, code="000001"))
    async with connected(sandbox) as http:
        order_id = await place(http, isRental=True)
        await anyio.sleep(1)
        assert money(sandbox.orders[order_id]) == "settled"
        await anyio.sleep(3)
        assert (await status(http, order_id))["code"] == "000001"
        await anyio.sleep(5000)
        sandbox.deliver(order_id, "000002")
        assert (await status(http, order_id))["code"] == "000002"
        order = sandbox.orders[order_id]
        assert (order.kind, order.codes, order.final) == (OrderKind.rental, ["000001", "000002"], False)


async def test_a_rental_with_no_number_gives_the_money_back() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=0, no_number_after=20))
    async with connected(sandbox) as http:
        order_id = await place(http, isRental=True)
        await anyio.sleep(20)
        assert await status(http, order_id) == sample("orderstatus_no_number_error")
        assert money(sandbox.orders[order_id]) == "returned"


@pytest.mark.parametrize(("sms_status", "place_of_money"), [("queued", "held"), ("sent", "settled"), ("delivered", "settled")])
async def test_a_message_settles_when_it_is_sent(sms_status: str, place_of_money: str) -> None:
    sandbox = Sandbox()
    async with connected(sandbox) as http:
        order_id = await place_send(http, webhookUrl="https://example.org/hook", ref="me@example.org")
        order = sandbox.orders[order_id]
        assert (order.phone, order.message, order.webhook_url, order.ref) == (
            "+12025550143",
            "hello",
            "https://example.org/hook",
            "me@example.org",
        )
        sandbox.pay(order_id)
        assert money(order) == "held"
        sandbox.report(order_id, sms_status)
        assert money(order) == place_of_money
        await anyio.sleep(5000)
        assert (await status(http, order_id))["smsStatus"] == sms_status


async def test_a_message_that_fails_gives_the_money_back() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=0, failed_after=4))
    async with connected(sandbox) as http:
        order_id = await place_send(http)
        await anyio.sleep(4)
        assert (await status(http, order_id))["smsStatus"] == "failed"
        assert money(sandbox.orders[order_id]) == "returned"


async def test_a_message_goes_its_way_by_itself() -> None:
    sandbox = Sandbox(timeline=attrs.evolve(Timeline.typical(), paid_after=1))
    async with connected(sandbox) as http:
        order_id = await place_send(http)
        seen = [(await status(http, order_id)).get("smsStatus")]
        for seconds in (1, 3, 3):
            await anyio.sleep(seconds)
            seen.append((await status(http, order_id))["smsStatus"])
        assert seen == [None, "created", "sent", "delivered"]
        assert sandbox.orders[order_id].final


async def test_funding_adds_to_the_balance_when_it_is_paid() -> None:
    sandbox = Sandbox(accounts={"a-key": 500, "another": 1}, epoch=1_766_000_000)
    async with connected(sandbox) as http:
        reply = await post(http, "/fund", {"amount": 9500}, headers=KEY)
        assert await get(http, "/history", headers=KEY) == {"status": "OK", "totalAmount": 0, "orders": []}
        assert sandbox.balance("a-key") == 500
        sandbox.pay(reply["orderId"])
        order = sandbox.orders[reply["orderId"]]
        assert (money(order), order.final) == ("settled", True)
        assert await get(http, "/balance", headers=KEY) == {"status": "OK", "balance": 10_000}
        history = await get(http, "/history", headers=KEY)
        assert shape(history) == shape(sample("history"))
        (row,) = history["orders"]
        assert (history["totalAmount"], row["amount"], row["price"], row["userId"]) == (9500, 9500, 9500, "a-key")
        assert hashlib.sha256(bytes.fromhex(row["preimage"])).hexdigest() == row["preimageHash"]
        assert to_bytes(read_invoice(reply["payreq"]).fields["p"]).hex() == row["preimageHash"]
        assert (await get(http, "/history", headers={"X-API-Key": "another"}))["orders"] == []


# --- prepaid orders ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("says_ended", [True, False])
async def test_a_prepaid_order_is_charged_on_receipt_and_credited_when_it_ends_with_nothing(says_ended: bool) -> None:
    sandbox = Sandbox(accounts={"a-key": 5000}, says_ended=says_ended)
    async with connected(sandbox) as http:
        orders = [await place(http, immediate=True) for _ in range(3)]
        assert sandbox.balance("a-key") == 500
        assert all(order.prepaid and order.payreq is None and money(order) == "held" for order in sandbox.orders.values())
        sandbox.deliver(orders[0])
        sandbox.fail(orders[1])
        assert sandbox.balance("a-key") == 2000
        await anyio.sleep(1260)
        assert await get(http, "/balance", headers=KEY) == {"status": "OK", "balance": 3500}
        assert [money(sandbox.orders[order_id]) for order_id in orders] == ["settled", "returned", "returned"]
        with pytest.raises(ValueError, match="it was cancelled, or its invoice has expired"):
            sandbox.pay(orders[2])


async def test_a_prepaid_message_is_credited_when_it_fails() -> None:
    sandbox = Sandbox(accounts={"a-key": 3000})
    async with connected(sandbox) as http:
        order_id = await place_send(http, immediate=True)
        assert sandbox.balance("a-key") == 0
        assert (await status(http, order_id))["smsStatus"] == "created"
        sandbox.report(order_id, "failed")
        assert sandbox.balance("a-key") == 3000


async def test_a_key_that_is_not_needed_is_not_looked_at() -> None:
    sandbox = Sandbox(accounts={"a-key": 5000})
    async with connected(sandbox) as http:
        await post(http, "/createorder", {"country": 187, "service": "tg"}, headers={"X-API-Key": "another"})
        assert [call.had_key for call in sandbox.calls] == [True]
    with pytest.raises(KeyError, match="no account"):
        sandbox.balance("another")


# --- by itself ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [1.0, 20.0, 0.5])
async def test_an_order_goes_its_way_at_the_chosen_speed(speed: float) -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=10, number_after=8, code_after=45), speed=speed)
    async with connected(sandbox) as http:
        order_id = await place(http)
        seen = []
        for seconds in (9.99, 0.02, 7.98, 0.02, 36.98, 0.02):
            await anyio.sleep(seconds / speed)
            reply = await status(http, order_id)
            seen.append((reply["paid"], "number" in reply, "code" in reply))
        nothing, paid, number, code = (False, False, False), (True, False, False), (True, True, False), (True, True, True)
        assert seen == [nothing, paid, paid, number, number, code]


async def test_all_that_is_due_happens_at_its_own_time_however_late_one_looks() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=10, number_after=8, code_after=45, code="004217"))
    async with connected(sandbox) as http:
        order_id = await place(http)
        await anyio.sleep(5000)
        order = sandbox.orders[order_id]
    times = [(at or 0) - order.created_at for at in (order.paid_at, order.number_at, order.code_at)]
    assert times == pytest.approx([10, 18, 55])
    assert order.code == "004217"


async def test_a_code_that_comes_alone_brings_its_number() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=0, code_after=30))
    async with connected(sandbox) as http:
        order_id = await place(http)
        await anyio.sleep(30)
        order = sandbox.orders[order_id]
        assert order.number_at == order.code_at
        assert "number" in await status(http, order_id)


async def test_in_a_tie_the_code_is_in_time() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=0, code_after=1260))
    async with connected(sandbox) as http:
        order_id = await place(http)
        await anyio.sleep(2000)
        assert money(sandbox.orders[order_id]) == "settled"


async def test_what_was_done_by_hand_is_not_done_again() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=10, number_after=8, code_after=45, no_number_after=20))
    async with connected(sandbox) as http:
        order_id = await place(http)
        sandbox.pay(order_id)
        number, code = sandbox.assign(order_id, "442071838750"), sandbox.deliver(order_id, "1")
        await anyio.sleep(100)
        order = sandbox.orders[order_id]
        assert (order.paid_at, order.number, order.codes) == (order.created_at, "+442071838750", [code])
        assert number == "+442071838750"


async def test_each_order_can_have_its_own_timeline() -> None:
    def choose(order: SandboxOrder) -> Timeline:
        return Timeline(paid_after=1, code_after=1) if order.service == "tg" else Timeline(paid_after=1, no_number_after=1)

    sandbox = Sandbox(timeline=choose)
    async with connected(sandbox) as http:
        lucky, unlucky = await place(http, service="tg"), await place(http, service="wa")
        await anyio.sleep(2)
        assert [money(sandbox.orders[order_id]) for order_id in (lucky, unlucky)] == ["settled", "returned"]


async def test_any_clock_can_drive_it() -> None:
    seconds = 100.0
    sandbox = Sandbox(timeline=Timeline(paid_after=4), clock=lambda: seconds, speed=2)
    async with connected(sandbox) as http:
        order_id = await place(http)
        assert sandbox.orders[order_id].created_at == 200
        seconds = 102.0
        assert sandbox.orders[order_id].paid_at == 204


def test_after_the_loop_has_ended_the_sandbox_stands_still_and_can_be_looked_at() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=0.0))

    async def order() -> str:
        async with connected(sandbox) as http:
            return await place(http)

    order_id = anyio.run(order)
    sandbox.pay(order_id)
    assert sandbox.orders[order_id].paid_at == sandbox.orders[order_id].created_at


# --- steering --------------------------------------------------------------------------------------------------------------------


STEERS: dict[str, Callable[[Sandbox, str], object]] = {
    "pay": lambda sandbox, order_id: sandbox.pay(order_id),
    "assign": lambda sandbox, order_id: sandbox.assign(order_id),
    "deliver": lambda sandbox, order_id: sandbox.deliver(order_id),
    "fail": lambda sandbox, order_id: sandbox.fail(order_id),
    "report": lambda sandbox, order_id: sandbox.report(order_id, "sent"),
}


@pytest.mark.parametrize("steer", STEERS.values(), ids=STEERS)
def test_an_unknown_order_cannot_be_steered(steer: Callable[[Sandbox, str], object]) -> None:
    with pytest.raises(KeyError, match=r"the sandbox has no order ab\.\.ef"):
        steer(Sandbox(), "abcdefabcdef")


@pytest.mark.parametrize(
    ("kind", "done", "refused"),
    [
        ("receive", [], ["assign", "deliver", "fail", "report"]),
        ("receive", ["pay"], ["pay", "report"]),
        ("receive", ["pay", "assign"], ["pay", "assign", "report"]),
        ("receive", ["pay", "deliver"], ["pay", "assign", "deliver", "fail", "report"]),
        ("receive", ["pay", "fail"], ["pay", "assign", "deliver", "fail", "report"]),
        ("rental", [], ["assign", "deliver", "fail", "report"]),
        ("rental", ["pay", "deliver"], ["pay", "assign", "fail", "report"]),
        ("send", [], ["assign", "deliver", "fail", "report"]),
        ("send", ["pay"], ["pay", "assign", "deliver", "fail"]),
        ("send", ["pay", "report"], ["pay", "assign", "deliver", "fail", "report"]),
        ("fund", [], ["assign", "deliver", "fail", "report"]),
        ("fund", ["pay"], list(STEERS)),
    ],
)
async def test_nonsense_is_refused_with_a_masked_id_and_changes_nothing(kind: str, done: list[str], refused: list[str]) -> None:
    sandbox = Sandbox(accounts={"a-key": 0})
    async with connected(sandbox) as http:
        if kind == "send":
            order_id = await place_send(http)
        elif kind == "fund":
            order_id = (await post(http, "/fund", {"amount": 1}, headers=KEY))["orderId"]
        else:
            order_id = await place(http, isRental=kind == "rental")
        for name in done:
            STEERS[name](sandbox, order_id)
        before = attrs.asdict(sandbox.orders[order_id])
        for name in refused:
            with pytest.raises(ValueError, match="does not allow this") as caught:
                STEERS[name](sandbox, order_id)
            assert order_id not in str(caught.value)
        assert attrs.asdict(sandbox.orders[order_id]) == before


async def test_wrong_words_are_refused() -> None:
    sandbox = Sandbox()
    async with connected(sandbox) as http:
        receive, send = await place(http), await place_send(http)
        sandbox.pay(receive)
        sandbox.pay(send)
        for number in ("", "12", "+0123456789", "twelve", "1234567890123456"):
            with pytest.raises(ValueError, match=r"not in E\.164"):
                sandbox.assign(receive, number)
        with pytest.raises(ValueError, match="a code cannot be empty"):
            sandbox.deliver(receive, "")
        with pytest.raises(ValueError, match="an error cannot be empty"):
            sandbox.fail(receive, "")
        with pytest.raises(ValueError, match="a status cannot be empty"):
            sandbox.report(send, "")
        sandbox.report(send, "sent")
        with pytest.raises(ValueError, match="its SMS was sent"):
            sandbox.report(send, "failed")
        sandbox.report(send, "delivered")


# --- what a test can see -----------------------------------------------------------------------------------------------------------


async def test_each_request_is_recorded_with_its_time() -> None:
    sandbox = Sandbox(accounts={"a-key": 1}, speed=2)
    async with connected(sandbox) as http:
        start = anyio.current_time()
        await place(http, ref="me@example.org")
        await anyio.sleep(3)
        await http.get("/orderstatus?orderId=a%26b&orderId=c%2Bd&empty=")
    first, second = sandbox.calls
    assert (first.method, first.path, first.query, first.had_key) == ("POST", "/createorder", {}, True)
    assert first.body == {"country": 187, "service": "tg", "ref": "me@example.org"}
    assert (second.method, second.path, second.query, second.body) == ("GET", "/orderstatus", {"orderId": "c+d", "empty": ""}, None)
    assert not second.had_key
    assert second.at - first.at == pytest.approx(6)
    assert first.at == pytest.approx(start * 2)


async def test_the_same_seed_and_calls_give_the_same_world() -> None:
    async def world(seed: int | str) -> list[Any]:
        sandbox = Sandbox(seed=seed)
        drawn = list[Any]()
        async with connected(sandbox) as http:
            for _ in range(100):
                order_id = await place(http)
                sandbox.pay(order_id)
                drawn.append((order_id, sandbox.assign(order_id), sandbox.deliver(order_id)))
        return drawn

    first, second, other = await world(1), await world(1), await world("1")
    assert first == second
    assert not {row[0] for row in first} & {row[0] for row in other}
    assert all(re.fullmatch("[0-9]{6}", code) for _, _, code in first)
    assert any(code.startswith("0") for _, _, code in first)
    assert len({order_id for order_id, _, _ in first}) == 100


async def test_numbers_are_of_their_country() -> None:
    sandbox = Sandbox()
    async with connected(sandbox) as http:
        for country, pattern in [(0, r"\+7[0-9]{10}"), (16, r"\+44[0-9]{10}"), (43, r"\+49[0-9]{10}"), (187, r"\+1[0-9]{10}")]:
            order_id = await place(http, country=country)
            sandbox.pay(order_id)
            assert re.fullmatch(pattern, sandbox.assign(order_id))


async def test_no_repr_and_no_log_line_holds_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="sms4sats_async")
    sandbox = Sandbox(accounts={"a-key": 5000}, timeline=Timeline(code="735191"))
    async with connected(sandbox) as http:
        order_id = await place(http, immediate=True)
        secrets = [order_id, sandbox.assign(order_id), str(sandbox.deliver(order_id, "735191")), "a-key"]
        await status(http, order_id)
        order = sandbox.orders[order_id]
        shown = repr([sandbox, order, sandbox.calls, order.timeline]) + str(caplog.messages)
    assert not [secret for secret in secrets if secret in shown]
    assert repr(sandbox) == "<Sandbox: 1 orders, 2 calls>"


# --- the ASGI protocol -------------------------------------------------------------------------------------------------------------


async def exchange(sandbox: Sandbox, scope: dict[str, Any], *received: dict[str, Any]) -> list[Any]:
    """Speak to the app as a server does and return what it sent."""
    incoming, sent = iter(received), list[Any]()

    async def receive() -> dict[str, Any]:
        return next(incoming)

    async def send(message: Any) -> None:
        sent.append(message)

    await sandbox(scope, receive, send)
    return sent


async def test_it_takes_part_in_the_life_of_a_server() -> None:
    sent = await exchange(Sandbox(), {"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_other_kinds_of_connection_are_left_alone() -> None:
    assert await exchange(Sandbox(), {"type": "websocket"}) == []


def http_scope(path: str, **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []} | more


async def test_a_caller_that_has_gone_before_the_end_of_its_request_orders_nothing() -> None:
    sandbox = Sandbox()
    part = {"type": "http.request", "body": b'{"country": 187,', "more_body": True}
    assert await exchange(sandbox, http_scope("/createorder"), part, {"type": "http.disconnect"}) == []
    assert (sandbox.calls, sandbox.orders) == ([], {})


async def test_it_can_be_mounted_under_a_path_and_is_sent_a_body_in_parts() -> None:
    sandbox = Sandbox()
    parts: list[dict[str, Any]] = [
        {"type": "http.request", "body": b'{"country": 187,', "more_body": True},
        {"type": "http.request", "body": b'"service": "tg"}'},
    ]
    start, body = await exchange(sandbox, http_scope("/sms/createorder", root_path="/sms"), *parts)
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert json.loads(body["body"])["orderId"] in sandbox.orders
    (root, _) = await exchange(sandbox, http_scope("/sms", root_path="/sms", method="GET"), {"type": "http.request"})
    assert root["status"] == 200
