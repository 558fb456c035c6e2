"""Which payments become callbacks, what acknowledges them, and when they are sent again."""

import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.dialects.callback.policy import CallbackPolicy
from lightipn.dialects.callback.wire import NO_TERMS, encode_payload
from lightipn.ledger.entries import Dropped, LedgerEntry, Replaced
from lightipn.outbox.messages import Message, MessageState, NextTry
from lightipn.outbox.policy import Moment, Notice, Policy, Review
from lightipn.outbox.verdict import Answer, Outcome
from tests.builders import SEEN_AT, confirmed, entry_of, message_of, payments_of, subscription_of, txid_of

ADDRESS = "bcrt1qaddress"
URL = "https://shop.example/post/url?order=7"
TIP = 1000
DEPTH = 3
NOW = 1_700_000_000.5
POLICY = CallbackPolicy(retries=3, retry_period_s=120, confirmations=DEPTH, zero_conf=False)
EARLY = replace(POLICY, zero_conf=True)
SUBSCRIPTION = replace(subscription_of(NO_TERMS, address=ADDRESS, url=URL), dialect="callback", since_height=TIP - 10)
OK = Answer(status=200, body=b"", trouble="", latency_ms=1.0)
SILENCE = Answer(status=None, body=b"", trouble="timeout", latency_ms=1.0)


def notice_of(entry: LedgerEntry, confirmations: int = DEPTH) -> Notice:
    """Return what is told of a payment at this depth."""
    return Notice(
        topic=f"{hex_of(entry.txid)}:{'deep' if confirmations else 'seen'}",
        payload=encode_payload(
            entry.txid, amount_sat=entry.net_sat, received_sat=entry.received_sat, sent_sat=entry.sent_sat
        ),
        txid=entry.txid,
    )


def review(
    *entries: LedgerEntry, policy: CallbackPolicy = POLICY, told: Collection[Notice] = (), tip_height: int = TIP
) -> Review:
    """Review the subscription to these payments."""
    states = {notice.topic: MessageState.OPEN for notice in told}
    return policy.review(SUBSCRIPTION, payments_of(*entries), told=states, tip_height=tip_height, now=NOW)


def message(entry: LedgerEntry, confirmations: int = DEPTH, *, tries: int = 1) -> Message:
    """Return a message about a payment; ``tries`` counts the attempt under way."""
    notice = notice_of(entry, confirmations)
    return message_of(notice.payload, topic=notice.topic, txid=entry.txid, tries=tries)


def test_policy_is_one_of_the_outbox() -> None:
    """The callback policy decides everything that the outbox asks of a dialect."""
    policy: Policy = POLICY
    wanted = {name for name in vars(Policy) if not name.startswith("_")}
    assert all(callable(getattr(policy, name)) for name in wanted)


# --- which payments are told -------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [TIP - DEPTH + 1, TIP - DEPTH])
def test_payment_is_told_at_its_depth(height: int) -> None:
    """A payment with three confirmations or more is told; no further block changes that."""
    entry = entry_of(1, state=confirmed(height))
    assert review(entry) == Review(notices=(notice_of(entry),), wake_height=None, awaits_more=False)


def test_payment_below_its_depth_is_waited_for() -> None:
    """A payment in a block waits for the height at which it is deep enough; one in no block for nothing."""
    entries = [entry_of(1, state=confirmed(TIP - 1)), entry_of(2, state=confirmed(TIP)), entry_of(3)]
    assert review(*entries) == Review(notices=(), wake_height=TIP + 1, awaits_more=True)
    assert review(entries[2]) == Review(notices=(), wake_height=None, awaits_more=True)


def test_depth_is_the_configured_one() -> None:
    """The operator says at which depth a payment is told."""
    entry = entry_of(1, state=confirmed(TIP))
    assert review(entry, policy=replace(POLICY, confirmations=1)).notices == (notice_of(entry, 1),)
    assert review(entry, policy=replace(POLICY, confirmations=1000)).wake_height == TIP + 999


