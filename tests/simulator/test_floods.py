"""Servers that say too much, or nothing of their own accord."""

from lightipn.bitcoin.header import check_proof_of_work, parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.floods import FLOOD_NOTICES
from lightipn.simulator.server import SimulatedServer
from tests.simulator.line_client import LineClient, open_client
from tests.simulator.questions import has_no_more_notices, shop_history
from tests.simulator.readers import SCRIPT, SHOP, shop_status, status_of_list

HEADERS = "blockchain.headers.subscribe"
SUBSCRIBE = "blockchain.scripthash.subscribe"


async def notices(client: LineClient, count: int) -> list[tuple[str, list[object]]]:
    """Return so many notices, after a look at whether there are no more."""
    received = [await client.notice() for _ in range(count)]
    assert await has_no_more_notices(client)
    return received


async def test_header_flood_has_no_end(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Each ``publish`` pushes 1,000 more headers to a subscriber, all different, all with their work and linked."""
    async with open_client(server) as client:
        await client.result(HEADERS)
        server.behaviour = Behaviour(header_flood=True)
        told = []
        for _ in range(2):
            await server.publish()
            told += await notices(client, FLOOD_NOTICES if not told else FLOOD_NOTICES + 1)
        assert {method for method, _ in told} == {HEADERS}
        tips = [params[0] for _, params in told]
        headers = {tip["hex"] for tip in tips} - {chain.header_at(5).hex()}
        assert len(headers) == 2 * FLOOD_NOTICES
        assert {tip["height"] for tip in tips} == {5}
        for header in map(parse_header, map(bytes.fromhex, headers)):
            check_proof_of_work(header, REGTEST)
            assert header.previous_hash == chain.block_at(4).block_hash


async def test_notice_flood_has_no_end(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Each ``publish`` pushes 1,000 more statuses to a subscriber, all different and none true; histories stay true."""
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        server.behaviour = Behaviour(notice_flood=True)
        await server.publish()
        told = await notices(client, FLOOD_NOTICES)
        assert {(method, params[0]) for method, params in told} == {(SUBSCRIBE, SHOP)}
        statuses = {params[1] for _, params in told}
        assert len(statuses) == FLOOD_NOTICES
        assert shop_status(chain) not in statuses
        assert len(await shop_history(client)) == 2


async def test_who_subscribed_to_nothing_is_not_flooded(server: SimulatedServer) -> None:
    """A flood reaches subscribers only: headers those of headers, statuses those of scripthashes."""
    server.behaviour = Behaviour(header_flood=True, notice_flood=True)
    async with open_client(server) as client:
        await server.publish()
        assert await has_no_more_notices(client)
        await client.result(SUBSCRIBE, SHOP)
        await server.publish()
        assert {method for method, _ in await notices(client, FLOOD_NOTICES)} == {SUBSCRIBE}


async def test_flood_ends_with_the_truth(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A server that stops flooding pushes the true tip and the true status once more."""
    async with open_client(server) as client:
        await client.result(HEADERS)
        await client.result(SUBSCRIBE, SHOP)
        server.behaviour = Behaviour(header_flood=True, notice_flood=True)
        await server.publish()
        await notices(client, 2 * FLOOD_NOTICES)
        server.behaviour = Behaviour()
        await server.publish()
        assert await notices(client, 2) == [
            (HEADERS, [{"hex": chain.header_at(5).hex(), "height": 5}]),
            (SUBSCRIBE, [SHOP, shop_status(chain)]),
        ]


async def test_flood_needs_no_blocks(server: SimulatedServer) -> None:
    """Where genesis is the tip, the flood is of rivals for the first block."""
    server.behaviour = Behaviour(header_flood=True, stale_tip=0)
    async with open_client(server) as client:
        await client.result(HEADERS)
        await server.publish()
        tips = [params[0] for _, params in await notices(client, FLOOD_NOTICES)]
    assert {tip["height"] for tip in tips} == {1}
    assert {parse_header(bytes.fromhex(tip["hex"])).previous_hash for tip in tips} == {REGTEST.genesis_hash}


async def test_withheld_notices_are_withheld_alone(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A server that withholds notices answers truthfully, and pushes what is still news when it is honest again."""
    server.behaviour = Behaviour(withholds_notice=True, header_flood=True, notice_flood=True)
    async with open_client(server) as client:
        await client.result(HEADERS)
        await client.result(SUBSCRIBE, SHOP)
        chain.pay(SCRIPT, 9)
        chain.mine()
        await server.publish()
        assert await has_no_more_notices(client)
        entries = await client.result("blockchain.scripthash.get_history", SHOP)
        assert status_of_list(entries) == shop_status(chain)
        assert len(entries) == 3
        server.behaviour = Behaviour()
        await server.publish()
        assert await notices(client, 2) == [
            (HEADERS, [{"hex": chain.header_at(6).hex(), "height": 6}]),
            (SUBSCRIBE, [SHOP, shop_status(chain)]),
        ]
