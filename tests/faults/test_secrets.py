"""Secrets: the key, the ids, the numbers, the codes and the messages are in nothing that a program prints, logs or stores unawares.

Where a secret is by design, there it may be: ``Order.id``, ``OrderStatus.code`` and ``number``, ``raw``, ``to_dict()``, ``.reason`` and
``.order_id`` of an error, and the pickle of a model. What is searched is what shows itself without being asked for.
"""

import copy
import gc
import json
import logging
import os
import pickle
import random
import types
import warnings
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from sms4sats_async import BatchWatcher, Client, DecodeError, Order, OrderWatcher, Outcome, Sms4SatsError, TransportError
from tests.faults.searching import Search
from tests.faults.service import (
    INVOICE,
    Fault,
    Held,
    Service,
    busy,
    closes,
    cut,
    garbage,
    gzip_bomb,
    lies,
    redirects,
    refusal,
    resets,
    says,
    slow,
    stalls,
    status,
    trickles,
    unseen,
    with_fields,
)
from tests.faults.stacks import Stack, every_stack
from tests.faults.watching import alone, in_a_batch
from tests.servers import Reply, SeenRequest, serve
from tests.suspension import Way, ways

KEY = "sk-PlantedKey-0f3b77aa"
PHONE = "+12025550199"
MESSAGE = "Meet me at the old mill at nine"
WEBHOOK = "https://me.example/hook/planted-token-77"
NUMBER = "15557654321"
CODE = "73910462"
SECRETS = {"key": KEY, "phone": PHONE, "message": MESSAGE, "webhook": WEBHOOK, "number": NUMBER, "code": CODE}


@pytest.fixture
def search(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Search:
    return Search(dict(SECRETS), caplog, capfd)


def plant(held: Held) -> None:
    """Give a new order the planted number and code, as soon as it is paid."""
    held.number, held.code = NUMBER, CODE
    held.number_at, held.code_at = held.created_at + 5, held.created_at + 40


def planted(plan: Callable[[SeenRequest, Held | None], Fault | None] | None = None) -> Service:
    service = Service(plan, born=plant)
    service.order("an order that was there before", paid_at=0.0)  # so that no id is nothing but zeros
    return service


# --- the search finds --------------------------------------------------------------------------------------------------------------


class Leaky(Exception):
    """What the search must see through: every place where a secret can show itself."""

    def __repr__(self) -> str:
        return f"Leaky({CODE})"


def raised(error: Exception, text: str) -> Exception:
    try:
        exec(compile("raise error", "/somewhere/else.py", "exec"), {"error": error, "held": text}, {"held": text, "error": error})  # noqa: S102
    except Exception as caught:  # noqa: BLE001
        return caught
    raise AssertionError


PLACES: dict[str, Callable[[Search], object]] = {
    "log": lambda search: logging.getLogger("sms4sats_async.watcher").debug("order %s", CODE),
    "log of": lambda search: logging.getLogger("httpcore").debug("a record", extra={"request": {"target": f"/?orderId={CODE}"}}),
    "a warning": lambda search: warnings.warn(CODE, stacklevel=1),
    "output": lambda search: os.write(2, CODE.encode()),
    "repr of": lambda search: search.shown("x", Leaky()),
    "str of": lambda search: search.shown("x", KeyError(CODE)),
    "traceback of": lambda search: search.error("x", _caused(KeyError(), KeyError(CODE))),
    "frames of": lambda search: search.error("x", raised(KeyError(), CODE)),
    "pickle of": lambda search: search.pickled("x", {"code": CODE}),
}


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("place", PLACES)
def test_row_102_a_leak_that_is_planted_is_found(place: str, search: Search) -> None:
    with search.listening():
        PLACES[place](search)
    assert any(hit.startswith(f"code in {place}") for hit in search.found())
    assert search.found() == []


@pytest.mark.parametrize("form", ["{}", "<{}>", '{{"x": "{}"}}'])
@pytest.mark.parametrize("way", [str, str.upper, repr, lambda text: json.dumps(text + "\n"), lambda text: text.replace(" ", "%20")])
def test_row_102_a_leak_is_found_in_any_of_its_forms(form: str, way: Callable[[str], str], search: Search) -> None:
    search.shown("x", form.format(way(MESSAGE)))
    assert search.found() == ["message in repr of x", "message in str of x"]


# --- the key -----------------------------------------------------------------------------------------------------------------------


def reachable(start: object) -> Iterator[object]:
    """What hangs on an object, but for modules, classes and functions, on which everything hangs."""
    seen: dict[int, object] = {}
    waiting = [start]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, types.ModuleType | type | types.FunctionType | types.BuiltinFunctionType):
            continue
        seen[id(one)] = one
        yield one
        waiting += gc.get_referents(one)


