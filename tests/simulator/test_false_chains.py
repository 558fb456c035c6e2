"""Lies about the chain: the server looks at another one, and everything it says of that one fits together."""

import pytest

from lightipn.bitcoin.hashes import Txid, hex_of, sha256
from lightipn.bitcoin.header import check_proof_of_work, parse_header, work_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint
from lightipn.errors import HeaderError
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.invention import InventedPayment
from lightipn.simulator.server import SimulatedServer
from tests.simulator.line_client import open_client
from tests.simulator.questions import all_headers, has_no_more_notices, proof_folds, shop_history, told_transaction
from tests.simulator.readers import (
    SCRIPT,
    SCRIPTHASH,
    SHOP,
    chain_of_headers,
    confirmed_txid,
    heights_of,
    shop_status,
    status_of_list,
)

HEADERS = "blockchain.headers.subscribe"
SUBSCRIBE = "blockchain.scripthash.subscribe"
HISTORY = "blockchain.scripthash.get_history"
BALANCE = "blockchain.scripthash.get_balance"
UNSPENT = "blockchain.scripthash.listunspent"
MERKLE = "blockchain.transaction.get_merkle"
OTHER_SCRIPT = forge.made_up_script("other")


# a stale tip


async def test_stale_server_knows_no_later_block(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A server with a stale tip knows neither later headers nor what was first seen after them, and pushes nothing."""
    unconfirmed = chain.history(SCRIPTHASH)[1].txid
    server.behaviour = Behaviour(stale_tip=5)
    async with open_client(server) as client:
        before, headers = await shop_history(client), await all_headers(client)
        chain.mine(2)
        late = chain.pay(SCRIPT, 9)
        await server.publish()
        chain.mine()
        await server.publish()
        assert (await shop_history(client), await all_headers(client)) == (before, headers)
        assert before[hex_of(unconfirmed)] == 0
        assert await told_transaction(client, late) is None
        assert await client.refusal(MERKLE, hex_of(unconfirmed), 6) == 1
        assert await client.refusal("blockchain.block.header", 6) == 1
        assert await has_no_more_notices(client)
        server.behaviour = Behaviour()
        await server.publish()
        assert await client.notice() == (HEADERS, [{"hex": chain.header_at(8).hex(), "height": 8}])
        assert await client.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])


async def test_stale_server_follows_the_chain_until_it_stops(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Up to the stale height the server tells the truth; its mempool stays what it was when the chain went on."""
    server.behaviour = Behaviour(stale_tip=6)
    async with open_client(server) as client:
        chain.mine()
        last = chain.pay(SCRIPT, 9)
        await server.publish()
        assert await shop_history(client) == {
            hex_of(entry.txid): entry.height or 0 for entry in chain.history(SCRIPTHASH)
        }
        chain.replace(last, OTHER_SCRIPT)
        chain.mine()
        assert (await shop_history(client))[hex_of(last)] == 0
        assert (await client.result(HEADERS))["height"] == 6


async def test_stale_tip_may_lie_in_the_past(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Below the present tip, what is in later blocks is unknown, and the mempool is the present one."""
    unconfirmed = chain.history(SCRIPTHASH)[1].txid
    server.behaviour = Behaviour(stale_tip=2)
    async with open_client(server) as client:
        assert await shop_history(client) == {hex_of(unconfirmed): 0}
        assert await all_headers(client) == chain.headers_from(0, 3)
        assert await told_transaction(client, confirmed_txid(chain)) is None
        assert await client.result(BALANCE, SHOP) == {"confirmed": 0, "unconfirmed": 7_000}


async def test_stale_mempool_does_not_contradict_blocks(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Where a reorg puts a replacement into a block that the stale server knows, it gives up the original."""
    original = chain.history(SCRIPTHASH)[1].txid
    server.behaviour = Behaviour(stale_tip=5)
    async with open_client(server) as client:
        replacing = chain.replace(original)
        chain.mine()
        assert (await shop_history(client))[hex_of(original)] == 0
        chain.reorg(2, remine=True)
        assert await shop_history(client) == {hex_of(confirmed_txid(chain)): 3, hex_of(replacing): 5}


async def test_stale_tip_may_be_moved(server: SimulatedServer, chain: SimulatedChain) -> None:
    """With another stale height the mempool is the present one again."""
    server.behaviour = Behaviour(stale_tip=2)
    late = chain.pay(SCRIPT, 9)
    async with open_client(server) as client:
        assert hex_of(late) not in await shop_history(client)
        server.behaviour = Behaviour(stale_tip=3)
        assert list((await shop_history(client)).values()) == [3, 0, 0]
        assert hex_of(late) in await shop_history(client)


# a branch with less work


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 9])
async def test_low_work_branch_is_valid_and_shorter(server: SimulatedServer, chain: SimulatedChain, depth: int) -> None:
    """The branch leaves the true chain so many blocks below the tip, obeys all rules, and has one block fewer."""
    server.behaviour = Behaviour(low_work_chain=depth)
    fork_height = max(5 - depth, 0)
    async with open_client(server) as client:
        headers = await all_headers(client)
    assert len(headers) - 1 == 4
    assert headers[: fork_height + 1] == chain.headers_from(0, fork_height + 1)
    assert not set(headers[fork_height + 1 :]) & set(chain.headers_from(0, 9))
    ours = chain_of_headers()
    assert ours.extended_by(1, headers[1:]) is not None


