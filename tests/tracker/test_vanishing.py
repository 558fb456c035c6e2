"""Payments that nobody lists any more: dropped after enough servers denied them for long enough, without a gap."""

import pytest
import trio

from lightipn.bitcoin.hashes import Txid
from lightipn.chain.history import HistoryEntry
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Dropped
from lightipn.simulator.blocks import SimulatedChain
from tests.tracker.rig import NAMES, NOW, ONE, SHOP, SHOP_SCRIPT, THREE, TWO, OpenSpine, Spine

DROP_AFTER_S = 600.0
ROUND_S = 60.0
# Denials are counted from the first round that hears them, and looked at once a round.
SOONEST_S = DROP_AFTER_S
LATEST_S = DROP_AFTER_S + 2 * ROUND_S


async def pay(spine: Spine) -> Txid:
    """Pay the shop, and let it be told by all servers."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.publish()
    assert await spine.told_of(txid) == ["payment.seen"]
    return txid


async def is_dropped(spine: Spine, txid: Txid) -> bool:
    """Tell whether a payment was dropped."""
    return isinstance((await spine.entries())[txid].state, Dropped)


# --- all deny it ---------------------------------------------------------------------------------------------------


async def test_vanished_payment_is_dropped_in_time(live_spine: Spine, autojump_clock: object) -> None:
    """A payment that every server denies is dropped ten minutes later, not before, and hardly after."""
    spine = live_spine
    await trio.sleep(100.0)  # so that no look at all payments happens to come just now
    txid = await pay(spine)
    spine.chain.evict(txid)
    await spine.publish()
    await trio.sleep(SOONEST_S - 1.0)
    assert await spine.totals() == (0, 5_000)
    await trio.sleep(LATEST_S - SOONEST_S + 1.0)
    assert await is_dropped(spine, txid)
    assert (await spine.totals(), await spine.due()) == ((0, 0), [])
    event = (await spine.feed())[-1]
    assert (event.kind, event.txid, event.trust, event.net_sat) == ("payment.dropped", txid, "agreed", 5_000)


@pytest.mark.parametrize("drop_after_s", [10.0, 3600.0])
async def test_patience_is_as_configured(open_spine: OpenSpine, autojump_clock: object, drop_after_s: float) -> None:
    """What is configured counts, be it seconds or hours."""
    chain = SimulatedChain()
    chain.mine(3)
    spine = await open_spine(chain, servers=3, is_live=True, drop_after_s=drop_after_s)
    await spine.subscribe()
    await spine.follow()
    txid = await pay(spine)
    chain.evict(txid)
    await spine.publish()
    await trio.sleep(drop_after_s * 0.99)
    assert not await is_dropped(spine, txid)
    await trio.sleep(drop_after_s * 0.25)
    assert await is_dropped(spine, txid)


async def test_vanished_payment_is_found_without_any_notice(live_spine: Spine, autojump_clock: object) -> None:
    """Servers that forget to tell of an eviction are asked now and then: the payment is dropped all the same."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.evict(txid)
    await trio.sleep(SOONEST_S - 1.0)
    assert not await is_dropped(spine, txid)
    await trio.sleep(6 * ROUND_S)
    assert await is_dropped(spine, txid)


async def test_only_server_may_drop(open_spine: OpenSpine, autojump_clock: object) -> None:
    """With one server its own word is all there is: dropped, as one server's word."""
    chain = SimulatedChain()
    spine = await open_spine(chain, is_live=True)
    await spine.subscribe()
    txid = await pay(spine)
    chain.evict(txid)
    await spine.publish()
    await trio.sleep(LATEST_S)
    assert [(event.kind, event.trust) for event in await spine.feed()][1:] == [("payment.dropped", "single")]
    assert await is_dropped(spine, txid)


