"""The command that looks for flakes counts what it finds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.repeat import main

SOMETIMES = """
from pathlib import Path

def test_sometimes():
    seen = Path(__file__).with_name("seen")
    seen.write_text(seen.read_text() + "." if seen.exists() else ".")
    assert len(seen.read_text()) != 2
"""


def test_a_flake_is_found_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flaky = tmp_path / "test_flaky.py"
    flaky.write_text(SOMETIMES)
    assert main(["--times", "3", "--at-once", "1", str(flaky)]) == 1
    told = capsys.readouterr().out
    assert told.count("1 passed") == 2
    assert "FAILED" in told
    assert told.splitlines()[-1].startswith("3 runs, 1 with a failure, in ")


def test_no_failure_is_no_flake(tmp_path: Path) -> None:
    sound = tmp_path / "test_sound.py"
    sound.write_text("def test_sound(): pass")
    done = subprocess.run([sys.executable, "-m", "tests.repeat", "--times", "2", str(sound)], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("2 runs, 0 with a failure, in ")
