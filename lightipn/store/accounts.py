"""Accounts on disk: addresses, deposits, and the movements that balances are the sums of.

``settle_script`` runs in the transaction of each ledger change, so an account is never behind the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlite_utils import Database

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid, hex_of
from lightipn.ledger.accounts import (
    Deposit,
    DepositStatus,
    Movement,
    MovementKind,
    ReservationStatus,
    is_deposit,
    new_deposit,
    settled,
)
from lightipn.ledger.entries import ScriptPayments
from lightipn.store import chain, ledger

WOKEN_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account.

    Args:
        extended_key: that fresh addresses are derived from; empty where they are given.
        url: where webhooks of its addresses go; empty for none.
        credit_confirmations: the depth at which a deposit is credited.
    """

    account_id: int
    owner: str
    name: str
    extended_key: str
    url: str
    credit_confirmations: int
    balance_sat: int
    locked_sat: int
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountAddress:
    """An address of an account.

    Args:
        index: where it stands below the account's key; None where it was given.
        hook_ids: the hooks that were made for it.
        is_active: False once nothing was paid to it for long, and its hooks are removed; it is watched all the same.
        used_at: when it was added, or paid last.
    """

    account_id: int
    address: str
    scripthash: ScriptHash
    index: int | None
    hook_ids: tuple[str, ...]
    is_active: bool
    added_at: int
    used_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDeposit:
    """A deposit, and the address that it was paid to."""

    deposit: Deposit
    scripthash: ScriptHash
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedMovement:
    """A movement as it is kept; ``txid`` and ``address`` are empty for an adjustment, ``reference`` for all others."""

    number: int
    movement: Movement
    txid: Txid | None
    address: str
    reference: str
    happened_at: int


# --- accounts ---

_ACCOUNT = "account_id, owner, name, extended_key, url, credit_confirmations, balance_sat, locked_sat, created_at"


def _account_of(row: tuple[Any, ...]) -> Account:
    return Account(
        account_id=row[0],
        owner=row[1],
        name=row[2],
        extended_key=row[3],
        url=row[4],
        credit_confirmations=row[5],
        balance_sat=row[6],
        locked_sat=row[7],
        created_at=row[8],
    )


def add_account(
    db: Database, *, owner: str, name: str, extended_key: str, url: str, credit_confirmations: int, now: int
) -> Account:
    """Add an account; the name must be free."""
    db.execute(
        "INSERT INTO account (owner, name, extended_key, url, credit_confirmations, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [owner, name, extended_key, url, credit_confirmations, now],
    )
    found = load_account(db, owner=owner, name=name)
    assert found is not None  # its row was written just now
    return found


def load_account(db: Database, *, owner: str, name: str) -> Account | None:
    """Return an owner's account, or None."""
    row = db.execute(f"SELECT {_ACCOUNT} FROM account WHERE owner = ? AND name = ?", [owner, name]).fetchone()
    return _account_of(row) if row else None


def load_accounts(db: Database, *, owner: str | None = None) -> Sequence[Account]:
    """Return an owner's accounts by name; everybody's where no owner is named."""
    where, values = ("WHERE owner = ?", [owner]) if owner is not None else ("", [])
    rows = db.execute(f"SELECT {_ACCOUNT} FROM account {where} ORDER BY owner, name", values).fetchall()
    return [_account_of(row) for row in rows]


def load_negative(db: Database, *, limit: int) -> Sequence[Account]:
    """Return accounts of which more was booked away than is there."""
    rows = db.execute(f"SELECT {_ACCOUNT} FROM account WHERE balance_sat < 0 LIMIT ?", [limit]).fetchall()
    return [_account_of(row) for row in rows]


# --- addresses ---

_ADDRESS = "account_id, address, scripthash, address_index, hook_ids, is_active, added_at, used_at"


def _address_of(row: tuple[Any, ...]) -> AccountAddress:
    return AccountAddress(
        account_id=row[0],
        address=row[1],
        scripthash=ScriptHash(row[2]),
        index=row[3],
        hook_ids=tuple(msgspec.json.decode(row[4], type=list[str])),
        is_active=bool(row[5]),
        added_at=row[6],
        used_at=row[7],
    )


def add_address(
    db: Database, account: Account, address: Address, *, index: int | None, hook_ids: Sequence[str], now: int
) -> AccountAddress:
    """Add an address to an account, and have it watched for good; it must belong to none of the owner's yet."""
    ledger.add_script(db, address)
    ledger.want_for_good(db, address.scripthash)
    db.execute(
        "INSERT INTO account_address (owner, scripthash, account_id, address, address_index, hook_ids, added_at,"
        " used_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            account.owner,
            address.scripthash,
            account.account_id,
            address.text,
            index,
            msgspec.json.encode(list(hook_ids)).decode(),
            now,
            now,
        ],
    )
    payments = ledger.load_payments(db, address.scripthash)
    if payments is not None:
        settle_script(db, payments, tip_height=chain.load_tip_height(db), now=now)
    found = load_address(db, address.scripthash, owner=account.owner)
    assert found is not None  # its row was written just now
    return found


