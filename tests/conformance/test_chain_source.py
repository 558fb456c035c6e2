"""What every ``ChainSource`` must do, whatever stands behind it.

One suite for all implementations, as Trio checks its streams: a *stage* is a made-up chain and a source that serves it.
A new backend adds a function to ``STAGES`` and no test.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
import trio
import trio.testing

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import Txid, scripthash_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint, TxOutput, parse_transaction
from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.source import BitcoindSource, NodeOptions
from lightipn.chain.history import UNKNOWN, status_of
from lightipn.chain.source import ChainSource, FeeHistogram, Misbehaviour, ScriptHashChanged, SourceLost, TipChanged
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import Connector
from lightipn.electrum.pool import ServerPool
from lightipn.electrum.source import ElectrumSource
from lightipn.errors import SourceRefusedError, SourceUnavailableError
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import SimulatedServer, serve_electrum
from lightipn.store import ledger
from lightipn.store.database import open_store
from tests.bitcoind.simulated_node import SimulatedNode

T = TypeVar("T")
SHOP_SCRIPT = forge.made_up_script("shop")
OTHER_SCRIPT = forge.made_up_script("other")
SHOP, OTHER = scripthash_of(SHOP_SCRIPT), scripthash_of(OTHER_SCRIPT)
PATIENCE_S = 10.0
POLL_INTERVAL_S = 0.02
CUSTOMERS = 2000


@dataclass(slots=True)
class Stage:
    """A source, the chain it should tell about, and what can happen to the way between them.

    Args:
        publish: make what changed in the chain known to the server behind the source.
        cut: break the link between source and server; it comes back.
        is_own_node: the server is the operator's own: it is asked whatever it does, and has no histogram.
    """

    source: ChainSource
    chain: SimulatedChain
    publish: Callable[[], Awaitable[None]]
    cut: Callable[[], Awaitable[None]]
    is_own_node: bool = False


def opening_chain() -> SimulatedChain:
    """Return ten blocks, with a payment to the shop in the third."""
    chain = SimulatedChain()
    chain.mine(2)
    chain.pay(SHOP_SCRIPT, 100_000)
    chain.mine(8)
    return chain


@asynccontextmanager
async def electrum_stage() -> AsyncIterator[Stage]:
    """Set up Electrum over the simulator."""
    chain = opening_chain()
    async with trio.open_nursery() as nursery:
        server: SimulatedServer = await nursery.start(serve_electrum, chain)
        pool = ServerPool(
            [ServerAddress(server.host, server.port, uses_tls=False)],
            REGTEST,
            connector=Connector(),
            connections=3,
            ban_s=86400.0,
            clock=lambda: 1_700_000_000.0,
        )
        source = ElectrumSource(pool, redundancy=3, sweep_interval_s=600)
        nursery.start_soon(source.run)
        yield Stage(source, chain, publish=server.publish, cut=server.drop_connections)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def bitcoind_stage(*, has_filters: bool) -> AsyncIterator[Stage]:
    """Set up one's own node over the simulator's chain; its index of transactions is for what nobody watches."""
    chain = opening_chain()
    node = SimulatedNode(chain, has_filters=has_filters, has_transactions=True)
    scripts = [SHOP_SCRIPT, OTHER_SCRIPT, *(forge.made_up_script(f"customer {number}") for number in range(CUSTOMERS))]

    async def publish() -> None:
        await trio.sleep(2 * POLL_INTERVAL_S)

    async def cut() -> None:
        node.calls_to_lose = 2

    with TemporaryDirectory() as folder:
        path = Path(folder) / "shop.db"
        async with open_store(path, "regtest", threaded=False) as store, trio.open_nursery() as nursery:
            await store.transact(
                lambda db: [ledger.add_script(db, Address(text=script.hex(), script=script)) for script in scripts]
            )
            options = NodeOptions(poll_interval_s=POLL_INTERVAL_S)
            source = BitcoindSource(NodeRpc(node, name="127.0.0.1:18443"), store, REGTEST, options)
            nursery.start_soon(source.run)
            yield Stage(source, chain, publish, cut, is_own_node=True)
            nursery.cancel_scope.cancel()


STAGES: dict[str, Callable[[], AbstractAsyncContextManager[Stage]]] = {
    "electrum": electrum_stage,
    "bitcoind": partial(bitcoind_stage, has_filters=True),
    "bitcoind-without-filters": partial(bitcoind_stage, has_filters=False),
}


@pytest.fixture(params=STAGES)
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """Each implementation in turn, on the same made-up chain."""
    async with STAGES[request.param]() as stage:
        yield stage


class Reader:
    """Reads updates one by one."""

    def __init__(self, source: ChainSource) -> None:
        self._updates = source.updates()
        self.servers: set[str] = set()

    async def next_of(self, kind: type[T]) -> T:
        """Return the next update of a kind, and pass over others."""
        with trio.fail_after(PATIENCE_S):
            async for update in self._updates:
                self.servers.add(update.server)
                if isinstance(update, kind):
                    return update
        raise AssertionError("updates never end")

    async def next_tip(self) -> TipChanged:
        """Return the next tip."""
        return await self.next_of(TipChanged)

    async def next_change(self) -> ScriptHashChanged:
        """Return the next history."""
        return await self.next_of(ScriptHashChanged)


@pytest.fixture
def reader(stage: Stage) -> Reader:
    """A reader of the source's updates."""
    return Reader(stage.source)


