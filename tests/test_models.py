"""What the service may send, decoded: every sample, every oddity that API.md tells of, and whatever else JSON can hold."""

import copy
import json
import pickle
import time
import typing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sms4sats_async.models import (
    Country,
    Funding,
    History,
    MalformedReply,
    Order,
    OrderKind,
    OrderStatus,
    Price,
    RentalCountry,
    Service,
    SmsStatus,
    balance_sats,
    confirmation,
    invoice_sats,
    mask,
    order_id_in,
)

SAMPLES = Path(__file__).parent / "samples"
NOW = datetime(2026, 5, 4, 3, 2, 1, 123456, UTC)
ORDER_ID = "0123456789abcdef" * 4
INVOICE = "lnbc15u1p55xpvqpp5mn3xx3nqwwwqvrfrkj67na5lgrehvengkr8fqdcll56m3thg63sq"

Decode = Callable[[Any], Any]


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text())


def placed(kind: OrderKind = OrderKind.receive, *, immediate: bool = False) -> Decode:
    return lambda payload: Order.from_wire(payload, kind=kind, created_at=NOW, immediate=immediate, country=187, service="tg")


def status(payload: object) -> OrderStatus:
    return OrderStatus.from_wire(payload, ORDER_ID)


def status_with(**fields: object) -> OrderStatus:
    return status({"status": "OK", "paid": True, **fields})


def absent_or(field: str, *values: object) -> list[dict[str, object]]:
    return [{}, *({field: value} for value in values)]


def short(value: object) -> str:
    return repr(value)[:30]


def only(found: list[Any]) -> Any:
    assert len(found) == 1
    return found[0]


# --- every sample ------------------------------------------------------------------------------------------------------------------


def an_order(order_id: str, kind: OrderKind, payreq: str | None = None, amount_sats: int | None = None) -> Order:
    return Order(order_id, kind, payreq, payreq is None, amount_sats, NOW, 187, "tg")


def a_status(**fields: Any) -> OrderStatus:
    return OrderStatus(order_id=ORDER_ID, **{"paid": True} | fields)


def sent_sms(sms_status: SmsStatus) -> OrderStatus:
    return a_status(sms_status=sms_status, activation_id="SMfa2be998e8913565cbbd5f750e32b1b5", timestamp=OCTOBER)


def services(*rows: tuple[str, str, int]) -> list[Service]:
    return [Service(code, name, count, f"https://sms4sats.com/assets/{code}.png") for code, name, count in rows]


OCTOBER = datetime(2022, 10, 24, 12, 10, 6, 969000, UTC)
DECEMBER = datetime(2025, 12, 17, 19, 34, 2, 123000, UTC)
SAMPLE_COUNTRIES = {
    0: "Russia", 1: "Ukraine", 2: "Kazakhstan", 6: "Indonesia", 15: "Poland", 16: "United Kingdom", 22: "India", 36: "Canada",
    43: "Germany", 48: "Netherlands", 78: "France", 187: "USA",
}  # fmt: skip
NO_NUMBER = "No available number, payment request is canceled. Your funds are returned to your wallet automatically."

DECODED: dict[str, tuple[Decode, Any]] = {
    "balance": (balance_sats, 10_000),
    "cancelorder_ok": (confirmation, None),
    "createorder_ok": (
        placed(),
        an_order(
            "644bfd59c8e0f600f7b5a947f07c52d802fb0914a5af6b794e6672e5fd0a3bd4",
            OrderKind.receive,
            sample("createorder_ok")["payreq"],
            1_500,
        ),
    ),
    "createorder_rental_ok": (
        placed(OrderKind.rental),
        an_order(
            "224a1f252b7aef5eb70701668f42efabea5bdc8c63ea79077b481660b04d67fe",
            OrderKind.rental,
            sample("createorder_rental_ok")["payreq"],
            1_368,
        ),
    ),
    "createorder_immediate_paid": (
        placed(immediate=True),
        an_order("d074aab61c8c9cfd7e398519d41330868b27f60bbef459363634ebda6ae2ce40", OrderKind.receive),
    ),
    "createsendorder_ok": (
        placed(OrderKind.send),
        an_order(
            "181eabe2f19650ea060734452e74a310df93879c8f372547816054c834b71511",
            OrderKind.send,
            sample("createsendorder_ok")["payreq"],
            3_000,
        ),
    ),
    "createsendorder_immediate_paid": (
        placed(OrderKind.send, immediate=True),
        an_order("f117dc516d2b0ec34395d0ed127787d9a84c9eb5f41d004dc1905f493408572e", OrderKind.send),
    ),
    "fund_ok": (
        placed(OrderKind.fund),
        an_order(
            "ce1a9fdde9fb3821af46aa404598a6d3d5839fcef372b7bebcd46812dec7bf9e",
            OrderKind.fund,
            sample("fund_ok")["payreq"],
            9_500,
        ),
    ),
    "getCountries": (Country.list_from_wire, [Country(number, name) for number, name in SAMPLE_COUNTRIES.items()]),
    "getCountries_cc_country": (
        Country.list_from_wire,
        [Country(999, "Auto-Select"), Country(0, "Russia"), Country(16, "England"), Country(187, "USA")],
    ),
    "getRentalCountries": (
        RentalCountry.list_from_wire,
        [
            RentalCountry(6, "Indonesia", "2", 1_368),
            RentalCountry(16, "England", "2", 4_815),
            RentalCountry(43, "Germany", "2", 6_120),
            RentalCountry(187, "USA", "2", 7_950),
        ],
    ),
    "getnumbersstatus": (
        Service.list_from_wire,
        services(
            ("ot", "Any other", 1204),
            ("tg", "Telegram", 3310),
            ("wa", "Whatsapp", 871),
            ("go", "Google,youtube,Gmail", 15022),
            ("fb", "facebook", 9120),
            ("ig", "Instagram+Threads", 7713),
            ("tw", "Twitter", 2650),
            ("ds", "Discord", 4401),
            ("dr", "OpenAI", 388),
            ("vk", "vk.com", 12),
            ("am", "Amazon", 5150),
            ("acz", "Claude", 0),
        ),
    ),
    "getnumbersstatus_empty": (Service.list_from_wire, []),
    "history": (
        History.from_wire,
        History(
            349_500,
            [
                Funding(9_500, 9_500, datetime(2022, 11, 16, 15, 33, 51, 730000, UTC), "fund account", hold_invoice=True),
                Funding(340_000, 340_000, datetime(2022, 11, 17, 15, 46, 40, tzinfo=UTC), "fund account", hold_invoice=True),
            ],
        ),
    ),
    "orderstatus_waiting_unpaid": (status, a_status(paid=False)),
    "orderstatus_paid_no_number": (status, a_status()),
    "orderstatus_number_assigned": (
        status,
        a_status(number="+12025550143", activation_id="1125699791", country="USA", service="tg", timestamp=DECEMBER),
    ),
    "orderstatus_code_int": (
        status,
        a_status(
            number="+12345678901",
            code="48010",
            code_was_number=True,
            activation_id="1125699791",
            country="India",
            service="openAI",
            timestamp=OCTOBER,
        ),
    ),
    "orderstatus_code_str_leading_zero": (
        status,
        a_status(number="+12025550143", code="004217", activation_id="1125699791", country="USA", service="tg", timestamp=DECEMBER),
    ),
    "orderstatus_no_number_error": (status, a_status(error=NO_NUMBER)),
    "orderstatus_send_created": (status, sent_sms(SmsStatus.created)),
    "orderstatus_send_sent": (status, sent_sms(SmsStatus.sent)),
    "orderstatus_send_delivered": (status, sent_sms(SmsStatus.delivered)),
    "orderstatus_send_failed": (status, sent_sms(SmsStatus.failed)),
    "webhook_send_delivered": (status, sent_sms(SmsStatus.delivered)),
    "price_country_service": (
        Price.from_wire,
        Price(1_500, 1_500, 3_000, 15_000, 4_000, 187, "sms4sats payment US google"),
    ),
    "price_generic": (Price.from_wire, Price(None, 1_500, 3_000, 15_000, 4_000)),
}
REFUSED = {
    "cancelorder_error_500",
    "cancelorder_too_early",
    "createorder_error_reason",
    "error_400_missing_api_key",
    "error_500",
    "fund_error_500",
}


