"""Rows 28 to 43: a whole reply comes, and its status, its headers or its body are not what they should be."""

import json
import logging
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from sms4sats_async import (
    APIError,
    AuthenticationError,
    CancelRefused,
    DecodeError,
    OrderFailed,
    OrderUnresolved,
    OrderWatcher,
    OutcomeUnknown,
    RateLimited,
    Sms4SatsError,
)
from tests.faults.calls import (
    BY_INVOICE,
    SPENDING,
    account,
    buy,
    cancelled_anyway,
    one_more,
    order,
    placed_once_more,
    polled_on,
    read_again,
    spent_once,
)
from tests.faults.service import (
    NEVER,
    NO_NUMBER,
    Fault,
    Service,
    busy,
    lies,
    redirects,
    refusal,
    says,
    status,
    unseen,
    with_fields,
)
from tests.faults.stacks import Stack, every_stack
from tests.servers import Reply

JSON = [("Content-Type", "application/json")]
HTML = [("Content-Type", "text/html; charset=utf-8")]


# --- 28 and 29: the service says no, with a reason ---------------------------------------------------------------------------------

said_no = pytest.mark.parametrize("code", [500, 400, 402, 409, 502, 503])


async def refused_once(stack: Stack, code: int) -> None:
    """A no with a reason is the service's decision: told at once, to each class of calls, and not asked for again."""
    service = Service(lambda request, about: unseen(says(refusal("not enough balance", code))))
    async with service.serving() as server, account(stack, server.url, attempts=9) as client:
        calls: list[Callable[[], Any]] = [
            *(lambda place=place: place(client) for place in [*SPENDING, *BY_INVOICE]),
            client.get_balance,
            lambda: client.get_order_status("a" * 32),
            lambda: client.cancel_order("a" * 32),
        ]
        for times, call in enumerate(calls, 1):
            with pytest.raises(APIError) as caught:
                await call()
            assert (caught.value.reason, caught.value.status_code) == ("not enough balance", code)
            assert (service.asked.total(), anyio.current_time()) == (times, 0)
        assert service.orders == {}


async def polled_through_refusals(stack: Stack, code: int) -> None:
    """Refusals of the looks end nothing once a status was seen; before that, five in the same words over a minute at least do."""
    service = Service()
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, code_at=600.0)
        no = unseen(says(refusal("backend error", code)))
        service.next("/orderstatus", None, *[no] * 12)
        assert await OrderWatcher(client, held.id).code() == held.code
        assert 0 <= anyio.current_time() - held.code_at <= 40
        service.next("/orderstatus", *[no] * 4)
        assert await OrderWatcher(client, held.id).code() == held.code
        service.next("/orderstatus", *[no] * 100)
        start, asked = anyio.current_time(), service.asked.total()
        with pytest.raises(APIError, match="backend error") as caught:
            await OrderWatcher(client, held.id).code()
        assert (caught.value.order_id, caught.value.status_code) == (held.id, code)
        assert anyio.current_time() - start >= 60
        assert 5 <= service.asked.total() - asked <= 8


async def cancel_refused(stack: Stack, code: int) -> None:
    """A refused cancel is the service's word to a client's caller, and `CancelRefused` to a watcher's."""
    service = Service(lambda request, about: says(refusal("unable to save data", code)) if "/cancelorder" in request.target else None)
    async with service.serving() as server, account(stack, server.url) as client:
        held = service.order(paid_at=0.0)
        with pytest.raises(APIError, match="unable to save data") as caught:
            await client.cancel_order(held.id)
        assert (caught.value.order_id, len(held.cancels)) == (held.id, 1)
        with pytest.raises(CancelRefused) as refused:
            await OrderWatcher(client, held.id).cancel()
        assert (refused.value.reason, refused.value.order_id) == ("unable to save data", held.id)
        assert (len(held.cancels), len(held.looks)) == (2, 1)


@every_stack
@said_no
async def test_row_28_a_reason_in_json_is_the_services_decision(stack: Stack, code: int) -> None:
    await refused_once(stack, code)


