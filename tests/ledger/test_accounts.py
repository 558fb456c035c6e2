"""What becomes of a deposit, place by place: locked, credited, failed, and taken back."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.accounts import (
    DEEPENED,
    Deposit,
    DepositStatus,
    Movement,
    MovementKind,
    ReservationStatus,
    is_deposit,
    new_deposit,
    settled,
)
from lightipn.ledger.entries import COINBASE_MATURITY_BLOCKS, Dropped, LedgerEntry, PaymentState, Replaced
from lightipn.ledger.events import EventKind
from tests.builders import SEEN_AT, block_hash_of, confirmed, entry_of, txid_of

AMOUNT_SAT = 700
HEIGHT = 500
DEPTH = 2  # blocks at which these deposits are credited
RIVAL = txid_of(9)
MEMPOOL, REPLACED, DROPPED = Unconfirmed(), Replaced(RIVAL), Dropped()
BLOCK, REORGED, LATER = confirmed(HEIGHT), confirmed(HEIGHT, branch=1), confirmed(HEIGHT + 1, branch=1)
CONFIRMED, REVERTED, GONE_BY_RIVAL, GONE = (
    EventKind.CONFIRMED.value,
    EventKind.REVERTED.value,
    EventKind.REPLACED.value,
    EventKind.DROPPED.value,
)
Moved = tuple[MovementKind, ReservationStatus, int, int, int, str]
Step = tuple[PaymentState, int, list[Moved]]  # where the payment is, the tip's height, and what moves


def reserve(amount_sat: int = AMOUNT_SAT) -> Moved:
    """Return what locks an amount."""
    return MovementKind.RESERVE, ReservationStatus.ACTIVE, amount_sat, 0, amount_sat, CONFIRMED


def release(amount_sat: int = AMOUNT_SAT) -> Moved:
    """Return what credits a locked amount."""
    return MovementKind.RELEASE, ReservationStatus.COMPLETED, amount_sat, amount_sat, -amount_sat, DEEPENED


def cancel(cause: str = REVERTED, amount_sat: int = AMOUNT_SAT) -> Moved:
    """Return what ends a lock."""
    return MovementKind.CANCEL, ReservationStatus.FAILED, amount_sat, 0, -amount_sat, cause


def reverse(cause: str = REVERTED, amount_sat: int = AMOUNT_SAT) -> Moved:
    """Return what takes a credit back."""
    return MovementKind.REVERSE, ReservationStatus.FAILED, amount_sat, -amount_sat, 0, cause


def failed(cause: str) -> Moved:
    """Return the failed reservation of what never was in a block."""
    return MovementKind.RESERVE, ReservationStatus.FAILED, AMOUNT_SAT, 0, 0, cause


def moved(movements: Sequence[Movement]) -> list[Moved]:
    """Return movements without the block that each names."""
    return [(one.kind, one.status, one.amount_sat, one.balance_sat, one.locked_sat, one.cause) for one in movements]


def settle(before: Deposit | None, entry: LedgerEntry, *, tip: int, depth: int = DEPTH) -> tuple[Deposit, list[Moved]]:
    """Bring a deposit in line with its payment."""
    after, movements = settled(before or new_deposit(entry), entry, tip_height=tip, credit_confirmations=depth)
    return after, moved(movements)


def deposit(status: DepositStatus, **values: object) -> Deposit:
    """Return a deposit of these tests as it should be."""
    usual: dict[str, object] = {"txid": txid_of(0), "amount_sat": AMOUNT_SAT, "locked_sat": 0, "credited_sat": 0}
    return Deposit(status=status, seen_at=SEEN_AT, **(usual | values))  # type: ignore[arg-type]  # each by its name


AWAITING = deposit(DepositStatus.AWAITING)
LOST = deposit(DepositStatus.FAILED)
BEATEN = deposit(DepositStatus.FAILED, replaced_by=RIVAL)


def locked(place: Confirmed = BLOCK) -> Deposit:
    """Return a deposit that waits for its depth."""
    wake_height = place.height + DEPTH - 1
    values = {
        "locked_sat": AMOUNT_SAT,
        "block_hash": place.block_hash,
        "height": place.height,
        "wake_height": wake_height,
    }
    return deposit(DepositStatus.AWAITING, **values)


def credited(place: Confirmed = BLOCK) -> Deposit:
    """Return a deposit that is completed."""
    return deposit(DepositStatus.COMPLETED, credited_sat=AMOUNT_SAT, block_hash=place.block_hash, height=place.height)


TO_LOCKED: list[Step] = [(MEMPOOL, HEIGHT - 1, []), (BLOCK, HEIGHT, [reserve()])]
TO_CREDITED: list[Step] = [*TO_LOCKED, (BLOCK, HEIGHT + 1, [release()])]


def case(name: str, end: Deposit, *steps: Step | list[Step]) -> object:
    """Return a case with this name: how a deposit ends, and all steps on the way."""
    flat = [step for item in steps for step in (item if isinstance(item, list) else [item])]
    return pytest.param(flat, end, id=name)


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        case("seen", AWAITING, (MEMPOOL, HEIGHT, [])),
        case("seen in its block", locked(), (BLOCK, HEIGHT, [reserve()])),
        case("locked at the first confirmation", locked(), TO_LOCKED),
        case("credited at the second", credited(), TO_CREDITED),
        case("deeper than credited", credited(), TO_CREDITED, (BLOCK, HEIGHT + 50, [])),
        case("two blocks at once", credited(), (MEMPOOL, HEIGHT, []), (BLOCK, HEIGHT + 1, [reserve(), release()])),
        case("found years later", credited(), (BLOCK, HEIGHT + 99_999, [reserve(), release()])),
        case("many blocks at once while locked", credited(), TO_LOCKED, (BLOCK, HEIGHT + 30, [release()])),
        case("proved before its block is our tip", locked(), (BLOCK, HEIGHT - 1, [reserve()])),
        case("told again while awaiting", AWAITING, (MEMPOOL, HEIGHT, []), (MEMPOOL, HEIGHT + 3, [])),
        case("told again while locked", locked(), TO_LOCKED, (BLOCK, HEIGHT, []), (BLOCK, HEIGHT, [])),
        case("told again while credited", credited(), TO_CREDITED, (BLOCK, HEIGHT + 1, []), (BLOCK, HEIGHT + 1, [])),
        case("more witnesses", AWAITING, (MEMPOOL, HEIGHT, []), (Unconfirmed(3), HEIGHT, [])),
        # reorgs
        case("reorg before the credit", AWAITING, TO_LOCKED, (MEMPOOL, HEIGHT, [cancel()])),
        case("reorg after the credit", AWAITING, TO_CREDITED, (MEMPOOL, HEIGHT + 1, [reverse()])),
        case(
            "locked, reorged, and locked again",
            locked(LATER),
            TO_LOCKED,
            (MEMPOOL, HEIGHT, [cancel()]),
            (LATER, HEIGHT + 1, [reserve()]),
        ),
        case(
            "credited, reorged, and credited again",
            credited(LATER),
            TO_CREDITED,
            (MEMPOOL, HEIGHT + 1, [reverse()]),
            (LATER, HEIGHT + 1, [reserve()]),
            (LATER, HEIGHT + 2, [release()]),
        ),
        case(
            "reorged, and back in two blocks at once",
            credited(REORGED),
            TO_CREDITED,
            (MEMPOOL, HEIGHT + 1, [reverse()]),
            (REORGED, HEIGHT + 2, [reserve(), release()]),
        ),
        case(
            "reorged, and back in the very same block",
            credited(),
            TO_CREDITED,
            (MEMPOOL, HEIGHT + 1, [reverse()]),
            (BLOCK, HEIGHT + 1, [reserve(), release()]),
        ),
        case("locked in one block, then in another", locked(LATER), TO_LOCKED, (LATER, HEIGHT + 1, [])),
        case("locked in one block, deep in another", credited(REORGED), TO_LOCKED, (REORGED, HEIGHT + 1, [release()])),
        case("credited in one block, deep in another", credited(REORGED), TO_CREDITED, (REORGED, HEIGHT + 1, [])),
        case(
            "credited in one block, shallow in another",
            locked(LATER),
            TO_CREDITED,
            (LATER, HEIGHT + 1, [reverse(), reserve()]),
        ),
        case("a lower tip while locked", locked(), TO_LOCKED, (BLOCK, HEIGHT - 1, [])),
        case("a lower tip takes no credit back", credited(), TO_CREDITED, (BLOCK, HEIGHT, [])),
        # replaced and dropped
        case("replaced before a block", BEATEN, (MEMPOOL, HEIGHT, []), (REPLACED, HEIGHT, [failed(GONE_BY_RIVAL)])),
        case("dropped before a block", LOST, (MEMPOOL, HEIGHT, []), (DROPPED, HEIGHT, [failed(GONE)])),
        case("replaced while locked", BEATEN, TO_LOCKED, (REPLACED, HEIGHT, [cancel(GONE_BY_RIVAL)])),
        case("dropped while locked", LOST, TO_LOCKED, (DROPPED, HEIGHT, [cancel(GONE)])),
        case("replaced after the credit", BEATEN, TO_CREDITED, (REPLACED, HEIGHT + 1, [reverse(GONE_BY_RIVAL)])),
        case("dropped after the credit", LOST, TO_CREDITED, (DROPPED, HEIGHT + 1, [reverse(GONE)])),
        case(
            "reorged out of its block, then replaced",
            BEATEN,
            TO_CREDITED,
            (MEMPOOL, HEIGHT + 1, [reverse()]),
            (REPLACED, HEIGHT + 1, [failed(GONE_BY_RIVAL)]),
        ),
        case(
            "gone, told again",
            BEATEN,
            (MEMPOOL, HEIGHT, []),
            (REPLACED, HEIGHT, [failed(GONE_BY_RIVAL)]),
            (REPLACED, HEIGHT + 9, []),
        ),
        case(
            "dropped, then known to be replaced",
            BEATEN,
            (MEMPOOL, HEIGHT, []),
            (DROPPED, HEIGHT, [failed(GONE)]),
            (REPLACED, HEIGHT, []),
        ),
        case(
            "dropped and back",
            AWAITING,
            (MEMPOOL, HEIGHT, []),
            (DROPPED, HEIGHT, [failed(GONE)]),
            (MEMPOOL, HEIGHT, []),
        ),
        case(
            "replaced, and mined all the same",
            credited(),
            (MEMPOOL, HEIGHT - 1, []),
            (REPLACED, HEIGHT - 1, [failed(GONE_BY_RIVAL)]),
            (BLOCK, HEIGHT, [reserve()]),
            (BLOCK, HEIGHT + 1, [release()]),
        ),
        case(
            "dropped, back, and dropped again",
            LOST,
            (MEMPOOL, HEIGHT, []),
            (DROPPED, HEIGHT, [failed(GONE)]),
            (MEMPOOL, HEIGHT, []),
            (DROPPED, HEIGHT, [failed(GONE)]),
        ),
    ],
)
def test_each_place_moves_what_it_must(steps: list[Step], end: Deposit) -> None:
    """A deposit's place decides what is locked and credited; the difference moves, and nothing else."""
    held: Deposit | None = None
    for state, tip, expected in steps:
        held, found = settle(held, entry_of(0, received_sat=AMOUNT_SAT, state=state), tip=tip)
        assert found == expected
    assert held == end


