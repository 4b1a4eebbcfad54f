"""The timing rules, as a user sees them: through a client, over 21 minutes of virtual time, on both backends."""

import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
import pytest

from sms4sats_async import (
    APIError,
    CancelRefused,
    Client,
    Order,
    OrderCancelled,
    OrderError,
    OrderExpired,
    OrderFailed,
    OrderKind,
    OrderStatus,
    OrderUnresolved,
    OrderWatcher,
    SendFailed,
    SmsStatus,
    TransportError,
)

ORDER_ID = "644bfd59c8e0f600f7b5a947f07c52d8"
NUMBER = 12025550143


class Timed:
    """Something that counts its seconds from when it is first asked for the time."""

    _start: float | None = None

    @property
    def now(self) -> float:
        if self._start is None:
            self._start = anyio.current_time()
        return round(anyio.current_time() - self._start, 6)


class Service(Timed, httpx.AsyncBaseTransport):
    """One order of the service, in the loop's own time.

    Attributes:
        at: what a status says from so many seconds on; the last of them that is due is told.
        cancels: what a cancel is answered with, one after the other; the last one stays.
        down: from when to when nothing answers.
        asked: when the status was asked for, ``cancelled`` when a cancel was; in seconds from the start.
    """

    def __init__(
        self,
        at: dict[float, dict[str, Any]],
        cancels: list[dict[str, Any] | httpx.Response | Exception] | None = None,
        down: tuple[float, float] = (-1, -1),
        takes: float = 0,
    ) -> None:
        self.at = at
        self.cancels = [{"status": "OK"}] if cancels is None else cancels
        self.down = down
        self.takes = takes
        self.failing_looks = False
        self.asked: list[float] = []
        self.cancelled: list[float] = []
        self.calls: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        now, path = self.now, request.url.path
        self.calls.append(path)
        (self.asked if path == "/orderstatus" else self.cancelled).append(now)
        if self.takes:
            await anyio.sleep(self.takes)
        if self.down[0] <= now < self.down[1] or (self.failing_looks and path == "/orderstatus"):
            raise httpx.ConnectError("nobody listens")
        if path == "/orderstatus":
            said = [status for due, status in self.at.items() if due <= self.now]
            answer: Any = {"status": "OK", "paid": False} | (said[-1] if said else {})
        else:
            answer = self.cancels.pop(0) if len(self.cancels) > 1 else self.cancels[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200 if answer.get("status") == "OK" else 500, json=answer)


PAID: dict[str, Any] = {"paid": True}
NUMBERED = PAID | {"number": NUMBER}
CODED = NUMBERED | {"code": "004217"}
TOO_EARLY = {"status": "error", "reason": "order can be canceled after 2 minutes"}
NO_NUMBER = PAID | {"error": "No available number, payment request is canceled."}


@asynccontextmanager
async def watching(service: Service, order: Order | str = ORDER_ID, **options: Any) -> AsyncIterator[OrderWatcher]:
    """A watcher that does not own its order."""
    async with Client(transport=service) as client:
        assert service.now == 0
        yield OrderWatcher(client, order, **options)


def order(**options: Any) -> Order:
    return Order(ORDER_ID, **options)


def gaps(times: list[float]) -> list[float]:
    return [round(after - before, 6) for before, after in itertools.pairwise(times)]


# --- the course of an order --------------------------------------------------------------------------------------------------------


async def test_payment_number_and_code_are_returned_one_after_the_other() -> None:
    service = Service({0: {}, 10: PAID, 20: NUMBERED, 50: CODED})
    async with watching(service) as watcher:
        await watcher.paid()
        assert 10 <= service.now <= 13
        assert await watcher.number() == "+12025550143"
        assert 20 <= service.now <= 24
        assert await watcher.code() == "004217"
        assert 50 <= service.now <= 53.3
        polls = len(service.asked)
        assert await watcher.code() == "004217"  # known by now: nobody is asked again
        assert await watcher.number() == "+12025550143"
        await watcher.paid()
        assert len(service.asked) == polls
        assert watcher.status is not None
        assert watcher.status.code == "004217"


async def test_the_first_poll_is_at_once() -> None:
    service = Service({0: CODED})
    async with watching(service) as watcher:
        assert watcher.status is None
        assert await watcher.code() == "004217"
    assert service.asked == [0]


async def test_iteration_gives_each_status_that_differs_and_ends_with_the_code() -> None:
    service = Service({0: {}, 10: PAID, 20: NUMBERED, 50: CODED})
    async with watching(service) as watcher:
        seen = [(status.paid, status.number, status.code) async for status in watcher]
    assert seen == [(False, None, None), (True, None, None), (True, "+12025550143", None), (True, "+12025550143", "004217")]


async def test_iteration_raises_as_code_does_after_the_last_status() -> None:
    service = Service({0: {}, 10: NO_NUMBER})
    seen: list[OrderStatus] = []
    async with watching(service) as watcher:
        with pytest.raises(OrderFailed, match="No available number"):
            async for status in watcher:
                seen.append(status)
    assert [status.error is None for status in seen] == [True, False]


