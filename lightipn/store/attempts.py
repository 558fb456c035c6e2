"""Attempts on disk.

    due message ──► claim: attempt row, in flight ──► request on the wire ──► finish: outcome, next due

The claim is committed before the request is sent, the outcome after. What a crash leaves in flight is marked as
interrupted at the next start and is due again: at least once. Of one subscription one request is under way at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec
from sqlite_utils import Database

from lightipn.outbox.messages import Message, MessageState, OutgoingRequest
from lightipn.outbox.policy import HookFacts, Moment, Policy
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome
from lightipn.store import chain, hooks, reviews, subscriptions, transactions
from lightipn.store.outbox import MESSAGE_COLUMNS, MESSAGE_WIDTH, message_of, save_message, wake_late
from lightipn.store.subscriptions import SUBSCRIPTION_COLUMNS, subscription_of

ANSWER_HEAD_BYTES = 500
# Of one message so many attempts are kept, the newest: a dead shop with thousands of addresses must not fill the disk.
KEPT_ATTEMPTS = 100
# How many due messages of a host are looked through for each place, where many are of one subscription.
LOOKED_THROUGH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An attempt that was recorded and must now be sent."""

    attempt_id: int
    message_key: int
    subscription_id: int
    host: str
    dialect: str
    sent_payload: bytes
    request: OutgoingRequest
    hook_id: str | None = None


_IS_DUE = "due_at <= ? AND due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0"
_HOSTS = f"SELECT host, min(due_at) FROM message INDEXED BY message_due_at WHERE {_IS_DUE} GROUP BY host ORDER BY 2"
_NEXT_DUE = """
SELECT min(due_at) FROM message INDEXED BY message_due_at
WHERE due_at > ? AND due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0
"""


def _of_table(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{column}" for column in columns.split(", "))


_DUE = f"""
SELECT {_of_table("message", MESSAGE_COLUMNS)}, message.message_key, {_of_table("subscription", SUBSCRIPTION_COLUMNS)}
FROM message JOIN subscription USING (subscription_id)
WHERE message.host = ? AND {_IS_DUE} AND NOT EXISTS
      (SELECT 1 FROM message AS busy WHERE busy.subscription_id = message.subscription_id AND busy.is_in_flight = 1)
ORDER BY due_at, message.message_key LIMIT ?
"""


def claim_due(
    db: Database,
    policies: Mapping[str, Policy],
    *,
    now: float,
    room: int,
    room_of: Callable[[str], int],
    busy: Mapping[str, int],
) -> tuple[list[Claim], float | None]:
    """Take messages that are due, record an attempt for each, and mark them as in flight.

    The hosts take turns by how long their first message has waited; none gets more than its room.

    Args:
        room: how many may be claimed.
        room_of: returns how many attempts may be under way to a host.
        busy: requests under way by host.

    Returns:
        The claims, and the time at which the next message is due that was left for its time to come, or may become due
        by the clock alone; None if none is.
    """
    reviews.wake_for_time(db, policies, now=now)
    hooks.let_probes_through(db, now=now)
    claims: list[Claim] = []
    for host, _ in db.execute(_HOSTS, [now]).fetchall():
        host_room = min(room - len(claims), room_of(host) - busy.get(host, 0))
        if host_room <= 0:
            continue  # the end of one of its attempts will ring again
        taken: set[int] = set()
        # All at once: what a claim writes must not change what is still to be looked through.
        for row in db.execute(_DUE, [host, now, host_room * LOOKED_THROUGH]).fetchall():
            subscription = subscription_of(row[MESSAGE_WIDTH + 1 :])
            if subscription.subscription_id not in taken:
                taken.add(subscription.subscription_id)
                claims.append(_claim(db, policies, subscription, row[MESSAGE_WIDTH], message_of(row), now=now))
            if len(taken) == host_room:
                break
    times = (
        db.execute(_NEXT_DUE, [now]).fetchone()[0],
        subscriptions.load_next_wake_at(db),
        hooks.load_next_probe_at(db),
    )
    return claims, min((time for time in times if time is not None), default=None)


def _claim(
    db: Database,
    policies: Mapping[str, Policy],
    subscription: Subscription,
    message_key: int,
    due: Message,
    *,
    now: float,
) -> Claim:
    message = due.claimed(tip_number=chain.load_tip_number(db))
    told_height = _height_of(db, subscription, message_key, message)
    moment = _moment_of(db, message_key, told_height, now=now)
    if subscription.hook_id is not None:
        moment = replace(moment, hook=_hook_facts_of(db, subscription.hook_id, message_key, message, told_height))
    request = policies[subscription.dialect].request_of(subscription, message, moment)
    save_message(db, message_key, message)
    host = db.execute(
        "UPDATE message SET is_in_flight = 1, told_height = ? WHERE message_key = ? RETURNING host",
        [told_height, message_key],
    ).fetchone()[0]
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
        subscription_id=subscription.subscription_id,
        host=host,
        dialect=subscription.dialect,
        sent_payload=message.payload,
        request=request,
        hook_id=subscription.hook_id,
    )


