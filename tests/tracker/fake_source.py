"""A chain source without sockets: it answers from a made-up chain, and lets a test decide what it holds back."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from collections.abc import Set as AbstractSet

import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.chain.history import History, Status, status_of
from lightipn.chain.source import (
    MerkleBranch,
    ScriptHashChanged,
    ServerState,
    TipChanged,
    Update,
    WatchStatistics,
)
from lightipn.errors import SourceRefusedError, SourceUnavailableError
from lightipn.simulator.view import ChainView

SERVER = "fake.example:50001:t"


class FakeSource:
    """One server, always connected, which answers at once.

    Args:
        chain: what the server knows; assign another to change its mind.
    """

    def __init__(self, chain: ChainView) -> None:
        self.chain = chain
        self.calls: Counter[str] = Counter()
        self.pages: list[tuple[int, int]] = []
        self.known: dict[ScriptHash, Status | None] = {}
        self.rechecks: list[tuple[ScriptHash, float]] = []
        self.reports: list[str] = []
        self.most_at_once = 0
        self.most_headers = 2016
        self.withheld: set[Txid] = set()
        self.branch_of: Callable[[Txid, int], MerkleBranch] | None = None
        self.transaction_of: Callable[[Txid], bytes | None] | None = None
        self.headers_of: Callable[[int, int], list[bytes]] | None = None
        self.held: dict[Txid, trio.Event] = {}
        self._at_once = 0
        self._send, self._updates = trio.open_memory_channel[Update](100)

    # --- what a test does ---

    async def tell_tip(self, height: int | None = None, *, raw_header: bytes | None = None) -> None:
        """Announce the chain's tip, with a height or a header of the test's choice."""
        tip = self.chain.tip_height
        await self._send.send(
            TipChanged(
                server=SERVER,
                height=tip if height is None else height,
                raw_header=raw_header or self.chain.header_at(tip),
            )
        )

    async def tell(self, scripthash: ScriptHash, history: History | None = None) -> None:
        """Announce a script's history; by default the true one."""
        claimed = self.chain.history(scripthash) if history is None else history
        await self._send.send(
            ScriptHashChanged(server=SERVER, scripthash=scripthash, status=status_of(claimed), history=claimed)
        )

    # --- the interface ---

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> None:
        """Note a watch; one that is there stays as it is."""
        self.known.setdefault(scripthash, known_status)

    def absorbed(self, scripthash: ScriptHash, status: Status | None) -> None:
        """Note what has been absorbed of a script that is watched."""
        if scripthash in self.known:
            self.known[scripthash] = status

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a script."""
        self.known.pop(scripthash, None)
        self.calls["unwatch"] += 1

    def recheck(self, scripthash: ScriptHash, *, after_s: float) -> None:
        """Note the wish; the test decides when the history is told again."""
        self.rechecks.append((scripthash, after_s))

    async def updates(self) -> AsyncIterator[Update]:
        """Yield what the test announces."""
        async for update in self._updates:
            yield update

    async def fetch_headers(
        self, start: int, count: int, *, server: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """Answer from the chain, at most ``most_headers`` at a time."""
        await trio.lowlevel.checkpoint()
        self.pages.append((start, count))
        if server not in ("", SERVER) or SERVER in avoid:
            raise SourceUnavailableError("no server to ask")
        if self.headers_of is not None:
            return self.headers_of(start, count)
        return self.chain.headers_from(start, min(count, self.most_headers))

    async def fetch_merkle_branch(
        self, txid: Txid, height: int, *, avoid: AbstractSet[str] = frozenset()
    ) -> MerkleBranch:
        """Answer from the chain; refuse what is withheld, and what is not in that block."""
        await self._take_part("merkle", txid)
        if txid in self.withheld:
            raise SourceRefusedError("withheld", code=1)
        if self.branch_of is not None:
            return self.branch_of(txid, height)
        try:
            return self.chain.merkle(txid, height)
        except LookupError:
            raise SourceRefusedError("not in that block", code=1) from None

    async def fetch_transaction(self, txid: Txid, *, avoid: AbstractSet[str] = frozenset()) -> bytes:
        """Answer from the chain, once the test lets it; refuse what is withheld or unknown."""
        await self._take_part("transaction", txid)
        if txid in self.held:
            await self.held[txid].wait()
        raw = None if txid in self.withheld else (self.transaction_of or self.chain.transaction)(txid)
        if raw is None:
            raise SourceRefusedError("unknown", code=2)
        return raw

    async def _take_part(self, name: str, txid: Txid) -> None:
        """Count a call, and how many are under way with it."""
        self.calls[name] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await trio.lowlevel.checkpoint()
        self._at_once -= 1

    def report(self, server: str, misbehaviour: str, raw: bytes = b"") -> None:
        """Note a verdict."""
        assert server == SERVER
        self.reports.append(misbehaviour)

    def servers(self) -> Sequence[ServerState]:
        """Return the one server."""
        return [ServerState(name=SERVER, verdict="connected")]

    def statistics(self) -> WatchStatistics:
        """Return that everything is subscribed."""
        count = len(self.known)
        return WatchStatistics(total=count, subscribed=count, quarantined=0, oldest_gap_s=0.0)
