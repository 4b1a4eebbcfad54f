"""The plugin as people meet it: pytest in a folder of their own, with whichever plugin runs their tests."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sms4sats_async

HOME = Path(sms4sats_async.__file__).parents[1]
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Test your own program") :]
BOT, NEWCOMER = re.findall(r"^```python\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)[:2]
TIMEOUT = 120
"""Seconds after which a run counts as one that waits; the figure itself promises nothing."""


class Run:
    """Runs the tests of a folder, as a person does who has installed the package.

    Attributes:
        words: what pytest said.
        ends: what became of each test, by its name: PASSED, FAILED, ERROR.
    """

    def __init__(self, place: Path, tests: str, *options: str, ini: str = "", alone: bool = False) -> None:
        (place / "signup.py").write_text(BOT)
        (place / "test_signup.py").write_text(textwrap.dedent(tests))
        (place / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{ini}")
        ours = {"PYTHONPATH": str(HOME), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "400"}
        if alone:  # with no plugin but those that are named
            ours["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")} | ours
        command = [sys.executable, "-m", "pytest", "-rA", "--tb=short", "-pno:cacheprovider", "-pno:cov", "-pno:hypothesispytest", *options]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        self.words = done.stdout + done.stderr
        self.ends = {name: end for end, name in re.findall(r"^(PASSED|FAILED|ERROR) test_signup\.py::(\S+)", self.words, re.MULTILINE)}

    def assert_passed(self, count: int) -> None:
        assert set(self.ends.values()) == {"PASSED"}, self.words
        assert len(self.ends) == count, self.words


ON_ANYIO = ("-pno:asyncio", "-pno:trio")
ON_ASYNCIO = ("-pno:trio",)
ON_TRIO = ("-pno:asyncio",)


def test_a_newcomers_ten_lines_go_through_21_minutes_in_less_than_a_second_on_asyncio_and_on_trio(tmp_path: Path) -> None:
    assert len(NEWCOMER.splitlines()) <= 10
    used = """
        import time

        @pytest.fixture(autouse=True)
        def stop_watch(request):
            began = time.process_time()  # and not a clock on the wall: who else is at work on this machine does not count
            yield
            took = time.process_time() - began
            assert request.getfixturevalue("sms4sats_clock").now > 1260
            assert took < 1
    """
    run = Run(tmp_path, NEWCOMER + textwrap.dedent(used), *ON_ANYIO)
    run.assert_passed(2)
    assert set(run.ends) == {"test_a_code_that_never_comes[asyncio]", "test_a_code_that_never_comes[trio]"}


ANYIO = """
    import anyio, asyncio, inspect, pytest, sys, time
    from signup import get_code

    pytestmark = pytest.mark.anyio

    async def test_before_all_time_is_real():
        await is_real()

    async def is_real():
        virtual, real = anyio.current_time(), time.monotonic()
        await anyio.sleep(0.02)
        assert time.monotonic() - real > 0.019
        assert anyio.current_time() - virtual < 60

    async def test_a_sleep_before_the_first_call_takes_no_time(sms4sats_clock):
        await anyio.sleep(1e6)
        assert sms4sats_clock.now == pytest.approx(1e6)

    async def test_a_moment_can_be_looked_at(sms4sats_client, sms4sats_sandbox, sms4sats_clock):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get_code, sms4sats_client)
            await sms4sats_clock.move_to(46)
            assert sms4sats_sandbox.order.number and not sms4sats_sandbox.order.code
            await sms4sats_clock.move(2)
            assert sms4sats_sandbox.order.code
        assert sms4sats_sandbox.calls[0].at == pytest.approx(0, abs=0.001)

    @pytest.fixture
    async def slow():
        await anyio.sleep(5000)
        yield
        await anyio.sleep(5000)

    @pytest.fixture(autouse=True)
    def first(tmp_path):
        yield

    @pytest.fixture
    async def a_bot(sms4sats_client):
        code = await get_code(sms4sats_client)
        yield code
        await get_code(sms4sats_client)

    async def test_a_fixture_that_comes_first_takes_no_time(slow, a_bot, sms4sats_clock, sms4sats_sandbox):
        assert sms4sats_clock.now == pytest.approx(5050, abs=5)
        assert a_bot == sms4sats_sandbox.order.code

    async def test_a_program_makes_its_own_client(sms4sats_sandbox, monkeypatch):
        import signup
        signup.Client = None
        monkeypatch.setattr("signup.Client", sms4sats_sandbox.client)
        async with signup.Client(timeout=5) as client:
            assert await get_code(client) == sms4sats_sandbox.order.code

    async def test_a_wallet_pays_alone(sms4sats_client, sms4sats_wallet, sms4sats_sandbox):
        from sms4sats_async import receive_code
        order = await sms4sats_client.create_order(187, "tg")
        await anyio.sleep(600)
        assert sms4sats_sandbox.order.paid_at is None
        received = await receive_code(sms4sats_client, 187, "tg", pay=sms4sats_wallet)
        assert received.code == sms4sats_sandbox.orders[received.order.id].code

    async def test_the_account_is_prepaid(sms4sats_client):
        await sms4sats_client.create_order(187, "tg", immediate=True)
        assert await sms4sats_client.get_balance() < 1_000_000

    @pytest.mark.parametrize("n", [1, 2])
    async def test_each_test_has_orders_of_its_own(sms4sats_client, n, record=[]):
        record.append((await sms4sats_client.create_order(187, "tg")).id)
        assert len(set(record)) == len(record)

    def test_who_does_not_wait_can_steer(sms4sats_sandbox, sms4sats_clock):
        sms4sats_sandbox.script("no code")
        assert not sms4sats_sandbox.orders and sms4sats_clock.now == 0

    def test_a_loop_of_ones_own(sms4sats_client, sms4sats_clock, sms4sats_sandbox):
        async def main():
            sms4sats_clock.begin()
            return await get_code(sms4sats_client)
        assert asyncio.run(main()) == sms4sats_sandbox.order.code

    async def test_after_all_time_is_real():
        await is_real()

    async def test_it_can_be_asked_for_late(request, anyio_backend_name):
        if anyio_backend_name == "trio":  # the run has its clock already
            with pytest.raises(pytest.fail.Exception, match="this trio run has a real clock"):
                request.getfixturevalue("sms4sats_client")
        else:
            assert await get_code(request.getfixturevalue("sms4sats_client"))
            assert request.getfixturevalue("sms4sats_clock").now > 45

    async def test_and_after_that_time_is_real():
        await is_real()
