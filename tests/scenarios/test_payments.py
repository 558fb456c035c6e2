"""A payment from the mempool to its depth: what the shop is told, and what the API says."""

import pytest
import trio

from lightipn.app import open_service_tools
from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.hashes import sha256
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.dialects.ipn import wire
from lightipn.ledger.entries import Replaced
from lightipn.service.subscribing import Wish
from lightipn.simulator import forge
from tests.scenarios.story import SHOP_SCRIPT, Story, told_of

DIGEST = sha256(b"shop")
SCRIPTS = {
    "P2PKH": b"\x76\xa9\x14" + DIGEST[:20] + b"\x88\xac",
    "P2SH": b"\xa9\x14" + DIGEST[:20] + b"\x87",
    "P2WPKH": b"\x00\x14" + DIGEST[:20],
    "P2WSH": b"\x00\x20" + DIGEST,
    "P2TR": b"\x51\x20" + DIGEST,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCRIPTS)
async def test_payment_is_told_when_seen_and_at_its_depth(story: Story, kind: str) -> None:
    """A payment to any type of address is told when seen and at its third confirmation, and not in between."""
    script = SCRIPTS[kind]
    address = await story.watch(script, depth=3)
    txid = await story.pay(1_250_000, script)
    await story.wait_told(0, 1_250_000)
    await story.mine(2)
    await story.wait_ready()
    assert await story.is_all_acknowledged()
    assert len(story.shop.ipns) == 1
    await story.mine()
    await story.wait_told(1_250_000, 0)
    await story.mine(3)
    await story.wait_ready()
    assert story.shop.told() == [("0.0", "0.0125"), ("0.0125", "0.0")]
    assert {ipn.address for ipn in story.shop.ipns} == {address}
    assert len({ipn.message_id for ipn in story.shop.ipns}) == 1
    block = story.chain.block_at(21)
    assert (await story.entries(script))[txid].state == Confirmed(block.block_hash, 21, 1)


async def test_several_payments_add_up(story: Story) -> None:
    """Payments to one address add up, each counted as confirmed by its own depth."""
    await story.watch(depth=2)
    await story.pay(1_000)
    await story.wait_told(0, 1_000)
    await story.mine()
    await story.pay(20_000)
    await story.wait_told(0, 21_000)
    await story.mine()
    await story.wait_told(1_000, 20_000)
    await story.mine()
    await story.wait_told(21_000, 0)


async def test_totals_are_net_of_change(story: Story) -> None:
    """Money that returns to the address as change of its own payment is no deposit."""
    await story.watch()
    txid = await story.pay(50_000)
    await story.mine()
    await story.wait_told(50_000, 0)
    story.chain.pay(forge.made_up_script("supplier"), 10_000, spend=[Outpoint(txid, 0)], change_to=SHOP_SCRIPT)
    await story.publish()
    await story.pay(7_000)
    await story.wait_told(50_000, 7_000)
    await story.mine()
    await story.wait_told(57_000, 0)
    assert len(await story.entries()) == 3


async def test_fee_bump_is_told_once(story: Story) -> None:
    """A fee bump leaves the total as it is: the shop hears of one payment, by one message."""
    await story.watch()
    first = await story.pay(50_000)
    await story.wait_told(0, 50_000)
    second = story.chain.replace(first)
    await story.publish()
    await story.wait_state(second, Unconfirmed())
    await story.mine()
    await story.wait_told(50_000, 0)
    assert story.shop.told() == [told_of(0, 50_000), told_of(50_000, 0)]
    assert len(await story.deliveries()) == 1
    entries = await story.entries()
    assert entries[first].state == Replaced(second)
    assert isinstance(entries[second].state, Confirmed)


async def test_replacement_by_another_amount_is_told(story: Story) -> None:
    """A replacement that pays another amount takes the place of the first: the sum of both is never told."""
    await story.watch()
    first = await story.pay(50_000)
    await story.wait_told(0, 50_000)
    story.chain.replace(first, amount_sat=60_000)
    await story.publish()
    await story.wait_told(0, 60_000)
    await story.mine()
    await story.wait_told(60_000, 0)
    assert story.shop.told() == [told_of(0, 50_000), told_of(0, 60_000), told_of(60_000, 0)]


async def test_address_that_was_paid_before_is_told_at_once(story: Story) -> None:
    """A subscription to an address with a past is told its totals at once."""
    story.chain.pay(SHOP_SCRIPT, 30_000)
    await story.mine(5)
    await story.pay(4_000)
    await story.wait_ready()
    await story.watch(depth=3)
    await story.wait_told(30_000, 4_000)
    assert story.shop.told() == [told_of(30_000, 4_000)]