@every_stack
async def test_row_28_refused_looks_and_cancels_are_no_end_by_themselves(stack: Stack) -> None:
    await polled_through_refusals(stack, 500)
    await cancel_refused(stack, 500)


@every_stack
async def test_row_29_a_no_with_status_200_is_the_same(stack: Stack) -> None:
    await refused_once(stack, 200)
    await polled_through_refusals(stack, 200)
    await cancel_refused(stack, 200)


# --- 30 and 31: the service ends the order -----------------------------------------------------------------------------------------


async def code_wins_over(stack: Stack, words: Any) -> None:
    """An ``error`` beside a code is no failure."""
    service = Service()
    service.next("/orderstatus", with_fields(error=words))
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, code_at=0.0)
        assert await OrderWatcher(client, held.id).code() == held.code


@every_stack
async def test_row_30_a_code_in_the_same_reply_wins(stack: Stack) -> None:
    await code_wins_over(stack, NO_NUMBER)


@every_stack
async def test_row_30_no_number_is_the_orders_failure(stack: Stack) -> None:
    service = Service()
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, failed_at=20.0)
        async with OrderWatcher(client, held.id, poll_interval=5) as watcher:
            with pytest.raises(OrderFailed) as caught:
                await watcher.code()
            assert anyio.current_time() <= 25.5
        assert (caught.value.reason, caught.value.order_id) == (NO_NUMBER, held.id)
        assert caught.value.status is not None
        assert caught.value.status.paid
        assert (service.charged, service.holding, held.cancels) == ([], [], [])


@every_stack
@pytest.mark.parametrize("words", ["order canceled", "server on fire\n", "123456", {"code": 7}, ["gone"], 17, True])
async def test_row_31_an_error_in_any_words_is_final_at_once(stack: Stack, words: Any) -> None:
    service = Service()
    service.next("/orderstatus", with_fields(error=words))
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service)
        with pytest.raises(OrderFailed) as caught:
            await OrderWatcher(client, held.id).code()
        assert caught.value.reason == (words if isinstance(words, str) else json.dumps(words))
        assert str(caught.value).isprintable()
        assert (anyio.current_time(), len(held.looks), held.cancels) == (0, 1, [])


@every_stack
async def test_row_31_a_code_in_the_same_reply_wins(stack: Stack) -> None:
    for words in (NO_NUMBER, "order canceled", {"code": 7}):
        await code_wins_over(stack, words)


# --- 32 and 33: a gateway's error page, and a burst of them ------------------------------------------------------------------------

PAGE = b"<html><h1>Bad gateway</h1><p>cloudflare</p></html>"
PAGES = {
    "500-HTML": status(500, PAGE, HTML),
    "502-HTML": status(502, PAGE, HTML),
    "503": status(503),
    "504-JSON": lies({"message": "upstream"}, 504),
    "520-HTML": status(520, PAGE, HTML),
}
pages = pytest.mark.parametrize("fault", PAGES.values(), ids=PAGES)


@every_stack
@pages
async def test_row_32_an_error_page_is_no_answer(stack: Stack, fault: Fault) -> None:
    await polled_on(stack, fault, fault)
    error = await read_again(stack, fault, APIError)
    assert isinstance(error, APIError)
    assert error.reason is None
    await cancelled_anyway(stack, fault, APIError)
    await placed_once_more(stack, fault, APIError)
    await spent_once(stack, fault, APIError)


DOWN = status(503, PAGE, HTML)
MINUTE = 60.0


@every_stack
async def test_row_33_a_burst_across_the_windows_end_leaves_the_order_unresolved_and_the_code_to_be_had(stack: Stack) -> None:
    """The burst is 25 minutes long, and the code comes in the midst of it."""
    service = Service(lambda request, about: DOWN if 15 * MINUTE <= anyio.current_time() < 40 * MINUTE else None)
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, number_at=5.0, code_at=18 * MINUTE)
        with pytest.raises(OrderUnresolved) as caught:
            await OrderWatcher(client, held.id).code()
        assert 21 * MINUTE <= anyio.current_time() <= 21 * MINUTE + 31
        assert caught.value.order_id == held.id
        assert caught.value.status is not None
        assert caught.value.status.number == "+15550001111"
        assert await OrderWatcher(client, held.id).code() == held.code
        assert 40 * MINUTE <= anyio.current_time() <= 40 * MINUTE + 31
        assert (held.most_at_once, service.charged, held.cancelled_at) == (1, [held.id], NEVER)


