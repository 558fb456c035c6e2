"""Raw ASGI calls: requests that no well-behaved client would send."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import trio
from starlette.types import ASGIApp, Message


@dataclass(frozen=True, slots=True)
class Reply:
    """What an application answered; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The error's code; the body must have the one shape that errors have."""
        assert self.headers["content-type"] == "application/json"
        assert list(self.json) == ["error"]
        assert list(self.json["error"]) == ["code", "message"]
        return str(self.json["error"]["code"])


async def call(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/",
    *,
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: Sequence[bytes] = (),
    is_cut: bool = False,
) -> Reply:
    """Call an application with exactly these bytes; what it raises comes out.

    Args:
        body: the parts in which it arrives.
        is_cut: the client goes away after the parts.
    """
    parts = list(body)
    status: list[int] = []
    found: dict[str, str] = {}
    answer = bytearray()

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts) or is_cut}
        if is_cut:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            status.append(message["status"])
            found.update(
                {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
            )
        else:
            answer.extend(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    await app(scope, receive, send)
    return Reply(status[0], found, bytes(answer))


FORM = (b"content-type", b"application/x-www-form-urlencoded")
JSON = (b"content-type", b"application/json")
