"""The forwarder: what it signs, stores, hands over and follows, and what it leaves alone."""

from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Outpoint, details_of, parse_transaction
from lightipn.errors import SourceUnavailableError
from lightipn.forwarding.follower import HAND_AGAIN_S
from lightipn.forwarding.forwarder import LOOK_AT_LEAST_EVERY_S
from lightipn.forwarding.plan import MOST_COINS, vbytes_of
from lightipn.forwarding.purse import Purse
from lightipn.ledger.entries import Dropped, Replaced
from lightipn.store.forwards import Forward
from tests.builders import confirmed, entry_of, txid_of
from tests.forwarding.rig import (
    DESTINATION,
    IN_MEMPOOL,
    MASTER,
    OTHER_WORDS,
    URL,
    WORDS,
    Rig,
    open_rig,
    outputs_of,
    spent_by,
)
from tests.store.rows import TIP, regtest_address

pytestmark = pytest.mark.slow  # keys are derived and their code is loaded
PROCESS = regtest_address(902)
NOBODY = SourceUnavailableError("no server answered in time", source="")


# --- passing on --------------------------------------------------------------------------------------------------


async def test_confirmed_coins_are_signed_stored_and_handed_over(rig: Rig) -> None:
    """All coins of an address leave in one transaction to the destination, of which the shop is told."""
    forward = await rig.forward(url=URL)
    coins = {await rig.pay(forward, 1, 60_000), await rig.pay(forward, 2, 40_000)}
    await rig.work()
    transfer = await rig.transfer()
    [version] = transfer.versions
    assert (transfer.state, transfer.trouble, transfer.forward_id) == ("open", "", forward.forward_id)
    assert spent_by(version) == coins
    assert outputs_of(version) == {DESTINATION.script: 100_000 - version.fee_sat}
    assert version.fee_sat == 2 * vbytes_of(2, [DESTINATION.script])
    assert version.broadcast_at == rig.now
    assert [one.raw for one in rig.network.offered] == [version.raw]
    assert set(await rig.topics()) == {(hex_of(coin.txid), hex_of(version.txid), 0) for coin in coins}
    assert rig.rings == 1


async def test_next_round_does_nothing_more(rig: Rig) -> None:
    """A coin that was passed on is not looked at again, before and after the ledger knows its transaction."""
    forward = await rig.forward()
    await rig.pay(forward, 1)
    await rig.work()
    await rig.work()
    await rig.place((await rig.transfer()).newest, IN_MEMPOOL, forward)
    await rig.work()
    assert len((await rig.transfer()).versions) == len(rig.network.offered) == 1


async def test_share_of_the_process_address_is_paid_beside_the_destination(rig: Rig) -> None:
    """The process address gets its part of the whole, the destination what is left after that and the fee."""
    forward = await rig.forward(process_address=PROCESS.text, process_share="0.01")
    await rig.pay(forward, 1, 1_000_000)
    await rig.work()
    [version] = (await rig.transfer()).versions
    assert outputs_of(version) == {PROCESS.script: 10_000, DESTINATION.script: 990_000 - version.fee_sat}


@pytest.mark.parametrize("confirmations", [1, 2, 6])
async def test_coin_waits_for_its_depth(tmp_path: Path, confirmations: int) -> None:
    """A coin is passed on at the configured depth, and not a block earlier."""
    async with open_rig(tmp_path, confirmations=confirmations) as rig:
        forward = await rig.forward()
        await rig.pay(forward, 0, state=IN_MEMPOOL)
        await rig.pay(forward, 1)
        for _ in range(confirmations - 1):
            await rig.work()
            assert await rig.transfers() == []
            await rig.mine()
        await rig.work()
        assert spent_by((await rig.transfer()).newest) == {Outpoint(txid_of(1), 0)}


async def test_small_coin_is_held_and_joined_with_the_next(rig: Rig) -> None:
    """What is too small to be passed on waits, and leaves together with the next coin."""
    forward = await rig.forward()
    small = await rig.pay(forward, 1, 700)
    await rig.work()
    assert (await rig.current(forward)).hold_reason == "too-small"
    assert await rig.transfers() == []
    await rig.mine()
    large = await rig.pay(forward, 2, 50_000)
    await rig.work()
    assert spent_by((await rig.transfer()).newest) == {small, large}
    assert (await rig.current(forward)).hold_reason == ""


