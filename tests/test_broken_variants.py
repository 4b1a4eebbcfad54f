"""Each promise has a client that breaks it, and a test that finds that client out."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import broken
from tests.broken import AT_ONCE, PACKAGE, ROOT, VARIANTS, Variant, Verdict, Workshop, named_tests

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = named_tests(VARIANTS)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with Workshop(tmp_path_factory.mktemp("workshop")) as found:
        yield found


@pytest.fixture(scope="module")
def verdict_on(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Callable[[Variant | str], Verdict]]:
    """What becomes of a variant, or of a file's tests on the package as it is; whatever this run will ask for is worked out two at a time.

    Where several processes of pytest share the tests, each of them works out what it is asked for.
    """

    def work(what: Variant | str) -> Verdict:
        return workshop.judge(what) if isinstance(what, Variant) else workshop.check(what, FILES[what])

    calls = [item.callspec for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    alone = not hasattr(request.config, "workerinput")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [call.params.get("tried") for call in calls] if alone else []
        ahead = {what: pool.submit(work, what) for what in asked if isinstance(what, Variant | str) and what in (*VARIANTS, *FILES)}
        yield lambda what: ahead[what].result() if what in ahead else work(what)
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("tried", FILES)
def test_what_finds_variants_out_passes_on_the_package_as_it_is(tried: str, verdict_on: Callable[[Variant | str], Verdict]) -> None:
    verdict = verdict_on(tried)
    assert verdict.good, verdict.words


@pytest.mark.parametrize("tried", VARIANTS, ids=str)
def test_a_broken_client_is_found_out(tried: Variant, verdict_on: Callable[[Variant | str], Verdict]) -> None:
    verdict = verdict_on(tried)
    assert verdict.good, verdict.words


# --- the table and the README ------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    return " ".join(text.split())


SECTIONS = {part.partition("\n")[0]: part for part in README.split("\n## ")[1:]}
PROMISES = {plain(variant.promise) for variant in VARIANTS}
BEYOND_US = ("On asyncio a name lookup that hangs keeps a thread", "What it costs, beside httpx, httpx2 and aiohttp")
"""What asyncio does, and where the benchmarks are: no client could break that."""


def rules() -> list[str]:
    """The rows of the tables of what happens when, and the rules in the lists."""
    tables, lists = ("Watching an order", "Many orders at once"), ("After a crash", "The money rules", "Good to know")
    rows = [row for name in tables for row in re.findall(r"^\|.*\|$", SECTIONS[name], re.MULTILINE)]
    listed = [plain(rule) for name in lists for rule in re.findall(r"^\* (.*(?:\n  .*)*)", SECTIONS[name], re.MULTILINE)]
    return [rule for rule in rows + listed if not rule.startswith(("| what |", "| --- |"))]


def test_each_variant_has_a_name_of_its_own() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


def test_each_promise_is_in_the_readme_or_in_the_words_of_the_package() -> None:
    sources = [file.read_text(encoding="utf-8") for file in sorted((ROOT / PACKAGE).rglob("*.py"))]
    told = [plain(text) for text in (README, *sources)]
    assert [promise for promise in PROMISES if not any(promise in text for text in told)] == []


def test_each_section_of_the_readme_has_promises_that_a_variant_breaks() -> None:
    unbroken = [name for name, section in SECTIONS.items() if not any(promise in plain(section) for promise in PROMISES)]
    assert unbroken == ["How it is proved"]  # it tells of these tests


def test_each_rule_of_the_readme_is_broken_by_a_variant() -> None:
    found = rules()
    assert len(found) >= 30
    unbroken = [rule for rule in found if not any(promise in rule for promise in PROMISES)]
    assert [rule for rule in unbroken if not rule.startswith(BEYOND_US)] == []


# --- what is no catch --------------------------------------------------------------------------------------------------------------

FIRST_LOOK = "test_lifecycle.py::test_the_first_look_is_at_once"
NO_CATCH = {
    "no test finds it out; pytest ended with 0": ("HOLD_WINDOW = 1260.0", "HOLD_WINDOW = 1260.00", FIRST_LOOK),
    "it applies no more: what it replaces stands 0 times": ("HOLD_WINDOW = 1261", "", FIRST_LOOK),
    "it applies no more: what it replaces stands 3 times": ("LAST_STEPS)", "FLOOR)", FIRST_LOOK),
    "it breaks no promise, it crashes: ": ("return cls(rules, due=now", "return cls(rules, due=then", FIRST_LOOK),
    "no test finds it out; pytest ended with 4": ("import enum\n", "import enum, !\n", FIRST_LOOK),
    "the tests have met no package": ("LAST_STEP = 10.0", "LAST_STEP = 11.0", "test_virtual_time.py"),
}


@pytest.mark.parametrize("words", NO_CATCH)
def test_what_is_no_catch_is_told_apart(words: str, workshop: Workshop) -> None:
    old, new, test = NO_CATCH[words]
    verdict = workshop.judge(Variant("none", "", "lifecycle.py", old, new, (test,)))
    assert not verdict.good
    assert words in verdict.words


def test_a_test_that_never_ends_is_ended_and_is_no_catch(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broken, "PATIENCE", 1)
    asleep = Variant("asleep", "", "lifecycle.py", "return Look(self.due)", "__import__('time').sleep(60)", (FIRST_LOOK,))
    verdict = workshop.judge(asleep)
    assert not verdict.good
    assert "pytest ended with -14" in verdict.words


def test_a_test_that_fails_anyway_is_told(workshop: Workshop) -> None:
    verdict = workshop.check("test_lifecycle.py", [FIRST_LOOK, "test_lifecycle.py::test_that_is_not_there"])
    assert not verdict.good
    assert "not found" in verdict.words


# --- the command -------------------------------------------------------------------------------------------------------------------


def command(*names: str) -> tuple[int, str]:
    line = [sys.executable, "-m", "tests.broken", *names]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_command_tells_what_finds_a_variant_out() -> None:
    code, words = command("the-first-poll-comes-late")
    assert code == 0
    assert words.startswith(f"found out  the-first-poll-comes-late: {FIRST_LOOK}: ")
    assert words.endswith("\n1 of 1 were found out\n")


def test_the_command_knows_its_names() -> None:
    code, words = command("the-first-poll-comes-late", "no-such-variant")
    assert code == 2
    assert "there is no no-such-variant" in words
