"""A second dialect made for tests: one message a payment, told with every tip until it is heard, and blocks.

It stands beside the plain one for all that needs several messages a subscription, ends, tips or blocks.
"""

import json
from collections.abc import Mapping
from typing import Any

from lightipn.bitcoin.hashes import hex_of
from lightipn.ledger.entries import LedgerEntry, ScriptPayments
from lightipn.outbox.messages import Message, MessageState, NextTry, OutgoingRequest
from lightipn.outbox.policy import Block, BlockWish, Moment, Notice, Review
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome

RETRY_S = 60.0
MOST_TIPS = 5
HEARD = b"heard"


def terms_of(*, depth: int = 1, is_once: bool = False) -> bytes:
    """Return the terms: at how many confirmations a payment or a block is told; whether the first one is the end."""
    return json.dumps({"depth": depth, "is_once": is_once}).encode()


def payload_of_payment(entry: LedgerEntry) -> bytes:
    """Return what a receiver must know of a payment."""
    return b"%d" % entry.net_sat


class EachPolicy:
    """The dialect's decisions."""

    def review(
        self,
        subscription: Subscription,
        payments: ScriptPayments,
        *,
        told: Mapping[str, MessageState],
        tip_height: int,
        now: float,
    ) -> Review:
        """Tell each payment once it is deep enough, and for as long as it stands; at depth 0 at once."""
        depth = self._terms(subscription)["depth"]
        notices, heights, awaits_more = [], [], False
        for entry in subscription.payments_of(payments, confirmations=self.depth_of(subscription)):
            topic = hex_of(entry.txid)
            deep_at = entry.counts_at_height(depth) if depth else 0
            if topic in told or (deep_at is not None and deep_at <= tip_height):
                notices.append(Notice(topic=topic, payload=payload_of_payment(entry), txid=entry.txid))
                continue
            awaits_more = True
            if deep_at is not None:
                heights.append(deep_at)
        wake_height = min(heights, default=None)
        if self._terms(subscription)["is_once"]:
            return self._only_one(notices, told, wake_height=wake_height)
        return Review(notices=tuple(notices), wake_height=wake_height, awaits_more=awaits_more)

    def _only_one(self, notices: list[Notice], told: Mapping[str, MessageState], *, wake_height: int | None) -> Review:
        """Tell the first one until it is heard or given up; another one only where that payment is gone."""
        is_over = any(state in (MessageState.ACKNOWLEDGED, MessageState.DEAD) for state in told.values())
        first = [notice for notice in notices if notice.topic in told] or ([] if is_over else notices)
        return Review(
            notices=tuple(first[:1]),
            wake_height=None if is_over else wake_height,
            is_over=is_over,
            awaits_more=not is_over,
        )

    def depth_of(self, subscription: Subscription) -> int:
        """Return the depth at which a payment is told; one that is told at once is of the past in a block."""
        return max(1, int(self._terms(subscription)["depth"]))

    def baseline_of(self, subscription: Subscription) -> bytes:
        """Nothing was told."""
        return b""

    def request_of(self, subscription: Subscription, message: Message, moment: Moment) -> OutgoingRequest:
        """Get the URL; the headers say what was so at the moment of the attempt."""
        headers = {
            "X-Message": message.message_id,
            "X-Confirmations": str(moment.confirmations),
            "X-Tip": str(moment.tip_height),
            "X-Last-Tried": str(moment.last_tried_at),
        }
        return OutgoingRequest(method="GET", url=subscription.url, headers=headers, body=message.payload)

    def outcome_of(self, sent_payload: bytes, answer: Answer) -> Outcome:
        """Acknowledged by a 2xx that says so."""
        if not answer.is_success:
            return Outcome.FAILED
        return Outcome.ACKNOWLEDGED if answer.body == HEARD else Outcome.NOT_ACKNOWLEDGED

    def next_try(self, message: Message, answer: Answer, *, jitter: float) -> NextTry:
        """With the next tip, up to five of them; after a minute too where no answer came."""
        if message.tips >= MOST_TIPS:
            return NextTry()
        return NextTry(after_s=RETRY_S if answer.status is None else None, with_next_tip=True)

    def block_wish_of(self, subscription: Subscription) -> BlockWish:
        """Return the depth at which a block is told, and whether it is the only one."""
        terms = self._terms(subscription)
        return BlockWish(confirmations=terms["depth"], is_once=terms["is_once"])

    def block_payload_of(self, block: Block) -> bytes:
        """Return height, hash and time as text."""
        return f"{block.height} {hex_of(block.header.block_hash)} {block.header.time}".encode()

    def _terms(self, subscription: Subscription) -> dict[str, Any]:
        terms: dict[str, Any] = json.loads(subscription.terms)
        return terms
