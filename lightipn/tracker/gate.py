"""A gate that orders commits and what is told of them.

A history's commit and the news of it to the source are two steps; so are a reorg's. If the steps of both mixed, the
source could learn of the older commit last, and believe a status that the reorg had just made void. Histories pass
side by side; a change of the chain passes alone.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class CommitGate:
    """Many may share the gate, or one may have it alone; who waits to have it alone goes before later sharers."""

    def __init__(self) -> None:
        self._sharers = 0
        self._is_empty = trio.Event()
        self._is_empty.set()
        self._turn = trio.Lock()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Commit a history, and tell of it."""
        async with self._turn:
            self._sharers += 1
            if self._sharers == 1:
                self._is_empty = trio.Event()
        try:
            yield
        finally:
            self._sharers -= 1
            if self._sharers == 0:
                self._is_empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Commit a change of the chain, and tell of it."""
        async with self._turn:
            await self._is_empty.wait()
            yield
