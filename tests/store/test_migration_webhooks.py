"""A database of the third version, which knew no hooks and no wallets, becomes one of today, and loses nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.ledger.entries import Dropped, LedgerEntry, Standing
from lightipn.outbox.messages import Message, MessageState
from lightipn.outbox.subscriptions import Subscription, SubscriptionState
from lightipn.store import callbacks, hooks, ledger, outbox, subscriptions, supplies, transactions, wallets
from lightipn.store.database import Database, open_store
from lightipn.store.migrations import MIGRATION_NAMES, migrations
from lightipn.store.transactions import Background
from tests.builders import entry_of, payment, txid_of
from tests.store.each_dialect import HEARD, terms_of
from tests.store.old_versions import (
    ADDED_BY,
    ADDRESS,
    ENTRIES,
    URL,
    VERSIONS,
    in_the_way,
    insert,
    rows_before,
    schema_of,
    tables_of,
    write_second_version,
)
from tests.store.rows import NOW, claim, finish, pay, regtest_address, subscribe
from tests.store.tips import grow, wake

SHOP_URL = f"{URL}each"
everything_in = partial(rows_before, version="webhooks")
NEWEST = entry_of(7, received_sat=60)
DROPPED = entry_of(8, received_sat=20, state=Dropped())


def subscription_row(number: int, **values: Any) -> dict[str, Any]:
    """Return a subscription's row as the third version wrote it."""
    usual = {
        "subscription_id": number,
        "dialect": "each",
        "owner": "shop",
        "scripthash": ADDRESS.scripthash,
        "address": ADDRESS.text,
        "url": SHOP_URL,
        "host": "shop.example:80",
        "terms": terms_of(depth=0),
        "state": "active",
        "created_at": NOW,
        "since_height": 900,
        "is_watching": 1,
    }
    return usual | values


def message_row(number: int, **values: Any) -> dict[str, Any]:
    """Return a message's row as the third version wrote it."""
    usual = {
        "message_key": number,
        "message_id": f"m-{number}",
        "subscription_id": 101,
        "topic": f"topic {number}",
        "txid": txid_of(number),
        "state": "open",
        "host": "shop.example:80",
        "payload": b"60",
        "heard_payload": b"",
        "is_heard_in_doubt": 0,
        "tries": 0,
        "failures": 0,
        "tips": 0,
        "told_tip": 0,
        "told_height": None,
        "due_at": None,
        "due_tip": None,
        "is_settling": 0,
        "is_in_flight": 0,
        "is_held": 0,
        "acknowledged_at": None,
        "created_at": NOW,
    }
    return usual | values


def entry_row(entry: LedgerEntry, state: str) -> dict[str, Any]:
    """Return the row of a payment out of a block as the third version wrote it."""
    return {
        "scripthash": ADDRESS.scripthash,
        "txid": entry.txid,
        "state": state,
        "seen_by": 1,
        "outputs": (0).to_bytes(4, "little") + entry.received_sat.to_bytes(8, "little"),
        "spends": b"",
        "sent_sat": 0,
        "is_coinbase": 0,
        "signals_rbf": 0,
        "seen_at": entry.seen_at,
    }


