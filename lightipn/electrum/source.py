"""The shell: joins pool, session and book into a ``ChainSource``.

One task subscribes what waits, workers fetch what changed, one task watches deadlines, one sweeps: each is a loop of
*ask the book what it needs, fetch it, give it back*.
"""

import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TypeVar

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.chain.history import UNKNOWN, Status
from lightipn.chain.source import (
    MerkleBranch,
    ScriptHashChanged,
    ServerState,
    SourceLost,
    TipChanged,
    Update,
    WatchStatistics,
)
from lightipn.electrum import methods
from lightipn.electrum.pool import ServerPool
from lightipn.electrum.protocol import Answer, Call, Notification, Refusal
from lightipn.electrum.session import Session
from lightipn.electrum.subscriptions import Changed, Fetch, SubscribeBatch, SubscriptionBook
from lightipn.electrum.window import MAX_BATCH, MAX_IN_FLIGHT
from lightipn.errors import ProtocolError, SourceError, SourceRefusedError, SourceUnavailableError

T = TypeVar("T")

FETCH_WORKERS = 64
UPDATES_BUFFER = 256
NO_SERVER_WAIT_S = 10.0
PUSH_OUT_PAUSES_S = (0.0, 0.03, 0.1, 0.3)
REFUSED_SUBSCRIBE_PAUSE_S = 5.0
REFUSED_HISTORY_PAUSE_S = 60.0
# Errors that speak of the server's state and not of what was asked: excessive use and busy (ElectrumX), flood and
# limits (Fulcrum), index not available yet (electrs). Any other refusal concerns that one script.
SERVER_TROUBLE_CODES = frozenset({-101, -102, 3, 4, -32603})

log = structlog.get_logger("electrum")


class _Serving:
    """One session in use: its book, and the doorbells of its loops."""

    def __init__(self, session: Session, book: SubscriptionBook) -> None:
        self.session = session
        self.book = book
        self.fetches, self.to_fetch = trio.open_memory_channel[Fetch](math.inf)  # at most one a scripthash waits
        self.started_at: float | None = trio.current_time()  # None once all watches were subscribed
        self.subscribed = 0
        self.tip_bell = trio.Event()
        self.to_unsubscribe: deque[ScriptHash] = deque()
        self.unsubscribe_bell = trio.Event()
        self.subscribe_bell = trio.Event()
        self.deadline_bell = trio.Event()

    def put(self, fetch: Fetch | None) -> None:
        if fetch is not None:
            self.fetches.send_nowait(fetch)

    def ring(self) -> None:
        self.subscribe_bell.set()
        self.deadline_bell.set()


