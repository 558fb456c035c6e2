"""Unconfirmed payments, which nothing can prove: they are believed once enough servers hold them."""

from collections.abc import Callable, Sequence

import pytest
import structlog.testing
import trio

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Outpoint, Transaction, parse_transaction
from lightipn.chain.history import HistoryEntry
from lightipn.chain.source import MerkleBranch
from lightipn.chain.verifier import Unconfirmed
from lightipn.errors import SourceUnavailableError
from lightipn.ledger.entries import Replaced
from lightipn.simulator.blocks import SimulatedChain
from tests.builders import NULL_OUTPOINT, raw_transaction, txid_of
from tests.tracker.rig import NAMES, ONE, OTHER_SCRIPT, SHOP, SHOP_SCRIPT, THREE, TWO, OpenSpine, Spine

WALLET_SCRIPT = b"\x00\x14" + b"\x33" * 20


async def tell_claim(spine: Spine, server: str, *txids: Txid) -> None:
    """Have a server claim mempool transactions for the shop, besides its true history."""
    history = (*spine.chain.history(SHOP), *(HistoryEntry(txid, None) for txid in txids))
    await spine.source.tell(SHOP, history, server=server)
    await spine.settle()


def invent(spine: Spine, raw: bytes, *names: str) -> Transaction:
    """Have servers give a transaction that is on no chain."""
    invented = parse_transaction(raw)

    def transaction_of(txid: Txid) -> bytes | None:
        return raw if txid == invented.txid else spine.chain.transaction(txid)

    for name in names:
        spine.source.named[name].transaction_of = transaction_of
    return invented


def reasons_of(logs: Sequence[object]) -> list[str]:
    """Return why claims were not believed."""
    lines = [log for log in logs if isinstance(log, dict)]
    return [log["reason"] for log in lines if log["event"] == "tracker.claim_not_believed"]


# --- how many are enough -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("servers", "more_voices", "min_seen_by", "needed"),
    [(1, 0, 2, 1), (1, 1, 2, 2), (2, 0, 2, 2), (3, 0, 2, 2), (3, 0, 3, 3), (2, 0, 3, 2), (3, 0, 1, 1), (2, 3, 9, 5)],
)
async def test_needed_holders(
    open_spine: OpenSpine, servers: int, more_voices: int, min_seen_by: int, needed: int
) -> None:
    """``min_seen_by`` servers must hold a payment, but never more than are connected, or may be in a moment."""
    spine = await open_spine(SimulatedChain(), servers=servers, min_seen_by=min_seen_by)
    spine.source.more_voices = more_voices
    assert spine.tracker.witnesses.needed == needed


async def test_without_servers_one_is_still_needed(open_spine: OpenSpine) -> None:
    """Nothing is believed because nobody can be asked."""
    spine = await open_spine(SimulatedChain())
    spine.source.lose(ONE)
    assert spine.tracker.witnesses.needed == 1


@pytest.mark.parametrize("holders", [1, 2, 3])
async def test_payment_is_told_when_enough_hold_it(open_spine: OpenSpine, holders: int) -> None:
    """Of three servers two must hold a payment; what it is worth is how many did when it was first believed."""
    chain = SimulatedChain()
    spine = await open_spine(chain, servers=3)
    await spine.subscribe()
    txid = chain.pay(SHOP_SCRIPT, 5_000)
    for server in spine.servers()[holders:]:
        server.withheld.add(txid)
    await spine.absorb(server=ONE)
    if holders == 1:
        assert (await spine.entries(), await spine.feed()) == ({}, ())
        assert spine.source.rechecks == [(ONE, SHOP, 0.5)]
        return
    (event,) = await spine.feed()
    assert (event.kind, event.trust) == ("payment.seen", "agreed")
    assert 2 <= event.seen_by <= holders
    assert (await spine.entries())[txid].state == Unconfirmed(event.seen_by)
    assert spine.source.absorptions == [(ONE, SHOP, chain.status(SHOP), True)]


async def test_only_server_is_believed_and_marked(spine: Spine) -> None:
    """With one server there is nobody else to ask: the payment is told, as one server's word."""
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    assert [(event.trust, event.seen_by) for event in await spine.feed()] == [("single", 1)]


