"""``/v2/receive`` as shops call it: addresses, the gap, the log of calls; and whom the dialect answers."""

import base64
from typing import Any
from urllib.parse import quote

import pytest
from embit import bip32

from lightipn.bitcoin.extended_key import parse_receive_chains
from lightipn.bitcoin.network import REGTEST
from lightipn.outbox.subscriptions import SubscriptionState
from tests.builders import entry_of
from tests.dialects.receive.rig import (
    BALANCE,
    BASE,
    BLOCKS,
    CALLBACK,
    GAP_TOO_LARGE,
    TPRV,
    TPUB,
    VPUB,
    WANTED,
    address_at,
    called_twice,
    check_refused,
    every_spelling,
    scanned,
)
from tests.dialects.rig import Caller
from tests.store.plain_dialect import answer_of

# --- addresses ---------------------------------------------------------------------------------------------------


async def test_each_call_gives_the_next_address(caller: Caller) -> None:
    """Each call answers a fresh address with the next index, and subscribes the URL exactly as it was given."""
    await scanned(caller)
    found = [await caller.call("GET", BASE, params=WANTED) for _ in range(3)]
    assert found == [{"address": address_at(index), "index": index, "callback": CALLBACK} for index in range(3)]
    assert [(item.owner, item.address, item.url) for item in await caller.stored()] == [
        ("shop", address_at(index), CALLBACK) for index in range(3)
    ]


async def test_request_may_be_query_form_json_or_plain_text(caller: Caller) -> None:
    """GET and POST, query, form, JSON and JSON as plain text mean the same, with and without a trailing slash."""
    await scanned(caller)
    found = await every_spelling(caller, BASE, WANTED)
    assert [item["index"] for item in found] == list(range(10))
    assert {item["callback"] for item in found} == {CALLBACK}


async def test_callback_goes_by_both_of_its_names(caller: Caller) -> None:
    """The document's table calls it ``callback_url``, its examples ``callback``."""
    await scanned(caller)
    made = await caller.call("GET", BASE, params={"xpub": VPUB, "callback_url": CALLBACK})
    assert made["callback"] == CALLBACK


async def test_addresses_begin_behind_the_last_used_one(caller: Caller) -> None:
    """Of a wallet that was used before the first unused index is given."""
    await scanned(caller, used={"p2wpkh": 22})
    assert (await caller.call("GET", BASE, params=WANTED))["index"] == 23


async def test_spellings_of_a_key_share_their_counter(caller: Caller) -> None:
    """vpub, and tpub with ``address_type``, are the same supply, whoever asks; other types have their own."""
    await scanned(caller)
    as_type = {"xpub": TPUB, "callback": CALLBACK, "address_type": "p2wpkh"}
    assert (await caller.call("GET", BASE, params=WANTED))["index"] == 0
    assert await caller.call("GET", BASE, params=as_type) == {
        "address": address_at(1),
        "index": 1,
        "callback": CALLBACK,
    }
    other = await caller.client.get(BASE, params=WANTED, headers=await caller.foreign_key())
    assert other.json()["index"] == 2
    assert (await caller.call("GET", BASE, params=as_type | {"address_type": "p2tr"}))["index"] == 0


async def test_type_that_the_wallet_does_not_use_is_refused(caller: Caller) -> None:
    """A plain key whose wallet uses segwit addresses is refused with the name of ``address_type``."""
    await scanned(caller, used={"p2wpkh": 4})
    await check_refused(caller, BASE, WANTED | {"xpub": TPUB}, reason="Problem with xpub: the wallet of this key uses")
    await check_refused(caller, BASE, WANTED | {"xpub": TPUB}, reason="address_type=p2wpkh")
    assert await caller.stored() == []


async def test_gap_of_twenty_is_the_end(caller: Caller) -> None:
    """The twenty-first unused address is refused in the original's words, unless ``gap_limit`` allows it."""
    await scanned(caller)
    for index in range(20):
        assert (await caller.call("GET", BASE, params=WANTED))["index"] == index
    assert await caller.refusal("GET", BASE, params=WANTED) == (400, GAP_TOO_LARGE)
    assert await caller.refusal("GET", BASE, params=WANTED | {"gap_limit": "20"}) == (400, GAP_TOO_LARGE)
    assert (await caller.call("GET", BASE, params=WANTED | {"gap_limit": "21"}))["index"] == 20
    assert await caller.refusal("GET", BASE, params=WANTED | {"gap_limit": "21"}) == (400, GAP_TOO_LARGE)
    assert (await caller.call("GET", BASE, params=WANTED | {"gap_limit": "10000"}))["index"] == 21
    assert len(await caller.stored()) == 22


