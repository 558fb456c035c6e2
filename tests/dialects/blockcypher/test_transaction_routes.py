"""``/txs`` as clients call it: transactions, how likely they are to be confirmed, and handing one over."""

from typing import Any

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Outpoint, TxOutput, parse_transaction
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Replaced
from lightipn.store.transactions import Background
from tests.builders import OTHER_SCRIPT, payment, raw_transaction, txid_of
from tests.dialects.blockcypher.reading import ADDR, GONE, NO, ONE, SEEN, UNKNOWN_TX, moment_of, spent_story, tx_path
from tests.dialects.blockcypher.rig import (
    V1,
    FakeOutside,
    OpenCaller,
    happen,
    looked_at,
    mine,
    placed,
    refused,
)
from tests.dialects.rig import ADDRESS, BASE_URL, TIP, Caller

# --- transactions ---------------------------------------------------------------------------------------------


async def test_transaction_is_shown_with_its_place(caller: Caller, outside: FakeOutside) -> None:
    """A transaction of a watched address is shown out of the database, with where it is proved to be."""
    await looked_at(caller)
    (header,) = await mine(caller)
    background = Background(spent=(TxOutput(amount_sat=100_900, script=OTHER_SCRIPT),))
    await happen(caller, ONE, placed(header, TIP + 1, position=4), background=background)
    await mine(caller, 2)
    found = await caller.call("GET", tx_path(ONE))
    assert (found["hash"], found["block_hash"], found["block_height"], found["block_index"]) == (
        hex_of(ONE.txid),
        hex_of(header.block_hash),
        TIP + 1,
        4,
    )
    assert (found["confirmations"], found["fees"], found["double_spend"]) == (3, 900, False)
    assert moment_of(found["confirmed"]).timestamp() == header.time
    assert moment_of(found["received"]) <= moment_of(found["confirmed"])
    assert outside.asked == []


async def test_inputs_that_are_not_known_are_asked_for(caller: Caller, outside: FakeOutside) -> None:
    """What a stored transaction spends is asked for when it is shown; where nobody tells, it is left out."""
    await looked_at(caller)
    await happen(caller, ONE)
    assert "fees" not in await caller.call("GET", tx_path(ONE))
    outside.spent = {ONE.spends[0]: TxOutput(amount_sat=100_500, script=OTHER_SCRIPT)}
    assert (await caller.call("GET", tx_path(ONE)))["fees"] == 500
    outside.trouble, outside.hides_inputs = GONE, True
    assert "fees" not in await caller.call("GET", tx_path(ONE))


async def test_foreign_transaction_is_placed_by_its_outputs(caller: Caller, outside: FakeOutside) -> None:
    """A transaction that the ledger does not hold comes from the servers; one of its addresses says where it is."""
    await looked_at(caller)
    outside.known[ONE.txid] = ONE
    await happen(caller, ONE, Unconfirmed(2))
    await caller.store.transact(lambda db: db.execute("DELETE FROM payment_transaction"))
    found = await caller.call("GET", tx_path(ONE))
    assert (found["hash"], found["receive_count"], found["block_height"]) == (hex_of(ONE.txid), 2, -1)
    assert outside.asked == [ONE.txid]


async def test_unknown_transaction_is_404_and_silence_503(caller: Caller, outside: FakeOutside) -> None:
    """What no server knows is 404; where no server answers it is 503: nobody knows."""
    for more in ("", "/confidence"):
        status, text = await refused(caller, "GET", f"{V1}/txs/{UNKNOWN_TX}{more}")
        assert (status, text) == (404, f"no server knows transaction {UNKNOWN_TX}")
    outside.trouble = GONE
    assert await refused(caller, "GET", f"{V1}/txs/{UNKNOWN_TX}") == (503, "no server answers")


async def test_transaction_without_an_address_has_no_place(caller: Caller, outside: FakeOutside) -> None:
    """Where none of its outputs has an address nobody can prove where it is, and the answer says so."""
    nameless = parse_transaction(raw_transaction([Outpoint(txid_of(5), 0)], [(0, b"\x6a\x01\x01")]))
    outside.known[nameless.txid] = nameless
    status, text = await refused(caller, "GET", tx_path(nameless))
    assert (status, "nobody knows where it is" in text) == (503, True)