# Beside what the second version left, as the third one understands that; the highest subscription is removed again.
ROWS: dict[str, list[dict[str, Any]]] = {
    "ledger_entry": [entry_row(NEWEST, "unconfirmed"), entry_row(DROPPED, "dropped")],
    "subscription": [
        subscription_row(101),
        subscription_row(102, state="canceled", ended_at=NOW, last_seen_at=NOW, is_watching=0, url=f"{URL}ended"),
        subscription_row(
            103,
            scripthash=None,
            address="",
            url=f"{URL}blocks",
            terms=terms_of(depth=1),
            since_height=901,
            next_height=901,
            depth_blocks=1,
            wake_height=901,
        ),
        subscription_row(199),
    ],
    "message": [
        message_row(80, topic=hex_of(NEWEST.txid), txid=NEWEST.txid, due_at=NOW + 1.0, tries=1, failures=1),
        message_row(81, state="acknowledged", heard_payload=b"60", acknowledged_at=NOW, tips=2, told_height=900),
        message_row(82, state="withdrawn"),
        message_row(83, state="dead", tries=9, failures=9),
        message_row(177, subscription_id=199),
    ],
    "past_payment": [{"subscription_id": 101, "txid": ENTRIES[0].txid}],
    "address_chain": [
        {
            "chain_id": 4,
            "identity": b"\x09" * 32,
            "kind": "p2wpkh",
            "source": "zpub",
            "next_index": 1,
            "used_to": -1,
            "scanned_to": 21,
            "is_scanned": 1,
            "created_at": NOW,
        }
    ],
    "issued_address": [
        {
            "chain_id": 4,
            "address_index": 0,
            "scripthash": ADDRESS.scripthash,
            "address": ADDRESS.text,
            "owner": "shop",
            "url": SHOP_URL,
            "issued_at": NOW,
        }
    ],
}


def write_third_version(connection: sqlite3.Connection) -> Database:
    """Make what the third version left, with rows in every table that the fourth one changes."""
    db = write_second_version(connection)
    migrations.apply(db, stop_before="webhooks")
    for table, rows in ROWS.items():
        for row in rows:
            insert(db, table, row)
    db.execute("DELETE FROM subscription WHERE subscription_id = 199")
    return db


