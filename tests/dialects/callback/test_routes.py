"""``/subscription`` as clients call it, and whom both paths answer."""

import base64
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest

from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.network import MAINNET
from lightipn.dialects.callback.routes import EXPIRES_AFTER_S
from lightipn.outbox.subscriptions import SubscriptionState
from lightipn.service.subscribing import Wish
from tests.builders import SCRIPT, SEEN_AT, confirmed, entry_of, txid_of
from tests.dialects.callback.rig import (
    CREATED,
    IN_30_DAYS,
    URL,
    WISH,
    OpenCaller,
    one_callback,
    paid,
    subscribe_many,
    walk,
)
from tests.dialects.rig import ADDRESS, BASE_URL, TIP, Caller
from tests.store.rows import regtest_address

# --- subscribing -------------------------------------------------------------------------------------------------


async def test_subscription_is_accepted_with_the_fields_of_the_document(caller: Caller) -> None:
    """The answer is 202 with the document's six fields; without an expiration it holds for thirty days."""
    answer = await caller.client.post("/subscription", json=WISH, headers=caller.key)
    assert answer.status_code == 202
    assert answer.json() == {
        "id": 1,
        "address": ADDRESS.text,
        "callback_url": URL,
        "created": CREATED,
        "expiration": IN_30_DAYS,
        "state": "active",
    }
    assert EXPIRES_AFTER_S == 30 * 86400


async def test_request_may_be_query_form_or_json(caller: Caller) -> None:
    """JSON, JSON as plain text, form and query mean the same, with and without a trailing slash."""
    json_text = f'{{"address": "{ADDRESS.text}", "callback_url": "{URL}"}}'
    plain = {"Content-Type": "text/plain"}
    for path in ("/subscription", "/subscription/"):
        answers = [
            await caller.call("POST", path, json=WISH),
            await caller.call("POST", path, content=json_text, headers=plain),
            await caller.call("POST", path, data=WISH),
            await caller.call("POST", path, params=WISH),
        ]
        assert answers == [answers[0]] * 4
    assert [item.subscription_id for item in await caller.stored()] == [1]


@pytest.mark.parametrize(
    ("expiration", "shown"),
    [
        pytest.param("2030-05-12T05:26:35", "2030-05-12T05:26:35", id="iso"),
        pytest.param("2030-05-12T05:26:35Z", "2030-05-12T05:26:35", id="iso utc"),
        pytest.param("2030-05-12T07:26:35+02:00", "2030-05-12T05:26:35", id="iso offset"),
        pytest.param("1904793995", "2030-05-12T05:26:35", id="epoch text"),
        pytest.param(1904793995, "2030-05-12T05:26:35", id="epoch number"),
        pytest.param(SEEN_AT + 1, "2023-11-14T22:13:21", id="the next second"),
        pytest.param(None, IN_30_DAYS, id="null"),
    ],
)
async def test_expiration_is_iso_or_epoch(caller: Caller, expiration: object, shown: str) -> None:
    """An expiration is taken as ISO 8601 or unix seconds, and shown as ISO 8601."""
    made = await caller.call("POST", "/subscription", json=WISH | {"expiration": expiration})
    assert made["expiration"] == shown


async def test_subscribing_again_is_the_same_subscription(caller: Caller) -> None:
    """The same address and URL stay one subscription, with the newest expiration; another URL is another one."""
    first = await caller.call("POST", "/subscription", json=WISH)
    again = await caller.call("POST", "/subscription", json=WISH | {"expiration": "2030-05-12T05:26:35"})
    assert again == first | {"expiration": "2030-05-12T05:26:35"}
    assert await caller.call("POST", "/subscription", json=WISH) == again  # what was asked for is not cut short
    other = await caller.call("POST", "/subscription", json=WISH | {"callback_url": URL + "8"})
    assert (other["id"], other["callback_url"]) == (2, URL + "8")