"""


def test_anyios_plugin(tmp_path: Path) -> None:
    Run(tmp_path, ANYIO, *ON_ANYIO).assert_passed(2 * 12 + 2)


@pytest.mark.unmeasured
def test_several_processes_of_pytest_share_the_tests(tmp_path: Path) -> None:
    run = Run(tmp_path, ANYIO, *ON_ANYIO, "-n2", "-k", "first_call or own_client or real")
    run.assert_passed(10)


OPTIONS = """
    import anyio, asyncio, pytest, trio
    from trio.testing import MockClock
    from signup import get_code

    PLAIN = ("asyncio", {"debug": True})
    MINE = MockClock(autojump_threshold=0)

    class TestOptions:
        @pytest.fixture(params=[PLAIN, ("trio", {"restrict_keyboard_interrupt_to_checkpoints": True}), ("trio", {"clock": MINE})])
        def anyio_backend(self, request, tmp_path):
            return request.param

        @pytest.mark.anyio
        async def test_they_are_heeded(self, sms4sats_client, sms4sats_clock, anyio_backend):
            assert await get_code(sms4sats_client)
            assert sms4sats_clock.now > 45
            if anyio_backend is PLAIN:
                assert asyncio.get_running_loop().get_debug()
            elif "clock" in anyio_backend[1]:
                assert trio.lowlevel.current_clock() is MINE

    class TestUvloop:
        @pytest.fixture
        def anyio_backend(self):
            return "asyncio", {"use_uvloop": True}

        @pytest.mark.anyio
        async def test_it_is_refused(self, sms4sats_client):
            await get_code(sms4sats_client)

    class TestOwnLoop:
        @pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
        def test_it_is_refused(self, run, sms4sats_client):
            run(get_code(sms4sats_client))

    class TestForgotten:
        @pytest.mark.anyio
        async def test_it_fails(self, sms4sats_client, sms4sats_sandbox):
            await sms4sats_client.create_order(187, "tg")
            sms4sats_sandbox.assert_nothing_open()
