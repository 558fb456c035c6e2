"""Looking at servers once: who answers, with a proof, and who does not."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import trio
import trio.testing

from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.source import ServerState
from lightipn.electrum.connection import Connector, Identity
from lightipn.electrum.probe import PROBE_TIMEOUT_S, PROBES_AT_ONCE, Probe, probe_servers
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from tests.electrum.memory import MemoryConnector
from tests.electrum.pools import named

Clock = trio.testing.MockClock
A, B = "a.example", "b.example"


async def probe(
    memory: MemoryConnector, *hosts: str, lowest_tip: int = 0, known: Mapping[str, Identity] | None = None
) -> list[Probe]:
    """Probe servers."""
    addresses = [named(host) for host in hosts]
    connector: Connector = memory  # type: ignore[assignment]  # it connects like one
    return await probe_servers(addresses, REGTEST, connector, lowest_tip=lowest_tip, known=known or {})


async def test_good_server_answers_with_a_proof(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A server that answers shows what it is, and a branch that leads from a txid to the root of its tip."""
    memory.add(A)
    (found,) = await probe(memory, A)
    assert found.state.latency_ms is not None
    assert replace(found.state, latency_ms=None) == ServerState(
        name=named(A).name, verdict="answered", software="Simulator 1.0", protocol="1.6", tip_height=12
    )
    assert found.tip_raw == chain.header_at(12)
    assert found.coinbase is not None
    txid, branch = found.coinbase
    assert txid == chain.block_at(12).txids[0]
    assert merkle_root_of(txid, branch.siblings, branch.position) == parse_header(found.tip_raw).merkle_root


@pytest.mark.parametrize(
    ("behaviour", "verdict", "reason"),
    [
        pytest.param(Behaviour(wrong_genesis=True), "misbehaved", "another network", id="another network"),
        pytest.param(Behaviour(garbage=True), "misbehaved", "line is not JSON", id="garbage"),
        pytest.param(Behaviour(withholds_proof=True), "unavailable", "id_from_pos", id="no proofs"),
        pytest.param(Behaviour(stalls=True), "unavailable", "timed-out", id="stalls"),
        pytest.param(Behaviour(delay_s=9.0), "unavailable", "timed-out", id="too slow"),
    ],
)
async def test_bad_server_is_named(
    memory: MemoryConnector, autojump_clock: Clock, behaviour: Behaviour, verdict: str, reason: str
) -> None:
    """A server that is of no use gets a verdict and a reason, within half a minute, and no proof."""
    memory.add(A, behaviour)
    (found,) = await probe(memory, A)
    assert (found.state.verdict, found.coinbase, found.tip_raw) == (verdict, None, b"")
    assert reason in found.state.reason
    assert trio.current_time() <= PROBE_TIMEOUT_S


async def test_server_behind_is_named(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """A server below the height asked for is no good server yet."""
    memory.add(A)
    (found,) = await probe(memory, A, lowest_tip=13)
    assert (found.state.verdict, found.state.reason) == ("unavailable", "server is at height 12, want at least 13")


async def test_probes_come_back_in_order(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """Many servers are probed side by side, a few at a time, and each result stands where its server was named."""
    hosts = [f"server{number}.example" for number in range(3 * PROBES_AT_ONCE)]
    for number, host in enumerate(hosts):
        if number % 5:
            memory.add(host, Behaviour(delay_s=0.1 * (number % 3)))
    found = await probe(memory, *hosts)
    assert [one.state.name for one in found] == [named(host).name for host in hosts]
    assert [one.state.verdict for one in found] == [
        "answered" if number % 5 else "unavailable" for number in range(len(hosts))
    ]
    assert trio.current_time() < 5.0
    assert all(server.connections == 0 for server in memory.servers.values())


async def test_probe_asks_who_a_server_was(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """A server must be who the service knows it to be; one that nobody knows may be anybody."""
    memory.add_many(A, B)
    known = {named(A).name: Identity(b"\1" * 32)}
    assert [one.state.verdict for one in await probe(memory, A, B, known=known)] == ["answered", "answered"]
    assert memory.known == {A: Identity(b"\1" * 32), B: Identity()}
    memory.strangers.add(A)
    found, other = await probe(memory, A, B, known=known)
    assert (found.state.verdict, found.state.reason) == ("distrusted", "certificate-changed: made up")
    assert other.state.verdict == "answered"
