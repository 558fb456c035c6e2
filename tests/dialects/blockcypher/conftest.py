"""A service that speaks the blockcypher dialect, and a client of it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from lightipn.api.owners import Doorkeeper
from lightipn.bitcoin.network import REGTEST, Network
from lightipn.dialects.blockcypher.policy import BlockcypherPolicy
from lightipn.dialects.blockcypher.routes import blockcypher_routes
from tests.dialects.blockcypher.rig import FakeOutside, OpenCaller
from tests.dialects.rig import Caller, open_caller


@pytest.fixture
def outside() -> FakeOutside:
    """A network that knows nothing yet."""
    return FakeOutside()


@pytest.fixture
def open_with(tmp_path: Path, outside: FakeOutside) -> OpenCaller:
    """Opens a service with another setting than the default."""

    def opened(
        *,
        public_url: str = "",
        webhook_key: str = "",
        transactions_url: str = "",
        network: Network = REGTEST,
        **more: Any,
    ) -> AbstractAsyncContextManager[Caller]:
        def routes_of(caller: Caller, doorkeeper: Doorkeeper) -> list[Route]:
            return blockcypher_routes(
                caller.service,
                doorkeeper,
                network=network,
                public_url=public_url,
                webhook_key=webhook_key,
                connected=lambda: 3,
                clock=lambda: caller.now,
            )

        policy = BlockcypherPolicy(network=REGTEST, transactions_url=transactions_url)
        return open_caller(tmp_path, "blockcypher", policy, routes_of, outside=outside, **more)

    return opened


@pytest.fixture
async def caller(open_with: OpenCaller) -> AsyncIterator[Caller]:
    """A client of a service whose tip is proved."""
    async with open_with() as opened:
        yield opened
