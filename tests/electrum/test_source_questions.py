"""Questions to several servers: who is asked first, who next, and when."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from lightipn.bitcoin.hashes import Txid
from lightipn.chain.source import MerkleBranch, RawTransaction
from lightipn.electrum.methods import MAX_HEADERS
from lightipn.electrum.session import URGENT_DEADLINE_S
from lightipn.electrum.source import HEDGE_S, NO_SERVER_WAIT_S, ElectrumSource
from lightipn.errors import ProtocolError, SourceRefusedError, SourceUnavailableError
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from tests.electrum.memory import MemoryConnector
from tests.electrum.pools import named
from tests.electrum.readers import HISTORY, SHOP, calls_of, connected, host_of, reading, rest

Clock = trio.testing.MockClock
A, B, C = HOSTS = ("a.example", "b.example", "c.example")
NAMES = [named(host).name for host in HOSTS]
GET = "blockchain.transaction.get"
MERKLE = "blockchain.transaction.get_merkle"
UNKNOWN_TXID = Txid(bytes(32))
PROVED_HEIGHT = 3


@pytest.fixture
def txid(chain: SimulatedChain) -> Txid:
    """The shop's payment in block 3."""
    return chain.history(SHOP)[0].txid


@pytest.fixture
async def source(memory: MemoryConnector, autojump_clock: Clock) -> AsyncIterator[ElectrumSource]:
    """A source with three servers."""
    memory.add_many(*HOSTS)
    async with reading(memory) as reader:
        await connected(reader, *HOSTS)
        yield reader.source


async def timed(ask: Callable[[], Awaitable[RawTransaction]]) -> tuple[str, float]:
    """Ask for a transaction; return the host whose answer came, and how long it took."""
    began = trio.current_time()
    answer = await ask()
    return host_of(answer.server), trio.current_time() - began


# --- who is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
async def test_preferred_server_is_asked_first(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock, host: str
) -> None:
    """A preferred server that answers is the only one that is asked, and the answer names it."""
    raw = memory.servers[A].chain.transaction(txid)
    assert await source.fetch_transaction(txid, prefer=named(host).name) == RawTransaction(named(host).name, raw or b"")
    assert calls_of(memory, GET) == {host: 1}
    branch = await source.fetch_merkle_branch(txid, PROVED_HEIGHT, prefer=named(host).name)
    assert (branch, branch.server) == (memory.servers[A].chain.merkle(txid, PROVED_HEIGHT), named(host).name)
    assert isinstance(branch, MerkleBranch)
    assert calls_of(memory, MERKLE) == {host: 1}


