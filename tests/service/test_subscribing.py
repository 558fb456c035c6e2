"""Subscriptions: wishes, refusals, lists, and what is told at once."""

import pytest
from trio.testing import MockClock

from lightipn.errors import RequestError
from lightipn.service.subscribing import Wish
from tests.builders import confirmed, entry_of
from tests.service.rig import URL, Tools
from tests.store.plain_dialect import payload_of
from tests.store.rows import TIP, regtest_address


async def refusal_of(tools: Tools, address: str, url: str, owner: str = "shop") -> str:
    """Return the code with which a subscription is refused."""
    with pytest.raises(RequestError) as caught:
        await tools.service.subscriptions.subscribe(dialect="plain", owner=owner, address=address, url=url, terms=b"1")
    return caught.value.code


async def test_subscription_is_a_row_and_two_bells(tools: Tools) -> None:
    """A subscription is written, and the running service is told that there may be something to watch and to send."""
    await tools.subscribe(regtest_address(0))
    (found,) = await tools.service.subscriptions.list()
    assert (found.owner, found.address, found.url, found.terms) == ("shop", regtest_address(0).text, URL, b"1")
    assert sorted(tools.rung) == ["messages", "watches"]


async def test_paid_address_is_told_at_once(tools: Tools, autojump_clock: MockClock) -> None:
    """Subscribing to an address that is known and was paid makes its message in the same transaction."""
    address = regtest_address(0)
    await tools.subscribe(address, owner="a")
    await tools.settle(address, entry_of(1, received_sat=40, state=confirmed(TIP)))
    await tools.subscribe(address, owner="b")
    (delivery,) = await tools.service.deliveries.list(limit=9)
    assert (delivery.owner, delivery.payload, delivery.state) == ("b", payload_of(40, 0), "due")


async def test_bad_wishes_do_not_hold_back_good_ones(tools: Tools) -> None:
    """Of many wishes the good ones are done, and each bad one has its reason, at its place."""
    wishes = [
        Wish(address=regtest_address(0).text, url=URL, terms=b"1"),
        Wish(address="nonsense", url=URL, terms=b"1"),
        Wish(address=regtest_address(1).text, url="bad", terms=b"1"),
        Wish(address=regtest_address(2).text, url=URL, terms=b"1"),
    ]
    refusals = await tools.service.subscriptions.subscribe_all(wishes, dialect="plain", owner="shop")
    assert [refusal and refusal.code for refusal in refusals] == [None, "bad-address", "bad-url", None]
    found = await tools.service.subscriptions.list()
    assert [item.address for item in found] == [regtest_address(0).text, regtest_address(2).text]
    assert await tools.service.subscriptions.subscribe_all([], dialect="plain", owner="shop") == []


async def test_single_bad_wish_is_an_error(tools: Tools) -> None:
    """One wish is refused with its reason, and nothing is written."""
    assert await refusal_of(tools, "nonsense", URL) == "bad-address"
    assert await refusal_of(tools, regtest_address(0).text, "bad") == "bad-url"
    assert await refusal_of(tools, regtest_address(0).text, URL, owner="a b") == "bad-name"
    assert await tools.service.subscriptions.list() == []


async def test_subscriptions_are_listed_and_removed_by_address(tools: Tools) -> None:
    """Any spelling of an address finds its subscriptions; removing counts them and rings."""
    for number, url in ((0, "https://a.example/"), (0, "https://b.example/"), (1, "https://a.example/")):
        await tools.subscribe(regtest_address(number), url=url)
    capitals = regtest_address(0).text.upper()
    assert len(await tools.service.subscriptions.list(address=capitals)) == 2
    assert len(await tools.service.subscriptions.list(limit=1)) == 1
    tools.rung.clear()
    assert await tools.service.subscriptions.unsubscribe(capitals, url="https://b.example/") == 1
    assert tools.rung == ["watches"]
    assert await tools.service.subscriptions.unsubscribe(capitals, url="https://b.example/") == 0
    assert await tools.service.subscriptions.unsubscribe(capitals, url=None) == 1
    assert [item.address for item in await tools.service.subscriptions.list()] == [regtest_address(1).text]
