"""The book of subscriptions, alone with its server: laws (a) to (g)."""

import pytest

from lightipn.chain.history import UNKNOWN, History, HistoryEntry, Status, status_of
from lightipn.electrum.subscriptions import STALENESS_S, Changed, Fetch, SubscriptionBook
from lightipn.errors import HistoryError
from tests.builders import txid_of
from tests.electrum.books import H1, H2, H3, S1, S2, S3, A, B, announced, open_book, taken, tell

# --- a status that differs is fetched, told and absorbed ---------------------------------------------------------


def test_known_status_fetches_nothing() -> None:
    """A status equal to the absorbed one causes no fetch, so a restart fetches nothing that is unchanged."""
    book = SubscriptionBook({A: S1, B: None}, now=0.0)
    assert book.answered(taken(book), {A: S1, B: None}, now=1.0) == []
    assert book.next_deadline() is None


def test_status_that_differs_is_fetched_and_told() -> None:
    """A status that differs from the absorbed one is fetched, and its history is told with it."""
    book = SubscriptionBook({A: None}, now=0.0)
    (fetch,) = book.answered(taken(book), {A: S1}, now=1.0)
    assert fetch == Fetch(A, S1)
    assert book.fetched(fetch, H1, now=2.0) == Changed(A, S1, H1)


def test_unknown_differs_from_every_status() -> None:
    """A script that must be asked again is told even where its history is empty."""
    book = SubscriptionBook({A: UNKNOWN, B: UNKNOWN}, now=0.0)
    assert book.answered(taken(book), {A: None, B: S1}, now=1.0) == [Fetch(A, None, ()), Fetch(B, S1)]


def test_null_status_needs_no_fetch() -> None:
    """A null status stands for the empty history, which is told without asking for it."""
    book, _ = open_book({A: S1})
    fetch = book.notified(A, None, now=1.0)
    assert fetch == Fetch(A, None, ())
    assert book.fetched(fetch, (), now=1.0) == Changed(A, None, ())


def test_absorption_ends_the_doubt() -> None:
    """Once what was told is absorbed, the same status is quiet and the next one is fetched."""
    book, known = open_book({A: None})
    tell(book, A, S1, H1)
    known[A] = S1
    assert book.absorbed(A) is None
    assert book.notified(A, S1, now=2.0) is None
    assert book.notified(A, S2, now=3.0) == Fetch(A, S2)


def test_status_that_came_before_the_absorption_is_fetched_after_it() -> None:
    """A newer status, announced while the older is being worked in, is fetched once that has ended."""
    book, known = open_book({A: None})
    tell(book, A, S1, H1)
    assert book.notified(A, S2, now=2.0) is None
    known[A] = S1
    assert book.absorbed(A) == Fetch(A, S2)


def test_unwatched_scripts_are_ignored() -> None:
    """A notification about a script that nobody watches means nothing."""
    book, _ = open_book({A: None})
    assert book.notified(B, S1, now=1.0) is None


# --- law (a) -----------------------------------------------------------------------------------------------------


def test_law_a_answer_does_not_overwrite_a_notification() -> None:
    """The answer to a subscribe is dropped where a notification of the same script overtook it."""
    book = SubscriptionBook({A: None, B: None}, now=0.0)
    batch = taken(book)
    fetch = announced(book, A, S2)
    assert book.answered(batch, {A: S1, B: S3}, now=2.0) == [Fetch(B, S3)]
    assert book.fetched(fetch, H2, now=3.0) == Changed(A, S2, H2)


def test_law_a_holds_for_the_batch_under_way_alone() -> None:
    """A notification before a subscribe was sent does not make its answer worthless."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    book.watch([A], since=None)
    assert book.answered(taken(book), {A: S2}, now=2.0) == []
    assert book.fetched(fetch, H1, now=3.0) == Fetch(A, S2)


# --- law (b) -----------------------------------------------------------------------------------------------------


def test_law_b_history_of_an_older_status_is_dropped() -> None:
    """A history that answers an older status is dropped, and the newer status is fetched, whatever the history says."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    assert book.notified(A, S2, now=2.0) is None
    newer = book.fetched(fetch, H3, now=3.0)
    assert newer == Fetch(A, S2)
    assert isinstance(newer, Fetch)
    assert book.fetched(newer, H2, now=4.0) == Changed(A, S2, H2)


