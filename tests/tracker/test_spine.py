"""The histories' side of the spine: what is fetched, what is believed, and what is asked again."""

from collections.abc import Sequence

import pytest
import structlog.testing
import trio

from lightipn.bitcoin.address import address_of, parse_address
from lightipn.bitcoin.hashes import Txid, scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import UNKNOWN, HistoryEntry, status_of
from lightipn.chain.source import MerkleBranch
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.errors import SourceRefusedError
from lightipn.ledger.entries import Replaced
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import ledger as ledger_store
from lightipn.store import subscriptions as subscription_store
from lightipn.tracker.spine import EVIDENCE_PAGE, LONGEST_RECHECK_S, PATIENT_RECHECKS
from tests.builders import txid_of
from tests.tracker.rig import NOW, SHOP, SHOP_SCRIPT, OpenSpine, Spine

OTHER_SCRIPT = forge.made_up_script("other")


async def pay_and_mine(spine: Spine, amount_sat: int = 5_000) -> Txid:
    """Pay the shop in a block that we follow; its history is not told yet."""
    txid = spine.chain.pay(SHOP_SCRIPT, amount_sat)
    spine.chain.mine()
    await spine.follow()
    return txid


def proved(spine: Spine, txid: Txid) -> Confirmed:
    """Return where a transaction is, as the made-up chain knows it."""
    height = spine.chain.height_of(txid)
    assert height is not None
    block = spine.chain.block_at(height)
    return Confirmed(block.block_hash, height, block.txids.index(txid))


def events_of(logs: Sequence[object]) -> list[str]:
    """Return the payment events among log lines."""
    names = [str(log["event"]) for log in logs if isinstance(log, dict)]
    return [name for name in names if name.startswith("payment.")]


# --- what is believed --------------------------------------------------------------------------------------------


async def test_payment_in_the_mempool_is_a_claim(spine: Spine) -> None:
    """A payment seen in the mempool is unconfirmed, its status is absorbed, and the shop is due to be told."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    with structlog.testing.capture_logs() as logs:
        await spine.absorb()
    assert (await spine.entries())[txid].state == Unconfirmed()
    assert await spine.totals() == (0, 5_000)
    assert await spine.due() == [(0, 5_000)]
    assert len(spine.rings) == 1
    assert spine.source.known[SHOP] == spine.chain.status(SHOP) == await spine.known_status()
    assert events_of(logs) == ["payment.seen"]


async def test_payment_in_a_block_is_proved(spine: Spine) -> None:
    """A payment in a block is confirmed with its block's hash, height and position."""
    spine.chain.pay(OTHER_SCRIPT, 1)
    txid = await pay_and_mine(spine)
    await spine.absorb()
    assert (await spine.entries())[txid].state == proved(spine, txid)
    assert proved(spine, txid).position == 2
    assert await spine.due() == [(5_000, 0)]


