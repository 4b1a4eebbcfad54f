"""Sheltered work outlives its caller's cancellation, for a bounded time, and hides nothing from the caller."""

import asyncio
import math
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn

import anyio
import anyio.lowlevel
import pytest

from sms4sats_async.shelter import Crew, Sheltered, sheltered
from tests.conftest import HAS_TRIO
from tests.suspension import Ending, _ctrl_c, asyncio_only, by_scope, by_two_native_cancels, on_asyncio, run_virtually, tasks_alive, ways
from tests.virtual_time import VirtualTimeLoop


class Interrupted(BaseException):
    """What ``KeyboardInterrupt`` is to a library: no ``Exception``."""


def working(seconds: float, done: list[str], result: str = "done") -> Callable[[], Awaitable[str]]:
    async def work() -> str:
        await anyio.sleep(seconds)
        done.append(result)
        return result

    return work


async def test_the_result_is_returned_and_no_task_is_left() -> None:
    before = tasks_alive()
    done: list[str] = []
    assert await sheltered(working(3, done)) == "done"
    assert tasks_alive() == before


async def test_an_exception_is_passed_on_as_it_is() -> None:
    problem = LookupError("as it is")

    async def work() -> None:
        await anyio.sleep(1)
        raise problem

    with pytest.raises(LookupError) as caught:
        await sheltered(work)
    assert caught.value is problem


@pytest.mark.parametrize("loud", [KeyboardInterrupt, SystemExit, Interrupted, GeneratorExit])
async def test_what_is_no_exception_passes_ungrouped(loud: type[BaseException]) -> None:
    async def work() -> None:
        await anyio.sleep(1)
        raise loud

    caught: BaseException | None = None
    try:
        await sheltered(work)
    except BaseException as error:  # noqa: BLE001 - the point of the test
        caught = error
    assert type(caught) is loud


async def test_work_cancelled_by_a_scope_goes_on_to_its_end() -> None:
    done: list[str] = []
    start = anyio.current_time()
    with anyio.move_on_after(1) as scope:
        await sheltered(working(5, done), grace=10)
    assert scope.cancelled_caught
    assert done == ["done"]
    assert anyio.current_time() - start == pytest.approx(5)


async def test_work_that_takes_too_long_ends_with_the_grace() -> None:
    done: list[str] = []
    start = anyio.current_time()
    with anyio.move_on_after(1) as scope:
        await sheltered(working(500, done), grace=10)
    assert scope.cancelled_caught
    assert done == []
    assert anyio.current_time() - start == pytest.approx(11)


async def test_a_grace_without_end_has_no_end() -> None:
    done: list[str] = []
    start = anyio.current_time()
    with anyio.move_on_after(1):
        await sheltered(working(5_000, done))
    assert done == ["done"]
    assert anyio.current_time() - start == pytest.approx(5_000)


async def test_the_grace_is_asked_once_at_the_moment_of_the_cancellation_and_the_result_is_kept() -> None:
    asked: list[float] = []
    done: list[str] = []
    shelter = Sheltered(working(5, done, "kept"))

    def grace() -> float:
        asked.append(anyio.current_time())
        return 10

    start = anyio.current_time()
    with anyio.move_on_after(2):
        await shelter.run(grace)
    assert len(asked) == 1
    assert asked[0] - start == pytest.approx(2)
    assert (shelter.result, shelter.error) == ("kept", None)


async def test_an_error_after_the_cancellation_is_kept_and_not_raised() -> None:
    async def work() -> None:
        await anyio.sleep(5)
        raise LookupError

    shelter = Sheltered(work)
    with anyio.move_on_after(2) as scope:
        await shelter.run(lambda: 10)
    assert scope.cancelled_caught
    assert isinstance(shelter.error, LookupError)


async def test_work_that_is_not_cancelled_is_not_asked_for_a_grace() -> None:
    await Sheltered(working(1, [])).run(lambda: pytest.fail("there was no cancellation"))


async def test_a_caller_cancelled_before_it_begins_still_gets_the_work_done() -> None:
    done: list[str] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await sheltered(working(5, done))
    assert scope.cancelled_caught
    assert done == ["done"]


async def test_no_grace_ends_the_work_at_its_first_wait() -> None:
    begun: list[str] = []

    async def work() -> None:
        begun.append("begun")
        await anyio.sleep_forever()

    start = anyio.current_time()
    with anyio.move_on_after(0.5):
        await sheltered(work, grace=0)
    assert begun == ["begun"]
    assert anyio.current_time() - start == pytest.approx(0.5)


async def test_shelters_stand_in_each_other() -> None:
    done: list[str] = []
    with anyio.move_on_after(1):
        await sheltered(lambda: sheltered(working(5, done)))
    assert done == ["done"]


async def test_a_cancellation_at_any_suspension_is_seen_and_the_work_is_done() -> None:
    for way in ways():
        done: list[str] = []
        k = 0
        while True:
            k += 1
            done.clear()
            ending: Ending[str] = await way(lambda: sheltered(working(1, done)), k)  # noqa: B023
            if not ending.triggered:
                break
            assert done == ["done"], f"{way.__name__} at {k}"
            # A scope's cancel that comes as the work has just ended waits for the caller's next checkpoint; a native one must not be lost.
            assert ending.cancelled or (way is by_scope and ending.value == "done"), f"{way.__name__} at {k}"
        assert k > 1
        assert ending.value == "done"


