"""What is due when, of many things, and how fast they may follow each other. Pure: it is told the time."""

import heapq
import itertools
import math
from typing import Generic, TypeVar

T = TypeVar("T")

SLACK = 0.04
"""How many seconds a loop may be late without losing the turns that it missed: it dozes, and its timers are not exact."""
MARGIN = 0.03
"""How many seconds sooner than another a request may get through, without there being too many in a second where they arrive."""


class Agenda(Generic[T]):
    """Things with a time from which on they are due; the earliest is taken first, the one put first of several.

    Args:
        max_rate: how many may be taken in any one second; ``None`` for as many as are due. The turns are spread evenly: what was not
            taken for a while does not make a burst. A loop's own lateness, up to :data:`SLACK`, is caught up with, and the turns are so
            much further apart (with the :data:`MARGIN`, 7 %) that the promise holds all the same.

    Attributes:
        turn: when the next turn comes.
        turns: how many turns were taken.
        braked_until: nothing but what is urgent is taken before.
    """

    __slots__ = ("_allowed_until", "_counter", "_ordinary", "_spacing", "_urgent", "braked_until", "turn", "turns")

    def __init__(self, max_rate: float | None = None) -> None:
        self._spacing = 0.0 if max_rate is None else _spacing(max_rate)
        self._allowed_until = math.inf
        self.turn = -math.inf
        self.turns = 0
        self.braked_until = -math.inf
        self._ordinary: list[tuple[float, int, T]] = []
        self._urgent: list[tuple[float, int, T]] = []
        self._counter = itertools.count()

    def put(self, thing: T, at: float, *, urgent: bool = False) -> None:
        """Add a thing that is due from this time on. An urgent one goes before all others, and does not heed the brake."""
        heapq.heappush(self._urgent if urgent else self._ordinary, (at, next(self._counter), thing))

    def brake(self, until: float) -> None:
        """Take nothing before this time but what is urgent."""
        self.braked_until = max(self.braked_until, until)

    def allow(self, max_rate: float, until: float) -> None:
        """Change the rate, from the next turn on, 0 for no turn at all. From this time on there are none, until it is allowed anew."""
        if max_rate > 0:
            spacing = _spacing(max_rate)
            self.turn += spacing - self._spacing
            self._spacing = spacing
        self._allowed_until = until if max_rate > 0 else -math.inf

    def next_turn(self) -> float:
        """When the next turn comes; infinity when it is not allowed."""
        return self.turn if self.turn < self._allowed_until else math.inf

    def next_at(self) -> float:
        """When something can be taken; infinity when there is nothing, or nothing is allowed."""
        urgent = self._urgent[0][0] if self._urgent else math.inf
        ordinary = max(self._ordinary[0][0], self.braked_until) if self._ordinary else math.inf
        at = max(self.turn, min(urgent, ordinary))
        return at if at < self._allowed_until else math.inf

    def take(self, now: float) -> T:
        """Take what is due now, :meth:`next_at` having come, and count it as a turn."""
        self.count(now)
        return heapq.heappop(self._urgent if self._urgent and self._urgent[0][0] <= now else self._ordinary)[2]

    def count(self, now: float) -> None:
        """Take a turn: :attr:`turn` having come."""
        self.turn = max(self.turn, now - SLACK) + self._spacing
        self.turns += 1

    def behind(self, now: float) -> float:
        """By how many seconds the thing that waits longest could have been taken earlier; 0 when nothing can be taken yet."""
        ordinary = now - max(self._ordinary[0][0], self.braked_until) if self._ordinary else 0.0
        return max(0.0, ordinary, now - self._urgent[0][0] if self._urgent else 0.0)

    def clear(self) -> list[T]:
        """Give back everything, and forget it."""
        things = [thing for _, _, thing in (*self._urgent, *self._ordinary)]
        self._urgent.clear()
        self._ordinary.clear()
        return things


def _spacing(max_rate: float) -> float:
    """Return the seconds from one turn to the next."""
    return (1 + SLACK + MARGIN) / max_rate
