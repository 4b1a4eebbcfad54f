"""The commands of ``sms4sats``: what each takes, and what it answers."""

import functools
import importlib.util
import io
import json
import math
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import attrs
import click

from sms4sats_async import __main__ as trying
from sms4sats_async import __version__
from sms4sats_async.batch import Outcome
from sms4sats_async.cli import ends
from sms4sats_async.cli.ends import Interrupted
from sms4sats_async.cli.finding import AUTO_SELECT, FULL_RENTAL, NotFound, find_country, find_service
from sms4sats_async.cli.orders import Waiting, follow, place, status_document
from sms4sats_async.cli.paying import PayCommand
from sms4sats_async.cli.screen import Answer, Screen, View, keep_answer, lasting, lose_output, sats, write_answer
from sms4sats_async.cli.session import JOURNAL_VARIABLE, KEY_VARIABLE, Desk, MissingKey, Options, Stopped, Surroundings, Task, run
from sms4sats_async.entries import Intent
from sms4sats_async.errors import Sms4SatsError
from sms4sats_async.journal import Journal
from sms4sats_async.models import Country, Order, OrderKind, RentalCountry, Service
from sms4sats_async.recovery import Finding, reconcile, resume
from sms4sats_async.watcher import OrderWatcher

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_KINDS = [kind.value for kind in OrderKind]


def _epilog() -> str:
    codes = "\n".join(f"{code:>5}  {words.replace('`', '')}" for code, words in ends.table())
    completion = 'eval "$(_SMS4SATS_COMPLETE=bash_source sms4sats)"'
    return f"\b\nExit codes:\n{codes}\n\nCompletion (bash; zsh and fish likewise): {completion}"


class _InOrder(click.Group):
    """The commands in the order in which a person comes to need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click names it
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_epilog())
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Receive SMS codes, rent numbers and send SMS for Bitcoin over Lightning, with sms4sats.com.

    The answer goes to standard output, and everything else to standard error: code=$(sms4sats receive 187 tg). COUNTRY is an id
    (187), an ISO code (us) or a name (USA), SERVICE a code (tg) or a name (Telegram), as the lists of the service have them.
    """


# --- running one -------------------------------------------------------------------------------------------------------------------


def asks(command: Callable[P, Task]) -> Callable[P, int]:
    """Give a command the options of all that ask the service, and run it."""
    help_ = "Try it: a service in memory, no network, no sats, 12 times as fast."
    return click.option("--sandbox", is_flag=True, help=help_)(asks_of_an_order(command))


def asks_of_an_order(command: Callable[P, Task]) -> Callable[P, int]:
    """Do the same for a command about an order that is there already: a service in memory has none."""

    @click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document; a failure as well.")
    @click.option("--base-url", metavar="URL", help="Where the API is: https, or http to this machine or an .onion.")
    @click.option("--journal", metavar="PATH", envvar=JOURNAL_VARIABLE, help="A file that has each order before you do.")
    @click.option("--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", help="The event loop (default: asyncio).")
    @click.pass_obj
    @functools.wraps(command)
    def run_it(surroundings: Surroundings, /, *given: Any, **options: Any) -> int:
        common = {name: options.pop(name) for name in ("as_json", "sandbox", "base_url", "backend", "journal") if name in options}
        return _run(command(*given, **options), Options(**common), surroundings)

    return cast("Callable[P, int]", run_it)


def _run(task: Task, options: Options, surroundings: Surroundings) -> int:
    _check(task, options)
    screen = surroundings.screen()
    desks: list[Desk] = []
    unwritten: list[OSError] = []

    async def work(desk: Desk) -> None:
        desks.append(desk)
        try:
            await task.work(desk)
        except Stopped:
            raise Interrupted("interrupted: nothing was ordered") from None

    def give(answer: Answer) -> None:
        try:
            write_answer(answer, screen, as_json=options.as_json)
        except OSError as error:
            unwritten.append(error)
            keep_answer(answer, error, screen, as_json=options.as_json)

    try:
        run(attrs.evolve(task, work=work), options, surroundings, screen=screen, give=give)
    except (Sms4SatsError, Interrupted, NotFound) as error:
        return _fail(error, desks[0].order if desks else None, screen, options)  # the journal may have failed before
    except (MissingKey, ValueError) as error:
        raise click.UsageError(_PYTHON_NAME.sub(lambda found: _NAMES[found[0]], str(error))) from None
    return ends.FAULT if unwritten else ends.OK


