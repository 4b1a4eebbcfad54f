"""What a person sees: lines on standard error, on a terminal with a QR code and a live view, and the answer on standard output.

Whatever is not ours, the service's words above all, is made printable before it is shown, and never read as markup.
"""

from __future__ import annotations  # rich and segno load when there is something to draw

import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import attrs
from rich.console import Console
from rich.text import Text

from sms4sats_async.errors import printable
from sms4sats_async.lifecycle import HOLD_WINDOW, Pace, default_pace
from sms4sats_async.models import OrderStatus

if TYPE_CHECKING:
    from rich.table import Table

LABEL = 10
"""Columns of the label before a line."""
NARROWEST, WIDEST = 24, 80
"""Columns that a text is given at least, and the live view at the most, however narrow or wide the terminal is."""
QUIET_ZONE = 2
"""Modules around a QR code. Four are the standard's; two are enough on a screen, and fit where four would not."""
BELOW = 2
"""Rows under a QR code, for the live view: what scrolls away cannot be scanned."""
SPINNER, ECHO = 2, 3
"""Columns of the spinner, and those that stay free for the ``^C`` of the terminal: a line that it breaks could not be taken back."""
SILENCE = 10.0
"""Seconds without an answer, beyond the pace, from which a person is told."""
REFRESH_PER_SECOND = 8


@attrs.frozen
class Answer:
    """What a command answers.

    Attributes:
        document: for ``--json``; ``None`` where a later answer has it.
        rows: for everybody else; on a terminal under ``columns``, if there are any, else one line each, with tabs between the values.
        label: what a terminal shows before an answer of a single value.
        elsewhere: what a person is told who sees standard error only; nothing, if that is empty.
        once: can it not be asked for again?
        numbers: the columns of ``rows`` that are numbers.
    """

    document: dict[str, Any] | None
    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()
    label: str = ""
    elsewhere: str = ""
    numbers: Sequence[int] = ()
    once: bool = False


def write_answer(answer: Answer, screen: Screen, *, as_json: bool) -> None:
    """Write the answer to standard output, and nothing else.

    Raises:
        OSError: standard output is closed, or full.
    """
    terminal = sys.stdout.isatty()
    if as_json and answer.document is None:
        return
    if as_json:
        print(json.dumps(answer.document, ensure_ascii=not terminal), flush=True)
    elif answer.columns and terminal:
        Console(file=sys.stdout, highlight=False).print(_table(answer))
    else:
        screen.announce(answer, here=terminal)
        for row in answer.rows:
            write_line(*row)


def keep_answer(answer: Answer, failure: OSError, screen: Screen, *, as_json: bool) -> None:
    """See to it that an answer which cost something is not lost with standard output; a list can be asked for again."""
    lose_output()
    if answer.once or not answer.columns:
        for words in [json.dumps(answer.document)] if as_json else [" ".join(row) for row in answer.rows]:
            screen.token("answer", f"{words} (standard output: {failure.strerror})")


def lose_output() -> None:
    """Give standard output up, after it has failed."""
    with suppress(OSError):  # not every stream has a descriptor
        _to_nowhere(sys.stdout)


def write_line(*values: str) -> None:
    """Write values to standard output: a single one byte for byte for a program, without what could steer it for a terminal."""
    as_it_is = len(values) == 1 and not sys.stdout.isatty()
    print(*(values if as_it_is else map(printable, values)), sep="\t", flush=True)


def _table(answer: Answer) -> Table:
    from rich import box  # noqa: PLC0415 - lists only
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, name in enumerate(answer.columns):
        table.add_column(name, justify="right" if number in answer.numbers else "left", overflow="fold")
    for row in answer.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


class _Lasting:
    """A stream whose failure ends nothing: from the first one on, what is written to it goes nowhere."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        with self._unheard():
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with self._unheard():
            self._file.flush()

    @contextmanager
    def _unheard(self) -> Generator[None]:
        try:
            yield
        except OSError:
            with suppress(OSError):  # not every stream has a descriptor
                _to_nowhere(self._file)


def lasting(file: IO[str]) -> IO[str]:
    """Return the stream, made so that no failure of it is heard of: nobody's order may depend on who reads what is said about it."""
    return cast("IO[str]", _Lasting(file))


