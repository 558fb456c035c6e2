"""From payments to messages: ask each subscription's policy what must be known now, and write it.

Called inside the transaction of the ledger change, so that a message and the change that caused it are one commit.
"""

from collections.abc import Mapping

from sqlite_utils import Database

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.ledger.entries import ScriptPayments
from lightipn.outbox.messages import Policy, Subscription
from lightipn.store import ledger, outbox, subscriptions

WOKEN_PAGE = 500


def review_subscription(
    db: Database,
    policies: Mapping[str, Policy],
    subscription: Subscription,
    payments: ScriptPayments,
    *,
    tip_height: int,
    now: float,
) -> bool:
    """Write what a subscriber must know; True if a message is due because of it."""
    policy = policies[subscription.dialect]
    review = policy.review(subscription, payments, tip_height=tip_height)
    subscriptions.save_wake_height(db, subscription.subscription_id, review.wake_height)
    found = outbox.load_message(db, subscription.subscription_id)
    if found is None:
        baseline = policy.baseline_of(subscription)
        if review.payload == baseline:
            return False
        outbox.add_message(db, subscription, baseline=baseline, payload=review.payload, now=now)
        return True
    message_key, before = found
    after = before.with_payload(review.payload, now=now)
    if after == before:
        return False
    outbox.save_message(db, message_key, after)
    return after.due_at is not None


def review_script(
    db: Database, policies: Mapping[str, Policy], scripthash: ScriptHash, *, tip_height: int, now: float
) -> bool:
    """Review everybody's subscriptions of a script; True if a message is due because of it."""
    payments = ledger.load_payments(db, scripthash)
    return payments is not None and review_payments(db, policies, payments, tip_height=tip_height, now=now)


def review_payments(
    db: Database, policies: Mapping[str, Policy], payments: ScriptPayments, *, tip_height: int, now: float
) -> bool:
    """Do the same with payments that the caller holds already."""
    watchers = subscriptions.load_subscriptions_of(db, payments.scripthash)
    due = [review_subscription(db, policies, watcher, payments, tip_height=tip_height, now=now) for watcher in watchers]
    return any(due)


def review_woken(db: Database, policies: Mapping[str, Policy], *, tip_height: int, now: float) -> tuple[bool, bool]:
    """Review one page of the subscriptions that waited for this height.

    Returns:
        Whether a message is due because of it, and whether more subscriptions wait.
    """
    woken = subscriptions.load_woken(db, tip_height, limit=WOKEN_PAGE)
    is_due = False
    held: dict[ScriptHash, ScriptPayments | None] = {}
    for subscription in woken:
        if subscription.scripthash not in held:
            held = {subscription.scripthash: ledger.load_payments(db, subscription.scripthash)}
        payments = held[subscription.scripthash]
        assert payments is not None  # a subscription's script cannot be removed before it
        is_due |= review_subscription(db, policies, subscription, payments, tip_height=tip_height, now=now)
    return is_due, len(woken) == WOKEN_PAGE