async def subscribed(source: ChainSource) -> None:
    """Wait until every watch is subscribed."""
    with trio.fail_after(PATIENCE_S):
        while source.statistics().subscribed < source.statistics().total:
            await trio.testing.wait_all_tasks_blocked(0.005)


def lie_of(server: str) -> Misbehaviour:
    """Return a lie that a server was caught with."""
    return Misbehaviour(server=server, kind="false-header", claim="header 7", contradiction="it has no work")


def shop_txid(stage: Stage) -> Txid:
    """Return the shop's payment in block 3."""
    return stage.chain.history(SHOP)[0].txid


# --- updates -----------------------------------------------------------------------------------------------------


async def test_tip_is_told_at_the_start_and_when_it_changes(stage: Stage, reader: Reader) -> None:
    """The tip is told once at the start, and again for every block, with its height and 80 bytes."""
    first = await reader.next_tip()
    assert (first.height, first.raw_header) == (10, stage.chain.header_at(10))
    stage.chain.mine()
    await stage.publish()
    second = await reader.next_tip()
    assert (second.height, second.raw_header) == (11, stage.chain.header_at(11))


async def test_reorg_is_told_as_a_tip(stage: Stage, reader: Reader) -> None:
    """A reorg is told by the tip it leads to."""
    await reader.next_tip()
    stage.chain.reorg(3, blocks=4)
    await stage.publish()
    tip = await reader.next_tip()
    assert (tip.height, tip.raw_header) == (11, stage.chain.header_at(11))


async def test_history_that_differs_is_told(stage: Stage, reader: Reader) -> None:
    """A watch whose status differs from the known one is told its history, which hashes to the status told."""
    stage.source.watch(SHOP, None)
    change = await reader.next_change()
    assert change.scripthash == SHOP
    assert change.history == stage.chain.history(SHOP)
    assert change.status == status_of(change.history)


async def test_known_status_is_quiet(stage: Stage, reader: Reader) -> None:
    """A watch whose status is the known one is not told; the next thing told is a later payment."""
    stage.source.watch(SHOP, stage.chain.status(SHOP))
    stage.source.watch(OTHER, None)
    await subscribed(stage.source)
    stage.chain.pay(OTHER_SCRIPT, 1)
    await stage.publish()
    assert (await reader.next_change()).scripthash == OTHER


async def test_unknown_is_told_even_when_empty(stage: Stage, reader: Reader) -> None:
    """A script of which nothing is known yet is told also where its history is empty."""
    stage.source.watch(OTHER, UNKNOWN)
    change = await reader.next_change()
    assert (change.scripthash, change.status, change.history) == (OTHER, None, ())


async def test_every_stage_of_a_payment_is_told(stage: Stage, reader: Reader) -> None:
    """Seen, confirmed and reverted: each is told as a history, once the one before has been absorbed."""
    stage.source.watch(OTHER, None)
    await subscribed(stage.source)
    txid = stage.chain.pay(OTHER_SCRIPT, 5_000)
    for happen, height in [(lambda: None, None), (stage.chain.mine, 11), (lambda: stage.chain.reorg(1), None)]:
        happen()
        await stage.publish()
        change = await reader.next_change()
        assert [(entry.txid, entry.height) for entry in change.history] == [(txid, height)]
        stage.source.absorbed(OTHER, change.status, server=change.server, is_news=True)


