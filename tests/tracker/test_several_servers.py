"""Servers that disagree about a script: each gets an answer, nobody's silence removes anything, liars are named."""

from collections.abc import Sequence

import pytest
import structlog.testing

from lightipn.bitcoin.hashes import Txid
from lightipn.chain.history import HistoryEntry, status_of
from lightipn.chain.verifier import Unconfirmed
from lightipn.tracker.omissions import PATIENT_OMISSIONS
from tests.tracker.rig import NAMES, ONE, SHOP, SHOP_SCRIPT, THREE, TWO, Spine


def answers_of(spine: Spine) -> list[str]:
    """Return the servers that were answered, with or without success."""
    absorbed = [server for server, scripthash, _, _ in spine.source.absorptions if scripthash == SHOP]
    return sorted(absorbed + [server for server, scripthash, _ in spine.source.rechecks if scripthash == SHOP])


async def tell_without(spine: Spine, server: str, left_out: Txid) -> None:
    """Have a server tell the shop's history without one payment, and stand by it."""
    spine.source.named[server].unlisted = {left_out}
    await spine.absorb(server=server)


# --- answers -----------------------------------------------------------------------------------------------------


async def test_every_server_is_answered_once(trio_spine: Spine) -> None:
    """Each server's history is absorbed for itself; only the first that told it brought news."""
    spine = trio_spine
    await spine.pay_and_mine()
    for name in NAMES:
        await spine.absorb(server=name)
    status = spine.chain.status(SHOP)
    assert spine.source.absorptions == [
        (ONE, SHOP, status, True),
        (TWO, SHOP, status, False),
        (THREE, SHOP, status, False),
    ]
    assert spine.source.rechecks == []


