"""A ``redis-server`` of the tests' own: on a unix socket, in a directory of its own, ended by its process id. And a job in one."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import attrs
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sms4sats_async import Client, Outcome
from sms4sats_async.cluster import Cluster, Worker

PATIENCE = 20.0
"""Seconds that it may take to start, or to end."""

FAST = next((place for place in ("/dev/shm",) if os.access(place, os.W_OK)), None)  # noqa: S108 - directories of its own in there
"""Where a server's every step does not wait for a disk that others use as well: with one, a step can take a tenth of a second."""


def needs_redis(find: Callable[[str], str | None] = shutil.which, required: str | None = os.environ.get("REQUIRE_REDIS")) -> None:
    """Skip where there is no ``redis-server``, with a word; fail where REQUIRE_REDIS says that there must be one."""
    if find("redis-server") is None:
        if required:
            pytest.fail("REQUIRE_REDIS is set, and there is no redis-server: apt-get install redis-server")
        pytest.skip("there is no redis-server: apt-get install redis-server")


class RedisServer:
    """A server that can be ended, killed, paused, started again, and made to forget.

    Args:
        place: a directory; its path must be short, because a unix socket's is.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = place / "redis.sock"
        self.url = f"unix://{self.socket}"

    def __enter__(self) -> Self:
        if self._process is None:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._process is not None:
            self.go_on()
            self.kill()

    def client(self) -> "redis.Redis":
        """A client for the test itself."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=PATIENCE, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        """Start it, with whatever it had written."""
        options = {"port": "0", "unixsocket": self.socket, "dir": self._place, "save": "", "appendonly": "yes", "appendfsync": "always"}
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        with (self._place / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([shutil.which("redis-server") or "redis-server", *words], stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > until:
                raise AssertionError((self._place / "redis.log").read_text())
            time.sleep(0.01)  # another process, in real time, that has no way to call

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(PATIENCE)
        self._process = None
        self.socket.unlink(missing_ok=True)

    def forget(self) -> None:
        """Lose all that it had written; it must not be running."""
        shutil.rmtree(self._place / "appendonlydir")

    def back_up(self) -> None:
        """Keep a copy of what it has written until now."""
        shutil.copytree(self._place / "appendonlydir", self._place / "backup")

    def restore(self) -> None:
        """Go back to the copy; it must not be running."""
        self.forget()
        (self._place / "backup").rename(self._place / "appendonlydir")

    def pause(self) -> None:
        """Let it answer nothing, while its connections stay open."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo the pause."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@attrs.frozen
class Job:
    """A job, and who takes part in it."""

    redis: RedisServer
    name: str = "sms4sats"

    def cluster(self) -> Cluster:
        """The user's side."""
        return Cluster(self.redis.url, name=self.name)

    def worker(self, client: Client, **settings: Any) -> Worker:
        """A worker that looks every second, and soon misses Redis, as the others miss it."""
        soon = {"rate": 100, "poll_interval": 1.0, "keep_share": 1.5, "give_up_after": 3.0}
        return Worker(client, self.redis.url, name=self.name, **(soon | settings))

    def key(self, part: str) -> str:
        """The name of one of its keys in Redis."""
        return f"{self.name}:{part}"


async def outcomes(cluster: Cluster, seconds: float = 30.0) -> list[Outcome]:
    """Read to the end, for so many seconds at the most."""
    with anyio.fail_after(seconds):
        return [outcome async for outcome in cluster.outcomes()]


async def codes(cluster: Cluster, seconds: float = 30.0) -> list[str]:
    """Likewise the codes, in order."""
    return sorted(outcome.code or repr(outcome.error) for outcome in await outcomes(cluster, seconds))
