"""The life of a message: newer contents, attempts, acknowledgements, and what takes it back.

Payloads are one letter here; ``0`` is the dialect's baseline, which counts as heard before anything was told.
"""

from dataclasses import replace

import pytest

from lightipn.outbox.messages import Message, MessageState, NextTry
from lightipn.outbox.subscriptions import SubscriptionState
from lightipn.outbox.verdict import Outcome
from tests.builders import message_of

NOW = 1000.0
RETRY_S = 5.0
TIP_NUMBER = 7
NOT_HEARD = [Outcome.NOT_ACKNOWLEDGED, Outcome.FAILED, Outcome.INTERRUPTED]
ACKNOWLEDGED = MessageState.ACKNOWLEDGED
WITHDRAWN = MessageState.WITHDRAWN
AFTER_A_PAUSE = NextTry(after_s=RETRY_S)
WITH_THE_TIP = NextTry(with_next_tip=True)
NEVER = NextTry()


def claimed(message: Message, *, tip_number: int = TIP_NUMBER) -> Message:
    """Return the message while an attempt tells it."""
    return message.claimed(tip_number=tip_number)


def attempted(
    message: Message, sent_payload: bytes, outcome: Outcome, *, now: float = NOW, then: NextTry = AFTER_A_PAUSE
) -> Message:
    """Return the message after the end of an attempt; the next one comes in five seconds if there must be one."""
    return message.after_attempt(sent_payload, outcome, now=now, then=then)


def heard(payload: bytes, *, at: float = NOW, tries: int = 0) -> Message:
    """Return a message that was acknowledged after its one tip."""
    return message_of(
        payload,
        heard_payload=payload,
        state=ACKNOWLEDGED,
        acknowledged_at=int(at),
        tries=tries,
        tips=1,
        told_tip=TIP_NUMBER,
    )


def test_states_of_a_subscription_are_stable() -> None:
    """The names of the states are stored, so they never change."""
    names = ["active", "suspended", "canceled", "expired", "finished"]
    assert [state.value for state in SubscriptionState] == names


def test_states_of_a_message_are_stable() -> None:
    """The names of the states are stored, so they never change."""
    assert [state.value for state in MessageState] == ["open", "acknowledged", "withdrawn", "dead"]


# --- newer contents ----------------------------------------------------------------------------------------------


def test_newer_contents_are_due_at_once() -> None:
    """A message with newer contents than the receiver knows is due now, and its tries start again."""
    waiting = message_of(b"A", tries=7, due_at=NOW + 3000, due_tip=9)
    assert waiting.with_payload(b"B", now=NOW) == message_of(b"B", tries=0, due_at=NOW)


@pytest.mark.parametrize("state", [ACKNOWLEDGED, WITHDRAWN, MessageState.DEAD])
def test_newer_contents_open_any_message(state: MessageState) -> None:
    """News is told, whatever became of what was told before."""
    ended = message_of(b"A", heard_payload=b"A", state=state, tries=7, acknowledged_at=900)
    assert ended.with_payload(b"B", now=NOW) == message_of(b"B", heard_payload=b"A", due_at=NOW)


def test_same_contents_change_nothing() -> None:
    """Telling the same again neither hastens nor delays the next attempt."""
    waiting = message_of(b"A", tries=7, due_at=NOW + 3000)
    assert waiting.with_payload(b"A", now=NOW) is waiting


def test_contents_that_the_receiver_knows_are_withdrawn() -> None:
    """Going back to what was heard withdraws a message that was never sent."""
    waiting = message_of(b"A", due_at=NOW, due_tip=8)
    assert waiting.with_payload(b"0", now=NOW) == message_of(b"0", state=ACKNOWLEDGED)


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_contents_are_told_again_where_something_else_was_sent(outcome: Outcome) -> None:
    """Going back to what was heard must be told once anything else was sent: the receiver may believe that."""
    sent = attempted(claimed(message_of(b"A", due_at=NOW)), b"A", outcome)
    back = sent.with_payload(b"0", now=NOW + 1)
    doubtful = message_of(b"0", is_heard_in_doubt=True, due_at=NOW + 1, tips=1, told_tip=TIP_NUMBER)
    assert back == replace(doubtful, failures=int(outcome is Outcome.FAILED))
    told = attempted(claimed(back), b"0", Outcome.ACKNOWLEDGED, now=NOW + 2)
    assert told == heard(b"0", at=NOW + 2)


