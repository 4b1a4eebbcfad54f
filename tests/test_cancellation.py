"""A call that is cancelled anywhere leaves nothing behind: at each suspension, and after each turn of the loop.

Cancelled in every way there is: an anyio scope, ``task.cancel()`` once and twice, ``asyncio.timeout``, Ctrl-C.
"""

import gc
import importlib.util
import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Any

import anyio
import httpx
import pytest

import sms4sats_async
from sms4sats_async import (
    BatchWatcher,
    Client,
    Journal,
    Order,
    OrderExpired,
    OrderKind,
    OrderWatcher,
    Outcome,
    PayingWatcher,
    receive_code,
    reconcile,
    send_sms,
)
from tests.conftest import HAS_TRIO
from tests.faults.stacks import Stack
from tests.servers import Handler, Reply, SeenRequest, Server, hangs, serve
from tests.suspension import (
    INVOICE,
    Ending,
    Till,
    Way,
    asyncio_only,
    by_ctrl_c,
    by_ctrl_c_after_seconds,
    by_ctrl_c_after_turns,
    by_two_native_cancels,
    files_open,
    no_journal_left,
    no_task_left,
    run_virtually,
    ways,
    ways_by_turns,
)

KEY = "key-of-a-test-0001"
ORDER = "order-to-watch-1"
SMS = "send-order-to-watch-1"
SILENT = "silent-order-to-watch-1"
CODE = "048213"
MOST = 2
"""The client's connections in these tests."""
DELAY = 0.25
"""Seconds that the service takes to answer: more than a cancelled read may still take."""
LULL = 20.0
"""Seconds after a call, in which whatever goes on would ask again."""

MOST_TURNS = 50
"""More than a call needs; a watcher sleeps between its looks, and never ends as long as the clock stands still."""

Call = Callable[[Client], Coroutine[Any, Any, Any]]
Attempt = Callable[[Way[Any], int], Awaitable[Ending[Any]]]
"""Cancels a call in this way at its k-th suspension, or after k turns, and checks what must hold."""


@dataclass(frozen=True)
class Swept:
    """A call to cancel everywhere.

    Attributes:
        call: begins it.
        raises: what it may raise of itself.
        grace: how many seconds it may go on when it is cancelled.
    """

    call: Call
    raises: tuple[type[Exception], ...] = ()
    grace: float = 0.0


class Left(Exception):
    """What a block is left by."""


async def enter(client: Client) -> None:
    async with client:
        await client.get_balance()


async def leave_by_error(client: Client) -> None:
    async with client:
        await client.get_balance()
        raise Left


async def close(client: Client) -> None:
    await client.get_balance()
    await client.aclose()


async def iterate(client: Client) -> list[str | None]:
    return [status.code async for status in OrderWatcher(client, ORDER)]


async def leave_watcher(client: Client) -> None:
    async with OrderWatcher(client, ORDER) as watcher:
        await watcher.paid()


async def leave_watcher_by_error(client: Client) -> None:
    async with OrderWatcher(client, ORDER) as watcher:
        await watcher.paid()
        raise Left


async def leave_watcher_and_client(client: Client) -> None:
    async with client, OrderWatcher(client, ORDER):
        pass


async def cancel_when_allowed(client: Client) -> None:
    order = Order(SILENT, created_at=datetime.now(UTC) - timedelta(seconds=116))
    await OrderWatcher(client, order).cancel(when_allowed=True)


async def expire(client: Client) -> str:
    """Wait for a code in a window that ends before it comes: look, cancel, look."""
    return await OrderWatcher(client, SILENT, hold_window=0.5).code()


async def pays_slowly(invoice: str) -> str:
    await anyio.sleep(1.5)
    return "pending"


async def never_returns(invoice: str) -> None:
    await anyio.sleep(10_000)


async def sleeps_on_it(number: str) -> None:
    await anyio.sleep(0.5)


def paying(work: Callable[[PayingWatcher], Awaitable[object]], order_id: str = ORDER, kind: OrderKind = OrderKind.receive) -> Call:
    """Pay an order in a block, and do this in it."""

    async def call(client: Client) -> None:
        async with PayingWatcher(client, Order(order_id, kind, payreq=INVOICE), pay=pays_slowly) as watcher:
            await work(watcher)

    return call


