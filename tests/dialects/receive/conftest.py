"""A service that speaks the receive dialect, and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.routing import Route

from lightipn.api.owners import Doorkeeper
from lightipn.dialects.receive.policy import ReceivePolicy
from lightipn.dialects.receive.routes import ReceiveApi
from tests.dialects.rig import Caller, open_caller


@pytest.fixture
async def caller(tmp_path: Path) -> AsyncIterator[Caller]:
    """A client of a service whose tip is proved."""

    def routes_of(caller: Caller, doorkeeper: Doorkeeper) -> list[Route]:
        return ReceiveApi(service=caller.service, doorkeeper=doorkeeper).routes()

    async with open_caller(tmp_path, "receive", ReceivePolicy(), routes_of) as opened:
        yield opened
