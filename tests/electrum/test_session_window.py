"""How much is asked at a time, and the ballast that makes an ElectrumX answer at once."""

import msgspec
import pytest
import structlog.testing
import trio

from lightipn.bitcoin.network import REGTEST
from lightipn.electrum import methods
from lightipn.electrum.connection import Connector, Identity
from lightipn.electrum.protocol import Answer
from lightipn.electrum.session import BALLAST_UNTIL_CALLS, open_session
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import HONEST, SimulatedServer
from lightipn.simulator.session import Session as HonestSession
from tests.electrum.places import SHOP_SCRIPT, where
from tests.electrum.sessions import HEADERS, PING, subscribes

# --- window ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 10, 50])
async def test_batch_limit_shrinks_the_window(server: SimulatedServer, connector: Connector, limit: int) -> None:
    """A server with a batch limit refuses whole batches; less is asked then, and everything is still answered."""
    server.behaviour = Behaviour(batch_limit=limit, software="Fulcrum 2.1.1")
    with trio.fail_after(10):
        async with open_session(where(server), REGTEST, connector, Identity()) as session:
            answers = await session.call_all(subscribes(300))
    assert [answer.result for answer in answers if isinstance(answer, Answer)] == [None] * 300
    assert server.accepted == 1


@pytest.mark.slow
async def test_batch_limit_is_outlived(server: SimulatedServer, connector: Connector) -> None:
    """A server with a batch limit is used for tens of thousands of calls over one and the same session."""
    server.behaviour = Behaviour(batch_limit=60, software="Fulcrum 2.1.1")
    with trio.fail_after(30):
        async with open_session(where(server), REGTEST, connector, Identity()) as session:
            answers = await session.call_all(subscribes(20_000))
    assert len(answers) == 20_000
    assert server.accepted == 1


async def test_transactions_travel_in_small_batches(
    server: SimulatedServer, chain: SimulatedChain, connector: Connector
) -> None:
    """A batch holds at most 25 raw transactions: a limit of 25 is never met."""
    server.behaviour = Behaviour(batch_limit=25)
    txids = [chain.pay(SHOP_SCRIPT, 1000 + number) for number in range(80)]
    with structlog.testing.capture_logs() as logs:
        async with open_session(where(server), REGTEST, connector, Identity()) as session:
            answers = await session.call_all([methods.transaction_call(txid) for txid in txids], is_urgent=True)
    raws = [methods.decode_transaction(answer.result) for answer in answers if isinstance(answer, Answer)]
    assert raws == [chain.transaction(txid) for txid in txids]
    assert not [log for log in logs if log["event"] == "electrum.window_shrunk"]


# --- ballast ---------------------------------------------------------------------------------------------------------


async def test_electrumx_gets_ballast(server: SimulatedServer, connector: Connector) -> None:
    """To an ElectrumX every short batch carries eight headers that nobody needs; a long batch carries none."""
    server.behaviour = Behaviour(software="ElectrumX 1.20.0")
    async with open_session(where(server), REGTEST, connector, Identity()) as session:
        assert server.calls[HEADERS] == 1  # with the second batch of the greeting; before the first, nobody knows
        assert await session.call(PING) is None
        assert server.calls[HEADERS] == 2
        await session.call_all(subscribes(BALLAST_UNTIL_CALLS - 1), is_urgent=True)
        assert server.calls[HEADERS] == 3
        await session.call_all(subscribes(BALLAST_UNTIL_CALLS), is_urgent=True)
        assert server.calls[HEADERS] == 3


@pytest.mark.parametrize("height", [0, 3, 12])
def test_ballast_is_long_enough(height: int) -> None:
    """Eight headers pass the 1,024 bytes at which an ElectrumX sends; a chain of less is nobody's main chain."""
    chain = SimulatedChain()
    chain.mine(height)
    honest = HonestSession(
        chain, Behaviour(software="ElectrumX 1.20.0"), SimulatedServer(chain, HONEST, host="", port=0).calls
    )
    honest.answer_line(msgspec.json.encode({"id": 0, "method": "server.version", "params": ["t", "1.6"]}))
    call = methods.headers_call(max(0, height - 7), 8)
    answer = honest.answer_line(msgspec.json.encode({"id": 1, "method": call.method, "params": call.params}))
    assert (len(answer) > 1024) == (height >= 7)


async def test_others_get_no_ballast(server: SimulatedServer, connector: Connector) -> None:
    """Servers that answer at once are not asked for headers."""
    server.behaviour = Behaviour(software="Fulcrum 2.1.1")
    async with open_session(where(server), REGTEST, connector, Identity()) as session:
        await session.call(PING)
    assert server.calls[HEADERS] == 0
