"""What a transfer pays to whom, and what it costs; or why it has to wait. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from lightipn.bitcoin.transaction import TxOutput

# One input of P2WPKH: outpoint, empty script and sequence; a signature of at most 72 bytes and a public key (BIP-141).
INPUT_BYTES, INPUT_WITNESS_BYTES = 41, 108
INPUT_VBYTES = INPUT_BYTES + INPUT_WITNESS_BYTES // 4
# Bitcoin Core's defaults: the lowest rate that is relayed, and by how much a replacement must pay more (BIP-125).
LOWEST_FEE_RATE = 1.0
FEE_STEP_RATE = 1.0
DUST_RATE = 3
MOST_COINS = 200
TOO_SMALL, FEE_TOO_HIGH = "too-small", "fee-too-high"


@dataclass(frozen=True, slots=True, kw_only=True)
class PassingTerms:
    """What is done with coins.

    Args:
        destination: output script that gets what is left.
        process_script: output script of a share before that; None for none.
        process_sat: the share as a fixed amount; None where it is a part of the whole.
        process_share: the part, from 0 to 1.
        mining_fee_sat: a fixed fee; None takes the fee rate.
    """

    destination: bytes
    process_script: bytes | None = None
    process_sat: int | None = None
    process_share: Decimal = Decimal(0)
    mining_fee_sat: int | None = None

    @property
    def scripts(self) -> list[bytes]:
        """The output scripts that a transfer pays at most."""
        return [self.destination] + ([] if self.process_script is None else [self.process_script])


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeLimits:
    """What a transfer may cost at most.

    Args:
        max_percent: of all that is passed on.
        max_rate: satoshis a virtual byte.
    """

    max_percent: float
    max_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A transaction to be signed.

    Args:
        outputs: the destination is the first.
        value_sat: what the destination gets.
    """

    outputs: tuple[TxOutput, ...]
    fee_sat: int
    value_sat: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Why coins wait: ``too-small`` (joined with the next) or ``fee-too-high`` (until fees fall)."""

    reason: str


def vbytes_of(inputs: int, output_scripts: Sequence[bytes]) -> int:
    """Return the virtual size of a transaction with so many P2WPKH inputs, at most (BIP-141)."""
    outputs = sum(8 + _compact_bytes(len(script)) + len(script) for script in output_scripts)
    stripped = 8 + _compact_bytes(inputs) + INPUT_BYTES * inputs + _compact_bytes(len(output_scripts)) + outputs
    return stripped + math.ceil((2 + INPUT_WITNESS_BYTES * inputs) / 4)


def _compact_bytes(number: int) -> int:
    return 1 if number < 0xFD else 3


def dust_sat_of(script: bytes) -> int:
    """Return below what an output is not relayed.

    Source:
        Bitcoin Core, ``GetDustThreshold``, with its default rate.
    """
    is_witness = len(script) > 2 and script[0] in (0x00, *range(0x51, 0x61)) and script[1] == len(script) - 2
    return (8 + _compact_bytes(len(script)) + len(script) + (67 if is_witness else 148)) * DUST_RATE


def worth_spending(amounts_sat: Sequence[int], fee_rate: float, *, most_percent: float = 100.0) -> list[int]:
    """Return which coins are worth it, by their positions: the largest first, at most 200.

    Dust that somebody sends would otherwise keep a payment from being passed on, or make it dear.

    Args:
        most_percent: what it costs to spend a coin, of its amount; 100 for all that bring anything.
    """
    cost_sat = math.ceil(max(fee_rate, LOWEST_FEE_RATE) * INPUT_VBYTES)
    chosen = [position for position, amount_sat in enumerate(amounts_sat) if amount_sat * most_percent > 100 * cost_sat]
    return sorted(chosen, key=lambda position: (-amounts_sat[position], position))[:MOST_COINS]


def plan_of(
    amounts_sat: Sequence[int], terms: PassingTerms, *, fee_rate: float, limits: FeeLimits, least_fee_sat: int = 0
) -> Plan | Hold:
    """Plan a transfer of all these coins.

    Args:
        fee_rate: satoshis a virtual byte; never less than what is relayed is paid.
        least_fee_sat: what a replacement must pay at least; 0 for a first version. A replacement pays what the limits
            allow where its rate is above them; a first version waits.
    """
    total_sat = sum(amounts_sat)
    process_sat = _process_sat_of(total_sat, terms)
    scripts = [terms.destination]
    if terms.process_script is not None and process_sat:
        scripts.append(terms.process_script)
    vbytes = vbytes_of(len(amounts_sat), scripts)
    lowest_sat = max(least_fee_sat, math.ceil(LOWEST_FEE_RATE * vbytes))
    fee_sat = terms.mining_fee_sat
    if fee_sat is None or least_fee_sat:
        fee_sat = math.ceil(fee_rate * vbytes)
    fee_sat = max(fee_sat, lowest_sat)
    most_sat = min(int(total_sat * limits.max_percent / 100), int(limits.max_rate * vbytes))
    if lowest_sat > most_sat:
        # Where not even the lowest fee is within the limits, only more coins help a first version.
        return Hold(FEE_TOO_HIGH if least_fee_sat else TOO_SMALL)
    if fee_sat > most_sat and not least_fee_sat:
        return Hold(FEE_TOO_HIGH)
    fee_sat = min(fee_sat, most_sat)
    value_sat = total_sat - process_sat - fee_sat
    if value_sat < dust_sat_of(terms.destination):
        return Hold(TOO_SMALL)
    outputs = [TxOutput(amount_sat=value_sat, script=terms.destination)]
    if terms.process_script is not None and process_sat:
        outputs.append(TxOutput(amount_sat=process_sat, script=terms.process_script))
    return Plan(outputs=tuple(outputs), fee_sat=fee_sat, value_sat=value_sat)


def least_bump_sat(fee_sat: int, vbytes: int) -> int:
    """Return what a replacement must pay at least.

    Source:
        BIP-125, rules 3 and 4.
    """
    return fee_sat + math.ceil(FEE_STEP_RATE * vbytes)


def _process_sat_of(total_sat: int, terms: PassingTerms) -> int:
    """Return the share for the process address; one that could not be relayed is none."""
    if terms.process_script is None:
        return 0
    share_sat = terms.process_sat
    if share_sat is None:
        share_sat = int(Decimal(total_sat) * terms.process_share)
    return 0 if share_sat < dust_sat_of(terms.process_script) else share_sat
