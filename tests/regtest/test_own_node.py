"""One's own bitcoind as the source: when it cannot be used, what it does not have, and how one changes over."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.regtest.feed import (
    LOOK_AGAIN_S,
    WAIT_S,
    assert_lawful,
    kinds_of,
    matching,
    service_options,
    wait_event,
    wait_events,
    wait_told,
)
from tests.regtest.nodes import KEPT_BLOCKS, Bitcoind, NodeError, free_port, open_bitcoind, open_electrumx
from tests.regtest.own_node import OwnNode
from tests.regtest.rivals import make_coins, publish, sign_payment
from tests.regtest.shop import Shop
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
AMOUNT_SAT = 1_000_000


@pytest.fixture(scope="session")
def backend() -> str:
    """The node itself; how Electrum servers do is told elsewhere."""
    return "pruned-node"


async def wait_reason(service: ServiceProcess, words: str) -> None:
    """Wait until ``/readyz`` is 503 and its reason has these words."""
    shown = ""
    with trio.move_on_after(40):
        while words not in shown:
            await trio.sleep(LOOK_AGAIN_S)
            answer = await service.call("/readyz")
            shown = answer.json()["reason"] if answer.status_code == 503 else "ready"
        return
    raise TimeoutError(f"the reason is not {words!r}, but {shown!r}")


async def wait_alarm(service: ServiceProcess, words: str) -> None:
    """Wait until what ``lightipn status`` says last is an alarm with these words."""
    last = ""
    with trio.move_on_after(WAIT_S):
        while not (last.startswith("ALARM") and words in last):
            await trio.sleep(LOOK_AGAIN_S)
            last = service.cli("status").stdout.strip().splitlines()[-1]
        return
    raise TimeoutError(f"no alarm with {words!r}, but {last!r}")


@asynccontextmanager
async def starting_service(folder: Path, options: dict[str, str]) -> AsyncIterator[ServiceProcess]:
    """Start a service that need not become ready, and end it in the end."""
    service = ServiceProcess(folder, options)
    try:
        await service.start()
        yield service
        assert await service.stop() == 0
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()


# --- a node that cannot be used ----------------------------------------------------------------------------------


async def test_each_trouble_of_the_node_is_shown_and_over_when_it_is(
    private_bitcoind: Bitcoind, tmp_path: Path, shop: Shop
) -> None:
    """Locked out, gone, or back: ``/readyz`` and ``status`` name the state, and what was paid meanwhile is told."""
    node = OwnNode(private_bitcoind, tmp_path / "own-node")
    async with open_service(tmp_path / "lightipn", service_options(node)) as service:
        checked = service.cli("server", "check", "--json")
        assert (checked.returncode, json.loads(checked.stdout)[0]["verdict"]) == (0, "good")
        assert private_bitcoind.url in service.cli("check-config").stdout
        address = await private_bitcoind.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        node.kill()
        await wait_reason(service, "wrong-password")
        await wait_alarm(service, "wrong-password")
        txid = await private_bitcoind.send(address, AMOUNT_SAT)
        await private_bitcoind.mine(1)
        await node.start()
        await wait_event(service, kind="payment.confirmed", txid=txid, deadline_s=40)
        await service.wait_ready()

        await private_bitcoind.stop()
        await wait_reason(service, "no-cookie-file")  # the node takes its cookie with it
        node.kill()
        await wait_reason(service, "unreachable")
        await wait_alarm(service, "unreachable")
        await private_bitcoind.start()
        await node.start()
        await service.wait_ready(deadline_s=60)
        later = await private_bitcoind.send(address, 2 * AMOUNT_SAT)
        await wait_event(service, kind="payment.seen", txid=later, trust="own-node")
        events = await service.events()
        assert_lawful(events)
        assert kinds_of(events, txid) in (["confirmed"], ["seen", "confirmed"])
        await wait_told(shop, address, "0.01", "0.02")
        assert "Traceback" not in service.output.read_text()


async def test_node_on_another_chain_is_not_used(private_bitcoind: Bitcoind, tmp_path: Path) -> None:
    """A service for one network says that the node is on another one, and takes nothing from it."""
    node = OwnNode(private_bitcoind, tmp_path / "own-node")
    options = service_options(node) | {"LIGHTIPN_NETWORK": "signet"}
    async with starting_service(tmp_path / "lightipn", options) as service:
        await wait_reason(service, "wrong-chain: it is on 'regtest', want signet")
        checked = service.cli("server", "check", "--json")
        assert (checked.returncode, json.loads(checked.stdout)[0]["verdict"]) == (1, "unavailable")
        assert "wrong-chain" in checked.stdout
        assert not [one for one in service.log_events() if one["event"].startswith("tracker.")]


async def test_node_in_its_initial_download_shows_its_progress(
    programs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has not got the chain yet is not relied on, and how far it is stands in the reason."""

    async def prepare_nothing(_: Bitcoind) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Bitcoind, "prepare", prepare_nothing)
    async with open_bitcoind(tmp_path / "bitcoind", is_pruned=True) as bitcoind:
        node = OwnNode(bitcoind, tmp_path / "own-node")
        async with starting_service(tmp_path / "lightipn", service_options(node)) as service:
            await wait_reason(service, "initial-download: it has no headers yet")
            await bitcoind.rpc("createwallet", wallet_name="receiver")
            await bitcoind.mine(1)
            await service.wait_ready()


