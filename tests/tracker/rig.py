"""The spine on a fake source and a real store: what tests ask it, and what it did."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio
import trio.testing

from lightipn.bitcoin.address import Address, address_of, parse_address
from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import parse_transaction
from lightipn.chain.checkpoint import Checkpoint, Checkpoints
from lightipn.chain.verifier import Confirmed
from lightipn.dialects.ipn import wire
from lightipn.dialects.ipn.policy import IpnPolicy
from lightipn.dialects.receive.policy import ReceivePolicy
from lightipn.ledger.entries import LedgerEntry, totals_of
from lightipn.outbox.policy import Policy
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.view import ChainView
from lightipn.store import chain as chain_store
from lightipn.store import deliveries
from lightipn.store import events as event_store
from lightipn.store import ledger as ledger_store
from lightipn.store import subscriptions as subscription_store
from lightipn.store.database import Store
from lightipn.store.events import RecordedEvent
from lightipn.tracker.spine import Tracker, open_tracker
from lightipn.tracker.wiring import Wiring
from tests.tracker.fake_server import FakeServer
from tests.tracker.fake_source import FakeSource

SHOP_SCRIPT = forge.made_up_script("shop")
SHOP = scripthash_of(SHOP_SCRIPT)
OTHER_SCRIPT = forge.made_up_script("other")
OTHER = scripthash_of(OTHER_SCRIPT)
GENESIS = Checkpoint(height=0, block_hash=REGTEST.genesis_hash, next_bits=None)
POLICIES: dict[str, Policy] = {"ipn": IpnPolicy(max_retry_interval_s=3600.0), "receive": ReceivePolicy()}
NOW = 1_700_000_000.0
ONE, TWO, THREE = NAMES = ("one.example:50001:t", "two.example:50001:t", "three.example:50001:t")


@dataclass(slots=True)
class WallClock:
    """Unix seconds that stand still unless a test moves them."""

    now: float = NOW

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@dataclass(slots=True)
class Spine:
    """Everything that stands on the source, and what it did.

    Args:
        chain: the truth; every server has it unless a test gives it another.
        rings: how often the dispatcher was rung.
    """

    chain: SimulatedChain
    source: FakeSource
    store: Store
    clock: WallClock
    tracker: Tracker
    rings: list[None] = field(default_factory=list)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _ended: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> None:
        """Run until the end of the test, or until it dies."""
        with self._scope:
            await self.tracker.run()
        self._ended.set()

    async def die(self) -> None:
        """Lose everything that is not on disk."""
        self._scope.cancel()
        await self._ended.wait()

    # --- servers ---

    @property
    def server(self) -> FakeServer:
        """The first server."""
        return self.source.first

    def servers(self) -> Sequence[FakeServer]:
        """Return all servers, in order."""
        return list(self.source.named.values())

    def stop_learning(self, *names: str) -> None:
        """Leave servers with what is known now; ``learn`` ends it."""
        for name in names:
            # the same seed, so that nothing but what happens later makes them differ
            self.source.named[name].chain = self.chain.copy(seed=self.chain.seed)

    def learn(self, *names: str) -> None:
        """Have servers know the truth again."""
        for name in names:
            self.source.named[name].chain = self.chain

    # --- what happens ---

    async def settle(self) -> None:
        """Let everything that can happen now happen."""
        await trio.testing.wait_all_tasks_blocked()

    async def follow(self, server: str = "") -> None:
        """Have every server, or one, announce its tip, and wait until it was followed."""
        await self.source.tell_tip(server=server)
        await self.settle()

    async def absorb(self, script: bytes = SHOP_SCRIPT, *, server: str = "") -> None:
        """Have every server, or one, announce a script's history, and wait until it was worked in."""
        await self.source.tell(scripthash_of(script), server=server)
        await self.settle()

    async def publish(self) -> None:
        """Have every server announce what changed, and wait until it was worked in."""
        await self.source.publish()
        await self.settle()

    async def pay_and_mine(self, amount_sat: int = 5_000) -> Txid:
        """Pay the shop in a block that we follow; its history is not told yet."""
        txid = self.chain.pay(SHOP_SCRIPT, amount_sat)
        self.chain.mine()
        await self.follow()
        return txid

    async def subscribe(
        self,
        script: bytes = SHOP_SCRIPT,
        *,
        depth: int = 1,
        url: str = "http://shop.example/",
        dialect: str = "ipn",
        terms: bytes | None = None,
        since_height: int = 0,
    ) -> None:
        """Subscribe a shop to a script, and have the source watch it.

        Args:
            since_height: the tip at which it is made.
        """
        await self.store.transact(
            lambda db: subscription_store.save_subscription(
                db,
                dialect=dialect,
                owner="shop",
                address=address_on_regtest(script),
                url=url,
                terms=wire.encode_terms(wire.IpnTerms(max_confirms=depth)) if terms is None else terms,
                now=int(NOW),
                since_height=since_height,
            )
        )
        self.source.watch(scripthash_of(script), None)

    # --- what came of it ---

    async def totals(self, script: bytes = SHOP_SCRIPT, *, depth: int = 1) -> tuple[int, int]:
        """Return what the ledger says was received: confirmed and unconfirmed satoshis."""
        entries = (await self.entries(script)).values()
        found = totals_of(entries, tip_height=self.tracker.follower.chain.tip_height, confirmations=depth)
        return found.confirmed_sat, found.unconfirmed_sat

    async def entries(self, script: bytes = SHOP_SCRIPT) -> dict[Txid, LedgerEntry]:
        """Return a script's ledger entries by txid; none where nobody wants the script."""
        payments = await self.store.read(lambda db: ledger_store.load_payments(db, scripthash_of(script)))
        return dict(payments.entries) if payments else {}

    async def known_status(self, scripthash: ScriptHash = SHOP) -> bytes | None:
        """Return the status that the store holds as absorbed."""
        record = await self.store.read(lambda db: ledger_store.load_script(db, scripthash))
        assert record is not None
        return record.known_status

    async def due(self) -> list[tuple[int, int]]:
        """Return the totals of every message that is due, newest message first."""
        pending = await self.store.read(lambda db: deliveries.load_deliveries(db, limit=5000, is_pending_only=True))
        totals = [wire.decode_payload(delivery.payload) for delivery in pending]
        return [(one.confirmed_sat, one.unconfirmed_sat) for one in totals]

    async def feed(self, prefix: str = "payment.") -> tuple[RecordedEvent, ...]:
        """Return every event so far whose kind begins with a word."""
        page = await self.store.read(lambda db: event_store.load_events(db, after=0, limit=1_000_000, owner=None))
        return tuple(event for event in page.events if event.kind.startswith(prefix))

    async def told_of(self, txid: Txid, script: bytes = SHOP_SCRIPT) -> list[str]:
        """Return the kinds of a payment's events, in order."""
        scripthash = scripthash_of(script)
        return [event.kind for event in await self.feed() if (event.txid, event.scripthash) == (txid, scripthash)]

    async def stored_headers(self) -> list[bytes]:
        """Return the headers on disk."""
        _, headers = await self.store.read(chain_store.load_headers)
        return headers

    def hashes(self) -> list[BlockHash | None]:
        """Return the hashes of our chain in memory, from the base to the tip."""
        chain = self.tracker.follower.chain
        return [chain.hash_at(height) for height in range(chain.base.height, chain.tip_height + 1)]

    async def is_followed(self) -> bool:
        """Tell whether memory and disk both hold the true chain."""
        headers = self.chain.headers_from(1, self.chain.tip_height)
        return self.hashes() == hashes_of(self.chain) and await self.stored_headers() == headers

    def proved(self, txid: Txid) -> Confirmed:
        """Return where a transaction is, as the made-up chain knows it."""
        height = self.chain.height_of(txid)
        assert height is not None
        block = self.chain.block_at(height)
        return Confirmed(block.block_hash, height, block.txids.index(txid))

    def script_spent_by(self, txid: Txid, place: int = 0) -> bytes:
        """Return the script of an output that a transaction spends: by default its first input's."""
        raw = self.chain.transaction(txid)
        assert raw is not None
        spend = parse_transaction(raw).spends[place]
        parent = self.chain.transaction(spend.txid)
        assert parent is not None
        return parse_transaction(parent).outputs[spend.index].script


