"""The cluster's tests: asyncio only, because Redis's client is, and in real time, because Redis is another process."""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from tests.cluster.redis_server import FAST, Job, RedisServer, needs_redis

SPARES = 3
"""Servers that wait for their test: a worker that is new to a Redis that has just started makes no request in its first seconds."""
_numbers = itertools.count()


class Servers:
    """Servers for a session: one for all tests that leave it as it was, and others for those that do not."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._spares: list[RedisServer] = []

    def __enter__(self) -> Self:
        self.common = self._started()
        self._spares += [self._started() for _ in range(SPARES)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def own(self) -> RedisServer:
        """A server for one test, which may end it, or leave it in any state."""
        self._spares.append(self._started())
        return self._spares.pop(0)

    def _started(self) -> RedisServer:
        place = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="r", dir=FAST))
        return self._stack.enter_context(RedisServer(Path(place)))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {}


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    needs_redis()
    with Servers() as all_of_them:
        yield all_of_them


@pytest.fixture
def redis_server(servers: Servers) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with servers.own() as server:
        yield server


@pytest.fixture
def job(servers: Servers) -> Job:
    """A job of the test's own, in a Redis that it has to leave as it was."""
    return Job(servers.common, f"job-{next(_numbers)}")
