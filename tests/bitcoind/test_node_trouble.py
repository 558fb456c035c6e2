"""Trouble with a node: refusals, answers of another shape, and batches that are not whole."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Outpoint
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.rpc import BATCH
from lightipn.errors import LightIPNError, ProtocolError, SourceRefusedError, SourceUnavailableError
from tests.bitcoind.wires import NODE, NODES_WORDS, Refused, Written, chain_info, node_of, node_saying
from tests.builders import SCRIPT, block_hash_of, payment, txid_of

HASHES = [block_hash_of(height) for height in range(8)]
TXIDS = [txid_of(number) for number in range(3)]
RAWS = [payment(number).raw for number in range(3)]
COIN = Outpoint(TXIDS[0], 0)
Call = Callable[[NodeRpc], Awaitable[Any]]


async def scan_outputs(node: NodeRpc) -> object:
    """Have a node scan its outputs."""
    return await node.scan_outputs([SCRIPT], timeout_s=9.0)


# --- refusals ----------------------------------------------------------------------------------------------------

# Every way to call: alone, and in a batch.
SINGLE: list[Any] = [
    pytest.param("getblockchaininfo", NodeRpc.fetch_chain_info, id="getblockchaininfo"),
    pytest.param("getnetworkinfo", NodeRpc.fetch_node_info, id="getnetworkinfo"),
    pytest.param("getindexinfo", NodeRpc.fetch_indexes, id="getindexinfo"),
    pytest.param("getblock", lambda node: node.fetch_block(HASHES[0]), id="getblock"),
    pytest.param("getrawmempool", NodeRpc.fetch_mempool, id="getrawmempool"),
    pytest.param("getrawtransaction", lambda node: node.fetch_raw(TXIDS[0]), id="getrawtransaction"),
    pytest.param("getrawtransaction", lambda node: node.fetch_raw_in(TXIDS[0], HASHES[0]), id="in a block"),
    pytest.param("gettxspendingprevout", lambda node: node.fetch_spenders([COIN]), id="gettxspendingprevout"),
    pytest.param("gettxout", lambda node: node.fetch_unspent(COIN), id="gettxout"),
    pytest.param("scantxoutset", lambda node: node.fetch_scan_progress("scantxoutset"), id="progress"),
    pytest.param("scantxoutset", lambda node: node.abort_scan("scantxoutset"), id="abort"),
    pytest.param("scantxoutset", lambda node: node.scan_outputs([SCRIPT], timeout_s=9.0), id="scantxoutset"),
    pytest.param("scanblocks", lambda node: node.scan_blocks([SCRIPT], up_to=9, timeout_s=9.0), id="scanblocks"),
    pytest.param("sendrawtransaction", lambda node: node.broadcast(RAWS[0]), id="sendrawtransaction"),
    pytest.param("estimatesmartfee", lambda node: node.fetch_fee_rate(2), id="estimatesmartfee"),
]
BATCHED: list[Any] = [
    pytest.param("getblockhash", lambda node: node.fetch_block_hashes(0, 2), id="getblockhash"),
    pytest.param("getblockheader", lambda node: node.fetch_headers(HASHES[:2]), id="getblockheader"),
    pytest.param("getblockheader", lambda node: node.fetch_heights(HASHES[:2]), id="getblockheader, verbose"),
    pytest.param("getrawtransaction", lambda node: node.fetch_raw_many(TXIDS[:2]), id="getrawtransaction, many"),
]
IN_MEMPOOL: Any = pytest.param("getmempoolentry", lambda node: node.is_in_mempool(TXIDS[0]), id="getmempoolentry")


@pytest.mark.parametrize("code", [-5, -1, -3, -20, -22, -25, -26, -27, -32601, -32600, 0, 1 << 40])
@pytest.mark.parametrize(("method", "call"), SINGLE)
async def test_refused_call_keeps_the_code_and_drops_the_words(method: str, call: Call, code: int) -> None:
    """An error of a single call is refused with its code, and never with the node's own text."""
    node, _ = node_of({method: Refused(code)})
    with pytest.raises(SourceRefusedError) as caught:
        await call(node)
    assert (caught.value.code, caught.value.source) == (code, NODE)
    assert NODES_WORDS not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("code", [-5, -1, -32601])