async def test_low_work_branch_has_its_own_history(server: SimulatedServer, chain: SimulatedChain) -> None:
    """What only the true chain has confirmed is unconfirmed on the branch, and what is below the fork is proved."""
    first, second = (entry.txid for entry in chain.history(SCRIPTHASH))
    server.behaviour = Behaviour(low_work_chain=3)
    async with open_client(server) as client:
        assert await shop_history(client) == {hex_of(first): 0, hex_of(second): 0}
        server.behaviour = Behaviour(low_work_chain=2)
        assert await shop_history(client) == {hex_of(first): 3, hex_of(second): 0}
        assert await proof_folds(client, first, 3)
        assert await told_transaction(client, chain.block_txids(5)[0]) is None


async def test_low_work_branch_grows_with_the_true_chain(server: SimulatedServer, chain: SimulatedChain) -> None:
    """With each true block the branch grows by one, pushed as its tip; what it had stays, byte by byte."""
    server.behaviour = Behaviour(low_work_chain=3)
    async with open_client(server) as client:
        before = await all_headers(client)
        await client.result(SUBSCRIBE, SHOP)
        chain.pay(SCRIPT, 9)
        chain.mine()
        await server.publish()
        entries = await client.result(HISTORY, SHOP)
        after = await all_headers(client)
        assert await client.notice() == (HEADERS, [{"hex": after[-1].hex(), "height": 5}])
        assert await client.notice() == (SUBSCRIBE, [SHOP, status_of_list(entries)])
        assert heights_of(entries) == [0, 0, 0]
        assert after[:-1] == before
        assert (len(after) - 1, chain.tip_height) == (5, 6)