@every_stack
async def test_row_33_a_burst_within_the_window_ends_nothing(stack: Stack) -> None:
    service = Service(lambda request, about: DOWN if 1 * MINUTE <= anyio.current_time() < 20 * MINUTE else None)
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, code_at=2 * MINUTE)
        assert await OrderWatcher(client, held.id).code() == held.code
        assert 20 * MINUTE <= anyio.current_time() <= 20 * MINUTE + 34


@every_stack
async def test_row_33_after_a_minute_of_a_burst_a_request_in_15_seconds_is_the_most(stack: Stack) -> None:
    """Counted from one minute of it on to its end, in any stretch of 5 minutes, with and without the last steps of a window."""
    for window in (1260.0, None):
        service = Service(lambda request, about: DOWN)
        async with service.serving() as server, account(stack, server.url) as client:
            service.next("/orderstatus", None)
            start = anyio.current_time()
            held = one_more(service)
            with anyio.move_on_after(25 * MINUTE), pytest.raises(OrderUnresolved):
                await OrderWatcher(client, held.id, hold_window=window).code()
            times = [request.at - start for request in service.requests if request.at - start > MINUTE]
            assert len(times) >= 25
            for first in times:
                assert sum(first <= at < first + 5 * MINUTE for at in times) <= 5 * MINUTE / 15


# --- 34: too many requests ---------------------------------------------------------------------------------------------------------

DATE = "Tue, 02 Jan 2001 03:04:05 GMT"
"""The server's own clock is wrong by decades: only the difference between its two dates counts."""

# A Retry-After, and the seconds from one look to the next; what the watcher would take anyway is 2 s, and 1 s after a failure.
WAITS: dict[str, tuple[str | None, float, float]] = {
    "seconds": ("20", 20, 22),
    "part-of-a-second": ("0.5", 2, 2),
    "zero": ("0", 2, 2),
    "long": ("59", 59, 60),
    "milliseconds-taken-for-seconds": ("1500", 60, 60),
    "a-year": ("31536000", 60, 60),
    "1e99": ("1e99", 60, 60),
    "a-date": ("Tue, 02 Jan 2001 03:04:30 GMT", 25, 27.5),
    "a-date-of-long-ago": ("Mon, 01 Jan 2001 03:04:05 GMT", 2, 2),
    "a-date-in-a-year": ("Wed, 02 Jan 2002 03:04:05 GMT", 60, 60),
    "negative": ("-5", 2, 2),
    "NaN": ("nan", 1, 1.1),
    "infinity": ("inf", 1, 1.1),
    "with-a-unit": ("1500ms", 1, 1.1),
    "words": ("later", 1, 1.1),
    "nothing": (None, 1, 1.1),
}
waits = pytest.mark.parametrize(("told", "least", "most"), WAITS.values(), ids=WAITS)


def too_many(told: str | None, *more: tuple[str, str]) -> Fault:
    """A 429 that did nothing."""
    named = [] if told is None else [("Retry-After", told)]
    return unseen(status(429, b"slow down", [("Date", DATE), *named, *more]))


@every_stack
@waits
async def test_row_34_a_look_is_made_again_when_the_service_asks(stack: Stack, told: str | None, least: float, most: float) -> None:
    service = Service()
    service.next("/orderstatus", None, too_many(told))
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, code_at=2.5)
        assert await OrderWatcher(client, held.id, poll_interval=2).code() == held.code
        second, third = (request.at for request in service.requests[1:3])
        assert least - 0.001 <= third - second <= most + 0.001


