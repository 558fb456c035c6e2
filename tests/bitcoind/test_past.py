"""The search for what happened before a script was watched, to its end in the ledger."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.transaction import Outpoint
from lightipn.bitcoind.rpc import METHOD_NOT_FOUND
from lightipn.chain.source import ScriptHashChanged
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import ledger as ledger_store
from lightipn.store import node_findings
from tests.bitcoind.rig import A_WHILE_S, POLL_S, SOMEBODY_SCRIPT, Life, coin_of, life_on
from tests.bitcoind.simulated_node import RefusedCallError, SimulatedNode
from tests.tracker.rig import SHOP, SHOP_SCRIPT

PAST_SAT = 1_000_000
CHANGE_SAT = PAST_SAT - 51_000  # after a payment of 50,000 and its fee
SCAN_S = 20.0


def old_payment(*, has_filters: bool) -> SimulatedNode:
    """Return a node on whose chain the shop was paid in block 3, and nothing happened up to the tip, block 11."""
    chain = SimulatedChain()
    chain.mine(2)
    chain.pay(SHOP_SCRIPT, PAST_SAT)
    chain.mine(9)
    return SimulatedNode(chain, has_filters=has_filters)


def spend_with_change(chain: SimulatedChain) -> None:
    """Have the shop pay somebody out of its one coin, with change back to it."""
    chain.pay(SOMEBODY_SCRIPT, 50_000, spend=[coin_of(chain)], change_to=SHOP_SCRIPT)


# --- finding it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_filters", [False, True])
async def test_past_is_found_again_however_often_a_script_is_let_go_of(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What was found before a script was let go of is found anew when it is watched again, and after a restart."""
    node = old_payment(has_filters=has_filters)
    for _ in range(2):
        async with life_on(node, tmp_path / "a.db") as life:
            for _ in range(2):
                await life.watch()
                await trio.sleep(A_WHILE_S)
                assert await life.shown() == [(PAST_SAT, "Confirmed")]
                assert await life.coverage() == (None if has_filters else 12, 0)
                await life.unwatch()
                await trio.sleep(A_WHILE_S)


