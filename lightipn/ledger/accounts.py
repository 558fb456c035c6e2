"""Accounts: what their addresses were paid, locked at the first confirmation and credited at a depth.

    seen ──► awaiting ──first block──► locked ──depth──► credited (completed)
                ▲                        │                  │
                └──── its block left the chain: compensated ┘         gone ──► failed

A deposit's place decides what must be locked and credited; the difference to what is, is written as movements. So it
does not matter how often, in which order or after which restart a place is told: the sums are the same. Nothing is ever
changed or taken back but by another movement, and a balance is the sum of its movements.
"""

import enum
from dataclasses import dataclass

from lightipn.bitcoin.hashes import BlockHash, Txid
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.entries import GONE, LedgerEntry, Replaced
from lightipn.ledger.events import EventKind


class DepositStatus(enum.Enum):
    """How far a deposit is."""

    AWAITING = "AWAITING_CONFIRMATION"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class MovementKind(enum.Enum):
    """What a movement does to an account."""

    RESERVE = "RESERVE"  # locks an amount; where the deposit failed before any block, it moves nothing
    RELEASE = "RELEASE"  # ends the lock, and credits the amount
    CANCEL = "CANCEL"  # ends the lock, and credits nothing
    REVERSE = "REVERSE"  # takes a credit back
    ADJUST = "ADJUST"  # what the owner books himself


class ReservationStatus(enum.Enum):
    """What became of a movement, in the words of the system that accounts follow."""

    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"


DEEPENED = "payment.deepened"
"""The cause of a credit: a payment became deep enough. It is no event of the feed, which has one for each block."""
CORRECTED = "payment.corrected"
"""The cause of taking back what was too much: another payment showed that this one spends from the address, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A change of an account.

    Args:
        amount_sat: of the deposit; of an adjustment what it adds.
        balance_sat, locked_sat: what it adds to each; negative to take away.
        cause: the kind of event that it follows from.
        block_hash, height: of the block that the event names; None where it names none.
    """

    kind: MovementKind
    status: ReservationStatus
    amount_sat: int
    balance_sat: int
    locked_sat: int
    cause: str
    block_hash: BlockHash | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """A payment to an account's address, and what was made of it.

    Args:
        locked_sat, credited_sat: the sums of its movements.
        block_hash, height: of the block that it was locked or credited for; None outside a block.
        replaced_by: the transaction that it was lost to.
        wake_height: the tip height at which it is credited, if nothing else happens; None if none is.
    """

    txid: Txid
    amount_sat: int
    status: DepositStatus
    locked_sat: int
    credited_sat: int
    seen_at: int
    block_hash: BlockHash | None = None
    height: int | None = None
    replaced_by: Txid | None = None
    wake_height: int | None = None


def new_deposit(entry: LedgerEntry) -> Deposit:
    """Return a deposit of which nothing was made yet."""
    return Deposit(
        txid=entry.txid,
        amount_sat=0,
        status=DepositStatus.AWAITING,
        locked_sat=0,
        credited_sat=0,
        seen_at=entry.seen_at,
    )


def is_deposit(entry: LedgerEntry) -> bool:
    """Tell whether a payment that is not known yet brings an account money.

    What an address sends leaves the account as it is, and what was gone before it was known never was a deposit.
    """
    is_gone = isinstance(entry.state, GONE) or (entry.is_coinbase and not isinstance(entry.state, Confirmed))
    return entry.net_sat > 0 and not is_gone


def settled(
    before: Deposit, entry: LedgerEntry, *, tip_height: int, credit_confirmations: int
) -> tuple[Deposit, tuple[Movement, ...]]:
    """Bring a deposit in line with where its payment is, and return it with the movements that this takes.

    Args:
        credit_confirmations: the depth at which a payment is credited.
    """
    after = _target_of(before, entry, tip_height=tip_height, credit_confirmations=credit_confirmations)
    return after, tuple(_movements_of(before, after, entry))


