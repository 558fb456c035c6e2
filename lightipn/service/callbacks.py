"""What was told, as the owners of the subscriptions see it; and acknowledging it from outside."""

from collections.abc import Sequence

from lightipn.errors import RequestError
from lightipn.service.ground import Ground
from lightipn.store import callbacks, outbox, reviews
from lightipn.store.callbacks import Call
from lightipn.store.callbacks import Callback as Callback
from lightipn.store.database import Database

MOST_CALLS_SHOWN = 1000


class Callbacks:
    """Messages of one dialect and owner at a time; everybody else's are not there."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._store = ground.store

    async def show(self, message_id: str, *, owner: str, dialect: str) -> Callback:
        """Return a message.

        Raises:
            RequestError: 404 ``not-found``.
        """
        found = await self._store.read(
            lambda db: callbacks.load_callback(db, owner=owner, dialect=dialect, message_id=message_id)
        )
        if found is None:
            raise _unknown(message_id)
        return found

    async def page(
        self,
        *,
        owner: str,
        dialect: str,
        subscription_id: int | None,
        is_acknowledged: bool | None,
        offset: int,
        limit: int,
    ) -> Sequence[Callback]:
        """Return a page of messages, oldest first."""
        return await self._store.read(
            lambda db: callbacks.load_callbacks(
                db,
                owner=owner,
                dialect=dialect,
                subscription_id=subscription_id,
                is_acknowledged=is_acknowledged,
                offset=offset,
                limit=limit,
            )
        )

    async def acknowledge(self, message_id: str, *, owner: str, dialect: str) -> Callback:
        """Acknowledge a message; it holds, also while the message is being sent.

        Raises:
            RequestError: 404 ``not-found``; 403 ``already-acknowledged``.
        """
        now = self._ground.clock()

        def work(db: Database) -> Callback:
            found = callbacks.load_callback(db, owner=owner, dialect=dialect, message_id=message_id)
            if found is None:
                raise _unknown(message_id)
            if found.message.acknowledged_at is not None:
                raise RequestError("Callback was already acknowledged", code="already-acknowledged", status_hint=403)
            outbox.save_message(db, found.message_key, found.message.acknowledged(now=now))
            reviews.review_heard(db, self._ground.policies, found.subscription.subscription_id, now=now)
            after = callbacks.load_callback(db, owner=owner, dialect=dialect, message_id=message_id)
            assert after is not None  # it was there a moment ago, in this very transaction
            return after

        return await self._store.transact(work)

    async def calls(self, url: str, *, owner: str, dialect: str) -> Sequence[Call]:
        """Return the newest attempts for exactly this registered URL, oldest first; at most 1,000."""
        return await self._store.read(
            lambda db: callbacks.load_calls(db, owner=owner, dialect=dialect, url=url, limit=MOST_CALLS_SHOWN)
        )


def _unknown(message_id: str) -> RequestError:
    return RequestError(f"there is no callback {message_id[:60]!a}", code="not-found", status_hint=404)
