"""What lies in Redis, as plain JSON: an order on its way to a worker, and what became of it on its way back. Pure."""

import json
from collections.abc import Mapping
from typing import Any, cast

import attrs

from sms4sats_async import errors
from sms4sats_async.batch import Outcome
from sms4sats_async.errors import OrderError, Sms4SatsError
from sms4sats_async.models import Order, OrderStatus

FORMAT = 1
"""The version of an outcome's JSON. An order has its own: :meth:`Order.to_dict`."""

_DETAILS = ("status_code", "excerpt", "reason", "retry_after", "paid", "cancelled")
"""What an error can tell beside its words, its order and its last status."""


class NotAnOrder(ValueError):
    """The message is no order. The text says why, and nothing of what was in it: that can be a secret."""


class NotAnOutcome(ValueError):
    """The message is no outcome. The text says why, and nothing of what was in it."""


def order_to_json(order: Order | str) -> str:
    """Return the order as one line of JSON; of a bare id, that alone."""
    return json.dumps({"id": order} if isinstance(order, str) else order.to_dict(), separators=(",", ":"))


def order_from_json(text: bytes | None) -> Order | str:
    """Read an order; where there is nothing but its id, that is returned: what it is for, its status tells.

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
        order = Order.from_dict(row)
    except (ValueError, OverflowError) as error:
        told = str(error)  # of ours, which name the field and a JSON type; Python's own repeat what they could not read
        raise NotAnOrder(told if told.startswith("order: ") else "its kind or its created_at cannot be read") from None
    if not order.id.strip() or not order.id.isprintable():  # half a surrogate pair could not even be asked about
        raise NotAnOrder("its id is no text")
    return order.id if row.keys() <= {"id", "version"} else order


def outcome_to_json(outcome: Outcome) -> str:
    """Return the outcome as one line of JSON. It holds the code."""
    status, error = outcome.status, outcome.error
    data = {
        "version": FORMAT,
        "order": outcome.order.to_dict(),
        "code": outcome.code,
        "status": None if status is None else status.to_dict() | {"raw": dict(status.raw)},
        "error": None if error is None else _error_to_dict(error),
    }
    return json.dumps(data, separators=(",", ":"), default=str)


def outcome_from_json(text: bytes | str | None) -> Outcome:
    """Read what :func:`outcome_to_json` returned.

    Raises:
        NotAnOutcome: it is none.
    """
    if text is None:
        raise NotAnOutcome("there is no field named outcome")
    try:
        data: Any = json.loads(text)
        if data["version"] == FORMAT:
            return _outcome_from_dict(data)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):  # the text of some repeats what they read
        raise NotAnOutcome("the outcome cannot be read") from None
    raise NotAnOutcome("the outcome is of another version than this reader's")


def _outcome_from_dict(data: dict[str, Any]) -> Outcome:
    order = Order.from_dict(data["order"])
    told = data["status"]
    status = None if told is None else attrs.evolve(OrderStatus.from_dict(told), raw=told.get("raw") or {})
    error = None if data["error"] is None else _error_from_dict(order.id, status, data["error"])
    return Outcome(order, data["code"], status, error)


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
