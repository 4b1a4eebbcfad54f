"""What a program may see of its requests: each of them, once, and never a secret."""

import pickle
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from httpx_aiohttp import AiohttpTransport
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport, HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from sms4sats_async import (
    APIError,
    BatchWatcher,
    Client,
    Exchange,
    OrderWatcher,
    OutcomeUnknown,
    Sms4SatsError,
    TransportError,
)
from sms4sats_async.sandbox import Sandbox, Timeline
from sms4sats_async.tracing import mask_order_ids
from tests.servers import Reply, SeenRequest, closes, hangs, resets, serve
from tests.suspension import asyncio_only

ORDER_ID, MASKED = "0123456789abcdef0123456789abcdef", "01..ef"
KEY, PHONE, MESSAGE, CODE, NUMBER = "sk-0011223344556677", "+12025550143", "see you at eight", "004217", "15551234567"
SECRETS = (ORDER_ID, KEY, PHONE, PHONE[1:], MESSAGE, CODE, NUMBER)
READY = {"paid": True, "number": NUMBER, "code": CODE}


async def service(request: SeenRequest, reply: Reply) -> None:
    """The whole of the service, as far as a job needs it; every second look fails in one way or another."""
    path = request.target.partition("?")[0]
    if path == "/orderstatus":
        await reply.json(READY if anyio.current_time() > 30 else {"paid": True, "number": NUMBER})
    elif path == "/cancelorder":
        await reply.json({"status": "ERROR", "reason": f"too early for {ORDER_ID}"}, 400)
    elif path == "/balance":
        await reply.json({"balance": 1000})
    else:
        await reply.json({"status": "OK", "orderId": ORDER_ID, "payreq": "paid"})


# --- one event for each request ----------------------------------------------------------------------------------------------------


async def test_each_request_is_told_once_with_what_came_of_it() -> None:
    told: list[Exchange] = []
    async with serve([resets, ({"balance": 7})]) as server, Client(api_key=KEY, base_url=server.url, on_exchange=told.append) as client:
        await client.get_balance()
    first, second = told
    assert (first.method, first.path, first.order, first.attempt, first.status_code) == ("GET", "/balance", None, 1, None)
    assert (first.failure, first.size) == ("TransportError", 0)
    assert (second.attempt, second.status_code, second.failure, second.size) == (2, 200, None, len('{"balance": 7}'))
    assert (str(first), str(second)) == (
        f"GET /balance: TransportError, 0 bytes in {first.seconds:.3f} s",
        f"GET /balance (attempt 2): 200, 14 bytes in {second.seconds:.3f} s",
    )


async def test_an_order_is_told_by_its_masked_id() -> None:
    told: list[Exchange] = []
    async with serve(service) as server, Client(base_url=server.url, on_exchange=told.append, attempts=1) as client:
        await client.get_order_status(ORDER_ID)
        with pytest.raises(APIError):
            await client.cancel_order(ORDER_ID)
    assert [(one.path, one.order, one.status_code, one.failure) for one in told] == [
        ("/orderstatus", MASKED, 200, None),
        ("/cancelorder", MASKED, 400, "APIError"),
    ]
    assert str(told[1]).startswith("GET /cancelorder 01..ef: 400 APIError, ")


