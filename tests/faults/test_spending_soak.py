"""A short soak of calls that spend, and the judge judged: clients that charge twice or forget are found out."""

import subprocess
import sys
from typing import Any

import pytest

from sms4sats_async import Client, Order, OutcomeUnknown, TransportError
from tests.faults.spending_soak import TIMEOUT, buy, soak
from tests.faults.stacks import Stack, every_stack


@every_stack
async def test_350_purchases_under_faults_and_cancellations_are_charged_once_and_known(stack: Stack) -> None:
    figures = await soak(stack, 350, seed=20)
    assert figures.broken == []
    assert (figures.calls, figures.most, figures.ended.total()) == (350, 1, 350)
    assert 120 < figures.charged < 300
    assert min(figures.ended[how] for how in ("ordered", "unknown", "failed", "cancelled")) >= 10
    assert {"after the charge", "before the charge", "in the request", "as it connects"} == set(figures.met)
    assert figures.virtual > 5 * TIMEOUT


async def again(client: Client, ref: str, kind: dict[str, Any]) -> Order:
    """A client that repeats what it does not know."""
    try:
        return await buy(client, ref, kind)
    except OutcomeUnknown:
        return await buy(client, ref, kind)


async def silent(client: Client, ref: str, kind: dict[str, Any]) -> Order:
    """A client that calls an unknown outcome a failure."""
    try:
        return await buy(client, ref, kind)
    except OutcomeUnknown:
        raise TransportError("no reply came") from None


async def vague(client: Client, ref: str, kind: dict[str, Any]) -> Order:
    """A client that does not know even what it was told."""
    await buy(client, ref, kind)
    raise OutcomeUnknown("it may have been charged")


async def foreign(client: Client, ref: str, kind: dict[str, Any]) -> Order:
    """A client whose errors are not its own."""
    order = await buy(client, ref, kind)
    if order.id[-1] in "02468ace":
        raise BaseExceptionGroup("a group", [KeyError(ref), OSError()])
    raise OSError("a socket's")


@pytest.mark.parametrize(
    ("client", "words"),
    [
        (again, {"charged twice", "charged and forgotten"}),
        (silent, {"charged and forgotten"}),
        (vague, {"charged and forgotten"}),
        (foreign, {"charged and forgotten", "groups", "foreign errors ['OSError: a socket's']"}),
    ],
)
@every_stack
async def test_a_client_that_breaks_a_promise_is_found_out(stack: Stack, client: Any, words: set[str]) -> None:
    figures = await soak(stack, 60, 1, client)
    assert {line.rpartition(": ")[0].replace('"', "'") for line in figures.broken} == words


def test_the_command_prints_its_figures() -> None:
    command = [sys.executable, "-m", "tests.faults.spending_soak", "--calls", "30", "--stack", "lanes"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.count("30: ") == said.count("broken promises              none") >= 1
