"""The rules by which verified facts change the ledger."""

from dataclasses import replace

import pytest

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.verifier import Place, Unconfirmed
from lightipn.ledger.entries import LedgerEntry, ReceivedTotals, totals_of
from lightipn.ledger.events import EventKind, TrustLevel
from lightipn.ledger.rules import LedgerDelta, absorbed, reverted
from tests.builders import OTHER_SCRIPT, SEEN_AT, coinbase, confirmed, payment
from tests.ledger.steps import BUMPED, EMPTY, ORIGINAL, absorb, event, totals, verified

# --- one payment -------------------------------------------------------------------------------------------------


def test_new_payment_becomes_an_entry_with_all_its_facts() -> None:
    """A payment that is new is written with its outputs to the script, its inputs, and the time of first notice."""
    paid = payment(1, amount_sat=700, change_sat=5, sequence=1)
    _, delta = absorb(EMPTY, (paid, None))
    assert delta == LedgerDelta(
        scripthash=EMPTY.scripthash,
        entries=(
            LedgerEntry(
                txid=paid.txid,
                state=Unconfirmed(),
                outputs=((0, 700),),
                spends=paid.spends,
                sent_sat=0,
                is_coinbase=False,
                signals_rbf=True,
                seen_at=SEEN_AT,
            ),
        ),
        events=(event(EventKind.SEEN, paid, 700),),
    )


def test_payment_first_seen_in_a_block_is_confirmed_without_being_seen() -> None:
    """A payment that is proved when first noticed has one event, and it is the confirmation."""
    paid = payment(1, amount_sat=700)
    payments, delta = absorb(EMPTY, (paid, confirmed(10)))
    assert delta.events == (event(EventKind.CONFIRMED, paid, 700, confirmed(10)),)
    assert totals(payments) == (700, 0)


@pytest.mark.parametrize(("seen_by", "trust"), [(1, TrustLevel.SINGLE), (2, TrustLevel.AGREED), (5, TrustLevel.AGREED)])
def test_seen_payment_says_how_many_servers_held_it(seen_by: int, trust: TrustLevel) -> None:
    """The event of a claim names its witnesses: one server's word is single, more of them agree."""
    paid = payment(1, amount_sat=700)
    payments, delta = absorb(EMPTY, (paid, Unconfirmed(seen_by)))
    assert payments.entries[paid.txid].state == Unconfirmed(seen_by)
    assert delta.events == (event(EventKind.SEEN, paid, 700, trust=trust, seen_by=seen_by),)


@pytest.mark.parametrize(("sequence", "signals_rbf"), [(0xFFFFFFFD, True), (0xFFFFFFFE, False), (0xFFFFFFFF, False)])
def test_events_say_whether_the_payment_may_be_replaced(sequence: int, signals_rbf: bool) -> None:
    """Every event carries what the transaction itself says of its replacement, in the mempool and in a block."""
    paid = payment(1, sequence=sequence)
    payments, seen = absorb(EMPTY, (paid, None))
    payments, found = absorb(payments, (paid, confirmed(10)))
    _, lost = reverted(payments.scripthash, payments.entries[paid.txid])
    assert [one.signals_rbf for one in (*seen.events, *found.events, lost)] == [signals_rbf] * 3


def test_seen_payment_is_confirmed_later() -> None:
    """A seen payment changes its state, and nothing else, when its block is proved."""
    paid = payment(1, amount_sat=700)
    seen, _ = absorb(EMPTY, (paid, None))
    found, delta = absorb(seen, (paid, confirmed(10)))
    assert found.entries == {paid.txid: replace(seen.entries[paid.txid], state=confirmed(10))}
    assert delta.events == (event(EventKind.CONFIRMED, paid, 700, confirmed(10)),)


def test_coinbase_payment_is_marked() -> None:
    """A coinbase that pays the script is known as one, so that it matures."""
    payments, _ = absorb(EMPTY, (coinbase(1, amount_sat=50), confirmed(901, position=0)))
    assert totals(payments, tip_height=999) == (0, 50)
    assert totals(payments, tip_height=1000) == (50, 0)


def test_mined_coins_that_lost_their_block_do_not_count() -> None:
    """A coinbase exists in its block alone: reverted, it is neither confirmed nor unconfirmed."""
    mined = coinbase()
    payments, _ = absorb(EMPTY, (mined, confirmed(9, position=0)))
    before = totals_of(payments.entries.values(), tip_height=9, confirmations=1)
    assert before.unconfirmed_sat == mined.outputs[0].amount_sat
    entry, _ = reverted(payments.scripthash, payments.entries[mined.txid])
    assert totals_of([entry], tip_height=9, confirmations=1) == ReceivedTotals(
        confirmed_sat=0, unconfirmed_sat=0, changes_at_height=None
    )


def test_first_notice_keeps_its_time() -> None:
    """The time of first notice does not move when the payment is confirmed later."""
    paid = payment(1)
    seen, _ = absorb(EMPTY, (paid, None))
    delta = absorbed(seen, verified(seen, [(paid, confirmed(10))]), now=SEEN_AT + 999)
    assert [entry.seen_at for entry in delta.entries] == [SEEN_AT]