FAILURES: list[tuple[Any, str, int | None]] = [
    (closes, "TransportError", None),
    (hangs, "TransportError", None),
    (lambda _, reply: reply.json({}, 429), "RateLimited", 429),
    (lambda _, reply: reply.json({}, 401), "AuthenticationError", 401),
    (lambda _, reply: reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), "DecodeError", 200),
    (lambda _, reply: reply.cut(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{..", at=40), "TransportError", 200),
]


@pytest.mark.parametrize(("fault", "failure", "status"), FAILURES, ids=[f"{failure} {status}" for _, failure, status in FAILURES])
async def test_a_failure_is_told_by_its_class(fault: Any, failure: str, status: int | None) -> None:
    told: list[Exchange] = []
    async with serve(fault) as server, Client(base_url=server.url, on_exchange=told.append, attempts=1, timeout=3) as client:
        with pytest.raises(Sms4SatsError):
            await client.get_order_status(ORDER_ID)
    assert [(one.failure, one.status_code) for one in told] == [(failure, status)]
    assert told[0].seconds == (pytest.approx(3) if fault is hangs else pytest.approx(0, abs=3))


async def test_a_request_that_found_no_connection_is_told_too() -> None:
    told: list[Exchange] = []
    async with Client(api_key=KEY, base_url="http://127.0.0.1:1", on_exchange=told.append) as client:
        with pytest.raises(TransportError):
            await client.create_order(187, "tg", immediate=True)
    assert [(one.method, one.path, one.failure, one.attempt) for one in told] == [
        ("POST", "/createorder", "TransportError", attempt) for attempt in (1, 2, 3, 4)
    ]


async def test_a_read_whose_caller_is_cancelled_is_told_as_cancelled() -> None:
    told: list[Exchange] = []
    async with serve(hangs) as server, Client(base_url=server.url, on_exchange=told.append) as client:
        with anyio.move_on_after(2):
            await client.get_order_status(ORDER_ID)
        [one] = told
        assert (one.failure, one.status_code) == ("cancelled", None)
        assert one.seconds == pytest.approx(2)
        assert client.in_flight == 0


async def test_a_charge_whose_caller_is_cancelled_at_a_silent_proxy_is_told_as_cancelled() -> None:
    told: list[Exchange] = []
    async with serve(hangs) as proxy:
        async with Client(api_key=KEY, base_url="https://service.example", proxy=proxy.url, on_exchange=told.append) as client:
            with anyio.move_on_after(2) as scope:
                await client.create_order(187, "tg", immediate=True)
            assert scope.cancelled_caught
            [one] = told
            assert (one.failure, one.status_code, one.attempt) == ("cancelled", None, 1)
            assert one.seconds == pytest.approx(2)
        assert [request.method for request in proxy.requests] == ["CONNECT"]
        assert proxy.connections_open == 0


async def test_a_transport_that_gives_no_bytes_is_told_as_any_failure() -> None:
    class Wrong(httpx.AsyncByteStream):
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self  # type: ignore[return-value]

        async def __anext__(self) -> int:
            return 7

    told: list[Exchange] = []
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Wrong()))
    async with Client(transport=transport, attempts=1, on_exchange=told.append) as client:
        with pytest.raises(TransportError):
            await client.get_order_status(ORDER_ID)
    assert [(one.failure, one.status_code, one.size) for one in told] == [("TransportError", 200, 0)]


async def test_a_charge_that_outlives_its_caller_is_told_when_it_has_ended() -> None:
    told: list[Exchange] = []

    async def slow(request: SeenRequest, reply: Reply) -> None:
        await anyio.sleep(5)
        await service(request, reply)

    async with serve(slow) as server, Client(api_key=KEY, base_url=server.url, on_exchange=told.append) as client:
        with anyio.move_on_after(1):
            await client.create_order(187, "tg", immediate=True)
        [one] = told
        assert (one.failure, one.status_code) == (None, 200)
        assert one.seconds == pytest.approx(5)


async def test_what_is_ended_by_closing_the_client_is_told() -> None:
    told: list[Exchange] = []
    async with serve(hangs) as server:
        client = Client(base_url=server.url, on_exchange=told.append)

        async def look() -> None:
            with pytest.raises(RuntimeError, match="closed"):
                await client.get_order_status(ORDER_ID)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            await anyio.sleep(1)
            assert client.in_flight == 1
            await client.aclose()
    assert [one.failure for one in told] == ["TransportError"]


@asyncio_only
async def test_a_storm_of_native_cancels_leaves_every_request_told_once() -> None:
    import asyncio

    told: list[Exchange] = []
    async with serve(lambda _, reply: reply.json(READY)) as server:
        client = Client(base_url=server.url, max_connections=5, on_exchange=told.append)
        async with client:
            for turns in range(60):
                task = asyncio.ensure_future(client.get_order_status(ORDER_ID))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert client.in_flight == 0
        ends = Counter(one.failure for one in told)
        assert ends[None] >= 5
        assert ends["cancelled"] >= 5
        assert len(server.requests) <= len(told) < 60  # the first were cancelled before they had a connection