"""


# In a file of its own: where such a fixture ends among tests of other classes is pytest's to say.
WIDE = """
    import anyio, pytest, trio
    from signup import get_code

    @pytest.fixture(scope="module")
    async def wide():
        return 1

    @pytest.fixture
    async def slow():
        await anyio.sleep(5000)

    @pytest.mark.parametrize("anyio_backend", ["trio"], scope="module")
    class TestWide:
        @pytest.mark.anyio
        async def test_it_is_refused(self, wide, tmp_path, slow, sms4sats_client):
            await get_code(sms4sats_client)

        @pytest.mark.anyio
        async def test_the_next_has_its_real_time(self, wide, tmp_path):
            assert type(trio.lowlevel.current_clock()).__name__ == "SystemClock"
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("options"), OPTIONS, *ON_ANYIO)


def test_options_of_anyios_plugin_are_heeded(options: Run) -> None:
    heeded = [end for name, end in options.ends.items() if name.startswith("TestOptions")]
    assert heeded == ["PASSED"] * 3, options.words


@pytest.mark.parametrize(
    ("name", "end", "words"),
    [
        ("TestUvloop::test_it_is_refused", "ERROR", "RealTimeError: the time of uvloop.Loop cannot be virtual"),
        ("TestOwnLoop::test_it_is_refused[run]", "FAILED", "RealTimeError: this loop's time is real: await nothing here before"),
        ("TestOwnLoop::test_it_is_refused[<lambda>]", "FAILED", "RealTimeError: this loop's time is real: await nothing here before"),
        ("TestForgotten::test_it_fails[asyncio]", "FAILED", "AssertionError: orders that were left open: 1"),
        ("TestForgotten::test_it_fails[trio]", "FAILED", "AssertionError: orders that were left open: 1"),
    ],
)
def test_what_is_wrong_is_said_at_once(name: str, end: str, words: str, options: Run) -> None:
    assert options.ends[name] == end, options.words
    assert re.search(rf"^{end} test_signup\.py::{re.escape(name)}.*{re.escape(words[:40])}", options.words, re.MULTILINE), options.words
    assert words in options.words
    assert not re.search("[0-9a-f]{64}", options.words)  # nor is a whole order id


def test_a_run_that_a_wider_fixture_has_started_is_refused_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, WIDE, *ON_ANYIO)
    assert run.ends == {"TestWide::test_it_is_refused[trio]": "ERROR", "TestWide::test_the_next_has_its_real_time[trio]": "PASSED"}, (
        run.words
    )
    assert "RealTimeError: this trio run has a real clock, which cannot be changed any more" in run.words


def test_a_pytest_asyncio_that_is_too_old_is_refused_at_once(tmp_path: Path) -> None:
    """Before 1.1 it had no runner that could be asked, and a test would wait for real."""
    (tmp_path / "conftest.py").write_text(
        "def pytest_configure(config):\n"
        "    config.addinivalue_line('markers', 'asyncio: as of old')\n"
        "    config.pluginmanager.register(object(), 'asyncio')\n"
    )
    tests = """
        import pytest

        pytestmark = pytest.mark.asyncio

        async def test_it_is_refused(tmp_path, sms4sats_clock):
            pass

        def test_who_does_not_wait_can_steer(sms4sats_sandbox):
            assert not sms4sats_sandbox.orders
    """
    run = Run(tmp_path, tests, "-p_sms4sats_pytest", alone=True)
    assert run.ends == {"test_it_is_refused": "ERROR", "test_who_does_not_wait_can_steer": "PASSED"}, run.words
    assert "sms4sats_async needs pytest-asyncio 1.1 or newer" in run.words