async def test_canceled_subscription_is_not_revived(caller: Caller) -> None:
    """Subscribing after a cancel makes a new subscription."""
    await caller.call("POST", "/subscription", json=WISH)
    await caller.call("PATCH", "/subscription/1", json={"state": "canceled"})
    assert (await caller.call("POST", "/subscription", json=WISH))["id"] == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"address": None}, "address is missing", id="no address"),
        pytest.param({"address": " "}, "address is missing", id="blank address"),
        pytest.param({"callback_url": None}, "callback_url is missing", id="no url"),
        pytest.param({"address": "n4r9Ko71tH6t75iM4RuBwXKRn77vNiFBrx"}, "address: ", id="typing error"),
        pytest.param({"address": address_of(SCRIPT, MAINNET)}, "belongs to mainnet", id="other network"),
        pytest.param({"callback_url": "ftp://shop.example/"}, "url: has a scheme", id="scheme"),
        pytest.param({"callback_url": "http://10.0.0.1/"}, "[delivery] allow_networks", id="private network"),
        pytest.param({"callback_url": "http://u:p@shop.example/"}, "url: carries credentials", id="credentials"),
        pytest.param({"callback_url": "shop"}, "url: has a scheme", id="no url at all"),
        pytest.param({"expiration": "soon"}, "expiration is 'soon'", id="expiration"),
        pytest.param({"expiration": "2017-04-01T05:26:35"}, "expiration is in the past", id="past"),
        pytest.param({"expiration": SEEN_AT}, "expiration is in the past", id="now"),
        pytest.param({"expiration": True}, "expiration is 'true'", id="truth value"),
        pytest.param({"expiration": [1]}, "'expiration' is neither a text nor a whole number", id="list"),
    ],
)
async def test_wrong_field_is_named_and_nothing_is_stored(
    caller: Caller, changes: dict[str, object], reason: str
) -> None:
    """A field that is missing or wrong is 400 with the field's name in ``message``, and leaves no row behind."""
    status, body = await caller.refusal("POST", "/subscription", json=WISH | changes)
    assert (status, list(body)) == (400, ["message"])
    assert reason in body["message"]
    assert await caller.stored() == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"address": "a", "address"', 400),
        (b'{"x": "' + b"x" * 70_000 + b'"}', 413),
        (b"\xff\xfe", 400),
    ],
)
async def test_unreadable_body_is_refused_in_the_same_shape(caller: Caller, content: bytes, status: int) -> None:
    """A body that is no JSON object, or too large, is refused with a ``message`` too."""
    headers = {"Content-Type": "application/json"}
    found, body = await caller.refusal("POST", "/subscription", content=content, headers=headers)
    assert (found, list(body)) == (status, ["message"])
    assert await caller.stored() == []


# --- showing and canceling ---------------------------------------------------------------------------------------


async def test_subscription_is_shown(caller: Caller) -> None:
    """A subscription is shown as it was answered when it was made."""
    made = await caller.call("POST", "/subscription", json=WISH)
    for path in ("/subscription/1", "/subscription/1/"):
        assert await caller.call("GET", path) == made


@pytest.mark.parametrize("spelling", ["canceled", "cancelled"])
async def test_patch_cancels(caller: Caller, spelling: str) -> None:
    """A PATCH of the state ends a subscription, as JSON, form or query; again it stays ended."""
    made = await caller.call("POST", "/subscription", json=WISH)
    wanted = made | {"state": "canceled"}
    assert await caller.call("PATCH", "/subscription/1", json={"state": spelling}) == wanted
    assert await caller.call("PATCH", "/subscription/1/", data={"state": spelling}) == wanted
    assert await caller.call("PATCH", "/subscription/1", params={"state": spelling}) == wanted
    assert await caller.call("GET", "/subscription/1") == wanted


@pytest.mark.parametrize("state", [None, "", "active", "expired", "suspended", "CANCELED", "x" * 99])
async def test_other_states_cannot_be_patched(caller: Caller, state: object) -> None:
    """No other state can be asked for, and the subscription stays as it is."""
    made = await caller.call("POST", "/subscription", json=WISH)
    status, body = await caller.refusal("PATCH", "/subscription/1", json={"state": state})
    assert (status, list(body)) == (400, ["message"])
    assert body["message"].startswith("state is ")
    assert await caller.call("GET", "/subscription/1") == made


