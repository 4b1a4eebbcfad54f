"""The catalogue in README.md and the tests that pytest collects are the same: no row without its test, no test without its row."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import HAS_TRIO

HERE = Path(__file__).parent
ROWS = range(1, 105)
WHERE = {"": {"asyncio", "trio", "aiohttp"}, "lanes": {"asyncio", "trio"}, "no loop": set[str]()}
"""What a row's last cell says after its files, and what its tests must then be run on, all together."""

HERE_NOT = {name for name, is_there in (("trio", HAS_TRIO), ("aiohttp", importlib.util.find_spec("httpx_aiohttp"))) if not is_there}
"""What is not installed here, and asked of no row."""


@dataclass(frozen=True)
class Row:
    """One row of the catalogue."""

    number: int
    fault: str
    answer: str
    tested: str

    @property
    def files(self) -> set[str]:
        return set(re.findall(r"`(test_\w+\.py)`", self.tested))

    @property
    def remark(self) -> str:
        """What stands after the files."""
        return re.sub(r"`test_\w+\.py`,? ?", "", self.tested).strip()


def rows_of(text: str) -> list[Row]:
    """The rows of a text's tables."""
    cells = [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in text.splitlines() if re.match(r"\| *[0-9]+ \|", line)
    ]
    assert [row for row in cells if len(row) != 4] == []
    return [Row(int(number), *others) for number, *others in cells]


def wrongs(rows: list[Row], collected: Iterable[str]) -> list[str]:
    """Where the catalogue and the collected ids differ."""
    found: dict[int, list[tuple[str, set[str]]]] = {}
    for file, number, parameters in re.findall(r"^(?:.*/)?(test_\w+\.py)::test_row_([0-9]+)_\w+(.*)$", "\n".join(collected), re.MULTILINE):
        found.setdefault(int(number), []).append((file, set(re.findall(r"\w+", parameters))))
    numbers = [row.number for row in rows]
    said = [f"row {number} is missing, there twice, or not in its place" for number in ROWS if numbers[number - 1 : number] != [number]]
    said += [f"a test of row {number}, which is not there" for number in sorted(set(found) - set(numbers))]
    return said + [f"row {row.number} {wrong}" for row in rows for wrong in _wrongs_of(row, found.get(row.number, []))]


def _wrongs_of(row: Row, tests: list[tuple[str, set[str]]]) -> list[str]:
    said = [f"does not say its {what}" for what, cell in (("fault", row.fault), ("answer", row.answer)) if len(cell) < 4]
    if not row.files:
        reason = re.fullmatch(r"(not built yet|cannot be tested here): .{20,}", row.tested)
        return said + (["has no test, and no reason for that"] if reason is None else []) + (["has tests after all"] if tests else [])
    if row.remark not in WHERE:
        return [*said, f"says something else than where it is tested: {row.remark}"]
    files = {file for file, _ in tests}
    said += [f"has no test in {file}" for file in sorted(row.files - files)]
    said += [f"does not name {file}" for file in sorted(files - row.files)]
    told, true = WHERE[row.remark], {place for place in WHERE[""] if any(place in words for _, words in tests)}
    said += [f"is not run on {place}" for place in sorted(told - true - HERE_NOT)]
    return said + [f"does not say that it is run on {place}" for place in sorted(true - told)]


def test_the_catalogue_is_what_is_tested() -> None:
    others = ("-p", "no:asyncio", "-p", "no:trio", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", *others, str(HERE)]
    collected = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False, timeout=300)
    assert collected.returncode == 0, collected.stdout
    assert wrongs(rows_of((HERE / "README.md").read_text(encoding="utf-8")), collected.stdout.splitlines()) == []


IDS = [
    f"tests/faults/test_x.py::test_row_{number}_it[{stack}]"
    for number in ROWS
    for stack in ("asyncio-lanes", "trio-lanes", "asyncio-aiohttp")
]
TABLE = {number: f"| {number} | it fails | it is made again | `test_x.py` |" for number in ROWS}
UNTESTED = "| 27 | it fails | nothing yet | not built yet: it needs something else first |"


@pytest.mark.parametrize(
    ("rows", "ids", "wrong"),
    [
        ({}, IDS, None),
        ({13: ""}, IDS, "row 13 is missing"),
        ({13: TABLE[12]}, IDS, "row 13 is missing"),
        ({}, [*IDS, "test_x.py::test_row_105_it"], "a test of row 105"),
        ({}, [one for one in IDS if "row_13_" not in one], "row 13 has no test in test_x.py"),
        ({13: TABLE[13].replace("_x", "_y")}, IDS, "row 13 has no test in test_y.py"),
        ({13: TABLE[13].replace("_x", "_y")}, IDS, "row 13 does not name test_x.py"),
        ({13: TABLE[13].replace("_x.py`", "_x.py`, lanes")}, IDS, "row 13 does not say that it is run on aiohttp"),
        ({13: TABLE[13].replace("_x.py`", "_x.py`, no loop")}, IDS, "row 13 does not say that it is run on asyncio"),
        ({13: TABLE[13].replace("_x.py`", "_x.py`, perhaps")}, IDS, "row 13 says something else"),
        ({13: TABLE[13].replace("it is made again", "-")}, IDS, "row 13 does not say its answer"),
        ({}, [one for one in IDS if "row_13_it[asyncio" not in one], "row 13 is not run on asyncio"),
        ({27: UNTESTED}, [one for one in IDS if "row_27_" not in one], None),
        ({27: UNTESTED}, IDS, "row 27 has tests after all"),
        ({27: UNTESTED.replace(": it needs something else first", "")}, IDS, "row 27 has no test, and no reason"),
    ],
)
def test_a_difference_between_the_catalogue_and_the_tests_is_found(rows: dict[int, str], ids: list[str], wrong: str | None) -> None:
    said = wrongs(rows_of("\n".join((TABLE | rows).values())), ids)
    assert (said == []) if wrong is None else any(one.startswith(wrong) for one in said), said
