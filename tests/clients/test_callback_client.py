"""Clients of the bitcoin-callback API: one that acknowledges at once, one that does it late, one that never does."""

import json
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio

from tests.clients.callback_client import PYTHON_ACKNOWLEDGEMENT, CallbackClient
from tests.clients.conftest import CALLBACK_RETRIES, CALLBACK_RETRY_PERIOD_S
from tests.regtest.nodes import Bitcoind
from tests.regtest.shop import Shop, ShopRequest, silent_ok

pytestmark = pytest.mark.slow
WAIT_S = 20
ALL_SENDS = CALLBACK_RETRIES + 1


def bodies_of(requests: list[ShopRequest]) -> list[dict[str, Any]]:
    """Return what was posted, without the times of day."""
    bodies = [json.loads(request.body) for request in requests]
    return [{name: value for name, value in body.items() if name not in ("created", "last_retry")} for body in bodies]


async def subscribe(client: CallbackClient, address: str, url: str) -> int:
    """Subscribe; the client blocks, so in a thread."""
    return await trio.to_thread.run_sync(client.subscribe, address, url)


async def wait_sent(shop: Shop, path: str, count: int) -> list[ShopRequest]:
    """Wait until a path was called so often, and return the calls so far."""
    await shop.wait_for(lambda request: request.path == path, WAIT_S, count=count)
    return shop.matching(lambda request: request.path == path)


async def test_callback_is_sent_until_acknowledged_and_no_longer(
    callback_client: CallbackClient, bitcoind: Bitcoind, shop: Shop
) -> None:
    """A PATCH ends the sending, even one that comes while the callback is being sent; without it all retries are used.

    ``retries`` counts down to 0, one period apart, and an answer of 200 acknowledges nothing.
    """
    client = callback_client
    policies = {"/eager": client.acknowledge_at_once, "/never": silent_ok}
    shop.policy = lambda request: policies[request.path](request)
    eager, never = await bitcoind.new_address(), await bitcoind.new_address("legacy")
    eager_id = await subscribe(client, eager, f"{shop.url}/eager")
    never_id = await subscribe(client, never, f"{shop.url}/never")
    await bitcoind.send(eager, 111_000)
    never_txid = await bitcoind.send(never, 222_000)
    await bitcoind.mine(1)
    sent = await wait_sent(shop, "/never", ALL_SENDS)

    [eager_callback] = await trio.to_thread.run_sync(client.callbacks, eager_id)
    [never_callback] = await trio.to_thread.run_sync(client.callbacks, never_id)
    told = {
        "id": never_callback["id"],
        "subscription": {"id": never_id, "address": never},
        "txid": never_txid,
        "address": never,
        "amount": 222_000,
        "received": 222_000,
        "sent": 0,
        "acknowledged": False,
    }
    assert bodies_of(sent) == [{**told, "retries": left} for left in range(CALLBACK_RETRIES, -1, -1)]
    pauses = [later.arrived_at - before.arrived_at for before, later in pairwise(sent)]
    assert all(pause > 0.9 * CALLBACK_RETRY_PERIOD_S for pause in pauses), pauses
    assert {(request.method, request.headers["content-type"]) for request in sent} == {("POST", "application/json")}
    assert (never_callback["retries"], never_callback["acknowledged"]) == (0, False)
    assert (eager_callback["retries"], eager_callback["acknowledged"]) == (CALLBACK_RETRIES, True)
    assert len(await wait_sent(shop, "/eager", 1)) == 1


async def test_callback_is_acknowledged_after_its_last_retry(
    callback_client: CallbackClient, bitcoind: Bitcoind, shop: Shop
) -> None:
    """A late PATCH is taken, in the document's spelling too; a second one is 403, and nothing is sent any more.

    A later payment shows that the subscription lives on: what is told then is the new payment alone.
    """
    client = callback_client
    shop.policy = silent_ok
    address = await bitcoind.new_address()
    subscription_id = await subscribe(client, address, f"{shop.url}/late")
    txid = await bitcoind.send(address, 333_000)
    await bitcoind.mine(1)
    sent = await wait_sent(shop, "/late", ALL_SENDS)
    callback_id = json.loads(sent[0].body)["id"]

    acknowledge = partial(client.acknowledge, callback_id, PYTHON_ACKNOWLEDGEMENT)
    status, acknowledged = await trio.to_thread.run_sync(acknowledge)
    assert (status, acknowledged["id"], acknowledged["acknowledged"]) == (200, callback_id, True)
    status, refusal = await trio.to_thread.run_sync(acknowledge)
    assert (status, list(refusal)) == (403, ["message"])

    shop.policy = client.acknowledge_at_once
    later_txid = await bitcoind.send(address, 444_000)
    await bitcoind.mine(1)
    calls = await wait_sent(shop, "/late", ALL_SENDS + 1)
    assert [json.loads(call.body)["txid"] for call in calls] == [txid] * ALL_SENDS + [later_txid]
    listed = await trio.to_thread.run_sync(client.callbacks, subscription_id)
    assert [(one["txid"], one["acknowledged"]) for one in listed] == [(txid, True), (later_txid, True)]


async def test_callbacks_are_there_for_their_owner_alone(
    callback_client: CallbackClient, other_key: str, bitcoind: Bitcoind, shop: Shop
) -> None:
    """Without a good key all is 401, and for another owner 404; both say why in JSON, and acknowledge nothing."""
    shop.policy = silent_ok
    address = await bitcoind.new_address()
    subscription_id = await subscribe(callback_client, address, f"{shop.url}/owned")
    await bitcoind.send(address, 555_000)
    await bitcoind.mine(1)
    [first, *_] = await wait_sent(shop, "/owned", 1)
    callback_id = json.loads(first.body)["id"]

    for key, wanted in (("lipn_nobody", 401), (other_key, 404)):
        stranger = CallbackClient(url=callback_client.url, key=key)
        for path in (f"/subscription/{subscription_id}", f"/callback/{callback_id}"):
            status, refusal = await trio.to_thread.run_sync(stranger.call, "GET", path)
            assert (status, list(refusal)) == (wanted, ["message"])
        status, refusal = await trio.to_thread.run_sync(stranger.acknowledge, callback_id)
        assert (status, list(refusal)) == (wanted, ["message"])
    assert await trio.to_thread.run_sync(stranger.callbacks, subscription_id) == []
    [callback] = await trio.to_thread.run_sync(callback_client.callbacks, subscription_id)
    assert callback["acknowledged"] is False
