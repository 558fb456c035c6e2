"""What callers may ask: subscriptions, totals, lookups that are shared, limited and never endless.

The clock is Trio's own, which jumps while everybody waits; transactions run in place, because it would jump while a
thread works too.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from lightipn import service as service_module
from lightipn.bitcoin.address import Address
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.headers import ChainDelta
from lightipn.chain.history import Status
from lightipn.chain.source import ServerState
from lightipn.errors import RequestError, StoreError
from lightipn.ledger.entries import LedgerEntry, ReceivedTotals
from lightipn.service import (
    LOOKUP_KEEP_S,
    LOOKUP_WAIT_S,
    LOOKUPS_AT_ONCE,
    Doorbells,
    Service,
    Summary,
    Wish,
)
from lightipn.store import chain, ledger, servers
from lightipn.store.database import Database, Store, open_store
from tests.builders import confirmed, entry_of, genesis_of, mined_run
from tests.store.plain_dialect import POLICIES, payload_of
from tests.store.rows import NOW, TIP, regtest_address

URL = "https://shop.example/ipn"
NOTHING = ReceivedTotals(confirmed_sat=0, unconfirmed_sat=0, changes_at_height=None)


class Tools:
    """A service, its database, and a tracker made of a bell: the test works lookups in by hand."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.rung: list[str] = []
        self._progress = trio.Event()
        self.service = Service(
            store=store,
            network=REGTEST,
            policies=POLICIES,
            check_url=self.check_url,
            bells=Doorbells(watches=lambda: self.rung.append("watches"), messages=lambda: self.rung.append("messages")),
            progress=lambda: self._progress,
            clock=lambda: NOW + trio.current_time(),
        )

    @staticmethod
    def check_url(url: str) -> None:
        """Refuse what begins with ``bad``."""
        if url.startswith("bad"):
            raise RequestError("url: is bad", code="bad-url")

    async def wanted(self) -> list[str]:
        """Return the addresses that somebody looks up, and that were not worked in yet."""
        rows = await self.store.read(
            lambda db: db.execute(
                "SELECT address FROM script WHERE wanted_until > 0 AND absorbed_at IS NULL"
            ).fetchall()
        )
        return sorted(row[0] for row in rows)

    async def lookups_asked(self) -> int:
        """Return how often the running service was asked to look at an address."""
        count = await self.store.read(lambda db: db.execute("SELECT count(*) FROM watch_change").fetchone()[0])
        return int(count)

    async def settle(self, address: Address, *entries: LedgerEntry, trouble: str = "") -> None:
        """Work an address' history in, as the tracker does, and tell whoever waits."""

        def work(db: Database) -> None:
            if trouble:
                ledger.save_trouble(db, address.scripthash, trouble)
                return
            ledger.save_entries(db, address.scripthash, entries)
            ledger.save_status(db, address.scripthash, Status(b"\x01" * 32), is_complete=True, now=NOW)

        await self.store.transact(work)
        self._progress.set()
        self._progress = trio.Event()


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[Tools]:
    """A service over an empty database with a tip."""
    async with open_store(tmp_path / "shop.db", "regtest", threaded=False) as store:
        await store.transact(lambda db: chain.save_base_height(db, TIP))
        yield Tools(store)


class Asking:
    """Callers that ask for totals side by side: what each was told, and when."""

    def __init__(self, tools: Tools, nursery: trio.Nursery) -> None:
        self.answers: dict[str, tuple[float, ReceivedTotals | str]] = {}
        self._tools = tools
        self._nursery = nursery

    def ask(self, name: str, address: Address, *, confirmations: int = 1) -> trio.CancelScope:
        """Start a caller; cancelling what comes back makes it go away."""
        scope = trio.CancelScope()

        async def run() -> None:
            answer: ReceivedTotals | str
            with scope:
                try:
                    answer = await self._tools.service.received(address.text, confirmations=confirmations)
                except RequestError as error:
                    answer = f"{error.status_hint} {error.code}"
                self.answers[name] = (trio.current_time(), answer)

        self._nursery.start_soon(run)
        return scope


@asynccontextmanager
async def open_asking(tools: Tools) -> AsyncIterator[Asking]:
    """Let callers ask; all must have been answered, or have gone away, in the end."""
    async with trio.open_nursery() as nursery:
        yield Asking(tools, nursery)


