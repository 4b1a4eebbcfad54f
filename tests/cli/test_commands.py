"""What each command asks the service, answers, and says beside the answer: in this process, in virtual time."""

import json
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from click.testing import CliRunner

import sms4sats_async
from sms4sats_async.cli import ends
from sms4sats_async.cli.commands import cli, main
from sms4sats_async.cli.ends import Interrupted
from sms4sats_async.cli.finding import NotFound
from sms4sats_async.cli.screen import Screen
from sms4sats_async.cli.session import Surroundings
from sms4sats_async.errors import OrderError, OutcomeUnknown, RateLimited, Sms4SatsError
from sms4sats_async.models import Order
from sms4sats_async.sandbox import Sandbox, Timeline
from tests.cli.picture import PICTURE
from tests.cli.running import BACKENDS, KEY, Struck, run
from tests.virtual_time import VirtualTimeLoop

TYPICAL = Timeline(paid_after=30, number_after=8, code_after=45, sent_after=3, delivered_after=600, code="004217")
COMMANDS: dict[str, list[str]] = {
    "countries": [],
    "services": ["0"],
    "rentals": ["--service", "tg"],
    "price": ["us", "telegram"],
    "receive": ["187", "tg"],
    "rent": ["nz", "tg"],
    "send": ["+1 (202) 555-0143", "see you at eight"],
    "fund": ["5000"],
    "balance": [],
    "history": [],
}

backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMS4SATS_API_KEY", KEY)


def service(timeline: Timeline | None = TYPICAL, **options: Any) -> Sandbox:
    return Sandbox(timeline=timeline, accounts={KEY: 100_000}, **options)


def paths(sandbox: Sandbox) -> list[str]:
    """What was asked for, without the looks."""
    return [call.path for call in sandbox.calls if call.path != "/orderstatus"]


class Answers(httpx.AsyncBaseTransport):
    """Answers some paths in its own way, and leaves the others to a sandbox."""

    def __init__(self, sandbox: Sandbox, **replies: Any) -> None:
        self._inner = sandbox.transport()
        self._replies = replies

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        reply = self._replies.get(request.url.path.strip("/"))
        return await self._inner.handle_async_request(request) if reply is None else httpx.Response(200, json=reply)


# --- answers -----------------------------------------------------------------------------------------------------------------------


@backends
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_answers_for_people_and_in_json(command: str, backend: str) -> None:
    for form in ([], ["--json"]):
        done = run(command, *COMMANDS[command], *form, transport=service().transport(), backend=backend)
        assert done.code == 0, done.err
        if form:
            assert isinstance(done.document, dict)


def test_the_documents_have_these_very_fields() -> None:
    order = {"version", "id", "kind", "payreq", "prepaid", "amount_sats", "created_at", "country", "service"}
    told = {"paid", "number", "code", "code_was_number", "sms_status", "error", "country", "service", "timestamp"}
    fields = {
        "countries": {"countries"},
        "services": {"country", "services"},
        "rentals": {"service", "rentals"},
        "price": {"country", "service", "sats", "rent_sats", "send_sats", "s4s_sats"},
        **{command: {"order", *told} for command in ("receive", "rent", "send", "fund")},
        "balance": {"balance_sats"},
        "history": {"total_sats", "fundings"},
    }
    for command, arguments in COMMANDS.items():
        document = run(command, *arguments, "--json", transport=service().transport()).document
        assert set(document) == fields[command]
        assert "order" not in document or set(document["order"]) == order
    sandbox, order_id = placed()
    assert set(run("status", order_id, "--json", transport=sandbox.transport()).document) == {"order_id", *told}
    cancelled = run("cancel", order_id, "--when-allowed", "--json", transport=sandbox.transport()).document
    assert cancelled == {"order_id": order_id, "cancelled": True}


def placed(timeline: Timeline | None = None, **body: Any) -> tuple[Sandbox, str]:
    """Return a sandbox and the id of the order in it."""
    sandbox = service(timeline)
    path = "/createsendorder" if "phone" in body else "/createorder"

    async def ask() -> str:
        async with httpx.AsyncClient(transport=sandbox.transport(), base_url="http://sandbox") as client:
            return str((await client.post(path, json={"country": 187, "service": "tg"} | body)).json()["orderId"])

    return sandbox, anyio.run(ask, backend_options={"loop_factory": VirtualTimeLoop})


