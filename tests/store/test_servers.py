"""What was last known of the servers."""

from dataclasses import replace

from lightipn.chain.source import ServerState
from lightipn.store import servers
from lightipn.store.database import Database
from tests.store.rows import NOW

GOOD = ServerState(
    name="a.example:50002:s",
    verdict="connected",
    software="ElectrumX 1.16",
    protocol="1.4",
    tip_height=900_000,
    latency_ms=41.5,
)
DOWN = ServerState(name="b.example:50002:s", verdict="unavailable", reason="refused")


def test_states_are_read_as_they_were_written(db: Database) -> None:
    """Every field comes back, in the order of the names; what is not known stays None."""
    servers.save_servers(db, [DOWN, GOOD], now=NOW)
    assert servers.load_servers(db) == [GOOD, DOWN]


def test_newer_state_takes_the_place_of_the_older(db: Database) -> None:
    """A server has one row, with what was known last."""
    servers.save_servers(db, [GOOD], now=NOW)
    gone = replace(GOOD, verdict="unavailable", reason="closed", latency_ms=None)
    servers.save_servers(db, [gone], now=NOW + 1)
    assert servers.load_servers(db) == [gone]


def test_server_that_was_connected_once_is_remembered(db: Database) -> None:
    """A server that worked is tried first at the next start, the last seen first, even if it is down now."""
    servers.save_servers(db, [GOOD, DOWN], now=NOW)
    assert servers.load_remembered(db) == [GOOD.name]
    servers.save_servers(db, [replace(GOOD, verdict="unavailable"), replace(DOWN, verdict="connected")], now=NOW + 1)
    servers.save_servers(db, [replace(DOWN, verdict="connecting")], now=NOW + 2)
    assert servers.load_remembered(db) == [DOWN.name, GOOD.name]


def test_server_that_lied_is_not_remembered(db: Database) -> None:
    """Misbehaviour takes the good memory away until the server works again."""
    servers.save_servers(db, [GOOD], now=NOW)
    servers.save_servers(db, [replace(GOOD, verdict="misbehaved", reason="header")], now=NOW + 1)
    assert servers.load_remembered(db) == []
    servers.save_servers(db, [replace(GOOD, verdict="unavailable")], now=NOW + 2)
    assert servers.load_remembered(db) == []
    servers.save_servers(db, [GOOD], now=NOW + 3)
    assert servers.load_remembered(db) == [GOOD.name]


def test_nothing_is_connected_while_the_service_stands_still(db: Database) -> None:
    """At the end of a service no server shows as connected; other verdicts and the memory stay."""
    servers.save_servers(db, [GOOD, DOWN], now=NOW)
    servers.forget_connections(db)
    assert servers.load_servers(db) == [replace(GOOD, verdict="unavailable", reason="service-stopped"), DOWN]
    assert servers.load_remembered(db) == [GOOD.name]
