"""Watching what unconfirmed payments spend: who else spends it replaces them, once that is proved or widely held."""

import pytest
import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.transaction import Outpoint, parse_transaction
from lightipn.chain.history import History, HistoryEntry
from lightipn.chain.source import MerkleBranch
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Replaced
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import spends as spend_store
from lightipn.store.spends import SpentOutput
from lightipn.tracker.spends import LONGEST_HISTORY, MOST_CANDIDATES
from tests.builders import raw_transaction, txid_of
from tests.tracker.rig import NAMES, ONE, SHOP, SHOP_SCRIPT, THREE, TWO, OpenSpine, Spine

WALLET_SCRIPT = forge.made_up_script("wallet")
WALLET = scripthash_of(WALLET_SCRIPT)
THIEF_SCRIPT = forge.made_up_script("thief")


async def fund(spine: Spine) -> Outpoint:
    """Give the buyer's wallet an output in a block."""
    funding = spine.chain.pay(WALLET_SCRIPT, 50_000)
    spine.chain.mine()
    await spine.publish()
    return Outpoint(funding, 0)


async def pay(spine: Spine, spend: Outpoint | None = None) -> Txid:
    """Pay the shop from the buyer's wallet, and let it be told by all servers."""
    spend = spend or await fund(spine)
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000, spend=[spend])
    await spine.publish()
    assert await spine.told_of(txid) == ["payment.seen"]
    return txid


async def spent(spine: Spine, scripthash: ScriptHash = WALLET) -> list[SpentOutput]:
    """Return what is noted of outputs of a script that payments spend."""
    return await spine.store.read(lambda db: spend_store.load_spent_outputs(db, scripthash))


def invent_rival(spine: Spine, txid: Txid, *names: str) -> Txid:
    """Have servers, and nobody else, hold and list a transaction that pays the thief with a payment's inputs."""
    raw = spine.chain.transaction(txid)
    assert raw is not None
    rival = parse_transaction(raw_transaction(parse_transaction(raw).spends, [(49_000, THIEF_SCRIPT)]))

    def history_of(scripthash: ScriptHash) -> History:
        honest = tuple(claim for claim in spine.chain.history(scripthash) if claim.txid != txid)
        return (*honest, HistoryEntry(rival.txid, None)) if scripthash == WALLET else honest

    def transaction_of(asked: Txid) -> bytes | None:
        return {rival.txid: rival.raw, txid: None}.get(asked, spine.chain.transaction(asked))

    for name in names:
        spine.source.named[name].history_of = history_of
        spine.source.named[name].transaction_of = transaction_of
    return rival.txid


# --- arming ------------------------------------------------------------------------------------------------------


async def test_payment_is_armed_after_it_was_seen(live_spine: Spine) -> None:
    """What a payment spends is noted with its script and our height, and that script is watched."""
    spine = live_spine
    spend = await fund(spine)
    assert WALLET not in spine.source.known
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000, spend=[spend])
    await spine.publish()
    assert await spent(spine) == [SpentOutput(outpoint=spend, scripthash=WALLET, spender=txid, since_height=21)]
    assert spine.source.known[WALLET] == spine.chain.status(WALLET)


async def test_arming_delays_no_payment(live_spine: Spine, autojump_clock: object) -> None:
    """A payment is told before anybody knows what it spends; where that cannot be had, it is tried again later."""
    spine = live_spine
    spend = await fund(spine)
    for server in spine.servers():
        server.silent_about.add(spend.txid)
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000, spend=[spend])
    await spine.source.tell(SHOP, server=ONE)
    await trio.sleep(10.0)
    assert await spine.told_of(txid) == ["payment.seen"]
    assert await spent(spine) == []
    for server in spine.servers():
        server.silent_about.clear()
    await trio.sleep(600.0)
    assert len(await spent(spine)) == 1
    assert WALLET in spine.source.known


