"""Every way in which a session can end: silence, garbage, floods, a broken protocol; and what is kept of it."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import trio
import trio.testing

from lightipn.bitcoin.network import REGTEST
from lightipn.electrum import methods
from lightipn.electrum import session as session_module
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import Connector, Identity
from lightipn.electrum.protocol import KEPT_LINE_BYTES
from lightipn.electrum.session import Session, open_session
from lightipn.errors import ProtocolError, SourceUnavailableError
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import HONEST, SimulatedServer
from lightipn.simulator.session import GARBAGE
from lightipn.simulator.session import Session as HonestSession
from tests.electrum.memory import MemoryConnector
from tests.electrum.places import where
from tests.electrum.pools import named
from tests.electrum.sessions import PING, ending, subscribes

# --- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", [Behaviour(stalls=True), Behaviour(slow_drip=0.5)], ids=["stalls", "slow drip"])
async def test_answer_has_a_deadline(
    server: SimulatedServer, connector: Connector, quick_clock: trio.testing.MockClock, behaviour: Behaviour
) -> None:
    """A server that does not answer, or drips its answer byte by byte, is given up ten seconds after the question."""
    async with open_session(where(server), REGTEST, connector, Identity()) as session:
        assert session.failure is None
    server.behaviour = behaviour
    started = trio.current_time()
    error = await ending(where(server), connector)
    assert isinstance(error, SourceUnavailableError)
    assert str(error) == "answer-timed-out"
    assert 10.0 <= trio.current_time() - started < 10.6


async def test_stalled_bulk_is_given_up_later(
    server: SimulatedServer, connector: Connector, quick_clock: trio.testing.MockClock
) -> None:
    """Bulk calls wait forty seconds for a busy server before the session ends."""

    async def use() -> None:
        async with open_session(where(server), REGTEST, connector, Identity()) as session:
            server.behaviour = Behaviour(stalls=True)
            await session.call_all(subscribes(3))

    began = trio.current_time()
    with pytest.raises(SourceUnavailableError, match="answer-timed-out"):
        await use()
    assert 40.0 <= trio.current_time() - began < 41.0


async def test_garbage_ends_the_session(server: SimulatedServer, connector: Connector) -> None:
    """An answer that is no JSON is misbehaviour."""
    server.behaviour = Behaviour(garbage=True)
    error = await ending(where(server), connector)
    assert isinstance(error, ProtocolError)
    assert str(error) == "line is not JSON"


@pytest.mark.slow
async def test_huge_line_ends_the_session(server: SimulatedServer, connector: Connector) -> None:
    """A line without an end is cut off at the limit."""
    server.behaviour = Behaviour(huge_line=True)
    error = await ending(where(server), connector)
    assert isinstance(error, ProtocolError)
    assert "line has more than" in str(error)


async def test_hang_up_ends_the_session(server: SimulatedServer, connector: Connector) -> None:
    """When the server hangs up, the session ends as unavailable, and takes no more calls."""
    used: list[Session] = []

    async def use() -> None:
        async with open_session(where(server), REGTEST, connector, Identity()) as session:
            used.append(session)
            await server.drop_connections()
            await trio.sleep_forever()

    with pytest.raises(SourceUnavailableError, match=r"closed-by-server|connection-reset") as caught:
        await use()
    assert used[0].failure is caught.value
    with pytest.raises(SourceUnavailableError, match="session-closed"):
        await used[0].call(PING)


async def test_everyone_who_waits_is_told(server: SimulatedServer, connector: Connector, nursery: trio.Nursery) -> None:
    """All callers who wait when a session ends get an error, also those outside of its own tasks."""
    troubles: list[str] = []

    async def ask(session: Session, *, is_urgent: bool) -> None:
        try:
            await session.call_all(subscribes(500), is_urgent=is_urgent)
        except SourceUnavailableError as error:
            troubles.append(str(error))

    async def use() -> None:
        async with open_session(where(server), REGTEST, connector, Identity()) as session:
            server.behaviour = Behaviour(stalls=True)
            for is_urgent in (True, False):
                nursery.start_soon(partial(ask, session, is_urgent=is_urgent))
            await trio.testing.wait_all_tasks_blocked()
            await server.drop_connections()
            await trio.sleep_forever()

    with pytest.raises(SourceUnavailableError, match=r"closed-by-server|connection-reset"):
        await use()
    await trio.testing.wait_all_tasks_blocked()
    assert troubles == ["session-closed"] * 2


# --- what only a scripted server does --------------------------------------------------------------------------------


async def serve_then_say(chain: SimulatedChain, extra: bytes, *, task_status: trio.TaskStatus[ServerAddress]) -> None:
    """Greet honestly, and then say something."""

    async def serve(stream: trio.SocketStream) -> None:
        honest = HonestSession(chain, HONEST, SimulatedServer(chain, HONEST, host="", port=0).calls)
        received = b""
        async for chunk in stream:
            received += chunk
            *lines, received = received.split(b"\n")
            for line in lines:
                answer = honest.answer_line(line)
                await stream.send_all(answer + extra if b"headers.subscribe" in line else answer)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(ServerAddress("127.0.0.1", listener.socket.getsockname()[1], uses_tls=False))
    await trio.serve_listeners(serve, [listener])


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"jsonrpc":"2.0","id":99,"result":null}\n', id="unasked answer"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"result":null}\n', id="second answer"),
        pytest.param(b"[]]\n", id="no JSON"),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","params":[{"hex":"00","height":1}]}\n',
            id="tip of one byte",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","params":[null]}\n',
            id="null tip",
        ),
    ],
)
async def test_broken_protocol_ends_the_session(
    chain: SimulatedChain, connector: Connector, nursery: trio.Nursery, line: bytes
) -> None:
    """What breaks the protocol after a good greeting ends the session as misbehaviour."""
    address: ServerAddress = await nursery.start(serve_then_say, chain, line)
    assert isinstance(await ending(address, connector), ProtocolError)


async def test_unknown_notification_is_harmless(
    chain: SimulatedChain, connector: Connector, nursery: trio.Nursery
) -> None:
    """A notification of a kind that we do not know is handed on, and the session goes on."""
    address: ServerAddress = await nursery.start(
        serve_then_say, chain, b'{"jsonrpc":"2.0","method":"server.hello","params":[1]}\n'
    )
    async with open_session(address, REGTEST, connector, Identity()) as session:
        assert await session.call(PING) is None


# --- floods ------------------------------------------------------------------------------------------------------

MOST_BYTES = 100_000
HOST = "flood.example"


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a minute's notices have a hundred thousand bytes at most."""
    monkeypatch.setattr(session_module, "MAX_NOTIFIED_BYTES_A_MINUTE", MOST_BYTES)
    return


