"""Watching and spending through bad networks: slow, lossy and black lines, an interface that goes, SOCKS, and TLS without a goodbye."""

import contextlib
import fcntl
import functools
import gc
import json
import math
import random
import shutil
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sms4sats_async import BatchWatcher, Client, DecodeError, OrderWatcher, OutcomeUnknown, TransportError
from tests.conftest import HAS_TRIO
from tests.faults import certificates
from tests.faults.network import (
    SOCKS_REFUSED,
    Address,
    Greeting,
    Line,
    Weather,
    address_of,
    line_to,
    names,
    not_found,
    proxy,
    socks5,
    tls_to,
)
from tests.faults.stacks import Stack, every_stack
from tests.servers import Reply, SeenRequest, serve
from tests.suspension import INVOICE, Till, asyncio_only, files_open
from tests.virtual_time import in_virtual_time

KEY = "key-of-a-test-0001"
ORDER = "order-to-watch-0001"
CODE = "004217"
CODE_AT = 40.0


class Service:
    """Orders have their code at a moment of the loop's clock; an immediate one is charged when it is read, under its ``ref``."""

    def __init__(self, code_at: float = CODE_AT) -> None:
        self.code_at = code_at
        self.charged: Counter[str] = Counter()

    async def __call__(self, request: SeenRequest, reply: Reply) -> None:
        if request.method == "POST":
            ref = json.loads(request.body)["ref"]
            self.charged[ref] += 1
            await reply.json({"status": "OK", "orderId": f"order-of-{ref}", "payreq": "paid"})
        elif anyio.current_time() >= self.code_at:
            await reply.json({"paid": True, "number": "+15550001111", "code": CODE})
        else:
            await reply.json({"paid": True})


# --- watching ----------------------------------------------------------------------------------------------------------------------

A_POLL = 3 * 1.1
A_TIMEOUT = 10.0
BACKOFFS = 1.1 + 2.2 + 4.4 + 8.8

STEADY: dict[str, tuple[Weather, float]] = {
    "latency": (Weather(latency=0.4), A_POLL + 0.8),
    "jitter": (Weather(latency=0.1, jitter=1.0), A_POLL + 2.2),
    "bandwidth": (Weather(bandwidth=400), A_POLL + 1.5),
    "slices": (Weather(slices=16, latency=0.02), A_POLL + 1),
    "resets": (Weather(limit=1000), A_POLL + 1.1),
    "closes": (Weather(limit=1000, beyond="closes"), A_POLL + 1.1),
    "swallows": (Weather(limit=1000, beyond="swallows"), A_POLL + A_TIMEOUT + 1.1),
    "slow close": (Weather(slow_close=20), A_POLL + A_TIMEOUT + 1.1),
}
"""What a line may be like all the time, and how many seconds a code may then be late: an interval, and what goes wrong once."""

PASSING: dict[str, Weather] = {
    "a black hole": Weather(limit=0, beyond="swallows"),
    "a cut": Weather(limit=0),
    "a crawl": Weather(slices=1, latency=1),
}
"""What a line may be like for a while."""


async def code_of(client: Client, order_id: str, **options: float) -> str:
    """Watch an order to its code; whoever would wait for ever fails here."""
    with anyio.fail_after(1000):
        return await OrderWatcher(client, order_id, **options).code()  # type: ignore[arg-type]


@every_stack
@pytest.mark.parametrize("weather", STEADY)
async def test_an_order_is_watched_to_its_code_in_any_weather(stack: Stack, weather: str) -> None:
    kind, late = STEADY[weather]
    async with serve(Service(), close_idle=kind.slow_close > 0) as server:
        files = files_open()
        async with line_to(server.url, kind) as line:
            async with stack.client(line.url) as client:
                assert await code_of(client, ORDER, poll_interval=3) == CODE
                assert CODE_AT <= anyio.current_time() <= CODE_AT + late
            await anyio.sleep(1)
            assert line.connections_open == 0
        await anyio.sleep(1)
        assert (server.connections_open, files_open()) == (0, files)


