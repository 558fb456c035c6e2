"""What is told once a tip: through the real spine, with a watch keeper, and a dispatcher that the test turns by hand.

block ──► tip ──► what waited for it is due ──► one call, with the number of confirmations at that moment
            └──► an unconfirmed payment is asked again first, for some seconds
"""

from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.dialects.receive import wire as receive_wire
from lightipn.outbox.verdict import Answer
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import attempts
from lightipn.store import subscriptions as subscription_store
from lightipn.store.attempts import Claim
from lightipn.store.outbox import SETTLING_S
from lightipn.upkeep import WatchKeeper
from tests.tracker.rig import NOW, OTHER_SCRIPT, POLICIES, SHOP, SHOP_SCRIPT, OpenSpine, Spine

ADDRESS_TERMS = receive_wire.encode_terms(receive_wire.AddressTerms())
URL = "http://shop.example/paid?order=7"
NOT_YET = Answer(status=200, body=b"not yet", trouble="", latency_ms=1.0)
OK = Answer(status=200, body=b"*ok*", trouble="", latency_ms=1.0)
SILENCE = Answer(status=None, body=b"", trouble="timeout", latency_ms=1.0)

Call = tuple[str, int]
"""What a shop was told: a txid, or a block's hash, and how many confirmations it has."""


@dataclass
class Shop:
    """A shop that is told payments once a tip until it says ``*ok*``, and the running service around the spine."""

    spine: Spine
    keeper: WatchKeeper
    told: list[Call] = field(default_factory=list)

    async def claim(self) -> list[Claim]:
        """Take what is due now, as the dispatcher does."""
        now = self.spine.clock.now
        claims, _ = await self.spine.store.transact(
            lambda db: attempts.claim_due(db, POLICIES, now=now, room=100, room_of=lambda host: 100, busy={})
        )
        for claim in claims:
            query = parse_qs(urlsplit(claim.request.url).query)
            (subject,) = query.get("transaction_hash") or query["hash"]
            self.told.append((subject, int(query["confirmations"][0])))
        return claims

    async def answer(self, claims: list[Claim], answer: Answer = NOT_YET) -> None:
        """Record what the shop answered."""
        for claim in claims:
            await self.spine.store.transact(
                lambda db, claim=claim: attempts.finish_attempt(
                    db, POLICIES, claim, answer, now=self.spine.clock.now, jitter=0.0
                )
            )

    async def calls(self, answer: Answer = NOT_YET) -> list[Call]:
        """Let everything that is due be told, and return what that was."""
        before = len(self.told)
        while claims := await self.claim():
            await self.answer(claims, answer)
        return self.told[before:]

    async def follow(self) -> None:
        """Have the servers announce their tip alone: no history is told yet."""
        await self.spine.follow()
        await self.keep_watches()

    async def keep_watches(self) -> None:
        """Have the source be asked what the database wants asked, as a running service does within a second."""
        self.keeper.ring()
        await self.spine.settle()

    async def pay(self, script: bytes = SHOP_SCRIPT, amount_sat: int = 5_000) -> Txid:
        """Pay the shop, which every server announces."""
        txid = self.spine.chain.pay(script, amount_sat)
        await self.spine.absorb(script)
        return txid


async def open_shop(spine: Spine, nursery: trio.Nursery) -> Shop:
    """Keep the watches of a spine, and stand in for its dispatcher."""
    keeper = WatchKeeper(spine.store, spine.source)  # type: ignore[arg-type]  # it has the methods that a keeper calls
    nursery.start_soon(keeper.run)
    shop = Shop(spine, keeper)
    await shop.keep_watches()
    spine.source.rechecks.clear()
    return shop


@pytest.fixture
async def shop(open_spine: OpenSpine, nursery: trio.Nursery) -> Shop:
    """A spine over one server with twenty blocks, and a shop that has one address."""
    chain = SimulatedChain()
    chain.mine(20)
    spine = await open_spine(chain)
    await spine.subscribe(dialect="receive", terms=ADDRESS_TERMS, url=URL)
    await spine.follow()
    return await open_shop(spine, nursery)


# --- one call a tip ----------------------------------------------------------------------------------------------


async def test_payment_is_told_at_once_and_then_once_a_tip(shop: Shop) -> None:
    """A payment is told with no confirmations when it is seen, then once a tip with the right number, until *ok*."""
    txid = hex_of(await shop.pay())
    assert await shop.calls() == [(txid, 0)]
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls() == [(txid, 1)]
    for confirmations in (2, 3, 4):
        shop.spine.clock.now += 600
        assert await shop.calls() == []
        shop.spine.chain.mine()
        await shop.follow()
        assert await shop.calls() == [(txid, confirmations)]
    shop.spine.chain.mine()
    await shop.follow()
    assert await shop.calls(OK) == [(txid, 5)]
    for _ in range(3):
        shop.spine.chain.mine()
        shop.spine.clock.now += 600
        await shop.follow()
        assert await shop.calls() == []