async def test_second_server_that_may_come_back_is_waited_for(spine: Spine) -> None:
    """While another server may be there within moments, one server's word is not enough; once it may not, it is."""
    spine.source.more_voices = 1
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    assert await spine.feed() == ()
    spine.source.more_voices = 0
    await spine.absorb()
    assert [event.kind for event in await spine.feed()] == ["payment.seen"]


async def test_claim_of_one_server_of_three_is_never_told(live_spine: Spine, autojump_clock: object) -> None:
    """A payment that one server alone holds is not told, however often it is asked again; the pauses grow."""
    spine = live_spine
    invented = invent(spine, raw_transaction([Outpoint(txid_of(1), 0)], [(5_000, SHOP_SCRIPT)]), TWO)
    spine.source.named[TWO].history_of = lambda _: (HistoryEntry(invented.txid, None),)
    await spine.publish()
    await trio.sleep(3600.0)
    pauses = [min(0.5 * 2.0**tries, 300.0) for tries in range(len(spine.source.rechecks))]
    assert len(pauses) > 15
    assert spine.source.rechecks == [(TWO, SHOP, pause) for pause in pauses]
    assert (await spine.entries(), await spine.feed(), spine.rings) == ({}, (), [])
    assert spine.source.reports == []


async def test_payment_is_told_as_soon_as_the_second_server_holds_it(live_spine: Spine, autojump_clock: object) -> None:
    """The second server's own notice is not waited for: it is asked, and asked again half a second later."""
    spine = live_spine
    spine.stop_learning(TWO, THREE)
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb(server=ONE)
    await trio.sleep(0.4)
    assert await spine.feed() == ()
    spine.learn(THREE)
    await trio.sleep(0.2)
    assert [(event.kind, event.seen_by) for event in await spine.feed()] == [("payment.seen", 2)]


async def test_silent_server_does_not_delay_what_two_hold(live_spine: Spine, autojump_clock: object) -> None:
    """Two holders are enough at once, whatever the third does."""
    spine = live_spine
    spine.source.named[THREE].is_silent = True
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    started_at = trio.current_time()
    await spine.absorb(server=ONE)
    assert [event.kind for event in await spine.feed()] == ["payment.seen"]
    assert trio.current_time() == started_at


async def test_unproved_confirmation_may_still_be_seen(trio_spine: Spine) -> None:
    """What is said to be in a block, and cannot be proved to be, is believed as unconfirmed where enough hold it."""
    spine = trio_spine

    def refuse(txid: Txid, height: int) -> MerkleBranch:
        raise LookupError

    txid = await spine.pay_and_mine()
    for server in spine.servers():
        server.branch_of = refuse
    await spine.absorb(server=TWO)
    assert isinstance((await spine.entries())[txid].state, Unconfirmed)
    assert await spine.told_of(txid) == ["payment.seen"]
    assert spine.source.rechecks == [(TWO, SHOP, 2.0)]
    for server in spine.servers():
        server.branch_of = None
    await spine.absorb(server=TWO)
    assert await spine.told_of(txid) == ["payment.seen", "payment.confirmed"]


async def test_confirmation_by_one_server_that_nobody_else_holds_is_left_out(trio_spine: Spine) -> None:
    """An invented payment in a block is neither confirmed nor seen."""
    spine = trio_spine
    invented = invent(spine, raw_transaction([Outpoint(txid_of(1), 0)], [(5_000, SHOP_SCRIPT)]), TWO)
    spine.source.named[TWO].branch_of = lambda txid, height: MerkleBranch(0, ())
    await spine.source.tell(SHOP, (HistoryEntry(invented.txid, 20),), server=TWO)
    await spine.settle()
    assert (await spine.entries(), await spine.feed()) == ({}, ())
    assert spine.source.verdicts == [(TWO, "false-branch")]


# --- what contradicts --------------------------------------------------------------------------------------------