async def test_hash_that_is_refused_for_another_reason_is_no_tip(code: int) -> None:
    """Only a height out of range ends the list of hashes; every other refusal is an error."""
    node, _ = node_of({"getblockhash": Refused(code)})
    with pytest.raises(SourceRefusedError) as caught:
        await node.fetch_block_hashes(0, 2)
    assert caught.value.code == code


@pytest.mark.parametrize(("method", "call"), [*SINGLE, *BATCHED, IN_MEMPOOL])
async def test_node_that_warms_up_is_unavailable(method: str, call: Call) -> None:
    """A node that starts says so to every call, alone or in a batch: it is to be asked again."""
    node, _ = node_of({method: Refused(-28)})
    with pytest.raises(SourceUnavailableError, match=r"^warming-up$") as caught:
        await call(node)
    assert caught.value.source == NODE


async def test_node_that_begins_to_warm_up_within_a_batch_is_unavailable() -> None:
    """One warm-up among other answers is enough: a hole in the list would look like a transaction that left."""
    entries = [RAWS[0].hex(), Refused(-28), Refused(-5)]
    node, _ = node_of({"getrawtransaction": lambda _: entries.pop(0)})
    with pytest.raises(SourceUnavailableError, match=r"^warming-up$"):
        await node.fetch_raw_many(TXIDS)


@pytest.mark.parametrize(("method", "call"), [*SINGLE, *BATCHED, IN_MEMPOOL])
async def test_trouble_on_the_way_is_passed_on(method: str, call: Call) -> None:
    """What the wire could not do is the caller's to know, as it is."""
    trouble = SourceUnavailableError("timed-out")
    with pytest.raises(SourceUnavailableError) as caught:
        await call(node_saying(trouble))
    assert caught.value is trouble


# --- answers of another shape ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b" ",
        b"<html>501</html>",
        b"\xff\xfe",
        b'{"id":1,"result":',
        b"null",
        b"true",
        b"7",
        b'"a text"',
        b"[]",
        b"{}",
        b"[[]]",
        b"[7, 7]",
        b'{"result":null,"error":null}',
        b'{"result":null,"error":{"code":-32700,"message":"Parse error"},"id":null}',
        b'{"result":null,"error":{"message":"no code"},"id":1}',
        b'{"result":null,"error":{"code":"-5"},"id":1}',
        b'{"result":null,"error":{"code":-5.5},"id":1}',
        b'{"result":null,"error":"a text","id":1}',
        b'{"result":null,"error":[-5],"id":1}',
        b'{"result":null,"error":null,"id":"1"}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"error":null,"id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"error":null,"id":1,"result":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"result":null,"error":null,"id":1} and more',
    ],
    ids=lambda answer: repr(answer[:45]),
)
@pytest.mark.parametrize(("method", "call"), [SINGLE[0], BATCHED[0]])
async def test_answer_that_is_none_is_a_breach_of_protocol(method: str, call: Call, answer: bytes) -> None:
    """What is no JSON-RPC answer, is cut short, or is nested without end, is refused and named."""
    with pytest.raises(ProtocolError) as caught:
        await call(node_saying(answer))
    assert caught.value.source == NODE