def load_address(db: Database, scripthash: ScriptHash, *, owner: str) -> AccountAddress | None:
    """Return an address of whatever account of an owner, or None."""
    row = db.execute(
        f"SELECT {_ADDRESS} FROM account_address WHERE scripthash = ? AND owner = ?", [scripthash, owner]
    ).fetchone()
    return _address_of(row) if row else None


def load_addresses(db: Database, account_id: int) -> Sequence[AccountAddress]:
    """Return an account's addresses, oldest first."""
    rows = db.execute(
        f"SELECT {_ADDRESS} FROM account_address WHERE account_id = ? ORDER BY added_at, address_index, address",
        [account_id],
    ).fetchall()
    return [_address_of(row) for row in rows]


def load_unused(db: Database, *, before: int, limit: int) -> Sequence[AccountAddress]:
    """Return active addresses to which nothing was paid since a time (unix seconds), and nothing is under way."""
    rows = db.execute(
        f"SELECT {_ADDRESS} FROM account_address WHERE is_active = 1 AND used_at < ? AND NOT EXISTS"
        " (SELECT 1 FROM deposit WHERE deposit.scripthash = account_address.scripthash"
        " AND deposit.account_id = account_address.account_id AND status = 'AWAITING_CONFIRMATION') LIMIT ?",
        [before, limit],
    ).fetchall()
    return [_address_of(row) for row in rows]


def save_inactive(db: Database, address: AccountAddress) -> None:
    """Record that an address is inactive, and has no hooks any more."""
    db.execute(
        "UPDATE account_address SET is_active = 0, hook_ids = '[]' WHERE account_id = ? AND scripthash = ?",
        [address.account_id, address.scripthash],
    )


# --- deposits ---

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
        known = _load_known(db, account_id, payments.scripthash)
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


def _load_known(db: Database, account_id: int, scripthash: ScriptHash) -> dict[Txid, Deposit]:
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


# --- movements ---


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


# --- audit ---


def find_flaws(db: Database, account: Account) -> list[str]:
    """Add an account up anew, compare it with what is kept and with the ledger, and say what differs."""
    flaws = []
    sums = db.execute(
        "SELECT coalesce(sum(balance_sat), 0), coalesce(sum(locked_sat), 0) FROM movement WHERE account_id = ?",
        [account.account_id],
    ).fetchone()
    for name, kept, added in (
        ("balance", account.balance_sat, sums[0]),
        ("locked amount", account.locked_sat, sums[1]),
    ):
        if kept != added:
            flaws.append(f"the {name} is {kept} sat, its movements add up to {added} sat")
    for what, table in (("movements of", "movement"), ("deposit", "deposit")):
        missing = "deposit" if table == "movement" else "account_address"
        key = "AND other.txid = found.txid" if table == "movement" else ""
        rows = db.execute(
            f"SELECT DISTINCT txid FROM {table} AS found WHERE account_id = ? AND txid IS NOT NULL AND NOT EXISTS"
            f" (SELECT 1 FROM {missing} AS other WHERE other.account_id = found.account_id"
            f" AND other.scripthash = found.scripthash {key})",
            [account.account_id],
        ).fetchall()
        flaws += [f"{what} {hex_of(txid)}: there is no {missing.replace('_', ' ')} of it" for (txid,) in rows]
    tip_height = chain.load_tip_height(db)
    for address in load_addresses(db, account.account_id):
        payments = ledger.load_payments(db, address.scripthash)
        if payments is None:
            flaws.append(f"address {address.address} is not watched")
            continue
        flaws += _flaws_of_address(db, account, address, payments, tip_height=tip_height)
    return flaws


def _flaws_of_address(
    db: Database, account: Account, address: AccountAddress, payments: ScriptPayments, *, tip_height: int
) -> list[str]:
    flaws = []
    known = _load_known(db, account.account_id, address.scripthash)
    for entry in payments.entries.values():
        before = known.pop(entry.txid, None)
        if before is None and not is_deposit(entry):
            continue
        after, movements = settled(
            before or new_deposit(entry),
            entry,
            tip_height=tip_height,
            credit_confirmations=account.credit_confirmations,
        )
        name = f"deposit {hex_of(entry.txid)} to {address.address}"
        if before is None or movements or after != before:
            flaws.append(f"{name} is not as the ledger says")
            continue
        sums = db.execute(
            "SELECT coalesce(sum(balance_sat), 0), coalesce(sum(locked_sat), 0) FROM movement"
            " WHERE account_id = ? AND scripthash = ? AND txid = ?",
            [account.account_id, address.scripthash, entry.txid],
        ).fetchone()
        if (before.credited_sat, before.locked_sat) != (sums[0], sums[1]):
            flaws.append(
                f"{name} says {before.credited_sat} sat credited and {before.locked_sat} sat locked,"
                f" its movements add up to {sums[0]} and {sums[1]} sat"
            )
    return flaws + [f"deposit {hex_of(txid)} to {address.address} is no payment of the ledger" for txid in known]
