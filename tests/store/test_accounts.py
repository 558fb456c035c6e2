"""Accounts on disk: what they hold is the sum of their rows, whatever happens to the process."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lightipn.ledger.accounts import Deposit, DepositStatus, Movement, MovementKind, ReservationStatus
from lightipn.ledger.entries import COINBASE_MATURITY_BLOCKS, Dropped, Replaced
from lightipn.store import accounts, deposits, ledger, movements, subscriptions
from lightipn.store.accounts import AccountAddress
from lightipn.store.database import Database, open_store
from lightipn.store.deposits import RecordedDeposit
from lightipn.store.movements import RecordedMovement
from tests.builders import SEEN_AT, block_hash_of, confirmed, entry_of, txid_of
from tests.store.account_rows import account_in, book, deposit_of, flaws_in, kinds_in, open_account, sums_in
from tests.store.rows import NOW, TIP, pay, regtest_address, subscribe
from tests.store.tips import grow, stand_at_tip, wake


def statuses_in(db: Database, *, name: str = "till") -> list[str]:
    """Return the statuses of an account's deposits, newest first."""
    found = deposits.load_deposits(db, account_in(db, name=name).account_id, limit=100)
    return [one.deposit.status.value for one in found]


# --- accounts and addresses --------------------------------------------------------------------------------------


def test_new_account_is_empty(db: Database) -> None:
    """An account is what was asked for, and holds nothing."""
    made = accounts.add_account(
        db, owner="shop", name="till", extended_key="xpub", url="https://a.example/", credit_confirmations=3, now=NOW
    )
    assert accounts.load_account(db, owner="shop", name="till") == made
    assert (made.balance_sat, made.locked_sat, made.created_at) == (0, 0, NOW)
    assert (made.extended_key, made.url, made.credit_confirmations) == ("xpub", "https://a.example/", 3)
    assert accounts.load_account(db, owner="other", name="till") is None


def test_accounts_are_listed_by_name(db: Database) -> None:
    """An owner's list has his accounts alone; the operator's has everybody's."""
    for owner, name in (("shop", "b"), ("other", "till"), ("shop", "a")):
        open_account(db, name=name, owner=owner)
    assert [one.name for one in accounts.load_accounts(db, owner="shop")] == ["a", "b"]
    everybody = [(one.owner, one.name) for one in accounts.load_accounts(db)]
    assert everybody == [("other", "till"), ("shop", "a"), ("shop", "b")]


def test_address_is_watched_for_good(db: Database) -> None:
    """An account's address is followed also if it was merely looked up before, and if its subscriptions end."""
    ledger.want_script(db, regtest_address(0), until=NOW, must_ask=False)
    account = open_account(db, 0)
    assert accounts.load_addresses(db, account.account_id) == [
        AccountAddress(
            account_id=account.account_id,
            address=regtest_address(0).text,
            scripthash=regtest_address(0).scripthash,
            index=None,
            hook_ids=(),
            is_active=True,
            added_at=NOW,
            used_at=NOW,
        )
    ]
    subscribe(db, 0)
    assert subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url=None) == 1
    ledger.drop_unwanted_scripts(db, now=NOW + 10_000)
    pay(db, 0, deposit_of(1))
    assert statuses_in(db) == ["AWAITING_CONFIRMATION"]


def test_what_was_paid_before_belongs_to_the_account(db: Database) -> None:
    """An address that is added later brings what it was paid, as deep as that is; what is gone brings nothing."""
    stand_at_tip(db)
    subscribe(db, 0)
    gone = replace(deposit_of(4), state=Dropped())
    pay(db, 0, deposit_of(1), deposit_of(2, height=TIP), deposit_of(3, amount_sat=50, height=TIP - 1), gone)
    open_account(db, 0)
    assert sums_in(db) == (50, 700)
    assert sorted(statuses_in(db)) == ["AWAITING_CONFIRMATION", "AWAITING_CONFIRMATION", "COMPLETED"]
    assert flaws_in(db) == []


# --- the flow ----------------------------------------------------------------------------------------------------


