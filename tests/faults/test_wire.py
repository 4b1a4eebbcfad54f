"""The wire is cut after every byte of every call that has to do with money, in the request and in the reply, by FIN and by RST.

What must hold of each cut, by the server's truth: what spends is processed once at the most, and its order is known to the caller or
`OutcomeUnknown` is raised; an unpaid order is placed twice at the most; a cancel has worked, or says that nobody knows.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sms4sats_async import Client, Order, OrderWatcher, OutcomeUnknown, TransportError
from tests.faults.calls import BY_INVOICE, PATHS, Place, account, one_more, outcome_of, rental, spending
from tests.faults.service import NEVER, Service, cut
from tests.faults.stacks import Stack, every_stack
from tests.servers import Reply, Server, serve

pytestmark = pytest.mark.measured("once")

by_invoice = pytest.mark.parametrize("place", [place for place in BY_INVOICE if place is not rental])
"""A rental differs by one field in its body, and is cut where it spends."""

by_fin_and_rst = pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])


Call = Callable[[Client], Awaitable[object]]


class Scissors:
    """A service, a client of it, and a cut in the wire between them: in the next requests, or, by ``service.next``, in replies.

    Every answer ends its connection, so that each request comes over one of its own.
    """

    def __init__(self, stack: Stack, *, reset: bool) -> None:
        self.stack = stack
        self.reset = reset
        self.service = Service()
        self.cuts: list[int] = []
        """After how many bytes the next requests end."""
        self.told: list[Order] = []
        self.server: Server
        self.client: Client
        self._measure: int | None = None

    @asynccontextmanager
    async def wire(self) -> AsyncIterator["Scissors"]:
        async with (
            serve(self.service, close_idle=True, on_connect=self._connected) as self.server,
            account(self.stack, self.server.url, attempts=2, on_order=self.told.append) as self.client,
        ):
            yield self

    async def _connected(self, _: int, reply: Reply) -> None:
        if self._measure is not None:
            with anyio.move_on_after(1):
                while await reply.read(1):
                    self._measure += 1
            await reply.close()
        elif self.cuts:
            await reply.read(self.cuts.pop(0))
            await (reply.reset() if self.reset else reply.close())

    async def request_bytes(self, call: Call) -> range:
        """After how many bytes a request can be cut: one to all of them."""
        self._measure = 0
        with pytest.raises(TransportError):
            await call(self.client)
        size, self._measure = self._measure // self.server.connections_opened, None
        return range(1, size + 1)

    async def reply_bytes(self, call: Call, path: str) -> range:
        """After how many bytes the reply can be cut: none to all of them."""
        sizes: list[int] = []

        async def measure(reply: Reply, answer: bytes) -> None:
            sizes.append(len(answer))
            await reply.raw(answer)

        self.service.next(path, measure)
        await call(self.client)
        return range(sizes[0] + 1)

    def cut_replies(self, path: str, *at: int) -> None:
        """Cut the next replies after so many bytes."""
        self.service.next(path, *(cut(after, reset=self.reset) for after in at))

    def both(self, sizes: range) -> Iterator[tuple[int, ...]]:
        """Each cut once, two to a call that is repeated: with FIN the odd ones come first, with RST the even ones."""
        for at in sizes[::2]:
            pair = tuple(one for one in (at, at + 1) if one in sizes)
            yield pair[::-1] if self.reset else pair

    @asynccontextmanager
    async def one(self) -> AsyncIterator["Since"]:
        """What one call does; the connections of the one before are over by then."""
        await anyio.sleep(0.01)
        yield Since(self)


class Since:
    """What has happened since this was made."""

    def __init__(self, scissors: Scissors) -> None:
        self._scissors = scissors
        self._orders = len(scissors.service.orders)
        self._connections = scissors.server.connections_opened
        self._told = len(scissors.told)

    @property
    def placed(self) -> list[str]:
        return [*self._scissors.service.orders][self._orders :]

    @property
    def connections(self) -> int:
        return self._scissors.server.connections_opened - self._connections

    @property
    def told(self) -> list[str]:
        return [order.id for order in self._scissors.told[self._told :]]


# --- what spends -------------------------------------------------------------------------------------------------------------------


@every_stack
@spending
@by_fin_and_rst
async def test_a_spending_request_cut_after_any_byte_is_sent_once_and_of_unknown_outcome(stack: Stack, spend: Place, reset: bool) -> None:
    async with Scissors(stack, reset=reset).wire() as scissors:
        for at in await scissors.request_bytes(spend):
            scissors.cuts = [at]
            async with scissors.one() as since:
                with pytest.raises(OutcomeUnknown) as caught:
                    await spend(scissors.client)
            assert (since.connections, since.placed, since.told, caught.value.order_id) == (1, [], [], None), at
        assert scissors.service.charged == []


@every_stack
@spending
@by_fin_and_rst
async def test_a_spending_reply_cut_after_any_byte_is_an_order_or_an_unknown_outcome(stack: Stack, spend: Place, reset: bool) -> None:
    async with Scissors(stack, reset=reset).wire() as scissors:
        known = 0
        for at in await scissors.reply_bytes(spend, PATHS[spend]):
            scissors.cut_replies(PATHS[spend], at)
            async with scissors.one() as since:
                bought, error = await outcome_of(spend(scissors.client))
            if error is None:
                assert [bought] == since.told == since.placed, at
            else:
                assert isinstance(error, OutcomeUnknown), at
                assert error.order_id in (None, *since.placed), at
                assert since.told == [], at
            known += error is None or error.order_id is not None
            assert (since.connections, len(since.placed)) == (1, 1), at
        assert len(scissors.service.charged) == scissors.service.asked[PATHS[spend]] == scissors.server.connections_opened
        assert known >= (0 if reset else 1)


# --- what costs nothing yet --------------------------------------------------------------------------------------------------------


@every_stack
@by_invoice
@by_fin_and_rst
async def test_an_unpaid_request_cut_after_any_byte_is_sent_once_more_and_no_third_time(stack: Stack, place: Place, reset: bool) -> None:
    async with Scissors(stack, reset=reset).wire() as scissors:
        for cuts in scissors.both(await scissors.request_bytes(place)):
            scissors.cuts = [*cuts]
            async with scissors.one() as since:
                placed, error = await outcome_of(place(scissors.client))
            assert since.connections == 2, cuts
            assert (type(error) is TransportError) is (len(cuts) == 2), cuts
            assert since.placed == since.told == ([placed] if error is None else []), cuts
        assert scissors.service.charged == scissors.service.holding == []


@every_stack
@by_invoice
@by_fin_and_rst
async def test_an_unpaid_reply_cut_after_any_byte_is_an_order_or_a_failure_of_two_unpaid_ones(
    stack: Stack, place: Place, reset: bool
) -> None:
    async with Scissors(stack, reset=reset).wire() as scissors:
        for cuts in scissors.both(await scissors.reply_bytes(place, PATHS[place])):
            scissors.cut_replies(PATHS[place], *cuts)
            async with scissors.one() as since:
                placed, error = await outcome_of(place(scissors.client))
            if error is None:
                assert [placed] == since.told == since.placed[-1:], cuts
            else:
                assert type(error) is TransportError, cuts
                assert (error.order_id in (None, since.placed[1]), since.told) == (True, []), cuts
            assert 1 <= since.connections == len(since.placed) <= 2, cuts
        assert scissors.service.charged == scissors.service.holding == []


# --- a cancel ----------------------------------------------------------------------------------------------------------------------


NOBODY = "0" * 32
MOST_READS = 4
"""Two attempts; our lanes, and aiohttp, make one again at once where a connection may have been lost before the server saw the request."""


@every_stack
@by_fin_and_rst
async def test_a_cancel_whose_request_is_cut_after_any_byte_has_worked_or_says_that_nobody_knows(stack: Stack, reset: bool) -> None:
    async with Scissors(stack, reset=reset).wire() as scissors:
        for cuts in scissors.both(await scissors.request_bytes(lambda client: client.cancel_order(NOBODY))):
            held = one_more(scissors.service)
            scissors.cuts = [*cuts]
            async with scissors.one() as since:
                _, error = await outcome_of(scissors.client.cancel_order(held.id))
            assert (held.cancelled_at < NEVER) is (error is None), cuts
            assert error is None or (type(error), error.order_id) == (TransportError, held.id), cuts
            assert 2 <= since.connections <= MOST_READS, cuts


@every_stack
@by_fin_and_rst
async def test_a_cancel_whose_reply_is_cut_after_any_byte_has_worked_or_says_that_nobody_knows(stack: Stack, reset: bool) -> None:
    async with Scissors(stack, reset=reset).wire() as scissors:
        first = one_more(scissors.service)
        for cuts in scissors.both(await scissors.reply_bytes(lambda client: client.cancel_order(first.id), "/cancelorder")):
            held = one_more(scissors.service)
            scissors.cut_replies("/cancelorder", *cuts)
            async with scissors.one() as since:
                _, error = await outcome_of(scissors.client.cancel_order(held.id))
            assert error is None or (type(error), error.order_id) == (TransportError, held.id), cuts
            assert held.cancelled_at < NEVER, cuts
            assert 1 <= since.connections <= MOST_READS, cuts


@every_stack
@by_fin_and_rst
async def test_a_watchers_cancel_whose_request_is_cut_after_any_byte_is_made_again(stack: Stack, reset: bool) -> None:
    async with Scissors(stack, reset=reset).wire() as scissors:
        for at in await scissors.request_bytes(lambda client: client.cancel_order(NOBODY)):
            held = one_more(scissors.service)
            scissors.cuts = [at]
            async with scissors.one():
                await OrderWatcher(scissors.client, held.id).cancel()
            assert (len(held.cancels), held.most_at_once) == (1, 1), at


@every_stack
@by_fin_and_rst
async def test_a_watchers_cancel_whose_reply_is_cut_after_any_byte_has_worked_once(stack: Stack, reset: bool) -> None:
    async with Scissors(stack, reset=reset).wire() as scissors:
        first = one_more(scissors.service)
        for at in await scissors.reply_bytes(lambda client: client.cancel_order(first.id), "/cancelorder"):
            held = one_more(scissors.service)
            scissors.cut_replies("/cancelorder", at)
            async with scissors.one():
                await OrderWatcher(scissors.client, held.id).cancel()
            assert held.cancelled_at < NEVER, at
            assert (len(held.looks), held.most_at_once) == (1, 1), at
            assert len(held.cancels) <= MOST_READS // 2, at
