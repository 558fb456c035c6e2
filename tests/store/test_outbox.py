"""Messages on disk, and what a tip makes due."""

from dataclasses import replace
from operator import itemgetter

import pytest

from lightipn.bitcoin.hashes import ScriptHash, hex_of
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Dropped, LedgerEntry
from lightipn.outbox.messages import Message, MessageState
from lightipn.store import chain, deliveries, ledger, outbox, subscriptions
from lightipn.store.database import Database
from lightipn.store.deliveries import Delivery
from lightipn.store.ledger import WatchChange
from lightipn.store.outbox import SETTLING_S, WOKEN_PAGE
from tests.builders import confirmed, entry_of, message_of, txid_of
from tests.store.each_dialect import HEARD, RETRY_S
from tests.store.rows import (
    NOW,
    TIP,
    changes_of,
    claim,
    fill,
    finish,
    only_delivery,
    pay,
    regtest_address,
    subscribe_to_each,
)
from tests.store.tips import grow, reorg, stand_at_tip, wake

SCRIPTHASH = regtest_address(0).scripthash
ASKED = [(SCRIPTHASH, WatchChange.ASKED)]


@pytest.fixture
def tipped(db: Database) -> Database:
    """Return a database whose chain ends at ``TIP``, with one subscription to each payment, and an empty queue."""
    stand_at_tip(db)
    subscribe_to_each(db)
    ledger.clear_watch_changes(db)
    return db


def waiting(db: Database, *entries: LedgerEntry, now: float = NOW) -> None:
    """Have payments told, and not acknowledged: their messages wait for the next tip."""
    pay(db, 0, *entries, now=now, tip_height=chain.load_tip_height(db))
    for _ in entries:
        (taken,), _next = claim(db, now=now)
        finish(db, taken, body=b"not yet", now=now)


def state_of(delivery: Delivery) -> tuple[str, float | None]:
    """Return what is shown, and when it is due."""
    return delivery.state, delivery.due_at


def messages_of(db: Database, subscription_id: int = 1) -> list[Message]:
    """Return a subscription's messages, oldest first."""
    return [message for _, message in sorted(outbox.load_messages(db, subscription_id).values(), key=itemgetter(0))]


def states_of(db: Database, subscription_id: int) -> list[str]:
    """Return their states."""
    return [message.state.value for message in messages_of(db, subscription_id)]


# --- rows --------------------------------------------------------------------------------------------------------


def test_message_is_read_as_it_was_written(tipped: Database) -> None:
    """Every field comes back, with all of its subscription or by its topic."""
    pay(tipped, 0, entry_of(1, received_sat=70))
    topic = hex_of(txid_of(1))
    ((found_topic, (message_key, fresh)),) = outbox.load_messages(tipped, 1).items()
    expected = message_of(b"70", heard_payload=b"", due_at=NOW, topic=topic, txid=txid_of(1), created_at=NOW)
    assert (found_topic, fresh) == (topic, replace(expected, message_id=fresh.message_id))
    changed = Message(
        message_id=fresh.message_id,
        topic=topic,
        txid=txid_of(1),
        state=MessageState.DEAD,
        payload=b"71",
        heard_payload=b"70",
        is_heard_in_doubt=True,
        tries=2,
        failures=3,
        tips=4,
        told_tip=5,
        due_at=NOW + 0.25,
        due_tip=7,
        acknowledged_at=NOW + 9,
        created_at=NOW,
    )
    outbox.save_message(tipped, message_key, changed)
    assert outbox.load_messages(tipped, 1) == {topic: (message_key, changed)}
    assert outbox.load_message(tipped, 1, topic) == (message_key, changed)
    assert outbox.load_message(tipped, 1, "other") is outbox.load_message(tipped, 2, topic) is None
    assert outbox.load_messages(tipped, 2) == {}


def test_payment_without_a_past_has_a_message_of_its_own(tipped: Database) -> None:
    """Each payment is a message with an id of its own, in the order in which they were told."""
    pay(tipped, 0, entry_of(1))
    pay(tipped, 0, entry_of(2))
    messages = messages_of(tipped)
    assert [message.txid for message in messages] == [txid_of(1), txid_of(2)]
    assert len({message.message_id for message in messages}) == 2


