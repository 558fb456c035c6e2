"""The conversation: versions, batches, errors and notices, as a bare client sees them."""

import pytest

from lightipn.bitcoin.hashes import hex_of, sha256
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer
from tests.simulator.line_client import open_client
from tests.simulator.readers import SCRIPT, SHOP, shop_status

NOBODY = hex_of(sha256(b"nobody"))
HEADERS = "blockchain.headers.subscribe"
SUBSCRIBE = "blockchain.scripthash.subscribe"


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("1.4", "1.4"),
        ("1.4.2", "1.4.2"),
        ("1.6", "1.6"),
        ("1.6.0", "1.6"),
        (["1.4", "1.6"], "1.6"),
        (["1.2", "1.4.2"], "1.4.2"),
        (["1.4", "1.8"], "1.6"),
    ],
    ids=str,
)
async def test_highest_common_version_is_chosen(server: SimulatedServer, wanted: object, chosen: str) -> None:
    """The server chooses the highest protocol version that both sides speak."""
    async with open_client(server, None) as client:
        assert await client.result("server.version", "test", wanted) == ["Simulator 1.0", chosen]


@pytest.mark.parametrize("wanted", ["1.3", "1.7", ["1.0", "1.2"], ["1.7", "1.8"], "new", 1.4], ids=str)
async def test_no_common_version_ends_the_connection(server: SimulatedServer, wanted: object) -> None:
    """Without a common protocol version the client gets an error and is hung up on."""
    async with open_client(server, None) as client:
        assert await client.refusal("server.version", "test", wanted) == 1
        assert await client.receive_line() == b""


async def test_version_comes_first(server: SimulatedServer) -> None:
    """A client that asks anything before ``server.version`` is hung up on."""
    async with open_client(server, None) as client:
        assert await client.refusal("server.ping") == 1
        assert await client.receive_line() == b""


async def test_version_comes_once(server: SimulatedServer) -> None:
    """A second ``server.version`` is refused with code 1, and the connection is kept."""
    async with open_client(server) as client:
        assert await client.refusal("server.version", "test", "1.4") == 1
        assert await client.result("server.ping") is None


async def test_version_tolerates_more(server: SimulatedServer) -> None:
    """Further parameters of ``server.version`` are ignored."""
    async with open_client(server, None) as client:
        assert (await client.result("server.version", "test", "1.6", {"more": 1}))[1] == "1.6"


async def test_named_parameters_are_refused(server: SimulatedServer) -> None:
    """Parameters by name are refused, as by electrs."""
    async with open_client(server) as client:
        await client.send({"id": 7, "method": SUBSCRIBE, "params": {"scripthash": SHOP}})
        assert (await client.receive())["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("line", "code"),
    [(b"no json", -32700), (b"\xff\xfe", -32700), (b"[]", -32600), (b"7", -32600), (b'{"id":1}', -32600)],
)
async def test_broken_messages_have_codes(server: SimulatedServer, line: bytes, code: int) -> None:
    """What is no request is answered by an error without an id, and the connection is kept."""
    async with open_client(server) as client:
        await client.stream.send_all(line + b"\n\n")
        answer = await client.receive()
        assert (answer["error"]["code"], answer["id"]) == (code, None)
        assert await client.result("server.ping") is None


async def test_batch_is_answered_in_one_line(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A batch is answered by one list with an answer for every request that has an id."""
    async with open_client(server) as client:
        await client.send(
            [
                {"id": "a", "method": SUBSCRIBE, "params": [SHOP]},
                {"method": "server.ping"},
                {"id": "b", "method": "nonsense"},
                {"id": "c", "method": SUBSCRIBE, "params": [NOBODY]},
            ]
        )
        answers = {answer["id"]: answer for answer in await client.receive()}
    assert answers.keys() == {"a", "b", "c"}
    assert (answers["a"]["result"], answers["c"]["result"]) == (shop_status(chain), None)
    assert answers["b"]["error"]["code"] == -32601


async def test_silent_batch_has_no_answer(server: SimulatedServer) -> None:
    """A batch of requests without ids is carried out and not answered."""
    async with open_client(server) as client:
        await client.send([{"method": SUBSCRIBE, "params": [SHOP]}] * 2)
        assert await client.result("server.ping") is None
    assert server.calls[SUBSCRIBE] == 2


async def test_change_is_pushed_once(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A subscriber is told the new status once, and only of what it subscribed to."""
    async with open_client(server) as client:
        assert await client.result(SUBSCRIBE, SHOP) == shop_status(chain)
        chain.pay(SCRIPT, 9)
        chain.pay(forge.made_up_script("other"), 9)
        await server.publish()
        await server.publish()
        assert await client.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])
        assert await client.result("server.ping") is None
        assert client.notices == []


async def test_tip_is_pushed_before_statuses(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A block's header notice comes before the scripthash notices; several blocks are one notice of the last tip."""
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        assert await client.result(HEADERS) == {"hex": chain.header_at(5).hex(), "height": 5}
        chain.mine(3)
        await server.publish()
        assert await client.notice() == (HEADERS, [{"hex": chain.header_at(8).hex(), "height": 8}])
        assert await client.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])


async def test_reorg_is_pushed(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A reorg pushes the new tip and the reverted status, though the subscriber knows neither block."""
    async with open_client(server) as client:
        await client.result(HEADERS)
        before = await client.result(SUBSCRIBE, SHOP)
        chain.reorg(3)
        await server.publish()
        assert (await client.notice())[1][0]["height"] == 6
        after = (await client.notice())[1][1]
    assert after == shop_status(chain) != before


async def test_what_an_answer_told_is_not_pushed(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A change that a later answer has told already is no news."""
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        await client.result(HEADERS)
        chain.mine()
        await client.result(SUBSCRIBE, SHOP)
        await client.result(HEADERS)
        await server.publish()
        assert await client.result("server.ping") is None
        assert client.notices == []


async def test_unsubscribed_is_not_pushed(server: SimulatedServer, chain: SimulatedChain) -> None:
    """After an unsubscription nothing is pushed; it tells whether there was a subscription."""
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
        assert await client.result("blockchain.scripthash.unsubscribe", SHOP) is True
        assert await client.result("blockchain.scripthash.unsubscribe", SHOP) is False
        chain.pay(SCRIPT, 9)
        await server.publish()
        assert await client.result("server.ping") is None
        assert client.notices == []
