r"""The made-up chain: blocks, a mempool, and whatever a story needs to happen to them.

    o----o----o----x----x          reorg(2): the two lost blocks give their payments back to the mempool,
              \                    their coinbases vanish, and depth + 1 new blocks are mined
               o----o----o

Synchronous and deterministic: the same calls yield the same bytes. Every mutation raises ``version``; who wants to
tell others what changed asks ``touched_since`` with the version it has seen, so the chain knows no listeners.
"""

from collections.abc import Collection, Iterable, Sequence

from lightipn.bitcoin.hashes import BlockHash, Txid, hex_of, sha256d
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_tree_of
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput, parse_transaction
from lightipn.errors import RequestError
from lightipn.simulator import forge
from lightipn.simulator.index import leaves_first
from lightipn.simulator.view import Block, ChainView

BLOCK_INTERVAL_S = 600
FEE_SAT = 1_000
CHANGE_SAT = 10_000_000
DUST_SAT = 546  # Bitcoin Core's dust limit of a P2PKH output: less change than this goes to the miner


class SimulatedChain(ChainView):
    """A regtest chain and its mempool.

    Args:
        start_time: unix seconds of block 1; by default 600 s after genesis. Each block is 600 s later than the last
            one mined; set ``time`` to move the next one.
        seed: chains with different seeds never share a block or a transaction they made up themselves.
    """

    def __init__(self, *, start_time: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.time = parse_header(self.header_at(0)).time if start_time is None else start_time - BLOCK_INTERVAL_S
        self._counter = 0
        self._change: dict[Txid, TxOutput] = {}
        self._ambiguous: list[tuple[Transaction, Transaction]] = []  # a payment, and what seems to prove it

    def copy(self, *, seed: int) -> "SimulatedChain":
        """Return a chain with the same past; with another seed, its future differs."""
        twin = SimulatedChain(seed=seed)
        twin.adopt(self)
        return twin

    def adopt(self, other: "SimulatedChain") -> None:
        """Become what another chain is now, but for its seed; what happens to one of them later stays its own."""
        self._see_as(other)
        self.time = other.time
        self._counter = other._counter
        self._change = dict(other._change)
        self._ambiguous = list(other._ambiguous)

    def mine(
        self, count: int = 1, *, include: Collection[Txid] | None = None, pay_to: bytes | None = None
    ) -> list[Block]:
        """Mine blocks; the first takes the mempool.

        Args:
            include: only these, and the unconfirmed parents they need; an empty one mines an empty block.
            pay_to: output script of the coinbases.
        """
        self.version += 1
        unknown = set(include or ()) - self._mempool.keys()
        if unknown:
            raise ValueError(f"{len(unknown)} transactions to include are not in the mempool")
        chosen = leaves_first(self._mempool if include is None else include, self._unconfirmed_parents)
        return [self._connect(chosen if number == 0 else (), pay_to) for number in range(count)]

    def mine_ambiguous(self, script: bytes, amount_sat: int) -> Txid:
        """Mine a block with a transaction of 64 bytes, by which a payment that never was can be proved.

        Only a server with ``sixty_four_byte_branch`` claims that payment.

        Returns:
            The txid of the payment.

        Source:
            CVE-2017-12842.
        """
        self.version += 1
        payment, carrier = forge.ambiguous_pair(script, amount_sat, label=self._new_label())
        self._accept(carrier, [])
        self.mine(include=[carrier.txid])
        self._ambiguous.append((payment, carrier))
        return payment.txid

    def pay(
        self,
        script: bytes,
        amount_sat: int,
        *,
        spend: Sequence[Outpoint] | None = None,
        rbf: bool = True,
        change_to: bytes | None = None,
        segwit: bool = True,
    ) -> Txid:
        """Put a payment into the mempool; its first output is the payment, the last one change.

        Args:
            spend: its inputs; by default the output of a funding transaction, which can be fetched and is in no block
                and no history. One more of those is added where these do not suffice.
            change_to: output script; by default a new one. Change below the dust limit is left to the miner.

        Raises:
            ValueError: an input is spent already.
        """
        outputs = [(script, amount_sat)]
        return self.pay_many(outputs, spend=spend, rbf=rbf, change_to=change_to, segwit=segwit)

    def pay_many(
        self,
        outputs: Iterable[tuple[bytes, int]],
        *,
        spend: Sequence[Outpoint] | None = None,
        rbf: bool = True,
        change_to: bytes | None = None,
        segwit: bool = True,
    ) -> Txid:
        """Put a transaction with many payments, each (output script, satoshis), into the mempool; else as ``pay``."""
        spends = list(spend or ())
        for outpoint in spends:
            if outpoint in self._index.spenders:
                raise ValueError(f"output {outpoint.index} of {hex_of(outpoint.txid)} is spent already")
        payments = [TxOutput(amount_sat=amount_sat, script=script) for script, amount_sat in outputs]
        if not payments:
            raise ValueError("there is nothing to pay, want at least one output")
        self.version += 1
        change = self._fund(spends, payments, change_to or forge.made_up_script(self._new_label()), FEE_SAT)
        sequence = forge.SEQUENCE_RBF if rbf else forge.SEQUENCE_FINAL
        transaction = forge.payment_of(spends, payments + change, sequence=sequence, segwit=segwit)
        return self._accept(transaction, change)

    def replace(self, txid: Txid, script: bytes | None = None, amount_sat: int | None = None) -> Txid:
        """Replace an unconfirmed transaction, and with it its descendants, by one that spends the same inputs.

        Args:
            script, amount_sat: of the first output; by default unchanged, which makes it a mere fee bump. Further
                payments stay; the change pays the higher fee.

        Raises:
            ValueError: the transaction is not in the mempool.
        """
        self._check_in_mempool(txid)
        self.version += 1
        original = self._index.transactions[txid]
        old_change = self._change.get(txid)
        fee_sat = self.fee_sat(txid) + FEE_SAT
        first = original.outputs[0]
        payments = list(original.outputs if old_change is None else original.outputs[:-1])
        payments[0] = TxOutput(
            amount_sat=first.amount_sat if amount_sat is None else amount_sat,
            script=first.script if script is None else script,
        )
        label = self._new_label()
        self._forget(self._index.family_of([txid]))
        spends = list(original.spends)
        change_to = forge.made_up_script(label) if old_change is None else old_change.script
        change = self._fund(spends, payments, change_to, fee_sat)
        segwit = original.raw[4:6] == b"\x00\x01"
        return self._accept(forge.payment_of(spends, payments + change, segwit=segwit), change)

    def evict(self, txid: Txid) -> list[Txid]:
        """Let the mempool forget a transaction and its descendants; return them.

        Raises:
            ValueError: the transaction is not in the mempool.
        """
        self._check_in_mempool(txid)
        self.version += 1
        family = self._index.family_of([txid])
        self._forget(family)
        return family

    def reorg(
        self, depth: int, *, blocks: int | None = None, drop: Collection[Txid] = (), remine: bool = False
    ) -> list[Block]:
        """Disconnect the last ``depth`` blocks, mine others in their place, and return the new ones.

        Args:
            blocks: how many to mine; by default one more than were lost.
            drop: transactions of the lost blocks that vanish with them; all others return to the mempool.
            remine: take what returned into the first new block.
        """
        if not 0 < depth <= self.tip_height:
            raise ValueError(f"depth is {depth}, want 1 to {self.tip_height}")
        self.version += 1
        lost = [txid for block in self._blocks[-depth:] for txid in block.txids]
        coinbases = {block.txids[0] for block in self._blocks[-depth:]}
        del self._blocks[-depth:]
        for txid in lost:
            del self._places[txid]
        self._mempool = dict.fromkeys([*lost, *self._mempool])
        for txid in lost:
            self._touch(txid)
        self._forget(self._index.family_of(txid for txid in lost if txid in coinbases or txid in drop))
        returned = [txid for txid in lost if txid in self._mempool] if remine else []
        count = depth + 1 if blocks is None else blocks
        return self.mine(count, include=returned)

    def submit(self, raw: bytes) -> Txid:
        """Take a broadcast transaction into the mempool, replacing what it may replace.

        Raises:
            TransactionError: not a transaction.
            RequestError: ``bad-transaction``: a coinbase, in a block already, or in conflict with a block or with a
                transaction that does not signal replaceability.
        """
        transaction = parse_transaction(raw)
        if transaction.txid in self._mempool:
            return transaction.txid
        conflicts = {self._index.spenders[spend] for spend in transaction.spends if spend in self._index.spenders}
        final = [txid for txid in conflicts if not self._index.transactions[txid].signals_rbf]
        if transaction.is_coinbase or final or any(txid in self._places for txid in (transaction.txid, *conflicts)):
            raise RequestError("transaction is in conflict with what is known", code="bad-transaction")
        self.version += 1
        self._forget(self._index.family_of(sorted(conflicts)))
        return self._accept(transaction, [])

    def _new_label(self) -> str:
        self._counter += 1
        return f"{self.seed}/{self._counter}"

    def _check_in_mempool(self, txid: Txid) -> None:
        if txid not in self._mempool:
            raise ValueError(f"{hex_of(txid)} is not in the mempool")

    def _fund(self, spends: list[Outpoint], payments: list[TxOutput], change_to: bytes, fee_sat: int) -> list[TxOutput]:
        """Add an input to ``spends`` where they do not suffice; return the change, none or one output."""
        needed_sat = sum(payment.amount_sat for payment in payments) + fee_sat
        for outpoint in spends:
            if self._amount_of(outpoint) is None:
                self._made_up[outpoint] = needed_sat + CHANGE_SAT
        available_sat = sum(self._amount_of(outpoint) or 0 for outpoint in spends)
        if available_sat < needed_sat:
            label = f"funding {self._new_label()}"
            missing_sat = needed_sat - available_sat + CHANGE_SAT
            output = TxOutput(amount_sat=missing_sat, script=forge.made_up_script(label))
            funding = forge.payment_of([Outpoint(Txid(sha256d(label.encode())), 0)], [output])
            self._index.add(funding)
            self._funding.add(funding.txid)
            available_sat += missing_sat
            spends.append(Outpoint(funding.txid, 0))
        change_sat = available_sat - needed_sat
        return [TxOutput(amount_sat=change_sat, script=change_to)] if change_sat > DUST_SAT else []

    def _touch(self, txid: Txid) -> None:
        # A child's own claim depends on where its parent is: 0 becomes -1, and back.
        for related in (txid, *self._index.children_of(txid)):
            self._index.mark_touched(related, self.version)

    def _accept(self, transaction: Transaction, change: Sequence[TxOutput]) -> Txid:
        self._index.add(transaction)
        self._mempool[transaction.txid] = None
        if change:
            self._change[transaction.txid] = change[0]
        self._touch(transaction.txid)
        return transaction.txid

    def _forget(self, family: Iterable[Txid]) -> None:
        for txid in reversed(list(family)):
            self._touch(txid)
            self._mempool.pop(txid, None)
            self._change.pop(txid, None)
            self._index.remove(txid)

    def _connect(self, txids: Sequence[Txid], pay_to: bytes | None) -> Block:
        self.time += BLOCK_INTERVAL_S
        self._counter += 1
        height = self.tip_height + 1
        script = pay_to or forge.made_up_script(f"miner {self.seed}")
        coinbase = forge.coinbase_of(height, script, extra=self.seed << 32 | self._counter)
        self._index.add(coinbase)
        all_txids = (coinbase.txid, *txids)
        levels = merkle_tree_of(all_txids)
        header = forge.mined_header(self._blocks[-1].block_hash, levels[-1][0], time=self.time)
        block = Block(height=height, block_hash=BlockHash(sha256d(header)), header=header, txids=all_txids)
        self._blocks.append(block)
        for position, txid in enumerate(all_txids):
            self._places[txid] = (height, position)
            self._mempool.pop(txid, None)
            self._touch(txid)
        return block
