"""Electrum's JSON-RPC as bytes in, bytes out (sans-IO).

msgspec turns bytes into objects and back; aiorpcX's codec says what the objects mean. A line is one message, or a batch
of them; the answers to a batch may come in any order, and one by one.
Laws: an id is used once and answered once; an answer nobody asked for ends the link; a line has a byte limit.
An error with a null id names no request: it refuses whatever is under way (Fulcrum, past its batch limit).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from aiorpcx.jsonrpc import JSONRPCv2, Request, RPCError
from aiorpcx.jsonrpc import ProtocolError as CodecError

from lightipn.errors import ProtocolError

# How long an answer may be, by what was asked: a parsed line takes twenty times its bytes in memory, so a server must
# not be able to send more than belongs to the questions under way. ElectrumX limits one answer to 8.1 MB.
ANSWER_BYTES = {
    "blockchain.transaction.get": 8_200_000,
    "blockchain.scripthash.get_history": 8_200_000,
    "blockchain.block.headers": 400_000,
}
OTHER_ANSWER_BYTES = 8_000
STANDING_LINE_BYTES = 256_000  # notifications, and padding
MAX_LINE_BYTES = 16 * 1024 * 1024
# A list or an object takes 60 bytes in memory, and two on the wire. No answer that we ask for has one every 16 bytes.
FREE_STRUCTURES = 64
BYTES_PER_STRUCTURE = 16
KEPT_LINE_BYTES = 4096  # of a line that broke the protocol


@dataclass(frozen=True, slots=True)
class Call:
    """A method with its positional parameters."""

    method: str
    params: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A result; its shape is not judged yet."""

    request_id: int
    result: object


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error. ``request_id`` is None where the server named no request. Its text is dropped, its code kept."""

    request_id: int | None
    code: int


@dataclass(frozen=True, slots=True)
class Notification:
    """Something the server says unasked."""

    method: str
    params: list[object]


Incoming = Answer | Refusal | Notification


class ElectrumProtocol:
    """One link's framing and pairing.

    Args:
        max_line_bytes: a longer line ends the link.

    Attributes:
        notified_bytes: length of all lines so far that held a notification.
    """

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._next_id = 1
        self._open: dict[int, int] = {}  # id → bytes that its answer may have
        self._open_bytes = 0
        self._abandoned: dict[int, int] = {}
        self.notified_bytes = 0

    def request(self, calls: Sequence[Call]) -> tuple[list[int], bytes]:
        """Number the calls and return their ids and the bytes to send: one line, a batch if there are several."""
        ids = list(range(self._next_id, self._next_id + len(calls)))
        self._next_id += len(calls)
        for call, request_id in zip(calls, ids, strict=True):
            self._open[request_id] = ANSWER_BYTES.get(call.method, OTHER_ANSWER_BYTES)
            self._open_bytes += self._open[request_id]
        payloads = [
            JSONRPCv2.request_payload(Request(call.method, call.params), request_id)
            for call, request_id in zip(calls, ids, strict=True)
        ]
        return ids, msgspec.json.encode(payloads if len(payloads) > 1 else payloads[0]) + b"\n"

    def abandon(self, ids: Sequence[int]) -> None:
        """Stop waiting for these; a late answer to one is dropped without complaint."""
        for request_id in ids:
            self._abandoned[request_id] = self._open.pop(request_id)

    def receive(self, data: bytes) -> list[Incoming]:
        """Take received bytes and return the messages that they complete.

        Raises:
            ProtocolError: not JSON-RPC, an answer nobody asked for, or a line over the limit.
        """
        self._buffer += data
        messages: list[Incoming] = []
        start = 0
        while (end := self._buffer.find(b"\n", max(start, self._scanned))) >= 0:
            messages.extend(self._parse_line(bytes(self._buffer[start:end])))
            start = end + 1
        del self._buffer[:start]
        self._scanned = len(self._buffer)
        limit_bytes = min(self._max_line_bytes, STANDING_LINE_BYTES + self._open_bytes)
        if self._scanned > limit_bytes:
            raise ProtocolError(f"line has more than {limit_bytes} bytes")
        return messages

    def _parse_line(self, line: bytes) -> list[Incoming]:
        structures = line.count(b"{") + line.count(b"[")
        if structures > FREE_STRUCTURES + len(line) // BYTES_PER_STRUCTURE:
            raise ProtocolError(
                f"line of {len(line)} bytes holds {structures} lists and objects", raw=line[:KEPT_LINE_BYTES]
            )
        try:
            decoded = msgspec.json.decode(line)
        except (ValueError, RecursionError) as error:  # DecodeError is a ValueError
            raise ProtocolError("line is not JSON", raw=line[:KEPT_LINE_BYTES]) from error
        payloads = decoded if isinstance(decoded, list) else [decoded]
        try:
            messages = [message for payload in payloads if (message := self._parse(payload)) is not None]
        except ProtocolError as error:
            error.raw = line[:KEPT_LINE_BYTES]
            raise
        if any(isinstance(message, Notification) for message in messages):
            self.notified_bytes += len(line)
        return messages

    def _parse(self, payload: object) -> Incoming | None:
        if not isinstance(payload, dict):
            raise ProtocolError("message is not a JSON object")
        if "method" in payload:
            method, params = payload["method"], payload.get("params", [])
            if not isinstance(method, str) or not isinstance(params, list):
                raise ProtocolError("notification has the wrong shape")
            return Notification(method, params)
        try:
            value = JSONRPCv2.response_value(payload)
        except CodecError as error:
            raise ProtocolError("message is neither an answer nor a notification") from error
        request_id = payload.get("id")
        if request_id is None and isinstance(value, RPCError):
            return Refusal(None, _code_of(value))
        # aiorpcX would take true, 1.0 and "1" for 1
        if type(request_id) is not int:
            raise ProtocolError("answer has an id that is no integer")
        if request_id in self._abandoned:
            self._open_bytes -= self._abandoned.pop(request_id)
            return None
        if request_id not in self._open:
            raise ProtocolError("answer to nothing that was asked")
        self._open_bytes -= self._open.pop(request_id)
        if isinstance(value, RPCError):
            return Refusal(request_id, _code_of(value))
        return Answer(request_id, value)


def _code_of(error: RPCError) -> int:
    return error.code if type(error.code) is int else 0
