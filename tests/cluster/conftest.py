"""The cluster's tests: asyncio only, because Redis's client is, and in real time, because Redis is another process."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.redis_server import RedisServer, needs_redis


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {}


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    needs_redis()
    with tempfile.TemporaryDirectory(prefix="r") as place, RedisServer(Path(place)) as server:
        yield server
