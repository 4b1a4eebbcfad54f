"""Workers and Redis, both real; the service is scripted, and holds the truth."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from sms4sats_async import Client, Order, OrderExpired, OrderFailed, OrderKind, OrderUnresolved
from sms4sats_async.cluster import Cluster, Worker
from sms4sats_async.cluster.store import Store
from tests.cluster.redis_server import Job, RedisServer, codes, outcomes
from tests.faults.service import NO_NUMBER, Held, Service, busy
from tests.servers import Reply
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
        tasks.cancel_scope.deadline = anyio.current_time() + 30
    assert not tasks.cancel_scope.cancelled_caught, "a worker was told to stop, and does not"


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until this is so."""
    with anyio.fail_after(seconds):
        while not true():  # noqa: ASYNC110 - of another process, or another's task
            await anyio.sleep(0.01)


def orders(service: Service, count: int, **times: float) -> list[Held]:
    """Orders that are paid and have a number, and whatever else so many seconds later."""
    now = anyio.current_time()
    later: dict[str, Any] = {name: now + after for name, after in times.items()}
    return [
        service.order(f"{number:04d}" * 8, **{"code": f"{number:06d}", "paid_at": now, "number_at": now, **later})
        for number in range(count)
    ]


@asynccontextmanager
async def playing(job: Job, **settings: Any) -> AsyncGenerator[tuple[Service, Client, Cluster]]:
    """The service, a client for workers, and the user's side of a job."""
    service = Service()
    async with service.serving() as server, Client(base_url=server.url, **settings) as client, job.cluster() as cluster:
        yield service, client, cluster
    await anyio.lowlevel.checkpoint()  # pragma: no cover - the tracer has lost these frames (see test_spending.py), and finds them again


async def submit(cluster: Cluster, held: list[Held]) -> None:
    for order in held:
        await cluster.submit(order.id)


def arrive(held: list[Held], after: float = 0.0) -> list[str]:
    """Let the codes come, and return them."""
    for order in held:
        order.code_at = anyio.current_time() + after
    return [order.code for order in held]


# --- orders and outcomes -----------------------------------------------------------------------------------------------------------


