"""The node's own scans of all its blocks, or of all its outputs: one at a time, with its progress.

A scan takes minutes on mainnet, and the node makes one for all its callers. One that nobody waits for any more is
ended, or the next one would be refused.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from lightipn.bitcoind.answers import BlockScan, OutputScan
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.rpc import METHOD_NOT_FOUND
from lightipn.errors import SourceError, SourceRefusedError, SourceUnavailableError

SCAN_TIMEOUT_S = 4 * 3600.0
PROGRESS_EVERY_S = 2.0
ABORT_TIMEOUT_S = 1.0
REFUSED_WITHIN_S = 1.0
FILTER_INDEX = "basic block filter index"


class NodeScans:
    """Has the node scan."""

    def __init__(self, node: NodeRpc) -> None:
        self._node = node
        self._method = ""  # of the scan that is under way
        self._can_scan_blocks = True  # until the node says that it cannot
        self.progress: float | None = None  # of that scan, in percent

    async def run(self) -> None:
        """Ask for the progress of scans for ever."""
        while True:
            await trio.sleep(PROGRESS_EVERY_S)
            self.progress = None
            if self._method:
                with contextlib.suppress(SourceError):
                    self.progress = await self._node.fetch_scan_progress(self._method)

    async def can_scan_blocks(self, height: int) -> bool:
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

    async def scan_blocks(self, scripts: set[bytes], *, up_to: int) -> BlockScan:
        """Return which blocks up to a height may concern some scripts."""
        async with self._under_way("scanblocks"):
            return await self._node.scan_blocks(sorted(scripts), up_to=up_to, timeout_s=SCAN_TIMEOUT_S)

    async def scan_outputs(self, scripts: set[bytes]) -> OutputScan:
        """Return what some scripts hold unspent."""
        async with self._under_way("scantxoutset"):
            return await self._node.scan_outputs(sorted(scripts), timeout_s=SCAN_TIMEOUT_S)

    @asynccontextmanager
    async def _under_way(self, method: str) -> AsyncIterator[None]:
        self._method = method
        is_over, started = False, trio.current_time()
        try:
            yield
            is_over = True
        except SourceError:
            is_over = True  # refused, perhaps because of another's scan, which is not ours to end
            raise
        finally:
            self._method = ""
            # Ended within a moment, it may be another's that is under way, and ours about to be refused.
            if not is_over and trio.current_time() - started > REFUSED_WITHIN_S:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + ABORT_TIMEOUT_S):
                    with contextlib.suppress(SourceError):
                        await self._node.abort_scan(method)
