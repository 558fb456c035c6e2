"""``lightipn demo``: the whole story on this machine, without a network.

The simulator runs an Electrum server over a made-up regtest chain; LightIPN's real code watches an address on it; a
shop in the same process receives the callbacks and echoes them. A step is printed only after it really happened.
"""

import math
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import trio
import typer
from rich.text import Text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lightipn.api.server import open_listener, serve_api
from lightipn.app import RunningService, run_service
from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.hashes import hex_of, sha256
from lightipn.bitcoin.network import REGTEST
from lightipn.cli.output import console
from lightipn.cli.run import errors
from lightipn.config import Config, load_config
from lightipn.log import configure_logging
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum

STEP_TIMEOUT_S = 10.0
DEMO_TIMEOUT_S = 60.0
AMOUNT_SAT = 1_250_000


class StepFailed(Exception):
    """A step of the story did not happen in time."""


class Shop:
    """A shop that echoes every IPN, as the dialect's acknowledgement wants it."""

    def __init__(self) -> None:
        self.send, self.ipns = trio.open_memory_channel[tuple[str, str]](math.inf)
        self.app = Starlette(routes=[Route("/paid", self.paid, methods=["POST"])])

    async def paid(self, request: Request) -> JSONResponse:
        """Receive an IPN and echo its fields."""
        fields = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        self.send.send_nowait((fields["confirmed"], fields["unconfirmed"]))
        return JSONResponse(fields)

    async def wait_ipn(self, confirmed: str, unconfirmed: str) -> None:
        """Wait until an IPN with these totals has come."""
        async for totals in self.ipns:
            if totals == (confirmed, unconfirmed):
                return


class Demo:
    """The story: chain, service and shop, and what is said about them."""

    def __init__(self, chain: SimulatedChain, server: SimulatedServer, running: RunningService, shop: Shop) -> None:
        self.chain = chain
        self.server = server
        self.running = running
        self.shop = shop
        self.started = time.monotonic()

    def say(self, step: str, detail: str) -> None:
        """Print one line of the story."""
        line = Text(f"{time.monotonic() - self.started:5.2f} s  ")
        line.append(f"{step:<16}", style="bold green")
        line.append(detail)
        console.print(line, soft_wrap=True)

    async def expect_ipn(self, step: str, detail: str, *, confirmed: str, unconfirmed: str) -> None:
        """Wait for an IPN with these totals, then print the step."""
        with trio.move_on_after(STEP_TIMEOUT_S) as scope:
            await self.shop.wait_ipn(confirmed, unconfirmed)
        if scope.cancelled_caught:
            raise StepFailed(f"{step}: no IPN with confirmed={confirmed} unconfirmed={unconfirmed} came")
        self.say(step, f"{detail}: the shop was told confirmed={confirmed} unconfirmed={unconfirmed}")

    async def expect_acknowledged(self) -> None:
        """Wait until nothing is left to deliver, then print the step."""
        with trio.move_on_after(STEP_TIMEOUT_S) as scope:
            while any(d.state != "acknowledged" for d in await self.running.service.deliveries.list(limit=10)):  # noqa: ASYNC110  # looks from outside, as an operator would
                await trio.sleep(0.02)
        if scope.cancelled_caught:
            raise StepFailed("acknowledged: the shop's echo was not taken for an acknowledgement")
        self.say("acknowledged", "the shop echoed the totals, so it is not told again")

    async def tell(self, shop_url: str, secret: str) -> None:
        """Play the story to its end."""
        script = b"\x00\x14" + sha256(b"lightipn demo")[:20]
        address = address_of(script, REGTEST)
        await self.wait_ready()
        parameters = urlencode({"address": address, "url": shop_url, "max_confirms": 1})
        request = urllib.request.Request(  # noqa: S310  # our own API
            f"{self.running.url}/btc_ipn?{parameters}", headers={"X-API-Key": secret}
        )
        answer = await trio.to_thread.run_sync(partial(_read, request))
        if answer != "success":
            raise StepFailed(f"address watched: the API answered {answer!a}")
        self.say("address watched", f"{address} (POST /btc_ipn answered success)")

        txid = self.chain.pay(script, AMOUNT_SAT)
        await self.server.publish()
        await self.expect_ipn(
            "payment seen",
            f"transaction {hex_of(txid)[:16]}..., 0 confirmations",
            confirmed="0.0",
            unconfirmed="0.0125",
        )
        await self.expect_acknowledged()

        await self.mine()
        await self.expect_ipn("confirmed", "proved by a merkle branch", confirmed="0.0125", unconfirmed="0.0")
        await self.expect_acknowledged()

        self.chain.reorg(1)
        await self.server.publish()
        self.say("reorg", f"the last block left the chain; another branch won at height {self.chain.tip_height}")
        await self.expect_ipn("reverted", "the payment lost its block", confirmed="0.0", unconfirmed="0.0125")
        await self.expect_acknowledged()

        await self.mine()
        await self.expect_ipn("confirmed again", "proved on the new branch", confirmed="0.0125", unconfirmed="0.0")
        await self.expect_acknowledged()

    async def mine(self) -> None:
        """Mine a block with what is in the mempool."""
        self.chain.mine()
        await self.server.publish()
        self.say("block", f"height {self.chain.tip_height}")

    async def wait_ready(self) -> None:
        """Wait until the service has proved the chain's tip."""
        with trio.move_on_after(STEP_TIMEOUT_S) as scope:
            while self.running.readiness().reason:  # noqa: ASYNC110  # looks from outside, as an operator would
                await trio.sleep(0.02)
        if scope.cancelled_caught:
            raise StepFailed(f"ready: {self.running.readiness().reason}")
        self.say("ready", f"headers proved up to height {self.running.readiness().tip_height}")


