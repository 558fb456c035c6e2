"""Hooks on disk: what is counted against their receivers, when they are suspended, probed, and revived."""

from collections.abc import Iterable

import pytest

from lightipn.store import attempts, deliveries, hooks, keys, reviews, subscriptions, wallets
from lightipn.store.attempts import Claim
from lightipn.store.database import Database
from lightipn.store.hooks import MOST_ERRORS, PROBE_EVERY_S, QUICK_TRIES, Hook
from tests.builders import confirmed, entry_of
from tests.store.plain_dialect import answer_of, payload_of
from tests.store.rows import DEAD, NOW, TIP, claim, finish, pay, regtest_address, subscribe
from tests.store.tips import grow, stand_at_tip, wake

KEY = "-----BEGIN PRIVATE KEY-----\nservice\n-----END PRIVATE KEY-----\n"
OWN_KEY = "-----BEGIN PRIVATE KEY-----\nown\n-----END PRIVATE KEY-----\n"
LATER = NOW + 100_000.0


def add_hook(db: Database, *, owner: str = "shop", url: str = DEAD, private_key: str | None = None) -> Hook:
    """Add a hook about nothing yet."""
    hooks.save_service_key(db, KEY)
    return hooks.add_hook(
        db, owner=owner, address="", wallet_id=None, url=url, terms=b"1", private_key=private_key, now=NOW
    )


def follow(db: Database, hook: Hook, numbers: Iterable[int]) -> None:
    """Have a hook be about the addresses with these numbers."""
    for number in numbers:
        subscriptions.save_subscription(
            db,
            dialect="plain",
            owner=hook.owner,
            address=regtest_address(number),
            url=hook.url,
            terms=b"1",
            now=NOW,
            hook_id=hook.hook_id,
        )


def told_hook(db: Database, numbers: Iterable[int], *, owner: str = "shop", url: str = DEAD) -> Hook:
    """Add a hook about the addresses with these numbers, each of which is paid: so many payloads are due."""
    hook = add_hook(db, owner=owner, url=url)
    follow(db, hook, numbers)
    for number in numbers:
        pay(db, number, entry_of(number))
    return hook


def load(db: Database, hook: Hook) -> Hook:
    """Return a hook as it is now."""
    found = hooks.load_hook(db, hook.hook_id)
    assert found is not None
    return found


def try_all(db: Database, now: float, *, body: bytes | None = None) -> list[Claim]:
    """Claim all that is due and have each fail, or be answered with this body."""
    taken, _ = claim(db, now=now, room=1000, room_per_host=1000)
    for one in taken:
        finish(db, one, body=body, now=now)
    return taken


def fail_quick_tries(db: Database, *, at: float = LATER, tries: int = QUICK_TRIES) -> float:
    """Have all that is due fail so often, an hour apart, and return when the last of it did."""
    for number in range(tries):
        assert try_all(db, at + 3600.0 * number)
    return at + 3600.0 * (tries - 1)


def suspended_hook(db: Database, *, owner: str = "shop") -> tuple[Hook, float]:
    """Return a hook that failed too often, and when it was suspended."""
    hook = told_hook(db, range(MOST_ERRORS), owner=owner)
    at = fail_quick_tries(db)
    assert load(db, hook).suspended_at == int(at)
    return load(db, hook), at


def held(db: Database) -> int:
    """Return how many open messages are held."""
    found = db.execute("SELECT count(*) FROM message WHERE is_held = 1 AND state = 'open'").fetchone()
    return int(found[0])


def states_of(db: Database, hook: Hook) -> set[str]:
    """Return the states of a hook's subscriptions."""
    rows = db.execute("SELECT state FROM subscription WHERE hook_id = ?", [hook.hook_id]).fetchall()
    return {row[0] for row in rows}


# --- rows --------------------------------------------------------------------------------------------------------


def test_hook_reads_back(db: Database) -> None:
    """A hook is stored whole; its key is never part of what is loaded, only whether it has one."""
    wallet = wallets.add_wallet(db, owner="shop", name="w", extended_key="", subchains=(), now=NOW)
    made = hooks.add_hook(
        db, owner="shop", address="a", wallet_id=wallet.wallet_id, url=DEAD, terms=b"{}", private_key=OWN_KEY, now=NOW
    )
    assert made == Hook(
        hook_id=made.hook_id,
        owner="shop",
        address="a",
        wallet_id=wallet.wallet_id,
        url=DEAD,
        terms=b"{}",
        has_own_key=True,
        errors=0,
        suspended_at=None,
        created_at=NOW,
    )
    assert hooks.load_hook(db, made.hook_id) == made
    assert hooks.load_hook(db, "x") is None
    assert hooks.load_hooks_of_wallet(db, wallet.wallet_id) == [made]
    assert OWN_KEY not in repr(made)


