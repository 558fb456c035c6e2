"""Messages and their attempts on disk.

    review ──► message (due) ──► claim: attempt row, in flight ──► request on the wire ──► finish: outcome, next due

The claim is committed before the request is sent, the outcome after. What a crash leaves in flight is marked as
interrupted at the next start and is due again: at least once.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlite_utils import Database

from lightipn.outbox.messages import Message, OutgoingRequest, Policy, Subscription, SubscriptionState
from lightipn.outbox.verdict import Answer, Outcome
from lightipn.store.subscriptions import host_of, subscription_of

ANSWER_HEAD_BYTES = 500
# Of one message so many attempts are kept, the newest: a dead shop with thousands of addresses must not fill the disk.
KEPT_ATTEMPTS = 100
LONGEST_PAUSE_S = 2 * 86400.0  # above the longest retry interval that the configuration allows
_MESSAGE = "message_id, payload, heard_payload, is_heard_in_doubt, tries, due_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An attempt that was recorded and must now be sent."""

    attempt_id: int
    message_key: int
    host: str
    dialect: str
    sent_payload: bytes
    request: OutgoingRequest


def _message_of(row: tuple[Any, ...]) -> Message:
    return Message(
        message_id=row[0],
        payload=row[1],
        heard_payload=row[2],
        is_heard_in_doubt=bool(row[3]),
        tries=row[4],
        due_at=row[5],
    )


def load_message(db: Database, subscription_id: int) -> tuple[int, Message] | None:
    """Return the key and the message of a subscription that has one message; None before it has."""
    row = db.execute(
        f"SELECT {_MESSAGE}, message_key FROM message WHERE subscription_id = ?", [subscription_id]
    ).fetchone()
    return (row[6], _message_of(row)) if row else None


def add_message(db: Database, subscription: Subscription, *, baseline: bytes, payload: bytes, now: float) -> None:
    """Add a subscription's message, due at once."""
    db.execute(
        "INSERT INTO message (message_id, subscription_id, host, payload, heard_payload, is_heard_in_doubt, tries,"
        " due_at, is_held, created_at) VALUES (?, ?, ?, ?, ?, 0, 0, ?, ?, ?)",
        [
            str(uuid.uuid4()),
            subscription.subscription_id,
            host_of(subscription.url),
            payload,
            baseline,
            now,
            int(subscription.state is SubscriptionState.SUSPENDED),
            int(now),
        ],
    )


def save_message(db: Database, message_key: int, message: Message) -> None:
    """Write a message over what stood there."""
    db.execute(
        "UPDATE message SET payload = ?, heard_payload = ?, is_heard_in_doubt = ?, tries = ?, due_at = ?"
        " WHERE message_key = ?",
        [
            message.payload,
            message.heard_payload,
            int(message.is_heard_in_doubt),
            message.tries,
            message.due_at,
            message_key,
        ],
    )


_HOSTS = """
SELECT host, min(due_at) FROM message INDEXED BY message_due_at
WHERE due_at <= ? AND due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0
GROUP BY host ORDER BY 2
"""
_NEXT_DUE = """
SELECT min(due_at) FROM message INDEXED BY message_due_at
WHERE due_at > ? AND due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0
"""
_DUE = f"""
SELECT {", ".join("message." + column for column in _MESSAGE.split(", "))}, message.message_key,
       subscription.subscription_id, dialect, owner, scripthash, address, url, terms, subscription.state,
       subscription.created_at
FROM message JOIN subscription USING (subscription_id)
WHERE message.host = ? AND due_at <= ? AND due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0
ORDER BY due_at LIMIT ?
"""


