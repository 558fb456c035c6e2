"""What runs beside the data flow: the watches follow the database."""

from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.address import Address, address_of, parse_address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.history import UNKNOWN, Status
from lightipn.chain.source import WatchStatistics
from lightipn.outbox.subscriptions import SubscriptionState
from lightipn.simulator import forge
from lightipn.store import accounts as account_store
from lightipn.store import chain as chain_store
from lightipn.store import hooks as hook_store
from lightipn.store import ledger as ledger_store
from lightipn.store import subscriptions as subscription_store
from lightipn.store.database import Database, Store, open_store
from lightipn.store.ledger import WatchChange
from lightipn.upkeep import (
    HOUSEKEEPING_S,
    NOTE_FOLLOWED_S,
    RETIRED_PAGE,
    WatchKeeper,
    keep_house,
    note_followed,
    retire_addresses,
)
from tests.builders import confirmed, entry_of
from tests.store.account_rows import DEPTH, account_in, open_account, sums_in
from tests.store.plain_dialect import POLICIES
from tests.store.rows import NOW, TIP, claim, pay, regtest_address
from tests.store.tips import grow, stand_at_tip, wake


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


# --- addresses that nobody pays ----------------------------------------------------------------------------------


def give_hooks(db: Database, *numbers: int) -> None:
    """Make an account at a tip; each of its addresses has a hook of its own."""
    stand_at_tip(db)
    account = open_account(db)
    for number in numbers:
        address = regtest_address(number)
        url = f"http://shop.example/{number}"
        hook = hook_store.add_hook(
            db, owner="shop", address=address.text, wallet_id=None, url=url, terms=b"1", private_key="k", now=NOW
        )
        subscription_store.save_subscription(
            db,
            dialect="plain",
            owner="shop",
            address=address,
            url=url,
            terms=b"1",
            now=NOW,
            since_height=TIP,
            hook_id=hook.hook_id,
        )
        account_store.add_address(db, account, address, index=None, hook_ids=[hook.hook_id], now=NOW)


def addresses_in(db: Database) -> dict[str, tuple[bool, int]]:
    """Return the account's addresses: whether each is active, and how many hooks it has."""
    found = account_store.load_addresses(db, account_in(db).account_id)
    return {one.address: (one.is_active, len(one.hook_ids)) for one in found}


def hooked_in(db: Database) -> set[str]:
    """Return the addresses that there are hooks about."""
    return {hook.address for hook in hook_store.load_hooks(db, owner="shop", limit=1000)}


async def test_unused_address_loses_its_hooks(store: Store) -> None:
    """Hooks of an address that nothing was paid to for long go, with their subscriptions; others stay."""
    unused, used = (regtest_address(number).text for number in range(2))

    def work(db: Database) -> int:
        give_hooks(db, 0, 1)
        pay(db, 1, entry_of(1, state=confirmed(TIP - 1)), now=NOW + 10)
        return retire_addresses(db, before=NOW + 10)

    assert await store.transact(work) == 1
    assert await store.read(addresses_in) == {unused: (False, 0), used: (True, 1)}
    assert await store.read(hooked_in) == {used}
    left = await store.read(lambda db: list(subscription_store.load_subscriptions(db)))
    assert {(one.address, one.state) for one in left if one.state is SubscriptionState.ACTIVE} == {
        (used, SubscriptionState.ACTIVE)
    }
    assert await store.transact(lambda db: retire_addresses(db, before=NOW + 10)) == 0


async def test_payment_to_an_inactive_address_counts(store: Store) -> None:
    """What is paid to an address without hooks is locked and credited all the same, and nobody is called."""

    def work(db: Database) -> None:
        give_hooks(db, 0)
        assert retire_addresses(db, before=NOW + 1) == 1
        assert ledger_store.is_watched(db, regtest_address(0).scripthash)
        pay(db, 0, entry_of(1, received_sat=700, state=confirmed(TIP)), now=NOW + 20)
        assert sums_in(db) == (0, 700)
        grow(db, DEPTH - 1)
        wake(db)
        assert sums_in(db) == (700, 0)
        assert claim(db, now=NOW + 10_000) == ([], None)

    await store.transact(work)
    assert await store.read(addresses_in) == {regtest_address(0).text: (False, 0)}


async def test_address_with_a_payment_under_way_keeps_its_hooks(store: Store) -> None:
    """However long it takes a payment to be credited: its hooks are there until it is, or until it failed."""

    def work(db: Database) -> list[int]:
        give_hooks(db, 0)
        retired = []
        for height in (None, TIP, TIP - 1):
            state = None if height is None else confirmed(height)
            pay(db, 0, entry_of(1, state=state), now=NOW)
            retired.append(retire_addresses(db, before=NOW + 10**6))
        return retired

    assert await store.transact(work) == [0, 0, 1]


