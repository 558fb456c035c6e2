"""The spine on a fake source and a real store, without threads and without a clock."""

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
from lightipn.tracker.spine import Tracker
from tests.tracker.fake_source import FakeSource
from tests.tracker.rig import GENESIS, NOW, POLICIES, OpenSpine, Spine


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An open database without threads."""
    async with open_store(tmp_path / "spine.db", "regtest", threaded=False) as store:
        yield store


@pytest.fixture
async def open_spine(store: Store, nursery: trio.Nursery) -> OpenSpine:
    """Start a spine over a chain, with checkpoints and what the store holds already."""

    async def open_it(chain: SimulatedChain, checkpoints: Checkpoints | None = None) -> Spine:
        rows = checkpoints or Checkpoints((GENESIS,))
        await store.transact(lambda db: chain_store.save_base_height(db, rows.last.height))
        lowest, raw_headers = await store.read(chain_store.load_headers)
        source = FakeSource(chain)
        rings: list[None] = []

        def ring() -> None:
            rings.append(None)

        follower = ChainFollower(
            source=source,
            store=store,
            chain=open_chain(REGTEST, rows, lowest, raw_headers),
            checkpoints=rows,
            policies=POLICIES,
            ring=ring,
            clock=lambda: NOW,
        )
        tracker = Tracker(
            source=source, store=store, follower=follower, policies=POLICIES, ring=ring, clock=lambda: NOW
        )
        spine = Spine(chain, source, store, follower, tracker, rings)
        nursery.start_soon(tracker.run)
        await spine.settle()
        return spine

    return open_it


@pytest.fixture
async def spine(open_spine: OpenSpine) -> Spine:
    """A spine over twenty blocks, followed to the tip, with the shop subscribed at one confirmation."""
    chain = SimulatedChain()
    chain.mine(20)
    spine = await open_spine(chain)
    await spine.subscribe()
    await spine.follow()
    return spine