def _to_nowhere(file: IO[str]) -> None:
    """Let a stream's descriptor lead nowhere: what is left in its buffer must not fail again when the program ends."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), file.fileno())


class Screen:
    """Standard error: a live view for a terminal, plain lines for everything else. Where it breaks, the work goes on without it.

    Args:
        console: where to draw; ``None`` for standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False, markup=False) if console is None else console
        self._console.file = lasting(self._console.file)

    @property
    def is_terminal(self) -> bool:
        """Is it a terminal that can be drawn on? A dumb one gets plain lines."""
        return self._console.is_interactive and not self._console.is_dumb_terminal

    def say(self, label: str, text: str, style: str = "") -> None:
        """Show a line with its label, folded under itself on a terminal."""
        words = printable(text)
        room = max(NARROWEST, self._console.width - LABEL)
        lines = textwrap.wrap(words, room) if self.is_terminal else [words]
        for number, line in enumerate(lines or [""]):
            self._line(Text(f"{'' if number else label:<{LABEL}}", "dim"), Text(line, style))

    def token(self, label: str, text: str, style: str = "") -> None:
        """Show what is there to be copied: the terminal breaks it where it must, so that it stays one word."""
        self._line(Text(f"{label:<{LABEL}}", "dim"), Text(printable(text), style))

    def number(self, number: str) -> None:
        """Show a phone number: for reading, and for copying."""
        reading = readable(number)
        if reading == number:
            self.token("number", number, "bold")
        elif LABEL + len(reading) + len(number) + 2 <= self._console.width or not self.is_terminal:
            self.token("number", f"{reading}  {number}", "bold")
        else:
            self.token("number", reading, "bold")
            self.token("", number)

    def qr(self, payreq: str) -> None:
        """Show an invoice as a QR code, where there is a terminal large enough and able: white on black, whatever its colours."""
        if not self.is_terminal or not self._console.encoding.startswith("utf"):
            return
        import segno  # noqa: PLC0415 - for this only

        code = segno.make_qr(payreq.upper(), error="l", boost_error=False)  # capitals, as BOLT 11 advises: the code is smaller
        columns = code.symbol_size(border=QUIET_ZONE)[0]
        rows = -(-columns // 2) + BELOW
        if columns > self._console.width or rows > self._console.height:
            self.say("qr", f"this terminal is too small for a QR code: {rows} rows and {columns} columns are needed")
            return
        drawn = StringIO()
        code.terminal(drawn, border=QUIET_ZONE, compact=True)
        self._line(Text(drawn.getvalue().rstrip("\n"), "bright_white on black"))

    def announce(self, answer: Answer, *, here: bool) -> None:
        """Say that the answer comes: before it, on the terminal that shows it as well, else in place of it."""
        if here and self.is_terminal and answer.label:
            self._console.print(Text(f"{answer.label:<{LABEL}}", "dim"), end="")
            self._console.file.flush()
        elif not here and answer.elsewhere:
            self.say(answer.label, answer.elsewhere)

    @contextmanager
    def live(self, view: View) -> Generator[None]:
        """Keep a view of what is waited for at the end of the screen, while the block lasts."""
        if not self.is_terminal:
            yield
            return
        from rich.live import Live  # noqa: PLC0415

        with Live(
            console=self._console,
            get_renderable=lambda: view.drawn(self._console.width),
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield

    def _line(self, *parts: Text) -> None:
        self._console.print(Text.assemble(*parts), soft_wrap=True)


class View:
    """What is waited for, for how long yet, and how often the service is asked.

    Its clock is the machine's: it is for the eyes, and decides nothing.

    Args:
        pace: what the watcher shall go by.
        window: seconds from the payment in which the code must come.
        clock: seconds of the machine.

    Attributes:
        waiting_for: in words.
        counts: is there a window's end to be shown?
    """

    def __init__(self, pace: Pace = default_pace, window: float = HOLD_WINDOW, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.spinner import Spinner  # noqa: PLC0415

        self._pace = pace
        self._clock = clock
        self._window = window
        self._spinner = Spinner("dots")
        self._interval: float | None = None
        self._answered_at = self._clock()
        self._paid_at: float | None = None
        self.waiting_for = "the service"
        self.counts = False

    def pace(self, status: OrderStatus, seconds_waited: float) -> float:
        """Return the seconds until the next look, and remember them."""
        self._interval = self._pace(status, seconds_waited)
        self._answered_at = self._clock()
        if status.paid:
            self._paid_at = self._answered_at - seconds_waited
        return self._interval

    def drawn(self, width: int) -> Table:
        """Return the view, not wider than this."""
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        now = self._clock()
        words = f"waiting for {self.waiting_for}"
        silent = now - self._answered_at
        if silent > SILENCE + (self._interval or 0):
            words += f", no answer for {_minutes(silent)}"
        elif self._interval is not None:
            words += f", asking every {self._interval:g} s"
        room = min(width, WIDEST) - SPINNER - ECHO
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=1)
        grid.add_column(width=room)
        grid.add_row(self._spinner, Text(words if len(words) <= room else words.replace(", ", "\n")))
        if self.counts and self._paid_at is not None:
            waited = min(self._window, now - self._paid_at)
            left = Table.grid(padding=(0, 1, 0, 0), expand=True)
            left.add_column(ratio=1)
            left.add_column(no_wrap=True)
            left.add_row(
                ProgressBar(total=self._window, completed=waited, complete_style="green"), Text(f"{_minutes(self._window - waited)} left")
            )
            grid.add_row("", left)
        return grid


def _minutes(seconds: float) -> str:
    """Return seconds as people read them: ``20:43``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def readable(number: str) -> str:
    """Return a phone number as it is written where it is used, with its country code; as it came where it is none."""
    import phonenumbers  # noqa: PLC0415 - for this only

    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return number
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.INTERNATIONAL)


def sats(amount: int | None) -> str:
    """Return an amount for reading."""
    return "unknown" if amount is None else f"{amount:,} sat"
