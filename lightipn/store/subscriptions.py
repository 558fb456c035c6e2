"""Subscriptions on disk."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from sqlite_utils import Database

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.outbox.subscriptions import Subscription, SubscriptionState
from lightipn.store import keys, ledger, supplies

SUBSCRIPTION_COLUMNS = (
    "subscription_id, dialect, owner, scripthash, address, url, terms, state, created_at, expires_at, ended_at,"
    " since_height, last_seen_at, hook_id"
)
_PAGE = 1000
_IS_LIVE = "state IN ('active', 'suspended')"


def host_of(url: str) -> str:
    """Return ``name:port`` of a checked URL: what deliveries are limited by."""
    parts = urlsplit(url)
    return f"{(parts.hostname or '').lower()}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def save_subscription(
    db: Database,
    *,
    dialect: str,
    owner: str,
    address: Address,
    url: str,
    terms: bytes,
    now: int,
    expires_at: int | None = None,
    since_height: int | None = 0,
    updates_terms: bool = True,
    prolongs: bool = False,
    hook_id: str | None = None,
) -> Subscription:
    """Add a subscription, or update the owner's live one for the same address and URL; a hook's is always another one.

    Args:
        since_height: the tip now; None where our tip is not proved yet.
        updates_terms: False if one with other terms is another subscription.
        prolongs: an expiry that is later already stays.
    """
    ledger.add_script(db, address)
    ledger.want_for_good(db, address.scripthash)
    # "+owner" keeps SQLite from the index by owner: one owner may have a hundred thousand subscriptions.
    row = db.execute(
        "SELECT subscription_id FROM subscription WHERE scripthash = ? AND dialect = ? AND +owner = ? AND url = ?"
        " AND (? OR terms = ?) AND hook_id IS NULL AND ? IS NULL"
        f" AND {_IS_LIVE} AND (expires_at IS NULL OR expires_at > ?)",
        [address.scripthash, dialect, owner, url, updates_terms, terms, hook_id, now],
    ).fetchone()
    if row is not None:
        db.execute(
            "UPDATE subscription SET terms = ?, expires_at = iif(?, max(expires_at, ?), ?) WHERE subscription_id = ?",
            [terms, prolongs, expires_at, expires_at, row[0]],
        )
        return _must_load(db, row[0])
    return _add(
        db,
        dialect=dialect,
        owner=owner,
        scripthash=address.scripthash,
        address=address.text,
        url=url,
        terms=terms,
        created_at=now,
        expires_at=expires_at,
        since_height=since_height,
        hook_id=hook_id,
    )


def save_block_subscription(
    db: Database,
    *,
    dialect: str,
    owner: str,
    url: str,
    terms: bytes,
    now: int,
    first_height: int,
    depth_blocks: int,
    hook_id: str | None = None,
) -> Subscription:
    """Add a subscription to blocks, or return the owner's live one of the same URL and terms; a hook's is another one.

    Args:
        first_height: the lowest block that it is about.
        depth_blocks: a block is told once it has so many confirmations.
    """
    row = db.execute(
        "SELECT subscription_id FROM subscription WHERE next_height IS NOT NULL AND dialect = ? AND +owner = ?"
        f" AND url = ? AND terms = ? AND hook_id IS NULL AND ? IS NULL AND {_IS_LIVE}",
        [dialect, owner, url, terms, hook_id],
    ).fetchone()
    if row is not None:
        return _must_load(db, row[0])
    return _add(
        db,
        dialect=dialect,
        owner=owner,
        url=url,
        terms=terms,
        created_at=now,
        since_height=first_height,
        next_height=first_height,
        depth_blocks=depth_blocks,
        wake_height=first_height + depth_blocks - 1,
        hook_id=hook_id,
    )


def save_plain_subscription(
    db: Database, *, dialect: str, owner: str, url: str, address: str, terms: bytes, hook_id: str, now: int
) -> Subscription:
    """Add a subscription that no payment and no block wakes: its messages are added by hand."""
    return _add(
        db,
        dialect=dialect,
        owner=owner,
        url=url,
        address=address,
        terms=terms,
        created_at=now,
        is_watching=0,
        hook_id=hook_id,
    )


def _add(db: Database, *, owner: str, url: str, address: str = "", **values: object) -> Subscription:
    state = SubscriptionState.SUSPENDED if keys.is_suspended(db, owner) else SubscriptionState.ACTIVE
    row = values | {"owner": owner, "url": url, "address": address, "host": host_of(url), "state": state.value}
    cursor = db.execute(
        f"INSERT INTO subscription ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values())
    )
    return _must_load(db, int(cursor.lastrowid or 0))


def _must_load(db: Database, subscription_id: int) -> Subscription:
    found = load_subscription(db, subscription_id)
    assert found is not None  # its row was written or found in this very transaction
    return found


def load_subscription(db: Database, subscription_id: int) -> Subscription | None:
    """Return a subscription, or None."""
    row = db.execute(
        f"SELECT {SUBSCRIPTION_COLUMNS} FROM subscription WHERE subscription_id = ?", [subscription_id]
    ).fetchone()
    return subscription_of(row) if row else None


def subscription_of(row: tuple[Any, ...]) -> Subscription:
    """Make a subscription of a row in the order of ``SUBSCRIPTION_COLUMNS``."""
    return Subscription(
        subscription_id=row[0],
        dialect=row[1],
        owner=row[2],
        scripthash=None if row[3] is None else ScriptHash(row[3]),
        address=row[4],
        url=row[5],
        terms=row[6],
        state=SubscriptionState(row[7]),
        created_at=row[8],
        expires_at=row[9],
        ended_at=row[10],
        since_height=row[11],
        last_seen_at=row[12],
        hook_id=row[13],
    )


def _load_all(db: Database, where: str, values: list[object]) -> list[Subscription]:
    rows = db.execute(f"SELECT {SUBSCRIPTION_COLUMNS} FROM subscription WHERE {where}", values).fetchall()
    return [subscription_of(row) for row in rows]


def load_subscriptions_of(db: Database, scripthash: ScriptHash) -> list[Subscription]:
    """Return everybody's subscriptions that follow a script."""
    return _load_all(db, "scripthash = ? AND is_watching = 1", [scripthash])