@pytest.mark.slow
async def test_watch_survives_a_cut(stage: Stage, reader: Reader) -> None:
    """After the link was cut its loss is told, and what happened meanwhile is told once it is back."""
    stage.source.watch(OTHER, None)
    await subscribed(stage.source)
    await stage.cut()
    stage.chain.pay(OTHER_SCRIPT, 1)
    await reader.next_of(SourceLost)
    change = await reader.next_change()
    assert change.history == stage.chain.history(OTHER)


async def test_unwatched_script_is_forgotten(stage: Stage, reader: Reader) -> None:
    """An unwatched script is told no more and counts no more."""
    for scripthash in (SHOP, OTHER):
        stage.source.watch(scripthash, stage.chain.status(scripthash))
    await subscribed(stage.source)
    stage.source.unwatch(SHOP)
    assert stage.source.statistics().total == 1
    stage.chain.pay(SHOP_SCRIPT, 1)
    stage.chain.pay(OTHER_SCRIPT, 1)
    await stage.publish()
    assert (await reader.next_change()).scripthash == OTHER


async def test_recheck_tells_what_is_known(stage: Stage, reader: Reader) -> None:
    """A recheck tells a history again whose status has not changed; one of an unwatched script does nothing."""
    stage.source.watch(SHOP, stage.chain.status(SHOP))
    await subscribed(stage.source)
    stage.source.recheck(OTHER, after_s=0.0)
    stage.source.recheck(SHOP, after_s=0.0)
    change = await reader.next_change()
    assert (change.scripthash, change.history) == (SHOP, stage.chain.history(SHOP))
    assert stage.source.statistics().total == 1


async def test_recheck_of_a_named_server_asks_that_one(stage: Stage, reader: Reader) -> None:
    """A recheck of one server tells again what that server claimed and was not absorbed; one of a stranger nothing."""
    stage.source.watch(SHOP, None)
    first = await reader.next_change()
    stage.source.recheck(SHOP, after_s=0.0, server="electrum.example:50002:s")
    stage.source.recheck(SHOP, after_s=0.0, server=first.server)
    assert await reader.next_change() == first


async def test_what_is_no_news_is_not_told_again(stage: Stage, reader: Reader) -> None:
    """A history that told nothing new is done with all the same: the next thing told is a later payment."""
    stage.source.watch(SHOP, None)
    change = await reader.next_change()
    stage.source.absorbed(SHOP, change.status, server=change.server, is_news=False)
    stage.source.watch(OTHER, None)
    await subscribed(stage.source)
    stage.chain.pay(OTHER_SCRIPT, 1)
    await stage.publish()
    assert (await reader.next_change()).scripthash == OTHER


async def test_watching_again_is_no_second_watch(stage: Stage) -> None:
    """Watching and unwatching are idempotent, and watching tells whether it was the first time."""
    assert [stage.source.watch(SHOP, stage.chain.status(SHOP)) for _ in range(3)] == [True, False, False]
    assert stage.source.statistics().total == 1
    for _ in range(2):
        stage.source.unwatch(SHOP)
    assert stage.source.statistics().total == 0


async def test_absorption_after_an_unwatch_is_nothing(stage: Stage, reader: Reader) -> None:
    """What is absorbed of a script that is watched no more does not bring its watch back."""
    stage.source.watch(SHOP, None)
    change = await reader.next_change()
    stage.source.unwatch(SHOP)
    stage.source.absorbed(SHOP, change.status, server=change.server, is_news=True)
    assert stage.source.statistics().total == 0


async def test_many_watches_at_once(stage: Stage) -> None:
    """Thousands of watches registered at once are all subscribed, and leave no gap."""
    for number in range(CUSTOMERS):
        stage.source.watch(scripthash_of(forge.made_up_script(f"customer {number}")), None)
    await subscribed(stage.source)
    statistics = stage.source.statistics()
    assert (statistics.total, statistics.subscribed, statistics.quarantined) == (CUSTOMERS, CUSTOMERS, 0)
    assert statistics.oldest_gap_s == 0.0


# --- evidence ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "count", "last"), [(0, 1, 0), (1, 10, 10), (4, 3, 6), (9, 100, 10), (11, 5, 10)], ids=str
)
async def test_headers_are_consecutive(stage: Stage, start: int, count: int, last: int) -> None:
    """Headers come consecutively from the height asked for, fewer at the tip, and none beyond it."""
    headers = await stage.source.fetch_headers(start, count)
    assert headers == [stage.chain.header_at(height) for height in range(start, last + 1)]


