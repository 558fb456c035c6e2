"""The rules by which verified facts change the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Outpoint, Transaction
from lightipn.chain.verifier import Confirmed, Place, Unconfirmed, VerifiedEntry, VerifiedHistory
from lightipn.ledger.entries import LedgerEntry, ReceivedTotals, Replaced, ScriptPayments, totals_of
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from lightipn.ledger.rules import LedgerDelta, absorbed, reverted
from tests.builders import OTHER_SCRIPT, SCRIPT, SEEN_AT, coinbase, confirmed, payment, payments_of, txid_of

EMPTY = payments_of()
Facts = Sequence[tuple[Transaction, Place | None]]


def verified(payments: ScriptPayments, facts: Facts) -> VerifiedHistory:
    """Return a verified history; transactions that the ledger holds come without their bytes, as the verifier does."""
    return VerifiedHistory(
        entries=tuple(
            VerifiedEntry(
                txid=transaction.txid,
                place=place or Unconfirmed(),
                transaction=None if transaction.txid in payments.entries else transaction,
            )
            for transaction, place in facts
        ),
        unproved=(),
    )


def absorb(payments: ScriptPayments, *facts: tuple[Transaction, Place | None]) -> tuple[ScriptPayments, LedgerDelta]:
    """Absorb a history of these facts, and write the change as the store does."""
    delta = absorbed(payments, verified(payments, facts), now=SEEN_AT)
    entries = {**payments.entries, **{entry.txid: entry for entry in delta.entries}}
    return replace(payments, entries=entries), delta


def totals(payments: ScriptPayments, *, tip_height: int = 1000, confirmations: int = 1) -> tuple[int, int]:
    """Return confirmed and unconfirmed satoshis."""
    found: ReceivedTotals = totals_of(payments.entries.values(), tip_height=tip_height, confirmations=confirmations)
    return found.confirmed_sat, found.unconfirmed_sat


def event(kind: EventKind, transaction: Transaction, net_sat: int, **fields: object) -> PaymentEvent:
    """Return the event that is expected of a payment to the watched script."""
    trust = TrustLevel.PROVED if kind is EventKind.CONFIRMED else TrustLevel.SINGLE
    facts = {"height": None, "trust": trust} | fields
    return PaymentEvent(kind=kind, scripthash=EMPTY.scripthash, txid=transaction.txid, net_sat=net_sat, **facts)


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
    assert delta.events == (event(EventKind.CONFIRMED, paid, 700, height=10),)
    assert totals(payments) == (700, 0)


def test_seen_payment_is_confirmed_later() -> None:
    """A seen payment changes its state, and nothing else, when its block is proved."""
    paid = payment(1, amount_sat=700)
    seen, _ = absorb(EMPTY, (paid, None))
    found, delta = absorb(seen, (paid, confirmed(10)))
    assert found.entries == {paid.txid: replace(seen.entries[paid.txid], state=confirmed(10))}
    assert delta.events == (event(EventKind.CONFIRMED, paid, 700, height=10),)


def test_coinbase_payment_is_marked() -> None:
    """A coinbase that pays the script is known as one, so that it matures."""
    payments, _ = absorb(EMPTY, (coinbase(1, amount_sat=50), confirmed(901, position=0)))
    assert totals(payments, tip_height=999) == (0, 50)
    assert totals(payments, tip_height=1000) == (50, 0)


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
        event(EventKind.REVERTED, paid, 700, height=10, trust=TrustLevel.PROVED),
        event(EventKind.CONFIRMED, paid, 700, height=11),
    )
    assert totals(found) == (700, 0)


def test_block_of_the_same_height_is_another_block() -> None:
    """The block hash decides: a payment that is re-mined at the same height is reverted and confirmed too."""
    paid = payment(1)
    first, _ = absorb(EMPTY, (paid, confirmed(10)))
    _, delta = absorb(first, (paid, confirmed(10, branch=1)))
    assert [one.kind for one in delta.events] == [EventKind.REVERTED, EventKind.CONFIRMED]


def test_reorg_takes_a_payment_out_of_its_block() -> None:
    """A reverted payment is unconfirmed again, and its event names the height that it lost."""
    paid = payment(1, amount_sat=700)
    payments, _ = absorb(EMPTY, (paid, confirmed(10)))
    before = payments.entries[paid.txid]
    after, told = reverted(payments.scripthash, before)
    assert after == replace(before, state=Unconfirmed())
    assert told == event(EventKind.REVERTED, paid, 700, height=10)


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


# --- replacement -------------------------------------------------------------------------------------------------

COIN = Outpoint(txid_of(500), 0)
ORIGINAL = payment(1, amount_sat=700, spends=[COIN], change_sat=50)
BUMPED = payment(2, amount_sat=700, spends=[COIN], change_sat=20)


def test_fee_bump_is_one_change_and_the_total_does_not_flicker() -> None:
    """Old gone and new seen are in one delta: the shop's total is the same before and after."""
    before, _ = absorb(EMPTY, (ORIGINAL, None))
    after, delta = absorb(before, (BUMPED, None))
    assert {entry.txid: entry.state for entry in delta.entries} == {
        ORIGINAL.txid: Replaced(BUMPED.txid),
        BUMPED.txid: Unconfirmed(),
    }
    assert set(delta.events) == {
        event(EventKind.REPLACED, ORIGINAL, 700, replaced_by=BUMPED.txid),
        event(EventKind.SEEN, BUMPED, 700),
    }
    assert totals(before) == totals(after) == (0, 700)


