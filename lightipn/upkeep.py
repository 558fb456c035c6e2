"""What a running service does beside its data flow: keep watches and database equal, remember servers, tidy up."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import trio

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import UNKNOWN, Status
from lightipn.chain.source import ChainSource, Misbehaviour, ServerState
from lightipn.outbox.policy import Policy
from lightipn.store import accounts as account_store
from lightipn.store import chain as chain_store
from lightipn.store import events as event_store
from lightipn.store import evidence as evidence_store
from lightipn.store import hooks as hook_store
from lightipn.store import ledger as ledger_store
from lightipn.store import outbox as outbox_store
from lightipn.store import reviews
from lightipn.store import servers as server_store
from lightipn.store import spends as spend_store
from lightipn.store.database import Database, Store
from lightipn.store.ledger import WatchChange

LOOK_AT_DATABASE_S = 1.0
HOUSEKEEPING_S = 60.0
NOTE_FOLLOWED_S = 10.0
WATCH_CHANGES_PAGE = 1000
RETIRED_PAGE = 100
SAVE_SERVERS_AT_MOST_EVERY_S = 1.0


class Backend(ChainSource, Protocol):
    """What the composition root needs of a source beside its evidence: to run it, and to keep its servers' state."""

    async def run(self) -> None:
        """Supply evidence for ever."""

    def watch_all(self, watches: Sequence[tuple[ScriptHash, Status | None]]) -> None:
        """Register many scripthashes with what has been absorbed of each."""

    @property
    def servers_changed(self) -> trio.Event:
        """An event that is set when ``servers`` has news; take a new one each time."""

    def tell_changed(self) -> None:
        """Have whoever waits for ``servers_changed`` look."""

    def take_evidence(self) -> list[Misbehaviour]:
        """Return what servers were caught with since the last call."""

    def trust(self, name: str) -> None:
        """Forget what is held against a server."""

    @property
    def past_progress(self) -> str:
        """What a lookup waits for beside the network, in words; empty for nothing."""


class WatchKeeper:
    """Keeps the source's watches equal to the scripts in the database."""

    def __init__(self, store: Store, source: Backend) -> None:
        self._store = store
        self._source = source
        self._bell = trio.Event()

    def ring(self) -> None:
        """Say that scripts may have changed."""
        self._bell.set()

    async def load(self) -> None:
        """Hand all scripts to the source; what was queued before is part of them."""

        def work(db: Database) -> list[tuple[ScriptHash, Status | None]]:
            ledger_store.clear_watch_changes(db)
            spend_store.drop_settled_spends(db)
            return ledger_store.load_watches(db)

        self._source.watch_all(await self._store.transact(work))

    async def run(self) -> None:
        """Work off the queue of changes whenever the bell rings."""
        while True:
            self._bell = trio.Event()
            while await self._store.read(ledger_store.has_watch_changes):
                changes = await self._store.transact(
                    lambda db: ledger_store.take_watch_changes(db, limit=WATCH_CHANGES_PAGE)
                )
                for scripthash, kind, known_status in changes:
                    match kind:
                        case WatchChange.ADDED:
                            self._watch(scripthash, known_status)
                        case WatchChange.REMOVED:
                            self._source.unwatch(scripthash)
                        case WatchChange.ASKED:
                            self._watch(scripthash, UNKNOWN)
            await self._bell.wait()

    def _watch(self, scripthash: ScriptHash, known_status: Status | None) -> None:
        # A payment may have spent from it before, so that it is watched, and its own history was never worked in.
        if not self._source.watch(scripthash, known_status):
            self._source.recheck(scripthash, after_s=0.0)


async def look_at_database(store: Store, *bells: Callable[[], None]) -> None:
    """Ring when a command wrote to the database: the one allowed poll."""
    seen = await store.data_version()
    while True:
        await trio.sleep(LOOK_AT_DATABASE_S)
        version = await store.data_version()
        if version != seen:
            seen = version
            for ring in bells:
                ring()


async def note_followed(store: Store, source: Backend, tip_height: Callable[[], int]) -> None:
    """Write now and then up to which height every history was told: where another source of evidence would begin."""
    noted = -1
    while True:
        statistics = source.statistics()
        if source.connected() and statistics.subscribed == statistics.total and tip_height() != noted:
            noted = tip_height()
            await store.transact(partial(chain_store.save_followed_height, height=noted))
        await trio.sleep(NOTE_FOLLOWED_S)


async def save_servers(store: Store, source: Backend) -> None:
    """Write what is known of the servers, and against them, whenever it changes; take up what the operator forgives."""
    while True:
        changed = source.servers_changed
        if await store.read(server_store.has_trust_changes):
            for name in await store.transact(server_store.take_trust_changes):
                source.trust(name)
        await write_servers(store, source)
        await changed.wait()
        await trio.sleep(SAVE_SERVERS_AT_MOST_EVERY_S)


async def write_servers(store: Store, source: Backend) -> None:
    """Write what is known of the servers, and against them, once."""
    states, evidence = list(source.servers()), source.take_evidence()
    if states:
        await store.transact(partial(_save_servers, states=states, evidence=evidence))


def _save_servers(db: Database, *, states: list[ServerState], evidence: list[Misbehaviour]) -> None:
    now = int(time.time())
    server_store.save_servers(db, states, now=now)
    evidence_store.save_evidence(db, evidence)
    for found in evidence:
        if found.kind == "changed-certificate":
            event_store.save_server_event(db, server=found.server, reason=found.contradiction, now=now)


async def keep_house(
    store: Store, policies: Mapping[str, Policy], *bells: Callable[[], None], inactive_after_s: float = 0.0
) -> None:
    """End what has expired, forget what was merely looked up, and mend due times of a clock that was ahead.

    Args:
        inactive_after_s: an account's address to which nothing was paid for so long loses its hooks; 0 for never.
    """
    while True:
        await _end_subscriptions(store, policies)
        dropped = 1
        while dropped:
            dropped = await store.transact(lambda db: ledger_store.drop_unwanted_scripts(db, now=int(time.time())))
        await store.transact(lambda db: outbox_store.pull_in_due_times(db, now=time.time()))
        if inactive_after_s:
            await store.transact(lambda db: retire_addresses(db, before=int(time.time() - inactive_after_s)))
        for ring in bells:
            ring()
        await trio.sleep(HOUSEKEEPING_S)


def retire_addresses(db: Database, *, before: int) -> int:
    """Remove the hooks of account addresses to which nothing was paid since a time; return how many addresses.

    Args:
        before: unix seconds.
    """
    unused = account_store.load_unused(db, before=before, limit=RETIRED_PAGE)
    for address in unused:
        for hook_id in address.hook_ids:
            hook = hook_store.load_hook(db, hook_id)
            if hook is not None:  # else its owner removed it
                reviews.drop_hook(db, hook, now=time.time())
        account_store.save_inactive(db, address)
    return len(unused)


async def _end_subscriptions(store: Store, policies: Mapping[str, Policy]) -> None:
    ended = 1
    while ended:
        ended = await store.transact(lambda db: reviews.end_expired(db, policies, now=time.time()))
    after: int | None = 0
    while after is not None:
        work = partial(reviews.release_ended, policies=policies, after=after, now=time.time())
        after = await store.transact(work)
