"""A database of the sixth version, which knew no node of one's own, becomes one of today, and loses nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from lightipn.chain.history import UNKNOWN
from lightipn.store import chain, forwards, ledger, node_blocks, node_findings, node_scripts
from lightipn.store.database import Database, open_store
from lightipn.store.forwards import ForwardTerms
from lightipn.store.migrations import MIGRATION_NAMES, migrations
from lightipn.store.node_scripts import NodeScript
from tests.builders import block_hash_of
from tests.store.account_rows import open_account
from tests.store.old_versions import (
    ADDED_BY,
    ADDRESS,
    ENTRIES,
    VERSIONS,
    in_the_way,
    rows_before,
    schema_of,
    tables_of,
    write_second_version,
)
from tests.store.rows import NOW, regtest_address

OLD = VERSIONS.index("bitcoind")  # how many of the versions it has beside the first one
everything_in = partial(rows_before, version="bitcoind")


def write_sixth_version(connection: sqlite3.Connection) -> Database:
    """Make what the sixth version left, with an account and a forward in it."""
    db = write_second_version(connection)
    migrations.apply(db, stop_before="bitcoind")
    open_account(db)
    assert forwards.bind_seed(db, b"\x01" * 32)
    forwards.add_forward(
        db, owner="shop", index=0, address=regtest_address(7), terms=ForwardTerms(destination="d"), now=NOW
    )
    return db


@pytest.fixture
def old() -> Iterator[Database]:
    """Open a database in memory as the sixth version left it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield write_sixth_version(connection)


def test_sixth_version_has_nothing_of_the_seventh(old: Database) -> None:
    """The database that these tests begin with is the old one: old tables, old columns, and rows in them."""
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS[OLD:]
    assert not tables_of(old) & ADDED_BY["bitcoind"]
    assert not {"history_from", "unproved_sat"} & set(old.table("script").columns_dict)
    counts = {table: len(rows) for table, rows in everything_in(old).items()}
    assert (counts["ledger_entry"], counts["forward"], counts["account"]) == (4, 1, 1)


def test_upgrade_keeps_every_row(old: Database, db: Database) -> None:
    """Each table holds what it held, the new ones are empty, every history is whole, and the file is like a new one."""
    tables, before = tables_of(old), everything_in(old)
    migrations.apply(old)
    assert {migration.name for migration in migrations.applied(old)} == MIGRATION_NAMES
    assert everything_in(old) == before
    assert tables_of(old) == tables.union(*(ADDED_BY[version] for version in VERSIONS[OLD:]))
    for table in ADDED_BY["bitcoind"]:
        assert old.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert old.execute("SELECT DISTINCT history_from, unproved_sat FROM script").fetchall() == [(None, 0)]
    assert schema_of(old) == schema_of(db)
    assert old.execute("PRAGMA foreign_key_check").fetchall() == []
    assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_upgraded_database_stays_with_its_servers(old: Database) -> None:
    """Whoever goes on with Electrum servers has nothing asked again."""
    migrations.apply(old)
    watches = ledger.load_watches(old)
    node_blocks.clear(old)
    assert ledger.load_watches(old) == watches
    assert UNKNOWN not in dict(watches).values()


def test_node_takes_over_what_the_old_version_had_proved(old: Database) -> None:
    """A node that is followed after the upgrade begins below the old tip, with the payments that were proved there.

    For that the upgraded version must have run with the old servers first, and say how far these had told all.
    """
    migrations.apply(old)  # its tip is at 900
    chain.save_followed_height(old, 900)
    height = node_blocks.first_position(old, node_height=950, lowest=0)
    assert height == 800
    node_blocks.begin(old, height, [block_hash_of(height)])
    (taken_over,) = node_scripts.register(old, [ADDRESS.scripthash], height=height)
    assert taken_over == NodeScript(scripthash=ADDRESS.scripthash, script=ADDRESS.script, is_past_known=True)
    assert node_findings.load_histories(old, [ADDRESS.scripthash]) == {ADDRESS.scripthash: [(800, 0, ENTRIES[3].txid)]}


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param("TABLE node_block (a)", id="at the beginning"),
        pytest.param("TABLE node_output (a)", id="in the middle"),
        pytest.param("INDEX script_history_from ON script (address)", id="at the end"),
    ],
)
def test_upgrade_that_fails_leaves_the_sixth_version(old: Database, obstacle: str) -> None:
    """An upgrade that cannot finish is undone whole, the new columns too; it can be done later."""
    schema, rows = schema_of(old), everything_in(old)
    with in_the_way(old, obstacle):
        with pytest.raises(sqlite3.OperationalError):
            migrations.apply(old)
    assert (schema_of(old), everything_in(old)) == (schema, rows)
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS[OLD:]
    migrations.apply(old)
    assert everything_in(old) == rows


@pytest.mark.parametrize("threaded", [True, False], ids=["thread", "inline"])
async def test_file_of_the_sixth_version_is_upgraded_when_it_is_opened(tmp_path: Path, threaded: bool) -> None:
    """Opening is all it takes, with foreign keys enforced as the service does; the second opening is plain."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        before = everything_in(write_sixth_version(connection))
    for _ in range(2):
        async with open_store(path, "regtest", threaded=threaded) as store:
            assert await store.read(everything_in) == before
            assert await store.read(node_blocks.load_position) is None