async def test_node_without_scanblocks_is_asked_for_its_unspent_outputs(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Version 24 keeps filters and cannot be asked for them; of each payment that is unspent the past is known."""
    node = old_payment(has_filters=True)
    node.version, node.can_scan_blocks = 240_000, False
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert await life.shown() == [(PAST_SAT, "Confirmed")]
        assert await life.coverage() == (12, 0)
        assert (node.calls.count("scantxoutset"), life.source.past_progress) == (1, "")


class RefusingNode(SimulatedNode):
    """A node that refuses to tell how far a scan is, with a code that says nothing of what it can do."""

    code = -1

    def _scanblocks(self, *params: object) -> object:
        if params[0] == "status" and self.code:
            raise RefusedCallError(self.code)
        return super()._scanblocks(*params)  # type: ignore[arg-type]  # as they were sent


async def test_one_refusal_is_no_lack_of_filters(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Only a node that does not know the method is never asked again; after another refusal filters serve."""
    chain = old_payment(has_filters=True).chain
    node = RefusingNode(chain)
    assert node.code != METHOD_NOT_FOUND
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert await life.shown() == []
        node.code = 0
        await trio.sleep(100.0)
        assert (await life.shown(), await life.coverage()) == ([(PAST_SAT, "Confirmed")], (None, 0))


# --- searches that see not all -----------------------------------------------------------------------------------


@pytest.mark.parametrize("has_filters", [False, True])
async def test_scan_that_somebody_ended_is_asked_for_again(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What an ended scan has not seen is not missing from the past: it settles nothing, and another one follows."""
    node = old_payment(has_filters=has_filters)
    node.ends_scans = False
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert (await life.shown(), await life.coverage()) == ([], (12, 0))
        assert life.source.past_progress != ""
        node.ends_scans = True
        await trio.sleep(100.0)
        assert await life.shown() == [(PAST_SAT, "Confirmed")]
        assert await life.coverage() == (None if has_filters else 12, 0)
        assert life.source.past_progress == ""


async def test_filters_that_are_behind_are_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A block whose filter is not written yet is passed over in silence, so nothing is settled before it is."""
    node = old_payment(has_filters=True)
    node.filter_lag_blocks = 9  # the payment is in the first block without a filter
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert (await life.shown(), await life.coverage()) == ([], (12, 0))
        node.filter_lag_blocks = 0
        await trio.sleep(100.0)
        assert (await life.shown(), await life.coverage()) == ([(PAST_SAT, "Confirmed")], (None, 0))


async def test_script_that_is_watched_again_during_a_scan_is_searched_for_once_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A scan that began before a script was watched again says nothing of the blocks that came in between."""
    node = old_payment(has_filters=True)
    async with life_on(node, tmp_path / "a.db") as life:

        async def change_of_mind() -> None:
            await life.unwatch()
            await trio.sleep(2 * POLL_S)
            node.chain.pay(SHOP_SCRIPT, 50_000)
            node.chain.mine()
            await trio.sleep(2 * POLL_S)
            await life.watch()
            await trio.sleep(2 * POLL_S)

        await trio.sleep(POLL_S)
        node.after["scanblocks"] = change_of_mind
        await life.watch()
        await trio.sleep(100.0)
        assert await life.shown() == [(50_000, "Confirmed"), (PAST_SAT, "Confirmed")]
        assert await life.coverage() == (None, 0)


# --- change out of coins that are not known yet ------------------------------------------------------------------


async def test_change_that_comes_while_the_past_is_searched_is_no_payment(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A block that spends a coin which no search has found yet shows the script as its owner, not as paid."""
    node = old_payment(has_filters=False)
    async with life_on(node, tmp_path / "a.db") as life:

        async def spend() -> None:
            spend_with_change(node.chain)
            node.chain.mine()
            await trio.sleep(SCAN_S)
            assert await life.shown() == [(CHANGE_SAT - PAST_SAT, "Confirmed")]

        node.before["scantxoutset"] = spend
        await life.watch()
        await trio.sleep(100.0)
        assert await life.shown() == [(CHANGE_SAT - PAST_SAT, "Confirmed")]
        assert await life.coverage() == (13, 0)
        assert "scantxoutset" not in node.before


async def test_change_that_waits_while_the_past_is_searched_is_never_told_as_a_payment(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Seen unconfirmed first, mined then, and all the time the coin is not known yet: only the spending is told."""
    node = old_payment(has_filters=False)
    async with life_on(node, tmp_path / "a.db") as life:

        async def spend() -> None:
            spend_with_change(node.chain)
            await trio.sleep(SCAN_S)
            assert await life.shown() == [(CHANGE_SAT - PAST_SAT, "Unconfirmed")]
            node.chain.mine()
            await trio.sleep(SCAN_S)

        node.before["scantxoutset"] = spend
        await life.watch()
        await trio.sleep(200.0)
        told = [("payment.seen", CHANGE_SAT - PAST_SAT), ("payment.confirmed", CHANGE_SAT - PAST_SAT)]
        assert await life.payment_events() == told
        assert life.source.take_evidence() == []


# --- pruned blocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_seen_waiting", [False, True])
async def test_coin_of_a_pruned_block_is_known_when_it_is_spent(
    is_seen_waiting: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What cannot be proved is said beside the payments; spent with change back it leaves, and nothing is accused."""
    node = old_payment(has_filters=False)
    node.prune_height = 9
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert (await life.shown(), await life.coverage()) == ([], (12, PAST_SAT))
        spend_with_change(node.chain)
        if is_seen_waiting:
            await trio.sleep(A_WHILE_S)
            assert await life.shown() == [(CHANGE_SAT - PAST_SAT, "Unconfirmed")]
        node.chain.mine()
        await trio.sleep(A_WHILE_S)
        assert (await life.shown(), await life.coverage()) == ([(CHANGE_SAT - PAST_SAT, "Confirmed")], (12, 0))
        node.chain.pay(SHOP_SCRIPT, 7_777)
        node.chain.mine()
        await trio.sleep(A_WHILE_S)
        assert life.source.take_evidence() == []
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        assert await life.shown() == [(CHANGE_SAT - PAST_SAT, "Confirmed"), (7_777, "Confirmed")]


async def test_blocks_that_are_pruned_before_they_are_looked_through_have_their_unspent_outputs_searched(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A node that goes on and prunes between two looks leaves a gap; that is said, and searched without a new watch."""
    node = old_payment(has_filters=False)
    node.prune_height = 1
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        for _ in range(3):
            node.chain.pay(SHOP_SCRIPT, 1_000)
            node.chain.mine()
        node.chain.mine(20)
        node.prune_height = 30
        await trio.sleep(A_WHILE_S)
        assert await life.shown() == [(PAST_SAT, "Confirmed")]
        assert await life.coverage() == (35, 3_000)
        assert (node.calls.count("scantxoutset"), life.source.past_progress) == (2, "")


@pytest.mark.slow
async def test_payment_whose_block_is_pruned_unseen_is_not_told_as_dropped(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It left the mempool for a block that nobody can show: it stays as it was, and the node says it is there."""
    node = old_payment(has_filters=False)
    node.prune_height = 1
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        txid = node.chain.pay(SHOP_SCRIPT, 5_000)
        await trio.sleep(A_WHILE_S)
        before = await life.payment_events()
        assert (await life.shown())[0] == (5_000, "Unconfirmed")
        coin = Outpoint(txid, 0)
    node.chain.mine(20)
    node.prune_height = 25
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(900.0)
        assert (await life.shown())[0] == (5_000, "Unconfirmed")
        assert (await life.coverage())[1] == 0  # it stands in one place only
        assert await life.payment_events() == before
        node.chain.pay(SOMEBODY_SCRIPT, 4_000, spend=[coin])
        node.chain.mine()
        await trio.sleep(900.0)
        assert (-5_000, "Confirmed") in await life.shown()
        assert (5_000, "Unconfirmed") in await life.shown()


@pytest.mark.slow
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_payment_that_still_waits_behind_pruned_blocks_can_be_dropped(
    is_restarted: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It is seen waiting, so it was in none of those blocks, and its eviction is told like any other."""
    node = old_payment(has_filters=False)
    node.prune_height = 1
    async with AsyncExitStack() as lives:
        life = await lives.enter_async_context(life_on(node, tmp_path / "a.db"))
        await life.watch()
        await trio.sleep(A_WHILE_S)
        txid = node.chain.pay(SHOP_SCRIPT, 5_000)
        await trio.sleep(A_WHILE_S)
        node.trouble = "unreachable"
        await trio.sleep(A_WHILE_S)
        node.chain.mine(20, include=[])
        node.prune_height = 25
        node.trouble = ""
        if is_restarted:
            await lives.aclose()
            life = await lives.enter_async_context(life_on(node, tmp_path / "a.db"))
        await trio.sleep(900.0)
        assert (await life.shown())[0] == (5_000, "Unconfirmed")
        node.chain.evict(txid)
        await trio.sleep(2_000.0)
        assert (await life.shown())[0] == (5_000, "Dropped")


# --- nothing is called whole too early ---------------------------------------------------------------------------


async def test_history_is_whole_only_when_it_is_in_the_ledger(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Neither while the past is searched, nor between its end and the ledger's, may anybody take a part for all."""
    node = old_payment(has_filters=True)
    async with life_on(node, tmp_path / "a.db", has_tracker=False) as life:

        async def take_long() -> None:
            await trio.sleep(SCAN_S)

        node.before["scanblocks"] = take_long
        node.chain.pay(SHOP_SCRIPT, 500)
        await life.watch()
        first = await life.next_of(ScriptHashChanged)
        assert len(first.history) == 1
        assert (await life.coverage())[0] == 12
        await work_in(life, first)
        assert (await life.record()).absorbed_at is not None  # lets lookups answer, and say from where on they know
        second = await life.next_of(ScriptHashChanged)
        assert len(second.history) == 2
        assert (await life.coverage())[0] is None
        assert await life.store.read(lambda db: node_findings.is_ahead_of_ledger(db, SHOP))


async def work_in(life: Life, update: ScriptHashChanged) -> None:
    """Do what the tracker does with a history of which nothing is proved."""
    scripthash: ScriptHash = update.scripthash
    assert scripthash == SHOP
    await life.store.transact(lambda db: ledger_store.save_status(db, scripthash, update.status, now=1))
    life.source.absorbed(scripthash, update.status, server=update.server, is_news=True)