async def test_knowledge_never_shrinks() -> None:
    service = Service({0: NUMBERED, 10: {"paid": False}, 40: {"paid": True, "code": "77"}})
    async with watching(service) as watcher:
        assert await watcher.code() == "77"
        assert watcher.status is not None
        assert watcher.status.number == "+12025550143"
        assert watcher.status.paid


async def test_a_code_without_a_number_ends_the_wait_for_the_number() -> None:
    service = Service({0: PAID | {"code": "77"}})
    async with watching(service) as watcher:
        with pytest.raises(OrderError, match="without a number") as caught:
            await watcher.number()
        assert type(caught.value) is OrderError
        assert await watcher.code() == "77"


async def test_a_code_wins_over_an_error_beside_it() -> None:
    async with watching(Service({0: CODED | {"error": "order ended"}})) as watcher:
        assert await watcher.code() == "004217"


async def test_an_error_is_final_and_keeps_the_servers_words() -> None:
    service = Service({0: NO_NUMBER})
    async with watching(service) as watcher:
        for wait in (watcher.code, watcher.number, watcher.paid):
            with pytest.raises(OrderFailed) as caught:
                await wait()
        assert caught.value.reason == NO_NUMBER["error"]
        assert caught.value.order_id == ORDER_ID
        assert caught.value.status == watcher.status
        assert ORDER_ID not in str(caught.value)
    assert service.asked == [0]


# --- the pace ----------------------------------------------------------------------------------------------------------------------


async def test_an_interval_is_spread_by_a_tenth_and_no_poll_is_less_than_a_second_after_the_last() -> None:
    service = Service({0: PAID})
    async with watching(service, poll_interval=4, hold_window=400) as watcher:
        with pytest.raises(OrderExpired):
            await watcher.code()
    between = gaps([time for time in service.asked if time < 390])
    assert all(3.6 <= gap <= 4.4 for gap in between)
    assert len({*between}) > 20
    service = Service({0: PAID})
    async with watching(service, poll_interval=0.01, hold_window=60) as watcher:
        with pytest.raises(OrderExpired):
            await watcher.code()
    assert min(gaps([time for time in service.asked if time < 59])) >= 1


async def test_the_default_pace_stays_between_one_and_fifteen_seconds() -> None:
    courses: list[dict[float, dict[str, Any]]] = [{0: {}}, {0: PAID}, {0: {}, 600: NUMBERED}]
    for at in courses:
        service = Service(at)
        async with watching(service) as watcher:
            with pytest.raises(OrderExpired):
                await watcher.code()
        body = gaps([time for time in service.asked if time < 1250])
        assert min(body) >= 1
        assert max(body) <= 15
        assert len(service.asked) <= 430


async def test_a_polls_own_duration_counts_into_its_interval() -> None:
    service = Service({0: PAID}, takes=3)
    async with watching(service, poll_interval=5, hold_window=100) as watcher:
        with pytest.raises(OrderExpired):
            await watcher.code()
    assert all(4.5 <= gap <= 5.5 for gap in gaps([time for time in service.asked if time < 90]))


async def test_a_pace_of_ones_own_is_asked_with_the_status_and_the_seconds() -> None:
    heard: list[tuple[bool, int]] = []

    def pace(status: OrderStatus, seconds_waited: float) -> float:
        heard.append((status.paid, round(seconds_waited)))
        return 20

    service = Service({0: {}, 50: PAID, 110: CODED})
    async with watching(service, poll_interval=pace) as watcher:
        await watcher.code()
    assert heard[0] == (False, 0)
    assert [paid for paid, _ in heard] == sorted(paid for paid, _ in heard)
    assert next(waited for paid, waited in heard if paid) == 0  # counted from the payment now
    assert len(heard) == len(service.asked) - 1  # nobody asks how long to wait after the end


async def test_several_tasks_wait_on_one_watcher_and_it_polls_once() -> None:
    service = Service({0: {}, 10: PAID, 20: NUMBERED, 50: CODED})
    got: list[str] = []

    async with watching(service, poll_interval=5) as watcher:

        async def take(wait: Callable[[], Any]) -> None:
            got.append(await wait())

        async with anyio.create_task_group() as tasks:
            for wait in (watcher.code, watcher.number, watcher.code, watcher.number):
                tasks.start_soon(take, wait)
    assert sorted(got) == ["+12025550143", "+12025550143", "004217", "004217"]
    assert min(gaps(service.asked)) >= 4.5


async def test_another_waiter_goes_on_when_the_polling_one_is_cancelled() -> None:
    service = Service({0: {}, 50: CODED})
    async with watching(service, poll_interval=5) as watcher, anyio.create_task_group() as tasks:
        first = anyio.CancelScope()

        async def impatient() -> None:
            with first:
                await watcher.code()

        tasks.start_soon(impatient)
        await anyio.sleep(1)
        tasks.start_soon(watcher.code)
        await anyio.sleep(20)
        first.cancel()
        assert await watcher.code() == "004217"
    assert min(gaps(service.asked)) >= 4.5
    assert max(gaps(service.asked)) <= 5.5


