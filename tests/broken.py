"""Clients that are broken on purpose: for each promise at least one that breaks it, and the tests that find it out.

    python -m tests.broken                              # try them all, and tell which test finds each of them out
    python -m tests.broken one-pool redirects-are-followed

A variant is the package with one place of its sources replaced. Its tests pass on the package as it is, and at least one of them must
fail on the variant. A variant that applies no more, that merely crashes, or that no test finds out, is red.
"""

import argparse
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parent.parent
PACKAGE = "sms4sats_async"
PROGRAMS = "../README.md"
"""Where the programs to start from are, as seen from the package."""
AT_ONCE = 2
"""How many variants are tried at once."""
PATIENCE = 300
"""Seconds that the tests of one variant may take."""
MISTAKES = ("NameError", "UnboundLocalError", "AttributeError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError")
"""A test that fails by one of these has found a slip in the replacement, and no broken promise."""

# Importing what tests need takes longer than most of them, so one process imports it, and makes a copy of itself for each variant. Of the
# package and of the tests it imports nothing, and each copy sees to it that it has met the package that was meant, no installed one.
_TRIER = f"""
import anyio.pytest_plugin, gc, httpcore, httpx, hypothesis, importlib.util, json, os, pytest, pytest_httpx, respx, signal, sys
if importlib.util.find_spec("trio"):
    import trio.testing
gc.collect()
gc.freeze()
for line in sys.stdin:
    package, output, patience, arguments = json.loads(line)
    child = os.fork()
    if not child:
        signal.alarm(patience)
        for number in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), number)
        sys.path.insert(0, package)
        code = int(pytest.main(arguments))
        met = getattr(sys.modules.get("{PACKAGE}"), "__file__", "no package")
        if code not in (2, 4) and not met.startswith(package):
            print("the tests have met", met)
            code = 70
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Variant:
    """A client that breaks one promise.

    Attributes:
        promise: in the words of README.md, or, where that is short, in those of the package.
        file: the one that is broken, in the package, or ``PROGRAMS``.
        old, new: what is replaced in it, by what; ``old`` stands there once.
        tests: where it is found out, as pytest names them, below ``tests/``.
    """

    name: str
    promise: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Verdict:
    """Is it as it should be, and by which test, or why not?"""

    good: bool
    words: str


class Workshop:
    """A copy of the tests, and one of the package for each way to break it; nobody meets the sources of the checkout.

    Args:
        place: an empty directory.
    """

    def __init__(self, place: Path) -> None:
        self._place = place.resolve()
        self._tree = self._place / "tree"
        self._whole = self._place / "whole"
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        half_written = shutil.ignore_patterns("*.pyc.*")  # what is compiled already need not be compiled again
        shutil.copytree(ROOT / "tests", self._tree / "tests", ignore=half_written)
        for name in ("README.md", "pyproject.toml"):
            shutil.copy2(ROOT / name, self._tree)
        shutil.copytree(ROOT / PACKAGE, self._whole / PACKAGE, ignore=half_written)
        shutil.copy2(ROOT / "README.md", self._whole)  # its programs stand beside the package, and can be broken as well

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        while not self._idle.empty():
            with self._idle.get() as trier:  # closes its pipes, which ends it, and waits for that
                pass
            assert trier.returncode == 0

    def check(self, file: str, tests: Iterable[str]) -> Verdict:
        """Run these tests of one file, each with one set of parameters, on the package as it is: what is red here finds nothing out."""
        code, words = self._run(self._whole, tests, "-ptests.repeat", "--turn=0")
        return Verdict(code == 0, f"{file}: the tests of the variants pass on the package as it is" if code == 0 else words)

    def judge(self, variant: Variant) -> Verdict:
        """Break a copy of the package, and run the variant's tests against it."""
        source = (self._whole / PACKAGE / variant.file).read_text(encoding="utf-8")
        if (count := source.count(variant.old)) != 1:
            return Verdict(False, f"it applies no more: what it replaces stands {count} times in {variant.file}")
        broken = self._place / variant.name
        shutil.copytree(self._whole, broken, ignore=shutil.ignore_patterns(f"{Path(variant.file).stem}.*.pyc", "*.pyc.*"))
        (broken / PACKAGE / variant.file).write_text(source.replace(variant.old, variant.new), encoding="utf-8")
        code, words = self._run(broken, variant.tests, "-x")
        shutil.rmtree(broken)
        failed = re.search(r"^FAILED tests/(\S+::.*?)(?: - (.*))?$", words, re.MULTILINE)
        if code != 1 or failed is None:
            return Verdict(False, f"no test finds it out; pytest ended with {code}:\n{words}")
        test, why = failed.groups("")
        if why.startswith(MISTAKES):
            return Verdict(False, f"it breaks no promise, it crashes: {test}: {why}")
        return Verdict(any(test == name or test.startswith(f"{name}[") for name in variant.tests), f"{test}: {why}")

    def _run(self, package: Path, tests: Iterable[str], *options: str) -> tuple[int, str]:
        """Run tests against this package, and return pytest's exit code and words."""
        fixed = [
            "-q",
            "-rf",
            "--tb=no",
            "-o",
            "addopts=",
            "-pno:cacheprovider",
            "--disable-plugin-autoload",  # a fifth of the time of most variants
            *(f"-p{plugin}" for plugin in ("anyio.pytest_plugin", "_hypothesis_pytestplugin", "_sms4sats_pytest", "pytest_httpx")),
        ]
        early = "-Wignore:Module already imported:pytest.PytestAssertRewriteWarning"  # what the trier has imported
        arguments = [*fixed, early, *options, *(f"tests/{test}" for test in tests)]
        with tempfile.NamedTemporaryFile("r", dir=self._place, encoding="utf-8") as output:
            trier = self._start() if self._idle.empty() else self._idle.get()
            assert trier.stdin is not None
            assert trier.stdout is not None
            print(json.dumps([str(package), output.name, PATIENCE, arguments]), file=trier.stdin, flush=True)
            code = int(trier.stdout.readline())
            self._idle.put(trier)
            return code, output.read()

    def _start(self) -> subprocess.Popen[str]:
        # Whatever measures this process is not to hear of broken copies, and what they have compiled is of use to the next ones.
        meant_for_us = ("COV", "PYTEST", "PYTHON")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(meant_for_us)} | {"COLUMNS": "1000"}
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", _TRIER], cwd=self._tree, env=environment, stdin=pipe, stdout=pipe, text=True)


def named_tests(variants: Iterable[Variant]) -> dict[str, list[str]]:
    """The tests that find these variants out, by the file that they are in."""
    tests = sorted({test for variant in variants for test in variant.tests})
    files = sorted({test.partition("::")[0] for test in tests})
    return {file: [test for test in tests if test.startswith(f"{file}::")] for file in files}


# --- the calls -------------------------------------------------------------------------------------------------------------------

_CALLS = [
    Variant(
        "available-is-asked-again",
        "asked once, raises nothing",
        "client.py",
        "json=False, limit=LIST_LIMIT), attempts=1)",
        "json=False, limit=LIST_LIMIT))",
        ("test_transport.py::test_availability_is_asked_once",),
    ),
    Variant(
        "available-raises",
        "asked once, raises nothing",
        "client.py",
        "        except Sms4SatsError:\n            return False",
        "        except Sms4SatsError:\n            raise",
        ("test_transport.py::test_availability_is_asked_once",),
    ),
    Variant(
        "country-0-is-not-asked-for",
        "0 is Russia",
        "client.py",
        '        if country is not None:\n            query["country"]',
        '        if country:\n            query["country"]',
        ("test_client.py::test_a_read_is_one_get_to_this_very_address",),
    ),
    Variant(
        "country-0-is-no-country",
        "0 is Russia",
        "models.py",
        "        if number is None:\n            return None\n        return cls(",
        "        if not number:\n            return None\n        return cls(",
        ("test_models.py::test_country_0_is_a_country",),
    ),
    Variant(
        "names-are-changed",
        "names are sent as they are",
        "client.py",
        "    return str(country)",
        "    return str(country).lower()",
        ("test_client.py::test_a_read_is_one_get_to_this_very_address",),
    ),
    Variant(
        "a-range-is-a-price",
        "a field is `None` where the service sends a range or nothing",
        "models.py",
        "return _whole(value, ROUND_CEILING)",
        'return _whole(value.partition("-")[0] if isinstance(value, str) else value, ROUND_CEILING)',
        ("test_models.py::test_a_price_is_whole_satoshis_rounded_up_and_a_range_is_none",),
    ),
    Variant(
        "a-balance-is-rounded-up",
        "`int`, rounded down",
        "models.py",
        '"the balance").get("balance"))',
        '"the balance").get("balance"), ROUND_CEILING)',
        ("test_models.py::test_a_balance_is_rounded_down",),
    ),
    Variant(
        "raw-is-forgotten",
        "Every model keeps the server's own reply in `raw`",
        "models.py",
        'description=_words(asked.get("description")),\n            raw=row,',
        'description=_words(asked.get("description")),',
        ("test_models.py::test_a_model_keeps_the_servers_own_reply",),
    ),
    Variant(
        "a-stored-order-is-no-json",
        "`order.to_dict()` and `Order.from_dict()` are plain JSON",
        "models.py",
        '"created_at": self.created_at.isoformat()',
        '"created_at": self.created_at',
        ("test_models.py::test_a_stored_order_keeps_its_form",),
    ),
    Variant(
        "a-number-loses-its-zeros",
        "Return the code: the first one seen, byte for byte.",
        "models.py",
        'return (value, False) if value.strip() not in ("", "0") else',
        'return (str(int(value)) if value.isdigit() else value, False) if value.strip() not in ("", "0") else',
        ("test_models.py::test_a_code_is_kept_as_it_came",),
    ),
    Variant(
        "an-id-in-a-repr",
        "No repr, log line or error text of this package shows a whole one.",
        "models.py",
        "    id: str = attrs.field(repr=_masked)",
        "    id: str = attrs.field()",
        ("test_batch.py::test_no_id_no_code_and_no_number_is_told_in_any_text",),
    ),
    Variant(
        "an-id-in-a-log-line",
        "No repr, log line or error text of this package shows a whole one.",
        "steps.py",
        'return f"order {mask(self.order.id)}"',
        'return f"order {self.order.id}"',
        ("test_watcher.py::test_leaving_the_block_asks_once_and_warns_when_it_is_refused",),
    ),
    Variant(
        "an-id-in-an-error",
        "No repr, log line or error text of this package shows a whole one.",
        "lifecycle.py",
        'name, status = f"order {mask(order_id)}", self.status',
        'name, status = f"order {order_id}", self.status',
        ("test_lifecycle.py::test_every_bad_end_names_its_order_masked_and_carries_id_and_status",),
    ),
    Variant(
        "no-total-deadline",
        "`timeout` is the total for one attempt, however slowly the bytes come",
        "transport.py",
        "flight.deadline = began + self._timeout",
        "flight.deadline = math.inf",
        ("test_transport.py::test_the_timeout_is_the_total_however_slowly_the_bytes_come",),
    ),
    Variant(
        "a-connection-may-take-it-all",
        "half of it may go into making a connection",
        "transport.py",
        '"connect": timeout / 2',
        '"connect": timeout',
        ("test_transport.py::test_a_connect_that_hangs_ends_at_half_the_timeout",),
    ),
    Variant(
        "the-first-attempt-is-not-counted",
        "`attempts` counts the first",
        "transport.py",
        "if attempt >= most or",
        "if attempt > most or",
        ("test_transport.py::test_where_nobody_listens_every_attempt_fails_with_the_systems_words",),
    ),
    Variant(
        "on-order-is-not-called",
        "gets every order as soon as its reply is read",
        "client.py",
        "                self._tell(order)\n            return order",
        "                pass\n            return order",
        ("test_spending.py::test_on_order_hears_of_each_order_once_and_may_fail",),
    ),
    Variant(
        "on-order-is-called-in-the-end",
        "gets every order as soon as its reply is read",
        "client.py",
        "                order = await self._transport.send(call)\n",
        "                tell, self._tell = self._tell, lambda order: None\n"
        "                try:\n"
        "                    order = await self._transport.send(call)\n"
        "                finally:\n"
        "                    self._tell = tell\n"
        "                tell(order)\n",
        ("test_spending.py::test_sixty_cancelled_purchases_are_all_known",),
    ),
    Variant(
        "on-order-may-break-a-call",
        "what it raises is logged",
        "client.py",
        '_logger.exception("on_order failed for order %s", mask(order.id))',
        "raise",
        ("test_spending.py::test_on_order_hears_of_each_order_once_and_may_fail",),
    ),
    Variant(
        "a-client-of-two-loops",
        "A client belongs to one event loop",
        "transport.py",
        "if self._permits is not None and self._loop != self._current_loop():",
        "if self.closed:",
        ("test_transport.py::test_a_client_is_of_one_event_loop",),
    ),
    Variant(
        "a-client-of-its-birthplace",
        "It can be made anywhere.",
        "transport.py",
        "self._loop: object = None",
        "self._loop: object = anyio.get_current_task()",
        ("test_transport.py::test_a_client_is_of_one_event_loop",),
    ),
    Variant(
        "more-connections-than-allowed",
        "how many requests are under way at once at the most",
        "transport.py",
        "anyio.Semaphore(self.max_connections)",
        "anyio.Semaphore(2 * self.max_connections)",
        ("test_transport.py::test_single_calls_use_one_connection_and_a_crowd_never_more_than_allowed",),
    ),
    Variant(
        "an-answer-without-status-confirms",
        "`None`, once the server confirmed",
        "models.py",
        'if str(_object(payload, "the answer").get("status")).upper() != "OK":',
        'if str(_object(payload, "the answer").get("status")).upper() == "ERROR":',
        ("test_client.py::test_a_cancel_is_confirmed_by_status_ok_and_nothing_else",),
    ),
]

# --- watching ----------------------------------------------------------------------------------------------------------------------

