"""Accounts on disk, and the addresses that belong to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlite_utils import Database

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.store import chain, deposits, ledger


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
        history_from: height from which on its payments are known; None where all are.
    """

    account_id: int
    address: str
    scripthash: ScriptHash
    index: int | None
    hook_ids: tuple[str, ...]
    is_active: bool
    added_at: int
    used_at: int
    history_from: int | None = None


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

_ADDRESS = (
    "account_id, address, scripthash, address_index, hook_ids, is_active, added_at, used_at,"
    " (SELECT history_from FROM script WHERE script.scripthash = account_address.scripthash)"
)


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
        history_from=row[8],
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
        deposits.settle_script(db, payments, tip_height=chain.load_tip_height(db), now=now)
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
