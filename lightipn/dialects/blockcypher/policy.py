"""Which payments and blocks become webhooks, and when one is sent again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.network import Network
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.dialects.blockcypher import wire
from lightipn.dialects.blockcypher.wire import Event, HookTerms
from lightipn.ledger.entries import UNKNOWN_STANDING, LedgerEntry, Replaced, ScriptPayments
from lightipn.ledger.standing import confidence_of
from lightipn.outbox.messages import Message, MessageState, NextTry, OutgoingRequest
from lightipn.outbox.policy import Block, BlockWish, Moment, Notice, Review
from lightipn.outbox.schedule import doubling_delay_s
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 3600.0
# The first retries come at exactly 1, 2, 4, 8 and 16 s, as the original's do.
QUICK_RETRIES = 5
# A payment's confidence is told after so long, whatever it is.
CONFIDENCE_WAIT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockcypherPolicy:
    """Every notice is told until a 2xx; what it says is written once.

    Args:
        transactions_url: where the API shows transactions, for links in webhooks; empty for no links.
    """

    network: Network
    transactions_url: str = ""

    def review(
        self,
        subscription: Subscription,
        payments: ScriptPayments,
        *,
        told: Mapping[str, MessageState],
        tip_height: int,
        now: float,
    ) -> Review:
        """Say what a hook is told of an address' payments."""
        terms = wire.decode_terms(subscription.terms)
        view = _View(subscription, payments, told=told, tip_height=tip_height, now=now)
        match terms.event:
            case Event.UNCONFIRMED:
                return view.unconfirmed()
            case Event.CONFIRMED:
                return view.confirmed()
            case Event.CONFIRMATION:
                return view.confirmations(terms.confirmations)
            case Event.DOUBLE_SPEND:
                return view.double_spends()
            case Event.CONFIDENCE:
                return view.confidences(terms.confidence)
            case Event.NEW_BLOCK | Event.FORWARD:
                raise AssertionError("a subscription to blocks, or of a forward, has no payments")

    def depth_of(self, subscription: Subscription) -> int:
        """The depth at which nothing more is told of a payment."""
        return _depth_of(wire.decode_terms(subscription.terms))

    def baseline_of(self, subscription: Subscription) -> bytes:
        """Nothing was told."""
        return b""

    def request_of(self, subscription: Subscription, message: Message, moment: Moment) -> OutgoingRequest:
        """Render the POST: the body as it was sent before, date and signatures anew."""
        hook = moment.hook
        assert hook is not None  # all subscriptions of this dialect belong to hooks
        body = hook.last_body
        if body is None:
            body = wire.body_of(
                subscription, message.payload, hook, self.network, transactions_url=self.transactions_url
            )
        event = wire.decode_terms(subscription.terms).event
        headers = wire.headers_of(event, hook, subscription.url, body, message_id=message.message_id, now=moment.now)
        return OutgoingRequest(method="POST", url=subscription.url, headers=headers, body=body)

    def outcome_of(self, sent_payload: bytes, answer: Answer) -> Outcome:
        """Any 2xx acknowledges."""
        return Outcome.ACKNOWLEDGED if answer.is_success else Outcome.FAILED

    def next_try(self, message: Message, answer: Answer, *, jitter: float) -> NextTry:
        """After 1, 2, 4, 8 and 16 s, then doubling up to an hour, for ever."""
        tries = max(1, message.tries)
        spread = jitter if tries > QUICK_RETRIES else 0.0
        pause_s = doubling_delay_s(tries, first_s=FIRST_RETRY_S, limit_s=LONGEST_RETRY_S, jitter=spread)
        return NextTry(after_s=pause_s)

    def block_wish_of(self, subscription: Subscription) -> BlockWish:
        """Every block, as soon as it is our tip."""
        return BlockWish(confirmations=1, is_once=False)

    def block_payload_of(self, block: Block) -> bytes:
        """Return what is told of a block."""
        return wire.encode_block(block)


def _depth_of(terms: HookTerms) -> int:
    return terms.confirmations if terms.event is Event.CONFIRMATION else 1


