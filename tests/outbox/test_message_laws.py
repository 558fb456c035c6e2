"""Laws of a message, whatever happens to it in whatever order.

Payloads are one letter here; ``0`` is the dialect's baseline, which counts as heard before anything was told.
"""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lightipn.outbox.messages import Message, MessageState, NextTry
from lightipn.outbox.verdict import Outcome
from tests.builders import message_of

NOW = 1000.0
RETRY_S = 5.0
NEXT_TRIES = [
    NextTry(),
    NextTry(after_s=RETRY_S),
    NextTry(with_next_tip=True),
    NextTry(after_s=RETRY_S, with_next_tip=True),
]
PAYLOADS = st.sampled_from([b"0", b"A", b"B"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), PAYLOADS),
        st.tuples(st.just("start"), st.none()),
        st.tuples(st.just("end"), st.sampled_from(Outcome)),
    ),
    max_size=25,
)


def attempted(message: Message, sent_payload: bytes, outcome: Outcome, *, now: float = NOW) -> Message:
    """Return the message after the end of an attempt; the next one comes in five seconds if there must be one."""
    return message.after_attempt(sent_payload, outcome, now=now, then=NextTry(after_s=RETRY_S))


@given(STEPS)
@settings(deadline=None, max_examples=100)
def test_message_is_never_silently_lost(steps: list[tuple[str, object]]) -> None:
    """A message is due if, and between attempts only if, the receiver may believe anything else than its contents.

    The model is what the receiver may believe: the start of an attempt adds what it tells, and an acknowledgement
    makes that certain. At most one attempt is under way, and one starts only while something is due.
    """
    message, under_way, beliefs, now = message_of(b"0", state=MessageState.ACKNOWLEDGED), None, {b"0"}, 0.0
    for kind, value in steps:
        now += 1
        match kind, value:
            case "change", bytes(payload):
                message = message.with_payload(payload, now=now)
            case "start", _ if under_way is None and message.due_at is not None:
                under_way = message.payload
                message, beliefs = message.claimed(tip_number=1), beliefs | {under_way}
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
            assert (message.state is MessageState.ACKNOWLEDGED) == (message.due_at is None)
        assert message.due_at is None or message.due_at <= now + RETRY_S


@given(STEPS)
@settings(deadline=None, max_examples=50)
def test_acknowledging_receiver_hears_the_end_of_every_story(steps: list[tuple[str, object]]) -> None:
    """However wild the story was, two more attempts that are acknowledged leave the receiver with the newest."""
    message, believed = message_of(b"0", state=MessageState.ACKNOWLEDGED), b"0"
    for kind, value in steps:
        if kind == "change":
            assert isinstance(value, bytes)
            message = message.with_payload(value, now=NOW)
        elif isinstance(value, Outcome) and message.due_at is not None:
            believed = message.payload
            message = attempted(message.claimed(tip_number=1), believed, value)
    for _ in range(2):
        if message.due_at is not None:
            believed = message.payload
            message = attempted(message.claimed(tip_number=1), believed, Outcome.ACKNOWLEDGED)
    assert (message.due_at, believed) == (None, message.payload)


@dataclass(frozen=True)
class UnderWay:
    """An attempt under way: what it tells, and whether the receiver acknowledged by itself since it began."""

    sent_payload: bytes
    is_known: bool = False


class Lives(RuleBasedStateMachine):
    """One message, and all that may happen to it: payments that go and come back, tips, attempts, acknowledgements.

    The dialect of this model has one payload a message, as all have that tell each payment by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.message = message_of(b"A", due_at=0.0)
        self.tip_number = 1
        self.now = 0.0
        self.under_way: UnderWay | None = None
        self.told_tips: list[int] = []
        self.is_acknowledged = False

    def is_due(self) -> bool:
        """Tell whether the dispatcher would claim the message, as the store makes it due."""
        return self.message.due_at is not None and self.message.due_at <= self.now

    @rule()
    def payment_goes(self) -> None:
        """What the message tells is no longer so."""
        self.message = self.message.withdrawn()

    @rule()
    def payment_comes_back(self) -> None:
        """What the message tells is so again, or still."""
        self.message = self.message.with_payload(b"A", now=self.now)

    @rule(wait_s=st.sampled_from([1, 100]))
    def time_passes(self, wait_s: int) -> None:
        """The clock goes on."""
        self.now += wait_s

    @rule()
    def tip_comes(self) -> None:
        """A block comes, or several at once."""
        self.tip_number += 1

    @rule()
    def receiver_acknowledges(self) -> None:
        """The receiver says by itself that it knows."""
        self.message = self.message.acknowledged(now=self.now)
        self.is_acknowledged = True

    @precondition(lambda self: self.under_way is None)
    @rule()
    def attempt_starts(self) -> None:
        """What is due is claimed, by the clock or because of the tip."""
        is_tip_there = self.message.due_tip is not None and self.message.due_tip <= self.tip_number
        if not self.is_due() and not is_tip_there:
            return
        assert not self.is_acknowledged
        self.message = self.message.claimed(tip_number=self.tip_number)
        self.told_tips.append(self.tip_number)
        self.under_way = UnderWay(self.message.payload)

    @precondition(lambda self: self.under_way is not None)
    @rule(outcome=st.sampled_from(Outcome), then=st.sampled_from(NEXT_TRIES))
    def attempt_ends(self, outcome: Outcome, then: NextTry) -> None:
        """An answer comes, or none."""
        assert self.under_way is not None
        self.message = self.message.after_attempt(self.under_way.sent_payload, outcome, now=self.now, then=then)
        self.under_way = None
        self.is_acknowledged |= outcome is Outcome.ACKNOWLEDGED

    @invariant()
    def open_message_is_told_again(self) -> None:
        """Nothing is lost: an open message waits for a time or for a tip unless it is being told."""
        if self.message.state is MessageState.OPEN and self.under_way is None:
            assert self.message.due_at is not None or self.message.due_tip is not None

    @invariant()
    def ended_message_is_not_told(self) -> None:
        """What is acknowledged, withdrawn or dead waits for nothing."""
        if self.message.state is not MessageState.OPEN:
            assert (self.message.due_at, self.message.due_tip) == (None, None)

    @invariant()
    def acknowledged_stays_acknowledged(self) -> None:
        """Once it was acknowledged it is for good, whatever an attempt under way comes to, and it says since when."""
        assert (self.message.state is MessageState.ACKNOWLEDGED) == self.is_acknowledged
        assert (self.message.acknowledged_at is not None) == self.is_acknowledged

    @invariant()
    def tips_are_counted_once(self) -> None:
        """It counts at how many tips it was told, and waits at most for the one after the last of them."""
        assert self.message.tips == len(set(self.told_tips))
        assert self.message.told_tip == (self.told_tips[-1] if self.told_tips else 0)
        assert self.message.due_tip in (None, self.message.told_tip + 1)

    @invariant()
    def failures_are_no_more_than_attempts(self) -> None:
        """No more failed attempts are counted than there were."""
        assert 0 <= self.message.failures <= len(self.told_tips)


Lives.TestCase.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)


@pytest.mark.slow
class TestLives(Lives.TestCase):  # type: ignore[name-defined,misc]  # made by Hypothesis at run time
    """The laws hold for any order of events."""
