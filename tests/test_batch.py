"""Thousands of orders at once, by the rules of the single watcher, in virtual time on both backends; and no way to lose one of them."""

import asyncio
import itertools
import json
import logging
import pickle
import random
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sms4sats_async import (
    APIError,
    BatchWatcher,
    CancelRefused,
    Client,
    Order,
    OrderCancelled,
    OrderExpired,
    OrderFailed,
    OrderKind,
    OrderStatus,
    OrderUnresolved,
    OrderWatcher,
    Outcome,
    RateLimited,
    SendFailed,
    Sms4SatsError,
    SmsStatus,
    TransportError,
)
from sms4sats_async.agenda import MARGIN, SLACK
from sms4sats_async.sandbox import Sandbox, SandboxOrder, Timeline
from tests.conftest import HAS_TRIO
from tests.servers import Reply, SeenRequest, serve
from tests.suspension import Ending, Till, Way, asyncio_only, by_scope, tasks_alive, ways, ways_by_turns
from tests.test_agenda import most_in_a_second
from tests.test_cancellation import MOST, all_lanes_work, closes_all
from tests.test_watcher import CODED, NO_NUMBER, NUMBERED, ORDER_ID, PAID, TOO_EARLY, Failing, Service, Timed, gaps
from tests.virtual_time import VirtualTimeLoop, in_virtual_time

OK: dict[str, Any] = {"status": "OK"}
CODE_HAS_COME = {"status": "error", "reason": "unable to save data"}
Answer = dict[str, Any] | httpx.Response | BaseException


class Interrupted(BaseException):
    """What ``KeyboardInterrupt`` is to a library: no ``Exception``."""


@dataclass(frozen=True)
class Asked:
    """A request for a look or a cancel, and when it came, in seconds from the start."""

    at: float
    path: str
    order_id: str


class Shop(Timed, httpx.AsyncBaseTransport):
    """Many orders of the service, in the loop's own time.

    Attributes:
        look, cancel: what a request about this order is answered with, so many seconds after the start.
        takes: how many seconds an answer takes.
        asked: every request.
        most: how many requests were under way at once, at the most.
        overlaps: the orders that ever had two requests under way at once.
    """

    def __init__(
        self,
        look: dict[float, dict[str, Any]] | Callable[[str, float], Answer],
        cancel: Answer | Callable[[str, float], Answer] = OK,
        *,
        takes: float | Callable[[str], float] = 0.01,
    ) -> None:
        self.look = look if callable(look) else course(look)
        self.cancel = cancel if callable(cancel) else lambda order_id, now: cancel
        self.takes = takes
        self.asked: list[Asked] = []
        self.most = 0
        self.overlaps: set[str] = set()
        self._under_way: Counter[str] = Counter()

    @property
    def looks(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == "/orderstatus"]

    @property
    def cancels(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == "/cancelorder"]

    def since(self, moment: float) -> list[Asked]:
        return [asked for asked in self.asked if asked.at >= moment]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path, order_id = request.url.path, request.url.params["orderId"]
        self.asked.append(Asked(self.now, path, order_id))
        self._under_way[order_id] += 1
        self.most = max(self.most, self._under_way.total())
        self.overlaps.update([order_id] * (self._under_way[order_id] - 1))
        try:
            seconds = self.takes(order_id) if callable(self.takes) else self.takes
            if seconds:
                await anyio.sleep(seconds)
        finally:
            self._under_way[order_id] -= 1
        answer = (self.look if path == "/orderstatus" else self.cancel)(order_id, self.now)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(500 if "reason" in answer else 200, json=OK | answer)


def course(at: dict[float, dict[str, Any]]) -> Callable[[str, float], Answer]:
    """What a status says from so many seconds on, for every order."""

    def look(order_id: str, now: float) -> Answer:
        return {"paid": False} | [status for due, status in at.items() if due <= now][-1]

    return look


def ids(count: int) -> list[str]:
    return [f"{number:06}-b7a1c9f0e2d4" for number in range(count)]


def number_of(order_id: str) -> int:
    return int(order_id[:6])


def code_of(order_id: str) -> str:
    return f"code-{order_id[:6]}"


def somewhere(order_id: str, least: float, most: float) -> float:
    """A number between these, the order's own."""
    return least + (most - least) * (zlib.crc32(order_id.encode()) % 10_007) / 10_007


def coded(order_id: str) -> dict[str, Any]:
    return NUMBERED | {"code": code_of(order_id)}


def too_many(retry_after: str | None = None) -> httpx.Response:
    return httpx.Response(429, headers={} if retry_after is None else {"retry-after": retry_after})


@asynccontextmanager
async def batching(shop: Shop | Service, orders: Any, *, connections: int = 20, **options: Any) -> AsyncIterator[BatchWatcher]:
    """A batch that is yet to be entered. Whatever becomes of it, it leaves no task."""
    tasks = tasks_alive()
    async with Client(transport=shop, max_connections=connections) as client:
        assert shop.now == 0
        with anyio.fail_after(1e6):  # what never ends fails
            yield BatchWatcher(client, orders, **options)
    assert tasks_alive() == tasks
    if isinstance(shop, Shop):
        assert shop.overlaps == set()
        assert shop.most <= connections


async def run(shop: Shop | Service, orders: Any, *, connections: int = 20, **options: Any) -> list[Outcome]:
    """Watch all these orders to their ends."""
    async with batching(shop, orders, connections=connections, **options) as batch, batch:
        outcomes = [outcome async for outcome in batch]
        assert batch.watching == 0
    assert batch.unread == []
    return outcomes


async def one(shop: Shop | Service, order: Order | str, **options: Any) -> Outcome:
    """Watch one order to its end."""
    [outcome] = await run(shop, [order], **options)
    return outcome


