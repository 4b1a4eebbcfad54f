"""The two ways to watch an order, told alike, so that one test judges both."""

from typing import Any, Protocol

import pytest

from sms4sats_async import BatchWatcher, Client, Order, OrderWatcher, Outcome, Sms4SatsError
from sms4sats_async.batch import DOZE


class Watched(Protocol):
    """Watch an order to its end, and own it meanwhile; the options are those that both watchers have."""

    async def __call__(self, client: Client, order: Order | str, /, **options: Any) -> Outcome: ...


async def alone(client: Client, order: Order | str, /, **options: Any) -> Outcome:
    """With a watcher of its own."""
    async with OrderWatcher(client, order, **options) as watcher:
        try:
            code = await watcher.code()
        except Sms4SatsError as error:
            return Outcome(watcher.order, None, watcher.status, error)
        return Outcome(watcher.order, code, watcher.status)


async def in_a_batch(client: Client, order: Order | str, /, **options: Any) -> Outcome:
    """In a batch of one."""
    async with BatchWatcher(client, [order], **options) as batch:
        return await anext(batch)


either_way = pytest.mark.parametrize("watched", [alone, in_a_batch], ids=["alone", "batch"])
"""For a test that takes ``watched``: the same order watched by itself, and in a batch."""


def on_time(expected: Any) -> Any:
    """Equal, but for what a batch may be late: it wakes every 20 ms at the most, and three steps come one after the other."""
    return pytest.approx(expected, abs=3 * DOZE)
