"""Payments that are lost before a block holds them: replaced by what pays somebody else, or dropped."""

import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from tests.regtest.feed import (
    LOOK_AGAIN_S,
    WAIT_S,
    Event,
    assert_lawful,
    kinds_of,
    matching,
    service_options,
    wait_event,
    wait_verdicts,
)
from tests.regtest.nodes import Bitcoind, ElectrumX, RpcError, btc_text_of, open_bitcoind, open_electrumx
from tests.regtest.rivals import FEE_SAT, Signed, empty_mempool, make_coins, publish, sign_payment, sign_rival
from tests.regtest.shop import Shop
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
PAYMENTS = 24
KILLS = 10
MOST_REORGED = 3
LONGER_THAN_A_DROP_S = 1.5
Pair = tuple[ElectrumX, ElectrumX]


def ipn_text(amount_sat: int) -> str:
    """Print satoshis as the dialect does."""
    whole, _, part = f"{Decimal(amount_sat).scaleb(-8):f}".partition(".")
    return f"{whole}.{part.rstrip('0') or '0'}"


def told_of(shop: Shop, address: str) -> list[tuple[str, str]]:
    """Return the totals that a shop was told of an address: confirmed and unconfirmed."""
    return [
        (request.form["confirmed"], request.form["unconfirmed"])
        for request in shop.matching(lambda request: request.form["address"] == address)
    ]


async def wait_told(shop: Shop, address: str, confirmed: str, unconfirmed: str) -> None:
    """Wait until a shop was told these totals of an address."""
    wanted = {"address": address, "confirmed": confirmed, "unconfirmed": unconfirmed}
    await shop.wait_for(lambda request: request.form == wanted, WAIT_S)


async def test_payment_whose_payer_takes_it_back_is_replaced(
    private_bitcoind: Bitcoind, private_pair: Pair, tmp_path: Path, shop: Shop
) -> None:
    """A payment that its payer bumps into one for somebody else is told as replaced, and its total returns to 0."""
    bitcoind = private_bitcoind
    async with open_service(tmp_path / "lightipn", service_options(*private_pair)) as service:
        address = await bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        payment = await bitcoind.send(address, 2_000_000, fee_rate=2, replaceable=True)
        seen = await wait_event(service, kind="payment.seen", txid=payment)
        assert (seen["trust"], seen["rbf"]) == ("agreed", True)
        await wait_told(shop, address, "0.0", "0.02")

        elsewhere = {await bitcoind.new_address(): btc_text_of(2_000_000)}
        rival = (await bitcoind.rpc("bumpfee", payment, {"outputs": [elsewhere]}))["txid"]
        replaced = await wait_event(service, kind="payment.replaced", txid=payment)
        assert (replaced["trust"], replaced["replaced_by"]) == ("agreed", rival)
        await wait_told(shop, address, "0.0", "0.0")

        await bitcoind.mine(1)
        await wait_event(service, kind="block.connected", height=await bitcoind.height())
        events = await service.events()
        assert_lawful(events)
        assert kinds_of(events, payment) == ["seen", "replaced"]
        assert kinds_of(events, rival) == []
        assert told_of(shop, address) == [("0.0", "0.02"), ("0.0", "0.0")]
        assert await service.stop() == 0


async def test_payment_whose_coin_a_block_spends_elsewhere_is_replaced(
    private_bitcoind: Bitcoind, private_pair: Pair, tmp_path: Path, shop: Shop
) -> None:
    """A payment is told as replaced, and proved so, when a block holds a rival that no mempool ever held."""
    bitcoind = private_bitcoind
    async with open_service(tmp_path / "lightipn", service_options(*private_pair)) as service:
        address = await bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        [coin] = await make_coins(bitcoind, [900_500])
        payment, rival = await sign_payment(bitcoind, coin, address), await sign_rival(bitcoind, coin)
        await publish(payment, bitcoind)
        await wait_told(shop, address, "0.0", "0.009")

        await bitcoind.rpc("generateblock", await bitcoind.new_address(), [rival.raw])
        replaced = await wait_event(service, kind="payment.replaced", txid=payment.txid)
        assert (replaced["trust"], replaced["replaced_by"]) == ("proved", rival.txid)
        await wait_told(shop, address, "0.0", "0.0")
        assert_lawful(await service.events())
        assert told_of(shop, address) == [("0.0", "0.009"), ("0.0", "0.0")]


