"""Two or three servers that share what is known, against all interleavings of what each says and when it says it.

The books and ``ElectrumSource`` are the real ones; links, clock and the spine behind the source are made up here.
"""

from collections.abc import Iterable

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.chain.history import History, HistoryEntry, Status, status_of
from lightipn.electrum.source import ElectrumSource
from lightipn.electrum.subscriptions import Changed, Fetch, SubscribeBatch, SubscriptionBook
from tests.builders import txid_of
from tests.electrum.books import H3, A, B

NAMES = ("x", "y", "z")
FIRST: dict[ScriptHash, History] = {A: (), B: H3}
RECHECK_S = 2.0


class ModelLink:
    """A server, the link to it, and its book: it stands where the source expects a ``Serving``.

    Announcements arrive in the order in which they were made; answers tell what the server had when it made them, and
    arrive at any later time.
    """

    def __init__(self, name: str, source: ElectrumSource, histories: dict[ScriptHash, History], tip: int) -> None:
        self.name = name
        self.histories = dict(histories)
        self.book = SubscriptionBook(source._known, now=trio.current_time())
        self.book.tip_height = tip
        self.announcements: list[tuple[ScriptHash, Status | None]] = []
        self.subscribed: set[ScriptHash] = set()
        self.to_answer: list[SubscribeBatch] = []
        self.answers: list[tuple[SubscribeBatch, dict[ScriptHash, Status | None]]] = []
        self.fetches: list[Fetch] = []
        self.fetched: list[tuple[Fetch, History]] = []
        self.told: list[Changed] = []
        self.said: dict[ScriptHash, Status | None] = {}
        self.asked: dict[ScriptHash, set[Status | None]] = {scripthash: set() for scripthash in FIRST}
        self.is_confused = False  # what an older link to the server told is still to be worked in
        self._known = source._known

    # --- what the source does with it ---

    def is_assigned(self, _scripthash: ScriptHash) -> bool:
        """Tell that every server watches all."""
        return True

    def ring(self) -> None:
        """Nobody sleeps here."""

    def settle(self, scripthash: ScriptHash) -> None:
        """Nobody waits here."""

    def put(self, fetch: Fetch | None) -> None:
        """Send a fetch; what the book knows by itself is handed back at once."""
        if fetch is None:
            return
        if fetch.history is not None:
            self.take(self.book.fetched(fetch, fetch.history, now=trio.current_time()))
            return
        # Law (f): what was fetched of this server is not fetched again, unless something speaks against it.
        assert self.is_confused or fetch.status not in self.asked[fetch.scripthash]
        self.asked[fetch.scripthash].add(fetch.status)
        self.fetches.append(fetch)

    def take(self, outcome: Changed | Fetch | None) -> None:
        """Take what the book made of a history."""
        if isinstance(outcome, Changed):
            assert status_of(outcome.history) == outcome.status
            self.told.append(outcome)
        else:
            self.put(outcome)

    # --- what happens on it ---

    @property
    def is_idle(self) -> bool:
        """Whether all that was sent has arrived."""
        return not (self.announcements or self.to_answer or self.answers or self.fetches or self.fetched)

    def catch_up(self, scripthash: ScriptHash, history: History, tip: int) -> None:
        """Have the server see the newest history, skipping what came between; it announces it to its subscriber."""
        self.book.tip_height = tip
        if history != self.histories[scripthash]:
            self.histories[scripthash] = history
            if scripthash in self.subscribed:
                self.announcements.append((scripthash, status_of(history)))

    def hear(self, scripthash: ScriptHash, status: Status | None) -> None:
        """Note that a status arrives: one that differs from the last, or is known already, excuses a new fetch."""
        if self.said.get(scripthash, status) != status or status == self._known[scripthash]:
            self.asked[scripthash].clear()
        self.said[scripthash] = status

    def step(self, choice: int) -> bool:
        """Let one thing happen on the link, if there is anything to happen; which, is the caller's choice."""
        steps = [
            (self.announcements, self._deliver_announcement),
            (self.to_answer, self._answer_subscribes),
            (self.answers, self._deliver_statuses),
            (self.fetches, self._answer_fetch),
            (self.fetched, self._deliver_history),
        ]
        possible = [do for things, do in steps if things]
        if batch := self.book.take_subscribes(1 + choice % 2):
            self.to_answer.append(batch)
        elif possible:
            possible[choice % len(possible)]()
        else:
            return False
        return True

    def _deliver_announcement(self) -> None:
        scripthash, status = self.announcements.pop(0)
        self.hear(scripthash, status)
        self.put(self.book.notified(scripthash, status, now=trio.current_time()))

    def _answer_subscribes(self) -> None:
        batch = self.to_answer.pop(0)
        self.subscribed.update(batch.scripthashes)
        self.answers.append((batch, {sh: status_of(self.histories[sh]) for sh in batch.scripthashes}))

    def _deliver_statuses(self) -> None:
        batch, statuses = self.answers.pop(0)
        for scripthash, status in statuses.items():
            if scripthash not in batch.overtaken:
                self.hear(scripthash, status)
        for fetch in self.book.answered(batch, statuses, now=trio.current_time()):
            self.put(fetch)

    def _answer_fetch(self) -> None:
        fetch = self.fetches.pop(0)
        self.fetched.append((fetch, self.histories[fetch.scripthash]))

    def _deliver_history(self) -> None:
        fetch, history = self.fetched.pop()
        self.take(self.book.fetched(fetch, history, now=trio.current_time()))


