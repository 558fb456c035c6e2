"""Supplies of addresses: how far they are scanned, what was given away, what was paid."""

import sqlite3

import pytest

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.transaction import packed_outpoint
from lightipn.chain.history import Status
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Dropped, LedgerEntry, PaymentState, Replaced
from lightipn.store import ledger, node_findings, subscriptions, supplies
from lightipn.store.database import Database
from lightipn.store.supplies import IssuedAddress, SupplyRecord
from tests.builders import confirmed, entry_of, txid_of
from tests.store.rows import NOW, pay, regtest_address, subscribe_to_each

KEY = b"\x01" * 32
OTHER_KEY = b"\x02" * 32
URL = "http://shop.example/paid"


def add(db: Database, identity: bytes = KEY, *, source: str = "xpub") -> SupplyRecord:
    """Enter a supply, and return its record."""
    supplies.add_supply(db, identity=identity, kind="p2wpkh", source=source, now=NOW)
    return reload(db, identity)


def reload(db: Database, identity: bytes = KEY) -> SupplyRecord:
    """Return a supply's record, which must be there."""
    record = supplies.load_supply(db, identity)
    assert record is not None
    return record


def scanned(db: Database, identity: bytes = KEY, *, used_to: int = -1) -> SupplyRecord:
    """Enter a supply and scan it to the end."""
    record = add(db, identity)
    supplies.save_scan(db, record.chain_id, scanned_to=used_to + 21, used_to=used_to, ahead=20)
    return reload(db, identity)


def issue(db: Database, index: int, *, identity: bytes = KEY, owner: str = "shop") -> Address:
    """Give an index away, and return its address."""
    address = regtest_address(index)
    record = reload(db, identity)
    supplies.save_issued(db, record, index=index, address=address, owner=owner, url=URL, now=NOW + index)
    return address


def paid(db: Database, index: int, state: PaymentState) -> LedgerEntry:
    """Have the address of an index followed, and paid."""
    subscribe_to_each(db, index)
    entry = entry_of(index, state=state)
    pay(db, index, entry)
    return entry


# --- scans -------------------------------------------------------------------------------------------------------


def test_new_supply_is_to_be_scanned(db: Database) -> None:
    """A supply begins at index 0 with nothing looked at; asking for it again, in any spelling, changes nothing."""
    assert supplies.load_supply(db, KEY) is None
    record = add(db)
    assert record == SupplyRecord(
        chain_id=1,
        identity=KEY,
        kind="p2wpkh",
        source="xpub",
        next_index=0,
        used_to=-1,
        scanned_to=0,
        is_scanned=False,
    )
    assert add(db, source="zpub") == record
    assert supplies.load_supply_by_id(db, 1) == record
    assert supplies.load_supply_by_id(db, 2) is None


def test_supplies_are_scanned_in_the_order_in_which_they_were_asked_for(db: Database) -> None:
    """What is not scanned to its end is found again, also after a restart, oldest first."""
    first, second = add(db), add(db, OTHER_KEY)
    assert supplies.load_unscanned(db) == [first, second]
    supplies.save_scan(db, first.chain_id, scanned_to=20, used_to=3, ahead=20)
    assert [(record.scanned_to, record.used_to) for record in supplies.load_unscanned(db)] == [(20, 3), (0, -1)]
    supplies.save_scan(db, first.chain_id, scanned_to=24, used_to=3, ahead=20)
    assert supplies.load_unscanned(db) == [second]


def test_addresses_are_given_away_from_behind_the_last_used_one(db: Database) -> None:
    """After a scan the next index is the one after the highest that has a history; without any it is 0."""
    assert scanned(db, used_to=6).next_index == 7
    assert scanned(db, OTHER_KEY).next_index == 0


def test_later_scan_moves_no_index(db: Database) -> None:
    """Once addresses are given away, a scan gives none a second time, and leaves none out that is unused."""
    scanned(db)
    issue(db, 0)
    issue(db, 1)
    supplies.save_scan(db, 1, scanned_to=21, used_to=-1, ahead=20)
    assert reload(db).next_index == 2
    supplies.save_scan(db, 1, scanned_to=30, used_to=9, ahead=20)
    assert (reload(db).next_index, reload(db).used_to) == (2, 9)


def test_supplies_that_say_something_are_listed(db: Database) -> None:
    """Listed are supplies that are being scanned, have a history, or gave an address away; an empty one is not."""
    identities = [bytes([number]) * 32 for number in range(4)]
    scanned(db, identities[0])
    scanned(db, identities[1], used_to=0)
    scanned(db, identities[2])
    issue(db, 0, identity=identities[2])
    add(db, identities[3])
    assert [record.chain_id for record in supplies.load_supplies(db)] == [2, 3, 4]


# --- what is used ------------------------------------------------------------------------------------------------


