"""Rows 44 to 58: a reply in good JSON, whose fields are not what they should be."""

import json
import logging
from typing import Any

import anyio
import pytest

from sms4sats_async import (
    APIError,
    CancelRefused,
    DecodeError,
    Order,
    OrderExpired,
    OrderFailed,
    OrderStatus,
    OrderWatcher,
    PriceTooHigh,
    SendFailed,
    SmsStatus,
)
from tests.faults.calls import (
    BY_INVOICE,
    PATHS,
    SPENDING,
    Place,
    account,
    buy,
    message,
    one_more,
    order,
    placed_once_more,
    polled_on,
    read_again,
    rental,
    spent_once,
)
from tests.faults.service import INVOICE, Service, lies, refusal, says, status, unseen, with_fields
from tests.faults.stacks import Stack, every_stack

ABSENT: Any = ...
JSON = [("Content-Type", "application/json")]


async def told(stack: Stack, **fields: Any) -> OrderStatus:
    """The status that ends a watch, when the service says these things beside the truth of a paid order."""
    service = Service(lambda request, about: with_fields(**fields))
    async with service.serving() as server, account(stack, server.url) as client:
        watcher = OrderWatcher(client, one_more(service, number_at=0.0).id)
        code = await watcher.code()
        assert watcher.status is not None
        assert (code, service.asked.total()) == (watcher.status.code, 1)
        return watcher.status


async def waited_for(stack: Stack, *fields: dict[str, Any]) -> OrderStatus:
    """The last status before a code that comes after 30 s, when the first looks are told these things beside the truth."""
    service = Service()
    service.next("/orderstatus", *(with_fields(**said) for said in fields))
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, number_at=0.0, code_at=30.0)
        watcher = OrderWatcher(client, held.id, poll_interval=1)
        assert await watcher.code() == held.code
        assert 0 <= anyio.current_time() - held.code_at <= 1.2
        assert watcher.status is not None
        return watcher.status


# --- 44 to 48: the code ------------------------------------------------------------------------------------------------------------


@every_stack
async def test_row_44_a_code_is_kept_byte_for_byte(stack: Stack) -> None:
    for code in ("007321", "0001", "000000", "  0042 ", "G-123 456", "٤٢", "1e3", "0x10"):
        status_ = await told(stack, code=code)
        assert (status_.code, status_.code_was_number) == (code, False)


@every_stack
async def test_row_45_a_code_that_is_a_number_is_told_as_one(stack: Stack) -> None:
    for code, text in ((7321, "7321"), (48010.0, "48010"), (-5, "-5"), (12345678901234567890, "12345678901234567890"), (1e5, "100000")):
        status_ = await told(stack, code=code)
        assert (status_.code, status_.code_was_number) == (text, True)


@every_stack
async def test_row_45_leading_zeros_in_a_number_are_no_json(stack: Stack) -> None:
    await polled_on(stack, *[status(200, b'{"status":"OK","paid":true,"code":007321}', JSON)] * 3)


@every_stack
async def test_row_46_an_empty_code_is_none(stack: Stack) -> None:
    for empty in (None, "", " ", "\t\r\n", False, 0, 0.0, "0"):
        status_ = await waited_for(stack, *[{"code": empty}] * 5)
        assert status_.number == "+15550001111"


@every_stack
async def test_row_46_an_impossible_code_is_no_answer(stack: Stack) -> None:
    for wrong in (True, [], ["1234"], {}, {"code": "1234"}):
        await polled_on(stack, with_fields(code=wrong), with_fields(code=wrong))
        error = await read_again(stack, with_fields(code=wrong), DecodeError)
        assert "1234" not in str(error)


