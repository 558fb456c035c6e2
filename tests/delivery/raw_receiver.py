"""A receiver of callbacks that answers with any bytes, well-behaved or not, on a free port of this machine."""

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from lightipn.delivery.guard import AddressRules, parse_networks
from lightipn.delivery.sender import Sender, open_sender
from lightipn.outbox.messages import OutgoingRequest

LOOPBACK_ALLOWED = AddressRules(parse_networks(["127.0.0.0/8"]))
Behaviour = Callable[[trio.abc.Stream], Awaitable[None]]


class RawReceiver:
    """Keeps the requests it read, and how many connections were opened and closed by the other side."""

    def __init__(self, behave: Behaviour, context: ssl.SSLContext | None, *, speaks_first: bool) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed_by_sender = trio.Event()
        self.port = 0
        self._behave = behave
        self._context = context
        self._speaks_first = speaks_first

    @property
    def url(self) -> str:
        """A URL of this receiver."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}/ipn?order=7"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection: a request and what the test makes of it."""
        self.connections += 1
        wrapped: trio.abc.Stream = stream
        if self._context is not None:
            wrapped = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        try:
            async with stream:
                raw = b"" if self._speaks_first else await read_request(wrapped)
                if raw:
                    self.requests.append(raw)
                await self._behave(wrapped)
                while await wrapped.receive_some(65536):
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.closed_by_sender.set()


async def read_request(stream: trio.abc.Stream) -> bytes:
    """Read a request with its body; empty if the other side closes first."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        part = await stream.receive_some(65536)
        if not part:
            return b""
        raw += part
    head, _, body = raw.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
    )
    while len(body) < length:
        body += await stream.receive_some(65536)
    return head + b"\r\n\r\n" + body


@asynccontextmanager
async def open_receiver(
    behave: Behaviour, *, context: ssl.SSLContext | None = None, speaks_first: bool = False
) -> AsyncIterator[RawReceiver]:
    """Listen, serve with this behaviour, and end all connections in the end.

    Args:
        speaks_first: behave at once, without waiting for a request.
    """
    receiver = RawReceiver(behave, context, speaks_first=speaks_first)
    listener = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    receiver.port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, receiver.serve, [trio.SocketListener(listener)])
        yield receiver
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_local_sender(*, timeout_s: float = 5.0) -> AsyncIterator[Sender]:
    """Open a sender that may reach this machine."""
    async with open_sender(LOOPBACK_ALLOWED, timeout_s=timeout_s, max_in_flight=8) as sender:
        yield sender


def request_to(url: str, body: bytes = b"confirmed=0.1") -> OutgoingRequest:
    """Return a callback."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "X-IPN-Id": "m-1"}
    return OutgoingRequest(method="POST", url=url, headers=headers, body=body)


def answering(*parts: bytes) -> Behaviour:
    """Return a behaviour that sends these bytes."""

    async def behave(stream: trio.abc.Stream) -> None:
        for part in parts:
            await stream.send_all(part)

    return behave


def response(status_line: bytes, body: bytes = b"", *headers: bytes) -> bytes:
    """Write an HTTP answer."""
    lines = [b"HTTP/1.1 " + status_line, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