async def test_evicted_payment_is_dropped_and_may_come_back(
    private_bitcoind: Bitcoind, private_pair: Pair, tmp_path: Path, shop: Shop
) -> None:
    """A payment that no server knows any more is dropped; sent again it is seen again, and then confirmed."""
    bitcoind = private_bitcoind
    async with open_service(
        tmp_path / "lightipn", service_options(*private_pair, electrum_drop_after_s=2)
    ) as service:
        address = await bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        [coin] = await make_coins(bitcoind, [600_500])
        payment = await sign_payment(bitcoind, coin, address)
        await publish(payment, bitcoind)
        await wait_told(shop, address, "0.0", "0.006")

        for server in private_pair:
            server.kill()
        await bitcoind.stop()
        bitcoind.options = ("-persistmempool=0", "-walletbroadcast=0")
        await bitcoind.start()
        assert await bitcoind.rpc("getrawmempool") == []
        for server in private_pair:  # bitcoind's password is another one now
            await server.start()
        dropped = await wait_event(service, kind="payment.dropped", txid=payment.txid, deadline_s=30)
        print(dropped)
        await wait_told(shop, address, "0.0", "0.0")

        await publish(payment, bitcoind)
        await wait_event(service, kind="payment.seen", txid=payment.txid, count=2)
        [block_hash] = await bitcoind.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=payment.txid, block_hash=block_hash)
        await wait_told(shop, address, "0.006", "0.0")
        events = await service.events()
        assert_lawful(events)
        assert kinds_of(events, payment.txid) == ["seen", "dropped", "seen", "confirmed"]
        assert told_of(shop, address) == [("0.0", "0.006"), ("0.0", "0.0"), ("0.0", "0.006"), ("0.006", "0.0")]
        assert await service.stop() == 0


async def replace_when_seen(
    bitcoind: Bitcoind, service: ServiceProcess, rivals: Mapping[str, Signed]
) -> dict[str, float]:
    """Publish the rival of each payment as soon as the feed tells the payment; return when, as unix seconds."""
    published_at: dict[str, float] = {}
    after = 0
    with trio.fail_after(WAIT_S):
        while len(published_at) < len(rivals):
            for event in await service.events(after):
                after = event["number"]
                if event["kind"] == "payment.seen" and event["txid"] in rivals:
                    await publish(rivals[event["txid"]], bitcoind)
                    published_at[event["txid"]] = time.time()
            await trio.sleep(LOOK_AGAIN_S)
    return published_at