@every_stack
@pytest.mark.parametrize("weather", PASSING)
async def test_a_code_that_comes_in_a_bad_moment_is_had_soon_after_it(stack: Stack, weather: str) -> None:
    async with serve(Service()) as server, line_to(server.url) as line, anyio.create_task_group() as tasks:

        async def change() -> None:
            await anyio.sleep(CODE_AT - 10)
            line.weather = PASSING[weather]
            await anyio.sleep(15)
            line.weather = Weather()

        tasks.start_soon(change)
        async with stack.client(line.url) as client:
            assert await code_of(client, ORDER, poll_interval=3) == CODE
            assert CODE_AT <= anyio.current_time() <= CODE_AT + 5 + A_TIMEOUT + 8.8
        await anyio.sleep(1)
        assert line.connections_open == 0


def any_weather(chance: random.Random) -> Weather:
    """A weather, as often bad as not."""
    limit, beyond = chance.choice(
        [(math.inf, "closes"), (math.inf, "closes"), (chance.randrange(800), chance.choice(["resets", "swallows"]))]
    )
    return Weather(
        latency=chance.choice([0, 0.05, 0.5]),
        jitter=chance.choice([0, 0.5]),
        bandwidth=chance.choice([math.inf, 1000]),
        slices=chance.choice([65536, 65536, 50]),
        limit=limit,
        beyond=beyond,  # type: ignore[arg-type]
        slow_close=chance.choice([0, 5]),
    )


async def keep_changing(line: Line, chance: random.Random, until: float) -> None:
    """Give a line another weather every few seconds; from a moment on, a fair one."""
    while anyio.current_time() < until:
        line.weather = any_weather(chance)
        await anyio.sleep(chance.uniform(1, 20))
    line.weather = Weather()


