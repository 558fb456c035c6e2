"""The read calls about the chain and about addresses: balances, inputs and outputs, whole transactions."""

from datetime import UTC, datetime
from typing import Any

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Outpoint, parse_transaction
from lightipn.ledger.entries import Dropped
from tests.builders import SCRIPT, payment, raw_transaction, txid_of
from tests.dialects.blockcypher.reading import (
    ADDR,
    GONE,
    MAINNET_ADDRESS,
    ONE,
    SEEN,
    moment_of,
    spent_story,
)
from tests.dialects.blockcypher.rig import (
    V1,
    FakeOutside,
    happen,
    looked_at,
    mine,
    paid_at,
    refused,
    without,
)
from tests.dialects.rig import ADDRESS, BASE_URL, TIP, Caller
from tests.store.rows import regtest_address

# --- the chain ---------------------------------------------------------------------------------------------------


async def test_chain_is_shown_with_its_tip_and_fees(caller: Caller, outside: FakeOutside) -> None:
    """The chain has its name, tip and servers, and the servers' fee rates in satoshis for 1,000 virtual bytes."""
    before, tip = await mine(caller, 2)
    outside.rates = {2: 20.5, 6: 5.0}
    found = await caller.call("GET", V1)
    assert found == {
        "name": "BTC.regtest",
        "height": TIP + 2,
        "hash": hex_of(tip.block_hash),
        "time": datetime.fromtimestamp(tip.time, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "previous_hash": hex_of(before.block_hash),
        "peer_count": 3,
        "high_fee_per_kb": 20_500,
        "medium_fee_per_kb": 5_000,
    }
    assert moment_of(found["time"]).timestamp() == tip.time
    assert await caller.call("GET", f"{V1}/") == found
    outside.trouble = GONE
    assert await caller.call("GET", V1) == without(found, "high_fee_per_kb", "medium_fee_per_kb")


async def test_chain_without_a_block_is_503(caller: Caller) -> None:
    """Before the first header there is nothing to show."""
    assert await refused(caller, "GET", V1) == (503, "no block is known yet; ask again in a while")


# --- balances ----------------------------------------------------------------------------------------------------


async def test_balance_of_an_address(caller: Caller) -> None:
    """Confirmed and unconfirmed coins and transactions are told apart, and summed up."""
    await looked_at(caller)
    await paid_at(caller, 1)
    await happen(caller, payment(2, amount_sat=30), sent_sat=50)
    await happen(caller, payment(3), Dropped(), gone_at=int(caller.now))
    assert await caller.call("GET", f"{ADDR}/balance") == {
        "address": ADDRESS.text,
        "total_received": 100_000,
        "total_sent": 0,
        "balance": 100_000,
        "unconfirmed_balance": -20,
        "final_balance": 99_980,
        "n_tx": 1,
        "unconfirmed_n_tx": 1,
        "final_n_tx": 2,
    }


async def test_batch_is_answered_in_order(caller: Caller) -> None:
    """Several joined by semicolons are answered as a list in their order, each once; one alone is no list."""
    other = regtest_address(1)
    await looked_at(caller)
    await looked_at(caller, other)
    for call in ("", "/balance", "/full"):
        found = await caller.call("GET", f"{V1}/addrs/{other.text};{ADDRESS.text};{other.text}{call}")
        assert [one["address"] for one in found] == [other.text, ADDRESS.text]
        assert [one["address"] for one in await caller.call("GET", f"{V1}/addrs/{other.text};{call}")] == [other.text]
    await happen(caller, ONE)
    await happen(caller, payment(2))
    for call, name in (("", "hash"), ("/confidence", "txhash")):
        joined = f"{hex_of(ONE.txid)};{hex_of(payment(2).txid)}"
        found = await caller.call("GET", f"{V1}/txs/{joined}{call}")
        assert [one[name] for one in found] == [hex_of(ONE.txid), hex_of(payment(2).txid)]


async def test_more_than_a_hundred_at_once_are_refused(caller: Caller) -> None:
    """A hundred are answered, one more is refused."""
    addresses = [regtest_address(number) for number in range(100)]
    for address in addresses:
        await looked_at(caller, address)
    joined = ";".join(address.text for address in addresses)
    assert len(await caller.call("GET", f"{V1}/addrs/{joined}/balance")) == 100
    for path in ("addrs", "txs"):
        status, text = await refused(caller, "GET", f"{V1}/{path}/{joined};{ADDRESS.text}")
        assert (status, text) == (400, "101 are asked for at once, want at most 100")


async def test_balance_says_from_which_block_on_it_is_known(caller: Caller) -> None:
    """Where one's own node could not look further back, every view of an address says so; a wallet's, the latest."""
    await looked_at(caller)
    await caller.store.transact(lambda db: db.execute("UPDATE script SET history_from = 700, unproved_sat = 5"))
    for call in ("", "/balance", "/full"):
        found = await caller.call("GET", f"{ADDR}{call}")
        assert (found["history_from"], found["unproved_balance"]) == (700, 5)
    await caller.call("POST", f"{V1}/wallets", json={"name": "shop", "addresses": [ADDRESS.text]})
    found = await caller.call("GET", f"{V1}/addrs/shop/balance")
    assert (found["history_from"], found["unproved_balance"]) == (700, 5)


async def test_balance_of_a_wallet(caller: Caller) -> None:
    """A wallet's name stands in place of an address: its coins are the sum, its transactions are counted once."""
    addresses = [regtest_address(1), regtest_address(2)]
    await caller.call("POST", f"{V1}/wallets", json={"name": "shop", "addresses": [one.text for one in addresses]})
    raw = raw_transaction([Outpoint(txid_of(5), 0)], [(10, addresses[0].script), (7, addresses[1].script)])
    for address in addresses:
        await happen(caller, parse_transaction(raw), address=address)
    found = await caller.call("GET", f"{V1}/addrs/shop/balance")
    assert (found["unconfirmed_balance"], found["unconfirmed_n_tx"], found["final_n_tx"]) == (17, 1, 1)
    assert found["wallet"]["name"] == "shop"
    answer = await caller.client.get(f"{V1}/addrs/shop/balance", headers=await caller.foreign_key())
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


@pytest.mark.parametrize("address", ["x", "%00", "%ff", MAINNET_ADDRESS, ADDRESS.text[:-1], "1" * 500])
async def test_wrong_address_is_400(caller: Caller, address: str) -> None:
    """What is no address of this network is refused by name, in every call."""
    for call in ("", "/balance", "/full"):
        status, text = await refused(caller, "GET", f"{V1}/addrs/{address}{call}")
        assert status == 400
        assert text.startswith("address: ")


async def test_address_that_nobody_watches_is_looked_up(caller: Caller, autojump_clock: Any) -> None:
    """An unknown address leaves a lookup, and 503 after ten seconds; once it was looked at it is answered."""
    status, text = await refused(caller, "GET", f"{ADDR}/balance")
    assert (status, text) == (503, "the address is being looked up; ask again in a while")
    await looked_at(caller)
    assert (await caller.call("GET", f"{ADDR}/balance"))["final_n_tx"] == 0


# --- addresses ---------------------------------------------------------------------------------------------------


async def test_address_with_its_inputs_and_outputs(caller: Caller) -> None:
    """Inputs and outputs come newest first, with balances and who spent what; unconfirmed ones stand apart."""
    paid, spending, pending = await spent_story(caller)
    found = await caller.call("GET", ADDR)
    assert found["tx_url"] == f"{BASE_URL}{V1}/txs/"
    assert [
        (ref["tx_hash"], ref["tx_input_n"], ref["tx_output_n"], ref["value"], ref["ref_balance"], ref.get("spent"))
        for ref in found["txrefs"]
    ] == [
        (hex_of(spending.txid), -1, 0, 40, 40, False),
        (hex_of(spending.txid), 1, -1, 100_000, 40, None),
        (hex_of(paid.txid), -1, 0, 100_000, 100_000, True),
    ]
    assert found["txrefs"][2]["spent_by"] == hex_of(spending.txid)
    assert [(ref["block_height"], ref["confirmations"]) for ref in found["txrefs"]] == [
        (TIP + 3, 1),
        (TIP + 3, 1),
        (TIP + 1, 3),
    ]
    assert found["unconfirmed_txrefs"] == [
        {
            "tx_hash": hex_of(pending.txid),
            "block_height": -1,
            "tx_input_n": -1,
            "tx_output_n": 0,
            "value": 7,
            "confirmations": 0,
            "double_spend": False,
            "spent": False,
            "received": SEEN,
        }
    ]
    assert (found["balance"], found["unconfirmed_balance"], found["final_n_tx"]) == (40, 7, 3)
    assert "hasMore" not in found


async def test_times_of_an_address_are_those_of_its_blocks(caller: Caller) -> None:
    """``confirmed`` is the block's own time, with its zone, as clients parse it."""
    await spent_story(caller)
    refs = (await caller.call("GET", ADDR))["txrefs"]
    assert moment_of(refs[0]["confirmed"]) > moment_of(refs[2]["confirmed"])
    assert (moment_of(refs[0]["confirmed"]) - moment_of(refs[2]["confirmed"])).total_seconds() == 1200


@pytest.mark.parametrize(
    ("query", "values", "pending"),
    [
        ("limit=1", [40], 1),
        ("limit=2000", [40, 100_000, 100_000], 1),
        ("unspentOnly=true", [40], 1),
        (f"before={TIP + 3}", [100_000], 1),
        (f"after={TIP + 1}", [40, 100_000], 0),
        (f"after={TIP + 1}&before={TIP + 3}", [], 0),
        ("confirmations=2", [100_000], 0),
        ("confirmations=4", [], 0),
        ("unspentOnly=false", [40, 100_000, 100_000], 1),
    ],
)
async def test_address_is_narrowed_down(caller: Caller, query: str, values: list[int], pending: int) -> None:
    """Limit, heights, depth and unspent outputs choose; the sums are of the whole address all the same."""
    await spent_story(caller)
    found = await caller.call("GET", f"{ADDR}?{query}")
    assert [ref["value"] for ref in found.get("txrefs", [])] == values
    assert len(found.get("unconfirmed_txrefs", [])) == pending
    assert (found["balance"], found["final_n_tx"]) == (40, 3)
    assert found.get("hasMore", False) is (query == "limit=1")


async def test_pages_of_an_address_meet(caller: Caller) -> None:
    """``hasMore`` and ``before`` lead through all of an address' outputs, each once."""
    await looked_at(caller)
    for number in range(5):
        await paid_at(caller, number)
    seen: list[str] = []
    before = ""
    while True:
        page = await caller.call("GET", f"{ADDR}?limit=2{before}")
        seen += [ref["tx_hash"] for ref in page["txrefs"]]
        if not page.get("hasMore"):
            break
        before = f"&before={page['txrefs'][-1]['block_height']}"
    assert seen == [hex_of(payment(number).txid) for number in (4, 3, 2, 1, 0)]


async def test_script_and_confidence_are_shown_on_request(caller: Caller) -> None:
    """The script and the confidence of unconfirmed ones are there for those who ask."""
    await spent_story(caller)
    caller.now += 3600
    found = await caller.call("GET", f"{ADDR}?includeScript=true&includeConfidence=true")
    assert {ref["script"] for ref in found["txrefs"] + found["unconfirmed_txrefs"]} == {SCRIPT.hex()}
    assert [ref["confidence"] for ref in found["unconfirmed_txrefs"]] == [0.95]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=2001", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=1.5", "limit"),
        (f"limit={'9' * 5000}", "limit"),
        ("before=x", "before"),
        ("before=-1", "before"),
        ("after=1e9", "after"),
        (f"after={'9' * 30}", "after"),
        ("confirmations=-1", "confirmations"),
    ],
)
async def test_wrong_number_is_named(caller: Caller, query: str, name: str) -> None:
    """A number that is none, or out of its range, is refused by name."""
    await looked_at(caller)
    for call in ("", "/full"):
        status, text = await refused(caller, "GET", f"{ADDR}{call}?{query}")
        assert (status, text.split()[0]) == (400, name)