async def test_node_that_is_busy_is_asked_again(programs: None, tmp_path: Path, shop: Shop) -> None:
    """While others fill the node's queue of calls its state says so, and nothing is lost."""
    options = ["-rpcthreads=1", "-rpcworkqueue=1"]
    async with open_bitcoind(tmp_path / "bitcoind", options=options, is_pruned=True) as bitcoind:
        node = OwnNode(bitcoind, tmp_path / "own-node")
        async with (
            open_service(tmp_path / "lightipn", service_options(node)) as service,
            trio.open_nursery() as nursery,
        ):

            async def occupy() -> None:
                while True:
                    with suppress(NodeError, json.JSONDecodeError):  # the queue is full for it as well
                        await bitcoind.rpc("waitfornewblock", 3000)
                    await trio.sleep(LOOK_AGAIN_S)

            address = await bitcoind.new_address()
            await service.subscribe(address, shop.url, max_confirms=1)
            for _ in range(4):
                nursery.start_soon(occupy)
            with trio.fail_after(40):
                while not [one for one in service.log_events() if one.get("reason") == "work-queue-exceeded"]:
                    await trio.sleep(LOOK_AGAIN_S)
            nursery.cancel_scope.cancel()
        async with open_service(tmp_path / "lightipn", service_options(node)) as service:
            txid = await bitcoind.send(address, AMOUNT_SAT)
            await wait_event(service, kind="payment.seen", txid=txid)


# --- what it does not have any more, or never had ----------------------------------------------------------------


async def test_blocks_that_were_pruned_before_they_were_seen(
    private_bitcoind: Bitcoind, tmp_path: Path, shop: Shop
) -> None:
    """After a pause longer than the node keeps blocks, what is unspent is found, and all histories say they are cut."""
    node = OwnNode(private_bitcoind, tmp_path / "own-node")
    service = ServiceProcess(tmp_path / "lightipn", service_options(node))
    async with open_service(service.folder, service.environment) as running:
        address = await private_bitcoind.new_address()
        await running.subscribe(address, shop.url, max_confirms=1)
        first = await private_bitcoind.send(address, AMOUNT_SAT)
        await private_bitcoind.mine(1)
        await wait_event(running, kind="payment.confirmed", txid=first)
        assert await running.stop() == 0
    await private_bitcoind.send(address, 2 * AMOUNT_SAT)
    await private_bitcoind.mine(3 * KEPT_BLOCKS)
    await private_bitcoind.prune()
    recent = await private_bitcoind.send(address, 4 * AMOUNT_SAT)
    await private_bitcoind.mine(1)
    async with open_service(service.folder, service.environment) as running:
        await wait_event(running, kind="payment.confirmed", txid=recent, deadline_s=40)
        assert [one["level"] for one in running.log_events() if one["event"] == "bitcoind.blocks_pruned"] == ["error"]
        answer: dict[str, object] = {}
        with trio.fail_after(40):
            while "unproved" not in answer:
                await trio.sleep(LOOK_AGAIN_S)
                answer = (await running.call("/btc", address=address, confirms=1)).json()
        assert (answer["confirmed"], answer["unproved"]) == (0.05, 0.02)
        assert answer["history_from"] == await private_bitcoind.height() + 1
        assert "from block" in running.cli("watch", "list").stdout
        assert "2000000 sat more in pruned blocks" in running.cli("status").stdout
        assert_lawful(await running.events())


async def spent_and_unspent(bitcoind: Bitcoind) -> tuple[str, int]:
    """Pay an address of ``main`` three times, spend the first payment, and return it and its first height."""
    address = await bitcoind.rpc("getnewaddress", "", "bech32")
    first_height = await bitcoind.height() + 1
    payments = []
    for amount_sat in (AMOUNT_SAT, 2 * AMOUNT_SAT, 4 * AMOUNT_SAT):
        payments.append(await bitcoind.send(address, amount_sat))
        await bitcoind.mine(1)
    decoded = await bitcoind.transaction(payments[0])
    [index] = [output["n"] for output in decoded["vout"] if output["scriptPubKey"].get("address") == address]
    unsigned = await bitcoind.rpc(
        "createrawtransaction", [{"txid": payments[0], "vout": index}], [{await bitcoind.new_address(): "0.00999"}]
    )
    signed = await bitcoind.rpc("signrawtransactionwithwallet", unsigned)
    await bitcoind.rpc("sendrawtransaction", signed["hex"])
    await bitcoind.mine(1)
    return address, first_height


