"""How an order can go in a test, in plain words or as a value: what happens to it, and what happens to those who ask about it."""

import math
from typing import Final, Literal, Self, TypeAlias, get_args

import attrs

from sms4sats_async.sandbox import HOLD_WINDOW, Timeline

PAID_AFTER = 2.0
"""Seconds from an order's creation after which a script pays it itself, unless the test has a wallet."""
NUMBER_AFTER = 8.0
"""Seconds from the payment to the number, of most orders."""
CODE_AFTER = 45.0
"""Seconds from the payment to the code, of most orders."""
LAST_SECOND = HOLD_WINDOW - 1
"""Seconds from the payment to a code that comes just before the service ends the order."""
BEGINS = 10.0
"""Seconds from an order's creation to its trouble."""
LASTS = 60.0
"""Seconds that trouble lasts."""

STATUS, CANCEL = "/orderstatus", "/cancelorder"
ABOUT_AN_ORDER: Final = frozenset({STATUS, CANCEL})
PLACES_AN_ORDER: Final = frozenset({"/createorder", "/createsendorder", "/fund"})

Words: TypeAlias = Literal[
    "code at 45 s",
    "code at the last second",
    "no code",
    "no number",
    "never paid",
    "cancel refused",
    "503 for a minute",
    "429 for a minute",
    "garbage for a minute",
    "unreachable for a minute",
    "reply lost",
    "sms failed",
]


@attrs.frozen(kw_only=True)
class Trouble:
    """What is answered for a while in place of what the service would say. Nothing is carried out meanwhile, and time goes on.

    Attributes:
        begins: seconds from the order's creation; of trouble for all, from when the sandbox is told of it.
        lasts: seconds.
        status: the HTTP status; ``None`` for a connection that is lost.
        body: the reply's body.
        retry_after: seconds for its ``Retry-After``; ``None`` for a reply without one.
        paths: the endpoints that are struck; ``None`` for all. Of one order's trouble only those two can be that ask about an order.
    """

    begins: float = attrs.field(default=BEGINS, validator=attrs.validators.ge(0))
    lasts: float = attrs.field(default=LASTS, validator=attrs.validators.ge(0))
    status: int | None = None
    body: str = ""
    retry_after: int | None = None
    paths: frozenset[str] | None = None

    @classmethod
    def unavailable(cls, status: int = 503, *, begins: float = BEGINS, lasts: float = LASTS) -> Self:
        """Return an HTTP status of the servers in front of the service, with a page of theirs."""
        return cls(begins=begins, lasts=lasts, status=status, body=f"<html><h1>{status} Service Unavailable</h1></html>")

    @classmethod
    def rate_limited(cls, retry_after: int | None = 20, *, begins: float = BEGINS, lasts: float = LASTS) -> Self:
        """Return 429, with ``Retry-After`` in seconds, or without it for ``None``."""
        return cls(begins=begins, lasts=lasts, status=429, body="Too Many Requests", retry_after=retry_after)

    @classmethod
    def garbage(cls, body: str = '{"status": "O', *, begins: float = BEGINS, lasts: float = LASTS) -> Self:
        """Return 200 with something that is not the JSON which was promised; by default with half of it."""
        return cls(begins=begins, lasts=lasts, status=200, body=body)

    @classmethod
    def unreachable(cls, *, begins: float = BEGINS, lasts: float = LASTS) -> Self:
        """Return connections that are lost before the request was read."""
        return cls(begins=begins, lasts=lasts)


_USUAL = Timeline(paid_after=PAID_AFTER, number_after=NUMBER_AFTER, code_after=CODE_AFTER, sent_after=3.0, delivered_after=6.0)


@attrs.frozen(kw_only=True)
class Script:
    """How one order goes: its timeline, and the trouble with asking about it.

    Attributes:
        timeline: what happens to it by itself.
        troubles: what is said in place of its status, or of the answer to a cancel; the first that applies.
        reply_lost: it is placed, and charged if it is prepaid, but the connection is lost before its reply comes.
    """

    timeline: Timeline = _USUAL
    troubles: tuple[Trouble, ...] = attrs.field(default=(), converter=tuple[Trouble, ...])
    reply_lost: bool = False

    @classmethod
    def code(cls, at: float = CODE_AFTER, *, text: str | None = None) -> Self:
        """Return a code that comes ``at`` seconds after the payment; ``text`` is ``None`` for any code.

        Raises:
            ValueError: the service would have ended the order before.
        """
        if not 0 <= at < HOLD_WINDOW:
            raise ValueError(f"a code comes within {HOLD_WINDOW:g} s from the payment, or not at all, and {at:g} s is not in there")
        return cls(timeline=attrs.evolve(_USUAL, number_after=min(NUMBER_AFTER, at), code_after=at, code=text))

    @classmethod
    def no_code(cls) -> Self:
        """Return a number, but never a code."""
        return cls(timeline=attrs.evolve(_USUAL, code_after=None))

    @classmethod
    def no_number(cls, after: float = LASTS) -> Self:
        """Return an order that the service ends ``after`` seconds from the payment, because there is no number."""
        return cls(timeline=attrs.evolve(_USUAL, number_after=None, code_after=None, no_number_after=after))

    @classmethod
    def never_paid(cls) -> Self:
        """Return an invoice that nobody pays, unless the test does."""
        return cls(timeline=attrs.evolve(_USUAL, paid_after=None))

    @classmethod
    def cancel_refused(cls) -> Self:
        """Return a number, never a code, and a service that does not cancel: the money comes back at 21 minutes."""
        refusal = '{"status": "error", "reason": "unable to save data"}'
        return attrs.evolve(
            cls.no_code(), troubles=[Trouble(begins=0, lasts=math.inf, status=500, body=refusal, paths=frozenset({CANCEL}))]
        )

    @classmethod
    def trouble(cls, trouble: Trouble) -> Self:
        """Return the usual course, and this trouble with asking about it."""
        return cls(troubles=[trouble])

    @classmethod
    def order_reply_lost(cls) -> Self:
        """Return an order that is placed, and its buyer does not hear of it. With ``immediate`` it is charged."""
        return cls(reply_lost=True)

    @classmethod
    def sms_failed(cls, after: float = 6.0) -> Self:
        """Return an SMS that cannot be sent."""
        return cls(timeline=Timeline(paid_after=PAID_AFTER, failed_after=after))

    @classmethod
    def of(cls, script: "Script | Words") -> "Script":
        """Return a script as it is, and that of plain words.

        Raises:
            ValueError: there are no such words.
        """
        if isinstance(script, Script):
            return script
        found = _SCRIPTS.get(script) if isinstance(script, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        if found is None:
            known = "".join(f"\n    {words}" for words in _SCRIPTS)
            raise ValueError(f"there is no script {script!r}; there are{known}\nand any other as a value, such as Script.code(at=90)")
        return found


_SCRIPTS: dict[Words, Script] = {
    "code at 45 s": Script.code(),
    "code at the last second": Script.code(LAST_SECOND),
    "no code": Script.no_code(),
    "no number": Script.no_number(),
    "never paid": Script.never_paid(),
    "cancel refused": Script.cancel_refused(),
    "503 for a minute": Script.trouble(Trouble.unavailable()),
    "429 for a minute": Script.trouble(Trouble.rate_limited()),
    "garbage for a minute": Script.trouble(Trouble.garbage()),
    "unreachable for a minute": Script.trouble(Trouble.unreachable()),
    "reply lost": Script.order_reply_lost(),
    "sms failed": Script.sms_failed(),
}

WORDS: tuple[str, ...] = get_args(Words)
"""All plain words."""
