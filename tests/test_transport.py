"""Faults over real sockets: what each comes to, what is repeated, and what is left at the server afterwards. It alone is believed."""

import gc
import gzip
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.streams.tls import TLSStream

from sms4sats_async import APIError, Client, DecodeError, OrderUnresolved, OrderWatcher, OutcomeUnknown, RateLimited, TransportError
from sms4sats_async.transport import Call
from tests.servers import Reply, SeenRequest, closes, hangs, json_reply, resets, serve
from tests.suspension import Till, by_native_cancel_after_turns, by_scope_after_turns, on_asyncio

KEY = "key-of-a-test-0001"
ORDER = "order-to-watch-0001"
PAID = {"status": "OK", "paid": True}
Script = Callable[[SeenRequest, Reply], Awaitable[None]]


def client_of(url: str, **options: Any) -> Client:
    settings: dict[str, Any] = {"api_key": KEY, "base_url": url, "trust_env": False}
    return Client(**settings | options)


def answers(data: bytes) -> Script:
    async def answer(request: SeenRequest, reply: Reply) -> None:
        await reply.raw(data)

    return answer


def page(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and link not in found:
            found.append(link)
            waiting += [link.__cause__, link.__context__]
    return found


# --- faults ------------------------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Script, type[Exception]]] = {
    "closes": (closes, TransportError),
    "resets": (resets, TransportError),
    "hangs": (hangs, TransportError),
    "trickles": (lambda request, reply: reply.trickle(json_reply(PAID) + b" " * 500), TransportError),
    "endless headers": (answers(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: 1234567890\r\n" * 10_000), TransportError),
    "garbage": (answers(b"\x00\x01\x02 what\r\n\r\n"), TransportError),
    "HTML": (answers(page(200, b"<html>log in to the wifi</html>", "Content-Type: text/html")), DecodeError),
    "empty": (answers(page(200, b"")), DecodeError),
    "half JSON": (answers(page(200, b'{"paid": tr')), DecodeError),
    "redirect": (answers(page(302, b"", "Location: http://127.0.0.1:9/elsewhere")), DecodeError),
    "too long": (answers(page(200, b" " * (64 * 1024 + 1))), DecodeError),
    "gzip bomb": (answers(page(200, gzip.compress(b" " * 10_000_000), "Content-Encoding: gzip")), DecodeError),
    "broken gzip": (answers(page(200, b"abc", "Content-Encoding: gzip")), DecodeError),
    "502": (answers(page(502, b"<html>")), APIError),
    "503": (answers(page(503, b"")), APIError),
    "504": (answers(page(504, b"{}")), APIError),
    "429": (answers(page(429, b"{}")), RateLimited),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_read_is_repeated_after_a_fault_each_time_over_a_fresh_connection(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    script, kind = FAULTS[fault]
    async with serve(script) as server:
        client = client_of(server.url, attempts=3, timeout=4)
        with pytest.raises(kind) as caught:
            await client.get_order_status(ORDER)
        assert type(caught.value) is kind
        assert caught.value.order_id == ORDER  # type: ignore[attr-defined]
        assert [request.connection for request in server.requests] == [1, 2, 3]
        for link in chain(caught.value)[1:]:
            assert link.__traceback__ is None
            assert not isinstance(link, BaseExceptionGroup)
        assert ORDER not in str(caught.value)
        await client.aclose()
        await anyio.sleep(1)
        assert server.connections_open == 0
    ours = "\n".join(record.getMessage() for record in caplog.records)
    assert KEY not in ours
    assert ORDER not in ours


@pytest.mark.parametrize("fault", ["closes", "resets", "hangs", "too long", "trickles", "garbage", "endless headers"])
async def test_after_a_fault_in_mid_reply_the_connection_is_gone_at_once(fault: str) -> None:
    async with serve(FAULTS[fault][0]) as server, client_of(server.url, attempts=1, timeout=4) as client:
        with pytest.raises((TransportError, DecodeError)):
            await client.get_order_status(ORDER)
        await anyio.sleep(0.5)
        assert server.connections_open == 0


async def test_a_list_may_be_long_and_no_longer() -> None:
    row, limit = b'{"id": 1, "eng": "X"}', 8 * 1024 * 1024
    longest = b"[" + b" " * (limit - 2 - len(row)) + row + b"]"
    script = [answers(page(200, longest)), answers(page(200, longest + b" "))]
    async with serve(script) as server, client_of(server.url, attempts=1) as client:
        assert len(await client.get_countries()) == 1
        with pytest.raises(DecodeError, match="more than"):
            await client.get_countries()
        await anyio.sleep(0.5)
        assert server.connections_open == 0


@pytest.mark.parametrize("reset", [False, True])
async def test_a_reply_cut_after_any_byte_is_a_transport_error(reset: bool) -> None:
    whole = json_reply(PAID)
    for at in range(0, len(whole), 7):

        async def cut(request: SeenRequest, reply: Reply, at: int = at) -> None:
            await reply.cut(whole, at, reset=reset)

        async with serve([cut, PAID]) as server, client_of(server.url, attempts=1) as client:
            with pytest.raises(TransportError):
                await client.get_order_status(ORDER)
            assert (await client.get_order_status(ORDER)).paid
            assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize("each", [0.01, 0.3, 3])
async def test_the_timeout_is_the_total_however_slowly_the_bytes_come(each: float) -> None:
    assert each * len(json_reply(PAID)) > 0.8

    async def trickles(request: SeenRequest, reply: Reply) -> None:
        await reply.trickle(json_reply(PAID), each)

    async with serve(trickles) as server, client_of(server.url, timeout=0.8, attempts=1) as client:
        start = anyio.current_time()
        with pytest.raises(TransportError, match=r"no whole reply within 0\.8 s"):
            await client.get_order_status(ORDER)
        assert anyio.current_time() - start == pytest.approx(0.8)


async def test_waiting_for_a_lane_does_not_count_into_the_timeout() -> None:
    async with serve(Till(delay=3)) as server, client_of(server.url, timeout=4, max_connections=1, attempts=1) as client:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(client.get_balance)
        assert len(server.requests) == 4


async def test_an_answer_to_a_request_that_was_not_read_counts() -> None:
    async def refuse(number: int, reply: Reply) -> None:
        await reply.read(1)
        await reply.raw(json_reply({"status": "error", "reason": "busy"}, 500))

    async with serve(closes, on_connect=refuse) as server, client_of(server.url) as client:
        with pytest.raises(APIError, match="busy"):
            await client.fund(100)


async def test_where_nobody_listens_every_attempt_fails_with_the_systems_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with client_of(url, attempts=3) as client:
        start = anyio.current_time()
        with pytest.raises(TransportError, match="Errno 111"):
            await client.get_balance()
        assert 0.75 <= anyio.current_time() - start <= 1.5
        assert await client.is_available() is False


async def test_a_connect_that_hangs_ends_at_half_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        async with client_of(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=6, attempts=1) as client:
            start = anyio.current_time()
            with pytest.raises(TransportError):
                await client.get_balance()
            assert anyio.current_time() - start == pytest.approx(3)
        for filler in fillers:
            filler.close()


# --- repeating ---------------------------------------------------------------------------------------------------------------------


async def test_what_a_proxy_refuses_was_not_sent_so_even_a_purchase_is_tried_again() -> None:
    async with serve(answers(page(407, b""))) as proxy:
        async with client_of("https://service.example", proxy=proxy.url, attempts=3) as client:
            with pytest.raises(TransportError) as caught:
                await client.create_order(187, "tg", immediate=True)
        assert not isinstance(caught.value, OutcomeUnknown)
        assert [(request.method, request.target) for request in proxy.requests] == [("CONNECT", "service.example:443")] * 3


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500, 503])
async def test_a_reasoned_no_is_never_repeated(status: int) -> None:
    async with serve(answers(json_reply({"status": "error", "reason": "because"}, status))) as server, client_of(server.url) as client:
        with pytest.raises(APIError, match="because"):
            await client.get_order_status(ORDER)
        assert len(server.requests) == 1


@pytest.mark.parametrize(("told", "waited"), [("5", 5), ("0.75", 0.75), ("3600", 60), ("1e99", 60)])
async def test_retry_after_is_waited_for_to_the_second_and_a_minute_at_most(told: str, waited: float) -> None:
    async with serve([answers(page(429, b"{}", f"Retry-After: {told}")), PAID]) as server, client_of(server.url) as client:
        await client.get_order_status(ORDER)
        first, second = server.requests
        assert second.at - first.at == pytest.approx(waited, abs=0.01)


@pytest.mark.parametrize("told", ["nan", "-5", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_a_retry_after_that_says_nothing_is_a_backoff_as_usual(told: str) -> None:
    async with serve([answers(page(429, b"{}", f"Retry-After: {told}")), PAID]) as server, client_of(server.url) as client:
        await client.get_order_status(ORDER)
        assert 0.25 <= server.requests[1].at - server.requests[0].at <= 0.51


async def test_the_backoff_doubles_with_a_spread() -> None:
    async with serve(resets) as server, client_of(server.url, attempts=7) as client:
        with pytest.raises(TransportError):
            await client.get_balance()
        gaps = [after.at - before.at for before, after in zip(server.requests, server.requests[1:], strict=False)]
    for gap, most in zip(gaps, [0.5, 1, 2, 4, 8, 8], strict=True):
        assert most / 2 <= gap <= most + 0.01


async def test_a_kept_connection_that_the_server_closed_meanwhile_is_not_noticed() -> None:
    async with serve(lambda request, reply: reply.json(PAID), close_idle=True) as server, client_of(server.url, attempts=1) as client:
        for _ in range(3):
            await client.get_order_status(ORDER)
            await anyio.sleep(5)
        assert len(server.requests) == 3


async def test_the_keep_alive_race_is_repeated_at_once_and_not_counted() -> None:
    async with serve(lambda request, reply: reply.json(PAID), close_late=True) as server, client_of(server.url, attempts=1) as client:
        start = anyio.current_time()
        for _ in range(4):
            await client.get_order_status(ORDER)
            await client.cancel_order(ORDER)
        assert len(server.requests) == 8
        assert anyio.current_time() == pytest.approx(start)
        assert await OrderWatcher(client, ORDER).paid() is None  # type: ignore[func-returns-value]


async def test_after_the_keep_alive_race_no_other_kept_connection_is_tried() -> None:
    async with serve(lambda request, reply: reply.json(PAID), close_late=True) as server, client_of(server.url, attempts=1) as client:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(client.get_order_status, ORDER)
        assert (await client.get_order_status(ORDER)).paid
        assert len(server.requests) == 4


async def test_the_keep_alive_race_is_repeated_once_only() -> None:
    async with serve([PAID, closes, closes]) as server, client_of(server.url, attempts=1) as client:
        await client.get_order_status(ORDER)
        with pytest.raises(TransportError):
            await client.get_order_status(ORDER)
        assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_who_paces_requests_is_asked_before_each_of_them_and_before_a_repeated_one_as_well() -> None:
    departures = 0

    async def departing() -> None:
        nonlocal departures
        departures += 1

    call: Call[Any] = Call("GET", "/orderstatus", lambda payload: payload)
    async with serve([PAID, closes, closes, PAID]) as server, client_of(server.url) as client:
        for _ in range(2):
            assert await client._transport.send(call, departing=departing) == PAID
        assert departures == len(server.requests) == 4


async def test_an_invoice_after_the_keep_alive_race_takes_a_fresh_connection_and_no_third() -> None:
    async with serve([PAID, closes, closes]) as server, client_of(server.url) as client:
        await client.get_order_status(ORDER)
        with pytest.raises(TransportError):
            await client.fund(100)
        assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_availability_is_asked_once() -> None:
    fine = answers(page(200, b"<html>fine</html>"))
    for script, available in ((answers(page(503, b"")), False), (fine, True), (resets, False), (hangs, False)):
        async with serve(script) as server, client_of(server.url) as client:
            assert await client.is_available() is available
            assert [request.target for request in server.requests] == ["/"]


# --- lanes -------------------------------------------------------------------------------------------------------------------------


async def test_single_calls_use_one_connection_and_a_crowd_never_more_than_allowed() -> None:
    most = 0

    async def counting(request: SeenRequest, reply: Reply) -> None:
        nonlocal most
        most = max(most, server.connections_open)
        await anyio.sleep(0.1)
        await reply.json({"balance": 1})

    async with serve(counting) as server, client_of(server.url, max_connections=3) as client:
        for _ in range(5):
            await client.get_balance()
        assert server.connections_opened == 1
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(client.get_balance)
        assert (most, server.connections_opened) == (3, 3)
        used = {request.connection for request in server.requests[-1:]}
        for _ in range(5):
            await client.get_balance()
        assert len({request.connection for request in server.requests[-5:]}) == 1, used


async def test_waiters_are_served_in_order() -> None:
    async with serve(Till(delay=0.1)) as server, client_of(server.url, max_connections=2) as client:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(client.get_order_status, f"order-{number:04}")
                await anyio.sleep(0.001)
        assert [request.target[-4:] for request in server.requests] == [f"{number:04}" for number in range(12)]


@pytest.mark.parametrize("fault", ["closes", "resets", "hangs", "too long", "garbage"])
async def test_the_lanes_are_all_there_after_a_hundred_faults(fault: str) -> None:
    faulty = True

    async def script(request: SeenRequest, reply: Reply) -> None:
        await (FAULTS[fault][0](request, reply) if faulty else reply.json({"balance": 1}))

    async with serve(script) as server, client_of(server.url, max_connections=3, attempts=1, timeout=2) as client:

        async def fail() -> None:
            with pytest.raises((TransportError, DecodeError)):
                await client.get_balance()

        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(fail)
        await anyio.sleep(1)
        assert server.connections_open == 0
        faulty = False
        with anyio.fail_after(2):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(client.get_balance)
        assert server.connections_open == 3


async def test_a_setting_that_forbids_a_connection_is_an_error_of_ours_and_takes_no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate file that is not there."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/at-all.pem")
    async with Client(base_url="https://127.0.0.1:9", max_connections=1, attempts=1) as client:
        for _ in range(3):
            with anyio.fail_after(5), pytest.raises(Exception) as caught:  # noqa: PT011
                await client.get_countries()
            assert not isinstance(caught.value, TimeoutError), "the lane is lost"


# --- closing -----------------------------------------------------------------------------------------------------------------------


async def test_closing_ends_calls_and_waiters_and_leaves_no_connection() -> None:
    errors: list[Exception] = []

    async def ask() -> None:
        try:
            await client.get_balance()
        except RuntimeError as error:
            errors.append(error)

    async with serve(hangs) as server:
        client = client_of(server.url, max_connections=2)
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(ask)
            await anyio.sleep(1)
            start = anyio.current_time()
            await client.aclose()
        assert len(errors) == 6
        assert anyio.current_time() - start < 0.1
        assert all("closed" in str(error) for error in errors)
        await client.aclose()
        for call in (client.get_balance, client.is_available, OrderWatcher(client, ORDER).code):
            with pytest.raises((RuntimeError, OrderUnresolved)):
                await call()
        with pytest.raises(RuntimeError):
            await client.create_order(1, "tg", immediate=True)
        await anyio.sleep(1)
        assert server.connections_open == 0
        assert "closed" in repr(client)


async def test_closing_ends_a_pause_between_two_attempts() -> None:
    async with serve(answers(page(429, b"{}", "Retry-After: 60"))) as server:
        client = client_of(server.url)
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(RuntimeError, match="closed"):
                    await client.get_balance()

            group.start_soon(ask)
            await anyio.sleep(1)
            start = anyio.current_time()
            await client.aclose()
        assert anyio.current_time() - start < 0.1


@pytest.mark.parametrize("lanes", [1, 20])
async def test_closing_ends_running_watchers_within_a_second(lanes: int) -> None:
    """Also those that wait for a lane behind a purchase, which is allowed to come to its end."""
    ended: list[float] = []

    async def script(request: SeenRequest, reply: Reply) -> None:
        await (reply.hang() if request.method == "POST" else reply.json(PAID))

    async def watch(number: int) -> None:
        with pytest.raises(OrderUnresolved):
            await OrderWatcher(client, f"order-{number:06}").code()
        ended.append(anyio.current_time())

    async def spend() -> None:
        with pytest.raises(TransportError):
            await client.create_order(1, "tg", immediate=True)

    async with serve(script) as server:
        client = client_of(server.url, max_connections=lanes, timeout=30)
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(watch, number)
            await anyio.sleep(0.5)
            group.start_soon(spend)
            await anyio.sleep(7)
            start = anyio.current_time()
            await client.aclose()
    assert len(ended) == 5
    assert max(ended) - start <= 1


async def test_two_tasks_that_close_at_once_both_return_as_soon_as_the_purchase_has_ended() -> None:
    returned: list[float] = []

    async def close() -> None:
        await client.aclose()
        returned.append(anyio.current_time() - start)

    async with serve(Till(delay=2)) as server:
        client = client_of(server.url)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: client.create_order(1, "tg", immediate=True))
            await anyio.sleep(1)
            start = anyio.current_time()
            group.start_soon(close)
            group.start_soon(close)
    assert returned == [pytest.approx(1, abs=0.1)] * 2


async def test_leaving_a_block_by_a_cancelled_scope_says_that_the_order_is_left_open(caplog: pytest.LogCaptureFixture) -> None:
    async def script(request: SeenRequest, reply: Reply) -> None:
        refused = request.target.startswith("/cancelorder")
        await (reply.json({"status": "error", "reason": "too early"}, 400) if refused else reply.json(PAID))

    async with serve(script) as server, client_of(server.url) as client:
        with anyio.move_on_after(3):
            async with OrderWatcher(client, ORDER) as watcher:
                await watcher.code()
        assert any(request.target.startswith("/cancelorder") for request in server.requests)
    assert [record for record in caplog.records if record.levelno == logging.WARNING and "left open" in record.getMessage()]


def test_a_client_is_of_one_event_loop() -> None:
    client = client_of("http://127.0.0.1:9", attempts=1)

    async def ask() -> None:
        await client.get_balance()

    def run() -> None:
        anyio.run(ask)

    with pytest.raises(TransportError):
        run()
    with pytest.raises(RuntimeError, match="another event loop"):  # pragma: no cover - see test_spending.py: the tracer loses this frame
        run()


# --- the key -----------------------------------------------------------------------------------------------------------------------


async def test_the_key_goes_with_the_calls_that_need_it_and_with_no_other_and_into_no_log(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("", "httpx", "httpcore", "sms4sats_async"):
        caplog.set_level(logging.DEBUG, name or None)
    async with serve(Till()) as server, client_of(server.url) as client:
        await client.fund(100)
        await client.get_balance()
        await client.get_history()
        await client.create_order(1, "tg", immediate=True)
        await client.create_send_order("+15551234567", "hello you", immediate=True)
        assert [request.headers.get("x-api-key") for request in server.requests] == [KEY] * 5
        await client.is_available()
        await client.get_countries()
        await client.get_services(1)
        await client.get_rental_countries()
        await client.get_price(1, "tg")
        await client.create_order(1, "tg")
        await client.create_send_order("+15551234567", "hello you")
        await client.get_order_status(ORDER)
        await client.cancel_order(ORDER)
        assert all("x-api-key" not in request.headers for request in server.requests[5:])
        assert all("cookie" not in request.headers for request in server.requests)
        assert all(request.headers["accept-encoding"] == "identity" for request in server.requests)
        assert KEY not in repr(client) + repr(vars(client)) + repr(vars(client._transport))
    texts = "\n".join(record.getMessage() + str(record.args) for record in caplog.records)
    for secret in (KEY, ORDER, "15551234567", "hello you", "048213"):
        assert secret not in texts


async def test_a_redirect_is_not_followed_and_the_key_stays_here() -> None:
    async with serve(lambda request, reply: reply.json({"balance": 1})) as other:
        for status in (301, 302, 303, 307, 308):
            away = answers(page(status, b"", f"Location: {other.url}/balance"))
            async with serve(away) as server, client_of(server.url, attempts=1) as client:
                with pytest.raises(DecodeError, match=r"redirect to 127\.0\.0\.1"):
                    await client.get_balance()
                with pytest.raises(DecodeError):
                    await client.fund(100)
        assert other.connections_opened == 0


# --- a caller's own transport ------------------------------------------------------------------------------------------------------


class Broken(httpx.AsyncBaseTransport):
    def __init__(self, problem: BaseException) -> None:
        self.problem = problem
        self.calls = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002 - httpx's name
        self.calls += 1
        raise self.problem

    async def aclose(self) -> None:
        raise AssertionError("a caller's transport is the caller's to close")


@pytest.mark.parametrize(
    "problem",
    [
        httpx.ReadError("x"),
        httpx.UnsupportedProtocol("x"),
        httpx.InvalidURL("x"),
        OSError(5, "x"),
        ValueError("x"),
        ExceptionGroup("two", [OSError(1, "x"), ExceptionGroup("in it", [ValueError("y")])]),
    ],
    ids=lambda problem: type(problem).__name__,
)
async def test_whatever_comes_out_of_a_callers_transport_is_a_transport_error(problem: Exception) -> None:
    transport = Broken(problem)
    async with client_of("https://example.invalid", transport=transport, attempts=2) as client:
        with pytest.raises(TransportError) as caught:
            await client.get_balance()
        assert not isinstance(caught.value.__cause__, BaseExceptionGroup)
        assert all(link.__traceback__ is None for link in chain(caught.value)[1:])
    assert transport.calls == 2


@pytest.mark.parametrize("loud", [KeyboardInterrupt(), BaseExceptionGroup("two", [KeyboardInterrupt(), OSError("x")])])
@pytest.mark.parametrize("immediate", [False, True])
async def test_what_is_no_exception_leaves_a_callers_transport_as_it_is_and_without_a_group(loud: BaseException, immediate: bool) -> None:
    client = client_of("https://example.invalid", transport=Broken(loud))
    with pytest.raises(KeyboardInterrupt):
        await client.create_order(1, "tg", immediate=immediate)
    await client.aclose()


async def test_a_cancellation_passes_through_a_callers_transport() -> None:
    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002 - httpx's name
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 100)
                await anyio.sleep(100)
            raise AssertionError

    async with client_of("https://example.invalid", transport=Slow(), timeout=50) as client:
        start = anyio.current_time()
        for way in (by_scope_after_turns, by_native_cancel_after_turns) if on_asyncio() else (by_scope_after_turns,):
            ending = await way(client.get_balance, 9)
            assert ending.cancelled
        assert anyio.current_time() - start == pytest.approx(0)


async def test_an_overlong_reply_through_a_callers_transport_leaves_it_usable() -> None:
    async def endless(request: SeenRequest, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b" " * 100_000)
        await reply.hang()

    one = httpx.Limits(max_connections=1)
    async with serve([endless, PAID]) as server, httpx.AsyncHTTPTransport(limits=one) as transport:
        client = client_of(server.url, transport=transport, attempts=1)
        with pytest.raises(DecodeError, match="more than"):
            await client.get_order_status(ORDER)
        await anyio.sleep(0.5)
        assert server.connections_open == 0
        assert (await client.get_order_status(ORDER)).paid
        await client.aclose()


# --- TLS ---------------------------------------------------------------------------------------------------------------------------

PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg709yeJQW+at3UvkY
QAUTAQhKA+MoKGATM0euBgsb82ihRANCAARllmz/q2V67XPGds+gXaijEFrAmhEi
hasctu8IHQkVo/veQ8rfnxdeqTLjgicLeFIf/zS8ph/Ug0anZQMet4Yt
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUWXbEb/4WYMxgaIOitye1Fcmgo58wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjE2MTg1NFoYDzIxMjYxMDI5
MTYxODU0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARllmz/q2V67XPGds+gXaijEFrAmhEihasctu8IHQkVo/veQ8rfnxde
qTLjgicLeFIf/zS8ph/Ug0anZQMet4Yto28wbTAdBgNVHQ4EFgQUQCNczulmZpBa
RmGl8p4lx59oIoIwHwYDVR0jBBgwFoAUQCNczulmZpBaRmGl8p4lx59oIoIwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgLJEx2QlEu0I7NyeQK5kkUyHw4VH552cNWHojHDFlLdsCICtO
hUvEjUEyo4T29mmQnZsilMoj06N6p6tSTtwx9pwW
-----END CERTIFICATE-----
"""
"""A key and a certificate of its own for 127.0.0.1, made once, good for a hundred years, and secret to nobody."""


@asynccontextmanager
async def serve_tls(folder: Path, script: Callable[[TLSStream, int], Awaitable[None]]) -> AsyncIterator[tuple[str, list[int]]]:
    """A server for https: it shakes hands, reads a request, and does to the connection what the script says."""
    (folder / "server.pem").write_text(PEM)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    requests: list[int] = []

    async def handle(raw: anyio.abc.SocketStream) -> None:
        async with raw:
            try:
                stream = await TLSStream.wrap(raw, server_side=True, ssl_context=context, standard_compatible=False)
                await stream.receive()
                requests.append(len(requests) + 1)
                await script(stream, len(requests))
            except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream):
                pass

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        try:
            yield f"https://127.0.0.1:{port}", requests
        finally:
            group.cancel_scope.cancel()


async def test_a_bad_certificate_names_the_local_date_and_is_not_repeated(tmp_path: Path) -> None:
    async def never(stream: TLSStream, number: int) -> None:
        raise AssertionError

    async with serve_tls(tmp_path, never) as (url, requests), client_of(url, attempts=4) as client:
        start = anyio.current_time()
        with pytest.raises(TransportError, match=f"{datetime.now().astimezone():%Y-%m-%d}"):
            await client.get_balance()
        assert requests == []
        assert anyio.current_time() - start < 0.1
        with pytest.raises(TransportError, match="certificate") as caught:
            await client.create_order(1, "tg", immediate=True)
        assert type(caught.value) is TransportError


async def test_a_context_of_the_callers_own_says_whom_to_trust(tmp_path: Path) -> None:
    async def script(stream: TLSStream, _: int) -> None:
        await stream.send(json_reply({"balance": 7}))

    async with serve_tls(tmp_path, script) as (url, requests):
        async with client_of(url) as client:
            with pytest.raises(TransportError, match="certificate"):
                await client.get_balance()
        async with client_of(url, ssl_context=ssl.create_default_context(cafile=tmp_path / "server.pem")) as client:
            assert await client.get_balance() == 7
        assert len(requests) == 1


@pytest.mark.parametrize("wrong", [True, False, "authority.pem", 7])
def test_a_context_is_an_ssl_context_and_nothing_that_turns_the_check_off(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"ssl_context must be an ssl\.SSLContext"):
        Client(ssl_context=wrong)


@pytest.mark.parametrize("fault", ["closes", "cuts", "hangs"])
async def test_a_read_over_tls_is_repeated_after_a_fault(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stream: TLSStream, number: int) -> None:
        if number == 3:
            await stream.send(json_reply({"balance": 7}))
        elif fault == "cuts":
            await stream.send(json_reply({"balance": 7})[:20])
        elif fault == "hangs":
            await anyio.sleep(100)

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    async with serve_tls(tmp_path, script) as (url, requests), client_of(url, attempts=4, timeout=3, trust_env=True) as client:
        assert await client.get_balance() == 7
        assert len(requests) == 3


async def test_a_reset_over_tls_is_repeated_and_says_nothing_of_a_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def reset(stream: TLSStream, number: int) -> None:
        raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - anyio's, not Django's
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # what follows is a close, and so an RST

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    async with serve_tls(tmp_path, reset) as (url, requests), client_of(url, attempts=3, timeout=3, trust_env=True) as client:
        with pytest.raises(TransportError) as caught:
            await client.get_balance()
        assert "date" not in str(caught.value)
        assert len(requests) == 3


async def test_a_handshake_that_stalls_is_tried_again() -> None:
    opened: list[int] = []

    async def stall(number: int, reply: Reply) -> None:
        opened.append(number)
        await reply.hang()

    async with serve(hangs, on_connect=stall) as server, client_of(server.url.replace("http", "https"), attempts=3, timeout=4) as client:
        with pytest.raises(TransportError) as caught:
            await client.get_balance()
        assert len(opened) == 3
        assert "date" not in str(caught.value)
        await anyio.sleep(1)
        assert server.connections_open == 0


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the collector, which would close the socket that httpcore forgets when a handshake is cancelled."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_a_handshake_that_is_cancelled_leaves_no_connection() -> None:
    async with serve(hangs, on_connect=lambda number, reply: reply.hang()) as server:
        client = client_of(server.url.replace("http", "https"))
        with anyio.move_on_after(1):
            await client.get_balance()
        await client.aclose()
        await anyio.sleep(1)
        assert server.connections_open == 0
