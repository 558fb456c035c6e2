"""The way to a server: TCP or a SOCKS5 tunnel, and TLS over it, with every trouble named in words of ours.

Who a server is, is decided here. A certificate that the system verifies makes it *CA-signed* for good; any other is
*pinned* when it is first seen. From then on a server must be who it was: another certificate is no server to fall back
from, but an alarm, until the operator says otherwise.
"""

import hashlib
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from functools import cached_property

import trio

from lightipn.electrum.address import ServerAddress
from lightipn.errors import SourceDistrustedError, SourceUnavailableError
from lightipn.proxy import ProxyAddress, ProxyError, open_tunnel

CONNECT_TIMEOUT_S = 10.0
PROXY_CONNECT_TIMEOUT_S = 40.0  # building a Tor circuit takes its time

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of who a server is.

    Args:
        fingerprint: SHA-256 of the certificate pinned at first use; None where none is.
        is_ca_signed: the system verified its certificate once.
    """

    fingerprint: bytes | None = None
    is_ca_signed: bool = False


@dataclass(frozen=True, slots=True)
class Connection:
    """An open way to a server.

    Args:
        network: of the peer's address (IPv4 /16, IPv6 /32), by which servers are told apart; empty behind a proxy.
    """

    stream: Stream
    identity: Identity
    network: str


class Connector:
    """What all connections share: the TLS contexts (making one takes 30 ms), and the way out.

    Args:
        proxy: every connection goes through it; names are resolved by it.
        allow_plaintext: whether plain TCP to a public address is allowed.
    """

    def __init__(self, *, proxy: ProxyAddress | None = None, allow_plaintext: bool = False) -> None:
        self._proxy = proxy
        self._allow_plaintext = allow_plaintext
        self._pinning = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._pinning.check_hostname = False
        self._pinning.verify_mode = ssl.CERT_NONE

    @cached_property
    def _verifying(self) -> ssl.SSLContext:
        # 2 MiB of the system's certificates, which plain TCP and pinned servers do not need.
        return ssl.create_default_context()

    async def connect(self, address: ServerAddress, known: Identity) -> Connection:
        """Connect, and make sure that the server is who it was.

        Raises:
            SourceDistrustedError: another certificate than the one configured, pinned or verified before.
            SourceUnavailableError: refused, unreachable, too slow, no TLS on that port, or plaintext is not allowed.
        """
        try:
            with trio.fail_after(PROXY_CONNECT_TIMEOUT_S if self._proxy else CONNECT_TIMEOUT_S):
                if not address.uses_tls:
                    return await self._connect_plain(address)
                return await self._connect_tls(address, known)
        except (OSError, UnicodeError, trio.BrokenResourceError, trio.TooSlowError) as error:
            raise SourceUnavailableError(trouble_of(error), source=address.name) from error

    async def _connect_plain(self, address: ServerAddress) -> Connection:
        stream, peer = await self._open(address)
        if not self._allow_plaintext and not address.is_onion and (peer is None or peer.is_global):
            await trio.aclose_forcefully(stream)
            raise SourceUnavailableError(
                "plain TCP to a public address; use TLS, or allow it with [electrum] allow_plaintext",
                source=address.name,
            )
        return Connection(stream, Identity(), _network_of(peer))

    async def _connect_tls(self, address: ServerAddress, known: Identity) -> Connection:
        pinned = address.fingerprint or known.fingerprint
        if pinned is None:
            try:
                stream, network = await self._handshake(address, self._verifying)
                return Connection(stream, Identity(is_ca_signed=True), network)
            except trio.BrokenResourceError as error:
                if not isinstance(error.__cause__, ssl.SSLCertVerificationError):
                    raise
                if known.is_ca_signed:
                    raise SourceDistrustedError(
                        "certificate-changed: the system verified it before, and does not now", source=address.name
                    ) from error
        stream, network = await self._handshake(address, self._pinning)
        certificate = stream.getpeercert(binary_form=True)
        fingerprint = hashlib.sha256(certificate or b"").digest()
        if pinned is not None and fingerprint != pinned:
            await trio.aclose_forcefully(stream)
            raise SourceDistrustedError(
                f"certificate-changed: fingerprint is {fingerprint.hex()}, want {pinned.hex()}", source=address.name
            )
        return Connection(stream, Identity(fingerprint=fingerprint), network)

    async def _handshake(
        self, address: ServerAddress, context: ssl.SSLContext
    ) -> tuple[trio.SSLStream[trio.SocketStream], str]:
        stream, peer = await self._open(address)
        tls = trio.SSLStream(stream, context, server_hostname=address.host)
        try:
            await tls.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return tls, _network_of(peer)

    async def _open(self, address: ServerAddress) -> tuple[trio.SocketStream, IpAddress | None]:
        """Return a stream to the server, and the address that it has; None behind a proxy, where nobody knows."""
        if self._proxy is None and address.is_onion:
            raise SourceUnavailableError("an onion server needs [electrum] proxy", source=address.name)
        if self._proxy is None:
            stream = await trio.open_tcp_stream(address.host, address.port)
        else:
            try:
                stream = await trio.open_tcp_stream(self._proxy.host, self._proxy.port)
            except OSError as error:
                raise ProxyError("proxy-unreachable") from error
        try:
            if self._proxy is None:
                return stream, ipaddress.ip_address(stream.socket.getpeername()[0].partition("%")[0])
            await open_tunnel(stream, address.host, address.port, proxy=self._proxy, isolation=address.name)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream, None


def _network_of(peer: IpAddress | None) -> str:
    if peer is None:
        return ""
    return str(ipaddress.ip_network((peer, 16 if peer.version == 4 else 32), strict=False))


def trouble_of(error: BaseException) -> str:
    """Name a transport trouble in words of ours."""
    cause: BaseException = error
    while not isinstance(cause, ProxyError) and (cause.__cause__ is not None or isinstance(cause, BaseExceptionGroup)):
        # Trio tries every address of a name and reports the failures as a group
        cause = cause.exceptions[-1] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause
    match cause:
        case trio.TooSlowError():
            return "timed-out"
        case ProxyError():
            return cause.code
        case ConnectionRefusedError():
            return "connection-refused"
        case ConnectionResetError() | BrokenPipeError():
            return "connection-reset"
        case ssl.SSLError():
            return "tls-failed"
        case socket.gaierror() | UnicodeError():
            return "name-not-found"
        case _:
            return "connection-failed"
