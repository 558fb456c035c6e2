"""Subscriptions a second on a real ElectrumX: LightIPN's over those of a bare socket that only sends and parses JSON.

    python -m tests.bench.subscribe [--watches 50000] [--pairs 3]

Both are measured from the first request to the last answer, in turn, against the same server.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import trio

from tests.bench.rig import bare_subscribe_s, fill_database
from tests.regtest.nodes import ElectrumX, open_bitcoind, open_electrumx
from tests.service_process import ServiceProcess, open_service

DEADLINE_S = 300


async def lightipn_subscribe_s(service: ServiceProcess, watches: int) -> float:
    """Return the seconds that the running service took, from its own log."""
    with trio.fail_after(DEADLINE_S):
        while True:
            for event in service.log_events():
                if event["event"] == "electrum.watches_subscribed":
                    assert event["count"] == watches, event
                    return float(event["elapsed_s"])
            await trio.sleep(0.1)


async def measure_pair(folder: Path, electrumx: ElectrumX, watches: int) -> tuple[float, float]:
    """Return the rates of the bare socket and of LightIPN, in subscriptions a second."""
    bare = watches / await bare_subscribe_s(electrumx.port, watches)
    options = {"LIGHTIPN_NETWORK": "regtest", "LIGHTIPN_ELECTRUM_SERVERS": electrumx.url}
    async with open_service(folder, options) as service:
        ours = watches / await lightipn_subscribe_s(service, watches)
        assert await service.stop() == 0
    return bare, ours


async def main(watches: int, pairs: int) -> None:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service_folder = folder / "lightipn"
        service_folder.mkdir()
        await fill_database(service_folder / "lightipn.db", watches, "http://127.0.0.1:9")
        async with (
            open_bitcoind(folder / "bitcoind") as bitcoind,
            open_electrumx(bitcoind, folder / "electrumx") as electrumx,
        ):
            await bare_subscribe_s(electrumx.port, watches)  # warms the server's caches for both alike
            ratios = []
            for _ in range(pairs):
                bare, ours = await measure_pair(service_folder, electrumx, watches)
                ratios.append(ours / bare)
                print(f"bare {bare:7.0f}/s   lightipn {ours:7.0f}/s   ratio {ours / bare:.2f}")
    print(f"subscribe ratio, median of {pairs}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, default=50_000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    trio.run(main, arguments.watches, arguments.pairs)
