"""One connection, over real sockets on 127.0.0.1: its greeting, its calls, and what is left when it is cancelled."""

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.hashes import ScriptHash, Txid, sha256
from lightipn.bitcoin.network import REGTEST
from lightipn.electrum import methods
from lightipn.electrum.connection import Connector, Identity
from lightipn.electrum.protocol import Answer, Call, Notification, Refusal
from lightipn.electrum.session import PING_INTERVAL_S, open_session
from lightipn.electrum.window import MAX_BATCH, MAX_IN_FLIGHT
from lightipn.errors import SourceMisbehavedError, SourceRefusedError, SourceUnavailableError
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from tests.delivery.certificates import self_signed
from tests.electrum.memory import MemoryConnector
from tests.electrum.places import SHOP_SCRIPT, where
from tests.electrum.pools import named
from tests.electrum.sessions import PING, SUBSCRIBE, ending, subscribes

# --- greeting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["1.4", "1.4.2", "1.6"])
async def test_greeting_learns_who_the_server_is(
    server: SimulatedServer, chain: SimulatedChain, connector: Connector, protocol: str
) -> None:
    """A session starts with the server's name, the protocol agreed on, and its tip."""
    server.behaviour = Behaviour(software="Fulcrum 2.1.1", max_protocol=protocol)
    async with open_session(where(server), REGTEST, connector, Identity()) as session:
        assert session.version == methods.ServerVersion("Fulcrum 2.1.1", protocol)
        assert (session.tip_height, session.tip_raw) == (12, chain.header_at(12))
        assert session.name == f"127.0.0.1:{server.port}:t"
    assert server.calls == {"server.version": 1, "server.features": 1, "blockchain.headers.subscribe": 1}


async def test_server_of_another_network_is_a_liar(server: SimulatedServer, connector: Connector) -> None:
    """A server that names another genesis misbehaves: nothing it could say is of use."""
    server.behaviour = Behaviour(wrong_genesis=True)
    error = await ending(where(server), connector)
    assert isinstance(error, SourceMisbehavedError)
    assert "another network" in str(error)
    assert error.source == f"127.0.0.1:{server.port}:t"


async def test_server_behind_the_world_is_unavailable(server: SimulatedServer, connector: Connector) -> None:
    """A server below the last checkpoint is still catching up; one that stands at it is good."""
    error = await ending(where(server), connector, lowest_tip=13)
    assert isinstance(error, SourceUnavailableError)
    assert str(error) == "server is at height 12, want at least 13"
    async with open_session(where(server), REGTEST, connector, Identity(), lowest_tip=12) as session:
        assert session.tip_height == 12


# --- calls -----------------------------------------------------------------------------------------------------------


async def test_refusal_carries_its_code_and_no_words(server: SimulatedServer, connector: Connector) -> None:
    """An error answer raises with the server's code and without its text, and the session goes on."""
    async with open_session(where(server), REGTEST, connector, Identity()) as session:
        with pytest.raises(SourceRefusedError) as caught:
            await session.call(methods.transaction_call(Txid(bytes(32))))
        assert caught.value.code == 2
        assert "daemon" not in str(caught.value)
        assert await session.call(PING) is None


async def test_answers_come_in_the_order_of_the_calls(
    server: SimulatedServer, chain: SimulatedChain, connector: Connector
) -> None:
    """Many calls, some of them refused, return one answer each, in the order of the calls."""
    calls = [Call("blockchain.block.header", (height,)) for height in (3, 99, 1)]
    async with open_session(where(server), REGTEST, connector, Identity()) as session:
        first, refused, last = await session.call_all(calls)
    assert isinstance(refused, Refusal)
    assert refused.code == 1
    results = [answer.result for answer in (first, last) if isinstance(answer, Answer)]
    assert results == [chain.header_at(3).hex(), chain.header_at(1).hex()]