# --- whole transactions ------------------------------------------------------------------------------------------


async def test_address_with_its_whole_transactions(caller: Caller) -> None:
    """``/full`` shows transactions, newest first, with their places; sums as ever."""
    paid, spending, pending = await spent_story(caller)
    found = await caller.call("GET", f"{ADDR}/full")
    assert [(one["hash"], one["block_height"], one["confirmations"]) for one in found["txs"]] == [
        (hex_of(pending.txid), -1, 0),
        (hex_of(spending.txid), TIP + 3, 1),
        (hex_of(paid.txid), TIP + 1, 3),
    ]
    assert all(moment_of(one["received"]) for one in found["txs"])
    assert [("confirmed" in one) for one in found["txs"]] == [False, True, True]
    assert all(moment_of(one["received"]) <= moment_of(one.get("confirmed", one["received"])) for one in found["txs"])
    assert found["final_n_tx"] == 3
    assert "hasMore" not in found
    assert not any("confidence" in one or "hex" in one for one in found["txs"])


@pytest.mark.parametrize(
    ("query", "count", "has_more"),
    [
        ("limit=2", 2, True),
        ("limit=50", 3, False),
        (f"before={TIP + 3}", 2, False),
        (f"after={TIP + 1}", 1, False),
        ("confirmations=1", 2, False),
    ],
)
async def test_whole_transactions_are_narrowed_down(caller: Caller, query: str, count: int, has_more: bool) -> None:
    """The same choices hold for whole transactions."""
    await spent_story(caller)
    found = await caller.call("GET", f"{ADDR}/full?{query}")
    assert (len(found["txs"]), found.get("hasMore", False)) == (count, has_more)


async def test_address_without_transactions_has_an_empty_list(caller: Caller) -> None:
    """Clients walk through ``txs`` without a look whether it is there."""
    await looked_at(caller)
    assert (await caller.call("GET", f"{ADDR}/full"))["txs"] == []
