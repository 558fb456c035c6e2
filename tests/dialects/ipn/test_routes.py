"""``/btc`` and ``/btc_ipn`` as shops call them: every spelling of a request, and answers exactly as they were."""

import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import trio

from lightipn.api.frame import build_app
from lightipn.api.owners import Doorkeeper
from lightipn.bitcoin.address import Address, address_of
from lightipn.bitcoin.extended_key import parse_address_chain
from lightipn.bitcoin.network import MAINNET, REGTEST
from lightipn.chain.history import Status
from lightipn.delivery.guard import AddressRules
from lightipn.dialects.ipn.policy import IpnPolicy
from lightipn.dialects.ipn.routes import IpnSettings, ipn_routes
from lightipn.dialects.ipn.wire import decode_terms
from lightipn.errors import StoreError
from lightipn.ledger.entries import LedgerEntry
from lightipn.service.desk import Service
from lightipn.service.ground import Doorbells, Ground, no_bell
from lightipn.store import chain, ledger
from lightipn.store.database import Database, Store, open_store
from tests.builders import OTHER_SCRIPT, SCRIPT, confirmed, entry_of

TIP = 1000
URL = "https://shop.example/ipn?order=7"
WATCHED_TEXT = address_of(SCRIPT, REGTEST) or ""
WATCHED = Address(text=WATCHED_TEXT, script=SCRIPT)
MAINNET_ADDRESS = address_of(SCRIPT, MAINNET) or ""
TPUB = "tpubDC5FSnBiZDMmhiuCmWAYsLwgLYrrT9rAqvTySfuCCrgsWz8wxMXUS9Tb9iVMvcRbvFcAHGkMD5Kx8koh4GquNGNTfohfk7pgjhaPCdXpoba"


class Shop:
    """A client of the API, and the service behind it."""

    def __init__(self, client: httpx.AsyncClient, store: Store, service: Service, secret: str) -> None:
        self.client = client
        self.store = store
        self.service = service
        self.key = {"Authorization": f"Bearer {secret}"}
        self.secret = secret

    async def get(self, path: str, **parameters: str | int) -> httpx.Response:
        """Call with a good key and these parameters in the query."""
        return await self.client.get(path, params=parameters, headers=self.key)

    async def subscribed(self) -> list[tuple[str, str, str, int]]:
        """Return owner, address, URL and depth of every subscription."""
        found = await self.service.subscriptions.list()
        return [(item.owner, item.address, item.url, decode_terms(item.terms).max_confirms) for item in found]


def settle(db: Database, address: Address, *entries: LedgerEntry) -> None:
    """Write an address whose history was worked in."""
    ledger.add_script(db, address)
    ledger.save_entries(db, address.scripthash, entries)
    ledger.save_status(db, address.scripthash, Status(b"\x01" * 32), now=1)


def fill(db: Database) -> None:
    """Write a tip, and an address with 0.5 BTC three deep, 0.25 two deep, and 0.00000001 in the mempool."""
    chain.save_base_height(db, TIP)
    settle(
        db,
        WATCHED,
        entry_of(1, received_sat=50_000_000, state=confirmed(TIP - 2)),
        entry_of(2, received_sat=25_000_000, state=confirmed(TIP - 1)),
        entry_of(3, received_sat=1),
    )


async def open_shop(folder: Path, *, anonymous: list[str], xpub: str = "") -> AsyncIterator[Shop]:
    """Open a service and a client of its routes."""
    failures: list[StoreError] = []
    async with open_store(folder / "shop.db", "regtest", threaded=False) as store:
        await store.transact(fill)
        service = Service(
            Ground(
                store=store,
                network=REGTEST,
                policies={"ipn": IpnPolicy(max_retry_interval_s=3600)},
                check_url=AddressRules().check_url,
                bells=Doorbells(watches=no_bell, messages=no_bell),
                progress=trio.Event,
                is_tip_proved=lambda: True,
                is_connected=lambda: True,
                clock=time.time,
            )
        )
        addresses = parse_address_chain(xpub, REGTEST) if xpub else None
        settings = IpnSettings(confirmations=3, user_addresses=addresses)
        app = build_app(
            ipn_routes(service, Doorkeeper(service, anonymous=anonymous), settings), stop_for=failures.append
        )
        secret = await service.owners.create_key("shop")
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ipn.example") as client:
            yield Shop(client, store, service, secret)
    assert failures == []


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop with a key."""
    async for opened in open_shop(tmp_path, anonymous=[]):
        yield opened


@pytest.fixture
async def anonymous_shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop at a service whose dialect needs no key."""
    async for opened in open_shop(tmp_path, anonymous=["ipn"]):
        yield opened