async def refusal_of(tools: Tools, address: str, url: str, owner: str = "shop") -> str:
    """Return the code with which a subscription is refused."""
    with pytest.raises(RequestError) as caught:
        await tools.service.subscribe(dialect="plain", owner=owner, address=address, url=url, terms=b"1")
    return caught.value.code


# --- lookups -----------------------------------------------------------------------------------------------------


async def test_known_address_is_answered_at_once(tools: Tools, autojump_clock: MockClock) -> None:
    """An address whose history was worked in is answered from the database, and nobody is asked."""
    address = regtest_address(0)
    await tools.service.subscribe(dialect="plain", owner="shop", address=address.text, url=URL, terms=b"1")
    await tools.settle(address, entry_of(1, received_sat=40, state=confirmed(TIP)), entry_of(2, received_sat=2))
    asked = await tools.lookups_asked()
    totals = await tools.service.received(address.text, confirmations=1)
    assert totals == ReceivedTotals(confirmed_sat=40, unconfirmed_sat=2, changes_at_height=None)
    totals = await tools.service.received(address.text, confirmations=2)
    assert totals == ReceivedTotals(confirmed_sat=0, unconfirmed_sat=42, changes_at_height=TIP + 1)
    assert (await tools.lookups_asked(), trio.current_time()) == (asked, 0.0)


async def test_unknown_address_is_looked_up(tools: Tools, autojump_clock: MockClock) -> None:
    """The first question leaves a row, rings, and is answered when the history was worked in."""
    async with open_asking(tools) as asking:
        asking.ask("a", regtest_address(0))
        await trio.sleep(3)
        assert await tools.wanted() == [regtest_address(0).text]
        assert tools.rung == ["watches"]
        await tools.settle(regtest_address(1))  # somebody else's history
        await tools.settle(regtest_address(0), entry_of(1, received_sat=7))
    assert asking.answers == {"a": (3.0, ReceivedTotals(confirmed_sat=0, unconfirmed_sat=7, changes_at_height=None))}
    assert await tools.service.received(regtest_address(0).text, confirmations=1) == asking.answers["a"][1]
    assert await tools.lookups_asked() == 1


async def test_freshly_watched_address_is_looked_up_too(tools: Tools, autojump_clock: MockClock) -> None:
    """An address that is watched, and was not worked in yet, is asked for before its totals are told."""
    address = regtest_address(0)
    await tools.service.subscribe(dialect="plain", owner="shop", address=address.text, url=URL, terms=b"1")
    async with open_asking(tools) as asking:
        asking.ask("a", address)
        await trio.sleep(1)
        assert asking.answers == {}
        await tools.settle(address)
    assert asking.answers == {"a": (1.0, NOTHING)}


async def test_callers_of_one_address_share_one_lookup(tools: Tools, autojump_clock: MockClock) -> None:
    """Whoever asks for the same address joins the lookup that is under way."""
    async with open_asking(tools) as asking:
        for number in range(20):
            asking.ask(str(number), regtest_address(0))
        await trio.sleep(1)
        assert await tools.lookups_asked() == 1
        await tools.settle(regtest_address(0))
    assert asking.answers == {str(number): (1.0, NOTHING) for number in range(20)}


async def test_lookup_goes_on_when_the_first_caller_goes_away(tools: Tools, autojump_clock: MockClock) -> None:
    """A caller that joined is answered although the one who began the lookup gave it up."""
    async with open_asking(tools) as asking:
        first = asking.ask("first", regtest_address(0))
        await trio.sleep(1)
        asking.ask("joined", regtest_address(0))
        await trio.sleep(1)
        first.cancel()
        await trio.sleep(1)
        await tools.settle(regtest_address(0))
    assert asking.answers == {"joined": (3.0, NOTHING)}


async def test_four_addresses_are_looked_up_at_once(tools: Tools, autojump_clock: MockClock) -> None:
    """A fifth address waits until one of the four is there; known addresses never wait."""
    addresses = [regtest_address(number) for number in range(6)]
    async with open_asking(tools) as asking:
        for number in range(5):
            asking.ask(str(number), addresses[number])
            await trio.testing.wait_all_tasks_blocked()
        assert await tools.wanted() == sorted(address.text for address in addresses[:LOOKUPS_AT_ONCE])
        await trio.sleep(2)
        await tools.settle(addresses[1])
        await trio.testing.wait_all_tasks_blocked()
        assert addresses[4].text in await tools.wanted()
        assert (await tools.service.received(addresses[1].text, confirmations=1)) == NOTHING
        for number in (0, 2, 3, 4):
            await tools.settle(addresses[number])
    assert {name: at for name, (at, _) in asking.answers.items()} == dict.fromkeys("01234", 2.0)


