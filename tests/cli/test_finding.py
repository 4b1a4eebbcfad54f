"""Countries and services, found as people write them."""

import pytest

from sms4sats_async.cli.finding import NotFound, find_country, find_service
from sms4sats_async.cli.iso import NAMES, OTHER_NAMES
from sms4sats_async.models import Country, Service

COUNTRIES = [
    Country(0, "Russia"),
    Country(12, "USA (virtual)"),
    Country(16, "England"),
    Country(43, "Germany"),
    Country(67, "Newzealand"),
    Country(130, "Guinea"),
    Country(131, "Guineabissau"),
    Country(152, "Réunion"),
    Country(187, "USA"),
    Country(300, "?!"),
]
SERVICES = [
    Service("tg", "Telegram"),
    Service("go", "Google,youtube,Gmail"),
    Service("gf", "GoogleVoice"),
    Service("lf", "TikTok/Douyin"),
    Service("acz", "Claude "),
    Service("ab", "Mail"),
    Service("cd", "mail"),
    Service("Ab", "Odd"),
]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("0", 0),
        ("187", 187),
        ("usa", 187),
        ("us", 187),
        ("United States", 187),
        ("USA (virtual)", 12),
        (" germany ", 43),
        ("DE", 43),
        ("New Zealand", 67),
        ("nz", 67),
        ("uk", 16),
        ("gb", 16),
        ("great britain", 16),
        ("reunion", 152),
        ("guinea", 130),
        ("ru", 0),
    ],
)
def test_a_country_is_found_by_id_iso_code_or_name(asked: str, found: int) -> None:
    assert find_country(asked, COUNTRIES).id == found


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("tg", "tg"),
        ("TG", "tg"),
        ("Ab", "Ab"),
        ("telegram", "tg"),
        ("claude", "acz"),
        ("google", "go"),
        ("YouTube", "go"),
        ("Tik Tok", "lf"),
    ],
)
def test_a_service_is_found_by_code_or_name(asked: str, found: str) -> None:
    assert find_service(asked, SERVICES, "187").code == found


@pytest.mark.parametrize(
    ("asked", "suggestions"),
    [
        ("germny", ["Germany (43)"]),
        ("1870", ["USA (187)"]),
        ("zealand", ["Newzealand (67)", "England (16)"]),
        ("fr", []),  # a country, but none of the list
        ("bissau", ["Guineabissau (131)"]),
        ("atlantis", []),
        ("?", []),
    ],
)
def test_a_country_that_is_not_there_has_its_near_misses(asked: str, suggestions: list[str]) -> None:
    with pytest.raises(NotFound, match="there is no country") as caught:
        find_country(asked, COUNTRIES)
    assert caught.value.suggestions == suggestions
    assert ("did you mean" in str(caught.value)) is bool(suggestions)
    assert ("sms4sats countries" in str(caught.value)) is not bool(suggestions)


def test_a_listed_name_within_what_was_asked_is_a_near_miss() -> None:
    with pytest.raises(NotFound) as caught:
        find_country("Czech Republic", [Country(63, "Czech"), Country(9, "Mali")])
    assert caught.value.suggestions == ["Czech (63)"]


def test_what_is_meant_by_none_or_by_two_is_bought_from_neither() -> None:
    with pytest.raises(NotFound, match=r"there is more than one service 'mail'; did you mean Mail \(ab\) or mail \(cd\)\?"):
        find_service("mail", SERVICES, "187")
    with pytest.raises(NotFound, match=r"there is no service 'telegrm'; did you mean Telegram \(tg\)\?"):
        find_service("telegrm", SERVICES, "187")
    with pytest.raises(NotFound, match=r"there is no service 'e'; the list: sms4sats services 187$"):
        find_service("e", SERVICES, "187")
    with pytest.raises(NotFound, match=r"there is no service ''"):
        find_service("", SERVICES, "187")


def test_a_hostile_name_cannot_steer_the_terminal() -> None:
    with pytest.raises(NotFound) as caught:
        find_service("evi", [Service("x\x1b[2J", "evil\x1b]0;owned\x07")], "187")
    assert "\x1b" not in str(caught.value) + "".join(caught.value.suggestions)


def test_an_iso_code_leads_to_a_name_and_the_live_list_to_the_id() -> None:
    assert find_country("de", [Country(7777, "Germany")]).id == 7777
    with pytest.raises(NotFound):
        find_country("de", [Country(43, "Atlantis")])
    assert len(NAMES) > 180
    assert set(OTHER_NAMES.values()) <= NAMES.keys()
