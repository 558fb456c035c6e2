"""Subscriptions to blocks: one message a block, in order, without gaps, and none about a block that left."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.header import BlockHeader
from lightipn.outbox.subscriptions import Subscription, SubscriptionState
from lightipn.store import deliveries, keys, outbox, reviews, subscriptions
from lightipn.store.database import Database
from lightipn.store.reviews import BLOCKS_PAGE
from tests.store.each_dialect import HEARD, MOST_TIPS, terms_of
from tests.store.rows import NOW, POLICIES, TIP, claim, finish, pay, subscribe
from tests.store.tips import grow, reorg, stand_at_tip, wake

FIRST = TIP + 1


@pytest.fixture
def tipped(db: Database) -> Database:
    """Return a database whose chain ends at ``TIP``."""
    stand_at_tip(db)
    return db


def subscribe_to_blocks(
    db: Database,
    *,
    first_height: int = FIRST,
    depth: int = 1,
    is_once: bool = False,
    owner: str = "shop",
    url: str = "http://shop.example/",
) -> Subscription:
    """Subscribe a URL to blocks from a height on."""
    return subscriptions.save_block_subscription(
        db,
        dialect="each",
        owner=owner,
        url=url,
        terms=terms_of(depth=depth, is_once=is_once),
        now=NOW,
        first_height=first_height,
        depth_blocks=depth,
    )


def payloads_of(headers: Sequence[BlockHeader], *, first: int = FIRST) -> list[bytes]:
    """Return what is told of these blocks, of which the lowest has this height."""
    return [
        f"{first + number} {hex_of(header.block_hash)} {header.time}".encode() for number, header in enumerate(headers)
    ]


def told(db: Database, *, state: str = "") -> list[bytes]:
    """Return what the messages tell, oldest first; of those in one state if one is given."""
    found = reversed(deliveries.load_deliveries(db, limit=10_000))
    return [delivery.payload for delivery in found if not state or delivery.state == state]


def hear_all(db: Database, *, now: float = NOW) -> list[bytes]:
    """Have everything that is due heard; return what that was, in the order in which it was sent."""
    heard = []
    while claims := claim(db, now=now)[0]:
        for taken in claims:
            finish(db, taken, body=HEARD, now=now)
            heard.append(taken.sent_payload)
    return heard


def state_of(db: Database, subscription_id: int = 1) -> SubscriptionState:
    """Return the state of a subscription."""
    found = subscriptions.load_subscription(db, subscription_id)
    assert found is not None
    return found.state


# --- in order, without gaps --------------------------------------------------------------------------------------


def test_subscription_to_blocks_is_read_as_it_was_written(tipped: Database) -> None:
    """It has no address and no script, and it begins at its first height."""
    saved = subscribe_to_blocks(tipped, depth=3)
    assert saved == Subscription(
        subscription_id=1,
        dialect="each",
        owner="shop",
        scripthash=None,
        address="",
        url="http://shop.example/",
        terms=terms_of(depth=3),
        state=SubscriptionState.ACTIVE,
        created_at=NOW,
        since_height=FIRST,
    )
    assert subscriptions.load_subscription(tipped, 1) == saved
    assert subscriptions.load_next_height(tipped, 1) == FIRST


def test_same_wish_is_the_same_subscription(tipped: Database) -> None:
    """The same owner, URL and terms stay one subscription; any other of them makes another."""
    first = subscribe_to_blocks(tipped)
    assert subscribe_to_blocks(tipped) == first
    others = [
        subscribe_to_blocks(tipped, owner="other"),
        subscribe_to_blocks(tipped, url="http://other.example/"),
        subscribe_to_blocks(tipped, depth=2),
    ]
    assert [subscription.subscription_id for subscription in others] == [2, 3, 4]


def test_ended_subscription_is_not_taken_up_again(tipped: Database) -> None:
    """The same wish after the end is a new subscription."""
    first = subscribe_to_blocks(tipped)
    reviews.end_subscription(tipped, POLICIES, first, SubscriptionState.CANCELED, now=NOW)
    assert subscribe_to_blocks(tipped).subscription_id == 2


def test_every_block_is_told_once_in_order(tipped: Database) -> None:
    """Blocks that come one by one and together are each told, lowest first, and never twice."""
    subscribe_to_blocks(tipped)
    headers = []
    for count in (1, 3, 1):
        headers += grow(tipped, count)
        assert wake(tipped)
        assert not wake(tipped)
    assert told(tipped) == hear_all(tipped) == payloads_of(headers)
    assert claim(tipped, now=NOW + 1000) == ([], None)


def test_block_that_is_not_heard_is_told_again_with_the_next_tip(tipped: Database) -> None:
    """A block without an acknowledgement comes again with the next one, which is told besides, and at once."""
    subscribe_to_blocks(tipped)
    headers = grow(tipped)
    wake(tipped)
    (taken,), _ = claim(tipped)
    finish(tipped, taken, body=b"not yet")
    headers += grow(tipped)
    wake(tipped, now=NOW + 1)
    assert hear_all(tipped, now=NOW + 1) == payloads_of(headers)


def test_blocks_before_the_first_height_are_not_told(tipped: Database) -> None:
    """A subscription that begins two blocks ahead is told nothing of the blocks up to there."""
    subscribe_to_blocks(tipped, first_height=FIRST + 2)
    grow(tipped, 2)
    assert not wake(tipped)
    headers = grow(tipped, 2)
    assert wake(tipped)
    assert told(tipped) == payloads_of(headers, first=FIRST + 2)


def test_block_is_told_at_its_depth(tipped: Database) -> None:
    """At three confirmations a block is told two blocks later, and every block after it in its turn."""
    subscribe_to_blocks(tipped, depth=3)
    headers = grow(tipped, 2)
    assert not wake(tipped)
    counts = []
    for _ in range(3):
        headers += grow(tipped)
        assert wake(tipped)
        assert not wake(tipped)
        counts.append(len(told(tipped)))
    assert counts == [1, 2, 3]
    assert told(tipped) == payloads_of(headers[:3])


def test_subscription_for_one_block_ends_when_it_is_heard(tipped: Database) -> None:
    """It is told its first block alone, though several came at once, until that is heard; then it is finished."""
    subscribe_to_blocks(tipped, is_once=True)
    headers = grow(tipped, 3)
    assert wake(tipped)
    (taken,), _ = claim(tipped)
    finish(tipped, taken, body=b"not yet")
    assert state_of(tipped) is SubscriptionState.ACTIVE
    grow(tipped)
    assert wake(tipped)
    assert told(tipped) == hear_all(tipped) == payloads_of(headers[:1])
    assert state_of(tipped) is SubscriptionState.FINISHED
    grow(tipped)
    assert not wake(tipped)


def test_subscription_for_one_block_ends_when_it_is_given_up(tipped: Database) -> None:
    """A block that was told as often as the dialect does was told: another one is not."""
    subscribe_to_blocks(tipped, is_once=True)
    grow(tipped)
    for number in range(MOST_TIPS):
        assert state_of(tipped) is SubscriptionState.ACTIVE
        wake(tipped, now=NOW + number)
        (taken,), _ = claim(tipped, now=NOW + number)
        finish(tipped, taken, body=b"not yet", now=NOW + number)
        grow(tipped)
    assert state_of(tipped) is SubscriptionState.FINISHED
    reorg(tipped, MOST_TIPS + 1, MOST_TIPS + 2)
    assert not wake(tipped, now=NOW + 100)


def test_every_subscription_has_its_own_pace(tipped: Database) -> None:
    """Subscriptions with other depths, and subscriptions to addresses, are woken beside each other."""
    subscribe_to_blocks(tipped, depth=1, url="http://fast.example/")
    subscribe_to_blocks(tipped, depth=2, url="http://slow.example/")
    subscribe(tipped, 0)
    pay(tipped, 0)
    grow(tipped, 3)
    wake(tipped)
    urls = [delivery.url for delivery in deliveries.load_deliveries(tipped, limit=9)]
    assert sorted(urls) == ["http://fast.example/"] * 3 + ["http://slow.example/"] * 2


@pytest.mark.parametrize("count", [BLOCKS_PAGE, BLOCKS_PAGE + 1, 2 * BLOCKS_PAGE + 7])
def test_many_blocks_are_told_page_by_page(tipped: Database, count: int) -> None:
    """After a long downtime every block is told, in order, in transactions of a bounded size."""
    subscribe_to_blocks(tipped)
    headers = grow(tipped, count)
    made, is_more = [0], True
    while is_more:
        _, is_more = reviews.wake_for_tip(tipped, POLICIES, now=NOW)
        made.append(len(told(tipped)))
    steps = [after - before for before, after in pairwise(made)]
    assert max(steps) == BLOCKS_PAGE
    assert told(tipped) == payloads_of(headers)


# --- reorgs ------------------------------------------------------------------------------------------------------


def test_reorg_before_the_telling_withdraws_the_block(tipped: Database) -> None:
    """A block that left the chain before anybody heard of it is not told; the one in its place is."""
    subscribe_to_blocks(tipped)
    grow(tipped)
    wake(tipped)
    others = reorg(tipped, 1, 2)
    assert wake(tipped)
    assert hear_all(tipped) == payloads_of(others)
    assert len(told(tipped, state="withdrawn")) == 1


def test_reorg_after_the_telling_tells_the_new_blocks(tipped: Database) -> None:
    """A block that was heard stays heard when it leaves; what stands at its height now is told by itself."""
    subscribe_to_blocks(tipped)
    old = grow(tipped, 2)
    wake(tipped)
    hear_all(tipped)
    others = reorg(tipped, 2, 3)
    assert wake(tipped)
    assert told(tipped, state="acknowledged") == payloads_of(old)
    assert hear_all(tipped) == payloads_of(others)


def test_reorg_during_the_telling_withdraws_the_block(tipped: Database) -> None:
    """A block that leaves while it is being told is not told again, and holds nothing back."""
    subscribe_to_blocks(tipped)
    grow(tipped)
    wake(tipped)
    (taken,), _ = claim(tipped)
    others = reorg(tipped, 1, 2)
    wake(tipped)
    finish(tipped, taken)
    assert hear_all(tipped, now=NOW + 100) == payloads_of(others)


def test_block_below_its_depth_that_leaves_is_never_told(tipped: Database) -> None:
    """A block that was removed before it had its confirmations is not told."""
    subscribe_to_blocks(tipped, depth=3)
    grow(tipped, 2)
    wake(tipped)
    others = reorg(tipped, 2, 3)
    wake(tipped)
    assert told(tipped) == payloads_of(others[:1])


def test_new_block_waits_for_its_depth_too(tipped: Database) -> None:
    """After a reorg the block in the place of one that was told is told once it has its own confirmations."""
    subscribe_to_blocks(tipped, depth=3)
    grow(tipped, 4)
    wake(tipped)
    hear_all(tipped)
    others = reorg(tipped, 3, 2)
    assert not wake(tipped)
    grow(tipped, branch=1)
    assert wake(tipped)
    assert hear_all(tipped) == payloads_of(others[:1], first=FIRST + 1)


def test_reorg_above_what_was_told_changes_nothing(tipped: Database) -> None:
    """What was told below the fork is not told again, and goes on being told if it was not heard."""
    subscribe_to_blocks(tipped, depth=2)
    headers = grow(tipped, 2)
    wake(tipped)
    others = reorg(tipped, 1, 2)
    wake(tipped)
    assert hear_all(tipped) == payloads_of([headers[0], others[0]])


def test_reorg_does_not_lead_below_the_first_height(tipped: Database) -> None:
    """A reorg that begins below a subscription's first height tells nothing of the blocks before it."""
    grow(tipped, 2)
    subscribe_to_blocks(tipped, first_height=FIRST + 2)
    grow(tipped)
    wake(tipped)
    others = reorg(tipped, 3, 4)
    wake(tipped)
    assert hear_all(tipped) == payloads_of(others[2:], first=FIRST + 2)


