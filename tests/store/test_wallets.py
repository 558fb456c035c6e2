"""Wallets on disk: names, and the addresses that they hold."""

import sqlite3

import pytest

from lightipn.bitcoin.address import Address
from lightipn.store import subscriptions, wallets
from lightipn.store.database import Database
from lightipn.store.wallets import Wallet, WalletAddress
from tests.store.rows import NOW, regtest_address


def add(
    db: Database, name: str = "wallet", *, owner: str = "shop", key: str = "", subchains: tuple[int, ...] = ()
) -> Wallet:
    """Add a wallet without addresses."""
    return wallets.add_wallet(db, owner=owner, name=name, extended_key=key, subchains=subchains, now=NOW)


def put(
    db: Database, wallet: Wallet, number: int, *, subchain: int | None = None, index: int | None = None, now: int = NOW
) -> bool:
    """Add the address with this number to a wallet."""
    return wallets.add_address(db, wallet.wallet_id, regtest_address(number), subchain=subchain, index=index, now=now)


def held(db: Database, wallet: Wallet) -> list[str]:
    """Return the addresses of a wallet in their order."""
    return [one.address for one in wallets.load_wallet_addresses(db, wallet.wallet_id)]


def texts(*numbers: int) -> list[str]:
    """Return the addresses with these numbers."""
    return [regtest_address(number).text for number in numbers]


@pytest.mark.parametrize("subchains", [(), (0,), (0, 1, 2_147_483_647)])
def test_wallet_reads_back(db: Database, subchains: tuple[int, ...]) -> None:
    """A wallet is found by owner and name, and by its id, with its key and branches."""
    made = add(db, key="tpub", subchains=subchains)
    assert made == Wallet(
        wallet_id=made.wallet_id,
        owner="shop",
        name="wallet",
        extended_key="tpub",
        subchains=subchains,
        created_at=NOW,
    )
    assert wallets.load_wallet(db, owner="shop", name="wallet") == made
    assert wallets.load_wallet_by_id(db, made.wallet_id) == made
    assert wallets.load_wallet(db, owner="other", name="wallet") is None
    assert wallets.load_wallet(db, owner="shop", name="Wallet") is None
    assert wallets.load_wallet_by_id(db, made.wallet_id + 1) is None


def test_name_is_an_owners_own(db: Database) -> None:
    """Two owners may use one name; one owner may not, whatever the kind."""
    assert add(db).wallet_id != add(db, owner="other").wallet_id
    with pytest.raises(sqlite3.IntegrityError):
        add(db, key="tpub")


def test_wallets_are_listed_by_kind_and_name(db: Database) -> None:
    """An owner's given and derived wallets are two lists, each by name."""
    given = [add(db, name) for name in ("b", "c", "a")]
    derived = [add(db, name, key="tpub") for name in ("z", "y")]
    add(db, "foreign", owner="other")
    assert wallets.load_wallets(db, owner="shop", is_derived=False) == [given[2], given[0], given[1]]
    assert wallets.load_wallets(db, owner="shop", is_derived=True) == [derived[1], derived[0]]


def test_address_is_in_a_wallet_once(db: Database) -> None:
    """Adding again adds nothing; another wallet may hold the same address."""
    one, two = add(db, "one"), add(db, "two")
    assert [put(db, one, 1), put(db, one, 1), put(db, two, 1)] == [True, False, True]
    assert (held(db, one), held(db, two)) == (texts(1), texts(1))
    (found,) = wallets.load_wallet_addresses(db, one.wallet_id)
    assert found == WalletAddress(
        address=regtest_address(1).text, scripthash=regtest_address(1).scripthash, subchain=None, index=None
    )


def test_addresses_are_in_the_order_of_their_derivation(db: Database) -> None:
    """Derived addresses come by branch and index, given ones in the order in which they were."""
    derived, given = add(db, "derived", key="tpub", subchains=(0, 1)), add(db, "given")
    for number, (subchain, index) in enumerate([(1, 0), (0, 10), (0, 2), (1, 1), (0, 9)]):
        put(db, derived, number, subchain=subchain, index=index)
    assert held(db, derived) == texts(2, 4, 1, 0, 3)
    for number in (3, 1, 2):
        put(db, given, number)
    assert held(db, given) == texts(3, 1, 2)


def test_address_is_taken_out_once(db: Database) -> None:
    """Taking out what is not there does nothing, and another wallet keeps its own."""
    one, two = add(db, "one"), add(db, "two")
    put(db, one, 1)
    put(db, two, 1)
    assert wallets.remove_address(db, one.wallet_id, regtest_address(1).text)
    assert not wallets.remove_address(db, one.wallet_id, regtest_address(1).text)
    assert (held(db, one), held(db, two)) == ([], texts(1))


def test_removed_wallet_forgets_its_addresses(db: Database) -> None:
    """With a wallet go its rows, and its name is free again; its id is not used a second time."""
    made = add(db)
    put(db, made, 1)
    wallets.remove_wallet(db, made.wallet_id)
    assert wallets.load_wallet(db, owner="shop", name="wallet") is None
    assert db.execute("SELECT count(*) FROM wallet_address").fetchone()[0] == 0
    again = add(db)
    assert again.wallet_id > made.wallet_id
    assert held(db, again) == []


def test_script_of_a_wallet_is_not_forgotten(db: Database) -> None:
    """An address that a wallet holds stays watched, until no wallet holds it."""
    address = Address(text=regtest_address(1).text, script=regtest_address(1).script)
    made = add(db)
    subscription = subscriptions.save_subscription(
        db, dialect="plain", owner="shop", address=address, url="http://shop.example/", terms=b"1", now=NOW
    )
    put(db, made, 1)

    def is_there() -> bool:
        return bool(db.execute("SELECT 1 FROM script WHERE scripthash = ?", [address.scripthash]).fetchone())

    subscriptions.release(db, subscription)
    assert is_there()
    wallets.remove_address(db, made.wallet_id, address.text)
    subscriptions.forget_unfollowed(db, address.scripthash)
    assert not is_there()