def test_use_of_an_address_nobody_looked_up_is_not_known(db: Database) -> None:
    """Before its history was worked in nobody knows whether an address was used; then an empty history says no."""
    address = regtest_address(0)
    assert supplies.is_used(db, address) is None
    ledger.want_script(db, address, until=NOW + 9, must_ask=False)
    assert supplies.is_used(db, address) is None
    ledger.save_status(db, address.scripthash, None, now=NOW)
    assert supplies.is_used(db, address) is False


@pytest.mark.parametrize(
    ("state", "is_used"),
    [
        pytest.param(confirmed(900), True, id="confirmed"),
        pytest.param(Unconfirmed(), True, id="unconfirmed"),
        pytest.param(Dropped(), False, id="dropped"),
        pytest.param(Replaced(txid_of(9)), False, id="replaced"),
    ],
)
def test_address_is_used_if_a_payment_stands(db: Database, state: PaymentState, is_used: bool) -> None:
    """A history that a wallet would find counts as use; what is gone does not."""
    address = regtest_address(0)
    ledger.want_script(db, address, until=NOW + 9, must_ask=False)
    ledger.save_entries(db, address.scripthash, [entry_of(1, state=state)])
    ledger.save_status(db, address.scripthash, Status(b"\x05" * 32), now=NOW)
    assert supplies.is_used(db, address) is is_used


@pytest.mark.parametrize("is_worked_in", [False, True])
def test_address_that_holds_an_unproved_coin_is_used(db: Database, is_worked_in: bool) -> None:
    """A coin in a block that one's own node pruned is no payment in the ledger, and its address is not given away."""
    address = regtest_address(0)
    ledger.want_script(db, address, until=NOW + 9, must_ask=False)
    node_findings.save_strays(db, {packed_outpoint(txid_of(1), 0): (address.scripthash, 500)})
    node_findings.recount_unproved(db, [address.scripthash])
    if is_worked_in:
        ledger.save_status(db, address.scripthash, None, now=NOW)
    assert supplies.is_used(db, address) is True
    assert supplies.is_used(db, regtest_address(1)) is None


def test_address_with_too_long_a_history_is_used(db: Database) -> None:
    """What has more history than a lookup reads was used, though nothing of it was worked in."""
    address = regtest_address(0)
    ledger.want_script(db, address, until=NOW + 9, must_ask=False)
    ledger.save_trouble(db, address.scripthash, "history-too-long")
    assert supplies.is_used(db, address) is True


# --- what is given away ------------------------------------------------------------------------------------------


def test_every_index_is_given_away_once(db: Database) -> None:
    """The next index is the one after that which was given away, and the same one is never given again."""
    scanned(db, used_to=2)
    for index in (3, 4, 5):
        assert reload(db).next_index == index
        issue(db, index)
    with pytest.raises(sqlite3.IntegrityError):
        issue(db, 4)


def test_indexes_of_two_supplies_are_their_own(db: Database) -> None:
    """Each supply counts for itself."""
    scanned(db)
    scanned(db, OTHER_KEY)
    issue(db, 0)
    issue(db, 0, identity=OTHER_KEY)
    issue(db, 1)
    assert (reload(db).next_index, reload(db, OTHER_KEY).next_index) == (2, 1)


def test_who_was_given_an_address_is_known(db: Database) -> None:
    """A supply knows the owners that it gave an address to, and no other supply does."""
    record, other = scanned(db), scanned(db, OTHER_KEY)
    issue(db, 0)
    assert supplies.has_issued(db, record, "shop")
    assert not supplies.has_issued(db, record, "other")
    assert not supplies.has_issued(db, other, "shop")


def test_given_addresses_are_listed_newest_first(db: Database) -> None:
    """Each is shown with its owner, its URL, its time, and whether it was paid; the list has a limit."""
    scanned(db)
    addresses = [issue(db, index, owner=owner) for index, owner in enumerate(["a", "b", "a"])]
    paid(db, 1, Unconfirmed())
    expected = [
        IssuedAddress(
            index=index,
            address=addresses[index].text,
            owner=owner,
            url=URL,
            issued_at=NOW + index,
            is_paid=index == 1,
        )
        for index, owner in ((2, "a"), (1, "b"), (0, "a"))
    ]
    assert supplies.load_issued(db, 1, limit=9) == expected
    assert supplies.load_issued(db, 1, limit=2) == expected[:2]
    assert supplies.load_issued(db, 2, limit=9) == []


# --- the gap -----------------------------------------------------------------------------------------------------


def test_last_paid_index_is_the_highest_with_a_payment(db: Database) -> None:
    """The gap is counted from the highest index that was paid, or that had a history when it was scanned."""
    record = scanned(db, used_to=1)
    assert supplies.load_last_paid(db, record) == 1
    for index in range(2, 8):
        issue(db, index)
    assert supplies.load_last_paid(db, record) == 1
    paid(db, 3, Unconfirmed())
    paid(db, 5, confirmed(900))
    assert supplies.load_last_paid(db, record) == 5


