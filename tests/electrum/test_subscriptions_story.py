"""One server's book against all interleavings: laws (a) to (g) together end with the newest status absorbed."""

from collections.abc import Iterable

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import UNKNOWN, History, HistoryEntry, Status, status_of
from lightipn.electrum.subscriptions import Changed, Fetch, SubscribeBatch, SubscriptionBook
from tests.builders import txid_of
from tests.electrum.books import H3, A, B


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
            self.book.due(now=self.now)

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
                self.book.due(now=self.now)
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