async def test_of_a_hundred_payments_each_third_is_replaced(
    private_bitcoind: Bitcoind, private_pair: Pair, tmp_path: Path, shop: Shop
) -> None:
    """Of a hundred payments at once those that are replaced are told so, by whom, and no other; no total flickers."""
    bitcoind = private_bitcoind
    async with open_service(tmp_path / "lightipn", service_options(*private_pair)) as service:
        await wait_verdicts(service, "connected", "connected")
        amounts_sat = [1_000_000 + number * 1_000 for number in range(100)]
        coins = await make_coins(bitcoind, [amount_sat + FEE_SAT for amount_sat in amounts_sat])
        payments = [await sign_payment(bitcoind, coin, await bitcoind.new_address()) for coin in coins]
        rivals = {
            payment.txid: await sign_rival(bitcoind, coin)
            for payment, coin in list(zip(payments, coins, strict=True))[::3]
        }
        for payment in payments:
            await service.subscribe(payment.address, shop.url, max_confirms=1)

        began = time.time()
        async with trio.open_nursery() as nursery:
            published_at: dict[str, float] = {}

            async def replace() -> None:
                published_at.update(await replace_when_seen(bitcoind, service, rivals))

            nursery.start_soon(replace)
            for payment in payments:
                await publish(payment, bitcoind)
        for payment in payments:
            await wait_event(service, kind="payment.seen", txid=payment.txid)
        print("all seen", time.time() - began)
        for txid, rival in rivals.items():
            await wait_event(service, kind="payment.replaced", txid=txid, replaced_by=rival.txid)
        print("all replaced", time.time() - began)
        [block_hash] = await bitcoind.mine(1)
        for payment in payments:
            if payment.txid not in rivals:
                await wait_event(service, kind="payment.confirmed", txid=payment.txid, block_hash=block_hash)
        print("all confirmed", time.time() - began)
        for payment in payments:
            amount = ipn_text(payment.amount_sat)
            is_gone = payment.txid in rivals
            await wait_told(shop, payment.address, *(("0.0", "0.0") if is_gone else (amount, "0.0")))
            expected = [("0.0", amount), ("0.0", "0.0") if is_gone else (amount, "0.0")]
            assert told_of(shop, payment.address) == expected
        events = await service.events()
        assert_lawful(events)
        assert {e["txid"]: e["replaced_by"] for e in matching(events, {"kind": "payment.replaced"})} == {
            txid: rival.txid for txid, rival in rivals.items()
        }
        for payment in payments:
            assert kinds_of(events, payment.txid) == [
                "seen",
                "replaced" if payment.txid in rivals else "confirmed",
            ]
        from datetime import datetime
        told_at = {e["txid"]: datetime.fromisoformat(e["timestamp"]).timestamp() for e in service.log_events() if e["event"] == "payment.replaced"}
        lat = sorted(told_at[t] - published_at[t] for t in rivals)
        print("replace latency", lat[0], lat[len(lat)//2], lat[-1], "trust", {e["trust"] for e in matching(events, {"kind": "payment.replaced"})})
        assert await service.stop() == 0


@dataclass
class Payments:
    """Payments of a story with random acts, each out of a coin and to an address of its own.

    Args:
        rivals: by the txid of the payment; signed beforehand.
        lost: txids of payments whose rival was published.
    """

    bitcoind: Bitcoind
    unpaid: list[Signed]
    rivals: dict[str, Signed]
    published: list[Signed] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)

    async def pay(self, chance: random.Random) -> None:
        """Publish the next payment, if any is left."""
        if self.unpaid:
            self.published.append(self.unpaid.pop())
            await publish(self.published[-1], self.bitcoind)

    async def replace(self, chance: random.Random) -> None:
        """Publish the rival of a payment that waits in the mempool."""
        waiting = await self.bitcoind.rpc("getrawmempool")
        if pending := [payment.txid for payment in self.published if payment.txid in waiting]:
            txid = chance.choice(pending)
            self.lost.add(txid)
            await publish(self.rivals[txid], self.bitcoind)

    async def evict(self, chance: random.Random) -> None:
        """Have the node forget its mempool."""
        await empty_mempool(self.bitcoind)

    async def send_again(self, chance: random.Random) -> None:
        """Publish every payment again that is neither mined nor waiting, and not replaced."""
        for payment in self.published:
            if payment.txid not in self.lost:
                with suppress(RpcError):  # it is in a block
                    await publish(payment, self.bitcoind)

    async def mine(self, chance: random.Random) -> None:
        """Mine a block."""
        await self.bitcoind.mine(1)

    async def reorg(self, chance: random.Random) -> None:
        """Replace the last blocks; their payments are mined again, or wait in the mempool."""
        await self.bitcoind.reorg(chance.randint(1, 3), with_transactions=chance.random() < 0.5)

    async def block_of(self, payment: Signed) -> str | None:
        """Return the hash of the block that holds a payment, or None."""
        with suppress(RpcError):  # nobody knows it
            found = await self.bitcoind.rpc("getrawtransaction", payment.txid, True)
            if found.get("confirmations", 0) > 0:
                return found["blockhash"]
        return None


async def test_killed_at_random_moments_its_feed_has_no_gap_and_ends_with_the_truth(
    programs: None, tmp_path: Path, shop: Shop
) -> None:
    """Killed while payments are replaced, dropped and reorganised, it tells nothing twice and nothing wrong."""
    chance = random.Random(int(__import__('os').environ.get('SEED', 20261122)))
    async with (
        open_bitcoind(tmp_path / "bitcoind", options=["-mempoolexpiry=1"]) as bitcoind,
        open_electrumx(bitcoind, tmp_path / "electrumx") as first,
        open_electrumx(bitcoind, tmp_path / "electrumx-2") as second,
    ):
        coins = await make_coins(bitcoind, [1_000_000 + number for number in range(PAYMENTS)])
        await bitcoind.mine(MOST_REORGED + 1)
        unpaid = [await sign_payment(bitcoind, coin, await bitcoind.new_address()) for coin in coins]
        rivals = {
            payment.txid: await sign_rival(bitcoind, coin) for payment, coin in zip(unpaid, coins, strict=True)
        }
        story = Payments(bitcoind, unpaid, rivals)
        acts = [story.replace, story.evict, story.replace, story.mine, story.reorg, story.send_again]
        service = ServiceProcess(tmp_path / "lightipn", service_options(first, second, electrum_drop_after_s=1))
        try:
            await service.start()
            for payment in unpaid:
                await service.subscribe(payment.address, shop.url, max_confirms=1)
            told: list[Event] = []
            for _ in range(KILLS):
                for act in [story.pay, story.pay, *chance.sample(acts, 2)]:
                    print(act.__name__, end=" ")
                    await act(chance)
                    await trio.sleep(chance.uniform(0, 0.6))
                await trio.sleep(chance.choice([0, LONGER_THAN_A_DROP_S]))
                service.kill()
                print("KILL")
                await trio.sleep(chance.uniform(0, 0.2))
                await service.start()
                events = await service.events()
                assert events[: len(told)] == told
                told = events
            await bitcoind.mine(1)
            await wait_event(service, kind="block.connected", block_hash=await bitcoind.tip_hash())
            for payment in story.published:
                await wait_settled(service, story, payment)
            events = await service.events()
            from collections import Counter
            print(Counter(e["kind"] for e in events), len(story.published), len(story.lost))
            assert_lawful(events)
            for payment in story.published:
                print(kinds_of(events, payment.txid), payment.txid in story.lost)
            assert await service.stop() == 0
        finally:
            if service.process is not None and service.process.poll() is None:
                service.kill()
    addresses = {payment.address: ipn_text(payment.amount_sat) for payment in story.published}
    for request in shop.requests:
        assert {request.form["confirmed"], request.form["unconfirmed"]} <= {"0.0", addresses[request.form["address"]]}


async def wait_settled(service: ServiceProcess, story: Payments, payment: Signed) -> None:
    """Wait until the last thing said of a payment is the truth: the block that holds it, or that it is gone."""
    block_hash = await story.block_of(payment)
    said: list[Event] = []
    with trio.move_on_after(WAIT_S):
        while True:
            said = matching(await service.events(), {"txid": payment.txid})
            if block_hash is None and (not said or said[-1]["kind"] in ("payment.replaced", "payment.dropped")):
                return
            if block_hash is not None and said and said[-1].get("block_hash") == block_hash:
                return
            await trio.sleep(LOOK_AGAIN_S)
    raise TimeoutError(f"payment {payment.txid} is in block {block_hash}; the feed says {said}")
