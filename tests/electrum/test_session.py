"""One connection, over real sockets on 127.0.0.1: the greeting, the window, and every way in which it can end."""

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest
import structlog.testing
import trio
import trio.testing

from lightipn.bitcoin.hashes import ScriptHash, Txid, sha256
from lightipn.bitcoin.network import REGTEST
from lightipn.electrum import methods
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import TlsContexts
from lightipn.electrum.protocol import Answer, Call, Notification, Refusal
from lightipn.electrum.session import BALLAST_UNTIL_CALLS, PING_INTERVAL_S, Session, open_session
from lightipn.errors import (
    ProtocolError,
    SourceError,
    SourceMisbehavedError,
    SourceRefusedError,
    SourceUnavailableError,
)
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import HONEST, SimulatedServer, serve_electrum
from lightipn.simulator.session import Session as HonestSession
from tests.electrum.places import SHOP_SCRIPT, closed_port, where

HEADERS = "blockchain.block.headers"
SUBSCRIBE = "blockchain.scripthash.subscribe"
PING = Call("server.ping")


def subscribes(count: int) -> list[Call]:
    """Return so many different subscribes."""
    return [methods.subscribe_call(ScriptHash(sha256(str(number).encode()))) for number in range(count)]


async def ending(address: ServerAddress, contexts: TlsContexts, *, lowest_tip: int = 0) -> SourceError:
    """Open a session that must fail, and return why."""
    with pytest.raises(SourceError) as caught:
        async with open_session(address, REGTEST, contexts, lowest_tip=lowest_tip):
            await trio.sleep_forever()
    return caught.value


# --- greeting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["1.4", "1.4.2", "1.6"])
async def test_greeting_learns_who_the_server_is(
    server: SimulatedServer, chain: SimulatedChain, contexts: TlsContexts, protocol: str
) -> None:
    """A session starts with the server's name, the protocol agreed on, and its tip."""
    server.behaviour = Behaviour(software="Fulcrum 2.1.1", max_protocol=protocol)
    async with open_session(where(server), REGTEST, contexts) as session:
        assert session.version == methods.ServerVersion("Fulcrum 2.1.1", protocol)
        assert (session.tip_height, session.tip_raw) == (12, chain.header_at(12))
        assert session.name == f"127.0.0.1:{server.port}:t"
    assert server.calls == {"server.version": 1, "server.features": 1, "blockchain.headers.subscribe": 1}


async def test_server_of_another_network_is_a_liar(server: SimulatedServer, contexts: TlsContexts) -> None:
    """A server that names another genesis misbehaves: nothing it could say is of use."""
    server.behaviour = Behaviour(wrong_genesis=True)
    error = await ending(where(server), contexts)
    assert isinstance(error, SourceMisbehavedError)
    assert "another network" in str(error)
    assert error.source == f"127.0.0.1:{server.port}:t"


async def test_server_behind_the_world_is_unavailable(server: SimulatedServer, contexts: TlsContexts) -> None:
    """A server below the last checkpoint is still catching up; one that stands at it is good."""
    error = await ending(where(server), contexts, lowest_tip=13)
    assert isinstance(error, SourceUnavailableError)
    assert str(error) == "server is at height 12, want at least 13"
    async with open_session(where(server), REGTEST, contexts, lowest_tip=12) as session:
        assert session.tip_height == 12


# --- trouble -----------------------------------------------------------------------------------------------------


async def test_closed_port_is_named(contexts: TlsContexts) -> None:
    """Where nobody listens, the reason says so in words of ours."""
    error = await ending(ServerAddress("127.0.0.1", await closed_port(), uses_tls=False), contexts)
    assert isinstance(error, SourceUnavailableError)
    assert str(error) == "connection-refused"


async def test_host_name_that_cannot_be_is_unavailable(contexts: TlsContexts) -> None:
    """A host that is no name at all, such as one with an empty label, is unavailable like any that does not resolve."""
    error = await ending(ServerAddress("electrum..example", 50001, uses_tls=False), contexts)
    assert isinstance(error, SourceUnavailableError)


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", [Behaviour(stalls=True), Behaviour(slow_drip=0.5)], ids=["stalls", "slow drip"])
async def test_answer_has_a_deadline(
    server: SimulatedServer, contexts: TlsContexts, quick_clock: trio.testing.MockClock, behaviour: Behaviour
) -> None:
    """A server that does not answer, or drips its answer byte by byte, is given up ten seconds after the question."""
    async with open_session(where(server), REGTEST, contexts) as session:
        assert session.failure is None
    server.behaviour = behaviour
    started = trio.current_time()
    error = await ending(where(server), contexts)
    assert isinstance(error, SourceUnavailableError)
    assert str(error) == "answer-timed-out"
    assert 10.0 <= trio.current_time() - started < 10.6


