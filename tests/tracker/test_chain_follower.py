"""The chain's side of the spine: pages, reorgs, floods, and what a chain change does to payments and messages."""

import itertools
from collections.abc import Callable

import pytest

from lightipn.bitcoin.header import RETARGET_BLOCKS, parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.checkpoint import Checkpoint, Checkpoints
from lightipn.chain.history import UNKNOWN
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.errors import HeaderError, SourceUnavailableError, StoreError
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import chain as chain_store
from lightipn.store.database import Store
from lightipn.tracker.chain_follower import open_chain
from tests.builders import mined_run, raw_header
from tests.tracker.fake_source import SERVER
from tests.tracker.rig import GENESIS, SHOP, SHOP_SCRIPT, OpenSpine, Spine


def hashes_of(spine: Spine) -> list[bytes | None]:
    """Return the hashes of our chain from the base to the tip."""
    chain = spine.follower.chain
    return [chain.hash_at(height) for height in range(chain.base.height, chain.tip_height + 1)]


def wanted_hashes(chain: SimulatedChain, base_height: int = 0) -> list[bytes]:
    """Return the hashes of a made-up chain from a height to the tip."""
    return [chain.block_at(height).block_hash for height in range(base_height, chain.tip_height + 1)]


async def is_followed(spine: Spine) -> bool:
    """Tell whether memory and disk both hold the source's chain."""
    headers = spine.chain.headers_from(1, spine.chain.tip_height)
    return hashes_of(spine) == wanted_hashes(spine.chain) and await spine.stored_headers() == headers


# --- extending ---------------------------------------------------------------------------------------------------


async def test_tip_that_connects_costs_no_question(spine: Spine) -> None:
    """A header that stands on our tip is taken from its announcement: nothing is fetched."""
    spine.source.pages.clear()
    spine.chain.mine()
    await spine.follow()
    assert await is_followed(spine)
    assert spine.source.pages == []


async def test_known_tip_costs_nothing(spine: Spine) -> None:
    """A tip that we hold already is neither fetched nor written, and counts as proved."""
    spine.source.pages.clear()
    await spine.follow()
    assert spine.source.pages == []
    assert spine.follower.is_tip_proved


async def test_gap_is_filled(spine: Spine) -> None:
    """Blocks that were not announced one by one are fetched together."""
    spine.source.pages.clear()
    spine.chain.mine(7)
    await spine.follow()
    assert await is_followed(spine)
    assert spine.source.pages == [(21, 7)]


@pytest.mark.slow
async def test_first_start_goes_page_by_page(open_spine: OpenSpine) -> None:
    """From genesis on headers are fetched in pages of 2016, and each page is on disk before the next is asked for."""
    chain = SimulatedChain()
    chain.mine(2 * RETARGET_BLOCKS + 50)
    spine = await open_spine(chain)
    held: list[int] = []

    def note(start: int, count: int) -> list[bytes]:
        held.append(spine.follower.chain.tip_height)
        return chain.headers_from(start, count)

    spine.source.headers_of = note
    await spine.follow()
    assert spine.source.pages == [(1, 2016), (2017, 2016), (4033, 50)]
    assert held == [0, 2016, 4032]
    assert await is_followed(spine)


async def test_short_pages_are_enough(open_spine: OpenSpine) -> None:
    """A server that gives fewer headers than asked for is asked for the rest."""
    chain = SimulatedChain()
    chain.mine(50)
    spine = await open_spine(chain)
    spine.source.most_headers = 7
    await spine.follow()
    assert await is_followed(spine)
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
    assert await is_followed(spine)
    assert len(spine.source.pages) <= 2


async def test_inflated_tip_is_not_believed(spine: Spine) -> None:
    """A tip said to be higher than the server has headers for changes nothing, and costs few questions."""
    spine.source.pages.clear()
    await spine.source.tell_tip(height=1_000_000)
    await spine.settle()
    assert spine.follower.chain.tip_height == 20
    assert len(spine.source.pages) <= 4
    spine.chain.mine()
    await spine.follow()
    assert await is_followed(spine)


