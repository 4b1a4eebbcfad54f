"""The search for secrets: everything that a program could print, log or store is gathered, and looked through for what was planted."""

import json
import pickle
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

HERE = str(Path(__file__).parents[1])
"""The frames of tests are not searched: they hold what they plant."""

LOGGERS = ("", "sms4sats_async", "httpx", "httpcore", "anyio", "asyncio", "trio", "aiohttp", "h11")


class Search:
    """Gathers texts, and finds the planted secrets in them, in any of the forms that they take on the way."""

    def __init__(self, secrets: dict[str, str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        self.secrets = secrets
        self.gathered: list[tuple[str, str]] = []
        self._caplog = caplog
        self._capfd = capfd
        for name in LOGGERS:
            caplog.set_level(1, name)

    def shown(self, where: str, *things: object) -> None:
        """What a value shows of itself."""
        for thing in things:
            self.gathered += [(f"repr of {where}", repr(thing)), (f"str of {where}", f"{thing} {[thing]}")]

    def error(self, where: str, error: BaseException, *, frames: bool = True) -> None:
        """What an error says, with its notes, causes and tracebacks; and what its frames hold, but for those of tests."""
        self.shown(where, error, *getattr(error, "__notes__", ()), *error.args)
        self.gathered.append((f"traceback of {where}", "".join(traceback.format_exception(error))))
        if frames:
            told = traceback.TracebackException.from_exception(error, capture_locals=True)
            self.gathered += [(f"frames of {where}: {place}", text) for place, text in _locals(told)]

    def pickled(self, where: str, thing: object) -> None:
        """What a value is as a pickle."""
        self.gathered.append((f"pickle of {where}", pickle.dumps(thing, 0).decode("latin-1")))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Gather the warnings, what is written to stdout and stderr, and all that is logged, with the arguments of each record."""
        self._caplog.clear()
        self._capfd.readouterr()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        self.gathered += [("a warning", str(warning.message)) for warning in caught]
        self.gathered += [(f"log of {record.name}", f"{vars(record)}") for record in self._caplog.records]
        self.gathered += [("log", self._caplog.text), *(("output", text) for text in self._capfd.readouterr())]
        self._caplog.clear()

    def found(self) -> list[str]:
        """Which secrets are in what was gathered; it begins anew after that."""
        forms = {name: _forms(secret) for name, secret in self.secrets.items()}
        hits = set()
        for where, text in self.gathered:
            low = text.lower()
            hits |= {f"{name} in {where}" for name, looks in forms.items() if any(form in low for form in looks)}
        self.gathered.clear()
        return sorted(hits)


def _forms(secret: str) -> set[str]:
    """A secret as it is, without its plus, as JSON, in an address, as a repr; of a long one, each half gives it away as well."""
    whole = secret.removeprefix("+")
    parts = [whole] if len(whole) < 32 or " " in whole else [whole, whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    ways = (str, lambda text: json.dumps(text)[1:-1], lambda text: repr(text)[1:-1], lambda text: quote(text, safe=""), quote_plus)
    return {way(part).lower() for part in parts for way in ways}


def _locals(told: traceback.TracebackException | None) -> Iterator[tuple[str, str]]:
    """What the frames of an error hold, and those of its causes."""
    if told is None:
        return
    for frame in told.stack:
        if not frame.filename.startswith(HERE):
            yield f"{Path(frame.filename).name}:{frame.name}", f"{frame.locals}"
    hidden = told.__suppress_context__ or told.__cause__ is not None  # then nobody prints it
    for inner in (told.__cause__, None if hidden else told.__context__, *(told.exceptions or ())):
        yield from _locals(inner)
