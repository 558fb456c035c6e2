"""From payments to messages, in the transaction of the ledger change."""

import pytest

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.ledger.entries import Dropped, PaymentState, Replaced
from lightipn.store import deliveries, outbox, reviews, subscriptions
from lightipn.store.database import Database
from lightipn.store.deliveries import Delivery
from tests.builders import confirmed, entry_of, txid_of
from tests.store.each_dialect import HEARD
from tests.store.plain_dialect import payload_of
from tests.store.rows import NOW, POLICIES, TIP, claim, finish, pay, regtest_address, subscribe, subscribe_to_each
from tests.store.tips import grow, reorg, stand_at_tip, wake


def deliveries_of(db: Database) -> list[Delivery]:
    """Return all messages, oldest first."""
    return list(reversed(deliveries.load_deliveries(db, limit=100)))


def acknowledge(db: Database, *, now: float = NOW) -> int:
    """Have everything that is due heard and acknowledged; return how much that was."""
    claims, _ = claim(db, now=now)
    for taken in claims:
        finish(db, taken, body=taken.sent_payload, now=now)
    return len(claims)


def test_payment_becomes_a_message_that_is_due_at_once(db: Database) -> None:
    """The first payment makes the subscription's message, with the newest totals."""
    subscribe(db, 0)
    assert pay(db, 0, entry_of(1, received_sat=70), now=NOW + 5)
    (delivery,) = deliveries_of(db)
    assert (delivery.payload, delivery.due_at, delivery.state) == (payload_of(0, 70), NOW + 5, "due")


def test_nothing_received_is_not_told(db: Database) -> None:
    """An address without payments has no message: the receiver knows of nothing already."""
    subscribe(db, 0)
    assert not pay(db, 0)
    assert deliveries_of(db) == []


def test_every_subscription_has_its_own_message(db: Database) -> None:
    """Two subscribers of one address are each told, each at its own depth."""
    subscribe(db, 0, depth=1)
    subscribe(db, 0, depth=3, url="http://other.example/")
    assert pay(db, 0, entry_of(1, received_sat=70, state=confirmed(TIP)))
    assert [delivery.payload for delivery in deliveries_of(db)] == [payload_of(70, 0), payload_of(0, 70)]


def test_one_message_always_has_the_newest_totals(db: Database) -> None:
    """Later payments change the message that waits; they never make a second one."""
    subscribe(db, 0)
    pay(db, 0, entry_of(1, received_sat=70))
    pay(db, 0, entry_of(2, received_sat=30))
    (delivery,) = deliveries_of(db)
    assert delivery.payload == payload_of(0, 100)


def test_same_totals_are_not_told_again(db: Database) -> None:
    """A change that leaves the totals as they are makes nothing due."""
    subscribe(db, 0)
    pay(db, 0, entry_of(1, received_sat=70))
    assert acknowledge(db) == 1
    assert not pay(db, 0, entry_of(1, received_sat=70))
    assert acknowledge(db) == 0


def test_unheard_message_about_a_gone_payment_is_withdrawn(db: Database) -> None:
    """A payment that was replaced before anybody was told is never told."""
    subscribe(db, 0)
    pay(db, 0, entry_of(1, received_sat=70))
    assert not pay(db, 0, entry_of(1, received_sat=70, state=Replaced(txid_of(2))))
    assert claim(db) == ([], None)


def test_subscription_is_woken_when_a_block_alone_changes_its_totals(db: Database) -> None:
    """A payment in a block waits for its depth; the block that gives it changes the message, once."""
    stand_at_tip(db)
    subscribe(db, 0, depth=3)
    pay(db, 0, entry_of(1, received_sat=70, state=confirmed(TIP)))
    assert acknowledge(db) == 1
    grow(db)
    assert not wake(db, now=NOW + 1)
    grow(db)
    assert wake(db, now=NOW + 2)
    (delivery,) = deliveries_of(db)
    assert (delivery.payload, delivery.due_at) == (payload_of(70, 0), NOW + 2)
    assert acknowledge(db, now=NOW + 2) == 1
    grow(db, 20)
    assert not wake(db, now=NOW + 3)


