"""The life of a message: newer contents, attempts, acknowledgements.

Payloads are one letter here; ``0`` is the dialect's baseline, which counts as heard before anything was told.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.outbox.messages import Message, SubscriptionState
from lightipn.outbox.verdict import Outcome
from tests.builders import message_of

NOW = 1000.0
RETRY_S = 5.0
NOT_HEARD = [Outcome.NOT_ACKNOWLEDGED, Outcome.FAILED, Outcome.INTERRUPTED]


def attempted(message: Message, sent_payload: bytes, outcome: Outcome, *, now: float = NOW) -> Message:
    """Return the message after the end of an attempt; the next one comes in five seconds if there must be one."""
    return message.after_attempt(sent_payload, outcome, now=now, retry_after_s=RETRY_S)


def test_states_of_a_subscription_are_stable() -> None:
    """The names of the states are stored, so they never change."""
    assert [state.value for state in SubscriptionState] == ["active", "suspended"]


# --- newer contents ----------------------------------------------------------------------------------------------


def test_newer_contents_are_due_at_once() -> None:
    """A message with newer contents than the receiver knows is due now, and its tries start again."""
    waiting = message_of(b"A", tries=7, due_at=NOW + 3000)
    assert waiting.with_payload(b"B", now=NOW) == message_of(b"B", tries=0, due_at=NOW)


def test_same_contents_change_nothing() -> None:
    """Telling the same again neither hastens nor delays the next attempt."""
    waiting = message_of(b"A", tries=7, due_at=NOW + 3000)
    assert waiting.with_payload(b"A", now=NOW) is waiting


def test_contents_that_the_receiver_knows_are_withdrawn() -> None:
    """Going back to what was heard withdraws a message that was never sent."""
    waiting = message_of(b"A", due_at=NOW)
    assert waiting.with_payload(b"0", now=NOW) == message_of(b"0", due_at=None)


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_contents_are_told_again_where_something_else_was_sent(outcome: Outcome) -> None:
    """Going back to what was heard must be told once anything else was sent: the receiver may believe that."""
    sent = attempted(message_of(b"A", due_at=NOW).claimed(), b"A", outcome)
    back = sent.with_payload(b"0", now=NOW + 1)
    assert back == message_of(b"0", is_heard_in_doubt=True, due_at=NOW + 1)
    told = attempted(back.claimed(), b"0", Outcome.ACKNOWLEDGED, now=NOW + 2)
    assert told == message_of(b"0", due_at=None)


def test_message_id_never_changes() -> None:
    """Receivers drop repeats by the id, so neither contents nor attempts change it."""
    message = message_of(b"A", due_at=NOW).with_payload(b"B", now=NOW)
    for outcome in Outcome:
        message = attempted(message.claimed(), b"B", outcome)
        assert message.message_id == "m-1"


# --- attempts ----------------------------------------------------------------------------------------------------


def test_claimed_message_is_in_doubt_before_anything_is_sent() -> None:
    """From the claim on the receiver may believe the new contents, so a crash during the attempt loses nothing."""
    claimed = message_of(b"A", tries=2, due_at=NOW).claimed()
    assert claimed == message_of(b"A", is_heard_in_doubt=True, tries=3, due_at=NOW)


def test_claim_of_what_is_known_raises_no_doubt() -> None:
    """Telling again what was heard leaves the receiver's belief as it is, and keeps a doubt that was there."""
    assert not message_of(b"0", due_at=NOW).claimed().is_heard_in_doubt
    assert message_of(b"0", is_heard_in_doubt=True, due_at=NOW).claimed().is_heard_in_doubt


def test_acknowledgement_ends_the_message() -> None:
    """After an acknowledgement of the newest contents nothing is due, and they count as heard."""
    claimed = message_of(b"A", tries=3, due_at=NOW).claimed()
    assert attempted(claimed, b"A", Outcome.ACKNOWLEDGED) == message_of(b"A", heard_payload=b"A", tries=0, due_at=None)


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_attempt_that_was_not_acknowledged_is_repeated(outcome: Outcome) -> None:
    """Without an acknowledgement the message is due again after the pause, and its tries stay counted."""
    claimed = message_of(b"A", tries=3, due_at=NOW).claimed()
    assert attempted(claimed, b"A", outcome) == message_of(b"A", is_heard_in_doubt=True, tries=4, due_at=NOW + RETRY_S)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_contents_that_changed_under_way_are_due_at_once(outcome: Outcome) -> None:
    """An attempt with older contents is followed by the newest at once, acknowledged or not."""
    newest = message_of(b"A", due_at=NOW).claimed().with_payload(b"B", now=NOW)
    after = attempted(newest, b"A", outcome, now=NOW + 9)
    assert (after.payload, after.due_at) == (b"B", NOW + 9)
    assert after.heard_payload == (b"A" if outcome is Outcome.ACKNOWLEDGED else b"0")


