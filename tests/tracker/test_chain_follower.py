"""The chain's side of the spine: pages, reorgs and floods."""

from collections.abc import Callable

import pytest
import structlog
import trio

from lightipn.bitcoin.header import RETARGET_BLOCKS, parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.checkpoint import Checkpoint, Checkpoints
from lightipn.errors import HeaderError, SourceUnavailableError
from lightipn.simulator.blocks import SimulatedChain
from lightipn.tracker.chain_follower import MAX_FUTURE_S
from tests.builders import mined_run, raw_header
from tests.tracker.rig import GENESIS, NOW, ONE, THREE, TWO, OpenSpine, Spine, hashes_of

# --- extending -----------------------------------------------------------------------------------------------------


async def test_tip_that_connects_costs_no_question(spine: Spine) -> None:
    """A header that stands on our tip is taken from its announcement: nothing is fetched."""
    spine.server.pages.clear()
    spine.chain.mine()
    await spine.follow()
    assert await spine.is_followed()
    assert spine.source.pages == []


async def test_known_tip_costs_nothing(spine: Spine) -> None:
    """A tip that we hold already is neither fetched nor written, and counts as proved."""
    spine.server.pages.clear()
    await spine.follow()
    assert spine.source.pages == []
    assert spine.tracker.follower.is_tip_proved


async def test_gap_is_filled(spine: Spine) -> None:
    """Blocks that were not announced one by one are fetched together."""
    spine.server.pages.clear()
    spine.chain.mine(7)
    await spine.follow()
    assert await spine.is_followed()
    assert spine.source.pages == [(21, 7)]


@pytest.mark.slow
async def test_first_start_goes_page_by_page(open_spine: OpenSpine) -> None:
    """From genesis on headers are fetched in pages of 2016, and each page is on disk before the next is asked for."""
    chain = SimulatedChain()
    chain.mine(2 * RETARGET_BLOCKS + 50)
    spine = await open_spine(chain)
    held: list[int] = []

    def note(start: int, count: int) -> list[bytes]:
        held.append(spine.tracker.follower.chain.tip_height)
        return chain.headers_from(start, count)

    spine.server.headers_of = note
    await spine.follow()
    assert spine.source.pages == [(1, 2016), (2017, 2016), (4033, 50)]
    assert held == [0, 2016, 4032]
    assert await spine.is_followed()


async def test_short_pages_are_enough(open_spine: OpenSpine) -> None:
    """A server that gives fewer headers than asked for is asked for the rest."""
    chain = SimulatedChain()
    chain.mine(50)
    spine = await open_spine(chain)
    spine.server.most_headers = 7
    await spine.follow()
    assert await spine.is_followed()
    assert [start for start, _ in spine.source.pages] == [1, 8, 15, 22, 29, 36, 43, 50]


async def test_only_the_newest_tip_of_a_server_is_followed(open_spine: OpenSpine) -> None:
    """Tips that pile up while one is followed are not all worked off: the newest of each server counts."""
    chain = SimulatedChain()
    chain.mine(3)
    spine = await open_spine(chain)
    for _ in range(3):
        await spine.source.tell_tip()
        chain.mine()
    await spine.source.tell_tip()
    await spine.settle()
    assert await spine.is_followed()
    assert len(spine.source.pages) <= 2


async def test_inflated_tip_is_not_believed(spine: Spine) -> None:
    """A tip said to be higher than the server has headers for changes nothing, and costs few questions."""
    spine.server.pages.clear()
    await spine.source.tell_tip(height=1_000_000)
    await spine.settle()
    assert spine.tracker.follower.chain.tip_height == 20
    assert len(spine.source.pages) <= 4
    spine.chain.mine()
    await spine.follow()
    assert await spine.is_followed()


