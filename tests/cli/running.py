"""Ways to run ``sms4sats``: in this process, in virtual time, and as an installed program, against sandboxes over real HTTP."""

import fcntl
import json
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import anyio
import httpx
from rich.console import Console

from sms4sats_async.cli.commands import main
from sms4sats_async.cli.screen import Screen
from sms4sats_async.cli.session import Surroundings
from sms4sats_async.journal import is_awaited_in
from sms4sats_async.sandbox import Sandbox
from tests.conftest import HAS_TRIO
from tests.virtual_time import VirtualTimeLoop

KEY = "cli-key-7d1f"
PROGRAM = str(Path(sys.executable).with_name("sms4sats"))
TIMEOUT = 90
"""Seconds after which a process counts as stuck; the figure itself promises nothing."""
BACKENDS = ["asyncio", "trio"] if HAS_TRIO else ["asyncio"]


class Paper(StringIO):
    """A standard stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Torn(Paper):
    """A standard stream that breaks after so many lines: its reader has gone, or its disk is full.

    Attributes:
        failed: how often it was written to in vain.
    """

    def __init__(self, lines: int, error: OSError, *, terminal: bool) -> None:
        super().__init__()
        self._left = lines
        self._error = error
        self._terminal = terminal
        self.failed = 0

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        if self._left <= 0:
            self.failed += 1
            raise self._error
        self._left -= text.count("\n")
        return super().write(text)


@dataclass(frozen=True)
class Done:
    """How a run ended, and what it wrote: without what steers a terminal, and as it was."""

    code: int
    out: str
    err: str
    raw: str = ""

    @property
    def document(self) -> Any:
        """Standard output, which is one JSON document."""
        return json.loads(self.out)


def run(
    *arguments: str,
    transport: httpx.AsyncBaseTransport | None = None,
    backend: str = "asyncio",
    columns: int | None = None,
    rows: int = 50,
    out: StringIO | None = None,
    err: StringIO | None = None,
) -> Done:
    """Run the command line in this process, in virtual time; ``columns`` makes both streams a terminal of that width and ``rows``.

    ``out`` and ``err`` take the place of standard output and standard error.

    It gets a thread of its own, because a loop that has cancelled a task makes coverage's tracer for Python 3.11 lose the frames below.
    """
    out = (StringIO() if columns is None else Paper()) if out is None else out
    err = (StringIO() if columns is None else Paper()) if err is None else err
    keyboard = transport.keyboard if isinstance(transport, Struck) else Keyboard()
    options: dict[str, Any] = {"loop_factory": VirtualTimeLoop}
    if backend == "trio":
        options = virtual_trio()

    def screen() -> Screen:
        if columns is None:
            return Screen()
        return Screen(Console(file=err, force_terminal=True, width=columns, height=rows, color_system=None, _environ={"TERM": "xterm"}))

    surroundings = Surroundings(transport, options, screen, keyboard.receiver)
    environ = patch.dict(os.environ, {"TERM": "xterm", "COLUMNS": str(columns or 80)})
    with environ, redirect_stdout(out), redirect_stderr(err), keyboard, ThreadPoolExecutor(1) as pool:
        code = pool.submit(main, [*arguments, "--backend", backend], surroundings).result()
    shown = out.getvalue() if columns is None else plain(out.getvalue())
    return Done(code, shown, plain(err.getvalue()), out.getvalue() + err.getvalue())


def virtual_trio() -> dict[str, Any]:
    """What trio is to be told for virtual time; while a journal is waited for, it stands still."""
    import trio
    from trio.testing import MockClock

    clock = MockClock(autojump_threshold=0)

    class Pace(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            del task
            clock.autojump_threshold = math.inf if is_awaited_in(trio.lowlevel.current_trio_token()) else 0

    return {"clock": clock, "instruments": [Pace()]}


class Keyboard:
    """Where Ctrl-C is pressed, in place of the signals of this process."""

    def __init__(self) -> None:
        self._presses, self._received = anyio.create_memory_object_stream[signal.Signals](9)

    def press(self) -> None:
        """Press Ctrl-C."""
        self._presses.send_nowait(signal.SIGINT)

    @contextmanager
    def receiver(self) -> Iterator[AsyncIterator[signal.Signals]]:
        """Take in what is pressed."""
        yield self._received

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._presses.close()
        self._received.close()


def plain(text: str) -> str:
    """Text without what steers a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


