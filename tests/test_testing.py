"""What tests of users' programs stand on: a clock that does not wait, and a sandbox that goes by scripts."""

import asyncio
import importlib.util
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx
import pytest

from sms4sats_async import (
    APIError,
    CancelRefused,
    Client,
    DecodeError,
    Journal,
    Order,
    OrderExpired,
    OrderFailed,
    OrderWatcher,
    OutcomeUnknown,
    RateLimited,
    SendFailed,
    Sms4SatsError,
    TransportError,
    receive_code,
)
from sms4sats_async.sandbox import Timeline
from sms4sats_async.testing import Clock, PaymentReturned, RealTimeError, Script, ScriptedSandbox, Trouble
from sms4sats_async.testing.clock import PATIENCE
from sms4sats_async.testing.sandbox import API_KEY, BALANCE_SATS
from sms4sats_async.testing.scripts import WORDS, Words
from tests.test_journal import locked_for_a_moment

T = TypeVar("T")

HAS_TRIO = importlib.util.find_spec("trio") is not None
BACKENDS = ["asyncio", "trio"] if HAS_TRIO else ["asyncio"]
on_both = pytest.mark.parametrize("backend", BACKENDS)


def run(backend: str, main: Callable[[Clock], Awaitable[T]], clock: Clock | None = None) -> T:
    """What this returns in a loop with this clock, and with no other help: a loop as a user's test has it."""
    options = {"clock": mock_clock()} if backend == "trio" else {}
    ours = clock or Clock()

    async def begun() -> T:
        ours.begin()
        try:
            return await main(ours)
        finally:
            ours.end()

    return anyio.run(begun, backend=backend, backend_options=options)


def mock_clock() -> Any:
    from sms4sats_async.testing.on_trio import virtual_clock

    return virtual_clock()


# --- the clock ---------------------------------------------------------------------------------------------------------------------


@on_both
def test_a_day_takes_no_time(backend: str) -> None:
    async def main(clock: Clock) -> None:
        assert repr(clock) == "<Clock at 0 s>"
        before = anyio.current_time()
        for _ in range(24):
            await anyio.sleep(3600)
        assert clock.now == pytest.approx(86_400)
        assert anyio.current_time() - before == pytest.approx(86_400)

    real = time.monotonic()
    run(backend, main)
    assert time.monotonic() - real < 60  # a wait for real would show; the figure itself promises nothing


@on_both
def test_a_test_can_step_to_a_moment_and_look(backend: str) -> None:
    async def main(clock: Clock) -> None:
        seen: list[float] = []

        async def tick() -> None:
            for _ in range(5):
                await anyio.sleep(10)
                await anyio.sleep(0)  # noqa: ASYNC115 - somebody who is due at the moment itself, and has a few steps to do
                seen.append(clock.now)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await clock.move_to(30)
            assert clock.now == pytest.approx(30)
            assert seen == pytest.approx([10, 20, 30])
            await clock.move(5)
            assert clock.now == pytest.approx(35)
            assert len(seen) == 3
            await clock.move(0)
            for wrong in (clock.move(-1), clock.move(math.nan), clock.move(math.inf), clock.move_to(34)):
                with pytest.raises(ValueError, match="time cannot"):
                    await wrong

    run(backend, main)


@pytest.mark.measured("on both loops")
@on_both
def test_a_wait_for_the_others_can_be_given_up(backend: str) -> None:
    async def main(clock: Clock) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.move, 0)
            await anyio.sleep(0)  # noqa: ASYNC115
            await anyio.sleep(0)  # noqa: ASYNC115
            tasks.cancel_scope.cancel()
        await clock.move(5)
        assert clock.now == pytest.approx(5)

    run(backend, main)


@on_both
def test_time_does_not_jump_away_while_a_thread_works(backend: str) -> None:
    async def main(clock: Clock) -> None:
        with anyio.fail_after(5):
            await anyio.to_thread.run_sync(time.sleep, 0.05)
        assert 0.04 < clock.now < 5  # it goes as fast as real time meanwhile
        with anyio.move_on_after(0.05) as scope:
            await anyio.to_thread.run_sync(time.sleep, 0.5, abandon_on_cancel=True)
        assert scope.cancelled_caught
        before = clock.now
        await anyio.sleep(1000)
        assert clock.now - before == pytest.approx(1000, abs=0.001 if backend == "asyncio" else 1)  # on trio a thread is waited for

    run(backend, main)


