"""What becomes of servers that cannot be used, lie, lag, or break the protocol."""

import pytest
import trio
import trio.testing

from lightipn.chain.source import ServerState
from lightipn.electrum.pool import BEHIND_PAUSE_S, LONELY_PAUSE_S, MISBEHAVED_PAUSE_S
from lightipn.electrum.protocol import Call
from lightipn.electrum.session import Session
from lightipn.errors import HistoryError, SourceUnavailableError
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.session import GARBAGE
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
REASON = "false-header: its work is too little"


# --- servers that cannot be used ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "verdict", "reason"),
    [
        pytest.param(Behaviour(wrong_genesis=True), "banned", "another network", id="another network"),
        pytest.param(Behaviour(garbage=True), "misbehaved", "line is not JSON", id="garbage"),
        pytest.param(Behaviour(stalls=True), "unavailable", "answer-timed-out", id="stalls"),
        pytest.param(Behaviour(max_protocol="1.3"), "refused", "server refused", id="no protocol in common"),
    ],
)
async def test_bad_server_is_left_for_a_good_one(
    memory: MemoryConnector,
    nursery: trio.Nursery,
    autojump_clock: Clock,
    behaviour: Behaviour,
    verdict: str,
    reason: str,
) -> None:
    """A server that cannot be used is named with a verdict, and the next one is used instead."""
    memory.add(A, behaviour)
    memory.add(B)
    pool, served = pool_of(memory, [A, B]), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    assert served.hosts == [B]
    assert verdicts(pool) == {A: verdict, B: "connected"}
    assert reason in state_of(pool, A).reason


