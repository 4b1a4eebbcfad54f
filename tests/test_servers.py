"""The scripted server does to a client what it says, on both backends: every other socket test leans on this."""

import socket
import struct

import anyio
import httpx
import pytest

from tests.servers import Reply, SeenRequest, closes, hangs, json_reply, resets, serve


async def _dial(url: str) -> anyio.abc.SocketStream:
    address = httpx.URL(url)
    return await anyio.connect_tcp(address.host, address.port or 0)


async def test_answers_step_by_step_over_one_connection() -> None:
    async with serve([{"paid": True}, ["tg"], lambda request, reply: reply.json({}, 404, [("X-Seen", request.method)])]) as server:
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert (await http.get("/orderstatus", params={"orderId": "a"})).json() == {"paid": True}
            assert (await http.post("/createorder", json={"country": 0})).json() == ["tg"]
            last = await http.get("/")
            assert (last.status_code, last.json(), last.headers["x-seen"]) == (404, {}, "GET")
            assert (server.connections_opened, server.connections_open) == (1, 1)
        await anyio.sleep(1)
        assert server.connections_open == 0
    first, second, _ = server.requests
    assert (first.method, first.target, first.body, first.connection) == ("GET", "/orderstatus?orderId=a", b"", 1)
    assert (second.method, second.target, second.body) == ("POST", "/createorder", b'{"country":0}')
    assert second.headers["content-type"] == "application/json"


async def test_a_script_may_take_its_time() -> None:
    async def slow(request: SeenRequest, reply: Reply) -> None:
        await anyio.sleep(9)
        await reply.json({})

    async with serve(slow) as server, httpx.AsyncClient(timeout=10) as http:
        start = anyio.current_time()
        await http.get(server.url)
        assert anyio.current_time() - start == 9
        assert server.requests[0].at == start
        with pytest.raises(httpx.ReadTimeout):
            await http.get(server.url, timeout=8)


