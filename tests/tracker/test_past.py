"""What was of the past when a subscription was made stays so, and what is new stays new, whatever a reorg moves.

── 19 ── 20 (old payment)   ◄ subscribed here
└── 20' ── 21'         the old payment may be in any of them, or in none; so may a new one
"""

import pytest

from lightipn.bitcoin.hashes import Txid
from lightipn.dialects.receive import wire
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import outbox
from lightipn.store import subscriptions as subscription_store
from tests.tracker.rig import SHOP, SHOP_SCRIPT, OpenSpine, Spine

TIP = 20
TERMS = wire.encode_terms(wire.AddressTerms())


@pytest.fixture
async def spine(open_spine: OpenSpine) -> Spine:
    """A spine at height 19, whose mempool holds a payment to the shop."""
    chain = SimulatedChain()
    chain.mine(TIP - 1)
    spine = await open_spine(chain)
    await spine.follow()
    return spine


async def subscribe(spine: Spine) -> None:
    """Subscribe at the tip."""
    await spine.subscribe(dialect="receive", terms=TERMS, since_height=spine.chain.tip_height)
    await spine.absorb()


async def told(spine: Spine) -> dict[Txid, str]:
    """Return what the shop has messages about, and how far each is."""

    def work(db: outbox.Database) -> dict[Txid, str]:
        (subscription,) = subscription_store.load_subscriptions_of(db, SHOP)
        held = outbox.load_messages(db, subscription.subscription_id).values()
        return {message.txid: message.state.value for _, message in held if message.txid is not None}

    return await spine.store.read(work)


async def test_past_payment_is_not_told_though_it_loses_its_block(spine: Spine) -> None:
    """A payment that was in a block when the shop subscribed is never told: not unconfirmed again, not mined again."""
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.mine()
    await spine.follow()
    await subscribe(spine)
    spine.chain.reorg(1)
    await spine.publish()
    assert len(await spine.entries()) == 1
    assert await told(spine) == {}
    spine.chain.mine()
    await spine.publish()
    assert await told(spine) == {}


async def test_new_payment_is_told_though_it_lands_in_an_old_place(spine: Spine) -> None:
    """A payment that came after the subscription is told where the other block at the same height has it."""
    spine.chain.mine()
    await spine.follow()
    await subscribe(spine)
    txid = spine.chain.pay(SHOP_SCRIPT, 7_000)
    await spine.publish()
    assert await told(spine) == {txid: "open"}
    spine.chain.reorg(1, blocks=0)
    spine.chain.mine()
    spine.chain.mine()
    await spine.publish()
    (entry,) = (await spine.entries()).values()
    assert entry.counts_at_height(1) == TIP
    assert await told(spine) == {txid: "open"}


async def test_new_payment_in_a_block_that_replaces_an_old_one_is_told(spine: Spine) -> None:
    """A payment that nobody saw before the reorg is new, although its block is no higher than the tip was."""
    spine.chain.mine()
    await spine.follow()
    await subscribe(spine)
    spine.chain.reorg(1, blocks=0)
    txid = spine.chain.pay(SHOP_SCRIPT, 7_000)
    spine.chain.mine(2)
    await spine.publish()
    assert await told(spine) == {txid: "open"}
