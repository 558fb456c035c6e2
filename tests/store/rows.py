"""Databases in memory and rows in them, for tests of what the store's functions read and write."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from lightipn.bitcoin.address import Address, address_of
from lightipn.bitcoin.network import REGTEST
from lightipn.ledger.entries import LedgerEntry
from lightipn.outbox.messages import Subscription
from lightipn.store import ledger, outbox, reviews, subscriptions
from lightipn.store.database import Database
from lightipn.store.migrations import migrations
from lightipn.store.outbox import Claim
from tests.store.plain_dialect import POLICIES

NOW = 1_700_000_000
TIP = 1000


@contextmanager
def open_memory() -> Iterator[Database]:
    """Open an empty database with the newest schema that no file stands behind."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    db = Database(connection, execute_plugins=False)
    try:
        migrations.apply(db)
        yield db
    finally:
        connection.close()


def regtest_address(number: int) -> Address:
    """Return an address that differs for every number."""
    script = b"\x00\x14" + hashlib.sha256(f"address {number}".encode()).digest()[:20]
    text = address_of(script, REGTEST)
    assert text is not None
    return Address(text=text, script=script)


def subscribe(
    db: Database, number: int = 0, *, url: str = "http://shop.example/", owner: str = "shop", depth: int = 1
) -> Subscription:
    """Subscribe a URL to the address with this number."""
    return subscriptions.save_subscription(
        db,
        dialect="plain",
        owner=owner,
        address=regtest_address(number),
        url=url,
        terms=str(depth).encode(),
        now=NOW,
    )


def pay(db: Database, number: int, *entries: LedgerEntry, now: float = NOW, tip_height: int = TIP) -> bool:
    """Write payments of an address and review its subscriptions; True if a message is due because of it."""
    scripthash = regtest_address(number).scripthash
    ledger.save_entries(db, scripthash, entries)
    return reviews.review_script(db, POLICIES, scripthash, tip_height=tip_height, now=now)


def claim(
    db: Database,
    *,
    now: float = NOW,
    room: int = 100,
    room_per_host: int = 100,
    busy: dict[str, int] | None = None,
) -> tuple[list[Claim], float | None]:
    """Claim what is due."""
    return outbox.claim_due(db, POLICIES, now=now, room=room, room_per_host=room_per_host, busy=busy or {})
