"""Networks that part and join, servers gone for a day, clocks that jump: nothing is lost, repeated or invented."""

from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.hashes import scripthash_of
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from tests.adversary.histories import Truth, compare
from tests.adversary.rig import Rig, open_rig

pytestmark = pytest.mark.slow
SHOP = forge.made_up_script("shop")
DAY_S = 86_400.0
THREE = [Behaviour()] * 3


def new_chain() -> SimulatedChain:
    """Return a chain of twenty blocks."""
    chain = SimulatedChain()
    chain.mine(20)
    return chain


async def kinds(rig: Rig) -> list[str]:
    """Return what the feed tells of the shop, in order."""
    return [event.kind for event in await rig.events(scripthash_of(SHOP))]


async def test_all_servers_gone_for_a_day(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """While no server answers, payments come, are replaced and mined; when they are back, all of it is told."""
    chain = new_chain()
    async with open_rig(tmp_path / "a.db", [chain], THREE) as rig:
        truth = Truth(chain, SHOP)
        await rig.watch(SHOP)
        kept, stolen = chain.pay(SHOP, 10_000), chain.pay(SHOP, 20_000)
        truth.note()
        await rig.publish()
        await compare(rig, truth, proved_only=False)
        assert await rig.totals(SHOP) == (0, 30_000)

        rig.connector.is_down = True
        for server in rig.servers:
            await server.drop_connections()
        chain.replace(stolen, script=forge.made_up_script("thief"))
        chain.pay(SHOP, 40_000)
        truth.note()
        chain.mine(include=[kept])
        truth.note()
        await trio.sleep(DAY_S)
        assert await rig.totals(SHOP) == (0, 30_000)  # silence is no denial
        rig.connector.is_down = False
        await compare(rig, truth, proved_only=False)
        assert await rig.totals(SHOP) == (10_000, 40_000)
        assert sorted(await kinds(rig)) == [
            "payment.confirmed",
            "payment.replaced",
            "payment.seen",
            "payment.seen",
            "payment.seen",
        ]


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
async def test_clock_that_jumps(tmp_path: Path, autojump_clock: trio.testing.MockClock, step_s: float) -> None:
    """The machine's clock jumps by a day: nothing is dropped, told twice or missed because of it."""
    chain = new_chain()
    async with open_rig(tmp_path / "a.db", [chain], THREE) as rig:
        truth = Truth(chain, SHOP)
        await rig.watch(SHOP)
        chain.pay(SHOP, 10_000)
        truth.note()
        await rig.publish()
        await compare(rig, truth, proved_only=False)
        rig.clock_offset_s[0] = step_s
        await trio.sleep(100)
        assert await kinds(rig) == ["payment.seen"]
        chain.mine()
        truth.note()
        await rig.publish()
        await compare(rig, truth, proved_only=False)
        assert await kinds(rig) == ["payment.seen", "payment.confirmed"]


async def test_networks_that_part_and_join(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Two branches grow apart, each shown by servers of its own; the one with more work counts, each change once."""
    left = new_chain()
    right = left.copy(seed=1)
    async with open_rig(tmp_path / "a.db", [left, right, right], THREE) as rig:
        await rig.watch(SHOP)
        await trio.sleep(1)
        txid = left.pay(SHOP, 10_000)
        left.mine(2)
        await rig.publish()
        await trio.sleep(5)
        assert await rig.totals(SHOP) == (10_000, 0)
        right.mine(4)
        await rig.publish()
        await trio.sleep(5)
        raw = left.transaction(txid)
        assert raw is not None
        right.submit(raw)
        await rig.publish()
        await trio.sleep(5)
        assert await rig.totals(SHOP) == (0, 10_000)
        left.adopt(right)
        right.mine()
        left.adopt(right)
        await rig.publish()
        await trio.sleep(60)
        assert await rig.totals(SHOP) == (10_000, 0)
        assert await kinds(rig) == ["payment.confirmed", "payment.reverted", "payment.confirmed"]
        blocks = [(event.kind, event.height) for event in await rig.events() if event.kind.startswith("block.")]
        assert blocks[-8:] == [
            ("block.connected", 22),
            ("block.disconnected", 22),
            ("block.disconnected", 21),
            *[("block.connected", height) for height in range(21, 26)],
        ]


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 10, 25, 50, 100])
async def test_reorg_of_any_depth(tmp_path: Path, autojump_clock: trio.testing.MockClock, depth: int) -> None:
    """A payment under a reorg of any depth is reverted once, and confirmed again once, in its new block."""
    chain = new_chain()
    async with open_rig(tmp_path / "a.db", [chain], THREE) as rig:
        truth = Truth(chain, SHOP)
        await rig.watch(SHOP)
        chain.pay(SHOP, 10_000)
        truth.note()
        chain.mine(depth)
        truth.note()
        await rig.publish()
        await compare(rig, truth, proved_only=False)
        chain.reorg(depth)
        truth.note()
        await rig.publish()
        await compare(rig, truth, proved_only=False)
        assert await rig.totals(SHOP) == (0, 10_000)
        chain.mine()
        truth.note()
        await rig.publish()
        await compare(rig, truth, proved_only=False)
        assert await kinds(rig) == ["payment.confirmed", "payment.reverted", "payment.confirmed"]


async def test_restart_in_the_middle_of_everything(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The service ends at any moment while payments are replaced and mined; each start goes on where it was."""
    chain = new_chain()
    truth = Truth(chain, SHOP)
    truth.note()
    for round_number in range(12):
        async with open_rig(tmp_path / "a.db", [chain], THREE) as rig:
            await rig.watch(SHOP)
            await trio.sleep(0.1 * round_number)
            txid = chain.pay(SHOP, 1_000 + round_number)
            truth.note()
            await rig.publish()
            await trio.lowlevel.checkpoint()
            if round_number % 3 == 0:
                chain.replace(txid, script=forge.made_up_script("thief"))
                truth.note()
            if round_number % 4 == 3:
                chain.mine()
                truth.note()
            if round_number == 9:
                chain.reorg(2)
                truth.note()
            await rig.publish()
    async with open_rig(tmp_path / "a.db", [chain], THREE) as rig:
        await compare(rig, truth, proved_only=False)
