"""Rows 13 to 27: the connection fails after the first byte, so that nobody can say whether the service has seen the request."""

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

import sms4sats_async
from sms4sats_async import APIError, Client, DecodeError, Journal, Order, OrderWatcher, OutcomeUnknown, TransportError
from tests.faults.calls import (
    BY_INVOICE,
    KEY,
    PATHS,
    SPENDING,
    TIMEOUT,
    Cancel,
    Work,
    account,
    buy,
    cancelled_anyway,
    cancelled_natively_after,
    cancels,
    fund,
    noted,
    one_more,
    order,
    placed_once_more,
    polled_on,
    read_again,
    spent_once,
    text,
)
from tests.faults.service import Fault, Service, closes, garbage, resets, slow, stalls, status, trickles, unseen
from tests.faults.stacks import Stack, every_stack
from tests.servers import Reply, json_reply, serve
from tests.servers import closes as closes_unread
from tests.suspension import INVOICE, on_asyncio

# --- 13: a kept connection that the server closes just as we send ------------------------------------------------------------------


@every_stack
async def test_row_13_a_read_or_a_cancel_is_made_again_at_once_and_not_counted(stack: Stack) -> None:
    service = Service()
    async with serve(service, close_late=True) as server, account(stack, server.url, attempts=1) as client:
        held = one_more(service, number_at=0.0)
        for _ in range(3):
            assert (await client.get_order_status(held.id)).paid
        await client.cancel_order(held.id)
        assert (anyio.current_time(), service.asked.total(), server.connections_opened) == (0, 4, 4)


@every_stack
async def test_row_13_a_watcher_does_not_notice(stack: Stack) -> None:
    service = Service()
    async with serve(service, close_late=True) as server, account(stack, server.url) as client:
        held = one_more(service, code_at=30.0)
        assert await OrderWatcher(client, held.id, poll_interval=2).code() == held.code
        gaps = [after - before for before, after in itertools.pairwise(held.looks)]
        assert 1.8 <= min(gaps) <= max(gaps) <= 2.2
        assert server.connections_opened == len(held.looks)


@every_stack
async def test_row_13_an_unpaid_order_is_placed_once(stack: Stack) -> None:
    service = Service()
    async with serve(service, close_late=True) as server, account(stack, server.url) as client:
        for place in BY_INVOICE:
            await client.get_balance()
            assert [(await place(client)).id] == [*service.orders][-1:]
        assert len(service.orders) == len(BY_INVOICE)


@every_stack
async def test_row_13_what_spends_goes_over_a_fresh_connection(stack: Stack) -> None:
    """A transport of the caller's makes no such promise: it meets the race, and the outcome is unknown."""
    service = Service()
    async with serve(service, close_late=True) as server, account(stack, server.url) as client:
        for spend in SPENDING:
            await client.get_balance()
            if stack.own_lanes:
                assert (await spend(client)).id == service.charged[-1]
            else:
                with pytest.raises(OutcomeUnknown):
                    await spend(client)
        assert len(service.charged) == (len(SPENDING) if stack.own_lanes else 0)


# --- 14 and 15: the server reads all, and no reply comes ---------------------------------------------------------------------------

lost = pytest.mark.parametrize("fault", [closes, resets, unseen(closes), unseen(resets)], ids=["FIN", "RST", "unseen-FIN", "unseen-RST"])


@every_stack
@lost
async def test_row_14_a_lost_reply_to_a_read_or_a_cancel_is_asked_for_again(stack: Stack, fault: Fault) -> None:
    await polled_on(stack, fault, fault)
    await read_again(stack, fault)
    await cancelled_anyway(stack, fault)


@every_stack
@lost
async def test_row_14_an_unpaid_order_whose_reply_is_lost_is_placed_once_more(stack: Stack, fault: Fault) -> None:
    await placed_once_more(stack, fault)


@every_stack
@lost
async def test_row_14_what_spends_is_sent_once_and_of_unknown_outcome(stack: Stack, fault: Fault) -> None:
    await spent_once(stack, fault)


