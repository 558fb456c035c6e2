"""A service that forwards is killed at every step of it, and started again: each payment is passed on exactly once.

A start takes a second, so the services of one group live side by side, and their stories are told once for all tests;
each test then judges one of them.
"""

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.regtest import killed_at
from tests.regtest.feed import LOOK_AGAIN_S, WAIT_S
from tests.regtest.forwarding import (
    OK,
    Keeper,
    Spend,
    bind,
    callbacks_of,
    forwarding_options,
    make_forward,
    pairs_of,
    transfers_of,
)
from tests.regtest.nodes import Bitcoind
from tests.regtest.own_node import Source, shared_source_of
from tests.regtest.shop import Shop, open_shop
from tests.service_process import ServiceProcess

pytestmark = pytest.mark.slow
AMOUNTS_SAT = (400_000, 300_000)
CONFIRMATIONS = 2
# The last block of a bump's story comes before the next bump would be due: which of them is first is no matter here.
BUMP_AFTER_BLOCKS = 2
GROUPS = {
    "first": [
        "before it is signed",
        "signed",
        "while it is stored",
        "stored",
        "server has it",
        "broadcast",
        "seen",
        "while it is recorded",
        "recorded",
        "told",
    ],
    # The same, and the transaction is in a block before the service is back.
    "mined meanwhile": ["server has it", "broadcast", "seen", "while it is recorded"],
    "depth": ["while it is mined", "mined", "while its depth is told", "depth told"],
    "bump": [
        "signed:2",
        "while it is stored:2",
        "stored:2",
        "server has it:2",
        "broadcast:2",
        "while it is recorded:2",
    ],
}


class MortalService(ServiceProcess):
    """A service whose next start leads to a step at which it kills itself; then it starts as any other."""

    step = ""

    def command(self, *arguments: str) -> list[str]:
        """Return the command line; of the mortal service if a step is set."""
        if not self.step or arguments != ("serve",):
            return super().command(*arguments)
        return [sys.executable, str(Path(killed_at.__file__)), *arguments]

    async def start_mortal(self, step: str) -> None:
        """Start the process that dies at this step."""
        self.step = self.environment["KILLED_AT"] = step
        await self.start()

    async def wait_dead(self) -> None:
        """Wait until it has killed itself; from now on it does so no more."""
        assert self.process is not None
        with trio.move_on_after(WAIT_S):
            while self.process.poll() is None:
                await trio.sleep(LOOK_AGAIN_S)
        assert self.process.poll() == -9, f"not killed at {self.step!r}:\n{self.output.read_text()}"
        self.step = ""


@dataclass
class Story:
    """One service, what it was paid, and what came of it.

    Args:
        failure: why the story did not come to its end; empty if it did.
    """

    service: MortalService
    keeper: Keeper
    step: str
    path: str
    tells_depth: bool
    shop: Shop
    destination: str = ""
    failure: str = ""
    spends: list[Spend] = field(default_factory=list)
    transfers: list[dict[str, Any]] = field(default_factory=list)
    callbacks: list[dict[str, Any]] = field(default_factory=list)

    async def begin(self) -> None:
        """Start the service, make a forward, and pay it twice."""
        await bind(self.service)
        await self.service.start_mortal(self.step)
        await self.service.wait_ready()
        self.destination = await self.keeper.bitcoind.new_address()
        url = f"{self.shop.url}{self.path}"
        made = await make_forward(
            self.service, self.destination, callback_url=url, enable_confirmations=self.tells_depth
        )
        for amount_sat in AMOUNTS_SAT:
            await self.keeper.pay(made["input_address"], amount_sat)

    async def wait_told(self) -> None:
        """Wait until it was told of every payment by which mined transaction it was passed on, and how deep that is."""
        wanted: set[tuple[str, str]] = set()
        with trio.move_on_after(WAIT_S):
            while True:
                self.spends = await self.keeper.spends()
                mined = [one.txid for one in self.spends if one.height is not None]
                wanted = {(payment, txid) for payment, _ in self.keeper.payments for txid in mined}
                self.callbacks = callbacks_of(self.shop, self.path)
                depths = [None, CONFIRMATIONS] if self.tells_depth else [None]
                if mined and all(self._is_told(wanted, depth) for depth in depths):
                    return
                await trio.sleep(10 * LOOK_AGAIN_S)
        raise TimeoutError(f"told {self.callbacks}, want {wanted}, of {self.spends}")

    def _is_told(self, wanted: set[tuple[str, str]], confirmations: int | None) -> bool:
        return wanted <= pairs_of([one for one in self.callbacks if one.get("confirmations") == confirmations])

    async def end(self) -> None:
        """Stop the service, and see what it thinks of it all."""
        self.transfers = await trio.to_thread.run_sync(transfers_of, self.service)
        assert await self.service.stop() == 0


