"""Histories that list what does not concern the script, or more than anybody holds: left out, named, and paid for."""

import pytest
import trio

from lightipn.bitcoin.hashes import scripthash_of
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import UNKNOWN, HistoryEntry
from lightipn.simulator import forge
from lightipn.store import ledger as ledger_store
from lightipn.store.ledger import ScriptRecord
from lightipn.tracker.spine import MAX_LOOKUP_HISTORY
from tests.builders import txid_of
from tests.tracker.rig import (
    NOW,
    ONE,
    OTHER,
    OTHER_SCRIPT,
    SHOP,
    SHOP_SCRIPT,
    THREE,
    TWO,
    Spine,
    address_on_regtest,
)

# --- what does not concern the script ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_mined", [False, True], ids=["in the mempool", "in a block"])
async def test_transaction_that_does_not_concern_the_script_is_left_out(trio_spine: Spine, is_mined: bool) -> None:
    """A real transaction that neither pays the script nor spends from it is not its payment; who lists it is named."""
    spine = trio_spine
    mine = spine.chain.pay(SHOP_SCRIPT, 5_000)
    foreign = spine.chain.pay(OTHER_SCRIPT, 700)
    if is_mined:
        spine.chain.mine()
    await spine.follow()
    height = spine.chain.height_of(foreign)
    true = spine.chain.history(SHOP)
    false = (*true, HistoryEntry(foreign, height))
    spine.source.named[TWO].history_of = lambda sh: false if sh == SHOP else spine.chain.history(sh)
    await spine.absorb(server=TWO)
    assert set(await spine.entries()) == {mine}
    assert spine.source.verdicts == [(TWO, "false-list")]
    await spine.absorb(server=ONE)
    assert spine.source.absorptions[-1][:3] == (ONE, SHOP, spine.chain.status(SHOP))
    assert set(await spine.entries()) == {mine}


async def test_spending_of_a_payment_that_is_not_listed_is_left_out(trio_spine: Spine) -> None:
    """Who lists the spending and hides what is spent would turn change into a deposit: the server is named."""
    spine = trio_spine
    coin = spine.chain.pay(SHOP_SCRIPT, 50_000)
    spine.chain.mine()
    spent = spine.chain.pay(OTHER_SCRIPT, 1_000, spend=[Outpoint(coin, 0)], change_to=SHOP_SCRIPT)
    spine.chain.mine()
    await spine.follow()
    spine.source.named[TWO].unlisted = {coin}
    await spine.absorb(server=TWO)
    assert (await spine.entries(), await spine.totals()) == ({}, (0, 0))
    assert spine.source.verdicts == [(TWO, "false-list")]
    await spine.absorb(server=ONE)
    assert set(await spine.entries()) == {coin, spent}
    assert await spine.totals() == (50_000, 0)  # change is no deposit


async def test_honest_lists_are_never_named(trio_spine: Spine) -> None:
    """Spending, change, and chains of both in one block are the script's own, whatever order they come in."""
    spine = trio_spine
    coin = spine.chain.pay(SHOP_SCRIPT, 90_000)
    for _ in range(3):
        coin = spine.chain.pay(OTHER_SCRIPT, 1_000, spend=[Outpoint(coin, 0)], change_to=SHOP_SCRIPT)
        coins = spine.chain.coins(SHOP)
        coin = next(one.outpoint.txid for one in coins if one.spent_by is None)
        spine.chain.pay(SHOP_SCRIPT, 20, spend=[one.outpoint for one in coins if one.spent_by is None][:1])
        coin = next(one.outpoint.txid for one in spine.chain.coins(SHOP) if one.spent_by is None)
    await spine.absorb()
    spine.chain.mine()
    await spine.follow()
    await spine.absorb()
    assert spine.source.reports == []
    assert set(await spine.entries()) == {claim.txid for claim in spine.chain.history(SHOP)}


