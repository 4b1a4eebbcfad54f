"""The programs of the README run as they stand there, over real HTTP, and do what people fear they would not."""

import ast
import csv
import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx
import pytest
from selenium.webdriver.common.by import By

from sms4sats_async import Client, Journal
from sms4sats_async.sandbox import Sandbox, SandboxOrder, Timeline
from tests import servers
from tests.conftest import HAS_TRIO
from tests.programs import PROGRAMS, Running, Served, browser_paths, chromium, command_of, eventually, running, serve, visitor
from tests.servers import Reply, SeenRequest

KEY = "batch-key"
real_time = pytest.mark.real_time


@pytest.fixture
def service() -> Iterator[Served]:
    with serve(Sandbox(accounts={KEY: 100_000})) as served:
        yield served


# --- all of them -------------------------------------------------------------------------------------------------------------------


def test_there_are_four() -> None:
    assert list(PROGRAMS) == ["web.py", "bot.py", "batch.py", "webhook.py"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_short_and_says_how_it_is_started(name: str) -> None:
    lines = PROGRAMS[name].splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 140
    assert name.removesuffix(".py") in command_of(name)
    ast.parse(PROGRAMS[name])


# --- the web app -------------------------------------------------------------------------------------------------------------------


def seen(http: httpx.Client) -> Iterator[dict[str, Any]]:
    """What the app tells this browser of its order, each time that it changes."""
    last, end = None, time.monotonic() + 20
    with http.stream("GET", "/events") as events:
        for line in events.iter_lines():
            assert time.monotonic() < end, f"it stays as it is: {last}"
            if line.startswith("data: ") and line != last:
                last = line
                yield json.loads(line.removeprefix("data: "))


def until(http: httpx.Client, words: str) -> dict[str, Any]:
    return next(told for told in seen(http) if words in told["text"])


@real_time
def test_a_browser_clicks_through_an_order(service: Served, tmp_path: Path) -> None:
    with running("web.py", tmp_path, service.url) as app, chromium(tmp_path) as browser:

        def page() -> str:
            return browser.find_element(By.TAG_NAME, "pre").text

        browser.get(app.url)
        browser.find_element(By.TAG_NAME, "button").click()
        order = service.order(0)
        assert eventually(lambda: str(order.payreq) in page())
        assert not browser.find_element(By.TAG_NAME, "button").is_enabled()

        service.do(service.sandbox.pay, order.id)
        assert eventually(lambda: "Number: not yet" in page())
        number = service.do(service.sandbox.assign, order.id)
        assert eventually(lambda: number in page())

        browser.refresh()
        assert eventually(lambda: number in page())
        assert "Code: not yet" in page()

        tab = browser.current_window_handle
        browser.switch_to.new_window("tab")
        elsewhere = browser.current_window_handle
        browser.switch_to.window(tab)
        browser.close()
        service.do(service.sandbox.deliver, order.id, "004217")
        polls = service.calls("/orderstatus")
        eventually(lambda: service.calls("/orderstatus") > polls)

        browser.switch_to.window(elsewhere)
        browser.get(app.url)
        assert eventually(lambda: "Code: 004217" in page())
        assert eventually(lambda: browser.find_element(By.TAG_NAME, "button").is_enabled())
        assert order.id not in browser.page_source
        assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []  # type: ignore[no-untyped-call]
        assert len(service.orders()) == 1


def test_without_a_browser_its_test_says_so() -> None:
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium chromium-driver"):
        browser_paths(lambda _: None, None)
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium chromium-driver"):
        browser_paths(lambda _: None, "1")


@real_time
def test_an_app_that_stops_leaves_its_orders_open_and_goes_on_with_them(service: Served, tmp_path: Path) -> None:
    with running("web.py", tmp_path, service.url) as app, visitor(app.url) as http:
        http.post("/order")
        order = service.order(0)
        told = until(http, "Pay 1500 sat")["text"]
        assert (str(order.payreq) in told, order.id in told) == (True, False)
        service.do(service.sandbox.pay, order.id)
        with http.stream("GET", "/events") as events:  # a browser that looks on does not keep the app from stopping
            next(events.iter_lines())
            assert app.stops_cleanly(), app.printed
        cookies = http.cookies
        assert order.id not in app.printed
        assert cookies["order"] not in app.printed
    service.do(service.sandbox.deliver, order.id, "004217")
    with running("web.py", tmp_path, service.url) as app, visitor(app.url) as http:
        http.cookies = cookies
        assert "Code: 004217" in until(http, "Code: 0")["text"]
        assert app.stops_cleanly(), app.printed
    assert (service.calls("/createorder"), service.calls("/cancelorder")) == (1, 0)


@real_time
def test_the_end_of_one_order_is_not_the_end_of_the_others(service: Served, tmp_path: Path) -> None:
    with running("web.py", tmp_path, service.url) as app, visitor(app.url) as one, visitor(app.url) as other:
        one.post("/order")
        failing = service.order(0)
        other.post("/order")
        going = service.order(1)
        for order in (failing, going):
            service.do(service.sandbox.pay, order.id)
        service.do(service.sandbox.fail, failing.id)
        assert "No available number" in until(one, "order ")["text"]
        service.do(service.sandbox.deliver, going.id, "004217")
        assert list(seen(other))[-1] == {"open": False, "text": f"Number: {service.order(1).number}\nCode: 004217"}


@real_time
def test_a_second_press_is_no_second_order_but_one_after_the_end_is(service: Served, tmp_path: Path) -> None:
    with running("web.py", tmp_path, service.url) as app, visitor(app.url) as http, visitor(app.url) as stranger:
        assert list(seen(http)) == [{"open": False, "text": ""}]
        http.post("/order")
        http.post("/order")
        order = service.order(0)
        until(http, "Pay ")
        http.post("/order")
        until(http, "Pay ")
        assert len(service.orders()) == 1
        service.do(service.sandbox.pay, order.id)
        service.do(service.sandbox.deliver, order.id)
        until(http, "Code: ")
        stranger.cookies.set("order", "../web.py")
        assert list(seen(stranger)) == [{"open": False, "text": ""}]
        http.post("/order")
        assert service.order(1)


@real_time
def test_what_the_service_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    with serve(Sandbox(countries={0: "Russia"})) as service, running("web.py", tmp_path, service.url) as app, visitor(app.url) as http:
        http.post("/order")
        assert "country or service is missing or unknown" in list(seen(http))[-1]["text"]


def kept(place: Path) -> tuple[list[str], int]:
    """The names of the orders that the app keeps, and who may read them."""
    return [file.name for file in (place / "orders").iterdir()], (place / "orders").stat().st_mode & 0o777


async def handed_on(sandbox: Sandbox, request: SeenRequest, reply: Reply) -> None:
    """Let a sandbox answer."""
    asked = httpx.Request(request.method, f"http://sandbox{request.target}", content=request.body)
    given = await sandbox.transport().handle_async_request(asked)
    await reply.json(json.loads(await given.aread()), given.status_code)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """The program's names, in a directory of its own; it is told where the service is."""

    def load(url: str) -> dict[str, Any]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SMS4SATS_URL", url)
        app: dict[str, Any] = {"__name__": "web"}
        exec(compile(PROGRAMS["web.py"], "web.py", "exec"), app)  # noqa: S102 - our own README
        return app

    return load


async def test_a_firewall_that_answers_an_app_after_its_start_is_not_the_end_of_its_order(web: Callable[[str], dict[str, Any]]) -> None:
    sandbox, blocked = Sandbox(), False

    async def answer(request: SeenRequest, reply: Reply) -> None:
        await (reply.raw(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n") if blocked else handed_on(sandbox, request, reply))

    async with servers.serve(answer) as server:
        app = web(server.url)
        async with app["life"](app["app"]):
            app["app"].state.tasks.start_soon(app["watch"], "a-name")
            await anyio.sleep(5)
        (order,) = sandbox.orders.values()
        sandbox.pay(order.id)
        blocked = True
        async with app["life"](app["app"]):  # it starts anew, and has seen nothing of the order
            await anyio.sleep(200)
            assert app["shown"]["a-name"]["open"]
            sandbox.deliver(order.id, "004217")
            blocked = False
            await anyio.sleep(120)
            assert app["shown"]["a-name"] == {"open": False, "text": f"Number: {order.number}\nCode: 004217"}


async def test_an_order_outlives_an_outage_and_is_forgotten_a_day_after_its_end(
    tmp_path: Path, web: Callable[[str], dict[str, Any]]
) -> None:
    sandbox, down = Sandbox(), False

    async def answer(request: SeenRequest, reply: Reply) -> None:
        await (reply.reset() if down else handed_on(sandbox, request, reply))

    async with servers.serve(answer) as server:
        app = web(server.url)
        async with app["life"](app["app"]):
            app["app"].state.tasks.start_soon(app["watch"], "a-name")
            await anyio.sleep(5)
            (order,) = sandbox.orders.values()
            sandbox.pay(order.id)
            await anyio.sleep(10)
            down = True
            sandbox.deliver(order.id, "004217")
            await anyio.sleep(1400)
            assert app["shown"]["a-name"] == {"open": True, "text": "Number: not yet\nCode: not yet"}
            down = False
            await anyio.sleep(120)
            assert app["shown"]["a-name"] == {"open": False, "text": f"Number: {order.number}\nCode: 004217"}
            assert kept(tmp_path) == (["a-name"], 0o700)
            await anyio.sleep(86_400)
            assert (app["shown"], kept(tmp_path)) == ({}, ([], 0o700))


# --- the bot -----------------------------------------------------------------------------------------------------------------------


class Chat:
    """A chat in memory. ``send`` fails as often as ``failing`` says, for each text that begins with its key, or seems to (``told_anyway``).

    Attributes:
        told: what was sent to whom, in order.
    """

    def __init__(self, failing: dict[str, int] | None = None, *, told_anyway: bool = False) -> None:
        self._failing = failing or {}
        self._told_anyway = told_anyway
        self.told: list[tuple[str, str]] = []
        self.write, self._messages = anyio.create_memory_object_stream[tuple[str, str]](100)

    async def messages(self) -> AsyncIterator[tuple[str, str]]:
        with self._messages:
            async for message in self._messages:
                yield message

    async def send(self, user: str, text: str) -> None:
        await anyio.sleep(0.1)
        for start, times in self._failing.items():
            if text.startswith(start) and times:
                self._failing[start] -= 1
                self.told += [(user, text)] * self._told_anyway
                raise ConnectionError("the chat is away")
        self.told.append((user, text))

    def to(self, user: str) -> list[str]:
        return [text for name, text in self.told if name == user]


Bot = Callable[[Chat, Client], Coroutine[Any, Any, None]]


@pytest.fixture
def bot(monkeypatch: pytest.MonkeyPatch) -> Bot:
    """The program's ``bot``, which finds the chat where it looks for it."""

    async def run(chat: Chat, client: Client) -> None:
        module = ModuleType("chat")
        monkeypatch.setattr(module, "messages", chat.messages, raising=False)
        monkeypatch.setattr(module, "send", chat.send, raising=False)
        monkeypatch.setitem(sys.modules, "chat", module)
        names: dict[str, Any] = {"__name__": "bot"}
        exec(compile(PROGRAMS["bot.py"], "bot.py", "exec"), names)  # noqa: S102 - our own README
        with chat.write:
            await names["bot"](client)

    return run


async def test_many_users_are_served_at_once_and_each_gets_what_is_theirs(bot: Bot) -> None:
    def course(order: SandboxOrder) -> Timeline:
        return Timeline(paid_after=5, number_after=8, code_after=40, code=f"{order.country}-{order.service}")

    chat, countries = Chat(), [0, 6, 16, 22, 43, 78, 187]
    sandbox = Sandbox(timeline=course)
    for country in countries:
        for service in ("tg", "wa"):
            chat.write.send_nowait((f"{country}-{service}", f"/code {country} {service}"))
            chat.write.send_nowait((f"{country}-{service}", f"/code {country} {service}"))
    async with Client(transport=sandbox.transport()) as client:
        chat.write.close()
        await bot(chat, client)
    assert anyio.current_time() < 60
    assert len(sandbox.orders) == 14
    for order in sandbox.orders.values():
        user = f"{order.country}-{order.service}"
        assert chat.told.count((user, "One at a time")) == 1
        pay, number, code = [text for text in chat.to(user) if text != "One at a time"]
        assert pay.endswith(f"\n{order.payreq}")
        assert (number, code) == (f"Your number: {order.number}", f"Your code: {user}")


async def test_one_users_bad_luck_is_not_the_others(bot: Bot) -> None:
    def course(order: SandboxOrder) -> Timeline:
        if order.country == 0:
            return Timeline(paid_after=5, no_number_after=10)
        return Timeline(paid_after=5, number_after=8, code_after=40, code="004217")

    chat = Chat()
    for user, text in (("ann", "/code 0 tg"), ("bob", "/code 187 tg"), ("cid", "hello"), ("dan", "/code x tg"), ("eve", "/code 99999 tg")):
        chat.write.send_nowait((user, text))
    async with Client(transport=Sandbox(timeline=course).transport()) as client:
        chat.write.close()
        await bot(chat, client)
    assert "No available number" in chat.to("ann")[-1]
    assert chat.to("bob")[-1] == "Your code: 004217"
    assert "/code 187 tg" in chat.to("cid")[-1]
    assert chat.to("dan")[-1].startswith("No code: invalid literal")
    assert "unknown" in chat.to("eve")[-1]


async def test_a_chat_that_fails_for_a_while_costs_no_number_and_no_code(bot: Bot) -> None:
    chat = Chat(failing={"Your number": 4, "Your code": 4})
    chat.write.send_nowait(("ann", "/code 187 tg"))
    sandbox = Sandbox(timeline=Timeline(paid_after=5, number_after=8, code_after=40, code="004217"))
    async with Client(transport=sandbox.transport()) as client:
        chat.write.close()
        await bot(chat, client)
    (order,) = sandbox.orders.values()
    assert set(chat.to("ann")[1:]) == {f"Your number: {order.number}", "Your code: 004217"}
    assert sandbox.calls[-1].at < 50  # nobody waited for the chat before the code was there: that came at 45 s


@pytest.mark.parametrize("told_anyway", [False, True])
async def test_an_invoice_that_does_not_seem_to_reach_its_user_is_sent_again_and_ends_nothing(bot: Bot, told_anyway: bool) -> None:
    sandbox, chat = Sandbox(timeline=Timeline(paid_after=20, code_after=30, code="004217")), Chat({"Pay": 2}, told_anyway=told_anyway)
    chat.write.send_nowait(("ann", "/code 187 tg"))
    async with Client(transport=sandbox.transport()) as client:
        chat.write.close()
        await bot(chat, client)
    *asked, _, _ = told = chat.to("ann")
    assert "Your code: 004217" in told
    assert (len(asked), len({*asked})) == (3 if told_anyway else 1, 1)


async def test_an_order_that_nobody_pays_ends_after_ten_minutes(bot: Bot) -> None:
    chat = Chat()
    chat.write.send_nowait(("ann", "/code 187 tg"))
    async with Client(transport=Sandbox().transport()) as client:
        chat.write.close()
        await bot(chat, client)
    assert 600 <= anyio.current_time() < 640
    assert re.fullmatch(r"No code: order ..\.\...: it was not paid in time; it is cancelled", chat.to("ann")[-1])


async def test_a_service_that_is_down_at_the_windows_end_costs_no_code(bot: Bot) -> None:
    sandbox = Sandbox()
    down = False

    class Line(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if down:
                raise httpx.ConnectError("nobody listens")
            return await sandbox.transport().handle_async_request(request)

    chat = Chat()
    chat.write.send_nowait(("ann", "/code 187 tg"))
    async with Client(transport=Line()) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(bot, chat, client)
        await anyio.sleep(10)
        (order,) = sandbox.orders.values()
        sandbox.pay(order.id)
        await anyio.sleep(10)
        down = True
        sandbox.deliver(order.id, "004217")
        await anyio.sleep(1400)
        down = False
        chat.write.close()
    assert chat.to("ann")[-1] == "Your code: 004217"


async def test_a_bot_that_is_stopped_asks_for_a_cancel_and_tells_its_users(bot: Bot) -> None:
    chat = Chat()
    chat.write.send_nowait(("ann", "/code 187 tg"))
    sandbox = Sandbox(timeline=Timeline(paid_after=5, number_after=8))
    async with Client(transport=sandbox.transport()) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(bot, chat, client)
        await anyio.sleep(130)
        tasks.cancel_scope.cancel()
    (order,) = sandbox.orders.values()
    assert order.returned
    assert chat.to("ann")[-1].startswith("I am stopped.")


CHAT = """
import anyio

async def messages():
    yield "ann", "/code 187 tg"
    yield "bob", "/code 16 wa"
    await anyio.sleep_forever()

async def send(user, text):
    print(f"@{user} {text}", flush=True)
"""


@real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"] if HAS_TRIO else ["asyncio"])
def test_the_same_file_runs_on_either_loop(backend: str, tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(CHAT)
    sandbox = Sandbox(timeline=Timeline(paid_after=0.1, code_after=0.2, code="004217"))
    with serve(sandbox) as service, running("bot.py", tmp_path, service.url, f"python bot.py {backend}") as program:
        for user in ("ann", "bob"):
            program.prints(f"@{user} Your code: 004217")
        assert program.stop() == 0
        assert "Traceback" not in program.printed
        ids = {order.id for order in service.orders()}
    kept = tmp_path / "orders.db"

    async def ended() -> dict[str, str | None]:
        async with Journal(kept) as journal:
            return {entry.order.id: entry.end for entry in await journal.entries()}

    assert anyio.run(ended) == dict.fromkeys(ids, "code")
    assert kept.stat().st_mode & 0o077 == 0


# --- the batch job -----------------------------------------------------------------------------------------------------------------


def batch(place: Path, service: Served, lines: str) -> Any:
    (place / "wanted.csv").write_text(lines)
    return running("batch.py", place, service.url, SMS4SATS_API_KEY=KEY)


def codes(place: Path) -> dict[int, list[str]]:
    with (place / "codes.csv").open(newline="") as file:
        return {int(row[0]): row[1:] for row in csv.reader(file)}


def quick(order: SandboxOrder) -> Timeline:
    if order.country == 0:
        return Timeline(no_number_after=0.0)
    return Timeline(code_after=0.0, code=f"00{order.country}")


@contextmanager
def shop(balance: int = 100_000, timeline: Callable[[SandboxOrder], Timeline] | None = quick) -> Iterator[Served]:
    with serve(Sandbox(accounts={KEY: balance}, timeline=timeline)) as served:
        yield served


@real_time
def test_each_line_of_a_table_becomes_one(tmp_path: Path) -> None:
    with shop() as service:
        with batch(tmp_path, service, "187,tg\n0,tg\n\n16,wa\n187\nmars,tg\n77777,tg\n") as job:
            assert job.ends() == 0, job.printed
        rows = codes(tmp_path)
        assert rows[1] == ["187", "tg", service.order(0).number, "00187", ""]
        assert rows[2][:4] == ["0", "tg", "", ""]
        assert "No available number" in rows[2][4]
        assert rows[4] == ["16", "wa", service.order(2).number, "0016", ""]
        assert rows[5][-1].startswith("not ordered: not enough values")
        assert rows[6][-1].startswith("not ordered: invalid literal")
        assert "not ordered: " in rows[7][-1]
        assert len(rows) == 6
        assert not any(order.id in (tmp_path / "codes.csv").read_text() for order in service.orders())
    assert (tmp_path / "codes.csv.orders").stat().st_mode & 0o077 == 0


@real_time
def test_a_batch_that_was_killed_goes_on_and_orders_no_line_twice(service: Served, tmp_path: Path) -> None:
    lines = "187,tg\n16,tg\n22,wa\n"
    with batch(tmp_path, service, lines) as job:
        service.do(service.sandbox.deliver, service.order(0).id, "001")
        eventually(lambda: codes(tmp_path))
        eventually(lambda: len(service.polled()) == 3)  # so each is written down
        job.stop(signal.SIGKILL)
    for order in service.orders()[1:]:
        service.do(service.sandbox.deliver, order.id, "002")
    for _ in range(2):  # and once more, when there is nothing left to do
        with batch(tmp_path, service, lines) as job:
            assert job.ends() == 0, job.printed
        assert {line: row[3] for line, row in codes(tmp_path).items()} == {1: "001", 2: "002", 3: "002"}
    assert (service.calls("/createorder"), service.calls("/cancelorder")) == (3, 0)


@real_time
def test_a_line_whose_order_may_have_been_placed_is_not_ordered_again_and_it_is_said(tmp_path: Path) -> None:
    sandbox = Sandbox(accounts={KEY: 100_000}, timeline=quick)
    silent = True

    async def app(scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        async def lost(message: Any) -> None:
            """An answer that never arrives."""

        await sandbox(scope, receive, lost if silent and scope["type"] == "http" and scope["path"] == "/createorder" else send)
        if silent and scope["type"] == "http" and scope["path"] == "/createorder":
            await anyio.sleep_forever()

    with serve(sandbox, app) as service:
        with batch(tmp_path, service, "187,tg\n16,tg\n") as job:
            service.order(0)
            job.stop(signal.SIGKILL)
        silent = False
        with batch(tmp_path, service, "187,tg\n16,tg\n") as job:
            assert job.ends() == 0, job.printed
        rows = codes(tmp_path)
        assert rows[1][-1].startswith("perhaps ordered and charged")
        assert rows[2][3] == "0016"
        assert service.calls("/createorder") == 2


@real_time
def test_an_order_whose_id_stood_in_half_a_reply_is_watched(tmp_path: Path) -> None:
    sandbox = Sandbox(accounts={KEY: 100_000}, timeline=quick)

    async def app(scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        async def half(message: Any) -> None:
            whole = dict(message)
            whole["headers"] = [(name, value) for name, value in whole.get("headers", ()) if name != b"content-length"]
            whole["body"] = whole.get("body", b"").partition(b'"payreq"')[0]
            await send(whole)

        await sandbox(scope, receive, half if scope["type"] == "http" and scope["path"] == "/createorder" else send)

    with serve(sandbox, app) as service, batch(tmp_path, service, "187,tg\n") as job:
        assert job.ends() == 0, job.printed
        assert service.calls("/createorder") == 1
    assert codes(tmp_path)[1][3] == "00187"


@real_time
def test_a_line_that_surely_was_not_ordered_is_ordered_by_the_next_start(tmp_path: Path) -> None:
    for balance, told in ((100, "not ordered: "), (100_000, "")):
        with shop(balance) as service, batch(tmp_path, service, "187,tg\n") as job:
            assert job.ends() == 0, job.printed
        assert codes(tmp_path)[1][4][:13] == told
    assert codes(tmp_path)[1][3] == "00187"


@real_time
def test_a_batch_runs_once_at_a_time_and_on_the_same_table(service: Served, tmp_path: Path) -> None:
    with batch(tmp_path, service, "187,tg\n") as first:
        service.order(0)
        with batch(tmp_path, service, "187,tg\n") as second:
            assert second.ends() != 0
            assert "database is locked" in second.printed
        assert first.process.poll() is None
    with batch(tmp_path, service, "16,wa\n187,tg\n") as changed:
        assert changed.ends() != 0
        assert "new lines go below the old ones" in changed.printed
    assert service.calls("/createorder") == 1


# --- the receiver of calls ---------------------------------------------------------------------------------------------------------


@contextmanager
def receiver(place: Path, service: Served) -> Iterator[tuple[Running, httpx.Client]]:
    with running("webhook.py", place, service.url) as app, visitor(app.url) as http:
        yield app, http


def ordered(http: httpx.Client, service: Served) -> tuple[str, str, SandboxOrder]:
    """Where its buyer asks for it, where the service calls, and the order."""
    number = len(service.orders())
    reply = http.post("/sms", json={"phone": "+12025550143", "message": "see you at eight"}).raise_for_status().json()
    order = service.order(number)
    assert (reply["payreq"], reply["sats"]) == (order.payreq, order.amount_sats)
    assert str(order.webhook_url).startswith("https://sms.example.com/hooks/")
    return f"/sms/{reply['name']}", str(order.webhook_url).removeprefix("https://sms.example.com"), order


CALLS = [{"status": "OK", "paid": True, "smsStatus": word} for word in ("created", "queued", "sent", "delivered")]


@real_time
def test_calls_that_are_repeated_late_or_out_of_order_change_nothing_back(service: Served, tmp_path: Path) -> None:
    with receiver(tmp_path, service) as (app, http):
        name, hook, _ = ordered(http, service)
        _, other_hook, _ = ordered(http, service)
        assert hook != other_hook
        assert http.get(name).json() == {"sms": "unpaid"}
        shown = []
        for call in (CALLS[0], CALLS[2], CALLS[2], CALLS[0], CALLS[1], {"paid": False}, CALLS[3], CALLS[2], CALLS[3]):
            assert http.post(hook, json=call).status_code == 204
            shown.append(http.get(name).json()["sms"])
        assert shown == ["created", "sent", "sent", "sent", "sent", "sent", "delivered", "delivered", "delivered"]
        assert app.stops_cleanly(), app.printed
        assert not any(secret in app.printed for secret in (name, hook, *(order.id for order in service.orders())))
    with receiver(tmp_path, service) as (_, http):  # a restart forgets nothing
        assert http.get(name).json() == {"sms": "delivered"}
        assert http.post(hook, json=CALLS[0]).status_code == 204


@real_time
def test_a_failure_that_a_call_tells_stays_one(service: Served, tmp_path: Path) -> None:
    with receiver(tmp_path, service) as (_, http):
        name, hook, _ = ordered(http, service)
        for call in ({"paid": True, "error": "the SMS could not be sent"}, CALLS[2]):
            assert http.post(hook, json=call).status_code == 204
        assert http.get(name).json() == {"sms": "failed"}


NO_JSON = [b"", b"no json", b"\xff\xfe\x00", b"[" * 50_000, b"9" * 50_000]
NO_STATUS = [b"[]", b"null", b"{}", b'"paid"', b'{"paid": 1}', b'{"code": []}']


@real_time
def test_a_body_that_is_no_status_is_refused_and_harms_nothing(service: Served, tmp_path: Path) -> None:
    with receiver(tmp_path, service) as (app, http):
        name, hook, _ = ordered(http, service)
        assert {http.post(hook, content=body).status_code for body in NO_JSON + NO_STATUS} == {400}
        assert http.post(hook, content=b"[" * 1_000_000).status_code == 400
        assert http.post("/hooks/guessed", json=CALLS[3]).status_code == 404
        assert http.get("/sms/guessed").status_code == 404
        assert http.get(hook).status_code == 405
        with pytest.raises(httpx.HTTPError), http.stream("POST", hook, content=broken_off()):
            raise AssertionError
        assert http.get(name).json() == {"sms": "unpaid"}
        assert app.stops_cleanly(), app.printed


def broken_off() -> Iterator[bytes]:
    """A body whose sender goes away."""
    yield b'{"paid": tr'
    raise httpx.WriteError("gone")


@real_time
def test_whoever_asks_is_told_though_no_call_comes(service: Served, tmp_path: Path) -> None:
    with receiver(tmp_path, service) as (_, http):
        name, _, order = ordered(http, service)
        service.do(service.sandbox.pay, order.id)
        service.do(service.sandbox.report, order.id, "delivered")
        assert http.get(name).json() == {"sms": "delivered"}
        looks = service.calls("/orderstatus")
        assert http.get(name).json() == {"sms": "delivered"}
        assert service.calls("/orderstatus") == looks


@real_time
def test_what_cannot_be_sent_is_no_order(service: Served, tmp_path: Path) -> None:
    with receiver(tmp_path, service) as (_, http):
        assert http.post("/sms", json={"phone": "0123", "message": "hello"}).status_code == 400
        assert http.post("/sms", json={"phone": "+12025550143", "message": "x" * 141}).status_code == 400
        assert http.post("/sms", json={"phone": "+12025550143"}).status_code == 422
    assert service.orders() == []


@real_time
def test_what_the_service_does_not_answer_is_a_bad_gateway(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with running("webhook.py", tmp_path, nowhere) as app, visitor(app.url) as http:
            reply = http.post("/sms", json={"phone": "+12025550143", "message": "hello"})
    assert (reply.status_code, "createsendorder" in reply.json()["detail"]) == (502, True)
