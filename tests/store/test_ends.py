"""How subscriptions end, and when their scripts are let go of.

What was seen before the end is still told when it reaches its depth, and what was told is told until it is heard; only
then is the script let go of, unless somebody else follows it.
"""

from dataclasses import replace

import pytest

from lightipn.ledger.entries import LedgerEntry, Replaced
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from lightipn.outbox.subscriptions import Subscription, SubscriptionState
from lightipn.store import chain, deliveries, events, keys, ledger, outbox, reviews, subscriptions
from lightipn.store.database import Database
from lightipn.store.ledger import WatchChange
from lightipn.store.reviews import WOKEN_PAGE
from tests.builders import confirmed, entry_of, txid_of
from tests.store.each_dialect import HEARD, MOST_TIPS
from tests.store.rows import (
    NOW,
    POLICIES,
    TIP,
    changes_of,
    claim,
    finish,
    pay,
    regtest_address,
    subscribe_to_each,
)
from tests.store.tips import grow, stand_at_tip, wake

ADDRESS = regtest_address(0)
SCRIPTHASH = ADDRESS.scripthash
REMOVED = [(SCRIPTHASH, WatchChange.REMOVED)]
LATER = NOW + 50
CANCELED = SubscriptionState.CANCELED
EXPIRED = SubscriptionState.EXPIRED
FINISHED = SubscriptionState.FINISHED


@pytest.fixture
def tipped(db: Database) -> Database:
    """Return a database whose chain ends at ``TIP``."""
    stand_at_tip(db)
    return db


def end(db: Database, subscription: Subscription, *, now: float = LATER) -> None:
    """Cancel a subscription."""
    reviews.end_subscription(db, POLICIES, subscription, CANCELED, now=now)


def load(db: Database, subscription_id: int = 1) -> Subscription:
    """Return a subscription, which must be there."""
    found = subscriptions.load_subscription(db, subscription_id)
    assert found is not None
    return found


def is_followed(db: Database) -> bool:
    """Tell whether the script is looked after, and its payments are kept."""
    return ledger.load_payments(db, SCRIPTHASH) is not None


def pay_at_tip(db: Database, *entries: LedgerEntry) -> bool:
    """Write payments, and review them at our tip."""
    return pay(db, 0, *entries, tip_height=chain.load_tip_height(db))


def hear_all(db: Database, *, now: float = LATER) -> list[bytes]:
    """Have everything that is due heard; return what that was."""
    heard = []
    while claims := claim(db, now=now)[0]:
        for taken in claims:
            finish(db, taken, body=HEARD, now=now)
            heard.append(taken.sent_payload)
    return heard


def release_all(db: Database) -> None:
    """Let go of what is over, page by page."""
    after: int | None = 0
    while after is not None:
        after = reviews.release_ended(db, POLICIES, after=after, now=LATER)


# --- how they end ------------------------------------------------------------------------------------------------


def test_expired_subscriptions_are_ended_in_their_second(tipped: Database) -> None:
    """From its second on a subscription's expiry is noticed, once; others are left alone."""
    subscribe_to_each(tipped, url="http://a.example/", expires_at=LATER)
    subscribe_to_each(tipped, url="http://b.example/", expires_at=LATER + 1)
    subscribe_to_each(tipped, url="http://c.example/")
    assert reviews.end_expired(tipped, POLICIES, now=LATER - 0.1) == 0
    assert reviews.end_expired(tipped, POLICIES, now=LATER + 0.9) == 1
    assert reviews.end_expired(tipped, POLICIES, now=LATER + 0.9) == 0
    states = [(load(tipped, number).state, load(tipped, number).ended_at) for number in (1, 2, 3)]
    assert states == [(EXPIRED, None), (SubscriptionState.ACTIVE, None), (SubscriptionState.ACTIVE, None)]


@pytest.mark.slow
def test_expired_subscriptions_are_ended_page_by_page(tipped: Database) -> None:
    """More than a page of them are ended in several transactions."""
    for number in range(WOKEN_PAGE + 3):
        subscribe_to_each(tipped, url=f"http://shop.example/{number}", expires_at=LATER)
    counts = [reviews.end_expired(tipped, POLICIES, now=LATER) for _ in range(3)]
    assert counts == [WOKEN_PAGE, 3, 0]
    assert not is_followed(tipped)


def test_canceled_subscription_says_since_when(tipped: Database) -> None:
    """A subscription ended by its owner keeps the second in which that was."""
    end(tipped, subscribe_to_each(tipped), now=LATER + 0.9)
    assert (load(tipped).state, load(tipped).ended_at) == (CANCELED, LATER)


