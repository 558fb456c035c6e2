"""Transfers on disk: a coin in one at a time, versions in order, and what became of them."""

import sqlite3
from dataclasses import replace

import pytest

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Outpoint, Transaction
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Dropped, PaymentState, Replaced
from lightipn.store import forwards, ledger, transfers
from lightipn.store.database import Database
from lightipn.store.forwards import Coin, Forward, ForwardTerms
from lightipn.store.transfers import Transfer, Version
from tests.builders import confirmed, entry_of, payment, txid_of
from tests.store.rows import NOW, TIP, regtest_address

ONE, TWO = Outpoint(txid_of(1), 0), Outpoint(txid_of(2), 0)


@pytest.fixture
def forward(db: Database) -> Forward:
    """A forward without terms."""
    address = regtest_address(0)
    return forwards.add_forward(
        db, owner="shop", index=0, address=address, terms=ForwardTerms(destination="d"), now=NOW
    )


def coin_of(forward: Forward, outpoint: Outpoint) -> Coin:
    """Return a coin at a forward's address."""
    return Coin(outpoint=outpoint, amount_sat=100_000, scripthash=forward.scripthash, address_index=0)


def add(db: Database, forward: Forward, signed: Transaction, *outpoints: Outpoint) -> Transfer:
    """Store a transfer of these coins."""
    transfer_id = transfers.add_transfer(
        db,
        forward_id=forward.forward_id,
        destination="d",
        coins=[coin_of(forward, outpoint) for outpoint in outpoints],
        signed=signed,
        fee_sat=200,
        value_sat=99_800,
        tip_height=TIP,
        now=NOW,
    )
    return transfers.load_transfer(db, transfer_id)


def bump(db: Database, transfer: Transfer, signed: Transaction) -> Transfer:
    """Store another version of a transfer."""
    transfers.add_version(db, transfer.transfer_id, signed, fee_sat=400, value_sat=99_600, tip_height=TIP + 6, now=NOW)
    return transfers.load_transfer(db, transfer.transfer_id)


def place(db: Database, forward: Forward, txid: Txid, state: PaymentState, *spends: Outpoint) -> None:
    """Have the ledger know where a transaction is, at the forward's address."""
    received_sat = 0 if spends else 100_000
    plain = entry_of(0, received_sat=received_sat, sent_sat=100_000 * len(spends), state=state, spends=spends)
    ledger.save_entries(db, forward.scripthash, [replace(plain, txid=txid)])


def test_transfer_is_read_back_as_it_was_written(db: Database, forward: Forward) -> None:
    """Coins and versions come back whole, the newest version last."""
    signed, dearer = payment(1), payment(2)
    transfer = bump(db, add(db, forward, signed, ONE, TWO), dearer)
    versions = tuple(
        Version(
            version_id=number,
            txid=one.txid,
            raw=one.raw,
            fee_sat=200 * number,
            value_sat=100_000 - 200 * number,
            signed_height=TIP + 6 * (number - 1),
            broadcast_at=None,
        )
        for number, one in ((1, signed), (2, dearer))
    )
    coins = tuple(sorted((coin_of(forward, ONE), coin_of(forward, TWO)), key=lambda coin: coin.outpoint.txid))
    assert transfer == Transfer(
        transfer_id=1,
        forward_id=forward.forward_id,
        destination="d",
        state="open",
        trouble="",
        told_txid=None,
        told_confirmations=0,
        coins=coins,
        versions=versions,
    )
    assert transfer.newest == versions[1]
    assert transfers.load_open_transfers(db) == [transfer] == list(transfers.load_transfers(db, limit=9))


def test_coin_belongs_to_one_transfer(db: Database, forward: Forward) -> None:
    """No second transfer takes a coin, whatever else goes wrong: the database itself refuses it."""
    add(db, forward, payment(1), ONE)
    with pytest.raises(sqlite3.IntegrityError):
        add(db, forward, payment(2), ONE)


def test_void_transfer_frees_its_coins(db: Database, forward: Forward) -> None:
    """What is given up is followed no more, and its coins may go again, in the very same transaction even."""
    transfer = add(db, forward, payment(1), ONE)
    transfers.void_transfer(db, transfer, now=NOW)
    assert transfers.load_open_transfers(db) == []
    again = add(db, forward, payment(1), ONE)
    assert [one.state for one in transfers.load_transfers(db, limit=9)] == ["open", "void"]
    assert again.newest.txid == transfer.newest.txid
    assert forwards.load_txids(db, forward.forward_id) == [payment(1).txid]


