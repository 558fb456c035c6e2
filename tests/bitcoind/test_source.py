"""The source as a whole: whom it greets, how soon it looks, what it tells of a lost node, and what it does not deny."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from lightipn.bitcoin.hashes import Txid, scripthash_of
from lightipn.bitcoin.transaction import Outpoint
from lightipn.bitcoind import source as source_module
from lightipn.bitcoind.notices import BlockNotice, GapNotice, Notice, RemovalNotice, TransactionNotice
from lightipn.bitcoind.rpc import IN_WARMUP
from lightipn.bitcoind.source import NO_NODE_WAIT_S, ROUND_WITH_NOTICES_S
from lightipn.chain.source import SourceLost, TipChanged, Update
from lightipn.errors import SourceRefusedError, SourceUnavailableError
from lightipn.simulator.blocks import SimulatedChain
from tests.bitcoind.rig import A_WHILE_S, NODE, POLL_S, SOMEBODY_SCRIPT, Life, life_on
from tests.bitcoind.simulated_node import RefusedCallError, SimulatedNode
from tests.builders import txid_of
from tests.tracker.rig import SHOP, SHOP_SCRIPT

ENDPOINT = "tcp://127.0.0.1:28332"
SLOW_POLL_S = 5.0


def node_at(height: int = 5, **options: bool) -> SimulatedNode:
    """Return a node with so many blocks."""
    chain = SimulatedChain()
    chain.mine(height)
    return SimulatedNode(chain, **options)


@pytest.fixture
async def life(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Life]:
    """A source that is connected, and whose updates nobody reads."""
    async with life_on(node_at(), tmp_path / "a.db", has_tracker=False) as life:
        await trio.sleep(POLL_S)
        yield life


# --- notices -----------------------------------------------------------------------------------------------------


@dataclass
class Publisher:
    """What stands for the node's ZMQ publishers: a test says what they say."""

    endpoints: Sequence[str] = ()
    _send: list[trio.MemorySendChannel[Notice]] = field(default_factory=list)

    async def listen(self, endpoints: Sequence[str], send: trio.MemorySendChannel[Notice]) -> None:
        """Connect, for ever."""
        self.endpoints = endpoints
        self._send = [send]
        await trio.sleep_forever()

    async def say(self, *notices: Notice) -> None:
        """Publish, and wait until it was worked in."""
        for notice in notices:
            await self._send[0].send(notice)
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Publisher:
    """The publishers that a source with ZMQ listens to."""
    publisher = Publisher()
    monkeypatch.setattr(source_module, "listen", publisher.listen)
    return publisher


async def looks_within(life: Life, seconds: float) -> int:
    """Return how often the mempool is looked at within a time."""
    before = life.node.calls.count("getrawmempool")
    await trio.sleep(seconds)
    return life.node.calls.count("getrawmempool") - before


async def waiting_of_the_shop(life: Life) -> list[Txid]:
    """Return which payments to the shop wait, as the source knows it now; the node is not looked at for that."""
    return [entry.txid for entry in await life.source.fetch_history(SHOP, server=NODE)]


