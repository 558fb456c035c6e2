"""What runs beside the data flow: the watches follow the database."""

from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.address import Address, address_of, parse_address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.history import UNKNOWN, Status
from lightipn.outbox.subscriptions import SubscriptionState
from lightipn.simulator import forge
from lightipn.store import ledger as ledger_store
from lightipn.store import subscriptions as subscription_store
from lightipn.store.database import Store, open_store
from lightipn.store.ledger import WatchChange
from lightipn.upkeep import HOUSEKEEPING_S, WatchKeeper, keep_house
from tests.store.plain_dialect import POLICIES


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


def some_address(name: str) -> Address:
    """Return an address that differs for every name."""
    text = address_of(forge.made_up_script(name), REGTEST)
    assert text is not None
    return parse_address(text, REGTEST)


ADDRESS = some_address("somebody")
OTHER_ADDRESS = some_address("somebody else")


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


async def test_house_is_kept_again_and_again(
    store: Store, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """What has expired ends, what was merely looked up is forgotten, and both bells ring, once a minute."""
    rung: list[str] = []
    nursery.start_soon(keep_house, store, POLICIES, lambda: rung.append("watches"), lambda: rung.append("messages"))
    await trio.testing.wait_all_tasks_blocked()
    assert rung == ["watches", "messages"]

    def work(db: ledger_store.Database) -> None:
        for owner, expires_at in (("over", 1), ("lasting", None)):
            subscription_store.save_subscription(
                db,
                dialect="plain",
                owner=owner,
                address=ADDRESS,
                url="http://shop.example/",
                terms=b"1",
                now=0,
                expires_at=expires_at,
            )
        ledger_store.want_script(db, OTHER_ADDRESS, until=1, must_ask=False)

    await store.transact(work)
    await trio.sleep(HOUSEKEEPING_S)
    await trio.testing.wait_all_tasks_blocked()
    assert rung == ["watches", "messages"] * 2
    found = await store.read(lambda db: list(subscription_store.load_subscriptions(db)))
    assert {one.owner: one.state for one in found} == {
        "over": SubscriptionState.EXPIRED,
        "lasting": SubscriptionState.ACTIVE,
    }
    assert [one.ended_at for one in found] == [None, None]
    watches = await store.read(ledger_store.load_watches)
    assert [scripthash for scripthash, _ in watches] == [ADDRESS.scripthash]
