"""Servers that are not who they were, the operator's word about them, and what is kept against servers."""

from dataclasses import replace

import pytest
import structlog.testing
import trio
import trio.testing

from lightipn.bitcoin.network import REGTEST
from lightipn.chain.source import ServerState
from lightipn.electrum.connection import Identity
from lightipn.electrum.pool import EVIDENCE_BYTES, ServerPool
from tests.electrum.memory import MemoryConnector
from tests.electrum.pools import (
    BAN_S,
    Served,
    known_of,
    lie_of,
    named,
    pool_of,
    state_of,
    unix_clock,
    using,
    verdicts,
    wait_until,
)

Clock = trio.testing.MockClock
A, B, C = ("a.example", "b.example", "c.example")


# --- servers that are not who they were --------------------------------------------------------------------------


async def test_identity_is_kept(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """Who a server is, is learnt at its first session, asked for at the next, and known after a restart."""
    memory.identities = {A: Identity(b"\1" * 32), B: Identity(is_ca_signed=True)}
    before, served = await using(memory, nursery, A, B)
    assert memory.known == {A: Identity(), B: Identity()}
    known = known_of(before)
    assert (known[named(A).name].fingerprint, known[named(A).name].is_ca_signed) == (b"\1" * 32, False)
    assert (known[named(B).name].fingerprint, known[named(B).name].is_ca_signed) == (None, True)
    await memory.servers[A].drop_connections()
    await served.wait_count(3)
    assert memory.known[A] == Identity(b"\1" * 32)
    memory.known.clear()
    await using(memory, nursery, A, B, known=known)
    assert memory.known == memory.identities


async def test_stranger_is_an_alarm_and_is_not_tried_again(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server with another certificate is used no more, an error in the log, evidence, and no ban that would end."""
    pool, served = await using(memory, nursery, A, B)
    memory.strangers.add(A)
    with structlog.testing.capture_logs() as logs:
        await memory.servers[A].drop_connections()
        await served.wait_open(B)
        await trio.sleep(1.1 * BAN_S)
    assert len(memory.tries_of(A)) == 2
    assert (verdicts(pool)[A], state_of(pool, A).reason) == ("distrusted", "certificate-changed: made up")
    (found,) = pool.take_evidence()
    assert (found.server, found.kind, found.contradiction) == (
        named(A).name,
        "changed-certificate",
        "certificate-changed: made up",
    )
    (alarm,) = [log for log in logs if log["event"] == "electrum.server_distrusted"]
    assert (alarm["log_level"], alarm["server"]) == ("error", named(A).name)
    assert alarm["hint"].endswith("lightipn server trust a.example:50001")


@pytest.mark.parametrize("others", [(), (B,)], ids=["alone", "with another"])
async def test_distrust_survives_a_restart(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock, others: tuple[str, ...]
) -> None:
    """A distrusted server is not tried after a restart either, not even where it is the only one."""
    memory.add_many(A, *others)
    name = named(A).name
    known = {name: ServerState(name=name, verdict="distrusted", reason="certificate-changed", fingerprint=b"\1" * 32)}
    pool, served = pool_of(memory, [A, *others], connections=2, known=known), Served()
    nursery.start_soon(pool.run, served.serve)
    await trio.sleep(1.1 * BAN_S)
    assert memory.tries_of(A) == []
    assert set(served.sessions) == set(others)
    assert (verdicts(pool)[A], state_of(pool, A).reason) == ("distrusted", "certificate-changed")


async def test_configured_fingerprint_ends_distrust(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """An operator who wrote down the certificate has said whom to trust: such a server is tried after a restart."""
    memory.add(A)
    address = replace(named(A), uses_tls=True, fingerprint=b"\2" * 32)
    known = {address.name: ServerState(name=address.name, verdict="distrusted", fingerprint=b"\1" * 32)}
    pool = ServerPool([address], REGTEST, connector=memory, connections=1, ban_s=BAN_S, clock=unix_clock, known=known)  # type: ignore[arg-type]  # a fake
    served = Served()
    nursery.start_soon(pool.run, served.serve)
    with trio.fail_after(1):
        await served.wait_open(A)
    memory.strangers.add(A)
    with structlog.testing.capture_logs() as logs:
        await memory.servers[A].drop_connections()
        await trio.sleep(10)
    (alarm,) = [log for log in logs if log["event"] == "electrum.server_distrusted"]
    assert alarm["hint"].endswith("change #fingerprint in the configuration")


async def test_operator_trusts_a_server_anew(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Once the operator says so the server is tried at once, and the certificate that it shows is the one to know."""
    pool, served = await using(memory, nursery, A, B)
    memory.strangers.add(A)
    await memory.servers[A].drop_connections()
    await served.wait_open(B)
    await wait_until(pool, lambda: verdicts(pool)[A] == "distrusted")
    memory.strangers.clear()
    memory.identities[A] = Identity(b"\2" * 32)
    await trio.sleep(1000)
    pool.trust(named(A).name)
    with trio.fail_after(1):
        await served.wait_open(A, B)
    assert memory.known[A] == Identity()
    assert (verdicts(pool)[A], state_of(pool, A).fingerprint) == ("connected", b"\2" * 32)


async def test_trust_lifts_a_ban(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """Trusting a server anew forgets its ban, too, and its pauses."""
    pool, served = await using(memory, nursery, A, B)
    pool.report(lie_of(A))
    await wait_until(pool, lambda: verdicts(pool)[A] == "banned")
    pool.trust(named(A).name)
    with trio.fail_after(1):
        await served.wait_open(A, B)
    assert state_of(pool, A).banned_until == 0


async def test_trust_of_a_server_in_use_learns_it_anew(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server in use that is trusted anew is connected to again, as if it had never been seen; others are not."""
    memory.identities[A] = Identity(b"\1" * 32)
    pool, served = await using(memory, nursery, A, B)
    memory.identities[A] = Identity(b"\2" * 32)
    pool.trust(named(A).name)
    await served.wait_count(3)
    assert served.hosts[2:] == [A]
    assert memory.known[A] == Identity()
    assert state_of(pool, A).fingerprint == b"\2" * 32


# --- evidence ----------------------------------------------------------------------------------------------------


async def test_evidence_is_taken_once(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """Evidence is handed out once, in order, with the time of its report and no more bytes than are worth keeping."""
    pool, _ = await using(memory, nursery, A, B, C)
    lies = [lie_of(A, raw=b"\0" * 10_000), lie_of(B, kind="false-branch", raw=b"\1")]
    changed = pool.changed
    for lie in lies:
        pool.report(lie)
    assert changed.is_set()
    now = int(unix_clock())
    assert pool.take_evidence() == [
        replace(lies[0], raw=b"\0" * EVIDENCE_BYTES, observed_at=now),
        replace(lies[1], observed_at=now),
    ]
    assert pool.take_evidence() == []
    await trio.sleep(100)
    assert pool.take_evidence() == []


async def test_lie_is_logged(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """A lie is a warning that says what was claimed and what shows that it is wrong, and never what was sent."""
    pool, served = await using(memory, nursery, A, B)
    with structlog.testing.capture_logs() as logs:
        pool.report(lie_of(A, raw=b"visit http://phishing.example"))
        await served.wait_open(B)
    (line,) = [log for log in logs if log["event"] == "electrum.server_misbehaved"]
    assert line == {
        "event": "electrum.server_misbehaved",
        "log_level": "warning",
        "server": named(A).name,
        "kind": "false-header",
        "claim": "header 7",
        "contradiction": "its work is too little",
    }
