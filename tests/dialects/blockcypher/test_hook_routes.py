"""``/hooks`` as clients call it: making, showing and removing hooks; who may, and what is refused."""

import base64
import json
import uuid
from typing import Any

import pytest

from lightipn.bitcoin.network import MAINNET
from tests.builders import payment
from tests.dialects.blockcypher.keys import private_pem
from tests.dialects.blockcypher.rig import (
    EVENTS,
    HOOKS,
    PLAIN,
    UNKNOWN_ID,
    URL,
    V1,
    OpenCaller,
    happen,
    hook,
    live_addresses,
    mine,
    paid_at,
    refused,
    said,
    shown,
    told,
    watched,
    without,
)
from tests.dialects.rig import ADDRESS, Caller
from tests.store.rows import regtest_address

WISH = {"event": "tx-confirmation", "url": URL, "address": ADDRESS.text}

# --- making ------------------------------------------------------------------------------------------------------


async def test_hook_is_answered_as_the_original_does(caller: Caller) -> None:
    """A new hook is 201 with the wish, an id, the caller's token, no errors, and what it is about as a filter."""
    answer = await caller.client.post(HOOKS, params={"token": caller.secret}, json=WISH)
    assert answer.status_code == 201
    made = answer.json()
    assert made == {
        "id": str(uuid.UUID(made["id"])),
        "token": caller.secret,
        "url": URL,
        "callback_errors": 0,
        "address": ADDRESS.text,
        "event": "tx-confirmation",
        "filter": f"addr={ADDRESS.text}&event=tx-confirmation",
        "confirmations": 6,
        "suspended": False,
    }
    assert (await caller.client.get(f"{HOOKS}/{made['id']}", params={"token": caller.secret})).json() == made
    assert (await caller.client.get(HOOKS, params={"token": caller.secret})).json() == [made]


@pytest.mark.parametrize(
    ("event", "more"),
    [
        ("unconfirmed-tx", {}),
        ("confirmed-tx", {}),
        ("tx-confirmation", {"confirmations": 6}),
        ("double-spend-tx", {}),
        ("tx-confidence", {"confidence": 0.99}),
    ],
)
async def test_hook_of_each_event_has_its_defaults(caller: Caller, event: str, more: dict[str, Any]) -> None:
    """Each event is taken, and shows the number that it uses, with the original's default."""
    hook_id = await hook(caller, event)
    found = await shown(caller, hook_id)
    assert (
        without(found, "id", "url", "callback_errors", "suspended", "filter")
        == {
            "event": event,
            "address": ADDRESS.text,
        }
        | more
    )


@pytest.mark.parametrize("confirmations", [1, 10, "10"])
async def test_asked_numbers_are_kept(caller: Caller, confirmations: int | str) -> None:
    """Up to ten confirmations may be asked, as a number or a text; a confidence lies between 0 and 1."""
    hook_id = await hook(caller, confirmations=confirmations)
    assert (await shown(caller, hook_id))["confirmations"] == int(confirmations)
    hook_id = await hook(caller, "tx-confidence", confidence=0.5)
    assert (await shown(caller, hook_id))["confidence"] == 0.5


async def test_hook_about_blocks_needs_no_address(caller: Caller) -> None:
    """``new-block`` is about no address; one that a client sends all the same is ignored."""
    for more in ({}, {"address": ADDRESS.text}, {"wallet_name": "no such wallet"}):
        made = await caller.call("POST", HOOKS, json={"event": "new-block", "url": URL} | more)
        assert made["filter"] == "event=new-block"
        assert not {"address", "wallet_name"} & made.keys()
    assert await live_addresses(caller) == [""] * 3
    assert not await watched(caller, ADDRESS)


async def test_same_wish_again_is_another_hook(caller: Caller) -> None:
    """Each call makes a hook of its own, which is told for itself."""
    first, second = await hook(caller, "unconfirmed-tx"), await hook(caller, "unconfirmed-tx")
    assert first != second
    await happen(caller, payment(1))
    assert sorted(request.headers["X-EventId"] for request in await caller.send()) == sorted([first, second])


@pytest.mark.parametrize("headers", [{}, PLAIN, {"Content-Type": "application/x-www-form-urlencoded"}])
async def test_body_is_json_whatever_its_type_says(caller: Caller, headers: dict[str, str]) -> None:
    """Clients send JSON under any content type, with and without a trailing slash."""
    for path in (HOOKS, f"{HOOKS}/"):
        made = await caller.call("POST", path, content=json.dumps(WISH), headers=headers)
        assert made["address"] == ADDRESS.text


async def test_answer_that_is_sent_back_is_a_wish(caller: Caller) -> None:
    """A hook may be made of another one's answer: what the service fills in is ignored."""
    made = await shown(caller, await hook(caller))
    again = await caller.call("POST", HOOKS, json=made | {"hash": "", "script": None, "callback_errors": 7})
    assert again["id"] != made["id"]
    assert (again["callback_errors"], again["url"]) == (0, URL)