async def test_rival_from_before_the_arming_is_found(live_spine: Spine, autojump_clock: object) -> None:
    """A script that is watched already is asked again when another payment is armed: its rival may be known there."""
    spine = live_spine
    spends = await fund(spine), await fund(spine)
    await pay(spine, spends[0])
    for server in spine.servers():
        server.silent_about.add(spends[1].txid)
    late = spine.chain.pay(SHOP_SCRIPT, 5_000, spend=[spends[1]])
    await spine.source.tell(SHOP, server=ONE)
    await trio.sleep(10.0)
    rival = spine.chain.replace(late, script=THIEF_SCRIPT)
    await spine.source.tell(WALLET)
    await trio.sleep(10.0)
    assert await spine.told_of(late) == ["payment.seen"]
    for server in spine.servers():
        server.silent_about.clear()
    await trio.sleep(400.0)
    assert (await spine.entries())[late].state == Replaced(rival)


async def test_confirmed_payment_is_not_armed(live_spine: Spine) -> None:
    """A payment that a block proves when it is first seen needs no watching."""
    spine = live_spine
    spend = await fund(spine)
    spine.chain.pay(SHOP_SCRIPT, 5_000, spend=[spend])
    spine.chain.mine()
    await spine.publish()
    assert await spent(spine) == []
    assert WALLET not in spine.source.known


async def test_restart_arms_what_was_left(open_spine: OpenSpine, live_spine: Spine, autojump_clock: object) -> None:
    """A payment that was seen before the process died, and not armed, is armed by the next one within seconds."""
    spine = live_spine
    await pay(spine)
    await spine.store.transact(lambda db: db.execute("DELETE FROM spent_output"))  # died before this was written
    await spine.die()
    again = await open_spine(spine.chain, servers=3, is_live=True)
    await trio.sleep(10.0)
    assert len(await spent(again)) == 1
    assert WALLET in again.source.known


async def test_what_is_settled_is_forgotten(live_spine: Spine, autojump_clock: object) -> None:
    """Once a payment is confirmed, its rows go and its script is watched no more; within a minute or so."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.mine()
    await spine.publish()
    assert await spine.told_of(txid) == ["payment.seen", "payment.confirmed"]
    await trio.sleep(65.0)
    assert await spent(spine) == []
    assert spine.source.unwatched == [WALLET]
    assert set(spine.source.known) == {SHOP}


async def test_script_that_others_want_stays_watched(live_spine: Spine, autojump_clock: object) -> None:
    """A script that a payment spends from, and a shop is subscribed to, stays watched when the payment is settled."""
    spine = live_spine
    await spine.subscribe(WALLET_SCRIPT)
    await pay(spine)
    spine.chain.mine()
    await spine.publish()
    await trio.sleep(65.0)
    assert await spent(spine) == []
    assert set(spine.source.known) == {SHOP, WALLET}


# --- rivals ------------------------------------------------------------------------------------------------------


async def test_rival_in_the_mempool_replaces(live_spine: Spine) -> None:
    """A transaction that pays somebody else with the payment's input replaces it, once enough servers hold it."""
    spine = live_spine
    txid = await pay(spine)
    assert await spine.due() == [(0, 5_000)]
    rival = spine.chain.replace(txid, script=THIEF_SCRIPT)
    await spine.publish()
    assert (await spine.entries())[txid].state == Replaced(rival)
    assert (await spine.totals(), await spine.due()) == ((0, 0), [])  # what was not heard yet is withdrawn
    event = (await spine.feed())[-1]
    assert (event.kind, event.txid, event.replaced_by, event.trust) == ("payment.replaced", txid, rival, "agreed")
    assert await spine.told_of(txid) == ["payment.seen", "payment.replaced"]


async def test_rival_in_a_block_replaces(live_spine: Spine) -> None:
    """One server's proof is enough: a rival in a block of our chain replaces at once, as proved."""
    spine = live_spine
    txid = await pay(spine)
    spine.stop_learning(ONE, THREE)
    rival = spine.chain.replace(txid, script=THIEF_SCRIPT)
    spine.chain.mine()
    await spine.publish()
    assert (await spine.entries())[txid].state == Replaced(rival)
    assert [(event.replaced_by, event.trust) for event in (await spine.feed())[-1:]] == [(rival, "proved")]


