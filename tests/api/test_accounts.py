"""``/api/v1/accounts``: an owner's accounts over HTTP."""

from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp

from lightipn.api.accounts import BASE, DEFAULT_SHOWN, AccountApi
from lightipn.api.frame import build_app
from lightipn.api.owners import Doorkeeper
from lightipn.bitcoin.hashes import hex_of
from lightipn.errors import StoreError
from lightipn.ledger.entries import Replaced
from lightipn.service.accounting import MOST_SHOWN
from lightipn.service.desk import Service
from lightipn.store.database import Store
from tests.api.asgi import FORM, JSON, Reply, call
from tests.builders import SEEN_AT, block_hash_of, confirmed, entry_of, txid_of
from tests.service.supply import TPUB
from tests.store.rows import NOW, TIP, pay, regtest_address

DEPTH = 3  # of the configuration of these tests


class Owner:
    """An owner who calls with a good key."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._headers = [(b"authorization", f"Bearer {secret}".encode())]

    async def get(self, path: str = "", query: str = "") -> Reply:
        """Ask for something."""
        return await call(self._app, "GET", BASE + path, query=query.encode(), headers=self._headers)

    async def post(self, path: str = "", **fields: object) -> Reply:
        """Post a JSON object."""
        headers = [*self._headers, JSON]
        return await call(self._app, "POST", BASE + path, headers=headers, body=[msgspec.json.encode(fields)])

    async def shown(self, path: str = "", query: str = "") -> Any:
        """Ask for something that must be there, and return it."""
        reply = await self.get(path, query)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        return reply.json

    async def made(self, path: str = "", **fields: object) -> Any:
        """Post something that must be done, and return what came of it."""
        reply = await self.post(path, **fields)
        assert (reply.status, reply.headers["content-type"]) == (201, "application/json")
        return reply.json


@pytest.fixture
async def app(service: Service) -> ASGIApp:
    """The routes of accounts, where callers without a key are let in to another part of the API."""
    failures: list[StoreError] = []
    doorkeeper = Doorkeeper(service, anonymous=["ipn"])
    routes = AccountApi(service=service, doorkeeper=doorkeeper, credit_confirmations=DEPTH).routes()
    return build_app(routes, stop_for=failures.append)


@pytest.fixture
async def shop(app: ASGIApp, service: Service) -> Owner:
    """An owner with a good key and nothing else."""
    return Owner(app, await service.owners.create_key("shop"))


@pytest.fixture
async def till(shop: Owner, store: Store) -> Owner:
    """The same with an account of two addresses, to which three payments came: awaiting, locked, and replaced."""
    await shop.made(name="till", credit_confirmations=2)
    for number in range(2):
        await shop.made("/till/addresses", address=regtest_address(number).text)
    for state in (None, confirmed(TIP)):
        entry = entry_of(1, received_sat=700, state=state)
        await store.transact(lambda db, one=entry: pay(db, 0, one, tip_height=TIP))  # type: ignore[misc]
    await store.transact(lambda db: pay(db, 1, entry_of(2, received_sat=50), tip_height=TIP))
    await store.transact(
        lambda db: pay(db, 1, entry_of(2, received_sat=50, state=Replaced(txid_of(9))), tip_height=TIP)
    )
    return shop


async def test_account_is_made_with_the_configured_depth(shop: Owner) -> None:
    """A name is enough; depth, key and URL may be given."""
    made = await shop.made(name="till")
    assert made | {"created_at": 0} == {
        "name": "till",
        "balance_sat": 0,
        "locked_sat": 0,
        "credit_confirmations": DEPTH,
        "created_at": 0,
        "extended_key": None,
        "callback_url": None,
    }
    full = await shop.made(name="full", credit_confirmations="6", xpub=TPUB, callback_url="https://shop.example/")
    assert (full["credit_confirmations"], full["extended_key"]) == (6, TPUB)
    assert full["callback_url"] == "https://shop.example/"
    assert (await shop.made(name="named", extended_key=TPUB))["extended_key"] == TPUB
    assert await shop.shown() == {"accounts": [full, await shop.shown("/named"), made]}
    assert await shop.shown("/till") == await shop.shown("/till/balance") == made


async def test_form_and_query_do_as_well(app: ASGIApp, service: Service) -> None:
    """The parameters may travel as a form, and the key with them."""
    secret = await service.owners.create_key("shop")
    body = f"name=till&token={secret}".encode()
    reply = await call(app, "POST", BASE, headers=[FORM], body=[body])
    assert (reply.status, reply.json["name"]) == (201, "till")
    reply = await call(app, "GET", f"{BASE}/till", query=f"token={secret}".encode())
    assert (reply.status, reply.json["name"]) == (200, "till")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({}, 400, "missing-parameter"),
        ({"name": "a b"}, 400, "bad-account-name"),
        ({"name": "a", "credit_confirmations": "0"}, 400, "bad-number"),
        ({"name": "a", "credit_confirmations": "1001"}, 400, "bad-number"),
        ({"name": "a", "credit_confirmations": "x"}, 400, "bad-number"),
        ({"name": "a", "xpub": "nonsense"}, 400, "bad-key"),
        ({"name": "till"}, 409, "account-exists"),
    ],
    ids=["nothing", "name", "no depth", "depth", "no number", "key", "taken"],
)
async def test_bad_account_is_refused(till: Owner, fields: dict[str, object], status: int, code: str) -> None:
    """What is wrong with a wish is said by its code."""
    reply = await till.post("", **fields)
    assert (reply.status, reply.code) == (status, code)


async def test_address_is_added_and_listed(shop: Owner, store: Store) -> None:
    """A named address belongs to the account from then on; another one's is refused."""
    await shop.made(name="till")
    added = await shop.made("/till/addresses", address=regtest_address(0).text)
    assert added | {"added_at": 0, "used_at": 0} == {
        "address": regtest_address(0).text,
        "index": None,
        "active": True,
        "webhook_ids": [],
        "added_at": 0,
        "used_at": 0,
        "history_from": None,
    }
    assert await shop.shown("/till/addresses") == {"addresses": [added]}
    reply = await shop.post("/till/addresses", address=regtest_address(0).text)
    assert (reply.status, reply.code) == (409, "address-taken")
    reply = await shop.post("/till/addresses", address="nonsense")
    assert (reply.status, reply.code) == (400, "bad-address")
    reply = await shop.post("/till/addresses")
    assert (reply.status, reply.code) == (400, "no-key")


