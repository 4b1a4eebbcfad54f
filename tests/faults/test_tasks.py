"""Rows 79 to 91 of the catalogue: cancellation, tasks, generators, loops."""

import ast
import asyncio
import gc
import inspect
import logging
import signal
import subprocess
import sys
import textwrap
import tomllib
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest

import sms4sats_async
from sms4sats_async import BatchWatcher, Client, OrderStatus, OrderUnresolved, OrderWatcher
from tests.faults.stacks import Stack, every_stack
from tests.servers import Handler, Reply, SeenRequest, closes, hangs, resets, serve
from tests.suspension import Till, on_asyncio, run_virtually, ways
from tests.test_cancellation import backends

PACKAGE = Path(sms4sats_async.__file__).parent
KEY = "key-of-a-test-0001"
ORDER = "order-to-watch-0123456789"
MASKED = "order or..89"
CODE = "048213"
OK: dict[str, Any] = {"status": "OK"}
PAID = OK | {"paid": True}
CODED = PAID | {"number": "+15550001111", "code": CODE}
TOO_EARLY: dict[str, Any] = {"status": "error", "reason": "order can be canceled after 2 minutes"}

Work = Callable[[], Awaitable[Any]]
Program = Callable[[Client], Coroutine[Any, Any, None]]


class Left(Exception):
    """What a block is left by."""


def once(answer: dict[str, Any], then: Handler) -> Handler:
    """Answer the first request, and let all later ones to this handler."""
    first = [answer]

    async def handle(request: SeenRequest, reply: Reply) -> None:
        await (reply.json(first.pop()) if first else then(request, reply))

    return handle


def by_path(look: Handler | dict[str, Any], cancel: Handler | dict[str, Any]) -> Handler:
    """Answer looks in this way, and cancels in that."""

    async def handle(request: SeenRequest, reply: Reply) -> None:
        answer = cancel if request.target.startswith("/cancelorder") else look
        await (answer(request, reply) if callable(answer) else reply.json(answer, 500 if "reason" in answer else 200))

    return handle


async def cancelled_after(seconds: float, work: Work) -> None:
    """Cancel this work as programs on this backend do, and return when it is over."""
    if on_asyncio():
        task = asyncio.ensure_future(work())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    else:
        with anyio.move_on_after(seconds) as scope:
            await work()
        assert scope.cancelled_caught


# --- 79 to 81: cancelled anywhere in a wait -----------------------------------------------------------------------------------------


@every_stack
async def test_row_79_a_wait_cancelled_in_its_sleep_ends_at_once_asks_nothing_and_can_be_taken_up_again(stack: Stack) -> None:
    async with serve(Till()) as server, stack.client(server.url) as client:
        watcher = OrderWatcher(client, ORDER, poll_interval=8)
        start = anyio.current_time()
        await cancelled_after(3, watcher.code)
        assert anyio.current_time() - start == pytest.approx(3)
        await anyio.sleep(60)
        assert len(server.requests) == 1
        assert await watcher.code() == CODE
        assert len(server.requests) == 2


@every_stack
async def test_row_80_a_wait_cancelled_in_a_poll_drops_it_and_its_code_is_still_to_be_had(stack: Stack) -> None:
    gone_at: list[float] = []

    async def waits(request: SeenRequest, reply: Reply) -> None:
        await reply.hang()
        gone_at.append(anyio.current_time())

    async with serve([waits, CODED]) as server, stack.client(server.url) as client:
        watcher = OrderWatcher(client, ORDER)
        start = anyio.current_time()
        await cancelled_after(3, watcher.code)
        assert anyio.current_time() - start == pytest.approx(3)
        assert watcher.status is None
        await anyio.sleep(60)
        assert gone_at == [pytest.approx(start + 3)]
        assert len(server.requests) == 1
        assert await watcher.code() == CODE


class ClosesSlowly(httpx.AsyncByteStream, httpx.AsyncBaseTransport):
    """A transport whose replies come at once, and take 5 s to be closed; some suspension must follow the last byte, and here it is long."""

    def __init__(self) -> None:
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002 - httpx's name
        self.asked += 1
        return httpx.Response(200, stream=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"status": "OK", "paid": true, "number": "+15550001111", "code": "048213"}'

    async def aclose(self) -> None:
        await anyio.sleep(5)