async def test_alias_of_test_networks_is_the_same_chain(caller: Caller) -> None:
    """``test3``, which clients know, is this service's network, and a hook made there is the same hook."""
    made = await caller.call("POST", "/v1/btc/test3/hooks", json=WISH)
    assert (await shown(caller, made["id"]))["id"] == made["id"]


async def test_url_is_kept_to_the_letter(caller: Caller) -> None:
    """The URL is called as it was given: a secret in its query works."""
    url = "https://shop.example/a%2Fb/hook?secret=a%20b&x=1&x=2;3"
    await hook(caller, "unconfirmed-tx", url=url)
    await happen(caller, payment(1))
    assert [request.url for request in await caller.send()] == [url]


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"event": None}, "event is missing", id="no event"),
        pytest.param({"event": "tx"}, "event is 'tx', want one of unconfirmed-tx", id="event"),
        pytest.param({"event": ["new-block"]}, "event has the wrong type", id="list of events"),
        pytest.param({"url": None}, "url is missing", id="no url"),
        pytest.param({"url": ""}, "url is missing", id="empty url"),
        pytest.param({"url": {"href": URL}}, "url has the wrong type", id="url object"),
        pytest.param({"url": "ftp://shop.example/"}, "url: has a scheme", id="scheme"),
        pytest.param({"url": "http://10.0.0.1/"}, "[delivery] allow_networks", id="private network"),
        pytest.param({"url": "http://shop.example/\u00e4"}, "url: has blanks", id="not ASCII"),
        pytest.param({"address": None}, "address or wallet_name is missing", id="no address"),
        pytest.param({"address": "x"}, "address: is not a bitcoin address", id="address"),
        pytest.param({"address": [ADDRESS.text]}, "address has the wrong type", id="list of addresses"),
        pytest.param({"address": "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"}, "address: belongs to", id="mainnet"),
        pytest.param({"wallet_name": "w"}, "address and wallet_name are both there", id="both"),
        pytest.param({"address": None, "wallet_name": "w"}, "there is no wallet 'w'", id="unknown wallet"),
        pytest.param({"confirmations": 0}, "confirmations is 0, want 1 to 10", id="0 confirmations"),
        pytest.param({"confirmations": 11}, "confirmations is 11, want 1 to 10", id="11 confirmations"),
        pytest.param({"confirmations": -1}, "confirmations is -1, want 1 to 10", id="-1 confirmations"),
        pytest.param({"confirmations": 10**4200}, "want 1 to 10", id="4,200 digits"),
        pytest.param({"confirmations": 2.5}, "confirmations has the wrong type", id="2.5 confirmations"),
        pytest.param({"confirmations": [6]}, "confirmations has the wrong type", id="list of confirmations"),
        pytest.param({"event": "tx-confidence", "confidence": 0}, "confidence is 0", id="confidence 0"),
        pytest.param({"event": "tx-confidence", "confidence": 1}, "confidence is 1", id="confidence 1"),
        pytest.param({"event": "tx-confidence", "confidence": "nan"}, "confidence is nan", id="no number"),
        pytest.param({"event": "tx-confidence", "confidence": 1e300}, "confidence is", id="huge confidence"),
        pytest.param({"signkey": "x"}, "signkey is no PEM", id="signkey"),
        pytest.param({"signkey": 5}, "signkey has the wrong type", id="signkey number"),
        pytest.param({"hash": "ab" * 32}, "a hook about hash is not possible", id="hash"),
        pytest.param({"script": "pay-to-pubkey-hash"}, "a hook about script is not possible", id="script"),
    ],
)
async def test_wrong_field_is_named_and_nothing_is_made(caller: Caller, changes: dict[str, Any], reason: str) -> None:
    """What is missing or wrong is refused in the original's shape with the name of the field; there is no hook then."""
    status, text = await refused(caller, "POST", HOOKS, json=WISH | changes)
    assert status == (404 if "no wallet" in reason else 400)
    assert reason in text
    assert await caller.call("GET", HOOKS) == []
    assert await caller.stored() == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b"event=new-block&url=" + URL.encode(),
        b"\xff",
        b'{"a":' * 5_000,
        b"[" * 30_000,
    ],
)
async def test_what_is_no_json_object_is_400(caller: Caller, body: bytes) -> None:
    """A body that is no JSON object is refused, whatever it is."""
    assert (await refused(caller, "POST", HOOKS, content=body))[0] == 400