@pytest.mark.parametrize("name", DECODED)
def test_a_sample_is_decoded_to_every_attribute(name: str) -> None:
    decode, expected = DECODED[name]
    assert decode(sample(name)) == expected


def test_every_sample_is_decoded_here_or_is_a_refusal() -> None:
    assert {path.stem for path in SAMPLES.glob("*.json")} == {*DECODED, *REFUSED, "index"}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_no_refusal_passes_for_an_order_a_status_or_a_confirmation(name: str) -> None:
    for decode in (placed(), placed(immediate=True), status, balance_sats, confirmation):
        with pytest.raises(MalformedReply):
            decode(sample(name))


@pytest.mark.parametrize("name", [name for name, (decode, _) in DECODED.items() if decode not in (balance_sats, confirmation)])
def test_a_model_keeps_the_servers_own_reply(name: str) -> None:
    payload = sample(name)
    decoded = DECODED[name][0](payload)
    if isinstance(decoded, History):
        assert decoded.raw["totalAmount"] == 349_500
        assert decoded.fundings[0].raw["preimage"] == payload["orders"][0]["preimage"]
    elif isinstance(decoded, list):
        assert [one.raw for one in decoded] == payload
    else:
        assert decoded.raw == payload


def test_a_field_that_the_api_adds_tomorrow_is_readable_today() -> None:
    decoded: list[Any] = [
        *Country.list_from_wire([{"id": 1, "new": "x"}]),
        *Service.list_from_wire([{"value": "tg", "new": "x"}]),
        *RentalCountry.list_from_wire([{"cc": 1, "price": 1, "new": "x"}]),
        Price.from_wire({"new": "x"}),
        placed()({"orderId": "a", "payreq": INVOICE, "new": "x"}),
        status_with(new="x"),
        History.from_wire({"new": "x"}),
        *History.from_wire({"orders": [{"new": "x"}]}).fundings,
    ]
    assert [one.raw["new"] for one in decoded] == ["x"] * len(decoded)


# --- the catalogue -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param([{"id": 187, "eng": "USA"}], id="array, id and eng"),
        pytest.param([{"cc": 187, "country": "USA"}], id="array, cc and country"),
        pytest.param([{"id": 187, "name": "USA"}], id="array, id and name"),
        pytest.param([{"id": "187", "eng": " USA "}], id="id as text, blanks round the name"),
        pytest.param([{"id": 187.0, "eng": "USA"}], id="id as a float"),
        pytest.param([{"id": None, "cc": 187, "eng": None, "country": None, "name": "USA"}], id="nulls beside the fields that count"),
        pytest.param([None, {"id": 187, "eng": "USA"}, None], id="null rows"),
        pytest.param([{"id": 187, "eng": "USA"}, {"eng": "Nowhere"}, {"id": "x"}, {"id": True}, {"id": []}], id="rows without an id"),
        pytest.param({"187": {"id": 187, "eng": "USA"}}, id="object of rows"),
        pytest.param({"0": {"cc": 187, "country": "USA"}}, id="object of rows whose own id counts"),
        pytest.param({"187": {"eng": "USA"}}, id="object whose keys are the ids"),
        pytest.param({"187": "USA"}, id="object of names"),
        pytest.param({"187": "USA", "status": "OK", "0": None}, id="object of names and other things"),
    ],
)
def test_countries_are_read_however_they_are_spelt(payload: object) -> None:
    assert Country.list_from_wire(payload) == [Country(187, "USA")]


@pytest.mark.parametrize("zero", [0, "0", 0.0, " 0 "])
def test_country_0_is_a_country(zero: object) -> None:
    assert Country.list_from_wire([{"id": zero, "eng": "Russia"}]) == [Country(0, "Russia")]
    assert Country.list_from_wire({"0": {"eng": "Russia"}}) == [Country(0, "Russia")]
    assert RentalCountry.list_from_wire([{"cc": zero, "country": "Russia", "price": 5}]) == [RentalCountry(0, "Russia", "", 5)]
    assert Price.from_wire({"computed": {"country": zero}}).country_id == 0


@pytest.mark.parametrize("name", [None, "", "  ", [], {}, True])
def test_a_country_without_a_name_is_called_by_its_id(name: object) -> None:
    assert Country.list_from_wire([{"id": 7, "eng": name}]) == [Country(7, "7")]
    assert RentalCountry.list_from_wire([{"id": 7, "eng": name, "price": 1}]) == [RentalCountry(7, "7", "", 1)]


LISTS = pytest.mark.parametrize("decode", [Country.list_from_wire, Service.list_from_wire, RentalCountry.list_from_wire])


@LISTS
@pytest.mark.parametrize("payload", [None, 5, 5.5, "text", True], ids=repr)
def test_what_is_no_list_is_refused(decode: Decode, payload: object) -> None:
    with pytest.raises(MalformedReply, match=r"the list of [a-z ]+ is (null|a number|a string|a boolean)"):
        decode(payload)


@LISTS
@pytest.mark.parametrize("payload", [[{}], [{}, None, {"x": 1}], {"status": "OK"}, {"status": "OK", "data": [{"id": 1}]}], ids=repr)
def test_a_list_of_which_no_row_can_be_read_is_refused(decode: Decode, payload: object) -> None:
    with pytest.raises(MalformedReply, match=r"none of the \d rows"):
        decode(payload)


@LISTS
@pytest.mark.parametrize("payload", [[], {}, [None]], ids=repr)
def test_an_empty_list_is_an_empty_list(decode: Decode, payload: object) -> None:
    assert decode(payload) == []


@pytest.mark.parametrize(
    ("image", "url"),
    [
        pytest.param({"src": "assets/tg.png"}, "https://sms4sats.com/assets/tg.png", id="relative"),
        pytest.param({"src": "/assets/tg.png"}, "https://sms4sats.com/assets/tg.png", id="from the root"),
        pytest.param({"src": "https://cdn.example/tg.png"}, "https://cdn.example/tg.png", id="absolute"),
        pytest.param({"src": "HTTP://cdn.example/tg.png"}, "HTTP://cdn.example/tg.png", id="absolute, upper case"),
        pytest.param({"src": "//cdn.example/tg.png"}, "https://cdn.example/tg.png", id="without a scheme"),
        pytest.param("assets/tg.png", "https://sms4sats.com/assets/tg.png", id="not in an object"),
        pytest.param("Xbox.png", "https://sms4sats.com/Xbox.png", id="a capital at the beginning"),
        pytest.param({"src": ""}, None, id="empty"),
        pytest.param({"src": None}, None, id="null src"),
        pytest.param({"avatar": True}, None, id="no src"),
        pytest.param(None, None, id="null"),
        pytest.param([], None, id="a list"),
    ],
)
def test_an_image_address_is_absolute_or_none(image: object, url: str | None) -> None:
    assert only(Service.list_from_wire([{"value": "tg", "image": image}])).image_url == url
    assert only(Service.list_from_wire([{"value": "tg"}])).image_url is None