def test_law_b_history_that_nobody_waits_for_is_dropped() -> None:
    """A history whose fetch was overtaken by another one is neither told nor judged."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    assert book.notified(A, None, now=2.0) is None  # as known: law (c)
    assert book.fetched(fetch, H3, now=3.0) is None
    assert book.next_deadline() is None


# --- law (c) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_mismatched", [False, True], ids=["fetch under way", "history did not match"])
def test_law_c_known_status_ends_any_doubt(is_mismatched: bool) -> None:
    """A status equal to the absorbed one ends the doubt about another: nothing is told, no deadline stands."""
    book, _ = open_book({A: S3})
    fetch = announced(book, A, S1)
    if is_mismatched:
        assert book.fetched(fetch, H2, now=2.0) is None
    assert book.notified(A, S3, now=3.0) is None
    assert book.next_deadline() is None
    assert book.fetched(fetch, H1, now=4.0) is None


def test_law_c_late_history_does_not_put_an_absorbed_status_in_doubt() -> None:
    """After a status came, went and came again, the slow answer to its first fetch does no harm to the second."""
    book, known = open_book({A: S3})
    first = announced(book, A, S1)
    book.notified(A, S3, now=2.0)  # as known
    second = book.notified(A, S1, now=3.0)
    assert second is None or isinstance(book.fetched(second, H1, now=4.0), Changed)
    book.fetched(first, H3, now=5.0)  # made while S3 was the status again
    known[A] = S1
    book.absorbed(A)
    assert book.next_deadline() is None


# --- laws (d) and (e) --------------------------------------------------------------------------------------------


def mismatched_book() -> SubscriptionBook:
    """Return a book whose server announced S1 and showed H2, at second 2."""
    book, _ = open_book({A: None})
    assert book.fetched(announced(book, A, S1), H2, now=2.0) is None
    return book


def asked_again(book: SubscriptionBook, status: Status | None) -> Fetch:
    """Let the deadline of a doubt come, answer the question that follows, and return the last fetch."""
    book.due(now=2.0 + STALENESS_S)
    (fetch,) = book.answered(taken(book), {A: status}, now=17.5)
    return fetch


def test_law_d_doubt_has_one_deadline() -> None:
    """Repeating the status of a doubt neither moves its deadline nor adds another, nor fetches again."""
    book = mismatched_book()
    assert book.next_deadline() == 2.0 + STALENESS_S
    for now in (3.0, 9.0):
        assert book.notified(A, S1, now=now) is None
        assert book.next_deadline() == 2.0 + STALENESS_S
    book.due(now=2.0 + STALENESS_S)
    assert book.next_deadline() is None


def test_law_e_history_ahead_of_its_status_is_a_race() -> None:
    """A history that belongs to a status still to come is a race: when that status comes, it is fetched and told."""
    book = mismatched_book()
    newer = announced(book, A, S2)
    assert book.next_deadline() == 2.0 + STALENESS_S  # a status that changes all the time does not move it
    assert book.fetched(newer, H2, now=4.0) == Changed(A, S2, H2)
    assert book.next_deadline() is None


def test_law_e_server_is_asked_once_more_at_the_deadline() -> None:
    """Not before the deadline, and then once, status and history are asked for again; what fits is told."""
    book = mismatched_book()
    book.due(now=1.9 + STALENESS_S)
    assert book.take_subscribes(100) is None
    book.due(now=2.0 + STALENESS_S)
    batch = taken(book)
    assert (batch.since, batch.scripthashes) == (None, [A])
    assert book.take_subscribes(100) is None
    (last,) = book.answered(batch, {A: S1}, now=17.5)
    assert last == Fetch(A, S1)
    assert book.fetched(last, H1, now=18.0) == Changed(A, S1, H1)


@pytest.mark.parametrize(("status", "history"), [(S2, H2), (None, ()), (S3, H3)], ids=["shown", "empty", "third"])
def test_law_e_lost_notice_is_no_lie(status: Status | None, history: History) -> None:
    """Where the status asked for at the deadline is another one, its notice was lost: its history is told."""
    book, _ = open_book({A: UNKNOWN})
    assert book.fetched(announced(book, A, S1), H2, now=2.0) is None
    last = asked_again(book, status)
    assert book.fetched(last, history, now=18.0) == Changed(A, status, history)


def test_law_e_status_that_is_known_ends_the_doubt_at_the_deadline() -> None:
    """Where the status asked for at the deadline is the absorbed one, nothing is left of the doubt."""
    book = mismatched_book()
    book.due(now=2.0 + STALENESS_S)
    assert book.answered(taken(book), {A: None}, now=17.5) == []
    assert book.next_deadline() is None


def test_law_e_server_is_blamed_after_the_last_fetch() -> None:
    """A history that still does not hash to the status asked for after the deadline is a ``HistoryError``."""
    book = mismatched_book()
    last = asked_again(book, S1)
    with pytest.raises(HistoryError, match="announced status"):
        book.fetched(last, H2, now=18.0)


def test_law_e_status_that_comes_during_the_last_fetch_saves_the_server() -> None:
    """A newer status that arrives while the last fetch is under way is fetched, and nobody is blamed."""
    book = mismatched_book()
    last = asked_again(book, S1)
    assert book.notified(A, S2, now=17.7) is None
    assert book.fetched(last, H2, now=18.0) == Fetch(A, S2)


def test_law_e_notice_that_overtakes_the_last_question_is_fetched() -> None:
    """A notice that comes while the status is asked for again takes the place of the answer."""
    book = mismatched_book()
    book.due(now=2.0 + STALENESS_S)
    batch = taken(book)
    last = announced(book, A, S2)
    assert book.answered(batch, {A: S1}, now=17.5) == []
    assert book.fetched(last, H2, now=18.0) == Changed(A, S2, H2)


def test_history_that_goes_on_contradicting_itself_is_a_lie() -> None:
    """A history that hashes to its status and contradicts itself is first a race, and a lie when it is asked again."""
    twice: History = (HistoryEntry(txid_of(1), 5), HistoryEntry(txid_of(1), 6))
    book, _ = open_book({A: None})
    fetch = book.notified(A, status_of(twice), now=1.0)
    assert fetch is not None
    assert book.fetched(fetch, twice, now=2.0) is None
    last = asked_again(book, status_of(twice))
    with pytest.raises(HistoryError, match="twice"):
        book.fetched(last, twice, now=18.0)


# --- law (f) -----------------------------------------------------------------------------------------------------


def test_law_f_status_is_fetched_once() -> None:
    """A status announced again while it is fetched, or told and not absorbed yet, is not fetched again."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    assert book.notified(A, S1, now=2.0) is None
    assert isinstance(book.fetched(fetch, H1, now=3.0), Changed)
    assert book.notified(A, S1, now=4.0) is None
    book.watch([A], since=None)
    assert book.answered(taken(book), {A: S1}, now=5.0) == []


