"""Building the rooms over the open database, each with what it needs of the others; nothing runs yet."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from lightipn.api.health import Readiness
from lightipn.chain.checkpoint import Checkpoints
from lightipn.config import Config
from lightipn.delivery.dispatcher import Dispatcher
from lightipn.delivery.guard import AddressRules
from lightipn.delivery.sender import Sender
from lightipn.dialects.blockcypher.wire import encode_forward
from lightipn.electrum.pool import ServerPool
from lightipn.electrum.source import ElectrumSource
from lightipn.errors import StoreMismatchError
from lightipn.parts import (
    account_hooks_of,
    checkpoints_of,
    connector_of,
    forwarding_kit_of,
    open_node,
    policies_of,
    servers_of,
)
from lightipn.service.desk import Service
from lightipn.service.ground import Doorbells, ForwardingKit, Ground
from lightipn.store import node_blocks
from lightipn.store import servers as server_store
from lightipn.store.database import Store
from lightipn.store.forwards import is_bound_to
from lightipn.tracker.spine import Tracker, open_tracker
from lightipn.tracker.wiring import Wiring
from lightipn.upkeep import Backend, WatchKeeper

if TYPE_CHECKING:
    from lightipn.forwarding.forwarder import Forwarder

log = structlog.get_logger("app")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Everything that runs, built and not yet started."""

    config: Config
    store: Store
    source: Backend
    tracker: Tracker
    dispatcher: Dispatcher
    keeper: WatchKeeper
    service: Service
    forwarder: Forwarder | None

    def readiness(self) -> Readiness:
        """Return what ``/readyz`` says."""
        return Readiness(
            network=self.config.network.name,
            tip_height=self.tracker.follower.chain.tip_height,
            is_tip_proved=self.tracker.follower.is_tip_proved,
            watches=self.source.statistics(),
            servers=tuple(self.source.servers()),
        )


async def build_rooms(config: Config, store: Store, sender: Sender, rules: AddressRules, source: Backend) -> Rooms:
    """Build every room over the open database.

    Args:
        source: as ``open_backend`` made it.
    """
    policies = policies_of(config)
    dispatcher = Dispatcher(
        store=store,
        sender=sender,
        policies=policies,
        max_in_flight=config.delivery.max_in_flight,
        max_in_flight_per_host=config.delivery.max_in_flight_per_host,
        clock=time.time,
    )
    is_own_node = config.backend == "bitcoind"
    wiring = Wiring(
        source=source,
        store=store,
        policies=policies,
        ring=dispatcher.ring,
        clock=time.time,
        is_own_node=is_own_node,
    )
    tracker = await _open_tracker(config, wiring)
    keeper = WatchKeeper(store, source)
    await keeper.load()
    kit = forwarding_kit_of(config)
    forwarder = await _open_forwarder(config, store, kit, tracker, dispatcher)
    service = Service(
        Ground(
            store=store,
            network=config.network,
            policies=policies,
            check_url=rules.check_url,
            bells=Doorbells(watches=keeper.ring, messages=dispatcher.ring),
            progress=tracker.progress,
            is_tip_proved=lambda: tracker.follower.is_tip_proved,
            is_connected=lambda: bool(source.connected()),
            clock=time.time,
            outside=tracker.questions,
            account_hooks=account_hooks_of(),
            forwarding=lambda: kit,
            past_progress=lambda: source.past_progress,
        )
    )
    return Rooms(
        config=config,
        store=store,
        source=source,
        tracker=tracker,
        dispatcher=dispatcher,
        keeper=keeper,
        service=service,
        forwarder=forwarder,
    )


async def _open_tracker(config: Config, wiring: Wiring) -> Tracker:
    return await open_tracker(
        wiring,
        network=config.network,
        checkpoints=checkpoints_of(config.network),
        min_seen_by=1 if wiring.is_own_node else config.electrum.min_seen_by,
        drop_after_s=config.bitcoind.drop_after_s if wiring.is_own_node else config.electrum.drop_after_s,
    )


async def _open_forwarder(
    config: Config, store: Store, kit: ForwardingKit | None, tracker: Tracker, dispatcher: Dispatcher
) -> Forwarder | None:
    """Build what passes coins on, or None where forwarding is off.

    Raises:
        StoreMismatchError: the database's input addresses belong to other recovery words.
    """
    forwarding = config.forwarding
    if kit is None or forwarding.seed_file is None:
        return None
    # Not carried by a service without it.
    from lightipn.forwarding.follower import Follower
    from lightipn.forwarding.forwarder import Forwarder
    from lightipn.forwarding.plan import FeeLimits
    from lightipn.forwarding.purse import Purse

    bound = await store.read(lambda db: is_bound_to(db, kit.addresses.identity))
    if bound is False:
        raise StoreMismatchError("the database's input addresses belong to other recovery words than the seed file's")
    if bound is None:
        log.warning("app.forwarding_waits", hint="lightipn forwarding recover: which addresses were used is not known")
    purse = Purse(
        network=config.network,
        seed_file=forwarding.seed_file,
        limits=FeeLimits(max_percent=forwarding.max_fee_percent, max_rate=forwarding.max_fee_rate),
        fee_target_blocks=forwarding.fee_target_blocks,
        outside=tracker.questions,
    )
    follower = Follower(
        store=store,
        purse=purse,
        outside=tracker.questions,
        bump_after_blocks=forwarding.bump_after_blocks,
        payload_of=encode_forward,
        ring=dispatcher.ring,
        clock=time.time,
    )
    return Forwarder(
        store=store,
        purse=purse,
        follower=follower,
        confirmations=forwarding.confirmations,
        is_ready=lambda: tracker.follower.is_tip_proved,
        clock=time.time,
    )


@asynccontextmanager
async def open_backend(config: Config, store: Store) -> AsyncIterator[Backend]:
    """Open where evidence comes from, as the configuration says."""
    await store.transact(server_store.take_trust_changes)  # what the operator forgave is in the rows already
    if config.backend == "electrum":
        await store.transact(node_blocks.clear)
        pool = await _open_pool(config, store, checkpoints_of(config.network))
        yield ElectrumSource(
            pool, redundancy=config.electrum.redundancy, sweep_interval_s=config.electrum.sweep_interval_s
        )
        return
    # A service on Electrum servers does not carry it.
    from lightipn.bitcoind.source import BitcoindSource, NodeOptions

    async with open_node(config) as node:
        await store.transact(lambda db: server_store.retire_servers(db, {node.name}))
        options = NodeOptions(poll_interval_s=config.bitcoind.poll_interval_s, zmq=config.bitcoind.zmq)
        yield BitcoindSource(node, store, config.network, options)


async def _open_pool(config: Config, store: Store, checkpoints: Checkpoints) -> ServerPool:
    addresses, is_builtin = servers_of(config)
    if not addresses:
        log.warning("app.no_servers", network=config.network.name, hint="set [electrum] servers")
    names = {address.name for address in addresses}
    await store.transact(lambda db: server_store.retire_servers(db, names))
    known = {state.name: state for state in await store.read(server_store.load_servers)}
    return ServerPool(
        addresses,
        config.network,
        connector=connector_of(config),
        connections=config.electrum.connections,
        ban_s=config.electrum.ban_s,
        clock=time.time,
        lowest_tip=checkpoints.last.height,
        is_builtin=is_builtin,
        remembered=await store.read(server_store.load_remembered),
        known=known,
    )