async def test_tip_rings_the_dispatcher(shop: Shop) -> None:
    """A tip that makes a message due rings; one for which nothing waits does not."""
    await shop.pay()
    await shop.calls(OK)
    shop.spine.rings.clear()
    shop.spine.chain.mine()
    await shop.follow()
    assert shop.spine.rings == []
    await shop.pay(amount_sat=6_000)
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    await shop.calls()
    shop.spine.rings.clear()
    shop.spine.chain.mine()
    await shop.follow()
    assert len(shop.spine.rings) == 1


async def test_two_payments_are_told_each_once_a_tip(shop: Shop) -> None:
    """Every payment has a call of its own at each tip, and one that was acknowledged does not end the other."""
    first = hex_of(await shop.pay())
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls() == [(first, 1)]
    second = hex_of(await shop.pay(amount_sat=6_000))
    assert await shop.calls(OK) == [(second, 0)]
    for confirmations in (2, 3):
        shop.spine.chain.mine()
        await shop.follow()
        await shop.spine.absorb()
        assert await shop.calls() == [(first, confirmations)]


async def test_blocks_that_come_together_are_one_tip(shop: Shop) -> None:
    """Several blocks of one page make one call, with the confirmations that they make together."""
    txid = hex_of(await shop.pay())
    assert await shop.calls() == [(txid, 0)]
    shop.spine.chain.mine(4)
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls() == [(txid, 4)]
    shop.spine.chain.mine(3)
    await shop.follow()
    assert await shop.calls() == [(txid, 7)]


async def test_blocks_of_a_downtime_are_one_tip(open_spine: OpenSpine, shop: Shop, nursery: trio.Nursery) -> None:
    """Blocks that came while the service was down make one call after it."""
    txid = hex_of(await shop.pay())
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls() == [(txid, 1)]
    await shop.spine.die()
    shop.spine.chain.mine(5)
    again = await open_shop(await open_spine(shop.spine.chain), nursery)
    assert await again.calls() == []
    await again.follow()
    assert await again.calls() == [(txid, 6)]


async def test_tip_that_was_not_told_before_a_crash_is_told_after_it(
    open_spine: OpenSpine, shop: Shop, nursery: trio.Nursery
) -> None:
    """What a tip made due is due after a restart too, and once."""
    txid = hex_of(await shop.pay())
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    await shop.calls()
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.die()
    again = await open_shop(await open_spine(shop.spine.chain), nursery)
    assert await again.calls() == [(txid, 2)]
    await again.follow()
    assert await again.calls() == []


async def test_tip_that_comes_during_a_call_is_told_after_it(shop: Shop) -> None:
    """A tip that comes while the shop is being called makes the next call due when that one ends."""
    txid = hex_of(await shop.pay())
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    under_way = await shop.claim()
    shop.spine.chain.mine(2)
    await shop.follow()
    assert await shop.claim() == []
    await shop.answer(under_way)
    assert await shop.calls() == [(txid, 3)]
    assert shop.told == [(txid, 1), (txid, 3)]


async def test_shop_that_does_not_answer_is_called_again_before_the_next_tip(shop: Shop) -> None:
    """Where no answer came the call is repeated after a pause; a tip in between makes it due at once, and once."""
    txid = hex_of(await shop.pay())
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls(SILENCE) == [(txid, 1)]
    shop.spine.clock.now += 60
    assert await shop.calls(SILENCE) == [(txid, 1)]
    shop.spine.chain.mine()
    await shop.follow()
    assert await shop.calls() == [(txid, 2)]
    shop.spine.clock.now += 6000
    assert await shop.calls() == []


# --- a header before the history ---------------------------------------------------------------------------------


async def test_header_before_the_history_makes_no_call_without_confirmations(shop: Shop) -> None:
    """A payment that the new block holds is told with one confirmation, though the header comes before the history."""
    txid = hex_of(await shop.pay())
    assert await shop.calls() == [(txid, 0)]
    shop.spine.chain.mine()
    await shop.follow()
    assert await shop.calls() == []
    assert [scripthash for _, scripthash, _ in shop.spine.source.rechecks] == [SHOP]
    shop.spine.clock.now += SETTLING_S / 2
    assert await shop.calls() == []
    await shop.spine.absorb()
    assert await shop.calls() == [(txid, 1)]
    shop.spine.clock.now += 2 * SETTLING_S
    assert await shop.calls() == []


