"""Stories on real nodes and servers, with LightIPN in a process of its own."""

import random
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
import trio

from tests.regtest.feed import service_options
from tests.regtest.nodes import AddressKind, Bitcoind
from tests.regtest.own_node import Source
from tests.regtest.shop import Shop, ShopRequest, echo, failure
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
WAIT_S = 20
KINDS: tuple[AddressKind, ...] = ("legacy", "p2sh-segwit", "bech32", "bech32m", "p2wsh")


def said_of(answer: httpx.Response) -> str:
    """Return the totals of an answer to the letter; a pruned node adds from which block on it knows them."""
    return re.sub(r', "history_from": \d+', "", answer.text)


@pytest.fixture
async def service(source: Source, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    """A running LightIPN."""
    async with open_service(tmp_path / "lightipn", service_options(source)) as running:
        yield running


async def wait_totals(shop: Shop, address: str, confirmed: str, unconfirmed: str) -> ShopRequest:
    """Wait until the shop was told these totals of an address."""
    wanted = {"address": address, "confirmed": confirmed, "unconfirmed": unconfirmed}
    return await shop.wait_for(lambda request: request.form == wanted, WAIT_S)


@pytest.mark.parametrize("kind", KINDS)
async def test_payment_is_told_at_zero_confirmations_and_counts_as_confirmed_at_three(
    bitcoind: Bitcoind, service: ServiceProcess, shop: Shop, kind: AddressKind
) -> None:
    """A payment to each address type is told unconfirmed at once, and confirmed at its third confirmation."""
    address = await bitcoind.new_address(kind)
    await service.subscribe(address, shop.url)
    await bitcoind.send(address, 1_234_567)
    await wait_totals(shop, address, "0.0", "0.01234567")

    for confirmations in (1, 2, 3):
        await bitcoind.mine(1)
        with trio.fail_after(WAIT_S):
            while True:
                answer = await service.call("/btc", address=address, confirms=confirmations)
                if said_of(answer) == '{"confirmed": 0.01234567, "unconfirmed": 0.0}':
                    break
                await trio.sleep(0.05)
        deeper = await service.call("/btc", address=address, confirms=confirmations + 1)
        assert said_of(deeper) == '{"confirmed": 0.0, "unconfirmed": 0.01234567}'
        if confirmations < 3:
            assert not shop.matching(lambda request: request.form["confirmed"] != "0.0")
    await wait_totals(shop, address, "0.01234567", "0.0")

    assert len(shop.requests) == 2


async def test_address_that_was_paid_before_is_told_when_subscribed(
    bitcoind: Bitcoind, source: Source, service: ServiceProcess, shop: Shop
) -> None:
    """An address with a history is looked up and proved: its totals are answered, and told to a new subscriber."""
    address = await bitcoind.new_address()
    await bitcoind.send(address, 50_000)
    await bitcoind.mine(3)
    await source.wait_tip()

    answer = await service.call("/btc", address=address)
    assert said_of(answer) == '{"confirmed": 0.0005, "unconfirmed": 0.0}'
    await service.subscribe(address.upper(), shop.url)
    await wait_totals(shop, address, "0.0005", "0.0")


async def test_reorg_changes_the_totals_back_and_forth(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """A payment that loses its block to a longer branch is unconfirmed again, and confirmed on the new branch."""
    bitcoind = private_bitcoind
    async with open_service(tmp_path / "lightipn", service_options(private_source)) as service:
        address = await bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=2)
        await bitcoind.send(address, 700_000)
        await wait_totals(shop, address, "0.0", "0.007")
        await bitcoind.mine(2)
        await wait_totals(shop, address, "0.007", "0.0")

        await bitcoind.reorg(2, with_transactions=False)
        await shop.wait_for(lambda request: request.form["confirmed"] == "0.0", WAIT_S, count=2)
        await bitcoind.mine(2)
        await shop.wait_for(lambda request: request.form["confirmed"] == "0.007", WAIT_S, count=2)

        told = [(request.form["confirmed"], request.form["unconfirmed"]) for request in shop.requests]
        assert told == [("0.0", "0.007"), ("0.007", "0.0"), ("0.0", "0.007"), ("0.007", "0.0")]


async def test_bumped_fee_does_not_count_twice(bitcoind: Bitcoind, service: ServiceProcess, shop: Shop) -> None:
    """A payment replaced by one with a higher fee counts once, unconfirmed and confirmed, and never flickers."""
    address = await bitcoind.new_address()
    await service.subscribe(address, shop.url, max_confirms=1)
    txid = await bitcoind.send(address, 300_000, fee_rate=2)
    await wait_totals(shop, address, "0.0", "0.003")

    await bitcoind.bump_fee(txid)
    await bitcoind.mine(1)
    await wait_totals(shop, address, "0.003", "0.0")

    told = {(request.form["confirmed"], request.form["unconfirmed"]) for request in shop.requests}
    assert told == {("0.0", "0.003"), ("0.003", "0.0")}


async def test_payment_while_the_source_is_away_is_told_when_it_is_back(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """What happens while the source does not answer is told when it does; meanwhile the service is not ready."""
    async with open_service(tmp_path / "lightipn", service_options(private_source)) as service:
        address = await private_bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        private_source.kill()
        await private_bitcoind.send(address, 10_000)
        with trio.fail_after(WAIT_S):
            while "unavailable" not in (await service.call("/readyz")).text:
                await trio.sleep(0.05)
        assert (await service.call("/healthz")).status_code == 200

        await private_source.start()
        await wait_totals(shop, address, "0.0", "0.0001")
        await private_bitcoind.mine(1)
        await wait_totals(shop, address, "0.0001", "0.0")
        await service.wait_ready()


async def test_shop_that_was_down_is_told_the_newest_totals(
    bitcoind: Bitcoind, service: ServiceProcess, shop: Shop
) -> None:
    """A shop that fails is asked again until it echoes, always with the newest totals, and then left alone."""
    address = await bitcoind.new_address()
    shop.policy = failure
    await service.subscribe(address, shop.url, max_confirms=1)
    await bitcoind.send(address, 1_000)
    await wait_totals(shop, address, "0.0", "0.00001")
    await bitcoind.send(address, 2_000)
    await wait_totals(shop, address, "0.0", "0.00003")
    shop.policy = echo
    before = len(shop.requests)
    await shop.wait_for(lambda request: request.form["unconfirmed"] == "0.00003", WAIT_S, count=2)

    with trio.fail_after(WAIT_S):
        while '"state": "acknowledged"' not in service.cli("delivery", "list", "--json").stdout:
            await trio.sleep(0.1)
    assert [request.form["unconfirmed"] for request in shop.requests[before:]] == ["0.00003"]


async def test_killed_at_random_moments_it_never_tells_a_wrong_total(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """Killed ten times while payments flow, the service tells no wrong total, and in the end the right ones."""
    chance = random.Random(20261122)
    service = ServiceProcess(tmp_path / "lightipn", service_options(source))
    await service.start()
    addresses = [await bitcoind.new_address(kind) for kind in KINDS]
    paid_sat = dict.fromkeys(addresses, 0)
    # Every total that was ever true: amounts differ, so each sum names one state of the address.
    true_totals = {address: {0} for address in addresses}
    for address in addresses:
        await service.subscribe(address, f"{shop.url}/{address}", max_confirms=1)
    amount_sat = 1_000
    try:
        for _ in range(10):
            for _ in range(3):
                address = chance.choice(addresses)
                amount_sat = amount_sat * 2 + 7 if amount_sat < 10_000_000 else 1_111
                paid_sat[address] += amount_sat
                true_totals[address].add(paid_sat[address])
                await bitcoind.send(address, amount_sat)
                await trio.sleep(chance.uniform(0, 0.3))
            if chance.random() < 0.5:
                await bitcoind.mine(1)
            await trio.sleep(chance.uniform(0, 0.5))
            service.kill()
            await trio.sleep(chance.uniform(0, 0.2))
            await service.start()
        await bitcoind.mine(1)
        for address in addresses:
            if paid_sat[address]:
                await wait_totals(shop, address, _btc(paid_sat[address]), "0.0")
        assert await service.stop() == 0
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()

    for request in shop.requests:
        total_sat = int((Decimal(request.form["confirmed"]) + Decimal(request.form["unconfirmed"])) * 10**8)
        assert total_sat in true_totals[request.form["address"]], request.form


def _btc(amount_sat: int) -> str:
    """Print satoshis as the dialect does."""
    text = f"{Decimal(amount_sat).scaleb(-8):f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


async def test_stops_cleanly_and_starts_where_it_was(bitcoind: Bitcoind, service: ServiceProcess, shop: Shop) -> None:
    """SIGTERM ends the service with exit code 0, and the next start tells nothing that was told before."""
    address = await bitcoind.new_address()
    await service.subscribe(address, shop.url, max_confirms=1)
    await bitcoind.send(address, 5_000)
    await bitcoind.mine(1)
    await wait_totals(shop, address, "0.00005", "0.0")
    with trio.fail_after(WAIT_S):
        while '"state": "acknowledged"' not in service.cli("delivery", "list", "--json").stdout:
            await trio.sleep(0.1)
    assert await service.stop() == 0
    count = len(shop.requests)

    await service.start()
    await service.wait_ready()

    assert said_of(await service.call("/btc", address=address)) == '{"confirmed": 0.0, "unconfirmed": 0.00005}'
    answer = await service.call("/btc", address=address, confirms=1)
    assert said_of(answer) == '{"confirmed": 0.00005, "unconfirmed": 0.0}'
    assert len(shop.requests) == count
    assert await service.stop() == 0