def _target_of(before: Deposit, entry: LedgerEntry, *, tip_height: int, credit_confirmations: int) -> Deposit:
    amount_sat = max(0, entry.net_sat)
    status, locked_sat, credited_sat = DepositStatus.AWAITING, 0, 0
    block_hash: BlockHash | None = None
    height: int | None = None
    wake_height: int | None = None
    match entry.state:
        case Confirmed() as place:
            block_hash, height = place.block_hash, place.height
            credited_at = entry.counts_at_height(credit_confirmations)
            assert credited_at is not None  # it is in a block
            # A tip that is lower for a moment takes nothing back: only the loss of its block does.
            was_credited = before.status is DepositStatus.COMPLETED and before.block_hash == block_hash
            if credited_at <= tip_height or was_credited:
                status, credited_sat = DepositStatus.COMPLETED, amount_sat
            else:
                locked_sat, wake_height = amount_sat, credited_at
        case Unconfirmed() if not entry.is_coinbase:  # mined coins exist in their block alone
            pass
        case _:
            status = DepositStatus.FAILED
    return Deposit(
        txid=before.txid,
        amount_sat=amount_sat,
        status=status,
        locked_sat=locked_sat,
        credited_sat=credited_sat,
        seen_at=before.seen_at,
        block_hash=block_hash,
        height=height,
        replaced_by=entry.state.by_txid if isinstance(entry.state, Replaced) else None,
        wake_height=wake_height,
    )


def _movements_of(before: Deposit, after: Deposit, entry: LedgerEntry) -> list[Movement]:
    """Return what leads from one to the other; taking away comes first, so that no sum is too high in between."""
    moved: list[Movement] = []
    locked_sat = before.locked_sat
    if before.credited_sat not in (0, after.credited_sat):
        moved.append(_movement(MovementKind.REVERSE, ReservationStatus.FAILED, before.credited_sat, entry, before))
    if locked_sat and (locked_sat != after.amount_sat or not (after.locked_sat or after.credited_sat)):
        moved.append(_movement(MovementKind.CANCEL, ReservationStatus.FAILED, locked_sat, entry, before))
        locked_sat = 0
    is_credit = after.credited_sat != 0 and before.credited_sat != after.credited_sat
    if (after.locked_sat or is_credit) and not locked_sat:
        moved.append(_movement(MovementKind.RESERVE, ReservationStatus.ACTIVE, after.amount_sat, entry, after))
    if is_credit:
        moved.append(_movement(MovementKind.RELEASE, ReservationStatus.COMPLETED, after.amount_sat, entry, after))
    if after.status is DepositStatus.FAILED and before.status is DepositStatus.AWAITING and not moved:
        moved.append(_movement(MovementKind.RESERVE, ReservationStatus.FAILED, after.amount_sat, entry, after))
    return moved


def _movement(
    kind: MovementKind, status: ReservationStatus, amount_sat: int, entry: LedgerEntry, about: Deposit
) -> Movement:
    """Return a movement; ``about`` is the deposit as it was, for what is taken back, else as it is."""
    balance_sat = locked_sat = 0
    match kind, status:
        case MovementKind.RESERVE, ReservationStatus.ACTIVE:
            locked_sat = amount_sat
        case MovementKind.RELEASE, _:
            balance_sat, locked_sat = amount_sat, -amount_sat
        case MovementKind.CANCEL, _:
            locked_sat = -amount_sat
        case MovementKind.REVERSE, _:
            balance_sat = -amount_sat
    cause = _cause_of(kind, entry, about)
    is_in_block = cause not in (EventKind.REPLACED.value, EventKind.DROPPED.value)
    return Movement(
        kind=kind,
        status=status,
        amount_sat=amount_sat,
        balance_sat=balance_sat,
        locked_sat=locked_sat,
        cause=cause,
        block_hash=about.block_hash if is_in_block else None,
        height=about.height if is_in_block else None,
    )


def _cause_of(kind: MovementKind, entry: LedgerEntry, about: Deposit) -> str:
    if isinstance(entry.state, Replaced):
        return EventKind.REPLACED.value
    if isinstance(entry.state, GONE):
        return EventKind.DROPPED.value
    match kind:
        case MovementKind.RESERVE:
            return EventKind.CONFIRMED.value
        case MovementKind.RELEASE:
            return DEEPENED
        case _:
            stands = isinstance(entry.state, Confirmed) and entry.state.block_hash == about.block_hash
            return CORRECTED if stands else EventKind.REVERTED.value
