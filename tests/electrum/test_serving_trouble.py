"""One server in use that is slow, refuses, or lies: what is set aside, and what is given up."""

import pytest
import trio
import trio.testing

from lightipn.bitcoin.hashes import scripthash_of
from lightipn.chain.history import UNKNOWN
from lightipn.chain.source import WatchStatistics
from lightipn.electrum.serving import REFUSED_HISTORY_PAUSE_S
from lightipn.electrum.subscriptions import STALENESS_S
from lightipn.errors import SourceUnavailableError
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


async def test_statistics_say_how_long_nobody_listens(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Without a server nothing counts as subscribed, and the gap grows with time; with one it closes."""
    server.behaviour = Behaviour(stalls=True)
    async with reading(memory, (SHOP, chain.status(SHOP))) as reader:
        await trio.sleep(7.0)
        assert reader.source.statistics() == WatchStatistics(total=1, subscribed=0, quarantined=0, oldest_gap_s=7.0)
        server.behaviour = Behaviour()
        await reader.wait_tip(12)
        await rest()
        assert reader.source.statistics() == WatchStatistics(total=1, subscribed=1, quarantined=0, oldest_gap_s=0.0)


async def test_nobody_to_ask_is_an_error(
    memory: MemoryConnector, server: SimulatedServer, autojump_clock: Clock
) -> None:
    """A caller who asks while no server is connected waits ten seconds for one, and is told then."""
    server.behaviour = Behaviour(stalls=True)
    async with reading(memory) as reader:
        with pytest.raises(SourceUnavailableError, match="no server"):
            await reader.source.fetch_headers(1, 1)
        assert trio.current_time() == 10.0


async def test_history_that_never_matches_ends_the_session(
    memory: MemoryConnector, server: SimulatedServer, autojump_clock: Clock
) -> None:
    """A server whose statuses match no history tells nothing, is asked twice, and is banned as a liar."""
    server.behaviour = Behaviour(status_never_matches=True)
    async with reading(memory, (SHOP, None), hosts=[HOST, "dead.example"], connections=1) as reader:
        await trio.sleep(STALENESS_S - 1)
        assert server.calls[HISTORY] == 1
        await trio.sleep(1000)
        assert (reader.changes(), server.calls[HISTORY]) == ([], 2)
        state = next(state for state in reader.source.servers() if state.name == NAME)
        assert (state.verdict, state.reason) == ("banned", "history does not hash to the announced status")


async def test_refused_history_is_set_aside(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A script whose history the server refuses is quarantined and asked again in a minute; others are not held up."""
    async with reading(memory, (SHOP, chain.status(SHOP)), (OTHER, None)) as reader:
        await rest()
        chain.pay(SHOP_SCRIPT, 7)
        server.push_changes()
        server.behaviour = Behaviour(history_too_large=True)  # between the notice and the fetch that it causes
        await rest()
        assert reader.source.statistics().quarantined == 1
        server.behaviour = Behaviour()
        chain.pay(OTHER_SCRIPT, 7)
        await server.publish()
        (other,) = await reader.wait_changes(1)
        assert other.scripthash == OTHER
        _, shop = await reader.wait_changes(2)
        assert (shop.scripthash, shop.history) == (SHOP, chain.history(SHOP))
        assert REFUSED_HISTORY_PAUSE_S <= trio.current_time() <= REFUSED_HISTORY_PAUSE_S + 1


async def test_refused_subscribe_does_not_block_readiness(
    memory: MemoryConnector, server: SimulatedServer, autojump_clock: Clock
) -> None:
    """A script that the server refuses to subscribe is quarantined: its gap does not count, and it is left in peace."""
    server.behaviour = Behaviour(history_too_large=True)  # only the shop has a history
    async with reading(memory, (SHOP, None), (OTHER, None)) as reader:
        await trio.sleep(45.0)
        statistics = reader.source.statistics()
        assert (statistics.quarantined, statistics.oldest_gap_s) == (1, 0.0)
        assert server.calls[SUBSCRIBE] <= 3


@pytest.mark.parametrize("software", ["Fulcrum 2.1.1", "ElectrumX 1.20.0", "electrs/0.11.1"])
async def test_everything_is_subscribed_whatever_the_software(
    memory: MemoryConnector,
    server: SimulatedServer,
    chain: SimulatedChain,
    autojump_clock: Clock,
    software: str,
) -> None:
    """Thousands of watches are subscribed, with and without a history, and unwatching frees them."""
    server.behaviour = Behaviour(software=software)
    scripts = customers(1000)
    chain.pay_many([(script, 1000) for script in scripts[200:]])
    watches = [(scripthash_of(script), chain.status(scripthash_of(script))) for script in scripts]
    async with reading(memory, *watches) as reader:
        await trio.sleep(10)
        assert subscribed_at(server) == {scripthash for scripthash, _ in watches}
        assert reader.source.statistics() == WatchStatistics(
            total=1000, subscribed=1000, quarantined=0, oldest_gap_s=0.0
        )
        for scripthash, _ in watches[1:]:
            reader.source.unwatch(scripthash)
        await trio.sleep(10)
        assert subscribed_at(server) == {watches[0][0]}


@pytest.mark.parametrize("after_s", [10.0, 1000.0], ids=["at first", "after rechecks and sweeps"])
async def test_history_that_looks_empty_and_is_too_long_is_set_aside(
    memory: MemoryConnector, server: SimulatedServer, autojump_clock: Clock, after_s: float
) -> None:
    """A Fulcrum serves a history above its limit as none: its balance gives it away, and it is told to nobody."""
    server.behaviour = Behaviour(software="Fulcrum 2.1.1", null_status=True)
    async with reading(memory, (SHOP, UNKNOWN), (OTHER, UNKNOWN)) as reader:
        await trio.sleep(after_s)
        assert {(change.scripthash, change.history) for change in reader.changes()} == {(OTHER, ())}
        assert reader.source.statistics().quarantined == 1


@pytest.mark.slow
async def test_slow_reader_slows_the_source(
    memory: MemoryConnector, server: SimulatedServer, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """While what was told is not worked in, the source holds back, and later nothing is missing."""
    scripts = customers(600)
    for script in scripts:
        chain.pay(script, 1_000)
    scripthashes = {scripthash_of(script) for script in scripts}
    async with reading(memory, *[(scripthash, None) for scripthash in scripthashes]) as reader:
        await rest()
        assert server.calls[HISTORY] <= 400
        taken = 0
        while len(reader.changes()) > taken:
            for change in reader.changes()[taken:]:
                taken += 1
                reader.source.absorbed(change.scripthash, change.status, server=NAME, is_news=True)
            await rest()
        assert {change.scripthash for change in reader.changes()} == scripthashes
    assert server.calls[HISTORY] == 600
