"""The judge is judged: the service under faults keeps the truth, whatever it answers."""

import anyio
import httpx

from tests.faults.service import NO_NUMBER, WINDOW, Service, closes, cut, gzip_bomb, lies, resets, slow, stalls, status, unseen, with_fields

BUY = {"country": 187, "service": "tg"}


async def test_an_order_lives_as_the_service_says() -> None:
    service = Service()
    async with service.serving() as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        order_id = (await http.post("/createorder", json=BUY)).json()["orderId"]

        async def look() -> dict[str, object]:
            told: dict[str, object] = (await http.get("/orderstatus", params={"orderId": order_id})).json()
            return told

        assert await look() == {"status": "OK", "paid": False}
        held = service.pay(order_id, number_after=5, code_after=60)
        assert await look() == {"status": "OK", "paid": True}
        assert service.holding == [order_id]
        await anyio.sleep(5)
        assert (await look())["number"] == 15550001111
        assert (await http.get("/cancelorder", params={"orderId": order_id})).json()["reason"] == "order can be canceled after 2 minutes"
        await anyio.sleep(55)
        assert (await look())["code"] == "048213"
        await anyio.sleep(70)
        assert (await http.get("/cancelorder", params={"orderId": order_id})).json()["reason"] == "code already received"
        assert (service.charged, service.holding, held.most_at_once, len(held.looks)) == ([order_id], [], 1, 4)


async def test_money_goes_back_by_a_cancel_by_time_and_without_a_number() -> None:
    service = Service()
    async with service.serving() as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        cancelled, expired, failed = (service.order(name * 32, paid_at=0.0, code_at=2000.0) for name in "abc")
        failed.failed_at = 30.0
        await anyio.sleep(130)
        assert (await http.get("/cancelorder", params={"orderId": cancelled.id})).json() == {"status": "OK"}
        assert service.holding == [expired.id]
        await anyio.sleep(WINDOW)
        told = [(await http.get("/orderstatus", params={"orderId": held.id})).json().get("error") for held in service.orders.values()]
        assert told == ["order canceled", "order canceled", NO_NUMBER]
        assert (service.charged, service.holding) == ([], [])


async def test_a_prepaid_order_is_charged_at_once_and_only_when_the_request_is_seen() -> None:
    service = Service()
    service.next("/createorder", unseen(closes), resets, cut(30), None)
    async with service.serving() as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        for _ in range(3):
            try:
                await http.post("/createorder", json=BUY | {"immediate": True})
            except httpx.TransportError:
                continue
            raise AssertionError("the fault did not strike")
        told = (await http.post("/createorder", json=BUY | {"immediate": True})).json()
    assert told["payreq"] == "paid"
    assert (len(service.charged), service.asked["/createorder"], service.struck) == (3, 4, 3)


async def test_replies_can_be_late_lie_and_swell() -> None:
    service = Service()
    held = service.order(paid_at=0.0)
    service.next(
        "/orderstatus", slow(3), lies({"paid": "no"}), status(503, b"<html>"), with_fields(code="1", paid=...), gzip_bomb(2), stalls
    )
    async with service.serving() as server, httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=5) as http:
        replies = [await http.get("/orderstatus", params={"orderId": held.id}) for _ in range(5)]
        assert anyio.current_time() >= 3
        assert replies[0].json() == {"status": "OK", "paid": True}
        assert replies[1].json() == {"paid": "no"}
        assert (replies[2].status_code, replies[2].text) == (503, "<html>")
        assert replies[3].json() == {"status": "OK", "code": "1"}
        assert len(replies[4].content) == 1 << 21
        with anyio.move_on_after(1):
            await http.get("/orderstatus", params={"orderId": held.id})
        assert held.most_at_once == 1
        assert len(held.looks) == 6


async def test_two_requests_about_one_order_at_once_are_noticed() -> None:
    service = Service(plan=lambda request, about: slow(2))
    held = service.order()
    async with (
        service.serving() as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as http,
        anyio.create_task_group() as group,
    ):
        for _ in range(2):
            group.start_soon(lambda: http.get("/orderstatus", params={"orderId": held.id}))
    assert held.most_at_once == 2
