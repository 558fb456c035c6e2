"""Servers that lie or fail: never a false total, the service stays up, and the truth is told once somebody tells it."""

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.chain.verifier import Confirmed
from lightipn.simulator.behaviour import Behaviour
from tests.scenarios.story import SHOP_SCRIPT, Story, add_server, open_story, told_of

AMOUNT_SAT = 50_000
SEEN, CONFIRMED = told_of(0, AMOUNT_SAT), told_of(AMOUNT_SAT, 0)
# An amount of virtual time in which a lone server that was caught, or refused a history, is asked again.
LONG_S = 300.0

# How a server misbehaves, and whether it can be caught by itself: another one is used then.
BEHAVIOURS = {
    "fake_branch": Behaviour(fake_branch=True),
    "wrong_amount": Behaviour(wrong_amount=True),
    "tip_inflated": Behaviour(tip_inflated=10),
    "status_never_matches": Behaviour(status_never_matches=True),
    "null_status": Behaviour(null_status=True),
    "history_too_large": Behaviour(history_too_large=True),
    "garbage": Behaviour(garbage=True),
    "stalls": Behaviour(stalls=True),
    "slow_drip": Behaviour(slow_drip=0.5),
    "wrong_genesis": Behaviour(wrong_genesis=True),
}
CAUGHT = [
    "wrong_amount",
    "fake_branch",
    "tip_inflated",
    "status_never_matches",
    "garbage",
    "stalls",
    "slow_drip",
    "wrong_genesis",
]


def patient(story: Story) -> Story:
    """Let a story wait for minutes of its quick clock, and the service for a shop while its database writes."""
    story.patience_s, story.look_again_s = LONG_S, 1.0
    story.settings = {**story.settings, "LIGHTIPN_DELIVERY_TIMEOUT_S": "300"}
    return story


async def is_up(story: Story) -> bool:
    """Tell whether the service answers."""
    return (await story.ask("/healthz")).json() == {"alive": True}


@pytest.mark.slow
@pytest.mark.parametrize("name", BEHAVIOURS)
async def test_lone_server_that_misbehaves_from_the_start(
    tmp_path: Path, quick_clock: trio.testing.MockClock, name: str
) -> None:
    """While the only server misbehaves no false total is told; once it behaves, the right one is."""
    async with open_story(tmp_path, behaviours=[BEHAVIOURS[name]]) as story:
        await patient(story).start()
        await story.watch(depth=3)
        story.chain.pay(SHOP_SCRIPT, AMOUNT_SAT)
        await story.mine()
        await trio.sleep(30)
        assert await is_up(story)
        assert set(story.shop.told()) <= {SEEN}
        story.server.behaviour = Behaviour()
        await story.publish()
        await story.wait_told(0, AMOUNT_SAT)
        await story.mine(2)
        await story.wait_told(AMOUNT_SAT, 0)
        assert story.shop.told() == [SEEN, CONFIRMED]


@pytest.mark.slow
@pytest.mark.parametrize("name", BEHAVIOURS)
async def test_lone_server_that_begins_to_misbehave(
    tmp_path: Path, quick_clock: trio.testing.MockClock, name: str
) -> None:
    """What was proved stays as it is when the server begins to misbehave, and what is new is told when it ends."""
    async with open_story(tmp_path) as story:
        await patient(story).start()
        await story.watch()
        txid = await story.pay(AMOUNT_SAT)
        await story.mine()
        await story.wait_told(AMOUNT_SAT, 0)
        told = len(story.shop.ipns)
        story.server.behaviour = BEHAVIOURS[name]
        await story.pay(7_000)
        await story.mine()
        await trio.sleep(30)
        assert await is_up(story)
        assert isinstance((await story.entries())[txid].state, Confirmed)
        # Of the new payment only what a server can rightly claim may be told meanwhile: that it was seen, or a proof.
        honest = {told_of(AMOUNT_SAT, 7_000), told_of(AMOUNT_SAT + 7_000, 0)}
        assert set(story.shop.told()[told:]) <= honest
        story.server.behaviour = Behaviour()
        await story.publish()
        await story.wait_told(AMOUNT_SAT + 7_000, 0)
        assert set(story.shop.told()[told:]) <= honest


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUGHT)
async def test_second_server_tells_the_truth(tmp_path: Path, quick_clock: trio.testing.MockClock, name: str) -> None:
    """A server that can be caught is left for the second one, and nothing false is told meanwhile."""
    async with open_story(tmp_path, behaviours=[BEHAVIOURS[name], Behaviour()]) as story:
        await patient(story).start()
        await story.watch()
        await story.pay(AMOUNT_SAT)
        await story.wait_told(0, AMOUNT_SAT)
        await story.mine()
        await story.wait_told(AMOUNT_SAT, 0)
        assert story.shop.told() == [SEEN, CONFIRMED]
        assert story.running is not None
        states = {state.name: state.verdict for state in story.running.readiness().servers}
        honest = f"127.0.0.1:{story.servers[1].port}:t"
        assert states[honest] == "connected"
        assert len(states) == 2


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["hides", "null_status"])
async def test_hidden_payment_is_told_by_the_next_sweep(
    tmp_path: Path, quick_clock: trio.testing.MockClock, behaviour: str
) -> None:
    """A payment that the server hides, and never announces, is found within the sweep interval once it is shown."""
    settings = {"LIGHTIPN_ELECTRUM_SWEEP_INTERVAL_S": "60"}
    async with open_story(tmp_path, settings=settings) as story:
        await patient(story).start()
        await story.watch()
        await story.wait_ready()
        txid = story.chain.pay(SHOP_SCRIPT, AMOUNT_SAT)
        hiding = {"hides": Behaviour(hides=frozenset({txid})), "null_status": Behaviour(null_status=True)}
        story.server.behaviour = hiding[behaviour]
        await story.publish()
        await story.mine()
        await trio.sleep(90)
        assert story.shop.ipns == []
        story.server.behaviour = Behaviour()  # and nothing is published
        await story.wait_told(AMOUNT_SAT, 0)
        assert story.shop.told() == [CONFIRMED]


