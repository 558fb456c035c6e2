"""Subscriptions, messages, and the interface every dialect's policy implements.

open ──ack──► acknowledged            open ──limit──► dead ──ack, retry by hand──► …
▲ │ newer payload (one topic)
│ ▼ the payment is gone
withdrawn ── it is back ──► open
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid
from lightipn.chain.verifier import Confirmed
from lightipn.ledger.entries import GONE, LedgerEntry, ScriptPayments
from lightipn.outbox.verdict import Answer, Outcome


class SubscriptionState(enum.Enum):
    """Whether a subscription is told anything new."""

    ACTIVE = "active"
    SUSPENDED = "suspended"  # its owner has no good key: nothing is sent, everything is kept
    CANCELED = "canceled"  # by its owner
    EXPIRED = "expired"
    FINISHED = "finished"  # it was for one notice, which was made


LIVE = frozenset({SubscriptionState.ACTIVE, SubscriptionState.SUSPENDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Somebody's wish to be told about one script, or about blocks.

    Args:
        owner: the name of the API key it was made with.
        scripthash: None where it is about blocks; ``address`` is empty then.
        terms: what the caller asked for, as JSON of the dialect's own shape.
        expires_at: unix seconds, as its owner asked; None for never.
        ended_at: when it was canceled or finished.
        last_seen_at: when the last payment was seen before that; what was seen later is not told.
        since_height: the tip when it was made: what was deep enough then is the past. None until our tip is proved. Of
            a subscription to blocks: the lowest height that it is about.
        past: payments of the past whose place a reorg may have moved since.
    """

    subscription_id: int
    dialect: str
    owner: str
    scripthash: ScriptHash | None
    address: str
    url: str
    terms: bytes
    state: SubscriptionState
    created_at: int
    expires_at: int | None = None
    ended_at: int | None = None
    last_seen_at: int | None = None
    since_height: int | None = 0
    past: frozenset[Txid] = frozenset()

    def state_at(self, now: float) -> SubscriptionState:
        """Return the state; an expiry holds from its second on, whenever it is noticed."""
        is_over = self.expires_at is not None and self.expires_at <= now
        return SubscriptionState.EXPIRED if is_over and self.state in LIVE else self.state

    def is_about(self, entry: LedgerEntry, *, confirmations: int) -> bool:
        """Tell whether a payment is told: it stands, it is not of the past, and it was seen before the end.

        Args:
            confirmations: what was so deep when the subscription was made, is of the past.
        """
        is_lost = entry.is_coinbase and not isinstance(entry.state, Confirmed)  # mined coins exist in their block alone
        if isinstance(entry.state, GONE) or is_lost or entry.net_sat == 0 or self.since_height is None:
            return False
        is_late = self.expires_at is not None and entry.seen_at >= self.expires_at
        if is_late or (self.last_seen_at is not None and entry.seen_at > self.last_seen_at):
            return False
        return not self.is_past(entry, confirmations=confirmations)

    def is_past(self, entry: LedgerEntry, *, confirmations: int) -> bool:
        """Tell whether a payment was so deep when the subscription was made."""
        counted_at = entry.counts_at_height(confirmations)
        is_old = counted_at is not None and self.since_height is not None and counted_at <= self.since_height
        return is_old or entry.txid in self.past

    def payments_of(self, payments: ScriptPayments, *, confirmations: int) -> Iterator[LedgerEntry]:
        """Yield the payments that are told, of all of its script."""
        return (entry for entry in payments.entries.values() if self.is_about(entry, confirmations=confirmations))


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a subscriber must know.

    Args:
        topic: one message for each of a subscription's topics.
        payload: JSON of the dialect's own shape.
        txid: the payment it is about; None where it is about several, or about a block.
    """

    topic: str
    payload: bytes
    txid: Txid | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What a policy makes of a subscription's payments.

    Args:
        notices: all that stands; a message about anything else is withdrawn, unless it was heard.
        wake_height: the tip height at which a block alone changes the notices; None if none does.
        is_over: nothing else will ever be told: the subscription was for one notice, which was heard.
        awaits_more: a payment that is known may still become a notice, so the script must stay watched.
    """

    notices: tuple[Notice, ...]
    wake_height: int | None
    is_over: bool = False
    awaits_more: bool = True


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
class Moment:
    """What is so when an attempt is made.

    Args:
        now: unix seconds.
        tip_height: of our chain.
        confirmations: of the payment that the message is about; 0 where it has none or is about no payment.
        last_tried_at: unix seconds of the attempt before this one; None before the first.
    """

    now: float
    tip_height: int
    confirmations: int
    last_tried_at: float | None


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


class Policy(Protocol):
    """A dialect's decisions. Pure: no clock, no randomness, no I/O."""

    def review(
        self,
        subscription: Subscription,
        payments: ScriptPayments,
        *,
        told: Mapping[str, MessageState],
        tip_height: int,
    ) -> Review:
        """Say what the subscriber must know, given these payments.

        Args:
            told: the topics there are messages about, and how far each is.
        """

    def depth_of(self, subscription: Subscription) -> int:
        """Return how deep a payment must have been when the subscription was made to be of the past."""

    def baseline_of(self, subscription: Subscription) -> bytes:
        """Return the payload that counts as known before anything was told."""

    def request_of(self, subscription: Subscription, message: Message, moment: Moment) -> OutgoingRequest:
        """Render one attempt."""

    def outcome_of(self, sent_payload: bytes, answer: Answer) -> Outcome:
        """Judge the receiver's answer to an attempt that told ``sent_payload``."""

    def next_try(self, message: Message, answer: Answer, *, jitter: float) -> NextTry:
        """Say when a message is told again that was not acknowledged; ``jitter`` is in [0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of our chain, as subscribers to blocks hear of it; ``time`` is what its header says."""

    height: int
    block_hash: BlockHash
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWish:
    """What a subscription to blocks wants.

    Args:
        confirmations: a block is told once it has so many.
        is_once: it ends with the first block.
    """

    confirmations: int
    is_once: bool


@runtime_checkable
class BlockPolicy(Policy, Protocol):
    """The decisions of a dialect that also tells blocks."""

    def block_wish_of(self, subscription: Subscription) -> BlockWish:
        """Return what a subscription to blocks wants."""

    def block_payload_of(self, block: Block) -> bytes:
        """Return what is told of a block, as JSON of the dialect's own shape."""