async def test_history_before_its_header_is_proved(spine: Spine) -> None:
    """A history that speaks of a block whose header was not announced yet brings the chain up to it."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.mine()
    await spine.absorb()
    assert spine.follower.chain.tip_height == 21
    assert (await spine.entries())[txid].state == proved(spine, txid)


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
    await pay_and_mine(spine)
    await spine.absorb()
    before, calls, rings = await spine.entries(), spine.source.calls.copy(), len(spine.rings)
    with structlog.testing.capture_logs() as logs:
        await spine.absorb()
    assert (await spine.entries(), spine.source.calls, len(spine.rings)) == (before, calls, rings)
    assert events_of(logs) == []


async def test_shorter_history_removes_nothing(spine: Spine) -> None:
    """A history that leaves a payment out is no proof that it is gone, confirmed or not; neither is an empty one."""
    confirmed = await pay_and_mine(spine)
    spine.chain.pay(SHOP_SCRIPT, 600)
    await spine.absorb()
    before = await spine.entries()
    await spine.source.tell(SHOP, (HistoryEntry(confirmed, 21),))
    await spine.source.tell(SHOP, ())
    await spine.settle()
    assert await spine.entries() == before
    assert await spine.totals() == (5_000, 600)


async def test_claim_of_less_takes_no_proof_away(spine: Spine) -> None:
    """A confirmed payment that a server claims to be in the mempool stays confirmed: only a reorg takes it back."""
    txid = await pay_and_mine(spine)
    await spine.absorb()
    await spine.source.tell(SHOP, (HistoryEntry(txid, None),))
    await spine.settle()
    assert (await spine.entries())[txid].state == proved(spine, txid)


async def test_fee_bump_changes_no_total(spine: Spine) -> None:
    """A replacement of the same amount leaves the total and the message as they are: nobody is told again."""
    first = spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    rings, due = len(spine.rings), await spine.due()
    second = spine.chain.replace(first)
    with structlog.testing.capture_logs() as logs:
        await spine.absorb()
    entries = await spine.entries()
    assert (entries[first].state, entries[second].state) == (Replaced(second), Unconfirmed())
    assert await spine.totals() == (0, 5_000)
    assert (len(spine.rings), await spine.due()) == (rings, due)
    assert sorted(events_of(logs)) == ["payment.replaced", "payment.seen"]


# --- what is held back -------------------------------------------------------------------------------------------


async def test_withheld_proof_is_asked_for_again(spine: Spine) -> None:
    """A payment whose proof is withheld is kept as unconfirmed, asked again with growing pauses, and proved later."""
    txid = await pay_and_mine(spine)

    def refuse(txid: Txid, height: int) -> MerkleBranch:
        raise SourceRefusedError("withheld", code=1)

    spine.source.branch_of = refuse
    for tries in range(1, 12):
        await spine.absorb()
        assert await spine.totals() == (0, 5_000)
        assert await spine.known_status() == UNKNOWN
        assert spine.source.rechecks[-1] == (SHOP, min(2.0**tries, LONGEST_RECHECK_S))
    spine.source.branch_of = None
    await spine.absorb()
    assert (await spine.entries())[txid].state == proved(spine, txid)
    assert await spine.known_status() == spine.chain.status(SHOP)
    assert len(spine.source.rechecks) == 11
    assert spine.source.reports == []


async def test_false_proof_is_reported_in_the_end(spine: Spine) -> None:
    """A branch that does not prove its claim is put down to a reorg three times, and then to the server."""
    txid = await pay_and_mine(spine)
    spine.source.branch_of = lambda txid, height: MerkleBranch(0, ())
    for _ in range(PATIENT_RECHECKS):
        await spine.absorb()
        assert spine.source.reports == []
    await spine.absorb()
    assert len(spine.source.reports) == 1
    assert spine.source.reports[0].startswith("branch: ")
    assert await spine.totals() == (0, 5_000)
    spine.source.branch_of = None
    await spine.absorb()
    assert (await spine.entries())[txid].state == proved(spine, txid)


async def test_pauses_start_anew_after_success(spine: Spine) -> None:
    """Once a history was proved, the next trouble with the script starts with the shortest pause."""
    for _ in range(2):
        txid = await pay_and_mine(spine)
        spine.source.branch_of = lambda txid, height: MerkleBranch(0, ())
        await spine.absorb()
        await spine.absorb()
        spine.source.branch_of = None
        await spine.absorb()
        assert (await spine.entries())[txid].state == proved(spine, txid)
    assert [after_s for _, after_s in spine.source.rechecks] == [2.0, 4.0, 2.0, 4.0]


async def test_refused_proof_is_no_verdict(spine: Spine) -> None:
    """A server that refuses the proof is not blamed; what it proved of the other payments stands."""
    first, second = spine.chain.pay(SHOP_SCRIPT, 5_000), spine.chain.pay(SHOP_SCRIPT, 600)
    spine.chain.mine()
    await spine.follow()
    await spine.source.tell(SHOP, (HistoryEntry(first, 21), HistoryEntry(second, 20)))  # the second is not there
    await spine.settle()
    entries = await spine.entries()
    assert (entries[first].state, entries[second].state) == (proved(spine, first), Unconfirmed())
    assert (spine.source.rechecks, spine.source.reports) == ([(SHOP, 2.0)], [])


async def test_claim_above_the_tip_is_not_believed(spine: Spine) -> None:
    """A payment claimed for a block that nobody has a header of stays unconfirmed and is asked again."""
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.source.branch_of = lambda txid, height: MerkleBranch(0, ())
    await spine.source.tell(SHOP, (HistoryEntry(txid, 500),))
    await spine.settle()
    assert await spine.totals() == (0, 5_000)
    assert spine.source.rechecks == [(SHOP, 2.0)]


async def test_withheld_transaction_holds_back_itself_alone(spine: Spine) -> None:
    """Without its raw transaction a payment's amount is unknown: it waits, and holds back no other of its script."""
    txid = spine.chain.pay(SHOP_SCRIPT, 600)
    held_back = await pay_and_mine(spine)
    spine.source.withheld.add(held_back)
    await spine.absorb()
    assert set(await spine.entries()) == {txid}
    assert await spine.totals() == (600, 0)
    assert await spine.known_status() == UNKNOWN
    assert (spine.source.rechecks, spine.source.reports) == ([(SHOP, 2.0)], [])
    spine.source.withheld.clear()
    await spine.absorb()
    assert await spine.totals() == (5_600, 0)
    assert await spine.known_status() == spine.chain.status(SHOP)


