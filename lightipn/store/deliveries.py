"""Messages and attempts as the operator sees them: lists, every attempt, what waits, who does not acknowledge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlite_utils import Database

from lightipn.bitcoin.hashes import Txid
from lightipn.store import hooks


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What the operator sees of a message.

    Args:
        state: ``due``, ``next-block`` (told again with the next tip), ``in-flight``, ``held`` (its owner has no key),
            ``acknowledged``, ``withdrawn`` or ``dead``.
    """

    message_key: int
    message_id: str
    dialect: str
    owner: str
    address: str
    url: str
    state: str
    tries: int
    attempts: int
    due_at: float | None
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What the operator sees of an attempt: the request as it was sent, and what came of it."""

    attempt_id: int
    started_at: float
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    outcome: str
    status: int | None
    trouble: str
    latency_ms: float | None
    answer_head: bytes


_DELIVERY = """
SELECT message_key, message_id, dialect, owner, address, url, due_at, is_in_flight, is_held, tries, payload,
       (SELECT count(*) FROM attempt WHERE attempt.message_key = message.message_key), message.state
FROM message JOIN subscription USING (subscription_id)
"""
_IS_PENDING = "(due_at IS NOT NULL OR due_tip IS NOT NULL)"


def _delivery_of(row: tuple[Any, ...]) -> Delivery:
    due_at, is_in_flight, is_held = row[6:9]
    state = row[12]
    if is_in_flight:
        state = "in-flight"
    elif state == "open":
        state = "held" if is_held else "next-block" if due_at is None else "due"
    elif due_at is not None:  # the operator has it told again
        state = "due"
    return Delivery(
        message_key=row[0],
        message_id=row[1],
        dialect=row[2],
        owner=row[3],
        address=row[4],
        url=row[5],
        state=state,
        tries=row[9],
        attempts=row[11],
        due_at=due_at,
        payload=row[10],
    )


def load_deliveries(db: Database, *, limit: int, is_pending_only: bool = False) -> list[Delivery]:
    """Return messages, newest first."""
    where = f"WHERE {_IS_PENDING}" if is_pending_only else ""
    rows = db.execute(f"{_DELIVERY} {where} ORDER BY message_key DESC LIMIT ?", [limit]).fetchall()
    return [_delivery_of(row) for row in rows]


def load_delivery(db: Database, message_key: int) -> Delivery | None:
    """Return one message, or None."""
    row = db.execute(f"{_DELIVERY} WHERE message_key = ?", [message_key]).fetchone()
    return _delivery_of(row) if row else None


def load_attempts(db: Database, message_key: int) -> list[Attempt]:
    """Return all attempts of a message, oldest first."""
    rows = db.execute(
        "SELECT attempt_id, started_at, method, url, headers, body, outcome, status, trouble, latency_ms, answer_head"
        " FROM attempt WHERE message_key = ? ORDER BY attempt_id",
        [message_key],
    ).fetchall()
    return [
        Attempt(
            attempt_id=row[0],
            started_at=row[1],
            method=row[2],
            url=row[3],
            headers=msgspec.json.decode(row[4], type=dict[str, str]),
            body=row[5],
            outcome=row[6] or "in-flight",
            status=row[7],
            trouble=row[8],
            latency_ms=row[9],
            answer_head=row[10],
        )
        for row in rows
    ]


def is_false(db: Database, message_key: int) -> bool:
    """Tell whether what a message tells is no longer so: it was withdrawn, or its payment or block is gone."""
    found = db.execute(
        "SELECT 1 FROM message JOIN subscription USING (subscription_id) WHERE message_key = ? AND ("
        " message.state = 'withdrawn'"
        # A hook's messages say themselves what stands: one of them is just that the payment is gone.
        " OR (hook_id IS NULL AND EXISTS (SELECT 1 FROM ledger_entry"
        " WHERE ledger_entry.scripthash = subscription.scripthash"
        " AND ledger_entry.txid = message.txid AND ledger_entry.state IN ('replaced', 'dropped')))"
        " OR (topic LIKE 'block:%' AND NOT EXISTS"
        " (SELECT 1 FROM header WHERE 'block:' || lower(hex(block_hash)) = message.topic)))",
        [message_key],
    )
    return found.fetchone() is not None


def make_due(db: Database, message_key: int, *, now: float) -> bool:
    """Make a message due now; False if there is no such message."""
    cursor = db.execute(
        "UPDATE message SET due_at = ?, due_tip = NULL, is_settling = 0, tries = 0,"
        " state = iif(state = 'acknowledged', state, 'open') WHERE message_key = ?",
        [now, message_key],
    )
    hooks.probe_now(db, message_key)
    return cursor.rowcount > 0


def count_held(db: Database) -> int:
    """Return how many messages wait for their owner to get a key again."""
    return int(db.execute(f"SELECT count(*) FROM message WHERE is_held = 1 AND {_IS_PENDING}").fetchone()[0])


def count_pending(db: Database) -> tuple[int, float | None]:
    """Return how many messages are not acknowledged, and since when the longest-waiting one is due (unix seconds)."""
    row = db.execute(f"SELECT count(*), min(due_at) FROM message WHERE {_IS_PENDING}").fetchone()
    return int(row[0]), row[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingHost:
    """A receiver that fails: it cannot be reached, or answers with anything but 2xx.

    Args:
        messages: how many of its messages have failed at least twice in a row.
        failures: of the one that failed most.
        last_trouble: what the newest of its attempts came to: an HTTP status or a code.
    """

    host: str
    messages: int
    failures: int
    last_trouble: str


def load_failing_hosts(db: Database, *, limit: int) -> list[FailingHost]:
    """Return the hosts whose messages are tried in vain, those with most messages first."""
    rows = db.execute(
        "SELECT host, count(*), max(failures), max((SELECT max(attempt_id) FROM attempt"
        " WHERE attempt.message_key = message.message_key AND outcome IS NOT NULL)) FROM message"
        f" WHERE {_IS_PENDING} AND is_held = 0 AND failures >= 2 GROUP BY host ORDER BY 2 DESC LIMIT ?",
        [limit],
    ).fetchall()
    found = []
    for host, messages, failures, attempt_id in rows:
        row = db.execute("SELECT outcome, status, trouble FROM attempt WHERE attempt_id = ?", [attempt_id]).fetchone()
        outcome, status, trouble = row or ("", None, "")
        last_trouble = trouble or (f"{status} {outcome}" if status else outcome or "")
        found.append(FailingHost(host=host, messages=messages, failures=failures, last_trouble=last_trouble))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LostPayment:
    """A payment that a receiver acknowledged and that is not there any more, or lost its block.

    Args:
        place: ``unconfirmed``, ``replaced`` or ``dropped``.
    """

    txid: Txid
    address: str
    host: str
    place: str


def load_lost(db: Database, *, since: int, limit: int) -> list[LostPayment]:
    """Return payments that were lost after they had been acknowledged, the last ones first.

    Args:
        since: unix seconds: what was lost before is not asked about.
    """
    rows = db.execute(
        "SELECT DISTINCT event.txid, subscription.address, subscription.host, ledger_entry.state FROM event"
        " JOIN message ON message.txid = event.txid JOIN subscription USING (subscription_id)"
        " JOIN ledger_entry ON ledger_entry.scripthash = subscription.scripthash AND ledger_entry.txid = event.txid"
        " WHERE event.kind IN ('payment.reverted', 'payment.replaced', 'payment.dropped') AND event.happened_at >= ?"
        " AND message.state = 'acknowledged' AND ledger_entry.state != 'confirmed'"
        # What was told because of it is no reason for an alarm.
        " AND message.created_at < event.happened_at AND NOT EXISTS (SELECT 1 FROM message AS later"
        " JOIN subscription AS told USING (subscription_id) WHERE later.txid = event.txid"
        " AND later.created_at >= event.happened_at AND told.hook_id IS NOT NULL AND told.owner = subscription.owner)"
        " ORDER BY event.number DESC LIMIT ?",
        [since, limit],
    ).fetchall()
    return [LostPayment(txid=Txid(row[0]), address=row[1], host=row[2], place=row[3]) for row in rows]
