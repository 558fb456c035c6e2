"""What the blockcypher dialect tells, when, and what counts as heard."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.verifier import Unconfirmed
from lightipn.dialects.blockcypher import wire
from lightipn.dialects.blockcypher.policy import BlockcypherPolicy
from lightipn.dialects.blockcypher.wire import Event, HookTerms, encode_block
from lightipn.ledger.entries import Dropped, LedgerEntry, Replaced, Standing
from lightipn.outbox.messages import MessageState
from lightipn.outbox.policy import Block, BlockPolicy, BlockWish, HookFacts, Moment, Review
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome
from tests.builders import (
    SEEN_AT,
    block_hash_of,
    confirmed,
    entry_of,
    message_of,
    payments_of,
    raw_header,
    subscription_of,
    txid_of,
)
from tests.dialects.blockcypher.keys import private_pem
from tests.store.plain_dialect import SILENCE, answer_of

POLICY = BlockcypherPolicy(network=REGTEST)
TIP = 1000
SINCE = 990
NOW = float(SEEN_AT)
URL = "https://shop.example/hook?order=7"
TX = hex_of(txid_of(1))
BLOCK = hex_of(block_hash_of(TIP))
# Three servers hold it, and nothing is ahead of it: 0.99 is all there is to reach.
GOOD = Standing(vbytes_ahead=0)
KNOWN = entry_of(1, state=Unconfirmed(3))


def subscription(event: Event, **more: int | float) -> Subscription:
    """Return a hook's subscription that was made at height ``SINCE``."""
    plain = subscription_of(wire.encode_terms(HookTerms(event, **more)), url=URL)  # type: ignore[arg-type]
    return replace(plain, dialect="blockcypher", since_height=SINCE, hook_id="h")


def review(
    event: Event,
    *entries: LedgerEntry,
    told: Collection[str] = (),
    tip_height: int = TIP,
    now: float = NOW,
    standing: Standing | None = None,
    **more: int | float,
) -> Review:
    """Review a hook's subscription to these payments; ``told`` are topics that there are messages about."""
    payments = payments_of(*entries)
    if standing is not None:
        payments = replace(payments, standings={entry.txid: standing for entry in entries})
    return POLICY.review(
        subscription(event, **more),
        payments,
        told=dict.fromkeys(told, MessageState.OPEN),
        tip_height=tip_height,
        now=now,
    )


def topics(found: Review) -> list[str]:
    """Return the topics of notices, with the names of the first payment and of its block cut short."""
    return [notice.topic.replace(TX, "tx").replace(BLOCK, "block") for notice in found.notices]


def payload_of(found: Review, index: int = 0) -> wire.WebhookPayload:
    """Return what a new notice says."""
    payload = found.notices[index].payload
    assert payload is not None
    return msgspec.json.decode(payload, type=wire.WebhookPayload)


def test_policy_is_one_of_the_outbox_for_payments_and_blocks() -> None:
    """The policy decides everything that the outbox asks of a dialect that tells blocks too."""
    policy: BlockPolicy = POLICY
    assert isinstance(policy, BlockPolicy)


# --- what every event has in common ------------------------------------------------------------------------------

STATES = {
    Event.UNCONFIRMED: None,
    Event.CONFIRMED: confirmed(TIP),
    Event.CONFIRMATION: confirmed(TIP - 3),
    Event.DOUBLE_SPEND: Replaced(txid_of(9)),
    Event.CONFIDENCE: confirmed(TIP),
}


@pytest.mark.parametrize("event", STATES, ids=lambda event: event.value)
def test_what_was_written_stays(event: Event) -> None:
    """A notice of which there is a message stands without a payload: what it says was written once."""
    entry = replace(entry_of(1, state=STATES[event]), gone_at=SEEN_AT)
    first = review(event, entry)
    assert first.notices
    assert all(notice.payload is not None and notice.txid == entry.txid for notice in first.notices)
    again = review(event, entry, told=[notice.topic for notice in first.notices], now=NOW + 999)
    assert again.notices == tuple(replace(notice, payload=None) for notice in first.notices)


