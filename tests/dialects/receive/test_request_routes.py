"""Balance updates and block notifications as shops ask for them, and delete them."""

from typing import Any

import pytest

from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.network import MAINNET
from lightipn.outbox.subscriptions import SubscriptionState
from tests.builders import SCRIPT, entry_of, txid_of
from tests.dialects.receive.rig import (
    BALANCE,
    BASE,
    BLOCKS,
    CALLBACK,
    WANTED,
    check_refused,
    every_spelling,
    scanned,
)
from tests.dialects.rig import ADDRESS, SILENCE, TIP, Caller
from tests.store.plain_dialect import answer_of

# --- balance updates ---------------------------------------------------------------------------------------------


async def test_balance_update_is_answered_as_it_was_asked_for(caller: Caller) -> None:
    """All spellings make the same request, answered with the six fields of the document."""
    found = await every_spelling(caller, f"{BASE}/balance_update", BALANCE)
    assert found == [{"id": 1, **BALANCE}] * 10
    assert list(found[0]) == ["id", "addr", "op", "confs", "callback", "onNotification"]


async def test_balance_update_has_defaults(caller: Caller) -> None:
    """Without ``op`` and ``confs`` it is about all payments, at three confirmations; ``address`` is ``addr``."""
    fields = {"address": ADDRESS.text.upper(), "callback_url": CALLBACK, "onNotification": "delete"}
    assert await caller.call("POST", f"{BASE}/balance_update", json=fields) == {
        "id": 1,
        "addr": ADDRESS.text,
        "op": "ALL",
        "confs": 3,
        "callback": CALLBACK,
        "onNotification": "DELETE",
    }


async def test_other_terms_are_another_request(caller: Caller) -> None:
    """The same URL and address may be asked for with several terms, each with an id of its own."""
    path = f"{BASE}/balance_update"
    variants = [BALANCE, BALANCE | {"op": "SPEND"}, BALANCE | {"confs": 0}, BALANCE | {"onNotification": "DELETE"}]
    assert [(await caller.call("POST", path, json=fields))["id"] for fields in variants] == [1, 2, 3, 4]
    assert [(await caller.call("POST", path, json=fields))["id"] for fields in variants] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"addr": None}, "Missing parameter: addr is missing", id="no addr"),
        pytest.param({"addr": "183qrMGHzMstARRh2rVoRepAd919sGgMHx"}, "Problem with address: address: ", id="typo"),
        pytest.param({"addr": address_of(SCRIPT, MAINNET)}, "belongs to mainnet", id="mainnet"),
        pytest.param({"callback": None}, "Missing parameter: callback is missing", id="no callback"),
        pytest.param({"callback": "mystore"}, "Problem with callback: ", id="callback"),
        pytest.param({"onNotification": None}, "Missing parameter: onNotification is missing", id="no onNotification"),
        pytest.param({"onNotification": "MAYBE"}, "onNotification is 'MAYBE', want KEEP or DELETE", id="MAYBE"),
        pytest.param({"op": "BOTH"}, "op is 'BOTH', want SPEND or RECEIVE or ALL", id="op"),
        pytest.param({"confs": -1}, "confs is '-1'", id="confs -1"),
        pytest.param({"confs": "x"}, "confs is 'x'", id="confs x"),
        pytest.param({"confs": 1001}, "confs is '1001'", id="confs 1001"),
    ],
)
async def test_wrong_field_of_a_balance_update_is_named(caller: Caller, changes: dict[str, Any], reason: str) -> None:
    """What is missing or wrong is 400 with ``message`` first, and nothing is stored."""
    await check_refused(caller, f"{BASE}/balance_update", BALANCE | changes, reason=reason)
    assert await caller.stored() == []


# --- block notifications -----------------------------------------------------------------------------------------


async def test_block_notification_is_answered_as_it_was_asked_for(caller: Caller) -> None:
    """All spellings make the same request, answered with the five fields of the document."""
    found = await every_spelling(caller, f"{BASE}/block_notification", BLOCKS)
    assert found == [{"id": 1, "height": 500_000, "callback": CALLBACK, "confs": 1, "onNotification": "DELETE"}] * 10
    assert list(found[0]) == ["id", "height", "callback", "confs", "onNotification"]


async def test_next_block_is_the_default(caller: Caller) -> None:
    """Without a height it is about the next block, and one confirmation."""
    fields = {"callback": CALLBACK, "onNotification": "KEEP"}
    made = await caller.call("POST", f"{BASE}/block_notification", json=fields)
    assert made == {"id": 1, "height": TIP + 1, "callback": CALLBACK, "confs": 1, "onNotification": "KEEP"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"callback": None}, "Missing parameter: callback is missing", id="no callback"),
        pytest.param({"callback": "mystore"}, "Problem with callback: ", id="callback"),
        pytest.param({"onNotification": None}, "Missing parameter: onNotification is missing", id="no onNotification"),
        pytest.param({"onNotification": "1"}, "onNotification is '1'", id="onNotification"),
        pytest.param({"height": TIP}, f"height is {TIP}", id="height passed"),
        pytest.param({"height": 0}, "height is 0", id="height 0"),
        pytest.param({"height": "next"}, "height is 'next'", id="height text"),
        pytest.param({"height": -1}, "height is '-1'", id="height -1"),
        pytest.param({"confs": 0}, "confs is '0'", id="confs 0"),
        pytest.param({"confs": 1001}, "confs is '1001'", id="confs 1001"),
    ],
)
async def test_wrong_field_of_a_block_notification_is_named(
    caller: Caller, changes: dict[str, Any], reason: str
) -> None:
    """What is missing or wrong is 400 with ``message`` first, and nothing is stored."""
    await check_refused(caller, f"{BASE}/block_notification", BLOCKS | changes, reason=reason)
    assert await caller.stored() == []


