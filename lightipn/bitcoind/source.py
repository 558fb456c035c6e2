"""The shell: joins the node's blocks, mempool and notices into a ``ChainSource`` with one server."""

import time
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import structlog
import trio

from lightipn.bitcoin.block import parse_block
from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid, hash_from_hex, hex_of
from lightipn.bitcoin.merkle import merkle_branch_of
from lightipn.bitcoin.network import Network
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.bitcoind.book import WatchBook
from lightipn.bitcoind.follower import NodeFollower
from lightipn.bitcoind.greeting import greet
from lightipn.bitcoind.notices import (
    BlockNotice,
    GapNotice,
    Notice,
    RemovalNotice,
    TransactionNotice,
    listen,
)
from lightipn.bitcoind.past import PastFinder
from lightipn.bitcoind.registrar import Registrar
from lightipn.bitcoind.rpc import NOT_FOUND, ChainInfo, NodeRpc
from lightipn.chain.history import History, Status, status_of
from lightipn.chain.source import (
    FeeHistogram,
    MerkleBranch,
    Misbehaviour,
    RawTransaction,
    ScriptHashChanged,
    ServerState,
    SourceLost,
    TipChanged,
    Update,
    WatchStatistics,
)
from lightipn.errors import SourceError, SourceRefusedError, SourceUnavailableError
from lightipn.store import node_findings
from lightipn.store.database import Store