def test_payment_that_moves_to_another_block_is_reverted_and_confirmed() -> None:
    """A reorg that moves a payment to another block takes one confirmation back and gives another."""
    paid = payment(1, amount_sat=700)
    first, _ = absorb(EMPTY, (paid, confirmed(10)))
    found, delta = absorb(first, (paid, confirmed(11, branch=1)))
    assert delta.events == (
        event(EventKind.REVERTED, paid, 700, confirmed(10)),
        event(EventKind.CONFIRMED, paid, 700, confirmed(11, branch=1)),
    )
    assert totals(found) == (700, 0)


def test_block_of_the_same_height_is_another_block() -> None:
    """The block hash decides: a payment that is re-mined at the same height is reverted and confirmed too."""
    paid = payment(1)
    first, _ = absorb(EMPTY, (paid, confirmed(10)))
    _, delta = absorb(first, (paid, confirmed(10, branch=1)))
    assert delta.events == (
        event(EventKind.REVERTED, paid, 100_000, confirmed(10)),
        event(EventKind.CONFIRMED, paid, 100_000, confirmed(10, branch=1)),
    )


def test_reorg_takes_a_payment_out_of_its_block() -> None:
    """A reverted payment is unconfirmed again; its event names the block that it lost, and that is proved."""
    paid = payment(1, amount_sat=700)
    payments, _ = absorb(EMPTY, (paid, confirmed(10)))
    before = payments.entries[paid.txid]
    after, told = reverted(payments.scripthash, before)
    assert after == replace(before, state=Unconfirmed())
    assert told == event(EventKind.REVERTED, paid, 700, confirmed(10), trust=TrustLevel.PROVED)


# --- what a script spends ----------------------------------------------------------------------------------------


def test_change_to_the_same_address_is_no_deposit() -> None:
    """A spend that returns change to the script nets out, and the received total does not move."""
    paid = payment(1, amount_sat=700)
    spend = payment(2, amount_sat=600, spends=[Outpoint(paid.txid, 0)], change_sat=90)
    payments, delta = absorb(EMPTY, (paid, confirmed(10)), (spend, None))
    assert payments.entries[spend.txid].net_sat == -100
    assert event(EventKind.SEEN, spend, -100) in delta.events
    assert totals(payments) == (700, 0)


def test_foreign_outputs_are_not_counted_as_spent() -> None:
    """Only the script's own outputs count as sent: another output of the same transaction does not."""
    paid = payment(1, amount_sat=700, change_sat=5)
    foreign = payment(2, amount_sat=600, spends=[Outpoint(paid.txid, 1)])
    payments, _ = absorb(EMPTY, (paid, confirmed(10)), (foreign, None))
    assert payments.entries[foreign.txid].sent_sat == 0


@pytest.mark.parametrize("in_one_history", [True, False])
def test_child_before_its_parent_is_counted_right_in_the_end(in_one_history: bool) -> None:
    """A spend that arrives before the payment it spends is a deposit only until its parent is known."""
    parent = payment(1, amount_sat=700)
    child = payment(2, amount_sat=600, spends=[Outpoint(parent.txid, 0)])
    if in_one_history:
        payments, delta = absorb(EMPTY, (child, None), (parent, None))
        assert event(EventKind.SEEN, child, -100) in delta.events
    else:
        alone, _ = absorb(EMPTY, (child, None))
        assert totals(alone) == (0, 600)
        payments, delta = absorb(alone, (parent, None))
        assert {entry.txid for entry in delta.entries} == {parent.txid, child.txid}
        assert delta.events == (event(EventKind.SEEN, parent, 700),)
    assert payments.entries[child.txid].net_sat == -100
    assert totals(payments) == (0, 700)


def test_transaction_that_only_spends_is_an_entry_without_outputs() -> None:
    """A payment out of the script is in the ledger with a negative net."""
    paid = payment(1, amount_sat=700)
    out = payment(2, amount_sat=0, spends=[Outpoint(paid.txid, 0)], change_sat=650)
    payments, _ = absorb(EMPTY, (paid, confirmed(10)), (out, confirmed(11)))
    assert (payments.entries[out.txid].outputs, payments.entries[out.txid].net_sat) == ((), -700)
    assert totals(payments) == (700, 0)


# --- what changes nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [None, confirmed(10)], ids=["unconfirmed", "confirmed"])
def test_shorter_history_removes_nothing(place: Place | None) -> None:
    """A server that lists less, or nothing, proves nothing: no payment leaves and no event follows."""
    payments, _ = absorb(EMPTY, (ORIGINAL, place), (payment(3), confirmed(11)))
    for facts in ((), ((payment(3), confirmed(11)),)):
        after, delta = absorb(payments, *facts)
        assert (after, delta.entries, delta.events) == (payments, (), ())


def test_payment_to_another_script_receives_nothing() -> None:
    """Outputs to other scripts are not counted."""
    payments, _ = absorb(EMPTY, (payment(1, script=OTHER_SCRIPT, amount_sat=700), None))
    (entry,) = payments.entries.values()
    assert (entry.outputs, totals(payments)) == ((), (0, 0))


def test_absorbing_does_not_touch_what_it_was_given() -> None:
    """A delta is a value: the payments given stay as they were until the caller has written the change."""
    before, _ = absorb(EMPTY, (ORIGINAL, None))
    copy: dict[Txid, LedgerEntry] = dict(before.entries)
    absorbed(before, verified(before, [(BUMPED, None)]), now=SEEN_AT)
    assert before.entries == copy