RESULTS = {
    b"null": ("getnetworkinfo", NodeRpc.fetch_node_info),
    b"7": ("getblock", lambda node: node.fetch_block(HASHES[0])),
    b'{"hex": "00"}': ("getrawtransaction", lambda node: node.fetch_raw(TXIDS[0])),
    b'{"version": 290000}': ("getnetworkinfo", NodeRpc.fetch_node_info),
    b'{"version": "29", "subversion": ""}': ("getnetworkinfo", NodeRpc.fetch_node_info),
    b'{"version": 29e400, "subversion": ""}': ("getnetworkinfo", NodeRpc.fetch_node_info),
    b'{"version": ' + b"9" * 5000 + b', "subversion": ""}': ("getnetworkinfo", NodeRpc.fetch_node_info),
    b'["an index"]': ("getindexinfo", NodeRpc.fetch_indexes),
    b'{"an index": true}': ("getindexinfo", NodeRpc.fetch_indexes),
    b'["txid"]': ("getrawmempool", NodeRpc.fetch_mempool),
    b'{"txids": {}}': ("getrawmempool", NodeRpc.fetch_mempool),
    b"[7]": ("getrawmempool", NodeRpc.fetch_mempool),
    b'{"value": 1}': ("gettxout", lambda node: node.fetch_unspent(COIN)),
    b'{"value": true, "scriptPubKey": {"hex": ""}}': ("gettxout", lambda node: node.fetch_unspent(COIN)),
    b'{"value": NaN, "scriptPubKey": {"hex": ""}}': ("gettxout", lambda node: node.fetch_unspent(COIN)),
    b'{"value": 1e99999999999999999999, "scriptPubKey": {"hex": ""}}': (
        "gettxout",
        lambda node: node.fetch_unspent(COIN),
    ),
    b'{"progress": "42"}': ("scanblocks", lambda node: node.fetch_scan_progress("scanblocks")),
    b'{"progress": 1e999}': ("scanblocks", lambda node: node.fetch_scan_progress("scanblocks")),
    b'{"feerate": "much"}': ("estimatesmartfee", lambda node: node.fetch_fee_rate(2)),
    b'{"height": 9}': ("scantxoutset", lambda node: node.scan_outputs([SCRIPT], timeout_s=9.0)),
    b'{"height": 9, "unspents": [{}]}': ("scantxoutset", lambda node: node.scan_outputs([SCRIPT], timeout_s=9.0)),
    b'[{"spendingtxid": 7}]': ("gettxspendingprevout", lambda node: node.fetch_spenders([COIN])),
    b'[{"height": 7}]': ("getblockheader", lambda node: node.fetch_heights(HASHES[:1])),
}


@pytest.mark.parametrize(
    ("result", "method", "call"),
    [(result, *rest) for result, rest in RESULTS.items()],
    ids=lambda part: repr(part)[:45],
)
async def test_result_of_another_shape_is_a_breach_of_protocol(result: bytes, method: str, call: Call) -> None:
    """A result that is not what Bitcoin Core documents for its call is refused, whatever it is."""
    node, _ = node_of({method: Written(result)})
    with pytest.raises(ProtocolError) as caught:
        await call(node)
    assert caught.value.source == NODE