@pytest.mark.slow
async def test_body_of_any_depth_is_refused(caller: Caller) -> None:
    """A field may be as deep as the parser takes it, with or without a key: it is refused like any wrong field."""
    for inner in (b'{"a":%b}', b"[%b]"):
        parts = inner.split(b"%b")
        for depth in range(700, 1020):
            body = b'{"event":' + parts[0] * depth + b"1" + parts[1] * depth + b"}"
            assert (await refused(caller, "POST", HOOKS, content=body))[0] == 400


async def test_field_that_says_two_things_is_refused(caller: Caller) -> None:
    """Query and body must not contradict each other."""
    status, text = await refused(caller, "POST", f"{HOOKS}?event=new-block", json=WISH)
    assert (status, text) == (400, "'event' is given twice, with different values")


async def test_signing_key_is_repeated_nowhere(caller: Caller) -> None:
    """Neither a good key nor a wrong one is shown again."""
    wrong = private_pem().replace("PRIVATE KEY", "SECRET KEY")
    answer = await caller.client.post(HOOKS, json=WISH | {"signkey": wrong}, headers=caller.key)
    assert (answer.status_code, wrong[30:60] in answer.text) == (400, False)
    made = await caller.call("POST", HOOKS, json=WISH | {"signkey": private_pem()})
    assert made["signkey"] == "custom"
    assert "signkey" not in await caller.call("POST", HOOKS, json=WISH | {"signkey": "preset"})
    for path in (HOOKS, f"{HOOKS}/{made['id']}"):
        assert "PRIVATE" not in (await caller.client.get(path, headers=caller.key)).text


@pytest.mark.parametrize("chain", ["main", "test", "bcy", "testnet4", "signet", "REGTEST", "x" * 500])
async def test_other_network_is_a_clear_404(caller: Caller, chain: str) -> None:
    """A path of another network says which one this service runs on, and how it is spelled, in all calls alike."""
    for method, path in (("GET", "/hooks"), ("POST", "/hooks"), ("GET", ""), ("GET", f"/addrs/{ADDRESS.text}/balance")):
        status, text = await refused(caller, method, f"/v1/btc/{chain}{path}")
        assert status == 404
        assert text.startswith("this service runs on regtest, there is no chain btc/")
        assert text.endswith("want btc/regtest")
    assert (await refused(caller, "GET", f"/v1/btc/{chain}/signing-key"))[0] == 404


async def test_mainnet_is_main_alone(open_with: OpenCaller) -> None:
    """On mainnet the path is ``main``; the test networks' alias is another chain there."""
    async with open_with(network=MAINNET) as caller:
        assert await caller.call("GET", "/v1/btc/main/hooks") == []
        for name in ("mainnet", "test3", "regtest"):
            status, text = await refused(caller, "GET", f"/v1/btc/{name}/hooks")
            assert (status, text.rpartition("; ")[2]) == (404, "want btc/main")


# --- removing ----------------------------------------------------------------------------------------------------


async def test_removed_hook_is_204_and_gone(caller: Caller) -> None:
    """DELETE answers 204 without a body; the hook is 404 then, for good, and its address is let go."""
    hook_id = await hook(caller)
    answer = await caller.client.delete(f"{HOOKS}/{hook_id}", params={"token": caller.secret})
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "DELETE"):
        assert (await refused(caller, method, f"{HOOKS}/{hook_id}"))[0] == 404
    assert await caller.call("GET", HOOKS) == []
    assert not await watched(caller, ADDRESS)


@pytest.mark.parametrize("event", EVENTS)
async def test_nothing_more_is_told_after_the_end(caller: Caller, event: str) -> None:
    """What is due, what is under way, and what happens later: nothing of it is told once the hook was removed."""
    hook_id = await hook(caller, event)
    await happen(caller, payment(1))
    await mine(caller)
    claims = await caller.claim()
    await caller.client.delete(f"{HOOKS}/{hook_id}", headers=caller.key)
    for claim in claims:
        await caller.finish(claim)
    await hook(caller, "unconfirmed-tx", url="https://other.example/")
    await paid_at(caller, 2)
    await happen(caller, payment(3))
    caller.now += 100_000
    assert {request.url for request in await caller.send()} == {"https://other.example/"}


async def test_other_hook_of_the_same_address_goes_on(caller: Caller) -> None:
    """Removing one of two hooks leaves the other, and the address watched."""
    first, second = await hook(caller, "unconfirmed-tx"), await hook(caller, "unconfirmed-tx")
    await caller.client.delete(f"{HOOKS}/{first}", headers=caller.key)
    await happen(caller, payment(1))
    assert [request.headers["X-EventId"] for request in await caller.send()] == [second]
    assert await watched(caller, ADDRESS)


@pytest.mark.parametrize("hook_id", [UNKNOWN_ID, "1", "x" * 300, "%ff", "%00"])
async def test_unknown_hook_is_404(caller: Caller, hook_id: str) -> None:
    """There is no hook of another id, whatever it looks like."""
    for method in ("GET", "DELETE"):
        status, text = await refused(caller, method, f"{HOOKS}/{hook_id}")
        assert status == 404
        assert text.startswith("there is no hook '")


