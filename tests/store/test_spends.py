"""What unconfirmed payments spend, and the scripts that are watched for it."""

import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import UNKNOWN, Status
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Dropped, LedgerEntry, PaymentState, Replaced
from lightipn.store import ledger, spends
from lightipn.store.database import Database
from lightipn.store.ledger import WatchChange
from lightipn.store.spends import SpentOutput
from tests.builders import confirmed, entry_of, txid_of
from tests.store.rows import NOW, open_memory, regtest_address, subscribe

ADDRESS = regtest_address(0)
SPENT_SCRIPT = regtest_address(50).scripthash  # nobody wants it; payments spend from it
OTHER_SCRIPT = regtest_address(51).scripthash
STATUS = Status(b"\x5a" * 32)
COIN = Outpoint(txid_of(900), 1)
GONE_OR_PROVED: list[PaymentState] = [confirmed(10), Replaced(txid_of(9)), Dropped()]


def spent(
    spender: int = 1, *, outpoint: Outpoint = COIN, scripthash: ScriptHash = SPENT_SCRIPT, since_height: int = 100
) -> SpentOutput:
    """Return what the payment with this number spends."""
    return SpentOutput(outpoint=outpoint, scripthash=scripthash, spender=txid_of(spender), since_height=since_height)


def pay(db: Database, number: int, *entries: LedgerEntry) -> None:
    """Write payments to the address with this number."""
    ledger.add_script(db, regtest_address(number))
    ledger.save_entries(db, regtest_address(number).scripthash, entries)


def watches(db: Database) -> dict[ScriptHash, Status | None]:
    """Return what is to be watched, each once."""
    found = ledger.load_watches(db)
    assert len(found) == len(dict(found))
    return dict(found)


# --- what is noted -----------------------------------------------------------------------------------------------


def test_spent_outputs_are_read_as_they_were_written(db: Database) -> None:
    """All outputs of a script that payments spend come back; those of other scripts do not."""
    first, second = spent(1), spent(2, outpoint=Outpoint(txid_of(901), 2**32 - 1), since_height=0)
    spends.save_spent_outputs(db, [first, second, spent(1, outpoint=Outpoint(COIN.txid, 0), scripthash=OTHER_SCRIPT)])
    found = spends.load_spent_outputs(db, SPENT_SCRIPT)
    assert sorted(found, key=lambda one: one.outpoint.index) == [first, second]
    assert spends.load_spent_outputs(db, ScriptHash(bytes(32))) == []


def test_two_payments_may_spend_one_output(db: Database) -> None:
    """Rivals for a coin are noted side by side; noting one again changes its own row alone."""
    spends.save_spent_outputs(db, [spent(1), spent(2)])
    spends.save_spent_outputs(db, [spent(2, since_height=150)])
    found = spends.load_spent_outputs(db, SPENT_SCRIPT)
    assert {(one.spender, one.since_height) for one in found} == {(txid_of(1), 100), (txid_of(2), 150)}


# --- payments of which nothing is noted --------------------------------------------------------------------------


def test_unarmed_payments_come_with_all_that_they_spend(db: Database) -> None:
    """An unconfirmed payment is unarmed until all is noted that it spends; its outpoints keep their order."""
    coins = [Outpoint(txid_of(900 + number), number) for number in (3, 1, 2)]
    pay(db, 0, entry_of(1, spends=coins), entry_of(2, spends=coins[:1]))
    assert spends.load_unarmed(db) == {txid_of(1): tuple(coins), txid_of(2): (coins[0],)}
    spends.save_spent_outputs(db, [spent(1, outpoint=coins[1])])
    assert spends.load_unarmed(db) == {txid_of(1): tuple(coins), txid_of(2): (coins[0],)}
    spends.save_spent_outputs(db, [spent(1, outpoint=coin) for coin in coins])
    assert spends.load_unarmed(db) == {txid_of(2): (coins[0],)}


@pytest.mark.parametrize("state", GONE_OR_PROVED, ids=["confirmed", "replaced", "dropped"])
def test_settled_payment_is_not_armed(db: Database, state: PaymentState) -> None:
    """What is confirmed or gone has nothing to be watched."""
    pay(db, 0, entry_of(1, state=state, spends=[COIN]))
    assert spends.load_unarmed(db) == {}


