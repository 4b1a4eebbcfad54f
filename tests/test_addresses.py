"""Where requests go: what a base_url may be, and which proxy is taken, held against what httpx itself would take."""

import os
import re
import ssl
import sys
import urllib.parse

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms4sats_async import Client
from sms4sats_async.transport import _choose_proxy, _is_loopback, _proxy, _reads_along, parse_base_url, with_query


@pytest.fixture(autouse=True)
def no_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name for name in os.environ if name.lower().endswith("_proxy")} | {"REQUEST_METHOD", "NO_PROXY"}
    for name in names:
        monkeypatch.delenv(name, raising=False)


# --- base_url ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "read"),
    [
        ("https://api2.sms4sats.com", "https://api2.sms4sats.com"),
        ("https://api2.sms4sats.com/", "https://api2.sms4sats.com"),
        ("HTTPS://API2.sms4sats.com", "https://api2.sms4sats.com"),
        ("https://api2.sms4sats.com:443", "https://api2.sms4sats.com"),
        ("https://example.org:8443/v1/", "https://example.org:8443/v1"),
        ("https://192.0.2.1", "https://192.0.2.1"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://LOCALHOST", "http://localhost"),
        ("http://api.localhost", "http://api.localhost"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://127.1.2.3", "http://127.1.2.3"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://abcdefghij234567.onion", "http://abcdefghij234567.onion"),
        ("http://API.abcdefghij234567.ONION:81/x", "http://api.abcdefghij234567.onion:81/x"),
        ("https://abcdefghij234567.onion", "https://abcdefghij234567.onion"),
    ],
)
def test_a_base_url_is_https_or_stays_on_this_machine_or_goes_over_tor(base_url: str, read: str) -> None:
    assert str(parse_base_url(base_url)).rstrip("/") == read
    assert Client(base_url=base_url, trust_env=False)._transport.base_url == read


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api2.sms4sats.com", "http://192.168.0.1", "http://10.0.0.1:8000", "http://0.0.0.0", "http://[::]", "http://[::2]",
        "http://128.0.0.1", "http://127.0.0.1.example.org", "http://1127.0.0.1.example", "http://localhost.example.org", "http://mylocalhost",
        "http://onion", "http://onion.example.org", "http://xonion",
    ],
)  # fmt: skip
def test_plain_http_to_another_machine_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"base_url in plain http must be a loopback or \.onion host"):
        Client(base_url=base_url)


