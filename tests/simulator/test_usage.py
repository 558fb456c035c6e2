"""Limits of real servers, which honest ones have: by IP address as Fulcrum, by cost as ElectrumX."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.hashes import hex_of, sha256
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from lightipn.simulator.usage import CONNECTION_COST, COSTS, ERROR_COST, Cost, UsageBook, cost_of
from tests.simulator.certificates import self_signed
from tests.simulator.line_client import LineClient, open_client
from tests.simulator.readers import SHOP

SUBSCRIBE = "blockchain.scripthash.subscribe"
UNSUBSCRIBE = "blockchain.scripthash.unsubscribe"
LIMITS = (1000.0, 10_000.0)


def nobody(number: int) -> str:
    """Return the scripthash of nobody, as it is on the wire."""
    return hex_of(sha256(f"nobody {number}".encode()))


def batch_of(length: int) -> list[dict[str, object]]:
    """Return a batch of so many requests."""
    return [{"id": number, "method": "server.ping"} for number in range(length)]


@asynccontextmanager
async def open_from(server: SimulatedServer, address: str) -> AsyncIterator[LineClient]:
    """Connect from a certain address and say nothing."""
    async with await trio.open_tcp_stream(server.host, server.port, local_address=address) as stream:
        yield LineClient(stream)


async def is_reset(client: LineClient) -> bool:
    """Tell whether the server ends the connection by a reset, and not in an orderly way."""
    try:
        await client.receive_line()
    except trio.BrokenResourceError as error:
        return isinstance(error.__cause__, ConnectionResetError)
    return False


# connections, subscriptions and batches of an IP


async def test_too_many_clients_are_reset(server: SimulatedServer) -> None:
    """Beyond ``max_clients_per_ip`` a connection is reset; other addresses are served, and so is who comes later."""
    server.behaviour = Behaviour(max_clients_per_ip=2)
    async with open_client(server), open_client(server) as second:
        async with open_from(server, "127.0.0.1") as third:
            assert await is_reset(third)
        assert (server.connections, server.accepted, server.turned_away) == (2, 2, 1)
        async with open_from(server, "127.0.0.2") as stranger:
            assert await stranger.result("server.version", "test", "1.6")
            await second.stream.aclose()
            while server.connections > 2:
                await trio.testing.wait_all_tasks_blocked()
            async with open_client(server) as late:
                assert await late.result("server.ping") is None


async def test_too_many_clients_are_reset_before_tls(
    chain: SimulatedChain, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Beyond the limit there is no handshake either."""
    context = self_signed(tmp_path / "server.pem")
    behaviour = Behaviour(max_clients_per_ip=0)
    server = await nursery.start(partial(serve_electrum, chain, behaviour, ssl_context=context))
    async with open_from(server, "127.0.0.1") as client:
        assert await is_reset(client)


async def test_too_many_subscriptions_are_refused(server: SimulatedServer) -> None:
    """Beyond ``max_subs_per_ip`` subscriptions get code 4, over all connections of an address and of no other."""
    server.behaviour = Behaviour(max_subs_per_ip=3)
    async with open_client(server) as one, open_client(server) as two:
        for number in range(2):
            await one.result(SUBSCRIBE, nobody(number))
        await two.result(SUBSCRIBE, nobody(0))
        assert await two.refusal(SUBSCRIBE, SHOP) == 4
        assert await one.result(SUBSCRIBE, nobody(1)) is None  # not a new one
        async with open_from(server, "127.0.0.2") as stranger:
            await stranger.result("server.version", "test", "1.6")
            assert await stranger.result(SUBSCRIBE, SHOP) is not None
        assert await one.result(UNSUBSCRIBE, nobody(0)) is True
        assert await two.result(SUBSCRIBE, SHOP) is not None


async def test_subscriptions_end_with_their_connection(server: SimulatedServer) -> None:
    """What a client was subscribed to counts no longer when it is gone."""
    server.behaviour = Behaviour(max_subs_per_ip=1)
    async with open_client(server) as client:
        await client.result(SUBSCRIBE, SHOP)
    await server.drop_connections()
    async with open_client(server) as client:
        assert await client.result(SUBSCRIBE, SHOP) is not None


