"""Payments in blocks below the last checkpoint: proved by their whole period, chained to the checkpoint at its end."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.address import address_of, parse_address
from lightipn.bitcoin.hashes import Txid, scripthash_of
from lightipn.bitcoin.header import RETARGET_BLOCKS
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.checkpoint import Checkpoint, Checkpoints
from lightipn.chain.history import UNKNOWN
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.dialects.ipn import wire
from lightipn.dialects.ipn.policy import IpnPolicy
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import Connector
from lightipn.electrum.pool import ServerPool
from lightipn.electrum.source import ElectrumSource
from lightipn.ledger.entries import LedgerEntry
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from lightipn.store import chain as chain_store
from lightipn.store import ledger as ledger_store
from lightipn.store import subscriptions as subscription_store
from lightipn.store.database import Store, open_store
from lightipn.tracker.chain_follower import ChainFollower
from lightipn.tracker.spine import Tracker, open_tracker
from lightipn.tracker.wiring import Wiring
from tests.scenarios.story import SHOP_SCRIPT

SHOP = scripthash_of(SHOP_SCRIPT)
ADDRESS = parse_address(str(address_of(SHOP_SCRIPT, REGTEST)), REGTEST)
POLICIES = {"ipn": IpnPolicy(max_retry_interval_s=3600.0)}
HEADERS = "blockchain.block.headers"
NOW = 1_300_000_000.0  # some days after the last block
# In the first period, in the last block of it, in the second one, right above the last checkpoint, and near the tip.
PAID_AT = (5, 2015, 2016, 4032, 4035)

pytestmark = pytest.mark.slow


def ring_nobody() -> None:
    """Stand for a dispatcher that is not there."""


@pytest.fixture(scope="module")
def paid_chain() -> SimulatedChain:
    """Two periods and a little more, with payments to the shop all over them."""
    chain = SimulatedChain()
    for height in PAID_AT:
        chain.mine(height - chain.tip_height - 1)
        chain.pay(SHOP_SCRIPT, height * 1_000)
        chain.mine()
    chain.mine(3)
    return chain


def checkpoints_of(chain: SimulatedChain) -> Checkpoints:
    """Return genesis and the ends of the first two periods."""
    rows = [Checkpoint(height=0, block_hash=REGTEST.genesis_hash, next_bits=None)]
    for height in (RETARGET_BLOCKS - 1, 2 * RETARGET_BLOCKS - 1):
        block_hash = chain.block_at(height).block_hash
        rows.append(Checkpoint(height=height, block_hash=block_hash, next_bits=REGTEST.pow_limit_bits))
    return Checkpoints(tuple(rows))


@dataclass(slots=True)
class Worker:
    """A spine over a real Electrum source."""

    store: Store
    source: ElectrumSource
    follower: ChainFollower
    tracker: Tracker

    async def wait_tip(self, height: int) -> None:
        """Wait until our chain stands at a height: what is above the last checkpoint needs no header any more then."""
        with trio.fail_after(10):
            while self.follower.chain.tip_height < height:
                await trio.testing.wait_all_tasks_blocked(0.01)

    async def watch(self) -> None:
        """Have the shop watched."""
        record = await self.store.read(lambda db: ledger_store.load_script(db, SHOP))
        assert record is not None
        self.source.watch(SHOP, record.known_status)

    async def wait_entries(self, condition: Callable[[dict[Txid, LedgerEntry]], bool]) -> dict[Txid, LedgerEntry]:
        """Wait until the shop's ledger entries meet a condition, and return them."""
        with trio.fail_after(20):
            while True:
                progress = self.tracker.progress()
                payments = await self.store.read(lambda db: ledger_store.load_payments(db, SHOP))
                if payments is not None and condition(payments.entries):
                    return payments.entries
                await progress.wait()