# --- floods of claims --------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_inventions_of_one_server_do_not_flood_the_others(live_spine: Spine, autojump_clock: object) -> None:
    """Thousands of claims without a block cost the others some hundred questions, and then about one a second."""
    spine = live_spine
    invented = tuple(HistoryEntry(txid_of(number), None) for number in range(2_000))
    spine.source.named[TWO].history_of = lambda sh: invented if sh == SHOP else spine.chain.history(sh)
    for script in (forge.made_up_script(f"customer {number}") for number in range(20)):
        await spine.subscribe(script)
    spine.source.named[TWO].history_of = lambda _: invented
    await spine.publish()
    asked = spine.source.named[ONE].calls["transaction"]
    assert asked <= 300
    await trio.sleep(100.0)
    assert spine.source.named[ONE].calls["transaction"] - asked <= 150
    assert spine.source.reports == []


@pytest.mark.slow
async def test_true_claims_cost_nothing(live_spine: Spine, autojump_clock: object) -> None:
    """Hundreds of payments that others hold too are all told within seconds, though one server brings them all."""
    spine = live_spine
    scripts = [forge.made_up_script(f"customer {number}") for number in range(15)]
    for script in scripts:
        await spine.subscribe(script)
        for _ in range(20):
            spine.chain.pay(script, 1_000)
    for script in scripts:
        await spine.source.tell(scripthash_of(script), server=ONE)
    await trio.sleep(10.0)
    assert len(await spine.feed()) == 300


async def test_payment_is_told_in_spite_of_a_flood(live_spine: Spine, autojump_clock: object) -> None:
    """While one server floods, what two others hold is told at once."""
    spine = live_spine
    invented = tuple(HistoryEntry(txid_of(number), None) for number in range(2_000))
    spine.source.named[TWO].history_of = lambda _: invented
    await spine.publish()
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.source.tell(SHOP, server=ONE)
    await spine.settle()
    assert [event.kind for event in await spine.feed()] == ["payment.seen"]


# --- lookups with several servers --------------------------------------------------------------------------------


async def look_up(spine: Spine) -> None:
    """Leave a row that has the other script worked in."""
    await spine.store.transact(
        lambda db: ledger_store.want_script(db, address_on_regtest(OTHER_SCRIPT), until=int(NOW) + 600, must_ask=True)
    )
    spine.source.watch(OTHER, UNKNOWN)


async def record_of(spine: Spine) -> ScriptRecord:
    """Return the row of the script that is looked up."""
    record = await spine.store.read(lambda db: ledger_store.load_script(db, scripthash_of(OTHER_SCRIPT)))
    assert record is not None
    return record


async def test_first_answer_of_a_lookup_waits_for_the_others(trio_spine: Spine, autojump_clock: object) -> None:
    """One server alone may leave out what it likes: a lookup is answered once the others had two seconds to speak."""
    spine = trio_spine
    spine.chain.pay(OTHER_SCRIPT, 700)
    spine.chain.mine()
    await spine.follow()
    await look_up(spine)
    await spine.source.tell(OTHER, (), server=TWO)
    await trio.sleep(1.9)
    assert (await record_of(spine)).absorbed_at is None
    await spine.source.tell(OTHER, server=ONE)
    await trio.sleep(0.2)
    assert (await record_of(spine)).absorbed_at == int(NOW)
    assert await spine.totals(OTHER_SCRIPT) == (700, 0)


async def test_one_server_cannot_refuse_a_lookup(trio_spine: Spine) -> None:
    """A history is too long for a lookup when two servers say so, and not on the word of one."""
    spine = trio_spine
    await look_up(spine)
    long = tuple(HistoryEntry(txid_of(number), 5) for number in range(MAX_LOOKUP_HISTORY + 1))
    for name, trouble in ((TWO, ""), (TWO, ""), (THREE, "history-too-long")):
        await spine.source.tell(OTHER, long, server=name)
        await spine.settle()
        assert (await record_of(spine)).trouble == trouble
