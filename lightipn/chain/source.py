"""The interface of every backend: it delivers evidence, never conclusions."""

from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.chain.history import History, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class TipChanged:
    """A server says that its best block is now this one.

    Args:
        raw_header: 80 bytes, not yet judged.
    """

    server: str
    height: int
    raw_header: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptHashChanged:
    """A server's history of a scripthash differs from what was known; it hashes to ``status`` and no more is proved."""

    server: str
    scripthash: ScriptHash
    status: Status | None
    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLost:
    """A server is gone; another takes its place when one answers."""

    server: str


Update = TipChanged | ScriptHashChanged | SourceLost


@dataclass(frozen=True, slots=True)
class MerkleBranch:
    """A claimed proof: ``position`` in the block from 0, ``siblings`` from the leaf upwards, 32 bytes each."""

    position: int
    siblings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What ``status`` and ``/readyz`` show of one server.

    Args:
        name: ``host:port:s`` or ``host:port:t``.
        verdict: ``connected``, ``connecting``, ``unavailable``, ``refused`` or ``misbehaved``.
        reason: code of the last trouble, empty when there is none. Never the server's own words.
        software, protocol: as told, made printable; empty before the first answer.
        tip_height: as told; None before.
        latency_ms: of the last answer that was timed; None before.
    """

    name: str
    verdict: str
    reason: str = ""
    software: str = ""
    protocol: str = ""
    tip_height: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStatistics:
    """How far the watches are.

    Args:
        total: registered scripthashes.
        subscribed: of these, acknowledged by a server.
        quarantined: of these, not watchable (their history is too large for the server).
        oldest_gap_s: for how long the longest-waiting one has been without a subscription; 0.0 when none waits.
    """

    total: int
    subscribed: int
    quarantined: int
    oldest_gap_s: float


class ChainSource(Protocol):
    """A supplier of evidence about the chain.

    Every method that fetches raises ``SourceUnavailableError`` when no server answers, ``SourceRefusedError`` when one
    answers with an error, and ``ProtocolError`` when its answer has the wrong shape.
    """

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> None:
        """Register a scripthash with what of it has been absorbed; one that is registered stays as it is.

        A ``ScriptHashChanged`` follows only where the status differs. Idempotent; survives reconnects.
        """

    def absorbed(self, scripthash: ScriptHash, status: Status | None) -> None:
        """Tell that a history was worked in; of a scripthash that is watched no more nothing happens."""

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a scripthash."""

    def recheck(self, scripthash: ScriptHash, *, after_s: float) -> None:
        """Ask for the history again, whatever the status says: something of it could not be proved."""

    def updates(self) -> AsyncIterator[Update]:
        """Yield what changed; bounded inside, so a slow reader slows the source."""

    async def fetch_headers(
        self, start: int, count: int, *, server: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """Return up to ``count`` consecutive raw headers (80 bytes each); fewer at the tip."""

    async def fetch_merkle_branch(
        self, txid: Txid, height: int, *, avoid: AbstractSet[str] = frozenset()
    ) -> MerkleBranch:
        """Return what is claimed to prove ``txid`` in the block at ``height``."""

    async def fetch_transaction(self, txid: Txid, *, avoid: AbstractSet[str] = frozenset()) -> bytes:
        """Return raw bytes, which the caller hashes."""

    def report(self, server: str, misbehaviour: str, raw: bytes = b"") -> None:
        """Tell that a server was caught: it is dropped and penalised."""

    def servers(self) -> Sequence[ServerState]:
        """Return the state of every server in use, or tried lately."""

    def statistics(self) -> WatchStatistics:
        """Return how many scripthashes are subscribed."""
