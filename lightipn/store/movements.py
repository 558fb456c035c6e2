"""Movements of accounts on disk: append-only; an account's sums move with each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid
from lightipn.ledger.accounts import Movement, MovementKind, ReservationStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedMovement:
    """A movement as it is kept; ``txid`` and ``address`` are empty for an adjustment, ``reference`` for all others."""

    number: int
    movement: Movement
    txid: Txid | None
    address: str
    reference: str
    happened_at: int


def add_movement(
    db: Database,
    account_id: int,
    movement: Movement,
    *,
    scripthash: ScriptHash | None = None,
    txid: Txid | None = None,
    reference: str | None = None,
    now: int,
) -> int:
    """Append a movement, move the account's sums with it, and return its number."""
    cursor = db.execute(
        "INSERT INTO movement (account_id, scripthash, txid, kind, status, amount_sat, balance_sat, locked_sat, cause,"
        " block_hash, height, reference, happened_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            account_id,
            scripthash,
            txid,
            movement.kind.value,
            movement.status.value,
            movement.amount_sat,
            movement.balance_sat,
            movement.locked_sat,
            movement.cause,
            movement.block_hash,
            movement.height,
            reference,
            now,
        ],
    )
    db.execute(
        "UPDATE account SET balance_sat = balance_sat + ?, locked_sat = locked_sat + ? WHERE account_id = ?",
        [movement.balance_sat, movement.locked_sat, account_id],
    )
    return int(cursor.lastrowid or 0)


_MOVEMENT = (
    "number, kind, status, amount_sat, balance_sat, locked_sat, cause, block_hash, height, txid,"
    " coalesce((SELECT address FROM account_address WHERE account_address.account_id = movement.account_id"
    " AND account_address.scripthash = movement.scripthash), ''), coalesce(reference, ''), happened_at"
)


def _movement_of(row: tuple[Any, ...]) -> RecordedMovement:
    movement = Movement(
        kind=MovementKind(row[1]),
        status=ReservationStatus(row[2]),
        amount_sat=row[3],
        balance_sat=row[4],
        locked_sat=row[5],
        cause=row[6],
        block_hash=None if row[7] is None else BlockHash(row[7]),
        height=row[8],
    )
    return RecordedMovement(
        number=row[0],
        movement=movement,
        txid=None if row[9] is None else Txid(row[9]),
        address=row[10],
        reference=row[11],
        happened_at=row[12],
    )


def load_movements(db: Database, account_id: int, *, limit: int) -> Sequence[RecordedMovement]:
    """Return an account's movements, newest first."""
    rows = db.execute(
        f"SELECT {_MOVEMENT} FROM movement WHERE account_id = ? ORDER BY number DESC LIMIT ?", [account_id, limit]
    ).fetchall()
    return [_movement_of(row) for row in rows]


def load_adjustment(db: Database, account_id: int, reference: str) -> RecordedMovement | None:
    """Return the adjustment of an account with this reference, or None."""
    row = db.execute(
        f"SELECT {_MOVEMENT} FROM movement WHERE account_id = ? AND reference = ?", [account_id, reference]
    ).fetchone()
    return _movement_of(row) if row else None
