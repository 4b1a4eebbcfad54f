"""What a reply means, decided without a loop: refusals, unreadable bodies, redirects, compression, Retry-After; no secret in a message."""

import gzip
import json
import logging
import math
import pickle
import re
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sms4sats_async import Client
from sms4sats_async.errors import APIError, AuthenticationError, DecodeError, OutcomeUnknown, RateLimited, Sms4SatsError, TransportError
from sms4sats_async.models import MalformedReply, order_id_in
from sms4sats_async.transport import (
    LIST_LIMIT,
    LONGEST_RETRY_AFTER,
    STATUS_LIMIT,
    Call,
    Repeat,
    Reply,
    Secret,
    _backoff,
    _chain,
    _conclude,
    _decided,
    _final,
    _ground,
    _is_tls,
    _may_repeat,
    _Outcome,
    _transport_error,
    _unanswered,
    excerpt,
    read_reply,
    retry_after,
)

SAMPLES = Path(__file__).parent / "samples"
ORDER_ID = "0123456789abcdef" * 4
PHONE = "+12025550143"
MESSAGE = "Meet me at the old harbour, Alice"
STATUS_CALL: Call[Any] = Call("GET", "/orderstatus", lambda payload: payload, {"orderId": ORDER_ID}, order_id=ORDER_ID)
SEND_CALL: Call[Any] = Call(
    "POST",
    "/createsendorder",
    lambda payload: payload,
    body={"message": MESSAGE, "phone": PHONE},
    repeat=Repeat.SPEND,
    salvage=order_id_in,
    doubt="the SMS may have been sent",
)
AVAILABLE_CALL: Call[Any] = Call("GET", "/", lambda payload: payload, json=False)
CALLS = [STATUS_CALL, SEND_CALL, AVAILABLE_CALL]


def reply(body: bytes | str | object = b"", status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    if isinstance(body, str):
        body = body.encode()
    return Reply(status, httpx.Headers(dict(headers or {})), body if isinstance(body, bytes) else json.dumps(body).encode())


def read(
    body: bytes | str | object = b"", status: int = 200, headers: Mapping[str, str] | None = None, *, call: Call[Any] = STATUS_CALL
) -> Any:
    return read_reply(call, reply(body, status, headers))


def refused(
    body: bytes | str | object, status: int = 200, headers: Mapping[str, str] | None = None, *, call: Call[Any] = STATUS_CALL
) -> APIError:
    with pytest.raises(APIError) as caught:
        read(body, status, headers, call=call)
    assert caught.value.__cause__ is None
    return caught.value


def unreadable(
    body: bytes | str | object, status: int = 200, headers: Mapping[str, str] | None = None, *, call: Call[Any] = STATUS_CALL
) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        read(body, status, headers, call=call)
    assert caught.value.status_code == status
    assert caught.value.__cause__ is None
    return caught.value


# --- a refusal ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("cancelorder_error_500", 500),
        ("cancelorder_too_early", 500),
        ("createorder_error_reason", 200),
        ("error_500", 500),
        ("fund_error_500", 500),
    ],
)
def test_a_sample_of_a_refusal_is_an_api_error_whatever_its_http_status(name: str, status: int) -> None:
    body = (SAMPLES / f"{name}.json").read_bytes()
    reason = json.loads(body)["reason"]
    for code in (200, 201, 400, 404, 410, 500, 503, status):
        error = refused(body, code)
        assert type(error) is APIError
        assert (error.status_code, error.reason) == (code, reason)
        assert str(error) == f"GET /orderstatus: HTTP {code}: {reason}"


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({"status": "error", "reason": "no"}, id="as documented"),
        pytest.param({"status": "ERROR", "reason": "no"}, id="upper case"),
        pytest.param({"status": "Error", "reason": "no", "paid": True, "code": "1"}, id="beside other fields"),
        pytest.param({"reason": "no"}, id="a reason and no status"),
    ],
)
def test_http_200_does_not_make_a_refusal_a_success(payload: object) -> None:
    assert refused(payload).reason == "no"


@pytest.mark.parametrize("payload", [{"status": "error"}, {"status": "error", "reason": None}, {"status": "error", "reason": ""}], ids=repr)
def test_a_refusal_without_a_reason_says_so(payload: object) -> None:
    error = refused(payload)
    assert error.reason is None
    assert str(error) == "GET /orderstatus: HTTP 200: no reason given"


@pytest.mark.parametrize(
    "payload",
    [{"status": "OK"}, {"status": "OK", "reason": "all is well"}, {"paid": False}, {"status": "OK", "error": "No number"},
     {"reason": None}, {"reason": ""}, [], [{"status": "error", "reason": "no"}], None, "error", 5, 1.5, True, {}, ""],
    ids=repr,
)  # fmt: skip
def test_json_that_is_no_refusal_is_handed_on(payload: object) -> None:
    assert read(json.dumps(payload)) == payload


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param("<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>", id="HTML"),
        pytest.param("", "no reason given", id="nothing"),
        pytest.param("[]", "no reason given", id="a list"),
        pytest.param("null", "no reason given", id="null"),
        pytest.param('"no"', "no reason given", id="a string"),
        pytest.param('{"paid": true}', "no reason given", id="another object"),
        pytest.param('{"status": "error", "rea', '{"status": "..", ".."', id="half an object"),
        pytest.param("upstream connect error", "upstream connect error", id="text"),
    ],
)
@pytest.mark.parametrize("status", [400, 404, 410, 500, 502, 503, 504, 511, 599])
def test_an_error_status_is_a_refusal_without_a_reason_whatever_the_body(body: str, words: str, status: int) -> None:
    error = refused(body, status)
    assert type(error) is APIError
    assert (error.status_code, error.reason) == (status, None)
    assert str(error) == f"GET /orderstatus: HTTP {status}: {words}"


