"""A spine over simulated servers, all in one task tree: real sessions over memory streams, a real database, no API."""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio.testing

from lightipn.bitcoin.address import address_of, parse_address
from lightipn.bitcoin.hashes import ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.checkpoint import Checkpoint, Checkpoints
from lightipn.dialects.ipn import wire
from lightipn.dialects.ipn.policy import IpnPolicy
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import Connection, Identity
from lightipn.electrum.pool import ServerPool
from lightipn.electrum.source import ElectrumSource
from lightipn.errors import SourceUnavailableError
from lightipn.ledger.entries import LedgerEntry, totals_of
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer
from lightipn.store import events as event_store
from lightipn.store import ledger as ledger_store
from lightipn.store import subscriptions as subscription_store
from lightipn.store.database import Store, open_store
from lightipn.tracker.chain_follower import ChainFollower
from lightipn.tracker.spine import open_tracker
from lightipn.tracker.wiring import Wiring
from lightipn.upkeep import WatchKeeper

DROP_AFTER_S = 20.0
SWEEP_INTERVAL_S = 40.0
GENESIS = Checkpoint(height=0, block_hash=REGTEST.genesis_hash, next_bits=None)


class MemoryConnector:
    """Connects to simulated servers without sockets; while it ``is_down``, to none."""

    def __init__(self, servers: Sequence[SimulatedServer], nursery: trio.Nursery) -> None:
        self._servers = {server.host: server for server in servers}
        self._nursery = nursery
        self.is_down = False

    async def connect(self, address: ServerAddress, known: Identity) -> Connection:
        """Open a pair of streams, and have the server serve one end."""
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise SourceUnavailableError("connection-refused", source=address.name)
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._servers[address.host].serve, theirs)
        return Connection(ours, Identity(), "")  # type: ignore[arg-type]  # any stream does for a session


@dataclass(slots=True)
class Rig:
    """A running spine and its servers."""

    chain: SimulatedChain
    servers: list[SimulatedServer]
    store: Store
    pool: ServerPool
    source: ElectrumSource
    follower: ChainFollower
    keeper: WatchKeeper
    connector: MemoryConnector
    clock_offset_s: list[float]
    rings: list[None] = field(default_factory=list)

    async def watch(self, script: bytes) -> None:
        """Have a shop subscribe to a script."""
        text = address_of(script, REGTEST)
        assert text is not None
        await self.store.transact(
            lambda db: subscription_store.save_subscription(
                db,
                dialect="ipn",
                owner="shop",
                address=parse_address(text, REGTEST),
                url="http://shop.example/",
                terms=wire.encode_terms(wire.IpnTerms(max_confirms=1)),
                now=0,
            )
        )
        self.keeper.ring()

    async def publish(self) -> None:
        """Have every server push what is new."""
        for server in self.servers:
            await server.publish()

    async def entries(self, script: bytes) -> dict[Txid, LedgerEntry]:
        """Return what the ledger says of a script."""
        payments = await self.store.read(lambda db: ledger_store.load_payments(db, scripthash_of(script)))
        assert payments is not None
        return payments.entries

    async def totals(self, script: bytes) -> tuple[int, int]:
        """Return the confirmed and unconfirmed satoshis that a shop would be told now."""
        found = totals_of(
            (await self.entries(script)).values(), tip_height=self.follower.chain.tip_height, confirmations=1
        )
        return found.confirmed_sat, found.unconfirmed_sat

    async def events(self, scripthash: ScriptHash | None = None) -> list[event_store.RecordedEvent]:
        """Return the feed; of one script if it is named."""
        page = await self.store.read(lambda db: event_store.load_events(db, after=0, limit=1_000_000, owner=None))
        assert [event.number for event in page.events] == list(range(1, page.latest + 1))
        return [event for event in page.events if scripthash is None or event.scripthash == scripthash]

    def evidence(self) -> dict[str, set[str]]:
        """Return what each server was caught with since the last call."""
        found: dict[str, set[str]] = {}
        for one in self.pool.take_evidence():
            found.setdefault(one.server.partition(":")[0], set()).add(one.kind)
        return found

    def verdicts(self) -> dict[str, str]:
        """Return what became of each server."""
        return {state.name.partition(":")[0]: state.verdict for state in self.pool.states()}


@asynccontextmanager
async def open_rig(
    path: Path,
    chains: Sequence[SimulatedChain],
    behaviours: Sequence[Behaviour],
    *,
    ban_s: float = 86400.0,
    min_seen_by: int = 2,
) -> AsyncIterator[Rig]:
    """Open a rig: one server for each behaviour, on its own chain or on the only one.

    Args:
        path: of the database; made if it is not there.
    """
    offset_s = [0.0]

    def clock() -> float:
        return 1_700_000_000.0 + trio.current_time() + offset_s[0]

    def chain_of(place: int) -> SimulatedChain:
        return chains[place] if len(chains) > 1 else chains[0]

    servers = [
        SimulatedServer(chain_of(place), behaviour, host=f"server{place}", port=50001)
        for place, behaviour in enumerate(behaviours)
    ]
    rings: list[None] = []
    async with open_store(path, "regtest", threaded=False) as store, trio.open_nursery() as nursery:
        connector = MemoryConnector(servers, nursery)
        pool = ServerPool(
            [ServerAddress(server.host, server.port, uses_tls=False) for server in servers],
            REGTEST,
            connector=connector,  # type: ignore[arg-type]  # it has the one method
            connections=len(servers),
            ban_s=ban_s,
            clock=clock,
        )
        source = ElectrumSource(pool, redundancy=3, sweep_interval_s=SWEEP_INTERVAL_S)
        wiring = Wiring(
            source=source,
            store=store,
            policies={"ipn": IpnPolicy(max_retry_interval_s=math.inf)},
            ring=lambda: rings.append(None),
            clock=clock,
        )
        tracker = await open_tracker(
            wiring,
            network=REGTEST,
            checkpoints=Checkpoints((GENESIS,)),
            min_seen_by=min_seen_by,
            drop_after_s=DROP_AFTER_S,
        )
        keeper = WatchKeeper(store, source)
        await keeper.load()
        nursery.start_soon(source.run)
        nursery.start_soon(tracker.run)
        nursery.start_soon(keeper.run)
        yield Rig(chains[0], servers, store, pool, source, tracker.follower, keeper, connector, offset_s, rings)
        nursery.cancel_scope.cancel()
