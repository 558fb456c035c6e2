"""The simulated server's sockets: accept, read lines, send what the sessions say.

A connection has a reader and a writer. What is to be sent goes into one buffer, which the writer sends as a whole: one
send for all that has become due, and no answer waits for a notice to another client. A client that does not read is
not read either, once its buffer is full.
"""

import ssl
from collections import Counter

import trio

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.session import Session

RECEIVE_BYTES = 1 << 16
MAX_LINE_BYTES = 16 << 20
MAX_UNSENT_BYTES = 1 << 20
HONEST = Behaviour()


class _Connection:
    """A session on its stream."""

    def __init__(self, server: "SimulatedServer", stream: trio.abc.Stream) -> None:
        self.server = server
        self.stream = stream
        self.session = Session(server.chain, server.behaviour, server.calls)
        self.scope = trio.CancelScope()
        self.gone = trio.Event()
        self.unsent = bytearray()
        self.in_flight_bytes = 0
        self.filled = trio.Event()
        self.drained = trio.Event()

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.write)
                await self.read(nursery)
                await self.wait_drained(0)
                nursery.cancel_scope.cancel()

    def send(self, line: bytes) -> None:
        self.unsent += line
        self.filled.set()

    async def send_later(self, line: bytes, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self.send(line)

    async def wait_drained(self, limit_bytes: int) -> None:
        while len(self.unsent) + self.in_flight_bytes > limit_bytes:
            self.drained = trio.Event()
            await self.drained.wait()

    async def write(self) -> None:
        try:
            while True:
                while self.unsent:
                    taken, self.unsent = bytes(self.unsent), bytearray()
                    self.in_flight_bytes = len(taken)
                    await self.send_bytes(taken)
                    self.in_flight_bytes = 0
                self.drained.set()
                self.filled = trio.Event()
                await self.filled.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.scope.cancel()

    async def send_bytes(self, data: bytes) -> None:
        drip_s = self.session.client.behaviour.slow_drip
        if not drip_s:
            await self.stream.send_all(data)
            return
        for index in range(len(data)):
            await self.stream.send_all(data[index : index + 1])
            await trio.sleep(drip_s)

    async def read(self, nursery: trio.Nursery) -> None:
        """Answer lines until the client hangs up, or the session says so."""
        unfinished = bytearray()
        while not self.session.is_closing and len(unfinished) <= MAX_LINE_BYTES:
            try:
                chunk = await self.stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not chunk:
                return
            unfinished += chunk
            if b"\n" in chunk:
                *lines, unfinished = unfinished.split(b"\n")
                for line in lines:
                    if line.strip():
                        self.answer(bytes(line), nursery)
            await self.wait_drained(MAX_UNSENT_BYTES)

    def answer(self, line: bytes, nursery: trio.Nursery) -> None:
        version = self.server.chain.version
        answer = self.session.answer_line(line)
        delay_s = self.session.client.behaviour.delay_s
        if delay_s:
            nursery.start_soon(self.send_later, answer, delay_s)
        else:
            self.send(answer)
        if self.server.chain.version != version:  # a broadcast
            self.server.push_changes()

    def push(self, scripthashes: list[ScriptHash] | None) -> None:
        self.send(self.session.notices(scripthashes))
        if self.session.is_closing:
            self.scope.cancel()


class SimulatedServer:
    """A running server. Change its chain, then ``publish``.

    Args:
        port: where it listens.
        calls: how often each method was requested, by its full name.
    """

    def __init__(self, chain: SimulatedChain, behaviour: Behaviour, *, host: str, port: int) -> None:
        self.chain = chain
        self.host = host
        self.port = port
        self.calls: Counter[str] = Counter()
        self.accepted = 0
        self._behaviour = behaviour
        self._connections: set[_Connection] = set()
        self._published = chain.version
        self._has_new_behaviour = False

    @property
    def connections(self) -> int:
        """How many connections are open; ``accepted`` counts all there ever were."""
        return len(self._connections)

    @property
    def subscriptions(self) -> int:
        """How many scripthashes are subscribed, over all connections."""
        return sum(len(connection.session.client.statuses) for connection in self._connections)

    @property
    def behaviour(self) -> Behaviour:
        """How the server behaves; assign another to change it at once, also for open connections."""
        return self._behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._has_new_behaviour = True  # what it says of untouched scripthashes may differ now
        for connection in self._connections:
            connection.session.behave(behaviour)

    async def publish(self) -> None:
        """Push what changed in the chain, or in what the server says of it, since the last time."""
        self.push_changes()
        await trio.lowlevel.checkpoint()

    def push_changes(self) -> None:
        """Queue the notices that ``publish`` sends."""
        touched = None if self._has_new_behaviour else self.chain.touched_since(self._published)
        self._has_new_behaviour = False
        self._published = self.chain.version
        for connection in list(self._connections):
            connection.push(touched)

    async def drop_connections(self) -> None:
        """Hang up on every client, and return when all are gone. New ones may come."""
        dropped = list(self._connections)
        for connection in dropped:
            connection.scope.cancel()
        for connection in dropped:
            await connection.gone.wait()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one client until either side hangs up."""
        connection = _Connection(self, stream)
        self.accepted += 1
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
            await trio.aclose_forcefully(stream)
            connection.gone.set()


async def serve_electrum(
    chain: SimulatedChain,
    behaviour: Behaviour = HONEST,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ssl_context: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[SimulatedServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a chain until cancelled; start it with ``server = await nursery.start(serve_electrum, chain)``.

    Args:
        port: 0 takes a free one, told by ``SimulatedServer.port``.
        ssl_context: speak TLS with it; plain TCP without.

    Cancellation:
        Every connection is closed at once, and the port is free again.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    server = SimulatedServer(chain, behaviour, host=host, port=listeners[0].socket.getsockname()[1])
    task_status.started(server)
    if ssl_context is None:
        await trio.serve_listeners(server.serve, listeners)
    else:
        await trio.serve_listeners(server.serve, [trio.SSLListener(listener, ssl_context) for listener in listeners])
