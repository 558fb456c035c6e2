"""A database of the first version, which knew one server, becomes one of today, and loses nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from lightipn.chain.history import Status
from lightipn.chain.source import Misbehaviour
from lightipn.chain.verifier import Unconfirmed
from lightipn.errors import StoreMismatchError
from lightipn.ledger.entries import Dropped, ScriptPayments
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from lightipn.store import deliveries, events, evidence, ledger, reviews, servers, spends, subscriptions
from lightipn.store.database import Database, open_store
from lightipn.store.migrations import MIGRATION_NAMES, migrations
from tests.builders import txid_of
from tests.store.old_versions import (
    ADDRESS,
    COIN,
    ENTRIES,
    FIRST_ROWS,
    SERVER,
    VERSIONS,
    first_rows_of,
    in_the_way,
    rows_in,
    schema_of,
    tables_of,
    write_first_version,
)
from tests.store.plain_dialect import POLICIES, payload_of
from tests.store.rows import NOW, claim


@pytest.fixture
def old() -> Iterator[Database]:
    """Open a database in memory as the first version left it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield write_first_version(connection)


def test_first_version_has_nothing_of_the_second(old: Database) -> None:
    """The database that these tests begin with is the old one: old tables, all of them filled, and old columns."""
    assert tables_of(old) == set(FIRST_ROWS)
    for table in FIRST_ROWS:
        assert set(old.table(table).columns_dict) == set(FIRST_ROWS[table][0])
        assert rows_in(old, table) == first_rows_of(table)
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS
    with pytest.raises(sqlite3.IntegrityError):
        old.execute("UPDATE ledger_entry SET state = 'dropped' WHERE state = 'unconfirmed'")


def test_upgrade_keeps_every_row(old: Database) -> None:
    """After the upgrade each table holds what it held, the new ones are empty, and the file is sound."""
    migrations.apply(old)
    assert {migration.name for migration in migrations.applied(old)} == MIGRATION_NAMES
    for table in FIRST_ROWS:
        assert rows_in(old, table) == first_rows_of(table)
    for table in tables_of(old) - set(FIRST_ROWS):
        assert old.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert old.execute("PRAGMA foreign_key_check").fetchall() == []
    assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_upgraded_database_is_like_a_new_one(old: Database, db: Database) -> None:
    """Tables, indexes and triggers are the same whether the file was made by this version or by the first."""
    migrations.apply(old)
    assert schema_of(old) == schema_of(db)


def test_upgraded_payments_keep_their_meaning(old: Database) -> None:
    """Every payment is where it was; what was unconfirmed had been told by one server."""
    migrations.apply(old)
    assert ledger.load_payments(old, ADDRESS.scripthash) == ScriptPayments(
        scripthash=ADDRESS.scripthash, script=ADDRESS.script, entries={entry.txid: entry for entry in ENTRIES}
    )
    assert ENTRIES[0].state == Unconfirmed(seen_by=1)
    assert old.execute("SELECT DISTINCT seen_by FROM ledger_entry").fetchall() == [(1,)]
    assert ledger.load_entries_above(old, 800) == [(ADDRESS.scripthash, ENTRIES[1])]
    assert ledger.load_watches(old) == [(ADDRESS.scripthash, Status(b"\x05" * 32))]


def test_upgraded_payments_are_followed_as_new_ones_are(old: Database) -> None:
    """What was unconfirmed before the upgrade is armed, and may be dropped, which the old table could not hold."""
    migrations.apply(old)
    assert spends.load_unarmed(old) == {ENTRIES[0].txid: (COIN,)}
    assert spends.load_unconfirmed(old) == [ENTRIES[0].txid]
    assert ledger.load_scripts_of(old, ENTRIES[0].txid) == [ADDRESS.scripthash]
    gone = replace(ENTRIES[0], state=Dropped())
    ledger.save_entries(old, ADDRESS.scripthash, [gone])
    payments = ledger.load_payments(old, ADDRESS.scripthash)
    assert payments is not None
    assert payments.entries[gone.txid] == gone
    assert spends.load_unconfirmed(old) == []


