"""bitcoin-callback on real nodes and servers: every example of its document, and what it promises."""

import json
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from lightipn.dialects.callback.wire import parse_expiration, time_text
from tests.regtest.calls import JSON, answer_of, curl, wait_deliveries
from tests.regtest.feed import LOOK_AGAIN_S, WAIT_S, service_options, wait_event
from tests.regtest.nodes import Bitcoind, btc_text_of
from tests.regtest.own_node import Source
from tests.regtest.rivals import make_coins, publish, sign_payment, sign_rival
from tests.regtest.shop import Shop, ShopRequest, always, hang
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
IN_2099 = "2099-04-01T05:26:35"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def options(*sources: Source, **more: object) -> dict[str, str]:
    """Return the environment of a service whose callbacks are due at one confirmation, and every second."""
    named = {"confirmations": 1, "retry_period_s": 1} | more
    return service_options(*sources, **{f"dialects_callback_{name}": value for name, value in named.items()})


def told(shop: Shop) -> list[dict[str, Any]]:
    """Return all callbacks that came in, oldest first."""
    return [json.loads(request.body) for request in shop.requests]


async def wait_told(shop: Shop, *, count: int = 1, **fields: Any) -> dict[str, Any]:
    """Wait for the ``count``-th callback that has these fields, and return it."""

    def is_wanted(request: ShopRequest) -> bool:
        return fields.items() <= json.loads(request.body).items()

    return dict(json.loads((await shop.wait_for(is_wanted, WAIT_S, count=count)).body))


async def subscribe(service: ServiceProcess, address: str, url: str, **more: object) -> dict[str, Any]:
    """Subscribe a URL to an address and return the answer."""
    data = json.dumps({"address": address, "callback_url": url, **more})
    return dict(await answer_of(service, "POST", "/subscription", headers=JSON, data=data, status=202))


async def acknowledge(service: ServiceProcess, callback: dict[str, Any]) -> None:
    """Acknowledge a callback."""
    await answer_of(service, "PATCH", f"/callback/{callback['id']}", headers=JSON, data='{"acknowledged": true}')


async def wait_state(service: ServiceProcess, subscription_id: int, state: str) -> None:
    """Wait until a subscription shows this state."""
    with trio.fail_after(WAIT_S):
        while (await answer_of(service, "GET", f"/subscription/{subscription_id}"))["state"] != state:
            await trio.sleep(LOOK_AGAIN_S)


# --- the document, example by example ----------------------------------------------------------------------------