@pytest.mark.parametrize("lie", ["doubled amount", "another transaction", "no transaction", "nothing"])
async def test_false_transaction_is_reported(spine: Spine, lie: str) -> None:
    """Bytes that do not hash to the txid are reported with their server, and not a satoshi of them is recorded."""
    other = spine.chain.pay(OTHER_SCRIPT, 1)
    txid = await pay_and_mine(spine)
    raw = spine.chain.transaction(txid)
    assert raw is not None
    lies = {
        "doubled amount": forge.with_other_amount(raw),
        "another transaction": spine.chain.transaction(other),
        "no transaction": raw[:-1],
        "nothing": b"",
    }
    spine.source.transaction_of = lambda txid: lies[lie]
    await spine.absorb()
    assert await spine.entries() == {}
    assert len(spine.source.reports) == 1
    assert spine.source.reports[0].startswith("transaction: ")
    spine.source.transaction_of = None
    await spine.absorb()
    assert await spine.totals() == (5_000, 0)


# --- what changes while evidence is under way --------------------------------------------------------------------


async def remove_shop(spine: Spine) -> None:
    """Remove the shop's subscription, and with it the script."""
    await spine.store.transact(lambda db: subscription_store.remove_subscriptions(db, SHOP, url=None))


async def test_script_removed_while_under_way_is_not_recorded(spine: Spine) -> None:
    """A script that is removed while its evidence is fetched leaves no payment, no watch and no recheck behind."""
    txid = await pay_and_mine(spine)
    spine.source.held[txid] = trio.Event()
    await spine.absorb()
    await remove_shop(spine)
    spine.source.held[txid].set()
    await spine.settle()
    assert await spine.entries() == {}
    assert await spine.due() == []
    assert spine.source.rechecks == []
    await spine.subscribe()
    assert await spine.entries() == {}


async def test_script_removed_while_under_way_is_not_watched_again(spine: Spine) -> None:
    """The commit of a script that was removed meanwhile does not bring its watch back."""
    txid = await pay_and_mine(spine)
    spine.source.held[txid] = trio.Event()
    await spine.absorb()
    await remove_shop(spine)
    spine.source.unwatch(SHOP)  # as the keeper of the watches does, whenever a script is removed
    spine.source.held[txid].set()
    await spine.settle()
    assert SHOP not in spine.source.known


async def test_script_removed_and_added_again_is_asked_again(spine: Spine) -> None:
    """A script that is removed and added again while under way is asked again: what was known of it is gone."""
    txid = await pay_and_mine(spine)
    await spine.absorb()
    more = spine.chain.pay(SHOP_SCRIPT, 600)
    spine.source.held[more] = trio.Event()
    await spine.absorb()
    await remove_shop(spine)
    await spine.subscribe()
    spine.source.held[more].set()
    await spine.settle()
    assert await spine.entries() == {}
    assert spine.source.rechecks == [(SHOP, 2.0)]
    await spine.absorb()
    assert set(await spine.entries()) == {txid, more}


async def test_unwanted_script_is_not_asked_about(spine: Spine) -> None:
    """A history of a script that nobody wants any more fetches nothing, records nothing and asks for nothing again."""
    await pay_and_mine(spine)
    await remove_shop(spine)
    calls = spine.source.calls.copy()
    await spine.absorb()
    assert spine.source.calls == calls
    assert (await spine.entries(), spine.source.rechecks) == ({}, [])


async def test_script_is_worked_in_one_history_at_a_time(spine: Spine) -> None:
    """Histories of one script wait for each other, and of those that piled up only the newest is worked in."""
    first = spine.chain.pay(SHOP_SCRIPT, 1)
    spine.source.held[first] = trio.Event()
    await spine.absorb()
    older = spine.chain.pay(SHOP_SCRIPT, 20)
    await spine.absorb()
    newest = spine.chain.replace(older, amount_sat=300)
    await spine.absorb()
    assert spine.source.calls["transaction"] == 1
    spine.source.held[first].set()
    await spine.settle()
    assert set(await spine.entries()) == {first, newest}
    assert spine.source.calls["transaction"] == 2
    assert spine.source.known[SHOP] == spine.chain.status(SHOP)
    await spine.absorb()
    assert await spine.totals() == (0, 301)


