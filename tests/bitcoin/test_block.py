"""Whole blocks: what is found in one pass over the bytes."""

from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.block import Block, parse_block
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import MAINNET, REGTEST, SIGNET, Network
from lightipn.bitcoin.transaction import Outpoint, packed_outpoint, parse_transaction
from lightipn.errors import BlockError
from tests.bitcoin.blocks import BLOCK_PARTS, block_of, naive_root, raw_block
from tests.builders import OTHER_SCRIPT, SCRIPT, coinbase, compact_size, load_vectors, payment, raw_transaction, txid_of

HEADER_BYTES = 80
GENESIS_COINBASE = bytes.fromhex(load_vectors("transactions")["rows"][0]["raw"])
REAL = [parse_transaction(bytes.fromhex(row["raw"])) for row in load_vectors("transactions")["rows"]]
SMALL = [
    coinbase(7),
    payment(1, change_sat=5),
    parse_transaction(raw_transaction([Outpoint(txid_of(9), 1)], [(7, OTHER_SCRIPT)], witness=[b"s" * 71, b"k" * 33])),
]
SMALL_BLOCK = block_of([(one.raw, one.txid) for one in SMALL])


def check_against_transactions(block: Block, raw: bytes, transactions: Sequence[bytes]) -> None:
    """Compare a whole block with what the parser of single transactions says of each."""
    parsed = [parse_transaction(each) for each in transactions]
    first = len(raw) - sum(len(each) for each in transactions)
    assert block == Block(
        header=parse_header(raw[:HEADER_BYTES]),
        raw=raw,
        starts=list(accumulate([len(each) for each in transactions], initial=first)),
        txids=[one.txid for one in parsed],
        scripts=[output.script for one in parsed for output in one.outputs],
        script_ends=list(accumulate(len(one.outputs) for one in parsed)),
        spends=[packed_outpoint(spend.txid, spend.index) for one in parsed for spend in one.spends],
        spend_ends=list(accumulate(len(one.spends) for one in parsed)),
    )
    assert [block.transaction(position) for position in range(len(transactions))] == list(transactions)


# --- what is there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [MAINNET, SIGNET, REGTEST], ids=lambda network: network.name)
def test_real_block_parses(network: Network) -> None:
    """Block 0 of three networks, which hold the same coinbase, parses to its one transaction and its hash."""
    raw = network.genesis_header + b"\x01" + GENESIS_COINBASE
    block = parse_block(raw)
    check_against_transactions(block, raw, [GENESIS_COINBASE])
    assert block.header.block_hash == network.genesis_hash


def test_real_transactions_parse_in_a_block() -> None:
    """Published transactions, legacy and segwit, keep their txids beside each other in a block."""
    raw = block_of([(one.raw, one.txid) for one in REAL])
    check_against_transactions(parse_block(raw), raw, [one.raw for one in REAL])


@given(BLOCK_PARTS)
@settings(deadline=None, max_examples=60)
@pytest.mark.slow
def test_block_says_of_its_transactions_what_each_says_alone(parts: list[tuple[bytes, bytes]]) -> None:
    """The one pass finds the txids, output scripts and spent outpoints that the strict parser finds one by one."""
    raw = block_of(parts)
    block = parse_block(raw)
    check_against_transactions(block, raw, [each for each, _ in parts])
    assert block.txids == [txid for _, txid in parts]


VERSION, LOCK_TIME = b"\x02\x00\x00\x00", b"\x07\x00\x00\x00"
OUTPUT = (1000).to_bytes(8, "little") + compact_size(len(SCRIPT)) + SCRIPT
SEQUENCE = b"\xff" * 4
INPUT = bytes(range(36)) + b"\x00" + SEQUENCE


