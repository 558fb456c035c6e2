"""Which payments and blocks are told, what ends the telling, and when it is repeated."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import assert_never

from lightipn.bitcoin.hashes import hex_of
from lightipn.dialects.receive import wire
from lightipn.ledger.entries import LedgerEntry, ScriptPayments
from lightipn.outbox.messages import Message, MessageState, NextTry, OutgoingRequest
from lightipn.outbox.policy import Block, BlockWish, Moment, Notice, Review
from lightipn.outbox.schedule import doubling_delay_s
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome

MOST_CALLS = 1000
FIRST_RETRY_S = 15.0
LONGEST_RETRY_S = 600.0
# The two moments of a balance update, as parts of topics.
_SEEN, _DEEP = ":seen", ":deep"
_OVER = (MessageState.ACKNOWLEDGED, MessageState.DEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivePolicy:
    """Every notice is told once a tip until ``*ok*``; between two blocks only where no answer came at all."""

    def review(
        self,
        subscription: Subscription,
        payments: ScriptPayments,
        *,
        told: Mapping[str, MessageState],
        tip_height: int,
        now: float,
    ) -> Review:
        """Say which payments are told, and with balance updates at which of their two moments."""
        terms = wire.decode_terms(subscription.terms)
        match terms:
            case wire.AddressTerms():
                paid = [e for e in subscription.payments_of(payments, confirmations=1) if e.net_sat > 0]
                return Review(notices=tuple(_notice_of(entry, "") for entry in paid), wake_height=None)
            case wire.BalanceTerms():
                return _balance_review(terms, subscription, payments, told=told, tip_height=tip_height)
            case wire.BlockTerms():
                raise AssertionError("a subscription to blocks has no payments")
            case _:
                assert_never(terms)

    def depth_of(self, subscription: Subscription) -> int:
        """One block for an address; of a balance update what it asks for."""
        terms = wire.decode_terms(subscription.terms)
        return max(1, terms.confirmations) if isinstance(terms, wire.BalanceTerms) else 1

    def baseline_of(self, subscription: Subscription) -> bytes:
        """Nothing was told."""
        return b""

    def request_of(self, subscription: Subscription, message: Message, moment: Moment) -> OutgoingRequest:
        """Render the GET."""
        url = wire.url_of(
            subscription, message.payload, confirmations=moment.confirmations, tip_height=moment.tip_height
        )
        return OutgoingRequest(method="GET", url=url, headers={}, body=b"")

    def outcome_of(self, sent_payload: bytes, answer: Answer) -> Outcome:
        """Acknowledged by a 2xx whose body is ``*ok*``."""
        if not answer.is_success:
            return Outcome.FAILED
        return Outcome.ACKNOWLEDGED if wire.is_acknowledgement(answer.body) else Outcome.NOT_ACKNOWLEDGED

    def next_try(self, message: Message, answer: Answer, *, jitter: float) -> NextTry:
        """With the next tip, up to 1,000 of them; sooner where no answer came."""
        if message.tips >= MOST_CALLS:
            return NextTry()
        if answer.status is not None:
            return NextTry(with_next_tip=True)
        tries = min(max(1, message.failures + 1), 32)
        pause_s = doubling_delay_s(tries, first_s=FIRST_RETRY_S, limit_s=LONGEST_RETRY_S, jitter=jitter)
        return NextTry(after_s=pause_s, with_next_tip=True)

    def block_wish_of(self, subscription: Subscription) -> BlockWish:
        """Return the depth at which a block is told, and whether it is the only one."""
        terms = wire.decode_terms(subscription.terms)
        assert isinstance(terms, wire.BlockTerms)  # no other subscription is about blocks
        return BlockWish(confirmations=terms.confirmations, is_once=terms.on_notification is wire.OnNotification.DELETE)

    def block_payload_of(self, block: Block) -> bytes:
        """Return what is told of a block."""
        return wire.encode_block(block)


def _notice_of(entry: LedgerEntry, moment: str) -> Notice:
    payload = wire.encode_payment(entry.txid, value_sat=entry.net_sat)
    return Notice(topic=_topic_of(entry, moment), payload=payload, txid=entry.txid)


def _topic_of(entry: LedgerEntry, moment: str) -> str:
    return f"{hex_of(entry.txid)}{moment}"


def _is_wanted(entry: LedgerEntry, op: wire.Operation) -> bool:
    match op:
        case wire.Operation.RECEIVE:
            return entry.net_sat > 0
        case wire.Operation.SPEND:
            return entry.net_sat < 0
        case wire.Operation.ALL:
            return True


def _balance_review(
    terms: wire.BalanceTerms,
    subscription: Subscription,
    payments: ScriptPayments,
    *,
    told: Mapping[str, MessageState],
    tip_height: int,
) -> Review:
    """Tell each payment when it is seen, and again when it is deep enough; ``DELETE`` ends with the first deep one."""
    depth = max(1, terms.confirmations)
    wanted = [e for e in subscription.payments_of(payments, confirmations=depth) if _is_wanted(e, terms.op)]
    deep = [e for e in wanted if _is_deep(e, terms.confirmations, tip_height)]
    if terms.on_notification is wire.OnNotification.DELETE:
        if any(topic.endswith(_DEEP) and told[topic] in _OVER for topic in told):
            return Review(notices=(), wake_height=None, is_over=True, awaits_more=False)
        chosen = [entry for entry in wanted if _topic_of(entry, _DEEP) in told] or sorted(deep, key=_order_of)
        if chosen:
            return Review(notices=(_notice_of(chosen[0], _DEEP),), wake_height=None)
    # What was told as deep is not told as seen when a reorg takes it back.
    deep_txids = {e.txid for e in deep} | {e.txid for e in wanted if _topic_of(e, _DEEP) in told}
    deep = [e for e in wanted if e.txid in deep_txids]
    waiting = [e for e in wanted if e.txid not in deep_txids]
    heights = [entry.counts_at_height(depth) for entry in waiting]
    return Review(
        notices=(*_notices_of(deep, _DEEP), *_notices_of(waiting, _SEEN)),
        wake_height=min((height for height in heights if height is not None), default=None),
        awaits_more=bool(waiting),
    )


def _notices_of(entries: list[LedgerEntry], moment: str) -> Iterator[Notice]:
    return (_notice_of(entry, moment) for entry in entries)


def _is_deep(entry: LedgerEntry, confirmations: int, tip_height: int) -> bool:
    if confirmations == 0:
        return True
    counted_at = entry.counts_at_height(confirmations)
    return counted_at is not None and counted_at <= tip_height


def _order_of(entry: LedgerEntry) -> tuple[int, int, bytes]:
    """Order payments by when they became deep; then by when they were seen."""
    return entry.counts_at_height(1) or 0, entry.seen_at, entry.txid