async def test_lookup_that_takes_too_long_is_pending(tools: Tools, autojump_clock: MockClock) -> None:
    """After ten seconds the caller is told to come again; the work goes on, and the next call profits."""
    async with open_asking(tools) as asking:
        asking.ask("early", regtest_address(0))
        await trio.sleep(4)
        asking.ask("late", regtest_address(0))
    assert asking.answers == {
        "early": (LOOKUP_WAIT_S, "503 lookup-pending"),
        "late": (4 + LOOKUP_WAIT_S, "503 lookup-pending"),
    }
    assert await tools.wanted() == [regtest_address(0).text]
    await tools.settle(regtest_address(0))
    assert await tools.service.received(regtest_address(0).text, confirmations=1) == NOTHING


async def test_waiting_for_a_turn_counts(tools: Tools, autojump_clock: MockClock) -> None:
    """Ten seconds are ten seconds, also for a caller whose turn never came; the places are free afterwards."""
    async with open_asking(tools) as asking:
        for number in range(12):
            asking.ask(str(number), regtest_address(number))
    assert set(asking.answers.values()) == {(LOOKUP_WAIT_S, "503 lookup-pending")}
    async with open_asking(tools) as asking:
        asking.ask("next", regtest_address(99))
        await trio.sleep(1)
        await tools.settle(regtest_address(99))
    assert asking.answers == {"next": (11.0, NOTHING)}


async def test_history_that_is_too_long_is_refused(tools: Tools, autojump_clock: MockClock) -> None:
    """A history that is not read is 503 with its reason, at once and on the next call."""
    async with open_asking(tools) as asking:
        asking.ask("a", regtest_address(0))
        await trio.sleep(1)
        await tools.settle(regtest_address(0), trouble="history-too-long")
    assert asking.answers == {"a": (1.0, "503 history-too-long")}
    with pytest.raises(RequestError, match="history-too-long"):
        await tools.service.received(regtest_address(0).text, confirmations=1)


async def test_looked_up_address_stays_watched_while_it_is_polled(tools: Tools, autojump_clock: MockClock) -> None:
    """Polling keeps an address alive, without a write for every poll."""
    address = regtest_address(0)
    async with open_asking(tools) as asking:
        asking.ask("a", address)
        await trio.testing.wait_all_tasks_blocked()
        await tools.settle(address)

    async def until() -> int:
        record = await tools.store.read(lambda db: ledger.load_script(db, address.scripthash))
        assert record is not None
        assert record.wanted_until is not None
        return record.wanted_until

    assert await until() == NOW + LOOKUP_KEEP_S
    ends = set()
    for _ in range(100):  # a poll each minute
        await trio.sleep(60)
        await tools.service.received(address.text, confirmations=1)
        ends.add(await until())
        assert await until() >= NOW + trio.current_time() + LOOKUP_KEEP_S // 2
    assert len(ends) < 25