@pytest.fixture
def old() -> Iterator[Database]:
    """Open a database in memory as the third version left it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield write_third_version(connection)


def test_third_version_has_nothing_of_the_fourth(old: Database) -> None:
    """The database that these tests begin with is the old one, with rows in what the fourth one changes."""
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS[2:]
    assert not tables_of(old) & set.union(*(ADDED_BY[version] for version in VERSIONS[2:]))
    assert "gone_at" not in old.table("ledger_entry").columns_dict
    assert not {"hook_id", "wake_at"} & set(old.table("subscription").columns_dict)
    counts = {table: len(rows) for table, rows in everything_in(old).items()}
    assert (counts["ledger_entry"], counts["subscription"], counts["message"]) == (6, 7, 8)
    states = {row[0] for row in old.execute("SELECT DISTINCT state FROM ledger_entry").fetchall()}
    assert states == {"unconfirmed", "confirmed", "replaced", "dropped"}


def test_upgrade_keeps_every_row(old: Database) -> None:
    """After the upgrade each table holds what it held, new tables and new columns are empty, and the file is sound."""
    tables, before = tables_of(old), everything_in(old)
    migrations.apply(old)
    assert {migration.name for migration in migrations.applied(old)} == MIGRATION_NAMES
    assert everything_in(old) == before
    assert tables_of(old) == tables.union(*(ADDED_BY[version] for version in VERSIONS[2:]))
    for table in ADDED_BY["webhooks"]:
        assert old.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    for table, column in [("ledger_entry", "gone_at"), ("subscription", "hook_id"), ("subscription", "wake_at")]:
        assert old.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall() == [(None,)]
    assert old.execute("PRAGMA foreign_key_check").fetchall() == []
    assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_upgraded_database_is_like_a_new_one(old: Database, db: Database) -> None:
    """Tables, indexes and triggers are the same whether the file was made by this version or by the third."""
    migrations.apply(old)
    assert schema_of(old) == schema_of(db)


def test_ids_are_never_given_twice(old: Database) -> None:
    """The counters go on where they were: an id of a removed row is not given to a new one."""
    migrations.apply(old)
    made = subscribe(old, 0, url="http://new.example/")
    assert made.subscription_id == 200
    pay(old, 0, entry_of(50))
    (message_key, _) = outbox.load_messages(old, 200)[""]
    assert message_key > 177


def test_upgraded_payments_keep_their_meaning(old: Database) -> None:
    """Every payment is where it was; when one went before the upgrade nobody knows, and of a later one it is kept."""
    migrations.apply(old)
    payments = ledger.load_payments(old, ADDRESS.scripthash)
    assert payments is not None
    assert payments.entries == {entry.txid: entry for entry in (*ENTRIES, NEWEST, DROPPED)}
    gone = replace(NEWEST, state=Dropped(), gone_at=NOW + 7)
    ledger.save_entries(old, ADDRESS.scripthash, [gone])
    payments = ledger.load_payments(old, ADDRESS.scripthash)
    assert payments is not None
    assert payments.entries == {entry.txid: entry for entry in (*ENTRIES, gone, DROPPED)}


def test_upgraded_subscription_is_no_hooks(old: Database) -> None:
    """It is what it was, the clock wakes none, and asking for it again gives it back."""
    migrations.apply(old)
    expected = Subscription(
        subscription_id=101,
        dialect="each",
        owner="shop",
        scripthash=ADDRESS.scripthash,
        address=ADDRESS.text,
        url=SHOP_URL,
        terms=terms_of(depth=0),
        state=SubscriptionState.ACTIVE,
        created_at=NOW,
        since_height=900,
        hook_id=None,
    )
    found = subscriptions.load_subscription(old, 101)
    assert found == expected
    assert subscriptions.with_past(old, expected).past == {ENTRIES[0].txid}
    assert not subscriptions.has_hooks(old, ADDRESS.scripthash)
    assert subscriptions.load_next_wake_at(old) is None
    assert subscriptions.load_woken_by_time(old, now=NOW + 1e9, limit=9) == []
    again = subscriptions.save_subscription(
        old,
        dialect="each",
        owner="shop",
        address=ADDRESS,
        url=SHOP_URL,
        terms=terms_of(depth=0),
        now=NOW + 5,
        since_height=900,
    )
    assert again == expected


def test_upgraded_messages_keep_their_meaning(old: Database) -> None:
    """Each message is as far as it was, and what was heard or given up stays so."""
    migrations.apply(old)
    found = dict(outbox.load_messages(old, 101).values())
    assert {key: (one.state, one.tries, one.due_at) for key, one in found.items()} == {
        80: (MessageState.OPEN, 1, NOW + 1.0),
        81: (MessageState.ACKNOWLEDGED, 0, None),
        82: (MessageState.WITHDRAWN, 0, None),
        83: (MessageState.DEAD, 9, None),
    }
    assert found[81] == Message(
        message_id="m-81",
        topic="topic 81",
        txid=txid_of(81),
        state=MessageState.ACKNOWLEDGED,
        payload=b"60",
        heard_payload=b"60",
        is_heard_in_doubt=False,
        tries=0,
        failures=0,
        tips=2,
        told_tip=0,
        due_at=None,
        due_tip=None,
        acknowledged_at=NOW,
        created_at=NOW,
    )


def test_upgraded_message_is_delivered(old: Database) -> None:
    """What waited is told under its old id, and is over once it was heard."""
    migrations.apply(old)
    claims, _ = claim(old, now=NOW + 2)
    (taken,) = [one for one in claims if one.subscription_id == 101]
    assert (taken.request.headers["X-Message"], taken.hook_id) == ("m-80", None)
    finish(old, taken, body=HEARD, now=NOW + 3)
    found = callbacks.load_callback(old, owner="shop", dialect="each", message_id="m-80")
    assert found is not None
    assert found.message.state is MessageState.ACKNOWLEDGED
    assert not [one for one in claim(old, now=NOW + 100_000)[0] if one.subscription_id == 101]


def test_upgraded_subscription_to_blocks_goes_on(old: Database) -> None:
    """It is told the next block, once."""
    migrations.apply(old)
    grow(old)
    assert wake(old)
    assert len(outbox.load_messages(old, 103)) == 1
    assert not wake(old)


def test_upgraded_supply_goes_on(old: Database) -> None:
    """What was given away stays given away, and is paid by what its address got."""
    migrations.apply(old)
    record = supplies.load_supply_by_id(old, 4)
    assert record is not None
    assert (record.next_index, record.is_scanned, supplies.load_last_paid(old, record)) == (1, True, 0)


def test_upgraded_database_takes_what_the_old_one_could_not(old: Database) -> None:
    """Hooks, wallets and transactions find their place beside the old rows, and a wallet keeps its scripts."""
    migrations.apply(old)
    hook = hooks.add_hook(
        old, owner="shop", address=ADDRESS.text, wallet_id=None, url=SHOP_URL, terms=b"{}", private_key="k", now=NOW
    )
    made = subscriptions.save_subscription(
        old,
        dialect="each",
        owner="shop",
        address=ADDRESS,
        url=SHOP_URL,
        terms=terms_of(depth=0),
        now=NOW,
        hook_id=hook.hook_id,
    )
    assert made.subscription_id == 200
    assert hooks.load_subscription_ids(old, hook.hook_id) == [200]
    transaction = payment(1)
    background = Background(standing=Standing(has_unconfirmed_parent=True, vbytes_ahead=5))
    transactions.save_transactions(old, [transaction], {transaction.txid: background})
    assert transactions.load_standings(old, [transaction.txid]) == {transaction.txid: background.standing}
    wallet = wallets.add_wallet(old, owner="shop", name="w", extended_key="", subchains=(), now=NOW)
    assert wallets.add_address(old, wallet.wallet_id, ADDRESS, subchain=None, index=None, now=NOW)
    assert subscriptions.remove_subscriptions(old, ADDRESS.scripthash, url=None) == 7
    assert ledger.load_script(old, ADDRESS.scripthash) is not None


def test_removing_still_forgets_after_the_upgrade(old: Database) -> None:
    """With its last subscription an address is forgotten, with messages and payments, though no transaction is kept."""
    migrations.apply(old)
    subscribe(old, 1)
    assert subscriptions.remove_subscriptions(old, ADDRESS.scripthash, url=None) == 6
    assert ledger.load_script(old, ADDRESS.scripthash) is None
    assert old.execute("SELECT count(*) FROM ledger_entry").fetchone() == (0,)
    assert old.execute("SELECT count(*) FROM message").fetchone() == (0,)
    assert ledger.load_script(old, regtest_address(1).scripthash) is not None


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param("TABLE payment_transaction (a)", id="at the beginning"),
        pytest.param("TABLE wallet (a)", id="after the payments have their new column"),
        pytest.param("INDEX subscription_wake_at ON subscription (url)", id="at the end"),
    ],
)
def test_upgrade_that_fails_leaves_the_third_version(old: Database, obstacle: str) -> None:
    """An upgrade that cannot finish is undone whole: tables, columns and rows; it can be done later."""
    schema, rows = schema_of(old), everything_in(old)
    with in_the_way(old, obstacle):
        with pytest.raises(sqlite3.OperationalError):
            migrations.apply(old)
    assert schema_of(old) == schema
    assert everything_in(old) == rows
    assert [migration.name for migration in migrations.pending(old)] == VERSIONS[2:]
    migrations.apply(old)
    assert everything_in(old) == rows


@pytest.mark.parametrize("threaded", [True, False], ids=["thread", "inline"])
async def test_file_of_the_third_version_is_upgraded_when_it_is_opened(tmp_path: Path, threaded: bool) -> None:
    """Opening is all it takes, with foreign keys enforced as the service does; the second opening is plain."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        before = everything_in(write_third_version(connection))
    for _ in range(2):
        async with open_store(path, "regtest", threaded=threaded) as store:
            assert await store.read(everything_in) == before
            payments = await store.read(lambda db: ledger.load_payments(db, ADDRESS.scripthash))
            assert payments is not None
            assert payments.entries == {entry.txid: entry for entry in (*ENTRIES, NEWEST, DROPPED)}
