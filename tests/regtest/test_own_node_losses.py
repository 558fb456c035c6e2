"""Stories on one's own node, of payments that lose their block: what a node without an index still tells."""

from pathlib import Path

import pytest
import trio

from tests.regtest.feed import LOOK_AGAIN_S, assert_lawful, service_options, wait_event
from tests.regtest.nodes import KEPT_BLOCKS, Bitcoind
from tests.regtest.own_node import OwnNode
from tests.regtest.rivals import make_coins, publish, sign_payment, sign_rival
from tests.regtest.shop import Shop
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def backend() -> str:
    """The node itself."""
    return "pruned-node"


async def test_payment_that_was_only_in_a_lost_block_is_replaced_by_the_other_branch(
    private_bitcoind: Bitcoind, tmp_path: Path, shop: Shop
) -> None:
    """Its coin was never among the unspent ones while we looked; the node's undo data has it all the same."""
    bitcoind = private_bitcoind
    [coin] = await make_coins(bitcoind, [5_000_000])
    address = await bitcoind.new_address()
    payment = await sign_payment(bitcoind, coin, address)
    rival = await sign_rival(bitcoind, coin)
    node = OwnNode(bitcoind, tmp_path / "own-node")
    async with open_service(tmp_path / "lightipn", service_options(node)) as service:
        await service.subscribe(address, shop.url, max_confirms=1)
        lost = (await bitcoind.rpc("generateblock", await bitcoind.new_address(), [payment.raw]))["hash"]
        await wait_event(service, kind="payment.confirmed", txid=payment.txid)
        await bitcoind.invalidate(lost)
        await bitcoind.rpc("generateblock", await bitcoind.new_address(), [rival.raw])
        await bitcoind.mine(1)
        replaced = await wait_event(service, kind="payment.replaced", txid=payment.txid)
        assert replaced["replaced_by"] == rival.txid
        await shop.wait_for(lambda request: request.form["confirmed"] == request.form["unconfirmed"] == "0.0", 20)
        assert_lawful(await service.events())


async def test_payment_that_was_mined_and_pruned_unseen_stays_unconfirmed(
    private_bitcoind: Bitcoind, tmp_path: Path, shop: Shop
) -> None:
    """Nobody can prove it any more, so it is not confirmed; it is not dropped either, not even when it is spent."""
    bitcoind = private_bitcoind
    [coin] = await make_coins(bitcoind, [5_000_000])
    address = await bitcoind.rpc("getnewaddress")
    payment = await sign_payment(bitcoind, coin, address)
    options = service_options(OwnNode(bitcoind, tmp_path / "own-node"))
    service = ServiceProcess(tmp_path / "lightipn", options)
    async with open_service(service.folder, service.environment) as running:
        await running.subscribe(address, shop.url, max_confirms=1)
        await publish(payment, bitcoind)
        await wait_event(running, kind="payment.seen", txid=payment.txid)
        assert await running.stop() == 0
    await bitcoind.mine(3 * KEPT_BLOCKS)
    await bitcoind.prune()
    async with open_service(service.folder, service.environment) as running:
        answer: dict[str, object] = {}
        with trio.fail_after(40):
            while "history_from" not in answer:
                await trio.sleep(LOOK_AGAIN_S)
                answer = (await running.call("/btc", address=address)).json()
        paid = payment.amount_sat / 100_000_000
        assert (answer["confirmed"], answer["unconfirmed"], answer.get("unproved")) == (0.0, paid, None)
        assert "1 unconfirmed payments may stand in blocks that your node pruned" in running.cli("status").stdout
        spending = await bitcoind.rpc(
            "createrawtransaction",
            [{"txid": payment.txid, "vout": 0}],
            [{await bitcoind.new_address(): f"{paid - 0.0001:.8f}"}],
        )
        signed = (await bitcoind.rpc("signrawtransactionwithwallet", spending))["hex"]
        txid = await bitcoind.rpc("sendrawtransaction", signed)
        await bitcoind.mine(1)
        await wait_event(running, kind="payment.confirmed", txid=txid)
        events = await running.events()
        assert [one["kind"] for one in events if one.get("txid") == payment.txid] == ["payment.seen"]
        assert_lawful(events)
