"""What happened to scripts before they were watched: one search for all that wait.

    with blockfilterindex    scanblocks names the blocks, each is searched       → the whole past
    without                  scantxoutset names the unspent outputs, and their
                             blocks are searched for just those transactions     → what is unspent: history_from tells

Payments from now on are seen meanwhile. What a block shows is written at once: it is evidence. That a past is known is
written once, at the end, by ``PastFinder``. A search that an error ends goes on with the block at which it was, unless
the chain changed, the node pruned the next blocks, or the scan itself was not over.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from lightipn.bitcoin.block import Block, parse_block
from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.transaction import PackedOutpoint, packed_outpoint
from lightipn.bitcoind.answers import FoundOutput
from lightipn.bitcoind.block_follower import BlockFollower
from lightipn.bitcoind.mempool_follower import MempoolFollower
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.rpc import MISC_ERROR
from lightipn.bitcoind.scans import NodeScans
from lightipn.bitcoind.targets import Strays
from lightipn.bitcoind.view import NodeView
from lightipn.errors import SourceRefusedError, SourceUnavailableError
from lightipn.store import node_blocks, node_findings, node_scripts
from lightipn.store.database import Database, Store
from lightipn.store.node_blocks import Position
from lightipn.store.node_findings import FoundTransaction
from lightipn.store.node_scripts import NodeScript

SCRIPTS_AT_ONCE = 20_000

log = structlog.get_logger("bitcoind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a search found.

    Args:
        outputs: of the scripts that were searched for, as their blocks prove them.
        unproved: unspent ones whose blocks are pruned.
        reached: the block up to which they are whole; what lies higher was looked through without knowing them.
        scanned: the block as of which unspent outputs were scanned, if they were.
        history_from: the height from which on histories are whole; None where all of them is.
    """

    scripthashes: Sequence[ScriptHash]
    outputs: Mapping[PackedOutpoint, ScriptHash]
    unproved: Strays
    reached: Position
    scanned: BlockHash | None
    history_from: int | None