async def test_servers_that_speak_at_once_are_each_answered(trio_spine: Spine) -> None:
    """Servers' histories of one script are worked in side by side: each is answered, and the payment told once."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    await spine.absorb()
    assert answers_of(spine) == sorted(NAMES)
    assert await spine.told_of(txid) == ["payment.confirmed"]


async def test_servers_that_disagree_are_each_answered(trio_spine: Spine) -> None:
    """One that is ahead, one that is behind and one that invents: each is absorbed or asked again, and none left."""
    spine = trio_spine
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.mine()
    await spine.follow()
    spine.chain.pay(SHOP_SCRIPT, 600)
    await spine.source.tell(SHOP, server=ONE)
    await spine.source.tell(SHOP, (), server=TWO)
    await spine.source.tell(SHOP, (HistoryEntry(Txid(bytes(32)), None),), server=THREE)
    await spine.settle()
    assert answers_of(spine) == sorted(NAMES)
    assert await spine.totals() == (5_000, 600)


async def test_server_that_is_behind_brings_no_news(trio_spine: Spine) -> None:
    """A server that lists less than is known without hiding what is proved is absorbed, but not as news."""
    spine = trio_spine
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb(server=ONE)
    await spine.source.tell(SHOP, (), server=TWO)
    await spine.settle()
    assert spine.source.absorptions[-1] == (TWO, SHOP, None, False)
    assert await spine.totals() == (0, 5_000)


async def test_mempool_in_another_order_is_no_news(trio_spine: Spine) -> None:
    """A server that orders the same mempool payments in another way changes nothing, and is asked for nothing."""
    spine = trio_spine
    for amount_sat in (1_000, 200):
        spine.chain.pay(SHOP_SCRIPT, amount_sat)
    await spine.absorb(server=ONE)
    feed, calls = await spine.feed(), spine.source.calls
    turned = tuple(reversed(spine.chain.history(SHOP)))
    await spine.source.tell(SHOP, turned, server=TWO)
    await spine.settle()
    assert spine.source.absorptions[-1] == (TWO, SHOP, status_of(turned), False)
    assert (await spine.feed(), spine.source.calls) == (feed, calls)


async def test_servers_trouble_is_counted_for_each(trio_spine: Spine) -> None:
    """A server's unproved claims make its own pauses grow, and no other server's."""
    spine = trio_spine
    await spine.pay_and_mine()
    await spine.absorb(server=ONE)
    false = (*spine.chain.history(SHOP), HistoryEntry(Txid(bytes(32)), None))
    for _ in range(3):
        await spine.source.tell(SHOP, false, server=TWO)
        await spine.settle()
    await spine.source.tell(SHOP, false, server=THREE)
    await spine.settle()
    assert spine.source.rechecks == [(TWO, SHOP, 0.5), (TWO, SHOP, 1.0), (TWO, SHOP, 2.0), (THREE, SHOP, 0.5)]


async def test_servers_trouble_ends_with_its_link(trio_spine: Spine) -> None:
    """A server that left and came back is asked again as soon as any other."""
    spine = trio_spine
    false = (HistoryEntry(Txid(bytes(32)), None),)
    for _ in range(2):
        for _ in range(2):
            await spine.source.tell(SHOP, false, server=TWO)
            await spine.settle()
        spine.source.lose(TWO)
        await spine.settle()
        spine.source.regain(TWO)
    assert [pause for _, _, pause in spine.source.rechecks] == [0.5, 1.0, 0.5, 1.0]


# --- nothing is wiped --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [(), (0,), (1,)], ids=["nothing", "the confirmed one", "the unconfirmed one"])
async def test_shorter_history_removes_nothing(trio_spine: Spine, kept: Sequence[int]) -> None:
    """A history that leaves payments out is no proof that they are gone, whoever tells it and however often."""
    spine = trio_spine
    await spine.pay_and_mine()
    spine.chain.pay(SHOP_SCRIPT, 600)
    await spine.absorb(server=ONE)
    before, feed = await spine.entries(), await spine.feed()
    history = tuple(spine.chain.history(SHOP)[place] for place in kept)
    for _ in range(PATIENT_OMISSIONS + 2):
        await spine.source.tell(SHOP, history)
        await spine.settle()
    assert (await spine.entries(), await spine.feed()) == (before, feed)
    assert await spine.totals() == (5_000, 600)


async def test_all_servers_together_cannot_wipe_a_proof(trio_spine: Spine) -> None:
    """Where all servers suddenly show no history, the proved total stays, and the log alarms."""
    spine = trio_spine
    await spine.pay_and_mine()
    await spine.absorb()
    with structlog.testing.capture_logs() as logs:
        await spine.source.tell(SHOP, history=())
        await spine.settle()
    assert await spine.totals() == (5_000, 0)
    alarms = [log["server"] for log in logs if log["event"] == "tracker.proved_payments_unlisted"]
    assert sorted(alarms) == sorted(NAMES)


# --- omission ----------------------------------------------------------------------------------------------------


async def test_omission_is_judged_after_patience(trio_spine: Spine) -> None:
    """A server that keeps a proved payment out of its history is asked again with growing pauses, then reported."""
    spine = trio_spine
    hidden = await spine.pay_and_mine()
    spine.chain.pay(SHOP_SCRIPT, 600)
    spine.chain.mine()
    await spine.follow()
    await spine.absorb(server=ONE)
    for tries in range(1, PATIENT_OMISSIONS):
        await tell_without(spine, TWO, hidden)
        assert spine.source.rechecks[-1] == (TWO, SHOP, 2.0**tries)
        assert spine.source.reports == []
    await tell_without(spine, TWO, hidden)
    assert spine.source.verdicts == [(TWO, "omits-payment")]
    assert "block 21" in spine.source.reports[0].contradiction
    assert (await spine.entries())[hidden].state == spine.proved(hidden)


async def test_server_that_catches_up_is_forgiven(trio_spine: Spine) -> None:
    """A server that lists the payment in the end starts anew: the next omission is no continuation of the last."""
    spine = trio_spine
    hidden = await spine.pay_and_mine()
    spine.chain.pay(SHOP_SCRIPT, 600)
    spine.chain.mine()
    await spine.follow()
    await spine.absorb(server=ONE)
    for _ in range(3):
        for _ in range(PATIENT_OMISSIONS - 1):
            await tell_without(spine, TWO, hidden)
        spine.source.named[TWO].unlisted.clear()
        await spine.absorb(server=TWO)
    assert spine.source.reports == []


async def test_history_from_before_the_block_is_not_judged(trio_spine: Spine) -> None:
    """Who left a payment out, and lists it when asked at last, was only late: its history was older than the block."""
    spine = trio_spine
    spine.chain.pay(SHOP_SCRIPT, 600)
    spine.chain.mine()
    await spine.follow()
    before = spine.chain.history(SHOP)
    await spine.pay_and_mine()
    await spine.absorb(server=ONE)
    for _ in range(PATIENT_OMISSIONS + 3):
        await spine.source.tell(SHOP, before, server=TWO)
        await spine.settle()
    assert spine.source.reports == []


async def test_other_trouble_uses_up_no_patience(trio_spine: Spine) -> None:
    """A server that is asked again and again for claims of its own is judged for an omission no sooner than others."""
    spine = trio_spine
    spine.chain.pay(SHOP_SCRIPT, 600)
    spine.chain.mine()
    await spine.follow()
    await spine.absorb()
    own = HistoryEntry(Txid(bytes(32)), None)
    for _ in range(PATIENT_OMISSIONS + 3):
        await spine.source.tell(SHOP, (*spine.chain.history(SHOP), own), server=TWO)
        await spine.settle()
    hidden = await spine.pay_and_mine()
    await spine.absorb(server=ONE)
    for _ in range(PATIENT_OMISSIONS - 1):
        await tell_without(spine, TWO, hidden)
    assert spine.source.reports == []
    await tell_without(spine, TWO, hidden)
    assert spine.source.verdicts == [(TWO, "omits-payment")]


async def test_server_without_the_block_is_not_judged(trio_spine: Spine) -> None:
    """A server that has not got the block yet hides nothing, however long that lasts."""
    spine = trio_spine
    spine.chain.pay(SHOP_SCRIPT, 600)
    spine.chain.mine()
    spine.stop_learning(TWO)
    hidden = await spine.pay_and_mine()
    await spine.absorb(server=ONE)
    for _ in range(PATIENT_OMISSIONS + 5):
        await spine.absorb(server=TWO)
    assert spine.source.reports == []
    spine.learn(TWO)  # it has the block now, and still leaves the payment out
    await tell_without(spine, TWO, hidden)
    assert spine.source.verdicts == [(TWO, "omits-payment")]


async def test_server_on_another_branch_is_not_judged(trio_spine: Spine) -> None:
    """A server that has another block at that height omits nothing: it follows another branch."""
    spine = trio_spine
    spine.chain.pay(SHOP_SCRIPT, 600)
    spine.chain.mine()
    await spine.follow()
    other = spine.chain.copy(seed=9)
    other.mine()
    spine.source.named[TWO].chain = other
    await spine.pay_and_mine()
    await spine.absorb(server=ONE)
    for _ in range(PATIENT_OMISSIONS + 5):
        await spine.absorb(server=TWO)
    assert spine.source.reports == []


@pytest.mark.parametrize("trouble", ["silent", "gone"])
async def test_server_that_shows_no_header_is_not_judged(trio_spine: Spine, trouble: str) -> None:
    """A server whose header cannot be had is not judged: nothing contradicts it."""
    spine = trio_spine
    hidden = await spine.pay_and_mine()
    spine.chain.pay(SHOP_SCRIPT, 600)
    await spine.absorb()
    for _ in range(PATIENT_OMISSIONS - 1):
        await tell_without(spine, TWO, hidden)
    server = spine.source.named[TWO]
    server.is_silent, server.is_gone = trouble == "silent", trouble == "gone"
    await tell_without(spine, TWO, hidden)
    assert spine.source.reports == []


async def test_empty_history_is_never_judged(trio_spine: Spine) -> None:
    """Some servers serve a history above their limit as an empty one: that is an alarm, and no lie."""
    spine = trio_spine
    await spine.pay_and_mine()
    await spine.absorb()
    with structlog.testing.capture_logs() as logs:
        for _ in range(PATIENT_OMISSIONS + 5):
            await spine.source.tell(SHOP, (), server=TWO)
            await spine.settle()
    assert spine.source.reports == []
    alarms = [log["server"] for log in logs if log["event"] == "tracker.history_truncated"]
    assert alarms == [TWO] * 6
    assert len(spine.source.rechecks) == PATIENT_OMISSIONS + 5


async def test_unlisted_claim_is_no_omission(trio_spine: Spine) -> None:
    """An unconfirmed payment may be left out by anybody: the server is absorbed, and the payment asked for."""
    spine = trio_spine
    txid = spine.chain.pay(SHOP_SCRIPT, 600)
    await spine.absorb()
    for _ in range(PATIENT_OMISSIONS + 5):
        await spine.source.tell(SHOP, (), server=TWO)
        await spine.settle()
    assert (spine.source.reports, spine.source.rechecks) == ([], [])
    assert isinstance((await spine.entries())[txid].state, Unconfirmed)
