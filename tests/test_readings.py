"""The service's documentation leaves much open: whatever it does there, no code is lost, no end is false, and no money is held for nothing.

Each reading is a service that is as the documentation says, and does one of the open things in another way. Every order is watched to
its end under every reading, over every kind of life, one by one and in a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from sms4sats_async import (
    BatchWatcher,
    Client,
    Order,
    OrderExpired,
    OrderFailed,
    OrderUnresolved,
    OrderWatcher,
    Sms4SatsError,
)
from tests.faults.service import CANCEL_FROM, NEVER, NO_NUMBER, WINDOW, Held, Service, refusal
from tests.servers import json_reply

NOT_FOUND = "order not found"
PACE = 30.0
"""Seconds between polls: here it is the ends that matter."""


@dataclass(frozen=True)
class Reading:
    """What the service does where nobody has said what it does."""

    ended: Callable[[dict[str, Any]], bytes] = lambda told: json_reply(told | {"error": "order canceled"})
    """The status of an order whose money went back."""
    cancel_from: Callable[[Held], float] = lambda held: held.created_at
    """What the two minutes before a cancel are counted from."""
    window: float = WINDOW
    back_from: Callable[[Held], float] = lambda held: held.paid_at
    """What the 21 minutes are counted from."""
    cancel_again: bytes = json_reply({"status": "OK"})
    """The answer to a cancel of an order that is over."""
    tells: Callable[[dict[str, Any]], dict[str, Any]] = lambda told: told
    """What it makes of a status."""


READINGS = {
    "as documented": Reading(),
    "it says nothing about the end": Reading(ended=json_reply),
    "an ended order is unpaid again": Reading(ended=lambda told: json_reply({"status": "OK", "paid": False})),
    "an ended order is not found": Reading(ended=lambda told: refusal(NOT_FOUND)),
    "an ended order is a 404 in HTML": Reading(ended=lambda told: b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>"),
    "two minutes from the payment": Reading(cancel_from=lambda held: held.paid_at),
    "two minutes from the number": Reading(cancel_from=lambda held: held.number_at),
    "20 minutes": Reading(window=1200.0),
    "21 minutes from the order": Reading(back_from=lambda held: held.created_at),
    "21 minutes from the number": Reading(back_from=lambda held: held.number_at),
    "an hour": Reading(window=3600.0),
    "a cancel twice is an error": Reading(cancel_again=refusal("already canceled")),
    "a cancel twice is not found": Reading(cancel_again=refusal(NOT_FOUND, 404)),
    "the code is a number": Reading(tells=lambda told: told | ({"code": int(told["code"])} if "code" in told else {})),
    "the number is text": Reading(tells=lambda told: told | ({"number": f"+{told['number']}"} if "number" in told else {})),
    "the number comes with the code": Reading(tells=lambda told: {name: told[name] for name in told if name != "number" or "code" in told}),
    "what is missing is null": Reading(tells=lambda told: {"number": None, "code": None, "error": None} | told),
    "what is missing is empty": Reading(tells=lambda told: {"number": 0, "code": "", "error": "", "id": 0} | told),
}

FORGETFUL = ("an ended order is not found", "an ended order is a 404 in HTML")
"""Where nothing tells an ended order from one that never was: watch it again is all that can be said."""

LIVES: dict[str, dict[str, float]] = {
    "a code after a minute": {"pay": 20, "number": 10, "code": 60},
    "a code in the last seconds": {"pay": 20, "number": 10, "code": 1195},
    "no code": {"pay": 20, "number": 10},
    "no number": {"pay": 20, "failed": 15},
    "never paid": {},
    "paid late": {"pay": 1250, "number": 10, "code": 100},
}


class Reads(Service):
    """The service as one reading has it."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(says_ended=False)
        self.reading = reading

    def live(self, order_id: str, *, pay: float = NEVER, number: float = NEVER, code: float = NEVER, failed: float = NEVER) -> Held:
        """An order that lives so: seconds from now to the payment, and from there to the rest."""
        held = self.order(order_id)
        held.paid_at = held.created_at + pay
        held.number_at, held.code_at, held.failed_at = held.paid_at + number, held.paid_at + code, held.paid_at + failed
        if held.number_at < NEVER:
            held.window = self.reading.back_from(held) + self.reading.window - held.paid_at
            held.cancel_from = self.reading.cancel_from(held) + CANCEL_FROM - held.created_at
        return held

    def _show(self, about: Held | None) -> bytes:
        assert about is not None
        now = anyio.current_time()
        told = self.reading.tells(about.shows(now, says_ended=False))
        over = about.back_at <= now < about.settled_at and told.get("error") != NO_NUMBER
        return self.reading.ended(told) if over else json_reply(told)

    def _cancel(self, about: Held | None) -> bytes:
        assert about is not None
        over = about.back_at <= anyio.current_time() < about.settled_at
        answer = super()._cancel(about)
        return self.reading.cancel_again if over else answer


def order_of(held: Held) -> Order:
    return Order.from_dict({"id": held.id, "kind": "receive", "payreq": "lnbc15u1" + "q" * 90, "created_at": "2026-01-01T00:00:00+00:00"})


async def one_by_one(client: Client, orders: list[Order]) -> dict[str, str | Sms4SatsError]:
    ends: dict[str, str | Sms4SatsError] = {}

    async def watch(order: Order) -> None:
        try:
            async with OrderWatcher(client, order, poll_interval=PACE) as watcher:
                ends[order.id] = await watcher.code()
        except Sms4SatsError as error:
            ends[order.id] = error

    async with anyio.create_task_group() as group:
        for order in orders:
            group.start_soon(watch, order)
    return ends


async def in_a_batch(client: Client, orders: list[Order]) -> dict[str, str | Sms4SatsError]:
    async with BatchWatcher(client, orders, poll_interval=PACE) as batch:
        outcomes = [outcome async for outcome in batch]
    ends = {outcome.order.id: outcome.code or outcome.error for outcome in outcomes}
    assert len(ends) == len(outcomes) == len(orders)
    return {order_id: end for order_id, end in ends.items() if end is not None}


@pytest.mark.parametrize("watch", [one_by_one, in_a_batch])
@pytest.mark.parametrize("name", READINGS)
async def test_every_life_ends_rightly_under_every_reading(name: str, watch: Callable[..., Any]) -> None:
    service = Reads(READINGS[name])
    async with service.serving() as server, Client(base_url=server.url, trust_env=False) as client:
        held = {life: service.live(f"{number:02}" * 16, **times) for number, (life, times) in enumerate(LIVES.items())}
        ends = await watch(client, [order_of(one) for one in held.values()])
        assert len(ends) == len(held)
        now = anyio.current_time()
        for life, one in held.items():
            end = ends[one.id]
            if one.settled_at < NEVER:  # the money was taken for a code
                assert end == (one.code if "is a number" not in name else str(int(one.code))), f"{life}: {end!r}"
                continue
            assert isinstance(end, OrderExpired | OrderFailed | OrderUnresolved), f"{life}: {end!r}"
            if isinstance(end, OrderFailed) or (isinstance(end, OrderExpired) and end.cancelled):
                assert one.back_at <= now, f"{life}: {end!r}, and the money is still held"
            if isinstance(end, OrderUnresolved):
                assert name in FORGETFUL, f"{life}: {end!r}"
        assert service.holding == [], "money is held for an order that nobody watches any longer"