async def iterate_paying(watcher: PayingWatcher) -> list[str | None]:
    return [status.code async for status in watcher]


async def leave_payer(client: Client) -> None:
    async with PayingWatcher(client, Order(ORDER, payreq=INVOICE), pay=never_returns) as watcher:
        await watcher.code()


async def leave_payer_by_error(client: Client) -> None:
    async with PayingWatcher(client, Order(ORDER, payreq=INVOICE), pay=never_returns):
        raise Left


async def receive(client: Client) -> Order:
    return (await receive_code(client, 187, "tg", pay=pays_slowly, on_number=sleeps_on_it)).order


async def receive_prepaid(client: Client) -> Order:
    return (await receive_code(client, 187, "tg", immediate=True)).order


async def send(client: Client) -> Order:
    return (await send_sms(client, "+15551234567", "hello", pay=pays_slowly)).order


class Orders:
    """Orders of a batch, that counts which were taken."""

    def __init__(self, *order_ids: str) -> None:
        self._left = [*order_ids]
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        while self._left:
            self.taken.append(self._left.pop(0))
            yield self.taken[-1]


@contextmanager
def one_outcome_each(batch: BatchWatcher, orders: Orders) -> Iterator[list[Outcome]]:
    """Whatever becomes of the block: each order that was taken is among what was read, or among what is unread, once."""
    read: list[Outcome] = []
    yield read
    assert sorted(outcome.order.id for outcome in (*read, *batch.unread)) == sorted(orders.taken)


async def batch_to_the_end(client: Client) -> None:
    orders = Orders("one", "two", SILENT)
    batch = BatchWatcher(client, orders, max_watching=2, hold_window=6, poll_interval=3)
    with one_outcome_each(batch, orders) as read:
        async with batch:
            async for outcome in batch:
                read.append(outcome)


async def batch_left_early(client: Client) -> None:
    orders = Orders("one", "two", SILENT)
    batch = BatchWatcher(client, orders)
    with one_outcome_each(batch, orders) as read:
        async with batch:
            orders.taken.append("added")
            batch.add("added")
            read.append(await anext(batch))


async def batch_left_by_error(client: Client) -> None:
    orders = Orders("one", SILENT)
    batch = BatchWatcher(client, orders)
    with one_outcome_each(batch, orders):
        async with batch:
            await anyio.sleep(1)
            raise Left


