"""An order's life against the clock: codes and cancels that cross, lost answers, restarts, other watchers, a service that is away.

Orders are put into the service as paid at its second 0, when the test begins, so that seconds are seconds of the hold window.
"""

import itertools
import json
import logging
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest

from sms4sats_async import (
    APIError,
    BatchWatcher,
    CancelRefused,
    Client,
    Order,
    OrderCancelled,
    OrderError,
    OrderExpired,
    OrderFailed,
    OrderKind,
    OrderUnresolved,
    OrderWatcher,
    Outcome,
    SmsStatus,
)
from tests.faults.service import NEVER, WINDOW, Fault, Held, Service, closes, lies, resets, slow, stalls, status, unseen
from tests.faults.stacks import Stack, every_stack
from tests.faults.watching import Watched, alone, either_way, in_a_batch, on_time
from tests.servers import SeenRequest

OPEN = 300.0
"""A hold window that ends while the service would still take the code: what comes after it is up to the last steps alone."""

SELDOM = 20.0
"""A poll interval for what is not about the pace: fewer polls, the same end."""


def late(path: str, seconds: float) -> Any:
    """A plan: from the end of the window on, the first request for this path is answered so much later, with what was true before."""
    begun: list[SeenRequest] = []

    def plan(request: SeenRequest, about: Held | None) -> Fault | None:
        if request.target.startswith(path) and anyio.current_time() >= OPEN and not begun:
            begun.append(request)
            return slow(seconds)
        return None

    return plan


def expiry(outcome: Outcome) -> OrderExpired:
    assert isinstance(outcome.error, OrderExpired), outcome
    return outcome.error


# --- codes and cancels that cross --------------------------------------------------------------------------------------------------


@either_way
@every_stack
async def test_row_59_a_code_between_the_last_look_and_the_cancel_is_returned(stack: Stack, watched: Watched) -> None:
    service = Service(late("/orderstatus", 2))
    held = service.order(paid_at=0.0, code_at=OPEN + 1)
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=OPEN, poll_interval=SELDOM)
    assert (outcome.code, outcome.error) == (held.code, None)
    assert held.cancels == on_time([OPEN + 2])
    assert held.looks[-2:] == on_time([OPEN, OPEN + 2])
    assert service.charged == [held.id]


@every_stack
async def test_row_59_a_code_that_arrives_as_the_block_is_left_is_in_the_status(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=199.0)
    async with service.serving() as server, stack.client(server.url) as client:
        async with OrderWatcher(client, held.id, poll_interval=60) as watcher:
            with anyio.move_on_after(200):
                await watcher.code()
        assert watcher.status is not None
        assert watcher.status.code == held.code
    assert (len(held.cancels), service.charged) == (1, [held.id])
    assert "was left as its code arrived" in caplog.text


@every_stack
async def test_row_59_a_code_that_arrives_as_a_batch_is_left_is_an_unread_outcome(stack: Stack) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=199.0)
    async with service.serving() as server, stack.client(server.url) as client:
        async with BatchWatcher(client, [held.id], poll_interval=60) as batch:
            await anyio.sleep(200)
        assert [outcome.code for outcome in batch.unread] == [held.code]
    assert (len(held.cancels), service.charged) == (1, [held.id])


@every_stack
async def test_row_60_a_cancel_in_the_first_two_minutes_is_refused_and_the_order_goes_on(stack: Stack) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=60.0)
    async with service.serving() as server, stack.client(server.url) as client:
        watcher = OrderWatcher(client, held.id)
        await watcher.paid()
        with pytest.raises(CancelRefused) as caught:
            await watcher.cancel()
        assert caught.value.reason == "order can be canceled after 2 minutes"
        assert service.holding == [held.id]
        assert await watcher.code() == held.code
    assert len(held.cancels) == 1


@every_stack
async def test_row_60_a_cancel_when_allowed_is_asked_for_a_second_after_the_gate(stack: Stack) -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    async with service.serving() as server, stack.client(server.url) as client:
        await OrderWatcher(client, held.id).cancel(when_allowed=True)
        assert service.holding == []
    assert held.cancels == on_time([121])
    assert len(held.looks) > 20  # it was polled meanwhile: a code would have come first


