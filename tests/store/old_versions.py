"""Databases as older versions left them: schema and rows, for the tests of what an upgrade makes of them."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.source import ServerState
from lightipn.ledger.entries import LedgerEntry, Replaced
from lightipn.store.database import Database
from lightipn.store.migrations import migrations
from tests.builders import NULL_OUTPOINT, confirmed, entry_of, txid_of
from tests.store.plain_dialect import payload_of
from tests.store.rows import NOW, regtest_address

# Every version that a file may have, in order, and the tables that each added; one that is newer adds a line.
ADDED_BY: dict[str, set[str]] = {
    "several_servers": {"event", "event_owner", "evidence", "spent_output", "trust_change"},
    "shop_apis": {"past_payment", "address_chain", "issued_address"},
    "webhooks": {"payment_transaction", "wallet", "wallet_address", "hook"},
    "accounts": {"account", "account_address", "deposit", "movement"},
    "forwarding": {"forward", "transfer", "transfer_coin", "transfer_version", "sweep_wish"},
    "bitcoind": {"node_block", "node_script", "node_transaction", "node_entry", "node_output"},
}
VERSIONS = list(ADDED_BY)
ADDRESS = regtest_address(0)
URL = "http://shop.example/"
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
            insert(db, table, row)
    return db


def subscription_row(number: int, **values: Any) -> dict[str, Any]:
    """Return a subscription's row as the second version wrote it."""
    return FIRST_ROWS["subscription"][0] | {"subscription_id": number, "url": f"{URL}{number}"} | values


def message_row(number: int, subscription_id: int, **values: Any) -> dict[str, Any]:
    """Return a message's row as the second version wrote it."""
    own = {"message_key": number, "message_id": f"m-{number}", "subscription_id": subscription_id}
    return FIRST_ROWS["message"][0] | own | values


def attempt_row(number: int, message_key: int, **values: Any) -> dict[str, Any]:
    """Return an attempt's row as the second version wrote it."""
    return FIRST_ROWS["attempt"][0] | {"attempt_id": number, "message_key": message_key} | values


# Beside the first version's rows; the highest id of each table is removed again before the upgrade.
SECOND_ROWS: dict[str, list[dict[str, Any]]] = {
    "subscription": [
        subscription_row(12, wake_height=None),
        subscription_row(13, owner="other", state="suspended"),
        subscription_row(14),
        subscription_row(99),
    ],
    "message": [
        message_row(6, 12, heard_payload=payload_of(130, 70), is_heard_in_doubt=0, tries=0, due_at=None),
        message_row(7, 13, is_held=1, tries=0),
        message_row(8, 14, is_in_flight=1, tries=3, due_at=NOW - 5),
        message_row(77, 99),
    ],
    "attempt": [
        attempt_row(10, 6, outcome="acknowledged", status=200),
        attempt_row(11, 8, outcome=None, status=None, latency_ms=None),
        attempt_row(12, 5),
        attempt_row(88, 77),
    ],
}
SECOND_KEPT = {table: FIRST_ROWS[table] + rows[:-1] for table, rows in SECOND_ROWS.items()}


def write_second_version(connection: sqlite3.Connection) -> Database:
    """Make what the second version left, with rows in every table that the third one rebuilds."""
    db = write_first_version(connection)
    migrations.apply(db, stop_before="shop_apis")
    for table, rows in SECOND_ROWS.items():
        for row in rows:
            insert(db, table, row)
    db.execute("DELETE FROM subscription WHERE subscription_id = 99")
    return db


def insert(db: Database, table: str, row: dict[str, Any]) -> None:
    """Write a row, with its column names."""
    columns, marks = ", ".join(row), ", ".join("?" * len(row))
    db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", list(row.values()))


def schema_of(db: Database) -> set[tuple[str, str, str]]:
    """Return tables, indexes and triggers, with their texts."""
    return set(db.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema").fetchall())


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


def columns_in(db: Database, table: str, columns: Sequence[str]) -> list[tuple[object, ...]]:
    """Return the rows of a table, with some of their columns."""
    return sorted(db.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall(), key=repr)


def rows_before(db: Database, *, version: str) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of every table that a database had before a version, with the columns that they had."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        old = Database(connection, execute_plugins=False)
        migrations.apply(old, stop_before=version)
        columns = {table: list(old.table(table).columns_dict) for table in tables_of(old)}
    return {table: columns_in(db, table, names) for table, names in columns.items()}


def first_rows_of(table: str) -> list[dict[str, Any]]:
    """Return the same of what was written."""
    return sorted(FIRST_ROWS[table], key=lambda row: list(row.values())[:2])
