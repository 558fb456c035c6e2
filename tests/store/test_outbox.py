"""Claims, outcomes, and what a crash leaves: at least once, and never lost."""

import pytest

from lightipn.ledger.entries import Replaced
from lightipn.outbox.verdict import Outcome
from lightipn.store import deliveries, keys, outbox, subscriptions
from lightipn.store.database import Database
from lightipn.store.deliveries import Attempt, Delivery, FailingHost
from lightipn.store.outbox import KEPT_ATTEMPTS, Claim
from tests.builders import entry_of, txid_of
from tests.store.plain_dialect import NOTHING, POLICIES, SILENCE, answer_of, payload_of
from tests.store.rows import NOW, claim, pay, regtest_address, subscribe

DEAD = "http://dead.example/"
ALIVE = "http://alive.example/"


def finish(db: Database, taken: Claim, *, body: bytes | None = None, now: float = NOW, jitter: float = 0.0) -> Outcome:
    """End an attempt: with this answer, or with silence."""
    answer = SILENCE if body is None else answer_of(body)
    return outbox.finish_attempt(db, POLICIES, taken, answer, now=now, jitter=jitter)


def fill(db: Database, count: int, *, url: str = ALIVE, first: int = 0, at: float = NOW) -> None:
    """Make so many messages to one host due, a second apart."""
    for number in range(first, first + count):
        subscribe(db, number, url=url)
        pay(db, number, entry_of(number), now=at + number - first)


def only_delivery(db: Database) -> Delivery:
    """Return the one message there is."""
    (delivery,) = deliveries.load_deliveries(db, limit=9)
    return delivery


# --- claims ------------------------------------------------------------------------------------------------------


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
    for query in (outbox._HOSTS, outbox._NEXT_DUE):
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


# --- outcomes ----------------------------------------------------------------------------------------------------


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


# --- crashes -----------------------------------------------------------------------------------------------------


def test_interrupted_attempts_are_due_again(db: Database) -> None:
    """What a crash left under way is marked as interrupted and told again; what had ended is left alone."""
    fill(db, 3)
    first, second, _third = claim(db, now=NOW + 100)[0]
    finish(db, first, body=first.sent_payload, now=NOW + 100)
    finish(db, second, now=NOW + 100)
    assert outbox.recover_interrupted(db) == 1
    assert outbox.recover_interrupted(db) == 0
    outcomes = [attempt.outcome for key in (1, 2, 3) for attempt in deliveries.load_attempts(db, key)]
    assert outcomes == ["acknowledged", "failed", "interrupted"]
    (again,), next_due_at = claim(db, now=NOW + 100)
    assert (again.message_key, next_due_at) == (3, NOW + 105)


def test_interrupted_contents_stay_in_doubt(db: Database) -> None:
    """A receiver that may have heard something before a crash is told when it is no longer so."""
    subscribe(db, 0)
    pay(db, 0, entry_of(1, received_sat=70))
    claim(db)
    outbox.recover_interrupted(db)
    pay(db, 0, entry_of(1, received_sat=70, state=Replaced(txid_of(2))), now=NOW + 1)
    (again,), _ = claim(db, now=NOW + 1)
    assert again.sent_payload == NOTHING


# --- the operator's view -----------------------------------------------------------------------------------------


def test_messages_are_listed_newest_first(db: Database) -> None:
    """The list has a limit, and can leave out what is acknowledged."""
    fill(db, 3)
    taken = claim(db, now=NOW, room=1)[0][0]
    finish(db, taken, body=taken.sent_payload)
    assert [delivery.message_key for delivery in deliveries.load_deliveries(db, limit=2)] == [3, 2]
    pending = deliveries.load_deliveries(db, limit=9, is_pending_only=True)
    assert [delivery.message_key for delivery in pending] == [3, 2]
    assert deliveries.count_pending(db) == (2, NOW + 1)
    assert deliveries.load_delivery(db, 99) is None
    assert deliveries.load_attempts(db, 99) == []


def test_retry_makes_a_waiting_message_due_now(db: Database) -> None:
    """The operator's retry ends the pause and starts the pauses again."""
    fill(db, 1)
    (taken,), _ = claim(db)
    finish(db, taken)
    assert deliveries.make_due(db, taken.message_key, now=NOW + 1)
    (again,), _ = claim(db, now=NOW + 1)
    finish(db, again, now=NOW + 1)
    assert only_delivery(db).due_at == NOW + 6
    assert not deliveries.make_due(db, 99, now=NOW)


def test_retry_tells_an_acknowledged_message_once_more(db: Database) -> None:
    """An acknowledged message is sent again, once, whatever comes of it: the receiver knows it already."""
    fill(db, 1)
    (taken,), _ = claim(db)
    finish(db, taken, body=taken.sent_payload)
    deliveries.make_due(db, taken.message_key, now=NOW + 1)
    (again,), _ = claim(db, now=NOW + 1)
    assert again.sent_payload == taken.sent_payload
    finish(db, again, now=NOW + 1)
    assert only_delivery(db).state == "acknowledged"


def test_retry_of_a_message_under_way_does_not_double_it(db: Database) -> None:
    """The operator's retry never puts two requests of one subscription on the wire."""
    fill(db, 1)
    claim(db)
    deliveries.make_due(db, 1, now=NOW)
    assert claim(db, now=NOW + 1) == ([], None)


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


def test_due_times_of_a_clock_that_was_ahead_are_pulled_in(db: Database) -> None:
    """What is due later than any pause allows is due now; an honest pause stays."""
    fill(db, 2, at=NOW)
    honest, ahead = claim(db, now=NOW + 9)[0]
    finish(db, honest, now=NOW)
    finish(db, ahead, now=NOW + 10 * 86400)
    assert outbox.pull_in_due_times(db, now=NOW) == 1
    assert outbox.pull_in_due_times(db, now=NOW) == 0
    found = {delivery.message_key: delivery.due_at for delivery in deliveries.load_deliveries(db, limit=9)}
    assert found == {honest.message_key: NOW + 5, ahead.message_key: NOW}


def test_failing_hosts_are_those_tried_in_vain(db: Database) -> None:
    """A host fails from its messages' second vain try on; the one with most such messages comes first."""
    fill(db, 1, url="http://once.example/", first=0)
    fill(db, 2, url=DEAD, first=10)
    fill(db, 1, url="http://odd.example/", first=20)
    fill(db, 1, url=ALIVE, first=30)
    for tries in (1, 2, 3):
        for taken in claim(db, now=NOW + 100 * tries)[0]:
            if taken.host == "alive.example:80":
                finish(db, taken, body=taken.sent_payload, now=NOW + 100 * tries)
            elif taken.host == "odd.example:80":
                finish(db, taken, body=b"?", now=NOW + 100 * tries)
            else:
                if taken.host == "once.example:80":
                    deliveries.make_due(db, taken.message_key, now=NOW)  # starts its tries again
                finish(db, taken, now=NOW + 100 * tries)
    assert deliveries.load_failing_hosts(db, limit=9) == [
        FailingHost(host="dead.example:80", messages=2, tries=3, last_trouble="timeout"),
        FailingHost(host="odd.example:80", messages=1, tries=3, last_trouble="200 not-acknowledged"),
    ]
    assert [found.host for found in deliveries.load_failing_hosts(db, limit=1)] == ["dead.example:80"]
