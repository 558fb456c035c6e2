"""The event feed on disk: append-only, numbered without a gap.

An event's row is written in the transaction of the change that caused it, so a number is seen only once its change is
on disk, and never taken back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid
from lightipn.chain.headers import ChainDelta
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel

SERVER_DISTRUSTED = "server.distrusted"
# An owner without news must not have the whole feed read for one call.
MOST_EXAMINED = 20_000
_COLUMNS = (
    "happened_at, kind, scripthash, address, txid, net_sat, height, block_hash, trust, seen_by, replaced_by,"
    " signals_rbf, server, reason"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """One row of the feed; what a kind does not have is None, empty or 0.

    Args:
        number: from 1 on, without a gap.
        happened_at: unix seconds of our commit.
        server, reason: for ``server.distrusted`` alone.
    """

    number: int
    happened_at: int
    kind: str
    scripthash: ScriptHash | None
    address: str
    txid: Txid | None
    net_sat: int | None
    height: int | None
    block_hash: BlockHash | None
    trust: str
    seen_by: int
    replaced_by: Txid | None
    signals_rbf: bool
    server: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """A page of the feed.

    Args:
        next_after: everything up to this number was examined; the next page begins after it.
        latest: the newest number there is; 0 before the first event.
    """

    events: tuple[RecordedEvent, ...]
    next_after: int
    latest: int


def _save(db: Database, rows: Sequence[tuple[object, ...]]) -> None:
    # The rowid of a table that loses no row is its highest plus one: a rollback leaves no gap.
    db.conn.executemany(f"INSERT INTO event ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def save_payment_events(db: Database, events: Iterable[PaymentEvent], *, now: int) -> None:
    """Append what happened to payments, each with the address, and for those who watch it now."""
    for event in events:
        found = db.execute("SELECT address FROM script WHERE scripthash = ?", [event.scripthash]).fetchone()
        row = (
            now,
            event.kind.value,
            event.scripthash,
            found[0] if found else "",
            event.txid,
            event.net_sat,
            event.height,
            event.block_hash,
            event.trust.value,
            event.seen_by,
            event.replaced_by,
            int(event.signals_rbf),
            "",
            "",
        )
        _save(db, [row])
        db.execute(
            "INSERT INTO event_owner (owner, number) SELECT DISTINCT owner, (SELECT max(number) FROM event)"
            " FROM subscription WHERE scripthash = ? AND is_watching = 1",
            [event.scripthash],
        )


def begin_block_events(db: Database) -> None:
    """Have blocks told from now on: the tip was reached for the first time, and what came before is the past."""
    db.execute("INSERT OR IGNORE INTO setting (name, value) VALUES ('has_block_events', 'yes')")


def save_block_events(db: Database, delta: ChainDelta, *, now: int, trust: TrustLevel = TrustLevel.PROVED) -> None:
    """Append one event a block: what leaves from the top down, what enters from the fork up."""
    if db.execute("SELECT 1 FROM setting WHERE name = 'has_block_events'").fetchone() is None:
        return

    def row(kind: EventKind, height: int, block_hash: BlockHash) -> tuple[object, ...]:
        return now, kind.value, None, "", None, None, height, block_hash, trust.value, 0, None, 0, "", ""

    first = delta.fork_height + 1
    leaving = [
        row(EventKind.BLOCK_DISCONNECTED, first + place, header.block_hash)
        for place, header in enumerate(delta.disconnected)
    ]
    entering = [
        row(EventKind.BLOCK_CONNECTED, first + place, header.block_hash) for place, header in enumerate(delta.connected)
    ]
    _save(db, [*reversed(leaving), *entering])


def save_server_event(db: Database, *, server: str, reason: str, now: int) -> None:
    """Append that a server is used no more."""
    _save(db, [(now, SERVER_DISTRUSTED, None, "", None, None, None, None, "", 0, None, 0, server, reason)])


def load_events(db: Database, *, after: int, limit: int, owner: str | None) -> EventPage:
    """Return the next events after a number.

    Args:
        owner: None for all events; else those of scripts that the owner was subscribed to then, and of blocks.
    """
    latest = int(db.execute("SELECT coalesce(max(number), 0) FROM event").fetchone()[0])
    if owner is None:
        rows = db.execute(
            f"SELECT number, {_COLUMNS} FROM event WHERE number > ? ORDER BY number LIMIT ?", [after, limit]
        ).fetchall()
    else:
        rows = db.execute(
            f"SELECT number, {_COLUMNS} FROM event WHERE number > ? AND number <= ? AND (kind LIKE 'block.%' OR"
            " EXISTS (SELECT 1 FROM event_owner WHERE owner = ? AND event_owner.number = event.number))"
            " ORDER BY number LIMIT ?",
            [after, after + MOST_EXAMINED, owner, limit],
        ).fetchall()
    examined = latest if owner is None else min(latest, after + MOST_EXAMINED)
    next_after = rows[-1][0] if len(rows) == limit else examined
    return EventPage(events=tuple(_event_of(row) for row in rows), next_after=max(after, next_after), latest=latest)


def _event_of(row: tuple[Any, ...]) -> RecordedEvent:
    number, happened_at, kind, scripthash, address, txid, net_sat, height, block_hash, trust, seen_by, *rest = row
    replaced_by, signals_rbf, server, reason = rest
    return RecordedEvent(
        number=number,
        happened_at=happened_at,
        kind=kind,
        scripthash=None if scripthash is None else ScriptHash(scripthash),
        address=address,
        txid=None if txid is None else Txid(txid),
        net_sat=net_sat,
        height=height,
        block_hash=None if block_hash is None else BlockHash(block_hash),
        trust=trust,
        seen_by=seen_by,
        replaced_by=None if replaced_by is None else Txid(replaced_by),
        signals_rbf=bool(signals_rbf),
        server=server,
        reason=reason,
    )
