"""The header chain: from a checkpoint to the tip with the most work.

        base (checkpoint)            fork                 tip
            o----o----o----o----o----o----o----o----o----o      disconnected: what leaves
                                      \
                                       o----o----o----o----o    connected: what enters, with more work

States: the chain is a list. ``extended_by`` judges a run of headers against it and returns a ``ChainDelta`` (or None:
no more work than we have); ``apply`` takes the delta over once the caller has it on disk. Nothing else changes it.
Laws: a header enters only with the right predecessor, bits, proof of work and median time. The base never leaves.
Headers are packed into two byte arrays: 112 bytes a block, and no object per header for the collector to visit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightipn.bitcoin.hashes import BlockHash
from lightipn.bitcoin.header import (
    HEADER_BYTES,
    RETARGET_BLOCKS,
    BlockHeader,
    check_proof_of_work,
    parse_header,
    retargeted_bits,
    work_of,
)
from lightipn.bitcoin.network import DifficultyRule, Network
from lightipn.chain.checkpoint import Checkpoint
from lightipn.errors import HeaderError

MEDIAN_TIME_BLOCKS = 11
TESTNET4_SLOW_BLOCK_S = 20 * 60
TESTNET4_MAX_STEP_BACK_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainDelta:
    """What changes when a run of headers is adopted.

    Args:
        fork_height: the last height that stays.
        disconnected: headers that leave, lowest first; empty when the tip is merely extended.
        connected: headers that enter, lowest first; never empty.
    """

    fork_height: int
    disconnected: tuple[BlockHeader, ...]
    connected: tuple[BlockHeader, ...]

    @property
    def tip_height(self) -> int:
        """Height of the new tip."""
        return self.fork_height + len(self.connected)

    @property
    def depth_blocks(self) -> int:
        """How many blocks a reorg undoes; 0 for an extension."""
        return len(self.disconnected)


class HeaderChain:
    """Our best chain of headers.

    Args:
        base: the checkpoint the chain stands on; its header need not be known.
        raw_headers: what the store holds, from ``base.height + 1`` on. Only their links are checked again.

    Raises:
        HeaderError: a stored header does not link to the one below it.
    """

    def __init__(self, network: Network, base: Checkpoint, raw_headers: Iterable[bytes] = ()) -> None:
        self.network = network
        self.base = base
        self._raw = bytearray()
        self._hashes = bytearray()
        for raw in raw_headers:
            header = parse_header(raw)
            if header.previous_hash != self.tip_hash:
                raise HeaderError(f"stored header {self.tip_height + 1} does not link to the one below it")
            self._push(header)

    def _push(self, header: BlockHeader) -> None:
        self._raw += header.raw
        self._hashes += header.block_hash

    @property
    def tip_height(self) -> int:
        """Height of the best block we hold."""
        return self.base.height + len(self._hashes) // 32

    @property
    def tip_hash(self) -> BlockHash:
        """Hash of the best block we hold."""
        return BlockHash(bytes(self._hashes[-32:])) if self._hashes else self.base.block_hash

    def hash_at(self, height: int) -> BlockHash | None:
        """Return the hash at this height, or None below the base and above the tip."""
        if height == self.base.height:
            return self.base.block_hash
        start = (height - self.base.height - 1) * 32
        if start < 0 or start >= len(self._hashes):
            return None
        return BlockHash(bytes(self._hashes[start : start + 32]))

    def header_at(self, height: int) -> BlockHeader | None:
        """Return the header at this height; None below the base, above the tip, and at a base that is not genesis."""
        if height == 0 == self.base.height:
            return parse_header(self.network.genesis_header)
        start = (height - self.base.height - 1) * HEADER_BYTES
        if start < 0 or start >= len(self._raw):
            return None
        return parse_header(bytes(self._raw[start : start + HEADER_BYTES]))

    def connects(self, height: int, raw_header: bytes) -> bool:
        """Tell whether a header claimed for ``height`` names our block below it as its predecessor."""
        return parse_header(raw_header).previous_hash == self.hash_at(height - 1)

    def extended_by(self, start: int, raw_headers: Sequence[bytes], *, wins_ties: bool = False) -> ChainDelta | None:
        """Judge a run of headers and return the change, or None where it has no more work than what we hold.

        Args:
            start: height of the first one; ``connects(start, raw_headers[0])`` must hold.
            wins_ties: as much work is enough.

        Raises:
            HeaderError: a header breaks a rule, or would replace the base.
        """
        fork_height = start - 1
        if self.hash_at(fork_height) is None:
            raise HeaderError(f"branch leaves the chain at {fork_height}, want {self.base.height} to {self.tip_height}")
        fresh: list[BlockHeader] = []
        for raw in raw_headers:
            header = parse_header(raw)
            if not fresh and header.block_hash == self.hash_at(fork_height + 1):
                fork_height += 1
                continue
            branch = _Branch(self, fork_height, fresh)
            branch.check(header)
            fresh.append(header)
        disconnected = [self._stored(height) for height in range(fork_height + 1, self.tip_height + 1)]
        work, our_work = sum(work_of(h.bits) for h in fresh), sum(work_of(h.bits) for h in disconnected)
        if not fresh or work < our_work or (work == our_work and not wins_ties):
            return None
        return ChainDelta(fork_height=fork_height, disconnected=tuple(disconnected), connected=tuple(fresh))

    def _stored(self, height: int) -> BlockHeader:
        header = self.header_at(height)
        assert header is not None
        return header

    def apply(self, delta: ChainDelta) -> None:
        """Adopt a delta made by ``extended_by`` on this very state."""
        kept = delta.fork_height - self.base.height
        assert self.hash_at(delta.fork_height) == delta.connected[0].previous_hash
        del self._raw[kept * HEADER_BYTES :]
        del self._hashes[kept * 32 :]
        for header in delta.connected:
            self._push(header)


class _Branch:
    """The view from the end of a branch that is being judged: our chain up to the fork, then ``fresh``."""

    def __init__(self, chain: HeaderChain, fork_height: int, fresh: list[BlockHeader]) -> None:
        self.chain = chain
        self.fork_height = fork_height
        self.fresh = fresh
        self.height = fork_height + len(fresh) + 1  # of the header to be judged

    def at(self, height: int) -> BlockHeader | None:
        if height > self.fork_height:
            return self.fresh[height - self.fork_height - 1]
        return self.chain.header_at(height)

    def check(self, header: BlockHeader) -> None:
        tip_hash = self.fresh[-1].block_hash if self.fresh else self.chain.hash_at(self.fork_height)
        if header.previous_hash != tip_hash:
            raise HeaderError(f"header {self.height} does not link to the one below it")
        expected = self.expected_bits(header)
        if expected is not None and header.bits != expected:
            raise HeaderError(f"header {self.height} has bits {header.bits:#010x}, want {expected:#010x}")
        check_proof_of_work(header, self.chain.network)
        self.check_time(header)

    def check_time(self, header: BlockHeader) -> None:
        times = []
        for height in range(self.height - 1, self.height - 1 - MEDIAN_TIME_BLOCKS, -1):
            earlier = self.at(height) if height >= 0 else None
            if earlier is None:
                break
            times.append(earlier.time)
        # Right above a checkpoint fewer than eleven predecessors are known. The median of fewer could be later than
        # the true one, so the rule starts where it can be exact.
        complete = len(times) == MEDIAN_TIME_BLOCKS or (self.chain.base.height == 0 and times)
        if complete and header.time <= sorted(times)[len(times) // 2]:
            raise HeaderError(f"header {self.height} is not later than the median of those before it")
        if self.chain.network.difficulty_rule is DifficultyRule.TESTNET4 and self.height % RETARGET_BLOCKS == 0:
            previous = self.at(self.height - 1)
            if previous is not None and header.time < previous.time - TESTNET4_MAX_STEP_BACK_S:
                raise HeaderError(f"header {self.height} steps back in time further than BIP-94 allows")

    def expected_bits(self, header: BlockHeader) -> int | None:
        """Return the bits that consensus demands; None only where the checkpoint did not record them."""
        network = self.chain.network
        if network.difficulty_rule is DifficultyRule.CONSTANT:
            return network.pow_limit_bits
        if self.height == self.chain.base.height + 1 and self.chain.base.height > 0:
            return self.chain.base.next_bits
        previous = self.at(self.height - 1)
        assert previous is not None
        if self.height % RETARGET_BLOCKS == 0:
            first = self.at(self.height - RETARGET_BLOCKS)
            assert first is not None  # the base ends a period, so every later period is held from its first block on
            is_testnet4 = network.difficulty_rule is DifficultyRule.TESTNET4
            bits = first.bits if is_testnet4 else previous.bits
            return retargeted_bits(bits=bits, first_time=first.time, last_time=previous.time, network=network)
        if network.difficulty_rule is DifficultyRule.TESTNET4:
            return self.testnet4_bits(header, previous)
        return previous.bits

    def testnet4_bits(self, header: BlockHeader, previous: BlockHeader) -> int:
        if header.time > previous.time + TESTNET4_SLOW_BLOCK_S:
            return self.chain.network.pow_limit_bits
        height = self.height - 1
        while height % RETARGET_BLOCKS != 0 and previous.bits == self.chain.network.pow_limit_bits:
            height -= 1
            below = self.at(height)
            assert below is not None
            previous = below
        return previous.bits