# --- deleting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields", "spellings"),
    [
        ("balance_update", BALANCE, ["balance_update"]),
        ("block_notification", BLOCKS, ["block_notification", "block_notifcation"]),
    ],
)
async def test_request_is_deleted_once(caller: Caller, path: str, fields: dict[str, Any], spellings: list[str]) -> None:
    """A request is deleted under its id, in each spelling of the path; after that it is 404."""
    number = 0
    for spelling in spellings:
        for slash in ("", "/"):
            number += 1
            assert (await caller.call("POST", f"{BASE}/{path}", json=fields))["id"] == number
            assert await caller.call("DELETE", f"{BASE}/{spelling}/{number}{slash}") == {"deleted": True}
            assert (await caller.subscription(number)).state is SubscriptionState.CANCELED
            status, body = await caller.refusal("DELETE", f"{BASE}/{spelling}/{number}{slash}")
            assert (status, list(body), body["message"]) == (404, ["message", "description"], "Request not found")


async def test_deleted_request_tells_nothing_more(caller: Caller) -> None:
    """What was not heard yet is not told any more after a request was deleted."""
    await caller.call("POST", f"{BASE}/balance_update", json=BALANCE)
    await caller.pay(entry_of(1))
    (request,) = await caller.send(SILENCE)
    assert hex_of(txid_of(1)) in request.url
    await caller.call("DELETE", f"{BASE}/balance_update/1")
    await caller.pay(entry_of(2))
    caller.now += 86400
    assert await caller.send() == []


async def test_deleting_while_it_is_being_told_holds(caller: Caller) -> None:
    """A request that is deleted while its call is under way is not told again, whatever the answer."""
    await caller.call("POST", f"{BASE}/balance_update", json=BALANCE)
    await caller.pay(entry_of(1))
    (claim,) = await caller.claim()
    await caller.call("DELETE", f"{BASE}/balance_update/1")
    await caller.finish(claim, SILENCE)
    caller.now += 86400
    assert await caller.send() == []


@pytest.mark.parametrize("wrong_id", ["3", "0", "-1", "x", "1.0", "9" * 18, "9" * 400, "١"])
async def test_unknown_request_is_404(caller: Caller, wrong_id: str) -> None:
    """Whatever is no id of such a request is 404."""
    await caller.call("POST", f"{BASE}/balance_update", json=BALANCE)
    await caller.call("POST", f"{BASE}/block_notification", json=BLOCKS)
    for path in ("balance_update", "block_notification", "block_notifcation"):
        status, body = await caller.refusal("DELETE", f"{BASE}/{path}/{wrong_id}")
        assert (status, list(body)) == (404, ["message", "description"])


async def test_requests_of_other_kinds_are_404(caller: Caller) -> None:
    """A block notification is no balance update, nor the other way round; a given address is neither."""
    await scanned(caller)
    await caller.call("POST", f"{BASE}/balance_update", json=BALANCE)
    await caller.call("POST", f"{BASE}/block_notification", json=BLOCKS)
    await caller.call("GET", BASE, params=WANTED)
    for path, number in (
        ("balance_update", 2),
        ("balance_update", 3),
        ("block_notification", 1),
        ("block_notifcation", 1),
        ("block_notification", 3),
    ):
        assert (await caller.refusal("DELETE", f"{BASE}/{path}/{number}"))[0] == 404
    assert {item.state for item in await caller.stored()} == {SubscriptionState.ACTIVE}


# --- between two blocks ------------------------------------------------------------------------------------------


async def test_call_without_an_answer_is_repeated_between_two_blocks(caller: Caller) -> None:
    """A call that nobody answered is made again after 15 s, and then 30 s, though no block has come."""
    await caller.call("POST", f"{BASE}/balance_update", json=BALANCE)
    await caller.pay(entry_of(1))
    (first,) = await caller.send(SILENCE)
    for pause_s in (15, 30):
        caller.now += pause_s - 0.1
        assert await caller.send() == []
        caller.now += 0.1
        assert await caller.send(SILENCE) == [first]


@pytest.mark.parametrize(("status", "body"), [(200, b"*bad*"), (200, b""), (404, b"*ok*"), (500, b"")])
async def test_call_with_another_answer_waits_for_the_next_block(caller: Caller, status: int, body: bytes) -> None:
    """A call that was answered, if not with ``*ok*``, is not made again before a block comes, however long it takes."""
    await caller.call("POST", f"{BASE}/balance_update", json=BALANCE)
    await caller.pay(entry_of(1))
    assert len(await caller.send(answer_of(body, status=status))) == 1
    caller.now += 86400
    assert await caller.send() == []


async def test_call_that_was_answered_with_ok_is_the_last_one(caller: Caller) -> None:
    """After ``*ok*`` the same moment of a payment is not told again, though its history is looked at again."""
    await caller.call("POST", f"{BASE}/balance_update", json=BALANCE)
    await caller.pay(entry_of(1))
    assert len(await caller.send(answer_of(b"*ok*"))) == 1
    caller.now += 86400
    await caller.pay(entry_of(1), entry_of(2, received_sat=0, sent_sat=5))
    assert await caller.send() == []
