"""From a server's push to the IPN's arrival at the shop, in milliseconds, commits included.

    python -m tests.bench.latency [--payments 40]

A second session of the benchmark's own subscribes to the same scripthashes at the same ElectrumX; the push it receives
is the start of the clock, the arrival of the IPN's request at the shop the end. Each payment is made alone, with a
pause, since ElectrumX holds back what follows within a second.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import trio

from tests.regtest.nodes import Bitcoind, ElectrumX, open_bitcoind, open_electrumx
from tests.regtest.shop import Shop, open_shop
from tests.service_process import ServiceProcess, open_service

PAUSE_S = 1.3


async def measure(
    bitcoind: Bitcoind, electrumx: ElectrumX, service: ServiceProcess, shop: Shop, payments: int
) -> tuple[list[float], list[float]]:
    """Return the latencies in milliseconds of unconfirmed payments, and of confirmations."""
    addresses = [await bitcoind.new_address() for _ in range(payments)]
    for address in addresses:
        await service.subscribe(address, f"{shop.url}/{address}", max_confirms=1)
    unconfirmed, confirmed = [], []
    async with electrumx.open_link() as link:
        for address in addresses:
            scripthash = await bitcoind.scripthash(address)
            await link.request("blockchain.scripthash.subscribe", scripthash)
            for latencies, is_mined in ((unconfirmed, False), (confirmed, True)):
                await trio.sleep(PAUSE_S)
                if is_mined:
                    await bitcoind.mine(1)
                else:
                    await bitcoind.send(address, 100_000)
                while True:
                    notice = await link.receive_notification()
                    if notice["params"][0] == scripthash:
                        break
                pushed_at = time.monotonic()
                field = "confirmed" if is_mined else "unconfirmed"
                request = await shop.wait_for(
                    lambda r, a=address, f=field: r.form.get("address") == a and r.form.get(f) == "0.001", 10
                )
                latencies.append((request.arrived_at - pushed_at) * 1000)
    return unconfirmed, confirmed


def report(name: str, latencies: list[float]) -> None:
    """Print the median, the 99th percentile and the extremes."""
    ordered = sorted(latencies)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(
        f"{name:<14} n={len(ordered)} p50={statistics.median(ordered):.1f} ms p99={p99:.1f} ms"
        f" min={ordered[0]:.1f} ms max={ordered[-1]:.1f} ms"
    )


async def main(payments: int) -> None:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            open_bitcoind(folder / "bitcoind") as bitcoind,
            open_electrumx(bitcoind, folder / "electrumx") as electrumx,
            open_shop() as shop,
            open_service(
                folder / "lightipn", {"LIGHTIPN_NETWORK": "regtest", "LIGHTIPN_ELECTRUM_SERVERS": electrumx.url}
            ) as service,
        ):
            unconfirmed, confirmed = await measure(bitcoind, electrumx, service, shop, payments)
            assert await service.stop() == 0
    report("unconfirmed", unconfirmed)
    report("confirmed", confirmed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=40)
    trio.run(main, parser.parse_args().payments)
