"""``python -m sms4sats_async.cluster``: a worker as a process. SIGTERM and Ctrl-C let it hand back its orders, and end."""

import argparse
import logging
import os
import signal
import sys

import anyio

from sms4sats_async.client import BASE_URL, Client
from sms4sats_async.cluster.worker import CAPACITY, GIVE_UP_AFTER, KEEP_SHARE, Worker
from sms4sats_async.shelter import one_of

REDIS = "redis://localhost:6379"


def main() -> None:
    """Run a worker until it is told to stop."""
    parser = command()
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        anyio.run(connected, parser, options)
    except PermissionError as error:
        parser.error(str(error))


def command() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m sms4sats_async.cluster",
        description="Watch the orders of a job, together with other workers. Redis is where SMS4SATS_REDIS says: a password in there is "
        "seen by nobody, as it would be among a command's arguments.",
    )
    parser.add_argument("--rate", type=int, required=True, help="requests in any one second that all workers together make at the most")
    parser.add_argument("--redis", metavar="URL", default=os.environ.get("SMS4SATS_REDIS", REDIS), help=f"default: {REDIS}")
    parser.add_argument("--name", default="sms4sats", help="of the job (default: %(default)s)")
    parser.add_argument(
        "--capacity", type=int, default=CAPACITY, help="orders watched at once, before no new ones are taken (default: %(default)s)"
    )
    parser.add_argument("--connections", type=int, default=20, help="requests under way at once, at the most (default: %(default)s)")
    parser.add_argument(
        "--keep-share", type=float, default=KEEP_SHARE, metavar="SECONDS", help="without Redis, before it pauses (default: %(default)g)"
    )
    parser.add_argument(
        "--give-up-after", type=float, default=GIVE_UP_AFTER, metavar="SECONDS", help="until a silent worker is dead (default: %(default)g)"
    )
    parser.add_argument("--base-url", default=BASE_URL, help="of the service (default: %(default)s)")
    return parser


async def connected(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Run a worker with these options; what is wrong with them, the parser tells."""
    try:
        client = Client(base_url=options.base_url, max_connections=options.connections)
        worker = worker_of(client, options)
    except ValueError as error:
        parser.error(str(error))
    async with client:
        await work(worker)


def worker_of(client: Client, options: argparse.Namespace) -> Worker:
    """Return a worker with these options."""
    return Worker(
        client,
        options.redis,
        rate=options.rate,
        name=options.name,
        capacity=options.capacity,
        keep_share=options.keep_share,
        give_up_after=options.give_up_after,
    )


async def work(worker: Worker) -> None:
    """Run a worker until a signal stops it."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

        async def stop() -> None:
            await anext(signals)
            worker.stop()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stop)
                await worker.run()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise one_of(group) from None


if __name__ == "__main__":
    main()
