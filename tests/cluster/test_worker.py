"""Workers and Redis, both real; the service is scripted, and holds the truth."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from sms4sats_async import Client, Order
from sms4sats_async.cluster import Cluster, Worker
from tests.cluster.redis_server import RedisServer
from tests.faults.service import Held, Service
from tests.servers import Server

pytestmark = pytest.mark.real_time


@asynccontextmanager
async def working(*workers: Worker) -> AsyncGenerator[None]:
    """Workers at work, which are stopped at the end."""
    async with anyio.create_task_group() as tasks:
        for worker in workers:
            tasks.start_soon(worker.run)
        yield
        for worker in workers:
            worker.stop()


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until this is so."""
    with anyio.fail_after(seconds):
        while not true():
            await anyio.sleep(0.01)


def orders(service: Service, count: int, **times: float) -> list[Held]:
    now = anyio.current_time()
    times = {name: now + after for name, after in times.items()}
    return [
        service.order(f"{number:04d}" * 8, **{"paid_at": now, "number_at": now, "code": f"{number:06d}"} | times) for number in range(count)
    ]


async def test_orders_go_in_and_outcomes_come_out(redis_server: RedisServer) -> None:
    service = Service()
    async with service.serving() as server, Client(base_url=server.url) as client, Cluster(redis_server.url) as cluster:
        held = orders(service, 20, code_at=0.5)
        for order in held:
            assert await cluster.submit(Order(order.id))
        codes = {}
        async with working(Worker(client, redis_server.url, rate=50)):
            async for outcome in cluster.outcomes():
                codes[outcome.order.id] = outcome.code
        assert codes == {order.id: order.code for order in held}
        assert await cluster.waiting() == 0
