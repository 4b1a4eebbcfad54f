"""``python -m sms4sats_async``: try it without spending a satoshi.

``demo`` orders a number, pays for it and waits for its code, with the real client over real HTTP, from a sandbox of its own.
``sandbox`` serves a sandbox until it is interrupted, for programs in any language and for curl.
The command line ``sms4sats`` has both as well; here they need none of its packages.
"""

import argparse
import importlib.util
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, cast
from urllib.parse import urlencode

import anyio
import attrs

from sms4sats_async.models import mask
from sms4sats_async.sandbox import Sandbox, SandboxCall, Timeline

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

DEMO_SPEED = 30.0
"""The typical code takes 45 s: at this speed 1.5 s, and the demo about 3 s."""

DEMO_POLL_INTERVAL = 1.0
"""Seconds between two polls of the demo, the least that a watcher allows: the default would be slow for a service this fast."""

PAID_AFTER = 5.0
"""Seconds of sandbox time after which ``sandbox`` pays an order itself, because a person with curl has no way to."""

PLAY_KEY, PLAY_SATS = "demo", 100_000
"""The API key that ``sandbox`` knows, and its balance."""

GRACE = 1.0
"""Seconds for requests under way when the server is stopped."""

INTERRUPTED = 130
"""The exit code of a demo that was not seen to its end."""

Command = Callable[[socket.socket, float, str], Awaitable[int]]
"""Gets the socket to serve on, the speed and the backend; returns the exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = _parser().parse_args(arguments)
    return run(options.command, port=options.port, speed=options.speed, backend=options.backend)


def run(command: Command, *, port: int, speed: float, backend: str) -> int:
    """Run ``demo`` or ``sandbox`` and return the exit code: 1 if the port cannot be had, 2 if a package is missing."""
    needed = [("hypercorn", "sandbox")] + ([("trio", "trio")] if backend == "trio" else [])
    for module, extra in needed:
        if importlib.util.find_spec(module) is None:
            print(f"{module} is missing: pip install 'sms4sats-async[{extra}]'", file=sys.stderr)
            return 2
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        print(f"cannot listen on 127.0.0.1:{port}: {error}", file=sys.stderr)
        return 1
    return anyio.run(command, listener, speed, backend, backend=backend)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sms4sats_async", description="Try sms4sats_async without spending a satoshi.")
    commands = parser.add_subparsers(required=True, metavar="command")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio", help="the event loop (default: %(default)s)")
    showing = commands.add_parser("demo", parents=[common], help="order a number and wait for its code, in about 3 seconds")
    showing.set_defaults(command=demo, port=0, speed=DEMO_SPEED)
    serving = commands.add_parser("sandbox", parents=[common], help="serve a sandbox on this machine until interrupted")
    serving.add_argument("--port", type=int, default=8000, help="0 for any that is free (default: %(default)s)")
    serving.add_argument("--speed", type=_speed, default=1.0, help="how many times as fast as the real service (default: %(default)s)")
    serving.set_defaults(command=sandbox)
    return parser


def _speed(text: str) -> float:
    speed = float(text)
    if not 0 < speed < float("inf"):
        msg = "must be positive"
        raise argparse.ArgumentTypeError(msg)
    return speed


def _say(label: str, text: str) -> None:
    print(f"{label:<10}{text}", flush=True)


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def _serve(sandbox: Sandbox, listener: socket.socket, stopped: anyio.Event, backend: str) -> None:
    """Serve the sandbox until ``stopped`` is set. The listener is the server's from here on."""
    from hypercorn import Config  # noqa: PLC0415 - an extra

    app = cast("ASGIFramework", sandbox)  # hypercorn types each message, the sandbox takes them as mappings
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "ERROR"
    config.graceful_timeout = GRACE
    if backend == "trio":
        from hypercorn.trio import serve as serve_on_trio  # noqa: PLC0415 - an extra  # pyright: ignore[reportUnknownVariableType]

        await serve_on_trio(app, config, shutdown_trigger=stopped.wait, mode="asgi")
    else:
        from hypercorn.asyncio import serve  # noqa: PLC0415 - an extra  # pyright: ignore[reportUnknownVariableType]

        await serve(app, config, shutdown_trigger=stopped.wait, mode="asgi")


