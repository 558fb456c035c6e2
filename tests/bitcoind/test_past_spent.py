"""Coins that were spent, that nothing proves, or that are somebody else's: what is said of them is true."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Outpoint
from lightipn.bitcoind.mempool_follower import MempoolFollower
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.view import new_view
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import ledger as ledger_store
from lightipn.store import node_findings
from lightipn.store.database import Database, Store, open_store
from lightipn.store.node_blocks import Position
from lightipn.store.node_scripts import NodeScript
from tests.bitcoind.rig import A_WHILE_S, NODE, SOMEBODY_SCRIPT, Life, life_on
from tests.bitcoind.simulated_node import SimulatedNode
from tests.tracker.rig import OTHER_SCRIPT, SHOP, SHOP_SCRIPT

COIN_SAT = 1_000_000
SPENT_SAT = 300_000
CHANGE_NET_SAT = -(SPENT_SAT + 1_000)  # with the fee
LONG_S = 200.0
# Longer than a payment is missing before it is dropped.
DROPPED_AFTER_S = 2000.0


def chain_with_coin(script: bytes, *, blocks_since: int) -> tuple[SimulatedChain, Outpoint]:
    """Return a chain in whose block 2 a script was paid, with so many blocks after it, and what it was paid."""
    chain = SimulatedChain()
    chain.mine()
    txid = chain.pay(script, COIN_SAT)
    chain.mine(1 + blocks_since)
    return chain, Outpoint(txid, 0)


def spend(chain: SimulatedChain, coin: Outpoint, *, has_change: bool = False) -> None:
    """Have the shop pay somebody out of its coin, in a block."""
    chain.pay(SOMEBODY_SCRIPT, SPENT_SAT, spend=[coin], change_to=SHOP_SCRIPT if has_change else None)
    chain.mine()


async def missing(life: Life) -> Sequence[Txid]:
    """Return what the ledger lacks of that part of the shop's history which is said to be whole."""
    held = {entry.txid for entry in await life.entries()}
    since = (await life.coverage())[0] or 0
    blocks = [(entry.txid, entry.height) for entry in life.node.chain.history(SHOP)]
    return [txid for txid, height in blocks if height is not None and height >= since and txid not in held]