async def test_server_that_fails_is_asked_again_with_its_next_tip(open_spine: OpenSpine) -> None:
    """While headers cannot be had the tip is not proved, nobody is blamed, and the next tip is followed."""
    chain = SimulatedChain()
    chain.mine(5)
    spine = await open_spine(chain)

    def fail(start: int, count: int) -> list[bytes]:
        raise SourceUnavailableError("gone")

    spine.server.headers_of = fail
    await spine.follow()
    assert (spine.tracker.follower.is_tip_proved, spine.source.reports) == (False, [])
    spine.server.headers_of = None
    await spine.follow()
    assert spine.tracker.follower.is_tip_proved
    assert await spine.is_followed()


async def test_server_without_any_header_is_not_blamed(spine: Spine) -> None:
    """A server that has no headers where it claims them, not even low ones, is asked again later and not reported."""
    spine.server.headers_of = lambda start, count: []
    await spine.source.tell_tip(height=1_000_000)
    await spine.settle()
    assert spine.source.reports == []
    assert spine.tracker.follower.chain.tip_height == 20
    spine.server.headers_of = None
    spine.chain.mine()
    await spine.follow()
    assert await spine.is_followed()


async def test_slow_server_keeps_no_other_waiting(trio_spine: Spine) -> None:
    """While one server takes its time with its headers, the tips of others are followed."""
    spine = trio_spine
    spine.source.named[TWO].is_silent = True
    await spine.source.tell_tip(1_000_000, server=TWO)
    await spine.settle()
    spine.chain.mine(3)
    await spine.follow(ONE)
    assert await spine.is_followed()


@pytest.mark.parametrize("depth", [2, 5, 8], ids=["above where it begins", "where it begins", "below where it begins"])
async def test_headers_that_come_late_are_judged_by_the_chain_of_then(trio_spine: Spine, depth: int) -> None:
    """A page that was asked for before a reorg, and comes after it, neither harms the chain nor its sender."""
    spine = trio_spine
    slow = spine.source.named[TWO]
    slow.headers_released = trio.Event()
    spine.chain.mine(5)
    await spine.follow(TWO)
    spine.chain.reorg(depth)
    await spine.follow(ONE)
    assert await spine.is_followed()
    slow.headers_released.set()
    await spine.settle()
    assert await spine.is_followed()
    assert spine.source.reports == []


@pytest.mark.parametrize("held_page", [21, 26], ids=["first page", "second page"])
async def test_late_headers_win_over_what_came_meanwhile(trio_spine: Spine, held_page: int) -> None:
    """Where another branch came while a page was on its way, the page's own is joined to it lower down, and taken."""
    spine = trio_spine
    other = spine.chain.copy(seed=9)
    other.reorg(3, blocks=12)
    spine.source.named[ONE].chain = other
    slow = spine.source.named[TWO]
    slow.most_headers = 5

    def headers_of(start: int, count: int) -> list[bytes]:
        slow.headers_released = trio.Event() if start == held_page else None
        return spine.chain.headers_from(start, count)

    slow.headers_of = headers_of
    spine.chain.mine(10)
    await spine.follow(TWO)
    await spine.follow(ONE)
    assert spine.hashes() == hashes_of(other)
    assert slow.headers_released is not None
    slow.headers_released.set()
    await spine.settle()
    assert await spine.is_followed()
    assert spine.source.reports == []


# --- reorgs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 10, 100, pytest.param(1000, marks=pytest.mark.slow)])
async def test_reorg_of_any_depth_is_followed(open_spine: OpenSpine, depth: int) -> None:
    """A branch with more work replaces ours from the fork on, in memory and on disk, however deep the fork is."""
    chain = SimulatedChain()
    chain.mine(depth + 5)
    spine = await open_spine(chain)
    await spine.follow()
    chain.reorg(depth)
    await spine.follow()
    assert await spine.is_followed()
    assert spine.source.reports == []


async def test_deep_reorg_is_found_in_few_questions(open_spine: OpenSpine) -> None:
    """The fork is found by doubling steps: a hundred blocks cost seven pages and not a hundred."""
    chain = SimulatedChain()
    chain.mine(150)
    spine = await open_spine(chain)
    await spine.follow()
    spine.server.pages.clear()
    chain.reorg(100)
    await spine.follow()
    assert await spine.is_followed()
    assert len(spine.source.pages) <= 10


