"""Questions to a simulated server about the shop and the chain, with a look at whether the answers fit together."""

from lightipn.bitcoin.hashes import Txid, hash_from_hex, hex_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.bitcoin.transaction import Transaction, parse_transaction
from tests.simulator.line_client import LineClient
from tests.simulator.readers import SHOP, status_of_list


async def shop_history(client: LineClient) -> dict[str, int]:
    """Return the shop's history as txid and height, after a look at whether the status goes with it."""
    entries = await client.result("blockchain.scripthash.get_history", SHOP)
    assert await client.result("blockchain.scripthash.subscribe", SHOP) == status_of_list(entries)
    return {entry["tx_hash"]: entry["height"] for entry in entries}


async def all_headers(client: LineClient) -> list[bytes]:
    """Return the headers from genesis to the tip, after a look at whether all ways to ask for them agree."""
    tip = await client.result("blockchain.headers.subscribe")
    headers = (await client.result("blockchain.block.headers", 0, 2016))["headers"]
    assert (len(headers), headers[-1]) == (tip["height"] + 1, tip["hex"])
    assert await client.result("blockchain.block.header", tip["height"]) == tip["hex"]
    return [bytes.fromhex(header) for header in headers]


async def proof_folds(client: LineClient, txid: Txid, height: int) -> bool:
    """Tell whether the server's proof of a transaction leads to the root of the server's header."""
    proof = await client.result("blockchain.transaction.get_merkle", hex_of(txid), height)
    header = parse_header(bytes.fromhex(await client.result("blockchain.block.header", height)))
    return merkle_root_of(txid, [hash_from_hex(one) for one in proof["merkle"]], proof["pos"]) == header.merkle_root


async def told_transaction(client: LineClient, txid: Txid) -> Transaction | None:
    """Return a transaction as the server tells it; None where it knows none."""
    answer = await client.ask("blockchain.transaction.get", hex_of(txid))
    if "error" in answer:
        assert answer["error"]["code"] == 2
        return None
    transaction = parse_transaction(bytes.fromhex(answer["result"]))
    assert transaction.txid == txid
    return transaction


async def has_no_more_notices(client: LineClient) -> bool:
    """Tell whether nothing was pushed that was not looked at."""
    await client.result("server.ping")
    return client.notices == []