def test_receive_tells_each_thing_once_and_answers_with_the_code_alone() -> None:
    done = run("receive", "usa", "Telegram", transport=service().transport())
    assert done.out == "004217\n"
    lines = [re.split("  +", line, maxsplit=1) for line in done.err.splitlines()]
    assert [label for label, _ in lines] == ["country", "service", "order", "price", "invoice", "pay", "paid", "number", "code"]
    told = dict(lines)
    assert (told["country"], told["service"], told["price"]) == ("USA (187)", "Telegram (tg)", "1,500 sat")
    assert re.fullmatch(r"\+1 202-555-[0-9]{4}  \+1202555[0-9]{4}", told["number"])


def test_country_0_and_the_choice_of_the_service_are_countries() -> None:
    for asked, sent in (("0", 0), ("russia", 0), ("999", 999), ("auto", 999), ("Auto-Select", 999)):
        sandbox = service()
        assert run("receive", asked, "tg", transport=sandbox.transport()).code == 0
        bodies = [call.body for call in sandbox.calls if call.path == "/createorder"]
        assert [body and body["country"] for body in bodies] == [sent]


def test_what_is_not_in_the_lists_is_not_ordered() -> None:
    for arguments, words in ((("germny", "tg"), "Germany (43)"), (("187", "telegrm"), "Telegram (tg)")):
        for command in ("receive", "rent", "price"):
            sandbox = service()
            done = run(command, *arguments, transport=sandbox.transport())
            assert (done.code, done.out) == (2, "")
            assert f"did you mean {words}?" in done.err
            assert "/createorder" not in paths(sandbox)


def test_max_sats_and_prepaid_reach_the_service_as_the_client_has_them() -> None:
    sandbox = service()
    assert run("receive", "187", "tg", "--prepaid", "--max-sats", "1499", transport=sandbox.transport()).code == 17
    assert "/createorder" not in paths(sandbox)
    done = run("receive", "187", "tg", "--prepaid", "--max-sats", "1500", transport=sandbox.transport())
    assert (done.out, sandbox.balance(KEY)) == ("004217\n", 98_500)
    assert "invoice" not in done.err


def test_the_sandbox_needs_no_key_no_network_and_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMS4SATS_API_KEY")
    for command, arguments in COMMANDS.items():
        assert run(command, *arguments, "--sandbox").code == 0
    assert run("receive", "187", "tg", "--sandbox", "--prepaid").code == 0
    assert "this is the sandbox" in run("receive", "187", "tg", "--sandbox").err


def test_the_advice_to_resume_is_the_order_where_it_is() -> None:
    url = "http://127.0.0.1:8000"
    sandbox = service(None)
    done = run("receive", "187", "tg", "--base-url", url, "--json", transport=Struck(sandbox, "/orderstatus", 3))
    advice = done.document["error"]["resume"]
    assert advice == f"sms4sats watch --base-url {url} {next(iter(sandbox.orders))}"
    assert f"resume    {advice}\n" in done.err


def test_an_order_of_a_sandbox_in_memory_cannot_be_gone_on_with() -> None:
    done = run("receive", "187", "tg", "--sandbox", "--timeout", "1", "--json")
    assert (done.code, done.document["error"]["resume"]) == (12, None)
    assert "resume" not in done.err
    assert done.err.endswith("the sandbox ends here, and the order with it\n")
    for command in ("watch", "status", "cancel"):
        refused = run(command, "ab" * 32, "--sandbox")
        assert refused.code == 2
        assert re.search("No such option:? '?--sandbox", refused.err)