async def test_row_81_a_code_that_was_read_is_known_though_the_wait_is_cancelled_before_it_returns() -> None:
    transport = ClosesSlowly()
    async with Client(transport=transport) as client:
        watcher = OrderWatcher(client, ORDER)
        await cancelled_after(3, watcher.code)
        known = watcher.status is not None
        assert await watcher.code() == CODE
    assert (known, transport.asked) == (True, 1)


@every_stack
async def test_row_81_a_wait_cancelled_at_any_suspension_knows_all_of_a_status_or_none_and_what_it_knows_it_asks_for_no_more(
    stack: Stack,
) -> None:
    for way in ways():
        k, triggered = 0, True
        while triggered:
            k += 1
            async with serve(lambda _, reply: reply.json(CODED)) as server, stack.client(server.url) as client:
                watcher = OrderWatcher(client, ORDER)
                triggered = (await way(watcher.code, k)).triggered
                known = watcher.status is not None
                await anyio.sleep(0.1)  # what had left the client arrives
                asked = len(server.requests)
                assert await watcher.code() == await watcher.code() == CODE
                assert len(server.requests) == asked + (not known)
        assert k > 3


# --- 82, 83: leaving a block early --------------------------------------------------------------------------------------------------


@every_stack
async def test_row_82_leaving_by_an_error_cancels_once_and_the_error_goes_on(stack: Stack) -> None:
    problem = Left()
    async with serve(by_path(PAID, OK)) as server, stack.client(server.url) as client:
        with pytest.raises(Left) as caught:
            async with OrderWatcher(client, ORDER) as watcher:
                await watcher.paid()
                raise problem
        assert len([request for request in server.requests if request.target.startswith("/cancelorder")]) == 1
    assert caught.value is problem
    assert not hasattr(problem, "__notes__")


@every_stack
async def test_row_82_leaving_by_break_cancels_once(stack: Stack) -> None:
    async with serve(by_path(PAID, OK)) as server, stack.client(server.url) as client:
        async with OrderWatcher(client, ORDER) as watcher:
            async for status in watcher:
                assert status.paid
                break
        assert len([request for request in server.requests if request.target.startswith("/cancelorder")]) == 1


@every_stack
async def test_row_82_leaving_takes_ten_seconds_at_most_and_notes_what_is_left_open(stack: Stack) -> None:
    problem = Left()
    async with serve(once(PAID, hangs)) as server, stack.client(server.url, timeout=100) as client:
        with pytest.raises(Left) as caught:
            async with OrderWatcher(client, ORDER) as watcher:
                await watcher.paid()
                since = anyio.current_time()
                raise problem
        assert anyio.current_time() - since == pytest.approx(10)
    assert caught.value is problem
    [note] = problem.__notes__
    assert note.startswith(f"{MASKED} is left open: ")
    assert ORDER not in note


async def garbage(request: SeenRequest, reply: Reply) -> None:
    await reply.raw(b"HELLO\r\n\r\n")
    await reply.close()


async def error_page(request: SeenRequest, reply: Reply) -> None:
    await reply.raw(b"HTTP/1.1 502 Bad\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\n<html/>")


async def refuses(request: SeenRequest, reply: Reply) -> None:
    await reply.json(TOO_EARLY, 500)


async def trickles(request: SeenRequest, reply: Reply) -> None:
    await reply.trickle(b"HTTP/1.1 200 OK\r\n" + 10 * b"X-Padding: and so on\r\n", each=0.5)


BAD_ANSWERS = [closes, resets, hangs, garbage, error_page, refuses, trickles]


@every_stack
@pytest.mark.parametrize("fault", BAD_ANSWERS)
async def test_row_83_a_clean_up_that_fails_is_a_warning_and_the_error_goes_on(
    stack: Stack, fault: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    problem = Left()
    async with serve(once(PAID, fault)) as server, stack.client(server.url, timeout=100) as client:
        with pytest.raises(Left) as caught:
            async with OrderWatcher(client, ORDER) as watcher:
                await watcher.paid()
                since = anyio.current_time()
                raise problem
        assert anyio.current_time() - since < 10.01
    assert caught.value is problem
    assert problem.__context__ is None
    [warning] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"{MASKED} is left open: ")
    assert ORDER not in caplog.text


