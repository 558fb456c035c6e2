"""The source over a node whose chain changes between any two calls: in the end every watch was told the truth.

What happens is made up out of a seed: payments, replacements, evictions, blocks, reorgs, new watches, unwatched ones,
lost connections, and restarts of the source on the same database. Much of it happens in the middle of the source's
work, before one of its calls is answered.
"""

import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import ScriptHash, scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.source import BitcoindSource, NodeOptions
from lightipn.chain.history import History, Status
from lightipn.chain.source import ScriptHashChanged
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.store import ledger
from lightipn.store.database import Store, open_store
from tests.bitcoind.simulated_node import SimulatedNode

SCRIPTS = [forge.made_up_script(f"shop {number}") for number in range(6)]
LIFES = 3
ACTS_A_LIFE = 25
CHANCE_OF_AN_ACT = 0.15
SETTLED_S = 300.0
SEEDS = 60


@dataclass
class World(SimulatedNode):
    """A node on which things happen while it is asked."""

    chance: random.Random
    is_calm: bool = True

    def __init__(self, chance: random.Random, *, has_filters: bool) -> None:
        chain = SimulatedChain(seed=chance.randrange(1000))
        super().__init__(chain, has_filters=has_filters)
        self.chance = chance
        chain.mine(12)

    async def post(self, body: bytes, *, timeout_s: float) -> bytes:
        """Answer, perhaps after something has happened."""
        if not self.is_calm and self.chance.random() < CHANCE_OF_AN_ACT:
            self.act()
        await trio.lowlevel.checkpoint()
        return await super().post(body, timeout_s=timeout_s)

    def act(self) -> None:
        """Have something happen to the chain."""
        self.chance.choice([self.pay, self.pay, self.pay, self.spend, self.mine, self.mine, self.reorg, self.replace])()

    def pay(self) -> None:
        """Pay one or two of the scripts."""
        chosen = self.chance.sample(SCRIPTS, self.chance.randint(1, 2))
        self.chain.pay_many([(script, self.chance.randrange(1_000, 1_000_000)) for script in chosen])

    def spend(self) -> None:
        """Spend an output of a script, of a block or of the mempool, and pay another one perhaps."""
        script = self.chance.choice(SCRIPTS)
        unspent = [coin for coin in self.chain.coins(scripthash_of(script)) if coin.spent_by is None]
        if unspent:
            outpoint = self.chance.choice(unspent).outpoint
            payee = self.chance.choice([*SCRIPTS, forge.made_up_script("somebody")])
            self.chain.pay(payee, 700, spend=[Outpoint(outpoint.txid, outpoint.index)])

    def mine(self) -> None:
        """Mine a block, with everything that waits or with some of it."""
        waiting = self.chain.mempool
        include = None if self.chance.random() < 0.7 else [txid for txid in waiting if self.chance.random() < 0.5]
        self.chain.mine(1, include=include)

    def reorg(self) -> None:
        """Replace a few blocks; their payments wait again, are mined again, or are gone."""
        depth = self.chance.randint(1, 4)
        self.chain.reorg(depth, remine=self.chance.random() < 0.5)

    def replace(self) -> None:
        """Replace a transaction that waits, by one that pays another script perhaps; or evict it."""
        if waiting := self.chain.mempool:
            txid = self.chance.choice(waiting)
            if self.chance.random() < 0.3:
                self.chain.evict(txid)
            else:
                self.chain.replace(txid, script=self.chance.choice([None, *SCRIPTS]))


@dataclass
class Reader:
    """What a tracker would have worked in; it outlives restarts, as a database does."""

    told: dict[ScriptHash, History] = field(default_factory=dict)
    statuses: dict[ScriptHash, Status | None] = field(default_factory=dict)

    async def read(self, source: BitcoindSource, chance: random.Random) -> None:
        """Work in what comes, a moment later."""
        async with aclosing(source.updates()) as updates:
            async for update in updates:
                if isinstance(update, ScriptHashChanged):
                    await trio.sleep(chance.choice([0, 0, 0.01, 1.0]))
                    self.absorb(source, update)

    def absorb(self, source: BitcoindSource, update: ScriptHashChanged) -> None:
        """Work a history in, if it is still wanted."""
        if update.scripthash in self.statuses:
            self.told[update.scripthash] = update.history
            self.statuses[update.scripthash] = update.status
            source.absorbed(update.scripthash, update.status, server=update.server, is_news=True)


