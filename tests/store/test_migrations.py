"""The schema and how it comes about."""

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio

from lightipn.store.database import Database, open_store
from lightipn.store.migrations import MIGRATION_NAMES, migrations
from tests.store.rows import open_memory

TABLES = {
    "setting",
    "api_key",
    "header",
    "proved_period",
    "script",
    "watch_change",
    "ledger_entry",
    "subscription",
    "message",
    "attempt",
    "server",
    "event",
    "event_owner",
    "evidence",
    "spent_output",
    "trust_change",
    "past_payment",
    "address_chain",
    "issued_address",
    "payment_transaction",
    "wallet",
    "wallet_address",
    "hook",
    "account",
    "account_address",
    "deposit",
    "movement",
    "forward",
    "transfer",
    "transfer_coin",
    "transfer_version",
    "sweep_wish",
    "node_block",
    "node_script",
    "node_transaction",
    "node_entry",
    "node_output",
}


def test_all_tables_are_strict(db: Database) -> None:
    """Every table refuses values of the wrong type; only the migrations' own record is the library's."""
    tables = {row[1]: bool(row[5]) for row in db.execute("PRAGMA table_list").fetchall() if row[0] == "main"}
    ours = {name: is_strict for name, is_strict in tables.items() if not name.startswith(("sqlite_", "_sqlite_"))}
    assert ours == dict.fromkeys(TABLES, True)


def test_wrong_type_is_refused(db: Database) -> None:
    """A text does not enter a column of numbers."""
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO header (height, block_hash, raw) VALUES ('ten', x'00', x'00')")


def test_every_migration_is_known_by_name() -> None:
    """The list by which newer files are told is the list of migrations itself."""
    with open_memory() as db:
        assert {migration.name for migration in migrations.applied(db)} == MIGRATION_NAMES
        assert migrations.pending(db) == []


def schema_of(path: Path) -> list[tuple[str, str]]:
    """Return names and texts of everything in the schema."""
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_schema").fetchall())


async def test_opening_twice_is_a_no_op(tmp_path: Path) -> None:
    """The second opening changes neither the schema nor a single byte that was committed."""
    path = tmp_path / "shop.db"
    async with open_store(path, "regtest"):
        pass
    schema, raw = schema_of(path), path.read_bytes()
    async with open_store(path, "regtest"):
        pass
    assert (schema_of(path), path.read_bytes()) == (schema, raw)


def test_migrations_applied_twice_change_nothing(db: Database) -> None:
    """Applying what was applied does nothing, and keeps the rows."""
    db.execute("INSERT INTO setting (name, value) VALUES ('a', 'b')")
    migrations.apply(db)
    assert db.execute("SELECT value FROM setting WHERE name = 'a'").fetchone() == ("b",)


def test_failing_migration_leaves_nothing() -> None:
    """A migration that cannot finish is undone whole, and is still to be done."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with closing(connection):
        db = Database(connection, execute_plugins=False)
        db.execute("CREATE TABLE server (in_the_way INTEGER)")  # the last table of the first schema
        with pytest.raises(sqlite3.OperationalError):
            migrations.apply(db)
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()}
        assert not names & (TABLES - {"server"})
        assert {migration.name for migration in migrations.pending(db)} == MIGRATION_NAMES


@pytest.mark.slow
async def test_several_programs_may_make_the_file_at_once(tmp_path: Path) -> None:
    """The service and commands that start together on a fresh path all find the finished schema."""

    def open_and_close(path: Path) -> None:
        async def run() -> None:
            async with open_store(path, "regtest", threaded=False):
                pass

        trio.run(run)

    for number in range(10):
        path = tmp_path / f"{number}.db"
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, partial(open_and_close, path))
        assert {name for name, _ in schema_of(path)} >= TABLES
