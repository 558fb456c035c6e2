"""Lies about the mempool: invented payments, and replacements that are hidden."""

import pytest

from lightipn.bitcoin.hashes import hex_of, scripthash_of
from lightipn.bitcoin.transaction import Outpoint
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.invention import InventedPayment
from lightipn.simulator.server import SimulatedServer
from tests.simulator.line_client import open_client
from tests.simulator.questions import has_no_more_notices, proof_folds, shop_history, told_transaction
from tests.simulator.readers import (
    SCRIPT,
    SCRIPTHASH,
    SHOP,
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


# invented payments


async def test_invented_payment_is_told_everywhere(server: SimulatedServer, chain: SimulatedChain) -> None:
    """An invented payment is in history, status, notice, balance and coins, and its bytes hash to its txid."""
    lie = InventedPayment(script=SCRIPT, amount_sat=5_000_000)
    async with open_client(server) as client:
        before = await shop_history(client)
        server.behaviour = Behaviour(invents=(lie,))
        await server.publish()
        after = await client.result(HISTORY, SHOP)
        assert await client.notice() == (SUBSCRIBE, [SHOP, status_of_list(after)])
        assert await shop_history(client) == {**before, hex_of(lie.txid): 0}
        assert {"tx_hash": hex_of(lie.txid), "height": 0, "fee": 1000} in after
        payment = await told_transaction(client, lie.txid)
        assert payment is not None
        assert payment.received_by(SCRIPT) == {0: 5_000_000}
        assert await told_transaction(client, payment.spends[0].txid) is None
        assert await client.result(BALANCE, SHOP) == {"confirmed": 100_000, "unconfirmed": 5_007_000}
        assert 5_000_000 in [coin["value"] for coin in await client.result(UNSPENT, SHOP)]
        assert await client.refusal(MERKLE, hex_of(lie.txid), 5) == 1
    assert chain.transaction(lie.txid) is None


async def test_invented_payment_stays_while_the_chain_goes_on(server: SimulatedServer, chain: SimulatedChain) -> None:
    """An invented payment is never confirmed, and stands beside true ones that are."""
    lie = InventedPayment(script=SCRIPT, amount_sat=5_000_000)
    server.behaviour = Behaviour(invents=(lie, lie))
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        chain.mine(3)
        await server.publish()
        entries = await client.result(HISTORY, SHOP)
        assert await client.notice() == (SUBSCRIBE, [SHOP, status_of_list(entries)])
        assert heights_of(entries) == [3, 6, 0]
        assert entries[2]["tx_hash"] == hex_of(lie.txid)


async def test_invented_payment_may_spend_too_little(server: SimulatedServer, chain: SimulatedChain) -> None:
    """An invented payment may spend a real output of less than it pays, and is in the history of who was paid that."""
    source = Outpoint(confirmed_txid(chain), 0)
    lie = InventedPayment(script=OTHER_SCRIPT, amount_sat=5_000_000, spend=source)
    server.behaviour = Behaviour(invents=(lie,))
    async with open_client(server) as client:
        payment = await told_transaction(client, lie.txid)
        assert payment is not None
        assert payment.spends == (source,)
        parent = await told_transaction(client, source.txid)
        assert parent is not None
        assert parent.outputs[0].amount_sat < payment.outputs[0].amount_sat
        for script in (SCRIPT, OTHER_SCRIPT):
            entries = await client.result(HISTORY, hex_of(scripthash_of(script)))
            assert {"tx_hash": hex_of(lie.txid), "height": 0, "fee": 0} in entries


async def test_invented_confirmation_is_not_proved(server: SimulatedServer, chain: SimulatedChain) -> None:
    """An invented payment may claim a block: its branch folds to another root, and those of true payments do not."""
    lie = InventedPayment(script=SCRIPT, amount_sat=5_000_000, height=3)
    server.behaviour = Behaviour(invents=(lie,))
    async with open_client(server) as client:
        assert list((await shop_history(client)).values()) == [3, 3, 0]
        assert not await proof_folds(client, lie.txid, 3)
        assert await client.refusal(MERKLE, hex_of(lie.txid), 2) == 1
        for txid in chain.block_txids(3):
            assert await proof_folds(client, txid, 3)
        assert await client.result(BALANCE, SHOP) == {"confirmed": 5_100_000, "unconfirmed": 7_000}


async def test_invented_confirmation_may_be_above_the_tip(server: SimulatedServer) -> None:
    """An invented payment may claim a height that no block has; its proof is refused."""
    lie = InventedPayment(script=SCRIPT, amount_sat=5_000_000, height=60)
    server.behaviour = Behaviour(invents=(lie,))
    async with open_client(server) as client:
        assert list((await shop_history(client)).values()) == [3, 60, 0]
        assert await client.refusal(MERKLE, hex_of(lie.txid), 60) == 1


def test_invented_height_starts_at_one() -> None:
    """A claimed height below 1 would say "unconfirmed", so it is refused."""
    with pytest.raises(ValueError, match="at least 1"):
        InventedPayment(script=SCRIPT, amount_sat=1, height=0)


# hidden replacements


async def test_replaced_transaction_is_still_claimed(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A server that hides replacements says after one what it said before, and nothing of the other transaction."""
    original = chain.history(SCRIPTHASH)[1].txid
    server.behaviour = Behaviour(hides_replacement=True)
    async with open_client(server) as client:
        before = await shop_history(client)
        replacing = chain.replace(original, OTHER_SCRIPT)
        await server.publish()
        assert await shop_history(client) == before
        assert await told_transaction(client, original) is not None
        assert await told_transaction(client, replacing) is None
        assert hex_of(replacing) not in str(await client.result(HISTORY, hex_of(scripthash_of(OTHER_SCRIPT))))
        assert await has_no_more_notices(client)
        server.behaviour = Behaviour()
        await server.publish()
        assert await client.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])
        assert await told_transaction(client, original) is None
        assert await told_transaction(client, replacing) is not None


async def test_replacement_stays_hidden_in_a_block(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Also when the replacing transaction is mined, and paid on, the original is claimed and the others are not."""
    original = chain.history(SCRIPTHASH)[1].txid
    server.behaviour = Behaviour(hides_replacement=True)
    async with open_client(server) as client:
        replacing = chain.replace(original, OTHER_SCRIPT)
        child = chain.pay(SCRIPT, 5_000, spend=[Outpoint(replacing, 0)])
        chain.mine()
        assert await shop_history(client) == {hex_of(confirmed_txid(chain)): 3, hex_of(original): 0}
        assert (await client.result(HEADERS))["height"] == 6
        for hidden in (replacing, child):
            assert await told_transaction(client, hidden) is None
            assert await client.refusal(MERKLE, hex_of(hidden), 6) == 1
        assert await proof_folds(client, chain.block_txids(6)[0], 6)


async def test_replaced_twice_is_still_the_first(server: SimulatedServer, chain: SimulatedChain) -> None:
    """After two replacements the server still claims what it saw first, and not what came between."""
    original = chain.history(SCRIPTHASH)[1].txid
    server.behaviour = Behaviour(hides_replacement=True)
    async with open_client(server) as client:
        second = chain.replace(original)
        await server.publish()
        third = chain.replace(second)
        assert list(await shop_history(client)) == [hex_of(confirmed_txid(chain)), hex_of(original)]
        assert [await told_transaction(client, txid) for txid in (second, third)] == [None, None]


async def test_evicted_family_is_still_claimed(server: SimulatedServer, chain: SimulatedChain) -> None:
    """An evicted transaction and its child are still claimed, the child as one of an unconfirmed parent."""
    parent = chain.history(SCRIPTHASH)[1].txid
    child = chain.pay(SCRIPT, 6_000, spend=[Outpoint(parent, 0)])
    server.behaviour = Behaviour(hides_replacement=True)
    chain.evict(parent)
    async with open_client(server) as client:
        assert await shop_history(client) == {
            hex_of(confirmed_txid(chain)): 3,
            hex_of(parent): 0,
            hex_of(child): -1,
        }


async def test_what_was_never_seen_is_not_claimed(server: SimulatedServer, chain: SimulatedChain) -> None:
    """What was replaced before the server saw it is unknown to it; what it saw and was then mined is confirmed."""
    seen = chain.history(SCRIPTHASH)[1].txid
    server.behaviour = Behaviour(hides_replacement=True)
    unseen = chain.pay(SCRIPT, 9)
    replacing = chain.replace(unseen, SCRIPT, 10)
    chain.mine()
    async with open_client(server) as client:
        assert await told_transaction(client, unseen) is None
        assert (await shop_history(client))[hex_of(seen)] == 6
        assert (await shop_history(client))[hex_of(replacing)] == 6


async def test_what_was_seen_later_is_claimed_too(server: SimulatedServer, chain: SimulatedChain) -> None:
    """Also what came after the server began to hide replacements stays in its mempool, from the first look on."""
    server.behaviour = Behaviour(hides_replacement=True)
    later = chain.pay(SCRIPT, 9)
    await server.publish()
    chain.replace(later, OTHER_SCRIPT)
    async with open_client(server) as client:
        assert (await shop_history(client))[hex_of(later)] == 0


async def test_honest_server_forgets_what_was_replaced(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A server that was honest in between does not claim again what was replaced before."""
    original = chain.history(SCRIPTHASH)[1].txid
    server.behaviour = Behaviour(hides_replacement=True)
    chain.replace(original, OTHER_SCRIPT)
    async with open_client(server) as client:
        assert hex_of(original) in await shop_history(client)
        server.behaviour = Behaviour()
        server.behaviour = Behaviour(hides_replacement=True)
        assert hex_of(original) not in await shop_history(client)
