"""Subscriptions on disk."""

from dataclasses import replace

import pytest

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.outbox.subscriptions import Subscription, SubscriptionState
from lightipn.store import deliveries, keys, ledger, subscriptions
from lightipn.store.database import Database
from lightipn.store.ledger import WatchChange
from lightipn.store.subscriptions import host_of
from tests.builders import entry_of
from tests.store.rows import NOW, pay, regtest_address, subscribe, subscribe_to_each


def all_of(db: Database) -> list[Subscription]:
    """Return all subscriptions."""
    return list(subscriptions.load_subscriptions(db))


def test_subscription_is_read_as_it_was_written(db: Database) -> None:
    """A subscription comes back whole, from its script, its address, and the list."""
    address = regtest_address(0)
    saved = subscribe(db, 0, url="https://shop.example/paid?order=7", depth=6)
    assert saved == Subscription(
        subscription_id=1,
        dialect="plain",
        owner="shop",
        scripthash=address.scripthash,
        address=address.text,
        url="https://shop.example/paid?order=7",
        terms=b"6",
        state=SubscriptionState.ACTIVE,
        created_at=NOW,
    )
    assert subscriptions.load_subscriptions_of(db, address.scripthash) == [saved]
    assert all_of(db) == [saved]
    assert list(subscriptions.load_subscriptions(db, scripthash=address.scripthash)) == [saved]
    assert list(subscriptions.load_subscriptions(db, scripthash=regtest_address(1).scripthash)) == []
    assert subscriptions.load_subscriptions_of(db, ScriptHash(bytes(32))) == []


def test_subscribing_again_updates_the_terms(db: Database) -> None:
    """The same owner, address and URL stay one subscription; any other of the three makes another."""
    first = subscribe(db, 0, depth=1)
    assert subscribe(db, 0, depth=9) == replace(first, terms=b"9")
    subscribe(db, 0, owner="other")
    subscribe(db, 0, url="http://shop.example/other")
    subscribe(db, 1)
    assert subscriptions.count_subscriptions(db) == len(all_of(db)) == 4


@pytest.mark.slow
def test_list_is_paged_without_gaps(db: Database) -> None:
    """A list longer than a page is whole and in order, and a limit cuts it at any place."""
    for number in range(1003):
        subscribe(db, 0, url=f"http://shop.example/{number}")
    ids = [subscription.subscription_id for subscription in all_of(db)]
    assert ids == list(range(1, 1004))
    for limit in (1, 1000, 1001, 1003, 2000):
        found = list(subscriptions.load_subscriptions(db, limit=limit))
        assert [subscription.subscription_id for subscription in found] == ids[:limit]


def test_subscriptions_are_woken_at_their_height(db: Database) -> None:
    """A subscription is found from its height on, up to the limit, and no more once the height is taken away."""
    first, second = subscribe(db, 0), subscribe(db, 1)
    subscriptions.save_wake(db, first.subscription_id, height=100, at=None)
    subscriptions.save_wake(db, second.subscription_id, height=101, at=None)
    assert subscriptions.load_woken(db, 99, limit=10) == []
    assert subscriptions.load_woken(db, 100, limit=10) == [first]
    assert subscriptions.load_woken(db, 500, limit=10) == [first, second]
    assert len(subscriptions.load_woken(db, 500, limit=1)) == 1
    subscriptions.save_wake(db, first.subscription_id, height=None, at=None)
    assert subscriptions.load_woken(db, 500, limit=10) == [second]


def test_subscriptions_are_woken_at_their_time(db: Database) -> None:
    """A subscription is found from its time on, the earliest first, and no more once the time is taken away."""
    first, second = subscribe(db, 0), subscribe(db, 1)
    assert subscriptions.load_next_wake_at(db) is None
    subscriptions.save_wake(db, first.subscription_id, height=None, at=NOW + 7.5)
    subscriptions.save_wake(db, second.subscription_id, height=100, at=NOW + 7.0)
    assert subscriptions.load_next_wake_at(db) == NOW + 7.0
    assert subscriptions.load_woken_by_time(db, now=NOW + 6.9, limit=10) == []
    assert subscriptions.load_woken_by_time(db, now=NOW + 7.0, limit=10) == [second]
    assert subscriptions.load_woken_by_time(db, now=NOW + 7.5, limit=10) == [second, first]
    assert subscriptions.load_woken_by_time(db, now=NOW + 7.5, limit=1) == [second]
    subscriptions.save_wake(db, second.subscription_id, height=100, at=None)
    assert subscriptions.load_woken(db, 100, limit=10) == [second]
    assert subscriptions.load_next_wake_at(db) == NOW + 7.5
    subscriptions.release(db, first)
    assert subscriptions.load_next_wake_at(db) is None


