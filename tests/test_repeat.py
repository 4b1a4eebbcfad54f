"""The command that looks for flakes counts what it finds, and leaves nothing out."""

import subprocess
import sys
from collections import Counter
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

IN_TURN = """
from pathlib import Path

import pytest

@pytest.mark.parametrize("of_two", [0, 1])
@pytest.mark.parametrize("of_three", "abc")
def test_of_six(of_two, of_three):
    note(f"six: {of_two}{of_three}")

@pytest.mark.parametrize("of_two", [0, 1])
def test_of_two(of_two):
    note(f"two: {of_two}")

def test_of_one():
    note("one")

def note(what):
    with Path(__file__).with_name("noted").open("a") as noted:
        print(what, file=noted)
"""


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """To load them all takes longer than to run these tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def repeated(tests: Path, *arguments: str) -> Counter[str]:
    """Repeat these tests, and return what they noted."""
    assert main(["--at-once", "2", *arguments, str(tests)]) == 0
    return Counter(tests.with_name("noted").read_text().splitlines())


@pytest.mark.unmeasured
def test_a_flake_is_found_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flaky = tmp_path / "test_flaky.py"
    flaky.write_text(SOMETIMES)
    assert main(["--times", "3", "--at-once", "1", str(flaky)]) == 1
    told = capsys.readouterr().out
    assert told.count("1 passed") == 2
    assert "FAILED" in told
    assert f"again: python -m pytest -p no:cacheprovider -p tests.repeat --turn 1 {flaky}" in told
    assert told.splitlines()[-1].startswith("3 runs, 1 with a failure, in ")


def test_no_failure_is_no_flake(tmp_path: Path) -> None:
    sound = tmp_path / "test_sound.py"
    sound.write_text("def test_sound(): pass")
    done = subprocess.run([sys.executable, "-m", "tests.repeat", "--times", "2", str(sound)], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("2 runs, 0 with a failure, in ")


@pytest.mark.unmeasured
def test_every_test_is_run_each_time_and_every_set_of_parameters_in_turn(tmp_path: Path) -> None:
    tests = tmp_path / "test_in_turn.py"
    tests.write_text(IN_TURN)
    noted = repeated(tests, "--times", "6")
    assert noted == {"one": 6, "two: 0": 3, "two: 1": 3} | {f"six: {two}{three}": 1 for two in "01" for three in "abc"}


def test_a_whole_repeat_leaves_no_set_out(tmp_path: Path) -> None:
    tests = tmp_path / "test_in_turn.py"
    tests.write_text(IN_TURN)
    noted = repeated(tests, "--times", "2", "--whole")
    assert noted == {"one": 2, "two: 0": 2, "two: 1": 2} | {f"six: {two}{three}": 2 for two in "01" for three in "abc"}
