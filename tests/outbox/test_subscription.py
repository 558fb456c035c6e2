"""What a subscription is about: which payments are told, and until when."""

from dataclasses import replace

import pytest

from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Dropped, PaymentState, Replaced
from lightipn.outbox.subscriptions import LIVE, Subscription, SubscriptionState
from tests.builders import SEEN_AT, confirmed, entry_of, payments_of, subscription_of, txid_of

ACTIVE = SubscriptionState.ACTIVE
EXPIRED = SubscriptionState.EXPIRED


def made_at(tip_height: int | None) -> Subscription:
    """Return a subscription that was made when our tip was there."""
    return replace(subscription_of(b"1"), since_height=tip_height)


@pytest.mark.parametrize(
    ("expires_at", "now", "state"),
    [
        pytest.param(None, 10**12, ACTIVE, id="never"),
        pytest.param(SEEN_AT, SEEN_AT - 0.001, ACTIVE, id="a moment before"),
        pytest.param(SEEN_AT, SEEN_AT, EXPIRED, id="in its second"),
        pytest.param(SEEN_AT, SEEN_AT + 9, EXPIRED, id="after it"),
    ],
)
def test_expiry_holds_from_its_second_on(expires_at: int | None, now: float, state: SubscriptionState) -> None:
    """A subscription whose time is over is expired, though nobody noticed yet."""
    assert replace(subscription_of(b"1"), expires_at=expires_at).state_at(now) is state


@pytest.mark.parametrize("state", list(SubscriptionState))
def test_subscription_ends_once(state: SubscriptionState) -> None:
    """What was canceled or finished does not become expired; what is live does, also while it is suspended."""
    over = replace(subscription_of(b"1"), state=state, expires_at=SEEN_AT)
    assert over.state_at(SEEN_AT) is (EXPIRED if state in LIVE else state)


@pytest.mark.parametrize(
    ("state", "is_told"),
    [
        pytest.param(Unconfirmed(), True, id="unconfirmed"),
        pytest.param(confirmed(901), True, id="in a block above"),
        pytest.param(confirmed(900), False, id="in the tip that was there"),
        pytest.param(confirmed(1), False, id="long ago"),
        pytest.param(Replaced(txid_of(9)), False, id="replaced"),
        pytest.param(Dropped(), False, id="dropped"),
    ],
)
def test_only_what_is_new_and_stands_is_told(state: PaymentState, is_told: bool) -> None:
    """What had its confirmation when the subscription was made is the past, and what is gone is not told."""
    assert made_at(900).is_about(entry_of(1, state=state), confirmations=1) is is_told


@pytest.mark.parametrize(("height", "is_told"), [(897, False), (898, False), (899, True), (900, True)])
def test_what_is_still_below_its_depth_is_told(height: int, is_told: bool) -> None:
    """At three confirmations a payment two blocks below the tip is the past; one that has two of them is not."""
    assert made_at(900).is_about(entry_of(1, state=confirmed(height)), confirmations=3) is is_told


def test_nothing_is_told_before_our_tip_is_proved() -> None:
    """Nobody knows what is new while the tip at which the subscription was made is not known."""
    assert not made_at(None).is_about(entry_of(1), confirmations=1)
    assert not made_at(None).is_about(entry_of(1, state=confirmed(10**6)), confirmations=1)


def test_payment_that_moves_nothing_is_not_told() -> None:
    """A transaction that pays back exactly what it spends is no payment; one that spends more is one."""
    assert not made_at(900).is_about(entry_of(1, received_sat=70, sent_sat=70), confirmations=1)
    assert made_at(900).is_about(entry_of(1, received_sat=70, sent_sat=90), confirmations=1)


def test_mined_coins_exist_in_their_block_alone() -> None:
    """A coinbase payment whose block left the chain is not told as an unconfirmed one."""
    assert not made_at(900).is_about(entry_of(1, is_coinbase=True), confirmations=1)
    assert made_at(900).is_about(entry_of(1, is_coinbase=True, state=confirmed(901)), confirmations=1)


@pytest.mark.parametrize(("height", "is_told"), [(801, False), (802, True)])
def test_mined_coins_count_at_a_hundred(height: int, is_told: bool) -> None:
    """Mined coins that were a hundred deep when the subscription was made are the past, whatever depth it asks for."""
    mined = entry_of(1, is_coinbase=True, state=confirmed(height))
    assert made_at(900).is_about(mined, confirmations=1) is is_told


@pytest.mark.parametrize(("end_at", "is_told"), [(SEEN_AT, False), (SEEN_AT + 1, True), (None, True)])
def test_payment_seen_before_the_expiry_is_told(end_at: int | None, is_told: bool) -> None:
    """What was seen before the second of the expiry is told, however late it gets its depth; what came later is not."""
    entry = entry_of(1, state=confirmed(2000))
    assert replace(made_at(900), expires_at=end_at).is_about(entry, confirmations=6) is is_told


@pytest.mark.parametrize(("last_seen_at", "is_told"), [(SEEN_AT - 1, False), (SEEN_AT, True), (None, True)])
def test_payment_seen_before_the_end_is_told(last_seen_at: int | None, is_told: bool) -> None:
    """What was seen by the last payment before the end is told, however late it gets its depth."""
    entry = entry_of(1, state=confirmed(2000))
    ended = replace(made_at(900), ended_at=SEEN_AT, last_seen_at=last_seen_at)
    assert ended.is_about(entry, confirmations=6) is is_told


def test_earlier_end_counts() -> None:
    """A subscription that was canceled before its time was over ended then."""
    canceled = replace(made_at(900), expires_at=SEEN_AT + 100, last_seen_at=SEEN_AT - 1)
    assert not canceled.is_about(entry_of(1), confirmations=1)


def test_payments_that_are_told_are_found_among_all() -> None:
    """Of a script's payments those are told that the subscription is about."""
    new, old, gone = (
        entry_of(1),
        entry_of(2, state=confirmed(900)),
        entry_of(3, state=Dropped()),
    )
    assert list(made_at(900).payments_of(payments_of(old, new, gone), confirmations=1)) == [new]
