"""Subscriptions: who wants to be told what, and which payments that is about."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.chain.verifier import Confirmed
from lightipn.ledger.entries import GONE, LedgerEntry, ScriptPayments


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
        hook_id: the hook that it is a part of; None for none.
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
    hook_id: str | None = None
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
        return self.is_in_time(entry) and not self.is_past(entry, confirmations=confirmations)

    def is_in_time(self, entry: LedgerEntry) -> bool:
        """Tell whether a payment was seen before the end."""
        is_late = self.expires_at is not None and entry.seen_at >= self.expires_at
        return not is_late and (self.last_seen_at is None or entry.seen_at <= self.last_seen_at)

    def is_past(self, entry: LedgerEntry, *, confirmations: int) -> bool:
        """Tell whether a payment was so deep when the subscription was made."""
        counted_at = entry.counts_at_height(confirmations)
        is_old = counted_at is not None and self.since_height is not None and counted_at <= self.since_height
        return is_old or entry.txid in self.past

    def payments_of(self, payments: ScriptPayments, *, confirmations: int) -> Iterator[LedgerEntry]:
        """Yield the payments that are told, of all of its script."""
        return (entry for entry in payments.entries.values() if self.is_about(entry, confirmations=confirmations))