_WATCHING = [
    Variant(
        "every-status-is-given",
        "each status that differs from the one before",
        "watcher.py",
        "self.status is not None and self.status != last:",
        "self.status is not None and self.status is not last:",
        ("test_watcher.py::test_iteration_gives_each_status_that_differs_and_ends_with_the_code",),
    ),
    Variant(
        "the-iteration-ends-with-an-error",
        "ends with the order",
        "watcher.py",
        "raise StopAsyncIteration",
        'raise OrderError("the order has ended")',
        ("test_watcher.py::test_iteration_gives_each_status_that_differs_and_ends_with_the_code",),
    ),
    Variant(
        "an-end-is-not-told",
        "raise the order's end if it ends without it",
        "watcher.py",
        "        if error is not None:\n            raise error\n",
        "        if error is not None:\n            raise OrderError(str(error))\n",
        ("test_watcher.py::test_iteration_raises_as_code_does_after_the_last_status",),
    ),
    Variant(
        "a-refused-cancel-returns",
        "returns when the server confirmed",
        "watcher.py",
        "            return self._state.reason\n        end =",
        "            return None\n        end =",
        ("test_watcher.py::test_a_refused_cancel_is_cancel_refused_and_the_order_goes_on",),
    ),
    Variant(
        "a-cancel-does-not-wait",
        "waits for the moment it is allowed",
        "watcher.py",
        "if when_allowed else None\n        while True:",
        "if not when_allowed else None\n        while True:",
        ("test_watcher.py::test_cancel_when_allowed_waits_for_the_two_minutes_and_polls_meanwhile",),
    ),
    Variant(
        "leaving-does-not-cancel",
        "before the order has ended asks the server to cancel it",
        "watcher.py",
        "left = await sheltered(self._leave)",
        "left = None",
        ("test_watcher.py::test_leaving_the_block_cancels_once",),
    ),
    Variant(
        "leaving-cancels-what-has-ended",
        "before the order has ended asks the server to cancel it",
        "watcher.py",
        "            if not self._cancel_on_exit or self._state.end is not None",
        "            if self._state.end is not None:\n                await self._probe.cancel(self.order.id)\n"
        "            if not self._cancel_on_exit or self._state.end is not None",
        ("test_watcher.py::test_leaving_the_block_after_the_end_asks_nothing",),
    ),
    Variant(
        "a-cancelled-task-cancels-its-order",
        "without the block, a cancelled task leaves the order alone",
        "watcher.py",
        "        except ClosedError as closed:",
        "        except anyio.get_cancelled_exc_class():\n"
        "            await sheltered(lambda: self._probe.cancel(self.order.id))\n"
        "            raise\n"
        "        except ClosedError as closed:",
        ("test_watcher.py::test_a_cancelled_wait_leaves_the_order_alone_and_the_watcher_usable",),
    ),
    Variant(
        "a-task-in-the-background",
        "when nobody waits, nobody polls",
        "watcher.py",
        "                await self._drive()\n",
        "                import asyncio\n\n"
        "                async def drive() -> None:\n"
        "                    while self._state.end is None:\n"
        "                        await self._drive()\n\n"
        "                self._task = asyncio.ensure_future(drive())\n"
        "                await anyio.sleep(0)\n",
        ("test_watcher.py::test_a_cancelled_wait_leaves_the_order_alone_and_the_watcher_usable[asyncio]",),
    ),
    Variant(
        "each-waiter-polls",
        "it still polls once",
        "watcher.py",
        "            if self._driven:",
        "            if self._driven and self._leaving:",
        ("test_promises.py::test_several_tasks_that_wait_have_one_poll_under_way",),
    ),
    Variant(
        "an-id-alone-is-not-enough",
        "A stored order, or its id alone, can be watched again at any time",
        "steps.py",
        "            check_order_id(order)\n",
        '            raise TypeError("order must be an Order")\n',
        ("test_watcher.py::test_a_bare_id_makes_an_order",),
    ),
    Variant(
        "the-first-poll-comes-late",
        "| first poll | at once |",
        "lifecycle.py",
        "return cls(rules, due=now, created",
        "return cls(rules, due=now + FLOOR, created",
        ("test_lifecycle.py::test_the_first_look_is_at_once",),
    ),
    Variant(
        "slow-before-the-payment",
        "before the payment every 2 s",
        "lifecycle.py",
        "return 2.0 if seconds_waited < _MINUTE",
        "return 4.0 if seconds_waited < _MINUTE",
        ("test_lifecycle.py::test_the_default_pace_is_quickest_when_a_code_is_most_likely_and_slow_later",),
    ),
    Variant(
        "slow-when-the-code-is-likely",
        "after it every 3 s, from 1 min on every 2 s",
        "lifecycle.py",
        "return 3.0 if seconds_waited < _MINUTE else 2.0",
        "return 3.0 if seconds_waited < _MINUTE else 5.0",
        ("test_lifecycle.py::test_the_default_pace_is_quickest_when_a_code_is_most_likely_and_slow_later",),
    ),
    Variant(
        "the-pace-counts-from-the-first-poll",
        "`seconds_waited` counts from the payment",
        "lifecycle.py",
        "since = self.paid_at if self.paid_at is not None else self.started\n        return 0.0",
        "since = self.started\n        return 0.0",
        ("test_lifecycle.py::test_a_custom_pace_is_told_the_status_and_the_seconds_since_the_payment_and_before_it_since_the_first_look",),
    ),
    Variant(
        "watchers-march-in-step",
        "spread by up to 10 % at random",
        "steps.py",
        "probe.departed_at, anyio.current_time(), random.uniform(-1, 1))",
        "probe.departed_at, anyio.current_time(), 0.0)",
        ("test_watcher.py::test_an_interval_is_spread_by_a_tenth_and_no_poll_is_less_than_a_second_after_the_last",),
    ),
    Variant(
        "no-floor",
        "never under 1 s",
        "lifecycle.py",
        "due=began + max(FLOOR, interval)",
        "due=began + interval",
        ("test_lifecycle.py::test_no_interval_is_under_a_second",),
    ),
    Variant(
        "a-polls-duration-is-added",
        "a poll's own duration counts into it",
        "lifecycle.py",
        "due=began + max(FLOOR, interval)",
        "due=now + max(FLOOR, interval)",
        ("test_lifecycle.py::test_a_looks_own_duration_counts_into_the_interval",),
    ),
    Variant(
        "no-backoff",
        "1, 2, 4, 8, 16, 30, 30 … s",
        "lifecycle.py",
        "2.0 ** min(failures - 1, 10) * (1 + SPREAD * spread))",
        "FLOOR)",
        ("test_lifecycle.py::test_failed_looks_back_off_to_half_a_minute_and_a_good_one_starts_afresh",),
    ),
    Variant(
        "retry-after-is-ignored",
        "or what `Retry-After` says, 60 s at the most",
        "lifecycle.py",
        "        if failure.retry_after is None:\n",
        "        if failure.retry_after is None or failures:\n",
        ("test_watcher.py::test_a_retry_after_is_waited_for_up_to_a_minute",),
    ),
    Variant(
        "retry-after-without-a-limit",
        "or what `Retry-After` says, 60 s at the most",
        "lifecycle.py",
        "min(failure.retry_after * (1 + SPREAD * abs(spread)), LONGEST_RETRY_AFTER))",
        "failure.retry_after * (1 + SPREAD * abs(spread)))",
        ("test_lifecycle.py::test_retry_after_is_obeyed_up_to_a_minute_and_never_sooner_than_usual",),
    ),
    Variant(
        "three-failed-polls-end-it",
        "a failed poll ends nothing",
        "lifecycle.py",
        "        if state.closing is not None:\n            return state._still_unseen(began)",
        "        if failures >= 3:\n            return state._ended(End.UNRESOLVED)\n"
        "        if state.closing is not None:\n            return state._still_unseen(began)",
        ("test_watcher.py::test_a_failed_poll_ends_nothing_and_backs_off",),
    ),
    Variant(
        "error-pages-end-it",
        "a failed poll ends nothing",
        "lifecycle.py",
        "if isinstance(error, APIError) and error.status_code not in _GATEWAY_ERRORS:",
        'if isinstance(error, APIError) and error.status_code >= 500:\n            return cls(str(error), refusal="broken")\n'
        "        if isinstance(error, APIError):",
        ("test_lifecycle.py::test_what_is_no_refusal_of_this_order_never_ends_it",),
    ),
    Variant(
        "the-payment-window-counts-from-the-order",
        "21 min from the first poll",
        "lifecycle.py",
        "(self.started, self.rules.payment_window) if",
        "(self.created or self.started, self.rules.payment_window) if",
        ("test_promises.py::test_a_stored_time_moves_no_payment_window",),
    ),
    Variant(
        "the-hold-window-counts-from-the-order",
        "21 min from the first status that shows the payment",
        "lifecycle.py",
        "else (self.paid_at, self.rules.hold_window)",
        "else (self.created or self.started, self.rules.hold_window)",
        (
            "test_watcher.py::test_a_wrong_wall_clock_ends_nothing_early_or_late",
            "test_lifecycle.py::test_stored_times_move_no_window",
        ),
    ),
    Variant(
        "the-hold-window-counts-from-the-first-poll",
        "21 min from the first status that shows the payment",
        "lifecycle.py",
        "else (self.paid_at, self.rules.hold_window)",
        "else (self.started, self.rules.hold_window)",
        ("test_lifecycle.py::test_the_hold_window_counts_from_the_first_status_that_shows_the_payment",),
    ),
    Variant(
        "the-window-ends-two-minutes-early",
        "`hold_window=1260`",
        "lifecycle.py",
        "HOLD_WINDOW = 1260.0",
        "HOLD_WINDOW = 1140.0",
        ("test_watcher.py::test_a_wrong_wall_clock_ends_nothing_early_or_late",),
    ),
    Variant(
        "no-window-is-21-minutes",
        "`None` for no end",
        "lifecycle.py",
        "if since is None or window is None or",
        "window = window or HOLD_WINDOW\n        if since is None or",
        ("test_lifecycle.py::test_without_windows_it_is_looked_at_for_ever",),
    ),
    Variant(
        "a-rental-expires",
        "a rental has none",
        "lifecycle.py",
        " or (self.paid_at is not None and self.kind is OrderKind.rental):",
        ":",
        ("test_lifecycle.py::test_a_rental_has_no_hold_window_but_a_payment_window",),
    ),
    Variant(
        "a-rental-is-cancelled",
        "there is no cancel for it",
        "lifecycle.py",
        "return self.kind is OrderKind.receive\n",
        "return self.kind in (OrderKind.receive, OrderKind.rental)\n",
        ("test_watcher.py::test_leaving_the_block_of_another_kind_of_order_cancels_nothing",),
    ),
    Variant(
        "no-last-look",
        "look once more, cancel, look again",
        "lifecycle.py",
        "return Look(self.window_end, max(now, self.window_end) + LAST_STEP, last=True)",
        "return Cancel(self.window_end, max(now, self.window_end) + LAST_STEP, last=True)",
        ("test_watcher.py::test_a_code_in_the_last_look_is_in_time",),
    ),
    Variant(
        "no-cancel-at-the-end",
        "look once more, cancel, look again",
        "lifecycle.py",
        "        if self.cancellable:\n            closing =",
        "        if self.cancellable and self.failures:\n            closing =",
        ("test_watcher.py::test_the_hold_window_counts_from_the_first_status_that_shows_the_payment",),
    ),
    Variant(
        "no-look-after-a-cancel",
        "look once more, cancel, look again",
        "lifecycle.py",
        "return self._told(Answer.CONFIRMED, None)",
        "return self._told(Answer.CONFIRMED, None)._ended(End.EXPIRED if self.closing_window else End.CANCELLED)",
        ("test_watcher.py::test_a_code_in_the_look_after_the_cancel_is_in_time_whatever_the_cancel_said",),
    ),
    Variant(
        "a-late-code-is-too-late",
        "a code in any of these looks is in time",
        "lifecycle.py",
        "if status.code is not None and kind is OrderKind.receive:",
        "if status.code is not None and kind is OrderKind.receive and self.closing is None:",
        ("test_lifecycle.py::test_a_code_in_the_look_after_the_cancel_is_in_time",),
    ),
    Variant(
        "the-last-steps-take-an-hour",
        "30 s at the most",
        "lifecycle.py",
        "LAST_STEPS = 30.0",
        "LAST_STEPS = 3600.0",
        ("test_watcher.py::test_a_server_that_is_down_at_the_end_leaves_the_order_unresolved",),
    ),
    Variant(
        "a-server-that-is-down-is-an-end",
        "`OrderUnresolved` after 30 s: watch the same order again",
        "lifecycle.py",
        "return self._ended(End.UNRESOLVED)",
        "return self._ended(End.EXPIRED)",
        ("test_watcher.py::test_a_server_that_is_down_at_the_end_leaves_the_order_unresolved",),
    ),
    Variant(
        "three-refusals-end-it",
        "after five refusals in the same words",
        "lifecycle.py",
        "REFUSALS, REFUSED_FOR = 5,",
        "REFUSALS, REFUSED_FOR = 3,",
        ("test_lifecycle.py::test_four_refusals_or_less_than_a_minute_are_not_enough",),
    ),
    Variant(
        "refusals-of-a-second-end-it",
        "over a minute at least",
        "lifecycle.py",
        "REFUSALS, REFUSED_FOR = 5, 60.0",
        "REFUSALS, REFUSED_FOR = 5, 1.0",
        ("test_lifecycle.py::test_four_refusals_or_less_than_a_minute_are_not_enough",),
    ),
    Variant(
        "any-refusals-end-it",
        "in the same words",
        "lifecycle.py",
        "again = failure.refusal is not None and failure.refusal == self.refusal",
        "again = failure.refusal is not None and self.refusal is not None",
        ("test_lifecycle.py::test_another_failure_in_between_starts_the_count_afresh",),
    ),
    Variant(
        "a-refused-cancel-is-a-cancel",
        ".cancelled (did the server confirm)",
        "lifecycle.py",
        "state = self._told(Answer.REFUSED, reason)",
        "state = self._told(Answer.CONFIRMED, reason)",
        ("test_watcher.py::test_a_refused_cancel_expires_unconfirmed_with_the_servers_reason",),
    ),
    Variant(
        "a-lost-cancel-is-a-cancel",
        ".cancelled (did the server confirm)",
        "lifecycle.py",
        "return self._told(Answer.NONE, reason)",
        "return self._told(Answer.CONFIRMED, reason)",
        ("test_watcher.py::test_a_lost_cancel_is_made_again_three_times_at_most_with_a_look_between",),
    ),
    Variant(
        "a-cancel-that-is-answered-by-looking-is-a-cancel",
        ".cancelled (did the server confirm)",
        "lifecycle.py",
        "        if self.closing.answer is Answer.CONFIRMED:\n            return True, None",
        "        if self.closing.answer is Answer.CONFIRMED or self.closing.tries:\n            return True, None",
        ("test_watcher.py::test_a_refused_cancel_expires_unconfirmed_with_the_servers_reason",),
    ),
    Variant(
        "leaving-asks-again",
        "asks once to cancel",
        "watcher.py",
        "wishing(anyio.current_time(), tries=1, within=LEAVE_TIMEOUT)",
        "wishing(anyio.current_time())",
        ("test_promises.py::test_leaving_asks_once_though_no_answer_comes",),
    ),
    Variant(
        "leaving-takes-a-minute",
        "10 s at the most; a refusal is logged, with a masked id",
        "watcher.py",
        "LEAVE_TIMEOUT = 10.0",
        "LEAVE_TIMEOUT = 60.0",
        ("test_watcher.py::test_leaving_the_block_takes_ten_seconds_at_most",),
    ),
    Variant(
        "a-refusal-is-not-logged",
        "a refusal is logged, with a masked id",
        "watcher.py",
        '_logger.warning("%s", left)',
        '_logger.debug("%s", left)',
        ("test_watcher.py::test_leaving_the_block_asks_once_and_warns_when_it_is_refused",),
    ),
    Variant(
        "the-last-steps-are-dropped",
        "they go on for up to 10 s, then the cancellation goes on",
        "watcher.py",
        "await sheltered(self._last_steps, grace=LAST_STEPS_GRACE)",
        "await self._last_steps()",
        ("test_watcher.py::test_the_last_steps_go_on_for_ten_seconds_when_their_caller_is_cancelled",),
    ),
    Variant(
        "the-last-steps-hold-their-caller",
        "they go on for up to 10 s, then the cancellation goes on",
        "watcher.py",
        "await sheltered(self._last_steps, grace=LAST_STEPS_GRACE)",
        "await sheltered(self._last_steps)",
        ("test_watcher.py::test_the_last_steps_end_ten_seconds_after_their_caller_was_cancelled",),
    ),
    Variant(
        "a-shelter-swallows-the-cancellation",
        "then the cancellation goes on",
        "shelter.py",
        "            raise interruption from None",
        "            del interruption",
        ("test_shelter.py::test_work_cancelled_by_a_scope_goes_on_to_its_end",),
    ),
    Variant(
        "the-wall-clock-counts",
        "no stored or wall-clock time ends an order",
        "watcher.py",
        "        step = self._state.next(now)\n        if step is None or self._state is not before:",
        "        import time\n\n"
        "        if time.time() >= self.order.created_at.timestamp() + HOLD_WINDOW:\n"
        "            self._watch.life = self._state._ended(End.EXPIRED)\n"
        "        step = self._state.next(now)\n        if step is None or self._state is not before:",
        ("test_watcher.py::test_a_wrong_wall_clock_ends_nothing_early_or_late",),
    ),
    Variant(
        "knowledge-shrinks",
        "a number or a payment that was seen once stays",
        "lifecycle.py",
        "number=status.number or known.number",
        "number=status.number",
        ("test_lifecycle.py::test_what_was_seen_once_stays_known",),
    ),
    Variant(
        "an-error-wins-over-a-code",
        "a code wins over everything beside it",
        "lifecycle.py",
        "        if status.code is not None and kind is OrderKind.receive:\n            return End.CODE",
        "        if status.code is not None and kind is OrderKind.receive and status.error is None:\n            return End.CODE",
        ("test_lifecycle.py::test_a_code_wins_over_an_error_beside_it",),
    ),
    Variant(
        "a-failure-is-no-end",
        "the server ended the order and gives the money back",
        "lifecycle.py",
        "if status.error is not None:\n            return self._end_by_error()",
        "if status.error is not None and self.closing is not None:\n            return self._end_by_error()",
        ("test_watcher.py::test_an_error_is_final_and_keeps_the_servers_words",),
    ),
    Variant(
        "a-failed-sms-is-waited-for",
        "the SMS could not be sent",
        "lifecycle.py",
        "kind is OrderKind.send and status.sms_status == SmsStatus.failed:",
        "kind is OrderKind.fund and status.sms_status == SmsStatus.failed:",
        ("test_lifecycle.py::test_a_message_that_failed_is_a_failed_send",),
    ),
    Variant(
        "leaving-cancels-what-was-to-be-left-alone",
        "False to leave the order alone when the block is left.",
        "watcher.py",
        "if not self._cancel_on_exit or self._state.end is not None",
        "if self._state.end is not None",
        ("test_watcher.py::test_cancel_on_exit_false_leaves_the_order_but_a_windows_end_cancels_all_the_same",),
    ),
    Variant(
        "an-unpaid-order-was-paid",
        "the window is over: .paid, .cancelled",
        "lifecycle.py",
        "paid = self.paid_at is not None\n",
        "paid = self.started is not None\n",
        ("test_watcher.py::test_the_payment_window_counts_from_the_first_poll_and_its_end_cancels_too",),
    ),
    Variant(
        "an-expiry-without-its-cause",
        "with the last failure as its cause",
        "steps.py",
        "            error.__cause__ = self.failure\n",
        "            error.__cause__ = None\n",
        ("test_watcher.py::test_the_last_failure_is_the_cause_of_the_expiry",),
    ),
    Variant(
        "an-unknown-order-is-another-error",
        "over a minute at least: that `APIError`",
        "steps.py",
        "return copy.copy(self.failure)",
        "return Sms4SatsError(str(self.failure))",
        ("test_watcher.py::test_a_refusal_that_never_changes_ends_the_wait_after_a_minute",),
    ),
    Variant(
        "a-pace-that-fails-ends-the-wait",
        "A pace of the caller's that cannot cost a code",
        "steps.py",
        '        except Exception:\n            _logger.exception("poll_interval failed',
        '        except OverflowError:\n            _logger.exception("poll_interval failed',
        ("test_watcher.py::test_a_pace_that_fails_costs_nothing",),
    ),
]

