"""A whole service over simulated servers, and a shop that it tells: what every story starts from."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lightipn.api.server import open_listener, serve_api
from lightipn.app import RunningService, open_service_tools, run_service
from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.hashes import ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.config import Config, load_config
from lightipn.dialects.ipn.wire import btc_text
from lightipn.ledger.entries import LedgerEntry, PaymentState
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from lightipn.store import ledger as ledger_store
from lightipn.store.database import open_store
from lightipn.store.deliveries import Delivery

SHOP_SCRIPT = forge.made_up_script("shop")
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Ipn:
    """One callback as the shop received it; amounts as texts."""

    address: str
    confirmed: str
    unconfirmed: str
    message_id: str


class Shop:
    """A shop. ``answers`` says how: ``echo`` acknowledges, ``error`` is a 503, ``hang`` never answers.

    Attributes:
        ipns: every callback received, whatever was answered.
    """

    def __init__(self) -> None:
        self.answers = "echo"
        self.ipns: list[Ipn] = []
        self.app = Starlette(routes=[Route("/paid", self.paid, methods=["POST"])])
        self._bell = trio.Event()

    async def paid(self, request: Request) -> Response:
        """Receive an IPN."""
        fields = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        self.ipns.append(Ipn(**fields, message_id=request.headers["x-ipn-id"]))
        self._bell.set()
        self._bell = trio.Event()
        if self.answers == "hang":
            await trio.sleep_forever()
        if self.answers == "error":
            return PlainTextResponse("the shop is closed", status_code=503)
        return JSONResponse(fields)

    def told(self) -> list[tuple[str, str]]:
        """Return the totals of every callback: confirmed and unconfirmed."""
        return [(ipn.confirmed, ipn.unconfirmed) for ipn in self.ipns]

    async def wait_next(self) -> None:
        """Wait for the next callback."""
        await self._bell.wait()

    async def wait_count(self, count: int) -> list[Ipn]:
        """Wait until so many callbacks came."""
        while len(self.ipns) < count:
            await self._bell.wait()
        return self.ipns


def told_of(confirmed_sat: int, unconfirmed_sat: int) -> tuple[str, str]:
    """Return totals as the shop reads them."""
    return btc_text(confirmed_sat), btc_text(unconfirmed_sat)


@dataclass(slots=True)
class Story:
    """Everything a story needs; made by ``open_story``."""

    folder: Path
    nursery: trio.Nursery
    shop: Shop
    shop_url: str
    chain: SimulatedChain
    servers: list[SimulatedServer]
    settings: Mapping[str, str]
    server_scopes: list[trio.CancelScope] = field(default_factory=list)
    running: RunningService | None = None
    secret: str = ""
    patience_s: float = PATIENCE_S
    look_again_s: float = 0.005
    _service_scope: trio.CancelScope | None = None
    _service_gone: trio.Event = field(default_factory=trio.Event)

    @property
    def server(self) -> SimulatedServer:
        """The first server."""
        return self.servers[0]

    def scripthash(self, script: bytes = SHOP_SCRIPT) -> ScriptHash:
        """Return a script's scripthash."""
        return scripthash_of(script)

    def config(self, **overrides: str) -> Config:
        """Load the service's configuration."""
        file = self.folder / "lightipn.toml"
        file.touch()
        names = ", ".join(f"tcp://{server.host}:{server.port}" for server in self.servers)
        environment = {
            "LIGHTIPN_NETWORK": "regtest",
            "LIGHTIPN_DATABASE": str(self.folder / "lightipn.db"),
            "LIGHTIPN_API_BIND": "127.0.0.1:0",
            "LIGHTIPN_ELECTRUM_SERVERS": names,
            "LIGHTIPN_DELIVERY_ALLOW_NETWORKS": "127.0.0.1/32",
            "LIGHTIPN_DIALECTS_IPN_MAX_RETRY_INTERVAL_S": "1",
        }
        return load_config(file, {**environment, **self.settings, **overrides})

    async def wait_until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait until a condition holds: look again whenever the shop is called, and every so often besides."""
        with trio.fail_after(self.patience_s):
            while not await condition():
                with trio.move_on_after(self.look_again_s):
                    await self.shop.wait_next()

    # --- the service ---

    async def start(self) -> RunningService:
        """Start the service, and give the shop a key if it has none."""
        self._service_gone = trio.Event()
        self.running = await self.nursery.start(self._run_service)
        assert self.running is not None
        self.secret = self.secret or await self.running.service.owners.create_key("shop")
        return self.running

    async def _run_service(self, *, task_status: trio.TaskStatus[RunningService]) -> None:
        with trio.CancelScope() as scope:
            self._service_scope = scope
            await run_service(self.config(), stop=trio.Event(), task_status=task_status)
        self._service_gone.set()

    async def kill(self) -> None:
        """End the service at once, wherever it is."""
        assert self._service_scope is not None
        self._service_scope.cancel()
        await self._service_gone.wait()

    async def wait_ready(self) -> None:
        """Wait until the service has proved the tip and subscribed every watch."""

        async def is_ready() -> bool:
            assert self.running is not None
            state = self.running.readiness()
            return (
                not state.reason
                and state.tip_height == self.chain.tip_height
                and state.watches.subscribed == state.watches.total
            )

        await self.wait_until(is_ready)

    async def ask(self, path: str, **parameters: object) -> httpx.Response:
        """Ask the API."""
        assert self.running is not None
        # An hour: a quick clock may jump far while the database writes.
        async with httpx.AsyncClient(trust_env=False, timeout=3600) as client:
            return await client.get(
                self.running.url + path,
                params={name: str(value) for name, value in parameters.items()},
                headers={"X-API-Key": self.secret},
            )

    async def watch(self, script: bytes = SHOP_SCRIPT, *, depth: int = 1) -> str:
        """Subscribe the shop to an address, through the API; return the address."""
        address = address_of(script, REGTEST)
        assert address is not None
        answer = await self.ask("/btc_ipn", address=address, url=self.shop_url, max_confirms=depth)
        assert answer.text == "success", answer.headers
        return address

    # --- the chain ---

    async def publish(self) -> None:
        """Have every server tell its clients what is new."""
        for server in self.servers:
            await server.publish()

    async def pay(self, amount_sat: int, script: bytes = SHOP_SCRIPT) -> Txid:
        """Pay the shop, and tell the servers' clients."""
        txid = self.chain.pay(script, amount_sat)
        await self.publish()
        return txid

    async def mine(self, count: int = 1) -> None:
        """Mine blocks one by one, and tell the servers' clients of each."""
        for _ in range(count):
            self.chain.mine()
            await self.publish()

    # --- what comes of it ---

    async def wait_told(self, confirmed_sat: int, unconfirmed_sat: int) -> None:
        """Wait until the newest callback has these totals and was acknowledged, with nothing left to deliver."""

        async def is_told() -> bool:
            told = self.shop.told()
            return told[-1:] == [told_of(confirmed_sat, unconfirmed_sat)] and await self.is_all_acknowledged()

        await self.wait_until(is_told)

    async def wait_state(self, txid: Txid, state: PaymentState) -> None:
        """Wait until the ledger says this of a payment to the shop."""

        async def is_there() -> bool:
            entry = (await self.entries()).get(txid)
            return entry is not None and entry.state == state

        await self.wait_until(is_there)

    async def is_all_acknowledged(self) -> bool:
        """Tell whether nothing is left to deliver."""
        return all(delivery.state == "acknowledged" for delivery in await self.deliveries())

    async def deliveries(self) -> list[Delivery]:
        """Return all messages, read as an operator's command reads them."""
        async with open_service_tools(self.config()) as tools:
            return await tools.deliveries.list(limit=1000)

    async def entries(self, script: bytes = SHOP_SCRIPT) -> dict[Txid, LedgerEntry]:
        """Return the ledger entries of a script."""
        async with open_store(self.folder / "lightipn.db", "regtest", threaded=False) as store:
            payments = await store.read(lambda db: ledger_store.load_payments(db, scripthash_of(script)))
        assert payments is not None
        return payments.entries