def test_open_messages_are_those_still_to_be_told(tipped: Database) -> None:
    """A subscription has something open until all of it is acknowledged or withdrawn."""
    assert not outbox.has_open(tipped, 1)
    waiting(tipped, entry_of(1), entry_of(2))
    assert outbox.has_open(tipped, 1)
    assert not outbox.has_open(tipped, 2)
    (key, message), (other_key, other) = outbox.load_messages(tipped, 1).values()
    outbox.save_message(tipped, key, message.acknowledged(now=NOW))
    assert outbox.has_open(tipped, 1)
    outbox.save_message(tipped, other_key, other.withdrawn())
    assert not outbox.has_open(tipped, 1)


def test_withdrawing_all_leaves_what_was_heard(tipped: Database) -> None:
    """A subscription's messages are withdrawn, but for those that were acknowledged; another's are not touched."""
    subscribe_to_each(tipped, 0, url="http://other.example/")
    pay(tipped, 0, entry_of(1))
    for taken in claim(tipped)[0]:
        finish(tipped, taken, body=HEARD)
    pay(tipped, 0, entry_of(2))
    outbox.withdraw_messages(tipped, 1)
    states = {number: states_of(tipped, number) for number in (1, 2)}
    assert states == {1: ["acknowledged", "withdrawn"], 2: ["acknowledged", "open"]}


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


# --- what a tip makes due ----------------------------------------------------------------------------------------


def test_confirmed_payment_is_due_with_the_next_tip(tipped: Database) -> None:
    """A message that waits for the next tip is due at once when it comes, and not a moment sooner."""
    waiting(tipped, entry_of(1, state=confirmed(TIP + 1)))
    assert not wake(tipped, now=NOW + 1)
    assert state_of(only_delivery(tipped)) == ("next-block", None)
    grow(tipped)
    assert wake(tipped, now=NOW + 2)
    assert state_of(only_delivery(tipped)) == ("due", NOW + 2)
    assert changes_of(tipped) == []


def test_blocks_that_come_together_are_one_tip(tipped: Database) -> None:
    """Three blocks at once, or a reorg, make a message due once."""
    waiting(tipped, entry_of(1, state=confirmed(TIP + 1)))
    grow(tipped, 3)
    assert wake(tipped)
    (taken,), _ = claim(tipped)
    finish(tipped, taken, body=b"not yet")
    assert not wake(tipped)
    assert claim(tipped)[0] == []
    reorg(tipped, 1, 2)
    assert wake(tipped)
    assert len(claim(tipped)[0]) == 1


def test_unconfirmed_payment_waits_until_its_script_was_asked(tipped: Database) -> None:
    """With a tip an unconfirmed payment is due some seconds later, and its script is asked again meanwhile.

    The header may come a second before the history, and nobody shall hear of no confirmations for a payment that the
    block holds.
    """
    waiting(tipped, entry_of(1))
    grow(tipped)
    assert wake(tipped, now=NOW + 2)
    assert state_of(only_delivery(tipped)) == ("due", NOW + 2 + SETTLING_S)
    assert changes_of(tipped) == ASKED
    assert claim(tipped, now=NOW + 2) == ([], NOW + 2 + SETTLING_S)
    assert len(claim(tipped, now=NOW + 2 + SETTLING_S)[0]) == 1


def test_confirmation_ends_the_waiting(tipped: Database) -> None:
    """Once the payment turns out to be in the new block it is told at once, with its confirmation."""
    waiting(tipped, entry_of(1))
    grow(tipped)
    wake(tipped, now=NOW + 2)
    assert pay(tipped, 0, entry_of(1, state=confirmed(TIP + 1)), now=NOW + 3, tip_height=TIP + 1)
    assert state_of(only_delivery(tipped)) == ("due", NOW + 3)
    (taken,), _ = claim(tipped, now=NOW + 3)
    assert taken.request.headers["X-Confirmations"] == "1"
    assert not pay(tipped, 0, entry_of(1, state=confirmed(TIP + 1)), now=NOW + 4, tip_height=TIP + 1)