@pytest.mark.slow
async def test_long_runs_of_headers_come_whole(stage: Stage) -> None:
    """More headers than one answer of a server holds come all the same."""
    stage.chain.mine(2500)
    headers = await stage.source.fetch_headers(1, 2400)
    assert headers == stage.chain.headers_from(1, 2400)


async def test_transaction_is_raw_bytes(stage: Stage) -> None:
    """A transaction comes as the bytes that hash to its txid, witnesses included."""
    txid = shop_txid(stage)
    answer = await stage.source.fetch_transaction(txid)
    assert answer.raw == stage.chain.transaction(txid)
    assert parse_transaction(answer.raw).txid == txid
    assert answer.server in stage.source.connected()


async def test_branch_leads_to_the_root(stage: Stage) -> None:
    """A branch for the height claimed leads from the txid to the root of that block."""
    txid = shop_txid(stage)
    branch = await stage.source.fetch_merkle_branch(txid, 3)
    root = merkle_root_of(txid, branch.siblings, branch.position)
    assert root == parse_header(stage.chain.header_at(3)).merkle_root
    assert branch.server in stage.source.connected()


async def test_unknown_transaction_is_refused(stage: Stage) -> None:
    """What nobody knows is refused with a code; the source goes on."""
    with pytest.raises(SourceRefusedError):
        await stage.source.fetch_transaction(Txid(bytes(32)))
    with pytest.raises(SourceRefusedError):
        await stage.source.fetch_merkle_branch(shop_txid(stage), 4)
    assert await stage.source.fetch_headers(1, 1) == [stage.chain.header_at(1)]


async def test_avoided_server_is_not_asked(stage: Stage, reader: Reader) -> None:
    """A server to be avoided is not asked: where there is no other, nobody is."""
    avoid = {(await reader.next_tip()).server}
    for fetch in (
        stage.source.fetch_headers(1, 1, avoid=avoid),
        stage.source.fetch_transaction(shop_txid(stage), avoid=avoid),
        stage.source.fetch_merkle_branch(shop_txid(stage), 3, avoid=avoid),
    ):
        with pytest.raises(SourceUnavailableError):
            await fetch


async def test_server_that_is_named_is_asked_or_nobody(stage: Stage, reader: Reader) -> None:
    """Of a named server no other may take the place: another's answer would prove nothing about it."""
    server = (await reader.next_tip()).server
    assert await stage.source.fetch_headers(1, 1, server=server) == [stage.chain.header_at(1)]
    assert (await stage.source.fetch_transaction(shop_txid(stage), server=server)).server == server
    with pytest.raises(SourceUnavailableError):
        await stage.source.fetch_headers(1, 1, server="electrum.example:50002:s")
    with pytest.raises(SourceUnavailableError):
        await stage.source.fetch_transaction(shop_txid(stage), server="electrum.example:50002:s")


async def test_preference_is_no_condition(stage: Stage, reader: Reader) -> None:
    """Where the preferred server is not there, another one answers."""
    await reader.next_tip()
    assert await stage.source.fetch_transaction(shop_txid(stage), prefer="electrum.example:50002:s")
    assert await stage.source.fetch_merkle_branch(shop_txid(stage), 3, prefer="electrum.example:50002:s")


async def test_fee_histogram_is_that_of_the_mempool(stage: Stage, reader: Reader) -> None:
    """A server's histogram holds what waits in its mempool: nothing at first, then each payment at its rate.

    A node has none: it tells fees only transaction by transaction.
    """
    server = (await reader.next_tip()).server
    if stage.is_own_node:
        with pytest.raises(SourceRefusedError):
            await stage.source.fetch_fee_histogram(server=server)
        return
    assert await stage.source.fetch_fee_histogram(server=server) == FeeHistogram(())
    patient = stage.chain.pay(OTHER_SCRIPT, 5_000)
    hasty = stage.chain.replace(stage.chain.pay(OTHER_SCRIPT, 5_000))
    sizes = [len(stage.chain.transaction(txid) or b"") for txid in (hasty, patient)]
    histogram = await stage.source.fetch_fee_histogram(server=server)
    (high, low) = [rate for rate, _ in histogram.steps]
    assert high > low > 0
    assert [vbytes for _, vbytes in histogram.steps] == sizes
    above = [histogram.vbytes_above(rate) for rate in (0.0, low, high)]
    assert above == [sum(sizes), sizes[0], 0]


async def test_fee_rate_is_in_satoshis_a_virtual_byte(stage: Stage, reader: Reader) -> None:
    """An estimate comes in our unit, and who is in a hurry pays more."""
    server = (await reader.next_tip()).server
    fast, slow = [await stage.source.fetch_fee_rate(target, server=server) for target in (1, 25)]
    assert fast is not None
    assert slow is not None
    assert 1.0 <= slow < fast < 1_000.0


