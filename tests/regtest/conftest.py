"""Fixtures: nodes and servers that the session shares, others for one test alone, and a shop.

A story with a ``bitcoind`` and a ``source`` is told once for each backend: with an ElectrumX over a bitcoind that has
every block and its index of transactions, and with a pruned bitcoind that LightIPN asks itself. A module whose tests
are about Electrum servers has its own fixture ``backend``. Ids have the backend's name: ``-k pruned-node`` picks one.

Without the programs these tests are skipped, which the summary says aloud; in CI (variable ``CI``) they fail.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.regtest.nodes import (
    Bitcoind,
    ElectrumX,
    ProgramMissingError,
    find_program,
    open_bitcoind,
    open_electrumx,
)
from tests.regtest.own_node import OwnNode, Source, shared_source_of
from tests.regtest.shop import Shop, open_shop

FOLDER = Path(__file__).parent
MISSING = pytest.StashKey[str]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder; pytest hands over those of all folders."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.regtest)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say aloud that these tests did not run, and what to do about it."""
    if message := config.stash.get(MISSING, None):
        terminalreporter.section("the regtest stories were SKIPPED", sep="!", yellow=True, bold=True)
        terminalreporter.line(message, yellow=True)


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config) -> None:
    """Need both programs: a failure in CI, a skip elsewhere."""
    try:
        for name in ("bitcoind", "electrumx_server"):
            find_program(name)
    except ProgramMissingError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytestconfig.stash[MISSING] = str(error)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_bitcoind(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bitcoind]:
    """One bitcoind for the session: each test has a Trio run of its own, the process stays."""
    shared = Bitcoind(tmp_path_factory.mktemp("bitcoind"))
    try:
        trio.run(shared.start)
        yield shared
    finally:
        shared.kill()


@pytest.fixture(scope="session")
def shared_electrumx(shared_bitcoind: Bitcoind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElectrumX]:
    """One ElectrumX for the session."""
    shared = ElectrumX(shared_bitcoind, tmp_path_factory.mktemp("electrumx"))
    try:
        trio.run(shared.start)
        yield shared
    finally:
        shared.kill()


@pytest.fixture(scope="session")
def shared_pruned(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bitcoind]:
    """One pruned bitcoind without an index for the session."""
    shared = Bitcoind(tmp_path_factory.mktemp("pruned"), is_pruned=True)
    try:
        trio.run(shared.start)
        yield shared
    finally:
        shared.kill()


@pytest.fixture(params=["electrum", "pruned-node"], scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """What LightIPN asks: ElectrumX, or a pruned bitcoind itself."""
    return request.param


@pytest.fixture
def bitcoind(backend: str, request: pytest.FixtureRequest) -> Bitcoind:
    """The bitcoind that the session shares: take fresh addresses, and leave the process alone."""
    shared = request.getfixturevalue("shared_bitcoind" if backend == "electrum" else "shared_pruned")
    shared.require_running()
    return shared


@pytest.fixture
def shared_source(backend: str, request: pytest.FixtureRequest) -> Source:
    """The source that the session shares; apart from ``source``, since it may have to be started first."""
    return shared_source_of(backend, request)


@pytest.fixture
async def source(shared_source: Source) -> Source:
    """The source that the session shares, at the tip of ``bitcoind``."""
    await shared_source.wait_tip()
    return shared_source


@pytest.fixture
async def electrumx(shared_electrumx: ElectrumX) -> ElectrumX:
    """The ElectrumX that the session shares, at bitcoind's tip."""
    shared_electrumx.require_running()
    await shared_electrumx.wait_tip()
    return shared_electrumx


@pytest.fixture
async def private_bitcoind(backend: str, programs: None, tmp_path: Path) -> AsyncIterator[Bitcoind]:
    """A bitcoind for this test alone: it may be stopped, or reorganised deeply; its mempool can be emptied."""
    options = ["-mempoolexpiry=1"]
    async with open_bitcoind(tmp_path / "bitcoind", options=options, is_pruned=backend == "pruned-node") as private:
        yield private


@pytest.fixture
async def private_electrumx(private_bitcoind: Bitcoind, tmp_path: Path) -> AsyncIterator[ElectrumX]:
    """An ElectrumX over ``private_bitcoind`` for this test alone: it may be killed."""
    async with open_electrumx(private_bitcoind, tmp_path / "electrumx") as private:
        yield private


@pytest.fixture
async def private_pair(
    private_bitcoind: Bitcoind, private_electrumx: ElectrumX, tmp_path: Path
) -> AsyncIterator[tuple[ElectrumX, ElectrumX]]:
    """Two of ElectrumX over ``private_bitcoind``."""
    async with open_electrumx(private_bitcoind, tmp_path / "electrumx-2") as second:
        yield private_electrumx, second


@pytest.fixture
async def private_sources(
    backend: str, private_bitcoind: Bitcoind, tmp_path: Path
) -> AsyncIterator[tuple[Source, ...]]:
    """What LightIPN asks about ``private_bitcoind``: two of ElectrumX that agree, or the node itself."""
    async with AsyncExitStack() as stack:
        if backend == "electrum":
            folders = [tmp_path / "electrumx", tmp_path / "electrumx-2"]
            opened = [await stack.enter_async_context(open_electrumx(private_bitcoind, one)) for one in folders]
            yield tuple(opened)
        else:
            yield (OwnNode(private_bitcoind, tmp_path / "own-node"),)


@pytest.fixture
async def private_source(backend: str, private_bitcoind: Bitcoind, tmp_path: Path) -> AsyncIterator[Source]:
    """What LightIPN asks about ``private_bitcoind``: one ElectrumX, or the node itself; it may be killed."""
    if backend == "electrum":
        async with open_electrumx(private_bitcoind, tmp_path / "electrumx") as opened:
            yield opened
    else:
        yield OwnNode(private_bitcoind, tmp_path / "own-node")


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A receiver of callbacks that acknowledges what it hears."""
    async with open_shop() as opened:
        yield opened
