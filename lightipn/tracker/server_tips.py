"""The servers' newest tips: who stands where, and who stays behind for too long and is sent away."""

import contextlib
import math

import trio

from lightipn.bitcoin.hashes import BlockHash
from lightipn.bitcoin.header import parse_header
from lightipn.chain.headers import HeaderChain
from lightipn.chain.source import ChainSource, TipChanged
from lightipn.errors import SourceError

# A server's own node may be this much slower than another's.
STRAGGLER_PATIENCE_S = 30.0
STRAGGLER_BLOCKS = 1
STRAGGLER_ANSWER_S = 5.0


class ServerTips:
    """Compares the servers' tips with ours.

    Args:
        chain: ours, as it grows.
    """

    def __init__(self, source: ChainSource, chain: HeaderChain) -> None:
        self._source = source
        self._chain = chain
        self._latest: dict[str, TipChanged] = {}
        self._straggling_since: dict[str, float] = {}
        self._bell = trio.Event()

    def tell(self, update: TipChanged) -> None:
        """Take note of a server's newest tip."""
        self._latest[update.server] = update

    def forget(self, server: str) -> None:
        """Take note that a server is gone."""
        self._latest.pop(server, None)
        self._straggling_since.pop(server, None)

    def count_on(self, block_hash: BlockHash) -> int:
        """Return how many servers have this block as their tip."""
        return sum(parse_header(tip.raw_header).block_hash == block_hash for tip in self._latest.values())

    def doubt(self, server: str) -> None:
        """Take note that a server does not show the chain that it claims."""
        if server in self._latest:  # else it is gone
            self._straggling_since.setdefault(server, trio.current_time())
            self._bell.set()

    def compare(self) -> None:
        """Note since when each server has been behind, or on a branch with less work."""
        for server, tip in self._latest.items():
            lag = self._chain.tip_height - tip.height
            is_ours = self._chain.hash_at(tip.height) == parse_header(tip.raw_header).block_hash
            if lag > STRAGGLER_BLOCKS or (lag > 0 and not is_ours):
                self._straggling_since.setdefault(server, trio.current_time())
            elif lag >= 0:
                self._straggling_since.pop(server, None)
        self._bell.set()

    async def run(self) -> None:
        """Send servers away that stay behind, for ever."""
        while True:
            self._bell = trio.Event()
            due = min(self._straggling_since.values(), default=math.inf) + STRAGGLER_PATIENCE_S
            with trio.move_on_at(due):
                await self._bell.wait()
            for server, since in list(self._straggling_since.items()):
                if since + STRAGGLER_PATIENCE_S <= trio.current_time():
                    await self._send_away(server)

    async def _send_away(self, server: str) -> None:
        """Have a server replaced that does not have our tip; one that merely did not tell of it stays."""
        headers: list[bytes] = []
        with trio.move_on_after(STRAGGLER_ANSWER_S), contextlib.suppress(SourceError):
            headers = await self._source.fetch_headers(self._chain.tip_height, 1, server=server)
        latest = self._latest.get(server)
        self._straggling_since.pop(server, None)
        has_ours = bool(headers) and parse_header(headers[0]).block_hash == self._chain.tip_hash
        if latest is None or (has_ours and latest.height <= self._chain.tip_height):
            return
        self._source.demote(server, f"its tip is {latest.height}, ours is {self._chain.tip_height}")
