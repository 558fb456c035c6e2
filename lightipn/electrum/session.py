"""One connection to one Electrum server.

Calls that are made at the same time leave in one batch line; urgent ones (proofs of a payment) overtake bulk ones
(subscriptions of a restart). One task sends, one reads, one keeps the link alive. Whatever goes wrong ends the session
with one ``SourceError``, which every waiting caller gets.

ElectrumX holds an answer back until 1,024 bytes wait or a second has passed since it last sent. A batch that would be
answered in less therefore carries *ballast*: eight headers that we do not need (1,280 hex digits), and is answered at
once: 2 ms instead of 1,002.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.network import Network
from lightipn.electrum import methods
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import Connection, Connector, Identity, trouble_of
from lightipn.electrum.protocol import Answer, Call, ElectrumProtocol, Notification, Refusal
from lightipn.electrum.window import HEAVY_METHODS, MAX_HEAVY_A_BATCH, Window
from lightipn.errors import (
    ProtocolError,
    SourceError,
    SourceMisbehavedError,
    SourceRefusedError,
    SourceUnavailableError,
)

URGENT_DEADLINE_S = 10.0
# On a small board a server reads a whole block for one merkle branch.
DEADLINE_PER_HEAVY_CALL_S = 1.0
BULK_DEADLINE_S = 40.0
PING_INTERVAL_S = 240.0  # servers drop a link that was idle for 600 s
RECEIVE_BYTES = 65536
# A block that touches a hundred thousand watches brings 17 MB of notices.
MAX_NOTIFIED_BYTES_A_MINUTE = 32_000_000
# Answers are bounded by what was asked; this bounds what one server may have us read in all. The first load of a
# hundred thousand used addresses is some 50 MB.
MAX_BYTES_A_MINUTE = 256_000_000
BALLAST_HEADERS = 8
BALLAST_UNTIL_CALLS = 12  # this many answers pass 1,024 bytes by themselves

log = structlog.get_logger("electrum")


class _Waiter:
    """A caller and the calls it waits for."""

    def __init__(self, calls: Sequence[Call], *, is_urgent: bool) -> None:
        self.calls = calls
        self.is_urgent = is_urgent
        self.answers: list[Answer | Refusal | None] = [None] * len(calls)
        self.left = len(calls)
        self.is_abandoned = False
        self.finished = trio.Event()


@dataclass(slots=True)
class _Batch:
    """One line on the wire: which of its ids belong to which place of which waiter; ballast belongs to nobody."""

    places: dict[int, tuple[_Waiter, int]]
    is_urgent: bool
    sent_at: float
    deadline_s: float
    finished: trio.Event = field(default_factory=trio.Event)


class Session:
    """An open, greeted session. Made by ``open_session``."""

    def __init__(self, address: ServerAddress, connection: Connection) -> None:
        self.address = address
        self.name = address.name
        self.identity = connection.identity
        self.network = connection.network
        self.version = methods.ServerVersion("", "")
        self.tip_height = 0
        self.tip_raw = b""
        self.latency_ms: float | None = None
        self.failure: SourceError | None = None
        self._stream = connection.stream
        self._protocol = ElectrumProtocol()
        self._window = Window()
        self._queue: dict[bool, deque[tuple[_Waiter, int]]] = {True: deque(), False: deque()}
        self._batches: dict[int, _Batch] = {}
        self._in_flight = 0
        self._is_closed = False
        self._bell = trio.Event()
        self._sent_at = trio.current_time()
        self._minute_began = trio.current_time()
        self._notified_before = 0
        self._received_bytes = 0
        self._scope = trio.CancelScope()
        self._take: Callable[[Notification], None] = lambda _: None

    def fail(self, error: SourceError) -> None:
        """End the session; the first reason stands, and everyone who waits gets it."""
        if self.failure is None:
            error.source = self.name
            self.failure = error
            self._scope.cancel()

    def ask_less(self) -> None:
        """Make the window smaller: the server refused what was asked."""
        self._window.shrink()

    def take_notifications(self, take: Callable[[Notification], None]) -> None:
        """Hand every notification to ``take``, in the order received, before anything that came after it."""
        self._take = take

    async def call(self, call: Call) -> object:
        """Ask one thing, urgently, and return the raw result.

        Raises:
            SourceRefusedError: the server answered with an error.
            SourceUnavailableError: the session ended; ``failure`` says why.
        """
        (answer,) = await self.call_all([call], is_urgent=True)
        if isinstance(answer, Refusal):
            raise SourceRefusedError(f"server refused {call.method}", code=answer.code, source=self.name)
        return answer.result

    async def call_all(self, calls: Sequence[Call], *, is_urgent: bool = False) -> list[Answer | Refusal]:
        """Ask several things and return all answers in the order of the calls.

        Raises:
            SourceUnavailableError: the session ended; ``failure`` says why.
        """
        if self._is_closed:
            raise SourceUnavailableError("session-closed", source=self.name)
        if not calls:
            return []
        waiter = _Waiter(calls, is_urgent=is_urgent)
        self._queue[is_urgent].extend((waiter, place) for place in range(len(calls)))
        self._bell.set()
        try:
            await waiter.finished.wait()
        finally:
            waiter.is_abandoned = True  # a caller that was cancelled has its calls sent no more
        if waiter.left:
            raise SourceUnavailableError("session-closed", source=self.name) from self.failure
        return [answer for answer in waiter.answers if answer is not None]

    # --- sending ---

    def _take_batch(self) -> tuple[list[tuple[_Waiter, int]], bool] | None:
        """Choose what to send next; None if nothing may be sent now."""
        for is_urgent in (True, False):
            queue = self._queue[is_urgent]
            while queue and queue[0][0].is_abandoned:
                queue.popleft()
            # one place in the window is kept free for what is urgent
            allowed = self._window.in_flight if is_urgent else max(1, self._window.in_flight - 1)
            if not queue or self._in_flight >= allowed:
                continue
            taken: list[tuple[_Waiter, int]] = []
            heavy = 0
            while queue and len(taken) < self._window.batch:
                waiter, place = queue[0]
                if waiter.is_abandoned:
                    queue.popleft()
                    continue
                heavy += waiter.calls[place].method in HEAVY_METHODS
                if heavy > MAX_HEAVY_A_BATCH:
                    break
                taken.append(queue.popleft())
            return taken, is_urgent
        return None

    def _ballast(self, taken: Sequence[object]) -> list[Call]:
        if not self.version.delays_short_answers or len(taken) >= BALLAST_UNTIL_CALLS:
            return []
        return [methods.headers_call(max(0, self.tip_height - BALLAST_HEADERS + 1), BALLAST_HEADERS)]

    async def _send_batches(self, nursery: trio.Nursery) -> None:
        while True:
            chosen = self._take_batch()
            if chosen is None:
                await self._bell.wait()
                self._bell = trio.Event()
                continue
            taken, is_urgent = chosen
            calls = [waiter.calls[place] for waiter, place in taken]
            ids, data = self._protocol.request(calls + self._ballast(taken))
            heavy = sum(call.method in HEAVY_METHODS for call in calls)
            batch = _Batch(
                places=dict(zip(ids, taken, strict=False)),
                is_urgent=is_urgent,
                sent_at=trio.current_time(),
                deadline_s=(URGENT_DEADLINE_S if is_urgent else BULK_DEADLINE_S) + heavy * DEADLINE_PER_HEAVY_CALL_S,
            )
            for request_id in batch.places:
                self._batches[request_id] = batch
            self._protocol.abandon(ids[len(taken) :])  # the ballast
            self._in_flight += 1
            nursery.start_soon(self._watch_batch, batch)
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        self._sent_at = trio.current_time()
        try:
            with trio.fail_after(URGENT_DEADLINE_S):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError) as error:
            self.fail(SourceUnavailableError(trouble_of(error)))

    async def _watch_batch(self, batch: _Batch) -> None:
        """End the session when a batch is not answered in time."""
        with trio.move_on_after(batch.deadline_s) as scope:
            await batch.finished.wait()
        if scope.cancelled_caught:
            self.fail(SourceUnavailableError("answer-timed-out"))

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep_until(self._sent_at + PING_INTERVAL_S)
            if trio.current_time() >= self._sent_at + PING_INTERVAL_S:  # else something was sent meanwhile
                await self.call_all([Call("server.ping")], is_urgent=True)

    # --- receiving ---

    async def _receive(self) -> None:
        while True:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
                if not data:
                    self.fail(SourceUnavailableError("closed-by-server"))
                    return
                self._received_bytes += len(data)
                for message in self._protocol.receive(bytes(data)):
                    self._dispatch(message)
                self._check_flood()
            except SourceMisbehavedError as error:
                self.fail(error)
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                self.fail(SourceUnavailableError(trouble_of(error)))
                return

    def _check_flood(self) -> None:
        """End a link on which notices, or anything, never stop."""
        now = trio.current_time()
        if now - self._minute_began > 60.0:
            self._minute_began, self._notified_before, self._received_bytes = now, self._protocol.notified_bytes, 0
        if self._received_bytes > MAX_BYTES_A_MINUTE:
            raise ProtocolError(f"more than {MAX_BYTES_A_MINUTE} bytes within a minute")
        if self._protocol.notified_bytes - self._notified_before > MAX_NOTIFIED_BYTES_A_MINUTE:
            raise ProtocolError(f"more than {MAX_NOTIFIED_BYTES_A_MINUTE} bytes of notices within a minute")

    def _dispatch(self, message: Answer | Refusal | Notification) -> None:
        if isinstance(message, Notification):
            if message.method == "blockchain.headers.subscribe" and message.params:
                self.tip_height, self.tip_raw = methods.decode_tip(message.params[0])
            self._take(message)
        elif message.request_id is None:
            self._shrink_window()
        else:
            self._settle(message.request_id, message)

    def _settle(self, request_id: int, message: Answer | Refusal) -> None:
        batch = self._batches.pop(request_id)
        waiter, place = batch.places.pop(request_id)
        waiter.answers[place] = message
        waiter.left -= 1
        if not waiter.left:
            waiter.finished.set()
        if not batch.places:
            elapsed_s = trio.current_time() - batch.sent_at
            self.latency_ms = elapsed_s * 1000
            self._window.answered(elapsed_s)
            self._finish(batch)

    def _finish(self, batch: _Batch) -> None:
        batch.finished.set()
        self._in_flight -= 1
        self._bell.set()

    def _shrink_window(self) -> None:
        """Take back everything under way, ask less, and send it again: an error that names no request did it."""
        if not self._window.refused():
            self.fail(SourceRefusedError("server refuses every batch", code=0))
            return
        batches = {id(batch): batch for batch in self._batches.values()}.values()
        self._protocol.abandon(list(self._batches))
        self._batches.clear()
        for batch in batches:
            self._queue[batch.is_urgent].extendleft(reversed(batch.places.values()))
            self._finish(batch)
        log.info("electrum.window_shrunk", server=self.name, batch=self._window.batch)

    def close(self) -> None:
        """Refuse further calls, and wake everyone who still waits."""
        self._is_closed = True
        waiters = [waiter for batch in self._batches.values() for waiter, _ in batch.places.values()]
        waiters += [waiter for queue in self._queue.values() for waiter, _ in queue]
        for waiter in waiters:
            waiter.finished.set()

    # --- opening ---

    async def greet(self, network: Network, *, lowest_tip: int) -> None:
        """Agree on a protocol, check the network, and subscribe to headers.

        Args:
            lowest_tip: a server that is below this height has not caught up with the world.

        Raises:
            SourceMisbehavedError: another network, or nonsense.
            SourceRefusedError: no protocol in common.
            SourceUnavailableError: it is still catching up, or the link broke.
        """
        self.version = methods.decode_version(await self.call(methods.version_call()))
        if not self.version.is_spoken:
            raise SourceRefusedError(f"server speaks protocol {self.version.protocol}, want 1.4 to 1.6", code=0)
        features, tip = await self.call_all(
            [Call("server.features"), Call("blockchain.headers.subscribe")], is_urgent=True
        )
        for answer in (features, tip):
            if isinstance(answer, Refusal):
                raise SourceRefusedError("server refused the greeting", code=answer.code, source=self.name)
        assert isinstance(features, Answer)
        assert isinstance(tip, Answer)
        genesis_hash = methods.decode_genesis_hash(features.result)
        if genesis_hash != network.genesis_hash:
            raise SourceMisbehavedError(
                f"server is on another network (genesis {hex_of(genesis_hash)[:16]}...), want {network.name}"
            )
        self.tip_height, self.tip_raw = methods.decode_tip(tip.result)
        if self.tip_height < lowest_tip:
            raise SourceUnavailableError(f"server is at height {self.tip_height}, want at least {lowest_tip}")

    async def run(self, nursery: trio.Nursery) -> None:
        """Send, receive and keep alive until the session fails."""
        nursery.start_soon(self._receive)
        nursery.start_soon(self._send_batches, nursery)
        nursery.start_soon(self._keep_alive)


@asynccontextmanager
async def open_session(
    address: ServerAddress, network: Network, connector: Connector, known: Identity, *, lowest_tip: int = 0
) -> AsyncIterator[Session]:
    """Connect, greet, and yield a running session; close it in the end.

    Args:
        known: who the server was before; it must be the same.

    Raises:
        SourceError: whatever ended the session, also while the body ran.
    """
    connection = await connector.connect(address, known)
    session = Session(address, connection)
    try:
        async with trio.open_nursery() as nursery:
            session._scope = nursery.cancel_scope
            await session.run(nursery)
            try:
                await session.greet(network, lowest_tip=lowest_tip)
                yield session
            except SourceError as error:
                session.fail(error)
            nursery.cancel_scope.cancel()
    finally:
        session.close()
        await trio.aclose_forcefully(connection.stream)
    if session.failure is not None:
        raise session.failure
