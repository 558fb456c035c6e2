"""What proves a transaction: what was kept of its block, or the block itself."""

from lightipn.bitcoin.block import parse_block
from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.merkle import merkle_branch_of
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.rpc import NOT_FOUND
from lightipn.bitcoind.view import NodeView
from lightipn.chain.source import MerkleBranch
from lightipn.errors import SourceRefusedError, SourceUnavailableError
from lightipn.store import node_findings
from lightipn.store.database import Store


class NodeProofs:
    """Finds merkle branches and raw transactions."""

    def __init__(self, node: NodeRpc, store: Store, view: NodeView) -> None:
        self._node = node
        self._store = store
        self._view = view

    async def branch_of(self, txid: Txid, height: int) -> MerkleBranch:
        """Return the branch of a transaction, as its block gave it, or made of the block.

        Raises:
            SourceRefusedError: there is no such block, or it has no such transaction.
        """
        known = await self._store.read(lambda db: node_findings.load_proof(db, txid))
        if known is not None and known.height == height and known.siblings is not None:
            return MerkleBranch(known.position, known.siblings, self._node.name)
        hashes = await self._node.fetch_block_hashes(height, 1)
        if not hashes:
            raise SourceRefusedError("no such block", code=NOT_FOUND, source=self._node.name)
        block = parse_block(await self._node.fetch_block(hashes[0]))
        if txid not in block.txids:
            raise SourceRefusedError("the block has no such transaction", code=NOT_FOUND, source=self._node.name)
        position = block.txids.index(txid)
        return MerkleBranch(position, merkle_branch_of(block.txids, position), self._node.name)

    async def raw_of(self, txid: Txid) -> bytes:
        """Return raw bytes: of what was found in a block, waits in the mempool, or is in the node's own index.

        Raises:
            SourceRefusedError: there is no such transaction.
            SourceUnavailableError: it may be in a block that nobody can show; that is no denial.
        """
        known = await self._store.read(lambda db: node_findings.load_proof(db, txid))
        if known is not None and known.raw is not None:
            return known.raw
        if known is not None:
            hashes = await self._node.fetch_block_hashes(known.height, 1)
            if hashes:
                return await self._node.fetch_raw_in(txid, hashes[0])
        try:
            return await self._node.fetch_raw(txid)
        except SourceRefusedError as error:
            is_unproved = await self._store.read(lambda db: node_findings.is_unproved(db, txid))
            if not (is_unproved or self._view.targets.past_pending):
                raise
            raise SourceUnavailableError("it may be in a block that is not at hand", source=self._node.name) from error
