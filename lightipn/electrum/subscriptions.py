"""The book of one session's subscriptions (sans-IO).

For each scripthash two statuses matter: the one that was *absorbed* and the one this server *announced*. While they
differ there is a *doubt*, and only then does the book hold an object for the scripthash: a hundred thousand quiet
watches are one dictionary of absorbed statuses (``known``), which all sessions share.

Servers may disagree. A server whose last absorbed status is not the shared one has a *view* of its own in this book: it
has yet to announce what another one did, or hides something, or orders its mempool in another way. Once the view is
``DISAGREEMENT_S`` old, it is asked again, and its history handed over: somebody can judge then what it leaves out.

    announce ──► Fetch ──► fetched ──► Changed ──► (verified, committed) ──► absorb
                   ▲          │ does not hash to the status: a race, or a lie
                   └── due ◄──┘ decided at the doubt's one deadline

Laws, each a test:
(a) the answer to a subscribe may be older than a notification that came before it: then it is dropped;
(b) a history that answers an older status is dropped, not judged; the newer status is fetched;
(c) a status equal to the absorbed one ends any doubt;
(d) a doubt has at most one deadline;
(e) a history that does not hash to the announced status is first a race: wait for the next status until the deadline;
    then it may be a lost notice: ask for the status and the history once more, and only then blame the server. The
    same holds for one that contradicts itself: between a block and the refresh of its mempool, ElectrumX lists a
    transaction twice;
(f) a (scripthash, status) is fetched once while nothing contradicts it;
(g) if moving the mempool entries of the last history to the tip gives the announced status, nothing is fetched.
The caller must: send what ``take_subscribes`` gives and hand the answers to ``answered``; fetch every ``Fetch`` it is
given and hand the history to ``fetched``; call ``due`` when ``next_deadline`` has come, and take the subscribes again.
"""

import enum
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import UNKNOWN, History, Status, check_history, status_of
from lightipn.errors import HistoryError

# How long a server may take to announce the status that belongs to a history it already showed. ElectrumX with its
# defaults polls its node every 5 s, and trails a scripthash notice by up to a second.
STALENESS_S = 15.0
# How long a server may take to announce what another one did before it is asked what it has.
DISAGREEMENT_S = 60.0
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
    ASKED_AGAIN = "the deadline has come, and the status is asked for once more"
    LAST_FETCH = "the history is fetched once more, too"
    TOLD = "given to the caller, who has not absorbed it yet"


@dataclass(slots=True)
class _Doubt:
    announced: Status | None
    fetch: Fetch
    stage: _Stage
    deadline: float | None = None