late = pytest.mark.parametrize("fault", [stalls, slow(TIMEOUT + 0.5), unseen(stalls)], ids=["never", "too-late", "unseen"])


@every_stack
@late
async def test_row_15_a_read_or_a_cancel_that_is_not_answered_is_made_again(stack: Stack, fault: Fault) -> None:
    await polled_on(stack, fault, fault)
    await read_again(stack, fault)
    await cancelled_anyway(stack, fault)


@every_stack
@late
async def test_row_15_an_unpaid_order_that_is_not_answered_is_placed_once_more(stack: Stack, fault: Fault) -> None:
    await placed_once_more(stack, fault)


@every_stack
@late
async def test_row_15_what_spends_is_sent_once_and_waited_for_as_long_as_the_timeout_says(stack: Stack, fault: Fault) -> None:
    await spent_once(stack, fault, lasting=TIMEOUT)


# --- 16: a trickled reply ----------------------------------------------------------------------------------------------------------


def trickles_its_body(each: float) -> Fault:
    """Send the head of the reply at once, and one byte of its body every so many seconds."""

    async def fault(reply: Reply, answer: bytes) -> None:
        head = answer.index(b"\r\n\r\n") + 4
        await reply.raw(answer[:head])
        await reply.trickle(answer[head:], each)

    return fault


trickled = pytest.mark.parametrize("fault", [trickles(), trickles(6.5), trickles_its_body(0.3)], ids=["head", "slower", "body"])


@every_stack
@trickled
async def test_row_16_an_attempt_ends_at_the_timeout_although_bytes_come(stack: Stack, fault: Fault) -> None:
    service = Service()
    service.next("/orderstatus", fault)
    async with service.serving() as server, account(stack, server.url, attempts=1) as client:
        held = one_more(service, number_at=0.0)
        with pytest.raises(TransportError) as caught:
            await client.get_order_status(held.id)
        assert anyio.current_time() == pytest.approx(TIMEOUT)
        assert caught.value.order_id == held.id
    await polled_on(stack, fault, fault)


@every_stack
@trickled
async def test_row_16_an_unpaid_order_whose_reply_trickles_is_placed_once_more(stack: Stack, fault: Fault) -> None:
    await placed_once_more(stack, fault)


@every_stack
@trickled
async def test_row_16_what_spends_is_of_unknown_outcome_at_the_timeout(stack: Stack, fault: Fault) -> None:
    await spent_once(stack, fault, lasting=TIMEOUT)


@every_stack
async def test_row_16_an_id_that_came_before_the_timeout_is_on_the_error(stack: Stack) -> None:
    await spent_once(stack, trickles_its_body(0.065), lasting=TIMEOUT, salvaged=True)


# --- 17 and 18: the request does not get through -----------------------------------------------------------------------------------

LONG = "r" * (6 << 20)
"""More than two sockets hold between them, so that it cannot be written to somebody who does not read."""