def test_woken_subscriptions_are_worked_off_page_by_page(db: Database) -> None:
    """More subscriptions than a page are reviewed in several transactions, each exactly once."""
    stand_at_tip(db)
    count = reviews.WOKEN_PAGE + 3
    for number in range(count):
        subscribe(db, 0, depth=2, url=f"http://shop.example/{number}")
    pay(db, 0, entry_of(1, received_sat=70, state=confirmed(TIP)))
    assert len(subscriptions.load_woken(db, TIP + 1, limit=2 * count)) == count
    grow(db)
    pages = [reviews.wake_for_tip(db, POLICIES, now=NOW) for _ in range(3)]
    assert pages == [(True, True), (True, False), (False, False)]
    told = {delivery.payload for delivery in deliveries.load_deliveries(db, limit=2 * count)}
    assert told == {payload_of(70, 0)}


def test_script_without_subscriptions_is_not_reviewed(db: Database) -> None:
    """A script nobody knows, or that was merely looked up, makes no message."""
    assert not reviews.review_script(db, POLICIES, ScriptHash(bytes(32)), tip_height=TIP, now=NOW)
    subscribe(db, 0)
    subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url=None)
    assert not pay(db, 0, entry_of(1))
    assert deliveries_of(db) == []


# --- several messages a subscription -----------------------------------------------------------------------------


def told(db: Database, subscription_id: int = 1) -> dict[Txid | None, str]:
    """Return the state of a subscription's messages by payment."""
    return {message.txid: message.state.value for _, message in outbox.load_messages(db, subscription_id).values()}


def test_each_payment_is_told_once_it_is_deep_enough(db: Database) -> None:
    """A payment that waits for its depth is told by the block that gives it, and those after it by theirs."""
    stand_at_tip(db)
    subscribe_to_each(db, depth=2)
    assert not pay(db, 0, entry_of(1), entry_of(2, state=confirmed(TIP)))
    grow(db)
    assert wake(db)
    assert told(db) == {txid_of(2): "open"}
    pay(db, 0, entry_of(1, state=confirmed(TIP + 1)), tip_height=TIP + 1)
    assert told(db) == {txid_of(2): "open"}
    grow(db)
    assert wake(db)
    assert told(db) == {txid_of(2): "open", txid_of(1): "open"}


def test_payment_is_told_once_whatever_a_reorg_does(db: Database) -> None:
    """A payment that was told and heard is not told again when it loses its block and gets another."""
    stand_at_tip(db)
    grow(db)
    subscribe_to_each(db, depth=1, since_height=TIP)
    assert pay(db, 0, entry_of(1, state=confirmed(TIP + 1)), tip_height=TIP + 1)
    (taken,), _ = claim(db)
    finish(db, taken, body=HEARD)
    reorg(db, 1, 2)
    assert not pay(db, 0, entry_of(1), tip_height=TIP + 2)
    assert not pay(db, 0, entry_of(1, state=confirmed(TIP + 2)), tip_height=TIP + 2)
    assert not wake(db)
    assert told(db) == {txid_of(1): "acknowledged"}


@pytest.mark.parametrize("gone", [Replaced(txid_of(9)), Dropped()])
def test_message_about_a_gone_payment_is_withdrawn_alone(db: Database, gone: PaymentState) -> None:
    """What was not heard of a gone payment is withdrawn; what was heard stays, and so does every other message."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    (taken,), _ = claim(db)
    finish(db, taken, body=HEARD)
    pay(db, 0, entry_of(2), entry_of(3))
    assert not pay(db, 0, entry_of(1, state=gone), entry_of(2, state=gone))
    assert told(db) == {txid_of(1): "acknowledged", txid_of(2): "withdrawn", txid_of(3): "open"}


def test_payment_that_comes_back_is_told_under_its_old_id(db: Database) -> None:
    """A dropped payment that is seen again is due at once; its receiver recognises the message."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    (taken,), _ = claim(db)
    finish(db, taken, now=NOW)
    pay(db, 0, entry_of(1, state=Dropped()), now=NOW + 5)
    assert claim(db, now=NOW + 100) == ([], None)
    assert pay(db, 0, entry_of(1), now=NOW + 100)
    (again,), _ = claim(db, now=NOW + 100)
    assert again.request.headers["X-Message"] == taken.request.headers["X-Message"]


