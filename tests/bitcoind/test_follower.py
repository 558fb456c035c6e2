"""What is found in blocks and in the mempool, in whatever order it comes and whatever happens in between."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import Txid, scripthash_of
from lightipn.bitcoin.transaction import Outpoint
from lightipn.bitcoind import targets as targets_module
from lightipn.bitcoind.block_follower import BlockFollower
from lightipn.bitcoind.book import WatchBook
from lightipn.bitcoind.enrolment import Enrolment
from lightipn.bitcoind.mempool_follower import MempoolFollower
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.teller import Teller
from lightipn.bitcoind.view import NodeView, new_view
from lightipn.chain.history import UNKNOWN, HistoryEntry
from lightipn.chain.source import ScriptHashChanged, Update
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import ledger as ledger_store
from lightipn.store.database import Store, open_store
from tests.bitcoind.rig import A_WHILE_S, NODE, SOMEBODY_SCRIPT, coin_of, life_on
from tests.bitcoind.simulated_node import SimulatedNode
from tests.tracker.rig import OTHER, OTHER_SCRIPT, SHOP, SHOP_SCRIPT

CUSTOMER_SCRIPT = forge.made_up_script("customer")
CUSTOMER = scripthash_of(CUSTOMER_SCRIPT)
LONG_AFTER_BLOCKS = 8  # beside a ``CONTESTED_BLOCKS`` of three


@dataclass(frozen=True, slots=True)
class Desk:
    """The followers of a node's blocks and of its mempool, driven by hand."""

    node: SimulatedNode
    store: Store
    view: NodeView
    blocks: BlockFollower
    mempool: MempoolFollower
    enrolment: Enrolment
    teller: Teller

    @property
    def book(self) -> WatchBook:
        """Who is watched."""
        return self.view.book

    @property
    def chain(self) -> SimulatedChain:
        """What the node has."""
        return self.node.chain

    async def watch(self, script: bytes) -> None:
        """Have a script looked after."""
        address = Address(text=f"of {script.hex()}", script=script)
        await self.store.transact(lambda db: ledger_store.add_script(db, address))
        self.book.watch(address.scripthash, None)
        await self.enrolment.take_up([address.scripthash])

    async def look(self) -> int | None:
        """Look at the node's blocks and at its mempool, and return how many transactions were new."""
        await self.blocks.follow(await self.rpc.fetch_chain_info())
        return await self.mempool.follow()

    @property
    def rpc(self) -> NodeRpc:
        """A way to the node."""
        return NodeRpc(self.node, name=NODE)

    async def history(self, script: bytes = SHOP_SCRIPT) -> Sequence[HistoryEntry]:
        """Return what is known of a script."""
        scripthash = scripthash_of(script)
        return (await self.teller.histories([scripthash]))[scripthash]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A follower of a chain of three blocks, with the shop's script taken up."""
    chain = SimulatedChain()
    chain.mine(3)
    node = SimulatedNode(chain)
    async with open_store(tmp_path / "a.db", "regtest", threaded=False) as store:
        rpc, view = NodeRpc(node, name=NODE), new_view()
        mempool = MempoolFollower(rpc, store, view)
        send, _ = trio.open_memory_channel[Update](0)
        desk = Desk(
            node=node,
            store=store,
            view=view,
            blocks=BlockFollower(rpc, store, view),
            mempool=mempool,
            enrolment=Enrolment(store, view, mempool),
            teller=Teller(store, view, send, name=NODE),
        )
        await desk.blocks.open(await rpc.fetch_chain_info())
        await desk.watch(SHOP_SCRIPT)
        await desk.look()
        yield desk


# --- notices in the middle of a look -----------------------------------------------------------------------------


