"""Whole blocks out of raw transactions, and Hypothesis strategies of such transactions."""

from collections.abc import Sequence

from hypothesis import assume
from hypothesis import strategies as st

from lightipn.bitcoin.transaction import AMBIGUOUS_BYTES, MAX_MONEY_SAT, Outpoint
from tests.builders import SEEN_AT, compact_size, double_sha256, raw_header, raw_transaction, txid_of

LENGTHS = st.sampled_from([0, 1, 22, 34, 0xFB, 0xFC, 0xFD, 0xFE, 0x100]) | st.integers(0, 80)
OUTPOINTS = st.builds(Outpoint, st.binary(min_size=32, max_size=32), st.integers(0, 0xFFFFFFFF))


def naive_root(txids: Sequence[bytes]) -> bytes:
    """Fold txids to their merkle root, as the whitepaper draws it and without the code under test."""
    if len(txids) == 1:
        return txids[0]
    pairs = [(txids[at], txids[min(at + 1, len(txids) - 1)]) for at in range(0, len(txids), 2)]
    return naive_root([double_sha256(left + right) for left, right in pairs])


def raw_block(transactions: Sequence[bytes], txids: Sequence[bytes], *, previous_hash: bytes = bytes(32)) -> bytes:
    """Write a block; ``txids`` are those that its header commits to."""
    root = naive_root(txids) if txids else bytes(32)
    head = raw_header(previous_hash, time=SEEN_AT, merkle_root=root)
    return head + compact_size(len(transactions)) + b"".join(transactions)


@st.composite
def written_transactions(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A transaction, legacy or segwit, and its txid as its writer knows it."""
    spends = draw(st.lists(OUTPOINTS, min_size=1, max_size=4) | st.just([Outpoint(txid_of(1), 3)] * 0xFD))
    lengths = draw(st.lists(LENGTHS, min_size=1, max_size=4) | st.just([1] * 0xFD))
    amount_sat = draw(st.integers(0, MAX_MONEY_SAT // 0x100))
    outputs = [(amount_sat, bytes([number & 0xFF]) * length) for number, length in enumerate(lengths)]
    script_sig = b"\x51" * draw(LENGTHS)
    locktime = draw(st.integers(0, 0xFFFFFFFF))
    items = draw(st.none() | st.lists(LENGTHS, max_size=3) | st.just([0] * 0xFD))
    witness = None if items is None else [b"\x00" * length for length in items]
    bare = raw_transaction(spends, outputs, script_sig=script_sig, locktime=locktime)
    assume(len(bare) != AMBIGUOUS_BYTES)
    raw = raw_transaction(spends, outputs, script_sig=script_sig, locktime=locktime, witness=witness)
    return raw, double_sha256(bare)


BLOCK_PARTS = st.lists(written_transactions(), min_size=1, max_size=6, unique_by=lambda part: part[1])


def block_of(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Write a block of transactions with their txids."""
    return raw_block([raw for raw, _ in parts], [txid for _, txid in parts])