a_long_body = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's advice on bodies of a megabyte


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """Somebody who lets everybody connect, and reads nothing."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@every_stack
@a_long_body
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_row_17_a_write_that_fails_half_way_is_a_lost_reply(stack: Stack, reset: bool) -> None:
    async def ends(number: int, reply: Reply) -> None:
        await reply.read(1000)
        await (reply.reset() if reset else reply.close())

    service = Service()
    async with serve(service, on_connect=ends) as server, account(stack, server.url) as client:
        with pytest.raises(OutcomeUnknown):
            await client.create_order(187, "tg", ref=LONG, immediate=True)
        assert server.connections_opened == 1
        with pytest.raises(TransportError) as caught:
            await client.create_order(187, "tg", ref=LONG)
        assert not isinstance(caught.value, OutcomeUnknown)
        assert (server.connections_opened, service.orders) == (3, {})


@every_stack
@a_long_body
async def test_row_17_a_write_that_does_not_end_is_a_lost_reply_at_the_timeout(stack: Stack) -> None:
    with deaf() as url:
        async with account(stack, url) as client:
            with pytest.raises(OutcomeUnknown):
                await client.create_order(187, "tg", ref=LONG, immediate=True)
            assert anyio.current_time() == pytest.approx(TIMEOUT)
            with pytest.raises(TransportError) as caught:
                await client.create_order(187, "tg", ref=LONG)
            assert not isinstance(caught.value, OutcomeUnknown)
            assert 3 * TIMEOUT <= anyio.current_time() <= 3 * TIMEOUT + 0.5


@every_stack
async def test_row_18_a_reply_before_the_request_was_read_counts(stack: Stack) -> None:
    no = json_reply({"status": "error", "reason": "too busy"}, 500)

    async def answers(number: int, reply: Reply) -> None:
        await reply.read(1)
        await reply.raw(no)

    async with serve(closes_unread, on_connect=answers) as server, account(stack, server.url) as client:
        for place in [*SPENDING, *BY_INVOICE]:
            with pytest.raises(APIError, match="too busy"):
                await place(client)
        for read in (client.get_balance, lambda: client.get_order_status("a" * 32), lambda: client.cancel_order("a" * 32)):
            with pytest.raises(APIError, match="too busy"):
                await read()


@every_stack
async def test_row_18_an_order_told_before_its_request_was_read_is_an_order(stack: Stack) -> None:
    async def answers(number: int, reply: Reply) -> None:
        await reply.read(1)
        await reply.raw(json_reply({"status": "OK", "orderId": f"order-{number}", "payreq": "paid" if number == 1 else INVOICE}))

    async with serve(closes_unread, on_connect=answers) as server, account(stack, server.url) as client:
        assert (await buy(client)).id == "order-1"
        assert (await order(client)).id == "order-2"
        assert server.connections_opened == 2


# --- 19, 20 and 21: half a reply, and none -----------------------------------------------------------------------------------------


def cut_after(what: bytes, *, reset: bool) -> Fault:
    """Send the true answer up to this part of it, and end the connection a while later: what was sent has surely come."""

    async def fault(reply: Reply, answer: bytes) -> None:
        await reply.raw(answer[: answer.index(what) + len(what)])
        await anyio.sleep(1)
        await (reply.reset() if reset else reply.close())

    return fault


ended = pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])


@every_stack
@ended
@pytest.mark.parametrize("part", [b"HTTP/1.1", b"\r\n\r\n", b"OK"], ids=["status-line", "head", "body"])
async def test_row_19_half_a_reply_is_none(stack: Stack, part: bytes, reset: bool) -> None:
    fault = cut_after(part, reset=reset)
    await polled_on(stack, fault, fault)
    await read_again(stack, fault)
    await cancelled_anyway(stack, fault)
    await placed_once_more(stack, fault)
    await spent_once(stack, fault, lasting=1)


@every_stack
@ended
async def test_row_19_an_id_in_the_part_that_came_is_on_the_error(stack: Stack, reset: bool) -> None:
    fault = cut_after(b'", "payreq"', reset=reset)
    await placed_once_more(stack, fault, salvaged=True)
    await spent_once(stack, fault, lasting=1, salvaged=True)


@every_stack
async def test_row_20_garbage_is_no_reply(stack: Stack) -> None:
    await polled_on(stack, garbage, unseen(garbage))
    await read_again(stack, garbage)
    await cancelled_anyway(stack, garbage)
    await placed_once_more(stack, garbage)
    await spent_once(stack, garbage)
    await spent_once(stack, unseen(garbage))


GZIP = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]


@every_stack
@pytest.mark.parametrize("body", [b"no gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xffcut"], ids=["none", "cut"])
async def test_row_21_a_broken_compression_is_no_reply(stack: Stack, body: bytes) -> None:
    fault = status(200, body, GZIP)
    await polled_on(stack, fault, fault)
    await read_again(stack, fault, DecodeError)
    await cancelled_anyway(stack, fault, DecodeError)
    await placed_once_more(stack, fault, DecodeError)
    await spent_once(stack, fault, DecodeError)


# --- 22, 23 and 24: a time-out of each call that places an order -------------------------------------------------------------------


@every_stack
async def test_row_22_a_number_bought_in_a_timeout_is_charged_once_and_said_to_be_unknown(stack: Stack) -> None:
    service = Service()
    service.next("/createorder", stalls)
    async with service.serving() as server, account(stack, server.url, max_connections=1) as client:
        with pytest.raises(OutcomeUnknown, match="the balance may have been charged: look before you repeat it") as caught:
            await buy(client)
        assert anyio.current_time() == pytest.approx(TIMEOUT)
        assert "no whole reply within 7 s" in str(caught.value.__cause__)
        assert await client.get_balance() == 25000
        await anyio.sleep(60)
        assert (len(service.charged), service.asked["/createorder"]) == (1, 1)


@every_stack
async def test_row_23_an_sms_ordered_in_a_timeout_may_have_been_sent(stack: Stack) -> None:
    service = Service()
    service.next("/createsendorder", stalls)
    async with service.serving() as server, account(stack, server.url) as client:
        with pytest.raises(OutcomeUnknown, match="the SMS may have been sent and paid for: look before you repeat it"):
            await text(client)
        await anyio.sleep(60)
        assert (len(service.charged), service.asked["/createsendorder"]) == (1, 1)


@every_stack
async def test_row_24_a_funding_in_a_timeout_is_asked_for_once_more_and_costs_nothing(stack: Stack) -> None:
    service = Service()
    service.next("/fund", stalls, None, stalls, stalls)
    async with service.serving() as server, account(stack, server.url) as client:
        assert (await fund(client)).id == [*service.orders][1]
        with pytest.raises(TransportError) as caught:
            await fund(client)
        assert not isinstance(caught.value, OutcomeUnknown)
        assert (service.asked["/fund"], service.charged, service.holding) == (4, [], [])


# --- 25 and 26: the caller is cancelled while the money moves ----------------------------------------------------------------------


async def cancelled_purchases(stack: Stack, cancel: Cancel, fault: Fault, lasting: float, *, known: bool, words: str) -> None:
    """Each kind of purchase meets this fault and is cancelled after a second; it lasts so long, and is known or said to be lost."""
    service, told = Service(), list[Order]()
    async with service.serving() as server, account(stack, server.url, timeout=60, on_order=told.append) as client:
        for times, spend in enumerate(SPENDING, 1):
            service.next(PATHS[spend], fault)
            start = anyio.current_time()
            cancellation = await cancel(1, functools.partial(spend, client))
            assert anyio.current_time() - start == pytest.approx(lasting)
            assert (service.asked.total(), len(service.charged)) == (times, times)
            notes = " ".join(cancellation.__notes__)
            assert words in notes
            assert service.charged[-1] not in notes
        assert [one.id for one in told] == [one.id for one in client.orphaned_orders] == service.charged * known
        assert all(one.prepaid for one in told)


@every_stack
async def test_row_25_a_cancelled_purchase_comes_to_its_end_and_its_order_is_kept(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    for cancel in cancels():
        await cancelled_purchases(stack, cancel, slow(3), 3, known=True, words="it is in client.orphaned_orders, and can be watched")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@every_stack
async def test_row_25_a_cancelled_purchase_that_is_not_answered_ends_after_ten_seconds(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    for cancel in cancels():
        caplog.clear()
        await cancelled_purchases(stack, cancel, stalls, 11, known=False, words="no reply within 10 s of the cancellation")
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == len(SPENDING)


@every_stack
async def test_row_25_a_cancelled_purchase_keeps_the_id_of_half_a_reply(stack: Stack) -> None:
    async def cut_late(reply: Reply, answer: bytes) -> None:
        await anyio.sleep(2)
        await cut_after(b'", "payreq"', reset=False)(reply, answer)

    for cancel in cancels():
        await cancelled_purchases(stack, cancel, cut_late, 3, known=True, words="it is in client.orphaned_orders, and can be watched")


@every_stack
async def test_row_25_a_lost_reply_to_a_cancelled_purchase_is_in_the_cancellations_note(stack: Stack) -> None:
    async def reset_late(reply: Reply, answer: bytes) -> None:
        await anyio.sleep(2)
        await reply.reset()

    for cancel in cancels():
        await cancelled_purchases(stack, cancel, reset_late, 2, known=False, words="may have been")


async def twice(seconds: float, work: Work) -> BaseException:
    return await cancelled_natively_after(seconds, work, times=2)


async def many_times(seconds: float, work: Work) -> BaseException:
    return await cancelled_natively_after(seconds, work, times=15)


async def by_timeout_and_task(seconds: float, work: Work) -> BaseException:
    """A time-out of asyncio's inside a task that is cancelled as well."""

    async def inside() -> None:
        async with asyncio.timeout(seconds / 2):
            await work()

    return await cancelled_natively_after(seconds, inside)


