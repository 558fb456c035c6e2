"""A database of the fourth version, which knew no accounts, becomes one of today, and loses nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from lightipn.store import hooks, ledger
from lightipn.store.database import Database, open_store
from lightipn.store.migrations import MIGRATION_NAMES, migrations
from tests.store.account_rows import flaws_in, kinds_in, open_account, sums_in
from tests.store.old_versions import (
    ADDED_BY,
    ADDRESS,
    ENTRIES,
    URL,
    VERSIONS,
    in_the_way,
    rows_before,
    schema_of,
    tables_of,
    write_second_version,
)
from tests.store.rows import NOW

OLD = VERSIONS.index("accounts")  # how many of the versions it has beside the first one
everything_in = partial(rows_before, version="accounts")


def write_fourth_version(connection: sqlite3.Connection) -> Database:
    """Make what the fourth version left, with a hook in it."""
    db = write_second_version(connection)
    migrations.apply(db, stop_before="accounts")
    hooks.add_hook(
        db, owner="shop", address=ADDRESS.text, wallet_id=None, url=URL, terms=b"{}", private_key="k", now=NOW
    )
    return db


@pytest.fixture
def old() -> Iterator[Database]:
    """Open a database in memory as the fourth version left it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield write_fourth_version(connection)


def test_fourth_version_has_nothing_of_the_fifth(old: Database) -> None:
    """The database that these tests begin with is the old one, with rows in it."""
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS[OLD:]
    assert not tables_of(old) & ADDED_BY["accounts"]
    counts = {table: len(rows) for table, rows in everything_in(old).items()}
    assert (counts["ledger_entry"], counts["subscription"], counts["hook"]) == (4, 4, 1)


def test_upgrade_keeps_every_row(old: Database, db: Database) -> None:
    """Each table holds what it held, the new ones are empty, and the file is like a new one and sound."""
    tables, before = tables_of(old), everything_in(old)
    migrations.apply(old)
    assert {migration.name for migration in migrations.applied(old)} == MIGRATION_NAMES
    assert everything_in(old) == before
    assert tables_of(old) == tables.union(*(ADDED_BY[version] for version in VERSIONS[OLD:]))
    for table in ADDED_BY["accounts"]:
        assert old.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert schema_of(old) == schema_of(db)
    assert old.execute("PRAGMA foreign_key_check").fetchall() == []
    assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_old_payments_belong_to_a_new_account(old: Database) -> None:
    """An account over an old address has what it was paid: what is deep enough, and nothing that was replaced."""
    migrations.apply(old)  # its tip is at 900; of 80 sat and of 50 sat that were mined, both confirmed
    open_account(old, 0, depth=1)
    assert (sums_in(old), flaws_in(old)) == ((130, 0), [])
    assert sorted(kinds_in(old)) == ["RELEASE", "RELEASE", "RESERVE", "RESERVE"]


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param("TABLE account (a)", id="at the beginning"),
        pytest.param("TABLE deposit (a)", id="in the middle"),
        pytest.param("INDEX movement_account ON subscription (url)", id="at the end"),
    ],
)
def test_upgrade_that_fails_leaves_the_fourth_version(old: Database, obstacle: str) -> None:
    """An upgrade that cannot finish is undone whole, and can be done later."""
    schema, rows = schema_of(old), everything_in(old)
    with in_the_way(old, obstacle):
        with pytest.raises(sqlite3.OperationalError):
            migrations.apply(old)
    assert (schema_of(old), everything_in(old)) == (schema, rows)
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS[OLD:]
    migrations.apply(old)
    assert everything_in(old) == rows


@pytest.mark.parametrize("threaded", [True, False], ids=["thread", "inline"])
async def test_file_of_the_fourth_version_is_upgraded_when_it_is_opened(tmp_path: Path, threaded: bool) -> None:
    """Opening is all it takes, with foreign keys enforced as the service does; the second opening is plain."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        before = everything_in(write_fourth_version(connection))
    for _ in range(2):
        async with open_store(path, "regtest", threaded=threaded) as store:
            assert await store.read(everything_in) == before
            payments = await store.read(lambda db: ledger.load_payments(db, ADDRESS.scripthash))
            assert payments is not None
            assert payments.entries == {entry.txid: entry for entry in ENTRIES}
