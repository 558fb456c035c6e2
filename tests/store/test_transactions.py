"""Transactions that the ledger speaks of, whole, and how they stood in the mempool."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.transaction import MAX_MONEY_SAT, Outpoint, TxOutput, parse_transaction
from lightipn.ledger.entries import Standing
from lightipn.ledger.transactions import KnownTransaction
from lightipn.store import ledger, transactions
from lightipn.store.database import Database
from lightipn.store.transactions import MOST_RAW_BYTES, Background
from tests.builders import (
    OTHER_SCRIPT,
    SCRIPT,
    coinbase,
    confirmed,
    entry_of,
    payment,
    payments_of,
    raw_transaction,
    txid_of,
)
from tests.store.rows import open_memory, regtest_address, subscribe

KNOWN = TxOutput(amount_sat=70, script=SCRIPT)
CLAIMED = Standing(has_unconfirmed_parent=True, vbytes_ahead=5_000_000_000, is_contested=False)


def test_transaction_reads_back_whole(db: Database) -> None:
    """A transaction is kept byte for byte, with what its inputs spend as far as that is known."""
    transaction = payment(1, spends=[Outpoint(txid_of(7), 0), Outpoint(txid_of(8), 1)])
    transactions.save_transactions(db, [transaction], {transaction.txid: Background(spent=(KNOWN, None))})
    found = transactions.load_transaction(db, transaction.txid)
    assert found == KnownTransaction(transaction=transaction, spent=(KNOWN, None))
    assert found.fee_sat is None
    assert transactions.load_transaction(db, txid_of(9)) is None


def test_transaction_without_background_knows_no_input(db: Database) -> None:
    """Where nobody asked what is spent, each input is unknown, and nothing is claimed of its standing."""
    transaction = payment(1, spends=[Outpoint(txid_of(7), 0), Outpoint(txid_of(8), 1)])
    transactions.save_transactions(db, [transaction])
    assert transactions.load_transaction(db, transaction.txid) == KnownTransaction(
        transaction=transaction, spent=(None, None)
    )
    assert transactions.load_standings(db, [transaction.txid]) == {transaction.txid: Standing()}


OUTPUTS = st.builds(TxOutput, amount_sat=st.integers(0, MAX_MONEY_SAT), script=st.binary(max_size=300))


@settings(deadline=None, max_examples=50)
@given(spent=st.lists(st.none() | OUTPUTS, min_size=1, max_size=5))
def test_any_inputs_read_back(spent: list[TxOutput | None]) -> None:
    """Amounts up to all the money there is, and scripts of any bytes, read back as they were."""
    transaction = payment(1, spends=[Outpoint(txid_of(number), number) for number in range(len(spent))])
    with open_memory() as db:
        transactions.save_transactions(db, [transaction], {transaction.txid: Background(spent=tuple(spent))})
        found = transactions.load_transaction(db, transaction.txid)
    assert found is not None
    assert found.spent == tuple(spent)


def test_what_was_known_first_stays(db: Database) -> None:
    """Inputs that are found out later are added; what is known, and how it stood when it was first seen, stays."""
    transaction = payment(1)
    transactions.save_transactions(db, [transaction])
    later = Background(spent=(KNOWN,), standing=CLAIMED)
    transactions.save_transactions(db, [transaction], {transaction.txid: later})
    transactions.save_transactions(
        db, [transaction], {transaction.txid: Background(spent=(replace(KNOWN, amount_sat=1),))}
    )
    transactions.save_transactions(db, [transaction])
    found = transactions.load_transaction(db, transaction.txid)
    assert found is not None
    assert found.spent == (KNOWN,)
    assert transactions.load_standings(db, [transaction.txid]) == {transaction.txid: Standing()}


def test_largest_transaction_that_is_relayed_is_kept(db: Database) -> None:
    """What is too large to be relayed by default is not kept whole: a hostile miner must not fill the disk."""
    frame = len(raw_transaction([Outpoint(txid_of(1), 0)], [(5, SCRIPT)], script_sig=bytes(70_000)))
    sizes = []
    for number, more in enumerate((MOST_RAW_BYTES - frame, MOST_RAW_BYTES - frame + 1)):
        raw = raw_transaction([Outpoint(txid_of(number), 0)], [(5, SCRIPT)], script_sig=bytes(70_000 + more))
        transaction = parse_transaction(raw)
        transactions.save_transactions(db, [transaction])
        sizes.append((len(raw), transactions.load_transaction(db, transaction.txid) is not None))
    assert sizes == [(400_000, True), (400_001, False)]


def test_standings_read_back_where_they_are_kept(db: Database) -> None:
    """How payments stood is found for those that are kept, whatever a server claimed."""
    transaction = payment(1)
    transactions.save_transactions(db, [transaction], {transaction.txid: Background(standing=CLAIMED)})
    assert transactions.load_standings(db, [transaction.txid, txid_of(9)]) == {transaction.txid: CLAIMED}
    assert transactions.load_standings(db, []) == {}


def test_standings_are_looked_up_for_unconfirmed_payments_alone(db: Database) -> None:
    """What is in a block needs no estimate."""
    pending, deep = payment(1), payment(2)
    background = Background(standing=CLAIMED)
    transactions.save_transactions(db, [pending, deep], {pending.txid: background, deep.txid: background})
    payments = payments_of(
        replace(entry_of(1), txid=pending.txid), replace(entry_of(2, state=confirmed(5)), txid=deep.txid)
    )
    assert transactions.with_standings(db, payments).standings == {pending.txid: CLAIMED}
    settled = payments_of(replace(entry_of(2, state=confirmed(5)), txid=deep.txid))
    assert transactions.with_standings(db, settled) is settled


def test_rival_is_marked_once(db: Database) -> None:
    """That a rival was seen is news the first time, and stays."""
    transaction = payment(1)
    assert not transactions.mark_contested(db, transaction.txid)
    transactions.save_transactions(db, [transaction], {transaction.txid: Background(standing=CLAIMED)})
    assert transactions.mark_contested(db, transaction.txid)
    assert not transactions.mark_contested(db, transaction.txid)
    transactions.save_transactions(db, [transaction])
    assert transactions.load_standings(db, [transaction.txid]) == {
        transaction.txid: replace(CLAIMED, is_contested=True)
    }


def test_transaction_goes_with_the_last_entry_that_speaks_of_it(db: Database) -> None:
    """What the ledger speaks of is kept; the rest is forgotten."""
    spoken, silent = payment(1), payment(2)
    transactions.save_transactions(db, [spoken, silent])
    subscribe(db, 0)
    ledger.save_entries(db, regtest_address(0).scripthash, [replace(entry_of(1), txid=spoken.txid)])
    transactions.drop_transactions(db, [spoken.txid, silent.txid, txid_of(9)])
    assert transactions.load_transaction(db, spoken.txid) is not None
    assert transactions.load_transaction(db, silent.txid) is None
    ledger.remove_script(db, regtest_address(0).scripthash)
    assert transactions.load_transaction(db, spoken.txid) is None


@pytest.mark.parametrize(
    ("amounts", "fee_sat"), [((100, 50), 30), ((100, None), None), ((None, None), None), ((100, 20), 0)]
)
def test_fee_is_what_is_left_where_all_inputs_are_known(amounts: tuple[int | None, ...], fee_sat: int | None) -> None:
    """A fee is known only where every input is; one unknown input leaves it unknown."""
    transaction = payment(1, amount_sat=100, spends=[Outpoint(txid_of(7), 0), Outpoint(txid_of(8), 1)], change_sat=20)
    spent = tuple(None if amount is None else TxOutput(amount_sat=amount, script=OTHER_SCRIPT) for amount in amounts)
    assert KnownTransaction(transaction=transaction, spent=spent).fee_sat == fee_sat
    assert KnownTransaction(transaction=coinbase(), spent=(None,)).fee_sat is None