async def test_a_cancelled_wait_leaves_the_order_alone_and_the_watcher_usable() -> None:
    service = Service({0: PAID, 60: CODED})
    async with watching(service) as watcher:
        with anyio.move_on_after(10):
            await watcher.code()
        asked = len(service.asked)
        await anyio.sleep(20)
        assert len(service.asked) == asked  # nobody waits, so nobody asks
        assert await watcher.code() == "004217"
    assert service.cancelled == []


# --- the windows -------------------------------------------------------------------------------------------------------------------


async def test_the_hold_window_counts_from_the_first_status_that_shows_the_payment() -> None:
    service = Service({0: {}, 600: PAID})
    async with watching(service, order(created_at=datetime.now(UTC) - timedelta(hours=2)), poll_interval=10) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
        first_paid = next(time for time in service.asked if time >= 600)
        assert service.cancelled == [pytest.approx(first_paid + 1260)]
        assert service.calls[-3:] == ["/orderstatus", "/cancelorder", "/orderstatus"]
        assert service.asked[-2:] == [pytest.approx(first_paid + 1260)] * 2
        assert (caught.value.paid, caught.value.cancelled, caught.value.reason) == (True, True, None)


async def test_the_payment_window_counts_from_the_first_poll_and_its_end_cancels_too() -> None:
    service = Service({0: {}})
    async with watching(service) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
    assert service.cancelled == [1260]
    assert (caught.value.paid, caught.value.cancelled) == (False, True)


@pytest.mark.parametrize("wrong", [timedelta(hours=-30), timedelta(hours=30)])
async def test_a_wrong_wall_clock_ends_nothing_early_or_late(wrong: timedelta) -> None:
    service = Service({0: PAID})
    async with watching(service, order(created_at=datetime.now(UTC) + wrong)) as watcher:
        with pytest.raises(OrderExpired):
            await watcher.code()
    assert service.cancelled == [1260]


async def test_a_prepaid_orders_first_status_opens_the_hold_window() -> None:
    service = Service({0: {"paid": False}})
    async with watching(service, order(prepaid=True), hold_window=300, payment_window=50) as watcher:
        await watcher.paid()
        with pytest.raises(OrderExpired):
            await watcher.code()
    assert service.cancelled == [300]


async def test_a_payment_seen_in_the_last_look_opens_the_hold_window() -> None:
    service = Service({0: {}, 99.5: PAID, 200: CODED})
    async with watching(service, payment_window=100, poll_interval=60) as watcher:
        assert await watcher.code() == "004217"
    assert 100 in service.asked
    assert service.cancelled == []


async def test_no_window_is_no_end() -> None:
    service = Service({0: {}, 90_000: PAID, 200_000: CODED})
    async with watching(service, payment_window=None, hold_window=None, poll_interval=1000) as watcher:
        assert await watcher.code() == "004217"


async def test_a_code_in_the_last_look_is_in_time() -> None:
    service = Service({0: PAID, 1259.999: CODED})
    async with watching(service) as watcher:
        assert await watcher.code() == "004217"
    assert service.cancelled == []


@pytest.mark.parametrize("answer", [{"status": "OK"}, TOO_EARLY, httpx.ReadTimeout("lost")], ids=["confirmed", "refused", "lost"])
async def test_a_code_in_the_look_after_the_cancel_is_in_time_whatever_the_cancel_said(answer: Any) -> None:
    service = Service({0: PAID}, [answer])

    async with watching(service, poll_interval=1000) as watcher:
        service.at[1260.7] = CODED
        service.takes = 0.3  # paid is seen at 0.3, the last look answered at 1260.6, the cancel at 1260.9
        assert await watcher.code() == "004217"


async def test_a_refused_cancel_expires_unconfirmed_with_the_servers_reason() -> None:
    service = Service({0: PAID}, [TOO_EARLY])
    async with watching(service, hold_window=60) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
    assert service.cancelled == [60]  # at once, whatever the order's age
    assert service.asked[-1] == 60
    assert (caught.value.cancelled, caught.value.reason) == (False, TOO_EARLY["reason"])


async def test_a_lost_cancel_is_made_again_three_times_at_most_with_a_look_between() -> None:
    service = Service({0: PAID}, [httpx.ReadTimeout("lost")])
    async with watching(service) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
    assert len(service.cancelled) == 3
    assert service.calls[-7:] == ["/orderstatus", *["/cancelorder", "/orderstatus"] * 3]
    assert service.cancelled[-1] <= 1290
    assert not caught.value.cancelled
    assert "lost" in (caught.value.reason or "")


async def test_a_lost_cancel_that_is_confirmed_at_last_is_confirmed() -> None:
    service = Service({0: PAID}, [httpx.ReadTimeout("lost"), {"status": "OK"}])
    async with watching(service) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
    assert caught.value.cancelled
    assert len(service.cancelled) == 2


async def test_an_error_first_seen_after_our_own_cancel_is_no_failure() -> None:
    service = Service({0: PAID})
    async with watching(service, poll_interval=1000) as watcher:
        service.at[1260.7] = NO_NUMBER
        service.takes = 0.3  # paid is seen at 0.3, the last look answered at 1260.6, the cancel at 1260.9
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
    assert caught.value.cancelled