def test_mined_coins_are_not_armed(db: Database) -> None:
    """A coinbase that lost its block spends nothing that anybody else could spend."""
    pay(db, 0, entry_of(1, is_coinbase=True, spends=[Outpoint(Txid(bytes(32)), 0xFFFFFFFF)]))
    assert spends.load_unarmed(db) == {}


def test_payment_to_two_addresses_is_armed_once(db: Database) -> None:
    """A transaction that pays two watched scripts is one payment to be armed."""
    pay(db, 0, entry_of(1, spends=[COIN]))
    pay(db, 1, entry_of(1, received_sat=7, spends=[COIN]))
    assert spends.load_unarmed(db) == {txid_of(1): (COIN,)}


def test_payment_whose_script_cannot_be_watched_stays_armed(db: Database) -> None:
    """A script that is too busy is forgotten, but the payment is not armed again because of it."""
    pay(db, 0, entry_of(1, spends=[COIN]))
    spends.save_spent_outputs(db, [spent(1)])
    spends.drop_spends_from(db, SPENT_SCRIPT)
    assert spends.load_spent_outputs(db, SPENT_SCRIPT) == []
    assert spends.load_unarmed(db) == {}
    assert not ledger.is_watched(db, SPENT_SCRIPT)
    assert watches(db) == {ADDRESS.scripthash: None}


# --- settling ----------------------------------------------------------------------------------------------------


def test_unconfirmed_payment_is_not_settled(db: Database) -> None:
    """As long as a payment is unconfirmed, what it spends stays watched."""
    pay(db, 0, entry_of(1, spends=[COIN]))
    spends.save_spent_outputs(db, [spent(1)])
    assert spends.drop_settled_spends(db) == []
    assert spends.load_spent_outputs(db, SPENT_SCRIPT) == [spent(1)]


@pytest.mark.parametrize("state", GONE_OR_PROVED, ids=["confirmed", "replaced", "dropped"])
def test_settled_payment_frees_its_scripts(db: Database, state: PaymentState) -> None:
    """Once a payment is confirmed or gone, the scripts that it spends from are given back, once."""
    pay(db, 0, entry_of(1, state=state, spends=[COIN]))
    spends.save_spent_outputs(db, [spent(1), spent(1, outpoint=Outpoint(COIN.txid, 7), scripthash=OTHER_SCRIPT)])
    assert sorted(spends.drop_settled_spends(db)) == sorted([SPENT_SCRIPT, OTHER_SCRIPT])
    assert spends.load_spent_outputs(db, SPENT_SCRIPT) == []
    assert spends.drop_settled_spends(db) == []


def test_payment_of_a_forgotten_script_is_settled(db: Database) -> None:
    """When nobody wants the paid script any more, nothing is watched for its payments."""
    pay(db, 0, entry_of(1, spends=[COIN]))
    spends.save_spent_outputs(db, [spent(1)])
    ledger.remove_script(db, ADDRESS.scripthash)
    assert spends.drop_settled_spends(db) == [SPENT_SCRIPT]


def test_script_that_somebody_else_needs_is_not_given_back(db: Database) -> None:
    """A script stays watched while another payment spends from it, or while somebody wants it for itself."""
    pay(db, 0, entry_of(1, state=confirmed(10), spends=[COIN]), entry_of(2, spends=[Outpoint(COIN.txid, 5)]))
    wanted = regtest_address(3)
    ledger.add_script(db, wanted)
    spends.save_spent_outputs(
        db,
        [
            spent(1),
            spent(2, outpoint=Outpoint(COIN.txid, 5)),
            spent(1, outpoint=Outpoint(COIN.txid, 6), scripthash=wanted.scripthash),
            spent(1, outpoint=Outpoint(COIN.txid, 7), scripthash=OTHER_SCRIPT),
        ],
    )
    assert spends.drop_settled_spends(db) == [OTHER_SCRIPT]
    assert spends.load_spent_outputs(db, SPENT_SCRIPT) == [spent(2, outpoint=Outpoint(COIN.txid, 5))]
    assert spends.load_spent_outputs(db, wanted.scripthash) == []
    pay(db, 0, entry_of(2, state=confirmed(11), spends=[Outpoint(COIN.txid, 5)]))
    assert spends.drop_settled_spends(db) == [SPENT_SCRIPT]