async def test_hook_that_its_owner_removed_is_no_obstacle(store: Store) -> None:
    """An address whose hook was removed by hand becomes inactive like any other."""

    def work(db: Database) -> int:
        give_hooks(db, 0)
        for hook in hook_store.load_hooks(db, owner="shop", limit=9):
            hook_store.remove_hook(db, hook.hook_id)
        return retire_addresses(db, before=NOW + 1)

    assert await store.transact(work) == 1
    assert await store.read(addresses_in) == {regtest_address(0).text: (False, 0)}


async def test_many_addresses_are_retired_page_by_page(store: Store) -> None:
    """No transaction holds up the writer for thousands of addresses; the next ones follow."""

    def work(db: Database) -> list[int]:
        open_account(db, *range(RETIRED_PAGE + 1))
        return [retire_addresses(db, before=NOW + 1) for _ in range(3)]

    assert await store.transact(work) == [RETIRED_PAGE, 1, 0]


@pytest.mark.parametrize(("after_s", "expected"), [(86400.0, (False, 0)), (0.0, (True, 1)), (1e10, (True, 1))])
async def test_house_keeping_retires_after_the_configured_time(
    store: Store,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    after_s: float,
    expected: tuple[bool, int],
) -> None:
    """A running service retires what was unused for longer than it is told; with 0 it never does."""
    await store.transact(lambda db: give_hooks(db, 0))
    nursery.start_soon(lambda: keep_house(store, POLICIES, inactive_after_s=after_s))
    await trio.testing.wait_all_tasks_blocked()
    assert await store.read(addresses_in) == {regtest_address(0).text: expected}


# --- up to where histories were told ---


class FollowingSource:
    """Says how many of its two scripts it looks after, and whether anybody can be asked."""

    def __init__(self) -> None:
        self.subscribed = 2
        self.is_connected = True
        self.tip_height = 100

    def connected(self) -> list[str]:
        """Return whom it can ask."""
        return ["somebody"] if self.is_connected else []

    def statistics(self) -> WatchStatistics:
        """Return how many scripts are looked after."""
        return WatchStatistics(total=2, subscribed=self.subscribed, quarantined=0, oldest_gap_s=0.0)


@pytest.fixture
async def following(store: Store, nursery: trio.Nursery) -> FollowingSource:
    """A source of which it is noted how far it is; nothing was noted yet."""
    source = FollowingSource()
    nursery.start_soon(note_followed, store, source, lambda: source.tip_height)
    return source


async def test_height_is_noted_while_every_history_is_told(
    store: Store, following: FollowingSource, autojump_clock: trio.testing.MockClock
) -> None:
    """Another source of evidence would begin where this one had told everything, so that is kept up to date."""
    await trio.sleep(1.0)
    assert await store.read(chain_store.load_followed_height) == 100
    following.tip_height = 105
    await trio.sleep(NOTE_FOLLOWED_S)
    assert await store.read(chain_store.load_followed_height) == 105
    following.tip_height = 104  # after a reorg
    await trio.sleep(NOTE_FOLLOWED_S)
    assert await store.read(chain_store.load_followed_height) == 104


@pytest.mark.parametrize("lack", [{"subscribed": 1}, {"is_connected": False}, {"subscribed": 0, "is_connected": False}])
async def test_height_is_not_noted_while_a_history_may_be_missing(
    lack: dict[str, int], store: Store, following: FollowingSource, autojump_clock: trio.testing.MockClock
) -> None:
    """Headers run ahead of histories: while one script waits, or nobody can be asked, the last height stands."""
    await trio.sleep(1.0)
    for name, value in lack.items():
        setattr(following, name, value)
    following.tip_height = 200
    await trio.sleep(5 * NOTE_FOLLOWED_S)
    assert await store.read(chain_store.load_followed_height) == 100
    following.subscribed, following.is_connected = 2, True
    await trio.sleep(NOTE_FOLLOWED_S)
    assert await store.read(chain_store.load_followed_height) == 200


async def test_height_is_written_only_when_it_changes(
    store: Store, following: FollowingSource, autojump_clock: trio.testing.MockClock
) -> None:
    """A service with nothing to do writes nothing."""
    await trio.sleep(1.0)
    await store.transact(lambda db: chain_store.save_followed_height(db, 7))  # would be written over
    await trio.sleep(5 * NOTE_FOLLOWED_S)
    assert await store.read(chain_store.load_followed_height) == 7