@every_stack
async def test_row_47_any_text_can_be_a_code_and_none_of_it_is_shown(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for code in ("Your code is 123-456", "1\r\n2\0secret", "\x1b[31msecret", "secret" * 600, "c" * 4096):
        status_ = await told(stack, code=code)
        assert status_.code == code
        assert "secret" not in repr(status_)
        assert "123-456" not in repr(status_)
    assert not [record for record in caplog.records if "secret" in record.getMessage() or "123-456" in record.getMessage()]


@every_stack
async def test_row_47_a_code_longer_than_4_kib_is_no_answer(stack: Stack) -> None:
    for size in (4097, 10_000):
        await polled_on(stack, with_fields(code="c" * size), with_fields(code="c" * size))
        error = await read_again(stack, with_fields(code="c" * size), DecodeError)
        assert f"a code of {size} characters" in str(error)


@every_stack
async def test_row_48_the_first_code_is_the_watchers_and_a_later_one_can_be_asked_for(stack: Stack) -> None:
    service = Service()
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, code_at=0.0)
        watcher = OrderWatcher(client, held.id)
        assert await watcher.code() == "048213"
        held.code = "999111"
        assert await watcher.code() == "048213"
        assert [status_.code async for status_ in watcher] == ["048213"]
        assert (await client.get_order_status(held.id)).code == "999111"
        assert await OrderWatcher(client, held.id).code() == "999111"


@every_stack
async def test_row_48_each_code_of_a_rental_is_told(stack: Stack) -> None:
    service = Service()
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, kind="rental", code_at=0.0)
        statuses = aiter(OrderWatcher(client, held.id, kind="rental"))
        codes: list[str | None] = []
        for number in (1, 2, 3):
            codes.append((await anext(statuses)).code)
            held.code = f"code-{number}"
        assert codes == ["048213", "code-1", "code-2"]


# --- 49 to 53: the number, the payment, and what nobody knows ----------------------------------------------------------------------

NUMBERS: list[tuple[Any, str | None]] = [
    (15550001111, "+15550001111"),
    ("15550001111", "+15550001111"),
    ("+15550001111", "+15550001111"),
    (" +1 (555) 000-1111 ", "+15550001111"),
    (1.5550001111e10, "+15550001111"),
    ("1.5550001111e10", "+15550001111"),
    (15550001111.5, "15550001111.5"),
    ("ask support", "ask support"),
    (-15550001111, "-15550001111"),
]


@every_stack
async def test_row_49_a_number_is_read_in_any_form_and_never_costs_the_code(stack: Stack) -> None:
    for number, read in NUMBERS:
        status_ = await told(stack, number=number, code="1234")
        assert (status_.number, status_.raw["number"]) == (read, number)


@every_stack
async def test_row_50_a_paid_order_without_a_number_is_waited_for(stack: Stack) -> None:
    service = Service()
    none: list[Any] = [None, "", 0, "0", False, [], {}, True]
    service.next("/orderstatus", *(with_fields(number=number) for number in none))
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, number_at=30.0)
        watcher = OrderWatcher(client, held.id, poll_interval=1)
        await watcher.paid()
        assert await watcher.number() == "+15550001111"
        assert 30 <= anyio.current_time() <= 31.2
        assert (service.holding, held.cancels) == ([held.id], [])


@every_stack
async def test_row_51_what_was_told_once_stays_known(stack: Stack) -> None:
    service = Service()
    less = {"number": ABSENT, "country": ABSENT, "service": ABSENT, "id": ABSENT}
    service.next("/orderstatus", None, with_fields(**less), with_fields(paid=False, **less), with_fields(number="", country=""))
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, number_at=0.0, code_at=10.0)
        seen: list[OrderStatus] = []
        async for status_ in OrderWatcher(client, held.id, poll_interval=1):
            seen.append(status_)
            assert (status_.paid, status_.number, status_.country, status_.service) == (True, "+15550001111", "USA", "tg")
        assert seen[-1].code == held.code
        assert len(seen) == 2