def large_transaction(place: str, size: int) -> tuple[bytes, bytes]:
    """Return a transaction that has ``size`` things, or bytes, in one place; with and without its witness."""
    inputs, outputs, stack = b"\x01" + INPUT, b"\x01" + OUTPUT, b""
    match place:
        case "inputs":
            inputs = compact_size(size) + INPUT * size
        case "bytes of an input script":
            inputs = b"\x01" + INPUT[:36] + compact_size(size) + b"\x51" * size + SEQUENCE
        case "outputs":
            outputs = compact_size(size) + OUTPUT * size
        case "bytes of an output script":
            outputs = b"\x01" + bytes(8) + compact_size(size) + b"\x6a" * size
        case "witness items":
            stack = compact_size(size) + b"\x01\xaa" * size
        case "bytes of a witness item":
            stack = b"\x01" + compact_size(size) + b"\xaa" * size
        case "inputs with a witness":
            inputs, stack = compact_size(size) + INPUT * size, b"\x01\x01\xaa" * size
    bare = VERSION + inputs + outputs + LOCK_TIME
    return (VERSION + b"\x00\x01" + inputs + outputs + stack + LOCK_TIME if stack else bare), bare


@pytest.mark.parametrize(
    "place",
    [
        "inputs",
        "bytes of an input script",
        "outputs",
        "bytes of an output script",
        "witness items",
        "bytes of a witness item",
        "inputs with a witness",
    ],
)
@pytest.mark.parametrize("size", [0xFC, 0xFD, 0xFE, 0xFF, 0x100, 0xFFFF, 0x10000])
@pytest.mark.slow
def test_every_count_is_read_in_all_its_sizes(place: str, size: int) -> None:
    """Where a count grows from one byte to three, and to five, what follows it is still read right."""
    large, bare = large_transaction(place, size)
    transactions = [SMALL[0].raw, large, SMALL[1].raw]
    raw = raw_block(transactions, [SMALL[0].txid, parse_transaction(bare).txid, SMALL[1].txid])
    check_against_transactions(parse_block(raw), raw, transactions)


@pytest.mark.parametrize("count", [1, 2, 0xFC, 0xFD, 0x100])
def test_number_of_transactions_is_read_in_all_its_sizes(count: int) -> None:
    """A block of any number of transactions is read to its end."""
    transactions = [payment(number) for number in range(count)]
    raw = block_of([(one.raw, one.txid) for one in transactions])
    check_against_transactions(parse_block(raw), raw, [one.raw for one in transactions])


# --- what is refused ---------------------------------------------------------------------------------------------


def test_every_truncation_of_a_block_is_refused() -> None:
    """A block that is cut short at any byte, the header's and the last lock time's included, is refused."""
    for size_bytes in range(len(SMALL_BLOCK)):
        with pytest.raises(BlockError):
            parse_block(SMALL_BLOCK[:size_bytes])


