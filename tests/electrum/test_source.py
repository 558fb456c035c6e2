"""Several servers at once: each is heard, what one shows is known to all, and who says less is asked again."""

import pytest
import structlog.testing
import trio
import trio.testing

from lightipn.bitcoin.hashes import scripthash_of
from lightipn.chain.source import TipChanged, WatchStatistics
from lightipn.electrum.subscriptions import DISAGREEMENT_S
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from tests.electrum.memory import MemoryConnector
from tests.electrum.places import SHOP_SCRIPT
from tests.electrum.pools import lie_of, named
from tests.electrum.readers import (
    HISTORY,
    OTHER,
    OTHER_SCRIPT,
    SHOP,
    SUBSCRIBE,
    calls_of,
    connected,
    customers,
    host_of,
    reading,
    rest,
    subscribed_at,
)

Clock = trio.testing.MockClock
A, B, C = HOSTS = ("a.example", "b.example", "c.example")


async def publish(memory: MemoryConnector, *hosts: str) -> None:
    """Have servers push what is new, one after the other, and let each be heard."""
    for host in hosts or memory.servers:
        await memory.servers[host].publish()
        await rest()


# --- every server is heard ---------------------------------------------------------------------------------------


async def test_every_server_tells_its_tip(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Each server's tip is told under its name, at the start and when it changes."""
    memory.add_many(*HOSTS)
    async with reading(memory) as reader:
        await connected(reader, *HOSTS)
        chain.mine()
        await publish(memory, B)
        tips = [TipChanged(server=named(host).name, height=12, raw_header=chain.header_at(12)) for host in HOSTS]
        assert sorted(reader.tips()[:3], key=lambda tip: tip.server) == tips
        assert reader.tips()[3:] == [TipChanged(server=named(B).name, height=13, raw_header=chain.header_at(13))]


async def test_every_server_is_heard_of_a_script(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """While nothing has been worked in, each server's history is told, under its name."""
    memory.add_many(*HOSTS)
    async with reading(memory, (SHOP, None)) as reader:
        await connected(reader, *HOSTS)
        assert sorted(host_of(change.server) for change in reader.changes()) == sorted(HOSTS)
        assert {change.history for change in reader.changes()} == {chain.history(SHOP)}


async def test_restart_with_known_status_fetches_nothing_from_anybody(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A restart costs one subscribe of each script at each of its servers, and no history."""
    memory.add_many(*HOSTS)
    watches = [(scripthash_of(script), None) for script in customers(150)] + [(SHOP, chain.status(SHOP))]
    async with reading(memory, *watches) as reader:
        await connected(reader, *HOSTS)
        assert reader.changes() == []
    assert calls_of(memory, SUBSCRIBE) == dict.fromkeys(HOSTS, 151)
    assert calls_of(memory, HISTORY) == {}


async def test_loss_of_each_server_is_told(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """A server that is gone is told by its name, and the others go on."""
    memory.add_many(*HOSTS)
    async with reading(memory) as reader:
        await connected(reader, *HOSTS)
        await memory.kill(B)
        await connected(reader, A, C)
        assert reader.losses() == [B]
        await memory.kill(A)
        await connected(reader, C)
        assert reader.losses() == [B, A]


async def test_reported_server_is_dropped_alone(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A server that the verifier caught is left and banned; another takes its place, and the rest is not touched."""
    servers = memory.add_many(*HOSTS)
    async with reading(memory, (SHOP, chain.status(SHOP)), connections=2) as reader:
        await connected(reader, A, B)
        reader.source.report(lie_of(A))
        await connected(reader, B, C)
        assert {host_of(state.name): state.verdict for state in reader.source.servers()} == {
            A: "banned",
            B: "connected",
            C: "connected",
        }
        assert subscribed_at(servers[2]) == {SHOP}
    assert servers[1].accepted == 1


async def test_demoted_server_is_replaced(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """A server that is of no use now makes place for another one."""
    memory.add_many(*HOSTS)
    async with reading(memory, connections=2) as reader:
        await connected(reader, A, B)
        reader.source.demote(named(B).name, "its tip is 2 blocks behind")
        await connected(reader, A, C)


async def test_voices_are_those_of_the_pool(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """Before the first server answered all slots are voices, and afterwards those that answer."""
    memory.add_many(*HOSTS)
    async with reading(memory, hosts=[*HOSTS, "dead.example"]) as reader:
        assert (reader.source.voices(), reader.source.connected()) == (4, [])
        await connected(reader, *HOSTS)
        await trio.sleep(100)
        assert reader.source.voices() == 3


# --- what one shows is known to all ------------------------------------------------------------------------------


async def test_news_of_one_server_spare_the_others(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """What one server told and was worked in is not fetched from those that announce the same status afterwards."""
    memory.add_many(*HOSTS)
    async with reading(memory, (OTHER, None), absorbs=True) as reader:
        await connected(reader, *HOSTS)
        chain.pay(OTHER_SCRIPT, 5_000)
        await publish(memory, B, A, C)
        assert [host_of(change.server) for change in reader.changes()] == [B]
        await trio.sleep(10 * DISAGREEMENT_S)
        assert len(reader.changes()) == 1
    assert calls_of(memory, HISTORY) == {B: 1}


async def test_first_load_is_shared(memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock) -> None:
    """Of many scripts that are new, each history is told once where it is worked in before others come to it."""
    scripts = customers(300)
    chain.pay_many([(script, 1_000) for script in scripts])
    servers = memory.add_many(A, B)
    servers[1].behaviour = Behaviour(delay_s=1.0)
    async with reading(memory, *[(scripthash_of(script), None) for script in scripts], absorbs=True) as reader:
        await trio.sleep(100)
        assert [host_of(change.server) for change in reader.changes()] == [A] * 300
        assert reader.source.statistics().subscribed == 300
    assert calls_of(memory, HISTORY) == {A: 300}


async def test_history_that_is_no_news_is_the_servers_own(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A server that says less, or orders its mempool in another way, is heard once and does not undo what is known."""
    txid = chain.pay(SHOP_SCRIPT, 5_000)
    memory.add_many(A, B)
    memory.add(C, Behaviour(hides=frozenset({txid})))
    async with reading(memory, (SHOP, chain.status(SHOP)), absorbs=True) as reader:
        reader.facts[SHOP] = {(entry.txid, entry.height) for entry in chain.history(SHOP)}
        await connected(reader, *HOSTS)
        assert [host_of(change.server) for change in reader.changes()] == [C]
        await trio.sleep(5000)
        assert len(reader.changes()) == 1
    assert calls_of(memory, HISTORY) == {C: 1}


async def test_server_that_hides_news_is_asked_again(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A server that does not announce what others did is asked what it has after a minute, and that is told once."""
    memory.add_many(A, B)
    async with reading(memory, (SHOP, chain.status(SHOP)), absorbs=True) as reader:
        reader.facts[SHOP] = {(entry.txid, entry.height) for entry in chain.history(SHOP)}
        await connected(reader, A, B)
        before = chain.history(SHOP)
        memory.servers[B].behaviour = Behaviour(hides=frozenset({chain.pay(SHOP_SCRIPT, 5_000)}))
        await publish(memory)
        paid_at = trio.current_time()
        assert [host_of(change.server) for change in reader.changes()] == [A]
        await reader.wait_changes(2)
        assert trio.current_time() == paid_at + DISAGREEMENT_S
        assert (host_of(reader.changes()[1].server), reader.changes()[1].history) == (B, before)
        await trio.sleep(5000)
        assert len(reader.changes()) == 2


async def test_server_that_lost_a_notice_is_not_blamed(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A server whose notice was lost answers like the others when it is asked again: no fetch, and nothing is told."""
    memory.add_many(A, B)
    async with reading(memory, (SHOP, chain.status(SHOP)), absorbs=True) as reader:
        await connected(reader, A, B)
        memory.servers[B].behaviour = Behaviour(withholds_notice=True)
        chain.pay(SHOP_SCRIPT, 5_000)
        await publish(memory)
        asked = memory.servers[B].calls[SUBSCRIBE]
        await trio.sleep(DISAGREEMENT_S + 1)
        assert memory.servers[B].calls[SUBSCRIBE] == asked + 1
        assert [host_of(change.server) for change in reader.changes()] == [A]
    assert calls_of(memory, HISTORY) == {A: 1}


async def test_status_that_all_took_back_is_shared_no_more(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """When every server has taken something back, what they say now is what is known, though it is no news."""
    memory.add_many(A, B)
    async with reading(memory, (SHOP, chain.status(SHOP)), absorbs=True) as reader:
        reader.facts[SHOP] = {(entry.txid, entry.height) for entry in chain.history(SHOP)}
        await connected(reader, A, B)
        txid = chain.pay(SHOP_SCRIPT, 5_000)
        await publish(memory)
        chain.evict(txid)
        await publish(memory)
        assert len(reader.changes()) == 3
        third = memory.add(C)
        calls_before = calls_of(memory, HISTORY)
        await memory.servers[A].drop_connections()
        await trio.sleep(1000)
        assert calls_of(memory, HISTORY) == calls_before
        assert len(reader.changes()) == 3
        assert third.accepted == 0


async def test_what_an_old_link_told_does_not_touch_the_new_one(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A history that is worked in after its link broke says nothing about what the new link announced since."""
    memory.add(A)
    server = memory.add(B)
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await connected(reader, A, B)
        txid = chain.pay(SHOP_SCRIPT, 5_000)
        await server.publish()
        (stale,) = await reader.wait_changes(1)
        chain.evict(txid)
        await server.drop_connections()
        await trio.sleep(5)  # the new link announces what is known
        reader.source.absorbed(SHOP, stale.status, server=stale.server, is_news=False)
        assert not reader.source._servings[named(B).name].book.has_view(SHOP)


# --- rechecks ----------------------------------------------------------------------------------------------------


async def test_recheck_of_one_server_asks_that_one(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A server whose claims could not be proved is asked again alone, and what is known stays known."""
    known = chain.status(SHOP)
    hides = Behaviour(hides=frozenset({chain.pay(SHOP_SCRIPT, 5_000)}))
    memory.add(A, hides)
    memory.add(B)
    memory.add(C, hides)
    async with reading(memory, (SHOP, known)) as reader:
        await connected(reader, *HOSTS)
        assert [host_of(change.server) for change in reader.changes()] == [B]
        for count, pause_s in enumerate([30.0, 60.0], start=2):
            began = trio.current_time()
            reader.source.recheck(SHOP, after_s=pause_s, server=named(B).name)
            changes = await reader.wait_changes(count)
            assert trio.current_time() == began + pause_s
            assert (host_of(changes[-1].server), changes[-1].history) == (B, chain.history(SHOP))
        await trio.sleep(100)
        assert len(reader.changes()) == 3
    assert calls_of(memory, HISTORY) == {B: 3}


async def test_recheck_of_a_server_that_came_round_tells_nothing(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A server that is asked again and says by then what is known has nothing to tell: law (c)."""
    memory.add_many(A, B)
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await connected(reader, A, B)
        asked = calls_of(memory, SUBSCRIBE)
        reader.source.recheck(SHOP, after_s=30.0, server=named(B).name)
        await trio.sleep(31.0)
        assert calls_of(memory, SUBSCRIBE) - asked == {B: 1}
        assert reader.changes() == []
    assert calls_of(memory, HISTORY) == {}


async def test_recheck_of_all_asks_each(memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock) -> None:
    """A recheck that names no server asks every one that watches the script."""
    memory.add_many(*HOSTS)
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await connected(reader, *HOSTS)
        reader.source.recheck(SHOP, after_s=30.0)
        changes = await reader.wait_changes(3)
        assert sorted(host_of(change.server) for change in changes) == sorted(HOSTS)
        assert trio.current_time() == 30.0


async def test_recheck_of_a_server_that_is_gone_asks_nobody(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Where the server to ask again is gone, no other is asked in its place; its next link is heard anyway."""
    memory.add_many(A, B)
    txid = chain.pay(SHOP_SCRIPT, 5_000)
    memory.servers[B].behaviour = Behaviour(hides=frozenset({txid}))
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await connected(reader, A, B)
        assert [host_of(change.server) for change in reader.changes()] == [B]
        reader.source.recheck(SHOP, after_s=30.0, server=named(B).name)
        await memory.servers[B].drop_connections()
        await trio.sleep(100)
        assert [host_of(change.server) for change in reader.changes()] == [B, B]
    assert calls_of(memory, HISTORY) == {B: 2}


# --- statistics --------------------------------------------------------------------------------------------------


async def test_statistics_count_a_watch_that_one_server_has(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Where every server watches all, a watch is subscribed once one server has acknowledged it."""
    memory.add(A)
    memory.add(B, Behaviour(max_subs_per_ip=0))
    async with reading(memory, (SHOP, chain.status(SHOP)), (OTHER, None)) as reader:
        await trio.sleep(20)
        assert reader.source.statistics() == WatchStatistics(total=2, subscribed=2, quarantined=0, oldest_gap_s=0.0)
        await memory.kill(A)
        await rest()
        assert reader.source.statistics() == WatchStatistics(total=2, subscribed=0, quarantined=0, oldest_gap_s=20.0)


async def test_server_that_refuses_every_subscription_is_left(memory: MemoryConnector, autojump_clock: Clock) -> None:
    """A server whose limit of subscriptions is full is of no use: it makes place for another one."""
    memory.add(A, Behaviour(max_subs_per_ip=0))
    memory.add(B)
    async with reading(memory, (OTHER, None), connections=1) as reader:
        await connected(reader, A)
        await connected(reader, B)
        assert trio.current_time() < 300
        states = {host_of(state.name): (state.verdict, state.reason) for state in reader.source.servers()}
        assert states == {A: ("unavailable", "refuses all subscriptions"), B: ("connected", "")}


async def test_statistics_count_a_script_that_every_server_refuses(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A script is quarantined only where no server serves it."""
    memory.add(A, Behaviour(history_too_large=True))
    memory.add(B)
    async with reading(memory, (SHOP, chain.status(SHOP)), (OTHER, None)) as reader:
        await connected(reader, A, B)
        assert reader.source.statistics().quarantined == 0
        memory.servers[B].behaviour = Behaviour(history_too_large=True)
        await memory.servers[B].drop_connections()
        await trio.sleep(10)
        assert reader.source.statistics().quarantined == 1


async def test_gap_counts_from_the_loss_of_the_last_server(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Nobody listens from when the last server was lost; while one listens there is no gap."""
    memory.add_many(A, B)
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await connected(reader, A, B)
        await memory.kill(A)
        await trio.sleep(50)
        assert reader.source.statistics().oldest_gap_s == 0.0
        await memory.kill(B)
        await trio.sleep(20)
        assert reader.source.statistics() == WatchStatistics(total=1, subscribed=0, quarantined=0, oldest_gap_s=20.0)


@pytest.mark.parametrize("is_watched_first", [True, False])
async def test_watching_reaches_every_server(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock, is_watched_first: bool
) -> None:
    """A script is subscribed at, and unsubscribed from, every server, whether it or the servers came first."""
    servers = memory.add_many(*HOSTS)
    async with reading(memory, *([(SHOP, chain.status(SHOP))] if is_watched_first else [])) as reader:
        await connected(reader, *HOSTS)
        assert reader.source.watch(SHOP, chain.status(SHOP)) is not is_watched_first
        await rest()
        assert [subscribed_at(server) for server in servers] == [{SHOP}] * 3
        reader.source.unwatch(SHOP)
        await rest()
        assert [subscribed_at(server) for server in servers] == [set()] * 3


async def test_disagreement_is_logged(memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock) -> None:
    """That servers disagree is said once for all scripts of a server that are due, never by address."""
    memory.add_many(A, B)
    async with reading(memory, (SHOP, chain.status(SHOP)), absorbs=True) as reader:
        await connected(reader, A, B)
        memory.servers[B].behaviour = Behaviour(hides=frozenset({chain.pay(SHOP_SCRIPT, 5_000)}))
        await publish(memory)
        with structlog.testing.capture_logs() as logs:
            await trio.sleep(2 * DISAGREEMENT_S)
    found = [log for log in logs if log["event"] == "electrum.servers_disagree"]
    assert found == [
        {"event": "electrum.servers_disagree", "log_level": "info", "server": named(B).name, "scripthashes": 1}
    ]
