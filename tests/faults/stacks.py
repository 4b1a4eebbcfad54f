"""What carries a client's requests: our own lanes, or a transport that the user brings."""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from sms4sats_async import Client
from tests.conftest import HAS_TRIO


@dataclass(frozen=True)
class Stack:
    """A way to carry requests, and the backends that it runs on."""

    name: str
    backends: tuple[str, ...]

    @property
    def own_lanes(self) -> bool:
        """Only our own lanes can prove that nothing was sent, or promise a fresh connection."""
        return self.name == "lanes"

    @asynccontextmanager
    async def client(self, url: str, **options: Any) -> AsyncIterator[Client]:
        """A client of the server at ``url``, closed at the end together with what carried it; the environment's proxies are left out."""
        options = {"base_url": url, "trust_env": False, **options}
        if self.own_lanes:
            async with Client(**options) as client:
                yield client
        else:
            from httpx_aiohttp import AiohttpTransport

            # The certificate authorities are read anew for each transport: not for a plain server.
            async with AiohttpTransport(verify=url.startswith("https")) as transport, Client(transport=transport, **options) as client:
                yield client


_STACKS = [
    Stack("lanes", ("asyncio", "trio") if HAS_TRIO else ("asyncio",)),
    *([Stack("aiohttp", ("asyncio",))] if importlib.util.find_spec("httpx_aiohttp") else []),
]

every_stack = pytest.mark.parametrize(
    ("anyio_backend", "stack"),
    [pytest.param(backend, stack, id=f"{backend}-{stack.name}") for stack in _STACKS for backend in stack.backends],
    indirect=["anyio_backend"],
)
"""For a test that takes a ``stack``: our own lanes on both backends, and aiohttp's transport on asyncio."""
