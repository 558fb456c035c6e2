"""JSON-RPC over HTTP: the way to a bitcoind, single calls and batches, and what each kind of trouble is called.

A node's own words are dropped; its error codes are kept.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from lightipn.errors import ProtocolError, SourceRefusedError, SourceUnavailableError

T = TypeVar("T")

TIMEOUT_S = 30.0
CONNECTIONS = 8  # the node queues 16 calls (-rpcworkqueue) for everybody together
BATCH = 200

# Bitcoin Core, src/rpc/protocol.h.
MISC_ERROR = -1
IN_WARMUP = -28
NOT_FOUND = -5
INVALID_PARAMETER = -8
METHOD_NOT_FOUND = -32601


class _Trouble(msgspec.Struct, frozen=True):
    code: int


class _Answer(msgspec.Struct, frozen=True):
    id: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Trouble | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One call of a batch that the node refused."""

    code: int


class Wire(Protocol):
    """The way to a node: a JSON document there, and one back."""

    async def post(self, body: bytes, *, timeout_s: float) -> bytes:
        """Return the body of the answer.

        Raises:
            SourceUnavailableError: the node cannot be reached, is busy, or does not let us in.
        """


class JsonRpc:
    """Calls over a wire.

    Args:
        name: what the node is called in errors.
    """

    def __init__(self, wire: Wire, *, name: str) -> None:
        self._wire = wire
        self.name = name
        self._last_id = 0

    async def call(self, kind: type[T], method: str, *params: object, timeout_s: float = TIMEOUT_S) -> T:
        """Make one call, and return its result.

        Raises:
            SourceUnavailableError: the node does not answer, or warms up.
            SourceRefusedError: it answers with an error.
            ProtocolError: its answer has another shape.
        """
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        body = await self._wire.post(msgspec.json.encode(request), timeout_s=timeout_s)
        answer = self._decode(body, _Answer)
        if answer.id != request["id"]:
            raise self.malformed("an answer to another call")
        if answer.error is not None:
            raise self.refused(answer.error.code)
        return self._decode(answer.result, kind)

    async def call_many(self, kind: type[T], method: str, params: Sequence[tuple[object, ...]]) -> list[T | Refusal]:
        """Make many calls in few requests; results in order. Raises like ``call``, but for refusals."""
        results: list[T | Refusal] = []
        for at in range(0, len(params), BATCH):
            page = params[at : at + BATCH]
            requests = [
                {"jsonrpc": "2.0", "id": number, "method": method, "params": each} for number, each in enumerate(page)
            ]
            answers = self._decode(
                await self._wire.post(msgspec.json.encode(requests), timeout_s=TIMEOUT_S), list[_Answer]
            )
            by_id = {answer.id: answer for answer in answers}
            if len(answers) != len(page) or by_id.keys() != set(range(len(page))):
                raise self.malformed(f"{len(answers)} answers to {len(page)} calls")
            for number in range(len(page)):
                error = by_id[number].error
                if error is not None and error.code == IN_WARMUP:
                    raise self.refused(IN_WARMUP)
                results.append(Refusal(error.code) if error is not None else self._decode(by_id[number].result, kind))
        return results

    def _decode(self, body: bytes | msgspec.Raw, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.malformed("an answer has another shape than Bitcoin Core's") from error

    def checked(self, check: Callable[[], T]) -> T:
        """Return what ``check`` makes of an answer; what it finds wrong is a breach of the protocol."""
        try:
            return check()
        except ValueError as error:
            raise self.malformed(str(error)) from error

    def malformed(self, message: str) -> ProtocolError:
        """Return the error that an answer makes no sense."""
        return ProtocolError(message, source=self.name)

    def refused(self, code: int) -> SourceRefusedError | SourceUnavailableError:
        """Return the error that the node refused a call with a code."""
        if code == IN_WARMUP:
            return SourceUnavailableError("warming-up", source=self.name)
        return SourceRefusedError(f"the node answered with error {code}", code=code, source=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How the node lets us in: the cookie that it makes anew at every start, or a user with a password."""

    cookie_file: Path | None = None
    user: str = ""
    password: str = field(default="", repr=False)

    def read(self) -> tuple[str, str]:
        """Return user and password as they are now.

        Raises:
            SourceUnavailableError: there is no cookie: the node does not run, or the file is another one.
        """
        if self.cookie_file is None:
            return self.user, self.password
        try:
            user, colon, password = self.cookie_file.read_text("utf-8").strip().partition(":")
        except FileNotFoundError as error:  # a node that stops takes its cookie along
            raise SourceUnavailableError("no-cookie-file: the node does not run, or writes it elsewhere") from error
        except (OSError, UnicodeError) as error:
            raise SourceUnavailableError("cookie-file-unreadable") from error
        if not colon:
            raise SourceUnavailableError("cookie-file-malformed: want user:password")
        return user, password


_STATUS = {401: "wrong-password", 403: "not-allowed", 404: "no-rpc-here", 503: "work-queue-exceeded"}


class HttpWire:
    """A ``Wire`` over HTTP; see ``open_http_wire``."""

    def __init__(self, client: httpx.AsyncClient, url: str, credentials: Credentials) -> None:
        self._client = client
        self._url = url
        self._credentials = credentials

    async def post(self, body: bytes, *, timeout_s: float) -> bytes:
        """Return the body of the answer."""
        try:
            response = await self._client.post(
                self._url, content=body, auth=self._credentials.read(), timeout=httpx.Timeout(timeout_s, connect=5.0)
            )
        except httpx.TimeoutException as error:
            raise SourceUnavailableError("timed-out") from error
        except httpx.ConnectError as error:
            raise SourceUnavailableError("tls-failed" if _is_about_tls(error) else "unreachable") from error
        except httpx.HTTPError as error:
            raise SourceUnavailableError("connection-closed") from error
        # A refused call is 500 with JSON; a batch is always 200.
        if response.status_code not in (200, 500) or not response.content:
            reason = _STATUS.get(response.status_code, f"http-status-{response.status_code}")
            raise SourceUnavailableError(reason)
        return response.content


def _is_about_tls(error: BaseException | None) -> bool:
    """Tell whether what led to an error is a certificate that is not trusted, or that TLS is not spoken there."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


@asynccontextmanager
async def open_http_wire(url: str, credentials: Credentials) -> AsyncIterator[HttpWire]:
    """Open the way to a node; it connects when it is used."""
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=20.0)
    # A node packs nothing; what claims to be packed is none.
    headers = {"Accept-Encoding": "identity"}
    # Plain HTTP has no certificate to verify, and a list of whom to trust takes 2 MiB; no redirect is followed.
    trusted = ssl.create_default_context() if urlsplit(url).scheme == "https" else False
    async with httpx.AsyncClient(trust_env=False, limits=limits, headers=headers, verify=trusted) as client:
        yield HttpWire(client, url, credentials)
