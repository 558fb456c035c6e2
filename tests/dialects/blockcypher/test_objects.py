"""Transactions and blocks as BlockCypher's clients read them, made of what a light client knows."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import MAINNET, NETWORKS, REGTEST, Network
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput, parse_transaction
from lightipn.dialects.blockcypher import objects
from lightipn.dialects.blockcypher.objects import Page, PlaceJson, script_type_of
from lightipn.ledger.transactions import KnownTransaction
from tests.builders import OTHER_SCRIPT, SCRIPT, SEEN_AT, coinbase, genesis_of, payment, raw_transaction, txid_of

URL = "http://ipn.example/v1/btc/regtest/txs/x"


def contents(
    transaction: Transaction, *spent: TxOutput | None, network: Network = REGTEST, page: Page | None = None
) -> dict[str, Any]:
    """Return what a transaction's bytes say, as JSON that was read again; inputs that are not given are unknown."""
    known = KnownTransaction(transaction=transaction, spent=spent or (None,) * len(transaction.spends))
    place = objects.place_fields_of(transaction.txid, PlaceJson(received_at=SEEN_AT, confirmations=0))
    made = objects.transaction_json_of(place, objects.contents_fields_of(known, network, page or Page()))
    return dict(json.loads(msgspec.json.encode(made)))


# --- names and times ---------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
def test_times_are_iso_8601_in_utc(unix_s: int) -> None:
    """A time reads back with any ISO 8601 reader, with its zone, to the second."""
    text = objects.time_text(unix_s)
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == datetime.fromtimestamp(unix_s, tz=UTC)


def test_times_look_like_the_originals() -> None:
    """The shape is the original's."""
    assert objects.time_text(1_400_000_000) == "2014-05-13T16:53:20Z"


@pytest.mark.parametrize(
    ("network", "names", "chain"),
    [
        ("mainnet", ("main",), "BTC.main"),
        ("testnet4", ("testnet4", "test3"), "BTC.testnet4"),
        ("signet", ("signet", "test3"), "BTC.signet"),
        ("regtest", ("regtest", "test3"), "BTC.regtest"),
    ],
)
def test_networks_have_the_names_that_clients_know(network: str, names: tuple[str, ...], chain: str) -> None:
    """Mainnet is ``main`` alone; the others go by their own name, and by ``test3``, which clients know."""
    assert tuple(objects.names_of(NETWORKS[network])) == names
    assert objects.chain_name_of(NETWORKS[network]) == chain


# --- scripts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("", "empty"),
        ("76a914" + "11" * 20 + "88ac", "pay-to-pubkey-hash"),
        ("a914" + "11" * 20 + "87", "pay-to-script-hash"),
        ("0014" + "11" * 20, "pay-to-witness-pubkey-hash"),
        ("0020" + "11" * 32, "pay-to-witness-script-hash"),
        ("5120" + "11" * 32, "pay-to-taproot"),
        ("21" + "02" * 33 + "ac", "pay-to-pubkey"),
        ("41" + "04" * 65 + "ac", "pay-to-pubkey"),
        ("6a", "null-data"),
        ("6a04deadbeef", "null-data"),
        ("51" + "21" + "02" * 33 + "51ae", "pay-to-multi-pubkey-hash"),
        ("51", "unknown"),
        ("00", "unknown"),
        ("ae", "unknown"),
        ("5114" + "11" * 20, "unknown"),
        ("76a914" + "11" * 20 + "88ad", "unknown"),
        ("a914" + "11" * 20 + "88", "unknown"),
        ("21" + "02" * 33 + "ad", "unknown"),
        ("ff" * 600, "unknown"),
    ],
)
def test_scripts_are_called_by_their_kind(script: str, wanted: str) -> None:
    """The kind of a script is the original's word, and ``unknown`` for what only looks like one."""
    assert script_type_of(bytes.fromhex(script)) == wanted


@given(st.binary(max_size=80))
def test_any_script_has_a_kind(script: bytes) -> None:
    """No script makes the writer fail."""
    assert script_type_of(script)
    transaction = parse_transaction(raw_transaction([Outpoint(txid_of(1), 0)], [(0, script), (5, SCRIPT)]))
    assert contents(transaction)["outputs"][0]["script"] == script.hex()