# --- many orders at once -----------------------------------------------------------------------------------------------------------

_BATCH = [
    Variant(
        "the-failure-of-an-order-is-raised",
        "in its `outcome.error`, never raised",
        "batch.py",
        "        outcome, ended = self._unread.popleft()\n",
        "        outcome, ended = self._unread.popleft()\n        if outcome.error is not None:\n            raise outcome.error\n",
        ("test_batch.py::test_an_order_that_the_server_ended_is_order_failed",),
    ),
    Variant(
        "unread-outcomes-take-no-room",
        "`max_watching=10_000` counts watched orders and unread outcomes",
        "batch.py",
        "while len(self._watches) + len(self._unread) >= self._max_watching:",
        "while len(self._watches) >= self._max_watching:",
        ("test_batch.py::test_a_slow_reader_holds_back_the_orders_and_never_the_polls",),
    ),
    Variant(
        "orders-are-read-ahead",
        "read as room allows",
        "batch.py",
        "+ len(self._unread) >= self._max_watching:",
        "+ len(self._unread) >= 2 * self._max_watching:",
        ("test_batch.py::test_orders_are_never_read_further_than_may_be_watched",),
    ),
    Variant(
        "what-is-added-waits",
        "watches one more, at once",
        "batch.py",
        "if self._nap is not None and step.at < self._nap.deadline:",
        "if self._nap is not None and step.at < self._nap.deadline - 3600:",
        ("test_batch.py::test_an_order_added_interrupts_the_sleep_of_the_workers",),
    ),
    Variant(
        "an-order-is-taken-twice",
        "an order that is watched already is not taken twice",
        "batch.py",
        "if watch.order.id not in self._watches:",
        "if watch.order.id not in self._watches or self._fed:",
        ("test_batch.py::test_an_order_that_is_watched_already_is_not_taken_twice_but_one_that_has_ended_is",),
    ),
    Variant(
        "what-is-no-order-stops-the-rest",
        "stops nothing, and is raised when all the others have ended, or the block is left",
        "batch.py",
        'self._spoilt("one of the orders", problem)',
        "raise",
        ("test_batch.py::test_what_is_no_order_is_raised_when_all_the_rest_has_ended",),
    ),
    Variant(
        "what-is-no-order-is-never-told",
        "stops nothing, and is raised when all the others have ended, or the block is left",
        "batch.py",
        "self._problem = self._problem or problem",
        "self._problem = None",
        ("test_batch.py::test_what_orders_raises_is_raised_when_all_the_rest_has_ended",),
    ),
    Variant(
        "more-under-way-than-connections",
        "`max_connections` of the client, at the most",
        "transport.py",
        "anyio.Semaphore(self.max_connections)",
        "anyio.Semaphore(1000)",
        ("test_batch.py::test_two_batches_and_a_caller_share_one_client",),
    ),
    Variant(
        "max-rate-is-not-kept",
        "requests in any one second, cancels included, spread evenly",
        "agenda.py",
        "(1 + SLACK + MARGIN) / max_rate",
        "(1 + SLACK + MARGIN) / (2 * max_rate)",
        ("test_batch.py::test_the_rate_is_kept_at_the_server_and_evenly_spread[asyncio-1]",),
    ),
    Variant(
        "a-repeat-is-not-counted",
        "requests in any one second, cancels included, spread evenly",
        "batch.py",
        "departing=departing if self._paced else None",
        "departing=None",
        ("test_batch.py::test_a_request_that_meets_a_closed_connection_counts_as_one_of_the_rate",),
    ),
    Variant(
        "what-was-not-taken-makes-a-burst",
        "spread evenly",
        "agenda.py",
        "self.turn = max(self.turn, now - SLACK) + self._spacing",
        "self.turn = max(self.turn, now - 1) + self._spacing",
        ("test_agenda.py::test_what_was_not_taken_for_a_while_makes_no_burst",),
    ),
    Variant(
        "nothing-is-held-back",
        "some 7 % are held back, so that it is true where they arrive",
        "agenda.py",
        "(1 + SLACK + MARGIN) / max_rate",
        "1 / max_rate",
        ("test_agenda.py::test_no_second_has_more_than_the_rate_with_the_worst_of_lateness",),
    ),
    Variant(
        "too-many-requests-slows-one-order",
        "slows the whole batch",
        "batch.py",
        "self._slow_down(0.0 if failure.retry_after is None else failure.retry_after)",
        "self._in_vain = 0",
        ("test_batch.py::test_too_many_requests_slows_all_orders_for_as_long_as_the_service_asks",),
    ),
    Variant(
        "a-batch-waits-for-a-year",
        "as `Retry-After` says, 60 s at the most",
        "batch.py",
        "seconds = min(retry_after, LONGEST_RETRY_AFTER) if",
        "seconds = retry_after if",
        ("test_batch.py::test_too_many_requests_slows_all_orders_for_as_long_as_the_service_asks",),
    ),
    Variant(
        "a-batch-does-not-back-off",
        "without it 1, 2, 4 … 30 s, until an answer comes",
        "batch.py",
        "unasked = min(LONGEST_BACKOFF, FLOOR * 2.0 ** min(self._in_vain - 1, 10))",
        "unasked = FLOOR",
        ("test_batch.py::test_leaving_a_service_that_refuses_all_and_asks_for_no_wait_does_not_flood_it",),
    ),
    Variant(
        "a-slow-reader-holds-back-the-polls",
        "holds back `orders`, never the polls",
        "batch.py",
        "                watch = await self._next()\n",
        "                while self._unread:\n                    await self._change()\n                watch = await self._next()\n",
        ("test_batch.py::test_a_slow_reader_holds_back_the_orders_and_never_the_polls",),
    ),
    Variant(
        "a-rental-is-one-outcome",
        "does not end with its code: each new code is an outcome",
        "batch.py",
        "watch.status.code != code:",
        "code is None and watch.status.code:",
        ("test_batch.py::test_a_rental_has_an_outcome_for_each_new_code_and_its_end",),
    ),
    Variant(
        "leaving-a-batch-cancels-nothing",
        "cancels what is open, paid orders first",
        "batch.py",
        "            await sheltered(self._leave)\n",
        "            self._leaving = anyio.CancelScope()\n",
        ("test_batch.py::test_leaving_early_cancels_what_is_open_and_keeps_what_nobody_has_read",),
    ),
    Variant(
        "unpaid-orders-first",
        "paid orders first",
        "batch.py",
        "key=lambda watch: watch.life.paid_at is None)",
        "key=lambda watch: watch.life.paid_at is not None)",
        ("test_batch_leaving.py::test_paid_orders_are_cancelled_first",),
    ),
    Variant(
        "leaving-ends-though-the-service-answers",
        "for as long as the service answers",
        "batch.py",
        "self._leaving.deadline = max(self._answered_at, waiting) + self._patience",
        "self._leaving.deadline = min(self._leaving.deadline, self._answered_at + self._patience)",
        ("test_batch.py::test_leaving_goes_on_for_as_long_as_the_service_answers",),
    ),
    Variant(
        "leaving-never-gives-up",
        "gives up after 10 s without an answer",
        "batch.py",
        "LEAVE_TIMEOUT = 10.0",
        "LEAVE_TIMEOUT = 3600.0",
        ("test_batch.py::test_leaving_a_dead_service_gives_up_after_ten_seconds_and_every_order_is_told",),
    ),
    Variant(
        "an-order-that-could-not-be-cancelled-is-unresolved",
        "an order younger than 2 minutes cannot be cancelled",
        "batch.py",
        "if not self._cancel_on_exit or not watch.life.cancellable:\n            return self._unresolved",
        "if not self._cancel_on_exit or not watch.life.cancellable or watch.life.answers:\n            return self._unresolved",
        ("test_batch.py::test_orders_of_less_than_two_minutes_are_cancel_refused_with_the_servers_reason",),
    ),
    Variant(
        "unread-outcomes-are-lost",
        "the outcomes that nobody has read",
        "batch.py",
        "        return [outcome for outcome, _ in self._unread]",
        "        return [outcome for outcome, _ in self._unread] if self._leaving is None else []",
        ("test_batch.py::test_leaving_early_cancels_what_is_open_and_keeps_what_nobody_has_read",),
    ),
    Variant(
        "an-open-order-has-no-outcome",
        "after the block, one for each order that was still open among them",
        "batch.py",
        "            self._finish(watch, error)\n",
        "            del self._watches[watch.order.id]\n",
        ("test_batch.py::test_leaving_a_dead_service_gives_up_after_ten_seconds_and_every_order_is_told",),
    ),
    Variant(
        "never-behind",
        "by how many seconds the most overdue poll is late",
        "agenda.py",
        "return max(0.0, ordinary, now - self._urgent[0][0] if self._urgent else 0.0)",
        "return max(0.0, now - self._urgent[0][0] if self._urgent else 0.0)",
        ("test_agenda.py::test_behind_is_how_long_the_most_overdue_waits",),
    ),
    Variant(
        "what-has-ended-is-watched",
        "how many orders are watched",
        "batch.py",
        "        return len(self._watches)\n",
        "        return len(self._watches) + len(self._unread)\n",
        ("test_batch.py::test_the_repr_tells_how_much_there_is",),
    ),
    Variant(
        "a-task-for-each-order",
        "one agenda of what is due, and as many workers as the client has connections",
        "batch.py",
        "            self._watches[watch.order.id] = watch\n",
        "            self._watches[watch.order.id] = watch\n"
        "            if self._crew is not None:\n"
        "                waiting = Sheltered(anyio.sleep_forever)\n"
        "                self._workers.append(waiting)\n"
        "                self._crew.start(waiting)\n",
        ("test_promises.py::test_an_order_in_a_batch_has_one_status_and_no_task_of_its_own",),
    ),
    Variant(
        "each-poll-is-remembered",
        "An order in a batch takes about 1.5 KiB beside the `Order` itself",
        "steps.py",
        "                self.life = self.life.saw(status,",
        "                vars(Watch._look).setdefault('seen', []).append(status)\n                self.life = self.life.saw(status,",
        ("test_promises.py::test_an_order_in_a_batch_has_one_status_and_no_task_of_its_own",),
    ),
    Variant(
        "an-asynchronous-generator-is-left-open",
        "an asynchronous generator is closed at the end",
        "batch.py",
        "if inspect.isasyncgen(orders) else nullcontext()",
        "if inspect.iscoroutine(orders) else nullcontext()",
        ("test_batch.py::test_an_asynchronous_generator_that_waits_for_room_is_closed_when_the_block_is_left",),
    ),
    Variant(
        "the-last-steps-wait-as-well",
        "but for last steps under way",
        "batch.py",
        "urgent=watch.life.closing is not None)",
        "urgent=False)",
        ("test_batch.py::test_too_many_requests_goes_on_with_the_last_steps_that_are_under_way",),
    ),
]

# --- the whole job in one call --------------------------------------------------------------------------------------------------

