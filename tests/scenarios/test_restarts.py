"""A restart is the normal path: nothing is lost, nothing is invented, and nobody else gets at the database."""

from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.app import run_service
from lightipn.errors import StoreMismatchError
from lightipn.simulator import forge
from tests.scenarios.story import SHOP_SCRIPT, Story, open_story, told_of

AMOUNT_SAT = 50_000
SUBSCRIBE = "blockchain.scripthash.subscribe"
HISTORY = "blockchain.scripthash.get_history"


@pytest.mark.slow
async def test_kill_while_the_shop_is_being_told(story: Story) -> None:
    """Killed while the shop holds the request, the service has one message due after its restart, and delivers it."""
    await story.watch()
    await story.wait_ready()
    story.shop.answers = "hang"
    await story.pay(AMOUNT_SAT)
    with trio.fail_after(story.patience_s):
        await story.shop.wait_count(1)
    await story.kill()
    (left,) = await story.deliveries()
    assert left.due_at is not None
    story.shop.answers = "echo"
    await story.start()
    await story.wait_told(0, AMOUNT_SAT)
    (delivery,) = await story.deliveries()
    assert (delivery.message_id, delivery.state, delivery.attempts) == (left.message_id, "acknowledged", 2)
    assert [(ipn.message_id, ipn.unconfirmed) for ipn in story.shop.ipns] == [(left.message_id, "0.0005")] * 2
    assert story.running is not None
    _, attempts = await story.running.service.deliveries.show(delivery.message_key)
    assert [attempt.outcome for attempt in attempts] == ["interrupted", "acknowledged"]


@pytest.mark.slow
async def test_kill_at_the_moment_of_the_commit(story: Story) -> None:
    """Killed as soon as the payment is committed, the service tells it after its restart, by one message."""
    await story.watch()
    await story.wait_ready()
    story.chain.pay(SHOP_SCRIPT, AMOUNT_SAT)
    await story.publish()

    async def is_committed() -> bool:
        return bool(await story.deliveries())

    story.look_again_s = 0.0
    await story.wait_until(is_committed)
    await story.kill()
    story.look_again_s = 0.005
    await story.start()
    await story.wait_told(0, AMOUNT_SAT)
    assert len(await story.deliveries()) == 1
    assert len({ipn.message_id for ipn in story.shop.ipns}) == 1
    assert set(story.shop.told()) == {told_of(0, AMOUNT_SAT)}


@pytest.mark.slow
async def test_kill_after_every_step_loses_nothing(story: Story) -> None:
    """Killed and started again after every step of a payment, the service tells the same story."""
    await story.watch(depth=2)
    steps = [(AMOUNT_SAT, 0, AMOUNT_SAT), (0, 0, AMOUNT_SAT), (0, AMOUNT_SAT, 0), (0, AMOUNT_SAT, 0)]
    for paid_sat, confirmed_sat, unconfirmed_sat in steps:
        await story.kill()
        if paid_sat:
            await story.pay(paid_sat)
        else:
            await story.mine()
        await story.start()
        await story.wait_told(confirmed_sat, unconfirmed_sat)
        await story.wait_ready()
    assert story.shop.told() == [told_of(0, AMOUNT_SAT), told_of(AMOUNT_SAT, 0)]


@pytest.mark.slow
async def test_quiet_restart_fetches_nothing(story: Story) -> None:
    """A restart in which nothing has changed costs one subscribe per address, and neither history nor headers."""
    scripts = [forge.made_up_script(f"customer {number}") for number in range(30)]
    for script in scripts:
        await story.watch(script)
        story.chain.pay(script, AMOUNT_SAT)
    await story.mine()
    story.patience_s = 20.0

    async def is_told() -> bool:
        return len({ipn.address for ipn in story.shop.ipns if ipn.confirmed == "0.0005"}) == 30

    await story.wait_until(is_told)
    await story.wait_until(story.is_all_acknowledged)
    await story.wait_ready()
    await story.kill()
    calls, ipns = story.server.calls.copy(), len(story.shop.ipns)
    await story.start()
    await story.wait_ready()
    assert story.server.calls - calls == {
        "server.version": 1,
        "server.features": 1,
        "blockchain.headers.subscribe": 1,
        SUBSCRIBE: 30,
    }
    assert len(story.shop.ipns) == ipns


