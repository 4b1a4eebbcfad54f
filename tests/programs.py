"""The README's programs, run as a person runs them: each a file of its own, started by the command in its first line."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from selenium import webdriver

import sms4sats_async
from sms4sats_async.sandbox import Sandbox, SandboxOrder

T = TypeVar("T")
App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

HOME = Path(sms4sats_async.__file__).parents[1]
README = (HOME / "README.md").read_text(encoding="utf-8")  # beside the package that is met: a broken one has a README of its own
SECTION = README.partition("\n## Programs to start from\n")[2].partition("\n## ")[0]
PROGRAMS = {
    block.partition(": ")[0].removeprefix("# "): block for block in re.findall(r"^```python\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
}
TIMEOUT = 60
"""Seconds after which what should come counts as never coming; the figure itself promises nothing."""


def command_of(name: str) -> str:
    """The command that the program's first lines say starts it."""
    found = re.search(r"To start it[^:]*: (.*?)(?:, or .*)?$", PROGRAMS[name], re.MULTILINE)
    assert found is not None, name
    return found[1]


def eventually(found: Callable[[], T | None]) -> T:
    """What is found, as soon as it is something."""
    end = time.monotonic() + TIMEOUT
    while not (value := found()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return value


class Served:
    """The sandbox over real HTTP, in a thread of its own.

    Attributes:
        url: where it is.
    """

    def __init__(self, sandbox: Sandbox, portal: BlockingPortal, url: str) -> None:
        self.sandbox = sandbox
        self._portal = portal
        self.url = url

    def do(self, what: Callable[..., T], *arguments: object) -> T:
        """Steer the sandbox in its own thread, where its clock is."""
        return self._portal.call(what, *arguments)

    def orders(self) -> list[SandboxOrder]:
        return self.do(lambda: list(self.sandbox.orders.values()))

    def order(self, number: int) -> SandboxOrder:
        """The order that was placed as this one, counted from 0; it is waited for."""
        eventually(lambda: len(self.orders()) > number)
        return self.orders()[number]

    def calls(self, path: str) -> int:
        return sum(call.path == path for call in self.sandbox.calls)

    def polled(self) -> set[str]:
        """The orders whose status was asked for."""
        return {call.query["orderId"] for call in self.sandbox.calls if call.path == "/orderstatus"}


@contextmanager
def serve(sandbox: Sandbox, app: App | None = None) -> Iterator[Served]:
    """Serve a sandbox, or what stands before it."""
    server = uvicorn.Server(uvicorn.Config(app or sandbox, log_level="error", ws="none", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener, start_blocking_portal() as portal:
        serving = portal.start_task_soon(server.serve, [listener])
        try:
            yield Served(sandbox, portal, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.should_exit = True
            serving.result(TIMEOUT)


class Running:
    """A program that runs, and what it has printed, complaints included."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def printed(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def url(self) -> str:
        """Where a web server listens."""
        found = eventually(lambda: re.search(r"running on (http://127\.0\.0\.1:[0-9]+)", self.printed))
        return found[1]

    def prints(self, pattern: str) -> str:
        """What it has printed, or prints soon."""
        return eventually(lambda: re.search(pattern, self.printed))[0]

    def ends(self) -> int:
        return self.process.wait(TIMEOUT)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.ends()

    def stops_cleanly(self) -> bool:
        """A web server dies of the signal once it has done everything that comes before."""
        return self.stop() == -signal.SIGTERM and "Application shutdown complete" in self.printed and "Traceback" not in self.printed


@contextmanager
def running(name: str, place: Path, service: str, command: str | None = None, **environment: str) -> Iterator[Running]:
    """Run a program as it stands in the README, in this directory; it is told where the service is."""
    (place / name).write_text(PROGRAMS[name], encoding="utf-8")
    words = shlex.split(command or command_of(name))
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    words = [word for word in words if "=" not in word]
    start = {"python": [sys.executable], "uvicorn": [sys.executable, "-m", "uvicorn", "--port", "0"]}[words[0]]
    log = place / f"{name}.log"
    told = settings | {"SMS4SATS_URL": service, "PYTHONPATH": str(HOME), "PYTHONUNBUFFERED": "1"} | environment
    with log.open("wb") as output:
        process = subprocess.Popen([*start, *words[1:]], cwd=place, env=os.environ | told, stdout=output, stderr=output)
    try:
        yield Running(process, log)
    finally:
        process.kill()  # does nothing to a process that has ended
        process.wait()


@contextmanager
def visitor(url: str) -> Iterator[httpx.Client]:
    """A browser without a screen and without a mind: it keeps cookies and follows redirects."""
    with httpx.Client(base_url=url, follow_redirects=True, trust_env=False, timeout=TIMEOUT) as http:
        yield http


# --- a browser ---------------------------------------------------------------------------------------------------------------------


def browser_paths(find: Callable[[str], str | None] = shutil.which, required: str | None = os.environ.get("REQUIRE_BROWSER")) -> list[str]:
    """Where Chromium and its driver are. Without them the test is skipped, and pytest says so; where they are required, it fails."""
    paths = [path for name in ("chromium", "chromedriver") if (path := find(name))]
    if len(paths) < 2:
        words = "no Chromium: apt-get install chromium chromium-driver"
        if required:
            pytest.fail(words)
        pytest.skip(words)
    return paths


@contextmanager
def chromium(place: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with an empty profile."""
    options = webdriver.ChromeOptions()
    options.binary_location, driver_path = browser_paths()
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
    for flag in ("headless", "no-sandbox", "no-first-run", f"user-data-dir={place / 'profile'}", *(f"disable-{what}" for what in quiet)):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
    try:
        yield driver
    finally:
        driver.quit()