@pytest.mark.parametrize("wrong_id", ["2", "0", "-1", "x", "1.0", "9" * 18, "9" * 400, "%31%30", "١"])
async def test_unknown_subscription_is_404(caller: Caller, wrong_id: str) -> None:
    """Whatever is no id of a subscription is 404."""
    await caller.call("POST", "/subscription", json=WISH)
    for method, more in (("GET", {}), ("PATCH", {"json": {"state": "canceled"}})):
        status, body = await caller.refusal(method, f"/subscription/{wrong_id}", **more)
        assert (status, list(body)) == (404, ["message"])


async def test_expired_subscription_shows_so(caller: Caller) -> None:
    """From its expiration on a subscription is expired, and a cancel changes nothing any more."""
    await caller.call("POST", "/subscription", json=WISH | {"expiration": SEEN_AT + 10})
    caller.now += 9
    assert (await caller.call("GET", "/subscription/1"))["state"] == "active"
    caller.now += 1
    assert (await caller.call("GET", "/subscription/1"))["state"] == "expired"
    assert (await caller.call("PATCH", "/subscription/1", json={"state": "canceled"}))["state"] == "expired"


async def test_payment_after_the_cancel_is_no_callback(caller: Caller) -> None:
    """What was seen before the cancel is still told; what comes later is not."""
    await caller.call("POST", "/subscription", json=WISH)
    await caller.pay(entry_of(1))
    caller.now += 10
    await caller.call("PATCH", "/subscription/1", json={"state": "canceled"})
    late = replace(entry_of(2, state=confirmed(TIP + 1)), seen_at=SEEN_AT + 11)
    await caller.pay(entry_of(1, state=confirmed(TIP + 1)), late, tip_height=TIP + 1)
    found = (await caller.call("GET", "/callback"))["callbacks"]
    assert [item["txid"] for item in found] == [hex_of(txid_of(1))]


# --- lists -------------------------------------------------------------------------------------------------------


async def test_pages_follow_each_other(caller: Caller) -> None:
    """Links lead from page to page and back, oldest first, and are null at both ends; ten are on a page by default."""
    await subscribe_many(caller, 12)
    assert await walk(caller, "/subscription", "subscriptions") == [list(range(1, 11)), [11, 12]]
    assert await walk(caller, "/subscription?per_page=6", "subscriptions") == [list(range(1, 7)), list(range(7, 13))]
    assert await walk(caller, "/subscription?per_page=50&page=0", "subscriptions") == [list(range(1, 13))]
    assert await walk(caller, "/subscription/?per_page=5", "subscriptions") == [
        [1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10],
        [11, 12],
    ]


async def test_empty_list_is_one_empty_page(caller: Caller) -> None:
    """Without subscriptions or callbacks the lists are empty, and link nowhere; so is a page behind the last."""
    nothing = {"prev": None, "next": None}
    assert await caller.call("GET", "/subscription") == {"subscriptions": [], "paging": nothing}
    assert await caller.call("GET", "/callback") == {"callbacks": [], "paging": nothing}
    behind = await caller.call("GET", "/subscription?page=7")
    assert behind["subscriptions"] == []
    assert behind["paging"]["next"] is None


async def test_list_shows_whole_subscriptions(caller: Caller) -> None:
    """A list holds each subscription as it is shown alone."""
    await subscribe_many(caller, 2)
    alone = [await caller.call("GET", f"/subscription/{number}") for number in (1, 2)]
    assert (await caller.call("GET", "/subscription"))["subscriptions"] == alone


async def test_links_are_absolute_and_keep_filters_but_no_key(caller: Caller) -> None:
    """A link is a whole URL with the filters of the request, and never repeats an API key."""
    await subscribe_many(caller, 3)
    query = {"state": "ready", "per_page": "1", "page": "2", "key": caller.secret}
    page = (await caller.client.get("/subscription", params=query)).json()
    for link, number in ((page["paging"]["prev"], "1"), (page["paging"]["next"], "3")):
        assert link.startswith(f"{BASE_URL}/subscription?")
        assert dict(parse_qsl(urlsplit(link).query)) == {"state": "ready", "page": number, "per_page": "1"}


