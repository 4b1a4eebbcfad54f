"""Pay an invoice with a command of the person's: a wallet's own."""

import shlex
import shutil
import subprocess
from pathlib import Path

import anyio

from sms4sats_async.errors import printable

PLACE = "{}"
"""Where the invoice goes in the command; without it, it comes last."""
GRACE = 1.0
"""Seconds that a command has to end after SIGTERM, before it is killed."""
_MOST_WORDS = 200
_MOST_OUTPUT = 4096


class CommandFailed(Exception):
    """The command could not be started, or ended with another code than 0."""


class PayCommand:
    """A payer for :class:`~sms4sats_async.PayingWatcher`: starts the command, without a shell, and waits for its end.

    It gets no terminal: nothing to read, a session of its own (Ctrl-C does not reach it), and what it prints is kept, not shown.

    Args:
        line: the command and its arguments, quoted as in a shell.

    Raises:
        ValueError: it is empty, its quotes are not closed, or there is no such command.
    """

    def __init__(self, line: str) -> None:
        self._words = shlex.split(line)
        if not self._words:
            raise ValueError("the command is empty")
        self.name = Path(self._words[0]).name
        if shutil.which(self._words[0]) is None:
            raise ValueError(f"there is no command {printable(self._words[0])!r}")

    async def __call__(self, invoice: str) -> None:
        """Pay this invoice.

        Raises:
            CommandFailed: with the last line that the command printed.
        """
        words = [word.replace(PLACE, invoice) for word in self._words]
        if words == self._words:
            words.append(invoice)
        try:
            process = await anyio.open_process(words, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            raise CommandFailed(f"{self.name}: {error.strerror}") from None
        printed = b""
        try:
            assert process.stdout is not None  # a pipe  # noqa: S101
            async for part in process.stdout:
                printed = (printed + part)[-_MOST_OUTPUT:]
            code = await process.wait()
        finally:
            await _end(process)
        if code:
            lines = printed.decode(errors="replace").strip().splitlines()
            told = f": {printable(lines[-1].strip())[:_MOST_WORDS]}" if lines else ""
            raise CommandFailed(f"{self.name} ended with {code}{told}")


async def _end(process: anyio.abc.Process) -> None:
    """See to it that the process has ended: asked first, then killed."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.terminate()
            with anyio.move_on_after(GRACE):
                await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()