async def test_rival_that_pays_another_watched_script_replaces(live_spine: Spine) -> None:
    """A rival that is a payment itself, to somebody else who is watched too, replaces all the same."""
    spine = live_spine
    await spine.subscribe(THIEF_SCRIPT)
    txid = await pay(spine)
    spine.chain.mine()
    await spine.publish()
    spine.chain.reorg(1, blocks=0)
    rival = spine.chain.replace(txid, script=THIEF_SCRIPT)
    await spine.absorb(THIEF_SCRIPT)
    assert [event.kind for event in await spine.feed() if event.txid == rival] == ["payment.seen"]
    spine.chain.mine(2)
    await spine.publish()
    assert (await spine.told_of(txid))[-2:] == ["payment.reverted", "payment.replaced"]
    assert (await spine.entries())[txid].state == Replaced(rival)


async def test_rival_told_before_its_reorg_replaces(live_spine: Spine) -> None:
    """A branch that spends a confirmed payment's coin elsewhere replaces it, though its rival was told before it."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.mine()
    await spine.publish()
    spine.chain.reorg(1, blocks=0)
    rival = spine.chain.replace(txid, script=THIEF_SCRIPT)
    spine.chain.mine(2)
    await spine.source.tell(WALLET)
    await spine.settle()
    assert (await spine.told_of(txid))[-1] == "payment.confirmed"
    await spine.publish()
    assert (await spine.told_of(txid))[-2:] == ["payment.reverted", "payment.replaced"]
    assert (await spine.entries())[txid].state == Replaced(rival)


async def test_rival_of_one_liar_replaces_nothing(live_spine: Spine, autojump_clock: object) -> None:
    """A rival that one server of three holds changes nothing; it is asked again with growing pauses."""
    spine = live_spine
    txid = await pay(spine)
    invent_rival(spine, txid, TWO)
    feed = await spine.feed()
    await spine.publish()
    await trio.sleep(3600.0)
    assert await spine.feed() == feed
    assert isinstance((await spine.entries())[txid].state, Unconfirmed)
    pauses = [pause for name, scripthash, pause in spine.source.rechecks if (name, scripthash) == (TWO, WALLET)]
    assert pauses == [min(2.0**tries, 60.0) for tries in range(len(pauses))]
    assert len(pauses) > 20


async def test_rival_in_a_block_without_a_proof_replaces_nothing(live_spine: Spine) -> None:
    """A rival that is only said to be in a block is no rival; who sends a false branch for it is reported."""
    spine = live_spine
    txid = await pay(spine)
    rival = invent_rival(spine, txid, TWO)
    spine.source.named[TWO].branch_of = lambda txid, height: MerkleBranch(0, ())
    await spine.source.tell(WALLET, (HistoryEntry(rival, 21),), server=TWO)
    await spine.settle()
    assert isinstance((await spine.entries())[txid].state, Unconfirmed)
    assert spine.source.verdicts == [(TWO, "false-branch")]


async def test_servers_that_hold_both_do_not_count(live_spine: Spine) -> None:
    """A server that holds the rival, and still lists the payment, says nothing about which of them will stand."""
    spine = live_spine
    txid = await pay(spine)
    rival = invent_rival(spine, txid, ONE, TWO)
    honest = spine.source.named[TWO].history_of
    assert honest is not None
    spine.source.named[TWO].history_of = lambda sh: (HistoryEntry(txid, None),) if sh == SHOP else honest(sh)
    await spine.source.tell(WALLET, server=ONE)
    await spine.settle()
    assert isinstance((await spine.entries())[txid].state, Unconfirmed)
    spine.source.named[TWO].history_of = honest
    await spine.source.tell(WALLET, server=ONE)
    await spine.settle()
    assert (await spine.entries())[txid].state == Replaced(rival)


async def test_rival_is_told_once(live_spine: Spine) -> None:
    """After a payment was replaced, what other servers say of its rival changes nothing."""
    spine = live_spine
    txid = await pay(spine)
    spine.chain.replace(txid, script=THIEF_SCRIPT)
    await spine.publish()
    feed = await spine.feed()
    for name in NAMES:
        await spine.source.tell(WALLET, server=name)
        await spine.settle()
    spine.chain.mine()
    await spine.publish()
    assert await spine.feed() == feed


async def test_spending_another_output_of_the_same_script_is_no_rival(live_spine: Spine) -> None:
    """Who spends another output of the buyer's wallet is no rival: the payment stands."""
    spine = live_spine
    others = [await fund(spine) for _ in range(2)]
    txid = await pay(spine)
    for spend in others:
        spine.chain.pay(THIEF_SCRIPT, 1_000, spend=[spend])
    await spine.publish()
    assert isinstance((await spine.entries())[txid].state, Unconfirmed)
    assert [recheck for recheck in spine.source.rechecks if recheck[1] == WALLET] == []


