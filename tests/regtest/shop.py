"""A shop: a small HTTP/1.1 receiver that records what it is told and answers as a test wants it to.

h11 over Trio instead of a web framework: a shop that hangs, or closes without an answer, must not be looked after by
a server that means well.
"""

import enum
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import parse_qsl, urlsplit

import h11
import trio


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopRequest:
    """One request as it came in.

    Args:
        arrived_at: ``time.monotonic`` when the request was complete.
        target: path and query as they stood in the request's first line.
        path: without the query.
        query: names and values of the query; of a repeated name the last one.
        headers: names in lower case; of a repeated name the last one.
        form: names and values of an urlencoded body; empty for any other body.
    """

    arrived_at: float
    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    form: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopAnswer:
    """What a shop answers."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Silence(enum.Enum):
    """How a shop gives no answer."""

    HANG = "the connection stays open until the caller gives up"
    HANG_UP = "the connection is closed"


Policy = Callable[[ShopRequest], ShopAnswer | Silence]
"""Decides what a request is answered."""


def echo(request: ShopRequest) -> ShopAnswer:
    """Acknowledge: a JSON object of the received fields, all of them strings."""
    return json_answer({**request.query, **request.form})


def silent_ok(request: ShopRequest) -> ShopAnswer:
    """Answer 200 with nothing in it, which acknowledges nothing."""
    return ShopAnswer()


def failure(request: ShopRequest) -> ShopAnswer:
    """Answer 500."""
    return ShopAnswer(status=500, body=b"out of order")


def hang(request: ShopRequest) -> Silence:
    """Say nothing until the caller gives up."""
    return Silence.HANG


def hang_up(request: ShopRequest) -> Silence:
    """Close the connection without an answer."""
    return Silence.HANG_UP


def redirect_to(url: str, status: int = 302) -> Policy:
    """Return a policy that sends the caller elsewhere."""
    return lambda request: ShopAnswer(status=status, headers=(("Location", url),))


def echo_with(**other: str) -> Policy:
    """Return a policy that echoes the fields with these values in place of the received ones."""
    return lambda request: json_answer({**request.query, **request.form, **other})


def always(status: int, body: bytes = b"") -> Policy:
    """Return a policy that gives the same answer to everyone, ``*ok*`` for one."""
    return lambda request: ShopAnswer(status=status, body=body)


def json_answer(fields: dict[str, str]) -> ShopAnswer:
    """Return a 200 with a JSON object."""
    return ShopAnswer(body=json.dumps(fields).encode(), headers=(("Content-Type", "application/json"),))


@dataclass(slots=True)
class Shop:
    """A receiver that is open for callbacks.

    Args:
        port: of 127.0.0.1.
        policy: how requests are answered from now on; may be set at any time.
        requests: everything that came in, oldest first.
    """

    port: int
    policy: Policy = echo
    requests: list[ShopRequest] = field(default_factory=list)
    arrived: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        """Address to which a path is appended."""
        return f"http://127.0.0.1:{self.port}"

    def record(self, request: ShopRequest) -> None:
        """Keep a request and wake those who wait for it."""
        self.requests.append(request)
        self.arrived.set()
        self.arrived = trio.Event()

    def matching(self, predicate: Callable[[ShopRequest], bool]) -> list[ShopRequest]:
        """Return the requests so far that satisfy the predicate, oldest first."""
        return [request for request in self.requests if predicate(request)]

    async def wait_for(
        self, predicate: Callable[[ShopRequest], bool], deadline_s: float, *, count: int = 1
    ) -> ShopRequest:
        """Wait for the ``count``-th request that satisfies the predicate, and return it.

        Requests that came in before the call count too.

        Raises:
            TimeoutError: it did not come before the deadline; the message lists what came.
        """
        with trio.move_on_after(deadline_s):
            while len(found := self.matching(predicate)) < count:
                await self.arrived.wait()
            return found[count - 1]
        seen = "\n  ".join(f"{request.method} {request.path} {request.form}" for request in self.requests)
        raise TimeoutError(f"{len(found)} of {count} requests within {deadline_s:g} s; the shop heard:\n  {seen}")


@asynccontextmanager
async def open_shop(nursery: trio.Nursery | None = None, *, port: int = 0) -> AsyncIterator[Shop]:
    """Open a shop until the block is left.

    Args:
        nursery: where it runs; without one it has its own, and then an error in the block leaves as a group.
        port: 0 for any free one.
    """
    if nursery is None:
        async with trio.open_nursery() as own, open_shop(own, port=port) as shop:
            yield shop
        return
    [listener] = await trio.open_tcp_listeners(port, host="127.0.0.1")
    shop = Shop(port=listener.socket.getsockname()[1])
    until_closed = trio.CancelScope()
    closed = trio.Event()
    nursery.start_soon(partial(serve, shop, listener, until_closed, closed))
    try:
        yield shop
    finally:
        until_closed.cancel()
        with trio.CancelScope(shield=True):
            await closed.wait()


async def serve(shop: Shop, listener: trio.SocketListener, until_closed: trio.CancelScope, closed: trio.Event) -> None:
    """Serve connections until the scope is cancelled; then port and connections are closed."""
    try:
        with until_closed:
            async with listener:
                await trio.serve_listeners(partial(serve_connection, shop), [listener])
    finally:
        closed.set()


async def serve_connection(shop: Shop, stream: trio.SocketStream) -> None:
    """Answer one request after the other, as long as both sides want to."""
    connection = h11.Connection(h11.SERVER)
    try:
        while (request := await receive_request(connection, stream)) is not None:
            shop.record(request)
            answer = shop.policy(request)
            if answer is Silence.HANG_UP:
                return
            if answer is Silence.HANG:
                await wait_closed(stream)
                return
            await stream.send_all(encode_answer(connection, answer))
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        return  # the caller went away, or spoke no HTTP: neither concerns the shop


async def receive_request(connection: h11.Connection, stream: trio.SocketStream) -> ShopRequest | None:
    """Read one whole request; None when the caller closed the connection."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None, "h11 ends no message that it did not begin"
            return request_of(head, bytes(body))
        else:
            return None


def request_of(head: h11.Request, body: bytes) -> ShopRequest:
    """Put together what is recorded of a request."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    is_form = headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    target = head.target.decode("latin-1")
    parts = urlsplit(target)
    return ShopRequest(
        arrived_at=time.monotonic(),
        method=head.method.decode("ascii"),
        target=target,
        path=parts.path,
        query=fields_of(parts.query),
        headers=headers,
        form=fields_of(body.decode()) if is_form else {},
        body=body,
    )


def fields_of(text: str) -> dict[str, str]:
    """Read urlencoded names and values, empty values too."""
    return dict(parse_qsl(text, keep_blank_values=True))


def encode_answer(connection: h11.Connection, answer: ShopAnswer) -> bytes:
    """Return an answer as bytes of HTTP/1.1."""
    headers: Iterable[tuple[str, str]] = (*answer.headers, ("Content-Length", str(len(answer.body))))
    events = [
        h11.Response(status_code=answer.status, headers=list(headers)),
        h11.Data(data=answer.body),
        h11.EndOfMessage(),
    ]
    return b"".join(connection.send(event) or b"" for event in events)


async def wait_closed(stream: trio.SocketStream) -> None:
    """Read and forget until the caller closes the connection."""
    while await stream.receive_some():
        pass
