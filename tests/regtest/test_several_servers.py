"""Several servers at once: who is asked, who is believed, and what happens when one of them is away or wrong."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from lightipn.tracker.server_tips import STRAGGLER_PATIENCE_S
from tests.bench.rig import fill_database
from tests.regtest.feed import (
    LOOK_AGAIN_S,
    WAIT_S,
    Event,
    assert_lawful,
    kinds_of,
    matching,
    service_options,
    wait_event,
    wait_told,
    wait_verdicts,
)
from tests.regtest.nodes import (
    READY_HEIGHT,
    Bitcoind,
    ElectrumX,
    RpcError,
    free_port,
    open_bitcoind,
    open_electrumx,
)
from tests.regtest.rivals import make_coins, publish, sign_payment, sign_rival
from tests.regtest.shop import Shop
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
WATCHES = 5_000
Pair = tuple[ElectrumX, ElectrumX]


@pytest.fixture(scope="session")
def backend() -> str:
    """There is but one node of one's own."""
    return "electrum"


async def test_two_servers_agree_and_one_is_enough(
    private_bitcoind: Bitcoind, private_pair: Pair, tmp_path: Path, shop: Shop
) -> None:
    """Two servers agree on a payment and it is told once; with one of them dead payments are told, on its word."""
    bitcoind, (first, second) = private_bitcoind, private_pair
    async with open_service(tmp_path / "lightipn", service_options(first, second)) as service:
        await wait_verdicts(service, "connected", "connected")
        addresses = [await bitcoind.new_address() for _ in range(3)]
        for address in addresses:
            await service.subscribe(address, f"{shop.url}/{address}", max_confirms=1)

        agreed = await bitcoind.send(addresses[0], 150_000)
        seen = await wait_event(service, kind="payment.seen", txid=agreed)
        assert (seen["trust"], seen["seen_by"], seen["net_sat"]) == ("agreed", 2, 150_000)
        [block_hash] = await bitcoind.mine(1)
        confirmed = await wait_event(service, kind="payment.confirmed", txid=agreed)
        assert (confirmed["trust"], confirmed["block_hash"]) == ("proved", block_hash)
        await shop.wait_for(lambda request: request.form["confirmed"] == "0.0015", WAIT_S)

        second.kill()
        await wait_verdicts(service, "connected", "unavailable")
        while_dead = await bitcoind.send(addresses[1], 250_000)
        seen = await wait_event(service, kind="payment.seen", txid=while_dead)
        assert (seen["trust"], seen["seen_by"]) == ("single", 1)
        await shop.wait_for(lambda request: request.form["unconfirmed"] == "0.0025", WAIT_S)

        await second.start()
        await wait_verdicts(service, "connected", "connected", deadline_s=30)
        first.kill()
        after = await bitcoind.send(addresses[2], 350_000)
        await wait_event(service, kind="payment.seen", txid=after)
        await bitcoind.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=after)
        await wait_event(service, kind="payment.confirmed", txid=while_dead)
        for amount in ("0.0025", "0.0035"):
            await shop.wait_for(lambda request, a=amount: request.form["confirmed"] == a, WAIT_S)

        events = await service.events()
        assert_lawful(events)
        for address, txid in zip(addresses, (agreed, while_dead, after), strict=True):
            assert kinds_of(events, txid) == ["seen", "confirmed"]
            assert len(shop.matching(lambda request, a=address: request.path == f"/{a}")) == 2
        assert await service.stop() == 0


@asynccontextmanager
async def open_two_nodes(folder: Path) -> AsyncIterator[tuple[Bitcoind, Bitcoind]]:
    """Run two nodes that are connected and agree; the first has coins, and calls the second."""
    async with (
        open_bitcoind(folder / "near") as near,
        open_bitcoind(folder / "far", listen_port=free_port()) as far,
    ):
        await near.mine(1)  # the far node gives up its own chain for the longer one
        await meet(near, far)
        await wait_same_tip(near, far)
        yield near, far