def has_hooks(db: Database, scripthash: ScriptHash) -> bool:
    """Tell whether a hook is about a script."""
    found = db.execute(
        "SELECT 1 FROM subscription WHERE scripthash = ? AND hook_id IS NOT NULL AND is_watching = 1 LIMIT 1",
        [scripthash],
    )
    return found.fetchone() is not None


def load_woken(db: Database, tip_height: int, *, limit: int) -> list[Subscription]:
    """Return subscriptions whose notices a block up to this height may have changed."""
    where = "wake_height <= ? AND is_watching = 1 ORDER BY wake_height, scripthash LIMIT ?"
    return _load_all(db, where, [tip_height, limit])


def load_woken_by_time(db: Database, *, now: float, limit: int) -> list[Subscription]:
    """Return subscriptions whose notices the clock may have changed."""
    return _load_all(db, "wake_at <= ? AND is_watching = 1 ORDER BY wake_at LIMIT ?", [now, limit])


def load_next_wake_at(db: Database) -> float | None:
    """Return when the next subscription must be looked at, in unix seconds; None if none must."""
    row = db.execute("SELECT min(wake_at) FROM subscription WHERE wake_at IS NOT NULL AND is_watching = 1").fetchone()
    return None if row[0] is None else float(row[0])


def load_expired(db: Database, *, now: int, limit: int) -> list[Subscription]:
    """Return subscriptions whose time is over and that do not say so yet."""
    return _load_all(db, f"expires_at <= ? AND {_IS_LIVE} LIMIT ?", [now, limit])


