"""The laws of accounts, whatever is told of a deposit in whatever order."""

from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.accounts import Deposit, DepositStatus, Movement, new_deposit, settled
from lightipn.ledger.entries import Dropped, LedgerEntry, PaymentState, Replaced
from tests.builders import confirmed, entry_of, txid_of

pytestmark = pytest.mark.slow

HEIGHTS = 4
STATES = st.one_of(
    st.builds(Unconfirmed, st.integers(1, 2)),
    st.builds(confirmed, st.integers(1, HEIGHTS), branch=st.integers(0, 1)),
    st.sampled_from([Dropped(), Replaced(txid_of(8)), Replaced(txid_of(9))]),
)
# Around the blocks, and around the depth at which mined coins can be spent.
TIPS = st.one_of(st.integers(1, HEIGHTS + 3), st.integers(98, 104))
# What is spent beside a payment may become known late: mostly nothing, then less, as much, or more than it pays.
SENT = st.sampled_from([0, 0, 0, 400, 1000, 1500])


@dataclass(frozen=True)
class Told:
    """What is told of a payment: where it is, what it spends besides, and our tip."""

    state: PaymentState
    sent_sat: int
    tip: int


COURSES = st.lists(st.builds(Told, STATES, SENT, TIPS), min_size=1, max_size=8)
DEPTHS = st.integers(1, 4)
COINBASES = st.booleans()
Course = list[Told]


def entry(told: Told, *, is_coinbase: bool = False) -> LedgerEntry:
    """Return the payment as the ledger has it then."""
    return entry_of(0, received_sat=1000, sent_sat=told.sent_sat, state=told.state, is_coinbase=is_coinbase)


Step = tuple[Deposit, tuple[Movement, ...]]


def walked(course: Course, *, depth: int, is_coinbase: bool) -> list[Step]:
    """Tell a deposit a whole course; return what it was at first and after each step, and what moved to get there."""
    held = new_deposit(entry(course[0], is_coinbase=is_coinbase))
    steps: list[Step] = [(held, ())]
    for told in course:
        after = entry(told, is_coinbase=is_coinbase)
        held, movements = settled(held, after, tip_height=told.tip, credit_confirmations=depth)
        steps.append((held, movements))
    return steps


def highest_tip_of(course: Course) -> int:
    """Return the highest tip since the payment came to where it is now."""
    tips: list[int] = []
    for told in reversed(course):
        last, this = course[-1].state, told.state
        if not (isinstance(last, Confirmed) and isinstance(this, Confirmed) and last.block_hash == this.block_hash):
            break
        tips.append(told.tip)
    return max(tips, default=course[-1].tip)


@given(COURSES, DEPTHS, COINBASES)
@settings(deadline=None, max_examples=300)
def test_last_place_alone_decides(course: Course, depth: int, is_coinbase: bool) -> None:
    """Whatever was told before, a deposit is what it would be had only its last place been told.

    A lower tip takes nothing back while the block stands, so the highest tip since it came there counts.
    """
    (*_, (found, _)) = walked(course, depth=depth, is_coinbase=is_coinbase)
    last = Told(course[-1].state, course[-1].sent_sat, highest_tip_of(course))
    (*_, (alone, _)) = walked([last], depth=depth, is_coinbase=is_coinbase)
    assert found == alone


@given(COURSES, DEPTHS, COINBASES, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=300)
def test_order_of_what_came_before_does_not_matter(
    course: Course, depth: int, is_coinbase: bool, chance: Random
) -> None:
    """The same places in any other order, some of them told again and again, end in the same deposit.

    The last one's tip is not below those before: our chain never gets shorter for good.
    """
    last = Told(course[-1].state, course[-1].sent_sat, max(told.tip for told in course))
    before = [*course[:-1], *course[: len(course) // 2]]
    chance.shuffle(before)
    (*_, (one, _)) = walked([*course[:-1], last], depth=depth, is_coinbase=is_coinbase)
    (*_, (other, _)) = walked([*before, last], depth=depth, is_coinbase=is_coinbase)
    assert one == other


@given(COURSES, DEPTHS, COINBASES)
@settings(deadline=None, max_examples=200)
def test_movements_add_up_to_the_deposit(course: Course, depth: int, is_coinbase: bool) -> None:
    """After every step the sums of all movements so far are what the deposit says is credited and locked."""
    balance_sat = locked_sat = 0
    for held, movements in walked(course, depth=depth, is_coinbase=is_coinbase):
        balance_sat += sum(one.balance_sat for one in movements)
        locked_sat += sum(one.locked_sat for one in movements)
        assert (balance_sat, locked_sat) == (held.credited_sat, held.locked_sat)


@given(COURSES, DEPTHS, COINBASES)
@settings(deadline=None, max_examples=200)
def test_no_sum_is_wrong_on_the_way(course: Course, depth: int, is_coinbase: bool) -> None:
    """Between two movements of one step nothing is below zero, and the credit is never above before and after."""
    steps = walked(course, depth=depth, is_coinbase=is_coinbase)
    for (before, _), (after, movements) in pairwise(steps):
        balance_sat, locked_sat = before.credited_sat, before.locked_sat
        for one in movements:
            balance_sat += one.balance_sat
            locked_sat += one.locked_sat
            assert 0 <= locked_sat <= max(before.locked_sat, after.amount_sat)
            assert 0 <= balance_sat <= max(before.credited_sat, after.credited_sat)


@given(COURSES, DEPTHS, COINBASES)
@settings(deadline=None, max_examples=200)
def test_told_twice_moves_once(course: Course, depth: int, is_coinbase: bool) -> None:
    """Every step told a second time moves nothing and changes nothing."""
    for told, (held, _) in zip(course, walked(course, depth=depth, is_coinbase=is_coinbase)[1:], strict=True):
        again = settled(held, entry(told, is_coinbase=is_coinbase), tip_height=told.tip, credit_confirmations=depth)
        assert again == (held, ())


@given(COURSES, DEPTHS, COINBASES)
@settings(deadline=None, max_examples=200)
def test_money_is_only_where_a_block_proves_it(course: Course, depth: int, is_coinbase: bool) -> None:
    """Outside a block nothing is locked or credited; in one it is the whole amount, in one of the two places."""
    steps = walked(course, depth=depth, is_coinbase=is_coinbase)[1:]
    for told, (held, _) in zip(course, steps, strict=True):
        assert held.amount_sat == max(0, 1000 - told.sent_sat)
        if not isinstance(told.state, Confirmed):
            assert (held.locked_sat, held.credited_sat, held.block_hash, held.wake_height) == (0, 0, None, None)
            continue
        is_done = held.status is DepositStatus.COMPLETED
        expected = (0, held.amount_sat) if is_done else (held.amount_sat, 0)
        assert (held.locked_sat, held.credited_sat, held.block_hash) == (*expected, told.state.block_hash)
        assert (held.wake_height is None) == is_done
