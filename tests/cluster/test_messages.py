"""What goes through Redis, there and back. Needs no Redis."""

import json
import math
from datetime import UTC, datetime

import pytest

from sms4sats_async import (
    APIError,
    CancelRefused,
    Order,
    OrderError,
    OrderExpired,
    OrderFailed,
    OrderKind,
    OrderStatus,
    OrderUnresolved,
    Outcome,
    SendFailed,
    Sms4SatsError,
    SmsStatus,
)
from sms4sats_async.cluster.messages import NotAnOrder, NotAnOutcome, order_from_json, order_to_json, outcome_from_json, outcome_to_json
from sms4sats_async.cluster.worker import _Loan

ID = "a" * 32
ORDER = Order(ID, OrderKind.receive, prepaid=True, created_at=datetime(2026, 1, 2, tzinfo=UTC), country=187, service="tg")
STATUS = OrderStatus(
    ID,
    paid=True,
    number="+15550001111",
    code="048213",
    sms_status=SmsStatus.sent,
    timestamp=datetime(2026, 1, 2, 3, tzinfo=UTC),
    raw={"status": "OK", "new": [1]},
)
ERRORS: list[Sms4SatsError] = [
    OrderFailed("failed", order_id=ID, status=STATUS, reason="no number"),
    OrderExpired("expired", order_id=ID, status=STATUS, paid=True, cancelled=False, reason="too late"),
    OrderUnresolved("unresolved", order_id=ID, status=STATUS),
    CancelRefused("refused", order_id=ID, status=STATUS, reason="not yet"),
    SendFailed("not sent", order_id=ID, status=STATUS),
    APIError("no", order_id=ID, status_code=400, reason="order not found"),
]


def test_an_order_there_and_back() -> None:
    assert order_from_json(order_to_json(ORDER).encode()) == ORDER
    assert order_from_json(order_to_json(ID).encode()) == ID


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000, b"1", b'{"id": 1}', b'{"id": "x", "created_at": "never"}', None])
def test_what_is_no_order_says_why_and_repeats_nothing(text: bytes | None) -> None:
    with pytest.raises(NotAnOrder) as raised:
        order_from_json(text)
    assert "never" not in str(raised.value)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_outcome_there_and_back(error: Sms4SatsError) -> None:
    back = outcome_from_json(outcome_to_json(Outcome(ORDER, None, STATUS, error)))
    assert (back.order, back.code, back.status) == (ORDER, None, STATUS)
    assert back.status is not None
    assert back.status.raw == STATUS.raw
    assert isinstance(back.status.sms_status, SmsStatus)
    assert type(back.error) is type(error)
    assert str(back.error) == str(error)
    assert vars(back.error) == vars(error)


def test_a_good_outcome_and_one_without_any_status() -> None:
    for outcome in (Outcome(ORDER, "048213", STATUS), Outcome(ORDER)):
        assert outcome_from_json(outcome_to_json(outcome)) == outcome


def test_a_newer_workers_error_is_an_order_error_with_its_words() -> None:
    for told in ({"type": "OrderLost", "message": "lost", "reason": "?"}, {"type": "OrderUnresolved", "message": "lost", "reason": "?"}):
        data = json.loads(outcome_to_json(Outcome(ORDER))) | {"error": told}
        error = outcome_from_json(json.dumps(data)).error
        assert isinstance(error, OrderError)
        assert (str(error), error.order_id) == ("lost", ID)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "1", "{}", "[" * 100_000, None, '{"version": 2}', '{"version": 1, "order": {"id": "s3cr3t"}}'),
        '{"version": 1, "order": {}, "status": null}',
        '{"version": 1, "order": {"id": "x"}, "status": {"order_id": "x", "paid": true, "timestamp": "s3cr3t"}}',
        '{"version": 1, "order": {"id": "x"}, "status": null, "error": {"type": "s3cr3t"}}',
    ],
)
def test_what_is_no_outcome_says_so_and_repeats_nothing(text: str | None) -> None:
    with pytest.raises(NotAnOutcome) as raised:
        outcome_from_json(text)
    assert "s3cr3t" not in str(raised.value)


def test_what_counts_as_used_is_the_most_of_the_last_second() -> None:
    loan = _Loan()
    assert (loan.used(0.0), loan.left(0.0)) == (0, 0)
    loan.take(30, 10.0, 20.0)
    loan.take(10, 12.0, 22.0)
    assert (loan.used(12.9), loan.used(13.0), loan.left(13.0)) == (30, 10, 10)
    assert (loan.left(22.0), loan.used(22.9), loan.used(23.0)) == (0, 10, 0)
    loan.take(5, 23.5, math.inf)
    loan.take(40, 23.6, math.inf)
    assert loan.used(23.7) == 40
