"""What a running service does beside its data flow: keep watches and database equal, remember servers, tidy up."""

import time
from collections.abc import Callable

import trio

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import Status
from lightipn.electrum.source import ElectrumSource
from lightipn.store import ledger as ledger_store
from lightipn.store import outbox as outbox_store
from lightipn.store import servers as server_store
from lightipn.store.database import Database, Store
from lightipn.store.ledger import WatchChange

LOOK_AT_DATABASE_S = 1.0
HOUSEKEEPING_S = 60.0
WATCH_CHANGES_PAGE = 1000
SAVE_SERVERS_AT_MOST_EVERY_S = 1.0


class WatchKeeper:
    """Keeps the source's watches equal to the scripts in the database."""

    def __init__(self, store: Store, source: ElectrumSource) -> None:
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
                            self._source.watch(scripthash, known_status)
                        case WatchChange.REMOVED:
                            self._source.unwatch(scripthash)
                        case WatchChange.ASKED:
                            self._source.recheck(scripthash, after_s=0.0)
            await self._bell.wait()


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


async def save_servers(store: Store, source: ElectrumSource) -> None:
    """Write what is known of the servers whenever it changes, for ``status`` and the next start."""
    while True:
        changed = source.servers_changed
        states = source.servers()
        if states:
            await store.transact(lambda db, s=states: server_store.save_servers(db, s, now=int(time.time())))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        await changed.wait()
        await trio.sleep(SAVE_SERVERS_AT_MOST_EVERY_S)


async def keep_house(store: Store, *bells: Callable[[], None]) -> None:
    """Forget what was merely looked up, and due times that a clock which was ahead put too far away."""
    while True:
        dropped = 1
        while dropped:
            dropped = await store.transact(lambda db: ledger_store.drop_unwanted_scripts(db, now=int(time.time())))
        await store.transact(lambda db: outbox_store.pull_in_due_times(db, now=time.time()))
        for ring in bells:
            ring()
        await trio.sleep(HOUSEKEEPING_S)
