"""Lies about histories: each is told alike in lists, statuses and notices."""

import pytest

from lightipn.bitcoin.hashes import Txid, hash_from_hex, hex_of, scripthash_of
from lightipn.chain.history import HistoryEntry, check_history
from lightipn.errors import HistoryError
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer
from tests.simulator.line_client import LineClient, open_client
from tests.simulator.readers import SCRIPT, SCRIPTHASH, SHOP, heights_of, shop_status, status_of_list

SUBSCRIBE = "blockchain.scripthash.subscribe"
HISTORY = "blockchain.scripthash.get_history"
MEMPOOL = "blockchain.scripthash.get_mempool"
BALANCE = "blockchain.scripthash.get_balance"
FALSE_HISTORIES = {
    "wrong_history_height": (Behaviour(wrong_history_height=1), [4, 0]),
    "wrong height below": (Behaviour(wrong_history_height=-9), [1, 0]),
    "height_above_tip": (Behaviour(height_above_tip=True), [3, 10]),
    "duplicate_txid": (Behaviour(duplicate_txid=True), [3, 3, 0]),
    "unsorted_heights": (Behaviour(unsorted_heights=True), [0, 3]),
    "several": (Behaviour(duplicate_txid=True, unsorted_heights=True, wrong_history_height=2), [0, 5, 5]),
}


async def told_heights(client: LineClient) -> list[int]:
    """Return the heights of the shop's history, after a look at whether status and list agree."""
    entries = await client.result(HISTORY, SHOP)
    assert await client.result(SUBSCRIBE, SHOP) == status_of_list(entries)
    assert await client.result(MEMPOOL, SHOP) == [entry for entry in entries if entry["height"] <= 0]
    return heights_of(entries)


@pytest.mark.parametrize(("behaviour", "heights"), FALSE_HISTORIES.values(), ids=FALSE_HISTORIES.keys())
async def test_status_goes_with_the_false_list(
    server: SimulatedServer, behaviour: Behaviour, heights: list[int]
) -> None:
    """A false history is told by list and status alike, and honest again when the server is."""
    async with open_client(server) as client:
        assert await told_heights(client) == [3, 0]
        server.behaviour = behaviour
        assert await told_heights(client) == heights
        server.behaviour = Behaviour()
        assert await told_heights(client) == [3, 0]


@pytest.mark.parametrize("behaviour", [row[0] for row in FALSE_HISTORIES.values()], ids=FALSE_HISTORIES.keys())
async def test_notice_tells_the_false_status(
    server: SimulatedServer, chain: SimulatedChain, behaviour: Behaviour
) -> None:
    """The status of a false history is pushed when the lie begins and when something happens, and no other is."""
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        server.behaviour = behaviour
        await server.publish()
        entries = await client.result(HISTORY, SHOP)
        assert await client.notice() == (SUBSCRIBE, [SHOP, status_of_list(entries)])
        chain.pay(SCRIPT, 9)
        await server.publish()
        entries = await client.result(HISTORY, SHOP)
        assert await client.notice() == (SUBSCRIBE, [SHOP, status_of_list(entries)])
        server.behaviour = Behaviour()
        await server.publish()
        assert await client.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])
        assert await client.result("server.ping") is None
        assert client.notices == []


@pytest.mark.parametrize("name", ["duplicate_txid", "unsorted_heights"])
async def test_false_list_contradicts_itself(server: SimulatedServer, name: str) -> None:
    """A history with a repeated txid, or out of order, is one that our own check refuses."""
    server.behaviour = FALSE_HISTORIES[name][0]
    async with open_client(server) as client:
        entries = await client.result(HISTORY, SHOP)
    history = [
        HistoryEntry(Txid(hash_from_hex(entry["tx_hash"])), entry["height"] if entry["height"] > 0 else None)
        for entry in entries
    ]
    with pytest.raises(HistoryError):
        check_history(history)


async def test_height_above_tip_moves_with_the_tip(server: SimulatedServer, chain: SimulatedChain) -> None:
    """What is claimed above the tip is claimed higher with every block, though its script is untouched."""
    server.behaviour = Behaviour(height_above_tip=True)
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        for height in (11, 12):
            chain.mine(include=[])
            await server.publish()
            entries = await client.result(HISTORY, SHOP)
            assert heights_of(entries) == [3, height]
            assert await client.notice() == (SUBSCRIBE, [SHOP, status_of_list(entries)])


async def test_wrong_height_is_not_proved(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A transaction claimed at a wrong height is proved at its true height alone."""
    server.behaviour = Behaviour(wrong_history_height=1)
    async with open_client(server) as client:
        entry = (await client.result(HISTORY, SHOP))[0]
        assert await client.refusal("blockchain.transaction.get_merkle", entry["tx_hash"], entry["height"]) == 1
        proof = await client.result("blockchain.transaction.get_merkle", entry["tx_hash"], 3)
    assert proof["pos"] == 2


async def test_limit_of_histories_is_per_script(server: SimulatedServer, chain: SimulatedChain) -> None:
    """With ``max_history`` a longer history is refused, and all others are served."""
    busy = forge.made_up_script("busy")
    for amount_sat in (1, 2, 3):
        chain.pay(busy, amount_sat)
    name = hex_of(scripthash_of(busy))
    server.behaviour = Behaviour(max_history=2)
    async with open_client(server) as client:
        assert await told_heights(client) == [3, 0]
        assert await client.refusal(HISTORY, name) == 1
        assert await client.refusal(SUBSCRIBE, name) == 1
        server.behaviour = Behaviour(max_history=3)
        assert heights_of(await client.result(HISTORY, name)) == [0, 0, 0]


async def test_limit_of_histories_may_look_like_nothing(server: SimulatedServer, chain: SimulatedChain) -> None:
    """With ``max_history`` and ``null_status`` a longer history is served as empty, and all others as they are."""
    busy = forge.made_up_script("busy")
    for amount_sat in (1, 2, 3):
        chain.pay(busy, amount_sat)
    name = hex_of(scripthash_of(busy))
    server.behaviour = Behaviour(max_history=2, null_status=True)
    async with open_client(server) as client:
        assert await told_heights(client) == [3, 0]
        assert [await client.result(method, name) for method in (SUBSCRIBE, HISTORY)] == [None, []]
        assert (await client.result(BALANCE, name))["unconfirmed"] == 6


async def test_outgrowing_the_limit_ends_the_connection(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A subscriber is hung up on when a history outgrows the limit, and not before."""
    server.behaviour = Behaviour(max_history=3)
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        chain.pay(SCRIPT, 9)
        await server.publish()
        assert await client.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])
        chain.pay(SCRIPT, 10)
        await server.publish()
        assert await client.receive_line() == b""
    assert len(chain.history(SCRIPTHASH)) == 4
