"""A forwarder over a real database, a ledger that the test writes, and a network that the test decides."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput, parse_transaction
from lightipn.chain.verifier import Unconfirmed
from lightipn.delivery.guard import AddressRules
from lightipn.dialects.blockcypher.policy import BlockcypherPolicy
from lightipn.dialects.blockcypher.wire import FORWARD_TERMS, encode_forward
from lightipn.errors import SourceError, SourceRefusedError, SourceUnavailableError
from lightipn.forwarding.follower import Follower
from lightipn.forwarding.forwarder import Forwarder
from lightipn.forwarding.plan import FeeLimits
from lightipn.forwarding.purse import Purse
from lightipn.forwarding.seed import addresses_of, write_words
from lightipn.ledger.entries import LedgerEntry, PaymentState
from lightipn.outbox.policy import Policy
from lightipn.service.desk import Service
from lightipn.service.ground import Doorbells, ForwardingKit, Ground, no_bell
from lightipn.store import chain, forwards, ledger, reviews, transfers
from lightipn.store.database import Database, Store, open_store
from lightipn.store.forwards import Coin, Forward, ForwardTerms
from lightipn.store.transfers import Transfer, Version
from tests.builders import confirmed, entry_of, txid_of
from tests.store.rows import NOW, TIP, regtest_address

# BIP-39's and BIP-84's well-known words: nobody's coins.
WORDS = " ".join([*["abandon"] * 11, "about"])
OTHER_WORDS = " ".join([*["zoo"] * 11, "wrong"])
URL = "https://shop.example/forwarded"
DESTINATION = regtest_address(900)
MASTER = regtest_address(901)
RATE = 2.0
POLICIES: Mapping[str, Policy] = {"blockcypher": BlockcypherPolicy(network=REGTEST, transactions_url="")}


@dataclass
class FakeNetwork:
    """Servers as the forwarder sees them.

    Args:
        rate: what they estimate, in satoshis a virtual byte; None for no estimate.
        trouble: how every question ends; None for answers.
        offered: the transactions that were handed to them, in order.
        loses: what is handed to them arrives, and nobody hears of it.
        refuses: they take none.
        refused: the transactions that they do not take, as raw bytes.
    """

    rate: float | None = RATE
    trouble: SourceError | None = None
    loses: bool = False
    refuses: bool = False
    refused: set[bytes] = field(default_factory=set)
    offered: list[Transaction] = field(default_factory=list)

    async def transaction(self, txid: Txid) -> Transaction:
        """Nobody asks for one."""
        raise AssertionError("the forwarder asks for no transaction")

    async def spent_by(self, transaction: Transaction) -> tuple[TxOutput | None, ...]:
        """Nobody asks for outputs."""
        raise AssertionError("the forwarder asks for no outputs")

    async def broadcast(self, transaction: Transaction) -> None:
        """Take a transaction, or refuse it."""
        self.offered.append(transaction)
        if self.trouble is not None or self.loses:
            raise self.trouble or SourceUnavailableError("no server answered in time", source="")
        if self.refuses or transaction.raw in self.refused:
            raise SourceRefusedError("refused", code=1, source="one")

    async def fee_rate(self, target_blocks: int) -> float | None:
        """Return the rate that the test set."""
        if self.trouble is not None:
            raise self.trouble
        return self.rate


@dataclass
class Rig:
    """A forwarder, and all that is around it.

    Args:
        now: what its clock says.
        is_ready: whether our tip is proved.
        rings: how often it said that a callback is due.
    """

    store: Store
    seed_file: Path
    network: FakeNetwork = field(default_factory=FakeNetwork)
    now: float = NOW
    is_ready: bool = True
    rings: int = 0
    confirmations: int = 1
    max_fee_percent: float = 10.0
    max_fee_rate: float = 500.0
    bump_after_blocks: int = 6
    make: Callable[..., Forwarder] = Forwarder
    forwarder: Forwarder = field(init=False)
    service: Service = field(init=False)

    def __post_init__(self) -> None:
        self.restart()
        kit = ForwardingKit(
            addresses=addresses_of(WORDS, REGTEST),
            master_address=MASTER.text,
            dialect="blockcypher",
            hook_terms=FORWARD_TERMS,
        )
        self.service = Service(
            Ground(
                store=self.store,
                network=REGTEST,
                policies=POLICIES,
                check_url=AddressRules().check_url,
                bells=Doorbells(watches=no_bell, messages=no_bell),
                progress=trio.Event,
                is_tip_proved=lambda: self.is_ready,
                is_connected=lambda: True,
                clock=lambda: self.now,
                forwarding=lambda: kit,
            )
        )

    def restart(self) -> None:
        """Begin with a forwarder that remembers nothing."""
        purse = Purse(
            network=REGTEST,
            seed_file=self.seed_file,
            limits=FeeLimits(max_percent=self.max_fee_percent, max_rate=self.max_fee_rate),
            fee_target_blocks=6,
            outside=self.network,
        )
        follower = Follower(
            store=self.store,
            purse=purse,
            outside=self.network,
            bump_after_blocks=self.bump_after_blocks,
            payload_of=encode_forward,
            ring=self._ring,
            clock=lambda: self.now,
        )
        self.forwarder = self.make(
            store=self.store,
            purse=purse,
            follower=follower,
            confirmations=self.confirmations,
            is_ready=lambda: self.is_ready,
            clock=lambda: self.now,
        )

    def _ring(self) -> None:
        self.rings += 1

    async def work(self) -> None:
        """Have it look at everything once."""
        await self.forwarder.work_round()

    # --- forwards ---

    async def forward(self, *, url: str = "", **terms: object) -> Forward:
        """Make a forward to ``DESTINATION``, unless the terms say something else."""
        wanted = ForwardTerms(**{"destination": DESTINATION.text, "url": url, **terms})  # type: ignore[arg-type]  # by name
        return (await self.service.forwards.create(wanted, owner="shop")).forward

    async def current(self, forward: Forward) -> Forward:
        """Return a forward as it is now."""
        found = await self.store.read(lambda db: forwards.load_forward(db, forward.forward_id))
        assert found is not None
        return found

    # --- the chain ---

    async def pay(
        self, forward: Forward, number: int, amount_sat: int = 100_000, state: PaymentState | None = None
    ) -> Outpoint:
        """Have a forward's address paid, in the tip's block unless a state is given, and return the coin."""
        tip_height = await self.store.read(chain.load_tip_height)
        await self.write(forward, entry_of(number, received_sat=amount_sat, state=state or confirmed(tip_height)))
        return Outpoint(txid_of(number), 0)

    async def write(self, forward: Forward, *entries: LedgerEntry) -> None:
        """Write what became of transactions at a forward's address, as the tracker does."""

        def work(db: Database) -> None:
            ledger.save_entries(db, forward.scripthash, entries)
            tip_height = chain.load_tip_height(db)
            reviews.review_script(db, POLICIES, forward.scripthash, tip_height=tip_height, now=self.now)

        await self.store.transact(work)

    async def place(self, version: Version, state: PaymentState, *owners: Forward) -> None:
        """Have the ledger know where a version of ours is, at the addresses of these forwards."""
        signed = parse_transaction(version.raw)
        amounts = {coin.outpoint: coin for one in await self.transfers() for coin in one.coins}
        for forward in owners:
            own = [amounts[one].amount_sat for one in signed.spends if amounts[one].scripthash == forward.scripthash]
            plain = entry_of(0, received_sat=0, sent_sat=sum(own), state=state, spends=signed.spends)
            entry = LedgerEntry(
                txid=version.txid,
                state=state,
                outputs=(),
                spends=plain.spends,
                sent_sat=plain.sent_sat,
                is_coinbase=False,
                signals_rbf=True,
                seen_at=NOW,
            )
            await self.write(forward, entry)

    async def mine(self, blocks: int = 1) -> int:
        """Have our tip be higher; return its height."""

        def work(db: Database) -> int:
            height = chain.load_tip_height(db) + blocks
            chain.save_base_height(db, height)
            return height

        return await self.store.transact(work)

    # --- what it did ---

    async def transfers(self) -> Sequence[Transfer]:
        """Return all transfers, oldest first."""
        return (await self.store.read(lambda db: transfers.load_transfers(db, limit=1000)))[::-1]

    async def transfer(self) -> Transfer:
        """Return the only transfer there is."""
        [found] = await self.transfers()
        return found

    async def topics(self) -> list[tuple[str, str, int]]:
        """Return what was told: payment, transaction, and depth (0: passed on), in order."""
        rows = await self.store.read(lambda db: db.execute("SELECT topic FROM message ORDER BY message_key").fetchall())
        parts = [row[0].split(":") for row in rows]
        return [(payment, txid, int(depth)) for payment, txid, depth in parts]

    async def due_topics(self) -> list[str]:
        """Return the topics of what waits to be delivered."""
        rows = await self.store.read(
            lambda db: db.execute("SELECT topic FROM message WHERE due_at IS NOT NULL ORDER BY message_key").fetchall()
        )
        return [row[0] for row in rows]


