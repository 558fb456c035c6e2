"""The simulator as a client of other hands sees it."""

import asyncio
from typing import Any

import pytest
import trio

from lightipn.bitcoin.hashes import Txid, hash_from_hex, hex_of, scripthash_of, sha256, sha256d
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint, TxOutput, parse_transaction
from lightipn.chain.history import HistoryEntry, status_of
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer

pytest.importorskip("electrum_client", reason="electrum-client is not for this version of Python")

from tests.simulator.independent_client import client_view, differences_of

SCRIPT = forge.made_up_script("shop")
SCRIPTHASH = scripthash_of(SCRIPT)
PAYMENT = forge.payment_of([Outpoint(Txid(sha256(b"elsewhere")), 0)], [TxOutput(amount_sat=900, script=SCRIPT)])


@pytest.fixture
async def view(server: SimulatedServer, chain: SimulatedChain) -> dict[str, Any]:
    """What the client got, while its payment was broadcast and a block was mined."""

    async def mine() -> None:
        chain.mine()
        await server.publish()

    def look() -> dict[str, Any]:
        seen = client_view(
            f"tcp://127.0.0.1:{server.port}",
            hex_of(SCRIPTHASH),
            txid_hex=hex_of(chain.block_txids(3)[2]),
            height=3,
            raw_hex=PAYMENT.raw.hex(),
            mine=lambda: trio.from_thread.run(mine),
        )
        return asyncio.run(seen)

    with trio.fail_after(30):
        return await trio.to_thread.run_sync(look)


def history_of(entries: list[dict[str, Any]]) -> list[HistoryEntry]:
    """Read a history as the client shows it."""
    return [
        HistoryEntry(Txid(hash_from_hex(entry["tx_hash"])), entry["height"] if entry["height"] > 0 else None)
        for entry in entries
    ]


async def test_status_is_that_of_the_history(view: dict[str, Any]) -> None:
    """The statuses of the subscription and of its notice are those of the histories told beside them."""
    before, after = status_of(history_of(view["history"])), status_of(history_of(view["history_after"]))
    assert before is not None
    assert after is not None
    assert view["status"] == before.hex()
    assert view["status_notice"] == [hex_of(SCRIPTHASH), after.hex()]
    assert len(view["history_after"]) == len(view["history"]) + 1


async def test_amounts_agree(view: dict[str, Any]) -> None:
    """Balance, unspent outputs and the raw transaction agree about what was paid."""
    unspent = {coin["tx_hash"]: coin for coin in view["unspent"]}
    assert view["balance"] == {"confirmed": 100_000, "unconfirmed": 7_000}
    assert sum(coin["value"] for coin in unspent.values() if coin["height"]) == view["balance"]["confirmed"]
    assert sum(coin["value"] for coin in unspent.values() if not coin["height"]) == view["balance"]["unconfirmed"]
    transaction = parse_transaction(bytes.fromhex(view["transaction"]))
    coin = unspent[hex_of(transaction.txid)]
    assert transaction.received_by(SCRIPT) == {coin["tx_pos"]: coin["value"]}
    assert view["balance_after"] == {"confirmed": 100_000, "unconfirmed": 7_900}


async def test_proofs_agree(view: dict[str, Any]) -> None:
    """The branch leads from the transaction to the header's root, by txid and by position alike."""
    txid = parse_transaction(bytes.fromhex(view["transaction"])).txid
    merkle = view["merkle"]
    root = merkle_root_of(txid, [hash_from_hex(one) for one in merkle["merkle"]], merkle["pos"])
    assert parse_header(bytes.fromhex(view["header"])).merkle_root == root
    assert view["txid_at"] == hex_of(txid)
    assert view["txid_proof"] == {"tx_hash": hex_of(txid), "merkle": merkle["merkle"]}


async def test_headers_agree(view: dict[str, Any]) -> None:
    """Single headers, runs, proofs and notices of headers belong to one chain that starts at regtest's genesis."""
    run = bytes.fromhex(view["headers"]["hex"])
    first = [parse_header(run[start : start + 80]) for start in range(0, len(run), 80)]
    assert (len(first), first[0].block_hash) == (view["headers"]["count"], REGTEST.genesis_hash)
    assert view["features"]["genesis_hash"] == hex_of(REGTEST.genesis_hash)
    assert parse_header(bytes.fromhex(view["header"])).previous_hash == first[2].block_hash
    proof = view["header_proof"]
    assert proof["header"] == view["header"]
    leaf = Txid(sha256d(bytes.fromhex(proof["header"])))
    assert hex_of(merkle_root_of(leaf, [hash_from_hex(one) for one in proof["branch"]], 3)) == proof["root"]
    tip, (new_tip,) = view["tip"], view["tip_notice"]
    assert new_tip["height"] == tip["height"] + 1
    new_header = parse_header(bytes.fromhex(new_tip["hex"]))
    assert new_header.previous_hash == parse_header(bytes.fromhex(tip["hex"])).block_hash


async def test_broadcast_is_in_the_mempool(view: dict[str, Any]) -> None:
    """A broadcast transaction is answered with its txid and listed in the mempool with a fee."""
    assert view["broadcast"] == hex_of(PAYMENT.txid)
    assert {entry["tx_hash"]: entry["height"] for entry in view["mempool"]}[hex_of(PAYMENT.txid)] == 0
    assert all(isinstance(entry["fee"], int) for entry in view["mempool"])
    assert sum(entry["vsize"] for entry in view["fee_histogram"]) > 0
    assert view["estimate_fee"] > 0


async def test_small_talk(view: dict[str, Any]) -> None:
    """The client, which speaks protocol 1.4, gets that version and the rest of what is customary."""
    assert (view["protocol"], view["ping"], view["peers"]) == ("1.4", None, [])
    assert view["features"]["server_version"] == "Simulator 1.0"


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ({"a": 1, "b": [{"c": "x"}]}, {"a": 2, "b": []}, []),
        ({"a": 1}, {"a": "1"}, ["view.a: int is not str"]),
        ({"a": 1}, {"b": 1}, ["view.a: only on one side", "view.b: only on one side"]),
        ([{"a": 1}, {"a": None}], [{"a": 1}], ["view[].a: NoneType is not int"]),
        ([{"a": 1}, {"a": None}], [{"a": None}, {"a": 3}, {"a": 4}], []),
        ([1, 2], [3], []),
    ],
)
def test_shapes_are_compared(left: Any, right: Any, expected: list[str]) -> None:
    """Views are compared by keys and types, at every depth, and not by values."""
    assert differences_of(left, right) == expected
