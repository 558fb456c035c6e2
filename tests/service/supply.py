"""A wallet whose extended key gives addresses away, and servers that know what was paid to it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing
from embit import base58

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.extended_key import AddressChain, ScriptKind, parse_receive_chains
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.network import REGTEST
from lightipn.errors import RequestError
from lightipn.ledger.entries import LedgerEntry
from lightipn.service.scanning import GAP_LIMIT, SCAN_WAIT_S
from lightipn.service.supplying import FreshAddress
from tests.builders import confirmed, entry_of, load_vectors
from tests.service.rig import URL, Tools
from tests.store.rows import TIP

TPUB = next(row["key"] for row in load_vectors("extended_keys")["rows"] if row["name"] == "BIP-44 testnet")
VPUB = base58.encode_check(bytes.fromhex("045f1cf6") + base58.decode_check(TPUB)[4:])
OTHER_TPUB = base58.encode_check(
    bytes.fromhex("043587cf")
    + base58.decode_check(
        next(row["key"] for row in load_vectors("extended_keys")["rows"] if row["name"] == "BIP-84 testnet")
    )[4:]
)
DESCRIPTOR = f"wpkh({TPUB}/0/*)"
KINDS = tuple(ScriptKind)


def chain_of(kind: ScriptKind = ScriptKind.P2PKH, key: str = TPUB) -> AddressChain:
    """Return a key's addresses of one kind."""
    chain, _ = parse_receive_chains(key, REGTEST, kind=kind)
    return chain


def addresses_of(indexes: Iterable[int], kind: ScriptKind = ScriptKind.P2PKH, key: str = TPUB) -> list[Address]:
    """Return some of a key's addresses."""
    chain = chain_of(kind, key)
    return [chain.address_at(index) for index in indexes]


def texts_of(indexes: Iterable[int], kind: ScriptKind = ScriptKind.P2PKH) -> list[str]:
    """Return some of the key's addresses as texts."""
    return [address.text for address in addresses_of(indexes, kind)]


@dataclass
class Desk:
    """Callers who want addresses, and servers that the test has answer what is looked up.

    Attributes:
        asked: every script that was looked up, in order.
        issued: what each caller was given: when, and the address, or the refusal.
    """

    tools: Tools
    nursery: trio.Nursery
    paid: dict[ScriptHash, LedgerEntry] = field(default_factory=dict)
    asked: list[ScriptHash] = field(default_factory=list)
    issued: list[tuple[float, FreshAddress | str]] = field(default_factory=list)

    def use(self, *indexes: int, kind: ScriptKind = ScriptKind.P2PKH, key: str = TPUB) -> None:
        """Have some addresses been paid before the wallet's key is asked for the first time."""
        for number, address in enumerate(addresses_of(indexes, kind, key)):
            self.paid[address.scripthash] = entry_of(number, received_sat=7, state=confirmed(TIP - 9))

    async def pay(self, index: int, kind: ScriptKind = ScriptKind.P2PKH) -> None:
        """Pay an address that was given away."""
        await self.tools.settle(chain_of(kind).address_at(index), entry_of(1000 + index, received_sat=9))

    async def answer_all(self) -> None:
        """Have the servers answer until nothing is looked up any more."""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            found = await self.tools.answer_watches(self.paid)
            self.asked += found
            if not found:
                return

    async def issue(
        self,
        key: str = TPUB,
        *,
        kind: ScriptKind | None = None,
        owner: str = "shop",
        url: str = URL,
        gap_limit: int = GAP_LIMIT,
        terms: bytes = b"1",
    ) -> FreshAddress:
        """Ask for an address at once; the key was scanned before."""
        take = self.tools.service.subscriptions.taker(url=url, terms=terms, dialect="plain", owner=owner)
        return await self.tools.service.supplies.issue(
            owner=owner, key=key, kind=kind, url=url, take=take, gap_limit=gap_limit
        )

    def ask(
        self, key: str = TPUB, *, kind: ScriptKind | None = None, owner: str = "shop", gap_limit: int = GAP_LIMIT
    ) -> None:
        """Have a caller ask for an address, and wait for it."""

        async def run() -> None:
            answer: FreshAddress | str
            try:
                answer = await self.issue(key, kind=kind, owner=owner, gap_limit=gap_limit)
            except RequestError as error:
                answer = f"{error.status_hint} {error.code}"
            self.issued.append((trio.current_time(), answer))

        self.nursery.start_soon(run)

    async def scan(
        self, key: str = TPUB, *, kind: ScriptKind | None = None, gap_limit: int = GAP_LIMIT
    ) -> FreshAddress | str:
        """Ask for an address of which nothing is known yet, have everything answered, and return what came."""
        count = len(self.issued)
        self.ask(key, kind=kind, gap_limit=gap_limit)
        await self.answer_all()
        if len(self.issued) == count:
            await trio.sleep(SCAN_WAIT_S + 1)
        return self.issued[-1][1]

    async def refusal_of(self, key: str = TPUB, *, kind: ScriptKind | None = None, gap_limit: int = GAP_LIMIT) -> str:
        """Ask for what is refused, and return status and code."""
        try:
            await self.issue(key, kind=kind, gap_limit=gap_limit)
        except RequestError as error:
            return f"{error.status_hint} {error.code}"
        raise AssertionError("an address was given away")


@asynccontextmanager
async def open_desk(tools: Tools) -> AsyncIterator[Desk]:
    """Run the scanning that a service does; it ends with the block, as in a process that dies."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tools.service.scanner.run)
        yield Desk(tools, nursery)
        nursery.cancel_scope.cancel()