async def test_a_server_that_ended_the_order_itself_failed_it() -> None:
    service = Service({0: PAID, 1200: NO_NUMBER})
    async with watching(service) as watcher:
        with pytest.raises(OrderFailed):
            await watcher.code()
    assert service.cancelled == []


async def test_a_server_that_is_down_at_the_end_leaves_the_order_unresolved() -> None:
    service = Service({0: PAID, 1200: CODED}, down=(1100, 4000))
    async with watching(service) as watcher:
        with pytest.raises(OrderUnresolved) as caught:
            await watcher.code()
        assert service.now == 1290
        assert isinstance(caught.value.__cause__, TransportError)
    service.down = (-1, -1)
    async with Client(transport=service) as client:
        assert await OrderWatcher(client, ORDER_ID).code() == "004217"


async def test_the_last_steps_go_on_for_ten_seconds_when_their_caller_is_cancelled() -> None:
    service = Service({0: PAID}, takes=4)
    async with watching(service, hold_window=100, poll_interval=1000) as watcher:
        with anyio.move_on_after(107) as scope:  # the last look at 104 takes until 108, the cancel until 112, the look until 116
            await watcher.code()
        assert scope.cancelled_caught
        assert service.now == 116
        assert service.cancelled == [108]
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
        assert caught.value.cancelled
        assert service.now == 116


async def test_the_last_steps_end_ten_seconds_after_their_caller_was_cancelled() -> None:
    service = Service({0: PAID}, takes=7)
    async with watching(service, hold_window=100, poll_interval=1000) as watcher:
        with anyio.move_on_after(110):
            await watcher.code()
        assert service.now == 120


# --- failed polls ------------------------------------------------------------------------------------------------------------------

FAILURES: dict[str, Any] = {
    "reset": httpx.ReadError("reset"),
    "time-out": httpx.ReadTimeout("slow"),
    "500": httpx.Response(500, text="<html>oops</html>"),
    "502": httpx.Response(502, json={"status": "error", "reason": "bad gateway"}),
    "429": httpx.Response(429, json={"status": "error", "reason": "slow down"}),
    "html": httpx.Response(200, text="<html>login to wifi</html>"),
    "half": httpx.Response(200, text='{"status":"OK","paid":tr'),
    "no paid": httpx.Response(200, json={"status": "OK"}),
}


class Failing(Service):
    """A service whose status fails in this way until so many seconds."""

    def __init__(self, failure: Any, until: float, then: dict[str, Any]) -> None:
        super().__init__({0: then})
        self.failure = failure
        self.until = until

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        if self.now >= self.until:
            return answer
        if isinstance(self.failure, Exception):
            raise self.failure
        return httpx.Response(self.failure.status_code, headers=self.failure.headers, content=self.failure.content)


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_failed_poll_ends_nothing_and_backs_off(failure: Any) -> None:
    service = Failing(failure, 1000, CODED)
    async with watching(service) as watcher:
        assert await watcher.code() == "004217"
    for wanted, gap in zip([1, 2, 4, 8, 16, 30, 30, 30], gaps(service.asked), strict=False):
        assert max(1, 0.9 * wanted) <= gap <= 1.1 * wanted
    assert all(gap <= 33 for gap in gaps(service.asked))


async def test_the_last_failure_is_the_cause_of_the_expiry() -> None:
    service = Failing(httpx.ReadError("reset by peer"), 1255, {})
    async with watching(service, payment_window=1260) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
    cause = caught.value.__cause__
    assert isinstance(cause, TransportError)
    assert "reset by peer" in str(cause)
    assert cause.__traceback__ is None


async def test_a_retry_after_is_waited_for_up_to_a_minute() -> None:
    for said, waits in (("20", 20), ("600", 60), ("0", 1), ("-5", 1), ("nonsense", 1)):
        service = Failing(httpx.Response(429, headers={"retry-after": said}), 5, CODED)
        async with watching(service) as watcher:
            await watcher.code()
        assert waits <= gaps(service.asked)[0] <= max(1.1, waits * 1.1)


async def test_a_refusal_that_never_changes_ends_the_wait_after_a_minute() -> None:
    service = Failing(httpx.Response(500, json={"status": "error", "reason": "no such order"}), 9999, CODED)
    async with watching(service) as watcher:
        with pytest.raises(APIError, match="no such order") as caught:
            await watcher.code()
        assert caught.value.order_id == ORDER_ID
        assert 60 <= service.now <= 95
        assert len(service.asked) >= 5
        async with watcher:
            pass
        with pytest.raises(APIError, match="no such order"):
            await watcher.code()
    assert service.cancelled == []  # leaving the block after it cancels nothing


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_plain_refusal_counts_as_one_too(status: int) -> None:
    service = Failing(httpx.Response(status, text="<html>"), 9999, CODED)
    async with watching(service) as watcher:
        with pytest.raises(APIError):
            await watcher.code()


