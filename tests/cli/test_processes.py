"""``sms4sats`` as it is installed: a process of its own, with real HTTP, real signals and a real terminal."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sms4sats_async.cli import ends
from sms4sats_async.sandbox import Sandbox, Timeline
from tests.cli.running import (
    BACKENDS,
    KEY,
    PROGRAM,
    TIMEOUT,
    Done,
    Faults,
    Service,
    environment,
    finish,
    in_terminal,
    plain,
    serving,
    start,
    until,
)

pytestmark = pytest.mark.real_time

AT_ONCE = 8
TYPICAL = Timeline(paid_after=20, number_after=8, code_after=45, sent_after=3)
FAST = 30.0
ORDER = "5f" * 32


def sandbox(timeline: Timeline = TYPICAL, speed: float = FAST) -> Sandbox:
    return Sandbox(timeline=timeline, speed=speed, accounts={KEY: 100_000})


def interrupted(words: str, *arguments: str, by: signal.Signals = signal.SIGINT, after: float = 0.0) -> Done:
    """Run until it has said this, and ``after`` seconds longer, then interrupt it."""
    process = start(*arguments)
    told = until(process, words)
    if after:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(after)
    process.send_signal(by)
    return finish(process, told)


SILENT: Faults = {"/orderstatus": None, "/cancelorder": None}
BUSY: Faults = {"/getCountries": (429, {"Retry-After": "0"}, b"{}")}


def _runs(service: Service) -> dict[str, Callable[[], Done]]:
    """One run for each end, by its name."""

    def ran(*arguments: str) -> Callable[[], Done]:
        return lambda: finish(start(*arguments))

    at = service.at
    receive = ("receive", "187", "tg", "--base-url")
    refuses = Sandbox()
    base = at("refuses", refuses)
    return {
        "13 unresolved": ran(*receive, at("unresolved", faults=SILENT), "--timeout", "1"),
        "0 code": ran(*receive, at("code", sandbox())),
        "0 trio": ran(*receive, at("trio", sandbox()), "--backend", BACKENDS[-1], "--json", "--pay-with", "sh -c 'sleep 5'"),
        "0 prepaid": ran(*receive, at("prepaid", sandbox()), "--prepaid"),
        "0 rent": ran("rent", "Newzealand", "--base-url", at("rent", sandbox())),
        "0 send": ran("send", "+12025550143", "see you at eight", "--base-url", at("send", sandbox())),
        "0 fund": ran("fund", "5000", "--base-url", at("fund", sandbox())),
        "0 countries": ran("countries", "--base-url", at("lists")),
        "0 services": ran("services", "0", "--base-url", f"{service.url}/lists"),
        "0 rentals": ran("rentals", "--base-url", f"{service.url}/lists"),
        "0 price": ran("price", "us", "Telegram", "--base-url", f"{service.url}/lists"),
        "0 balance": ran("balance", "--base-url", f"{service.url}/lists"),
        "0 history": ran("history", "--base-url", f"{service.url}/lists"),
        "2 near miss": ran(*receive[:2], "telegrm", "--base-url", f"{service.url}/lists", "--json"),
        "2 no such command": ran("recieve"),
        "3 no": ran("status", ORDER, "--base-url", f"{service.url}/lists", "--json"),
        "4 key": ran("balance", "--base-url", at("key", Sandbox())),
        "5 too many": ran("countries", "--base-url", at("busy", faults=BUSY), "--json"),
        "6 hangs up": ran("countries", "--base-url", at("gone", faults={"/getCountries": None})),
        "7 unknown": ran(*receive, at("lost", faults={"/createorder": None}), "--prepaid"),
        "8 nonsense": ran("price", "187", "tg", "--base-url", at("odd", faults={"/price": (200, {}, b"[]")})),
        "9 journal": ran(*receive, f"{service.url}/lists", "--journal", "/dev/null"),
        "11 failed": ran(*receive, at("failed", sandbox(Timeline(paid_after=20, no_number_after=20)))),
        "12 expired": ran(*receive, at("expired"), "--timeout", "1", "--pay-with", "true"),
        "14 cancelled": lambda: interrupted("pay", *receive, at("cancelled", Sandbox(speed=300)), after=0.6),
        "15 refused": lambda: _refused(base),
        "16 not sent": ran("send", "+12025550143", "hello", "--base-url", at("unsent", sandbox(Timeline(paid_after=20, failed_after=20)))),
        "17 too dear": ran(*receive, at("dear"), "--max-sats", "1000"),
        "18 no payment": ran(*receive, at("unpaid"), "--pay-with", "sh -c 'echo no route; exit 7' {}"),
        "18 and cancelled": ran(*receive, at("returned", Sandbox(speed=300)), "--pay-with", "sh -c 'echo no route; exit 7'", "--json"),
        "0 paid with": ran(*receive, at("paid-with", sandbox()), "--pay-with", "sh -c 'sleep 60'"),
        "18 no payment for an SMS": ran("send", "+12025550143", "hello", "--base-url", at("unpaid-sms"), "--pay-with", "false"),
        "0 wallet left alone": lambda: interrupted("wallet", *receive, at("alone", sandbox()), "--pay-with", "sh -c 'sleep 60'"),
        "130 open": lambda: interrupted("pay", *receive, at("open"), "--json"),
        "130 sigterm": lambda: interrupted("pay", *receive, at("terminated"), by=signal.SIGTERM),
        "130 rental": lambda: interrupted("pay", "rent", "187", "--base-url", at("rental")),
        "130 watched": lambda: _watched(base),
    }


def _refused(base: str) -> Done:
    """Order, leave at once, and cancel too early."""
    left = interrupted("pay", "receive", "187", "tg", "--base-url", base)
    order = re.search("^order +([0-9a-f]{64})$", left.err, re.MULTILINE)
    assert order is not None
    return finish(start("cancel", order[1], "--base-url", base))


def _watched(base: str) -> Done:
    """Order, leave at once, resume as advised, and leave again."""
    left = interrupted("pay", "receive", "187", "tg", "--base-url", base)
    resume = re.search(f"^resume +sms4sats (watch --base-url {base} [0-9a-f]{{64}})$", left.err, re.MULTILINE)
    assert resume is not None
    process = start(*resume[1].split())
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.5)
    process.send_signal(signal.SIGINT)
    return finish(process)


def _all_ended(service: Service) -> dict[str, Done]:
    """All ends, worked out side by side: most of their time is waiting."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        under_way = {name: pool.submit(work) for name, work in _runs(service).items()}
        return {name: one.result() for name, one in under_way.items()}


