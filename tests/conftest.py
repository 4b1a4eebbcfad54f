"""The backends: every async test runs on asyncio and on trio, in virtual time on both.

A test that talks to another thread or process needs real time: it takes the ``real_time`` marker.

Measuring which lines run makes a test two or three times as slow, and only the first time tells something. So of a test's sets of
parameters those are measured that bring a value for the first time, and on one backend: that is enough for most. The marker
``measured("on both loops")`` is for what has lines of its own for each, and ``measured("once")`` for what has many sets and the same lines
in all. What takes long to go over lines that others have covered has the ``unmeasured`` marker. Whoever shares a fixture with other tests
is measured in any case, and so is the last one of a process: which of them sets it up, and which takes it down, changes from run to run.
"""

import importlib.util
import inspect
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
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
    """Say which sets of a test's parameters are measured: by default those that bring a value for the first time, on trio where it can be.

    Trio, because with CPython 3.11 a task that was cancelled on asyncio makes coverage lose what runs below it.
    """
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for sets in tests.values():
        first, *others = sorted(sets, key=lambda item: "trio" not in _parameters(item).values())
        met = _values(first)
        for item in others:
            if _extent(item) == "once" or _values(item) <= met:
                item.add_marker("unmeasured")
            met |= _values(item)


def _values(item: pytest.Item) -> set[tuple[object, str, int]]:
    """The values of its parameters, each with the loop where that makes a difference."""
    parameters = _parameters(item)
    loop = parameters.get("anyio_backend", parameters.get("backend"))
    if _extent(item) == "on both loops":
        return {(loop, name, id(value)) for name, value in parameters.items()}
    return {(None, name, id(value)) for name, value in parameters.items() if name not in {"anyio_backend", "backend"}}


def _parameters(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def _extent(item: pytest.Item) -> str:
    marker = item.get_closest_marker("measured")
    extent = "" if marker is None else str(marker.args[0])
    assert extent in {"", "once", "on both loops"}, f"{item.nodeid}: measured({extent!r})"
    return extent


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Where several processes share the tests, measure in the first what is imported: each imports the same."""
    with nothing_measured(when=getattr(session.config, "workerinput", {"workerid": "gw0"})["workerid"] != "gw0"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Measure neither a test that is marked so, nor the fixtures that it sets up, nor the processes that it starts."""
    is_last = nextitem is None or nextitem.path != item.path  # and so takes down what is shared in its file
    together = [one for one in item.session.items if one.path == item.path] if is_last else [item]
    shares = nextitem is None or any(_shares(one) for one in together)
    unmeasured = item.get_closest_marker("unmeasured") is not None and not shares
    with pytest.MonkeyPatch.context() as patch:
        if unmeasured:
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        with nothing_measured(when=unmeasured):
            return (yield)


def _shares(item: pytest.Item) -> bool:
    """Does it use a fixture of ours that others use as well?"""
    fixtures = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    used = [one for ones in fixtures.values() for one in ones]
    return any(one.scope != "function" and one.func.__module__.startswith("tests.") for one in used)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:  # pragma: no cover - what is measured is over
    """Tell beside the summary where the time before the tests went, in `.ci/run`."""
    if steps := os.environ.get("CI_STEPS"):
        terminalreporter.line(steps)


@contextmanager
def nothing_measured(*, when: bool) -> Iterator[None]:
    """Coverage of this thread stands still meanwhile."""
    measuring = sys.gettrace()
    by_coverage = type(measuring).__module__.startswith("coverage")  # and by no debugger
    if not (when and by_coverage):
        yield
        return
    sys.settrace(None)
    try:  # pragma: no cover - nobody looks
        yield
    finally:  # pragma: no cover
        sys.settrace(measuring)