def test_what_was_deep_enough_when_subscribed_is_the_past() -> None:
    """Only what was still below its depth when the subscription was made is told."""
    last_deep = SUBSCRIPTION.since_height - DEPTH + 1  # type: ignore[operator]  # it is set above
    old, young = entry_of(1, state=confirmed(last_deep)), entry_of(2, state=confirmed(last_deep + 1))
    assert review(old, young).notices == (notice_of(young),)


def test_told_payment_waits_through_a_reorg() -> None:
    """While a reorg has taken a payment back it is not told; once it is as deep again it is the same notice."""
    deep = entry_of(1, state=confirmed(TIP - 5))
    for after in (replace(deep, state=entry_of(1).state), replace(deep, state=confirmed(TIP, branch=1))):
        found = review(after, told=[notice_of(deep)])
        assert (found.notices, found.awaits_more) == ((), True)
    again = replace(deep, state=confirmed(TIP - 2, branch=1))
    assert review(again, told=[notice_of(deep)]).notices == (notice_of(deep),)


def test_gone_payments_are_not_told() -> None:
    """A replaced or dropped payment is no notice, so a message about it that was not acknowledged is withdrawn."""
    for state in (Replaced(txid_of(9)), Dropped()):
        gone = entry_of(1, state=state)
        for policy in (POLICY, EARLY):
            found = review(gone, policy=policy, told=[notice_of(gone), notice_of(gone, 0)])
            assert found == Review(notices=(), wake_height=None, awaits_more=False)


def test_change_of_nothing_is_not_told() -> None:
    """A transaction that leaves the address with as much as before is no payment."""
    assert review(entry_of(1, received_sat=70, sent_sat=70, state=confirmed(TIP - 5))).notices == ()


def test_payments_after_the_end_are_not_told_but_those_before_are() -> None:
    """What was seen before the expiry or the cancel is told when it reaches its depth; what came later is not."""
    entries = [
        replace(entry_of(1, state=confirmed(TIP - 5)), seen_at=SEEN_AT + 10),
        replace(entry_of(2, state=confirmed(TIP - 5)), seen_at=SEEN_AT + 11),
    ]
    for ended in (replace(SUBSCRIPTION, expires_at=SEEN_AT + 11), replace(SUBSCRIPTION, last_seen_at=SEEN_AT + 10)):
        found = POLICY.review(ended, payments_of(*entries), told={}, tip_height=TIP, now=NOW)
        assert found.notices == (notice_of(entries[0]),)


# --- zero_conf ---------------------------------------------------------------------------------------------------


def test_unconfirmed_payment_is_told_with_zero_conf_alone() -> None:
    """Before any block a payment is told only where the operator wants that."""
    entry = entry_of(1)
    assert review(entry).notices == ()
    assert review(entry, policy=EARLY).notices == (notice_of(entry, 0),)


def test_both_callbacks_of_a_payment_have_their_turn() -> None:
    """The early callback stands until the payment is deep enough; then the deep one takes its place."""
    early = notice_of(entry_of(1), 0)
    shallow, deep = entry_of(1, state=confirmed(TIP)), entry_of(1, state=confirmed(TIP - 2))
    assert review(shallow, policy=EARLY, told=[early]).notices == (early,)
    assert review(deep, policy=EARLY, told=[early]).notices == (notice_of(deep),)


def test_payment_that_was_first_seen_in_a_block_is_told_once() -> None:
    """There is no callback with 0 confirmations for a payment that has some."""
    assert review(entry_of(1, state=confirmed(TIP)), policy=EARLY).notices == ()


def test_reorg_after_the_deep_callback_does_not_bring_the_early_one() -> None:
    """Once a payment was told as deep, a reorg that takes it back calls nobody with 0 confirmations."""
    entry = entry_of(1)
    deep, early = notice_of(entry), notice_of(entry, 0)
    assert review(entry, policy=EARLY, told=[deep]).notices == ()
    assert review(entry, policy=EARLY, told=[deep, early]).notices == ()


# --- the request -------------------------------------------------------------------------------------------------


