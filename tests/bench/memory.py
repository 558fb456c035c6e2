"""Resident memory of the running service in MiB, at 1,000, 10,000 and 100,000 watches.

    python -m tests.bench.memory [--watches 1000 10000 100000]

The service has subscribed all watches at the simulator (which runs in the benchmark's own process), has been paid once
and has told a shop, so that everything it needs at work is loaded.
"""

import argparse
import tempfile
from pathlib import Path

import trio

from tests.bench.rig import fill_database, open_simulator, scripts
from tests.bench.subscribe import lightipn_subscribe_s
from tests.regtest.shop import open_shop
from tests.service_process import open_service


async def measure(folder: Path, watches: int) -> float:
    """Return the resident MiB after all watches were subscribed and one payment was told."""
    async with open_simulator() as (chain, server), open_shop() as shop:
        await fill_database(folder / "lightipn.db", watches, shop.url)
        options = {"LIGHTIPN_NETWORK": "regtest", "LIGHTIPN_ELECTRUM_SERVERS": f"tcp://127.0.0.1:{server.port}"}
        async with open_service(folder, options) as service:
            await lightipn_subscribe_s(service, watches)
            chain.pay(next(scripts(1)), 100_000)
            await server.publish()
            await shop.wait_for(lambda request: request.form.get("unconfirmed") == "0.001", 10)
            chain.mine()
            await server.publish()
            await shop.wait_for(lambda request: request.form.get("confirmed") == "0.001", 10)
            resident_mib = service.resident_mib()
            assert await service.stop() == 0
            return resident_mib


async def main(counts: list[int]) -> None:
    """Run the benchmark."""
    for watches in counts:
        with tempfile.TemporaryDirectory() as name:
            print(f"{watches:>7} watches: {await measure(Path(name), watches):6.1f} MiB resident")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    trio.run(main, parser.parse_args().watches)
