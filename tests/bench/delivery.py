"""IPNs a second: LightIPN's over a bare httpx-on-Trio loop to the same shop with the same number in flight.

    python -m tests.bench.delivery [--messages 3000] [--pairs 3] [--in-flight 32]

The messages are written first and held, then released at once; counted is from the first IPN's arrival to the last.
The bare loop posts the same forms and reads the same answers; nothing of it is stored.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

import httpx
import trio

from tests.bench.rig import fill_database, open_simulator, scripts
from tests.bench.subscribe import lightipn_subscribe_s
from tests.service_process import open_service

PAYMENTS_A_TRANSACTION = 500
DEADLINE_S = 120
OWNER = "bench"
SHOP_PROGRAM = Path(__file__).with_name("echo_shop.py")


class CountingShop:
    """The receiver, in a process of its own, so that it costs both sides the same."""

    def __init__(self, process: trio.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def statistics(self) -> tuple[int, float]:
        """Return how many requests came since the last call, and the seconds from the first to the last."""
        async with httpx.AsyncClient(trust_env=False) as client:
            count, elapsed_s = (await client.get(f"{self.url}/statistics")).json()
        return int(count), float(elapsed_s)


async def bare_rate(shop: CountingShop, messages: int, in_flight: int) -> float:
    """Post forms with httpx alone and return the rate."""
    left = iter(range(messages))

    async def work(client: httpx.AsyncClient) -> None:
        for number in left:
            body = urlencode({"address": f"bcrt1q{number:038d}", "confirmed": "0.001", "unconfirmed": "0.0"})
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await client.post(f"{shop.url}/bare", content=body, headers=headers)
            assert answer.status_code == 200

    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(trust_env=False, limits=limits) as client, trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(work, client)
    count, elapsed_s = await shop.statistics()
    assert count == messages
    return count / elapsed_s


async def lightipn_rate(folder: Path, shop: CountingShop, messages: int, in_flight: int) -> float:
    """Have one block confirm payments to all addresses and return the rate at which their IPNs arrive."""
    async with open_simulator() as (chain, server):
        await fill_database(folder / "lightipn.db", messages, f"{shop.url}/ipn", owner=OWNER)
        options = {
            "LIGHTIPN_NETWORK": "regtest",
            "LIGHTIPN_ELECTRUM_SERVERS": f"tcp://127.0.0.1:{server.port}",
            "LIGHTIPN_DELIVERY_MAX_IN_FLIGHT": str(in_flight),
            "LIGHTIPN_DELIVERY_MAX_IN_FLIGHT_PER_HOST": str(in_flight),
            "LIGHTIPN_LOG_LEVEL": "info",
        }
        async with open_service(folder, options) as service:
            await lightipn_subscribe_s(service, messages)
            # The owner has no good key yet, so its messages are written and held: the delivery is measured alone.
            assert service.cli("key", "create", OWNER).returncode == 0
            assert service.cli("key", "revoke", OWNER).returncode == 0
            outputs = [(script, 100_000) for script in scripts(messages)]
            for at in range(0, messages, PAYMENTS_A_TRANSACTION):
                chain.pay_many(outputs[at : at + PAYMENTS_A_TRANSACTION])
            chain.mine()
            await server.publish()
            with trio.fail_after(DEADLINE_S):
                while json.loads(service.cli("status", "--json").stdout)["pending_deliveries"] < messages:
                    await trio.sleep(0.5)
            assert service.cli("key", "create", OWNER).returncode == 0
            total, elapsed_s = 0, 0.0
            with trio.fail_after(DEADLINE_S):
                while total < messages:
                    await trio.sleep(0.5)
                    total, elapsed_s = await peek(shop)
            await shop.statistics()
            assert await service.stop() == 0
            return total / elapsed_s


async def peek(shop: CountingShop) -> tuple[int, float]:
    """Return the shop's counters without resetting them."""
    async with httpx.AsyncClient(trust_env=False) as client:
        count, elapsed_s = (await client.get(f"{shop.url}/peek")).json()
    return int(count), float(elapsed_s)


async def main(messages: int, pairs: int, in_flight: int) -> None:
    """Run the benchmark."""
    ratios = []
    async with trio.open_nursery() as nursery:
        shop = await nursery.start(run_shop)
        for _ in range(pairs):
            bare = await bare_rate(shop, messages, in_flight)
            with tempfile.TemporaryDirectory() as name:
                ours = await lightipn_rate(Path(name), shop, messages, in_flight)
            ratios.append(ours / bare)
            print(f"bare {bare:6.0f}/s   lightipn {ours:6.0f}/s   ratio {ours / bare:.2f}")
        shop.process.terminate()
    print(f"delivery ratio, median of {pairs}: {statistics.median(ratios):.2f}")


async def run_shop(task_status: trio.TaskStatus[CountingShop]) -> None:
    """Run the receiver until it is terminated."""
    process = await trio.lowlevel.open_process([sys.executable, str(SHOP_PROGRAM)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    port = int(await process.stdout.receive_some(100))
    task_status.started(CountingShop(process, f"http://127.0.0.1:{port}"))
    await process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=32)
    arguments = parser.parse_args()
    trio.run(main, arguments.messages, arguments.pairs, arguments.in_flight)