def test_confirmation_ends_the_waiting_of_its_payment_alone(tipped: Database) -> None:
    """Another payment of the same script that is still unconfirmed waits on."""
    waiting(tipped, entry_of(1), entry_of(2))
    grow(tipped)
    wake(tipped, now=NOW + 2)
    assert pay(tipped, 0, entry_of(2, state=confirmed(TIP + 1)), now=NOW + 3, tip_height=TIP + 1)
    due = {message.txid: message.due_at for message in messages_of(tipped)}
    assert due == {txid_of(1): NOW + 2 + SETTLING_S, txid_of(2): NOW + 3}


def test_confirmation_hastens_only_what_waits_for_it(tipped: Database) -> None:
    """A message that waits for the next tip, or for its next try, does not come sooner because of a confirmation."""
    waiting(tipped, entry_of(1))
    assert not pay(tipped, 0, entry_of(1, state=confirmed(TIP)), now=NOW + 3)
    assert state_of(only_delivery(tipped)) == ("next-block", None)


def test_payment_that_goes_while_it_settles_is_withdrawn(tipped: Database) -> None:
    """A payment that the servers drop while its script is asked is not told; it is told anew when it comes back."""
    waiting(tipped, entry_of(1))
    grow(tipped)
    wake(tipped, now=NOW + 2)
    assert not pay(tipped, 0, entry_of(1, state=Dropped()), now=NOW + 3)
    assert claim(tipped, now=NOW + 100) == ([], None)
    assert pay(tipped, 0, entry_of(1, state=Unconfirmed()), now=NOW + 100)
    assert state_of(only_delivery(tipped)) == ("due", NOW + 100)


def test_payment_that_a_reorg_took_from_its_block_settles_again(tipped: Database) -> None:
    """After a reorg a payment is unconfirmed until its script was asked, and waits like any such."""
    grow(tipped)
    waiting(tipped, entry_of(1, state=confirmed(TIP + 1)))
    reorg(tipped, 1, 2)
    pay(tipped, 0, entry_of(1), tip_height=TIP + 2)
    assert wake(tipped, now=NOW + 2)
    assert state_of(only_delivery(tipped)) == ("due", NOW + 2 + SETTLING_S)
    assert changes_of(tipped) == ASKED


def test_earlier_of_pause_and_tip_counts(tipped: Database) -> None:
    """What waits for the clock and for the tip is due with whichever comes first, and then once."""
    grow(tipped)
    pay(tipped, 0, entry_of(1, state=confirmed(TIP)))
    (taken,), _ = claim(tipped)
    finish(tipped, taken)
    assert state_of(only_delivery(tipped)) == ("due", NOW + RETRY_S)
    grow(tipped)
    assert wake(tipped, now=NOW + 2)
    (again,), _ = claim(tipped, now=NOW + 2)
    finish(tipped, again, now=NOW + 2)
    (once_more,), _ = claim(tipped, now=NOW + 2 + RETRY_S)
    finish(tipped, once_more, body=HEARD, now=NOW + 2 + RETRY_S)
    grow(tipped)
    assert not wake(tipped, now=NOW + 500)


def test_tip_does_not_hasten_what_failed_before_its_script_was_asked(tipped: Database) -> None:
    """A retry by the clock that falls into the seconds after a tip waits too: the new block may hold the payment."""
    pay(tipped, 0, entry_of(1))
    (taken,), _ = claim(tipped)
    finish(tipped, taken)
    grow(tipped)
    wake(tipped, now=NOW + RETRY_S - 1)
    assert state_of(only_delivery(tipped)) == ("due", NOW + RETRY_S - 1 + SETTLING_S)


@pytest.mark.parametrize(
    ("entry", "due_at"),
    [
        pytest.param(entry_of(1, state=confirmed(TIP)), NOW + 9, id="confirmed"),
        pytest.param(entry_of(1), NOW + 9 + SETTLING_S, id="unconfirmed"),
    ],
)
def test_tip_that_comes_during_an_attempt_is_not_lost(tipped: Database, entry: LedgerEntry, due_at: float) -> None:
    """An attempt that began before a tip and ends after it leaves its message due because of that tip."""
    pay(tipped, 0, entry)
    (taken,), _ = claim(tipped)
    grow(tipped)
    assert not wake(tipped, now=NOW + 1)
    finish(tipped, taken, body=b"not yet", now=NOW + 9)
    assert state_of(only_delivery(tipped)) == ("due", due_at)
    assert changes_of(tipped) == (ASKED if due_at > NOW + 9 else [])


