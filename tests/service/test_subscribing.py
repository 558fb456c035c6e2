"""Subscriptions: wishes, refusals, lists, and what is told at once."""

from collections.abc import Awaitable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from lightipn.errors import RequestError
from lightipn.outbox.subscriptions import Subscription, SubscriptionState
from lightipn.service.subscribing import Wish
from tests.builders import confirmed, entry_of
from tests.service.rig import URL, Tools
from tests.store import rows
from tests.store.plain_dialect import payload_of
from tests.store.rows import NOW, TIP, regtest_address


async def refusal_of(tools: Tools, address: str, url: str, owner: str = "shop") -> str:
    """Return the code with which a subscription is refused."""
    wish = Wish(address=address, url=url, terms=b"1")
    with pytest.raises(RequestError) as caught:
        await tools.service.subscriptions.subscribe(wish, dialect="plain", owner=owner)
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
    outcomes = await tools.service.subscriptions.subscribe_all(wishes, dialect="plain", owner="shop")
    codes = [outcome.code if isinstance(outcome, RequestError) else None for outcome in outcomes]
    assert codes == [None, "bad-address", "bad-url", None]
    found = await tools.service.subscriptions.list()
    assert [outcome for outcome in outcomes if not isinstance(outcome, RequestError)] == found
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


# --- one at a time -----------------------------------------------------------------------------------------------


async def make(
    tools: Tools,
    number: int = 0,
    *,
    owner: str = "shop",
    url: str = URL,
    terms: bytes = b"1",
    expires_at: int | None = None,
    updates_terms: bool = True,
) -> Subscription:
    """Subscribe a URL to the address with this number."""
    wish = Wish(
        address=regtest_address(number).text, url=url, terms=terms, expires_at=expires_at, updates_terms=updates_terms
    )
    return await tools.service.subscriptions.subscribe(wish, dialect="plain", owner=owner)


async def show(tools: Tools, made: Subscription) -> Subscription:
    """Return a subscription of the shop as it is now."""
    return await tools.service.subscriptions.show(made.subscription_id, owner="shop", dialect="plain")


async def cancel(tools: Tools, made: Subscription, *, withdraws: bool = False) -> Subscription:
    """Cancel a subscription of the shop."""
    return await tools.service.subscriptions.cancel(
        made.subscription_id, owner="shop", dialect="plain", withdraws=withdraws
    )


async def code_of(asked: Awaitable[object]) -> str:
    """Return status and code of what is refused."""
    try:
        await asked
    except RequestError as error:
        return f"{error.status_hint} {error.code}"
    raise AssertionError("nothing was refused")


async def test_subscription_is_returned_as_it_stands(tools: Tools, autojump_clock: MockClock) -> None:
    """Who subscribes gets the subscription, and finds the same by its number."""
    made = await make(tools, expires_at=NOW + 60)
    assert made == Subscription(
        subscription_id=1,
        dialect="plain",
        owner="shop",
        scripthash=regtest_address(0).scripthash,
        address=regtest_address(0).text,
        url=URL,
        terms=b"1",
        state=SubscriptionState.ACTIVE,
        created_at=made.created_at,
        expires_at=NOW + 60,
        since_height=TIP,
    )
    assert await show(tools, made) == made


async def test_tip_that_is_not_proved_leaves_the_past_open(tools: Tools) -> None:
    """Before our tip is proved nobody knows what is of the past: that is settled later."""
    tools.is_tip_proved = False
    assert (await make(tools)).since_height is None


async def test_subscribing_again_is_the_same_subscription(tools: Tools) -> None:
    """The same address and URL are the same subscription, with the newer terms and end; another URL is another one."""
    made = await make(tools, expires_at=NOW + 10**9)
    again = await make(tools, terms=b"3", expires_at=NOW + 2 * 10**9)
    assert again == replace(made, terms=b"3", expires_at=NOW + 2 * 10**9)
    assert (await make(tools)) == replace(made, terms=b"1", expires_at=None)
    assert (await make(tools, url=URL + "2")).subscription_id != made.subscription_id
    assert (await make(tools, owner="other")).subscription_id != made.subscription_id


async def test_other_terms_may_be_another_subscription(tools: Tools) -> None:
    """Where a dialect wants it so, one with other terms stands beside it, and one with the same terms is the same."""
    made = await make(tools, updates_terms=False)
    other = await make(tools, terms=b"3", updates_terms=False)
    assert other.subscription_id != made.subscription_id
    assert await make(tools, updates_terms=False) == made
    assert await make(tools, terms=b"3", updates_terms=False) == other