@pytest.fixture
async def xpub_shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop at a service with an extended key for its users."""
    async for opened in open_shop(tmp_path, anonymous=[], xpub=TPUB):
        yield opened


# --- /btc --------------------------------------------------------------------------------------------------------


async def test_totals_are_json_numbers_printed_from_satoshis(shop: Shop) -> None:
    """The answer is exactly the original's: two numbers with at least one decimal and no exponent."""
    answer = await shop.get("/btc", address=WATCHED_TEXT)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"confirmed": 0.5, "unconfirmed": 0.25000001}'


async def test_totals_say_from_which_block_on_they_are_known(shop: Shop) -> None:
    """Where one's own node could not look further back, the answer says so."""
    await shop.store.transact(lambda db: db.execute("UPDATE script SET history_from = 700, unproved_sat = 5"))
    answer = await shop.get("/btc", address=WATCHED_TEXT)
    assert answer.json()["history_from"] == 700
    assert b'"unproved": 0.00000005' in answer.content


@pytest.mark.parametrize(
    ("confirms", "body"),
    [
        (1, b'{"confirmed": 0.75, "unconfirmed": 0.00000001}'),
        (2, b'{"confirmed": 0.75, "unconfirmed": 0.00000001}'),
        (3, b'{"confirmed": 0.5, "unconfirmed": 0.25000001}'),
        (4, b'{"confirmed": 0.0, "unconfirmed": 0.75000001}'),
        (1000, b'{"confirmed": 0.0, "unconfirmed": 0.75000001}'),
    ],
)
async def test_depth_may_be_asked_for(shop: Shop, confirms: int, body: bytes) -> None:
    """``confirms`` says how deep a payment must be to count as confirmed."""
    assert (await shop.get("/btc", address=WATCHED_TEXT, confirms=confirms)).content == body


async def test_address_that_was_never_paid_has_zeros(shop: Shop) -> None:
    """An unused address is answered with zeros."""
    address = Address(text=address_of(OTHER_SCRIPT, REGTEST) or "", script=OTHER_SCRIPT)
    await shop.store.transact(lambda db: settle(db, address))
    assert (await shop.get("/btc", address=address.text)).content == b'{"confirmed": 0.0, "unconfirmed": 0.0}'


async def test_request_may_be_query_form_or_json(shop: Shop) -> None:
    """GET and POST, query, form and JSON object mean the same on both paths."""
    for path, fields in (("/btc", {"address": WATCHED_TEXT}), ("/btc_ipn", {"address": WATCHED_TEXT, "url": URL})):
        answers = [
            await shop.client.get(path, params=fields, headers=shop.key),
            await shop.client.post(path, params=fields, headers=shop.key),
            await shop.client.post(path, data=fields, headers=shop.key),
            await shop.client.post(path, json=fields, headers=shop.key),
        ]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert len({answer.content for answer in answers}) == 1
    assert await shop.subscribed() == [("shop", WATCHED_TEXT, URL, 3)]


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        pytest.param({}, "missing-parameter", id="nothing"),
        pytest.param({"address": ""}, "missing-parameter", id="empty address"),
        pytest.param({"address": "nonsense"}, "bad-address", id="no address"),
        pytest.param({"address": WATCHED_TEXT[:-1] + "q"}, "bad-address", id="typing error"),
        pytest.param({"address": WATCHED_TEXT, "confirms": 0}, "bad-number", id="confirms 0"),
        pytest.param({"address": WATCHED_TEXT, "confirms": 1001}, "bad-number", id="confirms 1001"),
        pytest.param({"address": WATCHED_TEXT, "confirms": "three"}, "bad-number", id="confirms three"),
        pytest.param({"user_id": 1}, "no-xpub", id="user without an xpub"),
    ],
)
async def test_bad_question_is_a_json_error(shop: Shop, parameters: dict[str, str | int], code: str) -> None:
    """``/btc`` refuses a bad question with a JSON error."""
    answer = await shop.get("/btc", **parameters)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


