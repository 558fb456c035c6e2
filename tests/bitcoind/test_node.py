"""The calls to a node: what is asked, what type an answer has, and which error each kind of trouble is."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import MAX_MONEY_SAT, Outpoint, TxOutput
from lightipn.bitcoind import node as node_module
from lightipn.bitcoind.answers import BlockScan, ChainInfo, FoundOutput, IndexState, NodeInfo, OutputScan, satoshis_of
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.rpc import BATCH
from lightipn.errors import ProtocolError, SourceRefusedError, SourceUnavailableError
from tests.bitcoind.wires import NODE, Refused, Written, chain_info, node_of, node_saying
from tests.builders import OTHER_SCRIPT, SCRIPT, block_hash_of, payment, raw_header, txid_of

HASHES = [block_hash_of(height) for height in range(3 * BATCH)]
TXIDS = [txid_of(number) for number in range(3)]
RAWS = [payment(number).raw for number in range(3)]
FOUND = {"txid": hex_of(TXIDS[0]), "vout": 1, "scriptPubKey": SCRIPT.hex(), "amount": Decimal("0.1"), "height": 5}
Call = Callable[[NodeRpc], Awaitable[Any]]


# --- what is asked, and what comes back --------------------------------------------------------------------------


async def test_chain_info_says_what_is_pruned() -> None:
    """A node that keeps all blocks has no lowest one, a pruned one names it."""
    node, wire = node_of({"getblockchaininfo": chain_info()})
    whole = ChainInfo(
        chain="regtest",
        height=7,
        header_height=8,
        tip_hash=HASHES[7],
        progress=0.5,
        is_in_download=False,
        prune_height=None,
    )
    assert await node.fetch_chain_info() == whole
    wire.table["getblockchaininfo"] = chain_info() | {"pruned": True, "pruneheight": 4, "verificationprogress": 1}
    pruned = await node.fetch_chain_info()
    assert (pruned.prune_height, pruned.progress) == (4, 1.0)


async def test_node_tells_its_version_and_its_indexes() -> None:
    """Version, name and indexes are read; what else is in the answers is not."""
    index = {"synced": True, "best_block_height": 7}
    node, _ = node_of(
        {
            "getnetworkinfo": {"version": 290_000, "subversion": "/Satoshi:29.0.0/", "connections": 3},
            "getindexinfo": {"basic block filter index": index},
        }
    )
    assert await node.fetch_node_info() == NodeInfo(290_000, "/Satoshi:29.0.0/")
    assert await node.fetch_indexes() == {"basic block filter index": IndexState(True, 7)}


async def test_hashes_of_consecutive_blocks_end_at_the_tip() -> None:
    """Beyond the tip there are no hashes, which is no error."""
    node, wire = node_of({"getblockhash": lambda height: hex_of(HASHES[height]) if height <= 7 else Refused(-8)})
    assert await node.fetch_block_hashes(2, 3) == HASHES[2:5]
    assert wire.calls == [("getblockhash", 2), ("getblockhash", 3), ("getblockhash", 4)]
    assert len(wire.requests) == 1
    assert await node.fetch_block_hashes(6, 5) == HASHES[6:8]
    assert await node.fetch_block_hashes(8, 5) == []
    assert await node.fetch_block_hashes(8, 0) == []


async def test_many_calls_are_made_in_pages() -> None:
    """A batch has a bounded size, its ids are unique within it, and the results of all of them stand in order."""
    node, wire = node_of({"getblockhash": lambda height: hex_of(HASHES[height])})
    count = 2 * BATCH + 50
    assert await node.fetch_block_hashes(0, count) == HASHES[:count]
    assert [len(request) for request in wire.requests] == [BATCH, BATCH, 50]
    for request in wire.requests:
        assert len({call["id"] for call in request}) == len(request)


async def test_headers_end_where_one_is_not_known() -> None:
    """A header that a reorg took away ends the list."""
    raws = {hex_of(each): raw_header(each, time=1) for each in HASHES[:3]}
    node, wire = node_of({"getblockheader": lambda block_hash, _verbose: raws[block_hash].hex()})
    assert await node.fetch_headers(HASHES[:3]) == list(raws.values())
    assert wire.calls == [("getblockheader", each, False) for each in raws]
    wire.table["getblockheader"] = lambda block_hash, _: Refused(-5) if block_hash == hex_of(HASHES[1]) else "00"
    assert await node.fetch_headers(HASHES[:3]) == [b"\x00"]


async def test_block_that_is_not_on_the_chain_has_no_height() -> None:
    """A block that was left has -1 confirmations, one that is not known is refused; neither has a height."""
    places = [{"height": 4, "confirmations": 1}, {"height": 5, "confirmations": -1}, Refused(-5)]
    node, wire = node_of(
        {"getblockheader": lambda block_hash, _: places[HASHES.index(bytes.fromhex(block_hash)[::-1])]}
    )
    assert await node.fetch_heights(HASHES[:3]) == [4, None, None]
    assert wire.calls[0] == ("getblockheader", hex_of(HASHES[0]), True)


async def test_block_and_transactions_come_as_bytes() -> None:
    """Blocks and transactions are asked for as hex and leave as bytes; hashes are printed on the way."""
    raw = RAWS[0]
    node, wire = node_of({"getblock": raw.hex(), "getrawtransaction": raw.hex()})
    assert await node.fetch_block(HASHES[0]) == raw
    assert await node.fetch_raw(TXIDS[0]) == raw
    assert await node.fetch_raw_in(TXIDS[0], HASHES[0]) == raw
    assert wire.calls == [
        ("getblock", hex_of(HASHES[0]), 0),
        ("getrawtransaction", hex_of(TXIDS[0])),
        ("getrawtransaction", hex_of(TXIDS[0]), False, hex_of(HASHES[0])),
    ]


async def test_mempool_is_listed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing is asked for without details, and read to its end, whatever is read at once."""
    monkeypatch.setattr(node_module, "TXIDS_AT_ONCE", 2)
    node, wire = node_of({"getrawmempool": [hex_of(txid) for txid in TXIDS]})
    assert await node.fetch_mempool() == set(TXIDS)
    wire.table["getrawmempool"] = []
    assert await node.fetch_mempool() == set()
    assert wire.calls == [("getrawmempool",), ("getrawmempool",)]