def by_id(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    """The outcomes by order; there is one for each."""
    outcomes = list(outcomes)
    found = {outcome.order.id: outcome for outcome in outcomes}
    assert len(found) == len(outcomes)
    return found


def ends_of(outcomes: Iterable[Outcome]) -> Counter[type[Sms4SatsError] | None]:
    return Counter(None if outcome.error is None else type(outcome.error) for outcome in outcomes)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class Counting:
    """Orders without end, one after the other, that counts how many were taken."""

    def __init__(self, orders: Iterable[Any]) -> None:
        self._orders = iter(orders)
        self.pulled: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.pulled.append(next(self._orders))
        return self.pulled[-1]


def endless() -> Iterator[str]:
    return (f"{number:06}-b7a1c9f0e2d4" for number in itertools.count())


# --- every kind of end ---------------------------------------------------------------------------------------------------------------


async def test_a_code_is_an_outcome_without_an_error() -> None:
    shop = Shop({0: {}, 10: PAID, 20: NUMBERED, 50: CODED})
    outcome = await one(shop, ORDER_ID)
    assert 50 <= shop.now <= 53.5
    assert (outcome.order.id, outcome.code, outcome.error) == (ORDER_ID, "004217", None)
    assert outcome.status is not None
    assert (outcome.status.number, outcome.status.code, outcome.status.paid) == ("+12025550143", "004217", True)


async def test_the_order_of_an_outcome_is_the_one_that_was_given() -> None:
    order = Order(ORDER_ID, payreq="lnbc1", amount_sats=7)
    assert (await one(Shop({0: CODED}), order)).order is order


async def test_an_order_that_the_server_ended_is_order_failed() -> None:
    outcome = await one(Shop({0: {}, 10: NO_NUMBER}), ORDER_ID)
    assert isinstance(outcome.error, OrderFailed)
    assert (outcome.code, outcome.error.reason, outcome.error.order_id) == (None, NO_NUMBER["error"], ORDER_ID)
    assert outcome.error.status == outcome.status


async def test_a_window_that_ends_is_order_expired_and_says_whether_the_cancel_was_confirmed() -> None:
    for answer, cancelled, reason in ((OK, True, None), (TOO_EARLY, False, TOO_EARLY["reason"])):
        for paid in (False, True):
            outcome = await one(Shop({0: {"paid": paid}}, answer), ORDER_ID, hold_window=60, payment_window=60)
            assert isinstance(outcome.error, OrderExpired)
            assert (outcome.error.paid, outcome.error.cancelled, outcome.error.reason) == (paid, cancelled, reason)
            assert outcome.code is None


async def test_a_service_that_is_down_at_the_end_is_order_unresolved_with_its_cause() -> None:
    outcome = await one(Shop(lambda order_id, now: PAID if now < 30 else httpx.ReadError("reset")), ORDER_ID, hold_window=60)
    assert isinstance(outcome.error, OrderUnresolved)
    assert isinstance(outcome.error.__cause__, TransportError)
    assert outcome.status is not None


async def test_an_id_that_the_service_does_not_know_is_its_api_error() -> None:
    shop = Shop(lambda order_id, now: httpx.Response(404, json={"status": "error", "reason": "order not found"}))
    outcome = await one(shop, ORDER_ID)
    assert type(outcome.error) is APIError
    assert (outcome.error.reason, outcome.error.order_id, outcome.status) == ("order not found", ORDER_ID, None)
    assert shop.cancels == []


@pytest.mark.parametrize("last", ["sent", "delivered", "failed"])
async def test_a_send_order_ends_as_its_sms_does(last: str) -> None:
    shop = Shop({0: {}, 5: PAID | {"smsStatus": "created"}, 20: PAID | {"smsStatus": last}})
    outcome = await one(shop, Order(ORDER_ID, OrderKind.send))
    assert outcome.status is not None
    assert outcome.status.sms_status is SmsStatus(last)
    assert outcome.code is None
    assert type(outcome.error) is (SendFailed if last == "failed" else type(None))


async def test_a_fund_order_ends_when_it_is_paid_or_expires() -> None:
    outcome = await one(Shop({0: {}, 30: PAID}), ORDER_ID, kind="fund")
    assert (outcome.error, outcome.code) == (None, None)
    shop = Shop({0: {}})
    outcome = await one(shop, ORDER_ID, kind=OrderKind.fund)
    assert isinstance(outcome.error, OrderExpired)
    assert shop.cancels == []


async def test_a_rental_has_an_outcome_for_each_new_code_and_its_end() -> None:
    shop = Shop({0: PAID, 10: NUMBERED, 50: CODED, 5000: NUMBERED, 9000: NUMBERED | {"code": "22"}, 12_000: NUMBERED | {"error": "over"}})
    outcomes = await run(shop, [Order(ORDER_ID, OrderKind.rental)], poll_interval=15)
    assert [outcome.code for outcome in outcomes] == ["004217", "22", None]
    assert [type(outcome.error) for outcome in outcomes] == [type(None), type(None), OrderFailed]
    assert {outcome.order.id for outcome in outcomes} == {ORDER_ID}
    assert shop.cancels == []


async def test_a_rental_is_watched_until_the_block_is_left_and_is_not_cancelled() -> None:
    shop = Shop({0: PAID, 50: CODED})
    async with batching(shop, [Order(ORDER_ID, OrderKind.rental)], poll_interval=15) as batch:
        async with batch:
            assert (await anext(batch)).code == "004217"
            await anyio.sleep(10_000)
        [left] = batch.unread
    assert isinstance(left.error, OrderUnresolved)
    assert (left.code, shop.cancels) == (None, [])
    assert left.status is not None
    assert left.status.code == "004217"


async def test_all_kinds_of_ends_come_together_and_none_disturbs_another() -> None:
    async def endings() -> dict[str, str]:
        sandbox = Sandbox(accounts={"key": 1e9})
        async with Client(api_key="key", transport=sandbox.transport()) as client:
            orders = [await client.create_order(187, "tg", immediate=True) for _ in range(3)]
            unpaid = await client.create_order(187, "tg")
            fund = await client.fund(100)
            sends = [await client.create_send_order("+12025550143", "hello", immediate=True) for _ in range(2)]
            sandbox.pay(fund.id)
            sandbox.deliver(orders[0].id, "123456")
            sandbox.fail(orders[1].id)
            sandbox.report(sends[0].id, "sent")
            sandbox.report(sends[1].id, "failed")
            everything = [*orders, unpaid, fund, *sends]
            names = dict(
                zip([order.id for order in everything], ["code", "failed", "none", "unpaid", "fund", "sent", "unsent"], strict=True)
            )
            async with BatchWatcher(client, everything) as batch:
                return {names[outcome.order.id]: type(outcome.error).__name__ async for outcome in batch}

    assert await endings() == {
        "code": "NoneType",
        "failed": "OrderFailed",
        "fund": "NoneType",
        "sent": "NoneType",
        "unsent": "SendFailed",
        "none": "OrderFailed",  # the service itself ends it at 21 minutes
        "unpaid": "OrderExpired",
    }


@pytest.mark.unmeasured
async def test_the_outcomes_come_in_the_order_in_which_the_orders_end() -> None:
    lasts = {order_id: somewhere(order_id, 10, 300) for order_id in ids(40)}
    shop = Shop(lambda order_id, now: coded(order_id) if now >= lasts[order_id] else PAID)
    ended: list[float] = []
    async with batching(shop, ids(40), poll_interval=3) as batch, batch:
        async for outcome in batch:
            assert outcome.code == code_of(outcome.order.id)
            ended.append(lasts[outcome.order.id])
            assert 0 <= shop.now - ended[-1] <= 3.5  # as soon as it has ended
    assert len(ended) == 40
    assert all(before <= after + 3.5 for before, after in itertools.pairwise(ended))


async def test_an_order_that_cannot_be_asked_for_is_unresolved_and_disturbs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    bad = "\ud800-half-a-character"
    found = by_id(await run(Shop(lambda order_id, now: coded(order_id)), [bad, *ids(2)]))
    unresolved = found[bad].error
    assert isinstance(unresolved, OrderUnresolved)
    assert isinstance(unresolved.__cause__, ValueError)
    assert [found[order_id].code for order_id in ids(2)] == [code_of(order_id) for order_id in ids(2)]
    assert "cannot be watched" in caplog.text
    assert bad not in caplog.text


def test_an_outcome_is_pickled_with_all_that_it_tells() -> None:
    order = Order(ORDER_ID)
    status = OrderStatus(ORDER_ID, paid=True, number="+12025550143", code="004217")
    assert pickle.loads(pickle.dumps(Outcome(order, "004217", status))) == Outcome(order, "004217", status)  # noqa: S301
    error = OrderExpired("over", order_id=ORDER_ID, status=status, paid=True, cancelled=False, reason="words")
    copied: Outcome = pickle.loads(pickle.dumps(Outcome(order, None, status, error)))  # noqa: S301
    assert (copied.order, copied.status) == (order, status)
    assert isinstance(copied.error, OrderExpired)
    assert (copied.error.order_id, copied.error.cancelled, copied.error.reason) == (ORDER_ID, False, "words")


# --- the same timing as the single watcher's -----------------------------------------------------------------------------------------

COURSES: dict[str, tuple[Callable[[], Service], dict[str, Any]]] = {
    "a code": (lambda: Service({0: {}, 10: PAID, 20: NUMBERED, 50: CODED}), {}),
    "no payment": (lambda: Service({0: {}}), {}),
    "no code": (lambda: Service({0: {}, 600: PAID}), {}),
    "no number": (lambda: Service({0: PAID, 1200: NO_NUMBER}), {}),
    "a code in the last second": (lambda: Service({0: PAID, 1259.999: CODED}), {}),
    "a code after the cancel": (lambda: Service({0: PAID, 1260.7: CODED}, takes=0.3), {"poll_interval": 1000}),
    "an error after the cancel": (lambda: Service({0: PAID, 1260.7: NO_NUMBER}, takes=0.3), {"poll_interval": 1000}),
    "a payment in the last second": (lambda: Service({0: {}, 99.5: PAID, 200: CODED}), {"payment_window": 100, "poll_interval": 60}),
    "an outage in the middle": (lambda: Service({0: PAID, 700: CODED}, down=(100, 900)), {}),
    "an outage across the end": (lambda: Service({0: PAID, 1250: CODED}, down=(1240, 1275)), {}),
    "an outage without end": (lambda: Service({0: PAID}, down=(1240, 9999)), {}),
    "an outage from the start": (lambda: Service({0: PAID}, down=(-1, 9999)), {"payment_window": 100}),
    "a cancel refused": (lambda: Service({0: PAID}, [TOO_EARLY]), {"hold_window": 60}),
    "a cancel lost": (lambda: Service({0: PAID}, [httpx.ReadTimeout("lost")]), {}),
    "a cancel lost once": (lambda: Service({0: PAID}, [httpx.ReadTimeout("lost"), OK]), {}),
    "a slow service": (lambda: Service({0: PAID}, takes=3), {"poll_interval": 5}),
    "a service that hangs": (lambda: Service({0: PAID}, takes=100), {"payment_window": 60}),
    "refusals": (lambda: Failing(httpx.Response(404, json={"status": "error", "reason": "no such order"}), 9999, CODED), {}),
    "error pages": (lambda: Failing(httpx.Response(502, text="<html>"), 500, CODED), {}),
    "an sms": (lambda: Service({0: PAID | {"smsStatus": "created"}, 40: PAID | {"smsStatus": "sent"}}), {"kind": "send"}),
    "an sms that is not sent": (lambda: Service({0: PAID | {"smsStatus": "created"}}, down=(1250, 1262)), {"kind": "send"}),
    "an id that turns out to send": (lambda: Service({0: PAID | {"smsStatus": "created"}, 40: PAID | {"smsStatus": "sent"}}), {}),
}


async def end_of_single(service: Service, **options: Any) -> Outcome:
    """What the single watcher makes of it."""
    async with Client(transport=service) as client:
        assert service.now == 0
        watcher = OrderWatcher(client, ORDER_ID, **options)
        error: Sms4SatsError | None = None
        try:
            async for _ in watcher:
                pass
        except Sms4SatsError as ended:
            error = ended
    return Outcome(watcher.order, None if watcher.status is None else watcher.status.code, watcher.status, error)


@pytest.mark.parametrize("name", COURSES)
async def test_a_batch_of_one_asks_the_same_at_the_same_times_and_ends_the_same_as_a_watcher(name: str) -> None:
    make, options = COURSES[name]
    for seed in range(2):
        random.seed(seed)
        single = make()
        wanted, took = await end_of_single(single, **options), single.now
        random.seed(seed)
        service = make()
        outcome = await one(service, ORDER_ID, **options)
        assert service.calls == single.calls
        assert service.asked == pytest.approx(single.asked, abs=1e-5)
        assert service.cancelled == pytest.approx(single.cancelled, abs=1e-5)
        assert service.now == pytest.approx(took, abs=1e-5)
        assert (outcome.code, outcome.status) == (wanted.code, wanted.status)
        assert (type(outcome.error), str(outcome.error)) == (type(wanted.error), str(wanted.error))
        assert type(getattr(outcome.error, "__cause__", None)) is type(getattr(wanted.error, "__cause__", None))


@pytest.mark.unmeasured
async def test_orders_in_a_crowd_keep_their_windows() -> None:
    shop = Shop({0: PAID})
    outcomes = await run(shop, ids(200), connections=10, poll_interval=200)
    assert ends_of(outcomes) == {OrderExpired: 200}
    assert all(isinstance(outcome.error, OrderExpired) and outcome.error.cancelled for outcome in outcomes)
    assert all(1260 <= asked.at <= 1262 for asked in shop.cancels)
    assert len(shop.cancels) == 200
    for order_id in ids(200):
        calls = [asked.path for asked in shop.asked if asked.order_id == order_id]
        assert calls[-3:] == ["/orderstatus", "/cancelorder", "/orderstatus"]


async def test_looks_of_one_order_are_a_second_apart_however_many_want_to_be_looked_at() -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(50), connections=5, poll_interval=0.001) as batch, batch:
        await anyio.sleep(20)
        for order_id in ids(50):
            between = gaps([asked.at for asked in shop.looks if asked.order_id == order_id])
            assert min(between) >= 1
            assert max(between) <= 1.5