async def test_reorg_between_proof_and_commit_takes_the_proof_back(spine: Spine) -> None:
    """A proof in a block that leaves the chain before the commit does not count: the payment is asked again."""
    txid = await pay_and_mine(spine)
    later = spine.chain.pay(SHOP_SCRIPT, 600)
    spine.source.held[later] = trio.Event()
    await spine.absorb()  # the proof of the first is there, the second's bytes are not
    spine.chain.reorg(1)
    await spine.follow()
    spine.source.held[later].set()
    await spine.settle()
    assert (await spine.entries())[txid].state == Unconfirmed()
    assert await spine.totals() == (0, 5_600)
    assert await spine.known_status() == UNKNOWN
    assert spine.source.rechecks[-1] == (SHOP, 2.0)
    spine.chain.mine()
    await spine.follow()
    await spine.absorb()
    assert await spine.totals() == (5_600, 0)


async def test_slow_script_does_not_delay_others(spine: Spine) -> None:
    """While one script's evidence is held back, other scripts are worked in."""
    await spine.subscribe(OTHER_SCRIPT)
    slow = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.pay(OTHER_SCRIPT, 700)
    spine.source.held[slow] = trio.Event()
    await spine.absorb()
    await spine.absorb(OTHER_SCRIPT)
    assert await spine.totals() == (0, 0)
    assert await spine.totals(OTHER_SCRIPT) == (0, 700)


# --- lookups, long histories, progress ---------------------------------------------------------------------------


async def look_up(spine: Spine) -> None:
    """Leave a row that has the other script worked in."""
    text = address_of(OTHER_SCRIPT, REGTEST)
    assert text is not None
    address = parse_address(text, REGTEST)
    spine.source.watch(address.scripthash, UNKNOWN)
    await spine.store.transact(lambda db: ledger_store.want_script(db, address, until=int(NOW) + 600, must_ask=True))


@pytest.mark.parametrize("count", [1000, 1001])
async def test_lookup_of_a_long_history_is_refused(spine: Spine, count: int) -> None:
    """A script that is merely looked up is worked in up to 1,000 entries; past that the reason is recorded."""
    await look_up(spine)
    spine.source.withheld = {txid_of(number) for number in range(count)}
    history = tuple(HistoryEntry(txid_of(number), None) for number in range(count))
    await spine.source.tell(scripthash_of(OTHER_SCRIPT), history)
    await spine.settle()
    record = await spine.store.read(lambda db: ledger_store.load_script(db, scripthash_of(OTHER_SCRIPT)))
    assert record is not None
    assert record.trouble == ("history-too-long" if count > 1000 else "")
    assert (spine.source.calls["transaction"] > 0) == (count <= 1000)
    assert (spine.source.known.get(scripthash_of(OTHER_SCRIPT)) == status_of(history)) == (count > 1000)


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
    assert spine.source.most_at_once <= 2 * EVIDENCE_PAGE
    assert (spine.source.calls["transaction"], spine.source.calls["merkle"]) == (1100, 1100)


async def test_progress_is_told_after_every_commit(spine: Spine) -> None:
    """Whoever waits for progress is woken when a history was committed, proved or not."""
    for branch in (None, lambda txid, height: MerkleBranch(0, ())):
        spine.source.branch_of = branch
        await pay_and_mine(spine)
        progress = spine.tracker.progress()
        assert not progress.is_set()
        await spine.absorb()
        assert progress.is_set()
        assert not spine.tracker.progress().is_set()


async def test_empty_history_over_a_proved_payment_is_an_alarm_and_no_change(spine: Spine) -> None:
    """A server that suddenly shows no history keeps the proved total as it is, and the log says that it does."""
    await pay_and_mine(spine)
    await spine.absorb()
    with structlog.testing.capture_logs() as logs:
        await spine.source.tell(SHOP, history=())
        await spine.settle()
    assert await spine.totals() == (5_000, 0)
    assert [log["count"] for log in logs if log["event"] == "tracker.proved_payments_unlisted"] == [1]
