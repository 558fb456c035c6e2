"""Subscriptions on disk."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from sqlite_utils import Database

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.outbox.messages import Subscription, SubscriptionState
from lightipn.store import ledger

_COLUMNS = "subscription_id, dialect, owner, scripthash, address, url, terms, state, created_at"
_PAGE = 1000


def host_of(url: str) -> str:
    """Return ``name:port`` of a checked URL: what deliveries are limited by."""
    parts = urlsplit(url)
    return f"{(parts.hostname or '').lower()}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def save_subscription(
    db: Database, *, dialect: str, owner: str, address: Address, url: str, terms: bytes, now: int
) -> Subscription:
    """Add a subscription, or update the terms of the owner's one for the same address and URL."""
    ledger.add_script(db, address)
    ledger.want_for_good(db, address.scripthash)
    # "+owner" keeps SQLite from the index by owner: one owner may have a hundred thousand subscriptions.
    row = db.execute(
        "SELECT subscription_id FROM subscription WHERE scripthash = ? AND dialect = ? AND +owner = ? AND url = ?",
        [address.scripthash, dialect, owner, url],
    ).fetchone()
    if row is not None:
        db.execute("UPDATE subscription SET terms = ? WHERE subscription_id = ?", [terms, row[0]])
        return _load(db, row[0])
    is_suspended = db.execute(
        "SELECT 1 FROM api_key WHERE name = ? AND NOT EXISTS"
        " (SELECT 1 FROM api_key AS live WHERE live.name = api_key.name AND live.revoked_at IS NULL)",
        [owner],
    ).fetchone()
    cursor = db.execute(
        "INSERT INTO subscription (dialect, owner, scripthash, address, url, host, terms, state, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            dialect,
            owner,
            address.scripthash,
            address.text,
            url,
            host_of(url),
            terms,
            "suspended" if is_suspended else "active",
            now,
        ],
    )
    return _load(db, int(cursor.lastrowid or 0))


def _load(db: Database, subscription_id: int) -> Subscription:
    row = db.execute(f"SELECT {_COLUMNS} FROM subscription WHERE subscription_id = ?", [subscription_id]).fetchone()
    return subscription_of(row)


def subscription_of(row: tuple[Any, ...]) -> Subscription:
    """Make a subscription of a row in the order of this module's columns."""
    return Subscription(
        subscription_id=row[0],
        dialect=row[1],
        owner=row[2],
        scripthash=ScriptHash(row[3]),
        address=row[4],
        url=row[5],
        terms=row[6],
        state=SubscriptionState(row[7]),
        created_at=row[8],
    )


def load_subscriptions_of(db: Database, scripthash: ScriptHash) -> list[Subscription]:
    """Return everybody's subscriptions of a script."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM subscription WHERE scripthash = ?", [scripthash]).fetchall()
    return [subscription_of(row) for row in rows]


def load_woken(db: Database, tip_height: int, *, limit: int) -> list[Subscription]:
    """Return subscriptions whose payload a block up to this height may have changed."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM subscription WHERE wake_height <= ? ORDER BY wake_height, scripthash LIMIT ?",
        [tip_height, limit],
    ).fetchall()
    return [subscription_of(row) for row in rows]


def save_wake_height(db: Database, subscription_id: int, wake_height: int | None) -> None:
    """Record at which tip height a subscription must be looked at again."""
    db.execute(
        "UPDATE subscription SET wake_height = ? WHERE subscription_id = ? AND wake_height IS NOT ?",
        [wake_height, subscription_id, wake_height],
    )


def load_subscriptions(
    db: Database, *, scripthash: ScriptHash | None = None, limit: int | None = None
) -> Iterator[Subscription]:
    """Yield all subscriptions, oldest first, or those of one script."""
    last, left = 0, limit
    while left is None or left > 0:
        where, values = ("AND scripthash = ?", [scripthash]) if scripthash else ("", [])
        page = _PAGE if left is None else min(_PAGE, left)
        rows = db.execute(
            f"SELECT {_COLUMNS} FROM subscription WHERE subscription_id > ? {where} ORDER BY subscription_id LIMIT ?",
            [last, *values, page],
        ).fetchall()
        yield from (subscription_of(row) for row in rows)
        if len(rows) < page:
            return
        last = rows[-1][0]
        left = None if left is None else left - len(rows)


def count_subscriptions(db: Database) -> int:
    """Return how many subscriptions there are."""
    return int(db.execute("SELECT count(*) FROM subscription").fetchone()[0])


def remove_subscriptions(db: Database, scripthash: ScriptHash, *, url: str | None) -> int:
    """Remove the subscriptions of a script, or the one with this URL; a script nobody wants is forgotten.

    Returns:
        How many were removed.
    """
    where, values = ("AND url = ?", [url]) if url is not None else ("", [])
    cursor = db.execute(f"DELETE FROM subscription WHERE scripthash = ? {where}", [scripthash, *values])
    is_wanted = db.execute("SELECT 1 FROM subscription WHERE scripthash = ? LIMIT 1", [scripthash]).fetchone()
    if cursor.rowcount and not is_wanted:
        ledger.remove_script(db, scripthash)
    return int(cursor.rowcount)
