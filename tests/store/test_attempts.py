"""Claims, outcomes, and what a crash leaves: at least once, and never lost."""

import pytest

from lightipn.ledger.entries import Replaced
from lightipn.outbox.verdict import Outcome
from lightipn.store import attempts, deliveries, keys, subscriptions
from lightipn.store.attempts import KEPT_ATTEMPTS, LOOKED_THROUGH
from lightipn.store.database import Database
from lightipn.store.deliveries import Attempt
from tests.builders import confirmed, entry_of, txid_of
from tests.store.each_dialect import HEARD
from tests.store.plain_dialect import NOTHING, payload_of
from tests.store.rows import (
    ALIVE,
    DEAD,
    NOW,
    TIP,
    claim,
    fill,
    finish,
    only_delivery,
    pay,
    regtest_address,
    subscribe,
    subscribe_to_each,
)
from tests.store.tips import grow, reorg, stand_at_tip, wake

# --- claims -----------------------------------------------------------------------------------------------------------


def test_claim_records_the_attempt_before_it_is_sent(db: Database) -> None:
    """What will be sent stands in the attempt's row before it is sent, and the message is in flight."""
    subscribe(db, 0, url=ALIVE)
    pay(db, 0, entry_of(1, received_sat=70))
    (taken,), next_due_at = claim(db, now=NOW + 1)
    delivery = only_delivery(db)
    assert next_due_at is None
    assert (taken.host, taken.dialect, taken.sent_payload) == ("alive.example:80", "plain", payload_of(0, 70))
    assert (delivery.state, delivery.tries, delivery.attempts) == ("in-flight", 1, 1)
    assert deliveries.load_attempts(db, taken.message_key) == [
        Attempt(
            attempt_id=taken.attempt_id,
            started_at=NOW + 1,
            method="POST",
            url=ALIVE,
            headers={"X-Message": delivery.message_id},
            body=payload_of(0, 70),
            outcome="in-flight",
            status=None,
            trouble="",
            latency_ms=None,
            answer_head=b"",
        )
    ]


def test_outcome_is_recorded_with_the_head_of_the_answer(db: Database) -> None:
    """Status, trouble, latency and the first 500 bytes of the answer are kept with the attempt."""
    fill(db, 1)
    (taken,), _ = claim(db)
    assert finish(db, taken, body=b"x" * 600) is Outcome.NOT_ACKNOWLEDGED
    (attempt,) = deliveries.load_attempts(db, taken.message_key)
    assert (attempt.outcome, attempt.status, attempt.trouble, attempt.latency_ms) == ("not-acknowledged", 200, "", 12.0)
    assert attempt.answer_head == b"x" * 500


def test_message_under_way_is_not_claimed_again(db: Database) -> None:
    """At most one request of a subscription is under way."""
    fill(db, 1)
    assert len(claim(db)[0]) == 1
    assert claim(db, now=NOW + 10_000) == ([], None)


def test_earliest_due_is_claimed_first(db: Database) -> None:
    """Within a host, and between hosts, what has waited longest goes first."""
    fill(db, 2, url=ALIVE, first=0, at=NOW + 5)
    fill(db, 2, url=DEAD, first=10, at=NOW)
    claims, _ = claim(db, now=NOW + 100)
    assert [(taken.host, taken.sent_payload) for taken in claims] == [
        ("dead.example:80", payload_of(0, 100_000)),
        ("dead.example:80", payload_of(0, 100_000)),
        ("alive.example:80", payload_of(0, 100_000)),
        ("alive.example:80", payload_of(0, 100_000)),
    ]
    assert [deliveries.load_delivery(db, taken.message_key).due_at for taken in claims] == [  # type: ignore[union-attr]
        NOW,
        NOW + 1,
        NOW + 5,
        NOW + 6,
    ]


def test_nothing_is_claimed_before_it_is_due(db: Database) -> None:
    """The time of the next message comes back instead, also where part of a host's messages are due."""
    fill(db, 3, at=NOW)
    assert claim(db, now=NOW - 1) == ([], NOW)
    claims, next_due_at = claim(db, now=NOW + 1)
    assert (len(claims), next_due_at) == (2, NOW + 2)


def test_room_limits_claims_in_all(db: Database) -> None:
    """No more are claimed than there is room for."""
    fill(db, 5)
    assert len(claim(db, now=NOW + 100, room=3)[0]) == 3
    assert len(claim(db, now=NOW + 100, room=3)[0]) == 2