UPDATES_BUFFER = 256
UNDER_WAY_AT_MOST = 200
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
NO_NODE_WAIT_S = 10.0
# With ZMQ a look at everything is only there for what it lost.
ROUND_WITH_NOTICES_S = 60.0
NOTICES_BUFFER = 1000

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
        self._book = WatchBook()
        self._follower = NodeFollower(node, store, self._book)
        self._past = PastFinder(node, store, self._book, self._follower)
        self._registrar = Registrar(self._follower, self._past, self._ring)
        self._round_bell = trio.Event()
        self._tell_bell = trio.Event()
        self._send_update, self._updates = trio.open_memory_channel[Update](UPDATES_BUFFER)
        self._told_tip: str | None = None
        # Histories wait until blocks, mempool and tip belong together: else a reorg, or a rival's block, looks as if a
        # payment were hidden.
        self._holds_back = True
        self._gap_since = trio.current_time()
        # Whether notices come, so that there is no need to look all the time.
        self._hears_blocks = self._hears_transactions = self._is_block_noticed = False
        self._evidence: list[Misbehaviour] = []
        self._state = ServerState(name=node.name, verdict="connecting")
        self._changed = trio.Event()

    # --- running ---

    async def run(self) -> None:
        """Follow the node for ever, through its restarts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._registrar.run)
            nursery.start_soon(self._tell)
            nursery.start_soon(self._past.run)
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
            hears_all = self._hears_blocks and self._hears_transactions
            with trio.move_on_after(ROUND_WITH_NOTICES_S if hears_all else self._options.poll_interval_s):
                await self._round_bell.wait()

    async def _round(self) -> None:
        """Look at the node once: its state, its blocks, its mempool."""
        started = time.perf_counter()
        info = await self._node.fetch_chain_info()
        self._note(latency_ms=(time.perf_counter() - started) * 1000, tip_height=info.blocks)
        if self._state.verdict != "connected":
            self._note(software=await greet(self._node, self._network, info))
        await self._follower.open(info)
        await self._registrar.work()  # before the first block: it may pay one of them
        self._holds_back |= self._follower.position is None or info.tip_hash != hex_of(self._follower.position[1])
        if self._state.verdict != "connected" and self._follower.height + 1 < info.blocks:
            self._note(reason=f"looks through blocks {self._follower.height} to {info.blocks}")
        before, was_noticed = self._follower.position, self._is_block_noticed
        await self._follower.follow_blocks(info)
        if self._follower.without_past:
            self._past.ring()
        unheard = await self._follower.follow_mempool()
        if unheard is None:
            self._round_bell.set()  # a block came meanwhile
            return
        # What a look finds before a notice told of it shows that notices do not come, or not all.
        self._hears_blocks &= was_noticed or self._follower.position == before
        self._hears_transactions &= unheard == 0
        self._is_block_noticed = False
        if self._state.verdict != "connected":
            self._note(verdict="connected", reason="")
            log.info(
                "bitcoind.node_followed",
                node=self._node.name,
                software=self._state.software,
                height=self._follower.height,
                prune_height=info.prune_height,
                indexes=sorted(each for each in await self._node.fetch_indexes() if each.isprintable()),
            )
            self._told_tip = None
            self._registrar.ring()
            self._past.set_ready(True)
        await self._tell_tip(info)
        self._holds_back = False
        self._tell_bell.set()

    async def _lose(self, error: SourceError) -> None:
        was_connected = self._state.verdict == "connected"
        reason = str(error)
        if self._state.reason != reason or was_connected:
            log.warning("bitcoind.node_unavailable", node=self._node.name, reason=reason)
        self._note(verdict="unavailable", reason=reason)
        self._past.set_ready(False)
        self._holds_back = True
        if was_connected:
            self._gap_since = trio.current_time()
            self._told_tip = None
            await self._send_update.send(SourceLost(server=self._node.name))

    async def _tell_tip(self, info: ChainInfo) -> None:
        if self._told_tip == info.tip_hash:
            return
        block_hash = BlockHash(hash_from_hex(info.tip_hash))
        [raw_header] = await self._node.fetch_headers([block_hash]) or [b""]
        if raw_header:
            self._told_tip = info.tip_hash
            await self._send_update.send(TipChanged(server=self._node.name, height=info.blocks, raw_header=raw_header))

    async def _take_notices(self, receive: trio.MemoryReceiveChannel[Notice]) -> None:
        async for notice in receive:
            if self._state.verdict != "connected":
                continue  # the round after the greeting looks at everything
            try:
                match notice:
                    case GapNotice():
                        self._round_bell.set()
                    case BlockNotice():
                        self._hears_blocks = self._is_block_noticed = True
                        self._round_bell.set()
                    case TransactionNotice(txid, raw):
                        self._hears_transactions = True
                        await self._follower.take_notice(txid, raw)
                    case RemovalNotice(txid):
                        await self._follower.take_removal(txid)
            except SourceError:
                self._round_bell.set()
            self._tell_bell.set()

    # --- telling ---

    def _ring(self) -> None:
        self._tell_bell.set()

    async def _tell(self) -> None:
        """Read the histories of scripts that were touched, and tell those that are news."""
        while True:
            self._tell_bell = trio.Event()
            if self._holds_back:
                await self._tell_bell.wait()
                continue
            taken = self._book.take(now=trio.current_time(), limit=UNDER_WAY_AT_MOST)
            for scripthash, history in (await self._follower.histories(taken) if taken else {}).items():
                is_pending = scripthash in self._follower.without_past
                if not history and is_pending:
                    continue  # nothing can be said of it before its past was looked for
                status = status_of(history)
                if self._book.is_news(scripthash, status):
                    update = ScriptHashChanged(
                        server=self._node.name, scripthash=scripthash, status=status, history=history
                    )
                    await self._send_update.send(update)
            if taken:
                continue
            with trio.move_on_at(self._book.next_recheck()):
                await self._tell_bell.wait()

    async def updates(self) -> AsyncIterator[Update]:
        """Yield what changed, for ever."""
        async for update in self._updates:
            yield update

    # --- watches ---

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> bool:
        """Register a scripthash with what of it has been absorbed; False if it was registered, and stays as it is."""
        is_new = self._book.watch(scripthash, known_status)
        self._registrar.want(scripthash)
        return is_new

    def watch_all(self, watches: Sequence[tuple[ScriptHash, Status | None]]) -> None:
        """Register many scripthashes with what has been absorbed of each."""
        for scripthash, known_status in watches:
            self.watch(scripthash, known_status)

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a scripthash."""
        self._book.unwatch(scripthash)
        self._registrar.let_go(scripthash)
        self._tell_bell.set()

    def absorbed(self, scripthash: ScriptHash, status: Status | None, *, server: str, is_news: bool) -> None:
        """Tell that a history was worked in."""
        self._book.absorbed(scripthash, status)
        self._tell_bell.set()

    def recheck(self, scripthash: ScriptHash, *, after_s: float, server: str = "") -> None:
        """Tell a history again after a while, whatever was known."""
        if not server or server == self._node.name:
            self._book.recheck(scripthash, at=trio.current_time() + after_s)
            self._tell_bell.set()

    def statistics(self) -> WatchStatistics:
        """Return how many scripthashes are looked for in the node's blocks, and since when the others wait."""
        total = len(self._book.known)
        if self._state.verdict != "connected":
            gap_s = trio.current_time() - self._gap_since
            return WatchStatistics(total=total, subscribed=0, quarantined=0, oldest_gap_s=gap_s)
        waiting_since = self._registrar.waiting_since
        return WatchStatistics(
            total=total,
            subscribed=total - self._registrar.waiting,
            quarantined=0,
            oldest_gap_s=0.0 if waiting_since is None else trio.current_time() - waiting_since,
        )

    @property
    def past_progress(self) -> str:
        """How far the search for the past of scripts is, for whoever waits for it; empty where none is under way."""
        if not self._follower.without_past:
            return ""
        percent = self._past.progress
        return "the node's outputs are searched" + (f", {percent:.0f} percent" if percent is not None else "")

    # --- the server ---

    def connected(self) -> Sequence[str]:
        """Return the name of the node if it can be asked now."""
        return [self._node.name] if self._state.verdict == "connected" else []

    def voices(self) -> int:
        """Return how many servers there are: it is one's own, and alone."""
        return 1

    def servers(self) -> Sequence[ServerState]:
        """Return the state of the node."""
        return [self._state]

    def report(self, found: Misbehaviour) -> None:
        """Keep what contradicts our proofs: one's own node does not lie, so something is wrong with it, or with us."""
        log.error("bitcoind.node_contradicted", kind=found.kind, claim=found.claim, contradiction=found.contradiction)
        self._evidence.append(replace(found, observed_at=int(time.time())))
        self._note(reason=found.kind)

    def demote(self, server: str, reason: str) -> None:
        """Say that the node is behind our own chain; there is no other to take its place."""
        log.warning("bitcoind.node_behind", node=server, reason=reason)
        self._note(reason=reason)

    @property
    def servers_changed(self) -> trio.Event:
        """An event that is set when ``servers`` has news; take a new one each time."""
        return self._changed

    def tell_changed(self) -> None:
        """Have whoever waits for ``servers_changed`` look."""
        self._changed.set()
        self._changed = trio.Event()

    def take_evidence(self) -> list[Misbehaviour]:
        """Return what was reported since the last call."""
        taken, self._evidence = self._evidence, []
        return taken

    def trust(self, name: str) -> None:
        """Forgive the node what was reported: it is asked all the time anyhow."""
        if name == self._node.name:
            self._note(reason="")

    def _note(self, **changes: object) -> None:
        before = self._state
        self._state = replace(before, **changes)  # type: ignore[arg-type]  # the callers name fields
        if (before.verdict, before.reason) != (self._state.verdict, self._state.reason):
            self.tell_changed()

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
        known = await self._store.read(lambda db: node_findings.load_proof(db, txid))
        if known is not None and known.height == height and known.siblings is not None:
            return MerkleBranch(known.position, known.siblings, self._node.name)
        hashes = await self._node.fetch_block_hashes(height, 1)
        if not hashes:
            raise SourceRefusedError("no such block", code=NOT_FOUND, source=self._node.name)
        block = parse_block(await self._node.fetch_block(hashes[0]))
        if txid not in block.txids:
            raise SourceRefusedError("the block has no such transaction", code=NOT_FOUND, source=self._node.name)
        position = block.txids.index(txid)
        return MerkleBranch(position, merkle_branch_of(block.txids, position), self._node.name)

    async def fetch_transaction(
        self, txid: Txid, *, server: str = "", prefer: str = "", avoid: AbstractSet[str] = frozenset()
    ) -> RawTransaction:
        """Return raw bytes: of what was found in a block, waits in the mempool, or is in the node's own index."""
        await self._wait_node(server, avoid)
        known = await self._store.read(lambda db: node_findings.load_proof(db, txid))
        if known is not None and known.raw is not None:
            return RawTransaction(self._node.name, known.raw)
        if known is not None:
            hashes = await self._node.fetch_block_hashes(known.height, 1)
            if hashes:
                return RawTransaction(self._node.name, await self._node.fetch_raw_in(txid, hashes[0]))
        is_unproved = await self._store.read(lambda db: node_findings.is_unproved(db, txid))
        if is_unproved or self._follower.without_past:
            # It may be in a block that nobody can show; that is no denial.
            return RawTransaction(self._node.name, await self._fetch_undenied(txid))
        return RawTransaction(self._node.name, await self._node.fetch_raw(txid))

    async def _fetch_undenied(self, txid: Txid) -> bytes:
        try:
            return await self._node.fetch_raw(txid)
        except SourceRefusedError as error:
            raise SourceUnavailableError("it may be in a block that is not at hand", source=self._node.name) from error

    async def fetch_output(self, outpoint: Outpoint) -> TxOutput | None:
        """Return an output that no block has spent, or that waits in the mempool."""
        await self._wait_node("")
        return await self._follower.output_of(outpoint)

    async def fetch_history(self, scripthash: ScriptHash, *, server: str) -> History:
        """Return what is known of a script now.

        Raises:
            SourceUnavailableError: it may have payments in blocks that nobody can show: what is missing is not denied.
        """
        await self._wait_node(server)
        is_partial = await self._store.read(lambda db: node_findings.has_unproved(db, scripthash))
        if is_partial or scripthash in self._follower.without_past:
            raise SourceUnavailableError("not all of its blocks are at hand", source=server)
        return (await self._follower.histories([scripthash]))[scripthash]

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
