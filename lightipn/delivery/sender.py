"""One attempt: a request goes out, an ``Answer`` comes back, whatever the receiver does."""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpcore
import httpx
import trio

from lightipn.delivery.guard import AddressRules, AnswerTooLongError, GuardedBackend, RefusedAddressError
from lightipn.outbox.messages import OutgoingRequest
from lightipn.outbox.verdict import Answer
from lightipn.proxy import ProxyAddress, ProxyError

MAX_ANSWER_BYTES = 65536
# Shorter than the keep-alive of common receivers (gunicorn closes after 2 s), so that a link is not reused at the very
# moment at which the other side closes it.
KEEPALIVE_S = 1.0
MAX_HEAD_BYTES = 65536
STANDING_HEADERS = {
    "User-Agent": "LightIPN",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "keep-alive",
}


class _Content:
    """A request's body as httpcore wants it: one part, and no generator that a failed send leaves half run."""

    def __init__(self, body: bytes) -> None:
        self._parts = [body]

    def __aiter__(self) -> "_Content":
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


class Sender:
    """Makes attempts. Made by ``open_sender``."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, *, timeout_s: float, max_in_flight: int) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        # Race in httpcore 1.0.9: a request that waits in the pool's own queue, is given a connection, and is cancelled
        # before it wakes, leaves that connection "connecting" for ever. Waiting out here, nobody waits in there.
        self._places = trio.CapacityLimiter(max_in_flight)

    async def send(self, request: OutgoingRequest) -> Answer:
        """Send a request and return what came back; trouble is a value, never an exception.

        The time limit covers everything from the lookup of the name to the last byte of the answer: httpx's own limits
        are per operation, and a drip of bytes never ends them.
        """
        started = trio.current_time()
        status, body, trouble = None, b"", ""
        try:
            with trio.fail_after(self._timeout_s):
                async with self._places:
                    status, body = await self._exchange(request)
        except TROUBLES as error:
            trouble = _trouble_of(error)
        return Answer(status=status, body=body, trouble=trouble, latency_ms=(trio.current_time() - started) * 1000)

    async def _exchange(self, request: OutgoingRequest) -> tuple[int, bytes]:
        # httpx makes the request (URL, Host, Content-Length). The pool sends it without httpx's client, which would
        # keep cookies of one attempt for another, and could not have the guard under it.
        headers = STANDING_HEADERS | dict(request.headers)
        made = httpx.Request(request.method, request.url, headers=headers, content=request.body)
        url = httpcore.URL(
            scheme=made.url.raw_scheme, host=made.url.raw_host, port=made.url.port, target=made.url.raw_path
        )
        response = await self._pool.handle_async_request(
            httpcore.Request(method=made.method, url=url, headers=made.headers.raw, content=_Content(request.body))
        )
        body = bytearray()
        try:
            # Read to the end, or to the guard's limit: leaving a stream half read would leave its connection undefined.
            async for part in response.stream:  # type: ignore[union-attr]  # an async pool's stream
                body += part
        except AnswerTooLongError:
            pass  # what came is judged: an acknowledgement is short
        finally:
            with trio.CancelScope(shield=True):
                await response.aclose()
        return response.status, bytes(body[:MAX_ANSWER_BYTES])


TROUBLES = (
    RefusedAddressError,
    ProxyError,
    trio.TooSlowError,
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    AnswerTooLongError,
    httpx.InvalidURL,
    OSError,
    UnicodeError,
    ValueError,
)
"""What a receiver, or the way to it, can do to us: each becomes a code in the attempt's row."""


def _causes_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _trouble_of(error: BaseException) -> str:
    match error:
        case RefusedAddressError():
            return "refused-address"
        case ProxyError():
            return error.code
        case trio.TooSlowError() | httpcore.TimeoutException():
            return "timeout"
        case _ if any(isinstance(cause, ssl.SSLError) for cause in _causes_of(error)):
            return "tls-failed"
        case httpcore.ConnectError():
            return "connection-failed"
        case httpcore.NetworkError():
            return "connection-lost"
        case httpcore.ProtocolError() | AnswerTooLongError():
            return "not-http"
        case OSError():
            return "name-not-found"
        case _:
            return "bad-url"


@asynccontextmanager
async def open_sender(
    rules: AddressRules, *, timeout_s: float, max_in_flight: int, proxy: ProxyAddress | None = None
) -> AsyncIterator[Sender]:
    """Open the connection pool, and close it in the end.

    Args:
        timeout_s: for a whole attempt.
        max_in_flight: never more connections; attempts beyond that wait, in their own time.
        proxy: the one that the rules know.
    """
    assert proxy == rules.proxy  # what is registered and what is reached follow one setting, and nothing goes around it
    pool = httpcore.AsyncConnectionPool(
        ssl_context=ssl.create_default_context(),
        max_connections=max_in_flight,
        keepalive_expiry=KEEPALIVE_S,
        network_backend=GuardedBackend(rules, max_answer_bytes=MAX_HEAD_BYTES + MAX_ANSWER_BYTES, proxy=proxy),
    )
    async with pool:
        yield Sender(pool, timeout_s=timeout_s, max_in_flight=max_in_flight)