async def test_history_before_the_header_is_told_once_too(shop: Shop) -> None:
    """Where the history comes first, it brings its block along: one call, with one confirmation."""
    txid = hex_of(await shop.pay())
    await shop.calls()
    shop.spine.chain.mine()
    await shop.spine.absorb()
    assert await shop.calls() == [(txid, 1)]
    await shop.follow()
    shop.spine.clock.now += 2 * SETTLING_S
    assert await shop.calls() == []


async def test_payment_that_the_block_does_not_hold_is_told_again_without_confirmations(shop: Shop) -> None:
    """A payment that is still in the mempool after the wait is told again, once for this tip."""
    txid = hex_of(await shop.pay())
    await shop.calls()
    shop.spine.chain.mine(include=())
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls() == []
    shop.spine.clock.now += SETTLING_S
    assert await shop.calls() == [(txid, 0)]
    shop.spine.clock.now += 600
    assert await shop.calls() == []


async def test_only_the_unconfirmed_wait(shop: Shop) -> None:
    """A confirmed payment is told at once with the tip, beside an unconfirmed one whose script is asked first."""
    confirmed = hex_of(await shop.pay())
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    await shop.calls()
    waiting = hex_of(await shop.pay(amount_sat=6_000))
    await shop.calls()
    shop.spine.chain.mine()
    await shop.follow()
    assert await shop.calls() == [(confirmed, 2)]
    await shop.spine.absorb()
    assert await shop.calls() == [(waiting, 1)]


async def test_payment_that_is_replaced_while_it_waits_is_not_told(shop: Shop) -> None:
    """What turns out to be gone while it waits for the new block is told no more; what took its place is."""
    lost = await shop.pay()
    assert await shop.calls() == [(hex_of(lost), 0)]
    winner = hex_of(shop.spine.chain.replace(lost))
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls() == [(winner, 1)]
    shop.spine.clock.now += 2 * SETTLING_S
    assert await shop.calls() == []


# --- reorgs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remine", "confirmations"),
    [pytest.param(True, 4, id="into another block"), pytest.param(False, 0, id="into the mempool")],
)
async def test_reorg_starts_the_counting_again(shop: Shop, remine: bool, confirmations: int) -> None:
    """A payment that a reorg moves is told once for the new tip, with the confirmations that it has there."""
    txid = hex_of(await shop.pay())
    shop.spine.chain.mine(3)
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls() == [(txid, 3)]
    shop.spine.chain.reorg(3, remine=remine)
    await shop.follow()
    assert await shop.calls() == []
    await shop.spine.absorb()
    shop.spine.clock.now += SETTLING_S
    assert await shop.calls() == [(txid, confirmations)]
    shop.spine.clock.now += 600
    assert await shop.calls() == []
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls() == [(txid, confirmations + 1)]


async def test_reorg_after_the_acknowledgement_is_not_told(shop: Shop) -> None:
    """After *ok* nothing more is told of a payment: not its way out of its block, and not its way back."""
    txid = hex_of(await shop.pay())
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls(OK) == [(txid, 1)]
    shop.spine.chain.reorg(1)
    await shop.follow()
    await shop.spine.absorb()
    shop.spine.clock.now += 600
    shop.spine.chain.mine(2)
    await shop.follow()
    await shop.spine.absorb()
    assert await shop.calls() == []


# --- several scripts, and blocks ---------------------------------------------------------------------------------


async def test_each_address_is_asked_for_itself(shop: Shop) -> None:
    """Of two addresses that wait for a block only what each of them holds is told, whichever history comes first."""
    await shop.spine.subscribe(OTHER_SCRIPT, dialect="receive", terms=ADDRESS_TERMS, url=URL)
    ours, other = hex_of(await shop.pay()), hex_of(await shop.pay(OTHER_SCRIPT))
    assert sorted(await shop.calls()) == sorted([(ours, 0), (other, 0)])
    shop.spine.chain.mine()
    await shop.follow()
    await shop.spine.absorb(OTHER_SCRIPT)
    assert await shop.calls() == [(other, 1)]
    await shop.spine.absorb()
    assert await shop.calls() == [(ours, 1)]


