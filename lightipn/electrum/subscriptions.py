"""The book of one session's subscriptions (sans-IO).

For each scripthash two statuses matter: the one that was *absorbed* (``known``, shared by all sessions, kept by the
source) and the one this server *announced*. While they differ there is a *doubt*, and only then does the book hold an
object for the scripthash: a hundred thousand quiet watches are one dictionary of statuses.

    announce ──► Fetch ──► fetched ──► Changed ──► (verified, committed) ──► absorb
                   ▲          │ does not hash to the status: a race, or a lie
                   └── due ◄──┘ decided at the doubt's one deadline

Laws, each a test:
(a) the answer to a subscribe may be older than a notification that came before it: then it is dropped;
(b) a history that answers an older status is dropped, not judged; the newer status is fetched;
(c) a status equal to the absorbed one ends any doubt;
(d) a doubt has at most one deadline;
(e) a history that does not hash to the announced status is first a race: wait for the next status until the deadline,
    fetch once more, and only then blame the server;
(f) a (scripthash, status) is fetched once while nothing contradicts it;
(g) if moving the mempool entries of the last history to the tip gives the announced status, nothing is fetched.
The caller must: send what ``take_subscribes`` gives and hand the answers to ``answered``; fetch every ``Fetch`` it is
given and hand the history to ``fetched``; call ``due`` when ``next_deadline`` has come.
"""

import enum
from collections import deque
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import History, Status, check_history, status_of
from lightipn.errors import HistoryError

# How long a server may take to announce the status that belongs to a history it already showed. ElectrumX with its
# defaults polls its node every 5 s, and trails a scripthash notice by up to a second.
STALENESS_S = 15.0
# Histories with mempool entries are kept for law (g); more than this many entries are not worth their memory.
MAX_KEPT_HISTORY = 50


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get the history of a scripthash; ``history`` is set where it is known without asking."""

    scripthash: ScriptHash
    status: Status | None
    history: History | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A history that hashes to the announced status, which differs from the absorbed one."""

    scripthash: ScriptHash
    status: Status | None
    history: History


class _Stage(enum.Enum):
    FETCHING = "a fetch for the announced status is under way"
    MISMATCHED = "the history did not hash to the status; waiting for the next one"
    LAST_FETCH = "the deadline has come, and the history is fetched once more"
    TOLD = "given to the caller, who has not absorbed it yet"


@dataclass(slots=True)
class _Doubt:
    announced: Status | None
    fetch: Fetch
    stage: _Stage
    deadline: float | None = None


@dataclass(slots=True, eq=False)
class SubscribeBatch:
    """Scripthashes to subscribe together.

    Args:
        since: from when on they have been without a subscription; None where they merely are asked again.
        overtaken: those that were notified while the answer was under way (law a).
    """

    since: float | None
    scripthashes: list[ScriptHash]
    overtaken: set[ScriptHash] = field(default_factory=set)


