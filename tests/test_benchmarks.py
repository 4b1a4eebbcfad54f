"""The benchmarks measure what they say: every contender makes its calls and decodes the replies; the guard judges by what it is given.

No time is judged here: that is what the benchmarks are for.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pytest

from benchmarks._contenders import CONTENDERS, HTTPX, HTTPX_KEEPING_ALL, OURS, STARTERS, Contender, Place, baseline, field
from benchmarks._report import line_of_json, spread, table
from benchmarks._serving import status_server
from benchmarks.guard import TAKES, Check, cpu_per_call, guard, judge
from benchmarks.imports import first_replies, imports
from benchmarks.per_request import Case, Round, as_table, measure
from sms4sats_async import OrderStatus

ROOT = Path(__file__).parents[1]
REPLY = json.loads((ROOT / "tests" / "samples" / "orderstatus_number_assigned.json").read_bytes())
MANY = 21  # calls at once: all contenders take part

both_wires = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])


# --- the contenders ----------------------------------------------------------------------------------------------------------------


@pytest.mark.real_time
@both_wires
async def test_every_contender_makes_its_calls_and_decodes_the_replies(anyio_backend_name: str, tls: bool) -> None:
    starters = [each for each in STARTERS.values() if each.on_trio or anyio_backend_name != "trio"]
    with status_server(tls=tls) as server:
        for contender in [*field(anyio_backend_name, MANY), *starters]:
            before = server.ask("seen")
            found = await _ask_at_once(contender, Place(server.url, MANY, server.ssl_context))
            assert server.ask("seen") - before == len(found) == 3
            assert found in ([REPLY] * 3, [OrderStatus.from_wire(REPLY, "order")] * 3), contender.name
            assert await server.connections_left() == 0


async def _ask_at_once(contender: Contender, place: Place) -> list[object]:
    found = []

    async def ask() -> None:
        found.append(await call("order"))

    async with contender.open(place) as call, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask)
    return found


def test_who_takes_part_where() -> None:
    assert {each.name for each in field("asyncio", MANY)} == set(CONTENDERS)
    assert field("uvloop", MANY) == field("asyncio", MANY)
    few = {each.name for each in field("asyncio", 20)}
    assert set(CONTENDERS) - few == {HTTPX_KEEPING_ALL, "httpx2, keeping all"}
    assert {each.name for each in field("trio", 20)} == {HTTPX, "httpx, semaphore of 10", "httpx2", OURS}
    assert (baseline(20), baseline(MANY)) == (HTTPX, HTTPX_KEEPING_ALL)
    assert {each.rival for each in CONTENDERS.values()} - {None} <= set(CONTENDERS)


def test_the_environment_is_as_it_was_after_a_tls_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with status_server(tls=True) as server:
        assert os.environ["SSL_CERT_FILE"] == server.authorities
    assert "SSL_CERT_FILE" not in os.environ
    monkeypatch.setenv("SSL_CERT_FILE", "before.pem")
    with status_server(tls=True) as server:
        assert os.environ["SSL_CERT_FILE"] == server.authorities
    assert os.environ["SSL_CERT_FILE"] == "before.pem"


# --- CPU per request ---------------------------------------------------------------------------------------------------------------


@pytest.mark.measured("once")
@pytest.mark.parametrize(("loop", "tls"), [("asyncio", False), ("uvloop", True), ("trio", False)])
def test_the_contenders_take_turns_and_hold_the_connections_they_are_meant_to(loop: str, tls: bool) -> None:
    contenders = field(loop, 2)
    case = measure(contenders, 2, rounds=1, calls=4, loop=loop, tls=tls)
    assert list(case.rounds) == [each.name for each in contenders]
    for each in contenders:
        assert [taken.connections for taken in case.rounds[each.name]] == [each.holds(2)]
        assert len(case.ratios(each.name, HTTPX)) == 1


def _round(cpu_us: float, connections: float) -> Round:
    return Round(cpu_us=cpu_us, server_cpu_us=10.0, connections=connections)


def test_a_ratio_is_that_of_two_rounds_in_which_both_held_their_connections() -> None:
    bare = [_round(1000, 20), _round(2000, 20), _round(1000, 17.9), _round(1000, 20)]
    own = [_round(200, 20), _round(200, 18.1), _round(200, 20), _round(200, 1)]
    assert Case(20, {HTTPX: bare, OURS: own}).ratios(OURS, HTTPX) == [0.2, 0.1]


def test_one_that_holds_fewer_connections_by_design_is_measured_by_those() -> None:
    case = Case(100, {HTTPX_KEEPING_ALL: [_round(1000, 100)], "httpx, semaphore of 10": [_round(500, 10)], HTTPX: [_round(1, 20)]})
    assert case.ratios("httpx, semaphore of 10", HTTPX_KEEPING_ALL) == [0.5]
    assert case.ratios(HTTPX, HTTPX_KEEPING_ALL) == []


def test_the_table_tells_the_median_and_how_many_rounds_it_is_of() -> None:
    bare = [_round(1000, 20), _round(2000, 20), _round(4000, 20)]
    told = as_table(Case(20, {HTTPX: bare, OURS: [_round(500, 20), _round(500, 20), _round(500, 2)]})).splitlines()
    assert told[1].split() == ["httpx", "2,000", "(1,000-4,000)", "10", "20.0", "-", "-"]
    assert told[2].split() == ["ours", "500", "(500-500)", "10", "20.0", "0.375", "(0.25-0.5),", "2", "of", "3", "rounds", "-"]


def test_the_command_ends_with_one_line_of_json() -> None:
    command = [sys.executable, "-m", "benchmarks.per_request", "--rounds", "1", "--calls", "1", "--at-once", "1", "--loop", "trio"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    title, *_, last = done.stdout.splitlines()
    assert title.startswith("trio, plain, 1 at once, 1 rounds")
    told = json.loads(last)
    assert (told["benchmark"], told["options"]["at_once"]) == ("per_request", [1])
    (case,) = told["results"]
    assert set(case["contenders"]) == {each.name for each in field("trio", 1)}
    assert len(case["contenders"][OURS]["ratios"]["httpx"]) == 1


# --- imports -----------------------------------------------------------------------------------------------------------------------


def test_a_process_is_measured_from_its_start_to_the_first_reply() -> None:
    ((name, rounds),) = first_replies(1, ["raw protocol"], tls=True).items()
    assert name == "raw protocol"
    ((cpu_seconds, wall_seconds),) = rounds
    assert min(cpu_seconds, wall_seconds) > 0


def test_an_import_that_fails_is_no_figure() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        imports(1, ("import no_such_package",))


# --- the guard ---------------------------------------------------------------------------------------------------------------------


def _takes(*each: Sequence[float]) -> tuple[Callable[[int], Sequence[float]], list[int]]:
    """What a check asks for its ratios: gives these, take by take, and keeps how many rounds each take was asked for."""
    waiting, asked = iter(each), list[int]()

    def ratios(rounds: int) -> Sequence[float]:
        asked.append(rounds)
        return next(waiting)

    return ratios, asked


def test_a_bound_that_is_met_takes_no_more_rounds() -> None:
    ratios, asked = _takes([0.2, 0.25, 9.0])
    verdict = judge(Check("ours / theirs", 0.25, ratios), rounds=3)
    assert (verdict.met, asked) == (True, [3])
    assert str(verdict) == "ok    ours / theirs: 0.250 (0.200-9.000) in 3 rounds, at most 0.25"


def test_a_bound_that_is_not_met_at_first_is_judged_over_all_rounds_together() -> None:
    ratios, asked = _takes([0.3, 0.2, 0.3], [0.3, 0.3, 0.2], [0.1, 0.1, 0.2, 0.2, 0.2])
    verdict = judge(Check("ours / theirs", 0.2, ratios), rounds=3)
    assert (verdict.met, asked) == (True, [3, 3, 3])
    assert sorted(verdict.ratios) == [0.1] * 2 + [0.2] * 5 + [0.3] * 4


def test_a_bound_is_broken_when_every_take_is_over_it() -> None:
    ratios, asked = _takes(*[[0.3, 0.1, 0.3]] * TAKES, [0.1] * 99)
    verdict = judge(Check("ours / theirs", 0.2, ratios), rounds=3)
    assert (verdict.met, verdict.over, len(asked)) == (False, True, TAKES)
    assert str(verdict).startswith("OVER  ours / theirs: 0.300")


def test_a_bound_within_the_noise_is_open_and_takes_no_more_rounds() -> None:
    ratios, asked = _takes(*[[0.3, 0.3, 0.3]] * 2, [0.1, 0.1, 0.3])
    verdict = judge(Check("ours / theirs", 0.2, ratios), rounds=3)
    assert (verdict.met, verdict.over, asked) == (False, False, [3, 3, 3])
    assert str(verdict).startswith("open  ours / theirs: 0.300")


def test_rounds_that_cannot_be_used_break_the_bound() -> None:
    verdict = judge(Check("ours / theirs", 9.0, _takes(*[()] * TAKES)[0]))
    assert (verdict.met, verdict.over) == (False, True)
    assert "too few connections" in str(verdict)


def test_the_guard_fails_when_one_bound_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Check("good", 1.0, lambda rounds: [1.0] * rounds), Check("bad", 1.0, lambda rounds: [1.01] * rounds)
    assert guard([good]) == 0
    assert "none of 1 bounds is broken" in capsys.readouterr().out
    assert guard([bad, good]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["OVER", "ok", "1"]
    assert "bad: 1.010" in told[0]


def test_what_counts_is_judged_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    begun = threading.Event()

    def count(_: int) -> Sequence[float]:
        begun.set()
        return [1.01]

    def ratios(_: int) -> Sequence[float]:
        assert begun.wait(60)
        return [1.0]

    assert guard([Check("counted", 1.0, count, counts=True), Check("timed", 1.0, ratios)]) == 1
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["ok", "timed:"], ["OVER", "counted:"], ["1", "of"]]


def test_a_check_takes_as_many_rounds_as_it_is_asked_for() -> None:
    assert len(cpu_per_call(OURS, HTTPX, calls=20)(2)) == 2


# --- the report --------------------------------------------------------------------------------------------------------------------


def test_a_table_has_its_first_column_to_the_left_and_the_others_to_the_right() -> None:
    assert table([["", "one"], ["long name", "1"], ["x", "1,000"]]) == "             one\nlong name      1\nx          1,000"
    assert spread([3, 1, 2], ".1f") == "2.0 (1.0-3.0)"
    assert spread([], ".1f") == "-"


def test_the_line_of_json_says_what_it_was_found_with() -> None:
    told = json.loads(line_of_json("name", {"rounds": 1}, {"figures": (1.23456789, 7)}))
    assert told["results"] == {"figures": [1.2346, 7]}
    assert told["options"] == {"rounds": 1}
    assert {"python", "httpx", "httpcore", "httpx2", "aiohttp", "httpx-aiohttp", "anyio", "trio", "uvloop", "attrs"} < set(told["versions"])
    assert told["cores"] >= 1