IN_MEMPOOL = Unconfirmed()


@asynccontextmanager
async def open_rig(folder: Path, **more: object) -> AsyncIterator[Rig]:
    """Open a forwarder over an empty database with a tip.

    Args:
        more: what is not as usual, by the names of ``Rig``.
    """
    seed_file = folder / "forwarding.seed"
    write_words(seed_file, WORDS)
    identity = addresses_of(WORDS, REGTEST).identity
    async with open_store(folder / "shop.db", "regtest", threaded=False) as store:
        await store.transact(lambda db: chain.save_base_height(db, TIP))
        await store.transact(lambda db: forwards.bind_seed(db, identity))
        yield Rig(store, seed_file, **more)  # type: ignore[arg-type]  # by name


def spent_by(version: Version) -> set[Outpoint]:
    """Return the coins that a version spends."""
    return set(parse_transaction(version.raw).spends)


def outputs_of(version: Version) -> dict[bytes, int]:
    """Return what a version pays, by script."""
    return {output.script: output.amount_sat for output in parse_transaction(version.raw).outputs}


def transfer_of(*numbers: int, signed_height: int = TIP) -> Transfer:
    """Return an open transfer of one coin, whose versions have these numbers' txids.

    Args:
        signed_height: our tip when each was signed.
    """
    versions = tuple(
        Version(
            version_id=number,
            txid=txid_of(number),
            raw=b"",
            fee_sat=200 * number,
            value_sat=100_000 - 200 * number,
            signed_height=signed_height,
            broadcast_at=NOW,
        )
        for number in numbers
    )
    coin = Coin(
        outpoint=Outpoint(txid_of(900), 0),
        amount_sat=100_000,
        scripthash=DESTINATION.scripthash,
        address_index=0,
    )
    return Transfer(
        transfer_id=1,
        forward_id="f-1",
        destination=DESTINATION.text,
        state="open",
        trouble="",
        told_txid=None,
        told_confirmations=0,
        coins=(coin,),
        versions=versions,
    )