CALLS: dict[str, Swept] = {
    "Client.__aenter__": Swept(enter),
    "Client.__aexit__": Swept(leave_by_error, raises=(Left,)),
    "Client.aclose": Swept(close),
    "Client.is_available": Swept(lambda client: client.is_available()),
    "Client.get_countries": Swept(lambda client: client.get_countries()),
    "Client.get_services": Swept(lambda client: client.get_services(187)),
    "Client.get_rental_countries": Swept(lambda client: client.get_rental_countries()),
    "Client.get_price": Swept(lambda client: client.get_price(187, "tg")),
    "Client.create_order": Swept(lambda client: client.create_order(187, "tg")),
    "Client.create_order, immediate": Swept(lambda client: client.create_order(187, "tg", immediate=True), grace=DELAY),
    "Client.create_order, immediate, with max_sats": Swept(
        lambda client: client.create_order(187, "tg", immediate=True, max_sats=200), grace=DELAY
    ),
    "Client.create_send_order": Swept(lambda client: client.create_send_order("+15551234567", "hello")),
    "Client.create_send_order, immediate": Swept(
        lambda client: client.create_send_order("+15551234567", "hello", immediate=True), grace=DELAY
    ),
    "Client.get_order_status": Swept(lambda client: client.get_order_status(ORDER)),
    "Client.cancel_order": Swept(lambda client: client.cancel_order(ORDER)),
    "Client.fund": Swept(lambda client: client.fund(1000)),
    "Client.get_balance": Swept(lambda client: client.get_balance()),
    "Client.get_history": Swept(lambda client: client.get_history()),
    "OrderWatcher.paid": Swept(lambda client: OrderWatcher(client, ORDER).paid()),
    "OrderWatcher.number": Swept(lambda client: OrderWatcher(client, ORDER).number()),
    "OrderWatcher.code": Swept(lambda client: OrderWatcher(client, ORDER).code()),
    "OrderWatcher.code, at the end of the window": Swept(expire, raises=(OrderExpired,), grace=3 * DELAY),
    "OrderWatcher.sent": Swept(lambda client: OrderWatcher(client, SMS, kind=OrderKind.send).sent()),
    "OrderWatcher.cancel": Swept(lambda client: OrderWatcher(client, SILENT).cancel()),
    "OrderWatcher.cancel, when_allowed": Swept(cancel_when_allowed),
    "OrderWatcher.__aiter__": Swept(iterate),
    "OrderWatcher.__aenter__": Swept(leave_watcher, grace=3 * DELAY),
    "OrderWatcher.__aexit__": Swept(leave_watcher_by_error, raises=(Left,), grace=3 * DELAY),
    "OrderWatcher.__aexit__, and the client's": Swept(leave_watcher_and_client, grace=3 * DELAY),
    "PayingWatcher.paid": Swept(paying(PayingWatcher.paid), grace=3 * DELAY),
    "PayingWatcher.number": Swept(paying(PayingWatcher.number), grace=3 * DELAY),
    "PayingWatcher.code": Swept(paying(PayingWatcher.code), grace=3 * DELAY),
    "PayingWatcher.sent": Swept(paying(PayingWatcher.sent, SMS, OrderKind.send)),
    "PayingWatcher.cancel": Swept(paying(PayingWatcher.cancel, SILENT), grace=8 * DELAY),  # leaving sees a cancel that was sent through
    "PayingWatcher.__aiter__": Swept(paying(iterate_paying), grace=3 * DELAY),
    "PayingWatcher.__aenter__": Swept(leave_payer, grace=3 * DELAY),
    "PayingWatcher.__aexit__": Swept(leave_payer_by_error, raises=(Left,), grace=3 * DELAY),
    "receive_code": Swept(receive, grace=3 * DELAY),
    "receive_code, immediate": Swept(receive_prepaid, grace=3 * DELAY),
    "send_sms": Swept(send),
    "BatchWatcher.__aenter__": Swept(batch_left_by_error, raises=(Left,), grace=4 * DELAY),
    "BatchWatcher.__aexit__": Swept(batch_left_early, grace=4 * DELAY),
    "BatchWatcher.__anext__": Swept(batch_to_the_end, grace=4 * DELAY),
}
"""By the name of the public coroutine that is swept."""

LANES = Stack("lanes", ())
AIOHTTP = Stack("aiohttp", ())


async def try_once(swept: Swept, way: Way[Any], k: int, *, delay: float = 0.0, warm: bool = False, stack: Stack = LANES) -> Ending[Any]:
    """Cancel this call once, and check everything that must hold whatever the moment was."""
    told: list[str] = []
    till = Till(delay=delay)
    where = f"{way.__name__} at {k}"
    with no_task_left():
        async with serve(till) as server:
            async with stack.client(server.url, api_key=KEY, max_connections=MOST, on_order=lambda order: told.append(order.id)) as client:
                if warm:
                    await client.get_balance()
                ending = await way(lambda: swept.call(client), k)
                over = anyio.current_time()
                saw_its_own(ending, where, *swept.raises)
                assert ending.after <= swept.grace + 0.001, f"{where}: it took {ending.after} s"
                returned = [ending.value.id] if isinstance(ending.value, Order) else []
                assert set(till.charged) <= {*returned, *(order.id for order in client.orphaned_orders)}, where
                assert set(till.charged) <= {*told}, where
                await anyio.sleep(LULL)
                assert [request.target for request in server.requests if request.at > over] == [], where
                if not client.is_closed:
                    await all_lanes_work(client, server, where)
            await anyio.sleep(1)
            assert server.connections_open == 0, where
    return ending


