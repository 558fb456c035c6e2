"""The spine on a fake source and a real store, without threads."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from lightipn.bitcoin.network import REGTEST
from lightipn.chain.checkpoint import Checkpoints
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import chain as chain_store
from lightipn.store.database import Store, open_store
from lightipn.tracker.chain_follower import ChainFollower, open_chain
from lightipn.tracker.evidence import EvidenceFetcher
from lightipn.tracker.spends import SpendWatcher
from lightipn.tracker.spine import Tracker
from lightipn.tracker.wiring import Wiring
from tests.tracker.fake_server import FakeServer
from tests.tracker.fake_source import FakeSource
from tests.tracker.rig import GENESIS, NAMES, POLICIES, OpenSpine, Spine, WallClock


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An open database without threads."""
    async with open_store(tmp_path / "spine.db", "regtest", threaded=False) as store:
        yield store


@pytest.fixture
async def open_spine(store: Store, nursery: trio.Nursery) -> OpenSpine:
    """Start a spine over a chain and some servers, with checkpoints and what the store holds already."""

    async def open_it(
        chain: SimulatedChain,
        checkpoints: Checkpoints | None = None,
        *,
        servers: int = 1,
        is_live: bool = False,
        min_seen_by: int = 2,
        drop_after_s: float = 600.0,
    ) -> Spine:
        rows = checkpoints or Checkpoints((GENESIS,))
        await store.transact(lambda db: chain_store.save_base_height(db, rows.last.height))
        lowest, raw_headers = await store.read(chain_store.load_headers)
        source = FakeSource([FakeServer(name, chain) for name in NAMES[:servers]], nursery, is_live=is_live)
        rings: list[None] = []
        clock = WallClock()
        wiring = Wiring(source=source, store=store, policies=POLICIES, ring=lambda: rings.append(None), clock=clock)
        follower = ChainFollower(wiring, chain=open_chain(REGTEST, rows, lowest, raw_headers), checkpoints=rows)
        fetcher = EvidenceFetcher(source, follower, min_seen_by=min_seen_by)
        spends = SpendWatcher(wiring, follower=follower, fetcher=fetcher, drop_after_s=drop_after_s)
        tracker = Tracker(wiring, follower=follower, fetcher=fetcher, spends=spends)
        spine = Spine(chain, source, store, clock, follower, fetcher, spends, tracker, rings)
        nursery.start_soon(spine.run)
        await spine.settle()
        return spine

    return open_it


@pytest.fixture
async def spine(open_spine: OpenSpine) -> Spine:
    """A spine over one server with twenty blocks, followed to the tip, with the shop subscribed at one confirmation."""
    chain = SimulatedChain()
    chain.mine(20)
    spine = await open_spine(chain)
    await spine.subscribe()
    await spine.follow()
    return spine


@pytest.fixture
async def trio_spine(open_spine: OpenSpine) -> Spine:
    """The same over three servers, of which two must hold an unconfirmed payment."""
    chain = SimulatedChain()
    chain.mine(20)
    spine = await open_spine(chain, servers=3)
    await spine.subscribe()
    await spine.follow()
    return spine


@pytest.fixture
async def live_spine(open_spine: OpenSpine) -> Spine:
    """Three servers behind a source that tells and asks again by itself; time jumps if ``autojump_clock`` is used."""
    chain = SimulatedChain()
    chain.mine(20)
    spine = await open_spine(chain, servers=3, is_live=True)
    await spine.subscribe()
    await spine.follow()
    return spine
