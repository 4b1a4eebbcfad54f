"""The backends: every async test runs on asyncio and on trio, in virtual time on both.

A test that talks to another thread or process needs real time: it takes the ``real_time`` marker.

Measuring which lines run makes a test two or three times as slow, and only the first time tells something. So of a test's sets of
parameters those are measured that bring a value for the first time, and what takes long to go over lines that others have covered has
the ``unmeasured`` marker.
"""

import importlib.util
import inspect
import os
import sys
from collections.abc import Generator
from typing import Any

import pytest

from tests.loops import asyncio_options
from tests.virtual_time import in_virtual_time

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
    return name, {} if real_time else in_virtual_time(name)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(name: str, obj: object) -> None:
    """Mark every coroutine test as an anyio test, before anyio's own plugin looks for the mark: nobody has to remember it."""
    if name.startswith("test_") and inspect.iscoroutinefunction(obj):
        pytest.mark.anyio(obj)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure no set of parameters of which each value is in an earlier one.

    Both backends count: with CPython 3.11 a task that was cancelled on asyncio makes coverage lose what runs below it.
    """
    met: set[tuple[str, str, int]] = set()
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            values = {(item.nodeid.partition("[")[0], name, id(value)) for name, value in item.callspec.params.items()}
            if values <= met:
                item.add_marker("unmeasured")
            met |= values


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Measure neither a test that is marked so, nor the processes that it starts."""
    measuring = sys.gettrace()
    by_coverage = type(measuring).__module__.startswith("coverage")  # and by no debugger
    if not by_coverage or item.get_closest_marker("unmeasured") is None:
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        sys.settrace(None)
        try:  # pragma: no cover - nobody looks
            return (yield)
        finally:  # pragma: no cover
            sys.settrace(measuring)
