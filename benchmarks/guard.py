"""Holds this client to bounds on what it costs beside what else one could take; fails when one is not met.

    python -m benchmarks.guard

Every figure is a ratio of two that were taken in turns in one run, so that a slow machine slows both. Where the median of the ratios is
over its bound, as many rounds are taken again, a few times, and all of them are judged together: more samples, never a wider bound.
The exit code is 1 when a bound is not met, else 0.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks._contenders import AIOHTTP_DECODING, CONTENDERS, HTTPX, OURS, OURS_OVER_AIOHTTP
from benchmarks._report import spread
from benchmarks.per_request import measure
from benchmarks.scale import cpu_ratios, memory_per_order

ROUNDS = 9
AGAIN = 2  # times that as many rounds are taken again
AGAIN_IN_FRESH_PROCESSES = 5  # which are not alike: two of them differ by more than the rounds of one
AT_ONCE = 20

Ratios = Callable[[int], Sequence[float]]
"""Takes so many rounds, and returns the ratio of each that can be used."""


@dataclass(frozen=True)
class Check:
    """A bound, and where the ratios come from that must keep to it."""

    name: str
    bound: float
    ratios: Ratios
    again: int = AGAIN


@dataclass(frozen=True)
class Verdict:
    """What came of a check."""

    check: Check
    ratios: list[float]

    @property
    def met(self) -> bool:
        """Is the median of all rounds within the bound? Not without a round that can be used."""
        return bool(self.ratios) and statistics.median(self.ratios) <= self.check.bound

    def __str__(self) -> str:
        found = spread(self.ratios, ".3f") if self.ratios else "no round could be used: too few connections were held"
        return f"{'ok  ' if self.met else 'OVER'}  {self.check.name}: {found} in {len(self.ratios)} rounds, at most {self.check.bound:g}"


def judge(check: Check, rounds: int = ROUNDS) -> Verdict:
    """Take rounds until the bound is met or there were enough of them."""
    verdict = Verdict(check, [*check.ratios(rounds)])
    for _ in range(check.again):
        if verdict.met:
            break
        verdict = Verdict(check, [*verdict.ratios, *check.ratios(rounds)])
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
    Check("CPU per poll in a batch: 10,000 orders / 100", 1.15, growth("batch"), AGAIN_IN_FRESH_PROCESSES),
    Check("CPU per poll of single watchers: 10,000 orders / 100", 1.15, growth("single"), AGAIN_IN_FRESH_PROCESSES),
    Check("memory per order in a batch / 2 KiB", 1.0, lambda _: [memory_per_order() / 2048]),
)


def guard(checks: Sequence[Check]) -> int:
    """Judge all, print what came of each, and return the exit code."""
    failed = 0
    for check in checks:
        verdict = judge(check)
        failed += not verdict.met
        print(verdict, flush=True)
    print(f"{failed} of {len(checks)} bounds are not met" if failed else f"all {len(checks)} bounds are met")
    return 1 if failed else 0


def main() -> int:
    """Run all checks."""
    argparse.ArgumentParser(description="hold this client to bounds on its cost").parse_args()
    return guard(CHECKS)


if __name__ == "__main__":
    raise SystemExit(main())
