"""A program that is tested with a mock of httpx: respx, which answers in httpcore's place, and pytest-httpx, which answers in httpx's.

Both stand between our own lanes and the network, so a mocked client is the one that runs in production. What a mock raises means what it
would mean there; only "nothing was sent" it can prove no other way than by a connect error.
"""

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import httpx
import pytest
import respx
from pytest_httpx import HTTPXMock

from sms4sats_async import APIError, Client, Order, OrderWatcher, OutcomeUnknown, TransportError
from sms4sats_async.transport import GRACE

pytestmark = pytest.mark.httpx_mock(assert_all_responses_were_requested=False, assert_all_requests_were_expected=False)

API = "https://api2.sms4sats.com"
ORDER_ID = "0123456789abcdef0123456789abcdef"
PLACED = {"status": "OK", "orderId": ORDER_ID, "payreq": "lnbc50u1qqqqqqqqqqqq"}
PREPAID = {"status": "OK", "orderId": ORDER_ID, "payreq": "paid"}
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

Step = httpx.Response | Exception


class Steps:
    """What a route answers, one step after the other, the last one for ever; it counts the requests that have come to it."""

    def __init__(self, *steps: Step, delay: float = 0.0) -> None:
        self.steps = steps
        self.delay = delay
        self.count = 0

    async def answer(self, _: httpx.Request) -> httpx.Response:
        step = self.steps[min(self.count, len(self.steps) - 1)]
        self.count += 1
        await anyio.sleep(self.delay)
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step.status_code, headers=step.headers, content=step.content)


Route = Callable[[str, str, Steps], object]
"""``route(method, path, steps)``, in either mock."""


@pytest.fixture(params=["respx", "pytest-httpx"])
def route(request: pytest.FixtureRequest) -> Iterator[Route]:
    if request.param == "respx":
        with respx.mock(assert_all_called=False) as router:
            yield lambda method, path, steps: router.request(method, url__startswith=API + path).mock(side_effect=steps.answer)
    else:
        mock: HTTPXMock = request.getfixturevalue("httpx_mock")
        yield lambda method, path, steps: mock.add_callback(
            steps.answer, method=method, url=re.compile(re.escape(API + path)), is_reusable=True
        )


def ok(payload: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=payload)


# --- the bot -----------------------------------------------------------------------------------------------------------------------


async def test_a_bot_is_tested_from_its_order_to_its_code(route: Route) -> None:
    route("POST", "/createorder", placed := Steps(ok(PLACED)))
    waiting, numbered = {"paid": False}, {"paid": True, "number": "15551234567"}
    steps: list[Step] = [ok(waiting), httpx.ReadTimeout("slow"), ok({}, 503), ok(numbered), ok(numbered | {"code": "004217"})]
    route("GET", "/orderstatus", looks := Steps(*steps))
    async with Client() as client:
        order = await client.create_order(187, "tg", max_sats=5000)
        async with OrderWatcher(client, order) as watcher:
            assert await watcher.number() == "+15551234567"
            assert await watcher.code() == "004217"
    assert (placed.count, looks.count) == (1, 5)


async def test_a_refusal_is_the_error_that_it_would_be(route: Route) -> None:
    route("GET", "/cancelorder", asked := Steps(ok({"status": "ERROR", "reason": "too early"}, 400)))
    async with Client() as client:
        with pytest.raises(APIError) as caught:
            await client.cancel_order(ORDER_ID)
    assert (caught.value.reason, caught.value.status_code, asked.count) == ("too early", 400, 1)


def test_the_test_file_of_the_readme_passes(tmp_path: Path) -> None:
    [program] = re.findall(r"^```python\n(# test_bot\.py: .*?)^```$", README, re.DOTALL | re.MULTILINE)
    (tmp_path / "test_bot.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error", "test_bot.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b[46] passed", done.stdout), done.stdout  # on each backend that is there


# --- what may be sent again --------------------------------------------------------------------------------------------------------

LOST = {
    "read timeout": httpx.ReadTimeout("no reply"),
    "reset": httpx.ReadError("reset"),
    "write": httpx.WriteError("reset"),
    "the server ended": httpx.RemoteProtocolError("the server disconnected"),
    "an error page": httpx.Response(503, text="<html>"),
    "no JSON": httpx.Response(200, text="<html>"),
}


