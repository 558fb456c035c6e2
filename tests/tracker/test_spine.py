"""The histories' side of the spine: what is believed of them, what is held back, and what is asked again."""

import pytest
import structlog.testing

from lightipn.bitcoin.hashes import Txid, scripthash_of
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import UNKNOWN, HistoryEntry, status_of
from lightipn.chain.source import MerkleBranch
from lightipn.chain.verifier import Unconfirmed
from lightipn.errors import SourceRefusedError
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import ledger as ledger_store
from lightipn.tracker.spine import LONGEST_RECHECK_S, PART
from tests.builders import txid_of
from tests.tracker.rig import NOW, ONE, OTHER, OTHER_SCRIPT, SHOP, SHOP_SCRIPT, OpenSpine, Spine, address_on_regtest

# --- what is believed --------------------------------------------------------------------------------------------


async def test_payment_in_the_mempool_is_a_claim(spine: Spine) -> None:
    """A payment seen in the mempool is unconfirmed, its status is absorbed, and the shop is due to be told."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    assert (await spine.entries())[txid].state == Unconfirmed()
    assert await spine.totals() == (0, 5_000)
    assert await spine.due() == [(0, 5_000)]
    assert len(spine.rings) == 1
    assert spine.source.known[SHOP] == spine.chain.status(SHOP) == await spine.known_status()
    assert await spine.told_of(txid) == ["payment.seen"]


async def test_payment_in_a_block_is_proved(spine: Spine) -> None:
    """A payment in a block is confirmed with its block's hash, height and position."""
    spine.chain.pay(OTHER_SCRIPT, 1)
    txid = await spine.pay_and_mine()
    await spine.absorb()
    assert (await spine.entries())[txid].state == spine.proved(txid)
    assert spine.proved(txid).position == 2
    assert await spine.due() == [(5_000, 0)]
    assert await spine.told_of(txid) == ["payment.confirmed"]