async def test_replacement_needs_servers_that_deny_the_original(trio_spine: Spine) -> None:
    """A replacement takes over only once enough servers hold it that do not list the original any more."""
    spine = trio_spine
    first = spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    second = spine.chain.replace(first, amount_sat=7_000)
    for name in (ONE, TWO):
        spine.source.named[name].history_of = lambda _: (HistoryEntry(first, None), HistoryEntry(second, None))
    await spine.absorb(server=THREE)
    assert set(await spine.entries()) == {first}
    assert await spine.totals() == (0, 5_000)
    spine.source.named[ONE].history_of = None
    await spine.absorb(server=THREE)
    entries = await spine.entries()
    assert entries[first].state == Replaced(second)
    assert isinstance(entries[second].state, Unconfirmed)
    assert await spine.totals() == (0, 7_000)
    assert {(event.kind, event.txid, event.replaced_by, event.trust) for event in (await spine.feed())[1:]} == {
        ("payment.replaced", first, second, "agreed"),
        ("payment.seen", second, None, "agreed"),
    }


async def test_silence_about_the_original_is_no_denial(trio_spine: Spine, autojump_clock: object) -> None:
    """A server that does not say what it lists may list the original: it does not count for the replacement."""
    spine = trio_spine
    first = spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    spine.stop_learning(THREE)
    second = spine.chain.replace(first, amount_sat=7_000)
    spine.source.named[TWO].lists_nothing = True
    await spine.source.tell(SHOP, server=ONE)
    await trio.sleep(20.0)
    assert set(await spine.entries()) == {first}
    spine.source.named[TWO].lists_nothing = False
    await spine.absorb(server=ONE)
    assert (await spine.entries())[first].state == Replaced(second)


async def test_bytes_that_a_node_remembers_keep_no_original(trio_spine: Spine) -> None:
    """A node may still give the bytes of a transaction that it lists no more: that does not hold up its replacement."""
    spine = trio_spine
    first = spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    remembered = spine.chain.transaction(first)
    second = spine.chain.replace(first, amount_sat=7_000)
    for server in spine.servers():
        server.transaction_of = lambda txid: remembered if txid == first else spine.chain.transaction(txid)
    await spine.absorb(server=ONE)
    assert (await spine.entries())[first].state == Replaced(second)


async def test_what_is_gone_comes_back_only_where_it_is_listed(trio_spine: Spine) -> None:
    """One server that lists a replaced payment brings it back for nobody, though all others remember its bytes."""
    spine = trio_spine
    first = spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    remembered = spine.chain.transaction(first)
    second = spine.chain.replace(first, amount_sat=7_000)
    await spine.absorb(server=ONE)
    spine.chain.evict(second)
    for server in spine.servers():
        server.transaction_of = lambda txid: remembered if txid == first else spine.chain.transaction(txid)
    spine.source.named[TWO].history_of = lambda _: (HistoryEntry(first, None),)
    await spine.absorb(server=TWO)
    assert (await spine.entries())[first].state == Replaced(second)


async def test_what_never_stood_is_told_to_nobody(trio_spine: Spine) -> None:
    """Of two new claims that exclude each other one enters, and the other is neither seen nor replaced."""
    spine = trio_spine
    (spend,) = outputs_for(spine, 1)
    await spine.follow()
    rivals = [parse_transaction(raw_transaction([spend], [(amount_sat, SHOP_SCRIPT)])) for amount_sat in (900, 800)]
    known = {rival.txid: rival.raw for rival in rivals}

    def holder_of(held: Sequence[Transaction]) -> Callable[[Txid], bytes | None]:
        txids = [one.txid for one in held]
        return lambda txid: known.get(txid) if txid in txids else spine.chain.transaction(txid)

    for server, held in zip(spine.servers(), (rivals, rivals[:1], rivals[1:]), strict=True):
        server.transaction_of = holder_of(held)
    await tell_claim(spine, ONE, *known)
    told = sorted([await spine.told_of(rival.txid) for rival in rivals])
    assert told == [[], ["payment.seen"]]
    assert (await spine.totals())[1] in (800, 900)


