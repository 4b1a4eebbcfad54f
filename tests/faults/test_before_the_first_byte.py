"""Rows 1 to 12 of the catalogue: what goes wrong before the first byte, so that nothing was sent, and a call that spends may be repeated.

Only our own lanes can prove that. Through a transport of the user's every failure of a call that spends is ``OutcomeUnknown``.
"""

import asyncio
import gc
import inspect
import random
import socket
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from sms4sats_async import BatchWatcher, Client, OrderUnresolved, OrderWatcher, Outcome, OutcomeUnknown, TransportError
from tests.conftest import HAS_TRIO
from tests.faults import certificates
from tests.faults.network import (
    Address,
    Greeting,
    address_of,
    connects,
    line_to,
    names,
    no_answer,
    nobody,
    nobody_answers,
    not_found,
    open_door,
    proxy,
    read_head,
    tls_to,
)
from tests.faults.stacks import Stack, every_stack
from tests.servers import Reply, SeenRequest, Server, hangs, serve
from tests.suspension import Till, asyncio_only, files_open, on_asyncio

KEY = "key-of-a-test-0001"
ORDER = "order-to-watch-0001"
READY = {"paid": True, "number": "+15550001111", "code": "004217"}
HEALED = 60.0
"""When a network is well again, where it becomes so."""


@pytest.fixture(autouse=True)
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our authority is the one that clients trust which trust the environment."""
    monkeypatch.setenv("SSL_CERT_FILE", certificates.trust(tmp_path))


Ask = Callable[[Client], Coroutine[Any, Any, Any]]


async def read(client: Client) -> None:
    await client.get_balance()


async def order(client: Client) -> None:
    await client.create_order(187, "tg")


async def buy(client: Client) -> None:
    await client.create_order(187, "tg", immediate=True)


LANES, AIOHTTP = Stack("lanes", ()), Stack("aiohttp", ())
each_ask = pytest.mark.parametrize("ask", [read, order, buy])


def tries(ask: Ask, stack: Stack) -> int:
    """How often a call of four attempts is tried when nobody knows better than that it failed."""
    without_proof: dict[Ask, int] = {read: 4, order: 2, buy: 1}
    return 4 if stack.own_lanes else without_proof[ask]


async def failed(ask: Ask, client: Client, *, sent: bool) -> str:
    """The words of the ``TransportError`` that this call ends in; of an unknown outcome if it spends and may have been sent."""
    with anyio.fail_after(100), pytest.raises(TransportError) as caught:
        await ask(client)
    assert type(caught.value) is (OutcomeUnknown if sent and ask is buy else TransportError)
    return str(caught.value)


def local(server: Server) -> str:
    """The server's address with a name in it, which has to be looked up."""
    return server.url.replace("127.0.0.1", "sms.localhost")


async def code_of(client: Client) -> str:
    """Watch an order to its code, and see that it is had as soon as the network is well."""
    with anyio.fail_after(1000):
        code = await OrderWatcher(client, ORDER, poll_interval=3).code()
    assert HEALED <= anyio.current_time() <= HEALED + 35  # the longest backoff, and its spread
    return code


def until_healed(before: Callable[[str], Awaitable[str]]) -> Callable[[str], Awaitable[str]]:
    async def lookup(name: str) -> str:
        if anyio.current_time() < HEALED:
            with anyio.CancelScope(deadline=HEALED):
                return await before(name)
        return "127.0.0.1"

    return lookup


# --- 1, 2: names -------------------------------------------------------------------------------------------------------------------


@every_stack
@each_ask
async def test_row_1_a_name_is_not_found(stack: Stack, ask: Ask) -> None:
    async with serve([]) as server, stack.client(local(server), api_key=KEY) as client:
        with names(not_found) as asked:
            words = await failed(ask, client, sent=not stack.own_lanes)
        assert "Name or service not known" in words
        assert asked == ["sms.localhost"] * tries(ask, stack)
        assert anyio.current_time() <= 0.5 + 1 + 2
        assert server.connections_opened == 0


@every_stack
async def test_row_1_a_watch_goes_on_until_the_name_is_found(stack: Stack) -> None:
    async with serve([READY]) as server, stack.client(local(server)) as client:
        with names(until_healed(not_found)):
            assert await code_of(client) == "004217"


