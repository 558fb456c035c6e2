"""The ways to a server: what may go over plain TCP, which network it is in, and what goes through a proxy."""

import errno
import hashlib
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.network import REGTEST
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import PROXY_CONNECT_TIMEOUT_S, Connection, Connector, Identity
from lightipn.electrum.protocol import Call
from lightipn.electrum.session import open_session
from lightipn.errors import SourceUnavailableError
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from tests.delivery.certificates import self_signed
from tests.electrum.places import closed_port, where
from tests.socks_server import CONNECTION_REFUSED, HOST_UNREACHABLE, SocksRequest, open_socks_server

ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
ANYWHERE = ServerAddress("electrum.example", 50001, uses_tls=False)
Lead = Callable[[str, int], None]


class FarSocket:
    """A socket that says its peer is somewhere else."""

    def __init__(self, socket: object, peer: str) -> None:
        self._socket = socket
        self._peer = peer

    def __getattr__(self, name: str) -> object:
        """Leave all else to the socket."""
        return getattr(self._socket, name)

    def getpeername(self) -> tuple[str, int]:
        """Return the made-up address."""
        return self._peer, 50001


@pytest.fixture
def lead(monkeypatch: pytest.MonkeyPatch) -> Lead:
    """Have every connection lead to a port of this machine, and seem to lead to an address far away."""
    connect = trio.open_tcp_stream

    def lead_to(peer: str, port: int) -> None:
        async def open_far_stream(host: str, _port: int) -> trio.SocketStream:
            stream = await connect("127.0.0.1", port)
            stream.socket = FarSocket(stream.socket, peer)  # type: ignore[assignment]  # it behaves like one
            return stream

        monkeypatch.setattr(trio, "open_tcp_stream", open_far_stream)

    return lead_to


async def closed(connection: Connection) -> Connection:
    """Close a connection and return it."""
    await trio.aclose_forcefully(connection.stream)
    return connection


# --- plain TCP ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["93.184.216.34", "2606:2800:220:1::1", "1.1.1.1"])
async def test_plain_tcp_to_a_public_address_is_refused(
    server: SimulatedServer, connector: Connector, lead: Lead, peer: str
) -> None:
    """Whoever stands in between reads and changes plain TCP, so nothing is said over it to a public address."""
    lead(peer, server.port)
    with pytest.raises(SourceUnavailableError, match="allow_plaintext") as caught:
        async with open_session(ANYWHERE, REGTEST, connector, Identity()):
            pass
    assert caught.value.source == ANYWHERE.name
    while server.connections:
        await trio.lowlevel.checkpoint()
    assert server.calls == {}


async def test_operator_may_allow_plain_tcp(server: SimulatedServer, lead: Lead) -> None:
    """With ``allow_plaintext`` plain TCP to a public address works like any other."""
    lead("93.184.216.34", server.port)
    async with open_session(ANYWHERE, REGTEST, Connector(allow_plaintext=True), Identity()) as session:
        assert session.tip_height == 12
        assert session.identity == Identity()


@pytest.mark.parametrize(
    "peer", ["127.0.0.1", "10.1.2.3", "192.168.0.7", "172.16.9.9", "100.64.0.1", "::1", "fd00::1", "fe80::1%eth0"]
)
async def test_plain_tcp_at_home_is_allowed(
    server: SimulatedServer, connector: Connector, lead: Lead, peer: str
) -> None:
    """The operator's own server, on this machine or in this network, needs no TLS."""
    lead(peer, server.port)
    async with open_session(ANYWHERE, REGTEST, connector, Identity()) as session:
        assert session.tip_height == 12


async def test_mapped_public_address_is_public(server: SimulatedServer, connector: Connector, lead: Lead) -> None:
    """A public IPv4 address in IPv6 clothes is public."""
    lead("::ffff:93.184.216.34", server.port)
    with pytest.raises(SourceUnavailableError, match="allow_plaintext"):
        await closed(await connector.connect(ANYWHERE, Identity()))


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("93.184.216.34", "93.184.0.0/16"),
        ("93.184.7.7", "93.184.0.0/16"),
        ("93.185.216.34", "93.185.0.0/16"),
        ("2606:2800:220:1::1", "2606:2800::/32"),
        ("2606:2801::1", "2606:2801::/32"),
        ("fe80::1%eth0", "fe80::/32"),
    ],
)
async def test_network_is_that_of_the_peer(server: SimulatedServer, lead: Lead, peer: str, network: str) -> None:
    """A server's network is a /16 of IPv4 or a /32 of IPv6, of the address it has and not of its name."""
    lead(peer, server.port)
    connection = await closed(await Connector(allow_plaintext=True).connect(ANYWHERE, Identity()))
    assert connection.network == network