class ElectrumSource:
    """A ``ChainSource`` over Electrum servers; ``run`` must be running for it to deliver.

    Args:
        sweep_interval_s: within this time every watch is asked again once, against lost notifications.
    """

    def __init__(self, pool: ServerPool, *, sweep_interval_s: float) -> None:
        self._pool = pool
        self._sweep_interval_s = sweep_interval_s
        self._known: dict[ScriptHash, Status | None] = {}
        self._serving: _Serving | None = None
        self._connected = trio.Event()
        self._lost_at = trio.current_time()
        self._send_update, self._updates = trio.open_memory_channel[Update](UPDATES_BUFFER)

    async def run(self) -> None:
        """Connect, serve and reconnect for ever."""
        await self._pool.run(self._serve)

    @property
    def servers_changed(self) -> trio.Event:
        """An event that is set when ``servers`` has news; take a new one each time."""
        return self._pool.changed

    # --- the interface ---

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> None:
        """Register a scripthash with what of it has been absorbed; one that is registered stays as it is."""
        if scripthash in self._known:
            return
        self._known[scripthash] = known_status
        if self._serving is not None:
            self._serving.book.watch([scripthash], since=trio.current_time())
            self._serving.ring()

    def absorbed(self, scripthash: ScriptHash, status: Status | None) -> None:
        """Tell that a history was worked in; of a scripthash that is watched no more nothing happens."""
        if scripthash not in self._known:
            return
        self._known[scripthash] = status
        if self._serving is not None:
            self._serving.put(self._serving.book.absorbed(scripthash))

    def watch_all(self, watches: Sequence[tuple[ScriptHash, Status | None]]) -> None:
        """Register many scripthashes with what has been absorbed of each, before the first server is connected."""
        self._known.update(watches)

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a scripthash, here and at the server."""
        is_known = scripthash in self._known
        self._known.pop(scripthash, None)
        serving = self._serving
        if serving is not None:
            serving.book.unwatch(scripthash)
            if is_known:
                serving.to_unsubscribe.append(scripthash)
                serving.unsubscribe_bell.set()

    def recheck(self, scripthash: ScriptHash, *, after_s: float) -> None:
        """Fetch the history again after a while, whatever was known."""
        if scripthash not in self._known:
            return
        self._known[scripthash] = UNKNOWN
        if self._serving is not None:
            self._serving.put(self._serving.book.absorbed(scripthash))
            self._serving.book.recheck(scripthash, at=trio.current_time() + after_s)
            self._serving.ring()

    async def updates(self) -> AsyncIterator[Update]:
        """Yield what changed, for ever."""
        async for update in self._updates:
            yield update

    def report(self, server: str, misbehaviour: str, raw: bytes = b"") -> None:
        """Drop a server that was caught."""
        log.warning("electrum.server_misbehaved", server=server, misbehaviour=misbehaviour, raw=raw[:40].hex())
        self._pool.report(server, misbehaviour)

    def servers(self) -> Sequence[ServerState]:
        """Return the state of every server that was tried."""
        return self._pool.states()

    def statistics(self) -> WatchStatistics:
        """Return how many scripthashes are subscribed, and for how long the others have been waiting."""
        total, now = len(self._known), trio.current_time()
        if self._serving is None:
            return WatchStatistics(total=total, subscribed=0, quarantined=0, oldest_gap_s=now - self._lost_at)
        book = self._serving.book
        since = book.oldest_gap_since()
        return WatchStatistics(
            total=total,
            subscribed=max(0, total - book.unsubscribed_count()),
            quarantined=len(book.quarantined),
            oldest_gap_s=0.0 if since is None else now - since,
        )

    async def fetch_headers(
        self, start: int, count: int, *, server: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """Return up to ``count`` consecutive raw headers."""
        session = await self._wait_session(avoid)
        if server and session.name != server:
            raise SourceUnavailableError("the server to ask is gone", source=server)
        headers: list[bytes] = []
        while len(headers) < count:
            wanted = min(count - len(headers), methods.MAX_HEADERS)
            answer = await session.call(methods.headers_call(start + len(headers), wanted))
            page = self._decoded(session, partial(methods.decode_headers, answer, most=wanted))
            headers.extend(page)
            if len(page) < wanted:
                break
        return headers

    async def fetch_merkle_branch(
        self, txid: Txid, height: int, *, avoid: AbstractSet[str] = frozenset()
    ) -> MerkleBranch:
        """Return what is claimed to prove ``txid`` in the block at ``height``."""
        session = await self._wait_session(avoid)
        answer = await session.call(methods.merkle_call(txid, height))
        return self._decoded(session, lambda: methods.decode_merkle_branch(answer))

    async def fetch_transaction(self, txid: Txid, *, avoid: AbstractSet[str] = frozenset()) -> bytes:
        """Return raw bytes, which the caller hashes."""
        session = await self._wait_session(avoid)
        answer = await session.call(methods.transaction_call(txid))
        return self._decoded(session, lambda: methods.decode_transaction(answer))

    def _decoded(self, session: Session, decode: Callable[[], T]) -> T:
        """Decode an answer; a wrong shape ends the session as well."""
        try:
            return decode()
        except ProtocolError as error:
            session.fail(error)
            raise

    async def _wait_session(self, avoid: AbstractSet[str]) -> Session:
        with trio.move_on_after(NO_SERVER_WAIT_S):
            while self._serving is None:
                await self._connected.wait()
        serving = self._serving
        if serving is None or serving.session.name in avoid:
            raise SourceUnavailableError("no server to ask")
        return serving.session

    # --- one session ---

    async def _serve(self, session: Session) -> None:
        book = SubscriptionBook(self._known, now=self._lost_at)
        book.tip_height = session.tip_height
        serving = _Serving(session, book)
        session.take_notifications(lambda notification: self._take(serving, notification))
        self._serving = serving
        self._connected.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_tip, serving)
                nursery.start_soon(self._subscribe, serving)
                nursery.start_soon(self._unsubscribe, serving)
                nursery.start_soon(self._watch_deadlines, serving)
                nursery.start_soon(self._sweep, serving)
                for _ in range(FETCH_WORKERS):
                    nursery.start_soon(self._fetch, serving)
        finally:
            self._serving = None
            self._connected = trio.Event()
            self._lost_at = trio.current_time()
            # News, not evidence: a reader so slow that the buffer is full has lost nothing that matters.
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                self._send_update.send_nowait(SourceLost(server=session.name))

    def _take(self, serving: _Serving, notification: Notification) -> None:
        """Write a notification into the book."""
        if notification.method == "blockchain.headers.subscribe":
            serving.book.tip_height = serving.session.tip_height
            serving.tip_bell.set()
            self._pool.tell_changed()
        elif notification.method == "blockchain.scripthash.subscribe":
            scripthash, status = methods.decode_status_notification(notification.params)
            serving.put(serving.book.notified(scripthash, status, now=trio.current_time()))

    async def _tell_tip(self, serving: _Serving) -> None:
        session = serving.session
        while True:
            serving.tip_bell = trio.Event()
            await self._send_update.send(
                TipChanged(server=session.name, height=session.tip_height, raw_header=session.tip_raw)
            )
            if session.version.delays_short_answers:
                try:
                    await self._push_out(serving)
                except SourceError:
                    return  # the session has ended
            await serving.tip_bell.wait()

    async def _push_out(self, serving: _Serving) -> None:
        """Have the server send what it holds back: the scripthash notices that belong to a header notice.

        They are made a little after the header's, and then held for a second unless a long answer pushes them out. How
        much after depends on the server's load, so it is asked a few times.
        """
        for pause_s in PUSH_OUT_PAUSES_S:
            with trio.move_on_after(pause_s):
                await serving.tip_bell.wait()
                return  # the next header brings its own
            await serving.session.call_all([Call("server.ping")], is_urgent=True)

    async def _subscribe(self, serving: _Serving) -> None:
        slots = trio.Semaphore(MAX_IN_FLIGHT)
        async with trio.open_nursery() as nursery:
            while True:
                serving.subscribe_bell = trio.Event()
                batch = serving.book.take_subscribes(MAX_BATCH)
                if batch is None:
                    await serving.subscribe_bell.wait()
                    continue
                await slots.acquire()
                nursery.start_soon(self._subscribe_batch, serving, batch, slots)

    async def _subscribe_batch(self, serving: _Serving, batch: SubscribeBatch, slots: trio.Semaphore) -> None:
        session = serving.session
        try:
            answers = await session.call_all([methods.subscribe_call(sh) for sh in batch.scripthashes])
            statuses = {
                scripthash: methods.decode_status(answer.result)
                for scripthash, answer in zip(batch.scripthashes, answers, strict=True)
                if isinstance(answer, Answer)
            }
        except SourceError as error:
            session.fail(error)
            return
        refusals = {
            scripthash: answer.code
            for scripthash, answer in zip(batch.scripthashes, answers, strict=True)
            if isinstance(answer, Refusal)
        }
        for scripthash, code in refusals.items():
            if code not in SERVER_TROUBLE_CODES:
                self._quarantine(serving, scripthash)
        for fetch in serving.book.answered(batch, statuses, now=trio.current_time()):
            serving.put(fetch)
        serving.subscribed += len(statuses)
        if serving.started_at is not None and not serving.book.unsubscribed_count():
            elapsed_s = trio.current_time() - serving.started_at
            serving.started_at = None
            log.info(
                "electrum.watches_subscribed",
                server=session.name,
                count=serving.subscribed,
                elapsed_s=round(elapsed_s, 3),
            )
        if refusals:
            codes = sorted(set(refusals.values()))
            log.warning("electrum.subscriptions_refused", server=session.name, count=len(refusals), codes=codes)
        if SERVER_TROUBLE_CODES.intersection(refusals.values()):
            session.ask_less()
            await trio.sleep(REFUSED_SUBSCRIBE_PAUSE_S)  # this one's slot stays taken meanwhile
            serving.ring()
        slots.release()

    async def _unsubscribe(self, serving: _Serving) -> None:
        """Free what is watched no more: servers limit the subscriptions of an address."""
        while True:
            serving.unsubscribe_bell = trio.Event()
            while serving.to_unsubscribe:
                count = min(MAX_BATCH, len(serving.to_unsubscribe))
                page = [serving.to_unsubscribe.popleft() for _ in range(count)]
                gone = [scripthash for scripthash in page if scripthash not in self._known]  # else added again since
                try:
                    # Servers below protocol 1.4.2 refuse the method; then there is nothing to free.
                    await serving.session.call_all([methods.unsubscribe_call(scripthash) for scripthash in gone])
                except SourceError:
                    return  # the session has ended
                back = [scripthash for scripthash in gone if scripthash in self._known]
                serving.book.watch(back, since=trio.current_time())
                serving.ring()
            await serving.unsubscribe_bell.wait()

    async def _fetch(self, serving: _Serving) -> None:
        async for fetch in serving.to_fetch:
            try:
                await self._fetch_one(serving, fetch)
            except SourceRefusedError as error:
                # Too large for the server, or its index is busy: set aside, and asked again in a while.
                log.warning("electrum.history_refused", server=serving.session.name, code=error.code)
                self._quarantine(serving, fetch.scripthash)
            except SourceError as error:
                serving.session.fail(error)
                return

    def _quarantine(self, serving: _Serving, scripthash: ScriptHash) -> None:
        serving.book.quarantine(scripthash)
        serving.book.recheck(scripthash, at=trio.current_time() + REFUSED_HISTORY_PAUSE_S)
        serving.deadline_bell.set()

    async def _fetch_one(self, serving: _Serving, fetch: Fetch) -> None:
        history = fetch.history
        if history is None:
            history = methods.decode_history(await serving.session.call(methods.history_call(fetch.scripthash)))
        outcome = serving.book.fetched(fetch, history, now=trio.current_time())
        match outcome:
            case Changed(scripthash, status, history):
                await self._send_update.send(
                    ScriptHashChanged(
                        server=serving.session.name, scripthash=scripthash, status=status, history=history
                    )
                )
            case Fetch():
                serving.put(outcome)
            case None:
                serving.deadline_bell.set()

    async def _watch_deadlines(self, serving: _Serving) -> None:
        while True:
            serving.deadline_bell = trio.Event()
            deadline = serving.book.next_deadline()
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await serving.deadline_bell.wait()
            for fetch in serving.book.due(now=trio.current_time()):
                serving.put(fetch)
            serving.subscribe_bell.set()

    async def _sweep(self, serving: _Serving) -> None:
        """Ask for every status again within the interval, spread out: a lost notification is found by it."""
        while True:
            await trio.sleep(self._sweep_interval_s / 2)
            scripthashes = serving.book.sweep()
            pages = [scripthashes[at : at + MAX_BATCH] for at in range(0, len(scripthashes), MAX_BATCH)]
            for page in pages:
                serving.book.watch(page, since=None)
                serving.subscribe_bell.set()
                await trio.sleep(self._sweep_interval_s / 2 / len(pages))