def claim_due(
    db: Database,
    policies: Mapping[str, Policy],
    *,
    now: float,
    room: int,
    room_per_host: int,
    busy: Mapping[str, int],
) -> tuple[list[Claim], float | None]:
    """Take messages that are due, record an attempt for each, and mark them as in flight.

    The hosts take turns by how long their first message has waited; none gets more than ``room_per_host``.

    Args:
        room: how many may be claimed.
        busy: requests under way by host.

    Returns:
        The claims, and the time at which the next message is due that was left for its time to come; None if none is.
    """
    claims: list[Claim] = []
    for host, _ in db.execute(_HOSTS, [now]).fetchall():
        host_room = min(room - len(claims), room_per_host - busy.get(host, 0))
        if host_room > 0:  # else the end of one of its attempts will ring again
            rows = db.execute(_DUE, [host, now, host_room]).fetchall()
            claims.extend(_claim(db, policies, host, row, now=now) for row in rows)
    return claims, db.execute(_NEXT_DUE, [now]).fetchone()[0]


def _claim(db: Database, policies: Mapping[str, Policy], host: str, row: tuple[Any, ...], *, now: float) -> Claim:
    message, message_key, subscription = _message_of(row).claimed(), row[6], subscription_of(row[7:])
    request = policies[subscription.dialect].request_of(subscription, message)
    db.execute(
        "UPDATE message SET is_in_flight = 1, tries = ?, is_heard_in_doubt = ? WHERE message_key = ?",
        [message.tries, int(message.is_heard_in_doubt), message_key],
    )
    cursor = db.execute(
        "INSERT INTO attempt (message_key, payload, method, url, headers, body, started_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            message_key,
            message.payload,
            request.method,
            request.url,
            msgspec.json.encode(request.headers).decode(),
            request.body,
            now,
        ],
    )
    db.execute(
        "DELETE FROM attempt WHERE message_key = ? AND attempt_id <="
        " (SELECT attempt_id FROM attempt WHERE message_key = ? ORDER BY attempt_id DESC LIMIT 1 OFFSET ?)",
        [message_key, message_key, KEPT_ATTEMPTS],
    )
    return Claim(
        attempt_id=int(cursor.lastrowid or 0),
        message_key=message_key,
        host=host,
        dialect=subscription.dialect,
        sent_payload=message.payload,
        request=request,
    )


def finish_attempt(
    db: Database, policies: Mapping[str, Policy], claim: Claim, answer: Answer, *, now: float, jitter: float
) -> Outcome:
    """Record what an attempt came to, and when the message is due again."""
    policy = policies[claim.dialect]
    outcome = policy.outcome_of(claim.sent_payload, answer)
    db.execute(
        "UPDATE attempt SET outcome = ?, status = ?, trouble = ?, latency_ms = ?, answer_head = ? WHERE attempt_id = ?",
        [
            outcome.value,
            answer.status,
            answer.trouble,
            answer.latency_ms,
            answer.body[:ANSWER_HEAD_BYTES],
            claim.attempt_id,
        ],
    )
    row = db.execute(f"SELECT {_MESSAGE} FROM message WHERE message_key = ?", [claim.message_key]).fetchone()
    if row is None:  # the subscription was removed while the attempt was under way
        return outcome
    message = _message_of(row)
    retry_after_s = policy.retry_after_s(max(1, message.tries), jitter=jitter)
    after = message.after_attempt(claim.sent_payload, outcome, now=now, retry_after_s=retry_after_s)
    save_message(db, claim.message_key, after)
    db.execute("UPDATE message SET is_in_flight = 0 WHERE message_key = ?", [claim.message_key])
    return outcome


def pull_in_due_times(db: Database, *, now: float) -> int:
    """Make due what is due later than any policy allows: the clock was ahead when it was written. Returns how many."""
    cursor = db.execute("UPDATE message SET due_at = ? WHERE due_at > ?", [now, now + LONGEST_PAUSE_S])
    return int(cursor.rowcount)


def recover_interrupted(db: Database) -> int:
    """Mark attempts that a crash left open; their messages are due again. Returns how many."""
    cursor = db.execute("UPDATE attempt SET outcome = ? WHERE outcome IS NULL", [Outcome.INTERRUPTED.value])
    db.execute("UPDATE message SET is_in_flight = 0 WHERE is_in_flight = 1")
    return int(cursor.rowcount)