async def test_an_interval_is_spread_by_a_tenth() -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(10), poll_interval=10) as batch, batch:
        await anyio.sleep(500)
    between = [
        gap for order_id in ids(10) for gap in gaps([asked.at for asked in shop.looks if asked.order_id == order_id and asked.at < 500])
    ]
    assert all(8.99 <= gap <= 11.02 for gap in between)
    assert len(set(between)) > 100


async def test_a_pace_that_fails_costs_nothing() -> None:
    def broken(status: OrderStatus, seconds_waited: float) -> float:
        raise LookupError("a bug")

    shop = Shop(lambda order_id, now: coded(order_id) if now > 50 else PAID)
    found = by_id(await run(shop, ids(5), poll_interval=broken))
    assert all(found[order_id].code == code_of(order_id) for order_id in ids(5))


# --- as many at once as there are connections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 3, 20])
async def test_as_many_requests_are_under_way_as_there_are_connections_and_no_more(connections: int) -> None:
    shop = Shop(lambda order_id, now: coded(order_id), takes=1)
    outcomes = await run(shop, ids(60), connections=connections)
    assert len(by_id(outcomes)) == 60
    assert shop.most == connections
    assert shop.now == pytest.approx(60 / connections)


async def test_leaving_cancels_as_many_at_once_as_there_are_connections() -> None:
    shop = Shop({0: PAID}, takes=1)
    async with batching(shop, ids(60), connections=20, poll_interval=500) as batch:
        async with batch:
            await anyio.sleep(200)
            shop.most = 0
        assert shop.now == 200 + 3 + 3
        assert shop.most == 20
    assert ends_of(batch.unread) == {OrderCancelled: 60}


@pytest.mark.unmeasured
async def test_thousands_of_orders_go_over_a_few_connections_and_each_has_its_own_code() -> None:
    lasts = {order_id: somewhere(order_id, 5, 300) for order_id in ids(1000)}
    shop = Shop(lambda order_id, now: coded(order_id) if now >= lasts[order_id] else PAID, takes=0.002)
    found = by_id(await run(shop, ids(1000), connections=4, poll_interval=100))
    assert {order_id: outcome.code for order_id, outcome in found.items()} == {order_id: code_of(order_id) for order_id in ids(1000)}


async def test_the_service_over_real_sockets_sees_no_more_connections_than_allowed_and_none_afterwards() -> None:
    under_way = Counter[str]()

    async def service(request: SeenRequest, reply: Reply) -> None:
        order_id = request.target.rpartition("=")[2]
        under_way[order_id] += 1
        assert under_way[order_id] == 1
        await anyio.sleep(0.5)
        under_way[order_id] -= 1
        await reply.json(OK | (coded(order_id) if request.at > 20 else PAID))

    async with serve(service) as server:
        async with Client(base_url=server.url, trust_env=False, max_connections=3) as client, BatchWatcher(client, ids(9)) as batch:
            found = by_id([outcome async for outcome in batch])
        await anyio.sleep(1)
        assert (server.connections_opened, server.connections_open) == (3, 0)
    assert {outcome.code for outcome in found.values()} == {code_of(order_id) for order_id in ids(9)}


async def test_a_transport_that_never_waits_leaves_the_others_their_turns() -> None:
    """A test's service in memory answers without a wait; the reader must not wait until there is nothing left to ask."""

    def look(order_id: str, now: float) -> Answer:
        return PAID if now < 5 else too_many("20") if now < 10 else coded(order_id)  # all are overdue when they may be asked for again

    shop = Shop(look, takes=0)
    asked_at_first: int | None = None
    async with batching(shop, ids(100), connections=1, poll_interval=7) as batch, batch:
        async for _ in batch:
            asked_at_first = asked_at_first or len(shop.since(20))
    assert asked_at_first is not None
    assert asked_at_first <= 10


# --- so many in a second, and no more ------------------------------------------------------------------------------------------------


def evenly(times: list[float], rate: float) -> bool:
    return all(gap <= 1.1 / rate + 0.05 for gap in gaps(times))


@pytest.mark.unmeasured
async def test_thousands_of_polls_wake_the_loop_fifty_times_in_a_second_at_the_most() -> None:
    shop = Shop({0: PAID}, takes=0)
    async with batching(shop, ids(1000), poll_interval=10) as batch, batch:
        await anyio.sleep(60)
    polls = [asked.at for asked in shop.looks if 40 <= asked.at < 60]
    assert len(polls) > 1_800  # 100 in a second, spread by chance
    assert most_in_a_second(sorted(set(polls))) <= 51


@pytest.mark.parametrize("rate", [1, 10, 50])
async def test_the_rate_is_kept_at_the_server_and_evenly_spread(rate: int) -> None:
    shop = Shop({0: PAID}, takes=0.3)
    async with batching(shop, ids(200), connections=40, poll_interval=1, max_rate=rate) as batch, batch:
        await anyio.sleep(30)
        times = [asked.at for asked in shop.asked]
        assert most_in_a_second(times) <= rate
        assert len(times) >= 30 * rate / (1 + SLACK + MARGIN) - 2
        assert evenly(times, rate)
    assert most_in_a_second([asked.at for asked in shop.asked]) <= rate
    assert len({asked.order_id for asked in shop.cancels}) == 200


@pytest.mark.parametrize("late", [True, False])
async def test_the_rate_is_kept_over_real_sockets_that_the_server_closes_each_time(late: bool) -> None:
    async def service(request: SeenRequest, reply: Reply) -> None:
        await reply.json(OK | PAID)

    async with serve(service, close_late=late, close_idle=not late) as server:
        async with Client(base_url=server.url, trust_env=False, max_connections=5) as client:
            async with BatchWatcher(client, ids(30), poll_interval=1, max_rate=10) as batch:
                await anyio.sleep(30)
            assert len(by_id(batch.unread)) == 30
        assert most_in_a_second([request.at for request in server.requests]) <= 10
        assert server.connections_opened > 50
        assert any("cancel" in request.target for request in server.requests)


async def test_a_request_that_meets_a_closed_connection_counts_as_one_of_the_rate() -> None:
    carried: Counter[int] = Counter()

    async def every_second_one_is_lost(request: SeenRequest, reply: Reply) -> None:
        carried[request.connection] += 1
        await (reply.json(OK | PAID) if carried[request.connection] == 1 else reply.close())

    async with serve(every_second_one_is_lost) as server:
        async with Client(base_url=server.url, trust_env=False, max_connections=2) as client:
            async with BatchWatcher(client, ids(9), poll_interval=1, max_rate=5) as batch:
                await anyio.sleep(40)
                assert len(server.requests) >= 0.9 * 40 * 5
            assert set(ends_of(batch.unread)) <= {OrderCancelled, CancelRefused}
        assert most_in_a_second([request.at for request in server.requests]) <= 5


async def test_without_a_rate_a_look_that_meets_a_closed_connection_is_made_again_at_once() -> None:
    async def service(request: SeenRequest, reply: Reply) -> None:
        await reply.json(OK | PAID)

    async with serve(service, close_late=True) as server:
        async with Client(base_url=server.url, trust_env=False, max_connections=2) as client:
            async with BatchWatcher(client, ids(2), poll_interval=10) as batch:
                await anyio.sleep(95)
                start = server.requests[0].at
            assert ends_of(batch.unread) == {OrderCancelled: 2}
        looks = [request.at - start for request in server.requests if request.at - start < 95 and "status" in request.target]
        assert 18 <= len(looks) <= 22


async def test_a_rate_below_one_in_ten_seconds_does_not_make_leaving_give_up() -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(4), max_rate=0.05) as batch:
        async with batch:
            await anyio.sleep(300)
        assert ends_of(batch.unread) == {OrderCancelled: 4}
    assert min(gaps([asked.at for asked in shop.asked])) >= 20


# --- too many requests ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "least", "most"), [("20", 20, 22), ("600", 60, 66), (None, 1, 1.1), ("0", 0, 1.1), ("nonsense", 1, 1.1)])
async def test_too_many_requests_slows_all_orders_for_as_long_as_the_service_asks(said: str | None, least: float, most: float) -> None:
    refusals: list[float] = []

    def look(order_id: str, now: float) -> Answer:
        if 30 <= now < 30.5:
            refusals.append(now)
            return too_many(said)
        return coded(order_id) if now > 70 else PAID

    shop = Shop(look)
    outcomes = await run(shop, ids(20), connections=2, poll_interval=2)
    assert len(by_id(outcomes)) == 20
    assert ends_of(outcomes) == {None: 20}
    [quiet] = [(before.at, after.at) for before, after in itertools.pairwise(shop.asked) if before.at <= refusals[-1] <= after.at]
    if least:
        assert len(refusals) <= 2  # what was under way when the first was answered
    assert least <= quiet[1] - refusals[-1] <= most + 0.05


async def test_too_many_requests_goes_on_with_the_last_steps_that_are_under_way() -> None:
    first, second = ids(2)
    shop = Shop(lambda order_id, now: too_many("60") if order_id == second else PAID, takes=0.1)
    async with batching(shop, [first], hold_window=30, poll_interval=100) as batch, batch:
        await anyio.sleep(30.15)  # the payment was seen at 0.1, so the last look began at 30.1
        batch.add(second)
        outcome = await anext(batch)
        assert outcome.order.id == first
        assert isinstance(outcome.error, OrderExpired)
        assert outcome.error.cancelled
        assert shop.now == pytest.approx(30.4)
        await anyio.sleep(59)
        assert [asked.at for asked in shop.asked if asked.order_id == second] == [30.15]


async def test_too_many_requests_is_the_cause_of_an_end() -> None:
    outcome = await one(Shop(lambda order_id, now: too_many("5")), ORDER_ID, payment_window=50)
    assert isinstance(outcome.error, OrderUnresolved)
    assert isinstance(outcome.error.__cause__, RateLimited)


@pytest.mark.parametrize("seconds", [5, 20])
async def test_a_cancel_that_was_one_request_too_many_slows_all_orders_too(seconds: int) -> None:
    answers = [too_many(str(seconds))]
    shop = Shop({0: PAID}, lambda order_id, now: answers.pop() if answers else OK)
    async with batching(shop, ids(20), connections=1, poll_interval=50) as batch:
        async with batch:
            await anyio.sleep(200)
            before = shop.now
        assert ends_of(batch.unread) == {OrderCancelled: 20}
    times = [asked.at for asked in shop.since(before)]
    assert seconds <= gaps(times)[0] <= 1.1 * seconds + 0.1