@every_stack
async def test_row_52_only_a_boolean_says_whether_it_is_paid(stack: Stack) -> None:
    wrongs: list[Any] = [ABSENT, "true", 1, 0, None, "", [], "OK"]
    for wrong in wrongs:
        await read_again(stack, with_fields(paid=wrong), DecodeError)
    service = Service()
    service.next("/orderstatus", *(with_fields(paid=wrong) for wrong in wrongs))
    async with service.serving() as server, account(stack, server.url) as client:
        held = service.order()
        with anyio.move_on_after(300):
            await OrderWatcher(client, held.id).paid()
            raise AssertionError("nobody has paid")
        assert len(held.looks) > len(wrongs)


@every_stack
async def test_row_52_a_code_proves_the_payment(stack: Stack) -> None:
    for paid in (ABSENT, "true", 1, None):
        assert (await told(stack, paid=paid, code="1234")).paid


@every_stack
async def test_row_53_an_unknown_field_is_kept_in_raw_and_shown_nowhere(stack: Stack) -> None:
    extra = {"eSim": {"qr": "LPA:1$secret"}, "übrigens": [1, 2], "": "secret"}
    status_ = await told(stack, code="1234", **extra)
    assert {name: status_.raw[name] for name in extra} == extra
    service = Service(lambda request, about: with_fields(**extra))
    async with service.serving() as server, account(stack, server.url) as client:
        for place in [*SPENDING, *BY_INVOICE]:
            placed = await place(client)
            assert {name: placed.raw[name] for name in extra} == extra
            assert "secret" not in repr(placed)
    assert "secret" not in repr(status_)


# --- 54 and 55: how far an SMS is, and when ----------------------------------------------------------------------------------------


@every_stack
async def test_row_54_an_sms_status_that_nobody_knows_ends_nothing(stack: Stack) -> None:
    service = Service()
    unknown = ("queued", "Sending", "undelivered", 17, {"a": 1}, "", None, "created")
    service.next("/orderstatus", *(with_fields(smsStatus=said) for said in unknown))
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, kind="send", code_at=20.0)
        seen = [status_.sms_status async for status_ in OrderWatcher(client, held.id, kind="send", poll_interval=1)]
        assert 20 <= anyio.current_time() <= 21.2
        assert seen[:4] == ["queued", "Sending", "undelivered", "17"]
        assert seen[-1] is SmsStatus.sent


@every_stack
async def test_row_54_sent_delivered_and_failed_are_ends(stack: Stack) -> None:
    for said, end in (("sent", SmsStatus.sent), ("delivered", SmsStatus.delivered), ("DELIVERED", SmsStatus.delivered), ("failed", None)):
        service = Service()
        service.next("/orderstatus", with_fields(smsStatus="queued"), with_fields(smsStatus=said))
        async with service.serving() as server, account(stack, server.url) as client:
            watcher = OrderWatcher(client, one_more(service, kind="send").id, kind="send")
            if end is not None:
                assert await watcher.sent() is end
            else:
                with pytest.raises(SendFailed):
                    await watcher.sent()
            assert (service.asked["/orderstatus"], service.asked["/cancelorder"]) == (2, 0)


@every_stack
@pytest.mark.parametrize("stamp", [1700000000, 1700000000000, "1700000000", 0, -1, 4102444800000, 1e300, "yesterday", None, [], True])
async def test_row_55_a_time_stamp_decides_nothing(stack: Stack, stamp: Any) -> None:
    service = Service(lambda request, about: with_fields(timestamp=stamp) if "/orderstatus" in request.target else None)
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, window=5000.0)
        with pytest.raises(OrderExpired) as caught:
            await OrderWatcher(client, held.id, poll_interval=120).code()
        assert 1260 <= anyio.current_time() <= 1261
        assert caught.value.cancelled
        assert len(held.cancels) == 1


# --- 56 and 57: what an order is told with -----------------------------------------------------------------------------------------