async def test_anybody_may_answer(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """Without a preference, or with one that is not connected, one server is asked, and that is enough."""
    for prefer in ("", "nobody.example:50001:t"):
        before = calls_of(memory, GET)
        await source.fetch_transaction(txid, prefer=prefer)
        assert (calls_of(memory, GET) - before).total() == 1


@pytest.mark.parametrize(
    ("behaviour", "method"),
    [
        pytest.param(Behaviour(denies_transactions=True), GET, id="denies"),
        pytest.param(Behaviour(withholds_proof=True), MERKLE, id="withholds the proof"),
    ],
)
async def test_next_server_is_asked_at_once_where_one_refuses(
    source: ElectrumSource,
    memory: MemoryConnector,
    txid: Txid,
    autojump_clock: Clock,
    behaviour: Behaviour,
    method: str,
) -> None:
    """A refusal is no answer while another server has one; nobody waits for it."""
    memory.servers[B].behaviour = behaviour
    if method == GET:
        server = (await source.fetch_transaction(txid, prefer=NAMES[1])).server
    else:
        server = (await source.fetch_merkle_branch(txid, PROVED_HEIGHT, prefer=NAMES[1])).server
    assert host_of(server) in (A, C)
    assert calls_of(memory, method) == {B: 1, host_of(server): 1}
    assert trio.current_time() == 0.0


async def test_next_server_is_asked_where_one_hangs_up(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A server that goes away over a question costs only the time until it went."""
    memory.servers[B].behaviour = Behaviour(delay_s=HEDGE_S / 2)

    async def hang_up() -> None:
        await trio.sleep(HEDGE_S / 4)
        await memory.kill(B)

    nursery.start_soon(hang_up)
    host, elapsed_s = await timed(lambda: source.fetch_transaction(txid, prefer=NAMES[1]))
    assert host in (A, C)
    assert elapsed_s == HEDGE_S / 4


async def test_next_server_is_asked_where_one_breaks_the_protocol(
    memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """An answer of the wrong shape ends that server's session, and the next one answers."""
    memory.add_many(*HOSTS)
    async with reading(memory) as reader:
        await connected(reader, *HOSTS)
        memory.servers[B].behaviour = Behaviour(garbage=True)
        host, _ = await timed(lambda: reader.source.fetch_transaction(txid, prefer=NAMES[1]))
        assert host in (A, C)
        await rest()
        assert {host_of(state.name): state.verdict for state in reader.source.servers()}[B] == "misbehaved"


# --- hedging -----------------------------------------------------------------------------------------------------


async def test_silent_server_is_hedged(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """Where a server takes long the next one is asked as well, and the first answer counts."""
    memory.servers[B].behaviour = Behaviour(stalls=True)
    host, elapsed_s = await timed(lambda: source.fetch_transaction(txid, prefer=NAMES[1]))
    assert host in (A, C)
    assert elapsed_s == HEDGE_S
    assert calls_of(memory, GET) == {B: 1, host: 1}


async def test_two_silent_servers_are_hedged(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """One after the other is asked, however many are silent, before the first of them is given up."""
    for host in (A, B):
        memory.servers[host].behaviour = Behaviour(stalls=True)
    host, elapsed_s = await timed(lambda: source.fetch_transaction(txid, prefer=NAMES[1]))
    assert host == C
    assert elapsed_s in (HEDGE_S, 2 * HEDGE_S)
    await trio.sleep(1)
    assert len(source.connected()) == 3


async def test_slow_server_may_still_be_first(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """A server that answers after others were asked counts if its answer is the first; nobody else is asked then."""
    delays_s = {A: 30.0, B: 1.5 * HEDGE_S, C: 30.0}
    for host, delay_s in delays_s.items():
        memory.servers[host].behaviour = Behaviour(delay_s=delay_s)
    assert await timed(lambda: source.fetch_transaction(txid, prefer=NAMES[1])) == (B, 1.5 * HEDGE_S)
    assert calls_of(memory, GET).total() == 2


async def test_quick_enough_server_is_not_hedged(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """Within the time that a server may take nobody else is bothered."""
    memory.servers[B].behaviour = Behaviour(delay_s=0.9 * HEDGE_S)
    assert await timed(lambda: source.fetch_transaction(txid, prefer=NAMES[1])) == (B, 0.9 * HEDGE_S)
    assert calls_of(memory, GET) == {B: 1}


async def test_refusal_of_a_slow_server_is_waited_for(
    source: ElectrumSource, memory: MemoryConnector, autojump_clock: Clock
) -> None:
    """What nobody knows is refused once all have said so, the slow ones included."""
    memory.servers[B].behaviour = Behaviour(delay_s=3 * HEDGE_S)
    with pytest.raises(SourceRefusedError) as caught:
        await source.fetch_transaction(UNKNOWN_TXID, prefer=NAMES[1])
    assert caught.value.code == 2
    assert calls_of(memory, GET) == dict.fromkeys(HOSTS, 1)
    assert trio.current_time() == 3 * HEDGE_S


async def test_refused_is_what_all_refuse(
    source: ElectrumSource, memory: MemoryConnector, autojump_clock: Clock
) -> None:
    """Where one server refuses and the others are gone, nobody knows what they would have said."""
    for host in (A, B):
        memory.servers[host].behaviour = Behaviour(stalls=True)
    with pytest.raises(SourceUnavailableError):
        await source.fetch_transaction(UNKNOWN_TXID, prefer=NAMES[1])


async def test_silence_of_all_is_unavailable(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """Where nobody answers in time the caller learns that, and not later than the last deadline."""
    for host in HOSTS:
        memory.servers[host].behaviour = Behaviour(stalls=True)
    with pytest.raises(SourceUnavailableError):
        await source.fetch_transaction(txid)
    assert trio.current_time() <= 2 * HEDGE_S + URGENT_DEADLINE_S + 2


async def test_cancelled_question_harms_nobody(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """A caller who gives up, in the middle of a hedged question, leaves sessions that go on."""
    for host in HOSTS:
        memory.servers[host].behaviour = Behaviour(delay_s=5.0)
    with trio.move_on_after(HEDGE_S + 1):
        await source.fetch_transaction(txid)
    for host in HOSTS:
        memory.servers[host].behaviour = Behaviour()
    await trio.sleep(60)
    assert len(source.connected()) == 3
    assert [server.accepted for server in memory.servers.values()] == [1, 1, 1]


# --- one server, or not one --------------------------------------------------------------------------------------


async def test_named_server_is_the_only_one(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """Where a server is named nobody else is asked, whatever it answers, however long it takes."""
    answer = await source.fetch_transaction(txid, server=NAMES[2], prefer=NAMES[0])
    assert host_of(answer.server) == C
    memory.servers[C].behaviour = Behaviour(denies_transactions=True, delay_s=3 * HEDGE_S)
    with pytest.raises(SourceRefusedError):
        await source.fetch_transaction(txid, server=NAMES[2])
    assert calls_of(memory, GET) == {C: 2}


async def test_proof_of_a_named_server_is_its_own(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """A branch that is asked of a server to judge it comes from that one, or not at all."""
    branch = await source.fetch_merkle_branch(txid, PROVED_HEIGHT, server=NAMES[2])
    assert host_of(branch.server) == C
    memory.servers[C].behaviour = Behaviour(withholds_proof=True)
    with pytest.raises(SourceRefusedError):
        await source.fetch_merkle_branch(txid, PROVED_HEIGHT, server=NAMES[2])
    assert calls_of(memory, MERKLE) == {C: 2}


async def test_history_of_a_named_server_is_its_own(
    source: ElectrumSource, memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """What a server lists is asked of that one, whether the script is watched or not, and comes as it is."""
    assert await source.fetch_history(SHOP, server=NAMES[1]) == chain.history(SHOP)
    memory.servers[B].behaviour = Behaviour(hides=frozenset({chain.history(SHOP)[0].txid}))
    assert await source.fetch_history(SHOP, server=NAMES[1]) == ()
    memory.servers[B].behaviour = Behaviour(history_too_large=True)
    with pytest.raises(SourceRefusedError):
        await source.fetch_history(SHOP, server=NAMES[1])
    with pytest.raises(SourceUnavailableError, match="the server to ask is gone"):
        await source.fetch_history(SHOP, server="nobody.example:50001:t")
    assert calls_of(memory, HISTORY) == {B: 3}


async def test_named_server_that_is_gone_is_unavailable_at_once(
    source: ElectrumSource, txid: Txid, autojump_clock: Clock
) -> None:
    """A named server that is not connected is not waited for, and is named in the error."""
    with pytest.raises(SourceUnavailableError, match="the server to ask is gone") as caught:
        await source.fetch_transaction(txid, server="nobody.example:50001:t")
    assert caught.value.source == "nobody.example:50001:t"
    with pytest.raises(SourceUnavailableError):
        await source.fetch_headers(1, 1, server="nobody.example:50001:t")
    assert trio.current_time() == 0.0


async def test_avoided_servers_are_not_asked(
    source: ElectrumSource, memory: MemoryConnector, txid: Txid, autojump_clock: Clock
) -> None:
    """Servers to avoid are not asked, not even where they are preferred or the others refuse."""
    assert host_of((await source.fetch_transaction(txid, prefer=NAMES[0], avoid={NAMES[0], NAMES[1]})).server) == C
    with pytest.raises(SourceRefusedError):
        await source.fetch_merkle_branch(txid, PROVED_HEIGHT + 1, avoid={NAMES[0]})
    assert calls_of(memory, GET) == {C: 1}
    assert calls_of(memory, MERKLE) == {B: 1, C: 1}
    with pytest.raises(SourceUnavailableError, match="no server to ask"):
        await source.fetch_transaction(txid, avoid=set(NAMES))
    with pytest.raises(SourceUnavailableError, match="the server to ask is gone"):
        await source.fetch_transaction(txid, server=NAMES[0], avoid={NAMES[0]})


async def test_question_waits_for_the_first_server(
    memory: MemoryConnector, txid: Txid, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """A question asked before anybody is connected is answered as soon as somebody is."""
    server = memory.add(A, Behaviour(stalls=True))
    async with reading(memory) as reader:

        async def wake() -> None:
            await trio.sleep(5)
            server.behaviour = Behaviour()
            await server.drop_connections()

        nursery.start_soon(wake)
        assert host_of((await reader.source.fetch_transaction(txid)).server) == A
        assert 5.0 <= trio.current_time() < NO_SERVER_WAIT_S


# --- headers -----------------------------------------------------------------------------------------------------


async def test_headers_come_from_the_named_server(
    source: ElectrumSource, memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Headers that are asked of a server come from that one, in as many pages as it takes."""
    chain.mine(MAX_HEADERS + 10)
    assert await source.fetch_headers(1, 5000, server=NAMES[1]) == chain.headers_from(1, 5000)
    assert calls_of(memory, "blockchain.block.headers") == {B: 2}


async def test_headers_avoid_servers(
    source: ElectrumSource, memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """Headers of anybody come from one that is not to be avoided."""
    assert await source.fetch_headers(0, 3, avoid=set(NAMES[:2])) == chain.headers_from(0, 3)
    assert calls_of(memory, "blockchain.block.headers") == {C: 1}


async def test_too_many_headers_end_the_session(
    memory: MemoryConnector, chain: SimulatedChain, autojump_clock: Clock
) -> None:
    """A server whose answer has the wrong shape is left, and the caller learns that it broke the protocol."""
    memory.add_many(A, B)
    async with reading(memory) as reader:
        await connected(reader, A, B)
        memory.servers[A].behaviour = Behaviour(garbage=True)
        with pytest.raises((ProtocolError, SourceUnavailableError)):
            await reader.source.fetch_headers(0, 3, server=NAMES[0])
        await connected(reader, B)