@every_stack
async def test_row_60_leaving_the_block_asks_once_and_logs_the_refusal(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    async with service.serving() as server, stack.client(server.url) as client:
        async with OrderWatcher(client, held.id) as watcher:
            await watcher.paid()
        async with BatchWatcher(client, [held.id]) as batch:
            await anyio.sleep(1)
        [outcome] = batch.unread
        assert isinstance(outcome.error, CancelRefused)
        assert service.holding == [held.id]
    assert len(held.cancels) == 2  # one of each
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["left open" in warning for warning in warnings] == [True, True]
    assert held.id not in caplog.text


LOST = {"reset": resets, "closed": closes, "silence": stalls}


@pytest.mark.parametrize("lost", LOST)
@either_way
@every_stack
async def test_row_61_a_cancel_whose_answer_is_lost_is_asked_for_again_after_a_look(stack: Stack, watched: Watched, lost: str) -> None:
    service = Service(says_ended=False)
    held = service.order(paid_at=0.0)
    service.next("/cancelorder", LOST[lost])
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=OPEN, poll_interval=SELDOM)
        assert expiry(outcome).cancelled
        assert anyio.current_time() <= OPEN + 30
    assert len(held.cancels) == 2
    between = [at for at in held.looks if held.cancels[0] <= at <= held.cancels[1]]
    assert between != []
    assert service.holding == []


@either_way
@every_stack
async def test_row_61_a_code_seen_after_a_lost_cancel_wins(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=OPEN + 5)
    service.next("/cancelorder", unseen(stalls))
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=OPEN, poll_interval=SELDOM)
    assert (outcome.code, outcome.error) == (held.code, None)
    assert (held.cancels, service.charged) == ([], [held.id])


@either_way
@every_stack
async def test_row_61_a_cancel_that_is_never_answered_is_made_three_times_and_called_unconfirmed(stack: Stack, watched: Watched) -> None:
    service = Service(says_ended=False)
    held = service.order(paid_at=0.0)
    service.next("/cancelorder", *[unseen(status(503, b"<html>"))] * 9)
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=OPEN, poll_interval=SELDOM)
        assert not expiry(outcome).cancelled
        assert anyio.current_time() <= OPEN + 30
        assert service.holding == [held.id]
    assert (service.asked["/cancelorder"], held.cancels) == (3, [])


@either_way
@every_stack
async def test_row_61_a_status_that_tells_of_the_lost_cancel_is_the_end_but_confirms_nothing(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    service.next("/cancelorder", stalls)
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=OPEN, poll_interval=SELDOM)
        assert (expiry(outcome).paid, expiry(outcome).cancelled) == (True, False)
        assert service.holding == []
    assert len(held.cancels) == 1


@either_way
@every_stack
async def test_row_62_a_cancel_that_was_confirmed_stands_though_the_status_looks_live(stack: Stack, watched: Watched) -> None:
    service = Service(says_ended=False)
    held = service.order(paid_at=0.0)
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=OPEN, poll_interval=SELDOM)
        assert (expiry(outcome).cancelled, expiry(outcome).reason) == (True, None)
        assert service.holding == []
    assert held.cancels == on_time([OPEN])
    assert held.looks[-1] >= held.cancels[0]


@either_way
@every_stack
async def test_row_63_a_cancel_that_says_yes_to_a_delivered_code_costs_no_code(stack: Stack, watched: Watched) -> None:
    service = Service(late("/orderstatus", 2))
    held = service.order(paid_at=0.0, code_at=OPEN + 1)
    service.next("/cancelorder", lies({"status": "OK"}))
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=OPEN, poll_interval=SELDOM)
    assert (outcome.code, outcome.error) == (held.code, None)
    assert (len(held.cancels), service.charged) == (1, [held.id])


ALREADY = lies({"status": "error", "reason": "order is already canceled"}, 500)


@every_stack
async def test_row_64_cancelling_twice_is_cancelling_once_and_an_unknown_order_is_an_api_error(stack: Stack) -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    async with service.serving() as server, stack.client(server.url) as client:
        await anyio.sleep(130)
        await client.cancel_order(held.id)
        await client.cancel_order(held.id)
        assert service.holding == []
        with pytest.raises(APIError, match="order not found"):
            await client.cancel_order("b" * 32)
        service.next("/cancelorder", ALREADY)
        with pytest.raises(APIError, match="already canceled"):
            await client.cancel_order(held.id)
    assert held.cancelled_at == on_time(130)


@pytest.mark.parametrize("ended", ["cancelled", "expired"])
@every_stack
async def test_row_64_a_refused_cancel_of_an_ended_order_tells_of_its_end(stack: Stack, ended: str) -> None:
    service = Service()
    held = service.order(paid_at=0.0, window=130 if ended == "expired" else WINDOW, cancelled_at=130.0 if ended == "cancelled" else NEVER)
    service.next("/cancelorder", *[ALREADY] * 2)
    async with service.serving() as server, stack.client(server.url) as client:
        watcher = OrderWatcher(client, held.id)
        await watcher.paid()
        async with BatchWatcher(client, [held.id], poll_interval=60) as batch:
            await anyio.sleep(131)
            with pytest.raises(CancelRefused, match="gives the money back: order canceled"):
                await watcher.cancel()
        [outcome] = batch.unread
        assert isinstance(outcome.error, OrderFailed)
        with pytest.raises(OrderFailed):
            await watcher.code()
        assert service.holding == []


