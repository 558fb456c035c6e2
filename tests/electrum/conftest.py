"""Simulated servers with a little past, ways to them, and clocks that do not make tests wait."""

import pytest
import trio
import trio.testing

from lightipn.electrum.connection import Connector
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from tests.electrum.memory import MemoryConnector
from tests.electrum.places import SHOP_SCRIPT


@pytest.fixture
def quick_clock() -> trio.testing.MockClock:
    """A clock that goes as usual while sockets are busy, and jumps to the next deadline once nothing has moved.

    The threshold is real time: long enough for a loopback socket, short enough for deadlines of minutes.
    """
    return trio.testing.MockClock(rate=1.0, autojump_threshold=0.05)


@pytest.fixture(scope="session")
def connector() -> Connector:
    """The way to servers on sockets; making its TLS contexts takes 30 ms."""
    return Connector()


@pytest.fixture
def chain() -> SimulatedChain:
    """Twelve blocks; the shop was paid 100,000 sat in block 3."""
    chain = SimulatedChain()
    chain.mine(2)
    chain.pay(SHOP_SCRIPT, 100_000)
    chain.mine(10)
    return chain


@pytest.fixture
async def server(chain: SimulatedChain, nursery: trio.Nursery) -> SimulatedServer:
    """An honest server on a free port."""
    server: SimulatedServer = await nursery.start(serve_electrum, chain)
    return server


@pytest.fixture
def memory(chain: SimulatedChain, nursery: trio.Nursery) -> MemoryConnector:
    """The way to servers in memory, all of the same chain; there are none yet."""
    return MemoryConnector(nursery, chain)