def test_a_window_that_ends_cancels_and_tells_what_is_left() -> None:
    sandbox = service(Timeline(paid_after=1))
    done = run("receive", "187", "tg", "--timeout", "300", "--json", transport=sandbox.transport())
    assert (done.code, done.document["error"]["paid"], done.document["error"]["cancelled"]) == (12, True, True)
    assert done.document["error"]["resume"] is None
    assert paths(sandbox)[-1] == "/cancelorder"
    early = run("receive", "187", "tg", "--timeout", "5", transport=service(Timeline(paid_after=1)).transport())
    assert re.search("^resume    sms4sats watch [0-9a-f]{64}$", early.err, re.MULTILINE)
    assert "money     what was paid for it is on its way back\n" in done.err
    assert "money     what was paid for it comes back by itself, 21 minutes after the payment, unless a code comes\n" in early.err
    assert re.search("^cancel    sms4sats cancel --when-allowed [0-9a-f]{64}$", early.err, re.MULTILINE)


def test_what_is_said_of_the_money_is_true_of_the_order() -> None:
    unpaid = run("receive", "187", "tg", "--timeout", "5", transport=service(None).transport())
    assert unpaid.code == 12
    assert not re.search("^money ", unpaid.err, re.MULTILINE)
    unsent = run("send", "+12025550143", "hello", "--timeout", "5", transport=service(Timeline(paid_after=1)).transport())
    assert unsent.code == 12
    assert not re.search("^(money|cancel) ", unsent.err, re.MULTILINE)


def test_a_rental_goes_on_with_each_new_code() -> None:
    sandbox = service(Timeline(paid_after=1, code_after=60, code="1111"))
    assert run("rent", "187", transport=sandbox.transport()).out == "1111\n"
    done = run("rent", "187", "--follow", transport=Struck(sandbox, "/orderstatus", 80))
    assert (done.code, done.out) == (130, "1111\n")
    assert "goes on: there is no cancel for a rental order\n" in done.err


@pytest.mark.parametrize("kind", ["receive", "rental", "send"])
def test_watch_answers_as_the_command_that_placed_it(kind: str) -> None:
    bodies: dict[str, dict[str, Any]] = {"rental": {"isRental": True}, "send": {"phone": "+12025550143", "message": "hello"}}
    sandbox, order_id = placed(TYPICAL, **bodies.get(kind, {}))
    done = run("watch", order_id, "--kind", kind, "--json", transport=sandbox.transport())
    assert done.code == 0
    assert (done.document["code"], done.document["sms_status"]) == ((None, "sent") if kind == "send" else ("004217", None))
    assert done.document["order"]["created_at"] is None


def test_watch_takes_the_kind_of_a_send_order_from_its_status() -> None:
    sandbox, order_id = placed(TYPICAL, phone="+12025550143", message="hello")
    done = run("watch", order_id, "--json", transport=sandbox.transport())
    assert (done.code, done.document["sms_status"], done.document["order"]["kind"]) == (0, "sent", "send")
    sandbox, order_id = placed(Timeline(paid_after=1), phone="+12025550143", message="hello")
    done = run("watch", order_id, "--timeout", "60", transport=sandbox.transport())
    assert (done.code, paths(sandbox)) == (12, ["/createsendorder"])
    left = run("watch", order_id, transport=Struck(sandbox, "/orderstatus", 3, after=True))
    assert (left.code, paths(sandbox)) == (130, ["/createsendorder"])
    assert f"resume    sms4sats watch --kind send {order_id}\n" in left.err


def test_what_is_said_after_a_signal_is_true_at_that_moment() -> None:
    sandbox = service(Timeline(paid_after=1, code_after=60, code="1111"))
    done = run("rent", "187", "--prepaid", "--follow", transport=Struck(sandbox, "/orderstatus", 80))
    assert (done.code, done.out) == (130, "1111\n")
    assert "stopping" not in done.err


def test_status_tells_what_is_known() -> None:
    sandbox, order_id = placed()
    assert run("status", order_id, transport=sandbox.transport()).out == "paid\tno\n"
    sandbox.pay(order_id)
    sandbox.deliver(order_id, "77")
    done = run("status", order_id, transport=sandbox.transport())
    assert re.match("paid\tyes\nnumber\t\\+1202555[0-9]{4}\ncode\t77\ncountry\tUSA\nservice\ttg\ntimestamp\t20", done.out)


def test_history_has_the_payments_and_their_sum() -> None:
    sandbox = service()
    run("fund", "5000", transport=sandbox.transport())
    done = run("history", transport=sandbox.transport())
    assert re.fullmatch("20[0-9T:.+-]+\t5000\tfund account\n", done.out)
    assert done.err == "total     5,000 sat\n"
    row = {"amount": None, "createdAt": None}
    bare = run("history", transport=Answers(sandbox, history={"status": "OK", "orders": [row]}))
    assert bare.out == "\t\t\n"