def test_deposit_is_locked_then_credited(db: Database) -> None:
    """Seen, locked by its block, credited by the next one: each with its rows, which say what caused them."""
    stand_at_tip(db)
    account = open_account(db, 0)
    pay(db, 0, deposit_of(1))
    assert (sums_in(db), statuses_in(db), kinds_in(db)) == ((0, 0), ["AWAITING_CONFIRMATION"], [])
    grow(db)
    pay(db, 0, deposit_of(1, height=TIP + 1), now=NOW + 600, tip_height=TIP + 1)
    assert (sums_in(db), statuses_in(db)) == ((0, 700), ["AWAITING_CONFIRMATION"])
    grow(db)
    wake(db, now=NOW + 1200)
    assert (sums_in(db), statuses_in(db)) == ((700, 0), ["COMPLETED"])
    block_hash = block_hash_of(TIP + 1)

    def row(number: int, kind: MovementKind, *, balance_sat: int, locked_sat: int, cause: str) -> RecordedMovement:
        status = ReservationStatus.ACTIVE if number == 1 else ReservationStatus.COMPLETED
        movement = Movement(
            kind=kind,
            status=status,
            amount_sat=700,
            balance_sat=balance_sat,
            locked_sat=locked_sat,
            cause=cause,
            block_hash=block_hash,
            height=TIP + 1,
        )
        return RecordedMovement(
            number=number,
            movement=movement,
            txid=txid_of(1),
            address=regtest_address(0).text,
            reference="",
            happened_at=NOW + 600 * number,
        )

    assert movements.load_movements(db, account.account_id, limit=9) == [
        row(2, MovementKind.RELEASE, balance_sat=700, locked_sat=-700, cause="payment.deepened"),
        row(1, MovementKind.RESERVE, balance_sat=0, locked_sat=700, cause="payment.confirmed"),
    ]
    deposit = Deposit(
        txid=txid_of(1),
        amount_sat=700,
        status=DepositStatus.COMPLETED,
        locked_sat=0,
        credited_sat=700,
        seen_at=SEEN_AT,
        block_hash=block_hash,
        height=1001,
    )
    assert deposits.load_deposits(db, account.account_id, limit=9) == [
        RecordedDeposit(deposit=deposit, scripthash=regtest_address(0).scripthash, address=regtest_address(0).text)
    ]


def test_double_spend_fails_the_deposit(db: Database) -> None:
    """What was replaced is failed, says by what, and leaves a failed reservation and no lock."""
    account = open_account(db, 0, 1)
    pay(db, 0, deposit_of(1))
    pay(db, 1, deposit_of(2, height=TIP))
    assert sums_in(db) == (0, 700)
    for number, address in ((1, 0), (2, 1)):
        pay(db, address, replace(deposit_of(number), state=Replaced(txid_of(9))))
    assert (sums_in(db), statuses_in(db)) == ((0, 0), ["FAILED", "FAILED"])
    found = movements.load_movements(db, account.account_id, limit=9)
    assert [(one.movement.kind.value, one.movement.status.value, one.movement.cause) for one in found] == [
        ("CANCEL", "failed", "payment.replaced"),
        ("RESERVE", "failed", "payment.replaced"),
        ("RESERVE", "active", "payment.confirmed"),
    ]
    found = deposits.load_deposits(db, account.account_id, limit=9)
    assert {one.deposit.replaced_by for one in found} == {txid_of(9)}


