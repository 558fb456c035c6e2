"""Messages on disk: what is to be told, and when it becomes due.

review ──► message (due) ──► attempts ──► acknowledged, or due again by the clock or with the next tip
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlite_utils import Database

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.chain.headers import ChainDelta
from lightipn.outbox.messages import Message, MessageState
from lightipn.outbox.policy import Notice
from lightipn.outbox.subscriptions import Subscription
from lightipn.store import hooks, keys, ledger
from lightipn.store.subscriptions import host_of

LONGEST_PAUSE_S = 2 * 86400.0  # above the longest retry interval that the configuration allows
WOKEN_PAGE = 500
# A header may be announced a second before the history of a payment that is in its block: an unconfirmed payment waits
# so long with the tip before it is told with no confirmations again.
SETTLING_S = 5.0
MESSAGE_COLUMNS = (
    "message_id, topic, txid, state, payload, heard_payload, is_heard_in_doubt, tries, failures, tips, told_tip,"
    " due_at, due_tip, acknowledged_at, created_at"
)
MESSAGE_WIDTH = MESSAGE_COLUMNS.count(",") + 1


_SELECT = f"SELECT {MESSAGE_COLUMNS}, message_key FROM message"


def message_of(row: Sequence[Any]) -> Message:
    """Make a message of a row in the order of ``MESSAGE_COLUMNS``."""
    return Message(
        message_id=row[0],
        topic=row[1],
        txid=None if row[2] is None else Txid(row[2]),
        state=MessageState(row[3]),
        payload=row[4],
        heard_payload=row[5],
        is_heard_in_doubt=bool(row[6]),
        tries=row[7],
        failures=row[8],
        tips=row[9],
        told_tip=row[10],
        due_at=row[11],
        due_tip=row[12],
        acknowledged_at=row[13],
        created_at=row[14],
    )


def load_messages(db: Database, subscription_id: int) -> dict[str, tuple[int, Message]]:
    """Return a subscription's messages, each with its key, by topic."""
    rows = db.execute(f"{_SELECT} WHERE subscription_id = ?", [subscription_id]).fetchall()
    return {message.topic: (row[-1], message) for row in rows for message in [message_of(row)]}


def load_message(db: Database, subscription_id: int, topic: str) -> tuple[int, Message] | None:
    """Return a subscription's message about a topic with its key, or None."""
    row = db.execute(f"{_SELECT} WHERE subscription_id = ? AND topic = ?", [subscription_id, topic]).fetchone()
    return (row[-1], message_of(row)) if row else None


def add_message(db: Database, subscription: Subscription, notice: Notice, *, baseline: bytes, now: float) -> None:
    """Add a message, due at once."""
    db.execute(
        "INSERT INTO message (message_id, subscription_id, topic, txid, state, host, payload, heard_payload,"
        " is_heard_in_doubt, tries, due_at, is_held, created_at) VALUES (?, ?, ?, ?, 'open', ?, ?, ?, 0, 0, ?, ?, ?)",
        [
            str(uuid.uuid4()),
            subscription.subscription_id,
            notice.topic,
            notice.txid,
            host_of(subscription.url),
            notice.payload,
            baseline,
            now,
            int(keys.is_suspended(db, subscription.owner) or hooks.is_suspended(db, subscription.hook_id)),
            int(now),
        ],
    )


def save_message(db: Database, message_key: int, message: Message) -> None:
    """Write a message over what stood there."""
    db.execute(
        "UPDATE message SET state = ?, payload = ?, heard_payload = ?, is_heard_in_doubt = ?, tries = ?, failures = ?,"
        " tips = ?, told_tip = ?, due_at = ?, due_tip = ?, acknowledged_at = ?, is_settling = 0 WHERE message_key = ?",
        [
            message.state.value,
            message.payload,
            message.heard_payload,
            int(message.is_heard_in_doubt),
            message.tries,
            message.failures,
            message.tips,
            message.told_tip,
            message.due_at,
            message.due_tip,
            message.acknowledged_at,
            message_key,
        ],
    )


def has_open(db: Database, subscription_id: int) -> bool:
    """Tell whether a subscription's receiver is still to be told something."""
    found = db.execute("SELECT 1 FROM message WHERE subscription_id = ? AND state = 'open' LIMIT 1", [subscription_id])
    return found.fetchone() is not None


