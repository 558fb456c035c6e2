"""Scripts are taken up and let go of as it was wished last, whatever the node does meanwhile."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoind import registrar as registrar_module
from lightipn.bitcoind.registrar import Registrar
from lightipn.errors import SourceUnavailableError
from lightipn.simulator.blocks import SimulatedChain
from tests.bitcoind.rig import A_WHILE_S, POLL_S, life_on
from tests.bitcoind.simulated_node import SimulatedNode
from tests.tracker.rig import SHOP_SCRIPT

A, B, C, D = (ScriptHash(bytes([number]) * 32) for number in range(4))
Deed = tuple[str, list[ScriptHash]]


@dataclass
class NotedEnrolment:
    """What is asked of an enrolment, in order; also what of it is asked of the search, and of whoever tells.

    Args:
        with_past: of these there is a past to be looked for.
        meanwhile: is called once, in the middle of the next deed.
    """

    is_open: bool = True
    deeds: list[Deed] = field(default_factory=list)
    with_past: set[ScriptHash] = field(default_factory=set)
    trouble: str = ""
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def take_up(self, scripthashes: Sequence[ScriptHash]) -> bool:
        """Note a registration."""
        await self._do("take up", scripthashes)
        return not self.with_past.isdisjoint(scripthashes)

    async def let_go(self, scripthashes: Sequence[ScriptHash]) -> None:
        """Note that scripts are let go of."""
        await self._do("let go", scripthashes)

    async def _do(self, kind: str, scripthashes: Sequence[ScriptHash]) -> None:
        await trio.lowlevel.checkpoint()
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        if self.trouble and kind == "take up":
            raise SourceUnavailableError(self.trouble)
        self.deeds.append((kind, sorted(scripthashes)))

    def ring(self) -> None:
        """Note that the search for the past is wanted."""
        self.deeds.append(("search", []))

    def tell(self) -> None:
        """Note that histories may have changed."""
        self.deeds.append(("tell", []))


def registrar_over(enrolment: NotedEnrolment) -> Registrar:
    """Return a registrar that asks this enrolment, which stands for the search and for the teller as well."""
    doer: Any = enrolment  # it has what a registrar calls
    return Registrar(doer, ring_search=enrolment.ring, ring_teller=enrolment.tell)


def wishing(enrolment: NotedEnrolment, *scripthashes: ScriptHash) -> Registrar:
    """Return a registrar with the wish that these be taken up."""
    registrar = registrar_over(enrolment)
    for scripthash in scripthashes:
        registrar.want(scripthash)
    return registrar


# --- wishes ------------------------------------------------------------------------------------------------------


async def test_wishes_of_one_moment_are_one_deed(autojump_clock: MockClock) -> None:
    """All that was wished goes in together, and then histories are looked at; done is done."""
    enrolment = NotedEnrolment()
    registrar = wishing(enrolment, A, B, A)
    assert registrar.waiting == 2
    await registrar.work()
    assert enrolment.deeds == [("take up", [A, B]), ("tell", [])]
    await registrar.work()
    assert (len(enrolment.deeds), registrar.waiting, registrar.waiting_since) == (2, 0, None)


async def test_search_is_rung_for_where_there_is_a_past(autojump_clock: MockClock) -> None:
    """Only scripts whose past is not known wake the search."""
    enrolment = NotedEnrolment(with_past={B})
    registrar = wishing(enrolment, A)
    await registrar.work()
    assert ("search", []) not in enrolment.deeds
    registrar.want(B)
    await registrar.work()
    assert enrolment.deeds[-3:] == [("take up", [B]), ("search", []), ("tell", [])]


async def test_last_wish_counts(autojump_clock: MockClock) -> None:
    """Wanted and let go of before anything was done, a script is let go of; the other way round it is taken up."""
    enrolment = NotedEnrolment()
    registrar = wishing(enrolment, A)
    registrar.let_go(A)
    registrar.let_go(B)
    registrar.want(B)
    assert registrar.waiting == 1
    await registrar.work()
    assert enrolment.deeds == [("let go", [A]), ("take up", [B]), ("tell", [])]


@pytest.mark.parametrize("is_wanted_at_last", [False, True])
async def test_change_of_mind_during_the_work_is_a_wish_of_its_own(
    is_wanted_at_last: bool, autojump_clock: MockClock
) -> None:
    """What is wished while the same script is taken up is worked in afterwards, in the order of the wishes."""
    enrolment = NotedEnrolment()
    registrar = wishing(enrolment, A)

    async def change_of_mind() -> None:
        registrar.let_go(A)
        if is_wanted_at_last:
            registrar.want(A)

    enrolment.meanwhile = change_of_mind
    await registrar.work()
    after = [("take up", [A])] if is_wanted_at_last else [("let go", [A])]
    assert enrolment.deeds == [("take up", [A]), ("tell", []), *after, ("tell", [])]
    assert registrar.waiting == 0


async def test_script_that_is_wanted_while_it_is_let_go_of_is_taken_up(autojump_clock: MockClock) -> None:
    """A wish to watch that comes in the middle of forgetting is not forgotten with it."""
    enrolment = NotedEnrolment()
    registrar = registrar_over(enrolment)
    registrar.let_go(A)

    async def change_of_mind() -> None:
        registrar.want(A)

    enrolment.meanwhile = change_of_mind
    await registrar.work()
    assert enrolment.deeds == [("let go", [A]), ("tell", []), ("take up", [A]), ("tell", [])]


async def test_many_wishes_go_in_page_by_page(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is told before the next is begun; nothing is left over, of either kind."""
    monkeypatch.setattr(registrar_module, "AT_ONCE", 2)
    enrolment = NotedEnrolment()
    registrar = wishing(enrolment, A, B, C)
    for number in range(10, 13):
        registrar.let_go(ScriptHash(bytes([number]) * 32))
    await registrar.work()
    kinds = [(kind, len(scripthashes)) for kind, scripthashes in enrolment.deeds]
    assert kinds == [("let go", 2), ("take up", 2), ("tell", 0), ("let go", 1), ("take up", 1), ("tell", 0)]
    assert sorted(each for kind, deed in enrolment.deeds if kind == "take up" for each in deed) == [A, B, C]


