"""The simulated server's sockets: accept, read lines, send what the sessions say.

A connection has a reader and a writer. What is to be sent goes into one buffer, which the writer sends as a whole: one
send for all that has become due, and no answer waits for a notice to another client. A client that does not read is
not read either, once its buffer is full.
"""

import ssl
import struct
from collections import Counter

import trio

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.outlook import Outlook
from lightipn.simulator.session import Session
from lightipn.simulator.usage import Usage, UsageBook

RECEIVE_BYTES = 1 << 16
MAX_LINE_BYTES = 16 << 20
MAX_UNSENT_BYTES = 1 << 20
HONEST = Behaviour()
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: closing sends RST


def _socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """Return the socket under a stream; None for a stream in memory."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return transport.socket if isinstance(transport, trio.SocketStream) else None


def _address_of(stream: trio.abc.Stream) -> str:
    """Return the IP address a client comes from; empty where there is none."""
    socket = _socket_of(stream)
    try:
        return "" if socket is None else str(socket.getpeername()[0])
    except OSError:  # it is gone already
        return ""


class _Connection:
    """A session on its stream."""

    def __init__(self, server: "SimulatedServer", stream: trio.abc.Stream, usage: Usage) -> None:
        self.server = server
        self.stream = stream
        self.session = Session(
            server.chain,
            server.behaviour,
            server.calls,
            outlook=server.outlook,
            usage=usage,
            now=trio.current_time(),
        )
        self.scope = trio.CancelScope()
        self.gone = trio.Event()
        self.unsent = bytearray()
        self.unsent_items = 0  # of batches, answered in what is unsent
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

    def send(self, line: bytes, items: int = 0) -> None:
        self.unsent += line
        self.unsent_items += items
        self.filled.set()

    async def send_later(self, line: bytes, items: int, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self.send(line, items)

    async def wait_drained(self, limit_bytes: int) -> None:
        while len(self.unsent) + self.in_flight_bytes > limit_bytes:
            self.drained = trio.Event()
            await self.drained.wait()

    async def write(self) -> None:
        try:
            while True:
                while self.unsent or self.unsent_items:  # a batch may have nothing to answer
                    taken, self.unsent = bytes(self.unsent), bytearray()
                    items, self.unsent_items = self.unsent_items, 0
                    self.in_flight_bytes = len(taken)
                    await self.send_bytes(taken)
                    self.in_flight_bytes = 0
                    self.session.release(items)
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
        version, held_items = self.server.chain.version, self.session.held_items
        answer = self.session.answer_line(line, now=trio.current_time())
        items = self.session.held_items - held_items
        if self.session.delay_s:
            nursery.start_soon(self.send_later, answer, items, self.session.delay_s)
        else:
            self.send(answer, items)
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
        outlook: what the server takes for the chain.
    """

    def __init__(self, chain: SimulatedChain, behaviour: Behaviour, *, host: str, port: int) -> None:
        self.chain = chain
        self.host = host
        self.port = port
        self.calls: Counter[str] = Counter()
        self.accepted = 0
        self.turned_away = 0
        self.outlook = Outlook(chain, behaviour)
        self._behaviour = behaviour
        self._usages = UsageBook()
        self._connections: set[_Connection] = set()
        self._published = chain.version
        self._has_new_behaviour = False

    @property
    def connections(self) -> int:
        """How many connections are open; ``accepted`` counts all there ever were, but for those ``turned_away``."""
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
        self.outlook.behave(behaviour)
        for connection in self._connections:
            connection.session.behave(behaviour)

    async def publish(self) -> None:
        """Push what changed in the chain, or in what the server says of it, since the last time."""
        self.push_changes()
        await trio.lowlevel.checkpoint()

    def push_changes(self) -> None:
        """Queue the notices that ``publish`` sends."""
        self.outlook.chain()  # a server without clients sees what happens, too
        is_true_to_chain = self._behaviour.is_honest and not self._has_new_behaviour
        touched = self.chain.touched_since(self._published) if is_true_to_chain else None
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
        """Serve one client until either side hangs up; turn it away if its address has too many connections."""
        usage = self._usages.usage_of(_address_of(stream))
        limit = self._behaviour.max_clients_per_ip
        if limit is not None and len(usage.clients) >= limit:
            self.turned_away += 1
            await self._reset(stream)
            return
        connection = _Connection(self, stream, usage)
        self.accepted += 1
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
            connection.session.end()
            await trio.aclose_forcefully(stream)
            connection.gone.set()

    async def _reset(self, stream: trio.abc.Stream) -> None:
        socket = _socket_of(stream)
        if socket is not None:
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, RESET_AT_CLOSE)
        await trio.aclose_forcefully(stream)


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
