"""Forwards on disk: indexes that are never given twice, and which coins may be passed on when."""

import pytest

from lightipn.bitcoin.transaction import Outpoint
from lightipn.ledger.entries import Dropped, PaymentState, Replaced
from lightipn.store import forwards, ledger, reviews, transfers
from lightipn.store.database import Database
from lightipn.store.forwards import Coin, Forward, ForwardTerms
from tests.builders import confirmed, entry_of, payment, txid_of
from tests.store.rows import NOW, POLICIES, TIP, regtest_address

SEED, OTHER_SEED = b"\x01" * 32, b"\x02" * 32
TERMS = ForwardTerms(
    destination="d",
    url="http://shop.example/",
    process_address="p",
    process_sat=None,
    process_share="0.01",
    mining_fee_sat=500,
    tells_confirmations=True,
)


def add(db: Database, index: int = 0, *, owner: str = "shop", terms: ForwardTerms = TERMS, **more: bool) -> Forward:
    """Add a forward at the address with this number."""
    return forwards.add_forward(
        db, owner=owner, index=index, address=regtest_address(index), terms=terms, now=NOW, **more
    )


def pay(
    db: Database, index: int, number: int, state: PaymentState | None = None, *, tip_height: int = TIP, **more: object
) -> Outpoint:
    """Have a forward's address paid, and everybody look at it; return the coin."""
    entry = entry_of(number, state=state or confirmed(TIP), **more)  # type: ignore[arg-type]  # by name
    ledger.save_entries(db, regtest_address(index).scripthash, [entry])
    reviews.review_script(db, POLICIES, regtest_address(index).scripthash, tip_height=tip_height, now=NOW)
    return Outpoint(entry.txid, 0)


def ready(db: Database, tip_height: int = TIP) -> list[str]:
    """Return the ids of the forwards that must be looked at."""
    return [one.forward_id for one in forwards.load_ready(db, tip_height, limit=100)]


def coins(db: Database, forward: Forward, *, tip_height: int = TIP, confirmations: int = 1) -> list[Outpoint]:
    """Return a forward's coins that are deep enough."""
    found = forwards.load_coins(db, forward, tip_height=tip_height, confirmations=confirmations)
    return [coin.outpoint for coin in found]


def assign(db: Database, forward: Forward, *taken: Outpoint) -> None:
    """Have coins belong to a transfer."""
    found = [
        Coin(outpoint=one, amount_sat=100_000, scripthash=forward.scripthash, address_index=forward.address_index)
        for one in taken
    ]
    transfers.add_transfer(
        db,
        forward_id=forward.forward_id,
        destination="d",
        coins=found,
        signed=payment(99),
        fee_sat=1,
        value_sat=2,
        tip_height=TIP,
        now=NOW,
    )


def test_forward_is_read_back_as_it_was_written(db: Database) -> None:
    """Every term comes back, and its address is watched for good."""
    made = add(db)
    assert made == Forward(
        forward_id=made.forward_id,
        owner="shop",
        address_index=0,
        address=regtest_address(0).text,
        scripthash=regtest_address(0).scripthash,
        terms=TERMS,
        subscription_id=None,
        is_active=True,
        hold_reason="",
        created_at=NOW,
    )
    assert forwards.load_forward(db, made.forward_id) == made
    assert ledger.is_wanted_for_good(db, made.scripthash)
    assert forwards.load_forward(db, "unknown") is None


def test_no_index_is_given_twice(db: Database) -> None:
    """The next index is above all that were given, deleted and skipped ones too."""
    assert forwards.next_index(db) == 0
    forwards.delete_forward(db, add(db, 0).forward_id)
    assert forwards.next_index(db) == 1
    add(db, 7)
    assert forwards.next_index(db) == 8
    assert (forwards.has_index(db, 7), forwards.has_index(db, 6)) == (True, False)


def test_owner_sees_his_own_active_ones(db: Database) -> None:
    """An owner's list has his active forwards, oldest first, page by page; the operator's has all."""
    mine = [add(db, index) for index in range(4)]
    add(db, 4, owner="other")
    forwards.delete_forward(db, mine[1].forward_id)

    def listed(owner: str | None, *, offset: int = 0, limit: int = 9) -> list[int]:
        found = forwards.load_forwards(db, owner=owner, is_active_only=owner is not None, offset=offset, limit=limit)
        return [one.address_index for one in found]

    assert listed("shop") == [0, 2, 3]
    assert listed("shop", offset=1, limit=1) == [2]
    assert listed(None) == [0, 1, 2, 3, 4]


