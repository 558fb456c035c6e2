"""Books of several servers that share what is known: who is behind keeps a view of its own, and is asked again."""

import pytest

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import UNKNOWN, Status
from lightipn.electrum.subscriptions import DISAGREEMENT_S, STALENESS_S, Changed, Fetch, SubscriptionBook
from tests.electrum.books import H1, H2, H3, S1, S2, S3, A, B, announced, open_book, taken, tell

Known = dict[ScriptHash, Status | None]


def overtaken_book(known: Known, status: Status | None = S1, *, now: float = 10.0) -> SubscriptionBook:
    """Return the book of a server that stood by what was known, when another server's news took its place."""
    before = known[A]
    book, _ = open_book(known)
    known[A] = status
    book.left_behind(A, before, now=now)
    return book


# --- a view of one's own -----------------------------------------------------------------------------------------


def test_server_that_is_behind_is_left_alone() -> None:
    """A server that repeats what it said before another one had news causes no fetch, and no news."""
    book = overtaken_book({A: S3})
    assert book.has_view(A)
    assert book.notified(A, S3, now=11.0) is None
    book.watch(book.sweep(), since=None)
    assert book.answered(taken(book), {A: S3}, now=12.0) == []
    assert book.has_view(A)


def test_view_is_of_one_server() -> None:
    """What one server is behind with concerns neither the shared status nor another server's book."""
    known: Known = {A: S3, B: None}
    quick, _ = open_book(known)
    slow = overtaken_book(known)
    assert known == {A: S1, B: None}
    assert not quick.has_view(A)
    assert not slow.has_view(B)
    assert quick.notified(A, S1, now=11.0) is None
    assert quick.notified(A, S3, now=12.0) == Fetch(A, S3)


@pytest.mark.parametrize("way", ["notice", "answer"])
def test_server_that_catches_up_needs_no_fetch(way: str) -> None:
    """When a server announces what another one did before, its view ends and nothing is fetched: law (c)."""
    book = overtaken_book({A: S3})
    if way == "notice":
        assert book.notified(A, S1, now=11.0) is None
    else:
        book.watch([A], since=None)
        assert book.answered(taken(book), {A: S1}, now=11.0) == []
    assert not book.has_view(A)
    assert book.next_deadline() is None
    assert book.notified(A, S3, now=12.0) == Fetch(A, S3)  # and what it took back would be news


def test_server_behind_that_has_news_is_fetched() -> None:
    """A status that is neither the shared one nor the server's own view is fetched and told."""
    book = overtaken_book({A: S3})
    assert tell(book, A, S2, H2) == Changed(A, S2, H2)


def test_view_is_kept_when_others_move_on() -> None:
    """However often others have news, a server that is behind is compared with what it said itself."""
    known: Known = {A: S3}
    book = overtaken_book(known, S1, now=10.0)
    known[A] = S2
    book.left_behind(A, S1, now=50.0)
    assert book.next_deadline() == 50.0 + DISAGREEMENT_S
    assert book.notified(A, S3, now=51.0) is None
    assert book.notified(A, S1, now=52.0) == Fetch(A, S1)


def test_view_ends_where_others_come_back_to_it() -> None:
    """When the shared status becomes what a server said all the time, it is behind no more."""
    known: Known = {A: S3}
    book = overtaken_book(known, S1)
    known[A] = S3
    book.left_behind(A, S1, now=20.0)
    assert not book.has_view(A)
    assert book.next_deadline() is None


def test_view_that_was_absorbed_is_quiet_for_good() -> None:
    """A server that orders its mempool in another way, or hides something, is heard once, and not asked again."""
    book, _ = open_book({A: S1})
    tell(book, A, S2, H2)
    book.see_differently(A, S2)
    assert book.absorbed(A) is None
    assert book.next_deadline() is None
    assert book.notified(A, S2, now=3.0) is None
    assert book.notified(A, S1, now=4.0) is None
    assert not book.has_view(A)


def test_forgotten_view_makes_the_shared_status_count() -> None:
    """A server without a view is compared with the shared status, whatever it said before."""
    book = overtaken_book({A: S3})
    book.forget_view(A)
    assert book.next_deadline() is None
    assert book.notified(A, S3, now=11.0) == Fetch(A, S3)


def test_view_is_of_what_is_watched_here() -> None:
    """No view is kept of a script that nobody watches, nor of one that is another server's to watch."""
    known: Known = {A: S3, B: S3}
    book = SubscriptionBook(known, now=0.0, is_assigned=lambda scripthash: scripthash == A)
    for scripthash in (B, ScriptHash(bytes(32))):
        book.see_differently(scripthash, S1)
        book.left_behind(scripthash, S1, now=1.0)
        assert not book.has_view(scripthash)
    assert book.next_deadline() is None


def test_unwatched_script_leaves_no_view() -> None:
    """Unwatching forgets the view and its deadline."""
    known: Known = {A: S3}
    book = overtaken_book(known)
    del known[A]
    book.unwatch(A)
    assert (book.has_view(A), book.next_deadline()) == (False, None)
    known[A] = None
    assert book.notified(A, S3, now=11.0) == Fetch(A, S3)


# --- asked again -------------------------------------------------------------------------------------------------


