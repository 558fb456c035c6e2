"""API keys: hashes, rotation, and what revoking does to an owner's subscriptions."""

from lightipn.outbox.subscriptions import SubscriptionState
from lightipn.store import deliveries, keys, subscriptions
from lightipn.store.database import Database
from lightipn.store.keys import ApiKey
from tests.builders import entry_of
from tests.store.rows import NOW, claim, pay, regtest_address, subscribe


def state_of(db: Database, number: int = 0) -> list[SubscriptionState]:
    """Return the states of an address' subscriptions."""
    found = subscriptions.load_subscriptions_of(db, regtest_address(number).scripthash)
    return [subscription.state for subscription in found]


def test_secret_is_not_stored(db: Database) -> None:
    """Only the hash of a secret reaches the disk."""
    keys.save_key(db, name="shop", secret="lipn_very-secret", now=NOW)
    rows = [value for row in db.execute("SELECT * FROM api_key").fetchall() for value in row]
    assert not any(b"lipn_very" in (value if isinstance(value, bytes) else str(value).encode()) for value in rows)


def test_owner_is_found_by_the_secret(db: Database) -> None:
    """A good secret leads to its owner; any other leads nowhere."""
    keys.save_key(db, name="shop", secret="s1", now=NOW)
    keys.save_key(db, name="other", secret="s2", now=NOW)
    assert [keys.load_owner(db, secret) for secret in ("s1", "s2", "S1", "", "s1 ")] == ["shop", "other", *[None] * 3]


def test_two_secrets_of_one_name_are_a_rotation(db: Database) -> None:
    """Both secrets of an owner are good until the old one is revoked."""
    keys.save_key(db, name="shop", secret="old", now=NOW)
    keys.save_key(db, name="shop", secret="new", now=NOW + 1)
    assert keys.load_keys(db) == [
        ApiKey(key_id=1, name="shop", created_at=NOW, revoked_at=None),
        ApiKey(key_id=2, name="shop", created_at=NOW + 1, revoked_at=None),
    ]
    assert keys.revoke_keys(db, name="shop", key_id=1, now=NOW + 2) == 1
    assert (keys.load_owner(db, "old"), keys.load_owner(db, "new")) == (None, "shop")
    assert keys.load_keys(db)[0] == ApiKey(key_id=1, name="shop", created_at=NOW, revoked_at=NOW + 2)
    assert keys.has_live_key(db)


def test_revoking_ends_all_secrets_of_the_owner(db: Database) -> None:
    """Without a number every secret of the owner is revoked, and nobody else's."""
    for name, secret in (("shop", "s1"), ("shop", "s2"), ("other", "s3")):
        keys.save_key(db, name=name, secret=secret, now=NOW)
    assert keys.revoke_keys(db, name="shop", key_id=None, now=NOW) == 2
    assert keys.revoke_keys(db, name="shop", key_id=None, now=NOW) == 0
    assert keys.load_owner(db, "s3") == "other"


def test_revoking_a_key_of_another_owner_does_nothing(db: Database) -> None:
    """A number is taken only together with the name it belongs to."""
    keys.save_key(db, name="shop", secret="s1", now=NOW)
    keys.save_key(db, name="other", secret="s2", now=NOW)
    assert keys.revoke_keys(db, name="shop", key_id=2, now=NOW) == 0
    assert keys.load_owner(db, "s2") == "other"


def test_no_key_is_good_where_all_are_revoked(db: Database) -> None:
    """A database without keys, or with revoked ones alone, has no good key."""
    assert not keys.has_live_key(db)
    keys.save_key(db, name="shop", secret="s1", now=NOW)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    assert not keys.has_live_key(db)


def test_revoking_the_last_secret_suspends(db: Database) -> None:
    """Only the last secret's end suspends the owner's subscriptions; other owners' stay active."""
    keys.save_key(db, name="shop", secret="s1", now=NOW)
    keys.save_key(db, name="shop", secret="s2", now=NOW)
    subscribe(db, 0, owner="shop")
    subscribe(db, 1, owner="other")
    keys.revoke_keys(db, name="shop", key_id=1, now=NOW)
    assert state_of(db) == [SubscriptionState.ACTIVE]
    keys.revoke_keys(db, name="shop", key_id=2, now=NOW)
    assert state_of(db) == [SubscriptionState.SUSPENDED]
    assert state_of(db, 1) == [SubscriptionState.ACTIVE]


def test_nothing_is_sent_while_suspended_and_everything_is_kept(db: Database) -> None:
    """Payments of a suspended owner become messages, none is claimed, and a new secret sets them free."""
    keys.save_key(db, name="shop", secret="s1", now=NOW)
    subscribe(db, 0, owner="shop")
    pay(db, 0, entry_of(1))
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    subscribe(db, 1, owner="shop")  # made while suspended, such as by the command line
    pay(db, 1, entry_of(2))
    assert claim(db) == ([], None)
    assert [delivery.state for delivery in deliveries.load_deliveries(db, limit=9)] == ["held", "held"]
    keys.save_key(db, name="shop", secret="s2", now=NOW)
    assert state_of(db) + state_of(db, 1) == [SubscriptionState.ACTIVE] * 2
    claims, _ = claim(db)
    assert len(claims) == 2


def test_owner_without_any_key_is_active(db: Database) -> None:
    """The operator's and anonymous subscriptions never had a key, so nothing suspends them."""
    subscribe(db, 0, owner="operator")
    assert state_of(db) == [SubscriptionState.ACTIVE]
    assert keys.revoke_keys(db, name="operator", key_id=None, now=NOW) == 0
    assert state_of(db) == [SubscriptionState.ACTIVE]
