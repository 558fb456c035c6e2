"""What an IPN subscriber must hear, what counts as heard, and when to try again."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightipn.dialects.ipn import wire
from lightipn.ledger.entries import ScriptPayments, totals_of
from lightipn.outbox.messages import Message, MessageState, NextTry, OutgoingRequest
from lightipn.outbox.policy import Moment, Notice, Review
from lightipn.outbox.schedule import doubling_delay_s
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome

FIRST_RETRY_S = 5.0
MAX_CONFIRMS = 1000
DEFAULT_CONFIRMS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class IpnPolicy:
    """One message a subscription, always with the newest totals, for ever until they are echoed.

    Args:
        max_retry_interval_s: the longest pause between two attempts.
        auth_token: sent as the header ``IPN-Auth1`` so that the shop knows who calls; empty for none.
    """

    max_retry_interval_s: float
    auth_token: str = ""

    def review(
        self,
        subscription: Subscription,
        payments: ScriptPayments,
        *,
        told: Mapping[str, MessageState],
        tip_height: int,
        now: float,
    ) -> Review:
        """Return the totals at the depth the subscriber asked for."""
        depth = wire.decode_terms(subscription.terms).max_confirms
        totals = totals_of(payments.entries.values(), tip_height=tip_height, confirmations=depth)
        payload = wire.encode_payload(
            wire.Totals(
                address=subscription.address,
                confirmed_sat=totals.confirmed_sat,
                unconfirmed_sat=totals.unconfirmed_sat,
            )
        )
        return Review(notices=(Notice(topic="", payload=payload),), wake_height=totals.changes_at_height)

    def depth_of(self, subscription: Subscription) -> int:
        """Totals have no past: what was paid before the subscription counts too."""
        return wire.decode_terms(subscription.terms).max_confirms

    def baseline_of(self, subscription: Subscription) -> bytes:
        """Nothing received: an address that was paid before the subscription is told at once."""
        return wire.encode_payload(wire.Totals(address=subscription.address, confirmed_sat=0, unconfirmed_sat=0))

    def request_of(self, subscription: Subscription, message: Message, moment: Moment) -> OutgoingRequest:
        """Render the form POST."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "X-IPN-Id": message.message_id}
        if self.auth_token:
            headers["IPN-Auth1"] = self.auth_token
        body = wire.encode_form(wire.decode_payload(message.payload))
        return OutgoingRequest(method="POST", url=subscription.url, headers=headers, body=body)

    def outcome_of(self, sent_payload: bytes, answer: Answer) -> Outcome:
        """Acknowledged by a 2xx with a JSON echo of the values that were sent."""
        if not answer.is_success:
            return Outcome.FAILED
        if wire.is_echo_of(answer.body, wire.decode_payload(sent_payload)):
            return Outcome.ACKNOWLEDGED
        return Outcome.NOT_ACKNOWLEDGED

    def next_try(self, message: Message, answer: Answer, *, jitter: float) -> NextTry:
        """Five seconds, doubling up to ``max_retry_interval_s``, for ever."""
        tries = max(1, message.tries)  # none is counted where the contents changed meanwhile
        limit_s = self.max_retry_interval_s
        return NextTry(after_s=doubling_delay_s(tries, first_s=FIRST_RETRY_S, limit_s=limit_s, jitter=jitter))