def due_book(known: Known) -> SubscriptionBook:
    """Return the book of a server that has been behind for so long that it is asked again."""
    book = overtaken_book(known, now=10.0)
    assert book.next_deadline() == 10.0 + DISAGREEMENT_S
    assert book.due(now=9.9 + DISAGREEMENT_S) == 0
    assert book.take_subscribes(100) is None
    assert book.due(now=10.0 + DISAGREEMENT_S) == 1
    assert book.next_deadline() is None
    return book


def test_server_that_stays_behind_is_asked_again() -> None:
    """After a minute a server that is behind is asked what it has, and its history is told, to be judged."""
    book = due_book({A: S3})
    batch = taken(book)
    assert (batch.since, batch.scripthashes) == (None, [A])
    (fetch,) = book.answered(batch, {A: S3}, now=71.0)
    assert book.fetched(fetch, H3, now=72.0) == Changed(A, S3, H3)


def test_server_without_any_history_is_asked_again() -> None:
    """A server that has nothing where others have a payment is heard like any other."""
    book = due_book({A: None})
    assert book.answered(taken(book), {A: None}, now=71.0) == [Fetch(A, None, ())]


def test_server_that_was_merely_silent_is_not_told() -> None:
    """A server that lost its notice, and has what the others have, costs one question and no fetch."""
    book = due_book({A: S3})
    assert book.answered(taken(book), {A: S1}, now=71.0) == []
    assert not book.has_view(A)


def test_server_is_asked_again_once() -> None:
    """What was told of a server that is behind is not asked for again and again."""
    book = due_book({A: S3})
    (fetch,) = book.answered(taken(book), {A: S3}, now=71.0)
    assert isinstance(book.fetched(fetch, H3, now=72.0), Changed)
    book.see_differently(A, S3)
    assert book.absorbed(A) is None
    assert book.next_deadline() is None
    book.due(now=1e9)
    assert book.take_subscribes(100) is None


def test_both_deadlines_of_a_script_are_kept() -> None:
    """A server that is behind and whose history fits no status is due for each in its time."""
    book = overtaken_book({A: S3}, now=0.0)
    assert book.fetched(announced(book, A, S2), H3, now=2.0) is None
    assert book.next_deadline() == 2.0 + STALENESS_S
    book.due(now=2.0 + STALENESS_S)
    assert book.next_deadline() == DISAGREEMENT_S


# --- law (c), across servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["fetching", "mismatched", "asked again", "last fetch"])
def test_law_c_another_server_was_quicker(stage: str) -> None:
    """A doubt ends where another server's history of the same status was absorbed first; what comes late is dropped."""
    known: Known = {A: S3}
    book, _ = open_book(known)
    fetch = announced(book, A, S1)
    if stage != "fetching":
        assert book.fetched(fetch, H2, now=2.0) is None
    if stage in ("asked again", "last fetch"):
        book.due(now=2.0 + STALENESS_S)
    if stage == "last fetch":
        (fetch,) = book.answered(taken(book), {A: S1}, now=18.0)
    known[A] = S1
    book.left_behind(A, S3, now=19.0)
    assert not book.has_view(A)
    assert book.next_deadline() is None
    assert book.fetched(fetch, H1, now=20.0) is None
    assert book.fetched(fetch, H2, now=20.0) is None
    assert book.notified(A, S1, now=21.0) is None


def test_law_c_other_doubts_go_on() -> None:
    """A doubt about another status than the one that was absorbed is none of its business."""
    known: Known = {A: S3}
    book, _ = open_book(known)
    fetch = announced(book, A, S2)
    known[A] = S1
    book.left_behind(A, S3, now=2.0)
    assert book.fetched(fetch, H2, now=3.0) == Changed(A, S2, H2)


def test_law_c_spares_what_was_told_already() -> None:
    """What was told is absorbed in its turn, though another server's same history was absorbed before."""
    known: Known = {A: S3}
    book, _ = open_book(known)
    tell(book, A, S1, H1)
    known[A] = S1
    book.left_behind(A, S3, now=2.0)
    assert book.notified(A, S2, now=3.0) is None  # one at a time
    book.forget_view(A)  # the caller has worked it in: it is the shared status
    assert book.absorbed(A) == Fetch(A, S2)


def test_agreement_is_noticed_and_disagreement_left() -> None:
    """``agree`` ends a view that is the shared status, and no other."""
    known: Known = {A: S1, B: S1}
    book, _ = open_book(known)
    book.see_differently(A, S2)
    book.see_differently(B, S2)
    known[A] = S2
    for scripthash in known:
        book.agree(scripthash)
    assert (book.has_view(A), book.has_view(B)) == (False, True)


def test_recheck_of_one_server_is_for_that_server() -> None:
    """A server that is to be asked again is heard whatever it answers, while the shared status stays as it is."""
    known: Known = {A: S1}
    book, _ = open_book(known)
    tell(book, A, S2, H2)
    book.see_differently(A, UNKNOWN)
    assert book.absorbed(A) is None
    book.recheck(A, at=12.0)
    book.due(now=12.0)
    assert book.answered(taken(book), {A: S2}, now=13.0) == [Fetch(A, S2)]
    assert known == {A: S1}
