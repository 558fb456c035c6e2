"""The shell: joins pool, sessions and their books into a ``ChainSource``.

Every connected server is served at the same time. Each watch lives on ``redundancy`` of them, chosen by a stable
hash of server and script, so that no server need see all addresses and a reconnect moves none. What one server shows is
shared knowledge; who says less keeps a view of its own until it catches up or is judged.
"""

import contextlib
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TypeVar

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.chain.history import UNKNOWN, History, Status
from lightipn.chain.source import (
    FeeHistogram,
    MerkleBranch,
    Misbehaviour,
    RawTransaction,
    ServerState,
    SourceLost,
    Update,
    WatchStatistics,
)
from lightipn.electrum import methods
from lightipn.electrum.pool import ServerPool
from lightipn.electrum.serving import Serving
from lightipn.electrum.session import Session
from lightipn.electrum.window import MAX_BATCH
from lightipn.errors import ProtocolError, SourceError, SourceRefusedError, SourceUnavailableError

T = TypeVar("T")

UPDATES_BUFFER = 256
NO_SERVER_WAIT_S = 10.0
# A server that takes longer than this is left to answer, and the next one asked as well.
HEDGE_S = 0.5

log = structlog.get_logger("electrum")


class ElectrumSource:
    """A ``ChainSource`` over Electrum servers; ``run`` must be running for it to deliver.

    Args:
        redundancy: on so many servers each scripthash is watched.
        sweep_interval_s: within this time every watch is asked again once, against lost notifications.
    """

    def __init__(self, pool: ServerPool, *, redundancy: int, sweep_interval_s: float) -> None:
        self._pool = pool
        self._redundancy = redundancy
        self._sweep_interval_s = sweep_interval_s
        self._known: dict[ScriptHash, Status | None] = {}
        self._servings: dict[str, Serving] = {}
        self._connected = trio.Event()
        self._lost_at = trio.current_time()
        self._send_update, self._updates = trio.open_memory_channel[Update](UPDATES_BUFFER)

    async def run(self) -> None:
        """Connect, serve and reconnect for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pool.run, self._serve)
            nursery.start_soon(self._cross_check)

    @property
    def servers_changed(self) -> trio.Event:
        """An event that is set when ``servers`` has news; take a new one each time."""
        return self._pool.changed

    # --- watches ---

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> bool:
        """Register a scripthash with what of it has been absorbed; False if it was registered, and stays as it is."""
        if scripthash in self._known:
            return False
        self._known[scripthash] = known_status
        for serving in self._assigned(scripthash):
            serving.book.watch([scripthash], since=trio.current_time())
            serving.ring()
        return True

    def watch_all(self, watches: Sequence[tuple[ScriptHash, Status | None]]) -> None:
        """Register many scripthashes with what has been absorbed of each, before the first server is connected."""
        self._known.update(watches)

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a scripthash, here and at the servers."""
        is_known = scripthash in self._known
        self._known.pop(scripthash, None)
        for serving in self._servings.values():
            serving.book.unwatch(scripthash)
            serving.settle(scripthash)
            if is_known and serving.is_assigned(scripthash):
                serving.unsubscribe(scripthash)

    def absorbed(self, scripthash: ScriptHash, status: Status | None, *, server: str, is_news: bool) -> None:
        """Tell that a server's history was worked in; of a scripthash that is watched no more nothing happens."""
        serving = self._servings.get(server)
        if serving is not None:
            serving.settle(scripthash)
        if scripthash not in self._known:
            return
        before = self._known[scripthash]
        others = [other for name, other in self._servings.items() if name != server and other.is_assigned(scripthash)]
        # Where no other server stands by the shared status any more, it is of no use to anybody.
        is_shared = is_news or before == UNKNOWN or all(other.book.has_view(scripthash) for other in others)
        if is_shared and before != status:
            self._known[scripthash] = status
            for other in others:
                other.book.left_behind(scripthash, before, now=trio.current_time())
                other.ring()
        if serving is None or not serving.book.is_told(scripthash, status):
            return  # what an old link told says nothing of what the new one announced
        if is_shared or before == status:
            serving.book.forget_view(scripthash)
        else:
            serving.book.see_differently(scripthash, status)
        serving.put(serving.book.absorbed(scripthash))

    def recheck(self, scripthash: ScriptHash, *, after_s: float, server: str = "") -> None:
        """Fetch the history again after a while, whatever was known; from one server if it is named, else from all."""
        if not server and scripthash in self._known:
            self._known[scripthash] = UNKNOWN
        for serving in self._servings.values():
            if server and serving.name != server:
                continue
            if server:
                serving.settle(scripthash)
            if scripthash not in self._known:
                continue
            if server:
                serving.book.see_differently(scripthash, UNKNOWN)
            elif serving.is_assigned(scripthash):
                serving.book.forget_view(scripthash)
            else:
                continue
            serving.put(serving.book.absorbed(scripthash))
            serving.book.recheck(scripthash, at=trio.current_time() + after_s)
            serving.ring()

    async def updates(self) -> AsyncIterator[Update]:
        """Yield what changed, for ever."""
        async for update in self._updates:
            yield update

    def _assigned(self, scripthash: ScriptHash) -> list[Serving]:
        return [serving for serving in self._servings.values() if serving.is_assigned(scripthash)]

    def _is_assigned(self, name: str, scripthash: ScriptHash) -> bool:
        """Tell whether a scripthash is a server's to watch: it is among the first by a hash that never changes."""
        others = [other for other in self._servings if other != name]
        if len(others) < self._redundancy:
            return True
        own = _rank(name, scripthash)
        return sum(_rank(other, scripthash) < own for other in others) < self._redundancy

    # --- servers ---

    def report(self, found: Misbehaviour) -> None:
        """Drop and ban a server that lied."""
        self._pool.report(found)

    def demote(self, server: str, reason: str) -> None:
        """Replace a server that is of no use now."""
        self._pool.demote(server, reason)

    def connected(self) -> Sequence[str]:
        """Return the names of the servers that can be asked now."""
        return list(self._servings)

    def voices(self) -> int:
        """Return how many servers are connected, or may be within moments."""
        return self._pool.voices()

    def servers(self) -> Sequence[ServerState]:
        """Return the state of every server that was tried."""
        return self._pool.states()

    def tell_changed(self) -> None:
        """Have whoever waits for ``servers_changed`` look."""
        self._pool.tell_changed()

    def take_evidence(self) -> list[Misbehaviour]:
        """Return what servers were caught with since the last call."""
        return self._pool.take_evidence()

    def trust(self, name: str) -> None:
        """Forget what is held against a server."""
        self._pool.trust(name)

    @property
    def past_progress(self) -> str:
        """Empty: servers have an index, and no past needs to be searched for."""
        return ""

    def statistics(self) -> WatchStatistics:
        """Return how many scripthashes are subscribed, and for how long the others have been waiting."""
        total, now = len(self._known), trio.current_time()
        if not self._servings:
            return WatchStatistics(total=total, subscribed=0, quarantined=0, oldest_gap_s=now - self._lost_at)
        books = [serving.book for serving in self._servings.values()]
        # Where each server watches all, the one that is furthest counts; where they share, all must be done.
        pick = min if len(books) <= self._redundancy else max
        gaps = [now - since if since is not None else 0.0 for since in (book.oldest_gap_since() for book in books)]
        set_aside = {scripthash for book in books for scripthash in book.quarantined}
        quarantined = sum(
            all(scripthash in serving.book.quarantined for serving in self._assigned(scripthash))
            for scripthash in set_aside
        )
        return WatchStatistics(
            total=total,
            subscribed=max(0, total - pick(book.unsubscribed_count() for book in books)),
            quarantined=quarantined,
            oldest_gap_s=pick(gaps),
        )

    # --- questions ---

    async def fetch_headers(
        self, start: int, count: int, *, server: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """Return up to ``count`` consecutive raw headers."""
        session = (await self._wait_servings(server, avoid))[0].session
        headers: list[bytes] = []
        while len(headers) < count:
            wanted = min(count - len(headers), methods.MAX_HEADERS)
            answer = await session.call(methods.headers_call(start + len(headers), wanted))
            page = _decoded(session, partial(methods.decode_headers, answer, most=wanted))
            headers.extend(page)
            if len(page) < wanted:
                break
        return headers

    async def fetch_merkle_branch(
        self, txid: Txid, height: int, *, server: str = "", prefer: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> MerkleBranch:
        """Return what is claimed to prove ``txid`` in the block at ``height``."""

        async def ask(session: Session) -> MerkleBranch:
            answer = await session.call(methods.merkle_call(txid, height))
            return _decoded(session, lambda: methods.decode_merkle_branch(answer, server=session.name))

        return await self._ask_in_turn(ask, server, prefer, avoid)

    async def fetch_transaction(
        self, txid: Txid, *, server: str = "", prefer: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> RawTransaction:
        """Return raw bytes, which the caller hashes."""

        async def ask(session: Session) -> RawTransaction:
            answer = await session.call(methods.transaction_call(txid))
            return RawTransaction(session.name, _decoded(session, lambda: methods.decode_transaction(answer)))

        return await self._ask_in_turn(ask, server, prefer, avoid)

    async def fetch_output(self, outpoint: Outpoint) -> TxOutput | None:
        """Return None: Electrum servers tell outputs only with their transactions."""
        return None

    async def fetch_history(self, scripthash: ScriptHash, *, server: str) -> History:
        """Return what a server lists for a scripthash now; not judged."""

        async def ask(session: Session) -> History:
            answer = await session.call(methods.history_call(scripthash))
            return _decoded(session, lambda: methods.decode_history(answer))

        return await self._ask_in_turn(ask, server, "", frozenset())

    async def fetch_fee_histogram(self, *, server: str) -> FeeHistogram:
        """Return what a server claims of its mempool's fees."""

        async def ask(session: Session) -> FeeHistogram:
            answer = await session.call(methods.histogram_call())
            return _decoded(session, lambda: methods.decode_histogram(answer))

        return await self._ask_in_turn(ask, server, "", frozenset())

    async def fetch_fee_rate(self, target_blocks: int, *, server: str) -> float | None:
        """Return the fee rate that a server claims to be enough within so many blocks, in satoshis a virtual byte."""

        async def ask(session: Session) -> float | None:
            answer = await session.call(methods.fee_call(target_blocks))
            return _decoded(session, lambda: methods.decode_fee_rate(answer))

        return await self._ask_in_turn(ask, server, "", frozenset())

    async def broadcast(self, raw: bytes, *, server: str) -> None:
        """Hand a transaction to a server."""

        async def ask(session: Session) -> None:
            await session.call(methods.broadcast_call(raw))

        await self._ask_in_turn(ask, server, "", frozenset())

    async def _ask_in_turn(
        self, ask: Callable[[Session], Awaitable[T]], server: str, prefer: str, avoid: AbstractSet[str]
    ) -> T:
        """Ask one server after the other, the next one when one fails or takes long, and return the first answer."""
        servings = await self._wait_servings(server, avoid)
        servings.sort(key=lambda serving: serving.name != prefer)
        answers: list[T] = []
        errors: list[SourceError] = []

        async def ask_one(serving: Serving, finished: trio.Event, scope: trio.CancelScope) -> None:
            try:
                answers.append(await ask(serving.session))
                scope.cancel()
            except SourceError as error:
                errors.append(error)
            finished.set()

        async with trio.open_nursery() as nursery:
            for place, serving in enumerate(servings):
                finished = trio.Event()
                nursery.start_soon(ask_one, serving, finished, nursery.cancel_scope)
                with trio.move_on_after(HEDGE_S if place + 1 < len(servings) else math.inf):
                    await finished.wait()
        if answers:
            return answers[0]
        # refused is what all refuse: of a server whose link broke nobody knows what it would have said
        raise next((error for error in errors if not isinstance(error, SourceRefusedError)), errors[0])

    async def _wait_servings(self, server: str, avoid: AbstractSet[str]) -> list[Serving]:
        with trio.move_on_after(NO_SERVER_WAIT_S):
            while not self._servings:
                await self._connected.wait()
        found = [
            serving for name, serving in self._servings.items() if name not in avoid and (not server or name == server)
        ]
        if not found:
            raise SourceUnavailableError("the server to ask is gone" if server else "no server to ask", source=server)
        return found

    # --- sessions ---

    async def _serve(self, session: Session) -> None:
        serving = Serving(
            session,
            self._known,
            is_assigned=partial(self._is_assigned, session.name),
            updates=self._send_update,
            tell_changed=self._pool.tell_changed,
            note=self._pool.note,
            gap_since=trio.current_time() if self._servings else self._lost_at,
            sweep_interval_s=self._sweep_interval_s,
        )
        before = self._shares()
        self._servings[session.name] = serving
        self._move_watches(before)
        self._connected.set()
        try:
            await serving.run()
        finally:
            before = self._shares()
            del self._servings[session.name]
            self._move_watches(before)
            if not self._servings:
                self._connected = trio.Event()
                self._lost_at = trio.current_time()
            # News, not evidence: a reader so slow that the buffer is full has lost nothing that matters.
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                self._send_update.send_nowait(SourceLost(server=session.name))

    def _shares(self) -> tuple[str, ...]:
        return tuple(self._servings)

    def _move_watches(self, before: Sequence[str]) -> None:
        """Have servers take over, and give up, what is theirs now that one came or went."""
        if max(len(before), len(self._servings)) <= self._redundancy:
            return
        now = trio.current_time()
        for name in set(before).intersection(self._servings):
            serving = self._servings[name]
            gained: list[ScriptHash] = []
            lost: list[ScriptHash] = []
            for scripthash in self._known:
                own = _rank(name, scripthash)
                was = sum(_rank(other, scripthash) < own for other in before if other != name) < self._redundancy
                if was != serving.is_assigned(scripthash):
                    (lost if was else gained).append(scripthash)
            serving.book.watch(gained, since=now)
            serving.book.release(set(lost))
            for scripthash in lost:
                serving.settle(scripthash)
                serving.unsubscribe(scripthash)
            serving.ring()

    async def _cross_check(self) -> None:
        """Within each interval ask, of every scripthash, one server that does not watch it: nobody can be left out."""
        turn = 0
        while True:
            turn += 1
            scripthashes = list(self._known) if len(self._servings) > self._redundancy else []
            pages = [scripthashes[at : at + MAX_BATCH] for at in range(0, len(scripthashes), MAX_BATCH)]
            for page in pages:
                self._ask_idle(page, turn)
                await trio.sleep(self._sweep_interval_s / len(pages))
            if not pages:
                await trio.sleep(self._sweep_interval_s)

    def _ask_idle(self, scripthashes: Sequence[ScriptHash], turn: int) -> None:
        chosen: dict[str, list[ScriptHash]] = {}
        for scripthash in scripthashes:
            idle = [name for name, serving in self._servings.items() if not serving.is_assigned(scripthash)]
            if idle:
                chosen.setdefault(idle[turn % len(idle)], []).append(scripthash)
        for name, asked in chosen.items():
            self._servings[name].book.watch(asked, since=None)
            self._servings[name].ring()


def _rank(name: str, scripthash: ScriptHash) -> bytes:
    return hashlib.blake2b(scripthash, key=name.encode()[:64], digest_size=8).digest()


def _decoded(session: Session, decode: Callable[[], T]) -> T:
    """Decode an answer; a wrong shape ends the session as well."""
    try:
        return decode()
    except ProtocolError as error:
        session.fail(error)
        raise
