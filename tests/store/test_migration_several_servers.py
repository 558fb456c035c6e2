"""A database of the first version, which knew one server, becomes one of today, and loses nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import Status
from lightipn.chain.source import Misbehaviour, ServerState
from lightipn.chain.verifier import Unconfirmed
from lightipn.errors import StoreMismatchError
from lightipn.ledger.entries import Dropped, LedgerEntry, Replaced, ScriptPayments
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from lightipn.store import deliveries, events, evidence, ledger, reviews, servers, spends, subscriptions
from lightipn.store.database import Database, open_store
from lightipn.store.migrations import MIGRATION_NAMES, migrations
from tests.builders import NULL_OUTPOINT, confirmed, entry_of, txid_of
from tests.store.plain_dialect import POLICIES, payload_of
from tests.store.rows import NOW, claim, regtest_address

ADDRESS = regtest_address(0)
COIN = Outpoint(txid_of(900), 6)
ENTRIES = (
    entry_of(1, received_sat=70, spends=[COIN]),
    entry_of(2, received_sat=80, state=confirmed(900), spends=[Outpoint(txid_of(901), 0)]),
    entry_of(3, received_sat=90, state=Replaced(txid_of(1)), spends=[COIN]),
    entry_of(4, received_sat=50, state=confirmed(800, position=0), is_coinbase=True, spends=[NULL_OUTPOINT]),
)
STATE_NAMES = {1: "unconfirmed", 2: "confirmed", 3: "replaced", 4: "confirmed"}
SERVER = ServerState(
    name="a.example:50002:s",
    verdict="connected",
    software="ElectrumX 1.16",
    protocol="1.4",
    tip_height=900,
    latency_ms=41.5,
)


def ledger_row(number: int, entry: LedgerEntry) -> dict[str, Any]:
    """Return a payment's row as the first version wrote it."""
    return {
        "scripthash": ADDRESS.scripthash,
        "txid": entry.txid,
        "state": STATE_NAMES[number],
        "height": getattr(entry.state, "height", None),
        "block_hash": getattr(entry.state, "block_hash", None),
        "position": getattr(entry.state, "position", None),
        "replaced_by": getattr(entry.state, "by_txid", None),
        "outputs": (0).to_bytes(4, "little") + entry.received_sat.to_bytes(8, "little"),
        "spends": entry.spends[0].txid + entry.spends[0].index.to_bytes(4, "little"),
        "sent_sat": entry.sent_sat,
        "is_coinbase": int(entry.is_coinbase),
        "signals_rbf": int(entry.signals_rbf),
        "seen_at": entry.seen_at,
    }


# Every table of the first version, its columns, and what it wrote into them; parents before children.
FIRST_ROWS: dict[str, list[dict[str, Any]]] = {
    "setting": [{"name": "network", "value": "regtest"}],
    "api_key": [{"key_id": 3, "name": "shop", "secret_hash": b"\x01" * 32, "created_at": NOW, "revoked_at": None}],
    "header": [{"height": 900, "block_hash": b"\x02" * 32, "raw": b"\x03" * 80}],
    "proved_period": [{"period": 2, "raw_headers": b"\x04" * 160}],
    "script": [
        {
            "scripthash": ADDRESS.scripthash,
            "script": ADDRESS.script,
            "address": ADDRESS.text,
            "known_status": b"\x05" * 32,
            "absorbed_at": NOW,
            "wanted_until": None,
            "trouble": "",
        }
    ],
    "watch_change": [{"change_id": 7, "scripthash": ADDRESS.scripthash, "kind": "asked"}],
    "ledger_entry": [ledger_row(number, entry) for number, entry in enumerate(ENTRIES, 1)],
    "subscription": [
        {
            "subscription_id": 11,
            "dialect": "plain",
            "owner": "shop",
            "scripthash": ADDRESS.scripthash,
            "address": ADDRESS.text,
            "url": "http://shop.example/",
            "host": "shop.example:80",
            "terms": b"1",
            "state": "active",
            "created_at": NOW,
            "wake_height": 905,
        }
    ],
    "message": [
        {
            "message_key": 5,
            "message_id": "m-5",
            "subscription_id": 11,
            "host": "shop.example:80",
            "payload": payload_of(130, 70),
            "heard_payload": b"0+0",
            "is_heard_in_doubt": 1,
            "tries": 2,
            "due_at": NOW + 0.5,
            "is_in_flight": 0,
            "is_held": 0,
            "created_at": NOW,
        }
    ],
    "attempt": [
        {
            "attempt_id": 9,
            "message_key": 5,
            "payload": payload_of(130, 70),
            "method": "POST",
            "url": "http://shop.example/",
            "headers": "{}",
            "body": payload_of(130, 70),
            "started_at": NOW + 0.25,
            "outcome": "failed",
            "status": 500,
            "trouble": "",
            "latency_ms": 12.5,
            "answer_head": b"no",
        }
    ],
    "server": [
        {
            "name": SERVER.name,
            "verdict": SERVER.verdict,
            "reason": SERVER.reason,
            "software": SERVER.software,
            "protocol": SERVER.protocol,
            "tip_height": SERVER.tip_height,
            "latency_ms": SERVER.latency_ms,
            "updated_at": NOW,
            "is_remembered": 1,
        }
    ],
}


def write_first_version(connection: sqlite3.Connection) -> Database:
    """Make what the first version left: its schema alone, and rows in every table."""
    db = Database(connection, execute_plugins=False)
    migrations.apply(db, stop_before="several_servers")
    for table, rows in FIRST_ROWS.items():
        for row in rows:
            columns, marks = ", ".join(row), ", ".join("?" * len(row))
            db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", list(row.values()))
    return db


@pytest.fixture
def old() -> Iterator[Database]:
    """Open a database in memory as the first version left it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield write_first_version(connection)


@contextmanager
def in_the_way(db: Database, statement: str) -> Iterator[None]:
    """Make something that the upgrade stumbles over, and take it away again."""
    db.execute(f"CREATE {statement}")
    yield
    kind, name = statement.split()[:2]
    db.execute(f"DROP {kind} {name}")


def tables_of(db: Database) -> set[str]:
    """Return the names of our tables."""
    return {name for name in db.table_names() if not name.startswith(("sqlite_", "_sqlite_"))}


def rows_in(db: Database, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table, with the columns that the first version had."""
    columns = list(FIRST_ROWS[table][0])
    found = db.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2").fetchall()
    return [dict(zip(columns, row, strict=True)) for row in found]


def first_rows_of(table: str) -> list[dict[str, Any]]:
    """Return the same of what was written."""
    return sorted(FIRST_ROWS[table], key=lambda row: list(row.values())[:2])


def test_first_version_has_nothing_of_the_second(old: Database) -> None:
    """The database that these tests begin with is the old one: old tables, all of them filled, and old columns."""
    assert tables_of(old) == set(FIRST_ROWS)
    for table in FIRST_ROWS:
        assert set(old.table(table).columns_dict) == set(FIRST_ROWS[table][0])
        assert rows_in(old, table) == first_rows_of(table)
    assert [migration.name for migration in migrations.pending(old)] == ["several_servers"]
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

    def schema_of(one: Database) -> set[tuple[str, str, str]]:
        return set(one.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema").fetchall())

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
    assert [migration.name for migration in migrations.pending(old)] == ["several_servers"]
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