def saw_its_own(ending: Ending[Any], where: str, *raises: type[Exception]) -> None:
    """The caller saw its own cancellation, if it was cancelled, and nothing else."""
    if ending.error is not None:
        assert ending.cancelled or type(ending.error) in raises, f"{where}: {ending.error!r}"
    if ending.requests:
        assert ending.cancelled, f"{where}: the cancellation was swallowed"


async def closes_all(client: Client, server: Server, where: str) -> None:
    await client.aclose()
    await anyio.sleep(1)
    assert server.connections_open == 0, where


async def all_lanes_work(client: Client, server: Server, where: str) -> None:
    """As many calls as there are lanes go over as many connections; with a lane less, one would wait for another's, and take it over."""
    with anyio.move_on_after(5) as patience:
        async with anyio.create_task_group() as group:
            for _ in range(MOST):
                group.start_soon(client.get_balance)
    assert not patience.cancelled_caught, f"{where}: all lanes are lost"
    assert len({request.connection for request in server.requests[-MOST:]}) == MOST, f"{where}: a lane is lost"
    assert server.connections_open <= MOST, where


async def sweep(attempt: Attempt, way: Way[Any], *, step: int = 1) -> int:
    """Try every k until the call comes to its end before it; return how many there were."""
    for k in range(1, 2_000, step):
        if not (await attempt(way, k)).triggered:
            return k
    raise AssertionError("the call does not end")


def interrupted(attempt: Attempt, backend: str, way: Way[Any], k: int) -> bool:
    """Strike a program of its own with Ctrl-C; return False when the call was over by then, else see that the program ends by it."""
    endings: list[Ending[Any]] = []

    async def main() -> None:
        endings.append(await attempt(way, k))
        if endings[0].cancelled:
            raise endings[0].error  # type: ignore[misc]  # it is set

    try:
        run_virtually(backend, main)
    except KeyboardInterrupt:
        return True
    assert not endings[0].triggered, f"{way.__name__} at {k}: Ctrl-C was swallowed"
    return False


def sweep_by_ctrl_c(attempt: Attempt, backend: str, way: Way[Any] = by_ctrl_c, *, step: int = 1) -> int:
    """Strike at every k until the call comes to its end before it; return how many there were."""
    k = 1
    while interrupted(attempt, backend, way, k):
        k += step
    return k


trio_too = pytest.param("trio", marks=pytest.mark.skipif(not HAS_TRIO, reason="needs trio"))
backends = pytest.mark.parametrize("backend", ["asyncio", trio_too])


# --- each call -----------------------------------------------------------------------------------------------------------------------


async def leaves_nothing(attempt: Attempt, ways: list[Way[Any]], least: int) -> None:
    files = files_open()
    for way in ways:
        assert await sweep(attempt, way, step=3 if way is by_two_native_cancels else 1) > least
    assert files_open() <= files  # less, if what an earlier test left to the collector has gone meanwhile


@pytest.mark.measured("once")
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_cancelled_at_any_suspension_leaves_nothing(name: str) -> None:
    await leaves_nothing(partial(try_once, CALLS[name], delay=DELAY), ways(), 1)


@pytest.mark.skipif(importlib.util.find_spec("httpx_aiohttp") is None, reason="needs the extra aiohttp")
@asyncio_only
@pytest.mark.parametrize("name", ["Client.create_order, immediate", "OrderWatcher.code"])
async def test_a_call_over_aiohttp_cancelled_at_any_suspension_leaves_nothing(name: str) -> None:
    await leaves_nothing(partial(try_once, CALLS[name], delay=DELAY, stack=AIOHTTP), ways(), 1)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", ["Client.get_order_status", "Client.create_order, immediate"])
async def test_a_call_cancelled_in_any_turn_of_the_loop_leaves_nothing(name: str, warm: bool) -> None:
    await leaves_nothing(partial(try_once, CALLS[name], warm=warm), ways_by_turns(), 3)


async def test_leaving_a_block_cancelled_in_any_turn_of_the_loop_leaves_nothing() -> None:
    await leaves_nothing(partial(try_once, CALLS["OrderWatcher.__aexit__"]), ways_by_turns()[:2], 3)