def test_unused_supply_has_no_last_paid_index(db: Database) -> None:
    """Where nothing was ever paid it is -1, so that the gap is what was given away."""
    record = scanned(db)
    issue(db, 0)
    assert supplies.load_last_paid(db, record) == -1


@pytest.mark.parametrize("gone", [Dropped(), Replaced(txid_of(9))])
def test_gone_payment_does_not_close_the_gap(db: Database, gone: PaymentState) -> None:
    """A wallet would not find an address whose only payment is gone, so that does not count."""
    record = scanned(db)
    issue(db, 0)
    paid(db, 0, Unconfirmed())
    assert supplies.load_last_paid(db, record) == 0
    paid(db, 0, gone)
    assert supplies.load_last_paid(db, record) == -1


def test_payments_of_another_supply_do_not_close_the_gap(db: Database) -> None:
    """Only a supply's own addresses count."""
    record = scanned(db)
    scanned(db, OTHER_KEY)
    issue(db, 4, identity=OTHER_KEY)
    paid(db, 4, Unconfirmed())
    assert supplies.load_last_paid(db, record) == -1


def test_payments_that_are_forgotten_are_remembered_as_use(db: Database) -> None:
    """When a paid address is followed no more its payments go, but the gap does not grow."""
    record = scanned(db)
    for index in range(4):
        issue(db, index)
    paid(db, 2, confirmed(900))
    subscribe_to_each(db, 3)
    for index in (2, 3):
        subscriptions.remove_subscriptions(db, regtest_address(index).scripthash, url=None)
        assert ledger.load_script(db, regtest_address(index).scripthash) is None
    assert supplies.load_last_paid(db, reload(db)) == 2
    assert reload(db).next_index == 4
    assert record.used_to == -1


def test_use_found_later_is_taken_into_account(db: Database) -> None:
    """An index with a history that nobody was given is passed over, and closes the gap; one below changes nothing."""
    record = scanned(db, used_to=2)
    supplies.save_used(db, record, 5)
    assert (reload(db).used_to, reload(db).next_index) == (5, 6)
    supplies.save_used(db, record, 1)
    assert (reload(db).used_to, reload(db).next_index) == (5, 6)


def test_address_is_taken_whatever_supply_gave_it(db: Database) -> None:
    """An address that was given away is known by itself: two keys may lead to one script."""
    scanned(db)
    issue(db, 0)
    assert supplies.is_taken(db, regtest_address(0))
    assert not supplies.is_taken(db, regtest_address(1))


@pytest.mark.parametrize(
    ("state", "is_paid"),
    [(confirmed(900), True), (Unconfirmed(), True), (Dropped(), False), (Replaced(txid_of(9)), False)],
)
def test_address_is_paid_while_a_payment_stands(db: Database, state: PaymentState, is_paid: bool) -> None:
    """A payment that is gone does not count."""
    assert not supplies.is_paid(db, regtest_address(0))
    paid(db, 0, state)
    assert supplies.is_paid(db, regtest_address(0)) is is_paid


# --- forgetting keys ---------------------------------------------------------------------------------------------


def test_keys_that_gave_nothing_away_are_forgotten(db: Database) -> None:
    """A key that was asked for and scanned long ago is forgotten with all its kinds of scripts, used or not."""
    scanned(db)
    scanned(db, OTHER_KEY, used_to=4)
    assert supplies.drop_unused(db, before=NOW) == 0
    assert supplies.drop_unused(db, before=NOW + 1) == 2
    assert supplies.load_supply(db, KEY) is supplies.load_supply(db, OTHER_KEY) is None


def test_key_that_gave_an_address_away_is_kept_with_all_its_kinds(db: Database) -> None:
    """Of a key with one address that was given away every kind of script stays known; so does one being scanned."""
    scanned(db)
    scanned(db, OTHER_KEY)
    issue(db, 0)
    add(db, b"\x03" * 32, source="another")
    supplies.add_supply(db, identity=b"\x04" * 32, kind="p2pkh", source="unused", now=NOW)
    supplies.save_scan(db, 4, scanned_to=20, used_to=-1, ahead=20)
    assert supplies.drop_unused(db, before=NOW + 1) == 1
    assert [supplies.load_supply_by_id(db, number) is None for number in (1, 2, 3, 4)] == [False, False, False, True]


def test_forgotten_key_is_given_another_number(db: Database) -> None:
    """The operator never sees one number for two keys."""
    scanned(db)
    supplies.drop_unused(db, before=NOW + 1)
    assert add(db).chain_id == 2