class Sharing(RuleBasedStateMachine):
    """A chain, servers that learn of it one by one, and a spine that works in what they tell."""

    clock: trio.testing.MockClock  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.truth: dict[ScriptHash, History] = dict(FIRST)
        self.tip = 7
        self.serial = 0
        self.source = ElectrumSource(NoPool(), redundancy=3, sweep_interval_s=600.0)  # type: ignore[arg-type]  # unused
        self.source.watch_all([(scripthash, None) for scripthash in FIRST])
        self.ledger: dict[ScriptHash, dict[Txid, int | None]] = {scripthash: {} for scripthash in FIRST}
        self.told: list[tuple[str, Changed]] = []
        self.needs_sweep = False  # something was told over a link that broke before it was worked in

    @property
    def links(self) -> dict[str, ModelLink]:
        """The links that are open."""
        return self.source._servings  # type: ignore[return-value]  # they stand for servings

    @initialize(count=st.integers(2, 3))
    def connect(self, count: int) -> None:
        """Open the links to all servers."""
        self.names = NAMES[:count]
        for name in self.names:
            self.open(name, dict(FIRST))

    def open(self, name: str, histories: dict[ScriptHash, History]) -> None:
        """Open a link."""
        self.links[name] = ModelLink(name, self.source, histories, self.tip)

    def collect(self) -> None:
        """Hand the spine what the links have told."""
        for name, link in self.links.items():
            self.told.extend((name, changed) for changed in link.told)
            link.told.clear()

    # --- the chain and the servers ---

    @rule(
        kind=st.sampled_from(["pay", "pay", "evict", "evict", "mine", "nothing"]),
        scripthash=st.sampled_from([A, A, B]),
        learning=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), max_size=3),
        choice=st.integers(0, 9),
    )
    def change(self, kind: str, scripthash: ScriptHash, learning: list[tuple[int, int]], choice: int) -> None:
        """Something happens to the chain, and some servers learn of it, or of what they missed before."""
        getattr(self, kind)(scripthash)
        for place, steps in learning:
            name = self.names[place % len(self.names)]
            self.links[name].catch_up(scripthash, self.truth[scripthash], self.tip)
            self.happen(place, [choice] * steps)

    def pay(self, scripthash: ScriptHash) -> None:
        """A payment enters the mempool."""
        self.serial += 1
        self.truth[scripthash] = (*self.truth[scripthash], HistoryEntry(txid_of(100 + self.serial), None))

    def evict(self, scripthash: ScriptHash) -> None:
        """The mempool forgets its last payment, so that an older status comes back."""
        history = self.truth[scripthash]
        if history and history[-1].height is None:
            self.truth[scripthash] = history[:-1]

    def mine(self, _scripthash: ScriptHash) -> None:
        """A block takes all mempools."""
        self.tip += 1
        for scripthash, history in self.truth.items():
            self.truth[scripthash] = tuple(HistoryEntry(entry.txid, entry.height or self.tip) for entry in history)

    def nothing(self, _scripthash: ScriptHash) -> None:
        """A quiet day."""

    def happen(self, place: int, choices: list[int]) -> None:
        """Let things happen on a link, as long as there are any."""
        for choice in choices:
            self.links[self.names[place % len(self.names)]].step(choice)
        self.collect()

    def settle(self) -> None:
        """All that is under way arrives, everywhere; what was told is not worked in yet."""
        for link in self.links.values():
            while link.step(0):
                pass
        self.collect()

    @rule(place=st.integers(0, 2))
    def reconnect(self, place: int) -> None:
        """A link breaks, and a new one starts with an empty book; what was told before is still worked in."""
        name = self.names[place % len(self.names)]
        self.collect()
        is_confused = any(told == name for told, _ in self.told)
        self.needs_sweep |= is_confused
        self.open(name, self.links[name].histories)
        self.links[name].is_confused = is_confused

    @rule(place=st.integers(0, 2))
    def sweep(self, place: int) -> None:
        """A server is asked everything again."""
        book = self.links[self.names[place % len(self.names)]].book
        book.watch(book.sweep(), since=None)

    @precondition(lambda self: all(link.is_idle for link in self.links.values()) and not self.told)
    @rule()
    def let_time_pass(self) -> None:
        """The next deadline comes; honest links have delivered everything by then."""
        deadlines = [link.book.next_deadline() for link in self.links.values()]
        times = [deadline for deadline in deadlines if deadline is not None]
        if times:
            self.clock.jump(max(0.0, min(times) - trio.current_time()))
        for link in self.links.values():
            if (link.book.next_deadline() or 1e9) <= trio.current_time():
                for asked in link.asked.values():
                    asked.clear()
            link.book.due(now=trio.current_time())

    # --- the spine ---

    @rule(choices=st.lists(st.integers(0, 19), min_size=1, max_size=6))
    def absorb(self, choices: list[int]) -> None:
        """All arrives, and the spine works in what servers told; what cannot be proved is asked for again."""
        self.settle()
        for choice in choices[: len(self.told)]:
            name, changed = self.told.pop(choice % len(self.told))
            self.work_in(name, changed, is_proved=choice != 0)
        self.collect()

    def work_in(self, name: str, changed: Changed, *, is_proved: bool) -> None:
        """Do what the spine does with a history."""
        entries = self.ledger[changed.scripthash]
        listed = {entry.txid: entry.height for entry in changed.history}
        hides = any(height is not None and txid not in listed for txid, height in entries.items())
        if hides or not is_proved:
            self.links[name].asked[changed.scripthash].clear()
            self.source.recheck(changed.scripthash, after_s=RECHECK_S, server=name)
            return
        news = {
            txid: height
            for txid, height in listed.items()
            if txid not in entries or (height is not None and entries[txid] is None)
        }
        is_news = bool(news) or not entries
        entries.update(news)
        self.source.absorbed(changed.scripthash, changed.status, server=name, is_news=is_news)

    # --- laws ---

    def teardown(self) -> None:
        """In the end every server knows the truth, and so does what they share; no doubt and no view is left.

        At the latest the next sweep mends what a link that broke had told in vain.
        """
        if not hasattr(self, "names"):
            return
        for link in self.links.values():
            for scripthash, history in self.truth.items():
                link.catch_up(scripthash, history, self.tip)
        self.finish()
        if self.needs_sweep:
            for link in self.links.values():
                link.book.watch(link.book.sweep(), since=None)
            self.finish()
        assert self.source._known == {scripthash: status_of(history) for scripthash, history in self.truth.items()}
        views = [(name, sh) for name, link in self.links.items() for sh in FIRST if link.book.has_view(sh)]
        assert views == []

    def finish(self) -> None:
        """Let everything happen that is still to happen."""
        for _ in range(5000):
            if not self.finish_one_thing():
                return
        raise AssertionError("the books never come to rest")

    def finish_one_thing(self) -> bool:
        """Let one thing happen that is still to happen; False if there is none."""
        if any(link.step(0) for link in self.links.values()):
            self.collect()
        elif self.told:
            self.work_in(*self.told.pop(0), is_proved=True)
            self.collect()
        elif any(link.book.next_deadline() is not None for link in self.links.values()):
            self.let_time_pass()
        else:
            return False
        return True


class NoPool:
    """Stands where a pool would; nothing here connects."""

    changed: Iterable[None] = ()


@pytest.mark.slow
async def test_servers_that_share_agree_in_the_end(mock_clock: trio.testing.MockClock) -> None:
    """Servers may speak in any order, be behind, reconnect, and fail to prove what they say: the truth is shared."""
    machine = type("Story", (Sharing,), {"clock": mock_clock})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=60,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