async def test_dropping_is_told_once(live_spine: Spine, autojump_clock: object) -> None:
    """A payment that stays away is dropped once."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.evict(txid)
    await spine.publish()
    await trio.sleep(10 * LATEST_S)
    assert await spine.told_of(txid) == ["payment.seen", "payment.dropped"]


# --- not enough of them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("min_seen_by", "holding", "denying", "silent", "is_gone"),
    [
        (2, 3, 0, 0, False),
        (2, 2, 1, 0, False),
        (2, 1, 2, 0, True),
        (2, 0, 2, 1, True),
        (2, 0, 3, 0, True),
        (2, 1, 1, 1, False),
        (2, 0, 1, 2, False),
        (3, 1, 2, 0, False),
        (3, 0, 2, 1, False),
        (3, 0, 3, 0, True),
        (1, 1, 2, 0, False),
        (1, 0, 2, 1, False),
        (1, 0, 3, 0, True),
    ],
)
async def test_what_made_a_payment_believed_keeps_it(
    open_spine: OpenSpine,
    autojump_clock: object,
    *,
    min_seen_by: int,
    holding: int,
    denying: int,
    silent: int,
    is_gone: bool,
) -> None:
    """A payment goes once too few servers are left that may still hold it, and enough deny it; silence may hold it."""
    assert holding + denying + silent == len(NAMES)
    chain = SimulatedChain()
    spine = await open_spine(chain, servers=3, is_live=True, min_seen_by=min_seen_by)
    await spine.subscribe()
    txid = await pay(spine)
    for server in spine.servers()[holding : holding + denying]:
        server.unlisted.add(txid)
    for server in spine.servers()[holding + denying :]:
        server.is_silent = True
    await trio.sleep(5 * DROP_AFTER_S)
    assert await is_dropped(spine, txid) == is_gone


async def test_server_that_broke_off_denies_nothing(live_spine: Spine, autojump_clock: object) -> None:
    """While two of three servers fail when they are asked, nothing is dropped; from their denial on the time counts."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.evict(txid)
    for server in spine.servers()[1:]:
        server.is_gone = True
    await spine.source.tell(SHOP, server=ONE)
    await trio.sleep(5 * DROP_AFTER_S)
    assert not await is_dropped(spine, txid)
    for server in spine.servers()[1:]:
        server.is_gone = False
    await trio.sleep(SOONEST_S - ROUND_S)
    assert not await is_dropped(spine, txid)
    await trio.sleep(3 * ROUND_S)
    assert await is_dropped(spine, txid)


async def test_one_server_alone_drops_nothing_while_another_may_come(live_spine: Spine, autojump_clock: object) -> None:
    """While fewer servers are connected than must agree, and others may be there in moments, nothing is dropped."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.evict(txid)
    for name in (TWO, THREE):
        spine.source.lose(name)
    spine.source.more_voices = 2
    await spine.publish()
    await trio.sleep(5 * DROP_AFTER_S)
    assert not await is_dropped(spine, txid)
    spine.source.more_voices = 0
    await trio.sleep(LATEST_S)
    assert await is_dropped(spine, txid)


async def test_without_servers_nothing_is_dropped(live_spine: Spine, autojump_clock: object) -> None:
    """While no server can be asked, nothing is denied."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.evict(txid)
    for name in NAMES:
        spine.source.lose(name)
    await trio.sleep(5 * DROP_AFTER_S)
    assert not await is_dropped(spine, txid)


@pytest.mark.parametrize("gap", ["held", "silent", "disconnected"])
async def test_counting_restarts_after_a_gap(live_spine: Spine, autojump_clock: object, gap: str) -> None:
    """A round in which too few denied it, because others held it, kept silent or were gone, begins the count anew."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.evict(txid)
    await spine.publish()
    await trio.sleep(SOONEST_S - ROUND_S - 1.0)
    for server in spine.servers()[1:]:
        if gap == "held":
            server.history_of = lambda _: (HistoryEntry(txid, None),)
        elif gap == "silent":
            server.is_silent = True
        else:
            spine.source.lose(server.name)
            spine.source.more_voices = 2
    await trio.sleep(ROUND_S + 10.0)
    for server in spine.servers()[1:]:
        server.history_of, server.is_silent = None, False
        if gap == "disconnected":
            spine.source.regain(server.name)
    await trio.sleep(SOONEST_S - ROUND_S)
    assert not await is_dropped(spine, txid)
    await trio.sleep(8 * ROUND_S)  # who held it is asked again with the next look at all
    assert await is_dropped(spine, txid)


@pytest.mark.parametrize("step_s", [86_400.0, -86_400.0], ids=["forwards", "backwards"])
async def test_step_of_the_clock_counts_for_nothing(live_spine: Spine, autojump_clock: object, step_s: float) -> None:
    """Denials are counted in time that passed, not by the wall clock, which may be set."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.evict(txid)
    await spine.publish()
    await trio.sleep(2 * ROUND_S)
    spine.clock.now += step_s
    await trio.sleep(SOONEST_S - 3 * ROUND_S)
    assert not await is_dropped(spine, txid)
    await trio.sleep(3 * ROUND_S)
    assert await is_dropped(spine, txid)
    assert (await spine.feed())[-1].happened_at == NOW + step_s


