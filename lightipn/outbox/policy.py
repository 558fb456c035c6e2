"""The interface of every dialect's decisions: what must be told, how it is said, and what counts as heard."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.header import BlockHeader
from lightipn.ledger.entries import ScriptPayments
from lightipn.ledger.transactions import KnownTransaction
from lightipn.outbox.messages import Message, MessageState, NextTry, OutgoingRequest
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a subscriber must know.

    Args:
        topic: one message for each of a subscription's topics.
        payload: JSON of the dialect's own shape; None where what was written before stays as it is.
        txid: the payment it is about; None where it is about several, or about a block.
    """

    topic: str
    payload: bytes | None
    txid: Txid | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What a policy makes of a subscription's payments.

    Args:
        notices: all that stands; a message about anything else is withdrawn, unless it was heard.
        wake_height: the tip height at which a block alone changes the notices; None if none does.
        wake_at: the time at which the clock alone changes them, in unix seconds; None if it does not.
        is_over: nothing else will ever be told: the subscription was for one notice, which was heard.
        awaits_more: a payment that is known may still become a notice, so the script must stay watched.
    """

    notices: tuple[Notice, ...]
    wake_height: int | None
    wake_at: float | None = None
    is_over: bool = False
    awaits_more: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is so when an attempt is made.

    Args:
        now: unix seconds.
        tip_height: of our chain.
        confirmations: of the payment that the message is about; 0 where it has none or is about no payment.
        last_tried_at: unix seconds of the attempt before this one; None before the first.
        hook: what only hooks need; None for a subscription that belongs to none.
    """

    now: float
    tip_height: int
    confirmations: int
    last_tried_at: float | None
    hook: "HookFacts | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFacts:
    """What an attempt of a hook is made of.

    Args:
        is_own_key: the key is the hook's own, not the service's.
        private_key: the PEM that it is signed with.
        last_body: of the attempt before this one; None before the first.
        transaction: that the message is about; None where it is not known.
        block_time: unix seconds, as the header of its payment's block says; None outside a block.
    """

    hook_id: str
    private_key: str
    is_own_key: bool
    last_body: bytes | None
    transaction: KnownTransaction | None
    block_time: int | None


class Policy(Protocol):
    """A dialect's decisions. Pure: no clock, no randomness, no I/O."""

    def review(
        self,
        subscription: Subscription,
        payments: ScriptPayments,
        *,
        told: Mapping[str, MessageState],
        tip_height: int,
        now: float,
    ) -> Review:
        """Say what the subscriber must know, given these payments.

        Args:
            told: the topics there are messages about, and how far each is.
            now: unix seconds.
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
    """A block of our chain, as subscribers to blocks hear of it."""

    height: int
    header: BlockHeader


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