def load_lingering(db: Database, *, after: int, limit: int) -> list[Subscription]:
    """Return ended subscriptions whose scripts are still followed, by their ids."""
    where = f"is_watching = 1 AND NOT ({_IS_LIVE}) AND subscription_id > ? ORDER BY subscription_id LIMIT ?"
    return _load_all(db, where, [after, limit])


def load_unsettled(db: Database, *, limit: int) -> list[Subscription]:
    """Return subscriptions that were made before our tip was proved."""
    return _load_all(db, "since_height IS NULL LIMIT ?", [limit])


def save_since_height(db: Database, subscription_id: int, since_height: int) -> None:
    """Record at which tip a subscription was made."""
    db.execute("UPDATE subscription SET since_height = ? WHERE subscription_id = ?", [since_height, subscription_id])


def save_wake(db: Database, subscription_id: int, *, height: int | None, at: float | None) -> None:
    """Record at which tip height, and at what time, a subscription must be looked at again."""
    db.execute(
        "UPDATE subscription SET wake_height = ?, wake_at = ?"
        " WHERE subscription_id = ? AND (wake_height IS NOT ? OR wake_at IS NOT ?)",
        [height, at, subscription_id, height, at],
    )


def load_next_height(db: Database, subscription_id: int) -> int:
    """Return the height of the next block that a subscription to blocks is told."""
    row = db.execute("SELECT next_height FROM subscription WHERE subscription_id = ?", [subscription_id]).fetchone()
    return int(row[0])


def save_next_height(db: Database, subscription_id: int, next_height: int, *, waits: bool) -> None:
    """Record how far a subscription to blocks is.

    Args:
        waits: whether the next block is told too.
    """
    db.execute(
        "UPDATE subscription SET next_height = ?, wake_height = iif(?, ? + depth_blocks - 1, NULL)"
        " WHERE subscription_id = ?",
        [next_height, waits, next_height, subscription_id],
    )


def rewind_blocks(db: Database, fork_height: int) -> None:
    """Have subscriptions to blocks be told the blocks above a fork anew: others stand there now."""
    first = "max(since_height, ?)"
    db.execute(
        f"UPDATE subscription SET wake_height = {first} + depth_blocks - 1, next_height = {first}"
        f" WHERE next_height IS NOT NULL AND is_watching = 1 AND next_height > {first}",
        [fork_height + 1] * 3,
    )


# --- what was of the past ---


def load_made_above(db: Database, fork_height: int) -> list[Subscription]:
    """Return the subscriptions that were made at a tip above a fork."""
    return _load_all(db, "since_height > ? AND scripthash IS NOT NULL AND is_watching = 1", [fork_height])


def save_past(db: Database, subscription_id: int, txids: Iterable[Txid], *, since_height: int) -> None:
    """Record by name what was of the past, and that only what was deep enough at a lower tip is so by its height."""
    rows = [(subscription_id, txid) for txid in txids]
    db.conn.executemany("INSERT OR IGNORE INTO past_payment (subscription_id, txid) VALUES (?, ?)", rows)
    save_since_height(db, subscription_id, since_height)


def with_past(db: Database, subscription: Subscription) -> Subscription:
    """Return a subscription that knows which payments were of the past by name."""
    rows = db.execute(
        "SELECT txid FROM past_payment WHERE subscription_id = ?", [subscription.subscription_id]
    ).fetchall()
    return replace(subscription, past=frozenset(Txid(row[0]) for row in rows)) if rows else subscription


# --- ends ---


def save_end(db: Database, subscription_id: int, state: SubscriptionState, *, now: int) -> None:
    """End a subscription: nothing new becomes of it."""
    if state is SubscriptionState.EXPIRED:  # when, it says by itself
        db.execute("UPDATE subscription SET state = ? WHERE subscription_id = ?", [state.value, subscription_id])
        return
    # Seconds are too coarse for what comes right after the end.
    last_seen_at = (
        "coalesce((SELECT max(seen_at) FROM ledger_entry WHERE ledger_entry.scripthash = subscription.scripthash), 0)"
    )
    db.execute(
        f"UPDATE subscription SET state = ?, ended_at = ?, last_seen_at = {last_seen_at} WHERE subscription_id = ?",
        [state.value, now, subscription_id],
    )


