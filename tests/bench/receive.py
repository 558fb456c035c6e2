"""Addresses given away a second: parallel ``/v2/receive`` for one key, over ``/healthz`` with the same client.

    python -m tests.bench.receive [--calls 100] [--pairs 10]

The service is a process of its own, on the simulator's chain. First come as many calls at once for a key that nobody
asked for yet, whose addresses have to be looked at before the first is given away; then pairs of ``/healthz`` and
``/v2/receive``. Whatever came in which order, the indexes must have no hole, and each address be the key's own.

The client is a bare socket for each call, opened before the clock starts: httpx with a hundred connections takes ten
times as long as the server.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import msgspec
import trio

from lightipn.bitcoin.extended_key import ScriptKind, parse_receive_chains
from lightipn.bitcoin.network import REGTEST
from tests.bench.rig import open_simulator
from tests.bitcoin.keys import TPUB
from tests.service_process import open_service

KIND = ScriptKind.P2WPKH
DEADLINE_S = 30.0
SETTLE_S = 0.5  # the watches of the last round are subscribed, and the connections of the next accepted

Answers = list[dict[str, object]]


async def ask(stream: trio.SocketStream, path: str) -> dict[str, object]:
    """Make one call that must succeed, and return its answer."""
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
    raw = b"".join([chunk async for chunk in stream])
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), raw
    answer = msgspec.json.decode(body)
    assert isinstance(answer, dict)
    return answer


async def parallel_rate(url: str, paths: Sequence[str]) -> tuple[float, Answers]:
    """Make all calls at once; return the rate and the answers."""
    answers: Answers = []

    async def one(stream: trio.SocketStream, path: str) -> None:
        answers.append(await ask(stream, path))

    async with AsyncExitStack() as stack:
        port = urlsplit(url).port
        assert port is not None
        streams = [await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in paths]
        await trio.sleep(SETTLE_S)
        started = time.perf_counter()
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for stream, path in zip(streams, paths, strict=True):
                    nursery.start_soon(one, stream, path)
        return len(paths) / (time.perf_counter() - started), answers


def check(answers: Answers) -> None:
    """Require every index once, without a hole, and the address that belongs to it."""
    chain, _ = parse_receive_chains(TPUB, REGTEST, kind=KIND)
    given = {answer["index"]: answer["address"] for answer in answers}
    assert given == {index: chain.address_at(index).text for index in range(len(answers))}


async def measure(folder: Path, calls: int, pairs: int) -> None:
    """Run the rounds and print."""
    async with open_simulator() as (_, server):
        options = {"LIGHTIPN_NETWORK": "regtest", "LIGHTIPN_ELECTRUM_SERVERS": f"tcp://127.0.0.1:{server.port}"}
        async with open_service(folder, options) as service:
            asked = {"xpub": TPUB, "address_type": KIND.value, "gap_limit": "100000", "key": service.key}
            health = ["/healthz"] * calls
            receive = [
                f"/v2/receive?{urlencode(asked | {'callback': f'http://127.0.0.1:9/{number}'})}"
                for number in range(calls)
            ]
            await parallel_rate(service.url, health)
            rate, answers = await parallel_rate(service.url, receive)
            print(f"{calls} calls for a new key: answered after {calls / rate:.2f} s")
            ratios = []
            for _ in range(pairs):
                bare, _ = await parallel_rate(service.url, health)
                ours, given = await parallel_rate(service.url, receive)
                answers += given
                ratios.append(ours / bare)
                print(f"healthz {bare:6.0f}/s   receive {ours:6.0f}/s   ratio {ours / bare:.2f}")
            check(answers)
            assert await service.stop() == 0
    print(f"{len(answers)} indexes without a hole; receive ratio, median of {pairs}: {statistics.median(ratios):.2f}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trio.run(measure, Path(folder), arguments.calls, arguments.pairs)


if __name__ == "__main__":
    main()