@pytest.mark.measured("on both loops")
@on_both
def test_a_limiter_of_ones_own_makes_no_difference(backend: str) -> None:
    async def main(clock: Clock) -> None:
        limiter = anyio.CapacityLimiter(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 5)
            await anyio.to_thread.run_sync(time.sleep, 0.05, limiter=limiter)
            assert 0.04 < clock.now < 5
        with anyio.move_on_after(0.05):
            await anyio.to_thread.run_sync(time.sleep, 0.5, abandon_on_cancel=True, limiter=limiter)
        assert clock.now == pytest.approx(5.05, abs=0.2)

    run(backend, main)


@on_both
def test_time_stands_still_while_a_journal_is_waited_for(backend: str, tmp_path: Path) -> None:
    async def main(clock: Clock) -> None:
        seen: list[float] = []

        async def write() -> None:
            await anyio.sleep(10)
            with locked_for_a_moment(path):
                await journal.keep("name", 1)
            seen.append(clock.now)

        async with Journal(path) as journal, anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            with anyio.move_on_after(10.001):  # not even so much passes
                await anyio.sleep(math.inf)
            assert seen == [10]
            tasks.start_soon(write)
            await clock.move(10)  # whoever has something to do at that moment does it, also with a journal
            assert seen == [10, 20.001]

    path = tmp_path / "orders.db"
    run(backend, main)


def test_time_does_not_jump_away_while_asyncios_own_threads_work() -> None:
    async def main(clock: Clock) -> None:
        async with asyncio.timeout(5):
            await asyncio.gather(asyncio.to_thread(time.sleep, 0.05), asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05))
        assert 0.04 < clock.now < 5
        before = clock.now
        await asyncio.sleep(1000)
        assert clock.now - before == 1000

    run("asyncio", main)


@pytest.mark.measured("on both loops")
@on_both
def test_whoever_lives_outside_is_given_a_moment_before_each_jump(backend: str) -> None:
    """A database's thread, as drivers have it: nobody can tell that it works."""
    clock = Clock()
    clock.patience = 10  # real seconds: an answer that comes in time ends them

    async def main(clock: Clock) -> None:
        token = anyio.lowlevel.current_token()
        answer = anyio.Event()
        begin = threading.Event()

        def work() -> None:
            begin.wait(60)
            time.sleep(0.05)
            anyio.from_thread.run_sync(answer.set, token=token)

        thread = threading.Thread(target=work)
        thread.start()
        with anyio.fail_after(5):
            begin.set()
            await answer.wait()
        assert clock.now == 0
        thread.join()
        clock.patience = 0
        await anyio.sleep(100)
        assert clock.now == pytest.approx(100)

    run(backend, main, clock)


@on_both
def test_a_socket_of_another_process_is_given_a_moment_as_well(backend: str) -> None:
    clock = Clock()
    clock.patience = 10

    async def main(clock: Clock) -> None:
        server = "import socket, sys, time; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); time.sleep(0.1); s.send(b'x')"
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no Django here
        with subprocess.Popen([sys.executable, "-S", "-c", server, str(port)]):  # noqa: ASYNC220 - it starts at once
            raw: socket.socket = listener.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610
            with anyio.fail_after(5):
                await anyio.wait_readable(raw)
        assert clock.now == 0
        await listener.aclose()

    run(backend, main, clock)


def test_time_waits_where_nobody_waits_for_a_moment() -> None:
    async def main(clock: Clock) -> None:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        thread = threading.Timer(0.02, loop.call_soon_threadsafe, [answer.set_result, "heard"])
        thread.start()
        assert await answer == "heard"
        thread.join()
        assert clock.now == 0

    run("asyncio", main)