async def test_payment_noticed_after_the_listing_was_made_stays(desk: Desk) -> None:
    """A listing that is older than a notice says nothing of what the notice told."""
    noticed: list[Txid] = []

    async def notice() -> None:
        noticed.append(desk.chain.pay(SHOP_SCRIPT, 5_000))
        await desk.mempool.take_notice(noticed[0], None)

    desk.node.after["getrawmempool"] = notice
    assert await desk.look() == 0
    assert await desk.history() == (HistoryEntry(txid=noticed[0], height=None),)


async def test_payment_that_left_is_gone_after_a_look(desk: Desk) -> None:
    """What waited when the listing was asked for, and is not in it, waits no more; whom it paid is looked at again."""
    txid = desk.chain.pay(SHOP_SCRIPT, 5_000)
    assert await desk.look() == 1
    desk.book.take(now=0.0, limit=9)
    desk.chain.evict(txid)
    assert await desk.look() == 0
    assert await desk.history() == ()
    assert desk.book.take(now=0.0, limit=9) == [SHOP]


async def test_block_in_the_middle_of_a_look_puts_it_off(desk: Desk) -> None:
    """A mempool that lacks what a block has taken looks like one that dropped it, until it was looked through."""
    txid = desk.chain.pay(SHOP_SCRIPT, 5_000)
    await desk.look()

    async def mine() -> None:
        desk.chain.mine()

    desk.node.before["getrawmempool"] = mine
    assert await desk.look() is None
    assert await desk.history() == (HistoryEntry(txid=txid, height=None),)
    assert await desk.look() == 0
    assert await desk.history() == (HistoryEntry(txid=txid, height=4),)


async def test_noticed_payment_of_a_block_is_not_taken_for_one_that_waits(desk: Desk) -> None:
    """Raw transactions are published from blocks, too, when they have left the mempool."""
    txid = desk.chain.pay(SHOP_SCRIPT, 5_000)
    raw = desk.chain.transaction(txid)
    desk.chain.mine()
    await desk.mempool.take_notice(txid, raw)
    assert await desk.history() == ()
    assert await desk.look() == 0
    assert await desk.history() == (HistoryEntry(txid=txid, height=4),)


async def test_noticed_removal_takes_a_payment_away(desk: Desk) -> None:
    """A transaction that the node says it has dropped waits no more."""
    txid = desk.chain.pay(SHOP_SCRIPT, 5_000)
    await desk.mempool.take_notice(txid, desk.chain.transaction(txid))
    assert await desk.history() == (HistoryEntry(txid=txid, height=None),)
    await desk.mempool.take_removal(txid)
    assert await desk.history() == ()


# --- children before parents, and rivals -------------------------------------------------------------------------


async def test_payment_that_comes_before_its_parent_is_watched_for_rivals(desk: Desk) -> None:
    """What it spends cannot be asked for before the parent came; then it is, and whoever spends the same is found."""
    parent = desk.chain.pay(CUSTOMER_SCRIPT, 50_000)
    child = desk.chain.pay(SHOP_SCRIPT, 40_000, spend=[Outpoint(parent, 0)])
    await desk.mempool.take_notice(child, None)
    await desk.mempool.take_notice(parent, None)
    rival = desk.chain.replace(child, script=SOMEBODY_SCRIPT)
    desk.chain.mine()
    await desk.look()
    assert await desk.history(CUSTOMER_SCRIPT) == (HistoryEntry(txid=rival, height=4),)


async def test_payment_out_of_an_own_payment_that_comes_later_is_known_as_its_spending(desk: Desk) -> None:
    """A child that came before the payment whose output it spends concerns the script from then on."""
    parent = desk.chain.pay(SHOP_SCRIPT, 50_000)
    child = desk.chain.pay(SOMEBODY_SCRIPT, 40_000, spend=[Outpoint(parent, 0)])
    await desk.mempool.take_notice(child, None)
    assert await desk.history() == ()
    await desk.mempool.take_notice(parent, None)
    waiting = HistoryEntry(txid=child, height=None, has_unconfirmed_parent=True)
    assert await desk.history() == (HistoryEntry(txid=parent, height=None), waiting)


