"""What is measured as the orders grow, each for a few orders and a short time: it runs, and counts what it says."""

import asyncio
import json
import time
from typing import Any

import pytest

from benchmarks import scale
from benchmarks._code_server import Service, code_at, moment_of
from benchmarks._contenders import AIOHTTP
from benchmarks.scale import (
    BATCH,
    SINGLE,
    WATCHERS,
    HastyLoop,
    Memory,
    Setup,
    Window,
    busy_windows,
    cpu_ratios,
    delays,
    lateness,
    memory,
    memory_per_order,
    paced_windows,
    ratios,
)

pytestmark = pytest.mark.real_time


@pytest.mark.unmeasured
def test_ratios_of_cpu_time_for_each_way_to_watch() -> None:
    for kind in ("batch", "single"):
        found = cpu_ratios(kind, few=5, many=20, rounds=2)
        assert len(found) == 2
        assert all(ratio > 0 for ratio in found)


def test_a_busy_process_is_polled_far_more_often_than_an_interval_of_one_second_allows() -> None:
    (windows,) = busy_windows([Setup.busy(BATCH, 10)], rounds=2, seconds=0.3)
    assert all(window.seconds > 0.25 for window in windows)
    assert all(window.polls > 50 * window.seconds for window in windows)


@pytest.mark.unmeasured
def test_paced_polls_are_as_many_for_all() -> None:
    taken = paced_windows([Setup(name, 20, 1.0, evenly=True) for name in WATCHERS], rounds=1, seconds=1.5)
    for (window,) in taken:
        assert 10 <= window.polls <= 40  # 30 are due, give or take what a busy machine moves into the next window
        assert (window.failures, window.cpu_us > 0) == (0, True)


@pytest.mark.parametrize(("name", "transport"), [(BATCH, "lanes"), (SINGLE, "aiohttp"), (AIOHTTP, "none")])
def test_every_code_arrives_after_it_was_there(name: str, transport: str) -> None:
    found = delays(name, 20, 0.2, interval=1.0, transport=transport)
    assert (len(found["delays"]), found["codes"], found["failures"]) == (2, 2, {})
    assert found["delays"][0] > 0


@pytest.mark.unmeasured
def test_memory_is_told_per_order_and_by_the_lines_that_took_it() -> None:
    found = memory(BATCH, 1_000)  # so many that what is allocated once is of no weight
    assert 100 < found.traced < 100_000
    assert sum(found.lines.values()) == pytest.approx(found.traced, rel=0.2)
    assert any(line.startswith("sms4sats_async/") for line in found.lines)


@pytest.mark.unmeasured
def test_memory_of_a_batch_is_told_by_itself() -> None:
    assert 100 < memory_per_order(200) < 100_000


def test_lateness_is_looked_at_while_every_order_is_polled() -> None:
    found = lateness(20, 1.5, interval=1.0)
    assert found["looks at it"] > 10
    assert 0 <= found["behind, s: median"] <= found["behind, s: at most"]
    assert found["gap at the server, s: at most"] > 0.9
    assert found["polls per s"] > 5
    assert found["orders lost"] == 0


def test_the_server_shows_a_code_from_its_time_on_and_measures_gaps() -> None:
    service = Service()
    past, future = code_at(1.0, 0), code_at(1e12, 1)
    assert (moment_of(past), moment_of(future)) == (1.0, 1e12)
    for order_id, shown in ((past, True), (future, False), ("order-1", False), ("order-1", False)):
        assert (b'"code"' in service.reply(f"/orderstatus?orderId={order_id}")) is shown
    assert service.reply("/_seen").endswith(b"\r\n4")
    assert service.reply("/_orders").endswith(b"\r\n3")
    assert float(service.reply("/_gap").split()[-1]) > 0
    assert float(service.reply("/_gap").split()[-1]) == 0
    with pytest.raises(ValueError, match="no such figure"):
        service.reply("/_nonsense")


def test_who_is_silent_for_too_long_is_given_up() -> None:
    with scale._started("windows", Setup.busy(BATCH, 5), argument=True, patience=0.0) as started:
        assert started.hear() is None
        started.ask_for_windows(1, 0.1)
        assert scale._windows(started, 0.1) == []


def test_a_ratio_needs_polls_on_both_sides() -> None:
    some, more, none = Window(1.0, 10, 100.0, 0), Window(1.0, 10, 150.0, 0), Window(1.0, 0, 5.0, 3)
    assert ratios([more, more, none], [some, none, some]) == [1.5]


def test_a_hasty_loop_waits_for_a_part_of_the_time() -> None:
    with asyncio.Runner(loop_factory=lambda: HastyLoop(100.0)) as runner:
        began = time.monotonic()
        runner.run(asyncio.sleep(10.0))
        assert 0.1 <= time.monotonic() - began < 5


@pytest.mark.parametrize("only", ["cpu", "memory", "lateness", "delay"])
@pytest.mark.parametrize("as_json", [False, True])
def test_it_prints_a_table_and_a_line_of_json(
    only: str, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes: dict[str, Any] = {
        "busy_windows": lambda setups, rounds: [[Window(0.4, 10, 300.0, 0)] * rounds for _ in setups],
        "paced_windows": lambda setups, rounds: [[Window(4.0, 10, 400.0, 1)] * rounds for _ in setups],
        "memory": lambda *_, **__: Memory(1500.0, 1700.0, {"here.py:1": 1000.0}),
        "lateness": lambda *_, **__: {"behind, s: at most": 0.5},
        "delays": lambda *_, **__: {"interval": 2.0, "codes": 2, "delays": [0.1, 0.2], "failures": {"ReadError": 1}},
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(scale, name, fake)
    monkeypatch.setattr("sys.argv", ["scale", "--orders", "100,1000", "--only", only, *(["--json"] if as_json else [])])
    scale.main()
    *tables, last = capsys.readouterr().out.splitlines()
    assert bool(tables) is not as_json
    found = json.loads(last)
    assert (found["benchmark"], found["options"]["orders"], {name.split(",")[0] for name in found["results"]}) == (
        "scale",
        [100, 1000],
        {only},
    )
