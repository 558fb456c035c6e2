"""What the service last knew of its servers, for ``status`` and for the next start."""

from collections.abc import Iterable

from sqlite_utils import Database

from lightipn.chain.source import ServerState


def save_servers(db: Database, states: Iterable[ServerState], *, now: int) -> None:
    """Write the states of servers; one that was connected once is remembered for the next start."""
    db.conn.executemany(
        "INSERT INTO server (name, verdict, reason, software, protocol, tip_height, latency_ms, updated_at,"
        " is_remembered) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET verdict ="
        " excluded.verdict, reason = excluded.reason, software = excluded.software, protocol = excluded.protocol,"
        " tip_height = excluded.tip_height, latency_ms = excluded.latency_ms, updated_at = excluded.updated_at,"
        " is_remembered = CASE excluded.verdict WHEN 'misbehaved' THEN 0 ELSE max(is_remembered,"
        " excluded.is_remembered) END",
        [
            (
                state.name,
                state.verdict,
                state.reason,
                state.software,
                state.protocol,
                state.tip_height,
                state.latency_ms,
                now,
                int(state.verdict == "connected"),
            )
            for state in states
        ],
    )


def load_servers(db: Database) -> list[ServerState]:
    """Return the states as last written."""
    rows = db.execute(
        "SELECT name, verdict, reason, software, protocol, tip_height, latency_ms FROM server ORDER BY name"
    ).fetchall()
    return [
        ServerState(
            name=row[0],
            verdict=row[1],
            reason=row[2],
            software=row[3],
            protocol=row[4],
            tip_height=row[5],
            latency_ms=row[6],
        )
        for row in rows
    ]


def load_remembered(db: Database) -> list[str]:
    """Return the names of servers that worked before."""
    rows = db.execute("SELECT name FROM server WHERE is_remembered = 1 ORDER BY updated_at DESC").fetchall()
    return [row[0] for row in rows]


def forget_connections(db: Database) -> None:
    """Mark every server as not connected: the service starts, or ends."""
    db.execute("UPDATE server SET verdict = 'unavailable', reason = 'service-stopped' WHERE verdict = 'connected'")