def test_room_per_host_counts_what_is_under_way(db: Database) -> None:
    """A host gets its room less what is under way to it; other hosts are not concerned."""
    fill(db, 5, url=DEAD)
    fill(db, 5, url=ALIVE, first=10)
    claims, next_due_at = claim(db, now=NOW + 100, room_per_host=3, busy={"dead.example:80": 2})
    assert sorted(taken.host for taken in claims) == ["alive.example:80"] * 3 + ["dead.example:80"]
    assert next_due_at is None  # the end of an attempt rings
    full = claim(db, now=NOW + 100, room_per_host=3, busy={"dead.example:80": 3, "alive.example:80": 4})
    assert full == ([], None)


@pytest.mark.slow
def test_dead_host_does_not_keep_others_waiting(db: Database) -> None:
    """A message is claimed at once although a thousand older ones of a dead shop are due."""
    fill(db, 1000, url=DEAD, at=NOW - 5000)
    fill(db, 1, url=ALIVE, first=5000, at=NOW)
    claims, _ = claim(db, now=NOW, room=64, room_per_host=8, busy={"dead.example:80": 8})
    assert [taken.host for taken in claims] == ["alive.example:80"]


def test_claim_reads_no_more_than_an_index(db: Database) -> None:
    """Finding what is due searches an index, and never scans the messages; so does finding what comes next."""
    for query in (attempts._HOSTS, attempts._NEXT_DUE):
        plan = [str(row) for row in db.execute(f"EXPLAIN QUERY PLAN {query}", [0]).fetchall()]
        assert not [line for line in plan if "SCAN message" in line]
        assert [line for line in plan if "SEARCH message" in line and "message_due_at" in line]


def test_suspended_owner_holds_messages(db: Database) -> None:
    """What becomes due while the owner is suspended is neither claimed nor waited for, and comes back whole."""
    keys.save_key(db, name="shop", secret="s", now=NOW)
    fill(db, 2)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    assert claim(db, now=NOW + 100) == ([], None)
    assert deliveries.count_pending(db) == (2, NOW)
    keys.save_key(db, name="shop", secret="t", now=NOW)
    assert len(claim(db, now=NOW + 100)[0]) == 2


def test_suspended_owner_holds_its_own_messages_alone(db: Database) -> None:
    """Another owner's message to the same host goes out while the suspended one's is held."""
    keys.save_key(db, name="shop", secret="s", now=NOW)
    subscribe(db, 0, url=ALIVE, owner="shop")
    subscribe(db, 1, url=ALIVE, owner="other")
    pay(db, 0, entry_of(1))
    pay(db, 1, entry_of(1, received_sat=7))
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    claims, next_due_at = claim(db)
    assert ([taken.sent_payload for taken in claims], next_due_at) == ([payload_of(0, 7)], None)


def test_attempt_under_way_ends_while_its_owner_is_suspended(db: Database) -> None:
    """An answer that comes after the suspension still counts."""
    keys.save_key(db, name="shop", secret="s", now=NOW)
    fill(db, 1)
    (taken,), _ = claim(db)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    assert finish(db, taken, body=taken.sent_payload) is Outcome.ACKNOWLEDGED
    assert only_delivery(db).state == "acknowledged"


# --- one request a subscription ----------------------------------------------------------------------------------


def test_one_request_of_a_subscription_is_under_way(db: Database) -> None:
    """Of a subscription with several messages the oldest goes out alone; the next one follows when that has ended."""
    subscribe_to_each(db)
    for number in range(3):
        pay(db, 0, entry_of(number, received_sat=number + 1), now=NOW + number)
    sent = []
    for _ in range(3):
        (taken,), next_due_at = claim(db, now=NOW + 9)
        sent.append(taken.sent_payload)
        assert next_due_at is None
        assert claim(db, now=NOW + 9) == ([], None)
        finish(db, taken, body=HEARD, now=NOW + 9)
    assert sent == [b"1", b"2", b"3"]


def test_message_that_waits_does_not_hold_back_later_ones(db: Database) -> None:
    """What waits for its next try, for a tip, or for an acknowledgement lets the later messages through."""
    subscribe_to_each(db)
    for number, body in enumerate([None, b"not yet", HEARD], 1):
        pay(db, 0, entry_of(number, received_sat=number), now=NOW + number)
        (taken,), _ = claim(db, now=NOW + number)
        assert taken.sent_payload == b"%d" % number
        finish(db, taken, body=body, now=NOW + number)
    states = [delivery.state for delivery in deliveries.load_deliveries(db, limit=9)]
    assert states == ["acknowledged", "next-block", "due"]


def test_subscriptions_of_one_host_do_not_hold_each_other_back(db: Database) -> None:
    """A subscription with many due messages takes one place; the others of its host get theirs in the same round."""
    subscribe_to_each(db, 0)
    subscribe_to_each(db, 1)
    pay(db, 0, *(entry_of(number) for number in range(LOOKED_THROUGH)), now=NOW - 9)
    pay(db, 1, entry_of(1000, received_sat=7), now=NOW)
    claims, _ = claim(db, room_per_host=2)
    assert [taken.sent_payload for taken in claims] == [b"100000", b"7"]


