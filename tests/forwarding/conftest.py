"""A forwarder over an empty database with a tip."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.forwarding.rig import Rig, open_rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A forwarder with the rules of the default configuration."""
    async with open_rig(tmp_path) as opened:
        yield opened
