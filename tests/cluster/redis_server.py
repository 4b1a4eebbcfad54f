"""A ``redis-server`` of a test's own: on a unix socket, in a directory of its own, ended by its process id."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import redis

PATIENCE = 20.0
"""Seconds that it may take to start, or to end."""


def needs_redis() -> None:
    """Skip where there is no ``redis-server``, with a word; fail where REQUIRE_REDIS says that there must be one."""
    if shutil.which("redis-server") is None:
        if os.environ.get("REQUIRE_REDIS"):
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
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._process is not None:
            self.go_on()
            self.kill()

    def client(self) -> "redis.Redis":
        """A client for the test itself."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def start(self) -> None:
        """Start it, with whatever it had written."""
        options = {"port": "0", "unixsocket": self.socket, "dir": self._place, "save": "", "appendonly": "yes", "appendfsync": "always"}
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        with (self._place / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([shutil.which("redis-server") or "redis-server", *words], stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with self.client() as client:
                    client.ping()
            except redis.ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                return

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

    def pause(self) -> None:
        """Let it answer nothing, while its connections stay open."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo the pause."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
