"""A short run of ``python -m tests.crash``, 25 kills from each event loop: no order and no code is lost with its process."""

import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sms4sats_async.lease import lives
from tests.crash import Forker, Job, Judge, memory
from tests.test_journal import really

pytestmark = pytest.mark.real_time


async def test_nothing_is_lost_with_a_process_that_is_killed_at_any_moment() -> None:
    with tempfile.TemporaryDirectory(dir=memory()) as place:
        verdict = await Judge(Path(place), random.Random(7)).run(25)  # noqa: S311 - dice
    assert verdict.good, verdict
    assert (verdict.kills, verdict.charged > 5, verdict.codes > 5) == (25, True, True), verdict


async def test_no_process_outlives_its_judge(tmp_path: Path) -> None:
    journal = tmp_path / "orders.db"
    with pytest.raises(ZeroDivisionError):
        async with Forker() as forker:
            await forker.begin(Job("http://127.0.0.1:9", str(journal), str(tmp_path / "codes"), 0, 60, "asyncio"))
            await really(lambda: any(tmp_path.glob("*.live")))
            _ = 1 / 0
    (life,) = tmp_path.glob("*.live")
    await really(lambda: not lives(journal, life.stem.removeprefix("orders.db-")))


def test_the_command_comes_to_a_verdict_when_it_is_cut_off() -> None:
    command = [sys.executable, "-m", "tests.crash", "--every", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("2 kills, ")
        process.send_signal(signal.SIGTERM)
        *_, verdict, word = process.stdout.read().splitlines()
    assert verdict.startswith("Verdict(kills=")
    assert (word, process.returncode) == ("good", 0)
