"""From payments to messages, in the transaction of the ledger change."""

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.ledger.entries import Replaced
from lightipn.store import deliveries, outbox, reviews, subscriptions
from lightipn.store.database import Database
from lightipn.store.deliveries import Delivery
from tests.builders import confirmed, entry_of, txid_of
from tests.store.plain_dialect import POLICIES, answer_of, payload_of
from tests.store.rows import NOW, TIP, claim, pay, regtest_address, subscribe


def deliveries_of(db: Database) -> list[Delivery]:
    """Return all messages, oldest first."""
    return list(reversed(deliveries.load_deliveries(db, limit=100)))


def acknowledge(db: Database, *, now: float = NOW) -> int:
    """Have everything that is due heard and acknowledged; return how much that was."""
    claims, _ = claim(db, now=now)
    for taken in claims:
        outbox.finish_attempt(db, POLICIES, taken, answer_of(taken.sent_payload), now=now, jitter=0.0)
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
    subscribe(db, 0, depth=3)
    pay(db, 0, entry_of(1, received_sat=70, state=confirmed(TIP)))
    assert acknowledge(db) == 1
    assert reviews.review_woken(db, POLICIES, tip_height=TIP + 1, now=NOW + 1) == (False, False)
    assert reviews.review_woken(db, POLICIES, tip_height=TIP + 2, now=NOW + 2) == (True, False)
    (delivery,) = deliveries_of(db)
    assert (delivery.payload, delivery.due_at) == (payload_of(70, 0), NOW + 2)
    assert acknowledge(db, now=NOW + 2) == 1
    assert reviews.review_woken(db, POLICIES, tip_height=TIP + 500, now=NOW + 3) == (False, False)


def test_woken_subscriptions_are_worked_off_page_by_page(db: Database) -> None:
    """More subscriptions than a page are reviewed in several transactions, each exactly once."""
    count = reviews.WOKEN_PAGE + 3
    for number in range(count):
        subscribe(db, 0, depth=2, url=f"http://shop.example/{number}")
    pay(db, 0, entry_of(1, received_sat=70, state=confirmed(TIP)))
    assert len(subscriptions.load_woken(db, TIP + 1, limit=2 * count)) == count
    assert reviews.review_woken(db, POLICIES, tip_height=TIP + 1, now=NOW) == (True, True)
    assert reviews.review_woken(db, POLICIES, tip_height=TIP + 1, now=NOW) == (True, False)
    assert reviews.review_woken(db, POLICIES, tip_height=TIP + 1, now=NOW) == (False, False)
    told = {delivery.payload for delivery in deliveries.load_deliveries(db, limit=2 * count)}
    assert told == {payload_of(70, 0)}


def test_script_without_subscriptions_is_not_reviewed(db: Database) -> None:
    """A script nobody knows, or that was merely looked up, makes no message."""
    assert not reviews.review_script(db, POLICIES, ScriptHash(bytes(32)), tip_height=TIP, now=NOW)
    subscribe(db, 0)
    subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url=None)
    assert not pay(db, 0, entry_of(1))
    assert deliveries_of(db) == []