def test_database_belongs_to_one_seed(db: Database) -> None:
    """The first seed binds the database; the same is welcome again, another one never."""
    assert forwards.is_bound_to(db, SEED) is None
    assert forwards.bind_seed(db, SEED)
    assert forwards.bind_seed(db, SEED)
    assert not forwards.bind_seed(db, OTHER_SEED)
    assert (forwards.is_bound_to(db, SEED), forwards.is_bound_to(db, OTHER_SEED)) == (True, False)


# --- when a forward is looked at ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "is_ready"),
    [(confirmed(TIP), True), (None, True), (Replaced(txid_of(9)), False), (Dropped(), False)],
)
def test_coin_in_a_block_wakes_its_forward(db: Database, state: PaymentState | None, is_ready: bool) -> None:
    """A forward is looked at as soon as something is in a block, and not for what is gone."""
    made = add(db)
    add(db, 1)
    assert ready(db) == []
    pay(db, 0, 1, state)
    assert ready(db) == ([made.forward_id] if is_ready else [])


def test_coinbase_waits_until_it_is_mature(db: Database) -> None:
    """Mined coins cannot be spent before they are a hundred deep: until then their forward sleeps."""
    made = add(db)
    coin = pay(db, 0, 1, confirmed(TIP), is_coinbase=True)
    assert (ready(db, TIP + 98), coins(db, made, tip_height=TIP + 98)) == ([], [])
    assert (ready(db, TIP + 99), coins(db, made, tip_height=TIP + 99)) == ([made.forward_id], [coin])


def test_deleted_forward_is_not_looked_at(db: Database) -> None:
    """What comes to a deleted forward wakes nobody."""
    made = add(db)
    pay(db, 0, 1)
    forwards.delete_forward(db, made.forward_id)
    assert ready(db) == []
    pay(db, 0, 2)
    assert ready(db) == []


def test_those_that_wait_longest_are_looked_at_first(db: Database) -> None:
    """No forward is starved by others: what was looked at goes to the end."""
    first, second = add(db, 0), add(db, 1)
    pay(db, 0, 1)
    pay(db, 1, 2)
    forwards.save_look(db, first.forward_id, hold_reason="too-small", wake_height=TIP + 1)
    assert ready(db) == [second.forward_id]
    assert ready(db, TIP + 1) == [second.forward_id, first.forward_id]
    assert [one.forward_id for one in forwards.load_holding(db, reason="too-small", limit=9)] == [first.forward_id]


# --- which coins -------------------------------------------------------------------------------------------------


def test_coins_are_free_deep_and_unspent(db: Database) -> None:
    """Only what stands in a block, deep enough, unspent as far as we know, and in no transfer may be passed on."""
    made = add(db)
    old, new = pay(db, 0, 1, confirmed(TIP - 5)), pay(db, 0, 2, confirmed(TIP))
    spent, taken = pay(db, 0, 3), pay(db, 0, 4)
    pay(db, 0, 5, Dropped())
    assert set(coins(db, made)) == {old, new, spent, taken}
    assert coins(db, made)[0] == old
    assert coins(db, made, confirmations=6) == [old]
    assert coins(db, made, confirmations=7) == []
    pay(db, 0, 6, confirmed(TIP), received_sat=0, sent_sat=100_000, spends=[spent])
    assign(db, made, taken)
    assert set(coins(db, made)) == {old, new}


def test_coin_is_free_again_when_what_spent_it_is_gone(db: Database) -> None:
    """A spend that was dropped or replaced spends nothing."""
    made = add(db)
    coin = pay(db, 0, 1)
    pay(db, 0, 2, confirmed(TIP), received_sat=0, sent_sat=100_000, spends=[coin])
    assert coins(db, made) == []
    pay(db, 0, 2, Dropped(), received_sat=0, sent_sat=100_000, spends=[coin])
    assert coins(db, made) == [coin]
    assert ready(db) == [made.forward_id]


def test_sweep_sees_deleted_ones_or_all(db: Database) -> None:
    """What is left is looked for at deleted addresses that were paid, and at all where that is wished."""
    active, deleted, _ = add(db, 0), add(db, 1), add(db, 2, is_active=False)
    pay(db, 0, 1)
    pay(db, 1, 2)
    forwards.delete_forward(db, deleted.forward_id)
    found = {is_all: [one.address_index for one in forwards.load_with_coins(db, is_all=is_all)] for is_all in (0, 1)}
    assert found == {False: [1], True: [0, 1]}
    assert active.is_active