async def test_broadcast_enters_the_mempool(stage: Stage, reader: Reader) -> None:
    """What is handed to a server is in its mempool, byte for byte, and may be handed over again; watchers are told."""
    server = (await reader.next_tip()).server
    stage.source.watch(OTHER, None)
    await subscribed(stage.source)
    output = TxOutput(amount_sat=5_000, script=OTHER_SCRIPT)
    transaction = forge.payment_of([Outpoint(Txid(b"\x07" * 32), 0)], [output])
    for _ in range(2):
        await stage.source.broadcast(transaction.raw, server=server)
    assert (await stage.source.fetch_transaction(transaction.txid)).raw == transaction.raw
    await stage.publish()
    assert [entry.txid for entry in (await reader.next_change()).history] == [transaction.txid]


async def test_broadcast_that_is_not_taken_is_refused(stage: Stage, reader: Reader) -> None:
    """What is no transaction, and what is in a block already, is refused with a code; the server stays."""
    server = (await reader.next_tip()).server
    for raw in (b"\x00", stage.chain.transaction(shop_txid(stage)) or b""):
        with pytest.raises(SourceRefusedError):
            await stage.source.broadcast(raw, server=server)
    assert stage.source.connected() == [server]


async def test_fees_and_broadcasts_are_asked_of_the_named_server_alone(stage: Stage, reader: Reader) -> None:
    """What one server says of fees, and takes, is asked of it: of a stranger nothing comes."""
    await reader.next_tip()
    stranger = "electrum.example:50002:s"
    for ask in (
        stage.source.fetch_fee_histogram(server=stranger),
        stage.source.fetch_fee_rate(2, server=stranger),
        stage.source.broadcast(stage.chain.transaction(shop_txid(stage)) or b"", server=stranger),
    ):
        with pytest.raises(SourceUnavailableError):
            await ask


# --- servers -----------------------------------------------------------------------------------------------------


async def test_every_update_names_a_known_server(stage: Stage, reader: Reader) -> None:
    """The servers that updates name are those that ``servers`` lists, with their tip."""
    stage.source.watch(SHOP, None)
    await reader.next_change()
    states = {state.name: state for state in stage.source.servers()}
    assert reader.servers <= states.keys()
    (state,) = states.values()
    assert (state.verdict, state.tip_height) == ("connected", 10)


async def test_reported_server_is_dropped(stage: Stage, reader: Reader) -> None:
    """A server that was caught is dropped at once, and named as banned with the time of its end.

    One's own node is named with what it was caught with, and stays: there is no other.
    """
    tip = await reader.next_tip()
    stage.source.report(lie_of(tip.server))
    if stage.is_own_node:
        (state,) = stage.source.servers()
        assert (state.verdict, state.reason) == ("connected", "false-header")
        return
    lost = await reader.next_of(SourceLost)
    assert lost.server == tip.server
    await trio.testing.wait_all_tasks_blocked(0.005)
    assert tip.server not in stage.source.connected()
    (state,) = stage.source.servers()
    assert (state.verdict, state.reason) == ("banned", "false-header: it has no work")
    assert state.banned_until == 1_700_086_400


async def test_only_server_is_not_demoted(stage: Stage, reader: Reader) -> None:
    """A server that lags is better than none."""
    tip = await reader.next_tip()
    stage.source.demote(tip.server, "behind")
    await trio.testing.wait_all_tasks_blocked(0.005)
    assert stage.source.connected() == [tip.server]


async def test_voices_count_before_and_after_the_first_server(stage: Stage, reader: Reader) -> None:
    """A server counts as a voice from the start, before it is connected, and while it is."""
    assert stage.source.voices() == 1
    await reader.next_tip()
    assert (stage.source.voices(), len(stage.source.connected())) == (1, 1)


async def test_statistics_without_a_server_show_the_gap(stage: Stage, reader: Reader) -> None:
    """While a server is gone nothing counts as subscribed."""
    await reader.next_tip()
    stage.source.watch(SHOP, stage.chain.status(SHOP))
    await subscribed(stage.source)
    await stage.cut()
    await reader.next_of(SourceLost)
    statistics = stage.source.statistics()
    assert (statistics.total, statistics.subscribed) == (1, 0)
    assert statistics.oldest_gap_s >= 0.0
