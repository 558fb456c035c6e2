"""Copies of a chain in which a lie was made true, so that all that is said of them fits together.

A server that lies about the chain looks at such a copy. Headers, histories, statuses, balances, proofs and raw bytes
then agree without more ado, and ``methods`` need not know of any lie.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lightipn.bitcoin.hashes import BlockHash, Txid, sha256d
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_branch_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Transaction
from lightipn.chain.source import MerkleBranch
from lightipn.simulator import forge
from lightipn.simulator.blocks import FEE_SAT, SimulatedChain
from lightipn.simulator.invention import InventedPayment

OTHER_SEEDS = 1 << 20  # seeds of branches; those of honest chains are small numbers
HEAVY_BITS = REGTEST.pow_limit_bits - (1 << 24)  # one byte less of target: 256 times the work


class AlteredChain(SimulatedChain):
    """A copy of a chain, to be altered. Altered alike, copies of the same chain are the same, byte by byte."""

    def __init__(self, truth: SimulatedChain) -> None:
        super().__init__()
        self.adopt(truth)
        self.seed = OTHER_SEEDS + truth.seed
        self._false_branches: dict[Txid, MerkleBranch] = {}

    def unconfirmed(self) -> tuple[Transaction, ...]:
        """Return the transactions of the mempool, oldest first."""
        return tuple(self._index.transactions[txid] for txid in self._mempool)

    def fork(self, height: int, payments: Sequence[InventedPayment]) -> None:
        """Replace the blocks above a height by others, one fewer; without blocks above it, do nothing.

        Args:
            payments: those that claim a height of the new blocks are put into them.
        """
        depth = self.tip_height - height
        if depth < 1:
            return
        self.reorg(depth, blocks=0)
        self.time = parse_header(self.header_at(height)).time  # neither time nor counter know of blocks that are gone
        self._counter = 0
        for _ in range(depth - 1):
            chosen = [self._take(payment) for payment in payments if payment.height == self.tip_height + 1]
            self.mine(include=chosen)

    def keep(self, transactions: Iterable[Transaction]) -> None:
        """Take transactions into the mempool that are not known, and forget whatever is in conflict with them."""
        for transaction in transactions:
            if transaction.txid in self._index.transactions:
                continue
            rivals = {self._index.spenders[spend] for spend in transaction.spends if spend in self._index.spenders}
            self._lose(self._index.family_of(sorted(rivals)))
            self._accept(transaction, [])

    def cut(self, height: int, mempool: Iterable[Transaction]) -> None:
        """Forget all blocks above a height, and have this mempool instead of one's own."""
        lost = [txid for block in self._blocks[height + 1 :] for txid in block.txids]
        del self._blocks[height + 1 :]
        self._lose(self._index.family_of(txid for txid in [*lost, *self._mempool] if txid in self._index.transactions))
        for transaction in mempool:
            is_known = transaction.txid in self._index.transactions
            if not is_known and not self._index.spenders.keys() & set(transaction.spends):
                self._accept(transaction, [])

    def invent(self, payments: Iterable[InventedPayment]) -> None:
        """Take in payments that nobody made, but for those that are in a branch's blocks already."""
        for payment in payments:
            txid = payment.txid
            if txid in self._index.transactions:
                continue
            self._take(payment)
            if payment.height is None:
                continue
            del self._mempool[txid]
            self._places[txid] = (payment.height, 0)
            if payment.height <= self.tip_height:
                # What its branch would be if the block held it, too. The block stays as it is, for the sake of others.
                txids = (*self.block_txids(payment.height), txid)
                position = len(txids) - 1
                self._places[txid] = (payment.height, position)
                self._false_branches[txid] = MerkleBranch(position, merkle_branch_of(txids, position))

    def believe_ambiguous(self) -> None:
        """Take in the payments that a 64-byte transaction of a block seems to prove (CVE-2017-12842)."""
        for payment, carrier in self._ambiguous:
            place = self._places.get(carrier.txid)
            if place is None or payment.txid in self._index.transactions:
                continue
            height, position = place
            above = self.merkle(carrier.txid, height)
            self._index.add(payment)
            self._places[payment.txid] = place
            siblings = (carrier.raw[32:], *above.siblings)
            self._false_branches[payment.txid] = MerkleBranch(2 * position, siblings)

    def spoil_tip(self, *, bits: int, is_linked: bool) -> None:
        """Give the last block, unless it is genesis, another header, which carries the work that its bits state."""
        if not self.tip_height:
            return
        tip = self._blocks[-1]
        header = parse_header(tip.header)
        previous = header.previous_hash if is_linked else BlockHash(sha256d(header.previous_hash))
        raw = forge.mined_header(previous, header.merkle_root, time=header.time, bits=bits)
        self._blocks[-1] = replace(tip, header=raw, block_hash=BlockHash(sha256d(raw)))

    def merkle(self, txid: Txid, height: int) -> MerkleBranch:
        """Return the proof that a transaction is in a block, or seems to be; ``LookupError`` where it does not."""
        branch = self._false_branches.get(txid)
        return branch if branch and self.height_of(txid) == height else super().merkle(txid, height)

    def _take(self, payment: InventedPayment) -> Txid:
        transaction = payment.transaction
        if payment.spend is None:
            self._made_up[transaction.spends[0]] = payment.amount_sat + FEE_SAT
        return self._accept(transaction, [])

    def _lose(self, family: list[Txid]) -> None:
        for txid in family:
            self._places.pop(txid, None)
        self._forget(family)