# --- spent before the watch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_transactions", [False, True])
@pytest.mark.parametrize("has_change", [False, True])
async def test_change_of_a_coin_that_no_scan_names_is_no_payment(
    has_change: bool, has_transactions: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A coin that was spent is in no scan of outputs; its change is told as spending, and nobody is accused."""
    chain, coin = chain_with_coin(SHOP_SCRIPT, blocks_since=1)
    spend(chain, coin, has_change=has_change)
    chain.mine()
    chain.pay(SHOP_SCRIPT, 5_000)
    chain.mine()
    node = SimulatedNode(chain, has_filters=False, has_transactions=has_transactions)
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(LONG_S)
        change = [(CHANGE_NET_SAT, "Confirmed")] if has_change else []
        assert (await life.shown(), await life.coverage()) == ([*change, (5_000, "Confirmed")], (7, 0))
        assert (await life.record()).absorbed_at is not None
        assert not await life.is_ahead()
        assert life.source.take_evidence() == []


@pytest.mark.parametrize("has_change", [False, True])
async def test_history_is_not_whole_from_where_blocks_are_pruned(
    has_change: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What was spent of a pruned block's coin may not be shown by filters, so no height below it is called whole."""
    chain, coin = chain_with_coin(SHOP_SCRIPT, blocks_since=2)
    spend(chain, coin, has_change=has_change)
    chain.pay(SHOP_SCRIPT, 70_000)
    chain.mine(5)
    node = SimulatedNode(chain, has_filters=True)
    node.prune_height = 4
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(LONG_S)
        assert await missing(life) == []
        change = [(CHANGE_NET_SAT, "Confirmed")] if has_change else []
        assert await life.shown() == [*change, (70_000, "Confirmed")]
        assert (await life.coverage())[1] == 0
        assert life.source.take_evidence() == []


# --- coins that nothing proves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_filters", [False, True])
async def test_unproved_coin_that_is_spent_during_its_search_is_held_no_more(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A block that comes after the scan spends what the scan named: it counts as spent, also after a restart."""
    chain, coin = chain_with_coin(SHOP_SCRIPT, blocks_since=2)
    chain.pay(SHOP_SCRIPT, 5_000)
    chain.mine(2)
    node = SimulatedNode(chain, has_filters=has_filters)
    node.prune_height = 4

    async def spend_it() -> None:
        spend(chain, coin)
        await trio.sleep(10.0)

    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        node.after["scantxoutset"] = spend_it
        await life.watch()
        await trio.sleep(LONG_S)
        assert (await life.shown(), await life.coverage()) == ([(-COIN_SAT, "Confirmed"), (5_000, "Confirmed")], (7, 0))
        assert chain.tip_height == 7
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        assert await life.coverage() == (7, 0)


@pytest.mark.slow
async def test_evicted_payment_is_dropped_beside_unproved_coins(tmp_path: Path, autojump_clock: MockClock) -> None:
    """That a script has a coin which nothing proves keeps no other payment of it alive."""
    chain, _ = chain_with_coin(SHOP_SCRIPT, blocks_since=4)
    node = SimulatedNode(chain, has_filters=False)
    node.prune_height = 4
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        paid = chain.pay(SHOP_SCRIPT, 7_000)
        await trio.sleep(A_WHILE_S)
        chain.evict(paid)
        await trio.sleep(DROPPED_AFTER_S)
        assert await life.shown() == [(7_000, "Dropped")]
        assert await life.payment_events() == [("payment.seen", 7_000), ("payment.dropped", 7_000)]
        assert await life.coverage() == (7, COIN_SAT)


async def replace_script(store: Store) -> None:
    """Have the shop's script forgotten and watched again in one go."""

    def work(db: Database) -> None:
        ledger_store.remove_script(db, SHOP)
        ledger_store.add_script(db, Address(text="the same", script=SHOP_SCRIPT))

    await store.transact(work)


@pytest.mark.slow
@pytest.mark.parametrize("has_filters", [False, True])
@pytest.mark.parametrize("when", ["while the service is stopped", "in one page", "with a let-go in between"])
async def test_script_that_is_watched_again_after_its_block_was_pruned_has_its_coin_unproved(
    when: str, has_filters: bool, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payment whose proof is gone on both sides is said beside the payments; the ledger is not waited for in vain."""
    for module in ("node_blocks", "node_findings"):
        monkeypatch.setattr(f"lightipn.store.{module}.BLOCKS_KEPT", 50)
    chain = SimulatedChain()
    chain.mine(2)
    node = SimulatedNode(chain, has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        txid = chain.pay(SHOP_SCRIPT, COIN_SAT)
        chain.mine(111)
        await trio.sleep(A_WHILE_S)
        node.prune_height = 60
        await trio.sleep(A_WHILE_S)
        assert await life.shown() == [(COIN_SAT, "Confirmed")]
        proof = await life.store.read(lambda db: node_findings.load_proof(db, txid))
        assert proof is not None
        assert proof.raw is None
        if when == "in one page":
            await replace_script(life.store)
            life.keeper.ring()
        elif when == "with a let-go in between":
            await life.unwatch()
            await trio.sleep(A_WHILE_S)
            await life.watch()
        await trio.sleep(A_WHILE_S)
    if when == "while the service is stopped":
        async with open_store(tmp_path / "a.db", "regtest", threaded=False) as store:
            await replace_script(store)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(LONG_S)
        assert (await life.shown(), await life.coverage()) == ([], (114, COIN_SAT))
        assert not await life.is_ahead()


# --- who pays --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_filters", [False, True])
@pytest.mark.parametrize("waited_s", [1.0, 100.0])
async def test_payer_that_is_looked_up_after_its_payment_is_settled(
    waited_s: float, has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What the payment's block showed of its payer is no beginning of the payer's own history, and no contradiction."""
    chain, coin = chain_with_coin(OTHER_SCRIPT, blocks_since=2)
    node = SimulatedNode(chain, has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        chain.pay(SHOP_SCRIPT, 900_000, spend=[coin])
        await trio.sleep(A_WHILE_S)
        chain.mine()
        await trio.sleep(waited_s)
        await life.look_up(OTHER_SCRIPT)
        await trio.sleep(LONG_S)
        whole = [(-COIN_SAT, "Confirmed"), (COIN_SAT, "Confirmed")]
        assert await life.shown(OTHER_SCRIPT) == (whole if has_filters else [])
        assert await life.coverage(OTHER_SCRIPT) == (None if has_filters else 6, 0)
        assert (await life.record(OTHER_SCRIPT)).absorbed_at is not None
        assert not await life.is_ahead(OTHER_SCRIPT)
        assert await life.shown() == [(900_000, "Confirmed")]
        assert life.source.take_evidence() == []


async def skip_blocks_while_a_payment_waits(life: Life, coin: Outpoint) -> Txid:
    """Have the shop paid, blocks without that payment pruned unseen, and return the payment."""
    node = life.node
    await life.watch()
    await trio.sleep(A_WHILE_S)
    paid = node.chain.pay(SHOP_SCRIPT, 900_000, spend=[coin])
    await trio.sleep(A_WHILE_S)
    node.trouble = "unreachable"
    await trio.sleep(A_WHILE_S)
    node.chain.mine(20, include=[])
    node.prune_height = 15
    node.trouble = ""
    await trio.sleep(LONG_S)
    return paid


async def test_skip_leaves_no_search_for_who_only_pays(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Behind pruned blocks nothing is looked for of a script that is known only because a payment spends from it."""
    chain, coin = chain_with_coin(OTHER_SCRIPT, blocks_since=2)
    async with life_on(SimulatedNode(chain), tmp_path / "a.db") as life:
        await skip_blocks_while_a_payment_waits(life, coin)
        assert life.source.past_progress == ""
        assert await life.shown() == [(900_000, "Unconfirmed")]
        assert await missing(life) == []


@pytest.mark.slow
async def test_payment_that_waits_after_a_skip_is_dropped_when_it_is_evicted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A payment that the node still holds behind pruned blocks stands in none of them: once it is gone, it is gone."""
    chain, coin = chain_with_coin(OTHER_SCRIPT, blocks_since=2)
    async with life_on(SimulatedNode(chain), tmp_path / "a.db") as life:
        paid = await skip_blocks_while_a_payment_waits(life, coin)
        chain.evict(paid)
        await trio.sleep(DROPPED_AFTER_S)
        assert await life.shown() == [(900_000, "Dropped")]


# --- the listing of the mempool --------------------------------------------------------------------------------------


async def test_payment_that_left_and_came_back_during_a_listing_stays(tmp_path: Path) -> None:
    """A listing is older than the notices that come while it is made: what it lacks and they brought is not gone."""
    chain = SimulatedChain()
    chain.mine(3)
    node, view = SimulatedNode(chain), new_view()
    view.book.watch(SHOP, None)
    view.targets.take_up([NodeScript(scripthash=SHOP, script=SHOP_SCRIPT, is_past_known=True)])
    view.position = Position(chain.tip_height, chain.block_at(chain.tip_height).block_hash)
    async with open_store(tmp_path / "a.db", "regtest", threaded=False) as store:
        mempool = MempoolFollower(NodeRpc(node, name=NODE), store, view)
        paid = chain.pay(SHOP_SCRIPT, 900_000)
        await mempool.take_notice(paid, None)
        raw = chain.transaction(paid)
        assert raw is not None
        chain.evict(paid)

        async def come_back() -> None:
            await mempool.take_removal(paid)
            chain.submit(raw)
            await mempool.take_notice(paid, None)

        node.after["getrawmempool"] = come_back
        assert await mempool.follow() == 0
        assert [entry.txid for entry in view.mempool.entries(SHOP)] == [paid]
        chain.evict(paid)
        await mempool.follow()
        assert list(view.mempool.entries(SHOP)) == []
