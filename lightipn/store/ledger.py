"""Scripts and their payments on disk."""

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import UNKNOWN, Status
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.entries import Dropped, LedgerEntry, PaymentState, Replaced, ScriptPayments
from lightipn.store import transactions
from lightipn.store.node_rows import drop_script

_OUTPUT = struct.Struct("<IQ")
_SPEND = struct.Struct("<32sI")
_COLUMNS = (
    "txid, state, height, block_hash, position, replaced_by, seen_by,"
    " outputs, spends, sent_sat, is_coinbase, signals_rbf, seen_at, gone_at"
)


class WatchChange(enum.Enum):
    """What happened to a script; the order matters: one removed and added again is watched anew."""

    ADDED = "added"
    REMOVED = "removed"
    ASKED = "asked"  # its history must be fetched whatever was absorbed


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of a script's history is known; less than all only with one's own node as the source.

    Args:
        history_from: height of the first block from which on every payment is known; None where all are.
        unproved_sat: what the node says is unspent besides, in blocks that it has pruned; nothing proves it.
    """

    history_from: int | None = None
    unproved_sat: int = 0


WHOLE = Coverage()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRecord:
    """A script the service looks after.

    Args:
        known_status: what has been absorbed; ``UNKNOWN`` if it must be asked again, None for the empty history.
        absorbed_at: unix seconds of the last time its history was worked in; None before the first.
        wanted_until: unix seconds; set for a script that was merely looked up.
        trouble: code of what keeps its history from being read; empty if nothing does.
    """

    scripthash: ScriptHash
    script: bytes
    address: str
    known_status: Status | None
    absorbed_at: int | None
    wanted_until: int | None
    trouble: str
    coverage: Coverage = WHOLE


def _status(value: bytes | None) -> Status | None:
    return None if value is None else Status(value)


def load_script(db: Database, scripthash: ScriptHash) -> ScriptRecord | None:
    """Return a script's record, or None if nobody wants it."""
    row = db.execute(
        "SELECT script, address, known_status, absorbed_at, wanted_until, trouble, history_from, unproved_sat"
        " FROM script WHERE scripthash = ?",
        [scripthash],
    ).fetchone()
    if row is None:
        return None
    return ScriptRecord(
        scripthash=scripthash,
        script=row[0],
        address=row[1],
        known_status=_status(row[2]),
        absorbed_at=row[3],
        wanted_until=row[4],
        trouble=row[5],
        coverage=Coverage(history_from=row[6], unproved_sat=row[7]),
    )


def load_coverage_by_address(db: Database, addresses: Iterable[str]) -> dict[str, Coverage]:
    """Return how much is known of addresses; those of which all is known are left out."""
    found = {}
    for address in addresses:
        row = db.execute(
            "SELECT history_from, unproved_sat FROM script WHERE address = ? AND history_from IS NOT NULL", [address]
        ).fetchone()
        if row is not None:
            found[address] = Coverage(history_from=row[0], unproved_sat=row[1])
    return found


def sum_coverage(db: Database) -> tuple[int, int]:
    """Return how many scripts' histories are not whole, and the satoshis that nothing proves."""
    row = db.execute(
        "SELECT count(*), coalesce(sum(unproved_sat), 0) FROM script WHERE history_from IS NOT NULL"
    ).fetchone()
    return row[0], row[1]


def load_addresses(db: Database, scripthashes: Iterable[ScriptHash]) -> dict[ScriptHash, str]:
    """Return the addresses of scripts, as far as somebody wants them."""
    found = ((scripthash, load_script(db, scripthash)) for scripthash in scripthashes)
    return {scripthash: record.address for scripthash, record in found if record is not None}


def _is_spent_from(db: Database, scripthash: ScriptHash) -> bool:
    return db.execute("SELECT 1 FROM spent_output WHERE scripthash = ? LIMIT 1", [scripthash]).fetchone() is not None