async def test_orders_go_in_and_outcomes_come_out(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        held = orders(service, 20, code_at=0.5)
        for order in held:
            assert await cluster.submit(Order(order.id))
        async with working(job.worker(client)):
            told = {outcome.order.id: outcome.code for outcome in await outcomes(cluster)}
        assert told == {order.id: order.code for order in held}
        assert await cluster.waiting() == 0


async def test_an_order_put_in_twice_is_watched_once_and_told_once(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        [held] = orders(service, 1, code_at=1.0)
        assert await cluster.submit(held.id) is True
        assert await cluster.submit(Order(held.id)) is False
        with job.redis.client() as redis:  # past submit, as another program may
            redis.xadd(job.key("orders"), {"order": json.dumps({"id": held.id})})
        async with working(worker := job.worker(client)):
            await until(lambda: worker.watching == 1)
            assert await codes(cluster) == [held.code]
        assert held.most_at_once == 1
        assert await cluster.submit(held.id) is True  # its end was told: it can be put in anew


async def test_outcomes_that_come_together_are_told_and_forgotten_together(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        held = orders(service, 120)
        await submit(cluster, held)
        async with working(job.worker(client, rate=200)):
            await until(lambda: all(order.looks for order in held))
            with job.redis.client() as redis:
                redis.config_resetstat()
                there = arrive(held)
                await until(lambda: redis.xlen(job.key("orders")) == 0)
                told = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
                redis.config_resetstat()
                assert await codes(cluster) == there
                forgotten = redis.info("commandstats")["cmdstat_xdel"]["calls"]
                assert redis.xlen(job.key("outcomes")) == 0
    assert told < 100  # beats included
    assert forgotten < 20


async def test_who_stops_reading_is_told_again_what_it_was_not_done_with(job: Job) -> None:
    async with playing(job) as (service, client, _):
        held = orders(service, 10, code_at=0.0)
        async with job.cluster() as cluster, working(job.worker(client)):
            await submit(cluster, held)
            with anyio.fail_after(30):
                while await cluster.waiting():  # noqa: ASYNC110 - of another's task
                    await anyio.sleep(0.1)
            reading = cluster.outcomes()
            first = [(await anext(reading)).code for _ in range(5)]
            await reading.aclose()
        async with job.cluster() as cluster:
            rest = [outcome.code for outcome in await outcomes(cluster)]
    assert first[-1] == rest[0]  # it was given, but the next one was never asked for
    assert sorted(filter(None, first[:-1] + rest)) == [order.code for order in held]


async def test_an_outcome_that_was_lost_on_the_way_is_told_again_before_the_end_and_a_cancelled_reader_loses_none(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        held = orders(service, 3)
        await submit(cluster, held)
        async with working(job.worker(client)):
            with anyio.move_on_after(1):  # while it waits for Redis
                await outcomes(cluster)
            arrive(held)
            with job.redis.client() as redis:
                await until(lambda: redis.xlen(job.key("outcomes")) == 3)
                assert redis.xreadgroup("readers", "reader", {job.key("outcomes"): ">"}, count=2)  # and the answer comes to nobody
            assert await codes(cluster) == [order.code for order in held]


async def test_what_ends_without_a_code_is_told_as_a_batch_tells_it(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        [failed] = orders(service, 1, failed_at=0.1)
        now = anyio.current_time()
        paid = service.order("p" * 32, paid_at=now, number_at=now, cancel_from=0.0)
        await submit(cluster, [failed, paid])
        async with working(job.worker(client, hold_window=1.0)):
            told = {outcome.order.id: outcome for outcome in await outcomes(cluster)}
    no_number, expired = told[failed.id].error, told[paid.id].error
    assert isinstance(no_number, OrderFailed)
    assert (no_number.reason, no_number.order_id) == (NO_NUMBER, failed.id)
    assert isinstance(expired, OrderExpired)
    assert (expired.paid, expired.cancelled, expired.reason) == (True, True, None)
    assert expired.status is not None
    assert expired.status.number == "+15550001111"
    assert len(paid.cancels) == 1


async def test_of_a_bare_id_the_status_tells_that_it_sends(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        now = anyio.current_time()
        sent = [service.order(word * 32, kind="send", paid_at=now, code_at=now + 1) for word in "st"]
        await cluster.submit(sent[0].id)
        await cluster.submit(sent[1].id, kind="send")
        async with working(job.worker(client)):
            told = {outcome.order.id: outcome for outcome in await outcomes(cluster)}
    for order in sent:
        status = told[order.id].status
        assert told[order.id].error is None
        assert status is not None
        assert status.sms_status == "sent"


async def test_a_rental_tells_each_code_and_goes_on(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        rental = service.order(kind="rental", paid_at=0.0, number_at=0.0, code_at=0.0, code="1111")
        await cluster.submit(Order(rental.id, OrderKind.rental))
        async with working(job.worker(client)):
            reading = cluster.outcomes()
            with anyio.fail_after(30):
                assert (await anext(reading)).code == "1111"
                rental.code = "2222"
                assert (await anext(reading)).code == "2222"
            assert await cluster.waiting() == 1
        async with working(job.worker(client)):
            with anyio.fail_after(30):
                assert (await anext(reading)).code == "2222"  # who has it now does not know that it was told
            await reading.aclose()


async def test_what_is_no_order_lies_with_the_dead_letters_and_stops_nothing(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    async with playing(job) as (service, client, cluster):
        [held] = orders(service, 1, code_at=0.0)
        secret = "s3cr3t" * 5
        bad = (
            "{",
            "[]",
            "{}",
            json.dumps({"id": secret, "kind": secret}),
            json.dumps({"id": secret, "country": True}),
            json.dumps({"id": f"{secret}\ud800"}),
        )
        with job.redis.client() as redis:
            for text in bad:
                redis.xadd(job.key("orders"), {"order": text})
            redis.xadd(job.key("orders"), {f"{number}": secret for number in range(5000)})  # more than a script can take at once
            redis.xadd(job.key("orders"), {"task": secret, "reason": secret, b"\xff": b"\xff"})
        await cluster.submit(held.id)
        async with working(job.worker(client)):
            assert await codes(cluster) == [held.code]
        letters = await cluster.dead_letters()
    assert [letter.reason for letter in letters] == [
        "the order is not JSON",
        "the order is not a JSON object",
        "order: no id",
        "its kind or its created_at cannot be read",
        "order: country cannot be a boolean",
        "its id is no text",
        "there is no field named order",
        "there is no field named order",
    ]
    assert letters[-1].fields == {"task": secret.encode(), "its reason": secret.encode(), "\\xff": b"\xff"}
    assert secret not in caplog.text + repr(letters)


async def test_what_is_no_outcome_lies_with_the_dead_letters_and_stops_nobody_who_reads(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    async with playing(job) as (service, client, cluster):
        held = orders(service, 2, code_at=0.0)
        await submit(cluster, held)
        with job.redis.client() as redis:
            gone = redis.xadd(job.key("outcomes"), {"outcome": "gone"})
            redis.xgroup_create(job.key("outcomes"), "readers", "0")
            redis.xreadgroup("readers", "reader", {job.key("outcomes"): ">"})
            redis.xdel(job.key("outcomes"), gone)  # given to the reader, and taken away by somebody else
            redis.xadd(job.key("outcomes"), {"outcome": "s3cr3t"})
            redis.xadd(job.key("outcomes"), {"result": "s3cr3t"})
            redis.xadd(job.key("outcomes"), {"outcome": '{"version": 2, "code": "s3cr3t"}'})
            async with working(job.worker(client)):
                assert await codes(cluster) == [order.code for order in held]
            assert redis.xlen(job.key("outcomes")) == 0
        letters = await cluster.dead_letters()
    assert [letter.reason for letter in letters] == [
        "the outcome cannot be read",
        "there is no field named outcome",
        "the outcome is of another version than this reader's",
    ]
    assert "s3cr3t" not in caplog.text + repr(letters)


# --- workers come and go -----------------------------------------------------------------------------------------------------------


async def test_a_worker_that_stops_hands_back_its_orders_at_once_and_cancels_none(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        held = orders(service, 30)
        await submit(cluster, held)
        took: list[float] = []
        workers = [job.worker(client) for _ in range(3)]
        async with working(*workers):
            await until(lambda: sum(worker.watching for worker in workers) == 30 and all(order.looks for order in held))
            for stopped in workers[:2]:
                stopped.stop()
                began = anyio.current_time()
                await until(lambda: sum(worker.watching for worker in workers if worker is not stopped) == 30)  # noqa: B023 - in this turn
                took.append(anyio.current_time() - began)
            there = arrive(held)
            assert await codes(cluster) == there
    assert min(took) < 1.0  # on a busy machine one of them may take longer
    assert [order.cancels for order in held] == [[]] * 30


async def test_a_worker_that_is_cancelled_hands_back_as_well(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        [held] = orders(service, 1)
        await cluster.submit(held.id)
        first, second = (job.worker(client) for _ in range(2))
        running = asyncio.ensure_future(first.run())
        await until(lambda: first.watching == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with working(second):
            await until(lambda: second.watching == 1, 5)
            arrive([held])
            assert await codes(cluster) == [held.code]
    assert not held.cancels


async def test_a_worker_whose_client_is_closed_hands_back_and_ends(job: Job) -> None:
    service = Service()
    async with service.serving() as server, job.cluster() as cluster:
        held = orders(service, 2)
        await submit(cluster, held)
        for watching in (2, 0):  # amid its orders, and without any
            client = Client(base_url=server.url)
            worker = job.worker(client)
            running = asyncio.ensure_future(worker.run())
            await until(lambda worker=worker, watching=watching: worker.watching == watching)  # type: ignore[misc]
            await client.aclose()
            with anyio.fail_after(10), pytest.raises(RuntimeError, match="closed"):
                await running
            if watching:
                async with Client(base_url=server.url) as another, working(job.worker(another)):
                    arrive(held)
                    assert await codes(cluster) == [order.code for order in held]


async def test_shares_follow_the_orders_and_are_never_more_than_the_rate(job: Job) -> None:
    noting = Noting()
    async with noting, playing(job, transport=noting) as (service, client, cluster):
        one, two = (job.worker(client, rate=rate, capacity=20) for rate in (80, 100))
        async with working(one, two):
            await submit(cluster, orders(service, 40))
            await until(lambda: one.watching + two.watching == 40, 20)
            shares: list[int] = []
            with anyio.fail_after(20):
                while shares != [40, 40]:
                    shares = [state.share for state in await cluster.workers()]
                    assert sum(shares) <= 80  # the lowest rate counts
                    await anyio.sleep(0.05)
            await anyio.sleep(1)
            states = await cluster.workers()
    for state in states:
        assert (state.watching, state.share) == (20, 40)
        assert 0 < state.requests_per_second <= 80
        assert state.oldest_seconds is not None
        assert 1 < state.oldest_seconds < 30
        assert state.silent_seconds < 5
    assert len(noting.permits) >= 40
    assert most_in_a_second(noting.permits) <= 80


async def test_without_a_share_a_worker_stands_by(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        one, two = (job.worker(client, rate=1) for _ in range(2))
        async with working(one):
            [held] = orders(service, 1, code_at=0.0)
            await cluster.submit(held.id)
            await until(lambda: one.watching == 1 or bool(held.looks))
            async with working(two):
                assert await codes(cluster) == [held.code]
                await submit(cluster, orders(service, 1))
                await until(lambda: one.watching == 1)
                await anyio.sleep(1)
                assert two.watching == 0
                assert sorted(state.share for state in await cluster.workers()) == [0, 1]


async def test_the_capacity_holds_back_new_orders_and_no_orphans(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        await submit(cluster, orders(service, 12))
        one, two = (job.worker(client, capacity=5) for _ in range(2))
        async with working(one, two):
            await until(lambda: (one.watching, two.watching) == (5, 5))
            await anyio.sleep(1)
            assert (one.watching, two.watching) == (5, 5)
            one.stop()
            await until(lambda: two.watching == 10, 5)
            assert await cluster.waiting() == 12


async def test_the_last_steps_of_an_order_are_seen_through_and_told_by_who_is_stopped_amid_them(job: Job) -> None:
    async def late(reply: Reply, answer: bytes) -> None:
        await anyio.sleep(1)
        await reply.raw(answer)

    async with playing(job) as (service, client, cluster):
        [held] = orders(service, 1)
        held.cancel_from = 0.0
        service.next("/cancelorder", late)
        await cluster.submit(held.id)
        async with working(worker := job.worker(client, hold_window=1.0)):
            await until(lambda: bool(held.cancels))
            worker.stop()
            [outcome] = await outcomes(cluster)
    assert isinstance(outcome.error, OrderExpired)
    assert outcome.error.cancelled


async def test_a_dead_workers_orders_are_taken_over_some_at_each_beat(job: Job) -> None:
    async with playing(job) as (_, client, cluster), Store(job.redis.url, job.name) as store:
        async with working(first := job.worker(client)):
            await until(lambda: first.watching == 0 and "at rest" not in repr(first))
        for number in range(11):
            await store.submit([(f"{number}-{one}", f'{{"id": "{number}-{one}"}}') for one in range(100)])
        while await store.read("ghost", 500):
            pass
        await store.leave("ghost", 0.0)
        async with working(worker := job.worker(client, capacity=1)):
            await until(lambda: worker.watching == 1100)
            worker.stop()
        assert await cluster.waiting() == 1100


async def test_an_order_that_was_given_and_lost_on_the_way_is_found(job: Job) -> None:
    async with playing(job) as (service, client, cluster), working(worker := job.worker(client, capacity=1)):
        held = orders(service, 2)
        await cluster.submit(held[0].id)
        await until(lambda: worker.watching == 1)  # it is full, and asks for no more
        await cluster.submit(held[1].id)
        [state] = await cluster.workers()
        with job.redis.client() as redis:
            assert redis.xreadgroup("workers", state.name, {job.key("orders"): ">"})  # and the answer comes to nobody
        await until(lambda: worker.watching == 2, 10)
        arrive(held)
        assert await codes(cluster) == [order.code for order in held]


async def test_too_many_requests_brake_the_whole_cluster(job: Job) -> None:
    async with playing(job) as (service, client, cluster):
        held = orders(service, 20)
        one, two = (job.worker(client, capacity=10) for _ in range(2))
        async with working(one, two):
            await submit(cluster, held)
            await until(lambda: all(order.looks for order in held))
            assert (one.watching, two.watching) == (10, 10)
            service.next("/orderstatus", busy("3"))
            await until(lambda: service.struck == 1)
            braked = anyio.current_time()
            await until(lambda: anyio.current_time() > braked + 3)  # meanwhile each is to be asked about every second
            there = arrive(held)
            assert await codes(cluster) == there
    after = [request.at - braked for request in service.requests]
    assert not any(1.5 < at < 2.95 for at in after)  # two beats: one tells, the other one is told
    assert any(0.01 < at < 1.5 for at in after)  # until then there was something to do
    assert max(after) > 3


# --- Redis goes and comes ----------------------------------------------------------------------------------------------------------


async def test_without_redis_polls_go_on_for_a_while_then_pause_then_go_on(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(redis_server)
    caplog.set_level(logging.INFO)
    async with playing(job) as (service, client, cluster):
        [early, late] = orders(service, 2)
        await submit(cluster, [early, late])
        async with working(worker := job.worker(client)):
            await until(lambda: worker.watching == 2 and bool(late.looks))
            redis_server.kill()
            gone = anyio.current_time()
            early.code_at = gone + 0.1
            await until(lambda: anyio.current_time() > gone + 4)
            late.code_at = anyio.current_time()
            redis_server.start()
            back = anyio.current_time()
            told = await codes(cluster)
        looks = [at - gone for order in (early, late) for at in order.looks]
    assert told == [early.code, late.code]
    assert any(0.1 < at < 1.5 for at in looks)  # the last share
    assert not any(2 < at < back - gone for at in looks)  # then none
    assert max(late.looks) > back
    assert caplog.text.count("going on with a share") == 1
    assert caplog.text.count("redis is back") == 1


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_code_that_comes_without_redis_is_told_when_it_is_back(redis_server: RedisServer, how: str) -> None:
    job = Job(redis_server)
    async with playing(job) as (service, client, cluster):
        held = orders(service, 10)
        await submit(cluster, held)
        async with working(worker := job.worker(client, keep_share=10.0, give_up_after=12.0)):
            await until(lambda: worker.watching == 10)
            getattr(redis_server, how)()
            there = arrive(held)
            await anyio.sleep(2.5)
            redis_server.start() if how == "kill" else redis_server.go_on()
            assert await codes(cluster) == there


async def test_an_end_without_an_answer_is_told_but_after_a_pause_the_order_is_watched_on_first(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(redis_server)
    async with playing(job) as (service, client, cluster):
        [held] = orders(service, 1)
        async with working(worker := job.worker(client)):
            nobody_can_be_asked = "x" * 100_000  # more than an address can hold
            await cluster.submit(nobody_can_be_asked)
            assert [type(outcome.error) for outcome in await outcomes(cluster)] == [OrderUnresolved]
            assert "is watched on" not in caplog.text
            await cluster.submit(held.id)
            await until(lambda: worker.watching == 1)
            redis_server.kill()
            await anyio.sleep(2.5)
            redis_server.start()
            await cluster.submit(nobody_can_be_asked)
            await until(lambda: "is watched on" in caplog.text)
            arrive([held])
            assert {type(outcome.error) for outcome in await outcomes(cluster)} == {OrderUnresolved, type(None)}
            assert caplog.text.count("is watched on") == 1


async def test_redis_that_has_lost_its_data_gets_the_orders_back(redis_server: RedisServer) -> None:
    job = Job(redis_server)
    async with playing(job) as (service, client, cluster):
        held = orders(service, 12)
        await submit(cluster, held)
        workers = [job.worker(client) for _ in range(2)]
        async with working(*workers):
            await until(lambda: all(order.looks for order in held))
            reading = asyncio.ensure_future(outcomes(cluster))
            await anyio.sleep(0.1)
            arrive(held[:1])  # a code that was seen, and could not be told
            redis_server.kill()
            redis_server.forget()
            await anyio.sleep(1.2)
            redis_server.start()
            await until(lambda: sum(worker.watching for worker in workers) >= 11)
            arrive(held[1:])
            told = {outcome.order.id: outcome.code for outcome in await reading}  # which has not taken the empty Redis for the end
    assert told == {order.id: order.code for order in held}
    assert not any(order.cancels for order in held)


async def test_redis_that_came_back_with_an_old_backup_gets_back_what_it_lost(redis_server: RedisServer) -> None:
    job = Job(redis_server)
    async with playing(job) as (service, client, cluster):
        held = orders(service, 12)
        async with working(worker := job.worker(client)):
            await submit(cluster, held[:4])
            await until(lambda: worker.watching == 4)
            redis_server.back_up()
            await submit(cluster, held[4:])
            await until(lambda: worker.watching == 12)
            await anyio.sleep(0.6)  # a beat is in the data that are lost
            arrive(held[:6])
            redis_server.kill()
            await anyio.sleep(1.2)  # some of those codes are seen, and cannot be told
            redis_server.restore()
            redis_server.start()
            arrive(held[6:])
            told = {outcome.order.id: outcome.code for outcome in await outcomes(cluster)}
    assert told == {order.id: order.code for order in held}


async def test_a_worker_starts_before_redis_does_and_stops_without_it(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    job = Job(redis_server)
    redis_server.kill()
    async with playing(job) as (service, client, cluster):
        with anyio.fail_after(10):
            async with working(job.worker(client)):
                await anyio.sleep(0.2)
        [held] = orders(service, 1, code_at=0.0)
        async with working(job.worker(client)):
            submitted = asyncio.ensure_future(cluster.submit(held.id))
            await anyio.sleep(1)
            redis_server.start()
            assert await submitted
            assert await codes(cluster) == [held.code]
    assert caplog.text.count("ConnectionError, FileNotFoundError: waiting for it") == 3  # each says it once


async def test_a_worker_that_can_tell_nothing_ends_all_the_same(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    kept, lost = Job(redis_server, "kept"), Job(redis_server, "lost")
    async with playing(kept) as (service, client, cluster), lost.cluster() as other:
        held = orders(service, 5)
        await submit(cluster, held[:2])
        await submit(other, held[2:])
        workers = [job.worker(client) for job in (kept, lost)]
        async with working(*workers):
            await until(lambda: [worker.watching for worker in workers] == [2, 3])
            with redis_server.client() as redis:
                redis.execute_command("ACL", "SETUSER", "default", "-xadd")  # nothing can be put in
                arrive(held[:4])
                await until(lambda: [len(worker.untold) for worker in workers] == [2, 2])
                async with Store(redis_server.url, kept.name) as store:
                    [state] = await cluster.workers()
                    await store.leave(state.name, 0.0)  # as if it had been given up
                redis.delete(*redis.keys(lost.key("*")))
                await until(lambda: all(f"a new start: {why}" in caplog.text for why in ("given up", "forgotten")))
                await anyio.sleep(1.2)
                began = anyio.current_time()
                for worker in workers:
                    worker.stop()
                await until(lambda: caplog.text.count("2 outcomes could not be told") == 2)
                assert anyio.current_time() - began > 4  # it has tried
                assert caplog.text.count("1 orders are lost") == 1
                redis.execute_command("ACL", "SETUSER", "default", "+xadd")
        async with working(kept.worker(client)):
            assert await codes(cluster) == [order.code for order in held[:2]]


async def test_what_is_no_order_waits_until_it_can_be_put_with_the_dead_letters(redis_server: RedisServer) -> None:
    job = Job(redis_server)
    async with playing(job) as (_, client, cluster):
        with redis_server.client() as redis:
            redis.xadd(job.key("orders"), {"order": "{"})
            redis.execute_command("ACL", "SETUSER", "default", "-xadd")
            async with working(job.worker(client)):
                with anyio.fail_after(10):
                    while not (state := await cluster.workers()) or not state[0].share:  # noqa: ASYNC110 - of another's task
                        await anyio.sleep(0.05)
                await anyio.sleep(1)
                assert (await cluster.waiting(), await cluster.dead_letters()) == (1, [])
                redis.execute_command("ACL", "SETUSER", "default", "+xadd")
                assert await codes(cluster) == []
        assert [letter.reason for letter in await cluster.dead_letters()] == ["the order is not JSON"]


async def test_outcomes_that_were_read_and_not_forgotten_yet_are_told_again(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(redis_server)
    async with playing(job) as (service, client, cluster):
        held = orders(service, 3, code_at=0.0)
        async with working(job.worker(client)):
            await submit(cluster, held)
            assert await codes(cluster) == [order.code for order in held]
            await submit(cluster, held)
            await until(lambda: redis_server.client().xlen(job.key("outcomes")) == 3)
        async with job.cluster() as reader:
            reading = reader.outcomes()
            for _ in held:
                await anext(reading)
            await reading.aclose()
            redis_server.kill()
        assert "the last 2 outcomes that were read will be told again" in caplog.text
        redis_server.start()
        assert await codes(cluster) == [order.code for order in held]


async def test_who_is_not_let_in_is_told(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        redis.execute_command("ACL", "SETUSER", "reader", "on", ">word", "~*", "+@all", "-@write")
        redis.config_set("requirepass", "secret")
    for url in (redis_server.url, redis_server.url.replace("unix://", "unix://reader:word@")):
        async with Client() as client, Cluster(url) as cluster:
            with anyio.fail_after(10), pytest.raises(PermissionError):
                await Worker(client, url, rate=50).run()
            with anyio.fail_after(10), pytest.raises(PermissionError):
                await cluster.submit("a" * 32)


async def test_a_key_that_somebody_else_uses_is_told(job: Job) -> None:
    with job.redis.client() as redis:
        redis.set(job.key("orders"), "mine")
    async with job.cluster() as cluster:
        with anyio.fail_after(10), pytest.raises(PermissionError, match="ResponseError"):
            await outcomes(cluster)


async def test_a_worker_can_be_run_once(job: Job) -> None:
    async with Client() as client:
        worker = job.worker(client)
        assert repr(worker) == "<Worker at rest>"
        worker.stop()
        await worker.run()
        with pytest.raises(RuntimeError, match="once"):
            await worker.run()
