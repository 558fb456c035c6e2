"""What changes while a history's evidence is under way: scripts, servers, other histories, and the chain."""

import trio

from lightipn.bitcoin.hashes import Txid
from lightipn.chain.verifier import Unconfirmed
from lightipn.store import subscriptions as subscription_store
from tests.tracker.rig import ONE, OTHER_SCRIPT, SHOP, SHOP_SCRIPT, THREE, TWO, Spine


def hold(spine: Spine, txid: Txid) -> trio.Event:
    """Have no server give a transaction until the event is set."""
    released = trio.Event()
    for server in spine.servers():
        server.held[txid] = released
    return released


async def remove_shop(spine: Spine) -> None:
    """Remove the shop's subscription, and with it the script."""
    await spine.store.transact(lambda db: subscription_store.remove_subscriptions(db, SHOP, url=None))


# --- scripts -----------------------------------------------------------------------------------------------------


async def test_script_removed_while_under_way_is_not_recorded(spine: Spine) -> None:
    """A script that is removed while its evidence is fetched leaves no payment, no watch and no recheck behind."""
    txid = await spine.pay_and_mine()
    released = hold(spine, txid)
    await spine.absorb()
    await remove_shop(spine)
    released.set()
    await spine.settle()
    assert await spine.entries() == {}
    assert (await spine.due(), await spine.told_of(txid)) == ([], [])
    assert spine.source.rechecks == []
    await spine.subscribe()
    assert await spine.entries() == {}


async def test_script_removed_while_under_way_is_not_watched_again(spine: Spine) -> None:
    """The commit of a script that was removed meanwhile does not bring its watch back."""
    txid = await spine.pay_and_mine()
    released = hold(spine, txid)
    await spine.absorb()
    await remove_shop(spine)
    spine.source.unwatch(SHOP)  # as the keeper of the watches does, whenever a script is removed
    released.set()
    await spine.settle()
    assert SHOP not in spine.source.known


async def test_script_removed_and_added_again_is_asked_again(spine: Spine) -> None:
    """A script that is removed and added again while under way is asked again: what was known of it is gone."""
    txid = await spine.pay_and_mine()
    await spine.absorb()
    more = spine.chain.pay(SHOP_SCRIPT, 600)
    released = hold(spine, more)
    await spine.absorb()
    await remove_shop(spine)
    await spine.subscribe()
    released.set()
    await spine.settle()
    assert await spine.entries() == {}
    assert spine.source.rechecks == [(ONE, SHOP, 2.0)]
    await spine.absorb()
    assert set(await spine.entries()) == {txid, more}


# --- other histories ---------------------------------------------------------------------------------------------


async def test_script_is_worked_in_one_history_at_a_time(spine: Spine) -> None:
    """Histories of one script wait for each other, and of those that piled up only the newest is worked in."""
    first = spine.chain.pay(SHOP_SCRIPT, 1)
    released = hold(spine, first)
    await spine.absorb()
    older = spine.chain.pay(SHOP_SCRIPT, 20)
    await spine.absorb()
    newest = spine.chain.replace(older, amount_sat=300)
    await spine.absorb()
    assert spine.server.calls["transaction"] == 1
    released.set()
    await spine.settle()
    assert set(await spine.entries()) == {first, newest}
    assert spine.source.known[SHOP] == spine.chain.status(SHOP)
    assert len(spine.source.absorptions) == 2
    await spine.absorb()
    assert await spine.totals() == (0, 301)


async def test_each_servers_newest_history_is_kept(trio_spine: Spine) -> None:
    """While histories are under way, the newest of *each* server waits: none is lost, and all are answered."""
    spine = trio_spine
    spine.chain.pay(SHOP_SCRIPT, 1)
    spine.chain.mine()
    await spine.follow()
    first = spine.chain.history(SHOP)[0].txid
    released = hold(spine, first)
    await spine.absorb(server=ONE)
    older = {}
    for name in (ONE, TWO, THREE):
        spine.chain.pay(SHOP_SCRIPT, 20)
        older[name] = spine.chain.status(SHOP)
        await spine.absorb(server=name)
    spine.chain.pay(SHOP_SCRIPT, 300)
    await spine.absorb(server=TWO)
    assert spine.source.absorptions == []
    released.set()
    await spine.settle()
    assert len(await spine.entries()) == 5
    last = {server: status for server, _, status, _ in spine.source.absorptions}
    assert last == older | {TWO: spine.chain.status(SHOP)}


async def test_slow_script_does_not_delay_others(spine: Spine) -> None:
    """While one script's evidence is held back, other scripts are worked in."""
    await spine.subscribe(OTHER_SCRIPT)
    slow = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.pay(OTHER_SCRIPT, 700)
    hold(spine, slow)
    await spine.absorb()
    await spine.absorb(OTHER_SCRIPT)
    assert await spine.totals() == (0, 0)
    assert await spine.totals(OTHER_SCRIPT) == (0, 700)


# --- the chain ---------------------------------------------------------------------------------------------------


async def test_reorg_between_proof_and_commit_takes_the_proof_back(spine: Spine) -> None:
    """A proof in a block that leaves the chain before the commit does not count: what is new is left out and asked."""
    txid = await spine.pay_and_mine()
    later = spine.chain.pay(SHOP_SCRIPT, 600)
    released = hold(spine, later)
    await spine.absorb()  # the proof of the first is there, the second's bytes are not
    spine.chain.reorg(1)
    await spine.follow()
    released.set()
    await spine.settle()
    assert set(await spine.entries()) == {later}
    assert await spine.known_status() is None
    assert [recheck[:2] for recheck in spine.source.rechecks] == [(ONE, SHOP)]
    spine.chain.mine()
    await spine.follow()
    await spine.absorb()
    assert await spine.totals() == (5_600, 0)
    assert await spine.told_of(txid) == ["payment.confirmed"]


async def test_reorg_between_proof_and_commit_leaves_a_seen_payment_seen(spine: Spine) -> None:
    """A payment that was seen before stays unconfirmed where the block that proved it left before the commit."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    spine.chain.mine()
    await spine.follow()
    later = spine.chain.pay(SHOP_SCRIPT, 600)
    released = hold(spine, later)
    await spine.absorb()
    spine.chain.reorg(1)
    await spine.follow()
    released.set()
    await spine.settle()
    assert (await spine.entries())[txid].state == Unconfirmed()
    assert await spine.told_of(txid) == ["payment.seen"]
    assert [recheck[:2] for recheck in spine.source.rechecks] == [(ONE, SHOP)]


async def test_history_before_a_reorg_confirms_nothing_after_it(spine: Spine) -> None:
    """A history of the lost branch that is worked in late does not bring the lost block back."""
    txid = await spine.pay_and_mine()
    await spine.absorb()
    old = spine.chain.history(SHOP)
    spine.chain.reorg(1, blocks=2)
    await spine.follow()
    await spine.source.tell(SHOP, old)
    await spine.settle()
    assert (await spine.entries())[txid].state == Unconfirmed()
    assert spine.source.rechecks == [("", SHOP, 0.0), (ONE, SHOP, 2.0)]
    assert spine.source.reports == []


async def test_server_lost_while_under_way_is_no_loss(trio_spine: Spine) -> None:
    """A history whose server is gone meanwhile is proved by the others, since proofs prove themselves."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    released = trio.Event()
    spine.server.held[txid] = released
    await spine.absorb(server=ONE)
    spine.source.lose(ONE)
    spine.server.is_gone = True
    released.set()
    await spine.settle()
    spine.server.held.clear()
    assert (await spine.entries())[txid].state == spine.proved(txid)