async def test_address_of_another_network_names_both(shop: Shop) -> None:
    """An address of another network is refused with the names of both networks, on both paths."""
    answer = await shop.get("/btc", address=MAINNET_ADDRESS)
    assert answer.json()["error"]["message"] == "address: belongs to mainnet, this service runs on regtest"
    answer = await shop.get("/btc_ipn", address=MAINNET_ADDRESS, url=URL)
    assert (answer.status_code, answer.text) == (400, "fail")
    assert answer.headers["x-error"] == "address: belongs to mainnet, this service runs on regtest"


# --- users -------------------------------------------------------------------------------------------------------


async def test_user_has_the_child_of_the_key(xpub_shop: Shop) -> None:
    """``user_id`` N asks for the totals of child N of the configured key."""
    addresses = parse_address_chain(TPUB, REGTEST)
    address = addresses.address_at(7)
    await xpub_shop.store.transact(lambda db: settle(db, address, entry_of(1, received_sat=123_000)))
    assert (await xpub_shop.get("/btc", user_id=7)).content == b'{"confirmed": 0.0, "unconfirmed": 0.00123}'
    both = await xpub_shop.get("/btc", user_id=7, address=WATCHED_TEXT)
    assert both.content == b'{"confirmed": 0.5, "unconfirmed": 0.25000001}'  # the address is the plainer word


@pytest.mark.parametrize("user_id", ["-1", "2147483648", "1.5", "x", "", "9" * 50])
async def test_bad_user_id_is_refused(xpub_shop: Shop, user_id: str) -> None:
    """A user id is a whole number below 2^31."""
    answer = await xpub_shop.get("/btc", user_id=user_id)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad-number")


# --- /btc_ipn ----------------------------------------------------------------------------------------------------


async def test_subscription_answers_success(shop: Shop) -> None:
    """The answer is the plain word ``success``, and three confirmations are asked for by default."""
    answer = await shop.get("/btc_ipn", address=WATCHED_TEXT, url=URL)
    assert (answer.status_code, answer.text) == (200, "success")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "x-error" not in answer.headers
    assert await shop.subscribed() == [("shop", WATCHED_TEXT, URL, 3)]


async def test_subscribing_again_changes_the_depth(shop: Shop) -> None:
    """The same address and URL stay one subscription, with the newest depth."""
    for depth in (6, 1, 1000):
        assert (await shop.get("/btc_ipn", address=WATCHED_TEXT, url=URL, max_confirms=depth)).text == "success"
        assert await shop.subscribed() == [("shop", WATCHED_TEXT, URL, depth)]


async def test_bech32_in_capitals_is_the_same_address(shop: Shop) -> None:
    """An address from a QR code is stored, and told, in its canonical spelling."""
    assert (await shop.get("/btc_ipn", address=WATCHED_TEXT.upper(), url=URL)).text == "success"
    assert await shop.subscribed() == [("shop", WATCHED_TEXT, URL, 3)]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        pytest.param({}, "address is missing", id="nothing"),
        pytest.param({"address": WATCHED_TEXT}, "url is missing", id="no url"),
        pytest.param({"url": URL}, "address is missing", id="no address"),
        pytest.param({"address": "1abc", "url": URL}, "address: is not a bitcoin address", id="bad address"),
        pytest.param({"address": WATCHED_TEXT, "url": "ftp://x/"}, "url: has a scheme", id="scheme"),
        pytest.param({"address": WATCHED_TEXT, "url": "http://10.0.0.1/"}, "allow_networks", id="private"),
        pytest.param({"address": WATCHED_TEXT, "url": "http://u:p@shop.example/"}, "credentials", id="credentials"),
        pytest.param({"address": WATCHED_TEXT, "url": URL, "max_confirms": 0}, "1 to 1000", id="depth 0"),
        pytest.param({"address": WATCHED_TEXT, "url": URL, "max_confirms": 1001}, "1 to 1000", id="depth 1001"),
        pytest.param({"address": WATCHED_TEXT, "url": URL, "max_confirms": "x"}, "'x'", id="depth x"),
    ],
)
async def test_refusal_is_fail_with_the_reason_in_a_header(
    shop: Shop, parameters: dict[str, str | int], reason: str
) -> None:
    """A bad subscription is answered with the plain word ``fail``, status 400 and the reason in X-Error."""
    for answer in (
        await shop.get("/btc_ipn", **parameters),
        await shop.client.post("/btc_ipn", data=parameters, headers=shop.key),
    ):
        assert (answer.status_code, answer.text) == (400, "fail")
        assert answer.headers["content-type"].startswith("text/plain")
        assert reason in answer.headers["x-error"]
    assert await shop.subscribed() == []


