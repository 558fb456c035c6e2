"""Goes from block to block along the node's chain, through its reorgs and over what it has pruned.

Each block's findings and the new position are one transaction.
"""

from functools import partial

import structlog

from lightipn.bitcoin.block import parse_block
from lightipn.bitcoin.hashes import BlockHash, ScriptHash, hex_of, scripthash_of
from lightipn.bitcoin.transaction import PackedOutpoint, packed_outpoint
from lightipn.bitcoind.answers import ChainInfo
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.targets import Strays
from lightipn.bitcoind.view import NodeView
from lightipn.errors import ProtocolError, SourceRefusedError, SourceUnavailableError
from lightipn.store import node_blocks, node_findings, node_scripts
from lightipn.store.database import Store
from lightipn.store.node_blocks import Position
from lightipn.store.node_findings import BLOCKS_KEPT, FoundTransaction

HASHES_PAGE = 100

log = structlog.get_logger("bitcoind")


class BlockFollower:
    """Keeps the store's index of the node's blocks."""

    def __init__(self, node: NodeRpc, store: Store, view: NodeView) -> None:
        self._node = node
        self._store = store
        self._view = view

    async def open(self, info: ChainInfo) -> None:
        """Go on where the store stands, or begin at the node's tip."""
        if self._view.position is not None:
            return
        position = await self._store.read(node_blocks.load_position)
        if position is None:
            lowest = info.prune_height or 0
            work = partial(node_blocks.first_position, node_height=info.height, lowest=lowest)
            height = await self._store.read(work)
            hashes = await self._hashes_up_to(height)
            await self._store.transact(lambda db: node_blocks.begin(db, height, hashes))
            position = Position(height, hashes[-1])
            log.info("bitcoind.scan_begun", height=height)
        await self._store.transact(node_scripts.drop_stale_scripts)
        targets = self._view.targets
        targets.add_own(dict(await self._store.read(node_findings.load_outputs)))
        for outpoint, owner in await self._store.read(node_findings.load_contested):
            targets.add_contested(outpoint, owner, height=position.height)
        self._view.position = position

    async def _hashes_up_to(self, height: int) -> list[BlockHash]:
        """Return the hashes of a block and of those before it, where a reorg may fork off."""
        count = min(height + 1, BLOCKS_KEPT)
        hashes = await self._node.fetch_block_hashes(height + 1 - count, count)
        if len(hashes) != count:
            raise SourceUnavailableError("chain-changed", source=self._node.name)
        return hashes

    async def follow(self, info: ChainInfo) -> None:
        """Look through all blocks up to the node's tip.

        Raises:
            SourceUnavailableError: the node's chain changed meanwhile: look again.
        """
        view = self._view
        while view.position is not None and view.position.block_hash != info.tip_hash:
            await self._leave_stale_blocks()
            if view.height >= info.height:
                return  # its tip is another one by now
            if info.prune_height is not None and view.height + 1 < info.prune_height:
                await self._skip_pruned(info.prune_height)
                continue
            count = min(HASHES_PAGE, info.height - view.height)
            hashes = await self._node.fetch_block_hashes(view.height + 1, count)
            if not hashes:
                raise SourceUnavailableError("chain-changed", source=self._node.name)
            for block_hash in hashes:
                await self._take_block(block_hash)

    async def _leave_stale_blocks(self) -> None:
        """Go back to the last block that the node's chain and what was looked through have in common."""
        view = self._view
        fork_height = view.height
        while True:
            ours = await self._store.read(partial(node_blocks.load_block_hash, height=fork_height))
            if ours is None:
                raise SourceUnavailableError("reorg-too-deep", source=self._node.name)
            if await self._node.fetch_block_hashes(fork_height, 1) == [ours]:
                break
            fork_height -= 1
        if fork_height == view.height:
            return
        async with view.lock:
            await self._learn_prevouts(fork_height)
            touched, stale = await self._store.transact(partial(node_blocks.disconnect, fork_height=fork_height))
            log.warning("bitcoind.reorg_followed", depth_blocks=view.height - fork_height, fork_height=fork_height)
            view.position = Position(fork_height, ours)
            view.targets.past_pending.update(stale)
            view.book.touch(touched)

    async def _learn_prevouts(self, fork_height: int) -> None:
        """Find out what payments spend that lose their blocks: a rival on the other branch may have taken it.

        The node's undo data of a block tells that, while it has it; its unspent outputs do not any more.
        """
        for txid, block_hash in await self._store.read(lambda db: node_blocks.load_found_above(db, fork_height)):
            try:
                prevouts = await self._node.fetch_prevouts(txid, block_hash)
            except SourceRefusedError:
                continue  # pruned meanwhile, or never told
            for outpoint, output in prevouts.items():
                self._view.remember(outpoint, output)
                packed, owner = packed_outpoint(outpoint.txid, outpoint.index), scripthash_of(output.script)
                self._view.targets.add_contested(packed, owner, height=fork_height)

    async def _skip_pruned(self, prune_height: int) -> None:
        """Go on where the node's blocks begin; what was in the ones between is looked for in its unspent outputs."""
        hashes = await self._hashes_up_to(prune_height - 1)
        view = self._view
        async with view.lock:
            first = view.height + 1
            kept = await self._store.transact(lambda db: node_blocks.skip_to(db, prune_height - 1, hashes))
            view.position = Position(prune_height - 1, hashes[-1])
            view.targets.add_own(kept)
            view.targets.past_pending.update(await self._store.read(node_scripts.load_all_pending))
        log.error(
            "bitcoind.blocks_pruned",
            first=first,
            last=prune_height - 1,
            hint="the node pruned these blocks before they were looked through; what is unspent is searched for",
        )

    async def _take_block(self, block_hash: BlockHash) -> None:
        raw = await self._node.fetch_block(block_hash)
        block = parse_block(raw)
        if block.header.block_hash != block_hash:
            raise ProtocolError("the node sent another block than was asked for", source=self._node.name)
        view, targets = self._view, self._view.targets
        async with view.lock:
            assert view.position is not None  # whoever follows has opened
            height = view.height + 1
            if block.header.previous_hash != view.position.block_hash:
                raise SourceUnavailableError("chain-changed", source=self._node.name)
            found = targets.found_in(block, height)
            strays = await self._strays_of(found, block_hash)
            if strays:
                targets.add_strays(strays)
                found = targets.found_in(block, height)
            await self._store.transact(lambda db: node_blocks.save_block(db, height, block_hash, found, strays))
            view.position = Position(height, block_hash)
            self._note(found)
            for txid in block.txids:
                view.book.touch(view.mempool.remove(txid))
            targets.tidy_up(view.mempool, height=height)
        log.info(
            "bitcoind.block_scanned",
            height=height,
            block_hash=hex_of(block_hash),
            transactions=len(block.txids),
            found=len(found),
        )

    async def _strays_of(self, found: list[FoundTransaction], block_hash: BlockHash) -> Strays:
        """Return the strays that payments of a block spend."""
        targets = self._view.targets
        strays: dict[PackedOutpoint, tuple[ScriptHash, int]] = {}
        for one in found:
            if not targets.past_pending.isdisjoint(one.outputs.values()):
                strays |= targets.strays_in(await self._node.fetch_prevouts(one.txid, block_hash))
        return strays

    def _note(self, found: list[FoundTransaction]) -> None:
        for one in found:
            self._view.targets.add_own(one.outputs)
            self._view.book.touch([*one.outputs.values(), *one.spends.values()])

    async def search_spends(self, outputs: dict[PackedOutpoint, ScriptHash], *, height: int) -> None:
        """Look for who spends outputs in a block that was looked through without knowing them.

        Raises:
            SourceUnavailableError: there is no such block any more.
        """
        async with self._view.lock:
            block_hash = await self._store.read(partial(node_blocks.load_block_hash, height=height))
            if block_hash is None:
                raise SourceUnavailableError("chain-changed", source=self._node.name)
            block = parse_block(await self._node.fetch_block(block_hash))
            found = self._view.targets.found_of(set(), outputs, block, height)
            await self._store.transact(partial(node_findings.save_found, found=found))
            self._note(found)
