"""What a journal tells: orders, and calls whose reply was lost."""

from datetime import datetime

import attrs

from sms4sats_async.models import Order, OrderKind, hidden


@attrs.frozen
class Intent:
    """A call that was to place an order, and whose reply is not known.

    Attributes:
        row: its number in the journal.
        created_at: when it was written down, just before it was sent, by this machine's clock; aware, UTC.
        kind, country, service: what was to be ordered; ``None`` where there is none.
        price_sats: what it was going to cost; ``None`` where nobody had asked (``max_sats`` asks).
        prepaid: was it to be charged to the balance at once? Else it costs nothing, because nobody has its invoice.
    """

    row: int
    created_at: datetime
    kind: OrderKind
    country: int | str | None
    service: str | None
    price_sats: int | None
    prepaid: bool


@attrs.frozen
class Entry:
    """An order, and what the journal knows of it.

    Attributes:
        order: the order. Of one that was watched by its id only, ``payreq`` and ``amount_sats`` are ``None``.
        bare: is it known by its id only? Then its kind is a guess.
        price_sats: what it costs: the invoice's amount, or the price that was asked for; ``None`` where neither is known.
        paid: was a payment seen?
        number: the number; ``None`` until one was seen.
        code: the code, where the journal keeps them; else ``None``.
        cancel: ``asked``, ``confirmed`` or ``refused``; ``None`` where nobody has asked.
        end: how it ended: ``code``, ``sent``, ``send_failed``, ``funded``, ``failed``, ``expired``, ``cancelled`` or ``dismissed``;
            ``None`` while it is open.
        ended_at: when that was written down; aware, UTC.
        watched: does a live process answer for it?
    """

    order: Order
    bare: bool
    price_sats: int | None
    paid: bool
    number: str | None = attrs.field(repr=hidden)
    code: str | None = attrs.field(repr=hidden)
    cancel: str | None
    end: str | None
    ended_at: datetime | None
    watched: bool


@attrs.frozen
class Spending:
    """What the journal says was spent from the balance.

    Attributes:
        last_row: the newest row that this is about.
        spent_sats: by orders of known price.
        back_sats: what of that is taken to have come back, because the order ended without a result.
        unpriced: orders since the given row whose price is not known.
        unresolved: intents since the given row whose outcome is not known.
        under_way: is a call under way that spends?
    """

    last_row: int
    spent_sats: int
    back_sats: int
    unpriced: int
    unresolved: list[Intent]
    under_way: bool