@pytest.mark.parametrize("txid", ["x", "push", "ab" * 31, "zz" * 32, "%00" * 64, "ab" * 500])
async def test_wrong_hash_is_400(caller: Caller, txid: str) -> None:
    """What is no transaction hash is refused."""
    for more in ("", "/confidence"):
        status, text = await refused(caller, "GET", f"{V1}/txs/{txid}{more}")
        assert (status, text.endswith("want 64 hex digits")) == (400, True)


async def test_raw_bytes_and_confidence_are_shown_on_request(caller: Caller) -> None:
    """``includeHex`` and ``includeConfidence`` add what they say; a confirmed transaction needs no confidence."""
    paid, _, pending = await spent_story(caller)
    found = await caller.call("GET", tx_path(pending, "?includeHex=true&includeConfidence=true"))
    assert (found["hex"], found["confidence"], found["receive_count"]) == (pending.raw.hex(), 0.76, 2)
    found = await caller.call("GET", tx_path(paid, "?includeHex=1&includeConfidence=true"))
    assert (found["hex"], "confidence" in found) == (paid.raw.hex(), False)
    found = await caller.call("GET", f"{ADDR}/full?includeHex=true&includeConfidence=true")
    assert [("hex" in one, "confidence" in one) for one in found["txs"]] == [(True, True), (True, False), (True, False)]


async def test_links_of_a_large_transaction_lead_through_it(caller: Caller) -> None:
    """Twenty inputs and outputs a page; following the links shows each input once."""
    await looked_at(caller)
    wide = payment(1, spends=[Outpoint(txid_of(7), number) for number in range(45)])
    await happen(caller, wide)
    seen: list[int] = []
    path = tx_path(wide)
    while path:
        page = await caller.call("GET", path)
        seen += [one["output_index"] for one in page["inputs"]]
        assert page["vin_sz"] == 45
        path = page.get("next_inputs", "").removeprefix(BASE_URL)
    assert seen == list(range(45))
    assert len((await caller.call("GET", tx_path(wide, "?limit=200")))["inputs"]) == 45
    for query in ("limit=0", "limit=201", "instart=-1", "outstart=x", f"instart={'9' * 30}"):
        assert (await refused(caller, "GET", tx_path(wide, f"?{query}")))[0] == 400


async def test_links_begin_with_the_public_url(open_with: OpenCaller) -> None:
    """Behind a proxy links begin with the operator's URL, and name the chain as the caller did."""
    async with open_with(public_url="https://pay.example/ipn/") as caller:
        await looked_at(caller)
        found = await caller.call("GET", f"/v1/btc/test3/addrs/{ADDRESS.text}")
        assert found["tx_url"] == "https://pay.example/ipn/v1/btc/test3/txs/"


async def test_replaced_transaction_names_its_rival(caller: Caller) -> None:
    """A payment that was lost is shown as a double spend, and with no confirmation."""
    await looked_at(caller)
    await happen(caller, ONE, Replaced(txid_of(9)), gone_at=int(caller.now))
    found = await caller.call("GET", tx_path(ONE))
    assert (found["double_spend"], found["double_of"], found["confirmations"]) == (True, hex_of(txid_of(9)), 0)
    assert (await caller.call("GET", tx_path(ONE, "/confidence")))["confidence"] == 0.0
    assert "txrefs" not in await caller.call("GET", ADDR)
    assert (await caller.call("GET", f"{ADDR}/full"))["txs"] == []


# --- confidence --------------------------------------------------------------------------------------------------


async def test_confidence_of_a_transaction(caller: Caller) -> None:
    """Outside a block: how old it is, how many servers held it, how likely it is; in a block it is certain."""
    paid, _, pending = await spent_story(caller)
    caller.now += 3600.5
    assert await caller.call("GET", tx_path(pending, "/confidence")) == {
        "age_millis": 3_600_500,
        "receive_count": 2,
        "confidence": 0.95,
        "txhash": hex_of(pending.txid),
        "txurl": f"{BASE_URL}{tx_path(pending)}",
    }
    found = await caller.call("GET", tx_path(paid, "/confidence"))
    assert (found["confidence"], found["receive_count"]) == (1.0, -1)


