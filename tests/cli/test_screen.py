"""What a person sees, at any width, whatever the service says."""

import errno
import io
import re
from typing import Any, cast

import httpx
import pytest
from rich.console import Console

from sms4sats_async.cli.screen import Screen, View, readable, sats
from sms4sats_async.models import OrderStatus
from sms4sats_async.sandbox import Sandbox, Timeline
from tests.cli.running import KEY, Torn, run

HOSTILE = "evil\x1b]0;owned\x07\x1b[2J[red]x[/red] \u202ename\r\n99999999 free"
CODE = Timeline(paid_after=30, number_after=8, code_after=45, code="004217")


def console(width: int = 80, **options: Any) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, **options)


def drawn(view: View, width: int = 80) -> str:
    shown = console(width)
    shown.print(view.drawn(width))
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_a_terminal_of_any_width_shows_the_whole_of_it(columns: int) -> None:
    done = run("receive", "187", "tg", transport=Sandbox(timeline=CODE).transport(), columns=columns)
    assert done.out == "004217\n"
    for words in ("country   USA (187)", "lnbc15u1", "paid      held until", "+1 202-555-", "+1202555"):
        assert words in done.err
    assert ("▀▄" in done.err) is (columns == 80)
    assert ("qr        this terminal is too" in done.err) is (columns != 80)
    assert done.err.endswith("code      ")


@pytest.mark.parametrize("columns", [None, 80])
@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.ENOSPC, "No space left on device")])
def test_an_order_goes_on_though_nobody_can_be_told_of_it(error: OSError, columns: int | None) -> None:
    whole = len(run("receive", "187", "tg", transport=Sandbox(timeline=CODE).transport()).err.splitlines())
    assert whole == 9
    for lines in range(whole):
        sandbox = Sandbox(timeline=CODE)
        err = Torn(lines, error, terminal=columns is not None)
        done = run("receive", "187", "tg", transport=sandbox.transport(), columns=columns, err=err)
        assert (done.code, done.out) == (0, "004217\n"), lines
        assert err.failed
        assert not [call for call in sandbox.calls if call.path == "/cancelorder"]


def test_a_failure_ends_as_it_would_though_nobody_can_be_told_of_it() -> None:
    for arguments, code in ((["status", "ab" * 32], 3), (["nonsense"], 2)):
        err = Torn(0, BrokenPipeError(), terminal=False)
        assert run(*arguments, transport=Sandbox().transport(), err=err).code == code
        assert err.failed


def test_a_qr_code_is_shown_whole_and_last_or_it_is_told_what_it_needs() -> None:
    told = run("receive", "187", "tg", transport=Sandbox(timeline=CODE).transport(), columns=80, rows=24).err
    assert "▀▄" not in told
    needed = re.search(": ([0-9]+) rows and ([0-9]+) columns are needed", re.sub("\n +", " ", told))
    assert needed is not None
    rows, columns = map(int, needed.groups())
    for width, height, fits in ((columns, rows, True), (columns - 1, rows, False), (columns, rows - 1, False)):
        shown = run("receive", "187", "tg", transport=Sandbox(timeline=CODE).transport(), columns=width, rows=height).err
        assert ("▀▄" in shown) is fits
    before, _, after = run("receive", "187", "tg", transport=Sandbox(timeline=CODE).transport(), columns=80).err.partition("█▀▀▀▀▀█")
    assert "pay       with any" in before
    assert "pay       " not in after


def test_a_qr_code_is_white_on_black_whatever_the_colours_of_the_terminal() -> None:
    shown = console(90, height=60)
    coloured = Console(file=shown.file, force_terminal=True, width=90, height=60, color_system="standard")
    Screen(coloured).qr("lnbc1" + "q" * 60)
    lines = cast("io.StringIO", shown.file).getvalue().splitlines()
    assert all(line.startswith("\x1b[97;40m") and line.endswith("\x1b[0m") for line in lines)


def test_a_terminal_that_is_too_narrow_for_both_ways_to_write_a_number_has_two_lines() -> None:
    shown = Screen(console(36))
    shown.number("+491512746224")
    assert cast("io.StringIO", shown._console.file).getvalue() == "number    +49 1512746224\n          +491512746224\n"