# --- where the orders come from ------------------------------------------------------------------------------------------------------


async def test_a_slow_reader_holds_back_the_orders_and_never_the_polls() -> None:
    orders = Counting(endless())
    shop = Shop(lambda order_id, now: coded(order_id) if number_of(order_id) < 3 else PAID)
    async with batching(shop, orders, max_watching=5, poll_interval=10) as batch, batch:
        await anyio.sleep(1000)
        assert len(orders.pulled) == 5
        assert (batch.watching, len(batch.unread)) == (2, 3)
        assert min(Counter(asked.order_id for asked in shop.looks)[order_id] for order_id in ids(5)[3:]) > 80
        await anext(batch)
        await anyio.sleep(1)
        assert len(orders.pulled) == 6


async def test_orders_are_never_read_further_than_may_be_watched() -> None:
    orders = Counting(endless())
    lasts = {order_id: somewhere(order_id, 0, 30) for order_id in ids(400)}
    shop = Shop(lambda order_id, now: coded(order_id) if now % 40 >= lasts[order_id] else PAID)
    async with batching(shop, orders, max_watching=7) as batch, batch:
        for read in range(1, 301):
            await anext(batch)
            assert len(orders.pulled) - read <= 7
    assert len(by_id(batch.unread)) == len(orders.pulled) - 300


async def test_an_asynchronous_iterable_may_be_endless_and_is_closed_at_the_end() -> None:
    ended: list[str] = []

    async def orders() -> AsyncIterator[str]:
        try:
            rows = endless()
            while True:
                await anyio.sleep(0.5)
                yield next(rows)
        finally:
            ended.append("closed")

    shop = Shop(lambda order_id, now: coded(order_id))
    async with batching(shop, orders()) as batch, batch:
        outcomes = [await anext(batch) for _ in range(20)]
        assert [outcome.order.id for outcome in outcomes] == ids(20)
        assert ended == []
    assert ended == ["closed"]


async def test_an_asynchronous_generator_that_waits_for_room_is_closed_when_the_block_is_left() -> None:
    ended: list[str] = []

    async def orders() -> AsyncIterator[str]:
        try:
            while True:
                yield ORDER_ID
        finally:
            ended.append("closed")

    async with batching(Shop({0: PAID}), orders(), max_watching=1) as batch:
        async with batch:
            await anyio.sleep(5)
            assert (batch.watching, ended) == (1, [])
        assert ended == ["closed"]
    assert len(batch.unread) == 1