async def by_two_timeouts(seconds: float, work: Work) -> BaseException:
    seen: list[BaseException] = []

    async def noting() -> None:
        async with asyncio.timeout(seconds / 2):
            await noted(work, seen)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(noting(), seconds)
    return seen[0]


async def by_two_scopes(seconds: float, work: Work) -> BaseException:
    seen: list[BaseException] = []

    async def noting() -> None:
        with anyio.move_on_after(seconds / 2):
            await noted(work, seen)

    with anyio.move_on_after(seconds):
        await noting()
    return seen[0]


@every_stack
async def test_row_26_a_purchase_survives_several_cancels(stack: Stack) -> None:
    ways = [by_two_scopes, twice, many_times, by_timeout_and_task, by_two_timeouts] if on_asyncio() else [by_two_scopes]
    for way in ways:
        await cancelled_purchases(stack, way, slow(3), 3, known=True, words="it is in client.orphaned_orders, and can be watched")


def test_row_26_a_purchase_survives_the_end_of_its_loop() -> None:
    """The server is in another thread: the end of the loop, which cancels all tasks, would end it as well."""
    seen, told = threading.Event(), list[Order]()
    service = Service(lambda request, about: slow(0.2), born=lambda held: seen.set())

    async def purchase(url: str) -> None:
        async with Client(api_key=KEY, base_url=url, trust_env=False, on_order=told.append) as client:
            await buy(client)

    async def program(url: str) -> asyncio.Task[None]:
        task = asyncio.create_task(purchase(url))
        await asyncio.to_thread(seen.wait, 5)
        return task

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(service.serving()) as server:
        task = asyncio.run(program(server.url))
        assert task.cancelled()  # pragma: no cover - the tracer has lost this frame
        charged = portal.call(lambda: service.charged)  # pragma: no cover
        assert [one.id for one in told] == charged  # pragma: no cover
        assert service.asked.total() == len(told) == 1  # pragma: no cover