async def test_payment_makes_room_in_the_gap(caller: Caller) -> None:
    """A payment to one of the unused addresses moves the gap's beginning there."""
    await scanned(caller)
    for _ in range(3):
        await caller.call("GET", BASE, params=WANTED | {"gap_limit": "3"})
    assert await caller.refusal("GET", BASE, params=WANTED | {"gap_limit": "3"}) == (400, GAP_TOO_LARGE)
    await caller.pay(entry_of(1), address=parse_receive_chains(VPUB, REGTEST)[0].address_at(1))
    for index in (3, 4):
        assert (await caller.call("GET", BASE, params=WANTED | {"gap_limit": "3"}))["index"] == index
    assert await caller.refusal("GET", BASE, params=WANTED | {"gap_limit": "3"}) == (400, GAP_TOO_LARGE)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"xpub": None}, "Missing parameter: xpub is missing", id="no xpub"),
        pytest.param({"callback": None}, "Missing parameter: callback is missing", id="no callback"),
        pytest.param({"callback": ""}, "Missing parameter: callback is missing", id="empty callback"),
        pytest.param({"xpub": VPUB[:-1] + "1"}, "Problem with xpub: extended key cannot be read", id="typing error"),
        pytest.param({"xpub": "xpub"}, "Problem with xpub: ", id="no key"),
        pytest.param({"xpub": TPRV}, "Problem with xpub: extended key is a private one", id="private key"),
        pytest.param(
            {"xpub": f"wpkh({TPRV}/0/*)"}, "Problem with xpub: extended key is a private one", id="private descriptor"
        ),
        pytest.param(
            {"xpub": bip32.HDKey.from_seed(bytes(64)).to_public().to_base58()}, "belongs to mainnet", id="mainnet key"
        ),
        pytest.param(
            {"callback": "ftp://mystore.example/"}, "Problem with callback: callback: has a scheme", id="scheme"
        ),
        pytest.param({"callback": "http://192.168.0.1/"}, "[delivery] allow_networks", id="private network"),
        pytest.param({"callback": "https://mystore.example/" + "x" * 232}, "256 characters", id="256 characters"),
        pytest.param({"gap_limit": "0"}, "gap_limit is '0'", id="gap 0"),
        pytest.param({"gap_limit": "-5"}, "gap_limit is '-5'", id="gap -5"),
        pytest.param({"gap_limit": "many"}, "gap_limit is 'many'", id="gap many"),
        pytest.param({"gap_limit": "100001"}, "gap_limit is '100001'", id="gap 100001"),
        pytest.param({"address_type": "p2sh"}, "Problem with xpub: address_type is 'p2sh'", id="type"),
    ],
)
async def test_wrong_field_is_named_and_no_address_is_given(
    caller: Caller, changes: dict[str, str | None], reason: str
) -> None:
    """What is missing or wrong is 400 with ``message`` first, and uses no index up."""
    await scanned(caller)
    await check_refused(caller, BASE, WANTED | changes, reason=reason)
    assert await caller.stored() == []
    assert (await caller.call("GET", BASE, params=WANTED))["index"] == 0


@pytest.mark.parametrize("text", [TPRV, f"wpkh({TPRV}/0/*)", f"wpkh([73c5da0a/84h/1h/0h]{TPRV}/0/*)"])
async def test_private_key_is_repeated_nowhere(caller: Caller, text: str) -> None:
    """Not a word of a private key is answered or stored, whichever call brings it."""
    for path in (BASE, f"{BASE}/checkgap"):
        _, body = await caller.refusal("GET", path, params=WANTED | {"xpub": text})
        assert TPRV[:20] not in str(body)
    rows = await caller.store.read(lambda db: db.execute("SELECT count(*) FROM address_chain").fetchone()[0])
    assert rows == 0


