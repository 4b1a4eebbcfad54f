"""A short run of ``python -m tests.crash``, 25 kills from each event loop: no order and no code is lost with its process."""

import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.crash import Judge, memory

pytestmark = pytest.mark.real_time


async def test_nothing_is_lost_with_a_process_that_is_killed_at_any_moment() -> None:
    with tempfile.TemporaryDirectory(dir=memory()) as place:
        verdict = await Judge(Path(place), random.Random(7)).run(25)  # noqa: S311 - dice
    assert verdict.good, verdict
    assert (verdict.kills, verdict.copies > 20, verdict.charged > 5, verdict.codes > 5) == (25, True, True, True), verdict


def test_the_command_comes_to_a_verdict_when_it_is_cut_off() -> None:
    command = [sys.executable, "-m", "tests.crash", "--every", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("2 kills, ")
        process.send_signal(signal.SIGTERM)
        *_, verdict, word = process.stdout.read().splitlines()
    assert verdict.startswith("Verdict(kills=")
    assert (word, process.returncode) == ("good", 0)
