"""Whole blocks: every txid, output script and spent outpoint, in one pass over the bytes.

The pass takes lengths as they come and checks the whole at the end: the bytes must end with the last transaction, and
the txids must fold to the root that the header states. What was read wrongly cannot pass that, so nothing else is
checked on the way; it is what makes the pass fast enough for a small machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.header import HEADER_BYTES, BlockHeader, parse_header
from lightipn.bitcoin.merkle import block_root_of
from lightipn.errors import BlockError, MerkleBranchError

# In the place of the number of inputs, which is never 0 (BIP-144).
WITNESS_MARKER = b"\x00\x01"
# Made once: to make a range takes as long as to read a number.
_TIMES = [range(count) for count in range(0xFD)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block that hangs together: its transactions are those that its header commits to.

    Args:
        starts: where in ``raw`` each transaction begins, and where the last one ends.
        txids: in block order.
        scripts: output scripts of all transactions, in order.
        script_ends: for each transaction, how many scripts there are up to its end.
        spends: outpoints of all inputs, in order, each as it stands in the block (36 bytes).
        spend_ends: for each transaction, how many spends there are up to its end.
    """

    header: BlockHeader
    raw: bytes
    starts: Sequence[int]
    txids: Sequence[Txid]
    scripts: Sequence[bytes]
    script_ends: Sequence[int]
    spends: Sequence[bytes]
    spend_ends: Sequence[int]

    def transaction(self, position: int) -> bytes:
        """Return the raw bytes of the transaction at a position, counted from 0."""
        return self.raw[self.starts[position] : self.starts[position + 1]]


def parse_block(raw: bytes) -> Block:
    """Parse a block, and check that its transactions are those that its header commits to.

    Raises:
        BlockError: cut short, trailing bytes, no transaction, one that stands twice (CVE-2012-2459), or another merkle
            root than the header's.
    """
    try:
        block = _read(raw)
    except IndexError as error:
        raise BlockError(f"block ends at byte {len(raw)}, in the middle of a transaction") from error
    if block.starts[-1] != len(raw):
        raise BlockError(f"block has {len(raw)} bytes, its transactions end at {block.starts[-1]}")
    if not block.txids:
        raise BlockError("block has no transaction")
    try:
        root = block_root_of(block.txids)
    except MerkleBranchError as error:
        raise BlockError(str(error)) from error
    if root != block.header.merkle_root:
        raise BlockError("the transactions do not fold to the header's merkle root")
    return block


def _read(raw: bytes) -> Block:
    """Walk over the bytes once, without a call where a number is one byte long: that halves the time."""
    starts: list[int] = []
    txids: list[bytes] = []
    scripts: list[bytes] = []
    script_ends: list[int] = []
    spends: list[bytes] = []
    spend_ends: list[int] = []
    total, at = _compact_size(raw, HEADER_BYTES)
    for _ in range(total):
        start = at
        starts.append(start)
        has_witness = raw[at + 4 : at + 6] == WITNESS_MARKER
        body = at + 6 if has_witness else at + 4
        inputs, at = raw[body], body + 1
        if inputs > 0xFC:
            inputs, at = _compact_size(raw, body)
        each_input = _TIMES[inputs] if inputs < 0xFD else range(inputs)
        for _ in each_input:
            spends.append(raw[at : at + 36])
            length = raw[at + 36]
            if length > 0xFC:
                length, at = _compact_size(raw, at + 36)
                at -= 37
            at += 41 + length  # outpoint, length, script, sequence
        outputs = raw[at]
        at += 1
        if outputs > 0xFC:
            outputs, at = _compact_size(raw, at - 1)
        for _ in _TIMES[outputs] if outputs < 0xFD else range(outputs):
            length = raw[at + 8]
            at += 9  # amount, length
            if length > 0xFC:
                length, at = _compact_size(raw, at - 1)
            scripts.append(raw[at : at + length])
            at += length
        end = at
        if has_witness:
            at = _after_witness(raw, at, each_input)
            stripped = raw[start : start + 4] + raw[body:end] + raw[at : at + 4]
        else:
            stripped = raw[start : at + 4]
        at += 4  # lock time
        txids.append(sha256(sha256(stripped).digest()).digest())
        script_ends.append(len(scripts))
        spend_ends.append(len(spends))
    starts.append(at)
    return Block(
        header=parse_header(raw[:HEADER_BYTES]),
        raw=raw,
        starts=starts,
        txids=cast("list[Txid]", txids),  # a call for each would show
        scripts=scripts,
        script_ends=script_ends,
        spends=spends,
        spend_ends=spend_ends,
    )


def _after_witness(raw: bytes, at: int, each_input: Sequence[int]) -> int:
    for _ in each_input:
        items = raw[at]
        at += 1
        if items > 0xFC:
            items, at = _compact_size(raw, at - 1)
        for _ in _TIMES[items] if items < 0xFD else range(items):
            length = raw[at]
            at += 1
            if length > 0xFC:
                length, at = _compact_size(raw, at - 1)
            at += length
    return at


def _compact_size(raw: bytes, at: int) -> tuple[int, int]:
    """Return a number and where the bytes behind it begin."""
    first = raw[at]
    if first <= 0xFC:
        return first, at + 1
    size_bytes = {0xFD: 2, 0xFE: 4, 0xFF: 8}[first]
    return int.from_bytes(raw[at + 1 : at + 1 + size_bytes], "little"), at + 1 + size_bytes