def test_blocks_alone_credit_page_by_page(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that makes many deposits deep enough credits all of them, a page of scripts at a time."""
    monkeypatch.setattr(deposits, "WOKEN_PAGE", 3)
    stand_at_tip(db)
    open_account(db, *range(7))
    for number in range(7):
        pay(db, number, deposit_of(number, height=TIP), deposit_of(100 + number, amount_sat=1, height=TIP))
    grow(db)
    more = [deposits.settle_woken(db, tip_height=TIP + 1, now=NOW) for _ in range(4)]
    assert more == [True, True, False, False]
    assert (sums_in(db), flaws_in(db)) == ((7 * 701, 0), [])
    assert kinds_in(db).count("RELEASE") == 14


def test_waking_reaches_every_page(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever works a new tip in until nothing is left has credited every account."""
    monkeypatch.setattr(deposits, "WOKEN_PAGE", 2)
    stand_at_tip(db)
    open_account(db, *range(5))
    for number in range(5):
        pay(db, number, deposit_of(number, height=TIP))
    grow(db)
    wake(db)
    assert sums_in(db) == (5 * 700, 0)


def test_mined_coins_wait_until_they_can_be_spent(db: Database) -> None:
    """A coinbase that an address is paid is locked for 99 blocks more."""
    stand_at_tip(db)
    open_account(db, 0)
    mined = replace(deposit_of(1, height=TIP), is_coinbase=True)
    pay(db, 0, mined)
    grow(db, COINBASE_MATURITY_BLOCKS - 2)
    wake(db)
    assert sums_in(db) == (0, 700)
    grow(db)
    wake(db)
    assert sums_in(db) == (700, 0)


def test_accounts_of_several_owners_follow_one_address(db: Database) -> None:
    """The same address may belong to accounts of several owners; each credits it at its own depth, once."""
    stand_at_tip(db)
    open_account(db, 0, depth=1)
    open_account(db, 0, owner="other", depth=3)
    pay(db, 0, deposit_of(1, height=TIP))
    assert (sums_in(db), sums_in(db, owner="other")) == ((700, 0), (0, 700))
    for _ in range(2):
        grow(db)
        wake(db)
    assert (sums_in(db), sums_in(db, owner="other")) == ((700, 0), (700, 0))
    assert kinds_in(db) == kinds_in(db, owner="other") == ["RESERVE", "RELEASE"]
    assert flaws_in(db) == []


def test_one_transaction_to_two_addresses_is_two_deposits(db: Database) -> None:
    """A transaction that pays two addresses of an account is credited with both amounts."""
    account = open_account(db, 0, 1, depth=1)
    pay(db, 0, deposit_of(1, amount_sat=10, height=TIP))
    pay(db, 1, deposit_of(1, amount_sat=7, height=TIP))
    assert sums_in(db) == (17, 0)
    found = deposits.load_deposits(db, account.account_id, limit=9)
    assert {(one.deposit.txid, one.address) for one in found} == {
        (txid_of(1), regtest_address(0).text),
        (txid_of(1), regtest_address(1).text),
    }


def test_spending_leaves_the_account_as_it_is(db: Database) -> None:
    """What an address sends away, with change or without, is no deposit and takes nothing."""
    open_account(db, 0, depth=1)
    pay(db, 0, deposit_of(1, height=TIP))
    pay(db, 0, entry_of(2, received_sat=300, sent_sat=700, state=confirmed(TIP)))
    assert (sums_in(db), statuses_in(db), flaws_in(db)) == ((700, 0), ["COMPLETED"], [])


def test_credit_that_is_lost_makes_a_spent_balance_negative(db: Database) -> None:
    """A reorg after the credit takes it back also where it was booked away; such accounts are found."""
    stand_at_tip(db)
    account = open_account(db, 0, depth=1)
    open_account(db, name="other")
    pay(db, 0, deposit_of(1, height=TIP))
    book(db, account.account_id, -600, "payout")
    assert accounts.load_negative(db, limit=9) == []
    pay(db, 0, deposit_of(1))
    assert sums_in(db) == (-600, 0)
    assert [one.name for one in accounts.load_negative(db, limit=9)] == ["till"]
    pay(db, 0, deposit_of(1, height=TIP))
    assert (sums_in(db), accounts.load_negative(db, limit=9)) == ((100, 0), [])
    assert kinds_in(db) == ["RESERVE", "RELEASE", "ADJUST", "REVERSE", "RESERVE", "RELEASE"]


def test_newest_come_first_and_no_more_than_asked(db: Database) -> None:
    """Deposits and movements are listed from the newest on, as many as are asked for."""
    account = open_account(db, 0, depth=1)
    for number in range(3):
        pay(db, 0, replace(deposit_of(number, height=TIP), seen_at=SEEN_AT + number))
    found = deposits.load_deposits(db, account.account_id, limit=2)
    assert [one.deposit.txid for one in found] == [txid_of(2), txid_of(1)]
    assert [one.number for one in movements.load_movements(db, account.account_id, limit=4)] == [6, 5, 4, 3]


# --- exactly once ------------------------------------------------------------------------------------------------


async def test_nothing_moves_twice_over_restarts(tmp_path: Path) -> None:
    """Each step, told again before and after the database was opened anew, moves what it moves once."""
    path = tmp_path / "shop.db"
    steps = [
        (deposit_of(1), []),
        (deposit_of(1, height=TIP), ["RESERVE"]),
        (deposit_of(1, height=TIP - 1), ["RESERVE", "RELEASE"]),
        (deposit_of(1), ["RESERVE", "RELEASE", "REVERSE"]),
    ]
    async with open_store(path, "regtest", threaded=False) as store:
        await store.transact(stand_at_tip)
        await store.transact(lambda db: open_account(db, 0))
    for entry, expected in steps:
        for _ in range(2):
            async with open_store(path, "regtest", threaded=False) as store:
                for _ in range(2):
                    await store.transact(lambda db, one=entry: pay(db, 0, one))  # type: ignore[misc]
                    await store.transact(wake)
                    assert await store.read(kinds_in) == expected
                    assert await store.read(flaws_in) == []


async def test_change_that_fails_leaves_nothing_half(tmp_path: Path) -> None:
    """Ledger and account move in one transaction: what is undone is undone in both, and done later in both."""
    async with open_store(tmp_path / "shop.db", "regtest", threaded=False) as store:
        await store.transact(lambda db: open_account(db, 0, depth=1))

        def pay_and_fail(db: Database) -> None:
            pay(db, 0, deposit_of(1, height=TIP))
            assert sums_in(db) == (700, 0)
            raise ValueError("afterwards")

        with pytest.raises(ValueError, match="afterwards"):
            await store.transact(pay_and_fail)
        assert await store.read(lambda db: (sums_in(db), kinds_in(db), statuses_in(db))) == ((0, 0), [], [])
        payments = await store.read(lambda db: ledger.load_payments(db, regtest_address(0).scripthash))
        assert payments is not None
        assert payments.entries == {}
        await store.transact(lambda db: pay(db, 0, deposit_of(1, height=TIP)))
        assert await store.read(sums_in) == (700, 0)


CHILD = """
import itertools
import sys
from functools import partial
from pathlib import Path

import trio

from lightipn.store.database import open_store
from tests.builders import confirmed, entry_of
from tests.store.account_rows import open_account
from tests.store.rows import TIP, pay

def entry(number, state):
    return entry_of(number, received_sat=number + 1, state=state)

async def work(store, address):
    for number in itertools.count():
        for state in (None, confirmed(TIP), confirmed(TIP - 1), None, confirmed(TIP - 1, branch=1)):
            await store.transact(lambda db: pay(db, address, entry(number, state)))
        sys.stdout.write(f"{address} {number}\\n")
        sys.stdout.flush()

async def main():
    async with open_store(Path(sys.argv[1]), "regtest") as store:
        await store.transact(lambda db: open_account(db, 0, 1, 2))
        async with trio.open_nursery() as nursery:
            for address in range(3):
                nursery.start_soon(work, store, address)

trio.run(main)
"""


@pytest.mark.slow
async def test_accounts_are_whole_after_kill_9(tmp_path: Path) -> None:
    """Whenever the process is killed, every account is the sum of its rows, as the ledger says, and behind nothing."""
    chance = random.Random(3)
    for number in range(4):
        path = tmp_path / f"{number}.db"
        with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            answered = [child.stdout.readline() for _ in range(chance.randrange(1, 100))]
            os.kill(child.pid, signal.SIGKILL)
            answered += child.stdout.readlines()
        done = [tuple(map(int, line.split())) for line in answered if line.endswith("\n")]
        async with open_store(path, "regtest") as store:
            assert await store.read(flaws_in) == []
            balance_sat, _ = await store.read(sums_in)
            kinds = await store.read(kinds_in)
        assert balance_sat >= sum(paid + 1 for _, paid in done)
        assert kinds.count("RELEASE") >= 2 * len(done)


# --- what is used ------------------------------------------------------------------------------------------------


def unused(db: Database, *, before: int) -> list[str]:
    """Return the addresses that nothing was paid to."""
    return [one.address for one in accounts.load_unused(db, before=before, limit=100)]


def test_unused_addresses_are_those_that_nothing_was_paid_to(db: Database) -> None:
    """An address is unused from its last payment on; not while one is on its way; and no longer once it is inactive."""
    stand_at_tip(db)
    account = open_account(db, 0, 1, 2)
    texts = [regtest_address(number).text for number in range(3)]
    pay(db, 1, deposit_of(1), now=NOW + 100)
    pay(db, 2, deposit_of(2, height=TIP - 1), now=NOW + 100)
    assert unused(db, before=NOW) == []
    assert unused(db, before=NOW + 1) == [texts[0]]
    assert set(unused(db, before=NOW + 101)) == {texts[0], texts[2]}
    pay(db, 1, deposit_of(1, height=TIP), now=NOW + 200)
    assert texts[1] not in unused(db, before=NOW + 10_000)
    pay(db, 1, deposit_of(1, height=TIP - 1), now=NOW + 300)
    assert texts[1] in unused(db, before=NOW + 101)
    for one in accounts.load_addresses(db, account.account_id):
        accounts.save_inactive(db, one)
    assert unused(db, before=NOW + 10_000) == []


def test_address_of_two_owners_is_retired_for_each(db: Database) -> None:
    """An owner's address becomes inactive for him alone."""
    open_account(db, 0, hook_ids=["h-1"])
    other = open_account(db, 0, owner="other", hook_ids=["h-2"])
    held = {one.account_id: one for one in accounts.load_unused(db, before=NOW + 1, limit=9)}
    accounts.save_inactive(db, held[account_in(db).account_id])
    assert accounts.load_unused(db, before=NOW + 1, limit=9) == [held[other.account_id]]
    found = [accounts.load_address(db, regtest_address(0).scripthash, owner=owner) for owner in ("shop", "other")]
    assert [one and (one.is_active, one.hook_ids) for one in found] == [(False, ()), (True, ("h-2",))]
