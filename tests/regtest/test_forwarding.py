"""Forwarding on real nodes and servers: with shares, with rising fees, and from the words alone."""

import hashlib
import hmac
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
from embit import base58

from lightipn.bitcoin.network import REGTEST
from lightipn.forwarding.seed import addresses_of, new_words
from tests.regtest.calls import answer_of
from tests.regtest.feed import service_options
from tests.regtest.forwarding import (
    FORWARDS,
    OK,
    Keeper,
    bind,
    forwarding_options,
    make_forward,
    transfers_of,
    wait_callbacks,
    wait_logged,
)
from tests.regtest.nodes import Bitcoind
from tests.regtest.own_node import Source
from tests.regtest.shop import Shop
from tests.service_process import ServiceProcess

pytestmark = pytest.mark.slow
AMOUNT_SAT = 1_000_000


async def started(service: ServiceProcess) -> None:
    """Start a service whose words are new."""
    await bind(service)
    await service.start()
    await service.wait_ready()


async def test_payment_is_passed_on_with_a_share_and_told(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """At its first confirmation a payment goes to the destination, a part of it to the process address."""
    shop.policy = OK
    service = ServiceProcess(tmp_path / "ipn", forwarding_options(tmp_path / "ipn", source))
    keeper = Keeper(bitcoind, await bitcoind.height() + 1)
    destination, process = await bitcoind.new_address("bech32m"), await bitcoind.new_address("legacy")
    try:
        await started(service)
        made = await make_forward(
            service,
            destination,
            callback_url=shop.url,
            process_fees_address=process,
            process_fees_percent=0.01,
            enable_confirmations=True,
        )
        payment = await keeper.pay(made["input_address"], AMOUNT_SAT)
        await wait_logged(service, "payment.seen", payment)
        assert await keeper.spends() == []
        await bitcoind.mine(1)
        txid = await keeper.wait_spent()
        await wait_callbacks(shop, 1)
        await bitcoind.mine(2)
        bodies = await wait_callbacks(shop, 3)
        [mined] = await keeper.spends()
        shown = await answer_of(service, "GET", f"{FORWARDS}/{made['id']}?token={service.key}", key="")
        assert await service.stop() == 0
    finally:
        end(service)
    assert mined.txid == txid
    assert mined.outputs == {destination: 990_000 - mined.fee_sat, process: 10_000}
    told = {
        "value": 990_000 - mined.fee_sat,
        "input_address": made["input_address"],
        "destination": destination,
        "input_transaction_hash": payment,
        "transaction_hash": txid,
    }
    assert bodies == [told, told | {"confirmations": 1}, told | {"confirmations": 2}]
    assert (shown["txs"], shown["transactions"]) == ([txid], [txid])


async def test_stuck_transfer_pays_more_until_it_is_mined(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """While blocks leave it out, a transfer is replaced by dearer versions of the same coins; one of them is mined."""
    shop.policy = OK
    options = forwarding_options(tmp_path / "ipn", source, forwarding_bump_after_blocks=2)
    service = ServiceProcess(tmp_path / "ipn", options)
    keeper = Keeper(bitcoind, await bitcoind.height() + 1)
    destination = await bitcoind.new_address()
    seen: list[str] = [""]
    try:
        await started(service)
        made = await make_forward(service, destination, callback_url=shop.url)
        for amount_sat in (AMOUNT_SAT, AMOUNT_SAT + 1, AMOUNT_SAT + 2):
            await keeper.pay(made["input_address"], amount_sat)
        await bitcoind.mine(1)
        for _ in range(4):
            seen.append(await keeper.wait_spent(by_other_than=seen[-1]))
            await wait_callbacks(shop, 3 * (len(seen) - 1))
            if len(seen) < 5:
                await keeper.mine_nothing(2)
        await bitcoind.mine(1)
        [mined] = await keeper.spends()
        await wait_logged(service, "payment.confirmed", mined.txid)
        [transfer] = transfers_of(service)
        assert await service.stop() == 0
    finally:
        end(service)
    assert mined.txid == seen[-1]
    assert mined.height is not None
    assert mined.outputs == {destination: 3 * AMOUNT_SAT + 3 - mined.fee_sat}
    assert [version["txid"] for version in transfer["versions"]] == seen[1:]
    fees = [version["fee_sat"] for version in transfer["versions"]]
    assert fees == sorted(set(fees))
    assert mined.fee_sat == fees[-1]
    assert transfer["trouble"] == ""


def end(service: ServiceProcess) -> None:
    """Leave no process behind."""
    if service.process is not None and service.process.poll() is None:
        service.kill()


# --- from the words alone ----------------------------------------------------------------------------------------


async def test_words_alone_bring_every_coin_back(bitcoind: Bitcoind, source: Source, tmp_path: Path) -> None:
    """A new database, the words on stdin and a sweep: every coin at the addresses of the words is passed on."""
    words = new_words()
    keeper = Keeper(bitcoind, await bitcoind.height() + 1)
    for index in (0, 1, 1, 7):
        await keeper.pay(addresses_of(words, REGTEST).address_at(index).text, 50_000 + index)
    await bitcoind.mine(1)
    await source.wait_tip()
    destination = await bitcoind.new_address()
    folder = tmp_path / "new"
    folder.mkdir()
    service = ServiceProcess(folder, service_options(source, forwarding_seed_file=folder / "forwarding.seed"))
    try:
        done = run_with_input(service, words.upper(), "forwarding", "recover", "--count", "30")
        assert (done.returncode, done.stdout.strip()) == (0, "30 addresses are watched anew, of 30.")
        assert not set(words.split()) & set(f"{done.stdout} {done.stderr}".split())
        await service.start()
        await service.wait_ready()
        for payment, _ in keeper.payments:
            await wait_logged(service, "payment.confirmed", payment)
        assert service.cli("forwarding", "sweep", "--to", destination).returncode == 0
        await keeper.wait_spent()
        await bitcoind.mine(1)
        [mined] = await keeper.spends()
        made = await make_forward(service, destination)
        assert await service.stop() == 0
    finally:
        end(service)
    assert mined.spends == keeper.payments.keys()
    assert mined.outputs == {destination: sum(keeper.payments.values()) - mined.fee_sat}
    assert made["input_address"] == addresses_of(words, REGTEST).address_at(30).text


def run_with_input(service: ServiceProcess, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that reads a line."""
    return subprocess.run(
        service.command(*arguments),
        env=service.environment,
        cwd=service.folder,
        input=f"{text}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def master_key_of(words: str) -> str:
    """Return the master key of recovery words as BIP-39 and BIP-32 say, with nothing but hashes."""
    seed = hashlib.pbkdf2_hmac("sha512", words.encode(), b"mnemonic", 2048)
    digest = hmac.digest(b"Bitcoin seed", seed, "sha512")
    return str(base58.encode_check(bytes.fromhex("04358394") + bytes(9) + digest[32:] + b"\x00" + digest[:32]))


async def test_another_wallet_finds_the_coins_by_the_words(bitcoind: Bitcoind, source: Source, tmp_path: Path) -> None:
    """Bitcoind, given the words' master key and the documented path, derives the same addresses and owns the coins."""
    words = new_words()
    service = ServiceProcess(tmp_path / "ipn", forwarding_options(tmp_path / "ipn", source, words=words))
    destination = await bitcoind.new_address()
    try:
        await started(service)
        given = [(await make_forward(service, destination))["input_address"] for _ in range(3)]
        assert await service.stop() == 0
    finally:
        end(service)
    text = f"wpkh({master_key_of(words)}/84h/1h/0h/0/*)"
    found: dict[str, Any] = await bitcoind.rpc("getdescriptorinfo", text)
    descriptor = f"{text}#{found['checksum']}"
    wallet = f"words-{given[0][-8:]}"
    await bitcoind.rpc("createwallet", wallet_name=wallet, blank=True)
    request = {"desc": descriptor, "timestamp": "now", "range": [0, 9], "active": False}
    [imported] = await bitcoind.rpc("importdescriptors", [request], wallet=wallet)
    assert imported["success"] or bitcoind.is_pruned  # which cannot look back, and says so: what comes it will see
    assert await bitcoind.rpc("deriveaddresses", descriptor, [0, 2]) == given
    await bitcoind.send(given[2], AMOUNT_SAT)
    await bitcoind.mine(1)
    with trio.fail_after(20):
        sent = await bitcoind.rpc("sendall", [destination], wallet=wallet)
    assert sent["complete"]
    await bitcoind.rpc("unloadwallet", wallet, wallet=wallet)