async def test_the_looks_of_watchers_and_batches_are_told() -> None:
    told: list[Exchange] = []
    sandbox = Sandbox(timeline=Timeline(paid_after=5, number_after=8, code_after=45))
    async with Client(transport=sandbox.transport(), on_exchange=told.append) as client:
        await OrderWatcher(client, await client.create_order(187, "tg")).code()
        async with BatchWatcher(client, [await client.create_order(187, "tg") for _ in range(20)]) as batch:
            assert len([outcome async for outcome in batch]) == 20
    assert len(told) == len(sandbox.calls)
    assert Counter(one.path for one in told) == Counter(call.path for call in sandbox.calls)
    assert {one.attempt for one in told} == {1}


@asyncio_only
async def test_requests_through_aiohttp_are_told() -> None:
    told: list[Exchange] = []
    async with (
        serve([READY, closes, closes]) as server,  # aiohttp itself asks once more
        AiohttpTransport() as transport,
        Client(base_url=server.url, transport=transport, attempts=1, on_exchange=told.append) as client,
    ):
        await client.get_order_status(ORDER_ID)
        with pytest.raises(TransportError):
            await client.get_order_status(ORDER_ID)
    await anyio.sleep(0.1)
    assert [(one.failure, one.status_code) for one in told] == [(None, 200), ("TransportError", None)]


async def test_a_kept_connection_that_the_server_has_closed_is_two_requests() -> None:
    told: list[Exchange] = []
    async with (
        serve(lambda _, reply: reply.json(READY), close_late=True) as server,
        Client(base_url=server.url, on_exchange=told.append) as client,
    ):
        await client.get_order_status(ORDER_ID)
        await client.get_order_status(ORDER_ID)
    assert [(one.failure, one.attempt) for one in told] == [(None, 1), ("TransportError", 1), (None, 2)]


async def test_what_the_hook_raises_is_logged_and_never_raised(caplog: pytest.LogCaptureFixture) -> None:
    def broken(exchange: Exchange) -> None:
        raise KeyError(exchange.path)

    async with serve(service) as server, Client(base_url=server.url, on_exchange=broken) as client:
        assert (await client.get_order_status(ORDER_ID)).paid
        with anyio.move_on_after(0):
            await client.get_order_status(ORDER_ID)
        assert (await client.get_order_status(ORDER_ID)).paid
    assert caplog.text.count("on_exchange failed for GET /orderstatus") >= 2
    assert ORDER_ID not in caplog.text


def test_the_hook_must_be_a_plain_function() -> None:
    async def hook(_: Exchange) -> None:
        raise AssertionError

    for wrong in (hook, 7, "print"):
        with pytest.raises(TypeError, match="on_exchange must be a plain function"):
            Client(on_exchange=wrong)  # type: ignore[arg-type]


async def a_whole_job(client: Client) -> None:
    """Every kind of call, and most kinds of ends."""
    await client.get_balance()
    order = await client.create_order(187, "tg", immediate=True, max_sats=None)
    await client.create_send_order(PHONE, MESSAGE, immediate=True)
    with pytest.raises(APIError):
        await client.cancel_order(order.id)
    async with OrderWatcher(client, order) as watcher:
        assert await watcher.code() == CODE
    async with BatchWatcher(client, [order]) as batch:
        assert [outcome.code async for outcome in batch] == [CODE]
    with anyio.move_on_after(0.5):
        await client.get_order_status(order.id)


async def test_nothing_that_is_told_is_a_secret_and_all_of_it_can_be_stored() -> None:
    told: list[Exchange] = []
    async with serve(service) as server, Client(api_key=KEY, base_url=server.url, on_exchange=told.append) as client:
        await a_whole_job(client)
        assert len(told) == len(server.requests)
    text = "\n".join(f"{one} {one!r}" for one in told)
    assert not [secret for secret in SECRETS if secret in text]
    assert pickle.loads(pickle.dumps(told)) == told  # noqa: S301 - what was just written