ASYNCIO = """
    import asyncio, pytest, pytest_asyncio, time
    from signup import get_code

    pytestmark = pytest.mark.asyncio

    async def is_real():
        loop = asyncio.get_running_loop()
        virtual, real = loop.time(), time.monotonic()
        await asyncio.sleep(0.02)
        assert time.monotonic() - real > 0.019
        assert loop.time() - virtual < 60

    async def test_before():
        await is_real()

    @pytest_asyncio.fixture
    async def slow():
        await asyncio.sleep(5000)

    async def test_a_fixture_that_comes_first(slow, sms4sats_clock, sms4sats_client, sms4sats_sandbox):
        assert sms4sats_clock.now == pytest.approx(5000)
        sms4sats_sandbox.script("code at the last second")
        assert await get_code(sms4sats_client) == sms4sats_sandbox.order.code
        assert sms4sats_clock.now > 6259

    async def test_between():
        await is_real()

    async def test_a_second_one(sms4sats_clock):
        await asyncio.sleep(1e6)
        assert sms4sats_clock.now == pytest.approx(1e6)

    async def test_after():
        await is_real()
"""


@pytest.mark.parametrize(("mode", "scope"), [("strict", "function"), ("auto", "session")])
def test_pytest_asyncio(mode: str, scope: str, tmp_path: Path) -> None:
    ini = f"asyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = {scope}\nasyncio_default_test_loop_scope = {scope}\n"
    tests = ASYNCIO if mode == "strict" else ASYNCIO.replace("pytestmark = pytest.mark.asyncio", "")
    Run(tmp_path, tests, *ON_ASYNCIO, ini=ini).assert_passed(5)


TRIO = """
    import pytest, time, trio
    from trio.testing import MockClock
    from signup import get_code

    pytestmark = pytest.mark.trio
    ran = []

    def run(*arguments, **options):
        ran.append(1)
        return trio.run(*arguments, **options)

    async def test_before():
        assert type(trio.lowlevel.current_clock()).__name__ == "SystemClock"

    @pytest.fixture
    async def slow():
        await trio.sleep(5000)
        yield
        await trio.sleep(5000)

    async def test_a_fixture_that_comes_first(slow, sms4sats_clock, sms4sats_client, sms4sats_sandbox):
        assert sms4sats_clock.now == pytest.approx(5000)
        assert await get_code(sms4sats_client) == sms4sats_sandbox.order.code

    async def test_with_a_clock_of_ones_own(autojump_clock, sms4sats_clock):
        assert trio.lowlevel.current_clock() is autojump_clock
        await trio.sleep(1e6)
        assert sms4sats_clock.now == pytest.approx(1e6)

    @pytest.mark.trio(run=run)
    async def test_with_a_run_of_ones_own(sms4sats_clock):
        await trio.sleep(1e6)
        assert ran == [1] and sms4sats_clock.now == pytest.approx(1e6)

    async def test_after():
        assert type(trio.lowlevel.current_clock()).__name__ == "SystemClock"
"""


def test_pytest_trio(tmp_path: Path) -> None:
    Run(tmp_path, TRIO, *ON_TRIO).assert_passed(5)


def test_a_run_that_asks_for_nothing_of_ours_pays_nothing(tmp_path: Path) -> None:
    tests = """
        import sys

        def test_what_is_loaded(tmp_path, capsys):
            assert "_sms4sats_pytest" in sys.modules
            assert {"httpx", "anyio", "attrs", "sms4sats_async", "asyncio", "trio"}.isdisjoint(sys.modules)
    """
    others = ("-pno:anyio", "-pno:pytest_httpx", "-pno:respx")  # they import it themselves
    Run(tmp_path, tests, *ON_ANYIO, *others).assert_passed(1)
