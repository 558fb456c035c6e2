"""From ``sendrawtransaction`` to the IPN's arrival at the shop with one's own node, in milliseconds.

    python -m tests.bench.own_node [--payments 60]

One pruned bitcoind and three services on it, each with payments of its own, in turn: one that the node tells by ZMQ,
one that looks every 0.5 s, and one that looks every 2 s, as it does by default. The clock starts when the payment is
handed to the node, and when the node is told to mine it; commits and the node's own checks are included.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from lightipn.dialects.ipn.wire import btc_text
from tests.bench.latency import AMOUNT_SAT, DEADLINE_S, percentile_99
from tests.regtest.feed import service_options
from tests.regtest.nodes import Bitcoind, free_port, open_bitcoind
from tests.regtest.own_node import OwnNode
from tests.regtest.rivals import Signed, make_coins, publish, sign_payment
from tests.regtest.shop import Shop, open_shop
from tests.service_process import ServiceProcess, open_service

POLLS_S = (0.5, 2.0)


async def measure_one(bitcoind: Bitcoind, shop: Shop, signed: Signed) -> dict[str, float]:
    """Publish a payment and mine it, and return how long each took to be told."""
    wanted, found = btc_text(signed.amount_sat), {}
    for moment in ("unconfirmed", "confirmed"):
        await trio.sleep(0.1 + time.monotonic() % 1)  # at any moment between two looks
        began = time.monotonic()
        if moment == "unconfirmed":
            await publish(signed, bitcoind)
        else:
            await bitcoind.mine(1)
        request = await shop.wait_for(
            lambda r, moment=moment: r.form.get("address") == signed.address and r.form.get(moment) == wanted,
            DEADLINE_S,
        )
        found[moment] = (request.arrived_at - began) * 1000
    return found


async def measure(
    bitcoind: Bitcoind, services: Mapping[str, ServiceProcess], shop: Shop, payments: int
) -> dict[tuple[str, str], list[float]]:
    """Return latencies by service and moment."""
    coins = iter(await make_coins(bitcoind, [AMOUNT_SAT + 500 + number for number in range(payments * len(services))]))
    latencies: dict[tuple[str, str], list[float]] = {}
    for _ in range(payments):
        for name, service in services.items():
            address = await bitcoind.new_address()
            await service.subscribe(address, f"{shop.url}/{address}", max_confirms=1)
            signed = await sign_payment(bitcoind, next(coins), address)
            for moment, latency_ms in (await measure_one(bitcoind, shop, signed)).items():
                latencies.setdefault((name, moment), []).append(latency_ms)
    return latencies


async def main(payments: int) -> None:
    """Run the benchmark."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        zmq = f"tcp://127.0.0.1:{free_port()}"
        options = [f"-zmqpubhashblock={zmq}", f"-zmqpubrawtx={zmq}", f"-zmqpubsequence={zmq}"]
        bitcoind = await stack.enter_async_context(open_bitcoind(folder / "bitcoind", options=options, is_pruned=True))
        shop = await stack.enter_async_context(open_shop())
        environments = {"zmq": service_options(OwnNode(bitcoind, folder / "node", zmq=zmq))}
        for poll_s in POLLS_S:
            node = OwnNode(bitcoind, folder / "node")
            environments[f"poll {poll_s:g} s"] = service_options(node) | {
                "LIGHTIPN_BITCOIND_POLL_INTERVAL_S": str(poll_s)
            }
        services = {
            name: await stack.enter_async_context(open_service(folder / f"lightipn-{number}", environment))
            for number, (name, environment) in enumerate(environments.items())
        }
        latencies = await measure(bitcoind, services, shop, payments)
        for service in services.values():
            assert await service.stop() == 0
    for (name, moment), found in latencies.items():
        print(
            f"{name:<10} {moment:<12} n={len(found)} p50={statistics.median(found):.1f} ms"
            f" p99={percentile_99(found):.1f} ms min={min(found):.1f} ms max={max(found):.1f} ms"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payments", type=int, default=60)
    trio.run(main, parser.parse_args().payments)