@every_stack
@waits
async def test_row_34_a_read_and_an_unpaid_order_wait_as_well_and_a_purchase_is_told(
    stack: Stack, told: str | None, least: float, most: float
) -> None:
    """What a call of the client's waits without being asked is half a second at the most."""
    service = Service()
    async with service.serving() as server, account(stack, server.url) as client:
        calls: dict[str, Callable[[], Any]] = {"/balance": client.get_balance, "/createorder": lambda: order(client)}
        for path, call in calls.items():
            service.next(path, too_many(told))
            start = anyio.current_time()
            await call()
            waited = anyio.current_time() - start
            assert (0.25 <= waited <= 0.5) if least <= 2 else waited == pytest.approx(round(least))
        service.next("/createorder", too_many(told))
        with pytest.raises(RateLimited) as caught:
            await buy(client)
        assert (len(service.orders), service.asked["/createorder"]) == (1, 3)
        assert (caught.value.retry_after is None) is (most == 1.1)


@every_stack
async def test_row_34_a_date_says_nothing_without_the_replys_own(stack: Stack) -> None:
    service = Service()
    service.next("/balance", busy("Tue, 02 Jan 2001 03:04:30 GMT"))
    async with service.serving() as server, account(stack, server.url) as client:
        await client.get_balance()
        assert 0.25 <= anyio.current_time() <= 0.5


@every_stack
async def test_row_34_too_many_requests_end_no_watch(stack: Stack) -> None:
    service = Service(lambda request, about: too_many("30") if anyio.current_time() < 600 else None)
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, code_at=300.0)
        assert await OrderWatcher(client, held.id).code() == held.code
        assert 600 <= anyio.current_time() <= 633
        assert len(service.requests) <= 21


# --- 35 and 36: 401, 403, 404, 410 -------------------------------------------------------------------------------------------------


@every_stack
@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("body", [b"", PAGE, b'{"status":"error","reason":"no such key"}'], ids=["empty", "HTML", "reason"])
async def test_row_35_a_refused_key_is_told_at_once(stack: Stack, code: int, body: bytes) -> None:
    """A page without a reason may come from a firewall behind which the order was placed: what spends is then of unknown outcome."""
    service = Service(lambda request, about: unseen(status(code, body)))
    async with service.serving() as server, account(stack, server.url, attempts=9) as client:
        for times, call in enumerate([client.get_balance, *(lambda place=place: place(client) for place in BY_INVOICE)], 1):
            with pytest.raises(AuthenticationError) as caught:
                await call()
            assert caught.value.status_code == code
            assert service.asked.total() == times
        for spend in SPENDING:
            with pytest.raises(AuthenticationError if b"reason" in body else OutcomeUnknown):
                await spend(client)
        assert (service.orders, anyio.current_time()) == ({}, 0)


async def ended_by_five_refusals(stack: Stack, code: int, kind: type[APIError]) -> None:
    """Looks that are refused end nothing once a status was seen; before that, five of them over a minute at least do."""
    service = Service()
    no = unseen(status(code, PAGE, HTML))
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, code_at=200.0)
        service.next("/orderstatus", None, *[no] * 9)
        assert await OrderWatcher(client, held.id).code() == held.code
        service.next("/orderstatus", *[no] * 100)
        start, asked = anyio.current_time(), service.asked.total()
        with pytest.raises(kind) as caught:
            async with OrderWatcher(client, held.id) as watcher:
                await watcher.code()
        assert (caught.value.order_id, caught.value.status_code) == (held.id, code)
        assert anyio.current_time() - start >= 60
        assert 5 <= service.asked.total() - asked <= 8
        assert held.cancels == []


@every_stack
@pytest.mark.parametrize("code", [401, 403])
async def test_row_35_a_look_that_is_refused_is_one_of_five_over_a_minute(stack: Stack, code: int) -> None:
    await ended_by_five_refusals(stack, code, AuthenticationError)


@every_stack
@pytest.mark.parametrize("code", [404, 410])
async def test_row_36_a_look_that_is_refused_is_one_of_five_over_a_minute(stack: Stack, code: int) -> None:
    await ended_by_five_refusals(stack, code, APIError)