async def test_row_99_nothing_that_hangs_on_a_client_shows_its_key() -> None:
    async with planted().serving() as server, Client(base_url=server.url, trust_env=False, api_key=KEY) as client:
        assert await client.get_balance() == 25000
        hanging = list(reachable(client))
        assert KEY in hanging  # it is somewhere
        showing = [one for one in hanging if not isinstance(one, str) and KEY.lower() in f"{one!r} {one}".lower()]
        assert showing == []
        assert not hasattr(client, "headers")


async def test_row_100_what_holds_a_key_is_not_pickled_and_not_copied() -> None:
    async with planted().serving() as server, Client(base_url=server.url, trust_env=False, api_key=KEY) as client:
        watcher, batch = OrderWatcher(client, "a" * 32), BatchWatcher(client, [])
        for one in (client, watcher, batch):
            with pytest.raises(TypeError, match="pickled"):
                pickle.dumps(one)
            with pytest.raises(TypeError, match="pickled"):
                copy.deepcopy(one)
            assert KEY not in f"{one!r} {one} {vars(one)}"


HISTORY = {"status": "OK", "totalAmount": 5, "orders": [{"amount": 5, "userId": KEY}], "userId": KEY}


@every_stack
async def test_row_100_a_history_that_repeats_the_key_is_stored_without_it(stack: Stack, search: Search) -> None:
    service = planted()
    service.next("/history", lies(HISTORY))
    with search.listening():
        async with service.serving() as server, stack.client(server.url, api_key=KEY) as client:
            history = await client.get_history()
            search.shown("history", history, history.fundings, history.raw)
            search.pickled("history", history)
    assert history.total_sats == 5
    assert search.found() == []


Keyed = Callable[[Client], Awaitable[object]]

KEYED: dict[str, Keyed] = {
    "balance": lambda client: client.get_balance(),
    "history": lambda client: client.get_history(),
    "fund": lambda client: client.fund(1000),
    "order": lambda client: client.create_order(187, "tg", immediate=True),
    "sms": lambda client: client.create_send_order(PHONE, MESSAGE, immediate=True),
}


def repeats_the_key(request: SeenRequest, about: Held | None) -> Fault:
    return lies({"status": "error", "reason": f"no such key: {KEY}", "headers": request.headers}, 401)


@pytest.mark.parametrize("call", KEYED)
@every_stack
async def test_row_100_a_key_is_in_no_text_and_no_frame_of_an_error(stack: Stack, call: str, search: Search) -> None:
    search.secrets = {"key": KEY}
    faults: list[Any] = [closes, stalls, garbage, cut(30), status(502, b"<html>"), redirects(f"https://{KEY}.example"), repeats_the_key]
    for fault in faults:
        service = planted(repeats_the_key if fault is repeats_the_key else lambda request, about, fault=fault: fault)  # type: ignore[misc]
        async with service.serving() as server, stack.client(server.url, api_key=KEY, attempts=2, timeout=5) as client:
            with pytest.raises(Sms4SatsError) as caught:
                await KEYED[call](client)
            search.error(call, caught.value)
            if fault is not repeats_the_key:  # .reason has the server's own words, whatever they are
                search.pickled(call, caught.value)
    assert search.found() == []


@pytest.mark.parametrize("call", ["balance", "history", "fund"])
@every_stack
async def test_row_100_a_key_is_in_no_frame_of_a_call_that_was_cancelled(stack: Stack, call: str, search: Search) -> None:
    search.secrets = {"key": KEY}
    for way in ways():
        assert await _cancelled_everywhere(way, stack, KEYED[call], search) > 2
    assert search.found() == []