@pytest.mark.parametrize(
    ("method", "call", "before", "after"),
    [
        ("getblock", lambda node: node.fetch_block(HASHES[0]), b"", b""),
        ("getblockhash", lambda node: node.fetch_block_hashes(0, 1), b"", b""),
        ("getnetworkinfo", NodeRpc.fetch_node_info, b'{"version": 290000, "subversion": ', b"}"),
        ("getrawmempool", NodeRpc.fetch_mempool, b"[", b"]"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
async def test_text_that_is_no_text_is_a_breach_of_protocol(
    method: str, call: Call, before: bytes, after: bytes
) -> None:
    """A text that is not UTF-8 is refused like any other shape that JSON does not have."""
    node, _ = node_of({method: Written(before + b'"\xff"' + after)})
    with pytest.raises(ProtocolError):
        await call(node)


SCANNED = {"success": True, "bestblock": hex_of(HASHES[0]), "unspents": []}
UNSPENT = {"txid": hex_of(TXIDS[0]), "vout": 0, "scriptPubKey": SCRIPT.hex(), "amount": 1, "height": 1}
NO_HASHES = ["", "00", "zz" * 32, hex_of(TXIDS[0])[:-1], hex_of(TXIDS[0]) + "00", " " + hex_of(TXIDS[0])[1:], "é" * 64]


@pytest.mark.parametrize("text", NO_HASHES, ids=ascii)
@pytest.mark.parametrize(
    ("method", "entry", "call"),
    [
        ("getblockhash", lambda text: text, lambda node: node.fetch_block_hashes(0, 2)),
        (
            "gettxspendingprevout",
            lambda text: [{"spendingtxid": text}],
            lambda node: node.fetch_spenders([COIN]),
        ),
        ("getblockchaininfo", lambda text: chain_info() | {"bestblockhash": text}, NodeRpc.fetch_chain_info),
        ("getrawmempool", lambda text: [text], NodeRpc.fetch_mempool),
        ("scantxoutset", lambda text: SCANNED | {"bestblock": text}, scan_outputs),
        ("scantxoutset", lambda text: SCANNED | {"unspents": [UNSPENT | {"txid": text}]}, scan_outputs),
        (
            "scanblocks",
            lambda text: {"to_height": 9, "relevant_blocks": [text], "completed": True},
            lambda node: node.scan_blocks([SCRIPT], up_to=9, timeout_s=9.0),
        ),
    ],
    ids=[
        "getblockhash",
        "gettxspendingprevout",
        "getblockchaininfo",
        "getrawmempool",
        "scantxoutset, block",
        "scantxoutset, txid",
        "scanblocks",
    ],
)
async def test_hash_that_is_no_hash_does_not_come_in(
    method: str, entry: Callable[[str], Any], call: Call, text: str
) -> None:
    """What is to be a hash and is not 64 hex digits is refused at the door: nobody behind it looks again."""
    node, _ = node_of({method: lambda *_: entry(text)})
    with pytest.raises(ProtocolError) as caught:
        await call(node)
    assert caught.value.source == NODE


@pytest.mark.parametrize("text", ["0", "zz", "00 0", "0x00", "é0", "\ud7ff"], ids=ascii)
@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("getblock", lambda node: node.fetch_block(HASHES[0])),
        ("getrawtransaction", lambda node: node.fetch_raw(TXIDS[0])),
        ("getrawtransaction", lambda node: node.fetch_raw_in(TXIDS[0], HASHES[0])),
        ("getrawtransaction", lambda node: node.fetch_raw_many(TXIDS)),
        ("getblockheader", lambda node: node.fetch_headers(HASHES[:2])),
    ],
    ids=["getblock", "getrawtransaction", "in a block", "many", "getblockheader"],
)
async def test_bytes_that_are_no_hex_do_not_come_in(method: str, call: Call, text: str) -> None:
    """What is to be bytes and is not hex is refused, alone and among many."""
    node, _ = node_of({method: lambda *_: text})
    with pytest.raises(ProtocolError, match="bytes are not hex") as caught:
        await call(node)
    assert caught.value.source == NODE


# --- batches -----------------------------------------------------------------------------------------------------


def batch(*ids: int) -> bytes:
    """Return answers with these ids, each with the hash of its number."""
    answers = [b'{"result":"%s","error":null,"id":%d}' % (hex_of(HASHES[number]).encode(), number) for number in ids]
    return b"[" + b",".join(answers) + b"]"


async def test_answers_of_a_batch_may_stand_in_any_order() -> None:
    """Results are put in order by their ids, not by their places."""
    assert await node_saying(batch(2, 0, 1)).fetch_block_hashes(0, 3) == HASHES[:3]


@pytest.mark.parametrize(
    "ids",
    [(), (0, 1), (0, 2), (1, 2, 3), (0, 1, 3), (0, 1, 2, 3), (0, 0, 1), (0, 0, 1, 2), (0, 1, 2, 2), (0, 1, 2, 0)],
    ids=repr,
)
async def test_batch_is_answered_each_call_once_or_not_at_all(ids: tuple[int, ...]) -> None:
    """An answer that is missing, unasked, or there twice spoils the batch: nobody knows whose it is."""
    with pytest.raises(ProtocolError) as caught:
        await node_saying(batch(*ids)).fetch_block_hashes(0, 3)
    assert caught.value.source == NODE


async def test_single_answer_to_a_batch_is_a_breach_of_protocol() -> None:
    """A node that answers a batch with one object has not answered it."""
    with pytest.raises(ProtocolError):
        await node_saying(batch(0)[1:-1]).fetch_block_hashes(0, 1)


async def test_trouble_in_a_later_page_spoils_all() -> None:
    """Results are whole or not there: no list ends where a page failed."""
    node, _ = node_of({"getrawtransaction": lambda txid: Refused(-28) if txid == hex_of(last) else RAWS[0].hex()})
    txids = [txid_of(number) for number in range(BATCH + 1)]
    last = txids[-1]
    with pytest.raises(SourceUnavailableError, match="warming-up"):
        await node.fetch_raw_many(txids)


# --- whatever else -----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "result", "error", "code"]), inner)
    ),
    max_leaves=8,
)
EVERY_CALL = [param.values for param in [*SINGLE, *BATCHED, IN_MEMPOOL]]


@given(st.sampled_from(EVERY_CALL), JSON | st.fixed_dictionaries({"id": st.just(1), "result": JSON}))
@settings(deadline=None, max_examples=300)
@pytest.mark.slow
def test_no_answer_makes_another_exception(method_and_call: tuple[str, Call], answer: Any) -> None:
    """Any JSON at all is either an answer or one of our own errors."""
    _, call = method_and_call
    with contextlib.suppress(LightIPNError):
        trio.run(call, node_saying(msgspec.json.encode(answer)))