_PAYING = [
    Variant(
        "the-wallet-is-waited-for",
        "`pay` runs beside the polls, in a task of its own",
        "payers.py",
        "        self._crew.start(self._payment)\n",
        "        await self._payment.work()\n",
        ("test_payers.py::test_a_payment_that_blocks_until_the_code_comes_runs_beside_the_polls",),
    ),
    Variant(
        "a-wallet-is-believed-at-once",
        "two good looks begun after that show the invoice unpaid",
        "payers.py",
        "LOOKS_AFTER = 2",
        "LOOKS_AFTER = 0",
        ("test_payers.py::test_a_payment_that_raises_though_the_money_is_held_changes_nothing",),
    ),
    Variant(
        "one-look-after-a-payment-is-enough",
        "two good looks begun after that show the invoice unpaid",
        "payers.py",
        "LOOKS_AFTER = 2",
        "LOOKS_AFTER = 1",
        ("test_payers.py::test_one_unpaid_look_after_the_payment_raised_is_not_enough",),
    ),
    Variant(
        "a-failed-payment-is-never-told",
        "is that a `PaymentFailed`",
        "payers.py",
        "if self._looks.good >= LOOKS_AFTER:",
        "if self._looks.good < 0:",
        ("test_payers.py::test_a_payment_that_raises_and_did_not_pay_is_told_after_two_looks",),
    ),
    Variant(
        "a-look-from-before-counts",
        "two good looks begun after that show the invoice unpaid",
        "payers.py",
        "        self.good += counts  #",
        "        self.good += counts or self._since()  #",
        ("test_payers.py::test_a_look_that_was_under_way_as_the_payment_raised_is_none_of_the_two",),
    ),
    Variant(
        "a-failed-poll-counts-as-a-look",
        "A failed poll is no such look",
        "payers.py",
        "        await looking\n",
        "        try:\n            await looking\n        except Sms4SatsError:\n            self.good += counts\n            raise\n",
        ("test_payers.py::test_polls_that_fail_are_no_looks",),
    ),
    Variant(
        "a-payment-decides-against-the-status",
        "returns or raises decides nothing: the order's status does",
        "payers.py",
        "if raised is None or self._state.paid_at is not None:",
        "if raised is None:",
        ("test_payers.py::test_a_payment_that_raises_though_the_money_is_held_changes_nothing",),
    ),
    Variant(
        "a-payment-is-begun-twice",
        "It is called at most once for an order",
        "payers.py",
        "        _begun[order] = None\n",
        "",
        ("test_payers.py::test_a_payment_is_begun_once_for_an_order",),
    ),
    Variant(
        "too-dear-is-paid",
        "never for one above `max_sats`",
        "payers.py",
        "real_phone=real_phone, ref=ref, immediate=immediate, max_sats=max_sats)",
        "real_phone=real_phone, ref=ref, immediate=immediate)",
        ("test_payers.py::test_an_order_that_is_too_dear_is_never_paid",),
    ),
    Variant(
        "a-payment-has-no-time-to-settle",
        "After the order's end `pay` has 10 s to return",
        "payers.py",
        "PAYMENT_GRACE = 10.0",
        "PAYMENT_GRACE = 0.0",
        ("test_payers.py::test_a_payment_has_ten_seconds_after_a_bad_end_too",),
    ),
    Variant(
        "a-payment-hangs-for-ever",
        "has 10 s to return, then it is cancelled",
        "payers.py",
        "        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + seconds)\n",
        "",
        ("test_payers.py::test_a_payment_that_hangs_has_ten_seconds_after_the_code",),
    ),
    Variant(
        "a-cancelled-caller-pays-on",
        "It is cancelled at once when you are",
        "payers.py",
        "        if error is not None and not isinstance(error, Exception):  # the caller is to go on at once\n            return True\n",
        "",
        ("test_payers.py::test_the_callers_cancellation_stops_the_payment_before_the_service_is_asked",),
    ),
    Variant(
        "a-cancelled-caller-waits-for-the-wallet",
        "It is cancelled at once when you are",
        "payers.py",
        "await self._payment.end(lambda: 0.0)",
        "await self._payment.end(lambda: PAYMENT_GRACE)",
        ("test_payers.py::test_the_callers_cancellation_cuts_the_ten_seconds_short",),
    ),
    Variant(
        "what-is-given-up-is-paid",
        "when an order that was never seen paid has ended or is given up",
        "payers.py",
        "return error is not None or self._state.end is not None or (self._cancel_on_exit and self._state.cancellable)",
        "return False",
        ("test_payers.py::test_the_payment_of_an_order_that_is_given_up_unpaid_is_stopped_before_the_service_is_asked",),
    ),
    Variant(
        "what-was-not-begun-is-begun",
        "what was not sent to a wallet by then is not sent any more",
        "payers.py",
        "            if self._scope.cancel_called:  # before it could begin: not even the first lines of it are run\n"
        "                return\n",
        "",
        ("test_payers.py::test_a_payment_that_is_given_up_before_it_could_begin_is_not_begun",),
    ),
    Variant(
        "waiting-pays-nothing-and-says-nothing",
        "Before the block is entered nothing is paid, so waiting is a ``RuntimeError`` then",
        "payers.py",
        '        if self._payment is None:\n            raise RuntimeError("nothing',
        '        if self._looks.good < 0:\n            raise RuntimeError("nothing',
        ("test_payers.py::test_nothing_is_paid_before_the_block_is_entered_and_waiting_says_so",),
    ),
    Variant(
        "ctrl-c-in-a-payment-is-a-failed-payment",
        "a ``KeyboardInterrupt`` or its like is raised as it is",
        "payers.py",
        "    return not isinstance(error, Exception | anyio.get_cancelled_exc_class())\n",
        "    return False\n",
        ("test_payers.py::test_what_is_no_exception_is_raised_by_the_wait_and_at_once",),
    ),
    Variant(
        "a-wallets-words-are-logged",
        'Our log lines (`logging.getLogger("sms4sats_async")`) hold no key, no whole id, no number, no code',
        "payers.py",
        "self._watch.name, type(raised).__name__)  # its words may tell secrets",
        "self._watch.name, raised)",
        ("test_payers.py::test_no_words_of_a_payment_are_logged",),
    ),
    Variant(
        "what-was-received-is-shown",
        "No repr, log line or error text of this package shows a whole one.",
        "payers.py",
        "    number: str | None = attrs.field(repr=hidden)\n",
        "    number: str | None\n",
        ("test_payers.py::test_the_whole_job_of_a_code_is_one_call",),
    ),
    Variant(
        "a-number-is-told-with-each-status",
        "a plain function or an async callable, called once",
        "payers.py",
        "                tell, self._on_number = self._on_number, None\n",
        "                tell = self._on_number\n",
        ("test_payers.py::test_the_whole_job_of_a_code_is_one_call",),
    ),
    Variant(
        "an-async-on-number-is-not-awaited",
        "a code that came meanwhile is returned right after it",
        "payers.py",
        "                if inspect.isawaitable(telling):\n                    await telling\n",
        "                if inspect.iscoroutine(telling):\n                    telling.close()\n",
        ("test_payers.py::test_while_on_number_runs_nobody_polls_and_a_code_that_came_meanwhile_is_returned_at_once_after_it",),
    ),
    Variant(
        "an-order-given-up-is-forgotten",
        "an order that your own error or cancellation has ended is in `client.orphaned_orders` as well",
        "payers.py",
        "        self._client.orphaned_orders.append(order)\n",
        "",
        (
            "test_payers.py::test_an_order_whose_caller_was_cancelled_is_not_forgotten",
            "test_payers.py::test_an_error_of_on_number_is_raised_as_it_is_and_its_order_is_asked_to_be_cancelled",
        ),
    ),
    Variant(
        "a-payment-that-came-late-is-a-failed-one",
        "Only where it raised, and two good looks begun after that show the invoice unpaid, is that a `PaymentFailed`",
        "payers.py",
        "        if watcher.status is None or not watcher.status.paid:\n            raise\n",
        "        raise\n",
        ("test_payers.py::test_a_payment_that_arrives_as_its_order_is_given_up_has_paid",),
    ),
    Variant(
        "what-a-wallet-gave-up-is-forgotten",
        "What a wallet has given up can still arrive, so that order is in `client.orphaned_orders`",
        "payers.py",
        "and error.order_id == order.id and not isinstance(error, PaymentFailed):",
        "and error.order_id == order.id:",
        ("test_payers.py::test_a_payment_that_failed_in_a_whole_job_is_told_with_its_order",),
    ),
    Variant(
        "another-orders-error-is-this-ones",
        "an order that your own error or cancellation has ended is in `client.orphaned_orders` as well",
        "payers.py",
        "isinstance(error, Sms4SatsError) and error.order_id == order.id and",
        "isinstance(error, Sms4SatsError) and",
        ("test_payers.py::test_an_order_whose_on_number_fails_with_an_error_of_ours_is_not_forgotten",),
    ),
    Variant(
        "a-dead-invoice-is-paid-in-the-block",
        "and when an order that was never seen paid has ended or is given up",
        "payers.py",
        "            self._stop_within(0.0 if self._state.paid_at is None else PAYMENT_GRACE)\n",
        "            self._stop_within(PAYMENT_GRACE * 1000)\n",
        ("test_payers.py::test_the_payment_of_an_order_that_ends_in_the_block_is_stopped_then_and_not_as_the_block_is_left",),
    ),
    Variant(
        "an-old-order-is-paid-again",
        "It is called at most once for an order",
        "payers.py",
        "        order = (self.order.id, self.order.created_at)\n",
        "        order = (self.order.id, id(self.order))\n",
        ("test_payers.py::test_a_stored_order_is_not_paid_again_when_nobody_has_the_first_one_any_more",),
    ),
    Variant(
        "a-mistake-is-found-after-the-order",
        "an argument of another kind. Nothing is sent then.",
        "payers.py",
        "        Terms(client, kind=None, hold_window=hold_window, payment_window=payment_window, poll_interval=poll_interval)\n",
        "",
        ("test_payers.py::test_a_mistake_is_told_before_anything_is_sent",),
    ),
    Variant(
        "what-is-prepaid-needs-an-invoice",
        "With `immediate=True` in place of `pay` the prepaid balance is charged",
        "payers.py",
        "if (pay is None) != immediate:",
        "if pay is None:",
        ("test_payers.py::test_a_code_is_charged_to_the_balance",),
    ),
]


# --- the money rules ---------------------------------------------------------------------------------------------------------------

_MONEY = [
    Variant(
        "a-charge-over-a-kept-connection",
        "sent **at most once** unless it is certain that nothing was sent",
        "transport.py",
        "lambda: self._take(fresh=True)",
        "lambda: self._take(fresh=fresh)",
        ("test_spending.py::test_a_fresh_connection_is_taken_each_time_and_others_stay",),
    ),
    Variant(
        "a-charge-is-repeated-after-a-reset",
        "sent **at most once** unless it is certain that nothing was sent",
        "transport.py",
        "        return not sent\n",
        "        return not sent or isinstance(error.__cause__, httpx.ReadError)\n",
        ("test_spending.py::test_a_failure_after_the_first_byte_is_of_unknown_outcome_and_sent_once",),
    ),
    Variant(
        "a-charge-is-repeated-after-an-error-page",
        "sent **at most once** unless it is certain that nothing was sent",
        "transport.py",
        "        return not sent\n",
        "        return not sent or (isinstance(error, APIError) and error.status_code == HTTPStatus.BAD_GATEWAY)\n",
        ("test_spending.py::test_a_failure_after_the_first_byte_is_of_unknown_outcome_and_sent_once",),
    ),
    Variant(
        "a-charge-that-was-not-sent-is-given-up",
        "(no address, no connection)",
        "transport.py",
        "        return not sent\n",
        "        return False\n",
        ("test_spending.py::test_a_call_that_was_refused_at_first_is_sent_once_when_the_server_is_back",),
    ),
    Variant(
        "a-lost-reply-is-a-plain-error",
        "If its reply is lost or cannot be read, it raises `OutcomeUnknown`",
        "transport.py",
        "if call.repeat is not Repeat.SPEND or not unknown:",
        "if call.repeat is not Repeat.SPEND or isinstance(error, TransportError) or not unknown:",
        ("test_spending.py::test_a_failure_after_the_first_byte_is_of_unknown_outcome_and_sent_once",),
    ),
    Variant(
        "an-unreadable-reply-is-a-plain-error",
        "If its reply is lost or cannot be read, it raises `OutcomeUnknown`",
        "transport.py",
        "if call.repeat is not Repeat.SPEND or not unknown:",
        "if call.repeat is not Repeat.SPEND or isinstance(error, DecodeError) or not unknown:",
        ("test_spending.py::test_a_failure_after_the_first_byte_is_of_unknown_outcome_and_sent_once",),
    ),
    Variant(
        "a-cancelled-charge-is-dropped",
        "such a call **goes on to its end**",
        "transport.py",
        "return 0.0 if outcome.abandoned and outcome.witnessed else GRACE",
        "return 0.0",
        ("test_spending.py::test_sixty_cancelled_purchases_are_all_known",),
    ),
    Variant(
        "a-charge-without-a-shelter",
        "such a call **goes on to its end**",
        "transport.py",
        "            await self._spend(lane, flight, call, request, outcome)",
        "            with anyio.CancelScope(shield=True):\n                await self._exchange(lane, flight, call, request, outcome)",
        ("test_spending.py::test_sixty_cancelled_purchases_are_all_known",),
    ),
    Variant(
        "a-cancelled-charge-holds-its-caller",
        "for 10 s at the most",
        "transport.py",
        "return 0.0 if outcome.abandoned and outcome.witnessed else GRACE",
        "return 0.0 if outcome.abandoned and outcome.witnessed else 3600.0",
        ("test_spending.py::test_a_cancelled_caller_is_released_in_ten_seconds_when_the_server_never_answers",),
    ),
    Variant(
        "orphaned-orders-are-forgotten",
        "its order is then in `client.orphaned_orders`",
        "client.py",
        "        self.orphaned_orders += placed\n",
        "",
        ("test_spending.py::test_sixty_cancelled_purchases_are_all_known",),
    ),
    Variant(
        "a-cut-replys-id-is-forgotten",
        ".order_id, on every error raised once an order is placed",
        "transport.py",
        "if outcome.error is not None and outcome.error.order_id is None and call.salvage is not None:",
        "if outcome.error is not None and outcome.error.order_id is None and not outcome.sent and call.salvage is not None:",
        ("test_spending.py::test_an_order_whose_reply_was_cut_after_its_id_keeps_the_id",),
    ),
    Variant(
        "a-cancelled-charge-is-sent-late",
        "What was not sent yet is not sent any more.",
        "transport.py",
        "            outcome.abandoned = not outcome.sent\n            return 0.0 if outcome.abandoned and outcome.witnessed else GRACE",
        "            return GRACE",
        ("test_spending.py::test_a_purchase_cancelled_before_its_first_byte_is_not_sent",),
    ),
    Variant(
        "a-mocks-lost-reply-proves-that-nothing-was-sent",
        "after anything else its outcome is unknown",
        "transport.py",
        "            outcome.sent = outcome.sent or not outcome.witnessed\n",
        "",
        ("test_mocks.py::test_a_charge_whose_reply_is_lost_is_sent_once_and_of_unknown_outcome",),
    ),
    Variant(
        "a-cancel-at-a-silent-proxy-is-told-as-a-failure",
        "gets one `Exchange` for each request, once, when it is over",
        "transport.py",
        ' and not event.endswith(".response_closed.started")',
        "",
        ("test_tracing.py::test_a_charge_whose_caller_is_cancelled_at_a_silent_proxy_is_told_as_cancelled",),
    ),
    Variant(
        "work-begins-before-its-caller-is-seen-to-be-cancelled",
        "What was not sent yet is not sent any more.",
        "shelter.py",
        "asyncio.Task(work.work(), loop=asyncio.get_running_loop())",
        "asyncio.ensure_future(work.work())",
        ("test_shelter.py::test_the_work_begins_in_a_turn_of_its_own_whatever_tasks_the_loop_makes",),
    ),
    Variant(
        "a-cancelled-request-is-not-told",
        "gets one `Exchange` for each request, once, when it is over",
        "transport.py",
        "if self._on_exchange is not None:",
        "if self._on_exchange is not None and (outcome.concluded or outcome.error is not None):",
        ("test_tracing.py::test_a_read_whose_caller_is_cancelled_is_told_as_cancelled",),
    ),
    Variant(
        "an-exchange-has-the-whole-order-id",
        "Nothing in it is a secret.",
        "transport.py",
        "order=None if call.order_id is None else mask(call.order_id),",
        "order=call.order_id,",
        ("test_tracing.py::test_nothing_that_is_told_is_a_secret_and_all_of_it_can_be_stored",),
    ),
    Variant(
        "a-span-keeps-the-new-address",
        "this hook masks it, by old and by new conventions",
        "tracing.py",
        "if masked != value:",
        'if masked != value and name != "url.full":',
        ("test_tracing.py::test_a_traced_job_has_one_span_for_each_request_and_no_secret",),
    ),
    Variant(
        "an-unpaid-order-is-placed-four-times",
        "so it is tried again, once, when its outcome is unknown",
        "transport.py",
        "return unknown == 1 and _unanswered(error)",
        "return _unanswered(error)",
        ("test_spending.py::test_an_unpaid_order_of_unknown_outcome_is_placed_once_more_and_never_twice",),
    ),
    Variant(
        "an-unpaid-order-is-not-tried-again",
        "so it is tried again, once, when its outcome is unknown",
        "transport.py",
        "return unknown == 1 and _unanswered(error)",
        "return not unknown and _unanswered(error)",
        ("test_spending.py::test_an_unpaid_order_is_had_at_the_second_try",),
    ),
    Variant(
        "a-lost-reply-is-not-asked-for-again",
        "Reads are tried again after a lost or unreadable reply",
        "transport.py",
        "return isinstance(error, TransportError | DecodeError) or (",
        "return isinstance(error, DecodeError) or (",
        ("test_transport.py::test_a_read_is_repeated_after_a_fault_each_time_over_a_fresh_connection",),
    ),
    Variant(
        "an-unreadable-reply-is-not-asked-for-again",
        "Reads are tried again after a lost or unreadable reply",
        "transport.py",
        "return isinstance(error, TransportError | DecodeError) or (",
        "return isinstance(error, TransportError) or (",
        ("test_transport.py::test_a_read_is_repeated_after_a_fault_each_time_over_a_fresh_connection",),
    ),
    Variant(
        "an-error-page-is-an-answer",
        "an error page (502 to 504 and the like) and 429",
        "transport.py",
        "error.reason is None and error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR",
        "error.reason is None and error.status_code > HTTPStatus.GATEWAY_TIMEOUT",
        ("test_transport.py::test_a_read_is_repeated_after_a_fault_each_time_over_a_fresh_connection",),
    ),
    Variant(
        "too-many-requests-is-an-answer",
        "an error page (502 to 504 and the like) and 429",
        "transport.py",
        "if isinstance(error, RateLimited) or not sent:",
        "if not sent:",
        ("test_transport.py::test_retry_after_is_waited_for_to_the_second_and_a_minute_at_most",),
    ),
    Variant(
        "a-call-waits-for-a-year",
        "60 s at the most",
        "transport.py",
        "return max(delay, min(error.retry_after, LONGEST_RETRY_AFTER))",
        "return max(delay, error.retry_after)",
        ("test_transport.py::test_retry_after_is_waited_for_to_the_second_and_a_minute_at_most",),
    ),
    Variant(
        "a-call-ignores-retry-after",
        "60 s at the most",
        "transport.py",
        "return max(delay, min(error.retry_after, LONGEST_RETRY_AFTER))",
        "return delay",
        ("test_transport.py::test_retry_after_is_waited_for_to_the_second_and_a_minute_at_most",),
    ),
    Variant(
        "a-reasoned-no-is-asked-again",
        "never after a reasoned no",
        "transport.py",
        "        isinstance(error, APIError) and error.reason is None and",
        "        isinstance(error, APIError) and",
        ("test_transport.py::test_a_reasoned_no_is_never_repeated",),
    ),
    Variant(
        "a-cancel-is-asked-once",
        "`/cancelorder` is one of these: cancelling twice is cancelling once.",
        "client.py",
        'confirmation, {"orderId": order_id},',
        'confirmation, {"orderId": order_id}, repeat=Repeat.INVOICE,',
        ("test_promises.py::test_a_cancel_without_an_answer_is_made_again_as_a_read_is",),
    ),
    Variant(
        "a-lane-is-used-again-after-a-cancellation",
        "A lane that saw any exception is closed and never used again",
        "transport.py",
        "            if not whole or self.closed:",
        "            if self.closed:",
        ("test_promises.py::test_a_storm_of_cancellations_costs_no_connection",),
    ),
    Variant(
        "the-invoices-amount-is-not-checked",
        "the invoice's own amount is checked before you get the order",
        "client.py",
        "if max_sats is not None and not (immediate and order.prepaid):",
        "if max_sats is not None and order.amount_sats is None and not (immediate and order.prepaid):",
        ("test_client.py::test_max_sats_holds_the_invoice_against_its_own_amount",),
    ),
    Variant(
        "a-prepaid-order-does-not-ask-the-price",
        "a prepaid order asks for the price first",
        "client.py",
        "            _check_price(price_sats, max_sats)\n        what:",
        "        what:",
        ("test_spending.py::test_a_prepaid_order_asks_its_own_price_first",),
    ),
    Variant(
        "a-prepaid-order-asks-another-price",
        "a prepaid order asks for the price first",
        "client.py",
        "price.rent_sats if rental else price.s4s_sats if real_phone else price.sats",
        "price.sats",
        ("test_spending.py::test_a_prepaid_order_asks_its_own_price_first",),
    ),
    Variant(
        "an-unknown-price-is-no-price",
        "is not placed if that is higher, or unknown",
        "client.py",
        "if price_sats is not None and price_sats <= max_sats:",
        "if price_sats is None or price_sats <= max_sats:",
        ("test_spending.py::test_a_prepaid_order_of_unknown_price_is_not_placed",),
    ),
    Variant(
        "the-key-goes-with-every-call",
        "and only with the calls that need it",
        "transport.py",
        "if call.keyed and call.key is not None:",
        "if call.key is not None:",
        ("test_transport.py::test_the_key_goes_with_the_calls_that_need_it_and_with_no_other_and_into_no_log",),
    ),
    Variant(
        "redirects-are-followed",
        "Redirects are not followed.",
        "transport.py",
        "        outcome.sent, outcome.status_code = True, response.status_code\n",
        "        while 300 <= response.status_code < 400:\n"
        "            assert isinstance(response.stream, httpx.AsyncByteStream)\n"
        "            await response.stream.aclose()\n"
        "            there = httpx.URL(response.headers['location'])\n"
        "            request.url = there\n"
        "            request.headers['Host'] = there.netloc.decode()\n"
        "            response = await lane.transport.handle_async_request(request)\n"
        "        outcome.sent, outcome.status_code = True, response.status_code\n",
        ("test_transport.py::test_a_redirect_is_not_followed_and_the_key_stays_here",),
    ),
    Variant(
        "the-key-in-a-repr",
        "The key goes to `base_url` only",
        "transport.py",
        "return \"Secret('..')\"",
        'return f"Secret({self._text!r})"',
        ("test_replies.py::test_a_secret_shows_itself_to_nobody_but_who_asks",),
    ),
    Variant(
        "the-key-in-a-pickle",
        "A text that shows itself in no repr, log line or pickle.",
        "transport.py",
        'raise TypeError("a client and its api_key cannot be pickled or copied")',
        "return Secret, (self._text,)  # type: ignore[misc]",
        ("test_replies.py::test_a_secret_shows_itself_to_nobody_but_who_asks",),
    ),
    Variant(
        "the-key-in-a-history",
        "a value that is stored and pickled must not carry it",
        "models.py",
        'return {name: value for name, value in row.items() if name != "userId"}',
        "return dict(row)",
        ("test_models.py::test_a_history_carries_the_api_key_nowhere",),
    ),
    Variant(
        "the-key-in-an-error",
        "No message holds an API key",
        "transport.py",
        "            secrets.append(self.key.reveal())",
        "            pass",
        ("test_replies.py::test_a_secret_that_the_server_repeats_is_in_no_message",),
    ),
    Variant(
        "what-was-not-sent-yet-is-sent-all-the-same",
        "What was not sent yet is not sent any more.",
        "transport.py",
        'if outcome.abandoned and not outcome.sent and event.endswith(".started")',
        'if outcome.abandoned and outcome.sent and event.endswith(".started")',
        ("test_spending.py::test_a_purchase_whose_caller_is_gone_before_its_first_byte_is_sent_no_more",),
    ),
    Variant(
        "a-charge-swallows-the-cancellation",
        "the cancellation goes on",
        "transport.py",
        "            raise\n        finally:\n            call.in_doubt",
        "            del interruption\n        finally:\n            call.in_doubt",
        ("test_spending.py::test_sixty_cancelled_purchases_are_all_known",),
    ),
    Variant(
        "a-second-cancel-ends-a-charge",
        "such a call **goes on to its end**",
        "shelter.py",
        "while not self._finished.is_set():",
        "if not self._finished.is_set():",
        ("test_shelter.py::test_a_storm_of_native_cancels_neither_ends_the_work_nor_is_swallowed",),
    ),
    Variant(
        "a-charge-ends-with-the-loop",
        "such a call **goes on to its end**",
        "shelter.py",
        "        asyncio._unregister_task(task)  # noqa: SLF001\n",
        "",
        ("test_spending.py::test_sixty_purchases_cancelled_by_the_end_of_the_loop_are_all_known",),
    ),
    Variant(
        "the-key-through-a-strangers-proxy",
        "The key goes to `base_url` only",
        "transport.py",
        "self._key is not None and _reads_along(self._proxy, self._base):",
        "self._key is not None and timeout <= 0:",
        ("test_addresses.py::test_a_key_is_not_sent_in_the_clear_through_another_machine",),
    ),
]