@pytest.mark.parametrize("poll", ["answered late", "not answered"])
@every_stack
async def test_row_65_a_cancel_during_a_poll_waits_for_that_poll(stack: Stack, poll: str) -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    held.created_at = -200.0
    service.next("/orderstatus", None, slow(5) if poll == "answered late" else stalls)
    ends: list[BaseException] = []
    async with service.serving() as server, stack.client(server.url) as client, anyio.create_task_group() as group:
        watcher = OrderWatcher(client, held.id, poll_interval=10)

        async def wait() -> None:
            with pytest.raises(OrderCancelled) as caught:
                await watcher.code()
            ends.append(caught.value)

        group.start_soon(wait)
        await anyio.sleep(12)
        assert len(held.looks) == 2  # the second is under way
        await watcher.cancel()
        assert service.holding == []
    assert (held.most_at_once, len(held.cancels), len(ends)) == (1, 1, 1)
    assert held.cancels[0] >= held.looks[1] + 5


@every_stack
async def test_row_65_leaving_a_batch_during_a_poll_drops_that_poll_and_cancels_at_once(stack: Stack) -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    held.created_at = -200.0
    service.next("/orderstatus", None, stalls)
    async with service.serving() as server, stack.client(server.url) as client:
        async with BatchWatcher(client, [held.id], poll_interval=10) as batch:
            await anyio.sleep(12)
        [outcome] = batch.unread
        assert isinstance(outcome.error, OrderCancelled)
        assert held.cancels == on_time([12])
        assert service.holding == []


# --- several watchers, and restarts ------------------------------------------------------------------------------------------------


async def both(first: Watched, second: Watched, clients: tuple[Client, Client], held: Held, **options: Any) -> list[Outcome]:
    """Watch one order twice at once."""
    outcomes: list[Outcome] = []

    async def watch(watched: Watched, client: Client) -> None:
        outcomes.append(await watched(client, held.id, **options))

    async with anyio.create_task_group() as group:
        for watched, client in zip((first, second), clients, strict=True):
            group.start_soon(watch, watched, client)
    return outcomes


PAIRS = pytest.mark.parametrize(
    ("first", "second"), [(alone, alone), (in_a_batch, in_a_batch), (alone, in_a_batch)], ids=["alone", "batches", "one of each"]
)


@PAIRS
@every_stack
async def test_row_66_two_watchers_of_one_client_both_get_the_code(stack: Stack, first: Watched, second: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=60.0)
    async with service.serving() as server, stack.client(server.url) as client:
        outcomes = await both(first, second, (client, client), held)
    assert [outcome.code for outcome in outcomes] == [held.code] * 2
    assert (held.cancels, service.charged) == ([], [held.id])