async def flooded(
    memory: MemoryConnector, behaviour: Behaviour, step: Callable[[], object], *, pause_s: float, times: int
) -> Session:
    """Subscribe to tips and ten scripts, and have the server flood so many times; return the session."""
    server = memory.add(HOST)
    async with open_session(named(HOST), REGTEST, memory, Identity()) as session:  # type: ignore[arg-type]  # a fake
        await session.call_all(subscribes(10))
        server.behaviour = behaviour
        for _ in range(times):
            step()
            await server.publish()
            await trio.sleep(pause_s)
        return session


@pytest.mark.usefixtures("low_limit")
@pytest.mark.parametrize("name", ["notice_flood", "header_flood"])
async def test_flood_of_notices_ends_the_session(
    memory: MemoryConnector, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    """A server that never stops pushing, all of it well-formed, is cut off at so many bytes a minute."""
    with pytest.raises(ProtocolError, match=f"more than {MOST_BYTES} bytes of notices within a minute"):
        await flooded(memory, Behaviour(**{name: True}), lambda: None, pause_s=1.0, times=10)
    assert trio.current_time() < 5.0


@pytest.mark.usefixtures("low_limit")
async def test_notices_of_a_busy_day_are_no_flood(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: trio.testing.MockClock
) -> None:
    """Notices count by the minute: more than the limit does no harm where it takes an hour."""
    session = await flooded(memory, Behaviour(), chain.mine, pause_s=5.0, times=600)
    assert session.failure is None
    assert session.tip_height == 612
    assert session._protocol.notified_bytes > 1.5 * MOST_BYTES


@pytest.mark.usefixtures("low_limit")
async def test_answers_are_no_flood(memory: MemoryConnector, autojump_clock: trio.testing.MockClock) -> None:
    """What was asked for may be long: answers are bounded by the questions, and count for nothing here."""
    server = memory.add(HOST)
    server.chain.mine(2000)
    async with open_session(named(HOST), REGTEST, memory, Identity()) as session:  # type: ignore[arg-type]  # a fake
        for _ in range(3):
            await session.call(methods.headers_call(0, 2000))
        assert session.failure is None


@pytest.mark.usefixtures("low_limit")
async def test_padded_notices_count_as_they_came(
    chain: SimulatedChain, connector: Connector, nursery: trio.Nursery
) -> None:
    """A notice is as long as its line: blanks around few words are a flood, too."""
    line = b'{"jsonrpc":"2.0","method":"server.hello","params":[]}' + b" " * (MOST_BYTES // 2) + b"\n"
    address: ServerAddress = await nursery.start(serve_then_say, chain, 2 * line)
    error = await ending(address, connector)
    assert "bytes of notices" in str(error)


# --- what is kept of a broken line -------------------------------------------------------------------------------


async def test_broken_line_is_kept(server: SimulatedServer, connector: Connector) -> None:
    """The error that ends a session carries the line that broke the protocol, as it was sent."""
    server.behaviour = Behaviour(garbage=True)
    error = await ending(where(server), connector)
    assert isinstance(error, ProtocolError)
    assert error.raw == GARBAGE.rstrip(b"\n")


@pytest.mark.parametrize(
    "line",
    [b'{"jsonrpc":"2.0","id":99,"result":"x"}', b"[1, 2]", b"[" + b"1," * 10_000 + b"1]", b"\xff" * 50_000],
    ids=["unasked answer", "no objects", "long", "long and no JSON"],
)
async def test_beginning_of_a_broken_line_is_kept(
    chain: SimulatedChain, connector: Connector, nursery: trio.Nursery, line: bytes
) -> None:
    """Of a long line its beginning is kept, and no more than is worth keeping."""
    address: ServerAddress = await nursery.start(serve_then_say, chain, line + b"\n")
    error = await ending(address, connector)
    assert isinstance(error, ProtocolError)
    assert error.raw == line[:KEPT_LINE_BYTES]