async def test_notifications_are_handed_on_in_order(
    server: SimulatedServer, chain: SimulatedChain, connector: Connector
) -> None:
    """A new tip is known to the session before its notice is handed on, and notices keep their order."""
    taken: list[tuple[str, int]] = []
    async with open_session(where(server), REGTEST, connector, Identity()) as session:

        def take(notification: Notification) -> None:
            taken.append((notification.method, session.tip_height))

        session.take_notifications(take)
        await session.call_all([methods.subscribe_call(ScriptHash(sha256(SHOP_SCRIPT)))])
        chain.pay(SHOP_SCRIPT, 5)
        chain.mine()
        await server.publish()
        await session.call(PING)
    assert taken == [("blockchain.headers.subscribe", 13), (SUBSCRIBE, 13)]


async def test_urgent_calls_overtake_bulk(server: SimulatedServer, connector: Connector) -> None:
    """An urgent call is answered while thousands of bulk calls still wait."""
    async with open_session(where(server), REGTEST, connector, Identity()) as session, trio.open_nursery() as callers:
        callers.start_soon(session.call_all, subscribes(2000))
        await session.call(PING)
        assert server.calls[SUBSCRIBE] < 1000
    assert server.calls[SUBSCRIBE] == 2000


async def test_calls_of_a_caller_who_gave_up_are_not_sent(
    memory: MemoryConnector, autojump_clock: trio.testing.MockClock
) -> None:
    """What a cancelled caller had waiting is dropped; what was sent already is answered to nobody, and harms nobody."""
    server = memory.add("a.example", Behaviour(delay_s=1.0))
    connector: Connector = memory  # type: ignore[assignment]  # it connects like one
    async with open_session(named("a.example"), REGTEST, connector, Identity()) as session:
        with trio.move_on_after(0.5):
            await session.call_all(subscribes(2000))
        asked = server.calls[SUBSCRIBE]
        assert 0 < asked <= MAX_BATCH * MAX_IN_FLIGHT
        assert len(await session.call_all(subscribes(5))) == 5
        assert server.calls[SUBSCRIBE] == asked + 5


async def test_nothing_to_ask_is_answered_with_nothing(server: SimulatedServer, connector: Connector) -> None:
    """No calls have no answers, at once."""
    async with open_session(where(server), REGTEST, connector, Identity()) as session:
        calls = server.calls.total()
        with trio.fail_after(1):
            assert await session.call_all([]) == []
        assert server.calls.total() == calls


@pytest.mark.slow
async def test_quiet_link_is_kept_alive(
    server: SimulatedServer, connector: Connector, quick_clock: trio.testing.MockClock
) -> None:
    """A link without traffic is pinged every four minutes, before the server drops it; traffic spares the ping."""
    async with open_session(where(server), REGTEST, connector, Identity()) as session:
        await trio.sleep(PING_INTERVAL_S - 1)
        assert server.calls["server.ping"] == 0
        await session.call_all(subscribes(1))
        await trio.sleep(PING_INTERVAL_S - 1)
        assert server.calls["server.ping"] == 0
        await trio.sleep(2)
        assert server.calls["server.ping"] == 1
        await trio.sleep(2 * PING_INTERVAL_S)
        assert server.calls["server.ping"] == 3


# --- cancellation ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("uses_tls", [False, True], ids=["plain", "TLS"])
async def test_cancellation_leaves_nothing_behind(
    chain: SimulatedChain, nursery: trio.Nursery, connector: Connector, tmp_path: Path, uses_tls: bool
) -> None:
    """Wherever a session is cancelled, from connecting to its calls, no task and no connection stays behind."""
    context = self_signed(tmp_path, ["127.0.0.1"])[0] if uses_tls else None
    server: SimulatedServer = await nursery.start(partial(serve_electrum, chain, ssl_context=context))

    async def use() -> None:
        async with open_session(where(server, uses_tls=uses_tls), REGTEST, connector, Identity()) as session:
            await session.call(PING)
            await session.call_all(subscribes(150))
            finished.append(True)

    finished: list[bool] = []
    before = trio.lowlevel.current_statistics().tasks_living
    for checkpoints in range(200):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as users:
                users.start_soon(use)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        with trio.fail_after(5):
            while server.connections:
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before
        if finished:
            break
    assert finished, "the last rounds must get to the end, or the first ones proved nothing"