async def test_only_the_payment_that_lost_its_input_is_replaced(live_spine: Spine) -> None:
    """Of two payments from one wallet the rival replaces the one whose input it spends."""
    spine = live_spine
    spends = await fund(spine), await fund(spine)
    first, second = await pay(spine, spends[0]), await pay(spine, spends[1])
    rival = spine.chain.replace(first, script=THIEF_SCRIPT)
    await spine.publish()
    entries = await spine.entries()
    assert entries[first].state == Replaced(rival)
    assert isinstance(entries[second].state, Unconfirmed)
    assert await spine.totals() == (0, 5_000)


async def test_replaced_payment_takes_its_children_along(live_spine: Spine) -> None:
    """What spends an output of a replaced payment goes with it, in the same change."""
    spine = live_spine
    parent = await pay(spine)
    child = spine.chain.pay(SHOP_SCRIPT, 700, spend=[Outpoint(parent, 0)])
    await spine.publish()
    rival = spine.chain.replace(parent, script=THIEF_SCRIPT)
    await spine.source.tell(WALLET)
    await spine.settle()
    entries = await spine.entries()
    assert (entries[parent].state, entries[child].state) == (Replaced(rival), Replaced(rival))
    assert await spine.totals() == (0, 0)


async def test_fee_bump_is_one_change(live_spine: Spine) -> None:
    """A rival that pays the same script enters as the payment leaves: the total does not flicker, nobody is rung."""
    spine = live_spine
    first = await pay(spine)
    rings, due = len(spine.rings), await spine.due()
    second = spine.chain.replace(first)
    await spine.source.tell(WALLET)  # the shop's own history is not told yet
    await spine.settle()
    assert (await spine.entries())[first].state == Replaced(second)
    assert await spine.totals() == (0, 5_000)
    assert (len(spine.rings), await spine.due()) == (rings, due)
    events = (await spine.feed())[1:]
    assert {(event.kind, event.txid) for event in events} == {("payment.replaced", first), ("payment.seen", second)}
    await spine.publish()
    assert (await spine.feed())[1:] == events


@pytest.mark.parametrize("is_mined", [False, True], ids=["in the mempool", "in a block"])
async def test_payment_from_a_watched_script_is_replaced_on_both_sides(live_spine: Spine, is_mined: bool) -> None:
    """Where the payment's input is paid to a watched script too, its loss is told to both scripts."""
    spine = live_spine
    await spine.subscribe(WALLET_SCRIPT)
    txid = await pay(spine)
    rival = spine.chain.replace(txid, script=THIEF_SCRIPT)
    if is_mined:
        spine.chain.mine()
    await spine.publish()
    assert (await spine.entries())[txid].state == Replaced(rival)
    wallet = await spine.entries(WALLET_SCRIPT)
    assert wallet[txid].state == Replaced(rival)
    assert wallet[rival].state == spine.proved(rival) if is_mined else isinstance(wallet[rival].state, Unconfirmed)
    assert await spine.told_of(txid) == ["payment.seen", "payment.replaced"]
    assert await spine.told_of(txid, WALLET_SCRIPT) == ["payment.seen", "payment.replaced"]
    assert await spine.totals(WALLET_SCRIPT) == (50_000, 0)


# --- busy scripts ------------------------------------------------------------------------------------------------


async def test_old_history_is_not_searched(live_spine: Spine) -> None:
    """What lies below the block of the output can spend nothing of it, and is not fetched."""
    spine = live_spine
    old = {(await fund(spine)).txid for _ in range(5)}
    await pay(spine)
    for server in spine.servers():
        assert not server.asked & old