@every_stack
@pytest.mark.parametrize("seed", [1, 2])
async def test_orders_are_watched_to_their_codes_in_changing_weather(stack: Stack, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the weather of a test
    code_at, fair_from = 60.0, 120.0
    codes: list[str | None] = []
    async with serve(Service(code_at)) as server:
        files = files_open()
        async with line_to(server.url, seed=seed) as line:
            async with stack.client(line.url) as client, anyio.create_task_group() as tasks:
                tasks.cancel_scope.deadline = 1000

                async def watch(number: int) -> None:
                    codes.append(await code_of(client, f"order-{number:06}"))

                async def watch_many() -> None:
                    async with BatchWatcher(client, (f"order-of-many-{number:06}" for number in range(5))) as batch:
                        codes.extend([outcome.code async for outcome in batch])

                tasks.start_soon(keep_changing, line, chance, fair_from)
                tasks.start_soon(watch_many)
                for number in range(3):
                    tasks.start_soon(watch, number)
            assert codes == [CODE] * 8
            assert code_at <= anyio.current_time() <= fair_from + 20 + A_TIMEOUT + 33
            await anyio.sleep(1)
            assert line.connections_open == 0
        await anyio.sleep(1)
        assert (server.connections_open, files_open()) == (0, files)


# --- spending ----------------------------------------------------------------------------------------------------------------------


async def buy(client: Client, ref: str) -> str:
    """Spend once, and say what the caller knows afterwards. A connection was made each time, so nobody can say that nothing was sent."""
    try:
        with anyio.fail_after(100):
            order = await client.create_order(187, "tg", ref=ref, immediate=True)
    except OutcomeUnknown:
        return "unknown"
    assert order.id == f"order-of-{ref}"
    return "known"


def judge(service: Service, told: dict[str, str]) -> Counter[str]:
    """Hold what callers were told against what was charged, and return how often each thing was told."""
    for ref, known in told.items():
        assert service.charged[ref] in {"known": (1,), "unknown": (0, 1)}[known], ref
    assert set(service.charged) <= set(told)
    return Counter(told.values())


@every_stack
@pytest.mark.parametrize("weather", ["latency", "jitter", "bandwidth", "slices", "slow close"])
async def test_spending_through_a_slow_line_is_done_once_and_known(stack: Stack, weather: str) -> None:
    service = Service()
    async with serve(service) as server, line_to(server.url, STEADY[weather][0]) as line:
        async with stack.client(line.url, api_key=KEY) as client:
            told = {f"me-{number:03}": await buy(client, f"me-{number:03}") for number in range(10)}
        await anyio.sleep(60)
        assert judge(service, told) == {"known": 10}
        assert line.connections_open == 0


@every_stack
@pytest.mark.parametrize("beyond", ["resets", "closes", "swallows"])
async def test_spending_through_a_line_that_fails_after_so_many_bytes_is_done_at_most_once(stack: Stack, beyond: Any) -> None:
    service = Service()
    told: dict[str, str] = {}
    async with serve(service) as server, line_to(server.url) as line:
        async with stack.client(line.url, api_key=KEY) as client:
            for limit in range(0, 600, 15):
                line.weather = Weather(limit=limit, beyond=beyond)
                start = anyio.current_time()
                told[f"me-{limit:03}"] = await buy(client, f"me-{limit:03}")
                assert anyio.current_time() - start <= A_TIMEOUT + 0.1
        await anyio.sleep(60)
        assert line.connections_open == 0
    counts = judge(service, told)
    assert counts["known"] > 5
    assert counts["unknown"] > 20
    assert any(service.charged[ref] for ref, known in told.items() if known == "unknown"), "some were charged all the same"


@every_stack
@pytest.mark.parametrize("seed", [2, 7])
async def test_spending_in_changing_weather_is_done_at_most_once(stack: Stack, seed: int) -> None:
    moments, weathers = random.Random(seed + 100), random.Random(seed)  # noqa: S311 - the weather of a test
    service = Service()
    told: dict[str, str] = {}
    async with serve(service) as server:
        files = files_open()
        async with line_to(server.url, seed=seed) as line:
            async with stack.client(line.url, api_key=KEY, max_connections=5) as client, anyio.create_task_group() as tasks:

                async def spend_later(ref: str) -> None:
                    await anyio.sleep(moments.uniform(0, 150))
                    told[ref] = await buy(client, ref)

                tasks.start_soon(keep_changing, line, weathers, 150)
                for number in range(40):
                    tasks.start_soon(spend_later, f"me-{number:03}")
            await anyio.sleep(60)
            assert line.connections_open == 0
        await anyio.sleep(1)
        assert (server.connections_open, files_open()) == (0, files)
    counts = judge(service, told)
    assert counts["known"] > 10
    assert counts["unknown"] > 5
    assert counts.total() == 40


# --- SOCKS -------------------------------------------------------------------------------------------------------------------------

ONION = "http://abcdefghij234567.onion"
Ask = Callable[[Client], Coroutine[Any, Any, Any]]


async def read(client: Client) -> None:
    await client.get_balance()


async def order(client: Client) -> None:
    await client.create_order(187, "tg")


async def spend(client: Client) -> None:
    await client.create_order(187, "tg", immediate=True)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_over_socks_an_onion_is_asked_and_no_name_is_looked_up_here(scheme: str) -> None:
    asked: list[Address] = []
    till = Till()
    async with serve(till) as server, proxy(socks5(asked, to=address_of(server.url))) as front:
        with names(not_found) as looked_up:
            async with Client(base_url=ONION, proxy=front.url.replace("http", scheme), trust_env=False) as client:
                assert await OrderWatcher(client, ORDER).code() == "048213"
                await order(client)
        assert looked_up == []
        assert set(asked) == {(ONION.removeprefix("http://"), 80)}
        assert len(asked) == front.connections_opened == 1
        await anyio.sleep(1)
        assert front.connections_open == 0


@pytest.mark.measured("on both loops")
async def test_over_socks_a_certificate_is_asked_for_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificates.trust(tmp_path))
    till = Till()
    for context, charged in ((certificates.GOOD, 1), (certificates.BAD["for another host"](), 1)):
        async with serve(till) as server, tls_to(server.url, context) as tls, proxy(socks5([])) as front:
            async with Client(base_url=tls.url, proxy=front.url.replace("http", "socks5h"), api_key=KEY) as client:
                with contextlib.nullcontext() if context is certificates.GOOD else pytest.raises(TransportError, match="date") as caught:
                    await spend(client)
                assert not isinstance(caught and caught.value, OutcomeUnknown)
            assert front.connections_opened == 1
        assert len(till.charged) == charged


async def hangs_at_once(reply: Reply) -> None:
    await reply.hang()


async def drops_at_once(reply: Reply) -> None:
    await reply.close()


async def wants_a_password(reply: Reply) -> None:
    await reply.read(3)
    await reply.raw(b"\x05\x02")
    await reply.hang()


async def talks_http(reply: Reply) -> None:
    await reply.read(3)
    await reply.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reply.close()


