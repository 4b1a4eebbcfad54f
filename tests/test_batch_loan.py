"""A batch whose rate is on loan: how much it may ask is said again and again, and after a while without a word it asks nothing."""

import anyio
import pytest

from sms4sats_async import BatchWatcher, Client, Order
from tests.faults.service import Service


async def test_requests_leave_for_as_long_as_they_are_allowed_and_go_on_when_they_are_again() -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client:
        held = [service.order(f"{number:032d}", paid_at=0.0, number_at=0.0) for number in range(20)]
        orders = [Order(order.id) for order in held]
        async with BatchWatcher(client, orders, max_rate=1, poll_interval=1.0, cancel_on_exit=False) as batch:
            batch.allow(0)
            await anyio.sleep(5)
            assert (service.requests, batch.requests) == ([], 0)
            batch.allow(50, seconds=10)
            began = anyio.current_time()
            await anyio.sleep(30)
            looks = [request.at - began for request in service.requests]
            assert 9 < max(looks) < 10.1
            assert len(looks) == batch.requests > 150
            batch.allow(5)
            await anyio.sleep(10)
            assert 40 < batch.requests - len(looks) <= 50
            for order in held:
                order.code_at = anyio.current_time()
            assert len([outcome async for outcome in batch if outcome.code]) == 20


async def test_a_brake_from_outside_is_heeded_as_the_services_own() -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client:
        held = service.order(paid_at=0.0, number_at=0.0)
        async with BatchWatcher(client, [Order(held.id)], poll_interval=1.0, cancel_on_exit=False) as batch:
            await anyio.sleep(3.5)  # between two polls
            assert batch.braked == 0.0
            batch.brake(20)
            batch.brake(5)  # a shorter one changes nothing
            before = len(held.looks)
            assert batch.braked == 20.0
            await anyio.sleep(19)
            assert (len(held.looks), batch.braked) == (before, 1.0)
            await anyio.sleep(3)
            assert len(held.looks) > before
            with pytest.raises(ValueError, match="positive"):
                batch.brake(0)


async def test_a_rate_on_loan_needs_a_batch_with_a_rate() -> None:
    async with Client() as client, BatchWatcher(client, []) as batch:
        with pytest.raises(RuntimeError, match="max_rate"):
            batch.allow(5)
    async with Client() as client, BatchWatcher(client, [], max_rate=1) as batch:
        with pytest.raises(ValueError, match="positive"):
            batch.allow(-1)
        with pytest.raises(TypeError):
            batch.allow(1, seconds="1")  # type: ignore[arg-type]
