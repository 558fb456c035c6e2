"""One connection without its socket: lines in, bytes out.

States: nothing but ``server.version`` is served until a version is negotiated; then everything. ``is_closing`` tells
the caller to send what it has and hang up. A notice is sent only where it differs from what the client was told last.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from lightipn.bitcoin.hashes import ScriptHash, hash_from_hex, hex_of
from lightipn.simulator import methods
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.lies import Falsified, Lie, falsify, lies_of
from lightipn.simulator.request import (
    BAD_REQUEST,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LIMIT_EXCEEDED,
    PARSE_ERROR,
    Client,
    Refusal,
)

HUGE_LINE_BYTES = 32 << 20  # four times what ElectrumX sends at most (MAX_SEND, 8.1 MB)
GARBAGE = b'\x16\x03\x01 "no JSON at all\n'
HEADERS = "blockchain.headers.subscribe"
SCRIPTHASH = "blockchain.scripthash.subscribe"


def _line(message: object) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def _error(code: int, message: str, request_id: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": request_id}


class Session:
    """A conversation with one client.

    Args:
        calls: counts every request by its method; shared by all sessions of a server.
    """

    def __init__(self, chain: SimulatedChain, behaviour: Behaviour, calls: Counter[str]) -> None:
        self.client = Client(chain, behaviour)
        self.calls = calls
        self.is_closing = False
        self._lies: dict[str, list[Lie]] = {}
        self.behave(behaviour)

    def behave(self, behaviour: Behaviour) -> None:
        """Behave like this from now on."""
        self.client.behaviour = behaviour
        self._lies = lies_of(behaviour.switched_on())

    def answer_line(self, line: bytes) -> bytes:
        """Answer a request or a batch; return one line, or nothing where nothing is answered."""
        answer = self._answer_message(line)
        behaviour = self.client.behaviour
        if behaviour.stalls or not answer:
            return b""
        if behaviour.garbage:
            return GARBAGE
        return b'{"padding":"' + b"x" * HUGE_LINE_BYTES if behaviour.huge_line else answer

    def notices(self, scripthashes: Iterable[ScriptHash] | None) -> bytes:
        """Return the notices due, one a line.

        Args:
            scripthashes: those that may have changed; None for all.
        """
        if self.client.behaviour.stalls:
            return b""
        try:
            parts = [self._header_notice(), self._scripthash_notices(scripthashes)]
        except Refusal:
            self.is_closing = True
            return b""
        if self.client.behaviour.notice_of_scripthash_first:
            parts.reverse()
        return b"".join(parts)

    def _tell(self, method: str, params: list[Any]) -> Any:
        """Answer, remember what was told to a subscriber, and lie where that is the behaviour."""
        answer = methods.answer(self.client, method, params)
        lies = self._lies.get(method)
        if lies:
            answer = falsify(lies, Falsified(self.client, params, answer))
        if method == SCRIPTHASH:
            self.client.statuses[ScriptHash(hash_from_hex(params[0]))] = answer
        elif method == HEADERS:
            self.client.tip = answer
        return answer

    def _header_notice(self) -> bytes:
        told = self.client.tip
        if told is None or self._tell(HEADERS, []) == told:
            return b""
        return _line({"jsonrpc": "2.0", "method": HEADERS, "params": [self.client.tip]})

    def _scripthash_notices(self, scripthashes: Iterable[ScriptHash] | None) -> bytes:
        statuses = self.client.statuses
        lines = []
        for scripthash in list(statuses) if scripthashes is None else scripthashes:
            if scripthash in statuses:
                told, name = statuses[scripthash], hex_of(scripthash)
                status = self._tell(SCRIPTHASH, [name])
                if status != told:
                    lines.append(_line({"jsonrpc": "2.0", "method": SCRIPTHASH, "params": [name, status]}))
        return b"".join(lines)

    def _answer_message(self, line: bytes) -> bytes:
        try:
            message = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _line(_error(PARSE_ERROR, "invalid JSON", None))
        if not isinstance(message, list):
            answer = self._answer_request(message)
            return b"" if answer is None else _line(answer)
        if not message:
            return _line(_error(INVALID_REQUEST, "batch is empty", None))
        limit = self.client.behaviour.batch_limit
        if limit is not None and len(message) > limit:
            return _line(_error(LIMIT_EXCEEDED, "Batch limit exceeded", None))
        answers = [answer for answer in map(self._answer_request, message) if answer is not None]
        return _line(answers) if answers else b""

    def _answer_request(self, request: Any) -> dict[str, Any] | None:
        """Answer one request; None where it has no id, and after the session was ended."""
        if self.is_closing:
            return None
        try:
            match request:
                case {"method": str(method), **rest}:
                    params = rest.get("params", [])
                case _:
                    return _error(INVALID_REQUEST, "not a request", None)
            self.calls[method] += 1
            if not self.client.protocol and method != "server.version":
                raise Refusal(BAD_REQUEST, "use server.version to identify client", closes=True)
            if not isinstance(params, list):
                raise Refusal(INVALID_PARAMS, "want parameters as a list")
            result = self._tell(method, params)
        except Refusal as refusal:
            self.is_closing |= refusal.closes
            return _error(refusal.code, str(refusal), request.get("id")) if "id" in request else None
        return {"jsonrpc": "2.0", "result": result, "id": request["id"]} if "id" in request else None