def test_subscription_for_one_notice_is_finished_when_it_is_heard(tipped: Database) -> None:
    """The first payment that is deep enough is told alone; once it is heard that is the end, and the script goes."""
    subscribe_to_each(tipped, depth=1, is_once=True)
    assert not pay_at_tip(tipped, entry_of(1, received_sat=1))
    assert pay_at_tip(tipped, entry_of(1, received_sat=1, state=confirmed(TIP)))
    assert not pay_at_tip(tipped, entry_of(2, received_sat=2, state=confirmed(TIP)))
    assert load(tipped).state is SubscriptionState.ACTIVE
    assert hear_all(tipped) == [b"1"]
    assert (load(tipped).state, load(tipped).ended_at) == (FINISHED, LATER)
    assert not is_followed(tipped)
    assert not pay_at_tip(tipped, entry_of(3, state=confirmed(TIP)))


def test_subscription_for_one_notice_takes_another_where_that_is_gone(tipped: Database) -> None:
    """Where its payment is gone before anybody heard of it, the next one is told instead."""
    subscribe_to_each(tipped, depth=1, is_once=True)
    pay_at_tip(tipped, entry_of(1, received_sat=1, state=confirmed(TIP)))
    gone = entry_of(1, received_sat=1, state=Replaced(txid_of(9)))
    assert pay_at_tip(tipped, gone, entry_of(2, received_sat=2, state=confirmed(TIP)))
    assert hear_all(tipped) == [b"2"]
    assert load(tipped).state is FINISHED


def test_subscription_for_one_notice_is_finished_when_that_is_given_up(tipped: Database) -> None:
    """What was told as often as the dialect does was told: no other payment is."""
    subscribe_to_each(tipped, depth=1, is_once=True)
    pay_at_tip(tipped, entry_of(1, state=confirmed(TIP)))
    for number in range(MOST_TIPS):
        (taken,), _ = claim(tipped, now=NOW + number)
        finish(tipped, taken, body=b"not yet", now=NOW + number)
        grow(tipped)
        wake(tipped, now=NOW + number + 1)
    assert load(tipped).state is FINISHED
    assert not is_followed(tipped)


def test_subscribing_again_after_the_end_makes_another(tipped: Database) -> None:
    """The same wish after an end, or after an expiry that nobody noticed yet, is a new subscription."""
    end(tipped, subscribe_to_each(tipped))
    second = subscribe_to_each(tipped, expires_at=LATER)
    third = subscribe_to_each(tipped, now=LATER)
    assert (second.subscription_id, third.subscription_id) == (2, 3)
    assert subscribe_to_each(tipped, now=LATER).subscription_id == 3


def test_live_subscriptions_are_counted(tipped: Database) -> None:
    """What has ended is none of the subscriptions that the operator counts."""
    subscription = subscribe_to_each(tipped)
    subscribe_to_each(tipped, 1)
    end(tipped, subscription)
    assert subscriptions.count_subscriptions(tipped) == 1


# --- what is told after the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_expiry", [True, False], ids=["expired", "canceled"])
def test_payment_seen_before_the_end_is_told_at_its_depth(tipped: Database, is_expiry: bool) -> None:
    """After the end a payment that was seen before it is told when it is deep enough; a later one is not."""
    subscription = subscribe_to_each(tipped, depth=2, expires_at=LATER if is_expiry else None)
    early = entry_of(1, received_sat=1, state=confirmed(TIP))
    pay_at_tip(tipped, early)
    if is_expiry:
        assert reviews.end_expired(tipped, POLICIES, now=LATER) == 1
    else:
        end(tipped, subscription)
    late = LedgerEntry(
        txid=txid_of(2),
        state=confirmed(TIP),
        outputs=((0, 2),),
        spends=(),
        sent_sat=0,
        is_coinbase=False,
        signals_rbf=False,
        seen_at=LATER + 1,
    )
    pay_at_tip(tipped, late)
    grow(tipped)
    assert wake(tipped, now=LATER + 5)
    assert hear_all(tipped, now=LATER + 5) == [b"1"]


def test_message_made_before_the_end_is_told_until_it_is_heard(tipped: Database) -> None:
    """What was created keeps being retried after the end, and says its confirmations."""
    subscription = subscribe_to_each(tipped)
    pay_at_tip(tipped, entry_of(1))
    (taken,), _ = claim(tipped)
    finish(tipped, taken, body=b"not yet")
    end(tipped, subscription)
    grow(tipped)
    pay_at_tip(tipped, entry_of(1, state=confirmed(TIP + 1)))
    wake(tipped, now=LATER)
    (again,), _ = claim(tipped, now=LATER)
    assert again.request.headers["X-Confirmations"] == "1"