async def test_server_that_lags_does_not_bring_the_original_back(trio_spine: Spine) -> None:
    """After a replacement, one server that still lists the original changes nothing, however often it tells it."""
    spine = trio_spine
    first = spine.chain.pay(SHOP_SCRIPT, 5_000)
    await spine.absorb()
    spine.stop_learning(THREE)
    second = spine.chain.replace(first)
    await spine.absorb(server=ONE)
    feed = await spine.feed()
    for _ in range(3):
        await spine.absorb(server=THREE)
    assert await spine.feed() == feed
    assert (await spine.entries())[first].state == Replaced(second)


async def test_spending_what_a_confirmed_payment_spent_is_refused(trio_spine: Spine) -> None:
    """A claim that contradicts a proved payment is not believed, even if all servers hold it."""
    spine = trio_spine
    confirmed = await spine.pay_and_mine()
    await spine.absorb()
    raw = spine.chain.transaction(confirmed)
    assert raw is not None
    rival = invent(spine, raw_transaction(parse_transaction(raw).spends, [(9_000, SHOP_SCRIPT)]), *NAMES)
    with structlog.testing.capture_logs() as logs:
        await tell_claim(spine, ONE, rival.txid)
    assert set(await spine.entries()) == {confirmed}
    assert reasons_of(logs) == ["it spends what a confirmed transaction spent"]


# --- impossible payments -----------------------------------------------------------------------------------------


def outputs_for(spine: Spine, count: int, *, amount_sat: int = 1_000) -> list[Outpoint]:
    """Make confirmed outputs of a wallet, each in a transaction of its own."""
    txids = [spine.chain.pay(WALLET_SCRIPT, amount_sat) for _ in range(count)]
    spine.chain.mine()
    return [Outpoint(txid, 0) for txid in txids]


async def test_payment_of_more_than_it_spends_is_refused_and_its_holders_reported(trio_spine: Spine) -> None:
    """A transaction that pays more than it spends can be in no honest mempool: whoever gives it is reported."""
    spine = trio_spine
    spends = outputs_for(spine, 2)
    await spine.follow()
    impossible = invent(spine, raw_transaction(spends, [(1_500, SHOP_SCRIPT), (501, OTHER_SCRIPT)]), TWO, THREE)
    await tell_claim(spine, TWO, impossible.txid)
    assert (await spine.entries(), await spine.feed()) == ({}, ())
    assert sorted(spine.source.verdicts) == [(THREE, "impossible-transaction"), (TWO, "impossible-transaction")]
    assert spine.source.reports[0].raw == impossible.raw


async def test_payment_of_all_it_spends_is_possible(trio_spine: Spine) -> None:
    """A transaction without a fee contradicts nothing."""
    spine = trio_spine
    spends = outputs_for(spine, 2)
    await spine.follow()
    possible = invent(spine, raw_transaction(spends, [(2_000, SHOP_SCRIPT)]), TWO, THREE)
    await tell_claim(spine, TWO, possible.txid)
    assert set(await spine.entries()) == {possible.txid}
    assert spine.source.reports == []


async def test_payment_from_a_transaction_that_nobody_knows_is_refused(trio_spine: Spine) -> None:
    """Where every server refuses a parent, there is no such money; nobody is blamed, and it is asked again."""
    spine = trio_spine
    orphan = invent(spine, raw_transaction([Outpoint(txid_of(1), 0)], [(5_000, SHOP_SCRIPT)]), TWO, THREE)
    with structlog.testing.capture_logs() as logs:
        await tell_claim(spine, TWO, orphan.txid)
    assert await spine.entries() == {}
    assert reasons_of(logs) == ["no server knows a transaction that it spends from"]
    assert (spine.source.reports, spine.source.rechecks) == ([], [(TWO, SHOP, 0.5)])


async def test_payment_from_an_output_that_is_not_there_is_refused(trio_spine: Spine) -> None:
    """A transaction that spends the ninth output of a transaction with one cannot be real."""
    spine = trio_spine
    (spend,) = outputs_for(spine, 1)
    await spine.follow()
    false = invent(spine, raw_transaction([Outpoint(spend.txid, 9)], [(10, SHOP_SCRIPT)]), TWO, THREE)
    with structlog.testing.capture_logs() as logs:
        await tell_claim(spine, TWO, false.txid)
    assert await spine.entries() == {}
    assert reasons_of(logs) == ["it spends an output that does not exist"]


