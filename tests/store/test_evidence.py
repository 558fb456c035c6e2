"""What servers were caught with."""

from dataclasses import replace

import pytest

from lightipn.chain.source import Misbehaviour
from lightipn.store import evidence
from lightipn.store.database import Database
from lightipn.store.evidence import Evidence
from tests.store.rows import NOW

LIE = Misbehaviour(
    server="a.example:50002:s",
    kind="false-header",
    claim="its chain reaches height 900000",
    contradiction="header 900000 has too little work",
    raw=bytes(range(256)),
    observed_at=NOW,
)


def caught(count: int, *, first: int = 0) -> list[Misbehaviour]:
    """Return so many findings, each at a second of its own."""
    return [replace(LIE, observed_at=NOW + number) for number in range(first, first + count)]


def times_in(db: Database) -> list[int]:
    """Return when what is kept was observed, newest first, in seconds after the start."""
    return [found.observed_at - NOW for found in evidence.load_evidence(db, limit=10**6)]


def test_evidence_is_read_as_it_was_written(db: Database) -> None:
    """Claim, contradiction and bytes come back, under a number of their own."""
    evidence.save_evidence(db, [LIE])
    assert evidence.load_evidence(db, limit=5) == [
        Evidence(
            evidence_id=1,
            server=LIE.server,
            kind=LIE.kind,
            claim=LIE.claim,
            contradiction=LIE.contradiction,
            raw=LIE.raw,
            observed_at=NOW,
        )
    ]


def test_evidence_is_listed_newest_first(db: Database) -> None:
    """What was caught last comes first, and no more than was asked for."""
    evidence.save_evidence(db, caught(3))
    evidence.save_evidence(db, caught(2, first=3))
    assert times_in(db) == [4, 3, 2, 1, 0]
    assert [found.observed_at - NOW for found in evidence.load_evidence(db, limit=2)] == [4, 3]
    assert evidence.load_evidence(db, limit=0) == []


def test_nothing_caught_is_nothing_written(db: Database) -> None:
    """Servers that behave leave no evidence, and take none away."""
    evidence.save_evidence(db, [])
    assert times_in(db) == []
    evidence.save_evidence(db, caught(1))
    evidence.save_evidence(db, [])
    assert times_in(db) == [0]


@pytest.mark.parametrize("sizes", [[1] * 9, [3, 3, 3], [9], [2, 7], [8, 1]], ids=str)
def test_oldest_evidence_is_forgotten(db: Database, monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    """However it comes, the newest is kept up to the bound: a server cannot fill the disk with its lies."""
    monkeypatch.setattr(evidence, "MOST_KEPT", 4)
    written = 0
    for size in sizes:
        evidence.save_evidence(db, caught(size, first=written))
        written += size
        assert times_in(db) == list(reversed(range(written)))[:4]
    assert db.execute("SELECT count(*) FROM evidence").fetchone() == (4,)


def test_number_of_forgotten_evidence_is_not_used_again(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that the operator wrote down never means something else later."""
    monkeypatch.setattr(evidence, "MOST_KEPT", 1)
    evidence.save_evidence(db, caught(3))
    evidence.save_evidence(db, caught(1, first=3))
    assert [found.evidence_id for found in evidence.load_evidence(db, limit=9)] == [4]


@pytest.mark.slow
def test_the_real_bound_holds(db: Database) -> None:
    """Ten thousand findings are kept, and one more costs the oldest."""
    evidence.save_evidence(db, caught(evidence.MOST_KEPT))
    assert len(times_in(db)) == evidence.MOST_KEPT == 10_000
    evidence.save_evidence(db, caught(1, first=evidence.MOST_KEPT))
    kept = times_in(db)
    assert (len(kept), kept[0], kept[-1]) == (10_000, 10_000, 1)