@pytest.mark.slow
async def test_what_happened_while_down_is_told_once(story: Story) -> None:
    """Payments and blocks of a downtime are told by one message with the newest totals."""
    await story.watch(depth=2)
    await story.wait_ready()
    await story.kill()
    await story.pay(AMOUNT_SAT)
    await story.mine(3)
    await story.pay(7_000)
    await story.start()
    await story.wait_told(AMOUNT_SAT, 7_000)
    assert story.shop.told() == [told_of(AMOUNT_SAT, 7_000)]


@pytest.mark.slow
async def test_shop_that_is_closed_for_a_while_is_told_again(story: Story) -> None:
    """A shop that answers 503 is told again until it acknowledges, by one message with the newest totals."""
    await story.watch()
    story.shop.answers = "error"
    await story.pay(AMOUNT_SAT)
    with trio.fail_after(story.patience_s):
        await story.shop.wait_count(2)
    await story.mine()
    with trio.fail_after(story.patience_s):
        while told_of(AMOUNT_SAT, 0) not in story.shop.told():
            await story.shop.wait_next()
    story.shop.answers = "echo"
    await story.wait_told(AMOUNT_SAT, 0)
    told = story.shop.told()
    seen = told.count(told_of(0, AMOUNT_SAT))
    assert told == [told_of(0, AMOUNT_SAT)] * seen + [told_of(AMOUNT_SAT, 0)] * (len(told) - seen)
    assert seen >= 2
    (delivery,) = await story.deliveries()
    assert delivery.attempts == len(told)
    assert len({ipn.message_id for ipn in story.shop.ipns}) == 1


@pytest.mark.slow
async def test_restart_while_the_shop_is_closed_keeps_the_message(story: Story) -> None:
    """A message that failed before a restart is told after it, with the same id."""
    await story.watch()
    story.shop.answers = "error"
    await story.pay(AMOUNT_SAT)
    with trio.fail_after(story.patience_s):
        await story.shop.wait_count(1)
    await story.kill()
    story.shop.answers = "echo"
    await story.start()
    await story.wait_told(0, AMOUNT_SAT)
    assert len({ipn.message_id for ipn in story.shop.ipns}) == 1


@pytest.mark.slow
async def test_reverted_payment_that_was_never_told_is_withdrawn(story: Story) -> None:
    """A shop that was closed while a payment was confirmed and reverted is told the newest totals only."""
    await story.watch()
    await story.pay(AMOUNT_SAT)
    await story.wait_told(0, AMOUNT_SAT)
    story.shop.answers = "error"
    await story.mine()
    with trio.fail_after(story.patience_s):
        await story.shop.wait_count(2)
    story.chain.reorg(1)
    await story.publish()
    story.shop.answers = "echo"
    await story.wait_told(0, AMOUNT_SAT)
    (delivery,) = await story.deliveries()
    assert delivery.state == "acknowledged"


@pytest.mark.slow
async def test_second_instance_is_refused(story: Story) -> None:
    """A second service on the same database is refused, and the first one goes on."""
    with pytest.raises(StoreMismatchError, match="another lightipn service"):
        await run_service(story.config(), stop=trio.Event())
    await story.watch()
    await story.pay(AMOUNT_SAT)
    await story.wait_told(0, AMOUNT_SAT)


@pytest.mark.slow
async def test_database_of_another_network_is_refused(story: Story) -> None:
    """A database is bound to its network: another one is refused, and the message names both."""
    await story.kill()
    with pytest.raises(StoreMismatchError, match=r"regtest.*signet"):
        await run_service(story.config(LIGHTIPN_NETWORK="signet"), stop=trio.Event())
    await story.start()
    await story.wait_ready()


async def test_stop_ends_the_service(tmp_path: Path) -> None:
    """A service that is told to stop ends by itself, and its database can be opened at once."""
    async with open_story(tmp_path) as story:
        stop = trio.Event()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await run_service(story.config(), stop=stop)

                nursery.start_soon(run)
                await trio.testing.wait_all_tasks_blocked(0.05)
                stop.set()
        await story.start()
        await story.wait_ready()