class Rows:
    """An asynchronous iterable that is no generator."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = iter(rows)

    def __aiter__(self) -> "Rows":
        return self

    async def __anext__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        for row in self._rows:
            return row
        raise StopAsyncIteration


@pytest.mark.parametrize("kind", ["list", "set", "keys", "generator", "iterator", "asynchronous", "none"])
async def test_orders_can_be_any_iterable(kind: str) -> None:
    orders: Any = {
        "list": ids(5),
        "set": set(ids(5)),
        "keys": dict.fromkeys(ids(5)),
        "generator": (order_id for order_id in ids(5)),
        "iterator": iter(ids(5)),
        "asynchronous": Rows(ids(5)),
        "none": [],
    }[kind]
    found = by_id(await run(Shop(lambda order_id, now: coded(order_id)), orders))
    assert sorted(found) == ([] if kind == "none" else ids(5))


async def test_an_order_that_is_watched_already_is_not_taken_twice_but_one_that_has_ended_is() -> None:
    shop = Shop(lambda order_id, now: coded(order_id))
    async with batching(shop, [*ids(3), *ids(3), Order(ids(1)[0])]) as batch, batch:
        assert len(by_id([outcome async for outcome in batch])) == 3
        assert len(shop.asked) == 3
        batch.add(ids(1)[0])
        batch.add(ids(1)[0])
        assert [outcome.code async for outcome in batch] == [code_of(ids(1)[0])]
    assert len(shop.asked) == 4


BAD: dict[str, tuple[Any, type[Exception]]] = {
    "none": (None, TypeError),
    "a number": (17, TypeError),
    "empty": ("", ValueError),
    "bytes": (b"order", TypeError),
    "another kind": (Order(ORDER_ID, OrderKind.rental), ValueError),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_order_is_raised_when_all_the_rest_has_ended(name: str, caplog: pytest.LogCaptureFixture) -> None:
    item, kind = BAD[name]
    first, second = ids(2)
    shop = Shop(lambda order_id, now: coded(order_id) if now > 100 else PAID)
    seen: list[str] = []
    async with batching(shop, [first, item, second, 18], kind="receive") as batch, batch:
        with pytest.raises(kind) as caught:
            async for outcome in batch:
                seen.append(outcome.order.id)
        assert sorted(seen) == [first, second]
        assert "18" not in str(caught.value)  # the first of the errors
        assert [outcome async for outcome in batch] == []  # once
    assert len(warnings_in(caplog)) == 2
    assert ORDER_ID not in caplog.text
    with pytest.raises(kind):
        await add_one(item)


async def add_one(item: Any) -> None:
    async with batching(Shop({0: PAID}), [], kind="receive") as batch, batch:
        batch.add(item)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_orders_raises_is_raised_when_all_the_rest_has_ended(asynchronous: bool) -> None:
    problem = LookupError("the database is gone: order-2-secret")

    def orders() -> Iterator[str]:
        yield from ids(3)
        raise problem

    async def later() -> AsyncIterator[str]:
        for order_id in orders():
            yield order_id

    shop = Shop(lambda order_id, now: coded(order_id) if now > 100 else PAID)
    seen: list[str] = []
    async with batching(shop, later() if asynchronous else orders()) as batch, batch:
        with pytest.raises(LookupError) as caught:
            async for outcome in batch:
                seen.append(outcome.order.id)
        assert caught.value is problem
        assert sorted(seen) == ids(3)
        batch.add(ids(4)[3])
        assert [outcome.order.id async for outcome in batch] == ids(4)[3:]


async def test_what_orders_raises_and_nobody_waits_for_is_raised_when_the_block_is_left(caplog: pytest.LogCaptureFixture) -> None:
    def orders() -> Iterator[str]:
        yield ORDER_ID
        raise LookupError(ORDER_ID)

    async with batching(Shop({0: PAID}), orders()) as batch:
        with pytest.raises(LookupError):
            async with batch:
                await anyio.sleep(200)
        assert ends_of(batch.unread) == {OrderCancelled: 1}
    assert "orders could not be taken: LookupError" in caplog.text
    assert ORDER_ID not in caplog.text


async def test_what_orders_raises_does_not_hide_what_the_block_raises() -> None:
    def orders() -> Iterator[str]:
        yield ORDER_ID
        raise LookupError("the database is gone")

    mine = KeyError("mine")
    async with batching(Shop({0: PAID}), orders()) as batch:
        with pytest.raises(KeyError) as caught:
            async with batch:
                await anyio.sleep(200)
                raise mine
        assert caught.value is mine
        assert any("orders raised LookupError: the database is gone" in note for note in mine.__notes__)


async def test_an_iteration_that_cannot_begin_is_raised_at_the_end() -> None:
    class Broken:
        def __iter__(self) -> Iterator[str]:
            raise LookupError

    async with batching(Shop({0: PAID}), Broken()) as batch, batch:
        with pytest.raises(LookupError):
            await anext(batch)


@asyncio_only
async def test_orders_cancelled_from_within_are_told_and_the_rest_is_watched_on() -> None:
    async def orders() -> AsyncIterator[str]:
        yield ORDER_ID
        task = asyncio.ensure_future(asyncio.sleep(100))
        asyncio.get_running_loop().call_later(5, task.cancel)
        await task

    seen: list[str | None] = []
    async with batching(Shop({0: PAID, 50: CODED}), orders()) as batch, batch:
        with pytest.raises(RuntimeError, match="cancelled from within"):
            async for outcome in batch:
                seen.append(outcome.code)
    assert seen == ["004217"]


@pytest.mark.measured("on both loops")
async def test_what_is_no_exception_comes_out_of_orders_to_the_reader_and_out_of_the_block() -> None:
    def orders() -> Iterator[str]:
        yield ORDER_ID
        raise Interrupted

    for reads in (False, True):
        async with batching(Shop({0: PAID}), orders()) as batch:
            with pytest.raises(Interrupted):
                async with batch:
                    await anyio.sleep(200)
                    if reads:
                        await anext(batch)
            assert ends_of(batch.unread) == {OrderCancelled: 1}


# --- adding --------------------------------------------------------------------------------------------------------------------------


async def test_an_order_can_be_added_while_it_runs_and_is_looked_at_at_once() -> None:
    shop = Shop(lambda order_id, now: coded(order_id))
    async with batching(shop, Rows(itertools.repeat(17, 0)), max_watching=1) as batch, batch:
        for number, order_id in enumerate(ids(5)):
            batch.add(order_id)
            assert batch.watching == 1
            assert (await anext(batch)).order.id == order_id
            assert shop.looks[-1].at == 100 * number
            await anyio.sleep(99.99)


async def test_more_orders_can_be_added_than_may_be_watched() -> None:
    orders = Counting(endless())
    async with batching(Shop({0: PAID}), orders, max_watching=3) as batch, batch:
        await anyio.sleep(1)
        for number in range(10):
            batch.add(f"added-{number}-b7a1c9f0e2d4")
        await anyio.sleep(1)
        assert (batch.watching, len(orders.pulled)) == (13, 3)


async def test_an_order_added_interrupts_the_sleep_of_the_workers() -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(3), poll_interval=1000) as batch, batch:
        await anyio.sleep(500.25)
        batch.add(ORDER_ID)
        await anyio.sleep(1)
        assert [asked.at for asked in shop.since(1)] == [500.25]


async def test_an_order_can_be_added_by_the_reader_for_as_long_as_it_likes() -> None:
    shop = Shop(lambda order_id, now: coded(order_id))
    seen = 0
    async with batching(shop, ids(1)) as batch, batch:
        async for outcome in batch:
            seen += 1
            if seen < 100:
                batch.add(f"{seen:06}-b7a1c9f0e2d4")
            assert outcome.code is not None
    assert seen == 100


async def test_nothing_can_be_added_outside_of_the_block() -> None:
    shop = Shop({0: PAID}, takes=1)
    async with batching(shop, ids(1)) as batch:
        with pytest.raises(RuntimeError, match="orders can be added"):
            batch.add(ORDER_ID)
        refused: list[RuntimeError] = []

        async def add_later() -> None:
            await anyio.sleep(200.5)
            with pytest.raises(RuntimeError, match="orders can be added") as caught:
                batch.add(ORDER_ID)
            refused.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(add_later)
            async with batch:
                await anyio.sleep(200)
            assert shop.now > 200.5
        assert len(refused) == 1
        with pytest.raises(RuntimeError, match="orders can be added"):
            batch.add(ORDER_ID)


async def test_the_block_comes_first_and_once() -> None:
    async with batching(Shop({0: CODED}), ids(1)) as batch:
        with pytest.raises(RuntimeError, match="inside the block"):
            await anext(batch)
        async with batch as same:
            assert same is batch
            with pytest.raises(RuntimeError, match="entered once"):
                await batch.__aenter__()
            assert [outcome.code async for outcome in batch] == ["004217"]
        with pytest.raises(RuntimeError, match="entered once"):
            await batch.__aenter__()
        assert [outcome async for outcome in batch] == []


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"client": "me"}, TypeError, "client"),
        ({"orders": ORDER_ID}, TypeError, "orders"),
        ({"orders": Order(ORDER_ID)}, TypeError, "orders"),
        ({"orders": 5}, TypeError, "orders"),
        ({"orders": None}, TypeError, "orders"),
        ({"kind": "nonsense"}, ValueError, "nonsense"),
        ({"hold_window": 0}, ValueError, "hold_window"),
        ({"payment_window": "5"}, TypeError, "payment_window"),
        ({"poll_interval": 0}, ValueError, "poll_interval"),
        ({"max_rate": 0}, ValueError, "max_rate"),
        ({"max_rate": -1}, ValueError, "max_rate"),
        ({"max_rate": float("nan")}, ValueError, "max_rate"),
        ({"max_rate": "5"}, TypeError, "max_rate must be a number of requests per second"),
        ({"max_watching": 0}, ValueError, "max_watching"),
        ({"max_watching": 2.5}, TypeError, "max_watching"),
        ({"max_watching": True}, TypeError, "max_watching"),
    ],
)
def test_a_batch_with_a_bad_argument_is_not_made(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {"client": Client(), "orders": []} | options
    with pytest.raises(kind, match=words):
        BatchWatcher(arguments.pop("client"), arguments.pop("orders"), **arguments)


# --- reading -------------------------------------------------------------------------------------------------------------------------


async def test_each_outcome_goes_to_one_of_several_readers() -> None:
    lasts = {order_id: somewhere(order_id, 10, 100) for order_id in ids(50)}
    shop = Shop(lambda order_id, now: coded(order_id) if now >= lasts[order_id] else PAID)
    seen: list[list[Outcome]] = [[], [], []]

    async with batching(shop, ids(50)) as batch, batch, anyio.create_task_group() as tasks:

        async def read(mine: list[Outcome]) -> None:
            async for outcome in batch:
                mine.append(outcome)

        for mine in seen:
            tasks.start_soon(read, mine)
    assert sorted(by_id(itertools.chain(*seen))) == ids(50)
    assert batch.unread == []


async def test_outcomes_can_be_read_after_the_block_as_well() -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(3)) as batch:
        async with batch:
            await anyio.sleep(200)
        unread = batch.unread
        assert [outcome async for outcome in batch] == unread
        assert (batch.unread, len(unread)) == ([], 3)


async def test_unread_is_a_copy() -> None:
    async with batching(Shop({0: CODED}), ids(1)) as batch, batch:
        await anyio.sleep(1)
        batch.unread.clear()
        assert len(batch.unread) == 1


async def test_a_reader_cancelled_at_any_suspension_loses_no_outcome() -> None:
    shop = Shop(lambda order_id, now: coded(order_id) if now % 3 > number_of(order_id) % 3 else PAID)
    for way in ways():
        k, triggered = 0, True
        while triggered:
            k += 1
            seen: list[Outcome] = []
            async with batching(Shop(shop.look), ids(6), poll_interval=1) as batch, batch:

                async def read(batch: BatchWatcher = batch, seen: list[Outcome] = seen) -> None:
                    async for outcome in batch:
                        seen.append(outcome)

                ending: Ending[None] = await way(read, k)
                triggered = ending.triggered
                if triggered:
                    assert ending.cancelled, f"{way.__name__} at {k}: {ending.error!r}"
                seen += [outcome async for outcome in batch]
            assert sorted(by_id(seen)) == ids(6), f"{way.__name__} at {k}"
        assert k > 6


@asyncio_only
async def test_wait_for_around_the_reader_loses_no_outcome() -> None:
    lasts = {order_id: somewhere(order_id, 0, 20) for order_id in ids(30)}
    for patience in (0.001, 0.25, 0.5, 1.01):
        shop = Shop(lambda order_id, now: coded(order_id) if now >= lasts[order_id] else PAID, takes=0.25)
        seen: list[Outcome] = []
        timeouts = 0
        async with batching(shop, ids(30), poll_interval=1) as batch, batch:
            while len(seen) < 30:
                try:
                    seen.append(await asyncio.wait_for(anext(batch), patience))
                except TimeoutError:
                    timeouts += 1
                    await asyncio.sleep(0.1)
        assert timeouts > 5
        assert sorted(by_id(seen)) == ids(30)


async def test_a_reader_that_reads_on_while_the_block_is_left_gets_what_comes_of_it() -> None:
    shop = Shop({0: PAID}, takes=1)
    seen: list[Outcome] = []
    async with batching(shop, ids(3)) as batch, anyio.create_task_group() as tasks, batch:
        await anyio.sleep(200)

        async def read() -> None:
            seen.extend([outcome async for outcome in batch])

        tasks.start_soon(read)
    assert sorted(by_id([*seen, *batch.unread])) == ids(3)
    assert len(seen) == 3


# --- leaving -------------------------------------------------------------------------------------------------------------------------


async def test_leaving_early_cancels_what_is_open_and_keeps_what_nobody_has_read() -> None:
    shop = Shop(lambda order_id, now: coded(order_id) if number_of(order_id) < 4 else PAID)
    async with batching(shop, ids(10), poll_interval=30) as batch:
        async with batch:
            assert (await anext(batch)).code is not None
            await anyio.sleep(200)
        found = by_id(batch.unread)
        assert len(found) == 9
        assert ends_of(batch.unread) == {None: 3, OrderCancelled: 6}
        assert sorted(asked.order_id for asked in shop.cancels) == ids(10)[4:]
        assert shop.now == pytest.approx(200.05, abs=0.1)
        for order_id in ids(10)[4:]:
            assert [asked.path for asked in shop.since(200) if asked.order_id == order_id] == ["/cancelorder", "/orderstatus"]


async def test_leaving_after_all_has_ended_asks_nothing_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop({0: CODED})
    await run(shop, ids(5))
    assert len(shop.asked) == 5
    assert caplog.text == ""


async def test_leaving_by_an_exception_passes_it_on_with_a_note_of_what_is_open(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop({0: PAID}, TOO_EARLY)
    problem = KeyError("mine")
    async with batching(shop, ids(3)) as batch:
        with pytest.raises(KeyError) as caught:
            async with batch:
                await anyio.sleep(50)
                raise problem
        assert caught.value is problem
        [note] = problem.__notes__
        assert "3 orders are left open" in note
        assert "batch.unread" in note
        assert warnings_in(caplog) == [note]
        assert ends_of(batch.unread) == {CancelRefused: 3}


async def test_leaving_by_an_exception_without_anything_open_adds_no_note(caplog: pytest.LogCaptureFixture) -> None:
    async with batching(Shop({0: PAID}), ids(3)) as batch:
        with pytest.raises(KeyError) as caught:
            async with batch:
                await anyio.sleep(200)
                raise KeyError
        assert not hasattr(caught.value, "__notes__")
        assert ends_of(batch.unread) == {OrderCancelled: 3}
    assert warnings_in(caplog) == []


async def test_an_exception_group_of_the_callers_own_passes_as_it_is() -> None:
    group = ExceptionGroup("mine", [KeyError(), ValueError()])
    async with batching(Shop({0: PAID}), ids(3)) as batch:
        with pytest.raises(ExceptionGroup) as caught:
            async with batch:
                raise group
        assert caught.value is group


async def test_leaving_by_a_cancelled_scope_cancels_the_orders_first() -> None:
    shop = Shop({0: PAID}, takes=1)
    async with batching(shop, ids(30), connections=10, poll_interval=500) as batch:
        with anyio.move_on_after(200) as scope:
            async with batch:
                await anext(batch)
        assert scope.cancelled_caught
        assert shop.now == 206
        assert ends_of(batch.unread) == {OrderCancelled: 30}


async def test_a_block_entered_by_a_cancelled_caller_takes_no_order_and_ends() -> None:
    orders = Counting(endless())
    async with batching(Shop({0: PAID}), orders) as batch:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with batch:
                await anyio.sleep(5)
        assert scope.cancelled_caught
        assert len(batch.unread) == len(orders.pulled)


@pytest.mark.parametrize("times", [1, 2, 40])
@asyncio_only
async def test_leaving_by_native_cancels_cancels_the_orders_first(times: int) -> None:
    shop = Shop({0: PAID}, takes=1)
    async with batching(shop, ids(30), connections=10, poll_interval=500) as batch:

        async def block() -> None:
            async with batch:
                await anext(batch)

        task = asyncio.ensure_future(block())
        await asyncio.sleep(200)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.1)
        await asyncio.wait({task})
        assert (task.cancelled(), task.cancelling()) == (True, times)
        assert shop.now == pytest.approx(206)
        assert ends_of(batch.unread) == {OrderCancelled: 30}


@asyncio_only
async def test_asyncio_timeout_around_the_block_sees_its_own() -> None:
    shop = Shop({0: PAID}, takes=1)
    async with batching(shop, ids(3)) as batch:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(200), batch:
                await anext(batch)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert ends_of(batch.unread) == {OrderCancelled: 3}


@asyncio_only
async def test_wait_for_around_the_whole_program_sees_its_own() -> None:
    shop = Shop({0: PAID}, takes=1)
    kept: list[BatchWatcher] = []

    async def program() -> None:
        async with batching(shop, ids(3)) as batch, batch:
            kept.append(batch)
            await anext(batch)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(program(), 200)
    assert ends_of(kept[0].unread) == {OrderCancelled: 3}


def shut_down(program: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> bool:
    """End a loop while a task of its own is at this program, and return True."""

    async def main() -> None:
        main.task = asyncio.ensure_future(program())  # type: ignore[attr-defined]  # a strong reference
        await asyncio.sleep(seconds)

    return anyio.run(main, backend_options={"loop_factory": VirtualTimeLoop}) is None


@pytest.mark.parametrize("seconds", [0.5, 200])
def test_the_end_of_asyncio_run_cancels_the_orders_first(seconds: float) -> None:
    shop = Shop({0: PAID}, takes=1)
    kept: list[BatchWatcher] = []

    async def program() -> None:
        async with Client(transport=shop) as client:
            assert shop.now == 0
            async with BatchWatcher(client, ids(3)) as batch:
                kept.append(batch)
                await anext(batch)

    # In one line: coverage loses count of a function's lines when requests are made while a loop is shut down in it.
    assert (shut_down(program, seconds), ends_of(kept[0].unread), shop.overlaps) == (True, {OrderCancelled: 3}, set())


async def test_leaving_a_dead_service_gives_up_after_ten_seconds_and_every_order_is_told(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(50), connections=5, poll_interval=50) as batch:
        async with batch:
            await anyio.sleep(200)
            shop.takes = 10_000
        assert 210 <= shop.now <= 210.1
        found = by_id(batch.unread)
        assert sorted(found) == ids(50)
        assert set(ends_of(batch.unread)) <= {OrderUnresolved, CancelRefused}
        assert batch.watching == 0
    assert "50 orders are left open" in caplog.text
    assert any("no answer for 10 s" in str(outcome.error) for outcome in found.values())


async def test_leaving_a_service_that_fails_at_once_gives_up_after_ten_seconds_too() -> None:
    shop = Shop({0: PAID}, httpx.ConnectError("nobody listens"))
    async with batching(shop, ids(50), connections=5, poll_interval=50) as batch:
        async with batch:
            await anyio.sleep(200)
            shop.look = shop.cancel
        assert shop.now <= 210.1
        assert set(ends_of(batch.unread)) <= {OrderUnresolved, CancelRefused}
        assert sorted(by_id(batch.unread)) == ids(50)


async def test_leaving_goes_on_for_as_long_as_the_service_answers() -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(20), connections=1, poll_interval=50) as batch:
        async with batch:
            await anyio.sleep(200)
            shop.takes = 8
        assert shop.now >= 360
        assert set(ends_of(batch.unread)) == {OrderCancelled}


async def test_leaving_goes_on_for_as_long_as_the_service_refuses() -> None:
    shop = Shop({0: PAID}, TOO_EARLY)
    async with batching(shop, ids(10), connections=1) as batch:
        async with batch:
            await anyio.sleep(50)
            shop.takes = 8
            shop.look = lambda order_id, now: {"reason": "not now"}
        assert shop.now >= 130
        assert set(ends_of(batch.unread)) == {CancelRefused}


async def test_leaving_gives_up_on_the_rest_when_the_service_dies_on_the_way() -> None:
    shop = Shop({0: PAID})
    shop.cancel = lambda order_id, now: OK if now < 205 else httpx.ReadError("reset")
    shop.look = lambda order_id, now: PAID if now < 205 else httpx.ReadError("reset")
    async with batching(shop, ids(20), connections=1, poll_interval=50) as batch:
        async with batch:
            await anyio.sleep(200)
            shop.takes = 0.5
        assert 210 <= shop.now <= 220
        assert sorted(by_id(batch.unread)) == ids(20)
        assert {OrderCancelled} < set(ends_of(batch.unread)) <= {OrderCancelled, OrderUnresolved, CancelRefused}
        confirmed = {asked.order_id for asked in shop.cancels if asked.at < 204.5}
        assert {outcome.order.id for outcome in batch.unread if isinstance(outcome.error, OrderCancelled)} == confirmed


async def test_cancel_on_exit_false_leaves_the_orders_alone() -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(5), cancel_on_exit=False) as batch:
        async with batch:
            await anyio.sleep(200)
            asked = len(shop.asked)
        assert len(shop.asked) == asked
        assert 200 <= shop.now <= 200.01  # a look that was under way
        assert ends_of(batch.unread) == {OrderUnresolved: 5}
    assert shop.cancels == []


@pytest.mark.parametrize("cancels", [True, False])
async def test_last_steps_under_way_come_to_their_end_when_the_block_is_left(cancels: bool) -> None:
    shop = Shop({0: PAID}, takes=1)
    async with batching(shop, ids(5), hold_window=100, poll_interval=1000, cancel_on_exit=cancels) as batch:
        async with batch:
            await anyio.sleep(102.5)  # paid is seen at 1, the last look ends at 102, the cancel at 103, the look after it at 104
        assert shop.now == 104
        assert ends_of(batch.unread) == {OrderExpired: 5}
        assert all(isinstance(outcome.error, OrderExpired) and outcome.error.cancelled for outcome in batch.unread)
        assert len(shop.cancels) == 5


async def test_a_window_that_ends_while_the_block_lasts_cancels_with_cancel_on_exit_false_too() -> None:
    shop = Shop({0: PAID})
    assert ends_of(await run(shop, ids(5), hold_window=100, cancel_on_exit=False)) == {OrderExpired: 5}
    assert len(shop.cancels) == 5


async def test_orders_of_less_than_two_minutes_are_cancel_refused_with_the_servers_reason(caplog: pytest.LogCaptureFixture) -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=0))
    async with Client(transport=sandbox.transport()) as client:
        orders = [await client.create_order(187, "tg") for _ in range(3)]
        async with BatchWatcher(client, orders) as batch:
            await anyio.sleep(100)
        assert sorted(by_id(batch.unread)) == sorted(order.id for order in orders)
        for outcome in batch.unread:
            assert isinstance(outcome.error, CancelRefused)
            assert outcome.error.reason == TOO_EARLY["reason"]
            assert isinstance(outcome.error.__cause__, APIError)
        [warning] = warnings_in(caplog)
        assert "3 orders are left open" in warning
        async with BatchWatcher(client, [outcome.order for outcome in batch.unread]) as batch:  # they can be watched again
            await anyio.sleep(100)
        assert ends_of(batch.unread) == {OrderCancelled: 3}


async def test_a_code_that_arrives_while_leaving_is_an_unread_outcome(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shop = Shop(lambda order_id, now: coded(order_id) if now > 199 else PAID, CODE_HAS_COME)
    async with batching(shop, ids(5), poll_interval=1000) as batch:
        async with batch:
            await anyio.sleep(200)
        found = by_id(batch.unread)
        assert {order_id: outcome.code for order_id, outcome in found.items()} == {order_id: code_of(order_id) for order_id in ids(5)}
        assert ends_of(batch.unread) == {None: 5}
    assert "5 codes were not read: see batch.unread" in caplog.text
    assert not any(code_of(order_id) in caplog.text for order_id in ids(5))


async def test_a_code_that_arrived_before_leaving_is_found_however_many_there_are_to_cancel() -> None:
    """Each cancel is refused because a code has come: the look after it must not be put off until nobody makes it."""
    shop = Shop(lambda order_id, now: coded(order_id) if now > 199 else PAID, CODE_HAS_COME)
    async with batching(shop, ids(60), connections=1, poll_interval=1000) as batch:
        async with batch:
            await anyio.sleep(200)
            shop.takes = 1
        found = by_id(batch.unread)
        assert {order_id: outcome.code for order_id, outcome in found.items()} == {order_id: code_of(order_id) for order_id in ids(60)}


async def test_a_confirmed_cancel_is_told_as_one_though_nobody_could_look_after_it() -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(3)) as batch:
        async with batch:
            await anyio.sleep(200)
            shop.look = lambda order_id, now: httpx.ReadError("reset")
        assert ends_of(batch.unread) == {OrderCancelled: 3}


async def test_an_order_that_turns_out_to_send_while_leaving_is_left_open() -> None:
    shop = Shop({0: PAID, 199: PAID | {"smsStatus": "created"}}, CODE_HAS_COME)
    async with batching(shop, ids(2), poll_interval=1000) as batch:
        async with batch:
            await anyio.sleep(200)
        assert ends_of(batch.unread) == {OrderUnresolved: 2}


async def test_leaving_while_the_service_asked_to_wait_cancels_afterwards() -> None:
    """Money is not held for 21 minutes because a "too many requests" came just before."""
    shop = Shop(lambda order_id, now: too_many("20") if 195 <= now < 205 else PAID)
    async with batching(shop, ids(5), poll_interval=5) as batch:
        async with batch:
            await anyio.sleep(200)
        assert ends_of(batch.unread) == {OrderCancelled: 5}


@pytest.mark.parametrize("said", ["0", "-5", "0.001", None])
async def test_leaving_a_service_that_refuses_all_and_asks_for_no_wait_does_not_flood_it(said: str | None) -> None:
    shop = Shop({0: PAID}, lambda order_id, now: too_many(said))
    async with batching(shop, ids(5), poll_interval=50) as batch:
        async with batch:
            await anyio.sleep(200)
            shop.look = shop.cancel
        assert shop.now <= 277
        assert sorted(by_id(batch.unread)) == ids(5)
    assert max(Counter(asked.order_id for asked in shop.since(200)).values()) <= 10  # after 1, 2, 4 ... 30 s


async def test_a_reader_beside_it_does_not_hide_what_is_left_open(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(lambda order_id, now: coded(order_id) if number_of(order_id) < 3 else PAID, TOO_EARLY, takes=1)
    async with batching(shop, ids(8)) as batch:

        async def read() -> None:
            await anyio.sleep(50.5)
            for _ in range(3):
                assert (await anext(batch)).code is not None

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            async with batch:
                await anyio.sleep(50)
        assert ends_of(batch.unread) == {CancelRefused: 5}
    assert "5 orders are left open" in caplog.text


@pytest.mark.parametrize("kind", [OrderKind.rental, OrderKind.send, OrderKind.fund])
async def test_leaving_an_order_that_cannot_be_cancelled_promises_no_money_back(kind: OrderKind, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop({0: {"paid": kind is not OrderKind.fund}})
    async with batching(shop, [Order(ORDER_ID, kind)]) as batch:
        async with batch:
            await anyio.sleep(200)
        assert ends_of(batch.unread) == {OrderUnresolved: 1}
    assert shop.cancels == []
    assert "comes back" not in caplog.text


# --- what strikes from outside -------------------------------------------------------------------------------------------------------


async def read_until_closed(batch: BatchWatcher, *, all_taken: bool = False) -> list[Outcome]:
    """Read the outcomes of a batch whose client is closed; where not all orders were taken, it says so after the last of them."""
    outcomes: list[Outcome] = []
    with nullcontext() if all_taken else pytest.raises(RuntimeError, match=r"^the client is closed$"):
        async for outcome in batch:
            outcomes.append(outcome)
    return outcomes


async def test_closing_the_client_ends_every_order_as_unresolved_and_the_iteration() -> None:
    orders = Counting(endless())
    shop = Shop(lambda order_id, now: coded(order_id) if number_of(order_id) < 2 else PAID, takes=1)
    tasks = tasks_alive()
    client = Client(transport=shop, max_connections=3)
    assert shop.now == 0
    async with BatchWatcher(client, orders, max_watching=20) as batch:
        await anyio.sleep(30.5)
        await client.aclose()
        closed = shop.now
        with anyio.fail_after(1000):
            outcomes = await read_until_closed(batch)
        assert shop.now == closed
        assert sorted(by_id(outcomes)) == sorted(orders.pulled)
        assert ends_of(outcomes) == {None: 2, OrderUnresolved: 19}  # one of them tells that there are more, and was not watched
        assert all("closed" in str(outcome.error) for outcome in outcomes if outcome.error is not None)
        with pytest.raises(RuntimeError, match="the client is open"):
            batch.add(ORDER_ID)
    assert (shop.now, batch.unread, tasks_alive()) == (closed, [], tasks)
    assert shop.cancels == []


@pytest.mark.parametrize("turns", range(30))
async def test_a_client_closed_at_any_turn_ends_the_batch(turns: int) -> None:
    till = Till(delay=0.1)
    orders = Counting(ids(6))
    async with serve(till) as server:
        client = Client(base_url=server.url, trust_env=False, max_connections=MOST)
        async with BatchWatcher(client, orders, max_watching=4) as batch:
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            await client.aclose()
            with anyio.fail_after(1):
                outcomes = await read_until_closed(batch, all_taken=len(orders.pulled) == 6)
        assert sorted(by_id([*outcomes, *batch.unread])) == sorted(orders.pulled)
        await anyio.sleep(1)
        assert server.connections_open == 0


async def test_a_batch_of_a_closed_client_ends_at_once() -> None:
    client = Client(transport=Shop({0: PAID}))
    await client.aclose()
    async with BatchWatcher(client, Counting(endless())) as batch:
        assert set(ends_of(await read_until_closed(batch))) <= {OrderUnresolved}


@pytest.mark.parametrize("orders", [[], ids(2), iter(ids(2))])
async def test_a_client_closed_when_all_orders_were_taken_says_nothing(orders: Iterable[str]) -> None:
    client = Client(transport=Shop({0: PAID}))
    async with BatchWatcher(client, orders, max_watching=2) as batch:
        await anyio.sleep(10)
        assert batch.watching in (0, 2)
        await client.aclose()
        outcomes = await read_until_closed(batch, all_taken=True)
    assert set(ends_of(outcomes)) <= {OrderUnresolved}


async def test_what_orders_raises_after_the_client_was_closed_is_raised() -> None:
    def spoilt() -> Iterator[str]:
        yield ORDER_ID
        raise KeyError("theirs")

    client = Client(transport=Shop({0: PAID}))
    with pytest.raises(KeyError, match="theirs"):
        async with BatchWatcher(client, spoilt(), max_watching=1) as batch:
            await anyio.sleep(10)
            await client.aclose()
            async for outcome in batch:
                assert type(outcome.error) is OrderUnresolved


async def test_a_code_that_was_read_as_leaving_gave_up_is_in_the_outcome() -> None:
    """The look after a refused cancel has read the code; a transport that is slow to close its reply keeps it back."""

    class SlowToClose(httpx.AsyncByteStream):
        def __init__(self, body: bytes) -> None:
            self._body = body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield self._body

        async def aclose(self) -> None:
            await anyio.sleep(1000)

    class LateShop(httpx.AsyncBaseTransport):
        cancelled = False

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/cancelorder":
                self.cancelled = True
                return httpx.Response(500, json={"status": "error", "reason": "code already received"})
            told = {"status": "OK", "paid": True, "number": "15550001111"}
            if not self.cancelled:
                return httpx.Response(200, json=told)
            return httpx.Response(200, stream=SlowToClose(json.dumps(told | {"code": "048213"}).encode()))

    client = Client(transport=LateShop(), timeout=100)
    async with BatchWatcher(client, [ORDER_ID]) as batch:
        await anyio.sleep(10)
    assert [(outcome.code, outcome.error) for outcome in batch.unread] == [("048213", None)]
    await client.aclose()


async def test_a_client_closed_while_the_block_is_left_ends_the_leaving() -> None:
    shop = Shop({0: PAID}, takes=4)
    client = Client(transport=shop, max_connections=2)
    assert shop.now == 0
    async with anyio.create_task_group() as tasks:

        async def close() -> None:
            await anyio.sleep(205)
            await client.aclose()

        tasks.start_soon(close)
        async with BatchWatcher(client, ids(20), poll_interval=1000) as batch:
            await anyio.sleep(200)
        assert shop.now == pytest.approx(205)
    assert sorted(by_id(batch.unread)) == ids(20)
    assert set(ends_of(batch.unread)) <= {OrderUnresolved, OrderCancelled, CancelRefused}


async def test_two_batches_and_a_caller_share_one_client() -> None:
    shop = Shop(lambda order_id, now: coded(order_id) if now > 20 else PAID, takes=0.5)
    async with Client(transport=shop, max_connections=2) as client:
        assert shop.now == 0
        async with BatchWatcher(client, ids(10)[:5], poll_interval=5) as batch, BatchWatcher(client, ids(10)[5:], poll_interval=5) as other:
            await client.get_order_status(ORDER_ID)
            outcomes = [outcome async for outcome in batch] + [outcome async for outcome in other]
    assert sorted(by_id(outcomes)) == ids(10)
    assert shop.most == 2


async def test_an_interrupt_of_a_worker_reaches_the_reader_and_no_order_is_lost() -> None:
    struck: list[bool] = []

    def look(order_id: str, now: float) -> Answer:
        if now > 20 and not struck:
            struck.append(True)
            return Interrupted()
        return PAID

    shop = Shop(look)
    async with batching(shop, ids(5), connections=2, poll_interval=5) as batch:
        with pytest.raises(Interrupted):
            async with batch:
                await anext(batch)
        assert 20 <= shop.now <= 30
        assert sorted(by_id(batch.unread)) == ids(5)
        assert len({asked.order_id for asked in shop.cancels}) == 5


async def test_an_interrupt_that_nobody_waits_for_comes_out_of_the_block() -> None:
    shop = Shop(lambda order_id, now: Interrupted())
    async with batching(shop, ids(5), connections=1) as batch:
        with pytest.raises(Interrupted):
            async with batch:
                await anyio.sleep(50)
        assert sorted(by_id(batch.unread)) == ids(5)


class Striking(logging.Handler):
    """A log that is interrupted as it writes: the place in a worker where nothing of an order is under way."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        raise Interrupted


