"""How often a shop is called that never says ``*ok*``, beside what the rule says.

    python -m tests.bench.calls [--blocks 200]

A payment to an address of ``/v2/receive`` is told when it is seen, and once more with every tip. Each block is mined
after the previous call came, so the calls must be one more than the blocks, and name 0, 1, 2 ... confirmations.
"""

import argparse
import tempfile
import time
from pathlib import Path

import trio

from tests.regtest.feed import service_options
from tests.regtest.nodes import open_bitcoind, open_electrumx
from tests.regtest.shop import always, open_shop
from tests.service_process import open_service

CALL_DEADLINE_S = 20.0
QUIET_S = 3.0


async def measure(folder: Path, blocks: int) -> None:
    """Mine block after block for a shop that is never content, and print what it heard."""
    async with (
        open_bitcoind(folder / "bitcoind") as bitcoind,
        open_electrumx(bitcoind, folder / "electrumx") as electrumx,
        open_shop() as shop,
        open_service(folder / "lightipn", service_options(electrumx)) as service,
    ):
        shop.policy = always(200, b"not yet")
        key = await bitcoind.account_key("bech32")
        fresh = await service.call("/v2/receive", xpub=key, callback=shop.url, address_type="p2wpkh")
        await bitcoind.send(fresh.json()["address"], 100_000)
        began = time.monotonic()
        await shop.wait_for(lambda request: True, CALL_DEADLINE_S)
        for mined in range(1, blocks + 1):
            await bitcoind.mine(1)
            await shop.wait_for(lambda request: True, CALL_DEADLINE_S, count=mined + 1)
        took_s = time.monotonic() - began
        await trio.sleep(QUIET_S)
        told = [int(request.query["confirmations"]) for request in shop.requests]
        print(f"blocks={blocks} calls={len(told)} expected={blocks + 1} in {took_s:.0f} s")
        print(f"confirmations in order, each once: {told == list(range(blocks + 1))}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trio.run(measure, Path(folder), arguments.blocks)


if __name__ == "__main__":
    main()
