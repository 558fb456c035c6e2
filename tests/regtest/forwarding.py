"""Forwards on a real chain: a service with recovery words, and what bitcoind says became of the coins."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from lightipn.bitcoin.network import REGTEST
from lightipn.forwarding.seed import addresses_of, new_words, read_words, write_words
from lightipn.store import forwards
from lightipn.store.database import open_store
from tests.regtest.calls import answer_of
from tests.regtest.feed import LOOK_AGAIN_S, WAIT_S, service_options
from tests.regtest.nodes import SAT_PER_BTC, Bitcoind
from tests.regtest.own_node import Source
from tests.regtest.shop import Shop, always
from tests.service_process import ServiceProcess

FORWARDS = "/v1/btc/regtest/forwards"
OK = always(200)


@dataclass(frozen=True, slots=True)
class Spend:
    """A transaction that spends one of our coins.

    Args:
        height: of its block; None in the mempool.
        outputs: satoshis by address.
    """

    txid: str
    height: int | None
    outputs: dict[str, int]
    fee_sat: int
    spends: frozenset[tuple[str, int]]


@dataclass
class Keeper:
    """What bitcoind says of payments to input addresses.

    Args:
        payments: amount by outpoint (txid and index).
        first_height: nothing of the story is in a block below.
    """

    bitcoind: Bitcoind
    first_height: int
    payments: dict[tuple[str, int], int] = field(default_factory=dict)

    async def pay(self, address: str, amount_sat: int) -> str:
        """Pay an input address, and return the txid; nothing is mined."""
        txid = await self.bitcoind.send(address, amount_sat)
        outputs = (await self.bitcoind.transaction(txid))["vout"]
        [index] = [output["n"] for output in outputs if output["scriptPubKey"].get("address") == address]
        self.payments[txid, index] = amount_sat
        return txid

    async def spends(self) -> list[Spend]:
        """Return every transaction that spends one of the payments, in blocks or in the mempool."""
        raw: list[tuple[dict[str, Any], int | None]] = []
        for height in range(self.first_height, await self.bitcoind.height() + 1):
            block_hash = await self.bitcoind.rpc("getblockhash", height)
            raw += [(one, height) for one in (await self.bitcoind.rpc("getblock", block_hash, 2))["tx"][1:]]
        for txid in await self.bitcoind.rpc("getrawmempool"):
            raw.append((await self.bitcoind.transaction(txid), None))
        return [self._spend_of(*one) for one in raw if self._spent_by(one[0]) & self.payments.keys()]

    def _spent_by(self, raw: dict[str, Any]) -> frozenset[tuple[str, int]]:
        return frozenset((one["txid"], one["vout"]) for one in raw["vin"])

    def _spend_of(self, raw: dict[str, Any], height: int | None) -> Spend:
        spends = self._spent_by(raw)
        assert spends <= self.payments.keys(), "it spends what is not ours"
        outputs = {one["scriptPubKey"]["address"]: int(one["value"] * SAT_PER_BTC) for one in raw["vout"]}
        fee_sat = sum(self.payments[outpoint] for outpoint in spends) - sum(outputs.values())
        return Spend(raw["txid"], height, outputs, fee_sat, spends)

    async def wait_spent(self, *, by_other_than: str = "") -> str:
        """Wait until one transaction in the mempool spends all payments, and return its txid."""
        coins = [{"txid": txid, "vout": index} for txid, index in self.payments]
        found: set[str | None] = set()
        with trio.move_on_after(WAIT_S):
            while True:
                answers = await self.bitcoind.rpc("gettxspendingprevout", coins)
                found = {one.get("spendingtxid") for one in answers}
                if len(found) == 1 and not found & {None, by_other_than}:
                    return str(found.pop())
                await trio.sleep(LOOK_AGAIN_S)
        raise TimeoutError(f"{len(self.payments)} payments are not spent by one transaction, but {found}")

    async def mine_nothing(self, blocks: int = 1) -> None:
        """Mine blocks that leave the mempool as it is."""
        for _ in range(blocks):
            await self.bitcoind.rpc("generateblock", await self.bitcoind.new_address(), [])


def forwarding_options(folder: Path, source: Source, *, words: str = "", **more: object) -> dict[str, str]:
    """Write a seed file, and return the environment of a service that forwards with it.

    Args:
        words: made anew if none are given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "forwarding.seed"
    write_words(file, words or new_words())
    return service_options(source, forwarding_seed_file=file, **more)


async def bind(service: ServiceProcess) -> None:
    """Have the database know that its seed is new, as `lightipn forwarding init` does; faster than that."""
    words = read_words(service.folder / "forwarding.seed")
    identity = addresses_of(words, REGTEST).identity
    async with open_store(service.database, "regtest") as store:
        assert await store.transact(lambda db: forwards.bind_seed(db, identity))


async def make_forward(service: ServiceProcess, destination: str, **more: Any) -> dict[str, Any]:
    """Make a forward through the API and return it."""
    fields = {"destination": destination, **more}
    path = f"{FORWARDS}?token={service.key}"
    return dict(await answer_of(service, "POST", path, data=json.dumps(fields), status=201, key=""))


def transfers_of(service: ServiceProcess) -> list[dict[str, Any]]:
    """Return the transfers as the operator sees them, oldest first."""
    found: list[dict[str, Any]] = json.loads(service.cli("forwarding", "transfers", "--json").stdout)
    return found[::-1]


def callbacks_of(shop: Shop, path: str = "/") -> list[dict[str, Any]]:
    """Return the bodies that a shop was sent to a path, oldest first."""
    return [json.loads(request.body) for request in shop.matching(lambda request: request.path == path)]


async def wait_logged(service: ServiceProcess, event: str, txid: str) -> None:
    """Wait until a service says this of a payment; the feed tells an owner nothing of the addresses of forwards."""
    with trio.move_on_after(WAIT_S):
        while not any((one["event"], one.get("txid")) == (event, txid) for one in service.log_events()):
            await trio.sleep(LOOK_AGAIN_S)
        return
    raise TimeoutError(f"no {event} of {txid} in the log:\n{service.output.read_text()}")


async def wait_callbacks(shop: Shop, count: int) -> list[dict[str, Any]]:
    """Wait until a shop was called so often, and return the bodies.

    Raises:
        TimeoutError: it was not; the message tells what it heard.
    """
    with trio.move_on_after(WAIT_S):
        while len(shop.requests) < count:
            await shop.arrived.wait()
        return callbacks_of(shop)
    raise TimeoutError(f"not {count} callbacks, but {callbacks_of(shop)}")


def pairs_of(bodies: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return which payments were said to be passed on by which transactions."""
    return {(body["input_transaction_hash"], body["transaction_hash"]) for body in bodies}
