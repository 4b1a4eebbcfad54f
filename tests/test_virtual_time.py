"""The clocks that all other tests stand on."""

import time

import anyio


async def test_twenty_one_minutes_take_no_time() -> None:
    real, virtual = time.monotonic(), anyio.current_time()
    for _ in range(315):
        await anyio.sleep(4)
    assert anyio.current_time() - virtual == 1260
    assert time.monotonic() - real < 60  # a hang would show; the figure itself promises nothing


async def test_sockets_are_heard_before_time_moves() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no Django here

    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(await stream.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        with anyio.fail_after(0.001):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
        tasks.cancel_scope.cancel()
    await listener.aclose()
