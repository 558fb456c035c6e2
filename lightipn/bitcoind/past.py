"""What happened to a script before it was watched.

    with blockfilterindex    scanblocks names the blocks, each is searched       → the whole past
    without                  scantxoutset names the unspent outputs, and their
                             blocks are searched for just those transactions     → what is unspent: history_from tells

A node scans for one caller at a time, for minutes on mainnet. So all scripts that wait are looked for together, and the
node gets as long a pause after a scan as the scan took. Payments from now on are seen meanwhile.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from lightipn.bitcoin.block import parse_block
from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid, hash_from_hex, scripthash_of
from lightipn.bitcoin.transaction import PackedOutpoint, packed_outpoint
from lightipn.bitcoind.book import WatchBook
from lightipn.bitcoind.follower import NodeFollower
from lightipn.bitcoind.rpc import MAX_OUTPUT_INDEX, METHOD_NOT_FOUND, FoundOutput, NodeRpc, satoshis_of
from lightipn.errors import ProtocolError, SourceError, SourceRefusedError, SourceUnavailableError
from lightipn.store import node_findings, node_scripts
from lightipn.store.database import Store
from lightipn.store.node_scripts import NodeScript

SCRIPTS_AT_ONCE = 20_000
SCAN_TIMEOUT_S = 4 * 3600.0
LONGEST_PAUSE_S = 600.0
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
PROGRESS_EVERY_S = 2.0
ABORT_TIMEOUT_S = 1.0
REFUSED_WITHIN_S = 1.0
FILTER_INDEX = "basic block filter index"

log = structlog.get_logger("bitcoind")


@dataclass(slots=True)
class _Findings:
    """What a scan found, as far as it was worked in.

    Args:
        outputs: of the scripts that were looked for, as their blocks prove them.
        unproved: unspent ones whose blocks are pruned, each with its script's hash and its satoshis.
        reached: the block up to which they are whole; what lies higher was looked through without knowing them.
        history_from: the height from which on histories are whole; None where all of them is.
    """

    reached: tuple[int, BlockHash]
    history_from: int | None = None
    outputs: dict[PackedOutpoint, ScriptHash] = field(default_factory=dict)
    unproved: dict[PackedOutpoint, tuple[ScriptHash, int]] = field(default_factory=dict)


class PastFinder:
    """Looks for the past of scripts, all that wait together."""

    def __init__(self, node: NodeRpc, store: Store, book: WatchBook, follower: NodeFollower) -> None:
        self._node = node
        self._store = store
        self._book = book
        self._follower = follower
        self._bell = trio.Event()
        self._is_ready = False  # the node can be asked
        self._scan = ""  # the method that is under way
        self._can_scan_blocks = True  # until the node says that it cannot
        self.progress: float | None = None  # of the scan under way, in percent

    def ring(self) -> None:
        """Say that scripts may wait."""
        self._bell.set()

    def set_ready(self, is_ready: bool) -> None:
        """Say whether the node can be asked."""
        self._is_ready = is_ready
        self._bell.set()

    async def run(self) -> None:
        """Look for the past of scripts for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_progress)
            nursery.start_soon(self._search)

    async def _search(self) -> None:
        tries = 0
        while True:
            self._bell = trio.Event()
            waiting = await self._store.read(lambda db: node_scripts.load_pending(db, limit=SCRIPTS_AT_ONCE))
            if not waiting or not self._is_ready:
                await self._bell.wait()
                continue
            started = trio.current_time()
            try:
                await self._look_for(waiting)
                tries, pause_s = 0, min(trio.current_time() - started, LONGEST_PAUSE_S)
            except SourceError as error:
                tries += 1
                pause_s = min(FIRST_RETRY_S * 2.0 ** min(tries - 1, 10), LONGEST_RETRY_S)
                log.warning("bitcoind.past_unavailable", scripts=len(waiting), reason=str(error), again_in_s=pause_s)
            await trio.sleep(pause_s)

    async def _look_for(self, waiting: Sequence[NodeScript]) -> None:
        scripts = {one.script for one in waiting if one.script is not None}
        started = trio.current_time()
        reached = self._follower.position
        assert reached is not None  # scripts are registered at a position
        findings = _Findings(reached=reached)
        has_filters = await self._has_filters(reached[0])
        if has_filters:
            await self._search_blocks(findings, scripts)
        whole_from = findings.history_from
        if not has_filters or whole_from is not None:  # some of those blocks are pruned
            await self._search_outputs(findings, scripts)
            findings.history_from = whole_from or findings.history_from
        settle = partial(
            node_scripts.settle_past,
            scripthashes=[one.scripthash for one in waiting],
            reached=reached[0],
            history_from=findings.history_from,
            unproved=findings.unproved,
        )
        outputs = findings.outputs | {outpoint: owner for outpoint, (owner, _) in findings.unproved.items()}
        settled = await self._follower.enter_past(outputs, above=findings.reached, settle=settle)
        self._book.touch(settled)
        log.info(
            "bitcoind.past_found",
            scripts=len(waiting),
            outputs=len(findings.outputs),
            history_from=findings.history_from,
            unproved_sat=sum(amount_sat for _, amount_sat in findings.unproved.values()),
            duration_s=round(trio.current_time() - started, 1),
        )

    async def _has_filters(self, height: int) -> bool:
        """Tell whether the node's filters speak of all blocks up to a height; Bitcoin Core 24 has no way to ask them.

        Raises:
            SourceUnavailableError: its index is behind; blocks that it has not read would be passed over in silence.
        """
        index = (await self._node.fetch_indexes()).get(FILTER_INDEX)
        if index is None or not self._can_scan_blocks:
            return False
        if not index.synced or index.best_block_height < height:
            raise SourceUnavailableError("filter-index-behind", source=self._node.name)
        try:
            await self._node.fetch_scan_progress("scanblocks")
        except SourceRefusedError as error:
            if error.code != METHOD_NOT_FOUND:
                raise
            self._can_scan_blocks = False
        return self._can_scan_blocks

    async def _watch_progress(self) -> None:
        while True:
            await trio.sleep(PROGRESS_EVERY_S)
            self.progress = None
            if self._scan:
                with contextlib.suppress(SourceError):
                    self.progress = await self._node.fetch_scan_progress(self._scan)

    # --- with filters ---

    async def _search_blocks(self, findings: _Findings, scripts: set[bytes]) -> None:
        """Search the blocks whose filters speak of the scripts."""
        async with self._scanning("scanblocks"):
            scan = await self._node.scan_blocks(sorted(scripts), up_to=findings.reached[0], timeout_s=SCAN_TIMEOUT_S)
        hashes = [BlockHash(self._hash(text)) for text in scan.relevant_blocks]
        heights = await self._node.fetch_heights(hashes)
        self._check_reached(findings, scan.to_height)
        for height, block_hash in sorted(
            (height, each) for height, each in zip(heights, hashes, strict=True) if height
        ):
            if height > findings.reached[0]:
                continue  # looked through as it came
            if not await self._search_block(findings, height, block_hash, scripts):
                info = await self._node.fetch_chain_info()
                findings.history_from = max(info.prune_height or 0, height + 1)

    # --- without ---

    async def _search_outputs(self, findings: _Findings, scripts: set[bytes]) -> None:
        """Search the unspent outputs, and prove each by its block."""
        async with self._scanning("scantxoutset"):
            scan = await self._node.scan_outputs(sorted(scripts), timeout_s=SCAN_TIMEOUT_S)
        # Outputs made later were seen as they came; those spent between the script's first watch and the scan may be
        # missing, so the history counts as whole from the scan on.
        self._check_reached(findings, scan.height)
        findings.history_from = scan.height + 1
        outpoints = [self._outpoint(output) for output in scan.unspents]
        known = await self._store.read(lambda db: node_findings.known_outputs_of(db, outpoints))
        by_height: dict[int, list[FoundOutput]] = {}
        for outpoint, output in zip(outpoints, scan.unspents, strict=True):
            if outpoint not in known:
                by_height.setdefault(output.height, []).append(output)
        for height, outputs in sorted(by_height.items()):
            if height > findings.reached[0]:
                continue
            hashes = await self._node.fetch_block_hashes(height, 1)
            txids = {Txid(self._hash(output.txid)) for output in outputs}
            if hashes and await self._search_block(findings, height, hashes[0], scripts, txids=txids):
                continue
            for output in outputs:
                owner = scripthash_of(self._script(output.script))
                findings.unproved[self._outpoint(output)] = owner, satoshis_of(output.amount)

    # --- both ---

    def _check_reached(self, findings: _Findings, height: int) -> None:
        """Check that a scan saw the block that ours had reached; a node that lost blocks meanwhile is asked again."""
        if height < findings.reached[0]:
            raise SourceUnavailableError("chain-changed", source=self._node.name)

    async def _search_block(
        self,
        findings: _Findings,
        height: int,
        block_hash: BlockHash,
        scripts: set[bytes],
        *,
        txids: set[Txid] | None = None,
    ) -> bool:
        """Work in what a block shows of the scripts; False if the node has not got it any more.

        Args:
            txids: only these; None for all.

        Raises:
            SourceUnavailableError: the block is not in the node's chain any more, or holds not all of them.
        """
        try:
            raw = await self._node.fetch_block(block_hash)
        except SourceRefusedError:
            return False
        found = [
            one
            for one in self._follower.found_in(parse_block(raw), height, scripts, findings.outputs)
            if txids is None or one.txid in txids
        ]
        if txids is not None and {one.txid for one in found} != txids:
            raise SourceUnavailableError("chain-changed", source=self._node.name)
        await self._follower.save_past(height, block_hash, found)
        for one in found:
            findings.outputs.update(one.outputs)
        return True

    @asynccontextmanager
    async def _scanning(self, method: str) -> AsyncIterator[None]:
        """Have the node scan; a scan that nobody waits for any more is ended, or the next one would be refused."""
        self._scan = method
        is_over, started = False, trio.current_time()
        try:
            yield
            is_over = True
        except SourceError:
            is_over = True  # refused, perhaps because of another's scan, which is not ours to end
            raise
        finally:
            self._scan = ""
            # Ended within a moment, it may be another's that is under way, and ours about to be refused.
            if not is_over and trio.current_time() - started > REFUSED_WITHIN_S:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + ABORT_TIMEOUT_S):
                    with contextlib.suppress(SourceError):
                        await self._node.abort_scan(method)

    def _outpoint(self, output: FoundOutput) -> PackedOutpoint:
        if not 0 <= output.vout <= MAX_OUTPUT_INDEX:
            raise ProtocolError("an output's index is out of range", source=self._node.name)
        return packed_outpoint(Txid(self._hash(output.txid)), output.vout)

    def _script(self, text: str) -> bytes:
        try:
            return bytes.fromhex(text)
        except ValueError as error:
            raise ProtocolError("an output script is not hex", source=self._node.name) from error

    def _hash(self, text: str) -> bytes:
        try:
            return hash_from_hex(text)
        except ValueError as error:
            raise ProtocolError(f"a hash is malformed, {error}", source=self._node.name) from error
