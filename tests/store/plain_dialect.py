"""A dialect made for tests: totals as plain text, heard when the receiver repeats them.

The store and the delivery must work with any dialect, so their tests stand on none of the real ones.
"""

from collections.abc import Mapping

from lightipn.ledger.entries import ScriptPayments, totals_of
from lightipn.outbox.messages import Message, MessageState, NextTry, OutgoingRequest
from lightipn.outbox.policy import Moment, Notice, Review
from lightipn.outbox.schedule import doubling_delay_s
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 3600.0
NOTHING = b"0+0"


def payload_of(confirmed_sat: int, unconfirmed_sat: int) -> bytes:
    """Return what a receiver must know of these totals."""
    return b"%d+%d" % (confirmed_sat, unconfirmed_sat)


class PlainPolicy:
    """The dialect's decisions; a subscription's terms are its depth as digits."""

    def review(
        self,
        subscription: Subscription,
        payments: ScriptPayments,
        *,
        told: Mapping[str, MessageState],
        tip_height: int,
        now: float,
    ) -> Review:
        """Return the totals at the subscriber's depth."""
        depth = int(subscription.terms)
        totals = totals_of(payments.entries.values(), tip_height=tip_height, confirmations=depth)
        payload = payload_of(totals.confirmed_sat, totals.unconfirmed_sat)
        return Review(notices=(Notice(topic="", payload=payload),), wake_height=totals.changes_at_height)

    def depth_of(self, subscription: Subscription) -> int:
        """Nothing is of the past: what an address got before is told too."""
        return int(subscription.terms)

    def baseline_of(self, subscription: Subscription) -> bytes:
        """Nothing received."""
        return NOTHING

    def request_of(self, subscription: Subscription, message: Message, moment: Moment) -> OutgoingRequest:
        """Post the payload as it is."""
        headers = {"X-Message": message.message_id}
        return OutgoingRequest(method="POST", url=subscription.url, headers=headers, body=message.payload)

    def outcome_of(self, sent_payload: bytes, answer: Answer) -> Outcome:
        """Acknowledged by a 2xx that repeats the payload."""
        if not answer.is_success:
            return Outcome.FAILED
        return Outcome.ACKNOWLEDGED if answer.body == sent_payload else Outcome.NOT_ACKNOWLEDGED

    def next_try(self, message: Message, answer: Answer, *, jitter: float) -> NextTry:
        """Five seconds, doubling up to an hour."""
        tries = max(1, message.tries)
        return NextTry(after_s=doubling_delay_s(tries, first_s=FIRST_RETRY_S, limit_s=LONGEST_RETRY_S, jitter=jitter))


POLICIES = {"plain": PlainPolicy()}


def answer_of(body: bytes = b"", *, status: int | None = 200, trouble: str = "") -> Answer:
    """Return what a receiver answered after 12 ms."""
    return Answer(status=status, body=body, trouble=trouble, latency_ms=12.0)


SILENCE = answer_of(status=None, trouble="timeout")
"""No answer came."""
