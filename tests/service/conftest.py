"""A service over an empty database with a tip."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lightipn.store import chain
from lightipn.store.database import open_store
from tests.service.rig import Tools
from tests.store.rows import TIP


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[Tools]:
    """A service over an empty database with a tip."""
    async with open_store(tmp_path / "shop.db", "regtest", threaded=False) as store:
        await store.transact(lambda db: chain.save_base_height(db, TIP))
        yield Tools(store)
