"""The way through a SOCKS5 proxy, Tor's above all: a name leaves this machine only towards the proxy, unresolved.

Whoever connects opens a stream to the proxy, calls ``open_tunnel`` on it, and then speaks to the far end as if it were
connected there. The bytes of the protocol are aiorpcx's; this module reads exactly what it asks for, because what
follows the proxy's answer belongs to the far end (TLS, a greeting).
"""

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote, urlsplit

import trio

WANTED = "want socks5://[user:password@]host:port"
# The password beside a derived user name. Tor compares both; one of them is enough to tell circuits apart.
ISOLATION_PASSWORD = "lightipn"  # noqa: S105  # says nothing secret
MAX_CREDENTIAL_BYTES = 255  # RFC 1929: one byte holds the length
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", re.ASCII)
# RFC 1928, section 6, and what the operator reads of it: these words are ours, never the proxy's.
_CODE_OF_REPLY = {
    1: "proxy-failed",
    2: "proxy-forbids",
    3: "proxy-network-unreachable",
    4: "proxy-host-unreachable",
    5: "proxy-connection-refused",
    6: "proxy-timed-out",
    7: "proxy-refused",
    8: "proxy-refused",
}


class ProxyError(OSError):
    """The proxy cannot be used, or did not reach the far end; the caller shows ``code`` in its own way.

    An ``OSError``, because that is what a connection without a proxy fails with.

    Args:
        code: kebab-case, one of ours.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyAddress:
    """Where a SOCKS5 proxy listens, and who we say we are.

    Args:
        host: a name or an address, IPv6 without brackets.
        user: with ``password``; both are empty where the proxy asks for none.
    """

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)


class ByteStream(Protocol):
    """What ``open_tunnel`` needs of a stream; every stream of Trio's fits."""

    async def send_all(self, data: bytes, /) -> None:
        """Send everything."""

    async def receive_some(self, max_bytes: int, /) -> bytes | bytearray:
        """Return at most so many bytes; none at the end."""
        ...


def parse_proxy(text: str) -> ProxyAddress:
    """Read ``socks5://[user:password@]host:port``; IPv6 in brackets, odd characters of a password percent-encoded.

    ``socks5h`` means the same: names always go to the proxy.

    Raises:
        ValueError: anything else; the message says what was wanted and never quotes the password.
    """
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(WANTED) from None
    if parts.scheme not in ("socks5", "socks5h") or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(WANTED)
    if not host or not _is_host(host, in_brackets="[" in parts.netloc.rpartition("@")[2]):
        raise ValueError(f"the proxy's host is no name and no address, {WANTED}")
    if not port:
        raise ValueError(f"the proxy has no port, {WANTED}")
    user, password = _credentials_of(parts.username, parts.password)
    return ProxyAddress(host=host, port=port, user=user, password=password)


def _is_host(host: str, *, in_brackets: bool) -> bool:
    if not in_brackets:
        return _NAME.fullmatch(host) is not None
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _credentials_of(user: str | None, password: str | None) -> tuple[str, str]:
    if user is None and password is None:
        return "", ""
    decoded = unquote(user or ""), unquote(password or "")
    if not all(0 < len(text.encode()) <= MAX_CREDENTIAL_BYTES for text in decoded):
        raise ValueError(f"user and password must both have 1 to {MAX_CREDENTIAL_BYTES} bytes, {WANTED}")
    return decoded


async def open_tunnel(stream: ByteStream, host: str, port: int, *, proxy: ProxyAddress, isolation: str = "") -> None:
    """Have the proxy at the other end of ``stream`` connect it to ``host``.

    Afterwards the next byte received is the far end's first. On an error, and when cancelled, the stream is of no use
    any more and the caller closes it. There is no time limit in here; a proxy cannot send more than some hundred bytes,
    but it can be slow.

    Args:
        host: a name, sent as it is and resolved by nobody on this machine; or an IPv4 or IPv6 address.
        proxy: gives user and password.
        isolation: connections with different texts must not share a circuit: where the proxy's address has no user, one
            is derived from the text. Tor keeps users apart; a proxy that asks for none ignores it.

    Raises:
        ProxyError: no SOCKS5, a closed stream, a refused login, a far end that was not reached, or a host that no proxy
            would understand.
    """
    # a service without a proxy does without this
    from aiorpcx.socks import SOCKS5, NeedData, SOCKSFailure, SOCKSProtocolError, SOCKSUserAuth
    from aiorpcx.util import NetAddress

    user, password = _login_of(proxy, isolation)
    try:
        machine = SOCKS5(NetAddress(host, port), SOCKSUserAuth(user, password) if user else None)
    except ValueError:
        raise ProxyError("bad-host-name") from None
    try:
        while True:
            try:
                message = machine.next_message()
            except NeedData as need:
                machine.receive_data(await _receive(stream, need.args[0]))
                continue
            if message is None:
                return
            await stream.send_all(message)
    except SOCKSProtocolError as error:
        raise ProxyError("proxy-not-socks5") from error
    except SOCKSFailure as error:
        raise ProxyError(_code_of(str(error), SOCKS5.ERROR_CODES)) from error
    except trio.BrokenResourceError as error:
        raise ProxyError("proxy-closed") from error


def _login_of(proxy: ProxyAddress, isolation: str) -> tuple[str, str]:
    if proxy.user or not isolation:
        return proxy.user, proxy.password
    return hashlib.sha256(isolation.encode()).hexdigest(), ISOLATION_PASSWORD


async def _receive(stream: ByteStream, max_bytes: int) -> bytes:
    data = await stream.receive_some(max_bytes)
    if not data:
        raise ProxyError("proxy-closed")
    return bytes(data)


def _code_of(text: str, reply_texts: dict[int, str]) -> str:
    """Turn aiorpcx's words for a failure back into the reply they stand for."""
    for reply, words in reply_texts.items():
        if words == text:
            return _CODE_OF_REPLY[reply]
    return "proxy-login-refused" if "auth" in text else "proxy-refused"
