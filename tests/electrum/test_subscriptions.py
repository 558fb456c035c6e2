"""The book of subscriptions: its laws (a) to (g), and their sum: the newest status is always told in the end."""

from collections.abc import Iterable

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import UNKNOWN, History, HistoryEntry, Status, status_of
from lightipn.electrum.subscriptions import STALENESS_S, Changed, Fetch, SubscribeBatch, SubscriptionBook
from lightipn.errors import HistoryError
from tests.builders import txid_of

A, B, C = (ScriptHash(bytes([number]) * 32) for number in (1, 2, 3))
H1: History = (HistoryEntry(txid_of(1), None),)
H2: History = (HistoryEntry(txid_of(1), None), HistoryEntry(txid_of(2), None))
H3: History = (HistoryEntry(txid_of(3), 7),)
S1, S2, S3 = status_of(H1), status_of(H2), status_of(H3)


def open_book(
    known: dict[ScriptHash, Status | None], *, tip_height: int = 7
) -> tuple[SubscriptionBook, dict[ScriptHash, Status | None]]:
    """Return a book whose first subscribes were answered with what is known already."""
    book = SubscriptionBook(known, now=0.0)
    book.tip_height = tip_height
    batch = book.take_subscribes(100)
    if batch is not None:
        assert book.answered(batch, {scripthash: known[scripthash] for scripthash in batch.scripthashes}, now=0.0) == []
    return book, known


def taken(book: SubscriptionBook, limit: int = 100) -> SubscribeBatch:
    """Take a batch of subscribes, which must be there."""
    batch = book.take_subscribes(limit)
    assert batch is not None
    return batch


def announced(book: SubscriptionBook, scripthash: ScriptHash, status: Status | None) -> Fetch:
    """Announce a status that must cause a fetch, and return that."""
    fetch = book.notified(scripthash, status, now=1.0)
    assert fetch is not None
    assert (fetch.scripthash, fetch.status) == (scripthash, status)
    return fetch


def tell(book: SubscriptionBook, scripthash: ScriptHash, status: Status | None, history: History) -> Changed:
    """Announce a status and answer its fetch; return what the caller is given."""
    fetch = announced(book, scripthash, status)
    changed = book.fetched(fetch, history if fetch.history is None else fetch.history, now=1.0)
    assert isinstance(changed, Changed)
    return changed


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


def test_law_d_doubt_has_one_deadline() -> None:
    """Repeating the status of a doubt neither moves its deadline nor adds another, nor fetches again."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    assert book.fetched(fetch, H2, now=2.0) is None
    assert book.next_deadline() == 2.0 + STALENESS_S
    for now in (3.0, 9.0):
        assert book.notified(A, S1, now=now) is None
        assert book.next_deadline() == 2.0 + STALENESS_S
    assert book.due(now=2.0 + STALENESS_S) == [Fetch(A, S1)]
    assert book.next_deadline() is None


def test_law_e_history_ahead_of_its_status_is_a_race() -> None:
    """A history that belongs to a status still to come is a race: when that status comes, it is fetched and told."""
    book, _ = open_book({A: None})
    assert book.fetched(announced(book, A, S1), H2, now=2.0) is None
    newer = announced(book, A, S2)
    assert book.next_deadline() == 2.0 + STALENESS_S  # a status that changes all the time does not move it
    assert book.fetched(newer, H2, now=4.0) == Changed(A, S2, H2)
    assert book.next_deadline() is None


def test_law_e_server_is_not_blamed_before_the_last_fetch() -> None:
    """At the deadline the history is fetched once more; one that matches then is told and nobody is blamed."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    book.fetched(fetch, H2, now=2.0)
    assert book.due(now=1.9 + STALENESS_S) == []
    (last,) = book.due(now=2.0 + STALENESS_S)
    assert book.fetched(last, H1, now=18.0) == Changed(A, S1, H1)