# --- keys --------------------------------------------------------------------------------------------------------


async def test_hooks_of_another_owner_are_not_there(caller: Caller) -> None:
    """With another owner's key a hook is 404, and in no list; it cannot be removed."""
    hook_id = await hook(caller)
    other = await caller.foreign_key()
    for method in ("GET", "DELETE"):
        answer = await caller.client.request(method, f"{HOOKS}/{hook_id}", headers=other)
        assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert (await caller.client.get(HOOKS, headers=other)).json() == []
    assert (await shown(caller, hook_id))["id"] == hook_id


async def test_token_is_the_key(caller: Caller) -> None:
    """The key travels as ``token`` in query or body, as Bearer, Basic user name, or X-API-Key."""
    basic = base64.b64encode(f"{caller.secret}:".encode()).decode()
    for headers, query, body in (
        ({}, {"token": caller.secret}, {}),
        ({}, {}, {"token": caller.secret}),
        ({"Authorization": f"Bearer {caller.secret}"}, {}, {}),
        ({"Authorization": f"Basic {basic}"}, {}, {}),
        ({"X-API-Key": caller.secret}, {}, {}),
    ):
        answer = await caller.client.post(HOOKS, params=query, json=WISH | body, headers=headers)
        assert answer.status_code == 201
        assert answer.json().get("token", caller.secret) == caller.secret


CALLS = [
    ("POST", "/hooks", WISH),
    ("GET", "/hooks", None),
    ("GET", f"/hooks/{UNKNOWN_ID}", None),
    ("DELETE", f"/hooks/{UNKNOWN_ID}", None),
    ("POST", "/wallets", {"name": "w", "addresses": [ADDRESS.text]}),
    ("POST", "/wallets/w/addresses", {"addresses": [ADDRESS.text]}),
    ("DELETE", "/wallets/w", None),
    ("POST", "/wallets/hd/w/addresses/derive", None),
    ("POST", "/txs/push", {"tx": "00"}),
]


async def test_without_a_good_key_nothing_is_done(caller: Caller) -> None:
    """A missing, wrong or odd token is 401 in the dialect's shape, and changes nothing."""
    for token in (None, "lipn_wrong", "x" * 5000, ["x"], {"a": 1}, 5):
        for method, path, body in CALLS:
            fields = (body or {}) | ({} if token is None else {"token": token})
            answer = await caller.client.request(method, V1 + path, json=fields)
            assert (answer.status_code, list(answer.json())) == (401, ["error"])
            assert "www-authenticate" in answer.headers
    assert await caller.stored() == []


async def test_anonymous_dialect_needs_no_key(open_with: OpenCaller) -> None:
    """Where the operator allows it callers without a key share one owner, whose hooks nobody with a key has."""
    async with open_with(is_anonymous=True) as caller:
        made = (await caller.client.post(HOOKS, json=WISH)).json()
        assert "token" not in made
        assert (await caller.client.get(HOOKS)).json() == [made]
        assert await caller.call("GET", HOOKS) == []


async def test_limits_of_a_token(caller: Caller) -> None:
    """``/v1/tokens/{t}`` shows what a good key may do, and nothing of a wrong one."""
    for slash in ("", "/"):
        answer = await caller.client.get(f"/v1/tokens/{caller.secret}{slash}")
        assert answer.json() == {
            "token": caller.secret,
            "limits": {"hooks": 100_000},
            "hits": {},
            "hits_history": [],
        }
    answer = await caller.client.get("/v1/tokens/lipn_wrong")
    assert (answer.status_code, list(answer.json())) == (401, ["error"])


# --- what is of the past -----------------------------------------------------------------------------------------


async def test_hook_tells_what_is_new_or_not_deep_enough(caller: Caller) -> None:
    """What was deep enough when the hook was made is of the past; what was below its depth is told."""
    await hook(caller, "confirmed-tx", url="https://keeps.example/")
    await paid_at(caller, 1)
    await mine(caller, 5)
    await paid_at(caller, 2)
    await told(caller)
    await hook(caller)
    found = await told(caller)
    assert [(body["hash"], body["confirmations"]) for body in found] == [(said_hash(2), 1)]


def said_hash(number: int) -> str:
    """Return the hash of a payment as a webhook says it, without the code under test."""
    return payment(number).txid[::-1].hex()


async def test_other_address_is_nobodys_business(caller: Caller) -> None:
    """A hook is told of its own address alone."""
    await hook(caller, "unconfirmed-tx", address=regtest_address(1).text)
    await hook(caller, "unconfirmed-tx")
    await happen(caller, payment(1, script=regtest_address(1).script), address=regtest_address(1))
    (request,) = await caller.send()
    assert said(request)["address"] == regtest_address(1).text