def test_message_id_never_changes() -> None:
    """Receivers drop repeats by the id, so neither contents nor attempts change it, nor anything else."""
    message = message_of(b"A", due_at=NOW).with_payload(b"B", now=NOW)
    for outcome in Outcome:
        message = attempted(claimed(message), b"B", outcome)
        assert message.message_id == "m-1"
    for changed in (message.withdrawn(), message.restored(now=NOW), message.acknowledged(now=NOW)):
        assert changed.message_id == "m-1"


# --- attempts ----------------------------------------------------------------------------------------------------


def test_claimed_message_is_in_doubt_before_anything_is_sent() -> None:
    """From the claim on the receiver may believe the new contents, so a crash during the attempt loses nothing."""
    expected = message_of(b"A", is_heard_in_doubt=True, tries=3, due_at=NOW, tips=1, told_tip=TIP_NUMBER)
    assert claimed(message_of(b"A", tries=2, due_at=NOW)) == expected


def test_claim_of_what_is_known_raises_no_doubt() -> None:
    """Telling again what was heard leaves the receiver's belief as it is, and keeps a doubt that was there."""
    assert not claimed(message_of(b"0", due_at=NOW)).is_heard_in_doubt
    assert claimed(message_of(b"0", is_heard_in_doubt=True, due_at=NOW)).is_heard_in_doubt


def test_acknowledgement_ends_the_message() -> None:
    """After an acknowledgement of the newest contents nothing is due, and they count as heard."""
    under_way = claimed(message_of(b"A", tries=3, failures=3, due_at=NOW, due_tip=TIP_NUMBER))
    assert attempted(under_way, b"A", Outcome.ACKNOWLEDGED, now=NOW + 0.9) == heard(b"A")


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_attempt_that_was_not_acknowledged_is_repeated(outcome: Outcome) -> None:
    """Without an acknowledgement the message is due again after the pause, and its tries stay counted."""
    under_way = claimed(message_of(b"A", tries=3, due_at=NOW))
    after = attempted(under_way, b"A", outcome)
    failures = int(outcome is Outcome.FAILED)
    assert after == replace(under_way, tries=4, is_heard_in_doubt=True, due_at=NOW + RETRY_S, failures=failures)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_contents_that_changed_under_way_are_due_at_once(outcome: Outcome) -> None:
    """An attempt with older contents is followed by the newest at once, acknowledged or not."""
    newest = claimed(message_of(b"A", due_at=NOW)).with_payload(b"B", now=NOW)
    after = attempted(newest, b"A", outcome, now=NOW + 9)
    assert (after.state, after.payload, after.due_at) == (MessageState.OPEN, b"B", NOW + 9)
    assert after.heard_payload == (b"A" if outcome is Outcome.ACKNOWLEDGED else b"0")
    assert after.acknowledged_at is None


def test_contents_that_went_and_came_back_under_way_are_heard() -> None:
    """Contents that changed and changed back while an attempt told them are acknowledged with it."""
    message = claimed(message_of(b"A", due_at=NOW)).with_payload(b"B", now=NOW).with_payload(b"A", now=NOW)
    assert attempted(message, b"A", Outcome.ACKNOWLEDGED) == heard(b"A")


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_contents_withdrawn_under_way_are_taken_back(outcome: Outcome) -> None:
    """Going back to what was heard during an attempt stays due: the receiver may have taken the other in."""
    back = claimed(message_of(b"A", due_at=NOW)).with_payload(b"0", now=NOW)
    assert back.due_at == NOW
    after = attempted(back, b"A", outcome, now=NOW + 9)
    assert after == replace(back, due_at=NOW + 9, failures=int(outcome is Outcome.FAILED))
    assert (after.state, after.is_heard_in_doubt) == (MessageState.OPEN, True)


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_attempt_itself_raises_the_doubt(outcome: Outcome) -> None:
    """Whatever was sent and not acknowledged leaves a doubt, also where the claim had not been written."""
    after = attempted(message_of(b"0", due_at=NOW), b"A", outcome, now=NOW + 9)
    failures = int(outcome is Outcome.FAILED)
    assert after == message_of(b"0", is_heard_in_doubt=True, due_at=NOW + 9, failures=failures)


