"""Servers that stay behind, or on a branch with less work: they are replaced, after patience and without a verdict."""

import pytest
import trio

from lightipn.tracker.server_tips import STRAGGLER_PATIENCE_S
from tests.tracker.rig import ONE, THREE, TWO, Spine

A_BIT_S = 0.5


async def wait_out_patience(spine: Spine) -> list[str]:
    """Wait until shortly before patience ends, where nobody has gone yet, and past it; return who went."""
    await trio.sleep(STRAGGLER_PATIENCE_S - A_BIT_S)
    assert spine.source.demotions == []
    await trio.sleep(2 * A_BIT_S)
    return spine.source.demotions


async def test_server_two_blocks_behind_goes(trio_spine: Spine, autojump_clock: object) -> None:
    """A server whose tip is two blocks below ours is sent away after half a minute, and not reported."""
    spine = trio_spine
    spine.source.named[TWO].chain = spine.chain.copy(seed=9)
    spine.chain.mine(2)
    await spine.follow(ONE)
    await spine.follow(THREE)
    assert await wait_out_patience(spine) == [TWO]
    assert spine.source.reports == []


async def test_server_that_merely_did_not_tell_stays(trio_spine: Spine, autojump_clock: object) -> None:
    """A server that has our tip when it is asked lost its notices, and is as good as the others."""
    spine = trio_spine
    spine.chain.mine(2)
    await spine.follow(ONE)
    await spine.follow(THREE)
    assert await wait_out_patience(spine) == []


async def test_server_one_block_behind_stays(trio_spine: Spine, autojump_clock: object) -> None:
    """A server's node may take longer for a block than another's."""
    spine = trio_spine
    spine.chain.mine()
    await spine.follow(ONE)
    await trio.sleep(10 * STRAGGLER_PATIENCE_S)
    assert spine.source.demotions == []


async def test_server_that_catches_up_in_time_stays(trio_spine: Spine, autojump_clock: object) -> None:
    """A server that has the blocks before patience ends stays, and its next delay counts from its own beginning."""
    spine = trio_spine
    for _ in range(3):
        spine.chain.mine(2)
        await spine.follow(ONE)
        await spine.follow(THREE)
        await trio.sleep(STRAGGLER_PATIENCE_S - A_BIT_S)
        await spine.follow(TWO)
    await trio.sleep(10 * STRAGGLER_PATIENCE_S)
    assert spine.source.demotions == []


async def test_server_that_creeps_behind_goes(trio_spine: Spine, autojump_clock: object) -> None:
    """A server that tells new tips, but always two blocks late, is behind from the first time on."""
    spine = trio_spine
    for _ in range(4):
        spine.source.named[TWO].chain = spine.chain.copy(seed=9)
        spine.chain.mine(2)
        await spine.follow(ONE)
        await spine.follow(THREE)
        await trio.sleep(STRAGGLER_PATIENCE_S / 3 - A_BIT_S)
        height = spine.chain.tip_height - 2
        await spine.source.tell_tip(height, raw_header=spine.chain.header_at(height), server=TWO)
        await spine.settle()
    assert spine.source.demotions == [TWO]


async def test_equal_work_at_the_tip_sends_nobody_away(trio_spine: Spine, autojump_clock: object) -> None:
    """Two blocks of the same height are both honest: nobody goes, however long it takes until one wins."""
    spine = trio_spine
    side = spine.chain.copy(seed=9)
    spine.chain.mine()
    side.mine()
    spine.source.named[TWO].chain = side
    await spine.follow(ONE)
    await spine.follow(TWO)
    await spine.follow(THREE)
    await trio.sleep(10 * STRAGGLER_PATIENCE_S)
    assert spine.source.demotions == []


@pytest.mark.parametrize("is_settled_in_time", [False, True])
async def test_server_that_stays_on_the_lost_branch_goes(
    trio_spine: Spine, autojump_clock: object, *, is_settled_in_time: bool
) -> None:
    """Once the other branch has more work, who stays on the lost one goes, though it is one block behind."""
    spine = trio_spine
    side = spine.chain.copy(seed=9)
    side.mine()
    spine.source.named[TWO].chain = side
    spine.chain.mine(2)
    await spine.follow()
    if is_settled_in_time:
        await trio.sleep(STRAGGLER_PATIENCE_S - A_BIT_S)
        spine.learn(TWO)
        await spine.follow(TWO)
        await trio.sleep(10 * STRAGGLER_PATIENCE_S)
        assert spine.source.demotions == []
    else:
        assert await wait_out_patience(spine) == [TWO]
    assert spine.source.reports == []


async def test_server_that_left_is_forgotten(trio_spine: Spine, autojump_clock: object) -> None:
    """A server that is gone cannot be behind; when it is back, its time counts anew."""
    spine = trio_spine
    spine.chain.mine(2)
    await spine.follow(ONE)
    await trio.sleep(STRAGGLER_PATIENCE_S - A_BIT_S)
    spine.source.lose(TWO)
    await spine.settle()
    spine.stop_learning(TWO)
    spine.chain.mine(2)
    await spine.follow(ONE)
    await spine.follow(THREE)
    spine.source.regain(TWO)
    await spine.follow(TWO)
    assert await wait_out_patience(spine) == [TWO]


async def test_server_that_claims_too_much_goes(trio_spine: Spine, autojump_clock: object) -> None:
    """A server with a tip above ours that it shows no headers for is sent away in time, and not banned."""
    spine = trio_spine
    await spine.source.tell_tip(1_000_000, server=TWO)
    await trio.sleep(A_BIT_S)
    spine.chain.mine()
    await spine.follow(ONE)  # which is no news of what the other claims
    await trio.sleep(STRAGGLER_PATIENCE_S - 2 * A_BIT_S)
    assert spine.source.demotions == []
    await trio.sleep(2 * A_BIT_S)
    assert (spine.source.demotions, spine.source.reports) == ([TWO], [])


async def test_server_that_shows_what_it_claimed_stays(trio_spine: Spine, autojump_clock: object) -> None:
    """A server that could not show its headers at first, and can before patience ends, stays."""
    spine = trio_spine
    server = spine.source.named[TWO]
    server.is_gone = True
    spine.chain.mine(3)
    await spine.follow(TWO)
    await trio.sleep(STRAGGLER_PATIENCE_S - A_BIT_S)
    server.is_gone = False
    await spine.follow(TWO)
    assert await spine.is_followed()
    await spine.follow()
    await trio.sleep(10 * STRAGGLER_PATIENCE_S)
    assert spine.source.demotions == []


async def test_several_go_each_in_its_time(trio_spine: Spine, autojump_clock: object) -> None:
    """Each server's patience ends for itself."""
    spine = trio_spine
    spine.source.named[TWO].chain = spine.chain.copy(seed=9)
    spine.chain.mine(2)
    await spine.follow(ONE)
    await spine.follow(THREE)
    await trio.sleep(STRAGGLER_PATIENCE_S / 2)
    spine.source.named[THREE].chain = spine.chain.copy(seed=9)
    spine.chain.mine(2)
    await spine.follow(ONE)
    await trio.sleep(STRAGGLER_PATIENCE_S / 2 + A_BIT_S)
    assert spine.source.demotions == [TWO]
    await trio.sleep(STRAGGLER_PATIENCE_S / 2)
    assert spine.source.demotions == [TWO, THREE]
