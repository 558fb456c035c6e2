"""More servers than redundancy: each watch lives on some of them, always the same, and the others are a check."""

from itertools import combinations

import pytest
import trio
import trio.testing

from lightipn.bitcoin.hashes import ScriptHash, scripthash_of
from lightipn.chain.history import Status
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from tests.electrum.memory import MemoryConnector
from tests.electrum.places import SHOP_SCRIPT
from tests.electrum.readers import (
    HISTORY,
    SHOP,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Reader,
    calls_of,
    connected,
    customers,
    host_of,
    reading,
    rest,
    watchers_of,
)

Clock = trio.testing.MockClock
A, B, C, D = HOSTS = ("a.example", "b.example", "c.example", "d.example")
NOBODYS: list[tuple[ScriptHash, Status | None]] = [(scripthash_of(script), None) for script in customers(400)]
SWEEP_S = 600.0


def check_shares(memory: MemoryConnector, *hosts: str, redundancy: int = 2) -> dict[ScriptHash, set[str]]:
    """Check that every watch lives on as many servers as wanted and on no others; return where."""
    watchers = watchers_of(memory)
    assert set(watchers) == {scripthash for scripthash, _ in NOBODYS}
    assert {len(where) for where in watchers.values()} == {min(redundancy, len(hosts))}
    assert set().union(*watchers.values()) == set(hosts)
    return watchers


# --- shares ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("redundancy", [1, 2, 3])
async def test_each_watch_lives_on_so_many_servers(
    memory: MemoryConnector, autojump_clock: Clock, redundancy: int
) -> None:
    """Every script is subscribed at exactly ``redundancy`` of the servers, and the load is even."""
    memory.add_many(*HOSTS)
    async with reading(memory, *NOBODYS, redundancy=redundancy) as reader:
        await connected(reader, *HOSTS)
        watchers = check_shares(memory, *HOSTS, redundancy=redundancy)
        shares = [sum(host in where for where in watchers.values()) for host in HOSTS]
        assert max(shares) < 1.3 * len(NOBODYS) * redundancy / len(HOSTS)
        assert {frozenset(where) for where in watchers.values()} == {
            frozenset(chosen) for chosen in combinations(HOSTS, redundancy)
        }
        statistics = reader.source.statistics()
        assert (statistics.total, statistics.subscribed, statistics.oldest_gap_s) == (400, 400, 0.0)


@pytest.mark.parametrize("redundancy", [4, 9])
async def test_all_servers_watch_all_where_there_are_no_more(
    memory: MemoryConnector, autojump_clock: Clock, redundancy: int
) -> None:
    """With no more servers than redundancy each of them watches everything."""
    memory.add_many(*HOSTS)
    async with reading(memory, *NOBODYS, redundancy=redundancy) as reader:
        await connected(reader, *HOSTS)
        check_shares(memory, *HOSTS, redundancy=4)
    assert calls_of(memory, SUBSCRIBE) == dict.fromkeys(HOSTS, 400)


@pytest.mark.slow
async def test_shares_are_the_same_after_reconnects_and_restarts(
    memory: MemoryConnector, autojump_clock: Clock
) -> None:
    """Which servers watch a script depends on their names alone: in the end the same ones see the same addresses."""
    memory.add_many(*HOSTS)
    async with reading(memory, *NOBODYS, redundancy=2) as reader:
        await connected(reader, *HOSTS)
        before = check_shares(memory, *HOSTS)
        for host in (C, A, C, D):
            await memory.servers[host].drop_connections()
            await trio.sleep(100)
            assert check_shares(memory, *HOSTS) == before
    async with reading(memory, *reversed(NOBODYS), hosts=[C, A, D, B], redundancy=2) as reader:
        await connected(reader, *HOSTS)
        assert check_shares(memory, *HOSTS) == before


