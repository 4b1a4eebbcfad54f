"""Draws what ``receive`` shows in a terminal of 80 columns, for the README.

    python -m tests.cli.picture [FILE]

FILE is ``tests/cli/receive.svg`` by default. It is the command itself, in virtual time, with a sandbox for the service; the live view
stands as it was last seen.
"""

import argparse
import io
import random
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from sms4sats_async.cli.commands import main as sms4sats
from sms4sats_async.cli.screen import Screen, View
from sms4sats_async.cli.session import Surroundings
from sms4sats_async.sandbox import Sandbox, Timeline
from tests.cli.running import Keyboard, Paper
from tests.virtual_time import VirtualTimeLoop

PICTURE = Path(__file__).with_name("receive.svg")
COMMAND = ["receive", "usa", "telegram"]
COLUMNS = 80
NOON = 1_772_366_400.0
"""2026-03-01, 12:00 UTC: the same picture whenever it is drawn."""


class Still(Screen):
    """A screen that keeps the last look of the live view."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._paper = console

    def token(self, label: str, text: str, style: str = "") -> None:
        """Break it here: a picture does not."""
        line = f"{label:<10}{text}"
        super().token(label, line[10:COLUMNS], style)
        for begin in range(COLUMNS, len(line), COLUMNS):
            self._paper.print(Text(line[begin : begin + COLUMNS], style))

    @contextmanager
    def live(self, view: View) -> Generator[None]:
        yield
        if view.counts:
            self._paper.print(view.drawn(COLUMNS))


def draw(file: Path) -> None:
    """Run the command, and write what it shows to this file."""
    console = Console(
        record=True,
        width=COLUMNS,
        height=50,
        file=io.StringIO(),
        force_terminal=True,
        highlight=False,
        color_system="truecolor",
        _environ={"TERM": "xterm"},
    )
    console.print(Text.assemble(("$ ", "dim"), f"sms4sats {' '.join(COMMAND)}"))
    sandbox = Sandbox(timeline=Timeline(paid_after=20, number_after=8, code_after=45, code="004217"), epoch=NOON)
    random.seed(1)  # the spread of the polls
    answer = Paper()
    with Keyboard() as keyboard, redirect_stdout(answer), ThreadPoolExecutor(1) as pool:  # a thread, as in running.run
        around = Surroundings(sandbox.transport(), {"loop_factory": VirtualTimeLoop}, lambda: Still(console), keyboard.receiver)
        pool.submit(sms4sats, COMMAND, around).result()
    console.print(answer.getvalue(), end="")
    console.save_svg(str(file), title="sms4sats", theme=MONOKAI)


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.cli.picture", description="Draw what receive shows in a terminal.")
    options.add_argument("file", type=Path, nargs="?", default=PICTURE)
    draw(options.parse_args().file)


if __name__ == "__main__":
    main()