async def drops_when_asked(reply: Reply) -> None:
    await reply.read(3)
    await reply.raw(b"\x05\x00")
    await reply.read(7)
    await reply.reset()


async def hangs_when_asked(reply: Reply) -> None:
    await reply.read(3)
    await reply.raw(b"\x05\x00")
    await reply.hang()


async def keeps_what_it_refused(reply: Reply) -> None:
    await reply.read(3)
    await reply.raw(b"\x05\x00")
    await reply.read(7)
    await reply.raw(bytes([5, SOCKS_REFUSED, 0, 1, 0, 0, 0, 0, 0, 0]))
    await reply.hang()


SOCKS_FAULTS: dict[str, Greeting] = {
    "refuses": socks5([], SOCKS_REFUSED),
    "hangs at once": hangs_at_once,
    "drops at once": drops_at_once,
    "wants a password": wants_a_password,
    "talks http": talks_http,
    "drops when asked": drops_when_asked,
    "hangs when asked": hangs_when_asked,
    "keeps what it refused": keeps_what_it_refused,
}


@pytest.mark.parametrize("ask", [read, order, spend])
async def test_through_a_failing_socks_proxy_nothing_was_sent_and_nothing_is_left(ask: Ask) -> None:
    async with serve([]) as server:
        files = files_open()
        for fault in SOCKS_FAULTS.values():
            async with proxy(fault) as front:
                await through_socks(ask, server.url, front.url)
                assert front.connections_opened == 3
                assert server.connections_opened == 0
        await anyio.sleep(1)
        assert files_open() == files


async def through_socks(ask: Ask, url: str, proxy_url: str) -> None:
    """Ask in vain: it is certain that nothing was sent, so each attempt is made, in bounded time."""
    start = anyio.current_time()
    settings: dict[str, Any] = {"proxy": proxy_url.replace("http", "socks5h"), "api_key": KEY, "trust_env": False}
    async with Client(base_url=url, attempts=3, timeout=8, **settings) as client:
        with anyio.fail_after(100), pytest.raises(TransportError) as caught:
            await ask(client)
    assert type(caught.value) is TransportError
    assert anyio.current_time() - start <= 3 * 8 + 0.5 + 1


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


@asyncio_only
async def test_a_failing_socks_proxy_is_left_at_once() -> None:
    async with proxy(keeps_what_it_refused) as front:
        with no_collector():
            await through_socks(read, ONION, front.url)
            await anyio.sleep(1)
            assert front.connections_open == 0


# --- TLS without a goodbye ---------------------------------------------------------------------------------------------------------


@every_stack
async def test_a_watch_over_tls_outlives_connections_that_end_without_a_goodbye(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificates.trust(tmp_path))
    async with serve(Service(), close_idle=True) as server, tls_to(server.url, certificates.GOOD) as front:
        async with stack.client(front.url, trust_env=True) as client:
            assert await code_of(client, ORDER, poll_interval=3) == CODE
            assert anyio.current_time() <= CODE_AT + A_POLL
        await anyio.sleep(1)
        assert front.connections_open == 0