async def test_server_that_fails_is_asked_again_with_its_next_tip(open_spine: OpenSpine) -> None:
    """While headers cannot be had the tip is not proved, nobody is blamed, and the next tip is followed."""
    chain = SimulatedChain()
    chain.mine(5)
    spine = await open_spine(chain)

    def fail(start: int, count: int) -> list[bytes]:
        raise SourceUnavailableError("gone")

    spine.source.headers_of = fail
    await spine.follow()
    assert (spine.follower.is_tip_proved, spine.source.reports) == (False, [])
    spine.source.headers_of = None
    await spine.follow()
    assert spine.follower.is_tip_proved
    assert await is_followed(spine)


# --- reorgs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 10, 100, pytest.param(1000, marks=pytest.mark.slow)])
async def test_reorg_of_any_depth_is_followed(open_spine: OpenSpine, depth: int) -> None:
    """A branch with more work replaces ours from the fork on, in memory and on disk, however deep the fork is."""
    chain = SimulatedChain()
    chain.mine(depth + 5)
    spine = await open_spine(chain)
    await spine.follow()
    chain.reorg(depth)
    await spine.follow()
    assert await is_followed(spine)
    assert spine.source.reports == []


async def test_deep_reorg_is_found_in_few_questions(open_spine: OpenSpine) -> None:
    """The fork is found by doubling steps: a hundred blocks cost seven pages and not a hundred."""
    chain = SimulatedChain()
    chain.mine(150)
    spine = await open_spine(chain)
    await spine.follow()
    spine.source.pages.clear()
    chain.reorg(100)
    await spine.follow()
    assert await is_followed(spine)
    assert len(spine.source.pages) <= 10


async def test_reorg_to_the_base_is_followed(open_spine: OpenSpine) -> None:
    """A branch that leaves our chain right at the base is taken, since the base itself stays."""
    chain = SimulatedChain()
    chain.mine(10)
    spine = await open_spine(chain)
    await spine.follow()
    chain.reorg(10)
    await spine.follow()
    assert await is_followed(spine)


@pytest.mark.parametrize("blocks", [1, 2, 3], ids=["less work", "one less", "equal work"])
async def test_branch_without_more_work_is_ignored(spine: Spine, blocks: int) -> None:
    """A branch of less or equal work changes nothing, and its server is not blamed: it may merely be behind."""
    ours = hashes_of(spine)
    behind = spine.chain.copy(seed=9)
    behind.reorg(3, blocks=blocks)
    spine.source.chain = behind
    await spine.follow()
    assert hashes_of(spine) == ours
    assert spine.source.reports == []
    behind.mine(4)
    await spine.follow()
    assert hashes_of(spine) == wanted_hashes(behind)


async def test_reorg_told_page_by_page_is_followed(open_spine: OpenSpine) -> None:
    """A branch whose first page has no more work than ours is fetched on until it has."""
    chain = SimulatedChain()
    chain.mine(60)
    spine = await open_spine(chain)
    await spine.follow()
    chain.reorg(50)
    spine.source.most_headers = 8
    await spine.follow()
    assert await is_followed(spine)


@pytest.mark.slow
async def test_chain_without_the_checkpoint_is_a_lie(open_spine: OpenSpine) -> None:
    """A server whose chain does not contain the checkpoint is reported, whatever its length."""
    chain = SimulatedChain()
    chain.mine(RETARGET_BLOCKS + 5)
    base = Checkpoint(height=2015, block_hash=chain.block_at(2015).block_hash, next_bits=REGTEST.pow_limit_bits)
    spine = await open_spine(chain, Checkpoints((GENESIS, base)))
    await spine.follow()
    ours = hashes_of(spine)
    assert ours == wanted_hashes(chain, 2015)
    other = SimulatedChain(seed=5)
    other.mine(RETARGET_BLOCKS + 100)
    spine.source.chain = other
    await spine.follow()
    assert len(spine.source.reports) == 1
    assert "checkpoint at 2015" in spine.source.reports[0]
    assert hashes_of(spine) == ours


