"""The room that knows Redis: each step of a job as one call, and one error of ours for all that can go wrong with them."""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as NoConnection

from sms4sats_async.cluster import scripts

ANSWER_TIMEOUT = 2.0
"""Seconds that Redis has to answer, or to take a connection."""
READ_BLOCK = 0.5
"""Seconds that a read waits for something to read."""
AGAIN = 0.5
"""Seconds after which Redis is asked again when it did not answer."""
SAY_EVERY = 30.0
"""Seconds from one line in the log about waiting for Redis to the next."""
SILENCE = 3.0
"""Seconds without a beat of any worker after which nobody is taken for dead because of it: it was Redis that could not be heard."""
GRACE = 5.0
"""Seconds that a worker has then to be heard again, or what it has otherwise if that is less."""
POINTLESS = ("WRONGTYPE", "can't run this command", "can't access at least one of the keys", "unknown command")
"""Words of Redis after which waiting changes nothing; a script does not hand on the kind of its error."""
WORKERS, READERS = "workers", "readers"
"""The consumer groups of the two streams."""

_logger = logging.getLogger(__name__)

Entry = tuple[str, dict[bytes, bytes]]
"""The id of a stream's entry, and its fields."""


class RedisAway(Exception):
    """Redis did not answer, or not as it should; the step can be made again, whether it was made or not.

    Attributes:
        refused: it does not know us, or does not let us: waiting changes nothing.
    """

    def __init__(self, error: Exception) -> None:
        causes: list[BaseException] = [error]
        if isinstance(error, NoConnection) and (cause := error.__cause__ or error.__context__) is not None:
            causes.append(cause)  # why it could not be made: the host's name, a certificate, a password
        super().__init__(f"redis: {', '.join(type(one).__name__ for one in causes)}")  # the texts can repeat what was sent
        self.refused = any(isinstance(one, AuthenticationError | AuthorizationError | NoPermissionError) for one in causes) or (
            isinstance(error, ResponseError) and any(words in str(error) for words in POINTLESS)
        )


class Waiting:
    """Waits for Redis, and says so: at once, and then from time to time."""

    def __init__(self) -> None:
        self._said_at = -math.inf

    async def wait(self, away: RedisAway) -> None:
        """Wait a little before it is asked again.

        Raises:
            PermissionError: it does not let us in, or not do what is needed.
        """
        if away.refused:
            raise PermissionError(str(away)) from None
        if (now := anyio.current_time()) >= self._said_at + SAY_EVERY:
            _logger.warning("%s: waiting for it", away)
            self._said_at = now
        await anyio.sleep(AGAIN)


class Beat(NamedTuple):
    """What a worker's beat has answered.

    Attributes:
        word: ``"ok"``; ``"forgotten"``: Redis has lost its data; ``"given up"``: others have taken over this worker's orders; ``"late"``: a
            later one was heard before, so that nobody waits for this answer any more.
        epoch: changes whenever Redis has lost its data.
        share: requests a second that this worker may make.
        fair: how many orders each worker would watch, of those who can take more.
        now: seconds of Redis's clock.
        held: how many entries Redis holds this worker for.
        braked: seconds for which the service wants to be left alone.
        dead: the workers whose orders are to be taken over.
    """

    word: str
    epoch: str = ""
    share: int = 0
    fair: int = 0
    now: float = 0.0
    held: int = 0
    braked: float = 0.0
    dead: tuple[str, ...] = ()


class Pulse(NamedTuple):
    """What a worker says at each beat: how much it has used in the last second, what it watches, and if it can take more, among it.

    Attributes:
        epoch, heard: what the last beat that was answered had as ``epoch`` and ``now``; empty and 0 before.
        braked: seconds for which the service has told it to wait, beyond what the last answer said.
        number: 1 for its first beat, and so on.
    """

    name: str
    epoch: str
    heard: float
    rate: int
    used: int
    watching: int
    open: bool
    state: dict[str, Any]
    braked: float
    keep_share: float
    give_up_after: float
    number: int


class Telling(NamedTuple):
    """An outcome that is to be told, with the entries of its order; with none, it is not the end of the order."""

    outcome: str
    order_id: str
    epoch: str
    entries: tuple[str, ...]


