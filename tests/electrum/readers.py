"""A source over servers in memory, somebody who reads it, and what the servers know of its watches."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import trio
import trio.testing

from lightipn.bitcoin.hashes import ScriptHash, Txid, scripthash_of
from lightipn.chain.history import Status
from lightipn.chain.source import ScriptHashChanged, SourceLost, TipChanged, Update
from lightipn.electrum.source import ElectrumSource
from lightipn.simulator import forge
from lightipn.simulator.server import SimulatedServer
from tests.electrum.memory import MemoryConnector
from tests.electrum.places import SHOP_SCRIPT
from tests.electrum.pools import LONG_S, named, pool_of

SHOP = scripthash_of(SHOP_SCRIPT)
OTHER_SCRIPT = forge.made_up_script("other")
OTHER = scripthash_of(OTHER_SCRIPT)
SUBSCRIBE = "blockchain.scripthash.subscribe"
UNSUBSCRIBE = "blockchain.scripthash.unsubscribe"
HISTORY = "blockchain.scripthash.get_history"


class Reader:
    """Reads a source's updates, and waits for what it expects.

    Args:
        absorbs: work histories in at once, as the spine does: news is what was not known of a script before.
    """

    def __init__(self, source: ElectrumSource, *, absorbs: bool) -> None:
        self.source = source
        self.seen: list[Update] = []
        self.facts: dict[ScriptHash, set[tuple[Txid, int | None]]] = {}
        self._absorbs = absorbs
        self._bell = trio.Event()

    async def run(self) -> None:
        """Read for ever."""
        async for update in self.source.updates():
            self.seen.append(update)
            if self._absorbs and isinstance(update, ScriptHashChanged):
                self.absorb(update)
            self._bell.set()
            self._bell = trio.Event()

    def absorb(self, update: ScriptHashChanged) -> None:
        """Work a history in."""
        facts = self.facts.setdefault(update.scripthash, set())
        told = {(entry.txid, entry.height) for entry in update.history}
        is_news = not told <= facts or not facts
        facts |= told
        self.source.absorbed(update.scripthash, update.status, server=update.server, is_news=is_news)

    def changes(self, scripthash: ScriptHash | None = None) -> list[ScriptHashChanged]:
        """Return the histories that were told; of one script if it is named."""
        changes = [update for update in self.seen if isinstance(update, ScriptHashChanged)]
        return [change for change in changes if scripthash in (None, change.scripthash)]

    def tips(self) -> list[TipChanged]:
        """Return the tips that were told."""
        return [update for update in self.seen if isinstance(update, TipChanged)]

    def losses(self) -> list[str]:
        """Return the hosts whose loss was told."""
        return [host_of(update.server) for update in self.seen if isinstance(update, SourceLost)]

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until updates bring a condition about."""
        with trio.fail_after(LONG_S):
            while not condition():
                await self._bell.wait()

    async def wait_changes(self, count: int, scripthash: ScriptHash | None = None) -> list[ScriptHashChanged]:
        """Wait until so many histories were told."""
        await self.wait_until(lambda: len(self.changes(scripthash)) >= count)
        return self.changes(scripthash)

    async def wait_tip(self, height: int, count: int = 1) -> None:
        """Wait until so many servers told a tip at this height."""
        await self.wait_until(lambda: sum(tip.height == height for tip in self.tips()) >= count)


@asynccontextmanager
async def reading(
    memory: MemoryConnector,
    *watches: tuple[ScriptHash, Status | None],
    hosts: Iterable[str] | None = None,
    connections: int | None = None,
    redundancy: int = 3,
    sweep_interval_s: float = 600.0,
    absorbs: bool = False,
) -> AsyncIterator[Reader]:
    """Run a source over all servers in memory, or the named ones, and read it."""
    names = list(memory.servers if hosts is None else hosts)
    pool = pool_of(memory, names, connections=len(names) if connections is None else connections)
    source = ElectrumSource(pool, redundancy=redundancy, sweep_interval_s=sweep_interval_s)
    source.watch_all(watches)
    reader = Reader(source, absorbs=absorbs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        nursery.start_soon(reader.run)
        yield reader
        nursery.cancel_scope.cancel()


def host_of(name: str) -> str:
    """Return the host of a server's name."""
    return name.partition(":")[0]


async def rest() -> None:
    """Wait until nothing moves any more; no time passes."""
    await trio.testing.wait_all_tasks_blocked()


async def connected(reader: Reader, *hosts: str) -> None:
    """Wait until exactly these servers are connected, and all that can be done at once is done."""
    wanted = sorted(named(host).name for host in hosts)
    with trio.fail_after(LONG_S):
        while sorted(reader.source.connected()) != wanted:
            await reader.source.servers_changed.wait()
            await trio.lowlevel.checkpoint()
    await rest()


def subscribed_at(server: SimulatedServer) -> set[ScriptHash]:
    """Return what is subscribed at a server, over all its connections."""
    return {scripthash for connection in server._connections for scripthash in connection.session.client.statuses}


def watchers_of(memory: MemoryConnector) -> dict[ScriptHash, set[str]]:
    """Return the hosts at which each scripthash is subscribed."""
    watchers: dict[ScriptHash, set[str]] = {}
    for host, server in memory.servers.items():
        for scripthash in subscribed_at(server):
            watchers.setdefault(scripthash, set()).add(host)
    return watchers


def customers(count: int) -> list[bytes]:
    """Return so many output scripts."""
    return [forge.made_up_script(f"customer {number}") for number in range(count)]


def calls_of(memory: MemoryConnector, method: str) -> Counter[str]:
    """Return how often each server was asked a method."""
    return Counter({host: server.calls[method] for host, server in memory.servers.items() if server.calls[method]})