async def test_transaction_that_left_the_mempool_is_none_among_many() -> None:
    """Of many transactions those that are gone are None, each in its place."""
    found = {hex_of(TXIDS[0]): RAWS[0].hex(), hex_of(TXIDS[2]): RAWS[2].hex()}
    node, _ = node_of({"getrawtransaction": lambda txid: found.get(txid, Refused(-5))})
    assert await node.fetch_raw_many(TXIDS) == [RAWS[0], None, RAWS[2]]
    assert await node.fetch_raw_many([]) == []


async def test_waiting_in_the_mempool_is_a_question_with_two_answers() -> None:
    """A transaction that the mempool has not got is no error."""
    node, wire = node_of({"getmempoolentry": {"vsize": 141}})
    assert await node.is_in_mempool(TXIDS[0])
    wire.table["getmempoolentry"] = Refused(-5)
    assert not await node.is_in_mempool(TXIDS[0])
    with pytest.raises(SourceUnavailableError):
        await node_saying(SourceUnavailableError("unreachable")).is_in_mempool(TXIDS[0])


async def test_spenders_stand_in_the_order_of_the_outputs() -> None:
    """Each output has its spender of the mempool, or none."""
    answers = [{"txid": "of no interest", "vout": 0, "spendingtxid": hex_of(TXIDS[2])}, {"txid": "", "vout": 1}]
    node, wire = node_of({"gettxspendingprevout": answers})
    assert await node.fetch_spenders([Outpoint(TXIDS[0], 0), Outpoint(TXIDS[1], 1)]) == [TXIDS[2], None]
    wanted = [{"txid": hex_of(TXIDS[0]), "vout": 0}, {"txid": hex_of(TXIDS[1]), "vout": 1}]
    assert wire.calls == [("gettxspendingprevout", wanted)]
    assert await node.fetch_spenders([]) == []
    assert len(wire.requests) == 1
    with pytest.raises(ProtocolError, match="2 spenders of 1 outputs"):
        await node.fetch_spenders([Outpoint(TXIDS[0], 0)])


