"""Every way in which the simulated server misbehaves, each seen by a bare client."""

import re
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
from lightipn.simulator.behaviour import HONEST_FIELDS, Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.false_answers import PHISHING
from lightipn.simulator.invention import InventedPayment
from lightipn.simulator.lies import HISTORY_LIES, LIES
from lightipn.simulator.methods import METHODS
from lightipn.simulator.outlook import ALTERING_FIELDS
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
    """Every row of the tables names a field of the behaviour and a method that exist."""
    names = {field.name for field in fields(Behaviour)}
    assert {row[0] for row in (*LIES, *HISTORY_LIES)} | ALTERING_FIELDS | HONEST_FIELDS <= names
    assert {row[1] for row in LIES} <= METHODS.keys()


def test_every_field_is_explained() -> None:
    """The docstring of the behaviour names every field, in the order of the fields, each once."""
    explained = re.findall(r"^        (\w+(?:, \w+)*):", Behaviour.__doc__ or "", re.MULTILINE)
    assert ", ".join(explained).split(", ") == [field.name for field in fields(Behaviour)]


def test_honest_behaviour_switches_nothing_on() -> None:
    """The default behaviour is honest, and each misbehaviour is one field that differs from it."""
    assert Behaviour().switched_on() == frozenset()
    assert Behaviour(tip_inflated=2, hides=frozenset({Txid(bytes(32))})).switched_on() == {"tip_inflated", "hides"}


def test_limits_are_no_lies() -> None:
    """A server with limits is honest, and one with a lie is not; a behaviour can be the key of a table."""
    assert Behaviour(max_history=9, cost_hard_limit=10, software="other").is_honest
    assert not Behaviour(stale_tip=0).is_honest
    lie = InventedPayment(script=SCRIPT, amount_sat=1)
    assert len({Behaviour(), Behaviour(), Behaviour(invents=(lie,)), Behaviour(invents=(lie,))}) == 2


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


async def test_transactions_may_be_denied(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A server that denies transactions does so in the words for an unknown one, and lists and proves them still."""
    txid = hex_of(paid_in_block(chain))
    async with open_client(server) as client:
        unknown = (await client.ask("blockchain.transaction.get", "ff" * 32))["error"]
        assert "result" in await client.ask("blockchain.transaction.get", txid)
        server.behaviour = Behaviour(denies_transactions=True)
        assert (await client.ask("blockchain.transaction.get", txid))["error"] == unknown
        assert unknown["code"] == 2
        assert txid in [entry["tx_hash"] for entry in await client.result(HISTORY, SHOP)]
        assert (await client.result(MERKLE, txid, 3))["pos"] == 2


@pytest.mark.parametrize("wanted", ["1.4", "1.6", ["1.4", "1.6"]], ids=str)
async def test_protocol_may_be_downgraded(server: SimulatedServer, wanted: object) -> None:
    """With ``old_protocol`` the server answers 1.2, whatever was asked for; an honest one does not."""
    async with open_client(server, None) as client:
        assert (await client.result("server.version", "test", wanted))[1] in ("1.4", "1.6")
    server.behaviour = Behaviour(old_protocol=True)
    async with open_client(server, None) as client:
        assert await client.result("server.version", "test", wanted) == ["Simulator 1.0", "1.2"]


async def test_old_server_may_refuse(server: SimulatedServer) -> None:
    """A server whose highest protocol is below 1.4 refuses every newer client, and hangs up."""
    server.behaviour = Behaviour(max_protocol="1.2")
    async with open_client(server, None) as client:
        assert await client.refusal("server.version", "test", ["1.4", "1.6"]) == 1
        assert await client.receive_line() == b""


async def test_texts_may_phish(server: SimulatedServer) -> None:
    """With ``phishing_text`` every text of the server's own carries a link and what a terminal obeys."""
    server.behaviour = Behaviour(phishing_text=True, software="Fulcrum 2.1.1", batch_limit=1)
    async with open_client(server, None) as client:
        texts = [(await client.result("server.version", "test", "1.6"))[0]]
        assert texts[0].startswith("Fulcrum 2.1.1 ")
        texts.append((await client.result("server.features"))["server_version"])
        texts.append(await client.result("server.banner"))
        for method, *params in (("nonsense",), ("blockchain.transaction.get", "ff" * 32), (HISTORY, "no hash")):
            texts.append((await client.ask(method, *params))["error"]["message"])
        for message in ([{"id": 1, "method": "server.ping"}] * 2, [], 7):
            await client.send(message)
            texts.append((await client.receive())["error"]["message"])
        await client.stream.send_all(b"no json\n")
        texts.append((await client.receive())["error"]["message"])
    assert all(PHISHING in text for text in texts)
    assert "http://" in PHISHING
    assert "\x1b[" in PHISHING


async def test_honest_texts_are_plain(server: SimulatedServer) -> None:
    """An honest server's texts hold nothing that a terminal obeys."""
    async with open_client(server) as client:
        texts = [await client.result("server.banner"), (await client.result("server.features"))["server_version"]]
        texts.append((await client.ask("blockchain.transaction.get", "ff" * 32))["error"]["message"])
    assert all(text.isprintable() and "http" not in text for text in texts)
