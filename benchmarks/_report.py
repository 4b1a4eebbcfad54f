"""How the benchmarks say what they found: a table for people, and one line of JSON that also says what it was found with."""

import json
import os
import platform
import ssl
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

PACKAGES = ("sms4sats-async", "httpx", "httpcore", "httpx2", "httpcore2", "aiohttp", "httpx-aiohttp", "anyio", "trio", "uvloop", "attrs")


def spread(figures: Sequence[float], form: str) -> str:
    """``median (min-max)``, or a dash for no figures."""
    if not figures:
        return "-"
    return f"{statistics.median(figures):{form}} ({min(figures):{form}}-{max(figures):{form}})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def line_of_json(benchmark: str, options: Mapping[str, Any], results: Any) -> str:
    """The results for a program, with the options and the surroundings they were found in, on one line."""
    return json.dumps({"benchmark": benchmark, "options": dict(options), **surroundings(), "results": _short(results)})


def _short(value: Any) -> Any:
    """The same with every float cut to the digits that can mean something."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value


def surroundings() -> dict[str, Any]:
    """The versions of all that took part, and the number of cores."""
    found = {"python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION} | {name: version(name) for name in PACKAGES}
    return {"versions": found, "cores": os.cpu_count()}
