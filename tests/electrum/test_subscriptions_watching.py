"""The book's other side: rechecks, quarantine, unwatching, and how long watches have been without a subscription."""

import pytest

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import UNKNOWN, Status
from lightipn.electrum.subscriptions import Changed, Fetch, SubscriptionBook
from tests.electrum.books import H1, S1, S2, A, B, C, announced, open_book, taken, tell

# --- recheck, quarantine, unwatch --------------------------------------------------------------------------------


def test_recheck_fetches_whatever_was_known() -> None:
    """A recheck subscribes again when its time has come, and the history is told although its status is the same."""
    book, known = open_book({A: S1})
    known[A] = UNKNOWN
    book.recheck(A, at=10.0)
    assert book.next_deadline() == 10.0
    book.due(now=9.0)
    assert book.take_subscribes(100) is None
    book.due(now=10.0)
    batch = taken(book)
    assert (batch.since, batch.scripthashes) == (None, [A])
    (fetch,) = book.answered(batch, {A: S1}, now=11.0)
    assert book.fetched(fetch, H1, now=12.0) == Changed(A, S1, H1)
    assert book.next_deadline() is None


def test_earlier_recheck_wins() -> None:
    """Of two rechecks of one script the earlier counts, in whatever order they were asked for."""
    for order in [(10.0, 5.0), (5.0, 10.0)]:
        book, _ = open_book({A: UNKNOWN})
        for at in order:
            book.recheck(A, at=at)
        assert book.next_deadline() == 5.0


def test_recheck_replaces_what_was_told_in_vain() -> None:
    """What was told and could not be proved is given up, and told again by the recheck."""
    book, known = open_book({A: None})
    tell(book, A, S1, H1)
    known[A] = UNKNOWN
    assert book.absorbed(A) is None
    book.recheck(A, at=5.0)
    book.due(now=5.0)
    assert book.answered(taken(book), {A: S1}, now=6.0) == [Fetch(A, S1)]


