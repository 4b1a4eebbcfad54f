"""``sms4sats``, the command line. What it needs beside the package comes with the extra ``cli``; without that it says so."""

import importlib.util
import sys

NEEDED = ("click", "phonenumbers", "rich", "segno")


def main() -> int:
    """Run the command line with the arguments of the process, and return the exit code."""
    try:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            print(f"sms4sats needs {', '.join(missing)}: pip install 'sms4sats-async[cli]'", file=sys.stderr)
            return 2
        from sms4sats_async.cli.commands import main as run  # noqa: PLC0415 - an extra

        return run()
    except KeyboardInterrupt:  # before there is an event loop that takes it in, or when all is done
        print("interrupted", file=sys.stderr)
        return 130
