"""Hooks on disk: named wishes of an owner, each of which is one subscription for each of its addresses.

A hook whose receiver fails too often is suspended: its messages are held, but for one an hour, and the first that is
acknowledged revives it. Nothing is ever deleted for that.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.outbox.messages import Message
from lightipn.outbox.verdict import Outcome
from lightipn.store import keys

# A message that failed so often has failed all of its quick tries.
QUICK_TRIES = 6
MOST_ERRORS = 50
PROBE_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A hook.

    Args:
        address: that it is about; empty for a wallet's, and for one about blocks.
        wallet_id: the wallet whose addresses it is about; None for none.
        terms: what it asks for, as JSON of the dialect's own shape.
        has_own_key: it is signed with a key that its owner gave.
        errors: messages that failed all their quick tries, since the last revival.
        suspended_at: unix seconds; None while it is not.
    """

    hook_id: str
    owner: str
    address: str
    wallet_id: int | None
    url: str
    terms: bytes
    has_own_key: bool
    errors: int
    suspended_at: int | None
    created_at: int


_COLUMNS = "hook_id, owner, address, wallet_id, url, terms, private_key IS NOT NULL, errors, suspended_at, created_at"


def _hook_of(row: tuple[Any, ...]) -> Hook:
    return Hook(
        hook_id=row[0],
        owner=row[1],
        address=row[2],
        wallet_id=row[3],
        url=row[4],
        terms=row[5],
        has_own_key=bool(row[6]),
        errors=row[7],
        suspended_at=row[8],
        created_at=row[9],
    )


def add_hook(
    db: Database,
    *,
    owner: str,
    address: str,
    wallet_id: int | None,
    url: str,
    terms: bytes,
    private_key: str | None,
    now: int,
) -> Hook:
    """Add a hook; its subscriptions are the caller's to add.

    Args:
        private_key: PEM; None for the service's own.
    """
    hook_id = str(uuid.uuid4())
    db.execute(
        "INSERT INTO hook (hook_id, owner, address, wallet_id, url, terms, private_key, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [hook_id, owner, address, wallet_id, url, terms, private_key, now],
    )
    found = load_hook(db, hook_id)
    assert found is not None  # its row was written just now
    return found


def load_hook(db: Database, hook_id: str) -> Hook | None:
    """Return a hook, or None."""
    row = db.execute(f"SELECT {_COLUMNS} FROM hook WHERE hook_id = ?", [hook_id]).fetchone()
    return _hook_of(row) if row else None


def load_hooks(db: Database, *, owner: str, limit: int) -> Sequence[Hook]:
    """Return an owner's hooks, oldest first."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM hook WHERE owner = ? ORDER BY rowid LIMIT ?", [owner, limit]).fetchall()
    return [_hook_of(row) for row in rows]


def load_hooks_of_wallet(db: Database, wallet_id: int) -> Sequence[Hook]:
    """Return the hooks about a wallet's addresses."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM hook WHERE wallet_id = ?", [wallet_id]).fetchall()
    return [_hook_of(row) for row in rows]


def has_hooks(db: Database) -> bool:
    """Tell whether there is any hook."""
    return db.execute("SELECT 1 FROM hook LIMIT 1").fetchone() is not None


def count_hooks(db: Database, owner: str) -> int:
    """Return how many hooks an owner has."""
    return int(db.execute("SELECT count(*) FROM hook WHERE owner = ?", [owner]).fetchone()[0])


def remove_hook(db: Database, hook_id: str) -> None:
    """Forget a hook; its subscriptions are the caller's to end."""
    db.execute("DELETE FROM hook WHERE hook_id = ?", [hook_id])


def load_subscription_ids(db: Database, hook_id: str) -> list[int]:
    """Return the ids of a hook's subscriptions."""
    rows = db.execute("SELECT subscription_id FROM subscription WHERE hook_id = ?", [hook_id]).fetchall()
    return [int(row[0]) for row in rows]


def load_subscription_ids_of_wallet(db: Database, wallet_id: int, scripthash: ScriptHash) -> list[int]:
    """Return the ids of the subscriptions that a wallet's hooks have for one script."""
    rows = db.execute(
        "SELECT subscription_id FROM subscription WHERE scripthash = ? AND is_watching = 1"
        " AND hook_id IN (SELECT hook_id FROM hook WHERE wallet_id = ?)",
        [scripthash, wallet_id],
    ).fetchall()
    return [int(row[0]) for row in rows]


def load_private_key(db: Database, hook_id: str) -> tuple[str, bool]:
    """Return the PEM that a hook's callbacks are signed with, and whether it is its own."""
    row = db.execute("SELECT private_key FROM hook WHERE hook_id = ?", [hook_id]).fetchone()
    if row is not None and row[0] is not None:
        return row[0], True
    service_key = load_service_key(db)
    assert service_key is not None  # it is made before the first hook
    return service_key, False