@pytest.mark.parametrize(
    ("count", "read"),
    [("3310", 3310), (3310, 3310), (3310.0, 3310), ("0", 0), (0, 0), ("", None), (None, None), ("many", None), (True, None), ([], None)],
    ids=repr,
)
def test_a_count_is_a_number_or_none(count: object, read: int | None) -> None:
    assert only(Service.list_from_wire([{"value": "tg", "count": count}])).count == read


@pytest.mark.parametrize(
    ("row", "service"),
    [
        pytest.param({"key": "tg", "text": "Telegram"}, Service("tg", "Telegram"), id="key alone"),
        pytest.param({"key": "x", "value": "tg", "text": "Telegram"}, Service("tg", "Telegram"), id="value before key"),
        pytest.param({"key": "tg", "value": None, "text": ""}, Service("tg", "tg"), id="null value, empty text"),
        pytest.param({"value": 23}, Service("23", "23"), id="a number for a code"),
    ],
)
def test_a_service_is_known_by_its_value_or_key(row: dict[str, Any], service: Service) -> None:
    assert Service.list_from_wire([row, {"text": "no code"}, None, 5]) == [service]


def test_a_service_that_comes_twice_is_kept_once_as_it_came_first() -> None:
    found = Service.list_from_wire([{"value": "tg", "text": "first"}, {"value": "wa"}, {"value": "tg", "text": "second"}])
    assert {one.code: one.name for one in found} == {"tg": "first", "wa": "wa"}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("row", "rental"),
    [
        pytest.param({"price": "1368"}, RentalCountry(6, "Indonesia", "2", 1368), id="price as text"),
        pytest.param({"duration": 2}, RentalCountry(6, "Indonesia", "2", 100), id="duration as a number"),
        pytest.param({"duration": None}, RentalCountry(6, "Indonesia", "", 100), id="null duration"),
        pytest.param({"price": 99.2}, RentalCountry(6, "Indonesia", "2", 100), id="a fraction of a satoshi, rounded up"),
        pytest.param({"price": 0}, RentalCountry(6, "Indonesia", "2", 0), id="for nothing"),
    ],
)
def test_a_rental_country_is_read_leniently(row: dict[str, Any], rental: RentalCountry) -> None:
    assert RentalCountry.list_from_wire([{"cc": 6, "country": "Indonesia", "duration": "2", "price": 100} | row]) == [rental]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"country": "Poland"}, "Poland"),
        ({"eng": "Poland"}, "Poland"),
        ({"name": "Poland"}, "Poland"),
        ({"country": "Poland", "eng": "no", "name": "no"}, "Poland"),
        ({"country": "", "eng": None}, "15"),
    ],
    ids=["country", "eng", "name", "country first", "none"],
)
def test_the_name_of_a_rental_country_is_read_however_it_is_spelt(row: dict[str, Any], name: str) -> None:
    assert RentalCountry.list_from_wire([{"cc": 15, "price": 100} | row]) == [RentalCountry(15, name, "", 100)]


@pytest.mark.parametrize("row", [{"cc": 7}, {"cc": 7, "price": "1000-2000"}, {"price": 5}, {"cc": None, "price": 5}], ids=repr)
def test_a_rental_country_without_an_id_or_a_price_is_left_out(row: dict[str, Any]) -> None:
    assert RentalCountry.list_from_wire([row, {"cc": 6, "price": 1}]) == [RentalCountry(6, "6", "", 1)]


# --- prices ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "sats"),
    [
        ("1500", 1500), (1500, 1500), (1500.0, 1500), ("1500.0", 1500), (1500.01, 1501), ("1500.5", 1501), ("1.5e3", 1500), ("1E3", 1000),
        (0, 0), ("0", 0), (-1.5, -1), ("1500-3000", None), ("from 1500", None), ("", None), ("  ", None), (None, None), (True, None),
        (float("inf"), None), ([1500], None), ({"min": 1500}, None),
        ("1,500", None), ("\u0661\u0665", None), ("9" * 31, None), ("nan", None),
    ],
    ids=repr,
)  # fmt: skip
def test_a_price_is_whole_satoshis_rounded_up_and_a_range_is_none(sent: object, sats: int | None) -> None:
    price = Price.from_wire({"receive": sent, "send": sent, "rent": sent, "s4s": sent, "computed": {"price": sent}})
    assert (price.receive_sats, price.send_sats, price.rent_sats, price.s4s_sats, price.sats) == (sats,) * 5


@pytest.mark.parametrize("computed", [None, [], "1500", 5, {}], ids=repr)
def test_a_price_without_a_computed_one_has_no_sats(computed: object) -> None:
    assert Price.from_wire({"computed": computed, "receive": 1}) == Price(receive_sats=1)


@pytest.mark.parametrize("country", ["187", 187, 187.0])
def test_the_country_of_a_price_is_a_number_or_none(country: object) -> None:
    assert Price.from_wire({"computed": {"country": country}}).country_id == 187
    assert Price.from_wire({"computed": {"country": "us"}}).country_id is None


# --- orders ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payreq", ["paid", "PAID", " paid "])
@pytest.mark.parametrize("immediate", [True, False])
def test_the_word_paid_is_no_invoice(payreq: str, *, immediate: bool) -> None:
    order = placed(immediate=immediate)({"orderId": "abc", "payreq": payreq})
    assert (order.prepaid, order.payreq, order.amount_sats) == (True, None, None)


@pytest.mark.parametrize("fields", [{}, {"payreq": None}, {"payreq": ""}, {"payreq": "  "}, {"payreq": []}], ids=repr)
def test_a_missing_payreq_counts_as_prepaid_only_when_it_was_to_be_charged(fields: dict[str, Any]) -> None:
    order = placed(immediate=True)({"orderId": "abc", **fields})
    assert (order.prepaid, order.payreq, order.amount_sats) == (True, None, None)
    with pytest.raises(MalformedReply, match="no payreq") as caught:
        placed()({"orderId": "abc", **fields})
    assert caught.value.order_id == "abc"


@pytest.mark.parametrize("payreq", ["hello", "lnbc", "lnbc1", "lnbc15u", f"x{INVOICE}", INVOICE + "b", "bitcoin:bc1q", "12345", 12345])
@pytest.mark.parametrize("immediate", [True, False])
def test_a_payreq_that_is_no_invoice_is_refused_and_the_order_id_is_kept(payreq: object, *, immediate: bool) -> None:
    with pytest.raises(MalformedReply, match="the payreq is not a Lightning invoice") as caught:
        placed(immediate=immediate)({"orderId": "abc", "payreq": payreq})
    assert caught.value.order_id == "abc"


@pytest.mark.parametrize("prefix", ["", "lightning:", "LIGHTNING:", "lightning://"])
@pytest.mark.parametrize("invoice", [INVOICE, INVOICE.upper()])
def test_an_invoice_may_have_a_prefix_and_be_in_upper_case(prefix: str, invoice: str) -> None:
    order = placed()({"orderId": "abc", "payreq": f" {prefix}{invoice}\n"})
    assert (order.payreq, order.amount_sats, order.prepaid) == (invoice, 1_500, False)


