"""The rules by which payments go: replaced by a rival for one of their coins, or dropped by every server."""

from dataclasses import replace

import pytest

from lightipn.bitcoin.transaction import Outpoint, Transaction
from lightipn.chain.verifier import Confirmed, Place, Unconfirmed
from lightipn.ledger.entries import Dropped, PaymentState, Replaced, ScriptPayments
from lightipn.ledger.events import EventKind, TrustLevel
from lightipn.ledger.rules import LedgerDelta, dropped, replaced, reverted
from tests.builders import SEEN_AT, coinbase, confirmed, payment, txid_of
from tests.ledger.steps import (
    BUMPED,
    COIN,
    EMPTY,
    NOTHING,
    ORIGINAL,
    absorb,
    event,
    fact,
    standing_in,
    states_of,
    totals,
    written,
)

# Spends the same coin as ORIGINAL and pays the watched script nothing.
ELSEWHERE = payment(4, amount_sat=0, spends=[COIN], change_sat=740)
# Spends the change of ORIGINAL, and pays the watched script.
CHILD = payment(3, amount_sat=30, spends=[Outpoint(ORIGINAL.txid, 1)])
GRANDCHILD = payment(5, amount_sat=20, spends=[Outpoint(CHILD.txid, 0)])

GONE_AT = SEEN_AT + 1
RIVAL_PLACES = [
    pytest.param(confirmed(10), TrustLevel.PROVED, id="proved in a block"),
    pytest.param(Unconfirmed(1), TrustLevel.SINGLE, id="held by one server"),
    pytest.param(Unconfirmed(2), TrustLevel.AGREED, id="held by two servers"),
]


def replace_by(
    payments: ScriptPayments, gone: Transaction, by: Transaction, place: Place | None = None
) -> tuple[ScriptPayments, LedgerDelta]:
    """Replace a payment by a rival, and write the change."""
    delta = replaced(payments, gone.txid, fact(by, place), now=GONE_AT)
    return written(payments, delta), delta


def drop(payments: ScriptPayments, gone: Transaction, *, denied_by: int = 1) -> tuple[ScriptPayments, LedgerDelta]:
    """Drop a payment, and write the change."""
    delta = dropped(payments, gone.txid, denied_by=denied_by, now=GONE_AT)
    return written(payments, delta), delta


def seen(*transactions: Transaction) -> ScriptPayments:
    """Return the ledger that holds these as unconfirmed."""
    payments, _ = absorb(EMPTY, *[(transaction, None) for transaction in transactions])
    return payments


# --- a rival in the script's own history -------------------------------------------------------------------------


def test_fee_bump_is_one_change_and_the_total_does_not_flicker() -> None:
    """Old gone and new seen are in one delta: the shop's total is the same before and after."""
    before = seen(ORIGINAL)
    after, delta = absorb(before, (BUMPED, None))
    assert states_of(delta) == {ORIGINAL.txid: Replaced(BUMPED.txid), BUMPED.txid: Unconfirmed()}
    assert set(delta.events) == {
        event(EventKind.REPLACED, ORIGINAL, 700, replaced_by=BUMPED.txid),
        event(EventKind.SEEN, BUMPED, 700),
    }
    assert totals(before) == totals(after) == (0, 700)


@pytest.mark.parametrize(("place", "trust"), RIVAL_PLACES)
def test_replacement_is_worth_what_its_rival_is(place: Place, trust: TrustLevel) -> None:
    """That a payment is gone is proved by a confirmed rival, agreed or single by a claimed one."""
    _, delta = absorb(seen(ORIGINAL), (BUMPED, place))
    assert event(EventKind.REPLACED, ORIGINAL, 700, replaced_by=BUMPED.txid, trust=trust) in delta.events


def test_replacement_of_one_input_of_many_is_enough() -> None:
    """Two transactions that share a single input can never be in one chain."""
    payments = seen(payment(1, spends=[Outpoint(txid_of(501), 0), COIN], amount_sat=5))
    payments, _ = absorb(payments, (payment(2, spends=[COIN, Outpoint(txid_of(502), 0)], amount_sat=6), confirmed(9)))
    assert totals(payments) == (6, 0)


