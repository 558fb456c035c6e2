"""The Electrum source as its reader sees it: what is told, what is asked, and what a restart costs."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import structlog.testing
import trio
import trio.testing

from lightipn.bitcoin.hashes import ScriptHash, scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.history import Status
from lightipn.chain.source import ScriptHashChanged, SourceLost, TipChanged, Update, WatchStatistics
from lightipn.electrum.pool import ServerPool
from lightipn.electrum.source import PUSH_OUT_PAUSES_S, REFUSED_HISTORY_PAUSE_S, ElectrumSource
from lightipn.errors import SourceUnavailableError
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from tests.electrum.places import SHOP_SCRIPT, where

SHOP = scripthash_of(SHOP_SCRIPT)
OTHER_SCRIPT = forge.made_up_script("other")
OTHER = scripthash_of(OTHER_SCRIPT)
SUBSCRIBE = "blockchain.scripthash.subscribe"
HISTORY = "blockchain.scripthash.get_history"


class Reader:
    """Reads a source's updates, and waits for what it expects."""

    def __init__(self, source: ElectrumSource) -> None:
        self.source = source
        self.seen: list[Update] = []
        self._bell = trio.Event()

    async def run(self) -> None:
        """Read for ever."""
        async for update in self.source.updates():
            self.seen.append(update)
            self._bell.set()
            self._bell = trio.Event()

    def changes(self) -> list[ScriptHashChanged]:
        """Return the histories that were told."""
        return [update for update in self.seen if isinstance(update, ScriptHashChanged)]

    async def wait_changes(self, count: int) -> list[ScriptHashChanged]:
        """Wait until so many histories were told."""
        with trio.fail_after(3600):
            while len(self.changes()) < count:
                await self._bell.wait()
        return self.changes()

    async def wait_tip(self, height: int) -> None:
        """Wait until a tip at this height was told."""
        with trio.fail_after(3600):
            while not any(isinstance(update, TipChanged) and update.height == height for update in self.seen):
                await self._bell.wait()


