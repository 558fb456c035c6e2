"""Laws of the spine: whatever happens and whatever one server says, the ledger ends up at the truth, by legal steps."""

import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightipn.simulator.blocks import SimulatedChain
from lightipn.store.database import open_store
from tests.tracker.world import Deeds, open_world

NUMBERS = st.integers(0, 40)
COMMON = ("pay", "pay", "pay", "replace", "mine", "mine", "reorg", "evict", "lie", "lie", "wait")
DEEDS = st.lists(st.tuples(st.sampled_from((*COMMON, "lag", "restart")), NUMBERS, NUMBERS), max_size=25)


async def live(folder: Path, deeds: Deeds) -> None:
    """Let all of it happen; check legality all the way, and the truth at the end."""
    async with open_store(folder / "spine.db", "regtest", threaded=False) as store, trio.open_nursery() as nursery:
        world = await open_world(store, nursery, SimulatedChain())
        for deed in deeds:
            await world.do(*deed)
            await world.check_verdicts()
        await world.check_events()
        await world.settle_honestly()
        await world.check_verdicts()
        await world.check_events()
        await world.check_ledger()
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(deeds=DEEDS)
@example(deeds=[("pay", 0, 0), ("lie", 2, 0), ("mine", 0, 0), ("reorg", 0, 1), ("wait", 30, 0)])
@example(deeds=[("pay", 1, 0), ("lie", 6, 0), ("wait", 2, 0), ("replace", 0, 2), ("mine", 0, 0), ("reorg", 1, 1)])
@example(deeds=[("pay", 0, 0), ("pay", 2, 3), ("evict", 0, 0), ("wait", 40, 0), ("restart", 0, 0), ("mine", 0, 0)])
def test_ledger_ends_at_the_truth(deeds: Deeds) -> None:
    """Payments, replacements, evictions, reorgs, restarts, a liar, a laggard: states, sums and events are right."""
    with tempfile.TemporaryDirectory() as folder:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(partial(live, Path(folder), deeds), clock=clock)
