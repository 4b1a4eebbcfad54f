"""``orders``, ``resume`` and ``reconcile``: what a terminal is told of a journal."""

import errno
from pathlib import Path

import anyio
import pytest

from sms4sats_async import Client, Journal
from sms4sats_async.models import OrderKind
from sms4sats_async.sandbox import Sandbox
from tests.cli.running import BACKENDS, KEY, Struck, Torn, run


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(accounts={KEY: 100_000})


@pytest.fixture
def path(tmp_path: Path, sandbox: Sandbox) -> Path:
    """A journal with an order that is paid, one that is not, and a call of unknown outcome."""
    path = tmp_path / "orders.db"

    async def fill() -> None:
        journal = Journal(path)
        async with journal, Client(transport=sandbox.transport(), api_key=KEY, journal=journal) as client:
            await client.create_order(187, "tg", immediate=True)
            await client.create_order(0, "wa")
            await journal.left(await journal.intend(OrderKind.receive, country=6, service="vi", price_sats=1500, prepaid=True))

    anyio.run(fill)
    return path


def test_what_is_open_and_in_doubt_is_listed_and_nobody_is_asked(path: Path, sandbox: Sandbox) -> None:
    calls = len(sandbox.calls)
    paid, unpaid = sandbox.orders
    done = run("orders", "--journal", str(path), transport=sandbox.transport())
    one, other, doubt = done.out.splitlines()
    assert (one, other) == (f"{paid}\treceive, paid", f"{unpaid}\treceive, not seen paid")
    assert doubt.startswith("receive 6 vi\t")
    assert doubt.endswith("perhaps ordered and charged, 1,500 sat")
    document = run("orders", "--journal", str(path), "--json", transport=sandbox.transport()).document
    assert [entry["order"]["id"] for entry in document["orders"]] == [paid, unpaid]
    assert [(intent["country"], intent["price_sats"]) for intent in document["unresolved"]] == [(6, 1500)]
    assert len(sandbox.calls) == calls


@pytest.mark.parametrize("command", ["orders", "resume", "reconcile"])
def test_without_a_journal_it_is_a_mistake(command: str, sandbox: Sandbox) -> None:
    done = run(command, transport=sandbox.transport())
    assert (done.code, "SMS4SATS_JOURNAL" in done.err) == (2, True)


@pytest.mark.parametrize("command", ["orders", "resume", "reconcile"])
def test_a_name_that_no_file_has_is_a_mistake_and_makes_none(command: str, tmp_path: Path, sandbox: Sandbox) -> None:
    done = run(command, "--journal", str(tmp_path / "order.db"), transport=sandbox.transport())
    assert (done.code, done.out, "there is no journal" in done.err) == (2, "", True)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_cannot_be_looked_up_is_told_as_any_journal_that_cannot_be_used(tmp_path: Path, sandbox: Sandbox) -> None:
    done = run("orders", "--journal", str(tmp_path / ("o" * 300)), transport=sandbox.transport())
    assert (done.code, done.out) == (9, "")
    assert "it cannot be used" in done.err