# --- the key -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("body", ["", "<html>forbidden</html>", '{"status": "error", "reason": "no"}', '{"reason": "X-API-Key"}', "[]"])
def test_401_and_403_are_about_the_key(status: int, body: str) -> None:
    error = refused(body, status)
    assert type(error) is AuthenticationError
    assert error.status_code == status
    assert str(error).startswith(f"GET /orderstatus: HTTP {status}: ")


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "reason", ["X-API-Key header is missing.", "invalid api key", "ApiKey?", "no api_key", "wrong API-KEY", ["api key"]]
)
def test_a_refusal_that_names_the_key_is_about_the_key(status: int, reason: object) -> None:
    assert type(refused({"status": "error", "reason": reason}, status)) is AuthenticationError


@pytest.mark.parametrize(
    ("status", "reason"), [(400, "bad country"), (400, "key"), (500, "the api key store is down"), (404, "api key"), (400, None)]
)
def test_a_refusal_that_does_not_is_not(status: int, reason: str | None) -> None:
    assert type(refused({"status": "error", "reason": reason}, status)) is APIError


def test_the_sample_of_a_missing_key_is_an_authentication_error() -> None:
    error = refused((SAMPLES / "error_400_missing_api_key.json").read_bytes(), 400)
    assert type(error) is AuthenticationError
    assert error.reason == "X-API-Key header is missing."


# --- the server's words ------------------------------------------------------------------------------------------------------------


def test_a_reason_that_is_no_text_is_told_as_json() -> None:
    for reason in ({"code": 5, "why": ["x"]}, ["a", None], 5, 1.5, True, False, 0, {}, []):
        assert refused({"status": "error", "reason": reason}).reason == json.dumps(reason)


def test_a_reason_of_a_megabyte_is_cut_at_300_characters() -> None:
    for reason in ("x" * 1_000_000, {"x": "y" * 1_000_000}):
        error = refused({"status": "error", "reason": reason}, 500)
        assert len(error.reason or "") == 300
        assert len(str(error)) < 340


def test_a_reason_is_kept_as_it_came_and_escaped_in_the_message() -> None:
    reason = "\x1b[31mno\r\nINFO forged line\0\u202e\ud800"
    error = refused({"status": "error", "reason": reason})
    assert error.reason == reason
    assert str(error) == r"GET /orderstatus: HTTP 200: \x1b[31mno\r\nINFO forged line\x00\u202e\ud800"


@given(st.text(st.characters()), st.sampled_from([200, 400, 403, 429, 500]))
def test_any_reason_makes_a_message_of_one_printable_line(reason: str, status: int) -> None:
    error = refused({"status": "error", "reason": reason}, status)
    assert str(error).isprintable()
    assert error.reason == (reason[:300] or None)


# --- what cannot be read -----------------------------------------------------------------------------------------------------------

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>login to wifi</html>", id="HTML"),
        pytest.param(b"OK", id="text"),
        pytest.param(b'{"status": "OK", "pa', id="half an object"),
        pytest.param(b'{"status": "OK"} and more', id="more than JSON"),
        pytest.param(b'{"code": 007321}', id="a number with leading zeros"),
        pytest.param(b'{"code": NaN}', id="NaN"),
        pytest.param(b'{"code": Infinity}', id="Infinity"),
        pytest.param(b'{"code": -Infinity}', id="-Infinity"),
        pytest.param(b'{"code": ' + b"1" * 5000 + b"}", id="5000 digits"),
        pytest.param(DEEP, id="deep lists"),
        pytest.param(b'{"a":' * 10_000, id="deep objects"),
        pytest.param(b'{"a": "\xff"}', id="no UTF-8"),
        pytest.param('{"a": "é"}'.encode("latin-1"), id="Latin-1"),
        pytest.param(b"\xef\xbb\xbf", id="only a BOM"),
        pytest.param(b"\xff\xfe{", id="half a UTF-16 character"),
        pytest.param(b"\0", id="NUL"),
        pytest.param(b" \n", id="blanks"),
        pytest.param(b"{'status': 'OK'}", id="single quotes"),
        pytest.param(b'{"a": "\n"}', id="a newline in a string"),
    ],
)
def test_a_good_status_with_a_body_that_is_no_json_is_a_decode_error(body: bytes) -> None:
    error = unreadable(body, 200, {"Content-Type": "text/html; charset=utf-8"})
    assert str(error).startswith("GET /orderstatus: HTTP 200: not JSON but text/html; charset=utf-8")
    assert "no content type" in str(unreadable(body))
    assert str(error).isprintable()
    assert refused(body, 502).reason is None


@pytest.mark.parametrize("status", [200, 201, 204])
def test_an_empty_body_is_called_so(status: int) -> None:
    error = unreadable(b"", status)
    assert str(error) == f"GET /orderstatus: HTTP {status}: an empty body"
    assert error.excerpt == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_every_encoding_of_json_is_read(encoding: str) -> None:
    assert read('{"paid": true, "country": "Österreich"}'.encode(encoding)) == {"paid": True, "country": "Österreich"}


def test_odd_json_is_read_as_json_is() -> None:
    assert read(b'{"a": "\\ud800"}') == {"a": "\ud800"}
    assert read('{"a": "\ud800"}'.encode("utf-8", "surrogatepass")) == {"a": "\ud800"}
    assert read(b'{"a": 1, "a": 2}') == {"a": 2}
    assert read(b'{"a": 1e400}') == {"a": math.inf}
    assert read(b" \r\n{}\n ") == {}
    assert read(b"9" * 4000) == int("9" * 4000)


