"""A short run of ``python -m tests.crash``: no order and no code is lost with its process."""

import random
from pathlib import Path

import pytest

from tests.crash import Judge

pytestmark = pytest.mark.real_time


async def test_nothing_is_lost_with_a_process_that_is_killed_at_any_moment(tmp_path: Path) -> None:
    verdict = await Judge(tmp_path, random.Random(7)).run(50)  # noqa: S311 - dice
    assert verdict.good, verdict
    assert (verdict.kills, verdict.copies > 40, verdict.charged > 10, verdict.codes > 10) == (50, True, True, True), verdict
