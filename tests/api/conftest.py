"""A service over a database whose transactions run in place, and an application with routes made for tests."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lightipn.api.errors import in_shape, json_response
from lightipn.api.frame import build_app
from lightipn.api.owners import Doorkeeper
from lightipn.api.parameters import parameters_of
from lightipn.bitcoin.network import REGTEST
from lightipn.errors import RequestError, StoreError
from lightipn.service.desk import Service
from lightipn.service.ground import Doorbells, Ground, no_bell
from lightipn.store.database import Store, open_store
from tests.store.plain_dialect import POLICIES


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An empty database."""
    async with open_store(tmp_path / "shop.db", "regtest", threaded=False) as store:
        yield store


@pytest.fixture
async def service(store: Store) -> Service:
    """A service that nobody runs: it answers from its database."""
    return Service(
        Ground(
            store=store,
            network=REGTEST,
            policies=POLICIES,
            check_url=lambda url: None,
            bells=Doorbells(watches=no_bell, messages=no_bell),
            progress=trio.Event,
            is_tip_proved=lambda: True,
            is_connected=lambda: True,
            clock=time.time,
        )
    )


@pytest.fixture
def failures() -> list[StoreError]:
    """What the application asked to stop the process for."""
    return []


@pytest.fixture
async def app(service: Service, failures: list[StoreError]) -> ASGIApp:
    """An application that repeats parameters, names owners, and has a database that fails."""
    doorkeeper = Doorkeeper(service, anonymous=["open"])

    async def echo(request: Request) -> Response:
        return json_response(await parameters_of(request))

    async def mended(request: Request) -> Response:
        return json_response(await parameters_of(request, mend=lambda raw: raw.replace(b"{WRONG}", b"a=1")))

    async def refused(request: Request) -> Response:
        status = int(request.path_params["status"])
        if status == 200:
            return json_response({"fine": True})
        raise RequestError("not now", code="not-now", status_hint=status)

    async def owner(request: Request) -> Response:
        parameters = await parameters_of(request)
        dialect = request.path_params["dialect"]
        return json_response({"owner": await doorkeeper.owner_of(request, parameters, dialect=dialect)})

    async def broken(request: Request) -> Response:
        raise StoreError("the disk is full")

    routes = [
        Route("/echo", echo, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        Route("/mended", mended, methods=["GET", "POST"]),
        Route("/shaped/{status}", in_shape(refused, lambda error: {"oops": [error.code, str(error)]}), methods=["GET"]),
        Route("/read", echo, methods=["GET"]),
        Route("/owner/{dialect}", owner, methods=["GET", "POST"]),
        Route("/broken", broken, methods=["GET"]),
    ]
    return build_app(routes, stop_for=failures.append)