@pytest.mark.measured("on both loops")
@pytest.mark.parametrize("connections", [1, 2])
@pytest.mark.parametrize("known", [CODED, PAID], ids=["ended", "open"])
async def test_an_interrupt_between_two_orders_loses_none_and_asks_for_none_twice_at_once(connections: int, known: dict[str, Any]) -> None:
    logger = logging.getLogger("sms4sats_async.batch")
    striking = Striking(logging.WARNING)
    shop = Shop({0: known}, takes=1)
    async with batching(shop, ids(4), connections=connections, max_rate=0.02, poll_interval=1000) as batch:
        logger.addHandler(striking)
        try:
            with pytest.raises(Interrupted):
                async with batch:
                    await anyio.sleep(150)
                    logger.removeHandler(striking)
        finally:
            logger.removeHandler(striking)
        assert sorted(by_id(batch.unread)) == ids(4)


@pytest.mark.measured("on both loops")
async def test_an_interrupt_between_two_orders_does_not_ask_for_one_of_them_twice_at_once() -> None:
    logger = logging.getLogger("sms4sats_async.batch")
    striking = Striking(logging.WARNING)
    shop = Shop(
        lambda order_id, now: coded(order_id) if number_of(order_id) else PAID, takes=lambda order_id: 41 if number_of(order_id) else 40
    )
    async with Client(transport=shop, max_connections=3, timeout=100) as client:
        logger.addHandler(striking)
        try:
            with pytest.raises(Interrupted):
                async with BatchWatcher(client, ids(4), poll_interval=5) as batch:
                    await anyio.sleep(40.5)  # at 40 s the fourth order is late, and the worker of the first one warns
                    logger.removeHandler(striking)
                    await anyio.sleep(50)
                    shop.takes = 1
        finally:
            logger.removeHandler(striking)
    assert sorted(by_id(batch.unread)) == ids(4)
    assert shop.overlaps == set()


