"""What of a block or a transaction concerns the watched scripts; sans-IO.

A transaction concerns a script if it pays it, or if it spends an output of it. Outputs are told by their script, inputs
by the outpoint that they spend. So whoever calls keeps the outpoints of watched scripts, each with its scripthash, and
enters those that a match adds. A transaction may spend an output of the same block: the scanner sees to that itself.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import compress, count

from lightipn.bitcoin.block import Block
from lightipn.bitcoin.hashes import ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.transaction import PackedOutpoint, Transaction, packed_outpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A transaction that concerns watched scripts.

    Args:
        outputs: the outpoints of watched scripts that it makes, each with its script's hash.
        spends: those that it spends, likewise.
    """

    txid: Txid
    outputs: Mapping[PackedOutpoint, ScriptHash]
    spends: Mapping[PackedOutpoint, ScriptHash]

    @property
    def scripthashes(self) -> frozenset[ScriptHash]:
        """Whom it concerns."""
        return frozenset(self.outputs.values()) | frozenset(self.spends.values())


@dataclass(frozen=True, slots=True)
class Hits:
    """Where a block touches what is watched: indices into its scripts, and into its spends."""

    scripts: Sequence[int]
    spends: Sequence[int]


def scan_block(block: Block, scripts: AbstractSet[bytes], outpoints: Mapping[PackedOutpoint, ScriptHash]) -> Hits:
    """Find in one pass which outputs of a block pay watched scripts, and which inputs spend from them."""
    # Among a million scripts each look is a wait for memory; in a loop without Python code, waits overlap.
    paid = compress(count(), map(scripts.__contains__, block.scripts))
    spent = compress(count(), map(outpoints.__contains__, block.spends))
    return Hits(list(paid), list(spent))


def matches_of(block: Block, hits: Hits, outpoints: Mapping[PackedOutpoint, ScriptHash]) -> dict[int, Match]:
    """Return the transactions of a block that concern watched scripts, by their position in it.

    Args:
        hits: as ``scan_block`` found them.
        outpoints: the same that were scanned for.
    """
    made: dict[int, dict[PackedOutpoint, ScriptHash]] = {}
    spent: dict[int, dict[PackedOutpoint, ScriptHash]] = {}
    new: dict[PackedOutpoint, ScriptHash] = {}
    for index in hits.scripts:
        position = bisect_right(block.script_ends, index)
        first = block.script_ends[position - 1] if position else 0
        outpoint = packed_outpoint(block.txids[position], index - first)
        new[outpoint] = scripthash_of(block.scripts[index])
        made.setdefault(position, {})[outpoint] = new[outpoint]
    spends = dict.fromkeys(hits.spends)
    if new:  # what the block itself made may be spent in it
        spends |= dict.fromkeys(index for index, outpoint in enumerate(block.spends) if outpoint in new)
    for index in spends:
        outpoint = block.spends[index]
        owner = new.get(outpoint) or outpoints[outpoint]
        spent.setdefault(bisect_right(block.spend_ends, index), {})[outpoint] = owner
    return {
        position: Match(txid=block.txids[position], outputs=made.get(position, {}), spends=spent.get(position, {}))
        for position in sorted(made.keys() | spent.keys())
    }


def match_transaction(
    transaction: Transaction, scripts: AbstractSet[bytes], outpoints: Mapping[PackedOutpoint, ScriptHash]
) -> Match | None:
    """Return what of a single transaction concerns watched scripts, or None."""
    made = {
        packed_outpoint(transaction.txid, index): scripthash_of(output.script)
        for index, output in enumerate(transaction.outputs)
        if output.script in scripts
    }
    packed = [packed_outpoint(spend.txid, spend.index) for spend in transaction.spends]
    spent = {outpoint: outpoints[outpoint] for outpoint in packed if outpoint in outpoints}
    return Match(txid=transaction.txid, outputs=made, spends=spent) if made or spent else None