async def test_subscription_of_somebody_else_is_not_there(tools: Tools) -> None:
    """Another owner's subscription, another dialect's, and one that never was are 404 alike, and stay as they are."""
    made = await make(tools)
    subscriptions = tools.service.subscriptions
    for number, owner, dialect in (
        (made.subscription_id, "other", "plain"),
        (made.subscription_id, "shop", "fancy"),
        (made.subscription_id + 1, "shop", "plain"),
        ((1 << 63) - 1, "shop", "plain"),
    ):
        for ask in (subscriptions.show, subscriptions.cancel):
            assert await code_of(ask(number, owner=owner, dialect=dialect)) == "404 not-found"
    assert await show(tools, made) == made


# --- ends --------------------------------------------------------------------------------------------------------


async def test_end_in_the_past_is_refused(tools: Tools, autojump_clock: MockClock) -> None:
    """An expiration that is over, this very second included, is refused, and nothing is written."""
    await trio.sleep(100)
    for expires_at in (0, NOW, NOW + 99, NOW + 100):
        assert await code_of(make(tools, expires_at=expires_at)) == "400 bad-expiration"
    assert await tools.service.subscriptions.list() == []
    assert (await make(tools, expires_at=NOW + 101)).expires_at == NOW + 101


async def test_expiry_counts_from_its_second_on(tools: Tools, autojump_clock: MockClock) -> None:
    """A subscription is expired once its time is over, before anything was tidied up; a new one stands beside it."""
    made = await make(tools, expires_at=NOW + 60)
    now = NOW + 59.9
    assert made.state_at(now) is SubscriptionState.ACTIVE
    assert made.state_at(NOW + 60) is SubscriptionState.EXPIRED
    await trio.sleep(60)
    assert await page(tools, state=SubscriptionState.EXPIRED) == [made]
    assert await page(tools, state=SubscriptionState.ACTIVE) == []
    again = await make(tools)
    assert again.subscription_id != made.subscription_id
    assert await page(tools, state=SubscriptionState.ACTIVE) == [again]


async def test_canceling_is_for_good(tools: Tools, autojump_clock: MockClock) -> None:
    """A canceled subscription stays canceled, since when it was first; the same wish again is a new one."""
    made = await make(tools)
    await trio.sleep(5)
    canceled = await cancel(tools, made)
    assert canceled == replace(made, state=SubscriptionState.CANCELED, ended_at=NOW + 5, last_seen_at=0)
    await trio.sleep(5)
    assert await cancel(tools, made) == canceled == await show(tools, made)
    assert (await make(tools)).subscription_id != made.subscription_id


async def test_canceling_what_has_expired_changes_nothing(tools: Tools, autojump_clock: MockClock) -> None:
    """A subscription whose time was over is not canceled afterwards."""
    made = await make(tools, expires_at=NOW + 60)
    await trio.sleep(61)
    after = await cancel(tools, made)
    assert after.state_at(NOW + 61) is SubscriptionState.EXPIRED
    assert after.ended_at is None


async def pay(tools: Tools, number: int, *, txid: int = 1) -> None:
    """Pay an address, as the tracker does."""
    payment = entry_of(txid, received_sat=40, state=confirmed(TIP))
    await tools.store.transact(lambda db: rows.pay(db, number, payment))


async def states(tools: Tools) -> list[str]:
    """Return the states of all messages, oldest first."""
    return [delivery.state for delivery in reversed(await tools.service.deliveries.list(limit=9))]


async def test_message_that_was_made_is_told_after_the_end(tools: Tools) -> None:
    """What was created before the end keeps being told."""
    made = await make(tools)
    await pay(tools, 0)
    await cancel(tools, made)
    assert await states(tools) == ["due"]


async def test_message_is_withdrawn_with_its_subscription(tools: Tools) -> None:
    """Where whoever cancels wants it, what was not heard is told no more, and nothing that happens brings it back."""
    made = await make(tools)
    await pay(tools, 0)
    await cancel(tools, made, withdraws=True)
    assert await states(tools) == ["withdrawn"]
    await pay(tools, 0)
    await pay(tools, 0, txid=2)
    assert await states(tools) == ["withdrawn"]


# --- lists -------------------------------------------------------------------------------------------------------


async def page(
    tools: Tools,
    *,
    owner: str = "shop",
    dialect: str = "plain",
    address: str = "",
    state: SubscriptionState | None = None,
    offset: int = 0,
    limit: int = 50,
) -> list[Subscription]:
    """Return a page of an owner's subscriptions."""
    return list(
        await tools.service.subscriptions.page(
            owner=owner, dialect=dialect, address=address, state=state, offset=offset, limit=limit
        )
    )


async def test_pages_follow_each_other(tools: Tools) -> None:
    """The pages of a list are an owner's own, oldest first, without a gap and without an overlap."""
    made = []
    for number in range(7):
        made.append(await make(tools, number))
        await make(tools, number, owner="other")
    assert await page(tools) == made
    assert [await page(tools, offset=at, limit=3) for at in (0, 3, 6, 9)] == [made[:3], made[3:6], made[6:], []]
    assert len(await page(tools, owner="other")) == 7
    assert await page(tools, dialect="fancy") == []
    capitals = regtest_address(2).text.upper()
    assert await page(tools, address=capitals) == [made[2]]
    assert await page(tools, address=regtest_address(50).text) == []
    assert await code_of(page(tools, address="nonsense")) == "400 bad-address"


