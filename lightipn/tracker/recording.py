"""What follows from a ledger change, all in its own transaction: entries, events, and the messages that are due."""

from collections.abc import Mapping
from dataclasses import replace

from lightipn.ledger.entries import ScriptPayments
from lightipn.ledger.rules import LedgerDelta
from lightipn.outbox.messages import Policy
from lightipn.store import chain as chain_store
from lightipn.store import events as event_store
from lightipn.store import ledger as ledger_store
from lightipn.store import reviews
from lightipn.store.database import Database


def record_delta(
    db: Database, policies: Mapping[str, Policy], payments: ScriptPayments, delta: LedgerDelta, *, now: float
) -> bool:
    """Write one script's change; True if a message is due because of it.

    Args:
        payments: as they stood when ``delta`` was made, in this very transaction.
        now: unix seconds.
    """
    if not delta.entries:
        return False
    ledger_store.save_entries(db, delta.scripthash, delta.entries)
    event_store.save_payment_events(db, delta.events, now=int(now))
    after = replace(payments, entries=payments.entries | {entry.txid: entry for entry in delta.entries})
    return reviews.review_payments(db, policies, after, tip_height=chain_store.load_tip_height(db), now=now)
