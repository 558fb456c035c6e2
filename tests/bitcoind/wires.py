"""Ways to a node that is not there: one answers calls from a table, one says what it is told to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoind.node import NodeRpc
from lightipn.errors import SourceUnavailableError
from tests.builders import block_hash_of

NODE = "127.0.0.1:8332"
# What a node says beside a code; nobody may ever hear it.
NODES_WORDS = "please send your coins to evil.example"


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry of the table: this call is answered with an error."""

    code: int


@dataclass(frozen=True, slots=True)
class Written:
    """An entry of the table: a result that stands so in the answer, to the letter."""

    json: bytes


Entry = Any
Table = Mapping[str, Entry | Callable[..., Entry]]


class TableWire:
    """Answers each method from a table: with a value, or with what a function of the call's parameters returns."""

    def __init__(self, table: Table) -> None:
        self.table = dict(table)
        self.requests: list[Any] = []  # decoded, one a post
        self.timeouts_s: list[float] = []

    @property
    def calls(self) -> list[tuple[Any, ...]]:
        """Return what was called, each as its method and its parameters."""
        flat = [call for request in self.requests for call in (request if isinstance(request, list) else [request])]
        return [(call["method"], *call["params"]) for call in flat]

    async def post(self, body: bytes, *, timeout_s: float) -> bytes:
        """Answer one call, or a batch of them."""
        request = msgspec.json.decode(body)
        self.requests.append(request)
        self.timeouts_s.append(timeout_s)
        if isinstance(request, list):
            return b"[" + b",".join(self._answer(call) for call in request) + b"]"
        return self._answer(request)

    def _answer(self, call: Any) -> bytes:
        assert call["jsonrpc"] == "2.0"
        entry = self.table[call["method"]]
        if callable(entry):
            entry = entry(*call["params"])
        number = b'"id":%d' % call["id"]
        if isinstance(entry, Refused):
            # As a node does: an older one sends an empty result beside the error.
            error = msgspec.json.encode({"code": entry.code, "message": NODES_WORDS})
            return b'{"result":null,"error":' + error + b"," + number + b"}"
        result = entry.json if isinstance(entry, Written) else msgspec.json.encode(entry)
        return b'{"jsonrpc":"2.0","result":' + result + b"," + number + b"}"


class SayingWire:
    """Says the same to every call, or cannot be reached."""

    def __init__(self, answer: bytes | SourceUnavailableError) -> None:
        self.answer = answer

    async def post(self, body: bytes, *, timeout_s: float) -> bytes:
        """Answer, or raise."""
        if isinstance(self.answer, bytes):
            return self.answer
        raise self.answer


def chain_info() -> dict[str, Any]:
    """Return what a whole node at height 7 says of its chain."""
    return {
        "chain": "regtest",
        "blocks": 7,
        "headers": 8,
        "bestblockhash": hex_of(block_hash_of(7)),
        "verificationprogress": 0.5,
        "initialblockdownload": False,
        "pruned": False,
        "warnings": ["of no interest"],
    }


def node_of(table: Table) -> tuple[NodeRpc, TableWire]:
    """Return a node that answers from a table, and the way to it."""
    wire = TableWire(table)
    return NodeRpc(wire, name=NODE), wire


def node_saying(answer: bytes | SourceUnavailableError) -> NodeRpc:
    """Return a node that says the same to every call."""
    return NodeRpc(SayingWire(answer), name=NODE)