async def test_reorg_to_the_base_is_followed(open_spine: OpenSpine) -> None:
    """A branch that leaves our chain right at the base is taken, since the base itself stays."""
    chain = SimulatedChain()
    chain.mine(10)
    spine = await open_spine(chain)
    await spine.follow()
    chain.reorg(10)
    await spine.follow()
    assert await spine.is_followed()


@pytest.mark.parametrize("blocks", [1, 2], ids=["less work", "one less"])
async def test_branch_with_less_work_is_ignored(spine: Spine, blocks: int) -> None:
    """A branch of less work changes nothing, and its server is not blamed: it may merely be behind."""
    ours = spine.hashes()
    behind = spine.chain.copy(seed=9)
    behind.reorg(3, blocks=blocks)
    spine.server.chain = behind
    await spine.follow()
    assert spine.hashes() == ours
    assert spine.source.reports == []
    behind.mine(4)
    await spine.follow()
    assert spine.hashes() == hashes_of(behind)


async def test_equal_work_is_decided_by_most_servers(trio_spine: Spine) -> None:
    """Of two tips with equal work the first stays until more servers stand on the other; it changes once a height."""
    spine = trio_spine
    side = spine.chain.copy(seed=9)
    spine.chain.mine()
    side.mine()
    await spine.follow(ONE)
    ours = spine.hashes()
    for name in (TWO, THREE):
        spine.source.named[name].chain = side
    await spine.follow(TWO)
    assert spine.hashes() == ours
    await spine.follow(THREE)
    assert spine.hashes() == hashes_of(side)
    spine.learn(TWO)
    await spine.follow(TWO)
    assert spine.hashes() == hashes_of(side)  # who changes sides all the time does not have us do so
    spine.chain.mine()
    await spine.follow(TWO)
    assert await spine.is_followed()
    assert spine.source.reports == []


async def test_equal_work_lower_down_is_decided_by_most_servers(trio_spine: Spine) -> None:
    """The same holds for a fork of some blocks: most servers' branch is ours, in memory and on disk."""
    spine = trio_spine
    side = spine.chain.copy(seed=9)
    spine.chain.mine(3)
    side.mine(3)
    await spine.follow(ONE)
    for name in (TWO, THREE):
        spine.source.named[name].chain = side
        await spine.follow(name)
    assert spine.hashes() == hashes_of(side)
    assert await spine.stored_headers() == side.headers_from(1, side.tip_height)


async def test_more_work_needs_no_majority(trio_spine: Spine) -> None:
    """One server's branch with more work is taken, however many stand on ours: work is what counts."""
    spine = trio_spine
    side = spine.chain.copy(seed=9)
    spine.chain.mine()
    side.mine(2)
    await spine.follow()
    spine.source.named[TWO].chain = side
    await spine.follow(TWO)
    assert spine.hashes() == hashes_of(side)
    await spine.follow()
    assert spine.hashes() == hashes_of(side)


async def test_reorg_told_page_by_page_is_followed(open_spine: OpenSpine) -> None:
    """A branch whose first page has no more work than ours is fetched on until it has."""
    chain = SimulatedChain()
    chain.mine(60)
    spine = await open_spine(chain)
    await spine.follow()
    chain.reorg(50)
    spine.server.most_headers = 8
    await spine.follow()
    assert await spine.is_followed()


@pytest.mark.slow
async def test_chain_without_the_checkpoint_is_a_lie(open_spine: OpenSpine) -> None:
    """A server whose chain does not contain the checkpoint is reported, whatever its length."""
    chain = SimulatedChain()
    chain.mine(RETARGET_BLOCKS + 5)
    base = Checkpoint(height=2015, block_hash=chain.block_at(2015).block_hash, next_bits=REGTEST.pow_limit_bits)
    spine = await open_spine(chain, Checkpoints((GENESIS, base)))
    await spine.follow()
    ours = spine.hashes()
    assert ours == hashes_of(chain, 2015)
    other = SimulatedChain(seed=5)
    other.mine(RETARGET_BLOCKS + 100)
    spine.server.chain = other
    await spine.follow()
    assert len(spine.source.reports) == 1
    assert "checkpoint at 2015" in spine.source.reports[0].contradiction
    assert spine.hashes() == ours