def test_no_order_is_prepaid_that_was_not_asked_to_be() -> None:
    with pytest.raises(MalformedReply, match="no payreq"):
        Order.from_wire({"orderId": "abc"}, kind=OrderKind.receive, created_at=NOW)


def test_an_invoice_is_an_invoice_even_when_it_was_to_be_charged() -> None:
    order = placed(immediate=True)({"orderId": "abc", "payreq": INVOICE})
    assert (order.payreq, order.prepaid) == (INVOICE, False)


@pytest.mark.parametrize(
    ("sent", "order_id"), [("abc", "abc"), (" abc ", "abc"), (123, "123"), (0, "0"), ("a&b#c/d", "a&b#c/d"), (1e3, "1000")]
)
def test_an_order_id_is_opaque_text(sent: object, order_id: str) -> None:
    assert placed()({"orderId": sent, "payreq": INVOICE}).id == order_id


@pytest.mark.parametrize("fields", absent_or("orderId", None, "", " ", [], {}, True, float("inf")), ids=repr)
@pytest.mark.parametrize("immediate", [True, False])
def test_an_order_without_an_id_is_refused(fields: dict[str, Any], *, immediate: bool) -> None:
    with pytest.raises(MalformedReply, match="no orderId") as caught:
        placed(immediate=immediate)({"status": "OK", "payreq": INVOICE, **fields})
    assert caught.value.order_id is None


SINGLE = pytest.mark.parametrize(
    "decode", [placed(), status, Price.from_wire, balance_sats, History.from_wire], ids=["order", "status", "price", "balance", "history"]
)


@SINGLE
@pytest.mark.parametrize(
    ("payload", "kind"), [(None, "null"), ([], "an array"), ("x", "a string"), (5, "a number"), (1.5, "a number"), (True, "a boolean")]
)
def test_what_should_be_an_object_and_is_none_is_refused_by_its_type(decode: Decode, payload: object, kind: str) -> None:
    with pytest.raises(MalformedReply, match=f"is not an object but {kind}$"):
        decode(payload)


@pytest.mark.parametrize(
    ("decode", "payload", "words"),
    [
        (placed(), [], "the order is not an object but an array"),
        (placed(), {}, "no orderId"),
        (placed(), {"orderId": "abc"}, "no payreq"),
        (placed(), {"orderId": "abc", "payreq": "x"}, "the payreq is not a Lightning invoice"),
        (status, None, "the status is not an object but null"),
        (status, {}, "no boolean paid"),
        (confirmation, "OK", "the answer is not an object but a string"),
        (confirmation, {}, "no status OK"),
        (Price.from_wire, 5, "the price is not an object but a number"),
        (balance_sats, True, "the balance is not an object but a boolean"),
        (balance_sats, {}, "no balance"),
        (History.from_wire, 1.5, "the history is not an object but a number"),
        (History.from_wire, {"orders": 5}, "the list of fundings is a number"),
        (History.from_wire, {"orders": [5]}, "none of the 1 rows in the list of fundings can be read"),
        (Country.list_from_wire, None, "the list of countries is null"),
        (Country.list_from_wire, [{}, {"x": 1}], "none of the 2 rows in the list of countries can be read"),
        (Service.list_from_wire, "tg", "the list of services is a string"),
        (RentalCountry.list_from_wire, 5, "the list of rental countries is a number"),
    ],
)
def test_a_reply_that_cannot_be_decoded_is_refused_in_words_that_say_what_was_asked_for(
    decode: Decode, payload: object, words: str
) -> None:
    with pytest.raises(MalformedReply) as caught:
        decode(payload)
    assert str(caught.value) == words


DATA = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


@pytest.mark.parametrize(
    ("start", "sats"),
    [
        ("lnbc", None),
        ("lnbc2", 200_000_000),
        ("lnbc20m", 2_000_000),
        ("lnbc2500u", 250_000),
        ("lnbc13680n", 1_368),
        ("lnbc10n", 1),
        ("lnbc1n", 1),
        ("lnbc11n", 2),
        ("lnbc9678785340p", 967_879),
        ("lnbc10000p", 1),
        ("lnbc10010p", 2),
        ("lnbc1p", 1),
        ("lnbc0u", 0),
        ("lntb20m", 2_000_000),
        ("lntb", None),
        ("lnbcrt50u", 5_000),
        ("lntbs15u", 1_500),
        ("lnsb15u", 1_500),
    ],
)
def test_an_invoice_tells_its_amount_rounded_up(start: str, sats: int | None) -> None:
    assert invoice_sats(f"{start}1{DATA}") == sats
    assert invoice_sats(f"{start}1{DATA}".upper()) == sats


@given(st.integers(0, 10**18 - 1), st.sampled_from(["", "m", "u", "n", "p"]), st.sampled_from(["bc", "tb", "tbs", "bcrt"]))
def test_an_amount_is_never_read_too_low(figure: int, multiplier: str, network: str) -> None:
    bitcoins = figure * Fraction(1, {"": 1, "m": 10**3, "u": 10**6, "n": 10**9, "p": 10**12}[multiplier])
    assert invoice_sats(f"ln{network}{figure}{multiplier}1{DATA}") == ceil(bitcoins * 10**8)


@pytest.mark.parametrize(
    "text",
    ["", "ln", "lnbc1", f"lnbc-5u1{DATA}", f"lnbc5x1{DATA}", f"lnbc5.5u1{DATA}", f"lnxx5u1{DATA}", f"lnbc5u{DATA}", f"lnbc5u1{DATA}o",
     f"lnbc5u1{DATA}\n", f"lnbc{'9' * 19}1{DATA}", f"lnbc\u0665u1{DATA}", f"lightning:lnbc5u1{DATA}"],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_invoice_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a Lightning invoice"):
        invoice_sats(text)


# --- orders, stored and read back --------------------------------------------------------------------------------------------------

ORDERS = st.builds(
    Order,
    id=st.text(min_size=1),
    kind=st.sampled_from(OrderKind),
    payreq=st.none() | st.just(INVOICE),
    prepaid=st.booleans(),
    amount_sats=st.none() | st.integers(0, 10**12),
    created_at=st.datetimes(timezones=st.just(UTC)),
    country=st.none() | st.integers(0, 999) | st.text(min_size=1),
    service=st.none() | st.text(min_size=1),
)


@given(ORDERS)
def test_an_order_goes_to_a_dict_and_back(order: Order) -> None:
    stored = order.to_dict()
    assert Order.from_dict(stored) == order
    assert Order.from_dict(json.loads(json.dumps(stored))) == order
    assert "raw" not in stored


def test_a_stored_order_keeps_its_form() -> None:
    stored = Order("abc", OrderKind.rental, INVOICE, False, 1_500, NOW, 0, "full", raw={"x": 1}).to_dict()
    assert stored == {
        "version": 1,
        "id": "abc",
        "kind": "rental",
        "payreq": INVOICE,
        "prepaid": False,
        "amount_sats": 1_500,
        "created_at": "2026-05-04T03:02:01.123456+00:00",
        "country": 0,
        "service": "full",
    }


def test_a_stored_order_is_read_leniently() -> None:
    before = datetime.now(UTC)
    order = Order.from_dict({"id": "abc", "version": 7, "unheard_of": [1]})
    assert order == Order("abc", created_at=order.created_at)
    assert (order.kind, order.payreq, order.prepaid, order.raw) == (OrderKind.receive, None, False, {})
    assert before <= order.created_at <= datetime.now(UTC)
    assert Order.from_dict({"id": "abc", "created_at": None}).created_at >= before


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-05-04T03:02:01Z", datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)),
        ("2026-05-04T05:02:01+02:00", datetime(2026, 5, 4, 5, 2, 1, tzinfo=timezone(timedelta(hours=2)))),
        ("2026-05-04T03:02:01", datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)),
    ],
)
def test_a_stored_time_is_aware(text: str, moment: datetime) -> None:
    read = Order.from_dict({"id": "abc", "created_at": text}).created_at
    assert read == moment
    assert read.tzinfo is not None