@every_stack
@each_ask
async def test_row_2_a_lookup_that_hangs_ends_with_the_time_for_connecting(stack: Stack, ask: Ask) -> None:
    async with serve([]) as server, stack.client(local(server), api_key=KEY, timeout=4) as client:
        with names(no_answer) as asked:
            await failed(ask, client, sent=not stack.own_lanes)
        each = 2 if stack.own_lanes else 4  # aiohttp has no time of its own for a lookup, and asks no second time while one is under way
        assert 0 <= anyio.current_time() - each * tries(ask, stack) <= 0.5 + 1 + 2
        assert len(asked) == (tries(ask, stack) if stack.own_lanes else 1)
        assert server.connections_opened == 0


@every_stack
async def test_row_2_a_watch_goes_on_until_the_lookups_are_answered(stack: Stack) -> None:
    async with serve([READY]) as server, stack.client(local(server)) as client:
        with names(until_healed(no_answer)):
            assert await code_of(client) == "004217"


@pytest.mark.parametrize("backend", ["asyncio", "trio"] if HAS_TRIO else ["asyncio"])
def test_row_2_a_lookup_that_hangs_keeps_its_thread_and_asyncio_waits_for_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own lookup cannot be interrupted: the README says so."""
    let_go = threading.Event()
    timer = threading.Timer(0.2 if backend == "asyncio" else 30, let_go.set)
    system = socket.getaddrinfo

    def hang(*args: Any) -> Any:
        if args[-1] & socket.AI_NUMERICHOST:  # trio asks first whether a name is a number, and with no thread
            return system(*args)
        let_go.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def main() -> None:
        async with Client(base_url="http://sms.localhost:9", trust_env=False, timeout=0.2, attempts=1) as client:
            with pytest.raises(TransportError):
                await client.get_countries()
        timer.start()

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    anyio.run(main, backend=backend)
    assert let_go.is_set() is (backend == "asyncio")
    timer.cancel()
    let_go.set()
    timer.join()


# --- 3, 4: no connection -----------------------------------------------------------------------------------------------------------


@every_stack
@each_ask
async def test_row_3_a_connection_is_refused(stack: Stack, ask: Ask) -> None:
    with nobody() as (url, _):
        async with stack.client(url, api_key=KEY) as client:
            words = await failed(ask, client, sent=not stack.own_lanes)
    assert ("111" if stack.own_lanes else "Connect call failed") in words
    pauses = [0.5, 1, 2][: tries(ask, stack) - 1]
    assert sum(pauses) / 2 <= anyio.current_time() <= sum(pauses)


@every_stack
async def test_row_3_a_watch_goes_on_until_connections_are_taken(stack: Stack) -> None:
    async with serve([READY]) as server, anyio.create_task_group() as tasks:
        with nobody() as (url, door):

            async def open_up() -> None:
                await anyio.sleep(HEALED)
                open_door(door, server)

            tasks.start_soon(open_up)
            async with stack.client(url) as client:
                assert await code_of(client) == "004217"


@every_stack
@each_ask
async def test_row_4_a_syn_is_not_answered(stack: Stack, ask: Ask) -> None:
    with nobody_answers() as (url, heard):
        async with stack.client(url, api_key=KEY, timeout=6) as client:
            await failed(ask, client, sent=not stack.own_lanes)
        assert 0 <= anyio.current_time() - 3 * tries(ask, stack) <= 0.5 + 1 + 2
        assert heard() == b""


# --- 5, 6: TLS ---------------------------------------------------------------------------------------------------------------------


@every_stack
@each_ask
@pytest.mark.parametrize("bad", certificates.BAD)
async def test_row_5_a_bad_certificate_is_not_tried_again(stack: Stack, ask: Ask, bad: str) -> None:
    async with serve([]) as server, tls_to(server.url, certificates.BAD[bad]()) as front:
        async with stack.client(front.url, api_key=KEY, trust_env=True) as client:
            words = await failed(ask, client, sent=not stack.own_lanes)
        assert f"{datetime.now().astimezone():%Y-%m-%d}" in words
        assert (front.connections_opened, server.connections_opened) == (1, 0)
        assert anyio.current_time() < 0.1


@asyncio_only
async def test_row_5_a_host_whose_name_looks_like_an_id_is_not_tried_again() -> None:
    async with serve([]) as server, tls_to(server.url, certificates.BAD["for another host"]()) as front:
        url = front.url.replace("127.0.0.1", "shop-0123456789abcdef.localhost")
        with names(until_healed(not_found)):
            await anyio.sleep(HEALED)
            async with Client(base_url=url, api_key=KEY) as client:
                assert "date" in await failed(read, client, sent=False)
        assert front.connections_opened == 1


@every_stack
async def test_row_5_a_good_certificate_is_taken_and_a_watch_waits_for_one(stack: Stack) -> None:
    async with (
        serve([READY]) as server,
        tls_to(server.url, certificates.BAD["expired"]()) as bad,
        tls_to(server.url, certificates.GOOD) as good,
        line_to(bad.url) as line,
        stack.client(line.url.replace("http", "https"), trust_env=True) as client,
        anyio.create_task_group() as tasks,
    ):

        async def renew() -> None:
            await anyio.sleep(HEALED)
            line.address = address_of(good.url)

        tasks.start_soon(renew)
        assert await code_of(client) == "004217"
        assert bad.connections_opened > 1


# aiohttp forgets a socket whose handshake is cancelled, as httpcore does: there it is open until the collector comes, which says so.
forgets_sockets = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


async def silent(number: int, reply: Reply) -> None:
    await reply.hang()


@every_stack
@each_ask
async def test_row_6_a_handshake_stalls(stack: Stack, ask: Ask) -> None:
    async with serve([], on_connect=silent) as server:
        async with stack.client(server.url.replace("http", "https"), api_key=KEY, timeout=6, trust_env=True) as client:
            words = await failed(ask, client, sent=not stack.own_lanes)
        assert server.connections_opened == tries(ask, stack)
        assert "date" not in words
        assert 0 <= anyio.current_time() - 3 * tries(ask, stack) <= 0.5 + 1 + 2
        await anyio.sleep(1)
        assert server.connections_open == 0


@every_stack
@forgets_sockets
async def test_row_6_fifty_cancelled_handshakes_leave_nothing_behind(stack: Stack) -> None:
    async with serve([], on_connect=silent) as server:
        files = files_open()
        async with stack.client(server.url.replace("http", "https"), trust_env=True, max_connections=10) as client:
            for _ in range(5):
                with anyio.move_on_after(1):
                    async with anyio.create_task_group() as tasks:
                        for _ in range(10):
                            tasks.start_soon(client.get_countries)
        assert server.connections_opened == 50
        if not stack.own_lanes:
            gc.collect()
        await anyio.sleep(1)
        assert (server.connections_open, files_open()) == (0, files)


# --- 7, 8: the pool ----------------------------------------------------------------------------------------------------------------


@every_stack
async def test_row_7_no_crowd_exhausts_the_lanes(stack: Stack) -> None:
    """A hundred and fifty calls at two lanes: the last one waits for 75 s, ten times its timeout, and that is no fault of anybody's."""
    till = Till(delay=1)
    async with serve(till) as server, stack.client(server.url, api_key=KEY, timeout=7, max_connections=2, attempts=1) as client:
        async with anyio.create_task_group() as tasks:
            for number in range(150):
                tasks.start_soon([read, order, buy][number % 3], client)
        assert anyio.current_time() == pytest.approx(75, abs=0.1)
        assert len(server.requests) == 150