@every_stack
@pytest.mark.parametrize("code", [404, 410])
async def test_row_36_an_unknown_order_is_told_at_once_with_its_id(stack: Stack, code: int) -> None:
    service = Service(lambda request, about: status(code))
    async with service.serving() as server, account(stack, server.url, attempts=9) as client:
        for times, call in enumerate((client.get_order_status, client.cancel_order), 1):
            with pytest.raises(APIError) as caught:
                await call("f" * 32)
            assert (caught.value.status_code, caught.value.order_id, service.asked.total()) == (code, "f" * 32, times)
            assert "f" * 32 not in str(caught.value)


# --- 37, 38 and 39: what is no answer of the service -------------------------------------------------------------------------------


@every_stack
async def test_row_37_a_redirect_is_not_followed_and_the_key_stays_here(stack: Stack) -> None:
    elsewhere = Service()
    async with elsewhere.serving() as other:
        to = f"{other.url}/elsewhere?x=1"
        for code in (301, 302, 303, 307, 308):
            error = await read_again(stack, redirects(to, code), DecodeError)
            assert "a redirect to 127.0.0.1" in str(error)
            await spent_once(stack, redirects(to, code), DecodeError)
        await polled_on(stack, redirects(to, 301), redirects(to, 308))
        await cancelled_anyway(stack, redirects(to, 307), DecodeError)
        await placed_once_more(stack, redirects(to, 307), DecodeError)
        assert (elsewhere.requests, other.connections_opened) == ([], 0)


@every_stack
@pytest.mark.parametrize("location", ["/createorder", "//other.invalid/x", "http://[", "", "file:///etc/passwd"])
async def test_row_37_a_redirect_to_anywhere_is_no_answer(stack: Stack, location: str) -> None:
    service = Service()
    fault = redirects(location, 307)
    service.next("/createorder", fault)
    service.next("/balance", *[fault] * 4)
    async with service.serving() as server, account(stack, server.url) as client:
        with pytest.raises(OutcomeUnknown) as caught:
            await buy(client)
        assert str(caught.value).isprintable()
        with pytest.raises(DecodeError, match="a redirect to"):
            await client.get_balance()
        assert (len(service.charged), service.asked["/createorder"], service.asked["/balance"]) == (1, 1, 4)


PORTAL = b"<!doctype html>\r\n<title>Free WiFi</title><p>login to wifi, user 4915112345678</p>" + b"<br>" * 500


@every_stack
async def test_row_38_a_captive_portal_is_no_answer(stack: Stack) -> None:
    fault = status(200, PORTAL, HTML)
    await polled_on(stack, fault, fault)
    error = await read_again(stack, fault, DecodeError)
    assert isinstance(error, DecodeError)
    assert "not JSON but text/html" in str(error)
    assert "Free WiFi" in error.excerpt
    assert len(error.excerpt) <= 90
    assert (str(error).isprintable(), "12345678" in str(error)) == (True, False)
    await cancelled_anyway(stack, fault, DecodeError)
    await placed_once_more(stack, fault, DecodeError)
    await spent_once(stack, fault, DecodeError)


@every_stack
async def test_row_38_a_portal_with_status_511_is_an_error_page(stack: Stack) -> None:
    fault = status(511, PORTAL, HTML)
    await polled_on(stack, fault, fault)
    await read_again(stack, fault, APIError)
    await placed_once_more(stack, fault, APIError)
    await spent_once(stack, fault, APIError)


BODIES = [b"", b"[]", b"null", b'"x"', b"17", b"true", b"{}", b'{"status":"OK",', b'{"status":"OK"}{"status":"OK"}']
OK_ALONE = b'{"status":"OK"}'
"""Just what a cancel answers."""


@every_stack
async def test_row_39_json_that_is_no_answer_to_a_read_or_a_cancel_is_a_decode_error(stack: Stack) -> None:
    faults = [status(200, body, JSON) for body in BODIES]
    await polled_on(stack, *faults[:3])
    await polled_on(stack, *faults[3:6])
    await polled_on(stack, *faults[6:], status(200, OK_ALONE, JSON))
    await read_again(stack, status(200, OK_ALONE, JSON), DecodeError)
    for fault in faults:
        await read_again(stack, fault, DecodeError)
    for fault in (faults[0], faults[2], faults[6]):
        await cancelled_anyway(stack, fault, DecodeError)