async def test_stalled_bulk_is_given_up_later(
    server: SimulatedServer, contexts: TlsContexts, quick_clock: trio.testing.MockClock
) -> None:
    """Bulk calls wait forty seconds for a busy server before the session ends."""

    async def use() -> None:
        async with open_session(where(server), REGTEST, contexts) as session:
            server.behaviour = Behaviour(stalls=True)
            await session.call_all(subscribes(3))

    began = trio.current_time()
    with pytest.raises(SourceUnavailableError, match="answer-timed-out"):
        await use()
    assert 40.0 <= trio.current_time() - began < 41.0


async def test_garbage_ends_the_session(server: SimulatedServer, contexts: TlsContexts) -> None:
    """An answer that is no JSON is misbehaviour."""
    server.behaviour = Behaviour(garbage=True)
    error = await ending(where(server), contexts)
    assert isinstance(error, ProtocolError)
    assert str(error) == "line is not JSON"


@pytest.mark.slow
async def test_huge_line_ends_the_session(server: SimulatedServer, contexts: TlsContexts) -> None:
    """A line without an end is cut off at the limit."""
    server.behaviour = Behaviour(huge_line=True)
    error = await ending(where(server), contexts)
    assert isinstance(error, ProtocolError)
    assert "line has more than" in str(error)


async def test_hang_up_ends_the_session(server: SimulatedServer, contexts: TlsContexts) -> None:
    """When the server hangs up, the session ends as unavailable, and takes no more calls."""
    used: list[Session] = []

    async def use() -> None:
        async with open_session(where(server), REGTEST, contexts) as session:
            used.append(session)
            await server.drop_connections()
            await trio.sleep_forever()

    with pytest.raises(SourceUnavailableError, match=r"closed-by-server|connection-reset") as caught:
        await use()
    assert used[0].failure is caught.value
    with pytest.raises(SourceUnavailableError, match="session-closed"):
        await used[0].call(PING)


async def test_everyone_who_waits_is_told(
    server: SimulatedServer, contexts: TlsContexts, nursery: trio.Nursery
) -> None:
    """All callers who wait when a session ends get an error, also those outside of its own tasks."""
    troubles: list[str] = []

    async def ask(session: Session, *, is_urgent: bool) -> None:
        try:
            await session.call_all(subscribes(500), is_urgent=is_urgent)
        except SourceUnavailableError as error:
            troubles.append(str(error))

    async def use() -> None:
        async with open_session(where(server), REGTEST, contexts) as session:
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


# --- what only a scripted server does ----------------------------------------------------------------------------


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
    chain: SimulatedChain, contexts: TlsContexts, nursery: trio.Nursery, line: bytes
) -> None:
    """What breaks the protocol after a good greeting ends the session as misbehaviour."""
    address: ServerAddress = await nursery.start(serve_then_say, chain, line)
    assert isinstance(await ending(address, contexts), ProtocolError)


async def test_unknown_notification_is_harmless(
    chain: SimulatedChain, contexts: TlsContexts, nursery: trio.Nursery
) -> None:
    """A notification of a kind that we do not know is handed on, and the session goes on."""
    address: ServerAddress = await nursery.start(
        serve_then_say, chain, b'{"jsonrpc":"2.0","method":"server.hello","params":[1]}\n'
    )
    async with open_session(address, REGTEST, contexts) as session:
        assert await session.call(PING) is None


# --- calls -------------------------------------------------------------------------------------------------------


async def test_refusal_carries_its_code_and_no_words(server: SimulatedServer, contexts: TlsContexts) -> None:
    """An error answer raises with the server's code and without its text, and the session goes on."""
    async with open_session(where(server), REGTEST, contexts) as session:
        with pytest.raises(SourceRefusedError) as caught:
            await session.call(methods.transaction_call(Txid(bytes(32))))
        assert caught.value.code == 2
        assert "daemon" not in str(caught.value)
        assert await session.call(PING) is None


