"""A service that speaks the callback dialect, and a client of it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from lightipn.api.owners import Doorkeeper
from lightipn.dialects.callback.policy import CallbackPolicy
from lightipn.dialects.callback.routes import CallbackApi
from tests.dialects.callback.rig import PERIOD_S, RETRIES, OpenCaller
from tests.dialects.rig import Caller, open_caller


@pytest.fixture
def open_with(tmp_path: Path) -> OpenCaller:
    """Opens a service with another setting than the default."""

    def opened(
        *, public_url: str = "", zero_conf: bool = False, confirmations: int = 1, **more: Any
    ) -> AbstractAsyncContextManager[Caller]:
        policy = CallbackPolicy(
            retries=RETRIES, retry_period_s=PERIOD_S, confirmations=confirmations, zero_conf=zero_conf
        )

        def routes_of(caller: Caller, doorkeeper: Doorkeeper) -> list[Route]:
            return CallbackApi(
                service=caller.service,
                doorkeeper=doorkeeper,
                policy=policy,
                public_url=public_url,
                clock=lambda: caller.now,
            ).routes()

        return open_caller(tmp_path, "callback", policy, routes_of, **more)

    return opened


@pytest.fixture
async def caller(open_with: OpenCaller) -> AsyncIterator[Caller]:
    """A client of a service that tells payments at one confirmation."""
    async with open_with() as opened:
        yield opened