def hashes_of(chain: ChainView, base_height: int = 0) -> list[BlockHash]:
    """Return the hashes of a made-up chain from a height to the tip."""
    return [chain.block_at(height).block_hash for height in range(base_height, chain.tip_height + 1)]


def address_on_regtest(script: bytes) -> Address:
    """Return the address of an output script."""
    text = address_of(script, REGTEST)
    assert text is not None
    return parse_address(text, REGTEST)


async def open_spine(
    store: Store,
    nursery: trio.Nursery,
    chain: SimulatedChain,
    checkpoints: Checkpoints | None = None,
    *,
    servers: int = 1,
    is_live: bool = False,
    min_seen_by: int = 2,
    drop_after_s: float = 600.0,
) -> Spine:
    """Start a spine over a chain and some servers, with checkpoints and what the store holds already."""
    rows = checkpoints or Checkpoints((GENESIS,))
    source = FakeSource([FakeServer(name, chain) for name in NAMES[:servers]], nursery, is_live=is_live)
    rings: list[None] = []
    clock = WallClock()
    wiring = Wiring(source=source, store=store, policies=POLICIES, ring=lambda: rings.append(None), clock=clock)
    tracker = await open_tracker(
        wiring, network=REGTEST, checkpoints=rows, min_seen_by=min_seen_by, drop_after_s=drop_after_s
    )
    spine = Spine(chain, source, store, clock, tracker, rings)
    nursery.start_soon(spine.run)
    await spine.settle()
    return spine


OpenSpine = Callable[..., Awaitable[Spine]]