@pytest.mark.parametrize("event", [Event.UNCONFIRMED, Event.CONFIRMED, Event.CONFIRMATION, Event.CONFIDENCE])
def test_what_is_gone_or_of_the_past_is_not_told(event: Event) -> None:
    """A payment that is gone, one that was deep enough before the hook, and one that changed nothing is no notice."""
    entries = [
        entry_of(1, state=Replaced(txid_of(9))),
        entry_of(2, state=Dropped()),
        entry_of(3, state=confirmed(SINCE - 5)),
        entry_of(4, received_sat=7, sent_sat=7, state=confirmed(TIP)),
        entry_of(5, is_coinbase=True),
    ]
    assert review(event, *entries, now=NOW + 100).notices == ()


@pytest.mark.parametrize("event", [Event.UNCONFIRMED, Event.CONFIRMED, Event.CONFIRMATION, Event.CONFIDENCE])
def test_nothing_is_told_before_our_tip_was_proved(event: Event) -> None:
    """Until it is known at which tip the hook was made nobody knows what is of the past."""
    made = replace(subscription(event), since_height=None)
    payments = payments_of(entry_of(1), entry_of(2, state=confirmed(TIP)))
    assert POLICY.review(made, payments, told={}, tip_height=TIP, now=NOW + 100).notices == ()


def test_payment_out_of_the_address_is_told_with_its_sign() -> None:
    """``value`` is the net: negative where the address paid."""
    found = review(Event.UNCONFIRMED, entry_of(1, received_sat=30, sent_sat=100))
    assert payload_of(found).value == -70


# --- unconfirmed-tx ----------------------------------------------------------------------------------------------


def test_unconfirmed_payment_is_told_once() -> None:
    """A payment outside a block is one notice; it stays one when a block holds it, and when that block is gone."""
    found = review(Event.UNCONFIRMED, entry_of(1, state=Unconfirmed(2)), standing=GOOD)
    assert topics(found) == ["tx"]
    assert payload_of(found) == wire.WebhookPayload(
        txid=TX, value=100_000, received_at=SEEN_AT, confirmations=0, confidence=0.76, seen_by=2
    )
    for state in (confirmed(TIP), confirmed(TIP, branch=1), None):
        assert topics(review(Event.UNCONFIRMED, entry_of(1, state=state), told=[TX])) == ["tx"]
    assert review(Event.UNCONFIRMED, entry_of(1, state=Dropped()), told=[TX]).notices == ()


def test_payment_that_was_first_seen_in_a_block_was_never_unconfirmed() -> None:
    """What nobody saw outside a block is no ``unconfirmed-tx``."""
    assert review(Event.UNCONFIRMED, entry_of(1, state=confirmed(TIP))).notices == ()


# --- confirmed-tx ------------------------------------------------------------------------------------------------


def test_confirmed_payment_is_told_once_for_each_block() -> None:
    """Each block that a payment was in is one notice; back in the first block it is that one again."""
    first, second = confirmed(TIP), confirmed(TIP, branch=1)
    found = review(Event.CONFIRMED, entry_of(1, state=first))
    assert topics(found) == ["tx:block"]
    assert payload_of(found) == wire.WebhookPayload(
        txid=TX,
        value=100_000,
        received_at=SEEN_AT,
        confirmations=1,
        confidence=1.0,
        block_hash=BLOCK,
        block_height=TIP,
        block_index=1,
    )
    other = review(Event.CONFIRMED, entry_of(1, state=second), told=[f"{TX}:{BLOCK}"])
    assert topics(other) == [f"tx:{hex_of(second.block_hash)}"]
    assert payload_of(other).block_hash == hex_of(second.block_hash)
    back = review(Event.CONFIRMED, entry_of(1, state=first), told=[f"{TX}:{BLOCK}", other.notices[0].topic])
    assert [(notice.topic, notice.payload) for notice in back.notices] == [(f"{TX}:{BLOCK}", None)]