def test_a_long_content_type_is_cut_and_escaped() -> None:
    error = unreadable(b"x", 200, {"Content-Type": "text/\x1b" + "h" * 1000})
    assert str(error) == rf"GET /orderstatus: HTTP 200: not JSON but text/\x1b{'h' * 71}: x"
    assert str(unreadable(b"x")) == "GET /orderstatus: HTTP 200: not JSON but no content type: x"


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_call_that_only_asks_for_the_http_status_reads_no_body(status: int) -> None:
    assert read(b"<html>anything", status, call=AVAILABLE_CALL) is None
    assert read(b"", status, {"Content-Encoding": "br"}, call=AVAILABLE_CALL) is None
    assert refused(b"<html>", 503, call=AVAILABLE_CALL).status_code == 503


# --- redirects ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("https://evil.example/login?orderId=abc&key=def", "evil.example"),
        ("https://me:secret@evil.example:8443/", "evil.example"),
        ("//evil.example/x", "evil.example"),
        ("HTTP://EVIL.example", "evil.example"),
        ("http://[2001:db8::1]/", "2001:db8::1"),
        ("/login", "nowhere"),
        ("", "nowhere"),
        ("https://h:port/", "h"),
    ],
)
def test_a_redirect_is_not_followed_and_names_nothing_but_the_host(status: int, location: str, host: str) -> None:
    for call in CALLS:
        error = unreadable(b"", status, {"Location": location}, call=call)
        assert str(error) == f"{call}: HTTP {status}: a redirect to {host}"
    assert str(unreadable(b"", status)).endswith("a redirect to nowhere")


def test_a_long_name_of_a_host_is_cut_at_80_characters() -> None:
    error = unreadable(b"", 302, {"Location": f"https://{'host.' * 20}example/"})
    assert str(error) == f"GET /orderstatus: HTTP 302: a redirect to {'host.' * 16}"


def test_a_redirect_is_one_even_with_good_json_in_it() -> None:
    unreadable({"status": "OK", "paid": True}, 302, {"Location": "https://evil.example"})


# --- compression that nobody asked for ---------------------------------------------------------------------------------------------

GOOD = b'{"paid": true}'


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(GOOD)),
        ("GZIP", gzip.compress(GOOD)),
        (" x-gzip ", gzip.compress(GOOD)),
        ("deflate", zlib.compress(GOOD)),
        ("identity", GOOD),
        ("", GOOD),
    ],
    ids=["gzip", "capitals", "x-gzip", "deflate", "identity", "none"],  # the time of day is in a gzip
)
def test_a_compression_is_undone(encoding: str, packed: bytes) -> None:
    assert read(packed, 200, {"Content-Encoding": encoding}) == {"paid": True}


@pytest.mark.parametrize(
    ("encoding", "packed", "problem"),
    [
        pytest.param("gzip", gzip.compress(GOOD)[:-1], "cut off", id="cut in the check sum"),
        pytest.param("gzip", gzip.compress(GOOD)[:15], "cut off", id="cut in the data"),
        pytest.param("gzip", b"", "cut off", id="empty"),
        pytest.param("gzip", GOOD, "Error -3", id="not compressed at all"),
        pytest.param("gzip", gzip.compress(GOOD)[:-8] + b"\0" * 8, "Error -3", id="a wrong check sum"),
        pytest.param("br", b"x", r"unknown encoding br\)", id="br"),
        pytest.param("gzip, gzip", gzip.compress(gzip.compress(GOOD)), r"unknown encoding gzip, gzip\)", id="twice"),
        pytest.param("\x1b" + "x" * 500, b"x", r"unknown encoding \\x1bx{16}\)", id="a long name"),
        pytest.param("gzip", gzip.compress(b" " * (STATUS_LIMIT + 1)), f"more than {STATUS_LIMIT} bytes unpacked", id="one byte too long"),
        pytest.param("gzip", gzip.compress(b" " * 50_000_000), f"more than {STATUS_LIMIT} bytes unpacked", id="a bomb"),
    ],
)
def test_a_broken_compression_is_a_decode_error(encoding: str, packed: bytes, problem: str) -> None:
    error = unreadable(packed, 200, {"Content-Encoding": encoding})
    assert re.search(rf"broken compression \(({problem})", str(error))
    assert str(error).isprintable()
    assert refused(packed, 500, {"Content-Encoding": encoding}).reason is None


