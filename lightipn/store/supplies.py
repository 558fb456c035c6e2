"""Supplies of addresses: how far each chain was scanned, which indexes were given away, which were paid."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlite_utils import Database

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.store import ledger
from lightipn.store.node_findings import is_ahead_of_ledger
from lightipn.store.node_scripts import is_past_pending

# With fewer unused addresses known ahead, more are looked at.
LEAST_AHEAD = 10
_COLUMNS = "chain_id, identity, kind, source, next_index, used_to, scanned_to, is_scanned"
# What is gone is no history that a wallet would find.
_IS_PAID = (
    "EXISTS (SELECT 1 FROM ledger_entry WHERE ledger_entry.scripthash = issued_address.scripthash"
    " AND ledger_entry.state IN ('confirmed', 'unconfirmed'))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplyRecord:
    """How far a supply is.

    Args:
        identity: 32 bytes, by which the same key in another spelling is known.
        kind: of its scripts; empty for a descriptor of another shape.
        source: the text it was first asked for with.
        next_index: the next index that is given away.
        used_to: the highest index that had a history when the supply was scanned; -1 for none.
        scanned_to: how many indexes were looked at.
    """

    chain_id: int
    identity: bytes
    kind: str
    source: str
    next_index: int
    used_to: int
    scanned_to: int
    is_scanned: bool


def _load(db: Database, where: str, values: list[object]) -> list[SupplyRecord]:
    rows = db.execute(f"SELECT {_COLUMNS} FROM address_chain {where}", values).fetchall()
    return [
        SupplyRecord(
            chain_id=row[0],
            identity=row[1],
            kind=row[2],
            source=row[3],
            next_index=row[4],
            used_to=row[5],
            scanned_to=row[6],
            is_scanned=bool(row[7]),
        )
        for row in rows
    ]


def load_supply(db: Database, identity: bytes) -> SupplyRecord | None:
    """Return a supply's record, or None if nobody asked for it yet."""
    found = _load(db, "WHERE identity = ?", [identity])
    return found[0] if found else None


def load_unscanned(db: Database) -> list[SupplyRecord]:
    """Return the supplies that are being scanned, in the order in which they were asked for."""
    return _load(db, "WHERE is_scanned = 0 ORDER BY chain_id", [])


def add_supply(db: Database, *, identity: bytes, kind: str, source: str, now: int) -> None:
    """Enter a supply, to be scanned; nothing happens if it is there."""
    db.execute(
        "INSERT OR IGNORE INTO address_chain (identity, kind, source, created_at) VALUES (?, ?, ?, ?)",
        [identity, kind, source, now],
    )


def save_scan(db: Database, chain_id: int, *, scanned_to: int, used_to: int, ahead: int) -> None:
    """Record how far a scan is; the first address that is given away is the one behind the last used one.

    Args:
        ahead: so many unused addresses must have been looked at behind the last used and the last given one.
    """
    db.execute(
        "UPDATE address_chain SET scanned_to = ?, used_to = max(used_to, ?), next_index = iif(EXISTS"
        " (SELECT 1 FROM issued_address WHERE issued_address.chain_id = address_chain.chain_id), next_index, ?)"
        " WHERE chain_id = ?",
        [scanned_to, used_to, used_to + 1, chain_id],
    )
    db.execute(
        "UPDATE address_chain SET is_scanned = (scanned_to > used_to + ? AND scanned_to >= next_index + ?)"
        " WHERE chain_id = ?",
        [ahead, ahead, chain_id],
    )


def want_scan(db: Database, record: SupplyRecord) -> None:
    """Have the next addresses of a supply be looked at."""
    db.execute("UPDATE address_chain SET is_scanned = 0 WHERE chain_id = ?", [record.chain_id])


def is_in_use(db: Database, record: SupplyRecord) -> bool:
    """Tell whether an address of a supply was ever given away."""
    found = db.execute("SELECT 1 FROM issued_address WHERE chain_id = ? LIMIT 1", [record.chain_id])
    return found.fetchone() is not None


def is_paid(db: Database, address: Address) -> bool:
    """Tell whether a payment to an address is known and stands."""
    found = db.execute(
        "SELECT 1 FROM ledger_entry WHERE scripthash = ? AND state IN ('confirmed', 'unconfirmed') LIMIT 1",
        [address.scripthash],
    )
    return found.fetchone() is not None


def is_used(db: Database, address: Address) -> bool | None:
    """Tell whether an address that was looked up has a history; None while that is not known."""
    record = ledger.load_script(db, address.scripthash)
    if record is None:
        return None
    # trouble: more history than a lookup reads; and a coin that one's own node names was paid in a block that it pruned
    if record.trouble or record.coverage.unproved_sat or is_paid(db, address):
        return True
    is_known = record.absorbed_at is not None and not (
        is_past_pending(db, address.scripthash) or is_ahead_of_ledger(db, address.scripthash)
    )
    return False if is_known else None


