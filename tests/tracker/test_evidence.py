"""Evidence that proves itself: any server may supply it, and one that supplies a false one is named."""

from collections.abc import Callable

import pytest
import trio

from lightipn.bitcoin.hashes import Txid
from lightipn.chain.history import HistoryEntry
from lightipn.chain.source import MerkleBranch
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.errors import SourceError, SourceRefusedError
from lightipn.simulator import forge
from tests.builders import raw_transaction, txid_of
from tests.tracker.fake_server import FakeServer
from tests.tracker.rig import NAMES, ONE, OTHER_SCRIPT, SHOP, SHOP_SCRIPT, THREE, TWO, Spine

FALSE_BRANCH = MerkleBranch(0, ())


def false_branch(txid: Txid, height: int) -> MerkleBranch:
    """Return a branch that proves nothing but a block of one transaction."""
    return FALSE_BRANCH


def refuse(txid: Txid, height: int) -> MerkleBranch:
    """Refuse to prove anything."""
    raise SourceRefusedError("withheld", code=1)


async def state_of(spine: Spine, txid: Txid) -> object:
    """Return a payment's state; None where it is not recorded."""
    entry = (await spine.entries()).get(txid)
    return entry.state if entry else None


# --- transactions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", ["doubled amount", "another transaction", "cut short", "nothing"])
async def test_false_transaction_is_reported_and_the_next_server_asked(trio_spine: Spine, lie: str) -> None:
    """Bytes that do not hash to the txid are reported with their server and kept; another server's are taken."""
    spine = trio_spine
    other = spine.chain.pay(OTHER_SCRIPT, 1)
    txid = await spine.pay_and_mine()
    raw, other_raw = spine.chain.transaction(txid), spine.chain.transaction(other)
    assert raw is not None
    assert other_raw is not None
    lies = {
        "doubled amount": forge.with_other_amount(raw),
        "another transaction": other_raw,
        "cut short": raw[:-1],
        "nothing": b"",
    }
    spine.source.named[TWO].transaction_of = lambda txid: lies[lie]
    await spine.absorb(server=TWO)
    assert await spine.totals() == (5_000, 0)
    assert set(spine.source.verdicts) == {(TWO, "false-transaction")}
    assert spine.source.reports[0].raw == lies[lie]


async def test_false_transaction_of_every_server_leaves_the_payment_out(trio_spine: Spine) -> None:
    """Where every server sends wrong bytes, each is reported once, and not a satoshi of them is recorded."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    for server in spine.servers():
        server.transaction_of = lambda txid: b"\x00" * 80
    await spine.absorb(server=TWO)
    assert sorted(spine.source.verdicts) == sorted((name, "false-transaction") for name in NAMES)
    assert await spine.entries() == {}
    assert spine.source.rechecks == [(TWO, SHOP, 2.0)]
    for server in spine.servers():
        server.transaction_of = None
    await spine.absorb(server=TWO)
    assert await state_of(spine, txid) == spine.proved(txid)


@pytest.mark.parametrize("trouble", ["refused", "gone"])
async def test_transaction_is_taken_from_any_server(trio_spine: Spine, trouble: str) -> None:
    """A server that does not give what it claims is not blamed: the next one is asked."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    server = spine.source.named[TWO]
    if trouble == "refused":
        server.withheld.add(txid)
    else:
        server.is_gone = True
    assert (await spine.tracker.proofs.transaction(txid, TWO)).txid == txid
    assert spine.source.reports == []


async def test_transaction_of_a_silent_server_comes_from_the_next(trio_spine: Spine, autojump_clock: object) -> None:
    """A server that does not answer holds nothing up for long."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    spine.source.named[TWO].is_silent = True
    with trio.fail_after(5.0):
        assert (await spine.tracker.proofs.transaction(txid, TWO)).txid == txid


async def test_transaction_that_nobody_has_is_an_error(trio_spine: Spine) -> None:
    """A transaction that every server refuses is refused, and nobody is blamed."""
    with pytest.raises(SourceRefusedError):
        await trio_spine.tracker.proofs.transaction(txid_of(1), ONE)
    assert trio_spine.source.reports == []


# --- proofs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["refused", "gone"])
async def test_proof_is_taken_from_any_server(trio_spine: Spine, trouble: str) -> None:
    """A server that says "confirmed" and gives no proof withholds nothing: any other server's proof will do."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    server = spine.source.named[TWO]
    if trouble == "refused":
        server.branch_of = refuse
    else:
        server.is_gone = True
    await spine.absorb(server=TWO)
    assert await state_of(spine, txid) == spine.proved(txid)
    assert (spine.source.reports, spine.source.rechecks) == ([], [])