@pytest.mark.measured("once")
@backends
@pytest.mark.parametrize("name", CALLS)
def test_a_call_struck_by_ctrl_c_at_any_suspension_leaves_nothing(backend: str, name: str) -> None:
    files = files_open()
    assert sweep_by_ctrl_c(partial(try_once, CALLS[name], delay=DELAY), backend) > 1
    assert files_open() <= files


@backends
@pytest.mark.parametrize("name", ["Client.get_order_status", "Client.create_order, immediate", "OrderWatcher.__aexit__"])
def test_a_call_struck_by_ctrl_c_in_any_turn_of_the_loop_leaves_nothing(backend: str, name: str) -> None:
    files = files_open()
    assert sweep_by_ctrl_c(partial(try_once, CALLS[name]), backend, by_ctrl_c_after_turns) > 3
    assert files_open() <= files


def public_coroutines() -> dict[str, CodeType]:
    """Everything public that is awaited, iterated or entered, by its name."""
    found: dict[str, CodeType] = {}
    for name in sms4sats_async.__all__:
        public = getattr(sms4sats_async, name)
        for attribute in dir(public) if inspect.isclass(public) else [""]:
            value = inspect.unwrap(getattr(public, attribute) if attribute else public)
            value = getattr(value, "fget", value)  # of a property
            told = re.search("Async|Await|Corout", str(getattr(value, "__annotations__", {}).get("return")))
            if (told or inspect.iscoroutinefunction(value)) and re.fullmatch("[^_].*|__.*__|", attribute):
                found[f"{name}.{attribute}".rstrip(".")] = value.__code__
    return found


def test_every_public_coroutine_is_swept() -> None:
    assert {name.partition(",")[0] for name in CALLS} | JOURNALED.keys() == public_coroutines().keys()


@contextmanager
def entered(code: CodeType) -> Iterator[None]:
    """Fail unless this code is entered in the block."""
    seen: set[CodeType] = set()
    sys.setprofile(lambda frame, event, argument: seen.add(frame.f_code))
    try:
        yield
        assert code in seen
    finally:
        sys.setprofile(None)


@asyncio_only
@pytest.mark.parametrize("name", CALLS)
async def test_what_is_swept_is_what_its_name_says(name: str) -> None:
    async with serve(Till()) as server, LANES.client(server.url, api_key=KEY) as client:
        with entered(public_coroutines()[name.partition(",")[0]]), suppress(*CALLS[name].raises):
            await CALLS[name].call(client)


# --- a journal -------------------------------------------------------------------------------------------------------------------------


async def opened_and_closed(journal: Journal) -> None:
    async with journal:
        pass


async def looked_at(journal: Journal) -> object:
    async with Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json={"status": "OK"}))) as client:
        return await reconcile(client, journal)


JOURNALED: dict[str, Callable[[Journal], Coroutine[Any, Any, object]]] = {
    "Journal.__aenter__": opened_and_closed,
    "Journal.__aexit__": opened_and_closed,
    "Journal.aclose": lambda journal: journal.aclose(),
    "Journal.open_orders": lambda journal: journal.open_orders(),
    "Journal.open_entries": lambda journal: journal.open_entries(),
    "Journal.entries": lambda journal: journal.entries(),
    "Journal.unresolved": lambda journal: journal.unresolved(),
    "Journal.find": lambda journal: journal.find(ORDER),
    "Journal.dismiss": lambda journal: journal.dismiss("an order of somebody else"),
    "Journal.prune": lambda journal: journal.prune(0),
    "Journal.intend": lambda journal: journal.intend(OrderKind.receive, country=187, service="tg", price_sats=None, prepaid=True),
    "Journal.left": lambda journal: journal.left(10**6),
    "Journal.placed": lambda journal: journal.placed(1, Order(ORDER)),
    "Journal.take_all": lambda journal: journal.take_all(),
    "Journal.take": lambda journal: journal.take(ORDER),
    "Journal.spending": lambda journal: journal.spending(0),
    "Journal.kept": lambda journal: journal.kept("a fact"),
    "Journal.keep": lambda journal: journal.keep("a fact", 1),
    "reconcile": looked_at,
}
"""By the name of the public coroutine that is swept."""