async def test_answers_come_in_the_order_of_the_calls(
    server: SimulatedServer, chain: SimulatedChain, contexts: TlsContexts
) -> None:
    """Many calls, some of them refused, return one answer each, in the order of the calls."""
    calls = [Call("blockchain.block.header", (height,)) for height in (3, 99, 1)]
    async with open_session(where(server), REGTEST, contexts) as session:
        first, refused, last = await session.call_all(calls)
    assert isinstance(refused, Refusal)
    assert refused.code == 1
    results = [answer.result for answer in (first, last) if isinstance(answer, Answer)]
    assert results == [chain.header_at(3).hex(), chain.header_at(1).hex()]


async def test_notifications_are_handed_on_in_order(
    server: SimulatedServer, chain: SimulatedChain, contexts: TlsContexts
) -> None:
    """A new tip is known to the session before its notice is handed on, and notices keep their order."""
    taken: list[tuple[str, int]] = []
    async with open_session(where(server), REGTEST, contexts) as session:

        def take(notification: Notification) -> None:
            taken.append((notification.method, session.tip_height))

        session.take_notifications(take)
        await session.call_all([methods.subscribe_call(ScriptHash(sha256(SHOP_SCRIPT)))])
        chain.pay(SHOP_SCRIPT, 5)
        chain.mine()
        await server.publish()
        await session.call(PING)
    assert taken == [("blockchain.headers.subscribe", 13), (SUBSCRIBE, 13)]


async def test_urgent_calls_overtake_bulk(server: SimulatedServer, contexts: TlsContexts) -> None:
    """An urgent call is answered while thousands of bulk calls still wait."""
    async with open_session(where(server), REGTEST, contexts) as session, trio.open_nursery() as callers:
        callers.start_soon(session.call_all, subscribes(2000))
        await session.call(PING)
        assert server.calls[SUBSCRIBE] < 1000
    assert server.calls[SUBSCRIBE] == 2000


@pytest.mark.slow
async def test_quiet_link_is_kept_alive(
    server: SimulatedServer, contexts: TlsContexts, quick_clock: trio.testing.MockClock
) -> None:
    """A link without traffic is pinged every four minutes, before the server drops it; traffic spares the ping."""
    async with open_session(where(server), REGTEST, contexts) as session:
        await trio.sleep(PING_INTERVAL_S - 1)
        assert server.calls["server.ping"] == 0
        await session.call_all(subscribes(1))
        await trio.sleep(PING_INTERVAL_S - 1)
        assert server.calls["server.ping"] == 0
        await trio.sleep(2)
        assert server.calls["server.ping"] == 1
        await trio.sleep(2 * PING_INTERVAL_S)
        assert server.calls["server.ping"] == 3


# --- window ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 10, 50])
async def test_batch_limit_shrinks_the_window(server: SimulatedServer, contexts: TlsContexts, limit: int) -> None:
    """A server with a batch limit refuses whole batches; less is asked then, and everything is still answered."""
    server.behaviour = Behaviour(batch_limit=limit, software="Fulcrum 2.1.1")
    with trio.fail_after(10):
        async with open_session(where(server), REGTEST, contexts) as session:
            answers = await session.call_all(subscribes(300))
    assert [answer.result for answer in answers if isinstance(answer, Answer)] == [None] * 300
    assert server.accepted == 1


@pytest.mark.slow
async def test_batch_limit_is_outlived(server: SimulatedServer, contexts: TlsContexts) -> None:
    """A server with a batch limit is used for tens of thousands of calls over one and the same session."""
    server.behaviour = Behaviour(batch_limit=60, software="Fulcrum 2.1.1")
    with trio.fail_after(30):
        async with open_session(where(server), REGTEST, contexts) as session:
            answers = await session.call_all(subscribes(20_000))
    assert len(answers) == 20_000
    assert server.accepted == 1


async def test_transactions_travel_in_small_batches(
    server: SimulatedServer, chain: SimulatedChain, contexts: TlsContexts
) -> None:
    """A batch holds at most 25 raw transactions: a limit of 25 is never met."""
    server.behaviour = Behaviour(batch_limit=25)
    txids = [chain.pay(SHOP_SCRIPT, 1000 + number) for number in range(80)]
    with structlog.testing.capture_logs() as logs:
        async with open_session(where(server), REGTEST, contexts) as session:
            answers = await session.call_all([methods.transaction_call(txid) for txid in txids], is_urgent=True)
    raws = [methods.decode_transaction(answer.result) for answer in answers if isinstance(answer, Answer)]
    assert raws == [chain.transaction(txid) for txid in txids]
    assert not [log for log in logs if log["event"] == "electrum.window_shrunk"]