def test_two_subscriptions_of_one_url_are_told_at_once(db: Database) -> None:
    """The limit is a subscription's, not its URL's: two orders of a shop are told side by side."""
    subscribe_to_each(db, 0)
    subscribe_to_each(db, 1)
    pay(db, 0, entry_of(1), entry_of(2))
    pay(db, 1, entry_of(3))
    assert len(claim(db)[0]) == 2


def test_crash_frees_the_subscription(db: Database) -> None:
    """After a crash the interrupted message is told again, and the others of its subscription after it."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1, received_sat=1), now=NOW)
    pay(db, 0, entry_of(2, received_sat=2), now=NOW + 1)
    claim(db, now=NOW + 1)
    attempts.recover_interrupted(db)
    for payload in (b"1", b"2"):
        (taken,), _ = claim(db, now=NOW + 1)
        assert taken.sent_payload == payload
        finish(db, taken, body=HEARD, now=NOW + 1)
    assert deliveries.count_pending(db) == (0, None)


# --- what an attempt says ----------------------------------------------------------------------------------------


def test_attempt_says_what_is_so_at_its_moment(db: Database) -> None:
    """Each attempt is rendered anew: confirmations grow with the tip, and the attempt before it is known."""
    stand_at_tip(db)
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    said = []
    for number in range(3):
        (taken,), _ = claim(db, now=NOW + 100 * number + 5)
        said.append([taken.request.headers[name] for name in ("X-Confirmations", "X-Tip", "X-Last-Tried")])
        finish(db, taken, body=b"not yet", now=NOW + 100 * number + 5)
        grow(db)
        wake(db, now=NOW + 100 * (number + 1))
        pay(db, 0, entry_of(1, state=confirmed(TIP + 1)), tip_height=TIP + number + 1)
    assert said == [
        ["0", str(TIP), "None"],
        ["1", str(TIP + 1), str(NOW + 5.0)],
        ["2", str(TIP + 2), str(NOW + 105.0)],
    ]


def test_payment_that_lost_its_block_has_no_confirmations(db: Database) -> None:
    """What a reorg took from its block is told with none, though the chain is as high as before."""
    stand_at_tip(db)
    grow(db)
    subscribe_to_each(db)
    pay(db, 0, entry_of(1, state=confirmed(TIP + 1)), tip_height=TIP + 1)
    reorg(db, 1, 2)
    pay(db, 0, entry_of(1), tip_height=TIP + 2)
    (taken,), _ = claim(db)
    assert taken.request.headers["X-Confirmations"] == "0"


# --- outcomes ---------------------------------------------------------------------------------------------------------


def test_acknowledged_message_is_due_no_more(db: Database) -> None:
    """After the acknowledgement nothing waits; the attempt stays to be shown."""
    fill(db, 1)
    (taken,), _ = claim(db)
    assert finish(db, taken, body=taken.sent_payload) is Outcome.ACKNOWLEDGED
    assert (only_delivery(db).state, only_delivery(db).due_at, only_delivery(db).attempts) == ("acknowledged", None, 1)
    assert deliveries.count_pending(db) == (0, None)
    assert deliveries.load_deliveries(db, limit=9, is_pending_only=True) == []


def test_retries_grow_by_the_dialects_rule(db: Database) -> None:
    """Each failure doubles the pause up to the limit, for ever."""
    fill(db, 1)
    now, pauses = float(NOW), []
    for _ in range(13):
        (taken,), _next = claim(db, now=now)
        finish(db, taken, now=now)
        due_at = only_delivery(db).due_at
        assert due_at is not None
        pauses.append(due_at - now)
        now = due_at
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]


def test_newer_contents_start_the_pauses_again(db: Database) -> None:
    """A payment that comes while a message waits for its next try makes it due at once, with the newest totals."""
    subscribe(db, 0)
    pay(db, 0, entry_of(1, received_sat=70))
    (taken,), _ = claim(db)
    finish(db, taken)
    assert claim(db, now=NOW + 1)[0] == []
    pay(db, 0, entry_of(2, received_sat=30), now=NOW + 1)
    (again,), _ = claim(db, now=NOW + 1)
    assert again.sent_payload == payload_of(0, 100)
    finish(db, again, now=NOW + 1)
    assert only_delivery(db).due_at == NOW + 6


@pytest.mark.parametrize("is_acknowledged", [True, False])
def test_contents_that_change_under_way_are_due_at_the_end(db: Database, is_acknowledged: bool) -> None:
    """An attempt that told older totals is followed by the newest at once, whatever its answer was."""
    subscribe(db, 0)
    pay(db, 0, entry_of(1, received_sat=70))
    (taken,), _ = claim(db)
    pay(db, 0, entry_of(2, received_sat=30), now=NOW + 1)
    assert claim(db, now=NOW + 1)[0] == []
    finish(db, taken, body=taken.sent_payload if is_acknowledged else None, now=NOW + 2)
    (again,), _ = claim(db, now=NOW + 2)
    assert again.sent_payload == payload_of(0, 100)


def test_payment_that_goes_under_way_is_taken_back(db: Database) -> None:
    """A receiver that may believe in a gone payment is told that it is gone."""
    subscribe(db, 0)
    pay(db, 0, entry_of(1, received_sat=70))
    (taken,), _ = claim(db)
    pay(db, 0, entry_of(1, received_sat=70, state=Replaced(txid_of(2))), now=NOW + 1)
    finish(db, taken, now=NOW + 2)
    (again,), _ = claim(db, now=NOW + 2)
    assert again.sent_payload == NOTHING
    finish(db, again, body=NOTHING, now=NOW + 3)
    assert only_delivery(db).state == "acknowledged"


def test_subscription_removed_under_way_ends_quietly(db: Database) -> None:
    """The end of an attempt whose subscription was removed is no error, and brings nothing back."""
    fill(db, 1)
    (taken,), _ = claim(db)
    subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url=None)
    assert finish(db, taken, body=taken.sent_payload) is Outcome.ACKNOWLEDGED
    assert deliveries.load_deliveries(db, limit=9) == []
    assert db.execute("SELECT count(*) FROM attempt").fetchone() == (0,)


def test_new_subscription_is_not_taken_for_a_removed_one(db: Database) -> None:
    """An attempt of a removed subscription does not end the message of one that was made since."""
    fill(db, 1)
    (taken,), _ = claim(db)
    subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url=None)
    fill(db, 1)
    finish(db, taken, body=taken.sent_payload)
    assert only_delivery(db).state == "due"


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_interrupted_attempts_are_due_again(db: Database) -> None:
    """What a crash left under way is marked as interrupted and told again; what had ended is left alone."""
    fill(db, 3)
    first, second, _third = claim(db, now=NOW + 100)[0]
    finish(db, first, body=first.sent_payload, now=NOW + 100)
    finish(db, second, now=NOW + 100)
    assert attempts.recover_interrupted(db) == 1
    assert attempts.recover_interrupted(db) == 0
    outcomes = [attempt.outcome for key in (1, 2, 3) for attempt in deliveries.load_attempts(db, key)]
    assert outcomes == ["acknowledged", "failed", "interrupted"]
    (again,), next_due_at = claim(db, now=NOW + 100)
    assert (again.message_key, next_due_at) == (3, NOW + 105)


def test_interrupted_contents_stay_in_doubt(db: Database) -> None:
    """A receiver that may have heard something before a crash is told when it is no longer so."""
    subscribe(db, 0)
    pay(db, 0, entry_of(1, received_sat=70))
    claim(db)
    attempts.recover_interrupted(db)
    pay(db, 0, entry_of(1, received_sat=70, state=Replaced(txid_of(2))), now=NOW + 1)
    (again,), _ = claim(db, now=NOW + 1)
    assert again.sent_payload == NOTHING


# --- how many are kept ------------------------------------------------------------------------------------------------


def test_attempts_of_one_message_are_bounded(db: Database) -> None:
    """Of a message that nobody acknowledges the newest attempts are kept, and no more than a hundred and a few."""
    fill(db, 1)
    now = float(NOW)
    for _ in range(KEPT_ATTEMPTS + 30 + 1):
        (taken,), _next = claim(db, now=now)
        finish(db, taken, now=now)
        now += 3600
        kept = [attempt.attempt_id for attempt in deliveries.load_attempts(db, 1)]
        assert kept == list(range(taken.attempt_id + 1 - len(kept), taken.attempt_id + 1))
        assert len(kept) >= min(taken.attempt_id, KEPT_ATTEMPTS)
        assert len(kept) < KEPT_ATTEMPTS + 1
    assert only_delivery(db).tries == KEPT_ATTEMPTS + 30 + 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5, 10])
def test_attempts_of_every_message_are_bounded(db: Database, count: int) -> None:
    """Messages that fail in turns, always in the same order, are bounded each."""
    fill(db, count)
    now = float(NOW)
    for _ in range(KEPT_ATTEMPTS + 20):
        now += 3601
        for taken in claim(db, now=now)[0]:
            finish(db, taken, now=now)
    kept = [len(deliveries.load_attempts(db, key)) for key in range(1, count + 1)]
    assert max(kept) < KEPT_ATTEMPTS + 1