# --- floods --------------------------------------------------------------------------------------------------------


def without_work(spine: Spine) -> Callable[[int, int], list[bytes]]:
    """Return headers that link on ours and have no proof of work."""

    def headers(start: int, count: int) -> list[bytes]:
        if start <= spine.tracker.follower.chain.tip_height:
            return spine.chain.headers_from(start, 1)
        previous = spine.tracker.follower.chain.tip_hash
        time = parse_header(spine.chain.header_at(20)).time
        run = []
        for number in range(1, min(count, 50) + 1):
            raw = raw_header(previous, time=time + number, is_mined=False)
            previous = parse_header(raw).block_hash
            run.append(raw)
        return run

    return headers


async def test_flood_without_work_is_reported(spine: Spine) -> None:
    """Headers without proof of work are reported after their first page, and none is kept."""
    ours = spine.hashes()
    spine.server.pages.clear()
    spine.server.headers_of = without_work(spine)
    await spine.source.tell_tip(height=500_000)
    await spine.settle()
    assert len(spine.source.reports) == 1
    assert "exceeds its target" in spine.source.reports[0].contradiction
    assert spine.hashes() == ours
    assert len(spine.source.pages) == 1
    assert len(await spine.stored_headers()) == 20


async def test_header_without_work_is_reported(spine: Spine) -> None:
    """One header without proof of work is reported, announced as a tip as well as fetched for a proof."""
    forged = raw_header(spine.tracker.follower.chain.tip_hash, time=2_000_000_000, is_mined=False)
    await spine.source.tell_tip(21, raw_header=forged)
    await spine.settle()
    assert len(spine.source.reports) == 1
    spine.server.headers_of = lambda start, count: [forged]
    with pytest.raises(HeaderError, match="exceeds its target"):
        await spine.tracker.follower.header_at(21, ONE)
    assert len(spine.source.reports) == 2
    assert spine.tracker.follower.chain.tip_height == 20


async def test_header_from_the_future_waits_for_its_time(spine: Spine) -> None:
    """A block more than two hours ahead of our clock is not followed, and is no lie: our own clock may be wrong."""
    ours = spine.hashes()
    ahead = raw_header(spine.tracker.follower.chain.tip_hash, time=int(NOW) + MAX_FUTURE_S + 1, is_mined=True)
    with structlog.testing.capture_logs() as logs:
        await spine.source.tell_tip(21, raw_header=ahead)
        await spine.settle()
    assert (spine.hashes(), spine.source.reports) == (ours, [])
    assert [log["ahead_s"] for log in logs if log["event"] == "tracker.header_from_the_future"] == [MAX_FUTURE_S + 1]
    spine.clock.now += 1
    await spine.source.tell_tip(21, raw_header=ahead)
    await spine.settle()
    assert spine.tracker.follower.chain.tip_hash == parse_header(ahead).block_hash


async def test_pages_that_repeat_themselves_are_reported(spine: Spine) -> None:
    """A server that sends one and the same page for ever is caught once a reorg between two pages is ruled out."""
    run = mined_run(parse_header(spine.chain.header_at(20)), 5)
    spine.server.headers_of = lambda start, count: run
    spine.server.pages.clear()
    await spine.source.tell_tip(height=400_000)
    await spine.settle()
    assert len(spine.source.reports) == 1
    assert spine.source.reports[0].kind == "false-header"
    assert len(spine.source.pages) <= 10


async def test_true_part_of_a_false_chain_is_kept(spine: Spine) -> None:
    """Headers that hold before the first that does not stay: their work is real."""
    good = mined_run(parse_header(spine.chain.header_at(20)), 5)

    def headers(start: int, count: int) -> list[bytes]:
        return good if start == 21 else [bytes(80)]

    spine.server.headers_of = headers
    await spine.source.tell_tip(height=30)
    await spine.settle()
    assert spine.tracker.follower.chain.tip_height == 25
    assert len(spine.source.reports) == 1