def test_an_unknown_price_and_an_unknown_count_are_said_to_be_so() -> None:
    done = run("price", "187", "tg", transport=Answers(service(), price={"receive": "1500-2000"}))
    assert "Telegram, USA\tunknown\n" in done.out
    assert run("services", "187", transport=Answers(service(), getnumbersstatus=[{"value": "tg"}])).out == "tg\ttg\t\n"


def test_people_are_told_the_prices_of_what_a_command_can_order() -> None:
    done = run("price", "187", "tg", transport=service().transport())
    assert [line.partition("\t")[0] for line in done.out.splitlines()] == ["a code of Telegram, USA", "a rental", "an SMS sent"]


def test_an_sms_in_a_state_of_its_own_is_told() -> None:
    sandbox = service(Timeline(paid_after=1, sent_after=90))
    done = run("send", "+12025550143", "hello", transport=sandbox.transport())
    assert (done.out, re.findall("^sms +(.*)$", done.err, re.MULTILINE)) == ("sent\n", ["created"])


def test_an_invoice_without_an_amount_and_a_number_that_is_none_are_shown_as_they_are() -> None:
    sandbox = service(Timeline(paid_after=1, code_after=5, code="1"))
    plain = {"status": "OK", "orderId": "ab" * 32, "payreq": "lnbc1" + "q" * 60}
    status = {"status": "OK", "paid": True, "number": "hidden", "code": "55"}
    done = run("receive", "187", "tg", transport=Answers(sandbox, createorder=plain, orderstatus=status))
    assert done.out == "55\n"
    assert "price     the invoice leaves it to the payer\n" in done.err
    assert "number    hidden\n" in done.err


# --- cancelling and leaving --------------------------------------------------------------------------------------------------------


def test_cancel_says_why_not() -> None:
    sandbox, order_id = placed()
    done = run("cancel", order_id, "--json", transport=sandbox.transport())
    assert (done.code, done.document["error"]["reason"]) == (15, "order can be canceled after 2 minutes")
    assert done.document["error"]["resume"] == f"sms4sats watch {order_id}"
    assert run("cancel", order_id, "--when-allowed", transport=sandbox.transport()).out == "cancelled\n"


def test_cancel_answers_when_the_service_has_confirmed() -> None:
    now = 0.0
    sandbox = Sandbox(clock=lambda: now)
    run("receive", "187", "tg", transport=Struck(sandbox, "/orderstatus", 1, after=True))
    now = 200.0
    done = run("cancel", next(iter(sandbox.orders)), transport=sandbox.transport())
    assert (done.code, done.out, done.err) == (0, "cancelled\n", "")


def test_cancel_can_be_interrupted() -> None:
    sandbox, order_id = placed()
    done = run("cancel", order_id, "--when-allowed", transport=Struck(sandbox, "/orderstatus", 2))
    assert done.code == 130
    assert "perhaps the order was cancelled" in done.err


@backends
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("path", ["/getCountries", "/getnumbersstatus"])
def test_ctrl_c_before_an_order_orders_nothing(path: str, after: bool, backend: str) -> None:
    sandbox = service()
    done = run("receive", "187", "tg", transport=Struck(sandbox, path, after=after), backend=backend)
    assert (done.code, done.out) == (130, "")
    assert done.err.endswith("error     interrupted: nothing was ordered\n")
    assert "/createorder" not in paths(sandbox)


@backends
def test_ctrl_c_while_the_order_is_placed_shows_no_invoice(backend: str) -> None:
    sandbox = service()
    done = run("receive", "187", "tg", transport=Struck(sandbox, "/createorder"), backend=backend)
    assert done.code == 130
    assert "there is nothing to pay, because no invoice was shown" in done.err
    assert "lnbc" not in done.err


