"""Group commits on purpose: the writer is held at a gate while works queue behind it."""

import threading
from collections.abc import Callable
from typing import Any

import trio
import trio.testing

from lightipn.errors import StoreError
from lightipn.store.database import Database, Store

LONGEST_WAIT_S = 10.0
Work = Callable[[Database], Any]


class Gate:
    """Work that holds the writer until the gate opens, so that what comes meanwhile becomes one group."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def hold(self, db: Database) -> None:
        """Wait in the writer's thread."""
        self.entered.set()
        assert self.open.wait(LONGEST_WAIT_S)

    async def wait_entered(self) -> None:
        """Wait until the writer stands at the gate."""
        assert await trio.to_thread.run_sync(self.entered.wait, LONGEST_WAIT_S)


async def run_as_group(store: Store, *works: Work) -> list[object]:
    """Run works in one group, in this order; return what each caller got, its value or its error."""
    answers: list[object] = [None] * len(works)

    async def call(place: int, work: Work) -> None:
        try:
            answers[place] = await store.transact(work)
        except (StoreError, AssertionError, ZeroDivisionError) as error:
            answers[place] = error

    gate = Gate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.transact, gate.hold)
        await gate.wait_entered()
        for place, work in enumerate(works):
            nursery.start_soon(call, place, work)
            await trio.testing.wait_all_tasks_blocked()
        gate.open.set()
    return answers