def withdraw_messages(db: Database, subscription_id: int) -> None:
    """Withdraw all that a subscription's receiver has not heard."""
    for message_key, message in load_messages(db, subscription_id).values():
        save_message(db, message_key, message.withdrawn())


def block_topic(block_hash: bytes) -> str:
    """Return the topic of a message about a block."""
    return f"block:{block_hash.hex()}"


def withdraw_blocks(db: Database, delta: ChainDelta) -> None:
    """Withdraw what was not heard yet of blocks that left the chain."""
    for header in delta.disconnected:
        rows = db.execute(
            f"{_SELECT} WHERE topic = ? AND txid IS NULL AND topic != ''", [block_topic(header.block_hash)]
        ).fetchall()
        for row in rows:
            save_message(db, row[-1], message_of(row).withdrawn())


# --- what a tip makes due ---


def wake_for_tip(db: Database, tip_number: int, *, now: float) -> tuple[bool, bool]:
    """Make one page of the messages due that waited for this tip.

    What is about an unconfirmed payment waits for some seconds more, in which its script is asked again: nobody shall
    be told of no confirmations while the new block holds the payment.

    Returns:
        Whether a message is due because of it, and whether more messages wait.
    """
    rows = db.execute(
        f"{_WAITING} AND due_tip <= ? ORDER BY due_tip, message_key LIMIT ?", [tip_number, WOKEN_PAGE]
    ).fetchall()
    for row in rows:
        _wake(db, row, now=now)
    return bool(rows), len(rows) == WOKEN_PAGE


def wake_late(db: Database, message_key: int, tip_number: int, *, now: float) -> None:
    """Make a message due whose tip came while it was being told."""
    row = db.execute(f"{_WAITING} AND due_tip <= ? AND message_key = ?", [tip_number, message_key]).fetchone()
    if row is not None:
        _wake(db, row, now=now)


_WAITING = """
SELECT message_key, due_at, message.txid, subscription.scripthash, ledger_entry.state
FROM message JOIN subscription USING (subscription_id)
LEFT JOIN ledger_entry ON ledger_entry.scripthash = subscription.scripthash AND ledger_entry.txid = message.txid
WHERE due_tip IS NOT NULL
"""


def _wake(db: Database, row: Sequence[Any], *, now: float) -> None:
    message_key, due_at, txid, scripthash, place = row
    is_settling = txid is not None and place == "unconfirmed"
    wake_at = now + SETTLING_S if is_settling else now
    db.execute(
        "UPDATE message SET due_tip = NULL, due_at = ?, is_settling = ? WHERE message_key = ?",
        # Also a retry by the clock waits: the new block may hold the payment.
        [wake_at if is_settling or due_at is None else min(due_at, wake_at), int(is_settling), message_key],
    )
    if is_settling:
        ledger.save_watch_change(db, ScriptHash(scripthash), ledger.WatchChange.ASKED)


def settle(db: Database, subscription_id: int, confirmed: Iterable[int], *, now: float) -> bool:
    """Make due at once what waited to see whether its payment is in the new block: it is. True if anything was.

    Args:
        confirmed: keys of the messages whose payment is in a block.
    """
    keys = set(confirmed)
    waiting = db.execute(
        "SELECT message_key FROM message WHERE subscription_id = ? AND is_settling = 1", [subscription_id]
    ).fetchall()
    settled = [(now, message_key) for (message_key,) in waiting if message_key in keys]
    db.conn.executemany("UPDATE message SET due_at = ?, is_settling = 0 WHERE message_key = ?", settled)
    return bool(settled)


def pull_in_due_times(db: Database, *, now: float) -> int:
    """Make due what is due later than any policy allows: the clock was ahead when it was written. Returns how many."""
    cursor = db.execute(
        "UPDATE message INDEXED BY message_due_at SET due_at = ?"
        " WHERE due_at > ? AND due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0",
        [now, now + LONGEST_PAUSE_S],
    )
    # What is looked at by the clock waits for minutes at most, and a suspended hook for its hour.
    db.execute("UPDATE subscription SET wake_at = ? WHERE wake_at > ?", [now, now + hooks.PROBE_EVERY_S])
    db.execute("UPDATE hook SET probe_at = ? WHERE probe_at > ?", [now, now + 2 * hooks.PROBE_EVERY_S])
    return int(cursor.rowcount)
