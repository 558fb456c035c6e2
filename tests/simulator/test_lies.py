"""Every way in which the simulated server misbehaves, each seen by a bare client."""

from dataclasses import fields
from typing import Any

import pytest

from lightipn.bitcoin.hashes import Txid, hash_from_hex, hex_of, scripthash_of, sha256
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.bitcoin.network import MAINNET
from lightipn.bitcoin.transaction import parse_transaction
from lightipn.chain.history import status_of
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.lies import LIES
from lightipn.simulator.methods import METHODS
from lightipn.simulator.server import SimulatedServer
from lightipn.simulator.session import HUGE_LINE_BYTES
from tests.simulator.line_client import LineClient, open_client

SCRIPT = forge.made_up_script("shop")
SCRIPTHASH = scripthash_of(SCRIPT)
SHOP = hex_of(SCRIPTHASH)
NOBODY = hex_of(sha256(b"nobody"))
HEADERS = "blockchain.headers.subscribe"
SUBSCRIBE = "blockchain.scripthash.subscribe"
HISTORY = "blockchain.scripthash.get_history"
MERKLE = "blockchain.transaction.get_merkle"


def paid_in_block(chain: SimulatedChain) -> Txid:
    """Return the shop's payment in block 3."""
    return chain.history(SCRIPTHASH)[0].txid


def test_every_lie_has_its_field_and_method() -> None:
    """Every row of the table names a field of the behaviour and a method that exist."""
    names = {field.name for field in fields(Behaviour)}
    assert {row[0] for row in LIES} <= names
    assert {row[1] for row in LIES} <= METHODS.keys()


def test_honest_behaviour_switches_nothing_on() -> None:
    """The default behaviour is honest, and each misbehaviour is one field that differs from it."""
    assert Behaviour().switched_on() == frozenset()
    assert Behaviour(tip_inflated=2, hides=frozenset({Txid(bytes(32))})).switched_on() == {"tip_inflated", "hides"}


async def test_software_and_protocol_are_as_told(server: SimulatedServer) -> None:
    """The server tells the name and the highest protocol version of its behaviour."""
    server.behaviour = Behaviour(software="electrs/0.11.1", max_protocol="1.4")
    async with open_client(server, None) as client:
        assert await client.result("server.version", "test", ["1.4", "1.6"]) == ["electrs/0.11.1", "1.4"]
        assert (await client.result("server.features"))["server_version"] == "electrs/0.11.1"


async def test_batch_limit_is_kept(server: SimulatedServer) -> None:
    """A batch over the limit gets one error object with code 4 and no id; one at the limit is answered."""
    server.behaviour = Behaviour(batch_limit=3)
    batch = [{"id": n, "method": "server.ping"} for n in range(4)]
    async with open_client(server) as client:
        await client.send(batch)
        answer = await client.receive()
        assert (answer["error"]["code"], answer["id"]) == (4, None)
        await client.send(batch[:3])
        assert len(await client.receive()) == 3


async def test_scripthash_may_be_told_first(server: SimulatedServer, chain: SimulatedChain) -> None:
    """With ``notice_of_scripthash_first`` statuses are pushed before the header of the same block."""
    server.behaviour = Behaviour(notice_of_scripthash_first=True)
    async with open_client(server) as client:
        await client.result(HEADERS)
        await client.result(SUBSCRIBE, SHOP)
        chain.mine()
        await server.publish()
        assert [(await client.notice())[0], (await client.notice())[0]] == [SUBSCRIBE, HEADERS]