def test_payment_that_comes_back_heard_is_not_told_again(db: Database) -> None:
    """A payment that was acknowledged, dropped and seen again is no news."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    (taken,), _ = claim(db)
    finish(db, taken, body=HEARD)
    pay(db, 0, entry_of(1, state=Dropped()))
    assert not pay(db, 0, entry_of(1))
    assert claim(db, now=NOW + 100) == ([], None)


def test_payment_that_goes_while_it_is_told_is_not_told_again(db: Database) -> None:
    """A payment replaced during its attempt is withdrawn at once, and stays so whatever the answer was."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    (taken,), _ = claim(db)
    pay(db, 0, entry_of(1, state=Replaced(txid_of(9))))
    finish(db, taken)
    assert told(db) == {txid_of(1): "withdrawn"}
    assert claim(db, now=NOW + 1000) == ([], None)


# --- made before our tip was proved ------------------------------------------------------------------------------


def settle(db: Database) -> list[tuple[bool, bool]]:
    """Settle new subscriptions, page by page."""
    results = [reviews.settle_new(db, POLICIES, now=NOW)]
    while results[-1][1]:
        results.append(reviews.settle_new(db, POLICIES, now=NOW))
    return results


def test_nothing_is_told_until_our_tip_is_proved(db: Database) -> None:
    """A subscription made before that is told nothing, for nobody knows what is new; then it is told what is."""
    stand_at_tip(db)
    made_at = grow(db, 3)[-2].time + 1  # when our chain ended at TIP + 2, as its headers say
    subscribe_to_each(db, depth=1, since_height=None, now=made_at)
    old, new = entry_of(1, state=confirmed(TIP + 2)), entry_of(2, state=confirmed(TIP + 3))
    assert not pay(db, 0, old, new, tip_height=TIP + 3)
    assert not wake(db)
    assert settle(db) == [(True, False)]
    assert told(db) == {txid_of(2): "open"}
    subscription = subscriptions.load_subscription(db, 1)
    assert subscription is not None
    assert subscription.since_height == TIP + 2
    assert settle(db) == [(False, False)]


def test_subscription_older_than_every_header_begins_at_the_checkpoint(db: Database) -> None:
    """Where no stored header is older than the subscription, what the checkpoint covers is the past."""
    stand_at_tip(db)
    subscribe_to_each(db, since_height=None, now=1)
    assert settle(db) == [(False, False)]
    subscription = subscriptions.load_subscription(db, 1)
    assert subscription is not None
    assert subscription.since_height == TIP - 1


def test_settled_subscription_waits_for_its_depth(db: Database) -> None:
    """A payment that is not deep enough yet is told by the block that makes it so, as with any subscription."""
    stand_at_tip(db)
    subscribe_to_each(db, depth=2, since_height=None, now=1)
    pay(db, 0, entry_of(1, state=confirmed(TIP)))
    grow(db)
    assert settle(db) == [(True, False)]
    pay(db, 0, entry_of(2, state=confirmed(TIP + 1)), tip_height=TIP + 1)
    assert told(db) == {txid_of(1): "open"}
    grow(db)
    assert wake(db)
    assert told(db) == {txid_of(1): "open", txid_of(2): "open"}


def test_new_subscriptions_are_settled_page_by_page(db: Database) -> None:
    """More than a page of them are settled in several transactions, each exactly once."""
    stand_at_tip(db)
    for number in range(reviews.WOKEN_PAGE + 3):
        subscribe_to_each(db, 0, url=f"http://shop.example/{number}", since_height=None)
    assert settle(db) == [(False, True), (False, False)]
    assert subscriptions.load_unsettled(db, limit=9) == []


# --- what was of the past ----------------------------------------------------------------------------------------


