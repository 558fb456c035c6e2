"""Reorgs as the shop lives them: what lost its block is told as unconfirmed, and proved again where it comes back."""

import pytest

from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.entries import Replaced
from tests.scenarios.story import SHOP_SCRIPT, Story, told_of


@pytest.mark.slow
@pytest.mark.parametrize("depth", range(1, 11))
async def test_reverted_payment_is_told_and_proved_again(story: Story, depth: int) -> None:
    """A reorg of any depth that takes a payment's block is told, and so is the block that takes it in again."""
    await story.watch()
    txid = await story.pay(50_000)
    await story.wait_told(0, 50_000)
    await story.mine()
    await story.wait_told(50_000, 0)
    await story.mine(depth - 1)
    await story.wait_ready()
    story.chain.reorg(depth)
    await story.publish()
    await story.wait_told(0, 50_000)
    assert (await story.entries())[txid].state == Unconfirmed()
    await story.mine()
    await story.wait_told(50_000, 0)
    block = story.chain.block_at(story.chain.tip_height)
    assert (await story.entries())[txid].state == Confirmed(block.block_hash, block.height, 1)
    assert story.shop.told() == [told_of(0, 50_000), told_of(50_000, 0)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("depth", range(1, 11))
async def test_payment_mined_again_at_the_same_height_is_proved_anew(story: Story, depth: int) -> None:
    """A payment that is mined again at the same height of another block keeps its status, and loses its old proof."""
    await story.watch()
    txid = await story.pay(50_000)
    await story.wait_told(0, 50_000)
    await story.mine()
    await story.wait_told(50_000, 0)
    await story.mine(depth - 1)
    await story.wait_ready()
    status = story.chain.status(story.scripthash())
    story.chain.reorg(depth, remine=True)
    assert story.chain.status(story.scripthash()) == status
    await story.publish()
    wanted = Confirmed(story.chain.block_at(21).block_hash, 21, 1)
    await story.wait_state(txid, wanted)
    await story.wait_told(50_000, 0)
    assert set(story.shop.told()) == {told_of(0, 50_000), told_of(50_000, 0)}


async def test_reorg_below_the_depth_is_no_news(story: Story) -> None:
    """A reorg of blocks above a payment changes nothing for a shop that waits for one confirmation."""
    await story.watch()
    txid = await story.pay(50_000)
    await story.wait_told(0, 50_000)
    await story.mine(4)
    await story.wait_told(50_000, 0)
    before = await story.entries()
    story.chain.reorg(3)
    await story.publish()
    await story.wait_ready()
    await story.mine()
    await story.wait_ready()
    assert await story.is_all_acknowledged()
    assert await story.entries() == before
    assert story.shop.told() == [told_of(0, 50_000), told_of(50_000, 0)]
    assert txid in before


async def test_depth_is_counted_on_the_new_branch(story: Story) -> None:
    """After a reorg the confirmations of a payment are counted from its new block on."""
    await story.watch(depth=3)
    await story.pay(50_000)
    await story.wait_told(0, 50_000)
    await story.mine(2)
    story.chain.reorg(2, blocks=3)
    await story.publish()
    await story.wait_ready()
    await story.mine(2)
    await story.wait_ready()
    assert story.shop.told() == [told_of(0, 50_000)]
    await story.mine()
    await story.wait_told(50_000, 0)
    assert story.shop.told() == [told_of(0, 50_000), told_of(50_000, 0)]


@pytest.mark.slow
async def test_payment_that_is_spent_twice_in_a_reorg_is_replaced(story: Story) -> None:
    """A payment that loses its block and is replaced by one of another amount leaves the total in one step."""
    await story.watch()
    txid = await story.pay(50_000)
    await story.wait_told(0, 50_000)
    await story.mine()
    await story.wait_told(50_000, 0)
    story.chain.reorg(1)
    second = story.chain.replace(txid, amount_sat=20_000)
    await story.publish()
    await story.wait_told(0, 20_000)
    await story.mine()
    await story.wait_told(20_000, 0)
    assert (await story.entries())[txid].state == Replaced(second)
    allowed = {told_of(0, 50_000), told_of(50_000, 0), told_of(0, 20_000), told_of(20_000, 0)}
    assert set(story.shop.told()) <= allowed


@pytest.mark.slow
async def test_reorg_while_the_service_is_down_is_found(story: Story) -> None:
    """A reorg that happened while the service was down is found at its start, also where no status changed."""
    await story.watch()
    txid = await story.pay(50_000)
    await story.mine()
    await story.wait_told(50_000, 0)
    await story.kill()
    story.chain.reorg(1, remine=True)
    await story.start()
    await story.wait_ready()
    wanted = Confirmed(story.chain.block_at(21).block_hash, 21, 1)
    await story.wait_state(txid, wanted)
    await story.wait_told(50_000, 0)


@pytest.mark.slow
async def test_reorg_that_loses_a_payment_for_good(story: Story) -> None:
    """A payment that vanishes with its block is told as unconfirmed: that nobody lists it proves nothing."""
    await story.watch()
    txid = await story.pay(50_000)
    await story.mine()
    await story.wait_told(50_000, 0)
    story.chain.reorg(1, drop=[txid])
    assert story.chain.history(story.scripthash()) == ()
    await story.publish()
    await story.wait_told(0, 50_000)
    await story.mine(3)
    await story.wait_ready()
    assert story.shop.told()[-1] == told_of(0, 50_000)


@pytest.mark.slow
async def test_every_payment_of_a_reorg_is_told(story: Story) -> None:
    """A reorg that takes the blocks of many payments to one address is told by one total."""
    await story.watch()
    for number in range(1, 6):
        story.chain.pay(SHOP_SCRIPT, 1_000 * number)
        await story.mine()
    await story.wait_told(15_000, 0)
    story.chain.reorg(3)
    await story.publish()
    await story.wait_told(3_000, 12_000)
    await story.mine()
    await story.wait_told(15_000, 0)
