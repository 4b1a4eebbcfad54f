"""What importing the package costs, beside importing what it needs anyway: CPU time of whole processes, taking turns.

    python -m benchmarks.import_time [--rounds 15]

Each round starts three interpreters: one that imports nothing, one that imports httpx, attrs and anyio, one that imports the package.
The first is taken off the others. The byte code is compiled and kept before the first round, as an installer does.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile

NOTHING, NEEDED, OURS = "pass", "import httpx, attrs, anyio", "import sms4sats_async"


def cpu_seconds(code: str, environment: dict[str, str]) -> float:
    """CPU time of an interpreter that runs this and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cost(rounds: int) -> tuple[float, list[float]]:
    """Return the package's import over that of what it needs: by the least of all rounds (noise only adds), and round by round."""
    with tempfile.TemporaryDirectory() as cache:
        # Without what makes one of the imports dearer than it is: no byte code, or a coverage measurement in every process.
        left_out = ("PYTHONDONTWRITEBYTECODE", "COV")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        environment["PYTHONPYCACHEPREFIX"] = cache
        cpu_seconds(OURS, environment)
        taken = [[cpu_seconds(code, environment) for code in (NOTHING, NEEDED, OURS)] for _ in range(rounds)]
    nothing, needed, ours = (min(column) for column in zip(*taken, strict=True))
    return (ours - nothing) / (needed - nothing), [(each[2] - each[0]) / (each[1] - each[0]) for each in taken]


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="what importing the package costs beside importing what it needs")
    options.add_argument("--rounds", type=int, default=15)
    ratio, found = cost(options.parse_args().rounds)
    print(f"import sms4sats_async / import httpx, attrs, anyio: {ratio:.2f} (round by round {min(found):.2f}-{max(found):.2f})")
    print(json.dumps({"ratio": ratio, "rounds": found}))


if __name__ == "__main__":
    main()
