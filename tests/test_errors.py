"""The error tree is as it is drawn, every error survives a process boundary, and nothing that httpx raises gets out."""

import copy
import inspect
import pickle
import re
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sms4sats_async
from sms4sats_async import Client, Order, OrderStatus, errors
from sms4sats_async.errors import OutcomeUnknown, Sms4SatsError, TransportError, printable
from sms4sats_async.transport import _chain
from tests.servers import closes, hangs, serve

KEY = "key-of-a-test-0001"

TREE: dict[str, str] = {
    "Sms4SatsError": "Exception",
    "TransportError": "Sms4SatsError",
    "OutcomeUnknown": "TransportError",
    "DecodeError": "Sms4SatsError",
    "JournalError": "Sms4SatsError",
    "APIError": "Sms4SatsError",
    "AuthenticationError": "APIError",
    "RateLimited": "APIError",
    "OrderError": "Sms4SatsError",
    "OrderFailed": "OrderError",
    "OrderExpired": "OrderError",
    "OrderUnresolved": "OrderError",
    "OrderCancelled": "OrderError",
    "CancelRefused": "OrderError",
    "SendFailed": "OrderError",
    "PaymentFailed": "OrderError",
    "PriceTooHigh": "OrderError",
}
"""Each error, and its only base."""

ORDER_ID = "0123456789abcdef" * 4
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
STATUS = OrderStatus(ORDER_ID, paid=True, number="+12025550143", code="004217", raw={"code": "004217"})
ORDER = Order(ORDER_ID, created_at=NOW, raw={"orderId": ORDER_ID})

OWN: dict[str, dict[str, tuple[Any, Any]]] = {
    "Sms4SatsError": {"order_id": (None, ORDER_ID)},
    "DecodeError": {"status_code": (None, 200), "excerpt": ("", "<html>")},
    "APIError": {"status_code": (0, 500), "reason": (None, "backend error")},
    "RateLimited": {"status_code": (429, 503), "retry_after": (None, 1.5)},
    "OrderError": {"status": (None, STATUS)},
    "OrderFailed": {"reason": (None, "no number")},
    "OrderExpired": {"paid": (False, True), "cancelled": (False, True), "reason": (None, "too early")},
    "CancelRefused": {"reason": (None, "too early")},
    "PriceTooHigh": {"price_sats": (None, 2), "max_sats": (0, 1), "order": (None, ORDER)},
}
"""Each error's own attributes, with their defaults, and another value."""


def error_class(name: str) -> type[Sms4SatsError]:
    found: type[Sms4SatsError] = getattr(errors, name)
    return found


def attributes(name: str) -> dict[str, tuple[Any, Any]]:
    if name == "Exception":
        return {}
    return attributes(TREE[name]) | OWN.get(name, {})


def full(name: str) -> Sms4SatsError:
    return error_class(name)("what went wrong", **{key: value for key, (_, value) in attributes(name).items()})


EACH = pytest.mark.parametrize("name", TREE)


def pickled(error: Exception) -> Any:
    twins = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]  # noqa: S301
    assert all(vars(twin) == vars(error) for twin in twins)
    return twins[-1]


# --- the tree ----------------------------------------------------------------------------------------------------------------------


def test_the_tree_is_whole() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, BaseException)}
    assert defined == set(TREE)


@EACH
def test_an_error_has_the_base_that_is_drawn(name: str) -> None:
    assert [base.__name__ for base in error_class(name).__bases__] == [TREE[name]]


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    path = ["Exception"]
    for line in (inspect.getdoc(errors) or "").splitlines():
        if (match := re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+)(?: |$)", line)) is not None:
            depth = len(match[1]) // 4
            path[depth + 1 :] = [match[2]]
            drawn[match[2]] = path[depth]
    assert drawn == TREE


def test_every_error_is_a_public_name() -> None:
    assert set(TREE) <= set(sms4sats_async.__all__)
    assert all(getattr(sms4sats_async, name) is error_class(name) for name in TREE)


@EACH
def test_an_error_is_documented_with_its_own_attributes(name: str) -> None:
    text = error_class(name).__dict__["__doc__"]
    assert re.match(r"\S.*[.:]", text.strip().splitlines()[0])
    inherited = attributes(TREE[name])
    for attribute in OWN.get(name, {}):
        assert attribute in inherited or re.search(rf"^ +{attribute}: ", text, re.MULTILINE), attribute


# --- attributes --------------------------------------------------------------------------------------------------------------------