def test_past_payment_that_a_reorg_moves_is_not_new(db: Database) -> None:
    """A payment that was in the chain before the subscription stays of the past when it loses its block."""
    stand_at_tip(db)
    grow(db, 3)
    subscribe_to_each(db, depth=1, since_height=TIP + 3)
    old = entry_of(1, state=confirmed(TIP + 2))
    assert not pay(db, 0, old, tip_height=TIP + 3)
    reorg(db, 2, 3)
    for moved in (entry_of(1), entry_of(1, state=confirmed(TIP + 4, branch=1))):
        assert not pay(db, 0, moved, tip_height=TIP + 4)
    assert told(db) == {}


def test_new_payment_in_a_block_of_the_past_is_told(db: Database) -> None:
    """After a reorg a new payment may stand at a height that was passed when the subscription was made."""
    stand_at_tip(db)
    grow(db, 3)
    subscribe_to_each(db, depth=1, since_height=TIP + 3)
    pay(db, 0, entry_of(1, state=confirmed(TIP + 2)), entry_of(2), tip_height=TIP + 3)
    reorg(db, 2, 3)
    assert pay(db, 0, entry_of(2, state=confirmed(TIP + 3, branch=1)), tip_height=TIP + 4)
    assert pay(db, 0, entry_of(3, state=confirmed(TIP + 2, branch=1)), tip_height=TIP + 4)
    assert told(db) == {txid_of(2): "open", txid_of(3): "open"}


def test_past_of_two_reorgs_is_kept(db: Database) -> None:
    """What was of the past by name stays so however often and however deep the chain changes after that."""
    stand_at_tip(db)
    grow(db, 5)
    subscribe_to_each(db, depth=1, since_height=TIP + 5)
    pay(db, 0, entry_of(1, state=confirmed(TIP + 5)), entry_of(2, state=confirmed(TIP + 3)), tip_height=TIP + 5)
    reorg(db, 1, 2, branch=1)
    pay(db, 0, entry_of(1), tip_height=TIP + 6)
    reorg(db, 5, 6, branch=2)
    assert not pay(db, 0, entry_of(1), entry_of(2), tip_height=TIP + 7)
    assert told(db) == {}


def test_what_was_below_its_depth_is_told_after_a_reorg_too(db: Database) -> None:
    """A payment that had one of two confirmations when the subscription was made is new, whatever a reorg does."""
    stand_at_tip(db)
    grow(db)
    subscribe_to_each(db, depth=2, since_height=TIP + 1)
    pay(db, 0, entry_of(1, state=confirmed(TIP + 1)), tip_height=TIP + 1)
    reorg(db, 1, 2)
    assert pay(db, 0, entry_of(1, state=confirmed(TIP + 1, branch=1)), tip_height=TIP + 2)
    assert told(db) == {txid_of(1): "open"}


def test_reorg_above_the_beginning_leaves_the_past_alone(db: Database) -> None:
    """Where a reorg begins above the tip at which a subscription was made, nothing of its past has moved."""
    stand_at_tip(db)
    subscription = subscribe_to_each(db, depth=1, since_height=TIP)
    pay(db, 0, entry_of(1, state=confirmed(TIP)))
    grow(db)
    reorg(db, 1, 2)
    assert subscriptions.load_subscription(db, 1) == subscription
    assert subscriptions.with_past(db, subscription) == subscription


def test_past_goes_with_its_subscription(db: Database) -> None:
    """What is remembered of a subscription is removed with it."""
    stand_at_tip(db)
    grow(db, 2)
    subscription = subscribe_to_each(db, depth=1, since_height=TIP + 2)
    pay(db, 0, entry_of(1, state=confirmed(TIP + 2)), tip_height=TIP + 2)
    reorg(db, 1, 2)
    assert subscriptions.with_past(db, subscription).past == {txid_of(1)}
    subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url=None)
    assert db.execute("SELECT count(*) FROM past_payment").fetchone() == (0,)


def test_nothing_more_is_told_of_a_payment_that_was_heard(db: Database) -> None:
    """Where what is known of an acknowledged payment changes, its receiver is not told again; before that it is."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1, received_sat=70))
    assert pay(db, 0, entry_of(1, received_sat=60))
    (taken,), _ = claim(db)
    assert taken.sent_payload == b"60"
    finish(db, taken, body=HEARD)
    assert not pay(db, 0, entry_of(1, received_sat=50))
    assert claim(db, now=NOW + 1000) == ([], None)
