"""What the service last knew of its servers, for ``status`` and for the next start."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from sqlite_utils import Database

from lightipn.chain.source import ServerState

_COLUMNS = "name, verdict, reason, software, protocol, tip_height, latency_ms, fingerprint, is_ca_signed, banned_until"


def save_servers(db: Database, states: Iterable[ServerState], *, now: int) -> None:
    """Write the states of servers; one that was connected once is remembered for the next start."""
    db.conn.executemany(
        f"INSERT INTO server ({_COLUMNS}, updated_at, is_remembered) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET verdict = excluded.verdict, reason = excluded.reason, software ="
        " excluded.software, protocol = excluded.protocol, tip_height = excluded.tip_height, latency_ms ="
        " excluded.latency_ms, fingerprint = excluded.fingerprint, is_ca_signed = excluded.is_ca_signed, banned_until"
        " = excluded.banned_until, updated_at = excluded.updated_at, is_remembered = CASE WHEN excluded.verdict IN"
        " ('misbehaved', 'banned', 'distrusted') THEN 0 ELSE max(is_remembered, excluded.is_remembered) END",
        [
            (
                state.name,
                state.verdict,
                state.reason,
                state.software,
                state.protocol,
                state.tip_height,
                state.latency_ms,
                state.fingerprint,
                int(state.is_ca_signed),
                state.banned_until,
                now,
                int(state.verdict == "connected"),
            )
            for state in states
        ],
    )


def load_servers(db: Database) -> list[ServerState]:
    """Return the states as last written."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM server ORDER BY name").fetchall()
    return [
        ServerState(
            name=row[0],
            verdict=row[1],
            reason=row[2],
            software=row[3],
            protocol=row[4],
            tip_height=row[5],
            latency_ms=row[6],
            fingerprint=row[7],
            is_ca_signed=bool(row[8]),
            banned_until=row[9],
        )
        for row in rows
    ]


def load_remembered(db: Database) -> list[str]:
    """Return the names of servers that worked before."""
    rows = db.execute("SELECT name FROM server WHERE is_remembered = 1 ORDER BY updated_at DESC").fetchall()
    return [row[0] for row in rows]


def retire_servers(db: Database, names: AbstractSet[str]) -> None:
    """Mark every other server as not configured any more; what is known of it stays, in case it comes back."""
    for (name,) in db.execute("SELECT name FROM server").fetchall():
        if name not in names:
            db.execute("UPDATE server SET verdict = 'not-configured', reason = '' WHERE name = ?", [name])


def forget_connections(db: Database) -> None:
    """Mark every server as not connected: the service starts, or ends."""
    db.execute(
        "UPDATE server SET verdict = 'unavailable', reason = 'service-stopped'"
        " WHERE verdict IN ('connected', 'connecting')"
    )


def trust_server(db: Database, name: str) -> list[str]:
    """Forget what is held against a server: its pinned certificate, and a ban; the running service learns of it.

    Args:
        name: ``host``, ``host:port``, the full name, or an address as in the configuration.

    Returns:
        The names of the servers that this means; empty if none is known by it.
    """
    rows = db.execute("SELECT name FROM server ORDER BY name").fetchall()
    wanted = name.strip().lower().partition("#")[0].removeprefix("ssl://").removeprefix("tcp://").rstrip("/")
    names = [row[0] for row in rows if wanted in _spellings_of(row[0])]
    for found in names:
        db.execute(
            "UPDATE server SET fingerprint = NULL, is_ca_signed = 0, banned_until = 0, verdict = 'unavailable',"
            " reason = 'trusted-anew' WHERE name = ?",
            [found],
        )
        db.execute("INSERT OR IGNORE INTO trust_change (name) VALUES (?)", [found])
    return names


def _spellings_of(name: str) -> tuple[str, str, str]:
    address = name.rpartition(":")[0]
    host = address.rpartition(":")[0]
    return name, address, host.strip("[]")


def take_trust_changes(db: Database) -> list[str]:
    """Take the servers off the queue that the operator trusts anew."""
    rows = db.execute("SELECT name FROM trust_change").fetchall()
    if rows:
        db.execute("DELETE FROM trust_change")
    return [row[0] for row in rows]


def has_trust_changes(db: Database) -> bool:
    """Tell whether the operator trusts a server anew."""
    return db.execute("SELECT 1 FROM trust_change LIMIT 1").fetchone() is not None