@pytest.mark.parametrize(
    "data",
    [{}, {"id": ""}, {"id": None}, {"id": 5}, {"id": "a", "kind": "gift"}, {"id": "a", "kind": []}, {"id": "a", "created_at": "yesterday"},
     {"id": "a", "created_at": 5}, {"id": "a", "payreq": 5}, {"id": "a", "amount_sats": "abc"}, {"id": "a", "amount_sats": True},
     [], "ab12", {"id": "a", "country": [1]}, {"id": "a", "country": True}, {"id": "a", "prepaid": "false"}, {"id": "a", "service": 1}],
    ids=repr,
)  # fmt: skip
def test_a_stored_order_that_makes_no_sense_is_a_value_error(data: Any) -> None:
    with pytest.raises(ValueError, match=r"no id|not a valid OrderKind|isoformat|order: \w+ cannot be|order: not an object"):
        Order.from_dict(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "order: not an object but an array"),
        ({"id": ""}, "order: no id"),
        ({"id": 5}, "order: id cannot be a number"),
        ({"id": "a", "prepaid": "false"}, "order: prepaid cannot be a string"),
        ({"id": "a", "amount_sats": True}, "order: amount_sats cannot be a boolean"),
        ({"id": "a", "service": [1]}, "order: service cannot be an array"),
        ({"id": "a", "country": {}}, "order: country cannot be an object"),
    ],
)
def test_a_stored_order_is_refused_in_words_that_name_the_field(data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        Order.from_dict(data)


STATUSES = st.builds(
    OrderStatus,
    order_id=st.text(min_size=1),
    paid=st.booleans(),
    number=st.none() | st.text(min_size=1),
    code=st.none() | st.text(min_size=1),
    code_was_number=st.booleans(),
    sms_status=st.none() | st.sampled_from([*SmsStatus, "on its way"]),
    error=st.none() | st.text(min_size=1),
    activation_id=st.none() | st.text(min_size=1),
    country=st.none() | st.text(min_size=1),
    service=st.none() | st.text(min_size=1),
    timestamp=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(STATUSES)
def test_a_status_goes_to_a_dict_and_back(status: OrderStatus) -> None:
    stored = status.to_dict()
    assert OrderStatus.from_dict(stored) == OrderStatus.from_dict(json.loads(json.dumps(stored))) == status
    assert {type(value) for value in stored.values()} <= {int, str, bool, type(None)}
    assert type(OrderStatus.from_dict(stored).sms_status) is type(status.sms_status)


def test_a_stored_status_keeps_its_form() -> None:
    stored = OrderStatus("abc", True, "+1", "0042", sms_status=SmsStatus.sent, timestamp=NOW, country="us", raw={"x": 1}).to_dict()
    assert stored == {
        "version": 1,
        "order_id": "abc",
        "paid": True,
        "number": "+1",
        "code": "0042",
        "code_was_number": False,
        "sms_status": "sent",
        "error": None,
        "activation_id": None,
        "country": "us",
        "service": None,
        "timestamp": "2026-05-04T03:02:01.123456+00:00",
    }
    assert set(stored) - {"version"} == {field.name for field in attrs.fields(OrderStatus)} - {"raw"}


def test_a_stored_status_is_read_leniently() -> None:
    assert OrderStatus.from_dict({"order_id": "abc", "paid": False, "version": 7, "unheard_of": [1]}) == OrderStatus("abc", paid=False)
    read = OrderStatus.from_dict({"order_id": "abc", "paid": False, "timestamp": "2026-05-04T03:02:01"}).timestamp
    assert read == datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "status: not an object but an array"),
        ({"paid": True}, "status: no order_id"),
        ({"order_id": "", "paid": True}, "status: no order_id"),
        ({"order_id": "a"}, "status: no paid"),
        ({"order_id": "a", "paid": 1}, "status: paid cannot be a number"),
        ({"order_id": "a", "paid": True, "code": 42}, "status: code cannot be a number"),
        ({"order_id": "a", "paid": True, "sms_status": []}, "status: sms_status cannot be an array"),
        ({"order_id": "a", "paid": True, "timestamp": "yesterday"}, "Invalid isoformat string: 'yesterday'"),
    ],
)
def test_a_stored_status_that_makes_no_sense_is_a_value_error(data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        OrderStatus.from_dict(data)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Lima"])
def test_an_order_without_a_time_is_of_now_wherever_the_machine_stands(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        orders = [Order("abc"), Order.from_dict({"id": "abc"})]
    time.tzset()
    for order in orders:
        assert abs(datetime.now(UTC) - order.created_at) < timedelta(minutes=1)


# --- an order's id in what came of a reply -----------------------------------------------------------------------------------------


def test_an_order_id_is_found_in_a_cut_reply_whole_or_not_at_all() -> None:
    body = (SAMPLES / "createorder_ok.json").read_bytes()
    order_id = "644bfd59c8e0f600f7b5a947f07c52d802fb0914a5af6b794e6672e5fd0a3bd4"
    whole_from = body.index(order_id.encode()) + len(order_id) + 1
    for cut in range(len(body) + 1):
        assert order_id_in(body[:cut]) == (order_id if cut >= whole_from else None)


def test_an_order_id_that_is_a_number_is_found_whole_or_not_at_all() -> None:
    body = b'{"status":"OK","orderId": 1234567 ,"payreq":"paid"}'
    assert {order_id_in(body[:cut]) for cut in range(len(body) + 1)} == {None, "1234567"}
    assert order_id_in(b'{"orderId":1234567}') == "1234567"


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"orderId":null}', b'{"orderId":""}', b'{"orderId":"a\\u0041"}', b'{"orderId":["a"]}', b'{"orderId":1.5}', b"\xff\xfe",
     b'{"orderId":"' + b"a" * 201 + b'"}'],
    ids=repr,
)  # fmt: skip
def test_no_order_id_is_found_where_none_can_be_trusted(body: bytes) -> None:
    assert order_id_in(body) is None


@given(st.binary() | st.binary().map(lambda noise: b'"orderId":"' + noise))
def test_looking_for_an_order_id_never_fails(body: bytes) -> None:
    found = order_id_in(body)
    assert found is None or 0 < len(found) <= 200