def _read(request: urllib.request.Request) -> str:
    with urllib.request.urlopen(request, timeout=STEP_TIMEOUT_S) as answer:  # noqa: S310  # our own API
        return str(answer.read().decode())


def _config(folder: Path, electrum_port: int) -> Config:
    file = folder / "lightipn.toml"
    file.write_text("")
    return load_config(
        file,
        {
            "LIGHTIPN_NETWORK": "regtest",
            "LIGHTIPN_DATABASE": str(folder / "lightipn.db"),
            "LIGHTIPN_API_BIND": "127.0.0.1:0",
            "LIGHTIPN_ELECTRUM_SERVERS": f"tcp://127.0.0.1:{electrum_port}",
            "LIGHTIPN_DELIVERY_ALLOW_NETWORKS": "127.0.0.1/32",
        },
    )


async def _run(folder: Path) -> None:
    chain = SimulatedChain()
    chain.mine(20)
    shop = Shop()
    stop = trio.Event()
    listener = open_listener("127.0.0.1:0")
    shop_url = f"http://127.0.0.1:{listener.getsockname()[1]}/paid"
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_electrum, chain)
        await nursery.start(partial(serve_api, shop.app, listener, stop=stop))
        running = await nursery.start(partial(run_service, _config(folder, server.port), stop=stop))
        secret = await running.service.owners.create_key("demo-shop")
        try:
            await Demo(chain, server, running, shop).tell(shop_url, secret)
        finally:
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + 1.0


def play() -> None:
    """Play the story and print it; exit code 1 if a step did not happen."""
    configure_logging(level="error", format="auto")
    failure: list[StepFailed] = []

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="lightipn-demo-") as folder:
            try:
                with trio.fail_after(DEMO_TIMEOUT_S):
                    await _run(Path(folder))
            except* StepFailed as group:
                failure.extend(error for error in group.exceptions if isinstance(error, StepFailed))

    trio.run(main)
    if failure:
        errors.print(f"error: {failure[0]}", style="red", markup=False)
        raise typer.Exit(1)
    console.print("Every step really happened.", style="bold")
