"""Checkpoints: block hashes that ship with the program, one for each 2016-block period.

Two uses: the header chain starts at the last one, and an older header is proved by chaining its whole period to the
checkpoint at the period's end.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lightipn.bitcoin.hashes import BlockHash, hash_from_hex
from lightipn.bitcoin.header import RETARGET_BLOCKS, BlockHeader, parse_header
from lightipn.bitcoin.network import Network
from lightipn.errors import HeaderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A block that every honest chain contains.

    Args:
        height: the last one of a period, or 0 for genesis.
        next_bits: what the following period must have; None where it was not recorded.
    """

    height: int
    block_hash: BlockHash
    next_bits: int | None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """All checkpoints of one network, heights ascending; the first is genesis."""

    rows: tuple[Checkpoint, ...]

    @property
    def last(self) -> Checkpoint:
        """The highest checkpoint."""
        return self.rows[-1]

    def at(self, height: int) -> Checkpoint | None:
        """Return the checkpoint at exactly this height, or None."""
        if height < 0:
            return None
        if height == 0:
            return self.rows[0]
        period, remainder = divmod(height + 1, RETARGET_BLOCKS)
        return self.rows[period] if remainder == 0 and period < len(self.rows) else None


def parse_checkpoints(text: str, network: Network) -> Checkpoints:
    """Read the checkpoint file that ships with the program.

    Args:
        text: lines ``height<TAB>block hash<TAB>bits of the next period, or -``; ``#`` starts a comment.

    Raises:
        ValueError: the file is damaged: a height is missing, or a hash is none.
    """
    # Genesis says nothing about the bits that follow: the chain reads them from the genesis header itself.
    rows = [Checkpoint(height=0, block_hash=network.genesis_hash, next_bits=None)]
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        height, block_hash, bits = line.split("\t")
        expected = len(rows) * RETARGET_BLOCKS - 1
        if int(height) != expected:
            raise ValueError(f"checkpoint at height {height}, want {expected}")
        next_bits = None if bits == "-" else int(bits, 16)
        rows.append(Checkpoint(height=expected, block_hash=BlockHash(hash_from_hex(block_hash)), next_bits=next_bits))
    return Checkpoints(tuple(rows))


def check_period(raw_headers: Sequence[bytes], end: Checkpoint) -> list[BlockHeader]:
    """Prove a whole period of old headers by chaining it to the checkpoint at its end.

    Hashes alone carry the proof: each header commits to its predecessor, and the last one is known.

    Args:
        raw_headers: the 2016 headers that end at ``end``.

    Raises:
        HeaderError: not 2016, a link is broken, or the last hash is not the checkpoint's.
    """
    if len(raw_headers) != RETARGET_BLOCKS:
        raise HeaderError(f"period has {len(raw_headers)} headers, want {RETARGET_BLOCKS}")
    headers = [parse_header(raw) for raw in raw_headers]
    for header, following in itertools.pairwise(headers):
        if following.previous_hash != header.block_hash:
            raise HeaderError("a header of an old period does not name its predecessor")
    if headers[-1].block_hash != end.block_hash:
        raise HeaderError(f"period does not end in the checkpoint at height {end.height}")
    return headers