# --- floods ------------------------------------------------------------------------------------------------------


def without_work(spine: Spine) -> Callable[[int, int], list[bytes]]:
    """Return headers that link on ours and have no proof of work."""

    def headers(start: int, count: int) -> list[bytes]:
        if start <= spine.follower.chain.tip_height:
            return spine.chain.headers_from(start, 1)
        previous = spine.follower.chain.tip_hash
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
    ours = hashes_of(spine)
    spine.source.pages.clear()
    spine.source.headers_of = without_work(spine)
    await spine.source.tell_tip(height=500_000)
    await spine.settle()
    assert len(spine.source.reports) == 1
    assert "exceeds its target" in spine.source.reports[0]
    assert hashes_of(spine) == ours
    assert len(spine.source.pages) == 1
    assert len(await spine.stored_headers()) == 20


async def test_header_without_work_is_reported(spine: Spine) -> None:
    """One header without proof of work is reported, announced as a tip as well as fetched for a proof."""
    forged = raw_header(spine.follower.chain.tip_hash, time=2_000_000_000, is_mined=False)
    await spine.source.tell_tip(21, raw_header=forged)
    await spine.settle()
    assert len(spine.source.reports) == 1
    spine.source.headers_of = lambda start, count: [forged]
    with pytest.raises(HeaderError, match="exceeds its target"):
        await spine.follower.header_at(21, SERVER)
    assert len(spine.source.reports) == 2
    assert spine.follower.chain.tip_height == 20


async def test_pages_that_repeat_themselves_are_reported(spine: Spine) -> None:
    """A server that sends one and the same page for ever is caught at the second one."""
    run = mined_run(parse_header(spine.chain.header_at(20)), 5)
    spine.source.headers_of = lambda start, count: run
    spine.source.pages.clear()
    await spine.source.tell_tip(height=400_000)
    await spine.settle()
    assert len(spine.source.reports) == 1
    assert "does not link" in spine.source.reports[0]
    assert len(spine.source.pages) == 2


async def test_true_part_of_a_false_chain_is_kept(spine: Spine) -> None:
    """Headers that hold before the first that does not stay: their work is real."""
    good = mined_run(parse_header(spine.chain.header_at(20)), 5)

    def headers(start: int, count: int) -> list[bytes]:
        return good if start == 21 else [bytes(80)]

    spine.source.headers_of = headers
    await spine.source.tell_tip(height=30)
    await spine.settle()
    assert spine.follower.chain.tip_height == 25
    assert len(spine.source.reports) == 1


# --- payments and messages ---------------------------------------------------------------------------------------


async def test_reorg_reverts_payments_in_one_transaction(spine: Spine) -> None:
    """A reorg takes payments out of their blocks, has them asked again at once, and makes the new totals due."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.mine()
    await spine.follow()
    await spine.absorb()
    assert await spine.totals() == (5_000, 0)
    rings = len(spine.rings)
    spine.chain.reorg(1)
    await spine.follow()
    assert (await spine.entries())[txid].state == Unconfirmed()
    assert await spine.totals() == (0, 5_000)
    assert await spine.known_status() == UNKNOWN
    assert spine.source.rechecks == [(SHOP, 0.0)]
    assert await spine.due() == [(0, 5_000)]
    assert len(spine.rings) == rings + 1


async def test_same_height_in_another_block_is_proved_again(spine: Spine) -> None:
    """A payment mined again at the same height keeps its status, and is proved anew in its new block."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.mine()
    await spine.follow()
    await spine.absorb()
    before = spine.chain.status(SHOP)
    spine.chain.reorg(1, blocks=2, remine=True)
    assert spine.chain.status(SHOP) == before
    await spine.follow()
    assert spine.source.rechecks == [(SHOP, 0.0)]
    await spine.absorb()
    state = (await spine.entries())[txid].state
    assert state == Confirmed(spine.chain.block_at(21).block_hash, 21, 1)
    assert await spine.known_status() == before