async def test_every_example_of_the_document(bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop) -> None:
    """The requests of the document, none of which has a key, have the answers of the document."""
    shop.policy = always(202)
    anonymous = options(source, confirmations=3) | {"LIGHTIPN_API_ANONYMOUS": "callback"}
    async with open_service(tmp_path / "lightipn", anonymous) as service:

        async def asked(method: str, path: str, data: str = "", *, status: int = 200) -> Any:
            return await answer_of(service, method, path, headers=JSON, data=data, status=status, key="")

        first, second = await bitcoind.new_address("legacy"), await bitcoind.new_address("legacy")
        url = f"{shop.url}/post/url"
        # Subscribe: the request as it is described, and the curl line.
        body = f'{{\n    "address": "{first}",\n    "callback_url": "{url}",\n    "expiration": "{IN_2099}"\n}}'
        before = int(time.time())
        made = await asked("POST", "/subscription", body, status=202)
        assert before <= parse_expiration(made["created"]) <= time.time()
        assert made == {
            "id": made["id"],
            "address": first,
            "callback_url": url,
            "created": made["created"],
            "expiration": IN_2099,
            "state": "active",
        }
        data = f'{{"address":"{second}", "callback_url":"{shop.url}/calback/url"}}'
        other = await asked("POST", "/subscription", data, status=202)
        assert other["id"] == made["id"] + 1

        # Subscription details; the curl line has a typing error in the name of its header.
        assert await asked("GET", f"/subscription/{made['id']}") == made
        typed = await curl(
            service, "GET", f"/subscription/{other['id']}", headers={"Contente-Type": "application/json"}
        )
        assert (typed.status_code, typed.json()) == (200, other)

        # Sending callbacks.
        await bitcoind.send(second, 1_384_203)
        txid = await bitcoind.send(first, 7_481_310)
        await bitcoind.mine(3)
        sent = await wait_told(shop, address=first)
        assert UUID.fullmatch(sent["id"])
        assert sent == {
            "id": sent["id"],
            "subscription": {"id": made["id"], "address": first},
            "created": sent["created"],
            "txid": txid,
            "address": first,
            "amount": 7_481_310,
            "received": 7_481_310,
            "sent": 0,
            "retries": 3,
            "last_retry": None,
            "acknowledged": False,
        }
        request = shop.matching(lambda request: request.path == "/post/url")[0]
        assert (request.method, request.headers["content-type"]) == ("POST", "application/json")

        # Acknowledge: as it is described, with Python's True, and the curl line.
        later = await wait_told(shop, address=second)
        done = await asked("PATCH", f"/callback/{sent['id']}", '{\n    "acknowledged": True\n}')
        assert (done["id"], done["acknowledged"]) == (sent["id"], True)
        done_too = await asked("PATCH", f"/callback/{later['id']}", '{"acknowledged": true}')
        assert (done_too["id"], done_too["acknowledged"]) == (later["id"], True)

        # Callback details, and the list with its filters.
        await wait_deliveries(service, "acknowledged", "acknowledged")
        assert await asked("GET", f"/callback/{sent['id']}") == done
        everything = await asked("GET", "/callback")
        assert {item["id"]: item for item in everything["callbacks"]} == {sent["id"]: done, later["id"]: done_too}
        assert everything["paging"] == {"prev": None, "next": None}
        assert (await asked("GET", f"/callback?subscription={other['id']}"))["callbacks"] == [done_too]
        assert (await asked("GET", "/callback?acknowledged=false"))["callbacks"] == []

        # Cancel: as it is described. The quotes of the curl line are broken; this is what it means.
        ended = await asked("PATCH", f"/subscription/{made['id']}", '{"state": "canceled"}')
        assert ended == made | {"state": "canceled"}
        assert await asked("GET", f"/subscription/{made['id']}") == ended

        # List subscriptions, and pagination.
        assert await asked("GET", "/subscription?page=1") == {
            "subscriptions": [ended, other],
            "paging": {"prev": None, "next": None},
        }
        assert (await asked("GET", "/subscription?status=active"))["subscriptions"] == [other]
        assert (await asked("GET", f"/subscription?address={first}"))["subscriptions"] == [ended]
        page = await asked("GET", "/subscription?page=0&per_page=1")
        assert page["paging"] == {"prev": None, "next": f"{service.url}/subscription?page=2&per_page=1"}
        page = await asked("GET", page["paging"]["next"].removeprefix(service.url))
        assert page == {
            "subscriptions": [other],
            "paging": {"prev": f"{service.url}/subscription?page=1&per_page=1", "next": None},
        }
        assert await service.stop() == 0


# --- retries and acknowledgements --------------------------------------------------------------------------------