# --- the depth ---------------------------------------------------------------------------------------------------


def test_depth_one_credits_in_the_first_block() -> None:
    """Where one confirmation is enough, the amount is locked and credited in the same block."""
    _, found = settle(None, entry_of(0, received_sat=AMOUNT_SAT, state=BLOCK), tip=HEIGHT, depth=1)
    assert found == [reserve(), release()]


@pytest.mark.parametrize("depth", [2, 3, 6, 1000])
def test_credit_comes_at_the_depth_and_not_before(depth: int) -> None:
    """The block that makes it deep enough is told beforehand, and credits it; the one below does not."""
    entry = entry_of(0, received_sat=AMOUNT_SAT, state=BLOCK)
    held, _ = settle(None, entry, tip=HEIGHT, depth=depth)
    assert held.wake_height == HEIGHT + depth - 1
    held, found = settle(held, entry, tip=HEIGHT + depth - 2, depth=depth)
    assert (found, held.credited_sat) == ([], 0)
    held, found = settle(held, entry, tip=HEIGHT + depth - 1, depth=depth)
    assert (found, held.credited_sat, held.wake_height) == ([release()], AMOUNT_SAT, None)


@pytest.mark.parametrize("depth", [1, 2, 100, 101, 144])
def test_mined_coins_are_locked_until_they_can_be_spent(depth: int) -> None:
    """A coinbase is credited at 100 confirmations at the earliest, and later only if the account wants more."""
    entry = entry_of(0, received_sat=AMOUNT_SAT, state=BLOCK, is_coinbase=True)
    credited_at = HEIGHT + max(depth, COINBASE_MATURITY_BLOCKS) - 1
    held, found = settle(None, entry, tip=HEIGHT, depth=depth)
    assert (found, held.wake_height) == ([reserve()], credited_at)
    held, found = settle(held, entry, tip=credited_at - 1, depth=depth)
    assert found == []
    _, found = settle(held, entry, tip=credited_at, depth=depth)
    assert found == [release()]