class SubscriptionBook:
    """One session's book.

    Args:
        known: scripthash → absorbed status, shared with the source; the keys are what is watched.
        now: seconds on the caller's monotonic clock.
    """

    def __init__(self, known: MutableMapping[ScriptHash, Status | None], *, now: float) -> None:
        self._known = known
        self._doubts: dict[ScriptHash, _Doubt] = {}
        self._kept: dict[ScriptHash, History] = {}
        self._waiting: deque[tuple[float | None, deque[ScriptHash]]] = deque()
        self._under_way: list[SubscribeBatch] = []
        self._rechecks: dict[ScriptHash, float] = {}
        self.quarantined: set[ScriptHash] = set()
        self.tip_height = 0
        if known:
            self._waiting.append((now, deque(known)))

    # --- subscribing ---

    def watch(self, scripthashes: Iterable[ScriptHash], *, since: float | None) -> None:
        """Queue scripthashes for a subscribe; ``since`` is None for those that merely are asked again."""
        fresh = deque(scripthashes)
        if fresh and since is None:
            self._waiting.append((since, fresh))
        elif fresh:
            self._waiting.appendleft((since, fresh))  # a new watch goes before a sweep, and before a long first load

    def take_subscribes(self, limit: int) -> SubscribeBatch | None:
        """Return the next scripthashes to subscribe, or None if none wait."""
        taken: dict[ScriptHash, None] = {}
        oldest: float | None = None
        while self._waiting and len(taken) < limit:
            since, queue = self._waiting[0]
            while queue and len(taken) < limit:
                scripthash = queue.popleft()
                if scripthash in self._known:  # it may have been unwatched meanwhile
                    taken[scripthash] = None
                    oldest = since if oldest is None else min(oldest, since if since is not None else oldest)
            if not queue:
                self._waiting.popleft()
        if not taken:
            return None
        batch = SubscribeBatch(oldest, list(taken))
        self._under_way.append(batch)
        return batch

    def answered(
        self, batch: SubscribeBatch, statuses: Mapping[ScriptHash, Status | None], *, now: float
    ) -> list[Fetch]:
        """Take the statuses that answer a batch; what is left out and not quarantined is queued again."""
        self._under_way.remove(batch)
        left = [sh for sh in batch.scripthashes if sh not in statuses and sh not in self.quarantined]
        self.watch(left, since=batch.since)
        fetches = []
        for scripthash, status in statuses.items():
            if scripthash not in batch.overtaken:  # law (a)
                fetch = self._announce(scripthash, status, now=now)
                if fetch is not None:
                    fetches.append(fetch)
        return fetches

    def unsubscribed_count(self) -> int:
        """Return how many scripthashes this server has not acknowledged yet."""
        waiting = sum(len(queue) for since, queue in self._waiting if since is not None)
        return waiting + sum(len(batch.scripthashes) for batch in self._under_way if batch.since is not None)

    def oldest_gap_since(self) -> float | None:
        """Return since when the longest-waiting scripthash has been without a subscription; None if none waits."""
        waits = [since for since, _ in self._waiting] + [batch.since for batch in self._under_way]
        return min((since for since in waits if since is not None), default=None)

    # --- statuses and histories ---

    def notified(self, scripthash: ScriptHash, status: Status | None, *, now: float) -> Fetch | None:
        """Take a status that the server pushed."""
        for batch in self._under_way:
            if scripthash in batch.scripthashes:
                batch.overtaken.add(scripthash)
        return self._announce(scripthash, status, now=now)

    def _announce(self, scripthash: ScriptHash, status: Status | None, *, now: float) -> Fetch | None:
        if scripthash not in self._known or scripthash in self.quarantined:
            return None
        doubt = self._doubts.get(scripthash)
        if doubt is not None and doubt.stage is _Stage.TOLD:
            doubt.announced = status  # decided when the caller has absorbed what it was told
            return None
        if status == self._known[scripthash]:  # law (c)
            self._doubts.pop(scripthash, None)
            return None
        if doubt is not None:
            is_same = doubt.announced == status
            doubt.announced = status
            if is_same and doubt.stage is _Stage.MISMATCHED:
                return None  # the same status again tells nothing new: the deadline stands (laws d, e)
            if doubt.stage is not _Stage.MISMATCHED:
                return None  # laws (b), (f): decided when the fetch under way, or the absorption, has ended
        return self._fetch(scripthash, status)

    def _fetch(self, scripthash: ScriptHash, status: Status | None) -> Fetch:
        history = () if status is None else self._moved_to_tip(scripthash, status)
        fetch = Fetch(scripthash, status, history)
        before = self._doubts.get(scripthash)
        # Law (d): a server that keeps changing its mind does not move the deadline.
        deadline = before.deadline if before is not None else None
        self._doubts[scripthash] = _Doubt(announced=status, fetch=fetch, stage=_Stage.FETCHING, deadline=deadline)
        return fetch

    def _moved_to_tip(self, scripthash: ScriptHash, status: Status) -> History | None:
        """Guess the history after a block: law (g)."""
        kept = self._kept.get(scripthash)
        if kept is None:
            return None
        guess = tuple(
            entry if entry.height is not None else replace(entry, height=self.tip_height, has_unconfirmed_parent=False)
            for entry in kept
        )
        return guess if status_of(guess) == status else None

    def fetched(self, fetch: Fetch, history: History, *, now: float) -> Changed | Fetch | None:
        """Take the history that answers a fetch.

        Returns:
            ``Changed`` if it belongs to the announced status; another ``Fetch`` if that changed meanwhile; None if
            there is nothing to do now.

        Raises:
            HistoryError: it contradicts itself, or did not hash to its status even after the deadline.
        """
        doubt = self._doubts.get(fetch.scripthash)
        if doubt is None or doubt.fetch is not fetch:
            return None  # the doubt has ended, or a later fetch has taken this one's place
        if doubt.announced != fetch.status:  # law (b)
            return self._fetch(fetch.scripthash, doubt.announced)
        if status_of(history) != fetch.status:  # law (e)
            if doubt.stage is _Stage.LAST_FETCH:
                raise HistoryError("history does not hash to the announced status")
            doubt.stage = _Stage.MISMATCHED
            doubt.deadline = now + STALENESS_S if doubt.deadline is None else doubt.deadline
            return None
        check_history(history)
        doubt.stage, doubt.deadline = _Stage.TOLD, None
        self._keep(fetch.scripthash, history)
        return Changed(fetch.scripthash, fetch.status, history)

    def _keep(self, scripthash: ScriptHash, history: History) -> None:
        if len(history) <= MAX_KEPT_HISTORY and any(entry.height is None for entry in history):
            self._kept[scripthash] = history
        else:
            self._kept.pop(scripthash, None)

    def absorbed(self, scripthash: ScriptHash) -> Fetch | None:
        """Learn that ``known`` was brought up to date for a scripthash."""
        doubt = self._doubts.get(scripthash)
        if doubt is None or doubt.stage is not _Stage.TOLD:
            return None
        if doubt.announced == self._known.get(scripthash):
            del self._doubts[scripthash]
            return None
        if doubt.announced == doubt.fetch.status:
            del self._doubts[scripthash]  # not absorbed, but given up for now: a recheck follows
            return None
        return self._fetch(scripthash, doubt.announced)

    def quarantine(self, scripthash: ScriptHash) -> None:
        """Set a scripthash aside whose history the server refuses, until a recheck or the next sweep."""
        self._doubts.pop(scripthash, None)
        self.quarantined.add(scripthash)

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a scripthash that ``known`` holds no more."""
        for table in (self._doubts, self._kept, self._rechecks):
            table.pop(scripthash, None)
        self.quarantined.discard(scripthash)

    # --- time ---

    def recheck(self, scripthash: ScriptHash, *, at: float) -> None:
        """Subscribe a scripthash again at a time, so that its history is fetched whatever was known."""
        self._rechecks[scripthash] = min(at, self._rechecks.get(scripthash, at))

    def next_deadline(self) -> float | None:
        """Return when ``due`` has something to do; None if never."""
        times = [doubt.deadline for doubt in self._doubts.values() if doubt.deadline is not None]
        return min([*times, *self._rechecks.values()], default=None)

    def due(self, *, now: float) -> list[Fetch]:
        """Return the last fetches of doubts whose deadline has come, and queue the rechecks that are due."""
        ready = [scripthash for scripthash, at in self._rechecks.items() if at <= now]
        for scripthash in ready:
            del self._rechecks[scripthash]
            self._doubts.pop(scripthash, None)
            self.quarantined.discard(scripthash)
        self.watch((scripthash for scripthash in ready if scripthash in self._known), since=None)
        fetches = []
        for scripthash, doubt in self._doubts.items():
            if doubt.deadline is not None and doubt.deadline <= now:
                doubt.fetch = Fetch(scripthash, doubt.announced)
                doubt.stage, doubt.deadline = _Stage.LAST_FETCH, None
                fetches.append(doubt.fetch)
        return fetches

    def sweep(self) -> list[ScriptHash]:
        """Return all watched scripthashes, to be subscribed again bit by bit, and lift every quarantine."""
        self.quarantined.clear()
        return list(self._known)
