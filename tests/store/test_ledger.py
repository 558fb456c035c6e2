"""Scripts and payments: what is written is what is read."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import BlockHash, Txid
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import UNKNOWN, Status
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.entries import Dropped, LedgerEntry, PaymentState, Replaced, ScriptPayments
from lightipn.store import ledger
from lightipn.store.database import Database
from lightipn.store.ledger import ScriptRecord, WatchChange
from tests.builders import confirmed, entry_of
from tests.store.rows import NOW, open_memory, regtest_address, subscribe

ADDRESS = regtest_address(0)
STATUS = Status(b"\x5a" * 32)
MAX_SAT = 21_000_000 * 100_000_000

hashes = st.binary(min_size=32, max_size=32)
amounts = st.integers(0, MAX_SAT)
indexes = st.integers(0, 2**32 - 1)
states = st.one_of(
    st.builds(Unconfirmed, st.integers(1, 20)),
    st.just(Dropped()),
    st.builds(Replaced, hashes.map(Txid)),
    st.builds(Confirmed, hashes.map(BlockHash), st.integers(0, 10_000_000), st.integers(0, 100_000)),
)
entries = st.builds(
    LedgerEntry,
    txid=hashes.map(Txid),
    state=states,
    outputs=st.lists(st.tuples(indexes, amounts), max_size=3).map(tuple),
    spends=st.lists(st.builds(Outpoint, hashes.map(Txid), indexes), max_size=3).map(tuple),
    sent_sat=amounts,
    is_coinbase=st.booleans(),
    signals_rbf=st.booleans(),
    seen_at=st.integers(0, 2**40),
)


def record_of(db: Database) -> ScriptRecord:
    """Return the script's record, which must be there."""
    record = ledger.load_script(db, ADDRESS.scripthash)
    assert record is not None
    return record


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(written=st.lists(entries, max_size=5, unique_by=lambda entry: entry.txid))
def test_entries_are_read_as_they_were_written(written: list[LedgerEntry]) -> None:
    """Every entry in every state comes back equal."""
    with open_memory() as db:
        ledger.add_script(db, ADDRESS)
        ledger.save_entries(db, ADDRESS.scripthash, written)
        assert ledger.load_payments(db, ADDRESS.scripthash) == ScriptPayments(
            scripthash=ADDRESS.scripthash, script=ADDRESS.script, entries={entry.txid: entry for entry in written}
        )


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(before=entries, state=states)
def test_entry_is_written_over_what_stood_there(before: LedgerEntry, state: PaymentState) -> None:
    """A payment that changes its state is one row before and after."""
    after = replace(before, state=state)
    with open_memory() as db:
        ledger.add_script(db, ADDRESS)
        ledger.save_entries(db, ADDRESS.scripthash, [before])
        ledger.save_entries(db, ADDRESS.scripthash, [after])
        payments = ledger.load_payments(db, ADDRESS.scripthash)
        assert payments is not None
        assert payments.entries == {after.txid: after}


def test_entries_above_a_height_are_those_a_reorg_touches(db: Database) -> None:
    """Confirmed payments above the fork are found whatever their script; those at the fork and below are not."""
    other = regtest_address(1)
    ledger.add_script(db, ADDRESS)
    ledger.add_script(db, other)
    low, at_fork, high = (entry_of(height, state=confirmed(height)) for height in (98, 99, 100))
    outside = [entry_of(1), entry_of(2, state=Dropped()), entry_of(3, state=Replaced(high.txid))]
    ledger.save_entries(db, ADDRESS.scripthash, [low, at_fork, high, *outside])
    ledger.save_entries(db, other.scripthash, [high])
    found = ledger.load_entries_above(db, 99)
    assert sorted(found, key=lambda item: item[0]) == sorted(
        [(ADDRESS.scripthash, high), (other.scripthash, high)], key=lambda item: item[0]
    )


def test_unwanted_script_has_no_payments(db: Database) -> None:
    """None tells a script that nobody wants from one that was never paid."""
    assert ledger.load_payments(db, ADDRESS.scripthash) is None
    assert ledger.load_script(db, ADDRESS.scripthash) is None
    ledger.add_script(db, ADDRESS)
    payments = ledger.load_payments(db, ADDRESS.scripthash)
    assert payments == ScriptPayments(scripthash=ADDRESS.scripthash, script=ADDRESS.script, entries={})


# --- scripts and their statuses ----------------------------------------------------------------------------------