_NAMES = {"api_key": KEY_VARIABLE, "base_url": "--base-url", "order_id": "ORDER", "phone": "PHONE", "message": "MESSAGE"}
_PYTHON_NAME = re.compile(f"^({'|'.join(_NAMES)})\\b")
"""What the package calls a thing, at the beginning of an error's words, and what a person at a terminal does."""


def _check(task: Task, options: Options) -> None:
    if options.base_url is not None and not _has_port_or_none(options.base_url):
        raise click.UsageError("--base-url has a port that there cannot be")
    if options.sandbox and options.base_url is not None:
        raise click.UsageError("--sandbox needs no --base-url")
    if options.as_json and task.follows:
        raise click.UsageError("--follow has many answers, and --json is one document")
    if options.backend == "trio" and importlib.util.find_spec("trio") is None:
        raise click.UsageError("trio is missing: pip install 'sms4sats-async[trio]'")
    if task.reads_journal and options.journal and _is_missing(options.journal):  # a slip must not read: nothing is open
        raise click.UsageError(f"there is no journal {options.journal!r}: what places an order makes one")


def _is_missing(path: str) -> bool:
    try:
        Path(path).stat()
    except OSError as error:  # of all else the journal itself will tell
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def _has_port_or_none(url: str) -> bool:
    try:
        urlsplit(url).port  # noqa: B018 - it is worked out when it is asked for
    except ValueError:
        return False
    return True


def _fail(error: Exception, order: Order | None, screen: Screen, options: Options) -> int:
    """Tell of a failure, and return its exit code."""
    again = ends.resume(error, order, options.base_url)
    screen.say("error", str(error), "bold red")
    if again is not None and options.sandbox:
        again = order = None
        screen.say("", "the sandbox ends here, and the order with it")
    for label, hint, is_command in ends.hints(error, order, options.base_url):
        (screen.token if is_command else screen.say)(label, hint)
    if again is not None:
        screen.token("resume", again)
    if options.as_json:
        _write_document(ends.error_document(error, again) | (error.beside if isinstance(error, Interrupted) else {}))
    return ends.exit_code(error)


def _write_document(document: dict[str, Any]) -> None:
    """Write what went wrong to standard output; what was said of it, and the exit code, do not depend on that."""
    try:
        print(json.dumps(document), flush=True)
    except OSError:
        lose_output()