def test_reverted_payment_is_not_confirmed() -> None:
    """Back in the mempool there is nothing to tell."""
    assert review(Event.CONFIRMED, entry_of(1), told=[f"{TX}:{BLOCK}"]).notices == ()


def test_confirmed_payment_says_how_deep_it_is_when_it_is_told() -> None:
    """Blocks that came together are one tip: the payment is as deep as it is."""
    found = review(Event.CONFIRMED, entry_of(1, state=confirmed(TIP - 2)))
    assert payload_of(found).confirmations == 3
    assert found.wake_height is None


# --- tx-confirmation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "told", "confirmations", "wanted"),
    [
        pytest.param(None, [], 6, ["tx:0"], id="unconfirmed"),
        pytest.param(1, ["0"], 6, ["tx:0", "tx:block:1"], id="first block"),
        pytest.param(1, [], 6, ["tx:block:1"], id="first seen in a block"),
        pytest.param(3, ["0"], 6, ["tx:0", "tx:block:1", "tx:block:2", "tx:block:3"], id="three blocks at once"),
        pytest.param(3, [], 6, ["tx:block:1", "tx:block:2", "tx:block:3"], id="first seen three deep"),
        pytest.param(3, ["0"], 3, ["tx:0", "tx:block:1", "tx:block:2", "tx:block:3"], id="all of three"),
        pytest.param(4, ["0"], 3, ["tx:0", "tx:block:1", "tx:block:2", "tx:block:3"], id="deeper than asked"),
        pytest.param(2, [], 1, ["tx:block:1"], id="one is asked"),
        pytest.param(11, [], 10, [f"tx:block:{number}" for number in range(1, 11)], id="ten are asked"),
    ],
)
def test_every_number_is_told_in_order(
    depth: int | None, told: Sequence[str], confirmations: int, wanted: list[str]
) -> None:
    """Each depth up to the asked one is a notice, in order and without gaps; 0 only where it was seen outside."""
    state = None if depth is None else confirmed(TIP)
    found = review(
        Event.CONFIRMATION,
        entry_of(1, state=state),
        told=[f"{TX}:{one}" for one in told],
        tip_height=TIP + (depth or 1) - 1,
        confirmations=confirmations,
    )
    assert topics(found) == wanted
    is_done = depth is not None and depth >= confirmations
    assert (found.wake_height, found.awaits_more) == ((None, False) if is_done else (TIP + (depth or 1), True))


def test_each_number_says_itself() -> None:
    """Notices of coalesced blocks say their own number each, not the depth that is reached."""
    found = review(Event.CONFIRMATION, entry_of(1, state=confirmed(TIP - 4)), confirmations=4)
    payloads = [payload_of(found, index) for index in range(4)]
    assert [payload.confirmations for payload in payloads] == [1, 2, 3, 4]
    assert {(payload.block_hash, payload.block_height) for payload in payloads} == {
        (hex_of(block_hash_of(TIP - 4)), TIP - 4)
    }


def test_counting_begins_anew_in_another_block() -> None:
    """After a reorg the numbers are told again, of the new block; the 0 that was told is not told again."""
    told = [f"{TX}:0", f"{TX}:{BLOCK}:1", f"{TX}:{BLOCK}:2"]
    other = confirmed(TIP, branch=1)
    outside = review(Event.CONFIRMATION, entry_of(1), told=told)
    assert [(notice.topic, notice.payload) for notice in outside.notices] == [(f"{TX}:0", None)]
    inside = review(Event.CONFIRMATION, entry_of(1, state=other), told=told, tip_height=TIP + 1)
    name = hex_of(other.block_hash)
    assert topics(inside) == ["tx:0", f"tx:{name}:1", f"tx:{name}:2"]
    assert [notice.payload is None for notice in inside.notices] == [True, False, False]