def test_law_f_holds_when_a_status_goes_and_comes_back() -> None:
    """A status that returns while its first fetch is under way needs no second one."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    assert book.notified(A, S2, now=2.0) is None
    assert book.notified(A, S1, now=3.0) is None
    assert book.fetched(fetch, H1, now=4.0) == Changed(A, S1, H1)


# --- law (g) -----------------------------------------------------------------------------------------------------

CHILD: History = (HistoryEntry(txid_of(1), None), HistoryEntry(txid_of(2), None, has_unconfirmed_parent=True))


@pytest.mark.parametrize("before", [H1, CHILD, (HistoryEntry(txid_of(9), 4), *H1)], ids=["one", "child", "with past"])
def test_law_g_confirmation_in_the_tip_needs_no_fetch(before: History) -> None:
    """Where moving the mempool entries to the tip gives the announced status, that history is told without asking."""
    after = tuple(HistoryEntry(entry.txid, entry.height or 8) for entry in before)
    book, known = open_book({A: None})
    tell(book, A, status_of(before), before)
    known[A] = status_of(before)
    book.absorbed(A)
    book.tip_height = 8
    fetch = book.notified(A, status_of(after), now=9.0)
    assert fetch == Fetch(A, status_of(after), after)
    assert book.fetched(fetch, after, now=9.0) == Changed(A, status_of(after), after)


def test_law_g_other_changes_are_fetched() -> None:
    """A status that the guess does not give is fetched: a block not at the tip, or one more payment."""
    for after in [(HistoryEntry(txid_of(1), 7),), H2]:
        book, known = open_book({A: None})
        tell(book, A, S1, H1)
        known[A] = S1
        book.absorbed(A)
        book.tip_height = 8
        assert book.notified(A, status_of(after), now=9.0) == Fetch(A, status_of(after))


def test_law_g_confirmed_history_is_not_kept() -> None:
    """A history without mempool entries, or a long one, is not kept: each further status is fetched."""
    long: History = tuple(HistoryEntry(txid_of(number), None) for number in range(51))
    for before in [H3, long]:
        book, known = open_book({A: None})
        tell(book, A, status_of(before), before)
        known[A] = status_of(before)
        book.absorbed(A)
        book.tip_height = 8
        after = tuple(HistoryEntry(entry.txid, 8) for entry in before)
        assert book.notified(A, status_of(after), now=9.0) == Fetch(A, status_of(after))
