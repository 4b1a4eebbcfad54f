"""What a program may see of its requests, without a secret: one event for each, and a hook for OpenTelemetry's spans.

An order's id is a secret, because whoever has it can read the code, and it stands in the address of each look. So an event shows it
masked, and the hook masks it in a span that has the address already.
"""

import re
from typing import Any

import attrs

from sms4sats_async.models import mask

CANCELLED = "cancelled"
"""The ``failure`` of a request whose caller was cancelled before a whole reply had come."""

_SECRET = re.compile(r"(?<=orderId=)[^&#\s\"'<>)]+", re.IGNORECASE)
_IS_MASKED = re.compile(r".{0,2}\.\..{0,2}")
_ADDRESSES = ("http.url", "url.full")
_KEY = "http.request.header.x_api_key"


@attrs.frozen
class Exchange:
    """One request and what became of it. Nothing in it is a secret: all of it can be logged, and be a counter's label.

    Attributes:
        method: ``GET`` or ``POST``.
        path: the endpoint: ``/orderstatus``.
        order: the masked id of the order that was asked about; ``None`` where there is none.
        attempt: which request of its call it was, from 1 on. A watcher's look is a call of its own.
        status_code: the HTTP status; ``None`` when no reply began to come.
        failure: the class of the error that it came to (``"TransportError"``, ``"RateLimited"``), or ``"cancelled"``; ``None`` when its
            reply was good.
        seconds: how long it took, from the moment its connection was at hand.
        size: bytes of the reply's body that were read.
    """

    method: str
    path: str
    order: str | None
    attempt: int
    status_code: int | None
    failure: str | None
    seconds: float
    size: int

    def __str__(self) -> str:
        about = self.path if self.order is None else f"{self.path} {self.order}"
        again = "" if self.attempt == 1 else f" (attempt {self.attempt})"
        ends = [str(end) for end in (self.status_code, self.failure) if end is not None]
        return f"{self.method} {about}{again}: {' '.join(ends)}, {self.size} bytes in {self.seconds:.3f} s"


async def mask_order_ids(span: Any, request: Any, response: Any = None) -> None:
    """Mask an order's id, and hide the API key, in a span of OpenTelemetry's httpx instrumentation.

    ::

        HTTPXClientInstrumentor().instrument(async_request_hook=mask_order_ids, async_response_hook=mask_order_ids)

    As the first hook it masks addresses, whichever names the semantic conventions in force give them, and the request's headers where
    these are captured; as the second one a reply's captured headers: a redirect could repeat the address. Requests that are not of this
    package are left as they are, unless an ``orderId`` stands in their query. It raises nothing.

    Args:
        span: the span. One that shows its ``attributes`` is searched; to any other the masked address is given.
        request: what the instrumentation tells of the request: its ``url`` is read.
        response: not read.
    """
    del response
    if not span.is_recording():
        return
    shown: Any = getattr(span, "attributes", None)
    if shown is None:
        shown = dict.fromkeys(_ADDRESSES, str(request.url)) if _SECRET.search(str(request.url)) else {}
    for name, value in dict(shown).items():
        masked = _masked(value) if name != _KEY else ("..",)
        if masked != value:
            span.set_attribute(name, masked)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET.sub(lambda found: found[0] if _IS_MASKED.fullmatch(found[0]) else mask(found[0]), value)
    return tuple(_masked(one) for one in value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType]