def sent(shown: Message, *, policy: CallbackPolicy = POLICY, last_tried_at: float | None = None) -> Any:
    """Render an attempt, check its envelope, and return its JSON."""
    moment = Moment(now=SEEN_AT, tip_height=TIP, confirmations=3, last_tried_at=last_tried_at)
    request = policy.request_of(SUBSCRIPTION, shown, moment)
    assert (request.method, request.url) == ("POST", URL)
    assert request.headers == {"Content-Type": "application/json"}
    return json.loads(request.body)


def test_request_is_the_json_of_the_document() -> None:
    """The callback is a JSON POST with the document's fields, the address' net, and its two sides beside."""
    entry = entry_of(1, received_sat=30_000, sent_sat=50_000)
    assert sent(message(entry)) == {
        "id": "m-1",
        "subscription": {"id": 1, "address": ADDRESS},
        "created": "2023-11-14T22:13:20",
        "txid": hex_of(entry.txid),
        "address": ADDRESS,
        "amount": -20_000,
        "received": 30_000,
        "sent": 50_000,
        "retries": 3,
        "last_retry": None,
        "acknowledged": False,
    }


def test_retries_count_the_sends_that_are_left() -> None:
    """Four sends say 3, 2, 1, 0, and when the one before was."""
    shown = [sent(message(entry_of(1), tries=tries), last_tried_at=SEEN_AT + 0.9) for tries in (1, 2, 3, 4)]
    assert [body["retries"] for body in shown] == [3, 2, 1, 0]
    assert {body["last_retry"] for body in shown} == {"2023-11-14T22:13:20"}


def test_confirmations_are_said_with_zero_conf_alone() -> None:
    """Where a payment is told twice, the body says which of both it is: 0 or the configured depth."""
    entry = entry_of(1)
    assert "confirmations" not in sent(message(entry))
    assert sent(message(entry, 0), policy=EARLY)["confirmations"] == 0
    assert sent(message(entry), policy=EARLY)["confirmations"] == DEPTH


# --- what acknowledges, and when it is sent again ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        pytest.param(200, Outcome.NOT_ACKNOWLEDGED, id="200"),
        pytest.param(202, Outcome.NOT_ACKNOWLEDGED, id="202"),
        pytest.param(302, Outcome.FAILED, id="302"),
        pytest.param(403, Outcome.FAILED, id="403"),
        pytest.param(500, Outcome.FAILED, id="500"),
        pytest.param(None, Outcome.FAILED, id="no answer"),
    ],
)
def test_no_answer_acknowledges(status: int | None, outcome: Outcome) -> None:
    """An answer, whatever it says, is no acknowledgement: that is a PATCH."""
    for body in (b"", b"ok", b"*ok*", b'{"acknowledged": true}'):
        answer = Answer(status=status, body=body, trouble="", latency_ms=1.0)
        assert POLICY.outcome_of(b"{}", answer) is outcome


@pytest.mark.parametrize("answer", [OK, SILENCE, replace(OK, status=500)])
def test_retries_come_at_a_constant_pause_until_they_are_used_up(answer: Answer) -> None:
    """Whatever the answer, three retries follow the first send, each after the same pause, and then none."""
    pauses = [POLICY.next_try(message(entry_of(1), tries=tries), answer, jitter=0.9) for tries in (1, 2, 3, 4, 5)]
    assert pauses == [*[NextTry(after_s=120)] * 3, NextTry(), NextTry()]


def test_no_retries_means_one_send() -> None:
    """An operator who wants no retries has each callback sent once."""
    policy = replace(POLICY, retries=0)
    assert sent(message(entry_of(1)), policy=policy)["retries"] == 0
    assert policy.next_try(message(entry_of(1)), OK, jitter=0.0) == NextTry()


def test_acknowledged_message_shows_so() -> None:
    """A callback says whether it was acknowledged."""
    done = replace(message(entry_of(1)), state=MessageState.ACKNOWLEDGED)
    assert POLICY.shown(SUBSCRIPTION, done, last_tried_at=None).acknowledged is True


def test_nothing_counts_as_known_before() -> None:
    """Every notice is news: the baseline equals none of them."""
    assert POLICY.baseline_of(SUBSCRIPTION) != notice_of(entry_of(1)).payload
