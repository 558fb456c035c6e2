"""A database of the fifth version, which forwarded nothing, becomes one of today, and loses nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest

from lightipn.store import forwards, transfers
from lightipn.store.database import Database
from lightipn.store.forwards import ForwardTerms
from lightipn.store.migrations import MIGRATION_NAMES, migrations
from tests.store.account_rows import open_account
from tests.store.old_versions import (
    ADDED_BY,
    VERSIONS,
    in_the_way,
    rows_before,
    schema_of,
    tables_of,
    write_second_version,
)
from tests.store.rows import NOW, TIP, regtest_address

OLD = VERSIONS.index("forwarding")  # how many of the versions it has beside the first one
everything_in = partial(rows_before, version="forwarding")


@pytest.fixture
def old() -> Iterator[Database]:
    """Open a database in memory as the fifth version left it, with an account in it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        fifth = write_second_version(connection)
        migrations.apply(fifth, stop_before="forwarding")
        open_account(fifth)
        yield fifth


def test_upgrade_adds_empty_tables_and_keeps_every_row(old: Database, db: Database) -> None:
    """After the upgrade all is as it was, beside the new tables, and the schema is that of a new database."""
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS[OLD:]
    tables, before = tables_of(old), everything_in(old)
    migrations.apply(old)
    assert {migration.name for migration in migrations.applied(old)} == MIGRATION_NAMES
    assert everything_in(old) == before
    assert tables_of(old) == tables.union(*(ADDED_BY[version] for version in VERSIONS[OLD:]))
    assert all(old.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,) for table in ADDED_BY["forwarding"])
    assert schema_of(old) == schema_of(db)
    assert old.execute("PRAGMA foreign_key_check").fetchall() == []


def test_upgraded_database_forwards(old: Database) -> None:
    """The upgraded file belongs to no seed yet, and takes the first forward."""
    migrations.apply(old)
    assert forwards.is_bound_to(old, b"\x01" * 32) is None
    assert forwards.bind_seed(old, b"\x01" * 32)
    made = forwards.add_forward(
        old, owner="shop", index=0, address=regtest_address(0), terms=ForwardTerms(destination="d"), now=NOW
    )
    assert forwards.load_forwards(old, owner="shop", is_active_only=True, limit=9) == [made]
    assert transfers.load_open_transfers(old) == []
    assert forwards.load_ready(old, TIP, limit=9) == []


@pytest.mark.parametrize("obstacle", ["TABLE forward (a)", "INDEX transfer_open ON script (address)"])
def test_upgrade_that_fails_leaves_the_fifth_version(old: Database, obstacle: str) -> None:
    """An upgrade that cannot finish is undone whole, and can be done later."""
    schema, rows = schema_of(old), everything_in(old)
    with in_the_way(old, obstacle):
        with pytest.raises(sqlite3.OperationalError):
            migrations.apply(old)
    assert (schema_of(old), everything_in(old)) == (schema, rows)
    migrations.apply(old)
    assert everything_in(old) == rows