async def _cancelled_everywhere(way: Way[Any], stack: Stack, call: Keyed, search: Search) -> int:
    """Cancel a call at each of its suspensions in turn, and look at what its caller sees; return how many there were."""
    for k in range(1, 100):
        async with planted().serving() as server, stack.client(server.url, api_key=KEY) as client:
            ending = await way(partial(call, client), k)  # type: ignore[arg-type]
            if not ending.triggered:
                return k - 1
            if ending.error is not None:
                search.error(f"cancelled at {k}", ending.error)
    raise AssertionError


@every_stack
async def test_row_101_the_key_goes_to_one_origin_and_only_with_the_calls_that_need_it(stack: Stack) -> None:
    service = planted()
    elsewhere = Service()
    async with service.serving() as server, elsewhere.serving() as other, stack.client(server.url, api_key=KEY, attempts=2) as client:
        order = await client.create_order(187, "tg", immediate=True, max_sats=5000)
        await client.create_send_order(PHONE, MESSAGE, immediate=True)
        await client.fund(1000)
        await client.get_balance()
        await client.get_history()
        with_key = {request.target for request in service.requests if "x-api-key" in request.headers}
        assert with_key == {"/createorder", "/createsendorder", "/fund", "/balance", "/history"}
        seen = len(service.requests)
        await client.create_order(187, "tg")
        await client.create_send_order(PHONE, MESSAGE)
        await client.get_countries()
        await client.get_services(187)
        await client.get_rental_countries()
        await client.get_price(187, "tg")
        await client.is_available()
        await client.get_order_status(order.id)
        await anyio.sleep(121)
        with pytest.raises(Sms4SatsError):
            await client.cancel_order(order.id)
        for request in service.requests[seen:]:
            assert KEY not in f"{request}"
        assert all(KEY not in f"{request.target} {request.body!r}" for request in service.requests)
        for code in (301, 302, 303, 307, 308):
            for path, call in (("/balance", KEYED["balance"]), ("/createorder", KEYED["order"])):
                service.next(path, *[redirects(f"{other.url}{path}", code)] * 2)
                with pytest.raises(Sms4SatsError):
                    await call(client)
        assert (other.connections_opened, elsewhere.requests) == (0, [])


# --- ids, numbers, codes, messages: what an error's frames hold ----------------------------------------------------------------------

CALLS: dict[str, Callable[[Client, str], Awaitable[object]]] = {
    "status": lambda client, order_id: client.get_order_status(order_id),
    "cancel": lambda client, order_id: client.cancel_order(order_id),
    "watch": lambda client, order_id: OrderWatcher(client, order_id, payment_window=5).code(),
    "sms": lambda client, order_id: client.create_send_order(PHONE, MESSAGE, immediate=True, webhook_url=WEBHOOK),
}


@pytest.mark.parametrize("call", CALLS)
@every_stack
async def test_row_102_no_id_phone_or_message_is_in_the_frames_of_an_error(stack: Stack, call: str, search: Search) -> None:
    order_id = "7f3a" * 16
    search.secrets["id"] = order_id
    for fault in (closes, stalls, garbage, status(502, b"<html>"), says(refusal(f"no order {order_id}"))):
        service = planted(lambda request, about, fault=fault: fault)  # type: ignore[misc]
        async with service.serving() as server, stack.client(server.url, api_key=KEY, attempts=1, timeout=5) as client:
            with pytest.raises(Sms4SatsError) as caught:
                await CALLS[call](client, order_id)
            search.error(call, caught.value)
            try:
                with anyio.fail_after(1):
                    await CALLS[call](client, order_id)
            except (TimeoutError, Sms4SatsError) as error:
                search.error(f"{call} under a deadline", error)
    assert search.found() == []


# --- many bad days -----------------------------------------------------------------------------------------------------------------

