"""The backends: every async test runs on asyncio and on trio, in virtual time on both.

A test that talks to another thread or process needs real time: it takes the ``real_time`` marker.
"""

import importlib.util
import inspect
import os
from collections.abc import Hashable
from typing import Any

import pytest

from tests.loops import asyncio_options

os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http/dup"  # spans by old and new conventions; whoever makes the first one reads it, for all

PLACES = ("anyio_backend", "backend", "stack")
"""The names of the parameters that say where a test is run."""
MEASURED_ON_ALL = 1
"""How many of the other sets of parameters of a test are measured wherever they are run."""

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Measure most sets of parameters of a test in one place only, in turn: measured, a test takes half as long again."""
    if not config.pluginmanager.hasplugin("_cov"):
        return
    tests: dict[str, dict[Hashable, list[pytest.Item]]] = {}
    for item in items:
        sets = tests.setdefault(item.nodeid.partition("[")[0], {})
        parameters: dict[str, object] = item.callspec.params if hasattr(item, "callspec") else {}
        sets.setdefault(frozenset((name, id(value)) for name, value in parameters.items() if name not in PLACES), []).append(item)
    for sets in tests.values():
        for number, places in enumerate(sets.values()):
            for item in places if number >= MEASURED_ON_ALL else ():
                if item is not places[number % len(places)]:
                    item.add_marker("no_cover")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(name: str, obj: object) -> None:
    """Mark every coroutine test as an anyio test, before anyio's own plugin looks for the mark: nobody has to remember it."""
    if name.startswith("test_") and inspect.iscoroutinefunction(obj):
        pytest.mark.anyio(obj)
