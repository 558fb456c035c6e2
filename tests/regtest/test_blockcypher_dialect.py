"""The dialect ``blockcypher`` on real nodes and servers: signed webhooks that say what bitcoind says."""

import json
import re
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.exceptions import InvalidSignature

from tests.clients.accounts import new_account
from tests.dialects.blockcypher.keys import private_pem, public_pem
from tests.regtest.calls import answer_of, curl, deliveries
from tests.regtest.feed import LOOK_AGAIN_S, WAIT_S, service_options, wait_event
from tests.regtest.nodes import Bitcoind, btc_text_of
from tests.regtest.own_node import Source
from tests.regtest.rivals import make_coins, publish, sign_payment, sign_rival
from tests.regtest.shop import Shop, ShopAnswer, ShopRequest, Silence, failure, hang_up, silent_ok
from tests.regtest.webhooks import (
    BASE,
    Webhook,
    add_hook,
    block_truth,
    check_signatures,
    payment_truth,
    raw_of,
    signing_key,
    wait_webhook,
    webhook_of,
    webhooks_of,
)
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
EVENTS = ("unconfirmed-tx", "new-block", "confirmed-tx", "tx-confirmation", "double-spend-tx", "tx-confidence")
# One server's word and no estimate of fees: half sure at the first moment, and never as sure as the default.
CONFIDENCE = 0.3
CONFIRMATIONS = 3
RETRIES_S = 40  # the last quick retry comes 31 s after the first try


def checked(webhook: Webhook) -> dict[str, Any]:
    """Return a body without what bitcoind cannot know, after a look at that."""
    said = dict(webhook.said)
    received = said.pop("received")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", received)
    assert abs(datetime.fromisoformat(received).timestamp() - time.time()) < 120
    confidence = said.pop("confidence")
    if said["block_height"] >= 0:
        assert confidence == 1
    elif said["double_spend"]:
        assert confidence == 0
    else:
        assert CONFIDENCE <= confidence < 1
        assert said.pop("receive_count") == 1
    return said


def numbers(webhooks: list[Webhook]) -> list[tuple[str | None, int]]:
    """Return the block and the confirmations of each."""
    return [(webhook.said.get("block_hash"), webhook.said["confirmations"]) for webhook in webhooks]


def told(shop: Shop, txid: str) -> dict[str, list[dict[str, Any]]]:
    """Return what was told of a payment, by event; without the event in the body, and what bitcoind cannot know."""
    found: dict[str, list[dict[str, Any]]] = {}
    for webhook in webhooks_of(shop, hash=txid):
        said = checked(webhook)
        found.setdefault(said.pop("event"), []).append(said)
    return found


async def add_all_hooks(service: ServiceProcess, shop: Shop, address: str, query: str = "") -> dict[str, str]:
    """Add a hook for each event, and return their ids."""
    terms = {"address": address, "confirmations": CONFIRMATIONS, "confidence": CONFIDENCE}
    return {event: await add_hook(service, event, f"{shop.url}/{event}{query}", **terms) for event in EVENTS}


async def wallet_call(service: ServiceProcess, method: str, path: str, status: int, **fields: object) -> Any:
    """Make a call about wallets, with a token as clients have it; returns the JSON of its answer, None without one."""
    data = json.dumps(fields) if fields else ""
    answer = await curl(service, method, f"{BASE}{path}?token={service.key}", data=data)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def start_again(service: ServiceProcess) -> None:
    """Start a service over what it left, and wait until it follows the chain."""
    await service.start()
    await service.wait_ready()


async def wait_all_heard(service: ServiceProcess) -> None:
    """Wait until no message waits any more."""
    with trio.fail_after(RETRIES_S):
        while {delivery["state"] for delivery in deliveries(service)} - {"acknowledged", "withdrawn"}:
            await trio.sleep(LOOK_AGAIN_S)


async def pay_all_kinds(bitcoind: Bitcoind, address: str) -> str:
    """Pay an address, one of each other kind, and nobody at all with some data; return the txid."""
    others = [await bitcoind.new_address(kind) for kind in ("p2sh-segwit", "bech32", "bech32m", "p2wsh")]
    outputs: list[dict[str, str]] = [{address: btc_text_of(123_456)}, {"data": b"invoice 7".hex()}]
    outputs += [{other: btc_text_of(10_000 + number)} for number, other in enumerate(others)]
    return str((await bitcoind.rpc("send", outputs))["txid"])


# --- what is told ------------------------------------------------------------------------------------------------