# --- 27: the process is killed in a prepaid call -----------------------------------------------------------------------------------

BUYER = """if True:
    import sys
    import anyio
    from sms4sats_async import Journal
    from tests.faults.stacks import Stack

    async def main(stack, url, path):
        async with Journal(path) as journal, Stack(stack, ()).client(url, api_key="key", journal=journal) as client:
            await client.create_order(187, "tg", immediate=True)

    backend, *arguments = sys.argv[1:]
    anyio.run(main, *arguments, backend=backend)
"""


@pytest.mark.real_time
@every_stack
async def test_row_27_a_purchase_that_is_lost_with_its_process_is_in_the_journal(
    stack: Stack, tmp_path: Path, anyio_backend_name: str
) -> None:
    async def kills(reply: Reply, answer: bytes) -> None:
        process.kill()
        await process.wait()
        await reply.reset()

    service, path = Service(lambda request, about: kills), tmp_path / "orders.db"
    places = os.pathsep.join(str(place) for place in (Path(sms4sats_async.__file__).parents[1], Path(__file__).parents[2]))
    async with service.serving() as server:
        command = [sys.executable, "-c", BUYER, anyio_backend_name, stack.name, server.url, str(path)]
        async with await anyio.open_process(command, env=os.environ | {"PYTHONPATH": places}) as process:
            assert await process.wait() == -signal.SIGKILL
    async with Journal(path) as journal:
        (intent,) = await journal.unresolved()
        assert (intent.country, intent.service, intent.prepaid) == (187, "tg", True)
    assert len(service.charged) == 1