@EACH
def test_an_error_has_its_attributes_and_no_others(name: str) -> None:
    bare = error_class(name)("what went wrong")
    assert vars(bare) == {key: default for key, (default, _) in attributes(name).items()}
    assert vars(full(name)) == {key: value for key, (_, value) in attributes(name).items()}


@EACH
def test_the_message_is_the_whole_of_an_errors_text(name: str) -> None:
    error = full(name)
    assert str(error) == "what went wrong"
    assert error.args == ("what went wrong",)
    assert repr(error) == f"{name}('what went wrong')"


@EACH
def test_attributes_go_by_keyword_only(name: str) -> None:
    kinds = [parameter.kind for parameter in inspect.signature(error_class(name)).parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] + [inspect.Parameter.KEYWORD_ONLY] * (len(kinds) - 1)


@EACH
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_an_error_survives_copy_and_pickle(name: str, again: Callable[[Any], Any]) -> None:
    error = full(name)
    error.add_note("a note")
    twin = again(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)
    assert twin.__notes__ == ["a note"]


@EACH
def test_an_errors_order_id_can_be_filled_in_later(name: str) -> None:
    error = error_class(name)("what went wrong")
    error.order_id = ORDER_ID
    assert error.order_id == ORDER_ID
    assert ORDER_ID not in str(error) + repr(error)


# --- foreign words -----------------------------------------------------------------------------------------------------------------


@given(st.text(st.characters()), st.characters())
def test_printable_text_is_printable_and_what_was_printable_stays(text: str, char: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert printable(shown) == shown
    assert printable(text + char) == shown + (char if char.isprintable() else printable(char))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("Grüße 漢字 🙂", "Grüße 漢字 🙂"),
        ("a\r\nb\tc\0", r"a\r\nb\tc\x00"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202eevil", r"\u202eevil"),
        ("\u2028\x85\xa0", r"\u2028\x85\xa0"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
    ids=ascii,
)
def test_what_cannot_be_printed_becomes_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


# --- everything that httpx raises --------------------------------------------------------------------------------------------------


def subclasses(cls: type[Exception]) -> Iterator[type[Exception]]:
    yield cls
    for below in cls.__subclasses__():
        yield from subclasses(below)


def exceptions_of_httpx() -> list[type[Exception]]:
    public = {value for name in httpx.__all__ if isinstance(value := getattr(httpx, name), type) and issubclass(value, Exception)}
    below = {one for cls in public for one in subclasses(cls) if one.__module__.partition(".")[0] == "httpx"}
    return sorted(public | below, key=lambda cls: cls.__name__)


def an_instance(cls: type[Exception]) -> Exception:
    request = httpx.Request("GET", "https://example.org")
    offered = {"message": f"a {cls.__name__}", "request": request, "response": httpx.Response(500, request=request)}
    wanted = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in offered.items() if name in wanted})


