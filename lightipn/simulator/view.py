"""Everything that can be asked about the made-up chain. What can happen to it is in ``blocks``."""

from dataclasses import dataclass

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid, hex_of, scripthash_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_tree_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import History, HistoryEntry, Status, status_of
from lightipn.chain.source import MerkleBranch
from lightipn.simulator.index import ScriptIndex

TREES_KEPT = 16  # proofs are asked for block by block


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of the best chain.

    Args:
        header: 80 bytes.
        txids: in block order; the first is the coinbase.
    """

    height: int
    block_hash: BlockHash
    header: bytes
    txids: tuple[Txid, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coin:
    """An output that pays a scripthash, spent or not.

    Args:
        height: of its block; None in the mempool.
        spent_by: the transaction that spends it, in a block or in the mempool.
    """

    outpoint: Outpoint
    amount_sat: int
    height: int | None
    spent_by: Txid | None


class ChainView:
    """A regtest chain and its mempool, as an honest server sees them."""

    def __init__(self) -> None:
        genesis = parse_header(REGTEST.genesis_header)
        self.version = 0
        self._index = ScriptIndex()
        self._blocks = [
            # Genesis holds its coinbase alone, so its root is that txid; as in Bitcoin Core, nobody can fetch it.
            Block(height=0, block_hash=genesis.block_hash, header=genesis.raw, txids=(Txid(genesis.merkle_root),))
        ]
        self._places: dict[Txid, tuple[int, int]] = {}  # height and position
        self._mempool: dict[Txid, None] = {}
        self._funding: set[Txid] = set()  # where the money of payments comes from; only their bytes can be asked for
        self._made_up: dict[Outpoint, int] = {}  # amounts of outputs that no known transaction has
        self._trees: dict[BlockHash, list[list[bytes]]] = {}

    @property
    def tip_height(self) -> int:
        """Height of the best block."""
        return len(self._blocks) - 1

    @property
    def mempool(self) -> tuple[Txid, ...]:
        """The unconfirmed transactions, oldest first."""
        return tuple(self._mempool)

    def block_at(self, height: int) -> Block:
        """Return the block at a height.

        Raises:
            LookupError: the chain has no such height.
        """
        if not 0 <= height <= self.tip_height:
            raise LookupError(f"height is {height}, want 0 to {self.tip_height}")
        return self._blocks[height]

    def header_at(self, height: int) -> bytes:
        """Return the 80 bytes of a header; ``LookupError`` where the chain has no such height."""
        return self.block_at(height).header

    def headers_from(self, start: int, count: int) -> list[bytes]:
        """Return up to ``count`` consecutive headers; fewer, or none, at the tip."""
        return [block.header for block in self._blocks[start : start + count]]

    def block_txids(self, height: int) -> tuple[Txid, ...]:
        """Return the txids of a block, in order; ``LookupError`` where the chain has no such height."""
        return self.block_at(height).txids

    def transaction(self, txid: Txid) -> bytes | None:
        """Return raw bytes, or None for a transaction that is neither in a block nor in the mempool."""
        found = self._index.transactions.get(txid)
        return None if found is None else found.raw

    def height_of(self, txid: Txid) -> int | None:
        """Return the height of the block a transaction is in; None in the mempool, and where it is unknown."""
        place = self._places.get(txid)
        return None if place is None else place[0]

    def fee_sat(self, txid: Txid) -> int:
        """Return the fee of a known transaction; 0 where an input's amount is unknown."""
        transaction = self._index.transactions[txid]
        amounts = [self._amount_of(spend) for spend in transaction.spends]
        known = [amount for amount in amounts if amount is not None]
        paid_sat = sum(output.amount_sat for output in transaction.outputs)
        return max(sum(known) - paid_sat, 0) if len(known) == len(amounts) else 0

    def history(self, scripthash: ScriptHash) -> History:
        """Return what an honest server claims: blocks in order, then the mempool as protocol 1.6 orders it."""
        confirmed, unconfirmed = [], []
        for txid in self._index.touching(scripthash):
            place = self._places.get(txid)
            if txid in self._funding:
                continue
            if place is None:
                unconfirmed.append((self._has_unconfirmed_parent(txid), hex_of(txid), txid))
            else:
                confirmed.append((place, txid))
        confirmed.sort()
        unconfirmed.sort()
        return (
            *(HistoryEntry(txid, height) for (height, _), txid in confirmed),
            *(HistoryEntry(txid, None, has_parent) for has_parent, _, txid in unconfirmed),
        )

    def status(self, scripthash: ScriptHash) -> Status | None:
        """Return the status of ``history``."""
        return status_of(self.history(scripthash))

    def coins(self, scripthash: ScriptHash) -> list[Coin]:
        """Return every output that pays a scripthash, in the order of its history."""
        return [
            Coin(
                outpoint=Outpoint(entry.txid, index),
                amount_sat=output.amount_sat,
                height=entry.height,
                spent_by=self._index.spenders.get(Outpoint(entry.txid, index)),
            )
            for entry in self.history(scripthash)
            for index, output in enumerate(self._index.transactions[entry.txid].outputs)
            if scripthash_of(output.script) == scripthash
        ]

    def merkle(self, txid: Txid, height: int) -> MerkleBranch:
        """Return the proof that a transaction is in the block at ``height``.

        Raises:
            LookupError: it is not.
        """
        place = self._places.get(txid, (0, 0))  # the coinbase of genesis has no place of its own
        if place[0] != height or self.block_at(height).txids[place[1]] != txid:
            raise LookupError(f"{hex_of(txid)} is not in the block at height {height}")
        return self.merkle_at(height, place[1])

    def merkle_at(self, height: int, position: int) -> MerkleBranch:
        """Return the proof for the transaction at a position; ``LookupError`` where the block has none."""
        block = self.block_at(height)
        if not 0 <= position < len(block.txids):
            raise LookupError(f"position is {position}, want 0 to {len(block.txids) - 1}")
        levels = self._trees.get(block.block_hash)
        if levels is None:
            levels = self._trees[block.block_hash] = merkle_tree_of(block.txids)
            if len(self._trees) > TREES_KEPT:
                del self._trees[next(iter(self._trees))]
        siblings = []
        index = position
        for level in levels[:-1]:
            siblings.append(level[min(index ^ 1, len(level) - 1)])  # the last node of an odd level is its own sibling
            index >>= 1
        return MerkleBranch(position, tuple(siblings))

    def touched_since(self, version: int) -> list[ScriptHash]:
        """Return the scripthashes whose history may have changed after this version, the earliest first."""
        return self._index.touched_since(version)

    def _see_as(self, other: "ChainView") -> None:
        self.version = other.version
        self._index = other._index.copy()
        self._blocks = list(other._blocks)
        self._places = dict(other._places)
        self._mempool = dict(other._mempool)
        self._made_up = dict(other._made_up)
        self._funding = set(other._funding)

    def _unconfirmed_parents(self, txid: Txid) -> list[Txid]:
        return [spend.txid for spend in self._index.transactions[txid].spends if spend.txid in self._mempool]

    def _has_unconfirmed_parent(self, txid: Txid) -> bool:
        return any(spend.txid in self._mempool for spend in self._index.transactions[txid].spends)

    def _amount_of(self, outpoint: Outpoint) -> int | None:
        parent = self._index.transactions.get(outpoint.txid)
        if parent is None:
            return self._made_up.get(outpoint)
        return parent.outputs[outpoint.index].amount_sat if outpoint.index < len(parent.outputs) else None