class Store:
    """One job in Redis. Every call raises :class:`RedisAway`, and nothing else of Redis's, and takes some seconds at the most."""

    def __init__(self, url: str, name: str) -> None:
        ours = {
            "protocol": 2,  # the shapes of its answers are those of all versions
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),  # who repeats what, and when, is decided here
        }
        try:
            redis = cast("Any", Redis).from_url(url, socket_timeout=ANSWER_TIMEOUT, socket_connect_timeout=ANSWER_TIMEOUT, **ours)
            pool = redis.connection_pool
            pool.make_connection()  # it connects later; what it does not know in the url, it says now
        except (ValueError, TypeError, AttributeError):  # its words can repeat a part of a password that was taken for a port
            raise ValueError("url must be redis://, rediss:// or unix://, with what is special in a password percent-encoded") from None
        if changed := [name for name, value in ours.items() if pool.connection_kwargs[name] != value]:
            raise ValueError(f"url cannot say {' or '.join(changed)}")
        self._redis: Any = redis  # redis-py's types are those of its synchronous client as well
        self._orders, self._open, self._outcomes, self._dead, self._workers, self._epoch, self._quiet, self._brake = (
            f"{name}:{part}" for part in ("orders", "open", "outcomes", "dead", "workers", "epoch", "quiet", "brake")
        )
        script = self._redis.register_script
        self._submit, self._tell, self._bury = script(scripts.SUBMIT), script(scripts.TELL), script(scripts.BURY)
        self._beat, self._take_over = script(scripts.BEAT), script(scripts.TAKE_OVER)
        self._leave, self._roll, self._look = script(scripts.LEAVE), script(scripts.ROLL), script(scripts.LOOK)
        self._forget, self._open_readers = script(scripts.FORGET), script(scripts.OPEN)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        with anyio.CancelScope(shield=True):
            await self._redis.aclose()

    # --- orders ----------------------------------------------------------------------------------------------------------------

    async def submit(self, orders: Iterable[tuple[str, str]]) -> int:
        """Put orders in, each an id and its JSON, in one step; return how many were not there already."""
        return int(await self._run(self._submit, [self._orders, self._open], [part for order in orders for part in order]))

    async def read(self, worker: str, count: int) -> list[Entry]:
        """Give this worker up to so many orders that nobody has had yet; wait a little when there is none."""
        return await self._read_group(WORKERS, worker, self._orders, ">", count, block=True)

    async def held(self, worker: str, after: str) -> list[Entry]:
        """Return what this worker was given and has not ended, from that entry on, some hundred at a time."""
        return await self._read_group(WORKERS, worker, self._orders, after, 500, block=False)

    async def tell(self, tellings: Iterable[Telling], *, worker: str, heard: float, keep_share: float) -> None:
        """Tell outcomes, in one step; but not the end of an order that was told already, or is another one's to tell.

        ``heard`` is when this worker's last beat was that was answered, on Redis's clock: so that it sees if it has lost data.
        """
        keys = [self._orders, self._open, self._outcomes, self._epoch, self._workers]
        mine = (worker, round(heard * 1000), round((keep_share + 1) * 1000))
        told = ((one.epoch, one.outcome, one.order_id, len(one.entries), *one.entries) for one in tellings)
        await self._run(self._tell, keys, [WORKERS, *mine, *(part for parts in told for part in parts)])

    async def bury(self, entry: Entry, reason: str) -> None:
        """Move what is no order to the dead letters."""
        await self._bury_from(self._orders, WORKERS, entry, reason)

    async def bury_outcome(self, entry: Entry, reason: str) -> None:
        """Move what is no outcome to the dead letters."""
        await self._bury_from(self._outcomes, READERS, entry, reason)

    async def _bury_from(self, stream: str, group: str, entry: Entry, reason: str) -> None:
        entry_id, fields = entry
        parts = [part for name, value in fields.items() for part in (b"its reason" if name == b"reason" else name, value)]
        await self._run(self._bury, [stream, self._dead], [group, entry_id, reason, *parts])

    async def waiting(self) -> int:
        """Return how many orders have not ended yet, whether or not somebody watches them."""
        return int(await self._ask("XLEN", self._orders))

    async def look(self) -> tuple[bool, float]:
        """Return whether an order waits for its end, or may be put back just now, and when the last beat of all was."""
        busy, latest = await self._run(self._look, [self._orders, self._quiet, self._workers], [])
        return bool(busy), latest / 1000

    async def dead_letters(self) -> list[Entry]:
        """Return what was no order, or no outcome."""
        return _entries(await self._ask("XRANGE", self._dead, "-", "+"))

    # --- workers ---------------------------------------------------------------------------------------------------------------

    async def beat(self, pulse: Pulse) -> Beat:
        """Say that a worker lives, and ask for its share."""
        keys = [self._orders, self._workers, self._epoch, self._quiet, self._brake, self._outcomes]
        told = [pulse.name, pulse.epoch, uuid.uuid4().hex, pulse.rate, pulse.used, pulse.watching, int(pulse.open), json.dumps(pulse.state)]
        times = (pulse.keep_share + 1, pulse.give_up_after, SILENCE, GRACE, pulse.heard, pulse.braked)
        milliseconds = (round(seconds * 1000) for seconds in times)
        word, *rest = await self._run(self._beat, keys, [WORKERS, *told, *milliseconds, READERS, pulse.number])
        if word != b"ok":
            return Beat(word.decode())
        epoch, share, fair, now, held, braked, *dead = rest
        return Beat("ok", epoch.decode(), share, fair, now / 1000, held, braked / 1000, tuple(name.decode() for name in dead))

    async def take_over(self, worker: str, dead: str, give_up_after: float, count: int) -> list[Entry]:
        """Give this worker up to so many of a dead one's orders."""
        keys = [self._orders, self._workers]
        return _entries(await self._run(self._take_over, keys, [WORKERS, worker, dead, round(give_up_after * 1000), count]))

    async def leave(self, worker: str, keep_share: float) -> None:
        """Hand back all of a worker's orders; its share stays reserved for so many seconds more."""
        await self._run(self._leave, [self._workers], [worker, round(keep_share * 1000)])

    async def roll(self) -> tuple[float, dict[str, dict[str, Any]]]:
        """Return the seconds of Redis's clock, and what is known of each worker."""
        now, *told = await self._run(self._roll, [self._workers], [])
        return int(now) / 1000, {name.decode(): json.loads(record) for name, record in zip(told[::2], told[1::2], strict=True)}

    # --- outcomes --------------------------------------------------------------------------------------------------------------

    async def outcomes(self, reader: str, *, block: bool) -> list[Entry]:
        """Return outcomes for this reader: those that it was given before and has not done with, or else new ones."""
        for after in ("0", ">"):
            if entries := await self._read_group(READERS, reader, self._outcomes, after, 100, block=block and after == ">"):
                return entries
        return []

    async def done(self, entries: Iterable[str]) -> None:
        """Forget outcomes that have been read, in one step."""
        await self._run(self._forget, [self._outcomes], [READERS, *entries])

    # --- asking ----------------------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Ask for nothing, to see whether Redis answers."""
        await self._ask("PING")

    async def _read_group(self, group: str, consumer: str, stream: str, after: str, count: int, *, block: bool) -> list[Entry]:
        waiting = ["BLOCK", round(READ_BLOCK * 1000)] if block else []
        command = ["XREADGROUP", "GROUP", group, consumer, "COUNT", count, *waiting, "STREAMS", stream, after]
        try:
            reply = await self._ask(*command)
        except RedisAway as away:
            if group == WORKERS or not isinstance(away.__cause__, ResponseError):
                raise
            await self._run(self._open_readers, [stream], [group])  # the first reader, or Redis has lost its data
            return []
        return [] if not reply else _entries(reply[0][1])

    async def _run(self, script: Any, keys: list[str], args: list[Any]) -> Any:
        with anyio.CancelScope(shield=True):  # a command that is broken off costs its connection, and nobody knows whether it was heard
            try:
                return await script(keys=keys, args=args)
            except (RedisError, OSError) as error:
                raise RedisAway(error) from error

    async def _ask(self, *command: Any) -> Any:
        try:  # no shield: what was given to somebody who was cancelled is found again among what it holds
            return await self._redis.execute_command(*command)
        except (RedisError, OSError) as error:
            raise RedisAway(error) from error


def _entries(reply: Any) -> list[Entry]:
    """Read a list of entries. What is in the list of a consumer, but not in the stream any more, comes without fields."""
    entries: list[Entry] = []
    for entry, fields in reply:
        pairs = cast(
            "dict[bytes, bytes]",
            fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {},
        )
        entries.append((entry.decode(), pairs))
    return entries
