"""One connection to an Electrum server, as thin as a test needs it."""

import json
from collections import deque
from collections.abc import Sequence
from typing import Any

import trio


class RpcError(Exception):
    """A well-formed refusal of bitcoind or ElectrumX; carries its ``code``."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code


class ElectrumLink:
    """One connection to an Electrum server, as thin as a test needs it; a notification is never lost."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = bytearray()
        self.notifications: deque[dict[str, Any]] = deque()
        self.last_id = 0

    async def request(self, method: str, *params: Any) -> Any:
        """Ask, and return the result.

        Raises:
            RpcError: the server refused.
            EOFError: the server closed the connection.
        """
        self.last_id += 1
        message = {"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params}
        await self.stream.send_all(json.dumps(message).encode() + b"\n")
        while "id" not in (answer := await self.receive_line()):
            self.notifications.append(answer)
        if error := answer.get("error"):
            raise RpcError(error["code"], f"{method}: {error['message']}")
        return answer["result"]

    async def request_all(self, method: str, arguments: Sequence[str]) -> list[Any]:
        """Ask the same of each argument, in one batch, and return the results in their order; raises as ``request``."""
        first = self.last_id + 1
        self.last_id += len(arguments)
        messages = [
            {"jsonrpc": "2.0", "id": first + place, "method": method, "params": [argument]}
            for place, argument in enumerate(arguments)
        ]
        await self.stream.send_all(json.dumps(messages).encode() + b"\n")
        while not isinstance(answers := await self.receive_line(), list):
            self.notifications.append(answers)
        if refused := next((answer["error"] for answer in answers if "error" in answer), None):
            raise RpcError(refused["code"], f"{method}: {refused['message']}")
        return [answer["result"] for answer in sorted(answers, key=lambda answer: answer["id"])]

    async def receive_notification(self) -> dict[str, Any]:
        """Return the next notification; raises as ``request`` does."""
        if self.notifications:
            return self.notifications.popleft()
        return await self.receive_line()

    async def receive_line(self) -> Any:
        """Return the next message of any kind; raises as ``request`` does."""
        while (end := self.received.find(b"\n")) < 0:
            received = await self.stream.receive_some()
            if not received:
                raise EOFError("the server closed the connection")
            self.received += received
        line = bytes(self.received[:end])
        del self.received[: end + 1]
        return json.loads(line)