@pytest.mark.parametrize("uses_tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("allow_plaintext", [False, True], ids=["strict", "lax"])
async def test_onion_server_needs_a_proxy(allow_plaintext: bool, uses_tls: bool) -> None:
    """Without a proxy nobody is asked where an onion server is: the name itself would give it away."""
    connector = Connector(allow_plaintext=allow_plaintext)
    with watching_sockets() as seen, pytest.raises(SourceUnavailableError, match=r"needs \[electrum\] proxy"):
        await connector.connect(ServerAddress(ONION, 50001, uses_tls=uses_tls), Identity())
    assert (seen.resolved, seen.connected) == (set(), set())


class VanishedSocket(FarSocket):
    """A socket whose peer has hung up already."""

    def getpeername(self) -> tuple[str, int]:
        """Fail as the system does."""
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")


@pytest.mark.parametrize("uses_tls", [False, True], ids=["plain", "TLS"])
async def test_server_that_hangs_up_at_once_leaves_no_socket(
    chain: SimulatedChain,
    connector: Connector,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    uses_tls: bool,
) -> None:
    """A server that resets a connection before anything was said, as Fulcrum does above its limit, costs no socket."""
    context = self_signed(tmp_path, ["127.0.0.1"])[0] if uses_tls else None
    server: SimulatedServer = await nursery.start(partial(serve_electrum, chain, ssl_context=context))
    opened: list[trio.SocketStream] = []
    connect = trio.open_tcp_stream

    async def open_vanishing_stream(host: str, port: int) -> trio.SocketStream:
        stream = await connect(host, port)
        stream.socket = VanishedSocket(stream.socket, "")  # type: ignore[assignment]  # it behaves like one
        opened.append(stream)
        return stream

    monkeypatch.setattr(trio, "open_tcp_stream", open_vanishing_stream)
    with pytest.raises(SourceUnavailableError, match="connection-failed"):
        await connector.connect(where(server, uses_tls=uses_tls), Identity(is_ca_signed=False))
    is_open = [stream.socket.fileno() >= 0 for stream in opened]
    for stream in opened:
        await trio.aclose_forcefully(stream)
    assert not any(is_open)


# --- through a proxy ---------------------------------------------------------------------------------------------


class Seen:
    """What this process asked of the system's network.

    Attributes:
        resolved: hosts handed to ``getaddrinfo``; literal addresses are handed to it, too.
        connected: where sockets were connected to.
    """

    def __init__(self) -> None:
        self.resolved: set[str] = set()
        self.connected: set[tuple[str, int]] = set()


_watchers: list[Seen] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    for seen in _watchers:
        if event in ("socket.getaddrinfo", "socket.gethostbyname"):
            seen.resolved.add(str(arguments[0]))
        elif event == "socket.connect":
            seen.connected.add(tuple(arguments[1])[:2])  # type: ignore[arg-type]  # an address of TCP


sys.addaudithook(_audit)  # stays for good, and does nothing while nobody watches


@contextmanager
def watching_sockets() -> Iterator[Seen]:
    """Watch what this process resolves and connects to, in whatever way."""
    seen = Seen()
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)


@pytest.mark.parametrize("host", ["electrum.example", ONION, "203.0.113.7", "2001:db8::7"])
async def test_nothing_bypasses_the_proxy(
    chain: SimulatedChain, nursery: trio.Nursery, tmp_path: Path, host: str
) -> None:
    """With a proxy every connection is made by it, to the host as it is written, and names are resolved by nobody."""
    context, _ = self_signed(tmp_path, ["electrum.example"])
    server: SimulatedServer = await nursery.start(partial(serve_electrum, chain, ssl_context=context))
    address = ServerAddress(host, 50002, uses_tls=True)
    async with open_socks_server({host: server.port}) as socks:
        connector = Connector(proxy=socks.address)
        with watching_sockets() as seen:
            async with open_session(address, REGTEST, connector, Identity()) as session:
                assert await session.call(Call("server.ping")) is None
                identity = session.identity
    assert identity.fingerprint is not None
    is_name = "example" in host or "onion" in host
    user = hashlib.sha256(address.name.encode()).hexdigest()
    asked = SocksRequest(host=host, port=50002, is_name=is_name, user=user, password="lightipn")
    assert socks.requests == [asked, asked]  # the second one to pin its certificate
    assert socks.connections == server.accepted == 2
    assert seen.resolved == {"127.0.0.1"}
    assert seen.connected == {("127.0.0.1", socks.port), ("127.0.0.1", server.port)}  # the latter by the proxy


async def test_each_server_has_a_circuit_of_its_own(server: SimulatedServer) -> None:
    """Each server is reached under a user of its own, always the same, so that Tor gives each its own circuit."""
    addresses = [ServerAddress(host, 50001, uses_tls=False) for host in ("a.onion", "b.onion", "a.onion")]
    addresses.append(ServerAddress("a.onion", 50002, uses_tls=False))
    async with open_socks_server(dict.fromkeys(("a.onion", "b.onion"), server.port)) as socks:
        connector = Connector(proxy=socks.address)
        for address in addresses:
            await closed(await connector.connect(address, Identity()))
    first, second, again, other_port = [request.user for request in socks.requests]
    assert first == again
    assert len({first, second, other_port}) == 3


