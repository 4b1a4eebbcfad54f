"""Workers as processes: killed, paused, told to stop; with a Redis that is killed as well."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from sms4sats_async import Order
from sms4sats_async.cluster import Cluster
from tests.cluster.jobs import Processes, asked, code_of, order_id, processes, service
from tests.cluster.redis_server import RedisServer, needs_redis
from tests.cluster.soak import Plan, run
from tests.faults.service import Held, Service

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.real_time


@pytest.fixture
def there(redis_server: RedisServer) -> Iterator[Processes]:
    with processes(redis_server.socket.parent) as all_of_them:
        yield all_of_them


def start(there: Processes, redis: RedisServer, url: str, name: str) -> "subprocess.Popen[bytes]":
    """Start a worker by its own command."""
    soon = ("--keep-share", "1", "--give-up-after", "2.5")
    return there.start("sms4sats_async.cluster", "--redis", redis.url, "--base-url", url, "--rate", "100", *soon, name=name)


async def watched(cluster: Cluster, count: int, seconds: float = 20.0) -> None:
    """Wait until so many orders are watched by workers that are there."""
    with anyio.fail_after(seconds):
        while sum(state.watching for state in await cluster.workers() if not state.left and state.silent_seconds < 2) < count:  # noqa: ASYNC110 - of another process
            await anyio.sleep(0.1)


async def test_workers_and_redis_are_killed_and_no_code_is_lost() -> None:
    needs_redis()
    plan = Plan(orders=2000, rate=400, code_from=5, code_to=20, kill_first=5, kill_second=9, redis_away=2, keep_share=3, give_up_after=5)
    with tempfile.TemporaryDirectory(prefix="r") as place:
        figures = await run(plan, Path(place))
    assert (figures.outcomes, figures.told_twice, figures.lost, figures.wrong, figures.cancels) == (2000, 0, 0, 0, 0)
    assert min(figures.orphans) > 50
    assert plan.give_up_after - 1 < figures.watched_again < 30
    assert figures.workers_left == 1
    assert figures.requests > 2000
    assert figures.most_permits <= plan.rate


async def test_a_worker_that_is_told_to_stop_ends_and_another_has_its_orders_within_a_second(
    redis_server: RedisServer, there: Processes
) -> None:
    url = service(there)
    ids = [order_id(number, 0.1, 1000) for number in range(50)]
    async with Cluster(redis_server.url) as cluster:
        first = start(there, redis_server, url, "first")
        for one in ids:
            await cluster.submit(Order(one))
        await watched(cluster, 50)
        start(there, redis_server, url, "second")
        with anyio.fail_after(20):
            while len([state for state in await cluster.workers() if state.share]) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.1)
        first.send_signal(signal.SIGTERM)
        told = time.monotonic()
        while (there.place / "second.log").read_text().count("taken over") == 0:
            await anyio.sleep(0.01)
            assert time.monotonic() < told + 1
        assert first.wait(10) == 0
        await watched(cluster, 50)
        await anyio.sleep(3)
        [second] = [state for state in await cluster.workers() if not state.left]
    logs = "".join(file.read_text() for file in there.place.glob("*.log") if file.name != "redis.log")
    assert not any(one in logs or code_of(one) in logs for one in ids)
    assert "50 orders" in logs
    looks = asked(there)
    assert all(looks[one][-1] > told for one in ids)
    assert not any(one.startswith("-") for one in looks)  # nobody has cancelled
    assert second.watching == 50


async def test_who_comes_back_from_the_dead_lets_go_of_its_orders(redis_server: RedisServer, there: Processes) -> None:
    url = service(there)
    ids = [order_id(number, 0.1, 9) for number in range(30)]
    async with Cluster(redis_server.url) as cluster:
        first = start(there, redis_server, url, "first")
        for one in ids:
            await cluster.submit(Order(one))
        await watched(cluster, 30)
        start(there, redis_server, url, "second")
        await anyio.sleep(2)
        first.send_signal(signal.SIGSTOP)
        await watched(cluster, 30)
        await anyio.sleep(3)
        first.send_signal(signal.SIGCONT)
        codes = {outcome.order.id: outcome.code async for outcome in cluster.outcomes()}
        with anyio.fail_after(10):
            while "a new start: given up" not in (there.place / "first.log").read_text():  # noqa: ASYNC110
                await anyio.sleep(0.1)
    assert codes == {one: code_of(one) for one in ids}


def test_what_cannot_be_is_told_before_anything_is_begun() -> None:
    command = [sys.executable, "-m", "sms4sats_async.cluster"]
    for arguments, words in ((["--rate", "0"], "rate"), (["--rate", "1", "--redis", "http://there"], "redis://"), ([], "--rate")):
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 2
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr


async def test_a_password_goes_by_the_environment(redis_server: RedisServer, there: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server.client() as redis:
        redis.config_set("requirepass", "s3cr3t")
    url = service(there)
    monkeypatch.setenv("SMS4SATS_REDIS", f"unix://:s3cr3t@{redis_server.socket}")
    there.start("sms4sats_async.cluster", "--base-url", url, "--rate", "10", name="right")
    monkeypatch.setenv("SMS4SATS_REDIS", f"unix://:wrong-1@{redis_server.socket}")
    wrong = there.start("sms4sats_async.cluster", "--base-url", url, "--rate", "10", name="wrong")
    async with Cluster(f"unix://:s3cr3t@{redis_server.socket}") as cluster:
        one = order_id(1, 0.1, 0.2)
        await cluster.submit(Order(one))
        assert [outcome.code async for outcome in cluster.outcomes()] == [code_of(one)]
    assert wrong.wait(20) == 2
    assert "wrong-1" not in json.dumps((there.place / "wrong.log").read_text())


def _at_once(held: Held) -> None:
    held.number_at, held.code_at = held.paid_at, held.paid_at + 1


async def test_the_program_of_the_readme(redis_server: RedisServer, there: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^```python\n(# job\.py: .*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    program = there.place / "job.py"
    program.write_text(found[1])
    book = Service(born=_at_once)
    async with book.serving() as server:
        for name, value in {"SMS4SATS_URL": server.url, "SMS4SATS_REDIS": redis_server.url, "SMS4SATS_API_KEY": "key"}.items():
            monkeypatch.setenv(name, value)
        for number in range(2):
            there.start("sms4sats_async.cluster", "--base-url", server.url, "--rate", "200", name=f"worker{number}")
        with anyio.fail_after(60):
            ended = await anyio.run_process([sys.executable, str(program)], check=False)
    assert ended.stderr == b""
    assert ended.stdout.split(b"\n") == [b"187 048213"] * 100 + [b""]
    assert len(book.orders) == 100