def is_watched(db: Database, scripthash: ScriptHash) -> bool:
    """Tell whether a script's history is followed: somebody wants it, or an unconfirmed payment spends from it."""
    is_wanted = db.execute("SELECT 1 FROM script WHERE scripthash = ?", [scripthash]).fetchone() is not None
    return is_wanted or _is_spent_from(db, scripthash)


def load_watches(db: Database) -> list[tuple[ScriptHash, Status | None]]:
    """Return every script with the status that has been absorbed, and those that unconfirmed payments spend from."""
    rows = db.execute("SELECT scripthash, known_status FROM script").fetchall()
    spent = db.execute(
        "SELECT DISTINCT scripthash FROM spent_output WHERE length(scripthash) = 32 AND NOT EXISTS"
        " (SELECT 1 FROM script WHERE script.scripthash = spent_output.scripthash)"
    ).fetchall()
    watches = [(ScriptHash(row[0]), _status(row[1])) for row in rows]
    return watches + [(ScriptHash(row[0]), UNKNOWN) for row in spent]


def add_script(db: Database, address: Address) -> None:
    """Make sure a script is looked after for good; the running service learns of a new one."""
    # A script without entries has, as far as we know, the empty history: an unused address costs no further write.
    cursor = db.execute(
        "INSERT OR IGNORE INTO script (scripthash, script, address, known_status) VALUES (?, ?, ?, NULL)",
        [address.scripthash, address.script, address.text],
    )
    if cursor.rowcount:
        save_watch_change(db, address.scripthash, WatchChange.ADDED)


def want_for_good(db: Database, scripthash: ScriptHash) -> None:
    """Keep a script that was merely looked up so far; a history that was too long for that is asked for again."""
    cursor = db.execute(
        "UPDATE script SET wanted_until = NULL WHERE scripthash = ? AND wanted_until IS NOT NULL AND trouble != ''",
        [scripthash],
    )
    if cursor.rowcount:
        forget_status(db, [scripthash])
        save_watch_change(db, scripthash, WatchChange.ASKED)
    db.execute("UPDATE script SET wanted_until = NULL WHERE scripthash = ?", [scripthash])


def is_wanted_for_good(db: Database, scripthash: ScriptHash) -> bool:
    """Tell whether a script is looked after for more than a lookup."""
    found = db.execute("SELECT 1 FROM script WHERE scripthash = ? AND wanted_until IS NULL", [scripthash])
    return found.fetchone() is not None


def count_lookups(db: Database) -> int:
    """Return how many scripts are looked after for lookups alone."""
    return int(db.execute("SELECT count(*) FROM script WHERE wanted_until IS NOT NULL").fetchone()[0])


LOOKUP_KEEP_S = 600
"""A looked-up address stays watched for a while, so that who asks again is answered at once and from live data."""


def want_script(db: Database, address: Address, *, until: int, must_ask: bool) -> None:
    """Make sure a script is looked after until a time, for somebody who looks it up.

    Args:
        until: unix seconds.
        must_ask: ask the servers again even if a history was absorbed before.
    """
    cursor = db.execute(
        "INSERT OR IGNORE INTO script (scripthash, script, address, known_status, wanted_until) VALUES (?, ?, ?, ?, ?)",
        [address.scripthash, address.script, address.text, UNKNOWN, until],
    )
    is_new = cursor.rowcount > 0
    if not is_new:
        db.execute(
            "UPDATE script SET wanted_until = max(wanted_until, ?) WHERE scripthash = ? AND wanted_until IS NOT NULL",
            [until, address.scripthash],
        )
    if is_new:
        save_watch_change(db, address.scripthash, WatchChange.ADDED)
    elif must_ask:
        forget_status(db, [address.scripthash])
        save_watch_change(db, address.scripthash, WatchChange.ASKED)


def drop_unwanted_scripts(db: Database, *, now: int) -> int:
    """Remove scripts that were merely looked up and whose time is over; the running service stops watching them."""
    rows = db.execute(
        "SELECT scripthash FROM script WHERE wanted_until <= ? AND NOT EXISTS (SELECT 1 FROM subscription"
        " WHERE subscription.scripthash = script.scripthash AND is_watching = 1) LIMIT 1000",
        [now],
    ).fetchall()
    for (scripthash,) in rows:
        remove_script(db, ScriptHash(scripthash))
    return len(rows)


