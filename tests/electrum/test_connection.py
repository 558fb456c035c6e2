"""Who a server is: pins, verified certificates and fingerprints, over TLS on 127.0.0.1."""

import hashlib
import ssl
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.network import REGTEST
from lightipn.electrum.address import ServerAddress, parse_server_address
from lightipn.electrum.connection import CONNECT_TIMEOUT_S, Connector, Identity
from lightipn.electrum.session import open_session
from lightipn.errors import SourceDistrustedError, SourceUnavailableError
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from tests.delivery.certificates import self_signed
from tests.electrum.places import closed_port, where

Certificate = tuple[ssl.SSLContext, Path]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for 127.0.0.1 that nobody signed but itself: a server's context, and the file to trust."""
    return self_signed(tmp_path_factory.mktemp("first"), ["127.0.0.1"])


@pytest.fixture(scope="module")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Another certificate for 127.0.0.1, with another key."""
    return self_signed(tmp_path_factory.mktemp("second"), ["127.0.0.1"])


@pytest.fixture
def trusting(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Connector:
    """A connector of a system that trusts the first certificate, and not the other one."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))  # read by OpenSSL when the context is made
    return Connector()


def fingerprint_of(certificate: Certificate) -> bytes:
    """Return the SHA-256 of a certificate."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate[1].read_text())).digest()


class Listener:
    """Speaks TLS and keeps what it is told, which is nothing while nobody trusts it.

    Attributes:
        heard: all bytes after the handshakes.
        accepted: how many connections came.
        closed: how many of them are over.
    """

    def __init__(self, certificate: Certificate) -> None:
        self.heard = b""
        self.accepted = self.closed = 0
        self.port = 0
        self._context = certificate[0]

    @property
    def address(self) -> ServerAddress:
        """Where it listens."""
        return ServerAddress("127.0.0.1", self.port, uses_tls=True)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        self.accepted += 1
        try:
            async for part in trio.SSLStream(stream, self._context, server_side=True):
                self.heard += part
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)
            self.closed += 1

    async def wait_closed(self) -> None:
        """Wait until every connection is over."""
        with trio.fail_after(10):
            while self.closed < self.accepted:
                await trio.lowlevel.checkpoint()


async def listening(nursery: trio.Nursery, certificate: Certificate) -> Listener:
    """Listen with a certificate."""
    listener = Listener(certificate)
    (socket,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener.port = socket.socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, listener.serve, [socket])
    return listener


async def identity_of(connector: Connector, address: ServerAddress, known: Identity | None = None) -> Identity:
    """Connect, and return who the server turned out to be."""
    connection = await connector.connect(address, known or Identity())
    await trio.aclose_forcefully(connection.stream)
    return connection.identity


async def alarm(connector: Connector, listener: Listener, address: ServerAddress, known: Identity) -> str:
    """Connect to a server that is not who it was, through a whole session; return what was found."""
    with pytest.raises(SourceDistrustedError) as caught:
        async with open_session(address, REGTEST, connector, known):
            pass
    await listener.wait_closed()
    assert listener.heard == b""
    assert caught.value.source == address.name
    return str(caught.value)


# --- pins --------------------------------------------------------------------------------------------------------


async def test_first_use_pins_a_certificate(
    connector: Connector, nursery: trio.Nursery, certificate: Certificate
) -> None:
    """Most Electrum servers sign their own certificate: the first one seen is the server's from then on."""
    listener = await listening(nursery, certificate)
    assert await identity_of(connector, listener.address) == Identity(fingerprint_of(certificate))


async def test_pinned_certificate_is_accepted_again(
    connector: Connector, nursery: trio.Nursery, certificate: Certificate
) -> None:
    """After a restart the pinned certificate is who the server is, and costs one connection instead of two."""
    listener = await listening(nursery, certificate)
    pinned = await identity_of(connector, listener.address)
    assert listener.accepted == 2
    assert await identity_of(Connector(), listener.address, pinned) == pinned
    assert listener.accepted == 3


async def test_another_certificate_is_an_alarm(
    connector: Connector, nursery: trio.Nursery, certificate: Certificate, other_certificate: Certificate
) -> None:
    """A server that shows another certificate than the pinned one hears not one byte of ours."""
    listener = await listening(nursery, other_certificate)
    reason = await alarm(connector, listener, listener.address, Identity(fingerprint_of(certificate)))
    assert listener.accepted == 1
    assert reason == (
        f"certificate-changed: fingerprint is {fingerprint_of(other_certificate).hex()},"
        f" want {fingerprint_of(certificate).hex()}"
    )


async def test_pin_holds_against_a_verified_certificate(
    trusting: Connector, nursery: trio.Nursery, certificate: Certificate, other_certificate: Certificate
) -> None:
    """A server that was pinned stays pinned: a certificate that the system verifies is another one all the same."""
    listener = await listening(nursery, certificate)
    await alarm(trusting, listener, listener.address, Identity(fingerprint_of(other_certificate)))


async def test_pinned_server_is_used(
    chain: SimulatedChain, connector: Connector, nursery: trio.Nursery, certificate: Certificate
) -> None:
    """Over a pinned certificate a session works like any, and knows who it speaks to."""
    serve = partial(serve_electrum, chain, ssl_context=certificate[0])
    server: SimulatedServer = await nursery.start(serve)
    async with open_session(where(server, uses_tls=True), REGTEST, connector, Identity()) as session:
        assert session.tip_height == 12
        assert session.identity == Identity(fingerprint_of(certificate))
        assert session.network == "127.0.0.0/16"


# --- verified certificates ---------------------------------------------------------------------------------------


