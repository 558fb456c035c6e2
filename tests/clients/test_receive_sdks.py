"""Two SDKs of Receive Payments V2 work with LightIPN as they are, but for the base URL."""

import json
import re
import secrets
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from tests.clients.accounts import Account, new_account
from tests.clients.sdk import Access, Fresh, NodeSdk, PythonSdk, ReceiveSdk, Refusal
from tests.regtest.nodes import Bitcoind
from tests.regtest.shop import Shop, ShopRequest, always

pytestmark = pytest.mark.slow
WAIT_S = 20
GAP_ERROR = {
    "message": "Problem with xpub",
    "description": ("Gap between last used address and next address too large. This might make funds inaccessible."),
}
UNKNOWN_KEY_ERROR = {"message": "Invalid API key", "description": "the API key is unknown or revoked"}


@pytest.fixture
def account(keyed_sdk: ReceiveSdk) -> Account:
    """A fresh account: of legacy addresses for the one SDK, of segwit ones for the other."""
    return new_account(is_segwit=isinstance(keyed_sdk, NodeSdk))


@pytest.fixture
def query() -> dict[str, str]:
    """What a shop puts into its callback URL, as the document advises."""
    return {"invoice_id": "058921123", "secret": secrets.token_hex(8)}


def error_of(sdk: ReceiveSdk, refusal: object, *, status: int) -> dict[str, str]:
    """Return the API's error out of what an SDK raised, after a look at the exception itself."""
    kind = Refusal(kind="APIException", message="", status=status)
    if isinstance(sdk, NodeSdk):
        kind = Refusal(kind="string", message="", status=None)
    assert isinstance(refusal, Refusal), refusal
    assert replace(refusal, message="") == kind
    error = json.loads(refusal.message)
    assert list(error) == ["message", "description"], "shops look at the first key"
    return error


async def wait_log(sdk: PythonSdk, callback: str, count: int) -> list[dict[str, Any]]:
    """Wait until the log of a URL has so many attempts, and return it."""
    with trio.fail_after(WAIT_S):
        while len(log := await sdk.callback_log(callback)) < count:
            await trio.sleep(0.05)
    return log


async def wait_call(shop: Shop, query: dict[str, str], confirmations: int) -> ShopRequest:
    """Wait until a shop's URL with this query was called with so many confirmations."""
    wanted = {**query, "confirmations": str(confirmations)}
    return await shop.wait_for(lambda request: wanted.items() <= request.query.items(), WAIT_S)


async def test_shop_gets_addresses_the_payment_and_the_log(
    sdk: ReceiveSdk, account: Account, query: dict[str, str], bitcoind: Bitcoind, shop: Shop
) -> None:
    """An SDK gets fresh addresses and their gap; a payment calls the shop until ``*ok*``, and the log shows each call.

    The addresses are those that a wallet derives; the key may be in the parameter, in the URL, or missing where the
    operator allows that; it is never in the log.
    """
    callback = f"{shop.url}/shop.php"
    registered = f"{callback}?{urlencode(query)}"
    first, second = await account.addresses(bitcoind, 2)
    shop.policy = always(200, b"not yet")

    assert await sdk.receive(account.key, callback, query, times=2) == [
        Fresh(address=first, index=0, callback=registered),
        Fresh(address=second, index=1, callback=registered),
    ]
    assert await sdk.check_gap(account.key) == 2
    txid = await bitcoind.send(first, 250_000)
    seen = await wait_call(shop, query, 0)
    shop.policy = always(200, b"*ok*\n")
    await bitcoind.mine(1)
    await wait_call(shop, query, 1)

    facts = {"transaction_hash": txid, "address": first, "value": "250000"}
    assert (seen.method, seen.path, seen.body) == ("GET", "/shop.php", b"")
    assert [call.query for call in shop.requests] == [
        {**query, **facts, "confirmations": "0"},
        {**query, **facts, "confirmations": "1"},
    ]
    assert await sdk.check_gap(account.key) == 1
    # The log by the one SDK that has it, with the key shown as the SDK under test shows it.
    log = await wait_log(PythonSdk(url=sdk.url, key=sdk.key), registered, 2)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", call.pop("called_at")) for call in log)
    assert log == [
        {"callback_url": registered, "raw_response": "not yet", "response_code": 200},
        {"callback_url": registered, "raw_response": "*ok*\n", "response_code": 200},
    ]