@pytest.mark.parametrize("has_filters", [True, False], ids=["with filters", "without"])
async def test_address_with_a_past_is_whole_with_filters_and_says_so_without(
    programs: None, tmp_path: Path, *, has_filters: bool
) -> None:
    """With ``blockfilterindex`` the whole past of an address is proved; without, what is unspent, and it says so."""
    options = ["-blockfilterindex=1"] if has_filters else []
    async with open_bitcoind(tmp_path / "bitcoind", options=options) as bitcoind:
        address, first_height = await spent_and_unspent(bitcoind)
        node = OwnNode(bitcoind, tmp_path / "own-node")
        async with open_service(
            tmp_path / "lightipn", service_options(node, api_anonymous="ipn,blockcypher")
        ) as service:
            answer = (await service.call("/btc", address=address, confirms=1)).json()
            balance = (await service.call(f"/v1/btc/regtest/addrs/{address}/balance")).json()
            height = await bitcoind.height()
            if has_filters:
                assert answer == {"confirmed": 0.07, "unconfirmed": 0.0}
                assert (balance["total_received"], balance["total_sent"]) == (7_000_000, 1_000_000)
                assert "history_from" not in balance
            else:
                assert answer == {"confirmed": 0.06, "unconfirmed": 0.0, "history_from": height + 1}
                assert (balance["total_received"], balance["balance"]) == (6_000_000, 6_000_000)
                assert balance["history_from"] == height + 1
            found = [one for one in service.log_events() if one["event"] == "bitcoind.past_found"]
            assert [one["history_from"] for one in found] == [None if has_filters else height + 1]
            assert first_height < height
            assert await service.stop() == 0


async def test_unspent_outputs_in_pruned_blocks_are_told_apart(private_bitcoind: Bitcoind, tmp_path: Path) -> None:
    """What is unspent in blocks that the node has not got any more counts in no total, and is named beside it.

    Once it is spent it is named no more, and change that comes back from it is no payment.
    """
    bitcoind = private_bitcoind
    address = await bitcoind.new_address()
    old = await bitcoind.send(address, AMOUNT_SAT)
    [old_index] = [
        output["n"]
        for output in (await bitcoind.transaction(old))["vout"]
        if output["scriptPubKey"].get("address") == address
    ]
    await bitcoind.mine(3 * KEPT_BLOCKS)
    await bitcoind.prune()
    await bitcoind.send(address, 2 * AMOUNT_SAT)
    await bitcoind.mine(1)
    node = OwnNode(bitcoind, tmp_path / "own-node")
    async with open_service(tmp_path / "lightipn", service_options(node, api_anonymous="ipn")) as service:
        answer = (await service.call("/btc", address=address, confirms=1)).json()
        history_from = await bitcoind.height() + 1
        assert answer == {"confirmed": 0.02, "unconfirmed": 0.0, "history_from": history_from, "unproved": 0.01}

        outputs = [{address: "0.004"}, {await bitcoind.rpc("getnewaddress"): "0.005"}]
        unsigned = await bitcoind.rpc("createrawtransaction", [{"txid": old, "vout": old_index}], outputs)
        signed = await bitcoind.rpc("signrawtransactionwithwallet", unsigned, wallet="receiver")
        await bitcoind.rpc("sendrawtransaction", signed["hex"])
        for blocks in (0, 1):
            await bitcoind.mine(blocks)
            await trio.sleep(1)
            answer = (await service.call("/btc", address=address, confirms=1)).json()
            assert (answer["confirmed"], answer["unconfirmed"]) == (0.02, 0.0)
        assert answer == {"confirmed": 0.02, "unconfirmed": 0.0, "history_from": history_from}


# --- changing over -----------------------------------------------------------------------------------------------


async def wait_standing(service: ServiceProcess, txid: str, block_hash: str) -> None:
    """Wait until the last that was told of a payment is that it stands in this block."""
    last: dict[str, object] = {}
    with trio.move_on_after(WAIT_S):
        while (last.get("kind"), last.get("block_hash")) != ("payment.confirmed", block_hash):
            await trio.sleep(LOOK_AGAIN_S)
            last = matching(await service.events(), {"txid": txid})[-1]
        return
    raise TimeoutError(f"payment {txid} is in block {block_hash}; the last that was told is {last}")


