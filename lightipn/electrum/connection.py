"""The way to a server: TCP, and TLS over it, with every trouble named in words of ours."""

import socket
import ssl

import structlog
import trio

from lightipn.electrum.address import ServerAddress
from lightipn.errors import SourceUnavailableError

CONNECT_TIMEOUT_S = 10.0

log = structlog.get_logger("electrum")
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class TlsContexts:
    """The two contexts all sessions share; making one takes 30 ms."""

    def __init__(self) -> None:
        self.verifying = ssl.create_default_context()
        self.accepting_any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.accepting_any.check_hostname = False
        self.accepting_any.verify_mode = ssl.CERT_NONE


def trouble_of(error: BaseException) -> str:
    """Name a transport trouble in words of ours."""
    cause: BaseException = error
    while cause.__cause__ is not None or isinstance(cause, BaseExceptionGroup):
        # Trio tries every address of a name and reports the failures as a group
        cause = cause.exceptions[-1] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause
    match cause:
        case trio.TooSlowError():
            return "timed-out"
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


async def connect(address: ServerAddress, contexts: TlsContexts) -> Stream:
    """Open TCP, and TLS over it; a certificate the system does not verify is accepted and logged.

    Raises:
        SourceUnavailableError: refused, unreachable, too slow, or no TLS on that port.
    """
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            stream = await trio.open_tcp_stream(address.host, address.port)
            if not address.uses_tls:
                return stream
            try:
                return await _wrap(stream, address, contexts.verifying)
            except trio.BrokenResourceError as error:
                if not isinstance(error.__cause__, ssl.SSLCertVerificationError):
                    raise
            log.warning("electrum.certificate_unverified", server=address.name)
            return await _wrap(await trio.open_tcp_stream(address.host, address.port), address, contexts.accepting_any)
    except (OSError, UnicodeError, trio.BrokenResourceError, trio.TooSlowError) as error:
        raise SourceUnavailableError(trouble_of(error), source=address.name) from error


async def _wrap(stream: trio.SocketStream, address: ServerAddress, context: ssl.SSLContext) -> Stream:
    tls = trio.SSLStream(stream, context, server_hostname=address.host)
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return tls
