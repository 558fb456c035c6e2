"""Wallets: named groups of addresses of an owner, given or derived from an extended key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import ScriptHash


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """A wallet.

    Args:
        extended_key: that its addresses are derived from; empty where they are given.
        subchains: the branches of that key; empty where its children are the addresses themselves.
    """

    wallet_id: int
    owner: str
    name: str
    extended_key: str
    subchains: tuple[int, ...]
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletAddress:
    """An address of a wallet.

    Args:
        subchain, index: where it stands below the wallet's key; None where it was given, or there are no branches.
    """

    address: str
    scripthash: ScriptHash
    subchain: int | None
    index: int | None


_COLUMNS = "wallet_id, owner, name, extended_key, subchains, created_at"


def _wallet_of(row: tuple[Any, ...]) -> Wallet:
    return Wallet(
        wallet_id=row[0],
        owner=row[1],
        name=row[2],
        extended_key=row[3],
        subchains=tuple(int(number) for number in row[4].split(",") if number),
        created_at=row[5],
    )


def add_wallet(db: Database, *, owner: str, name: str, extended_key: str, subchains: Sequence[int], now: int) -> Wallet:
    """Add a wallet without addresses; the name must be free."""
    db.execute(
        "INSERT INTO wallet (owner, name, extended_key, subchains, created_at) VALUES (?, ?, ?, ?, ?)",
        [owner, name, extended_key, ",".join(str(number) for number in subchains), now],
    )
    found = load_wallet(db, owner=owner, name=name)
    assert found is not None  # its row was written just now
    return found


def load_wallet(db: Database, *, owner: str, name: str) -> Wallet | None:
    """Return an owner's wallet, or None."""
    row = db.execute(f"SELECT {_COLUMNS} FROM wallet WHERE owner = ? AND name = ?", [owner, name]).fetchone()
    return _wallet_of(row) if row else None


def load_wallet_by_id(db: Database, wallet_id: int) -> Wallet | None:
    """Return a wallet, or None."""
    row = db.execute(f"SELECT {_COLUMNS} FROM wallet WHERE wallet_id = ?", [wallet_id]).fetchone()
    return _wallet_of(row) if row else None


def load_wallets(db: Database, *, owner: str, is_derived: bool) -> Sequence[Wallet]:
    """Return an owner's wallets of one sort, by name."""
    where = "extended_key != ''" if is_derived else "extended_key = ''"
    rows = db.execute(f"SELECT {_COLUMNS} FROM wallet WHERE owner = ? AND {where} ORDER BY name", [owner]).fetchall()
    return [_wallet_of(row) for row in rows]


def remove_wallet(db: Database, wallet_id: int) -> None:
    """Forget a wallet and which addresses it had; its hooks are the caller's to end before."""
    db.execute("DELETE FROM wallet WHERE wallet_id = ?", [wallet_id])


def add_address(
    db: Database, wallet_id: int, address: Address, *, subchain: int | None, index: int | None, now: int
) -> bool:
    """Add an address to a wallet; False if it was there."""
    cursor = db.execute(
        "INSERT OR IGNORE INTO wallet_address (wallet_id, address, scripthash, subchain, address_index, added_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [wallet_id, address.text, address.scripthash, subchain, index, now],
    )
    return cursor.rowcount > 0


def remove_address(db: Database, wallet_id: int, address: str) -> bool:
    """Take an address out of a wallet; False if it was not there."""
    cursor = db.execute("DELETE FROM wallet_address WHERE wallet_id = ? AND address = ?", [wallet_id, address])
    return cursor.rowcount > 0


def load_wallet_addresses(db: Database, wallet_id: int) -> Sequence[WalletAddress]:
    """Return a wallet's addresses, in the order in which they were derived, or given."""
    rows = db.execute(
        "SELECT address, scripthash, subchain, address_index FROM wallet_address WHERE wallet_id = ?"
        " ORDER BY subchain, address_index, rowid",
        [wallet_id],
    ).fetchall()
    return [WalletAddress(address=row[0], scripthash=ScriptHash(row[1]), subchain=row[2], index=row[3]) for row in rows]
