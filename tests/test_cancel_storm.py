"""Thousands of cancellations at random, over real sockets to a process of its own; every figure is taken outside the client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks._contenders import Call
from benchmarks._serving import status_server
from benchmarks.cancel_storm import ANSWERED, LANES, LONGEST_DELAY, LONGEST_PATIENCE, bare_httpx, ours, storm
from sms4sats_async import Client

pytestmark = pytest.mark.real_time


@pytest.mark.unmeasured
async def test_our_client_survives_3000_cancellations_and_leaves_nothing() -> None:
    for patience in (1, 2, 4, 8):  # times the usual, on a machine so busy that no request is cancelled at the server
        with status_server(delay=LONGEST_DELAY) as server:
            outcome = await storm(server, ours, 3_000, patience=patience * LONGEST_PATIENCE)
        assert outcome.complaints == []
        assert sum(outcome.during.values()) == 3_000
        if outcome.during[ANSWERED] < outcome.seen < 3_000:
            break
    else:
        pytest.fail(f"no request was cancelled at the server, or none before it: {outcome}")


@pytest.mark.unmeasured
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # on trio it takes a longer storm
async def test_the_same_storm_kills_bare_httpx(anyio_backend: str) -> None:
    with status_server(delay=LONGEST_DELAY) as server:
        outcome = await storm(server, bare_httpx, 3_000)
    assert outcome.after[ANSWERED] == 0
    assert "PoolTimeout" in outcome.after


async def test_without_a_storm_bare_httpx_is_well() -> None:
    with status_server() as server:
        outcome = await storm(server, bare_httpx, 0)
    assert outcome.complaints == []
    assert (outcome.after[ANSWERED], outcome.peak) == (LANES, LANES)


async def test_too_many_connections_and_forgotten_ones_are_complained_about() -> None:
    spare = 3

    @asynccontextmanager
    async def with_spare_ones(url: str) -> AsyncIterator[Call]:
        for _ in range(spare):
            forgotten.append(Client(base_url=url))
            await forgotten[-1].get_order_status("order")
        async with ours(url) as call:
            yield call

    forgotten: list[Client] = []
    with status_server() as server:
        outcome = await storm(server, with_spare_ones, 0)
        for client in forgotten:
            await client.aclose()
    assert (outcome.peak, outcome.left) == (LANES + spare, spare)
    assert len(outcome.complaints) == 2