def test_a_loop_is_what_it_was_when_the_clock_has_ended_and_time_does_not_go_back() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        before = loop.time()
        for round_ in range(1, 4):  # pytest-asyncio can share a loop among tests
            clock = Clock()
            clock.begin()
            clock.begin()  # once is enough
            await clock.move(1000)
            assert loop.time() - before >= 1000 * round_
            clock.end()
            clock.end()
            assert clock.now == 1000
            assert "run_in_executor" not in vars(loop)
            assert "select" not in vars(loop._selector)
            after = loop.time()
            await asyncio.sleep(0.01)
            assert 0.009 < loop.time() - after < 60
        assert loop.time.__func__.__qualname__ == "_Shift.time"
        assert loop.time.__self__._real.__func__ is asyncio.BaseEventLoop.time  # and not one for each test

    asyncio.run(main())


@on_both
def test_a_clock_goes_on_in_the_next_loop(backend: str) -> None:
    clock = Clock()

    async def main(clock: Clock) -> None:
        await clock.move(10)

    run(backend, main, clock)
    run(backend, main, clock)
    assert clock.now == clock.read() == pytest.approx(20)


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
def test_a_loop_that_is_not_of_the_standard_library_is_refused_at_once() -> None:
    import uvloop

    async def main() -> None:
        with pytest.raises(
            RealTimeError, match=re.escape("the time of uvloop.Loop cannot be virtual: run this test on asyncio's own loop")
        ):
            Clock().begin()

    uvloop.run(main())


@pytest.mark.skipif(not HAS_TRIO, reason="trio is not installed")
def test_a_trio_run_with_a_real_clock_is_refused_at_once() -> None:
    async def main() -> None:
        with pytest.raises(RealTimeError, match=r"trio\.run\(main, clock=MockClock\(autojump_threshold=0\)\)"):
            Clock().begin()

    anyio.run(main, backend="trio")


@pytest.mark.skipif(not HAS_TRIO, reason="trio is not installed")
def test_a_mock_clock_of_the_users_own_keeps_its_ways() -> None:
    from trio.testing import MockClock, wait_all_tasks_blocked

    patient = MockClock(autojump_threshold=0.05)

    async def main() -> None:
        clock = Clock()
        clock.begin()
        await clock.move(100)
        assert patient.autojump_threshold == 0.05
        clock.end()

    anyio.run(main, backend="trio", backend_options={"clock": patient})
    still = MockClock()

    async def by_hand() -> None:
        clock = Clock()
        clock.begin()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.move, 100)
            await wait_all_tasks_blocked()
            assert clock.now == 0
            still.jump(100)
        assert clock.read() == 100
        clock.end()

    anyio.run(by_hand, backend="trio", backend_options={"clock": still})


@on_both
def test_nobody_waits_in_a_loop_that_the_clock_has_not_begun_in(backend: str) -> None:
    """Not even a client, which repeats a call that fails: what it is told is no ``Exception``."""
    sandbox = ScriptedSandbox(clock=Clock().read)

    async def main() -> None:
        async with sandbox.client() as client:
            await client.create_order(187, "tg")

    real = time.monotonic()
    with pytest.raises(RealTimeError, match=r"sms4sats_clock\.begin\(\)"):
        anyio.run(main, backend=backend)
    assert time.monotonic() - real < 60
    assert not issubclass(RealTimeError, Exception)


# --- scripts -----------------------------------------------------------------------------------------------------------------------


