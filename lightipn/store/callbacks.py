"""Messages and attempts as the owners of the subscriptions see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lightipn.outbox.messages import Message
from lightipn.outbox.subscriptions import Subscription
from lightipn.store.outbox import MESSAGE_COLUMNS, MESSAGE_WIDTH, message_of
from lightipn.store.subscriptions import SUBSCRIPTION_COLUMNS, subscription_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """A message, whom it is for, and when it was sent last (unix seconds; None before the first attempt)."""

    message_key: int
    message: Message
    subscription: Subscription
    last_tried_at: float | None


_CALLBACK = f"""
SELECT {", ".join("message." + column for column in MESSAGE_COLUMNS.split(", "))},
       {", ".join("subscription." + column for column in SUBSCRIPTION_COLUMNS.split(", "))},
       (SELECT max(started_at) FROM attempt WHERE attempt.message_key = message.message_key), message_key
FROM message JOIN subscription USING (subscription_id)
WHERE owner = ? AND dialect = ?
"""


def _callback_of(row: tuple[Any, ...]) -> Callback:
    return Callback(
        message=message_of(row),
        subscription=subscription_of(row[MESSAGE_WIDTH:-2]),
        last_tried_at=row[-2],
        message_key=row[-1],
    )


def load_callback(db: Database, *, owner: str, dialect: str, message_id: str) -> Callback | None:
    """Return an owner's message, or None if the owner has none of this id."""
    row = db.execute(f"{_CALLBACK} AND message_id = ?", [owner, dialect, message_id]).fetchone()
    return _callback_of(row) if row else None


def load_callbacks(
    db: Database,
    *,
    owner: str,
    dialect: str,
    subscription_id: int | None,
    is_acknowledged: bool | None,
    offset: int,
    limit: int,
) -> list[Callback]:
    """Return a page of an owner's messages, oldest first."""
    where = "owner = ? AND dialect = ?"
    parameters: list[object] = [owner, dialect]
    if subscription_id is not None:
        where += " AND subscription_id = ?"
        parameters.append(subscription_id)
    if is_acknowledged is not None:
        where += f" AND message.state {'=' if is_acknowledged else '!='} 'acknowledged'"
    # First which ones, then what they say: what is skipped costs no look at its attempts.
    keys = f"SELECT message_key FROM message JOIN subscription USING (subscription_id) WHERE {where}"
    rows = db.execute(
        f"{_CALLBACK} AND message_key IN ({keys} ORDER BY message_key LIMIT ? OFFSET ?) ORDER BY message_key",
        [owner, dialect, *parameters, limit, offset],
    ).fetchall()
    return [_callback_of(row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An attempt as the owner of the URL sees it; ``status`` is None where no answer came."""

    url: str
    called_at: float
    answer: bytes
    status: int | None


def load_calls(db: Database, *, owner: str, dialect: str, url: str, limit: int) -> Sequence[Call]:
    """Return the newest attempts for exactly this registered URL, oldest first."""
    rows = db.execute(
        "SELECT ?, started_at, answer_head, status FROM attempt WHERE outcome IS NOT NULL AND message_key IN"
        " (SELECT message_key FROM message WHERE subscription_id IN (SELECT subscription_id FROM subscription"
        " WHERE owner = ? AND url = ? AND dialect = ? ORDER BY subscription_id DESC LIMIT ?))"
        " ORDER BY attempt_id DESC LIMIT ?",
        [url, owner, url, dialect, limit, limit],
    ).fetchall()
    return [Call(url=row[0], called_at=row[1], answer=row[2], status=row[3]) for row in reversed(rows)]