@asynccontextmanager
async def open_story(
    folder: Path,
    *,
    behaviours: Sequence[Behaviour] = (Behaviour(),),
    chain: SimulatedChain | None = None,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Story]:
    """Open a story: servers and shop run, the service does not yet.

    Args:
        behaviours: one for each server, in the order in which they are configured; all serve the same chain.
        settings: further environment of the service.
    """
    if chain is None:
        chain = SimulatedChain()
        chain.mine(20)
    shop = Shop()
    listener = open_listener("127.0.0.1:0")
    shop_url = f"http://127.0.0.1:{listener.getsockname()[1]}/paid"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_api, shop.app, listener, stop=trio.Event()))
        story = Story(folder, nursery, shop, shop_url, chain, [], settings or {})
        for behaviour in behaviours:
            await add_server(story, behaviour)
        yield story
        nursery.cancel_scope.cancel()


async def add_server(story: Story, behaviour: Behaviour, *, port: int = 0) -> SimulatedServer:
    """Start one more server of the story's chain."""

    async def serve(*, task_status: trio.TaskStatus[SimulatedServer]) -> None:
        with trio.CancelScope() as scope:
            story.server_scopes.append(scope)
            await serve_electrum(story.chain, behaviour, port=port, task_status=task_status)

    server: SimulatedServer = await story.nursery.start(serve)
    story.servers.append(server)
    return server