def test_contents_withdrawn_under_way_are_told_when_the_attempt_was_acknowledged() -> None:
    """A receiver that acknowledged contents which no longer hold is told what holds now."""
    back = claimed(message_of(b"A", due_at=NOW)).with_payload(b"0", now=NOW)
    after = attempted(back, b"A", Outcome.ACKNOWLEDGED, now=NOW + 9)
    assert after == message_of(b"0", heard_payload=b"A", due_at=NOW + 9, tips=1, told_tip=TIP_NUMBER)


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_repeating_what_is_known_leaves_nothing_to_tell(outcome: Outcome) -> None:
    """An attempt that told what the receiver acknowledged before is not repeated, whatever came of it."""
    known = heard(b"A")
    after = attempted(replace(known, due_at=NOW), b"A", outcome)
    assert after == replace(known, failures=int(outcome is Outcome.FAILED))


def test_doubt_ends_with_any_acknowledgement() -> None:
    """Once something is acknowledged, the receiver's belief is known again, and going back to it is no news."""
    doubtful = message_of(b"B", is_heard_in_doubt=True, due_at=NOW)
    told = attempted(claimed(doubtful), b"B", Outcome.ACKNOWLEDGED)
    assert not told.is_heard_in_doubt
    assert told.with_payload(b"C", now=NOW).with_payload(b"B", now=NOW).due_at is None


def test_failures_count_what_failed_in_a_row() -> None:
    """A failed attempt counts towards the shop's health; any 2xx ends the row, also one that acknowledges nothing."""
    message = claimed(message_of(b"A", due_at=NOW))
    rows = []
    for outcome in (Outcome.FAILED, Outcome.FAILED, Outcome.NOT_ACKNOWLEDGED, Outcome.FAILED, Outcome.ACKNOWLEDGED):
        message = attempted(claimed(message), b"A", outcome)
        rows.append(message.failures)
    assert rows == [1, 2, 0, 1, 0]


# --- what comes next ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "due_at", "due_tip"),
    [
        pytest.param(AFTER_A_PAUSE, NOW + RETRY_S, None, id="after a pause"),
        pytest.param(WITH_THE_TIP, None, TIP_NUMBER + 1, id="with the next tip"),
        pytest.param(NextTry(after_s=9, with_next_tip=True), NOW + 9, TIP_NUMBER + 1, id="at the earlier of both"),
        pytest.param(NextTry(after_s=0), NOW, None, id="at once"),
    ],
)
def test_message_waits_as_its_dialect_says(then: NextTry, due_at: float | None, due_tip: int | None) -> None:
    """A message that was not acknowledged waits for the clock, for the tip after its last one, or for both."""
    after = attempted(claimed(message_of(b"A", due_at=NOW - 3)), b"A", Outcome.NOT_ACKNOWLEDGED, then=then)
    assert (after.state, after.due_at, after.due_tip) == (MessageState.OPEN, due_at, due_tip)


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_message_that_its_dialect_gives_up_is_dead(outcome: Outcome) -> None:
    """Where there is no next try nothing is due any more, and the message does not count as heard."""
    after = attempted(claimed(message_of(b"A", due_at=NOW)), b"A", outcome, then=NEVER)
    assert (after.state, after.due_at, after.due_tip) == (MessageState.DEAD, None, None)
    assert (after.heard_payload, after.acknowledged_at) == (b"0", None)


def test_tips_count_how_many_tips_it_was_told_at() -> None:
    """Several attempts at one tip count as one call, for what is limited is calls a tip."""
    message = message_of(b"A", due_at=NOW)
    counts = []
    for tip_number in (3, 3, 4, 4, 4, 9):
        message = claimed(message, tip_number=tip_number)
        counts.append((message.tips, message.told_tip))
    assert counts == [(1, 3), (1, 3), (2, 4), (2, 4), (2, 4), (3, 9)]


def test_claim_ends_the_wait_for_a_tip() -> None:
    """What is told because its pause is over is not told once more by the tip that it waited for besides."""
    assert claimed(message_of(b"A", due_at=NOW, due_tip=TIP_NUMBER)).due_tip is None


# --- acknowledged from outside -----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [MessageState.OPEN, WITHDRAWN, MessageState.DEAD])
def test_receiver_may_acknowledge_by_itself(state: MessageState) -> None:
    """An acknowledgement that comes by itself ends the message in any state, and leaves no doubt."""
    message = message_of(b"A", state=state, is_heard_in_doubt=True, tries=2, due_at=NOW + 100, due_tip=8)
    expected = message_of(b"A", heard_payload=b"A", state=ACKNOWLEDGED, tries=2, acknowledged_at=1001)
    assert message.acknowledged(now=NOW + 1.9) == expected


