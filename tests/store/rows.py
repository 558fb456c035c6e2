"""Databases in memory and rows in them, for tests of what the store's functions read and write."""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lightipn.bitcoin.address import Address, address_of
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.network import REGTEST
from lightipn.ledger.entries import LedgerEntry
from lightipn.outbox.policy import Policy
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome
from lightipn.store import attempts, deliveries, ledger, reviews, subscriptions
from lightipn.store.attempts import Claim
from lightipn.store.database import Database
from lightipn.store.deliveries import Delivery
from lightipn.store.ledger import WatchChange
from lightipn.store.migrations import migrations
from tests.builders import entry_of
from tests.store import plain_dialect
from tests.store.each_dialect import EachPolicy, terms_of
from tests.store.plain_dialect import SILENCE, answer_of

NOW = 1_700_000_000
TIP = 1000
DEAD = "http://dead.example/"
ALIVE = "http://alive.example/"
POLICIES: Mapping[str, Policy] = {**plain_dialect.POLICIES, "each": EachPolicy()}


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


def subscribe_to_each(
    db: Database,
    number: int = 0,
    *,
    url: str = "http://shop.example/",
    owner: str = "shop",
    depth: int = 0,
    is_once: bool = False,
    expires_at: int | None = None,
    since_height: int | None = TIP - 1,
    now: int = NOW,
) -> Subscription:
    """Subscribe a URL to each payment of the address with this number, in the second test dialect."""
    return subscriptions.save_subscription(
        db,
        dialect="each",
        owner=owner,
        address=regtest_address(number),
        url=url,
        terms=terms_of(depth=depth, is_once=is_once),
        now=now,
        expires_at=expires_at,
        since_height=since_height,
    )


def pay(db: Database, number: int, *entries: LedgerEntry, now: float = NOW, tip_height: int = TIP) -> bool:
    """Write payments of an address and review its subscriptions; True if a message is due because of it."""
    scripthash = regtest_address(number).scripthash
    ledger.save_entries(db, scripthash, entries)
    return reviews.review_script(db, POLICIES, scripthash, tip_height=tip_height, now=now)


def fill(db: Database, count: int, *, url: str = ALIVE, first: int = 0, at: float = NOW) -> None:
    """Make so many messages to one host due, a second apart, each of a subscription of its own."""
    for number in range(first, first + count):
        subscribe(db, number, url=url)
        pay(db, number, entry_of(number), now=at + number - first)


def claim(
    db: Database,
    *,
    now: float = NOW,
    room: int = 100,
    room_per_host: int = 100,
    busy: dict[str, int] | None = None,
) -> tuple[list[Claim], float | None]:
    """Claim what is due."""
    return attempts.claim_due(db, POLICIES, now=now, room=room, room_of=lambda host: room_per_host, busy=busy or {})


def finish(
    db: Database,
    taken: Claim,
    *,
    body: bytes | None = None,
    answer: Answer | None = None,
    now: float = NOW,
    jitter: float = 0.0,
) -> Outcome:
    """End an attempt: with a 2xx that says this, with any other answer, or with silence."""
    answer = answer or (SILENCE if body is None else answer_of(body))
    return attempts.finish_attempt(db, POLICIES, taken, answer, now=now, jitter=jitter)


def changes_of(db: Database) -> list[tuple[ScriptHash, WatchChange]]:
    """Take what is queued for the running service: scripts, and what happened to them."""
    return [(scripthash, kind) for scripthash, kind, _ in ledger.take_watch_changes(db, limit=10_000)]


def only_delivery(db: Database) -> Delivery:
    """Return the one message there is."""
    (delivery,) = deliveries.load_deliveries(db, limit=9)
    return delivery
