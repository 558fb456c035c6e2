"""What servers were caught with: their claim, what contradicted it, and the bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlite_utils import Database

from lightipn.chain.source import Misbehaviour

# A server that breaks the protocol with every connection must not fill the disk.
MOST_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One row; texts are ours, ``raw`` is what the server sent (its beginning)."""

    evidence_id: int
    server: str
    kind: str
    claim: str
    contradiction: str
    raw: bytes
    observed_at: int


def save_evidence(db: Database, found: Iterable[Misbehaviour]) -> None:
    """Append evidence, and forget the oldest where there is too much."""
    db.conn.executemany(
        "INSERT INTO evidence (server, kind, claim, contradiction, raw, observed_at) VALUES (?, ?, ?, ?, ?, ?)",
        [(one.server, one.kind, one.claim, one.contradiction, one.raw, one.observed_at) for one in found],
    )
    db.execute("DELETE FROM evidence WHERE evidence_id <= (SELECT max(evidence_id) FROM evidence) - ?", [MOST_KEPT])


def load_evidence(db: Database, *, limit: int) -> list[Evidence]:
    """Return evidence, newest first."""
    rows = db.execute(
        "SELECT evidence_id, server, kind, claim, contradiction, raw, observed_at FROM evidence"
        " ORDER BY evidence_id DESC LIMIT ?",
        [limit],
    ).fetchall()
    return [
        Evidence(
            evidence_id=row[0],
            server=row[1],
            kind=row[2],
            claim=row[3],
            contradiction=row[4],
            raw=row[5],
            observed_at=row[6],
        )
        for row in rows
    ]
