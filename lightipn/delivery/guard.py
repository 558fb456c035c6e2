"""Which addresses a callback may reach: server-side request forgery ends here.

A shop names the URL, so the host is hostile until checked. The guard resolves it, refuses it if *any* record is not a
public address, and connects to exactly the address that it checked: a second lookup could answer something else. The
request itself keeps the name, so Host, SNI and the certificate check stay on it.

With a proxy no name is resolved here; where it may lead is the proxy's to judge. An address in any spelling, and
``localhost``, is judged as before, and what the operator allows is a neighbour and needs no proxy.

    host                        without a proxy          with a proxy
    name                        resolved, all checked    through it, unresolved
    name.onion                  refused                  through it
    address in allow_networks   direct                   direct
    other public address        direct                   through it
    any other address           refused                  refused
"""

import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import httpcore
import trio

from lightipn.errors import RequestError
from lightipn.proxy import ProxyAddress, ProxyError, open_tunnel

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
# A lookup goes on in its thread after its attempt has given up, up to half a minute with a dead name server: several
# times more threads than attempts, so that dead names do not keep the others waiting.
DNS_THREADS = 256
CONNECT_SHARE_S = 3.0
MAX_URL_CHARS = 2048
# What is_global lets through and must not be reached: addresses that embed an IPv4 address (NAT64, 6to4, Teredo), and
# the deprecated 6to4 relay.
_TUNNELS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "2001::/32",
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",  # SIIT
        "192.88.99.0/24",
        "fec0::/10",  # site-local, deprecated
        "3fff::/20",  # documentation since 2024
    )
)


class AnswerTooLongError(Exception):
    """A receiver sent more than anybody would read."""


class RefusedAddressError(Exception):
    """A host resolves to an address that callbacks must not reach."""


class AddressRules:
    """Public addresses, and the networks that the operator allows besides.

    Args:
        allow_networks: ``[delivery] allow_networks``.
        proxy: ``[delivery] proxy``, the one that the sender gets too; None refuses onion services.
    """

    def __init__(self, allow_networks: Iterable[IpNetwork] = (), proxy: ProxyAddress | None = None) -> None:
        self._allowed = tuple(allow_networks)
        self.proxy = proxy

    def allows(self, ip: Ip) -> bool:
        """Tell whether the operator named this address's network."""
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        return any((mapped or ip) in network for network in self._allowed)

    def permits(self, ip: Ip) -> bool:
        """Tell whether a callback may connect to this address."""
        if self.allows(ip):
            return True
        if any(ip in network for network in _TUNNELS):
            return False
        return ip.is_global and not ip.is_multicast

    def check_url(self, url: str) -> None:
        """Check what can be known of a callback URL when it is registered.

        A host name is judged at each attempt; a literal address, or ``localhost``, is judged now.

        Raises:
            RequestError: ``bad-url``.
        """
        if len(url) > MAX_URL_CHARS:
            raise _refusal(f"has {len(url)} characters, want at most {MAX_URL_CHARS}")
        if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
            raise _refusal("has blanks, control or non-ASCII characters; percent-encode them")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _refusal("cannot be read, want http://host/path or https://host/path") from None
        if parts.scheme not in ("http", "https"):
            raise _refusal("has a scheme other than http and https")
        if not parts.hostname:
            raise _refusal("names no host")
        if parts.username is not None or parts.password is not None:
            raise _refusal("carries credentials; put a secret into the query instead")
        if parts.fragment:
            raise _refusal("carries a fragment, which is never sent")
        if port == 0:
            raise _refusal("has port 0, want 1 to 65535")
        self._check_host(parts.hostname)

    def _check_host(self, host: str) -> None:
        literal = _literal_of(host)
        if literal is not None and not self.permits(literal):
            raise _refusal(f"points to {host}, which is not a public address; [delivery] allow_networks can allow it")
        if not host.strip("."):
            raise _refusal("names no host")
        if _is_onion(host) and self.proxy is None:
            raise _refusal("points to an onion service, which only Tor reaches; [delivery] proxy can name one")


def _refusal(reason: str) -> RequestError:
    return RequestError(f"url: {reason}", code="bad-url")


def _is_onion(host: str) -> bool:
    return host.rstrip(".").lower().endswith(".onion")