def remove_script(db: Database, scripthash: ScriptHash) -> None:
    """Forget a script and its payments."""
    txids = db.execute("SELECT txid FROM ledger_entry WHERE scripthash = ?", [scripthash]).fetchall()
    db.execute("DELETE FROM ledger_entry WHERE scripthash = ?", [scripthash])
    transactions.drop_transactions(db, [Txid(row[0]) for row in txids])
    db.execute("DELETE FROM script WHERE scripthash = ?", [scripthash])
    # One's own node may have looked for its past: whoever watches it again does not know how far that went.
    drop_script(db, scripthash)
    save_watch_change(db, scripthash, WatchChange.REMOVED)


def save_watch_change(db: Database, scripthash: ScriptHash, kind: WatchChange) -> None:
    """Queue what happened to a script for the running service."""
    db.execute("INSERT INTO watch_change (scripthash, kind) VALUES (?, ?)", [scripthash, kind.value])


def take_watch_changes(db: Database, *, limit: int) -> list[tuple[ScriptHash, WatchChange, Status | None]]:
    """Take changes off the queue, oldest first, each with what has been absorbed of the script by now."""
    rows = db.execute(
        "SELECT change_id, scripthash, kind FROM watch_change ORDER BY change_id LIMIT ?", [limit]
    ).fetchall()
    if rows:
        db.execute("DELETE FROM watch_change WHERE change_id <= ?", [rows[-1][0]])
    changes = []
    for _, scripthash, kind in rows:
        record = load_script(db, ScriptHash(scripthash))
        if kind == WatchChange.REMOVED.value and _is_spent_from(db, ScriptHash(scripthash)):
            continue  # an unconfirmed payment spends from it
        if record is not None or kind == WatchChange.REMOVED.value:  # else removed since: that change follows
            known_status = record.known_status if record is not None else None
            changes.append((ScriptHash(scripthash), WatchChange(kind), known_status))
    return changes


def clear_watch_changes(db: Database) -> None:
    """Forget the queue: whoever calls reads all scripts in the same transaction."""
    db.execute("DELETE FROM watch_change")


def has_watch_changes(db: Database) -> bool:
    """Tell whether the queue holds anything."""
    return db.execute("SELECT 1 FROM watch_change LIMIT 1").fetchone() is not None


def save_status(db: Database, scripthash: ScriptHash, status: Status | None, *, now: int | None) -> None:
    """Record that a script's history has been worked in.

    Args:
        now: unix seconds; None while a lookup still waits for other servers (``settle_lookup``).
    """
    db.execute(
        "UPDATE script SET known_status = ?, absorbed_at = coalesce(?, absorbed_at), trouble = '' WHERE scripthash = ?",
        [status, now, scripthash],
    )


def settle_lookup(db: Database, scripthash: ScriptHash, *, now: int) -> None:
    """Record that what is known of a looked-up script is what the servers say."""
    db.execute("UPDATE script SET absorbed_at = ? WHERE scripthash = ? AND absorbed_at IS NULL", [now, scripthash])


def save_trouble(db: Database, scripthash: ScriptHash, trouble: str) -> None:
    """Record why a script's history cannot be read."""
    db.execute("UPDATE script SET trouble = ? WHERE scripthash = ? AND trouble != ?", [trouble, scripthash, trouble])


def forget_status(db: Database, scripthashes: Iterable[ScriptHash]) -> None:
    """Mark scripts to be asked again, also after a restart."""
    db.conn.executemany(
        "UPDATE script SET known_status = ?, trouble = '' WHERE scripthash = ?",
        [(UNKNOWN, scripthash) for scripthash in scripthashes],
    )


