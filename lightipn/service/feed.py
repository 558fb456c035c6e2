"""The event feed: everything that happened, in order, for whoever remembers how far he has read."""

import trio

from lightipn.errors import RequestError
from lightipn.service.ground import Ground
from lightipn.store.events import EventPage as EventPage  # what routes are answered with: they may not see the store
from lightipn.store.events import RecordedEvent as RecordedEvent
from lightipn.store.events import load_events

MOST_AT_ONCE = 1000
MOST_AFTER = (1 << 53) - 1  # what every reader of JSON holds exactly
LOOK_AGAIN_S = 1.0


class Feed:
    """The events of a database, page by page."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store

    async def events(self, *, after: int, limit: int, owner: str | None) -> EventPage:
        """Return the next events after a number; the page's ``next_after`` is the number to go on with.

        A page may be empty, and yet ``next_after`` be behind ``latest``: other owners' events lie there.

        Args:
            after: 0 for the beginning.
            limit: 1 to 1000.
            owner: who asks: events of the addresses he is subscribed to, and of blocks; None, the operator, for all.

        Raises:
            RequestError: ``bad-after``, ``bad-limit``.
        """
        _check("after", after, lowest=0, highest=MOST_AFTER)
        _check("limit", limit, lowest=1, highest=MOST_AT_ONCE)
        page = await self._store.read(lambda db: load_events(db, after=after, limit=limit, owner=owner))
        if after > page.latest:
            raise RequestError(f"after is {after}, and the newest event is {page.latest}", code="bad-after")
        return page

    async def wait_written(self, version: int | None) -> int:
        """Wait until somebody wrote to the database since ``version``; look for new events afterwards.

        The running service is another process, which has no bell to ring here: the database is looked at once a second.

        Args:
            version: what the last call returned; None for the first, which does not wait.

        Returns:
            What the next call takes.
        """
        while (found := await self._store.data_version()) == version:  # noqa: ASYNC110  # another process writes
            await trio.sleep(LOOK_AGAIN_S)
        return found


def _check(name: str, value: int, *, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise RequestError(f"{name} is {value}, want a whole number from {lowest} to {highest}", code=f"bad-{name}")
