"""Events: what happened to a payment or a block. Each is the consequence of one change, and committed with it."""

import enum
from dataclasses import dataclass

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid


class EventKind(enum.Enum):
    """The vocabulary shared by all dialects."""

    SEEN = "payment.seen"
    CONFIRMED = "payment.confirmed"
    REVERTED = "payment.reverted"
    REPLACED = "payment.replaced"
    DROPPED = "payment.dropped"
    BLOCK_CONNECTED = "block.connected"
    BLOCK_DISCONNECTED = "block.disconnected"


class TrustLevel(enum.Enum):
    """Why we believe an event: own headers and a branch, several servers, one server's word, or one's own node."""

    PROVED = "proved"
    AGREED = "agreed"
    SINGLE = "single"
    OWN_NODE = "own-node"


def trust_of(seen_by: int) -> TrustLevel:
    """Return what a claim is worth that so many independent servers make."""
    return TrustLevel.AGREED if seen_by > 1 else TrustLevel.SINGLE


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentEvent:
    """Something happened to a payment.

    Args:
        net_sat: the payment's net amount in satoshis.
        height: of its block, for ``payment.confirmed``; of the block it lost, for ``payment.reverted``; else None.
        block_hash: of that block.
        seen_by: servers that held the raw transaction when it was first believed; 0 where a block proves it.
        signals_rbf: an input allows that the transaction is replaced (BIP-125).
        replaced_by: the transaction that took its place, for ``payment.replaced``.
    """

    kind: EventKind
    scripthash: ScriptHash
    txid: Txid
    net_sat: int
    height: int | None
    trust: TrustLevel
    block_hash: BlockHash | None = None
    seen_by: int = 0
    signals_rbf: bool = False
    replaced_by: Txid | None = None