def test_new_script_is_known_as_unused(db: Database) -> None:
    """A new script starts with the empty history, so an address that was never used costs no further write."""
    ledger.add_script(db, ADDRESS)
    assert record_of(db) == ScriptRecord(
        scripthash=ADDRESS.scripthash,
        script=ADDRESS.script,
        address=ADDRESS.text,
        known_status=None,
        absorbed_at=None,
        wanted_until=None,
        trouble="",
    )
    assert ledger.load_watches(db) == [(ADDRESS.scripthash, None)]


def test_script_added_twice_keeps_what_is_known(db: Database) -> None:
    """Adding a script again forgets nothing, and the running service is told once."""
    ledger.add_script(db, ADDRESS)
    ledger.save_status(db, ADDRESS.scripthash, STATUS, now=NOW)
    ledger.add_script(db, ADDRESS)
    assert (record_of(db).known_status, record_of(db).absorbed_at) == (STATUS, NOW)
    assert len(ledger.take_watch_changes(db, limit=10)) == 1


def test_complete_history_takes_the_place_of_a_trouble(db: Database) -> None:
    """A status that was worked in whole is known, and clears the trouble; without a script nothing is recorded."""
    ledger.save_status(db, ADDRESS.scripthash, STATUS, now=NOW)
    assert ledger.load_script(db, ADDRESS.scripthash) is None
    ledger.add_script(db, ADDRESS)
    ledger.save_trouble(db, ADDRESS.scripthash, "history-too-long")
    assert record_of(db).trouble == "history-too-long"
    ledger.save_status(db, ADDRESS.scripthash, STATUS, now=NOW)
    assert (record_of(db).trouble, record_of(db).known_status, record_of(db).absorbed_at) == ("", STATUS, NOW)


def test_lookup_that_waits_for_other_servers_is_not_settled(db: Database) -> None:
    """A first answer is kept without a time until the lookup is settled; a time that is there stays."""
    ledger.add_script(db, ADDRESS)
    ledger.save_status(db, ADDRESS.scripthash, STATUS, now=None)
    assert (record_of(db).known_status, record_of(db).absorbed_at) == (STATUS, None)
    ledger.settle_lookup(db, ADDRESS.scripthash, now=NOW)
    ledger.settle_lookup(db, ADDRESS.scripthash, now=NOW + 9)
    ledger.save_status(db, ADDRESS.scripthash, STATUS, now=None)
    assert (record_of(db).known_status, record_of(db).absorbed_at) == (STATUS, NOW)


def test_forgotten_status_is_asked_again_after_a_restart(db: Database) -> None:
    """A forgotten status differs from every status and from the empty history, and clears the trouble."""
    ledger.add_script(db, ADDRESS)
    ledger.save_trouble(db, ADDRESS.scripthash, "history-too-long")
    ledger.forget_status(db, [ADDRESS.scripthash])
    assert ledger.load_watches(db) == [(ADDRESS.scripthash, UNKNOWN)]
    assert UNKNOWN not in (None, STATUS)
    assert record_of(db).trouble == ""


# --- looked-up scripts -------------------------------------------------------------------------------------------


def test_looked_up_script_must_be_asked(db: Database) -> None:
    """A script that somebody merely looks up is unknown until its history was worked in."""
    ledger.want_script(db, ADDRESS, until=NOW + 600, must_ask=True)
    assert (record_of(db).known_status, record_of(db).wanted_until) == (UNKNOWN, NOW + 600)
    assert len(ledger.take_watch_changes(db, limit=10)) == 1


def test_looking_up_again_extends_and_never_shortens(db: Database) -> None:
    """The later of two ends counts, and a look without a need to ask tells the running service nothing."""
    ledger.want_script(db, ADDRESS, until=NOW + 600, must_ask=True)
    ledger.save_status(db, ADDRESS.scripthash, STATUS, now=NOW)
    ledger.clear_watch_changes(db)
    ledger.want_script(db, ADDRESS, until=NOW + 900, must_ask=False)
    ledger.want_script(db, ADDRESS, until=NOW + 700, must_ask=False)
    assert (record_of(db).wanted_until, record_of(db).known_status) == (NOW + 900, STATUS)
    assert not ledger.has_watch_changes(db)
    ledger.want_script(db, ADDRESS, until=NOW + 700, must_ask=True)
    assert (record_of(db).wanted_until, record_of(db).known_status) == (NOW + 900, UNKNOWN)
    assert ledger.take_watch_changes(db, limit=9) == [(ADDRESS.scripthash, WatchChange.ASKED, UNKNOWN)]


def test_watched_script_gets_no_end_from_a_lookup(db: Database) -> None:
    """Looking up an address that is watched for good does not give it an end."""
    subscribe(db, 0)
    ledger.want_script(db, ADDRESS, until=NOW + 600, must_ask=True)
    assert record_of(db).wanted_until is None


