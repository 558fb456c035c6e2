"""Servers' own limits are respected: thousands of watches come up without a disconnect, and the progress is told."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.hashes import scripthash_of
from lightipn.chain.verifier import Confirmed
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from tests.adversary.histories import Truth, check_proved
from tests.adversary.rig import Rig, open_rig

pytestmark = pytest.mark.slow
WATCHES = 5_000
FULCRUM = Behaviour(
    software="Fulcrum 2.1.1", max_batch_items=345, max_clients_per_ip=12, max_subs_per_ip=75_000, max_history=125_000
)
ELECTRUMX = Behaviour(software="ElectrumX 1.20.0", cost_soft_limit=1_000, cost_hard_limit=10_000)
SHOP = forge.made_up_script("shop")


def new_chain() -> SimulatedChain:
    """Return a chain of twenty blocks."""
    chain = SimulatedChain()
    chain.mine(20)
    return chain


async def wait_subscribed(rig: Rig) -> list[int]:
    """Wait until everything is subscribed; return what the progress was each second."""
    progress = []
    with trio.fail_after(3600):
        while True:
            found = rig.source.statistics()
            progress.append(found.subscribed)
            if found.subscribed == found.total == WATCHES:
                return progress
            await trio.sleep(1)


@pytest.mark.parametrize(
    "behaviours", [[FULCRUM], [ELECTRUMX], [FULCRUM, ELECTRUMX]], ids=["fulcrum", "electrumx", "both"]
)
async def test_thousands_of_watches_come_up_without_a_disconnect(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, behaviours: Sequence[Behaviour]
) -> None:
    """5,000 watches come up on servers with the limits of stock Fulcrum and ElectrumX: no link is lost on the way."""
    chain = new_chain()
    async with open_rig(tmp_path / "a.db", [chain], behaviours) as rig:
        rig.source.watch_all(
            [(scripthash_of(forge.made_up_script(f"watch {number}")), None) for number in range(WATCHES)]
        )
        progress = await wait_subscribed(rig)
        assert progress == sorted(progress)
        assert [(server.accepted, server.turned_away) for server in rig.servers] == [(1, 0)] * len(behaviours)


async def test_script_above_a_limit_is_set_aside_alone(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """A history that one server cuts to nothing, and another refuses, is taken from the third; the others go on."""
    chain = new_chain()
    for _ in range(5):
        chain.pay(SHOP, 1_000)
        chain.mine()
    behaviours = [
        Behaviour(software="Fulcrum 2.1.1", max_history=3, null_status=True),
        Behaviour(software="ElectrumX 1.20.0", max_history=3),
        Behaviour(),
    ]
    async with open_rig(tmp_path / "a.db", [chain], behaviours) as rig:
        truth = Truth(chain, SHOP)
        await rig.watch(SHOP)
        await trio.sleep(30)
        truth.note()
        await check_proved(rig, truth)
        for _ in range(3):
            chain.pay(SHOP, 1_000)
            chain.mine()
            await rig.publish()
            await trio.sleep(60)
        truth.note()
        await check_proved(rig, truth)
        assert {kind for kinds in rig.evidence().values() for kind in kinds} <= {"disagreement"}
        calls = sum(server.calls["blockchain.scripthash.get_history"] for server in rig.servers)
        assert calls < 60


async def test_script_above_the_only_servers_limit_is_reported(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A Fulcrum that serves a long history as none is found out by the balance: quarantined, and nothing is wiped."""
    chain = new_chain()
    behaviour = Behaviour(software="Fulcrum 2.1.1", max_history=3, null_status=True)
    async with open_rig(tmp_path / "a.db", [chain], [behaviour]) as rig:
        await rig.watch(SHOP)
        txids = [chain.pay(SHOP, 1_000) for _ in range(3)]
        chain.mine()
        await rig.publish()
        await trio.sleep(5)
        assert await rig.totals(SHOP) == (3_000, 0)
        chain.pay(SHOP, 1_000)
        chain.mine()
        await rig.publish()
        await trio.sleep(600)
        assert await rig.totals(SHOP) == (3_000, 0)
        entries = await rig.entries(SHOP)
        assert all(isinstance(entries[txid].state, Confirmed) for txid in txids)
        assert rig.verdicts() == {"server0": "connected"}
    async with open_rig(tmp_path / "b.db", [chain], [behaviour]) as rig:  # one that never saw it shorter
        await rig.watch(SHOP)
        await trio.sleep(5)
        assert rig.source.statistics().quarantined == 1