def test_a_small_bomb_does_not_become_a_large_one() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    tracemalloc.start()
    try:
        unreadable(bomb, 200, {"Content-Encoding": "gzip"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_a_reply_may_be_as_long_as_the_limit_when_it_is_unpacked() -> None:
    body = b'"' + b"x" * (STATUS_LIMIT - 2) + b'"'
    assert len(read(gzip.compress(body), 200, {"Content-Encoding": "gzip"})) == STATUS_LIMIT - 2
    longer: Call[Any] = Call("GET", "/getCountries", list, limit=LIST_LIMIT)
    assert read(gzip.compress(b" " * 1_000_000 + b"[]"), 200, {"Content-Encoding": "gzip"}, call=longer) == []


# --- Retry-After -------------------------------------------------------------------------------------------------------------------

DATE = "Mon, 04 May 2026 03:02:01 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0), ("5", 5.0), (" 5 ", 5.0), ("0.25", 0.25), ("-5", 0.0), ("-0.0", 0.0), ("1e99", 1e99), ("31536000", 31_536_000.0),
        ("NaN", None), ("nan", None), ("inf", None), ("-Infinity", None), ("1e999", None), ("", None), ("soon", None), ("5 s", None),
        ("0x5", None), ("Mon, 04 May 2026 03:02:31 GMT", 30.0), ("Monday, 04-May-26 03:02:31 GMT", 30.0),
        ("Mon May  4 03:02:31 2026", None),
        ("Mon, 04 May 2026 05:02:31 +0200", 30.0), ("Mon, 04 May 2026 03:01:01 GMT", 0.0), ("Tue, 04 May 2027 03:02:01 GMT", 31_536_000.0),
        ("Mon, 32 May 2026 03:02:31 GMT", None), ("Mon, 04 May 2026 03:02:31 -0000", None), ("Mon, 04 May 10000 03:02:31 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_against_the_replys_own(value: str, seconds: float | None) -> None:
    headers = httpx.Headers({"Retry-After": value, "Date": DATE})
    assert retry_after(headers) == seconds
    error = refused(b"", 429, headers)
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


@pytest.mark.parametrize("date", [{}, {"date": ""}, {"date": "today"}, {"date": "Mon, 04 May 2026 03:02:01 -0000"}], ids=repr)
def test_a_date_with_nothing_to_hold_it_against_says_nothing(date: dict[str, str]) -> None:
    assert retry_after({"retry-after": "Mon, 04 May 2026 03:02:31 GMT"} | date) is None
    assert retry_after({"retry-after": "7"} | date) == 7.0


def test_without_the_header_a_rate_limit_says_nothing_of_time() -> None:
    error = refused({"status": "error", "reason": "api key over quota"}, 429)
    assert type(error) is RateLimited
    assert (error.retry_after, error.reason, error.status_code) == (None, "api key over quota", 429)
    assert str(error) == "GET /orderstatus: HTTP 429: api key over quota"


SHORT_NUMBERS = st.integers(-99, 9999).map(str)
DATES = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "Sunday", "", "x"]),
    SHORT_NUMBERS,
    st.sampled_from(["Jan", "May", "december", "xyz", ""]),
    SHORT_NUMBERS,
    SHORT_NUMBERS,
    SHORT_NUMBERS,
    SHORT_NUMBERS,
    st.sampled_from(["GMT", "EST", "+0200", "-0000", "+9999", "", "x"]),
)
TIMES = st.text(st.characters(exclude_categories=["Nd"])) | DATES | st.floats().map(str) | st.integers().map(str) | st.just(DATE)


@given(TIMES, TIMES)
def test_no_retry_after_is_anything_but_none_or_a_time_to_wait(value: str, date: str) -> None:
    seconds = retry_after({"retry-after": value, "date": date})
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


# --- what a message shows of a body ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", ""),
        (b"<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>"),
        (b"code 48010, one of 12", "code .., one of 12"),
        (b"12 34 56", ".."),
        (b"+1 202 555 0143", "+.."),
        (b"sk-0123456789abcdef!", "..!"),
        (b'{"status": "OK", "code": "AB-CDE", "n": 12025550143, "x": "', '{"status": "..", "code": "..", "n": .., "x": ".."'),
        (b' [{"key" : "a\\"b", "co', ' [{"key" : "..", ".."'),
        (b"\x1b[31m\r\n\0", r"\x1b[31m\r\n"),
        (b"<p>\xff\xfe", "<p>\ufffd\ufffd"),
        (b'\xef\xbb\xbf{"status":"OK","code":"AB-CDE","number":"x', '{"status":"..","code":"..","number":".."'),
        ('{"code":"AB-CDE"'.encode("utf-16-be"), '{"code":".."'),
        (b'HTTP {"code":"ABCDEF"', 'HTTP {"code":".."'),
        (b'{"code":"AB\\\nCDE"', '{"code":".."'),
        (b"x " * 1000, "x " * 40),
    ],
)
def test_an_excerpt_shows_the_shape_and_no_values(body: bytes, shown: str) -> None:
    assert excerpt(body) == shown


BODIES = st.one_of(
    st.binary(max_size=600),
    st.text(max_size=300).map(str.encode),
    st.lists(
        st.sampled_from([ORDER_ID, PHONE, "48010", "48 01 0", " ", "\n", '"', "{", "[", ":", ",", "\\", "<p>", "1", "a", "é", "\0"])
    ).map(lambda parts: "".join(parts).encode()),
)
ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[rnt])")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b' \n["abcd", "efgh"', ' \\n["..", ".."'),
        (b'\xef\xbb\xbf\xef\xbb\xbf["abcd"]', '[".."]'),
        (b"XML is spoken here", "XML is spoken here"),
        (b'{"abcd', '{".."'),
        (b"key ABCDEFGHIJKLMNOPQRST", "key .."),
    ],
    ids=["blanks before JSON", "two byte order marks", "an X at the beginning", "an object cut in its first name", "in capitals"],
)
def test_an_excerpt_is_not_misled_by_where_a_body_begins_or_ends(body: bytes, shown: str) -> None:
    assert excerpt(body) == shown


@given(BODIES)
@example((b"x" * 15 + b" ") * 40)
@example(b"[" + b'"' * 500)
@example(b"x" * 400 + ORDER_ID.encode())
def test_an_excerpt_is_short_and_printable_and_shows_no_long_token_of_the_body(body: bytes) -> None:
    shown = excerpt(body)
    assert shown.isprintable()
    bare = ESCAPE.sub("\0", shown)
    assert len(bare) <= 80
    assert re.search(r"[0-9]{3}", bare) is None
    assert re.search(r"[0-9A-Za-z+/=_-]{16}", bare) is None


@given(st.dictionaries(st.sampled_from(["status", "code", "number"]), st.text("ABCXYZ-", min_size=3, max_size=12), min_size=1), st.data())
def test_an_excerpt_of_json_that_was_cut_shows_no_value(payload: dict[str, str], data: st.DataObject) -> None:
    body = json.dumps(payload)
    shown = excerpt(body[: data.draw(st.integers(0, len(body)))].encode())
    assert re.search(r"[A-Z]", shown) is None