def load_last_paid(db: Database, record: SupplyRecord) -> int:
    """Return the highest index that was paid, or used before; -1 for none."""
    row = db.execute(
        f"SELECT address_index FROM issued_address WHERE chain_id = ? AND {_IS_PAID}"
        " ORDER BY address_index DESC LIMIT 1",
        [record.chain_id],
    ).fetchone()
    return max(record.used_to, row[0] if row else -1)


def save_issued(
    db: Database, record: SupplyRecord, *, index: int, address: Address, owner: str, url: str, now: int
) -> None:
    """Give an index away: it is never given again."""
    db.execute(
        "INSERT INTO issued_address (chain_id, address_index, scripthash, address, owner, url, issued_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [record.chain_id, index, address.scripthash, address.text, owner, url, now],
    )
    # What is left of those that were looked at shall not run out.
    db.execute(
        "UPDATE address_chain SET next_index = ?, is_scanned = (is_scanned AND scanned_to > ?) WHERE chain_id = ?",
        [index + 1, index + 1 + LEAST_AHEAD, record.chain_id],
    )


def keep_paid(db: Database, scripthash: ScriptHash) -> None:
    """Remember that an address was paid, because its payments are about to be forgotten."""
    db.execute(
        "UPDATE address_chain SET used_to = max(used_to, issued_address.address_index) FROM issued_address"
        f" WHERE issued_address.chain_id = address_chain.chain_id AND issued_address.scripthash = ? AND {_IS_PAID}",
        [scripthash],
    )


def is_taken(db: Database, address: Address) -> bool:
    """Tell whether an address was given away before, of whatever supply, or belongs to an account."""
    found = db.execute(
        "SELECT 1 FROM issued_address WHERE scripthash = ? UNION ALL"
        " SELECT 1 FROM account_address WHERE scripthash = ? LIMIT 1",
        [address.scripthash, address.scripthash],
    )
    return found.fetchone() is not None


def save_used(db: Database, record: SupplyRecord, index: int) -> None:
    """Record that an index has a history although nobody was given it: the next one is given away behind it."""
    db.execute(
        "UPDATE address_chain SET used_to = max(used_to, ?), next_index = max(next_index, ?),"
        " is_scanned = (is_scanned AND scanned_to > ?) WHERE chain_id = ?",
        [index, index + 1, index + LEAST_AHEAD, record.chain_id],
    )


def drop_unused(db: Database, *, before: int) -> int:
    """Forget keys that were scanned and of which no address was given away; return how many supplies that were.

    Args:
        before: unix seconds: only what was asked for before.
    """
    cursor = db.execute(
        "DELETE FROM address_chain WHERE is_scanned = 1 AND created_at < ? AND source NOT IN"
        " (SELECT source FROM address_chain WHERE chain_id IN (SELECT chain_id FROM issued_address))",
        [before],
    )
    return int(cursor.rowcount)


def has_issued(db: Database, record: SupplyRecord, owner: str) -> bool:
    """Tell whether an owner was ever given an address of a supply."""
    found = db.execute(
        "SELECT 1 FROM issued_address WHERE owner = ? AND chain_id = ? LIMIT 1", [owner, record.chain_id]
    )
    return found.fetchone() is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedAddress:
    """An address that was given away."""

    index: int
    address: str
    owner: str
    url: str
    issued_at: int
    is_paid: bool


def load_issued(db: Database, chain_id: int, *, limit: int) -> Sequence[IssuedAddress]:
    """Return the addresses that were given away of a supply, newest first."""
    rows = db.execute(
        f"SELECT address_index, address, owner, url, issued_at, {_IS_PAID} FROM issued_address"
        " WHERE chain_id = ? ORDER BY address_index DESC LIMIT ?",
        [chain_id, limit],
    ).fetchall()
    return [
        IssuedAddress(index=row[0], address=row[1], owner=row[2], url=row[3], issued_at=row[4], is_paid=bool(row[5]))
        for row in rows
    ]


def load_supplies(db: Database) -> list[SupplyRecord]:
    """Return the supplies of which addresses were given away, or that are being scanned, oldest first."""
    given = "EXISTS (SELECT 1 FROM issued_address WHERE issued_address.chain_id = address_chain.chain_id)"
    return _load(db, f"WHERE {given} OR used_to >= 0 OR is_scanned = 0 ORDER BY chain_id", [])


def load_supply_by_id(db: Database, chain_id: int) -> SupplyRecord | None:
    """Return a supply by the number that the operator sees, or None."""
    found = _load(db, "WHERE chain_id = ?", [chain_id])
    return found[0] if found else None