@pytest.mark.parametrize(
    "text",
    [
        "a\r\nX-Evil: 1",
        "a\nX-Evil: 1",
        "a\x00b",
        "\x1b[31mred",
        "адрес",
        "\u202eevil",
        "\U0001f600" * 30,
        "x" * 5000,
        "%0d%0aX-Evil:1",
        "'\"\\",
        "\x7f\x9b",
    ],
)
async def test_header_holds_printable_ascii_and_no_more(shop: Shop, text: str) -> None:
    """Whatever stands in the parameters, X-Error is one line of at most 200 printable ASCII characters."""
    for fields in (
        {"address": text, "url": URL},
        {"address": WATCHED_TEXT, "url": text},
        {"address": WATCHED_TEXT, "url": URL, "max_confirms": text},
        {"address": WATCHED_TEXT, "url": URL, text: "1"},
    ):
        twice = f"{quote(text)}=2" if text in fields else ""
        answer = await shop.client.post("/btc_ipn", params=twice, data=fields, headers=shop.key)
        if answer.text == "success":
            assert text in fields  # an unknown parameter is ignored
            answer = await shop.client.get(f"/btc_ipn?{quote(text)}=1&{quote(text)}=2", headers=shop.key)
        assert (answer.status_code, answer.text) == (400, "fail")
        reason = answer.headers["x-error"]
        assert 0 < len(reason) <= 200
        assert reason.isascii()
        assert reason.isprintable()
        assert "x-evil" not in answer.headers


async def test_bad_bodies_fail_like_bad_parameters(shop: Shop) -> None:
    """A body that cannot be read is ``fail`` too, with the status that fits."""
    for content, kind, status in (
        (b"{", "application/json", 400),
        (b"address=\xff", "application/x-www-form-urlencoded", 400),
        (b"a=" + b"x" * 70_000, "application/x-www-form-urlencoded", 413),
    ):
        answer = await shop.client.post("/btc_ipn", content=content, headers=shop.key | {"Content-Type": kind})
        assert (answer.status_code, answer.text) == (status, "fail")
        assert answer.headers["x-error"]


async def test_paid_address_is_told_at_once(shop: Shop) -> None:
    """An address that was paid before the subscription has a message that is due."""
    await shop.get("/btc_ipn", address=WATCHED_TEXT, url=URL)
    (delivery,) = await shop.service.deliveries.list(limit=9)
    assert (delivery.state, delivery.attempts) == ("due", 0)


# --- keys --------------------------------------------------------------------------------------------------------


async def test_key_travels_in_any_of_five_ways(shop: Shop) -> None:
    """Both paths take the key as Bearer, Basic user name, X-API-Key, ``key`` and ``token``."""
    basic = base64.b64encode(f"{shop.secret}:".encode()).decode()
    fields = {"address": WATCHED_TEXT, "url": URL}
    for path in ("/btc", "/btc_ipn"):
        for headers, extra in (
            ({"Authorization": f"Bearer {shop.secret}"}, {}),
            ({"Authorization": f"Basic {basic}"}, {}),
            ({"X-API-Key": shop.secret}, {}),
            ({}, {"key": shop.secret}),
            ({}, {"token": shop.secret}),
        ):
            assert (await shop.client.get(path, params=fields | extra, headers=headers)).status_code == 200
            assert (await shop.client.post(path, data=fields | extra, headers=headers)).status_code == 200


