"""The spine on a fake source and a real store, without threads."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from lightipn.simulator.blocks import SimulatedChain
from lightipn.store.database import Store, open_store
from tests.tracker import rig
from tests.tracker.rig import OpenSpine, Spine


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An open database without threads."""
    async with open_store(tmp_path / "spine.db", "regtest", threaded=False) as store:
        yield store


@pytest.fixture
async def open_spine(store: Store, nursery: trio.Nursery) -> OpenSpine:
    """Start a spine over a chain and some servers, with checkpoints and what the store holds already."""
    return partial(rig.open_spine, store, nursery)


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
