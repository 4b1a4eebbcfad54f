"""Draws the two figures that matter, from the lines of JSON that the benchmarks print.

    python -m benchmarks.scale --only cpu --json > benchmarks/results/scale.json
    python -m benchmarks.pace --orders 200000 --json > benchmarks/results/pace.json
    python -m benchmarks.pictures [FOLDER]

FOLDER, ``benchmarks/results`` by default, is where the results are read and where ``cpu_per_poll.svg`` and ``requests_and_delay.svg``
are written.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
DEFAULT = "default"
LABELS = {"batch": "BatchWatcher", "single": "OrderWatcher, one task each"}
"""What is not named in words for a reader by its benchmark."""


def cpu_per_poll(results: dict[str, Any]) -> Figure:
    """CPU time per poll against the number of watched orders, both on logarithmic scales, one line for each way to watch."""
    figure, axes = _canvas("CPU per poll as watched orders grow (busy)", "watched orders", "CPU µs per poll, median")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for name, by_size in results["cpu, busy"].items():
        medians = {
            int(size): statistics.median(each["cpu_us"] for each in windows if each["polls"])
            for size, windows in by_size.items()
            if any(each["polls"] for each in windows)
        }
        style = {"linewidth": 2.5} if name in LABELS else {"linewidth": 1.0, "linestyle": "--"}
        axes.plot(list(medians), list(medians.values()), marker="o", label=LABELS.get(name, name), **style)
    axes.legend(fontsize="small")
    return figure


def requests_and_delay(results: dict[str, Any]) -> Figure:
    """Requests per order against the mean delay of a code: the default pace beside fixed ones, at three speeds of arrival."""
    figure, axes = _canvas("Requests against delay", "requests per order", "mean delay of a code, s")
    for speed, colour in zip(results["speeds"], ("tab:blue", "tab:orange", "tab:green"), strict=True):
        figures = {pace: each["figures"] for pace, each in results["speeds"][speed].items()}
        fixed = [(each["requests"], each["mean"]) for pace, each in figures.items() if pace.startswith("every")]
        axes.plot(*zip(*fixed, strict=True), marker="o", color=colour, linewidth=1.0, label=f"fixed 2, 3, 4, 5 s; codes {speed}")
        at = [figures[DEFAULT]["requests"]], [figures[DEFAULT]["mean"]]
        axes.plot(*at, marker="*", markersize=14, color=colour, linestyle="", label=f"default; codes {speed}")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    return figure


def _canvas(title: str, across: str, upward: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(upward)
    axes.grid(visible=True, which="both", linewidth=0.3)
    return figure, axes


def draw(folder: Path) -> list[Path]:
    """Read the results in this folder, write the pictures beside them, and return where they are."""
    mpl.rcParams["svg.hashsalt"] = "sms4sats_async"  # the same results make the same file
    drawn: list[Path] = []
    for results, picture, figure_of in (("scale", "cpu_per_poll", cpu_per_poll), ("pace", "requests_and_delay", requests_and_delay)):
        figure = figure_of(json.loads((folder / f"{results}.json").read_text())["results"])
        drawn.append(folder / f"{picture}.svg")
        figure.savefig(drawn[-1], metadata={"Date": None})
    return drawn


def main() -> None:
    """Draw and say where."""
    options = argparse.ArgumentParser(description="draw the pictures of benchmarks/README.md from the benchmarks' results")
    options.add_argument("folder", type=Path, nargs="?", default=RESULTS)
    for picture in draw(options.parse_args().folder):
        print(picture)


if __name__ == "__main__":
    main()
