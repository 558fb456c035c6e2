"""What callers are told of addresses whose past is looked for: the real lookups on the real source and tracker."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint
from lightipn.errors import RequestError
from lightipn.service.ground import Doorbells, Ground
from lightipn.service.lookups import Lookups
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import ledger as ledger_store
from lightipn.store.database import Database
from tests.bitcoind.rig import A_WHILE_S, Life, life_on
from tests.bitcoind.simulated_node import SimulatedNode
from tests.tracker.rig import NOW, SHOP_SCRIPT

PAST_SAT = 1_000_000
ASKED = 4
BUSY = 15
ANSWER_S = 0.02


class SlowNode(SimulatedNode):
    """A node that takes its time over each answer, so that callers can ask in between."""

    async def post(self, body: bytes, *, timeout_s: float) -> bytes:
        """Answer a call, or a batch of calls."""
        await trio.sleep(ANSWER_S)
        return await super().post(body, timeout_s=timeout_s)


def address_of(name: str) -> Address:
    """Return somebody's address."""
    return Address(text=name, script=forge.made_up_script(name))


def lookups_of(life: Life) -> Lookups:
    """Return what callers ask."""
    assert life.tracker is not None
    return Lookups(
        Ground(
            store=life.store,
            network=REGTEST,
            policies={},
            check_url=lambda _: None,
            bells=Doorbells(watches=life.keeper.ring, messages=lambda: None),
            progress=life.tracker.progress,
            is_tip_proved=lambda: True,
            is_connected=lambda: True,
            clock=lambda: NOW + trio.current_time(),
            past_progress=lambda: life.source.past_progress,
        )
    )


async def subscribe(life: Life, *addresses: Address) -> None:
    """Have addresses followed for good."""

    def work(db: Database) -> None:
        for address in addresses:
            ledger_store.add_script(db, address)

    await life.store.transact(work)
    life.keeper.ring()


async def total_of(lookups: Lookups, address: Address) -> int | str:
    """Return what a caller is told that an address holds, or the refusal's code."""
    try:
        known = await lookups.payments(address)
    except RequestError as error:
        return error.code
    return sum(entry.net_sat for entry in known.payments.entries.values())


@pytest.mark.slow
@pytest.mark.parametrize("has_filters", [False, True])
@pytest.mark.parametrize("is_busy", [False, True])
async def test_address_that_is_subscribed_and_looked_up_at_once_is_told_with_its_past(
    is_busy: bool, has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nobody is told that an address holds nothing before its past was looked for, however busy the node is."""
    chain = SimulatedChain()
    chain.mine()
    for number in range(ASKED):
        chain.pay(address_of(f"old {number}").script, PAST_SAT + number)
    chain.mine(3)
    for number in range(ASKED * BUSY if is_busy else 0):
        chain.pay(address_of(f"busy {number}").script, 1_000)
    node = SlowNode(chain, has_filters=has_filters)
    told = []
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        lookups = lookups_of(life)
        for number in range(ASKED):
            if is_busy:
                await subscribe(life, *(address_of(f"busy {number * BUSY + each}") for each in range(BUSY)))
                await trio.sleep(ANSWER_S / 4)
            address = address_of(f"old {number}")
            await subscribe(life, address)
            told.append(await total_of(lookups, address))
            await trio.sleep(A_WHILE_S)
    assert told == [PAST_SAT + number for number in range(ASKED)]


@pytest.mark.slow
@pytest.mark.parametrize("has_filters", [False, True])
async def test_payer_whose_payment_was_evicted_is_told_with_its_coin(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What was learned of a payer for its payment's sake is not taken for its history when somebody asks for it."""
    payer = address_of("payer")
    chain = SimulatedChain()
    chain.mine()
    coin = chain.pay(payer.script, PAST_SAT)
    chain.mine(3)
    node = SlowNode(chain, has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        await life.watch()
        paid = chain.pay(SHOP_SCRIPT, 900_000, spend=[Outpoint(coin, 0)])
        await trio.sleep(A_WHILE_S)
        assert await life.shown() == [(900_000, "Unconfirmed")]
        chain.evict(paid)
        await trio.sleep(A_WHILE_S)
        assert await total_of(lookups_of(life), payer) == PAST_SAT