async def test_retries_count_down_at_the_configured_pause(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """A callback that nobody acknowledges is sent four times, saying 3, 2, 1, 0, one pause apart, and never again."""
    shop.policy = always(200, b"*ok*")
    async with open_service(tmp_path / "lightipn", options(source)) as service:
        address = await bitcoind.new_address()
        await subscribe(service, address, shop.url)
        await bitcoind.send(address, 10_000)
        await bitcoind.mine(1)
        [dead] = await wait_deliveries(service, "dead")
        assert dead["attempts"] == 4
        assert [body["retries"] for body in told(shop)] == [3, 2, 1, 0]
        assert len({body["id"] for body in told(shop)}) == 1
        assert [body["last_retry"] is None for body in told(shop)] == [True, False, False, False]
        arrived = [request.arrived_at for request in shop.requests]
        pauses = [after - before for before, after in pairwise(arrived)]
        assert all(0.9 <= pause < 3 for pause in pauses), pauses
        # A second payment comes after whatever would still come of the first.
        await bitcoind.send(address, 20_000)
        await bitcoind.mine(1)
        await wait_deliveries(service, "dead", "dead")
        assert [body["amount"] for body in told(shop)] == [10_000] * 4 + [20_000] * 4
        assert await service.stop() == 0


async def test_acknowledgement_while_it_is_being_sent_holds(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """A receiver that acknowledges and then never answers is not called again, though its answer is missing."""
    shop.policy = hang
    short = options(source) | {"LIGHTIPN_DELIVERY_TIMEOUT_S": "1"}
    async with open_service(tmp_path / "lightipn", short) as service:
        address = await bitcoind.new_address()
        await subscribe(service, address, shop.url)
        await bitcoind.send(address, 10_000)
        await bitcoind.mine(1)
        callback = await wait_told(shop)
        await acknowledge(service, callback)
        again = await curl(
            service, "PATCH", f"/callback/{callback['id']}", data='{"acknowledged": true}', key=service.key
        )
        assert (again.status_code, again.json()) == (403, {"message": "Callback was already acknowledged"})
        [done] = await wait_deliveries(service, "acknowledged")  # not in flight any more
        assert done["attempts"] == 1

        shop.policy = always(200)
        await bitcoind.send(address, 20_000)
        await bitcoind.mine(1)
        await wait_deliveries(service, "acknowledged", "dead")
        assert [body["amount"] for body in told(shop)] == [10_000, *[20_000] * 4]
        assert await service.stop() == 0


async def test_acknowledged_callback_does_not_hold_back_the_others(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """Of two callbacks in their retries the one that is acknowledged stops, and the other one goes on to its end."""
    shop.policy = always(200)
    async with open_service(tmp_path / "lightipn", options(source)) as service:
        address = await bitcoind.new_address()
        await subscribe(service, address, shop.url)
        for amount_sat in (10_000, 20_000):
            await bitcoind.send(address, amount_sat)
        await bitcoind.mine(1)
        first = await wait_told(shop, amount=10_000)
        await acknowledge(service, first)
        with trio.fail_after(WAIT_S):
            while len([body for body in told(shop) if body["amount"] == 20_000]) < 4:
                await shop.arrived.wait()
        assert len([body for body in told(shop) if body["amount"] == 10_000]) <= 2
        assert await service.stop() == 0


# --- amounts -----------------------------------------------------------------------------------------------------


async def test_money_out_is_negative_and_both_sides_are_net(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """Money in is positive, money out negative; where the address is on both sides it is the net, and both are told."""
    async with open_service(tmp_path / "lightipn", options(source)) as service:
        address, elsewhere = await bitcoind.new_address(), await bitcoind.new_address()
        await subscribe(service, address, shop.url)

        async def spend(coin: dict[str, Any], outputs: dict[str, int]) -> str:
            texts = [{place: btc_text_of(amount_sat)} for place, amount_sat in outputs.items()]
            unsigned = await bitcoind.rpc("createrawtransaction", [coin], texts)
            signed = await bitcoind.rpc("signrawtransactionwithwallet", unsigned, wallet="receiver")
            txid = str(await bitcoind.rpc("sendrawtransaction", signed["hex"]))
            await bitcoind.mine(1)
            return txid

        async def coin_of(txid: str) -> dict[str, Any]:
            outputs = (await bitcoind.transaction(txid))["vout"]
            [index] = [output["n"] for output in outputs if output["scriptPubKey"].get("address") == address]
            return {"txid": txid, "vout": index}

        paid = await bitcoind.send(address, 1_000_000)
        await bitcoind.mine(1)
        await wait_told(shop, txid=paid)
        both = await spend(await coin_of(paid), {address: 400_000, elsewhere: 590_000})
        await wait_told(shop, txid=both)
        out = await spend(await coin_of(both), {elsewhere: 390_000})
        await wait_told(shop, txid=out)
        sides = {body["txid"]: (body["amount"], body["received"], body["sent"]) for body in told(shop)}
        assert sides == {
            paid: (1_000_000, 1_000_000, 0),
            both: (-600_000, 400_000, 1_000_000),
            out: (-400_000, 0, 400_000),
        }
        assert await service.stop() == 0


# --- zero_conf, replacement, reorg -------------------------------------------------------------------------------


async def test_zero_conf_tells_a_payment_twice(bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop) -> None:
    """With ``zero_conf`` a payment is told with 0 confirmations, and at its depth by a callback of its own."""
    async with open_service(tmp_path / "lightipn", options(source, zero_conf="true", confirmations=2)) as service:
        address = await bitcoind.new_address()
        await subscribe(service, address, shop.url)
        txid = await bitcoind.send(address, 10_000)
        early = await wait_told(shop, txid=txid, confirmations=0)
        await acknowledge(service, early)
        await bitcoind.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=txid)
        await bitcoind.mine(1)
        deep = await wait_told(shop, txid=txid, confirmations=2)
        await acknowledge(service, deep)
        assert deep["id"] != early["id"]
        await wait_deliveries(service, "acknowledged", "acknowledged")
        assert {body["confirmations"] for body in told(shop)} == {0, 2}
        assert await service.stop() == 0


async def test_replaced_payment_is_not_told_any_more(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """The callback of a payment that a block replaces is withdrawn while it waits for its next retry."""
    shop.policy = always(200)
    bitcoind = private_bitcoind
    patient = options(private_source, zero_conf="true", retries=1000)
    async with open_service(tmp_path / "lightipn", patient) as service:
        address = await bitcoind.new_address()
        await subscribe(service, address, shop.url)
        [coin] = await make_coins(bitcoind, [900_500])
        payment, rival = await sign_payment(bitcoind, coin, address), await sign_rival(bitcoind, coin)
        await publish(payment, bitcoind)
        await wait_told(shop, txid=payment.txid, confirmations=0, count=2)
        await bitcoind.rpc("generateblock", await bitcoind.new_address(), [rival.raw])
        await wait_event(service, kind="payment.replaced", txid=payment.txid)
        await wait_deliveries(service, "withdrawn")

        count = len(shop.requests)
        other = await bitcoind.send(address, 10_000)
        await wait_told(shop, txid=other, count=3)
        assert {body["txid"] for body in told(shop)[count:]} == {other}
        assert await service.stop() == 0


async def test_reorg_does_not_call_again(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """A payment that was acknowledged when deep is not told again when it loses its block and finds another one."""
    bitcoind = private_bitcoind
    shop.policy = always(200)
    early = options(private_source, zero_conf="true", retries=1000)
    async with open_service(tmp_path / "lightipn", early) as service:
        address = await bitcoind.new_address()
        await subscribe(service, address, shop.url)
        txid = await bitcoind.send(address, 10_000)
        await wait_told(shop, txid=txid, confirmations=0)
        await bitcoind.mine(1)
        await acknowledge(service, await wait_told(shop, txid=txid, confirmations=1))
        await wait_deliveries(service, "withdrawn", "acknowledged")
        count = len(shop.requests)

        await bitcoind.reorg(1, with_transactions=False)
        await wait_event(service, kind="payment.reverted", txid=txid)
        await bitcoind.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=txid, count=2)
        other = await bitcoind.send(address, 20_000)
        await wait_told(shop, txid=other, count=2)
        assert {body["txid"] for body in told(shop)[count:]} == {other}
        assert await service.stop() == 0


# --- the end of a subscription -----------------------------------------------------------------------------------


async def test_payment_before_the_expiry_is_told_and_one_after_it_is_not(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """What was seen before a subscription expired, or was canceled, is told at its depth; nothing later is."""
    async with open_service(tmp_path / "lightipn", options(source, confirmations=2)) as service:
        expiring, canceled, lasting = [await bitcoind.new_address() for _ in range(3)]
        soon = int(time.time()) + 4
        short = await subscribe(service, expiring, f"{shop.url}/expiring", expiration=soon)
        assert short["expiration"] == time_text(soon)
        ended = await subscribe(service, canceled, f"{shop.url}/canceled")
        before = [await bitcoind.send(address, 10_000) for address in (expiring, canceled)]
        for txid in before:
            await wait_event(service, kind="payment.seen", txid=txid)
        assert time.time() < soon
        await answer_of(service, "PATCH", f"/subscription/{ended['id']}", headers=JSON, data='{"state": "canceled"}')
        await wait_state(service, short["id"], "expired")
        with trio.fail_after(WAIT_S):
            while time.time() < soon + 1:  # seconds are whole: what is seen within the last one counts as before
                await trio.sleep(LOOK_AGAIN_S)

        for address in (expiring, canceled):
            await bitcoind.send(address, 20_000)
        await subscribe(service, lasting, shop.url)
        last = await bitcoind.send(lasting, 30_000)
        await wait_event(service, kind="payment.seen", txid=last)
        await bitcoind.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=last)
        await bitcoind.mine(1)
        for txid in (*before, last):
            await acknowledge(service, await wait_told(shop, txid=txid))
        await wait_deliveries(service, *["acknowledged"] * 3)
        assert {body["txid"] for body in told(shop)} == {*before, last}
        listed = await answer_of(service, "GET", "/subscription?state=expired")
        assert [item["id"] for item in listed["subscriptions"]] == [short["id"]]
        assert await service.stop() == 0


async def test_nothing_is_sent_for_an_owner_without_a_key_and_nothing_is_lost(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """While an owner's keys are revoked its callbacks wait; a new key has them sent."""
    async with open_service(tmp_path / "lightipn", options(source)) as service:
        address = await bitcoind.new_address()
        await subscribe(service, address, shop.url)
        assert service.cli("key", "revoke", "shop").returncode == 0
        assert (await curl(service, "GET", "/subscription", key=service.key)).status_code == 401
        txid = await bitcoind.send(address, 10_000)
        await bitcoind.mine(1)
        await wait_deliveries(service, "held")
        assert shop.requests == []

        [key] = re.findall(r"lipn_\S+", service.cli("key", "create", "shop").stdout)
        callback = await wait_told(shop, txid=txid)
        shown = await answer_of(service, "GET", f"/subscription/{callback['subscription']['id']}", key=key)
        assert shown["state"] == "active"
        assert await service.stop() == 0