@pytest.mark.parametrize(
    "base_url",
    ["", " ", "api2.sms4sats.com", "//api2.sms4sats.com", "/path", "https://", "https:///path", "https:api", "ftp://example.org",
     "file:///etc/passwd", "ws://localhost", "localhost:8000", "127.0.0.1:8000", " https://example.org"],
    ids=repr,
)  # fmt: skip
def test_a_base_url_has_a_scheme_and_a_host(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url must start with https:// and name a host"):
        Client(base_url=base_url)


@pytest.mark.parametrize(
    "base_url", ["https://me@h.example", "https://me:pass@h.example", "https://h.example/?a=1", "https://h.example#top"]
)
def test_a_base_url_has_no_user_query_or_fragment_and_a_refusal_shows_none(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url must have no user, query or fragment") as caught:
        Client(base_url=base_url)
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url", ["https://h:port", "https://[::1", "https://h\n", "https://h\x00", "https://℀/", "https://" + "a" * 70_000]
)
def test_what_httpx_cannot_read_is_a_value_error(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url: ") as caught:
        Client(base_url=base_url)
    assert not isinstance(caught.value, httpx.InvalidURL)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("base_url", [None, 5, b"https://example.org", httpx.URL("https://example.org"), ["https://example.org"]], ids=repr)
def test_a_base_url_that_is_no_text_is_a_type_error(base_url: str) -> None:
    with pytest.raises(TypeError, match="base_url must be a str, not "):
        Client(base_url=base_url)


@given(st.text() | st.tuples(st.sampled_from(["https://", "http://", "http://localhost", "https://["]), st.text()).map("".join))
def test_any_base_url_is_read_or_refused(base_url: str) -> None:
    try:
        url = parse_base_url(base_url)
    except ValueError:
        return
    assert url.host
    assert (url.userinfo, url.query, url.fragment) == (b"", b"", "")
    assert url.scheme == "https" or (url.scheme == "http" and (_is_loopback(url.host) or url.host.endswith(".onion")))


# --- the environment's proxy, and httpx's choice -----------------------------------------------------------------------------------

PROXY = "http://proxy.example:3128"
HOSTS = [
    "https://api2.sms4sats.com",
    "https://api2.sms4sats.com:8443",
    "https://sms4sats.com",
    "https://192.0.2.1",
    "http://abcdefghij234567.onion",
]
SETTINGS: list[dict[str, str]] = [
    {},
    *({name: PROXY} for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "FTP_PROXY")),
    {"HTTPS_PROXY": "proxy.example:3128"},
    {"HTTPS_PROXY": "HTTP://proxy.example:3128"},
    {"HTTPS_PROXY": "https://proxy.example:3128"},
    {"HTTPS_PROXY": "http://me:secret@proxy.example:3128"},
    {"HTTPS_PROXY": "http://[2001:db8::1]:3128"},
    {"HTTPS_PROXY": "http://localhost:3128"},
    {"HTTPS_PROXY": "socks5://127.0.0.1:9050"},
    {"ALL_PROXY": "socks5h://127.0.0.1:9050"},
    {"HTTPS_PROXY": "http://one.example:1", "ALL_PROXY": "http://two.example:2"},
    {"HTTP_PROXY": "http://one.example:1", "ALL_PROXY": "http://two.example:2"},
    {"https_proxy": "http://one.example:1", "HTTPS_PROXY": "http://two.example:2"},
    {"HTTPS_PROXY": "", "ALL_PROXY": PROXY},
    {"https_proxy": "", "HTTPS_PROXY": PROXY},
    {"https_proxy": "", "HTTPS_PROXY": PROXY, "ALL_PROXY": "http://two.example:2"},
    {"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"},
    *(
        {name: PROXY, "NO_PROXY": without}
        for name in ("HTTPS_PROXY", "ALL_PROXY")
        for without in (
            "*", "sms4sats.com", "api2.sms4sats.com", "API2.SMS4SATS.COM", "*.sms4sats.com", "api2.sms4sats.com:443",
            "api2.sms4sats.com:8443", "example.org", "example.org, sms4sats.com", "sms4sats.com,", " sms4sats.com ", "4sats.com", "com",
            "onion", "192.0.2.1", "192.0.2.0/24", "0.2.1", "localhost", "127.0.0.1", "::1", "", ",", " ",
        )
    ),
    {"ALL_PROXY": PROXY, "no_proxy": "sms4sats.com"},
    {"ALL_PROXY": PROXY, "no_proxy": "example.org", "NO_PROXY": "sms4sats.com"},
    {"ALL_PROXY": PROXY, "no_proxy": "", "NO_PROXY": "sms4sats.com"},
]  # fmt: skip


def told(settings: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "nothing"


def proxy_of_httpx(client: httpx.AsyncClient, url: str) -> tuple[bytes, bytes, int | None] | None:
    # httpx has no public way to say which proxy it would take, so this test, and no other, looks at its private parts.
    transport = client._transport_for_url(httpx.URL(url))
    assert isinstance(transport, httpx.AsyncHTTPTransport)
    address = getattr(transport._pool, "_proxy_url", None)
    return None if address is None else (address.scheme, address.host, address.port)


def ours(url: str, *, proxy: str | None = None, trust_env: bool = True) -> httpx.Proxy | None:
    return _choose_proxy(parse_base_url(url), proxy, trust_env=trust_env)


@pytest.mark.parametrize("settings", SETTINGS, ids=told)
def test_the_environments_proxy_is_the_one_that_httpx_takes(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    client = httpx.AsyncClient(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    for url in HOSTS:
        chosen = ours(url)
        address = None if chosen is None else (chosen.url.raw_scheme, chosen.url.raw_host.strip(b"[]"), chosen.url.port)
        expected = proxy_of_httpx(client, url)
        assert address == (expected and (expected[0], expected[1].strip(b"[]"), expected[2])), url


def test_a_proxy_in_the_environment_is_found_with_its_password() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example:3128")
        chosen = ours("https://api2.sms4sats.com")
    assert chosen is not None
    assert chosen.raw_auth == (b"me", b"secret")
    assert "secret" not in repr(chosen)


@pytest.mark.parametrize(
    "host", ["http://localhost:8000", "http://127.0.0.1", "http://[::1]:8000", "https://localhost", "https://api.localhost"]
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_a_loopback_host_is_never_asked_over_the_environments_proxy(host: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, PROXY)
    assert ours(host) is None
    explicit = ours(host, proxy=PROXY)
    assert explicit is not None
    assert str(explicit.url) == PROXY


def test_an_environment_that_is_not_trusted_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://proxy")
    assert ours("https://api2.sms4sats.com", trust_env=False) is None
    with pytest.raises(ValueError, match="proxy: Unknown scheme"):
        Client()
    Client(trust_env=False)
    Client(transport=httpx.MockTransport(lambda _: httpx.Response(200)))


def test_a_proxy_of_the_callers_goes_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://other.example:1")
    monkeypatch.setenv("NO_PROXY", "*")
    chosen = ours("https://api2.sms4sats.com", proxy=PROXY)
    assert chosen is not None
    assert str(chosen.url) == PROXY


# --- proxies that are refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", ["socks4://h:1", "ftp://h:1", "h", "", "://", " http://h:1", "http://h:port", "http://h\n"], ids=repr)
def test_a_proxy_of_an_unknown_kind_is_a_value_error(proxy: str) -> None:
    with pytest.raises(ValueError, match=r"^proxy: ") as caught:
        Client(proxy=proxy)
    assert not isinstance(caught.value, httpx.InvalidURL)


def test_a_refused_proxy_shows_no_password() -> None:
    with pytest.raises(ValueError, match="Unknown scheme") as caught:
        Client(proxy="socks4://me:secret@h:1")
    assert "secret" not in str(caught.value)


@pytest.fixture(params=["blocked", "not installed"])
def no_socksio(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take socksio away: as an import that is blocked, and as a package that no finder knows."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "socksio"]:
        monkeypatch.delitem(sys.modules, name)
    if request.param == "blocked":
        monkeypatch.setitem(sys.modules, "socksio", None)
    else:
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "Editable" not in repr(finder)])


SOCKS = pytest.mark.parametrize("scheme", ["socks5", "socks5h"])


@SOCKS
@pytest.mark.usefixtures("no_socksio")
def test_socks_without_its_extra_says_what_to_install(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = re.escape("proxy: SOCKS needs an extra: pip install 'sms4sats-async[socks]'")
    with pytest.raises(ValueError, match=f"^{message}$"):
        Client(proxy=f"{scheme}://127.0.0.1:9050")
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:9050")
    with pytest.raises(ValueError, match=f"^{message}$"):
        Client()
    Client(proxy=PROXY)


@SOCKS
def test_socks_with_its_extra_is_taken(scheme: str) -> None:
    pytest.importorskip("socksio")
    assert _proxy(f"{scheme}://127.0.0.1:9050").url.scheme == scheme
    Client(proxy=f"{scheme}://127.0.0.1:9050")


# --- the key, and who reads along --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "proxy", "reads"),
    [
        ("http://a.onion", "http://far.example:1", True),
        ("http://a.onion", "https://far.example:1", True),
        ("http://localhost:8000", "http://far.example:1", True),
        ("http://a.onion", "http://127.0.0.1:1", False),
        ("http://a.onion", "http://localhost:1", False),
        ("http://a.onion", "http://[::1]:1", False),
        ("http://a.onion", "socks5://127.0.0.1:9050", False),
        ("https://a.onion", "http://far.example:1", False),
        ("https://api2.sms4sats.com", "http://far.example:1", False),
    ],
)
def test_a_key_is_not_sent_in_the_clear_through_another_machine(
    base_url: str, proxy: str, monkeypatch: pytest.MonkeyPatch, *, reads: bool
) -> None:
    if proxy.startswith("socks"):
        pytest.importorskip("socksio")
    assert _reads_along(_proxy(proxy), parse_base_url(base_url)) is reads
    Client(base_url=base_url, proxy=proxy)  # without a key there is nothing to read
    if not reads:
        Client(api_key="sk-key", base_url=base_url, proxy=proxy)
        return
    with pytest.raises(ValueError, match="would read the api_key") as caught:
        Client(api_key="sk-key", base_url=base_url, proxy=proxy)
    assert "sk-key" not in str(caught.value)
    monkeypatch.setenv("ALL_PROXY", proxy)
    if _is_loopback(parse_base_url(base_url).host):
        Client(api_key="sk-key", base_url=base_url)
    else:
        with pytest.raises(ValueError, match="would read the api_key"):
            Client(api_key="sk-key", base_url=base_url)


# --- the query ---------------------------------------------------------------------------------------------------------------------

ENDPOINTS = ["https://api2.sms4sats.com/orderstatus", "http://[::1]:8000/v1/orderstatus", "https://b%C3%BCcher.example:8443/a%20b/c"]


@given(endpoint=st.sampled_from(ENDPOINTS), text=st.text(max_size=700))
def test_an_address_with_a_query_is_the_one_that_httpx_would_parse(endpoint: str, text: str) -> None:
    query = "orderId=" + urllib.parse.quote(text, safe="", errors="replace")
    quick, parsed = with_query(httpx.URL(endpoint), query), httpx.URL(f"{endpoint}?{query}")
    assert quick == parsed
    assert (str(quick), quick.raw_path, quick.query, quick.params) == (str(parsed), parsed.raw_path, parsed.query, parsed.params)
    assert (quick.host, quick.port, quick.raw_host, quick.netloc) == (parsed.host, parsed.port, parsed.raw_host, parsed.netloc)


def test_the_address_that_is_built_upon_stays_as_it_is() -> None:
    endpoint = httpx.URL(ENDPOINTS[0])
    assert str(with_query(endpoint, "orderId=1")) == f"{ENDPOINTS[0]}?orderId=1"
    assert str(endpoint) == ENDPOINTS[0]


def test_an_httpx_that_keeps_its_parts_in_another_way_is_asked_to_parse() -> None:
    class WithoutParts:
        def __str__(self) -> str:
            return ENDPOINTS[0]

    class Stubborn(type(httpx.URL("")._uri_reference)):  # type: ignore[misc]
        def _replace(self, **_: object) -> "Stubborn":
            return self

    stubborn = httpx.URL(ENDPOINTS[0])
    stubborn._uri_reference = Stubborn(*stubborn._uri_reference)
    for endpoint in (WithoutParts(), stubborn):
        assert str(with_query(endpoint, "orderId=1")) == f"{ENDPOINTS[0]}?orderId=1"  # type: ignore[arg-type]


def test_a_query_as_long_as_a_book_is_still_refused() -> None:
    with pytest.raises(httpx.InvalidURL):
        with_query(httpx.URL(ENDPOINTS[0]), "orderId=" + "1" * 100_000)
