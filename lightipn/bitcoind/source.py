"""The shell: joins the node's blocks, mempool and notices into a ``ChainSource`` with one server."""

import time
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import structlog
import trio

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid
from lightipn.bitcoin.network import Network
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.bitcoind.answers import ChainInfo
from lightipn.bitcoind.block_follower import BlockFollower
from lightipn.bitcoind.enrolment import Enrolment
from lightipn.bitcoind.greeting import greet
from lightipn.bitcoind.mempool_follower import MempoolFollower
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.notices import (
    BlockNotice,
    GapNotice,
    Hearing,
    Notice,
    RemovalNotice,
    TransactionNotice,
    listen,
)
from lightipn.bitcoind.past import PastFinder
from lightipn.bitcoind.proofs import NodeProofs
from lightipn.bitcoind.registrar import Registrar
from lightipn.bitcoind.rpc import NOT_FOUND
from lightipn.bitcoind.standing import Standing
from lightipn.bitcoind.teller import Teller
from lightipn.bitcoind.view import new_view
from lightipn.chain.history import History, Status
from lightipn.chain.source import (
    FeeHistogram,
    MerkleBranch,
    Misbehaviour,
    RawTransaction,
    ServerState,
    SourceLost,
    TipChanged,
    Update,
    WatchStatistics,
)
from lightipn.errors import SourceError, SourceRefusedError, SourceUnavailableError
from lightipn.store.database import Store

UPDATES_BUFFER = 256
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
NO_NODE_WAIT_S = 10.0
# With ZMQ a look at everything is only there for what it lost.
ROUND_WITH_NOTICES_S = 60.0
NOTICES_BUFFER = 1000
# A node scans for one caller at a time, for minutes on mainnet: it gets as long a pause as the search took.
LONGEST_SEARCH_PAUSE_S = 600.0
LONGEST_SEARCH_RETRY_S = 60.0

log = structlog.get_logger("bitcoind")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """How a node is followed.

    Args:
        poll_interval_s: pause between two looks where no notice comes.
        zmq: endpoints of its ZMQ publishers.
    """

    poll_interval_s: float
    zmq: Sequence[str] = ()


