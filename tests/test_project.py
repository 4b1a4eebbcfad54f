"""What holds for the package as a whole: its public names, its layers, its types, its import."""

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

import sms4sats_async
from benchmarks.imports import cost
from sms4sats_async import BatchWatcher, Client, OrderWatcher, PayingWatcher

ROOT = Path(__file__).parents[1]

SIGNATURES: dict[str, str] = {
    "Client": "*, api_key=None, base_url='https://api2.sms4sats.com', timeout=10.0, max_connections=20, attempts=4, proxy=None, "
    "trust_env=True, transport=None, on_order=None, journal=None, ssl_context=None, on_exchange=None",
    "Client.is_available": "",
    "Client.get_countries": "",
    "Client.get_services": "country",
    "Client.get_rental_countries": "service='full'",
    "Client.get_price": "country=None, service=None",
    "Client.create_order": "country, service, *, rental=False, real_phone=False, ref=None, immediate=False, max_sats=None",
    "Client.get_order_status": "order_id",
    "Client.cancel_order": "order_id",
    "Client.create_send_order": "phone, message, *, immediate=False, webhook_url=None, ref=None, max_sats=None",
    "Client.fund": "amount_sats",
    "Client.get_balance": "",
    "Client.get_history": "",
    "Client.aclose": "",
    "OrderWatcher": "client, order, *, kind=None, hold_window=1260.0, payment_window=1260.0, poll_interval=None, cancel_on_exit=True",
    "OrderWatcher.paid": "",
    "OrderWatcher.number": "",
    "OrderWatcher.code": "",
    "OrderWatcher.sent": "",
    "OrderWatcher.cancel": "when_allowed=False",
    "OrderWatcher.__aiter__": "",
    "BatchWatcher": "client, orders, *, kind=None, hold_window=1260.0, payment_window=1260.0, poll_interval=None, max_rate=None, "
    "max_watching=10000, cancel_on_exit=True",
    "BatchWatcher.add": "order",
    "BatchWatcher.__aiter__": "",
    "BatchWatcher.__anext__": "",
    "PayingWatcher": "client, order, *, pay, kind=None, hold_window=1260.0, payment_window=1260.0, poll_interval=None, cancel_on_exit=True",
    "receive_code": "client, country, service, *, pay=None, immediate=False, on_number=None, max_sats=None, real_phone=False, ref=None, "
    "hold_window=1260.0, payment_window=1260.0, poll_interval=None",
    "send_sms": "client, phone, message, *, pay=None, immediate=False, webhook_url=None, ref=None, max_sats=None, payment_window=1260.0, "
    "hold_window=1260.0, poll_interval=None",
    "Journal": "path, *, keep_codes=False, settle_after=10.0, busy_timeout=5.0",
    "Journal.open_orders": "",
    "Journal.open_entries": "",
    "Journal.entries": "",
    "Journal.unresolved": "",
    "Journal.find": "order_id",
    "Journal.dismiss": "what",
    "Journal.prune": "older_than",
    "Journal.aclose": "",
    "resume": "client, journal, *, hold_window=1260.0, payment_window=1260.0, poll_interval=None, max_rate=None, max_watching=10000, "
    "cancel_on_exit=False",
    "reconcile": "client, journal, *, cancel=False",
    "Order.to_dict": "",
    "Order.from_dict": "data",
    "OrderStatus.from_wire": "payload, order_id",
    "OrderStatus.to_dict": "",
    "OrderStatus.from_dict": "data",
    "tracing.mask_order_ids": "span, request, response=None",
}

