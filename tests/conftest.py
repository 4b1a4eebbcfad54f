"""The backends: every async test runs on asyncio and on trio, in virtual time on both.

A test that talks to another thread or process needs real time: it takes the ``real_time`` marker.
"""

import importlib.util
from typing import Any

import pytest

from tests.virtual_time import VirtualTimeLoop

HAS_TRIO = importlib.util.find_spec("trio") is not None


def _backends() -> list[str]:
    return ["asyncio", "trio"] if HAS_TRIO else ["asyncio"]


@pytest.fixture(params=_backends())
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    name: str = request.param
    if request.node.get_closest_marker("real_time"):
        return name, {}
    if name == "asyncio":
        return name, {"loop_factory": VirtualTimeLoop}
    from trio.testing import MockClock

    return name, {"clock": MockClock(autojump_threshold=0)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # every coroutine test is an anyio test: nobody has to remember the mark
        if isinstance(item, pytest.Function) and _is_async(item.function):
            item.add_marker("anyio")


def _is_async(function: Any) -> bool:
    import inspect

    return inspect.iscoroutinefunction(inspect.unwrap(function))