async def test_hidden_transaction_is_hidden_everywhere(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A hidden transaction is in no list and in no status; list and status agree with each other."""
    hidden, other = chain.history(SCRIPTHASH)
    server.behaviour = Behaviour(hides=frozenset({hidden.txid}))
    async with open_client(server) as client:
        assert [entry["tx_hash"] for entry in await client.result(HISTORY, SHOP)] == [hex_of(other.txid)]
        coins = await client.result("blockchain.scripthash.listunspent", SHOP)
        assert [coin["tx_hash"] for coin in coins] == [hex_of(other.txid)]
        told = status_of([other])
        assert told is not None
        assert await client.result(SUBSCRIBE, SHOP) == told.hex()
        server.behaviour = Behaviour(hides=frozenset({hidden.txid, other.txid}))
        assert await client.result("blockchain.scripthash.get_mempool", SHOP) == []
        assert await client.result(SUBSCRIBE, SHOP) is None


async def test_lies_are_pushed_too(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A new behaviour is pushed at the next ``publish``, also about what has not changed in the chain."""
    hidden = paid_in_block(chain)
    async with open_client(server) as client:
        honest = await client.result(SUBSCRIBE, SHOP)
        server.behaviour = Behaviour(hides=frozenset({hidden}))
        await server.publish()
        lie = status_of(chain.history(SCRIPTHASH)[1:])
        assert lie is not None
        assert await client.notice() == (SUBSCRIBE, [SHOP, lie.hex()])
        server.behaviour = Behaviour()
        await server.publish()
        assert await client.notice() == (SUBSCRIBE, [SHOP, honest])


async def test_amount_may_be_wrong(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A falsified transaction pays the shop more, and does not hash to its txid."""
    server.behaviour = Behaviour(wrong_amount=True)
    txid = paid_in_block(chain)
    async with open_client(server) as client:
        lie = parse_transaction(bytes.fromhex(await client.result("blockchain.transaction.get", hex_of(txid))))
    assert lie.received_by(SCRIPT) == {0: 200_000}
    assert lie.txid != txid


@pytest.mark.parametrize("height", [3, 1], ids=["block of four", "block of one"])
async def test_branch_may_be_fake(server: SimulatedServer, chain: SimulatedChain, height: int) -> None:
    """A fake branch is well-formed and folds to another root, also for the only transaction of a block."""
    server.behaviour = Behaviour(fake_branch=True)
    txid = chain.block_txids(height)[0]
    async with open_client(server) as client:
        proof = await client.result(MERKLE, hex_of(txid), height)
    root = merkle_root_of(txid, [hash_from_hex(one) for one in proof["merkle"]], proof["pos"])
    assert root != parse_header(chain.header_at(height)).merkle_root


async def test_tip_may_be_inflated(server: SimulatedServer, chain: SimulatedChain) -> None:
    """An inflated tip has a height that no header is served for, in the answer and in the notice."""
    server.behaviour = Behaviour(tip_inflated=10)
    async with open_client(server) as client:
        assert (await client.result(HEADERS))["height"] == 15
        chain.mine()
        await server.publish()
        assert (await client.notice())[1][0]["height"] == 16
        assert await client.refusal("blockchain.block.header", 16) == 1


async def test_status_may_never_match(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A status that matches nothing is constant until something changes, and changes then."""
    server.behaviour = Behaviour(status_never_matches=True)
    async with open_client(server) as client:
        first = await client.result(SUBSCRIBE, SHOP)
        honest = chain.status(SCRIPTHASH)
        assert honest is not None
        assert first != honest.hex()
        assert await client.result(SUBSCRIBE, SHOP) == first
        chain.pay(SCRIPT, 9)
        await server.publish()
        assert (await client.notice())[1][1] != first


async def test_line_may_be_huge(server: SimulatedServer) -> None:
    """A huge answer is longer than any honest one, and has no end."""
    async with open_client(server) as client:
        server.behaviour = Behaviour(huge_line=True)
        await client.send({"id": 1, "method": "server.ping"})
        received_bytes = 0
        while received_bytes < HUGE_LINE_BYTES:
            chunk = await client.stream.receive_some(1 << 20)
            assert b"\n" not in chunk
            received_bytes += len(chunk)


async def test_answer_may_be_garbage(server: SimulatedServer) -> None:
    """Garbage is a line that is no JSON."""
    async with open_client(server) as client:
        server.behaviour = Behaviour(garbage=True)
        await client.send({"id": 1, "method": "server.ping"})
        with pytest.raises(ValueError, match=r"Expecting value|utf-8"):
            await client.receive()


@pytest.mark.parametrize("protocol", ["1.4", "1.6"])
async def test_genesis_may_be_another(server: SimulatedServer, chain: SimulatedChain, protocol: str) -> None:
    """A server of another network names its genesis, and serves it at height 0 alone."""
    server.behaviour = Behaviour(wrong_genesis=True)
    async with open_client(server, protocol) as client:
        assert (await client.result("server.features"))["genesis_hash"] == hex_of(MAINNET.genesis_hash)
        assert await client.result("blockchain.block.header", 0) == MAINNET.genesis_header.hex()
        assert await client.result("blockchain.block.header", 1) == chain.header_at(1).hex()
        headers = await client.result("blockchain.block.headers", 0, 2)
    told = headers["hex"] if protocol == "1.4" else "".join(headers["headers"])
    assert told == (MAINNET.genesis_header + chain.header_at(1)).hex()


async def refused(client: LineClient, method: str) -> bool:
    """Tell whether a method about the shop is refused, and one about nobody is served."""
    assert "error" not in await client.ask(method, NOBODY)
    return await client.refusal(method, SHOP) == 1


async def test_history_may_be_too_large(server: SimulatedServer) -> None:
    """A history that is too large is refused with code 1, as history and as status; an empty one is not."""
    server.behaviour = Behaviour(history_too_large=True)
    async with open_client(server) as client:
        assert await refused(client, HISTORY)
        assert await refused(client, SUBSCRIBE)
        assert (await client.ask(HISTORY, SHOP))["error"]["message"] == "history too large"


async def test_notice_that_is_too_large_ends_the_connection(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Where a history that is too large would have to be pushed, the connection ends."""
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        server.behaviour = Behaviour(history_too_large=True)
        chain.pay(SCRIPT, 9)
        await server.publish()
        assert await client.receive_line() == b""


async def test_history_may_be_served_as_empty(server: SimulatedServer) -> None:
    """With ``null_status`` a script looks unused, while its balance still counts."""
    server.behaviour = Behaviour(null_status=True)
    async with open_client(server) as client:
        answers: list[Any] = [await client.result(method, SHOP) for method in (SUBSCRIBE, HISTORY)]
        balance = await client.result("blockchain.scripthash.get_balance", SHOP)
    assert answers == [None, []]
    assert balance == {"confirmed": 100_000, "unconfirmed": 7_000}
