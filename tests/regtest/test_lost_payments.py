"""Payments that are lost before a block holds them: replaced by what pays somebody else, or dropped."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from lightipn.dialects.ipn.wire import btc_text
from tests.regtest.feed import (
    LOOK_AGAIN_S,
    WAIT_S,
    assert_lawful,
    kinds_of,
    matching,
    service_options,
    totals_told,
    wait_event,
    wait_events,
    wait_told,
    wait_verdicts,
)
from tests.regtest.nodes import Bitcoind, btc_text_of
from tests.regtest.own_node import Source, trust_told
from tests.regtest.rivals import FEE_SAT, Signed, make_coins, publish, sign_payment, sign_rival
from tests.regtest.shop import Shop
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
Sources = tuple[Source, ...]


async def test_payment_whose_payer_takes_it_back_is_replaced(
    private_bitcoind: Bitcoind, private_sources: Sources, tmp_path: Path, shop: Shop
) -> None:
    """A payment that its payer bumps into one for somebody else is told as replaced, and its total returns to 0."""
    bitcoind = private_bitcoind
    async with open_service(tmp_path / "lightipn", service_options(*private_sources)) as service:
        address = await bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        payment = await bitcoind.send(address, 2_000_000, fee_rate=2, replaceable=True)
        seen = await wait_event(service, kind="payment.seen", txid=payment)
        assert (seen["trust"], seen["rbf"]) == (trust_told(private_sources[0], "agreed"), True)
        await wait_told(shop, address, "0.0", "0.02")

        elsewhere = {await bitcoind.new_address(): btc_text_of(2_000_000)}
        rival = (await bitcoind.rpc("bumpfee", payment, {"outputs": [elsewhere]}))["txid"]
        replaced = await wait_event(service, kind="payment.replaced", txid=payment)
        assert (replaced["trust"], replaced["replaced_by"]) == (trust_told(private_sources[0], "agreed"), rival)
        await wait_told(shop, address, "0.0", "0.0")

        await bitcoind.mine(1)
        await wait_event(service, kind="block.connected", height=await bitcoind.height())
        events = await service.events()
        assert_lawful(events)
        assert kinds_of(events, payment) == ["seen", "replaced"]
        assert kinds_of(events, rival) == []
        assert totals_told(shop, address) == [("0.0", "0.02"), ("0.0", "0.0")]
        assert await service.stop() == 0


async def test_payment_whose_coin_a_block_spends_elsewhere_is_replaced(
    private_bitcoind: Bitcoind, private_sources: Sources, tmp_path: Path, shop: Shop
) -> None:
    """A payment is told as replaced, and proved so, when a block holds a rival that no mempool ever held."""
    bitcoind = private_bitcoind
    async with open_service(tmp_path / "lightipn", service_options(*private_sources)) as service:
        address = await bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        [coin] = await make_coins(bitcoind, [900_500])
        payment, rival = await sign_payment(bitcoind, coin, address), await sign_rival(bitcoind, coin)
        await publish(payment, bitcoind)
        await wait_told(shop, address, "0.0", "0.009")

        await bitcoind.rpc("generateblock", await bitcoind.new_address(), [rival.raw])
        replaced = await wait_event(service, kind="payment.replaced", txid=payment.txid)
        assert (replaced["trust"], replaced["replaced_by"]) == (trust_told(private_sources[0], "proved"), rival.txid)
        await wait_told(shop, address, "0.0", "0.0")
        assert_lawful(await service.events())
        assert totals_told(shop, address) == [("0.0", "0.009"), ("0.0", "0.0")]


async def restart_without_mempool(bitcoind: Bitcoind, sources: Sources) -> None:
    """Have a node forget its mempool: it and the servers over it are stopped, and started again without it."""
    for source in sources:
        source.kill()
    await bitcoind.stop()
    bitcoind.options = ("-persistmempool=0", "-walletbroadcast=0")
    await bitcoind.start()
    assert await bitcoind.rpc("getrawmempool") == []
    for source in sources:  # bitcoind's password is another one now
        await source.start()


async def test_evicted_payment_is_dropped_and_may_come_back(
    private_bitcoind: Bitcoind, private_sources: Sources, tmp_path: Path, shop: Shop
) -> None:
    """A payment that no server knows any more is dropped; sent again it is seen again, and then confirmed."""
    bitcoind = private_bitcoind
    async with open_service(tmp_path / "lightipn", service_options(*private_sources, drop_after_s=2)) as service:
        address = await bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        [coin] = await make_coins(bitcoind, [600_500])
        payment = await sign_payment(bitcoind, coin, address)
        await publish(payment, bitcoind)
        await wait_told(shop, address, "0.0", "0.006")

        await restart_without_mempool(bitcoind, private_sources)
        await wait_event(service, kind="payment.dropped", txid=payment.txid, deadline_s=30)
        await wait_told(shop, address, "0.0", "0.0")

        await publish(payment, bitcoind)
        await wait_event(service, kind="payment.seen", txid=payment.txid, count=2)
        [block_hash] = await bitcoind.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=payment.txid, block_hash=block_hash)
        await wait_told(shop, address, "0.006", "0.0")
        events = await service.events()
        assert_lawful(events)
        assert kinds_of(events, payment.txid) == ["seen", "dropped", "seen", "confirmed"]
        assert totals_told(shop, address) == [("0.0", "0.006"), ("0.0", "0.0"), ("0.0", "0.006"), ("0.006", "0.0")]
        assert await service.stop() == 0


async def replace_when_seen(bitcoind: Bitcoind, service: ServiceProcess, rivals: Mapping[str, Signed]) -> None:
    """Publish the rival of each payment as soon as the feed tells the payment."""
    waiting, after = set(rivals), 0
    with trio.fail_after(WAIT_S):
        while waiting:
            for event in await service.events(after):
                after = event["number"]
                if event["kind"] == "payment.seen" and event["txid"] in waiting:
                    waiting.remove(event["txid"])
                    await publish(rivals[event["txid"]], bitcoind)
            await trio.sleep(LOOK_AGAIN_S)


async def test_of_a_hundred_payments_each_third_is_replaced(
    private_bitcoind: Bitcoind, private_sources: Sources, tmp_path: Path, shop: Shop
) -> None:
    """Of a hundred payments at once those that are replaced are told so, by whom, and no other; no total flickers."""
    bitcoind = private_bitcoind
    coins = await make_coins(bitcoind, [1_000_000 + number * 1_000 + FEE_SAT for number in range(100)])
    payments = [await sign_payment(bitcoind, coin, await bitcoind.new_address()) for coin in coins]
    rivals = {payments[number].txid: await sign_rival(bitcoind, coins[number]) for number in range(0, 100, 3)}
    kept = {payment.txid for payment in payments} - rivals.keys()
    async with open_service(tmp_path / "lightipn", service_options(*private_sources)) as service:
        await wait_verdicts(service, *["connected"] * len(private_sources))
        for payment in payments:
            await service.subscribe(payment.address, shop.url, max_confirms=1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(replace_when_seen, bitcoind, service, rivals)
            for payment in payments:
                await publish(payment, bitcoind)
        await wait_events(service, rivals.keys() | kept, kind="payment.seen")
        await wait_events(service, rivals.keys(), kind="payment.replaced")
        [block_hash] = await bitcoind.mine(1)
        await wait_events(service, kept, kind="payment.confirmed", block_hash=block_hash)

        for payment in payments:
            amount = btc_text(payment.amount_sat)
            final = (amount, "0.0") if payment.txid in kept else ("0.0", "0.0")
            await wait_told(shop, payment.address, *final)
            assert totals_told(shop, payment.address) == [("0.0", amount), final]
        events = await service.events()
        assert_lawful(events)
        replaced = {event["txid"]: event["replaced_by"] for event in matching(events, {"kind": "payment.replaced"})}
        assert replaced == {txid: rival.txid for txid, rival in rivals.items()}
        for payment in payments:
            end = "confirmed" if payment.txid in kept else "replaced"
            assert kinds_of(events, payment.txid) == ["seen", end]
        assert await service.stop() == 0


async def test_payment_out_of_a_lost_block_is_dropped_once_nobody_lists_it(
    private_bitcoind: Bitcoind, private_sources: Sources, tmp_path: Path, shop: Shop
) -> None:
    """A payment whose block was lost is dropped when no mempool takes it up, though bitcoind still hands it out.

    Its index of transactions, if it has one, keeps those of lost blocks for ever.
    """
    bitcoind = private_bitcoind
    async with open_service(tmp_path / "lightipn", service_options(*private_sources, drop_after_s=2)) as service:
        address = await bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        [coin] = await make_coins(bitcoind, [300_500])
        payment = await sign_payment(bitcoind, coin, address)
        await publish(payment, bitcoind)
        await wait_event(service, kind="payment.seen", txid=payment.txid)
        [lost] = await bitcoind.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=payment.txid)
        await bitcoind.reorg(1, with_transactions=False)
        await wait_event(service, kind="payment.reverted", txid=payment.txid, block_hash=lost)

        await restart_without_mempool(bitcoind, private_sources)
        if not bitcoind.is_pruned:
            assert (await bitcoind.rpc("getrawtransaction", payment.txid, True))["blockhash"] == lost
        await wait_event(service, kind="payment.dropped", txid=payment.txid)
        await wait_told(shop, address, "0.0", "0.0")
        assert_lawful(await service.events())
        assert await service.stop() == 0


@pytest.mark.parametrize("depth_blocks", [1, 6, 20])
async def test_payments_in_lost_blocks_are_proved_anew(
    private_bitcoind: Bitcoind, private_sources: Sources, tmp_path: Path, shop: Shop, depth_blocks: int
) -> None:
    """Payments in blocks that a reorg takes are reverted once each, and confirmed anew where they are mined again."""
    bitcoind = private_bitcoind
    # Coins of before: a payment out of the wallet cannot be mined lower than it was made, and so not after a reorg.
    coins = await make_coins(bitcoind, [100_500 + number for number in range(depth_blocks)])
    async with open_service(tmp_path / "lightipn", service_options(*private_sources)) as service:
        await wait_verdicts(service, *["connected"] * len(private_sources))
        payments = [await sign_payment(bitcoind, coin, await bitcoind.new_address()) for coin in coins]
        for payment in payments:
            await service.subscribe(payment.address, shop.url, max_confirms=1)
            await publish(payment, bitcoind)
        txids = {payment.txid for payment in payments}
        await wait_events(service, txids, kind="payment.seen")
        for payment in payments:
            await bitcoind.rpc("generateblock", await bitcoind.new_address(), [payment.txid])
        await wait_events(service, txids, kind="payment.confirmed")

        lost = await bitcoind.reorg(depth_blocks, with_transactions=False)
        await wait_events(service, txids, kind="payment.reverted")
        [block_hash] = await bitcoind.mine(1)
        await wait_events(service, txids, kind="payment.confirmed", block_hash=block_hash)
        moved = await bitcoind.reorg(depth_blocks)
        await wait_events(service, txids, kind="payment.confirmed", block_hash=moved.connected[0])

        events = await service.events()
        assert_lawful(events)
        expected = ["seen", "confirmed", "reverted", "confirmed", "reverted", "confirmed"]
        assert [kinds_of(events, txid) for txid in txids] == [expected] * depth_blocks
        disconnected = [event["block_hash"] for event in matching(events, {"kind": "block.disconnected"})]
        assert disconnected == [*reversed(lost.disconnected), *reversed(moved.disconnected)]
        for payment in payments:
            await wait_told(shop, payment.address, btc_text(payment.amount_sat), "0.0")
        assert not [event for event in service.log_events() if event["event"] == "electrum.session_closed"]
        assert await service.stop() == 0