def test_withdrawal_holds_after_the_end(tipped: Database) -> None:
    """A payment that goes after the end is not told any more."""
    subscription = subscribe_to_each(tipped)
    pay_at_tip(tipped, entry_of(1))
    end(tipped, subscription)
    pay_at_tip(tipped, entry_of(1, state=Replaced(txid_of(9))))
    assert claim(tipped, now=LATER) == ([], None)
    assert not is_followed(tipped)


# --- letting go of scripts ---------------------------------------------------------------------------------------


def test_script_without_news_is_let_go_of_at_the_end(tipped: Database) -> None:
    """Where nothing was seen that may still be told, the script goes with the subscription, and the service is told."""
    subscription = subscribe_to_each(tipped)
    ledger.clear_watch_changes(tipped)
    end(tipped, subscription)
    assert not is_followed(tipped)
    assert changes_of(tipped) == REMOVED
    assert load(tipped).state is CANCELED  # the subscription stays to be shown


def test_payment_in_the_second_of_the_end_is_after_it(tipped: Database) -> None:
    """Whatever was not known when a subscription was canceled is not told, though it is seen in the same second."""
    subscription = subscribe_to_each(tipped)
    pay_at_tip(tipped, replace(entry_of(1), seen_at=LATER - 9))
    end(tipped, subscription)
    pay_at_tip(tipped, replace(entry_of(2), seen_at=LATER))
    assert len(outbox.load_messages(tipped, subscription.subscription_id)) == 1


def test_message_that_is_no_longer_so_is_known(tipped: Database) -> None:
    """What was withdrawn is false, and so is what was heard of a payment that is gone; what still stands is not."""
    subscription = subscribe_to_each(tipped)
    pay_at_tip(tipped, entry_of(1), entry_of(2), entry_of(3))
    held = outbox.load_messages(tipped, subscription.subscription_id).values()
    keys_of = {message.txid: message_key for message_key, message in held}

    def false_ones() -> list[int]:
        return [number for number in (1, 2, 3) if deliveries.is_false(tipped, keys_of[txid_of(number)])]

    pay_at_tip(tipped, replace(entry_of(2), state=Replaced(txid_of(9))))
    assert false_ones() == [2]
    hear_all(tipped)
    pay_at_tip(tipped, replace(entry_of(3), state=Replaced(txid_of(9))))
    assert false_ones() == [2, 3]


def test_script_is_followed_while_a_payment_may_still_be_told(tipped: Database) -> None:
    """A payment seen before the end that is not deep enough keeps the script until it is told and heard."""
    subscription = subscribe_to_each(tipped, depth=2)
    pay_at_tip(tipped, entry_of(1))
    end(tipped, subscription)
    release_all(tipped)
    assert is_followed(tipped)
    pay_at_tip(tipped, entry_of(1, state=confirmed(TIP)))
    grow(tipped)
    wake(tipped, now=LATER)
    assert is_followed(tipped)
    ledger.clear_watch_changes(tipped)
    assert hear_all(tipped) == [b"100000"]
    assert not is_followed(tipped)
    assert changes_of(tipped) == REMOVED


def test_script_is_followed_while_a_message_is_open(tipped: Database) -> None:
    """What is still told must be able to say how deep its payment is."""
    subscription = subscribe_to_each(tipped)
    pay_at_tip(tipped, entry_of(1))
    end(tipped, subscription)
    release_all(tipped)
    assert is_followed(tipped)
    hear_all(tipped)
    assert not is_followed(tipped)


def test_script_is_let_go_of_with_the_last_of_several_messages(tipped: Database) -> None:
    """Where several payments are still told, hearing one of them does not end the others."""
    subscription = subscribe_to_each(tipped)
    pay_at_tip(tipped, entry_of(1), entry_of(2))
    end(tipped, subscription)
    (taken,), _ = claim(tipped)
    finish(tipped, taken, body=HEARD)
    assert is_followed(tipped)
    assert len(hear_all(tipped)) == 1
    assert not is_followed(tipped)


def test_hearing_ends_no_live_subscription(tipped: Database) -> None:
    """A live subscription follows its script on when all it was told is heard."""
    subscribe_to_each(tipped)
    pay_at_tip(tipped, entry_of(1))
    hear_all(tipped)
    release_all(tipped)
    assert is_followed(tipped)
    assert pay_at_tip(tipped, entry_of(2))