async def test_address_number_21_is_refused_with_the_gap_text(
    sdk: ReceiveSdk, account: Account, query: dict[str, str], bitcoind: Bitcoind, shop: Shop
) -> None:
    """The 21st unpaid address in a row is refused as Blockchain.info does it, and a payment to one of them lets it go.

    The error is the SDK's own: its text is the API's body, whose words shops compare.
    """
    callback = f"{shop.url}/shop.php"
    shop.policy = always(200, b"*ok*")
    addresses = await account.addresses(bitcoind, 21)

    *given, refused = await sdk.receive(account.key, callback, query, times=21)

    registered = f"{callback}?{urlencode(query)}"
    assert given == [
        Fresh(address=address, index=index, callback=registered) for index, address in enumerate(addresses[:20])
    ]
    assert error_of(sdk, refused, status=400) == GAP_ERROR
    assert await sdk.check_gap(account.key) == 20
    await bitcoind.send(addresses[19], 1_000)
    await wait_call(shop, query, 0)
    assert await sdk.check_gap(account.key) == 0
    assert await sdk.receive(account.key, callback, query) == [
        Fresh(address=addresses[20], index=20, callback=registered)
    ]


async def test_wider_gap_is_asked_for_with_each_call(
    node_sdk: NodeSdk, query: dict[str, str], bitcoind: Bitcoind, shop: Shop
) -> None:
    """The option ``__unsafe__gapLimit`` lets the 21st address go, and holds for the calls that carry it only."""
    account = new_account(is_segwit=True)
    callback = f"{shop.url}/shop.php"
    addresses = await account.addresses(bitcoind, 22)

    wide = await node_sdk.receive(account.key, callback, query, times=22, gap_limit=22)
    [refused] = await node_sdk.receive(account.key, callback, query)

    assert [fresh.address for fresh in wide if isinstance(fresh, Fresh)] == addresses
    assert error_of(node_sdk, refused, status=400) == GAP_ERROR


async def test_unknown_key_arrives_as_the_exception_of_the_sdk(
    keyed_sdk: ReceiveSdk, query: dict[str, str], shop: Shop
) -> None:
    """A key that nobody has is refused with 401 in every place it may stand, also where none would be needed."""
    account = new_account(is_segwit=True)
    for access in (Access.PARAMETER, Access.URL):
        stranger = replace(keyed_sdk, key="lipn_nobody").shown_as(access)

        [refused] = await stranger.receive(account.key, f"{shop.url}/shop.php", query)

        assert error_of(stranger, refused, status=401) == UNKNOWN_KEY_ERROR
        assert error_of(stranger, await stranger.check_gap(account.key), status=401) == UNKNOWN_KEY_ERROR


async def test_gap_of_a_key_that_was_never_used_is_refused(keyed_sdk: ReceiveSdk) -> None:
    """The gap of an extended key that was never given to ``receive`` is "xpub not found", not a number."""
    refused = await keyed_sdk.check_gap(new_account(is_segwit=True).key)

    assert error_of(keyed_sdk, refused, status=404)["message"] == "xpub not found"


async def test_url_that_must_not_be_called_is_refused(
    keyed_sdk: ReceiveSdk, query: dict[str, str], bitcoind: Bitcoind, shop: Shop
) -> None:
    """A callback URL that may not be called, or with 256 characters, is refused, and takes no address away."""
    account = new_account(is_segwit=True)
    room = len(f"{shop.url}/?{urlencode(query)}")
    [refused] = await keyed_sdk.receive(account.key, "http://10.0.0.1/", query)
    [too_long] = await keyed_sdk.receive(account.key, f"{shop.url}/{'a' * (256 - room)}", query)
    [longest] = await keyed_sdk.receive(account.key, f"{shop.url}/{'a' * (255 - room)}", query)

    assert error_of(keyed_sdk, refused, status=400)["message"] == "Problem with callback"
    assert "allow_networks" in error_of(keyed_sdk, refused, status=400)["description"]
    assert error_of(keyed_sdk, too_long, status=400)["message"] == "Problem with callback"
    assert isinstance(longest, Fresh)
    assert (longest.index, [longest.address]) == (0, await account.addresses(bitcoind, 1))


async def test_one_shop_does_not_see_what_another_one_was_told(
    python_sdk: PythonSdk, other_key: str, query: dict[str, str], bitcoind: Bitcoind, shop: Shop
) -> None:
    """Two shops with the same extended key get different addresses; log and gap are not there for whom they are not."""
    other = replace(python_sdk, key=other_key)
    account = new_account(is_segwit=False)
    first, second = await account.addresses(bitcoind, 2)
    registered = f"{shop.url}/shop.php?{urlencode(query)}"
    shop.policy = always(200, b"*ok*")
    [ours] = await python_sdk.receive(account.key, f"{shop.url}/shop.php", query)
    assert error_of(other, await other.check_gap(account.key), status=404)["message"] == "xpub not found"

    [theirs] = await other.receive(account.key, f"{shop.url}/other.php", query)
    await bitcoind.send(first, 1_000)
    await wait_log(python_sdk, registered, 1)

    assert ours == Fresh(address=first, index=0, callback=registered)
    assert theirs == Fresh(address=second, index=1, callback=f"{shop.url}/other.php?{urlencode(query)}")
    assert await other.callback_log(registered) == []
    assert await python_sdk.shown_as(Access.ANONYMOUS).callback_log(registered) == []
