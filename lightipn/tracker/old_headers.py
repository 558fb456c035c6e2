"""Headers below our last checkpoint: fetched by the period, proved by the checkpoint at its end, and kept."""

from collections.abc import Callable, Sequence

import trio

from lightipn.bitcoin.header import RETARGET_BLOCKS, BlockHeader, parse_header
from lightipn.chain.checkpoint import Checkpoints, check_period
from lightipn.errors import HeaderError, SourceError, SourceUnavailableError
from lightipn.store import chain as chain_store
from lightipn.tracker.wiring import Wiring

PERIOD_TIMEOUT_S = 8.0


class OldHeaders:
    """Finds headers of blocks that are older than our chain's base.

    Args:
        report: called with the server, the height that it claimed, and what its headers contradict.
    """

    def __init__(
        self, wiring: Wiring, checkpoints: Checkpoints, *, report: Callable[[str, int, HeaderError], None]
    ) -> None:
        self._wiring = wiring
        self._checkpoints = checkpoints
        self._report = report
        self._periods: dict[int, trio.Lock] = {}

    async def header_at(self, height: int, server: str) -> BlockHeader:
        """Return a header, from the store or from servers, the named one first.

        Raises:
            SourceError: nobody gives its period, or no period holds.
        """
        stored = await self._wiring.store.read(lambda db: chain_store.load_old_header(db, height))
        if stored is not None:
            return parse_header(stored)
        period = height // RETARGET_BLOCKS
        async with self._periods.setdefault(period, trio.Lock()):  # each once: it is 160 kB
            stored = await self._wiring.store.read(lambda db: chain_store.load_old_header(db, height))
            if stored is not None:
                return parse_header(stored)
            headers = await self._fetch_period(period, server)
            raw_headers = b"".join(header.raw for header in headers)
            await self._wiring.store.transact(lambda db: chain_store.save_period(db, period, raw_headers))
            return headers[height % RETARGET_BLOCKS]

    async def _fetch_period(self, period: int, server: str) -> Sequence[BlockHeader]:
        """Fetch a period of old headers from whoever gives it; the checkpoint at its end proves it.

        Raises:
            SourceError: nobody does.
        """
        failure = SourceError("no server to ask", source=server)
        for name in [server, *(other for other in self._wiring.source.connected() if other != server)]:
            try:
                with trio.fail_after(PERIOD_TIMEOUT_S):
                    raw_headers = await self._wiring.source.fetch_headers(
                        period * RETARGET_BLOCKS, RETARGET_BLOCKS, server=name
                    )
                return check_period(raw_headers, self._checkpoints.rows[period + 1])
            except HeaderError as error:
                self._report(name, (period + 1) * RETARGET_BLOCKS - 1, error)
                failure = error
            except trio.TooSlowError:
                failure = SourceUnavailableError("timed-out", source=name)
            except SourceError as error:
                failure = error
        raise failure
