"""Steps of a ledger in tests: work facts in, write the change as the store does, and say what is expected."""

from collections.abc import Sequence
from dataclasses import replace

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Outpoint, Transaction
from lightipn.chain.verifier import Confirmed, Place, Unconfirmed, VerifiedEntry, VerifiedHistory
from lightipn.ledger.entries import GONE, PaymentState, ScriptPayments, totals_of
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from lightipn.ledger.rules import LedgerDelta, absorbed
from tests.builders import SEEN_AT, payment, payments_of, txid_of

EMPTY = payments_of()
NOTHING = LedgerDelta(scripthash=EMPTY.scripthash, entries=(), events=())
Facts = Sequence[tuple[Transaction, Place | None]]

COIN = Outpoint(txid_of(500), 0)
ORIGINAL = payment(1, amount_sat=700, spends=[COIN], change_sat=50, sequence=1)
BUMPED = payment(2, amount_sat=700, spends=[COIN], change_sat=20)


def fact(transaction: Transaction, place: Place | None) -> VerifiedEntry:
    """Return a fact with its transaction; without a place it is claimed by one server."""
    return VerifiedEntry(txid=transaction.txid, place=place or Unconfirmed(), transaction=transaction)


def verified(payments: ScriptPayments, facts: Facts) -> VerifiedHistory:
    """Return a verified history; transactions that the ledger holds come without their bytes, as the verifier does."""
    entries = [fact(transaction, place) for transaction, place in facts]
    return VerifiedHistory(
        entries=tuple(replace(one, transaction=None) if one.txid in payments.entries else one for one in entries),
        unproved=(),
    )


def written(payments: ScriptPayments, delta: LedgerDelta) -> ScriptPayments:
    """Write a change over the payments, as the store does."""
    assert delta.scripthash == payments.scripthash
    return replace(payments, entries=payments.entries | {entry.txid: entry for entry in delta.entries})


def absorb(payments: ScriptPayments, *facts: tuple[Transaction, Place | None]) -> tuple[ScriptPayments, LedgerDelta]:
    """Absorb a history of these facts, and write the change."""
    delta = absorbed(payments, verified(payments, facts), now=SEEN_AT)
    return written(payments, delta), delta


def totals(payments: ScriptPayments, *, tip_height: int = 1000, confirmations: int = 1) -> tuple[int, int]:
    """Return confirmed and unconfirmed satoshis."""
    found = totals_of(payments.entries.values(), tip_height=tip_height, confirmations=confirmations)
    return found.confirmed_sat, found.unconfirmed_sat


def states_of(source: ScriptPayments | LedgerDelta) -> dict[Txid, PaymentState]:
    """Return where each payment is, of a ledger or of a change."""
    entries = source.entries.values() if isinstance(source, ScriptPayments) else source.entries
    return {entry.txid: entry.state for entry in entries}


def standing_in(payments: ScriptPayments) -> set[Txid]:
    """Return the payments that are not gone."""
    return {txid for txid, state in states_of(payments).items() if not isinstance(state, GONE)}


def event(
    kind: EventKind, transaction: Transaction, net_sat: int, place: Confirmed | None = None, **fields: object
) -> PaymentEvent:
    """Return the event that is expected of a payment to the watched script.

    Args:
        place: the block that it names; what names none is one server's word unless the fields say more.
    """
    facts: dict[str, object] = {"trust": TrustLevel.PROVED if place else TrustLevel.SINGLE}
    if kind is EventKind.SEEN:
        facts["seen_by"] = 1
    return PaymentEvent(
        kind=kind,
        scripthash=EMPTY.scripthash,
        txid=transaction.txid,
        net_sat=net_sat,
        height=place.height if place else None,
        block_hash=place.block_hash if place else None,
        signals_rbf=transaction.signals_rbf,
        **(facts | fields),  # type: ignore[arg-type]  # each by its name
    )