def test_ended_subscription_of_an_unproved_tip_is_kept_until_it_is_known_what_is_new(tipped: Database) -> None:
    """One that ends before our tip is proved may have something to tell, which is told once that is known."""
    subscription = subscribe_to_each(tipped, depth=1, since_height=None, now=1)
    pay_at_tip(tipped, entry_of(1, state=confirmed(TIP)))
    end(tipped, subscription)
    release_all(tipped)
    assert is_followed(tipped)
    reviews.settle_new(tipped, POLICIES, now=LATER)
    assert hear_all(tipped) == [b"100000"]
    assert not is_followed(tipped)


def test_retry_by_hand_says_the_confirmations_though_the_script_is_gone(tipped: Database) -> None:
    """Of a payment that is followed no more the block is remembered in which it was when it was told last."""
    subscription = subscribe_to_each(tipped)
    pay_at_tip(tipped, entry_of(1, state=confirmed(TIP)))
    end(tipped, subscription)
    hear_all(tipped)
    assert not is_followed(tipped)
    grow(tipped, 2)
    deliveries.make_due(tipped, 1, now=LATER + 1)
    (taken,), _ = claim(tipped, now=LATER + 1)
    assert taken.request.headers["X-Confirmations"] == "3"


def test_dropped_subscription_is_told_nothing_more(tipped: Database) -> None:
    """An end at its owner's wish withdraws what was not heard, and lets go of the script at once."""
    subscription = subscribe_to_each(tipped)
    pay_at_tip(tipped, entry_of(1), entry_of(2), entry_of(3))
    (taken,), _ = claim(tipped)
    finish(tipped, taken, body=HEARD)
    (under_way,), _ = claim(tipped)
    reviews.drop_subscription(tipped, subscription, now=LATER + 0.5)
    finish(tipped, under_way, now=LATER + 1)
    states = sorted(message.state.value for _, message in outbox.load_messages(tipped, 1).values())
    assert states == ["acknowledged", "withdrawn", "withdrawn"]
    assert (load(tipped).state, load(tipped).ended_at) == (CANCELED, LATER)
    assert not is_followed(tipped)
    assert claim(tipped, now=LATER + 1000) == ([], None)


def test_dropping_what_has_ended_keeps_how_it_ended(tipped: Database) -> None:
    """A subscription that expired and is dropped afterwards stays expired, and is told nothing more."""
    subscribe_to_each(tipped, expires_at=LATER)
    pay_at_tip(tipped, entry_of(1))
    reviews.end_expired(tipped, POLICIES, now=LATER)
    reviews.drop_subscription(tipped, load(tipped), now=LATER + 1)
    assert (load(tipped).state, load(tipped).ended_at) == (EXPIRED, None)
    assert claim(tipped, now=LATER + 1000) == ([], None)


def test_dead_message_does_not_hold_the_script(tipped: Database) -> None:
    """A message that is given up is told no more, so nothing has to be known for it."""
    subscription = subscribe_to_each(tipped)
    pay_at_tip(tipped, entry_of(1))
    end(tipped, subscription)
    tipped.execute("UPDATE message SET state = 'dead', due_at = NULL")
    release_all(tipped)
    assert not is_followed(tipped)


@pytest.mark.parametrize("ends_first", [True, False], ids=["the older ends first", "the younger ends first"])
def test_script_that_another_follows_is_kept(tipped: Database, ends_first: bool) -> None:
    """A script is let go of with the last subscription that follows it, in whatever order they end."""
    both = [subscribe_to_each(tipped), subscribe_to_each(tipped, owner="other")]
    ledger.clear_watch_changes(tipped)
    first, second = both if ends_first else reversed(both)
    end(tipped, first)
    assert is_followed(tipped)
    assert changes_of(tipped) == []
    assert subscriptions.load_subscriptions_of(tipped, SCRIPTHASH) == [second]
    subscriptions.remove_subscriptions(tipped, SCRIPTHASH, url=None)
    assert not is_followed(tipped)
    assert changes_of(tipped) == REMOVED


def test_ended_subscription_is_not_told_what_another_ones_script_gets(tipped: Database) -> None:
    """Once it let go of its script it makes no messages and is in no event, though another follows the script."""
    subscription = subscribe_to_each(tipped)
    subscribe_to_each(tipped, owner="other")
    end(tipped, subscription)
    pay_at_tip(tipped, entry_of(1))
    owners = [delivery.owner for delivery in deliveries.load_deliveries(tipped, limit=9)]
    assert owners == ["other"]
    event = PaymentEvent(
        kind=EventKind.SEEN,
        scripthash=SCRIPTHASH,
        txid=txid_of(1),
        net_sat=100_000,
        height=None,
        trust=TrustLevel.SINGLE,
    )
    events.save_payment_events(tipped, [event], now=LATER)
    assert len(events.load_events(tipped, after=0, limit=9, owner="other").events) == 1
    assert events.load_events(tipped, after=0, limit=9, owner="shop").events == ()