async def test_a_fin_and_a_reset_are_told_apart() -> None:
    async with serve([closes, resets]) as server, httpx.AsyncClient() as http:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            await http.get(server.url)
        with pytest.raises(httpx.ReadError):
            await http.get(server.url)
        assert (server.connections_opened, server.connections_open, len(server.requests)) == (2, 0, 2)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_reply_is_cut_after_any_byte(reset: bool) -> None:
    whole = json_reply({"orderId": "a"})
    for at in range(len(whole)):
        got = b""

        async def cut(request: SeenRequest, reply: Reply, at: int = at) -> None:
            await reply.cut(whole, at, reset=reset)

        async with serve(cut) as server, await _dial(server.url) as stream:
            await stream.send(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(anyio.BrokenResourceError if reset else anyio.EndOfStream):
                while True:
                    got += await stream.receive()
        assert got == whole[:at]


async def test_a_trickle_outlasts_a_time_out_for_each_read() -> None:
    whole = json_reply({})
    async with serve([lambda request, reply: reply.trickle(whole)] * 2) as server, httpx.AsyncClient(timeout=1) as http:
        start = anyio.current_time()
        await http.get(server.url)
        assert anyio.current_time() - start == pytest.approx(0.3 * (len(whole) - 1))
        with anyio.move_on_after(1):
            await http.get(server.url)
        await anyio.sleep(0.3)
        assert server.connections_open == 0


async def test_a_hang_lasts_until_the_client_goes_away() -> None:
    gone: list[float] = []

    async def script(request: SeenRequest, reply: Reply) -> None:
        await reply.hang()
        gone.append(anyio.current_time())

    async with serve(script) as server, httpx.AsyncClient() as http:
        start = anyio.current_time()
        with anyio.move_on_after(3):
            await http.get(server.url, timeout=None)
        await anyio.sleep(1)
        assert [at - start for at in gone] == [3]
        assert server.connections_open == 0


async def test_work_goes_on_for_a_client_that_left_but_writes_nothing() -> None:
    done: list[bool] = []

    async def script(request: SeenRequest, reply: Reply) -> None:
        await anyio.sleep(2)
        await reply.json({})
        done.append(reply.client_gone)

    async with serve(script) as server:
        async with await _dial(server.url) as stream:
            await stream.send(b"GET / HTTP/1.1\r\n\r\n")
        await anyio.sleep(1)
        assert server.connections_open == 0
        await anyio.sleep(2)
    assert done == [True]


async def test_a_client_may_reset_at_the_very_moment_of_the_answer() -> None:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def script(request: SeenRequest, reply: Reply) -> None:
        client.close()
        await reply.json({})

    async with serve(script) as server:
        client.connect((httpx.URL(server.url).host, httpx.URL(server.url).port))
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        await anyio.sleep(1)
        assert (len(server.requests), server.connections_open) == (1, 0)


async def test_a_closed_idle_connection_is_noticed_by_the_client() -> None:
    async with serve([{}, {}], close_idle=True) as server, httpx.AsyncClient() as http:
        for _ in range(2):
            await http.get(server.url)
            await anyio.sleep(1)
            assert server.connections_open == 0
        assert server.connections_opened == 2


async def test_the_keep_alive_race_is_lost_every_time_and_unseen() -> None:
    async with serve([{}, {}], close_late=True) as server, httpx.AsyncClient() as http:
        for _ in range(2):
            await http.get(server.url)
            await anyio.sleep(1)
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(server.url)
        assert (len(server.requests), server.connections_opened, server.connections_open) == (2, 2, 0)


async def test_the_keep_alive_race_counts_a_request_sent_with_the_one_before() -> None:
    async with serve([{}], close_late=True) as server, await _dial(server.url) as stream:
        await stream.send(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        assert await stream.receive() == json_reply({})
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
    assert len(server.requests) == 1


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_can_end_before_anything_is_read(reset: bool) -> None:
    async def on_connect(number: int, reply: Reply) -> None:
        if number == 1:
            await (reply.reset() if reset else reply.close())

    async with serve([{}], on_connect=on_connect) as server, httpx.AsyncClient() as http:
        with pytest.raises(httpx.TransportError):
            await http.get(server.url)
        await http.get(server.url)
        assert [request.connection for request in server.requests] == [2]


async def test_a_request_is_cut_after_any_byte() -> None:
    seen: list[bytes] = []

    async def on_connect(number: int, reply: Reply) -> None:
        seen.append(await reply.read(number))
        await reply.reset()

    request = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    async with serve([], on_connect=on_connect) as server:
        for _ in range(len(request)):
            async with await _dial(server.url) as stream:
                await stream.send(request)
                with pytest.raises(anyio.BrokenResourceError):
                    await stream.receive()
    assert seen == [request[:count] for count in range(1, len(request) + 1)]
    assert server.requests == []


async def test_half_a_request_is_none_and_a_whole_one_counts_though_its_client_left() -> None:
    whole = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    for size in range(1, len(whole)):
        async with serve([closes]) as server:
            async with await _dial(server.url) as stream:
                await stream.send(whole[:size])
            await anyio.sleep(1)
            assert (len(server.requests), server.connections_open) == (0, 0)
            async with await _dial(server.url) as stream:
                await stream.send(whole[:size])
                await anyio.sleep(1)
                await stream.send(whole[size:])
            await anyio.sleep(1)
        assert [request.body for request in server.requests] == [b"{}"]


async def test_a_read_ends_with_the_client() -> None:
    seen: list[bytes] = []

    async def on_connect(number: int, reply: Reply) -> None:
        seen.append(await reply.read(100))

    async with serve([], on_connect=on_connect) as server:
        async with await _dial(server.url) as stream:
            await stream.send(b"GET /")
        await anyio.sleep(1)
    assert seen == [b"GET /"]


@pytest.mark.parametrize("reset", [False, True])
async def test_an_idle_connection_is_dropped_from_a_trace_hook(reset: bool) -> None:
    async with serve([{}]) as server, httpx.AsyncClient() as http:

        async def trace(name: str, info: object) -> None:
            if name == "http11.send_request_headers.started":
                await server.drop(1, reset=reset)

        await http.get(server.url)
        with pytest.raises(httpx.TransportError):
            await http.get(server.url, extensions={"trace": trace})
        assert (len(server.requests), server.connections_opened, server.connections_open) == (1, 1, 0)
        await server.drop(1, reset=reset)  # twice is once


async def test_megabytes_arrive_whole_or_stop_when_the_client_leaves() -> None:
    big = json_reply("x" * 20_000_000)
    async with serve(lambda request, reply: reply.raw(big)) as server:
        async with httpx.AsyncClient() as http:
            assert len((await http.get(server.url)).content) == 20_000_002
        async with await _dial(server.url) as stream:
            await stream.send(b"GET / HTTP/1.1\r\n\r\n")
            await anyio.sleep(1)
            assert server.connections_open == 1
        await anyio.sleep(1)
        assert server.connections_open == 0


@pytest.mark.parametrize("script", [[], [lambda request, reply: anyio.sleep(1)]], ids=["no step left", "no answer given"])
async def test_a_gap_in_the_script_ends_the_test(script: list[object]) -> None:
    with pytest.raises(AssertionError, match="GET /x"):
        async with serve(script) as server, httpx.AsyncClient() as http:  # type: ignore[arg-type]
            await http.get(f"{server.url}/x", timeout=None)


async def test_errors_of_the_test_and_of_the_script_come_out_as_they_are() -> None:
    async def broken(request: SeenRequest, reply: Reply) -> None:
        raise KeyError("script")

    with pytest.raises(KeyError, match="script"):
        async with serve(broken) as server, httpx.AsyncClient() as http:
            await http.get(server.url)
    with pytest.raises(ValueError, match="test"):
        async with serve([]):
            raise ValueError("test")


async def test_two_errors_at_once_stay_a_group() -> None:
    async def broken(request: SeenRequest, reply: Reply) -> None:
        try:
            await anyio.sleep(60)
        finally:
            raise KeyError("script")

    with pytest.raises(ExceptionGroup) as caught:
        async with serve(broken) as server, await _dial(server.url) as stream:
            await stream.send(b"GET / HTTP/1.1\r\n\r\n")
            await anyio.sleep(1)
            raise ValueError("test")
    assert {type(error) for error in caught.value.exceptions} == {KeyError, ValueError}


async def test_nothing_is_left_when_the_block_ends_in_the_middle_of_everything() -> None:
    async with serve(hangs) as server:
        streams = [await _dial(server.url) for _ in range(3)]
        for stream in streams:
            await stream.send(b"GET / HTTP/1.1\r\n\r\n")
        await anyio.sleep(1)
        assert server.connections_open == 3
    assert server.connections_open == 0
    for stream in streams:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        await stream.aclose()
    _assert_refused(server.url)


async def test_nothing_is_left_when_the_test_is_cancelled() -> None:
    with anyio.move_on_after(5) as scope:
        async with serve(hangs) as server, await _dial(server.url) as stream:
            await stream.send(b"GET / HTTP/1.1\r\n\r\n")
            await anyio.sleep(60)
    assert scope.cancelled_caught
    assert (len(server.requests), server.connections_open) == (1, 0)
    _assert_refused(server.url)


def _assert_refused(url: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0))