# --- secrets -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "secret"), [(STATUS_CALL, ORDER_ID), (SEND_CALL, PHONE), (SEND_CALL, MESSAGE)])
@pytest.mark.parametrize(
    "frame",
    [
        pytest.param('{{"status": "error", "reason": "cannot do {}"}}', id="in the reason"),
        pytest.param('{{"status": "error", "reason": {{"of": "{}"}}}}', id="in a reason that is an object"),
        pytest.param('{{"status": "OK", "echo": "{}", "x', id="in half an object"),
        pytest.param('{{"{}": "OK", "x', id="as a name in half an object"),
        pytest.param("<p>cannot do {}</p>", id="in a page"),
        pytest.param("{}", id="alone"),
    ],
)
@pytest.mark.parametrize("status", [200, 302, 400, 401, 429, 500])
def test_what_we_sent_and_the_server_repeats_is_in_no_message(call: Call[Any], secret: str, frame: str, status: int) -> None:
    with pytest.raises(Sms4SatsError) as caught:
        read(frame.format(secret), status, {"Location": f"https://{secret}.example", "Content-Type": f"text/{secret}"}, call=call)
    assert secret not in str(caught.value)
    assert secret not in repr(caught.value)
    assert secret not in getattr(caught.value, "excerpt", "")


def test_short_words_that_we_sent_are_no_secrets() -> None:
    call: Call[Any] = Call("POST", "/createorder", list, body={"country": 187, "service": "tg", "isRental": True, "none": None})
    assert call.without_secrets("tg 187 True None") == "tg 187 True None"
    assert call.without_secrets("") == ""


def test_a_call_and_a_reply_show_no_secret() -> None:
    for call in CALLS:
        shown = repr(call) + str(call)
        assert not any(secret in shown for secret in (ORDER_ID, PHONE, MESSAGE))
    assert str(STATUS_CALL) == "GET /orderstatus"
    assert "004217" not in repr(reply({"code": "004217"}))


def test_a_secret_shows_itself_to_nobody_but_who_asks() -> None:
    secret = Secret("sk-secret")
    assert secret.reveal() == "sk-secret"
    assert "sk-secret" not in f"{secret} {secret!r} {[secret]} {vars(Secret)}"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)
    with pytest.raises(AttributeError):
        secret.other = 1  # type: ignore[attr-defined]  # slots: there is no __dict__ that a dumper of frames could walk


# --- a reply, whole ----------------------------------------------------------------------------------------------------------------


def conclude(call: Call[Any], answer: Reply, *, complete: bool = True) -> _Outcome[Any]:
    outcome: _Outcome[Any] = _Outcome(sent=True)
    _conclude(call, answer, outcome, whole=complete)
    assert outcome.concluded
    return outcome


def decoder(error: ValueError) -> Any:
    def decode(payload: object) -> Any:
        raise error

    return decode


def test_a_good_reply_is_a_value() -> None:
    outcome = conclude(STATUS_CALL, reply({"paid": True}))
    assert (outcome.value, outcome.error) == ({"paid": True}, None)


@pytest.mark.parametrize("error", [MalformedReply("no payreq", "abc"), MalformedReply("no orderId"), ValueError("of a decoder's own")])
def test_a_decoder_that_refuses_makes_a_decode_error(error: ValueError) -> None:
    outcome = conclude(Call("POST", "/createorder", decoder(error)), reply({"status": "OK", "code": "ABCDEF"}))
    assert isinstance(outcome.error, DecodeError)
    assert str(outcome.error) == f'POST /createorder: HTTP 200: {error}: {{"status": "..", "code": ".."}}'
    assert outcome.error.order_id == getattr(error, "order_id", None)
    assert outcome.error.__cause__ is None
    assert outcome.error.__traceback__ is None


def test_a_reply_that_is_too_long_is_a_decode_error() -> None:
    outcome = conclude(STATUS_CALL, reply({"paid": True}), complete=False)
    assert isinstance(outcome.error, DecodeError)
    assert f"more than {STATUS_LIMIT} bytes" in str(outcome.error)


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        ('{"status": "OK", "orderId": "abc", "pay', 200, "abc"),
        ('{"status": "OK", "orderId": "abc", "payreq": "no invoice"}', 200, "abc"),
        ('{"status": "error", "reason": "no", "orderId": "abc"}', 500, "abc"),
        ("<html>", 502, None),
    ],
)
@pytest.mark.parametrize("immediate", [True, False])
async def test_an_order_id_is_saved_out_of_a_reply_that_is_no_order(body: str, status: int, found: str | None, *, immediate: bool) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text=body))
    async with Client(api_key="sk-secret-key", transport=transport, attempts=1) as client:
        with pytest.raises(Sms4SatsError) as caught:
            await client.create_order(187, "tg", immediate=immediate)
    assert caught.value.order_id == found


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["error", "OK", "api key"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["status", "reason", "orderId"]) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode())
ANY_BODY = (
    BODIES | JSON_LIKE | st.tuples(JSON_LIKE, st.binary(max_size=3)).map(b"".join) | st.sampled_from([DEEP, b"\xef\xbb\xbf{}", b"9" * 5000])
)
PACKED = st.tuples(st.just("gzip"), ANY_BODY.map(gzip.compress)) | st.tuples(st.just("deflate"), ANY_BODY.map(zlib.compress))
ENCODED = st.tuples(st.sampled_from(["", "identity", "gzip", "deflate", "br"]) | st.text("abc,; ", max_size=5), ANY_BODY) | PACKED
LOCATIONS = st.sampled_from(["", "/x", "https://evil.example", "//", "https://h:port", "?", "http:///"]) | st.text(
    "abc/:.?#@% ", max_size=20
)