class _View:
    """One subscription's payments at one moment, and what each kind of hook is told of them."""

    def __init__(
        self,
        subscription: Subscription,
        payments: ScriptPayments,
        *,
        told: Mapping[str, MessageState],
        tip_height: int,
        now: float,
    ) -> None:
        self._subscription = subscription
        self._payments = payments
        self._told = told
        self._tip_height = tip_height
        self._now = now

    def unconfirmed(self) -> Review:
        """Each payment that is seen outside a block, once."""
        entries = [
            entry
            for entry in self._entries(depth=1)
            if isinstance(entry.state, Unconfirmed) or hex_of(entry.txid) in self._told
        ]
        return _review_of(self._notice(hex_of(entry.txid), entry) for entry in entries)

    def confirmed(self) -> Review:
        """Each payment once for each block that it was in."""
        return _review_of(
            self._notice(f"{hex_of(entry.txid)}:{hex_of(entry.state.block_hash)}", entry)
            for entry in self._entries(depth=1)
            if isinstance(entry.state, Confirmed)
        )

    def confirmations(self, depth: int) -> Review:
        """Each payment unconfirmed, unless it was first seen in a block, and then at each depth, in order."""
        notices: list[Notice] = []
        awaits_more = False
        for entry in self._entries(depth=depth):
            unconfirmed = f"{hex_of(entry.txid)}:0"
            if unconfirmed in self._told or isinstance(entry.state, Unconfirmed):
                notices.append(self._notice(unconfirmed, entry))
            reached = self._depth_of(entry)
            awaits_more |= reached < depth
            if isinstance(entry.state, Confirmed):
                topic = f"{hex_of(entry.txid)}:{hex_of(entry.state.block_hash)}"
                notices += [
                    self._notice(f"{topic}:{number}", entry, confirmations=number)
                    for number in range(1, min(reached, depth) + 1)
                ]
        return Review(
            notices=tuple(notices), wake_height=self._tip_height + 1 if awaits_more else None, awaits_more=awaits_more
        )

    def double_spends(self) -> Review:
        """Each payment to the address that was lost to another transaction since the hook was made.

        What the address itself sends may be replaced by its owner, who raises a fee: that is no double spend of his.
        """
        since = self._subscription.created_at
        return _review_of(
            self._notice(f"{hex_of(entry.txid)}:{hex_of(entry.state.by_txid)}", entry)
            for entry in self._payments.entries.values()
            if isinstance(entry.state, Replaced)
            and entry.net_sat > 0
            and entry.gone_at is not None
            and entry.gone_at >= since
            and self._subscription.is_in_time(entry)
        )

    def confidences(self, threshold: float) -> Review:
        """Each payment when its confidence reaches the threshold, or after one minute whatever it is."""
        notices: list[Notice] = []
        waits: list[float] = []
        for entry in self._entries(depth=1):
            topic = hex_of(entry.txid)
            told_at = self._now if topic in self._told else self._confident_at(entry, threshold)
            if told_at <= self._now:
                notices.append(self._notice(topic, entry))
            else:
                waits.append(told_at)
        return Review(
            notices=tuple(notices), wake_height=None, wake_at=min(waits, default=None), awaits_more=bool(waits)
        )

    def _confident_at(self, entry: LedgerEntry, threshold: float) -> float:
        standing = self._payments.standings.get(entry.txid, UNKNOWN_STANDING)
        return next(
            (
                float(entry.seen_at + age_s)
                for age_s in range(CONFIDENCE_WAIT_S)
                if confidence_of(entry, standing, now=entry.seen_at + age_s) >= threshold
            ),
            float(entry.seen_at + CONFIDENCE_WAIT_S),
        )

    def _entries(self, *, depth: int) -> Iterable[LedgerEntry]:
        return self._subscription.payments_of(self._payments, confirmations=depth)

    def _depth_of(self, entry: LedgerEntry) -> int:
        return self._tip_height - entry.state.height + 1 if isinstance(entry.state, Confirmed) else 0

    def _notice(self, topic: str, entry: LedgerEntry, *, confirmations: int | None = None) -> Notice:
        """Return a notice; one that was written before stays as it is."""
        if topic in self._told:
            return Notice(topic=topic, payload=None, txid=entry.txid)
        standing = self._payments.standings.get(entry.txid, UNKNOWN_STANDING)
        payload = wire.encode_payment(
            entry,
            confirmations=max(0, self._depth_of(entry)) if confirmations is None else confirmations,
            confidence=confidence_of(entry, standing, now=self._now),
        )
        return Notice(topic=topic, payload=payload, txid=entry.txid)


def _review_of(notices: Iterable[Notice]) -> Review:
    return Review(notices=tuple(notices), wake_height=None)
