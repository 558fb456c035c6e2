"""Keeps the view of the node's mempool: by looking at all of it, and by notices of single transactions."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.transaction import (
    Outpoint,
    PackedOutpoint,
    Transaction,
    TxOutput,
    packed_outpoint,
    parse_transaction,
    unpacked_outpoint,
)
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.view import NodeView
from lightipn.errors import SourceRefusedError, TransactionError
from lightipn.store import node_findings
from lightipn.store.database import Store

PAGE = 100
MOST_PREVOUTS = 100


class MempoolFollower:
    """Keeps the view of the mempool, and what is searched for because of it."""

    def __init__(self, node: NodeRpc, store: Store, view: NodeView) -> None:
        self._node = node
        self._store = store
        self._view = view
        self._noticed: set[Txid] = set()  # since the listing was asked for
        self._perhaps_mined: set[Txid] = set()  # undeniable payments all of whose inputs are spent

    async def follow(self) -> int | None:
        """Bring the view up to the mempool of the node, and return how many transactions were new.

        None if a block came meanwhile, which is to be looked through first.
        """
        view = self._view
        known = view.mempool.txids()  # of now: what a notice adds meanwhile may not be in the listing
        self._noticed.clear()
        listed = await self._node.fetch_mempool()
        info = await self._node.fetch_chain_info()
        if view.position is None or info.tip_hash != view.position.block_hash:
            return None
        new, gone = view.mempool.compare(listed, known)
        for at in range(0, len(new), PAGE):
            async with view.lock:
                await self._take_all(new[at : at + PAGE])
        async with view.lock:
            for txid in gone:
                if txid not in self._noticed:  # it left, and came back
                    view.book.touch(view.mempool.remove(txid))
            for txid in await self._store.read(node_findings.load_all_undeniable):
                if txid in listed or await self._is_in_no_block(txid):
                    await self._store.transact(partial(node_findings.drop_strays_of, txid=txid))
        return len(new)

    async def _is_in_no_block(self, txid: Txid) -> bool:
        """Tell whether a payment that may stand in a block which nobody can show has an input that no block spent."""
        if txid in self._perhaps_mined:
            return False
        for outpoint in await self._store.read(lambda db: node_findings.load_spends(db, txid)):
            if await self._node.fetch_unspent(outpoint) is not None:
                return True
        self._perhaps_mined.add(txid)  # what is spent stays spent
        return False

    # --- single transactions ---

    async def take_notice(self, txid: Txid, raw: bytes | None) -> None:
        """Look at a transaction that the node has just spoken of; it may be in a block as well."""
        self._noticed.add(txid)
        if txid in self._view.mempool:
            return
        async with self._view.lock:
            if raw is None:
                await self._take_all([txid])
                return
            transaction = _parsed(raw)
            if transaction is None:
                return
            # It is told of transactions of blocks, too; only what concerns us is worth a question.
            if self._view.targets.match(transaction) is None or await self._node.is_in_mempool(txid):
                await self._take(transaction)

    async def take_removal(self, txid: Txid) -> None:
        """Take note that a transaction left the mempool, and not for a block."""
        async with self._view.lock:
            self._view.book.touch(self._view.mempool.remove(txid))

    # --- for whoever has the lock ---

    async def take_payments_to(self, scripts: Iterable[bytes]) -> None:
        """Find the payments that wait for scripts which were not searched for when they came."""
        for candidates in self._view.mempool.candidates(scripts):
            await self._take_all(candidates)
            await trio.lowlevel.checkpoint()

    async def take_spenders_of(self, outpoints: Sequence[PackedOutpoint]) -> None:
        """Find the transactions that wait and spend outputs which were not searched for when they came."""
        for at in range(0, len(outpoints), PAGE):
            page = [unpacked_outpoint(each) for each in outpoints[at : at + PAGE]]
            await self._take_all([txid for txid in await self._node.fetch_spenders(page) if txid is not None])

    async def _take_all(self, txids: Sequence[Txid]) -> None:
        for at in range(0, len(txids), PAGE):
            for raw in await self._node.fetch_raw_many(txids[at : at + PAGE]):
                transaction = _parsed(raw) if raw is not None else None
                if transaction is not None:
                    await self._take(transaction)

    async def _take(self, transaction: Transaction) -> None:
        view, targets = self._view, self._view.targets
        match = targets.match(transaction)
        if match is not None and not targets.is_about_rivals_alone(match):
            await self._learn_prevouts(transaction)
            match = targets.match(transaction)
        is_new = transaction.txid not in view.mempool
        view.book.touch(view.mempool.add(transaction, match))
        if is_new and (children := view.mempool.children_of(transaction.txid)):
            await self._take_all(children)  # what they spend was not to be had before their parent came
        if match is not None and match.outputs:
            await self._follow_outputs(match.outputs)

    async def _follow_outputs(self, outputs: Mapping[PackedOutpoint, ScriptHash]) -> None:
        """Look for who spends the outputs of a payment that waits; such a child may have come before its parent."""
        new = [unpacked_outpoint(each) for each in self._view.targets.add_waiting(outputs)]
        spenders = await self._node.fetch_spenders(new)
        await self._take_all([txid for txid in spenders if txid is not None and txid in self._view.mempool])

    # --- what payments spend ---

    async def _learn_prevouts(self, transaction: Transaction) -> None:
        """Find out what a payment spends: whoever spends the same replaces it."""
        targets = self._view.targets
        for spend in transaction.spends[:MOST_PREVOUTS]:
            packed = packed_outpoint(spend.txid, spend.index)
            output = await self.output_of(spend)
            if output is None:
                continue
            if strays := targets.stray_of(packed, output):
                if spend.txid not in self._view.mempool:  # else it stands in no block
                    await self._store.transact(partial(node_findings.save_strays, strays=strays))
                targets.add_strays(strays)
            else:
                targets.add_contested(packed, scripthash_of(output.script), height=self._view.height)

    async def output_of(self, outpoint: Outpoint) -> TxOutput | None:
        """Return an output that is unspent but for the mempool, or of a transaction that waits; else None."""
        if outpoint in self._view.prevouts:
            return self._view.prevouts[outpoint]
        found = await self._node.fetch_unspent(outpoint)
        if found is None and outpoint.txid in self._view.mempool:
            try:
                parent = _parsed(await self._node.fetch_raw(outpoint.txid))
            except SourceRefusedError:
                return None
            if parent is not None and outpoint.index < len(parent.outputs):
                found = parent.outputs[outpoint.index]
        if found is not None:
            self._view.remember(outpoint, found)
        return found


def _parsed(raw: bytes) -> Transaction | None:
    try:
        return parse_transaction(raw)
    except TransactionError:
        return None  # of exactly 64 bytes: it cannot pay an address