def test_every_end_of_every_command() -> None:
    """One test, because it takes a minute of waiting: all that is to be seen is looked for in one run of each."""
    with serving() as service:
        ended = _all_ended(service)
    for look in ENDED:
        look(ended, service)


def _each_end_has_its_exit_code(ended: dict[str, Done], service: Service) -> None:
    wrong = {name: done for name, done in ended.items() if done.code != int(name.split()[0])}
    assert not wrong


def _each_exit_code_of_the_documents_is_seen(ended: dict[str, Done], service: Service) -> None:
    assert {done.code for done in ended.values()} | {ends.FAULT} == {code for code, _ in ends.table()}  # 1 has tests of its own


def _standard_output_has_the_answer_alone_and_nothing_after_a_failure(ended: dict[str, Done], service: Service) -> None:
    for name in ("0 code", "0 prepaid", "0 rent", "0 paid with"):
        assert re.fullmatch("[0-9]{6}\n", ended[name].out), name
    assert (ended["0 send"].out, ended["0 fund"].out, ended["0 balance"].out) == ("sent\n", "paid\n", "100000\n")
    assert "187\tUSA\n" in ended["0 countries"].out
    assert re.search("^tg\tTelegram\t[0-9]+$", ended["0 services"].out, re.MULTILINE)
    assert "43\tGermany\t2\t6120\n" in ended["0 rentals"].out
    assert "Telegram, USA\t1500\n" in ended["0 price"].out
    assert ended["0 history"].out == ""
    for name, done in ended.items():
        assert done.code == 0 or done.out == "" or done.document["error"]["exit_code"] == done.code, name