def test_payment_below_its_depth_when_the_hook_was_made_is_told() -> None:
    """A payment that was not deep enough yet is told; one that was is of the past."""
    shallow, deep = entry_of(1, state=confirmed(SINCE - 4)), entry_of(2, state=confirmed(SINCE - 5))
    found = review(Event.CONFIRMATION, shallow, deep, tip_height=SINCE + 1)
    assert {notice.txid for notice in found.notices} == {shallow.txid}
    assert [payload_of(found, index).confirmations for index in range(len(found.notices))] == [1, 2, 3, 4, 5, 6]


@settings(deadline=None, max_examples=100)
@given(
    depths=st.lists(st.none() | st.integers(1, 15), min_size=1, max_size=6),
    confirmations=st.integers(1, 10),
)
def test_numbers_have_no_gap_whatever_is_seen(depths: list[int | None], confirmations: int) -> None:
    """Whatever tips are seen, the topics that come are 1, 2, 3 ... in order, each once, and never beyond the limit."""
    told: dict[str, None] = {}
    new: list[int] = []
    for depth in [*[one for one in depths if one is None], *sorted(one for one in depths if one is not None)]:
        state = None if depth is None else confirmed(TIP)
        found = review(
            Event.CONFIRMATION,
            entry_of(1, state=state),
            told=told,
            tip_height=TIP + (depth or 1) - 1,
            confirmations=confirmations,
        )
        new += [int(notice.topic.rpartition(":")[2]) for notice in found.notices if notice.topic not in told]
        told |= dict.fromkeys(notice.topic for notice in found.notices)
    deepest = min(confirmations, max((depth for depth in depths if depth is not None), default=0))
    assert new == list(range(0 if None in depths else 1, deepest + 1))


@pytest.mark.parametrize(
    ("event", "more", "depth"),
    [
        (Event.CONFIRMATION, {}, 6),
        (Event.CONFIRMATION, {"confirmations": 10}, 10),
        (Event.UNCONFIRMED, {}, 1),
        (Event.CONFIRMED, {}, 1),
        (Event.CONFIDENCE, {}, 1),
        (Event.DOUBLE_SPEND, {}, 1),
    ],
)
def test_past_is_what_would_not_be_told_any_more(event: Event, more: dict[str, int], depth: int) -> None:
    """The depth from which on a payment is of the past is the last one that is told of it."""
    assert POLICY.depth_of(subscription(event, **more)) == depth


# --- double-spend-tx ---------------------------------------------------------------------------------------------


def lost(number: int, *, at: int = SEEN_AT, by: int = 9) -> LedgerEntry:
    """Return a payment that was lost to another transaction."""
    return replace(entry_of(number, state=Replaced(txid_of(by))), gone_at=at)


def test_lost_payment_is_told_with_what_replaced_it() -> None:
    """The notice is about the lost payment, and names its rival; another rival is another notice."""
    found = review(Event.DOUBLE_SPEND, lost(1))
    assert topics(found) == [f"tx:{hex_of(txid_of(9))}"]
    assert payload_of(found) == wire.WebhookPayload(
        txid=TX,
        value=100_000,
        received_at=SEEN_AT,
        confirmations=0,
        confidence=0.0,
        replaced_by=hex_of(txid_of(9)),
    )
    assert topics(review(Event.DOUBLE_SPEND, lost(1, by=8), told=topics(found))) == [f"tx:{hex_of(txid_of(8))}"]


def test_only_what_was_lost_since_the_hook_was_made_is_told() -> None:
    """What was lost before is of the past, what was merely dropped or stands is no double spend."""
    entries = [lost(1, at=SEEN_AT - 1), lost(2), replace(entry_of(3, state=Dropped()), gone_at=SEEN_AT), entry_of(4)]
    found = review(Event.DOUBLE_SPEND, *entries, entry_of(5, state=confirmed(TIP)))
    assert [notice.txid for notice in found.notices] == [txid_of(2)]


def test_raised_fee_of_the_address_itself_is_no_double_spend() -> None:
    """What the address itself sends, or keeps, is replaced by its own owner: only lost payments to it are told."""
    sent = replace(lost(1), outputs=((0, 30),), sent_sat=100)
    kept = replace(lost(2), outputs=((0, 100),), sent_sat=100)
    assert review(Event.DOUBLE_SPEND, sent, kept).notices == ()