@asyncio_only
async def test_a_transport_cancelled_from_within_costs_neither_the_order_nor_a_worker() -> None:
    """A caller's transport may await a task of its own that somebody cancels: no cancellation of ours."""
    answers: list[Answer] = [asyncio.CancelledError(), PAID, asyncio.CancelledError()]
    shop = Shop(lambda order_id, now: answers.pop(0) if answers else coded(order_id))
    with anyio.fail_after(2000):
        found = by_id(await run(shop, ids(3), connections=1))
    assert [found[order_id].code for order_id in ids(3)] == [code_of(order_id) for order_id in ids(3)]
    cancels: list[Answer] = [asyncio.CancelledError(), asyncio.CancelledError()]
    shop = Shop({0: PAID}, lambda order_id, now: cancels.pop() if cancels else OK)
    with anyio.fail_after(2000):
        outcomes = await run(shop, ids(3), connections=1, hold_window=60)
    assert ends_of(outcomes) == {OrderExpired: 3}


# --- cancelled anywhere --------------------------------------------------------------------------------------------------------------


async def left_anywhere(way: Way[Any], k: int, *, delay: float = 0.0, rate: float | None = None) -> Ending[Any]:
    """Cancel a block at its k-th suspension or turn, and check all that must hold whatever the moment was."""
    tasks = tasks_alive()
    till = Till(delay=delay)
    orders = Counting(ids(5))
    read: list[Outcome] = []
    kept: list[BatchWatcher] = []
    where = f"{way.__name__} at {k}"

    async with serve(till) as server:
        client = Client(api_key="key", base_url=server.url, max_connections=MOST, trust_env=False)

        async def block() -> None:
            batch = BatchWatcher(client, orders, max_watching=3, max_rate=rate)
            kept.append(batch)
            async with batch:
                async for outcome in batch:
                    read.append(outcome)

        ending: Ending[None] = await way(block, k)
        if ending.error is not None:
            assert ending.cancelled, f"{where}: {ending.error!r}"
        assert ending.cancelled or not ending.requests, f"{where}: the native cancel was swallowed"
        unread = kept[0].unread if kept else []
        assert sorted(by_id([*read, *unread])) == sorted(orders.pulled), where
        for outcome in (*read, *unread):
            assert outcome.code == "048213" or isinstance(outcome.error, OrderCancelled | CancelRefused | OrderUnresolved), where
        await all_lanes_work(client, server, where)
        await closes_all(client, server, where)
    assert tasks_alive() == tasks, where
    return ending


