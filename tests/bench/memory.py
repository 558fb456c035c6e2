"""Resident memory of the running service in MiB, at 1,000, 10,000 and 100,000 watches.

    python -m tests.bench.memory [--watches 1000 10000 100000] [--own-node]

The service has subscribed all watches at the simulator (which runs in the benchmark's own process), has been paid once
and has told a shop, so that everything it needs at work is loaded. With ``--own-node`` it asks a pruned bitcoind, and
has looked for the past of all scripts.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import trio

from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.network import REGTEST
from tests.bench.rig import fill_database, open_simulator, scripts
from tests.bench.subscribe import lightipn_subscribe_s
from tests.regtest.feed import service_options
from tests.regtest.nodes import open_bitcoind
from tests.regtest.own_node import OwnNode
from tests.regtest.shop import open_shop
from tests.service_process import open_service

PAST_FOUND = "bitcoind.past_found"


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


async def measure_own_node(folder: Path, watches: int) -> float:
    """Return the same with one's own node as the source."""
    async with open_bitcoind(folder / "bitcoind", is_pruned=True) as bitcoind, open_shop() as shop:
        await fill_database(folder / "lightipn.db", watches, shop.url)
        address = address_of(next(scripts(1)), REGTEST) or ""
        async with open_service(folder, service_options(OwnNode(bitcoind, folder / "own-node"))) as service:
            with trio.fail_after(300):
                while (await service.call("/readyz")).json()["watches"]["subscribed"] < watches:
                    await trio.sleep(1)
                while sum(one["scripts"] for one in service.log_events() if one["event"] == PAST_FOUND) < watches:
                    await trio.sleep(1)
            await bitcoind.send(address, 100_000)
            await shop.wait_for(lambda request: request.form.get("unconfirmed") == "0.001", 10)
            await bitcoind.mine(1)
            await shop.wait_for(lambda request: request.form.get("confirmed") == "0.001", 10)
            resident_mib = service.resident_mib()
            assert await service.stop() == 0
            return resident_mib


async def main(counts: list[int], *, is_own_node: bool) -> None:
    """Run the benchmark."""
    for watches in counts:
        with tempfile.TemporaryDirectory() as name:
            resident_mib = await (measure_own_node if is_own_node else measure)(Path(name), watches)
            print(f"{watches:>7} watches: {resident_mib:6.1f} MiB resident")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--own-node", action="store_true")
    arguments = parser.parse_args()
    trio.run(partial(main, arguments.watches, is_own_node=arguments.own_node))