@pytest.mark.parametrize(
    ("tip", "expected"),
    [pytest.param(HEIGHT, [cancel()], id="locked"), pytest.param(HEIGHT + 99, [reverse()], id="credited")],
)
def test_mined_coins_fail_with_their_block(tip: int, expected: list[Moved]) -> None:
    """Coins that a lost block mined are nowhere: their deposit fails at once, by the reorg, and never waits."""
    entry = entry_of(0, received_sat=AMOUNT_SAT, state=BLOCK, is_coinbase=True)
    held, _ = settle(None, entry, tip=tip)
    held, found = settle(held, replace(entry, state=MEMPOOL), tip=tip)
    assert (found, held) == (expected, LOST)
    assert settle(held, replace(entry, state=MEMPOOL), tip=tip) == (held, [])


# --- amounts that change -----------------------------------------------------------------------------------------


def kinds(found: list[Moved]) -> list[tuple[MovementKind, int]]:
    """Return kinds and amounts alone."""
    return [(kind, amount_sat) for kind, _, amount_sat, *_ in found]


@pytest.mark.parametrize(
    ("state", "tip", "sent_sat", "expected"),
    [
        pytest.param(MEMPOOL, HEIGHT, 300, [], id="awaiting"),
        pytest.param(
            BLOCK, HEIGHT, 300, [(MovementKind.CANCEL, 700), (MovementKind.RESERVE, 400)], id="less while locked"
        ),
        pytest.param(BLOCK, HEIGHT, 700, [(MovementKind.CANCEL, 700)], id="nothing while locked"),
        pytest.param(BLOCK, HEIGHT, 900, [(MovementKind.CANCEL, 700)], id="spent while locked"),
        pytest.param(
            BLOCK,
            HEIGHT + 1,
            300,
            [(MovementKind.REVERSE, 700), (MovementKind.RESERVE, 400), (MovementKind.RELEASE, 400)],
            id="less while credited",
        ),
        pytest.param(BLOCK, HEIGHT + 1, 700, [(MovementKind.REVERSE, 700)], id="nothing while credited"),
        pytest.param(BLOCK, HEIGHT + 1, 900, [(MovementKind.REVERSE, 700)], id="spent while credited"),
    ],
)
def test_amount_follows_the_net_of_its_payment(
    state: PaymentState, tip: int, sent_sat: int, expected: list[tuple[MovementKind, int]]
) -> None:
    """Once it is known that a payment spends coins of its own address, only what it adds is the deposit."""
    entry = entry_of(0, received_sat=AMOUNT_SAT, state=state)
    held, _ = settle(None, entry, tip=tip)
    after, found = settle(held, replace(entry, sent_sat=sent_sat), tip=tip)
    assert kinds(found) == expected
    assert after.amount_sat == max(0, AMOUNT_SAT - sent_sat)
    assert (after.status, after.block_hash, after.wake_height) == (held.status, held.block_hash, held.wake_height)
    assert settle(after, replace(entry, sent_sat=sent_sat), tip=tip) == (after, [])