async def test_rival_in_the_mempool_replaces_a_payment(desk: Desk) -> None:
    """A notice of a rival that pays the same script is enough for the first one to be gone."""
    chain = desk.chain
    chain.pay(CUSTOMER_SCRIPT, 50_000)
    chain.mine()
    await desk.look()
    first = chain.pay(SHOP_SCRIPT, 40_000, spend=[coin_of(chain, CUSTOMER_SCRIPT)])
    await desk.mempool.take_notice(first, None)
    rival = chain.replace(first, amount_sat=30_000)
    await desk.mempool.take_notice(rival, None)
    assert await desk.history() == (HistoryEntry(txid=rival, height=None),)


async def test_double_spends_that_are_mined_are_told_soon(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A payer takes unconfirmed payments back in a block: each shop learns it with that block, not minutes later."""
    chain = SimulatedChain()
    chain.mine(3)
    shops = [forge.made_up_script(f"shop {number}") for number in range(6)]
    async with life_on(SimulatedNode(chain), tmp_path / "a.db") as life:
        for shop in shops:
            await life.watch(shop)
        await trio.sleep(A_WHILE_S)
        paid = []
        for number, shop in enumerate(shops):  # all in one listing, of which nobody knows the order
            parent = chain.pay(forge.made_up_script(f"customer {number}"), 50_000)
            paid.append(chain.pay(shop, 40_000, spend=[Outpoint(parent, 0)]))
        await trio.sleep(A_WHILE_S)
        for child in paid:
            chain.replace(child, script=SOMEBODY_SCRIPT)
        chain.mine()
        await trio.sleep(A_WHILE_S)
        assert [await life.shown(shop) for shop in shops] == [[(40_000, "Replaced")]] * len(shops)


# --- contested own outputs ---------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_own_output_is_looked_after_for_good_though_a_payment_spent_it_once(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that an unconfirmed payment spends is not forgotten with it: not after a restart, nor many blocks later."""
    monkeypatch.setattr(targets_module, "CONTESTED_BLOCKS", 3)
    chain = SimulatedChain()
    chain.mine(2)
    node = SimulatedNode(chain)
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await life.watch(OTHER_SCRIPT)
        await trio.sleep(A_WHILE_S)
        chain.pay(SHOP_SCRIPT, 100_000)
        chain.mine()
        await trio.sleep(A_WHILE_S)
        coin = coin_of(chain)
        txid = chain.pay(OTHER_SCRIPT, 50_000, spend=[coin])
        await trio.sleep(A_WHILE_S)
        assert (await life.shown())[0] == (-100_000, "Unconfirmed")
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        chain.evict(txid)
        await trio.sleep(900.0)
        assert (await life.shown())[0] == (-100_000, "Dropped")
        chain.mine(LONG_AFTER_BLOCKS)
        await trio.sleep(A_WHILE_S)
        chain.pay(SOMEBODY_SCRIPT, 90_000, spend=[coin])
        chain.mine()
        await trio.sleep(A_WHILE_S)
        assert (-100_000, "Confirmed") in await life.shown()


async def test_foreign_output_is_let_go_of_in_the_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a payment spent is looked after while it waits, and some blocks more; later it concerns nobody."""
    monkeypatch.setattr(targets_module, "CONTESTED_BLOCKS", 3)
    chain = desk.chain
    chain.pay(CUSTOMER_SCRIPT, 50_000)
    chain.mine()
    await desk.look()
    coin = coin_of(chain, CUSTOMER_SCRIPT)
    txid = chain.pay(SHOP_SCRIPT, 40_000, spend=[coin])
    await desk.look()
    chain.mine(LONG_AFTER_BLOCKS, include=[])
    await desk.look()
    chain.evict(txid)
    await desk.look()
    first = chain.pay(SOMEBODY_SCRIPT, 30_000, spend=[coin])
    chain.mine()
    await desk.look()
    assert [entry.txid for entry in await desk.history(CUSTOMER_SCRIPT)] == [first]
    chain.reorg(1, remine=False)
    chain.evict(first)
    chain.mine(LONG_AFTER_BLOCKS)
    await desk.look()
    chain.pay(SOMEBODY_SCRIPT, 20_000, spend=[coin])
    chain.mine()
    await desk.look()
    assert await desk.history(CUSTOMER_SCRIPT) == ()


async def test_script_that_was_let_go_of_is_found_no_more(desk: Desk) -> None:
    """Neither its outputs nor what it spends are recorded after it was forgotten; another script's stay."""
    await desk.watch(OTHER_SCRIPT)
    txid = desk.chain.pay_many([(SHOP_SCRIPT, 1_000), (OTHER_SCRIPT, 2_000)])
    await desk.look()
    desk.book.unwatch(SHOP)
    await desk.enrolment.let_go([SHOP])
    desk.chain.mine()
    await desk.look()
    assert (await desk.history(), await desk.history(OTHER_SCRIPT)) == ((), (HistoryEntry(txid=txid, height=4),))
    assert set(desk.book.known) == {OTHER}


# --- telling ---------------------------------------------------------------------------------------------------


async def test_nothing_is_told_of_a_script_whose_past_was_pending_when_it_was_read(
    desk: Desk, nursery: trio.Nursery
) -> None:
    """A search that ends while others are told has found what a history that was read before does not hold."""
    await desk.watch(OTHER_SCRIPT)
    desk.chain.pay(OTHER_SCRIPT, 5_000)
    await desk.look()
    desk.book.take(now=0.0, limit=9)
    send, receive = trio.open_memory_channel[Update](0)
    teller = Teller(desk.store, desk.view, send, name=NODE)
    desk.book.known[SHOP] = UNKNOWN
    desk.book.touch([OTHER, SHOP])
    teller.go_on()
    nursery.start_soon(teller.run)
    await trio.testing.wait_all_tasks_blocked()
    desk.view.targets.past_pending.discard(SHOP)
    update = await receive.receive()
    assert isinstance(update, ScriptHashChanged)
    assert update.scripthash == OTHER
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.WouldBlock):
        receive.receive_nowait()
    desk.book.touch([SHOP])  # as whoever ends a search does
    teller.ring()
    update = await receive.receive()
    assert isinstance(update, ScriptHashChanged)
    assert (update.scripthash, update.history) == (SHOP, ())