def load_service_key(db: Database) -> str | None:
    """Return the PEM of the service's own signing key, or None before its first use."""
    row = db.execute("SELECT value FROM setting WHERE name = 'signing_key'").fetchone()
    return str(row[0]) if row else None


def save_service_key(db: Database, private_key: str) -> None:
    """Keep the service's own signing key; the first one stays."""
    db.execute("INSERT OR IGNORE INTO setting (name, value) VALUES ('signing_key', ?)", [private_key])


# --- suspension ---


def is_suspended(db: Database, hook_id: str | None) -> bool:
    """Tell whether a hook's messages are held because its receiver failed too often."""
    if hook_id is None:
        return False
    found = db.execute("SELECT 1 FROM hook WHERE hook_id = ? AND suspended_at IS NOT NULL", [hook_id])
    return found.fetchone() is not None


def note_outcome(
    db: Database, hook_id: str, message_key: int, message: Message, outcome: Outcome, *, now: float
) -> None:
    """Count what an attempt came to, suspend a hook that failed too often, and revive one that is heard again."""
    hook = load_hook(db, hook_id)
    if hook is None:
        return
    if outcome is Outcome.ACKNOWLEDGED:
        if hook.suspended_at is not None:
            _revive(db, hook, now=now)
        return
    if hook.suspended_at is not None:
        db.execute("UPDATE message SET is_held = 1 WHERE message_key = ?", [message_key])
        return
    if outcome is not Outcome.FAILED or message.failures != QUICK_TRIES:
        return
    db.execute("UPDATE hook SET errors = errors + 1 WHERE hook_id = ?", [hook_id])
    if hook.errors + 1 >= MOST_ERRORS:
        _suspend(db, hook, now=now)


_OF_HOOK = "subscription_id IN (SELECT subscription_id FROM subscription WHERE hook_id = ?)"


def _suspend(db: Database, hook: Hook, *, now: float) -> None:
    times = [int(now), now + PROBE_EVERY_S]
    db.execute("UPDATE hook SET suspended_at = ?, probe_at = ? WHERE hook_id = ?", [*times, hook.hook_id])
    db.execute("UPDATE subscription SET state = 'suspended' WHERE hook_id = ? AND state = 'active'", [hook.hook_id])
    db.execute(f"UPDATE message SET is_held = 1 WHERE {_OF_HOOK}", [hook.hook_id])


def _revive(db: Database, hook: Hook, *, now: float) -> None:
    db.execute("UPDATE hook SET suspended_at = NULL, probe_at = NULL, errors = 0 WHERE hook_id = ?", [hook.hook_id])
    if keys.is_suspended(db, hook.owner):
        return
    db.execute("UPDATE subscription SET state = 'active' WHERE hook_id = ? AND state = 'suspended'", [hook.hook_id])
    db.execute(
        f"UPDATE message SET is_held = 0, due_at = iif(due_at IS NULL, NULL, ?) WHERE is_held = 1 AND {_OF_HOOK}",
        [now, hook.hook_id],
    )


def let_probes_through(db: Database, *, now: float) -> None:
    """Make one message due of each suspended hook whose hour is over: the oldest that was not heard."""
    for hook_id, owner in db.execute("SELECT hook_id, owner FROM hook WHERE probe_at <= ?", [now]).fetchall():
        db.execute("UPDATE hook SET probe_at = ? WHERE hook_id = ?", [now + PROBE_EVERY_S, hook_id])
        if not keys.is_suspended(db, owner):
            db.execute(
                "UPDATE message SET is_held = 0, due_at = ? WHERE message_key = (SELECT min(message_key) FROM message"
                f" WHERE state = 'open' AND {_OF_HOOK})",
                [now, hook_id],
            )


def probe_now(db: Database, message_key: int) -> None:
    """Let a message through now if its hook is suspended: the operator says that the receiver is well again.

    Without a good key of its owner nothing is sent all the same.
    """
    found = db.execute(
        "SELECT owner FROM subscription JOIN message USING (subscription_id) WHERE message_key = ?", [message_key]
    ).fetchone()
    if found is None or keys.is_suspended(db, found[0]):
        return
    db.execute(
        "UPDATE message SET is_held = 0 WHERE message_key = ? AND EXISTS (SELECT 1 FROM subscription JOIN hook"
        " USING (hook_id) WHERE subscription.subscription_id = message.subscription_id AND suspended_at IS NOT NULL)",
        [message_key],
    )


def load_next_probe_at(db: Database) -> float | None:
    """Return when the next suspended hook is probed, in unix seconds; None if none is."""
    row = db.execute("SELECT min(probe_at) FROM hook WHERE probe_at IS NOT NULL").fetchone()
    return None if row[0] is None else float(row[0])


def load_suspended(db: Database, *, limit: int) -> Sequence[Hook]:
    """Return the suspended hooks, the longest-suspended first."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM hook WHERE suspended_at IS NOT NULL ORDER BY suspended_at LIMIT ?", [limit]
    ).fetchall()
    return [_hook_of(row) for row in rows]