@asynccontextmanager
async def working(file: Path, server: SimulatedServer, checkpoints: Checkpoints) -> AsyncIterator[Worker]:
    """Run a spine that stands on the last checkpoint, with the shop subscribed, and not watched yet."""
    async with open_store(file, "regtest") as store, trio.open_nursery() as nursery:

        def prepare(db: ledger_store.Database) -> None:
            chain_store.save_base_height(db, checkpoints.last.height)
            subscription_store.save_subscription(
                db,
                dialect="ipn",
                owner="shop",
                address=ADDRESS,
                url="http://shop.example/",
                terms=wire.encode_terms(wire.IpnTerms(max_confirms=1)),
                now=0,
            )

        await store.transact(prepare)
        pool = ServerPool(
            [ServerAddress(server.host, server.port, uses_tls=False)],
            REGTEST,
            connector=Connector(),
            connections=1,
            ban_s=86400.0,
            clock=lambda: NOW,
            lowest_tip=checkpoints.last.height,
        )
        source = ElectrumSource(pool, redundancy=1, sweep_interval_s=600)
        wiring = Wiring(source=source, store=store, policies=POLICIES, ring=ring_nobody, clock=lambda: NOW)
        tracker = await open_tracker(
            wiring, network=REGTEST, checkpoints=checkpoints, min_seen_by=1, drop_after_s=600.0
        )
        nursery.start_soon(source.run)
        nursery.start_soon(tracker.run)
        yield Worker(store, source, tracker.follower, tracker)
        nursery.cancel_scope.cancel()


def is_all_confirmed(entries: dict[Txid, LedgerEntry]) -> bool:
    """Tell whether every payment is there and proved."""
    return len(entries) == len(PAID_AT) and all(isinstance(entry.state, Confirmed) for entry in entries.values())


async def test_old_payments_are_proved(paid_chain: SimulatedChain, nursery: trio.Nursery, tmp_path: Path) -> None:
    """Payments below the last checkpoint are proved like any other, and each period is fetched once."""
    server: SimulatedServer = await nursery.start(serve_electrum, paid_chain)
    async with working(tmp_path / "old.db", server, checkpoints_of(paid_chain)) as worker:
        await worker.wait_tip(paid_chain.tip_height)
        await worker.watch()
        entries = await worker.wait_entries(is_all_confirmed)
    places = {entry.state.height: entry for entry in entries.values() if isinstance(entry.state, Confirmed)}
    assert sorted(places) == list(PAID_AT)
    assert all(entry.net_sat == height * 1_000 for height, entry in places.items())
    assert [places[height].state.block_hash for height in PAID_AT] == [
        paid_chain.block_at(height).block_hash for height in PAID_AT
    ]
    assert server.calls[HEADERS] == 3  # two old periods, and what stands above the last checkpoint


async def test_period_is_proved_once_for_all(paid_chain: SimulatedChain, nursery: trio.Nursery, tmp_path: Path) -> None:
    """A period that was proved is on disk: after a restart further payments in it cost no headers."""
    server: SimulatedServer = await nursery.start(serve_electrum, paid_chain)
    for _ in range(2):
        async with working(tmp_path / "old.db", server, checkpoints_of(paid_chain)) as worker:
            await worker.wait_tip(paid_chain.tip_height)
            await worker.watch()
            await worker.wait_entries(is_all_confirmed)
            await worker.store.transact(
                lambda db: subscription_store.remove_subscriptions(db, SHOP, url=None)  # and with it all payments
            )
    assert server.calls[HEADERS] == 3
    assert server.calls["blockchain.transaction.get_merkle"] == 2 * len(PAID_AT)


async def test_server_with_another_past_proves_nothing(
    paid_chain: SimulatedChain, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """A server whose old blocks do not lead to our checkpoints is reported, and its payments stay unproved."""
    other = SimulatedChain(seed=6)
    other.mine(9)
    other.pay(SHOP_SCRIPT, 77_000)
    other.mine(2 * RETARGET_BLOCKS)
    server: SimulatedServer = await nursery.start(serve_electrum, other)
    async with working(tmp_path / "old.db", server, checkpoints_of(paid_chain)) as worker:
        await worker.watch()
        with trio.fail_after(10):
            while not any(state.verdict == "banned" for state in worker.source.servers()):
                await trio.testing.wait_all_tasks_blocked(0.01)
        payments = await worker.store.read(lambda db: ledger_store.load_payments(db, SHOP))
        record = await worker.store.read(lambda db: ledger_store.load_script(db, SHOP))
    assert payments is not None
    assert record is not None
    assert all(entry.state == Unconfirmed() for entry in payments.entries.values())
    assert record.known_status in (None, UNKNOWN)