class Broken(httpx.AsyncBaseTransport):
    """A transport that fails as httpx's does: from an error of the system, in the depth of a call."""

    def __init__(self, error: Exception, *, late: bool) -> None:
        self.error = error
        self.late = late

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        del request
        return httpx.Response(200, stream=self.body() if self.late else self.fail())

    def body(self) -> httpx.AsyncByteStream:
        fail = self.fail

        class Body(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                yield b'{"status": "OK", "orderId": "abc", '
                fail()

        return Body()

    def fail(self) -> NoReturn:
        try:
            raise OSError(104, "Connection reset by peer")  # noqa: TRY301 - it must have a traceback
        except OSError as error:
            raise self.error from error


def test_the_walk_over_httpx_finds_what_it_is_known_to_raise() -> None:
    names = {cls.__name__ for cls in exceptions_of_httpx()}
    assert {"HTTPError", "ConnectTimeout", "PoolTimeout", "ReadError", "ProxyError", "RemoteProtocolError", "UnsupportedProtocol"} <= names
    assert {
        "DecodingError",
        "TooManyRedirects",
        "HTTPStatusError",
        "InvalidURL",
        "CookieConflict",
        "StreamError",
        "ResponseNotRead",
    } <= names


LATE = pytest.mark.parametrize("late", [False, True], ids=["at once", "in the body"])
FOREIGN = pytest.mark.parametrize("cls", exceptions_of_httpx(), ids=lambda cls: cls.__name__)


@FOREIGN
@LATE
async def test_what_httpx_raises_becomes_a_transport_error(cls: type[Exception], *, late: bool) -> None:
    original = an_instance(cls)
    async with Client(transport=Broken(original, late=late), attempts=1) as client:
        with pytest.raises(TransportError) as caught:
            await client.get_order_status(ORDER_ID)
    error = caught.value
    assert type(error) is TransportError
    assert error.__cause__ is original
    assert error.order_id == ORDER_ID
    assert "GET /orderstatus" in str(error)
    assert ORDER_ID not in str(error)
    links = [link for link in _chain(error) if link is not error]
    assert {type(link) for link in links} == {cls, ConnectionResetError}
    assert all(link.__traceback__ is None for link in links)


@FOREIGN
@LATE
async def test_what_httpx_raises_leaves_the_outcome_of_a_charge_unknown(cls: type[Exception], *, late: bool) -> None:
    original = an_instance(cls)
    async with Client(api_key="sk-secret-key", transport=Broken(original, late=late)) as client:
        with pytest.raises(OutcomeUnknown) as caught:
            await client.create_order(187, "tg", immediate=True)
    cause = caught.value.__cause__
    assert type(cause) is TransportError
    assert cause.__cause__ is original
    assert all(link.__traceback__ is None for link in _chain(original))


@pytest.mark.parametrize(
    "original",
    [
        OSError(5, "input/output error"),
        ValueError("of the transport's own"),
        KeyError("x"),
        AssertionError(),
        RecursionError("deep"),
        TransportError("ours, from a transport of the caller's"),
        ExceptionGroup("several", [httpx.ReadError("one"), ValueError("another")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_another_library_raises_becomes_a_transport_error_too(original: Exception) -> None:
    async with Client(transport=Broken(original, late=False), attempts=1) as client:
        with pytest.raises(TransportError) as caught:
            await client.get_order_status(ORDER_ID)
    assert not isinstance(caught.value, BaseExceptionGroup)
    assert caught.value is not original
    assert all(link.__traceback__ is None for link in _chain(caught.value) if link is not caught.value)


class Stop(BaseException):
    """As loud as a ``KeyboardInterrupt``, and no loop cares for it."""


class Grouping(httpx.AsyncBaseTransport):
    """A transport that wraps whatever ends it in groups, as an outdated task group of its own would."""

    def __init__(self, *others: BaseException) -> None:
        self.others = others

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        del request
        try:
            await anyio.sleep(60)
        except BaseException as cancellation:  # noqa: BLE001 - it is raised again below
            inner = BaseExceptionGroup("inner", [cancellation, *self.others])
        raise BaseExceptionGroup("outer", [ValueError("x"), inner])


async def test_a_cancellation_in_a_group_stays_a_cancellation() -> None:
    async with Client(transport=Grouping()) as client:
        with anyio.move_on_after(1) as scope:
            await client.get_order_status(ORDER_ID)
    assert scope.cancelled_caught


async def test_what_is_louder_than_a_cancellation_comes_out_of_a_group_alone() -> None:
    stop = Stop()
    async with Client(transport=Grouping(stop)) as client:
        with pytest.raises(Stop) as caught, anyio.move_on_after(1):
            await client.get_order_status(ORDER_ID)
    assert caught.value is stop


# --- what the caller is handling ---------------------------------------------------------------------------------------------------


def no_such_file() -> NoReturn:
    raise OSError(2, "No such file", "/home/somebody/seed.txt") from ssl.SSLCertVerificationError(1, "certificate verify failed")


async def test_what_the_caller_is_handling_is_neither_read_nor_touched() -> None:
    async with serve([closes, {"balance": 7}, hangs]) as server, Client(api_key=KEY, base_url=server.url, trust_env=False) as client:
        with pytest.raises(OSError, match="No such file") as theirs:
            try:
                no_such_file()
            finally:
                assert await client.get_balance() == 7  # nobody's certificate was refused: it is read again
                with anyio.move_on_after(1) as soon:
                    await client.get_balance()
                assert soon.cancelled_caught
    assert "no_such_file" in [frame.name for frame in traceback.extract_tb(theirs.tb)]


async def test_no_word_of_what_the_caller_is_handling_is_in_our_error() -> None:
    async with serve([closes]) as server, Client(base_url=server.url, trust_env=False, attempts=1) as client:
        with pytest.raises(OSError, match="No such file"):
            try:
                no_such_file()
            finally:
                with pytest.raises(TransportError) as caught:
                    await client.get_order_status("order-to-watch-1")
    assert "seed" not in str(caught.value)
