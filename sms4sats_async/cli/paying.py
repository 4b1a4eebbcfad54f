"""Pay an invoice with a command of the person's: a wallet's own."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import anyio

from sms4sats_async.errors import printable

PLACE = "{}"
"""Where the invoice goes in the command; without it, it comes last."""
GRACE = 1.0
"""Seconds that a command, with all that it has started, has to end after SIGTERM, before it is killed."""
_GLANCE = 0.02
"""Seconds between two glances at what is still running."""
_MOST_WORDS = 200
_MOST_OUTPUT = 4096


class CommandFailed(Exception):
    """The command could not be started, or ended with another code than 0."""


class PayCommand:
    """A payer for :class:`~sms4sats_async.PayingWatcher`: starts the command, without a shell, and waits for its end.

    It gets no terminal: nothing to read, a session of its own (Ctrl-C does not reach it), and what it prints is kept, not shown. When
    it is given up, it is ended with all that it has started; what it leaves behind when it ends by itself is its own business.

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
        with tempfile.TemporaryFile() as printed:  # no pipe: its end is that of the last process that holds it, not that of the command
            try:
                process = await anyio.open_process(
                    words, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                raise CommandFailed(f"{self.name}: {error.strerror}") from None
            try:
                code = await process.wait()
            finally:
                await _end(process)
            if code:
                raise CommandFailed(f"{self.name} ended with {code}{_last_line(printed)}")


def _last_line(printed: IO[bytes]) -> str:
    printed.seek(max(0, printed.seek(0, os.SEEK_END) - _MOST_OUTPUT))
    lines = printed.read().decode(errors="replace").strip().splitlines()
    return f": {printable(lines[-1].strip())[:_MOST_WORDS]}" if lines else ""


async def _end(process: anyio.abc.Process) -> None:
    """See to it that a process that has not ended ends, with all of its session: asked first, then killed."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            alive = _signalled(process, signal.SIGTERM)
            with anyio.move_on_after(GRACE):
                while alive:
                    await anyio.sleep(_GLANCE)
                    alive = process.returncode is None or _signalled(process, 0)
            if alive:
                _signalled(process, signal.SIGKILL)
        await process.aclose()


def _signalled(process: anyio.abc.Process, number: int) -> bool:
    """Send a signal to the group that the process leads; is anything left of that?"""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
        return True
    return False