@every_stack
@pytest.mark.parametrize("fault", BAD_ANSWERS)
async def test_row_83_a_batch_whose_clean_up_fails_warns_and_the_error_goes_on(
    stack: Stack, fault: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    problem = Left()
    async with serve(once(PAID, fault)) as server, stack.client(server.url, timeout=100) as client:
        with pytest.raises(Left) as caught:
            async with BatchWatcher(client, [ORDER]) as batch:
                await anyio.sleep(1)
                since = anyio.current_time()
                raise problem
        assert anyio.current_time() - since < 10.01
    assert caught.value is problem
    assert [outcome.order.id for outcome in batch.unread] == [ORDER]
    [warning] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "1 orders are left open" in warning
    assert ORDER not in caplog.text


# --- 84 to 86: what is around us ----------------------------------------------------------------------------------------------------


async def by_asyncio_timeout(seconds: float, work: Work) -> None:
    async with asyncio.timeout(seconds):
        await work()


async def by_wait_for(seconds: float, work: Work) -> None:
    await asyncio.wait_for(work(), seconds)


async def by_fail_after(seconds: float, work: Work) -> None:
    with anyio.fail_after(seconds):
        await work()


def cancels_counted() -> int:
    """How many native cancels this task still counts."""
    task = asyncio.current_task() if on_asyncio() else None
    return 0 if task is None else task.cancelling()


def deadlines() -> list[Callable[[float, Work], Awaitable[None]]]:
    """What a program on this backend puts around a call."""
    return [by_fail_after, by_asyncio_timeout, by_wait_for] if on_asyncio() else [by_fail_after]


async def in_a_sleep(client: Client) -> None:
    await OrderWatcher(client, ORDER, poll_interval=100).code()


async def in_a_poll(client: Client) -> None:
    await client.get_balance()
    await OrderWatcher(client, ORDER).code()


async def in_a_purchase(client: Client) -> None:
    await client.get_balance()
    await client.create_order(187, "tg", immediate=True)


async def in_leaving(client: Client) -> None:
    async with OrderWatcher(client, ORDER) as watcher:
        await watcher.paid()


async def in_a_batch(client: Client) -> None:
    async with BatchWatcher(client, [ORDER]) as batch:
        await anext(batch)


AROUND: dict[str, tuple[Program, float]] = {
    "a sleep": (in_a_sleep, 3),
    "a poll": (in_a_poll, 3),
    "a purchase": (in_a_purchase, 13),
    "leaving": (in_leaving, 10),
    "a batch": (in_a_batch, 13),
}
"""Calls that are not over after 3 s, where the service answers once and hangs then; and after how many they must be."""
around = pytest.mark.parametrize(("call", "ends"), AROUND.values(), ids=AROUND)


@every_stack
@around
async def test_row_84_a_time_out_around_us_is_the_callers_time_out(stack: Stack, call: Program, ends: float) -> None:
    for deadline in deadlines():
        async with serve(once(PAID | {"balance": 1}, hangs)) as server, stack.client(server.url, api_key=KEY, timeout=100) as client:
            start = anyio.current_time()
            caught: BaseException | None = None
            try:
                await deadline(3, lambda: call(client))
            except BaseException as error:  # noqa: BLE001 - what it is, is the question
                caught = error
            assert type(caught) is TimeoutError
            assert anyio.current_time() - start <= ends + 0.01
            assert cancels_counted() == 0


def test_row_84_nothing_of_ours_takes_a_cancellation_back() -> None:
    assert [path.name for path, node in nodes() if isinstance(node, ast.Attribute) and node.attr == "uncancel"] == []


@every_stack
@around
async def test_row_85_a_sibling_that_crashes_is_the_one_error_there_is(stack: Stack, call: Program, ends: float) -> None:
    problem = Left()

    async def crash() -> None:
        await anyio.sleep(3)
        raise problem

    async def in_a_group_of_anyio(client: Client) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(crash)
            tasks.start_soon(call, client)

    async def in_a_group_of_asyncio(client: Client) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(crash())
            tasks.create_task(call(client))

    for program in [in_a_group_of_anyio, in_a_group_of_asyncio] if on_asyncio() else [in_a_group_of_anyio]:
        async with serve(once(PAID | {"balance": 1}, hangs)) as server, stack.client(server.url, api_key=KEY, timeout=100) as client:
            start = anyio.current_time()
            caught = await error_of(program(client))
            assert isinstance(caught, BaseExceptionGroup)
            assert caught.exceptions == (problem,)
            assert anyio.current_time() - start <= ends + 0.01


async def error_of(work: Coroutine[Any, Any, None]) -> BaseException | None:
    """What this raises; on asyncio in a task of its own, because asyncio's own group leaves one that is marked as cancelled."""
    if on_asyncio():
        task = asyncio.ensure_future(work)
        await asyncio.wait({task})
        return task.exception()
    try:
        await work
    except BaseException as error:  # noqa: BLE001 - what it is, is the question
        return error
    raise AssertionError("nothing was raised")


class Struck(httpx.AsyncBaseTransport):
    """A service that Ctrl-C strikes as it answers its n-th request, in whatever task that is."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        await anyio.sleep(0.1)
        if len(self.asked) == self.at:
            signal.raise_signal(signal.SIGINT)
        await anyio.sleep(0.1)
        return httpx.Response(200, json=PAID | {"orderId": ORDER, "balance": 1})


@backends
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("call", [call for call, _ in AROUND.values()], ids=AROUND)
def test_row_86_ctrl_c_in_any_task_of_ours_leaves_as_the_backend_delivers_it(backend: str, at: int, call: Program) -> None:
    transport = Struck(at)
    seen: list[BaseException] = []

    async def main() -> None:
        async with Client(transport=transport, api_key=KEY) as client:
            try:
                await call(client)
                await anyio.sleep(1)  # pragma: no cover - only where all was over before
            except BaseException as error:
                seen.append(error)
                raise

    with pytest.raises(KeyboardInterrupt):
        run_virtually(backend, main)
    assert [type(error) for error in seen] == [asyncio.CancelledError if backend == "asyncio" else KeyboardInterrupt]


def test_row_86_groups_are_made_in_one_room_and_opened_there() -> None:
    """Where a task group is begun, one exception is raised for a group; a program's own, at its outermost, is its own."""
    makers = {path for path, node in nodes() if isinstance(node, ast.Attribute) and node.attr in ("create_task_group", "TaskGroup")}
    rooms = {path for path in makers if path.name not in ("__main__.py", "session.py")}
    assert {path.name for path in rooms} == {"shelter.py", "recovery.py", "worker.py"}
    assert [path.name for path in rooms if "raise one_of(group" not in path.read_text(encoding="utf-8")] == []


# --- 87, 88: generators and scopes --------------------------------------------------------------------------------------------------


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    """Everything that the package's sources say."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path, node


def test_row_87_nothing_public_is_an_async_generator() -> None:
    publics = [getattr(sms4sats_async, name) for name in sms4sats_async.__all__]
    members = [getattr(public, name) for public in publics if inspect.isclass(public) for name in dir(public)]
    assert [member for member in (*publics, *members) if inspect.isasyncgenfunction(inspect.unwrap(member))] == []


def generators_of_ours() -> list[object]:
    """The package's async generators that are alive; of others there may be some."""
    return [
        one for one in gc.get_objects() if isinstance(one, types.AsyncGeneratorType) and one.ag_code.co_filename.startswith(str(PACKAGE))
    ]


@every_stack
async def test_row_87_an_iteration_that_is_abandoned_holds_nothing(stack: Stack) -> None:
    async with serve(Till()) as server, stack.client(server.url) as client:
        watcher = OrderWatcher(client, ORDER)
        with anyio.CancelScope() as scope:
            async for status in watcher:  # pragma: no branch - it is left by break
                assert not status.code
                break
        scope.cancel()  # a scope of theirs, left in order: none of ours stands across it
        await anyio.sleep(100)
        assert len(server.requests) == 1
        assert generators_of_ours() == []
        assert [status.code async for status in watcher] == [None, CODE]


def test_row_88_no_function_of_ours_yields_inside_a_scope() -> None:
    """No scope and no group can be left open across a yield, of ours or of the caller's."""
    yielding = [
        f"{path.name}:{block.lineno} {node.name}"
        for path, node in nodes()
        if isinstance(node, ast.AsyncFunctionDef)
        for block in ast.walk(node)
        if isinstance(block, ast.With | ast.AsyncWith) and any(isinstance(inner, ast.Yield) for inner in ast.walk(block))
    ]
    assert yielding == []


def test_row_88_the_linter_looks_for_scopes_across_a_yield() -> None:
    lint = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert {"ALL", "ASYNC"} & {*lint["select"]}
    ignored = [*lint["ignore"], *(rule for name, rules in lint["per-file-ignores"].items() if "sms4sats" in name for rule in rules)]
    assert not [rule for rule in ignored if rule.startswith("ASYNC")]
    silenced = [line for path in PACKAGE.glob("*.py") for line in path.read_text(encoding="utf-8").splitlines() if "noqa: ASYNC1" in line]
    assert [line for line in silenced if "ASYNC115" not in line] == []  # that one: sleep(0) is written as it is meant


# --- 89: closing --------------------------------------------------------------------------------------------------------------------


@every_stack
async def test_row_89_a_client_that_is_closed_ends_its_watchers_within_a_second(stack: Stack) -> None:
    """One sleeps, one polls a service that hangs, another waits for that one's poll, one makes its last steps, and there is a batch."""
    ended: dict[str, float] = {}

    async def answers_or_hangs(request: SeenRequest, reply: Reply) -> None:
        await (reply.hang() if "=polls" in request.target or request.at > start + 20 else reply.json(PAID))

    async def wait(name: str, watcher: OrderWatcher) -> None:
        with pytest.raises(OrderUnresolved, match="closed"):
            await watcher.code()
        ended[name] = anyio.current_time()

    async def read(client: Client) -> None:
        async with BatchWatcher(client, ["in-a-batch-1", "in-a-batch-2"], poll_interval=25) as batch:
            async for outcome in batch:
                assert isinstance(outcome.error, OrderUnresolved)
                ended[outcome.order.id] = anyio.current_time()
        ended["the batch"] = anyio.current_time()

    start = anyio.current_time()
    async with serve(answers_or_hangs) as server, stack.client(server.url, timeout=100) as client, anyio.create_task_group() as tasks:
        polls = OrderWatcher(client, "polls")
        tasks.start_soon(wait, "sleeps", OrderWatcher(client, "sleeps", poll_interval=100))
        tasks.start_soon(wait, "polls", polls)
        tasks.start_soon(wait, "waits for another", polls)
        tasks.start_soon(wait, "makes its last steps", OrderWatcher(client, "ends", hold_window=25, poll_interval=100))
        tasks.start_soon(read, client)
        await anyio.sleep(30)
        await client.aclose()
        assert anyio.current_time() - start <= 31
        sent = len(server.requests)
        await anyio.sleep(60)
        assert len(server.requests) == sent
    assert len(ended) == 7
    assert max(ended.values()) <= start + 31


# --- 90: loops, threads, processes --------------------------------------------------------------------------------------------------


class FromAnotherLoop:
    """A client, a watcher and a batch that are at work in one loop, to be used in another one, in a thread."""

    def __init__(self, client: Client, watcher: OrderWatcher, batch: BatchWatcher) -> None:
        self.client = client
        self.watcher = watcher
        self.batch = batch

    async def read(self) -> None:
        await self.client.get_order_status(ORDER)

    async def buy(self) -> None:
        await self.client.create_order(187, "tg", immediate=True)

    async def watch(self) -> None:
        await OrderWatcher(self.client, ORDER).code()

    async def share(self) -> None:
        await self.watcher.code()

    async def cancel(self) -> None:
        await self.watcher.cancel()

    async def read_outcomes(self) -> None:
        await anext(self.batch)

    async def add(self) -> None:
        self.batch.add("one-more")

    async def watch_many(self) -> None:
        async with BatchWatcher(self.client, [ORDER]):
            raise AssertionError("it let us in")

    async def close(self) -> None:
        await self.client.aclose()


@pytest.mark.real_time
@pytest.mark.parametrize(
    "use",
    [
        FromAnotherLoop.read,
        FromAnotherLoop.buy,
        FromAnotherLoop.watch,
        FromAnotherLoop.share,
        FromAnotherLoop.cancel,
        FromAnotherLoop.read_outcomes,
        FromAnotherLoop.add,
        FromAnotherLoop.watch_many,
        FromAnotherLoop.close,
    ],
)
async def test_row_90_used_from_another_loop_it_refuses(use: Callable[[FromAnotherLoop], Awaitable[None]]) -> None:
    backend = "asyncio" if on_asyncio() else "trio"
    refusals: list[str] = []

    def elsewhere(kit: FromAnotherLoop) -> None:
        async def run() -> None:
            with anyio.move_on_after(1):  # else what hangs would hang for ever
                try:
                    await use(kit)
                except RuntimeError as error:
                    refusals.append(str(error))

        anyio.run(run, backend=backend)

    async with (
        serve(lambda _, reply: reply.json(PAID)) as server,
        Client(base_url=server.url, api_key=KEY, trust_env=False) as client,
        BatchWatcher(client, ["in-a-batch"], poll_interval=100, cancel_on_exit=False) as batch,
        anyio.create_task_group() as tasks,
    ):
        watcher = OrderWatcher(client, ORDER, poll_interval=100)
        tasks.start_soon(watcher.code)
        with anyio.fail_after(60):
            while len(server.requests) < 2:
                await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(elsewhere, FromAnotherLoop(client, watcher, batch))
        sent, watching, is_closed = len(server.requests), batch.watching, client.is_closed
        tasks.cancel_scope.cancel()
    assert refusals == ["this client is of another event loop: make one client for each loop"]
    assert (sent, watching, is_closed) == (2, 1, False)


FORKED = """
    import anyio, httpx, os
    from sms4sats_async import Client

    asked = []

    async def answer(request):
        asked.append(request)
        return httpx.Response(200, json={{"status": "OK", "paid": True}})

    client = Client(transport=httpx.MockTransport(answer))

    async def ask():
        await client.get_order_status("an-order-of-mine")

    anyio.run(ask, backend={backend!r})
    if os.fork():
        os.wait()
    else:
        try:
            anyio.run(ask, backend={backend!r})
        except RuntimeError as error:
            print(error, len(asked))
"""


@backends
def test_row_90_used_after_a_fork_it_refuses(backend: str) -> None:
    program = textwrap.dedent(FORKED.format(backend=backend))
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "this client is of another event loop: make one client for each loop 1\n"


# --- 91: no more work ---------------------------------------------------------------------------------------------------------------


@every_stack
@pytest.mark.parametrize("seconds", [0.5, 3])
async def test_row_91_a_cancelled_watcher_turns_no_more(stack: Stack, seconds: float) -> None:
    """Its loop asks for the next interval after each status: how often, is told by a pace of the caller's own."""
    turns: list[float] = []

    def pace(status: OrderStatus, waited: float) -> float:
        turns.append(anyio.current_time())
        return 1

    async with serve(Till(delay=0.9)) as server, stack.client(server.url) as client:
        watcher = OrderWatcher(client, "silent-order", poll_interval=pace)
        start = anyio.current_time()
        await cancelled_after(seconds, watcher.code)
        await anyio.sleep(100)
        assert max([start, *turns]) <= start + seconds
        assert all(request.at <= start + seconds for request in server.requests)


@every_stack
async def test_row_91_a_cancelled_batch_turns_no_more(stack: Stack) -> None:
    turns: list[float] = []

    def pace(status: OrderStatus, waited: float) -> float:
        turns.append(anyio.current_time())
        return 1

    async def watch() -> None:
        async with BatchWatcher(client, [ORDER, "another"], poll_interval=pace, cancel_on_exit=False):
            await anyio.sleep_forever()

    async with serve(by_path(PAID, OK)) as server, stack.client(server.url) as client:
        start = anyio.current_time()
        await cancelled_after(10.5, watch)
        await anyio.sleep(100)
        assert len(turns) > 10
        assert max(turns) <= start + 10.5
        assert all(request.at <= start + 10.5 for request in server.requests)


@backends
def test_row_91_a_cancelled_wait_takes_few_turns_of_the_loop_to_end(backend: str) -> None:
    """A cancellation that was swallowed shows as suspensions without end: from the first to the last there are a few."""
