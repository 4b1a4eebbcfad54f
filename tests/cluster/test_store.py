"""What Redis does in one step, asked of it step by step; workers and readers are played by the tests."""

import asyncio
import contextlib
import json
import math
import random
from typing import Any

import anyio
import pytest
import redis.exceptions
import trio

from sms4sats_async import Client, Order, Outcome
from sms4sats_async.cluster import Cluster, Worker
from sms4sats_async.cluster.messages import outcome_to_json
from sms4sats_async.cluster.store import Beat, Pulse, RedisAway, Store, Telling
from tests.cluster.redis_server import Job, RedisServer, needs_redis, outcomes

pytestmark = pytest.mark.real_time


class Played:
    """A worker that does nothing but beat."""

    def __init__(self, store: Store, name: str, **says: Any) -> None:
        self.store = store
        self.name = name
        self.says: dict[str, Any] = {"rate": 10, "used": 0, "watching": 0, "open": True, "keep_share": 1.5, "give_up_after": 3.0} | says
        self.heard = Beat("")
        self.number = 0

    async def beat(self, **says: Any) -> Beat:
        """Beat, and note what was answered."""
        braked = says.pop("braked", 0.0)
        self.says |= says
        self.number += 1
        self.said = Pulse(self.name, self.heard.epoch, self.heard.now, state={}, braked=braked, number=self.number, **self.says)
        self.heard = await self.store.beat(self.said)
        self.says["used"] = max(self.heard.share, self.says["used"] if self.heard.word == "ok" else 0)
        return self.heard


def store_of(job: Job) -> Store:
    return Store(job.redis.url, job.name)


async def tell(store: Store, worker: Played, heard: Beat, *entries: str) -> None:
    await store.tell([Telling("{}", "x", heard.epoch, entries)], worker=worker.name, heard=heard.now, keep_share=1.5)


async def settled(*workers: Played) -> None:
    """Let all beat until each has its share."""
    with anyio.fail_after(20):
        while True:
            shares = [(await worker.beat(used=worker.heard.share)).share for worker in workers]
            if all(shares):
                return
            await anyio.sleep(0.1)


async def again(server: RedisServer, store: Store, *, forget: bool = False) -> None:
    """Kill a server, and start it again."""
    server.kill()
    if forget:
        server.forget()
    server.start()
    with contextlib.suppress(RedisAway):  # over the connection from before
        await store.check()


# --- the rate ----------------------------------------------------------------------------------------------------------------------


async def test_whatever_the_workers_watch_their_shares_are_never_more_than_the_rate(job: Job) -> None:
    chance = random.Random(1)  # noqa: S311 - the same each time
    async with store_of(job) as store:
        workers = [Played(store, name) for name in "abc"]
        await settled(*workers)
        seen: set[tuple[int, ...]] = set()
        for _ in range(300):
            worker = chance.choice(workers)
            if chance.random() < 0.3:  # a second has passed, as far as anybody is told
                worker.says["used"] = worker.heard.share
            await worker.beat(watching=chance.choice([0, 1, 10, 100]))
            shares = tuple(one.heard.share for one in workers)
            assert sum(shares) <= 10
            seen.add(shares)
        assert len(seen) > 20


async def test_a_beat_that_is_heard_after_a_later_one_counts_for_nothing(job: Job) -> None:
    async with store_of(job) as store:
        one, two = Played(store, "one"), Played(store, "two")
        await settled(one, two)
        await one.beat(used=1, watching=0)
        slow = one.said
        await settled(one, two)
        one.says["watching"] = 100
        for _ in range(4):
            await settled(one, two)
        assert (one.heard.share, two.heard.share) == (9, 1)
        late = await store.beat(slow)
        assert (await two.beat(watching=1000, used=1)).share == 1
        assert late.word == "late"
        assert (await one.beat()).word == "ok"


async def test_the_lowest_rate_counts_and_who_has_left_is_not_counted(job: Job) -> None:
    async with store_of(job) as store:
        one, two, slow = Played(store, "one", watching=5), Played(store, "two", watching=5), Played(store, "slow", rate=4, watching=0)
        await settled(one, two)
        assert (one.heard.share, two.heard.share) == (5, 5)
        await settled(one, two, slow)
        assert one.heard.share + two.heard.share + slow.heard.share <= 4
        await store.leave("slow", 0.0)
        await anyio.sleep(0.01)
        await settled(one, two)
        await settled(one, two)
        assert (one.heard.share, two.heard.share) == (5, 5)