@pytest.mark.slow
async def test_proved_payment_outlives_its_hiding(tmp_path: Path, quick_clock: trio.testing.MockClock) -> None:
    """A proved payment that the server hides afterwards stays in the total, through blocks and a restart."""
    async with open_story(tmp_path) as story:
        await patient(story).start()
        await story.watch(depth=2)
        txid = await story.pay(AMOUNT_SAT)
        await story.wait_told(0, AMOUNT_SAT)
        await story.mine()
        await story.wait_state(txid, Confirmed(story.chain.block_at(21).block_hash, 21, 1))
        story.server.behaviour = Behaviour(hides=frozenset({txid}))
        await story.publish()
        await story.kill()
        await story.start()
        await story.wait_ready()
        await story.mine()
        await story.wait_told(AMOUNT_SAT, 0)
        assert story.shop.told() == [SEEN, CONFIRMED]


@pytest.mark.slow
async def test_inflated_tip_adds_no_confirmations(tmp_path: Path, quick_clock: trio.testing.MockClock) -> None:
    """A payment with one confirmation does not count as three deep because the server says that its tip is higher."""
    async with open_story(tmp_path, behaviours=[Behaviour(tip_inflated=10)]) as story:
        await patient(story).start()
        await story.watch(depth=3)
        await story.pay(AMOUNT_SAT)
        await story.mine()
        await trio.sleep(200)
        assert set(story.shop.told()) <= {SEEN}
        answer = (await story.ask("/readyz")).json()
        assert answer["tip_height"] == 21


@pytest.mark.slow
async def test_address_with_too_large_a_history_does_not_make_the_service_unready(
    tmp_path: Path, quick_clock: trio.testing.MockClock
) -> None:
    """One address whose history the server refuses is quarantined and counted; readiness is about the others."""
    async with open_story(tmp_path, behaviours=[Behaviour(history_too_large=True)]) as story:
        story.chain.pay(SHOP_SCRIPT, AMOUNT_SAT)
        await patient(story).start()
        await story.watch()
        await trio.sleep(120)
        answer = await story.ask("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (200, "")
        assert answer.json()["watches"]["quarantined"] == 1


@pytest.mark.slow
async def test_server_that_is_killed_and_comes_back(tmp_path: Path, quick_clock: trio.testing.MockClock) -> None:
    """While the server is gone the service stays up and says so; what was paid meanwhile is told when it is back."""
    async with open_story(tmp_path) as story:
        await patient(story).start()
        await story.watch()
        await story.wait_ready()
        port = story.server.port
        story.server_scopes[0].cancel()
        await trio.sleep(45)
        assert await is_up(story)
        answer = await story.ask("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        story.chain.pay(SHOP_SCRIPT, AMOUNT_SAT)
        story.chain.mine()
        await add_server(story, Behaviour(), port=port)
        await story.wait_told(AMOUNT_SAT, 0)
        await story.wait_ready()
        assert story.shop.told() == [CONFIRMED]


@pytest.mark.slow
async def test_server_that_dies_is_replaced(tmp_path: Path, quick_clock: trio.testing.MockClock) -> None:
    """When one of two servers in use dies the other one goes on, and nothing is told or fetched twice over."""
    async with open_story(tmp_path, behaviours=[Behaviour(), Behaviour()]) as story:
        await patient(story).start()
        await story.watch()
        await story.pay(AMOUNT_SAT)
        await story.wait_told(0, AMOUNT_SAT)
        story.server_scopes[0].cancel()
        await story.mine()
        await story.wait_told(AMOUNT_SAT, 0)
        assert story.shop.told() == [SEEN, CONFIRMED]
        assert story.servers[1].calls["blockchain.scripthash.get_history"] <= 2


@pytest.mark.slow
async def test_dropped_links_tell_nothing_twice(tmp_path: Path, quick_clock: trio.testing.MockClock) -> None:
    """A link that drops after every step costs neither a message nor a payment."""
    async with open_story(tmp_path) as story:
        await patient(story).start()
        await story.watch()
        steps = [partial(story.pay, AMOUNT_SAT), story.mine, story.mine]
        wanted = [(0, AMOUNT_SAT), (AMOUNT_SAT, 0), (AMOUNT_SAT, 0)]
        for step, totals in zip(steps, wanted, strict=True):
            await step()
            await story.server.drop_connections()
            await story.wait_told(*totals)
            await story.wait_ready()
        assert story.shop.told() == [SEEN, CONFIRMED]