def test_quarantined_script_is_left_alone() -> None:
    """A script whose history the server refuses is not fetched again by its notifications."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    book.quarantine(A)
    assert book.quarantined == {A}
    assert book.notified(A, S2, now=2.0) is None
    assert book.fetched(fetch, H1, now=3.0) is None


@pytest.mark.parametrize("way", ["recheck", "sweep"])
def test_quarantine_is_lifted(way: str) -> None:
    """A recheck that is due, and every sweep, lift the quarantine and ask again."""
    book, _ = open_book({A: None})
    book.notified(A, S1, now=1.0)
    book.quarantine(A)
    if way == "recheck":
        book.recheck(A, at=5.0)
        book.due(now=5.0)
    else:
        book.watch(book.sweep(), since=None)
    assert book.quarantined == set()
    assert book.answered(taken(book), {A: S1}, now=6.0) == [Fetch(A, S1)]


def test_unwatched_script_leaves_nothing_behind() -> None:
    """Unwatching forgets doubt, recheck and quarantine; late answers and notifications mean nothing then."""
    book, known = open_book({A: None, B: None})
    fetch = announced(book, A, S1)
    book.recheck(A, at=5.0)
    book.quarantine(B)
    for scripthash in (A, B):
        del known[scripthash]
        book.unwatch(scripthash)
    assert book.next_deadline() is None
    assert book.quarantined == set()
    assert book.fetched(fetch, H1, now=2.0) is None
    assert book.notified(A, S2, now=3.0) is None
    assert book.sweep() == []


def test_equal_batches_are_told_apart() -> None:
    """Two batches of the same scripts, such as of a sweep and a recheck, may be answered in any order."""
    book, _ = open_book({A: None})
    book.watch([A], since=None)
    first = taken(book)
    book.watch([A], since=None)
    second = taken(book)
    assert book.answered(second, {A: None}, now=1.0) == []
    fetch = announced(book, A, S1)  # it overtakes the first answer
    assert book.answered(first, {A: S2}, now=3.0) == []
    assert book.fetched(fetch, H1, now=4.0) == Changed(A, S1, H1)


def test_script_unwatched_in_the_queue_is_not_subscribed() -> None:
    """A script that is unwatched before its subscribe was sent is not subscribed."""
    known: dict[ScriptHash, Status | None] = {A: None, B: None}
    book = SubscriptionBook(known, now=0.0)
    del known[A]
    book.unwatch(A)
    assert taken(book).scripthashes == [B]
    assert book.take_subscribes(100) is None


# --- subscribing and its gaps ------------------------------------------------------------------------------------


def test_subscribes_are_taken_in_pages() -> None:
    """Scripts are subscribed at most so many at a time; a new watch goes before a first load, however long."""
    book = SubscriptionBook({A: None, B: None}, now=0.0)
    book.watch([C], since=1.0)
    book._known[C] = None
    assert [taken(book, 1).scripthashes for _ in range(3)] == [[C], [A], [B]]
    assert book.take_subscribes(1) is None


def test_refused_subscribes_are_queued_again() -> None:
    """What a server refused to subscribe waits again, and its gap is as old as before."""
    book = SubscriptionBook({A: None, B: None}, now=3.0)
    book.answered(taken(book), {B: None}, now=9.0)
    assert (book.unsubscribed_count(), book.oldest_gap_since()) == (1, 3.0)
    assert taken(book).scripthashes == [A]


def test_oldest_gap_is_that_of_the_longest_waiting() -> None:
    """The gap counts from the watch, while queued and while under way, and ends with the answer."""
    known: dict[ScriptHash, Status | None] = {A: None}
    book = SubscriptionBook(known, now=2.0)
    known[B] = None
    book.watch([B], since=5.0)
    assert (book.oldest_gap_since(), book.unsubscribed_count()) == (2.0, 2)
    first = taken(book, 1)
    assert first.scripthashes == [B]
    assert (book.oldest_gap_since(), book.unsubscribed_count()) == (2.0, 2)
    book.answered(first, {B: None}, now=6.0)
    assert (book.oldest_gap_since(), book.unsubscribed_count()) == (2.0, 1)
    book.answered(taken(book), {A: None}, now=7.0)
    assert (book.oldest_gap_since(), book.unsubscribed_count()) == (None, 0)


def test_sweep_leaves_no_gap() -> None:
    """Scripts that are merely asked again count as subscribed meanwhile."""
    book, _ = open_book({A: None, B: S1})
    book.watch(book.sweep(), since=None)
    assert (book.oldest_gap_since(), book.unsubscribed_count()) == (None, 0)
    batch = taken(book)
    assert set(batch.scripthashes) == {A, B}
    assert (book.oldest_gap_since(), book.unsubscribed_count()) == (None, 0)


# --- shares of a server ------------------------------------------------------------------------------------------

MANY = [ScriptHash(bytes([number]) * 32) for number in range(10)]


@pytest.mark.parametrize(("begin_at", "first"), [(0.0, 0), (0.5, 5), (0.99, 9)])
def test_first_load_begins_where_it_is_told(begin_at: float, first: int) -> None:
    """Servers begin their first load at different places, and each goes through all of it."""
    book = SubscriptionBook(dict.fromkeys(MANY), now=0.0, begin_at=begin_at)
    assert taken(book).scripthashes == MANY[first:] + MANY[:first]
    assert book.take_subscribes(100) is None


def test_first_load_is_of_what_is_assigned() -> None:
    """What another server watches is no gap of this one, and is not swept by it."""
    book = SubscriptionBook(dict.fromkeys(MANY), now=0.0, is_assigned=lambda scripthash: scripthash in MANY[:3])
    assert (book.unsubscribed_count(), book.sweep()) == (3, MANY[:3])
    assert taken(book).scripthashes == MANY[:3]


def test_script_of_another_server_is_asked_as_a_check_alone() -> None:
    """A script that is not assigned is subscribed only where it is merely to be asked; its status is judged as any."""
    book = SubscriptionBook(dict.fromkeys(MANY), now=0.0, is_assigned=lambda scripthash: False)
    book.watch([MANY[0]], since=1.0)
    assert book.take_subscribes(100) is None
    book.watch([MANY[1], MANY[2]], since=None)
    batch = taken(book)
    assert (batch.since, batch.scripthashes) == (None, [MANY[1], MANY[2]])
    assert book.answered(batch, {MANY[1]: None, MANY[2]: S1}, now=2.0) == [Fetch(MANY[2], S1)]


def test_released_scripts_leave_nothing_behind() -> None:
    """What another server takes over is neither waited for nor a gap any more, wherever it was; the rest stays."""
    known = dict.fromkeys(MANY)
    book = SubscriptionBook(known, now=0.0)
    first = taken(book, 4)
    assert book.answered(first, dict.fromkeys(first.scripthashes), now=1.0) == []
    fetch = announced(book, MANY[0], S1)
    book.recheck(MANY[1], at=5.0)
    book.release({*MANY[:2], *MANY[4:9]})
    assert (book.unsubscribed_count(), book.oldest_gap_since()) == (1, 0.0)
    assert taken(book).scripthashes == [MANY[9]]
    assert book.next_deadline() is None
    assert book.fetched(fetch, H1, now=2.0) is None


def test_gap_of_released_scripts_ends() -> None:
    """Where all that waited was released nothing waits any more."""
    book = SubscriptionBook(dict.fromkeys(MANY), now=0.0)
    book.release(set(MANY))
    assert book.take_subscribes(100) is None
    assert (book.unsubscribed_count(), book.oldest_gap_since()) == (0, None)


def test_refused_script_that_was_released_is_not_queued_again() -> None:
    """A subscribe that was refused after its script was given to another server is not tried again."""
    assigned = set(MANY)
    book = SubscriptionBook(dict.fromkeys(MANY), now=0.0, is_assigned=lambda scripthash: scripthash in assigned)
    batch = taken(book)
    assigned -= set(MANY[3:])
    book.release(set(MANY[3:]))
    book.answered(batch, {}, now=1.0)
    assert taken(book).scripthashes == MANY[:3]
    assert book.take_subscribes(100) is None
    assert book.unsubscribed_count() == 3


def test_fetch_is_of_use_until_it_is_answered_or_overtaken() -> None:
    """A fetch that has not been sent yet is not sent where its doubt has ended."""
    book, known = open_book({A: None})
    fetch = announced(book, A, S1)
    assert book.is_open(fetch)
    known[A] = S1
    book.left_behind(A, None, now=2.0)
    assert not book.is_open(fetch)


def test_told_history_is_known_by_its_status() -> None:
    """What was given to the caller and not absorbed yet is told apart from what never was, or is done with."""
    book, known = open_book({A: None})
    assert not book.is_told(A, S1)
    tell(book, A, S1, H1)
    assert (book.is_told(A, S1), book.is_told(A, S2), book.is_told(B, S1)) == (True, False, False)
    known[A] = S1
    book.absorbed(A)
    assert not book.is_told(A, S1)