async def test_false_branch_is_asked_again_and_reported(trio_spine: Spine) -> None:
    """A branch that twice does not fold to the server's own header at that height is a lie; another one proves."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    spine.source.named[TWO].branch_of = lambda txid, height: MerkleBranch(1, (b"\x07" * 32,))
    await spine.absorb(server=TWO)
    assert await state_of(spine, txid) == spine.proved(txid)
    assert spine.source.verdicts == [(TWO, "false-branch")]
    assert spine.source.reports[0].raw == b"\x07" * 32
    assert spine.source.named[TWO].calls["merkle"] == 2


async def test_false_branch_of_an_honest_claim_is_the_senders(trio_spine: Spine) -> None:
    """Who sent the false branch is blamed, not who made the claim."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    spine.source.named[ONE].branch_of = false_branch
    spine.source.named[TWO].withheld.add(txid)
    await spine.absorb(server=TWO)
    assert await state_of(spine, txid) == spine.proved(txid)
    assert spine.source.verdicts == [(ONE, "false-branch")]


async def test_false_branch_of_every_server_leaves_the_payment_unconfirmed(trio_spine: Spine) -> None:
    """Where all branches are false, all senders are reported, and the payment waits as unconfirmed."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    for server in spine.servers():
        server.branch_of = false_branch
    await spine.absorb(server=TWO)
    assert sorted(spine.source.verdicts) == sorted((name, "false-branch") for name in NAMES)
    assert isinstance(await state_of(spine, txid), Unconfirmed)
    assert spine.source.rechecks == [(TWO, SHOP, 2.0)]


def true_the_second_time(server: FakeServer) -> Callable[[Txid, int], MerkleBranch]:
    """Return branches of which the first is false."""

    def branch(txid: Txid, height: int) -> MerkleBranch:
        return server.chain.merkle(txid, height) if server.calls["merkle"] > 1 else FALSE_BRANCH

    return branch


async def test_branch_that_folds_when_asked_again_blames_nobody(trio_spine: Spine) -> None:
    """A branch that was false once, and is right when it is asked again, met a reorg."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    spine.source.named[TWO].branch_of = true_the_second_time(spine.source.named[TWO])
    await spine.absorb(server=TWO)
    assert await state_of(spine, txid) == spine.proved(txid)
    assert spine.source.reports == []


async def test_server_on_another_branch_is_not_blamed(trio_spine: Spine) -> None:
    """A proof that leads to the header of another branch, which the server follows, is no lie."""
    spine = trio_spine
    spine.chain.pay(SHOP_SCRIPT, 5_000)
    side = spine.chain.copy(seed=9)
    side.mine()
    spine.source.named[TWO].chain = side
    spine.chain.mine(2)
    await spine.follow(ONE)
    await spine.absorb(server=TWO)
    txid = spine.chain.history(SHOP)[0].txid
    assert spine.source.reports == []
    # its claim led to our own block all the same: the next server's proof fits our header at that height
    assert await state_of(spine, txid) == spine.proved(txid)


@pytest.mark.parametrize("moment", ["before", "between", "after"])
async def test_reorg_during_the_second_question_blames_nobody(trio_spine: Spine, moment: str) -> None:
    """While a server's header at that height changes, or is not there, its false branch proves nothing against it."""
    spine = trio_spine
    await spine.pay_and_mine()
    server = spine.source.named[TWO]
    server.branch_of = false_branch
    other = spine.chain.copy(seed=9)
    other.reorg(1, blocks=1)

    def headers(start: int, count: int) -> list[bytes]:
        server.pages.append((start, count))
        is_after = server.calls["merkle"] > 1
        match moment:
            case "before":
                return [] if not is_after else spine.chain.headers_from(start, count)
            case "between":
                return (other if is_after else spine.chain).headers_from(start, count)
            case _:
                return [] if is_after else spine.chain.headers_from(start, count)

    server.headers_of = headers
    await spine.absorb(server=TWO)
    assert spine.source.reports == []


@pytest.mark.parametrize("trouble", ["headers fail", "branch refused"])
async def test_server_that_shows_nothing_the_second_time_is_not_blamed(trio_spine: Spine, trouble: str) -> None:
    """A server that fails when it is asked again shows nothing that contradicts itself."""
    spine = trio_spine
    await spine.pay_and_mine()
    server = spine.source.named[TWO]

    def once(txid: Txid, height: int) -> MerkleBranch:
        if server.calls["merkle"] > 1:
            raise LookupError
        return FALSE_BRANCH

    def fail(start: int, count: int) -> list[bytes]:
        raise SourceRefusedError("busy", code=-102)

    server.branch_of = once if trouble == "branch refused" else false_branch
    server.headers_of = fail if trouble == "headers fail" else None
    await spine.absorb(server=TWO)
    assert spine.source.reports == []


async def test_header_above_our_tip_comes_with_the_claim(trio_spine: Spine) -> None:
    """A claim in a block above our tip has its server extend our chain; without a header nothing is proved."""
    spine = trio_spine
    spine.stop_learning(ONE, THREE)
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.chain.mine()
    place = await spine.tracker.proofs.proved_place(HistoryEntry(txid, 21), TWO)
    assert place == spine.proved(txid)
    assert spine.tracker.follower.chain.tip_height == 21
    assert await spine.tracker.proofs.proved_place(HistoryEntry(txid, 22), TWO) is None


