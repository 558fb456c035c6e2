"""One session in use: its book, and the loops that keep both equal.

One task subscribes what waits, workers fetch what changed, one task watches deadlines, one sweeps: each is a loop of
*ask the book what it needs, fetch it, give it back*.
"""

import math
import zlib
from collections import deque
from collections.abc import Callable, Mapping

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash, hex_of
from lightipn.chain.history import Status
from lightipn.chain.source import Misbehaviour, ScriptHashChanged, TipChanged, Update
from lightipn.electrum import methods
from lightipn.electrum.protocol import Answer, Call, Notification, Refusal
from lightipn.electrum.session import Session
from lightipn.electrum.subscriptions import Changed, Fetch, SubscribeBatch, SubscriptionBook
from lightipn.electrum.window import MAX_BATCH, MAX_IN_FLIGHT
from lightipn.errors import SourceError, SourceRefusedError, SourceUnavailableError

FETCH_WORKERS = 32
PUSH_OUT_PAUSES_S = (0.0, 0.03, 0.1, 0.3)
REFUSED_SUBSCRIBE_PAUSE_S = 5.0
MOST_REFUSED_BATCHES = 20
REFUSED_HISTORY_PAUSE_S = 60.0
# Errors that speak of the server's state and not of what was asked: excessive use and busy (ElectrumX), flood and
# limits (Fulcrum), index not available yet (electrs). Any other refusal concerns that one script.
SERVER_TROUBLE_CODES = frozenset({-101, -102, 3, 4, -32603})

log = structlog.get_logger("electrum")


