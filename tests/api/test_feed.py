"""``/api/v1/events``: what an owner fetches instead of being called."""

from typing import Any

import pytest
from starlette.types import ASGIApp

from lightipn.api.feed import DEFAULT_LIMIT, feed_routes
from lightipn.api.frame import build_app
from lightipn.api.owners import Doorkeeper
from lightipn.bitcoin.hashes import hex_of
from lightipn.errors import StoreError
from lightipn.service.desk import Service
from lightipn.service.feed import MOST_AFTER, MOST_AT_ONCE
from lightipn.service.subscribing import Wish
from lightipn.store.database import Database, Store
from tests.api.asgi import Reply, call
from tests.builders import block_hash_of, txid_of
from tests.service.happenings import FIRST_BLOCK, confirm, connect, distrust, replace, see
from tests.store.rows import NOW, TIP, regtest_address

PATH = "/api/v1/events"


class Reader:
    """An owner who reads the feed with a good key."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._headers = [(b"authorization", f"Bearer {secret}".encode())]

    async def ask(self, query: str = "") -> Reply:
        """Ask for a page."""
        return await call(self._app, "GET", PATH, query=query.encode(), headers=self._headers)

    async def page(self, query: str = "") -> dict[str, Any]:
        """Ask for a page that must come."""
        reply = await self.ask(query)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert list(reply.json) == ["events", "next_after", "latest"]
        return reply.json  # type: ignore[no-any-return]  # it is the dict that the return type says


@pytest.fixture
async def app(service: Service) -> ASGIApp:
    """The feed's route, where callers without a key are let in to another part of the API."""
    failures: list[StoreError] = []
    return build_app(feed_routes(service, Doorkeeper(service, anonymous=["ipn"])), stop_for=failures.append)


@pytest.fixture
async def shop(app: ASGIApp, service: Service, store: Store) -> Reader:
    """The owner of the first address; the second is another's; everything has happened that can."""
    for number, owner in ((0, "shop"), (1, "other")):
        wish = Wish(address=regtest_address(number).text, url="https://shop.example/", terms=b"1")
        await service.subscriptions.subscribe(wish, dialect="plain", owner=owner)

    def happen(db: Database) -> None:
        see(db, 0, txid=1, seen_by=2)
        see(db, 1, txid=9)
        distrust(db)
        connect(db, height=TIP + 1)
        confirm(db, 0, txid=1, height=TIP)
        replace(db, 0, txid=2, by=3)

    await store.transact(happen)
    return Reader(app, await service.owners.create_key("shop"))


async def test_events_are_told_as_json(shop: Reader) -> None:
    """Each kind has its facts, hashes as explorers print them, and leaves out what it does not have."""
    paid = {"at": NOW, "address": regtest_address(0).text, "net_sat": 40}
    assert await shop.page() == {
        "events": [
            paid
            | {
                "number": 1,
                "kind": "payment.seen",
                "txid": hex_of(txid_of(1)),
                "trust": "agreed",
                "seen_by": 2,
                "rbf": True,
            },
            {
                "number": 4,
                "at": NOW,
                "kind": "block.connected",
                "height": TIP + 1,
                "block_hash": hex_of(FIRST_BLOCK.block_hash),
                "trust": "proved",
            },
            paid
            | {
                "number": 5,
                "kind": "payment.confirmed",
                "txid": hex_of(txid_of(1)),
                "height": TIP,
                "block_hash": hex_of(block_hash_of(TIP)),
                "trust": "proved",
                "rbf": False,
            },
            paid
            | {
                "number": 6,
                "kind": "payment.replaced",
                "txid": hex_of(txid_of(2)),
                "trust": "single",
                "seen_by": 1,
                "replaced_by": hex_of(txid_of(3)),
                "rbf": False,
            },
        ],
        "next_after": 6,
        "latest": 6,
    }


async def test_net_amount_may_be_nothing_or_less(shop: Reader, store: Store) -> None:
    """A payment that moves nothing, or takes away, is told with its amount: 0 is a fact too."""
    await store.transact(lambda db: see(db, 0, txid=4, net_sat=0))
    await store.transact(lambda db: see(db, 0, txid=5, net_sat=-7))
    found = (await shop.page("after=6"))["events"]
    assert [event["net_sat"] for event in found] == [0, -7]