@given(BLOCK_PARTS, st.data())
@settings(deadline=None, max_examples=60)
@pytest.mark.slow
def test_any_block_is_refused_when_cut_or_lengthened(parts: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    """Whatever a block holds, it ends where its last transaction ends, not before and not behind."""
    raw = block_of(parts)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(BlockError):
        parse_block(raw[:cut])
    tail = data.draw(st.binary(min_size=1, max_size=20))
    with pytest.raises(BlockError, match=f"block has {len(raw) + len(tail)} bytes, its transactions end at {len(raw)}"):
        parse_block(raw + tail)


def check_damaged(raw: bytes, damaged: bytes) -> None:
    """A damaged block is refused, or what is found in it is what stands in the undamaged one."""
    whole = parse_block(raw)
    try:
        block = parse_block(damaged)
    except BlockError:
        return
    assert block.header == parse_header(damaged[:HEADER_BYTES])
    assert naive_root(block.txids) == block.header.merkle_root == whole.header.merkle_root
    assert (block.txids, block.scripts, block.script_ends) == (whole.txids, whole.scripts, whole.script_ends)
    assert (block.spends, block.spend_ends) == (whole.spends, whole.spend_ends)


@pytest.mark.slow
def test_every_flipped_bit_is_refused_or_changes_nothing_that_is_found() -> None:
    """A flipped bit is refused, but for those to which no merkle root commits: they change no txid, script or spend."""
    for at in range(len(SMALL_BLOCK)):
        for bit in range(8):
            damaged = bytearray(SMALL_BLOCK)
            damaged[at] ^= 1 << bit
            check_damaged(SMALL_BLOCK, bytes(damaged))


@given(BLOCK_PARTS, st.data())
@settings(deadline=None, max_examples=100)
@pytest.mark.slow
def test_damage_anywhere_is_refused_or_changes_nothing_that_is_found(
    parts: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    """Bytes that are overwritten, left out or put in never make another exception, nor another finding."""
    raw = block_of(parts)
    at = data.draw(st.integers(0, len(raw) - 1))
    gone, junk = data.draw(st.integers(0, 9)), data.draw(st.binary(max_size=9))
    check_damaged(raw, raw[:at] + junk + raw[at + gone :])


@given(st.binary(max_size=400), st.binary(max_size=400))
@settings(deadline=None, max_examples=200)
def test_any_bytes_at_all_are_no_block(head: bytes, body: bytes) -> None:
    """Bytes that nobody hashed are refused, whether or not they begin with a header."""
    for raw in (head + body, SMALL_BLOCK[:HEADER_BYTES] + body, SMALL_BLOCK[: HEADER_BYTES + 1] + body):
        with pytest.raises(BlockError):
            parse_block(raw)


ABSURD = b"\xff" * 9


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(ABSURD + SMALL[0].raw, id="transactions"),
        pytest.param(ABSURD + bytes(500), id="transactions of zeros"),
        pytest.param(b"\x01" + VERSION + ABSURD + INPUT, id="inputs"),
        pytest.param(b"\x01" + VERSION + b"\x01" + INPUT[:36] + ABSURD, id="script of an input"),
        pytest.param(b"\x01" + VERSION + b"\x01" + INPUT + ABSURD + OUTPUT, id="outputs"),
        pytest.param(b"\x01" + VERSION + b"\x01" + INPUT + b"\x01" + bytes(8) + ABSURD, id="script of an output"),
        pytest.param(b"\x01" + VERSION + b"\x00\x01\x01" + INPUT + b"\x01" + OUTPUT + ABSURD, id="witness items"),
        pytest.param(
            b"\x01" + VERSION + b"\x00\x01\x01" + INPUT + b"\x01" + OUTPUT + b"\x01" + ABSURD, id="witness item"
        ),
    ],
)
def test_absurd_counts_in_a_block_are_refused(body: bytes) -> None:
    """A count of 2^64 - 1 is refused after no more work than there are bytes."""
    with pytest.raises(BlockError):
        parse_block(SMALL_BLOCK[:HEADER_BYTES] + body)


def test_block_without_transactions_is_refused() -> None:
    """Every block has a coinbase, so one without any transaction is none."""
    with pytest.raises(BlockError, match="block has no transaction"):
        parse_block(raw_block([], []))


def test_block_whose_transactions_are_not_its_headers_is_refused() -> None:
    """Another order of the same transactions, or another transaction, is not what the header commits to."""
    raws, txids = [one.raw for one in SMALL], [one.txid for one in SMALL]
    parse_block(raw_block(raws, txids))
    for others in ([raws[1], raws[0], raws[2]], raws[:2], [*raws[:2], payment(99).raw]):
        with pytest.raises(BlockError, match="do not fold to the header's merkle root"):
            parse_block(raw_block(others, txids))


@pytest.mark.parametrize(("count", "doubled"), [(3, 1), (5, 1), (6, 2), (7, 1), (12, 4)])
def test_block_whose_end_stands_twice_is_refused(count: int, doubled: int) -> None:
    """A block whose last transactions are repeated has the same root and is refused: a payment would count twice.

    Source:
        CVE-2012-2459.
    """
    transactions = [payment(number) for number in range(count)]
    txids = [one.txid for one in transactions]
    parse_block(raw_block([one.raw for one in transactions], txids))
    twice = [*transactions, *transactions[-doubled:]]
    assert naive_root([one.txid for one in twice]) == naive_root(txids)
    with pytest.raises(BlockError, match="stand twice"):
        parse_block(raw_block([one.raw for one in twice], txids))