@pytest.mark.parametrize("name", JOURNALED)
async def test_a_journal_asked_by_who_is_cancelled_at_any_suspension_goes_on(name: str, tmp_path: Path) -> None:
    with no_journal_left():
        async with Journal(tmp_path / "orders.db") as journal:
            intent = await journal.intend(OrderKind.receive, country=187, service="tg", price_sats=None, prepaid=False)
            await journal.placed(intent, Order(ORDER))

            async def attempt(way: Way[Any], k: int) -> Ending[Any]:
                with no_task_left():
                    ending = await way(lambda: JOURNALED[name](journal), k)
                saw_its_own(ending, f"{way.__name__} at {k}")
                assert [order.id for order in await journal.open_orders()] == [ORDER]
                return ending

            for way in ways():
                assert await sweep(attempt, way) > 1


async def test_a_journal_whose_block_is_cancelled_before_it_begins_is_closed(tmp_path: Path) -> None:
    kept: list[Journal] = []  # for one that nobody has any more is closed anyway

    async def attempt(way: Way[Any], k: int) -> Ending[Any]:
        kept.append(Journal(tmp_path / "orders.db"))
        with no_task_left(), no_journal_left():
            ending = await way(lambda: opened_and_closed(kept[-1]), k)
        saw_its_own(ending, f"{way.__name__} at {k}")
        return ending

    for way in ways():
        assert await sweep(attempt, way) > 1


@asyncio_only
@pytest.mark.parametrize("name", JOURNALED)
async def test_what_is_asked_of_a_journal_is_what_its_name_says(name: str, tmp_path: Path) -> None:
    async with Journal(tmp_path / "orders.db") as journal:
        with entered(public_coroutines()[name]):
            await JOURNALED[name](journal)


# --- what Ctrl-C may cost --------------------------------------------------------------------------------------------------------------


def struck(backend: str, seconds: float, script: Handler, call: Call, **options: Any) -> tuple[Ending[Any], Client]:
    """Strike a call with Ctrl-C after so many seconds, and let things go on for a while; the program ends by it."""
    seen: list[tuple[Ending[Any], Client]] = []
    on_connect = options.pop("on_connect", None)

    async def main() -> None:
        async with serve(script, on_connect=on_connect) as server:
            proxy = f"socks5://{server.url.removeprefix('http://')}" if on_connect else None
            async with Client(base_url=server.url, api_key=KEY, trust_env=False, proxy=proxy, **options) as client:
                ending = await by_ctrl_c_after_seconds(lambda: call(client), seconds)
                seen.append((ending, client))
                await anyio.sleep(LULL)
        assert ending.error is not None
        raise ending.error

    with pytest.raises(KeyboardInterrupt):
        run_virtually(backend, main)
    return seen[0]


async def tunnels_slowly(number: int, reply: Reply) -> None:
    """Be a SOCKS proxy that takes 3 s to let a connection through, and its target in one."""
    await reply.read(3)
    await anyio.sleep(3)
    await reply.raw(b"\5\0")
    await reply.read(10)
    await reply.raw(b"\5\0\0\1\0\0\0\0\0\0")


@pytest.mark.skipif(importlib.util.find_spec("socksio") is None, reason="needs the extra socks")
@pytest.mark.parametrize("backend", ["asyncio", trio_too])
def test_a_purchase_that_ctrl_c_strikes_before_it_was_sent_is_not_sent_any_more(backend: str) -> None:
    till = Till()
    struck(backend, 1, till, CALLS["Client.create_order, immediate"].call, on_connect=tunnels_slowly)
    assert till.charged == []


@pytest.mark.skipif(importlib.util.find_spec("socksio") is None, reason="needs the extra socks")
async def test_a_call_cancelled_as_a_proxy_lets_it_through_leaves_no_connection() -> None:
    gc.disable()  # which would close what was forgotten
    try:
        async with serve(Till(), on_connect=tunnels_slowly) as server:
            proxy = f"socks5://{server.url.removeprefix('http://')}"
            async with Client(base_url=server.url, api_key=KEY, trust_env=False, proxy=proxy) as client:
                with anyio.move_on_after(1):
                    await client.get_balance()
            await anyio.sleep(1)
            left = server.connections_open
    finally:
        gc.enable()
    assert left == 0