FIELDS: dict[str, str] = {
    "Country": "id name raw",
    "Service": "code name count image_url raw",
    "RentalCountry": "id name duration price_sats raw",
    "Price": "sats receive_sats send_sats rent_sats s4s_sats country_id description raw",
    "Order": "id kind payreq prepaid amount_sats created_at country service raw",
    "OrderStatus": "order_id paid number code code_was_number sms_status error activation_id country service timestamp raw",
    "Exchange": "method path order attempt status_code failure seconds size",
    "History": "total_sats fundings raw",
    "Outcome": "order code status error",
    "Entry": "order bare price_sats paid number code cancel end ended_at watched",
    "Intent": "row created_at kind country service price_sats prepaid",
    "Finding": "order found status watched cancel_error error",
    "Report": "findings unresolved balance balance_error",
    "Balance": "sats expected_sats since spent_sats back_sats unpriced unresolved unresolved_sats",
    "Received": "code number order",
    "Sent": "sms_status order",
    "Funding": "amount_sats price_sats created_at description hold_invoice raw",
}

ERRORS = {
    "Sms4SatsError", "TransportError", "OutcomeUnknown", "DecodeError", "JournalError", "APIError",
    "AuthenticationError", "RateLimited", "OrderError", "OrderFailed", "OrderExpired", "OrderUnresolved",
    "OrderCancelled", "CancelRefused", "SendFailed", "PaymentFailed", "PriceTooHigh",
}  # fmt: skip


def _resolve(name: str) -> Any:
    found: Any = sms4sats_async
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("name", "arguments"), SIGNATURES.items())
def test_a_public_callable_has_this_very_signature(name: str, arguments: str) -> None:
    parameters = [one.replace(annotation=one.empty) for one in inspect.signature(_resolve(name)).parameters.values() if one.name != "self"]
    written = [f"{one}" for one in parameters]
    first_keyword = next((at for at, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if first_keyword is not None:
        written.insert(first_keyword, "*")
    assert ", ".join(written) == arguments


@pytest.mark.parametrize(("name", "fields"), FIELDS.items())
def test_a_model_has_these_very_fields(name: str, fields: str) -> None:
    assert [field.name for field in attrs.fields(_resolve(name))] == fields.split()


def test_the_public_names_are_these_and_no_others() -> None:
    expected = {
        "Client",
        "OrderWatcher",
        "PayingWatcher",
        "BatchWatcher",
        "Journal",
        "Found",
        "resume",
        "reconcile",
        "receive_code",
        "send_sms",
        "OrderKind",
        "SmsStatus",
        *FIELDS,
        *ERRORS,
    }
    assert set(sms4sats_async.__all__) == expected
    assert sorted(sms4sats_async.__all__) == sms4sats_async.__all__
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sms4sats_async.nonsense


def test_every_public_name_and_method_is_documented() -> None:
    for name in sms4sats_async.__all__:
        assert inspect.getdoc(_resolve(name)), name
    for kind in (Client, OrderWatcher, PayingWatcher, BatchWatcher):
        for name, member in inspect.getmembers(kind):
            assert name.startswith("_") or inspect.getdoc(member), name


def test_the_public_attributes_of_a_watcher_and_a_client() -> None:
    client = Client()
    watcher = OrderWatcher(client, "ab12")
    assert (watcher.order.id, watcher.status) == ("ab12", None)
    assert (client.orphaned_orders, client.is_closed, client.in_flight) == ([], False, 0)


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found is not None, f"{name} belongs to the group test"
    return found


def test_the_layers_hold() -> None:
    assert "0 broken" in _run(_tool("lint-imports"))


def test_importing_the_package_needs_no_trio_and_loads_no_loop() -> None:
    loaded = _run(sys.executable, "-c", "import sys, sms4sats_async; print(sorted(sys.modules))")
    for name in ("'trio'", "'asyncio'", "'hypercorn'", "'sms4sats_async.sandbox'"):
        assert name not in loaded


@pytest.mark.unmeasured
def test_importing_the_package_costs_little_more_than_what_it_needs() -> None:
    takes = (cost(rounds=9)[0] for _ in range(3))  # noise only adds, and a busy machine makes much of it
    assert any(ratio <= 1.35 for ratio in takes)