async def test_backend_is_changed_there_and_back(programs: None, tmp_path: Path, shop: Shop) -> None:
    """A database goes from Electrum servers to a node and back: nothing is told twice, and nothing is lost."""
    async with (
        open_bitcoind(tmp_path / "bitcoind") as bitcoind,
        open_electrumx(bitcoind, tmp_path / "electrumx") as electrumx,
    ):
        coins = await make_coins(bitcoind, [AMOUNT_SAT + 500 + number for number in range(12)])
        payments = [await sign_payment(bitcoind, coin, await bitcoind.new_address()) for coin in coins]
        node = OwnNode(bitcoind, tmp_path / "own-node")
        for turn, options in enumerate([service_options(electrumx), service_options(node)] * 2):
            mined, waiting, away = payments[3 * turn : 3 * turn + 3]
            async with open_service(tmp_path / "lightipn", options) as service:
                if turn == 0:
                    for payment in payments:
                        await service.subscribe(payment.address, shop.url, max_confirms=1)
                await publish(mined, bitcoind)
                await wait_event(service, kind="payment.seen", txid=mined.txid)
                await bitcoind.mine(1)
                await wait_event(service, kind="payment.confirmed", txid=mined.txid)
                await publish(waiting, bitcoind)
                await wait_event(service, kind="payment.seen", txid=waiting.txid)
                assert await service.stop() == 0
            await publish(away, bitcoind)  # nobody listens
            await bitcoind.reorg(2, with_transactions=turn % 2 == 0)
            await bitcoind.mine(1)
            await electrumx.wait_tip()
        async with open_service(tmp_path / "lightipn", service_options(node)) as service:
            txids = [payment.txid for payment in payments]
            await wait_events(service, txids, kind="payment.confirmed", deadline_s=40)
            for payment in payments:
                await service.call("/btc", address=payment.address)
            for payment in payments:
                standing = await bitcoind.transaction(payment.txid)
                await wait_standing(service, payment.txid, standing["blockhash"])
            assert_lawful(await service.events())
            assert await service.stop() == 0


async def test_killed_while_it_catches_up_it_finds_everything_once(
    private_bitcoind: Bitcoind, tmp_path: Path, shop: Shop
) -> None:
    """Killed again and again while it looks through missed blocks, it tells each payment once, and the truth."""
    chance = random.Random(6)
    bitcoind = private_bitcoind
    node = OwnNode(bitcoind, tmp_path / "own-node")
    service = ServiceProcess(tmp_path / "lightipn", service_options(node))
    addresses = [await bitcoind.new_address() for _ in range(20)]
    async with open_service(service.folder, service.environment) as running:
        for address in addresses:
            await running.subscribe(address, shop.url, max_confirms=1)
        assert await running.stop() == 0
    txids = []
    for address in addresses:
        txids.append(await bitcoind.send(address, AMOUNT_SAT))
        await bitcoind.mine(3)
    told: list[object] = []
    try:
        for _ in range(10):
            await service.start()
            await trio.sleep(chance.uniform(0, 0.4))
            service.kill()
        await service.start()
        await wait_events(service, txids, kind="payment.confirmed")
        events = await service.events()
        assert events[: len(told)] == told
        assert [kinds_of(events, txid) for txid in txids] == [["confirmed"]] * len(txids)
        assert_lawful(events)
        for address in addresses:
            await wait_told(shop, address, "0.01", "0.0")
        assert await service.stop() == 0
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()


# --- notices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topics", [("hashblock", "hashtx"), ("hashblock", "rawtx"), ("sequence",)], ids="+".join)
async def test_notices_alone_bring_payments_at_once(
    programs: None, tmp_path: Path, shop: Shop, topics: tuple[str, ...]
) -> None:
    """With any topics that the node publishes, payments, replacements and blocks are told long before the next look."""
    zmq = f"tcp://127.0.0.1:{free_port()}"
    options = [f"-zmqpub{topic}={zmq}" for topic in topics]
    async with open_bitcoind(tmp_path / "bitcoind", options=options, is_pruned=True) as bitcoind:
        node = OwnNode(bitcoind, tmp_path / "own-node", zmq=zmq)
        patient = service_options(node) | {"LIGHTIPN_BITCOIND_POLL_INTERVAL_S": "600"}
        async with open_service(tmp_path / "lightipn", patient) as service:
            address = await bitcoind.new_address()
            await service.subscribe(address, shop.url, max_confirms=1)
            began = trio.current_time()
            payment = await bitcoind.send(address, AMOUNT_SAT, fee_rate=2, replaceable=True)
            await wait_event(service, kind="payment.seen", txid=payment)
            bumped = await bitcoind.bump_fee(payment)
            await wait_event(service, kind="payment.replaced", txid=payment, replaced_by=bumped)
            await bitcoind.mine(1)
            await wait_event(service, kind="payment.confirmed", txid=bumped)
            await bitcoind.reorg(1, with_transactions=False)
            await wait_event(service, kind="payment.reverted", txid=bumped)
            assert trio.current_time() - began < WAIT_S
            assert_lawful(await service.events())
            assert await service.stop() == 0
