"""The source over a simulated node, with a real store and, where the ledger is asked for, the real tracker."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.source import BitcoindSource, NodeOptions
from lightipn.chain.checkpoint import Checkpoints
from lightipn.ledger.entries import LedgerEntry
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import events as event_store
from lightipn.store import ledger as ledger_store
from lightipn.store import node_findings
from lightipn.store.database import Store, open_store
from lightipn.store.ledger import ScriptRecord
from lightipn.tracker.spine import Tracker, open_tracker
from lightipn.tracker.wiring import Wiring
from lightipn.upkeep import WatchKeeper
from tests.bitcoind.simulated_node import SimulatedNode
from tests.tracker.rig import GENESIS, NOW, POLICIES, SHOP_SCRIPT

T = TypeVar("T")

NODE = "node"
POLL_S = 2.0
LOOKED_UP_S = 100_000
# What somebody with no watched script is paid with.
SOMEBODY_SCRIPT = forge.made_up_script("somebody")
# Long enough for what happened last to be worked in, and for a search and its first retries.
A_WHILE_S = 30.0
# What ``paid_in_many_blocks`` pays, as ``Life.shown`` shows it.
PAYMENTS = 6
PAID = [(1_000 * number, "Confirmed") for number in range(1, PAYMENTS + 1)]


@dataclass(frozen=True, slots=True)
class Life:
    """A service on one's own node, from its start to its end.

    Args:
        tracker: None where nobody reads what the source tells.
    """

    node: SimulatedNode
    store: Store
    source: BitcoindSource
    keeper: WatchKeeper
    tracker: Tracker | None

    async def watch(self, script: bytes = SHOP_SCRIPT) -> None:
        """Have a script looked after for good."""
        await self.store.transact(
            lambda db: ledger_store.add_script(db, Address(text=f"of {script.hex()}", script=script))
        )
        self.keeper.ring()

    async def unwatch(self, script: bytes = SHOP_SCRIPT) -> None:
        """Have a script forgotten."""
        await self.store.transact(lambda db: ledger_store.remove_script(db, scripthash_of(script)))
        self.keeper.ring()

    async def look_up(self, script: bytes) -> None:
        """Have a script's history worked in, as for whoever asks for it once."""
        address = Address(text=f"of {script.hex()}", script=script)
        until = int(NOW) + LOOKED_UP_S
        await self.store.transact(lambda db: ledger_store.want_script(db, address, until=until, must_ask=True))
        self.keeper.ring()

    async def is_ahead(self, script: bytes = SHOP_SCRIPT) -> bool:
        """Tell whether blocks show more of a script than the ledger holds, which lookups wait for."""
        return await self.store.read(lambda db: node_findings.is_ahead_of_ledger(db, scripthash_of(script)))

    async def record(self, script: bytes = SHOP_SCRIPT) -> ScriptRecord:
        """Return how far a script is known."""
        found = await self.store.read(lambda db: ledger_store.load_script(db, scripthash_of(script)))
        assert found is not None
        return found

    async def coverage(self, script: bytes = SHOP_SCRIPT) -> tuple[int | None, int]:
        """Return the height from which on a script's history is whole (None: all of it), and what is not proved."""
        coverage = (await self.record(script)).coverage
        return coverage.history_from, coverage.unproved_sat

    async def entries(self, script: bytes = SHOP_SCRIPT) -> Sequence[LedgerEntry]:
        """Return what the ledger holds of a script."""
        payments = await self.store.read(lambda db: ledger_store.load_payments(db, scripthash_of(script)))
        assert payments is not None
        return list(payments.entries.values())

    async def shown(self, script: bytes = SHOP_SCRIPT) -> list[tuple[int, str]]:
        """Return what the ledger holds of a script: the net amount of each payment and its state, sorted."""
        return sorted((entry.net_sat, type(entry.state).__name__) for entry in await self.entries(script))

    async def payment_events(self) -> list[tuple[str, int | None]]:
        """Return what was told of payments: the kind and the net amount of each event, the oldest first."""
        page = await self.store.read(lambda db: event_store.load_events(db, after=0, limit=1000, owner=None))
        return [(event.kind, event.net_sat) for event in page.events if event.kind.startswith("payment")]

    async def next_of(self, kind: type[T]) -> T:
        """Wait for the next update of a kind; there must be no tracker, which reads them all."""
        async with aclosing(self.source.updates()) as updates:
            async for update in updates:
                if isinstance(update, kind):
                    return update
        raise AssertionError("the source has ended")


@asynccontextmanager
async def life_on(
    node: SimulatedNode, path: Path, *, poll_s: float = POLL_S, zmq: Sequence[str] = (), has_tracker: bool = True
) -> AsyncIterator[Life]:
    """Run a service on a node, on what the ones before left in the database; whatever is under way at the end is lost.

    Args:
        has_tracker: else nobody reads what the source tells.
    """
    async with open_store(path, "regtest", threaded=False) as store, trio.open_nursery() as nursery:
        options = NodeOptions(poll_interval_s=poll_s, zmq=zmq)
        source = BitcoindSource(NodeRpc(node, name=NODE), store, REGTEST, options)
        tracker = None
        if has_tracker:
            wiring = Wiring(
                source=source,
                store=store,
                policies=POLICIES,
                ring=lambda: None,
                clock=lambda: NOW + trio.current_time(),
                is_own_node=True,
            )
            tracker = await open_tracker(
                wiring, network=REGTEST, checkpoints=Checkpoints((GENESIS,)), min_seen_by=1, drop_after_s=600
            )
            nursery.start_soon(tracker.run)
        keeper = WatchKeeper(store, source)
        await keeper.load()
        nursery.start_soon(keeper.run)
        nursery.start_soon(source.run)
        yield Life(node=node, store=store, source=source, keeper=keeper, tracker=tracker)
        nursery.cancel_scope.cancel()


def coin_of(chain: SimulatedChain, script: bytes = SHOP_SCRIPT) -> Outpoint:
    """Return the one output that a script has."""
    ((outpoint),) = [coin.outpoint for coin in chain.coins(scripthash_of(script))]
    return Outpoint(outpoint.txid, outpoint.index)


def paid_in_many_blocks() -> SimulatedChain:
    """Return a chain of nine blocks on which the shop was paid in each of the blocks from 2 to 7."""
    chain = SimulatedChain()
    chain.mine()
    for number in range(1, PAYMENTS + 1):
        chain.pay(SHOP_SCRIPT, 1_000 * number)
        chain.mine()
    chain.mine(2)
    return chain


def in_the_middle(node: SimulatedNode, method: str, count: int, deed: Callable[[], Awaitable[None]]) -> None:
    """Have something done once, after so many calls of a method."""
    left = count

    async def count_down() -> None:
        nonlocal left
        left -= 1
        if left:
            node.after[method] = count_down
        else:
            await deed()

    node.after[method] = count_down