async def test_server_that_is_behind_the_world_is_tried_again_soon(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server below the height that we know of is catching up: no lie, and no long rest."""
    server = memory.add(A)
    pool, served = pool_of(memory, [A], lowest_tip=13), Served()
    nursery.start_soon(pool.run, served.serve)
    await wait_until(pool, lambda: verdicts(pool) == {A: "unavailable"})
    assert state_of(pool, A).reason == "server is at height 12, want at least 13"
    server.chain.mine()
    with trio.fail_after(5):
        await served.wait_open(A)
    assert pool.take_evidence() == []


# --- bans --------------------------------------------------------------------------------------------------------


async def test_liar_is_banned(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """A server that lied loses its session, says why and until when it is banned, and another takes its place."""
    pool, served = await using(memory, nursery, A, B, connections=1)
    pool.report(lie_of(A))
    reported_at = int(unix_clock())
    await served.wait_open(B)
    state = state_of(pool, A)
    assert (state.verdict, state.reason) == ("banned", REASON)
    assert reported_at + BAN_S <= state.banned_until <= reported_at + BAN_S + 1


async def test_ban_has_an_end(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """A banned server is not tried before its time, whatever becomes of the others; then it is, with nothing left."""
    pool, served = await using(memory, nursery, A, B)
    pool.report(lie_of(A))
    banned_at = trio.current_time()
    await served.wait_open(B)
    for _ in range(20):
        await memory.servers[B].drop_connections()
        await trio.sleep(BAN_S / 24)
        assert set(served.sessions) == {B}
    assert len(memory.tries_of(A)) == 1
    await served.wait_open(A, B)
    assert BAN_S - 2 <= memory.tries_of(A)[1] - banned_at <= BAN_S + 2
    assert (verdicts(pool)[A], state_of(pool, A).banned_until) == ("connected", 0)


async def test_ban_survives_a_restart(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """What was known of a server when the service ended holds when it starts again: the rest of the ban is kept."""
    before, served = await using(memory, nursery, A, B)
    before.report(lie_of(A))
    await served.wait_open(B)
    known = known_of(before)
    memory.tries.clear()
    await trio.sleep(BAN_S / 2)
    pool, served = pool_of(memory, [A, B], connections=2, known=known), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open(B)
    await trio.sleep(BAN_S / 2 - 10)
    assert memory.tries_of(A) == []
    with trio.fail_after(20):
        await served.wait_open(A, B)


async def test_lone_liar_is_asked_again_soon(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """The only server there is gets another chance within seconds, whatever it did: all it says is proved."""
    pool, served = await using(memory, nursery, A)
    for count in range(2, 10):
        pool.report(lie_of(A))
        began = trio.current_time()
        await served.wait_count(count)
        assert trio.current_time() - began <= 1.3 * LONELY_PAUSE_S


async def test_lone_liar_is_asked_at_once_after_a_restart(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A ban of the only server does not keep a service that starts waiting."""
    memory.add(A)
    name = named(A).name
    banned = ServerState(name=name, verdict="banned", reason="x", banned_until=int(unix_clock() + BAN_S))
    served = Served()
    nursery.start_soon(pool_of(memory, [A], known={name: banned}).run, served.serve)
    with trio.fail_after(1):
        await served.wait_open(A)


async def test_report_during_connecting_counts(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server that is caught while it is being connected to again is banned, and its new session ends, or never is."""
    pool, served = await using(memory, nursery, A, B)
    memory.servers[A].behaviour = Behaviour(delay_s=2.0)
    await memory.servers[A].drop_connections()
    await wait_until(pool, lambda: verdicts(pool)[A] == "connecting")
    pool.report(lie_of(A))
    await trio.sleep(60)
    assert set(served.sessions) == {B}
    assert state_of(pool, A).banned_until > 0


async def test_report_about_a_server_not_in_use_ends_no_other_session(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A report about a server that is gone, or unknown, is kept, and does not end the session with another."""
    pool, served = await using(memory, nursery, A, B, connections=1)
    pool.report(lie_of("nobody.example"))
    pool.report(lie_of(B))
    await trio.sleep(10)
    assert served.hosts == [A]
    assert [found.server for found in pool.take_evidence()] == [named("nobody.example").name, named(B).name]
    assert (state_of(pool, B).verdict, state_of(pool, B).reason) == ("banned", REASON)


async def test_lie_that_a_session_itself_catches_bans(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A history that contradicts itself is a lie like any that is reported: banned, and kept as evidence."""
    pool, served = await using(memory, nursery, A, B)
    served.sessions[A].fail(HistoryError("transaction is listed twice", raw=b"[1,1]"))
    await wait_until(pool, lambda: verdicts(pool) == {A: "banned", B: "connected"})
    assert state_of(pool, A).banned_until == int(unix_clock() + BAN_S)
    (found,) = pool.take_evidence()
    assert (found.server, found.kind, found.contradiction, found.raw) == (
        named(A).name,
        "false-history",
        "transaction is listed twice",
        b"[1,1]",
    )


# --- rest, without a ban -----------------------------------------------------------------------------------------


async def test_broken_protocol_is_rest_and_no_ban(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Who breaks the protocol rests ten minutes; that is no lie, so nobody is banned for it."""
    pool, served = await using(memory, nursery, A, B)
    memory.servers[A].behaviour = Behaviour(garbage=True)
    nursery.start_soon(ask_in_vain, served.sessions[A])
    await wait_until(pool, lambda: verdicts(pool) == {A: "misbehaved", B: "connected"})
    left_at = trio.current_time()
    assert state_of(pool, A).banned_until == 0
    memory.servers[A].behaviour = Behaviour()
    await served.wait_open(A, B)
    assert 0.74 * MISBEHAVED_PAUSE_S <= trio.current_time() - left_at <= 1.26 * MISBEHAVED_PAUSE_S


async def ask_in_vain(session: Session) -> None:
    """Ask a session that will end before the answer comes."""
    with pytest.raises(SourceUnavailableError):
        await session.call(Call("server.ping"))


async def test_evidence_of_a_broken_protocol_is_the_line(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """What broke the protocol is kept as it was sent, so that somebody can look at it."""
    pool, served = await using(memory, nursery, A, B)
    memory.servers[A].behaviour = Behaviour(garbage=True)
    nursery.start_soon(ask_in_vain, served.sessions[A])
    await wait_until(pool, lambda: verdicts(pool)[A] == "misbehaved")
    (found,) = pool.take_evidence()
    assert (found.kind, found.contradiction, found.raw) == ("broken-protocol", "line is not JSON", GARBAGE[:-1])
    assert found.observed_at == int(unix_clock())


async def test_server_that_lags_is_replaced(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server that is of no use now is left for another one, rests five minutes, and is nobody's liar."""
    memory.add(C)
    pool, served = await using(memory, nursery, A, B, C, connections=2)
    pool.demote(named(A).name, "its tip is 3 blocks behind")
    left_at = trio.current_time()
    await served.wait_open(B, C)
    assert (verdicts(pool)[A], state_of(pool, A).reason) == ("behind", "its tip is 3 blocks behind")
    await memory.kill(C)
    await served.wait_open(A, B)
    assert 0.74 * BEHIND_PAUSE_S <= trio.current_time() - left_at <= 1.26 * BEHIND_PAUSE_S
    assert pool.take_evidence() == []


async def test_lagging_server_is_better_than_none(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server is demoted only where another one is in use: not the only one, and never the last two at once."""
    pool, served = await using(memory, nursery, A, B, connections=1)
    pool.demote(named(A).name, "behind")
    await trio.sleep(10)
    assert served.hosts == [A]
    pool, served = await using(memory, nursery, A, B)
    pool.demote(named(A).name, "behind")
    await wait_until(pool, lambda: verdicts(pool)[A] == "behind")
    pool.demote(named(B).name, "behind")
    await trio.sleep(10)
    assert set(served.sessions) == {B}


async def test_both_of_two_servers_are_not_demoted_at_once(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Two demotions in one breath leave one of two servers in use."""
    pool, served = await using(memory, nursery, A, B)
    pool.demote(named(A).name, "behind")
    pool.demote(named(B).name, "behind")
    await trio.sleep(1)
    assert len(served.sessions) == 1


async def test_demotion_of_a_server_not_in_use_is_nothing(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server that is not in use cannot be demoted, and nobody else is instead."""
    pool, served = await using(memory, nursery, A, B)
    for host in (C, "nobody.example"):
        pool.demote(named(host).name, "behind")
    await trio.sleep(10)
    assert set(served.sessions) == {A, B}
    assert set(verdicts(pool).values()) == {"connected"}