def test_tip_that_comes_during_an_attempt_does_not_wake_what_was_heard(tipped: Database) -> None:
    """A tip between request and acknowledgement makes nothing due."""
    pay(tipped, 0, entry_of(1))
    (taken,), _ = claim(tipped)
    grow(tipped)
    finish(tipped, taken, body=HEARD, now=NOW + 9)
    assert not wake(tipped, now=NOW + 9)
    assert state_of(only_delivery(tipped)) == ("acknowledged", None)


def test_tip_that_came_while_the_service_was_down_is_not_lost(tipped: Database) -> None:
    """A tip that was written before a crash makes its messages due at the next start."""
    waiting(tipped, entry_of(1, state=confirmed(TIP)))
    grow(tipped)
    grow(tipped)
    assert wake(tipped, now=NOW + 5)
    assert len(claim(tipped, now=NOW + 5)[0]) == 1


def test_settling_is_not_prolonged_by_another_tip(tipped: Database) -> None:
    """A second block within the seconds of waiting does not put the telling off."""
    waiting(tipped, entry_of(1))
    grow(tipped)
    wake(tipped, now=NOW + 2)
    grow(tipped)
    wake(tipped, now=NOW + 4)
    assert state_of(only_delivery(tipped)) == ("due", NOW + 2 + SETTLING_S)


def test_held_message_is_woken_for_the_day_its_owner_comes_back(tipped: Database) -> None:
    """A tip that comes while the owner is suspended is told when there is a key again."""
    waiting(tipped, entry_of(1, state=confirmed(TIP)))
    tipped.execute("UPDATE message SET is_held = 1")
    grow(tipped)
    wake(tipped, now=NOW + 1)
    assert claim(tipped, now=NOW + 1) == ([], None)
    tipped.execute("UPDATE message SET is_held = 0")
    assert len(claim(tipped, now=NOW + 1)[0]) == 1


def test_tip_wakes_page_by_page(tipped: Database) -> None:
    """More messages than a page are woken in several transactions, each exactly once."""
    count = WOKEN_PAGE + 3
    pay(tipped, 0, *(entry_of(number, state=confirmed(TIP)) for number in range(count)))
    for key, message in outbox.load_messages(tipped, 1).values():
        outbox.save_message(tipped, key, replace(message, told_tip=1, due_at=None, due_tip=2))
    grow(tipped)
    pages = [outbox.wake_for_tip(tipped, 2, now=NOW) for _ in range(3)]
    assert pages == [(True, True), (True, False), (False, False)]
    assert tipped.execute("SELECT count(*) FROM message WHERE due_at = ?", [NOW]).fetchone() == (count,)


def test_waking_reads_no_more_than_an_index(tipped: Database) -> None:
    """Finding what waits for a tip searches an index, and never scans the messages."""
    query = f"EXPLAIN QUERY PLAN {outbox._WAITING} AND due_tip <= ? ORDER BY message_key LIMIT ?"
    plan = [str(row) for row in tipped.execute(query, [1, 1]).fetchall()]
    assert not [line for line in plan if "SCAN" in line]


def test_withdrawing_blocks_spares_payments(tipped: Database) -> None:
    """A payment's message is no block's, whatever leaves the chain."""
    grow(tipped)
    waiting(tipped, entry_of(1, state=confirmed(TIP + 1)))
    reorg(tipped, 1, 2)
    assert states_of(tipped, 1) == ["open"]


def test_unknown_script_is_not_asked(tipped: Database) -> None:
    """A message whose script is followed no more is due with the tip at once: there is nobody to ask."""
    waiting(tipped, entry_of(1))
    subscription = subscriptions.load_subscription(tipped, 1)
    assert subscription is not None
    subscriptions.release(tipped, subscription)
    ledger.clear_watch_changes(tipped)
    grow(tipped)
    assert wake(tipped, now=NOW + 2)
    assert state_of(only_delivery(tipped)) == ("due", NOW + 2)
    assert changes_of(tipped) == []
    assert ledger.load_script(tipped, ScriptHash(SCRIPTHASH)) is None