@pytest.mark.parametrize("then", [AFTER_A_PAUSE, WITH_THE_TIP, NEVER])
@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_acknowledgement_during_an_attempt_holds(outcome: Outcome, then: NextTry) -> None:
    """A receiver that acknowledged while it was being told is not told again, though the attempt fails."""
    known = claimed(message_of(b"A", due_at=NOW)).acknowledged(now=NOW + 1)
    after = attempted(known, b"A", outcome, now=NOW + 2, then=then)
    assert after == replace(known, failures=int(outcome is Outcome.FAILED))


@pytest.mark.parametrize("outcome", list(Outcome))
def test_acknowledgement_of_newer_contents_than_are_being_told_holds(outcome: Outcome) -> None:
    """A receiver that acknowledged the newest contents while an attempt told older ones knows them for good."""
    newest = claimed(message_of(b"A", due_at=NOW)).with_payload(b"B", now=NOW)
    after = attempted(newest.acknowledged(now=NOW + 1), b"A", outcome, now=NOW + 2)
    assert (after.state, after.due_at, after.due_tip) == (ACKNOWLEDGED, None, None)
    assert after.acknowledged_at == NOW + 1


# --- withdrawn and restored --------------------------------------------------------------------------------------


def test_message_about_what_is_no_longer_so_is_withdrawn() -> None:
    """What was not heard is not told any more, neither by the clock nor with a tip."""
    waiting = message_of(b"A", tries=2, due_at=NOW + 5, due_tip=8)
    assert waiting.withdrawn() == message_of(b"A", tries=2, state=WITHDRAWN)


def test_what_was_heard_is_not_withdrawn() -> None:
    """An acknowledged message stays acknowledged when its payment goes."""
    known = heard(b"A")
    assert known.withdrawn() is known
    assert known.withdrawn().restored(now=NOW + 1) is known


def test_withdrawn_message_is_due_when_it_is_so_again() -> None:
    """A payment that comes back is told at once, under the id that the message had."""
    gone = message_of(b"A", tries=2, due_at=NOW + 5).withdrawn()
    assert gone.with_payload(b"A", now=NOW + 9) == gone.restored(now=NOW + 9)
    assert gone.restored(now=NOW + 9) == message_of(b"A", tries=2, due_at=NOW + 9)


@pytest.mark.parametrize("state", [MessageState.OPEN, ACKNOWLEDGED, MessageState.DEAD])
def test_only_what_was_withdrawn_is_restored(state: MessageState) -> None:
    """What is so still neither hastens a message that waits nor wakes one that has ended."""
    message = message_of(b"A", state=state, due_at=NOW + 5)
    assert message.restored(now=NOW) is message


@pytest.mark.parametrize("then", [AFTER_A_PAUSE, WITH_THE_TIP, NEVER])
@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_message_withdrawn_under_way_is_not_told_again(outcome: Outcome, then: NextTry) -> None:
    """The end of an attempt does not bring a message back whose payment went meanwhile."""
    gone = claimed(message_of(b"A", due_at=NOW)).withdrawn()
    after = attempted(gone, b"A", outcome, then=then)
    assert after == replace(gone, failures=int(outcome is Outcome.FAILED))


def test_message_withdrawn_under_way_may_still_be_heard() -> None:
    """A receiver that acknowledges what just went has heard it: it is not told again when it comes back."""
    after = attempted(claimed(message_of(b"A", due_at=NOW)).withdrawn(), b"A", Outcome.ACKNOWLEDGED)
    assert after == heard(b"A")
    assert after.restored(now=NOW) is after


@pytest.mark.parametrize("outcome", NOT_HEARD)
def test_message_withdrawn_and_restored_under_way_waits_as_usual(outcome: Outcome) -> None:
    """A payment that goes and comes back during an attempt does not hasten the next one."""
    back = claimed(message_of(b"A", due_at=NOW)).withdrawn().restored(now=NOW)
    after = attempted(back, b"A", outcome)
    assert (after.state, after.due_at) == (MessageState.OPEN, NOW + RETRY_S)


def test_dead_message_stays_dead_when_its_payment_goes_and_comes_back() -> None:
    """A message that was told as often as its dialect does is not told once more because its payment came back."""
    dead = message_of(b"A", tries=4, state=MessageState.DEAD)
    back = dead.withdrawn().restored(now=NOW)
    assert (back.state, back.due_at, back.due_tip) == (MessageState.DEAD, None, None)
