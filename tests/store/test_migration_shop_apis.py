"""A database of the second version, which had one message a subscription, becomes one of today, and loses nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lightipn.outbox.messages import Message, MessageState
from lightipn.outbox.subscriptions import Subscription, SubscriptionState
from lightipn.store import deliveries, keys, ledger, outbox, subscriptions
from lightipn.store.attempts import recover_interrupted
from lightipn.store.database import Database, open_store
from lightipn.store.migrations import MIGRATION_NAMES, migrations
from tests.builders import entry_of
from tests.store.old_versions import (
    ADDED_BY,
    ADDRESS,
    ENTRIES,
    FIRST_ROWS,
    SECOND_KEPT,
    URL,
    VERSIONS,
    columns_in,
    in_the_way,
    schema_of,
    tables_of,
    write_second_version,
)
from tests.store.plain_dialect import NOTHING, payload_of
from tests.store.rows import NOW, claim, finish, pay, subscribe, subscribe_to_each
from tests.store.tips import grow, wake


@pytest.fixture
def old() -> Iterator[Database]:
    """Open a database in memory as the second version left it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield write_second_version(connection)


def rows_in(db: Database, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table, with the columns that the second version had."""
    columns = list(FIRST_ROWS[table][0])
    found = db.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1").fetchall()
    return [dict(zip(columns, row, strict=True)) for row in found]


def test_second_version_has_nothing_of_the_third(old: Database) -> None:
    """The database that these tests begin with is the old one: old columns, and rows that only it could hold."""
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS[1:]
    for table, rows in SECOND_KEPT.items():
        assert set(old.table(table).columns_dict) == set(rows[0])
        assert rows_in(old, table) == rows
    with pytest.raises(sqlite3.IntegrityError):
        old.execute("UPDATE subscription SET state = 'canceled'")
    with pytest.raises(sqlite3.IntegrityError):
        old.execute("UPDATE subscription SET scripthash = NULL")


def test_upgrade_keeps_every_row_with_its_id(old: Database) -> None:
    """Nothing cascades away when the tables are rebuilt: subscriptions, messages and attempts are what they were."""
    others = {table: list(old.table(table).columns_dict) for table in tables_of(old) - set(SECOND_KEPT)}
    before = {table: columns_in(old, table, columns) for table, columns in others.items()}
    migrations.apply(old)
    assert {migration.name for migration in migrations.applied(old)} == MIGRATION_NAMES
    for table, rows in SECOND_KEPT.items():
        assert rows_in(old, table) == rows
    assert {table: columns_in(old, table, columns) for table, columns in others.items()} == before
    assert tables_of(old) == set(others).union(SECOND_KEPT, *(ADDED_BY[version] for version in VERSIONS[1:]))
    assert old.execute("PRAGMA foreign_key_check").fetchall() == []
    assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_upgraded_database_is_like_a_new_one(old: Database, db: Database) -> None:
    """Tables, indexes and triggers are the same whether the file was made by this version or by the second."""
    migrations.apply(old)
    assert schema_of(old) == schema_of(db)


def test_ids_are_never_given_twice(old: Database) -> None:
    """The counters go on where they were: an id of a removed row is not given to a new one."""
    migrations.apply(old)
    made = subscribe(old, 0, url="http://new.example/")
    assert made.subscription_id == 100
    pay(old, 0, entry_of(50))
    new = {row["subscription_id"]: row["message_key"] for row in rows_in(old, "message")}
    assert new[100] == 78
    claims, _ = claim(old, now=NOW + 100)
    assert min(taken.attempt_id for taken in claims) == 89


def test_ids_begin_at_one_in_a_file_that_had_no_rows() -> None:
    """A file that nothing was ever written to is upgraded like any other."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        db = Database(connection, execute_plugins=False)
        migrations.apply(db, stop_before="shop_apis")
        migrations.apply(db)
        assert subscribe(db, 0).subscription_id == 1
        pay(db, 0, entry_of(1))
        assert [taken.attempt_id for taken in claim(db)[0]] == [1]


def test_upgraded_subscription_keeps_its_meaning(old: Database) -> None:
    """It is as live as it was, has no end, follows its script, and is about all that its address ever got."""
    migrations.apply(old)
    assert subscriptions.load_subscription(old, 11) == Subscription(
        subscription_id=11,
        dialect="plain",
        owner="shop",
        scripthash=ADDRESS.scripthash,
        address=ADDRESS.text,
        url=URL,
        terms=b"1",
        state=SubscriptionState.ACTIVE,
        created_at=NOW,
        expires_at=None,
        ended_at=None,
        since_height=0,
    )
    found = subscriptions.load_subscriptions_of(old, ADDRESS.scripthash)
    assert [subscription.subscription_id for subscription in found] == [11, 12, 13, 14]
    assert subscriptions.count_subscriptions(old) == 4
    woken = subscriptions.load_woken(old, 905, limit=9)
    assert [subscription.subscription_id for subscription in woken] == [11, 13, 14]
    assert subscriptions.load_unsettled(old, limit=9) == []


def test_upgraded_messages_keep_their_meaning(old: Database) -> None:
    """What waited is open, what had been heard is acknowledged; tries made before count as failures."""
    migrations.apply(old)
    expected = {
        "m-5": (MessageState.OPEN, 2, NOW + 0.5),
        "m-6": (MessageState.ACKNOWLEDGED, 0, None),
        "m-7": (MessageState.OPEN, 0, NOW + 0.5),
        "m-8": (MessageState.OPEN, 3, NOW - 5.0),
    }
    for number, (message_id, (state, tries, due_at)) in enumerate(expected.items(), 11):
        found = outbox.load_message(old, number, "")
        assert found is not None
        heard = payload_of(130, 70) if state is MessageState.ACKNOWLEDGED else NOTHING
        assert found[1] == Message(
            message_id=message_id,
            topic="",
            txid=None,
            state=state,
            payload=payload_of(130, 70),
            heard_payload=heard,
            is_heard_in_doubt=state is MessageState.OPEN,
            tries=tries,
            failures=tries,
            tips=0,
            told_tip=0,
            due_at=due_at,
            due_tip=None,
            acknowledged_at=None,
            created_at=NOW,
        )
    states = {delivery.message_id: delivery.state for delivery in deliveries.load_deliveries(old, limit=9)}
    assert states == {"m-5": "due", "m-6": "acknowledged", "m-7": "held", "m-8": "in-flight"}


def test_upgraded_messages_are_delivered(old: Database) -> None:
    """After the upgrade what was under way is recovered, what is due is told under its old id, and what is heard ends.

    A held message waits for its owner's key, as before.
    """
    migrations.apply(old)
    assert recover_interrupted(old) == 1
    claims, _ = claim(old, now=NOW + 1)
    assert [taken.request.headers["X-Message"] for taken in claims] == ["m-8", "m-5"]
    for taken in claims:
        finish(old, taken, body=taken.sent_payload, now=NOW + 2)
    assert claim(old, now=NOW + 10_000) == ([], None)
    keys.save_key(old, name="other", secret="new", now=NOW)
    (held,), _ = claim(old, now=NOW + 10_000)
    assert held.request.headers["X-Message"] == "m-7"


def test_upgraded_message_takes_newer_totals(old: Database) -> None:
    """A payment after the upgrade changes the one message that there was, heard or not, and makes no second one."""
    migrations.apply(old)
    pay(old, 0, entry_of(60, received_sat=5), tip_height=900)
    assert [row["message_key"] for row in rows_in(old, "message")] == [5, 6, 7, 8]
    assert {row["payload"] for row in rows_in(old, "message")} == {payload_of(130, 75)}


def test_upgraded_attempts_are_shown(old: Database) -> None:
    """The operator sees every attempt that was made before the upgrade."""
    migrations.apply(old)
    shown = {key: [attempt.outcome for attempt in deliveries.load_attempts(old, key)] for key in (5, 6, 7, 8)}
    assert shown == {5: ["failed", "failed"], 6: ["acknowledged"], 7: [], 8: ["in-flight"]}
    assert [found.messages for found in deliveries.load_failing_hosts(old, limit=9)] == [2]


def test_removing_still_cascades_after_the_upgrade(old: Database) -> None:
    """Messages and attempts go with their subscription, as they did before, and no others."""
    migrations.apply(old)
    assert subscriptions.remove_subscriptions(old, ADDRESS.scripthash, url=URL) == 1
    assert [row["message_key"] for row in rows_in(old, "message")] == [6, 7, 8]
    assert [row["attempt_id"] for row in rows_in(old, "attempt")] == [10, 11]


def test_upgraded_database_takes_what_the_old_one_could_not(old: Database) -> None:
    """Several messages a subscription, blocks, and ends find their place beside the old rows."""
    migrations.apply(old)
    subscribe_to_each(old, 1, since_height=0)
    pay(old, 1, entry_of(60), entry_of(61))
    assert len(outbox.load_messages(old, 100)) == 2
    blocks = subscriptions.save_block_subscription(
        old,
        dialect="each",
        owner="shop",
        url=URL,
        terms=b'{"depth": 1, "is_once": true}',
        now=NOW,
        first_height=901,
        depth_blocks=1,
    )
    grow(old)
    assert wake(old)
    ended = subscriptions.load_subscription(old, blocks.subscription_id)
    assert ended is not None
    assert ended.state is SubscriptionState.ACTIVE
    assert len(outbox.load_messages(old, blocks.subscription_id)) == 1


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param("TABLE new_message (a)", id="before the messages are moved"),
        pytest.param("TABLE new_attempt (a)", id="before the attempts are moved"),
        pytest.param("TABLE issued_address (a)", id="at the end"),
    ],
)
def test_upgrade_that_fails_leaves_the_second_version(old: Database, obstacle: str) -> None:
    """An upgrade that cannot finish is undone whole: tables, rows and counters; it can be done later."""
    before = schema_of(old)
    with in_the_way(old, obstacle):
        with pytest.raises(sqlite3.OperationalError):
            migrations.apply(old)
    assert schema_of(old) == before
    for table, rows in SECOND_KEPT.items():
        assert rows_in(old, table) == rows
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS[1:]
    migrations.apply(old)
    for table, rows in SECOND_KEPT.items():
        assert rows_in(old, table) == rows
    assert subscribe(old, 0, url="http://new.example/").subscription_id == 100


@pytest.mark.parametrize("threaded", [True, False], ids=["thread", "inline"])
async def test_file_of_the_second_version_is_upgraded_when_it_is_opened(tmp_path: Path, threaded: bool) -> None:
    """Opening is all it takes, with foreign keys enforced as the service does; the second opening is plain."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        write_second_version(connection)
    for _ in range(2):
        async with open_store(path, "regtest", threaded=threaded) as store:
            for table, rows in SECOND_KEPT.items():
                assert await store.read(lambda db, name=table: rows_in(db, name)) == rows  # type: ignore[misc]
            payments = await store.read(lambda db: ledger.load_payments(db, ADDRESS.scripthash))
            assert payments is not None
            assert payments.entries == {entry.txid: entry for entry in ENTRIES}