# --- statuses ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code", "was_number"),
    [
        pytest.param("004217", "004217", False, id="leading zeros"),
        pytest.param("48010", "48010", False, id="text"),
        pytest.param(48010, "48010", True, id="a number"),
        pytest.param(48010.0, "48010", True, id="a float"),
        pytest.param(4.5, "4.5", True, id="a fraction"),
        pytest.param(1e20, "1" + "0" * 20, True, id="an exponent"),
        pytest.param(" 12 34\r\n\0", " 12 34\r\n\0", False, id="byte for byte"),
        pytest.param("Your code: G-123", "Your code: G-123", False, id="a whole message"),
        pytest.param("00", "00", False, id="two zeros"),
        pytest.param("false", "false", False, id="the word false"),
        pytest.param("x" * 4096, "x" * 4096, False, id="4 kB"),
        pytest.param(None, None, False, id="null"),
        pytest.param("", None, False, id="empty"),
        pytest.param(" \r\n\t", None, False, id="whitespace"),
        pytest.param(False, None, False, id="false"),
        pytest.param("0", None, False, id="0 as text"),
        pytest.param(" 0 ", None, False, id="0 as text with blanks"),
        pytest.param(0, None, False, id="0"),
        pytest.param(0.0, None, False, id="0.0"),
    ],
)
def test_a_code_is_kept_as_it_came(sent: object, code: str | None, was_number: bool) -> None:
    decoded = status_with(code=sent)
    assert (decoded.code, decoded.code_was_number) == (code, was_number)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (True, "a code of type bool"),
        (["1234"], "a code of type list"),
        ({"code": "1234"}, "a code of type dict"),
        ([], "a code of type list"),
        (float("inf"), "a code of type float"),
        ("1" * 4097, "a code of 4097 characters"),
        ("1" * 10_240, "a code of 10240 characters"),
    ],
    ids=["true", "list", "object", "empty list", "1e400", "4097 characters", "10 kB"],
)
def test_an_impossible_code_is_refused_without_being_shown(sent: object, words: str) -> None:
    with pytest.raises(MalformedReply) as caught:
        status_with(code=sent)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("sent", "number"),
    [
        (12025550143, "+12025550143"),
        ("12025550143", "+12025550143"),
        ("+12025550143", "+12025550143"),
        (" +1 (202) 555-01.43 ", "+12025550143"),
        ("++12025550143", "++12025550143"),
        (1.555e10, "+15550000000"),
        ("1.555e10", "+15550000000"),
        ("1.555E+10", "+15550000000"),
        (12025550143.0, "+12025550143"),
        (2**53, "+9007199254740992"),
        ("to be told", "to be told"),
        ("x" * 5000, "x" * 5000),
        ("\u0663\u0663", "\u0663\u0663"),
        ("0", None),
        (0, None),
        (0.0, None),
        ("", None),
        (" ", None),
        (None, None),
        (True, None),
        ([12025550143], None),
        ({"number": 1}, None),
        (float("inf"), None),
    ],
    ids=short,
)
def test_a_number_is_e164_or_stays_as_it_came_and_never_hides_the_code(sent: object, number: str | None) -> None:
    decoded = status_with(number=sent, code="004217")
    assert (decoded.number, decoded.code) == (number, "004217")


@pytest.mark.parametrize("fields", absent_or("paid", "true", "false", 1, 0, None, "", [], {}), ids=repr)
def test_a_status_says_paid_as_a_boolean_or_proves_it_by_a_code(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedReply, match="no boolean paid") as caught:
        status({"status": "OK", "number": 12025550143, **fields})
    assert caught.value.order_id == ORDER_ID
    decoded = status({"status": "OK", "code": "1234", **fields})
    assert (decoded.paid, decoded.code) == (True, "1234")


def test_a_boolean_paid_is_taken_at_its_word_beside_a_code() -> None:
    assert status({"paid": False, "code": "1234"}).paid is False
    assert status({"paid": True, "code": "1234"}).paid is True


@pytest.mark.parametrize(
    ("sent", "moment"),
    [
        pytest.param(1666613406969, OCTOBER, id="milliseconds"),
        pytest.param(1666613406, OCTOBER.replace(microsecond=0), id="seconds"),
        pytest.param(1666613406.969, OCTOBER, id="seconds with a fraction"),
        pytest.param("1666613406969", OCTOBER, id="milliseconds as text"),
        pytest.param(" 1666613406 ", OCTOBER.replace(microsecond=0), id="seconds as text"),
        pytest.param(10**11, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC), id="the first that counts milliseconds"),
        pytest.param(10**11 - 1, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC), id="the last that counts seconds"),
        pytest.param(0, datetime(1970, 1, 1, tzinfo=UTC), id="0"),
        pytest.param(-86400, datetime(1969, 12, 31, tzinfo=UTC), id="before 1970"),
        pytest.param(10**30, None, id="absurd"),
        pytest.param(-(10**30), None, id="absurd and negative"),
        pytest.param(10**4000, None, id="4000 digits"),
        pytest.param(1.7e308, None, id="the largest float"),
        pytest.param(float("inf"), None, id="1e400"),
        pytest.param("2022-10-24T12:10:06Z", None, id="a date"),
        pytest.param("", None, id="empty"),
        pytest.param(None, None, id="null"),
        pytest.param(True, None, id="true"),
        pytest.param({}, None, id="object"),
    ],
)
def test_a_time_is_read_or_none_and_never_hides_the_code(sent: object, moment: datetime | None) -> None:
    decoded = status_with(timestamp=sent, code="004217")
    assert (decoded.timestamp, decoded.code) == (moment, "004217")
    assert only(History.from_wire({"orders": [{"createdAt": sent}]}).fundings).created_at == moment


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ("no number", "no number"),
        (" as it is\n", " as it is\n"),
        ({"code": 5}, '{"code": 5}'),
        (["a"], '["a"]'),
        (True, "true"),
        (5, "5"),
        (float("inf"), "Infinity"),
        ("x" * 1_000_000, "x" * 300),
        ("", None),
        ("  ", None),
        (None, None),
        (False, None),
        (0, None),
        ({}, None),
        ([], None),
    ],
    ids=short,
)
def test_an_error_is_told_in_the_servers_words_and_never_hides_the_code(sent: object, words: str | None) -> None:
    decoded = status_with(error=sent, code="004217")
    assert (decoded.error, decoded.code) == (words, "004217")


@pytest.mark.parametrize(
    ("sent", "sms_status"),
    [
        ("created", SmsStatus.created),
        ("Delivered", SmsStatus.delivered),
        (" FAILED ", SmsStatus.failed),
        ("undelivered", "undelivered"),
        ("Queued", "Queued"),
        (5, "5"),
        ("", None),
        (None, None),
        (True, None),
        ({}, None),
    ],
    ids=repr,
)
def test_an_unknown_sms_status_stays_a_plain_text(sent: object, sms_status: str | None) -> None:
    decoded = status_with(smsStatus=sent)
    assert decoded.sms_status == sms_status
    assert isinstance(decoded.sms_status, SmsStatus) == (sms_status in list(SmsStatus))


@pytest.mark.parametrize(
    ("sent", "activation_id"),
    [(1125699791, "1125699791"), ("SMfa2b", "SMfa2b"), (0, None), ("0", None), ("", None), (None, None), ([], None)],
)
def test_an_activation_id_is_text_and_0_is_none(sent: object, activation_id: str | None) -> None:
    assert status_with(id=sent).activation_id == activation_id


@pytest.mark.parametrize(
    ("sent", "text"), [("India", "India"), (" tg ", "tg"), (187, "187"), (0, "0"), ("", None), (None, None), ([], None)]
)
def test_a_country_and_a_service_are_text(sent: object, text: str | None) -> None:
    decoded = status_with(country=sent, service=sent)
    assert (decoded.country, decoded.service) == (text, text)