@pytest.mark.parametrize("notices", [[], [BlockNotice()]])
async def test_publisher_that_says_nothing_of_payments_does_not_slow_them_down(
    notices: list[Notice], publisher: Publisher, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An endpoint that is silent, or publishes blocks alone, is no reason to look less often."""
    node = node_at()
    async with life_on(node, tmp_path / "a.db", poll_s=SLOW_POLL_S, zmq=[ENDPOINT]) as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert publisher.endpoints == [ENDPOINT]
        for _ in range(2):
            node.chain.mine()
            await publisher.say(*notices)
            await trio.sleep(ROUND_WITH_NOTICES_S + SLOW_POLL_S)
            node.chain.pay(SHOP_SCRIPT, 1_000)
            await trio.sleep(SLOW_POLL_S + 1.0)
            assert (await life.shown())[-1] == (1_000, "Unconfirmed")


async def test_publisher_that_says_nothing_of_blocks_does_not_slow_them_down(
    publisher: Publisher, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Where payments alone are published, blocks are looked for as often as without."""
    node = node_at()
    async with life_on(node, tmp_path / "a.db", poll_s=SLOW_POLL_S, zmq=[ENDPOINT]) as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        await publisher.say(TransactionNotice(node.chain.pay(SHOP_SCRIPT, 1_000)))
        await trio.sleep(ROUND_WITH_NOTICES_S + SLOW_POLL_S)
        node.chain.mine()
        await trio.sleep(SLOW_POLL_S + 1.0)
        assert await life.shown() == [(1_000, "Confirmed")]


async def hear_everything(life: Life, publisher: Publisher) -> None:
    """Have a payment to somebody and its block published as they come, before a look finds them."""
    await trio.sleep(POLL_S / 4)
    await publisher.say(TransactionNotice(life.node.chain.pay(SOMEBODY_SCRIPT, 1_000)))
    life.node.chain.mine()
    await publisher.say(BlockNotice())
    await trio.sleep(POLL_S)


async def test_publisher_of_both_makes_looks_rare_and_payments_quick(
    publisher: Publisher, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Once blocks and payments are published, what they say is worked in at once, and looks are there for losses."""
    async with life_on(node_at(), tmp_path / "a.db", zmq=[ENDPOINT]) as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        await hear_everything(life, publisher)
        assert await looks_within(life, 3 * ROUND_WITH_NOTICES_S) == 3
        txid = life.node.chain.pay(SHOP_SCRIPT, 1_000)
        await publisher.say(TransactionNotice(txid, life.node.chain.transaction(txid)))
        assert await waiting_of_the_shop(life) == [txid]
        life.node.chain.evict(txid)
        await publisher.say(RemovalNotice(txid))
        assert await waiting_of_the_shop(life) == []


@pytest.mark.parametrize("lost", ["payment", "block"])
async def test_what_a_look_finds_unannounced_makes_looks_frequent_again(
    lost: str, publisher: Publisher, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A publisher that falls silent is found out by the next look; until it is heard again, polling serves."""
    async with life_on(node_at(), tmp_path / "a.db", zmq=[ENDPOINT]) as life:
        await trio.sleep(A_WHILE_S)
        await hear_everything(life, publisher)
        assert await looks_within(life, 2 * ROUND_WITH_NOTICES_S) == 2
        if lost == "payment":
            life.node.chain.pay(SOMEBODY_SCRIPT, 1_000)
        else:
            life.node.chain.mine()
        await trio.sleep(ROUND_WITH_NOTICES_S)
        assert await looks_within(life, 20 * POLL_S) >= 19


async def test_gap_between_notices_is_a_reason_to_look(
    publisher: Publisher, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Messages that were lost are made up for by a look at everything, at once."""
    async with life_on(node_at(), tmp_path / "a.db", zmq=[ENDPOINT]) as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        await hear_everything(life, publisher)
        txid = life.node.chain.pay(SHOP_SCRIPT, 1_000)
        await publisher.say(GapNotice())
        assert await waiting_of_the_shop(life) == [txid]


async def test_notice_that_cannot_be_followed_up_leads_to_a_look(
    publisher: Publisher, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A node that does not answer when it is asked for what it published is looked at as a whole."""
    async with life_on(node_at(), tmp_path / "a.db", zmq=[ENDPOINT]) as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        await hear_everything(life, publisher)
        txid = life.node.chain.pay(SHOP_SCRIPT, 1_000)
        life.node.calls_to_lose = 1
        await publisher.say(TransactionNotice(txid))
        assert await waiting_of_the_shop(life) == [txid]


# --- the greeting ------------------------------------------------------------------------------------------------


class StrangeNode(SimulatedNode):
    """A node whose first block is another, or that is not done starting."""

    is_warming_up = False
    has_other_genesis = False

    def _getblockhash(self, height: int) -> str:
        return super()._getblockhash(1 if height == 0 and self.has_other_genesis else height)

    def _getblockchaininfo(self) -> dict[str, object]:
        if self.is_warming_up:
            raise RefusedCallError(IN_WARMUP)
        return super()._getblockchaininfo()


def turn(**attributes: object) -> Callable[[StrangeNode], None]:
    """Return what makes a node a wrong one."""

    def change(node: StrangeNode) -> None:
        for name, value in attributes.items():
            setattr(node, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(turn(chain_name="main"), "wrong-chain: it is on 'mainnet', want regtest", id="wrong chain"),
        pytest.param(turn(chain_name="x\n" * 30), r"wrong-chain: it is on ", id="made-up chain"),
        pytest.param(
            turn(has_other_genesis=True), "wrong-chain: its block 0 is not that of regtest", id="wrong genesis"
        ),
        pytest.param(turn(version=239_900), "too-old: version 239900, want 240000 (24.0)", id="too old"),
        pytest.param(turn(download=0.12345), "initial-download: 12.35 percent, block 5 of 5", id="initial download"),
        pytest.param(turn(is_warming_up=True), "warming-up", id="warming up"),
    ],
)
async def test_node_that_is_of_no_use_is_not_followed_until_it_is(
    change: Callable[[StrangeNode], None], reason: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Why it is not is shown; it is asked again, and followed as soon as it is the right one."""
    chain = SimulatedChain()
    chain.mine(5)
    node = StrangeNode(chain)
    change(node)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        (state,) = life.source.servers()
        assert (state.verdict, life.source.connected()) == ("unavailable", [])
        assert state.reason.startswith(reason)
        assert state.reason.isprintable()
        assert len(state.reason) < 90
        assert "getrawmempool" not in node.calls
        turn(chain_name="regtest", has_other_genesis=False, version=240_000, download=None, is_warming_up=False)(node)
        await trio.sleep(A_WHILE_S)
        (state,) = life.source.servers()
        assert (state.verdict, state.reason, state.tip_height) == ("connected", "", 5)
        assert life.source.connected() == [NODE]


async def test_progress_of_the_initial_download_is_shown_as_it_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each look at a node in its initial download renews what is shown, and whoever waits for news is woken."""
    node = node_at()
    node.download = 0.1
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        assert life.source.servers()[0].reason.startswith("initial-download: 10.00 percent")
        changed = life.source.servers_changed
        node.download = 0.2
        await trio.sleep(A_WHILE_S)
        assert changed.is_set()
        assert life.source.servers()[0].reason.startswith("initial-download: 20.00 percent")


# --- a lost node -------------------------------------------------------------------------------------------------


async def read_into(told: list[Update], life: Life) -> None:
    """Note what is told, for ever."""
    while True:
        told.append(await life.next_of(object))  # type: ignore[arg-type]  # every update is one


async def test_lost_node_is_told_once_until_it_is_back(
    life: Life, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Every try that fails is no news; the next loss after it was back is, and so is the tip it comes back with."""
    told: list[Update] = []
    nursery.start_soon(read_into, told, life)
    for _ in range(2):
        await trio.sleep(A_WHILE_S)
        assert [type(update) for update in told] == [TipChanged]
        told.clear()
        life.node.trouble = "connection-refused"
        await trio.sleep(120.0)
        assert told == [SourceLost(server=NODE)]
        assert life.source.servers()[0].reason == "connection-refused"
        assert life.source.statistics().oldest_gap_s > 100.0
        told.clear()
        life.node.trouble = ""


async def test_node_that_was_never_there_is_not_told_as_lost(
    tmp_path: Path, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Only who was connected can be lost."""
    node = node_at()
    node.trouble = "connection-refused"
    told: list[Update] = []
    async with life_on(node, tmp_path / "a.db", has_tracker=False) as life:
        nursery.start_soon(read_into, told, life)
        await trio.sleep(60.0)
        assert told == []
        assert life.source.servers()[0].reason == "connection-refused"
        nursery.cancel_scope.cancel()


def questions(source: source_module.BitcoindSource) -> list[Callable[[], Awaitable[object]]]:
    """Return a question of every kind, to the node by its name where it can be named."""
    return [
        lambda: source.fetch_headers(0, 1, server=NODE),
        lambda: source.fetch_merkle_branch(txid_of(1), 1, server=NODE),
        lambda: source.fetch_transaction(txid_of(1), server=NODE),
        lambda: source.fetch_output(Outpoint(txid_of(1), 0)),
        lambda: source.fetch_history(SHOP, server=NODE),
        lambda: source.fetch_fee_histogram(server=NODE),
        lambda: source.fetch_fee_rate(2, server=NODE),
        lambda: source.broadcast(b"", server=NODE),
    ]


async def test_question_to_a_lost_node_fails_after_a_while(life: Life, autojump_clock: MockClock) -> None:
    """Whoever asks waits a moment for it to come back; then it is unavailable, and nothing is denied."""
    life.node.trouble = "connection-refused"
    await trio.sleep(A_WHILE_S)
    for ask in questions(life.source):
        before = trio.current_time()
        with pytest.raises(SourceUnavailableError):
            await ask()
        assert trio.current_time() - before == pytest.approx(NO_NODE_WAIT_S)


async def test_question_to_a_node_that_comes_back_in_time_is_answered(
    life: Life, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """It is asked as soon as it is followed again."""
    monkeypatch.setattr(source_module, "LONGEST_PAUSE_S", 1.0)
    life.node.trouble = "connection-refused"
    await trio.sleep(A_WHILE_S)
    life.node.trouble = ""
    before = trio.current_time()
    assert await life.source.fetch_headers(1, 1) == [life.node.chain.header_at(1)]
    assert trio.current_time() - before <= 1.0


async def test_question_to_another_server_is_refused_at_once(life: Life, autojump_clock: MockClock) -> None:
    """There is only the node: one that is named otherwise, or is to be avoided, is not waited for."""
    before = trio.current_time()
    with pytest.raises(SourceUnavailableError):
        await life.source.fetch_headers(0, 1, server="another")
    with pytest.raises(SourceUnavailableError):
        await life.source.fetch_transaction(txid_of(1), avoid={NODE})
    assert trio.current_time() == before
    assert await life.source.fetch_headers(1, 1, avoid={"another"}) == [life.node.chain.header_at(1)]


# --- what is not denied ------------------------------------------------------------------------------------------


async def test_transaction_that_the_node_does_not_have_is_denied(life: Life, autojump_clock: MockClock) -> None:
    """Where all is known, a transaction in no block of ours and not in the mempool is not there."""
    with pytest.raises(SourceRefusedError):
        await life.source.fetch_transaction(txid_of(1))


async def test_nothing_is_denied_while_a_past_is_searched(life: Life, autojump_clock: MockClock) -> None:
    """A transaction, or a history, may be in a block that the search has not come to yet; afterwards it is known."""
    await life.watch()
    seen: list[str] = []

    async def ask() -> None:
        await trio.sleep(POLL_S)
        with pytest.raises(SourceUnavailableError):
            await life.source.fetch_transaction(txid_of(1))
        with pytest.raises(SourceUnavailableError):
            await life.source.fetch_history(SHOP, server=NODE)
        seen.append(life.source.past_progress)

    life.node.after["scanblocks"] = ask
    await trio.sleep(A_WHILE_S)
    assert len(seen) == 1
    assert "searched" in seen[0]
    with pytest.raises(SourceRefusedError):
        await life.source.fetch_transaction(txid_of(1))
    assert await life.source.fetch_history(SHOP, server=NODE) == ()


async def test_what_a_pruned_block_holds_is_not_denied(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The node says that an output is unspent, and cannot show its transaction: no proof, and no denial either."""
    node = node_at(2, has_filters=False)
    txid = node.chain.pay(SHOP_SCRIPT, 100_000)
    node.chain.mine(8)
    node.prune_height = 8
    async with life_on(node, tmp_path / "a.db", has_tracker=False) as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert (await life.coverage())[1] == 100_000
        assert life.source.past_progress == ""
        with pytest.raises(SourceUnavailableError):
            await life.source.fetch_transaction(txid)
        assert await life.source.fetch_history(SHOP, server=NODE) == ()
        with pytest.raises(SourceRefusedError):  # of this one nobody has said anything
            await life.source.fetch_transaction(txid_of(1))
        output = await life.source.fetch_output(Outpoint(txid, 0))
        assert output is not None
        assert (output.amount_sat, scripthash_of(output.script)) == (100_000, SHOP)


async def test_merkle_branch_is_refused_only_for_what_is_not_in_its_block(
    life: Life, autojump_clock: MockClock
) -> None:
    """A transaction that no search has found is looked for in its block; what is not there is refused."""
    txid = life.node.chain.pay(SOMEBODY_SCRIPT, 1_000)
    life.node.chain.mine()
    await trio.sleep(A_WHILE_S)
    branch = await life.source.fetch_merkle_branch(txid, 6)
    assert (branch.position, len(branch.siblings), branch.server) == (1, 1, NODE)
    for height in (5, 7):
        with pytest.raises(SourceRefusedError):
            await life.source.fetch_merkle_branch(txid, height)


@pytest.mark.slow
async def test_many_payments_that_wait_for_one_address_are_all_told_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Some are asked about at a time, and the next ones at once where those were there: nobody waits for a block."""
    node = node_at(3)
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(A_WHILE_S)
        for number in range(200):
            node.chain.pay(SHOP_SCRIPT, 1_000 + number)
        await trio.sleep(20.0)
        assert await life.shown() == [(1_000 + number, "Unconfirmed") for number in range(200)]
