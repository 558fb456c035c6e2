"""One server in use: what is told, what is asked, and what a restart costs."""

from collections import Counter

import pytest
import trio
import trio.testing

from lightipn.bitcoin.hashes import scripthash_of
from lightipn.chain.source import ScriptHashChanged, TipChanged, WatchStatistics
from lightipn.electrum import serving as serving_module
from lightipn.electrum.serving import PUSH_OUT_PAUSES_S
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer
from tests.electrum.memory import MemoryConnector
from tests.electrum.places import SHOP_SCRIPT
from tests.electrum.pools import named
from tests.electrum.readers import (
    HISTORY,
    OTHER,
    OTHER_SCRIPT,
    SHOP,
    SUBSCRIBE,
    UNSUBSCRIBE,
    customers,
    reading,
    rest,
    subscribed_at,
)

Clock = trio.testing.MockClock
HOST = "a.example"
NAME = named(HOST).name


@pytest.fixture
def server(memory: MemoryConnector) -> SimulatedServer:
    """The only server."""
    return memory.add(HOST)


# --- watching ----------------------------------------------------------------------------------------------------


async def test_watch_tells_the_history(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A watched script with a past is told once, with the status that its history hashes to."""
    async with reading(memory, (SHOP, None)) as reader:
        await rest()
        assert reader.changes() == [
            ScriptHashChanged(server=NAME, scripthash=SHOP, status=chain.status(SHOP), history=chain.history(SHOP))
        ]


async def test_watch_while_connected_is_subscribed(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A script watched while a server is connected is subscribed at once, and its payments are told."""
    async with reading(memory) as reader:
        await reader.wait_tip(12)
        reader.source.watch(OTHER, None)
        await rest()
        txid = chain.pay(OTHER_SCRIPT, 5_000)
        await server.publish()
        (change,) = await reader.wait_changes(1)
        assert [entry.txid for entry in change.history] == [txid]
        assert change.history == chain.history(OTHER)


async def test_watch_is_idempotent(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Watching again asks nothing, and does not change what is known."""
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await rest()
        calls = Counter(server.calls)
        for status in (chain.status(SHOP), None):
            reader.source.watch(SHOP, status)
        await rest()
        assert (server.calls, reader.changes()) == (calls, [])


async def test_absorption_of_an_unwatched_script_is_nothing(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """What is absorbed of a script after it was unwatched does not bring its watch back."""
    async with reading(memory, (SHOP, None)) as reader:
        (change,) = await reader.wait_changes(1)
        reader.source.unwatch(SHOP)
        reader.source.absorbed(SHOP, change.status, server=NAME, is_news=True)
        assert reader.source.statistics().total == 0
        chain.pay(SHOP_SCRIPT, 1)
        await server.publish()
        await rest()
        assert len(reader.changes()) == 1


async def test_restart_with_known_status_fetches_nothing(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """After a restart, scripts whose status is unchanged cost one subscribe each, and no history."""
    scripts = customers(300)
    for number, script in enumerate(scripts[:50]):
        chain.pay(script, 1_000 + number)
    chain.mine()
    watches = [(scripthash_of(script), chain.status(scripthash_of(script))) for script in scripts]
    async with reading(memory, *watches) as reader:
        await rest()
        assert reader.changes() == []
    assert (server.calls[SUBSCRIBE], server.calls[HISTORY]) == (300, 0)


async def test_restart_fetches_only_what_changed(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Of two scripts, only the one that was paid meanwhile is fetched."""
    watches = [(SHOP, chain.status(SHOP)), (OTHER, chain.status(OTHER))]
    chain.pay(OTHER_SCRIPT, 7)
    async with reading(memory, *watches) as reader:
        await rest()
        assert [change.scripthash for change in reader.changes()] == [OTHER]
    assert server.calls[HISTORY] == 1


async def test_absorbed_status_is_quiet(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """What was absorbed is not told again, also not after a reconnect."""
    async with reading(memory, (SHOP, None), absorbs=True) as reader:
        await rest()
        await server.drop_connections()
        await trio.sleep(10)
        assert (server.accepted, subscribed_at(server)) == (2, {SHOP})
        assert len(reader.changes()) == 1
        assert reader.losses() == [HOST]


async def test_confirmation_in_the_tip_fetches_nothing(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A payment that moves from the mempool into the newest block is told without fetching its history."""
    async with reading(memory, (OTHER, None), absorbs=True) as reader:
        await rest()
        chain.pay(OTHER_SCRIPT, 7)
        await server.publish()
        await reader.wait_changes(1)
        fetched = server.calls[HISTORY]
        chain.mine()
        await server.publish()
        _, mined = await reader.wait_changes(2)
        assert mined.history == chain.history(OTHER)
        assert server.calls[HISTORY] == fetched


async def test_unwatched_script_is_told_no_more(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """After an unwatch the server is told so, and nothing of the script is told, even if it is still pushed."""
    async with reading(memory, (SHOP, chain.status(SHOP)), (OTHER, None)) as reader:
        await rest()
        reader.source.unwatch(SHOP)
        assert reader.source.statistics().total == 1
        chain.pay(SHOP_SCRIPT, 1)
        chain.pay(OTHER_SCRIPT, 1)
        await server.publish()
        await rest()
        assert [change.scripthash for change in reader.changes()] == [OTHER]
        assert (subscribed_at(server), server.calls[UNSUBSCRIBE]) == ({OTHER}, 1)


async def test_script_watched_again_stays_subscribed(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Unwatching and watching in one breath, or while the server is being told, ends with a subscription."""
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await rest()
        for pause in (0, 1, 2, 5, 10):
            reader.source.unwatch(SHOP)
            for _ in range(pause):
                await trio.lowlevel.checkpoint()
            reader.source.watch(SHOP, chain.status(SHOP))
            await rest()
            assert subscribed_at(server) == {SHOP}
        chain.pay(SHOP_SCRIPT, 1)
        await server.publish()
        await reader.wait_changes(1)


async def test_script_watched_again_in_mid_flight_is_asked_once_more(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Some servers work on several questions at once, so the last word after an unsubscribe is a subscribe."""
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await rest()
        server.behaviour = Behaviour(delay_s=1.0)
        reader.source.unwatch(SHOP)
        await trio.sleep(0.5)
        reader.source.watch(SHOP, chain.status(SHOP))
        await rest()
        assert (server.calls[UNSUBSCRIBE], server.calls[SUBSCRIBE]) == (1, 2)
        await trio.sleep(5)
        assert (server.calls[UNSUBSCRIBE], server.calls[SUBSCRIBE]) == (1, 3)
        assert reader.source.statistics().subscribed == 1


async def test_script_watched_again_does_not_stop_others_from_being_freed(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """After a script was unwatched and watched in one breath, the next one that is unwatched is freed as ever."""
    async with reading(memory, (SHOP, chain.status(SHOP)), (OTHER, None)) as reader:
        await rest()
        reader.source.unwatch(SHOP)
        reader.source.watch(SHOP, chain.status(SHOP))
        await rest()
        reader.source.unwatch(OTHER)
        await trio.sleep(100)
        assert subscribed_at(server) == {SHOP}


async def test_lost_notification_is_found_by_the_sweep(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A payment whose notification never came is told within the sweep interval."""
    watches = [(SHOP, chain.status(SHOP)), (OTHER, None)]
    async with reading(memory, *watches, sweep_interval_s=100.0) as reader:
        await rest()
        chain.pay(OTHER_SCRIPT, 7)  # and the server does not publish it
        (change,) = await reader.wait_changes(1)
        assert (change.scripthash, change.history) == (OTHER, chain.history(OTHER))
        assert trio.current_time() <= 101.0


async def test_quiet_sweep_fetches_nothing(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A sweep over unchanged scripts costs one subscribe each, leaves no gap, and tells nothing."""
    watches = [(SHOP, chain.status(SHOP)), (OTHER, None)]
    async with reading(memory, *watches, sweep_interval_s=100.0) as reader:
        await trio.sleep(305.0)
        assert server.calls[SUBSCRIBE] == 2 + 3 * 2
        assert (server.calls[HISTORY], reader.changes()) == (0, [])
        assert reader.source.statistics() == WatchStatistics(total=2, subscribed=2, quarantined=0, oldest_gap_s=0.0)


# --- rechecks ----------------------------------------------------------------------------------------------------


async def test_recheck_tells_again(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A recheck tells the same history again after the time asked for, although its status has not changed."""
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await rest()
        reader.source.recheck(SHOP, after_s=30.0)
        (change,) = await reader.wait_changes(1)
        assert 30.0 <= trio.current_time() < 31.0
        assert change.history == chain.history(SHOP)


async def test_recheck_survives_a_reconnect(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """What is to be asked again is asked by the next session, if the link drops before its time has come."""
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await rest()
        reader.source.recheck(SHOP, after_s=3000.0)
        await server.drop_connections()
        (change,) = await reader.wait_changes(1)
        assert change.history == chain.history(SHOP)
        assert trio.current_time() < 10


async def test_recheck_of_an_unwatched_script_is_nothing(
    memory: MemoryConnector, server: SimulatedServer, autojump_clock: Clock
) -> None:
    """A recheck of a script that nobody watches does not watch it."""
    async with reading(memory, (OTHER, None)) as reader:
        await rest()
        for server_name in ("", NAME, "nobody.example:50001:t"):
            reader.source.recheck(SHOP, after_s=0.0, server=server_name)
        await trio.sleep(10)
        assert reader.changes() == []
        assert reader.source.statistics().total == 1


async def test_recheck_while_a_history_is_worked_in_holds_nobody_up(
    memory: MemoryConnector,
    server: SimulatedServer,
    chain: SimulatedChain,
    autojump_clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A script that is told again before its first history was worked in costs no worker: others go on being told."""
    monkeypatch.setattr(serving_module, "FETCH_WORKERS", 2)
    async with reading(memory, (SHOP, None), (OTHER, None)) as reader:
        await rest()
        for count in (2, 3):
            reader.source.recheck(SHOP, after_s=0.0)
            await trio.sleep(1)
            assert len(reader.changes(SHOP)) <= count
        reader.source.absorbed(SHOP, chain.status(SHOP), server=NAME, is_news=True)
        chain.pay(OTHER_SCRIPT, 5)
        await server.publish()
        with trio.fail_after(60):
            await reader.wait_changes(1, OTHER)


# --- tips --------------------------------------------------------------------------------------------------------


async def test_tips_are_told(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """The tip is told when a session starts, and at every notice."""
    async with reading(memory) as reader:
        await reader.wait_tip(12)
        chain.mine(3)
        await server.publish()
        await reader.wait_tip(15)
    assert reader.tips() == [
        TipChanged(server=NAME, height=12, raw_header=chain.header_at(12)),
        TipChanged(server=NAME, height=15, raw_header=chain.header_at(15)),
    ]


async def test_tip_of_an_electrumx_is_followed_by_pushes(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """After a tip an ElectrumX is asked for long answers, so that scripthash notices behind it are not held back."""
    server.behaviour = Behaviour(software="ElectrumX 1.20.0")
    async with reading(memory) as reader:
        await trio.sleep(5.0)
        pings, headers = server.calls["server.ping"], server.calls["blockchain.block.headers"]
        chain.mine()
        await server.publish()
        await reader.wait_tip(13)
        await trio.sleep(5.0)
        assert server.calls["server.ping"] == pings + len(PUSH_OUT_PAUSES_S)
        assert server.calls["blockchain.block.headers"] == headers + len(PUSH_OUT_PAUSES_S)


async def test_tip_of_others_is_followed_by_nothing(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Servers that hold nothing back are not asked anything after a tip."""
    async with reading(memory) as reader:
        await reader.wait_tip(12)
        chain.mine()
        await server.publish()
        await reader.wait_tip(13)
        await trio.sleep(5.0)
        assert server.calls["server.ping"] == 0
