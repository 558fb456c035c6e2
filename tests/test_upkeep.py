"""What runs beside the data flow: the watches follow the database."""

from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.address import Address, address_of, parse_address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.history import UNKNOWN, Status
from lightipn.simulator import forge
from lightipn.store import ledger as ledger_store
from lightipn.store.database import Store, open_store
from lightipn.store.ledger import WatchChange
from lightipn.upkeep import WatchKeeper


class NotedSource:
    """What a keeper tells a source."""

    def __init__(self) -> None:
        self.known: dict[ScriptHash, Status | None] = {}
        self.rechecked: list[ScriptHash] = []

    def watch_all(self, watches: list[tuple[ScriptHash, Status | None]]) -> None:
        """Note all watches of the start."""
        self.known.update(watches)

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> bool:
        """Note a watch, if it is new."""
        is_new = scripthash not in self.known
        self.known.setdefault(scripthash, known_status)
        return is_new

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a watch."""
        self.known.pop(scripthash, None)

    def recheck(self, scripthash: ScriptHash, *, after_s: float) -> None:
        """Note a wish that a source would drop where it does not know the script."""
        if scripthash in self.known:
            self.rechecked.append(scripthash)


def some_address() -> Address:
    """Return an address."""
    text = address_of(forge.made_up_script("somebody"), REGTEST)
    assert text is not None
    return parse_address(text, REGTEST)


ADDRESS = some_address()


@pytest.fixture
async def store(tmp_path: Path):  # type: ignore[no-untyped-def]  # a fixture
    """An open database without threads."""
    async with open_store(tmp_path / "a.db", "regtest", threaded=False) as store:
        yield store


@pytest.fixture
async def keeper(store: Store, nursery: trio.Nursery) -> tuple[WatchKeeper, NotedSource]:
    """A running keeper and its source."""
    source = NotedSource()
    keeper = WatchKeeper(store, source)  # type: ignore[arg-type]  # it has the methods that a keeper calls
    await keeper.load()
    nursery.start_soon(keeper.run)
    await trio.testing.wait_all_tasks_blocked()
    return keeper, source


async def test_script_that_is_watched_for_a_payment_is_asked_when_somebody_wants_it(
    store: Store, keeper: tuple[WatchKeeper, NotedSource]
) -> None:
    """A script that an unconfirmed payment spends from is watched, but its own history was never worked in."""
    watches, source = keeper
    source.known[ADDRESS.scripthash] = Status(bytes(32))
    await store.transact(lambda db: ledger_store.add_script(db, ADDRESS))
    watches.ring()
    await trio.testing.wait_all_tasks_blocked()
    assert source.rechecked == [ADDRESS.scripthash]


async def test_script_that_must_be_asked_is_watched_even_if_nobody_knew_it(
    store: Store, keeper: tuple[WatchKeeper, NotedSource]
) -> None:
    """A wish to ask is never lost on a script that the source does not know."""
    watches, source = keeper

    def work(db: ledger_store.Database) -> None:
        ledger_store.add_script(db, ADDRESS)
        ledger_store.clear_watch_changes(db)
        ledger_store.save_watch_change(db, ADDRESS.scripthash, WatchChange.ASKED)

    await store.transact(work)
    watches.ring()
    await trio.testing.wait_all_tasks_blocked()
    assert source.known == {ADDRESS.scripthash: UNKNOWN}
