"""Ledger entries: one transaction's effect on one output script, and where the transaction is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import MAX_MONEY_SAT, Outpoint
from lightipn.chain.verifier import Confirmed, Unconfirmed

COINBASE_MATURITY_BLOCKS = 100


@dataclass(frozen=True, slots=True)
class Replaced:
    """Gone: an input was spent by another transaction."""

    by_txid: Txid


@dataclass(frozen=True, slots=True)
class Dropped:
    """Gone: no server knows it any more. It may come back."""


PaymentState = Confirmed | Unconfirmed | Replaced | Dropped
GONE = (Replaced, Dropped)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One payment.

    Args:
        outputs: (index, satoshis) of the outputs that pay the script.
        spends: the outpoints that the transaction spends, of whatever script.
        sent_sat: sum of the script's own outputs among ``spends``.
        seen_at: unix seconds of our first notice.
        gone_at: when it was replaced or dropped; None while it stands.
    """

    txid: Txid
    state: PaymentState
    outputs: tuple[tuple[int, int], ...]
    spends: tuple[Outpoint, ...]
    sent_sat: int
    is_coinbase: bool
    signals_rbf: bool
    seen_at: int
    gone_at: int | None = None

    @property
    def received_sat(self) -> int:
        """Sum of the outputs that pay the script, in satoshis."""
        return sum(amount_sat for _, amount_sat in self.outputs)

    @property
    def net_sat(self) -> int:
        """What the transaction changed for the script, in satoshis; negative where it spent more than it paid."""
        return self.received_sat - self.sent_sat

    def counts_at_height(self, confirmations: int) -> int | None:
        """Return the tip height from which on this payment has so many confirmations; None outside a block.

        Coinbase outputs cannot be spent before they are 100 deep, so they do not count earlier.
        """
        if not isinstance(self.state, Confirmed):
            return None
        wanted = max(confirmations, COINBASE_MATURITY_BLOCKS) if self.is_coinbase else confirmations
        return self.state.height + wanted - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedTotals:
    """What an address received, at an asked depth.

    Args:
        confirmed_sat: sum of the positive nets of payments that are deep enough.
        unconfirmed_sat: the same of those that are not yet, and are not gone.
        changes_at_height: the lowest tip height at which a new block alone would change these; None if none would.
    """

    confirmed_sat: int
    unconfirmed_sat: int
    changes_at_height: int | None


def totals_of(entries: Iterable[LedgerEntry], *, tip_height: int, confirmations: int) -> ReceivedTotals:
    """Sum up what was received: net per transaction, so that change to the same address is no deposit.

    Args:
        confirmations: how deep a payment must be to count as confirmed; at least 1.
    """
    confirmed_sat = unconfirmed_sat = 0
    heights = []
    for entry in entries:
        deposit_sat = max(0, entry.net_sat)
        if isinstance(entry.state, GONE) or deposit_sat == 0:
            continue
        if entry.is_coinbase and not isinstance(entry.state, Confirmed):
            continue  # mined coins exist in their block alone: a reorg that took it took them
        counts_at = entry.counts_at_height(confirmations)
        if counts_at is not None and counts_at <= tip_height:
            confirmed_sat += deposit_sat
            continue
        unconfirmed_sat += deposit_sat
        if counts_at is not None:
            heights.append(counts_at)
    # More than all coins can only be a lie of unconfirmed claims: bounded, so that no sum outgrows its 64 bits.
    return ReceivedTotals(
        confirmed_sat=min(confirmed_sat, MAX_MONEY_SAT),
        unconfirmed_sat=min(unconfirmed_sat, MAX_MONEY_SAT),
        changes_at_height=min(heights, default=None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a payment stood in the mempool when it was first seen; all of it is claimed by servers.

    Args:
        vbytes_ahead: how much of the mempool pays a higher fee rate, in virtual bytes; None where that is not known.
        is_contested: another transaction was seen that spends the same.
    """

    has_unconfirmed_parent: bool = False
    vbytes_ahead: int | None = None
    is_contested: bool = False


UNKNOWN_STANDING = Standing()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptPayments:
    """All payments of one script.

    Args:
        standings: of unconfirmed ones, where somebody asked for that.
        unproved: outputs that pay the script as one's own node says, which has pruned what would prove it; satoshis by
            outpoint. They are no payments, but what spends one spends the script's coins.
    """

    scripthash: ScriptHash
    script: bytes
    entries: dict[Txid, LedgerEntry]
    standings: Mapping[Txid, Standing] = field(default_factory=dict)
    unproved: Mapping[Outpoint, int] = field(default_factory=dict)

    @property
    def unproved_spent_sat(self) -> int:
        """What confirmed payments spent of outputs that are no payments: it was there, or it could not be spent."""
        confirmed = [entry for entry in self.entries.values() if isinstance(entry.state, Confirmed)]
        spent = {outpoint for entry in confirmed for outpoint in entry.spends}
        return sum(
            amount_sat
            for outpoint, amount_sat in self.unproved.items()
            if outpoint in spent and not self._stands(outpoint.txid)
        )

    def _stands(self, txid: Txid) -> bool:
        entry = self.entries.get(txid)
        return entry is not None and not isinstance(entry.state, GONE)