@pytest.mark.parametrize("public_url", ["https://ipn.shop.example", "https://shop.example/ipn/"])
async def test_links_begin_with_the_public_url(open_with: OpenCaller, public_url: str) -> None:
    """Behind a proxy, links lead to where the operator says that clients reach the API."""
    async with open_with(public_url=public_url) as caller:
        await subscribe_many(caller, 2)
        page = await caller.call("GET", "/subscription?per_page=1")
        assert page["paging"]["next"] == f"{public_url.rstrip('/')}/subscription?page=2&per_page=1"


@pytest.mark.parametrize(
    "query",
    ["page=x", "page=-1", "page=1.5", "page=9999999999", "per_page=0", "per_page=51", "per_page=x", "page=1&page=2"],
)
async def test_wrong_page_is_refused(caller: Caller, query: str) -> None:
    """A page is a whole number, and a page holds 1 to 50; the reason names the field."""
    for path in ("/subscription", "/callback"):
        status, body = await caller.refusal("GET", f"{path}?{query}")
        assert (status, list(body)) == (400, ["message"])
        assert query.partition("=")[0] in body["message"]


async def test_subscriptions_are_filtered_by_address_and_state(caller: Caller) -> None:
    """``address`` and ``state`` (or ``status``) choose; ``ready`` is ``active``."""
    await subscribe_many(caller, 3)
    await caller.call("POST", "/subscription", json=WISH | {"expiration": SEEN_AT + 5})
    await caller.call("PATCH", "/subscription/2", json={"state": "canceled"})
    caller.now += 5

    async def ids(**query: str) -> list[int]:
        found = await caller.call("GET", "/subscription", params=query)
        return [item["id"] for item in found["subscriptions"]]

    assert await ids() == [1, 2, 3, 4]
    for name in ("state", "status"):
        assert await ids(**{name: "active"}) == await ids(**{name: "ready"}) == [1, 3]
        assert await ids(**{name: "canceled"}) == await ids(**{name: "cancelled"}) == [2]
        assert await ids(**{name: "expired"}) == [4]
        assert await ids(**{name: "suspended"}) == []
    assert await ids(address=regtest_address(1).text) == await ids(address=regtest_address(1).text.upper()) == [2]
    assert await ids(address=regtest_address(1).text, state="active") == []
    assert await ids(address=regtest_address(9).text) == []


async def test_subscriptions_without_a_good_key_are_suspended(caller: Caller) -> None:
    """Revoking an owner's last key suspends what it subscribed to; a new key revives it."""
    await caller.call("POST", "/subscription", json=WISH)
    await caller.service.owners.revoke_keys("shop")
    states = [item.state for item in await caller.stored()]
    assert states == [SubscriptionState.SUSPENDED]
    assert (await caller.client.get("/subscription/1", headers=caller.key)).status_code == 401
    caller.key = {"X-API-Key": await caller.service.owners.create_key("shop")}
    assert (await caller.call("GET", "/subscription/1"))["state"] == "active"


@pytest.mark.parametrize(
    ("query", "field"), [("state=gone", "state"), ("status=gone", "state"), ("address=x", "address")]
)
async def test_wrong_filter_is_refused(caller: Caller, query: str, field: str) -> None:
    """A filter that nothing can match by its form is a mistake, and is named."""
    status, body = await caller.refusal("GET", f"/subscription?{query}")
    assert (status, list(body)) == (400, ["message"])
    assert field in body["message"]


# --- keys --------------------------------------------------------------------------------------------------------


async def test_objects_of_another_owner_are_not_there(caller: Caller) -> None:
    """With another owner's key a subscription and its callbacks are 404, and no list holds them."""
    message_id = await one_callback(caller)
    other = await caller.foreign_key()
    for method, path, more in (
        ("GET", "/subscription/1", {}),
        ("PATCH", "/subscription/1", {"json": {"state": "canceled"}}),
        ("GET", f"/callback/{message_id}", {}),
        ("PATCH", f"/callback/{message_id}", {"json": {"acknowledged": True}}),
    ):
        answer = await caller.client.request(method, path, headers=other, **more)
        assert (answer.status_code, list(answer.json())) == (404, ["message"])
    assert (await caller.client.get("/subscription", headers=other)).json()["subscriptions"] == []
    for query in ("", "?subscription=1"):
        assert (await caller.client.get(f"/callback{query}", headers=other)).json()["callbacks"] == []
    assert (await caller.call("GET", "/subscription/1"))["state"] == "active"
    assert (await caller.call("GET", f"/callback/{message_id}"))["acknowledged"] is False
    theirs = (await caller.client.post("/subscription", json=WISH, headers=other)).json()
    assert theirs["id"] == 2