def load_payments(db: Database, scripthash: ScriptHash) -> ScriptPayments | None:
    """Return all payments of a script, or None if nobody wants the script."""
    row = db.execute("SELECT script FROM script WHERE scripthash = ?", [scripthash]).fetchone()
    if row is None:
        return None
    rows = db.execute(f"SELECT {_COLUMNS} FROM ledger_entry WHERE scripthash = ?", [scripthash]).fetchall()
    entries = {Txid(row[0]): _entry_of(row) for row in rows}
    unproved = db.execute(
        "SELECT outpoint, unproved_sat FROM node_output WHERE scripthash = ? AND unproved_sat IS NOT NULL", [scripthash]
    ).fetchall()
    return ScriptPayments(
        scripthash=scripthash,
        script=row[0],
        entries=entries,
        unproved={outpoints_of(outpoint)[0]: amount_sat for outpoint, amount_sat in unproved},
    )


def load_scripts_of(db: Database, txid: Txid) -> list[ScriptHash]:
    """Return the scripts of which this transaction is an unconfirmed payment."""
    rows = db.execute("SELECT scripthash FROM ledger_entry WHERE txid = ? AND state = 'unconfirmed'", [txid]).fetchall()
    return [ScriptHash(row[0]) for row in rows]


def load_entries_above(db: Database, height: int) -> list[tuple[ScriptHash, LedgerEntry]]:
    """Return the confirmed payments above a height, whatever their script."""
    rows = db.execute(f"SELECT scripthash, {_COLUMNS} FROM ledger_entry WHERE height > ?", [height]).fetchall()
    return [(ScriptHash(row[0]), _entry_of(row[1:])) for row in rows]


def save_entries(db: Database, scripthash: ScriptHash, entries: Iterable[LedgerEntry]) -> None:
    """Write ledger entries over what stood there."""
    db.conn.executemany(
        f"INSERT OR REPLACE INTO ledger_entry (scripthash, {_COLUMNS})"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(scripthash, *_row_of(entry)) for entry in entries],
    )


def _row_of(entry: LedgerEntry) -> tuple[object, ...]:
    place: tuple[object, ...]
    match entry.state:
        case Confirmed(block_hash, height, position):
            place = ("confirmed", height, block_hash, position, None, 0)
        case Unconfirmed(seen_by):
            place = ("unconfirmed", None, None, None, None, seen_by)
        case Replaced(by_txid):
            place = ("replaced", None, None, None, by_txid, 0)
        case Dropped():
            place = ("dropped", None, None, None, None, 0)
    return (
        entry.txid,
        *place,
        b"".join(_OUTPUT.pack(index, amount_sat) for index, amount_sat in entry.outputs),
        b"".join(_SPEND.pack(outpoint.txid, outpoint.index) for outpoint in entry.spends),
        entry.sent_sat,
        int(entry.is_coinbase),
        int(entry.signals_rbf),
        entry.seen_at,
        entry.gone_at,
    )


def outpoints_of(packed: bytes) -> tuple[Outpoint, ...]:
    """Read outpoints as an entry's row keeps them."""
    return tuple(Outpoint(Txid(txid), index) for txid, index in _SPEND.iter_unpack(packed))


def _entry_of(row: tuple[Any, ...]) -> LedgerEntry:
    txid, state_name, height, block_hash, position, replaced_by, seen_by, *effect = row
    outputs, spends, sent_sat, *flags, seen_at, gone_at = effect
    state: PaymentState
    match state_name:
        case "confirmed":
            state = Confirmed(BlockHash(block_hash), height, position)
        case "replaced":
            state = Replaced(Txid(replaced_by))
        case "dropped":
            state = Dropped()
        case _:
            state = Unconfirmed(seen_by)
    return LedgerEntry(
        txid=Txid(txid),
        state=state,
        outputs=tuple(_OUTPUT.iter_unpack(outputs)),
        spends=outpoints_of(spends),
        sent_sat=sent_sat,
        is_coinbase=bool(flags[0]),
        signals_rbf=bool(flags[1]),
        seen_at=seen_at,
        gone_at=gone_at,
    )
