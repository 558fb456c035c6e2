"""Where simulated servers listen, and where nobody does."""

import trio

from lightipn.electrum.address import ServerAddress
from lightipn.simulator import forge
from lightipn.simulator.server import SimulatedServer

SHOP_SCRIPT = forge.made_up_script("shop")


def where(server: SimulatedServer, *, uses_tls: bool = False) -> ServerAddress:
    """Return the address of a simulated server."""
    return ServerAddress(server.host, server.port, uses_tls=uses_tls)


async def closed_port() -> int:
    """Return a port on which nobody listens."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port: int = listener.socket.getsockname()[1]
    return port