def test_removing_the_last_subscription_forgets_the_script(db: Database) -> None:
    """Messages go with their subscription; script and payments go with the last one, and the service is told."""
    scripthash = regtest_address(0).scripthash
    subscribe(db, 0, url="http://a.example/")
    subscribe(db, 0, url="http://b.example/")
    subscribe(db, 1, url="http://a.example/")
    pay(db, 0, entry_of(1))
    ledger.clear_watch_changes(db)
    assert subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url="http://a.example/") == 1
    assert [delivery.url for delivery in deliveries.load_deliveries(db, limit=9)] == ["http://b.example/"]
    assert ledger.load_payments(db, scripthash) is not None
    assert not ledger.has_watch_changes(db)
    assert subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url=None) == 1
    assert deliveries.load_deliveries(db, limit=9) == []
    assert ledger.load_payments(db, scripthash) is None
    assert ledger.take_watch_changes(db, limit=9) == [(scripthash, WatchChange.REMOVED, None)]
    assert [subscription.address for subscription in all_of(db)] == [regtest_address(1).text]


def test_removing_what_is_not_there_removes_nothing(db: Database) -> None:
    """An unknown address or URL counts zero."""
    subscribe(db, 0)
    assert subscriptions.remove_subscriptions(db, regtest_address(1).scripthash, url=None) == 0
    assert subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url="http://other/") == 0
    assert subscriptions.count_subscriptions(db) == 1


def test_subscription_of_a_suspended_owner_starts_suspended(db: Database) -> None:
    """What is made for an owner without a good secret is held until one is there."""
    keys.save_key(db, name="shop", secret="s", now=NOW)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    assert subscribe(db, 0).state is SubscriptionState.SUSPENDED
    keys.save_key(db, name="shop", secret="t", now=NOW)
    assert [subscription.state for subscription in all_of(db)] == [SubscriptionState.ACTIVE]


# --- terms, ends and pages ---------------------------------------------------------------------------------------


def test_ends_and_heights_are_read_as_they_were_written(db: Database) -> None:
    """Expiry and the tip at which it was made come back with a subscription, also where that is not known yet."""
    known = subscribe_to_each(db, 0, expires_at=NOW + 9, since_height=7)
    unknown = subscribe_to_each(db, 1, since_height=None)
    assert (known.expires_at, known.since_height, known.ended_at) == (NOW + 9, 7, None)
    assert (unknown.expires_at, unknown.since_height) == (None, None)
    assert all_of(db) == [known, unknown]
    assert subscriptions.load_unsettled(db, limit=9) == [unknown]


def test_subscribing_again_moves_the_end(db: Database) -> None:
    """The same wish with another end is the same subscription, with the end asked for last, and its old beginning."""
    first = subscribe_to_each(db, 0, expires_at=NOW + 9, since_height=7)
    assert subscribe_to_each(db, 0, expires_at=NOW + 99, since_height=8) == replace(first, expires_at=NOW + 99)
    assert subscribe_to_each(db, 0, expires_at=None) == replace(first, expires_at=None)
    assert subscriptions.count_subscriptions(db) == 1


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        pytest.param(NOW + 9, NOW + 99, NOW + 99, id="later"),
        pytest.param(NOW + 99, NOW + 9, NOW + 99, id="earlier"),
        pytest.param(None, NOW + 9, None, id="never, and then some time"),
        pytest.param(NOW + 9, None, None, id="some time, and then never"),
    ],
)
def test_end_is_only_put_off_where_the_dialect_wants_that(
    db: Database, before: int | None, asked: int | None, after: int | None
) -> None:
    """A wish that prolongs never brings the end nearer."""
    for expires_at in (before, asked):
        saved = subscriptions.save_subscription(
            db,
            dialect="each",
            owner="shop",
            address=regtest_address(0),
            url="http://shop.example/",
            terms=b"",
            now=NOW,
            expires_at=expires_at,
            prolongs=True,
        )
    assert (saved.subscription_id, saved.expires_at) == (1, after)