async def test_history_before_its_header_is_proved(spine: Spine) -> None:
    """A history that speaks of a block whose header was not announced yet brings the chain up to it."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.mine()
    await spine.absorb()
    assert spine.tracker.follower.chain.tip_height == 21
    assert (await spine.entries())[txid].state == spine.proved(txid)


async def test_amounts_come_from_the_transaction(spine: Spine) -> None:
    """Two outputs to the script, and change that returns to it, count as their net."""
    txid = spine.chain.pay_many([(SHOP_SCRIPT, 3_000), (OTHER_SCRIPT, 50), (SHOP_SCRIPT, 4_000)])
    await spine.absorb()
    assert await spine.totals() == (0, 7_000)
    spine.chain.pay(OTHER_SCRIPT, 1_000, spend=[Outpoint(txid, 0)], change_to=SHOP_SCRIPT)
    await spine.absorb()
    entries = await spine.entries()
    assert len(entries) == 2
    assert await spine.totals() == (0, 7_000)
    assert sum(entry.net_sat for entry in entries.values()) == 5_000  # 1,000 paid out, 1,000 fee


async def test_same_history_twice_changes_nothing(spine: Spine) -> None:
    """Telling a history again writes no event, fetches nothing and rings nobody."""
    await spine.pay_and_mine()
    await spine.absorb()
    before, calls, rings, feed = await spine.entries(), spine.source.calls, len(spine.rings), await spine.feed()
    await spine.absorb()
    assert (await spine.entries(), spine.source.calls, len(spine.rings)) == (before, calls, rings)
    assert await spine.feed() == feed


async def test_claim_of_less_takes_no_proof_away(spine: Spine) -> None:
    """A confirmed payment that a server claims to be in the mempool stays confirmed: only a reorg takes it back."""
    txid = await spine.pay_and_mine()
    await spine.absorb()
    await spine.source.tell(SHOP, (HistoryEntry(txid, None),))
    await spine.settle()
    assert (await spine.entries())[txid].state == spine.proved(txid)


async def test_event_names_the_address_and_what_it_is_worth(spine: Spine) -> None:
    """The feed tells a payment with its address, amount, trust, and whether it may be replaced."""
    first = spine.chain.pay(SHOP_SCRIPT, 5_000, rbf=True)
    second = spine.chain.pay(SHOP_SCRIPT, 600, rbf=False)
    await spine.absorb()
    by_txid = {event.txid: event for event in await spine.feed()}
    assert {event.address for event in by_txid.values()} == {address_on_regtest(SHOP_SCRIPT).text}
    assert (by_txid[first].net_sat, by_txid[first].signals_rbf) == (5_000, True)
    assert (by_txid[second].net_sat, by_txid[second].signals_rbf) == (600, False)
    assert {(event.trust, event.seen_by, event.happened_at) for event in by_txid.values()} == {("single", 1, int(NOW))}


# --- what is held back -------------------------------------------------------------------------------------------


async def test_withheld_proof_is_asked_for_again(spine: Spine) -> None:
    """A payment whose proof is withheld is kept as unconfirmed, asked again with growing pauses, and proved later."""
    txid = await spine.pay_and_mine()

    def refuse(txid: Txid, height: int) -> MerkleBranch:
        raise SourceRefusedError("withheld", code=1)

    spine.server.branch_of = refuse
    for tries in range(1, 12):
        await spine.absorb()
        assert await spine.totals() == (0, 5_000)
        assert await spine.known_status() != spine.chain.status(SHOP)
        assert spine.source.rechecks[-1] == (ONE, SHOP, min(2.0**tries, LONGEST_RECHECK_S))
    spine.server.branch_of = None
    await spine.absorb()
    assert (await spine.entries())[txid].state == spine.proved(txid)
    assert await spine.known_status() == spine.chain.status(SHOP)
    assert len(spine.source.rechecks) == 11
    assert spine.source.reports == []
    assert await spine.told_of(txid) == ["payment.seen", "payment.confirmed"]


async def test_pauses_start_anew_after_success(spine: Spine) -> None:
    """Once a history was proved, the next trouble with the script starts with the shortest pause."""
    for _ in range(2):
        txid = await spine.pay_and_mine()
        spine.server.withheld.add(txid)
        await spine.absorb()
        await spine.absorb()
        spine.server.withheld.clear()
        await spine.absorb()
        assert (await spine.entries())[txid].state == spine.proved(txid)
    assert [after_s for _, _, after_s in spine.source.rechecks] == [2.0, 4.0, 2.0, 4.0]


async def test_refused_proof_is_no_verdict(spine: Spine) -> None:
    """A server that refuses the proof is not blamed; what it proved of the other payments stands."""
    first, second = spine.chain.pay(SHOP_SCRIPT, 5_000), spine.chain.pay(SHOP_SCRIPT, 600)
    spine.chain.mine()
    await spine.follow()
    await spine.source.tell(SHOP, (HistoryEntry(first, 21), HistoryEntry(second, 20)))  # the second is not there
    await spine.settle()
    entries = await spine.entries()
    assert (entries[first].state, entries[second].state) == (spine.proved(first), Unconfirmed())
    assert (spine.source.rechecks, spine.source.reports) == ([(ONE, SHOP, 2.0)], [])


async def test_claim_above_the_tip_is_not_believed(spine: Spine) -> None:
    """A payment claimed for a block that nobody has a header of stays unconfirmed and is asked again."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.server.branch_of = lambda txid, height: MerkleBranch(0, ())
    await spine.source.tell(SHOP, (HistoryEntry(txid, 500),))
    await spine.settle()
    assert await spine.totals() == (0, 5_000)
    assert (spine.source.rechecks, spine.source.reports) == ([(ONE, SHOP, 2.0)], [])


async def test_withheld_transaction_holds_back_itself_alone(spine: Spine) -> None:
    """Without its raw transaction a payment's amount is unknown: it waits, and holds back no other of its script."""
    txid = spine.chain.pay(SHOP_SCRIPT, 600)
    held_back = await spine.pay_and_mine()
    spine.server.withheld.add(held_back)
    await spine.absorb()
    assert set(await spine.entries()) == {txid}
    assert await spine.totals() == (600, 0)
    assert await spine.known_status() != spine.chain.status(SHOP)
    assert (spine.source.rechecks, spine.source.reports) == ([(ONE, SHOP, 2.0)], [])
    spine.server.withheld.clear()
    await spine.absorb()
    assert await spine.totals() == (5_600, 0)
    assert await spine.known_status() == spine.chain.status(SHOP)


# --- lookups, long histories, progress ---------------------------------------------------------------------------