async def test_payment_invented_on_a_branch_is_proved_there(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A payment invented for a block of the branch is in it, with a proof that folds to the branch's own header."""
    lie = InventedPayment(script=SCRIPT, amount_sat=5_000_000, height=4)
    server.behaviour = Behaviour(low_work_chain=3, invents=(lie,))
    async with open_client(server) as client:
        assert (await shop_history(client))[hex_of(lie.txid)] == 4
        assert await proof_folds(client, lie.txid, 4)
        assert (await all_headers(client))[4] != chain.header_at(4)


async def test_true_chain_is_told_again(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A server that returns to the truth pushes the true tip and the true status."""
    server.behaviour = Behaviour(low_work_chain=3)
    async with open_client(server) as client:
        await client.result(HEADERS)
        await client.result(SUBSCRIBE, SHOP)
        server.behaviour = Behaviour()
        await server.publish()
        assert await client.notice() == (HEADERS, [{"hex": chain.header_at(5).hex(), "height": 5}])
        assert await client.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])


# false headers


@pytest.mark.parametrize("field", ["wrong_bits", "unlinked_tip"])
async def test_false_tip_is_told_everywhere_and_refused(
    server: SimulatedServer, chain: SimulatedChain, field: str
) -> None:
    """A false tip carries its work, is told and pushed alike, and is the only header that our own chain refuses."""
    server.behaviour = Behaviour(**{field: True})
    async with open_client(server) as client:
        for height in (5, 6):
            headers = await all_headers(client)
            assert headers[:-1] == chain.headers_from(0, height)
            assert headers[-1] != chain.header_at(height)
            check_proof_of_work(parse_header(headers[-1]), REGTEST)
            ours = chain_of_headers()
            ours_before_tip = ours.extended_by(1, headers[1:-1])
            assert ours_before_tip is not None
            with pytest.raises(HeaderError):
                ours.extended_by(1, headers[1:])
            chain.mine()
            await server.publish()
        assert (await client.notice())[1][0]["height"] == 6


async def test_false_tips_differ_in_what_is_wrong(server: SimulatedServer, chain: SimulatedChain) -> None:
    """One false tip states 256 times the work and links; the other states the right bits and links to nothing."""
    true = parse_header(chain.header_at(5))
    async with open_client(server) as client:
        server.behaviour = Behaviour(wrong_bits=True)
        heavy = parse_header((await all_headers(client))[-1])
        server.behaviour = Behaviour(unlinked_tip=True)
        loose = parse_header((await all_headers(client))[-1])
    assert (heavy.previous_hash, heavy.merkle_root) == (true.previous_hash, true.merkle_root)
    assert work_of(heavy.bits) // work_of(true.bits) == 256
    assert (loose.bits, loose.merkle_root) == (true.bits, true.merkle_root)
    assert loose.previous_hash not in {chain.block_at(height).block_hash for height in range(6)}


async def test_genesis_is_never_spoiled(server: SimulatedServer) -> None:
    """Where genesis is the tip, it stays what it is."""
    async with open_client(server) as client:
        server.behaviour = Behaviour(stale_tip=0, wrong_bits=True, unlinked_tip=True)
        assert await all_headers(client) == [REGTEST.genesis_header]


# the truth behind it


async def test_broadcast_reaches_the_true_chain(server: SimulatedServer, chain: SimulatedChain) -> None:
    """What is broadcast through a server that looks at another chain reaches the true one, and that server too."""
    server.behaviour = Behaviour(low_work_chain=2)
    payment = InventedPayment(script=SCRIPT, amount_sat=900).transaction
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        assert await client.result("blockchain.transaction.broadcast", payment.raw.hex()) == hex_of(payment.txid)
        entries = await client.result(HISTORY, SHOP)
        assert await client.notice() == (SUBSCRIBE, [SHOP, status_of_list(entries)])
    assert chain.transaction(payment.txid) == payment.raw
    assert hex_of(payment.txid) in [entry["tx_hash"] for entry in entries]


async def test_lies_leave_the_chain_alone(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A lying server changes nothing in the chain that others serve."""
    before = (chain.version, chain.history(SCRIPTHASH), chain.headers_from(0, 9), chain.mempool)
    lie = InventedPayment(script=SCRIPT, amount_sat=1, height=2, spend=Outpoint(Txid(sha256(b"x")), 0))
    async with open_client(server) as client:
        for behaviour in (
            Behaviour(low_work_chain=3, invents=(lie,)),
            Behaviour(stale_tip=2, hides_replacement=True),
            Behaviour(wrong_bits=True, sixty_four_byte_branch=True),
        ):
            server.behaviour = behaviour
            await shop_history(client)
    assert (chain.version, chain.history(SCRIPTHASH), chain.headers_from(0, 9), chain.mempool) == before
