"""From Electrum servers to one's own node: only what they told counts, however far our headers are."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.checkpoint import Checkpoints
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import chain as chain_store
from lightipn.store import node_blocks
from lightipn.store.database import open_store
from lightipn.tracker.chain_follower import open_chain
from tests.bitcoind.rig import A_WHILE_S, life_on
from tests.bitcoind.simulated_node import SimulatedNode
from tests.tracker.rig import GENESIS, SHOP_SCRIPT

TOLD_UP_TO = 12


async def absorb(chain: SimulatedChain, path: Path) -> None:
    """Leave a database in which other servers' histories were worked in up to the tip."""
    async with life_on(SimulatedNode(chain), path) as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert await life.shown() == [(100_000, "Confirmed")]
        await life.store.transact(node_blocks.clear)  # as a start with other servers does it


async def follow_headers(chain: SimulatedChain, path: Path) -> None:
    """Have our headers reach the tip, and end before any history was told."""
    async with open_store(path, "regtest", threaded=False) as store:
        lowest, raw = await store.read(chain_store.load_headers)
        ours = open_chain(REGTEST, Checkpoints((GENESIS,)), lowest, raw)
        missing = [chain.header_at(height) for height in range(TOLD_UP_TO + 1, chain.tip_height + 1)]
        delta = ours.extended_by(TOLD_UP_TO + 1, missing)
        assert delta.connected[-1] == parse_header(missing[-1])
        await store.transact(lambda db: chain_store.save_delta(db, delta))


@pytest.mark.parametrize("followed", [None, TOLD_UP_TO])
@pytest.mark.parametrize("has_filters", [False, True])
async def test_blocks_whose_headers_are_known_and_whose_histories_are_not_are_looked_through(
    followed: int | None, has_filters: bool, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that ended while it caught up misses no payment of the blocks between, after it switched to a node."""
    monkeypatch.setattr(node_blocks, "LOOKED_THROUGH_AGAIN", 2)
    path, chain = tmp_path / "a.db", SimulatedChain()
    chain.mine(10)
    chain.pay(SHOP_SCRIPT, 100_000)
    chain.mine(2)
    node = SimulatedNode(chain, has_filters=has_filters)
    await absorb(chain, path)
    chain.mine(5)
    chain.pay(SHOP_SCRIPT, 55_000)
    chain.mine(20)
    await follow_headers(chain, path)
    if followed is not None:
        async with open_store(path, "regtest", threaded=False) as store:
            await store.transact(lambda db: chain_store.save_followed_height(db, followed))
    async with life_on(node, path) as life:
        await trio.sleep(A_WHILE_S)
        assert await life.shown() == [(55_000, "Confirmed"), (100_000, "Confirmed")]
        is_whole = has_filters or followed is not None
        assert await life.coverage() == (None if is_whole else chain.tip_height + 1, 0)
