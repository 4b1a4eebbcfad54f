"""How a test gets virtual time, whichever plugin runs it: that of anyio, pytest-asyncio or pytest-trio.

On asyncio the clock begins in the loop that the runner has made. On trio a loop must be made with it. So the clock comes first among a
test's own fixtures, and where that is not enough, the test is told at once: it never waits for real.
"""

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from sms4sats_async.testing.clock import Clock, RealTimeError, in_a_loop

_has_begun = pytest.StashKey[bool]()


@contextmanager
def clock_first(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Generator[None]:
    """Set up the clock before this fixture of the test, unless it is set up, or just doing so.

    Where the clock fails, so does this fixture: by its function, because after an error beside that pytest does not clear it away.
    """
    theirs, fixture = fixturedef.func, cast("Any", fixturedef)
    if not request.node.stash.get(_has_begun, False) and fixturedef.argname != "anyio_backend":
        try:
            request.getfixturevalue("sms4sats_clock")
        except pytest.fail.Exception as failure:
            fixture.func = _failing(failure)
    try:
        yield
    finally:
        fixture.func = theirs


def _failing(failure: BaseException) -> Callable[..., None]:
    def fail(**_: object) -> None:
        raise failure

    return fail


@contextmanager
def running_clock(request: pytest.FixtureRequest) -> Generator[Clock]:
    """Give the clock of a test, begun in the test's loop; where the test has none yet, its first ``begin()`` does that."""
    test: pytest.Item = request.node
    test.stash[_has_begun] = True
    clock = Clock()
    try:
        with _begun(clock, request):
            yield clock
    finally:
        clock.end()
        test.stash[_has_begun] = False  # a test can be run again


@contextmanager
def _begun(clock: Clock, request: pytest.FixtureRequest) -> Generator[None]:
    if in_a_loop():  # request.getfixturevalue(...) in a test that runs: who runs that cannot be asked for anything now
        _check(_begin_here(clock))
        yield
        return
    runners = [name for name in request.fixturenames if name.startswith("_") and name.endswith("_scoped_runner")]
    by_pytest_asyncio = request.config.pluginmanager.hasplugin("asyncio") and request.node.get_closest_marker("asyncio")
    if by_pytest_asyncio and not runners and inspect.iscoroutinefunction(request.function):
        pytest.fail("sms4sats_async needs pytest-asyncio 1.1 or newer, to make the time of its loops virtual", pytrace=False)
    if by_pytest_asyncio and runners:
        runner = request.getfixturevalue(runners[-1])  # pytest-asyncio's, an asyncio.Runner, which has no public name
        _check(runner.run(_begin(clock)))
        yield
    elif "anyio_backend" in request.fixturenames:
        yield from _with_anyio(clock, request)
    else:
        if request.node.get_closest_marker("trio"):
            _with_trio(clock, request.node)
        yield


def _begin_here(clock: Clock) -> RealTimeError | None:
    """Begin the clock in the loop that runs this, or return why not: what is no ``Exception`` would bring down the loop as well."""
    try:
        clock.begin()
    except RealTimeError as error:
        return error
    return None


async def _begin(clock: Clock) -> RealTimeError | None:
    return _begin_here(clock)


async def _end(clock: Clock) -> None:
    clock.end()


def _check(error: RealTimeError | None) -> None:
    if error is not None:
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)


def _with_anyio(clock: Clock, request: pytest.FixtureRequest) -> Generator[None]:
    """Hold anyio's runner as long as the clock lasts. It is made with the options of whoever asks for it first."""
    from anyio.pytest_plugin import extract_backend_and_options, get_runner  # noqa: PLC0415 - trio's tests do without

    backend, options = extract_backend_and_options(request.getfixturevalue("anyio_backend"))
    if backend == "trio" and "clock" not in options:
        from sms4sats_async.testing.on_trio import virtual_clock  # noqa: PLC0415 - an extra

        options = {**options, "clock": virtual_clock()}
    with get_runner(backend, options) as runner:
        _check(runner.run_fixture(_begin, {"clock": clock}))
        try:
            yield
        finally:
            runner.run_fixture(_end, {"clock": clock})


def _with_trio(clock: Clock, test: pytest.Item) -> None:
    """Give pytest-trio a function that runs the test with the clock: a mark may name one, and the closest mark's counts."""
    import trio  # noqa: PLC0415 - an extra

    from sms4sats_async.testing.on_trio import virtual_clock  # noqa: PLC0415 - likewise

    named = (mark.kwargs.get("run") for mark in test.iter_markers("trio"))
    run_theirs = next((run for run in named if run is not None), trio.run)

    def run(function: Callable[[], Any], *, clock: Any = None, **options: Any) -> Any:
        return run_theirs(_begin_first(begin, function), clock=virtual_clock() if clock is None else clock, **options)

    begin = clock.begin
    test.add_marker(pytest.mark.trio(run=run), append=False)


def _begin_first(begin: Callable[[], None], function: Callable[[], Any]) -> Callable[[], Any]:
    async def main() -> Any:
        begin()
        return await function()

    return main