async def test_a_refusal_after_a_good_status_ends_nothing() -> None:
    class Forgetful(Service):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            return httpx.Response(404, json={"status": "error", "reason": "gone"}) if 10 < self.now < 600 else answer

    service = Forgetful({0: PAID, 600: CODED})
    async with watching(service) as watcher:
        assert await watcher.code() == "004217"


# --- cancelling --------------------------------------------------------------------------------------------------------------------


async def test_cancel_returns_when_the_server_confirmed_and_looks_once_more() -> None:
    service = Service({0: PAID})
    async with watching(service) as watcher:
        await watcher.cancel()
        assert service.calls == ["/cancelorder", "/orderstatus"]
        with pytest.raises(OrderCancelled):
            await watcher.code()
        await watcher.cancel()  # cancelling twice is cancelling once
        assert len(service.calls) == 2


async def test_a_refused_cancel_is_cancel_refused_and_the_order_goes_on() -> None:
    service = Service({0: PAID, 100: CODED}, [TOO_EARLY])
    async with watching(service) as watcher:
        with pytest.raises(CancelRefused) as caught:
            await watcher.cancel()
        assert caught.value.reason == TOO_EARLY["reason"]
        assert isinstance(caught.value.__cause__, APIError)
        assert await watcher.code() == "004217"
        with pytest.raises(CancelRefused, match="code has arrived"):
            await watcher.cancel()


async def test_a_code_seen_after_a_cancel_is_returned_and_the_cancel_refused() -> None:
    service = Service({0: CODED}, [{"status": "error", "reason": "too late"}])
    async with watching(service) as watcher:
        with pytest.raises(CancelRefused):
            await watcher.cancel()
        assert await watcher.code() == "004217"


async def test_cancel_interrupts_a_sleep_of_another_task() -> None:
    service = Service({0: PAID})
    ends: list[type[BaseException]] = []
    async with watching(service, poll_interval=500) as watcher, anyio.create_task_group() as tasks:

        async def wait() -> None:
            try:
                await watcher.code()
            except OrderCancelled as error:
                ends.append(type(error))

        tasks.start_soon(wait)
        await anyio.sleep(150)
        await watcher.cancel()
        assert service.cancelled == [150]
    assert ends == [OrderCancelled]


@pytest.mark.parametrize("age", [0, 90, 1000])
async def test_cancel_when_allowed_waits_for_the_two_minutes_and_polls_meanwhile(age: float) -> None:
    service = Service({0: PAID})
    async with watching(service, order(created_at=datetime.now(UTC) - timedelta(seconds=age))) as watcher:
        await watcher.cancel(when_allowed=True)
        assert service.now == pytest.approx(max(0, 121 - age), abs=1)
    assert service.cancelled == [service.now]


async def test_cancel_when_allowed_tries_the_next_moment_after_a_refusal() -> None:
    service = Service({0: {}, 30: PAID, 50: NUMBERED}, [TOO_EARLY, TOO_EARLY, {"status": "OK"}])
    async with watching(service, poll_interval=10) as watcher:
        await watcher.cancel(when_allowed=True)
    assert service.cancelled[0] == 121  # two minutes after the order, after the payment, after the number
    assert 150 <= service.cancelled[1] <= 165
    assert 170 <= service.cancelled[2] <= 185


async def test_cancel_when_allowed_gives_up_when_no_moment_is_left() -> None:
    service = Service({0: NUMBERED}, [TOO_EARLY])
    async with watching(service) as watcher:
        with pytest.raises(CancelRefused):
            await watcher.cancel(when_allowed=True)
        assert service.now == 121


async def test_a_code_ends_cancel_when_allowed() -> None:
    service = Service({0: PAID, 60: CODED})
    async with watching(service) as watcher:
        with pytest.raises(CancelRefused, match="code has arrived"):
            await watcher.cancel(when_allowed=True)
        assert await watcher.code() == "004217"
    assert service.cancelled == []


async def test_a_cancelled_cancel_is_forgotten_before_it_was_sent() -> None:
    service = Service({0: PAID, 200: CODED})
    async with watching(service) as watcher:
        with anyio.move_on_after(30):
            await watcher.cancel(when_allowed=True)
        assert await watcher.code() == "004217"
    assert service.cancelled == []


async def test_one_of_two_cancels_is_forgotten_and_the_other_is_made() -> None:
    service = Service({0: PAID})
    async with watching(service) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.cancel, True)
        with anyio.move_on_after(30):
            await watcher.cancel(when_allowed=True)
    assert service.cancelled == [121]


async def test_two_cancels_at_once_are_one_and_both_return() -> None:
    service = Service({0: PAID}, takes=1)
    async with watching(service) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.cancel)
        tasks.start_soon(watcher.cancel)
    assert len(service.cancelled) == 1


async def test_a_confirmed_cancel_returns_though_nobody_can_look_any_more() -> None:
    service = Service({0: PAID})
    async with watching(service) as watcher:
        await watcher.paid()
        await anyio.sleep(200)
        service.failing_looks = True
        start = service.now
        await watcher.cancel()
        assert service.now - start == 30
        with pytest.raises(OrderCancelled):
            await watcher.code()