@every_stack
async def test_row_39_json_that_is_no_order_is_a_decode_error(stack: Stack) -> None:
    for body in (*BODIES, OK_ALONE):
        await spent_once(stack, status(200, body, JSON), DecodeError)
    for body in (BODIES[0], BODIES[2], OK_ALONE):
        await placed_once_more(stack, status(200, body, JSON), DecodeError)


@every_stack
async def test_row_39_no_content_is_a_decode_error(stack: Stack) -> None:
    fault = says(b"HTTP/1.1 204 No Content\r\n\r\n")
    await polled_on(stack, fault, fault)
    error = await read_again(stack, fault, DecodeError)
    assert "an empty body" in str(error)
    await cancelled_anyway(stack, fault, DecodeError)
    await placed_once_more(stack, fault, DecodeError)
    await spent_once(stack, fault, DecodeError)


# --- 40: too long ------------------------------------------------------------------------------------------------------------------

MEBIBYTE = 1 << 20


def packed(mebibytes: int) -> bytes:
    """A stream that inflates to so many MiB of blanks, a thousandth of that in size; its end is missing, and nobody should come so far."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(b" ") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * MEBIBYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * mebibytes


def bomb(mebibytes: int) -> Fault:
    return status(200, packed(mebibytes), [*JSON, ("Content-Encoding", "gzip")])


class Endless:
    """A body that goes on as long as the client reads, 64 MiB at the most."""

    def __init__(self, *headers: str) -> None:
        self._head = "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 Scripted", "Content-Type: application/json", *headers, "")).encode()
        self.sent = 0

    async def __call__(self, reply: Reply, _: bytes) -> None:
        await reply.raw(self._head)
        block = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        self.sent = 0
        while self.sent < 64 * MEBIBYTE and not reply.client_gone:
            await reply.raw(block)
            self.sent += len(block)


async def most_memory(call: Awaitable[object], kind: type[Exception]) -> int:
    """How many bytes were taken at the most while this call failed."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(kind):
            await call
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@every_stack
async def test_row_40_a_bomb_is_not_unpacked(stack: Stack) -> None:
    service = Service()
    small, large = bomb(40), bomb(2048)
    async with service.serving() as server, account(stack, server.url, attempts=1) as client:
        held = one_more(service)
        service.next("/orderstatus", small, large)
        assert await most_memory(client.get_order_status(held.id), DecodeError) < MEBIBYTE
        assert await most_memory(client.get_order_status(held.id), DecodeError) < MEBIBYTE
        service.next("/getCountries", large)
        assert await most_memory(client.get_countries(), DecodeError) < 32 * MEBIBYTE
        assert {request.headers["accept-encoding"] for request in service.requests} == {"identity"}


@every_stack
@pytest.mark.parametrize("headers", [["Transfer-Encoding: chunked"], [], ["Content-Length: 9999999999"]], ids=["chunked", "open", "length"])
async def test_row_40_a_body_without_end_is_left(stack: Stack, headers: list[str]) -> None:
    service = Service()
    endless = Endless(*headers)
    async with service.serving() as server, account(stack, server.url, attempts=1) as client:
        held = one_more(service)
        service.next("/orderstatus", endless)
        assert await most_memory(client.get_order_status(held.id), DecodeError) < 2 * MEBIBYTE
        await anyio.sleep(1)
        assert 0x10000 <= endless.sent < 32 * MEBIBYTE
        service.next("/createorder", endless)
        assert await most_memory(buy(client), OutcomeUnknown) < 2 * MEBIBYTE
        assert (len(service.charged), service.asked["/createorder"]) == (1, 1)


def padded(size: int) -> Fault:
    """Answer truthfully, with blanks up to so many bytes of body."""

    async def fault(reply: Reply, answer: bytes) -> None:
        told = answer.partition(b"\r\n\r\n")[2]
        await status(200, told.ljust(size), JSON)(reply, answer)

    return fault


LIMIT = 64 * 1024


