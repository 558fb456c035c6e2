"""How likely an unconfirmed payment is to be confirmed: an estimate, for those who cannot wait for a block.

    confidence = holders · fee · signal · parents · age        0.1 at most where a rival was seen; 1 in a block

    holders   servers that held it when it was believed          one 0.8, two 0.95, three or more 0.99
    fee       how much of the mempool pays a higher rate         up to 1 block 1, 3 blocks 0.95, 6 blocks 0.85,
                                                                 more 0.6, unknown 0.8
    signal    it says itself that it may be replaced (BIP-125)   0.8, else 1
    parents   it spends what is unconfirmed itself               0.8, else 1
    age       most double spends are seen within a minute        1 - 0.2 · 2^(-seconds / 10)

All but the signal are claims of servers, which may lie: this is no reason to ship. It never reaches 1 without a proof.
"""

import math

from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.entries import LedgerEntry, Standing

BLOCK_VBYTES = 1_000_000
CONTESTED = 0.1
_HOLDERS = {0: 0.8, 1: 0.8, 2: 0.95}
_MANY_HOLDERS = 0.99
_FEE_RANKS = ((1, 1.0), (3, 0.95), (6, 0.85))
_LOW_FEE, _UNKNOWN_FEE = 0.6, 0.8
_SIGNALS, _HAS_PARENTS = 0.8, 0.8
_FIRST_DOUBT, _DOUBT_HALVES_IN_S = 0.2, 10.0


def confidence_of(entry: LedgerEntry, standing: Standing, *, now: float) -> float:
    """Estimate how likely a payment is to be confirmed, from 0 to 1, in steps of 0.0001.

    Args:
        now: unix seconds.
    """
    match entry.state:
        case Confirmed():
            return 1.0
        case Unconfirmed(seen_by):
            age_s = max(0.0, now - entry.seen_at)
            value = _HOLDERS.get(seen_by, _MANY_HOLDERS) * _fee_factor(standing.vbytes_ahead)
            value *= _SIGNALS if entry.signals_rbf else 1.0
            value *= _HAS_PARENTS if standing.has_unconfirmed_parent else 1.0
            value *= 1.0 - _FIRST_DOUBT * math.exp2(-age_s / _DOUBT_HALVES_IN_S)
            return round(min(value, CONTESTED) if standing.is_contested else value, 4)
        case _:
            return 0.0


def _fee_factor(vbytes_ahead: int | None) -> float:
    if vbytes_ahead is None:
        return _UNKNOWN_FEE
    return next((factor for blocks, factor in _FEE_RANKS if vbytes_ahead <= blocks * BLOCK_VBYTES), _LOW_FEE)
