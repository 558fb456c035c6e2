"""The composition root: builds every room, owns the root nursery. The only file that knows them all."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio
from starlette.routing import Route

from lightipn.api.accounts import AccountApi
from lightipn.api.feed import feed_routes
from lightipn.api.frame import build_app
from lightipn.api.health import Readiness, health_routes
from lightipn.api.owners import Doorkeeper
from lightipn.api.server import open_listener, serve_api
from lightipn.config import Config
from lightipn.delivery.sender import open_sender
from lightipn.dialects.blockcypher.routes import blockcypher_routes
from lightipn.dialects.callback.routes import CallbackApi
from lightipn.dialects.ipn.routes import ipn_routes
from lightipn.dialects.receive.routes import ReceiveApi
from lightipn.errors import LightIPNError, StoreError
from lightipn.parts import (
    account_hooks_of,
    address_rules_of,
    callback_policy_of,
    forwarding_kit_of,
    ipn_settings_of,
    policies_of,
    webhook_key_of,
)
from lightipn.rooms import Rooms, build_rooms, open_backend
from lightipn.service.desk import Service
from lightipn.service.ground import Doorbells, Ground, no_bell
from lightipn.store import servers as server_store
from lightipn.store.database import open_store, sole_service
from lightipn.upkeep import keep_house, look_at_database, note_followed, save_servers, write_servers

log = structlog.get_logger("app")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """A service that accepts requests.

    Args:
        url: of its API.
        readiness: what ``/readyz`` says.
    """

    url: str
    service: Service
    readiness: Callable[[], Readiness]


@asynccontextmanager
async def open_service_tools(config: Config, *, creates: bool = False) -> AsyncIterator[Service]:
    """Open the database for a command; what it writes is noticed by the service that runs on it.

    Args:
        creates: make the database if it is not there; else its absence is an error, since it most likely means that
            the command runs in another folder than the service.

    Raises:
        StoreError: the database is not there, or cannot be used.
    """
    if not creates and not config.database.exists():
        raise StoreError(f"there is no database {config.database}; is this the service's folder and configuration?")
    async with open_store(config.database, config.network.name, threaded=False, upgrades=False) as store:
        yield Service(
            Ground(
                store=store,
                network=config.network,
                policies=policies_of(config),
                check_url=address_rules_of(config).check_url,
                bells=Doorbells(watches=no_bell, messages=no_bell),
                progress=trio.Event,
                is_tip_proved=lambda: False,
                is_connected=lambda: False,
                clock=time.time,
                account_hooks=account_hooks_of(),
                forwarding=partial(forwarding_kit_of, config),
            )
        )


async def run_service(
    config: Config,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[RunningService] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the service until ``stop`` is set; then end within five seconds.

    Raises:
        ConfigError: the API's address cannot be listened on.
        StoreMismatchError: another service runs on the database, or it is of another network.
        StoreError: the database cannot be used, at the start or later.
    """
    rules = address_rules_of(config)
    delivery = config.delivery
    with sole_service(config.database):
        async with (
            open_store(config.database, config.network.name) as store,
            open_sender(
                rules, timeout_s=delivery.timeout_s, max_in_flight=delivery.max_in_flight, proxy=rules.proxy
            ) as sender,
            open_backend(config, store) as source,
        ):
            rooms = await build_rooms(config, store, sender, rules, source)
            with contextlib.closing(open_listener(config.api.bind)) as listener:
                await _run(rooms, listener, stop, task_status)


def _routes_of(rooms: Rooms) -> list[Route]:
    """Put the routes of all dialects together."""
    doorkeeper = Doorkeeper(rooms.service, anonymous=rooms.config.api.anonymous)
    return [
        *health_routes(rooms.readiness),
        *AccountApi(
            service=rooms.service,
            doorkeeper=doorkeeper,
            credit_confirmations=rooms.config.accounts.credit_confirmations,
        ).routes(),
        *feed_routes(rooms.service, doorkeeper),
        *ipn_routes(rooms.service, doorkeeper, ipn_settings_of(rooms.config)),
        *CallbackApi(
            service=rooms.service,
            doorkeeper=doorkeeper,
            policy=callback_policy_of(rooms.config),
            public_url=rooms.config.api.public_url,
            clock=time.time,
        ).routes(),
        *ReceiveApi(service=rooms.service, doorkeeper=doorkeeper).routes(),
        *blockcypher_routes(
            rooms.service,
            doorkeeper,
            network=rooms.config.network,
            public_url=rooms.config.api.public_url,
            webhook_key=webhook_key_of(rooms.config),
            connected=lambda: len(rooms.source.connected()),
            clock=time.time,
        ),
    ]