async def test_base_url_may_carry_the_key(shop: Shop) -> None:
    """``https://KEY@host/`` is a change of the base URL alone."""
    url = f"http://{shop.secret}@ipn.example/btc"
    assert (await shop.client.get(url, params={"address": WATCHED_TEXT})).status_code == 200


async def test_without_a_good_key_nothing_is_answered(shop: Shop) -> None:
    """A missing or unknown key is 401: JSON at ``/btc``, ``fail`` at ``/btc_ipn``."""
    fields = {"address": WATCHED_TEXT, "url": URL}
    for headers in ({}, {"X-API-Key": "lipn_wrong"}):
        asked = await shop.client.get("/btc", params=fields, headers=headers)
        assert asked.status_code == 401
        assert asked.json()["error"]["code"] in ("key-missing", "key-unknown")
        subscribed = await shop.client.get("/btc_ipn", params=fields, headers=headers)
        assert (subscribed.status_code, subscribed.text) == (401, "fail")
        assert "key" in subscribed.headers["x-error"]
    assert await shop.subscribed() == []


async def test_revoked_key_is_refused_from_the_next_request_on(shop: Shop) -> None:
    """The first request after the revocation is 401 already."""
    assert (await shop.get("/btc", address=WATCHED_TEXT)).status_code == 200
    await shop.service.owners.revoke_keys("shop")
    assert (await shop.get("/btc", address=WATCHED_TEXT)).status_code == 401
    assert (await shop.get("/btc_ipn", address=WATCHED_TEXT, url=URL)).status_code == 401


async def test_owners_have_their_own_subscriptions(shop: Shop) -> None:
    """The same address and URL of two owners are two subscriptions."""
    other = await shop.service.owners.create_key("other")
    await shop.get("/btc_ipn", address=WATCHED_TEXT, url=URL)
    await shop.client.get("/btc_ipn", params={"address": WATCHED_TEXT, "url": URL, "key": other, "max_confirms": 1})
    assert await shop.subscribed() == [("shop", WATCHED_TEXT, URL, 3), ("other", WATCHED_TEXT, URL, 1)]


async def test_anonymous_dialect_needs_no_key(anonymous_shop: Shop) -> None:
    """Where the operator allows it both paths work without a key, for the owner ``anonymous``; a bad key does not."""
    client = anonymous_shop.client
    fields = {"address": WATCHED_TEXT, "url": URL}
    assert (await client.get("/btc", params=fields)).status_code == 200
    assert (await client.get("/btc_ipn", params=fields)).text == "success"
    assert (await client.get("/btc_ipn", params=fields | {"key": "lipn_wrong"})).status_code == 401
    assert await anonymous_shop.subscribed() == [("anonymous", WATCHED_TEXT, URL, 3)]


# --- the frame around --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/btc", "/btc_ipn"])
async def test_other_methods_are_405(shop: Shop, path: str) -> None:
    """Both paths take GET and POST alone, and say so."""
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = await shop.client.request(method, path, headers=shop.key)
        assert answer.status_code == 405
        assert {name.strip() for name in answer.headers["allow"].split(",")} >= {"GET", "POST"}
        assert answer.json()["error"]["code"] == "wrong-method"


async def test_every_kind_of_address_is_taken(shop: Shop) -> None:
    """Each kind of address of this network may be subscribed to."""
    scripts = [
        b"\x76\xa9\x14" + b"\x31" * 20 + b"\x88\xac",
        b"\xa9\x14" + b"\x32" * 20 + b"\x87",
        b"\x00\x14" + b"\x33" * 20,
        b"\x00\x20" + b"\x34" * 32,
        b"\x51\x20" + b"\x35" * 32,
    ]
    for script in scripts:
        assert (await shop.get("/btc_ipn", address=address_of(script, REGTEST) or "", url=URL)).text == "success"
    assert len(await shop.subscribed()) == 5