@every_stack
async def test_row_8_no_lane_is_lost_by_cancellation(stack: Stack) -> None:
    at_once = most = 0

    async def script(request: SeenRequest, reply: Reply) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await anyio.sleep(0.02)
        at_once -= 1
        await reply.json(READY)

    chance = random.Random(8)  # noqa: S311 - moments of a test
    async with serve(script) as server, stack.client(server.url, max_connections=5) as client:

        async def ask() -> None:
            await client.get_order_status(ORDER)

        for _ in range(60):
            moments = [chance.choice([0, chance.uniform(0, 0.05)]) for _ in range(3)]
            async with anyio.create_task_group() as tasks:
                for moment in moments:
                    tasks.start_soon(cancelled_after, moment, ask)
        await anyio.sleep(1)
        seen, most = len(server.requests), 0
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        assert (most, at_once) == (5, 0)
        assert 60 < seen < 180
    await anyio.sleep(1)
    assert server.connections_open == 0


async def cancelled_after(seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Cancel this work; natively where that can be, since it is the native cancel that a pool does not survive."""
    if on_asyncio():
        task = asyncio.ensure_future(work())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait({task})
    else:
        with anyio.move_on_after(seconds):
            await work()


# --- 9: proxies --------------------------------------------------------------------------------------------------------------------


async def refuses(reply: Reply) -> None:
    await read_head(reply)
    await reply.raw(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
    await reply.close()


async def wants_a_password(reply: Reply) -> None:
    await read_head(reply)
    await reply.raw(b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n')
    await reply.hang()


async def never_answers(reply: Reply) -> None:
    await read_head(reply)
    await reply.hang()


async def drops_at_once(reply: Reply) -> None:
    await reply.close()


async def drops(reply: Reply) -> None:
    await read_head(reply)
    await reply.close()


async def resets(reply: Reply) -> None:
    await read_head(reply)
    await reply.reset()


async def talks_nonsense(reply: Reply) -> None:
    await read_head(reply)
    await reply.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    await reply.close()


async def trickles(reply: Reply) -> None:
    await read_head(reply)
    await reply.trickle(b"HTTP/1.1 200 Connection established\r\n\r\n", each=1)


async def drops_after_its_yes(reply: Reply) -> None:
    await connects(reply)
    await reply.close()


async def resets_after_its_yes(reply: Reply) -> None:
    await connects(reply)
    await reply.reset()


async def hangs_after_its_yes(reply: Reply) -> None:
    await connects(reply)
    await reply.hang()


async def shows_its_own_page(reply: Reply) -> None:
    await connects(reply)
    await reply.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>log in to the wifi</html>")
    await reply.close()


BEFORE_THE_TUNNEL: list[Greeting] = [refuses, wants_a_password, never_answers, drops_at_once, drops, resets, talks_nonsense, trickles]
IN_THE_TUNNEL: list[Greeting] = [drops_after_its_yes, resets_after_its_yes, hangs_after_its_yes, shows_its_own_page]


def in_turn(greetings: Sequence[Greeting]) -> Greeting:
    """Greet the first one so, the second one so ..."""
    waiting = iter(greetings)

    async def greet(reply: Reply) -> Address | None:
        return await next(waiting)(reply)

    return greet


def named(greeting: Greeting) -> str:
    return getattr(greeting, "__name__", "")


@asynccontextmanager
async def behind_tls(script: Any) -> AsyncIterator[tuple[Server, str]]:
    """A service with https, and what it sees."""
    async with serve(script) as server, tls_to(server.url, certificates.GOOD) as front:
        yield server, front.url


@pytest.mark.parametrize("ask", [order, buy])
@pytest.mark.parametrize("fault", [*BEFORE_THE_TUNNEL, *IN_THE_TUNNEL], ids=named)
async def test_row_9_through_a_failing_proxy_nothing_was_sent_to_an_https_service(fault: Greeting, ask: Ask) -> None:
    async with behind_tls([]) as (server, url), proxy(fault) as front:
        async with Client(base_url=url, proxy=front.url, api_key=KEY, attempts=3, timeout=8) as client:
            await failed(ask, client, sent=False)
        assert front.connections_opened == 3
        assert server.connections_opened == 0
        assert anyio.current_time() <= 3 * 8 + 0.5 + 1
        await anyio.sleep(1)
        assert front.connections_open == 0


async def test_row_9_a_purchase_is_made_once_when_the_proxy_is_well_again() -> None:
    till = Till()
    for fault in [*BEFORE_THE_TUNNEL, *IN_THE_TUNNEL]:
        async with behind_tls(till) as (server, url), proxy(in_turn([fault, fault, connects])) as front:
            async with Client(base_url=url, proxy=front.url, api_key=KEY, attempts=3) as client:
                assert (await client.create_order(187, "tg", immediate=True)).id == till.charged[-1]
            assert (len(server.requests), front.connections_opened) == (1, 3)
    assert len(till.charged) == len(BEFORE_THE_TUNNEL) + len(IN_THE_TUNNEL)


async def test_row_9_a_proxy_that_opens_tunnels_learns_no_more_than_the_host() -> None:
    heard = bytearray()

    async def listens(reply: Reply) -> Address | None:
        await reply._connection.more()
        heard.extend(reply._connection.unread)
        return await connects(reply)

    async with behind_tls(Till()) as (server, url), proxy(listens) as front:
        async with Client(base_url=url, proxy=front.url, api_key=KEY) as client:
            assert (await client.get_order_status(ORDER)).paid
            for ask in (read, order, buy):
                await ask(client)
        assert len(server.requests) == 4
        host = url.removeprefix("https://").encode()
        assert heard.startswith(b"CONNECT " + host)
        assert KEY.encode() not in heard
        assert ORDER.encode() not in heard


@pytest.mark.parametrize("bad", ["expired", "for another host"])
async def test_row_9_a_bad_certificate_behind_a_proxy_is_not_tried_again(bad: str) -> None:
    async with serve([]) as server, tls_to(server.url, certificates.BAD[bad]()) as front, proxy(connects) as tunnel:
        async with Client(base_url=front.url, proxy=tunnel.url, api_key=KEY) as client:
            assert "date" in await failed(buy, client, sent=False)
        assert (tunnel.connections_opened, server.connections_opened) == (1, 0)


@each_ask
@pytest.mark.parametrize("base_url", ["https://127.0.0.1:9", "http://127.0.0.1:9"])
async def test_row_9_no_proxy_listens(base_url: str, ask: Ask) -> None:
    with nobody() as (url, _):
        async with Client(base_url=base_url, proxy=url, api_key=KEY, attempts=2, trust_env=False) as client:
            assert "111" in await failed(ask, client, sent=False)


@each_ask
@pytest.mark.parametrize("fault", [never_answers, drops_at_once, drops, resets, talks_nonsense], ids=named)
async def test_row_9_through_a_failing_proxy_the_outcome_is_unknown_to_a_plain_http_service(fault: Greeting, ask: Ask) -> None:
    async with serve([]) as server, proxy(fault) as front:
        async with Client(base_url=server.url, proxy=front.url, api_key=KEY, attempts=3, timeout=8, trust_env=False) as client:
            await failed(ask, client, sent=True)
        assert front.connections_opened == min(3, tries(ask, AIOHTTP))
        assert server.connections_opened == 0
        await anyio.sleep(1)
        assert front.connections_open == 0


async def test_row_9_a_page_of_a_plain_proxy_is_no_decision_of_the_services() -> None:
    for fault in (refuses, wants_a_password):
        async with serve([]) as server, proxy(fault) as front:
            async with Client(base_url=server.url, proxy=front.url, api_key=KEY, trust_env=False) as client:
                with pytest.raises(OutcomeUnknown):
                    await buy(client)
            assert front.connections_opened == 1


async def test_row_9_a_plain_service_behind_a_proxy_is_asked_as_if_there_were_none() -> None:
    till = Till()

    async def forward(request: SeenRequest, reply: Reply) -> None:
        """The proxy is asked for whole addresses, and knows what is behind them."""
        assert request.target.startswith("http://127.0.0.1:9/")
        await till(replace(request, target=request.target.removeprefix("http://127.0.0.1:9")), reply)

    async with serve(forward) as server:
        async with Client(base_url="http://127.0.0.1:9", proxy=server.url, api_key=KEY, trust_env=False) as client:
            for ask in (read, order, buy):
                await ask(client)
            assert await OrderWatcher(client, ORDER).code() == "048213"
        assert len(till.charged) == 1
        assert len({request.connection for request in server.requests}) == 2, "a purchase takes a fresh connection"


# --- 10: cancelled before anything was sent ----------------------------------------------------------------------------------------


Place = tuple[str, Callable[[], Sequence[object]]]
"""Where a client goes, and what was seen there."""


@asynccontextmanager
async def for_a_lane() -> AsyncIterator[Place]:
    async with serve(hangs) as server:
        yield server.url, lambda: server.requests[1:]  # the first one has the lane


@asynccontextmanager
async def for_a_name() -> AsyncIterator[Place]:
    async with serve([]) as server:
        with names(no_answer):
            yield local(server), lambda: server.requests


@asynccontextmanager
async def for_a_connection() -> AsyncIterator[Place]:
    with nobody_answers() as (url, heard):
        yield url, lambda: [heard()] if heard() else []


@asynccontextmanager
async def for_a_handshake() -> AsyncIterator[Place]:
    async with serve([], on_connect=silent) as server:
        yield server.url.replace("http", "https"), lambda: server.requests


@asynccontextmanager
async def for_another_attempt() -> AsyncIterator[Place]:
    with nobody() as (url, _):
        yield url, list


@asynccontextmanager
async def for_a_tunnel() -> AsyncIterator[Place]:
    async with serve([]) as server, proxy(never_answers) as front:
        yield f"{server.url.replace('http', 'https')} {front.url}", lambda: server.requests


WAITS = [for_a_lane, for_a_name, for_a_connection, for_a_handshake, for_another_attempt]


async def cancelled(stack: Stack, wait: Callable[[], AbstractAsyncContextManager[Place]], asks: list[Ask]) -> list[str]:
    """Cancel each of these calls 0.1 s after it began, see that nothing was sent then or later, and return the notes of cancellations."""
    notes: list[str] = []
    async with wait() as (urls, seen), anyio.create_task_group() as tasks:
        url, *proxies = urls.split()
        options: dict[str, Any] = {"proxy": proxies[0]} if proxies else {}
        async with stack.client(url, api_key=KEY, max_connections=1, trust_env=True, **options) as client:
            if wait is for_a_lane:
                tasks.start_soon(client.is_available)
                await anyio.sleep(0.01)
            for ask in asks:

                async def work(ask: Ask = ask) -> None:
                    try:
                        await ask(client)
                    except anyio.get_cancelled_exc_class() as cancellation:
                        notes.extend(getattr(cancellation, "__notes__", ["-"]))
                        raise

                start = anyio.current_time()
                await cancelled_after(0.1, work)
                assert anyio.current_time() - start == pytest.approx(0.1)
            await anyio.sleep(60)
            assert seen() == []
            assert client.orphaned_orders == []
        tasks.cancel_scope.cancel()
    return notes


@every_stack
@pytest.mark.parametrize("wait", WAITS)
@forgets_sockets
async def test_row_10_cancelled_while_it_waits_nothing_is_sent(
    stack: Stack, wait: Callable[[], AbstractAsyncContextManager[Place]]
) -> None:
    await cancelled(stack, wait, [read, order])


@pytest.mark.parametrize("wait", [*WAITS, for_a_tunnel])
async def test_row_10_a_cancelled_purchase_says_that_nothing_was_sent(
    wait: Callable[[], AbstractAsyncContextManager[Place]],
) -> None:
    notes = await cancelled(LANES, wait, [buy, buy])
    assert notes == ["POST /createorder: nothing was sent"] * 2


# --- 11: a closed client -----------------------------------------------------------------------------------------------------------

CALLS: dict[str, Ask] = {
    "is_available": lambda client: client.is_available(),
    "get_countries": lambda client: client.get_countries(),
    "get_services": lambda client: client.get_services(0),
    "get_rental_countries": lambda client: client.get_rental_countries(),
    "get_price": lambda client: client.get_price(),
    "create_order": lambda client: client.create_order(0, "tg", immediate=True, max_sats=5),
    "create_send_order": lambda client: client.create_send_order("+15551234567", "hello", immediate=True),
    "get_order_status": lambda client: client.get_order_status(ORDER),
    "cancel_order": lambda client: client.cancel_order(ORDER),
    "fund": lambda client: client.fund(100),
    "get_balance": lambda client: client.get_balance(),
    "get_history": lambda client: client.get_history(),
}


def test_row_11_every_call_of_a_client_is_among_these() -> None:
    calls = {name for name, _ in inspect.getmembers(Client, inspect.iscoroutinefunction) if not name.startswith("_")}
    assert set(CALLS) == calls - {"aclose"}


@every_stack
async def test_row_11_a_closed_client_says_so_and_sends_nothing(stack: Stack) -> None:
    async with serve([{"balance": 1}]) as server, stack.client(server.url, api_key=KEY) as client:
        await client.get_balance()
        await client.aclose()
        for ask in CALLS.values():
            with pytest.raises(RuntimeError, match=r"^the client is closed$") as caught:
                await ask(client)
            assert (caught.value.__cause__, caught.value.__context__) == (None, None)
            assert KEY not in "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        with pytest.raises(OrderUnresolved):
            await OrderWatcher(client, ORDER).code()
        assert len(server.requests) == 1


@every_stack
async def test_row_11_a_batch_of_a_closed_client_leaves_no_order_out_in_silence(stack: Stack) -> None:
    outcomes: list[Outcome] = []
    async with serve([]) as server, stack.client(server.url) as client:
        await client.aclose()
        with pytest.raises(RuntimeError, match="the client is closed"):
            async with BatchWatcher(client, [ORDER, ORDER[::-1]], max_watching=1) as batch:
                async for outcome in batch:
                    outcomes.append(outcome)
        assert {type(outcome.error) for outcome in outcomes} == {OrderUnresolved}


@every_stack
async def test_row_11_a_client_need_not_be_entered(stack: Stack) -> None:
    async with serve([{"balance": 1}]) as server:
        async with stack.client(server.url, api_key=KEY) as entered:
            client = Client(base_url=server.url, api_key=KEY, transport=entered._transport._transport)
            assert await client.get_balance() == 1
            await client.aclose()
        await anyio.sleep(1)
        assert server.connections_open == 0


# --- 12: bad arguments -------------------------------------------------------------------------------------------------------------

BAD_ARGUMENTS: list[tuple[type[Exception], Callable[[Client], Any]]] = [
    (ValueError, lambda client: client.create_order("", "tg")),
    (ValueError, lambda client: client.create_order(-1, "tg")),
    (TypeError, lambda client: client.create_order(187.0, "tg")),  # type: ignore[arg-type]
    (ValueError, lambda client: client.create_order(187, " ", immediate=True)),
    (TypeError, lambda client: client.create_order(187, "tg", immediate=1)),  # type: ignore[arg-type]
    (ValueError, lambda client: client.create_order(187, "tg", immediate=True, max_sats=0)),
    (ValueError, lambda client: client.create_send_order("+15551234567", "x" * 141)),
    (ValueError, lambda client: client.create_send_order("+15551234567", "")),
    (ValueError, lambda client: client.create_send_order("555 1234567", "hello", immediate=True)),
    (ValueError, lambda client: client.get_order_status("")),
    (TypeError, lambda client: client.cancel_order(None)),  # type: ignore[arg-type]
    (ValueError, lambda client: client.fund(0)),
    (ValueError, lambda client: client.get_services("")),
    (ValueError, lambda client: OrderWatcher(client, "").code()),
    (ValueError, lambda client: OrderWatcher(client, ORDER, hold_window=-1).code()),
    (ValueError, lambda client: OrderWatcher(client, ORDER, poll_interval=0).code()),
    (ValueError, lambda client: OrderWatcher(client, ORDER, kind="send").code()),
    (ValueError, lambda client: BatchWatcher(client, [ORDER], max_rate=0)),
]


@every_stack
async def test_row_12_a_bad_argument_is_refused_before_anything_is_sent(stack: Stack) -> None:
    async with serve([]) as server, stack.client(server.url, api_key=KEY) as client:
        for kind, ask in BAD_ARGUMENTS:
            with pytest.raises(kind) as caught:
                await ask(client)
            assert type(caught.value) is kind
        await anyio.sleep(60)
        assert server.connections_opened == 0


@pytest.mark.parametrize(
    "base_url", ["http://api2.sms4sats.com", "http://192.168.0.1", "http://127.0.0.1.example.org", "ftp://127.0.0.1", ""]
)
def test_row_12_plain_http_goes_to_this_machine_and_over_tor_only(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url "):
        Client(base_url=base_url)
    for good in ("http://127.0.0.1:8000", "http://abcdefghij234567.onion", "https://192.168.0.1"):
        assert good in repr(Client(base_url=good))
