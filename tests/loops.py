"""Which asyncio the tests run on: the usual one, or the one that ``TEST_LOOP`` names, for an environment of the matrix.

``eager`` begins each task at once (``asyncio.eager_task_factory``, from Python 3.12 on). ``uvloop`` has no clock that could be moved, so
only what runs on the real one can run there.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.virtual_time import VirtualTimeLoop

Loop = Callable[[], asyncio.AbstractEventLoop]


def asyncio_options(kind: str, *, real_time: bool) -> dict[str, Any]:
    """Return what anyio is to be told of the loop."""
    factory: Loop = asyncio.new_event_loop if real_time else VirtualTimeLoop
    match kind:
        case "":
            return {} if real_time else {"loop_factory": factory}
        case "eager":
            return {"loop_factory": eager(factory)}
        case "uvloop" if real_time:
            return {"use_uvloop": True}
    raise ValueError(f"TEST_LOOP={kind} is for tests in real time" if kind == "uvloop" else f"there is no TEST_LOOP={kind}")


def eager(factory: Loop) -> Loop:
    """Make loops whose tasks run at once, up to their first wait."""

    def make() -> asyncio.AbstractEventLoop:
        loop = factory()
        loop.set_task_factory(vars(asyncio)["eager_task_factory"])
        return loop

    return make