@every_stack
async def test_row_56_an_order_without_an_id_is_none(stack: Stack) -> None:
    none: list[Any] = [ABSENT, "", "  ", None, True, [], {"id": 1}]
    for order_id in none:
        await spent_once(stack, with_fields(orderId=order_id), DecodeError)
    for order_id in none[:3]:
        await placed_once_more(stack, with_fields(orderId=order_id), DecodeError)


@every_stack
async def test_row_56_an_id_of_any_characters_is_asked_for_as_it_is(stack: Stack) -> None:
    ids = ("a&b=c#d", "a/b/../c", "a?orderId=x", "a%2Fb", "a b+c", "ä€😀", 'a"b\\c', "12345", "a\r\nX-Evil: 1")
    service = Service()
    async with service.serving() as server, account(stack, server.url) as client:
        for order_id in ids:
            held = service.order(order_id, paid_at=anyio.current_time(), cancel_from=0.0)
            service.next("/createorder", with_fields(orderId=int(order_id) if order_id.isdecimal() else order_id))
            bought = await buy(client)
            assert bought.id == order_id
            assert (await client.get_order_status(bought.id)).paid
            await OrderWatcher(client, bought).cancel()
            assert (len(held.looks), len(held.cancels)) == (2, 1)
            assert all(request.target.isascii() and "x-evil" not in request.headers for request in service.requests)


@every_stack
async def test_row_57_an_order_without_an_invoice_cannot_be_paid(stack: Stack) -> None:
    """It is placed once more, and the error tells which it was."""
    wrongs: list[Any] = [ABSENT, "lnbc", "not an invoice", ["lnbc15u1" + "q" * 20], INVOICE + "!"]
    for payreq in wrongs:
        await placed_once_more(stack, with_fields(payreq=payreq), DecodeError, salvaged=True)


@every_stack
async def test_row_57_what_is_neither_paid_nor_an_invoice_leaves_a_purchase_unknown_but_for_its_id(stack: Stack) -> None:
    for payreq in ("lnbc", "not an invoice", 17):
        await spent_once(stack, with_fields(payreq=payreq), DecodeError, salvaged=True)


@every_stack
async def test_row_57_a_purchase_needs_no_invoice(stack: Stack) -> None:
    nothing: list[Any] = [ABSENT, "", None, "paid", "PAID", []]
    for payreq in nothing:
        service = Service()
        async with service.serving() as server, account(stack, server.url) as client:
            for spend in SPENDING:
                service.next(PATHS[spend], with_fields(payreq=payreq))
                bought = await spend(client)
                assert (bought.prepaid, bought.payreq, bought.id) == (True, None, service.charged[-1])


PLACES: dict[Place, Any] = {
    order: lambda client, most: client.create_order(187, "tg", max_sats=most),
    rental: lambda client, most: client.create_order(6, "full", rental=True, max_sats=most),
    message: lambda client, most: client.create_send_order("+15551234567", "hello", max_sats=most),
}
INVOICES: dict[str, int | None] = {
    INVOICE: 1500,
    "lightning:" + INVOICE.upper(): 1500,
    "lnbc15010n1" + "q" * 20: 1501,
    "lnbc15000001p1" + "q" * 20: 1501,
    "lnbc1m1" + "q" * 20: 100_000,
    "lnbc1" + "q" * 20: None,
}


@every_stack
async def test_row_57_an_invoice_above_max_sats_reaches_nobody_who_could_pay_it(stack: Stack) -> None:
    service, heard = Service(), list[Order]()
    async with service.serving() as server, account(stack, server.url, on_order=heard.append) as client:
        for place, placing in PLACES.items():
            for payreq, sats in INVOICES.items():
                service.next(PATHS[place], with_fields(payreq=payreq))
                with pytest.raises(PriceTooHigh) as caught:
                    await placing(client, 1499 if sats is None else sats - 1)
                assert (caught.value.price_sats, caught.value.order_id) == (sats, [*service.orders][-1])
                assert caught.value.order is heard[-1]
                if sats is not None:
                    service.next(PATHS[place], with_fields(payreq=payreq))
                    assert (await placing(client, sats)).amount_sats == sats
        assert (service.asked["/price"], service.charged, service.holding) == (0, [], [])


