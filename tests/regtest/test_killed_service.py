"""The service is killed at random moments while payments come, go, and move between branches."""

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from lightipn.dialects.ipn.wire import btc_text
from tests.regtest.feed import (
    LOOK_AGAIN_S,
    WAIT_S,
    Event,
    assert_lawful,
    matching,
    service_options,
    totals_told,
    wait_event,
    wait_told,
)
from tests.regtest.nodes import Bitcoind, RpcError
from tests.regtest.own_node import Source
from tests.regtest.rivals import Signed, empty_mempool, make_coins, publish, sign_payment, sign_rival
from tests.regtest.shop import Shop
from tests.service_process import ServiceProcess

pytestmark = pytest.mark.slow
KILLS = 10
PAYMENTS_A_ROUND = 2
MOST_REORGED = 3
DROP_AFTER_S = 1
LONGER_THAN_A_DROP_S = 1.5
LONGEST_PAUSE_S = 0.6


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

    async def play_round(self, chance: random.Random) -> None:
        """Make new payments and do two other things, with pauses; the last one may be long enough for a drop."""
        others = [self.replace, self.replace, self.evict, self.send_again, self.mine, self.reorg]
        for act in [*[self.pay] * PAYMENTS_A_ROUND, *chance.sample(others, 2)]:
            await act(chance)
            await trio.sleep(chance.uniform(0, LONGEST_PAUSE_S))
        await trio.sleep(chance.choice([0, LONGER_THAN_A_DROP_S]))

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
        await self.bitcoind.reorg(chance.randint(1, MOST_REORGED), with_transactions=chance.random() < 0.5)

    async def block_of(self, payment: Signed) -> str | None:
        """Return the hash of the block that holds a payment, or None."""
        with suppress(RpcError):  # nobody knows it
            found = await self.bitcoind.transaction(payment.txid)
            if found.get("confirmations", 0) > 0:
                return found["blockhash"]
        return None


async def open_story(bitcoind: Bitcoind, payments: int) -> Payments:
    """Make the coins, bury them deeper than any reorg of the story, and sign every payment and its rival."""
    coins = await make_coins(bitcoind, [1_000_000 + number for number in range(payments)])
    await bitcoind.mine(MOST_REORGED + 1)
    unpaid = [await sign_payment(bitcoind, coin, await bitcoind.new_address()) for coin in coins]
    rivals = {payment.txid: await sign_rival(bitcoind, coin) for payment, coin in zip(unpaid, coins, strict=True)}
    return Payments(bitcoind, unpaid, rivals)


async def wait_settled(service: ServiceProcess, payment: Signed, block_hash: str | None) -> None:
    """Wait until the last event of a payment is the truth: the block that holds it, or that it is gone.

    A payment that was gone before the service ever saw it may have no event.
    """
    said: Sequence[Event] = []
    with trio.move_on_after(WAIT_S):
        while True:
            said = matching(await service.events(), {"txid": payment.txid})
            last = said[-1] if said else {"kind": "payment.dropped"}
            if block_hash is None and last["kind"] in ("payment.replaced", "payment.dropped"):
                return
            if last["kind"] == "payment.confirmed" and last["block_hash"] == block_hash:
                return
            await trio.sleep(LOOK_AGAIN_S)
    raise TimeoutError(f"payment {payment.txid} is in block {block_hash}; the feed says {said}")


async def test_killed_at_random_moments_its_feed_has_no_gap_and_ends_with_the_truth(
    private_bitcoind: Bitcoind, private_sources: tuple[Source, ...], tmp_path: Path, shop: Shop
) -> None:
    """Killed while payments are replaced, dropped and reorganised, it takes nothing back and tells nothing twice."""
    chance = random.Random(9)
    bitcoind = private_bitcoind
    story = await open_story(bitcoind, KILLS * PAYMENTS_A_ROUND)
    service = ServiceProcess(tmp_path / "lightipn", service_options(*private_sources, drop_after_s=DROP_AFTER_S))
    try:
        await service.start()
        for payment in story.unpaid:
            await service.subscribe(payment.address, shop.url, max_confirms=1)
        told: list[Event] = []
        for _ in range(KILLS):
            await story.play_round(chance)
            service.kill()
            await trio.sleep(chance.uniform(0, 0.2))
            await service.start()
            events = await service.events()
            assert events[: len(told)] == told
            told = events
        await bitcoind.mine(1)
        await wait_event(service, kind="block.connected", block_hash=await bitcoind.tip_hash())
        for payment in story.published:
            block_hash = await story.block_of(payment)
            await wait_settled(service, payment, block_hash)
            if block_hash is not None:
                await wait_told(shop, payment.address, btc_text(payment.amount_sat), "0.0")
            elif totals_told(shop, payment.address):
                await wait_told(shop, payment.address, "0.0", "0.0")
        events = await service.events()
        assert await service.stop() == 0
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()
    assert_lawful(events)
    assert {event["kind"] for event in events} >= {
        "payment.seen",
        "payment.confirmed",
        "payment.reverted",
        "payment.replaced",
        "payment.dropped",
    }
    for payment in story.published:
        amount = btc_text(payment.amount_sat)
        assert set(totals_told(shop, payment.address)) <= {("0.0", amount), (amount, "0.0"), ("0.0", "0.0")}