@backends
@pytest.mark.parametrize(("at", "state"), [(1, "it is not paid"), (20, "comes back by itself"), (27, "comes back by itself")])
def test_ctrl_c_asks_to_cancel_and_tells_the_refusal(at: int, state: str, backend: str) -> None:
    sandbox = service()
    done = run("receive", "187", "tg", transport=Struck(sandbox, "/orderstatus", at, after=True), backend=backend)
    assert (done.code, done.out) == (130, "")
    assert paths(sandbox)[-1] == "/cancelorder"
    assert "the service would not cancel it: order can be canceled after 2 minutes" in done.err
    assert state in done.err
    order_id = next(iter(sandbox.orders))
    assert done.err.endswith(f"cancel    sms4sats cancel --when-allowed {order_id}\nresume    sms4sats watch {order_id}\n")


@backends
@pytest.mark.parametrize("paid_after", [None, 1])
def test_ctrl_c_cancels_an_order_that_is_old_enough(paid_after: float | None, backend: str) -> None:
    sandbox = service(Timeline(paid_after=paid_after))
    done = run("receive", "187", "tg", transport=Struck(sandbox, "/orderstatus", 70), backend=backend)
    assert (done.code, done.out) == (14, "")
    assert [order.cancelled_at is not None for order in sandbox.orders.values()] == [True]
    assert ("it was not paid" in done.err) is (paid_after is None)
    assert "resume" not in done.err


def test_a_code_that_comes_as_the_person_leaves_is_the_answer() -> None:
    sandbox = service(Timeline(paid_after=1, number_after=1))

    class Late(Struck):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/cancelorder":
                sandbox.deliver(next(iter(sandbox.orders)), "31337")
            return await super().handle_async_request(request)

    done = run("receive", "187", "tg", transport=Late(sandbox, "/orderstatus", 10))
    assert (done.code, done.out) == (0, "31337\n")


def test_an_order_that_ends_as_the_person_leaves_ends_so() -> None:
    sandbox = service(Timeline(paid_after=1, number_after=1))

    class Late(Struck):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/cancelorder":
                sandbox.fail(next(iter(sandbox.orders)))
            return await super().handle_async_request(request)

    done = run("receive", "187", "tg", transport=Late(sandbox, "/orderstatus", 10))
    assert (done.code, "resume" in done.err) == (11, False)


def test_a_second_ctrl_c_does_not_wait_for_the_answer() -> None:
    sandbox = service(None)

    class Twice(Struck):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/cancelorder":
                self.keyboard.press()
                await anyio.sleep(5)
            return await super().handle_async_request(request)

    done = run("receive", "187", "tg", transport=Twice(sandbox, "/orderstatus", 3))
    assert done.code == 130
    assert "may be cancelled, or may go on: the service gave no answer to a cancel; it is not paid" in done.err
    assert "/cancelorder" not in paths(sandbox)


@backends
def test_a_prepaid_order_under_way_is_finished_and_then_cancelled(backend: str) -> None:
    sandbox = service()
    done = run("receive", "187", "tg", "--prepaid", transport=Struck(sandbox, "/createorder", after=True), backend=backend)
    assert done.code == 130
    assert paths(sandbox)[-2:] == ["/createorder", "/cancelorder"]
    assert f"resume    sms4sats watch {next(iter(sandbox.orders))}\n" in done.err
    assert "stopping  a prepaid order under way is finished first" in done.err


@backends
def test_a_prepaid_order_whose_reply_is_lost_as_the_person_leaves_is_unknown(backend: str) -> None:
    class Lost(Struck):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await super().handle_async_request(request)
            if request.url.path == "/createorder":
                raise httpx.ReadError("reset")
            return await self._inner.handle_async_request(request)

    done = run("receive", "187", "tg", "--prepaid", transport=Lost(service(), "/createorder", after=True), backend=backend)
    assert done.code == 7
    assert "interrupted; POST /createorder: the balance may have been charged" in done.err
    assert "look      sms4sats balance" in done.err


@backends
def test_ctrl_c_before_a_prepaid_order_is_sent_orders_nothing(backend: str) -> None:
    sandbox = service()
    done = run("receive", "187", "tg", "--prepaid", "--max-sats", "1500", transport=Struck(sandbox, "/price"), backend=backend)
    assert (done.code, "/createorder" in paths(sandbox)) == (130, False)
    assert done.err.endswith("error     interrupted: nothing was ordered\n")