async def test_foreign_events_are_not_there(app: ASGIApp, service: Service, shop: Reader) -> None:
    """Another owner's events are left out as if they had not been; an owner without addresses sees blocks alone."""
    for owner, numbers in (("other", [2, 4]), ("stranger", [4]), ("operator", [4])):
        reader = Reader(app, await service.owners.create_key(owner))
        page = await reader.page()
        assert [event["number"] for event in page["events"]] == numbers
        assert (page["next_after"], page["latest"]) == (6, 6)
    assert (await shop.page("after=1&limit=1"))["events"][0]["number"] == 4
    assert (await Reader(app, await service.owners.create_key("x")).page("after=4"))["events"] == []


async def test_servers_are_the_operators_business(shop: Reader, app: ASGIApp, service: Service) -> None:
    """No owner is told of servers, whatever he is called."""
    for owner in ("shop", "operator"):
        reply = await Reader(app, await service.owners.create_key(owner)).ask()
        assert b"server" not in reply.body
        assert b"a.example" not in reply.body


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_pages_give_each_event_once(shop: Reader, limit: int) -> None:
    """Going on with ``next_after`` until it is ``latest`` gives each event exactly once."""
    read: list[int] = []
    after = 0
    for _ in range(10):
        page = await shop.page(f"after={after}&limit={limit}")
        assert len(page["events"]) <= limit
        read += [event["number"] for event in page["events"]]
        after = page["next_after"]
        if after == page["latest"]:
            break
    assert (read, after) == ([1, 4, 5, 6], 6)


async def test_page_has_a_hundred_events_at_first(shop: Reader, store: Store) -> None:
    """Without a limit a page has a hundred events, with one up to a thousand."""

    def happen(db: Database) -> None:
        for _ in range(MOST_AT_ONCE + 1):
            see(db, 0)

    await store.transact(happen)
    assert len((await shop.page())["events"]) == DEFAULT_LIMIT == 100
    assert len((await shop.page(f"limit={MOST_AT_ONCE}"))["events"]) == MOST_AT_ONCE == 1000


async def test_feed_needs_a_key(app: ASGIApp, shop: Reader) -> None:
    """Without a good key nothing is told, also where a dialect is open to everybody; parameters do not matter."""
    for query in (b"", b"after=x"):
        reply = await call(app, "GET", PATH, query=query)
        assert (reply.status, reply.code) == (401, "key-missing")
        reply = await call(app, "GET", PATH, query=query, headers=[(b"x-api-key", b"lipn_wrong")])
        assert (reply.status, reply.code) == (401, "key-unknown")


@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "1e3", "+1", "%201", "9" * 5000, "%D9%A3", str(MOST_AFTER + 1)])
async def test_bad_after_is_named(shop: Reader, text: str) -> None:
    """What is no number of an event is refused by the parameter's name."""
    reply = await shop.ask(f"after={text}")
    assert (reply.status, reply.code) == (400, "bad-after")
    assert reply.json["error"]["message"].startswith("after is ")


@pytest.mark.parametrize("text", ["", "0", "-1", "1001", "x", "9" * 5000])
async def test_bad_limit_is_named(shop: Reader, text: str) -> None:
    """A limit that is none, or too large, is refused by the parameter's name."""
    reply = await shop.ask(f"limit={text}")
    assert (reply.status, reply.code) == (400, "bad-limit")
    assert reply.json["error"]["message"].startswith("limit is ")
    assert "from 1 to 1000" in reply.json["error"]["message"]


async def test_newest_number_is_an_empty_page(shop: Reader) -> None:
    """Who has read everything is told that there is no more."""
    assert await shop.page("after=6") == {"events": [], "next_after": 6, "latest": 6}


async def test_feed_is_only_read(app: ASGIApp) -> None:
    """The path takes GET and HEAD alone."""
    for method in ("POST", "PUT", "DELETE"):
        reply = await call(app, method, PATH)
        assert (reply.status, reply.code) == (405, "wrong-method")