def _no_process_shows_a_traceback_a_colour_or_the_key(ended: dict[str, Done], service: Service) -> None:
    for name, done in ended.items():
        assert "Traceback" not in done.err, name
        assert "\x1b" not in done.out + done.err, name
        assert KEY not in done.out + done.err, name


def _json_tells_of_the_answer_and_of_a_failure(ended: dict[str, Done], service: Service) -> None:
    received = ended["0 trio"].document
    assert re.fullmatch("[0-9]{6}", received["code"])
    assert (received["paid"], received["order"]["kind"], received["order"]["country"]) == (True, "receive", 187)
    assert ended["2 near miss"].document["error"]["suggestions"] == ["Telegram (tg)"]
    said_no = ended["3 no"].document["error"]
    assert (said_no["type"], said_no["reason"], said_no["status_code"]) == ("APIError", "order not found", 500)
    assert ended["5 too many"].document["error"]["retry_after"] == 0
    left = ended["130 open"].document["error"]
    assert left["resume"] == f"sms4sats watch --base-url {service.url}/open {left['order_id']}"


def _ctrl_c_asks_the_service_to_cancel_and_tells_what_came_of_it(ended: dict[str, Done], service: Service) -> None:
    assert service.calls("cancelled")[-2:] == ["/createorder", "/cancelorder"]
    assert "is cancelled; it was not paid" in ended["14 cancelled"].err
    assert "order can be canceled after 2 minutes" in ended["130 open"].err
    for name, end in (("open", "130 open"), ("terminated", "130 sigterm")):
        assert service.calls(name)[-2:] == ["/createorder", "/cancelorder"]
        order_id = next(iter(service.sandboxes[name].orders))
        assert f"resume    sms4sats watch --base-url {service.url}/{name} {order_id}\n" in ended[end].err
    assert service.calls("rental")[-1] == "/createorder"
    assert "there is no cancel for a rental" in ended["130 rental"].err
    assert "resume    sms4sats watch --kind rental --base-url" in ended["130 rental"].err


def _watching_leaves_the_order_alone(ended: dict[str, Done], service: Service) -> None:
    assert "was not asked to cancel it" in ended["130 watched"].err
    asked = service.calls("refuses")
    assert asked.count("/createorder") == 2
    assert asked.count("/cancelorder") == 3  # both orders when they were left, and the command cancel


def _what_the_command_that_pays_says_is_told(ended: dict[str, Done], service: Service) -> None:
    failed = ended["18 no payment"].err
    assert re.search(
        "^error +the payment failed: sh ended with 7: no route; order .* goes on: .* 2 minutes; it is not paid", failed, re.MULTILINE
    )
    assert re.search("^resume +sms4sats watch ", failed, re.MULTILINE)
    assert service.calls("unpaid")[-1] == service.calls("returned")[-1] == "/cancelorder"
    returned = ended["18 and cancelled"].document["error"]
    assert (returned["type"], returned["cancelled"], returned["resume"]) == ("PaymentFailed", True, None)
    assert re.match("the payment failed: sh ended with 7: no route; order .* is cancelled$", returned["message"])
    assert service.calls("unpaid-sms") == ["/createsendorder"]
    assert re.search("^wallet    true has ended; the payment is not seen yet\ninvoice   lnbc", ended["12 expired"].err, re.MULTILINE)
    for name in ("0 paid with", "0 wallet left alone"):
        assert "wallet    waiting for sh to end, 10 s at the most\n" in ended[name].err, name


def _the_key_goes_only_with_calls_that_need_it(ended: dict[str, Done], service: Service) -> None:
    keyed = {call.path for sandbox in service.sandboxes.values() for call in sandbox.calls if call.had_key}
    assert keyed == {"/balance", "/history", "/fund", "/createorder"}
    assert not any(call.had_key for call in service.sandboxes["code"].calls)
    assert "prepaid balance" in ended["0 prepaid"].err


