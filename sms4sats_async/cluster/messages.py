"""What lies in Redis, as plain JSON: an order on its way to a worker, and what became of it on its way back. Pure."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from sms4sats_async import errors
from sms4sats_async.batch import Outcome
from sms4sats_async.errors import OrderError, Sms4SatsError
from sms4sats_async.models import Order, OrderStatus, SmsStatus

FORMAT = 1
"""The version of an outcome's JSON. An order has its own: :meth:`Order.to_dict`."""

_DETAILS = ("status_code", "excerpt", "reason", "retry_after", "paid", "cancelled")
"""What an error can tell beside its words, its order and its last status."""


class NotAnOrder(ValueError):
    """The message is no order. The text says why, and nothing of what was in it: that can be a secret."""


def order_to_json(order: Order) -> str:
    """Return the order as one line of JSON."""
    return json.dumps(order.to_dict(), separators=(",", ":"))


def order_from_json(text: bytes | None) -> Order:
    """Read an order.

    Raises:
        NotAnOrder: it is none.
    """
    if text is None:
        raise NotAnOrder("there is no field named order")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise NotAnOrder("the order is not JSON") from None
    if not isinstance(data, Mapping):
        raise NotAnOrder("the order is not a JSON object")
    row = cast("Mapping[str, Any]", data)
    try:
        return Order.from_dict(row)
    except (ValueError, OverflowError) as error:
        told = str(error)  # of ours, which name the field and a JSON type; Python's own repeat what they could not read
        raise NotAnOrder(told if told.startswith("order: ") else "its kind or its created_at cannot be read") from None


def outcome_to_json(outcome: Outcome) -> str:
    """Return the outcome as one line of JSON. It holds the code."""
    status, error = outcome.status, outcome.error
    data = {
        "version": FORMAT,
        "order": outcome.order.to_dict(),
        "code": outcome.code,
        "status": None if status is None else _status_to_dict(status),
        "error": None if error is None else _error_to_dict(error),
    }
    return json.dumps(data, separators=(",", ":"), default=str)


def outcome_from_json(text: bytes | str) -> Outcome:
    """Read what :func:`outcome_to_json` returned.

    Raises:
        ValueError: it is no outcome.
    """
    try:
        data: Any = json.loads(text)
        order = Order.from_dict(data["order"])
        told = data["status"]
        status = None if told is None else _status_from_dict(order.id, told)
        error = None if data["error"] is None else _error_from_dict(order.id, status, data["error"])
        return Outcome(order, data["code"], status, error)
    except (KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"no outcome: {type(problem).__name__}") from None


def _status_to_dict(status: OrderStatus) -> dict[str, Any]:
    return {
        "paid": status.paid,
        "number": status.number,
        "code": status.code,
        "code_was_number": status.code_was_number,
        "sms_status": status.sms_status,
        "error": status.error,
        "activation_id": status.activation_id,
        "country": status.country,
        "service": status.service,
        "timestamp": None if status.timestamp is None else status.timestamp.isoformat(),
        "raw": dict(status.raw),
    }


def _status_from_dict(order_id: str, data: dict[str, Any]) -> OrderStatus:
    fields = {name: data.get(name) for name in ("number", "code", "error", "activation_id", "country", "service")}
    word, timestamp = data.get("sms_status"), data.get("timestamp")
    return OrderStatus(
        order_id,
        bool(data["paid"]),
        **fields,
        code_was_number=bool(data.get("code_was_number")),
        sms_status=SmsStatus(word) if word in list(SmsStatus) else word,
        timestamp=None if timestamp is None else datetime.fromisoformat(timestamp),
        raw=data.get("raw") or {},
    )


def _error_to_dict(error: Sms4SatsError) -> dict[str, Any]:
    details = {name: getattr(error, name) for name in _DETAILS if hasattr(error, name)}
    return {"type": type(error).__name__, "message": str(error), **details}


def _error_from_dict(order_id: str, status: OrderStatus | None, data: dict[str, Any]) -> Sms4SatsError:
    kind = getattr(errors, data["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, Sms4SatsError)):
        kind = OrderError  # of a worker that is newer than this reader
    details = {name: data[name] for name in _DETAILS if name in data}
    if issubclass(kind, OrderError):
        details["status"] = status
    try:
        return kind(data["message"], order_id=order_id, **details)
    except TypeError:  # likewise: it tells what this reader's kind of error cannot
        return kind(data["message"], order_id=order_id)
