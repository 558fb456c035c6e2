"""Lies about merkle branches, each seen by a bare client and judged by our own check."""

from typing import Any

import pytest

from lightipn.bitcoin.hashes import Txid, hash_from_hex, hex_of, scripthash_of, sha256d
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.bitcoin.transaction import is_transaction, parse_transaction
from lightipn.errors import MerkleBranchError
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer
from tests.simulator.line_client import LineClient, open_client
from tests.simulator.readers import SCRIPT, SHOP, confirmed_txid, parsed, status_of_list

MERKLE = "blockchain.transaction.get_merkle"
AT_POSITION = "blockchain.transaction.id_from_pos"
GET = "blockchain.transaction.get"
HISTORY = "blockchain.scripthash.get_history"
SUBSCRIBE = "blockchain.scripthash.subscribe"
PLACES = [(height, position) for height, width in ((1, 1), (2, 1), (3, 4), (6, 3), (7, 6)) for position in range(width)]


@pytest.fixture
def wide_chain(chain: SimulatedChain) -> SimulatedChain:
    """The chain with a block of three transactions more, and one of six."""
    chain.pay(SCRIPT, 1)
    chain.mine()
    for amount_sat in range(5):
        chain.pay(SCRIPT, 10 + amount_sat)
    chain.mine()
    assert [len(chain.block_txids(height)) for height in (6, 7)] == [3, 6]
    return chain


def naive_root(txid: Txid, proof: dict[str, Any]) -> bytes:
    """Fold a branch as who trusts it would: by the low bits of the position, without any check."""
    node, position = bytes(txid), proof["pos"]
    for sibling in map(hash_from_hex, proof["merkle"]):
        node = sha256d(sibling + node if position & 1 else node + sibling)
        position >>= 1
    return node


def checked_root(txid: Txid, proof: dict[str, Any]) -> bytes:
    """Fold a branch with our own check."""
    return merkle_root_of(txid, [hash_from_hex(one) for one in proof["merkle"]], proof["pos"])


def root_at(chain: SimulatedChain, height: int) -> bytes:
    """Return the root that a header states."""
    return parse_header(chain.header_at(height)).merkle_root


async def proofs(client: LineClient, chain: SimulatedChain) -> list[tuple[Txid, int, dict[str, Any]]]:
    """Ask for the proof of every transaction in the blocks of different widths."""
    wanted = [(chain.block_txids(height)[position], height) for height, position in PLACES]
    return [(txid, height, await client.result(MERKLE, hex_of(txid), height)) for txid, height in wanted]


@pytest.mark.parametrize("field", ["duplicate_sibling", "long_branch", "wrong_position"])
async def test_malformed_branches_are_refused_and_honest_ones_are_not(
    server: SimulatedServer, wide_chain: SimulatedChain, field: str
) -> None:
    """Malformed branches are refused by our own check, in blocks of any width, and honest ones fold to the root."""
    async with open_client(server) as client:
        for txid, height, proof in await proofs(client, wide_chain):
            assert checked_root(txid, proof) == root_at(wide_chain, height)
        server.behaviour = Behaviour(**{field: True})
        for txid, _, proof in await proofs(client, wide_chain):
            with pytest.raises(MerkleBranchError):
                checked_root(txid, proof)


async def test_long_branch_is_long(server: SimulatedServer, wide_chain: SimulatedChain) -> None:
    """A long branch has 40 siblings of 32 bytes."""
    server.behaviour = Behaviour(long_branch=True)
    async with open_client(server) as client:
        for _, _, proof in await proofs(client, wide_chain):
            assert [len(hash_from_hex(one)) for one in proof["merkle"]] == [32] * 40


async def test_wrong_position_would_lead_to_the_root(server: SimulatedServer, wide_chain: SimulatedChain) -> None:
    """Who folds by the low bits of a wrong position gets to the header's root, so nothing but the position is wrong."""
    server.behaviour = Behaviour(wrong_position=True)
    async with open_client(server) as client:
        for txid, height, proof in await proofs(client, wide_chain):
            assert naive_root(txid, proof) == root_at(wide_chain, height)
            assert proof["pos"] >= 1 << len(proof["merkle"])


async def test_doubled_node_would_lead_to_the_root(server: SimulatedServer, wide_chain: SimulatedChain) -> None:
    """The last transaction of an odd block, or of an odd level, is proved at a second position by the same siblings."""
    server.behaviour = Behaviour(duplicate_sibling=True)
    async with open_client(server) as client:
        for height, position, moved in ((6, 2, 3), (7, 4, 6), (7, 5, 7)):
            txid = wide_chain.block_txids(height)[position]
            proof = await client.result(MERKLE, hex_of(txid), height)
            assert naive_root(txid, proof) == root_at(wide_chain, height)
            assert proof["pos"] == moved


