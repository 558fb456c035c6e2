"""The gate between histories and changes of the chain: side by side, or alone."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing

from lightipn.tracker.gate import CommitGate

Way = Callable[[], AbstractAsyncContextManager[None]]


class Passers:
    """Tasks that go through a gate, stay inside until they are let out, and are noted."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.inside: list[str] = []
        self._doors: dict[str, trio.Event] = {}

    async def send(self, name: str, way: Way) -> None:
        """Send a task to the gate, and let it go as far as it can."""
        self._doors[name] = trio.Event()

        async def go() -> None:
            async with way():
                self.inside.append(name)
                await self._doors[name].wait()
                self.inside.remove(name)

        self.nursery.start_soon(go)
        await trio.testing.wait_all_tasks_blocked()

    async def let_out(self, name: str) -> None:
        """Let a task leave."""
        self._doors[name].set()
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def passers(nursery: trio.Nursery) -> Passers:
    """Nobody yet."""
    return Passers(nursery)


async def test_histories_pass_side_by_side(passers: Passers) -> None:
    """Any number of histories may be inside together."""
    gate = CommitGate()
    for name in "abc":
        await passers.send(name, gate.shared)
    assert passers.inside == ["a", "b", "c"]


async def test_change_of_the_chain_passes_alone(passers: Passers) -> None:
    """A change waits until every history has left, and nobody enters while it is inside."""
    gate = CommitGate()
    await passers.send("a", gate.shared)
    await passers.send("b", gate.shared)
    await passers.send("reorg", gate.alone)
    assert passers.inside == ["a", "b"]
    await passers.let_out("a")
    assert passers.inside == ["b"]
    await passers.let_out("b")
    assert passers.inside == ["reorg"]
    await passers.send("c", gate.shared)
    await passers.send("other", gate.alone)
    assert passers.inside == ["reorg"]
    await passers.let_out("reorg")
    assert passers.inside == ["c"]
    await passers.let_out("c")
    assert passers.inside == ["other"]


async def test_change_of_the_chain_is_not_starved(passers: Passers) -> None:
    """Histories that come after a waiting change wait behind it, however many there are."""
    gate = CommitGate()
    await passers.send("a", gate.shared)
    await passers.send("reorg", gate.alone)
    await passers.send("b", gate.shared)
    assert passers.inside == ["a"]
    await passers.let_out("a")
    assert passers.inside == ["reorg"]
    await passers.let_out("reorg")
    assert passers.inside == ["b"]


@pytest.mark.parametrize("way", ["shared", "alone"])
@pytest.mark.parametrize("is_waiting", [False, True], ids=["inside", "waiting"])
async def test_cancelled_passer_blocks_nobody(passers: Passers, way: str, is_waiting: bool) -> None:
    """Whoever is cancelled at the gate or inside it leaves it open for the next."""
    gate = CommitGate()
    if is_waiting:
        await passers.send("first", gate.alone)
    async with trio.open_nursery() as nursery:
        await Passers(nursery).send("cancelled", getattr(gate, way))
        nursery.cancel_scope.cancel()
    if is_waiting:
        await passers.let_out("first")
    await passers.send("next", gate.alone)
    assert passers.inside == ["next"]