class Serving:
    """A session with its book; ``run`` must be running for it to deliver.

    Args:
        known: scripthash → absorbed status; shared by all servers, and owned by the source.
        is_assigned: tells whether a scripthash is this server's to watch.
        updates: where news goes.
        note: keeps what servers disagree about.
        gap_since: from when on the watches have been without a server.
    """

    def __init__(
        self,
        session: Session,
        known: Mapping[ScriptHash, Status | None],
        *,
        is_assigned: Callable[[ScriptHash], bool],
        updates: trio.MemorySendChannel[Update],
        tell_changed: Callable[[], None],
        note: Callable[[Misbehaviour], None],
        gap_since: float,
        sweep_interval_s: float,
    ) -> None:
        self.session = session
        self.name = session.name
        self.is_assigned = is_assigned
        begin_at = zlib.crc32(session.name.encode()) / (1 << 32)
        self.book = SubscriptionBook(known, now=gap_since, is_assigned=is_assigned, begin_at=begin_at)
        self.book.tip_height = session.tip_height
        self._known = known
        self._updates = updates
        self._tell_changed = tell_changed
        self._note = note
        self._sweep_interval_s = sweep_interval_s
        self._fetches, self._to_fetch = trio.open_memory_channel[Fetch](math.inf)  # at most one a scripthash waits
        self._started_at: float | None = trio.current_time()  # None once all watches were subscribed
        self._subscribed = 0
        self._refused_batches = 0
        self._told: dict[ScriptHash, trio.Event] = {}
        self._to_unsubscribe: deque[ScriptHash] = deque()
        self._tip_bell = trio.Event()
        self._unsubscribe_bell = trio.Event()
        self._subscribe_bell = trio.Event()
        self._deadline_bell = trio.Event()
        session.take_notifications(self._take)

    async def run(self) -> None:
        """Serve until the session ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_tip)
            nursery.start_soon(self._subscribe)
            nursery.start_soon(self._unsubscribe)
            nursery.start_soon(self._watch_deadlines)
            nursery.start_soon(self._sweep)
            for _ in range(FETCH_WORKERS):
                nursery.start_soon(self._fetch)

    # --- what the source tells ---

    def put(self, fetch: Fetch | None) -> None:
        """Have a history fetched, where there is one to fetch."""
        if fetch is not None:
            self._fetches.send_nowait(fetch)

    def settle(self, scripthash: ScriptHash) -> None:
        """Say that what this server told of a scripthash has been dealt with."""
        told = self._told.pop(scripthash, None)
        if told is not None:
            told.set()

    def ring(self) -> None:
        """Say that the book has something new to do."""
        self._subscribe_bell.set()
        self._deadline_bell.set()

    def unsubscribe(self, scripthash: ScriptHash) -> None:
        """Have the server forget a scripthash."""
        self._to_unsubscribe.append(scripthash)
        self._unsubscribe_bell.set()

    # --- what the server tells ---

    def _take(self, notification: Notification) -> None:
        """Write a notification into the book."""
        if notification.method == "blockchain.headers.subscribe":
            self.book.tip_height = self.session.tip_height
            self._tip_bell.set()
            self._tell_changed()
        elif notification.method == "blockchain.scripthash.subscribe":
            scripthash, status = methods.decode_status_notification(notification.params)
            self.put(self.book.notified(scripthash, status, now=trio.current_time()))
            self._deadline_bell.set()

    async def _tell_tip(self) -> None:
        while True:
            self._tip_bell = trio.Event()
            await self._updates.send(
                TipChanged(server=self.session.name, height=self.session.tip_height, raw_header=self.session.tip_raw)
            )
            if self.session.version.delays_short_answers:
                try:
                    await self._push_out()
                except SourceError:
                    return  # the session has ended
            await self._tip_bell.wait()

    async def _push_out(self) -> None:
        """Have the server send what it holds back: the scripthash notices that belong to a header notice.

        They are made a little after the header's, and then held for a second unless a long answer pushes them out. How
        much after depends on the server's load, so it is asked a few times.
        """
        for pause_s in PUSH_OUT_PAUSES_S:
            with trio.move_on_after(pause_s):
                await self._tip_bell.wait()
                return  # the next header brings its own
            await self.session.call_all([Call("server.ping")], is_urgent=True)

    # --- loops ---

    async def _subscribe(self) -> None:
        slots = trio.Semaphore(MAX_IN_FLIGHT)
        async with trio.open_nursery() as nursery:
            while True:
                self._subscribe_bell = trio.Event()
                batch = self.book.take_subscribes(MAX_BATCH)
                if batch is None:
                    await self._subscribe_bell.wait()
                    continue
                await slots.acquire()
                nursery.start_soon(self._subscribe_batch, batch, slots)

    async def _subscribe_batch(self, batch: SubscribeBatch, slots: trio.Semaphore) -> None:
        try:
            answers = await self.session.call_all([methods.subscribe_call(sh) for sh in batch.scripthashes])
            statuses = {
                scripthash: methods.decode_status(answer.result)
                for scripthash, answer in zip(batch.scripthashes, answers, strict=True)
                if isinstance(answer, Answer)
            }
        except SourceError as error:
            self.session.fail(error)
            return
        refusals = {
            scripthash: answer.code
            for scripthash, answer in zip(batch.scripthashes, answers, strict=True)
            if isinstance(answer, Refusal)
        }
        for scripthash, code in refusals.items():
            if code not in SERVER_TROUBLE_CODES:
                self._quarantine(scripthash)
        if self.session.version.serves_long_histories_as_none:
            # A sweep asks about what is empty and known to be so in vain; everything else may be cut to nothing.
            empty = [scripthash for scripthash, status in statuses.items() if status is None]
            await self._probe_empty([sh for sh in empty if batch.since is not None or not self.book.is_quiet(sh, None)])
        for fetch in self.book.answered(batch, statuses, now=trio.current_time()):
            self.put(fetch)
        for scripthash in statuses:
            if not self.is_assigned(scripthash):  # it was asked once, as a check on those that watch it
                self.unsubscribe(scripthash)
        self._note_progress(len(statuses))
        if refusals:
            codes = sorted(set(refusals.values()))
            log.warning("electrum.subscriptions_refused", server=self.name, count=len(refusals), codes=codes)
        is_refusing = bool(SERVER_TROUBLE_CODES.intersection(refusals.values())) and not statuses
        self._refused_batches = self._refused_batches + 1 if is_refusing else 0
        if self._refused_batches > MOST_REFUSED_BATCHES:
            self.session.fail(SourceUnavailableError("refuses all subscriptions"))
        if SERVER_TROUBLE_CODES.intersection(refusals.values()):
            self.session.ask_less()
            await trio.sleep(REFUSED_SUBSCRIBE_PAUSE_S)  # this one's slot stays taken meanwhile
            self.ring()
        slots.release()

    async def _probe_empty(self, scripthashes: list[ScriptHash]) -> None:
        """Set aside what is said to have no history and has a balance all the same: it has too much of it."""
        try:
            answers = await self.session.call_all([methods.balance_call(scripthash) for scripthash in scripthashes])
            balances = [isinstance(one, Answer) and methods.decode_has_balance(one.result) for one in answers]
        except SourceError as error:
            self.session.fail(error)
            return
        for scripthash, has_balance in zip(scripthashes, balances, strict=True):
            if has_balance:
                log.error("electrum.history_truncated", server=self.name, scripthash=hex_of(scripthash))
                self._quarantine(scripthash)

    def _note_progress(self, count: int) -> None:
        self._subscribed += count
        if self._started_at is None or self.book.unsubscribed_count():
            return
        elapsed_s = trio.current_time() - self._started_at
        self._started_at = None
        log.info("electrum.watches_subscribed", server=self.name, count=self._subscribed, elapsed_s=round(elapsed_s, 3))

    async def _unsubscribe(self) -> None:
        """Free what is watched no more: servers limit the subscriptions of an address."""
        while True:
            self._unsubscribe_bell = trio.Event()
            while self._to_unsubscribe:
                count = min(MAX_BATCH, len(self._to_unsubscribe))
                page = [self._to_unsubscribe.popleft() for _ in range(count)]
                gone = [scripthash for scripthash in page if not self._is_wanted(scripthash)]  # else added again since
                try:
                    # Servers below protocol 1.4.2 refuse the method; then there is nothing to free.
                    await self.session.call_all([methods.unsubscribe_call(scripthash) for scripthash in gone])
                except SourceError:
                    return  # the session has ended
                back = [scripthash for scripthash in gone if self._is_wanted(scripthash)]
                self.book.watch(back, since=trio.current_time())
                self.ring()
            await self._unsubscribe_bell.wait()

    def _is_wanted(self, scripthash: ScriptHash) -> bool:
        return scripthash in self._known and self.is_assigned(scripthash)

    async def _fetch(self) -> None:
        async for fetch in self._to_fetch:
            try:
                await self._fetch_one(fetch)
            except SourceRefusedError as error:
                # Too large for the server, or its index is busy: set aside, and asked again in a while.
                log.warning("electrum.history_refused", server=self.name, code=error.code)
                self._quarantine(fetch.scripthash)
            except SourceError as error:
                self.session.fail(error)
                return

    def _quarantine(self, scripthash: ScriptHash) -> None:
        self.book.quarantine(scripthash)
        self.book.recheck(scripthash, at=trio.current_time() + REFUSED_HISTORY_PAUSE_S)
        self._deadline_bell.set()

    async def _fetch_one(self, fetch: Fetch) -> None:
        if not self.book.is_open(fetch):
            return
        history = fetch.history
        if history is None:
            history = methods.decode_history(await self.session.call(methods.history_call(fetch.scripthash)))
        outcome = self.book.fetched(fetch, history, now=trio.current_time())
        match outcome:
            case Changed(scripthash, status, history):
                self.settle(scripthash)  # it was told before, and asked again meanwhile
                told = self._told[scripthash] = trio.Event()
                await self._updates.send(
                    ScriptHashChanged(server=self.name, scripthash=scripthash, status=status, history=history)
                )
                # So a server that has much to say, true or false, is dealt with at its own pace and delays no other.
                await told.wait()
            case Fetch():
                self.put(outcome)
            case None:
                self._deadline_bell.set()

    async def _watch_deadlines(self) -> None:
        while True:
            self._deadline_bell = trio.Event()
            deadline = self.book.next_deadline()
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await self._deadline_bell.wait()
            disagreements = self.book.due(now=trio.current_time())
            if disagreements:
                log.info("electrum.servers_disagree", server=self.name, scripthashes=disagreements)
                self._note(
                    Misbehaviour(
                        server=self.name,
                        kind="disagreement",
                        claim=f"the histories of {disagreements} scripts",
                        contradiction="other servers have said otherwise for a minute; asked again",
                    )
                )
            self._subscribe_bell.set()

    async def _sweep(self) -> None:
        """Ask for every status again within the interval, spread out: a lost notification is found by it."""
        while True:
            await trio.sleep(self._sweep_interval_s / 2)
            scripthashes = self.book.sweep()
            pages = [scripthashes[at : at + MAX_BATCH] for at in range(0, len(scripthashes), MAX_BATCH)]
            for page in pages:
                self.book.watch(page, since=None)
                self._subscribe_bell.set()
                await trio.sleep(self._sweep_interval_s / 2 / len(pages))
