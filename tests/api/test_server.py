"""The HTTP server over real sockets: it answers, and it ends in time whatever its clients do."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lightipn.api.errors import json_response
from lightipn.api.frame import build_app
from lightipn.api.parameters import parameters_of
from lightipn.api.server import open_listener, parse_bind, serve_api
from lightipn.errors import ConfigError, StoreError

LONGEST_STOP_S = 5.0
LARGE_BYTES = 64 * 1024 * 1024


async def echo(request: Request) -> Response:
    """Repeat the parameters."""
    return json_response(await parameters_of(request))


async def large(request: Request) -> Response:
    """Answer with more than any socket's buffers hold."""
    return Response(b"x" * LARGE_BYTES)


async def slow(request: Request) -> Response:
    """Answer after a second."""
    await trio.sleep(1)
    return json_response("done")


@asynccontextmanager
async def serving(stop: trio.Event) -> AsyncIterator[int]:
    """Serve on a free port; the block ends when the server has."""
    failures: list[StoreError] = []
    routes = [Route("/echo", echo, methods=["GET", "POST"]), Route("/large", large), Route("/slow", slow)]
    app: ASGIApp = build_app(routes, stop_for=failures.append)
    listener = open_listener("127.0.0.1:0")
    port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_api, app, listener, stop=stop))
        yield port


async def exchange(port: int, raw: bytes) -> bytes:
    """Send bytes and return all that comes back until the server closes."""
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(raw)
        with trio.fail_after(10):
            async for part in stream:
                received += part
    return received


def request_line(path: str, *headers: str, method: str = "GET") -> bytes:
    """Write a request that closes its connection."""
    lines = [f"{method} {path} HTTP/1.1", "Host: ipn", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def test_requests_are_answered() -> None:
    """A request over a real socket reaches its route, and the server does not name itself."""
    stop = trio.Event()
    async with serving(stop) as port:
        answer = await exchange(port, request_line("/echo?a=1"))
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b'{"a":"1"}')
        assert b"server:" not in answer.lower()
        stop.set()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"nonsense\r\n\r\n", id="no HTTP"),
        pytest.param(b"GET /echo SPDY/1\r\n\r\n", id="version"),
        pytest.param(b"GET /echo HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 50 + b"\r\n\r\n", id="length"),
        pytest.param(b"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1_000_000, id="endless header"),
        pytest.param(b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", id="path of bytes"),
        pytest.param(b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", id="escaped bytes"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600) + b"\r\n\r\n", id="TLS"),
    ],
)
async def test_what_is_no_request_is_refused(raw: bytes) -> None:
    """Bytes that are no good request are refused without a 500, and the server goes on."""
    stop = trio.Event()
    async with serving(stop) as port:
        try:
            answer = await exchange(port, raw)
        except trio.BrokenResourceError:
            answer = b""  # the server reset the connection
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:100]
        assert (await exchange(port, request_line("/echo?a=1"))).endswith(b'{"a":"1"}')
        stop.set()


async def test_body_over_the_limit_is_refused_while_it_is_sent() -> None:
    """A chunked body without an end is refused once it is larger than 64 KiB."""
    stop = trio.Event()
    async with serving(stop) as port:
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        head = request_line("/echo", "Transfer-Encoding: chunked", method="POST")
        answer = await exchange(port, head + 3 * chunk)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b'"body-too-large"' in answer
        stop.set()


# --- the end -----------------------------------------------------------------------------------------------------


async def test_idle_server_ends_at_once() -> None:
    """Without requests under way nothing delays the end, not even connections that are kept open."""
    stop = trio.Event()
    started = trio.current_time()
    async with serving(stop) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port):
            stop.set()
    assert trio.current_time() - started < LONGEST_STOP_S


@pytest.mark.slow
async def test_request_under_way_is_answered_before_the_end() -> None:
    """A request that ends within two seconds is still answered."""
    stop = trio.Event()
    async with serving(stop) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request_line("/slow"))
            await trio.sleep(0.1)  # the request must have reached the route; nothing tells us that from outside
            stop.set()
            received = b""
            with trio.fail_after(5):
                async for part in stream:
                    received += part
    assert received.endswith(b'"done"')


@pytest.mark.slow
async def test_client_that_does_not_read_does_not_hold_the_end() -> None:
    """A client that takes a large answer and never reads it is cut off in time."""
    stop = trio.Event()

    async def give_up(client: trio.socket.SocketType) -> None:
        await trio.sleep(LONGEST_STOP_S)
        client.close()  # the server shields its sends: without this a failing test would hang

    with trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with trio.open_nursery() as nursery:
            async with serving(stop) as port:
                await client.connect(("127.0.0.1", port))
                await client.send(request_line("/large"))
                assert await client.recv(10)  # the answer has begun
                nursery.start_soon(give_up, client)
                started = trio.current_time()
                stop.set()
            elapsed_s = trio.current_time() - started
            nursery.cancel_scope.cancel()
    assert elapsed_s < LONGEST_STOP_S


@pytest.mark.slow
@pytest.mark.parametrize(
    "half",
    [
        pytest.param(request_line("/echo", "Content-Length: 1000", method="POST") + b"a=1&b=", id="body"),
        pytest.param(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Le", id="header"),
        pytest.param(b"PO", id="method"),
    ],
)
async def test_half_a_request_does_not_hold_the_end(half: bytes) -> None:
    """A client that stops in the middle of its request is cut off in time."""
    stop = trio.Event()
    async with serving(stop) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(half)
            assert (await exchange(port, request_line("/echo?a=1"))).endswith(b"}")  # the half came before
            started = trio.current_time()
            stop.set()
            with trio.fail_after(LONGEST_STOP_S):
                async for _ in stream:  # until the server closes
                    pass
    assert trio.current_time() - started < LONGEST_STOP_S


# --- the socket --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:8080", ("::1", 8080)),
        ("localhost:65535", ("127.0.0.1", 65535)),
    ],
)
def test_bind_is_address_and_port(text: str, expected: tuple[str, int]) -> None:
    """An address with its port is read, IPv6 in brackets."""
    assert parse_bind(text) == expected


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "shop:1", "127.0.0.1:-1"]
)
def test_other_texts_are_no_bind(text: str) -> None:
    """Everything else is refused; names other than localhost are not looked up."""
    with pytest.raises(ValueError, match=r"ADDRESS:PORT|address"):
        parse_bind(text)


def test_port_that_is_taken_is_a_problem_of_the_configuration() -> None:
    """A second listener on a port names the key that must be changed."""
    with open_listener("127.0.0.1:0") as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"api.bind: cannot listen on 127.0.0.1:{port}"):
            open_listener(f"127.0.0.1:{port}")


def test_address_of_another_machine_is_a_problem_of_the_configuration() -> None:
    """An address that this machine does not have is named with its key."""
    with pytest.raises(ConfigError, match=r"api\.bind: cannot listen on 192\.0\.2\.1:80"):
        open_listener("192.0.2.1:80")
