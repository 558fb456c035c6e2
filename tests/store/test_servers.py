"""What was last known of the servers."""

from dataclasses import replace

import pytest

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
PINNED = ServerState(name="c.example:50002:s", verdict="connected", fingerprint=bytes(range(32)))
CA_SIGNED = ServerState(name="d.example:50002:s", verdict="connected", is_ca_signed=True)
BANNED = ServerState(
    name="e.example:50002:s",
    verdict="banned",
    reason="false-header: too little work",
    fingerprint=b"\xff" * 32,
    banned_until=NOW + 86_400,
)


def test_states_are_read_as_they_were_written(db: Database) -> None:
    """Every field comes back, in the order of the names; what is not known stays None."""
    servers.save_servers(db, [BANNED, DOWN, CA_SIGNED, GOOD, PINNED], now=NOW)
    assert servers.load_servers(db) == [GOOD, DOWN, PINNED, CA_SIGNED, BANNED]


@pytest.mark.parametrize("known", [PINNED, CA_SIGNED, BANNED], ids=["pinned", "CA-signed", "banned"])
def test_what_is_held_against_a_server_outlives_a_restart(db: Database, known: ServerState) -> None:
    """Fingerprint, CA and ban stay with the row whatever the verdict becomes, until a newer state says otherwise."""
    servers.save_servers(db, [known], now=NOW)
    servers.forget_connections(db)
    (found,) = servers.load_servers(db)
    assert replace(found, verdict=known.verdict, reason=known.reason) == known
    plain = ServerState(name=known.name, verdict="unavailable", reason="closed")
    servers.save_servers(db, [plain], now=NOW + 1)
    assert servers.load_servers(db) == [plain]


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


@pytest.mark.parametrize("verdict", ["misbehaved", "banned", "distrusted"])
def test_server_that_lied_is_not_remembered(db: Database, verdict: str) -> None:
    """Misbehaviour, a ban, or another certificate takes the good memory away until the server works again."""
    servers.save_servers(db, [GOOD], now=NOW)
    servers.save_servers(db, [replace(GOOD, verdict=verdict, reason="header")], now=NOW + 1)
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


@pytest.mark.parametrize("verdict", ["connecting", "unavailable", "refused", "behind"])
def test_server_in_passing_trouble_is_remembered(db: Database, verdict: str) -> None:
    """What may happen to an honest server takes no memory away."""
    servers.save_servers(db, [GOOD], now=NOW)
    servers.save_servers(db, [replace(GOOD, verdict=verdict)], now=NOW + 1)
    assert servers.load_remembered(db) == [GOOD.name]


# --- trusting anew -----------------------------------------------------------------------------------------------

IPV6 = replace(BANNED, name="[2001:db8::1]:50002:s")
ONION = replace(BANNED, name=f"{'a' * 56}.onion:50001:t")
SPELLINGS = [
    ("e.example", BANNED),
    ("e.example:50002", BANNED),
    ("e.example:50002:s", BANNED),
    ("E.Example", BANNED),
    ("  e.example:50002\n", BANNED),
    ("2001:db8::1", IPV6),
    ("2001:DB8::1", IPV6),
    ("[2001:db8::1]:50002", IPV6),
    ("[2001:db8::1]:50002:s", IPV6),
    (f"{'a' * 56}.onion", ONION),
]


@pytest.mark.parametrize(("name", "meant"), SPELLINGS)
def test_server_is_trusted_anew_by_any_of_its_names(db: Database, name: str, meant: ServerState) -> None:
    """Host, host with port, or the full name: pin and ban of that server are forgotten, all others keep theirs."""
    everybody = [IPV6, ONION, PINNED, CA_SIGNED, BANNED]
    servers.save_servers(db, everybody, now=NOW)
    assert servers.trust_server(db, name) == [meant.name]
    forgiven = replace(meant, verdict="unavailable", reason="trusted-anew", fingerprint=None, banned_until=0)
    found = {state.name: state for state in servers.load_servers(db)}
    assert found == {state.name: state for state in everybody} | {meant.name: forgiven}


def test_certificate_authority_is_forgotten_too(db: Database) -> None:
    """A server that was signed by an authority once may come back with a certificate of its own."""
    servers.save_servers(db, [CA_SIGNED], now=NOW)
    servers.trust_server(db, "d.example")
    (found,) = servers.load_servers(db)
    assert not found.is_ca_signed


def test_host_means_all_its_ports(db: Database) -> None:
    """A host name trusts every server on that host; host and port mean both ways to speak on it."""
    names = ["e.example:50001:t", "e.example:50002:s", "e.example:50002:t"]
    servers.save_servers(db, [replace(BANNED, name=name) for name in names], now=NOW)
    assert servers.trust_server(db, "e.example:50002") == names[1:]
    assert servers.trust_server(db, "e.example") == names
    assert servers.trust_server(db, "e.example:50001:t") == names[:1]


@pytest.mark.parametrize(
    "name",
    ["", " ", "example", "xe.example", "e.example.", "e.exampl", "50002", "s", "e.example:50002:t", "%", "e_example"],
)
def test_other_name_trusts_nobody(db: Database, name: str) -> None:
    """Part of a name, or another one, means no server: nothing is forgotten and nothing queued."""
    servers.save_servers(db, [BANNED, PINNED], now=NOW)
    assert servers.trust_server(db, name) == []
    assert servers.load_servers(db) == [PINNED, BANNED]
    assert not servers.has_trust_changes(db)


def test_trusted_servers_are_taken_off_the_queue_once(db: Database) -> None:
    """The running service learns of each server that is trusted anew, once, however often that was said."""
    servers.save_servers(db, [BANNED, PINNED], now=NOW)
    assert not servers.has_trust_changes(db)
    assert servers.take_trust_changes(db) == []
    for name in ("e.example", "e.example:50002", "c.example"):
        servers.trust_server(db, name)
    assert servers.has_trust_changes(db)
    assert sorted(servers.take_trust_changes(db)) == [PINNED.name, BANNED.name]
    assert not servers.has_trust_changes(db)
    assert servers.take_trust_changes(db) == []


def test_trusted_server_is_not_remembered_until_it_works(db: Database) -> None:
    """To be trusted anew is no proof that a server works: it is tried first at a start only after it was connected."""
    servers.save_servers(db, [BANNED], now=NOW)
    servers.trust_server(db, "e.example")
    assert servers.load_remembered(db) == []
    servers.save_servers(db, [replace(BANNED, verdict="connected", banned_until=0)], now=NOW + 1)
    assert servers.load_remembered(db) == [BANNED.name]