def test_upgraded_message_is_delivered(old: Database) -> None:
    """A message that waited for its next try is still due, under its old id, with the attempts that it had."""
    migrations.apply(old)
    (delivery,) = deliveries.load_deliveries(old, limit=9)
    assert (delivery.message_id, delivery.tries) == ("m-5", 2)
    (subscription,) = subscriptions.load_subscriptions_of(old, ADDRESS.scripthash)
    assert (subscription.subscription_id, subscription.owner) == (11, "shop")
    reviews.review_script(old, POLICIES, ADDRESS.scripthash, tip_height=900, now=NOW)
    (taken,), _ = claim(old, now=NOW + 10)
    assert taken.sent_payload == payload_of(130, 70)
    assert taken.request.headers == {"X-Message": "m-5"}


def test_upgraded_server_is_neither_pinned_nor_banned(old: Database) -> None:
    """What was known of a server stays; its certificate is pinned at the next connection, as at a first one."""
    migrations.apply(old)
    assert servers.load_servers(old) == [SERVER]
    assert (SERVER.fingerprint, SERVER.is_ca_signed, SERVER.banned_until) == (None, False, 0)
    assert servers.load_remembered(old) == [SERVER.name]
    assert servers.trust_server(old, "a.example") == [SERVER.name]


def test_feed_of_an_upgraded_database_begins_now(old: Database) -> None:
    """What happened before the upgrade is no event; the first one afterwards has the number 1, and its old owner."""
    migrations.apply(old)
    event = PaymentEvent(
        kind=EventKind.DROPPED,
        scripthash=ADDRESS.scripthash,
        txid=txid_of(1),
        net_sat=70,
        height=None,
        trust=TrustLevel.SINGLE,
    )
    events.save_payment_events(old, [event], now=NOW)
    page = events.load_events(old, after=0, limit=9, owner="shop")
    assert [(found.number, found.address) for found in page.events] == [(1, ADDRESS.text)]
    caught = Misbehaviour(server=SERVER.name, kind="false-header", claim="a", contradiction="b")
    evidence.save_evidence(old, [caught])
    assert [found.server for found in evidence.load_evidence(old, limit=9)] == [SERVER.name]


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param("TABLE evidence (a)", id="early"),
        pytest.param("TABLE new_ledger_entry (a)", id="before the payments are moved"),
        pytest.param("TABLE trust_change (a)", id="at the end"),
    ],
)
def test_upgrade_that_fails_leaves_the_first_version(old: Database, obstacle: str) -> None:
    """An upgrade that cannot finish is undone whole, the payments too; it can be done later."""
    with in_the_way(old, obstacle):
        with pytest.raises(sqlite3.OperationalError):
            migrations.apply(old)
    assert tables_of(old) == set(FIRST_ROWS)
    for table in FIRST_ROWS:
        assert rows_in(old, table) == first_rows_of(table)
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS
    migrations.apply(old)
    assert rows_in(old, "ledger_entry") == first_rows_of("ledger_entry")


@pytest.mark.parametrize("threaded", [True, False], ids=["thread", "inline"])
async def test_file_of_the_first_version_is_upgraded_when_it_is_opened(tmp_path: Path, threaded: bool) -> None:
    """Opening is all it takes: the payments are there, the network is still bound, and the second opening is plain."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        write_first_version(connection)
    with pytest.raises(StoreMismatchError, match="belongs to regtest"):
        async with open_store(path, "mainnet", threaded=threaded):
            pass
    for _ in range(2):
        async with open_store(path, "regtest", threaded=threaded) as store:
            payments = await store.read(lambda db: ledger.load_payments(db, ADDRESS.scripthash))
            assert payments is not None
            assert payments.entries == {entry.txid: entry for entry in ENTRIES}