class Struck(httpx.AsyncBaseTransport):
    """A sandbox's transport that presses Ctrl-C at a request.

    Args:
        sandbox: the service.
        path: of the request.
        at: which request of this path, from 1 on.
        after: interrupt when the service has answered, not before it was asked.
    """

    def __init__(self, sandbox: Sandbox, path: str, at: int = 1, *, after: bool = False) -> None:
        self.keyboard = Keyboard()
        self._inner = sandbox.transport()
        self._path = path
        self._at = at
        self._after = after

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        struck = False
        if request.url.path == self._path:
            self._at -= 1
            struck = self._at == 0
        if struck and not self._after:
            self.keyboard.press()
            await anyio.sleep(0.01)  # the command has to hear of it
        reply = await self._inner.handle_async_request(request)
        if struck and self._after:
            self.keyboard.press()
            await anyio.sleep(0.01)
        return reply


# --- processes ---------------------------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """The environment of a process: nobody's key, terminal or colours."""
    ours = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM")}
    return ours | {"SMS4SATS_API_KEY": KEY} | more


def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start the installed program with pipes."""
    pipe = subprocess.PIPE
    return subprocess.Popen([PROGRAM, *arguments], stdout=pipe, stderr=pipe, text=True, env=environment(**more))


def finish(process: subprocess.Popen[str], told: str = "") -> Done:
    """Wait for a process to end."""
    with process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()  # does nothing to a process that has ended
    return Done(process.returncode, out, told + err)


def until(process: subprocess.Popen[str], words: str) -> str:
    """Read standard error until a line begins with these words, and return what was read."""
    assert process.stderr is not None
    told = ""
    while not (line := process.stderr.readline()).startswith(words):
        told += line
        assert line, f"it has ended before it said {words!r}: {told}"
    return told + line


def in_terminal(columns: int, rows: int, *arguments: str, **more: str) -> Done:
    """Run the installed program in a terminal of its own, and return all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    try:
        process = subprocess.Popen(
            [PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**{"TERM": "xterm-256color", **more})
        )
    finally:
        os.close(theirs)
    shown = b""
    with process, os.fdopen(ours, "rb", buffering=0) as screen:
        while part := _read(screen):
            shown += part
        code = process.wait(TIMEOUT)
    return Done(code, shown.decode(), "")


def _read(screen: Any) -> bytes:
    try:
        return bytes(screen.read(65536))
    except OSError:  # Linux says so when the last one has closed the terminal
        return b""


# --- the service -------------------------------------------------------------------------------------------------------------------

Reply = tuple[int, dict[str, str], bytes]
NOTHING_SPECIAL: Reply = (0, {}, b"")
Faults = Mapping[str, "Reply | None"]
"""Replies by path, ``None`` to hang up without one; everything else is left to the sandbox."""


@dataclass
class Service:
    """Sandboxes over real HTTP, each at a path of its own on one port, with what goes wrong there."""

    url: str = ""
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    faults: dict[str, Faults] = field(default_factory=dict)

    def at(self, name: str, sandbox: Sandbox | None = None, faults: Faults | None = None) -> str:
        """Put a sandbox at a path, and return its address."""
        self.sandboxes[name] = Sandbox(accounts={KEY: 100_000}) if sandbox is None else sandbox
        self.faults[name] = faults or {}
        return f"{self.url}/{name}"

    def calls(self, name: str) -> list[str]:
        """The paths that a sandbox was asked for, without the looks."""
        return [call.path for call in self.sandboxes[name].calls if call.path != "/orderstatus"]


@contextmanager
def serving() -> Iterator[Service]:
    """Serve on a free port, in threads of this process."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            name, _, rest = self.path.lstrip("/").partition("/")
            path, _, query = rest.partition("?")
            reply = service.faults[name].get(f"/{path}", NOTHING_SPECIAL)
            if reply is None:
                self.close_connection = True
                return
            if reply is NOTHING_SPECIAL:
                reply = anyio.run(self.ask, service.sandboxes[name], f"/{path}", query, body)
            status, headers, content = reply
            self.send_response(status)
            for header, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815 - http.server names them

        async def ask(self, sandbox: Sandbox, path: str, query: str, body: bytes) -> Reply:
            transport = httpx.ASGITransport(app=sandbox)
            async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
                headers = {name: value for name, value in self.headers.items() if name.lower() in ("x-api-key", "content-type")}
                reply = await client.request(self.command, f"{path}?{query}", content=body, headers=headers)
            return reply.status_code, {}, reply.content

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server names it
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has hung up is nothing to tell of; what else goes wrong, its command tells."""

    with Server(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