# --- OpenTelemetry -----------------------------------------------------------------------------------------------------------------


class Traced:
    """The httpx instrumentation of OpenTelemetry, with what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def instrument(self, **hooks: Any) -> None:
        HTTPXClientInstrumentor().instrument(tracer_provider=self.provider, meter_provider=self.meters, **hooks)

    @property
    def spans(self) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name != "mine"]

    @property
    def exported(self) -> str:
        """All that leaves the process, as text."""
        metrics = self.reader.get_metrics_data()
        return "\n".join(span.to_json() for span in self.exporter.get_finished_spans()) + ("" if metrics is None else metrics.to_json())


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    for side in ("REQUEST", "RESPONSE"):
        monkeypatch.setenv(f"OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_{side}", ".*")
    traced = Traced()
    yield traced
    HTTPXClientInstrumentor().uninstrument()
    traced.provider.shutdown()
    traced.meters.shutdown()


async def test_a_traced_job_has_one_span_for_each_request_and_no_secret(traced: Traced) -> None:
    async with serve(service) as server, Client(api_key=KEY, base_url=server.url) as client:
        traced.instrument(async_request_hook=mask_order_ids)  # the client was made before
        with traced.provider.get_tracer("mine").start_as_current_span("mine") as mine:
            await a_whole_job(client)
        assert len(traced.spans) == len(server.requests) > 10
    assert not [secret for secret in SECRETS if secret in traced.exported]
    assert {span.parent and span.parent.span_id for span in traced.spans} == {mine.get_span_context().span_id}
    looks = [span for span in traced.spans if "/orderstatus" in str((span.attributes or {})["url.full"])]
    assert all((span.attributes or {})["http.url"] == f"{server.url}/orderstatus?orderId={MASKED}" for span in looks)


async def test_without_the_hook_a_span_has_the_order_id(traced: Traced) -> None:
    """Why the hook is there, and that the tests above look in the right place."""
    async with serve(service) as server, Client(api_key=KEY, base_url=server.url) as client:
        traced.instrument()
        await a_whole_job(client)
    assert {ORDER_ID, KEY} <= {secret for secret in SECRETS if secret in traced.exported}


@pytest.mark.parametrize("fault", [closes, resets, hangs, lambda _, reply: reply.raw(b"garbage\r\n\r\n")])
async def test_a_failed_request_is_a_span_without_a_secret(traced: Traced, fault: Callable[[SeenRequest, Reply], Any]) -> None:
    traced.instrument(async_request_hook=mask_order_ids)
    async with serve(fault) as server, Client(api_key=KEY, base_url=server.url, timeout=3) as client:
        with pytest.raises(TransportError), traced.provider.get_tracer("mine").start_as_current_span("mine"):
            await client.get_order_status(ORDER_ID)
        with pytest.raises(OutcomeUnknown):
            await client.create_send_order(PHONE, MESSAGE, immediate=True)
        assert len(traced.spans) == len(server.requests) == 5
    assert not [secret for secret in SECRETS if secret in traced.exported]


async def test_a_redirect_that_repeats_the_address_is_masked_by_the_second_hook(traced: Traced) -> None:
    async def redirects(request: SeenRequest, reply: Reply) -> None:
        await reply.raw(f"HTTP/1.1 302 Found\r\nLocation: {request.target}\r\nContent-Length: 0\r\n\r\n".encode())

    traced.instrument(async_request_hook=mask_order_ids, async_response_hook=mask_order_ids)
    async with serve(redirects) as server, Client(base_url=server.url, attempts=1) as client:
        with pytest.raises(Sms4SatsError):
            await client.get_order_status(ORDER_ID)
    [span] = traced.spans
    assert (span.attributes or {})["http.response.header.location"] == (f"/orderstatus?orderId={MASKED}",)
    assert ORDER_ID not in traced.exported


async def test_a_client_goes_on_when_the_tracing_has_ended(traced: Traced) -> None:
    traced.instrument(async_request_hook=mask_order_ids)
    async with serve(service) as server, Client(base_url=server.url) as client:
        await client.get_order_status(ORDER_ID)
        HTTPXClientInstrumentor().uninstrument()
        await client.get_order_status(ORDER_ID)
        traced.instrument(async_request_hook=mask_order_ids)
        await client.get_order_status(ORDER_ID)
    assert len(traced.spans) == 2


async def test_a_transport_of_ones_own_is_traced_when_it_is_wrapped(traced: Traced) -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=5, number_after=8, code_after=45))
    transport = AsyncOpenTelemetryTransport(sandbox.transport(), tracer_provider=traced.provider, request_hook=mask_order_ids)
    async with Client(transport=transport) as client:
        order = await client.create_order(187, "tg")
        await OrderWatcher(client, order).code()
    assert len(traced.spans) == len(sandbox.calls)
    assert order.id not in traced.exported


async def test_a_charge_is_not_made_twice_because_it_is_traced(traced: Traced) -> None:
    traced.instrument(async_request_hook=mask_order_ids)
    async with serve(closes) as server, Client(api_key=KEY, base_url=server.url) as client:
        with pytest.raises(OutcomeUnknown):
            await client.create_order(187, "tg", immediate=True)
        assert len(server.requests) == len(traced.spans) == 1
    async with Client(api_key=KEY, base_url="http://127.0.0.1:1") as client:
        with pytest.raises(TransportError) as caught:
            await client.create_order(187, "tg", immediate=True)
    assert not isinstance(caught.value, OutcomeUnknown)
    assert len(traced.spans) == 1 + 4


async def test_a_span_that_is_not_recorded_is_left_alone(traced: Traced) -> None:
    unsampled = TracerProvider(sampler=ALWAYS_OFF)
    HTTPXClientInstrumentor().instrument(tracer_provider=unsampled, async_request_hook=mask_order_ids)
    async with serve(service) as server, Client(base_url=server.url) as client:
        assert (await client.get_order_status(ORDER_ID)).paid
    unsampled.shutdown()


class OtherSpan:
    """A span of another vendor, that takes attributes and shows none."""

    def __init__(self) -> None:
        self.taken: dict[str, object] = {}

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, name: str, value: object) -> None:
        self.taken[name] = value


class ShownSpan(OtherSpan):
    """One that shows what it was given before."""

    attributes: dict[str, Any]


async def test_a_span_that_shows_nothing_is_given_the_masked_address() -> None:
    span = OtherSpan()
    await mask_order_ids(span, httpx.Request("GET", f"https://example.org/orderstatus?orderId={ORDER_ID}"))
    address = f"https://example.org/orderstatus?orderId={MASKED}"
    assert span.taken == {"http.url": address, "url.full": address}
    other = OtherSpan()
    await mask_order_ids(other, httpx.Request("GET", "https://example.org/x?q=1"))
    assert other.taken == {}


@pytest.mark.parametrize(
    ("seen", "left"),
    [
        (f"/orderstatus?orderId={ORDER_ID}", f"/orderstatus?orderId={MASKED}"),
        (f"orderId={ORDER_ID}&a=b", f"orderId={MASKED}&a=b"),
        (f"x?a=b&orderid={ORDER_ID}#top", f"x?a=b&orderid={MASKED}#top"),
        (f"redirect to <{ORDER_ID}?orderId=ab%20cd%2Fef0>, twice", f"redirect to <{ORDER_ID}?orderId=ab..f0>, twice"),
        ("orderId=ab12", "orderId=.."),
        ("orderId=", "orderId="),
        ("orderId=01..ef", "orderId=01..ef"),
        ((f"?orderId={ORDER_ID}", "other"), (f"?orderId={MASKED}", "other")),
        (200, 200),
    ],
)
async def test_an_attribute_is_masked_wherever_an_order_id_stands(seen: Any, left: Any) -> None:
    span = ShownSpan()
    span.attributes = {"a": seen}
    for _ in range(2):
        await mask_order_ids(span, None)
    assert span.taken == ({} if seen == left else {"a": left})