def test_replacement_of_one_input_of_many_is_enough() -> None:
    """Two transactions that share a single input can never be in one chain."""
    original = payment(1, spends=[Outpoint(txid_of(501), 0), COIN], amount_sat=5)
    payments, _ = absorb(EMPTY, (original, None))
    payments, _ = absorb(payments, (payment(2, spends=[COIN, Outpoint(txid_of(502), 0)], amount_sat=6), confirmed(9)))
    assert totals(payments) == (6, 0)


def test_other_output_of_the_same_transaction_is_no_conflict() -> None:
    """Only the same outpoint conflicts: txid and index."""
    payments, _ = absorb(EMPTY, (ORIGINAL, None))
    payments, delta = absorb(payments, (payment(2, spends=[Outpoint(COIN.txid, 1)], amount_sat=6), None))
    assert [one.kind for one in delta.events] == [EventKind.SEEN]
    assert totals(payments) == (0, 706)


def test_two_listed_payments_with_one_coin_count_once() -> None:
    """A server that lists both spenders of a coin is wrong about one: the last one counts, unless one is proved."""
    payments, _ = absorb(EMPTY, (ORIGINAL, None))
    payments, _ = absorb(payments, (ORIGINAL, None), (BUMPED, None))
    assert payments.entries[ORIGINAL.txid].state == Replaced(BUMPED.txid)
    assert payments.entries[BUMPED.txid].state == Unconfirmed()

    proved, _ = absorb(EMPTY, (ORIGINAL, confirmed(9)), (BUMPED, None))
    assert isinstance(proved.entries[ORIGINAL.txid].state, Confirmed)
    assert proved.entries[BUMPED.txid].state == Replaced(ORIGINAL.txid)


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


def test_proved_payment_is_not_replaced_by_a_claim() -> None:
    """What is proved in a block stays, though a server lists a conflicting transaction instead."""
    payments, _ = absorb(EMPTY, (ORIGINAL, confirmed(10)))
    payments, _ = absorb(payments, (BUMPED, None))
    assert payments.entries[ORIGINAL.txid].state == confirmed(10)


def test_replaced_payment_that_comes_back_is_seen_again() -> None:
    """A replaced payment that is listed again counts again, and what replaced it is replaced in its turn."""
    payments, _ = absorb(EMPTY, (ORIGINAL, None))
    payments, _ = absorb(payments, (BUMPED, None))
    payments, delta = absorb(payments, (ORIGINAL, None))
    assert {entry.txid: entry.state for entry in delta.entries} == {
        ORIGINAL.txid: Unconfirmed(),
        BUMPED.txid: Replaced(ORIGINAL.txid),
    }
    assert set(delta.events) == {
        event(EventKind.SEEN, ORIGINAL, 700),
        event(EventKind.REPLACED, BUMPED, 700, replaced_by=ORIGINAL.txid),
    }
    assert totals(payments) == (0, 700)


def test_replaced_payment_that_is_mined_after_all_is_confirmed() -> None:
    """A miner may take the original: it is confirmed at once, and the replacement is gone."""
    payments, _ = absorb(EMPTY, (ORIGINAL, None))
    payments, _ = absorb(payments, (BUMPED, None))
    payments, delta = absorb(payments, (ORIGINAL, confirmed(10)))
    assert set(delta.events) == {
        event(EventKind.CONFIRMED, ORIGINAL, 700, height=10),
        event(EventKind.REPLACED, BUMPED, 700, replaced_by=ORIGINAL.txid),
    }
    assert totals(payments) == (700, 0)