@pytest.mark.parametrize("columns", [None, 80, 40])
def test_what_the_service_says_cannot_steer_the_terminal_or_forge_a_line(columns: int | None) -> None:
    sandbox = Sandbox(timeline=CODE, countries={187: HOSTILE}, services={"tg": HOSTILE}, accounts={KEY: 1})
    for command in (["receive", "187", "tg"], ["countries"], ["services", "187"], ["rentals"], ["price", "187", "tg"]):
        done = run(*command, transport=sandbox.transport(), columns=columns)
        assert done.code == 0
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", (done.out + done.err).replace("\t", "")), command
        assert not re.search("^99999999", done.out + done.err, re.MULTILINE)
        assert not re.search(r"\x1b(\]|\[2J|\[31m)", done.raw)


def test_a_hostile_code_and_a_hostile_no_are_shown_harmless_to_a_person_and_whole_to_a_program() -> None:
    sandbox = Sandbox(timeline=Timeline(paid_after=1, code_after=1, code="a\x1b[2Jb"))
    assert run("receive", "187", "tg", transport=sandbox.transport()).out == "a\x1b[2Jb\n"
    sandbox = Sandbox(timeline=Timeline(paid_after=1, code_after=1, code="a\x1b[2Jb"))
    assert run("receive", "187", "tg", transport=sandbox.transport(), columns=80).out == "a\\x1b[2Jb\n"

    class Refuses(httpx.AsyncBaseTransport):
        async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
            return httpx.Response(500, json={"status": "error", "reason": HOSTILE})

    done = run("countries", transport=Refuses())
    assert done.code == 3
    assert not re.search("[\x00-\x09\x0b-\x1f]", done.err)


def test_wide_names_keep_within_the_terminal() -> None:
    sandbox = Sandbox(countries={1: "中华人民共和国" * 6, 2: "Short"}, services={"tg": "📱" * 40})
    for command in (["countries"], ["services", "1"]):
        shown = run(*command, transport=sandbox.transport(), columns=40)
        assert shown.code == 0
        assert all(Console().measure(line).maximum <= 40 for line in shown.out.splitlines())


def test_json_in_a_terminal_is_readable_and_elsewhere_plain_ascii() -> None:
    sandbox = Sandbox(countries={1: "Côte d'Ivoire"})
    assert "Côte" in run("countries", "--json", transport=sandbox.transport(), columns=80).out
    assert "C\\u00f4te" in run("countries", "--json", transport=sandbox.transport()).out


def test_a_terminal_without_unicode_gets_no_qr_code() -> None:
    class Latin(io.StringIO):
        encoding = "latin-1"

    paper = Latin()
    Screen(Console(file=paper, force_terminal=True, width=80)).qr("lnbc1" + "q" * 60)
    assert paper.getvalue() == ""


def test_the_view_tells_what_is_waited_for_how_long_and_how_often() -> None:
    now = 1000.0
    view = View(clock=lambda: now)
    assert "waiting for the service\n" in re.sub(" +\n", "\n", drawn(view))
    view.waiting_for, view.counts = "the payment", True
    assert view.pace(OrderStatus("ab", paid=False), 0.0) == 2.0
    assert "waiting for the payment, asking every 2 s" in drawn(view)
    assert "left" not in drawn(view)
    now += 30
    view.pace(OrderStatus("ab", paid=True), 70.0)
    assert "19:50 left" in drawn(view)
    now += 100
    assert "no answer for 1:40" in drawn(view)
    now += 5000
    assert "0:00 left" in drawn(view)
    assert all(len(line) <= 40 for line in drawn(view, 40).splitlines())


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("+12025550143", "+1 202-555-0143"),
        ("+79161234567", "+7 916 123-45-67"),
        ("+447400123456", "+44 7400 123456"),
        ("+999123", "+999123"),
        ("hidden", "hidden"),
    ],
)
def test_a_number_is_written_as_it_is_where_it_is_used(number: str, shown: str) -> None:
    assert readable(number) == shown


def test_an_amount_is_written_for_reading() -> None:
    assert (sats(1500), sats(0), sats(None)) == ("1,500 sat", "0 sat", "unknown")
