"""Ledger entries and the totals of an address."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import GONE, Dropped, LedgerEntry, PaymentState, ReceivedTotals, Replaced, totals_of
from tests.builders import confirmed, entry_of, payments_of, txid_of

TIP = 1000


def totals(*entries: LedgerEntry, tip_height: int = TIP, confirmations: int = 3) -> tuple[int, int, int | None]:
    """Return confirmed and unconfirmed satoshis, and the height of the next change."""
    found = totals_of(entries, tip_height=tip_height, confirmations=confirmations)
    return found.confirmed_sat, found.unconfirmed_sat, found.changes_at_height


def test_address_without_payments_received_nothing() -> None:
    """No payments are zero satoshis, and no block alone changes that."""
    assert totals_of([], tip_height=TIP, confirmations=1) == ReceivedTotals(
        confirmed_sat=0, unconfirmed_sat=0, changes_at_height=None
    )


@pytest.mark.parametrize(
    ("height", "expected"),
    [
        pytest.param(None, (0, 5, None), id="in the mempool"),
        pytest.param(TIP, (0, 5, TIP + 2), id="1 confirmation"),
        pytest.param(TIP - 1, (0, 5, TIP + 1), id="2 confirmations"),
        pytest.param(TIP - 2, (5, 0, None), id="3 confirmations"),
        pytest.param(TIP - 3, (5, 0, None), id="4 confirmations"),
        pytest.param(TIP + 1, (0, 5, TIP + 3), id="above our tip"),
    ],
)
def test_payment_counts_as_confirmed_from_the_asked_depth_on(
    height: int | None, expected: tuple[int, int, int | None]
) -> None:
    """With three confirmations asked, a payment is confirmed once its block has two more on top."""
    state = confirmed(height) if height is not None else None
    assert totals(entry_of(received_sat=5, state=state)) == expected


@pytest.mark.parametrize(("confirmations", "counts_at"), [(1, 50), (2, 51), (6, 55), (1000, 1049)])
def test_depth_one_is_the_block_itself(confirmations: int, counts_at: int) -> None:
    """A payment has one confirmation in its own block, so depth N is reached N - 1 blocks later."""
    assert entry_of(state=confirmed(50)).counts_at_height(confirmations) == counts_at


@pytest.mark.parametrize("state", [None, Replaced(txid_of(9)), Dropped()], ids=["unconfirmed", "replaced", "dropped"])
def test_payment_outside_a_block_has_no_depth(state: PaymentState | None) -> None:
    """A payment that is in no block reaches no depth at any height."""
    assert entry_of(state=state).counts_at_height(1) is None
    assert entry_of(state=state, is_coinbase=True).counts_at_height(1) is None


@pytest.mark.parametrize(("confirmations", "counts_at"), [(1, 149), (99, 149), (100, 149), (101, 150), (1000, 1049)])
def test_coinbase_counts_from_100_confirmations_on(confirmations: int, counts_at: int) -> None:
    """A coinbase cannot be spent before it is 100 deep, so it is not confirmed earlier; a greater depth still holds."""
    entry = entry_of(received_sat=7, state=confirmed(50, position=0), is_coinbase=True)
    assert entry.counts_at_height(confirmations) == counts_at
    assert totals(entry, tip_height=counts_at - 1, confirmations=confirmations) == (0, 7, counts_at)
    assert totals(entry, tip_height=counts_at, confirmations=confirmations) == (7, 0, None)


def test_totals_are_net_per_transaction() -> None:
    """A payment counts with what it added: change that returns to the same address is no deposit."""
    deposit = entry_of(1, received_sat=100, state=confirmed(10))
    spend_with_change = entry_of(2, received_sat=60, sent_sat=100, state=confirmed(11))
    top_up = entry_of(3, received_sat=150, sent_sat=100, state=confirmed(12))
    assert [entry.net_sat for entry in (deposit, spend_with_change, top_up)] == [100, -40, 50]
    assert totals(deposit, spend_with_change, top_up) == (150, 0, None)


def test_spending_takes_nothing_from_what_was_received() -> None:
    """The received total is no balance: a payment out leaves it as it was, in a block or not."""
    deposit = entry_of(1, received_sat=100, state=confirmed(10))
    for state in (None, confirmed(TIP)):
        assert totals(deposit, entry_of(2, received_sat=0, sent_sat=100, state=state)) == (100, 0, None)


def test_payment_of_nothing_wakes_nobody() -> None:
    """A young payment without a positive net changes no total when it gets deeper."""
    assert totals(entry_of(received_sat=40, sent_sat=40, state=confirmed(TIP))) == (0, 0, None)


@pytest.mark.parametrize("state", [Replaced(txid_of(2)), Dropped()], ids=["replaced", "dropped"])
def test_gone_payment_does_not_count(state: PaymentState) -> None:
    """A replaced or dropped payment is in neither total."""
    assert isinstance(state, GONE)
    gone = entry_of(1, received_sat=100, state=state)
    assert totals(gone, entry_of(2, received_sat=90)) == (0, 90, None)
    assert totals(gone) == (0, 0, None)


def test_number_of_witnesses_does_not_change_the_totals() -> None:
    """A claim counts as unconfirmed whether one server held it or five."""
    assert totals(entry_of(1, received_sat=5, state=Unconfirmed(1))) == (0, 5, None)
    assert totals(entry_of(1, received_sat=5, state=Unconfirmed(5))) == (0, 5, None)


def test_output_that_nothing_proves_counts_once_a_block_spends_it() -> None:
    """What is spent in a block was there; an unconfirmed spending shows nothing, and a payment counts as a payment."""
    unknown, other, paid = (Outpoint(txid_of(number), 0) for number in (90, 91, 1))
    entries = [
        entry_of(1, received_sat=7),
        entry_of(2, state=confirmed(TIP), spends=[unknown, paid]),
        entry_of(3, spends=[other]),
    ]
    payments = replace(payments_of(*entries), unproved={unknown: 500, other: 30, paid: 7})
    assert payments.unproved_spent_sat == 500


def test_next_change_is_the_earliest_one() -> None:
    """Of several payments that wait for their depth, the one that is due first sets the height."""
    waiting = [entry_of(number, received_sat=1, state=confirmed(TIP - number)) for number in (0, 1)]
    mature = entry_of(2, received_sat=1, state=confirmed(TIP - 2))
    coinbase = entry_of(3, received_sat=1, state=confirmed(TIP - 90, position=0), is_coinbase=True)
    assert totals(*waiting, mature, coinbase, entry_of(4, received_sat=1)) == (1, 4, TIP + 1)


def test_received_amount_is_the_sum_of_all_outputs() -> None:
    """A transaction that pays the script twice received both amounts."""
    entry = LedgerEntry(
        txid=txid_of(1),
        state=confirmed(1),
        outputs=((0, 30), (4, 12)),
        spends=(),
        sent_sat=10,
        is_coinbase=False,
        signals_rbf=False,
        seen_at=0,
    )
    assert (entry.received_sat, entry.net_sat) == (42, 32)


ENTRIES = st.lists(
    st.builds(
        entry_of,
        st.integers(0, 10**6),
        received_sat=st.integers(0, 10**6),
        sent_sat=st.integers(0, 10**6),
        state=st.builds(Unconfirmed, st.integers(1, 5))
        | st.builds(confirmed, st.integers(1, 150))
        | st.just(Replaced(txid_of(-1)))
        | st.just(Dropped()),
        is_coinbase=st.booleans(),
    ),
    max_size=12,
)


@given(ENTRIES, st.integers(0, 300), st.integers(1, 120))
@settings(deadline=None, max_examples=50)
def test_totals_change_with_blocks_exactly_where_announced(
    entries: list[LedgerEntry], tip_height: int, confirmations: int
) -> None:
    """Up to the announced height new blocks change no total; at it they do, and satoshis only move to confirmed."""
    before = totals_of(entries, tip_height=tip_height, confirmations=confirmations)
    assert before.confirmed_sat + before.unconfirmed_sat == sum(
        max(0, entry.net_sat)
        for entry in entries
        if not isinstance(entry.state, GONE) and not (entry.is_coinbase and isinstance(entry.state, Unconfirmed))
    )
    last_same = 10**6 if before.changes_at_height is None else before.changes_at_height - 1
    assert last_same >= tip_height
    assert totals_of(entries, tip_height=last_same, confirmations=confirmations) == before
    if before.changes_at_height is not None:
        after = totals_of(entries, tip_height=before.changes_at_height, confirmations=confirmations)
        assert after.confirmed_sat > before.confirmed_sat
        assert after.confirmed_sat + after.unconfirmed_sat == before.confirmed_sat + before.unconfirmed_sat


@given(ENTRIES, st.integers(0, 300), st.integers(1, 120))
@settings(deadline=None, max_examples=50)
def test_totals_never_count_what_is_gone(entries: list[LedgerEntry], tip_height: int, confirmations: int) -> None:
    """With the gone payments left out the totals, and the height of the next change, are the same."""
    standing = [entry for entry in entries if not isinstance(entry.state, Replaced | Dropped)]
    assert totals(*entries, tip_height=tip_height, confirmations=confirmations) == totals(
        *standing, tip_height=tip_height, confirmations=confirmations
    )


@given(ENTRIES, st.integers(0, 300), st.integers(1, 119))
@settings(deadline=None, max_examples=50)
def test_greater_depth_never_confirms_more(entries: list[LedgerEntry], tip_height: int, confirmations: int) -> None:
    """Who asks for one confirmation more sees the same sum, and no more of it confirmed."""
    found = [totals_of(entries, tip_height=tip_height, confirmations=confirmations + more) for more in (0, 1)]
    assert found[0].confirmed_sat >= found[1].confirmed_sat
    assert len({one.confirmed_sat + one.unconfirmed_sat for one in found}) == 1
