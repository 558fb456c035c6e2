"""The chain's side of the spine: follow the servers' tips, and find the header for any height.

One task at a time changes the chain. Headers are fetched page by page and each page is judged before the next is asked
for, so that a flood of headers costs the flooder its proof of work.
"""

from collections.abc import Callable

import structlog
import trio

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, hex_of
from lightipn.bitcoin.header import RETARGET_BLOCKS, BlockHeader, parse_header
from lightipn.bitcoin.network import Network
from lightipn.chain.checkpoint import Checkpoint, Checkpoints
from lightipn.chain.headers import ChainDelta, HeaderChain
from lightipn.chain.source import Misbehaviour, TipChanged
from lightipn.chain.verifier import Confirmed, Place
from lightipn.errors import HeaderError, SourceError, SourceUnavailableError, StoreError
from lightipn.ledger import rules
from lightipn.ledger.entries import LedgerEntry
from lightipn.ledger.events import PaymentEvent, TrustLevel
from lightipn.store import chain as chain_store
from lightipn.store import events as event_store
from lightipn.store import ledger as ledger_store
from lightipn.store import outbox as outbox_store
from lightipn.store import reviews
from lightipn.store import subscriptions as subscription_store
from lightipn.store.database import Database
from lightipn.tracker.gate import CommitGate
from lightipn.tracker.old_headers import OldHeaders
from lightipn.tracker.server_tips import ServerTips
from lightipn.tracker.wiring import Wiring

# A confirmation counter never looks deeper than this: what lies lower is not touched when the tip falls.
DEEPEST_CONFIRMS = 1000
# Bitcoin Core, MAX_FUTURE_BLOCK_TIME.
MAX_FUTURE_S = 7200
TIPS_HEARD_FIRST = 2

log = structlog.get_logger("tracker")


def open_chain(
    network: Network, checkpoints: Checkpoints, lowest_height: int | None, raw_headers: list[bytes]
) -> HeaderChain:
    """Rebuild the header chain from what the store holds.

    Args:
        lowest_height: height of the first stored header; None when none is stored.

    Raises:
        StoreError: the stored headers contradict a checkpoint, or do not link.
    """
    base: Checkpoint | None = checkpoints.last
    if lowest_height is not None:
        base = checkpoints.at(lowest_height - 1)
        if base is None:
            raise StoreError(f"stored headers begin at {lowest_height}, which follows no checkpoint")
    assert base is not None
    try:
        chain = HeaderChain(network, base, raw_headers)
    except HeaderError as error:
        raise StoreError(f"the database is damaged: {error}") from error
    for checkpoint in checkpoints.rows:
        held = chain.hash_at(checkpoint.height)
        if held is not None and held != checkpoint.block_hash:
            raise StoreError(f"stored headers contradict the checkpoint at height {checkpoint.height}")
    return chain


