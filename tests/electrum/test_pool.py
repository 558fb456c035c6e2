"""Which server is used: rotation, pauses that grow, rest for liars, and the race of the built-in list."""

import random
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import structlog.testing
import trio
import trio.testing

from lightipn.bitcoin.network import REGTEST
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.pool import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    MISBEHAVED_PAUSE_S,
    RACERS,
    STABLE_SESSION_S,
    ServerPool,
)
from lightipn.electrum.session import Session
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from tests.electrum.places import closed_port, where


class Served:
    """Notes the sessions that a pool serves, and keeps them open."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.changed = trio.Event()

    async def serve(self, session: Session) -> None:
        """Use a session until it ends."""
        self.names.append(session.name)
        self.changed.set()
        self.changed = trio.Event()
        await trio.sleep_forever()

    async def wait_count(self, count: int) -> None:
        """Wait until so many sessions were served."""
        with trio.fail_after(3600):
            while len(self.names) < count:
                await self.changed.wait()


def pool_of(addresses: Iterable[ServerAddress], **options: object) -> ServerPool:
    """Return a pool with a chance that repeats itself."""
    return ServerPool(list(addresses), REGTEST, chance=random.Random(7), **options)  # type: ignore[arg-type]


def verdicts(pool: ServerPool) -> dict[str, tuple[str, str]]:
    """Return verdict and reason of every server that was tried."""
    return {state.name: (state.verdict, state.reason) for state in pool.states()}


async def started(nursery: trio.Nursery, chain: SimulatedChain, *behaviours: Behaviour) -> list[SimulatedServer]:
    """Start one server for each behaviour."""
    return [await nursery.start(partial(serve_electrum, chain), behaviour) for behaviour in behaviours]


async def dead_address() -> ServerAddress:
    """Return an address on which nobody listens."""
    return ServerAddress("127.0.0.1", await closed_port(), uses_tls=False)


async def wait_until(pool: ServerPool, condition: Callable[[], bool]) -> None:
    """Wait until the servers' news bring a condition about."""
    with trio.fail_after(3600):
        while not condition():
            await pool.changed.wait()


async def test_first_server_is_used(server: SimulatedServer, nursery: trio.Nursery) -> None:
    """The first configured server that answers is used, alone, and its state says what it told."""
    pool, served = pool_of([where(server), await dead_address()]), Served()
    assert pool.states() == []
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    (state,) = pool.states()
    assert (state.verdict, state.reason, state.software, state.protocol, state.tip_height) == (
        "connected",
        "",
        "Simulator 1.0",
        "1.6",
        12,
    )
    assert state.latency_ms is not None


