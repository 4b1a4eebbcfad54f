"""What pytest loads of ``sms4sats_async`` in each run: fixtures by name, and nothing else.

It stands beside the package, because whoever imports a part of that imports httpx and anyio. Here they are imported by the first test
that asks for a fixture of ours. What the fixtures do is in ``sms4sats_async.testing.plugin``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sms4sats_async import Client
    from sms4sats_async.testing import Clock, ScriptedSandbox

FIXTURES = frozenset({"sms4sats_client", "sms4sats_clock", "sms4sats_sandbox", "sms4sats_wallet"})


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the wrapper of pytest-asyncio, which starts a loop
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Generator[None, object, object]:
    """In a test that asks for a fixture of ours, begin with its clock: before any other fixture of the test starts a loop, or sleeps."""
    if fixturedef.scope != "function" or fixturedef.argname in FIXTURES or FIXTURES.isdisjoint(request.fixturenames):
        return (yield)
    from sms4sats_async.testing.plugin import clock_first  # noqa: PLC0415 - only for whom it is

    with clock_first(fixturedef, request):
        return (yield)


@pytest.fixture
def sms4sats_clock(request: pytest.FixtureRequest) -> Generator[Clock]:
    """The virtual clock of the loop that runs this test: ``.now``, ``await .move(60)``, ``await .move_to(45)``."""
    from sms4sats_async.testing.plugin import running_clock  # noqa: PLC0415 - only for whom it is

    with running_clock(request) as clock:
        yield clock


@pytest.fixture
def sms4sats_sandbox(sms4sats_clock: Clock, request: pytest.FixtureRequest) -> ScriptedSandbox:
    """The service in memory: say with ``.script("no code")`` how orders go, and see in ``.order``, ``.orders``, ``.calls`` how it went."""
    from sms4sats_async.testing import ScriptedSandbox  # noqa: PLC0415 - only for whom it is

    return ScriptedSandbox(clock=sms4sats_clock.read, seed=request.node.nodeid)


@pytest.fixture
def sms4sats_client(sms4sats_sandbox: ScriptedSandbox) -> Client:
    """A client of the sandbox, with the key of a prepaid account. There is nothing to close: it has no connections."""
    return sms4sats_sandbox.client(api_key="of the sandbox")


@pytest.fixture
def sms4sats_wallet(sms4sats_sandbox: ScriptedSandbox) -> Callable[[str], Awaitable[None]]:
    """What pays the sandbox's invoices (``pay=sms4sats_wallet``); in a test that asks for it, nothing else does."""
    sms4sats_sandbox.pays_itself = False
    return sms4sats_sandbox.wallet
