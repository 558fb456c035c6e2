"""Events: what happened to a payment. Each is the consequence of one ledger change."""

import enum
from dataclasses import dataclass

from lightipn.bitcoin.hashes import ScriptHash, Txid


class EventKind(enum.Enum):
    """The vocabulary shared by all dialects."""

    SEEN = "payment.seen"
    CONFIRMED = "payment.confirmed"
    REVERTED = "payment.reverted"
    REPLACED = "payment.replaced"


class TrustLevel(enum.Enum):
    """Why we believe an event."""

    PROVED = "proved"
    SINGLE = "single"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentEvent:
    """Something happened to a payment.

    Args:
        net_sat: the payment's net amount in satoshis.
        height: of its block, for ``payment.confirmed``; of the block it lost, for ``payment.reverted``; else None.
        replaced_by: the transaction that took its place, for ``payment.replaced``.
    """

    kind: EventKind
    scripthash: ScriptHash
    txid: Txid
    net_sat: int
    height: int | None
    trust: TrustLevel
    replaced_by: Txid | None = None
