"""Holds this client to bounds on what it costs beside what else one could take; fails when one is broken.

    python -m benchmarks.guard

Every figure is a ratio of two that were taken in turns in one run, so that a slow machine slows both. While the median of the ratios is
over the bound in each take, as many rounds are taken again, up to seven takes in all. It is over when it is so in all seven: were the truth
just at the bound, that would happen once in 128 runs. It is met when the median of all rounds together is within the bound. What lies
between is open: the machine's noise is larger than the distance to the bound; it is printed, and fails nothing.
The exit code is 1 when a bound is over, else 0.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from benchmarks._contenders import AIOHTTP_DECODING, CONTENDERS, HTTPX, OURS, OURS_OVER_AIOHTTP
from benchmarks._report import spread
from benchmarks.per_request import measure
from benchmarks.scale import cpu_ratios, memory_per_order

ROUNDS = 5
TAKES = 7  # rather than more rounds in each: two processes differ by more than the rounds of one
AT_ONCE = 20

Ratios = Callable[[int], Sequence[float]]
"""Takes so many rounds, and returns the ratio of each that can be used."""


@dataclass(frozen=True)
class Check:
    """A bound, and where the ratios come from that must keep to it."""

    name: str
    bound: float
    ratios: Ratios
    counts: bool = False
    """Is it a count, which no other work on this machine changes?"""


@dataclass(frozen=True)
class Verdict:
    """What came of a check."""

    check: Check
    takes: list[Sequence[float]]

    @property
    def ratios(self) -> list[float]:
        """Those of all takes together."""
        return [ratio for take in self.takes for ratio in take]

    @property
    def met(self) -> bool:
        """Is the median of all rounds within the bound? Not without a round that can be used."""
        return bool(self.ratios) and statistics.median(self.ratios) <= self.check.bound

    @property
    def over(self) -> bool:
        """Is the median of every take over the bound, so that noise is no excuse? Without a round that can be used, too."""
        return all(statistics.median(take) > self.check.bound for take in self.takes if take)

    def __str__(self) -> str:
        found = spread(self.ratios, ".3f") if self.ratios else "no round could be used: too few connections were held"
        word = "ok  " if self.met else "OVER" if self.over else "open"
        return f"{word}  {self.check.name}: {found} in {len(self.ratios)} rounds, at most {self.check.bound:g}"


def judge(check: Check, rounds: int = ROUNDS) -> Verdict:
    """Take rounds until one take is within the bound, after which no other could break it, or there were enough of them."""
    verdict = Verdict(check, [check.ratios(rounds)])
    while verdict.over and len(verdict.takes) < TAKES:
        verdict = Verdict(check, [*verdict.takes, check.ratios(rounds)])
    return verdict


def cpu_per_call(name: str, beside: str, *, calls: int = 400) -> Ratios:
    """CPU time per status call of one client over another's, on asyncio, over plain http."""

    def ratios(rounds: int) -> list[float]:
        return measure([CONTENDERS[beside], CONTENDERS[name]], AT_ONCE, rounds=rounds, calls=calls).ratios(name, beside)

    return ratios


def growth(kind: Literal["batch", "single"]) -> Ratios:
    """CPU time per poll with 10,000 watched orders over that with 100, nobody idling."""
    return lambda rounds: cpu_ratios(kind, rounds=rounds)


CHECKS = (
    Check("CPU per call: our lanes / bare httpx", 0.25, cpu_per_call(OURS, HTTPX)),
    Check("CPU per call: ours over aiohttp / bare httpx", 0.13, cpu_per_call(OURS_OVER_AIOHTTP, HTTPX)),
    Check(
        "CPU per call: ours over aiohttp / bare aiohttp, same decode",
        1.7,
        cpu_per_call(OURS_OVER_AIOHTTP, AIOHTTP_DECODING, calls=2000),  # both are fast: a round of 400 would be short, and so noisy
    ),
    Check("memory per order in a batch / 2 KiB", 1.0, lambda _: [memory_per_order() / 2048], counts=True),
    Check("CPU per poll in a batch: 10,000 orders / 100", 1.15, growth("batch")),
    Check("CPU per poll of single watchers: 10,000 orders / 100", 1.15, growth("single")),
)


def guard(checks: Sequence[Check]) -> int:
    """Judge all in turn, what counts beside those that follow it, print what came of each, and return the exit code."""
    failed = 0

    def tell(verdict: Verdict) -> None:
        nonlocal failed
        failed += verdict.over
        print(verdict, flush=True)

    with ThreadPoolExecutor() as beside:
        counted = []
        for check in checks:
            if check.counts:
                counted.append(beside.submit(judge, check))
            else:
                tell(judge(check))
        for verdict in counted:
            tell(verdict.result())
    print(f"{failed} of {len(checks)} bounds are broken" if failed else f"none of {len(checks)} bounds is broken")
    return 1 if failed else 0


def main() -> int:
    """Run all checks."""
    argparse.ArgumentParser(description="hold this client to bounds on its cost").parse_args()
    return guard(CHECKS)


if __name__ == "__main__":
    raise SystemExit(main())