# --- the errors --------------------------------------------------------------------------------------------------------------------

_ERRORS = [
    Variant(
        "an-error-without-its-order",
        ".order_id, on every error raised once an order is placed",
        "transport.py",
        "            error.order_id = error.order_id or call.order_id\n",
        "",
        ("test_client.py::test_a_refusal_is_an_api_error_with_the_servers_words_and_the_order",),
    ),
    Variant(
        "a-refusal-with-http-200-is-a-reply",
        'with ``"status": "error"``',
        "transport.py",
        "if refused or _says_no(payload, reason):",
        "if refused:",
        ("test_replies.py::test_http_200_does_not_make_a_refusal_a_success",),
    ),
    Variant(
        "a-missing-key-is-any-error",
        "because of the key: 401, 403, or 400 that names it",
        "transport.py",
        "in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or names_key:",
        "in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):",
        ("test_replies.py::test_the_sample_of_a_missing_key_is_an_authentication_error",),
    ),
    Variant(
        "a-date-is-held-against-this-machines-clock",
        "which is held against the reply's own ``Date``",
        "transport.py",
        '_http_date(headers.get("date", ""))',
        "datetime.now().astimezone()",
        ("test_replies.py::test_retry_after_is_seconds_or_a_date_against_the_replys_own",),
    ),
    Variant(
        "no-limit-for-a-body",
        "the longest reply in bytes",
        "transport.py",
        "            if size <= limit:\n                chunks.append(chunk)",
        "            if size <= 1024 * limit:\n                size = 0\n                chunks.append(chunk)",
        ("test_transport.py::test_a_list_may_be_long_and_no_longer",),
    ),
    Variant(
        "a-bomb-is-unpacked",
        "a small bomb must not become a large one",
        "transport.py",
        "body = inflater.decompress(reply.body, limit + 1)\n    if len(body) > limit:",
        "body = inflater.decompress(reply.body)\n    if len(body) > limit:",
        ("test_promises.py::test_a_bomb_takes_no_more_memory_than_a_reply_may",),
    ),
    Variant(
        "any-text-is-a-phone",
        "A bad argument is a `ValueError` or `TypeError` before anything is sent",
        "client.py",
        r'if re.fullmatch(r"\+[1-9][0-9]{6,14}", phone) is None:',
        r"if not phone:",
        ("test_client.py::test_a_bad_argument_is_refused_before_anything_is_sent",),
    ),
    Variant(
        "a-key-is-not-asked-for",
        "needs an `api_key`",
        "client.py",
        "if not self._transport.has_key:",
        "if self.is_closed:",
        ("test_client.py::test_what_needs_a_key_is_refused_without_one",),
    ),
    Variant(
        "a-closed-client-goes-on",
        "using a closed client, or one client in two event loops, is a `RuntimeError`",
        "transport.py",
        "    def _check_open(self) -> None:\n        if self.closed:",
        "    def _check_open(self) -> None:\n        if self.closed and self._flights:",
        ("test_transport.py::test_closing_ends_calls_and_waiters_and_leaves_no_connection",),
    ),
    Variant(
        "closing-wakes-no-watcher",
        "Its running watchers end with :class:`OrderUnresolved`",
        "transport.py",
        "        for nap in self._naps:\n            nap.cancel()\n",
        "",
        ("test_transport.py::test_closing_ends_running_watchers_within_a_second",),
    ),
    Variant(
        "closing-is-a-runtime-error-for-a-watcher",
        "Its running watchers end with :class:`OrderUnresolved`",
        "watcher.py",
        "raise OrderUnresolved(text, order_id=self.order.id, status=self.status) from None",
        "raise RuntimeError(text) from None",
        ("test_watcher.py::test_closing_the_client_ends_its_watchers_at_once",),
    ),
    Variant(
        "closing-drops-a-charge",
        "a call that spends comes to its end first (10 s)",
        "transport.py",
        "await self._until_landed(lambda spends: spends, GRACE)",
        "await self._until_landed(lambda spends: False, GRACE)",
        ("test_spending.py::test_a_spending_call_under_way_at_aclose_comes_to_its_end",),
    ),
    Variant(
        "a-group-leaves-the-package",
        "and never an exception group",
        "transport.py",
        "raise one_of(group) from None",
        "raise",
        ("test_errors.py::test_a_cancellation_in_a_group_stays_a_cancellation",),
    ),
    Variant(
        "a-shelter-raises-a-group",
        "and never an exception group",
        "shelter.py",
        "        except BaseExceptionGroup as group:\n            raise one_of",
        "        except BaseExceptionGroup as group:\n            raise\n            raise one_of",
        ("test_batch.py::test_an_interrupt_that_nobody_waits_for_comes_out_of_the_block",),
    ),
    Variant(
        "what-a-transport-raises-leaves-the-package",
        "Nothing else leaves the package but your own cancellation",
        "transport.py",
        "        except Exception as error:  # noqa: BLE001 - whatever comes",
        "        except httpx.HTTPError as error:  # whatever comes",
        ("test_errors.py::test_what_another_library_raises_becomes_a_transport_error_too",),
    ),
    Variant(
        "a-price-without-its-order",
        ".price_sats, .max_sats, .order (unpaid) or None",
        "client.py",
        "        order=order,\n    )",
        "        order=None,\n    )",
        ("test_client.py::test_max_sats_holds_the_invoice_against_its_own_amount",),
    ),
    Variant(
        "a-negative-retry-after",
        ".retry_after seconds, or None",
        "transport.py",
        "return max(0.0, seconds) if math.isfinite(seconds) else None",
        "return seconds if math.isfinite(seconds) else None",
        ("test_replies.py::test_retry_after_is_seconds_or_a_date_against_the_replys_own",),
    ),
    Variant(
        "an-excerpt-with-a-code",
        "with everything that could be a secret blotted out",
        "transport.py",
        '    text = re.sub(r"[0-9A-Za-z+/=_-]{16,}|[0-9][0-9 ]{2,}", "..", text)\n',
        "",
        ("test_replies.py::test_an_excerpt_shows_the_shape_and_no_values",),
    ),
]

# --- the sandbox -------------------------------------------------------------------------------------------------------------------

_SANDBOX = [
    Variant(
        "the-sandbox-has-its-own-clock",
        "It follows the clock of the loop it runs in",
        "sandbox.py",
        "        return anyio.current_time()\n",
        "        return time.monotonic()\n",
        ("test_sandbox.py::test_an_order_with_no_code_ends_by_itself_after_21_minutes",),
    ),
    Variant(
        "the-sandbox-is-not-sped-up",
        "python -m sms4sats_async sandbox --port 8000 --speed 10",
        "sandbox.py",
        "_to_microsecond(seconds * self._speed)",
        "_to_microsecond(seconds)",
        ("test_sandbox.py::test_an_order_goes_its_way_at_the_chosen_speed",),
    ),
    Variant(
        "the-sandbox-cancels-at-once",
        "refused by the server in the first 2 minutes, and once a code has arrived",
        "sandbox.py",
        "_to_microsecond(self._now - order.created_at) < CANCEL_GATE",
        "_to_microsecond(self._now - order.created_at) < 0",
        ("test_sandbox.py::test_a_cancelled_order_gives_the_money_back_once",),
    ),
    Variant(
        "the-sandbox-cancels-what-has-a-code",
        "refused by the server in the first 2 minutes, and once a code has arrived",
        "sandbox.py",
        "order.kind is not OrderKind.receive or order.codes:",
        "order.kind is not OrderKind.receive:",
        ("test_sandbox.py::test_an_order_with_a_code_cannot_be_cancelled",),
    ),
    Variant(
        "the-sandbox-holds-for-ever",
        "21 minutes after the payment without a code it goes back by itself",
        "sandbox.py",
        "            if order.kind is OrderKind.receive:\n                steps",
        "            if order.kind is OrderKind.rental:\n                steps",
        ("test_sandbox.py::test_an_order_with_no_code_ends_by_itself_after_21_minutes",),
    ),
    Variant(
        "the-sandbox-charges-nothing",
        "`immediate=True` spends from the prepaid balance at once.",
        "sandbox.py",
        "self._balances[api_key] -= amount_sats",
        "self._balances[api_key] -= 0",
        ("test_sandbox.py::test_a_prepaid_order_is_charged_on_receipt_and_credited_when_it_ends_with_nothing",),
    ),
    Variant(
        "the-sandbox-forgets-calls",
        "`sandbox.orders` and `sandbox.calls` tell what happened",
        "sandbox.py",
        "self.calls.append(SandboxCall",
        "list[SandboxCall]().append(SandboxCall",
        ("test_sandbox.py::test_each_request_is_recorded_with_its_time",),
    ),
    Variant(
        "the-sandbox-changes-a-code",
        '`sandbox.deliver(order.id, "004217")`',
        "sandbox.py",
        "        order.codes.append(code)\n",
        "        order.codes.append(int(code))\n",
        ("test_sandbox.py::test_every_status_of_a_receive_order_has_the_shape_of_its_sample",),
    ),
]

# --- transports and addresses ------------------------------------------------------------------------------------------------------