async def test_proxys_own_login_is_kept(server: SimulatedServer) -> None:
    """Where the operator gave the proxy's user and password, those are used."""
    async with open_socks_server({"a.onion": server.port}, login=("alice", "hunter2")) as socks:
        address = ServerAddress("a.onion", 50001, uses_tls=False)
        await closed(await Connector(proxy=socks.address).connect(address, Identity()))
    assert [(request.user, request.password) for request in socks.requests] == [("alice", "hunter2")]


async def test_onion_server_needs_no_tls(server: SimulatedServer) -> None:
    """An onion service is encrypted and authenticated by its name; behind a proxy nobody's network is known."""
    async with open_socks_server({ONION: server.port}) as socks:
        connector = Connector(proxy=socks.address)
        async with open_session(ServerAddress(ONION, 50001, uses_tls=False), REGTEST, connector, Identity()) as session:
            assert (session.tip_height, session.network) == (12, "")


@pytest.mark.parametrize("host", ["electrum.example", "192.168.0.7", "127.0.0.1"])
async def test_plain_tcp_through_a_proxy_is_refused(server: SimulatedServer, host: str) -> None:
    """Whoever runs the proxy's other end reads along: plain TCP through it is refused for all but onion servers."""
    address = ServerAddress(host, 50001, uses_tls=False)
    async with open_socks_server({host: server.port}) as socks:
        with pytest.raises(SourceUnavailableError, match="allow_plaintext"):
            async with open_session(address, REGTEST, Connector(proxy=socks.address), Identity()):
                pass
        assert server.calls == {}
        async with open_session(
            address, REGTEST, Connector(proxy=socks.address, allow_plaintext=True), Identity()
        ) as session:
            assert session.tip_height == 12


async def test_verified_certificate_through_a_proxy(
    chain: SimulatedChain, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy a certificate is verified for the name that was asked for, as without one."""
    context, file = self_signed(tmp_path, ["electrum.example"])
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    server: SimulatedServer = await nursery.start(partial(serve_electrum, chain, ssl_context=context))
    async with open_socks_server({"electrum.example": server.port, "other.example": server.port}) as socks:
        connector = Connector(proxy=socks.address)
        found = [
            (await closed(await connector.connect(ServerAddress(host, 50002, uses_tls=True), Identity()))).identity
            for host in ("electrum.example", "other.example")
        ]
    assert found == [
        Identity(is_ca_signed=True),
        Identity(hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read_text())).digest()),
    ]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(HOST_UNREACHABLE, "proxy-host-unreachable"), (CONNECTION_REFUSED, "proxy-connection-refused")],
)
async def test_proxys_trouble_is_named(reply: int, reason: str) -> None:
    """What the proxy could not do is told in words of ours, and the connection to it is closed."""
    async with open_socks_server() as socks:
        socks.reply = reply
        with pytest.raises(SourceUnavailableError, match=f"^{reason}$"):
            await Connector(proxy=socks.address).connect(ServerAddress(ONION, 1, uses_tls=True), Identity())
        with trio.fail_after(5):
            await socks.closed_by_client.wait()


async def test_proxy_that_is_gone_is_named(server: SimulatedServer) -> None:
    """Where the proxy itself does not listen, nothing is tried without it."""
    async with open_socks_server() as socks:
        pass
    gone = Connector(proxy=socks.address, allow_plaintext=True)
    with pytest.raises(SourceUnavailableError, match=r"^proxy-unreachable$"):
        await gone.connect(where(server), Identity())
    assert server.accepted == 0


async def test_proxy_that_hangs_is_left(quick_clock: trio.testing.MockClock) -> None:
    """A tunnel gets forty seconds, since building a circuit takes its time, and no more."""
    async with open_socks_server() as socks:
        socks.hangs_at = "request"
        began = trio.current_time()
        with pytest.raises(SourceUnavailableError, match=r"^timed-out$"):
            await Connector(proxy=socks.address).connect(ServerAddress(ONION, 1, uses_tls=True), Identity())
        assert PROXY_CONNECT_TIMEOUT_S <= trio.current_time() - began < PROXY_CONNECT_TIMEOUT_S + 0.5
        await socks.closed_by_client.wait()


async def test_dead_server_behind_a_proxy() -> None:
    """A server that the proxy cannot reach is unavailable like one that is dead."""
    async with open_socks_server({"a.onion": await closed_port()}) as socks:
        with pytest.raises(SourceUnavailableError, match=r"^proxy-connection-refused$"):
            await Connector(proxy=socks.address).connect(ServerAddress("a.onion", 1, uses_tls=False), Identity())