# --- confirmations and the prepaid account -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [{}, [], None, "OK", {"status": "error"}, {"status": None}, {"status": True}, {"paid": True}], ids=repr)
def test_only_a_status_ok_confirms(payload: object) -> None:
    with pytest.raises(MalformedReply):
        confirmation(payload)


@pytest.mark.parametrize(
    ("sent", "sats"), [(10_000, 10_000), ("10000", 10_000), (10_000.9, 10_000), ("0.99", 0), (0, 0), (-0.5, -1), ("1e4", 10_000)], ids=repr
)
def test_a_balance_is_rounded_down(sent: object, sats: int) -> None:
    assert balance_sats({"status": "OK", "balance": sent}) == sats


@pytest.mark.parametrize("fields", absent_or("balance", None, "", "much", True, [], {}, float("inf")), ids=repr)
def test_a_balance_that_is_no_number_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedReply, match="no balance"):
        balance_sats({"status": "OK", **fields})


def test_a_history_carries_the_api_key_nowhere() -> None:
    key = "sk-0123456789abcdef"
    rows = [{"amount": 5, "userId": key, "preimage": "ab" * 32}, None, key, {"userId": key}]
    for orders in (rows, {str(number): row for number, row in enumerate(rows) if row != key}):
        history = History.from_wire({"status": "OK", "userId": key, "totalAmount": 5, "orders": orders})
        everything = repr(history) + repr(history.raw) + "".join(repr(one) + repr(one.raw) for one in history.fundings)
        assert key not in everything
        assert key.encode() not in pickle.dumps(history)
        assert "userId" not in everything
        assert "ab" * 32 not in repr(history)
        assert history.raw["orders"] == [one.raw for one in history.fundings]


@pytest.mark.parametrize(
    ("payload", "history"),
    [
        pytest.param({}, History(0), id="nothing"),
        pytest.param({"orders": None}, History(0), id="null orders"),
        pytest.param({"orders": [], "totalAmount": "5"}, History(5), id="a sum as text"),
        pytest.param({"orders": [{"amount": 5}, {"amount": "7"}, {}]}, History(12, [Funding(5), Funding(7), Funding()]), id="no sum"),
        pytest.param({"orders": [{"desc": "a"}]}, History(0, [Funding(description="a")]), id="desc"),
        pytest.param({"orders": [{"desc": "a", "description": "b"}]}, History(0, [Funding(description="b")]), id="description"),
        pytest.param({"orders": [{"amount": 5.9, "price": 5.1}]}, History(5, [Funding(5, 6)]), id="fractions"),
        pytest.param({"orders": [{"holdinvoice": "true"}]}, History(0, [Funding()]), id="holdinvoice as text"),
        pytest.param({"orders": [{"holdinvoice": False}]}, History(0, [Funding(hold_invoice=False)]), id="no hold invoice"),
    ],
)
def test_a_history_is_read_leniently(payload: object, history: History) -> None:
    assert History.from_wire(payload) == history


@pytest.mark.parametrize("orders", ["none", 5, True])
def test_a_history_whose_orders_are_no_list_is_refused(orders: object) -> None:
    with pytest.raises(MalformedReply, match="the list of fundings"):
        History.from_wire({"orders": orders})


# --- models as values --------------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    Country(187, "USA", raw={"id": 187}),
    Service("tg", "Telegram", 5, "https://sms4sats.com/tg.png", raw={"value": "tg"}),
    RentalCountry(6, "Indonesia", "2", 1368, raw={"cc": 6}),
    Price(1, 2, 3, 4, 5, 6, "words", raw={"receive": 2}),
    Order(ORDER_ID, OrderKind.receive, INVOICE, False, 1_500, NOW, 187, "tg", raw={"orderId": ORDER_ID}),
    a_status(number="+12025550143", code="004217", sms_status=SmsStatus.sent, timestamp=NOW, raw={"code": "004217"}),
    Funding(1, 2, NOW, "fund", hold_invoice=True, raw={"preimage": "x"}),
    History(5, [Funding(5)], raw={"totalAmount": 5}),
]
EACH = pytest.mark.parametrize("value", VALUES, ids=[type(value).__name__ for value in VALUES])


def pickled(value: Any) -> Any:
    twins = [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]  # noqa: S301
    assert all(twin == value for twin in twins)
    return twins[-1]


@EACH
def test_a_model_is_frozen(value: Any) -> None:
    for name in (*(field.name for field in attrs.fields(type(value))), "something_new"):
        with pytest.raises(AttributeError):
            setattr(value, name, 1)


@EACH
def test_a_model_is_hashable_but_for_history_which_holds_a_list(value: Any) -> None:
    if isinstance(value, History):
        with pytest.raises(TypeError):
            hash(value)
    else:
        assert {value: 1}[attrs.evolve(value, raw={})] == 1


@EACH
def test_equality_looks_at_everything_but_raw(value: Any) -> None:
    assert attrs.evolve(value, raw={"another": 1}) == value
    for field in attrs.fields(type(value)):
        if field.name != "raw":
            assert attrs.evolve(value, **{field.name: object()}) != value
    assert value != attrs.astuple(value)


@EACH
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_a_model_survives_copy_and_pickle(value: Any, again: Callable[[Any], Any]) -> None:
    twin = again(value)
    assert twin == value
    assert twin.raw == value.raw
    assert type(twin) is type(value)


@pytest.mark.parametrize("value", [Service("tg", "Telegram"), Price(), Order("abc"), OrderStatus("abc", paid=False), Funding()], ids=short)
def test_what_is_not_told_is_none(value: Any) -> None:
    optional = [field.name for field in attrs.fields(type(value)) if type(None) in typing.get_args(field.type)]
    assert optional
    assert {name: getattr(value, name) for name in optional} == dict.fromkeys(optional)


def test_raw_is_given_by_its_name_only() -> None:
    with pytest.raises(TypeError):
        Country(0, "Russia", {})


@EACH
def test_no_repr_tells_raw(value: Any) -> None:
    assert "raw" not in repr(value)


SECRETS = st.text(st.characters(min_codepoint=48, max_codepoint=122), min_size=9, max_size=80).map(lambda text: f"§{text}§")
# Without a dot: a code that looks like the mask of another secret would be "found" there.
CODES = st.text(st.characters(exclude_characters="."), min_size=4).map(lambda text: f"§{text}§")


@given(order_id=SECRETS, number=SECRETS, code=CODES, activation_id=SECRETS, payreq=SECRETS)
def test_no_repr_holds_a_whole_secret(order_id: str, number: str, code: str, activation_id: str, payreq: str) -> None:
    shown = repr(OrderStatus(order_id, True, number, code, activation_id=activation_id)) + repr(Order(order_id, payreq=payreq))
    for secret in (order_id, number, code, activation_id, payreq):
        assert secret not in shown
        assert repr(secret)[1:-1] not in shown


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("no number", "'no number'"),
        ("+12025550143 is in use, 4711 as well", "'.. is in use, 4711 as well'"),
        (f"order {ORDER_ID} is over", "'order .. is over'"),
        ("KEY-0123456789-ABCDEFGH is unknown", "'.. is unknown'"),
        ("key-0123456789-abcdefgh is unknown", "'.. is unknown'"),
        ("a-word-of-many-letters and-some-more", "'a-word-of-many-letters and-some-more'"),
        (None, "None"),
    ],
)
def test_a_repr_tells_the_servers_words_without_numbers_ids_and_keys(error: str | None, shown: str) -> None:
    assert f"error={shown}," in repr(a_status(error=error))