_ADDRESSES = [
    Variant(
        "one-pool",
        "a cancelled task can leave it with slots that never come back",
        "transport.py",
        "            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE)\n"
        "            return _Lane(httpx.AsyncHTTPTransport(verify=self._ssl_context, limits=limits, proxy=self._proxy), own=True)",
        "            limits = httpx.Limits(max_connections=self.max_connections, keepalive_expiry=_KEEPALIVE)\n"
        "            pool = httpx.AsyncHTTPTransport(verify=self._ssl_context, limits=limits, proxy=self._proxy)\n"
        "            self._pool = getattr(self, '_pool', pool)\n"
        "            return _Lane(self._pool, own=False)",
        ("test_promises.py::test_a_storm_of_cancellations_costs_no_connection",),
    ),
    Variant(
        "a-transport-of-the-callers-is-closed",
        "bring any `httpx.AsyncBaseTransport` of yours, and close it yourself",
        "transport.py",
        "    if lane.own:\n\n        async def close",
        "    if lane.transport is not None:\n\n        async def close",
        ("test_promises.py::test_a_transport_of_the_callers_is_left_open",),
    ),
    Variant(
        "a-transport-of-the-callers-is-believed",
        "so every failure of a call that spends is `OutcomeUnknown`",
        "transport.py",
        "_Outcome(sent=not lane.own or call.repeat is Repeat.READ)",
        "_Outcome(sent=call.repeat is Repeat.READ)",
        ("test_spending.py::test_every_failure_of_a_transport_of_the_callers_is_of_unknown_outcome",),
    ),
    Variant(
        "the-environments-proxy-is-ignored",
        "`HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are heeded as in httpx",
        "transport.py",
        'found.get(base.scheme) or found.get("all")',
        "found.get(base.scheme)",
        ("test_addresses.py::test_the_environments_proxy_is_the_one_that_httpx_takes",),
    ),
    Variant(
        "no-proxy-is-ignored",
        "`HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are heeded as in httpx",
        "transport.py",
        'in found.get("no", "").split(",")',
        'in ""',
        ("test_addresses.py::test_the_environments_proxy_is_the_one_that_httpx_takes",),
    ),
    Variant(
        "a-loopback-host-over-a-proxy",
        "but never for a loopback address",
        "transport.py",
        "if not trust_env or _is_loopback(base.host):",
        "if not trust_env:",
        ("test_addresses.py::test_a_loopback_host_is_never_asked_over_the_environments_proxy",),
    ),
    Variant(
        "an-environment-that-is-not-trusted-is-asked",
        "`trust_env=False` ignores them",
        "transport.py",
        "if not trust_env or _is_loopback(base.host):",
        "if _is_loopback(base.host):",
        ("test_addresses.py::test_an_environment_that_is_not_trusted_is_not_asked",),
    ),
    Variant(
        "the-environment-goes-before-the-caller",
        "`proxy=` names one",
        "transport.py",
        "    if proxy is not None:\n        return _proxy(proxy)\n",
        "    if proxy is not None and not trust_env:\n        return _proxy(proxy)\n",
        ("test_addresses.py::test_a_proxy_of_the_callers_goes_before_the_environments",),
    ),
    Variant(
        "plain-http-to-anybody",
        "`base_url` must be https, or http to a loopback or .onion host",
        "transport.py",
        'if url.scheme == "http" and not _is_loopback(url.host) and not url.host.endswith(".onion"):',
        'if url.scheme == "http" and url.host.endswith(".com"):',
        ("test_addresses.py::test_plain_http_to_another_machine_is_refused",),
    ),
    Variant(
        "an-onion-must-be-https",
        "`base_url` must be https, or http to a loopback or .onion host",
        "transport.py",
        'and not url.host.endswith(".onion"):',
        'and not url.host.endswith(".tor"):',
        ("test_addresses.py::test_a_base_url_is_https_or_stays_on_this_machine_or_goes_over_tor",),
    ),
    Variant(
        "a-certificate-authority-is-ignored",
        "A certificate authority of your own goes into `SSL_CERT_FILE`.",
        "transport.py",
        'verify=self._base.scheme == "https", trust_env=self._trust_env)',
        'verify=self._base.scheme == "https", trust_env=False)',
        ("test_transport.py::test_a_read_over_tls_is_repeated_after_a_fault",),
    ),
    Variant(
        "certificates-are-not-verified",
        "`base_url` must be https",
        "transport.py",
        'verify=self._base.scheme == "https", trust_env=self._trust_env)',
        "verify=False, trust_env=self._trust_env)",
        ("test_transport.py::test_a_bad_certificate_names_the_local_date_and_is_not_repeated",),
    ),
]

# --- good to know ------------------------------------------------------------------------------------------------------------------

_GOOD_TO_KNOW = [
    Variant(
        "a-swallowed-exception-keeps-its-frames",
        "Frames hold the request, its key and its order's id",
        "transport.py",
        "            raise\n        _forget_frames(error, theirs)\n",
        "            raise\n",
        ("test_own_transports.py::test_an_exception_that_lives_for_ever_keeps_no_request_alive",),
    ),
    Variant(
        "a-status-ok-alone-is-a-status",
        "A status without `paid` is refused",
        "models.py",
        '                raise MalformedReply("no boolean paid", order_id)\n            paid = True',
        "                paid = False",
        ("test_models.py::test_a_status_says_paid_as_a_boolean_or_proves_it_by_a_code",),
    ),
    Variant(
        "a-code-without-paid-is-refused",
        "unless a code is in it",
        "models.py",
        "            if code is None:\n                raise MalformedReply",
        "            if True:\n                raise MalformedReply",
        ("test_models.py::test_a_status_says_paid_as_a_boolean_or_proves_it_by_a_code",),
    ),
    Variant(
        "an-error-after-a-refused-cancel-is-a-failure",
        "A refused cancel followed by an `error` counts as expired.",
        "lifecycle.py",
        "if self.closing is not None and self.closing.window and self.closing.tries:",
        "if self.closing is not None and self.closing.window and self.closing.answer is Answer.CONFIRMED:",
        ("test_lifecycle.py::test_an_error_first_seen_after_our_own_cancel_is_that_cancels_effect",),
    ),
    Variant(
        "a-code-in-a-log-line",
        "hold no key, no whole id, no number, no code",
        "steps.py",
        "                self.life = self.life.saw(status,",
        '                _logger.debug("%s: %s %s", self.name, status.number, status.code)\n'
        "                self.life = self.life.saw(status,",
        ("test_batch.py::test_no_id_no_code_and_no_number_is_told_in_any_text",),
    ),
    Variant(
        "an-address-in-a-log-line",
        "nor do httpx's and httpcore's for our requests, at any level",
        "transport.py",
        "        response = await lane.transport.handle_async_request(request)\n",
        "        response = await lane.transport.handle_async_request(request)\n"
        '        logging.getLogger("httpx").info("HTTP Request: %s %s", request.method, request.url)\n',
        ("test_transport.py::test_the_key_goes_with_the_calls_that_need_it_and_with_no_other_and_into_no_log",),
    ),
    Variant(
        "the-servers-words-tell-secrets",
        "What the server says in an error text is shown without what could be one",
        "errors.py",
        'return printable(re.sub(r"[0-9A-Za-z_-]{16,}|\\+?[0-9]{5,}", _blotted, words))',
        "return printable(words)",
        ("test_watcher.py::test_the_servers_words_reach_no_text_and_no_log_unblotted",),
    ),
    Variant(
        "a-reason-is-blotted",
        "`.reason` has its own words",
        "transport.py",
        "        reason = reason[:_MAX_WORDS]\n",
        "        reason = words\n",
        ("test_replies.py::test_a_reason_is_kept_as_it_came_and_escaped_in_the_message",),
    ),
    Variant(
        "a-poll-is-tried-four-times",
        "A watcher asks through its client's connections, not through its methods",
        "client.py",
        "_status_call(order_id, saw)\n        del order_id\n        await self._transport.send(call, attempts=1, departing",
        "_status_call(order_id, saw)\n        del order_id\n        await self._transport.send(call, departing",
        ("test_watcher.py::test_a_failed_poll_ends_nothing_and_backs_off",),
    ),
]

# --- the programs to start from ----------------------------------------------------------------------------------------------------

_STARTS = [
    Variant(
        "what-is-no-status-is-no-value-error",
        "what is no status is a `ValueError`",
        "models.py",
        "class MalformedReply(ValueError):",
        "class MalformedReply(Exception):",
        ("test_programs.py::test_a_body_that_is_no_status_is_refused_and_harms_nothing",),
    ),
    Variant(
        "the-app-forgets-its-orders",
        "the next start watches them again",
        PROGRAMS,
        "for file in ORDERS.iterdir():",
        "for file in ():",
        ("test_programs.py::test_an_app_that_stops_leaves_its_orders_open_and_goes_on_with_them",),
    ),
    Variant(
        "the-app-cancels-its-orders",
        "An app that stops leaves its orders open",
        PROGRAMS,
        "                async for status in OrderWatcher(app.state.client, order):"
        "  # in no block: when the app stops, the order stays open\n",
        "                async with OrderWatcher(app.state.client, order) as watcher:\n                  async for status in watcher:\n",
        ("test_programs.py::test_an_app_that_stops_leaves_its_orders_open_and_goes_on_with_them",),
    ),
    Variant(
        "an-order-ends-them-all",
        "the end of one order is not the end of the others",
        PROGRAMS,
        'except Exception as error:  # the end of one order is not the end of the others\n        logging.warning("an order',
        'except OSError as error:\n        logging.warning("an order',
        ("test_programs.py::test_the_end_of_one_order_is_not_the_end_of_the_others",),
    ),
    Variant(
        "an-app-gives-up-while-the-service-is-down",
        "the service is down, or a firewall answers: the code may be there when it is back",
        PROGRAMS,
        "except (APIError, OrderUnresolved):  #",
        "except APIError:  #",
        ("test_programs.py::test_an_order_outlives_an_outage_and_is_forgotten_a_day_after_its_end",),
    ),
    Variant(
        "an-app-believes-a-firewall",
        "the service is down, or a firewall answers: the code may be there when it is back",
        PROGRAMS,
        "except (APIError, OrderUnresolved):  #",
        "except OrderUnresolved:  #",
        ("test_programs.py::test_a_firewall_that_answers_an_app_after_its_start_is_not_the_end_of_its_order",),
    ),
    Variant(
        "an-invoice-is-sent-once",
        "a chat that fails for a moment must cost nobody a number or a code",
        PROGRAMS,
        'return tell(user, f"Pay this in',
        'return send(user, f"Pay this in',
        ("test_programs.py::test_an_invoice_that_does_not_seem_to_reach_its_user_is_sent_again_and_ends_nothing",),
    ),
    Variant(
        "half-a-reply-tells-no-id",
        "it stood in the part of the reply that came",
        PROGRAMS,
        "                if error.order_id:  #",
        "                if error.order_id == 0:  #",
        ("test_programs.py::test_an_order_whose_id_stood_in_half_a_reply_is_watched",),
    ),
    Variant(
        "a-second-press-is-a-second-order",
        "else the button was pressed twice",
        PROGRAMS,
        'if order not in shown or not shown[order]["open"]:',
        "if order is not None:",
        ("test_programs.py::test_a_second_press_is_no_second_order_but_one_after_the_end_is",),
    ),
    Variant(
        "a-browser-knows-the-services-id",
        "the service's id stays in the app",
        PROGRAMS,
        "{order.amount_sats} sat;",
        "{order.amount_sats} sat for {order.id};",
        ("test_programs.py::test_an_app_that_stops_leaves_its_orders_open_and_goes_on_with_them",),
    ),
    Variant(
        "a-users-bad-luck-is-everybodys",
        "the end of one order is not the end of the others",
        PROGRAMS,
        "except Exception as error:  # the end of one order is not the end of the others\n            answer",
        "except OSError as error:\n            answer",
        ("test_programs.py::test_one_users_bad_luck_is_not_the_others",),
    ),
    Variant(
        "a-code-is-told-once",
        "a chat that fails for a moment must cost nobody a number or a code",
        PROGRAMS,
        "for pause in (1, 5, 30, 120, 600):",
        "for pause in (1,):",
        ("test_programs.py::test_a_chat_that_fails_for_a_while_costs_no_number_and_no_code",),
    ),
    Variant(
        "the-polls-wait-for-the-chat",
        "told beside the polls: they do not wait for the chat",
        PROGRAMS,
        'tasks.start_soon(tell, user, f"Your number: {number}")',
        'return tell(user, f"Your number: {number}")',
        ("test_programs.py::test_a_chat_that_fails_for_a_while_costs_no_number_and_no_code",),
    ),
    Variant(
        "a-bot-gives-up-while-the-service-is-down",
        "the service is down: the code may be there when it is back",
        PROGRAMS,
        "except OrderUnresolved as error:",
        "except KeyError as error:",
        ("test_programs.py::test_a_service_that_is_down_at_the_windows_end_costs_no_code",),
    ),
    Variant(
        "a-bot-stops-without-a-word",
        "What you paid comes back within 21 minutes",
        PROGRAMS,
        "with anyio.move_on_after(5, shield=True):",
        "with anyio.move_on_after(5):",
        ("test_programs.py::test_a_bot_that_is_stopped_asks_for_a_cancel_and_tells_its_users",),
    ),
    Variant(
        "a-line-is-ordered-twice",
        "A line that was ordered is not ordered again",
        PROGRAMS,
        "(placing, json.dumps(wish))).rowcount:",
        "(placing, json.dumps(wish))):",
        ("test_programs.py::test_a_line_whose_order_may_have_been_placed_is_not_ordered_again_and_it_is_said",),
    ),
    Variant(
        "an-order-is-not-written-down",
        "called as soon as the reply is read",
        PROGRAMS,
        "on_order=keep) as client:\n        async with BatchWatcher",
        "on_order=str) as client:\n        async with BatchWatcher",
        ("test_programs.py::test_each_line_of_a_table_becomes_one",),
    ),
    Variant(
        "a-line-in-doubt-is-ordered-again",
        "Where it cannot know, it says so",
        PROGRAMS,
        '"insert or ignore into lines',
        '"insert or replace into lines',
        ("test_programs.py::test_a_line_whose_order_may_have_been_placed_is_not_ordered_again_and_it_is_said",),
    ),
    Variant(
        "a-late-call-sets-an-sms-back",
        "a status never goes back",
        PROGRAMS,
        "where name = ? and rank < ?",
        "where name = ? and ? is not null",
        ("test_programs.py::test_calls_that_are_repeated_late_or_out_of_order_change_nothing_back",),
    ),
    Variant(
        "nobody-looks-when-no-call-comes",
        "whoever asks makes the app look",
        PROGRAMS,
        "if rank < 4:",
        "if rank < 0:",
        ("test_programs.py::test_whoever_asks_is_told_though_no_call_comes",),
    ),
]


# --- at a terminal -----------------------------------------------------------------------------------------------------------------

