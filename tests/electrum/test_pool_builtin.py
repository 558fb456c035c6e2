"""The list that ships with the program: many strangers, some of them dead, some of them one party under two names."""

import random

import pytest
import trio
import trio.testing

from lightipn.chain.source import ServerState
from lightipn.electrum.pool import RACERS
from lightipn.simulator.behaviour import Behaviour
from tests.electrum.memory import MemoryConnector
from tests.electrum.pools import BAN_S, Served, named, pool_of, unix_clock, verdicts, wait_until

Clock = trio.testing.MockClock


def hosts_of(count: int) -> list[str]:
    """Return so many hosts, each of a domain of its own."""
    return [f"electrum.party{number}.example" for number in range(count)]


# --- the race ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 3])
async def test_first_that_answer_are_kept(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock, connections: int
) -> None:
    """Eight are tried at once, and those that greet first are used, as many as there are slots."""
    for number, host in enumerate(hosts_of(RACERS)):
        memory.add(host, Behaviour(delay_s=0.1 * (1 + (number * 3) % RACERS)))
    quickest = sorted(memory.servers, key=lambda host: memory.servers[host].behaviour.delay_s)
    pool, served = pool_of(memory, hosts_of(RACERS), connections=connections, is_builtin=True), Served()
    nursery.start_soon(pool.run, served.serve)
    await trio.testing.wait_all_tasks_blocked()
    assert len(memory.tries) == RACERS
    assert pool.voices() == connections
    await served.wait_count(connections)
    assert trio.current_time() < 0.1 * 2 * 2 * (connections + 1)
    await trio.sleep(100)
    assert sorted(served.hosts) == sorted(quickest[:connections])
    assert sum(server.connections for server in memory.servers.values()) == connections


