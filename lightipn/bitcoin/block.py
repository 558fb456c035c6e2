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
    starts, stripped, scripts, script_ends, spends, spend_ends = _walk(raw)
    return Block(
        header=parse_header(raw[:HEADER_BYTES]),
        raw=raw,
        starts=starts,
        txids=cast("list[Txid]", [sha256(sha256(one).digest()).digest() for one in stripped]),
        scripts=scripts,
        script_ends=script_ends,
        spends=spends,
        spend_ends=spend_ends,
    )


def _walk(  # noqa: C901  # one loop: each call in it, and each name looked up, would show
    raw: bytes,
) -> tuple[list[int], list[bytes], list[bytes], list[int], list[bytes], list[int]]:
    """Walk over the bytes once, without a call where a number is one byte long: that halves the time.

    Returns:
        Where transactions start; each without its witnesses; and scripts and spends, with where each one's end.
    """
    starts, script_ends, spend_ends = list[int](), list[int](), list[int]()
    stripped, scripts, spends = list[bytes](), list[bytes](), list[bytes]()
    add_spend, add_script, times = spends.append, scripts.append, _TIMES
    total, at = _compact_size(raw, HEADER_BYTES)
    for _ in range(total):
        start, body = at, at + 4
        starts.append(start)
        has_witness = raw[body : at + 6] == WITNESS_MARKER
        if has_witness:
            body += 2
        inputs, at = raw[body], body + 1
        if inputs > 0xFC:
            inputs, at = _compact_size(raw, body)
        each_input = times[inputs] if inputs < 0xFD else range(inputs)
        for _ in each_input:
            end = at + 36
            add_spend(raw[at:end])
            length, at = raw[end], end + 5  # behind length and sequence
            if length > 0xFC:
                length, at = _compact_size(raw, end)
                at += 4
            at += length
        outputs, at = raw[at], at + 1
        if outputs > 0xFC:
            outputs, at = _compact_size(raw, at - 1)
        for _ in times[outputs] if outputs < 0xFD else range(outputs):
            length, at = raw[at + 8], at + 9  # behind amount and length
            if length > 0xFC:
                length, at = _compact_size(raw, at - 1)
            end = at + length
            add_script(raw[at:end])
            at = end
        end = at
        if has_witness:
            for _ in each_input:
                items, at = raw[at], at + 1
                if items > 0xFC:
                    items, at = _compact_size(raw, at - 1)
                for _ in times[items] if items < 0xFD else range(items):
                    length, at = raw[at], at + 1
                    if length > 0xFC:
                        length, at = _compact_size(raw, at - 1)
                    at += length
            at += 4  # lock time
            stripped.append(raw[start : start + 4] + raw[body:end] + raw[at - 4 : at])
        else:
            at += 4
            stripped.append(raw[start:at])
        script_ends.append(len(scripts))
        spend_ends.append(len(spends))
    starts.append(at)
    return starts, stripped, scripts, script_ends, spends, spend_ends


def _compact_size(raw: bytes, at: int) -> tuple[int, int]:
    """Return a number and where the bytes behind it begin."""
    first = raw[at]
    if first <= 0xFC:
        return first, at + 1
    size_bytes = {0xFD: 2, 0xFE: 4, 0xFF: 8}[first]
    return int.from_bytes(raw[at + 1 : at + 1 + size_bytes], "little"), at + 1 + size_bytes
