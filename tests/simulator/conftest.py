"""A chain with a little past, and a server that serves it."""

import pytest
import trio

from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum

SHOP_SCRIPT = forge.made_up_script("shop")


@pytest.fixture
def chain() -> SimulatedChain:
    """Five blocks; the shop was paid 100,000 sat in block 3, among others, and 7,000 sat are unconfirmed."""
    chain = SimulatedChain()
    chain.mine(2)
    chain.pay(forge.made_up_script("other"), 1)
    chain.pay(SHOP_SCRIPT, 100_000)
    chain.pay(forge.made_up_script("other"), 2)
    chain.mine(3)
    chain.pay(SHOP_SCRIPT, 7_000)
    return chain


@pytest.fixture
async def server(chain: SimulatedChain, nursery: trio.Nursery) -> SimulatedServer:
    """An honest server on a free port."""
    server: SimulatedServer = await nursery.start(serve_electrum, chain)
    return server