@asyncio_only
async def test_a_storm_of_native_cancels_neither_ends_the_work_nor_is_swallowed() -> None:
    done: list[str] = []
    task = asyncio.ensure_future(sheltered(working(5, done)))
    for _ in range(40):
        await asyncio.sleep(0.1)
        task.cancel()
    assert not task.done()
    await asyncio.wait({task})
    assert (done, task.cancelled(), task.cancelling()) == (["done"], True, 40)


@asyncio_only
async def test_native_and_scope_cancels_together_neither_end_the_work_nor_are_swallowed() -> None:
    done: list[str] = []

    async def scoped() -> None:
        with anyio.move_on_after(1):
            await sheltered(working(5, done))

    task = asyncio.ensure_future(scoped())
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait({task})
    assert (done, task.cancelled()) == (["done"], True)


@asyncio_only
async def test_the_grace_holds_under_a_storm() -> None:
    start = anyio.current_time()
    task = asyncio.ensure_future(sheltered(working(math.inf, []), grace=10))
    for _ in range(5):
        await asyncio.sleep(1)
        task.cancel()
    await asyncio.wait({task})
    assert anyio.current_time() - start == pytest.approx(11)


@asyncio_only
async def test_the_loop_does_not_know_of_the_work() -> None:
    known: list[int] = []

    async def work() -> None:
        known.append(len(asyncio.all_tasks()))

    before = len(asyncio.all_tasks())
    await sheltered(work)
    assert known == [before]


@asyncio_only
async def test_the_work_begins_in_a_turn_of_its_own_whatever_tasks_the_loop_makes() -> None:
    """An eager task factory would begin it at once."""

    def factory(*_: object, **__: object) -> NoReturn:
        raise AssertionError

    done: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    try:
        async with Crew() as crew:
            crew.start(shelter := Sheltered(working(1, done)))
            assert done == []
            await shelter.end(lambda: 0.0)
    finally:
        loop.set_task_factory(before)
    assert done == ["done"]


@pytest.mark.parametrize("turns", range(6))
def test_the_end_of_asyncio_run_waits_for_the_work_whenever_it_comes(turns: int) -> None:
    done: list[str] = []
    ended: list[bool] = []

    async def caller() -> None:
        try:
            await sheltered(working(5, done), grace=10)
        finally:
            ended.append(True)

    async def main() -> None:
        task = asyncio.ensure_future(caller())
        for _ in range(turns):
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(60, asyncio.get_running_loop().stop)
        main.task = task  # type: ignore[attr-defined]  # a strong reference

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
    assert ended == [True]
    if turns:  # else the work had not begun
        assert done == ["done"]


@pytest.mark.parametrize("turns", range(6))
@asyncio_only
async def test_work_whose_task_somebody_cancels_never_hangs_its_caller(turns: int) -> None:
    """A program that cancels every task it finds does not find the work's, from its first turn on."""
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(sheltered(working(5, [])))
    for _ in range(turns):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() - before == {task}
    finished, _ = await asyncio.wait({task}, timeout=60)
    assert finished, "the caller waits for ever"


@pytest.mark.skipif(not HAS_TRIO, reason="trio is an extra")
def test_a_keyboard_interrupt_of_a_sheltered_caller_passes_ungrouped_on_trio() -> None:
    import trio

    @trio.lowlevel.enable_ki_protection
    async def work() -> None:
        await anyio.sleep(1)
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep(1)

    seen: list[BaseException] = []

    async def main() -> None:
        try:
            await sheltered(work)
        except BaseException as error:  # noqa: BLE001 - the point of the test
            seen.append(error)

    run_virtually("trio", main)
    assert [type(error) for error in seen] == [KeyboardInterrupt]


async def test_both_ways_of_cancelling_are_known_to_the_helper() -> None:
    done: list[str] = []
    for way in (by_scope, by_two_native_cancels) if on_asyncio() else (by_scope,):
        ending: Ending[str] = await way(lambda: sheltered(working(1, done)), 1_000)
        assert (ending.triggered, ending.value) == (False, "done")


@asyncio_only
async def test_a_coroutine_that_is_closed_while_it_waits_is_closed() -> None:
    waiting = sheltered(lambda: anyio.sleep(1))
    waiting.send(None)
    waiting.close()
    await anyio.sleep(2)  # the work comes to its end by itself


@pytest.mark.skipif(not HAS_TRIO, reason="asyncio makes a cancellation of the first Ctrl-C")
def test_a_second_ctrl_c_on_trio_ends_what_the_first_held_back() -> None:
    ended: list[float] = []

    async def main() -> None:
        strike = _ctrl_c()

        async def twice() -> None:
            for _ in range(2):
                await anyio.sleep(1)
                strike()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(twice)
            try:
                await sheltered(lambda: anyio.sleep(1000), grace=500)
            finally:
                ended.append(anyio.current_time())

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        run_virtually("trio", main)
    assert [round(at) for at in ended] == [2]