RUNS = -(-528 // len(every_stack.args[1]))
"""On each stack, so that there are more than 500 in all; each has a fault in at least its first request."""


def repeats(request: SeenRequest, about: Held | None) -> str:
    """All that the service knows of a request and its order, as its own words."""
    told = f"{request.target} {request.body.decode()} {request.headers.get('x-api-key')}"
    return told if about is None else f"{told} {about.id} {about.number} {about.code}"


def repeating(code: int, shape: Callable[[str], bytes]) -> Callable[[SeenRequest, Held | None], Fault]:
    return lambda request, about: status(code, shape(repeats(request, about)))


def always(fault: Fault) -> Callable[[SeenRequest, Held | None], Fault]:
    return lambda request, about: fault


BAD_DAYS: dict[str, Callable[[SeenRequest, Held | None], Fault]] = {
    "closes": always(closes),
    "resets": always(resets),
    "stalls": always(stalls),
    "garbage": always(garbage),
    "slow": always(slow(3)),
    "trickles": always(trickles(0.3)),
    "cut in the head": always(cut(10)),
    "cut in the body": always(cut(130)),
    "cut by a reset": always(cut(130, reset=True)),
    "an error page": always(status(502, b"<html>bad gateway</html>")),
    "an empty reply": always(status(200)),
    "busy": always(busy("2")),
    "redirects": always(redirects("https://portal.example/login")),
    "a gzip bomb": always(gzip_bomb(1)),
    "fields of other types": lambda request, about: with_fields(code=True, paid="yes") if about is not None else lies([CODE]),
    "a reason that repeats all": lambda request, about: lies({"status": "error", "reason": repeats(request, about)}, 500),
    "a status that repeats all": lambda request, about: lies({"status": "OK", "paid": True, "error": repeats(request, about)}),
    "a number that repeats all": lambda request, about: lies({"status": "OK", "paid": True, "number": repeats(request, about)}),
    "a page that repeats all": repeating(200, lambda told: f"<html>{told}</html>".encode()),
    "an error page that repeats all": repeating(503, str.encode),
    "half a reply that repeats all": repeating(200, lambda told: f'{{"status": "OK", "{told}": "{told}'.encode()),
    "a key that is named": lambda request, about: lies({"status": "error", "reason": f"api key? {repeats(request, about)}"}, 400),
}


async def reading(client: Client, service: Service, search: Search) -> None:
    for call in (client.get_price(187, "tg"), client.get_balance(), client.get_history(), client.get_services(187)):
        search.shown("a reading", await call)


async def spending(client: Client, service: Service, search: Search) -> None:
    order = await client.create_order(187, "tg", immediate=True, max_sats=5000)
    search.shown("an order", order)
    _tell(await alone(client, order, hold_window=130, poll_interval=10), search)


async def spending_in_a_batch(client: Client, service: Service, search: Search) -> None:
    await client.is_available()
    order = await client.create_order(187, "tg", immediate=True)
    _tell(await in_a_batch(client, order, hold_window=130, poll_interval=10), search)
    async with BatchWatcher(client, [order, service.order(f"{len(service.orders):04x}" * 16, paid_at=0.0).id]) as batch:
        await anyio.sleep(5)
        search.shown("a batch", batch, batch.unread)
    for outcome in batch.unread:
        _tell(outcome, search)


async def buying(client: Client, service: Service, search: Search) -> None:
    order = await client.create_order(187, "tg")
    plant(service.pay(order.id))
    async with OrderWatcher(client, Order.from_dict(order.to_dict()), poll_interval=5) as watcher:
        search.shown("a watcher", watcher, watcher.order, watcher.status)
        search.shown("a number", "no" if await watcher.number() else "none")
        search.shown("a watcher", watcher, watcher.status)
        await watcher.cancel()


async def sending(client: Client, service: Service, search: Search) -> None:
    await client.is_available()
    order = await client.create_send_order(PHONE, MESSAGE, immediate=True, webhook_url=WEBHOOK)
    search.shown("an order", order)
    with anyio.fail_after(60):
        search.shown("an sms", await OrderWatcher(client, order).sent())


async def impatient(client: Client, service: Service, search: Search) -> None:
    await client.is_available()
    with anyio.fail_after(0.5):
        await client.create_order(187, "tg", immediate=True)
    with anyio.fail_after(1):
        await client.get_history()


ERRANDS = [reading, spending, spending_in_a_batch, buying, sending, impatient]


def _tell(outcome: Outcome, search: Search) -> None:
    search.shown("an outcome", outcome, outcome.order, outcome.status)
    if outcome.error is not None:
        search.error("an outcome", outcome.error)


@pytest.mark.measured("once")
@every_stack
async def test_row_102_on_hundreds_of_bad_days_nothing_tells_a_secret(stack: Stack, search: Search) -> None:
    random.seed(102)  # the client's own dice
    dice = random.Random(102)  # noqa: S311
    day = BAD_DAYS["closes"]
    runs = ended = 0

    def plan(request: SeenRequest, about: Held | None) -> Fault | None:
        if service.struck > struck and dice.random() < 0.5:  # the first request of each run has a fault in any case
            return None
        fault = day(request, about)
        return unseen(fault) if dice.random() < 0.3 else fault

    service = planted(plan)
    hits: list[str] = []
    placed = partial(search.shown, "on_order")
    async with service.serving() as server, stack.client(server.url, api_key=KEY, attempts=2, timeout=5, on_order=placed) as client:
        for run in range(RUNS):
            name, errand = list(BAD_DAYS)[run % len(BAD_DAYS)], ERRANDS[run // len(BAD_DAYS) % len(ERRANDS)]
            day, struck, before = BAD_DAYS[name], service.struck, set(service.orders)
            with search.listening():
                try:
                    await errand(client, service, search)
                except (TimeoutError, Sms4SatsError) as error:
                    ended += 1
                    search.error(f"{errand.__name__}", error, frames=False)
                search.shown("a client", client, client.orphaned_orders)
                client.orphaned_orders.clear()
            search.secrets = SECRETS | {f"id {order_id[:8]}": order_id for order_id in set(service.orders) - before}
            hits += [f"{hit} ({name}, {errand.__name__})" for hit in search.found()]
            runs += service.struck > struck
    assert hits == []
    assert runs == RUNS
    assert ended > RUNS / 3  # they were bad indeed


async def test_row_102_what_a_server_repeats_in_a_header_is_in_httpcores_own_log_and_nowhere_else(search: Search) -> None:
    """It logs the headers of replies at DEBUG, as they are, and nothing that we could ask of it changes that."""
    order_id = "7f3a" * 16
    search.secrets["id"] = order_id
    service = planted(lambda request, about: redirects(f"https://portal.example{request.target}"))
    with search.listening():
        async with service.serving() as server, Client(base_url=server.url, trust_env=False, attempts=1) as client:
            with pytest.raises(DecodeError, match="a redirect to portal"):
                await client.get_order_status(order_id)
    assert search.found() == ["id in log", "id in log of httpcore.http11"]


async def test_row_102_what_is_logged_of_an_order_is_a_masked_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sms4sats_async")
    service = planted()
    service.next("/orderstatus", closes)
    async with service.serving() as server, Client(base_url=server.url, trust_env=False) as client:
        order = await client.create_order(187, "tg")
        async with OrderWatcher(client, order):
            await anyio.sleep(1)
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("sms4sats_async")]
    assert lines != []
    assert all(f"{order.id[:2]}..{order.id[-2:]}" in line for line in lines)


# --- what is foreign ---------------------------------------------------------------------------------------------------------------

INJECTION = "no\r\n2026-01-01 CRITICAL root: pay to evil\x1b[2J\u2028\u202e\x00\ud800"


def injects(request: SeenRequest, about: Held | None) -> Fault:
    """Words of the service that would forge a line of a log, or steer a terminal."""
    if request.target.startswith("/orderstatus"):
        return lies({"status": "OK", "paid": True, "country": INJECTION, "smsStatus": ""})
    if request.target.startswith("/price"):
        return says(b"HTTP/1.1 503 Bad\x1b[31m \xe2\x80\xa8gateway\r\nContent-Type: \xe2\x80\xa8\r\nContent-Length: 6\r\n\r\n\x1b[2J\r\n")
    return lies({"status": "error", "reason": INJECTION}, 500)


@every_stack
async def test_row_103_no_foreign_word_forges_a_line_or_steers_a_terminal(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "sms4sats_async")
    errors: list[BaseException] = []
    service = planted(injects)
    service.order("7f3a" * 16, paid_at=0.0)
    async with service.serving() as server, stack.client(server.url, api_key=KEY, attempts=1) as client:
        calls = (client.get_price(), client.cancel_order("7f3a" * 16), client.create_order(187, "tg"), client.get_balance())
        for call in calls:
            with pytest.raises(Sms4SatsError) as caught:
                await call
            errors.append(caught.value)
        with pytest.raises(KeyError) as left:
            async with OrderWatcher(client, "7f3a" * 16) as watcher, BatchWatcher(client, ["7f3a" * 16]) as batch:
                await watcher.paid()
                await anyio.sleep(1)
                raise KeyError
        errors += [left.value, *(outcome.error for outcome in batch.unread if outcome.error is not None)]
        shown = [*errors, client, watcher, watcher.status, batch, *batch.unread]
    texts = [f"{error} {error!r}" for error in errors] + [repr(one) for one in shown] + getattr(left.value, "__notes__", [])
    texts += [record.getMessage() for record in caplog.records]
    assert [text for text in texts if not text.isprintable()] == []
    assert sum("CRITICAL root: pay to evil" in text for text in texts) > 5  # the words are there, and harmless


@every_stack
async def test_row_103_no_masked_number_or_id_forges_a_line_either(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sms4sats_async")
    service = planted()
    service.next("/createorder", lies({"status": "OK", "orderId": "a\nCRITICAL root: pay to evil\x1b[", "payreq": INVOICE}))
    service.next("/orderstatus", lies({"status": "OK", "paid": True, "number": "a\nCRITICAL root: pay to evil\x1b["}))
    async with service.serving() as server, stack.client(server.url) as client:
        order = await client.create_order(187, "tg")
        async with OrderWatcher(client, order) as watcher:
            await watcher.paid()
    texts = [repr(order), repr(watcher), repr(watcher.status), *(record.getMessage() for record in caplog.records)]
    assert len(texts) > 3
    assert [text for text in texts if not text.isprintable()] == []


# --- what the environment brings ---------------------------------------------------------------------------------------------------


@every_stack
async def test_row_104_a_netrc_adds_no_credentials(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password planted\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    service = planted()
    async with service.serving() as server, stack.client(server.url, api_key=KEY, trust_env=True) as client:
        await client.get_balance()
        await client.get_price()
    assert ["authorization" in request.headers for request in service.requests] == [False, False]


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize("trust_env", [True, False])
async def test_row_104_the_environments_proxy_is_not_asked_for_a_loopback_host(trust_env: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    service, proxy = planted(), Service()
    async with service.serving() as server, proxy.serving() as other:
        for name in PROXIES:
            monkeypatch.setenv(name, other.url)
        async with Client(base_url=server.url, api_key=KEY, trust_env=trust_env) as client:
            assert await client.get_balance() == 25000
        assert other.connections_opened == 0


async def test_row_104_a_proxy_on_the_way_to_https_sees_no_key_and_no_id(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    search.secrets |= {"id": "7f3a" * 16, "password": "planted-password"}
    seen: list[SeenRequest] = []

    async def proxy(request: SeenRequest, reply: Reply) -> None:
        seen.append(request)
        await reply.raw(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with search.listening():
        async with serve(proxy) as server:
            for name in PROXIES:
                monkeypatch.setenv(name, server.url.replace("//", "//me:planted-password@"))
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            async with Client(base_url="https://api.example", api_key=KEY, attempts=1) as client:
                for call in (client.get_balance(), client.get_order_status("7f3a" * 16), client.create_order(187, "tg", immediate=True)):
                    with pytest.raises(TransportError) as caught:
                        await call
                    assert type(caught.value) is TransportError  # nothing was sent
                    search.error("a proxy", caught.value, frames=False)
    assert {(request.method, request.target) for request in seen} == {("CONNECT", "api.example:443")}
    assert all(KEY not in f"{request}" for request in seen)
    assert search.found() == []


def test_row_104_a_plain_proxy_that_could_read_the_key_is_refused() -> None:
    with pytest.raises(ValueError, match="would read the api_key"):
        Client(base_url="http://service.onion", proxy="http://proxy.example:3128", api_key=KEY)