class PastSearch:
    """One search, for scripts up to a block.

    It is a plan, which a scan of the node makes, and then work: block after block. ``run`` may be called again after an
    error once there is a plan, and goes on with the next block. A scan is never gone on with: what the node said of its
    index, or of its outputs, need not be so any more.
    """

    def __init__(
        self, node: NodeRpc, store: Store, view: NodeView, scans: NodeScans, waiting: Sequence[NodeScript]
    ) -> None:
        assert view.position is not None  # scripts are taken up at a position
        self.reached = view.position
        self.is_planned = False
        self._node = node
        self._store = store
        self._view = view
        self._scans = scans
        self._scripthashes = [one.scripthash for one in waiting]
        self._scripts = {one.script for one in waiting if one.script is not None}
        self._named_blocks: deque[tuple[int, BlockHash]] = deque()  # by filters, and not searched yet
        self._unspent: deque[Sequence[FoundOutput]] = deque()  # those of a block together, and not proved yet
        self._scanned: BlockHash | None = None
        self._history_from: int | None = None
        self._outputs: dict[PackedOutpoint, ScriptHash] = {}
        self._unproved: dict[PackedOutpoint, tuple[ScriptHash, int]] = {}

    async def run(self) -> Past:
        """Search to the end.

        Raises:
            SourceError: the node cannot be asked, or says what cannot be, for the moment.
        """
        if not self.is_planned:
            if await self._scans.can_scan_blocks(self.reached.height):
                self._named_blocks = deque(await self._scan_blocks())
            else:
                await self._plan_by_outputs()
            self.is_planned = True
        while self._named_blocks:
            height, block_hash = self._named_blocks[0]
            if await self._search_block(height, block_hash) is None and self._history_from is None:
                await self._plan_by_outputs()  # what it made may have been spent, by blocks that do not show of whom
            self._named_blocks.popleft()
        while self._unspent:
            await self._prove(self._unspent[0])
            self._unspent.popleft()
        return Past(
            scripthashes=self._scripthashes,
            outputs=self._outputs,
            unproved=self._unproved,
            reached=self.reached,
            scanned=self._scanned,
            history_from=self._history_from,
        )

    # --- planning ---

    async def _scan_blocks(self) -> list[tuple[int, BlockHash]]:
        """Return the blocks whose filters speak of the scripts."""
        scan = await self._scans.scan_blocks(self._scripts, up_to=self.reached.height)
        if scan.to_height < self.reached.height:
            raise self._chain_changed()
        named = []
        for height, block_hash in zip(await self._node.fetch_heights(scan.blocks), scan.blocks, strict=True):
            if height is None:
                raise self._chain_changed()
            named.append((height, block_hash))
        return sorted(named)

    async def _plan_by_outputs(self) -> None:
        """Find the unspent outputs; what came before is not whole."""
        scan = await self._scans.scan_outputs(self._scripts)
        # Of the block that the scan speaks of, ours must be an ancestor: both are in the node's chain now.
        [scan_height, our_height] = await self._node.fetch_heights([scan.best_block, self.reached.block_hash])
        if scan_height is None or our_height is None or scan_height < our_height:
            raise self._chain_changed()
        old = {_packed(one): one for one in scan.outputs if one.height <= self.reached.height}
        known = await self._store.read(lambda db: node_findings.known_outputs_of(db, old))
        by_height: dict[int, list[FoundOutput]] = {}
        for outpoint, one in old.items():
            if outpoint in known:  # by a search that was given up: written, and not taken up
                self._outputs[outpoint] = scripthash_of(one.output.script)
            else:
                by_height.setdefault(one.height, []).append(one)
        self._unspent = deque(by_height[height] for height in sorted(by_height))
        # Outputs made later were seen as they came; those spent between the script's first watch and the scan may be
        # missing, so the history counts as whole from the scan on.
        self._history_from = scan_height + 1
        self._scanned = scan.best_block

    # --- working ---

    async def _prove(self, outputs: Sequence[FoundOutput]) -> None:
        """Find unspent outputs in their block; where it cannot be had, nothing proves them."""
        height = outputs[0].height
        txids = {one.outpoint.txid for one in outputs}
        hashes = await self._node.fetch_block_hashes(height, 1)
        found = await self._search_block(height, hashes[0], txids=txids) if hashes else []
        if found is None:
            for one in outputs:
                self._unproved[_packed(one)] = scripthash_of(one.output.script), one.output.amount_sat
        elif not txids <= {one.txid for one in found}:
            self.is_planned = False  # the scan spoke of another block
            raise self._chain_changed()

    async def _search_block(
        self, height: int, block_hash: BlockHash, *, txids: Collection[Txid] | None = None
    ) -> list[FoundTransaction] | None:
        """Work in what a block shows of the scripts, and return it; None if the block is pruned.

        Args:
            txids: only these; None for all.

        Raises:
            SourceUnavailableError: the block is not in the node's chain any more, or cannot be had for now.
        """
        raw = await self._fetch_block(height, block_hash)
        if raw is None:
            return None
        block = parse_block(raw)
        found = self._found_in(block, height, txids)
        strays: dict[PackedOutpoint, tuple[ScriptHash, int]] = {}
        if self._history_from is not None:  # else all that they may have spent was found before
            for one in found:
                strays |= self._view.targets.strays_in(await self._node.fetch_prevouts(one.txid, block_hash))
            strays = {outpoint: stray for outpoint, stray in strays.items() if outpoint not in self._outputs}
            self._outputs.update({outpoint: owner for outpoint, (owner, _) in strays.items()})
            found = self._found_in(block, height, txids)
        async with self._view.lock:  # should the block leave the chain later, it goes the way of all blocks
            if await self._node.fetch_block_hashes(height, 1) != [block_hash]:
                raise self._chain_changed()
            await self._store.transact(lambda db: _save(db, strays, found, height))
        for one in found:
            self._outputs.update(one.outputs)
        return found

    def _found_in(self, block: Block, height: int, txids: Collection[Txid] | None) -> list[FoundTransaction]:
        found = self._view.targets.found_of(self._scripts, self._outputs, block, height)
        return [one for one in found if txids is None or one.txid in txids]

    async def _fetch_block(self, height: int, block_hash: BlockHash) -> bytes | None:
        try:
            return await self._node.fetch_block(block_hash)
        except SourceRefusedError as error:
            info = await self._node.fetch_chain_info()
            if error.code == MISC_ERROR and info.prune_height is not None and height < info.prune_height:
                return None
            # Not in its chain, unreadable, or not downloaded yet behind a snapshot: it may be there later.
            raise SourceUnavailableError(f"block {height} is not to be had", source=self._node.name) from error

    def _chain_changed(self) -> SourceUnavailableError:
        return SourceUnavailableError("chain-changed", source=self._node.name)