@pytest.mark.parametrize(
    ("script", "wanted"),
    [("6a", ""), ("6a04deadbeef", "deadbeef"), ("6a4c50" + "aa" * 80, "aa" * 80), ("6a0401", "0401"), ("6a51", "51")],
)
def test_data_of_an_output_is_shown(script: str, wanted: str) -> None:
    """An OP_RETURN output shows what it carries, and has no address."""
    raw = raw_transaction([Outpoint(txid_of(1), 0)], [(0, bytes.fromhex(script)), (5, SCRIPT)])
    (output, other) = contents(parse_transaction(raw))["outputs"]
    assert output == {"value": 0, "script": script, "addresses": None, "script_type": "null-data", "data_hex": wanted}
    assert "data_hex" not in other


# --- transactions ------------------------------------------------------------------------------------------------


def test_transaction_is_shown_with_all_that_is_known() -> None:
    """Inputs with what they spend, outputs, sizes and fee: field by field as the original has it."""
    spends = [Outpoint(txid_of(7), 3)]
    raw = raw_transaction(spends, [(70_000, SCRIPT), (20_000, OTHER_SCRIPT)], sequence=0xFFFFFFFD, witness=[b"sig"])
    transaction = parse_transaction(raw)
    found = contents(transaction, TxOutput(amount_sat=100_000, script=b"\x51\x20" + b"\x33" * 32))
    sender = address_of(b"\x51\x20" + b"\x33" * 32, REGTEST)
    assert found == {
        "hash": hex_of(transaction.txid),
        "block_height": -1,
        "block_index": -1,
        "received": "2023-11-14T22:13:20Z",
        "confirmations": 0,
        "double_spend": False,
        "addresses": [sender, address_of(SCRIPT, REGTEST), address_of(OTHER_SCRIPT, REGTEST)],
        "total": 90_000,
        "fees": 10_000,
        "size": len(raw),
        "vsize": (3 * (len(raw) - 7) + len(raw) + 3) // 4,
        "ver": 2,
        "opt_in_rbf": True,
        "vin_sz": 1,
        "vout_sz": 2,
        "inputs": [
            {
                "prev_hash": hex_of(txid_of(7)),
                "output_index": 3,
                "sequence": 0xFFFFFFFD,
                "output_value": 100_000,
                "addresses": [sender],
                "script_type": "pay-to-taproot",
            }
        ],
        "outputs": [
            {
                "value": 70_000,
                "script": SCRIPT.hex(),
                "addresses": [address_of(SCRIPT, REGTEST)],
                "script_type": "pay-to-witness-pubkey-hash",
            },
            {
                "value": 20_000,
                "script": OTHER_SCRIPT.hex(),
                "addresses": [address_of(OTHER_SCRIPT, REGTEST)],
                "script_type": "pay-to-witness-pubkey-hash",
            },
        ],
    }


def test_what_is_not_known_is_left_out() -> None:
    """Without what its inputs spend there is no fee, no value and no sender; nothing is guessed."""
    raw = raw_transaction([Outpoint(txid_of(7), 0)], [(5, SCRIPT)], script_sig=b"\x01\x02", locktime=500)
    found = contents(parse_transaction(raw))
    assert found["inputs"] == [
        {"prev_hash": hex_of(txid_of(7)), "output_index": 0, "sequence": 0xFFFFFFFF, "script": "0102"}
    ]
    assert "fees" not in found
    assert (found["lock_time"], found["opt_in_rbf"], found["size"], found["vsize"]) == (500, False, len(raw), len(raw))
    for unknowable in ("preference", "relayed_by", "confirmed", "confidence", "hex", "next_inputs", "next_outputs"):
        assert unknowable not in found


def test_one_unknown_input_leaves_the_fee_unknown() -> None:
    """What is known of some inputs is shown, and no fee is made of half of them."""
    transaction = payment(1, spends=[Outpoint(txid_of(7), 0), Outpoint(txid_of(8), 0)])
    found = contents(transaction, None, TxOutput(amount_sat=9_000_000, script=OTHER_SCRIPT))
    assert "fees" not in found
    assert [one.get("output_value") for one in found["inputs"]] == [None, 9_000_000]


def test_coinbase_spends_nothing() -> None:
    """A coinbase's input has no output before it, and the transaction no fee."""
    found = contents(coinbase(7))
    assert found["inputs"] == [
        {"output_index": -1, "sequence": 0xFFFFFFFF, "script": "07000000", "script_type": "empty"}
    ]
    assert "fees" not in found