# --- ballast -----------------------------------------------------------------------------------------------------


async def test_electrumx_gets_ballast(server: SimulatedServer, contexts: TlsContexts) -> None:
    """To an ElectrumX every short batch carries eight headers that nobody needs; a long batch carries none."""
    server.behaviour = Behaviour(software="ElectrumX 1.20.0")
    async with open_session(where(server), REGTEST, contexts) as session:
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


async def test_others_get_no_ballast(server: SimulatedServer, contexts: TlsContexts) -> None:
    """Servers that answer at once are not asked for headers."""
    server.behaviour = Behaviour(software="Fulcrum 2.1.1")
    async with open_session(where(server), REGTEST, contexts) as session:
        await session.call(PING)
    assert server.calls[HEADERS] == 0


# --- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def own_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for 127.0.0.1 that no authority signed; return the file with it and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "electrum.example")])
    born = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(born)
        .not_valid_after(born + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(certificate.public_bytes(pem) + secret)
    return file


async def serve_tls(chain: SimulatedChain, nursery: trio.Nursery, certificate: Path) -> SimulatedServer:
    """Serve a chain over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server: SimulatedServer = await nursery.start(partial(serve_electrum, chain, ssl_context=context))
    return server


def unverified(logs: Sequence[object]) -> list[object]:
    """Return the log lines about certificates."""
    return [log for log in logs if isinstance(log, dict) and log["event"] == "electrum.certificate_unverified"]


async def test_self_signed_certificate_is_accepted_and_logged(
    chain: SimulatedChain, nursery: trio.Nursery, contexts: TlsContexts, own_certificate: Path
) -> None:
    """Most Electrum servers sign their own certificate: it is accepted, and every time it is logged."""
    server = await serve_tls(chain, nursery, own_certificate)
    with structlog.testing.capture_logs() as logs:
        async with open_session(where(server, uses_tls=True), REGTEST, contexts) as session:
            assert await session.call(PING) is None
    assert unverified(logs) == [
        {
            "event": "electrum.certificate_unverified",
            "log_level": "warning",
            "server": f"127.0.0.1:{server.port}:s",
        }
    ]


async def test_certificate_of_a_known_authority_is_not_logged(
    chain: SimulatedChain, nursery: trio.Nursery, own_certificate: Path
) -> None:
    """A certificate that the system verifies causes one connection and no word."""
    server = await serve_tls(chain, nursery, own_certificate)
    contexts = TlsContexts()
    contexts.verifying.load_verify_locations(own_certificate)
    with structlog.testing.capture_logs() as logs:
        async with open_session(where(server, uses_tls=True), REGTEST, contexts) as session:
            assert await session.call(PING) is None
    assert unverified(logs) == []
    assert server.accepted == 1


async def test_plain_port_speaks_no_tls(
    server: SimulatedServer, contexts: TlsContexts, quick_clock: trio.testing.MockClock
) -> None:
    """TLS to a port that speaks plain TCP ends as unavailable, and never falls back to plain."""
    error = await ending(where(server, uses_tls=True), contexts)
    assert isinstance(error, SourceUnavailableError)
    assert str(error) == "tls-failed"
    assert server.calls["server.version"] == 0


# --- cancellation ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("uses_tls", [False, True], ids=["plain", "TLS"])
async def test_cancellation_leaves_nothing_behind(
    chain: SimulatedChain, nursery: trio.Nursery, contexts: TlsContexts, own_certificate: Path, uses_tls: bool
) -> None:
    """Wherever a session is cancelled, from connecting to its calls, no task and no connection stays behind."""
    if uses_tls:
        server = await serve_tls(chain, nursery, own_certificate)
    else:
        server = await nursery.start(serve_electrum, chain)

    async def use() -> None:
        async with open_session(where(server, uses_tls=uses_tls), REGTEST, contexts) as session:
            await session.call(PING)
            await session.call_all(subscribes(150))
            finished.append(True)

    finished: list[bool] = []
    before = trio.lowlevel.current_statistics().tasks_living
    for checkpoints in range(200):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as users:
                users.start_soon(use)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        with trio.fail_after(5):
            while server.connections:
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before
        if finished:
            break
    assert finished, "the last rounds must get to the end, or the first ones proved nothing"
