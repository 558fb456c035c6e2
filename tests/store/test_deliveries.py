"""Messages and attempts as the operator sees them."""

import pytest

from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Dropped, LedgerEntry, PaymentState, Replaced
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from lightipn.store import deliveries, events, keys
from lightipn.store.database import Database
from lightipn.store.deliveries import FailingHost, LostPayment
from tests.builders import confirmed, entry_of, txid_of
from tests.store.each_dialect import HEARD, MOST_TIPS
from tests.store.plain_dialect import answer_of
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
    subscribe_to_each,
)
from tests.store.tips import grow, stand_at_tip, wake

LATER = NOW + 5

# --- lists ------------------------------------------------------------------------------------------------------------


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


# --- states ------------------------------------------------------------------------------------------------------


def state_of(db: Database) -> tuple[str, bool]:
    """Return the state that is shown of the one message, and whether it is listed among those that wait."""
    is_pending = bool(deliveries.load_deliveries(db, limit=9, is_pending_only=True))
    return only_delivery(db).state, is_pending


def test_message_is_shown_in_every_state_of_its_life(db: Database) -> None:
    """A message is due, in flight, waits for the next block, and is due, in flight and acknowledged in the end."""
    stand_at_tip(db)
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    shown = [state_of(db)]
    (taken,), _ = claim(db)
    shown.append(state_of(db))
    finish(db, taken, body=b"not yet")
    shown.append(state_of(db))
    assert deliveries.count_pending(db) == (1, None)
    grow(db)
    wake(db)
    shown.append(state_of(db))
    (taken,), _ = claim(db, now=NOW + 5)
    finish(db, taken, body=HEARD)
    shown.append(state_of(db))
    assert shown == [
        ("due", True),
        ("in-flight", True),
        ("next-block", True),
        ("due", True),
        ("acknowledged", False),
    ]


def test_message_that_waits_for_clock_and_block_is_due(db: Database) -> None:
    """What is told again at the earlier of both shows the time at which it is due at the latest."""
    stand_at_tip(db)
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    (taken,), _ = claim(db)
    finish(db, taken)
    assert (only_delivery(db).state, only_delivery(db).due_at) == ("due", NOW + 60)


def test_withdrawn_message_is_shown_as_such(db: Database) -> None:
    """A message about a payment that is gone waits no more, and is due when the payment is back."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    pay(db, 0, entry_of(1, state=Dropped()))
    assert state_of(db) == ("withdrawn", False)
    assert deliveries.count_pending(db) == (0, None)
    assert pay(db, 0, entry_of(1, state=Unconfirmed()), now=NOW + 7)
    assert (only_delivery(db).state, only_delivery(db).due_at) == ("due", NOW + 7)


def test_dead_message_is_shown_as_such(db: Database) -> None:
    """What was told at as many tips as its dialect does waits no more; the operator can have it told again."""
    stand_at_tip(db)
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    for number in range(MOST_TIPS):
        assert state_of(db)[1]
        (taken,), _ = claim(db, now=NOW + 10 * number + 5)
        finish(db, taken, body=b"not yet")
        grow(db)
        wake(db, now=NOW + 10 * (number + 1))
    assert state_of(db) == ("dead", False)
    assert deliveries.make_due(db, taken.message_key, now=NOW + 100)
    assert state_of(db) == ("due", True)
    (again,), _ = claim(db, now=NOW + 100)
    finish(db, again, body=HEARD)
    assert state_of(db) == ("acknowledged", False)


def test_held_messages_are_counted(db: Database) -> None:
    """What waits for its owner's new key is shown as held; what is under way or done with is not."""
    stand_at_tip(db)
    keys.save_key(db, name="shop", secret="s", now=NOW)
    subscribe_to_each(db)
    pay(db, 0, entry_of(1), entry_of(2), entry_of(3))
    assert deliveries.count_held(db) == 0
    for body in (HEARD, b"not yet"):
        (taken,), _ = claim(db)
        finish(db, taken, body=body)
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    states = [delivery.state for delivery in deliveries.load_deliveries(db, limit=9)]
    assert states == ["held", "held", "acknowledged"]
    assert deliveries.count_held(db) == 2
    keys.save_key(db, name="shop", secret="t", now=NOW)
    assert deliveries.count_held(db) == 0


# --- retries by hand ---------------------------------------------------------------------------------------------


def test_retry_of_what_waits_for_a_block_comes_at_once(db: Database) -> None:
    """The operator's retry does not wait for the tip, and the tip does not tell it a second time."""
    stand_at_tip(db)
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    (taken,), _ = claim(db)
    finish(db, taken, body=b"not yet")
    deliveries.make_due(db, taken.message_key, now=NOW + 1)
    grow(db)
    assert not wake(db, now=NOW + 2)
    assert len(claim(db, now=NOW + 2)[0]) == 1


def test_retry_of_what_settles_comes_at_once(db: Database) -> None:
    """The operator's retry does not wait to see whether the payment is in the new block."""
    stand_at_tip(db)
    subscribe_to_each(db)
    pay(db, 0, entry_of(1))
    (taken,), _ = claim(db)
    finish(db, taken, body=b"not yet")
    grow(db)
    wake(db, now=NOW + 1)
    assert claim(db, now=NOW + 1)[0] == []
    deliveries.make_due(db, taken.message_key, now=NOW + 1)
    assert len(claim(db, now=NOW + 1)[0]) == 1


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


# --- failing hosts -----------------------------------------------------------------------------------------------


