"""A simulated server with a little past, and a clock that does not make tests wait."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from lightipn.electrum.address import ServerAddress
from lightipn.electrum.session import TlsContexts
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum

SHOP_SCRIPT = forge.made_up_script("shop")


@pytest.fixture
def quick_clock() -> trio.testing.MockClock:
    """A clock that goes as usual while sockets are busy, and jumps to the next deadline once nothing has moved.

    The threshold is real time: long enough for a loopback socket, short enough for deadlines of minutes.
    """
    return trio.testing.MockClock(rate=1.0, autojump_threshold=0.05)


@pytest.fixture(scope="session")
def contexts() -> TlsContexts:
    """TLS contexts; making them takes 30 ms."""
    return TlsContexts()


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


def where(server: SimulatedServer, *, uses_tls: bool = False) -> ServerAddress:
    """Return the address of a simulated server."""
    return ServerAddress(server.host, server.port, uses_tls=uses_tls)


async def closed_port() -> int:
    """Return a port on which nobody listens."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port: int = listener.socket.getsockname()[1]
    return port


@asynccontextmanager
async def patience(seconds: float = 10.0) -> AsyncIterator[None]:
    """Fail rather than hang."""
    with trio.fail_after(seconds):
        yield