def _save(db: Database, strays: Strays, found: Sequence[FoundTransaction], height: int) -> None:
    node_findings.save_strays(db, strays, spent_height=height)
    node_findings.save_found(db, found)


class PastFinder:
    """Looks for the past of scripts, all that wait together, and takes up what it finds."""

    def __init__(
        self, node: NodeRpc, store: Store, view: NodeView, blocks: BlockFollower, mempool: MempoolFollower
    ) -> None:
        self._node = node
        self._store = store
        self._view = view
        self._blocks = blocks
        self._mempool = mempool
        self._search: PastSearch | None = None  # one that an error ended
        self.scans = NodeScans(node)

    async def has_work(self) -> bool:
        """Tell whether the past of some script is to be looked for."""
        return await self._store.read(node_scripts.count_pending) > 0

    async def work(self) -> None:
        """Look for the past of those that wait.

        Raises:
            SourceError: the node cannot be asked; the next call goes on, or begins anew.
        """
        started = trio.current_time()
        if self._search is None or not await self._may_go_on(self._search):
            waiting = await self._store.read(lambda db: node_scripts.load_pending(db, limit=SCRIPTS_AT_ONCE))
            if not waiting:
                return
            self._search = PastSearch(self._node, self._store, self._view, self.scans, waiting)
            self._view.targets.past_searched = {one.scripthash for one in waiting}
        past = await self._search.run()
        await self._take_up(past)
        self._search = None
        log.info(
            "bitcoind.past_found",
            scripts=len(past.scripthashes),
            outputs=len(past.outputs),
            history_from=past.history_from,
            unproved_sat=sum(amount_sat for _, amount_sat in past.unproved.values()),
            duration_s=round(trio.current_time() - started, 1),
        )

    async def _may_go_on(self, search: PastSearch) -> bool:
        """Tell whether a search that an error ended still speaks of our chain, and its next blocks are to be had."""
        reached = search.reached
        block_hash = await self._store.read(lambda db: node_blocks.load_block_hash(db, reached.height))
        if not search.is_planned or block_hash != reached.block_hash:
            return False
        prune_height = (await self._node.fetch_chain_info()).prune_height
        return prune_height is None or prune_height <= reached.height + 1

    async def _take_up(self, past: Past) -> None:
        """Record that a past is known, with whoever spent of it since; all that wait in the mempool, too.

        Raises:
            SourceError: the node cannot be asked; nothing is settled.
        """
        view, targets = self._view, self._view.targets
        outputs = {**past.outputs, **{outpoint: owner for outpoint, (owner, _) in past.unproved.items()}}
        async with view.lock:
            await self._check_reached(past)
            # Who was let go of meanwhile has no outputs; who was watched again since waits for a search of its own.
            outputs = {outpoint: owner for outpoint, owner in outputs.items() if owner in targets.past_searched}
            unproved = {key: stray for key, stray in past.unproved.items() if key in outputs}
            searched = set(targets.past_searched)
            await self._store.transact(lambda db: _save_unproved(db, past, unproved, searched))
            targets.add_own(outputs)
            last = view.height  # from here on blocks are looked through with them
        for height in range(past.reached.height + 1, last + 1):
            await self._blocks.search_spends(outputs, height=height)
        async with view.lock:
            await self._check_reached(past)
            await self._mempool.take_spenders_of(list(outputs))
            settle = partial(
                node_scripts.settle_past,
                scripthashes=[each for each in past.scripthashes if each in targets.past_searched],
                reached=past.reached.height,
                history_from=past.history_from,
            )
            settled = await self._store.transact(settle)
            targets.past_pending.difference_update(settled)
            view.book.touch(settled)

    async def _check_reached(self, past: Past) -> None:
        height = past.reached.height
        is_ours = await self._store.read(lambda db: node_blocks.load_block_hash(db, height)) == past.reached.block_hash
        if not is_ours or (past.scanned is not None and await self._node.fetch_heights([past.scanned]) == [None]):
            self._search = None
            raise SourceUnavailableError("chain-changed", source=self._node.name)


def _save_unproved(db: Database, past: Past, unproved: Strays, searched: set[ScriptHash]) -> None:
    """Record which outputs a scan named that nothing proves; what it named before, and does not any more, is spent."""
    if past.scanned is not None:
        node_findings.mark_gone(db, searched, unspent=past.unproved.keys(), height=past.reached.height)
    node_findings.save_strays(db, unproved)


def _packed(found: FoundOutput) -> PackedOutpoint:
    return packed_outpoint(found.outpoint.txid, found.outpoint.index)