def release(db: Database, subscription: Subscription) -> None:
    """Let go of an ended subscription's script; one that nobody else follows is forgotten."""
    db.execute(
        "UPDATE subscription SET is_watching = 0, wake_height = NULL, wake_at = NULL WHERE subscription_id = ?",
        [subscription.subscription_id],
    )
    if subscription.scripthash is not None:
        forget_unfollowed(db, subscription.scripthash)


def is_watching(db: Database, subscription_id: int) -> bool:
    """Tell whether a subscription's script is followed for it."""
    found = db.execute("SELECT is_watching FROM subscription WHERE subscription_id = ?", [subscription_id]).fetchone()
    return bool(found and found[0])


# Who wants a script's payments for good.
_FOLLOWERS = (
    "SELECT 1 FROM subscription WHERE scripthash = ? AND is_watching = 1",
    "SELECT 1 FROM wallet_address WHERE scripthash = ?",
    "SELECT 1 FROM account_address WHERE scripthash = ?",
    "SELECT 1 FROM forward WHERE scripthash = ?",
)


def forget_unfollowed(db: Database, scripthash: ScriptHash) -> None:
    """Forget a script that nobody wants any more."""
    if not any(db.execute(f"{follower} LIMIT 1", [scripthash]).fetchone() for follower in _FOLLOWERS):
        supplies.keep_paid(db, scripthash)
        ledger.remove_script(db, scripthash)


def load_page(
    db: Database,
    *,
    owner: str,
    dialect: str,
    scripthash: ScriptHash | None,
    state: SubscriptionState | None,
    now: int,
    offset: int,
    limit: int,
) -> list[Subscription]:
    """Return a page of an owner's subscriptions, oldest first; an expiry counts from its second on."""
    where = "owner = ? AND dialect = ?"
    values: list[object] = [owner, dialect]
    if scripthash is not None:
        where, values = f"{where} AND scripthash = ?", [*values, scripthash]
    is_over = f"(state = 'expired' OR ({_IS_LIVE} AND expires_at <= ?))"
    if state is SubscriptionState.EXPIRED:
        where, values = f"{where} AND {is_over}", [*values, now]
    elif state is not None:
        where, values = f"{where} AND state = ? AND NOT coalesce({is_over}, 0)", [*values, state.value, now]
    return _load_all(db, f"{where} ORDER BY subscription_id LIMIT ? OFFSET ?", [*values, limit, offset])


def load_subscriptions(
    db: Database, *, scripthash: ScriptHash | None = None, limit: int | None = None
) -> Iterator[Subscription]:
    """Yield all subscriptions, oldest first, or those of one script."""
    last, left = 0, limit
    while left is None or left > 0:
        where, values = ("AND scripthash = ?", [scripthash]) if scripthash else ("", [])
        page = _PAGE if left is None else min(_PAGE, left)
        found = _load_all(db, f"subscription_id > ? {where} ORDER BY subscription_id LIMIT ?", [last, *values, page])
        yield from found
        if len(found) < page:
            return
        last = found[-1].subscription_id
        left = None if left is None else left - len(found)


def count_subscriptions(db: Database) -> int:
    """Return how many subscriptions are live."""
    return int(db.execute(f"SELECT count(*) FROM subscription WHERE {_IS_LIVE}").fetchone()[0])


def remove_subscriptions(db: Database, scripthash: ScriptHash, *, url: str | None) -> int:
    """Remove the subscriptions of a script, or the one with this URL; a script nobody wants is forgotten.

    Returns:
        How many were removed.
    """
    where, values = ("AND url = ?", [url]) if url is not None else ("", [])
    cursor = db.execute(f"DELETE FROM subscription WHERE scripthash = ? {where}", [scripthash, *values])
    if cursor.rowcount:
        forget_unfollowed(db, scripthash)
    return int(cursor.rowcount)