def main(arguments: Sequence[str] | None = None, surroundings: Surroundings | None = None) -> int:
    """Run the command line and return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if sys.stderr is None:
        sys.stderr = io.StringIO()
    if sys.stdout is None:  # an answer that cannot be given must not be bought
        print("standard output is closed", file=sys.stderr)
        return ends.FAULT
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show must not cost the rest
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(given, prog_name="sms4sats", standalone_mode=False, obj=surroundings or Surroundings())
    except click.ClickException as error:
        if "--json" in given:
            _write_document(ends.error_document(error, None, code=error.exit_code))
        error.show(lasting(sys.stderr))
        return error.exit_code
    except click.Abort:
        Screen().say("error", "interrupted")
        return ends.exit_code(Interrupted(""))
    return int(code or 0)


# --- the catalogue -----------------------------------------------------------------------------------------------------------------


async def _ask(desk: Desk, call: Callable[[], Awaitable[T]]) -> T:
    """Ask the service something that changes nothing."""
    with desk.screen.live(View()):
        return await desk.signals.interruptible(call)


async def _country(desk: Desk, asked: str) -> Country:
    if asked.strip().lower() in (str(AUTO_SELECT.id), "auto", AUTO_SELECT.name.lower()):
        return AUTO_SELECT
    return find_country(asked, await _ask(desk, desk.client.get_countries))


async def _service(desk: Desk, asked: str, country: Country | RentalCountry) -> Service:
    services = await _ask(desk, lambda: desk.client.get_services(country.id))
    return find_service(asked, services, str(country.id))


@cli.command(short_help="List the countries.")
@asks
def countries() -> Task:
    """List the countries that numbers can be had from."""

    async def work(desk: Desk) -> None:
        found = await _ask(desk, desk.client.get_countries)
        document = {"countries": [{"id": one.id, "name": one.name} for one in found]}
        desk.give(Answer(document, [(str(one.id), one.name) for one in found], ("id", "name"), numbers=(0,)))

    return Task(work)


@cli.command(short_help="List the services of a country.")
@click.argument("country")
@asks
def services(country: str) -> Task:
    """List the services that codes can be received from with a number of COUNTRY."""

    async def work(desk: Desk) -> None:
        where = await _country(desk, country)
        found = await _ask(desk, lambda: desk.client.get_services(where.id))
        rows = [(one.code, one.name, "" if one.count is None else str(one.count)) for one in found]
        listed = [{"code": one.code, "name": one.name, "count": one.count, "image_url": one.image_url} for one in found]
        document = {"country": {"id": where.id, "name": where.name}, "services": listed}
        desk.give(Answer(document, rows, ("code", "name", "numbers"), numbers=(2,)))

    return Task(work)


@cli.command(short_help="List the rentals, with their prices.")
@click.option("--service", default=FULL_RENTAL.code, metavar="CODE", help="For this service only (default: full, for all).")
@asks
def rentals(service: str) -> Task:
    """List the countries that numbers can be rented from, with the price in satoshis and the duration as the service tells it."""

    async def work(desk: Desk) -> None:
        found = await _ask(desk, lambda: desk.client.get_rental_countries(service))
        rows = [(str(one.id), one.name, one.duration, str(one.price_sats)) for one in found]
        listed = [{"id": one.id, "name": one.name, "duration": one.duration, "price_sats": one.price_sats} for one in found]
        desk.give(Answer({"service": service, "rentals": listed}, rows, ("id", "name", "duration (as told)", "sat"), numbers=(0, 2, 3)))

    return Task(work)


@cli.command(short_help="Tell what a code costs.")
@click.argument("country")
@click.argument("service")
@asks
def price(country: str, service: str) -> Task:
    """Tell what a number of COUNTRY costs for SERVICE, and the general prices, in satoshis."""

    async def work(desk: Desk) -> None:
        where = await _country(desk, country)
        what = await _service(desk, service, where)
        found = await _ask(desk, lambda: desk.client.get_price(where.id, what.code))
        prices = {"sats": found.sats, "rent_sats": found.rent_sats, "send_sats": found.send_sats, "s4s_sats": found.s4s_sats}
        names = (f"a code of {what.name.strip()}, {where.name}", "a rental", "an SMS sent")  # what a command can order
        rows = [(name, "unknown" if sats is None else str(sats)) for name, sats in zip(names, prices.values(), strict=False)]
        document = {"country": {"id": where.id, "name": where.name}, "service": {"code": what.code, "name": what.name}, **prices}
        desk.give(Answer(document, rows, ("for", "sat"), numbers=(1,)))

    return Task(work)


# --- orders ------------------------------------------------------------------------------------------------------------------------


def _pay_command(context: click.Context, parameter: click.Parameter, line: str | None) -> PayCommand | None:
    if line is None:
        return None
    try:
        return PayCommand(line)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def paid_for(command: F) -> F:
    """Give a command the options of all that cost something."""
    command = click.option("--max-sats", type=click.IntRange(1), metavar="SATS", help="The most it may cost.")(command)
    command = click.option(
        "--pay-with",
        "pay",
        callback=_pay_command,
        metavar="COMMAND",
        help="Pay with this command: it gets the invoice in place of {}, or as its last argument. It runs beside the waiting, and the "
        "order's status alone tells whether it has paid.",
    )(command)
    return click.option("--prepaid", is_flag=True, help="Charge the balance of SMS4SATS_API_KEY at once; there is no invoice.")(command)


def _seconds(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):  # it is within every range
        raise click.BadParameter("must be a number", context, parameter)
    return value


def timed(of: str) -> Callable[[F], F]:
    """Give a command the option of all that wait."""
    return click.option("--timeout", type=click.FloatRange(0, 1e9, min_open=True), callback=_seconds, metavar="SECONDS", help=of)


_TIMEOUT = (
    "How long to wait for the payment, and from the payment on for the code; then a last look, a cancel, and another look, in 30 s at "
    "the most (default: the 21 minutes of the service)."
)


def _ways(pay: PayCommand | None, *, prepaid: bool) -> None:
    if pay is not None and prepaid:
        raise click.UsageError("--prepaid has no invoice for --pay-with")


@cli.command(short_help="Receive a code.")
@click.argument("country")
@click.argument("service")
@paid_for
@timed(_TIMEOUT)
@asks
def receive(country: str, service: str, *, max_sats: int | None, pay: PayCommand | None, prepaid: bool, timeout: float | None) -> Task:
    """Receive a code of SERVICE with a number of COUNTRY.

    Shows the invoice, the number as soon as there is one, and answers with the code. Without a code in time the money comes back.
    Ctrl-C asks the service to cancel.
    """
    _ways(pay, prepaid=prepaid)

    async def work(desk: Desk) -> None:
        where = await _country(desk, country)
        what = await _service(desk, service, where)
        _introduce(desk, where, what)
        call = functools.partial(desk.client.create_order, where.id, what.code, immediate=prepaid, max_sats=max_sats)
        order = await place(desk, call, prepaid=prepaid)
        await follow(desk, order, Waiting(timeout, pay))

    return Task(work, keyed=prepaid)


@cli.command(short_help="Rent a number, and receive its first code.")
@click.argument("country")
@click.argument("service", default=FULL_RENTAL.code)
@click.option("--follow", "follows", is_flag=True, help="Go on after the first code: one line for each, until Ctrl-C.")
@paid_for
@timed("How long to wait for the payment (default: 21 minutes). A rental's codes can come at any time.")
@asks
def rent(
    country: str, service: str, *, follows: bool, max_sats: int | None, pay: PayCommand | None, prepaid: bool, timeout: float | None
) -> Task:
    """Rent a number of COUNTRY, for SERVICE or for all, and answer with the first code that it gets. There is no cancel for it."""
    _ways(pay, prepaid=prepaid)

    async def work(desk: Desk) -> None:
        offers = await _ask(desk, desk.client.get_rental_countries)
        where = find_country(country, offers)
        what = FULL_RENTAL if service == FULL_RENTAL.code else await _service(desk, service, where)
        _introduce(desk, where, what)
        call = functools.partial(desk.client.create_order, where.id, what.code, rental=True, immediate=prepaid, max_sats=max_sats)
        order = await place(desk, call, prepaid=prepaid)
        await follow(desk, order, Waiting(timeout, pay, follow=follows))

    return Task(work, keyed=prepaid, follows=follows)


def _introduce(desk: Desk, country: Country | RentalCountry, service: Service) -> None:
    desk.screen.say("country", f"{country.name} ({country.id})")
    desk.screen.say("service", f"{service.name.strip()} ({service.code})")


@cli.command(short_help="Send an SMS.")
@click.argument("phone")
@click.argument("message")
@paid_for
@timed("How long to wait for the payment, and from the payment on for the sending (default: 21 minutes).")
@asks
def send(phone: str, message: str, *, max_sats: int | None, pay: PayCommand | None, prepaid: bool, timeout: float | None) -> Task:
    """Send MESSAGE, of 140 characters at the most, to PHONE, with + and its country code; answers sent or delivered."""
    _ways(pay, prepaid=prepaid)
    to = re.sub(r"[\s().-]", "", phone)

    async def work(desk: Desk) -> None:
        desk.screen.number(to)
        call = functools.partial(desk.client.create_send_order, to, message, immediate=prepaid, max_sats=max_sats)
        order = await place(desk, call, prepaid=prepaid)
        await follow(desk, order, Waiting(timeout, pay))

    return Task(work, keyed=prepaid)


@cli.command(short_help="Tell what is known of an order.")
@click.argument("order")
@asks_of_an_order
def status(order: str) -> Task:
    """Tell what the service says of ORDER."""

    async def work(desk: Desk) -> None:
        found = await _ask(desk, lambda: desk.client.get_order_status(order))
        told = {"order_id": order, **status_document(found)}
        rows = [(name, _shown(value)) for name, value in told.items() if value is not None and name not in ("order_id", "code_was_number")]
        desk.give(Answer(told, rows, ("", "")))

    return Task(work)


def _shown(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


@cli.command(short_help="Watch an order to its end.")
@click.argument("order")
@click.option("--kind", type=click.Choice(_KINDS), help="What the order is for (default: receive, unless its status shows a send order).")
@click.option("--follow", "follows", is_flag=True, help="Of a rental: go on after the first code, one line for each, until Ctrl-C.")
@timed(_TIMEOUT)
@asks_of_an_order
def watch(order: str, *, kind: str | None, follows: bool, timeout: float | None) -> Task:
    """Watch ORDER to its end, and answer as the command that placed it does. Ctrl-C leaves the order alone."""

    async def work(desk: Desk) -> None:
        await follow(desk, order, Waiting(timeout, follow=follows, cancel=False), kind=None if kind is None else OrderKind(kind))

    return Task(work, follows=follows)


@cli.command(short_help="Cancel a receive order.")
@click.argument("order")
@click.option("--when-allowed", is_flag=True, help="Wait for the moment: the service refuses in an order's first 2 minutes.")
@asks_of_an_order
def cancel(order: str, *, when_allowed: bool) -> Task:
    """Cancel the receive order ORDER: what was paid for it comes back. The service refuses once a code has come."""

    async def work(desk: Desk) -> None:
        watcher = OrderWatcher(desk.client, order, kind=OrderKind.receive)
        desk.order = watcher.order
        view = View()
        view.waiting_for = "the moment at which it is allowed" if when_allowed else view.waiting_for
        try:
            with desk.screen.live(view):
                await desk.signals.interruptible(lambda: watcher.cancel(when_allowed))
        except Stopped:
            raise Interrupted("interrupted: perhaps the order was cancelled, perhaps not", order=watcher.order) from None
        desk.give(Answer({"order_id": order, "cancelled": True}, [["cancelled"]], label="order"))

    return Task(work)


# --- the journal -------------------------------------------------------------------------------------------------------------------


def _journal(desk: Desk) -> Journal:
    if desk.journal is None:
        raise ValueError(f"--journal, or {JOURNAL_VARIABLE} in the environment, must name the file")
    return desk.journal


def _intent_document(intent: Intent) -> dict[str, Any]:
    return {
        "row": intent.row,
        "created_at": intent.created_at.isoformat(),
        "kind": intent.kind,
        "country": intent.country,
        "service": intent.service,
        "price_sats": intent.price_sats,
    }


def _intent_row(intent: Intent) -> list[str]:
    what = " ".join(str(word) for word in (intent.kind, intent.country, intent.service) if word is not None)
    return [what, f"{intent.created_at:%Y-%m-%d %H:%M} UTC: perhaps ordered and charged, {sats(intent.price_sats)}"]


@cli.command(short_help="List what a journal has open.")
@asks_of_an_order
def orders() -> Task:
    """List the orders that the journal has open, and the calls whose reply was lost and that may have been charged. Asks nobody."""

    async def work(desk: Desk) -> None:
        journal = _journal(desk)
        entries, intents = await journal.open_entries(), await journal.unresolved()
        rows = [
            [one.order.id, f"{one.order.kind}, {'paid' if one.paid else 'not seen paid'}{', watched' * one.watched}"] for one in entries
        ]
        listed = [{"order": one.order.to_dict(), "paid": one.paid, "number": one.number, "watched": one.watched} for one in entries]
        document = {"orders": listed, "unresolved": [_intent_document(intent) for intent in intents]}
        desk.give(Answer(document, [*rows, *map(_intent_row, intents)], ("order", "")))

    return Task(work, reads_journal=True)


@cli.command("resume", short_help="Watch all that a journal has open.")
@asks_of_an_order
def resume_command() -> Task:
    """Watch all orders that the journal has open to their ends, and answer with their codes. Ctrl-C leaves them to the next time.

    A rental has no end: with one among them, codes come until Ctrl-C.
    """

    async def work(desk: Desk) -> None:
        batch, told = resume(desk.client, _journal(desk)), list[dict[str, Any]]()

        def tell(outcome: Outcome) -> None:
            error = None if outcome.error is None else str(outcome.error)
            told.append({"order": outcome.order.to_dict(), "code": outcome.code, "error": error})
            desk.give(Answer(None, [[outcome.order.id, outcome.code or error or "ended well"]]))

        async def watch() -> None:
            try:
                async with batch:
                    async for outcome in batch:
                        tell(outcome)
            finally:
                for outcome in batch.unread:
                    tell(outcome)

        try:
            await desk.signals.interruptible(watch)
        except Stopped:
            raise Interrupted("interrupted: what is open stays in the journal", beside={"outcomes": told}) from None
        desk.give(Answer({"outcomes": told}, ()))

    return Task(work, reads_journal=True)


@cli.command("reconcile", short_help="Tell what became of all that a journal has open.")
@click.option("--cancel", is_flag=True, help="Have the service cancel what is still open, unless a program that runs watches it.")
@asks_of_an_order
def reconcile_command(*, cancel: bool) -> Task:
    """Ask the service once about all that the journal has open, and, with SMS4SATS_API_KEY, compare the balance. Spends nothing."""

    async def work(desk: Desk) -> None:
        journal = _journal(desk)
        report = await _ask(desk, lambda: reconcile(desk.client, journal, cancel=cancel))
        rows = [[finding.order.id, _finding_words(finding)] for finding in report.findings]
        rows += map(_intent_row, report.unresolved)
        balance = None if report.balance is None else attrs.asdict(report.balance)
        if report.balance is not None and balance is not None:
            charged = {True: ": what is in doubt was charged", False: ": nothing that is in doubt was charged", None: ""}
            told = f"{sats(report.balance.sats)}, expected {sats(report.balance.expected_sats)}{charged[report.balance.charged]}"
            rows.append(["balance", told])
            since, missing = report.balance.since, report.balance.missing_sats
            balance |= {"since": since and since.isoformat(), "missing_sats": missing, "charged": report.balance.charged}
        if report.balance_error is not None:
            desk.screen.say("balance", str(report.balance_error))
        document = {
            "findings": [_finding_document(finding) for finding in report.findings],
            "unresolved": [_intent_document(intent) for intent in report.unresolved],
            "balance": balance,
        }
        desk.give(Answer(document, rows, ("order", ""), once=True))

    return Task(work, offers_key=True, reads_journal=True)


def _finding_words(finding: Finding) -> str:
    code = None if finding.status is None else finding.status.code
    problem = finding.error or finding.cancel_error
    words = finding.found.value if code is None else f"{finding.found.value} {code}"
    return f"{words}{', watched' * finding.watched}{'' if problem is None else f': {problem}'}"


def _finding_document(finding: Finding) -> dict[str, Any]:
    return {
        "order": finding.order.to_dict(),
        "found": finding.found,
        "watched": finding.watched,
        "status": None if finding.status is None else status_document(finding.status),
        "cancel_error": None if finding.cancel_error is None else str(finding.cancel_error),
        "error": None if finding.error is None else str(finding.error),
    }


# --- the prepaid account -----------------------------------------------------------------------------------------------------------


@cli.command(short_help="Pay into the prepaid account.")
@click.argument("amount", metavar="SATS", type=click.IntRange(1))
@click.option("--pay-with", "pay", callback=_pay_command, metavar="COMMAND", help="Pay with this command, as for receive.")
@timed("How long to wait for the payment (default: 21 minutes).")
@asks
def fund(amount: int, *, pay: PayCommand | None, timeout: float | None) -> Task:
    """Pay SATS into the prepaid account of SMS4SATS_API_KEY; answers paid."""

    async def work(desk: Desk) -> None:
        order = await place(desk, lambda: desk.client.fund(amount))
        await follow(desk, order, Waiting(timeout, pay))

    return Task(work, keyed=True)


@cli.command(short_help="Tell the balance of the prepaid account.")
@asks
def balance() -> Task:
    """Tell the balance of the prepaid account of SMS4SATS_API_KEY, in satoshis."""

    async def work(desk: Desk) -> None:
        found = await _ask(desk, desk.client.get_balance)
        desk.give(Answer({"balance_sats": found}, [[str(found)]], label="balance"))

    return Task(work, keyed=True)


@cli.command(short_help="List the payments into the prepaid account.")
@asks
def history() -> Task:
    """List the payments into the prepaid account of SMS4SATS_API_KEY."""

    async def work(desk: Desk) -> None:
        found = await _ask(desk, desk.client.get_history)
        listed = [
            {
                "amount_sats": one.amount_sats,
                "price_sats": one.price_sats,
                "created_at": None if one.created_at is None else one.created_at.isoformat(),
                "description": one.description,
            }
            for one in found.fundings
        ]
        rows = [
            tuple("" if row[name] is None else str(row[name]) for name in ("created_at", "amount_sats", "description")) for row in listed
        ]
        desk.screen.say("total", sats(found.total_sats))
        desk.give(Answer({"total_sats": found.total_sats, "fundings": listed}, rows, ("when", "sat", "what"), numbers=(1,)))

    return Task(work, keyed=True)


# --- trying it ---------------------------------------------------------------------------------------------------------------------

_backend = click.option("--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", help="The event loop (default: asyncio).")


@cli.command(short_help="See it work, in 3 seconds.")
@_backend
def demo(backend: str) -> int:
    """Order a number from a sandbox of its own and wait for its code, in about 3 seconds; shows the calls that it took."""
    return trying.run(trying.demo, port=0, speed=trying.DEMO_SPEED, backend=backend)


@cli.command(short_help="Serve a sandbox on this machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 for any that is free (default: 8000).")
@click.option(
    "--speed", type=click.FloatRange(0, 1e9, min_open=True), default=1.0, help="How many times as fast as the service (default: 1)."
)
@_backend
def sandbox(port: int, speed: float, backend: str) -> int:
    """Serve a sandbox on this machine until Ctrl-C, for programs in any language."""
    return trying.run(trying.sandbox, port=port, speed=speed, backend=backend)