async def test_rival_in_an_old_block_is_found(live_spine: Spine, autojump_clock: object) -> None:
    """A rival that was mined long before anybody could look is found, since the output's block is where it begins."""
    spine = live_spine
    spend = await fund(spine)
    for server in spine.servers():
        server.silent_about.add(spend.txid)
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000, spend=[spend])
    await spine.source.tell(SHOP, server=ONE)
    await trio.sleep(10.0)
    assert await spine.told_of(txid) == ["payment.seen"]
    rival = spine.chain.replace(txid, script=THIEF_SCRIPT)
    spine.chain.mine(30)
    await spine.publish()
    for server in spine.servers():
        server.silent_about.clear()
    await trio.sleep(400.0)
    assert (await spine.entries())[txid].state == Replaced(rival)


async def test_only_so_many_candidates_are_looked_at(live_spine: Spine) -> None:
    """Of a history with very many recent transactions only the last hundred are fetched."""
    spine = live_spine
    await pay(spine)
    spine.server.calls.clear()
    spine.server.withheld = {txid_of(number) for number in range(2 * MOST_CANDIDATES)}
    spine.server.transaction_of = lambda txid: None
    for name in (TWO, THREE):
        spine.source.lose(name)
    history = tuple(HistoryEntry(txid_of(number), None) for number in range(2 * MOST_CANDIDATES))
    spine.source.is_live = False
    await spine.source.tell(WALLET, history, server=ONE)
    await spine.settle()
    assert spine.server.calls["transaction"] == MOST_CANDIDATES


@pytest.mark.slow
@pytest.mark.parametrize("is_wanted", [False, True], ids=["nobody's", "a shop's"])
async def test_busy_script_is_given_up(live_spine: Spine, is_wanted: bool) -> None:
    """A script with a very long history is watched no more for the payment's sake; a shop's own stays watched."""
    spine = live_spine
    if is_wanted:
        await spine.subscribe(WALLET_SCRIPT)
    txid = await pay(spine)
    spine.source.is_live = False
    busy = tuple(HistoryEntry(txid_of(number), 5) for number in range(LONGEST_HISTORY + 1))
    await spine.source.tell(WALLET, busy, server=ONE)
    await spine.settle()
    assert len(await spent(spine)) == 1  # not on the word of one
    await spine.source.tell(WALLET, busy, server=TWO)
    await spine.settle()
    assert await spent(spine) == []
    assert (WALLET in spine.source.known) == is_wanted
    assert isinstance((await spine.entries())[txid].state, Unconfirmed)


async def test_busy_scripts_payment_is_still_dropped(live_spine: Spine, autojump_clock: object) -> None:
    """A payment whose script was given up is found to have vanished all the same."""
    spine = live_spine
    txid = await pay(spine)
    busy = tuple(HistoryEntry(txid_of(number), 5) for number in range(LONGEST_HISTORY + 1))
    for name in (ONE, TWO):
        await spine.source.tell(WALLET, busy, server=name)
        await spine.settle()
    assert WALLET not in spine.source.known
    spine.chain.replace(txid, script=THIEF_SCRIPT)
    await spine.publish()
    await trio.sleep(800.0)
    assert await spine.told_of(txid) == ["payment.seen", "payment.dropped"]


async def test_long_history_of_exactly_the_limit_is_searched(open_spine: OpenSpine) -> None:
    """A history at the limit is still searched for rivals."""
    chain = SimulatedChain()
    chain.mine(20)
    spine = await open_spine(chain, servers=1)
    await spine.subscribe()
    await spine.follow()
    funding = chain.pay(WALLET_SCRIPT, 50_000)
    chain.mine()
    txid = chain.pay(SHOP_SCRIPT, 5_000, spend=[Outpoint(funding, 0)])
    await spine.follow()
    await spine.absorb()
    rival = chain.replace(txid, script=THIEF_SCRIPT)
    old = tuple(HistoryEntry(txid_of(number), 5) for number in range(LONGEST_HISTORY - 1))
    await spine.source.tell(WALLET, (*old, HistoryEntry(rival, None)))
    await spine.settle()
    assert (await spine.entries())[txid].state == Replaced(rival)