class BitcoindSource:
    """A ``ChainSource`` over one's own node; ``run`` must be running for it to deliver."""

    def __init__(self, node: NodeRpc, store: Store, network: Network, options: NodeOptions) -> None:
        self._node = node
        self._store = store
        self._network = network
        self._options = options
        self._view = view = new_view()
        self._standing = Standing(node.name)
        self._send_update, self._updates = trio.open_memory_channel[Update](UPDATES_BUFFER)
        self._teller = Teller(store, view, self._send_update, name=node.name)
        self._blocks = BlockFollower(node, store, view)
        self._mempool = MempoolFollower(node, store, view)
        self._proofs = NodeProofs(node, store, view)
        self._past = PastFinder(node, store, view, self._blocks, self._mempool)
        self._registrar = Registrar(
            Enrolment(store, view, self._mempool), ring_search=self._ring_search, ring_teller=self._teller.ring
        )
        self._round_bell = trio.Event()
        self._search_bell = trio.Event()
        self._told_tip: BlockHash | None = None
        self._hearing = Hearing()

    # --- running ---

    async def run(self) -> None:
        """Follow the node for ever, through its restarts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._registrar.run)
            nursery.start_soon(self._teller.run)
            nursery.start_soon(self._search_past)
            nursery.start_soon(self._past.scans.run)
            if self._options.zmq:
                send, receive = trio.open_memory_channel[Notice](NOTICES_BUFFER)
                nursery.start_soon(listen, self._options.zmq, send)
                nursery.start_soon(self._take_notices, receive)

    async def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._round_bell = trio.Event()
            try:
                await self._round()
            except SourceError as error:
                await self._lose(error)
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            with trio.move_on_after(ROUND_WITH_NOTICES_S if self._hearing.is_whole else self._options.poll_interval_s):
                await self._round_bell.wait()

    async def _round(self) -> None:
        """Look at the node once: its state, its blocks, its mempool."""
        started = time.perf_counter()
        info = await self._node.fetch_chain_info()
        standing, view = self._standing, self._view
        standing.note(latency_ms=(time.perf_counter() - started) * 1000, tip_height=info.height)
        if not standing.is_connected:
            standing.note(software=await greet(self._node, self._network, info))
        await self._blocks.open(info)
        await self._registrar.work()  # before the first block: it may pay one of them
        if view.position is None or info.tip_hash != view.position.block_hash:
            self._teller.hold_back()
        if not standing.is_connected and view.height + 1 < info.height:
            standing.note_progress(f"looks through blocks {view.height} to {info.height}")
        before = view.position
        self._hearing.begin_look()
        await self._blocks.follow(info)
        if view.targets.past_pending:
            self._ring_search()
        unheard = await self._mempool.follow()
        if unheard is None:
            self._round_bell.set()  # a block came meanwhile
            return
        if not standing.is_connected:
            await self._note_connected(info)
        elif self._options.zmq:
            self._hearing.end_look(has_new_block=view.position != before, has_new_transactions=unheard > 0)
            standing.note_silent(self._hearing.missing)
        await self._tell_tip(info)
        self._teller.go_on()

    async def _note_connected(self, info: ChainInfo) -> None:
        self._standing.note_connected()
        log.info(
            "bitcoind.node_followed",
            node=self._node.name,
            software=self._standing.state.software,
            height=self._view.height,
            prune_height=info.prune_height,
            indexes=sorted(each for each in await self._node.fetch_indexes() if each.isprintable()),
        )
        self._told_tip = None
        self._registrar.ring()
        self._ring_search()

    async def _lose(self, error: SourceError) -> None:
        self._teller.hold_back()
        if self._standing.note_lost(str(error)):
            self._told_tip = None
            await self._send_update.send(SourceLost(server=self._node.name))

    async def _tell_tip(self, info: ChainInfo) -> None:
        if self._told_tip == info.tip_hash:
            return
        [raw_header] = await self._node.fetch_headers([info.tip_hash]) or [b""]
        if raw_header:
            self._told_tip = info.tip_hash
            self._standing.note_tip()
            await self._send_update.send(TipChanged(server=self._node.name, height=info.height, raw_header=raw_header))

    def _ring_search(self) -> None:
        self._search_bell.set()

    async def _search_past(self) -> None:
        """Look for the past of scripts, whenever there is one to look for and the node can be asked."""
        tries = 0
        while True:
            self._search_bell = trio.Event()
            if not (self._standing.is_connected and await self._past.has_work()):
                await self._search_bell.wait()
                continue
            started = trio.current_time()
            try:
                await self._past.work()
                tries, pause_s = 0, min(trio.current_time() - started, LONGEST_SEARCH_PAUSE_S)
                # What was found is told after another look: the node may have scanned blocks that we have not seen.
                self._round_bell.set()
            except SourceError as error:
                pause_s = min(2.0 ** min(tries, 10), LONGEST_SEARCH_RETRY_S)
                tries += 1
                log.warning("bitcoind.past_unavailable", reason=str(error), again_in_s=pause_s)
            await trio.sleep(pause_s)

    async def _take_notices(self, receive: trio.MemoryReceiveChannel[Notice]) -> None:
        async for notice in receive:
            if not self._standing.is_connected:
                continue  # the round after the greeting looks at everything
            try:
                self._hearing.hear(notice)
                match notice:
                    case GapNotice() | BlockNotice():
                        self._round_bell.set()
                    case TransactionNotice(txid, raw):
                        await self._mempool.take_notice(txid, raw)
                    case RemovalNotice(txid):
                        await self._mempool.take_removal(txid)
            except SourceError:
                self._round_bell.set()
            self._teller.ring()

    async def updates(self) -> AsyncIterator[Update]:
        """Yield what changed, for ever."""
        async for update in self._updates:
            yield update

    # --- watches ---

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> bool:
        """Register a scripthash with what of it has been absorbed; False if it was registered, and stays as it is."""
        is_new = self._view.book.watch(scripthash, known_status)
        self._view.wished.add(scripthash)
        self._registrar.want(scripthash)
        return is_new

    def watch_all(self, watches: Sequence[tuple[ScriptHash, Status | None]]) -> None:
        """Register many scripthashes with what has been absorbed of each."""
        for scripthash, known_status in watches:
            self.watch(scripthash, known_status)

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a scripthash."""
        self._view.book.unwatch(scripthash)
        self._view.wished.discard(scripthash)
        self._registrar.let_go(scripthash)
        self._teller.ring()

    def absorbed(self, scripthash: ScriptHash, status: Status | None, *, server: str, is_news: bool) -> None:
        """Tell that a history was worked in."""
        self._view.book.absorbed(scripthash, status)
        self._teller.ring()

    def recheck(self, scripthash: ScriptHash, *, after_s: float, server: str = "") -> None:
        """Tell a history again after a while, whatever was known."""
        if not server or server == self._node.name:
            self._view.book.recheck(scripthash, at=trio.current_time() + after_s)
            self._teller.ring()

    def statistics(self) -> WatchStatistics:
        """Return how many scripthashes are looked for in the node's blocks, and since when the others wait."""
        total, now = len(self._view.book.known), trio.current_time()
        if not self._standing.is_connected:
            gap_s = now - self._standing.down_since
            return WatchStatistics(total=total, subscribed=0, quarantined=0, oldest_gap_s=gap_s)
        waiting_since = self._registrar.waiting_since
        return WatchStatistics(
            total=total,
            subscribed=total - self._registrar.waiting,
            quarantined=0,
            oldest_gap_s=0.0 if waiting_since is None else now - waiting_since,
        )

    @property
    def past_progress(self) -> str:
        """How far the search for the past of scripts is, for whoever waits for it; empty where none is under way."""
        if not self._standing.is_connected:
            return f"the node cannot be asked: {self._standing.state.reason}"
        if not self._view.targets.past_pending:
            return ""
        percent = self._past.scans.progress
        return "the node's outputs are searched" + (f", {percent:.0f} percent" if percent is not None else "")

    # --- the server ---

    def connected(self) -> Sequence[str]:
        """Return the name of the node if it can be asked now."""
        return [self._node.name] if self._standing.is_connected else []

    def voices(self) -> int:
        """Return how many servers there are: it is one's own, and alone."""
        return 1

    def servers(self) -> Sequence[ServerState]:
        """Return the state of the node."""
        return [self._standing.state]

    @property
    def servers_changed(self) -> trio.Event:
        """An event that is set when ``servers`` has news; take a new one each time."""
        return self._standing.changed

    def tell_changed(self) -> None:
        """Have whoever waits for ``servers_changed`` look."""
        self._standing.tell_changed()

    def report(self, found: Misbehaviour) -> None:
        """Keep what contradicts our proofs."""
        self._standing.report(found)

    def take_evidence(self) -> list[Misbehaviour]:
        """Return what was reported since the last call."""
        return self._standing.take_evidence()

    def demote(self, server: str, reason: str) -> None:
        """Say that the node is behind our own chain."""
        self._standing.note_behind(reason)

    def trust(self, name: str) -> None:
        """Forgive the node what was reported: it is asked all the time anyhow."""
        if name == self._node.name:
            self._standing.forgive()

    # --- questions ---

    async def _wait_node(self, server: str, avoid: AbstractSet[str] = frozenset()) -> None:
        """Wait until the node may be asked, but not for long.

        Raises:
            SourceUnavailableError: it is another that is asked, or it is to be avoided, or it is gone.
        """
        if (server and server != self._node.name) or self._node.name in avoid:
            raise SourceUnavailableError("no server to ask", source=server)
        with trio.move_on_after(NO_NODE_WAIT_S):
            while not self.connected():
                await self.servers_changed.wait()
        if not self.connected():
            raise SourceUnavailableError("the node is gone", source=server)

    async def fetch_headers(
        self, start: int, count: int, *, server: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """Return up to ``count`` consecutive raw headers."""
        await self._wait_node(server, avoid)
        return await self._node.fetch_headers(await self._node.fetch_block_hashes(start, count))

    async def fetch_merkle_branch(
        self, txid: Txid, height: int, *, server: str = "", prefer: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> MerkleBranch:
        """Return the branch of a transaction, as its block gave it, or made of the block."""
        await self._wait_node(server, avoid)
        return await self._proofs.branch_of(txid, height)

    async def fetch_transaction(
        self, txid: Txid, *, server: str = "", prefer: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> RawTransaction:
        """Return raw bytes: of what was found in a block, waits in the mempool, or is in the node's own index."""
        await self._wait_node(server, avoid)
        return RawTransaction(self._node.name, await self._proofs.raw_of(txid))

    async def fetch_output(self, outpoint: Outpoint) -> TxOutput | None:
        """Return an output that no block has spent, or that waits in the mempool."""
        await self._wait_node("")
        return await self._mempool.output_of(outpoint)

    async def fetch_history(self, scripthash: ScriptHash, *, server: str) -> History:
        """Return what is known of a script now.

        Raises:
            SourceUnavailableError: its past is not found yet: what is missing is not denied.
        """
        await self._wait_node(server)
        if scripthash in self._view.targets.past_pending:
            raise SourceUnavailableError("not all of its blocks were looked through yet", source=server)
        return (await self._teller.histories([scripthash]))[scripthash]

    async def fetch_fee_histogram(self, *, server: str) -> FeeHistogram:
        """Refuse: a node tells its mempool's fees only transaction by transaction.

        Raises:
            SourceRefusedError: always.
        """
        await self._wait_node(server)
        raise SourceRefusedError("a node offers no histogram", code=NOT_FOUND, source=self._node.name)

    async def fetch_fee_rate(self, target_blocks: int, *, server: str) -> float | None:
        """Return the node's estimate, in satoshis a virtual byte."""
        await self._wait_node(server)
        return await self._node.fetch_fee_rate(target_blocks)

    async def broadcast(self, raw: bytes, *, server: str) -> None:
        """Hand a transaction to the node."""
        await self._wait_node(server)
        await self._node.broadcast(raw)
        self._round_bell.set()
