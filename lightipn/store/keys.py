"""API keys: their hashes, and whom they belong to."""

import hashlib
from dataclasses import dataclass

from sqlite_utils import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One secret of an owner; the secret itself is known to nobody but its holder.

    Args:
        created_at, revoked_at: unix seconds; None while the key is good.
    """

    key_id: int
    name: str
    created_at: int
    revoked_at: int | None


def hash_of_secret(secret: str) -> bytes:
    """Return what is stored of a key: it has 256 random bits, so a plain hash cannot be guessed back."""
    return hashlib.sha256(secret.encode()).digest()


def save_key(db: Database, *, name: str, secret: str, now: int) -> None:
    """Add a secret for an owner, and revive the owner's subscriptions."""
    db.execute(
        "INSERT INTO api_key (name, secret_hash, created_at) VALUES (?, ?, ?)", [name, hash_of_secret(secret), now]
    )
    _set_owner_suspended(db, name, is_suspended=False)


def load_keys(db: Database) -> list[ApiKey]:
    """Return all keys, oldest first."""
    rows = db.execute("SELECT key_id, name, created_at, revoked_at FROM api_key ORDER BY key_id").fetchall()
    return [ApiKey(key_id=row[0], name=row[1], created_at=row[2], revoked_at=row[3]) for row in rows]


def load_owner(db: Database, secret: str) -> str | None:
    """Return the owner of a live secret, or None."""
    row = db.execute(
        "SELECT name FROM api_key WHERE secret_hash = ? AND revoked_at IS NULL", [hash_of_secret(secret)]
    ).fetchone()
    return str(row[0]) if row else None


def has_live_key(db: Database) -> bool:
    """Tell whether any key is good."""
    return db.execute("SELECT 1 FROM api_key WHERE revoked_at IS NULL LIMIT 1").fetchone() is not None


def revoke_keys(db: Database, *, name: str, key_id: int | None, now: int) -> int:
    """Revoke an owner's live secrets, or one of them; the last one suspends the owner's subscriptions.

    Returns:
        How many were revoked.
    """
    where, values = ("AND key_id = ?", [key_id]) if key_id is not None else ("", [])
    cursor = db.execute(
        f"UPDATE api_key SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL {where}", [now, name, *values]
    )
    is_left = db.execute("SELECT 1 FROM api_key WHERE name = ? AND revoked_at IS NULL", [name]).fetchone()
    if cursor.rowcount and not is_left:
        _set_owner_suspended(db, name, is_suspended=True)
    return int(cursor.rowcount)


def is_suspended(db: Database, owner: str) -> bool:
    """Tell whether an owner has had keys, and none is good any more."""
    found = db.execute(
        "SELECT 1 FROM api_key WHERE name = ? AND NOT EXISTS"
        " (SELECT 1 FROM api_key AS live WHERE live.name = api_key.name AND live.revoked_at IS NULL)",
        [owner],
    )
    return found.fetchone() is not None


def _set_owner_suspended(db: Database, owner: str, *, is_suspended: bool) -> None:
    """Suspend or revive: nothing is sent while suspended, everything is kept."""
    before, after = ("active", "suspended") if is_suspended else ("suspended", "active")
    # A hook whose receiver fails too often stays suspended when its owner has a key again.
    others = "coalesce(hook_id NOT IN (SELECT hook_id FROM hook WHERE suspended_at IS NOT NULL), 1)"
    db.execute(f"UPDATE subscription SET state = ? WHERE owner = ? AND state = ? AND {others}", [after, owner, before])
    db.execute(
        "UPDATE message SET is_held = ? WHERE subscription_id IN"
        f" (SELECT subscription_id FROM subscription WHERE owner = ? AND {others})",
        [int(is_suspended), owner],
    )