def test_addresses_are_those_of_the_network() -> None:
    """Addresses are spelled as the service's network spells them, each once."""
    transaction = payment(1, script=SCRIPT)
    found = contents(transaction, TxOutput(amount_sat=1, script=SCRIPT), network=MAINNET)
    assert found["addresses"] == [address_of(SCRIPT, MAINNET)]
    assert found["addresses"][0].startswith("bc1q")


def wide() -> Transaction:
    """Return a transaction with 45 inputs and 25 outputs."""
    spends = [Outpoint(txid_of(7), number) for number in range(45)]
    return parse_transaction(raw_transaction(spends, [(number, SCRIPT) for number in range(25)]))


def shown_parts(found: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the numbers of the inputs and outputs that are shown."""
    return [one["output_index"] for one in found["inputs"]], [one["value"] for one in found["outputs"]]


def test_twenty_parts_are_shown_with_links_to_the_next() -> None:
    """Twenty inputs and outputs are a page; links lead to the next ones, and end with the last; sums are of all."""
    first = contents(wide(), page=Page(url=URL))
    assert shown_parts(first) == (list(range(20)), list(range(20)))
    assert (first["vin_sz"], first["vout_sz"], first["total"]) == (45, 25, sum(range(25)))
    assert first["next_inputs"] == f"{URL}?instart=20&outstart=0&limit=20"
    assert first["next_outputs"] == f"{URL}?instart=0&outstart=20&limit=20"
    last = contents(wide(), page=Page(url=URL, first_input=40, first_output=20))
    assert shown_parts(last) == (list(range(40, 45)), list(range(20, 25)))
    assert not {"next_inputs", "next_outputs"} & last.keys()
    beyond = contents(wide(), page=Page(url=URL, first_input=1000, first_output=1000, limit=200))
    assert shown_parts(beyond) == ([], [])


def test_without_a_url_there_are_no_links() -> None:
    """Where nobody knows under which name the API is called, there is no link."""
    assert not {"next_inputs", "next_outputs"} & contents(wide()).keys()


def test_raw_bytes_are_shown_on_request() -> None:
    """The transaction itself is there, in hex, for those who ask."""
    transaction = payment(1)
    assert contents(transaction, page=Page(shows_hex=True))["hex"] == transaction.raw.hex()


def test_place_is_shown_as_far_as_there_is_one() -> None:
    """Where a transaction is: in a block, in the mempools of so many servers, or replaced by another."""
    txid = Txid(txid_of(1))
    assert objects.place_fields_of(
        txid,
        PlaceJson(
            received_at=SEEN_AT,
            confirmations=3,
            block_hash="aa",
            block_height=5,
            block_index=2,
            confirmed_at=SEEN_AT + 60,
            confidence=1.0,
        ),
    ) == {
        "hash": hex_of(txid),
        "block_height": 5,
        "block_index": 2,
        "received": "2023-11-14T22:13:20Z",
        "confirmations": 3,
        "double_spend": False,
        "block_hash": "aa",
        "confirmed": "2023-11-14T22:14:20Z",
        "confidence": 1.0,
    }
    pending = objects.place_fields_of(txid, PlaceJson(received_at=SEEN_AT, confirmations=0, seen_by=2))
    assert pending["receive_count"] == 2
    lost = objects.place_fields_of(txid, PlaceJson(received_at=SEEN_AT, confirmations=0, replaced_by="bb"))
    assert (lost["double_spend"], lost["double_of"], lost["double_spend_tx"]) == (True, "bb", "bb")


# --- blocks ------------------------------------------------------------------------------------------------------


def test_block_is_what_its_header_says() -> None:
    """Of a block the header is shown, and nothing that a light client cannot know: no count, size or fees."""
    found = json.loads(msgspec.json.encode(objects.block_json_of(genesis_of(MAINNET), 0, MAINNET, event="new-block")))
    assert found == {
        "hash": "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f",
        "height": 0,
        "chain": "BTC.main",
        "ver": 1,
        "time": "2009-01-03T18:15:05Z",
        "bits": 486604799,
        "nonce": 2083236893,
        "prev_block": "00" * 32,
        "mrkl_root": "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b",
        "event": "new-block",
    }
    plain = objects.block_json_of(parse_header(MAINNET.genesis_header), 0, MAINNET)
    assert b"event" not in msgspec.json.encode(plain)
