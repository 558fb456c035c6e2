"""Deliveries as the operator sees them, and sending one again."""

from collections.abc import Sequence

from lightipn.errors import RequestError
from lightipn.service.ground import Ground
from lightipn.store import deliveries
from lightipn.store.database import Database


class Deliveries:
    """What was told to whom, and what came of it."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._store = ground.store

    async def list(self, *, limit: int, is_pending_only: bool = False) -> Sequence[deliveries.Delivery]:
        """Return messages, newest first."""
        return await self._store.read(
            lambda db: deliveries.load_deliveries(db, limit=limit, is_pending_only=is_pending_only)
        )

    async def show(self, message_key: int) -> tuple[deliveries.Delivery, Sequence[deliveries.Attempt]]:
        """Return a message and all its attempts, oldest first.

        Raises:
            RequestError: ``unknown-delivery``.
        """

        def work(db: Database) -> tuple[deliveries.Delivery | None, Sequence[deliveries.Attempt]]:
            return deliveries.load_delivery(db, message_key), deliveries.load_attempts(db, message_key)

        delivery, attempts = await self._store.read(work)
        if delivery is None:
            raise _unknown_delivery(message_key)
        return delivery, attempts

    async def retry(self, message_key: int) -> None:
        """Make a message due now, whatever its state.

        Raises:
            RequestError: ``unknown-delivery``; ``withdrawn`` where what it tells is no longer so.
        """
        now = self._ground.clock()

        def work(db: Database) -> None:
            if deliveries.is_false(db, message_key):
                raise RequestError(
                    f"delivery {message_key} tells what is no longer so: its payment or block is gone", code="withdrawn"
                )
            if not deliveries.make_due(db, message_key, now=now):
                raise _unknown_delivery(message_key)

        await self._store.transact(work)
        self._ground.bells.messages()


def _unknown_delivery(message_key: int) -> RequestError:
    return RequestError(f"there is no delivery {message_key}", code="unknown-delivery", status_hint=404)