def test_more_than_was_locked_is_locked_anew_and_credited() -> None:
    """Where the amount and the depth change at once, the old lock ends, and the whole new amount is credited."""
    entry = entry_of(0, received_sat=AMOUNT_SAT, sent_sat=600, state=BLOCK)
    held, _ = settle(None, entry, tip=HEIGHT)
    assert held.locked_sat == 100
    after, found = settle(held, replace(entry, sent_sat=0), tip=HEIGHT + 1)
    assert kinds(found) == [
        (MovementKind.CANCEL, 100),
        (MovementKind.RESERVE, AMOUNT_SAT),
        (MovementKind.RELEASE, AMOUNT_SAT),
    ]
    assert (after.locked_sat, after.credited_sat) == (0, AMOUNT_SAT)


def test_correction_of_an_amount_is_not_called_a_reorg() -> None:
    """What is taken back because an amount was corrected names no event that never was: its block stands."""
    entry = entry_of(0, received_sat=AMOUNT_SAT, state=BLOCK)
    for tip in (HEIGHT, HEIGHT + 1):
        held, _ = settle(None, entry, tip=tip)
        _, found = settle(held, replace(entry, sent_sat=300), tip=tip)
        assert REVERTED not in [cause for *_, cause in found]


# --- which block -------------------------------------------------------------------------------------------------