async def test_parent_that_cannot_be_had_in_time_blocks_nothing(live_spine: Spine, autojump_clock: object) -> None:
    """A parent about which the servers are silent is unknown, and no flaw: the payment is told seconds later."""
    spine = live_spine
    (spend,) = outputs_for(spine, 1)
    txid = spine.chain.pay(SHOP_SCRIPT, 900, spend=[spend])
    for server in spine.servers():
        server.silent_about.add(spend.txid)
    await spine.follow()
    await spine.source.tell(SHOP, server=ONE)
    await trio.sleep(2.5)
    assert await spine.told_of(txid) == ["payment.seen"]


async def test_parent_over_which_links_break_blocks_nothing(trio_spine: Spine) -> None:
    """A parent that no server gives, though none refuses it, is unknown, and no flaw."""
    spine = trio_spine
    (spend,) = outputs_for(spine, 1)
    txid = spine.chain.pay(SHOP_SCRIPT, 900, spend=[spend])

    def transaction_of(asked: Txid) -> bytes | None:
        if asked == spend.txid:
            raise SourceUnavailableError("gone")
        return spine.chain.transaction(asked)

    for server in spine.servers():
        server.transaction_of = transaction_of
    await spine.follow()
    await spine.absorb(server=ONE)
    assert await spine.told_of(txid) == ["payment.seen"]


async def test_parent_is_taken_from_whoever_has_it(trio_spine: Spine) -> None:
    """One server that does not know a parent blocks nothing, as long as another does."""
    spine = trio_spine
    (spend,) = outputs_for(spine, 1)
    txid = spine.chain.pay(SHOP_SCRIPT, 900, spend=[spend])
    spine.source.named[ONE].withheld.add(spend.txid)
    await spine.follow()
    await spine.absorb(server=ONE)
    assert await spine.told_of(txid) == ["payment.seen"]


async def test_coinbase_in_the_mempool_is_refused(trio_spine: Spine, autojump_clock: object) -> None:
    """Mined coins exist in their block alone: no mempool holds a coinbase, whatever the servers say."""
    spine = trio_spine
    coinbase = raw_transaction([NULL_OUTPOINT], [(5_000, SHOP_SCRIPT)], script_sig=b"\x01\x02\x03")
    invented = invent(spine, coinbase, *NAMES)
    for server in spine.servers():
        server.silent_about.add(NULL_OUTPOINT.txid)  # what it seems to spend is not what speaks against it
    await tell_claim(spine, ONE, invented.txid)
    await trio.sleep(60.0)
    assert (await spine.entries(), await spine.feed()) == ({}, ())


@pytest.mark.parametrize("inputs", [100, 101])
async def test_only_a_hundred_inputs_are_looked_at(trio_spine: Spine, inputs: int) -> None:
    """Of a payment with very many inputs a hundred are looked at; its sum is then unknown, and no flaw."""
    spine = trio_spine
    spends = outputs_for(spine, inputs)
    await spine.follow()
    paid_sat = inputs * 1_000 + 1  # a satoshi too many
    payment = invent(spine, raw_transaction(spends, [(paid_sat, SHOP_SCRIPT)]), TWO, THREE)
    await tell_claim(spine, TWO, payment.txid)
    assert set(await spine.entries()) == ({payment.txid} if inputs > 100 else set())
    assert len(spine.source.reports) == (0 if inputs > 100 else 2)


async def test_money_from_an_unconfirmed_parent_is_possible(trio_spine: Spine) -> None:
    """A payment may spend what is itself in the mempool: both are told."""
    spine = trio_spine
    parent = spine.chain.pay(SHOP_SCRIPT, 5_000)
    child = spine.chain.pay(SHOP_SCRIPT, 900, spend=[Outpoint(parent, 0)])
    await spine.absorb()
    assert set(await spine.entries()) == {parent, child}
