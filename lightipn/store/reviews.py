"""From payments and blocks to messages: ask each subscription's policy what must be known now, and write it.

Called inside the transaction of the change, so that a message and the change that caused it are one commit.
"""

from collections.abc import Mapping

from sqlite_utils import Database

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.header import parse_header
from lightipn.chain.verifier import Confirmed
from lightipn.ledger.entries import ScriptPayments
from lightipn.outbox.messages import Message, MessageState
from lightipn.outbox.policy import Block, BlockPolicy, Notice, Policy, Review
from lightipn.outbox.subscriptions import LIVE, Subscription, SubscriptionState
from lightipn.store import chain, deposits, forwards, hooks, ledger, outbox, subscriptions, transactions
from lightipn.store.hooks import Hook
from lightipn.store.outbox import WOKEN_PAGE

BLOCKS_PAGE = 100


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
    subscription = subscriptions.with_past(db, subscription)
    if subscription.hook_id is not None:
        payments = transactions.with_standings(db, payments)
    held = outbox.load_messages(db, subscription.subscription_id)
    told = {topic: message.state for topic, (_, message) in held.items()}
    review = policy.review(subscription, payments, told=told, tip_height=tip_height, now=now)
    subscriptions.save_wake(db, subscription.subscription_id, height=review.wake_height, at=review.wake_at)
    is_due = False
    for notice in review.notices:
        if notice.topic in held:
            is_due |= _tell_newer(db, held[notice.topic], notice, now=now)
            continue
        baseline = policy.baseline_of(subscription)
        if notice.payload is not None and notice.payload != baseline:
            outbox.add_message(db, subscription, notice, baseline=baseline, now=now)
            is_due = True
    standing = {notice.topic for notice in review.notices}
    for topic in held.keys() - standing:
        _save_changed(db, held[topic], held[topic][1].withdrawn())
    confirmed = _confirmed_of(held, payments)
    if confirmed:
        is_due |= outbox.settle(db, subscription.subscription_id, confirmed, now=now)
    _end_if_done(db, subscription, review, now=int(now))
    return is_due


def review_new(db: Database, policies: Mapping[str, Policy], subscription: Subscription, *, now: float) -> bool:
    """Review a subscription that was just made, or asked for again; True if a message is due because of it."""
    assert subscription.scripthash is not None  # its script was added with it
    payments = ledger.load_payments(db, subscription.scripthash)
    assert payments is not None
    return review_subscription(db, policies, subscription, payments, tip_height=chain.load_tip_height(db), now=now)


def _tell_newer(db: Database, held: tuple[int, Message], notice: Notice, *, now: float) -> bool:
    if notice.txid is not None and held[1].state is MessageState.ACKNOWLEDGED:
        return False  # of one payment nothing more is told once it was heard
    payload = held[1].payload if notice.payload is None else notice.payload
    after = held[1].with_payload(payload, now=now)
    return _save_changed(db, held, after) and after.due_at is not None


def _save_changed(db: Database, held: tuple[int, Message], after: Message) -> bool:
    message_key, before = held
    if after == before:
        return False
    outbox.save_message(db, message_key, after)
    return True


def _confirmed_of(held: Mapping[str, tuple[int, Message]], payments: ScriptPayments) -> list[int]:
    """Return the keys of the messages whose payment is in a block."""
    return [
        message_key
        for message_key, message in held.values()
        if message.txid in payments.entries and isinstance(payments.entries[message.txid].state, Confirmed)
    ]


def _end_if_done(db: Database, subscription: Subscription, review: Review, *, now: int) -> None:
    is_live = subscription.state in LIVE
    if review.is_over and is_live:
        subscriptions.save_end(db, subscription.subscription_id, SubscriptionState.FINISHED, now=now)
        is_live = False
    is_done = subscription.since_height is not None and not review.awaits_more
    # What is still told may have to say how many confirmations there are.
    if not is_live and is_done and not outbox.has_open(db, subscription.subscription_id):
        subscriptions.release(db, subscription)


def review_script(
    db: Database, policies: Mapping[str, Policy], scripthash: ScriptHash, *, tip_height: int, now: float
) -> bool:
    """Review everybody's subscriptions of a script; True if a message is due because of it."""
    payments = ledger.load_payments(db, scripthash)
    return payments is not None and review_payments(db, policies, payments, tip_height=tip_height, now=now)


def review_payments(
    db: Database, policies: Mapping[str, Policy], payments: ScriptPayments, *, tip_height: int, now: float
) -> bool:
    """Do the same with payments that the caller holds already; accounts and forwards move with them."""
    deposits.settle_script(db, payments, tip_height=tip_height, now=int(now))
    forwards.note_payments(db, payments, tip_height=tip_height)
    watchers = subscriptions.load_subscriptions_of(db, payments.scripthash)
    due = [review_subscription(db, policies, watcher, payments, tip_height=tip_height, now=now) for watcher in watchers]
    return any(due)