async def test_unspent_output_is_told_without_the_mempool() -> None:
    """An output that no block spent has an amount and a script; else there is none."""
    node, wire = node_of({"gettxout": {"value": Decimal("0.1"), "scriptPubKey": {"hex": SCRIPT.hex()}}})
    coin = Outpoint(TXIDS[0], 7)
    assert await node.fetch_unspent(coin) == TxOutput(amount_sat=10_000_000, script=SCRIPT)
    assert wire.calls == [("gettxout", hex_of(TXIDS[0]), 7, False)]
    wire.table["gettxout"] = None
    assert await node.fetch_unspent(coin) is None


async def test_scans_ask_for_raw_scripts_and_wait_long() -> None:
    """Both scans name scripts as descriptors, and are waited for as long as the caller says."""
    node, wire = node_of(
        {
            "scantxoutset": {"success": True, "bestblock": hex_of(HASHES[9]), "unspents": [FOUND], "total_amount": 1},
            "scanblocks": {
                "from_height": 0,
                "to_height": 9,
                "relevant_blocks": [hex_of(HASHES[3])],
                "completed": True,
            },
        }
    )
    output = TxOutput(amount_sat=10_000_000, script=SCRIPT)
    found = FoundOutput(outpoint=Outpoint(TXIDS[0], 1), output=output, height=5)
    scripts = [SCRIPT, OTHER_SCRIPT]
    assert await node.scan_outputs(scripts, timeout_s=3600.0) == OutputScan(best_block=HASHES[9], outputs=(found,))
    assert await node.scan_blocks(scripts, up_to=77, timeout_s=7200.0) == BlockScan(to_height=9, blocks=(HASHES[3],))
    wanted = [f"raw({script.hex()})" for script in scripts]
    assert wire.calls == [("scantxoutset", "start", wanted), ("scanblocks", "start", wanted, 0, 77)]
    assert wire.timeouts_s == [3600.0, 7200.0]


async def test_scan_that_somebody_ended_is_no_result() -> None:
    """What was found until then is not all: it is asked for again."""
    ended = {"from_height": 0, "to_height": 9, "relevant_blocks": [], "completed": False}
    node, _ = node_of({"scantxoutset": {"success": False, "bestblock": "", "unspents": []}, "scanblocks": ended})
    for scan in (node.scan_outputs([SCRIPT], timeout_s=1.0), node.scan_blocks([SCRIPT], up_to=9, timeout_s=1.0)):
        with pytest.raises(SourceUnavailableError, match=r"^scan-was-ended$"):
            await scan


@pytest.mark.parametrize(
    "scan", [NodeRpc.scan_outputs, partial(NodeRpc.scan_blocks, up_to=9)], ids=["outputs", "blocks"]
)
async def test_scan_of_somebody_else_is_a_reason_to_wait(scan: Callable[..., Awaitable[object]]) -> None:
    """A node scans for one caller at a time: that it is busy is no refusal; that it has no filters is one."""
    node, wire = node_of(dict.fromkeys(("scantxoutset", "scanblocks"), Refused(-8)))
    with pytest.raises(SourceUnavailableError, match=r"^another-scan-is-under-way$") as caught:
        await scan(node, [SCRIPT], timeout_s=1.0)
    assert caught.value.source == NODE
    wire.table |= dict.fromkeys(("scantxoutset", "scanblocks"), Refused(-1))
    with pytest.raises(SourceRefusedError) as refused:
        await scan(node, [SCRIPT], timeout_s=1.0)
    assert refused.value.code == -1


async def test_scan_tells_how_far_it_is_and_can_be_ended() -> None:
    """The progress is in percent, None where nothing is scanned; to end a scan that is none is no error."""
    states: dict[str, object] = {"status": {"progress": 42}, "abort": True}
    node, wire = node_of({"scantxoutset": lambda action: states[action]})
    assert await node.fetch_scan_progress("scantxoutset") == 42.0
    await node.abort_scan("scantxoutset")
    states |= {"status": None, "abort": False}
    assert await node.fetch_scan_progress("scantxoutset") is None
    await node.abort_scan("scantxoutset")
    assert wire.calls[:2] == [("scantxoutset", "status"), ("scantxoutset", "abort")]


async def test_transaction_is_handed_over_as_hex() -> None:
    """What is broadcast is the bytes as they are."""
    node, wire = node_of({"sendrawtransaction": hex_of(TXIDS[0])})
    await node.broadcast(RAWS[0])
    assert wire.calls == [("sendrawtransaction", RAWS[0].hex())]