def test_an_sms_that_is_left_is_not_cancelled() -> None:
    sandbox = service(None)
    done = run("send", "+12025550143", "hello", transport=Struck(sandbox, "/orderstatus", 2))
    assert (done.code, paths(sandbox)) == (130, ["/createsendorder"])
    assert "there is no cancel for a send order; it is not paid" in done.err
    assert "resume    sms4sats watch --kind send " in done.err
    assert "stopping" not in done.err


@backends
def test_leaving_watch_leaves_the_order_alone(backend: str) -> None:
    sandbox, order_id = placed()
    done = run("watch", order_id, transport=Struck(sandbox, "/orderstatus", 70), backend=backend)
    assert (done.code, paths(sandbox)) == (130, ["/createorder"])
    assert "goes on: the service was not asked to cancel it" in done.err


@backends
@pytest.mark.parametrize("ignored", [False, True])
def test_a_window_that_is_closed_interrupts_unless_that_is_ignored(ignored: bool, backend: str) -> None:
    async def taken() -> dict[signal.Signals, bool]:
        with Surroundings().signals():
            return {one: signal.getsignal(one) not in (signal.SIG_DFL, signal.SIG_IGN) for one in asking}

    asking = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {one: signal.getsignal(one) for one in asking}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        assert anyio.run(taken, backend=backend) == {signal.SIGINT: True, signal.SIGTERM: True, signal.SIGHUP: not ignored}
        assert {signal.getsignal(one) for one in asking} == {signal.SIG_IGN}  # until the ending is written
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_ctrl_c_where_there_is_no_loop_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> Screen:
        raise KeyboardInterrupt

    assert main(["countries"], Surroundings(screen=interrupted)) == 130
    assert capsys.readouterr().err.endswith("error     interrupted\n")


# --- mistakes ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["receive", "187", "tg", "--sandbox", "--base-url", "https://example.org"], "--sandbox needs no --base-url"),
        (["receive", "187", "tg", "--prepaid", "--pay-with", "true"], "--prepaid has no invoice"),
        (["receive", "187", "tg", "--pay-with", "no-such-wallet-7d1f"], "there is no command 'no-such-wallet-7d1f'"),
        (["receive", "187", "tg", "--pay-with", "sh 'oops"], "No closing quotation"),
        (["receive", "187", "tg", "--pay-with", " "], "the command is empty"),
        (["receive", "187", "tg", "--max-sats", "0"], "--max-sats"),
        (["receive", "187", "tg", "--timeout", "0"], "--timeout"),
        (["receive", "187", "tg", "--timeout", "nan"], "must be a number"),
        (["rent", "187", "--follow", "--json"], "--follow has many answers"),
        (["send", "0202555", "hello"], "PHONE must be in E.164"),
        (["send", "+12025550143", "x" * 141], "140 is the most"),
        (["status", ""], "ORDER must not be empty"),
        (["countries", "--base-url", "http://example.org"], "--base-url in plain http"),
        (["countries", "--base-url", ""], "--base-url "),
        (["countries", "--base-url", "http://127.0.0.1:99999"], "--base-url has a port that there cannot be"),
        (["receive", "187"], "Missing argument"),
        (["nonsense"], "No such command"),
    ],
)
def test_a_mistake_is_told_before_anything_is_asked(arguments: list[str], words: str) -> None:
    sandbox = service()
    done = run(*arguments, transport=sandbox.transport())
    assert (done.code, done.out) == (2, "") or "--json" in arguments
    assert words in done.err
    assert "/createorder" not in paths(sandbox)
    assert "/createsendorder" not in paths(sandbox)


def test_a_mistake_is_told_in_json_as_well() -> None:
    done = run("rent", "187", "--follow", "--json", transport=service().transport())
    error = done.document["error"]
    assert (done.code, error["type"], error["exit_code"]) == (2, "UsageError", 2)


