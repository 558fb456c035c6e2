"""PyPI's ``blockcypher`` works with LightIPN as it is, but for the host."""

import re
import secrets
from typing import Any

import pytest
import trio

from tests.clients.accounts import new_account
from tests.clients.sdk import BlockcypherSdk, Refusal
from tests.regtest.feed import LOOK_AGAIN_S, WAIT_S
from tests.regtest.nodes import Bitcoind
from tests.regtest.rivals import make_coins, sign_payment
from tests.regtest.shop import Shop, silent_ok
from tests.regtest.webhooks import payment_truth, raw_of, time_text, wait_webhook, webhooks_of

pytestmark = pytest.mark.slow
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(autouse=True)
def quiet_shop(shop: Shop) -> None:
    """Have the shop say 200 to everything."""
    shop.policy = silent_ok


@pytest.fixture
async def address(bitcoind: Bitcoind) -> str:
    """A fresh address of the one kind that the SDK knows on every test network."""
    return await bitcoind.new_address("legacy")


def wallet_name() -> str:
    """Return a name of the 25 characters that the SDK lets through."""
    return f"W{secrets.token_hex(12)}"


async def wait_answer(sdk: BlockcypherSdk, name: str, wanted: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    """Ask until the answer has these fields, and return it.

    Raises:
        AssertionError: it did not have them before the deadline.
    """
    found: Any = None
    with trio.move_on_after(WAIT_S):
        while not (isinstance(found, dict) and wanted.items() <= found.items()):
            await trio.sleep(LOOK_AGAIN_S)
            found = await sdk.call(name, **arguments)
        return found
    raise AssertionError(f"{name} has no {wanted}: {found}")


async def test_hooks_are_subscribed_listed_shown_told_and_removed(
    blockcypher: BlockcypherSdk, address: str, bitcoind: Bitcoind, shop: Shop
) -> None:
    """Hooks of each event that the SDK can ask for are made, listed, shown and removed; they tell until then."""
    asked = {
        "tx-confirmation": {"confirmations": 2},
        "tx-confidence": {"confidence": 0.4},
        "unconfirmed-tx": {},
        "confirmed-tx": {},
        "double-spend-tx": {},
    }
    about = {"callback_url": f"{shop.url}/hook?secret=1", "subscription_address": address}
    ids = await blockcypher.call_all(
        *(("subscribe_to_address_webhook", about | {"event": event} | more) for event, more in asked.items())
    )
    shown = [
        {
            "id": hook_id,
            "event": event,
            "url": f"{shop.url}/hook?secret=1",
            "callback_errors": 0,
            "filter": f"addr={address}&event={event}",
            "suspended": False,
            "address": address,
            "token": blockcypher.key,
            **more,
        }
        for hook_id, (event, more) in zip(ids, asked.items(), strict=True)
    ]
    assert all(re.fullmatch(UUID, hook_id) for hook_id in ids)
    listed = await blockcypher.call("list_webhooks")
    assert [hook for hook in listed if hook["id"] in ids] == shown
    assert await blockcypher.call_all(*(("get_webhook_info", {"webhook_id": hook_id}) for hook_id in ids)) == shown

    paid = await bitcoind.send(address, 55_000)
    await wait_webhook(shop, event="unconfirmed-tx", hash=paid)
    await wait_webhook(shop, event="tx-confidence", hash=paid)
    for confirmations in (1, 2):
        await bitcoind.mine(1)
        await wait_webhook(shop, event="tx-confirmation", hash=paid, confirmations=confirmations)
    await wait_webhook(shop, event="confirmed-tx", hash=paid)
    told = sorted((hook.event, hook.said["confirmations"], hook.said["value"]) for hook in webhooks_of(shop))
    assert told == [
        ("confirmed-tx", 1, 55_000),
        ("tx-confidence", 0, 55_000),
        *(("tx-confirmation", number, 55_000) for number in (0, 1, 2)),
        ("unconfirmed-tx", 0, 55_000),
    ]

    removed = [("unsubscribe_from_webhook", {"webhook_id": hook_id}) for hook_id in ids]
    assert await blockcypher.call_all(*removed) == [True] * len(ids)
    assert not {hook["id"] for hook in await blockcypher.call("list_webhooks")} & set(ids)
    assert await blockcypher.call("get_webhook_info", webhook_id=ids[0]) == {"error": f"there is no hook '{ids[0]}'"}


async def test_wallet_of_given_addresses_is_kept_watched_and_summed_up(
    blockcypher: BlockcypherSdk, address: str, bitcoind: Bitcoind, shop: Shop
) -> None:
    """A wallet is made, grows and shrinks; its hook tells of what is in it, and its balance is the sum."""
    name, second = wallet_name(), await bitcoind.new_address("legacy")
    wallet = {"token": blockcypher.key, "name": name, "addresses": [address]}
    made, added, shown = await blockcypher.call_all(
        ("create_wallet_from_address", {"wallet_name": name, "address": address}),
        ("add_address_to_wallet", {"wallet_name": name, "address": second}),
        ("get_wallet_addresses", {"wallet_name": name}),
    )
    assert made == wallet
    assert sorted(added["addresses"]) == sorted([address, second])
    assert added == shown == wallet | {"addresses": added["addresses"]}
    assert name in (await blockcypher.call("list_wallet_names"))["wallet_names"]
    hook = await blockcypher.call("subscribe_to_wallet_webhook", callback_url=f"{shop.url}/till", wallet_name=name)

    paid = await bitcoind.send(second, 70_000)
    await wait_webhook(shop, event="tx-confirmation", address=second, hash=paid, confirmations=0)
    await bitcoind.send(address, 30_000)
    sums = {"balance": 0, "unconfirmed_balance": 100_000, "final_balance": 100_000, "final_n_tx": 2}
    balance = await wait_answer(blockcypher, "get_wallet_balance", sums, wallet_name=name)
    assert balance["wallet"] == {"name": name, "addresses": added["addresses"]}
    assert (await blockcypher.call("get_webhook_info", webhook_id=hook))["wallet_name"] == name

    assert await blockcypher.call_all(
        ("remove_address_from_wallet", {"wallet_name": name, "address": second}),
        ("get_wallet_addresses", {"wallet_name": name}),
        ("delete_wallet", {"wallet_name": name}),
    ) == [True, wallet, True]
    assert name not in (await blockcypher.call("list_wallet_names"))["wallet_names"]
    assert "error" in await blockcypher.call("get_webhook_info", webhook_id=hook)


async def test_wallet_of_an_extended_key_derives_what_a_wallet_program_does(
    blockcypher: BlockcypherSdk, bitcoind: Bitcoind, shop: Shop
) -> None:
    """Addresses are derived in order, one or several at once, of each branch, and payments to them are told."""
    name, account = wallet_name(), new_account(is_segwit=False)
    first, second, third = await account.addresses(bitcoind, 3)
    about = {"wallet_name": name}
    made = {
        "token": blockcypher.key,
        "name": name,
        "hd": True,
        "extended_public_key": account.key,
        "chains": [{"chain_addresses": [], "index": 0}, {"chain_addresses": [], "index": 1}],
    }
    found = await blockcypher.call("create_hd_wallet", **about, xpubkey=account.key, subchain_indices=[0, 1])
    assert found == made
    hook = await blockcypher.call("subscribe_to_wallet_webhook", callback_url=f"{shop.url}/hd", wallet_name=name)

    fresh = await blockcypher.call_all(
        ("derive_hd_address", about),
        ("derive_hd_address", about | {"num_addresses": 2}),
        ("derive_hd_address", about | {"subchain_index": 1}),
    )
    chains = [[chain["chain_addresses"] for chain in answer["chains"]] for answer in fresh]
    [change] = chains[2][1]
    assert chains[0] == [[{"address": first, "path": "m/0/0"}], []]
    assert chains[1] == [[{"address": second, "path": "m/0/1"}, {"address": third, "path": "m/0/2"}], []]
    assert (chains[2][0], change["path"]) == ([], "m/1/0")

    shown = await blockcypher.call("get_wallet_addresses", **about, is_hd_wallet=True)
    assert [chain["chain_addresses"] for chain in shown["chains"]] == [chains[0][0] + chains[1][0], [change]]
    assert name in (await blockcypher.call("list_wallet_names", is_hd_wallet=True))["wallet_names"]
    paid = {one: await bitcoind.send(one, 20_000) for one in (third, change["address"])}
    for one, txid in paid.items():
        await wait_webhook(shop, event="tx-confirmation", address=one, hash=txid, value=20_000)
    assert {webhook.hook_id for webhook in webhooks_of(shop)} == {hook}

    assert await blockcypher.call("delete_wallet", **about, is_hd_wallet=True) is True
    assert "error" in await blockcypher.call("get_wallet_addresses", **about, is_hd_wallet=True)


async def test_forwards_are_made_and_listed_and_forward(
    blockcypher: BlockcypherSdk, bitcoind: Bitcoind, shop: Shop
) -> None:
    """A forward gives an address of its own, is listed, and passes on what it is paid; its callback says so."""
    destination = await bitcoind.new_address("legacy")
    fields = {"destination_address": destination, "callback_url": f"{shop.url}/forwarded"}
    details, source, named = await blockcypher.call_all(
        ("get_forwarding_address_details", fields),
        ("get_forwarding_address", fields),
        ("create_forwarding_address", {"destination_address": destination}),
    )
    assert len({details["input_address"], source, named}) == 3
    listed = {forward["input_address"]: forward for forward in await blockcypher.call("list_forwarding_addresses")}
    assert listed[details["input_address"]] == details
    assert listed[source]["destination"] == destination
    later = await blockcypher.call("list_forwarding_addresses", offset=len(listed) - 1)
    assert later == list(listed.values())[-1:]

    paid = await bitcoind.send(source, 90_000)
    await bitcoind.mine(1)
    request = await shop.wait_for(lambda request: request.path == "/forwarded", WAIT_S)
    assert (request.headers["x-eventtype"], paid.encode() in request.body) == ("tx-forward", True)
    overview = {"final_n_tx": 1, "n_tx": 0}
    assert (
        81_000
        <= (await wait_answer(blockcypher, "get_address_overview", overview, address=destination))[
            "unconfirmed_balance"
        ]
        < 90_000
    )


def shown_of(truth: dict[str, Any], received: str) -> dict[str, Any]:
    """Return what the SDK makes of a transaction: times with an offset, and None for where an unconfirmed one is."""
    shown = truth | {"received": received}
    del shown["address"], shown["value"]
    if "block_hash" not in shown:
        return shown | {"block_height": None, "confirmed": None, "receive_count": 1}
    return shown | {"confirmed": offset_of(shown["confirmed"])}


def offset_of(time: str) -> str:
    """Return a time of the API as Python prints it."""
    return f"{time.removesuffix('Z')}+00:00"


async def test_addresses_and_transactions_are_read_as_bitcoind_has_them(
    blockcypher: BlockcypherSdk, address: str, bitcoind: Bitcoind
) -> None:
    """Every read call about an address or a transaction gives what bitcoind says, confirmed and unconfirmed."""
    old = await bitcoind.send(address, 60_000)
    [block_hash] = await bitcoind.mine(1)
    new = await bitcoind.send(address, 40_000)
    sums = {
        "total_received": 60_000,
        "total_sent": 0,
        "balance": 60_000,
        "unconfirmed_balance": 40_000,
        "final_balance": 100_000,
        "n_tx": 1,
        "unconfirmed_n_tx": 1,
        "final_n_tx": 2,
    }
    about = {"address": address}
    await wait_answer(blockcypher, "get_address_overview", about | sums, **about)
    found = await blockcypher.call_all(
        *((f"get_{name}", about) for name in ("total_balance", "confirmed_balance", "unconfirmed_balance")),
        *((f"get_{name}_transactions", about) for name in ("num_confirmed", "num_unconfirmed", "total_num")),
    )
    assert found == [100_000, 60_000, 40_000, 1, 1, 2]

    details, several, full, confirmed, unconfirmed, both = await blockcypher.call_all(
        ("get_address_details", about | {"show_confidence": True, "include_script": True}),
        ("get_addresses_details", {"address_list": [address, await bitcoind.new_address("legacy")]}),
        ("get_address_full", about),
        ("get_transaction_details", {"tx_hash": old}),
        ("get_transaction_details", {"tx_hash": new, "include_hex": True}),
        ("get_transactions_details", {"tx_hash_list": [old, new]}),
    )
    raw = {txid: await raw_of(bitcoind, txid) for txid in (old, new)}
    old_truth = await payment_truth(bitcoind, raw[old], address, block_hash=block_hash, confirmations=1)
    new_truth = await payment_truth(bitcoind, raw[new], address)
    assert confirmed == shown_of(old_truth, confirmed["received"])
    assert unconfirmed == shown_of(new_truth, unconfirmed["received"]) | {"hex": raw[new]}
    assert both == [confirmed, {name: value for name, value in unconfirmed.items() if name != "hex"}]
    # Only the SDK's calls about transactions put None where an unconfirmed one has no place.
    as_sent = unconfirmed | {"block_height": -1}
    del as_sent["hex"], as_sent["confirmed"]
    assert full["txs"] == [as_sent, confirmed]
    refs = details["txrefs"] + details["unconfirmed_txrefs"]
    assert [(ref["tx_hash"], ref["value"], ref["confirmations"], ref["block_height"]) for ref in refs] == [
        (old, 60_000, 1, old_truth["block_height"]),
        (new, 40_000, 0, -1),
    ]
    places = [ref["tx_output_n"] for ref in refs]
    assert [truth["outputs"][place]["script"] for truth, place in zip((old_truth, new_truth), places, strict=True)] == [
        ref["script"] for ref in refs
    ]
    assert 0 < details["unconfirmed_txrefs"][0]["confidence"] < 1
    assert [one["final_balance"] for one in several] == [100_000, 0]
    assert sums.items() <= details.items()


async def test_facts_about_a_transaction_and_the_chain_are_bitcoinds(
    blockcypher: BlockcypherSdk, address: str, bitcoind: Bitcoind
) -> None:
    """Depth, amounts, fee, confidence, and the tip are answered each by its own call."""
    paid = await bitcoind.send(address, 50_000)
    truth = await payment_truth(bitcoind, await raw_of(bitcoind, paid), address)
    about = {"tx_hash": paid}
    waiting = await wait_answer(blockcypher, "get_transaction_details", {"receive_count": 1}, **about)
    assert waiting["confirmations"] == 0
    names = ("num_confirmations", "receive_count", "satoshis_transacted", "satoshis_in_fees")
    found = await blockcypher.call_all(*((f"get_{name}", about) for name in names))
    assert found == [0, 1, truth["total"], truth["fees"]]
    standing = await blockcypher.call("get_transaction_details", **about, confidence_only=True)
    later = await blockcypher.call("get_confidence", **about)
    assert 0 < standing["confidence"] <= later < 1
    assert standing.keys() == {"age_millis", "receive_count", "confidence", "txhash", "txurl"}
    assert standing["txurl"] == f"{blockcypher.url}/v1/btc/test3/txs/{paid}"

    [tip] = await bitcoind.mine(1)
    header = await bitcoind.rpc("getblockheader", tip)
    expected = {
        "name": "BTC.regtest",
        "height": header["height"],
        "hash": tip,
        "time": offset_of(time_text(header["time"])),
        "previous_hash": header["previousblockhash"],
        "peer_count": 1,
    }
    assert await wait_answer(blockcypher, "get_blockchain_overview", {"hash": tip}) == expected
    assert await blockcypher.call_all(("get_latest_block_height", {}), ("get_latest_block_hash", {})) == [
        header["height"],
        tip,
    ]
    token = await blockcypher.call("get_token_info")
    assert (token["token"], token["limits"]["hooks"] > 200) == (blockcypher.key, True)


async def test_signed_transaction_is_handed_to_the_network(
    blockcypher: BlockcypherSdk, address: str, bitcoind: Bitcoind
) -> None:
    """A transaction that is pushed is in bitcoind's mempool, and shown as it is; one that is no good is refused."""
    [coin] = await make_coins(bitcoind, [77_500])
    payment = await sign_payment(bitcoind, coin, address)
    pushed = (await blockcypher.call("pushtx", tx_hex=payment.raw))["tx"]
    assert payment.txid in await bitcoind.rpc("getrawmempool")
    truth = await payment_truth(bitcoind, payment.raw, address)
    assert pushed == {name: truth[name] for name in truth if name not in ("address", "value")} | {
        "received": pushed["received"]
    }
    spoilt = payment.raw[:-8] + "ffffffff"
    for bad in ("00", spoilt):
        refused = await blockcypher.call("pushtx", tx_hex=bad)
        assert (list(refused), isinstance(refused["error"], str)) == (["error"], True)


# --- what does not work ------------------------------------------------------------------------------------------


async def test_calls_that_fail_inside_the_sdk_fail_there(blockcypher: BlockcypherSdk) -> None:
    """Two calls raise before anything is sent, whatever the host: none of the API's doing."""
    deleted, block = await blockcypher.call_all(
        ("delete_forwarding_address", {"payment_id": "1"}), ("get_block_overview", {"block_representation": 5})
    )
    assert isinstance(deleted, Refusal)
    assert (deleted.kind, "make_url() missing" in deleted.message) == ("TypeError", True)
    assert isinstance(block, Refusal)
    assert (block.kind, "not 'int'" in block.message) == ("TypeError", True)


async def test_calls_that_are_not_there_are_refused_in_the_shape_that_clients_read(
    blockcypher: BlockcypherSdk, address: str
) -> None:
    """Calls that only an indexer or a wallet could answer come back as ``{"error": "text"}``."""
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_block_overview", {"block_representation": "5"}),
        ("generate_new_address", {}),
        ("decodetx", {"tx_hex": "00"}),
        ("get_metadata", {"address": address}),
    ]
    answers = await blockcypher.call_all(*calls)
    assert [(list(answer), type(answer["error"])) for answer in answers] == [(["error"], str)] * len(calls)


async def test_list_of_a_wallets_addresses_may_be_of_unused_ones_only(
    blockcypher: BlockcypherSdk, bitcoind: Bitcoind
) -> None:
    """Who asks for the unused addresses of a wallet is not given a used one: he hands them out."""
    name, account = wallet_name(), new_account(is_segwit=False)
    used, unused = await account.addresses(bitcoind, 2)
    await blockcypher.call_all(
        ("create_hd_wallet", {"wallet_name": name, "xpubkey": account.key, "subchain_indices": [0]}),
        ("derive_hd_address", {"wallet_name": name, "num_addresses": 2}),
    )
    await bitcoind.send(used, 10_000)
    await wait_answer(blockcypher, "get_address_overview", {"final_n_tx": 1}, address=used)
    about = {"wallet_name": name, "is_hd_wallet": True}
    answers = await blockcypher.call_all(
        ("get_wallet_addresses", about | {"used": False}),
        ("get_wallet_addresses", about | {"used": True}),
        ("get_wallet_addresses", about | {"zero_balance": True}),
    )
    listed = [[one["address"] for chain in answer["chains"] for one in chain["chain_addresses"]] for answer in answers]
    assert listed == [[unused], [used], [unused]]