def test_other_output_of_the_same_transaction_is_no_conflict() -> None:
    """Only the same outpoint conflicts: txid and index."""
    payments, delta = absorb(seen(ORIGINAL), (payment(2, spends=[Outpoint(COIN.txid, 1)], amount_sat=6), None))
    assert [one.kind for one in delta.events] == [EventKind.SEEN]
    assert totals(payments) == (0, 706)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([BUMPED], id="the new one alone"),
        pytest.param([ORIGINAL, BUMPED], id="the new one last"),
        pytest.param([BUMPED, ORIGINAL], id="the new one first"),
    ],
)
def test_newly_admitted_claim_beats_a_standing_one(history: list[Transaction]) -> None:
    """Of two claims for one coin the new one wins, wherever it is listed: its witnesses do not hold the old one."""
    payments, delta = absorb(seen(ORIGINAL), *[(transaction, None) for transaction in history])
    assert states_of(payments) == {ORIGINAL.txid: Replaced(BUMPED.txid), BUMPED.txid: Unconfirmed()}
    assert [one.kind for one in delta.events] == [EventKind.REPLACED, EventKind.SEEN]


@pytest.mark.parametrize("lists_the_proved_one", [True, False], ids=["listed beside it", "not listed"])
@pytest.mark.parametrize("seen_by", [1, 5])
def test_confirmed_transaction_stands_against_every_claim(lists_the_proved_one: bool, seen_by: int) -> None:
    """What is proved in a block stays, whoever lists a rival and however many hold that; the rival never counts."""
    before, _ = absorb(EMPTY, (ORIGINAL, confirmed(10)))
    listed: list[tuple[Transaction, Place | None]] = [(BUMPED, Unconfirmed(seen_by))]
    if lists_the_proved_one:
        listed.insert(0, (ORIGINAL, confirmed(10)))
    after, _ = absorb(before, *listed)
    assert states_of(after) == {ORIGINAL.txid: confirmed(10), BUMPED.txid: Replaced(ORIGINAL.txid)}
    assert totals(before) == totals(after) == (700, 0)


@pytest.mark.parametrize("order", [1, -1])
def test_proved_newcomer_beats_a_claim_of_the_same_history(order: int) -> None:
    """Where one history lists both spenders of a coin, the one that a block proves counts, and no other."""
    both: list[tuple[Transaction, Place | None]] = [(ORIGINAL, confirmed(9)), (BUMPED, Unconfirmed(5))]
    proved, _ = absorb(EMPTY, *both[::order])
    assert states_of(proved) == {ORIGINAL.txid: confirmed(9), BUMPED.txid: Replaced(ORIGINAL.txid)}
    assert totals(proved) == (700, 0)


def test_proved_newcomer_replaces_a_claim_that_is_not_listed_any_more() -> None:
    """A rival that a block proves takes the place of what stood, and that is one change."""
    payments, delta = absorb(seen(ORIGINAL), (BUMPED, confirmed(9)))
    assert set(delta.events) == {
        event(EventKind.REPLACED, ORIGINAL, 700, replaced_by=BUMPED.txid, trust=TrustLevel.PROVED),
        event(EventKind.CONFIRMED, BUMPED, 700, confirmed(9)),
    }
    assert totals(payments) == (700, 0)


def test_reverted_payment_can_be_replaced() -> None:
    """Out of its block a payment is a claim like any other: a rival may take its place."""
    payments, _ = absorb(EMPTY, (ORIGINAL, confirmed(10)))
    entry, _ = reverted(payments.scripthash, payments.entries[ORIGINAL.txid])
    payments, _ = absorb(replace(payments, entries={entry.txid: entry}), (BUMPED, confirmed(10, branch=1)))
    assert states_of(payments) == {ORIGINAL.txid: Replaced(BUMPED.txid), BUMPED.txid: confirmed(10, branch=1)}


def test_replaced_payment_that_comes_back_is_seen_again() -> None:
    """A replaced payment that is witnessed again counts again, and what replaced it is replaced in its turn."""
    payments, _ = absorb(seen(ORIGINAL), (BUMPED, None))
    payments, delta = absorb(payments, (ORIGINAL, Unconfirmed(3)))
    assert states_of(delta) == {ORIGINAL.txid: Unconfirmed(3), BUMPED.txid: Replaced(ORIGINAL.txid)}
    assert set(delta.events) == {
        event(EventKind.SEEN, ORIGINAL, 700, seen_by=3, trust=TrustLevel.AGREED),
        event(EventKind.REPLACED, BUMPED, 700, replaced_by=ORIGINAL.txid, trust=TrustLevel.AGREED),
    }
    assert totals(payments) == (0, 700)