@pytest.mark.parametrize("step", LOST.values(), ids=LOST)
async def test_a_charge_whose_reply_is_lost_is_sent_once_and_of_unknown_outcome(route: Route, step: Step) -> None:
    route("POST", "/createorder", sent := Steps(step))
    async with Client(api_key="sk-secret") as client:
        with pytest.raises(OutcomeUnknown):
            await client.create_order(187, "tg", immediate=True)
    assert sent.count == 1


@pytest.mark.parametrize("step", LOST.values(), ids=LOST)
async def test_an_unpaid_order_whose_reply_is_lost_is_placed_once_more(route: Route, step: Step) -> None:
    route("POST", "/createorder", sent := Steps(step))
    async with Client() as client:
        with pytest.raises(Exception, match="/createorder"):
            await client.create_order(187, "tg")
    assert sent.count == 2


@pytest.mark.parametrize("refused", [httpx.ConnectError("refused"), httpx.ConnectTimeout("nobody there")])
async def test_a_charge_that_found_no_connection_is_sent_again(route: Route, refused: Exception) -> None:
    route("POST", "/createorder", sent := Steps(refused, refused, ok(PREPAID)))
    async with Client(api_key="sk-secret") as client:
        assert (await client.create_order(187, "tg", immediate=True)).prepaid
    assert sent.count == 3


async def test_a_charge_that_never_finds_a_connection_was_not_made(route: Route) -> None:
    route("POST", "/createorder", sent := Steps(httpx.ConnectError("refused")))
    async with Client(api_key="sk-secret") as client:
        with pytest.raises(TransportError) as caught:
            await client.create_order(187, "tg", immediate=True)
    assert type(caught.value) is TransportError
    assert sent.count == 4


async def test_a_charge_that_outlasts_its_time_is_of_unknown_outcome(route: Route) -> None:
    route("POST", "/createorder", sent := Steps(ok(PREPAID), delay=60))
    async with Client(api_key="sk-secret") as client:
        with pytest.raises(OutcomeUnknown):
            await client.create_order(187, "tg", immediate=True)
    assert sent.count == 1


async def test_a_charge_whose_caller_is_cancelled_comes_to_its_end(route: Route) -> None:
    route("POST", "/createorder", Steps(ok(PREPAID), delay=5))
    told: list[Order] = []
    async with Client(api_key="sk-secret", on_order=told.append) as client:
        with anyio.move_on_after(1) as scope:
            await client.create_order(187, "tg", immediate=True)
        assert scope.cancelled_caught
        assert [order.id for order in client.orphaned_orders] == [order.id for order in told] == [ORDER_ID]


async def test_a_charge_whose_caller_is_cancelled_and_that_does_not_end_is_told_as_perhaps_made(
    route: Route, caplog: pytest.LogCaptureFixture
) -> None:
    route("POST", "/createorder", Steps(ok(PREPAID), delay=60))
    async with Client(api_key="sk-secret", timeout=50) as client:
        started = anyio.current_time()
        with caplog.at_level(logging.WARNING), anyio.move_on_after(1):
            await client.create_order(187, "tg", immediate=True)
        assert anyio.current_time() - started == pytest.approx(1 + GRACE)
    assert "the balance may have been charged" in caplog.text


async def test_what_no_route_answers_is_a_failure_with_the_words_of_the_mock(route: Route) -> None:
    route("GET", "/balance", Steps(ok({})))
    async with Client(attempts=1) as client:
        with pytest.raises(TransportError, match=r"not mocked|No response can be found"):
            await client.get_order_status(ORDER_ID)


# --- other ways to mock ------------------------------------------------------------------------------------------------------------


async def test_a_mock_transport_serves_as_well() -> None:
    async with Client(transport=httpx.MockTransport(lambda _: ok({"paid": True, "code": "004217"}))) as client:
        assert await OrderWatcher(client, ORDER_ID).code() == "004217"


async def test_a_router_of_respx_that_patches_nothing_is_a_transport_too() -> None:
    router = respx.Router()
    router.get(path="/orderstatus").respond(json={"paid": True, "code": "004217"})
    async with Client(transport=httpx.MockTransport(router.async_handler)) as client:
        assert await OrderWatcher(client, ORDER_ID).code() == "004217"
