"""A chain source without sockets: named servers, each over a chain of its own, so that they can disagree.

Left alone it notes what it is asked for, and the test decides when a server tells what. A *live* one does what a real
one does: it tells the histories of new watches, asks again when it is told to, and drops whoever is reported.
"""

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.chain.history import History, Status, status_of
from lightipn.chain.source import (
    FeeHistogram,
    MerkleBranch,
    Misbehaviour,
    RawTransaction,
    ScriptHashChanged,
    ServerState,
    SourceLost,
    TipChanged,
    Update,
    WatchStatistics,
)
from lightipn.errors import SourceError, SourceRefusedError, SourceUnavailableError
from tests.tracker.fake_server import FakeServer

T = TypeVar("T")
# A server that is silent for so long is left to answer, and the next one asked as well.
HEDGE_S = 2.0


class FakeSource:
    """Servers, all connected.

    Args:
        nursery: where a live source tells and asks again.
    """

    def __init__(self, servers: Sequence[FakeServer], nursery: trio.Nursery, *, is_live: bool = False) -> None:
        self.named = {server.name: server for server in servers}
        self.is_live = is_live
        self.more_voices = 0
        self.known: dict[ScriptHash, Status | None] = {}
        self.unwatched: list[ScriptHash] = []
        self.absorptions: list[tuple[str, ScriptHash, Status | None, bool]] = []
        self.rechecks: list[tuple[str, ScriptHash, float]] = []
        self.reports: list[Misbehaviour] = []
        self.demotions: list[str] = []
        self._nursery = nursery
        self._connected = list(self.named)
        self._told: dict[tuple[str, ScriptHash], Status | None] = {}
        self._told_tips: dict[str, bytes] = {}
        self._send, self._updates = trio.open_memory_channel[Update](math.inf)

    @property
    def first(self) -> FakeServer:
        """The first server, whose like all others are unless a test changes them."""
        return next(iter(self.named.values()))

    @property
    def pages(self) -> list[tuple[int, int]]:
        """The pages of headers that were asked for: start and count."""
        return [page for server in self.named.values() for page in server.pages]

    @property
    def calls(self) -> Counter[str]:
        """How often transactions and branches were asked for."""
        return sum((server.calls for server in self.named.values()), Counter())

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """Who was reported, and for what kind of misbehaviour."""
        return [(found.server, found.kind) for found in self.reports]

    # --- what a test does ---

    async def tell_tip(self, height: int | None = None, *, raw_header: bytes | None = None, server: str = "") -> None:
        """Announce a server's tip, or every server's; with a height or a header of the test's choice."""
        for name in [server] if server else list(self._connected):
            chain = self.named[name].chain
            raw = raw_header or chain.header_at(chain.tip_height)
            self._told_tips[name] = raw
            told = chain.tip_height if height is None else height
            await self._send.send(TipChanged(server=name, height=told, raw_header=raw))

    async def tell(self, scripthash: ScriptHash, history: History | None = None, *, server: str = "") -> None:
        """Announce a script's history, by one server or by every one; what the server knows if none is given."""
        for name in [server] if server else list(self._connected):
            claimed = self.named[name].history(scripthash) if history is None else history
            status = self._told[name, scripthash] = status_of(claimed)
            await self._send.send(ScriptHashChanged(server=name, scripthash=scripthash, status=status, history=claimed))

    async def publish(self) -> None:
        """Have every server announce what changed since it announced last."""
        for name in list(self._connected):
            chain = self.named[name].chain
            if self._told_tips.get(name) != chain.header_at(chain.tip_height):
                await self.tell_tip(server=name)
            for scripthash in list(self.known):
                if self._told.get((name, scripthash)) != status_of(self.named[name].history(scripthash)):
                    await self.tell(scripthash, server=name)

    def lose(self, name: str) -> None:
        """Break the link to a server."""
        if name in self._connected:
            self._connected.remove(name)
            self._send.send_nowait(SourceLost(server=name))

    def regain(self, name: str) -> None:
        """Connect to a server again, and forget what it told before."""
        self._connected.append(name)
        self._told_tips.pop(name, None)
        self._told = {key: status for key, status in self._told.items() if key[0] != name}

    # --- watches ---

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> bool:
        """Note a watch; one that is there stays as it is."""
        if scripthash in self.known:
            return False
        self.known[scripthash] = known_status
        for name in self._connected if self.is_live else ():
            if status_of(self.named[name].history(scripthash)) != known_status:
                self._nursery.start_soon(self._tell_again, name, scripthash, 0.0)
        return True

    def absorbed(self, scripthash: ScriptHash, status: Status | None, *, server: str, is_news: bool) -> None:
        """Note what has been absorbed of a script that is watched."""
        self.absorptions.append((server, scripthash, status, is_news))
        if scripthash in self.known:
            self.known[scripthash] = status

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a script."""
        self.known.pop(scripthash, None)
        self.unwatched.append(scripthash)

    def recheck(self, scripthash: ScriptHash, *, after_s: float, server: str = "") -> None:
        """Note the wish; unless the source is live, the test decides when the history is told again."""
        self.rechecks.append((server, scripthash, after_s))
        for name in self._connected if self.is_live else ():
            if server in ("", name):
                self._nursery.start_soon(self._tell_again, name, scripthash, after_s)

    async def _tell_again(self, name: str, scripthash: ScriptHash, after_s: float) -> None:
        await trio.sleep(after_s)
        if scripthash in self.known and name in self._connected:
            await self.tell(scripthash, server=name)

    async def updates(self) -> AsyncIterator[Update]:
        """Yield what is announced."""
        async for update in self._updates:
            yield update

    # --- questions ---

    async def fetch_headers(
        self, start: int, count: int, *, server: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """Ask the named server, or the first."""
        return await self._to_ask(server, "", avoid)[0].headers(start, count)

    async def fetch_merkle_branch(
        self, txid: Txid, height: int, *, server: str = "", prefer: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> MerkleBranch:
        """Ask the named server, or one after the other."""
        return await self._ask_in_turn(lambda one: one.merkle_branch(txid, height), self._to_ask(server, prefer, avoid))

    async def fetch_transaction(
        self, txid: Txid, *, server: str = "", prefer: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> RawTransaction:
        """Ask the named server, or one after the other."""
        return await self._ask_in_turn(lambda one: one.transaction(txid), self._to_ask(server, prefer, avoid))

    async def fetch_history(self, scripthash: ScriptHash, *, server: str) -> History:
        """Ask the named server."""
        return await self._to_ask(server, "", frozenset())[0].list_history(scripthash)

    async def fetch_output(self, outpoint: Outpoint) -> TxOutput | None:
        """Return nothing, as Electrum servers do."""
        return None

    async def fetch_fee_histogram(self, *, server: str) -> FeeHistogram:
        """Ask the named server."""
        return await self._to_ask(server, "", frozenset())[0].fee_histogram()

    async def fetch_fee_rate(self, target_blocks: int, *, server: str) -> float | None:
        """Ask the named server."""
        return await self._to_ask(server, "", frozenset())[0].estimate()

    async def broadcast(self, raw: bytes, *, server: str) -> None:
        """Hand it to the named server."""
        await self._to_ask(server, "", frozenset())[0].take(raw)

    def _to_ask(self, server: str, prefer: str, avoid: AbstractSet[str]) -> list[FakeServer]:
        names = [name for name in self._connected if name not in avoid and server in ("", name)]
        if not names:
            raise SourceUnavailableError("no server to ask", source=server)
        return [self.named[name] for name in sorted(names, key=lambda name: name != prefer)]

    async def _ask_in_turn(self, ask: Callable[[FakeServer], Awaitable[T]], servers: Sequence[FakeServer]) -> T:
        answers: list[T] = []
        errors: list[SourceError] = []

        async def ask_one(server: FakeServer, finished: trio.Event, scope: trio.CancelScope) -> None:
            try:
                answers.append(await ask(server))
                scope.cancel()
            except SourceError as error:
                errors.append(error)
            finished.set()

        async with trio.open_nursery() as nursery:
            for place, server in enumerate(servers):
                finished = trio.Event()
                nursery.start_soon(ask_one, server, finished, nursery.cancel_scope)
                with trio.move_on_after(HEDGE_S if place + 1 < len(servers) else math.inf):
                    await finished.wait()
        if answers:
            return answers[0]
        raise next((error for error in errors if isinstance(error, SourceRefusedError)), errors[0])

    # --- servers ---

    def connected(self) -> Sequence[str]:
        """Return the names of the servers that can be asked."""
        return list(self._connected)

    def voices(self) -> int:
        """Return how many are connected, and how many the test says may soon be."""
        return len(self._connected) + self.more_voices

    def report(self, found: Misbehaviour) -> None:
        """Note a verdict; a live source drops the server."""
        assert found.server in self.named
        self.reports.append(found)
        if self.is_live:
            self.lose(found.server)

    def demote(self, server: str, reason: str) -> None:
        """Note who was sent away."""
        assert server in self.named
        assert reason
        self.demotions.append(server)

    def servers(self) -> Sequence[ServerState]:
        """Return the connected servers."""
        return [ServerState(name=name, verdict="connected") for name in self._connected]

    def statistics(self) -> WatchStatistics:
        """Return that everything is subscribed."""
        count = len(self.known)
        return WatchStatistics(total=count, subscribed=count, quarantined=0, oldest_gap_s=0.0)