async def test_verified_certificate_is_not_pinned(
    trusting: Connector, nursery: trio.Nursery, certificate: Certificate
) -> None:
    """What the system verifies needs no pin and no second connection, so that it may be renewed."""
    listener = await listening(nursery, certificate)
    identity = await identity_of(trusting, listener.address)
    assert identity == Identity(is_ca_signed=True)
    assert await identity_of(trusting, listener.address, identity) == identity
    assert listener.accepted == 2


async def test_verified_server_never_falls_back_to_a_pin(
    trusting: Connector, nursery: trio.Nursery, other_certificate: Certificate
) -> None:
    """A server whose certificate was verified once must be verified from then on; any other certificate is an alarm."""
    listener = await listening(nursery, other_certificate)
    reason = await alarm(trusting, listener, listener.address, Identity(is_ca_signed=True))
    assert listener.accepted == 1
    assert reason == "certificate-changed: the system verified it before, and does not now"


async def test_certificate_for_another_name_is_not_verified(
    trusting: Connector, nursery: trio.Nursery, certificate: Certificate
) -> None:
    """A trusted certificate counts only for the host that was asked for; for another it is merely a pin."""
    listener = await listening(nursery, certificate)
    address = ServerAddress("localhost", listener.port, uses_tls=True)
    assert await identity_of(trusting, address) == Identity(fingerprint_of(certificate))
    await alarm(trusting, listener, address, Identity(is_ca_signed=True))


# --- fingerprints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [Identity(), Identity(b"\1" * 32), Identity(is_ca_signed=True)], ids=repr)
async def test_configured_fingerprint_decides(
    connector: Connector, nursery: trio.Nursery, certificate: Certificate, known: Identity
) -> None:
    """The fingerprint that the operator wrote is the certificate's, whatever was known of the server before."""
    listener = await listening(nursery, certificate)
    text = f"ssl://127.0.0.1:{listener.port}#{fingerprint_of(certificate).hex()}"
    identity = await identity_of(connector, parse_server_address(text), known)
    assert identity == Identity(fingerprint_of(certificate))
    assert listener.accepted == 1


async def test_wrong_configured_fingerprint_is_an_alarm(
    trusting: Connector, nursery: trio.Nursery, certificate: Certificate, other_certificate: Certificate
) -> None:
    """A certificate with another fingerprint than the configured one is refused, even if the system verifies it."""
    listener = await listening(nursery, certificate)
    text = f"127.0.0.1:{listener.port}:s#{fingerprint_of(other_certificate).hex()}"
    for known in (Identity(), Identity(is_ca_signed=True), Identity(fingerprint_of(certificate))):
        await alarm(trusting, listener, parse_server_address(text), known)


# --- trouble -----------------------------------------------------------------------------------------------------


async def test_plain_port_speaks_no_tls(
    server: SimulatedServer, connector: Connector, quick_clock: trio.testing.MockClock
) -> None:
    """TLS to a port that speaks plain TCP ends as unavailable, and never falls back to plain."""
    for known in (Identity(), Identity(b"\1" * 32), Identity(is_ca_signed=True)):
        with pytest.raises(SourceUnavailableError, match=r"^tls-failed$"):
            await connector.connect(where(server, uses_tls=True), known)
    assert server.calls == {}


@pytest.mark.parametrize("known", [Identity(), Identity(b"\1" * 32)], ids=["new", "pinned"])
async def test_server_that_hangs_in_the_handshake_is_left(
    connector: Connector, nursery: trio.Nursery, quick_clock: trio.testing.MockClock, known: Identity
) -> None:
    """A server that accepts and says nothing is given up after ten seconds, however often it was asked."""

    async def hang(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, hang, [listener])
    address = ServerAddress("127.0.0.1", listener.socket.getsockname()[1], uses_tls=True)
    began = trio.current_time()
    with pytest.raises(SourceUnavailableError, match=r"^timed-out$"):
        await connector.connect(address, known)
    assert CONNECT_TIMEOUT_S <= trio.current_time() - began < CONNECT_TIMEOUT_S + 0.5


@pytest.mark.parametrize("uses_tls", [False, True], ids=["plain", "TLS"])
async def test_closed_port_is_named(connector: Connector, uses_tls: bool) -> None:
    """Where nobody listens, the reason says so in words of ours, and which server it was."""
    address = ServerAddress("127.0.0.1", await closed_port(), uses_tls=uses_tls)
    with pytest.raises(SourceUnavailableError, match=r"^connection-refused$") as caught:
        await connector.connect(address, Identity())
    assert caught.value.source == address.name


@pytest.mark.parametrize("uses_tls", [False, True], ids=["plain", "TLS"])
async def test_host_name_that_cannot_be_is_unavailable(connector: Connector, uses_tls: bool) -> None:
    """A host that is no name at all, such as one with an empty label, is unavailable like any that does not resolve."""
    with pytest.raises(SourceUnavailableError, match=r"^name-not-found$"):
        await connector.connect(ServerAddress("electrum..example", 50001, uses_tls=uses_tls), Identity())


@pytest.mark.slow
async def test_cancelled_handshakes_leave_no_connection(
    connector: Connector, nursery: trio.Nursery, certificate: Certificate
) -> None:
    """Wherever connecting is cancelled, no connection stays behind."""
    listener = await listening(nursery, certificate)
    done = False
    for checkpoints in range(300):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as users:
                users.start_soon(identity_of, connector, listener.address)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                done = not users.child_tasks
                scope.cancel()
        await listener.wait_closed()
        if done:
            break
    assert done, "the last rounds must get to the end, or the first ones proved nothing"
