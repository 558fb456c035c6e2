"""Receivers as real shops have them live well with how Receive Payments V2 calls them."""

import secrets

import pytest

from tests.clients.accounts import new_account
from tests.clients.receivers import PhpReceiver
from tests.regtest.nodes import Bitcoind
from tests.regtest.shop import Shop, ShopAnswer, ShopRequest
from tests.service_process import ServiceProcess

pytestmark = pytest.mark.slow
WAIT_S = 20


@pytest.fixture
def php(shop: Shop) -> PhpReceiver:
    """A receiver like the PHP example, open as the shop."""
    receiver = PhpReceiver(secret=secrets.token_hex(8))
    shop.policy = receiver
    return receiver


async def give_address(service: ServiceProcess, url: str, key: str) -> str:
    """Get an address as PHP shops do, with all in the query."""
    answer = await service.call("/v2/receive", xpub=key, callback=url, key=service.key)
    assert next(iter(answer.json())) != "message", answer.text
    return answer.json()["address"]


def confirmations_of(shop: Shop, invoice: str) -> list[int]:
    """Return with how many confirmations the shop was called for an invoice, in order."""
    return [
        int(request.query["confirmations"])
        for request in shop.matching(lambda request: request.query["invoice_id"] == invoice)
    ]


async def wait_called(shop: Shop, invoice: str, confirmations: int, *, count: int = 1) -> ShopRequest:
    """Wait until the shop was called for an invoice with so many confirmations."""
    wanted = {"invoice_id": invoice, "confirmations": str(confirmations)}
    return await shop.wait_for(lambda request: wanted.items() <= request.query.items(), WAIT_S, count=count)


async def test_receiver_that_says_ok_at_four_confirmations_is_called_with_each_block_until_then(
    bitcoind: Bitcoind, service: ServiceProcess, shop: Shop, php: PhpReceiver
) -> None:
    """An unacknowledged payment is told once at each block, and never after ``*ok*``; its value is booked once.

    A second invoice, paid two blocks later, shows that blocks after the first one's ``*ok*`` were told at all.
    """
    account = new_account(is_segwit=True)
    first = await give_address(service, f"{shop.url}/callback.php?invoice_id=1&secret={php.secret}", account.key)
    second = await give_address(service, f"{shop.url}/callback.php?invoice_id=2&secret={php.secret}", account.key)
    first_txid = await bitcoind.send(first, 70_000)
    await wait_called(shop, "1", 0)
    for confirmations in (1, 2):
        await bitcoind.mine(1)
        await wait_called(shop, "1", confirmations)
    assert (php.pending, php.paid) == ({("1", first_txid): 70_000}, {})
    second_txid = await bitcoind.send(second, 90_000)
    await wait_called(shop, "2", 0)
    for confirmations in (1, 2, 3, 4):
        await bitcoind.mine(1)
        await wait_called(shop, "2", confirmations)

    assert confirmations_of(shop, "1") == [0, 1, 2, 3, 4]
    assert confirmations_of(shop, "2") == [0, 1, 2, 3, 4]
    assert (php.pending, php.paid) == ({}, {("1", first_txid): 70_000, ("2", second_txid): 90_000})


async def test_second_payment_to_the_same_address_is_told_after_the_first_one_was_ok(
    bitcoind: Bitcoind, service: ServiceProcess, shop: Shop, php: PhpReceiver
) -> None:
    """``*ok*`` ends the calls for one transaction; a later one to the same address is told by itself."""
    account = new_account(is_segwit=False)
    address = await give_address(service, f"{shop.url}/callback.php?invoice_id=3&secret={php.secret}", account.key)
    first_txid = await bitcoind.send(address, 10_000)
    await wait_called(shop, "3", 0)
    await bitcoind.mine(4)
    await wait_called(shop, "3", 4)
    second_txid = await bitcoind.send(address, 20_000)
    await wait_called(shop, "3", 0, count=2)
    await bitcoind.mine(4)
    await wait_called(shop, "3", 4, count=2)

    told = {request.query["transaction_hash"] for request in shop.requests}
    assert told == {first_txid, second_txid}
    # Blocks that come together may be told together: the last call of each is the only sure one.
    after_ok = confirmations_of(shop, "3")
    assert after_ok[after_ok.index(4) + 1] == 0
    assert php.paid == {("3", first_txid): 10_000, ("3", second_txid): 20_000}


async def test_receiver_counts_nothing_that_comes_with_a_wrong_secret(
    bitcoind: Bitcoind, service: ServiceProcess, shop: Shop, php: PhpReceiver
) -> None:
    """The URL is called as it was registered: one with a guessed secret books nothing, and is not ``*ok*`` either."""
    account = new_account(is_segwit=True)
    guessed = await give_address(service, f"{shop.url}/callback.php?invoice_id=4&secret=guessed", account.key)
    honest = await give_address(service, f"{shop.url}/callback.php?invoice_id=5&secret={php.secret}", account.key)
    await bitcoind.send(guessed, 50_000)
    honest_txid = await bitcoind.send(honest, 60_000)
    for confirmations in (0, 1, 2, 3, 4):
        if confirmations:
            await bitcoind.mine(1)
        await wait_called(shop, "5", confirmations)
        await wait_called(shop, "4", confirmations)
    await bitcoind.mine(1)
    await wait_called(shop, "4", 5)

    assert confirmations_of(shop, "4") == [0, 1, 2, 3, 4, 5]
    assert confirmations_of(shop, "5") == [0, 1, 2, 3, 4]
    assert php.paid == {("5", honest_txid): 60_000}


async def test_receiver_that_was_down_is_called_again_with_the_confirmations_of_then(
    bitcoind: Bitcoind, service: ServiceProcess, shop: Shop, php: PhpReceiver
) -> None:
    """A receiver that answers 500 is called again with the next block, and told what is true then."""
    account = new_account(is_segwit=True)
    shop.policy = lambda request: ShopAnswer(status=500, body=b"*ok*")
    address = await give_address(service, f"{shop.url}/callback.php?invoice_id=6&secret={php.secret}", account.key)
    txid = await bitcoind.send(address, 30_000)
    await wait_called(shop, "6", 0)
    await bitcoind.mine(1)
    await wait_called(shop, "6", 1)
    shop.policy = php
    for confirmations in (2, 3, 4):
        await bitcoind.mine(1)
        await wait_called(shop, "6", confirmations)

    assert confirmations_of(shop, "6") == [0, 1, 2, 3, 4]
    assert php.paid == {("6", txid): 30_000}