@PAIRS
@every_stack
async def test_row_66_two_watchers_of_one_client_each_cancel_and_the_money_is_back(stack: Stack, first: Watched, second: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    async with service.serving() as server, stack.client(server.url) as client:
        outcomes = await both(first, second, (client, client), held, hold_window=OPEN, poll_interval=SELDOM)
        assert [(expiry(outcome).paid, expiry(outcome).cancelled) for outcome in outcomes] == [(True, True)] * 2
        assert service.holding == []
    assert len(held.cancels) == 2  # cancelling twice is cancelling once
    assert held.cancelled_at == on_time(OPEN)


@PAIRS
@every_stack
async def test_row_67_two_clients_that_know_nothing_of_each_other_both_get_the_code(stack: Stack, first: Watched, second: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=60.0)
    async with service.serving() as server, stack.client(server.url) as one, stack.client(server.url) as other:
        outcomes = await both(first, second, (one, other), held)
    assert [outcome.code for outcome in outcomes] == [held.code] * 2
    assert (held.cancels, service.charged) == ([], [held.id])


@PAIRS
@every_stack
async def test_row_67_where_one_client_cancels_just_before_the_code_neither_is_charged(
    stack: Stack, first: Watched, second: Watched
) -> None:
    service = Service(late("/orderstatus", 2))  # the last look of one of them; the other one cancels meanwhile
    held = service.order(paid_at=0.0, code_at=OPEN + 1)
    async with service.serving() as server, stack.client(server.url) as one, stack.client(server.url) as other:
        outcomes = await both(first, second, (one, other), held, hold_window=OPEN, poll_interval=SELDOM)
        assert [(outcome.code, expiry(outcome).cancelled) for outcome in outcomes] == [(None, True)] * 2
        assert (service.holding, service.charged) == ([], [])
    assert held.cancels == on_time([OPEN, OPEN + 2])


@pytest.mark.parametrize("says_ended", [True, False], ids=["told", "silent"])
@either_way
@every_stack
async def test_row_67_a_cancel_by_another_client_is_the_end_for_this_one(stack: Stack, watched: Watched, says_ended: bool) -> None:
    service = Service(says_ended=says_ended)
    held = service.order(paid_at=0.0)
    async with service.serving() as server, stack.client(server.url) as one, stack.client(server.url) as other:

        async def cancel_elsewhere() -> None:
            await OrderWatcher(other, held.id).cancel(when_allowed=True)

        async with anyio.create_task_group() as group:
            group.start_soon(cancel_elsewhere)
            outcome = await watched(one, held.id, hold_window=OPEN, poll_interval=SELDOM)
        if says_ended:
            assert isinstance(outcome.error, OrderFailed)
            assert outcome.error.reason == "order canceled"
        else:  # it cannot know, asks again, and is told yes
            assert expiry(outcome).cancelled
        assert service.holding == []
    assert held.cancelled_at == on_time(121)


@pytest.mark.parametrize("hours_off", [-5, 5])
@either_way
@every_stack
async def test_row_68_a_restart_looks_at_once_and_waits_a_whole_window_more(stack: Stack, watched: Watched, hours_off: int) -> None:
    service = Service()
    async with service.serving() as server:
        async with stack.client(server.url) as client:
            order = await client.create_order(187, "tg")
            held = service.pay(order.id, number_after=5, code_after=1250)
            with anyio.move_on_after(600):
                await OrderWatcher(client, order, poll_interval=SELDOM).code()
        stored = json.loads(json.dumps(order.to_dict()))
        stored["created_at"] = (datetime.fromisoformat(stored["created_at"]) + timedelta(hours=hours_off)).isoformat()
        restarted = anyio.current_time()
        async with stack.client(server.url) as client:
            outcome = await watched(client, Order.from_dict(stored), poll_interval=SELDOM)
    assert outcome.code == held.code
    assert restarted in [on_time(at) for at in held.looks]
    assert held.cancels == []
    assert service.charged == [held.id]


@either_way
@every_stack
async def test_row_68_the_window_after_a_restart_is_a_whole_one_and_costs_nothing(stack: Stack, watched: Watched) -> None:
    service = Service(says_ended=False)
    held = service.order(paid_at=0.0)
    async with service.serving() as server, stack.client(server.url) as client:
        await anyio.sleep(600)
        outcome = await watched(client, Order(held.id), poll_interval=SELDOM)
        assert expiry(outcome).paid
        assert anyio.current_time() == on_time(600 + WINDOW)
        assert service.holding == []
    assert service.charged == []


@either_way
@every_stack
async def test_row_69_long_after_the_end_the_code_is_still_returned_at_once(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=60.0)
    async with service.serving() as server, stack.client(server.url) as client:
        await anyio.sleep(86_400)
        outcome = await watched(client, Order(held.id))
    assert (outcome.code, len(held.looks)) == (held.code, 1)


@either_way
@every_stack
async def test_row_69_long_after_the_end_the_servers_own_words_are_the_end(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    async with service.serving() as server, stack.client(server.url) as client:
        await anyio.sleep(86_400)
        outcome = await watched(client, Order(held.id))
    assert isinstance(outcome.error, OrderFailed)
    assert (len(held.looks), held.cancels) == (1, [])


@either_way
@every_stack
async def test_row_69_nothing_is_called_expired_while_nothing_answers(stack: Stack, watched: Watched) -> None:
    service = Service(lambda request, about: unseen(closes))
    held = service.order(paid_at=0.0)
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, Order(held.id), payment_window=OPEN, poll_interval=SELDOM)
        assert anyio.current_time() <= OPEN + 31
    assert isinstance(outcome.error, OrderUnresolved)
    assert (held.looks, held.cancels) == ([], [])


# --- ends --------------------------------------------------------------------------------------------------------------------------


@either_way
@every_stack
async def test_row_70_an_order_that_is_never_paid_is_polled_slower_and_cancelled_at_the_windows_end(stack: Stack, watched: Watched) -> None:
    service = Service()
    async with service.serving() as server, stack.client(server.url) as client:
        order = await client.create_order(187, "tg")
        outcome = await watched(client, order)
    held = service.orders[order.id]
    assert (expiry(outcome).paid, expiry(outcome).cancelled) == (False, True)
    assert held.cancels == on_time([WINDOW])
    assert held.looks[-2:] == on_time([WINDOW, WINDOW])
    slow_ones = [at for at in held.looks[:-2] if at > 140]
    assert all(10 < after - before < 15 for before, after in itertools.pairwise(slow_ones))
    assert len(held.looks) < 160
    assert service.charged == []


@either_way
@every_stack
async def test_row_75_the_end_of_the_window_looks_cancels_and_looks_again(stack: Stack, watched: Watched) -> None:
    service = Service(says_ended=False)
    held = service.order(paid_at=0.0, window=NEVER)
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, poll_interval=SELDOM)
        assert (expiry(outcome).paid, expiry(outcome).cancelled) == (True, True)
        assert service.holding == []
    assert held.cancels == on_time([WINDOW])
    assert held.looks[-2:] == on_time([WINDOW, WINDOW])
    assert held.most_at_once == 1