def test_hooks_are_listed_by_owner_in_their_order(db: Database) -> None:
    """An owner's hooks come oldest first, up to a limit; ids never repeat; other owners' are not among them."""
    made = [add_hook(db) for _ in range(3)]
    foreign = add_hook(db, owner="other")
    assert hooks.load_hooks(db, owner="shop", limit=10) == made
    assert hooks.load_hooks(db, owner="shop", limit=2) == made[:2]
    assert hooks.load_hooks(db, owner="other", limit=10) == [foreign]
    assert (hooks.count_hooks(db, "shop"), hooks.count_hooks(db, "nobody")) == (3, 0)
    assert len({hook.hook_id for hook in [*made, foreign]}) == 4


def test_service_key_is_made_once(db: Database) -> None:
    """The first signing key of the service stays, whoever makes another; a hook's own key comes before it."""
    assert hooks.load_service_key(db) is None
    hooks.save_service_key(db, KEY)
    hooks.save_service_key(db, OWN_KEY)
    assert hooks.load_service_key(db) == KEY
    assert hooks.load_private_key(db, add_hook(db).hook_id) == (KEY, False)
    assert hooks.load_private_key(db, add_hook(db, private_key=OWN_KEY).hook_id) == (OWN_KEY, True)


def test_removed_hook_is_told_nothing_more(db: Database) -> None:
    """With a hook go its subscriptions: what is due is withdrawn, what is under way is not repeated."""
    hook = told_hook(db, range(3))
    (taken, *_), _ = claim(db, room=1)
    reviews.drop_hook(db, hook, now=NOW)
    assert hooks.load_hook(db, hook.hook_id) is None
    assert states_of(db, hook) == {"canceled"}
    finish(db, taken)
    for number in range(3):
        pay(db, number, entry_of(number + 10), now=NOW + 5)
    assert claim(db, now=NOW + 1e6) == ([], None)


def test_script_with_a_hook_is_known_to_have_one(db: Database) -> None:
    """Only scripts that a hook is about now are asked about further."""
    subscribe(db, 0)
    hook = add_hook(db)
    follow(db, hook, [1])
    scripts = [regtest_address(number).scripthash for number in range(3)]
    assert [subscriptions.has_hooks(db, script) for script in scripts] == [False, True, False]
    reviews.drop_hook(db, hook, now=NOW)
    assert not subscriptions.has_hooks(db, scripts[1])


# --- what is counted ---------------------------------------------------------------------------------------------


def test_payload_counts_once_when_its_six_quick_tries_failed(db: Database) -> None:
    """Five failures are none; the sixth makes one error of a payload, and however often it fails later, it is one."""
    hook = told_hook(db, [0])
    errors = []
    for number in range(12):
        assert len(try_all(db, LATER + 3600.0 * number)) == 1
        errors.append(load(db, hook).errors)
    assert errors == [0] * 5 + [1] * 7


def test_each_payload_counts(db: Database) -> None:
    """Three payloads that failed all their quick tries are three errors; one that was heard is none."""
    hook = told_hook(db, range(3))
    for number in range(5):
        try_all(db, LATER + 3600.0 * number)
    at = LATER + 3600.0 * 5
    taken, _ = claim(db, now=at)
    for one, answer in zip(taken, (None, answer_of(payload_of(0, 100_000)), answer_of(status=500)), strict=True):
        finish(db, one, answer=answer, now=at)
    assert load(db, hook).errors == 2


def test_crash_during_a_quick_try_loses_no_count(db: Database) -> None:
    """A try that a crash cut off is none that failed: the payload counts all the same, once six tries did fail."""
    hook = told_hook(db, [0])
    fail_quick_tries(db, tries=5)
    claim(db, now=LATER * 2)
    attempts.recover_interrupted(db)
    assert load(db, hook).errors == 0
    errors = []
    for number in range(3):
        assert len(try_all(db, LATER * 2 + 3600.0 * (number + 1))) == 1
        errors.append(load(db, hook).errors)
    assert errors[-1] == 1


def test_payload_that_is_told_again_by_hand_counts_no_second_time(db: Database) -> None:
    """The operator's retries begin the quick tries anew; the payload was counted, and is not counted again."""
    hook = told_hook(db, [0])
    at = fail_quick_tries(db)
    assert load(db, hook).errors == 1
    assert deliveries.make_due(db, 1, now=at + 1)
    fail_quick_tries(db, at=at + 3600.0)
    assert load(db, hook).errors == 1


def test_other_subscriptions_are_not_counted(db: Database) -> None:
    """A subscription that is no hook's fails for ever, and nothing is suspended."""
    hook = add_hook(db)
    subscribe(db, 0, url=DEAD)
    pay(db, 0, entry_of(1))
    fail_quick_tries(db, tries=20)
    assert load(db, hook).errors == 0