def test_script_that_could_not_be_watched_is_not_given_back(db: Database) -> None:
    """What was set aside as too busy is no script any more when its payment settles."""
    pay(db, 0, entry_of(1, state=confirmed(10), spends=[COIN]))
    spends.save_spent_outputs(db, [spent(1)])
    spends.drop_spends_from(db, SPENT_SCRIPT)
    assert spends.drop_settled_spends(db) == []
    assert db.execute("SELECT count(*) FROM spent_output").fetchone() == (0,)


PAYMENTS = st.lists(
    st.tuples(
        st.integers(0, 2),  # the paid address
        st.sampled_from([Unconfirmed(), Unconfirmed(), *GONE_OR_PROVED]),
        st.sets(st.integers(0, 4), max_size=3),  # the scripts that it spends from; 0 to 2 are paid addresses too
    ),
    max_size=6,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(paid=PAYMENTS, removed=st.sets(st.integers(0, 2)))
def test_settling_gives_back_what_nothing_needs_and_nothing_else(
    paid: list[tuple[int, PaymentState, set[int]]], removed: set[int]
) -> None:
    """After settling, what is watched is exactly what somebody wants or an unconfirmed payment spends from."""
    with open_memory() as db:
        for number in range(3):
            ledger.add_script(db, regtest_address(number))
        for number, (address, state, scripts) in enumerate(paid):
            coins = {script: Outpoint(txid_of(100 * number), script) for script in scripts}
            pay(db, address, entry_of(number, state=state, spends=list(coins.values())))
            spends.save_spent_outputs(
                db,
                [
                    spent(number, outpoint=coin, scripthash=regtest_address(script).scripthash)
                    for script, coin in coins.items()
                ],
            )
        for number in removed:
            ledger.remove_script(db, regtest_address(number).scripthash)
        before = set(watches(db))
        freed = spends.drop_settled_spends(db)
        needed = {regtest_address(number).scripthash for number in range(3) if number not in removed}
        for address, state, scripts in paid:
            if isinstance(state, Unconfirmed) and address not in removed:
                needed |= {regtest_address(script).scripthash for script in scripts}
        assert set(watches(db)) == needed
        assert {scripthash for scripthash in before if ledger.is_watched(db, scripthash)} == needed
        assert len(freed) == len(set(freed))
        assert set(freed) == before - needed
        assert spends.drop_settled_spends(db) == []


# --- what is watched ---------------------------------------------------------------------------------------------


def test_spent_scripts_are_watched_from_the_start(db: Database) -> None:
    """At a start the scripts that payments spend from are watched too, and asked whatever was absorbed of them."""
    subscribe(db, 0)
    ledger.save_status(db, ADDRESS.scripthash, STATUS, now=NOW)
    spends.save_spent_outputs(db, [spent(1), spent(2, outpoint=Outpoint(COIN.txid, 3))])
    assert watches(db) == {ADDRESS.scripthash: STATUS, SPENT_SCRIPT: UNKNOWN}


def test_wanted_script_that_is_spent_from_is_watched_once(db: Database) -> None:
    """A script that somebody wants keeps the status that was absorbed, though payments spend from it."""
    subscribe(db, 0)
    ledger.save_status(db, ADDRESS.scripthash, STATUS, now=NOW)
    spends.save_spent_outputs(db, [spent(1, scripthash=ADDRESS.scripthash)])
    assert watches(db) == {ADDRESS.scripthash: STATUS}


def test_script_is_watched_for_whoever_wants_it(db: Database) -> None:
    """Wanted, looked up, or spent from: each alone is a reason to follow a script's history."""
    assert not ledger.is_watched(db, ADDRESS.scripthash)
    ledger.want_script(db, ADDRESS, until=NOW + 600, must_ask=True)
    assert ledger.is_watched(db, ADDRESS.scripthash)
    assert not ledger.is_watched(db, SPENT_SCRIPT)
    spends.save_spent_outputs(db, [spent(1)])
    assert ledger.is_watched(db, SPENT_SCRIPT)


def test_removed_script_stays_watched_while_a_payment_spends_from_it(db: Database) -> None:
    """The running service is not told to stop watching what a payment spends from; settling gives it back later."""
    pay(db, 1, entry_of(1, spends=[COIN]))
    ledger.add_script(db, ADDRESS)
    spends.save_spent_outputs(db, [spent(1, scripthash=ADDRESS.scripthash)])
    ledger.clear_watch_changes(db)
    ledger.remove_script(db, ADDRESS.scripthash)
    assert ledger.take_watch_changes(db, limit=9) == []
    assert not ledger.has_watch_changes(db)
    pay(db, 1, entry_of(1, state=confirmed(10), spends=[COIN]))
    assert spends.drop_settled_spends(db) == [ADDRESS.scripthash]


def test_removed_script_is_forgotten_once_nothing_spends_from_it(db: Database) -> None:
    """A removal that is taken after the payment settled is told as any other."""
    pay(db, 1, entry_of(1, state=confirmed(10), spends=[COIN]))
    ledger.add_script(db, ADDRESS)
    spends.save_spent_outputs(db, [spent(1, scripthash=ADDRESS.scripthash)])
    ledger.clear_watch_changes(db)
    ledger.remove_script(db, ADDRESS.scripthash)
    spends.drop_settled_spends(db)
    assert ledger.take_watch_changes(db, limit=9) == [(ADDRESS.scripthash, WatchChange.REMOVED, None)]


def test_script_removed_and_added_again_while_spent_from_is_never_unwatched(db: Database) -> None:
    """Of a script that payments spend from no removal is told, so that it is followed without a gap."""
    ledger.add_script(db, ADDRESS)
    ledger.clear_watch_changes(db)
    spends.save_spent_outputs(db, [spent(1, scripthash=ADDRESS.scripthash)])
    ledger.remove_script(db, ADDRESS.scripthash)
    ledger.add_script(db, ADDRESS)
    assert ledger.take_watch_changes(db, limit=9) == [(ADDRESS.scripthash, WatchChange.ADDED, None)]


# --- unconfirmed payments ----------------------------------------------------------------------------------------


def test_scripts_of_an_unconfirmed_payment_are_found(db: Database) -> None:
    """All scripts that a transaction pays are found while it is unconfirmed, and none once it is not."""
    pay(db, 0, entry_of(1), entry_of(2))
    pay(db, 1, entry_of(1))
    pay(db, 2, entry_of(1, state=confirmed(10)))
    assert sorted(ledger.load_scripts_of(db, txid_of(1))) == sorted(
        [regtest_address(0).scripthash, regtest_address(1).scripthash]
    )
    for state in GONE_OR_PROVED:
        pay(db, 0, entry_of(1, state=state))
        assert ledger.load_scripts_of(db, txid_of(1)) == [regtest_address(1).scripthash]
    assert ledger.load_scripts_of(db, txid_of(3)) == []


def test_unconfirmed_payments_are_listed_earliest_first(db: Database) -> None:
    """Each unconfirmed payment is listed once, by its first notice, whatever number of scripts it pays."""

    def noticed(number: int, after_s: int) -> LedgerEntry:
        return replace(entry_of(number), seen_at=NOW + after_s)

    assert spends.load_unconfirmed(db) == []
    pay(db, 0, noticed(1, 30), noticed(2, 10), entry_of(4, state=confirmed(9)), entry_of(5, state=Dropped()))
    pay(db, 1, noticed(1, 5), noticed(3, 20))
    assert spends.load_unconfirmed(db) == [txid_of(1), txid_of(2), txid_of(3)]


QUESTIONS = {
    "spends of a script": lambda db: spends.load_spent_outputs(db, SPENT_SCRIPT),
    "scripts of a payment": lambda db: ledger.load_scripts_of(db, txid_of(1)),
    "is it watched": lambda db: ledger.is_watched(db, SPENT_SCRIPT),
    "unarmed": spends.load_unarmed,
    "unconfirmed": spends.load_unconfirmed,
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_unconfirmed_payments_are_found_without_reading_the_ledger(db: Database, question: str) -> None:
    """With millions of settled payments these questions cost what is unconfirmed: no table is read whole."""
    pay(db, 0, entry_of(1, spends=[COIN]))
    statements: list[str] = []
    db.conn.set_trace_callback(statements.append)
    QUESTIONS[question](db)
    db.conn.set_trace_callback(None)
    assert statements
    for statement in statements:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()]
        whole = [step for step in plan if step.startswith("SCAN") and "ledger_entry_unconfirmed" not in step]
        assert whole == []


def test_wrong_type_is_refused(db: Database) -> None:
    """A text does not enter a column of bytes."""
    with pytest.raises(sqlite3.IntegrityError):
        db.execute(
            "INSERT INTO spent_output (txid, output_index, scripthash, spender, since_height)"
            " VALUES ('00', 0, x'00', x'00', 1)"
        )