async def part(near: Bitcoind, far: Bitcoind) -> None:
    """Cut the connection of two nodes, and wait until both know it."""
    await near.rpc("setnetworkactive", False)
    with near.deadline(WAIT_S, "to let go of the other node"):
        while await near.rpc("getconnectioncount") or await far.rpc("getconnectioncount"):
            await trio.sleep(LOOK_AGAIN_S)


async def meet(near: Bitcoind, far: Bitcoind) -> None:
    """Connect two nodes."""
    await near.rpc("setnetworkactive", True)
    await near.rpc("addnode", f"127.0.0.1:{far.listen_port}", "onetry")


async def wait_same_tip(near: Bitcoind, far: Bitcoind) -> None:
    """Wait until two nodes have the same tip."""
    with near.deadline(WAIT_S, "to agree with the other node"):
        while await near.tip_hash() != await far.tip_hash():
            await trio.sleep(LOOK_AGAIN_S)


async def mine_empty(node: Bitcoind, blocks: int) -> list[str]:
    """Mine blocks without what waits in the mempool, and return their hashes."""
    address = await node.new_address()
    return [(await node.rpc("generateblock", address, []))["hash"] for _ in range(blocks)]


def closed_sessions(service: ServiceProcess) -> list[Event]:
    """Return what the service logged of sessions that ended, since its start."""
    return [event for event in service.log_events() if event["event"] == "electrum.session_closed"]


async def test_branch_with_more_work_wins_whoever_serves_it(tmp_path: Path, shop: Shop) -> None:
    """Of two branches the one with more work is followed; a server on the other one is let go after 30 s, not before.

    partition 1                       partition 2
    near   ── a1 (payment)            near   ── c1
    far    ── b1 ── b2  wins          far    ── d1 ── d2  wins
    """
    async with (
        open_two_nodes(tmp_path) as (near, far),
        open_electrumx(near, tmp_path / "near-electrumx") as near_server,
        open_electrumx(far, tmp_path / "far-electrumx") as far_server,
        open_service(tmp_path / "lightipn", service_options(near_server, far_server)) as service,
    ):
        await wait_verdicts(service, "connected", "connected")
        address = await near.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        [coin] = await make_coins(near, [700_500])
        await wait_same_tip(near, far)

        await part(near, far)
        payment = await publish(await sign_payment(near, coin, address), near, far)
        await wait_event(service, kind="payment.seen", txid=payment, trust="agreed")
        [lost] = await near.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=payment, block_hash=lost)
        await mine_empty(far, 2)
        await wait_event(service, kind="payment.reverted", txid=payment, block_hash=lost)
        await meet(near, far)
        await wait_same_tip(near, far)
        await near_server.wait_tip()
        await shop.wait_for(lambda request: request.form["unconfirmed"] == "0.007", WAIT_S, count=2)
        assert await near.rpc("getrawmempool") == [payment]
        [won] = await far.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=payment, block_hash=won)
        assert kinds_of(await service.events(), payment) == ["seen", "confirmed", "reverted", "confirmed"]
        assert not closed_sessions(service)

        await wait_same_tip(near, far)
        await part(near, far)
        await near.mine(1)
        await wait_event(service, kind="block.connected", height=await near.height())
        began = trio.current_time()
        await far.mine(2)
        await wait_verdicts(service, "behind", "connected", deadline_s=STRAGGLER_PATIENCE_S + WAIT_S)
        assert trio.current_time() - began >= STRAGGLER_PATIENCE_S

        events = await service.events()
        assert_lawful(events)
        assert kinds_of(events, payment) == ["seen", "confirmed", "reverted", "confirmed"]
        assert len(matching(events, {"kind": "block.disconnected"})) == 2
        assert await service.stop() == 0