@given(
    encoded=ENCODED,
    status=st.sampled_from([200, 204, 301, 302, 400, 401, 403, 404, 429, 500, 502, 511]) | st.integers(200, 599),
    location=LOCATIONS,
    times=st.tuples(TIMES, TIMES),
    call=st.sampled_from(CALLS),
)
def test_any_reply_is_a_value_a_decode_error_or_an_api_error(
    encoded: tuple[str, bytes], status: int, location: str, times: tuple[str, str], call: Call[Any]
) -> None:
    headers = {"content-encoding": encoded[0], "location": location, "retry-after": times[0], "date": times[1], "content-type": times[0]}
    try:
        read_reply(call, Reply(status, headers, encoded[1]))
    except (DecodeError, APIError) as error:
        assert error.status_code == status  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017
        assert len(getattr(error, "reason", None) or "") <= 300  # noqa: PT017
        assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301, PT017
    else:
        assert 200 <= status < 300


# --- what may be repeated ----------------------------------------------------------------------------------------------------------

NOTHING_CAME = TransportError("x")
NO_JSON = DecodeError("x", status_code=200)
GATEWAY = APIError("x", status_code=502)
REASONED = APIError("x", status_code=500, reason="backend error")
NOT_FOUND = APIError("x", status_code=404)
LIMITED = RateLimited("x")
NO_KEY = AuthenticationError("x", status_code=401)


@pytest.mark.parametrize(
    ("error", "unanswered", "decided"),
    [
        (NOTHING_CAME, True, False),
        (NO_JSON, True, False),
        (GATEWAY, True, False),
        (APIError("x", status_code=500), True, False),
        (APIError("x", status_code=499), False, False),
        (REASONED, False, True),
        (NOT_FOUND, False, False),
        (LIMITED, False, True),
        (NO_KEY, False, False),
        (AuthenticationError("x", status_code=400, reason="api key"), False, True),
    ],
    ids=[
        "nothing came",
        "no JSON",
        "gateway",
        "500 without words",
        "499 without words",
        "reasoned",
        "not found",
        "limited",
        "no key",
        "key refused",
    ],
)
def test_an_error_is_told_from_an_answer(error: Sms4SatsError, *, unanswered: bool, decided: bool) -> None:
    assert _unanswered(error) is unanswered
    assert _decided(error) is decided


@pytest.mark.parametrize(
    ("repeat", "error", "sent", "unknown", "again"),
    [
        *((Repeat.READ, error, True, 0, True) for error in (NOTHING_CAME, NO_JSON, GATEWAY, LIMITED)),
        *((Repeat.READ, error, True, 0, False) for error in (REASONED, NOT_FOUND, NO_KEY)),
        *((Repeat.INVOICE, error, True, 1, True) for error in (NOTHING_CAME, NO_JSON, GATEWAY)),
        *((Repeat.INVOICE, error, True, 2, False) for error in (NOTHING_CAME, NO_JSON, GATEWAY)),
        *((Repeat.INVOICE, error, True, 1, False) for error in (REASONED, NOT_FOUND, NO_KEY)),
        *((Repeat.INVOICE, error, False, 3, True) for error in (NOTHING_CAME, LIMITED)),
        (Repeat.INVOICE, LIMITED, True, 0, True),
        *((Repeat.SPEND, error, True, 1, False) for error in (NOTHING_CAME, NO_JSON, GATEWAY, REASONED, NOT_FOUND, NO_KEY, LIMITED)),
        (Repeat.SPEND, NOTHING_CAME, False, 0, True),
    ],
)
def test_what_is_repeated_follows_from_what_it_does(repeat: Repeat, error: Sms4SatsError, sent: bool, unknown: int, again: bool) -> None:
    assert _may_repeat(repeat, error, sent=sent, unknown=unknown) is again


def test_only_a_charge_whose_outcome_is_unknown_ends_as_such() -> None:
    lost = TransportError("POST /createsendorder: reset", order_id="abc")
    assert _final(SEND_CALL, lost, unknown=0) is lost
    assert _final(STATUS_CALL, lost, unknown=1) is lost
    final = _final(SEND_CALL, lost, unknown=1)
    assert type(final) is OutcomeUnknown
    assert str(final) == "POST /createsendorder: reset; the SMS may have been sent: look before you repeat it"
    assert final.order_id == "abc"
    assert final.__cause__ is lost


@given(st.integers(1, 100), st.none() | st.floats(0, 1e99))
def test_a_pause_doubles_to_8_seconds_or_is_what_the_server_asks_up_to_60(attempt: int, asked: float | None) -> None:
    ceiling = min(8.0, 0.5 * 2.0 ** (attempt - 1))
    pauses = [_backoff(attempt, NOTHING_CAME) for _ in range(50)]
    assert ceiling / 2 <= min(pauses) <= max(pauses) <= ceiling
    pause = _backoff(attempt, RateLimited("x", retry_after=asked))
    if asked is None:
        assert ceiling / 2 <= pause <= ceiling
    else:
        assert min(asked, LONGEST_RETRY_AFTER) <= pause <= max(ceiling, min(asked, LONGEST_RETRY_AFTER))


def test_the_longest_pause_is_a_minute() -> None:
    assert _backoff(1, RateLimited("x", retry_after=61)) == 60


# --- what a transport raised -------------------------------------------------------------------------------------------------------


def caused(error: Exception, *causes: BaseException) -> Exception:
    link: BaseException = error
    for cause in causes:
        link.__cause__ = cause
        link = cause
    return error