async def test_objects_of_another_dialect_are_not_there(caller: Caller) -> None:
    """A subscription of the same owner in another dialect, and what it tells, are none here."""
    wish = Wish(address=ADDRESS.text, url=URL, terms=b"1")
    made = await caller.service.subscriptions.subscribe(wish, dialect="plain", owner="shop")
    await paid(caller, 1)
    (request,) = await caller.send()
    assert (await caller.refusal("GET", f"/subscription/{made.subscription_id}"))[0] == 404
    assert (await caller.refusal("GET", f"/callback/{request.headers['X-Message']}"))[0] == 404
    assert (await caller.call("GET", "/subscription"))["subscriptions"] == []
    assert (await caller.call("GET", "/callback"))["callbacks"] == []


async def test_key_travels_in_any_of_five_ways(caller: Caller) -> None:
    """The key is taken as Bearer, Basic user name, X-API-Key, ``key`` and ``token``."""
    basic = base64.b64encode(f"{caller.secret}:".encode()).decode()
    for headers, extra in (
        ({"Authorization": f"Bearer {caller.secret}"}, {}),
        ({"Authorization": f"Basic {basic}"}, {}),
        ({"X-API-Key": caller.secret}, {}),
        ({}, {"key": caller.secret}),
        ({}, {"token": caller.secret}),
    ):
        assert (await caller.client.get("/subscription", params=extra, headers=headers)).status_code == 200
        assert (await caller.client.post("/subscription", json=WISH | extra, headers=headers)).status_code == 202


async def test_without_a_good_key_nothing_is_answered(caller: Caller) -> None:
    """A missing or unknown key is 401 in this dialect's shape, on every path, and changes nothing."""
    message_id = await one_callback(caller)
    for headers in ({}, {"X-API-Key": "lipn_wrong"}):
        for method, path, body in (
            ("POST", "/subscription", WISH | {"callback_url": URL + "9"}),
            ("GET", "/subscription", None),
            ("GET", "/subscription/1", None),
            ("PATCH", "/subscription/1", {"state": "canceled"}),
            ("GET", "/callback", None),
            ("GET", f"/callback/{message_id}", None),
            ("PATCH", f"/callback/{message_id}", {"acknowledged": True}),
        ):
            answer = await caller.client.request(method, path, headers=headers, json=body)
            assert (answer.status_code, list(answer.json())) == (401, ["message"])
            assert "www-authenticate" in answer.headers
    assert len(await caller.stored()) == 1
    assert (await caller.call("GET", f"/callback/{message_id}"))["acknowledged"] is False
    assert (await caller.call("GET", "/subscription/1"))["state"] == "active"


async def test_anonymous_dialect_needs_no_key(open_with: OpenCaller) -> None:
    """Where the operator allows it callers without a key share one owner, whose objects nobody with a key has."""
    async with open_with(is_anonymous=True) as caller:
        made = (await caller.client.post("/subscription", json=WISH)).json()
        assert (await caller.client.get(f"/subscription/{made['id']}")).json() == made
        assert [item.owner for item in await caller.stored()] == ["anonymous"]
        assert (await caller.refusal("GET", "/subscription/1"))[0] == 404
        assert (await caller.client.get("/subscription", params={"key": "lipn_wrong"})).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("HEAD", "/subscription"),
        ("DELETE", "/subscription/1"),
        ("PUT", "/subscription"),
        ("POST", "/callback"),
        ("DELETE", "/callback/x"),
    ],
)
async def test_other_methods_are_405(caller: Caller, method: str, path: str) -> None:
    """A path takes its own methods alone."""
    assert (await caller.client.request(method, path, headers=caller.key)).status_code == 405
