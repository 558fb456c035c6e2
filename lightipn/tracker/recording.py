"""What follows from a ledger change, all in its own transaction: entries, events, and the messages that are due."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Transaction
from lightipn.ledger.entries import ScriptPayments
from lightipn.ledger.rules import LedgerDelta
from lightipn.outbox.policy import Policy
from lightipn.store import chain as chain_store
from lightipn.store import events as event_store
from lightipn.store import ledger as ledger_store
from lightipn.store import reviews
from lightipn.store import transactions as transaction_store
from lightipn.store.database import Database
from lightipn.store.transactions import Background


def record_delta(
    db: Database,
    policies: Mapping[str, Policy],
    payments: ScriptPayments,
    delta: LedgerDelta,
    *,
    now: float,
    transactions: Iterable[Transaction] = (),
    backgrounds: Mapping[Txid, Background] | None = None,
) -> bool:
    """Write one script's change; True if a message is due because of it.

    Args:
        transactions: of what is new.
        backgrounds: what was found out about them.
        payments: as they stood when ``delta`` was made, in this very transaction.
        now: unix seconds.
    """
    if not delta.entries:
        return False
    ledger_store.save_entries(db, delta.scripthash, delta.entries)
    changed = {entry.txid for entry in delta.entries}
    if ledger_store.is_wanted_for_good(db, delta.scripthash):  # who merely looks something up fills no disk
        transaction_store.save_transactions(db, [one for one in transactions if one.txid in changed], backgrounds)
    event_store.save_payment_events(db, delta.events, now=int(now))
    after = replace(payments, entries=payments.entries | {entry.txid: entry for entry in delta.entries})
    return reviews.review_payments(db, policies, after, tip_height=chain_store.load_tip_height(db), now=now)
