"""The server's sockets: pieces of lines, buffers, delays, TLS and hanging up."""

import contextlib
import ssl
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.hashes import Txid, hex_of, sha256
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import MAX_LINE_BYTES, MAX_UNSENT_BYTES, SimulatedServer, serve_electrum
from tests.simulator.certificates import self_signed
from tests.simulator.line_client import LineClient, open_client
from tests.simulator.readers import SCRIPT, SHOP, shop_status

NOBODY = hex_of(sha256(b"nobody"))
SUBSCRIBE = "blockchain.scripthash.subscribe"


async def test_requests_may_come_in_pieces(server: SimulatedServer) -> None:
    """A line may arrive in any pieces, and several lines in one."""
    async with open_client(server) as client:
        whole = b'{"id":1,"method":"server.ping"}\r\n{"id":2,"method":"server.banner"}\n'
        for index in range(len(whole)):
            await client.stream.send_all(whole[index : index + 1])
        assert [(await client.receive())["id"], (await client.receive())["id"]] == [1, 2]
        await client.stream.send_all(whole)
        assert [(await client.receive())["id"], (await client.receive())["id"]] == [1, 2]


async def test_broadcast_is_pushed_to_all(server: SimulatedServer, chain: SimulatedChain) -> None:
    """A broadcast is answered with its txid and pushed to every subscriber."""
    payment = forge.payment_of([Outpoint(Txid(sha256(b"elsewhere")), 0)], [TxOutput(amount_sat=900, script=SCRIPT)])
    async with open_client(server) as sender, open_client(server) as receiver:
        await receiver.result(SUBSCRIBE, SHOP)
        sent = await sender.result("blockchain.transaction.broadcast", payment.raw.hex())
        assert sent == hex_of(payment.txid)
        assert await receiver.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])


async def test_traffic_is_counted(server: SimulatedServer) -> None:
    """The server counts requests by method, open and accepted connections, and subscriptions."""
    async with open_client(server) as one, open_client(server) as two:
        for client in (one, two):
            await client.result(SUBSCRIBE, SHOP)
        await two.result(SUBSCRIBE, NOBODY)
        assert (server.connections, server.accepted, server.subscriptions) == (2, 2, 3)
    assert server.calls == {"server.version": 2, SUBSCRIBE: 3}


async def test_dropped_connections_are_gone(server: SimulatedServer) -> None:
    """After ``drop_connections`` every client is hung up on, and new ones are served."""
    async with open_client(server) as client:
        await server.drop_connections()
        assert server.connections == 0
        assert await client.is_hung_up()
    async with open_client(server) as client:
        assert await client.result("server.ping") is None


async def test_server_returns_to_its_port(chain: SimulatedChain) -> None:
    """A server that was stopped can be started again on the same port."""
    port = 0
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda *, task_status, at=port: serve_electrum(chain, port=at, task_status=task_status)
            )
            async with open_client(server) as client:
                assert await client.result("server.ping") is None
            assert port in (0, server.port)
            port = server.port
            nursery.cancel_scope.cancel()


async def test_half_closed_client_gets_its_answers(server: SimulatedServer) -> None:
    """A client that ends its side of the connection still gets the answers it asked for."""
    async with open_client(server) as client:
        assert isinstance(client.stream, trio.SocketStream)
        await client.send([{"id": n, "method": "server.banner"} for n in range(20_000)])
        await client.stream.send_eof()
        assert len(await client.receive()) == 20_000
        assert await client.receive_line() == b""


async def test_overlong_line_ends_the_connection(server: SimulatedServer) -> None:
    """A client that sends no end of a line is hung up on."""
    async with open_client(server) as client:
        with contextlib.suppress(trio.BrokenResourceError):
            await client.stream.send_all(b" " * (MAX_LINE_BYTES + (1 << 16)))
        assert await client.is_hung_up()


async def test_tls_is_spoken(chain: SimulatedChain, nursery: trio.Nursery, tmp_path: Path) -> None:
    """With a TLS context the same conversation is held over TLS."""
    file = tmp_path / "server.pem"
    theirs, ours = self_signed(file), ssl.create_default_context()
    ours.load_verify_locations(file)
    server = await nursery.start(partial(serve_electrum, chain, ssl_context=theirs))
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=ours)
    client = LineClient(stream)
    await client.result("server.version", "test", "1.6")
    await client.result(SUBSCRIBE, SHOP)
    chain.pay(SCRIPT, 9)
    await server.publish()
    assert await client.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])
    await trio.aclose_forcefully(stream)