PRICED = [
    lambda client, most: client.create_order(187, "tg", immediate=True, max_sats=most),
    lambda client, most: client.create_order(6, "full", rental=True, immediate=True, max_sats=most),
    lambda client, most: client.create_order(187, "tg", real_phone=True, immediate=True, max_sats=most),
    lambda client, most: client.create_send_order("+15551234567", "hello", immediate=True, max_sats=most),
]


@every_stack
@pytest.mark.parametrize(("which", "price"), [*enumerate((1500, 15000, 4000, 3000))])
async def test_row_57_a_purchase_above_max_sats_is_not_made(stack: Stack, which: int, price: int) -> None:
    service = Service()
    unknown = {"receive": ABSENT, "send": "1-2", "rent": None, "s4s": [], "computed": {"price": "many"}}
    async with service.serving() as server, account(stack, server.url) as client:
        for most, said in ((price - 1, {}), (10**9, unknown)):
            service.next("/price", with_fields(**said))
            with pytest.raises(PriceTooHigh) as caught:
                await PRICED[which](client, most)
            assert (caught.value.price_sats, caught.value.order) == (None if said else price, None)
        service.next("/price", *[unseen(lies({"status": "error", "reason": "no price"}, 500))])
        with pytest.raises(APIError, match="no price"):
            await PRICED[which](client, price)
        assert service.orders == {}
        assert (await PRICED[which](client, price)).id == service.charged[0]


# --- 58: the server's words --------------------------------------------------------------------------------------------------------

WORDS: list[Any] = [
    "\x1b[2J\x1b[31mpwned\x07",
    "line one\nERROR root: line two\r\n\r\n",
    "\u2028\u202e\x00\x9b\ud800",
    "w " * 30_000,
    {"code": 7, "text": "\n"},
    ["a", ["b"]],
    17,
    True,
]


@every_stack
async def test_row_58_the_servers_words_are_kept_cut_and_escaped(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = Service()
    async with service.serving() as server, account(stack, server.url, attempts=1) as client:
        texts: list[str] = []
        for words in WORDS:
            held = one_more(service)
            own = words[:300] if isinstance(words, str) else json.dumps(words)
            service.next("/orderstatus", says(refusal(words)))
            with pytest.raises(APIError) as refused:
                await client.get_order_status(held.id)
            service.next("/cancelorder", *[unseen(says(refusal(words)))] * 2)
            with pytest.raises(CancelRefused) as kept:
                await OrderWatcher(client, held.id).cancel()
            async with OrderWatcher(client, held.id):
                pass  # leaving asks to cancel, and logs the refusal
            service.next("/orderstatus", with_fields(error=words))
            with pytest.raises(OrderFailed) as failed:
                await OrderWatcher(client, held.id).code()
            assert refused.value.reason == kept.value.reason == failed.value.reason == own
            texts += [str(error.value) for error in (refused, kept, failed)]
            texts += [repr(failed.value.status)]
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == len(WORDS)
        for line in (*texts, *(record.getMessage() for record in caplog.records if record.name.startswith("sms4sats"))):
            assert line.isprintable()
            assert len(line) < 1000


@every_stack
async def test_row_58_a_reason_of_a_megabyte_is_an_answer_that_is_too_long(stack: Stack) -> None:
    """What spends is of unknown outcome then: a reply that cannot be read is no decision."""
    fault = says(refusal("w" * (1 << 20)))
    await polled_on(stack, fault, fault)
    await read_again(stack, fault, DecodeError)
    await placed_once_more(stack, fault, DecodeError)
    await spent_once(stack, fault, DecodeError)