async def test_url_of_255_characters_is_taken(caller: Caller) -> None:
    """The longest URL that the document allows is registered whole."""
    await scanned(caller)
    url = "https://mystore.example/" + "x" * 231
    assert len(url) == 255
    assert (await caller.call("GET", BASE, params=WANTED | {"callback": url}))["callback"] == url
    assert (await caller.call("POST", f"{BASE}/balance_update", json=BALANCE | {"callback": url}))["callback"] == url
    for path, fields in (("balance_update", BALANCE), ("block_notification", BLOCKS)):
        await check_refused(caller, f"{BASE}/{path}", fields | {"callback": url + "x"}, reason="Problem with callback")


async def test_key_that_is_being_scanned_gets_no_index(caller: Caller, autojump_clock: Any) -> None:
    """While a key is looked at for the first time the answer is 503 after eight seconds, and no address is given."""
    status, body = await caller.refusal("GET", BASE, params=WANTED)
    assert (status, list(body), body["message"]) == (503, ["message", "description"], "xpub is being scanned")
    assert await caller.stored() == []
    await scanned(caller)
    assert (await caller.call("GET", BASE, params=WANTED))["index"] == 0


# --- the gap -----------------------------------------------------------------------------------------------------


async def test_gap_counts_the_addresses_since_the_last_paid_one(caller: Caller) -> None:
    """The gap is the distance from the last paid address to the last one that was given away."""
    await scanned(caller)
    chain = parse_receive_chains(VPUB, REGTEST)[0]
    gaps = []
    for index in range(4):
        await caller.call("GET", BASE, params=WANTED)
        gaps += {item["gap"] for item in await every_spelling(caller, f"{BASE}/checkgap", {"xpub": VPUB})}
        if index == 1:
            await caller.pay(entry_of(1), address=chain.address_at(1))
            gaps.append((await caller.call("GET", f"{BASE}/checkgap", params={"xpub": VPUB}))["gap"])
    assert gaps == [1, 2, 0, 1, 2]


async def test_gap_of_a_key_without_addresses_is_not_found(caller: Caller) -> None:
    """Before this owner was given an address the key is unknown, even if another owner was."""
    await check_refused(caller, f"{BASE}/checkgap", {"xpub": VPUB}, status=404, reason="xpub not found")
    await scanned(caller)
    await caller.client.get(BASE, params=WANTED, headers=await caller.foreign_key())
    await check_refused(caller, f"{BASE}/checkgap", {"xpub": VPUB}, status=404, reason="xpub not found")
    await check_refused(caller, f"{BASE}/checkgap", {}, reason="xpub is missing")
    await check_refused(caller, f"{BASE}/checkgap", {"xpub": "x"}, reason="Problem with xpub")


# --- the log of calls --------------------------------------------------------------------------------------------


async def test_log_shows_the_calls_of_exactly_this_url(caller: Caller) -> None:
    """Every call is shown, the oldest first, with the registered URL and never with a key; other URLs show nothing."""
    await called_twice(caller)
    wanted = [
        {"callback": CALLBACK, "called_at": "2023-11-14T22:13:20Z", "raw_response": "", "response_code": 0},
        {"callback": CALLBACK, "called_at": "2023-11-14T22:13:35Z", "raw_response": "*bad*", "response_code": 200},
    ]
    for path in (f"{BASE}/callback_log", f"{BASE}/callback_logs"):
        assert await every_spelling(caller, path, {"callback": CALLBACK}) == [wanted] * 10
        for other in (CALLBACK + "x", CALLBACK.partition("&")[0], CALLBACK + "&key=" + caller.secret):
            assert await caller.call("GET", path, params={"callback": other}) == []
    raw = await caller.client.get(f"{BASE}/callback_log?callback={quote(CALLBACK, safe='')}&key={caller.secret}")
    assert raw.json() == wanted
    assert caller.secret not in raw.text
    await check_refused(caller, f"{BASE}/callback_log", {}, reason="callback is missing")


async def test_log_shows_bytes_that_are_no_text(caller: Caller) -> None:
    """An answer that is no UTF-8 is shown all the same, and no more than its beginning."""
    await called_twice(caller)
    await caller.pay(entry_of(1), entry_of(2), address=parse_receive_chains(VPUB, REGTEST)[0].address_at(0))
    await caller.send(answer_of(b"\xff" + b"x" * 5000, status=500))
    shown = (await caller.call("GET", f"{BASE}/callback_log", params={"callback": CALLBACK}))[-1]
    assert (shown["raw_response"], shown["response_code"]) == ("\ufffd" + "x" * 499, 500)