async def look_up(spine: Spine) -> None:
    """Leave a row that has the other script worked in."""
    spine.source.watch(OTHER, UNKNOWN)
    await spine.store.transact(
        lambda db: ledger_store.want_script(db, address_on_regtest(OTHER_SCRIPT), until=int(NOW) + 600, must_ask=True)
    )


async def test_lookup_is_worked_in_like_a_subscription(spine: Spine) -> None:
    """What is merely looked up is proved as well, and nobody is rung for it."""
    await look_up(spine)
    spine.chain.pay(OTHER_SCRIPT, 700)
    spine.chain.mine()
    spine.chain.pay(OTHER_SCRIPT, 80)
    await spine.follow()
    await spine.absorb(OTHER_SCRIPT)
    assert await spine.totals(OTHER_SCRIPT) == (700, 80)
    record = await spine.store.read(lambda db: ledger_store.load_script(db, OTHER))
    assert record is not None
    assert (record.known_status, record.absorbed_at) == (spine.chain.status(OTHER), int(NOW))
    assert (spine.rings, await spine.due()) == ([], [])


@pytest.mark.parametrize("count", [1000, pytest.param(1001, id="one too many")])
async def test_lookup_of_a_long_history_is_refused(spine: Spine, count: int) -> None:
    """A script that is merely looked up is worked in up to 1,000 entries; past that the reason is recorded."""
    await look_up(spine)
    spine.server.withheld = {txid_of(number) for number in range(count)}
    history = tuple(HistoryEntry(txid_of(number), None) for number in range(count))
    await spine.source.tell(OTHER, history)
    await spine.settle()
    record = await spine.store.read(lambda db: ledger_store.load_script(db, OTHER))
    assert record is not None
    assert record.trouble == ("history-too-long" if count > 1000 else "")
    assert (spine.source.calls["transaction"] > 0) == (count <= 1000)
    assert (spine.source.known.get(OTHER) == status_of(history)) == (count > 1000)
    assert len(spine.source.rechecks) == (0 if count > 1000 else 1)


@pytest.mark.slow
async def test_subscribed_script_may_have_a_long_history(open_spine: OpenSpine) -> None:
    """A subscribed script with more than 1,000 payments is worked in, page by page of evidence."""
    chain = SimulatedChain()
    for number in range(1100):
        chain.pay(SHOP_SCRIPT, 1_000 + number)
    chain.mine()
    spine = await open_spine(chain)
    await spine.subscribe()
    await spine.follow()
    await spine.absorb()
    assert len(await spine.entries()) == 1100
    assert await spine.totals() == (sum(1_000 + number for number in range(1100)), 0)
    assert spine.server.most_at_once <= 2 * PART
    assert (spine.source.calls["transaction"], spine.source.calls["merkle"]) == (1100, 1100)


@pytest.mark.parametrize("is_proved", [True, False], ids=["proved", "not proved"])
async def test_progress_is_told_after_every_commit(spine: Spine, is_proved: bool) -> None:
    """Whoever waits for progress is woken when a history was committed, proved or not."""
    txid = await spine.pay_and_mine()
    if not is_proved:
        spine.server.withheld.add(txid)
    progress = spine.tracker.progress()
    assert not progress.is_set()
    await spine.absorb()
    assert progress.is_set()
    assert not spine.tracker.progress().is_set()
    assert bool(spine.source.rechecks) != is_proved


async def test_many_events_are_only_counted_in_the_log(spine: Spine) -> None:
    """The log names the first twenty payments of a change, and counts the others."""
    txids = [spine.chain.pay(SHOP_SCRIPT, 1_000) for _ in range(25)]
    with structlog.testing.capture_logs() as logs:
        await spine.absorb()
    assert [log["event"] for log in logs].count("payment.seen") == 20
    assert [log["count"] for log in logs if log["event"] == "tracker.events_omitted"] == [5]
    assert {event.txid for event in await spine.feed()} == set(txids)


async def test_unwanted_script_is_not_asked_about(spine: Spine) -> None:
    """A history of a script that nobody wants fetches nothing, records nothing and asks for nothing again."""
    spine.chain.pay(OTHER_SCRIPT, 5_000)
    await spine.absorb(OTHER_SCRIPT)
    assert not spine.source.calls
    assert (await spine.entries(OTHER_SCRIPT), spine.source.rechecks) == ({}, [])
    assert scripthash_of(OTHER_SCRIPT) not in spine.source.known
