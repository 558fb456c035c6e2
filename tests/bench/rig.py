"""What the benchmarks share: made-up addresses, a database filled with watches, a bare Electrum client."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from lightipn.app import open_service_tools
from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.hashes import hex_of, scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.config import load_config
from lightipn.dialects.ipn.wire import IpnTerms, encode_terms
from lightipn.errors import RequestError
from lightipn.service.desk import OPERATOR
from lightipn.service.subscribing import Wish
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.forge import made_up_script
from lightipn.simulator.server import SimulatedServer, serve_electrum

PAGE = 1000
BATCH = 100
IN_FLIGHT = 3


def scripts(count: int) -> Iterator[bytes]:
    """Yield made-up P2WPKH output scripts, always the same ones."""
    return (made_up_script(f"bench {number}") for number in range(count))


async def fill_database(database: Path, count: int, url: str, *, owner: str = OPERATOR) -> None:
    """Write subscriptions of ``count`` made-up addresses, as ``watch import`` would."""
    file = database.with_name("empty.toml")
    file.write_text("")
    config = load_config(
        file,
        {
            "LIGHTIPN_NETWORK": "regtest",
            "LIGHTIPN_DATABASE": str(database),
            "LIGHTIPN_DELIVERY_ALLOW_NETWORKS": "127.0.0.1/32",
        },
    )
    terms = encode_terms(IpnTerms(1))
    wishes = [
        Wish(address=address_of(script, REGTEST) or "", url=f"{url}/{number}", terms=terms)
        for number, script in enumerate(scripts(count))
    ]
    async with open_service_tools(config, creates=True) as service:
        for at in range(0, count, PAGE):
            outcomes = await service.subscriptions.subscribe_all(wishes[at : at + PAGE], dialect="ipn", owner=owner)
            assert not any(isinstance(outcome, RequestError) for outcome in outcomes)


async def bare_subscribe_s(port: int, count: int) -> float:
    """Subscribe ``count`` scripthashes with a client that only sends and parses JSON; return the seconds it took."""
    names = [hex_of(scripthash_of(script)) for script in scripts(count)]
    batches = [names[at : at + BATCH] for at in range(0, count, BATCH)]
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        greeting = {"jsonrpc": "2.0", "id": 0, "method": "server.version", "params": ["bench", ["1.4", "1.6"]]}
        await stream.send_all(msgspec.json.encode(greeting) + b"\n")
        buffer = bytearray()
        await _read_lines(stream, buffer, 1)
        started = time.perf_counter()
        sent = answered = 0
        while answered < len(batches):
            while sent < len(batches) and sent - answered < IN_FLIGHT:
                requests = [
                    {"jsonrpc": "2.0", "id": number, "method": "blockchain.scripthash.subscribe", "params": [name]}
                    for number, name in enumerate(batches[sent])
                ]
                await stream.send_all(msgspec.json.encode(requests) + b"\n")
                sent += 1
            answered += len(await _read_lines(stream, buffer, 1))
        return time.perf_counter() - started


async def _read_lines(stream: trio.SocketStream, buffer: bytearray, least: int) -> list[object]:
    """Read until at least so many lines are there; return all complete ones, parsed."""
    lines: list[object] = []
    while len(lines) < least:
        buffer += await stream.receive_some(65536)
        *complete, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        lines.extend(msgspec.json.decode(line) for line in complete if line.strip())
    return lines


@asynccontextmanager
async def open_simulator(blocks: int = 20) -> AsyncIterator[tuple[SimulatedChain, SimulatedServer]]:
    """Serve a made-up chain in this process."""
    chain = SimulatedChain()
    chain.mine(blocks)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_electrum, chain)
        yield chain, server
        nursery.cancel_scope.cancel()