def test_payment_that_came_back_is_no_double_spend() -> None:
    """If a reorg gives the payment back, nothing is told of its loss any more."""
    assert review(Event.DOUBLE_SPEND, entry_of(1), told=[f"{TX}:{hex_of(txid_of(9))}"]).notices == ()


# --- tx-confidence -----------------------------------------------------------------------------------------------


def test_confidence_is_told_when_the_threshold_is_reached() -> None:
    """Below the threshold the hook is looked at again at the second at which it is reached, and told then."""
    waiting = review(Event.CONFIDENCE, KNOWN, standing=GOOD, confidence=0.9)
    assert (waiting.notices, waiting.wake_at, waiting.awaits_more) == ((), NOW + 12, True)
    assert review(Event.CONFIDENCE, KNOWN, standing=GOOD, confidence=0.9, now=NOW + 11.9).notices == ()
    found = review(Event.CONFIDENCE, KNOWN, standing=GOOD, confidence=0.9, now=NOW + 12)
    assert (topics(found), found.wake_at, found.awaits_more) == (["tx"], None, False)
    assert payload_of(found).confidence == 0.9038


def test_confidence_is_told_at_once_where_it_is_reached_already() -> None:
    """A low threshold is reached when the payment is seen."""
    found = review(Event.CONFIDENCE, KNOWN, standing=GOOD, confidence=0.5)
    assert (topics(found), payload_of(found).confidence, found.wake_at) == (["tx"], 0.792, None)


def test_confidence_is_told_after_a_minute_whatever_it_is() -> None:
    """After one minute it is told below the threshold too: the receiver must look at the number."""
    assert review(Event.CONFIDENCE, KNOWN, now=NOW + 59.9).notices == ()
    assert review(Event.CONFIDENCE, KNOWN, now=NOW + 59.9).wake_at == NOW + 60
    found = review(Event.CONFIDENCE, KNOWN, now=NOW + 60)
    assert topics(found) == ["tx"]
    assert payload_of(found).confidence == 0.7895


def test_contested_payment_is_told_after_the_minute_with_its_low_confidence() -> None:
    """A rival keeps it below any threshold above 0.1, and it is told all the same."""
    contested = replace(GOOD, is_contested=True)
    assert review(Event.CONFIDENCE, KNOWN, standing=contested, confidence=0.11, now=NOW + 30).notices == ()
    found = review(Event.CONFIDENCE, KNOWN, standing=contested, confidence=0.11, now=NOW + 60)
    assert payload_of(found).confidence == 0.1


def test_confirmed_payment_is_certain() -> None:
    """In a block the threshold is reached, before the minute is over."""
    found = review(Event.CONFIDENCE, entry_of(1, state=confirmed(TIP)))
    assert (payload_of(found).confidence, payload_of(found).confirmations) == (1.0, 1)


def test_confidence_is_told_once() -> None:
    """What was told is not told again, in whatever block the payment is later."""
    for state in (Unconfirmed(1), confirmed(TIP), confirmed(TIP, branch=1)):
        found = review(Event.CONFIDENCE, entry_of(1, state=state), told=[TX])
        assert [(notice.topic, notice.payload) for notice in found.notices] == [(TX, None)]
        assert found.wake_at is None


def test_next_look_is_at_the_earliest_of_several_payments() -> None:
    """Of several payments that wait the first one says when the hook is looked at again."""
    later = replace(entry_of(2, state=Unconfirmed(3)), seen_at=SEEN_AT + 7)
    found = review(Event.CONFIDENCE, KNOWN, later, entry_of(3, state=confirmed(TIP)), now=NOW + 8)
    assert [notice.txid for notice in found.notices] == [txid_of(3)]
    assert found.wake_at == NOW + 60


# --- new-block ---------------------------------------------------------------------------------------------------