_TERMINAL = [
    Variant(
        "what-is-said-goes-to-standard-output",
        "The answer goes to standard output, and everything else to standard error",
        "cli/screen.py",
        "Console(stderr=True, ",
        "Console(stderr=False, ",
        ("cli/test_commands.py::test_receive_tells_each_thing_once_and_answers_with_the_code_alone",),
    ),
    Variant(
        "a-near-miss-is-ordered",
        "what is not in the service's lists is never ordered",
        "cli/finding.py",
        "    near = found or _near(asked, all_, key)\n",
        "    near = found or _near(asked, all_, key)\n    if near:\n        return near[0]\n",
        ("cli/test_commands.py::test_what_is_not_in_the_lists_is_not_ordered",),
    ),
    Variant(
        "a-timeout-is-not-heeded",
        "`--timeout SECONDS` is how long to wait for the payment",
        "cli/orders.py",
        "HOLD_WINDOW / desk.speed if waiting.seconds is None else waiting.seconds",
        "HOLD_WINDOW / desk.speed",
        ("cli/test_commands.py::test_a_window_that_ends_cancels_and_tells_what_is_left",),
    ),
    Variant(
        "ctrl-c-leaves-the-order-open",
        "Ctrl-C, SIGTERM and a closed window (SIGHUP, unless `nohup` says otherwise) ask the service to cancel a receive order",
        "cli/orders.py",
        "asks = waiting.cancel and",
        "asks = not waiting.cancel and",
        ("cli/test_commands.py::test_ctrl_c_cancels_an_order_that_is_old_enough",),
    ),
    Variant(
        "an-orphaned-order-is-forgotten",
        "a prepaid call under way is finished first",
        "cli/orders.py",
        "        if not desk.client.orphaned_orders:\n",
        "        if desk.client is not None:\n",
        ("cli/test_commands.py::test_a_prepaid_order_under_way_is_finished_and_then_cancelled",),
    ),
    Variant(
        "leaving-watch-cancels",
        "Leaving `watch` leaves the order alone",
        "cli/commands.py",
        "follow=follows, cancel=False)",
        "follow=follows)",
        ("cli/test_commands.py::test_leaving_watch_leaves_the_order_alone",),
    ),
    Variant(
        "a-second-ctrl-c-is-not-heard",
        "A second Ctrl-C waits for no answer.",
        "cli/session.py",
        "            self._scope.cancel()\n",
        "            if self.count == 1:\n                self._scope.cancel()\n",
        ("cli/test_commands.py::test_a_second_ctrl_c_does_not_wait_for_the_answer",),
    ),
    Variant(
        "a-failure-is-no-json",
        "`--json` answers with one document, a failure as well",
        "cli/commands.py",
        "    if options.as_json:\n        _write_document(ends.error_document(error, again) | ",
        "    if False:\n        _write_document(ends.error_document(error, again) | ",
        ("cli/test_commands.py::test_a_failure_in_json_is_one_document",),
    ),
    Variant(
        "bars-in-a-pipe",
        "no colours and no bars where there is no terminal",
        "cli/screen.py",
        "return self._console.is_interactive and not self._console.is_dumb_terminal",
        "return True",
        ("cli/test_commands.py::test_receive_tells_each_thing_once_and_answers_with_the_code_alone",),
    ),
    Variant(
        "a-cancelled-order-ends-as-an-open-one",
        "| 14 | interrupted, and the order is cancelled |",
        "cli/ends.py",
        "OrderCancelled: (14,",
        "OrderCancelled: (130,",
        ("cli/test_commands.py::test_ctrl_c_cancels_an_order_that_is_old_enough",),
    ),
    Variant(
        "the-services-words-steer-the-terminal",
        "Whatever is not ours, the service's words above all, is made printable before it is shown, and never read as markup.",
        "cli/screen.py",
        "words = printable(text)",
        "words = text",
        ("cli/test_screen.py::test_what_the_service_says_cannot_steer_the_terminal_or_forge_a_line",),
    ),
    Variant(
        "an-order-ends-with-standard-error",
        "Where it breaks, the work goes on without it.",
        "cli/screen.py",
        "        self._console.file = lasting(self._console.file)\n",
        "",
        ("cli/test_screen.py::test_an_order_goes_on_though_nobody_can_be_told_of_it",),
    ),
    Variant(
        "a-closed-window-ends-it-without-a-word",
        "Ctrl-C, SIGTERM and a closed window (SIGHUP, unless `nohup` says otherwise) ask the service to cancel a receive order",
        "cli/session.py",
        "taken.append(signal.SIGHUP)",
        "pass",
        ("cli/test_commands.py::test_a_window_that_is_closed_interrupts_unless_that_is_ignored",),
    ),
    Variant(
        "the-advice-leads-to-another-service",
        "Return the command that watches an order again, there, ready for a shell",
        "cli/commands.py",
        "again = ends.resume(error, order, options.base_url)",
        "again = ends.resume(error, order)",
        ("cli/test_commands.py::test_the_advice_to_resume_is_the_order_where_it_is",),
    ),
    Variant(
        "whom-the-wallet-lets-pay-goes-on",
        "it is ended with all that it has started",
        "cli/paying.py",
        "os.killpg(process.pid, number)",
        "os.kill(process.pid, number)",
        ("cli/test_paying.py::test_a_command_that_is_given_up_takes_with_it_whom_it_has_let_pay",),
    ),
]

# --- many machines ---------------------------------------------------------------------------------------------------------------

_CLUSTER = [
    Variant(
        "a-worker-that-stops-cancels",
        "hands back the orders at once, and cancels none",
        "cluster/worker.py",
        "cancel_on_exit=False,",
        "cancel_on_exit=True,",
        ("cluster/test_worker.py::test_a_worker_that_stops_hands_back_its_orders_at_once_and_cancels_none",),
    ),
    Variant(
        "an-order-is-put-in-twice",
        "it is put in once",
        "cluster/scripts.py",
        "if not (there and #redis.call('XRANGE', KEYS[1], there, there) > 0) then",
        "if true then",
        ("cluster/test_worker.py::test_an_order_put_in_twice_is_watched_once_and_told_once",),
    ),
    Variant(
        "a-share-without-end",
        "workers go on with their last share for 10 s, then ask nothing",
        "cluster/worker.py",
        "self._batch.allow(beat.share, seconds=until - now)",
        "self._batch.allow(beat.share)",
        ("cluster/test_worker.py::test_without_redis_polls_go_on_for_a_while_then_pause_then_go_on",),
    ),
    Variant(
        "what-redis-has-lost-stays-lost",
        "the workers put back what they watch",
        "cluster/worker.py",
        'if self._why == "forgotten":',
        'if self._why == "lost":',
        ("cluster/test_worker.py::test_redis_that_has_lost_its_data_gets_the_orders_back",),
    ),
    Variant(
        "shares-add-up-to-more",
        "never add up to more than the rate",
        "cluster/scripts.py",
        "math.max(0, math.min(math.max(1, math.floor(rate * part)), rate - taken))",
        "math.max(1, math.floor(rate * part))",
        ("cluster/test_store.py::test_whatever_the_workers_watch_their_shares_are_never_more_than_the_rate",),
    ),
    Variant(
        "too-many-requests-brake-one-worker",
        "said to one worker, brakes them all within a second",
        "cluster/worker.py",
        "self._batch.brake(self._braked_until - now)",
        "pass",
        ("cluster/test_worker.py::test_too_many_requests_brake_the_whole_cluster",),
    ),
    Variant(
        "an-order-lost-on-its-way-stays-lost",
        "where Redis has held us for more than we know of for two beats: go through all of it",
        "cluster/worker.py",
        "if not self._in_doubt and not (surplus and self._surplus):",
        "if not self._in_doubt:",
        ("cluster/test_worker.py::test_an_order_that_was_given_and_lost_on_the_way_is_found",),
    ),
    Variant(
        "an-older-backup-is-believed",
        "or came back with an older backup | the workers put back what they watch",
        "cluster/scripts.py",
        "if ARGV[3] ~= '' and (ARGV[3] ~= epoch or last < tonumber(ARGV[14])) then",
        "if ARGV[3] ~= '' and ARGV[3] ~= epoch then",
        ("cluster/test_store.py::test_data_that_are_older_than_what_was_answered_are_lost_data",),
    ),
    Variant(
        "a-new-worker-asks-at-once",
        "a worker that is new to it asks nothing in its first 4 s",
        "cluster/scripts.py",
        "if new or redis.call('EXISTS', KEYS[4]) == 1 then share = 0 end",
        "if redis.call('EXISTS', KEYS[4]) == 1 then share = 0 end",
        ("cluster/test_store.py::test_who_is_new_to_a_redis_that_has_just_started_waits_until_the_others_are_heard",),
    ),
    Variant(
        "what-is-no-outcome-stops-the-reader",
        "messages that were no orders, or no outcomes, with the reason",
        "cluster/job.py",
        "await _patiently(partial(self._store.bury_outcome, (entry, fields), str(reason)))",
        "raise",
        ("cluster/test_worker.py::test_what_is_no_outcome_lies_with_the_dead_letters_and_stops_nobody_who_reads",),
    ),
    Variant(
        "an-unreadable-url-is-repeated",
        "its words can repeat a part of a password that was taken for a port",
        "cluster/store.py",
        'raise ValueError("url must be redis://, rediss:// or unix://, with what is special in a password percent-encoded") from None',
        "raise",
        ("cluster/test_store.py::test_a_url_that_cannot_be_read_is_not_repeated",),
    ),
    Variant(
        "silence-of-redis-is-death",
        "nobody could be heard: so silence is no sign yet that somebody is dead",
        "cluster/scripts.py",
        "if now - latest > tonumber(ARGV[12]) then",
        "if false then",
        ("cluster/test_store.py::test_nobody_is_taken_for_dead_because_redis_was_away",),
    ),
    Variant(
        "a-dead-letter-repeats-what-was-in-it",
        "nothing of what was in it: that can be a secret",
        "cluster/messages.py",
        'told if told.startswith("order: ") else "its kind or its created_at cannot be read"',
        "told",
        ("cluster/test_worker.py::test_what_is_no_order_lies_with_the_dead_letters_and_stops_nothing",),
    ),
    Variant(
        "a-rental-ends-with-its-code",
        "Without entries the outcome is no end.",
        "cluster/worker.py",
        "if outcome.error is not None or outcome.order.kind is not OrderKind.rental:",
        "if self.orders:",
        ("cluster/test_worker.py::test_a_rental_tells_each_code_and_goes_on",),
    ),
    Variant(
        "a-bare-id-never-sends",
        "where there is nothing but its id, that is returned: what it is for, its status tells",
        "cluster/messages.py",
        'return order.id if row.keys() <= {"id", "version"} else order',
        "return order",
        ("cluster/test_worker.py::test_of_a_bare_id_the_status_tells_that_it_sends",),
    ),
    Variant(
        "a-full-redis-keeps-its-outcomes",
        "a Redis that is full takes no first reader",
        "cluster/scripts.py",
        "  redis.pcall('XGROUP', 'CREATE', KEYS[6], ARGV[16], '0', 'MKSTREAM')",
        "",
        ("cluster/test_store.py::test_a_redis_that_is_full_lets_its_outcomes_be_read",),
    ),
    Variant(
        "a-beat-that-is-late-counts",
        "never add up to more than the rate",
        "cluster/scripts.py",
        "if mine and tonumber(ARGV[17]) <= (mine.number or 0) then return {'late'} end",
        "",
        ("cluster/test_store.py::test_a_beat_that_is_heard_after_a_later_one_counts_for_nothing",),
    ),
    Variant(
        "a-brake-from-outside-is-not-heeded",
        "no request for so many seconds, as if the service had said 429 to us",
        "batch.py",
        'self._agenda.brake(anyio.current_time() + positive("seconds", seconds))',
        'positive("seconds", seconds)',
        ("test_batch_loan.py::test_a_brake_from_outside_is_heeded_as_the_services_own",),
    ),
    Variant(
        "a-loan-without-end",
        "after so many seconds without a new word no request leaves",
        "agenda.py",
        "return at if at < self._allowed_until else math.inf",
        "return at",
        ("test_agenda.py::test_a_loan_ends_and_begins_anew",),
    ),
]

# --- a crash ---------------------------------------------------------------------------------------------------------------------