async def _run(
    rooms: Rooms, listener: socket.socket, stop: trio.Event, task_status: trio.TaskStatus[RunningService]
) -> None:
    """Start everything; when ``stop`` is set, let API and dispatcher end first, and then the rest at once."""
    failures: list[StoreError] = []

    def stop_for(error: StoreError) -> None:
        failures.append(error)
        stop.set()

    app = build_app(_routes_of(rooms), stop_for=stop_for)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    async with trio.open_nursery() as background:
        background.start_soon(rooms.source.run)
        background.start_soon(rooms.tracker.run)
        background.start_soon(rooms.keeper.run)
        background.start_soon(rooms.service.scanner.run)
        bells = [rooms.keeper.ring, rooms.dispatcher.ring, rooms.source.tell_changed]
        if rooms.forwarder is not None:
            background.start_soon(rooms.forwarder.run)
            bells.append(rooms.forwarder.ring)
        background.start_soon(look_at_database, rooms.store, *bells)
        background.start_soon(save_servers, rooms.store, rooms.source)
        background.start_soon(note_followed, rooms.store, rooms.source, lambda: rooms.tracker.follower.chain.tip_height)
        background.start_soon(
            partial(keep_house, inactive_after_s=rooms.config.accounts.inactive_after_days * 86400.0),
            rooms.store,
            policies_of(rooms.config),
            rooms.keeper.ring,
            rooms.dispatcher.ring,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_api, app, listener, stop=stop))
            nursery.start_soon(rooms.dispatcher.run, stop)
            log.info(
                "app.service_started",
                url=url,
                network=rooms.config.network.name,
                tip_height=rooms.tracker.follower.chain.tip_height,
            )
            task_status.started(RunningService(url=url, service=rooms.service, readiness=rooms.readiness))
        background.cancel_scope.cancel()
    await write_servers(rooms.store, rooms.source)
    await rooms.store.transact(server_store.forget_connections)
    log.info("app.service_stopped")
    if failures:
        raise failures[0]


async def serve_until_signalled(config: Config) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Raises:
        LightIPNError: what the operator can mend, unwrapped.
    """
    stop = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, stop, nursery.cancel_scope)
            running = await nursery.start(partial(run_service, config, stop=stop))
            await _announce_first_key(running.service, config.database)
            await stop.wait()
    except BaseExceptionGroup as group:
        error = _error_of_ours(group)
        if error is None:
            log.error("app.crashed", exc_info=group)
            raise
        raise error from group


async def _stop_on_signal(stop: trio.Event, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("app.signal_received", signal=signal.Signals(number).name)
            stop.set()
            return


async def _announce_first_key(service: Service, database: Path) -> None:
    """Make a first API key where there is none, and show it once."""
    file = database.with_name("lightipn.key")

    def show(secret: str) -> None:
        if sys.stdout.isatty():
            print(f"First API key (owner: shop), shown only now:\n\n    {secret}\n", flush=True)  # noqa: T201
            return
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
                stream.write(secret + "\n")
        except OSError as error:
            raise StoreError(f"cannot write the first API key to {file} ({error.strerror})") from error
        log.info("app.first_key_written", file=str(file), owner="shop")

    await service.owners.create_first_key(show)


def _error_of_ours(group: BaseExceptionGroup[BaseException]) -> LightIPNError | None:
    """Return the first error of ours inside a group, or None where anything else is in it: that is a bug."""
    ours, others = group.split(LightIPNError)
    if others is not None:
        return None
    error: BaseException | None = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, LightIPNError)
    return error
