"""What servers were caught with, and trusting one anew."""

import pytest

from lightipn.chain.source import Misbehaviour, ServerState
from lightipn.errors import RequestError
from lightipn.store import evidence, servers
from tests.service.rig import Tools
from tests.store.rows import NOW

BANNED = ServerState(
    name="a.example:50002:s", verdict="banned", reason="false-header", fingerprint=b"\x01" * 32, banned_until=NOW + 60
)
GOOD = ServerState(name="b.example:50002:s", verdict="connected")


async def test_evidence_is_listed_newest_first(tools: Tools) -> None:
    """What servers were caught with is told newest first, no more than is asked for."""
    caught = [
        Misbehaviour(
            server=f"{name}.example:50002:s", kind="false-header", claim="a", contradiction="b", raw=b"\x00\xff"
        )
        for name in "abc"
    ]
    assert list(await tools.service.servers.list_evidence(limit=9)) == []
    await tools.store.transact(lambda db: evidence.save_evidence(db, caught))
    found = await tools.service.servers.list_evidence(limit=2)
    assert [(item.evidence_id, item.server, item.raw) for item in found] == [
        (3, "c.example:50002:s", b"\x00\xff"),
        (2, "b.example:50002:s", b"\x00\xff"),
    ]


@pytest.mark.parametrize("name", ["a.example", "A.Example", "a.example:50002", "a.example:50002:s"])
async def test_server_is_trusted_anew_by_any_of_its_names(tools: Tools, name: str) -> None:
    """Host, host with port, and full name all mean the server; others keep what is held against them."""
    await tools.store.transact(lambda db: servers.save_servers(db, [BANNED, GOOD], now=NOW))
    assert list(await tools.service.servers.trust(name)) == [BANNED.name]
    first, second = await tools.store.read(servers.load_servers)
    assert (first.fingerprint, first.banned_until) == (None, 0)
    assert second == GOOD
    assert await tools.store.read(servers.has_trust_changes)


@pytest.mark.parametrize("name", ["", "c.example", "a.example:1", "example", "\x1b[31m", "x" * 9000])
async def test_unknown_server_is_refused_with_those_known(tools: Tools, name: str) -> None:
    """A name that no server has changes nothing, and the printable refusal lists the servers there are."""
    await tools.store.transact(lambda db: servers.save_servers(db, [BANNED, GOOD], now=NOW))
    with pytest.raises(RequestError, match=r"known: a\.example:50002:s, b\.example:50002:s$") as caught:
        await tools.service.servers.trust(name)
    assert (caught.value.code, caught.value.status_hint) == ("unknown-server", 404)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert await tools.store.read(servers.load_servers) == [BANNED, GOOD]


async def test_refusal_without_any_server_says_so(tools: Tools) -> None:
    """Before a server was tried, none is known."""
    with pytest.raises(RequestError, match="none was tried yet"):
        await tools.service.servers.trust("a.example")