async def test_next_server_is_tried_at_once(
    server: SimulatedServer, nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    """Where the first server is dead, the next one is tried without a pause."""
    dead = await dead_address()
    pool, served = pool_of([dead, where(server)]), Served()
    began = trio.current_time()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    assert trio.current_time() - began < FIRST_PAUSE_S
    assert served.names == [where(server).name]
    assert verdicts(pool)[dead.name][0] == "unavailable"


@pytest.mark.slow
async def test_pauses_grow(nursery: trio.Nursery, quick_clock: trio.testing.MockClock) -> None:
    """A dead server is tried again after half a second, then after twice as long each time, up to a minute."""
    pool = pool_of([await dead_address()])
    with structlog.testing.capture_logs() as logs:
        nursery.start_soon(pool.run, Served().serve)
        await trio.sleep(400)
    pauses = [log["next_try_s"] for log in logs if log["event"] == "electrum.session_closed"]
    wanted = [min(FIRST_PAUSE_S * 2.0**tries, LONGEST_PAUSE_S) for tries in range(len(pauses))]
    assert len(pauses) >= 10
    assert all(0.74 * want <= pause <= 1.26 * want for pause, want in zip(pauses, wanted, strict=True))


@pytest.mark.slow
async def test_pauses_are_jittered(nursery: trio.Nursery, quick_clock: trio.testing.MockClock) -> None:
    """Services that lost a server together do not come back together."""
    dead = await dead_address()
    with structlog.testing.capture_logs() as logs:
        for seed in range(5):
            pool = ServerPool([dead], REGTEST, chance=random.Random(seed))
            nursery.start_soon(pool.run, Served().serve)
        await trio.sleep(0.1)
    pauses = [log["next_try_s"] for log in logs if log["event"] == "electrum.session_closed"]
    assert len(pauses) == 5
    assert len(set(pauses)) > 1


@pytest.mark.slow
async def test_dropped_link_is_opened_again(
    server: SimulatedServer, nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    """A link that drops is opened again after a short pause, and again, also many times."""
    pool, served = pool_of([where(server)]), Served()
    nursery.start_soon(pool.run, served.serve)
    for count in range(1, 5):
        await served.wait_count(count)
        dropped_at = trio.current_time()
        await server.drop_connections()
        await served.wait_count(count + 1)
        pause_s = FIRST_PAUSE_S * 2 ** (count - 1)
        assert 0.7 * pause_s <= trio.current_time() - dropped_at <= 1.3 * pause_s + 0.5
    assert server.accepted == 5


@pytest.mark.slow
async def test_stable_session_starts_pauses_anew(
    server: SimulatedServer, nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    """After a session that lasted, the next pause is the shortest again."""
    pool, served = pool_of([where(server)]), Served()
    nursery.start_soon(pool.run, served.serve)
    with structlog.testing.capture_logs() as logs:
        for count in range(1, 4):
            await served.wait_count(count)
            await server.drop_connections()
        await served.wait_count(4)
        await trio.sleep(STABLE_SESSION_S + 1)
        await server.drop_connections()
        await served.wait_count(5)
    pauses = [log["next_try_s"] for log in logs if log["event"] == "electrum.session_closed"]
    assert pauses[2] > 1.4
    assert pauses[3] < 0.7


@pytest.mark.parametrize(
    ("behaviour", "verdict"),
    [
        pytest.param(Behaviour(wrong_genesis=True), "misbehaved", id="another network"),
        pytest.param(Behaviour(garbage=True), "misbehaved", id="garbage"),
        pytest.param(Behaviour(stalls=True), "unavailable", id="stalls"),
        pytest.param(Behaviour(max_protocol="1.3"), "refused", id="no protocol in common"),
    ],
)
async def test_bad_server_is_left_for_a_good_one(
    chain: SimulatedChain,
    nursery: trio.Nursery,
    quick_clock: trio.testing.MockClock,
    behaviour: Behaviour,
    verdict: str,
) -> None:
    """A server that cannot be used is named with a verdict, and the next one is used instead."""
    bad, good = await started(nursery, chain, behaviour, Behaviour())
    pool, served = pool_of([where(bad), where(good)]), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    assert served.names == [where(good).name]
    assert verdicts(pool)[where(bad).name][0] == verdict
    assert verdicts(pool)[where(good).name] == ("connected", "")


@pytest.mark.slow
async def test_liar_rests_for_long(
    chain: SimulatedChain, nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    """A server that misbehaved rests ten minutes, also while the others come and go."""
    liar, good = await started(nursery, chain, Behaviour(), Behaviour())
    pool, served = pool_of([where(liar), where(good)]), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    pool.report(where(liar).name, "branch: does not lead to the root")
    await served.wait_count(2)
    assert verdicts(pool)[where(liar).name] == ("misbehaved", "branch: does not lead to the root")
    for count in range(3, 8):
        await good.drop_connections()
        await served.wait_count(count)
    assert set(served.names[1:]) == {where(good).name}
    assert liar.accepted == 1
    await trio.sleep(1.3 * MISBEHAVED_PAUSE_S)
    await good.drop_connections()
    await served.wait_count(8)
    assert served.names[-1] == where(liar).name


async def test_lone_liar_is_asked_again_soon(
    server: SimulatedServer, nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    """The only server there is gets another chance after about a minute, whatever it did."""
    pool, served = pool_of([where(server)]), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    pool.report(where(server).name, "lied")
    began = trio.current_time()
    await served.wait_count(2)
    assert 0.7 * LONGEST_PAUSE_S <= trio.current_time() - began <= 1.3 * LONGEST_PAUSE_S


async def test_report_about_a_server_not_in_use_changes_nothing(server: SimulatedServer, nursery: trio.Nursery) -> None:
    """A report about a server that is gone, or unknown, does not end the session with another."""
    pool, served = pool_of([where(server), await dead_address()]), Served()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    pool.report("electrum.example:50002:s", "lied")
    await trio.testing.wait_all_tasks_blocked()
    assert served.names == [where(server).name]
    assert server.connections == 1


async def test_news_are_told(server: SimulatedServer, nursery: trio.Nursery) -> None:
    """Whoever waits for news of the servers is woken by every change of a verdict."""
    pool = pool_of([where(server)])
    nursery.start_soon(pool.run, Served().serve)
    await wait_until(pool, lambda: bool(pool.states()) and pool.states()[0].verdict == "connected")
    await server.drop_connections()
    await wait_until(pool, lambda: pool.states()[0].verdict == "unavailable")


# --- the built-in list -------------------------------------------------------------------------------------------


async def test_builtin_servers_race(
    chain: SimulatedChain, nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    """Of a list in which most are dead or stalled, one that answers is found without waiting for the others."""
    stalled = await started(nursery, chain, *[Behaviour(stalls=True)] * 4)
    (good,) = await started(nursery, chain, Behaviour())
    addresses = [where(server) for server in stalled] + [await dead_address() for _ in range(3)] + [where(good)]
    assert len(addresses) == RACERS
    pool, served = pool_of(addresses, is_builtin=True), Served()
    began = trio.current_time()
    nursery.start_soon(pool.run, served.serve)
    await served.wait_count(1)
    assert served.names == [where(good).name]
    assert trio.current_time() - began < 1.0


@pytest.mark.slow
async def test_race_without_a_winner_ends(
    chain: SimulatedChain, nursery: trio.Nursery, quick_clock: trio.testing.MockClock
) -> None:
    """When nobody wins the race, the servers are tried in turn, and one that comes back is found."""
    (server,) = await started(nursery, chain, Behaviour(stalls=True))
    pool, served = pool_of([await dead_address(), where(server)], is_builtin=True), Served()
    nursery.start_soon(pool.run, served.serve)
    await trio.sleep(30)
    server.behaviour = Behaviour()
    await served.wait_count(1)
    assert served.names == [where(server).name]


@pytest.mark.slow
async def test_remembered_server_comes_first(chain: SimulatedChain, nursery: trio.Nursery) -> None:
    """A built-in server that worked before is used without a race, whatever the order of the list."""
    servers = await started(nursery, chain, *[Behaviour()] * 5)
    for known in servers:
        pool, served = pool_of(map(where, servers), is_builtin=True, remembered=[where(known).name]), Served()
        async with trio.open_nursery() as users:
            users.start_soon(pool.run, served.serve)
            with trio.fail_after(5):
                await served.wait_count(1)
            users.cancel_scope.cancel()
        assert served.names == [where(known).name]
    assert [server.accepted for server in servers] == [1] * 5


async def test_pool_without_servers_waits(nursery: trio.Nursery, quick_clock: trio.testing.MockClock) -> None:
    """A service without any server does not crash: its API still answers, and says that none is connected."""
    pool = pool_of([])
    with trio.move_on_after(60) as scope:
        await pool.run(Served().serve)
    assert scope.cancelled_caught
    assert pool.states() == []
