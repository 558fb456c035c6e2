"""The rules by which verified facts change the ledger.

    absorbed(payments, verified history)  ──►  LedgerDelta       what is new, where it is now, what replaced what
    reverted(entry)                       ──►  entry, event      its block left the chain
    replaced(payments, txid, by)          ──►  LedgerDelta       one of its inputs was spent elsewhere
    dropped(payments, txid)               ──►  LedgerDelta       no server knows it any more

Laws (each a test): absorbing a history twice changes nothing the second time; the order in which histories arrive does
not change the sums; a replaced payment and the one that replaced it change in one delta, so a total never flickers.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import assert_never

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import MAX_MONEY_SAT, Outpoint, Transaction
from lightipn.chain.verifier import Confirmed, Unconfirmed, VerifiedEntry, VerifiedHistory
from lightipn.ledger.entries import GONE, Dropped, LedgerEntry, PaymentState, Replaced, ScriptPayments
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel, trust_of
from lightipn.ledger.relevance import own_outputs_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerDelta:
    """What changes for one script: entries to write, and the events that follow."""

    scripthash: ScriptHash
    entries: tuple[LedgerEntry, ...]
    events: tuple[PaymentEvent, ...]


def absorbed(
    payments: ScriptPayments, verified: VerifiedHistory, *, now: int, listed: AbstractSet[Txid] | None = None
) -> LedgerDelta:
    """Work a verified history into a script's payments.

    Args:
        listed: what the whole history lists, where ``verified`` is a part of it.
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
    _mark_replaced(entries, [fact.txid for fact in verified.entries], standing_before=payments.entries)
    _mark_orphaned(entries, {fact.txid for fact in verified.entries} if listed is None else listed)
    _recount_sent(entries, payments.unproved)
    return _delta_of(payments, entries, now=now)


def _delta_of(payments: ScriptPayments, entries: Mapping[Txid, LedgerEntry], *, now: int) -> LedgerDelta:
    changed = {txid: _timed(entry, now=now) for txid, entry in entries.items() if payments.entries.get(txid) != entry}
    events = tuple(
        event
        for txid, entry in changed.items()
        for event in _events_of(payments.scripthash, payments.entries.get(txid), entry, entries)
    )
    return LedgerDelta(scripthash=payments.scripthash, entries=tuple(changed.values()), events=events)


def _timed(entry: LedgerEntry, *, now: int) -> LedgerEntry:
    """Return a changed entry that says when it was lost, if it was."""
    if not isinstance(entry.state, GONE):
        return entry if entry.gone_at is None else replace(entry, gone_at=None)
    return entry if entry.gone_at is not None else replace(entry, gone_at=now)


def reverted(scripthash: ScriptHash, entry: LedgerEntry) -> tuple[LedgerEntry, PaymentEvent]:
    """Take a payment out of its block, because a reorg took the block out of the chain."""
    after = replace(entry, state=Unconfirmed())
    (event,) = _events_of(scripthash, entry, after, {})
    return after, event


def replaced(payments: ScriptPayments, txid: Txid, by: VerifiedEntry, *, now: int) -> LedgerDelta:
    """Replace an unconfirmed payment by a transaction that spends one of its inputs.

    Where that pays the script as well, it enters in the same delta: old gone and new seen are one change.

    Args:
        by: with its transaction.
    """
    assert by.transaction is not None
    entry = payments.entries.get(txid)
    is_possible = isinstance(by.place, Confirmed) or not _spent_in_blocks(payments.entries.values()).keys() & set(
        by.transaction.spends
    )
    if entry is None or not isinstance(entry.state, Unconfirmed) or not is_possible:
        return LedgerDelta(scripthash=payments.scripthash, entries=(), events=())
    outputs = own_outputs_of(payments, ())
    if by.transaction.received_by(payments.script) or outputs.intersection(by.transaction.spends):
        return absorbed(payments, VerifiedHistory(entries=(by,), unproved=()), now=now)
    entries = payments.entries | {txid: replace(entry, state=Replaced(by.txid))}
    _mark_orphaned(entries, set())
    delta = _delta_of(payments, entries, now=now)
    trust = TrustLevel.PROVED if isinstance(by.place, Confirmed) else trust_of(by.place.seen_by)
    return replace(delta, events=tuple(replace(event, trust=trust) for event in delta.events))


def dropped(payments: ScriptPayments, txid: Txid, *, denied_by: int, now: int) -> LedgerDelta:
    """Let go of an unconfirmed payment that no server knows any more.

    Args:
        denied_by: how many servers said so.
    """
    entry = payments.entries.get(txid)
    if entry is None or not isinstance(entry.state, Unconfirmed):
        return LedgerDelta(scripthash=payments.scripthash, entries=(), events=())
    delta = _delta_of(payments, payments.entries | {txid: replace(entry, state=Dropped())}, now=now)
    return replace(delta, events=tuple(replace(event, trust=trust_of(denied_by)) for event in delta.events))


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