async def test_each_of_the_six_events_is_signed_and_says_what_bitcoind_says(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """Each event comes as often as it shall, to the unaltered URL, with two good signatures and bitcoind's own words.

    The double spend is a real one: a transaction that takes the payment's coin elsewhere.
    """
    shop.policy = silent_ok
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        address = await bitcoind.new_address("legacy")
        query = "?secret=a%2Fb+c&n=%31"
        hooks = await add_all_hooks(service, shop, address, query)
        public_key = await signing_key(service)
        start = await bitcoind.height()
        [coin] = await make_coins(bitcoind, [200_500])

        paid = await pay_all_kinds(bitcoind, address)
        asked = (await wait_webhook(shop, event="tx-confidence", hash=paid)).said["confidence"]
        answer = await answer_of(service, "GET", f"{BASE}/txs/{paid}/confidence")
        assert (answer["txhash"], answer["receive_count"]) == (paid, 1)
        assert asked <= answer["confidence"] < 1  # it grows with age
        lost = await sign_payment(bitcoind, coin, address)
        await publish(lost, bitcoind)
        for event in ("unconfirmed-tx", "tx-confirmation", "tx-confidence"):
            await wait_webhook(shop, event=event, hash=lost.txid)
        rival = await publish(await sign_rival(bitcoind, coin), bitcoind)
        await wait_webhook(shop, event="double-spend-tx", hash=lost.txid)
        for confirmations in range(1, CONFIRMATIONS + 2):
            [tip] = await bitcoind.mine(1)
            await wait_webhook(shop, event="new-block", hash=tip)
            if confirmations <= CONFIRMATIONS:
                await wait_webhook(shop, event="tx-confirmation", hash=paid, confirmations=confirmations)
        shown = await answer_of(service, "GET", f"{BASE}/txs/{paid}")
        assert await service.stop() == 0

    chain = [await bitcoind.rpc("getblockhash", height) for height in range(start + 1, await bitcoind.height() + 1)]
    assert [hook.said for hook in webhooks_of(shop, event="new-block")] == [
        await block_truth(bitcoind, block_hash) for block_hash in chain
    ]
    # The first block made the coin; the second one holds the payment.
    raw = await raw_of(bitcoind, paid)
    zero, *deeper = [await payment_truth(bitcoind, raw, address)] + [
        await payment_truth(bitcoind, raw, address, block_hash=chain[1], confirmations=number)
        for number in range(1, CONFIRMATIONS + 2)
    ]
    assert told(shop, paid) == {
        "unconfirmed-tx": [zero],
        "confirmed-tx": [deeper[0]],
        "tx-confirmation": [zero, *deeper[:CONFIRMATIONS]],
        "tx-confidence": [zero],
    }
    zero = await payment_truth(bitcoind, lost.raw, address)
    gone = zero | {"double_spend": True, "double_of": rival, "double_spend_tx": rival}
    assert told(shop, lost.txid) == {
        "unconfirmed-tx": [zero],
        "tx-confirmation": [zero],
        "double-spend-tx": [gone],
        "tx-confidence": [zero],
    }
    # The answer to a question has no address to be about.
    del shown["received"], deeper[-1]["address"], deeper[-1]["value"]
    assert shown == deeper[-1]

    webhooks = webhooks_of(shop)
    assert {webhook.event for webhook in webhooks} == set(EVENTS)
    assert len({webhook.message_id for webhook in webhooks}) == len(webhooks)
    for webhook in webhooks:
        check_signatures(webhook, public_key, key_id="lightipn")
        assert webhook.hook_id == hooks[webhook.event]
        assert webhook.request.target == f"/{webhook.event}{query}"


async def test_after_a_reorg_payments_are_told_again_for_the_new_block(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """``confirmed-tx`` comes once for each block that held the payment, and ``tx-confirmation`` counts anew in it.

    Nothing is told twice for one block, and a payment that waits in between is not told unconfirmed again.
    """
    bitcoind = private_bitcoind
    shop.policy = silent_ok
    async with open_service(tmp_path / "lightipn", service_options(private_source)) as service:
        address = await bitcoind.new_address()
        await add_all_hooks(service, shop, address)
        paid = await bitcoind.send(address, 70_000)
        await wait_webhook(shop, event="tx-confirmation", hash=paid, confirmations=0)
        first = await bitcoind.mine(2)
        await wait_webhook(shop, event="tx-confirmation", hash=paid, confirmations=2)

        second = (await bitcoind.reorg(2)).connected
        await wait_webhook(shop, event="tx-confirmation", hash=paid, block_hash=second[0], confirmations=3)
        await bitcoind.reorg(3, with_transactions=False)
        await wait_event(service, kind="payment.reverted", txid=paid, count=2)
        third = await bitcoind.mine(4)
        await wait_webhook(shop, event="tx-confirmation", hash=paid, block_hash=third[0], confirmations=3)
        await wait_webhook(shop, event="new-block", hash=third[-1])
        await wait_all_heard(service)
        assert await service.stop() == 0

    assert numbers(webhooks_of(shop, event="tx-confirmation")) == [
        (None, 0),
        *((first[0], number) for number in (1, 2)),
        *((second[0], number) for number in (1, 2, 3)),
        *((third[0], number) for number in (1, 2, 3)),
    ]
    confirmed = webhooks_of(shop, event="confirmed-tx")
    assert [webhook.said["block_hash"] for webhook in confirmed] == [first[0], second[0], third[0]]
    raw = await raw_of(bitcoind, paid)
    for webhook in (*confirmed, *webhooks_of(shop, event="tx-confirmation")):
        block_hash, confirmations = webhook.said.get("block_hash"), webhook.said["confirmations"]
        truth = await payment_truth(bitcoind, raw, address, block_hash=block_hash, confirmations=confirmations)
        assert checked(webhook) == truth | {"event": webhook.event}
    assert len(webhooks_of(shop, event="unconfirmed-tx")) == 1
    assert webhooks_of(shop, event="double-spend-tx") == []


# --- until it is heard -------------------------------------------------------------------------------------------


@dataclass
class ClosedShop:
    """A shop that is closed at first: it answers 500, or nothing at all; what it hears once it is open, it keeps."""

    is_open: bool = False
    heard: list[Webhook] = field(default_factory=list)

    def __call__(self, request: ShopRequest) -> ShopAnswer | Silence:
        """Answer a webhook."""
        if not self.is_open:
            return failure(request) if request.path == "/confirmed-tx" else hang_up(request)
        self.heard.append(webhook_of(request))
        return silent_ok(request)


async def test_shop_that_was_down_hears_everything_though_the_service_was_killed(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """What failed through restarts and ``kill -9`` is heard once the shop is up: the same bodies under the same ids.

    A webhook says what was so when it was first tried, however deep its payment is by then. What was told of a payment
    that is gone by then is withdrawn, but for the double spend itself.
    """
    policy = shop.policy = ClosedShop()
    service = ServiceProcess(tmp_path / "lightipn", service_options(source))
    try:
        await start_again(service)
        address = await bitcoind.new_address()
        hooks = await add_all_hooks(service, shop, address)
        public_key = await signing_key(service)
        start = await bitcoind.height()
        [coin] = await make_coins(bitcoind, [300_500])
        paid = await bitcoind.send(address, 40_000)
        for event in ("unconfirmed-tx", "tx-confidence", "tx-confirmation"):
            await wait_webhook(shop, event=event, hash=paid)
        service.kill()
        await bitcoind.mine(1)
        await start_again(service)
        await wait_webhook(shop, event="confirmed-tx", hash=paid)
        lost = await sign_payment(bitcoind, coin, address)
        await publish(lost, bitcoind)
        await wait_webhook(shop, event="unconfirmed-tx", hash=lost.txid)
        await service.stop()
        await publish(await sign_rival(bitcoind, coin), bitcoind)
        await start_again(service)
        await wait_webhook(shop, event="double-spend-tx", hash=lost.txid)
        service.kill()
        await bitcoind.mine(2)
        await start_again(service)
        await wait_event(service, kind="block.connected", block_hash=await bitcoind.tip_hash())
        service.kill()
        await start_again(service)
        policy.is_open = True
        await wait_all_heard(service)
        assert await service.stop() == 0
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()

    chain = [await bitcoind.rpc("getblockhash", height) for height in range(start + 1, await bitcoind.height() + 1)]
    # In order when first tried; what failed waits for its own next try, and holds back no later one.
    assert list(dict.fromkeys(webhook.said["hash"] for webhook in webhooks_of(shop, event="new-block"))) == chain
    assert {webhook.said["hash"] for webhook in policy.heard if webhook.event == "new-block"} == set(chain)
    raw = await raw_of(bitcoind, paid)
    of_paid = sorted(
        (webhook.event, webhook.said["confirmations"]) for webhook in policy.heard if webhook.said["hash"] == paid
    )
    assert of_paid == [
        ("confirmed-tx", 1),
        ("tx-confidence", 0),
        *(("tx-confirmation", number) for number in range(CONFIRMATIONS + 1)),
        ("unconfirmed-tx", 0),
    ]
    for webhook in policy.heard:
        assert webhook.hook_id == hooks[webhook.event]
        check_signatures(webhook, public_key, key_id="lightipn")
        if webhook.said["hash"] == paid:
            block_hash, confirmations = webhook.said.get("block_hash"), webhook.said["confirmations"]
            truth = await payment_truth(bitcoind, raw, address, block_hash=block_hash, confirmations=confirmations)
            assert checked(webhook) == truth | {"event": webhook.event}
    assert [webhook.event for webhook in policy.heard if webhook.said["hash"] == lost.txid] == ["double-spend-tx"]

    tries: dict[str, list[Webhook]] = {}
    for webhook in webhooks_of(shop):
        tries.setdefault(webhook.message_id, []).append(webhook)
    for webhook in policy.heard:
        same = tries[webhook.message_id]
        assert {(one.request.body, one.hook_id) for one in same} == {(webhook.request.body, webhook.hook_id)}
    assert len({webhook.message_id for webhook in policy.heard}) == len(policy.heard)
    assert max(map(len, tries.values())) > 2


# --- hooks about wallets, and with keys of their own -------------------------------------------------------------


async def test_hook_about_a_wallet_is_about_each_address_while_it_is_in_it(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """Payments to a wallet's addresses are told under the hook, also to those added or derived later, and no others.

    Derived addresses are those that bitcoind derives of the same key and branch.
    """
    shop.policy = silent_ok
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        given, added, removed = [await bitcoind.new_address("legacy") for _ in range(3)]
        await wallet_call(service, "POST", "/wallets", 201, name="till", addresses=[given, removed])
        account = new_account(is_segwit=True)
        made = await wallet_call(
            service, "POST", "/wallets/hd", 201, name="vault", extended_public_key=account.key, subchain_indexes=[0, 1]
        )
        assert made["chains"] == [{"chain_addresses": [], "index": 0}, {"chain_addresses": [], "index": 1}]
        till = await add_hook(service, "unconfirmed-tx", f"{shop.url}/till", wallet_name="till")
        vault = await add_hook(service, "tx-confirmation", f"{shop.url}/vault", wallet_name="vault", confirmations=1)
        await wallet_call(service, "POST", "/wallets/till/addresses", 200, addresses=[added])
        await wallet_call(service, "DELETE", "/wallets/till/addresses", 204, addresses=[removed])

        change = replace(account, descriptor=account.descriptor.replace("/0/*", "/1/*"))
        derived = []
        for branch, owner, count in ((0, account, 2), (1, change, 1)):
            path = "/wallets/hd/vault/addresses/derive"
            fresh = await wallet_call(service, "POST", path, 201, count=count, subchain_index=branch)
            expected = [
                {"address": address, "path": f"m/{branch}/{index}"}
                for index, address in enumerate(await owner.addresses(bitcoind, count))
            ]
            assert fresh["chains"][branch]["chain_addresses"] == expected
            derived += [one["address"] for one in expected]

        paid = {address: await bitcoind.send(address, 10_000) for address in (removed, given, added, *derived)}
        for address in (given, added):
            await wait_webhook(shop, event="unconfirmed-tx", address=address, hash=paid[address], value=10_000)
        for confirmations in (0, 1):
            for address in derived:
                fields = {"address": address, "hash": paid[address], "confirmations": confirmations, "value": 10_000}
                await wait_webhook(shop, event="tx-confirmation", **fields)
            await bitcoind.mine(1)
        for name in ("/wallets/till", "/wallets/hd/vault"):
            await wallet_call(service, "DELETE", name, 204)
        assert await answer_of(service, "GET", f"{BASE}/hooks") == []
        assert await service.stop() == 0

    told_of = [(webhook.hook_id, webhook.said["address"]) for webhook in webhooks_of(shop)]
    assert sorted(told_of) == sorted(
        [(till, given), (till, added), *((vault, address) for address in derived for _ in range(2))]
    )


async def test_hook_with_a_key_of_its_own_is_signed_with_that_one(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """``signkey`` signs the webhooks of its hook alone, and is never shown; clients' name of the chain works too."""
    shop.policy = silent_ok
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        address = await bitcoind.new_address("legacy")
        own = await add_hook(
            service, "unconfirmed-tx", f"{shop.url}/own", base="/v1/btc/test3", address=address, signkey=private_pem()
        )
        await add_hook(service, "unconfirmed-tx", f"{shop.url}/preset", address=address, signkey="preset")
        shown = await answer_of(service, "GET", f"{BASE}/hooks/{own}")
        assert (shown["signkey"], "PRIVATE" in json.dumps(shown)) == ("custom", False)
        public_key = await signing_key(service)
        await bitcoind.send(address, 5_000)
        await shop.wait_for(lambda request: request.path == "/own", WAIT_S)
        await shop.wait_for(lambda request: request.path == "/preset", WAIT_S)
        other = await curl(service, "GET", "/v1/btc/main/hooks", key=service.key)
        assert other.status_code == 404
        assert "btc/regtest" in other.json()["error"]
        assert await service.stop() == 0

    for webhook in webhooks_of(shop):
        keys = {"/own": (public_pem(), own), "/preset": (public_key, "lightipn")}
        right, key_id = keys.pop(webhook.request.path)
        check_signatures(webhook, right, key_id=key_id)
        [(wrong, _)] = keys.values()
        with pytest.raises(InvalidSignature):
            check_signatures(webhook, wrong, key_id=key_id)