@either_way
@every_stack
async def test_row_76_an_outage_across_the_end_is_unresolved_and_the_code_is_there_later(stack: Stack, watched: Watched) -> None:
    def plan(request: SeenRequest, about: Held | None) -> Fault | None:
        return unseen(closes) if 1200 <= anyio.current_time() < 2400 else None

    service = Service(plan)
    held = service.order(paid_at=0.0, code_at=1230.0)
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, poll_interval=SELDOM)
        assert isinstance(outcome.error, OrderUnresolved)
        assert outcome.error.order_id == outcome.order.id == held.id
        assert WINDOW <= anyio.current_time() <= WINDOW + 31
        await anyio.sleep(2400 - anyio.current_time())
        again = await watched(client, outcome.order)
    assert (again.code, again.error) == (held.code, None)
    assert (held.cancels, service.charged) == ([], [held.id])


@either_way
@every_stack
async def test_row_77_a_code_after_the_expiry_was_told_is_there_for_whoever_watches_again(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(paid_at=0.0, code_at=OPEN + 60)
    service.next("/cancelorder", unseen(lies({"status": "error", "reason": "not now"}, 500)))
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=OPEN, poll_interval=SELDOM)
        assert (expiry(outcome).cancelled, expiry(outcome).reason) == (False, "not now")
        again = await watched(client, held.id)
    assert (again.code, again.error) == (held.code, None)
    assert service.charged == [held.id]


@every_stack
async def test_row_78_the_id_of_a_send_order_is_known_by_its_status_and_never_cancelled(stack: Stack) -> None:
    service = Service()
    held = service.order(kind="send", paid_at=0.0, code_at=60.0)
    async with service.serving() as server, stack.client(server.url) as client:
        with pytest.raises(OrderError, match="it sends an SMS") as caught:
            await OrderWatcher(client, held.id).code()
        assert type(caught.value) is OrderError
        outcome = await in_a_batch(client, held.id)
        assert (outcome.code, outcome.error) == (None, None)
        assert outcome.status is not None
        assert outcome.status.sms_status is SmsStatus.sent
    assert held.cancels == []


@either_way
@every_stack
async def test_row_78_the_id_of_a_rental_gives_its_code_whatever_its_activation_is_called(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(kind="rental", paid_at=0.0, number_at=5.0, code_at=60.0)
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id)
        assert outcome.code == held.code
        assert outcome.status is not None
        assert outcome.status.activation_id not in (None, held.id)
        known = await watched(client, held.id, kind=OrderKind.rental, cancel_on_exit=False)
        assert known.code == held.code
    assert held.cancels == []


@either_way
@every_stack
async def test_row_78_the_id_of_a_fund_order_waits_for_a_code_that_the_server_never_gives(stack: Stack, watched: Watched) -> None:
    service = Service()
    held = service.order(kind="fund", paid_at=0.0, window=NEVER)
    service.next("/cancelorder", unseen(lies({"status": "error", "reason": "not an activation"}, 500)))
    async with service.serving() as server, stack.client(server.url) as client:
        outcome = await watched(client, held.id, hold_window=OPEN, poll_interval=SELDOM)
        assert (expiry(outcome).cancelled, expiry(outcome).reason) == (False, "not an activation")
        await OrderWatcher(client, held.id, kind=OrderKind.fund).paid()  # told its kind, it ends with the payment
        by_kind = await in_a_batch(client, held.id, kind=OrderKind.fund)
        assert (by_kind.code, by_kind.error) == (None, None)
    assert held.cancels == []