@every_stack
async def test_row_40_a_body_of_64_kib_is_read_and_no_longer_one(stack: Stack) -> None:
    service = Service()
    service.next("/orderstatus", padded(LIMIT), padded(LIMIT + 1))
    async with service.serving() as server, account(stack, server.url, attempts=1) as client:
        held = one_more(service)
        assert (await client.get_order_status(held.id)).paid
        with pytest.raises(DecodeError, match="more than 65536 bytes"):
            await client.get_order_status(held.id)


@every_stack
async def test_row_40_an_answer_that_is_too_long_is_none(stack: Stack) -> None:
    """What of it was read may hold an order's id."""
    for fault, salvaged in ((padded(LIMIT + 1), True), (bomb(40), False), (Endless("Transfer-Encoding: chunked"), False)):
        await polled_on(stack, fault, fault)
        await read_again(stack, fault, DecodeError)
        await cancelled_anyway(stack, fault, DecodeError)
        await placed_once_more(stack, fault, DecodeError, salvaged=salvaged)
        await spent_once(stack, fault, DecodeError, salvaged=salvaged)


# --- 41, 42 and 43: JSON that is no good -------------------------------------------------------------------------------------------


def recoded(encoding: str, errors: str = "strict") -> Fault:
    """Answer truthfully, in another encoding."""

    async def fault(reply: Reply, answer: bytes) -> None:
        told = answer.partition(b"\r\n\r\n")[2].decode().replace("USA", "Amérique")
        await status(200, told.encode(encoding, errors), JSON)(reply, answer)

    return fault


@every_stack
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
async def test_row_41_any_unicode_is_read(stack: Stack, encoding: str) -> None:
    service = Service(lambda request, about: recoded(encoding))
    async with service.serving() as server, account(stack, server.url) as client:
        held = one_more(service, number_at=0.0, code_at=10.0)
        watcher = OrderWatcher(client, held.id)
        assert await watcher.code() == held.code
        assert watcher.status is not None
        assert watcher.status.country == "Amérique"
        assert (await buy(client)).id == service.charged[-1]


@every_stack
async def test_row_41_another_charset_is_no_answer(stack: Stack) -> None:
    fault = recoded("utf-8")

    async def latin(reply: Reply, answer: bytes) -> None:
        await status(200, b'{"status":"OK","paid":true,"country":"\xe9\xff"}', [("Content-Type", "application/json; charset=latin-1")])(
            reply, answer
        )

    await polled_on(stack, latin, fault, latin)
    await read_again(stack, latin, DecodeError)
    await spent_once(stack, latin, DecodeError)