ENDED = [
    _each_end_has_its_exit_code,
    _each_exit_code_of_the_documents_is_seen,
    _standard_output_has_the_answer_alone_and_nothing_after_a_failure,
    _no_process_shows_a_traceback_a_colour_or_the_key,
    _json_tells_of_the_answer_and_of_a_failure,
    _ctrl_c_asks_the_service_to_cancel_and_tells_what_came_of_it,
    _watching_leaves_the_order_alone,
    _what_the_command_that_pays_says_is_told,
    _the_key_goes_only_with_calls_that_need_it,
]


# --- a terminal --------------------------------------------------------------------------------------------------------------------


def test_a_terminal_as_a_person_sees_it() -> None:
    receive = ("receive", "187", "tg", "--sandbox")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = {
            "80": pool.submit(in_terminal, 80, 40, *receive),
            "40": pool.submit(in_terminal, 40, 40, *receive),
            "no colour": pool.submit(in_terminal, 80, 40, *receive, NO_COLOR="1"),
            "dumb": pool.submit(in_terminal, 80, 40, *receive, TERM="dumb"),
            "failure": pool.submit(in_terminal, 80, 40, "countries", "--base-url", "http://127.0.0.1:1"),
            "list": pool.submit(in_terminal, 40, 40, "services", "187", "--sandbox"),
        }
        seen = {name: one.result() for name, one in runs.items()}
    for look in SEEN:
        look(seen)


def lines_of(done: Done) -> list[str]:
    """What stood in each line of the terminal, one after another."""
    return [plain(line) for line in re.split(r"\r*\n|\r|\x1b\[[0-9]*[AK]", done.out)]


def _the_invoice_the_number_and_the_code_are_shown(seen: dict[str, Done]) -> None:
    for name in ("80", "40", "no colour", "dumb"):
        shown = "\n".join(lines_of(seen[name]))
        assert seen[name].code == 0
        for line in ("country   USA (187)", "price     1,500 sat", "paid      held until the code comes"):
            assert line in shown
        assert re.search(r"^number    \+1 202-555-[0-9]{4}  \+1202555[0-9]{4}$", shown, re.MULTILINE)
        assert re.search(r"^[0-9]{6}$" if name == "dumb" else r"^code      [0-9]{6}$", shown, re.MULTILINE)
        assert "lnbc15u1" in shown


def _a_qr_code_is_shown_where_it_fits(seen: dict[str, Done]) -> None:
    assert {name for name, done in seen.items() if "▀▄" in done.out} == {"80", "no colour"}


def _the_hold_window_and_the_pace_are_shown_while_waiting(seen: dict[str, Done]) -> None:
    for name in ("80", "40", "no colour"):
        shown = plain(seen[name].out)
        assert re.search(r"━[━╸╺ ]+ 1:4[0-9] left", shown)
        assert re.search(r"waiting for the code(, | +\n  )asking every 1 s", shown)
        assert seen[name].out.count("\x1b[?25l") == seen[name].out.count("\x1b[?25h") > 0  # the cursor is given back


def _no_line_of_words_is_wider_than_the_terminal(seen: dict[str, Done]) -> None:
    for name in ("40", "list"):
        assert not [line for line in lines_of(seen[name]) if len(line) > 40 and not re.match("(order|invoice) ", line)]


def _no_color_leaves_no_colour(seen: dict[str, Done]) -> None:
    colours = r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|4[0-9]|9[0-7])(?:;[0-9]+)*m"
    assert re.search(colours, seen["80"].out)
    assert not re.search(colours, seen["no colour"].out)
    assert "\x1b" not in seen["dumb"].out


def _a_failure_is_a_line(seen: dict[str, Done]) -> None:
    assert seen["failure"].code == 6
    assert "error     GET /getCountries" in plain(seen["failure"].out)


SEEN = [
    _the_invoice_the_number_and_the_code_are_shown,
    _a_qr_code_is_shown_where_it_fits,
    _the_hold_window_and_the_pace_are_shown_while_waiting,
    _no_line_of_words_is_wider_than_the_terminal,
    _no_color_leaves_no_colour,
    _a_failure_is_a_line,
]


# --- what is not the service's fault -----------------------------------------------------------------------------------------------


