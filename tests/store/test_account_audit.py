"""The audit of accounts: what is kept, against its rows and against the ledger."""

from dataclasses import replace

import pytest

from lightipn.ledger.entries import Dropped, Replaced
from lightipn.store import ledger
from lightipn.store.database import Database
from tests.builders import txid_of
from tests.store.account_rows import book, deposit_of, flaws_in, open_account
from tests.store.rows import TIP, pay, regtest_address
from tests.store.tips import stand_at_tip


def fill(db: Database) -> None:
    """Write an account with a deposit at every place and a booking, and an account that is empty."""
    stand_at_tip(db)
    account = open_account(db, 0, 1)
    open_account(db, 7, name="other")
    pay(db, 0, deposit_of(1), deposit_of(4), deposit_of(5))
    pay(db, 0, replace(deposit_of(4), state=Replaced(txid_of(9))), replace(deposit_of(5), state=Dropped()))
    pay(db, 0, deposit_of(2, height=TIP), deposit_of(3, height=TIP - 1))
    pay(db, 1, deposit_of(6, height=TIP - 1))
    book(db, account.account_id, -1, "payout")


DEPOSIT = "UPDATE deposit SET {} WHERE txid = x'{}'"
AWAITING, LOCKED, CREDITED, REPLACED, DROPPED, ELSEWHERE = (txid_of(number).hex() for number in range(1, 7))
NEW_MOVEMENT = (
    "INSERT INTO movement (account_id, scripthash, txid, kind, status, amount_sat, balance_sat, locked_sat, cause,"
    " happened_at) SELECT account_id, scripthash, {}, kind, status, amount_sat, balance_sat, locked_sat, cause,"
    f" happened_at FROM movement WHERE kind = '{{}}' AND txid = x'{CREDITED}'"
)