@asynccontextmanager
async def life_of(world: World, store: Store, reader: Reader) -> AsyncIterator[BitcoindSource]:
    """Run a source for a while, on what the ones before left."""
    source = BitcoindSource(NodeRpc(world, name="node"), store, REGTEST, NodeOptions(poll_interval_s=2.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        nursery.start_soon(reader.read, source, world.chance)
        source.watch_all(list(reader.statuses.items()))
        yield source
        nursery.cancel_scope.cancel()


async def change_watches(world: World, store: Store, reader: Reader, source: BitcoindSource) -> None:
    """Watch a script that is not watched, or let go of one that is."""
    script = world.chance.choice(SCRIPTS)
    scripthash = scripthash_of(script)
    if scripthash not in reader.statuses:
        await store.transact(lambda db: ledger.add_script(db, Address(text=script.hex(), script=script)))
        reader.statuses[scripthash] = None
        reader.told[scripthash] = ()
        source.watch(scripthash, None)
    elif world.chance.random() < 0.3:
        await store.transact(lambda db: ledger.remove_script(db, scripthash))
        del reader.statuses[scripthash], reader.told[scripthash]
        source.unwatch(scripthash)


async def live(seed: int, path: Path, *, has_filters: bool) -> tuple[World, Reader, dict[ScriptHash, int | None]]:
    """Play a whole history, and return what was told at its end, and from where on histories are whole."""
    world, reader = World(random.Random(seed), has_filters=has_filters), Reader()
    chance = world.chance
    async with open_store(path, "regtest", threaded=False) as store:
        for _ in range(chance.randrange(10)):
            world.act()
        for life in range(LIFES):
            async with life_of(world, store, reader) as source:
                world.is_calm = False
                for _ in range(ACTS_A_LIFE):
                    if chance.random() < 0.4:
                        await change_watches(world, store, reader, source)
                    if chance.random() < 0.1:
                        world.calls_to_lose = chance.randint(1, 3)
                    await trio.sleep(chance.choice([0, 0.001, 0.5, 3.0]))
                world.is_calm = True
                if life == LIFES - 1:
                    await trio.sleep(SETTLED_S)
            for _ in range(chance.randrange(6)):
                world.act()
        async with life_of(world, store, reader):
            await trio.sleep(SETTLED_S)
        rows = await store.read(lambda db: db.execute("SELECT scripthash, history_from FROM script").fetchall())
    return world, reader, {ScriptHash(row[0]): row[1] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_happens_the_last_that_is_told_is_the_truth(
    seed: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """With filters every watch ends with the chain's own history of its script, and all of it is known."""
    world, reader, coverage = await live(seed, tmp_path / "shop.db", has_filters=True)
    assert reader.told == {scripthash: world.chain.history(scripthash) for scripthash in reader.statuses}
    assert set(coverage.values()) <= {None}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_without_filters_what_is_told_is_true_and_what_may_be_missing_is_said(
    seed: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing false is told; nothing that is unspent is missing, nor anything from ``history_from`` on."""
    world, reader, coverage = await live(seed, tmp_path / "shop.db", has_filters=False)
    for scripthash in reader.statuses:
        truth, told = world.chain.history(scripthash), reader.told[scripthash]
        assert set(told) <= set(truth)
        missing = {entry.txid for entry in truth} - {entry.txid for entry in told}
        history_from = coverage[scripthash]
        for txid in missing:
            height = world.chain.height_of(txid)
            assert history_from is not None
            assert height is not None
            assert height < history_from
        unspent = {coin.outpoint.txid for coin in world.chain.coins(scripthash) if coin.spent_by is None}
        assert not unspent & missing