def test_contents_that_went_and_came_back_under_way_are_heard() -> None:
    """Contents that changed and changed back while an attempt told them are acknowledged with it."""
    message = message_of(b"A", due_at=NOW).claimed().with_payload(b"B", now=NOW).with_payload(b"A", now=NOW)
    assert attempted(message, b"A", Outcome.ACKNOWLEDGED) == message_of(b"A", heard_payload=b"A", due_at=None)


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_contents_withdrawn_under_way_are_taken_back(outcome: Outcome) -> None:
    """Going back to what was heard during an attempt stays due: the receiver may have taken the other in."""
    withdrawn = message_of(b"A", due_at=NOW).claimed().with_payload(b"0", now=NOW)
    assert withdrawn.due_at == NOW
    after = attempted(withdrawn, b"A", outcome, now=NOW + 9)
    assert after == message_of(b"0", is_heard_in_doubt=True, due_at=NOW + 9)


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_attempt_itself_raises_the_doubt(outcome: Outcome) -> None:
    """Whatever was sent and not acknowledged leaves a doubt, also where the claim had not been written."""
    after = attempted(message_of(b"0", due_at=None), b"A", outcome, now=NOW + 9)
    assert after == message_of(b"0", is_heard_in_doubt=True, due_at=NOW + 9)


def test_contents_withdrawn_under_way_are_told_when_the_attempt_was_acknowledged() -> None:
    """A receiver that acknowledged contents which no longer hold is told what holds now."""
    withdrawn = message_of(b"A", due_at=NOW).claimed().with_payload(b"0", now=NOW)
    after = attempted(withdrawn, b"A", Outcome.ACKNOWLEDGED, now=NOW + 9)
    assert after == message_of(b"0", heard_payload=b"A", due_at=NOW + 9)


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_repeating_what_is_known_leaves_nothing_to_tell(outcome: Outcome) -> None:
    """An attempt that told what the receiver acknowledged before is not repeated, whatever came of it."""
    heard = message_of(b"A", heard_payload=b"A", due_at=None)
    assert attempted(heard, b"A", outcome) == heard


def test_doubt_ends_with_any_acknowledgement() -> None:
    """Once something is acknowledged, the receiver's belief is known again, and going back to it is no news."""
    doubtful = message_of(b"B", is_heard_in_doubt=True, due_at=NOW)
    heard = attempted(doubtful.claimed(), b"B", Outcome.ACKNOWLEDGED)
    assert not heard.is_heard_in_doubt
    assert heard.with_payload(b"C", now=NOW).with_payload(b"B", now=NOW).due_at is None


# --- laws --------------------------------------------------------------------------------------------------------

PAYLOADS = st.sampled_from([b"0", b"A", b"B"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), PAYLOADS),
        st.tuples(st.just("start"), st.none()),
        st.tuples(st.just("end"), st.sampled_from(Outcome)),
    ),
    max_size=25,
)


@given(STEPS)
@settings(deadline=None, max_examples=100)
def test_message_is_never_silently_lost(steps: list[tuple[str, object]]) -> None:
    """A message is due if, and between attempts only if, the receiver may believe anything else than its contents.

    The model is what the receiver may believe: the start of an attempt adds what it tells, and an acknowledgement
    makes that certain. At most one attempt is under way, and one starts only while something is due.
    """
    message, under_way, beliefs, now = message_of(b"0"), None, {b"0"}, 0.0
    for kind, value in steps:
        now += 1
        match kind, value:
            case "change", bytes(payload):
                message = message.with_payload(payload, now=now)
            case "start", _ if under_way is None and message.due_at is not None:
                under_way = message.payload
                message, beliefs = message.claimed(), beliefs | {under_way}
            case "end", Outcome() as outcome if under_way is not None:
                message = attempted(message, under_way, outcome, now=now)
                beliefs = {under_way} if outcome is Outcome.ACKNOWLEDGED else beliefs
                under_way = None
            case _:
                continue
        if message.payload != message.heard_payload or beliefs != {message.payload}:
            assert message.due_at is not None
        if under_way is None:
            assert (message.due_at is None) == (beliefs == {message.payload})
        assert message.due_at is None or message.due_at <= now + RETRY_S


@given(STEPS)
@settings(deadline=None, max_examples=50)
def test_acknowledging_receiver_hears_the_end_of_every_story(steps: list[tuple[str, object]]) -> None:
    """However wild the story was, two more attempts that are acknowledged leave the receiver with the newest."""
    message, believed = message_of(b"0"), b"0"
    for kind, value in steps:
        if kind == "change":
            assert isinstance(value, bytes)
            message = message.with_payload(value, now=NOW)
        elif isinstance(value, Outcome) and message.due_at is not None:
            believed = message.payload
            message = attempted(message.claimed(), believed, value)
    for _ in range(2):
        if message.due_at is not None:
            believed = message.payload
            message = attempted(message.claimed(), believed, Outcome.ACKNOWLEDGED)
    assert (message.due_at, believed) == (None, message.payload)