def wake_for_time(db: Database, policies: Mapping[str, Policy], *, now: float) -> None:
    """Review the subscriptions whose time has come; one page of them."""
    for subscription in subscriptions.load_woken_by_time(db, now=now, limit=WOKEN_PAGE):
        assert subscription.scripthash is not None  # only payments are told by the clock
        payments = ledger.load_payments(db, subscription.scripthash)
        if payments is None:  # its script is followed no more
            subscriptions.save_wake(db, subscription.subscription_id, height=None, at=None)
            continue
        tip_height = chain.load_tip_height(db)
        review_subscription(db, policies, subscription, payments, tip_height=tip_height, now=now)


def wake_for_tip(db: Database, policies: Mapping[str, Policy], *, now: float) -> tuple[bool, bool]:
    """Make due what waited for our tip: one page of messages, and one of subscriptions.

    Returns:
        Whether a message is due because of it, and whether more waits.
    """
    is_due, is_more = outbox.wake_for_tip(db, chain.load_tip_number(db), now=now)
    tip_height = chain.load_tip_height(db)
    is_woken, is_more_woken = _review_woken(db, policies, tip_height=tip_height, now=now)
    is_more_settled = deposits.settle_woken(db, tip_height=tip_height, now=int(now))
    return is_due or is_woken, is_more or is_more_woken or is_more_settled


def _review_woken(db: Database, policies: Mapping[str, Policy], *, tip_height: int, now: float) -> tuple[bool, bool]:
    woken = subscriptions.load_woken(db, tip_height, limit=WOKEN_PAGE)
    is_due = is_more = False
    held: dict[ScriptHash, ScriptPayments | None] = {}
    for subscription in woken:
        if subscription.scripthash is None:
            is_due = True
            is_more |= _tell_blocks(db, policies, subscription, tip_height=tip_height, now=now)
            continue
        if subscription.scripthash not in held:
            held = {subscription.scripthash: ledger.load_payments(db, subscription.scripthash)}
        payments = held[subscription.scripthash]
        if payments is None:  # its script is followed no more
            subscriptions.save_wake(db, subscription.subscription_id, height=None, at=None)
            continue
        is_due |= review_subscription(db, policies, subscription, payments, tip_height=tip_height, now=now)
    return is_due, is_more or len(woken) == WOKEN_PAGE


def _tell_blocks(
    db: Database, policies: Mapping[str, Policy], subscription: Subscription, *, tip_height: int, now: float
) -> bool:
    """Make messages of the next blocks that are deep enough, lowest first; True if there are more."""
    policy = policies[subscription.dialect]
    assert isinstance(policy, BlockPolicy)  # no other dialect takes such subscriptions
    wish = policy.block_wish_of(subscription)
    if wish.is_once and _end_heard_blocks(db, subscription, now=now):
        return False
    first = subscriptions.load_next_height(db, subscription.subscription_id)
    last = min(tip_height - wish.confirmations + 1, first if wish.is_once else first + BLOCKS_PAGE - 1)
    for height in range(first, last + 1):
        found = chain.load_block(db, height)
        assert found is not None  # nobody subscribes to blocks below the tip
        header = parse_header(found[1])
        topic = outbox.block_topic(header.block_hash)
        held = outbox.load_message(db, subscription.subscription_id, topic)
        if held is not None:  # its block left the chain, and is back
            _save_changed(db, held, held[1].restored(now=now))
            continue
        notice = Notice(topic=topic, payload=policy.block_payload_of(Block(height=height, header=header)))
        outbox.add_message(db, subscription, notice, baseline=policy.baseline_of(subscription), now=now)
    subscriptions.save_next_height(db, subscription.subscription_id, last + 1, waits=not wish.is_once)
    return not wish.is_once and last + wish.confirmations <= tip_height


def _end_heard_blocks(db: Database, subscription: Subscription, *, now: float) -> bool:
    """End a subscription to one block if that was heard, or told as often as its dialect does."""
    held = outbox.load_messages(db, subscription.subscription_id).values()
    is_over = any(message.state in (MessageState.ACKNOWLEDGED, MessageState.DEAD) for _, message in held)
    if is_over and subscription.state in LIVE:
        subscriptions.save_end(db, subscription.subscription_id, SubscriptionState.FINISHED, now=int(now))
    if is_over:
        subscriptions.release(db, subscription)
    return is_over