async def test_payments_below_the_fork_stay(spine: Spine) -> None:
    """A payment below the fork keeps its block, and its confirmations are counted on the new branch."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.mine(3)
    await spine.follow()
    await spine.absorb()
    before = await spine.entries()
    spine.chain.reorg(2, blocks=4)
    await spine.follow()
    assert await spine.entries() == before
    assert spine.source.rechecks == []
    assert await spine.totals(depth=5) == (5_000, 0)
    assert await spine.totals(depth=6) == (0, 5_000)
    assert txid in before


async def test_depth_is_reached_by_a_block_alone(open_spine: OpenSpine) -> None:
    """A subscriber who waits for three confirmations is told by the third block, and by none before or after it."""
    chain = SimulatedChain()
    chain.mine(5)
    spine = await open_spine(chain)
    await spine.subscribe(depth=3)
    chain.pay(SHOP_SCRIPT, 5_000)
    chain.mine()
    await spine.follow()
    await spine.absorb()
    rings = [len(spine.rings)]
    for _ in range(4):
        chain.mine()
        await spine.follow()
        rings.append(len(spine.rings))
    assert await spine.due() == [(5_000, 0)]
    assert [after - before for before, after in itertools.pairwise(rings)] == [0, 1, 0, 0]


@pytest.mark.slow
async def test_thousands_who_wait_for_one_block_are_all_told(open_spine: OpenSpine) -> None:
    """When one block makes more subscriptions due than one transaction takes, all are told."""
    chain = SimulatedChain()
    chain.mine(5)
    spine = await open_spine(chain)
    for number in range(1200):
        await spine.subscribe(depth=2, url=f"http://shop.example/{number}")
    chain.pay(SHOP_SCRIPT, 5_000)
    chain.mine()
    await spine.follow()
    await spine.absorb()
    assert await spine.due() == [(0, 5_000)] * 1200
    chain.mine()
    await spine.follow()
    assert await spine.due() == [(5_000, 0)] * 1200


# --- restarts ----------------------------------------------------------------------------------------------------


async def test_restart_goes_on_from_disk(open_spine: OpenSpine) -> None:
    """After a restart the chain stands where it stood, and only what is new is fetched."""
    chain = SimulatedChain()
    chain.mine(30)
    await (await open_spine(chain)).follow()
    chain.mine(3)
    again = await open_spine(chain)
    assert again.follower.chain.tip_height == 30
    assert not again.follower.is_tip_proved
    await again.follow()
    assert again.source.pages == [(31, 3)]
    assert await is_followed(again)


async def test_restart_reviews_what_a_crash_left(open_spine: OpenSpine) -> None:
    """Subscriptions that a block made due are reviewed at the next start, if the process died before it did that."""
    chain = SimulatedChain()
    chain.mine(5)
    spine = await open_spine(chain)
    await spine.subscribe(depth=2)
    chain.pay(SHOP_SCRIPT, 5_000)
    chain.mine()
    await spine.follow()
    await spine.absorb()
    chain.mine()
    delta = spine.follower.chain.extended_by(7, [chain.header_at(7)])
    assert delta is not None
    await spine.store.transact(lambda db: chain_store.save_delta(db, delta))  # and here the process died
    assert await spine.due() == [(0, 5_000)]
    again = await open_spine(chain)
    assert await again.due() == [(5_000, 0)]
    assert len(again.rings) == 1


async def test_stored_headers_that_do_not_link_are_damage(open_spine: OpenSpine, store: Store) -> None:
    """Stored headers that do not link to each other, or to a checkpoint, are a damaged database."""
    chain = SimulatedChain()
    chain.mine(5)
    await (await open_spine(chain)).follow()
    await store.transact(lambda db: db.execute("DELETE FROM header WHERE height = 3"))
    with pytest.raises(StoreError, match="damaged"):
        await open_spine(chain)


@pytest.mark.slow
def test_stored_headers_that_contradict_a_checkpoint_are_refused() -> None:
    """Headers from before an upgrade that contradict one of its checkpoints are not used."""
    ours, true = SimulatedChain(seed=1), SimulatedChain(seed=2)
    ours.mine(RETARGET_BLOCKS + 5)
    true.mine(RETARGET_BLOCKS + 5)
    base = Checkpoint(height=2015, block_hash=true.block_at(2015).block_hash, next_bits=None)
    checkpoints = Checkpoints((GENESIS, base))
    with pytest.raises(StoreError, match="contradict the checkpoint at height 2015"):
        open_chain(REGTEST, checkpoints, 1, ours.headers_from(1, RETARGET_BLOCKS + 5))
    assert open_chain(REGTEST, checkpoints, 1, true.headers_from(1, RETARGET_BLOCKS)).tip_height == RETARGET_BLOCKS
    with pytest.raises(StoreError, match="follows no checkpoint"):
        open_chain(REGTEST, checkpoints, 77, true.headers_from(77, 5))


# --- headers for proofs ------------------------------------------------------------------------------------------


async def test_header_above_the_tip_is_asked_for(spine: Spine) -> None:
    """A header above our tip is fetched and the chain extended to it; where there is none, the answer is None."""
    spine.chain.mine(2)
    header = await spine.follower.header_at(22, SERVER)
    assert header == parse_header(spine.chain.header_at(22))
    assert await is_followed(spine)
    assert await spine.follower.header_at(23, SERVER) is None


async def test_header_of_genesis_is_known(spine: Spine) -> None:
    """The header at height 0 is known without asking."""
    spine.source.pages.clear()
    assert await spine.follower.header_at(0, SERVER) == parse_header(REGTEST.genesis_header)
    assert spine.source.pages == []


@pytest.fixture(scope="module")
def long_chain() -> SimulatedChain:
    """Two whole periods and a little more."""
    chain = SimulatedChain()
    chain.mine(2 * RETARGET_BLOCKS + 10)
    return chain


def checkpoints_of(chain: SimulatedChain) -> Checkpoints:
    """Return the checkpoints at the ends of the first two periods."""
    ends = [
        Checkpoint(height=height, block_hash=chain.block_at(height).block_hash, next_bits=REGTEST.pow_limit_bits)
        for height in (2015, 4031)
    ]
    return Checkpoints((GENESIS, *ends))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "start"), [(1, 0), (2015, 0), (2016, 2016), (3000, 2016), (4031, 2016)], ids=str)
async def test_old_header_is_proved_by_its_period(
    open_spine: OpenSpine, long_chain: SimulatedChain, height: int, start: int
) -> None:
    """A header below the last checkpoint is proved by its whole period, which is fetched once and kept on disk."""
    spine = await open_spine(long_chain, checkpoints_of(long_chain))
    wanted = parse_header(long_chain.header_at(height))
    assert await spine.follower.header_at(height, SERVER) == wanted
    assert spine.source.pages == [(start, 2016)]
    again = await open_spine(long_chain, checkpoints_of(long_chain))
    assert await again.follower.header_at(height, SERVER) == wanted
    assert await again.follower.header_at(start + 100, SERVER) == parse_header(long_chain.header_at(start + 100))
    assert again.source.pages == []


@pytest.mark.slow
async def test_false_period_is_reported(open_spine: OpenSpine, long_chain: SimulatedChain) -> None:
    """A period that does not end in its checkpoint is reported, and nothing of it is kept."""
    spine = await open_spine(long_chain, checkpoints_of(long_chain))
    other = SimulatedChain(seed=8)
    other.mine(RETARGET_BLOCKS)
    for headers in (other.headers_from(0, 2016), long_chain.headers_from(0, 2015), []):
        spine.source.headers_of = lambda start, count, run=headers: run  # type: ignore[misc]  # a default binds it now
        with pytest.raises(HeaderError):
            await spine.follower.header_at(5, SERVER)
    assert len(spine.source.reports) == 3
    spine.source.headers_of = None
    assert await spine.follower.header_at(5, SERVER) == parse_header(long_chain.header_at(5))