def _literal_of(host: str) -> Ip | None:
    """Read a host as an address: also the spellings that only the C library knows (``2130706433``, ``127.1``)."""
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """httpcore's way to the network, with the guard at its door.

    Args:
        max_answer_bytes: a receiver that sends more for one request is cut off.
        proxy: the way to everything but what the operator allows; each host gets a circuit of its own.
    """

    def __init__(
        self, rules: AddressRules, *, max_answer_bytes: int = 1 << 20, proxy: ProxyAddress | None = None
    ) -> None:
        self._rules = rules
        self._proxy = proxy
        self._max_answer_bytes = max_answer_bytes
        self._backend = httpcore.TrioBackend()
        self._dns = trio.CapacityLimiter(DNS_THREADS)

    async def _resolve(self, host: str, port: int) -> list[str]:
        def lookup() -> list[str]:
            records = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(record[4][0]) for record in records))

        return await trio.to_thread.run_sync(lookup, limiter=self._dns, abandon_on_cancel=True)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect the way the table above says: directly only to an address that was checked.

        Raises:
            RefusedAddressError: the address, or a record of the name, is not public and not allowed.
            ProxyError: the proxy let us down, or did not reach the host; or an onion service without a proxy.
            OSError: the name does not resolve.
            httpcore.ConnectError: no record answered.
        """
        if self._proxy is not None:
            return await self._connect_with_proxy(self._proxy, host, port, timeout)
        if _is_onion(host):
            raise ProxyError("onion-needs-proxy")  # and no name server hears of it (RFC 7686)
        addresses = await self._resolve(host, port)
        for address in addresses:
            if not self._rules.permits(ipaddress.ip_address(address.partition("%")[0])):
                raise RefusedAddressError(address)
        for address in addresses[:-1]:
            try:
                # a black hole among the records must not eat the attempt's whole time
                return await self._connect(address, port, CONNECT_SHARE_S)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue  # the next record
        return await self._connect(addresses[-1], port, timeout)

    async def _connect_with_proxy(
        self, proxy: ProxyAddress, host: str, port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        literal = _literal_of(host)
        if literal is not None and not self._rules.permits(literal):
            raise RefusedAddressError(str(literal))
        if literal is not None and self._rules.allows(literal):
            return await self._connect(str(literal), port, timeout)
        # without the root's dot, behind which Tor would not see that a name is an onion service's
        target = host.rstrip(".") if literal is None else str(literal)
        try:
            stream = await self._connect(proxy.host, proxy.port, timeout)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise ProxyError("proxy-unreachable") from error
        try:
            await open_tunnel(_Bytes(stream), target, port, proxy=proxy, isolation=target)
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.aclose()
            raise
        return stream

    async def _connect(self, address: str, port: int, timeout: float | None) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._backend.connect_tcp(address, port, timeout=timeout), self._max_answer_bytes)

    async def sleep(self, seconds: float) -> None:
        """Sleep, for httpcore's own retries (which are off)."""
        await trio.sleep(seconds)


class _Bytes:
    """A stream of httpcore's with the two methods that ``open_tunnel`` calls."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes, /) -> None:
        try:
            await self._stream.write(data)
        except httpcore.WriteError as error:
            raise trio.BrokenResourceError from error

    async def receive_some(self, max_bytes: int, /) -> bytes:
        try:
            return await self._stream.read(max_bytes)
        except httpcore.ReadError as error:
            raise trio.BrokenResourceError from error


class _Stream(httpcore.AsyncNetworkStream):
    """A stream that bounds what one answer may bring, headers included.

    It also closes its socket when a TLS handshake is cancelled, which httpcore 1.0.9 does not.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream, max_answer_bytes: int) -> None:
        self._stream = stream
        self._max_answer_bytes = max_answer_bytes
        self._left_bytes = max_answer_bytes

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._left_bytes <= 0:
            raise AnswerTooLongError
        data = await self._stream.read(min(max_bytes, self._left_bytes), timeout)
        self._left_bytes -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._left_bytes = self._max_answer_bytes  # a new request
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._max_answer_bytes)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def parse_networks(texts: Sequence[str]) -> list[IpNetwork]:
    """Read CIDR texts.

    Raises:
        ValueError: one is no network.
    """
    return [ipaddress.ip_network(text) for text in texts]