def shell(line: str, **more: str) -> Done:
    command = ["/bin/bash", "-c", f"set -o pipefail; {line}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment(PROGRAM=PROGRAM, **more))
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_answer_can_be_caught_in_a_variable() -> None:
    done = shell('code=$("$PROGRAM" receive 187 tg --sandbox 2>/dev/null) && echo "<$code>"')
    assert re.fullmatch("<[0-9]{6}>\n", done.out)


def test_an_answer_is_not_lost_with_standard_output() -> None:
    done = shell('"$PROGRAM" balance --sandbox >/dev/full')
    assert (done.code, done.err) == (1, "answer    100000 (standard output: No space left on device)\n")
    closed = shell('"$PROGRAM" balance --sandbox >&-')
    assert (closed.code, closed.err) == (1, "standard output is closed\n")
    mute = shell('"$PROGRAM" balance --sandbox 2>&-')
    assert (mute.code, mute.out) == (0, "100000\n")


def test_a_code_is_not_lost_with_standard_error() -> None:
    lines = [f'"$PROGRAM" receive 187 tg --sandbox 2> {place}' for place in (">(head -n 2 >/dev/null)", "/dev/full")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in pool.map(shell, lines):
            assert done.code == 0
            assert re.fullmatch("[0-9]{6}\n", done.out)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_window_that_is_closed_cancels_the_order_unless_nohup_says_otherwise(ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)  # a process begins with what is ignored here
    try:
        with serving() as service:
            process = start("receive", "187", "tg", "--base-url", service.at("left", Sandbox(speed=300)))
            told = until(process, "pay")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.6)
            process.send_signal(signal.SIGHUP)
            if ignored:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.6)
                assert "/cancelorder" not in service.calls("left")
                process.send_signal(signal.SIGTERM)
            done = finish(process, told)
            assert (done.code, service.calls("left")[-1]) == (14, "/cancelorder")
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("arguments", "code"), [("countries --base-url http://127.0.0.1:1", 6), ("recieve", 2)])
def test_a_failure_keeps_its_exit_code_though_its_document_cannot_be_written(arguments: str, code: int) -> None:
    done = shell(f'"$PROGRAM" {arguments} --json >/dev/full')
    assert done.code == code
    assert "Traceback" not in done.err
    assert "Error: " in done.err or "error     GET /getCountries" in done.err


def test_a_list_that_is_cut_off_is_no_mishap() -> None:
    done = shell('"$PROGRAM" countries --sandbox | head -n 1')
    assert (done.out, done.err) == ("0\tRussia\n", "")
    full = shell('"$PROGRAM" countries --sandbox >/dev/full')
    assert (full.code, full.err) == (1, "")


def test_completion_is_clicks_own() -> None:
    done = shell('"$PROGRAM"', _SMS4SATS_COMPLETE="bash_complete", COMP_WORDS="sms4sats rec", COMP_CWORD="1")
    assert done.out == "plain,receive\nplain,reconcile\n"


def test_the_demo_is_the_one_of_the_module_and_can_be_interrupted() -> None:
    process = start("demo")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("price "):
        pass
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert (done.code, done.out.splitlines()[-1]) == (130, "stopped")
    assert "Traceback" not in done.err


def test_the_sandbox_is_the_one_of_the_module() -> None:
    process = start("sandbox", "--port", "0", "--speed", "100")
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    countries = finish(start("countries", "--base-url", url, "--json"))
    assert {"id": 0, "name": "Russia"} in countries.document["countries"]
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert (done.code, done.err) == (0, "")


def test_ctrl_c_while_it_starts_is_told() -> None:
    finder = "type('Finder', (), {'find_spec': lambda name, *_: signal.raise_signal(signal.SIGINT) if name == 'segno' else None})"
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have begun us without it\n"
    program += f"sys.meta_path.insert(0, {finder}); from sms4sats_async.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("missing", ["click", "rich", "segno", "phonenumbers"])
def test_without_the_extra_it_says_how_to_get_it(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from sms4sats_async.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sms4sats needs {missing}: pip install 'sms4sats-async[cli]'\n"


def test_a_json_document_is_one_line() -> None:
    done = finish(start("balance", "--sandbox", "--json"))
    assert json.loads(done.out) == {"balance_sats": 100_000}
    assert done.out.count("\n") == 1