@pytest.mark.parametrize("delay", [0.0, 0.4])
async def test_a_block_cancelled_at_any_suspension_loses_no_order_and_leaves_nothing(delay: float) -> None:
    for way in ways():
        k = 1
        while (await left_anywhere(way, k, delay=delay)).triggered:
            k += 1
        assert k > 8


@pytest.mark.parametrize("delay", [0.0, 0.4])
async def test_a_block_cancelled_in_any_turn_of_the_loop_loses_no_order_and_leaves_nothing(delay: float) -> None:
    for way in ways_by_turns():
        assert all([(await left_anywhere(way, n, delay=delay, rate=100)).triggered for n in range(1, 40, 2)])


async def test_leaving_cancelled_at_any_suspension_goes_on_to_its_end() -> None:
    for way in ways():
        k, triggered = 0, True
        while triggered:
            k += 1
            orders = Counting(ids(3))
            async with batching(Shop({0: PAID}, takes=1), orders, connections=2) as batch:

                async def block(batch: BatchWatcher = batch) -> None:
                    async with batch:
                        await anyio.sleep(200)

                ending: Ending[None] = await way(block, k)
                # A scope's cancel that comes as the block has just ended waits for the caller's next checkpoint.
                assert ending.cancelled or not ending.triggered or (way is by_scope and ending.error is None)
                assert sorted(by_id(batch.unread)) == sorted(orders.pulled)
                assert set(ends_of(batch.unread)) <= {OrderCancelled}
            triggered = ending.triggered
        assert k > 2


# --- secrets, and what is told -------------------------------------------------------------------------------------------------------


async def test_no_id_no_code_and_no_number_is_told_in_any_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"status": "error", "reason": f"order {ORDER_ID.upper()} has 12025550143 and 004217"}
    texts: list[str] = []
    others = [Order(f"{ORDER_ID}{kind}", kind) for kind in OrderKind]
    for look, cancel in ((CODED, OK), (NUMBERED | {"error": echo["reason"]}, OK), (NUMBERED, echo)):
        shop = Shop({0: NUMBERED, 50: look}, cancel)
        for hold_window in (100, None):
            async with batching(shop, [ORDER_ID, *others, 17, "\ud800-half"], hold_window=hold_window) as batch:
                with pytest.raises(KeyError) as caught:
                    async with batch:
                        await anyio.sleep(150)
                        texts += [repr(batch), str(batch)]
                        raise KeyError
                texts += getattr(caught.value, "__notes__", [])
                texts += [repr(outcome) for outcome in batch.unread] + [str(outcome.error) for outcome in batch.unread]
                assert len(batch.unread) >= 5
            shop = Shop({0: NUMBERED, 50: look}, cancel)
    for text in [*texts, caplog.text]:
        for secret in (ORDER_ID, ORDER_ID.upper(), "12025550143", "004217"):
            assert secret not in text


async def test_the_repr_tells_how_much_there_is() -> None:
    async with batching(Shop({0: CODED}), ids(3)) as batch:
        assert repr(batch) == "<BatchWatcher of 0 orders, 0 outcomes unread>"
        async with batch:
            batch.add(ORDER_ID)
            assert repr(batch) == "<BatchWatcher of 1 orders, 0 outcomes unread>"
            await anyio.sleep(1)
            assert repr(batch) == "<BatchWatcher of 0 orders, 4 outcomes unread>"


async def test_behind_tells_how_late_the_polls_are_and_a_warning_comes_once(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop({0: PAID})
    async with batching(shop, ids(100), max_rate=1, poll_interval=1) as batch:
        assert batch.behind == 0
        async with batch:
            await anyio.sleep(20)
            assert 18 <= batch.behind <= 21
            assert warnings_in(caplog) == []
            await anyio.sleep(100)
            assert 90 <= batch.behind <= 121
            [warning] = warnings_in(caplog)
            assert "max_rate or max_connections is low for 100 orders" in warning
    async with batching(Shop({0: PAID}), ids(20), poll_interval=1) as batch, batch:
        await anyio.sleep(50)
        assert batch.behind <= 1


async def test_waiting_as_the_service_asks_is_not_taken_for_too_few_connections(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(lambda order_id, now: too_many("60") if 30 <= now < 35 else PAID)
    async with batching(shop, ids(3), poll_interval=1) as batch, batch:
        await anyio.sleep(180)
    assert not any("low" in warning for warning in warnings_in(caplog))


# --- any course ----------------------------------------------------------------------------------------------------------------------


class Faulty(httpx.AsyncBaseTransport):
    """A service in memory, slow, and with outages."""

    def __init__(self, sandbox: Sandbox, dice: random.Random, outages: list[tuple[float, float]]) -> None:
        self._inner = sandbox.transport()
        self._dice = dice
        self._outages = outages
        self.start = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.sleep(self._dice.uniform(0, 0.4))
        now = anyio.current_time() - self.start
        response = await self._inner.handle_async_request(request)
        if any(since <= now < since + lasts for since, lasts in self._outages):
            raise httpx.ReadError("reset")  # whether it was done or not
        return response


@dataclass(frozen=True)
class Course:
    """What happens to so many orders, and to the service."""

    timelines: list[Timeline]
    outages: list[tuple[float, float]]
    leaves_at: float | None
    rate: float | None
    says_ended: bool
    seed: int


SECONDS = st.none() | st.floats(0, 1500)
TIMELINES = st.builds(
    Timeline, paid_after=st.none() | st.floats(0, 1000), number_after=SECONDS, code_after=SECONDS, no_number_after=SECONDS
)
COURSES_OF_MANY = st.builds(
    Course,
    timelines=st.lists(TIMELINES, min_size=1, max_size=8),
    outages=st.lists(st.tuples(st.floats(0, 2600), st.floats(0, 60)), max_size=4),
    leaves_at=st.none() | st.floats(0, 1500),
    rate=st.sampled_from([None, 3.0]),
    says_ended=st.booleans(),
    seed=st.integers(0, 99),
)


async def go_through(course: Course) -> None:
    random.seed(course.seed)
    timelines = iter(course.timelines)

    def timeline(order: SandboxOrder) -> Timeline:
        return next(timelines)

    sandbox = Sandbox(timeline=timeline, says_ended=course.says_ended, seed=course.seed)
    service = Faulty(sandbox, random.Random(course.seed), course.outages)  # noqa: S311 - dice
    async with Client(transport=sandbox.transport()) as placing:
        orders = Counting([await placing.create_order(187, "tg") for _ in course.timelines])
    service.start = anyio.current_time()
    read: list[Outcome] = []
    async with Client(transport=service, max_connections=3) as client:
        batch = BatchWatcher(client, orders, max_rate=course.rate)
        with anyio.CancelScope() as scope:
            if course.leaves_at is not None:
                scope.deadline = anyio.current_time() + course.leaves_at
            async with batch:
                async for outcome in batch:
                    read.append(outcome)
    found = by_id([*read, *batch.unread])
    assert sorted(found) == sorted(order.id for order in orders.pulled)
    assert len(found) == len(course.timelines) or course.leaves_at is not None
    for order_id, outcome in found.items():
        order = sandbox.orders[order_id]
        open_ = isinstance(outcome.error, OrderUnresolved | CancelRefused) or getattr(outcome.error, "cancelled", None) is False
        assert outcome.code == order.code or (open_ and outcome.code is None)
        assert open_ or not order.held, f"{outcome} and the money is held"


@pytest.mark.parametrize("backend", ["asyncio", *["trio"] * HAS_TRIO])
@settings(max_examples=20, deadline=None)
@given(course=COURSES_OF_MANY)
def test_in_any_course_each_order_has_one_outcome_and_neither_a_code_nor_money_is_lost(backend: str, course: Course) -> None:
    anyio.run(go_through, course, backend=backend, backend_options=in_virtual_time(backend))
