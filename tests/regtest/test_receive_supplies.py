"""Addresses given away by a real service: many callers at once, power cuts, a wallet that was used, private keys."""

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trio
from embit import bip32

from tests.clients.accounts import Account, new_account
from tests.regtest.calls import PLAIN, answer_of, curl
from tests.regtest.feed import LOOK_AGAIN_S, WAIT_S, service_options
from tests.regtest.nodes import Bitcoind
from tests.regtest.own_node import Source
from tests.regtest.shop import Shop
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
MANY = 100
KILLS = 5
CALLERS = 8
GAP_LIMIT = 1000


def receive_path(account: Account, callback: str, key: str) -> str:
    """Return the path and query of a call for an address."""
    return f"/v2/receive?xpub={account.key}&callback={quote(callback, safe='')}&key={key}&gap_limit={GAP_LIMIT}"


async def test_many_calls_at_once_have_different_addresses(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """A hundred calls at once for a key never used have the account's first hundred addresses, each once."""
    account = new_account(is_segwit=True)
    found: list[dict[str, Any]] = []
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:

        async def call(number: int) -> None:
            path = receive_path(account, f"{shop.url}/ipn?order={number}", service.key)
            found.append(await answer_of(service, "GET", path, key=""))

        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(call, number)
        addresses = await account.addresses(bitcoind, MANY)
        found.sort(key=lambda item: int(item["index"]))
        assert [item["index"] for item in found] == list(range(MANY))
        assert [item["address"] for item in found] == addresses
        assert {item["callback"] for item in found} == {f"{shop.url}/ipn?order={number}" for number in range(MANY)}

        # Each is watched: a payment to one in the middle is told to the URL that it was given to.
        middle = found[MANY // 2]
        txid = await bitcoind.send(middle["address"], 10_000)
        request = await shop.wait_for(lambda request: request.query["transaction_hash"] == txid, 20)
        assert f"{shop.url}/ipn?order={request.query['order']}" == middle["callback"]
        gap = await answer_of(service, "GET", f"/v2/receive/checkgap?xpub={account.key}")
        assert gap == {"gap": MANY - 1 - MANY // 2}
        assert await service.stop() == 0


async def test_killed_while_addresses_are_given_it_gives_none_twice(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """Killed at random moments of calls at once, it gives no index twice, and knows each one that it answered."""
    chance = random.Random(4)
    account = new_account(is_segwit=True)
    answered: list[dict[str, Any]] = []
    service = ServiceProcess(tmp_path / "lightipn", service_options(source))

    async def call_for_ever(number: int) -> None:
        with suppress(httpx.TransportError):
            while True:
                path = receive_path(account, f"{shop.url}/ipn?caller={number}", service.key)
                answer = await curl(service, "GET", path)
                if answer.status_code == 200:
                    answered.append(answer.json())
                else:  # nobody is there to ask about the chain yet
                    assert answer.status_code == 503, answer.text

    try:
        await service.start()
        await service.wait_ready()
        await answer_of(service, "GET", receive_path(account, f"{shop.url}/first", service.key), key="")
        for _ in range(KILLS):
            before = len(answered)
            async with trio.open_nursery() as nursery:
                for number in range(CALLERS):
                    nursery.start_soon(call_for_ever, number)
                with trio.fail_after(WAIT_S):
                    while len(answered) < before + CALLERS:
                        await trio.sleep(0.001)
                await trio.sleep(chance.uniform(0, 0.1))
                service.kill()
            await service.start()
        await service.wait_ready()
        last = await answer_of(service, "GET", receive_path(account, f"{shop.url}/last", service.key), key="")
        indexes = [item["index"] for item in answered]
        assert len(set(indexes)) == len(indexes) >= KILLS * CALLERS
        assert last["index"] > max(indexes)
        addresses = await account.addresses(bitcoind, last["index"] + 1)
        assert [item["address"] for item in answered] == [addresses[index] for index in indexes]
        # What the database holds: every index once, and for each that was answered the URL it was given to.
        [supply] = [item for item in json.loads(service.cli("xpub", "list", "--json").stdout) if item["next_index"]]
        listed = json.loads(service.cli("xpub", "addresses", str(supply["id"]), "--limit", "9999", "--json").stdout)
        assert sorted(item["index"] for item in listed) == list(range(last["index"] + 1))
        urls = {item["index"]: item["url"] for item in listed}
        assert {item["index"]: item["callback"] for item in answered}.items() <= urls.items()
        assert await service.stop() == 0
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()


async def test_wallet_that_was_used_goes_on_behind_its_last_address(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """The first address given is the one behind the highest that was ever paid, across a gap of unused ones."""
    account = new_account(is_segwit=True)
    addresses = await account.addresses(bitcoind, 25)
    for index in (2, 20):
        await bitcoind.send(addresses[index], 10_000)
    await bitcoind.mine(1)
    await source.wait_tip()
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        made = await answer_of(service, "GET", receive_path(account, shop.url, service.key), key="")
        assert (made["index"], made["address"]) == (21, addresses[21])
        assert await answer_of(service, "GET", f"/v2/receive/checkgap?xpub={account.key}") == {"gap": 1}
        assert shop.requests == []
        assert await service.stop() == 0


async def index_once_served(service: ServiceProcess, path: str) -> int:
    """Ask for an address until a server is there, and return its index; meanwhile every answer is a 503."""
    with trio.fail_after(WAIT_S):
        while (answer := await curl(service, "GET", path)).status_code == 503:
            await trio.sleep(LOOK_AGAIN_S)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["index"])


async def test_without_a_server_no_index_is_given(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """While no server answers a call gets a 503, for a key never used and for one in use, and no index is used up."""
    account = new_account(is_segwit=True)
    async with open_service(tmp_path / "lightipn", service_options(private_source)) as service:
        private_source.kill()
        path = receive_path(account, shop.url, service.key)
        refused = await answer_of(service, "GET", path, status=503, key="")
        assert list(refused) == ["message", "description"]
        # The first where it is not noticed yet that the server is gone.
        assert refused["message"] in ("xpub is being scanned", "Service is not ready")
        await private_source.start()
        assert await index_once_served(service, path) == 0

        private_source.kill()
        with trio.fail_after(WAIT_S):
            while "unavailable" not in (await service.call("/readyz")).text:
                await trio.sleep(LOOK_AGAIN_S)
        refused = await answer_of(service, "GET", path, status=503, key="")
        assert list(refused) == ["message", "description"]
        await private_source.start()
        assert await index_once_served(service, path) == 1
        assert await service.stop() == 0


def private_spellings() -> Iterator[str]:
    """Yield private keys as a shop may paste them by mistake."""
    root = bip32.HDKey.from_seed(b"a private account of a test", version=bytes.fromhex("04358394"))
    account = root.derive("m/84h/1h/0h")
    yield account.to_base58()
    yield account.to_base58(version=bytes.fromhex("045f18bc"))  # vprv
    yield f"wpkh([{account.my_fingerprint.hex()}/84h/1h/0h]{account.to_base58()}/0/*)"
    yield account.key.wif()


async def test_private_keys_are_refused_and_kept_nowhere(source: Source, tmp_path: Path, shop: Shop) -> None:
    """A private key is refused, and not a part of it is in the answer, the log or the database."""
    folder = tmp_path / "lightipn"
    async with open_service(folder, service_options(source)) as service:
        callback = quote(f"{shop.url}/ipn", safe="")
        for text in private_spellings():
            core = max(text.replace("/", " ").replace("]", " ").split(), key=len)
            query = f"xpub={quote(text, safe='')}&callback={callback}&key={service.key}"
            data = json.dumps({"key": service.key, "xpub": text, "callback": f"{shop.url}/ipn"})
            answers = [
                await curl(service, "GET", f"/v2/receive?{query}"),
                await curl(service, "GET", f"/v2/receive/checkgap?{query}"),
                await curl(service, "POST", "/v2/receive", headers=PLAIN, data=data),
            ]
            for answer in answers:
                assert answer.status_code == 400
                assert list(answer.json()) == ["message", "description"]
                assert answer.json()["message"] == "Problem with xpub"
                assert core[:16] not in answer.text
        assert await service.stop() == 0
    written = b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())
    assert b"app.service_started" in written  # the log is among them
    assert b"CREATE TABLE" in written  # and the database
    for text in private_spellings():
        core = max(text.replace("/", " ").replace("]", " ").split(), key=len)
        for start in range(0, len(core) - 16, 8):
            assert core[start : start + 16].encode() not in written