@every_stack
async def test_row_41_half_a_character_reaches_no_text_of_ours(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    half = "\ud83d"
    service = Service()
    async with service.serving() as server, account(stack, server.url, attempts=1) as client:
        held, coded = one_more(service), one_more(service, code_at=0.0)
        errors: list[Sms4SatsError] = []
        for fault in (lies({"status": "error", "reason": f"no {half}"}, 500), lies({"paid": half}), lies({"status": half})):
            service.next("/orderstatus", fault)
            with pytest.raises((APIError, DecodeError)) as caught:
                await client.get_order_status(held.id)
            errors.append(caught.value)
        service.next("/orderstatus", with_fields(error=f"no {half}", number=half, country=half, smsStatus=half))
        with pytest.raises(OrderFailed) as failed:
            await OrderWatcher(client, held.id).code()
        service.next("/orderstatus", with_fields(code=f"1{half}2"))
        assert await OrderWatcher(client, coded.id).code() == f"1{half}2"
        for text in (*map(str, [*errors, failed.value]), *(record.getMessage() for record in caplog.records)):
            text.encode()
        repr(failed.value.status).encode()


def nested(depth: int, *around: bytes) -> Fault:
    before, after = around or (b"", b"")
    return status(200, before + b"[" * depth + b"]" * depth + after, JSON)


@every_stack
@pytest.mark.parametrize("fault", [nested(30_000), nested(30_000, b'{"paid":true,"error":', b"}")], ids=["array", "in-a-field"])
async def test_row_42_what_is_nested_too_deep_is_no_answer(stack: Stack, fault: Fault) -> None:
    await polled_on(stack, fault, fault)
    await read_again(stack, fault, DecodeError)
    await cancelled_anyway(stack, fault, DecodeError)
    await placed_once_more(stack, fault, DecodeError)
    await spent_once(stack, fault, DecodeError)


@every_stack
@pytest.mark.parametrize("around", [(b'{"paid":true,"error":', b"}"), (b'{"status":"error","reason":', b"}")], ids=["error", "reason"])
async def test_row_42_what_can_just_be_read_is_an_answer_or_an_error_of_ours(stack: Stack, around: tuple[bytes, bytes]) -> None:
    """Where it is that nesting becomes too deep depends on how deep the call itself stands: the depths around that are all tried."""
    service = Service()
    async with service.serving() as server, account(stack, server.url, attempts=1) as client:
        held = one_more(service)

        async def too_deep(depth: int) -> bool:
            service.next("/orderstatus", nested(depth, *around))
            try:
                await client.get_order_status(held.id)
            except (DecodeError, APIError) as error:
                return isinstance(error, DecodeError)
            return False

        low, high = 1, 30_000
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if await too_deep(middle) else (middle, high)
        found = [await too_deep(depth) for depth in range(max(1, low - 40), low + 40)]
        assert True in found
        assert False in found


LITERALS = {
    "NaN": b'{"status":"OK","paid":true,"code":NaN}',
    "infinity": b'{"status":"OK","paid":true,"number":-Infinity}',
    "a-code-of-1e400": b'{"status":"OK","paid":true,"code":1e400}',
    "a-number-of-5000-digits": b'{"status":"OK","paid":true,"number":' + b"7" * 5000 + b"}",
    "a-code-of-5000-digits": b'{"status":"OK","paid":true,"code":' + b"7" * 5000 + b"}",
    "leading-zeros": b'{"status":"OK","paid":true,"code":007321}',
}


@every_stack
@pytest.mark.parametrize("body", LITERALS)
async def test_row_43_what_is_no_number_is_no_answer(stack: Stack, body: str) -> None:
    fault = status(200, LITERALS[body], JSON)
    await polled_on(stack, fault, fault)
    await read_again(stack, fault, DecodeError)


@every_stack
async def test_row_43_a_balance_or_an_order_that_is_no_number_is_no_answer(stack: Stack) -> None:
    service = Service()
    async with service.serving() as server, account(stack, server.url, attempts=1) as client:
        for told in (b"NaN", b"1e400", b"-1e400", b"7" * 5000):
            service.next("/balance", status(200, b'{"status":"OK","balance":' + told + b"}", JSON))
            with pytest.raises(DecodeError):
                await client.get_balance()
            service.next("/createorder", status(200, b'{"status":"OK","payreq":"paid","orderId":' + told + b"}", JSON))
            with pytest.raises(OutcomeUnknown):
                await buy(client)
        assert len(service.charged) == service.asked["/createorder"] == 4


@every_stack
async def test_row_43_a_number_beyond_all_bounds_beside_a_code_hides_nothing(stack: Stack) -> None:
    told = b'{"status":"OK","paid":true,"number":1e400,"timestamp":1e400,"id":-1e400,"code":"048213"}'
    service = Service()
    service.next("/orderstatus", status(200, told, JSON))
    async with service.serving() as server, account(stack, server.url) as client:
        watcher = OrderWatcher(client, one_more(service).id)
        assert await watcher.code() == "048213"
        assert watcher.status is not None
        assert (watcher.status.number, watcher.status.timestamp, watcher.status.activation_id) == (None, None, None)


@every_stack
async def test_row_43_of_a_field_told_twice_the_last_counts(stack: Stack) -> None:
    service = Service()
    service.next(
        "/orderstatus", status(200, b'{"status":"error","paid":false,"status":"OK","paid":true,"code":"1111","code":"2222"}', JSON)
    )
    async with service.serving() as server, account(stack, server.url) as client:
        assert await OrderWatcher(client, one_more(service).id).code() == "2222"
