"""``get_received`` and ``get_user_received``: totals from Python, beside a running service or without one."""

import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import trio

import lightipn
from lightipn import received
from lightipn.bitcoin.address import Address
from lightipn.bitcoin.extended_key import parse_address_chain
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.history import Status
from lightipn.errors import ConfigError, RequestError, StoreError, StoreMismatchError
from lightipn.ledger.entries import LedgerEntry
from lightipn.store import chain, ledger
from lightipn.store.database import Database, open_store, sole_service
from tests.builders import confirmed, entry_of
from tests.store.rows import TIP, regtest_address

LONGEST_WAIT_S = 10.0
TPUB = "tpubDC5FSnBiZDMmhiuCmWAYsLwgLYrrT9rAqvTySfuCCrgsWz8wxMXUS9Tb9iVMvcRbvFcAHGkMD5Kx8koh4GquNGNTfohfk7pgjhaPCdXpoba"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with a tip, named by ``LIGHTIPN_CONFIG``, in a folder where no service runs."""
    path = tmp_path / "shop.db"
    file = tmp_path / "shop.toml"
    file.write_text(f'network = "regtest"\ndatabase = "{path}"\n[dialects.ipn]\nconfirmations = 2\nxpub = "{TPUB}"\n')
    monkeypatch.setenv("LIGHTIPN_CONFIG", str(file))
    monkeypatch.chdir(tmp_path)
    write(path, lambda db: chain.save_base_height(db, TIP))
    return path


def write(path: Path, work: object) -> None:
    """Run one transaction on the database."""

    async def run() -> None:
        async with open_store(path, "regtest", threaded=False) as store:
            await store.transact(work)  # type: ignore[arg-type]

    trio.run(run)


def settle(path: Path, address: Address, *entries: LedgerEntry) -> None:
    """Write an address whose history was worked in."""

    def work(db: Database) -> None:
        ledger.add_script(db, address)
        ledger.save_entries(db, address.scripthash, entries)
        ledger.save_status(db, address.scripthash, Status(b"\x01" * 32), now=1)

    write(path, work)


@pytest.fixture
def service(database: Path) -> Iterator[list[str]]:
    """Something that holds the service's lock and works lookups in: 12 sat for each address; returns what it did."""
    worked: list[str] = []
    stop = threading.Event()

    def take(db: Database) -> None:
        for scripthash, _, _ in ledger.take_watch_changes(db, limit=10):
            ledger.save_entries(db, scripthash, [entry_of(1, received_sat=12)])
            ledger.save_status(db, scripthash, Status(b"\x02" * 32), now=2)
            record = ledger.load_script(db, scripthash)
            worked.append(record.address if record else "")

    async def run() -> None:
        async with open_store(database, "regtest", threaded=False) as store:
            while not await trio.to_thread.run_sync(stop.wait, 0.02):
                await store.transact(take)

    with sole_service(database):
        thread = threading.Thread(target=trio.run, args=(run,))
        thread.start()
        yield worked
        stop.set()
        thread.join(LONGEST_WAIT_S)
    assert not thread.is_alive()


def test_totals_are_exact_decimals_in_btc(database: Path) -> None:
    """The totals of a known address come as (confirmed, unconfirmed), at the configured depth, without a float."""
    settle(
        database,
        regtest_address(0),
        entry_of(1, received_sat=10, state=confirmed(TIP - 1)),
        entry_of(2, received_sat=2_099_999_999_999_999, state=confirmed(TIP)),
    )
    totals = lightipn.get_received(regtest_address(0).text)
    assert totals == (Decimal("0.00000010"), Decimal("20999999.99999999"))
    assert all(type(total) is Decimal for total in totals)


def test_both_functions_are_offered_by_the_package() -> None:
    """``from lightipn import get_received, get_user_received`` is all a program needs."""
    assert lightipn.get_received is received.get_received
    assert lightipn.get_user_received is received.get_user_received
    assert sorted(lightipn.__all__) == ["get_received", "get_user_received"]
    with pytest.raises(AttributeError, match="get_balance"):
        _ = lightipn.get_balance


def test_user_has_the_child_of_the_key(database: Path) -> None:
    """User N's address is child N of the configured key."""
    settle(database, parse_address_chain(TPUB, REGTEST).address_at(7), entry_of(1, received_sat=5))
    assert lightipn.get_user_received(7) == (Decimal(0), Decimal("0.00000005"))
    for user_id in (-1, 2**31):
        with pytest.raises(RequestError) as caught:
            lightipn.get_user_received(user_id)
        assert caught.value.code == "bad-index"


def test_user_needs_a_key(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configured key there are no users."""
    monkeypatch.setenv("LIGHTIPN_DIALECTS_IPN_XPUB", "")
    with pytest.raises(RequestError) as caught:
        lightipn.get_user_received(1)
    assert caught.value.code == "no-xpub"


def test_unknown_address_needs_a_service(database: Path) -> None:
    """Without a running service an unknown address is refused at once, and nothing is left in the database."""
    with pytest.raises(RequestError, match="no lightipn service runs") as caught:
        lightipn.get_received(regtest_address(0).text)
    assert caught.value.code == "no-service"
    write(database, assert_empty)


def assert_empty(db: Database) -> None:
    """Check that no script was written."""
    assert ledger.load_watches(db) == []


@pytest.mark.slow
def test_unknown_address_is_looked_up_by_the_service(database: Path, service: list[str]) -> None:
    """For an address that is not watched a row is left, the service works it off, and the call returns its totals."""
    address = regtest_address(0).text
    assert lightipn.get_received(address) == (Decimal(0), Decimal("0.00000012"))
    assert service == [address]
    assert lightipn.get_received(address) == (Decimal(0), Decimal("0.00000012"))
    assert service == [address]  # known now


@pytest.mark.slow
def test_call_does_not_wait_for_ever(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that does not finish in time is an error; the row stays for it."""
    monkeypatch.setattr(received, "WAIT_S", 0.3)
    with sole_service(database), pytest.raises(RequestError, match="did not finish") as caught:
        lightipn.get_received(regtest_address(0).text)
    assert (caught.value.code, caught.value.status_hint) == ("lookup-pending", 503)
    found: list[object] = []
    write(database, lambda db: found.extend(ledger.load_watches(db)))
    assert len(found) == 1


def test_what_is_no_address_of_the_network_is_refused(database: Path) -> None:
    """A bad address, or one of another network, is refused before the database is opened."""
    for text in ("", "nonsense", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"):
        with pytest.raises(RequestError) as caught:
            lightipn.get_received(text)
        assert caught.value.code == "bad-address"


def test_errors_of_configuration_and_database_come_out(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program can tell a wrong configuration, a database of another network, and a missing one apart."""
    address = regtest_address(0).text
    monkeypatch.setenv("LIGHTIPN_NETWORK", "signet")
    with pytest.raises(StoreMismatchError):
        lightipn.get_received("tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx")
    monkeypatch.setenv("LIGHTIPN_NETWORK", "regtest")
    monkeypatch.setenv("LIGHTIPN_DATABASE", str(database.with_name("missing.db")))
    with pytest.raises(StoreError, match="there is no database"):
        lightipn.get_received(address)
    assert not database.with_name("missing.db").exists()
    monkeypatch.setenv("LIGHTIPN_DATABASE", str(database.with_name("missing") / "shop.db"))
    with pytest.raises(StoreError):
        lightipn.get_received(address)
    monkeypatch.setenv("LIGHTIPN_NETWORK", "nowhere")
    with pytest.raises(ConfigError):
        lightipn.get_received(address)