_JOURNAL = [
    Variant(
        "the-intent-comes-after-the-call",
        "The intent of each call that places an order is on disk before the call is sent",
        "client.py",
        "await self._journal.intend(kind, price_sats=price_sats, prepaid=immediate, **wish)",
        "int",
        ("test_journal.py::test_the_intent_is_on_disk_before_the_call_is_sent_and_the_order_before_anybody_has_it",),
    ),
    Variant(
        "an-order-is-told-before-it-is-on-disk",
        "and the order before anybody has it",
        "client.py",
        "if self._journal is None:  # else it is told of when it is on disk",
        "if True:",
        ("test_journal.py::test_the_intent_is_on_disk_before_the_call_is_sent_and_the_order_before_anybody_has_it",),
    ),
    Variant(
        "a-cancelled-callers-order-is-forgotten",
        "also when its caller was cancelled",
        "client.py",
        "order = placed[0] if placed else salvaged",
        "order = placed[0] if placed and failure is None else salvaged",
        ("test_journal.py::test_an_order_whose_caller_was_cancelled_is_in_the_journal",),
    ),
    Variant(
        "a-call-of-unknown-outcome-is-forgotten",
        "Of calls without a known order",
        "client.py",
        "elif in_doubt:",
        "elif False:",
        ("test_journal.py::test_a_call_of_unknown_outcome_is_unresolved_and_one_that_was_surely_refused_is_gone",),
    ),
    Variant(
        "codes-are-written-down",
        "Codes are written down with `keep_codes=True` only",
        "book.py",
        "code if self._keep_codes else None",
        "code",
        ("test_journal.py::test_what_a_watcher_sees_is_written_down",),
    ),
    Variant(
        "everybody-reads-the-journal",
        "The file has the mode 0600",
        "book.py",
        "self._path.chmod(0o600)",
        "pass",
        ("test_journal.py::test_only_its_owner_can_read_it",),
    ),
    Variant(
        "an-open-order-is-taken-from-who-lives",
        "`resume` and `reconcile` leave it alone meanwhile",
        "book.py",
        "return owner is not None and (owner == self._life.name or lives(self._path, owner))",
        "return owner is not None and owner == self._life.name",
        ("test_journal.py::test_an_order_is_answered_for_by_one_of_several_until_that_one_is_gone",),
    ),
    Variant(
        "a-code-before-a-crash-never-comes-again",
        "A code that came in the last 10 s before a crash comes again",
        "journal.py",
        "SETTLE_AFTER = 10.0",
        "SETTLE_AFTER = 0.0",
        ("test_journal.py::test_the_last_codes_before_a_crash_come_again",),
    ),
    Variant(
        "what-is-open-is-pruned",
        "What is open, and what is unresolved, is never deleted.",
        "book.py",
        'which = "state = ? and ended < ?"',
        'which = "(state = ? or true) and coalesce(ended, 0) < ?"',
        ("test_journal.py::test_what_ended_long_ago_is_pruned_and_nothing_else",),
    ),
    Variant(
        "reconcile-cancels-unasked",
        "with `cancel=True` it has what is still open",
        "recovery.py",
        "cancels = self._cancel and finding.found",
        "cancels = finding.found",
        ("test_recovery.py::test_each_order_is_told_of_as_it_is",),
    ),
    Variant(
        "an-id-is-lost-with-a-caller-who-is-cancelled-while-it-is-written",
        "also when its caller was cancelled",
        "client.py",
        "            if salvaged is not None:  # the error that has its id is not raised any more",
        "            if False:",
        ("test_journal.py::test_an_id_of_a_lost_reply_is_not_lost_with_a_caller_who_is_cancelled_while_it_is_written",),
    ),
    Variant(
        "a-call-is-sent-though-its-intent-cannot-be-written",
        "a call that places an order raises `JournalError` before anything is sent",
        "journal.py",
        "        if asked.problem is not None:\n            raise JournalError(asked.problem)\n",
        "",
        ("test_journal.py::test_where_the_disk_fails_nothing_is_ordered_and_every_code_comes",),
    ),
    Variant(
        "what-could-not-be-written-is-forgotten",
        "what was seen is written as soon as it can be",
        "journal.py",
        "[work.work if _is_asked(work) else work for work in works if not _is_asked(work) or work.lasting]",
        "[]",
        ("test_journal.py::test_where_the_disk_fails_nothing_is_ordered_and_every_code_comes",),
    ),
    Variant(
        "an-order-that-could-not-be-written-is-forgotten",
        "as is an order whose call was under way",
        "journal.py",
        "not _is_asked(work) or work.lasting]",
        "not _is_asked(work)]",
        ("test_journal.py::test_an_order_is_handed_over_where_the_disk_fails_after_its_call_was_sent",),
    ),
    Variant(
        "what-is-to-be-settled-is-tried-again-at-once",
        "Seconds after which what could not be written is tried again.",
        "journal.py",
        "return max(at, time.monotonic() + RETRY) if self._fails and at is not None else at",
        "return at",
        ("test_journal.py::test_what_is_to_be_settled_is_tried_again_as_seldom_as_what_is_to_be_written",),
    ),
    Variant(
        "the-first-of-two-who-watch-lets-go",
        "answered for by the process that placed it or watches it",
        "journal.py",
        "if not self._writer.count(order_id, -watched):",
        "if True:",
        ("test_journal.py::test_of_two_who_watch_an_order_the_last_lets_go_of_it",),
    ),
    Variant(
        "a-code-has-come-while-its-payment-goes-on",
        "because nobody may have had it",
        "steps.py",
        "if self._journal is None or self.held:",
        "if self._journal is None:",
        ("test_journal.py::test_a_code_counts_as_on_its_way_until_the_payment_is_over_and_the_caller_has_it",),
    ),
    Variant(
        "a-row-is-used-twice",
        "none is used twice, as somebody may still go by the number of the one that is gone",
        "book.py",
        'self.kept("newest") or 0)',
        "0)",
        ("test_journal.py::test_no_number_of_a_row_is_used_twice",),
    ),
    Variant(
        "what-was-found-is-lost-with-standard-output",
        "an answer which cost something is not lost with standard output",
        "cli/commands.py",
        'rows, ("order", ""), once=True)',
        'rows, ("order", ""))',
        ("cli/test_journal.py::test_a_code_that_was_found_is_not_lost_with_standard_output",),
    ),
    Variant(
        "a-journal-that-is-not-there-is-made-and-has-nothing-open",
        "A file that is not there is a mistake for these three, and is not made",
        "cli/commands.py",
        "and _is_missing(options.journal):",
        "and False:",
        ("cli/test_journal.py::test_a_name_that_no_file_has_is_a_mistake_and_makes_none",),
    ),
    Variant(
        "a-journal-that-may-not-be-looked-up-is-said-not-to-be-there",
        "of all else the journal itself will tell",
        "cli/commands.py",
        "return isinstance(error, FileNotFoundError | NotADirectoryError)",
        "return isinstance(error, OSError)",
        ("cli/test_journal.py::test_a_name_that_cannot_be_looked_up_is_told_as_any_journal_that_cannot_be_used",),
    ),
    Variant(
        "a-journal-that-cannot-be-opened-keeps-its-thread",
        "closed when the block is left or cannot be entered",
        "journal.py",
        "            self.note(_last(idle=True))\n",
        "",
        ("test_journal.py::test_a_file_that_is_no_good_is_told_at_the_start_and_left_as_it_is",),
    ),
    Variant(
        "a-journal-whose-opening-is-cancelled-stays-open",
        "closed when the block is left or cannot be entered",
        "journal.py",
        "        except BaseException:\n            self.note(_last",
        "        except JournalError:\n            self.note(_last",
        ("test_cancellation.py::test_a_journal_whose_block_is_cancelled_before_it_begins_is_closed",),
    ),
    Variant(
        "a-journal-that-is-being-opened-is-in-use",
        "closed when the block is left or cannot be entered",
        "journal.py",
        "if not (_is_asked(work) and work.idle):",
        "if not (_is_asked(work) and work.idle and work.last):",
        ("test_journal.py::test_a_file_that_is_no_good_is_told_at_the_start_and_left_as_it_is",),
    ),
    Variant(
        "a-journal-in-use-is-closed-when-it-is-not-entered-again",
        "Whoever has placed an order, or watches it, answers for it",
        "journal.py",
        "one.last and not (one.idle and self._in_use)",
        "one.last",
        ("test_journal.py::test_a_journal_that_is_in_use_stays_open_when_it_is_not_entered_again",),
    ),
    Variant(
        "a-block-that-does-not-begin-takes-the-note-of-another-with-it",
        "it is tried again",
        "journal.py",
        "one.last and not (one.idle and self._in_use)",
        "one.last",
        ("test_journal.py::test_what_was_seen_is_written_though_a_block_could_not_begin",),
    ),
    Variant(
        "a-block-that-does-not-begin-takes-the-intent-of-another-with-it",
        "until the order ends, the block of its watcher is left, or the process is gone",
        "journal.py",
        "one.last and not (one.idle and self._in_use)",
        "one.last",
        ("test_journal.py::test_a_block_that_does_not_begin_ends_nothing_for_whoever_uses_the_journal_by_then",),
    ),
    Variant(
        "a-code-is-lost-with-the-report",
        "without a report the order stays open",
        "recovery.py",
        "self.codes.append(entry.order.id)",
        "self._journal.ended(entry.order.id, finding.found.value)",
        ("test_recovery.py::test_a_code_is_not_lost_with_a_report_that_nobody_gets",),
    ),
    Variant(
        "a-balance-of-a-doubtful-moment-is-compared",
        "where that tells whether calls of unknown outcome were charged",
        "recovery.py",
        "steady &= settled and not before.under_way",
        "steady &= settled",
        ("test_recovery.py::test_a_balance_that_is_read_while_a_call_is_under_way_is_compared_with_nothing",),
    ),
    Variant(
        "what-may-have-come-back-is-missing",
        "where that tells whether calls of unknown outcome were charged",
        "recovery.py",
        "steady &= settled and not before.under_way",
        "steady &= not before.under_way",
        ("test_recovery.py::test_an_order_that_nobody_can_be_asked_about_may_have_come_back",),
    ),
    Variant(
        "what-could-not-be-written-waits-for-the-next-that-is-written",
        "what was seen is written as soon as it can be",
        "journal.py",
        "RETRY = 1.0",
        "RETRY = 1000.0",
        ("test_journal.py::test_what_could_not_be_written_is_tried_again_by_itself",),
    ),
    Variant(
        "a-disk-that-fails-is-warned-of-again-and-again",
        "one warning is logged",
        "journal.py",
        "if self._unwritten and not self._warned:",
        "if self._unwritten:",
        ("test_journal.py::test_where_the_disk_fails_nothing_is_ordered_and_every_code_comes",),
    ),
    Variant(
        "a-full-disk-has-no-name",
        "it is damaged, of a later version, of something else, locked, or on a disk that is full or read-only.",
        "book.py",
        "ground = _GROUNDS.get(",
        "ground = dict[int, str]().get(",
        ("test_journal.py::test_on_a_full_disk_nothing_is_ordered_and_every_code_comes",),
    ),
    Variant(
        "a-later-version-is-read-as-if-it-were-known",
        "A file that is damaged, locked, of a later version or of something else is a `JournalError`",
        "book.py",
        'if ask("user_version") > FORMAT:',
        "if False:",
        ("test_journal.py::test_a_file_that_is_no_good_is_told_at_the_start_and_left_as_it_is",),
    ),
    Variant(
        "any-database-is-taken-for-a-journal",
        "A file that is damaged, locked, of a later version or of something else is a `JournalError`",
        "book.py",
        'if not empty and ask("application_id") != APPLICATION_ID:',
        "if False:",
        ("test_journal.py::test_a_file_that_is_no_good_is_told_at_the_start_and_left_as_it_is",),
    ),
    Variant(
        "two-who-make-one-file-fail",
        "Several processes may share one file.",
        "book.py",
        "if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:",
        "if True:",
        ("test_journal.py::test_a_file_that_another_program_has_locked_is_waited_for",),
    ),
    Variant(
        "a-fork-keeps-its-parent-alive",
        "or that process is gone, however that came",
        "lease.py",
        "    for life in list(_lives):\n        life.forked()",
        "    pass",
        ("test_journal.py::test_a_fork_does_not_keep_its_parent_alive",),
    ),
    Variant(
        "a-fork-writes-what-is-its-parents",
        "A fork of the process that has opened it answers for nothing of its parent's",
        "journal.py",
        "        self._book, self._unwritten = None, []\n",
        "",
        ("test_journal.py::test_a_fork_has_a_writer_of_its_own_and_leaves_its_parents_alone",),
    ),
    Variant(
        "what-is-open-is-not-gone-on-with",
        "is a `BatchWatcher` of all open orders that nobody who lives answers for",
        "book.py",
        'rows = [row for row in self._rows(f"state in ({OPEN}, {ENDED})") if not self._lives(row[_OWNER])]',
        'rows = [row for row in self._rows(f"state = {ENDED}") if not self._lives(row[_OWNER])]',
        ("test_crash.py::test_nothing_is_lost_with_a_process_that_is_killed_at_any_moment",),
    ),
    Variant(
        "a-code-is-told-when-all-the-others-have-ended",
        "else a line each as it comes",
        "cli/commands.py",
        'desk.give(Answer(None, [[outcome.order.id, outcome.code or error or "ended well"]]))',
        "pass",
        ("cli/test_journal.py::test_a_code_that_has_come_is_told_before_ctrl_c_leaves_the_rest_to_the_next_time",),
    ),
    Variant(
        "what-is-left-early-is-nobodys-turn",
        "Leaving it early leaves the orders to the next.",
        "recovery.py",
        "        for entry in waiting:\n            journal.released(entry.order.id)",
        "        pass",
        ("test_recovery.py::test_leaving_early_leaves_the_orders_to_the_next",),
    ),
    Variant(
        "reconcile-cancels-what-somebody-watches",
        "unless somebody who lives answers for it",
        "recovery.py",
        "if not await self._journal.take(entry.order.id):",
        "if False:",
        ("test_recovery.py::test_an_order_that_is_taken_up_in_the_last_moment_is_not_cancelled",),
    ),
    Variant(
        "the-balance-tells-nothing",
        "where that tells whether calls of unknown outcome were charged",
        "recovery.py",
        "return {0: False, self.unresolved_sats: True}.get(self.missing_sats) if self.unresolved_sats else None",
        "return None",
        ("test_recovery.py::test_the_balance_tells_whether_a_call_of_unknown_outcome_was_charged",),
    ),
    Variant(
        "what-was-seen-to-is-unresolved-for-ever",
        "`await journal.dismiss(intent)` when you have seen to one",
        "book.py",
        'return self._delete("row = ? and state = ?", thing, INTENT) > 0',
        "return True",
        ("test_journal.py::test_a_call_of_unknown_outcome_is_unresolved_and_one_that_was_surely_refused_is_gone",),
    ),
]

# --- tests of users' programs -----------------------------------------------------------------------------------------------------

_TESTING = [
    Variant(
        "time-jumps-too-far",
        "Time stands still while anybody has something to do, and jumps when all wait.",
        "testing/on_asyncio.py",
        "        self._passed += timeout\n",
        "        self._passed += 2 * timeout\n",
        ("test_testing.py::test_a_loop_is_what_it_was_when_the_clock_has_ended_and_time_does_not_go_back",),
    ),
    Variant(
        "time-jumps-away-from-anyios-threads",
        "`anyio.to_thread` or `trio.to_thread` works, it goes on as real time does",
        "testing/on_asyncio.py",
        "if self._calls or self._limiter.borrowed_tokens or self._waits_for_a_thread():",
        "if self._calls:",
        ("test_testing.py::test_time_does_not_jump_away_while_a_thread_works",),
    ),
    Variant(
        "time-jumps-away-from-a-limiter-of-ones-own",
        "`anyio.to_thread` or `trio.to_thread` works, it goes on as real time does",
        "testing/on_asyncio.py",
        " or self._waits_for_a_thread():",
        ":",
        ("test_testing.py::test_a_limiter_of_ones_own_makes_no_difference",),
    ),
    Variant(
        "time-jumps-away-from-a-journal",
        "while a `Journal` is waited for, it stands still",
        "testing/on_asyncio.py",
        "journal_answers = is_awaited_in(self._loop)",
        "journal_answers = False",
        ("test_testing.py::test_time_stands_still_while_a_journal_is_waited_for",),
    ),
    Variant(
        "trios-time-jumps-away-from-a-journal",
        "while a `Journal` is waited for, it stands still",
        "testing/on_trio.py",
        "if is_awaited_in(self._token):",
        "if False:",
        ("test_testing.py::test_time_stands_still_while_a_journal_is_waited_for",),
    ),
    Variant(
        "time-jumps-away-from-asyncios-threads",
        "While a thread of `asyncio.to_thread`, `run_in_executor`,",
        "testing/on_asyncio.py",
        "if self._calls or self._limiter.borrowed_tokens or self._waits_for_a_thread():",
        "if self._limiter.borrowed_tokens or self._waits_for_a_thread():",
        ("test_testing.py::test_time_does_not_jump_away_while_asyncios_own_threads_work",),
    ),
    Variant(
        "time-jumps-away-from-trios-threads",
        "`anyio.to_thread` or `trio.to_thread` works, it goes on as real time does",
        "testing/on_trio.py",
        "elif self._in_threads:",
        "elif False:",
        ("test_testing.py::test_time_does_not_jump_away_while_a_thread_works",),
    ),
    Variant(
        "nobody-outside-is-waited-for",
        "Other threads, and sockets of other processes, get 2 ms before each jump",
        "testing/on_asyncio.py",
        "if self._has_company() and",
        "if not self._has_company() and",
        ("test_testing.py::test_whoever_lives_outside_is_given_a_moment_before_each_jump",),
    ),
    Variant(
        "virtual-time-outlives-its-test",
        "Tests that ask for none of these fixtures have real time",
        "testing/on_asyncio.py",
        "        del self._selector.select\n        del self._loop.run_in_executor\n",
        "        del self._loop.run_in_executor\n",
        ("test_testing.py::test_a_loop_is_what_it_was_when_the_clock_has_ended_and_time_does_not_go_back",),
    ),
    Variant(
        "real-time-is-borne-in-a-loop-of-ones-own",
        "A loop that a test starts itself: `sms4sats_clock.begin()` is its first line",
        "testing/clock.py",
        "        if in_a_loop() and (self._source",
        "        if not in_a_loop() and (self._source",
        ("test_testing.py::test_nobody_waits_in_a_loop_that_the_clock_has_not_begun_in",),
    ),
    Variant(
        "the-last-script-is-for-one-order-only",
        "gives the next order the first and all further ones the last",
        "testing/sandbox.py",
        "script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]",
        "script = self._scripts.pop(0) if self._scripts else Script()",
        ("test_testing.py::test_each_order_has_the_next_script_and_all_further_ones_the_last",),
    ),
    Variant(
        "a-forgotten-order-is-not-seen",
        "`assert_nothing_open()` fails if an order was placed and forgotten.",
        "testing/sandbox.py",
        "return order.held if order.paid_at is not None else order.ended_at is None",
        "return order.held",
        ("test_testing.py::test_each_order_has_the_next_script_and_all_further_ones_the_last",),
    ),
    Variant(
        "a-wallet-returns-before-the-code",
        "returns when the money is taken, as a wallet does.",
        "testing/sandbox.py",
        "while self.orders[order.id].held:",
        "while not self.orders[order.id].held:",
        ("test_testing.py::test_a_wallet_pays_and_returns_when_the_money_is_taken",),
    ),
    Variant(
        "a-lost-reply-comes",
        "and the connection is lost before the reply has come",
        "testing/sandbox.py",
        "            raise _ConnectionLost\n        for message",
        "            pass\n        for message",
        ("test_testing.py::test_a_prepaid_order_whose_reply_is_lost_is_charged",),
    ),
    Variant(
        "trouble-has-no-end",
        "from 10 s on, to all who ask about the order.",
        "testing/sandbox.py",
        "trouble.begins <= after < trouble.begins + trouble.lasts",
        "trouble.begins <= after",
        ("test_testing.py::test_trouble_is_what_a_plain_call_meets",),
    ),
]

VARIANTS = [
    *_CALLS,
    *_WATCHING,
    *_BATCH,
    *_PAYING,
    *_MONEY,
    *_ERRORS,
    *_SANDBOX,
    *_TESTING,
    *_ADDRESSES,
    *_GOOD_TO_KNOW,
    *_STARTS,
    *_TERMINAL,
    *_CLUSTER,
    *_JOURNAL,
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.broken", description="Try clients that are broken on purpose.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - {variant.name for variant in VARIANTS}):
        parser.error(f"there is no {', '.join(unknown)}")
    chosen = [variant for variant in VARIANTS if not names or variant.name in names]
    files = named_tests(chosen)
    with tempfile.TemporaryDirectory() as place, Workshop(Path(place)) as workshop, ThreadPoolExecutor(AT_ONCE) as pool:
        checked = list(pool.map(workshop.check, files, files.values()))
        judged = []
        for variant, verdict in zip(chosen, pool.map(workshop.judge, chosen), strict=True):
            print("found out " if verdict.good else "NOT FOUND ", f"{variant}: {verdict.words}", flush=True)
            judged.append(verdict)
    for verdict in checked:
        print("" if verdict.good else "RED ANYWAY ", verdict.words, sep="")
    print(f"{sum(verdict.good for verdict in judged)} of {len(judged)} were found out")
    sys.exit(not all(verdict.good for verdict in (*checked, *judged)))


if __name__ == "__main__":
    main()