async def test_balance_and_deposits_are_told(till: Owner) -> None:
    """Each deposit has its status, and what it was lost to; the locked amount is no part of the balance."""
    account = await till.shown("/till/balance")
    assert (account["balance_sat"], account["locked_sat"]) == (0, 700)
    found = (await till.shown("/till/transactions"))["transactions"]
    assert sorted(found, key=lambda one: -int(one["amount_sat"])) == [
        {
            "txid": hex_of(txid_of(1)),
            "address": regtest_address(0).text,
            "amount_sat": 700,
            "status": "AWAITING_CONFIRMATION",
            "locked_sat": 700,
            "credited_sat": 0,
            "seen_at": SEEN_AT,
            "block_hash": hex_of(block_hash_of(TIP)),
            "double_spend_tx": None,
        },
        {
            "txid": hex_of(txid_of(2)),
            "address": regtest_address(1).text,
            "amount_sat": 50,
            "status": "FAILED",
            "locked_sat": 0,
            "credited_sat": 0,
            "seen_at": SEEN_AT,
            "block_hash": None,
            "double_spend_tx": hex_of(txid_of(9)),
        },
    ]


async def test_reservations_say_what_caused_them(till: Owner) -> None:
    """Each movement names its deposit, its cause and its block; an owner's booking names its reference."""
    booked = await till.made("/till/adjustments", amount_sat=30, reference="gift")
    assert booked | {"at": 0} == {
        "number": 3,
        "type": "ADJUST",
        "status": "completed",
        "amount_sat": 30,
        "balance_change_sat": 30,
        "locked_change_sat": 0,
        "cause": "owner",
        "reference": "gift",
        "txid": None,
        "address": None,
        "block_hash": None,
        "height": None,
        "at": 0,
    }
    found = (await till.shown("/till/reservations"))["reservations"]
    assert found == [
        booked,
        {
            "number": 2,
            "type": "RESERVE",
            "status": "failed",
            "amount_sat": 50,
            "balance_change_sat": 0,
            "locked_change_sat": 0,
            "cause": "payment.replaced",
            "reference": f"crypto_deposit_{hex_of(txid_of(2))}",
            "txid": hex_of(txid_of(2)),
            "address": regtest_address(1).text,
            "block_hash": None,
            "height": None,
            "at": NOW,
        },
        {
            "number": 1,
            "type": "RESERVE",
            "status": "active",
            "amount_sat": 700,
            "balance_change_sat": 0,
            "locked_change_sat": 700,
            "cause": "payment.confirmed",
            "reference": f"crypto_deposit_{hex_of(txid_of(1))}",
            "txid": hex_of(txid_of(1)),
            "address": regtest_address(0).text,
            "block_hash": hex_of(block_hash_of(TIP)),
            "height": TIP,
            "at": NOW,
        },
    ]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"amount_sat": 1}, 400, "missing-parameter"),
        ({"reference": "r"}, 400, "missing-parameter"),
        ({"amount_sat": 0, "reference": "r"}, 400, "bad-amount"),
        ({"amount_sat": "-0", "reference": "r"}, 400, "bad-amount"),
        ({"amount_sat": "1.5", "reference": "r"}, 400, "bad-amount"),
        ({"amount_sat": "1e3", "reference": "r"}, 400, "bad-amount"),
        ({"amount_sat": "+1", "reference": "r"}, 400, "bad-amount"),
        ({"amount_sat": "--1", "reference": "r"}, 400, "bad-amount"),
        ({"amount_sat": "- 1", "reference": "r"}, 400, "bad-amount"),
        ({"amount_sat": "٣", "reference": "r"}, 400, "bad-amount"),
        ({"amount_sat": "9" * 5000, "reference": "r"}, 400, "bad-amount"),
        ({"amount_sat": "", "reference": "r"}, 400, "missing-parameter"),
        ({"amount_sat": 1, "reference": "a\nb"}, 400, "bad-reference"),
        ({"amount_sat": -1, "reference": "r"}, 409, "not-enough"),
        ({"amount_sat": 2, "reference": "used"}, 409, "reference-taken"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_booking_is_refused(till: Owner, fields: dict[str, object], status: int, code: str) -> None:
    """Nothing is booked that is no amount, has no name, or is not there."""
    await till.made("/till/adjustments", amount_sat=1, reference="used")
    await till.made("/till/adjustments", amount_sat=-1, reference="back")
    reply = await till.post("/till/adjustments", **fields)
    assert (reply.status, reply.code) == (status, code)
    assert (await till.shown("/till"))["balance_sat"] == 0


async def test_booking_again_gives_the_same_answer(till: Owner) -> None:
    """The same booking a second time is answered as the first was, and booked once."""
    first = await till.made("/till/adjustments", amount_sat="30", reference="gift")
    assert await till.made("/till/adjustments", amount_sat=30, reference="gift") == first
    assert (await till.shown("/till"))["balance_sat"] == 30


async def test_lists_are_as_long_as_asked(till: Owner) -> None:
    """A hundred are shown at first, and up to a thousand where that is asked for."""
    assert (DEFAULT_SHOWN, MOST_SHOWN) == (100, 1000)
    for name in ("transactions", "reservations"):
        assert len((await till.shown(f"/till/{name}", "limit=1"))[name]) == 1
        assert len((await till.shown(f"/till/{name}", f"limit={MOST_SHOWN}"))[name]) == 2
        for text in ("0", "-1", "x", "", str(MOST_SHOWN + 1), "9" * 5000):
            reply = await till.get(f"/till/{name}", f"limit={text}")
            assert reply.status == 400


async def test_foreign_accounts_are_not_there(till: Owner, app: ASGIApp, service: Service) -> None:
    """Another owner's account cannot be seen, filled or emptied, and its name is free."""
    for name in ("other", "operator"):
        stranger = Owner(app, await service.owners.create_key(name))
        assert await stranger.shown() == {"accounts": []}
        for path in ("", "/balance", "/addresses", "/transactions", "/reservations"):
            reply = await stranger.get(f"/till{path}")
            assert (reply.status, reply.code) == (404, "unknown-account")
        for path, fields in (
            ("/till/addresses", {"address": regtest_address(5).text}),
            ("/till/adjustments", {"amount_sat": 1, "reference": "r"}),
        ):
            reply = await stranger.post(path, **fields)
            assert (reply.status, reply.code) == (404, "unknown-account")
        assert (await stranger.made(name="till"))["locked_sat"] == 0


async def test_account_in_the_path_is_the_one_that_is_meant(till: Owner) -> None:
    """A ``name`` among the parameters does not stand for the one in the path."""
    await till.made(name="second")
    assert (await till.shown("/till", "name=second"))["name"] == "till"


async def test_accounts_need_a_key(app: ASGIApp, till: Owner) -> None:
    """Without a good key nothing is told or done, also where a dialect is open to everybody."""
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("GET", "/till"),
        ("GET", "/till/balance"),
        ("GET", "/till/addresses"),
        ("POST", "/till/addresses"),
        ("GET", "/till/transactions"),
        ("GET", "/till/reservations"),
        ("POST", "/till/adjustments"),
    ):
        reply = await call(app, method, BASE + path)
        assert (reply.status, reply.code) == (401, "key-missing")
        reply = await call(app, method, BASE + path, headers=[(b"x-api-key", b"lipn_wrong")])
        assert (reply.status, reply.code) == (401, "key-unknown")


async def test_nothing_is_changed_by_looking(app: ASGIApp, till: Owner) -> None:
    """What changes an account takes POST alone, and there is no way to take an account away."""
    for method, path in (("HEAD", ""), ("DELETE", "/till"), ("PUT", "/till"), ("GET", "/till/adjustments")):
        reply = await call(app, method, BASE + path)
        assert reply.status == 405
