"""Simulated servers under made-up names, reached without sockets: what happens then depends on no machine's speed."""

import trio
import trio.testing

from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import Connection, Identity
from lightipn.errors import SourceDistrustedError, SourceUnavailableError
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer


class MemoryConnector:
    """Leads names to servers of this process; behind a name that nobody has, nobody listens.

    Attributes:
        networks: by host, which network a server seems to be in; empty for others.
        identities: by host, who a server turns out to be, whatever was known of it.
        strangers: hosts whose certificate is not the one that is known.
        tries: when, and to which host, a connection was tried.
        known: what was known of a host when it was tried last.
    """

    def __init__(self, nursery: trio.Nursery, chain: SimulatedChain) -> None:
        self.servers: dict[str, SimulatedServer] = {}
        self.networks: dict[str, str] = {}
        self.identities: dict[str, Identity] = {}
        self.strangers: set[str] = set()
        self.tries: list[tuple[float, str]] = []
        self.known: dict[str, Identity] = {}
        self._nursery = nursery
        self._chain = chain

    def add(self, host: str, behaviour: Behaviour | None = None) -> SimulatedServer:
        """Put a server behind a name."""
        self.servers[host] = SimulatedServer(self._chain, behaviour or Behaviour(), host=host, port=50001)
        return self.servers[host]

    def add_many(self, *hosts: str) -> list[SimulatedServer]:
        """Put honest servers behind names."""
        return [self.add(host) for host in hosts]

    async def kill(self, host: str) -> SimulatedServer:
        """End a server and hang up on its clients; nobody listens there from now on."""
        server = self.servers.pop(host)
        await server.drop_connections()
        return server

    def revive(self, server: SimulatedServer) -> None:
        """Have a server that was killed listen again."""
        self.servers[server.host] = server

    def tries_of(self, host: str) -> list[float]:
        """Return when a connection to a host was tried."""
        return [tried_at for tried_at, tried in self.tries if tried == host]

    async def connect(self, address: ServerAddress, known: Identity) -> Connection:
        """Connect as ``lightipn.electrum.connection.Connector`` does."""
        await trio.lowlevel.checkpoint()
        self.tries.append((trio.current_time(), address.host))
        self.known[address.host] = known
        if address.host not in self.servers:
            raise SourceUnavailableError("connection-refused", source=address.name)
        if address.host in self.strangers:
            raise SourceDistrustedError("certificate-changed: made up", source=address.name)
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self.servers[address.host].serve, theirs)
        identity = self.identities.get(address.host, Identity())
        return Connection(ours, identity, self.networks.get(address.host, ""))  # type: ignore[arg-type]  # any stream