async def test_race_is_random(memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """Of a long list eight race that chance chooses, so not every service asks the same servers."""
    memory.add_many(*hosts_of(60))
    raced = []
    for seed in range(3):
        memory.tries.clear()
        pool = pool_of(memory, hosts_of(60), is_builtin=True, chance=random.Random(seed))
        async with trio.open_nursery() as users:
            users.start_soon(pool.run, Served().serve)
            await trio.testing.wait_all_tasks_blocked()
            users.cancel_scope.cancel()
        raced.append({host for _, host in memory.tries[:RACERS]})
    assert [len(hosts) for hosts in raced] == [RACERS] * 3
    assert raced[0] != raced[1] != raced[2]


async def test_dead_and_stalled_servers_hold_nobody_up(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Of a list in which most are dead or stalled, one that answers is found without waiting for the others."""
    hosts = hosts_of(RACERS)
    for host in hosts[:4]:
        memory.add(host, Behaviour(stalls=True))
    memory.add(hosts[-1])
    pool, served = pool_of(memory, hosts, is_builtin=True), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    assert served.hosts == [hosts[-1]]
    assert trio.current_time() < 1.0


async def test_race_without_a_winner_ends(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """When nobody wins the race, the servers are tried in turn, and one that comes back is found."""
    hosts = hosts_of(2)
    server = memory.add(hosts[1], Behaviour(stalls=True))
    served = Served()
    nursery.start_soon(pool_of(memory, hosts, is_builtin=True).run, served.serve)
    await trio.sleep(30)
    server.behaviour = Behaviour()
    await served.wait_count(1)
    assert served.hosts == [hosts[1]]


async def test_slots_that_the_race_did_not_fill_are_filled_after_it(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Where fewer answered than there are slots, those are used, and the rest of the list is tried."""
    hosts = hosts_of(3 * RACERS)
    memory.add_many(*hosts[::8])
    served = Served()
    nursery.start_soon(pool_of(memory, hosts, connections=3, is_builtin=True).run, served.serve)
    await served.wait_open(*hosts[::8])


async def test_remembered_servers_come_first(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Built-in servers that worked before are used without a race, the best first, whatever the order of the list."""
    hosts = hosts_of(12)
    memory.add_many(*hosts)
    for known in ([hosts[7], hosts[2]], [hosts[2], hosts[11]]):
        memory.tries.clear()
        pool = pool_of(memory, hosts, connections=2, is_builtin=True, remembered=[named(host).name for host in known])
        served = Served()
        async with trio.open_nursery() as users:
            users.start_soon(pool.run, served.serve)
            await served.wait_open(*known)
            users.cancel_scope.cancel()
        assert sorted(host for _, host in memory.tries) == sorted(known)


async def test_remembered_server_that_is_dead_is_replaced(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A remembered server that is gone costs a moment: the next of the list takes its place."""
    hosts = hosts_of(4)
    memory.add_many(*hosts[1:])
    served = Served()
    pool = pool_of(memory, hosts, is_builtin=True, remembered=[named(hosts[0]).name])
    nursery.start_soon(pool.run, served.serve)
    with trio.fail_after(1):
        await served.wait_count(1)
    assert served.hosts[0] in hosts[1:]


@pytest.mark.parametrize("verdict", ["banned", "distrusted"])
async def test_who_may_not_be_tried_does_not_race(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock, verdict: str
) -> None:
    """A ban and a changed certificate hold in the race as well: such a server is not even connected to."""
    hosts = hosts_of(3)
    memory.add_many(*hosts)
    name = named(hosts[0]).name
    banned_until = int(unix_clock() + BAN_S) if verdict == "banned" else 0
    known = {name: ServerState(name=name, verdict=verdict, reason="known", banned_until=banned_until)}
    served = Served()
    nursery.start_soon(pool_of(memory, hosts, connections=3, is_builtin=True, known=known).run, served.serve)
    await served.wait_open(*hosts[1:])
    assert memory.tries_of(hosts[0]) == []


# --- independence ------------------------------------------------------------------------------------------------

TWINS = ("one.twins.example", "two.twins.example")
OTHER = "electrum.other.example"


async def test_two_servers_of_one_domain_are_never_used_together(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Of built-in servers under one domain only one is used: one party may run both."""
    memory.add_many(*TWINS, OTHER)
    pool, served = pool_of(memory, [*TWINS, OTHER], connections=3, is_builtin=True), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(2)
    for _ in range(100):
        await trio.sleep(30)
        assert OTHER in served.sessions
        assert len(served.sessions) == 2
    (used,) = set(served.sessions) - {OTHER}
    await memory.kill(used)
    (left,) = set(TWINS) - {used}
    await served.wait_open(left, OTHER)


async def test_two_servers_of_one_network_are_never_used_together(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Of built-in servers in one network only one is used; the other counts as behind, and is no liar."""
    hosts = hosts_of(3)
    memory.add_many(*hosts)
    memory.networks = {hosts[0]: "192.0.0.0/16", hosts[1]: "192.0.0.0/16", hosts[2]: "198.51.0.0/16"}
    pool, served = pool_of(memory, hosts, connections=3, is_builtin=True), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(2)
    await wait_until(pool, lambda: sorted(verdicts(pool).values()) == ["behind", "connected", "connected"])
    for _ in range(100):
        await trio.sleep(30)
        assert hosts[2] in served.sessions
        assert len(served.sessions) == 2
    assert pool.take_evidence() == []
    (used,) = set(served.sessions) - {hosts[2]}
    await memory.kill(used)
    (left,) = set(hosts[:2]) - {used}
    await served.wait_open(left, hosts[2])


async def test_place_of_a_twin_goes_to_an_independent_server(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Where a second server of a network was refused, its slot is filled by one of another network."""
    hosts = hosts_of(4)
    memory.add_many(*hosts)
    memory.networks = {host: f"192.{number // 2}.0.0/16" for number, host in enumerate(hosts)}
    pool, served = pool_of(memory, hosts, connections=2, is_builtin=True), Served()
    nursery.start_soon(pool.run, served.serve)
    await trio.sleep(5)
    assert len({memory.networks[host] for host in served.sessions}) == len(served.sessions) == 2


async def test_servers_without_a_network_are_told_apart_by_domain_alone(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Behind a proxy nobody's network is known: that makes no two servers one."""
    hosts = hosts_of(3)
    memory.add_many(*hosts)
    served = Served()
    nursery.start_soon(pool_of(memory, hosts, connections=3, is_builtin=True).run, served.serve)
    await served.wait_open(*hosts)


async def test_configured_servers_count_as_independent(
    memory: MemoryConnector, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """What the operator configured is used as it is, also two servers of one domain and one network."""
    memory.add_many(*TWINS)
    memory.networks = dict.fromkeys(TWINS, "192.0.0.0/16")
    served = Served()
    nursery.start_soon(pool_of(memory, TWINS, connections=2).run, served.serve)
    await served.wait_open(*TWINS)
