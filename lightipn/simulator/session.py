"""One connection without its socket: lines in, bytes out.

States: nothing but ``server.version`` is served until a version is negotiated; then everything. ``is_closing`` tells
the caller to send what it has and hang up. A notice is sent only where it differs from what the client was told last.
The caller holds every answer back for ``delay_s``, and calls ``release`` for the batches whose answers it has sent.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from lightipn.bitcoin.hashes import ScriptHash, hash_from_hex, hex_of
from lightipn.simulator import methods
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.false_answers import PHISHING, Falsified
from lightipn.simulator.floods import FLOOD_NOTICES, flood_of_statuses, flood_of_tips
from lightipn.simulator.lies import Lie, falsify, history_lies_of, lies_of
from lightipn.simulator.outlook import Outlook
from lightipn.simulator.request import (
    BAD_REQUEST,
    EXCESSIVE_USAGE,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LIMIT_EXCEEDED,
    PARSE_ERROR,
    Client,
    Refusal,
)
from lightipn.simulator.usage import CONNECTION_COST, ERROR_COST, Usage, cost_of

HUGE_LINE_BYTES = 32 << 20  # four times what ElectrumX sends at most (MAX_SEND, 8.1 MB)
GARBAGE = b'\x16\x03\x01 "no JSON at all\n'
HEADERS = "blockchain.headers.subscribe"
SCRIPTHASH = "blockchain.scripthash.subscribe"


def _line(message: object) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def _notice(method: str, params: list[Any]) -> bytes:
    return _line({"jsonrpc": "2.0", "method": method, "params": params})


class Session:
    """A conversation with one client.

    Args:
        calls: counts every request by its method; shared by all sessions of a server.
        outlook: what the server takes for the chain; shared likewise. By default one of its own.
        usage: what the client's address uses of the server; by default nobody else does.
        now: seconds on the caller's clock.
    """

    def __init__(
        self,
        chain: SimulatedChain,
        behaviour: Behaviour,
        calls: Counter[str],
        *,
        outlook: Outlook | None = None,
        usage: Usage | None = None,
        now: float = 0.0,
    ) -> None:
        self.outlook = Outlook(chain, behaviour) if outlook is None else outlook
        self.client = Client(self.outlook.chain(), chain, behaviour)
        self.calls = calls
        self.usage = Usage() if usage is None else usage
        self.usage.clients.append(self.client)
        self.is_closing = False
        self.delay_s = 0.0
        self.held_items = 0
        self._now = now
        self._lies: dict[str, list[Lie]] = {}
        self._flooded = 0
        self.behave(behaviour)
        self._charge(CONNECTION_COST)

    def behave(self, behaviour: Behaviour) -> None:
        """Behave like this from now on."""
        fields = behaviour.switched_on()
        self.outlook.behave(behaviour)
        self.client.behaviour = behaviour
        self.client.history_lies = history_lies_of(fields)
        self._lies = lies_of(fields)

    def answer_line(self, line: bytes, *, now: float = 0.0) -> bytes:
        """Answer a request or a batch; return one line, or nothing where nothing is answered.

        Args:
            now: seconds on the caller's clock.
        """
        self._now = now
        behaviour = self.client.behaviour
        self.delay_s = behaviour.delay_s
        answer = self._answer_message(line)
        if self.is_closing:
            self.delay_s = 0.0  # the last word, which nobody would be there to send later
        if behaviour.stalls or not answer:
            return b""
        if behaviour.garbage:
            return GARBAGE
        return b'{"padding":"' + b"x" * HUGE_LINE_BYTES if behaviour.huge_line else answer

    def release(self, items: int) -> None:
        """Count so many items of batches no longer: their answers were sent."""
        self.held_items -= items
        self.usage.batch_items -= items

    def end(self) -> None:
        """Give back what the client used, but for what it has cost."""
        self.release(self.held_items)
        self.usage.clients.remove(self.client)

    def notices(self, scripthashes: Iterable[ScriptHash] | None) -> bytes:
        """Return the notices due, one a line.

        Args:
            scripthashes: those that may have changed; None for all.
        """
        behaviour = self.client.behaviour
        if behaviour.stalls or behaviour.withholds_notice:
            return b""
        try:
            parts = [self._header_notice(), self._scripthash_notices(scripthashes)]
        except Refusal:
            self.is_closing = True
            return b""
        if behaviour.notice_of_scripthash_first:
            parts.reverse()
        return b"".join(parts) + self._flood()

    def _tell(self, method: str, params: list[Any]) -> Any:
        """Answer, remember what was told to a subscriber, and lie where that is the behaviour."""
        self.client.chain = self.outlook.chain()
        answer = methods.answer(self.client, method, params)
        lies = self._lies.get(method)
        if lies:
            answer = falsify(lies, Falsified(self.client, params, answer))
        if method == SCRIPTHASH:
            scripthash = ScriptHash(hash_from_hex(params[0]))
            limit, statuses = self.client.behaviour.max_subs_per_ip, self.client.statuses
            if limit is not None and scripthash not in statuses and self.usage.subscriptions >= limit:
                raise Refusal(LIMIT_EXCEEDED, "Subscription limit reached")
            statuses[scripthash] = answer
        elif method == HEADERS:
            self.client.tip = answer
        return answer

    def _header_notice(self) -> bytes:
        told = self.client.tip
        if told is None or self._tell(HEADERS, []) == told:
            return b""
        return _notice(HEADERS, [self.client.tip])

    def _scripthash_notices(self, scripthashes: Iterable[ScriptHash] | None) -> bytes:
        statuses = self.client.statuses
        lines = []
        for scripthash in list(statuses) if scripthashes is None else scripthashes:
            if scripthash in statuses:
                told, name = statuses[scripthash], hex_of(scripthash)
                status = self._tell(SCRIPTHASH, [name])
                if status != told:
                    lines.append(_notice(SCRIPTHASH, [name, status]))
        return b"".join(lines)

    def _flood(self) -> bytes:
        client, lines = self.client, []
        if client.behaviour.header_flood and client.tip is not None:
            for tip in flood_of_tips(client.chain, self._flooded):
                client.tip = tip
                lines.append(_notice(HEADERS, [tip]))
        if client.behaviour.notice_flood and client.statuses:
            for scripthash, status in flood_of_statuses(list(client.statuses), self._flooded):
                client.statuses[scripthash] = status
                lines.append(_notice(SCRIPTHASH, [hex_of(scripthash), status]))
        self._flooded += FLOOD_NOTICES if lines else 0
        return b"".join(lines)

    def _charge(self, cost: float) -> bool:
        """Charge a cost; tell whether there is still anything left to spend."""
        limits = self.client.behaviour.cost_limits
        if limits is None:
            return True
        self.usage.cost.charge(cost, limits, now=self._now)
        return not self.usage.cost.is_over(limits)

    def _error(self, code: int, message: str, request_id: object) -> dict[str, Any]:
        if self.client.behaviour.phishing_text:
            message = f"{message} {PHISHING}"
        return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": request_id}

    def _answer_message(self, line: bytes) -> bytes:
        try:
            message = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _line(self._error(PARSE_ERROR, "invalid JSON", None))
        if not isinstance(message, list):
            answer = self._answer_request(message)
            self._hold_back(1)
            return b"" if answer is None else _line(answer)
        if not message:
            return _line(self._error(INVALID_REQUEST, "batch is empty", None))
        if not self._has_room_for(len(message)):
            return _line(self._error(LIMIT_EXCEEDED, "Batch limit exceeded", None))
        self.held_items += len(message)
        self.usage.batch_items += len(message)
        answers = [answer for answer in map(self._answer_request, message) if answer is not None]
        self._hold_back(len(message))
        return _line(answers) if answers else b""

    def _has_room_for(self, items: int) -> bool:
        behaviour = self.client.behaviour
        in_one, in_all = behaviour.batch_limit, behaviour.max_batch_items
        return (in_one is None or items <= in_one) and (in_all is None or self.usage.batch_items + items <= in_all)

    def _hold_back(self, requests: int) -> None:
        limits = self.client.behaviour.cost_limits
        if limits is not None:
            self.delay_s += self.usage.cost.delay_s(limits, requests)

    def _answer_request(self, request: Any) -> dict[str, Any] | None:
        """Answer one request; None where it has no id, and after the session was ended."""
        if self.is_closing:
            return None
        try:
            match request:
                case {"method": str(method), **rest}:
                    params = rest.get("params", [])
                case _:
                    return self._error(INVALID_REQUEST, "not a request", None)
            self.calls[method] += 1
            if not self._charge(cost_of(method, params)):
                raise Refusal(EXCESSIVE_USAGE, "excessive resource usage", closes=True)
            if not self.client.protocol and method != "server.version":
                raise Refusal(BAD_REQUEST, "use server.version to identify client", closes=True)
            if not isinstance(params, list):
                raise Refusal(INVALID_PARAMS, "want parameters as a list")
            result = self._tell(method, params)
        except Refusal as refusal:
            self.is_closing |= refusal.closes
            self._charge(ERROR_COST)
            return self._error(refusal.code, str(refusal), request.get("id")) if "id" in request else None
        return {"jsonrpc": "2.0", "result": result, "id": request["id"]} if "id" in request else None
