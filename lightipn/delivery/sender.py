"""One attempt: a request goes out, an ``Answer`` comes back, whatever the receiver does."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore
import httpx
import trio

from lightipn.delivery.guard import AddressRules, GuardedBackend, RefusedAddressError
from lightipn.outbox.messages import OutgoingRequest
from lightipn.outbox.verdict import Answer

MAX_ANSWER_BYTES = 65536
# Shorter than the keep-alive of common receivers (gunicorn closes after 2 s), so that a link is not reused at the very
# moment at which the other side closes it.
KEEPALIVE_S = 1.0
USER_AGENT = "LightIPN"


class _GuardedTransport(httpx.AsyncBaseTransport):
    """httpx over a connection pool of ours: the only way to put a guard under it without its private parts."""

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(status_code=response.status, headers=response.headers, stream=_Body(response))

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()


class Sender:
    """Makes attempts. Made by ``open_sender``."""

    def __init__(self, client: httpx.AsyncClient, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def send(self, request: OutgoingRequest) -> Answer:
        """Send a request and return what came back; trouble is a value, never an exception.

        The time limit covers everything from the lookup of the name to the last byte of the answer: httpx's own limits
        are per operation, and a drip of bytes never ends them.
        """
        started = trio.current_time()
        status, body, trouble = None, b"", ""
        try:
            with trio.fail_after(self._timeout_s):
                status, body = await self._exchange(request)
        except TROUBLES as error:
            trouble = _trouble_of(error)
        return Answer(status=status, body=body, trouble=trouble, latency_ms=(trio.current_time() - started) * 1000)

    async def _exchange(self, request: OutgoingRequest) -> tuple[int, bytes]:
        async with self._client.stream(
            request.method, request.url, headers=dict(request.headers), content=request.body
        ) as response:
            body = bytearray()
            async for part in response.aiter_raw():
                body += part
                if len(body) >= MAX_ANSWER_BYTES:
                    break
            return response.status_code, bytes(body[:MAX_ANSWER_BYTES])


TROUBLES = (
    RefusedAddressError,
    trio.TooSlowError,
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    OSError,
    UnicodeError,
    ValueError,
)
"""What a receiver, or the way to it, can do to us: each becomes a code in the attempt's row."""


def _trouble_of(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    match error, cause:
        case RefusedAddressError(), _:
            return "refused-address"
        case ((trio.TooSlowError() | httpcore.TimeoutException()), _):
            return "timeout"
        case _, ssl.SSLError():
            return "tls-failed"
        case httpcore.ConnectError(), _ if "SSL" in str(error) or "certificate" in str(error):
            return "tls-failed"
        case httpcore.ConnectError(), _:
            return "connection-failed"
        case httpcore.NetworkError(), _:
            return "connection-lost"
        case ((httpcore.ProtocolError() | httpx.RemoteProtocolError()), _):
            return "not-http"
        case OSError(), _:
            return "name-not-found"
        case _:
            return "bad-url"


@asynccontextmanager
async def open_sender(rules: AddressRules, *, timeout_s: float, max_in_flight: int) -> AsyncIterator[Sender]:
    """Open the connection pool, and close it in the end.

    Args:
        timeout_s: for a whole attempt.
        max_in_flight: the pool never holds more connections.
    """
    pool = httpcore.AsyncConnectionPool(
        ssl_context=ssl.create_default_context(),
        max_connections=max_in_flight,
        keepalive_expiry=KEEPALIVE_S,
        network_backend=GuardedBackend(rules),
    )
    client = httpx.AsyncClient(
        transport=_GuardedTransport(pool),
        headers={"User-Agent": USER_AGENT, "Accept": "*/*"},
        follow_redirects=False,  # a redirect is a failure: the shop registered a URL, not whatever it points to
        trust_env=False,
        timeout=None,  # noqa: S113  # the limit for the whole attempt is in ``send``
    )
    async with client:
        yield Sender(client, timeout_s=timeout_s)