async def subscribe_to_blocks(spine: Spine, *, confirmations: int = 1, is_once: bool = False) -> None:
    """Subscribe the shop to blocks from the next one on."""
    first = spine.chain.tip_height + 1
    kind = receive_wire.OnNotification.DELETE if is_once else receive_wire.OnNotification.KEEP
    terms = receive_wire.encode_terms(receive_wire.BlockTerms(first, confirmations, kind))
    await spine.store.transact(
        lambda db: subscription_store.save_block_subscription(
            db,
            dialect="receive",
            owner="shop",
            url=URL,
            terms=terms,
            now=int(NOW),
            first_height=first,
            depth_blocks=confirmations,
        )
    )


def block(spine: Spine, height: int) -> str:
    """Return the hash of a block as explorers print it."""
    return hex_of(spine.chain.block_at(height).block_hash)


async def test_blocks_are_told_one_by_one_without_a_gap(shop: Shop) -> None:
    """Each block is told once, in order, those that come together too."""
    await subscribe_to_blocks(shop.spine)
    shop.spine.chain.mine()
    await shop.follow()
    assert await shop.calls(OK) == [(block(shop.spine, 21), 1)]
    shop.spine.chain.mine(3)
    await shop.follow()
    assert await shop.calls(OK) == [
        (block(shop.spine, height), confirmations) for height, confirmations in ((22, 3), (23, 2), (24, 1))
    ]
    assert await shop.calls(OK) == []


async def test_block_is_told_again_once_a_tip(shop: Shop) -> None:
    """A block that was not acknowledged is told again with every tip, beside the new one."""
    await subscribe_to_blocks(shop.spine)
    shop.spine.chain.mine()
    await shop.follow()
    assert await shop.calls() == [(block(shop.spine, 21), 1)]
    shop.spine.chain.mine()
    await shop.follow()
    assert sorted(await shop.calls()) == sorted([(block(shop.spine, 21), 2), (block(shop.spine, 22), 1)])


async def test_block_that_leaves_is_not_told_and_what_takes_its_place_is(shop: Shop) -> None:
    """A reorg withdraws what was not heard of the blocks it takes, and the blocks of the new chain are told."""
    await subscribe_to_blocks(shop.spine)
    shop.spine.chain.mine(2)
    await shop.follow()
    shop.spine.chain.reorg(2)
    await shop.follow()
    tip = shop.spine.chain.tip_height
    assert await shop.calls(OK) == [(block(shop.spine, height), tip - height + 1) for height in range(21, tip + 1)]


async def test_block_that_comes_back_is_told(shop: Shop) -> None:
    """A block that leaves before it was told, and comes back, is told, with those that follow it, and no rival is."""
    await subscribe_to_blocks(shop.spine)
    rival = shop.spine.chain.copy(seed=9)
    shop.spine.chain.mine()
    await shop.follow()
    rival.mine(2)
    shop.spine.server.chain = rival
    await shop.follow()
    shop.spine.server.chain = shop.spine.chain
    shop.spine.chain.mine(2)
    await shop.follow()
    assert await shop.spine.is_followed()
    assert await shop.calls(OK) == [(block(shop.spine, height), 24 - height) for height in (21, 22, 23)]


@pytest.mark.slow
async def test_blocks_of_a_long_downtime_are_all_told(shop: Shop) -> None:
    """However many blocks come at once, each is told, in order."""
    await subscribe_to_blocks(shop.spine, confirmations=2)
    shop.spine.chain.mine(251)
    await shop.follow()
    assert await shop.calls(OK) == [(block(shop.spine, height), 272 - height) for height in range(21, 271)]


async def test_block_that_leaves_before_its_depth_is_not_told(shop: Shop) -> None:
    """A block that is removed before it reached the wanted depth is not told; the one in its place is, at its depth."""
    await subscribe_to_blocks(shop.spine, confirmations=3)
    shop.spine.chain.mine(2)
    await shop.follow()
    assert await shop.calls(OK) == []
    shop.spine.chain.reorg(2)
    await shop.follow()
    tip = shop.spine.chain.tip_height
    assert await shop.calls(OK) == [(block(shop.spine, height), tip - height + 1) for height in range(21, tip - 1)]
    assert tip >= 23


async def test_single_block_is_told_although_a_reorg_comes_before_the_call(shop: Shop) -> None:
    """Who asked for one block alone hears of one: where that leaves before it was told, of what took its place."""
    await subscribe_to_blocks(shop.spine, is_once=True)
    shop.spine.chain.mine()
    await shop.follow()
    shop.spine.chain.reorg(1)
    await shop.follow()
    assert [subject for subject, _ in await shop.calls(OK)] == [block(shop.spine, 21)]
    shop.spine.chain.mine()
    await shop.follow()
    assert await shop.calls(OK) == []