def test_law_e_server_is_blamed_after_the_last_fetch() -> None:
    """A history that still does not hash to its status after the deadline is a ``HistoryError``."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    book.fetched(fetch, H2, now=2.0)
    (last,) = book.due(now=2.0 + STALENESS_S)
    with pytest.raises(HistoryError, match="announced status"):
        book.fetched(last, H2, now=18.0)


def test_law_e_status_that_comes_during_the_last_fetch_saves_the_server() -> None:
    """A newer status that arrives while the last fetch is under way is fetched, and nobody is blamed."""
    book, _ = open_book({A: None})
    fetch = announced(book, A, S1)
    book.fetched(fetch, H2, now=2.0)
    (last,) = book.due(now=2.0 + STALENESS_S)
    assert book.notified(A, S2, now=17.5) is None
    assert book.fetched(last, H2, now=18.0) == Fetch(A, S2)


def test_history_that_contradicts_itself_is_a_lie() -> None:
    """A history that hashes to its status and still contradicts itself is a ``HistoryError`` at once."""
    twice: History = (HistoryEntry(txid_of(1), 5), HistoryEntry(txid_of(1), 6))
    book, _ = open_book({A: None})
    fetch = book.notified(A, status_of(twice), now=1.0)
    assert fetch is not None
    with pytest.raises(HistoryError, match="twice"):
        book.fetched(fetch, twice, now=2.0)


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


# --- recheck, quarantine, unwatch --------------------------------------------------------------------------------


def test_recheck_fetches_whatever_was_known() -> None:
    """A recheck subscribes again when its time has come, and the history is told although its status is the same."""
    book, known = open_book({A: S1})
    known[A] = UNKNOWN
    book.recheck(A, at=10.0)
    assert book.next_deadline() == 10.0
    assert book.due(now=9.0) == []
    assert book.take_subscribes(100) is None
    assert book.due(now=10.0) == []
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


# --- all laws together -------------------------------------------------------------------------------------------


class ModelServer(RuleBasedStateMachine):
    """A server whose announcements, subscribe answers and histories arrive in any order that a link allows.

    Announcements arrive in the order in which they were made. The answers to subscribes and fetches tell what was true
    when the server made them, and arrive at any later time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.histories: dict[ScriptHash, History] = {A: (), B: H3}
        self.known: dict[ScriptHash, Status | None] = dict.fromkeys(self.histories)
        self.book = SubscriptionBook(self.known, now=0.0)
        self.book.tip_height = 7
        self.now = 0.0
        self.announcements: list[tuple[ScriptHash, Status | None]] = []
        self.subscribed: set[ScriptHash] = set()
        self.to_answer: list[SubscribeBatch] = []
        self.answers: list[tuple[SubscribeBatch, dict[ScriptHash, Status | None]]] = []
        self.fetches: list[Fetch] = []
        self.fetched: list[tuple[Fetch, History]] = []
        self.told: list[Changed] = []
        self.contradicted: list[Fetch] = []

    def contradict(self, statuses: Iterable[tuple[ScriptHash, Status | None]]) -> None:
        """Note which fetches under way a status that is known already makes pointless: the same may be sent again."""
        for scripthash, status in statuses:
            if status == self.known[scripthash]:
                under_way = [*self.fetches, *(fetch for fetch, _ in self.fetched)]
                self.contradicted.extend(fetch for fetch in under_way if fetch.scripthash == scripthash)

    def put(self, fetches: Iterable[Fetch | None]) -> None:
        """Send what the book wants fetched; what it knows by itself is handed back at once."""
        for fetch in fetches:
            if fetch is None:
                continue
            if fetch.history is not None:
                self.take(self.book.fetched(fetch, fetch.history, now=self.now))
            else:
                self.fetches.append(fetch)

    def take(self, outcome: Changed | Fetch | None) -> None:
        """Take what the book made of a history."""
        if isinstance(outcome, Changed):
            assert status_of(outcome.history) == outcome.status
            self.told.append(outcome)
        else:
            self.put([outcome])

    def change(self, scripthash: ScriptHash, history: History) -> None:
        """Change a history on the server, which announces it to its subscribers."""
        self.histories[scripthash] = history
        if scripthash in self.subscribed:
            self.announcements.append((scripthash, status_of(history)))

    @rule(scripthash=st.sampled_from([A, B]))
    def pay(self, scripthash: ScriptHash) -> None:
        """A payment enters the mempool, maybe one that it had forgotten, so that an older status comes back."""
        history = self.histories[scripthash]
        self.change(scripthash, (*history, HistoryEntry(txid_of(100 + len(history)), None)))

    @rule(scripthash=st.sampled_from([A, B]))
    def evict(self, scripthash: ScriptHash) -> None:
        """The mempool forgets its last payment."""
        history = self.histories[scripthash]
        if history and history[-1].height is None:
            self.change(scripthash, history[:-1])

    @rule()
    def mine(self) -> None:
        """A block takes all mempools; its header is known before the scripts are announced."""
        self.book.tip_height += 1
        for scripthash, history in self.histories.items():
            mined = tuple(HistoryEntry(entry.txid, entry.height or self.book.tip_height) for entry in history)
            if mined != history:
                self.change(scripthash, mined)

    @precondition(lambda self: self.announcements)
    @rule()
    def deliver_announcement(self) -> None:
        """The oldest announcement arrives."""
        scripthash, status = self.announcements.pop(0)
        self.contradict([(scripthash, status)])
        self.put([self.book.notified(scripthash, status, now=self.now)])

    @rule(limit=st.integers(1, 2))
    def send_subscribes(self, limit: int) -> None:
        """A batch of subscribes is sent."""
        batch = self.book.take_subscribes(limit)
        if batch is not None:
            self.to_answer.append(batch)

    @precondition(lambda self: self.to_answer)
    @rule(data=st.data())
    def answer_subscribes(self, data: st.DataObject) -> None:
        """The server answers a batch as things are now, and may refuse some of it."""
        batch = self.to_answer.pop(0)
        refused = data.draw(st.sets(st.sampled_from(batch.scripthashes), max_size=1))
        statuses = {sh: status_of(self.histories[sh]) for sh in batch.scripthashes if sh not in refused}
        self.subscribed |= statuses.keys()
        self.answers.append((batch, statuses))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def deliver_statuses(self, data: st.DataObject) -> None:
        """An answer to a batch of subscribes arrives."""
        batch, statuses = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
        self.contradict(statuses.items())
        self.put(self.book.answered(batch, statuses, now=self.now))

    @precondition(lambda self: self.fetches)
    @rule(data=st.data())
    def answer_fetch(self, data: st.DataObject) -> None:
        """The server reads a history as it is now."""
        fetch = self.fetches.pop(data.draw(st.integers(0, len(self.fetches) - 1)))
        self.fetched.append((fetch, self.histories[fetch.scripthash]))

    @precondition(lambda self: self.fetched)
    @rule(data=st.data())
    def deliver_history(self, data: st.DataObject) -> None:
        """A history arrives."""
        fetch, history = self.fetched.pop(data.draw(st.integers(0, len(self.fetched) - 1)))
        self.take(self.book.fetched(fetch, history, now=self.now))

    @precondition(lambda self: self.told)
    @rule(is_proved=st.booleans())
    def absorb(self, is_proved: bool) -> None:
        """The caller has worked in what it was told, or could not prove it and asks for it again later."""
        changed = self.told.pop(0)
        self.known[changed.scripthash] = changed.status if is_proved else UNKNOWN
        self.put([self.book.absorbed(changed.scripthash)])
        if not is_proved:
            self.book.recheck(changed.scripthash, at=self.now + 2.0)

    @precondition(lambda self: not self.announcements and not self.fetches and not self.fetched)
    @rule()
    def let_time_pass(self) -> None:
        """The next deadline comes; an honest link has delivered everything by then."""
        deadline = self.book.next_deadline()
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.put(self.book.due(now=self.now))

    @rule()
    def sweep(self) -> None:
        """Every script is asked again."""
        self.book.watch(self.book.sweep(), since=None)

    @invariant()
    def law_f_holds(self) -> None:
        """A (scripthash, status) is never fetched twice at a time while nothing contradicts it."""
        under_way = [
            (fetch.scripthash, fetch.status)
            for fetch in (*self.fetches, *(fetch for fetch, _ in self.fetched))
            if not any(fetch is other for other in self.contradicted)
        ]
        assert len(under_way) == len(set(under_way))

    def teardown(self) -> None:
        """In the end everything arrives, and what was absorbed last is what the server has."""
        for _ in range(1000):
            if self.announcements:
                self.deliver_announcement()
            elif batch := self.book.take_subscribes(2):
                self.to_answer.append(batch)
            elif self.to_answer:
                batch = self.to_answer.pop(0)
                self.subscribed |= set(batch.scripthashes)
                self.answers.append((batch, {sh: status_of(self.histories[sh]) for sh in batch.scripthashes}))
            elif self.answers:
                self.put(self.book.answered(*self.answers.pop(0), now=self.now))
            elif self.fetches:
                fetch = self.fetches.pop(0)
                self.fetched.append((fetch, self.histories[fetch.scripthash]))
            elif self.fetched:
                fetch, history = self.fetched.pop(0)
                self.take(self.book.fetched(fetch, history, now=self.now))
            elif self.told:
                changed = self.told.pop(0)
                self.known[changed.scripthash] = changed.status
                self.put([self.book.absorbed(changed.scripthash)])
            elif (deadline := self.book.next_deadline()) is not None:
                self.now = max(self.now, deadline)
                self.put(self.book.due(now=self.now))
            else:
                break
        else:
            raise AssertionError("the book never comes to rest")
        assert self.known == {scripthash: status_of(history) for scripthash, history in self.histories.items()}


@pytest.mark.slow
class TestAllLaws(ModelServer.TestCase):  # type: ignore[misc]  # made by Hypothesis
    """Any interleaving ends with the newest status absorbed, no honest server blamed, and no double fetch."""

    # A failing story is not shrunk: that takes minutes, and its steps are readable as they are.
    settings = settings(max_examples=100, stateful_step_count=60, deadline=None, phases=[Phase.reuse, Phase.generate])