def test_broadcast_is_recorded_once(db: Database, forward: Forward) -> None:
    """When a version was taken first is what is kept, and only the first time counts as news."""
    version = add(db, forward, payment(1), ONE).newest
    assert transfers.save_broadcast(db, version.version_id, now=NOW + 1)
    assert not transfers.save_broadcast(db, version.version_id, now=NOW + 2)
    [found] = transfers.load_open_transfers(db)
    assert found.newest.broadcast_at == NOW + 1


def test_trouble_is_shown_until_it_is_over(db: Database, forward: Forward) -> None:
    """Open transfers with trouble are what the operator must look at; a final one has none."""
    transfer = add(db, forward, payment(1), ONE)
    assert transfers.load_troubled(db, limit=9) == []
    transfers.save_trouble(db, transfer.transfer_id, "refused-by-servers")
    assert [one.trouble for one in transfers.load_troubled(db, limit=9)] == ["refused-by-servers"]
    transfers.save_final(db, transfer.transfer_id)
    assert transfers.load_troubled(db, limit=9) == []
    assert transfers.load_transfer(db, transfer.transfer_id).state == "final"


def test_fee_is_needed_until_something_is_mined(db: Database, forward: Forward) -> None:
    """Only while a transfer may need a bump somebody must ask what fees are."""
    assert not transfers.has_unmined(db)
    transfer = add(db, forward, payment(1), ONE)
    assert transfers.has_unmined(db)
    transfers.save_told(db, transfer.transfer_id, payment(1).txid, 1)
    assert not transfers.has_unmined(db)
    found = transfers.load_transfer(db, transfer.transfer_id)
    assert (found.told_txid, found.told_confirmations) == (payment(1).txid, 1)


def test_own_entries_are_those_of_its_versions(db: Database, forward: Forward) -> None:
    """What the ledger knows of the versions is found; the payments themselves, and strangers, are not among it."""
    transfer = bump(db, add(db, forward, payment(1), ONE), payment(2))
    assert transfers.load_own_entries(db, transfer) == {}
    place(db, forward, ONE.txid, confirmed(TIP))
    place(db, forward, payment(2).txid, Unconfirmed(), ONE)
    place(db, forward, txid_of(77), Unconfirmed(), TWO)
    assert transfers.load_own_entries(db, transfer).keys() == {payment(2).txid}


@pytest.mark.parametrize(
    ("state", "is_lost"),
    [(confirmed(TIP), False), (Unconfirmed(), False), (Replaced(txid_of(9)), True), (Dropped(), True)],
)
def test_coin_is_lost_with_its_payment(db: Database, forward: Forward, state: PaymentState, is_lost: bool) -> None:
    """A payment that is gone has no coin; one that lost its block may still be mined again."""
    transfer = add(db, forward, payment(1), ONE)
    place(db, forward, ONE.txid, state)
    assert transfers.is_coin_lost(db, transfer, transfer.coins[0]) is is_lost


@pytest.mark.parametrize(
    ("txid", "state", "is_lost"),
    [
        (txid_of(50), confirmed(TIP), True),
        (txid_of(50), Unconfirmed(), False),
        (payment(1).txid, confirmed(TIP), False),
        (payment(2).txid, confirmed(TIP), False),
    ],
    ids=["a stranger in a block", "a stranger in the mempool", "its first version", "its bump"],
)
def test_coin_is_lost_to_a_stranger_in_a_block(
    db: Database, forward: Forward, txid: Txid, state: PaymentState, is_lost: bool
) -> None:
    """Only another transaction in a block takes a coin away for good."""
    transfer = bump(db, add(db, forward, payment(1), ONE), payment(2))
    place(db, forward, ONE.txid, confirmed(TIP))
    place(db, forward, txid, state, ONE)
    assert transfers.is_coin_lost(db, transfer, transfer.coins[0]) is is_lost


def test_sweeps_are_carried_out_in_order(db: Database) -> None:
    """Wishes wait for each other, and are forgotten one by one."""
    assert transfers.load_sweep(db) is None
    transfers.add_sweep(db, "first", is_all=False, now=NOW)
    transfers.add_sweep(db, "second", is_all=True, now=NOW)
    first = transfers.load_sweep(db)
    assert first is not None
    assert (first.destination, first.is_all) == ("first", False)
    transfers.take_sweep(db, first.wish_id)
    second = transfers.load_sweep(db)
    assert second is not None
    assert (second.destination, second.is_all) == ("second", True)
