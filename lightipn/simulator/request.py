"""What every request stands on: who asks, how parameters are read, and how an answer is refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lightipn.bitcoin.hashes import ScriptHash, Txid, hash_from_hex
from lightipn.chain.history import History
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain

Version = tuple[int, ...]
MIN_PROTOCOL: Version = (1, 4)
MAX_HEADERS = 2016  # ElectrumX, MAX_CHUNK_SIZE
# JSON-RPC 2.0 section 5.1, and the codes below 100 that ElectrumX and Fulcrum share.
PARSE_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, INVALID_PARAMS = -32700, -32600, -32601, -32602
BAD_REQUEST, DAEMON_ERROR, LIMIT_EXCEEDED = 1, 2, 4
EXCESSIVE_USAGE = -101  # aiorpcX

HistoryLie = Callable[[History, "Client"], History]
"""Takes a history and returns what is to be claimed instead."""


class Refusal(Exception):
    """An answer that is an error object."""

    def __init__(self, code: int, message: str, *, closes: bool = False) -> None:
        self.code = code
        self.closes = closes
        super().__init__(message)


@dataclass(slots=True, eq=False)
class Client:
    """What a server knows of one connection.

    Args:
        chain: what the server takes for the chain.
        node: the true chain, to which it broadcasts.
        history_lies: told of every history, one after the other.
        protocol: what was negotiated; empty before.
        statuses: by subscribed scripthash, the status told last.
        tip: the answer to ``headers.subscribe`` told last; None before it was asked for.
    """

    chain: SimulatedChain
    node: SimulatedChain
    behaviour: Behaviour
    history_lies: tuple[HistoryLie, ...] = ()
    protocol: Version = ()
    statuses: dict[ScriptHash, str | None] = field(default_factory=dict)
    tip: Any = None

    def history(self, scripthash: ScriptHash) -> History:
        """Return what is claimed of a scripthash: lists and statuses are made from it."""
        history = self.chain.history(scripthash)
        for lie in self.history_lies:
            history = lie(history, self)
        return history


def _hash(value: object, kind: str) -> bytes:
    try:
        return hash_from_hex(value)
    except ValueError:
        raise Refusal(BAD_REQUEST, f"not a valid {kind}") from None


def scripthash_from(value: object) -> ScriptHash:
    """Read a scripthash."""
    return ScriptHash(_hash(value, "script hash"))


def txid_from(value: object) -> Txid:
    """Read a txid."""
    return Txid(_hash(value, "transaction hash"))


def number_from(value: object) -> int:
    """Read a height, a position or a count."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refusal(BAD_REQUEST, "want a non-negative integer")
    return value


def flag_from(value: object) -> bool:
    """Read a truth value."""
    if not isinstance(value, bool):
        raise Refusal(BAD_REQUEST, "want a boolean value")
    return value


def version_text(version: Version) -> str:
    """Print a protocol version."""
    return ".".join(map(str, version))


def version_from(text: object) -> Version:
    """Read a protocol version; trailing zeros mean nothing.

    Raises:
        Refusal: not a version.
    """
    if not isinstance(text, str) or not all(part.isdecimal() for part in text.split(".")):
        raise Refusal(BAD_REQUEST, "unsupported protocol version", closes=True)
    version = tuple(map(int, text.split(".")))
    while len(version) > 2 and version[-1] == 0:
        version = version[:-1]
    return version