async def test_who_is_new_to_a_redis_that_has_just_started_waits_until_the_others_are_heard(redis_server: RedisServer) -> None:
    job = Job(redis_server)
    async with store_of(job) as store:
        old, new, newer = Played(store, "old"), Played(store, "new"), Played(store, "newer")
        await settled(old)
        await again(redis_server, store)
        started = anyio.current_time()
        assert (await old.beat()).share == 10
        assert (await new.beat()).share == 0
        await settled(old, new)
        assert 2 < anyio.current_time() - started < 10
        await again(redis_server, store, forget=True)
        assert (await newer.beat()).share == 0  # though nobody else is known
        assert (await old.beat()).word == "forgotten"
        assert (await newer.beat()).share == 0


async def test_the_brake_is_on_for_all_and_for_the_longest_that_was_asked_for(job: Job) -> None:
    async with store_of(job) as store:
        one, two = Played(store, "one"), Played(store, "two")
        assert (await one.beat()).braked == 0
        assert (await one.beat(braked=30.0)).braked == 30
        assert 29 < (await two.beat(braked=5.0)).braked <= 30
        assert 29 < (await two.beat()).braked <= 30


# --- the dead and the lost ---------------------------------------------------------------------------------------------------------


async def test_nobody_is_taken_for_dead_because_redis_was_away(job: Job) -> None:
    async with store_of(job) as store:
        one, two = Played(store, "one", give_up_after=1.0), Played(store, "two", give_up_after=1.0)
        await settled(one, two)
        await anyio.sleep(3.2)  # nobody could be heard
        assert (await one.beat()).dead == ()
        await anyio.sleep(0.3)
        assert (await one.beat()).dead == ()
        await anyio.sleep(0.9)  # but then one was, and the other one was not
        assert (await one.beat()).dead == ("two",)


async def test_who_came_back_from_the_dead_and_died_again_is_found_by_what_it_holds(job: Job) -> None:
    async with store_of(job) as store:
        one = Played(store, "one", give_up_after=0.2)
        await settled(one)
        await store.submit([("x", '{"id": "x"}')])
        assert [entry for entry, _ in await store.read("ghost", 1)]
        with anyio.fail_after(5):
            while (await one.beat()).dead != ("ghost",):  # noqa: ASYNC110 - of Redis's clock
                await anyio.sleep(0.05)
        assert len(await store.take_over("one", "ghost", 0.2, 10)) == 1
        assert (await one.beat()).held == 1
        assert await store.take_over("one", "ghost", 0.2, 10) == []
        assert (await one.beat()).dead == ()


@pytest.mark.parametrize("how", ["older", "gone"])
async def test_data_that_are_older_than_what_was_answered_are_lost_data(job: Job, how: str) -> None:
    async with store_of(job) as store:
        one, two = Played(store, "one"), Played(store, "two")
        await settled(one, two)
        before = one.heard
        with job.redis.client() as client:
            if how == "gone":
                client.hdel(job.key("workers"), "one")
            else:
                record = json.loads(client.hget(job.key("workers"), "one") or "")
                client.hset(job.key("workers"), "one", json.dumps(record | {"beat": record["beat"] - 1}))
            await tell(store, one, before, "1-1")  # it cannot be known if that was told
            assert client.xlen(job.key("outcomes")) == 1
        assert (await one.beat()).word == "forgotten"
        assert (await two.beat()).word == "forgotten"  # by the new epoch
        busy, _ = await store.look()
        assert busy  # what was lost may be put back yet
        assert (await Played(store, "three").beat()).share == 0


async def test_a_reader_does_not_take_lost_data_for_the_end(redis_server: RedisServer) -> None:
    job = Job(redis_server)
    async with store_of(job) as store, job.cluster() as cluster:
        one = Played(store, "one", keep_share=0.1, give_up_after=3.0)
        await settled(one)
        await store.submit([("x", '{"id": "x"}')])
        reading = asyncio.ensure_future(outcomes(cluster))
        await anyio.sleep(0.3)
        await again(redis_server, store, forget=True)
        await anyio.sleep(1)
        assert not reading.done()  # nobody has beaten yet
        assert (await one.beat()).word == "forgotten"
        await store.leave("one", 0.0)
        await anyio.sleep(0.7)
        assert not reading.done()  # it may be put back
        assert await reading == []  # it was not


async def test_an_end_is_told_by_whoever_is_first(job: Job) -> None:
    async with store_of(job) as store:
        one, two = Played(store, "one"), Played(store, "two")
        await settled(one, two)
        await store.submit([("x", '{"id": "x"}')])
        [(entry, _)] = await store.read("one", 1)
        for worker in (one, two):
            await tell(store, worker, worker.heard, entry)
        with job.redis.client() as client:
            assert client.xlen(job.key("outcomes")) == 1
            assert client.exists(job.key("orders")) == 1
            assert client.hlen(job.key("open")) == 0
        await store.bury((entry, {b"order": b"x"}), "it is somebody else's")
        assert await store.dead_letters() == []