async def each(stories: Sequence[Story], act: Callable[[Story], Awaitable[object]]) -> None:
    """Do the same in all stories side by side; one that fails is over, and the others go on."""

    async def guarded(story: Story) -> None:
        try:
            await act(story)
        except (AssertionError, TimeoutError, RuntimeError) as error:
            story.failure = f"{act}: {error}"

    async with trio.open_nursery() as nursery:
        for story in stories:
            if not story.failure:
                nursery.start_soon(guarded, story)


async def tell(group: str, bitcoind: Bitcoind, source: Source, folder: Path) -> list[Story]:
    """Tell the stories of a group to their ends."""
    async with trio.open_nursery() as nursery, open_shop(nursery) as shop:
        shop.policy = OK
        first_height = await bitcoind.height() + 1
        stories = [
            Story(
                MortalService(
                    folder / str(number),
                    forwarding_options(
                        folder / str(number),
                        source,
                        forwarding_bump_after_blocks=BUMP_AFTER_BLOCKS if group == "bump" else 50,
                    ),
                ),
                Keeper(bitcoind, first_height),
                step,
                f"/{number}",
                group == "depth",
                shop,
            )
            for number, step in enumerate(GROUPS[group])
        ]
        with killed_in_the_end(stories):
            await each(stories, Story.begin)
            await bitcoind.mine(1)
            if group in ("depth", "bump"):
                await each(stories, lambda story: story.keeper.wait_spent())
            if group == "bump":
                await stories[0].keeper.mine_nothing(BUMP_AFTER_BLOCKS)
            if group == "depth":
                await bitcoind.mine(1)
            await each(stories, lambda story: story.service.wait_dead())
            if group == "mined meanwhile":
                await bitcoind.mine(1)
            await each(stories, lambda story: story.service.start())
            if group == "first":
                await each(stories, lambda story: story.keeper.wait_spent())
            if group == "bump":
                await each(stories, wait_bumped)
            await bitcoind.mine(CONFIRMATIONS if group == "depth" else 1)
            await each(stories, Story.wait_told)
            await each(stories, Story.end)
    return stories


async def wait_bumped(story: Story) -> None:
    """Wait until the servers have the second version of a transfer."""
    before = callbacks_of(story.shop, story.path)[0]["transaction_hash"]
    await story.keeper.wait_spent(by_other_than=before)


@contextmanager
def killed_in_the_end(stories: Sequence[Story]) -> Iterator[None]:
    """Leave no process behind."""
    try:
        yield
    finally:
        for story in stories:
            if story.service.process is not None and story.service.process.poll() is None:
                story.service.kill()


@pytest.fixture(scope="module")
def told(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Story]]:
    """Returns the stories of a group, which are told once a backend."""
    groups: dict[str, list[Story]] = {}
    source = shared_source_of(backend, request)

    def stories_of(group: str) -> list[Story]:
        if group not in groups:
            folder = tmp_path_factory.mktemp("killed")
            groups[group] = trio.run(partial(tell, group, source.bitcoind, source, folder))
        return groups[group]

    return stories_of


@pytest.mark.parametrize(("group", "step"), [(group, step) for group, steps in GROUPS.items() for step in steps])
def test_killed_at_any_step_each_payment_is_forwarded_once(
    told: Callable[[str], list[Story]], group: str, step: str
) -> None:
    """Wherever the process dies, each coin is spent by one mined transaction that pays the destination, and told."""
    [story] = [one for one in told(group) if one.step == step]
    assert story.failure == ""
    [mined] = story.spends
    assert mined.height is not None
    assert mined.spends == story.keeper.payments.keys()
    assert mined.outputs == {story.destination: sum(AMOUNTS_SAT) - mined.fee_sat}
    assert 0 < mined.fee_sat <= sum(AMOUNTS_SAT) // 10
    [transfer] = story.transfers
    assert mined.txid in {version["txid"] for version in transfer["versions"]}
    assert len(transfer["versions"]) == (2 if group == "bump" else 1)
    assert (transfer["state"], transfer["trouble"]) == ("open", "")
    meanings = {
        (one["input_transaction_hash"], one["transaction_hash"], one.get("confirmations")): one
        for one in story.callbacks
    }
    assert all(one in meanings.values() for one in story.callbacks)
