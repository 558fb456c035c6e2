"""Which payments become callbacks, and when they are sent again."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightipn.bitcoin.hashes import hex_of
from lightipn.chain.verifier import Unconfirmed
from lightipn.dialects.callback import wire
from lightipn.ledger.entries import LedgerEntry, ScriptPayments
from lightipn.outbox.messages import Message, MessageState, NextTry, OutgoingRequest
from lightipn.outbox.policy import Moment, Notice, Review
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome

MAX_CONFIRMATIONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackPolicy:
    """One callback a transaction at a depth, and one before any block if the operator wants that.

    Args:
        retries: how often a callback is sent again that is not acknowledged.
        retry_period_s: the pause between two sends, in seconds.
        confirmations: the depth at which a payment is told.
        zero_conf: tell it before any block too.
    """

    retries: int
    retry_period_s: float
    confirmations: int
    zero_conf: bool

    def sends_left(self, message: Message) -> int:
        """Return how often a message will still be sent; ``tries`` counts an attempt under way."""
        return max(0, self.retries + 1 - message.tries)

    def shown(self, subscription: Subscription, message: Message, *, last_tried_at: float | None) -> wire.CallbackJson:
        """Return a callback as it is sent, and as its owner sees it.

        Args:
            last_tried_at: unix seconds of the last attempt, but for one under way; None before the first.
        """
        return wire.callback_json_of(
            subscription,
            message,
            retries=self.sends_left(message),
            last_tried_at=last_tried_at,
            confirmations=self._told_confirmations(message) if self.zero_conf else None,
        )

    def _told_confirmations(self, message: Message) -> int:
        return self.confirmations if message.topic.endswith(wire.DEEP) else 0

    def review(
        self,
        subscription: Subscription,
        payments: ScriptPayments,
        *,
        told: Mapping[str, MessageState],
        tip_height: int,
        now: float,
    ) -> Review:
        """Tell each payment once it is deep enough, and no more while a reorg has taken that back."""
        depth = self.confirmations
        notices: list[Notice] = []
        heights: list[int] = []
        awaits_more = False
        for entry in subscription.payments_of(payments, confirmations=depth):
            deep_enough_at = entry.counts_at_height(depth)
            deep, early = _notice_of(entry, wire.DEEP), _notice_of(entry, wire.SEEN)
            if deep_enough_at is not None and deep_enough_at <= tip_height:
                notices.append(deep)
                continue
            awaits_more = True
            # What was told as deep is not told as seen when a reorg takes it back; it waits until it is deep again.
            is_early = isinstance(entry.state, Unconfirmed) or early.topic in told
            if self.zero_conf and is_early and deep.topic not in told:
                notices.append(early)
            if deep_enough_at is not None:
                heights.append(deep_enough_at)
        return Review(notices=tuple(notices), wake_height=min(heights, default=None), awaits_more=awaits_more)

    def depth_of(self, subscription: Subscription) -> int:
        """What was told by then, had there been a subscription."""
        return self.confirmations

    def baseline_of(self, subscription: Subscription) -> bytes:
        """Nothing was told."""
        return b""

    def request_of(self, subscription: Subscription, message: Message, moment: Moment) -> OutgoingRequest:
        """Render the JSON POST; ``retries`` counts down."""
        shown = self.shown(subscription, message, last_tried_at=moment.last_tried_at)
        headers = {"Content-Type": "application/json"}
        return OutgoingRequest(method="POST", url=subscription.url, headers=headers, body=wire.encode(shown))

    def outcome_of(self, sent_payload: bytes, answer: Answer) -> Outcome:
        """Only a PATCH acknowledges; an answer says no more than that somebody is there."""
        return Outcome.NOT_ACKNOWLEDGED if answer.is_success else Outcome.FAILED

    def next_try(self, message: Message, answer: Answer, *, jitter: float) -> NextTry:
        """After a constant pause, until all retries are used up."""
        if not self.sends_left(message):
            return NextTry()
        return NextTry(after_s=self.retry_period_s)


def _notice_of(entry: LedgerEntry, moment: str) -> Notice:
    payload = wire.encode_payload(
        entry.txid, amount_sat=entry.net_sat, received_sat=entry.received_sat, sent_sat=entry.sent_sat
    )
    return Notice(topic=f"{hex_of(entry.txid)}{moment}", payload=payload, txid=entry.txid)