# --- nothing is fetched twice ------------------------------------------------------------------------------------


async def test_lost_call_does_not_cost_the_mempool(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A connection that breaks and comes back leaves the view as it was: only what is new is fetched."""
    chain = SimulatedChain()
    chain.mine(3)
    for number in range(120):
        chain.pay(forge.made_up_script(f"customer {number}"), 1_000)
    node = SimulatedNode(chain)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        assert node.calls.count("getrawtransaction") == 120
        node.calls_to_lose = 3
        await trio.sleep(A_WHILE_S)
        assert life.source.servers()[0].verdict == "connected"
        chain.pay(SOMEBODY_SCRIPT, 1_000)
        await trio.sleep(A_WHILE_S)
        assert node.calls.count("getrawtransaction") == 121


async def test_noticed_transaction_is_not_fetched_again(desk: Desk) -> None:
    """What a notice brought along, or named, is known to the next look and to another notice of it."""
    named, brought = desk.chain.pay(SOMEBODY_SCRIPT, 1_000), desk.chain.pay(SOMEBODY_SCRIPT, 2_000)
    await desk.mempool.take_notice(named, None)
    await desk.mempool.take_notice(brought, desk.chain.transaction(brought))
    await desk.mempool.take_notice(named, None)
    assert await desk.look() == 0
    assert desk.node.calls.count("getrawtransaction") == 1
