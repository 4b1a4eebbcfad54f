"""The command line, run as a person runs it: as a process of its own, over real sockets."""

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.conftest import HAS_TRIO

TIMEOUT = 60
"""Seconds after which a process counts as stuck; the figure itself promises nothing."""

pytestmark = pytest.mark.real_time
backends = pytest.mark.parametrize("backend", ["asyncio", "trio"] if HAS_TRIO else ["asyncio"])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sms4sats_async", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def run_without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where a module cannot be imported."""
    program = f"import sys; sys.modules[{module!r}] = None; from sms4sats_async.__main__ import main; sys.exit(main({list(arguments)!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT, check=False)


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the ``sandbox`` command; the URL is the one that it prints."""
    command = [sys.executable, "-m", "sms4sats_async", "sandbox", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            yield process, url
        finally:
            process.kill()  # does nothing to a process that has ended


def ask(url: str, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@backends
def test_the_demo_shows_a_number_its_code_and_the_calls_with_masked_ids(backend: str) -> None:
    demo = run("demo", "--backend", backend)
    assert (demo.returncode, demo.stderr) == (0, "")
    assert re.search(r"^country +USA \(187\)$", demo.stdout, re.MULTILINE)
    assert re.search(r"^service +Telegram \(tg\)$", demo.stdout, re.MULTILINE)
    assert re.search(r"^price +1,500 sat$", demo.stdout, re.MULTILINE)
    assert re.search(r"^invoice +lnbc15u1[a-z0-9]+$", demo.stdout, re.MULTILINE)
    assert re.search(r"^number +\+1[0-9]{10}$", demo.stdout, re.MULTILINE)
    assert re.search(r"^code +[0-9]{6}$", demo.stdout, re.MULTILINE)
    calls = re.findall(r"^ +[0-9.]+ +(GET|POST) +(/\S+)", demo.stdout, re.MULTILINE)
    assert calls[:4] == [("GET", "/getCountries"), ("GET", "/getnumbersstatus"), ("GET", "/price"), ("POST", "/createorder")]
    assert set(calls[4:]) == {("GET", "/orderstatus")}
    assert re.search(r"orderId=[0-9a-f]{2}\.\.[0-9a-f]{2}$", demo.stdout, re.MULTILINE)
    assert not re.search(r"[0-9a-f]{64}", demo.stdout)


@backends
def test_the_sandbox_serves_until_it_is_told_to_stop(backend: str) -> None:
    with serving("--port", "0", "--backend", backend, "--speed", "1000") as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*", url)
        status, order = ask(url, "POST", "/createorder", {"country": 187, "service": "tg"})
        assert (status, order["status"]) == (200, "OK")
        while not (reply := ask(url, "GET", f"/orderstatus?orderId={order['orderId']}")[1]).get("code"):
            assert reply["status"] == "OK"  # it pays and delivers by itself: 5 s and 45 s, a thousand times as fast
        process.send_signal(signal.SIGTERM)
        printed, complaints = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, complaints) == (0, "")
    assert printed.endswith("stopped\n")


def test_the_sandbox_stops_at_an_interrupt() -> None:
    with serving("--port", "0") as (process, _):
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, complaints) == (0, "")


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with serving("--port", "0") as (_, url):
        taken = run("sandbox", "--port", str(urlsplit(url).port))
    assert taken.returncode == 1
    assert re.fullmatch(r"cannot listen on 127\.0\.0\.1:[0-9]+: .+\n", taken.stderr)


@pytest.mark.parametrize("command", ["demo", "sandbox"])
def test_without_hypercorn_it_says_how_to_get_it(command: str) -> None:
    refused = run_without("hypercorn", command)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "hypercorn is missing: pip install 'sms4sats-async[sandbox]'\n"


def test_without_trio_it_says_how_to_get_it() -> None:
    refused = run_without("trio", "demo", "--backend", "trio")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "trio is missing: pip install 'sms4sats-async[trio]'\n"


@pytest.mark.parametrize("speed", ["0", "-1", "inf", "nan", "fast"])
def test_a_speed_that_cannot_be_is_refused(speed: str) -> None:
    refused = run("sandbox", "--speed", speed)
    assert refused.returncode == 2
    assert "--speed" in refused.stderr
