"""The spine on a fake source and a real store: what tests ask it, and what it did."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
import trio.testing

from lightipn.bitcoin.address import address_of, parse_address
from lightipn.bitcoin.hashes import ScriptHash, scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.checkpoint import Checkpoint
from lightipn.dialects.ipn import wire
from lightipn.dialects.ipn.policy import IpnPolicy
from lightipn.ledger.entries import LedgerEntry, totals_of
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import chain as chain_store
from lightipn.store import deliveries
from lightipn.store import ledger as ledger_store
from lightipn.store import subscriptions as subscription_store
from lightipn.store.database import Store
from lightipn.tracker.chain_follower import ChainFollower
from lightipn.tracker.spine import Tracker
from tests.tracker.fake_source import FakeSource

SHOP_SCRIPT = forge.made_up_script("shop")
SHOP = scripthash_of(SHOP_SCRIPT)
GENESIS = Checkpoint(height=0, block_hash=REGTEST.genesis_hash, next_bits=None)
POLICIES = {"ipn": IpnPolicy(max_retry_interval_s=3600.0)}
NOW = 1_700_000_000.0


@dataclass(slots=True)
class Spine:
    """Follower and tracker, what they stand on, and what they did.

    Args:
        rings: how often the dispatcher was rung.
    """

    chain: SimulatedChain
    source: FakeSource
    store: Store
    follower: ChainFollower
    tracker: Tracker
    rings: list[None] = field(default_factory=list)

    async def settle(self) -> None:
        """Let everything that can happen now happen."""
        await trio.testing.wait_all_tasks_blocked()

    async def follow(self) -> None:
        """Have the source announce its tip, and wait until it was followed."""
        await self.source.tell_tip()
        await self.settle()

    async def absorb(self, script: bytes = SHOP_SCRIPT) -> None:
        """Have the source announce a script's history, and wait until it was worked in."""
        await self.source.tell(scripthash_of(script))
        await self.settle()

    async def subscribe(
        self, script: bytes = SHOP_SCRIPT, *, depth: int = 1, url: str = "http://shop.example/"
    ) -> None:
        """Subscribe a shop to a script, and have the source watch it."""
        self.source.watch(scripthash_of(script), None)
        text = address_of(script, REGTEST)
        assert text is not None
        await self.store.transact(
            lambda db: subscription_store.save_subscription(
                db,
                dialect="ipn",
                owner="shop",
                address=parse_address(text, REGTEST),
                url=url,
                terms=wire.encode_terms(wire.IpnTerms(max_confirms=depth)),
                now=int(NOW),
            )
        )

    async def totals(self, script: bytes = SHOP_SCRIPT, *, depth: int = 1) -> tuple[int, int]:
        """Return what the ledger says was received: confirmed and unconfirmed satoshis."""
        entries = (await self.entries(script)).values()
        found = totals_of(entries, tip_height=self.follower.chain.tip_height, confirmations=depth)
        return found.confirmed_sat, found.unconfirmed_sat

    async def entries(self, script: bytes = SHOP_SCRIPT) -> dict[bytes, LedgerEntry]:
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

    async def stored_headers(self) -> list[bytes]:
        """Return the headers on disk."""
        _, headers = await self.store.read(chain_store.load_headers)
        return headers


OpenSpine = Callable[..., Awaitable[Spine]]