async def test_restart_counts_anew(open_spine: OpenSpine, live_spine: Spine, autojump_clock: object) -> None:
    """What was denied before a restart is not counted: nobody knows what happened meanwhile."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.evict(txid)
    await spine.publish()
    await trio.sleep(SOONEST_S - ROUND_S)
    await spine.die()
    again = await open_spine(spine.chain, servers=3, is_live=True)
    await trio.sleep(SOONEST_S - 1.0)
    assert not await is_dropped(again, txid)
    await trio.sleep(3 * ROUND_S)
    assert await is_dropped(again, txid)


# --- what happens meanwhile --------------------------------------------------------------------------------------


async def test_payment_that_is_confirmed_meanwhile_is_not_dropped(live_spine: Spine, autojump_clock: object) -> None:
    """A payment that comes back in a block before the time is over is confirmed, and nothing else."""
    spine = live_spine
    txid = await pay(spine)
    raw = spine.chain.transaction(txid)
    assert raw is not None
    spine.chain.evict(txid)
    await spine.publish()
    await trio.sleep(SOONEST_S - 2 * ROUND_S)
    spine.chain.submit(raw)
    spine.chain.mine()
    await spine.publish()
    await trio.sleep(10 * DROP_AFTER_S)
    assert await spine.told_of(txid) == ["payment.seen", "payment.confirmed"]
    assert await spine.totals() == (5_000, 0)


@pytest.mark.parametrize("is_mined", [False, True], ids=["in the mempool", "in a block"])
async def test_dropped_payment_may_come_back(live_spine: Spine, autojump_clock: object, is_mined: bool) -> None:
    """A dropped payment that servers hold again is told again; one that a block holds is confirmed."""
    spine = live_spine
    txid = await pay(spine)
    raw = spine.chain.transaction(txid)
    assert raw is not None
    spine.chain.evict(txid)
    await spine.publish()
    await trio.sleep(LATEST_S)
    assert await is_dropped(spine, txid)
    spine.chain.submit(raw)
    if is_mined:
        spine.chain.mine()
    await spine.publish()
    last = "payment.confirmed" if is_mined else "payment.seen"
    assert await spine.told_of(txid) == ["payment.seen", "payment.dropped", last]
    assert sum(await spine.totals()) == 5_000
    assert await spine.due() == [(5_000, 0) if is_mined else (0, 5_000)]


async def test_payment_that_came_back_is_watched_again(live_spine: Spine, autojump_clock: object) -> None:
    """A payment that came back is armed anew: who replaces it now is found."""
    spine = live_spine
    txid = await pay(spine)
    raw = spine.chain.transaction(txid)
    assert raw is not None
    spine.chain.evict(txid)
    await spine.publish()
    await trio.sleep(LATEST_S + ROUND_S)
    assert set(spine.source.known) == {SHOP}
    spine.chain.submit(raw)
    await spine.publish()
    assert len(spine.source.known) == 2


async def test_only_what_vanished_is_dropped(live_spine: Spine, autojump_clock: object) -> None:
    """Of two payments the one that is still held stays."""
    spine = live_spine
    kept, lost = await pay(spine), await pay(spine)
    spine.chain.evict(lost)
    await spine.publish()
    await trio.sleep(LATEST_S)
    entries = await spine.entries()
    assert isinstance(entries[kept].state, Unconfirmed)
    assert isinstance(entries[lost].state, Dropped)
    assert await spine.totals() == (0, 5_000)


async def test_mined_coins_that_a_reorg_took_are_dropped(live_spine: Spine, autojump_clock: object) -> None:
    """A coinbase of a lost block can be in no mempool: it is reverted, and dropped when its time is over."""
    spine = live_spine
    spine.chain.mine(pay_to=SHOP_SCRIPT)
    await spine.publish()
    (txid,) = await spine.entries()
    spine.chain.reorg(1)
    await spine.publish()
    await trio.sleep(LATEST_S)
    assert await spine.told_of(txid) == ["payment.confirmed", "payment.reverted", "payment.dropped"]
    assert await spine.totals() == (0, 0)