def test_other_terms_may_be_another_subscription(db: Database) -> None:
    """Where the dialect wants that, a wish with other terms stands beside the first; the same terms do not."""

    def wish(terms: bytes) -> int:
        saved = subscriptions.save_subscription(
            db,
            dialect="each",
            owner="shop",
            address=regtest_address(0),
            url="http://shop.example/",
            terms=terms,
            now=NOW,
            updates_terms=False,
        )
        return saved.subscription_id

    assert [wish(terms) for terms in (b"a", b"b", b"a", b"b")] == [1, 2, 1, 2]


def page(
    db: Database,
    *,
    owner: str = "shop",
    dialect: str = "each",
    number: int | None = None,
    state: SubscriptionState | None = None,
    now: int = NOW,
    offset: int = 0,
    limit: int = 100,
) -> list[int]:
    """Return the ids on a page of an owner's subscriptions, of one address if its number is given."""
    found = subscriptions.load_page(
        db,
        owner=owner,
        dialect=dialect,
        scripthash=None if number is None else regtest_address(number).scripthash,
        state=state,
        now=now,
        offset=offset,
        limit=limit,
    )
    return [subscription.subscription_id for subscription in found]


def test_owners_page_holds_their_own_subscriptions(db: Database) -> None:
    """A page is of one owner and one dialect, oldest first; pages follow each other without gaps."""
    for number in range(5):
        subscribe_to_each(db, number)
    subscribe_to_each(db, 5, owner="other")
    subscribe(db, 6)
    assert page(db) == [1, 2, 3, 4, 5]
    assert page(db, owner="other") == [6]
    assert page(db, dialect="plain") == [7]
    assert page(db, owner="nobody") == []
    assert page(db, number=3) == [4]
    assert page(db, number=5) == []
    assert [page(db, offset=offset, limit=2) for offset in (0, 2, 4, 6)] == [[1, 2], [3, 4], [5], []]


@pytest.mark.parametrize(
    ("state", "now", "expected"),
    [
        pytest.param(SubscriptionState.ACTIVE, NOW, [1, 2], id="active"),
        pytest.param(SubscriptionState.ACTIVE, NOW + 9, [1], id="active when one is over that nobody ended yet"),
        pytest.param(SubscriptionState.EXPIRED, NOW, [3], id="expired"),
        pytest.param(SubscriptionState.EXPIRED, NOW + 8, [3], id="expired a second before"),
        pytest.param(SubscriptionState.EXPIRED, NOW + 9, [2, 3], id="expired in its second"),
        pytest.param(SubscriptionState.CANCELED, NOW + 99, [4], id="canceled before its time was over"),
        pytest.param(SubscriptionState.FINISHED, NOW, [5], id="finished"),
        pytest.param(SubscriptionState.SUSPENDED, NOW, [], id="suspended"),
        pytest.param(None, NOW + 99, [1, 2, 3, 4, 5], id="all"),
    ],
)
def test_page_is_of_one_state(db: Database, state: SubscriptionState | None, now: int, expected: list[int]) -> None:
    """A page can be of one state; an expiry counts from its second on, and what ended otherwise did not expire."""
    for number, expires_at in enumerate([None, NOW + 9, NOW + 9, NOW + 9, None]):
        subscribe_to_each(db, number, expires_at=expires_at)
    for number, ended in ((3, "EXPIRED"), (4, "CANCELED"), (5, "FINISHED")):
        subscriptions.save_end(db, number, SubscriptionState[ended], now=NOW)
    assert page(db, state=state, now=now) == expected


def test_page_of_suspended_subscriptions(db: Database) -> None:
    """What is held for want of a key is suspended, until its time is over."""
    keys.save_key(db, name="shop", secret="s", now=NOW)
    subscribe_to_each(db, 0, expires_at=NOW + 9)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    assert page(db, state=SubscriptionState.SUSPENDED) == [1]
    assert page(db, state=SubscriptionState.SUSPENDED, now=NOW + 9) == []
    assert page(db, state=SubscriptionState.EXPIRED, now=NOW + 9) == [1]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://shop.example/paid", "shop.example:80"),
        ("https://shop.example/paid", "shop.example:443"),
        ("https://SHOP.example:8443/", "shop.example:8443"),
        ("http://[2001:db8::1]:81/", "2001:db8::1:81"),
        ("http://192.0.2.1?x=1", "192.0.2.1:80"),
    ],
)
def test_host_is_name_and_port(url: str, host: str) -> None:
    """Deliveries are limited by name and port, whatever the letter case and the default port."""
    assert host_of(url) == host
