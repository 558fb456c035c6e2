"""A running service over one honest server, and a clock for stories that take long."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio.testing

from tests.scenarios.story import Story, open_story


@pytest.fixture
def quick_clock() -> trio.testing.MockClock:
    """A clock that goes as usual while anything moves, and jumps to the next deadline once nothing has for 10 ms.

    The service looks at its database once a second, so no jump is longer than that.
    """
    return trio.testing.MockClock(rate=1.0, autojump_threshold=0.01)


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    """A running service over one honest server with twenty blocks; nothing is watched yet."""
    async with open_story(tmp_path) as story:
        await story.start()
        await story.wait_ready()
        yield story