def _mark_replaced(
    entries: dict[Txid, LedgerEntry], listed: Sequence[Txid], *, standing_before: Mapping[Txid, LedgerEntry]
) -> None:
    """Mark what shares an input with a transaction that stands: both can never be in one chain.

    What is confirmed stands against everything. Among claims the one that is new here wins: it was admitted because
    servers hold it that do not hold the older one.
    """

    def is_old(txid: Txid) -> bool:
        before = standing_before.get(txid)
        return before is not None and isinstance(before.state, Unconfirmed)

    standing = _spent_in_blocks(entries.values())
    proved = frozenset(standing)
    claimed = [txid for txid in listed if isinstance(entries[txid].state, Unconfirmed)]
    for txid in sorted(claimed, key=is_old, reverse=True):
        spends = entries[txid].spends
        if proved.isdisjoint(spends):  # else it is gone itself, and takes no other one's place
            standing |= dict.fromkeys(spends, txid)
    for txid, entry in entries.items():
        if not isinstance(entry.state, Unconfirmed) or entry.is_coinbase:
            continue
        rivals = (standing.get(outpoint, txid) for outpoint in entry.spends)
        by_txid = next((rival for rival in rivals if rival != txid), None)
        if by_txid is not None:
            entries[txid] = replace(entry, state=Replaced(by_txid))


def _spent_in_blocks(entries: Iterable[LedgerEntry]) -> dict[Outpoint, Txid]:
    """Return what proved transactions spend; mined coins spend nothing, though all name the same null outpoint."""
    return {
        outpoint: entry.txid
        for entry in entries
        if isinstance(entry.state, Confirmed) and not entry.is_coinbase
        for outpoint in entry.spends
    }


def _mark_orphaned(entries: dict[Txid, LedgerEntry], listed: AbstractSet[Txid]) -> None:
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


def _recount_sent(entries: dict[Txid, LedgerEntry], unproved: Mapping[Outpoint, int]) -> None:
    """Count what each transaction spends of the script's own outputs; a parent may have come after its child."""
    own = dict(unproved) | {
        Outpoint(txid, index): amount_sat for txid, entry in entries.items() for index, amount_sat in entry.outputs
    }
    for txid, entry in entries.items():
        # bounded: a made-up child may "spend" the outputs of many made-up parents
        sent_sat = min(sum(own.get(outpoint, 0) for outpoint in entry.spends), MAX_MONEY_SAT)
        if sent_sat != entry.sent_sat:
            entries[txid] = replace(entry, sent_sat=sent_sat)


def _trust_in_rival(rival: LedgerEntry | None) -> TrustLevel:
    match rival:
        case LedgerEntry(state=Confirmed()):
            return TrustLevel.PROVED
        case LedgerEntry(state=Unconfirmed(seen_by)):
            return trust_of(seen_by)
        case _:
            return TrustLevel.SINGLE  # a rival of the parent's, who pays others; ``replaced`` knows better


def _events_of(
    scripthash: ScriptHash, before: LedgerEntry | None, after: LedgerEntry, entries: Mapping[Txid, LedgerEntry]
) -> list[PaymentEvent]:
    if before is None and isinstance(after.state, GONE):
        return []  # it never stood, so nobody was told that it was there

    def event(kind: EventKind, place: Confirmed | None = None, **fields: object) -> PaymentEvent:
        height = place.height if place else None
        block_hash = place.block_hash if place else None
        facts = {"trust": TrustLevel.PROVED, "height": height, "block_hash": block_hash} | fields
        return PaymentEvent(
            kind=kind,
            scripthash=scripthash,
            txid=after.txid,
            net_sat=after.net_sat,
            signals_rbf=after.signals_rbf,
            **facts,  # type: ignore[arg-type]  # the fields of PaymentEvent
        )

    was = before.state if before else None
    match was, after.state:
        case _, _ if was == after.state:
            return []
        case Confirmed() as old, Unconfirmed():
            return [event(EventKind.REVERTED, old)]
        case Unconfirmed(), Unconfirmed():
            return []
        case _, Unconfirmed(seen_by):
            return [event(EventKind.SEEN, trust=trust_of(seen_by), seen_by=seen_by)]
        case Confirmed() as old, Confirmed() as new:
            return [event(EventKind.REVERTED, old), event(EventKind.CONFIRMED, new)]
        case _, Confirmed() as place:
            return [event(EventKind.CONFIRMED, place)]
        case _, Replaced(by_txid):
            trust = _trust_in_rival(entries.get(by_txid))
            return [event(EventKind.REPLACED, trust=trust, replaced_by=by_txid)]
        case _, Dropped():
            return [event(EventKind.DROPPED)]
        case _:
            assert_never(after.state)
