"""A bare Electrum client: lines of JSON over a stream, and no opinion about what they say."""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from lightipn.simulator.server import SimulatedServer


class LineClient:
    """Send and receive lines; ``notices`` holds what was pushed while an answer was awaited."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.notices: list[Any] = []
        self._ids = itertools.count(1)
        self._received = b""

    async def send(self, message: object) -> None:
        """Send one message, or one batch."""
        await self.stream.send_all(json.dumps(message).encode() + b"\n")

    async def receive_line(self) -> bytes:
        """Return the next line; empty at the end of the stream."""
        while b"\n" not in self._received:
            chunk = await self.stream.receive_some()
            if not chunk:
                return b""
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        return line

    async def receive(self) -> Any:
        """Return the next message, decoded."""
        return json.loads(await self.receive_line())

    async def ask(self, method: str, *params: object) -> Any:
        """Send a request and return the whole answer to it."""
        request_id = next(self._ids)
        await self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        while True:
            message = await self.receive()
            if message.get("id") == request_id or "error" in message:
                return message
            self.notices.append(message)

    async def result(self, method: str, *params: object) -> Any:
        """Send a request and return what it yields."""
        return (await self.ask(method, *params))["result"]

    async def refusal(self, method: str, *params: object) -> int:
        """Send a request that is refused, and return the error's code."""
        code = (await self.ask(method, *params))["error"]["code"]
        assert isinstance(code, int)
        return code

    async def is_hung_up(self) -> bool:
        """Read what is next; tell whether it was the end, or a reset."""
        try:
            return not await self.receive_line()
        except trio.BrokenResourceError:
            return True

    async def notice(self) -> tuple[str, list[Any]]:
        """Return the next notice: its method and its parameters."""
        message = self.notices.pop(0) if self.notices else await self.receive()
        assert "id" not in message
        return message["method"], message["params"]


@asynccontextmanager
async def open_client(server: SimulatedServer, protocol: object = "1.6") -> AsyncIterator[LineClient]:
    """Connect and negotiate a protocol version; none where ``protocol`` is None."""
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        client = LineClient(stream)
        with trio.fail_after(10):
            if protocol is not None:
                await client.result("server.version", "test", protocol)
            yield client
