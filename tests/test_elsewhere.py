"""Values and errors that go elsewhere: to another process, through a queue, into a web reply."""

import concurrent.futures
import multiprocessing
import pickle
from datetime import UTC, datetime
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

from sms4sats_async import (
    Exchange,
    Order,
    OrderExpired,
    OrderStatus,
    Outcome,
    OutcomeUnknown,
    PriceTooHigh,
    Received,
    SmsStatus,
    TransportError,
)

ORDER = Order("0123456789abcdef", payreq="lnbc50u1qqqqqqqqqqqq", amount_sats=5000, created_at=datetime(2026, 5, 4, tzinfo=UTC), country=0)
STATUS = OrderStatus(ORDER.id, paid=True, number="+12025550143", code="004217", sms_status=SmsStatus.sent, raw={"code": "004217"})


def expired() -> OrderExpired:
    error = OrderExpired("no code", order_id=ORDER.id, status=STATUS, paid=True, cancelled=False, reason="too late")
    error.__cause__ = TransportError("reset")
    error.add_note("a note")
    return error


def returns(value: Any) -> Any:
    return value


def fails(error: Exception) -> None:
    raise error from TransportError("reset")


@pytest.fixture(scope="module")
def elsewhere() -> Any:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        yield pool


@pytest.mark.parametrize(
    "value",
    [ORDER, STATUS, Received("004217", "+12025550143", ORDER), Exchange("GET", "/price", None, 1, 200, None, 0.5, 7)],
    ids=lambda value: type(value).__name__,
)
def test_a_value_goes_to_another_process_and_back(value: Any, elsewhere: concurrent.futures.Executor) -> None:
    assert elsewhere.submit(returns, value).result(60) == value
    assert pickle.loads(cloudpickle.dumps(value)) == value  # noqa: S301 - what was just written


def test_an_outcome_keeps_the_fields_of_its_error(elsewhere: concurrent.futures.Executor) -> None:
    outcome = elsewhere.submit(returns, Outcome(ORDER, status=STATUS, error=expired())).result(60)
    assert (outcome.order, outcome.status) == (ORDER, STATUS)
    assert isinstance(outcome.error, OrderExpired)
    assert vars(outcome.error) == vars(expired())


@pytest.mark.parametrize(
    "error",
    [
        expired(),
        PriceTooHigh("too dear", order_id=ORDER.id, price_sats=7, max_sats=5, order=ORDER),
        OutcomeUnknown("POST /createorder: reset; the balance may have been charged", order_id=ORDER.id),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_raised_out_of_another_process_with_its_fields(error: Exception, elsewhere: concurrent.futures.Executor) -> None:
    with pytest.raises(type(error)) as caught:
        elsewhere.submit(fails, error).result(60)
    assert caught.value is not error
    assert (str(caught.value), vars(caught.value)) == (str(error), vars(error))
    assert "reset" in str(caught.value.__cause__)  # the traceback of there, as concurrent.futures has it
    twin = pickle.loads(cloudpickle.dumps(error))  # noqa: S301 - what was just written
    assert vars(twin) == vars(error)
