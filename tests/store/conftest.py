"""A database in memory with the newest schema."""

from collections.abc import Iterator

import pytest

from lightipn.store.database import Database
from tests.store.rows import open_memory


@pytest.fixture
def db() -> Iterator[Database]:
    """Open a database that no file stands behind."""
    with open_memory() as database:
        yield database
