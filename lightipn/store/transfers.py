"""Transfers on disk: coins that are passed on together, and the signed transactions that do it.

A coin belongs to one transfer at a time, and every version of a transfer spends all of its coins: so at most one
of them is ever mined. A version is stored before anybody sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlite_utils import Database

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint, Transaction
from lightipn.chain.verifier import Confirmed
from lightipn.ledger.entries import GONE, LedgerEntry
from lightipn.store import ledger
from lightipn.store.forwards import Coin


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A signed transaction of a transfer.

    Args:
        value_sat: what the destination gets.
        signed_height: our tip when it was signed.
        broadcast_at: when a server took it first; None before.
    """

    version_id: int
    txid: Txid
    raw: bytes
    fee_sat: int
    value_sat: int
    signed_height: int
    broadcast_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Coins that are passed on together, and all versions of the transaction that does it, oldest first.

    Args:
        forward_id: None for a sweep.
        told_txid, told_confirmations: which version was mined when it was told last, and how deep.
    """

    transfer_id: int
    forward_id: str | None
    destination: str
    state: str
    trouble: str
    told_txid: Txid | None
    told_confirmations: int
    coins: tuple[Coin, ...]
    versions: tuple[Version, ...]

    @property
    def newest(self) -> Version:
        """The version that pays most; a transfer is never without one."""
        return self.versions[-1]


def add_transfer(
    db: Database,
    *,
    forward_id: str | None,
    destination: str,
    coins: Sequence[Coin],
    signed: Transaction,
    fee_sat: int,
    value_sat: int,
    tip_height: int,
    now: int,
) -> int:
    """Store a transfer with its first signed transaction, before anybody sees it; returns its id."""
    cursor = db.execute(
        "INSERT INTO transfer (forward_id, destination, state, created_at) VALUES (?, ?, 'open', ?)",
        [forward_id, destination, now],
    )
    transfer_id = int(cursor.lastrowid or 0)
    for coin in coins:  # fails where one of them belongs to a transfer already
        db.execute(
            "INSERT INTO transfer_coin (txid, output_index, transfer_id, scripthash, address_index, amount_sat)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                coin.outpoint.txid,
                coin.outpoint.index,
                transfer_id,
                coin.scripthash,
                coin.address_index,
                coin.amount_sat,
            ],
        )
    add_version(db, transfer_id, signed, fee_sat=fee_sat, value_sat=value_sat, tip_height=tip_height, now=now)
    return transfer_id


def add_version(
    db: Database, transfer_id: int, signed: Transaction, *, fee_sat: int, value_sat: int, tip_height: int, now: int
) -> None:
    """Store another signed transaction of a transfer, before anybody sees it."""
    db.execute(
        "INSERT INTO transfer_version (transfer_id, txid, raw, fee_sat, value_sat, signed_height, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [transfer_id, signed.txid, signed.raw, fee_sat, value_sat, tip_height, now],
    )


def load_open_transfers(db: Database) -> Sequence[Transfer]:
    """Return the transfers that are not deep in the chain yet."""
    rows = db.execute("SELECT transfer_id FROM transfer WHERE state = 'open' ORDER BY transfer_id").fetchall()
    return [load_transfer(db, row[0]) for row in rows]


def has_unmined(db: Database) -> bool:
    """Tell whether a transfer may need a version that pays more: nothing was told of its depth yet."""
    found = db.execute("SELECT 1 FROM transfer WHERE state = 'open' AND told_txid IS NULL LIMIT 1")
    return found.fetchone() is not None


def load_transfers(db: Database, *, limit: int) -> Sequence[Transfer]:
    """Return transfers, newest first."""
    rows = db.execute("SELECT transfer_id FROM transfer ORDER BY transfer_id DESC LIMIT ?", [limit]).fetchall()
    return [load_transfer(db, row[0]) for row in rows]


def load_transfer(db: Database, transfer_id: int) -> Transfer:
    """Return a transfer, which must be there."""
    row = db.execute(
        "SELECT forward_id, destination, state, trouble, told_txid, told_confirmations FROM transfer"
        " WHERE transfer_id = ?",
        [transfer_id],
    ).fetchone()
    coins = db.execute(
        "SELECT txid, output_index, amount_sat, scripthash, address_index FROM transfer_coin WHERE transfer_id = ?"
        " ORDER BY address_index, txid, output_index",
        [transfer_id],
    ).fetchall()
    versions = db.execute(
        "SELECT version_id, txid, raw, fee_sat, value_sat, signed_height, broadcast_at FROM transfer_version"
        " WHERE transfer_id = ? ORDER BY version_id",
        [transfer_id],
    ).fetchall()
    return Transfer(
        transfer_id=transfer_id,
        forward_id=row[0],
        destination=row[1],
        state=row[2],
        trouble=row[3],
        told_txid=None if row[4] is None else Txid(row[4]),
        told_confirmations=row[5],
        coins=tuple(
            Coin(
                outpoint=Outpoint(Txid(coin[0]), coin[1]),
                amount_sat=coin[2],
                scripthash=ScriptHash(coin[3]),
                address_index=coin[4],
            )
            for coin in coins
        ),
        versions=tuple(
            Version(
                version_id=one[0],
                txid=Txid(one[1]),
                raw=one[2],
                fee_sat=one[3],
                value_sat=one[4],
                signed_height=one[5],
                broadcast_at=one[6],
            )
            for one in versions
        ),
    )


def save_broadcast(db: Database, version_id: int, *, now: int) -> bool:
    """Record that a server took a version; True if it is the first time."""
    cursor = db.execute(
        "UPDATE transfer_version SET broadcast_at = ? WHERE version_id = ? AND broadcast_at IS NULL", [now, version_id]
    )
    return cursor.rowcount > 0


def save_trouble(db: Database, transfer_id: int, trouble: str) -> None:
    """Record what keeps a transfer from being mined; empty for nothing."""
    db.execute(
        "UPDATE transfer SET trouble = ? WHERE transfer_id = ? AND trouble != ?", [trouble, transfer_id, trouble]
    )


def save_told(db: Database, transfer_id: int, txid: Txid, confirmations: int) -> None:
    """Record which version was mined, and how deep it was told."""
    db.execute(
        "UPDATE transfer SET told_txid = ?, told_confirmations = ? WHERE transfer_id = ?",
        [txid, confirmations, transfer_id],
    )


def save_final(db: Database, transfer_id: int) -> None:
    """Record that a transfer is deep in the chain, and is followed no more."""
    db.execute("UPDATE transfer SET state = 'final', trouble = '' WHERE transfer_id = ?", [transfer_id])


def void_transfer(db: Database, transfer: Transfer, *, now: int) -> None:
    """Give up a transfer that lost a coin: no version of it can be mined, and its other coins are free again."""
    db.execute("UPDATE transfer SET state = 'void', voided_at = ? WHERE transfer_id = ?", [now, transfer.transfer_id])
    db.execute("DELETE FROM transfer_coin WHERE transfer_id = ?", [transfer.transfer_id])


def load_own_entries(db: Database, transfer: Transfer) -> dict[Txid, LedgerEntry]:
    """Return what versions of a transfer did to its first input address, as far as the ledger knows them."""
    payments = ledger.load_payments(db, transfer.coins[0].scripthash)
    txids = {version.txid for version in transfer.versions}
    entries = {} if payments is None else payments.entries
    return {txid: entry for txid, entry in entries.items() if txid in txids}


def is_coin_lost(db: Database, transfer: Transfer, coin: Coin) -> bool:
    """Tell whether a coin is no more: its payment is gone, or a block holds another transaction that spends it."""
    payments = ledger.load_payments(db, coin.scripthash)
    if payments is None:
        return False
    payment = payments.entries.get(coin.outpoint.txid)
    if payment is not None and isinstance(payment.state, GONE):
        return True
    own = {version.txid for version in transfer.versions}
    return any(
        isinstance(entry.state, Confirmed) and coin.outpoint in entry.spends and txid not in own
        for txid, entry in payments.entries.items()
    )


# --- sweeps ---


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepWish:
    """A wish to pass on what is left at deleted input addresses; ``is_all``: at active ones too."""

    wish_id: int
    destination: str
    is_all: bool


def add_sweep(db: Database, destination: str, *, is_all: bool, now: int) -> None:
    """Wish that what is left be passed on."""
    db.execute(
        "INSERT INTO sweep_wish (destination, is_all, wished_at) VALUES (?, ?, ?)", [destination, int(is_all), now]
    )


def load_sweep(db: Database) -> SweepWish | None:
    """Return the oldest wish for a sweep, or None."""
    row = db.execute("SELECT wish_id, destination, is_all FROM sweep_wish ORDER BY wish_id LIMIT 1").fetchone()
    return SweepWish(wish_id=row[0], destination=row[1], is_all=bool(row[2])) if row else None


def take_sweep(db: Database, wish_id: int) -> None:
    """Forget a wish: it was carried out, or cannot be."""
    db.execute("DELETE FROM sweep_wish WHERE wish_id = ?", [wish_id])


def load_voided(db: Database, *, since: int, limit: int) -> Sequence[Transfer]:
    """Return transfers that were given up since a time (unix seconds), the last ones first."""
    rows = db.execute(
        "SELECT transfer_id FROM transfer WHERE state = 'void' AND voided_at >= ? ORDER BY transfer_id DESC LIMIT ?",
        [since, limit],
    ).fetchall()
    return [load_transfer(db, row[0]) for row in rows]


def load_troubled(db: Database, *, limit: int) -> Sequence[Transfer]:
    """Return open transfers that something keeps from being mined."""
    rows = db.execute(
        "SELECT transfer_id FROM transfer WHERE state = 'open' AND trouble != '' LIMIT ?", [limit]
    ).fetchall()
    return [load_transfer(db, row[0]) for row in rows]
