"""Follows the node: block by block, and its mempool; what concerns watched scripts goes to the store and to the book.

Each block's findings and the new position are one transaction. One thing at a time: while a block is looked through,
nobody is registered, so that "watched from the next block on" is exact.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial

import structlog
import trio

from lightipn.bitcoin.block import Block, parse_block
from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid, hash_from_hex, hex_of, scripthash_of
from lightipn.bitcoin.merkle import branch_in, merkle_tree_of
from lightipn.bitcoin.transaction import (
    Outpoint,
    PackedOutpoint,
    Transaction,
    TxOutput,
    packed_outpoint,
    parse_transaction,
)
from lightipn.bitcoind.book import WatchBook
from lightipn.bitcoind.mempool import MempoolView
from lightipn.bitcoind.rpc import ChainInfo, NodeRpc
from lightipn.bitcoind.scanner import Match, match_transaction, matches_of, scan_block
from lightipn.chain.history import HistoryEntry
from lightipn.errors import ProtocolError, SourceRefusedError, SourceUnavailableError, TransactionError
from lightipn.store import node_blocks, node_findings, node_scripts
from lightipn.store.database import Database, Store
from lightipn.store.node_findings import FoundTransaction

MEMPOOL_PAGE = 100
HASHES_PAGE = 100
PREVOUTS_KEPT = 5000
MOST_PREVOUTS = 100
# An outpoint that an unconfirmed payment spent is looked after for so long; the store knows those that still matter.
CONTESTED_BLOCKS = 144

log = structlog.get_logger("bitcoind")


class NodeFollower:
    """Keeps the store's index of the node's blocks, and a view of its mempool.

    Args:
        book: is touched with whatever may have changed.
    """

    def __init__(self, node: NodeRpc, store: Store, book: WatchBook) -> None:
        self._node = node
        self._store = store
        self._book = book
        self.lock = trio.Lock()
        self.mempool = MempoolView()
        self.position: tuple[int, BlockHash] | None = None
        self.without_past: set[ScriptHash] = set()
        self._scripts: set[bytes] = set()
        self._outpoints: dict[PackedOutpoint, ScriptHash] = {}
        self._contested: dict[PackedOutpoint, int] = {}  # of these: learned from a payment, and at which height
        self._waiting: set[PackedOutpoint] = set()  # of these: of payments that were in no block when they were learned
        self._prevouts: OrderedDict[PackedOutpoint, TxOutput] = OrderedDict()

    @property
    def height(self) -> int:
        """Height of the last block that was looked through."""
        return self.position[0] if self.position is not None else 0

    async def open(self, info: ChainInfo) -> None:
        """Go on where the store stands, or begin at the node's tip."""
        if self.position is not None:
            return
        position = await self._store.read(node_blocks.load_position)
        if position is None:
            lowest = info.prune_height or 0
            work = partial(node_blocks.first_position, node_height=info.blocks, lowest=lowest)
            height = await self._store.read(work)
            hashes = await self._hashes_up_to(height)
            await self._store.transact(lambda db: node_blocks.begin(db, height, hashes))
            position = height, hashes[-1]
            log.info("bitcoind.scan_begun", height=height)
        await self._store.transact(node_scripts.drop_stale_scripts)
        self._outpoints = dict(await self._store.read(node_findings.load_outputs))
        for outpoint, scripthash in await self._store.read(node_findings.load_contested):
            if outpoint not in self._outpoints:
                self._outpoints[outpoint] = scripthash
                self._contested[outpoint] = position[0]
        self.position = position

    async def _hashes_up_to(self, height: int) -> list[BlockHash]:
        """Return the hashes of a block and of those before it, where a reorg may fork off."""
        count = min(height + 1, node_findings.BLOCKS_KEPT)
        hashes = await self._node.fetch_block_hashes(height + 1 - count, count)
        if len(hashes) != count:
            raise SourceUnavailableError("chain-changed", source=self._node.name)
        return hashes

    # --- watches ---

    async def register(self, scripthashes: Sequence[ScriptHash]) -> bool:
        """Take scripts up from the next block on; True if some have a past that is still to be looked for."""
        async with self.lock:
            height = self.height
            scripts = await self._store.transact(
                lambda db: node_scripts.register(
                    db, [each for each in scripthashes if each in self._book.known], height=height
                )
            )
            searched = [one.script for one in scripts if one.script is not None]
            self._scripts.update(searched)
            without_past = {one.scripthash for one in scripts if not one.is_past_known}
            self.without_past |= without_past
            await self._take_page(self.mempool.candidates(searched))
            self._book.touch(one.scripthash for one in scripts)
        return bool(without_past)

    async def forget(self, scripthashes: Sequence[ScriptHash]) -> None:
        """Let go of scripts that are watched no more."""
        async with self.lock:
            gone = [each for each in scripthashes if each not in self._book.known]

            def work(db: Database) -> None:
                for scripthash in gone:
                    node_scripts.drop_script(db, scripthash)

            await self._store.transact(work)
            for scripthash in gone:
                self.mempool.forget_script(scripthash)
            owners = set(gone)
            for outpoint in [one for one, owner in self._outpoints.items() if owner in owners]:
                del self._outpoints[outpoint]
                self._contested.pop(outpoint, None)
                self._waiting.discard(outpoint)
            self.without_past.difference_update(gone)

    async def histories(self, scripthashes: Sequence[ScriptHash]) -> dict[ScriptHash, tuple[HistoryEntry, ...]]:
        """Return what is known of scripts: their transactions in blocks, and those that wait."""
        async with self.lock:
            found = await self._store.read(lambda db: node_findings.load_histories(db, scripthashes))
            histories = {}
            for scripthash, rows in found.items():
                confirmed = [HistoryEntry(txid=txid, height=height) for height, _, txid in rows]
                txids = {entry.txid for entry in confirmed}
                waiting = [entry for entry in self.mempool.entries(scripthash) if entry.txid not in txids]
                histories[scripthash] = (*confirmed, *waiting)
            return histories

    # --- blocks ---

    async def follow_blocks(self, info: ChainInfo) -> None:
        """Look through all blocks up to the node's tip.

        Raises:
            SourceUnavailableError: the node's chain changed meanwhile: look again.
        """
        tip_hash = BlockHash(hash_from_hex(info.tip_hash))
        while self.position is not None and self.position[1] != tip_hash:
            await self._leave_stale_blocks()
            height = self.height
            if height >= info.blocks:
                return  # its tip is another one by now
            if info.prune_height is not None and height + 1 < info.prune_height:
                await self._skip_pruned(info.prune_height)
                continue
            hashes = await self._node.fetch_block_hashes(height + 1, min(HASHES_PAGE, info.blocks - height))
            if not hashes:
                raise SourceUnavailableError("chain-changed", source=self._node.name)
            for block_hash in hashes:
                await self._take_block(block_hash)

    async def _leave_stale_blocks(self) -> None:
        """Go back to the last block that the node's chain and what was looked through have in common."""
        fork_height = self.height
        while True:
            ours = await self._store.read(partial(node_blocks.load_block_hash, height=fork_height))
            if ours is None:
                raise SourceUnavailableError("reorg-too-deep", source=self._node.name)
            theirs = await self._node.fetch_block_hashes(fork_height, 1)
            if theirs == [ours]:
                break
            fork_height -= 1
        if fork_height == self.height:
            return
        async with self.lock:
            touched, stale = await self._store.transact(partial(node_blocks.disconnect, fork_height=fork_height))
            log.warning("bitcoind.reorg_followed", depth_blocks=self.height - fork_height, fork_height=fork_height)
            self.position = fork_height, ours
            self.without_past.update(stale)
            self._book.touch(touched)

    async def _skip_pruned(self, prune_height: int) -> None:
        """Go on where the node's blocks begin; what was in the ones between is looked for in its unspent outputs."""
        hashes = await self._hashes_up_to(prune_height - 1)
        async with self.lock:
            first = self.height + 1
            await self._store.transact(lambda db: node_blocks.skip_to(db, prune_height - 1, hashes))
            self.position = prune_height - 1, hashes[-1]
            self.without_past |= self._book.known.keys()
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
        async with self.lock:
            assert self.position is not None
            height, last_hash = self.position
            if block.header.previous_hash != last_hash:
                raise SourceUnavailableError("chain-changed", source=self._node.name)
            found = self.found_in(block, height + 1, self._scripts, self._outpoints)
            strays = await self._strays_of(found, block_hash)
            self._outpoints.update({outpoint: owner for outpoint, (owner, _) in strays.items()})
            if strays:
                found = self.found_in(block, height + 1, self._scripts, self._outpoints)
            await self._store.transact(lambda db: node_blocks.save_block(db, height + 1, block_hash, found, strays))
            self.position = height + 1, block_hash
            self._enter(found)
            for txid in block.txids:
                self._book.touch(self.mempool.remove(txid))
            if (height + 1) % CONTESTED_BLOCKS == 0:
                self._tidy_up(height + 1)
        log.info(
            "bitcoind.block_scanned",
            height=height + 1,
            block_hash=hex_of(block_hash),
            transactions=len(block.txids),
            found=len(found),
        )

    async def _strays_of(
        self, found: Sequence[FoundTransaction], block_hash: BlockHash
    ) -> dict[PackedOutpoint, tuple[ScriptHash, int]]:
        """Return outputs that payments to scripts spend whose past is not known yet, and that belong to such a script.

        Else change would look like a payment.
        """
        strays: dict[PackedOutpoint, tuple[ScriptHash, int]] = {}
        for one in found:
            if self.without_past.isdisjoint(one.outputs.values()):
                continue
            for outpoint, output in (await self._node.fetch_prevouts(one.txid, block_hash)).items():
                strays |= self._stray_of(packed_outpoint(outpoint.txid, outpoint.index), output)
        return strays

    def _stray_of(self, outpoint: PackedOutpoint, output: TxOutput) -> dict[PackedOutpoint, tuple[ScriptHash, int]]:
        owner = scripthash_of(output.script)
        is_stray = owner in self.without_past and outpoint not in self._outpoints
        return {outpoint: (owner, output.amount_sat)} if is_stray else {}

    def found_in(
        self, block: Block, height: int, scripts: set[bytes], outpoints: dict[PackedOutpoint, ScriptHash]
    ) -> list[FoundTransaction]:
        """Return what of a block concerns these scripts and outpoints, each with its proof."""
        hits = scan_block(block, scripts, outpoints)
        if not hits.scripts and not hits.spends:
            return []
        matches = matches_of(block, hits, outpoints)
        levels = merkle_tree_of(block.txids)
        found = []
        for position, match in matches.items():
            wanted = self._wanted(match)
            if wanted is None:
                continue
            found.append(
                FoundTransaction(
                    txid=match.txid,
                    height=height,
                    position=position,
                    siblings=branch_in(levels, position),
                    raw=block.transaction(position),
                    outputs=wanted.outputs,
                    spends=wanted.spends,
                )
            )
        return found

    def _wanted(self, match: Match) -> Match | None:
        """Leave out what concerns scripts that are watched no more."""
        known = self._book.known
        outputs = {key: owner for key, owner in match.outputs.items() if owner in known}
        spends = {key: owner for key, owner in match.spends.items() if owner in known or key in self._contested}
        return Match(txid=match.txid, outputs=outputs, spends=spends) if outputs or spends else None

    def _enter(self, found: Sequence[FoundTransaction]) -> None:
        for one in found:
            self._enter_outputs(one.outputs)
            self._book.touch([*one.outputs.values(), *one.spends.values()])

    def _enter_outputs(self, outputs: Mapping[PackedOutpoint, ScriptHash]) -> None:
        """Take up outputs of watched scripts that stand in blocks; they are no guests any more."""
        self._outpoints.update(outputs)
        for outpoint in outputs:
            self._contested.pop(outpoint, None)
            self._waiting.discard(outpoint)

    def _tidy_up(self, height: int) -> None:
        waiting = {outpoint for match in self.mempool.matches() for outpoint in match.spends}
        for outpoint, since in list(self._contested.items()):
            if since < height - CONTESTED_BLOCKS and outpoint not in waiting:
                del self._contested[outpoint]
                self._outpoints.pop(outpoint, None)
        gone = {outpoint for outpoint in self._waiting if _unpacked(outpoint)[0] not in self.mempool}
        for outpoint in gone:
            self._outpoints.pop(outpoint, None)
        self._waiting -= gone

    # --- the mempool ---

    async def follow_mempool(self) -> int | None:
        """Bring the view up to the mempool of the node, and return how many transactions were new.

        None if a block came meanwhile, which is to be looked through first.
        """
        known = self.mempool.txids()  # of now: what a notice adds meanwhile may not be in the listing
        listing = await self._node.fetch_mempool()
        info = await self._node.fetch_chain_info()
        if self.position is None or info.tip_hash != hex_of(self.position[1]):
            return None
        try:
            txids = {Txid(hash_from_hex(text)) for text in listing.txids}
        except ValueError as error:
            raise ProtocolError(f"a txid of the mempool is malformed, {error}", source=self._node.name) from error
        new, gone = self.mempool.compare(txids, known)
        for at in range(0, len(new), MEMPOOL_PAGE):
            async with self.lock:
                await self._take_page(new[at : at + MEMPOOL_PAGE])
        async with self.lock:
            for txid in gone:
                self._book.touch(self.mempool.remove(txid))
        return len(new)

    async def take_notice(self, txid: Txid, raw: bytes | None) -> None:
        """Look at a transaction that the node has just spoken of; it may be in a block as well."""
        if txid in self.mempool:
            return
        async with self.lock:
            if raw is None:
                await self._take_page([txid])
                return
            transaction = self._parsed(raw)
            if transaction is None:
                return
            # It is told of transactions of blocks, too; only what concerns us is worth a question.
            if self._match(transaction) is None or await self._node.is_in_mempool(txid):
                await self._take(transaction)

    async def take_removal(self, txid: Txid) -> None:
        """Take note that a transaction left the mempool, and not for a block."""
        async with self.lock:
            self._book.touch(self.mempool.remove(txid))

    async def _take_page(self, txids: Sequence[Txid]) -> None:
        for at in range(0, len(txids), MEMPOOL_PAGE):
            for raw in await self._node.fetch_raw_many(txids[at : at + MEMPOOL_PAGE]):
                transaction = self._parsed(raw) if raw is not None else None
                if transaction is not None:
                    await self._take(transaction)

    def _parsed(self, raw: bytes) -> Transaction | None:
        try:
            return parse_transaction(raw)
        except TransactionError:
            return None  # of exactly 64 bytes: it cannot pay an address

    def _match(self, transaction: Transaction) -> Match | None:
        match = match_transaction(transaction, self._scripts, self._outpoints)
        return None if match is None else self._wanted(match)

    async def _take(self, transaction: Transaction) -> None:
        match = self._match(transaction)
        if match is not None and (match.outputs or not match.spends.keys() <= self._contested.keys()):
            await self._learn_prevouts(transaction)
            match = self._match(transaction)
        is_new = transaction.txid not in self.mempool
        self._book.touch(self.mempool.add(transaction, match))
        if is_new and (children := self.mempool.children_of(transaction.txid)):
            await self._take_page(children)  # what they spend was not to be had before their parent came
        if match is not None and match.outputs:
            await self._follow_outputs(match.outputs)

    async def _follow_outputs(self, outputs: Mapping[PackedOutpoint, ScriptHash]) -> None:
        """Look for who spends the outputs of a payment that waits; such a child may have come before its parent."""
        new = {outpoint: owner for outpoint, owner in outputs.items() if outpoint not in self._outpoints}
        self._outpoints |= new
        self._waiting.update(new)
        spenders = await self._node.fetch_spenders([_unpacked(outpoint) for outpoint in new])
        await self._take_page([txid for txid in spenders if txid is not None and txid in self.mempool])

    async def _learn_prevouts(self, transaction: Transaction) -> None:
        """Find out what a payment spends: whoever spends the same replaces it."""
        for spend in transaction.spends[:MOST_PREVOUTS]:
            packed = packed_outpoint(spend.txid, spend.index)
            output = await self.output_of(spend)
            if output is None or packed in self._outpoints:
                continue
            if strays := self._stray_of(packed, output):
                await self._store.transact(partial(node_findings.save_strays, strays=strays))
            else:
                self._contested[packed] = self.height
            self._outpoints[packed] = scripthash_of(output.script)

    async def output_of(self, outpoint: Outpoint) -> TxOutput | None:
        """Return an output that is unspent but for the mempool, or of a transaction that waits; else None."""
        packed = packed_outpoint(outpoint.txid, outpoint.index)
        found = self._prevouts.get(packed)
        if found is not None:
            return found
        unspent = await self._node.fetch_unspent(outpoint.txid, outpoint.index)
        if unspent is not None:
            try:
                script = bytes.fromhex(unspent.script.hex)
            except ValueError as error:
                raise ProtocolError("an output script is not hex", source=self._node.name) from error
            found = TxOutput(amount_sat=unspent.amount_sat, script=script)
        elif outpoint.txid in self.mempool:
            try:
                parent = self._parsed(await self._node.fetch_raw(outpoint.txid))
            except SourceRefusedError:
                return None
            if parent is not None and outpoint.index < len(parent.outputs):
                found = parent.outputs[outpoint.index]
        if found is not None:
            self._prevouts[packed] = found
            if len(self._prevouts) > PREVOUTS_KEPT:
                self._prevouts.popitem(last=False)
        return found

    # --- the past ---

    async def save_past(self, height: int, block_hash: BlockHash, found: Sequence[FoundTransaction]) -> None:
        """Record what an old block shows; should it leave the chain later, it goes the way of all blocks.

        Raises:
            SourceUnavailableError: it is not in the node's chain any more.
        """
        async with self.lock:
            if await self._node.fetch_block_hashes(height, 1) != [block_hash]:
                raise SourceUnavailableError("chain-changed", source=self._node.name)
            await self._store.transact(lambda db: node_findings.save_found(db, found))

    async def enter_past(
        self,
        outputs: dict[PackedOutpoint, ScriptHash],
        *,
        above: tuple[int, BlockHash],
        settle: "partial[list[ScriptHash]]",
    ) -> list[ScriptHash]:
        """Take up outputs that were found in old blocks; whoever spent them since is looked for.

        Args:
            above: the block up to which that was done; what lies higher was looked through without knowing them.
            settle: writes to the store that the past is known now, and returns of whom.

        Returns:
            Whose past is known now.

        Raises:
            SourceUnavailableError: that block is not in the chain any more.
        """
        async with self.lock:
            if await self._store.read(lambda db: node_blocks.load_block_hash(db, above[0])) != above[1]:
                raise SourceUnavailableError("chain-changed", source=self._node.name)
            for height in range(above[0] + 1, self.height + 1):
                block_hash = await self._store.read(partial(node_blocks.load_block_hash, height=height))
                if block_hash is None:
                    raise SourceUnavailableError("chain-changed", source=self._node.name)
                block = parse_block(await self._node.fetch_block(block_hash))
                found = self.found_in(block, height, set(), outputs)
                await self._store.transact(partial(node_findings.save_found, found=found))
                self._enter(found)
            self._enter_outputs(outputs)
            unspent = list(outputs)
            for at in range(0, len(unspent), MEMPOOL_PAGE):
                page = [_unpacked(each) for each in unspent[at : at + MEMPOOL_PAGE]]
                spenders = await self._node.fetch_spenders(page)
                await self._take_page([txid for txid in spenders if txid is not None])
            settled = await self._store.transact(settle)
            self.without_past.difference_update(settled)
        return settled


def _unpacked(outpoint: PackedOutpoint) -> tuple[Txid, int]:
    return Txid(outpoint[:32]), int.from_bytes(outpoint[32:], "little")
