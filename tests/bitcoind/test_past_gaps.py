"""Blocks that nobody can show, and scripts that are watched anew: nothing of them is kept too long, or lost."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import node_findings
from tests.bitcoind.rig import A_WHILE_S, PAID, SOMEBODY_SCRIPT, Life, in_the_middle, life_on, paid_in_many_blocks
from tests.bitcoind.simulated_node import SimulatedNode
from tests.bitcoind.test_past_spent import DROPPED_AFTER_S, LONG_S, chain_with_coin, replace_script, spend
from tests.tracker.rig import OTHER_SCRIPT, SHOP_SCRIPT

pytestmark = pytest.mark.slow
PAID_SAT = 900_000


async def mine_unseen(node: SimulatedNode, *, include: bool = True) -> None:
    """Have the node lost for a while, in which it mines twenty blocks and prunes most of them."""
    node.trouble = "unreachable"
    await trio.sleep(A_WHILE_S)
    node.chain.mine(20, include=None if include else [])
    node.prune_height = node.chain.tip_height - 5


async def be_back(life: Life) -> None:
    """Have the node back, and let what follows come to its end."""
    life.node.trouble = ""
    await trio.sleep(LONG_S)


# --- watched anew ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_one_page", [False, True])
async def test_script_that_is_removed_and_added_in_its_search_is_searched_again(
    in_one_page: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What the search had found until then went with the removal, though nobody had let go of the script yet."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=True)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)

        async def again() -> None:
            if in_one_page:
                await replace_script(life.store)
                life.keeper.ring()
            else:
                await life.unwatch()
                await life.watch()
            await trio.sleep(5.0)

        in_the_middle(node, "getblock", 4, again)
        await life.watch()
        await trio.sleep(LONG_S)
        assert (await life.shown(), await life.coverage(), await life.is_ahead()) == (PAID, (None, 0), False)


@pytest.mark.parametrize("has_filters", [False, True])
async def test_change_of_a_script_that_was_added_again_is_no_payment(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The coin that it spends was forgotten with it, and is not taken for known because it was so once."""
    chain, coin = chain_with_coin(SHOP_SCRIPT, blocks_since=2)
    node = SimulatedNode(chain, has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)

        async def come() -> None:
            await trio.sleep(5.0)
            spend(chain, coin, has_change=True)
            await trio.sleep(20.0)

        node.before["scanblocks" if has_filters else "scantxoutset"] = come
        await replace_script(life.store)
        life.keeper.ring()
        await trio.sleep(LONG_S)
        assert (-301_000, "Confirmed") in await life.shown()
        assert life.source.take_evidence() == []


# --- payments that may stand in pruned blocks --------------------------------------------------------------------


@pytest.mark.parametrize("has_filters", [False, True])
@pytest.mark.parametrize("rival_script", [SHOP_SCRIPT, SOMEBODY_SCRIPT, None], ids=["to us", "to others", "none"])
async def test_payment_whose_coin_no_block_spent_is_in_none(
    rival_script: bytes | None, has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Behind pruned blocks it can be dropped, and a rival that waits takes its place, as if nothing were pruned."""
    chain, coin = chain_with_coin(OTHER_SCRIPT, blocks_since=2)
    node = SimulatedNode(chain, has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        paid = chain.pay(SHOP_SCRIPT, PAID_SAT, spend=[coin])
        await trio.sleep(A_WHILE_S)
        await mine_unseen(node, include=False)
        chain.evict(paid)
        if rival_script is not None:
            chain.pay(rival_script, 800_000, spend=[coin])
        await be_back(life)
        await trio.sleep(2 * DROPPED_AFTER_S)
        gone = "Dropped" if rival_script is None else "Replaced"
        assert (PAID_SAT, gone) in await life.shown()
        assert ((800_000, "Unconfirmed") in await life.shown()) is (rival_script == SHOP_SCRIPT)


@pytest.mark.parametrize("has_filters", [False, True])
async def test_coin_of_a_payment_that_was_given_up_is_counted_again(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It was dropped, and mined later in a block that is pruned unseen: what the node holds for it is said."""
    chain = SimulatedChain()
    chain.mine(3)
    node = SimulatedNode(chain, has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        paid = chain.pay(SHOP_SCRIPT, PAID_SAT)
        await trio.sleep(A_WHILE_S)
        raw = chain.transaction(paid)
        assert raw is not None
        chain.evict(paid)
        await trio.sleep(DROPPED_AFTER_S)
        assert await life.shown() == [(PAID_SAT, "Dropped")]
        node.trouble = "unreachable"
        chain.submit(raw)
        await mine_unseen(node)
        await be_back(life)
        assert (await life.coverage())[1] == PAID_SAT


@pytest.mark.parametrize("has_filters", [False, True])
async def test_coin_that_nothing_proves_leaves_when_it_is_spent_unseen(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A later scan does not name it any more, and so it is not said any more."""
    chain, coin = chain_with_coin(SHOP_SCRIPT, blocks_since=4)
    node = SimulatedNode(chain, has_filters=has_filters)
    node.prune_height = 4
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert (await life.coverage())[1] > 0
        node.trouble = "unreachable"
        spend(chain, coin)
        await mine_unseen(node)
        await be_back(life)
        assert (await life.coverage())[1] == 0
        assert await life.store.read(node_findings.load_all_undeniable) == []
