"""Forwards over HTTP, under both names that clients use."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.routing import Route

from lightipn.api.owners import Doorkeeper
from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.network import REGTEST
from lightipn.dialects.blockcypher.policy import BlockcypherPolicy
from lightipn.dialects.blockcypher.routes import blockcypher_routes
from lightipn.store import forwards, transfers
from tests.builders import payment
from tests.dialects.blockcypher.rig import HOOKS, UNKNOWN_ID, URL, V1, refused, without
from tests.dialects.rig import TIP, Caller, open_caller
from tests.forwarding.rig import DESTINATION, MASTER, Rig, open_rig
from tests.store.rows import NOW, regtest_address

BOTH = pytest.mark.parametrize("path", [f"{V1}/forwards", f"{V1}/payments"])
FORWARDS = f"{V1}/forwards"
PROCESS = regtest_address(902).text


@pytest.fixture
async def caller(tmp_path: Path) -> AsyncIterator[Caller]:
    """A client of a service that has recovery words."""
    (tmp_path / "words").mkdir()
    async with open_rig(tmp_path / "words") as rig, open_on(rig, tmp_path) as opened:
        yield opened


def open_on(rig: Rig, folder: Path):  # type: ignore[no-untyped-def]  # what open_caller returns
    """Open a client of the routes over a rig's service."""

    def routes_of(caller: Caller, doorkeeper: Doorkeeper) -> list[Route]:
        caller.service, caller.store = rig.service, rig.store
        return blockcypher_routes(
            rig.service,
            Doorkeeper(rig.service, anonymous=[]),
            network=REGTEST,
            public_url="",
            webhook_key="",
            connected=lambda: 3,
            clock=lambda: caller.now,
        )

    return open_caller(folder, "blockcypher", BlockcypherPolicy(network=REGTEST, transactions_url=""), routes_of)


@BOTH
async def test_forward_is_made_shown_listed_and_removed(caller: Caller, path: str) -> None:
    """The whole life of a forward, as the documents show it."""
    made = await caller.call(
        "POST", f"{path}?token={caller.secret}", json={"destination": DESTINATION.text, "callback_url": URL}
    )
    uuid.UUID(made["id"])
    assert made == {
        "id": made["id"],
        "token": caller.secret,
        "destination": DESTINATION.text,
        "input_address": made["input_address"],
        "callback_url": URL,
        "enable_confirmations": False,
        "txs": [],
        "transactions": [],
    }
    assert made["input_address"].startswith("bcrt1q")
    shown = await caller.call("GET", f"{path}/{made['id']}")
    assert shown == without(made, "token")
    assert await caller.call("GET", path) == [shown]
    answer = await caller.client.delete(f"{path}/{made['id']}", headers=caller.key)
    assert (answer.status_code, answer.content) == (204, b"")
    assert await caller.call("GET", path) == []
    assert (await refused(caller, "DELETE", f"{path}/{made['id']}"))[0] == 404


async def test_answer_of_a_new_forward_is_201(caller: Caller) -> None:
    """Clients look for 201 when something was made."""
    answer = await caller.client.post(FORWARDS, headers=caller.key, json={"destination": DESTINATION.text})
    assert answer.status_code == 201


async def test_every_term_is_taken_and_shown(caller: Caller) -> None:
    """What was asked for comes back, in the documents' names and units."""
    asked = {
        "destination": DESTINATION.text,
        "callback_url": URL,
        "process_fees_address": PROCESS,
        "process_fees_percent": 0.01,
        "mining_fees_satoshis": 10_000,
        "enable_confirmations": True,
    }
    made = await caller.call("POST", FORWARDS, json=asked)
    assert asked.items() <= made.items()
    other = without(asked, "process_fees_percent") | {"process_fees_satoshis": 2_000}
    made = await caller.call("POST", FORWARDS, json=other)
    assert other.items() <= made.items()
    assert "process_fees_percent" not in made


@pytest.mark.parametrize(
    ("percent", "share"),
    [(0.1, "0.1"), (0.00000001, "0.00000001"), (0.12345678, "0.12345678"), (0.3, "0.3"), (1e-3, "0.001")],
)
async def test_part_of_the_whole_is_the_decimal_number_that_was_sent(
    caller: Caller, percent: float, share: str
) -> None:
    """A part is kept as it was written: binary fractions touch no amount."""
    made = await caller.call(
        "POST",
        FORWARDS,
        json={"destination": "", "process_fees_address": PROCESS, "process_fees_percent": percent},
    )
    found = await caller.store.read(lambda db: forwards.load_forward(db, made["id"]))
    assert found is not None
    assert found.terms.process_share == share
    assert made["destination"] == MASTER.text


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"destination": "nonsense"}, "address"),
        ({"destination": DESTINATION.text, "callback_url": "ftp://x/"}, "url"),
        ({"destination": DESTINATION.text, "process_fees_address": PROCESS}, "process_fees_satoshis"),
        ({"destination": DESTINATION.text, "process_fees_satoshis": 5}, "process_fees_address"),
        ({"destination": DESTINATION.text, "mining_fees_satoshis": -1}, "mining_fees_satoshis"),
        ({"destination": DESTINATION.text, "process_fees_address": PROCESS, "process_fees_percent": 2}, "percent"),
        ({"destination": DESTINATION.text, "process_fees_address": PROCESS, "process_fees_percent": 1e-9}, "percent"),
        ({"destination": 5}, "destination"),
        ({"destination": DESTINATION.text, "enable_confirmations": "perhaps"}, "enable_confirmations"),
    ],
)
async def test_mistakes_are_named_in_the_dialects_shape(caller: Caller, fields: dict[str, object], word: str) -> None:
    """A refusal is 400 with one error, which names what is wrong; nothing was made."""
    status, text = await refused(caller, "POST", FORWARDS, json=fields)
    assert status == 400
    assert word in text.lower()
    assert await caller.call("GET", FORWARDS) == []