async def test_watches_of_a_leaving_server_move(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """When a server leaves, its watches move to the next ones, and those of the others stay where they are."""
    memory.add_many(*HOSTS)
    async with reading(memory, *NOBODYS, redundancy=2) as reader:
        await connected(reader, *HOSTS)
        before = check_shares(memory, *HOSTS)
        lost = await memory.kill(B)
        await connected(reader, A, C, D)
        after = check_shares(memory, A, C, D)
        assert all(before[scripthash] - {B} <= after[scripthash] for scripthash in before)
        assert all(before[scripthash] == after[scripthash] for scripthash in before if B not in before[scripthash])
        memory.revive(lost)
        await connected(reader, *HOSTS)
        assert check_shares(memory, *HOSTS) == before


@pytest.mark.slow
async def test_servers_that_come_and_go_leave_no_watch_unsubscribed(
    memory: MemoryConnector, autojump_clock: Clock
) -> None:
    """Down to one server and up again, in any order, also in the middle of a move: nothing is lost, nothing is left."""
    memory.add_many(*HOSTS)
    gone = {}
    async with reading(memory, *NOBODYS, redundancy=2) as reader:
        await connected(reader, *HOSTS)
        for pause_s in (100.0, 0.0):
            for host in (B, D, A):
                gone[host] = await memory.kill(host)
                await trio.sleep(pause_s)
            for host in (D, A, B):
                memory.revive(gone[host])
                await trio.sleep(pause_s)
        await connected(reader, *HOSTS)
        await trio.sleep(10)
        check_shares(memory, *HOSTS)
        assert reader.source.statistics().subscribed == 400


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", range(0, 40, 3))
async def test_server_that_leaves_in_the_middle_of_a_move(
    memory: MemoryConnector, autojump_clock: Clock, checkpoints: int
) -> None:
    """A server that leaves while others give up what it has just taken over gives it all back."""
    memory.add_many(*HOSTS)
    async with reading(memory, *NOBODYS, hosts=HOSTS, redundancy=2) as reader:
        await connected(reader, *HOSTS)
        lost = await memory.kill(D)
        await connected(reader, A, B, C)
        memory.revive(lost)
        while len(reader.source.connected()) < 4:
            await reader.source.servers_changed.wait()
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        await memory.kill(D)
        await connected(reader, A, B, C)
        check_shares(memory, A, B, C)
        reader.source.unwatch(NOBODYS[0][0])
        await rest()
        assert NOBODYS[0][0] not in watchers_of(memory)


async def test_no_server_sees_more_than_its_share(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """A server that joins others is asked for its own watches alone: the other addresses are none of its business."""
    memory.add_many(*HOSTS)
    late = {host: memory.servers.pop(host) for host in (C, D)}
    async with reading(memory, *NOBODYS, hosts=HOSTS, redundancy=2) as reader:
        await connected(reader, A, B)
        for host in (C, D):
            memory.revive(late[host])
            await connected(reader, *memory.servers)
            watchers = check_shares(memory, *memory.servers)
            share = sum(host in where for where in watchers.values())
            assert late[host].calls[SUBSCRIBE] == share


async def test_new_watch_goes_to_its_servers(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """Scripts that are watched while servers are connected are asked of those that they are assigned to, and freed."""
    memory.add_many(*HOSTS)
    async with reading(memory, redundancy=2) as reader:
        await connected(reader, *HOSTS)
        for scripthash, status in NOBODYS:
            reader.source.watch(scripthash, status)
        await rest()
        check_shares(memory, *HOSTS)
        assert calls_of(memory, SUBSCRIBE).total() == 2 * len(NOBODYS)
        for scripthash, _ in NOBODYS:
            reader.source.unwatch(scripthash)
        await rest()
        assert watchers_of(memory) == {}


async def test_unwatched_script_is_named_to_its_servers_alone(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """A server that never watched a script does not learn of it when it is unwatched."""
    memory.add_many(*HOSTS)
    async with reading(memory, redundancy=2) as reader:
        await connected(reader, *HOSTS)
        reader.source.watch(SHOP, None)
        await rest()
        (where,) = watchers_of(memory).values()
        reader.source.unwatch(SHOP)
        await rest()
        assert calls_of(memory, UNSUBSCRIBE).keys() == where


# --- news --------------------------------------------------------------------------------------------------------


async def test_payment_is_told_by_those_that_watch(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Of a payment the servers tell at which the script lives, and no others."""
    memory.add_many(*HOSTS)
    async with reading(memory, (SHOP, chain.status(SHOP)), redundancy=2) as reader:
        await connected(reader, *HOSTS)
        (where,) = watchers_of(memory).values()
        chain.pay(SHOP_SCRIPT, 5_000)
        for server in memory.servers.values():
            await server.publish()
        await rest()
        assert {host_of(change.server) for change in reader.changes()} == where
        assert len(reader.changes()) == 2


@pytest.mark.slow
async def test_known_watch_that_moves_fetches_nothing(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A watch that moves to another server is compared there with what is known, and is quiet."""
    memory.add_many(*HOSTS)
    scripts = customers(100)
    chain.pay_many([(script, 1_000) for script in scripts])
    watches = [(scripthash_of(script), chain.status(scripthash_of(script))) for script in scripts]
    async with reading(memory, *watches, redundancy=2) as reader:
        await connected(reader, *HOSTS)
        for host in HOSTS:
            lost = await memory.kill(host)
            await trio.sleep(100)
            memory.revive(lost)
            await trio.sleep(100)
        assert reader.changes() == []
    assert calls_of(memory, HISTORY) == {}


async def test_change_that_falls_into_a_move_is_told(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A payment that comes while its servers are lost is told by those that take over."""
    memory.add_many(*HOSTS)
    async with reading(memory, (SHOP, chain.status(SHOP)), redundancy=2) as reader:
        await connected(reader, *HOSTS)
        (where,) = watchers_of(memory).values()
        for host in where:
            await memory.kill(host)
        chain.pay(SHOP_SCRIPT, 5_000)
        for server in memory.servers.values():
            await server.publish()
        await rest()
        assert {host_of(change.server) for change in reader.changes()} == set(HOSTS) - where


# --- the cross check ---------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_idle_servers_are_asked_as_a_check(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """Within each interval each script is asked of one server that does not watch it, which is freed of it again."""
    memory.add_many(*HOSTS)
    async with reading(memory, *NOBODYS, redundancy=2, sweep_interval_s=SWEEP_S) as reader:
        await connected(reader, *HOSTS)
        before = check_shares(memory, *HOSTS)
        await trio.sleep(SWEEP_S)
        for _ in range(3):
            asked, freed = calls_of(memory, SUBSCRIBE), calls_of(memory, UNSUBSCRIBE)
            await trio.sleep(SWEEP_S)
            assert check_shares(memory, *HOSTS) == before
            sweeps, checks = 2 * len(NOBODYS), len(NOBODYS)
            assert (calls_of(memory, SUBSCRIBE) - asked).total() == sweeps + checks
            assert (calls_of(memory, UNSUBSCRIBE) - freed).total() == checks
        assert reader.changes() == []
    assert calls_of(memory, HISTORY) == {}


async def test_check_takes_turns(memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock) -> None:
    """Not always the same idle server is asked: sooner or later every one is."""
    memory.add_many(*HOSTS)
    async with reading(memory, (SHOP, chain.status(SHOP)), redundancy=2, sweep_interval_s=SWEEP_S) as reader:
        await connected(reader, *HOSTS)
        await trio.sleep(2.5 * SWEEP_S)
        (where,) = watchers_of(memory).values()
    assert calls_of(memory, UNSUBSCRIBE).keys() >= set(HOSTS) - where


async def test_nobody_is_asked_as_a_check_where_all_watch(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """Where every server watches everything there is nobody to check with."""
    memory.add_many(A, B)
    async with reading(memory, *NOBODYS, redundancy=2, sweep_interval_s=SWEEP_S) as reader:
        await connected(reader, A, B)
        asked = calls_of(memory, SUBSCRIBE)
        await trio.sleep(2 * SWEEP_S + 1)
        assert calls_of(memory, SUBSCRIBE) - asked == dict.fromkeys((A, B), 2 * len(NOBODYS))
    assert calls_of(memory, UNSUBSCRIBE) == {}


async def test_payment_that_all_watching_servers_hide_is_found(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A payment hidden by both servers of its script is told by another one within an interval."""
    memory.add_many(*HOSTS)
    async with reading(
        memory, (SHOP, chain.status(SHOP)), redundancy=2, sweep_interval_s=SWEEP_S, absorbs=True
    ) as reader:
        reader.facts[SHOP] = {(entry.txid, entry.height) for entry in chain.history(SHOP)}
        await connected(reader, *HOSTS)
        (where,) = watchers_of(memory).values()
        hides = Behaviour(hides=frozenset({chain.pay(SHOP_SCRIPT, 5_000)}))
        for host in where:
            memory.servers[host].behaviour = hides
        for server in memory.servers.values():
            await server.publish()
        await rest()
        assert reader.changes() == []
        found, *judged = await reader.wait_changes(3)
        assert trio.current_time() <= 1.5 * SWEEP_S
        assert host_of(found.server) not in where
        assert found.history == chain.history(SHOP)
        assert {host_of(change.server) for change in judged} == where


async def test_idle_server_that_says_less_changes_nothing(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """What an idle server does not know undoes nothing: the servers of the script are what counts."""
    memory.add_many(*HOSTS)
    txid = chain.pay(SHOP_SCRIPT, 5_000)
    async with reading(
        memory, (SHOP, chain.status(SHOP)), redundancy=2, sweep_interval_s=SWEEP_S, absorbs=True
    ) as reader:
        reader.facts[SHOP] = {(entry.txid, entry.height) for entry in chain.history(SHOP)}
        await connected(reader, *HOSTS)
        (where,) = watchers_of(memory).values()
        for host in set(HOSTS) - where:
            memory.servers[host].behaviour = Behaviour(hides=frozenset({txid}))
        await trio.sleep(3 * SWEEP_S)
        assert {host_of(change.server) for change in reader.changes()} == set(HOSTS) - where
        told = len(reader.changes())
        chain.mine()
        for host in where:
            await memory.servers[host].publish()
        await reader.wait_changes(told + 1)
        assert host_of(reader.changes()[-1].server) in where


# --- statistics --------------------------------------------------------------------------------------------------


async def joined_by_others(memory: MemoryConnector, reader: Reader) -> None:
    """Have three more servers join the first one."""
    await connected(reader, D)
    memory.add_many(A, B, C)
    await connected(reader, *HOSTS)


async def test_statistics_where_watches_are_shared(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """Where servers share the watches, one that does not serve its share leaves a gap that grows."""
    memory.add(D, Behaviour(max_subs_per_ip=0))
    async with reading(memory, *NOBODYS, hosts=HOSTS, redundancy=1) as reader:
        await joined_by_others(memory, reader)
        await trio.sleep(10)
        unserved = 400 - len(watchers_of(memory))
        assert 0 < unserved < 400
        statistics = reader.source.statistics()
        assert (statistics.total, statistics.subscribed) == (400, 400 - unserved)
        assert 10.0 <= statistics.oldest_gap_s <= 11.0


@pytest.mark.slow
async def test_first_server_is_not_asked_for_what_others_took_over(
    memory: MemoryConnector, autojump_clock: Clock
) -> None:
    """A server that is still loading all watches when others join is asked from then on for its share alone."""
    watches = [(scripthash_of(script), None) for script in customers(2000)]
    memory.add(D, Behaviour(delay_s=3.0))
    async with reading(memory, *watches, hosts=HOSTS, redundancy=1) as reader:
        await joined_by_others(memory, reader)
        await trio.sleep(250)
        watchers = watchers_of(memory)
        share = sum(where == {D} for where in watchers.values())
        assert (len(watchers), {len(where) for where in watchers.values()}) == (2000, {1})
        assert 0 < memory.servers[D].calls[SUBSCRIBE] <= 300 + share