INVENTED = (
    "INSERT INTO deposit SELECT account_id, scripthash, zeroblob(32), 0, 'COMPLETED', 0, 0, 1, NULL, NULL, NULL, NULL"
    f" FROM deposit WHERE txid = x'{CREDITED}'"
)
MOVED = (
    "UPDATE account_address SET account_id = 2"
    f" WHERE scripthash = (SELECT scripthash FROM deposit WHERE txid = x'{ELSEWHERE}')"
)


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(["UPDATE account SET balance_sat = balance_sat + 1 WHERE name = 'till'"], id="balance"),
        pytest.param(["UPDATE account SET locked_sat = 0 WHERE name = 'till'"], id="locked amount"),
        pytest.param(["UPDATE account SET balance_sat = 5 WHERE name = 'other'"], id="balance of an empty account"),
        pytest.param([DEPOSIT.format("amount_sat = 9", AWAITING)], id="amount of one that waits"),
        pytest.param([DEPOSIT.format("amount_sat = 9", LOCKED)], id="amount of a locked one"),
        pytest.param([DEPOSIT.format("amount_sat = 9", CREDITED)], id="amount of a credited one"),
        pytest.param([DEPOSIT.format("status = 'COMPLETED'", AWAITING)], id="completed without a block"),
        pytest.param([DEPOSIT.format("status = 'FAILED'", AWAITING)], id="failed while it waits"),
        pytest.param([DEPOSIT.format("status = 'COMPLETED'", LOCKED)], id="completed while it is locked"),
        pytest.param([DEPOSIT.format("status = 'FAILED'", LOCKED)], id="failed while it is locked"),
        pytest.param([DEPOSIT.format("status = 'AWAITING_CONFIRMATION'", CREDITED)], id="waits though credited"),
        pytest.param([DEPOSIT.format("status = 'FAILED'", CREDITED)], id="failed though credited"),
        pytest.param([DEPOSIT.format("status = 'AWAITING_CONFIRMATION'", REPLACED)], id="waits though replaced"),
        pytest.param([DEPOSIT.format("status = 'COMPLETED'", DROPPED)], id="completed though dropped"),
        pytest.param([DEPOSIT.format("locked_sat = 0", LOCKED)], id="lock gone"),
        pytest.param([DEPOSIT.format("locked_sat = 1", LOCKED)], id="lock too small"),
        pytest.param([DEPOSIT.format("locked_sat = 700", AWAITING)], id="lock without a block"),
        pytest.param([DEPOSIT.format("locked_sat = 700", CREDITED)], id="lock beside the credit"),
        pytest.param([DEPOSIT.format("credited_sat = 0", CREDITED)], id="credit gone"),
        pytest.param([DEPOSIT.format("credited_sat = 701", CREDITED)], id="credit too large"),
        pytest.param([DEPOSIT.format("credited_sat = 700", DROPPED)], id="credit of a dropped one"),
        pytest.param([DEPOSIT.format("block_hash = zeroblob(32)", LOCKED)], id="another block"),
        pytest.param([DEPOSIT.format("block_hash = zeroblob(32)", CREDITED)], id="another block though credited"),
        pytest.param([DEPOSIT.format("block_hash = NULL", CREDITED)], id="no block"),
        pytest.param([DEPOSIT.format("replaced_by = zeroblob(32)", REPLACED)], id="another rival"),
        pytest.param([DEPOSIT.format("wake_height = NULL", LOCKED)], id="never to be credited"),
        pytest.param([DEPOSIT.format("wake_height = 1", LOCKED)], id="to be credited too early"),
        pytest.param([DEPOSIT.format("txid = zeroblob(32)", LOCKED)], id="deposit of another transaction"),
        pytest.param([f"DELETE FROM deposit WHERE txid = x'{AWAITING}'"], id="deposit that waits gone"),
        pytest.param([f"DELETE FROM deposit WHERE txid = x'{CREDITED}'"], id="credited deposit gone"),
        pytest.param(
            [INVENTED],
            id="invented deposit",
        ),
        pytest.param(["DELETE FROM movement WHERE kind = 'ADJUST'"], id="booking gone"),
        pytest.param([f"DELETE FROM movement WHERE txid = x'{CREDITED}' AND kind = 'RELEASE'"], id="credit's row gone"),
        pytest.param([f"DELETE FROM movement WHERE txid = x'{CREDITED}'"], id="all rows of a deposit gone"),
        pytest.param(["UPDATE movement SET balance_sat = 0 WHERE kind = 'ADJUST'"], id="booking changed"),
        pytest.param(["UPDATE movement SET locked_sat = 1 WHERE kind = 'ADJUST'"], id="booking that locks"),
        pytest.param([NEW_MOVEMENT.format("txid", "RELEASE")], id="credited twice"),
        pytest.param(
            [NEW_MOVEMENT.format("txid", kind) for kind in ("RESERVE", "RELEASE")]
            + ["UPDATE account SET balance_sat = balance_sat + 700 WHERE name = 'till'"],
            id="credited twice, and added up",
        ),
        pytest.param(
            [NEW_MOVEMENT.format("zeroblob(32)", kind) for kind in ("RESERVE", "RELEASE")]
            + ["UPDATE account SET balance_sat = balance_sat + 700 WHERE name = 'till'"],
            id="credit of a payment that never was, and added up",
        ),
        pytest.param(
            [f"UPDATE movement SET txid = x'{LOCKED}' WHERE txid = x'{CREDITED}'"], id="rows of another deposit"
        ),
        pytest.param(
            ["UPDATE movement SET account_id = 2 WHERE kind = 'ADJUST'"], id="booking moved to another account"
        ),
        pytest.param(
            ["DELETE FROM account_address WHERE address_index IS NULL AND account_id = 1"], id="addresses gone"
        ),
        pytest.param(
            [MOVED],
            id="address moved to another account",
        ),
        pytest.param(["UPDATE account SET credit_confirmations = 1 WHERE name = 'till'"], id="lower depth"),
        pytest.param(
            [f"UPDATE ledger_entry SET state = 'dropped', height = NULL, block_hash = NULL WHERE txid = x'{CREDITED}'"],
            id="payment dropped in the ledger",
        ),
        pytest.param([f"DELETE FROM ledger_entry WHERE txid = x'{CREDITED}'"], id="payment gone from the ledger"),
        pytest.param(["DELETE FROM ledger_entry", "DELETE FROM script"], id="nothing watched any more"),
    ],
)
def test_audit_finds_what_was_tampered_with(db: Database, statements: list[str]) -> None:
    """Whatever somebody changes in the rows by hand, the audit names an account that is not as it must be."""
    fill(db)
    assert flaws_in(db) == []
    for statement in statements:
        assert db.execute(statement).rowcount
    assert flaws_in(db)


def test_audit_says_what_differs(db: Database) -> None:
    """Each flaw has one line with what is kept and what it should be."""
    fill(db)
    db.execute("UPDATE account SET balance_sat = 5, locked_sat = 6 WHERE name = 'till'")
    assert flaws_in(db) == [
        "the balance is 5 sat, its movements add up to 1399 sat",
        "the locked amount is 6 sat, its movements add up to 700 sat",
    ]


def test_audit_says_what_differs_where_a_lock_is_missing(db: Database) -> None:
    """A deposit whose locked amount is not the sum of its rows is told with the amounts that differ."""
    fill(db)
    db.execute(f"UPDATE movement SET locked_sat = 600 WHERE txid = x'{LOCKED}'")
    (flaw,) = [one for one in flaws_in(db) if "deposit" in one]
    assert "700 sat" in flaw
    assert "600 sat" in flaw


def test_audit_finds_a_deposit_that_was_never_settled(db: Database) -> None:
    """A payment that is in the ledger and not in the account is a flaw, and settling it mends that."""
    fill(db)
    ledger.save_entries(db, regtest_address(0).scripthash, [deposit_of(8, height=TIP - 1)])
    assert len(flaws_in(db)) == 1
    pay(db, 0, deposit_of(8, height=TIP - 1))
    assert flaws_in(db) == []