@pytest.mark.parametrize(
    ("error", "ground"),
    [
        (httpx.ConnectError("All connection attempts failed"), "All connection attempts failed"),
        (httpx.ReadError(""), "ReadError"),
        (caused(httpx.ConnectError("failed"), OSError(111, "Connection refused")), "failed ([Errno 111] Connection refused)"),
        (caused(httpx.ConnectError("failed"), OSError("no number")), "failed"),
        (caused(httpx.ConnectError("failed"), OSError(OSError(111, "wrapped"))), "failed"),
        (caused(httpx.ConnectError("failed"), OSError()), "failed"),
        (caused(httpx.ReadError("[Errno 104] reset"), OSError(104, "reset")), "[Errno 104] reset"),
        (caused(httpx.ConnectError("failed"), ValueError("x"), ssl.SSLError("bad record")), "failed (('bad record',))"),
        (
            caused(httpx.ConnectError("failed"), ExceptionGroup("g", [ValueError(), OSError(113, "No route")])),
            "failed ([Errno 113] No route)",
        ),
    ],
    ids=["plain", "no words", "errno", "no errno", "wrapped", "no arguments", "told already", "TLS", "in a group"],
)
def test_the_ground_of_a_failure_is_what_the_system_said(error: Exception, ground: str) -> None:
    assert _ground(error) == ground
    assert str(_transport_error(STATUS_CALL, error)).startswith(f"GET /orderstatus: {ground}")


def test_a_chain_has_each_link_once_whatever_its_form() -> None:
    inner = ValueError("inner")
    context = KeyError("context")
    group = ExceptionGroup("g", [inner, ExceptionGroup("h", [inner, context])])
    outer = caused(httpx.ReadError("outer"), group)
    inner.__context__ = outer
    links = list(_chain(outer))
    assert links[0] is outer
    assert len(links) == len({id(link) for link in links})
    assert {id(link) for link in (outer, group, inner, context)} <= {id(link) for link in links}


def test_a_chain_goes_on_after_a_link_that_it_has_had() -> None:
    outer, first = httpx.ReadError("outer"), OSError(111, "Connection refused")
    outer.__context__ = first
    outer.__cause__ = ValueError("which was raised from what it caused")
    outer.__cause__.__cause__ = outer
    assert first in list(_chain(outer))


def test_what_the_caller_is_handling_himself_is_no_part_of_a_failure() -> None:
    with pytest.raises(ssl.SSLError) as caught:
        raise ssl.SSLCertVerificationError(1, f"certificate of {ORDER_ID} has expired")
    theirs, traceback = caught.value, caught.value.__traceback__
    failed = httpx.ConnectError("failed")
    failed.__context__ = theirs
    assert list(_chain(failed, theirs)) == [failed]
    assert _ground(failed, theirs) == "failed"
    assert not _is_tls(failed, theirs)
    ours = _transport_error(STATUS_CALL, failed, theirs)
    assert str(ours) == "GET /orderstatus: failed"
    assert ours.__cause__ is failed  # it tells no secret of its own
    assert theirs.__traceback__ is traceback  # nothing of theirs is touched


def test_a_failure_of_tls_asks_for_the_date() -> None:
    tls = caused(httpx.ConnectError("failed"), ssl.SSLCertVerificationError(1, "certificate has expired"))
    assert _is_tls(tls)
    assert re.search(r"; is this machine's date right\? It says \d{4}-\d\d-\d\d$", str(_transport_error(STATUS_CALL, tls)))
    assert not _is_tls(httpx.ConnectError("failed"))


def test_a_transport_error_is_printable_and_without_tracebacks_or_secrets() -> None:
    try:
        try:
            raise OSError(104, "reset")  # noqa: TRY301 - it must have a traceback
        except OSError as reset:
            raise httpx.ReadError(f"\x1b[31m {ORDER_ID}\n") from reset
    except httpx.ReadError as error:
        original = error
        ours = _transport_error(STATUS_CALL, error)
    assert str(ours) == r"GET /orderstatus: \x1b[31m ..\n ([Errno 104] reset)"
    assert ours.__cause__ is None  # its text has the order's id in it, and would be printed with any traceback
    assert all(link.__traceback__ is None for link in (*_chain(ours), *_chain(original)))
    harmless = _transport_error(STATUS_CALL, httpx.ReadError("gone"))
    assert isinstance(harmless.__cause__, httpx.ReadError)


def test_the_ground_of_a_failure_is_cut() -> None:
    assert len(str(_transport_error(STATUS_CALL, httpx.RemoteProtocolError("illegal status line: " + "ab " * 3000)))) < 400


@pytest.mark.parametrize(
    ("error", "ground", "kept"),
    [
        (OSError(111, "connect call to port 54321 failed"), "[Errno 111] connect call to port 54321 failed", True),
        (httpx.ReadError("54321 bytes are missing"), ".. bytes are missing", False),
        (OSError(5, f"cannot write {ORDER_ID[:4]}"), "[Errno 5] cannot write 0123", True),
        (OSError(5, f"cannot write {ORDER_ID}"), "[Errno 5] cannot write ..", False),
    ],
    ids=["of the system", "of a library", "of the system, a part", "of the system, with a secret"],
)
def test_only_words_of_the_system_may_hold_a_long_number_and_none_may_hold_a_secret(error: Exception, ground: str, kept: bool) -> None:
    ours = _transport_error(STATUS_CALL, error)
    assert str(ours) == f"GET /orderstatus: {ground}"
    assert ours.__cause__ is (error if kept else None)


def test_nothing_of_this_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refused({"status": "error", "reason": ORDER_ID}, 500)
    unreadable(ORDER_ID)
    assert caplog.records == []


