"""The feed's block events: one a block, in order and without a gap, from the first time that the tip was reached."""

import pytest

from lightipn.errors import SourceUnavailableError
from lightipn.simulator.blocks import SimulatedChain
from tests.tracker.rig import NOW, ONE, SHOP_SCRIPT, THREE, TWO, OpenSpine, Spine


async def told_blocks(spine: Spine) -> list[tuple[str, int | None]]:
    """Return kind and height of every block event, in order."""
    return [(event.kind.removeprefix("block."), event.height) for event in await spine.feed("block.")]


async def replayed(spine: Spine, height: int) -> list[bytes]:
    """Return the hashes above a height that a listener holds who took the feed block by block."""
    held: list[bytes] = []
    for event in await spine.feed("block."):
        assert event.block_hash is not None
        assert event.height is not None
        if event.kind == "block.connected":
            held.append(event.block_hash)
            assert event.height == height + len(held)
        else:
            assert event.height == height + len(held)
            assert held.pop() == event.block_hash
    return held


async def test_the_past_is_not_told(open_spine: OpenSpine) -> None:
    """What is caught up with before the tip was ever reached is no news."""
    chain = SimulatedChain()
    chain.mine(50)
    spine = await open_spine(chain)
    spine.server.most_headers = 7
    await spine.follow()
    assert spine.tracker.follower.is_tip_proved
    assert await spine.feed("") == ()


async def test_blocks_are_told_one_by_one(spine: Spine) -> None:
    """Every block from then on is told with its height and hash, be it alone or with others, as proved."""
    spine.chain.mine()
    await spine.follow()
    spine.chain.mine(4)
    await spine.follow()
    events = await spine.feed("block.")
    assert [(event.kind, event.height) for event in events] == [("block.connected", 21 + n) for n in range(5)]
    assert [event.block_hash for event in events] == [spine.chain.block_at(21 + n).block_hash for n in range(5)]
    assert {(event.trust, event.happened_at) for event in events} == {("proved", int(NOW))}


@pytest.mark.parametrize("depth", [1, 2, 6, pytest.param(100, marks=pytest.mark.slow)])
async def test_reorg_is_told_from_the_top_down_and_up_again(spine: Spine, depth: int) -> None:
    """What leaves is told from the top down, then what enters from the fork up; taken together they are our chain."""
    spine.chain.mine(depth)
    await spine.follow()
    spine.chain.reorg(depth)
    await spine.follow()
    top = 20 + depth
    leaving = [("disconnected", height) for height in range(top, 20, -1)]
    entering = [("connected", height) for height in range(21, top + 2)]
    assert (await told_blocks(spine))[depth:] == [*leaving, *entering]
    assert await replayed(spine, 20) == spine.hashes()[21:]


async def test_feed_is_our_chain_whatever_servers_say(trio_spine: Spine) -> None:
    """Over forks and servers that disagree, the feed leads to the chain that we hold, and its numbers have no gap."""
    spine = trio_spine
    side = spine.chain.copy(seed=9)
    spine.chain.mine(2)
    await spine.follow(ONE)
    side.mine(3)
    spine.source.named[TWO].chain = side
    await spine.follow(TWO)
    await spine.follow(THREE)
    spine.chain.mine(2)
    spine.chain.pay(SHOP_SCRIPT, 1_000)
    await spine.follow()
    await spine.absorb(server=ONE)
    spine.learn(TWO)
    spine.chain.reorg(3)
    await spine.follow()
    assert await replayed(spine, 20) == spine.hashes()[21:]
    assert await spine.is_followed()
    numbers = [event.number for event in await spine.feed("")]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_downtime_is_told_after_it(open_spine: OpenSpine, spine: Spine) -> None:
    """Blocks that came while the service was down are told one by one after it, as is a reorg."""
    spine.chain.mine(2)
    await spine.follow()
    await spine.die()
    spine.chain.reorg(1)
    spine.chain.mine(3)
    again = await open_spine(spine.chain)
    await again.follow()
    assert await replayed(again, 20) == again.hashes()[21:]
    assert len(await told_blocks(again)) == 2 + 1 + 5


async def test_tip_that_was_not_reached_begins_nothing(open_spine: OpenSpine) -> None:
    """While headers are still missing, what has come so far is the past."""
    chain = SimulatedChain()
    chain.mine(30)
    spine = await open_spine(chain)

    def fail_late(start: int, count: int) -> list[bytes]:
        if start > 10:
            raise SourceUnavailableError("gone")
        return chain.headers_from(start, 10)

    spine.server.headers_of = fail_late
    await spine.follow()
    assert (spine.tracker.follower.chain.tip_height, spine.tracker.follower.is_tip_proved) == (10, False)
    spine.server.headers_of = None
    await spine.follow()
    assert await spine.feed("") == ()
    chain.mine()
    await spine.follow()
    assert await told_blocks(spine) == [("connected", 31)]


async def test_server_that_is_behind_does_not_begin_the_feed(open_spine: OpenSpine) -> None:
    """Where several servers are there, one may tell an old tip: the feed begins with the second to tell."""
    chain = SimulatedChain()
    chain.mine(5)
    spine = await open_spine(chain, servers=3)
    spine.stop_learning(TWO)
    chain.mine(500)
    await spine.follow(TWO)
    assert not spine.tracker.follower.is_tip_proved
    await spine.follow(ONE)
    assert spine.tracker.follower.is_tip_proved
    assert await spine.feed("") == ()
    chain.mine()
    await spine.follow(ONE)
    assert await told_blocks(spine) == [("connected", 506)]


async def test_block_brought_by_a_history_is_told(spine: Spine) -> None:
    """A block that a history made known before its announcement is told as any other, and once."""
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.mine()
    await spine.absorb()
    await spine.follow()
    assert [event.kind for event in await spine.feed("")] == ["block.connected", "payment.confirmed"]