async def test_list_is_narrowed_by_state(tools: Tools, autojump_clock: MockClock) -> None:
    """Every state lists its own, and each subscription stands in exactly one; a key that is revoked suspends."""
    active = await make(tools, 0)
    canceled = await cancel(tools, await make(tools, 1))
    expired = await make(tools, 2, expires_at=NOW + 5)
    lasting = await make(tools, 3, expires_at=NOW + 500)
    await trio.sleep(5)
    assert await page(tools, state=SubscriptionState.ACTIVE) == [active, lasting]
    assert await page(tools, state=SubscriptionState.CANCELED) == [canceled]
    assert await page(tools, state=SubscriptionState.EXPIRED) == [expired]
    assert await page(tools, state=SubscriptionState.SUSPENDED) == []
    await tools.service.owners.create_key("shop")
    await tools.service.owners.revoke_keys("shop")
    suspended = [one.subscription_id for one in await page(tools, state=SubscriptionState.SUSPENDED)]
    assert suspended == [active.subscription_id, lasting.subscription_id]
    assert await page(tools, state=SubscriptionState.ACTIVE) == []
    assert [one.subscription_id for one in await page(tools, state=SubscriptionState.EXPIRED)] == [
        expired.subscription_id
    ]
    assert await page(tools, state=SubscriptionState.CANCELED) == [canceled]


# --- blocks ------------------------------------------------------------------------------------------------------


async def subscribe_to_blocks(
    tools: Tools, *, height: int | None = None, confirmations: int = 1, url: str = URL, owner: str = "shop"
) -> Subscription:
    """Subscribe a URL to blocks; the terms are the height of the first."""
    return await tools.service.subscriptions.subscribe_to_blocks(
        dialect="plain",
        owner=owner,
        url=url,
        height=height,
        confirmations=confirmations,
        terms_of=lambda first: str(first).encode(),
    )


@pytest.mark.parametrize(("height", "first"), [(None, TIP + 1), (TIP + 1, TIP + 1), (TIP + 144, TIP + 144)])
async def test_blocks_are_told_from_a_height_on(tools: Tools, height: int | None, first: int) -> None:
    """A subscription to blocks begins with the next one, or with any later one; it has no address and no script."""
    made = await subscribe_to_blocks(tools, height=height)
    assert (made.address, made.scripthash, made.url, made.state) == ("", None, URL, SubscriptionState.ACTIVE)
    assert (made.since_height, made.terms) == (first, str(first).encode())
    assert await show(tools, made) == made
    assert await page(tools) == [made]


async def test_height_that_has_passed_is_refused(tools: Tools) -> None:
    """The past is not told: our tip's own height and lower ones are refused."""
    for height in (TIP, 1, 0):
        assert await code_of(subscribe_to_blocks(tools, height=height)) == "400 bad-height"
    assert await page(tools) == []


async def test_blocks_wait_for_a_proved_tip(tools: Tools) -> None:
    """Before our tip is proved nobody knows which block is the next: 503, and nothing is written."""
    tools.is_tip_proved = False
    for height in (None, TIP + 1, 1):
        assert await code_of(subscribe_to_blocks(tools, height=height)) == "503 not-ready"
    assert await page(tools) == []


async def test_bad_url_and_owner_of_a_block_subscription_are_refused(tools: Tools) -> None:
    """What could not be called, and who could not be shown, is refused as with addresses."""
    assert await code_of(subscribe_to_blocks(tools, url="bad")) == "400 bad-url"
    assert await code_of(subscribe_to_blocks(tools, owner="a b")) == "400 bad-name"


async def test_same_blocks_and_url_are_the_same_subscription(tools: Tools) -> None:
    """The same wish again is the same subscription; another height, URL or owner makes another one."""
    made = await subscribe_to_blocks(tools)
    assert await subscribe_to_blocks(tools) == made
    others = [
        await subscribe_to_blocks(tools, height=TIP + 2),
        await subscribe_to_blocks(tools, url=URL + "2"),
        await subscribe_to_blocks(tools, owner="other"),
    ]
    assert len({made.subscription_id, *(other.subscription_id for other in others)}) == 4


async def test_block_subscription_can_be_canceled(tools: Tools) -> None:
    """A subscription to blocks ends like any other; the same wish again is a new one."""
    made = await subscribe_to_blocks(tools)
    assert (await cancel(tools, made, withdraws=True)).state is SubscriptionState.CANCELED
    assert (await subscribe_to_blocks(tools)).subscription_id != made.subscription_id