def test_all_words_have_a_script_and_no_others() -> None:
    assert all(isinstance(Script.of(words), Script) for words in WORDS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is no script 'no coed'; there are") as caught:
        Script.of("no coed")  # type: ignore[arg-type]
    for words in WORDS:
        assert f"\n    {words}\n" in str(caught.value)
    own = Script(timeline=Timeline(paid_after=1))
    assert Script.of(own) is own
    with pytest.raises(ValueError, match="a script is missing"):
        ScriptedSandbox().script()


@pytest.mark.parametrize("wrong", [-1, 1260, math.nan])
def test_a_code_comes_before_the_end_or_not_at_all(wrong: float) -> None:
    with pytest.raises(ValueError, match="a code comes within 1260 s"):
        Script.code(wrong)


async def watched(words: Words | Script, **options: Any) -> tuple[ScriptedSandbox, Any]:
    """What a sandbox with this script has seen, and the code or the error that a plain bot ends with."""
    sandbox = ScriptedSandbox()
    sandbox.script(words)
    async with sandbox.client(**options) as client:
        order = await client.create_order(187, "tg")
        watcher = OrderWatcher(client, order)
        try:
            async with watcher:
                return sandbox, await watcher.code()
        except Exception as error:  # noqa: BLE001 - it is looked at
            return sandbox, error


@pytest.mark.parametrize(("words", "at"), [("code at 45 s", 45), ("code at the last second", 1259), (Script.code(3, text="004217"), 3)])
async def test_a_code_comes_at_its_moment(words: Words | Script, at: float) -> None:
    sandbox, code = await watched(words)
    order = sandbox.order
    assert order.paid_at is not None
    assert order.code_at is not None
    assert order.code_at - order.paid_at == pytest.approx(at)
    assert code == order.code
    assert code == "004217" or at != 3
    sandbox.assert_nothing_open()


async def test_no_code_ends_with_the_window_and_a_cancel() -> None:
    sandbox, error = await watched("no code")
    assert isinstance(error, OrderExpired)
    assert (error.paid, error.cancelled) == (True, True)
    assert sandbox.order.returned
    assert sandbox.order.number is not None


async def test_no_number_is_said_by_the_service() -> None:
    sandbox, error = await watched("no number")
    assert isinstance(error, OrderFailed)
    assert sandbox.order.number is None
    assert sandbox.order.returned


async def test_never_paid_is_never_paid() -> None:
    sandbox, error = await watched("never paid")
    assert isinstance(error, OrderExpired)
    assert (error.paid, sandbox.order.paid_at) == (False, None)
    sandbox.assert_nothing_open()


async def test_a_cancel_is_refused_at_any_time() -> None:
    sandbox = ScriptedSandbox()
    sandbox.script("cancel refused")
    async with sandbox.client() as client:
        watcher = OrderWatcher(client, await client.create_order(187, "tg"))
        await watcher.paid()
        await anyio.sleep(600)
        with pytest.raises(CancelRefused):
            await watcher.cancel()
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
    assert (caught.value.cancelled, caught.value.reason) == (False, "unable to save data")


TROUBLES: dict[Words, type[Exception]] = {
    "503 for a minute": APIError,
    "429 for a minute": RateLimited,
    "garbage for a minute": DecodeError,
    "unreachable for a minute": TransportError,
}


@pytest.mark.parametrize("words", TROUBLES)
async def test_trouble_strikes_for_its_minute_and_the_code_is_found_after_it(words: Words) -> None:
    sandbox, code = await watched(words)
    placed = sandbox.order.created_at
    assert code == sandbox.order.code
    sandbox.assert_nothing_open()
    asked = [call.at - placed for call in sandbox.calls if call.path == "/orderstatus"]
    assert any(10 <= at < 70 for at in asked)
    assert asked[-1] >= 70


@pytest.mark.parametrize("words", TROUBLES)
async def test_trouble_is_what_a_plain_call_meets(words: Words) -> None:
    sandbox = ScriptedSandbox()
    sandbox.script(words)
    async with sandbox.client(attempts=1) as client:
        order = await client.create_order(187, "tg")
        await client.get_order_status(order.id)
        await anyio.sleep(10.5)
        assert await client.is_available()  # it is trouble with this order only
        with pytest.raises(Sms4SatsError) as caught:
            await client.get_order_status(order.id)
        assert type(caught.value) is TROUBLES[words]
        assert getattr(caught.value, "retry_after", 20) == 20
        await anyio.sleep(60)
        assert (await client.get_order_status(order.id)).code is not None


async def test_trouble_for_all_strikes_what_places_orders_as_well() -> None:
    sandbox = ScriptedSandbox()
    await anyio.sleep(100)
    sandbox.trouble(Trouble.unavailable(begins=0, lasts=30))
    sandbox.trouble(Trouble.rate_limited(None, begins=30, lasts=30))
    async with sandbox.client(attempts=1) as client:
        with pytest.raises(APIError, match="503"):
            await client.create_order(187, "tg")
        await anyio.sleep(30)
        with pytest.raises(RateLimited) as caught:
            await client.get_countries()
        assert caught.value.retry_after is None
        await anyio.sleep(30)
        await client.get_countries()
    assert [call.path for call in sandbox.calls] == ["/createorder", "/getCountries", "/getCountries"]
    assert not sandbox.orders


async def test_a_prepaid_order_whose_reply_is_lost_is_charged() -> None:
    sandbox = ScriptedSandbox()
    sandbox.script("reply lost", "code at 45 s")
    async with sandbox.client(api_key="whatever") as client:
        with pytest.raises(OutcomeUnknown):
            await client.create_order(187, "tg", immediate=True)
        assert sandbox.order.prepaid
        assert sandbox.balance(API_KEY) < BALANCE_SATS
        with pytest.raises(AssertionError, match=r"orders that were left open: 1\n    receive order \w+\.\.\w+, placed at .* sat are held"):
            sandbox.assert_nothing_open()
        await client.create_order(187, "tg", immediate=True)
    assert len(sandbox.orders) == 2


async def test_an_order_that_costs_nothing_yet_is_placed_again_when_its_reply_is_lost() -> None:
    sandbox = ScriptedSandbox()
    sandbox.script("reply lost", "code at 45 s")
    async with sandbox.client() as client:
        order = await client.create_order(187, "tg")
    assert order.id == list(sandbox.orders)[1]


async def test_an_sms_is_delivered_or_fails() -> None:
    sandbox = ScriptedSandbox()
    sandbox.script("code at 45 s", "sms failed")
    async with sandbox.client() as client:
        sent = await client.create_send_order("+12025550143", "hello")
        assert await OrderWatcher(client, sent).sent() in ("sent", "delivered")
        failed = await client.create_send_order("+12025550143", "hello")
        with pytest.raises(SendFailed):
            await OrderWatcher(client, failed).sent()
    assert sandbox.orders[failed.id].returned


async def test_the_reply_that_is_lost_is_that_of_its_own_order() -> None:
    """Over a server, requests are read piece by piece: another order can be placed while one is."""
    sandbox = ScriptedSandbox()
    sandbox.script("reply lost", "code at 45 s")
    body = b'{"country": 187, "service": "tg"}'
    ends: dict[str, str] = {}

    async def place(name: str, seconds: float) -> None:
        scope = {"type": "http", "method": "POST", "path": "/createorder", "query_string": b"", "headers": []}
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            await anyio.sleep(seconds)
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await sandbox(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - it is looked at
            ends[name] = type(error).__name__
        else:
            ends[name] = str(sent[0]["status"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place, "first", 1)
        tasks.start_soon(place, "second", 2)
    assert ends == {"first": "_ConnectionLost", "second": "200"}


async def test_an_sms_is_sent_though_there_is_no_number_to_receive_one() -> None:
    sandbox = ScriptedSandbox()
    sandbox.script("no number")
    async with sandbox.client() as client:
        order = await client.create_send_order("+12025550143", "hello")
        assert await OrderWatcher(client, order).sent() in ("sent", "delivered")


def test_what_is_neither_words_nor_a_value_is_refused_at_once() -> None:
    wrong: Any = ["no code"]
    with pytest.raises(ValueError, match=r"there is no script \['no code'\]; there are"):
        ScriptedSandbox().script(wrong)
    words: Any = "503 for a minute"
    with pytest.raises(TypeError, match=r"a value, such as Trouble\.unavailable\(\), not '503 for a minute'; words are for script"):
        ScriptedSandbox().trouble(words)


async def test_each_order_has_the_next_script_and_all_further_ones_the_last() -> None:
    sandbox = ScriptedSandbox()
    sandbox.script("never paid", Script.code(9), "no number")
    async with sandbox.client() as client:
        orders = [await client.create_order(187, "tg") for _ in range(4)]
        await anyio.sleep(100)
        seen = [sandbox.orders[order.id] for order in orders]
        assert [order.paid_at is None for order in seen] == [True, False, False, False]
        assert [order.code is None for order in seen] == [True, False, True, True]
        assert [order.error is None for order in seen] == [True, True, False, False]
        assert [order.id for order in sandbox.open_orders] == [orders[0].id]
        with pytest.raises(AssertionError, match="its invoice can still be paid"):
            sandbox.assert_nothing_open()
        with pytest.raises(LookupError, match="4 orders were placed, and not one"):
            _ = sandbox.order
        sandbox.script("code at 45 s")  # from now on
        order = await client.create_order(187, "tg")
        assert await OrderWatcher(client, order).code() == sandbox.orders[order.id].code


async def test_what_is_no_business_of_a_test_is_not_called_open() -> None:
    """A paid rental goes on for ever, and an invoice to fill an account is nobody's order."""
    sandbox = ScriptedSandbox()
    async with sandbox.client(api_key="a key") as client:
        await client.create_order(187, "full", rental=True)
        await client.fund(100)
        await anyio.sleep(10)
    sandbox.assert_nothing_open()


# --- programs ----------------------------------------------------------------------------------------------------------------------


def test_the_sandboxs_client_takes_what_a_client_takes() -> None:
    import inspect

    def parameters(function: Any) -> dict[str, Any]:
        return {name: one.default for name, one in inspect.signature(function).parameters.items() if name != "self"}

    assert parameters(ScriptedSandbox().client) == parameters(Client.__init__)


async def test_a_program_that_makes_its_own_client_gets_one_of_the_sandbox() -> None:
    sandbox = ScriptedSandbox()
    placed: list[Order] = []
    elsewhere: dict[str, Any] = {
        "base_url": "https://elsewhere.example",
        "proxy": "socks5h://127.0.0.1:9050",
        "transport": httpx.AsyncHTTPTransport(),
    }
    async with sandbox.client(api_key="real", on_order=placed.append, **elsewhere) as client:
        order = await client.create_order(187, "tg", immediate=True)
        assert await client.get_balance() < BALANCE_SATS
    assert placed == [order]
    assert list(sandbox.orders) == [order.id]
    async with sandbox.client() as client:  # a program that has forgotten its key is not given one
        with pytest.raises(ValueError, match="api_key"):
            await client.get_balance()


async def test_a_wallet_pays_and_returns_when_the_money_is_taken() -> None:
    sandbox = ScriptedSandbox()
    sandbox.pays_itself = False
    async with sandbox.client() as client:
        order = await client.create_order(187, "tg")
        await anyio.sleep(30)
        assert sandbox.order.paid_at is None
        began = anyio.current_time()
        assert order.payreq is not None
        await sandbox.wallet(order.payreq)
        assert 45 <= anyio.current_time() - began < 47
        assert sandbox.order.settled
        await sandbox.wallet(order.payreq)  # it is paid, and that is all it says
        with pytest.raises(ValueError, match="no such invoice"):
            await sandbox.wallet("lnbc1")


async def test_a_wallet_tells_that_the_money_came_back() -> None:
    sandbox = ScriptedSandbox()
    sandbox.script("no number")
    async with sandbox.client() as client:
        order = await client.create_order(187, "tg")
        assert order.payreq is not None
        with pytest.raises(PaymentReturned, match=r"the payment for order \w+\.\.\w+ came back") as caught:
            await sandbox.wallet(order.payreq)
        assert order.id not in str(caught.value)


async def test_a_bot_that_pays_is_tested_with_the_wallet() -> None:
    sandbox = ScriptedSandbox()
    sandbox.pays_itself = False
    async with sandbox.client() as client:
        received = await receive_code(client, 187, "tg", pay=sandbox.wallet)
    assert received.code == sandbox.order.code


async def test_a_server_can_serve_it() -> None:
    sandbox = ScriptedSandbox()
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": f"lifespan.{'shutdown' if sent else 'startup'}"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await sandbox({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_nothing_here_needs_pytest() -> None:
    loaded = "import sys, sms4sats_async.testing; print(*sorted({'pytest', 'trio', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_patience_is_what_the_words_say() -> None:
    assert PATIENCE == 0.002