@pytest.mark.parametrize(
    ("asked", "target"), [(1, 2), (0, 2), (-5, 2), (2, 2), (6, 6), (1008, 1008), (1009, 1008), (10**9, 1008)]
)
async def test_fee_rate_is_asked_for_a_target_that_the_node_knows(asked: int, target: int) -> None:
    """A rate is in satoshis a virtual byte; targets outside of the node's range are brought into it."""
    node, wire = node_of({"estimatesmartfee": {"feerate": Decimal("0.00012345"), "blocks": 6}})
    assert await node.fetch_fee_rate(asked) == 12.345
    assert wire.calls == [("estimatesmartfee", target)]


async def test_node_without_estimate_gives_none() -> None:
    """A young node has errors instead of a rate."""
    node, _ = node_of({"estimatesmartfee": {"errors": ["Insufficient data"], "blocks": 2}})
    assert await node.fetch_fee_rate(2) is None


# --- amounts -----------------------------------------------------------------------------------------------------


async def unspent_sat(written: bytes) -> int:
    """Return the satoshis of an unspent output whose amount stands so in the answer."""
    node, _ = node_of({"gettxout": Written(b'{"value": %s, "scriptPubKey": {"hex": ""}}' % written)})
    unspent = await node.fetch_unspent(Outpoint(TXIDS[0], 0))
    assert unspent is not None
    return unspent.amount_sat


async def found_sat(written: bytes) -> int:
    """Return the satoshis of an output that a scan found, whose amount stands so in the answer."""
    found = b'{"txid": "%s", "vout": 0, "scriptPubKey": "", "amount": %s, "height": 1}'
    printed = hex_of(TXIDS[0]).encode()
    result = b'{"success": true, "bestblock": "%s", "unspents": [' % printed + found % (printed, written) + b"]}"
    node, _ = node_of({"scantxoutset": Written(result)})
    scan = await node.scan_outputs([SCRIPT], timeout_s=9.0)
    return scan.outputs[0].output.amount_sat


AMOUNTS = pytest.mark.parametrize("amount_sat", [unspent_sat, found_sat], ids=["unspent", "found"])


@given(st.integers(0, MAX_MONEY_SAT) | st.integers(MAX_MONEY_SAT - 10**6, MAX_MONEY_SAT))
@settings(deadline=None, max_examples=200)
@pytest.mark.slow
def test_every_amount_is_exact(satoshis: int) -> None:
    """Whatever a node prints with eight digits is read to the satoshi, up to all coins that there are."""
    whole, rest = divmod(satoshis, 100_000_000)
    assert trio.run(unspent_sat, f"{whole}.{rest:08}".encode()) == satoshis
    assert satoshis_of(Decimal(satoshis) / 100_000_000) == satoshis


@pytest.mark.parametrize(
    ("written", "satoshis"),
    [
        ("0", 0),
        ("0.00000000", 0),
        ("0.1", 10_000_000),
        ("0.00000001", 1),
        ("1e-8", 1),
        ("1E-8", 1),
        ("2.1e7", MAX_MONEY_SAT),
        ("0.29", 29_000_000),  # 28999999.999999996 by way of a float
        ("1.13", 113_000_000),
        ("20999999.97690001", 2_099_999_997_690_001),
        ("20999999.99999999", 2_099_999_999_999_999),
        ("0.100000000000", 10_000_000),
    ],
)
@AMOUNTS
async def test_amounts_never_go_through_a_float(
    amount_sat: Callable[[bytes], Awaitable[int]], written: str, satoshis: int
) -> None:
    """Decimals are read as they are written, also where a float would miss them."""
    assert await amount_sat(written.encode()) == satoshis


@pytest.mark.parametrize("written", ["1e999999", '"NaN"', "-0.1", "21000000.00000001", "0.000000001"])
@AMOUNTS
async def test_amount_that_nobody_can_have_is_a_breach_of_protocol(
    amount_sat: Callable[[bytes], Awaitable[int]], written: str
) -> None:
    """An amount that is negative, more than all coins, no number, or not of whole satoshis is refused, not rounded."""
    with pytest.raises(ProtocolError):
        await amount_sat(written.encode())