@every_stack
async def test_a_reply_without_a_length_that_ends_without_a_goodbye_is_whole_or_no_reply(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cuts the line can cut such a reply anywhere: JSON alone tells whether it is all there."""
    monkeypatch.setenv("SSL_CERT_FILE", certificates.trust(tmp_path))
    body = json.dumps({"status": "OK", "orderId": "order-of-a-test", "payreq": INVOICE[:11], "balance": 1234}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    cuts = iter([*(cut for cut in range(0, len(body), 9) for _ in (read, spend)), len(body)])

    async def script(request: SeenRequest, reply: Reply) -> None:
        await reply.cut(head + body, at=len(head) + next(cuts))

    async with serve(script) as server, tls_to(server.url, certificates.GOOD) as front:
        async with stack.client(front.url, api_key=KEY, trust_env=True, attempts=1) as client:
            for _ in range(0, len(body), 9):
                with pytest.raises((TransportError, DecodeError)):
                    await client.get_balance()
                with pytest.raises(OutcomeUnknown):
                    await spend(client)
            assert await client.get_balance() == 1234
        await anyio.sleep(1)
        assert front.connections_open == 0


# --- an interface that goes --------------------------------------------------------------------------------------------------------

BACKENDS = ["asyncio", "trio"] if HAS_TRIO else ["asyncio"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def loopback(*, up: bool) -> None:
    """Switch the loopback interface of this namespace, as ``ip link set lo up`` does."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 1 if up else 0))  # SIOCSIFFLAGS, IFF_UP


async def unreachable() -> dict[str, Any]:
    """Ask in each way while there is no interface."""
    words: dict[str, Any] = {}
    async with Client(base_url="http://127.0.0.1:9", api_key=KEY, trust_env=False, attempts=2) as client:
        for ask in (read, order, spend):
            try:
                await ask(client)
            except TransportError as error:
                words[ask.__name__] = [type(error).__name__, str(error)]
    return words


async def gone_once() -> dict[str, Any]:
    """In real time: a watch whose interface goes for 1.5 s, with a poll under way."""
    loopback(up=True)
    start = anyio.current_time()
    async with serve(Service(start + 1)) as server, anyio.create_task_group() as tasks:

        async def switch() -> None:
            await anyio.sleep(0.5)
            loopback(up=False)
            await anyio.sleep(1.5)
            loopback(up=True)

        tasks.start_soon(switch)
        async with Client(base_url=server.url, trust_env=False, timeout=1) as client:
            code = await OrderWatcher(client, ORDER, poll_interval=1).code()
    return {"code": code, "after": anyio.current_time() - start}


async def gone_often() -> dict[str, Any]:
    """In virtual time: a watch of 18 minutes whose interface goes again and again, for half of the time."""
    chance = random.Random(3)  # noqa: S311 - the moments of a test
    async with serve(Service(1000)) as server, anyio.create_task_group() as tasks:

        async def switch() -> None:
            while anyio.current_time() < 1050:
                loopback(up=False)
                await anyio.sleep(chance.uniform(0.1, 30))
                loopback(up=True)
                await anyio.sleep(chance.uniform(0.1, 30))

        tasks.start_soon(switch)
        async with Client(base_url=server.url, trust_env=False) as client:
            code = await OrderWatcher(client, ORDER).code()
        after = anyio.current_time()
    return {"code": code, "after": after, "polls": len(server.requests)}


def in_a_namespace(backend: str) -> None:
    """The program that runs in a network namespace of its own: it prints what came of it all."""
    told = {
        "unreachable": anyio.run(unreachable, backend=backend),
        "gone once": anyio.run(gone_once, backend=backend),
        "gone often": anyio.run(gone_often, backend=backend, backend_options=in_virtual_time(backend)),
    }
    sys.stdout.write(json.dumps(told))


@functools.cache
def namespace(backend: str) -> dict[str, Any]:
    """What came of it, or a skip that says why there is no such namespace."""
    unshare = shutil.which("unshare") or "unshare"
    can = subprocess.run(f"{unshare} -rn true", shell=True, capture_output=True, text=True, check=False)  # noqa: S602 - our own words
    if can.returncode != 0:  # pragma: no cover - where a machine allows it
        pytest.skip(f"this machine lets nobody make a network namespace: {can.stderr.strip()}")
    program = f"from tests.faults.test_network import in_a_namespace; in_a_namespace({backend!r})"
    done = subprocess.run([unshare, "-rn", sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@each_backend
@pytest.mark.real_time
def test_row_3_without_an_interface_the_network_is_unreachable_and_nothing_was_sent(backend: str) -> None:
    words = namespace(backend)["unreachable"]
    assert {ask: kind for ask, (kind, _) in words.items()} == dict.fromkeys(["read", "order", "spend"], "TransportError")
    assert all("Network is unreachable" in text for _, text in words.values())


@each_backend
@pytest.mark.real_time
def test_a_watch_outlives_an_interface_that_goes_and_comes_back(backend: str) -> None:
    told = namespace(backend)["gone once"]
    assert told["code"] == CODE
    assert 2 <= told["after"] <= 2 + (1 + 2 + 4) * 1.1, "gone until 2 s, and then the pauses after three failed polls"


@each_backend
@pytest.mark.real_time
def test_a_watch_outlives_an_interface_that_comes_and_goes(backend: str) -> None:
    told = namespace(backend)["gone often"]
    assert told["code"] == CODE
    assert 1000 <= told["after"] <= 1050 + 60 + A_TIMEOUT + 33
    assert told["polls"] > 20
