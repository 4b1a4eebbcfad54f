"""Workers as processes: killed, paused, told to stop; with a Redis that is killed as well."""

import json
import os
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
from sms4sats_async.cluster.__main__ import command, connected
from tests.cluster.jobs import Processes, asked, code_of, order_id, processes, service
from tests.cluster.redis_server import FAST, RedisServer, codes, needs_redis, outcomes
from tests.cluster.soak import Figures
from tests.faults.service import Held, Service, lies, unseen

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


async def shared(cluster: Cluster, workers: int, seconds: float = 20.0) -> None:
    """Wait until so many workers have a share."""
    with anyio.fail_after(seconds):
        while len([state for state in await cluster.workers() if state.share]) < workers:  # noqa: ASYNC110 - of other processes
            await anyio.sleep(0.1)


async def said(log: Path, words: str, seconds: float = 20.0) -> None:
    """Wait until a log has these words."""
    with anyio.fail_after(seconds):
        while words not in log.read_text():  # noqa: ASYNC110 - of another process, and short
            await anyio.sleep(0.01)


async def watched(cluster: Cluster, count: int, seconds: float = 20.0) -> None:
    """Wait until so many orders are watched by workers that are there."""
    with anyio.fail_after(seconds):
        while sum(state.watching for state in await cluster.workers() if not state.left and state.silent_seconds < 2) < count:  # noqa: ASYNC110 - of another process
            await anyio.sleep(0.1)


async def test_workers_and_redis_are_killed_and_no_code_is_lost() -> None:
    needs_redis()
    plan = "--orders 600 --rate 300 --code-from 4 --code-to 8 --kill-first 3.5 --kill-second 5 --redis-away 1.5 --keep-share 1.5"
    command = [sys.executable, "-m", "tests.cluster.soak", *plan.split(), "--give-up-after", "3"]
    with anyio.fail_after(120):
        ended = await anyio.run_process(command, check=False, env=os.environ | {"TMPDIR": FAST or tempfile.gettempdir()})
    assert ended.returncode == 0, ended.stderr.decode()
    figures = Figures(**json.loads(ended.stdout))
    assert (figures.outcomes, figures.told_twice, figures.lost, figures.wrong, figures.cancels) == (600, 0, 0, 0, 0)
    assert min(figures.orphans) > 50
    assert 2 < figures.watched_again < 30
    assert figures.workers_left == 1
    assert figures.requests > 1200
    assert figures.most_permits <= 300


async def test_a_worker_that_is_told_to_stop_ends_and_another_has_its_orders(redis_server: RedisServer, there: Processes) -> None:
    url = service(there)
    ids = [order_id(number, 0.1, 1000) for number in range(50)]
    async with Cluster(redis_server.url) as cluster:
        first = start(there, redis_server, url, "first")
        for one in ids:
            await cluster.submit(Order(one))
        await watched(cluster, 50)
        start(there, redis_server, url, "second")
        await shared(cluster, 2)
        first.send_signal(signal.SIGTERM)
        told = time.monotonic()
        await said(there.place / "second.log", "taken over")
        assert first.wait(10) == 0
        await watched(cluster, 50)
        with anyio.fail_after(10):
            while not all(asked(there)[one][-1] > told for one in ids):  # noqa: ASYNC110 - of another process
                await anyio.sleep(0.1)
        [second] = [state for state in await cluster.workers() if not state.left]
    logs = "".join(file.read_text() for file in there.place.glob("*.log") if file.name != "redis.log")
    assert not any(one in logs or code_of(one) in logs for one in ids)
    assert "50 orders" in logs
    looks = asked(there)
    assert not any(one.startswith("-") for one in looks)  # nobody has cancelled
    assert second.watching == 50


async def test_who_comes_back_from_the_dead_lets_go_of_its_orders(redis_server: RedisServer, there: Processes) -> None:
    url = service(there)
    ids = [order_id(number, 0.1, 7) for number in range(30)]
    async with Cluster(redis_server.url) as cluster:
        first = start(there, redis_server, url, "first")
        for one in ids:
            await cluster.submit(Order(one))
        await watched(cluster, 30)
        start(there, redis_server, url, "second")
        await shared(cluster, 2)
        first.send_signal(signal.SIGSTOP)
        await said(there.place / "second.log", "taken over")
        first.send_signal(signal.SIGCONT)
        told = {outcome.order.id: outcome.code for outcome in await outcomes(cluster)}
        await said(there.place / "first.log", "a new start: given up")
    assert told == {one: code_of(one) for one in ids}


async def test_what_cannot_be_is_told_before_anything_is_begun(capsys: pytest.CaptureFixture[str]) -> None:
    ended = await anyio.run_process([sys.executable, "-m", "sms4sats_async.cluster", "--rate", "0"], check=False)
    assert ended.returncode == 2
    assert b"rate" in ended.stderr
    assert b"Traceback" not in ended.stderr
    for arguments, words in (
        ([], "--rate"),
        (["--rate", "1", "--redis", "http://there"], "redis://"),
        (["--rate", "1", "--connections", "0"], "max_connections"),
    ):
        with pytest.raises(SystemExit, match=r"^2$"):
            await connected(command(), command().parse_args(arguments))
        assert words in capsys.readouterr().err


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
        assert await codes(cluster) == [code_of(one)]
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
    book.next("/createorder", *[None] * 99, unseen(lies({"status": "error", "reason": "not enough balance"}, 500)))
    async with book.serving() as server:
        for name, value in {"SMS4SATS_URL": server.url, "SMS4SATS_REDIS": redis_server.url, "SMS4SATS_API_KEY": "key"}.items():
            monkeypatch.setenv(name, value)
        for number in range(2):
            there.start("sms4sats_async.cluster", "--base-url", server.url, "--rate", "200", name=f"worker{number}")
        with anyio.fail_after(60):
            ended = await anyio.run_process([sys.executable, str(program)], check=False)
        assert ended.stderr == b""
        refused, *codes = ended.stdout.splitlines()
        assert refused == b"no more orders: POST /createorder: HTTP 500: not enough balance"
        assert codes == [b"187 048213"] * 99
        assert len(book.orders) == 99