@pytest.mark.parametrize("command", ["fund", "balance", "history", "receive"])
def test_a_key_that_is_missing_is_told_before_anything_is_asked(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMS4SATS_API_KEY", "")
    sandbox = service()
    more = ["--prepaid"] if command == "receive" else []
    done = run(command, *COMMANDS[command], *more, transport=sandbox.transport())
    assert (done.code, sandbox.calls) == (2, [])
    assert "SMS4SATS_API_KEY is not set" in done.err


def test_the_extra_brings_all_that_a_command_needs() -> None:
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras["sandbox"]) <= set(extras["cli"])


def test_no_option_takes_a_key() -> None:
    for command in cli.commands.values():
        assert not [parameter for parameter in command.params if "key" in (parameter.name or "")]


def test_trio_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    assert main(["countries", "--backend", "trio", "--sandbox"]) == 2
    assert "trio is missing: pip install 'sms4sats-async[trio]'" in capsys.readouterr().err


# --- ends --------------------------------------------------------------------------------------------------------------------------


def errors(base: type[Exception] = Sms4SatsError) -> list[type[Exception]]:
    found = [base]
    for kind in base.__subclasses__():
        found += errors(kind)
    return found


def test_each_error_has_an_exit_code_of_its_own() -> None:
    bases = {Sms4SatsError, OrderError}  # no command raises one of these
    kinds = [kind for kind in errors() if kind not in bases and kind.__name__ in sms4sats_async.__all__]
    assert len(kinds) >= 14
    codes = [ends.exit_code(kind("")) for kind in (*kinds, Interrupted)]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 2} & set(codes)
    assert all(code < 126 or code == 130 for code in codes)  # 126 and on are the shell's
    assert ends.exit_code(NotFound("", [])) == 2
    assert ends.exit_code(OrderError("")) == 1


def test_the_help_has_the_exit_codes() -> None:
    helped = CliRunner().invoke(cli, ["--help"]).output
    for code, words in ends.table():
        assert f"{code:>5}  {words.replace('`', '')}" in helped


def test_the_readme_has_the_exit_codes_the_commands_and_the_picture() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## At a terminal\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| ([0-9]+) \| (.*) \|$", section, re.MULTILINE) == [(str(code), words) for code, words in ends.table()]
    assert not [name for name in cli.commands if f"`{name}" not in section]
    options = {option for command in cli.commands.values() for one in command.params for option in one.opts if option.startswith("--")}
    assert not [option for option in re.findall("--[a-z][a-z-]+", section) if option not in options | {"--force", "--help"}]
    assert f"]({PICTURE.relative_to(Path(__file__).parents[2])})" in section


def test_the_picture_can_be_drawn_anew(tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.svg"
    subprocess.run([sys.executable, "-m", "tests.cli.picture", str(drawn)], cwd=Path(__file__).parents[2], check=True)
    for file in (PICTURE, drawn):
        shown = file.read_text(encoding="utf-8").replace("&#160;", " ")
        for words in ("sms4sats receive usa telegram", "1,500 sat", "lnbc15u1", "waiting for the code, asking every", "left", "004217"):
            assert words in shown


def test_an_end_that_leaves_the_order_open_tells_how_to_go_on() -> None:
    order = Order("ab" * 8)
    assert ends.resume(Interrupted("", order=order), order) == f"sms4sats watch {order.id}"
    assert ends.resume(Interrupted(""), None) is None
    assert ends.resume(Interrupted(""), Order("-x y'z"), "http://[::1]:8000") == (
        """sms4sats watch --base-url 'http://[::1]:8000' -- '-x y'"'"'z'"""
    )
    assert list(ends.hints(OutcomeUnknown(""), None, "http://127.0.0.1:8")) == [
        ("look", "sms4sats balance --base-url http://127.0.0.1:8: was it charged?", True)
    ]
    assert ends.resume(OrderError(""), order) is None
    assert list(ends.hints(RateLimited("", retry_after=7))) == [("again", "in 7 s", False)]
    assert list(ends.hints(RateLimited(""))) == []


def test_a_failure_in_json_is_one_document() -> None:
    done = run("status", "ab" * 32, "--json", transport=service().transport())
    assert json.loads(done.out)["error"] == {
        "type": "APIError",
        "exit_code": 3,
        "message": "GET /orderstatus: HTTP 500: order not found",
        "order_id": "ab" * 32,
        "resume": None,
        "reason": "order not found",
        "status_code": 500,
    }
