"""The backends: every async test runs on asyncio and on trio, in virtual time on both.

A test that talks to another thread or process needs real time: it takes the ``real_time`` marker.
"""

import importlib.util
import inspect
import os
from typing import Any

import pytest

from tests.loops import asyncio_options

os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http/dup"  # spans by old and new conventions; whoever makes the first one reads it, for all

HAS_TRIO = importlib.util.find_spec("trio") is not None


def _backends() -> list[str]:
    return ["asyncio", "trio"] if HAS_TRIO else ["asyncio"]


@pytest.fixture(params=_backends())
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    name: str = request.param
    real_time = request.node.get_closest_marker("real_time") is not None or "sms4sats_clock" in request.fixturenames  # which brings its own
    if name == "asyncio":
        return name, asyncio_options(os.environ.get("TEST_LOOP", ""), real_time=real_time)
    if real_time:
        return name, {}
    from trio.testing import MockClock

    return name, {"clock": MockClock(autojump_threshold=0)}


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(name: str, obj: object) -> None:
    """Mark every coroutine test as an anyio test, before anyio's own plugin looks for the mark: nobody has to remember it."""
    if name.startswith("test_") and inspect.iscoroutinefunction(obj):
        pytest.mark.anyio(obj)
