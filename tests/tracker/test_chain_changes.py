"""What a change of the chain does to payments and messages, and what a restart finds."""

import itertools

import pytest

from lightipn.bitcoin.header import RETARGET_BLOCKS
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.checkpoint import Checkpoint, Checkpoints
from lightipn.chain.history import UNKNOWN
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.errors import StoreError
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import chain as chain_store
from lightipn.store.database import Store
from lightipn.tracker.chain_follower import open_chain
from tests.tracker.rig import GENESIS, ONE, SHOP, SHOP_SCRIPT, OpenSpine, Spine

# --- payments and messages -----------------------------------------------------------------------------------------


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
    assert spine.source.rechecks == [("", SHOP, 0.0)]
    assert await spine.due() == [(0, 5_000)]
    assert len(spine.rings) == rings + 1


@pytest.mark.parametrize("depth", [1, 2, 6, pytest.param(100, marks=pytest.mark.slow)])
async def test_reorg_tells_each_payment_once(trio_spine: Spine, depth: int) -> None:
    """However deep a reorg is, what it took is told reverted once, and confirmed once when it is in a block again."""
    spine = trio_spine
    txids = [await spine.pay_and_mine(1_000) for _ in range(depth)]
    await spine.absorb()
    before = {event.txid: event.block_hash for event in await spine.feed()}
    spine.chain.reorg(depth)
    await spine.follow()
    await spine.absorb()
    assert await spine.totals() == (0, depth * 1_000)
    reverted = [event for event in await spine.feed() if event.kind == "payment.reverted"]
    assert {event.txid: event.block_hash for event in reverted} == before
    assert sorted(event.height or 0 for event in reverted) == list(range(21, 21 + depth))
    spine.chain.mine()
    await spine.follow()
    await spine.absorb()
    for txid in txids:
        assert await spine.told_of(txid) == ["payment.confirmed", "payment.reverted", "payment.confirmed"]
        assert (await spine.entries())[txid].state == spine.proved(txid)
    assert await spine.totals() == (depth * 1_000, 0)
    assert spine.source.reports == []


async def test_reorg_is_one_transaction(spine: Spine) -> None:
    """Headers, reverted payments, their messages and all events of a reorg are on disk together, or none of them is."""
    txid = await spine.pay_and_mine()
    await spine.absorb()
    before = await spine.entries(), await spine.feed(""), await spine.stored_headers(), await spine.due()
    spine.chain.reorg(1, blocks=3)
    failure = "CREATE TRIGGER fail BEFORE INSERT ON event WHEN NEW.kind = 'payment.reverted'"
    await spine.store.transact(lambda db: db.execute(f"{failure} BEGIN SELECT RAISE(ABORT, 'no'); END"))
    with pytest.raises(AssertionError):
        await spine.tracker.follower.header_at(23, ONE)
    assert (await spine.entries(), await spine.feed(""), await spine.stored_headers(), await spine.due()) == before
    assert spine.tracker.follower.chain.tip_height == 21
    await spine.store.transact(lambda db: db.execute("DROP TRIGGER fail"))
    await spine.tracker.follower.header_at(23, ONE)
    assert (await spine.entries())[txid].state == Unconfirmed()
    assert [event.kind for event in (await spine.feed(""))[len(before[1]) :]] == [
        "block.disconnected",
        "block.connected",
        "block.connected",
        "block.connected",
        "payment.reverted",
    ]
    assert await spine.is_followed()


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
    assert spine.source.rechecks == [("", SHOP, 0.0)]
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


# --- restarts ------------------------------------------------------------------------------------------------------


async def test_restart_goes_on_from_disk(open_spine: OpenSpine) -> None:
    """After a restart the chain stands where it stood, and only what is new is fetched."""
    chain = SimulatedChain()
    chain.mine(30)
    await (await open_spine(chain)).follow()
    chain.mine(3)
    again = await open_spine(chain)
    assert again.tracker.follower.chain.tip_height == 30
    assert not again.tracker.follower.is_tip_proved
    await again.follow()
    assert again.server.pages == [(31, 3)]
    assert await again.is_followed()


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
    delta = spine.tracker.follower.chain.extended_by(7, [chain.header_at(7)])
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
