"""A made-up world for the laws: a chain to which anything may happen, one server that lies, one that may lag behind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio
import trio.testing

from lightipn.bitcoin.hashes import ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.transaction import Outpoint, Transaction, parse_transaction
from lightipn.chain.history import History, HistoryEntry, Status
from lightipn.chain.source import MerkleBranch
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.entries import Dropped, Replaced
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import ledger as ledger_store
from lightipn.store import spends as spend_store
from lightipn.store.database import Database, Store
from tests.builders import raw_transaction, txid_of
from tests.tracker import rig
from tests.tracker.rig import NAMES, ONE, SHOP, SHOP_SCRIPT, THREE, TWO, Spine

WALLET_SCRIPT = forge.made_up_script("wallet")
THIEF_SCRIPT = forge.made_up_script("thief")
DROP_AFTER_S = 600.0
# What a recheck waits at most, what dropping takes at most, and something for the questions in between.
LONG_ENOUGH_S = 2 * DROP_AFTER_S + 3 * 300.0

LEGAL = {
    "": {"payment.seen", "payment.confirmed"},
    "payment.seen": {"payment.confirmed", "payment.replaced", "payment.dropped"},
    "payment.confirmed": {"payment.reverted"},
    "payment.reverted": {"payment.confirmed", "payment.replaced", "payment.dropped"},
    "payment.replaced": {"payment.seen", "payment.confirmed"},
    "payment.dropped": {"payment.seen", "payment.confirmed"},
}


@dataclass(slots=True)
class World:
    """What happens to the chain and its servers; two of three tell the truth, but the second may be late with it.

    Args:
        real: every transaction that ever was on the true chain, or in its mempool.
    """

    store: Store
    nursery: trio.Nursery
    spine: Spine
    real: set[Txid] = field(default_factory=set)

    async def do(self, deed: str, first: int, second: int) -> None:
        """Let something happen, and have every server tell what changed for it."""
        match deed:
            case "restart":
                await self._restart()
            case "wait":
                await trio.sleep(1.0 + 30.0 * first)
            case _:
                happen: Callable[[int, int], None] = getattr(self, f"_{deed}")
                happen(first, second)
        self.real |= {*self.spine.chain.mempool, *self._in_blocks()}
        await self.spine.publish()

    def _in_blocks(self) -> set[Txid]:
        chain = self.spine.chain
        return {txid for height in range(chain.tip_height + 1) for txid in chain.block_txids(height)}

    # --- the chain ---

    def _pick(self, number: int) -> Txid | None:
        mempool = self.spine.chain.mempool
        return mempool[number % len(mempool)] if mempool else None

    def _pay(self, first: int, second: int) -> None:
        """Pay the shop, or the buyer's wallet, from new money, the wallet's or the shop's own."""
        chain = self.spine.chain
        source = (None, WALLET_SCRIPT, SHOP_SCRIPT)[first % 3]
        coins = [] if source is None else chain.coins(scripthash_of(source))
        spends = [coin.outpoint for coin in coins if coin.spent_by is None]
        target = (SHOP_SCRIPT, SHOP_SCRIPT, WALLET_SCRIPT)[second % 3]
        change_to = SHOP_SCRIPT if second % 4 == 3 else None
        chain.pay(
            target,
            10_000 + 7 * second,
            spend=spends[second % len(spends) :][:1] if spends else None,
            change_to=change_to,
        )

    def _replace(self, first: int, second: int) -> None:
        """Replace a transaction by one with a higher fee, another amount, or another receiver."""
        txid = self._pick(first)
        if txid is not None:
            script, amount_sat = ((None, None), (None, 12_345 + second), (THIEF_SCRIPT, None))[second % 3]
            self.spine.chain.replace(txid, script, amount_sat)

    def _evict(self, first: int, second: int) -> None:
        """Have the mempool forget a transaction."""
        txid = self._pick(first)
        if txid is not None:
            self.spine.chain.evict(txid)

    def _mine(self, first: int, second: int) -> None:
        """Mine one or two blocks with all, some or none of the mempool; now and then for the shop."""
        mempool = self.spine.chain.mempool
        include = (None, mempool[: second % (len(mempool) + 1)], ())[first % 3]
        self.spine.chain.mine(1 + second % 2, include=include, pay_to=SHOP_SCRIPT if second % 5 == 4 else None)

    def _reorg(self, first: int, second: int) -> None:
        """Lose up to four blocks, with or without what was in them; it may be mined again, or replaced."""
        chain = self.spine.chain
        depth = min(1 + first % 4, chain.tip_height)
        lost = [
            txid
            for height in range(chain.tip_height - depth + 1, chain.tip_height + 1)
            for txid in chain.block_txids(height)[1:]
        ]
        chain.reorg(depth, drop=lost[: second % 3], remine=second % 2 == 0)

    # --- servers ---

    def _lag(self, first: int, second: int) -> None:
        """Have the second server stop learning, or catch up."""
        if first % 2:
            self.spine.stop_learning(TWO)
        else:
            self.spine.learn(TWO)

    def _lie(self, first: int, second: int) -> None:
        """Have the third server lie in another way, or stop lying."""
        self._tell_the_truth()
        liar, chain = self.spine.source.named[THREE], self.spine.chain
        invented = parse_transaction(raw_transaction([Outpoint(txid_of(second), 0)], [(99_000, SHOP_SCRIPT)]))
        target = self._pick(second)
        rival = self._rival_of(target)
        match first % 8:
            case 1:  # leaves payments out
                liar.history_of = lambda sh: chain.history(sh)[second % 3 :: 2]
            case 2:  # says that nothing is known
                liar.history_of = lambda _: ()
            case 3:  # invents a payment, in the mempool or a block
                height = (None, chain.tip_height, chain.tip_height + 3)[second % 3]
                liar.history_of = lambda sh: _with(chain.history(sh), invented.txid, height if sh == SHOP else -1)
                liar.transaction_of = lambda txid: invented.raw if txid == invented.txid else chain.transaction(txid)
                liar.branch_of = lambda txid, _: MerkleBranch(0, ())
            case 4:  # denies everything
                liar.transaction_of = lambda _: None
            case 5:  # knows nothing new
                self.spine.stop_learning(THREE)
            case 6 if rival is not None and target is not None:  # claims that a payment was spent elsewhere
                liar.transaction_of = lambda txid: {rival.txid: rival.raw, target: None}.get(
                    txid, chain.transaction(txid)
                )
                liar.history_of = lambda sh: _with(
                    tuple(claim for claim in chain.history(sh) if claim.txid != target),
                    rival.txid,
                    None if sh != SHOP else -1,
                )
            case 7:  # proves nothing
                liar.branch_of = lambda txid, _: MerkleBranch(1, (bytes(32),))

    def _rival_of(self, txid: Txid | None) -> Transaction | None:
        raw = None if txid is None else self.spine.chain.transaction(txid)
        if raw is None:
            return None
        return parse_transaction(raw_transaction(parse_transaction(raw).spends, [(1_000, THIEF_SCRIPT)]))

    def _tell_the_truth(self) -> None:
        liar = self.spine.source.named[THREE]
        liar.history_of = liar.transaction_of = liar.branch_of = None
        self.spine.learn(THREE)
        if THREE not in self.spine.source.connected():
            self.spine.source.regain(THREE)  # another server in its place, say

    async def _restart(self) -> None:
        """End the process, and start another on the same database."""
        before = self.spine
        await before.die()
        self.spine = await rig.open_spine(
            self.store, self.nursery, before.chain, servers=3, is_live=True, drop_after_s=DROP_AFTER_S
        )
        for scripthash, status in await self.store.transact(_load_watches):
            self.spine.source.watch(scripthash, status)

    async def settle_honestly(self) -> None:
        """Have all servers tell the truth, until nothing is left to be told."""
        self._tell_the_truth()
        self.spine.learn(*NAMES)
        await self.spine.publish()
        await trio.sleep(LONG_ENOUGH_S)
        await self.spine.publish()
        await trio.sleep(LONG_ENOUGH_S)

    # --- laws ---

    async def check_verdicts(self) -> None:
        """Only the liar may be reported."""
        assert {server for server, _ in self.spine.source.verdicts} <= {THREE}
        assert ONE in self.spine.source.connected()

    async def check_events(self) -> None:
        """Every payment's events are a legal story, and who replaced it was real; numbers and blocks have no gap."""
        events = await self.spine.feed("")
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        last: dict[Txid, str] = {}
        for event in events:
            if event.txid is None:
                continue
            assert event.kind in LEGAL[last.get(event.txid, "")], (event.kind, last.get(event.txid, ""))
            assert event.txid in self.real
            last[event.txid] = event.kind
            if event.kind == "payment.replaced":
                assert event.replaced_by in self.real - {event.txid}

    async def check_ledger(self) -> None:
        """The ledger is what the chain says: each payment is where it is, what is not there is gone, the sums agree."""
        chain, entries = self.spine.chain, await self.spine.entries()
        history = {claim.txid: claim.height for claim in chain.history(SHOP)}
        assert history.keys() <= entries.keys()
        sums = {True: 0, False: 0}
        for txid, entry in entries.items():
            if txid not in history:
                assert isinstance(entry.state, Replaced | Dropped), entry.state
                continue
            if history[txid] is None:
                assert isinstance(entry.state, Unconfirmed)
            else:
                assert entry.state == self.spine.proved(txid)
            counts = isinstance(entry.state, Confirmed) and not self._is_mined(txid)
            sums[counts] += max(0, self._net_sat(txid))
        assert await self.spine.totals() == (sums[True], sums[False])

    def _is_mined(self, txid: Txid) -> bool:
        """Tell whether a payment is a coinbase: none here is old enough to count as confirmed."""
        height = self.spine.chain.height_of(txid)
        return height is not None and self.spine.chain.block_txids(height)[0] == txid

    def _net_sat(self, txid: Txid) -> int:
        """Return what a transaction changed for the shop, reckoned without the code under test."""
        chain = self.spine.chain
        raw = chain.transaction(txid)
        assert raw is not None
        transaction = parse_transaction(raw)
        received = sum(output.amount_sat for output in transaction.outputs if output.script == SHOP_SCRIPT)
        for spend in () if transaction.is_coinbase else transaction.spends:
            parent = chain.transaction(spend.txid)
            assert parent is not None
            output = parse_transaction(parent).outputs[spend.index]
            received -= output.amount_sat if output.script == SHOP_SCRIPT else 0
        return received


def _load_watches(db: Database) -> list[tuple[ScriptHash, Status | None]]:
    spend_store.drop_settled_spends(db)
    return ledger_store.load_watches(db)


def _with(history: History, txid: Txid, height: int | None) -> History:
    """Add a claim at its place; -1 adds none."""
    if height == -1:
        return history
    if height is None:
        return (*history, HistoryEntry(txid, None))
    confirmed = [claim for claim in history if claim.height is not None and claim.height <= height]
    later = [claim for claim in history if claim not in confirmed]
    return (*confirmed, HistoryEntry(txid, height), *later)


async def open_world(store: Store, nursery: trio.Nursery, chain: SimulatedChain) -> World:
    """Open a world over a chain, with the shop subscribed and the buyer's wallet filled."""
    for _ in range(3):
        chain.pay(WALLET_SCRIPT, 1_000_000)
    chain.mine(3)
    spine = await rig.open_spine(store, nursery, chain, servers=3, is_live=True, drop_after_s=DROP_AFTER_S)
    await spine.subscribe()
    await spine.follow()
    return World(store, nursery, spine)


Deeds = Sequence[tuple[str, int, int]]
