"""Transactions that the ledger speaks of, whole: hooks show their inputs and outputs."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlite_utils import Database

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Transaction, TxOutput, parse_transaction
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import UNKNOWN_STANDING, ScriptPayments, Standing
from lightipn.ledger.transactions import KnownTransaction

# Larger ones are not relayed by default (400,000 weight units).
MOST_RAW_BYTES = 400_000
_SPENT = struct.Struct("<?QI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What was found out about a transaction beside what it did to a script.

    Args:
        spent: the outputs that it spends, in order, as far as they are known; empty where nobody asked.
    """

    spent: tuple[TxOutput | None, ...] = ()
    standing: Standing = UNKNOWN_STANDING


def save_transactions(
    db: Database, transactions: Iterable[Transaction], backgrounds: Mapping[Txid, Background] | None = None
) -> None:
    """Keep transactions; what is known of one already stays."""
    for transaction in transactions:
        if len(transaction.raw) > MOST_RAW_BYTES:
            continue
        background = (backgrounds or {}).get(transaction.txid, Background())
        standing = background.standing
        spent = _packed(background.spent)
        db.execute(
            "INSERT INTO payment_transaction (txid, raw, spent, has_unconfirmed_parent, vbytes_ahead, is_contested)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (txid) DO UPDATE SET spent = coalesce(spent, excluded.spent)",
            [
                transaction.txid,
                transaction.raw,
                spent,
                int(standing.has_unconfirmed_parent),
                standing.vbytes_ahead,
                int(standing.is_contested),
            ],
        )


def _packed(spent: Sequence[TxOutput | None]) -> bytes | None:
    if not spent:
        return None
    return b"".join(
        _SPENT.pack(False, 0, 0) if one is None else _SPENT.pack(True, one.amount_sat, len(one.script)) + one.script
        for one in spent
    )


def _unpacked(packed: bytes) -> list[TxOutput | None]:
    spent: list[TxOutput | None] = []
    at = 0
    while at < len(packed):
        is_known, amount_sat, length = _SPENT.unpack_from(packed, at)
        at += _SPENT.size
        spent.append(TxOutput(amount_sat=amount_sat, script=packed[at : at + length]) if is_known else None)
        at += length
    return spent


def load_transaction(db: Database, txid: Txid) -> KnownTransaction | None:
    """Return a transaction with what is known of its inputs, or None."""
    row = db.execute("SELECT raw, spent FROM payment_transaction WHERE txid = ?", [txid]).fetchone()
    if row is None:
        return None
    transaction = parse_transaction(row[0])
    spent = [None] * len(transaction.spends) if row[1] is None else _unpacked(row[1])
    return KnownTransaction(transaction=transaction, spent=tuple(spent))


def load_standings(db: Database, txids: Iterable[Txid]) -> dict[Txid, Standing]:
    """Return how transactions stood in the mempool, as far as they are kept."""
    found = {}
    for txid in txids:
        row = db.execute(
            "SELECT has_unconfirmed_parent, vbytes_ahead, is_contested FROM payment_transaction WHERE txid = ?", [txid]
        ).fetchone()
        if row is not None:
            found[txid] = Standing(has_unconfirmed_parent=bool(row[0]), vbytes_ahead=row[1], is_contested=bool(row[2]))
    return found


def with_standings(db: Database, payments: ScriptPayments) -> ScriptPayments:
    """Return payments with how the unconfirmed ones of them stand in the mempool."""
    unconfirmed = [txid for txid, entry in payments.entries.items() if isinstance(entry.state, Unconfirmed)]
    return replace(payments, standings=load_standings(db, unconfirmed)) if unconfirmed else payments


def mark_contested(db: Database, txid: Txid) -> bool:
    """Record that a rival of a transaction was seen; True if that is new."""
    cursor = db.execute("UPDATE payment_transaction SET is_contested = 1 WHERE txid = ? AND is_contested = 0", [txid])
    return cursor.rowcount > 0


def drop_transactions(db: Database, txids: Iterable[Txid]) -> None:
    """Forget transactions of which the ledger speaks no more."""
    db.conn.executemany(
        "DELETE FROM payment_transaction WHERE txid = ? AND NOT EXISTS (SELECT 1 FROM ledger_entry WHERE txid = ?)",
        [(txid, txid) for txid in txids],
    )
