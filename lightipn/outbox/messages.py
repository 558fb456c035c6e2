"""Messages: what one subscriber must hear, and how far that is.

open ──ack──► acknowledged            open ──limit──► dead ──ack, retry by hand──► …
▲ │ newer payload (one topic)
│ ▼ the payment is gone
withdrawn ── it is back ──► open
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lightipn.bitcoin.hashes import Txid
from lightipn.outbox.verdict import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingRequest:
    """An HTTP request as it will be sent."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


class MessageState(enum.Enum):
    """How far a message is."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    WITHDRAWN = "withdrawn"  # what it tells is no longer so, and was not heard
    DEAD = "dead"  # tried as often as its dialect does


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTry:
    """When a message is told again: after a pause, with the next tip, at the earlier of both, or never."""

    after_s: float | None = None
    with_next_tip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one subscriber must hear, and how far that is.

    Args:
        message_id: constant over all attempts; receivers drop repeats by it.
        payload: what must be known now.
        heard_payload: what was acknowledged last; the dialect's baseline before the first time.
        is_heard_in_doubt: something else than ``heard_payload`` was sent since, so the receiver may believe that.
        tries: attempts since the payload changed or an answer acknowledged something.
        failures: failed attempts since the last one that was answered with 2xx.
        tips: how many tips it was told at.
        told_tip: the number of the tip at which it was told last.
        due_at: unix seconds of the next attempt; None when none is planned by the clock.
        due_tip: the number of the tip that makes it due; None where none does.
        acknowledged_at: unix seconds; None while it is not.
    """

    message_id: str
    topic: str
    txid: Txid | None
    state: MessageState
    payload: bytes
    heard_payload: bytes
    is_heard_in_doubt: bool
    tries: int
    failures: int
    tips: int
    told_tip: int
    due_at: float | None
    due_tip: int | None
    acknowledged_at: int | None
    created_at: int

    def with_payload(self, payload: bytes, *, now: float) -> "Message":
        """Return the message with newer contents: due at once, or done where the receiver knows them already."""
        if payload == self.payload:
            return self.restored(now=now)
        if payload != self.heard_payload or self.is_heard_in_doubt:
            fresh = replace(self, state=MessageState.OPEN, due_at=now, acknowledged_at=None)
        else:
            fresh = replace(self, state=MessageState.ACKNOWLEDGED, due_at=None)
        return replace(fresh, payload=payload, tries=0, due_tip=None)

    def withdrawn(self) -> "Message":
        """Return the message after what it tells is no longer so; what was heard stays heard."""
        if self.state is not MessageState.OPEN:
            return self
        return replace(self, state=MessageState.WITHDRAWN, due_at=None, due_tip=None)

    def restored(self, *, now: float) -> "Message":
        """Return a withdrawn message due again, for what it tells is so again; any other one as it is."""
        if self.state is not MessageState.WITHDRAWN:
            return self
        return replace(self, state=MessageState.OPEN, due_at=now)

    def acknowledged(self, *, now: float) -> "Message":
        """Return the message after its receiver said by itself that it knows; also while an attempt is under way."""
        return replace(
            self,
            state=MessageState.ACKNOWLEDGED,
            heard_payload=self.payload,
            is_heard_in_doubt=False,
            due_at=None,
            due_tip=None,
            acknowledged_at=int(now),
        )

    def claimed(self, *, tip_number: int) -> "Message":
        """Return the message as it stands while an attempt tells it: from now on the receiver may believe it."""
        return replace(
            self,
            is_heard_in_doubt=self.is_heard_in_doubt or self.payload != self.heard_payload,
            tries=self.tries + 1,
            tips=self.tips + (tip_number != self.told_tip),
            told_tip=tip_number,
            due_tip=None,
        )

    def after_attempt(self, sent_payload: bytes, outcome: Outcome, *, now: float, then: NextTry) -> "Message":
        """Return the message after an attempt that told ``sent_payload``.

        Meanwhile the payload may have changed, which makes the newer one due at once; the message may have been
        withdrawn; or its receiver may have acknowledged it by itself, which holds whatever this attempt came to.

        Args:
            then: what the dialect does next, if it must be told again.
        """
        failures = self.failures + 1 if outcome is Outcome.FAILED else 0
        if outcome is Outcome.ACKNOWLEDGED:
            heard = replace(self, heard_payload=sent_payload, is_heard_in_doubt=False, tries=0, failures=0)
            if self.payload == sent_payload:
                return heard.acknowledged(now=now)
            return replace(heard, due_at=now if self.state is MessageState.OPEN else None)
        if self.state is MessageState.ACKNOWLEDGED:
            return replace(self, failures=failures, due_at=None, due_tip=None)
        in_doubt = self.is_heard_in_doubt or sent_payload != self.heard_payload
        after = replace(self, failures=failures, is_heard_in_doubt=in_doubt)
        if self.state in (MessageState.WITHDRAWN, MessageState.DEAD):
            return after
        if self.payload == self.heard_payload and not in_doubt:
            return replace(after, state=MessageState.ACKNOWLEDGED, due_at=None)
        if sent_payload != self.payload:
            return replace(after, state=MessageState.OPEN, due_at=now)
        return after._planned(then, now=now)

    def _planned(self, then: NextTry, *, now: float) -> "Message":
        if then.after_s is None and not then.with_next_tip:
            return replace(self, state=MessageState.DEAD, due_at=None, due_tip=None)
        return replace(
            self,
            state=MessageState.OPEN,
            due_at=None if then.after_s is None else now + then.after_s,
            due_tip=self.told_tip + 1 if then.with_next_tip else None,
        )