async def test_callback_of_a_forward_is_no_hook_of_its_owners(caller: Caller) -> None:
    """What calls back for a forward is neither listed, shown nor removed among hooks: it would fall silent."""
    await caller.call("POST", FORWARDS, json={"destination": DESTINATION.text, "callback_url": URL})
    assert await caller.call("GET", HOOKS) == []
    [(hook_id,)] = await caller.store.read(lambda db: db.execute("SELECT hook_id FROM hook").fetchall())
    for method in ("GET", "DELETE"):
        assert (await refused(caller, method, f"{HOOKS}/{hook_id}"))[0] == 404


async def test_keys_separate_owners(caller: Caller) -> None:
    """Without a key nothing is made or removed; another owner's key sees nothing."""
    made = await caller.call("POST", FORWARDS, json={"destination": DESTINATION.text})
    for method, path in (("POST", FORWARDS), ("GET", FORWARDS), ("DELETE", f"{FORWARDS}/{made['id']}")):
        answer = await caller.client.request(method, path)
        assert answer.status_code == 401
    foreign = await caller.foreign_key()
    answer = await caller.client.get(FORWARDS, headers=foreign)
    assert answer.json() == []
    answer = await caller.client.get(f"{FORWARDS}/{made['id']}", headers=foreign)
    assert answer.status_code == 404


async def test_unknown_forwards_and_networks_are_404(caller: Caller) -> None:
    """An unknown id and a path of another network are not found."""
    for path in (f"{FORWARDS}/{UNKNOWN_ID}", f"{FORWARDS}/x"):
        assert (await refused(caller, "GET", path))[0] == 404
    status, _ = await refused(caller, "POST", "/v1/btc/main/forwards", json={"destination": DESTINATION.text})
    assert status == 404


async def test_list_begins_where_it_is_asked_to(caller: Caller) -> None:
    """The list has 200 at most; ``start`` leaves the first ones out, and must be a number."""
    made = [await caller.call("POST", FORWARDS, json={}) for _ in range(3)]
    found = await caller.call("GET", f"{FORWARDS}?start=1")
    assert [one["id"] for one in found] == [one["id"] for one in made[1:]]
    assert (await refused(caller, "GET", f"{FORWARDS}?start=x"))[0] == 400
    assert (await refused(caller, "GET", f"{FORWARDS}?start=-1"))[0] == 400


async def test_history_and_reason_to_wait_are_shown(caller: Caller) -> None:
    """Transactions stand under both names, and why coins wait is said as well."""
    made = await caller.call("POST", FORWARDS, json={"destination": DESTINATION.text})
    signed = payment(5)
    await caller.store.transact(
        lambda db: transfers.add_transfer(
            db,
            forward_id=made["id"],
            destination="d",
            coins=[],
            signed=signed,
            fee_sat=1,
            value_sat=1,
            tip_height=TIP,
            now=NOW,
        )
    )
    await caller.store.transact(
        lambda db: forwards.save_look(db, made["id"], hold_reason="fee-too-high", wake_height=None)
    )
    shown = await caller.call("GET", f"{FORWARDS}/{made['id']}")
    assert shown["txs"] == shown["transactions"] == [hex_of(signed.txid)]
    assert shown["hold_reason"] == "fee-too-high"


async def test_forwarding_that_is_off_says_so(tmp_path: Path) -> None:
    """Without a seed file a forward is refused with the words that WIRE prescribes."""

    def routes_of(caller: Caller, doorkeeper: Doorkeeper) -> list[Route]:
        return blockcypher_routes(
            caller.service,
            doorkeeper,
            network=REGTEST,
            public_url="",
            webhook_key="",
            connected=lambda: 3,
            clock=lambda: caller.now,
        )

    policy = BlockcypherPolicy(network=REGTEST, transactions_url="")
    async with open_caller(tmp_path, "blockcypher", policy, routes_of) as caller:
        for path in (FORWARDS, f"{V1}/payments"):
            status, body = await caller.refusal("POST", path, json={"destination": DESTINATION.text})
            assert (status, body) == (400, {"error": "forwarding is off"})
        assert await caller.call("GET", FORWARDS) == []