# --- push --------------------------------------------------------------------------------------------------------


async def test_pushed_transaction_is_handed_over_and_shown(caller: Caller, outside: FakeOutside) -> None:
    """A signed transaction goes to the servers as it is, and is 201 under ``tx``, with what it spends."""
    outside.spent = {ONE.spends[0]: TxOutput(amount_sat=100_700, script=OTHER_SCRIPT)}
    answer = await caller.client.post(f"{V1}/txs/push", json={"tx": ONE.raw.hex()}, params={"token": caller.secret})
    assert answer.status_code == 201
    (found,) = answer.json().values()
    assert list(answer.json()) == ["tx"]
    assert (found["hash"], found["fees"], found["block_height"], found["received"]) == (
        hex_of(ONE.txid),
        700,
        -1,
        SEEN,
    )
    assert outside.broadcasts == [ONE.raw]


async def test_large_transaction_may_be_pushed(caller: Caller, outside: FakeOutside) -> None:
    """What the network relays is taken, though other bodies must be smaller; what is larger is refused by its size."""
    large = payment(1, script=bytes(90_000))
    await caller.call("POST", f"{V1}/txs/push", json={"tx": large.raw.hex()})
    assert outside.broadcasts == [large.raw]
    status, _ = await caller.refusal("POST", f"{V1}/txs/push", json={"tx": "00" * 500_000})
    assert status == 413
    status, _ = await caller.refusal("POST", f"{V1}/hooks", json={"event": "x" * 70_000})
    assert status == 413


async def test_transaction_that_was_taken_is_not_refused_for_its_inputs(caller: Caller, outside: FakeOutside) -> None:
    """Once the servers took it, it is 201: that nobody tells what it spends only leaves that out."""
    outside.trouble, outside.hides_inputs = GONE, True
    found = await caller.call("POST", f"{V1}/txs/push", json={"tx": ONE.raw.hex()})
    assert found["tx"]["hash"] == hex_of(ONE.txid)
    assert "fees" not in found["tx"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "tx is missing"),
        ({"tx": ""}, "tx is missing"),
        ({"tx": None}, "tx is missing"),
        ({"tx": "zz"}, "tx is not hex"),
        ({"tx": "abc"}, "tx is not hex"),
        ({"tx": "\u0661"}, "tx is not hex"),
        ({"tx": "00"}, "tx is no transaction"),
        ({"tx": ONE.raw.hex() + "00"}, "tx is no transaction"),
        ({"tx": ONE.raw.hex()[:-2]}, "tx is no transaction"),
        ({"tx": "ff" * 30_000}, "tx is no transaction"),
        ({"tx": [ONE.raw.hex()]}, "tx has the wrong type"),
        ({"tx": 5}, "tx has the wrong type"),
    ],
)
async def test_what_is_no_transaction_is_not_handed_over(
    caller: Caller, outside: FakeOutside, fields: dict[str, Any], reason: str
) -> None:
    """What cannot be read is refused with a reason, and no server sees it."""
    status, text = await refused(caller, "POST", f"{V1}/txs/push", json=fields)
    assert (status, text[: len(reason)]) == (400, reason)
    assert outside.broadcasts == []


async def test_refusal_of_the_servers_is_passed_on_in_our_words(caller: Caller, outside: FakeOutside) -> None:
    """Where every server refuses it is 400, without a server's own words; where none answers, 503."""
    outside.trouble = NO
    status, text = await refused(caller, "POST", f"{V1}/txs/push", json={"tx": ONE.raw.hex()})
    assert (status, "rejected" in text) == (400, False)
    assert text.startswith("the servers refuse the transaction")
    outside.trouble = GONE
    status, text = await refused(caller, "POST", f"{V1}/txs/push", json={"tx": ONE.raw.hex()})
    assert (status, text) == (503, "no server answers")