def test_subscribing_to_a_looked_up_script_keeps_it_for_good(db: Database) -> None:
    """A subscription takes away the end that a lookup gave, and keeps the payments."""
    ledger.want_script(db, ADDRESS, until=NOW + 600, must_ask=True)
    ledger.save_entries(db, ADDRESS.scripthash, [entry_of(1)])
    subscribe(db, 0)
    assert record_of(db).wanted_until is None
    assert ledger.drop_unwanted_scripts(db, now=NOW + 10_000) == 0
    payments = ledger.load_payments(db, ADDRESS.scripthash)
    assert payments is not None
    assert list(payments.entries.values()) == [entry_of(1)]


def test_history_too_long_for_a_lookup_is_asked_for_a_subscription(db: Database) -> None:
    """A subscription to a script whose history was too long to be looked up has it fetched after all."""
    ledger.want_script(db, ADDRESS, until=NOW + 600, must_ask=True)
    ledger.save_trouble(db, ADDRESS.scripthash, "history-too-long")
    ledger.clear_watch_changes(db)
    subscribe(db, 0)
    assert (record_of(db).trouble, record_of(db).wanted_until, record_of(db).known_status) == ("", None, UNKNOWN)
    assert ledger.take_watch_changes(db, limit=9) == [(ADDRESS.scripthash, WatchChange.ASKED, UNKNOWN)]
    subscribe(db, 0)
    assert not ledger.has_watch_changes(db)


def test_lookups_are_counted(db: Database) -> None:
    """Scripts that are merely looked up are counted; those that are watched for good are not."""
    assert ledger.count_lookups(db) == 0
    for number in range(3):
        ledger.want_script(db, regtest_address(number), until=NOW + 600, must_ask=True)
    subscribe(db, 0)
    subscribe(db, 7)
    assert ledger.count_lookups(db) == 2


def test_looked_up_script_is_dropped_when_its_time_is_over(db: Database) -> None:
    """Script and payments go at the end of the time, not before, and the running service is told."""
    ledger.want_script(db, ADDRESS, until=NOW + 600, must_ask=True)
    ledger.save_entries(db, ADDRESS.scripthash, [entry_of(1)])
    ledger.clear_watch_changes(db)
    assert ledger.drop_unwanted_scripts(db, now=NOW + 599) == 0
    assert ledger.drop_unwanted_scripts(db, now=NOW + 600) == 1
    assert ledger.load_payments(db, ADDRESS.scripthash) is None
    assert db.execute("SELECT count(*) FROM ledger_entry").fetchone() == (0,)
    assert ledger.take_watch_changes(db, limit=10) == [(ADDRESS.scripthash, WatchChange.REMOVED, None)]


# --- the queue for the running service ---------------------------------------------------------------------------


def test_changes_are_taken_in_order_and_once(db: Database) -> None:
    """The queue gives each change once, oldest first, a page at a time."""
    addresses = [regtest_address(number) for number in range(3)]
    for address in addresses:
        ledger.add_script(db, address)
    ledger.forget_status(db, [addresses[2].scripthash])
    ledger.remove_script(db, addresses[1].scripthash)
    first = ledger.take_watch_changes(db, limit=3)
    assert first == [  # the second one is gone already, and its removal still to come
        (addresses[0].scripthash, WatchChange.ADDED, None),
        (addresses[2].scripthash, WatchChange.ADDED, UNKNOWN),
    ]
    assert ledger.has_watch_changes(db)
    assert ledger.take_watch_changes(db, limit=3) == [(addresses[1].scripthash, WatchChange.REMOVED, None)]
    assert not ledger.has_watch_changes(db)
    assert ledger.take_watch_changes(db, limit=3) == []


def test_script_removed_and_added_again_is_watched_anew(db: Database) -> None:
    """The queue says both, in this order, so that the running service forgets what it knew of the script."""
    ledger.add_script(db, ADDRESS)
    ledger.clear_watch_changes(db)
    ledger.remove_script(db, ADDRESS.scripthash)
    ledger.add_script(db, ADDRESS)
    assert ledger.take_watch_changes(db, limit=9) == [
        (ADDRESS.scripthash, WatchChange.REMOVED, None),
        (ADDRESS.scripthash, WatchChange.ADDED, None),
    ]


def test_cleared_queue_is_empty(db: Database) -> None:
    """Whoever reads all scripts may forget the queue."""
    ledger.add_script(db, ADDRESS)
    ledger.clear_watch_changes(db)
    assert ledger.take_watch_changes(db, limit=3) == []