async def test_proof_may_be_withheld(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A server that withholds proofs refuses them by txid and by position; everything else it tells."""
    txid = confirmed_txid(chain)
    server.behaviour = Behaviour(withholds_proof=True)
    async with open_client(server) as client:
        assert await client.refusal(MERKLE, hex_of(txid), 3) == 1
        assert await client.refusal(AT_POSITION, 3, 2, True) == 1
        assert await client.result(AT_POSITION, 3, 2, False) == hex_of(txid)
        assert len(await client.result(HISTORY, SHOP)) == 2
        server.behaviour = Behaviour()
        assert (await client.result(MERKLE, hex_of(txid), 3))["pos"] == 2


# A transaction of 64 bytes: CVE-2017-12842.


async def test_ambiguous_payment_is_proved_through_a_transaction(
    server: SimulatedServer, chain: SimulatedChain
) -> None:
    """A payment that never was has bytes, a history and a branch to a true root, with a transaction for a node."""
    script = forge.made_up_script("victim")
    name = hex_of(scripthash_of(script))
    txid = chain.mine_ambiguous(script, 5_000_000)
    async with open_client(server) as client:
        assert await client.result(SUBSCRIBE, name) is None
        server.behaviour = Behaviour(sixty_four_byte_branch=True)
        await server.publish()
        entries = await client.result(HISTORY, name)
        assert await client.notice() == (SUBSCRIBE, [name, status_of_list(entries)])
        assert entries == [{"tx_hash": hex_of(txid), "height": 6}]
        proof = await client.result(MERKLE, hex_of(txid), 6)
        raw = bytes.fromhex(await client.result(GET, hex_of(txid)))
    payment = parse_transaction(raw)
    assert (payment.txid, payment.received_by(script)) == (txid, {0: 5_000_000})
    assert is_transaction(txid + hash_from_hex(proof["merkle"][0]))
    assert naive_root(txid, proof) == root_at(chain, 6)
    with pytest.raises(MerkleBranchError, match="inner node"):
        checked_root(txid, proof)


async def test_ambiguous_payment_is_unknown_to_honest_servers(server: SimulatedServer, chain: SimulatedChain) -> None:
    """An honest server knows the 64 bytes and their proof, and nothing of the payment they seem to prove."""
    script = forge.made_up_script("victim")
    txid = chain.mine_ambiguous(script, 5_000_000)
    carrier = chain.block_txids(6)[1]
    async with open_client(server) as client:
        assert await client.refusal(GET, hex_of(txid)) == 2
        assert await client.refusal(MERKLE, hex_of(txid), 6) == 1
        assert await client.result(HISTORY, hex_of(scripthash_of(script))) == []
        raw = bytes.fromhex(await client.result(GET, hex_of(carrier)))
        proof = await client.result(MERKLE, hex_of(carrier), 6)
        server.behaviour = Behaviour(wrong_amount=True)
        assert await client.result(GET, hex_of(carrier)) == raw.hex()  # it has no amount that anybody could believe
    assert (len(raw), raw[:32], sha256d(raw)) == (64, txid, carrier)
    assert checked_root(carrier, proof) == root_at(chain, 6)


async def test_ambiguous_payment_goes_with_its_block(server: SimulatedServer, chain: SimulatedChain) -> None:
    """When the block of the 64 bytes is lost, the payment it seemed to prove is gone until they are mined again."""
    script = forge.made_up_script("victim")
    txid = chain.mine_ambiguous(script, 5_000_000)
    server.behaviour = Behaviour(sixty_four_byte_branch=True)
    async with open_client(server) as client:
        chain.reorg(1, blocks=2)
        assert await client.result(HISTORY, hex_of(scripthash_of(script))) == []
        chain.mine()
        assert await client.result(HISTORY, hex_of(scripthash_of(script))) == [{"tx_hash": hex_of(txid), "height": 8}]


async def test_other_payments_keep_their_proofs(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Where a server believes in an ambiguous payment, the proofs of true ones stay true."""
    chain.mine_ambiguous(SCRIPT, 7)
    server.behaviour = Behaviour(sixty_four_byte_branch=True)
    txid = confirmed_txid(chain)
    async with open_client(server) as client:
        proof = await client.result(MERKLE, hex_of(txid), 3)
    assert checked_root(txid, proof) == root_at(chain, 3)
    assert parsed(chain, txid).received_by(SCRIPT) == {0: 100_000}