def test_a_repr_tells_what_is_no_secret() -> None:
    assert repr(a_status()).startswith("OrderStatus(order_id='01..ef', paid=True, number=None, code=None, code_was_number=False, ")
    assert "code='..'" in repr(a_status(code="1"))
    assert "payreq=None, prepaid=True" in repr(Order(ORDER_ID, prepaid=True))


@pytest.mark.parametrize(
    ("secret", "shown"), [("", ".."), ("12345678", ".."), ("123456789", "12..89"), (ORDER_ID, "01..ef"), ("\x1b[23456\n9", "?[..?9")]
)
def test_a_mask_gives_away_four_characters_of_nine_or_more(secret: str, shown: str) -> None:
    assert mask(secret) == shown


# --- whatever JSON can hold --------------------------------------------------------------------------------------------------------

FIELDS = """
    id cc eng country name key value text count image src duration price receive send rent s4s computed description orderId payreq
    status paid code number smsStatus error service timestamp balance totalAmount orders amount createdAt desc holdinvoice userId
""".split()  # noqa: SIM905
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),  # infinity is what 1e400 becomes
    st.integers(4000, 4299).map(lambda digits: 10**digits),
    st.text(st.characters(), max_size=20),  # lone surrogates too
    st.sampled_from(["0", "1.555e10", "1e99", "-1", "paid", "lightning:", INVOICE, "+12025550143", "//x", "created", " "]),
)
NAMES = st.sampled_from(FIELDS) | st.text(max_size=5)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=8), max_leaves=25)
DECODERS: dict[str, Decode] = {
    "countries": Country.list_from_wire,
    "services": Service.list_from_wire,
    "rental countries": RentalCountry.list_from_wire,
    "price": Price.from_wire,
    "order": placed(),
    "prepaid order": placed(immediate=True),
    "status": status,
    "balance": balance_sats,
    "history": History.from_wire,
    "confirmation": confirmation,
}


def whole(name: str, payload: object) -> None:
    """Decode, and hold what comes of it against the promises about types."""
    try:
        decoded = DECODERS[name](payload)
    except MalformedReply as error:
        assert len(str(error)) < 100  # noqa: PT017 - either outcome is good
        return
    for one in decoded if isinstance(decoded, list) else [decoded]:
        if attrs.has(type(one)):
            assert isinstance(repr(one), str)
            assert isinstance(one.raw, dict)
            assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301
    if isinstance(decoded, OrderStatus):
        assert type(decoded.paid) is bool
        assert decoded.code is None or decoded.code.strip()
        assert decoded.number is None or decoded.number
        assert decoded.timestamp is None or decoded.timestamp.tzinfo is UTC
    if isinstance(decoded, Order):
        assert decoded.id.strip()
        assert decoded.prepaid == (decoded.payreq is None)


@pytest.mark.measured("once")
@pytest.mark.parametrize("name", DECODERS)
@given(payload=ANYTHING)
@example(payload={"paid": True, "code": "1", "error": [[[[float("inf")]]]], "number": float("-inf"), "timestamp": 10**4299})
@example(payload={"orderId": 10**4299, "payreq": "lightning:" + INVOICE.upper()})
def test_any_json_value_is_decoded_or_refused(name: str, payload: object) -> None:
    whole(name, payload)


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
def test_any_reply_with_a_strange_field_is_decoded_or_refused(name: str, data: st.DataObject) -> None:
    good = {"countries": "getCountries", "services": "getnumbersstatus", "rental countries": "getRentalCountries",
            "order": "createorder_ok", "prepaid order": "createorder_immediate_paid",
            "status": "orderstatus_code_int", "price": "price_country_service",
            "confirmation": "cancelorder_ok"}  # fmt: skip
    payload = sample(good.get(name, name))
    target = payload[0] if isinstance(payload, list) else payload
    field = data.draw(st.sampled_from(sorted(target)))
    target[field] = data.draw(ANYTHING)
    whole(name, payload)


@given(ANYTHING)
def test_nothing_wrong_in_an_optional_field_hides_the_code(noise: object) -> None:
    others = ("status", "paid", "id", "number", "smsStatus", "country", "service", "timestamp", "error")
    decoded = status(dict.fromkeys(others, noise) | {"code": "004217"})
    assert decoded.code == "004217"


# --- what a wrong value beside a code may not do -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "read"),
    [
        (15550000000.5, "15550000000.5"),
        (1, "+1"),
        ("-15551234567", "-15551234567"),
        ("-1e3", "-1e3"),
        ("1.5e0", "1.5e0"),
        ("0.0", None),
        ("00", None),
        ("+0", None),
        ("(202) 555-0143", "+2025550143"),
        ("+1 (202) 555.0143", "+12025550143"),
    ],
)
def test_a_number_is_whole_and_positive_or_stays_as_it_is(number: object, read: str | None) -> None:
    status = OrderStatus.from_wire({"paid": True, "number": number, "code": "1234"}, "ab12")
    assert (status.number, status.code) == (read, "1234")


@pytest.mark.parametrize("depth", range(880, 1000, 3))
def test_an_error_that_is_nested_deeply_does_not_hide_the_code(depth: int) -> None:
    error: list[Any] = []
    for _ in range(depth):
        error = [error]
    read = OrderStatus.from_wire({"paid": True, "code": "1234", "error": error}, "ab12")
    assert (read.code, read.error) in {("1234", "[" * 300), ("1234", "(deeply nested)")}


def test_a_row_is_named_by_the_first_field_that_says_something() -> None:
    assert Country.list_from_wire([{"id": 0, "eng": "", "country": "Russia"}]) == [Country(0, "Russia")]
    assert Country.list_from_wire({"187": {"id": None, "eng": "USA"}}) == [Country(187, "USA")]
    rows = [{"value": "", "key": "tg"}, {"value": "wa"}, {"value": "tg"}]
    assert [service.code for service in Service.list_from_wire(rows)] == ["tg", "wa"]


def test_a_rows_own_id_counts_and_not_its_key() -> None:
    assert Country.list_from_wire({"7": {"id": 187, "eng": "USA"}, "8": {"cc": 15, "eng": "Poland"}}) == [
        Country(187, "USA"),
        Country(15, "Poland"),
    ]


def test_a_list_without_a_row_that_can_be_read_is_refused() -> None:
    with pytest.raises(MalformedReply):
        Country.list_from_wire([1, 2])
    assert Country.list_from_wire([None]) == []


def test_what_only_looks_like_an_invoice_is_none() -> None:
    with pytest.raises(ValueError, match="not a Lightning invoice"):
        invoice_sats("lnbc10u1p5k3\u212a\u017fqqqqqqqqqq")
    assert order_id_in(b'{"orderId":"  "}') is None


def test_kept_statuses_share_the_names_of_their_fields() -> None:
    """A reply brings its own copy of each name, and thousands of statuses are kept at once."""
    every = sample("orderstatus_number_assigned") | dict.fromkeys(["code", "error", "smsStatus"], "")
    first, second = (status(json.loads(json.dumps(every))).raw for _ in range(2))
    assert [id(name) for name in first] == [id(name) for name in second]