# --- sandbox -----------------------------------------------------------------------------------------------------------------------


async def sandbox(listener: socket.socket, speed: float, backend: str) -> int:
    """Serve a sandbox until SIGINT or SIGTERM, and return 0."""
    service = Sandbox(timeline=attrs.evolve(Timeline.typical(), paid_after=PAID_AFTER), speed=speed, accounts={PLAY_KEY: PLAY_SATS})
    url = _url(listener)
    stopped = anyio.Event()
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve, service, listener, stopped, backend)
            _introduce(url, speed)
            await anext(aiter(signals))
            stopped.set()
    print("stopped", flush=True)
    return 0


def _introduce(url: str, speed: float) -> None:
    plan = Timeline.typical()
    _say("sandbox", url)
    _say("speed", f"{speed:g} times that of the real service")
    _say(
        "orders",
        f"are paid by themselves after {PAID_AFTER / speed:g} s; then a number comes after {(plan.number_after or 0) / speed:g} s,",
    )
    _say("", f"and a code after {(plan.code_after or 0) / speed:g} s")
    _say("prepaid", f"X-API-Key: {PLAY_KEY} ({PLAY_SATS:,} sat)")
    _say("try", f'curl {url}/createorder -H \'Content-Type: application/json\' -d \'{{"country": 187, "service": "tg"}}\'')
    _say("", f"curl '{url}/orderstatus?orderId=...'")
    _say("stop", "Ctrl-C")


# --- demo --------------------------------------------------------------------------------------------------------------------------


async def demo(listener: socket.socket, speed: float, backend: str) -> int:
    """Order a number from a sandbox, pay for it, wait for its code, and show the calls that it took; return 0, or 130 if interrupted."""
    service = Sandbox(timeline=Timeline.typical(), speed=speed)
    url = _url(listener)
    _say("sandbox", f"{url} ({speed:g} times as fast as the real service, on {backend})")
    stopped, bought = anyio.Event(), False
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve, service, listener, stopped, backend)
            async with anyio.create_task_group() as buying:  # hypercorn is stopped, not cancelled: it does not take that well
                buying.start_soon(_leave_at, signals, buying.cancel_scope)
                await _buy_a_code(service, url)
                bought = True
                buying.cancel_scope.cancel()
            stopped.set()
    if not bought:
        print("stopped", flush=True)
        return INTERRUPTED
    _show_calls(service.calls, speed)
    return 0


async def _leave_at(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


async def _buy_a_code(sandbox: Sandbox, url: str) -> None:
    from sms4sats_async.client import Client  # noqa: PLC0415 - the sandbox command needs no client
    from sms4sats_async.watcher import OrderWatcher  # noqa: PLC0415

    async with Client(base_url=url, trust_env=False) as client:
        country = next(country for country in await client.get_countries() if country.name == "USA")
        service = next(service for service in await client.get_services(country.id) if service.name == "Telegram")
        price = await client.get_price(country.id, service.code)
        _say("country", f"{country.name} ({country.id})")
        _say("service", f"{service.name} ({service.code})")
        _say("price", f"{price.sats:,} sat")

        order = await client.create_order(country.id, service.code, max_sats=price.sats)
        for line, part in enumerate(textwrap.wrap(order.payreq or "", 100)):
            _say("" if line else "invoice", part)

        sandbox.pay(order.id)  # in real life: by any Lightning wallet, which shows the payment as pending until the code comes
        async with OrderWatcher(client, order, poll_interval=DEMO_POLL_INTERVAL) as watcher:
            await watcher.paid()
            _say("paid", "held until the code comes")
            _say("number", await watcher.number())
            _say("code", await watcher.code())


def _show_calls(calls: Sequence[SandboxCall], speed: float) -> None:
    print("\nThe calls that this took:\n")
    print(f"{'seconds':>9}  {'method':<8}{'path':<20}query")
    for call in calls:
        query = urlencode({name: mask(value) if name == "orderId" else value for name, value in call.query.items()})
        print(f"{(call.at - calls[0].at) / speed:>9.2f}  {call.method:<8}{call.path:<20}{query}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