def _height_of(db: Database, subscription: Subscription, message_key: int, message: Message) -> int | None:
    """Return the height of a payment's block; of one that is followed no more, as it was when it was told last."""
    if message.txid is None:
        return None
    row = db.execute(
        "SELECT height FROM ledger_entry WHERE scripthash = ? AND txid = ?", [subscription.scripthash, message.txid]
    ).fetchone()
    if row is None:
        row = db.execute("SELECT told_height FROM message WHERE message_key = ?", [message_key]).fetchone()
    return None if row[0] is None else int(row[0])


def _moment_of(db: Database, message_key: int, height: int | None, *, now: float) -> Moment:
    tip_height = chain.load_tip_height(db)
    row = db.execute("SELECT max(started_at) FROM attempt WHERE message_key = ?", [message_key]).fetchone()
    return Moment(
        now=now,
        tip_height=tip_height,
        confirmations=0 if height is None else max(0, tip_height - height + 1),
        last_tried_at=row[0],
    )


def _hook_facts_of(db: Database, hook_id: str, message_key: int, message: Message, height: int | None) -> HookFacts:
    private_key, is_own_key = hooks.load_private_key(db, hook_id)
    last = db.execute(
        "SELECT body FROM attempt WHERE message_key = ? ORDER BY attempt_id DESC LIMIT 1", [message_key]
    ).fetchone()
    known = None
    if last is None and message.txid is not None:
        known = transactions.load_transaction(db, message.txid)
    return HookFacts(
        hook_id=hook_id,
        private_key=private_key,
        is_own_key=is_own_key,
        last_body=None if last is None else last[0],
        transaction=known,
        block_time=None if height is None else chain.load_time(db, height),
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
    row = db.execute(f"SELECT {MESSAGE_COLUMNS} FROM message WHERE message_key = ?", [claim.message_key]).fetchone()
    if row is None:  # the subscription was removed while the attempt was under way
        return outcome
    message = message_of(row)
    then = policy.next_try(message, answer, jitter=jitter)
    after = message.after_attempt(claim.sent_payload, outcome, now=now, then=then)
    save_message(db, claim.message_key, after)
    db.execute("UPDATE message SET is_in_flight = 0 WHERE message_key = ?", [claim.message_key])
    wake_late(db, claim.message_key, chain.load_tip_number(db), now=now)
    if claim.hook_id is not None:
        hooks.note_outcome(db, claim.hook_id, claim.message_key, after, outcome, now=now)
    if after.topic and after.state is not MessageState.OPEN:
        reviews.review_heard(db, policies, claim.subscription_id, now=now)
    return outcome


def recover_interrupted(db: Database) -> int:
    """Mark attempts that a crash left open; their messages are due again. Returns how many."""
    cursor = db.execute("UPDATE attempt SET outcome = ? WHERE outcome IS NULL", [Outcome.INTERRUPTED.value])
    db.execute("UPDATE message SET is_in_flight = 0 WHERE is_in_flight = 1")
    return int(cursor.rowcount)