async def in_memory(
    chain: SimulatedChain, behaviour: Behaviour, nursery: trio.Nursery, count: int
) -> tuple[SimulatedServer, list[LineClient]]:
    """Return a server and clients that speak with it over streams in memory, all from one address."""
    server = SimulatedServer(chain, Behaviour(), host="", port=0)
    clients = []
    for _ in range(count):
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(server.serve, far)
        clients.append(LineClient(near))
        await clients[-1].result("server.version", "test", "1.6")
    server.behaviour = behaviour
    return server, clients


async def test_batches_of_an_address_count_together(
    chain: SimulatedChain, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """While their answers are under way, batches of all connections count together; one too many gets a null id."""
    _, (one, two) = await in_memory(chain, Behaviour(max_batch_items=345, delay_s=1.0), nursery, 2)
    for client, length in ((one, 100), (two, 200), (one, 45)):
        await client.send(batch_of(length))
        await trio.testing.wait_all_tasks_blocked()
    await two.send(batch_of(1))
    await one.send({"id": 7, "method": "server.ping"})
    refusal = {"code": 4, "message": "Batch limit exceeded"}
    told_one, told_two = [await one.receive() for _ in range(3)], [await two.receive() for _ in range(2)]
    assert {"jsonrpc": "2.0", "error": refusal, "id": None} in told_two
    assert {"jsonrpc": "2.0", "result": None, "id": 7} in told_one  # one request is no batch
    assert sorted(len(told) for told in told_one + told_two if isinstance(told, list)) == [45, 100, 200]
    await two.send(batch_of(345))
    assert len(await two.receive()) == 345


async def test_silent_and_interrupted_batches_are_over(
    chain: SimulatedChain, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A batch without answers, and one whose client is gone, count no longer."""
    server, (one, two) = await in_memory(chain, Behaviour(max_batch_items=10), nursery, 2)
    for _ in range(3):
        await two.send([{"method": "server.ping"}] * 10)
        await trio.testing.wait_all_tasks_blocked()
    server.behaviour = Behaviour(max_batch_items=10, delay_s=60.0)
    await one.send(batch_of(10))
    await trio.testing.wait_all_tasks_blocked()
    await one.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    server.behaviour = Behaviour(max_batch_items=10)
    await two.send(batch_of(10))
    assert len(await two.receive()) == 10


# costs


@pytest.mark.parametrize(
    ("method", "params", "cost"),
    [
        (SUBSCRIBE, [SHOP], 1.0),
        ("server.ping", [], 0.1),
        ("nonsense", {}, 1.0),
        ("blockchain.block.headers", [0, 8], 0.16),
        ("blockchain.block.headers", [0, 10**400], 2016 / 50),
        ("blockchain.block.headers", [0, "8"], 1.0),
        ("blockchain.block.headers", [0], 1.0),
    ],
)
def test_requests_have_their_costs(method: str, params: object, cost: float) -> None:
    """A request costs what its method costs; headers cost by their number."""
    assert cost_of(method, params) == pytest.approx(cost)


def test_costs_decay() -> None:
    """What was spent decays by the hard limit in 10,000 s, and never below nothing."""
    cost = Cost()
    cost.charge(100.0, LIMITS, now=0.0)
    cost.charge(1.0, LIMITS, now=40.0)
    assert cost.spent == pytest.approx(61.0)
    cost.charge(1.0, LIMITS, now=1e6)
    assert cost.spent == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("spent", "requests", "delay_s"),
    [
        (999.0, 1, 0.0),
        (1000.0, 100, 0.0),
        (1900.0, 1, 0.25),
        (5500.0, 1, 1.25),
        (5500.0, 5, 1.25),
        (5500.0, 6, 2.5),
        (10_000.0, 2, 5.0),
        (5500.0, 0, 0.0),
    ],
)
def test_excess_delays_answers(spent: float, requests: int, delay_s: float) -> None:
    """Beyond the soft limit answers are delayed: in proportion to the excess, and to requests that wait for others."""
    assert Cost(spent=spent).delay_s(LIMITS, requests) == pytest.approx(delay_s)


@pytest.mark.parametrize(
    ("behaviour", "limits"),
    [
        (Behaviour(), None),
        (Behaviour(cost_soft_limit=1000), (1000, 10_000)),
        (Behaviour(cost_hard_limit=10_000), (1000, 10_000)),
        (Behaviour(cost_soft_limit=5, cost_hard_limit=6), (5, 6)),
    ],
)
def test_one_cost_limit_implies_the_other(behaviour: Behaviour, limits: tuple[float, float] | None) -> None:
    """Where one limit is set, the other stands to it as in ElectrumX; without any, costs are not counted."""
    assert behaviour.cost_limits == limits


def test_neighbours_share_costs_only() -> None:
    """Addresses of one /24 network share their costs, and nothing else; other networks share nothing."""
    book = UsageBook()
    one, neighbour, stranger = (book.usage_of(address) for address in ("10.0.0.1", "10.0.0.9", "10.0.1.1"))
    assert one.cost is neighbour.cost
    assert one is not neighbour
    assert stranger.cost is not one.cost
    assert book.usage_of("10.0.0.1") is one
    assert book.usage_of("::1").cost is not book.usage_of("::2").cost


async def test_answers_come_later_beyond_the_soft_limit(
    chain: SimulatedChain, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Up to the soft limit answers come at once, then ever later, and at once again when the cost has decayed."""
    _, (client,) = await in_memory(chain, Behaviour(cost_soft_limit=100, cost_hard_limit=300), nursery, 1)

    async def seconds(count: int) -> float:
        started = trio.current_time()
        await client.send([{"id": n, "method": SUBSCRIBE, "params": [nobody(n)]} for n in range(count)])
        assert len(await client.receive()) == count
        return trio.current_time() - started

    assert await seconds(99) == 0.0
    assert 0.0 < (first := await seconds(20)) < await seconds(20)
    assert first == pytest.approx(0.095 * 2.5 * 2, rel=0.01)  # 19 of 200 above, two rounds of ten
    await trio.sleep(10_000)
    assert await seconds(1) == 0.0


async def test_excess_ends_the_connection(
    chain: SimulatedChain, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Beyond the hard limit a request gets code -101, what follows it nothing, and the connection ends."""
    behaviour = Behaviour(cost_soft_limit=9, cost_hard_limit=10)
    _, (client,) = await in_memory(chain, behaviour, nursery, 1)
    await client.send([{"id": n, "method": SUBSCRIBE, "params": [nobody(n)]} for n in range(20)])
    answers = await client.receive()
    assert [answer.get("error", {}).get("code") for answer in answers] == [None] * 10 + [-101]
    assert await client.receive_line() == b""


async def test_cost_survives_a_reconnect(server: SimulatedServer) -> None:
    """Who spent too much is sent away again when it comes back, also from a neighbour's address, and others are not."""
    server.behaviour = Behaviour(cost_soft_limit=10 * ERROR_COST, cost_hard_limit=ERROR_COST)  # and no delays
    async with open_client(server) as client:
        assert await client.refusal("nonsense") == -32601
        assert await client.refusal("server.ping") == -101
    for address, code in (("127.0.0.1", -101), ("127.0.0.2", -101), ("127.0.1.1", None)):
        async with open_from(server, address) as client:
            answer = await client.ask("server.version", "test", "1.6")
        assert answer.get("error", {}).get("code") == code
    assert CONNECTION_COST + COSTS["server.version"] < ERROR_COST / 10


async def test_reconnects_have_their_cost(server: SimulatedServer) -> None:
    """Who reconnects again and again, and asks for nothing, spends too much at last."""
    server.behaviour = Behaviour(cost_soft_limit=20, cost_hard_limit=20)
    for code in (None, None, None, -101):  # 5.5 each
        async with open_from(server, "127.0.0.1") as client:
            answer = await client.ask("server.version", "test", "1.6")
        assert answer.get("error", {}).get("code") == code


async def test_no_limit_counts_nothing(server: SimulatedServer) -> None:
    """Without limits, costs are neither counted nor answers delayed."""
    async with open_client(server) as client:
        await client.send([{"id": n, "method": "nonsense"} for n in range(1000)])
        assert len(await client.receive()) == 1000
        assert await client.result("server.ping") is None