async def test_certificate_may_change(chain: SimulatedChain, tmp_path: Path) -> None:
    """A server may come back to its port with another certificate, which who trusted the old one does not trust."""
    ours, port, told = ssl.create_default_context(), 0, []
    for name in ("old.pem", "new.pem"):
        theirs = self_signed(tmp_path / name)
        ours.load_verify_locations(tmp_path / "old.pem")
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve_electrum, chain, port=port, ssl_context=theirs))
            port = server.port
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=ours)
            try:
                await stream.do_handshake()
                told.append(await LineClient(stream).result("server.version", "test", "1.6"))
            except trio.BrokenResourceError as error:
                told.append(type(error.__cause__))
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
    assert told == [["Simulator 1.0", "1.6"], ssl.SSLCertVerificationError]


# What takes time runs over streams in memory, under a clock that jumps.


async def in_memory(
    chain: SimulatedChain, behaviour: Behaviour, nursery: trio.Nursery
) -> tuple[SimulatedServer, LineClient]:
    """Return a server and a client that speaks with it over streams in memory."""
    server = SimulatedServer(chain, Behaviour(), host="", port=0)
    near, far = trio.testing.memory_stream_pair()
    nursery.start_soon(server.serve, far)
    client = LineClient(near)
    await client.result("server.version", "test", "1.6")
    server.behaviour = behaviour
    return server, client


async def test_delay_is_kept(
    chain: SimulatedChain, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """With ``delay_s`` an answer takes so long, and two requests at once take no longer than one."""
    _, client = await in_memory(chain, Behaviour(delay_s=3.0), nursery)
    started = trio.current_time()
    await client.send({"id": 1, "method": "server.ping"})
    await client.send({"id": 2, "method": "server.ping"})
    assert {(await client.receive())["id"], (await client.receive())["id"]} == {1, 2}
    assert trio.current_time() - started == pytest.approx(3.0)


async def test_delayed_answer_may_be_older_than_a_notice(
    chain: SimulatedChain, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A delayed answer tells what was so when it was asked, even behind a notice of what came later."""
    server, client = await in_memory(chain, Behaviour(delay_s=3.0), nursery)
    before = shop_status(chain)
    await client.send({"id": 1, "method": SUBSCRIBE, "params": [SHOP]})
    await trio.testing.wait_all_tasks_blocked()
    chain.pay(SCRIPT, 9)
    await server.publish()
    assert (await client.receive())["params"] == [SHOP, shop_status(chain)]
    assert (await client.receive())["result"] == before


async def test_slow_drip_takes_its_time(
    chain: SimulatedChain, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """With ``slow_drip`` an answer comes byte by byte, with so many seconds between."""
    _, client = await in_memory(chain, Behaviour(slow_drip=2.0), nursery)
    started = trio.current_time()
    await client.send({"id": 1, "method": "server.ping"})
    length = len(await client.receive_line())
    assert trio.current_time() - started == pytest.approx(2.0 * length)


async def test_stalled_server_says_nothing(
    chain: SimulatedChain, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A stalled server reads, answers nothing and pushes nothing, and is well again when its behaviour is."""
    server, client = await in_memory(chain, Behaviour(), nursery)
    await client.result(SUBSCRIBE, SHOP)
    server.behaviour = Behaviour(stalls=True)
    await client.send({"id": 1, "method": "server.ping"})
    chain.pay(SCRIPT, 9)
    await server.publish()
    with trio.move_on_after(3600) as scope:
        await client.receive_line()
    assert scope.cancelled_caught
    server.behaviour = Behaviour()
    await server.publish()
    assert await client.notice() == (SUBSCRIBE, [SHOP, shop_status(chain)])


async def test_client_that_does_not_read_is_not_read(
    chain: SimulatedChain, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that leaves its answers lying is not read once its buffer is full, and gets all of them later."""
    chain.mine(2016)
    server = SimulatedServer(chain, Behaviour(), host="", port=0)
    near, far = trio.testing.lockstep_stream_pair()  # sending waits until the other side receives
    nursery.start_soon(server.serve, far)
    client = LineClient(near)
    await client.result("server.version", "test", "1.6")
    sent = 0
    with trio.move_on_after(60):
        while True:
            await client.send({"id": sent, "method": "blockchain.block.headers", "params": [0, 2016]})
            sent += 1
    answer_bytes = 2016 * 160
    assert MAX_UNSENT_BYTES // answer_bytes <= sent <= MAX_UNSENT_BYTES // answer_bytes + 4
    assert [(await client.receive())["id"] for _ in range(sent)] == list(range(sent))
