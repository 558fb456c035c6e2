"""A SOCKS5 proxy for tests (RFC 1928, RFC 1929): it keeps what it was asked for and leads every host to this machine.

Like Tor, it takes user and password wherever they are offered.
"""

import ipaddress
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from lightipn.proxy import ProxyAddress

NO_LOGIN, LOGIN, NO_METHOD = 0, 2, 0xFF
GRANTED, HOST_UNREACHABLE, CONNECTION_REFUSED = 0, 4, 5
IPV4, NAME, IPV6 = 1, 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SocksRequest:
    """What a client asked for.

    Args:
        host: the name as it was sent, or the address.
        is_name: whether it came as a name, for the proxy to resolve.
        user: with ``password``; empty where the client offered none.
    """

    host: str
    port: int
    is_name: bool
    user: str = ""
    password: str = ""


@dataclass(kw_only=True)
class SocksServer:
    """What the proxy does, which a test may change between connections, and what it saw.

    Args:
        targets: the port on 127.0.0.1 to which each host leads, whatever port is asked for; others are unreachable.
        login: the only user and password that are let in; None lets everybody in.
        reply: to every request instead of a connection, if it is not ``GRANTED``.
        garbage: sent instead of the first answer.
        hangs_at: ``greeting`` or ``request``: what is read and never answered.
        closes_at: the same, but the connection is closed.
    """

    targets: Mapping[str, int]
    login: tuple[str, str] | None = None
    reply: int = GRANTED
    garbage: bytes = b""
    hangs_at: str = ""
    closes_at: str = ""
    port: int = 0
    connections: int = 0
    under_way: int = 0
    requests: list[SocksRequest] = field(default_factory=list)
    closed_by_client: trio.Event = field(default_factory=trio.Event)

    @property
    def address(self) -> ProxyAddress:
        """Where the proxy listens, with its login."""
        user, password = self.login or ("", "")
        return ProxyAddress(host="127.0.0.1", port=self.port, user=user, password=password)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        self.connections += 1
        self.under_way += 1
        try:
            async with stream:
                request = await self._negotiate(stream)
                if request is not None:
                    await self._connect(stream, request)
                async for _ in stream:  # until the client closes
                    pass
            self.closed_by_client.set()
        except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.closed_by_client.set()
        finally:
            self.under_way -= 1

    async def _negotiate(self, stream: trio.SocketStream) -> SocksRequest | None:
        _, count = await _exactly(stream, 2)
        methods = await _exactly(stream, count)
        if self.garbage:
            await stream.send_all(self.garbage)
            return None
        if not await self._goes_on(stream, "greeting"):
            return None
        user = password = ""
        if LOGIN in methods:
            await stream.send_all(bytes([5, LOGIN]))
            user, password = await _read_login(stream)
            is_let_in = self.login in (None, (user, password))
            await stream.send_all(bytes([1, 0 if is_let_in else 1]))
            if not is_let_in:
                return None
        else:
            await stream.send_all(bytes([5, NO_LOGIN if self.login is None else NO_METHOD]))
            if self.login is not None:
                return None
        host, port, is_name = await _read_destination(stream)
        request = SocksRequest(host=host, port=port, is_name=is_name, user=user, password=password)
        self.requests.append(request)
        return request if await self._goes_on(stream, "request") else None

    async def _goes_on(self, stream: trio.SocketStream, stage: str) -> bool:
        if self.closes_at == stage:
            await stream.aclose()
        return stage not in (self.closes_at, self.hangs_at)

    async def _connect(self, stream: trio.SocketStream, request: SocksRequest) -> None:
        if self.reply != GRANTED:
            await _send_reply(stream, self.reply)
            return
        if request.host not in self.targets:
            await _send_reply(stream, HOST_UNREACHABLE)
            return
        try:
            far_end = await trio.open_tcp_stream("127.0.0.1", self.targets[request.host])
        except OSError:
            await _send_reply(stream, CONNECTION_REFUSED)
            return
        async with far_end, trio.open_nursery() as nursery:
            await _send_reply(stream, GRANTED)
            nursery.start_soon(_pass_on, stream, far_end)
            nursery.start_soon(_pass_on, far_end, stream)


async def _exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


async def _read_login(stream: trio.abc.ReceiveStream) -> tuple[str, str]:
    _, length = await _exactly(stream, 2)
    user = await _exactly(stream, length)
    (length,) = await _exactly(stream, 1)
    return user.decode(), (await _exactly(stream, length)).decode()


async def _read_destination(stream: trio.abc.ReceiveStream) -> tuple[str, int, bool]:
    version, command, reserved, kind = await _exactly(stream, 4)
    assert (version, command, reserved) == (5, 1, 0)
    if kind == NAME:
        (length,) = await _exactly(stream, 1)
        host = (await _exactly(stream, length)).decode("ascii")
    else:
        host = str(ipaddress.ip_address(await _exactly(stream, {IPV4: 4, IPV6: 16}[kind])))
    return host, int.from_bytes(await _exactly(stream, 2), "big"), kind == NAME


async def _send_reply(stream: trio.abc.SendStream, reply: int) -> None:
    await stream.send_all(bytes([5, reply, 0, IPV4]) + bytes(6))


async def _pass_on(source: trio.SocketStream, target: trio.SocketStream) -> None:
    try:
        async for data in source:
            await target.send_all(data)
        await target.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(source)
        await trio.aclose_forcefully(target)


@asynccontextmanager
async def open_socks_server(
    targets: Mapping[str, int] | None = None, *, login: tuple[str, str] | None = None
) -> AsyncIterator[SocksServer]:
    """Listen on a free port of 127.0.0.1, and end all connections in the end."""
    server = SocksServer(targets=targets or {}, login=login)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()