class ChainFollower:
    """Keeps our chain at the tip with the most work, in memory and on disk.

    Args:
        chain: as rebuilt by ``open_chain``; the follower alone changes it from now on.
    """

    def __init__(self, wiring: Wiring, *, chain: HeaderChain, checkpoints: Checkpoints) -> None:
        self.chain = chain
        self._has_begun = False
        self._wiring = wiring
        self._server_tips = ServerTips(wiring.source, chain)
        self._old_headers = OldHeaders(wiring, checkpoints, report=self._report)
        self.gate = CommitGate()
        self._lock = trio.Lock()
        self._tie_height: int | None = None
        self._heard_tips: set[str] = set()
        self._tips: dict[str, TipChanged] = {}  # to be followed
        self._followed: set[str] = set()
        self._bell = trio.Event()

    def tell_tip(self, update: TipChanged) -> None:
        """Take note of a server's newest tip; an older one of the same server is forgotten."""
        self._tips[update.server] = update
        self._server_tips.tell(update)
        self._bell.set()

    def forget_tip(self, server: str) -> None:
        """Take note that a server is gone."""
        self._tips.pop(server, None)
        self._server_tips.forget(server)

    async def run(self) -> None:
        """Follow tips for ever, and send servers away that stay behind."""
        await self._wake()  # what a crash left undone
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server_tips.run)
            while True:
                self._bell = trio.Event()
                for server in self._tips.keys() - self._followed:
                    self._followed.add(server)
                    nursery.start_soon(self._follow, server)
                await self._bell.wait()

    # --- following ---

    async def _follow(self, server: str) -> None:
        """Bring our chain to a server's newest tip, where that has more work, until it has no newer one."""
        try:
            while (update := self._tips.pop(server, None)) is not None:
                await self._follow_tip(update)
        finally:
            self._followed.discard(server)

    async def _follow_tip(self, update: TipChanged) -> None:
        try:
            await self._sync(update.server, update.height, update.raw_header)
        except HeaderError as error:
            self._report(update.server, update.height, error, update.raw_header)
            return
        except SourceError as error:
            log.info("tracker.headers_unavailable", server=update.server, reason=str(error))
            self._server_tips.doubt(update.server)
            return
        self._heard_tips.add(update.server)
        if self.is_tip_proved:
            if not self._has_begun:
                # From now on every block is news; before, it was the past.
                await self._wiring.store.transact(event_store.begin_block_events)
                self._has_begun = True
            await self._page_by_page(reviews.settle_new)
        self._server_tips.compare()

    @property
    def is_tip_proved(self) -> bool:
        """Whether the tip of more than one server was followed, where more than one is there: one could be stale."""
        return len(self._heard_tips) >= max(1, min(TIPS_HEARD_FIRST, self._wiring.source.voices()))

    def _report(self, server: str, height: int, error: HeaderError, raw_header: bytes = b"") -> None:
        self._wiring.source.report(
            Misbehaviour(
                server=server,
                kind="false-header",
                claim=f"its chain reaches height {height}",
                contradiction=str(error),
                raw=raw_header,
            )
        )

    async def _sync(self, server: str, height: int, raw_header: bytes, *, is_again: bool = False) -> None:
        """Find where the server's chain leaves ours, and adopt it from there on if it has more work.

        Headers are fetched without the lock: a server that takes its time keeps no other one waiting. So our chain may
        have moved when a page is there; then the fork is looked for again.
        """
        if self.chain.hash_at(height) == parse_header(raw_header).block_hash:
            return
        start, headers = height, [raw_header]
        if not self.chain.connects(height, raw_header):
            start, headers = await self._find_fork(server, height)
        while True:
            delta = None
            async with self._lock:
                has_moved = not self.chain.connects(start, headers[0])
                if not has_moved:
                    delta = self.chain.extended_by(start, headers, wins_ties=self._wins_ties(raw_header))
                if delta is not None:
                    self._check_future(server, delta)
                    await self._commit(delta)
            if has_moved:
                await self._sync(server, height, raw_header)
                return
            asked_from = start + len(headers)
            if asked_from > height:
                break
            last_hash = parse_header(headers[-1]).block_hash
            if delta is not None:
                start, headers = asked_from, []
            page = await self._next_page(server, asked_from, height)
            if parse_header(page[0]).previous_hash != last_hash:
                if is_again:
                    raise HeaderError(f"header {asked_from} does not link to the one below it")
                # Between two pages it may have followed a reorg.
                await self._sync(server, height, raw_header, is_again=True)
                return
            headers += page
        if height < self.chain.tip_height:
            log.info("tracker.server_behind", server=server, height=height, our_height=self.chain.tip_height)

    def _check_future(self, server: str, delta: ChainDelta) -> None:
        """Wait with a block from the future, as Bitcoin's nodes do. It is no lie: our own clock may be wrong."""
        ahead_s = delta.connected[-1].time - self._wiring.clock()
        if ahead_s > MAX_FUTURE_S:
            log.error("tracker.header_from_the_future", server=server, ahead_s=int(ahead_s), hint="is the clock right?")
            raise SourceUnavailableError("header is more than two hours ahead of our clock", source=server)

    def _wins_ties(self, raw_header: bytes) -> bool:
        """Tell whether more servers stand on this tip than on ours, so that one server's block is no obstacle."""
        its_tip = parse_header(raw_header).block_hash
        if self._server_tips.count_on(its_tip) <= self._server_tips.count_on(self.chain.tip_hash):
            return False
        # Once a height: who changes sides all the time cannot have us do so.
        is_first, self._tie_height = self._tie_height != self.chain.tip_height, self.chain.tip_height
        return is_first

    async def _fetch_page(self, server: str, start: int, last: int) -> list[bytes]:
        count = min(RETARGET_BLOCKS, last - start + 1)
        return await self._wiring.source.fetch_headers(start, count, server=server)

    async def _next_page(self, server: str, start: int, last: int) -> list[bytes]:
        page = await self._fetch_page(server, start, last)
        if not page:
            # It may have followed a reorg to a lower height since it spoke. One that keeps saying so gains nothing: a
            # height without headers counts for nothing.
            raise SourceUnavailableError(f"server has no header {start} now", source=server)
        return page

    async def _find_fork(self, server: str, height: int) -> tuple[int, list[bytes]]:
        """Return a height at which the server's chain stands on ours, and its headers from there on (one page)."""
        start = min(height, self.chain.tip_height + 1)
        step = 1
        while True:
            headers = await self._fetch_page(server, start, height)
            if headers and self.chain.connects(start, headers[0]):
                return start, headers
            if start <= self.chain.base.height + 1:
                if not headers:
                    raise SourceUnavailableError(f"server has no header {start} now", source=server)
                raise HeaderError(f"server's chain does not contain the checkpoint at {self.chain.base.height}")
            # Reorgs are shallow as a rule: step back 1, 2, 4 ... blocks until the chains meet.
            start = max(self.chain.base.height + 1, start - step)
            step *= 2

    async def _commit(self, delta: ChainDelta) -> None:
        now = self._wiring.clock()
        old_tip = self.chain.tip_height

        def work(db: Database) -> tuple[list[PaymentEvent], list[ScriptHash], bool, bool]:
            events, unsettled, is_due = self._record(db, delta, old_tip=old_tip, now=now)
            is_woken, is_more = reviews.wake_for_tip(db, self._wiring.policies, now=now)
            return events, unsettled, is_due or is_woken, is_more

        async with self.gate.alone():
            events, unsettled, is_due, is_more = await self._wiring.store.transact(work)
            self.chain.apply(delta)
            for scripthash in unsettled:
                self._wiring.source.recheck(scripthash, after_s=0.0)
        self._log(delta, reverted=len(events))
        await self._wiring.tell(events, is_due=is_due)
        if is_more:
            await self._wake()

    async def _wake(self) -> None:
        """Make due what waited for this tip, page by page, so that thousands of messages do not block the writer."""
        await self._page_by_page(reviews.wake_for_tip)

    async def _page_by_page(self, work: Callable[..., tuple[bool, bool]]) -> None:
        is_more = True
        while is_more:
            is_due, is_more = await self._wiring.store.transact(
                lambda db: work(db, self._wiring.policies, now=self._wiring.clock())
            )
            if is_due:
                self._wiring.ring()

    def _record(
        self, db: Database, delta: ChainDelta, *, old_tip: int, now: float
    ) -> tuple[list[PaymentEvent], list[ScriptHash], bool]:
        if delta.disconnected:
            reviews.freeze_past(db, self._wiring.policies, delta.fork_height)
        chain_store.save_delta(db, delta)
        trust = TrustLevel.OWN_NODE if self._wiring.is_own_node else TrustLevel.PROVED
        event_store.save_block_events(db, delta, now=int(now), trust=trust)
        if not delta.disconnected:
            return [], [], False
        outbox_store.withdraw_blocks(db, delta)
        subscription_store.rewind_blocks(db, delta.fork_height)
        events: list[PaymentEvent] = []
        touched: dict[ScriptHash, list[LedgerEntry]] = {}
        for scripthash, entry in ledger_store.load_entries_above(db, delta.fork_height):
            after, event = rules.reverted(scripthash, entry)
            touched.setdefault(scripthash, []).append(after)
            events += self._wiring.attested_events([event])
        for scripthash, entries in touched.items():
            ledger_store.save_entries(db, scripthash, entries)
        event_store.save_payment_events(db, events, now=int(now))
        # The same transaction at the same height of another block leaves the status as it was: nobody would tell us.
        ledger_store.forget_status(db, touched)
        affected = set(touched)
        if delta.tip_height < old_tip:  # more work in fewer blocks: what stays in its block may still be less deep
            lower = ledger_store.load_entries_above(db, delta.tip_height - DEEPEST_CONFIRMS)
            affected |= {scripthash for scripthash, _ in lower}
        due = [
            reviews.review_script(db, self._wiring.policies, scripthash, tip_height=delta.tip_height, now=now)
            for scripthash in affected
        ]
        return events, list(touched), any(due)

    def _log(self, delta: ChainDelta, *, reverted: int) -> None:
        if delta.depth_blocks:
            log.warning(
                "tracker.reorg_followed",
                depth_blocks=delta.depth_blocks,
                fork_height=delta.fork_height,
                reverted_payments=reverted,
            )
        log.info(
            "tracker.chain_extended",
            height=delta.tip_height,
            block_hash=hex_of(delta.connected[-1].block_hash),
            headers=len(delta.connected),
        )

    def holds(self, db: Database, place: Place) -> bool:
        """Tell whether what was proved is still so: its block is on the stored chain, or below the checkpoint."""
        return (
            not isinstance(place, Confirmed)
            or place.height <= self.chain.base.height
            or chain_store.load_block_hash(db, place.height) == place.block_hash
        )

    def is_header(self, height: int, raw_header: bytes, block_hash: BlockHash) -> bool:
        """Tell whether a header is the one that our chain has at a height."""
        held = self.chain.hash_at(height) if height > self.chain.base.height else block_hash
        return held == block_hash == parse_header(raw_header).block_hash

    async def header_at(self, height: int, server: str) -> BlockHeader | None:
        """Return a header of our chain; above the tip the server is asked to extend it, below the base to prove it.

        Returns:
            None where our chain does not reach that height.

        Raises:
            SourceError: the headers cannot be had, or do not hold.
        """
        if height > self.chain.tip_height:
            await self._extend_to(height, server)
        if height > self.chain.base.height or height == 0:
            return self.chain.header_at(height)
        return await self._old_headers.header_at(height, server)

    async def _extend_to(self, height: int, server: str) -> None:
        """A history may speak of a block whose header was not announced yet."""
        headers = await self._wiring.source.fetch_headers(height, 1, server=server)
        if headers:
            try:
                await self._sync(server, height, headers[0])
            except HeaderError as error:
                self._report(server, height, error, headers[0])
                raise
