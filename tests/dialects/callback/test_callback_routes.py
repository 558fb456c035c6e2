"""``/callback`` as receivers call it: showing, listing, acknowledging."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.ledger.entries import Replaced
from tests.builders import confirmed, entry_of, txid_of
from tests.dialects.callback.rig import (
    CREATED,
    PERIOD_S,
    RETRIES,
    UNKNOWN_ID,
    URL,
    WISH,
    OpenCaller,
    one_callback,
    paid,
    subscribe_many,
    walk,
)
from tests.dialects.rig import ADDRESS, OK, SILENCE, TIP, Caller
from tests.store.rows import regtest_address

# --- callbacks ---------------------------------------------------------------------------------------------------


async def test_callback_is_shown_as_it_is_sent(caller: Caller) -> None:
    """Before it is sent a callback has all its sends left; while it is sent it is what the receiver gets."""
    message_id = await one_callback(caller)
    shown = {
        "id": message_id,
        "subscription": {"id": 1, "address": ADDRESS.text},
        "created": CREATED,
        "txid": hex_of(txid_of(1)),
        "address": ADDRESS.text,
        "amount": 100_000,
        "received": 100_000,
        "sent": 0,
        "retries": RETRIES + 1,
        "last_retry": None,
        "acknowledged": False,
    }
    for path in (f"/callback/{message_id}", f"/callback/{message_id}/"):
        assert await caller.call("GET", path) == shown
    (claim,) = await caller.claim()
    assert claim.request.body.startswith(b'{"id":"')
    during = await caller.call("GET", f"/callback/{message_id}")
    assert during == shown | {"retries": RETRIES, "last_retry": CREATED}


async def test_retries_count_down_to_the_last_send(caller: Caller) -> None:
    """An unacknowledged callback is sent four times, saying 3, 2, 1, 0, two minutes apart, and then no more."""
    message_id = await one_callback(caller)
    bodies: list[bytes] = []
    for answer in (OK, SILENCE, OK, SILENCE):
        assert [request.url for request in await caller.send(answer)] == [URL]
        bodies.append(str((await caller.call("GET", f"/callback/{message_id}"))["retries"]).encode())
        caller.now += PERIOD_S - 0.1
        assert await caller.send() == []
        caller.now += 0.1
    assert bodies == [b"3", b"2", b"1", b"0"]
    caller.now += 86400
    assert await caller.send() == []


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"json": {"acknowledged": True}}, id="true"),
        pytest.param({"json": {"acknowledged": "true"}}, id="a text"),
        pytest.param({"json": {"acknowledged": "True"}}, id="Python's text"),
        pytest.param({"json": {"acknowledged": 1}}, id="a digit"),
        pytest.param({"content": b'{"acknowledged": True}'}, id="as the document prints it"),
        pytest.param(
            {"content": b'{"acknowledged": True}', "headers": {"Content-Type": "application/json"}}, id="with its type"
        ),
        pytest.param({"data": {"acknowledged": "True"}}, id="form"),
        pytest.param({"data": {"acknowledged": "true"}}, id="form in small letters"),
        pytest.param({"params": {"acknowledged": "true"}}, id="query"),
    ],
)
async def test_patch_acknowledges_in_every_spelling(caller: Caller, more: dict[str, Any]) -> None:
    """A PATCH acknowledges however its client writes true, and the callback is not sent again."""
    message_id = await one_callback(caller)
    await caller.send()
    acknowledged = await caller.call("PATCH", f"/callback/{message_id}", **more)
    assert (acknowledged["id"], acknowledged["acknowledged"]) == (message_id, True)
    caller.now += 10 * PERIOD_S
    assert await caller.send() == []


async def test_second_acknowledgement_is_403(caller: Caller) -> None:
    """Acknowledging again is refused as the original does it."""
    message_id = await one_callback(caller)
    await caller.call("PATCH", f"/callback/{message_id}", json={"acknowledged": True})
    refusal = await caller.refusal("PATCH", f"/callback/{message_id}", json={"acknowledged": True})
    assert refusal == (403, {"message": "Callback was already acknowledged"})
    assert (await caller.call("GET", f"/callback/{message_id}"))["acknowledged"] is True


@pytest.mark.parametrize("answer", [OK, SILENCE])
async def test_acknowledgement_while_it_is_being_sent_holds(caller: Caller, answer: Any) -> None:
    """A receiver that acknowledges before it answers has acknowledged, whatever becomes of its answer."""
    message_id = await one_callback(caller)
    (claim,) = await caller.claim()
    await caller.call("PATCH", f"/callback/{message_id}", json={"acknowledged": True})
    await caller.finish(claim, answer)
    assert (await caller.call("GET", f"/callback/{message_id}"))["acknowledged"] is True
    caller.now += 10 * PERIOD_S
    assert await caller.send() == []
    assert (await caller.refusal("PATCH", f"/callback/{message_id}", json={"acknowledged": True}))[0] == 403


async def test_callback_whose_retries_are_used_up_can_be_acknowledged(caller: Caller) -> None:
    """A receiver that was away for long can still acknowledge."""
    message_id = await one_callback(caller)
    for _ in range(RETRIES + 1):
        await caller.send()
        caller.now += PERIOD_S
    shown = await caller.call("PATCH", f"/callback/{message_id}", json={"acknowledged": True})
    assert (shown["acknowledged"], shown["retries"]) == (True, 0)


@pytest.mark.parametrize("body", [{}, {"acknowledged": None}, {"acknowledged": "yes"}, {"acknowledged": False}])
async def test_nothing_but_true_acknowledges(caller: Caller, body: dict[str, object]) -> None:
    """A PATCH with no or another value is 400, names the field, and acknowledges nothing."""
    message_id = await one_callback(caller)
    status, found = await caller.refusal("PATCH", f"/callback/{message_id}", json=body)
    assert (status, list(found)) == (400, ["message"])
    assert found["message"].startswith("acknowledged is ")
    assert (await caller.call("GET", f"/callback/{message_id}"))["acknowledged"] is False


@pytest.mark.parametrize("wrong_id", [UNKNOWN_ID, "1", "x", "-", "%00", "x" * 500, "é"])
async def test_unknown_callback_is_404(caller: Caller, wrong_id: str) -> None:
    """Whatever is no id of a callback is 404; so is the number of its subscription."""
    await one_callback(caller)
    for method, more in (("GET", {}), ("PATCH", {"json": {"acknowledged": True}})):
        status, body = await caller.refusal(method, f"/callback/{wrong_id}", **more)
        assert (status, list(body)) == (404, ["message"])


async def test_callbacks_are_listed_and_filtered(caller: Caller) -> None:
    """``subscription`` (or ``subscription_id``) and ``acknowledged`` choose, alone and together."""
    await subscribe_many(caller, 2)
    await paid(caller, 1, 2, address=regtest_address(0))
    await paid(caller, 3, address=regtest_address(1))
    everything = (await caller.call("GET", "/callback"))["callbacks"]
    assert [item["subscription"]["id"] for item in everything] == [1, 1, 2]
    done = everything[0]["id"]
    everything[0] = await caller.call("PATCH", f"/callback/{done}", json={"acknowledged": True})

    async def found(**query: str) -> list[int]:
        page = await caller.call("GET", "/callback", params=query)
        return [everything.index(item) for item in page["callbacks"]]

    for name in ("subscription", "subscription_id"):
        assert await found(**{name: "1"}) == [0, 1]
        assert await found(**{name: "2"}) == [2]
        assert await found(**{name: "3"}) == []
        assert await found(**{name: "1", "acknowledged": "true"}) == [0]
        assert await found(**{name: "1", "acknowledged": "false"}) == [1]
    assert await found(acknowledged="True") == await found(acknowledged="1") == [0]
    assert await found(acknowledged="False") == [1, 2]
    link = (await caller.call("GET", "/callback?subscription=1&per_page=1"))["paging"]["next"]
    assert dict(parse_qsl(urlsplit(link).query)) == {"subscription": "1", "page": "2", "per_page": "1"}
    pages = await walk(caller, "/callback?per_page=2", "callbacks")
    assert [len(ids) for ids in pages] == [2, 1]


@pytest.mark.parametrize(
    "query", ["subscription=x", "subscription=0", "subscription=-1", "subscription_id=1.5", "acknowledged=maybe"]
)
async def test_wrong_filter_of_callbacks_is_refused(caller: Caller, query: str) -> None:
    """A filter that cannot be read is a mistake, and is named."""
    status, body = await caller.refusal("GET", f"/callback?{query}")
    assert (status, list(body)) == (400, ["message"])
    assert query.partition("=")[0] in body["message"]


async def test_replaced_payment_withdraws_its_callback(open_with: OpenCaller) -> None:
    """A callback about a replaced payment is not told any more; one that was acknowledged stays so."""
    async with open_with(zero_conf=True) as caller:
        await caller.call("POST", "/subscription", json=WISH)
        await caller.pay(entry_of(1), entry_of(2))
        first, second = (await caller.call("GET", "/callback"))["callbacks"]
        assert [first["confirmations"], second["confirmations"]] == [0, 0]
        await caller.call("PATCH", f"/callback/{first['id']}", json={"acknowledged": True})
        await caller.pay(*[entry_of(number, state=Replaced(txid_of(9))) for number in (1, 2)])
        caller.now += 10 * PERIOD_S
        assert await caller.send() == []
        assert (await caller.call("GET", f"/callback/{first['id']}"))["acknowledged"] is True


async def test_reorg_calls_nobody_again(open_with: OpenCaller) -> None:
    """A payment that was acknowledged when deep is not told again when a reorg takes it back and brings it again."""
    async with open_with(zero_conf=True) as caller:
        await caller.call("POST", "/subscription", json=WISH)
        await caller.pay(entry_of(1))
        await caller.send()  # with 0 confirmations; its receiver waits for the deep one
        await caller.pay(entry_of(1, state=confirmed(TIP + 1)), tip_height=TIP + 1)
        caller.now += PERIOD_S
        (deep,) = await caller.send()
        assert b'"confirmations":1' in deep.body
        (shown,) = [item for item in (await caller.call("GET", "/callback"))["callbacks"] if item["confirmations"]]
        await caller.call("PATCH", f"/callback/{shown['id']}", json={"acknowledged": True})
        for state in (None, confirmed(TIP + 1, branch=1)):
            await caller.pay(entry_of(1, state=state), tip_height=TIP + 1)
            caller.now += 10 * PERIOD_S
            assert await caller.send() == []


@pytest.mark.parametrize("confirmations", [1, 6])
async def test_changed_configuration_calls_nobody_again(open_with: OpenCaller, confirmations: int) -> None:
    """What was acknowledged stays so when the operator wants another depth from now on."""
    async with open_with(confirmations=3) as caller:
        await caller.call("POST", "/subscription", json=WISH)
        await caller.pay(entry_of(1, state=confirmed(TIP + 1)), tip_height=TIP + 3)
        (callback,) = (await caller.call("GET", "/callback"))["callbacks"]
        acknowledged = await caller.call("PATCH", f"/callback/{callback['id']}", json={"acknowledged": True})
    async with open_with(confirmations=confirmations) as caller:
        await caller.pay(entry_of(1, state=confirmed(TIP + 1)), entry_of(2), tip_height=TIP + 4)
        assert (await caller.call("GET", f"/callback/{callback['id']}")) == acknowledged
        assert await caller.send() == []