# --- keys --------------------------------------------------------------------------------------------------------


async def test_objects_of_another_owner_are_not_there(caller: Caller) -> None:
    """With another owner's key requests are 404, the log is empty, and the gap unknown."""
    await called_twice(caller)
    await caller.call("POST", f"{BASE}/balance_update", json=BALANCE)
    await caller.call("POST", f"{BASE}/block_notification", json=BLOCKS)
    other = await caller.foreign_key()
    for path in ("balance_update/2", "block_notification/3", "block_notifcation/3", "balance_update/1"):
        answer = await caller.client.delete(f"{BASE}/{path}", headers=other)
        assert (answer.status_code, list(answer.json())) == (404, ["message", "description"])
    log = await caller.client.get(f"{BASE}/callback_log", params={"callback": CALLBACK}, headers=other)
    assert log.json() == []
    gap = await caller.client.get(f"{BASE}/checkgap", params={"xpub": VPUB}, headers=other)
    assert (gap.status_code, gap.json()["message"]) == (404, "xpub not found")
    assert {item.state for item in await caller.stored()} == {SubscriptionState.ACTIVE}


CALLS = [
    ("GET", BASE, WANTED),
    ("GET", f"{BASE}/checkgap", {"xpub": VPUB}),
    ("GET", f"{BASE}/callback_log", {"callback": CALLBACK}),
    ("POST", f"{BASE}/balance_update", BALANCE),
    ("POST", f"{BASE}/block_notification", BLOCKS),
    ("DELETE", f"{BASE}/balance_update/1", {}),
    ("DELETE", f"{BASE}/block_notifcation/1", {}),
]


async def test_without_a_good_key_nothing_is_answered(caller: Caller) -> None:
    """A missing or unknown key is 401 with ``message`` first, on every path, and nothing is stored."""
    await scanned(caller)
    for key, message in (({}, "API key is missing"), ({"key": "lipn_wrong"}, "Invalid API key")):
        for method, path, fields in CALLS:
            answer = await caller.client.request(method, path, params=fields | key)
            assert answer.status_code == 401
            assert list(answer.json()) == ["message", "description"]
            assert answer.json()["message"] == message
    assert await caller.stored() == []


async def test_key_travels_in_any_of_five_ways_and_in_the_body(caller: Caller) -> None:
    """The key is taken as Bearer, Basic user name, X-API-Key, ``key`` and ``token``; also in a body."""
    basic = base64.b64encode(f"{caller.secret}:".encode()).decode()
    path = f"{BASE}/balance_update"
    for headers, extra in (
        ({"Authorization": f"Bearer {caller.secret}"}, {}),
        ({"Authorization": f"Basic {basic}"}, {}),
        ({"X-API-Key": caller.secret}, {}),
        ({}, {"key": caller.secret}),
        ({}, {"token": caller.secret}),
    ):
        assert (await caller.client.get(path, params=BALANCE | extra, headers=headers)).status_code == 200
        assert (await caller.client.post(path, json=BALANCE | extra, headers=headers)).status_code == 200
        assert (await caller.client.post(path, data=BALANCE | extra, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 400), (b"[1]", 400), (b"\xff", 400), (b'{"x": "' + b"x" * 70_000 + b'"}', 413)]
)
async def test_unreadable_body_is_refused_in_the_same_shape(caller: Caller, content: bytes, status: int) -> None:
    """A body that cannot be read, or is too large, is refused with ``message`` first."""
    for path in (BASE, f"{BASE}/balance_update", f"{BASE}/block_notification"):
        headers = {"Content-Type": "application/json"}
        found, body = await caller.refusal("POST", path, content=content, headers=headers)
        assert (found, list(body)) == (status, ["message", "description"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("HEAD", BASE),
        ("PUT", BASE),
        ("DELETE", BASE),
        ("PATCH", f"{BASE}/checkgap"),
        ("GET", f"{BASE}/balance_update/1"),
    ],
)
async def test_other_methods_are_405(caller: Caller, method: str, path: str) -> None:
    """A path takes its own methods alone; a HEAD, as previews of links send it, uses no index up."""
    await scanned(caller)
    answer = await caller.client.request(method, path, params=WANTED, headers=caller.key)
    assert answer.status_code == 405
    assert await caller.stored() == []
