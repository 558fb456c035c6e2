"""What the methods of the protocol answer, as a bare client sees it."""

from typing import Any

import pytest

from lightipn.bitcoin.hashes import Txid, hash_from_hex, hex_of, scripthash_of, sha256, sha256d
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer
from tests.simulator.line_client import open_client
from tests.simulator.readers import SCRIPT, SHOP, confirmed_txid

NOBODY = hex_of(sha256(b"nobody"))
SUBSCRIBE = "blockchain.scripthash.subscribe"
HISTORY = "blockchain.scripthash.get_history"


async def test_features_name_the_network(server: SimulatedServer) -> None:
    """``server.features`` names regtest's genesis block and the range of protocol versions."""
    async with open_client(server) as client:
        features = await client.result("server.features")
    assert features["genesis_hash"] == hex_of(REGTEST.genesis_hash)
    assert (features["protocol_min"], features["protocol_max"]) == ("1.4", "1.6")


@pytest.mark.parametrize(
    ("method", "answer"),
    [("server.ping", None), ("server.donation_address", ""), ("server.peers.subscribe", [])],
)
async def test_small_talk(server: SimulatedServer, method: str, answer: object) -> None:
    """What every server must answer is answered."""
    async with open_client(server) as client:
        assert await client.result(method) == answer
        assert isinstance(await client.result("server.banner"), str)


@pytest.mark.parametrize(
    ("protocol", "method", "exists"),
    [
        ("1.4", "blockchain.scripthash.unsubscribe", False),
        ("1.4.2", "blockchain.scripthash.unsubscribe", True),
        ("1.4", "blockchain.relayfee", True),
        ("1.6", "blockchain.relayfee", False),
        ("1.4", "mempool.get_info", False),
        ("1.6", "mempool.get_info", True),
        ("1.6", "blockchain.scriptpubkey.subscribe", False),
    ],
)
async def test_methods_belong_to_versions(server: SimulatedServer, protocol: str, method: str, exists: bool) -> None:
    """A method is known exactly in the protocol versions that have it; an unknown one has code -32601."""
    params = [SHOP] if "script" in method else []
    async with open_client(server, protocol) as client:
        answer = await client.ask(method, *params)
    assert ("result" in answer) == exists
    assert exists or answer["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        (SUBSCRIBE, [], -32602),
        (SUBSCRIBE, [SHOP, SHOP], -32602),
        (SUBSCRIBE, ["00"], 1),
        (SUBSCRIBE, [SHOP[:-1] + " "], 1),
        (SUBSCRIBE, [7], 1),
        ("blockchain.block.header", [6], 1),
        ("blockchain.block.header", [-1], 1),
        ("blockchain.block.header", ["1"], 1),
        ("blockchain.block.header", [True], 1),
        ("blockchain.block.header", [3, 2], 1),
        ("blockchain.block.header", [3, 9], 1),
        ("blockchain.transaction.get", ["ff" * 32], 2),
        ("blockchain.transaction.get", ["ff" * 32, True], 1),
        ("blockchain.transaction.get", ["ff" * 32, 1], 1),
        ("blockchain.transaction.get_merkle", ["ff" * 32, 3], 1),
        ("blockchain.transaction.get_merkle", ["ff" * 32, 0], 1),
        ("blockchain.transaction.get_merkle", ["ff" * 32, 60], 1),
        ("blockchain.transaction.id_from_pos", [3, 4], 1),
        ("blockchain.transaction.id_from_pos", [9, 0], 1),
        ("blockchain.transaction.broadcast", ["00"], 1),
        ("blockchain.transaction.broadcast", ["no hex"], 1),
        ("blockchain.transaction.broadcast", [None], 1),
        ("blockchain.estimatefee", [-2], 1),
    ],
)
async def test_bad_requests_have_codes(server: SimulatedServer, method: str, params: list[Any], code: int) -> None:
    """A request that cannot be served is refused with the code a real server gives it."""
    async with open_client(server) as client:
        assert await client.refusal(method, *params) == code
        assert await client.result("server.ping") is None