async def test_payment_spent_elsewhere_on_the_winning_branch_is_replaced(tmp_path: Path, shop: Shop) -> None:
    """A confirmed payment whose coin the winning branch spends elsewhere is reverted, and replaced by that rival."""
    async with (
        open_two_nodes(tmp_path) as (near, far),
        open_electrumx(near, tmp_path / "near-electrumx") as near_server,
        open_electrumx(far, tmp_path / "far-electrumx") as far_server,
        open_service(tmp_path / "lightipn", service_options(near_server, far_server)) as service,
    ):
        await wait_verdicts(service, "connected", "connected")
        address = await near.new_address()
        await service.subscribe(address, shop.url, max_confirms=1)
        [coin] = await make_coins(near, [800_500])
        await wait_same_tip(near, far)
        payment, rival = await sign_payment(near, coin, address), await sign_rival(near, coin)

        await publish(payment, near, far)
        await wait_event(service, kind="payment.seen", txid=payment.txid, trust="agreed")
        await part(near, far)
        await near.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=payment.txid)
        await far.rpc("generateblock", await far.new_address(), [rival.raw])
        await mine_empty(far, 1)
        await wait_event(service, kind="payment.reverted", txid=payment.txid)
        replaced = await wait_event(service, kind="payment.replaced", txid=payment.txid)
        assert (replaced["trust"], replaced["replaced_by"]) == ("proved", rival.txid)
        await wait_told(shop, address, "0.0", "0.0")
        assert_lawful(await service.events())


async def test_server_between_a_block_and_its_mempool_is_no_liar(
    private_bitcoind: Bitcoind, tmp_path: Path, shop: Shop
) -> None:
    """A server that for a moment names a payment twice, in a block and still in its mempool, is not held a liar.

    ElectrumX reads its mempool every five seconds, and until then lists what the newest block took out of it.
    """
    bitcoind = private_bitcoind
    async with (
        open_electrumx(bitcoind, tmp_path / "electrumx", options={"DAEMON_POLL_INTERVAL_MEMPOOL": None}) as server,
        open_service(tmp_path / "lightipn", service_options(server)) as service,
    ):
        addresses = [await bitcoind.new_address() for _ in range(4)]
        txid = await bitcoind.rpc("sendmany", "", dict.fromkeys(addresses, "0.001"))
        await server.wait_history(addresses[0], bool)  # it has read its mempool just now
        await bitcoind.mine(1)
        with trio.fail_after(WAIT_S):
            while await height_of(server) < await bitcoind.height():
                await trio.sleep(LOOK_AGAIN_S)
        # Not the first address: what was asked for before is in the server's cache.
        [confirmed, claimed] = await server.call(
            "blockchain.scripthash.get_history", await bitcoind.scripthash(addresses[1])
        )
        assert (confirmed["tx_hash"], claimed["tx_hash"], claimed["height"]) == (txid, txid, 0)

        for address in addresses[2:]:
            await service.subscribe(address, shop.url, max_confirms=1)
        for address in addresses[2:]:
            await wait_event(service, kind="payment.confirmed", address=address)
            await wait_told(shop, address, "0.001", "0.0")
        assert_lawful(await service.events())
        assert not closed_sessions(service)


async def height_of(server: ElectrumX) -> int:
    """Return the height of the highest block that a server has, announced or not."""
    height = READY_HEIGHT
    with suppress(RpcError):
        while await server.call("blockchain.block.header", height + 1):
            height += 1
    return height


async def test_many_watches_come_up_on_a_server_that_slows_callers_down(bitcoind: Bitcoind, tmp_path: Path) -> None:
    """Five thousand watches come up on an ElectrumX with its own limits, in one session; ``/readyz`` shows how far."""
    stock = dict.fromkeys(("COST_SOFT_LIMIT", "COST_HARD_LIMIT"))
    folder = tmp_path / "lightipn"
    folder.mkdir()
    await fill_database(folder / "lightipn.db", WATCHES, "http://127.0.0.1:9")
    async with open_electrumx(bitcoind, tmp_path / "stock-electrumx", options=stock) as electrumx:
        service = ServiceProcess(folder, service_options(electrumx))
        await service.start()
        shown: list[int] = []
        with trio.fail_after(90):
            while not shown or shown[-1] < WATCHES:
                state = (await service.call("/readyz")).json()
                assert state["watches"]["total"] == WATCHES
                shown.append(state["watches"]["subscribed"])
                await trio.sleep(0.2)
        assert shown == sorted(shown)
        assert len(set(shown)) > 10
        await service.wait_ready()
        assert not closed_sessions(service)
        assert await service.stop() == 0