async def test_leaving_the_block_does_not_take_another_tasks_wish_with_it() -> None:
    service = Service({0: PAID}, [TOO_EARLY, {"status": "OK"}])
    async with watching(service) as watcher, anyio.create_task_group() as tasks, watcher:
        await watcher.paid()
        tasks.start_soon(watcher.cancel, True)
        await anyio.sleep(10)
    assert service.cancelled == [10, 121]


# --- the block ---------------------------------------------------------------------------------------------------------------------


async def test_leaving_the_block_cancels_once() -> None:
    service = Service({0: PAID})
    async with watching(service) as watcher:
        async with watcher as same:
            assert same is watcher
            await watcher.paid()
        assert service.calls == ["/orderstatus", "/cancelorder", "/orderstatus"]
        with pytest.raises(OrderCancelled):
            await watcher.code()


async def test_leaving_the_block_after_the_end_asks_nothing() -> None:
    service = Service({0: CODED})
    async with watching(service) as watcher, watcher:
        await watcher.code()
    assert service.calls == ["/orderstatus"]


async def test_leaving_the_block_asks_once_and_warns_when_it_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    service = Service({0: PAID, 50: CODED}, [TOO_EARLY])
    async with watching(service) as watcher:
        with pytest.raises(KeyError) as caught:
            async with watcher:
                await watcher.paid()
                raise KeyError("mine")
        [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "left open: order can be canceled after 2 minutes" in record.getMessage()
        assert ORDER_ID not in caplog.text
        assert caught.value.__notes__ == [record.getMessage()]
        assert len(service.cancelled) == 1
        assert await watcher.code() == "004217"  # it goes on


async def test_leaving_the_block_takes_ten_seconds_at_most(caplog: pytest.LogCaptureFixture) -> None:
    service = Service({0: PAID}, takes=30)
    async with watching(service) as watcher:
        async with watcher:
            pass
        assert service.now == 10
    assert "no answer within 10 s" in caplog.text


async def test_a_cancelled_task_still_cancels_its_order_when_it_leaves_the_block() -> None:
    service = Service({0: PAID}, takes=1)
    async with watching(service) as watcher:
        with anyio.move_on_after(100) as scope:
            async with watcher:
                await watcher.code()
        assert scope.cancelled_caught
        assert len(service.cancelled) == 1
        with pytest.raises(OrderCancelled):
            await watcher.code()


async def test_a_code_that_arrives_while_leaving_is_kept_and_told(caplog: pytest.LogCaptureFixture) -> None:
    service = Service({0: CODED}, [{"status": "error", "reason": "too late"}])
    async with watching(service) as watcher:
        async with watcher:
            pass
        assert watcher.status is not None
        assert watcher.status.code == "004217"
        assert await watcher.code() == "004217"
    assert "the code is in watcher.status" in caplog.text
    assert "004217" not in caplog.text


async def test_cancel_on_exit_false_leaves_the_order_but_a_windows_end_cancels_all_the_same() -> None:
    service = Service({0: PAID})
    async with watching(service, cancel_on_exit=False) as watcher:
        async with watcher:
            await watcher.paid()
        assert service.cancelled == []
        with pytest.raises(OrderExpired):
            await watcher.code()
    assert service.cancelled == [1260]


@pytest.mark.parametrize("kind", [OrderKind.rental, OrderKind.send, OrderKind.fund])
async def test_leaving_the_block_of_another_kind_of_order_cancels_nothing(kind: OrderKind) -> None:
    service = Service({0: {}})
    async with watching(service, order(kind=kind)) as watcher, watcher:
        pass
    assert service.calls == []


async def test_leaving_the_block_after_the_client_was_closed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(transport=Service({0: PAID}))
    async with OrderWatcher(client, ORDER_ID) as watcher:
        await watcher.paid()
        await client.aclose()
    assert "is left open" in caplog.text
    assert "closed" in caplog.text


async def test_closing_the_client_ends_its_watchers_at_once() -> None:
    service = Service({0: PAID})
    client = Client(transport=service)
    ended: list[float] = []

    async def watch() -> None:
        with pytest.raises(OrderUnresolved, match="closed") as caught:
            await OrderWatcher(client, ORDER_ID, poll_interval=100).code()
        assert caught.value.order_id == ORDER_ID
        ended.append(service.now)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        tasks.start_soon(watch)
        await anyio.sleep(30.5)
        await client.aclose()
    assert ended == [30.5, 30.5]
    with pytest.raises(OrderUnresolved):
        await OrderWatcher(client, ORDER_ID).code()


# --- other kinds of orders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["sent", "delivered"])
async def test_a_send_order_ends_with_sent_or_delivered(last: str) -> None:
    service = Service({0: {}, 5: PAID | {"smsStatus": "created"}, 10: PAID | {"smsStatus": "queued"}, 20: PAID | {"smsStatus": last}})
    async with watching(service, order(kind=OrderKind.send)) as watcher:
        assert await watcher.sent() is SmsStatus(last)
        assert [status async for status in watcher] == [watcher.status]


async def test_a_send_order_that_failed() -> None:
    service = Service({0: PAID | {"smsStatus": "failed"}})
    async with watching(service, ORDER_ID, kind="send") as watcher:
        with pytest.raises(SendFailed):
            await watcher.sent()


async def test_a_send_order_expires_without_a_cancel() -> None:
    service = Service({0: PAID | {"smsStatus": "created"}})
    async with watching(service, order(kind=OrderKind.send)) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.sent()
    assert (caught.value.paid, caught.value.cancelled, caught.value.reason) == (True, False, None)
    assert service.cancelled == []


async def test_a_send_order_whose_server_is_down_at_the_end_is_unresolved() -> None:
    service = Service({0: PAID | {"smsStatus": "created"}}, down=(1200, 9999))
    async with watching(service, order(kind=OrderKind.send)) as watcher:
        with pytest.raises(OrderUnresolved):
            await watcher.sent()
        assert service.now == 1290
    service = Service({0: PAID | {"smsStatus": "created"}}, down=(1200, 1262))
    async with watching(service, order(kind=OrderKind.send)) as watcher:
        with pytest.raises(OrderExpired):
            await watcher.sent()


async def test_a_bare_id_that_turns_out_to_send_is_said_to() -> None:
    service = Service({0: PAID | {"smsStatus": "created"}, 20: PAID | {"smsStatus": "sent"}})
    async with watching(service) as watcher:
        with pytest.raises(OrderError, match="sends an SMS"):
            await watcher.code()
        assert await watcher.sent() is SmsStatus.sent
    assert service.cancelled == []


async def test_a_rentals_codes_are_not_its_end_and_it_is_never_cancelled() -> None:
    service = Service({0: PAID, 10: NUMBERED, 50: CODED, 5000: NUMBERED | {"code": "11"}, 9000: NUMBERED | {"code": "22"}})
    codes: list[str | None] = []
    async with watching(service, order(kind=OrderKind.rental), poll_interval=15) as watcher, watcher:
        assert await watcher.code() == "004217"
        async for status in watcher:
            codes.append(status.code)
            if status.code == "22":
                break
    assert codes == ["004217", "11", "22"]
    assert service.cancelled == []


async def test_a_fund_order_ends_when_it_is_paid() -> None:
    service = Service({0: {}, 30: PAID})
    async with watching(service, order(kind=OrderKind.fund)) as watcher:
        await watcher.paid()
        assert [status.paid async for status in watcher] == [True]
    service = Service({0: {}})
    async with watching(service, order(kind=OrderKind.fund)) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.paid()
    assert (caught.value.paid, caught.value.cancelled) == (False, False)
    assert service.cancelled == []


WRONG: list[tuple[OrderKind, list[str]]] = [
    (OrderKind.receive, ["sent"]),
    (OrderKind.rental, ["sent", "cancel"]),
    (OrderKind.send, ["code", "number", "cancel"]),
    (OrderKind.fund, ["code", "sent", "number", "cancel"]),
]


@pytest.mark.parametrize(("kind", "methods"), WRONG)
async def test_an_order_cannot_be_asked_for_what_it_never_has(kind: OrderKind, methods: list[str]) -> None:
    service = Service({0: {}})
    async with watching(service, order(kind=kind)) as watcher:
        for method in methods:
            with pytest.raises(ValueError, match=rf"{method}\(\) is not for a {kind} order"):
                await getattr(watcher, method)()
    assert service.calls == []


# --- what a hostile reader tried -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proof", [{"code": "004217"}, {"smsStatus": "delivered"}], ids=["code", "sent"])
async def test_what_is_only_sold_for_money_proves_the_payment(proof: dict[str, Any]) -> None:
    service = Service({0: {"paid": False} | proof})
    async with watching(service) as watcher:
        await watcher.paid()
    assert service.asked == [0]


ECHO = {"status": "error", "reason": f"order {ORDER_ID.upper()} has {NUMBER} and 004217 \x1b[31m\nFAKE LOG LINE"}


async def test_the_servers_words_reach_no_text_and_no_log_unblotted(caplog: pytest.LogCaptureFixture) -> None:
    service = Service({0: NUMBERED}, [ECHO])
    texts: list[str] = []
    async with watching(service) as watcher:
        with pytest.raises(CancelRefused) as caught:
            await watcher.cancel()
        assert caught.value.reason == ECHO["reason"]
        texts.append(str(caught.value))
        with pytest.raises(KeyError) as left:
            async with watcher:
                raise KeyError
        texts += left.value.__notes__
    failing = Service({0: NUMBERED | {"error": ECHO["reason"]}})
    async with watching(failing) as watcher:
        with pytest.raises(OrderFailed) as failed:
            await watcher.code()
        texts += [str(failed.value), repr(failed.value.status)]
    for text in [*texts, caplog.text]:
        for secret in (ORDER_ID, ORDER_ID.upper(), str(NUMBER), "004217", "\x1b", "\nFAKE"):
            assert secret not in text


async def test_a_cancel_that_hangs_leaves_time_for_the_look_after_it() -> None:
    class Hanging(Service):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            if request.url.path == "/cancelorder":
                await anyio.sleep(100)
            return answer

    service = Hanging({0: PAID})
    async with watching(service, hold_window=60) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
        assert not caught.value.cancelled
        assert service.now <= 90
        assert service.calls[-1] == "/orderstatus"
    service = Hanging({0: PAID, 79: CODED})
    async with watching(service, hold_window=60) as watcher:
        assert await watcher.code() == "004217"


@pytest.mark.parametrize("cancelled_at", [None, 62])
async def test_leaving_the_block_in_the_last_steps_takes_ten_seconds_at_most(cancelled_at: float | None) -> None:
    service = Service({0: PAID}, down=(10_000, 20_000))
    async with watching(service, hold_window=60, poll_interval=1000) as watcher:
        with anyio.move_on_after(cancelled_at) if cancelled_at else anyio.CancelScope():
            async with watcher:
                await watcher.paid()
                service.takes = 1000
                await anyio.sleep(65) if cancelled_at is None else await watcher.code()
        assert service.now <= (65 if cancelled_at is None else cancelled_at + 10) + 10


def broken_pace(status: OrderStatus, seconds_waited: float) -> float:
    raise LookupError("a bug")


@pytest.mark.parametrize(
    "pace",
    [broken_pace, lambda status, waited: None, lambda status, waited: 10**400, lambda status, waited: float("nan")],
    ids=["raises", "none", "huge", "nan"],
)
async def test_a_pace_that_fails_costs_nothing(pace: Any) -> None:
    service = Service({0: PAID, 50: CODED})
    async with watching(service, poll_interval=pace) as watcher:
        assert await watcher.code() == "004217"
    service = Service({0: PAID})
    async with watching(service, poll_interval=pace) as watcher:
        with pytest.raises(OrderExpired) as caught:
            await watcher.code()
        assert caught.value.cancelled


async def test_a_cancel_after_a_refusal_does_not_speak_of_a_code() -> None:
    service = Failing(httpx.Response(404, json={"status": "error", "reason": "no such order"}), 9999, CODED)
    async with watching(service) as watcher:
        with pytest.raises(APIError):
            await watcher.code()
        with pytest.raises(CancelRefused, match="no such order"):
            await watcher.cancel()


async def test_leaving_an_order_that_the_server_ended_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    service = Service({0: NO_NUMBER}, [TOO_EARLY])
    async with watching(service) as watcher, watcher:
        pass
    assert caplog.text == ""


async def test_leaving_with_a_confirmed_cancel_says_nothing_though_nobody_could_look(caplog: pytest.LogCaptureFixture) -> None:
    service = Service({0: PAID})
    async with watching(service) as watcher, watcher:
        await watcher.paid()
        service.failing_looks = True
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_nothing_is_waited_for_longer_than_it_says() -> None:
    random.seed(7)
    for _ in range(5):
        service = Failing(httpx.Response(429, headers={"retry-after": "600"}), 400, CODED)
        async with watching(service) as watcher:
            await watcher.code()
        assert max(gaps(service.asked)) <= 60
        service = Failing(httpx.ReadError("reset"), 400, CODED)
        async with watching(service) as watcher:
            await watcher.code()
        assert max(gaps(service.asked)) <= 30


# --- making one --------------------------------------------------------------------------------------------------------------------


async def test_a_bare_id_makes_an_order() -> None:
    async with watching(Service({0: CODED}), ORDER_ID, kind=OrderKind.rental) as watcher:
        assert (watcher.order.id, watcher.order.kind, watcher.order.payreq, watcher.order.amount_sats) == (
            ORDER_ID,
            OrderKind.rental,
            None,
            None,
        )
        assert abs(datetime.now(UTC) - watcher.order.created_at) < timedelta(minutes=5)
        assert ORDER_ID not in repr(watcher)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"order": ""}, ValueError, "order_id"),
        ({"order": 5}, TypeError, "order_id"),
        ({"kind": "nonsense"}, ValueError, "nonsense"),
        ({"order": Order("ab"), "kind": "send"}, ValueError, "kind"),
        ({"hold_window": 0}, ValueError, "hold_window"),
        ({"hold_window": "5"}, TypeError, "hold_window"),
        ({"payment_window": float("nan")}, ValueError, "payment_window"),
        ({"poll_interval": 0}, ValueError, "poll_interval"),
        ({"poll_interval": "quick"}, TypeError, "poll_interval"),
        ({"poll_interval": True}, TypeError, "poll_interval"),
        ({"client": "me"}, TypeError, "client"),
        ({"hold_window": 10**400}, ValueError, "hold_window"),
    ],
)
def test_a_watcher_with_a_bad_argument_is_not_made(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {"client": Client(), "order": ORDER_ID} | options
    with pytest.raises(kind, match=words):
        OrderWatcher(arguments.pop("client"), arguments.pop("order"), **arguments)


async def test_the_spread_differs_from_watcher_to_watcher() -> None:
    random.seed(1)
    times: set[float] = set()
    for _ in range(20):
        service = Service({0: PAID, 9: CODED})
        async with watching(service, poll_interval=5) as watcher:
            await watcher.code()
        times.add(service.asked[1])
    assert len(times) == 20