def test_replaced_payment_that_is_mined_after_all_is_confirmed() -> None:
    """A miner may take the original: it is confirmed at once, and the replacement is gone."""
    payments, _ = absorb(seen(ORIGINAL), (BUMPED, None))
    payments, delta = absorb(payments, (ORIGINAL, confirmed(10)))
    assert set(delta.events) == {
        event(EventKind.CONFIRMED, ORIGINAL, 700, confirmed(10)),
        event(EventKind.REPLACED, BUMPED, 700, replaced_by=ORIGINAL.txid, trust=TrustLevel.PROVED),
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
    payments = seen(ORIGINAL, CHILD)
    assert totals(payments) == (0, 730)
    payments, delta = absorb(payments, (BUMPED, None))
    assert states_of(payments)[CHILD.txid] == Replaced(BUMPED.txid)
    assert event(EventKind.REPLACED, CHILD, 30, replaced_by=BUMPED.txid) in delta.events
    assert totals(payments) == (0, 700)


def test_payment_says_when_it_went_and_forgets_it_when_it_is_back() -> None:
    """What is gone keeps the time at which it went, whatever takes its place afterwards; what stands has no such time.

    A payment that never stood is gone from the moment of its notice.
    """
    payments, _ = replace_by(seen(ORIGINAL, CHILD), ORIGINAL, BUMPED)
    gone = {txid: entry.gone_at for txid, entry in payments.entries.items()}
    assert gone == {ORIGINAL.txid: GONE_AT, CHILD.txid: GONE_AT, BUMPED.txid: None}
    third = payment(12, spends=[COIN], amount_sat=699)
    payments = written(payments, replaced(payments, BUMPED.txid, fact(third, None), now=GONE_AT + 60))
    gone = {txid: entry.gone_at for txid, entry in payments.entries.items()}
    assert gone == {ORIGINAL.txid: GONE_AT, CHILD.txid: GONE_AT, BUMPED.txid: GONE_AT + 60, third.txid: None}
    payments, _ = absorb(payments, (ORIGINAL, confirmed(10)))
    assert payments.entries[ORIGINAL.txid].gone_at is None
    assert payments.entries[third.txid].gone_at == SEEN_AT
    payments, _ = absorb(EMPTY, (ORIGINAL, confirmed(10)), (BUMPED, None))
    assert payments.entries[BUMPED.txid].gone_at == SEEN_AT


# --- a rival that pays nobody we know ----------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "trust"), RIVAL_PLACES)
def test_rival_that_pays_nobody_we_know_only_marks_the_payment(place: Place, trust: TrustLevel) -> None:
    """The payment is gone and its event names the rival; the rival itself is none of this script's payments."""
    before = seen(ORIGINAL, payment(9, amount_sat=11))
    after, delta = replace_by(before, ORIGINAL, ELSEWHERE, place)
    assert delta == LedgerDelta(
        scripthash=before.scripthash,
        entries=(replace(before.entries[ORIGINAL.txid], state=Replaced(ELSEWHERE.txid), gone_at=GONE_AT),),
        events=(event(EventKind.REPLACED, ORIGINAL, 700, replaced_by=ELSEWHERE.txid, trust=trust),),
    )
    assert totals(before) == (0, 711)
    assert totals(after) == (0, 11)


@pytest.mark.parametrize(("place", "trust"), RIVAL_PLACES)
def test_children_of_a_replaced_payment_go_with_it(place: Place, trust: TrustLevel) -> None:
    """What spends the gone payment, and what spends that, can never confirm: all go in one change, for one reason."""
    after, delta = replace_by(seen(ORIGINAL, CHILD, GRANDCHILD), ORIGINAL, ELSEWHERE, place)
    assert states_of(after) == dict.fromkeys((ORIGINAL.txid, CHILD.txid, GRANDCHILD.txid), Replaced(ELSEWHERE.txid))
    assert {(one.kind, one.txid, one.replaced_by, one.trust) for one in delta.events} == {
        (EventKind.REPLACED, transaction.txid, ELSEWHERE.txid, trust) for transaction in (ORIGINAL, CHILD, GRANDCHILD)
    }
    assert len(delta.events) == 3
    assert totals(after) == (0, 0)


def test_payments_without_a_part_in_it_stay() -> None:
    """A payment that neither shares the coin nor spends what is gone is left alone."""
    sibling = payment(6, amount_sat=5, spends=[Outpoint(COIN.txid, 1)])
    mined = coinbase(7, amount_sat=50)
    before, _ = absorb(seen(ORIGINAL, sibling), (mined, confirmed(3, position=0)))
    after, delta = replace_by(before, ORIGINAL, ELSEWHERE)
    assert states_of(delta) == {ORIGINAL.txid: Replaced(ELSEWHERE.txid)}
    assert standing_in(after) == {sibling.txid, mined.txid}


# --- a rival that pays the same script ---------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "trust"), RIVAL_PLACES)
def test_rival_that_pays_the_script_enters_in_the_same_change(place: Place, trust: TrustLevel) -> None:
    """Old gone and new seen, or confirmed, are one change, and the sum of both totals does not flicker."""
    before = seen(ORIGINAL)
    after, delta = replace_by(before, ORIGINAL, BUMPED, place)
    assert states_of(after) == {ORIGINAL.txid: Replaced(BUMPED.txid), BUMPED.txid: place}
    new = (
        event(EventKind.CONFIRMED, BUMPED, 700, place)
        if isinstance(place, Confirmed)
        else event(EventKind.SEEN, BUMPED, 700, seen_by=place.seen_by, trust=trust)
    )
    gone = event(EventKind.REPLACED, ORIGINAL, 700, replaced_by=BUMPED.txid, trust=trust)
    assert delta.events == (gone, new)
    assert after.entries[BUMPED.txid].seen_at == GONE_AT
    assert sum(totals(before)) == sum(totals(after)) == 700


def test_rival_that_pays_the_script_less_changes_the_total_once() -> None:
    """A replacement that pays less is one step down, never down to nothing and up again."""
    cheaper = payment(8, amount_sat=400, spends=[COIN])
    after, delta = replace_by(seen(ORIGINAL), ORIGINAL, cheaper)
    assert totals(after) == (0, 400)
    assert len(delta.entries) == 2


def test_rival_that_spends_from_the_script_enters_too() -> None:
    """A rival that spends the script's own output is a payment out of it, though it pays the script nothing."""
    deposit = payment(20, amount_sat=90)
    before, _ = absorb(seen(ORIGINAL), (deposit, confirmed(5)))
    rival = payment(21, amount_sat=0, spends=[COIN, Outpoint(deposit.txid, 0)], change_sat=800)
    after, delta = replace_by(before, ORIGINAL, rival, Unconfirmed(2))
    assert states_of(delta) == {ORIGINAL.txid: Replaced(rival.txid), rival.txid: Unconfirmed(2)}
    assert after.entries[rival.txid].net_sat == -90
    assert totals(after) == (90, 0)


def test_children_go_when_the_rival_pays_the_script() -> None:
    """What spends the replaced payment is gone with it, whatever the rival pays."""
    after, _ = replace_by(seen(ORIGINAL, CHILD, GRANDCHILD), ORIGINAL, BUMPED, confirmed(10))
    assert standing_in(after) == {BUMPED.txid}
    assert totals(after) == (700, 0)


def test_history_that_follows_a_replacement_tells_nothing_new() -> None:
    """The script's own history names the rival a moment later: it is known, and nothing is told again."""
    after, _ = replace_by(seen(ORIGINAL), ORIGINAL, BUMPED, Unconfirmed(2))
    assert absorb(after, (BUMPED, Unconfirmed(2))) == (after, NOTHING)


# --- what cannot go ----------------------------------------------------------------------------------------------

NOT_UNCONFIRMED = [
    pytest.param(confirmed(10), id="confirmed"),
    pytest.param(Replaced(txid_of(77)), id="replaced before"),
    pytest.param(Dropped(), id="dropped before"),
    pytest.param(None, id="unknown"),
]


@pytest.mark.parametrize("state", NOT_UNCONFIRMED)
@pytest.mark.parametrize("by", [BUMPED, ELSEWHERE], ids=["pays the script", "pays elsewhere"])
@pytest.mark.parametrize("place", [Unconfirmed(2), confirmed(11)], ids=["claimed", "proved"])
def test_only_what_is_unconfirmed_is_replaced(state: PaymentState | None, by: Transaction, place: Place) -> None:
    """Replacing what is confirmed, gone or unknown changes nothing, and tells nobody."""
    payments = EMPTY
    if state is not None:
        payments = seen(ORIGINAL)
        payments = replace(payments, entries={ORIGINAL.txid: replace(payments.entries[ORIGINAL.txid], state=state)})
    assert replaced(payments, ORIGINAL.txid, fact(by, place), now=SEEN_AT) == NOTHING


@pytest.mark.parametrize("state", NOT_UNCONFIRMED)
def test_only_what_is_unconfirmed_is_dropped(state: PaymentState | None) -> None:
    """Dropping what is confirmed, gone or unknown changes nothing, and tells nobody."""
    payments = EMPTY
    if state is not None:
        payments = seen(ORIGINAL)
        payments = replace(payments, entries={ORIGINAL.txid: replace(payments.entries[ORIGINAL.txid], state=state)})
    assert dropped(payments, ORIGINAL.txid, denied_by=3, now=GONE_AT) == NOTHING


# --- dropped -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("denied_by", "trust"), [(1, TrustLevel.SINGLE), (2, TrustLevel.AGREED)])
def test_dropped_payment_leaves_the_total(denied_by: int, trust: TrustLevel) -> None:
    """A payment that every server denies is gone, and its event is worth what their number is."""
    before = seen(ORIGINAL, payment(9, amount_sat=11))
    after, delta = drop(before, ORIGINAL, denied_by=denied_by)
    assert delta == LedgerDelta(
        scripthash=before.scripthash,
        entries=(replace(before.entries[ORIGINAL.txid], state=Dropped(), gone_at=GONE_AT),),
        events=(event(EventKind.DROPPED, ORIGINAL, 700, trust=trust),),
    )
    assert totals(before) == (0, 711)
    assert totals(after) == (0, 11)


def test_dropping_takes_no_other_payment_along() -> None:
    """A dropped payment may come back, so what spends it stays until it is denied itself."""
    after, _ = drop(seen(ORIGINAL, CHILD), ORIGINAL)
    assert standing_in(after) == {CHILD.txid}


def test_dropped_payment_that_comes_back_is_seen_again() -> None:
    """A dropped payment that is witnessed again counts again, with its new witnesses and its first time of notice."""
    gone, _ = drop(seen(ORIGINAL), ORIGINAL)
    back, delta = absorb(gone, (ORIGINAL, Unconfirmed(2)))
    assert delta.events == (event(EventKind.SEEN, ORIGINAL, 700, seen_by=2, trust=TrustLevel.AGREED),)
    assert back.entries[ORIGINAL.txid] == replace(gone.entries[ORIGINAL.txid], state=Unconfirmed(2), gone_at=None)
    assert totals(back) == (0, 700)
    again, delta = drop(back, ORIGINAL)
    assert [one.kind for one in delta.events] == [EventKind.DROPPED]
    assert totals(again) == (0, 0)


def test_dropped_payment_that_is_mined_is_confirmed() -> None:
    """A block proves a payment that no server knew any more: it is confirmed, without being seen before."""
    gone, _ = drop(seen(ORIGINAL), ORIGINAL)
    mined, delta = absorb(gone, (ORIGINAL, confirmed(10)))
    assert delta.events == (event(EventKind.CONFIRMED, ORIGINAL, 700, confirmed(10)),)
    assert totals(mined) == (700, 0)


def test_dropped_payment_does_not_come_back_when_its_coin_is_spent() -> None:
    """A rival of a dropped payment enters as any payment does, and the dropped one stays dropped."""
    gone, _ = drop(seen(ORIGINAL), ORIGINAL)
    after, delta = absorb(gone, (BUMPED, None))
    assert delta.events == (event(EventKind.SEEN, BUMPED, 700),)
    assert states_of(after) == {ORIGINAL.txid: Dropped(), BUMPED.txid: Unconfirmed()}


def test_claim_that_a_block_excludes_replaces_nobody() -> None:
    """What can never be in our chain takes no other payment's place."""
    first, second = Outpoint(txid_of(1001), 0), Outpoint(txid_of(1002), 0)
    original = payment(11, spends=[first])
    mined = payment(12, spends=[second])
    excluded = payment(13, spends=[first, second])
    before, _ = absorb(seen(original), (mined, confirmed(5)))
    assert standing_in(absorb(before, (excluded, Unconfirmed(2)))[0]) == {original.txid, mined.txid}
    assert standing_in(replace_by(before, original, excluded, Unconfirmed(2))[0]) == {original.txid, mined.txid}


def test_mined_coins_do_not_replace_each_other() -> None:
    """The null outpoint that all mined coins name is no coin."""
    first, second = coinbase(1), coinbase(2)
    payments, _ = absorb(EMPTY, (first, confirmed(10, position=0)), (second, confirmed(5, position=0)))
    entry, _ = reverted(payments.scripthash, payments.entries[first.txid])
    payments = replace(payments, entries=payments.entries | {entry.txid: entry})
    assert absorb(payments, (second, confirmed(5, position=0)))[1] == NOTHING
