"""The interface of every backend: it delivers evidence, never conclusions.

Several servers speak at once. Each update names its server, and is consistent with itself, not yet believed.
"""

from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint, TxOutput
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
    """A claimed proof: ``position`` in the block from 0, ``siblings`` from the leaf upwards, 32 bytes each.

    Args:
        server: who sent it; empty where nobody did.
    """

    position: int
    siblings: tuple[bytes, ...]
    server: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class RawTransaction:
    """Bytes that ``server`` sent for a txid; the caller hashes them."""

    server: str
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaviour:
    """What a server was caught with.

    Args:
        kind: kebab-case, such as ``false-header``.
        claim: what the server said, in our words.
        contradiction: what shows that it is wrong, in our words.
        raw: what the server sent, or its beginning.
        observed_at: unix seconds; 0 until it is recorded.
    """

    server: str
    kind: str
    claim: str
    contradiction: str
    raw: bytes = b""
    observed_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What ``status`` and ``/readyz`` show of one server.

    Args:
        name: ``host:port:s`` or ``host:port:t``; of one's own node its host and port.
        verdict: ``connected``, ``connecting``, ``unavailable``, ``refused``, ``behind``, ``misbehaved``, ``banned`` or
            ``distrusted`` (its certificate is not the one we know; only the operator can mend that).
        reason: code of the last trouble, empty when there is none. Never the server's own words.
        software, protocol: as told, made printable; empty before the first answer.
        tip_height: as told; None before.
        latency_ms: of the last answer that was timed; None before.
        fingerprint: SHA-256 of the certificate pinned at first use; None where none is.
        is_ca_signed: its certificate was verified by the system once, and must be from then on.
        banned_until: unix seconds; 0 if it is not banned.
    """

    name: str
    verdict: str
    reason: str = ""
    software: str = ""
    protocol: str = ""
    tip_height: int | None = None
    latency_ms: float | None = None
    fingerprint: bytes | None = None
    is_ca_signed: bool = False
    banned_until: int = 0


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


@dataclass(frozen=True, slots=True)
class FeeHistogram:
    """What a server claims of its mempool: fee rates (satoshis a virtual byte), and the virtual bytes at each."""

    steps: tuple[tuple[float, int], ...]

    def vbytes_above(self, fee_rate: float) -> int:
        """Return how much of the mempool pays a higher rate."""
        return sum(vbytes for rate, vbytes in self.steps if rate > fee_rate)


class ChainSource(Protocol):
    """A supplier of evidence about the chain.

    Every method that fetches raises ``SourceUnavailableError`` when no server answers, ``SourceRefusedError`` when one
    answers with an error, and ``ProtocolError`` when its answer has the wrong shape.
    """

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> bool:
        """Register a scripthash with what of it has been absorbed; False if it was registered, and stays as it is.

        A ``ScriptHashChanged`` follows only where the status differs. Idempotent; survives reconnects.
        """

    def absorbed(self, scripthash: ScriptHash, status: Status | None, *, server: str, is_news: bool) -> None:
        """Tell that a server's history was worked in; of a scripthash that is watched no more nothing happens.

        Args:
            is_news: it told something that was not known before. Else the server is behind, or orders its mempool
                in another way: its status is remembered for that server alone.
        """

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a scripthash."""

    def recheck(self, scripthash: ScriptHash, *, after_s: float, server: str = "") -> None:
        """Ask again whatever was absorbed: one server if it is named (which may say by now what is known), else all."""

    def updates(self) -> AsyncIterator[Update]:
        """Yield what changed; bounded inside, so a slow reader slows the source."""

    async def fetch_headers(
        self, start: int, count: int, *, server: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """Return up to ``count`` consecutive raw headers (80 bytes each); fewer at the tip."""

    async def fetch_merkle_branch(
        self, txid: Txid, height: int, *, server: str = "", prefer: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> MerkleBranch:
        """Return what is claimed to prove ``txid`` in the block at ``height``.

        Args:
            server: ask this very server.
            prefer: the server to ask first; others are asked when it refuses, is gone, or takes long.
            avoid: servers not to ask.
        """

    async def fetch_transaction(
        self, txid: Txid, *, server: str = "", prefer: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> RawTransaction:
        """Return raw bytes; whom is asked is said as for ``fetch_merkle_branch``."""

    async def fetch_output(self, outpoint: Outpoint) -> TxOutput | None:
        """Return an output that no block has spent, from a source that keeps all of them; None from any other.

        Who gets None asks for the transaction itself.
        """

    async def fetch_fee_histogram(self, *, server: str) -> FeeHistogram:
        """Return what a server claims of its mempool's fees."""

    async def fetch_fee_rate(self, target_blocks: int, *, server: str) -> float | None:
        """Return the fee rate that a server claims to be enough within so many blocks.

        Returns:
            Satoshis a virtual byte; None where the server has no estimate.
        """

    async def broadcast(self, raw: bytes, *, server: str) -> None:
        """Hand a transaction to a server.

        Raises:
            SourceRefusedError: the server refuses it, or has it in a block already.
        """

    async def fetch_history(self, scripthash: ScriptHash, *, server: str) -> History:
        """Return what a server lists for a scripthash now; not judged."""

    def connected(self) -> Sequence[str]:
        """Return the names of the servers that can be asked now."""

    def voices(self) -> int:
        """Return how many servers are connected, or may be within moments: the start, or a link that just broke."""

    def report(self, found: Misbehaviour) -> None:
        """Tell that a server lied: it is dropped and banned, and the evidence kept."""

    def demote(self, server: str, reason: str) -> None:
        """Tell that a server is of no use now (it lags, or follows another branch): another one takes its place."""

    def servers(self) -> Sequence[ServerState]:
        """Return the state of every server in use, or tried lately."""

    def statistics(self) -> WatchStatistics:
        """Return how many scripthashes are subscribed."""