@dataclass(slots=True)
class _View:
    """What was absorbed of this server, where that is not the shared status.

    Args:
        judge_at: when its history is handed over again; infinite once that was done.
    """

    status: Status | None
    judge_at: float


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
        known: scripthash → absorbed status, shared by all books; the keys are what is watched.
        is_assigned: tells whether a scripthash is this server's to watch.
        now: seconds on the caller's monotonic clock.
        begin_at: in [0, 1): where in ``known`` the first load begins. Servers that begin at different places spare each
            other the histories that the others fetched before.
    """

    def __init__(
        self,
        known: Mapping[ScriptHash, Status | None],
        *,
        now: float,
        is_assigned: Callable[[ScriptHash], bool] = lambda _: True,
        begin_at: float = 0.0,
    ) -> None:
        self._known = known
        self._is_assigned = is_assigned
        self._views: dict[ScriptHash, _View] = {}
        self._doubts: dict[ScriptHash, _Doubt] = {}
        self._kept: dict[ScriptHash, History] = {}
        self._waiting: deque[tuple[float | None, deque[ScriptHash]]] = deque()
        self._under_way: list[SubscribeBatch] = []
        self._rechecks: dict[ScriptHash, float] = {}
        self._agenda: list[tuple[float, ScriptHash]] = []  # a heap of all times at which something may be due
        self.quarantined: set[ScriptHash] = set()
        self.tip_height = 0
        mine = deque(scripthash for scripthash in known if is_assigned(scripthash))
        mine.rotate(-int(begin_at * len(mine)))
        if mine:
            self._waiting.append((now, mine))

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
                # It may have been unwatched meanwhile. One that is not assigned is only ever asked as a check.
                if scripthash in self._known and (since is None or self._is_assigned(scripthash)):
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
        if status == self._known[scripthash]:
            self._views.pop(scripthash, None)
        if status == self._absorbed_status(scripthash):  # law (c)
            self._doubts.pop(scripthash, None)
            return None
        if doubt is not None and doubt.stage is _Stage.ASKED_AGAIN:
            doubt.announced, doubt.stage = status, _Stage.LAST_FETCH
            doubt.fetch = Fetch(scripthash, status, () if status is None else None)
            return doubt.fetch
        if doubt is not None:
            is_same = doubt.announced == status
            doubt.announced = status
            if is_same and doubt.stage is _Stage.MISMATCHED:
                return None  # the same status again tells nothing new: the deadline stands (laws d, e)
            if doubt.stage is not _Stage.MISMATCHED:
                return None  # laws (b), (f): decided when the fetch under way, or the absorption, has ended
        return self._fetch(scripthash, status)

    def _absorbed_status(self, scripthash: ScriptHash) -> Status | None:
        """Return what has been absorbed of this server's announcements."""
        view = self._views.get(scripthash)
        return self._known.get(scripthash) if view is None else view.status

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

    def is_quiet(self, scripthash: ScriptHash, status: Status | None) -> bool:
        """Tell whether a status would say nothing new."""
        return status == self._absorbed_status(scripthash)

    def is_told(self, scripthash: ScriptHash, status: Status | None) -> bool:
        """Tell whether the history of this status was given to the caller, who has not absorbed it yet."""
        doubt = self._doubts.get(scripthash)
        return doubt is not None and doubt.stage is _Stage.TOLD and doubt.fetch.status == status

    def is_open(self, fetch: Fetch) -> bool:
        """Tell whether a fetch is still of use: another server may have been quicker with the same history."""
        doubt = self._doubts.get(fetch.scripthash)
        return doubt is not None and doubt.fetch is fetch

    def fetched(self, fetch: Fetch, history: History, *, now: float) -> Changed | Fetch | None:
        """Take the history that answers a fetch.

        Returns:
            ``Changed`` if it belongs to the announced status; another ``Fetch`` if that changed meanwhile; None if
            there is nothing to do now.

        Raises:
            HistoryError: it contradicts itself, or did not hash to its status even after the deadline.
        """
        if not self.is_open(fetch):
            return None  # the doubt has ended, or a later fetch has taken this one's place
        doubt = self._doubts[fetch.scripthash]
        if doubt.announced != fetch.status:  # law (b)
            return self._fetch(fetch.scripthash, doubt.announced)
        flaw = "" if status_of(history) == fetch.status else "history does not hash to the announced status"
        if not flaw:
            try:
                check_history(history)
            except HistoryError as error:
                flaw = str(error)
        if flaw:  # law (e)
            if doubt.stage is _Stage.LAST_FETCH:
                raise HistoryError(flaw)
            doubt.stage = _Stage.MISMATCHED
            doubt.deadline = now + STALENESS_S if doubt.deadline is None else doubt.deadline
            self._schedule(doubt.deadline, fetch.scripthash)
            return None
        doubt.stage, doubt.deadline = _Stage.TOLD, None
        self._keep(fetch.scripthash, history)
        return Changed(fetch.scripthash, fetch.status, history)

    def _keep(self, scripthash: ScriptHash, history: History) -> None:
        if len(history) <= MAX_KEPT_HISTORY and any(entry.height is None for entry in history):
            self._kept[scripthash] = history
        else:
            self._kept.pop(scripthash, None)

    def absorbed(self, scripthash: ScriptHash) -> Fetch | None:
        """Learn that what this server told was worked in, and ``known`` or its view brought up to date."""
        doubt = self._doubts.get(scripthash)
        if doubt is None or doubt.stage is not _Stage.TOLD:
            return None
        if doubt.announced == self._absorbed_status(scripthash):
            del self._doubts[scripthash]
            return None
        if doubt.announced == doubt.fetch.status:
            del self._doubts[scripthash]  # not absorbed, but given up for now: a recheck follows
            return None
        return self._fetch(scripthash, doubt.announced)

    def see_differently(self, scripthash: ScriptHash, status: Status | None, *, judge_at: float = math.inf) -> None:
        """Remember a view of this server's own: ``known`` is, or will be, another server's."""
        if self._is_assigned(scripthash) and scripthash in self._known:
            self._views[scripthash] = _View(status, judge_at)
            if judge_at < math.inf:
                self._schedule(judge_at, scripthash)

    def left_behind(self, scripthash: ScriptHash, before: Status | None, *, now: float) -> None:
        """Learn that another server's announcement replaced ``before`` as the shared status."""
        view = self._views.get(scripthash)
        self.see_differently(scripthash, before if view is None else view.status, judge_at=now + DISAGREEMENT_S)
        self.agree(scripthash)

    def agree(self, scripthash: ScriptHash) -> None:
        """Forget the view, and any doubt, where the shared status has become this server's."""
        view = self._views.get(scripthash)
        if view is not None and view.status == self._known.get(scripthash):
            del self._views[scripthash]
        doubt = self._doubts.get(scripthash)
        if doubt is None or doubt.stage is _Stage.TOLD or doubt.announced != self._known.get(scripthash):
            return
        del self._doubts[scripthash]  # law (c): another server was quicker with the same history
        self._views.pop(scripthash, None)

    def has_view(self, scripthash: ScriptHash) -> bool:
        """Tell whether this server's last absorbed status is not the shared one."""
        return scripthash in self._views

    def forget_view(self, scripthash: ScriptHash) -> None:
        """Take the shared status for what was absorbed of this server."""
        self._views.pop(scripthash, None)

    def quarantine(self, scripthash: ScriptHash) -> None:
        """Set a scripthash aside whose history the server refuses, until a recheck or the next sweep."""
        self._doubts.pop(scripthash, None)
        self.quarantined.add(scripthash)

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a scripthash that ``known`` holds no more."""
        for table in (self._doubts, self._kept, self._rechecks, self._views):
            table.pop(scripthash, None)
        self.quarantined.discard(scripthash)

    def release(self, scripthashes: AbstractSet[ScriptHash]) -> None:
        """Forget scripthashes that another server takes over, also where they still wait for their subscribe."""
        for scripthash in scripthashes:
            self.unwatch(scripthash)
        for _, queue in self._waiting:
            kept = [scripthash for scripthash in queue if scripthash not in scripthashes]
            queue.clear()
            queue.extend(kept)

    # --- time ---

    def recheck(self, scripthash: ScriptHash, *, at: float) -> None:
        """Subscribe a scripthash again at a time, so that its history is fetched whatever was known."""
        if at < self._rechecks.get(scripthash, math.inf):
            self._rechecks[scripthash] = at
            self._schedule(at, scripthash)

    def _schedule(self, at: float, scripthash: ScriptHash) -> None:
        heapq.heappush(self._agenda, (at, scripthash))

    def _is_current(self, at: float, scripthash: ScriptHash) -> bool:
        """Tell whether an entry of the agenda still stands: entries are never taken out before their time."""
        doubt, view = self._doubts.get(scripthash), self._views.get(scripthash)
        return (
            self._rechecks.get(scripthash) == at
            or (doubt is not None and doubt.deadline == at)
            or (view is not None and view.judge_at == at)
        )

    def next_deadline(self) -> float | None:
        """Return when ``due`` has something to do; None if never."""
        while self._agenda and not self._is_current(*self._agenda[0]):
            heapq.heappop(self._agenda)
        return self._agenda[0][0] if self._agenda else None

    def due(self, *, now: float) -> int:
        """Queue what must be asked again now; return in how many cases because other servers say otherwise."""
        ready: dict[ScriptHash, None] = {}
        disagreements = 0
        while self._agenda and self._agenda[0][0] <= now:
            _, scripthash = heapq.heappop(self._agenda)
            if self._rechecks.get(scripthash, math.inf) <= now:
                del self._rechecks[scripthash]
                self._doubts.pop(scripthash, None)
                self.quarantined.discard(scripthash)
                ready[scripthash] = None
            view = self._views.get(scripthash)
            if view is not None and view.judge_at <= now:
                disagreements += 1
                # Whatever it answers now is fetched and handed over, unless it is what the others say.
                view.status, view.judge_at = UNKNOWN, math.inf
                ready[scripthash] = None
            doubt = self._doubts.get(scripthash)
            if doubt is not None and doubt.deadline is not None and doubt.deadline <= now:
                doubt.stage, doubt.deadline = _Stage.ASKED_AGAIN, None
                ready[scripthash] = None
        self.watch((scripthash for scripthash in ready if scripthash in self._known), since=None)
        return disagreements

    def sweep(self) -> list[ScriptHash]:
        """Return all scripthashes of this server, to be subscribed again bit by bit, and lift every quarantine."""
        self.quarantined.clear()
        return [scripthash for scripthash in self._known if self._is_assigned(scripthash)]