def test_lock_and_credit_name_the_block() -> None:
    """What a block caused names it, hash and height."""
    entry = entry_of(0, received_sat=AMOUNT_SAT, state=BLOCK)
    _, movements = settled(new_deposit(entry), entry, tip_height=HEIGHT + 1, credit_confirmations=DEPTH)
    assert movements == tuple(
        Movement(
            kind=kind,
            status=status,
            amount_sat=amount_sat,
            balance_sat=balance_sat,
            locked_sat=locked_sat,
            cause=cause,
            block_hash=BLOCK.block_hash,
            height=HEIGHT,
        )
        for kind, status, amount_sat, balance_sat, locked_sat, cause in (reserve(), release())
    )


@pytest.mark.parametrize("state", [MEMPOOL, LATER], ids=["to the mempool", "to another block"])
@pytest.mark.parametrize("tip", [HEIGHT, HEIGHT + 1], ids=["locked", "credited"])
def test_what_a_reorg_takes_back_names_the_lost_block(tip: int, state: PaymentState) -> None:
    """A movement that follows from ``payment.reverted`` names the block that was lost, as that event does."""
    entry = entry_of(0, received_sat=AMOUNT_SAT, state=BLOCK)
    held, _ = settle(None, entry, tip=tip)
    _, movements = settled(held, replace(entry, state=state), tip_height=tip, credit_confirmations=DEPTH)
    assert {one.block_hash for one in movements if one.cause == REVERTED} <= {block_hash_of(HEIGHT)}


@pytest.mark.parametrize("state", [REPLACED, DROPPED], ids=["replaced", "dropped"])
def test_what_is_gone_names_no_block(state: PaymentState) -> None:
    """Being replaced or dropped happens in no block of the payment's."""
    entry = entry_of(0, received_sat=AMOUNT_SAT, state=BLOCK)
    for tip in (HEIGHT, HEIGHT + 1):
        held, _ = settle(None, entry, tip=tip)
        _, movements = settled(held, replace(entry, state=state), tip_height=tip, credit_confirmations=DEPTH)
        assert [(one.block_hash, one.height) for one in movements] == [(None, None)]


# --- what is a deposit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        pytest.param(entry_of(), True, id="in the mempool"),
        pytest.param(entry_of(state=BLOCK), True, id="in a block"),
        pytest.param(entry_of(received_sat=5, sent_sat=4), True, id="more than it spends"),
        pytest.param(entry_of(received_sat=5, sent_sat=5), False, id="as much as it spends"),
        pytest.param(entry_of(received_sat=5, sent_sat=50, state=BLOCK), False, id="change"),
        pytest.param(entry_of(received_sat=0, sent_sat=50), False, id="payment out"),
        pytest.param(entry_of(received_sat=0), False, id="nothing"),
        pytest.param(entry_of(state=REPLACED), False, id="replaced before it was known"),
        pytest.param(entry_of(state=DROPPED), False, id="dropped before it was known"),
        pytest.param(entry_of(state=BLOCK, is_coinbase=True), True, id="mined"),
        pytest.param(entry_of(is_coinbase=True), False, id="mined in a lost block"),
    ],
)
def test_only_what_brings_money_is_a_deposit(entry: LedgerEntry, expected: bool) -> None:
    """A payment is a deposit if it adds to its address and stands when it is first known."""
    assert is_deposit(entry) is expected


def test_new_deposit_has_moved_nothing() -> None:
    """A deposit that was just found has no amount yet; it was seen when its payment was."""
    entry = entry_of(7, received_sat=AMOUNT_SAT, state=BLOCK)
    assert new_deposit(entry) == replace(AWAITING, txid=txid_of(7), amount_sat=0)