# --- a node that is away -----------------------------------------------------------------------------------------


async def test_wish_outlives_a_node_that_is_away(autojump_clock: MockClock) -> None:
    """What could not be taken up waits, since when it was wished; what was let go of meanwhile does not come back."""
    enrolment = NotedEnrolment(trouble="connection-closed")
    registrar = wishing(enrolment, A, B)
    since = trio.current_time()
    await trio.sleep(7.0)
    with pytest.raises(SourceUnavailableError):
        await registrar.work()
    assert (registrar.waiting, registrar.waiting_since, enrolment.deeds) == (2, since, [])
    registrar.let_go(B)
    enrolment.trouble = ""
    await registrar.work()
    assert enrolment.deeds == [("let go", [B]), ("take up", [A]), ("tell", [])]


async def test_script_let_go_of_while_its_registration_fails_is_not_taken_up_again(autojump_clock: MockClock) -> None:
    """A failure puts wishes back; of a script that was let go of meanwhile, the last wish is to be let go of."""
    enrolment = NotedEnrolment(trouble="connection-closed")
    registrar = wishing(enrolment, A)

    async def change_of_mind() -> None:
        registrar.let_go(A)

    enrolment.meanwhile = change_of_mind
    with pytest.raises(SourceUnavailableError):
        await registrar.work()
    assert registrar.waiting == 0
    enrolment.trouble = ""
    await registrar.work()
    assert enrolment.deeds == [("let go", [A]), ("tell", [])]


async def test_script_counts_as_waiting_while_it_is_taken_up(autojump_clock: MockClock) -> None:
    """Whoever asks how many scripts are not looked for yet is told of those under way as well, the oldest first."""
    enrolment = NotedEnrolment()
    registrar = wishing(enrolment, A)
    since, seen = trio.current_time(), []
    await trio.sleep(3.0)

    async def look() -> None:
        registrar.want(B)
        seen.append((registrar.waiting, registrar.waiting_since))

    enrolment.meanwhile = look
    await registrar.work()
    assert seen == [(2, since)]
    assert enrolment.deeds == [("take up", [A]), ("tell", []), ("take up", [B]), ("tell", [])]


async def test_two_workers_do_each_deed_once(autojump_clock: MockClock) -> None:
    """A look at the node and a new wish may both begin the work: the second waits, and finds it done."""
    enrolment = NotedEnrolment()
    registrar = wishing(enrolment, A)

    async def take_long() -> None:
        await trio.sleep(5.0)
        registrar.want(B)

    enrolment.meanwhile = take_long
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registrar.work)
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        await registrar.work()
        assert trio.current_time() - before >= 5.0
    assert enrolment.deeds == [("take up", [A]), ("tell", []), ("take up", [B]), ("tell", [])]


async def test_run_waits_until_a_block_is_known_to_begin_behind(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Before the node was greeted nobody knows "from the next block on"; then one ring is enough, after trouble too."""
    enrolment = NotedEnrolment(is_open=False)
    registrar = wishing(enrolment, A)
    nursery.start_soon(registrar.run)
    await trio.sleep(60.0)
    assert (enrolment.deeds, registrar.waiting) == ([], 1)
    enrolment.is_open, enrolment.trouble = True, "connection-closed"
    registrar.ring()
    await trio.sleep(60.0)
    assert (enrolment.deeds, registrar.waiting) == ([], 1)
    enrolment.trouble = ""
    registrar.ring()
    await trio.testing.wait_all_tasks_blocked()
    assert enrolment.deeds == [("take up", [A]), ("tell", [])]
    registrar.want(B)
    await trio.testing.wait_all_tasks_blocked()
    assert enrolment.deeds[2:] == [("take up", [B]), ("tell", [])]


# --- to the end --------------------------------------------------------------------------------------------------


async def test_script_watched_again_while_it_is_taken_up_has_its_past_searched(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A shop changes its mind twice during the registration: the script is taken up all the same, with its past."""
    chain = SimulatedChain()
    chain.mine(3)
    chain.pay(SHOP_SCRIPT, 100_000)
    chain.mine(2)
    chain.pay(SHOP_SCRIPT, 500)  # its registration asks for this one, and that takes its time
    node = SimulatedNode(chain)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(2 * POLL_S)

        async def change_of_mind() -> None:
            await life.unwatch()
            await trio.sleep(0.01)
            await life.watch()
            await trio.sleep(0.01)

        node.before["getrawtransaction"] = change_of_mind
        await life.watch()
        await trio.sleep(A_WHILE_S)
        assert "getrawtransaction" not in node.before
        assert await life.shown() == [(500, "Unconfirmed"), (100_000, "Confirmed")]
        assert await life.coverage() == (None, 0)