async def test_a_redis_that_is_full_takes_no_order_away(redis_server: RedisServer) -> None:
    job = Job(redis_server)
    async with store_of(job) as store:
        one = Played(store, "one")
        await settled(one)
        await store.submit([("x", '{"id": "x"}'), ("y", "{")])
        (entry, _), bad = await store.read("one", 2)
        with redis_server.client() as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(RedisAway) as full:
                await tell(store, one, one.heard, entry)
            assert not full.value.refused
            with pytest.raises(RedisAway):
                await store.bury(bad, "no order")
            client.config_set("maxmemory", 0)
            assert await store.waiting() == 2
            await tell(store, one, one.heard, entry)
            await store.bury(bad, "no order")
            assert client.xlen(job.key("outcomes")) == 1
        assert await store.waiting() == 0
        assert len(await store.dead_letters()) == 1


async def test_a_redis_that_is_full_lets_its_outcomes_be_read(redis_server: RedisServer) -> None:
    job = Job(redis_server)
    async with store_of(job) as store, job.cluster() as cluster:
        await Played(store, "one").beat()
        with redis_server.client() as client:
            client.xadd(job.key("outcomes"), {"outcome": outcome_to_json(Outcome(Order("x"), "048213"))})
            client.config_set("maxmemory", 1)
            assert [outcome.code for outcome in await outcomes(cluster, 5)] == ["048213"]
            assert client.xlen(job.key("outcomes")) == 0


async def test_readers_may_come_together_and_first(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    async def read(reader: str) -> None:
        async with job.cluster() as cluster:
            assert [outcome async for outcome in cluster.outcomes(reader=reader)] == []

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(read, f"{number}")
    assert caplog.text == ""
    with job.redis.client() as client:
        client.delete(job.key("outcomes"))
        client.set(job.key("outcomes"), "mine")
    with pytest.raises(PermissionError, match="ResponseError"):
        await read("late")


# --- what is told ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://there", "redis://:pa/s3cr3t@there:6379", "redis://there:s3cr3t", "redis://there?s3cr3t=1"])
async def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    async with Client() as client:
        for make in (Cluster, lambda url: Worker(client, url, rate=1)):
            with pytest.raises(ValueError, match="redis://, rediss:// or unix://") as refused:
                make(url)
            assert "s3cr3t" not in str(refused.value)
            assert refused.value.__suppress_context__


async def test_what_a_url_must_not_change_is_told() -> None:
    with pytest.raises(ValueError, match=r"^url cannot say protocol or decode_responses$"):
        Cluster("redis://there?decode_responses=true&protocol=3")


def test_what_went_wrong_is_told_by_its_kind_and_not_by_its_words() -> None:
    error = redis.exceptions.ConnectionError("s3cr3t")
    assert str(RedisAway(error)) == "redis: ConnectionError"
    error.__context__ = OSError("s3cr3t")
    assert str(RedisAway(error)) == "redis: ConnectionError, OSError"
    error.__cause__ = redis.exceptions.AuthenticationError("s3cr3t")
    assert RedisAway(error).refused
    assert not RedisAway(redis.exceptions.ResponseError("MISCONF s3cr3t")).refused


def test_without_a_redis_server_the_tests_are_skipped_or_fail_as_asked() -> None:
    for required, how in (("1", pytest.fail.Exception), (None, pytest.skip.Exception)):
        with pytest.raises(how, match="there is no redis-server"):
            needs_redis(lambda _: None, required)


def test_the_cluster_needs_asyncio_and_says_so() -> None:
    async def ask() -> None:
        async with Client() as client:
            with pytest.raises(RuntimeError, match="asyncio"):
                await Worker(client, "redis://there", rate=1).run()
            with pytest.raises(RuntimeError, match="asyncio"):
                await Cluster("redis://there").submit(Order("x"))

    trio.run(ask)


async def test_arguments_are_checked_before_anything_is_begun() -> None:
    async with Client() as client:
        with pytest.raises(ValueError, match="give_up_after"):
            Worker(client, "redis://there", rate=1, keep_share=10, give_up_after=11)
        with pytest.raises(TypeError, match="rate"):
            Worker(client, "redis://there", rate=1.5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="finite"):
            Worker(client, "redis://there", rate=1, give_up_after=math.inf)
        with pytest.raises(ValueError, match="hold_window"):
            Worker(client, "redis://there", rate=1, hold_window=-1)
        with pytest.raises(ValueError, match="order_id"):
            await Cluster("redis://there").submit(" ")
        with pytest.raises(ValueError, match="its id is no text"):  # no worker could read it
            await Cluster("redis://there").submit(Order(" "))
        assert repr(Cluster("redis://:s3cr3t@there", name="mine")) == "<Cluster mine>"