def test_every_block_is_told_at_once() -> None:
    """A hook about blocks wants each, as soon as it is our tip, and never ends by itself."""
    assert POLICY.block_wish_of(subscription(Event.NEW_BLOCK)) == BlockWish(confirmations=1, is_once=False)


def test_told_block_is_its_height_and_header() -> None:
    """What is kept of a block is enough to write the same body at every attempt."""
    header = parse_header(raw_header(bytes(32), time=SEEN_AT))
    assert POLICY.block_payload_of(Block(height=5, header=header)) == encode_block(Block(height=5, header=header))


# --- attempts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (answer_of(b"", status=200), Outcome.ACKNOWLEDGED),
        (answer_of(b"no", status=204), Outcome.ACKNOWLEDGED),
        (answer_of(b"", status=299), Outcome.ACKNOWLEDGED),
        (answer_of(b"ok", status=302), Outcome.FAILED),
        (answer_of(b"ok", status=404), Outcome.FAILED),
        (answer_of(b"ok", status=410), Outcome.FAILED),
        (answer_of(b"ok", status=500), Outcome.FAILED),
        (SILENCE, Outcome.FAILED),
    ],
)
def test_any_2xx_acknowledges(answer: Answer, outcome: Outcome) -> None:
    """Whatever a 2xx says, the webhook was heard; anything else failed."""
    assert POLICY.outcome_of(b"{}", answer) is outcome


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_first_retries_come_at_exact_times(jitter: float) -> None:
    """The first five retries come after exactly 1, 2, 4, 8 and 16 s, as the original's do."""
    pauses = [POLICY.next_try(message_of(b"", tries=tries), SILENCE, jitter=jitter) for tries in range(1, 6)]
    assert [pause.after_s for pause in pauses] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert not any(pause.with_next_tip for pause in pauses)


def test_later_retries_double_up_to_an_hour_for_ever() -> None:
    """Behind the quick ones the pause doubles up to one hour and stays there; it is never given up."""
    pauses = [POLICY.next_try(message_of(b"", tries=tries), SILENCE, jitter=0.0).after_s for tries in range(6, 16)]
    assert pauses == [32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 3600.0, 3600.0, 3600.0]
    assert POLICY.next_try(message_of(b"", tries=100_000), SILENCE, jitter=0.9).after_s == 3600.0


@given(jitter=st.floats(0, 1, exclude_max=True))
def test_pauses_never_shrink(jitter: float) -> None:
    """However the jitter falls, no pause is shorter than the one before, and none is longer than an hour."""
    pauses = [POLICY.next_try(message_of(b"", tries=tries), SILENCE, jitter=jitter).after_s for tries in range(1, 30)]
    assert all(0 < pause <= 3600.0 for pause in pauses if pause is not None)
    assert all(before <= after for before, after in pairwise(pause or 0.0 for pause in pauses))


def moment(now: float, last_body: bytes | None = None) -> Moment:
    """Return a moment at which an attempt is made."""
    facts = HookFacts(
        hook_id="h",
        private_key=private_pem(),
        is_own_key=False,
        last_body=last_body,
        transaction=None,
        block_time=None,
    )
    return Moment(now=now, tip_height=TIP, confirmations=0, last_tried_at=None, hook=facts)


def test_retry_says_what_was_said_before_with_a_new_date_and_new_signatures() -> None:
    """The body of a retry is the one that was sent; date and request signature are of the attempt."""
    made = subscription(Event.UNCONFIRMED)
    payload = review(Event.UNCONFIRMED, entry_of(1)).notices[0].payload
    assert payload is not None
    first = POLICY.request_of(made, message_of(payload), moment(NOW))
    again = POLICY.request_of(made, message_of(payload, tries=1), moment(NOW + 1, first.body))
    assert (first.method, first.url, again.url) == ("POST", URL, URL)
    assert again.body == first.body
    changed = {name for name in first.headers if first.headers[name] != again.headers[name]}
    assert changed == {"Date", "Signature"}
    assert POLICY.request_of(made, message_of(payload), moment(NOW + 1, b"{}")).body == b"{}"