def test_removing_a_live_subscription_forgets_the_script_of_ended_ones(tipped: Database) -> None:
    """Ended subscriptions to a script do not keep it: those that follow it do."""
    end(tipped, subscribe_to_each(tipped, url="http://a.example/"))
    subscribe_to_each(tipped, url="http://b.example/")
    assert subscriptions.remove_subscriptions(tipped, SCRIPTHASH, url="http://b.example/") == 1
    assert not is_followed(tipped)


def test_lookup_of_an_ended_script_is_dropped_in_its_time(tipped: Database) -> None:
    """A script that is merely looked up after its subscription ended is kept as long as any lookup."""
    end(tipped, subscribe_to_each(tipped))
    ledger.want_script(tipped, ADDRESS, until=LATER + 10, must_ask=False)
    assert ledger.drop_unwanted_scripts(tipped, now=LATER + 9) == 0
    assert ledger.drop_unwanted_scripts(tipped, now=LATER + 10) == 1
    assert not is_followed(tipped)


@pytest.mark.slow
def test_ended_subscriptions_are_looked_through_page_by_page(tipped: Database) -> None:
    """One that must stay does not keep those behind it from being let go of."""
    for number in range(WOKEN_PAGE + 2):
        subscription = subscribe_to_each(tipped, number, url=f"http://shop.example/{number}")
        pay(tipped, number, entry_of(number))
        end(tipped, subscription)
    last = regtest_address(WOKEN_PAGE + 1).scripthash
    tipped.execute("UPDATE message SET state = 'dead', due_at = NULL WHERE subscription_id = ?", [WOKEN_PAGE + 2])
    assert reviews.release_ended(tipped, POLICIES, after=0, now=LATER) == WOKEN_PAGE
    assert ledger.load_script(tipped, last) is not None
    assert reviews.release_ended(tipped, POLICIES, after=WOKEN_PAGE, now=LATER) is None
    assert ledger.load_script(tipped, last) is None
    assert is_followed(tipped)


# --- suspended owners --------------------------------------------------------------------------------------------


@pytest.fixture
def suspended(tipped: Database) -> Database:
    """Return a database with a payment that is not deep enough; the last key of its subscriber was revoked."""
    keys.save_key(tipped, name="shop", secret="s", now=NOW)
    subscribe_to_each(tipped, depth=2, expires_at=LATER)
    pay_at_tip(tipped, entry_of(1, state=confirmed(TIP)))
    keys.revoke_keys(tipped, name="shop", key_id=None, now=NOW)
    return tipped


def test_suspended_subscription_expires_too(suspended: Database) -> None:
    """Time goes on while the owner has no key, and a new key does not revive what has ended."""
    assert load(suspended).state is SubscriptionState.SUSPENDED
    assert reviews.end_expired(suspended, POLICIES, now=LATER) == 1
    assert load(suspended).state is EXPIRED
    keys.save_key(suspended, name="shop", secret="t", now=LATER)
    assert load(suspended).state is EXPIRED


def test_ended_subscriptions_are_not_suspended(tipped: Database) -> None:
    """Revoking the last key suspends what is live; what has ended stays as it ended."""
    keys.save_key(tipped, name="shop", secret="s", now=NOW)
    end(tipped, subscribe_to_each(tipped, url="http://a.example/"))
    subscribe_to_each(tipped, url="http://b.example/")
    keys.revoke_keys(tipped, name="shop", key_id=None, now=NOW)
    assert [load(tipped, number).state for number in (1, 2)] == [CANCELED, SubscriptionState.SUSPENDED]


def test_payment_that_gets_deep_while_suspended_is_kept(suspended: Database) -> None:
    """What becomes due while the owner has no key is held, and told when there is one."""
    grow(suspended)
    wake(suspended)
    assert claim(suspended) == ([], None)
    keys.save_key(suspended, name="shop", secret="t", now=NOW)
    assert hear_all(suspended) == [b"100000"]


def test_nothing_is_sent_for_a_suspended_owner_after_the_end(suspended: Database) -> None:
    """A payment that gets its depth after an expired subscription's owner lost the key waits for the next key too."""
    reviews.end_expired(suspended, POLICIES, now=LATER)
    grow(suspended)
    wake(suspended, now=LATER)
    assert claim(suspended, now=LATER) == ([], None)
    assert outbox.has_open(suspended, 1)
    keys.save_key(suspended, name="shop", secret="t", now=LATER)
    assert hear_all(suspended) == [b"100000"]
