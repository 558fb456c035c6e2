"""Which servers are used: slots, the operator's order, and pauses that grow."""

import random

import pytest
import structlog.testing
import trio
import trio.testing

from lightipn.chain.source import ServerState
from lightipn.electrum.pool import (
    FIRST_PAUSE_S,
    LONELY_PAUSE_S,
    LONGEST_COMMON_PAUSE_S,
    LONGEST_PAUSE_S,
    REUNION_S,
    STABLE_SESSION_S,
)
from lightipn.errors import ProtocolError
from lightipn.simulator.behaviour import Behaviour
from tests.electrum.memory import MemoryConnector
from tests.electrum.pools import Served, lie_of, named, pool_of, verdicts, wait_until

Clock = trio.testing.MockClock
HOSTS = ("a.example", "b.example", "c.example", "d.example")


def pauses_in(logs: list[structlog.typing.EventDict]) -> list[float]:
    """Return the pauses that were announced."""
    return [log["next_try_s"] for log in logs if log["event"] == "electrum.session_closed"]


# --- slots -------------------------------------------------------------------------------------------------------


async def test_first_server_is_used(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """With one slot the first configured server is used, alone, and its state says what it told."""
    memory.add_many("a.example", "b.example")
    pool, served = pool_of(memory, ["a.example", "b.example"]), Served()
    assert pool.states() == []
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    await trio.sleep(100)
    (state,) = pool.states()
    assert state.latency_ms is not None
    assert state == ServerState(
        name=named("a.example").name,
        verdict="connected",
        software="Simulator 1.0",
        protocol="1.6",
        tip_height=12,
        latency_ms=state.latency_ms,
    )


@pytest.mark.parametrize("connections", [1, 2, 3, 4])
async def test_so_many_servers_are_used_in_their_order(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock, connections: int
) -> None:
    """The first servers of the configured order are used, as many as there are slots, and the others left alone."""
    memory.add_many(*HOSTS)
    pool, served = pool_of(memory, HOSTS, connections=connections), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open(*HOSTS[:connections])
    await trio.sleep(1000)
    assert sorted(served.hosts) == sorted(host for _, host in memory.tries) == list(HOSTS[:connections])
    assert list(verdicts(pool)) == list(HOSTS[:connections])


async def test_a_server_fills_one_slot(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """With more slots than servers, or a server named twice, there is one session with each and no more."""
    servers = memory.add_many("a.example", "b.example")
    pool, served = pool_of(memory, ["a.example", "b.example", "a.example"], connections=5), Served()
    assert pool.voices() == 2
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open("a.example", "b.example")
    await trio.sleep(1000)
    assert [server.accepted for server in servers] == [1, 1]
    assert pool.voices() == 2


async def test_lost_server_is_replaced_by_the_next(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """The place of a server that is gone goes to the next one within a moment; sessions that hold are not touched."""
    memory.add_many(*HOSTS)
    pool, served = pool_of(memory, HOSTS, connections=2), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open("a.example", "b.example")
    lost = await memory.kill("a.example")
    began = trio.current_time()
    await served.wait_open("b.example", "c.example")
    assert trio.current_time() - began < FIRST_PAUSE_S
    memory.revive(lost)
    await trio.sleep(1000)
    assert set(served.sessions) == {"b.example", "c.example"}
    assert len(memory.tries) == 3


async def test_next_server_is_tried_at_once(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Where the first server is dead, the next one is tried within a moment."""
    memory.add("b.example")
    pool, served = pool_of(memory, ["a.example", "b.example"]), Served()
    began = trio.current_time()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    assert trio.current_time() - began < FIRST_PAUSE_S
    assert verdicts(pool) == {"a.example": "unavailable", "b.example": "connected"}


async def test_each_of_many_slots_is_filled_in_the_end(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Servers that come up late are found, whatever else comes and goes."""
    pool, served = pool_of(memory, HOSTS, connections=4), Served()
    nursery.start_soon(pool.run, served.serve)
    for place, host in enumerate(HOSTS):
        memory.add(host)
        await served.wait_open(*HOSTS[: place + 1])
        await trio.sleep(30)
    assert set(verdicts(pool).values()) == {"connected"}


async def test_pool_without_servers_does_nothing(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """A service without any server does not crash: its API still answers, and says that none is connected."""
    pool = pool_of(memory, [], connections=3)
    with trio.move_on_after(60):
        await pool.run(Served().serve)
    assert (pool.states(), pool.voices(), memory.tries) == ([], 0, [])


async def test_cancelled_pool_leaves_no_session(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """When the pool is cancelled, every session is closed."""
    servers = memory.add_many(*HOSTS)
    served = Served()
    async with trio.open_nursery() as users:
        users.start_soon(pool_of(memory, HOSTS, connections=4).run, served.serve)
        await served.wait_open(*HOSTS)
        users.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert [server.connections for server in servers] == [0] * 4


# --- pauses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_alone", [True, False], ids=["alone", "with another"])
async def test_pauses_grow(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock, is_alone: bool
) -> None:
    """A dead server is tried again after half a second, then after twice as long each time, up to a minute.

    Where nobody else is in use, nothing is seen meanwhile: then up to ten seconds.
    """
    memory.add_many("b.example")
    with structlog.testing.capture_logs() as logs:
        hosts = ["a.example"] if is_alone else ["b.example", "a.example"]
        nursery.start_soon(pool_of(memory, hosts, connections=2).run, Served().serve)
        await trio.sleep(400)
    pauses = pauses_in(logs)[1:]  # at the first failure nobody else may be there yet
    longest_s = LONELY_PAUSE_S if is_alone else LONGEST_PAUSE_S
    wanted = [min(FIRST_PAUSE_S * 2.0**tries, longest_s) for tries in range(1, len(pauses) + 1)]
    assert len(pauses) >= 10
    assert all(0.74 * want <= pause <= 1.26 * want for pause, want in zip(pauses, wanted, strict=True))


async def test_pauses_are_jittered(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """Services that lost a server together do not come back together."""
    with structlog.testing.capture_logs() as logs:
        for seed in range(5):
            nursery.start_soon(pool_of(memory, ["a.example"], chance=random.Random(seed)).run, Served().serve)
        await trio.sleep(0.1)
    pauses = pauses_in(logs)
    assert len(pauses) == 5
    assert len(set(pauses)) > 1


async def test_network_that_is_down_slows_the_whole_list(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """While all of many servers fail, tries become rare over the whole list, not only for each server."""
    hosts = [f"server{number}.example" for number in range(50)]
    nursery.start_soon(pool_of(memory, hosts, connections=3).run, Served().serve)
    await trio.sleep(60)
    assert 50 <= len(memory.tries) < 150
    before = len(memory.tries)
    await trio.sleep(600)
    assert len(memory.tries) - before <= 1.1 * 3 * 600 / LONGEST_COMMON_PAUSE_S


async def test_dropped_link_is_opened_again(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A link that drops is opened again after a short pause, and again, also many times."""
    server = memory.add("a.example")
    served = Served()
    nursery.start_soon(pool_of(memory, ["a.example"]).run, served.serve)
    for count in range(1, 5):
        await served.wait_count(count)
        dropped_at = trio.current_time()
        await server.drop_connections()
        await served.wait_count(count + 1)
        pause_s = FIRST_PAUSE_S * 2 ** (count - 1)
        assert 0.7 * pause_s <= trio.current_time() - dropped_at <= 1.3 * pause_s + 0.5
    assert server.accepted == 5


async def test_stable_session_starts_pauses_anew(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """After a session that lasted, the next pause is the shortest again."""
    server = memory.add("a.example")
    served = Served()
    nursery.start_soon(pool_of(memory, ["a.example"]).run, served.serve)
    with structlog.testing.capture_logs() as logs:
        for count in range(1, 4):
            await served.wait_count(count)
            await server.drop_connections()
        await served.wait_count(4)
        await trio.sleep(STABLE_SESSION_S + 1)
        await server.drop_connections()
        await served.wait_count(5)
    pauses = pauses_in(logs)
    assert pauses[2] > 1.4
    assert pauses[3] < 0.7


# --- voices and news ---------------------------------------------------------------------------------------------


async def test_voices_count_before_anybody_was_tried(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """At the start every slot is a voice, so that the first server alone cannot have a payment believed."""
    for host in HOSTS:
        memory.add(host, Behaviour(stalls=True))
    pool = pool_of(memory, HOSTS, connections=3)
    assert pool.voices() == 3
    nursery.start_soon(pool.run, Served().serve)
    await trio.sleep(5)
    assert pool.voices() == 3


async def test_dead_server_is_a_voice_until_its_second_failure(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server that did not answer twice in a row is no voice any more: it does not hold payments up."""
    memory.add("a.example")
    pool, served = pool_of(memory, ["a.example", "dead.example"], connections=2), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open("a.example")
    await trio.sleep(REUNION_S)
    assert len(memory.tries_of("dead.example")) > 2
    for _ in range(200):
        await trio.sleep(0.5)
        assert pool.voices() == 1
    memory.add("dead.example")
    await served.wait_open("a.example", "dead.example")
    assert pool.voices() == 2


async def test_voices_between_two_tries(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """Between its first failure and its second a server still counts: it may be there within moments."""
    memory.add("a.example")
    pool, served = pool_of(memory, ["a.example", "dead.example"], connections=2), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open("a.example")
    while verdicts(pool)["dead.example"] != "unavailable":
        await pool.changed.wait()
    assert len(memory.tries_of("dead.example")) == 1
    assert pool.voices() == 2


async def test_first_one_back_waits_for_the_others(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """After all servers were gone, the first one back is not believed alone before the others could be back."""
    hosts = HOSTS[:3]
    memory.add_many(*hosts)
    pool, served = pool_of(memory, hosts, connections=3), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open(*hosts)
    lost = [await memory.kill(host) for host in hosts]
    await trio.sleep(1000)
    memory.revive(lost[0])
    await served.wait_open(hosts[0])
    assert pool.voices() == 3
    await trio.sleep(REUNION_S - 0.1)
    assert pool.voices() == 3
    await trio.sleep(0.2)
    assert pool.voices() == 1


async def test_voices_outlive_a_lost_link(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A link that just broke is still a voice until it is back, or could not be opened again."""
    servers = memory.add_many("a.example", "b.example")
    pool, served = pool_of(memory, ["a.example", "b.example"], connections=2), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open("a.example", "b.example")
    await trio.sleep(STABLE_SESSION_S + 1)
    await servers[0].drop_connections()
    heard = set()
    while len(memory.tries_of("a.example")) < 2 or len(served.sessions) < 2:
        await pool.changed.wait()
        heard.add(pool.voices())
    assert heard == {2}


async def test_replaced_server_is_no_voice(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Where another server took the place of one that is gone, there are as many voices as slots, never more."""
    memory.add_many(*HOSTS)
    pool, served = pool_of(memory, HOSTS, connections=2), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open("a.example", "b.example")
    await memory.kill("a.example")
    await served.wait_open("b.example", "c.example")
    assert pool.voices() == 2


async def test_server_that_is_not_to_be_used_is_no_voice(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server that is left for long, or for good, is no voice: it does not hold payments up meanwhile."""
    hosts = ["lagging.example", "lying.example", "strange.example", "good.example"]
    memory.add_many(*hosts)
    pool, served = pool_of(memory, hosts, connections=4), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open(*hosts)
    await trio.sleep(STABLE_SESSION_S + 1)
    assert pool.voices() == 4
    pool.demote(named("lagging.example").name, "behind")
    pool.report(lie_of("lying.example"))
    memory.strangers.add("strange.example")
    await memory.servers["strange.example"].drop_connections()
    await served.wait_open("good.example")
    await trio.sleep(5)
    assert verdicts(pool) == {
        "lagging.example": "behind",
        "lying.example": "banned",
        "strange.example": "distrusted",
        "good.example": "connected",
    }
    assert pool.voices() == 1


async def test_server_that_broke_the_protocol_is_no_voice(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server that rests because it broke the protocol is no voice: it will not be back within moments."""
    memory.add_many("garbled.example", "good.example")
    pool, served = pool_of(memory, ["garbled.example", "good.example"], connections=2), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_open("garbled.example", "good.example")
    await trio.sleep(STABLE_SESSION_S + 1)
    served.sessions["garbled.example"].fail(ProtocolError("line is not JSON"))
    await served.wait_open("good.example")
    await trio.sleep(5)
    assert verdicts(pool) == {"garbled.example": "misbehaved", "good.example": "connected"}
    assert pool.voices() == 1


async def test_news_are_told(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """Whoever waits for news of the servers is woken by every change of a verdict."""
    server = memory.add("a.example")
    pool = pool_of(memory, ["a.example"])
    nursery.start_soon(pool.run, Served().serve)
    await wait_until(pool, lambda: verdicts(pool) == {"a.example": "connected"})
    await server.drop_connections()
    await wait_until(pool, lambda: verdicts(pool) == {"a.example": "unavailable"})
    await wait_until(pool, lambda: verdicts(pool) == {"a.example": "connecting"})


async def test_state_of_a_server_in_use_is_live(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server's tip is that of its last notice, and stays known when it is gone."""
    server = memory.add("a.example")
    pool, served = pool_of(memory, ["a.example"]), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    server.chain.mine(3)
    await server.publish()
    await trio.testing.wait_all_tasks_blocked()
    assert [state.tip_height for state in pool.states()] == [15]
    await memory.kill("a.example")
    await trio.sleep(100)
    (state,) = pool.states()
    assert (state.verdict, state.reason, state.software, state.tip_height) == (
        "unavailable",
        "connection-refused",
        "Simulator 1.0",
        15,
    )
