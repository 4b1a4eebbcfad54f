"""Find the country or the service that a person means, in the service's own list: by id or code, by name, or not, with near misses."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from sms4sats_async.cli.iso import NAMES, OTHER_NAMES
from sms4sats_async.errors import printable
from sms4sats_async.models import Country, Service

AUTO_SELECT = Country(999, "Auto-Select")
"""The service chooses the country (docs, create-receive-order); its list need not say so."""
FULL_RENTAL = Service("full", "all services")
"""A rental for all services (docs, get-rental-countries); no list of services has it."""
MOST_SUGGESTIONS = 5
_SHORTEST_PART = 4
"""Letters of a listed name that is looked for in what was asked."""
_NEAR = 0.6
"""How alike two names must be, of 1."""


class NotFound(Exception):
    """There is no such country or service, or more than one.

    Attributes:
        suggestions: what may have been meant, most likely first.
    """

    def __init__(self, message: str, suggestions: Sequence[str]) -> None:
        super().__init__(message)
        self.suggestions = list(suggestions)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Numbered(_Named, Protocol):
    @property
    def id(self) -> int: ...


N = TypeVar("N", bound=_Named)
C = TypeVar("C", bound=_Numbered)


def find_country(asked: str, countries: Sequence[C]) -> C:
    """Return the country of this id, ISO code or name.

    Raises:
        NotFound: there is none, or more than one.
    """
    text = asked.strip()
    if re.fullmatch("[0-9]{1,9}", text):
        found = [country for country in countries if country.id == int(text)]
    else:
        by_name = _by_name(countries)
        plain = _plain(text)
        code = OTHER_NAMES.get(plain, text.upper())
        found = by_name.get(plain) or by_name.get(_plain(NAMES.get(code, "")), [])
    return _the_one(asked, found, countries, lambda country: str(country.id), what="country", command="sms4sats countries")


def find_service(asked: str, services: Sequence[Service], country: str) -> Service:
    """Return the service of this code or name; a part of a name that is written with commas, slashes or + will do.

    Raises:
        NotFound: there is none, or more than one.
    """
    text = asked.strip()
    found = [service for service in services if service.code == text] or [one for one in services if one.code == text.lower()]
    if not found:
        plain = _plain(text)
        found = _by_name(services).get(plain, [])
        found = found or [one for one in services if plain and plain in map(_plain, re.split("[,/+]", one.name))]
    return _the_one(asked, found, services, lambda service: service.code, what="service", command=f"sms4sats services {country}")


def _the_one(asked: str, found: Sequence[N], all_: Sequence[N], key: Callable[[N], str], *, what: str, command: str) -> N:
    if len(found) == 1:
        return found[0]
    near = found or _near(asked, all_, key)
    suggestions = [f"{printable(one.name.strip())} ({printable(key(one))})" for one in near[:MOST_SUGGESTIONS]]
    text = f"there is more than one {what} {printable(asked)!r}" if found else f"there is no {what} {printable(asked)!r}"
    hint = f"did you mean {_listed(suggestions)}?" if suggestions else f"the list: {command}"
    raise NotFound(f"{text}; {hint}", suggestions)


def _near(asked: str, all_: Iterable[N], key: Callable[[N], str]) -> list[N]:
    """What is written like it, and what has it in its name, or its name in it."""
    plain = _plain(asked)
    known: dict[str, N] = {}
    for one in all_:
        known.setdefault(_plain(key(one)), one)
        known.setdefault(_plain(one.name), one)
    known.pop("", None)
    close = difflib.get_close_matches(plain, known, MOST_SUGGESTIONS, _NEAR)
    having = [name for name in known if (len(plain) > 1 and plain in name) or (len(name) >= _SHORTEST_PART and name in plain)]
    near: list[N] = []
    for name in (*close, *having):
        if all(known[name] is not one for one in near):
            near.append(known[name])
    return near


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _by_name(all_: Iterable[N]) -> Mapping[str, list[N]]:
    by_name: dict[str, list[N]] = {}
    for one in all_:
        by_name.setdefault(_plain(one.name), []).append(one)
    by_name.pop("", None)  # a name of nothing but signs is nobody's
    return by_name


def _plain(name: str) -> str:
    """A name without what people leave out: case, accents, blanks and signs. The service writes "Newzealand" and "USA (virtual)"."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    return "".join(letter for letter in letters if letter.isalnum())