async def test_place_is_proved_by_our_header_alone(trio_spine: Spine) -> None:
    """Where a claim is proved, the place names the block of *our* chain and the position; else there is none."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    assert await spine.tracker.proofs.proved_place(HistoryEntry(txid, 21), ONE) == spine.proved(txid)
    assert await spine.tracker.proofs.proved_place(HistoryEntry(txid, 20), ONE) is None
    for server in spine.servers():
        server.branch_of = false_branch
    assert await spine.tracker.proofs.proved_place(HistoryEntry(txid, 21), ONE) is None


# --- who holds a transaction -------------------------------------------------------------------------------------


async def test_hearing_tells_who_holds_and_who_denies(trio_spine: Spine) -> None:
    """A hearing asks every server, and counts those that gave the transaction and those that do not know it."""
    spine = trio_spine
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.source.named[TWO].withheld.add(txid)
    hearing = await spine.tracker.witnesses.hear(txid)
    assert hearing.transaction is not None
    assert (hearing.transaction.txid, hearing.holding, hearing.denying) == (txid, {ONE, THREE}, {TWO})


async def test_hearing_of_an_unknown_transaction_is_empty(trio_spine: Spine) -> None:
    """Where nobody has it there is no transaction, and everybody denies it."""
    hearing = await trio_spine.tracker.witnesses.hear(txid_of(1))
    assert (hearing.transaction, hearing.holding, hearing.denying) == (None, set(), set(NAMES))


async def test_hearing_of_some_servers_asks_no_other(trio_spine: Spine) -> None:
    """A hearing of named servers leaves the others out."""
    spine = trio_spine
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    hearing = await spine.tracker.witnesses.hear(txid, servers=[TWO])
    assert hearing.holding == {TWO}
    assert [server.calls["transaction"] for server in spine.servers()] == [0, 1, 0]


@pytest.mark.parametrize("trouble", ["silent", "gone"])
async def test_silence_is_neither_yes_nor_no(trio_spine: Spine, autojump_clock: object, trouble: str) -> None:
    """A server that does not answer within five seconds, or is gone, neither holds nor denies."""
    spine = trio_spine
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    server = spine.source.named[TWO]
    server.is_silent, server.is_gone = trouble == "silent", trouble == "gone"
    started_at = trio.current_time()
    hearing = await spine.tracker.witnesses.hear(txid)
    assert (hearing.holding, hearing.denying) == ({ONE, THREE}, set())
    assert trio.current_time() - started_at == pytest.approx(5.0 if trouble == "silent" else 0.0)


async def test_hearing_ends_once_enough_hold_it(trio_spine: Spine, autojump_clock: object) -> None:
    """Who needs two holders does not wait for a third that is silent."""
    spine = trio_spine
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.source.named[ONE].is_silent = True
    started_at = trio.current_time()
    hearing = await spine.tracker.witnesses.hear(txid, enough=2)
    assert hearing.holding == {TWO, THREE}
    assert trio.current_time() == started_at


async def test_false_bytes_are_no_holding(trio_spine: Spine) -> None:
    """A server that sends another transaction's bytes is reported, and counts for nothing."""
    spine = trio_spine
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    false = raw_transaction([], [(1, SHOP_SCRIPT)])
    spine.source.named[TWO].transaction_of = lambda txid: false
    hearing = await spine.tracker.witnesses.hear(txid)
    assert (hearing.holding, hearing.denying) == ({ONE, THREE}, set())
    assert spine.source.verdicts == [(TWO, "false-transaction")]
    assert spine.source.reports[0].raw == false


async def test_server_lost_meanwhile_is_neither_yes_nor_no(trio_spine: Spine) -> None:
    """A server that leaves between the list and the question is left out."""
    spine = trio_spine
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    spine.source.lose(TWO)
    hearing = await spine.tracker.witnesses.hear(txid, servers=[ONE, TWO])
    assert (hearing.holding, hearing.denying) == ({ONE}, set())


async def test_nobody_to_ask_is_no_verdict(trio_spine: Spine) -> None:
    """Without any server a hearing is empty, and a transaction cannot be had."""
    spine = trio_spine
    txid = spine.chain.pay(SHOP_SCRIPT, 5_000)
    for name in NAMES:
        spine.source.lose(name)
    hearing = await spine.tracker.witnesses.hear(txid)
    assert (hearing.holding, hearing.denying) == (set(), set())
    with pytest.raises(SourceError):
        await spine.tracker.proofs.transaction(txid, ONE)


async def test_confirmed_by_one_server_is_enough(trio_spine: Spine) -> None:
    """A proof needs no second voice: one server's branch to our header confirms."""
    spine = trio_spine
    txid = await spine.pay_and_mine()
    for name in (ONE, THREE):
        spine.source.lose(name)
    await spine.absorb(server=TWO)
    assert isinstance(await state_of(spine, txid), Confirmed)
