"""Deposits of accounts on disk: what was made of each payment to an account's address.

``settle_script`` runs in the transaction of each ledger change, so an account is never behind the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid
from lightipn.ledger.accounts import Deposit, DepositStatus, is_deposit, new_deposit, settled
from lightipn.ledger.entries import ScriptPayments
from lightipn.store import ledger
from lightipn.store.movements import add_movement

WOKEN_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDeposit:
    """A deposit, and the address that it was paid to."""

    deposit: Deposit
    scripthash: ScriptHash
    address: str


_DEPOSIT = (
    "deposit.txid, amount_sat, status, locked_sat, credited_sat, seen_at, block_hash, height, replaced_by, wake_height"
)


def _deposit_of(row: tuple[Any, ...]) -> Deposit:
    return Deposit(
        txid=Txid(row[0]),
        amount_sat=row[1],
        status=DepositStatus(row[2]),
        locked_sat=row[3],
        credited_sat=row[4],
        seen_at=row[5],
        block_hash=None if row[6] is None else BlockHash(row[6]),
        height=row[7],
        replaced_by=None if row[8] is None else Txid(row[8]),
        wake_height=row[9],
    )


def settle_script(db: Database, payments: ScriptPayments, *, tip_height: int, now: int) -> None:
    """Bring all deposits to a script in line with its payments."""
    rows = db.execute(
        "SELECT account_id, credit_confirmations FROM account_address JOIN account USING (account_id)"
        " WHERE scripthash = ?",
        [payments.scripthash],
    ).fetchall()
    for account_id, credit_confirmations in rows:
        known = load_known(db, account_id, payments.scripthash)
        for entry in payments.entries.values():
            before = known.get(entry.txid)
            if before is None and not is_deposit(entry):
                continue
            after, movements = settled(
                before or new_deposit(entry),
                entry,
                tip_height=tip_height,
                credit_confirmations=credit_confirmations,
            )
            if after != before:
                _save_deposit(db, account_id, payments.scripthash, after, is_new=before is None, now=now)
            for movement in movements:
                add_movement(db, account_id, movement, scripthash=payments.scripthash, txid=entry.txid, now=now)


def load_known(db: Database, account_id: int, scripthash: ScriptHash) -> dict[Txid, Deposit]:
    """Return an account's deposits to a script, by their txids."""
    rows = db.execute(
        f"SELECT {_DEPOSIT} FROM deposit WHERE account_id = ? AND scripthash = ?", [account_id, scripthash]
    ).fetchall()
    return {deposit.txid: deposit for deposit in map(_deposit_of, rows)}


def _save_deposit(
    db: Database, account_id: int, scripthash: ScriptHash, deposit: Deposit, *, is_new: bool, now: int
) -> None:
    db.execute(
        "INSERT OR REPLACE INTO deposit (account_id, scripthash, txid, amount_sat, status, locked_sat, credited_sat,"
        " seen_at, block_hash, height, replaced_by, wake_height) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            account_id,
            scripthash,
            deposit.txid,
            deposit.amount_sat,
            deposit.status.value,
            deposit.locked_sat,
            deposit.credited_sat,
            deposit.seen_at,
            deposit.block_hash,
            deposit.height,
            deposit.replaced_by,
            deposit.wake_height,
        ],
    )
    if is_new:
        db.execute(
            "UPDATE account_address SET used_at = max(used_at, ?) WHERE account_id = ? AND scripthash = ?",
            [now, account_id, scripthash],
        )


def settle_woken(db: Database, *, tip_height: int, now: int) -> bool:
    """Credit the deposits that became deep enough by a block alone: one page; True if more may wait."""
    rows = db.execute(
        "SELECT DISTINCT scripthash FROM deposit INDEXED BY deposit_wake WHERE wake_height <= ? LIMIT ?",
        [tip_height, WOKEN_PAGE],
    ).fetchall()
    for (scripthash,) in rows:
        payments = ledger.load_payments(db, ScriptHash(scripthash))
        assert payments is not None  # an account's addresses are watched for good
        settle_script(db, payments, tip_height=tip_height, now=now)
    return len(rows) == WOKEN_PAGE


def load_deposits(db: Database, account_id: int, *, limit: int) -> Sequence[RecordedDeposit]:
    """Return an account's deposits, newest first."""
    rows = db.execute(
        f"SELECT {_DEPOSIT}, deposit.scripthash, address FROM deposit JOIN account_address"
        " USING (account_id, scripthash) WHERE account_id = ? ORDER BY seen_at DESC, deposit.txid LIMIT ?",
        [account_id, limit],
    ).fetchall()
    return [RecordedDeposit(deposit=_deposit_of(row), scripthash=ScriptHash(row[10]), address=row[11]) for row in rows]
