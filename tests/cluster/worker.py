"""The worker's own command, which notes when its requests had their turns: ``python -m tests.cluster.worker DIRECTORY ARGUMENT...``.

Each worker writes the times, as doubles of the monotonic clock, to a file of its own; what it has written, a kill does not take away.
"""

import argparse
import logging
import os
import struct
import sys
import time
from pathlib import Path

import anyio
import httpx
from httpx_aiohttp import AiohttpTransport

from sms4sats_async import Client
from sms4sats_async.cluster.__main__ import command, work, worker_of


class Noting(AiohttpTransport):
    """A transport that notes when it is given a request: that is right after the request had its turn."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._file = os.open(Path(directory) / f"permits.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        os.write(self._file, struct.pack("d", time.monotonic()))
        return await super().handle_async_request(request)


async def main(directory: str, options: argparse.Namespace) -> None:
    transport = Noting(directory)
    async with transport, Client(base_url=options.base_url, max_connections=options.connections, transport=transport) as client:
        await work(worker_of(client, options))


if __name__ == "__main__":  # pragma: no branch - nobody imports it
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    anyio.run(main, sys.argv[1], command().parse_args(sys.argv[2:]))