@asynccontextmanager
async def reading(
    servers: Sequence[SimulatedServer],
    *watches: tuple[ScriptHash, Status | None],
    sweep_interval_s: float = 600.0,
) -> AsyncIterator[Reader]:
    """Run a source over servers and read it."""
    source = ElectrumSource(ServerPool([where(one) for one in servers], REGTEST), sweep_interval_s=sweep_interval_s)
    source.watch_all(watches)
    reader = Reader(source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        nursery.start_soon(reader.run)
        yield reader
        nursery.cancel_scope.cancel()


async def settle(server: SimulatedServer, source: ElectrumSource) -> None:
    """Wait until everything watched is subscribed and nothing moves any more."""
    with trio.fail_after(10):
        while source.statistics().subscribed < source.statistics().total:
            await trio.lowlevel.checkpoint()
    calls: Counter[str] = Counter()
    while calls != server.calls:
        calls = Counter(server.calls)
        await trio.testing.wait_all_tasks_blocked(0.01)


# --- watching ----------------------------------------------------------------------------------------------------


async def test_watch_tells_the_history(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A watched script with a past is told once, with the status that its history hashes to."""
    async with reading([server], (SHOP, None)) as reader:
        (change,) = await reader.wait_changes(1)
    assert change == ScriptHashChanged(
        server=where(server).name, scripthash=SHOP, status=chain.status(SHOP), history=chain.history(SHOP)
    )


async def test_watch_while_connected_is_subscribed(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A script watched while a server is connected is subscribed at once, and its payments are told."""
    async with reading([server]) as reader:
        await reader.wait_tip(12)
        reader.source.watch(OTHER, None)
        await settle(server, reader.source)
        txid = chain.pay(OTHER_SCRIPT, 5_000)
        await server.publish()
        (change,) = await reader.wait_changes(1)
        assert [entry.txid for entry in change.history] == [txid]
        assert change.history == chain.history(OTHER)


async def test_watch_is_idempotent(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Telling again what has been absorbed asks nothing."""
    async with reading([server], (SHOP, chain.status(SHOP))) as reader:
        await settle(server, reader.source)
        calls = Counter(server.calls)
        for _ in range(3):
            reader.source.watch(SHOP, chain.status(SHOP))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.calls == calls
        assert reader.changes() == []


async def test_absorption_of_an_unwatched_script_is_nothing(server: SimulatedServer, chain: SimulatedChain) -> None:
    """What is absorbed of a script after it was unwatched does not bring its watch back."""
    async with reading([server], (SHOP, None)) as reader:
        (change,) = await reader.wait_changes(1)
        reader.source.unwatch(SHOP)
        reader.source.absorbed(SHOP, change.status)
        assert reader.source.statistics().total == 0
        chain.pay(SHOP_SCRIPT, 1)
        await server.publish()
        await settle(server, reader.source)
        assert len(reader.changes()) == 1


async def test_restart_with_known_status_fetches_nothing(server: SimulatedServer, chain: SimulatedChain) -> None:
    """After a restart, scripts whose status is unchanged cost one subscribe each, and no history."""
    scripts = [forge.made_up_script(f"customer {number}") for number in range(300)]
    for number, script in enumerate(scripts[:50]):
        chain.pay(script, 1_000 + number)
    chain.mine()
    watches = [(scripthash_of(script), chain.status(scripthash_of(script))) for script in scripts]
    async with reading([server], *watches) as reader:
        await settle(server, reader.source)
        assert reader.changes() == []
    assert server.calls[SUBSCRIBE] == 300
    assert server.calls[HISTORY] == 0


async def test_restart_fetches_only_what_changed(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Of two scripts, only the one that was paid meanwhile is fetched."""
    watches = [(SHOP, chain.status(SHOP)), (OTHER, chain.status(OTHER))]
    chain.pay(OTHER_SCRIPT, 7)
    async with reading([server], *watches) as reader:
        (change,) = await reader.wait_changes(1)
        assert change.scripthash == OTHER
        await settle(server, reader.source)
    assert server.calls[HISTORY] == 1


@pytest.mark.slow
async def test_absorbed_status_is_quiet(server: SimulatedServer, chain: SimulatedChain) -> None:
    """What was absorbed is not told again, also not after a reconnect."""
    async with reading([server], (SHOP, None)) as reader:
        (change,) = await reader.wait_changes(1)
        reader.source.absorbed(SHOP, change.status)
        await settle(server, reader.source)
        await server.drop_connections()
        with trio.fail_after(10):
            while server.accepted < 2 or not server.subscriptions:
                await trio.testing.wait_all_tasks_blocked(0.01)
        await settle(server, reader.source)
        assert len(reader.changes()) == 1
        assert [update for update in reader.seen if isinstance(update, SourceLost)] == [
            SourceLost(server=where(server).name)
        ]


async def test_confirmation_in_the_tip_fetches_nothing(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A payment that moves from the mempool into the newest block is told without fetching its history."""
    async with reading([server], (OTHER, None)) as reader:
        await settle(server, reader.source)
        chain.pay(OTHER_SCRIPT, 7)
        await server.publish()
        (seen,) = await reader.wait_changes(1)
        reader.source.absorbed(OTHER, seen.status)
        fetched = server.calls[HISTORY]
        chain.mine()
        await server.publish()
        _, mined = await reader.wait_changes(2)
        assert mined.history == chain.history(OTHER)
        assert server.calls[HISTORY] == fetched


async def test_unwatched_script_is_told_no_more(server: SimulatedServer, chain: SimulatedChain) -> None:
    """After an unwatch nothing of the script is told, though the server may still push its status."""
    async with reading([server], (SHOP, chain.status(SHOP)), (OTHER, None)) as reader:
        await settle(server, reader.source)
        reader.source.unwatch(SHOP)
        assert reader.source.statistics().total == 1
        chain.pay(SHOP_SCRIPT, 1)
        chain.pay(OTHER_SCRIPT, 1)
        await server.publish()
        (change,) = await reader.wait_changes(1)
        assert change.scripthash == OTHER
        await settle(server, reader.source)
        assert len(reader.changes()) == 1


async def test_recheck_tells_again(
    server: SimulatedServer, chain: SimulatedChain, quick_clock: trio.testing.MockClock
) -> None:
    """A recheck tells the same history again after the time asked for, although its status has not changed."""
    async with reading([server], (SHOP, chain.status(SHOP))) as reader:
        await settle(server, reader.source)
        began = trio.current_time()
        reader.source.recheck(SHOP, after_s=30.0)
        (change,) = await reader.wait_changes(1)
        assert 30.0 <= trio.current_time() - began < 31.0
        assert change.history == chain.history(SHOP)


@pytest.mark.slow
async def test_recheck_survives_a_reconnect(server: SimulatedServer, chain: SimulatedChain) -> None:
    """What is to be asked again is asked by the next session, if the link drops before its time has come."""
    async with reading([server], (SHOP, chain.status(SHOP))) as reader:
        await settle(server, reader.source)
        reader.source.recheck(SHOP, after_s=3000.0)
        await server.drop_connections()
        (change,) = await reader.wait_changes(1)
        assert change.history == chain.history(SHOP)


async def test_recheck_of_an_unwatched_script_is_nothing(server: SimulatedServer) -> None:
    """A recheck of a script that nobody watches does not watch it."""
    async with reading([server], (OTHER, None)) as reader:
        await settle(server, reader.source)
        reader.source.recheck(SHOP, after_s=0.0)
        await settle(server, reader.source)
        assert reader.changes() == []
        assert reader.source.statistics().total == 1


@pytest.mark.slow
async def test_lost_notification_is_found_by_the_sweep(
    server: SimulatedServer, chain: SimulatedChain, quick_clock: trio.testing.MockClock
) -> None:
    """A payment whose notification never came is told within the sweep interval."""
    async with reading([server], (SHOP, chain.status(SHOP)), (OTHER, None), sweep_interval_s=100.0) as reader:
        await settle(server, reader.source)
        chain.pay(OTHER_SCRIPT, 7)  # and the server does not publish it
        began = trio.current_time()
        (change,) = await reader.wait_changes(1)
        assert (change.scripthash, change.history) == (OTHER, chain.history(OTHER))
        assert trio.current_time() - began <= 110.0


@pytest.mark.slow
async def test_quiet_sweep_fetches_nothing(
    server: SimulatedServer, chain: SimulatedChain, quick_clock: trio.testing.MockClock
) -> None:
    """A sweep over unchanged scripts costs one subscribe each, leaves no gap, and tells nothing."""
    async with reading([server], (SHOP, chain.status(SHOP)), (OTHER, None), sweep_interval_s=100.0) as reader:
        await settle(server, reader.source)
        await trio.sleep(305.0)
        assert server.calls[SUBSCRIBE] == 2 + 3 * 2
        assert (server.calls[HISTORY], reader.changes()) == (0, [])
        assert reader.source.statistics() == WatchStatistics(total=2, subscribed=2, quarantined=0, oldest_gap_s=0.0)


# --- tips --------------------------------------------------------------------------------------------------------


async def test_tips_are_told(server: SimulatedServer, chain: SimulatedChain) -> None:
    """The tip is told when a session starts, and at every notice."""
    async with reading([server]) as reader:
        await reader.wait_tip(12)
        chain.mine(3)
        await server.publish()
        await reader.wait_tip(15)
    tips = [update for update in reader.seen if isinstance(update, TipChanged)]
    name = where(server).name
    assert tips == [
        TipChanged(server=name, height=12, raw_header=chain.header_at(12)),
        TipChanged(server=name, height=15, raw_header=chain.header_at(15)),
    ]


@pytest.mark.slow
async def test_tip_of_an_electrumx_is_followed_by_pushes(
    server: SimulatedServer, chain: SimulatedChain, quick_clock: trio.testing.MockClock
) -> None:
    """After a tip an ElectrumX is asked for long answers, so that scripthash notices behind it are not held back."""
    server.behaviour = Behaviour(software="ElectrumX 1.20.0")
    async with reading([server]) as reader:
        await reader.wait_tip(12)
        await trio.sleep(5.0)
        pings, headers = server.calls["server.ping"], server.calls["blockchain.block.headers"]
        chain.mine()
        await server.publish()
        await reader.wait_tip(13)
        await trio.sleep(5.0)
        assert server.calls["server.ping"] == pings + len(PUSH_OUT_PAUSES_S)
        assert server.calls["blockchain.block.headers"] == headers + len(PUSH_OUT_PAUSES_S)


async def test_tip_of_others_is_followed_by_nothing(
    server: SimulatedServer, chain: SimulatedChain, quick_clock: trio.testing.MockClock
) -> None:
    """Servers that hold nothing back are not asked anything after a tip."""
    async with reading([server]) as reader:
        await reader.wait_tip(12)
        chain.mine()
        await server.publish()
        await reader.wait_tip(13)
        await trio.sleep(5.0)
        assert server.calls["server.ping"] == 0


# --- trouble -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_statistics_say_how_long_nobody_listens(
    chain: SimulatedChain, nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    """Without a server nothing counts as subscribed, and the gap grows with time; with one it closes."""
    server: SimulatedServer = await nursery.start(serve_electrum, chain, Behaviour(stalls=True))
    async with reading([server], (SHOP, chain.status(SHOP))) as reader:
        await trio.sleep(7.0)
        statistics = reader.source.statistics()
        assert (statistics.total, statistics.subscribed, statistics.quarantined) == (1, 0, 0)
        assert statistics.oldest_gap_s == pytest.approx(7.0, abs=0.1)
        server.behaviour = Behaviour()
        await reader.wait_tip(12)
        await settle(server, reader.source)
        assert reader.source.statistics() == WatchStatistics(total=1, subscribed=1, quarantined=0, oldest_gap_s=0.0)


async def test_nobody_to_ask_is_an_error(
    chain: SimulatedChain, nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    """A caller who asks while no server is connected waits ten seconds for one, and is told then."""
    server: SimulatedServer = await nursery.start(serve_electrum, chain, Behaviour(stalls=True))
    async with reading([server]) as reader:
        began = trio.current_time()
        with pytest.raises(SourceUnavailableError, match="no server"):
            await reader.source.fetch_headers(1, 1)
        assert 10.0 <= trio.current_time() - began < 10.5


async def test_history_that_never_matches_ends_the_session(
    server: SimulatedServer, chain: SimulatedChain, quick_clock: trio.testing.MockClock
) -> None:
    """A server whose statuses match no history tells nothing, is asked twice, and is dropped as a liar."""
    server.behaviour = Behaviour(status_never_matches=True)
    async with reading([server], (SHOP, None)) as reader:
        await reader.wait_tip(12)
        await trio.sleep(20.0)
        assert reader.changes() == []
        assert server.calls[HISTORY] == 2
        (state,) = reader.source.servers()
        assert (state.verdict, state.reason) == ("misbehaved", "history does not hash to the announced status")


async def test_report_drops_the_server(server: SimulatedServer, chain: SimulatedChain, nursery: trio.Nursery) -> None:
    """A server that the verifier caught is left, logged, and the next one takes its place."""
    second: SimulatedServer = await nursery.start(serve_electrum, chain)
    with structlog.testing.capture_logs() as logs:
        async with reading([server, second], (SHOP, chain.status(SHOP))) as reader:
            await settle(server, reader.source)
            reader.source.report(where(server).name, "header: no work", chain.header_at(1))
            with trio.fail_after(10):
                while not second.subscriptions:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            states = {state.name: state.verdict for state in reader.source.servers()}
            assert states == {where(server).name: "misbehaved", where(second).name: "connected"}
    (line,) = [log for log in logs if log["event"] == "electrum.server_misbehaved"]
    assert (line["server"], line["misbehaviour"]) == (where(server).name, "header: no work")


async def test_refused_history_is_set_aside(
    server: SimulatedServer, chain: SimulatedChain, quick_clock: trio.testing.MockClock
) -> None:
    """A script whose history the server refuses is quarantined and asked again in a minute; others are not held up."""
    async with reading([server], (SHOP, chain.status(SHOP)), (OTHER, None)) as reader:
        await settle(server, reader.source)
        chain.pay(SHOP_SCRIPT, 7)
        server.push_changes()
        server.behaviour = Behaviour(history_too_large=True)  # between the notice and the fetch that it causes
        with trio.fail_after(60):
            while not reader.source.statistics().quarantined:
                await trio.testing.wait_all_tasks_blocked(0.01)
        server.behaviour = Behaviour()
        chain.pay(OTHER_SCRIPT, 7)
        await server.publish()
        (other,) = await reader.wait_changes(1)
        assert other.scripthash == OTHER
        began = trio.current_time()
        _, shop = await reader.wait_changes(2)
        assert (shop.scripthash, shop.history) == (SHOP, chain.history(SHOP))
        assert trio.current_time() - began <= REFUSED_HISTORY_PAUSE_S + 10


@pytest.mark.slow
async def test_refused_subscribe_does_not_block_readiness(
    server: SimulatedServer, chain: SimulatedChain, quick_clock: trio.testing.MockClock
) -> None:
    """A script that the server refuses to subscribe is quarantined: its gap does not count, and it is left in peace."""
    server.behaviour = Behaviour(history_too_large=True)  # only the shop has a history
    async with reading([server], (SHOP, None), (OTHER, None)) as reader:
        await reader.wait_tip(12)
        await trio.sleep(45.0)
        statistics = reader.source.statistics()
        assert statistics.quarantined == 1
        assert statistics.oldest_gap_s <= 30.0
        assert server.calls[SUBSCRIBE] <= 8


@pytest.mark.slow
async def test_slow_reader_slows_the_source(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Updates are bounded: while nobody reads, the source holds back, and later nothing is missing."""
    scripts = [forge.made_up_script(f"customer {number}") for number in range(600)]
    for script in scripts:
        chain.pay(script, 1_000)
    source = ElectrumSource(ServerPool([where(server)], REGTEST), sweep_interval_s=600)
    source.watch_all([(scripthash_of(script), None) for script in scripts])
    reader = Reader(source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        with trio.fail_after(10):
            while server.calls[HISTORY] < 256:
                await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert server.calls[HISTORY] < 400
        nursery.start_soon(reader.run)
        with trio.fail_after(10):
            await reader.wait_changes(600)
        nursery.cancel_scope.cancel()
    assert {change.scripthash for change in reader.changes()} == {scripthash_of(script) for script in scripts}
