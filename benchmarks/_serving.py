"""Starts the status server in a process of its own, asks it for its figures, and stops it."""

import http.client
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import certifi

HERE = "127.0.0.1"
PATIENCE = 5.0  # seconds, for an answer to a question and for the process to end by itself
CLOSING = 1.0  # seconds the server may take to notice that a closed client's connections are gone


@dataclass(frozen=True)
class StatusServer:
    """A running status server."""

    port: int
    authorities: str | None = None
    """For a server that speaks TLS: the file of the authorities to trust."""

    @property
    def url(self) -> str:
        """Its origin, for a client's ``base_url``."""
        return f"{'http' if self.authorities is None else 'https'}://{HERE}:{self.port}"

    @cached_property
    def ssl_context(self) -> ssl.SSLContext | None:
        """What a client needs to trust it; ``None`` for plain http."""
        return None if self.authorities is None else ssl.create_default_context(cafile=self.authorities)

    def ask(self, figure: str) -> float:
        """One of the server's own figures: ``open``, ``seen``, ``mean``, ``peak`` or ``cpu``; see ``status_server``.

        Blocks the caller's loop for the moment it takes: what is being counted must not move on meanwhile.
        """
        connection = self._connect()
        try:
            connection.request("GET", f"/_{figure}")
            return float(connection.getresponse().read())
        finally:
            connection.close()

    async def connections_left(self) -> int:
        """How many connections are still open when the server had the time to notice those that are gone."""
        until = time.monotonic() + CLOSING
        while (left := int(self.ask("open"))) and time.monotonic() < until:  # noqa: ASYNC110 - the server has no way to call
            await anyio.sleep(0.02)
        return left

    def _connect(self) -> http.client.HTTPConnection:
        if self.ssl_context is None:
            return http.client.HTTPConnection(HERE, self.port, timeout=PATIENCE)
        return http.client.HTTPSConnection(HERE, self.port, timeout=PATIENCE, context=self.ssl_context)


@contextmanager
def status_server(*, delay: float = 0.0, tls: bool = False) -> Iterator[StatusServer]:
    """A status server for the time of the block; ``delay`` is the longest of its random times to answer, in seconds.

    With ``tls`` it has a certificate made for it, and ``SSL_CERT_FILE`` names whom to trust: for the clients that heed it, and for the
    processes started in the block.
    """
    command = [sys.executable, "-m", "benchmarks.status_server", "--delay", str(delay)]
    with ExitStack() as stack:
        authorities: str | None = None
        if tls:
            identity, authorities = _certificate(Path(stack.enter_context(TemporaryDirectory())))
            stack.enter_context(_environment("SSL_CERT_FILE", authorities))
            command += ["--tls", identity]
        process = stack.enter_context(running(command))
        assert process.stdout is not None
        yield StatusServer(int(process.stdout.readline()), authorities)


@contextmanager
def running(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _certificate(folder: Path) -> tuple[str, str]:
    """Make a key with its certificate, and a file of authorities: the usual ones, so that reading them costs the usual, and its own."""
    import trustme  # noqa: PLC0415 - few runs speak TLS

    authority = trustme.CA()
    identity, authorities = folder / "identity.pem", folder / "authorities.pem"
    authority.issue_cert(HERE).private_key_and_cert_chain_pem.write_to_path(str(identity))
    authorities.write_bytes(certifi.contents().encode() + authority.cert_pem.bytes())
    return str(identity), str(authorities)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