@pytest.mark.measured("on both loops")
@pytest.mark.parametrize("backend", ["asyncio", trio_too])
def test_a_purchase_goes_on_for_ten_seconds_after_ctrl_c(backend: str) -> None:
    ending, _ = struck(backend, 1, hangs, CALLS["Client.create_order, immediate"].call, timeout=60)
    assert ending.after == pytest.approx(10)


@pytest.mark.parametrize("backend", ["asyncio", trio_too])
def test_an_order_in_the_part_of_a_reply_that_came_after_ctrl_c_is_told(backend: str) -> None:
    till = Till()

    async def cuts(request: SeenRequest, reply: Reply) -> None:
        data = till.charge()
        await anyio.sleep(2)
        await reply.cut(data, len(data) - 2)

    _, client = struck(backend, 1, cuts, CALLS["Client.create_order, immediate"].call)
    assert [order.id for order in client.orphaned_orders] == till.charged


@pytest.mark.parametrize("backend", ["asyncio", trio_too])
def test_the_last_steps_go_on_for_ten_seconds_after_ctrl_c(backend: str) -> None:
    async def answers_once(request: SeenRequest, reply: Reply) -> None:
        await (reply.json({"status": "OK", "paid": True}) if request.at < 5 else reply.hang())

    async def wait(client: Client) -> str:
        return await OrderWatcher(client, ORDER, hold_window=5, poll_interval=100).code()

    ending, _ = struck(backend, 6, answers_once, wait, timeout=60)
    assert ending.after <= 10.1


# --- several at once -----------------------------------------------------------------------------------------------------------------


async def crowded(client: Client) -> int:
    """Behind two calls and before one."""
    async with anyio.create_task_group() as group:
        for _ in range(MOST + 1):
            group.start_soon(client.get_balance)
    return await client.get_balance()


@pytest.mark.measured("on both loops")
async def test_a_call_cancelled_as_it_waits_for_a_lane_leaves_the_line_in_order() -> None:
    attempt = partial(try_once, Swept(crowded))
    for way in ways():
        assert await sweep(attempt, way) > 3
    for way in ways_by_turns():
        assert await sweep(attempt, way, step=3) > 3


async def wait_beside_another(first: bool, shared: bool, way: Way[Any], k: int) -> Ending[Any]:
    """Cancel a wait for a code while another task waits for the same one, on the same watcher or on one of its own."""
    where = f"{way.__name__} at {k}"
    codes: list[str] = []
    till = Till(delay=DELAY)
    with no_task_left():
        async with serve(till) as server:
            client = Client(base_url=server.url, api_key=KEY, max_connections=MOST, trust_env=False)
            watcher = OrderWatcher(client, ORDER)
            another = watcher if shared else OrderWatcher(client, ORDER)

            async def wait() -> None:
                await anyio.sleep(DELAY / 10 if first else 0)
                codes.append(await another.code())

            with anyio.fail_after(1000):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    if not first:
                        await anyio.sleep(DELAY / 10)
                    ending = await way(watcher.code, k)
            over = anyio.current_time()
            saw_its_own(ending, where)
            assert ending.after <= 0.001, f"{where}: it took {ending.after} s"
            assert codes == [CODE], where
            assert await watcher.code() == CODE, where  # it is still of use
            await anyio.sleep(LULL)
            assert not shared or [request.target for request in server.requests if request.at > over] == [], where
            await all_lanes_work(client, server, where)
            await closes_all(client, server, where)
    return ending


in_either_order = pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
on_one_or_two = pytest.mark.parametrize("shared", [True, False], ids=["of one watcher", "of two"])


@in_either_order
@on_one_or_two
async def test_a_wait_cancelled_beside_another_leaves_that_its_code(first: bool, shared: bool) -> None:
    await leaves_nothing(partial(wait_beside_another, first, shared), [way for way in ways() if way is not by_two_native_cancels], 2)


