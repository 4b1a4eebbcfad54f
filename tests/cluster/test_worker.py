"""Workers and Redis, both real; the service is scripted, and holds the truth."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from sms4sats_async import Client, Order, OrderExpired, OrderFailed, OrderKind
from sms4sats_async.cluster import Cluster, Worker
from tests.cluster.redis_server import RedisServer
from tests.faults.service import NO_NUMBER, Held, Service
from tests.test_agenda import most_in_a_second

pytestmark = pytest.mark.real_time


class Noting(httpx.AsyncHTTPTransport):
    """A transport that notes when it is given a request: that is right after the request had its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.permits: list[float] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.permits.append(anyio.current_time())
        return await super().handle_async_request(request)


@asynccontextmanager
async def working(*workers: Worker) -> AsyncGenerator[None]:
    """Workers at work, which are stopped at the end."""
    async with anyio.create_task_group() as tasks:
        for worker in workers:
            tasks.start_soon(worker.run)
        yield
        for worker in workers:
            worker.stop()


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until this is so."""
    with anyio.fail_after(seconds):
        while not true():  # noqa: ASYNC110 - of another process, or another's task
            await anyio.sleep(0.01)


def two_workers(client: Client, redis_server: RedisServer, capacity: int = 100) -> list[Worker]:
    """Two that look every second, and soon miss Redis and each other."""
    return [
        Worker(client, redis_server.url, rate=100, capacity=capacity, poll_interval=1.0, keep_share=1.5, give_up_after=3.0)
        for _ in range(2)
    ]


def orders(service: Service, count: int, **times: float) -> list[Held]:
    """Orders that are paid and have a number, and whatever else so many seconds later."""
    now = anyio.current_time()
    later: dict[str, Any] = {name: now + after for name, after in times.items()}
    return [
        service.order(f"{number:04d}" * 8, **{"code": f"{number:06d}", "paid_at": now, "number_at": now, **later})
        for number in range(count)
    ]


async def test_orders_go_in_and_outcomes_come_out(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        held = orders(service, 20, code_at=0.5)
        for order in held:
            assert await cluster.submit(Order(order.id))
        codes = {}
        async with working(Worker(client, redis_server.url, rate=50)):
            async for outcome in cluster.outcomes():
                codes[outcome.order.id] = outcome.code
        assert codes == {order.id: order.code for order in held}
        assert await cluster.waiting() == 0


async def test_an_order_put_in_twice_is_watched_once_and_told_once(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        [held] = orders(service, 1, code_at=1.0)
        assert await cluster.submit(held.id) is True
        assert await cluster.submit(Order(held.id)) is False
        with redis_server.client() as redis:  # past submit, as another program may
            redis.xadd("sms4sats:orders", {"order": json.dumps({"id": held.id})})
        async with working(worker := Worker(client, redis_server.url, rate=50)):
            await until(lambda: worker.watching == 1)
            told = [outcome.code async for outcome in cluster.outcomes()]
        assert told == [held.code]
        assert held.most_at_once == 1
        assert await cluster.submit(held.id) is True  # its end was told: it can be put in anew


async def test_outcomes_that_come_together_are_told_and_forgotten_together(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        held = orders(service, 120, code_at=1000.0)
        for order in held:
            await cluster.submit(order.id)
        async with working(Worker(client, redis_server.url, rate=200, poll_interval=2.0)):
            await until(lambda: all(order.looks for order in held))
            with redis_server.client() as redis:
                redis.config_resetstat()
                for order in held:
                    order.code_at = anyio.current_time()
                await until(lambda: redis.xlen("sms4sats:orders") == 0)
                told = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
                redis.config_resetstat()
                codes = [outcome.code async for outcome in cluster.outcomes()]
                forgotten = redis.info("commandstats")["cmdstat_xdel"]["calls"]
                assert redis.xlen("sms4sats:outcomes") == 0
    assert sorted(filter(None, codes)) == [order.code for order in held]
    assert told < 100  # beats included
    assert forgotten < 20


async def test_who_stops_reading_is_told_again_what_it_was_not_done_with(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client:
        held = orders(service, 10, code_at=0.0)
        async with Cluster(redis_server.url) as cluster, working(Worker(client, redis_server.url, rate=100)):
            for order in held:
                await cluster.submit(order.id)
            with anyio.fail_after(30):
                while await cluster.waiting():  # noqa: ASYNC110 - of another's task
                    await anyio.sleep(0.1)
            outcomes = cluster.outcomes()
            first = [(await anext(outcomes)).code for _ in range(5)]
            await outcomes.aclose()
        async with Cluster(redis_server.url) as cluster:
            rest = [outcome.code async for outcome in cluster.outcomes()]
    assert first[-1] == rest[0]  # it was given, but the next one was never asked for
    assert sorted(filter(None, first[:-1] + rest)) == [order.code for order in held]


async def test_what_ends_without_a_code_is_told_as_a_batch_tells_it(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        [failed] = orders(service, 1, failed_at=0.1)
        now = anyio.current_time()
        paid = service.order("p" * 32, paid_at=now, number_at=now, cancel_from=0.0)
        for order in (failed, paid):
            await cluster.submit(order.id)
        async with working(Worker(client, redis_server.url, rate=50, hold_window=1.0)):
            told = {outcome.order.id: outcome async for outcome in cluster.outcomes()}
    no_number, expired = told[failed.id].error, told[paid.id].error
    assert isinstance(no_number, OrderFailed)
    assert (no_number.reason, no_number.order_id) == (NO_NUMBER, failed.id)
    assert isinstance(expired, OrderExpired)
    assert (expired.paid, expired.cancelled, expired.reason) == (True, True, None)
    assert expired.status is not None
    assert expired.status.number == "+15550001111"
    assert len(paid.cancels) == 1


async def test_a_rental_tells_each_code_and_goes_on(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        rental = service.order(kind="rental", paid_at=0.0, number_at=0.0, code_at=0.0, code="1111")
        await cluster.submit(Order(rental.id, OrderKind.rental))
        async with working(Worker(client, redis_server.url, rate=50)):
            outcomes = cluster.outcomes()
            assert (await anext(outcomes)).code == "1111"
            rental.code = "2222"
            assert (await anext(outcomes)).code == "2222"
            assert await cluster.waiting() == 1
            await outcomes.aclose()


async def test_what_is_no_order_lies_with_the_dead_letters_and_stops_nothing(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        [held] = orders(service, 1, code_at=0.0)
        secret = "s3cr3t" * 5
        with redis_server.client() as redis:
            for text in ("{", "[]", "{}", json.dumps({"id": secret, "kind": secret}), json.dumps({"id": secret, "country": True})):
                redis.xadd("sms4sats:orders", {"order": text})
            redis.xadd("sms4sats:orders", {f"{number}": secret for number in range(5000)})  # more than a script can take at once
            redis.xadd("sms4sats:orders", {"task": secret})
        await cluster.submit(held.id)
        async with working(Worker(client, redis_server.url, rate=50)):
            assert [outcome.code async for outcome in cluster.outcomes()] == [held.code]
        letters = await cluster.dead_letters()
    assert [letter.reason for letter in letters] == [
        "the order is not JSON",
        "the order is not a JSON object",
        "order: no id",
        "its kind or its created_at cannot be read",
        "order: country cannot be a boolean",
        "there is no field named order",
        "there is no field named order",
    ]
    assert letters[-1].fields == {"task": secret.encode()}
    assert secret not in caplog.text + repr(letters)


async def test_a_worker_that_stops_hands_back_its_orders_at_once_and_cancels_none(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        held = orders(service, 30, code_at=6.0)
        for order in held:
            await cluster.submit(order.id)
        first, second = (Worker(client, redis_server.url, rate=100) for _ in range(2))
        async with working(first):
            await until(lambda: first.watching == 30)
            async with working(second):
                await until(lambda: all(order.looks for order in held))
                first.stop()
                began = anyio.current_time()
                await until(lambda: second.watching == 30)
                assert anyio.current_time() - began < 1.0
                told = [outcome.code async for outcome in cluster.outcomes()]
    assert sorted(filter(None, told)) == [order.code for order in held]
    assert [order.cancels for order in held] == [[]] * 30


async def test_a_worker_that_is_cancelled_hands_back_as_well(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        [held] = orders(service, 1, code_at=3.0)
        await cluster.submit(held.id)
        first, second = (Worker(client, redis_server.url, rate=100) for _ in range(2))
        running = asyncio.ensure_future(first.run())
        await until(lambda: first.watching == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with working(second):
            await until(lambda: second.watching == 1, 2)
            assert [outcome.code async for outcome in cluster.outcomes()] == [held.code]
    assert not held.cancels


async def test_shares_follow_the_orders_and_are_never_more_than_the_rate(redis_server: RedisServer) -> None:
    service, noting = Service(), Noting()
    async with (
        service.serving() as server,
        noting,
        Client(base_url=server.url, transport=noting) as client,
        Cluster(redis_server.url) as cluster,
        working(one := Worker(client, redis_server.url, rate=30, capacity=50)),
    ):
        with anyio.fail_after(30):
            while not await cluster.workers():  # noqa: ASYNC110 - of another's task
                await anyio.sleep(0.05)
        async with working(two := Worker(client, redis_server.url, rate=40, capacity=50)):
            for order in orders(service, 100):
                await cluster.submit(order.id)
            await until(lambda: one.watching + two.watching == 100, 20)
            most = 0
            with anyio.move_on_after(5):
                while True:
                    states = await cluster.workers()
                    most = max(most, sum(state.share for state in states))
                    await anyio.sleep(0.05)
            states = await cluster.workers()
    assert 25 <= most <= 30  # the lowest rate counts; what is not whole is nobody's
    assert sum(state.watching for state in states) == 100
    for state in states:
        assert abs(state.share - 30 * state.watching / 100) <= 2
        assert 0 < state.requests_per_second <= 30
        assert state.oldest_seconds is not None
        assert 3 < state.oldest_seconds < 30
        assert state.silent_seconds < 2
    assert len(noting.permits) >= 100
    assert most_in_a_second(noting.permits) <= 30


async def test_without_a_share_a_worker_stands_by(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        one, two = (Worker(client, redis_server.url, rate=1) for _ in range(2))
        async with working(one):
            [held] = orders(service, 1, code_at=0.0)
            await cluster.submit(held.id)
            await until(lambda: one.watching == 1 or bool(held.looks))
            async with working(two):
                assert [outcome.code async for outcome in cluster.outcomes()] == [held.code]
                await cluster.submit(orders(service, 1)[0].id)
                await until(lambda: one.watching == 1)
                await anyio.sleep(1)
                assert two.watching == 0
                assert sorted(state.share for state in await cluster.workers()) == [0, 1]


async def test_the_capacity_holds_back_new_orders_and_no_orphans(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        for order in orders(service, 12):
            await cluster.submit(order.id)
        one, two = (Worker(client, redis_server.url, rate=50, capacity=5) for _ in range(2))
        async with working(one, two):
            await until(lambda: (one.watching, two.watching) == (5, 5))
            await anyio.sleep(1)
            assert (one.watching, two.watching) == (5, 5)
            one.stop()
            await until(lambda: two.watching == 10, 2)
            assert await cluster.waiting() == 12


# --- Redis goes and comes ----------------------------------------------------------------------------------------------------------


async def test_without_redis_polls_go_on_for_a_while_then_pause_then_go_on(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        [early, late] = orders(service, 2, code_at=1000.0)
        for order in (early, late):
            await cluster.submit(order.id)
        async with working(worker := Worker(client, redis_server.url, rate=50, poll_interval=1.0, keep_share=3.0, give_up_after=5.0)):
            await until(lambda: worker.watching == 2 and bool(late.looks))
            redis_server.kill()
            gone = anyio.current_time()
            early.code_at = gone + 1
            await until(lambda: anyio.current_time() > gone + 7)
            late.code_at = anyio.current_time()
            redis_server.start()
            back = anyio.current_time()
            told = [outcome.code async for outcome in cluster.outcomes()]
        looks = [at - gone for order in (early, late) for at in order.looks]
    assert sorted(filter(None, told)) == [early.code, late.code]
    assert any(1 < at < 3 for at in looks)  # the last share
    assert not any(3.1 < at < back - gone for at in looks)  # then none
    assert max(late.looks) > back


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_code_that_comes_without_redis_is_told_when_it_is_back(redis_server: RedisServer, how: str) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        held = orders(service, 10, code_at=1000.0)
        for order in held:
            await cluster.submit(order.id)
        async with working(worker := Worker(client, redis_server.url, rate=50, poll_interval=1.0)):
            await until(lambda: worker.watching == 10)
            getattr(redis_server, how)()
            for order in held:
                order.code_at = anyio.current_time()
            await anyio.sleep(3)
            redis_server.start() if how == "kill" else redis_server.go_on()
            told = [outcome.code async for outcome in cluster.outcomes()]
    assert sorted(filter(None, told)) == [order.code for order in held]


async def test_redis_that_has_lost_its_data_gets_the_orders_back(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        held = orders(service, 40, code_at=1000.0)
        for order in held:
            await cluster.submit(order.id)
        async with working(*(workers := two_workers(client, redis_server))):
            await until(lambda: all(order.looks for order in held))
            held[0].code_at = anyio.current_time()  # a code that was seen, and could not be told
            redis_server.kill()
            redis_server.forget()
            await anyio.sleep(1.5)
            redis_server.start()
            await until(lambda: sum(worker.watching for worker in workers) >= 39)
            for order in held:
                order.code_at = min(order.code_at, anyio.current_time() + 2)
            told = {outcome.order.id: outcome.code async for outcome in cluster.outcomes()}
    assert told == {order.id: order.code for order in held}
    assert not any(order.cancels for order in held)


async def test_nobody_is_taken_for_dead_because_redis_was_away(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        held = orders(service, 20, code_at=1000.0)
        one, two = two_workers(client, redis_server, capacity=10)
        async with working(one):
            await anyio.sleep(0.25)  # so that one of them is heard some time before the other
            async with working(two):
                for order in held:
                    await cluster.submit(order.id)
                await until(lambda: one.watching == two.watching == 10)
                redis_server.kill()
                await anyio.sleep(4)
                redis_server.start()
                for order in held:
                    order.code_at = anyio.current_time() + 2
                told = [outcome.code async for outcome in cluster.outcomes()]
    assert sorted(filter(None, told)) == [order.code for order in held]
    assert "taken over" not in caplog.text
    assert "a new start" not in caplog.text


async def test_a_worker_starts_before_redis_does(redis_server: RedisServer) -> None:
    service = Service()
    redis_server.kill()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        [held] = orders(service, 1, code_at=0.0)
        async with working(Worker(client, redis_server.url, rate=50)):
            await anyio.sleep(1)
            redis_server.start()
            await cluster.submit(held.id)
            assert [outcome.code async for outcome in cluster.outcomes()] == [held.code]


async def test_who_is_not_let_in_is_told(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        redis.config_set("requirepass", "secret")
    async with Client() as client, Cluster(redis_server.url) as cluster:
        with pytest.raises(PermissionError):
            await Worker(client, redis_server.url, rate=50).run()
        with pytest.raises(PermissionError):
            await cluster.submit("a" * 32)