async def test_fee_above_the_limit_is_not_paid_but_told(rig: Rig) -> None:
    """While fees are too high the coins wait, and the log says so once; when fees fall they go."""
    forward = await rig.forward()
    await rig.pay(forward, 1, 100_000)
    rig.network.rate = 500.0
    with capture_logs() as logs:
        for _ in range(3):
            await rig.work()
            await rig.mine()
    held = {"event": "forwarding.coins_held", "log_level": "warning"}
    assert logs == [{**held, "forward": forward.forward_id, "reason": "fee-too-high"}]
    assert (await rig.current(forward)).hold_reason == "fee-too-high"
    assert await rig.transfers() == []
    rig.network.rate = 2.0
    await rig.work()
    assert (await rig.transfer()).newest.fee_sat <= 10_000


async def test_more_coins_than_a_transaction_takes_leave_in_several(rig: Rig) -> None:
    """Of very many coins the largest leave first, the rest at the next block; each coin once."""
    forward = await rig.forward()
    count = MOST_COINS + 5
    await rig.write(
        forward, *(entry_of(number, received_sat=50_000 + number, state=confirmed(TIP)) for number in range(count))
    )
    await rig.work()
    await rig.mine()
    await rig.work()
    first, second = await rig.transfers()
    assert spent_by(first.newest) == {Outpoint(txid_of(number), 0) for number in range(5, count)}
    assert spent_by(second.newest) == {Outpoint(txid_of(number), 0) for number in range(5)}


async def test_dust_that_somebody_sends_keeps_nothing_back(rig: Rig) -> None:
    """Coins that cost more than they bring are left where they are, and the others go without them."""
    forward = await rig.forward()
    await rig.write(forward, *(entry_of(number, received_sat=130, state=confirmed(TIP)) for number in range(50)))
    coin = await rig.pay(forward, 99)
    await rig.work()
    assert spent_by((await rig.transfer()).newest) == {coin}


async def test_dear_coins_that_somebody_sends_hold_no_payment_back(rig: Rig) -> None:
    """Coins that bring a little, and would make the whole too dear, are left: the payment goes without them."""
    forward = await rig.forward()
    rig.network.rate = 20.0
    cheap = (entry_of(number, received_sat=1_500, state=confirmed(TIP)) for number in range(12))
    await rig.write(forward, *cheap)
    coin = await rig.pay(forward, 99)
    await rig.work()
    assert spent_by((await rig.transfer()).newest) == {coin}


async def test_nothing_is_signed_while_no_server_answers(rig: Rig) -> None:
    """While nobody answers no fee is guessed; where servers answer and have no estimate, the least is paid."""
    forward = await rig.forward()
    await rig.pay(forward, 1)
    rig.network.trouble = NOBODY
    await rig.work()
    assert await rig.transfers() == []
    rig.network.trouble = rig.network.rate = None
    await rig.work()
    assert (await rig.transfer()).newest.fee_sat == vbytes_of(1, [DESTINATION.script])


async def test_rate_above_the_limit_is_never_paid(tmp_path: Path) -> None:
    """However large a payment is, no rate above the operator's is paid for it: servers may lie."""
    async with open_rig(tmp_path, max_fee_rate=50.0) as rig:
        forward = await rig.forward()
        await rig.pay(forward, 1, 1_000_000_000)
        rig.network.rate = 51.0
        await rig.work()
        assert (await rig.current(forward)).hold_reason == "fee-too-high"
        assert await rig.transfers() == []