def test_a_journal_that_is_none_has_a_code_of_its_own(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "orders.db"
    path.write_bytes(b"something else" * 100)
    done = run("orders", "--journal", str(path), transport=sandbox.transport())
    assert (done.code, done.out) == (9, "")
    assert "it is damaged, or no journal" in done.err


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_became_of_everything_is_told(path: Path, sandbox: Sandbox, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMS4SATS_JOURNAL", str(path))
    monkeypatch.setenv("SMS4SATS_API_KEY", KEY)
    paid, unpaid = sandbox.orders
    done = run("reconcile", transport=sandbox.transport(), backend=backend)
    one, other, doubt, balance = done.out.splitlines()
    assert (one, other, doubt[:7]) == (f"{paid}\tpaid", f"{unpaid}\tunpaid", "receive")
    assert balance == "balance\t98,500 sat, expected unknown"
    document = run("reconcile", "--json", transport=sandbox.transport(), backend=backend).document
    assert [finding["found"] for finding in document["findings"]] == ["paid", "unpaid"]
    assert (document["balance"]["missing_sats"], document["balance"]["charged"]) == (0, None)
    refused = run("reconcile", "--cancel", transport=sandbox.transport(), backend=backend)
    assert "2 minutes" in refused.out


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_open_is_watched_to_its_end(path: Path, sandbox: Sandbox, backend: str) -> None:
    paid, unpaid = sandbox.orders
    sandbox.deliver(paid, "004217")
    done = run("resume", "--journal", str(path), transport=sandbox.transport(), backend=backend)
    one, other = done.out.splitlines()
    assert (done.code, one, other.split("\t")[0]) == (0, f"{paid}\t004217", unpaid)
    assert "not paid" in other
    assert run("resume", "--journal", str(path), transport=sandbox.transport(), backend=backend).out == ""
    assert run("orders", "--journal", str(path), transport=sandbox.transport()).out.startswith("receive 6 vi")


def test_what_is_open_is_one_document(path: Path, sandbox: Sandbox) -> None:
    paid, unpaid = sandbox.orders
    sandbox.deliver(paid, "004217")
    done = run("resume", "--journal", str(path), "--json", transport=sandbox.transport())
    assert [(one["order"]["id"], one["code"]) for one in done.document["outcomes"]] == [(paid, "004217"), (unpaid, None)]
    assert done.document["outcomes"][0]["error"] is None


@pytest.mark.parametrize("json", [False, True])
def test_a_code_that_has_come_is_told_before_ctrl_c_leaves_the_rest_to_the_next_time(path: Path, sandbox: Sandbox, json: bool) -> None:
    paid, unpaid = sandbox.orders
    sandbox.deliver(paid, "004217")
    done = run("resume", "--journal", str(path), *["--json"] * json, transport=Struck(sandbox, "/orderstatus", 5))
    assert done.code == 130
    assert "what is open stays in the journal" in done.err
    if json:
        assert [(one["order"]["id"], one["code"]) for one in done.document["outcomes"]] == [(paid, "004217"), (unpaid, None)]
        assert done.document["error"]["exit_code"] == 130
    else:
        one, other = done.out.splitlines()
        assert (one, other.split("\t")[0]) == (f"{paid}\t004217", unpaid)
    assert run("orders", "--journal", str(path), transport=sandbox.transport()).out.startswith(unpaid)


@pytest.mark.parametrize("json", [False, True])
def test_a_code_that_was_found_is_not_lost_with_standard_output(path: Path, sandbox: Sandbox, json: bool) -> None:
    paid, unpaid = sandbox.orders
    sandbox.deliver(paid, "004217")
    full = Torn(0, OSError(errno.ENOSPC, "no space"), terminal=False)
    done = run("reconcile", "--journal", str(path), *["--json"] * json, transport=sandbox.transport(), out=full)
    assert done.code == 1
    assert ('"code": "004217"' if json else f"{paid} code 004217") in done.err
    assert unpaid in done.err
    assert paid not in run("orders", "--journal", str(path), transport=sandbox.transport()).out


def test_an_account_that_cannot_be_asked_is_told(path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMS4SATS_API_KEY", "another")
    done = run("reconcile", "--journal", str(path), transport=sandbox.transport())
    assert done.code == 0
    assert "GET /balance" in done.err


def test_an_order_of_the_command_line_is_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sandbox = tmp_path / "orders.db", Sandbox(accounts={KEY: 100_000})
    monkeypatch.setenv("SMS4SATS_API_KEY", KEY)
    done = run("receive", "187", "tg", "--prepaid", "--timeout", "5", "--journal", str(path), transport=sandbox.transport())
    assert done.code == 12

    async def ends() -> list[str | None]:
        async with Journal(path) as journal:
            return [entry.end for entry in await journal.entries()]

    assert anyio.run(ends) == ["expired"]


def test_a_sandbox_leaves_the_journal_alone(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    assert run("countries", "--sandbox", "--journal", str(path)).code == 0
    assert not path.exists()