def test_chain_of_replacements_leaves_the_last_one() -> None:
    """However often a fee is bumped, one payment counts."""
    payments = EMPTY
    for number in range(1, 6):
        payments, _ = absorb(payments, (payment(number, amount_sat=700, spends=[COIN], change_sat=number), None))
        assert totals(payments) == (0, 700)


def test_payment_that_spends_a_replaced_one_is_gone_with_it() -> None:
    """A payment that spends an output of a replaced one can never confirm, so it leaves the total as well."""
    child = payment(3, amount_sat=30, spends=[Outpoint(ORIGINAL.txid, 1)])
    payments, _ = absorb(EMPTY, (ORIGINAL, None), (child, None))
    assert totals(payments) == (0, 730)
    payments, _ = absorb(payments, (BUMPED, None))
    assert isinstance(payments.entries[child.txid].state, Replaced)
    assert totals(payments) == (0, 700)


# --- laws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [None, confirmed(10)], ids=["unconfirmed", "confirmed"])
def test_shorter_history_removes_nothing(place: Place | None) -> None:
    """A server that lists less, or nothing, proves nothing: no payment leaves and no event follows."""
    payments, _ = absorb(EMPTY, (ORIGINAL, place), (payment(3), confirmed(11)))
    for facts in ((), ((payment(3), confirmed(11)),)):
        after, delta = absorb(payments, *facts)
        assert (after, delta.entries, delta.events) == (payments, (), ())


# Payments 0 to 5: each but the first two spends the output of an earlier one, and none conflicts with another.
FAMILY: dict[int, Transaction] = {0: payment(100, amount_sat=1000), 1: payment(101, amount_sat=2000)}
for _number in range(2, 6):
    FAMILY[_number] = payment(
        100 + _number, amount_sat=900 - 100 * _number, spends=[Outpoint(FAMILY[_number - 2].txid, 0)]
    )
PLACES = st.one_of(st.none(), st.builds(confirmed, st.integers(1, 5)))
HISTORIES = st.lists(st.dictionaries(st.sampled_from(sorted(FAMILY)), PLACES, max_size=6), max_size=5)


def facts_of(history: Mapping[int, Place | None]) -> Facts:
    """Return the facts of a generated history."""
    return [(FAMILY[number], place) for number, place in history.items()]


@given(HISTORIES)
@settings(deadline=None, max_examples=40)
def test_absorbing_a_history_twice_changes_nothing_the_second_time(histories: list[dict[int, Place | None]]) -> None:
    """Whatever came before, the same history again has no entries to write and no events to tell."""
    payments = EMPTY
    for history in histories:
        payments, _ = absorb(payments, *facts_of(history))
        again, delta = absorb(payments, *facts_of(history))
        assert (again, delta) == (payments, LedgerDelta(scripthash=payments.scripthash, entries=(), events=()))


@given(st.permutations(sorted(FAMILY)), st.lists(st.integers(1, 3), min_size=6, max_size=6))
@settings(deadline=None, max_examples=40)
def test_order_of_arrival_does_not_change_the_sums(order: list[int], sizes: list[int]) -> None:
    """However the payments are cut into histories and in whatever order these come, the ledger ends up the same."""
    at_once, _ = absorb(EMPTY, *[(transaction, confirmed(7)) for transaction in FAMILY.values()])
    payments, rest = EMPTY, list(order)
    for size in sizes:
        part, rest = rest[:size], rest[size:]
        payments, _ = absorb(payments, *[(FAMILY[number], confirmed(7)) for number in part])
    assert not rest
    assert payments.entries == at_once.entries
    assert totals(payments) == totals(at_once)


@given(HISTORIES)
@settings(deadline=None, max_examples=40)
def test_total_is_the_sum_of_the_hashed_outputs(histories: list[dict[int, Place | None]]) -> None:
    """The sum of all nets equals what the raw transactions pay to the script less what they spend of it."""
    payments = EMPTY
    for history in histories:
        payments, _ = absorb(payments, *facts_of(history))
    held = {transaction.txid: transaction for transaction in FAMILY.values() if transaction.txid in payments.entries}
    paid_sat = sum(sum(transaction.received_by(SCRIPT).values()) for transaction in held.values())
    spent_sat = sum(
        held[outpoint.txid].outputs[outpoint.index].amount_sat
        for transaction in held.values()
        for outpoint in transaction.spends
        if outpoint.txid in held
    )
    assert sum(entry.net_sat for entry in payments.entries.values()) == paid_sat - spent_sat


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