async def test_headers_are_served_in_both_shapes(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Headers come as a list since protocol 1.6 and as one string before; fewer at the tip, none above it."""
    headers = [chain.header_at(height).hex() for height in range(6)]
    method = "blockchain.block.headers"
    async with open_client(server, "1.6") as client:
        assert await client.result(method, 1, 3) == {"count": 3, "max": 2016, "headers": headers[1:4]}
        assert await client.result(method, 4, 9) == {"count": 2, "max": 2016, "headers": headers[4:]}
        assert await client.result(method, 60, 9) == {"count": 0, "max": 2016, "headers": []}
        assert await client.result("blockchain.block.header", 2) == headers[2]
    async with open_client(server, "1.4") as client:
        assert await client.result(method, 0, 2) == {"count": 2, "max": 2016, "hex": headers[0] + headers[1]}


async def test_no_more_than_2016_headers_at_once(server: SimulatedServer, chain: SimulatedChain) -> None:
    """However many headers are asked for, 2016 are served at most."""
    chain.mine(2020)
    async with open_client(server) as client:
        answer = await client.result("blockchain.block.headers", 0, 5000)
    assert (answer["count"], len(answer["headers"])) == (2016, 2016)


@pytest.mark.parametrize("height", range(6))
async def test_header_proof_folds_to_its_root(server: SimulatedServer, chain: SimulatedChain, height: int) -> None:
    """With ``cp_height`` a header comes with a branch that folds to a root, which is the same for all headers."""
    async with open_client(server) as client:
        proof = await client.result("blockchain.block.header", height, 5)
        many = await client.result("blockchain.block.headers", 0, height + 1, 5)
    leaf = sha256d(bytes.fromhex(proof["header"]))
    branch = [hash_from_hex(one) for one in proof["branch"]]
    root = merkle_root_of(Txid(leaf), branch, height)
    assert proof["root"] == many["root"] == hex_of(root)
    assert proof["branch"] == many["branch"]
    hashes = [sha256d(chain.header_at(n)) for n in range(6)]
    pairs = [sha256d(hashes[n] + hashes[n + 1]) for n in (0, 2, 4)]
    assert root == sha256d(sha256d(pairs[0] + pairs[1]) + sha256d(pairs[2] + pairs[2]))


async def test_history_is_told_with_fees(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A history lists confirmed entries with heights, then unconfirmed ones with fees; 0 or -1 tells of parents."""
    confirmed, unconfirmed = (hex_of(entry.txid) for entry in chain.history(scripthash_of(SCRIPT)))
    child = chain.pay(forge.made_up_script("x"), 6_000, spend=[Outpoint(Txid(hash_from_hex(unconfirmed)), 0)])
    mempool = [
        {"tx_hash": unconfirmed, "height": 0, "fee": 1000},
        {"tx_hash": hex_of(child), "height": -1, "fee": 1000},
    ]
    async with open_client(server) as client:
        assert await client.result(HISTORY, SHOP) == [{"tx_hash": confirmed, "height": 3}, *mempool]
        assert await client.result("blockchain.scripthash.get_mempool", SHOP) == mempool
        assert await client.result(HISTORY, NOBODY) == []


async def test_balance_and_unspent_follow_the_coins(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Balance and unspent outputs agree, through spending, replacing and mining."""
    first = confirmed_txid(chain)
    balance, unspent = "blockchain.scripthash.get_balance", "blockchain.scripthash.listunspent"
    async with open_client(server) as client:
        assert await client.result(balance, SHOP) == {"confirmed": 100_000, "unconfirmed": 7_000}
        assert [(coin["height"], coin["value"]) for coin in await client.result(unspent, SHOP)] == [
            (3, 100_000),
            (0, 7_000),
        ]
        chain.pay(forge.made_up_script("x"), 40_000, spend=[Outpoint(first, 0)], change_to=SCRIPT)
        assert await client.result(balance, SHOP) == {"confirmed": 100_000, "unconfirmed": 7_000 - 41_000}
        assert sorted(coin["value"] for coin in await client.result(unspent, SHOP)) == [7_000, 59_000]
        chain.mine()
        assert await client.result(balance, SHOP) == {"confirmed": 66_000, "unconfirmed": 0}
        assert {coin["tx_pos"] for coin in await client.result(unspent, SHOP)} == {0, 1}


async def test_transaction_and_its_proof(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A transaction's bytes hash to its txid, and its branch folds to the root of its block's header."""
    txid = confirmed_txid(chain)
    async with open_client(server) as client:
        raw = bytes.fromhex(await client.result("blockchain.transaction.get", hex_of(txid)))
        proof = await client.result("blockchain.transaction.get_merkle", hex_of(txid), 3)
        by_position = await client.result("blockchain.transaction.id_from_pos", 3, proof["pos"], True)
        bare = await client.result("blockchain.transaction.id_from_pos", 3, proof["pos"], False)
    assert raw == chain.transaction(txid)
    assert (proof["block_height"], proof["pos"]) == (3, 2)
    branch = [hash_from_hex(one) for one in proof["merkle"]]
    assert merkle_root_of(txid, branch, proof["pos"]) == parse_header(chain.header_at(3)).merkle_root
    assert by_position == {"tx_hash": hex_of(txid), "merkle": proof["merkle"]}
    assert bare == hex_of(txid)


async def test_fees_are_told(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Fee rates are positive, higher in a hurry, and the histogram weighs the mempool."""
    async with open_client(server, "1.6") as client:
        fast, slow = [await client.result("blockchain.estimatefee", blocks) for blocks in (1, 25)]
        histogram = await client.result("mempool.get_fee_histogram")
        info = await client.result("mempool.get_info")
    assert fast > slow > 0
    raw = chain.transaction(chain.mempool[0])
    assert raw is not None
    assert histogram == [[1000 // len(raw), len(raw)]]
    assert info.keys() == {"mempoolminfee", "minrelaytxfee", "incrementalrelayfee"}