def test_reorg_to_a_lower_tip_waits_for_the_height(tipped: Database) -> None:
    """After a reorg to fewer blocks with more work nothing is told until a block stands at the next height."""
    subscribe_to_blocks(tipped)
    grow(tipped, 3)
    wake(tipped)
    hear_all(tipped)
    others = reorg(tipped, 3, 1)
    assert wake(tipped)
    assert hear_all(tipped) == payloads_of(others)
    assert not wake(tipped)
    others += grow(tipped, branch=1)
    assert wake(tipped)
    assert hear_all(tipped) == payloads_of(others[1:], first=FIRST + 1)


def test_block_that_comes_back_is_told_under_its_old_id(tipped: Database) -> None:
    """A block that left unheard and is back is told; one that was heard is not."""
    subscribe_to_blocks(tipped)
    heard = grow(tipped)
    wake(tipped)
    hear_all(tipped)
    unheard = grow(tipped)
    wake(tipped)
    ids = [delivery.message_id for delivery in deliveries.load_deliveries(tipped, limit=9)]
    reorg(tipped, 2, 1)
    wake(tipped)
    reorg(tipped, 1, 2, branch=0)  # the first branch again: the same headers
    assert wake(tipped)
    found = {delivery.payload: delivery for delivery in deliveries.load_deliveries(tipped, limit=9)}
    back = found[payloads_of(unheard, first=FIRST + 1)[0]]
    assert (back.state, back.message_id) == ("due", ids[0])
    assert found[payloads_of(heard)[0]].state == "acknowledged"
    assert hear_all(tipped) == payloads_of(unheard, first=FIRST + 1)