# --- suspension --------------------------------------------------------------------------------------------------


def test_fifty_errors_suspend_the_hook(db: Database) -> None:
    """The forty-ninth failed payload changes nothing; the fiftieth suspends hook, subscriptions and messages."""
    hook = told_hook(db, range(MOST_ERRORS - 1))
    other = told_hook(db, [MOST_ERRORS + 1], url="http://alive.example/")
    at = fail_quick_tries(db)
    assert (load(db, hook).errors, load(db, hook).suspended_at, held(db)) == (49, None, 0)
    follow(db, hook, [MOST_ERRORS])
    pay(db, MOST_ERRORS, entry_of(99), now=at)
    last = fail_quick_tries(db, at=at + 3600.0)
    assert (load(db, hook).errors, load(db, hook).suspended_at) == (50, int(last))
    assert (states_of(db, hook), states_of(db, other), held(db)) == ({"suspended"}, {"active"}, 50)
    assert [one.hook_id for one in hooks.load_suspended(db, limit=9)] == [hook.hook_id]
    assert hooks.is_suspended(db, hook.hook_id)
    assert not hooks.is_suspended(db, other.hook_id)
    assert not hooks.is_suspended(db, None)


def test_suspended_hook_is_probed_once_an_hour_with_its_oldest_message(db: Database) -> None:
    """A suspended hook is told one message an hour, always the oldest that was not heard, and keeps all others."""
    _, at = suspended_hook(db)
    found = []
    for number in range(4):
        assert try_all(db, at + PROBE_EVERY_S * (number + 1) - 0.1) == []
        taken = try_all(db, at + PROBE_EVERY_S * (number + 1))
        found.append([one.message_key for one in taken])
        assert held(db) == MOST_ERRORS
    assert found == [[1]] * 4


def test_next_probe_is_a_time_to_wake_at(db: Database) -> None:
    """Where nothing else is due the dispatcher is told when the next probe is."""
    _, at = suspended_hook(db)
    assert claim(db, now=at + 1) == ([], at + PROBE_EVERY_S)
    assert hooks.load_next_probe_at(db) == at + PROBE_EVERY_S


def test_suspended_hook_keeps_queuing(db: Database) -> None:
    """What happens while a hook is suspended becomes messages, which are held, and counts no error."""
    hook, at = suspended_hook(db)
    follow(db, hook, [77])
    pay(db, 77, entry_of(77), now=at + 1)
    assert held(db) == MOST_ERRORS + 1
    assert try_all(db, at + 2) == []
    assert load(db, hook).errors == 50


def test_heard_probe_revives_the_hook(db: Database) -> None:
    """The first 2xx ends the suspension: all that was held is due at once, oldest first, and the count is 0 again."""
    hook, at = suspended_hook(db)
    back = at + PROBE_EVERY_S
    (probe,), _ = claim(db, now=back)
    finish(db, probe, body=payload_of(0, 100_000), now=back)
    revived = load(db, hook)
    assert (revived.errors, revived.suspended_at, held(db), states_of(db, hook)) == (0, None, 0, {"active"})
    taken, due_at = claim(db, now=back, room=1000, room_per_host=1000)
    assert [one.message_key for one in taken] == list(range(2, MOST_ERRORS + 1))
    assert due_at is None
    assert hooks.load_next_probe_at(db) is None


def test_answer_to_an_attempt_under_way_revives_too(db: Database) -> None:
    """An attempt that was on its way when the hook was suspended, and is heard, revives it like a probe."""
    hook = told_hook(db, range(MOST_ERRORS + 1))
    for number in range(5):
        try_all(db, LATER + 3600.0 * number)
    at = LATER + 3600.0 * 5
    taken, _ = claim(db, now=at, room=1000, room_per_host=1000)
    for one in taken[:-1]:
        finish(db, one, now=at)
    assert load(db, hook).suspended_at == int(at)
    finish(db, taken[-1], body=payload_of(0, 100_000), now=at + 1)
    assert (load(db, hook).suspended_at, held(db)) == (None, 0)


def test_suspended_hook_of_blocks_keeps_its_blocks(db: Database) -> None:
    """A hook about blocks that is suspended misses none of them."""
    stand_at_tip(db)
    hook = add_hook(db)
    subscriptions.save_block_subscription(
        db,
        dialect="each",
        owner="shop",
        url=DEAD,
        terms=b'{"depth": 1, "is_once": false}',
        now=NOW,
        first_height=TIP + 1,
        depth_blocks=1,
        hook_id=hook.hook_id,
    )
    grow(db, 50)
    wake(db)
    at = NOW
    while load(db, hook).suspended_at is None:
        at += 3600
        for _ in range(60):
            try_all(db, at)
    grow(db, 3)
    wake(db, now=at)
    assert held(db) == 53


