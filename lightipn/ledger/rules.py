"""The rules by which verified facts change the ledger.

    absorbed(payments, verified history)  ──►  LedgerDelta       what is new, where it is now, what replaced what
    reverted(entry)                       ──►  entry, event      its block left the chain

Laws (each a test): absorbing a history twice changes nothing the second time; the order in which histories arrive does
not change the sums; a replaced payment and the one that replaced it change in one delta, so a total never flickers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import MAX_MONEY_SAT, Outpoint, Transaction
from lightipn.chain.verifier import Confirmed, Unconfirmed, VerifiedHistory
from lightipn.ledger.entries import LedgerEntry, PaymentState, Replaced, ScriptPayments
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerDelta:
    """What changes for one script: entries to write, and the events that follow."""

    scripthash: ScriptHash
    entries: tuple[LedgerEntry, ...]
    events: tuple[PaymentEvent, ...]


def absorbed(payments: ScriptPayments, verified: VerifiedHistory, *, now: int) -> LedgerDelta:
    """Work a verified history into a script's payments.

    Args:
        now: unix seconds; ``seen_at`` of what is new.
    """
    entries = dict(payments.entries)
    for fact in verified.entries:
        before = entries.get(fact.txid)
        if before is not None:
            # what was proved is undone by a reorg alone (``reverted``), never by a claim that says less
            is_less = isinstance(before.state, Confirmed) and isinstance(fact.place, Unconfirmed)
            entries[fact.txid] = before if is_less else replace(before, state=fact.place)
        else:
            assert fact.transaction is not None
            entries[fact.txid] = _new_entry(payments.script, fact.transaction, state=fact.place, now=now)
    listed = [fact.txid for fact in verified.entries]
    _mark_replaced(entries, listed)
    _mark_orphaned(entries, set(listed))
    _recount_sent(entries)
    changed = {txid: entry for txid, entry in entries.items() if payments.entries.get(txid) != entry}
    events = tuple(
        event
        for txid, entry in changed.items()
        for event in _events_of(payments.scripthash, payments.entries.get(txid), entry)
    )
    return LedgerDelta(scripthash=payments.scripthash, entries=tuple(changed.values()), events=events)


def reverted(scripthash: ScriptHash, entry: LedgerEntry) -> tuple[LedgerEntry, PaymentEvent]:
    """Take a payment out of its block, because a reorg took the block out of the chain."""
    after = replace(entry, state=Unconfirmed())
    (event,) = _events_of(scripthash, entry, after)
    return after, event


def _new_entry(script: bytes, transaction: Transaction, *, state: PaymentState, now: int) -> LedgerEntry:
    return LedgerEntry(
        txid=transaction.txid,
        state=state,
        outputs=tuple(transaction.received_by(script).items()),
        spends=transaction.spends,
        sent_sat=0,
        is_coinbase=transaction.is_coinbase,
        signals_rbf=transaction.signals_rbf,
        seen_at=now,
    )


def _mark_replaced(entries: dict[Txid, LedgerEntry], listed: Sequence[Txid]) -> None:
    """Mark what shares an input with a listed transaction: both can never be in one chain.

    A server that lists both is wrong about one: a confirmed one stands, else the one that is listed last.
    """
    standing: dict[Outpoint, Txid] = {}
    for txid in listed:
        for outpoint in entries[txid].spends:
            rival = standing.get(outpoint)
            if rival is None or not isinstance(entries[rival].state, Confirmed):
                standing[outpoint] = txid
    for txid, entry in entries.items():
        if not isinstance(entry.state, Unconfirmed):
            continue
        rivals = (standing.get(outpoint, txid) for outpoint in entry.spends)
        by_txid = next((rival for rival in rivals if rival != txid), None)
        if by_txid is not None:
            entries[txid] = replace(entry, state=Replaced(by_txid))


def _mark_orphaned(entries: dict[Txid, LedgerEntry], listed: set[Txid]) -> None:
    """Mark what is listed no more and spends an output of a replaced payment: that output will never exist."""
    found = True
    while found:  # a child marked in one round has children of its own in the next
        found = False
        for txid, entry in entries.items():
            if txid in listed or not isinstance(entry.state, Unconfirmed):
                continue
            parents = (entries[outpoint.txid].state for outpoint in entry.spends if outpoint.txid in entries)
            gone = next((state for state in parents if isinstance(state, Replaced)), None)
            if gone is not None:
                entries[txid] = replace(entry, state=gone)
                found = True


def _recount_sent(entries: dict[Txid, LedgerEntry]) -> None:
    """Count what each transaction spends of the script's own outputs; a parent may have come after its child."""
    own: Mapping[Outpoint, int] = {
        Outpoint(txid, index): amount_sat for txid, entry in entries.items() for index, amount_sat in entry.outputs
    }
    for txid, entry in entries.items():
        # bounded: a made-up child may "spend" the outputs of many made-up parents
        sent_sat = min(sum(own.get(outpoint, 0) for outpoint in entry.spends), MAX_MONEY_SAT)
        if sent_sat != entry.sent_sat:
            entries[txid] = replace(entry, sent_sat=sent_sat)


def _events_of(scripthash: ScriptHash, before: LedgerEntry | None, after: LedgerEntry) -> list[PaymentEvent]:
    def event(kind: EventKind, **fields: object) -> PaymentEvent:
        trust = TrustLevel.PROVED if isinstance(after.state, Confirmed) else TrustLevel.SINGLE
        facts = {"height": None, "trust": trust} | fields
        return PaymentEvent(kind=kind, scripthash=scripthash, txid=after.txid, net_sat=after.net_sat, **facts)  # type: ignore[arg-type]  # the fields of PaymentEvent

    was = before.state if before else None
    match was, after.state:
        case _, _ if was == after.state:
            return []
        case ((None | Replaced()), Unconfirmed()):
            return [event(EventKind.SEEN)]
        case Confirmed(height=height), Unconfirmed():
            return [event(EventKind.REVERTED, height=height)]
        case Confirmed(height=old), Confirmed(height=new):
            return [event(EventKind.REVERTED, height=old), event(EventKind.CONFIRMED, height=new)]
        case _, Confirmed(height=height):
            return [event(EventKind.CONFIRMED, height=height)]
        case _, Replaced(by_txid):
            return [event(EventKind.REPLACED, replaced_by=by_txid)]
        case _:
            return []