def test_finished_subscription_is_not_told_of_a_reorg(tipped: Database) -> None:
    """A subscription for one block that was heard is told nothing more, though its block leaves."""
    subscribe_to_blocks(tipped, is_once=True)
    grow(tipped)
    wake(tipped)
    hear_all(tipped)
    reorg(tipped, 1, 2)
    assert not wake(tipped)
    assert claim(tipped, now=NOW + 1000) == ([], None)


def test_subscription_for_one_block_hears_of_one_though_a_reorg_came_first(tipped: Database) -> None:
    """Where its only block left the chain before anybody heard of it, the block in its place is told instead."""
    subscribe_to_blocks(tipped, is_once=True)
    grow(tipped)
    wake(tipped)
    others = reorg(tipped, 1, 2)
    wake(tipped)
    assert hear_all(tipped) == payloads_of(others[:1])


# --- ends --------------------------------------------------------------------------------------------------------


def test_canceled_subscription_is_told_no_new_block(tipped: Database) -> None:
    """After the end what was told is told on until it is heard, and no block after that."""
    subscription = subscribe_to_blocks(tipped)
    headers = grow(tipped)
    wake(tipped)
    reviews.end_subscription(tipped, POLICIES, subscription, SubscriptionState.CANCELED, now=NOW)
    grow(tipped)
    assert not wake(tipped)
    reorg(tipped, 1, 2)
    assert not wake(tipped)
    assert hear_all(tipped) == payloads_of(headers)


def test_blocks_of_a_suspended_owner_are_kept(tipped: Database) -> None:
    """While the owner has no key blocks are collected and nothing is sent; then all are told, in order."""
    keys.save_key(tipped, name="shop", secret="s", now=NOW)
    subscribe_to_blocks(tipped)
    keys.revoke_keys(tipped, name="shop", key_id=None, now=NOW)
    headers = grow(tipped) + grow(tipped)
    wake(tipped)
    assert claim(tipped) == ([], None)
    keys.save_key(tipped, name="shop", secret="t", now=NOW)
    assert hear_all(tipped) == payloads_of(headers)


def test_topic_of_a_block_is_its_hash(tipped: Database) -> None:
    """Two blocks of one height have a message each."""
    subscribe_to_blocks(tipped)
    headers = grow(tipped)
    wake(tipped)
    headers += reorg(tipped, 1, 2)
    wake(tipped)
    topics = {f"block:{header.block_hash.hex()}" for header in headers}
    assert set(outbox.load_messages(tipped, 1)) == topics
    assert outbox.block_topic(headers[0].block_hash) in topics