@pytest.mark.parametrize("text", ["", "nonsense", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"])
async def test_totals_of_no_address_are_refused(tools: Tools, text: str) -> None:
    """What is no address of the network is refused before anything is written."""
    with pytest.raises(RequestError) as caught:
        await tools.service.received(text, confirmations=1)
    assert caught.value.code == "bad-address"
    assert await tools.lookups_asked() == 0


async def test_lookups_are_limited_in_number(
    tools: Tools, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks up very many addresses is refused; known ones, and watched ones, are answered all the same."""
    monkeypatch.setattr(service_module, "MOST_LOOKUPS", 3)
    for number in range(3):
        await tools.service.request_lookup(regtest_address(number))
        await tools.settle(regtest_address(number))
    with pytest.raises(RequestError) as caught:
        await tools.service.received(regtest_address(3).text, confirmations=1)
    assert (caught.value.code, caught.value.status_hint) == ("too-many-lookups", 503)
    assert await tools.service.received(regtest_address(0).text, confirmations=1) == NOTHING
    watched = regtest_address(4)
    await tools.service.subscribe(dialect="plain", owner="shop", address=watched.text, url=URL, terms=b"1")
    async with open_asking(tools) as asking:
        asking.ask("watched", watched)
        await trio.testing.wait_all_tasks_blocked()
        await tools.settle(watched)
    assert asking.answers == {"watched": (0.0, NOTHING)}


# --- subscriptions -----------------------------------------------------------------------------------------------


async def test_subscription_is_a_row_and_two_bells(tools: Tools) -> None:
    """A subscription is written, and the running service is told that there may be something to watch and to send."""
    await tools.service.subscribe(dialect="plain", owner="shop", address=regtest_address(0).text, url=URL, terms=b"1")
    (found,) = await tools.service.list_subscriptions()
    assert (found.owner, found.address, found.url, found.terms) == ("shop", regtest_address(0).text, URL, b"1")
    assert sorted(tools.rung) == ["messages", "watches"]


async def test_paid_address_is_told_at_once(tools: Tools, autojump_clock: MockClock) -> None:
    """Subscribing to an address that is known and was paid makes its message in the same transaction."""
    address = regtest_address(0)
    await tools.service.subscribe(dialect="plain", owner="a", address=address.text, url=URL, terms=b"1")
    await tools.settle(address, entry_of(1, received_sat=40, state=confirmed(TIP)))
    await tools.service.subscribe(dialect="plain", owner="b", address=address.text, url=URL, terms=b"1")
    (delivery,) = await tools.service.list_deliveries(limit=9)
    assert (delivery.owner, delivery.payload, delivery.state) == ("b", payload_of(40, 0), "due")


async def test_bad_wishes_do_not_hold_back_good_ones(tools: Tools) -> None:
    """Of many wishes the good ones are done, and each bad one has its reason, at its place."""
    wishes = [
        Wish(address=regtest_address(0).text, url=URL, terms=b"1"),
        Wish(address="nonsense", url=URL, terms=b"1"),
        Wish(address=regtest_address(1).text, url="bad", terms=b"1"),
        Wish(address=regtest_address(2).text, url=URL, terms=b"1"),
    ]
    refusals = await tools.service.subscribe_all(wishes, dialect="plain", owner="shop")
    assert [refusal and refusal.code for refusal in refusals] == [None, "bad-address", "bad-url", None]
    found = await tools.service.list_subscriptions()
    assert [item.address for item in found] == [regtest_address(0).text, regtest_address(2).text]
    assert await tools.service.subscribe_all([], dialect="plain", owner="shop") == []


async def test_single_bad_wish_is_an_error(tools: Tools) -> None:
    """One wish is refused with its reason, and nothing is written."""
    assert await refusal_of(tools, "nonsense", URL) == "bad-address"
    assert await refusal_of(tools, regtest_address(0).text, "bad") == "bad-url"
    assert await refusal_of(tools, regtest_address(0).text, URL, owner="a b") == "bad-name"
    assert await tools.service.list_subscriptions() == []


async def test_subscriptions_are_listed_and_removed_by_address(tools: Tools) -> None:
    """Any spelling of an address finds its subscriptions; removing counts them and rings."""
    for number, url in ((0, "https://a.example/"), (0, "https://b.example/"), (1, "https://a.example/")):
        await tools.service.subscribe(
            dialect="plain", owner="shop", address=regtest_address(number).text, url=url, terms=b"1"
        )
    capitals = regtest_address(0).text.upper()
    assert len(await tools.service.list_subscriptions(address=capitals)) == 2
    assert len(await tools.service.list_subscriptions(limit=1)) == 1
    tools.rung.clear()
    assert await tools.service.unsubscribe(capitals, url="https://b.example/") == 1
    assert tools.rung == ["watches"]
    assert await tools.service.unsubscribe(capitals, url="https://b.example/") == 0
    assert await tools.service.unsubscribe(capitals, url=None) == 1
    assert [item.address for item in await tools.service.list_subscriptions()] == [regtest_address(1).text]


# --- keys --------------------------------------------------------------------------------------------------------


async def test_key_is_made_once_and_works(tools: Tools) -> None:
    """A key is a long random text with a known beginning, belongs to its owner, and rings for held messages."""
    secret = await tools.service.create_key("shop")
    assert re.fullmatch(r"lipn_[A-Za-z0-9_-]{43}", secret)
    assert await tools.service.owner_of(secret) == "shop"
    assert secret != await tools.service.create_key("shop")
    assert "messages" in tools.rung
    assert [key.name for key in await tools.service.list_keys()] == ["shop", "shop"]


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", ".a", "a\n", "a/b", "ü", "a" * 65, "a\x00", "\udcff"])
async def test_names_are_short_and_plain(tools: Tools, name: str) -> None:
    """A name that could not be typed or shown is refused, in one printable line."""
    with pytest.raises(RequestError) as caught:
        await tools.service.create_key(name)
    assert caught.value.code == "bad-name"
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a", "shop", "Shop.1_2@x-y", "9", "a" * 64])
async def test_plain_names_are_taken(tools: Tools, name: str) -> None:
    """Letters, digits and a few signs make a name."""
    assert await tools.service.owner_of(await tools.service.create_key(name)) == name


async def test_first_key_is_made_once_ever(tools: Tools) -> None:
    """A key is made, and shown, where there has never been one; a revoked one counts."""
    shown: list[str] = []
    await tools.service.create_first_key(shown.append)
    await tools.service.create_first_key(shown.append)
    assert [await tools.service.owner_of(secret) for secret in shown] == ["shop"]
    assert await tools.service.revoke_key("shop") == 1
    await tools.service.create_first_key(shown.append)
    assert len(shown) == 1
    assert await tools.service.revoke_key("shop") == 0


async def test_first_key_that_cannot_be_shown_is_not_made(tools: Tools) -> None:
    """A key that nobody has seen is never in force, so the next start makes one that somebody sees."""

    def fail(secret: str) -> None:
        raise StoreError("the folder cannot be written")

    with pytest.raises(StoreError):
        await tools.service.create_first_key(fail)
    assert await tools.service.list_keys() == []


# --- deliveries and state ----------------------------------------------------------------------------------------


async def test_delivery_is_shown_and_made_due(tools: Tools, autojump_clock: MockClock) -> None:
    """A message is shown with its attempts; a retry makes it due now and rings; an unknown one is 404."""
    address = regtest_address(0)
    await tools.service.subscribe(dialect="plain", owner="shop", address=address.text, url=URL, terms=b"1")
    await tools.settle(address, entry_of(1, received_sat=40))
    await tools.service.subscribe(dialect="plain", owner="shop", address=address.text, url=URL, terms=b"1")
    delivery, attempts = await tools.service.show_delivery(1)
    assert (delivery.address, delivery.due_at, attempts) == (address.text, NOW, [])
    await trio.sleep(5)
    tools.rung.clear()
    await tools.service.retry_delivery(1)
    assert tools.rung == ["messages"]
    assert (await tools.service.show_delivery(1))[0].due_at == NOW + 5
    for call in (tools.service.show_delivery, tools.service.retry_delivery):
        with pytest.raises(RequestError) as caught:
            await call(2)
        assert (caught.value.code, caught.value.status_hint) == ("unknown-delivery", 404)


async def test_summary_is_what_the_database_says(tools: Tools) -> None:
    """The state of the service is told from its database alone, running or not."""
    empty = await tools.service.summary()
    assert empty == Summary(
        tip=None,
        tip_height=TIP,
        subscriptions=0,
        pending_deliveries=0,
        held_deliveries=0,
        oldest_due_at=None,
        servers=(),
        failing_hosts=(),
        is_key_there=False,
    )
    headers = tuple(parse_header(raw) for raw in mined_run(genesis_of(REGTEST), 2))
    delta = ChainDelta(fork_height=TIP, disconnected=(), connected=headers)
    server = ServerState(name="a.example:50002:s", verdict="connected")
    await tools.store.transact(lambda db: chain.save_delta(db, delta))
    await tools.store.transact(lambda db: servers.save_servers(db, [server], now=NOW))
    await tools.service.create_key("shop")
    full = await tools.service.summary()
    tip = delta.connected[-1]
    assert (full.tip, full.tip_height) == ((TIP + 2, tip.block_hash, tip.raw), TIP + 2)
    assert (full.servers, full.is_key_there) == ((server,), True)