@pytest.mark.slow
async def test_subscribing_again_tells_nothing_new(story: Story) -> None:
    """The same subscription again tells nothing; another depth tells what it changes."""
    await story.watch(depth=1)
    await story.pay(30_000)
    await story.mine()
    await story.wait_told(30_000, 0)
    count = len(story.shop.ipns)
    await story.watch(depth=1)
    assert await story.is_all_acknowledged()
    assert len(story.shop.ipns) == count
    await story.watch(depth=5)
    await story.wait_told(0, 30_000)


async def test_coinbase_counts_after_a_hundred_blocks(story: Story) -> None:
    """A mining reward counts as confirmed only when it can be spent, at 100 confirmations."""
    await story.watch(depth=1)
    story.chain.mine(pay_to=SHOP_SCRIPT)
    await story.publish()
    await story.wait_told(0, 5_000_000_000)
    story.chain.mine(98)
    await story.publish()
    await story.wait_ready()
    assert await story.is_all_acknowledged()
    assert len(story.shop.ipns) == 1
    await story.mine()
    await story.wait_told(5_000_000_000, 0)


@pytest.mark.slow
async def test_watch_added_by_a_command_is_acted_on(story: Story) -> None:
    """An address that a command adds to the database is watched by the running service within two seconds."""
    address = address_of(SHOP_SCRIPT, REGTEST)
    assert address is not None
    await story.pay(9_000)
    async with open_service_tools(story.config()) as tools:
        wish = Wish(address=address, url=story.shop_url, terms=wire.encode_terms(wire.IpnTerms(max_confirms=1)))
        await tools.subscriptions.subscribe(wish, dialect="ipn", owner="operator")
    with trio.fail_after(2):
        await story.shop.wait_count(1)
    assert story.shop.told() == [told_of(0, 9_000)]


@pytest.mark.slow
async def test_watch_removed_by_a_command_is_told_no_more(story: Story) -> None:
    """An address that a command removes is told no more, while others are."""
    address = await story.watch()
    other = forge.made_up_script("other")
    await story.watch(other)
    await story.wait_ready()
    async with open_service_tools(story.config()) as tools:
        assert await tools.subscriptions.unsubscribe(address, url=None) == 1

    async def is_forgotten() -> bool:
        return (await story.ask("/readyz")).json()["watches"]["total"] == 1

    with trio.fail_after(2):
        await story.wait_until(is_forgotten)
    await story.pay(1_000)
    await story.pay(2_000, other)
    await story.wait_told(0, 2_000)
    assert story.shop.told() == [told_of(0, 2_000)]


async def test_unwatched_address_is_looked_up(story: Story) -> None:
    """``GET /btc`` of an address that nobody watches answers with proved totals, and with newer ones later."""
    story.chain.pay(SHOP_SCRIPT, 30_000)
    await story.mine(3)
    await story.pay(4_000)
    address = address_of(SHOP_SCRIPT, REGTEST)
    answer = await story.ask("/btc", address=address)
    assert (answer.status_code, answer.text) == (200, '{"confirmed": 0.0003, "unconfirmed": 0.00004}')
    answer = await story.ask("/btc", address=address, confirms=4)
    assert answer.text == '{"confirmed": 0.0, "unconfirmed": 0.00034}'
    await story.mine()

    async def is_confirmed() -> bool:
        answer = await story.ask("/btc", address=address, confirms=1)
        return answer.text == '{"confirmed": 0.00034, "unconfirmed": 0.0}'

    await story.wait_until(is_confirmed)
    assert story.shop.ipns == []


async def test_unused_address_has_received_nothing(story: Story) -> None:
    """``GET /btc`` of an address without any history is answered with zeros."""
    answer = await story.ask("/btc", address=address_of(forge.made_up_script("nobody"), REGTEST))
    assert (answer.status_code, answer.text) == (200, '{"confirmed": 0.0, "unconfirmed": 0.0}')


@pytest.mark.slow
async def test_many_who_ask_for_one_address_share_one_lookup(story: Story) -> None:
    """Twenty callers who ask for the same unwatched address at a time cost one history."""
    story.chain.pay(SHOP_SCRIPT, 30_000)
    await story.mine()
    await story.wait_ready()
    answers: list[str] = []

    async def ask() -> None:
        answers.append((await story.ask("/btc", address=address_of(SHOP_SCRIPT, REGTEST), confirms=1)).text)

    async with trio.open_nursery() as callers:
        for _ in range(20):
            callers.start_soon(ask)
    assert answers == ['{"confirmed": 0.0003, "unconfirmed": 0.0}'] * 20
    assert story.server.calls["blockchain.scripthash.get_history"] == 1