def review_heard(db: Database, policies: Mapping[str, Policy], subscription_id: int, *, now: float) -> None:
    """See whether a subscription is over, now that one of its messages was heard, or is told no more."""
    subscription = subscriptions.load_subscription(db, subscription_id)
    if subscription is None:
        return
    if subscription.scripthash is None:
        policy = policies[subscription.dialect]
        if isinstance(policy, BlockPolicy) and policy.block_wish_of(subscription).is_once:
            _end_heard_blocks(db, subscription, now=now)
        return
    payments = ledger.load_payments(db, subscription.scripthash)
    if payments is not None and subscriptions.is_watching(db, subscription_id):
        review_subscription(db, policies, subscription, payments, tip_height=chain.load_tip_height(db), now=now)


def freeze_past(db: Database, policies: Mapping[str, Policy], fork_height: int) -> None:
    """Record by name what was of the past for subscriptions that were made above a fork; before the reorg is followed.

    By height alone a new payment that lands where an old one could be would be of the past, and an old one that lost
    its block would be new.
    """
    for subscription in subscriptions.load_made_above(db, fork_height):
        assert subscription.scripthash is not None  # it was asked for those with one
        payments = ledger.load_payments(db, subscription.scripthash)
        depth = policies[subscription.dialect].depth_of(subscription)
        entries = payments.entries.values() if payments is not None else ()
        past = [entry.txid for entry in entries if subscription.is_past(entry, confirmations=depth)]
        subscriptions.save_past(db, subscription.subscription_id, past, since_height=fork_height)


def end_expired(db: Database, policies: Mapping[str, Policy], *, now: float) -> int:
    """End one page of the subscriptions whose time is over; return how many."""
    expired = subscriptions.load_expired(db, now=int(now), limit=WOKEN_PAGE)
    for subscription in expired:
        end_subscription(db, policies, subscription, SubscriptionState.EXPIRED, now=now)
    return len(expired)


def end_subscription(
    db: Database, policies: Mapping[str, Policy], subscription: Subscription, state: SubscriptionState, *, now: float
) -> None:
    """End a subscription; its script is let go of once nothing that was seen before can still be told."""
    subscriptions.save_end(db, subscription.subscription_id, state, now=int(now))
    ended = subscriptions.load_subscription(db, subscription.subscription_id)
    assert ended is not None
    payments = None if ended.scripthash is None else ledger.load_payments(db, ended.scripthash)
    if payments is None:
        subscriptions.release(db, ended)
    else:
        review_subscription(db, policies, ended, payments, tip_height=chain.load_tip_height(db), now=now)


def drop_subscription(db: Database, subscription: Subscription, *, now: float) -> None:
    """End a subscription at its owner's wish, so that nothing more is told of it at all."""
    if subscription.state in LIVE:
        subscriptions.save_end(db, subscription.subscription_id, SubscriptionState.CANCELED, now=int(now))
    subscriptions.release(db, subscription)
    outbox.withdraw_messages(db, subscription.subscription_id)


def drop_hook(db: Database, hook: Hook, *, now: float) -> None:
    """Remove a hook with its subscriptions, so that nothing more is told of it at all."""
    for subscription_id in hooks.load_subscription_ids(db, hook.hook_id):
        subscription = subscriptions.load_subscription(db, subscription_id)
        if subscription is not None:
            drop_subscription(db, subscription, now=now)
    hooks.remove_hook(db, hook.hook_id)


def release_ended(db: Database, policies: Mapping[str, Policy], *, after: int, now: float) -> int | None:
    """Let go of the scripts of ended subscriptions about which everything is told; one page of them.

    Args:
        after: a subscription's id: the page begins behind it.

    Returns:
        The id of the last one on a full page; None at the end.
    """
    page = subscriptions.load_lingering(db, after=after, limit=WOKEN_PAGE)
    tip_height = chain.load_tip_height(db)
    for subscription in page:
        payments = None if subscription.scripthash is None else ledger.load_payments(db, subscription.scripthash)
        if payments is not None:
            review_subscription(db, policies, subscription, payments, tip_height=tip_height, now=now)
    return page[-1].subscription_id if len(page) == WOKEN_PAGE else None


def settle_new(db: Database, policies: Mapping[str, Policy], *, now: float) -> tuple[bool, bool]:
    """Record at which tip those subscriptions were made that came before our tip was proved; one page of them.

    Returns:
        Whether a message is due because of it, and whether more of them wait.
    """
    page = subscriptions.load_unsettled(db, limit=WOKEN_PAGE)
    tip_height = chain.load_tip_height(db)
    is_due = False
    heights = {time: chain.load_height_at(db, time) for time in {made.created_at for made in page}}
    for made in page:
        subscriptions.save_since_height(db, made.subscription_id, heights[made.created_at])
        subscription = subscriptions.load_subscription(db, made.subscription_id)
        payments = None if made.scripthash is None else ledger.load_payments(db, made.scripthash)
        if subscription is not None and payments is not None and subscriptions.is_watching(db, made.subscription_id):
            is_due |= review_subscription(db, policies, subscription, payments, tip_height=tip_height, now=now)
    return is_due, len(page) == WOKEN_PAGE