@backends
@in_either_order
@on_one_or_two
def test_a_wait_struck_by_ctrl_c_beside_another_leaves_that_its_code(backend: str, first: bool, shared: bool) -> None:
    assert sweep_by_ctrl_c(partial(wait_beside_another, first, shared), backend) >= 3


async def test_a_wait_that_is_cancelled_and_taken_up_again_polls_no_more_often() -> None:
    async with serve(Till(delay=DELAY)) as server:
        client = Client(base_url=server.url, trust_env=False)
        watcher = OrderWatcher(client, SILENT)
        for _ in range(20):
            with anyio.move_on_after(DELAY * 0.8):
                await watcher.code()
        await closes_all(client, server, "")
        moments = [request.at for request in server.requests]
    assert len(moments) > 1
    assert min(later - earlier for earlier, later in pairwise(moments)) >= 1


@pytest.mark.parametrize("name", ["Client.get_order_status", "Client.create_order, immediate", "OrderWatcher.code", "Client.aclose"])
async def test_a_client_closed_in_any_turn_of_a_call_leaves_no_connection(name: str) -> None:
    for warm in (False, True):
        n = 0
        while n < MOST_TURNS and await closed_in_turn(CALLS[name].call, n, warm=warm):
            n += 1
        assert n > 5


async def closed_in_turn(call: Call, n: int, *, warm: bool) -> bool:
    """Close the client after n turns of a call; return False when the call was over by then."""
    told: list[str] = []
    till = Till()
    ended: list[object] = []
    async with serve(till) as server:
        client = Client(
            api_key=KEY, base_url=server.url, max_connections=MOST, trust_env=False, on_order=lambda order: told.append(order.id)
        )
        if warm:
            await client.get_balance()

        async def run() -> None:
            try:
                ended.append(await call(client))
            except Exception as error:  # noqa: BLE001 - judged below
                ended.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            for _ in range(n):
                await anyio.lowlevel.checkpoint()
            over = bool(ended)
            await client.aclose()
            sent = len(server.requests)
        await anyio.sleep(1)
        assert server.connections_open == 0, f"closed in turn {n}, {warm=}: {server.connections_open} connections are left"
        assert len(server.requests) == sent, f"closed in turn {n}, {warm=}: {server.requests[-1].target} was sent after aclose() returned"
        assert not any(isinstance(one, BaseExceptionGroup) for one in ended)
        assert set(till.charged) <= set(told)
    return not over


@pytest.mark.parametrize("first", [True, False])
@asyncio_only
async def test_a_native_cancel_at_the_very_moment_of_a_timeout_is_not_swallowed(first: bool) -> None:
    import asyncio

    async with serve(hangs) as server:
        client = Client(base_url=server.url, timeout=2, attempts=1, trust_env=False)
        loop = asyncio.get_running_loop()
        holder: list[asyncio.Task[Any]] = []
        moment = loop.time() + 2
        # Of two timers of one moment the older goes first: ours before the time-out's, or after it.
        plan: list[tuple[float, Any]] = [(moment, lambda: holder[0].cancel()), (moment - 1, lambda: loop.call_at(moment, holder[0].cancel))]  # noqa: PLW0108
        loop.call_at(*plan[0 if first else 1])
        holder.append(asyncio.ensure_future(client.get_order_status(ORDER)))
        await asyncio.wait(holder)
        assert holder[0].cancelled() or loop.time() < moment
        await client.aclose()


@asyncio_only
async def test_nested_asyncio_timeouts_each_see_their_own() -> None:
    import asyncio

    till = Till(delay=5)
    async with serve(till) as server, Client(api_key=KEY, base_url=server.url, trust_env=False) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.create_order(187, "tg", immediate=True)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        inner_ended = False
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                try:
                    async with asyncio.timeout(1):
                        await client.create_order(187, "tg", immediate=True)
                except TimeoutError:  # pragma: no cover - both had passed: it is the outer one's
                    inner_ended = True
        assert (task.cancelling(), inner_ended) == (0, False)
        assert [order.id for order in client.orphaned_orders] == till.charged
        assert len(till.charged) == 2
