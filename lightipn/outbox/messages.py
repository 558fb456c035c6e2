"""Subscriptions, messages, and the interface every dialect's policy implements."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.ledger.entries import ScriptPayments
from lightipn.outbox.verdict import Answer, Outcome


class SubscriptionState(enum.Enum):
    """Whether a subscription is told anything."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Somebody's wish to be told about one script.

    Args:
        owner: the name of the API key it was made with.
        terms: what the caller asked for, as JSON of the dialect's own shape.
    """

    subscription_id: int
    dialect: str
    owner: str
    scripthash: ScriptHash
    address: str
    url: str
    terms: bytes
    state: SubscriptionState
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What a policy makes of a subscription's payments.

    Args:
        payload: what must now be known to the receiver, as JSON of the dialect's own shape.
        wake_height: the tip height at which a block alone changes the payload; None if none does.
    """

    payload: bytes
    wake_height: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingRequest:
    """An HTTP request as it will be sent."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one subscriber must hear, and how far that is.

    Args:
        message_id: constant over all attempts; receivers drop repeats by it.
        payload: what must be known now.
        heard_payload: what was acknowledged last; the dialect's baseline before the first time.
        is_heard_in_doubt: something else than ``heard_payload`` was sent since, so the receiver may believe that.
        tries: attempts since the payload changed or an answer acknowledged something.
        due_at: unix seconds of the next attempt; None when nothing is due.
    """

    message_id: str
    payload: bytes
    heard_payload: bytes
    is_heard_in_doubt: bool
    tries: int
    due_at: float | None

    def with_payload(self, payload: bytes, *, now: float) -> "Message":
        """Return the message with newer contents: due at once, or withdrawn where the receiver knows them already."""
        if payload == self.payload:
            return self
        needs_telling = payload != self.heard_payload or self.is_heard_in_doubt
        return replace(self, payload=payload, tries=0, due_at=now if needs_telling else None)

    def claimed(self) -> "Message":
        """Return the message as it stands while an attempt tells it: from now on the receiver may believe it."""
        return replace(
            self,
            is_heard_in_doubt=self.is_heard_in_doubt or self.payload != self.heard_payload,
            tries=self.tries + 1,
        )

    def after_attempt(self, sent_payload: bytes, outcome: Outcome, *, now: float, retry_after_s: float) -> "Message":
        """Return the message after an attempt that told ``sent_payload``.

        The payload may have changed while the attempt was under way; the newer one is then due at once.

        Args:
            retry_after_s: seconds until the next attempt, if there must be one.
        """
        heard, in_doubt, tries = self.heard_payload, self.is_heard_in_doubt, self.tries
        if outcome is Outcome.ACKNOWLEDGED:
            heard, in_doubt, tries = sent_payload, False, 0
        if outcome is not Outcome.ACKNOWLEDGED and sent_payload != heard:
            in_doubt = True
        if self.payload == heard and not in_doubt:
            due_at = None
        elif sent_payload != self.payload:
            due_at = now
        else:
            due_at = now + retry_after_s
        return replace(self, heard_payload=heard, is_heard_in_doubt=in_doubt, tries=tries, due_at=due_at)


class Policy(Protocol):
    """A dialect's decisions. Pure: no clock, no randomness, no I/O."""

    def review(self, subscription: Subscription, payments: ScriptPayments, *, tip_height: int) -> Review:
        """Say what the subscriber must know, given these payments."""

    def baseline_of(self, subscription: Subscription) -> bytes:
        """Return the payload that counts as known before anything was told."""

    def request_of(self, subscription: Subscription, message: Message) -> OutgoingRequest:
        """Render one attempt."""

    def outcome_of(self, sent_payload: bytes, answer: Answer) -> Outcome:
        """Judge the receiver's answer to an attempt that told ``sent_payload``."""

    def retry_after_s(self, tries: int, *, jitter: float) -> float:
        """Return the seconds until the next attempt after ``tries`` failed ones; ``jitter`` is in [0, 1)."""