def test_operators_retry_is_a_probe(db: Database) -> None:
    """What the operator sends again is sent although the hook is suspended; the rest waits."""
    _, at = suspended_hook(db)
    assert deliveries.make_due(db, 7, now=at + 1)
    assert [one.message_key for one in try_all(db, at + 1)] == [7]
    assert held(db) == MOST_ERRORS


# --- owners without a key ----------------------------------------------------------------------------------------


def with_key(db: Database) -> None:
    """Give the shop another key."""
    keys.save_key(db, name="shop", secret=f"key {len(keys.load_keys(db))}", now=NOW)


def test_hook_whose_owner_has_no_key_is_not_probed(db: Database) -> None:
    """Without a good key nothing is sent, no probe either; with a new one the hook is suspended still, and probed."""
    with_key(db)
    hook, at = suspended_hook(db)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    for number in range(1, 4):
        assert try_all(db, at + PROBE_EVERY_S * number) == []
    with_key(db)
    assert (states_of(db, hook), held(db)) == ({"suspended"}, MOST_ERRORS)
    assert try_all(db, at + PROBE_EVERY_S * 4 - 1) == []
    assert len(try_all(db, at + PROBE_EVERY_S * 4)) == 1


def test_revival_of_a_hook_whose_owner_lost_its_key_waits_for_the_key(db: Database) -> None:
    """A probe that is heard after the key was revoked ends the hook's own suspension; the owner's goes on."""
    with_key(db)
    hook, at = suspended_hook(db)
    (probe,), _ = claim(db, now=at + PROBE_EVERY_S)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    finish(db, probe, body=payload_of(0, 100_000), now=at + PROBE_EVERY_S)
    assert (load(db, hook).suspended_at, states_of(db, hook), held(db)) == (None, {"suspended"}, MOST_ERRORS - 1)
    assert try_all(db, at + 10 * PROBE_EVERY_S) == []
    with_key(db)
    assert (states_of(db, hook), held(db)) == ({"active"}, 0)
    assert len(try_all(db, at + 10 * PROBE_EVERY_S)) == MOST_ERRORS - 1


def test_last_error_after_the_key_was_revoked_suspends_the_hook(db: Database) -> None:
    """An attempt under way may make the fiftieth error while the owner has no key; a new key does not revive then."""
    with_key(db)
    hook = told_hook(db, range(MOST_ERRORS))
    fail_quick_tries(db, tries=5)
    at = LATER + 3600.0 * 6
    taken, _ = claim(db, now=at, room=1000, room_per_host=1000)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    for one in taken:
        finish(db, one, now=at)
    assert load(db, hook).suspended_at == int(at)
    with_key(db)
    assert (states_of(db, hook), held(db)) == ({"suspended"}, MOST_ERRORS)


def test_operators_retry_sends_nothing_for_an_owner_without_a_key(db: Database) -> None:
    """An owner without a good key is sent nothing, whatever else is suspended, and whoever asks for it."""
    with_key(db)
    _, at = suspended_hook(db)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    assert deliveries.make_due(db, 7, now=at + 1)
    assert try_all(db, at + 1) == []


# --- what a hook's subscriptions are -----------------------------------------------------------------------------


def test_hooks_about_the_same_address_are_told_apart(db: Database) -> None:
    """The same address and URL in two hooks, and without one, are three subscriptions, each told for itself."""
    subscribe(db, 0, url=DEAD)
    first, second = add_hook(db), add_hook(db)
    follow(db, first, [0])
    follow(db, second, [0])
    assert subscribe(db, 0, url=DEAD).hook_id is None
    assert subscriptions.count_subscriptions(db) == 3
    pay(db, 0, entry_of(1, state=confirmed(TIP)))
    taken, _ = claim(db)
    assert [one.hook_id for one in taken] == [None, first.hook_id, second.hook_id]


def test_subscriptions_of_a_hook_are_its_own(db: Database) -> None:
    """The ids of a hook's subscriptions are its own alone."""
    first, second = add_hook(db), add_hook(db)
    follow(db, first, [0, 1])
    follow(db, second, [0])
    assert hooks.load_subscription_ids(db, first.hook_id) == [1, 2]
    assert hooks.load_subscription_ids(db, second.hook_id) == [3]


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_suspended_hooks_are_listed_by_how_long_they_are(db: Database, limit: int) -> None:
    """The longest-suspended hook comes first, up to a limit."""
    made = [add_hook(db) for _ in range(3)]
    for hook, suspended_at in zip(made, (30, 10, 20), strict=True):
        db.execute("UPDATE hook SET suspended_at = ? WHERE hook_id = ?", [suspended_at, hook.hook_id])
    wanted = [made[1].hook_id, made[2].hook_id, made[0].hook_id]
    assert [hook.hook_id for hook in hooks.load_suspended(db, limit=limit)] == wanted[:limit]