def test_failing_hosts_are_those_tried_in_vain(db: Database) -> None:
    """A host fails from its messages' second vain try on; the one with most such messages comes first.

    A 2xx that acknowledges nothing is no failure, and ends the row.
    """
    fill(db, 1, url="http://once.example/", first=0)
    fill(db, 2, url=DEAD, first=10)
    fill(db, 1, url="http://odd.example/", first=20)
    fill(db, 1, url="http://refusing.example/", first=25)
    fill(db, 1, url=ALIVE, first=30)
    for tries in (1, 2, 3):
        for taken in claim(db, now=NOW + 100 * tries)[0]:
            bodies = {
                "alive.example:80": taken.sent_payload,
                "odd.example:80": b"?",
                "once.example:80": b"?" if tries == 2 else None,
            }
            is_refusing = taken.host == "refusing.example:80"
            answer = answer_of(b"no", status=503) if is_refusing else None
            finish(db, taken, body=bodies.get(taken.host), answer=answer, now=NOW + 100 * tries)
    assert deliveries.load_failing_hosts(db, limit=9) == [
        FailingHost(host="dead.example:80", messages=2, failures=3, last_trouble="timeout"),
        FailingHost(host="refusing.example:80", messages=1, failures=3, last_trouble="503 failed"),
    ]
    assert [found.host for found in deliveries.load_failing_hosts(db, limit=1)] == ["dead.example:80"]


def test_host_of_held_messages_is_not_failing(db: Database) -> None:
    """What is not sent because its owner has no key says nothing about its host."""
    keys.save_key(db, name="shop", secret="s", now=NOW)
    fill(db, 1, url=DEAD)
    for tries in (1, 2):
        (taken,), _ = claim(db, now=NOW + 100 * tries)
        finish(db, taken, now=NOW + 100 * tries)
    assert [found.host for found in deliveries.load_failing_hosts(db, limit=9)] == ["dead.example:80"]
    keys.revoke_keys(db, name="shop", key_id=None, now=NOW)
    assert deliveries.load_failing_hosts(db, limit=9) == []


# --- lost after it was heard -------------------------------------------------------------------------------------


def lose(db: Database, number: int, entry: LedgerEntry, *, kind: EventKind, now: int = LATER) -> None:
    """Write that a payment of an address lost its block, or is gone."""
    event = PaymentEvent(
        kind=kind,
        scripthash=regtest_address(number).scripthash,
        txid=entry.txid,
        net_sat=entry.net_sat,
        height=None,
        trust=TrustLevel.PROVED,
    )
    events.save_payment_events(db, [event], now=now)
    pay(db, number, entry)


def hear_all(db: Database) -> None:
    """Have everything that is due heard."""
    while claims := claim(db)[0]:
        for taken in claims:
            finish(db, taken, body=HEARD)


@pytest.mark.parametrize(
    ("state", "kind", "place"),
    [
        (Unconfirmed(), EventKind.REVERTED, "unconfirmed"),
        (Replaced(txid_of(9)), EventKind.REPLACED, "replaced"),
        (Dropped(), EventKind.DROPPED, "dropped"),
    ],
)
def test_payment_that_is_lost_after_it_was_heard_is_shown(
    db: Database, state: PaymentState, kind: EventKind, place: str
) -> None:
    """The operator sees a payment that a shop was sure of and that is not there any more, until it is in a block."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1, state=confirmed(TIP)))
    hear_all(db)
    assert deliveries.load_lost(db, since=0, limit=9) == []
    lose(db, 0, entry_of(1, state=state), kind=kind)
    expected = LostPayment(txid=txid_of(1), address=regtest_address(0).text, host="shop.example:80", place=place)
    assert deliveries.load_lost(db, since=LATER, limit=9) == [expected]
    assert deliveries.load_lost(db, since=LATER + 1, limit=9) == []
    pay(db, 0, entry_of(1, state=confirmed(TIP + 1)))
    assert deliveries.load_lost(db, since=0, limit=9) == []


def test_lost_payment_that_nobody_heard_of_is_not_shown(db: Database) -> None:
    """Where nothing was acknowledged, no shop is wrong."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1, state=confirmed(TIP)))
    lose(db, 0, entry_of(1, state=Dropped()), kind=EventKind.DROPPED)
    assert deliveries.load_lost(db, since=0, limit=9) == []


@pytest.mark.parametrize(("after_s", "is_shown"), [(-1, False), (0, False), (1, True)])
def test_what_was_told_because_of_a_loss_is_no_alarm(db: Database, after_s: int, is_shown: bool) -> None:
    """A message that was made in the second of the loss or later told of it: only what was told before is wrong now."""
    subscribe_to_each(db)
    pay(db, 0, entry_of(1, state=confirmed(TIP)))
    hear_all(db)
    lose(db, 0, entry_of(1), kind=EventKind.REVERTED, now=NOW + after_s)
    assert bool(deliveries.load_lost(db, since=0, limit=9)) is is_shown


def test_newest_loss_comes_first(db: Database) -> None:
    """Each payment is shown once for each shop, however often it was lost, and the list has a limit."""
    for number in range(3):
        subscribe_to_each(db, number)
        pay(db, number, entry_of(number, state=confirmed(TIP)))
    hear_all(db)
    for number in (0, 1, 2, 2):
        lose(db, number, entry_of(number), kind=EventKind.REVERTED)
    assert [lost.txid for lost in deliveries.load_lost(db, since=0, limit=9)] == [txid_of(n) for n in (2, 1, 0)]
    assert [lost.txid for lost in deliveries.load_lost(db, since=0, limit=1)] == [txid_of(2)]