async def test_nothing_is_done_before_the_tip_is_proved(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Before our tip is proved, nobody knows how deep a coin is: nothing is read, signed or handed over."""
    async with open_rig(tmp_path, is_ready=False) as rig:
        forward = await rig.forward()
        await rig.pay(forward, 1, 700)  # a look at it would show as the reason why it is held
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.forwarder.run)
            await trio.sleep(10 * LOOK_AT_LEAST_EVERY_S)
            assert (await rig.current(forward)).hold_reason == ""
            rig.is_ready = True
            rig.forwarder.ring()
            await wait_all_tasks_blocked()
            assert (await rig.current(forward)).hold_reason == "too-small"
            nursery.cancel_scope.cancel()


# --- what happens while it is signed -----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["deleted", "reorganized", "replaced", "spent by somebody"])
async def test_what_happens_while_it_is_signed_stops_it(rig: Rig, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coin that is not free any more when the signature is there is not passed on: nothing is stored or sent."""
    forward = await rig.forward()
    coin = await rig.pay(forward, 1)
    real = Purse.sign

    async def interrupted(purse: Purse, *arguments: Any) -> Any:
        signed = await real(purse, *arguments)
        if what == "deleted":
            await rig.service.forwards.remove(forward.forward_id, owner="shop")
        elif what == "reorganized":
            await rig.pay(forward, 1, state=IN_MEMPOOL)
        elif what == "replaced":
            await rig.pay(forward, 1, state=Replaced(txid_of(7)))
        else:
            await rig.write(forward, entry_of(8, received_sat=0, sent_sat=100_000, spends=[coin]))
        return signed

    monkeypatch.setattr(Purse, "sign", interrupted)
    await rig.work()
    assert await rig.transfers() == []
    assert rig.network.offered == []


async def test_wrong_seed_file_stores_nothing(rig: Rig) -> None:
    """Where the seed file holds other words than the addresses are of, no transfer is stored that nobody can mine."""
    forward = await rig.forward()
    await rig.pay(forward, 1)
    rig.seed_file.write_text(OTHER_WORDS)
    await rig.work()
    assert await rig.transfers() == []
    assert rig.network.offered == []
    assert (await rig.current(forward)).hold_reason == "seed-unusable"
    rig.seed_file.write_text(WORDS)
    await rig.mine()
    await rig.work()
    assert len(await rig.transfers()) == 1


async def test_missing_seed_file_stops_nothing_but_signing(rig: Rig) -> None:
    """While the seed file is away nothing is signed, no bump either, but what is signed is handed over and told."""
    forward = await stuck(rig)
    other = await rig.forward()
    await rig.pay(other, 70)
    rig.seed_file.rename(rig.seed_file.with_name("away"))
    await rig.work()
    transfer = await rig.transfer()
    assert (len(transfer.versions), transfer.trouble) == (1, "seed-unusable")
    await rig.place(transfer.newest, Dropped(), forward)
    await rig.mine()
    await rig.work()
    assert [one.raw for one in rig.network.offered] == [transfer.newest.raw] * 2


# --- handing over ------------------------------------------------------------------------------------------------


async def test_unreachable_servers_are_asked_again_and_nothing_is_signed_anew(rig: Rig) -> None:
    """A transaction that nobody could be given is given again after a minute, or at the next block; the very same."""
    forward = await rig.forward(url=URL)
    await rig.pay(forward, 1)
    rig.network.loses = True
    await rig.work()
    await rig.work()
    assert len(rig.network.offered) == 1
    assert await rig.topics() == []
    rig.now += HAND_AGAIN_S
    await rig.work()
    assert len(rig.network.offered) == 2
    await rig.mine()
    rig.network.loses = False
    await rig.work()
    assert len(rig.network.offered) == 3
    [version] = (await rig.transfer()).versions
    assert {one.raw for one in rig.network.offered} == {version.raw}
    assert await rig.topics() == [(hex_of(txid_of(1)), hex_of(version.txid), 0)]


async def test_stored_transaction_is_handed_over_after_a_restart(rig: Rig) -> None:
    """What was signed before the process ended is handed over as it is, not made again."""
    forward = await rig.forward(url=URL)
    await rig.pay(forward, 1)
    rig.network.loses = True
    await rig.work()
    rig.network.loses, rig.network.rate = False, 5.0
    rig.restart()
    await rig.work()
    [version] = (await rig.transfer()).versions
    assert {one.raw for one in rig.network.offered} == {version.raw}
    assert len(await rig.topics()) == 1


@pytest.mark.parametrize("state", [IN_MEMPOOL, confirmed(TIP)], ids=["mempool", "block"])
async def test_transaction_found_on_the_network_after_a_restart_is_told(rig: Rig, state: object) -> None:
    """A transaction that servers took, and the process ended before that was recorded, is told all the same."""
    forward = await rig.forward(url=URL)
    await rig.pay(forward, 1)
    rig.network.loses = True
    await rig.work()
    rig.network.loses = False
    version = (await rig.transfer()).newest
    await rig.place(version, state, forward)  # type: ignore[arg-type]  # one of the two above
    rig.restart()
    await rig.work()
    await rig.work()
    assert await rig.topics() == [(hex_of(txid_of(1)), hex_of(version.txid), 0)]
    assert (await rig.transfer()).newest.broadcast_at is not None


async def test_refusal_is_recorded_and_the_transaction_offered_again(rig: Rig) -> None:
    """What all servers refuse is shown as trouble, and offered again at the next block, until it is taken."""
    forward = await rig.forward(url=URL)
    await rig.pay(forward, 1)
    rig.network.refuses = True
    await rig.work()
    await rig.work()
    assert (await rig.transfer()).trouble == "refused-by-servers"
    assert len(rig.network.offered) == 1
    await rig.mine()
    rig.network.refuses = False
    await rig.work()
    assert (await rig.transfer()).trouble == ""
    assert len(await rig.topics()) == 1


# --- bumping -----------------------------------------------------------------------------------------------------


async def stuck(rig: Rig, *, coins: int = 1, **terms: object) -> Forward:
    """Have a transfer be in the mempool for too long; return its forward."""
    forward = await rig.forward(url=URL, **terms)
    for number in range(coins):
        await rig.pay(forward, number)
    await rig.work()
    await rig.place((await rig.transfer()).newest, IN_MEMPOOL, forward)
    await rig.mine(rig.bump_after_blocks)
    return forward


async def test_bump_spends_the_same_coins_and_pays_what_is_asked(rig: Rig) -> None:
    """A stuck transfer gets a version of the same coins and addresses, at the servers' rate; it is stored and told."""
    await stuck(rig, coins=2, process_address=PROCESS.text, process_sat=5_000)
    rig.network.rate = 20.0
    await rig.work()
    first, second = (await rig.transfer()).versions
    assert spent_by(first) == spent_by(second) == {Outpoint(txid_of(0), 0), Outpoint(txid_of(1), 0)}
    assert second.fee_sat == 20 * vbytes_of(2, [DESTINATION.script, PROCESS.script])
    assert outputs_of(second) == {PROCESS.script: 5_000, DESTINATION.script: 195_000 - second.fee_sat}
    assert rig.network.offered[-1].raw == second.raw
    assert [txid for _, txid, _ in await rig.topics()] == [hex_of(first.txid)] * 2 + [hex_of(second.txid)] * 2


@pytest.mark.parametrize("coins", range(1, 13))
async def test_bump_pays_for_its_own_size(rig: Rig, coins: int) -> None:
    """However long its signatures come out, a bump pays a relay fee more for its own size (BIP-125, rule 4)."""
    await stuck(rig, coins=coins)
    await rig.work()
    first, second = (await rig.transfer()).versions
    size = details_of(parse_transaction(second.raw)).vbytes
    assert second.fee_sat - first.fee_sat >= size


async def test_version_that_waits_is_not_bumped_early(rig: Rig) -> None:
    """A version has its blocks' time to be mined before the next one."""
    await stuck(rig)
    await rig.mine(-1)
    await rig.work()
    assert len((await rig.transfer()).versions) == 1
    await rig.mine()
    await rig.work()
    await rig.work()
    assert len((await rig.transfer()).versions) == 2


async def test_bump_pays_what_the_limit_allows_and_then_waits(rig: Rig) -> None:
    """A bump never pays more than the limit, whatever the rate: first all that is allowed, and then nothing more."""
    await stuck(rig)
    rig.network.rate = 500.0
    await rig.work()
    transfer = await rig.transfer()
    assert [version.fee_sat for version in transfer.versions][1:] == [10_000]
    await rig.mine(rig.bump_after_blocks)
    await rig.work()
    await rig.work()
    transfer = await rig.transfer()
    assert (transfer.trouble, len(transfer.versions)) == ("fee-too-high", 2)


@pytest.mark.parametrize("is_first", [True, False], ids=["the first", "a bump"])
async def test_refused_version_is_bumped_as_a_stuck_one_is(rig: Rig, is_first: bool) -> None:
    """A version that servers refuse does not wait for ever: after its blocks' time another one pays more."""
    if is_first:
        forward = await rig.forward()
        await rig.pay(forward, 0)
    else:
        await stuck(rig)
    rig.network.refuses = True
    await rig.work()
    refused = (await rig.transfer()).newest
    rig.network.refuses, rig.network.refused, rig.network.rate = False, {refused.raw}, 20.0
    await rig.mine(rig.bump_after_blocks)
    rig.now += HAND_AGAIN_S
    await rig.work()
    transfer = await rig.transfer()
    assert transfer.trouble == ""
    assert transfer.newest.broadcast_at is not None
    assert transfer.newest.fee_sat > refused.fee_sat
    assert spent_by(transfer.newest) == spent_by(refused)


async def test_older_version_that_is_mined_ends_it(rig: Rig) -> None:
    """Whichever version is mined is the one whose depth is told, and nothing is handed over any more."""
    forward = await stuck(rig, tells_confirmations=True)
    await rig.work()
    first, second = (await rig.transfer()).versions
    await rig.place(second, Replaced(first.txid), forward)
    await rig.place(first, confirmed(await rig.mine()), forward)
    offered = len(rig.network.offered)
    await rig.mine()
    await rig.work()
    assert len(rig.network.offered) == offered
    depths = [(txid, depth) for _, txid, depth in await rig.topics() if depth]
    assert depths == [(hex_of(first.txid), 1), (hex_of(first.txid), 2)]


async def test_older_version_that_is_mined_is_told_though_a_bump_was_told_instead(rig: Rig) -> None:
    """A shop that heard nothing yet hears of the version that was mined, not of the bump alone."""
    forward = await stuck(rig)
    await rig.work()
    first, second = (await rig.transfer()).versions
    await rig.place(second, Replaced(first.txid), forward)
    await rig.place(first, confirmed(await rig.mine()), forward)
    await rig.work()
    assert hex_of(first.txid) in {topic.split(":")[1] for topic in await rig.due_topics()}


async def test_transfer_that_is_mined_while_its_bump_is_signed_gets_none(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bump is due in the very block that may hold the transfer: if it does, nothing is stored or sent."""
    forward = await stuck(rig)
    real, version = Purse.sign, (await rig.transfer()).newest

    async def interrupted(purse: Purse, *arguments: Any) -> Any:
        signed = await real(purse, *arguments)
        await rig.place(version, confirmed(TIP + rig.bump_after_blocks), forward)
        return signed

    monkeypatch.setattr(Purse, "sign", interrupted)
    await rig.work()
    transfer = await rig.transfer()
    assert (transfer.versions, transfer.trouble) == ((version,), "")
    assert len(rig.network.offered) == 1


async def test_history_has_the_version_that_was_mined(rig: Rig) -> None:
    """What a forward shows is the transaction in the chain, although a later one was signed and lost against it."""
    forward = await stuck(rig)
    await rig.work()
    first, second = (await rig.transfer()).versions
    await rig.place(second, Replaced(first.txid), forward)
    await rig.place(first, confirmed(await rig.mine()), forward)
    await rig.work()
    assert (await rig.service.forwards.show(forward.forward_id, owner="shop")).txids == [first.txid]


# --- coins that cease to exist -----------------------------------------------------------------------------------


async def test_transfer_without_its_coin_is_void_and_its_companions_go_again(rig: Rig) -> None:
    """When one of its payments is replaced, a transfer is given up, and what is left of it passed on anew."""
    forward = await rig.forward()
    kept, lost = await rig.pay(forward, 1, 60_000), await rig.pay(forward, 2, 40_000)
    await rig.work()
    version = (await rig.transfer()).newest
    await rig.place(version, IN_MEMPOOL, forward)
    await rig.place(version, Dropped(), forward)
    await rig.write(forward, entry_of(2, received_sat=40_000, state=Replaced(txid_of(3))))
    await rig.work()
    await rig.work()
    void, again = await rig.transfers()
    assert (void.state, again.state) == ("void", "open")
    assert spent_by(void.newest) == {kept, lost}
    assert spent_by(again.newest) == {kept}


async def test_payment_that_comes_back_is_passed_on(rig: Rig) -> None:
    """A payment that was dropped, and with it its transfer, is passed on when it is mined in the end."""
    forward = await rig.forward(url=URL)
    coin = await rig.pay(forward, 1)
    await rig.work()
    await rig.pay(forward, 1, state=Dropped())
    await rig.work()
    assert (await rig.transfer()).state == "void"
    await rig.mine()
    await rig.pay(forward, 1)
    await rig.work()
    found = [one for one in await rig.transfers() if one.state == "open"]
    assert [spent_by(one.newest) for one in found] == [{coin}]
    assert found[0].newest.broadcast_at is not None


async def test_companions_in_a_void_sweep_go_again(tmp_path: Path) -> None:
    """When a payment of a sweep is replaced, the coins of the active forwards among it are passed on as ever."""
    async with open_rig(tmp_path, confirmations=6) as rig:
        one, other = await rig.forward(), await rig.forward()
        lost, kept = await rig.pay(one, 1), await rig.pay(other, 2)
        await rig.service.forwards.sweep(MASTER.text, is_all=True)
        await rig.work()
        await rig.work()
        swept = (await rig.transfer()).newest
        assert spent_by(swept) == {lost, kept}
        await rig.place(swept, IN_MEMPOOL, one, other)
        await rig.place(swept, Dropped(), one, other)
        await rig.pay(one, 1, state=Replaced(txid_of(3)))
        await rig.work()
        await rig.mine(6)
        await rig.work()
        void, again = await rig.transfers()
        assert (void.state, again.state) == ("void", "open")
        assert (spent_by(again.newest), again.destination) == ({kept}, DESTINATION.text)


# --- following ---------------------------------------------------------------------------------------------------


async def test_depth_is_told_up_to_six_and_the_transfer_is_final_at_a_hundred(rig: Rig) -> None:
    """Where it is wanted each of the first six confirmations is told, once; a hundred deep it is over."""
    forward = await rig.forward(url=URL, tells_confirmations=True)
    await rig.pay(forward, 1)
    await rig.work()
    await rig.place((await rig.transfer()).newest, confirmed(await rig.mine()), forward)
    for _ in range(3):
        await rig.work()
        await rig.work()
        await rig.mine(3)
    assert [depth for _, _, depth in await rig.topics()] == [0, 1, 2, 3, 4, 5, 6]
    await rig.mine(89)
    await rig.work()
    assert (await rig.transfer()).state == "open"
    await rig.mine()
    await rig.work()
    assert (await rig.transfer()).state == "final"


# --- sweeping ----------------------------------------------------------------------------------------------------


async def test_sweep_takes_what_is_left_at_all_addresses(rig: Rig) -> None:
    """A sweep joins the coins of deleted forwards and held ones in one transaction, and the wish is over."""
    deleted, held = await rig.forward(), await rig.forward()
    await rig.service.forwards.remove(deleted.forward_id, owner="shop")
    coins = {await rig.pay(deleted, 1, 50_000), await rig.pay(held, 2, 700)}
    await rig.work()
    assert await rig.transfers() == []
    await rig.service.forwards.sweep("", is_all=True)
    await rig.work()
    await rig.work()
    transfer = await rig.transfer()
    assert (transfer.forward_id, transfer.destination) == (None, MASTER.text)
    assert spent_by(transfer.newest) == coins
    assert outputs_of(transfer.newest) == {MASTER.script: 50_700 - transfer.newest.fee_sat}
    await rig.pay(deleted, 3, 50_000)
    await rig.work()
    assert len(await rig.transfers()) == 1