# --- secrets that come back --------------------------------------------------------------------------------------------------------

SPOKEN = 'Gr\u00fcezi / "Bob"\n'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("to +12025550143, which is 12025550143", "to .., which is .."),
        ("to %2B12025550143.", "to ..."),
        (f"<{SPOKEN}>", "<..>"),
        (f"<{SPOKEN.upper()}>", "<..>"),
        (r"<Gr\u00fcezi / \"Bob\"\n>", "<..>"),
        (r'<Grüezi / "Bob"\n>', "<..>"),
        ("<Gr%C3%BCezi%20%2F%20%22Bob%22%0A>", "<..>"),
        ("cannot reach https://me.example/hook", "cannot reach .."),
        ("no WhatsApp for 187", "no WhatsApp for 187"),
    ],
    ids=[
        "a number",
        "a number in an address",
        "as sent",
        "in capitals",
        "as JSON",
        "as a repr",
        "as in an address",
        "a webhook",
        "no secret",
    ],
)
def test_what_we_sent_is_blotted_in_every_form_that_it_takes_on_the_way(text: str, shown: str) -> None:
    body = {"message": SPOKEN, "phone": PHONE, "webhookUrl": "https://me.example/hook", "service": "WhatsApp", "country": 187}
    assert Call("POST", "/createsendorder", str, body=body).without_secrets(text) == shown


def test_only_a_secret_of_four_characters_or_more_can_be_told_from_other_words() -> None:
    assert Call("POST", "/createsendorder", str, body={"message": "noon"}).without_secrets("noon, afternoon") == ".., after.."
    assert Call("POST", "/createsendorder", str, body={"message": "now"}).without_secrets("now, nowhere") == "now, nowhere"


LONG_MESSAGE = 'Gr\u00fc\u00dfe "Bob"\nnoon ' + "and so on " * 12


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"status": "error", "reason": "x" * 200 + " " + LONG_MESSAGE}).encode(),
        json.dumps({"status": "error", "reason": {"message": LONG_MESSAGE}}).encode(),
        ("<p>" + LONG_MESSAGE).encode(),
        json.dumps({"status": "error", "reason": "bad phone 12025550143"}).encode(),
        b"<p>bad phone %2B12025550143",
        b'{"status":"error","reason":"no key SK-SECRET-KEY-9"}',
        b"<p>no key sk-SECRET-KEY-9",
    ],
)
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_a_secret_that_the_server_repeats_is_in_no_message(body: bytes, status: int) -> None:
    handler = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    async with Client(api_key="sk-SECRET-KEY-9", transport=handler, attempts=1) as client:
        with pytest.raises(Sms4SatsError) as caught:
            await client.create_send_order("+12025550143", LONG_MESSAGE[:140], immediate=True)
    link: BaseException | None = caught.value
    while link is not None:
        for secret in ("2025550143", "SECRET-KEY", "noon", "Bob", "and so on and"):
            assert secret not in str(link)
        link = link.__cause__


@pytest.mark.parametrize("text", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 01 Jan 2026 00:00:00 +99999999999999999"])
def test_a_date_beyond_all_calendars_is_no_retry_after(text: str) -> None:
    assert retry_after({"retry-after": text, "date": "Mon, 01 Jan 2026 00:00:00 GMT"}) is None


@pytest.mark.parametrize("location", ["http://[", "//[x]/", "http://" + "h" * 5000, ""])
def test_a_redirect_to_anywhere_is_a_decode_error(location: str) -> None:
    call = Call("GET", "/price", lambda payload: payload)
    with pytest.raises(DecodeError) as caught:
        read_reply(call, Reply(302, {"location": location}, b""))
    assert len(str(caught.value)) < 200


async def test_a_short_message_is_in_too_many_words_to_be_blotted() -> None:
    handler = httpx.MockTransport(lambda _: httpx.Response(400, json={"status": "error", "reason": "this is not the way"}))
    async with Client(transport=handler) as client:
        with pytest.raises(APIError, match="this is not the way"):
            await client.create_send_order("+12025550143", "is")


class Stream(httpx.AsyncByteStream):
    """A body in pieces, which fails as it is told to."""

    def __init__(self, pieces: list[bytes | Exception], *, bad_close: bool = False) -> None:
        self._pieces = pieces
        self._bad_close = bad_close
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self) -> None:
        self.closed += 1
        if self._bad_close:
            raise OSError("cannot close")


class Streams(httpx.AsyncBaseTransport):
    """A transport that answers with one stream after the other."""

    def __init__(self, *streams: Stream) -> None:
        self._streams = list(streams)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002 - httpx's name
        return httpx.Response(200, stream=self._streams.pop(0))


async def test_a_reply_that_was_read_counts_though_its_stream_cannot_be_closed() -> None:
    async with Client(transport=Streams(Stream([b'{"status":"OK",', b'"paid":true}'], bad_close=True))) as client:
        assert (await client.get_order_status("ab12")).paid


async def test_a_stream_that_fails_and_cannot_be_closed_is_a_transport_error() -> None:
    stream = Stream([b"{", OSError("gone")], bad_close=True)
    async with Client(transport=Streams(stream), attempts=1) as client:
        with pytest.raises(TransportError, match="gone"):
            await client.get_order_status("ab12")
    assert stream.closed == 1


async def test_a_stream_that_goes_on_after_its_close_is_left_alone() -> None:
    stream = Stream([b" " * 40_000] * 1000)
    async with Client(transport=Streams(stream), attempts=1) as client:
        with pytest.raises(DecodeError, match="more than 65536 bytes"):
            await client.get_order_status("ab12")
    assert 1 <= stream.closed < 10
