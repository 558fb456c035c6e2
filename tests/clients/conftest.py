"""Fixtures: the nodes of tests/regtest, one LightIPN over them that all tests here share, and the SDKs that call it.

Without the programs these tests are skipped, which the summary says aloud; in CI (variable ``CI``) they fail.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.clients.callback_client import CallbackClient
from tests.clients.sdk import Access, BlockcypherSdk, NodeSdk, PythonSdk, ReceiveSdk, find_sdk
from tests.regtest.conftest import bitcoind as bitcoind
from tests.regtest.conftest import electrumx as electrumx
from tests.regtest.conftest import shared_bitcoind as shared_bitcoind
from tests.regtest.conftest import shared_electrumx as shared_electrumx
from tests.regtest.conftest import shop as shop
from tests.regtest.forwarding import bind, forwarding_options
from tests.regtest.nodes import ElectrumX, ProgramMissingError, find_program
from tests.service_process import ServiceProcess

FOLDER = Path(__file__).parent
MISSING = pytest.StashKey[list[str]]()
CALLBACK_RETRIES = 2
CALLBACK_RETRY_PERIOD_S = 1
CALLBACK_CONFIRMATIONS = 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder; pytest hands over those of all folders."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.regtest)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say aloud that these tests did not run, and what to do about it."""
    if messages := config.stash.get(MISSING, None):
        terminalreporter.section("tests of clients were SKIPPED", sep="!", yellow=True, bold=True)
        for message in messages:
            terminalreporter.line(message, yellow=True)


def say_missing(config: pytest.Config, error: ProgramMissingError) -> None:
    """Fail in CI for want of a program, skip elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(str(error), pytrace=False)
    config.stash.setdefault(MISSING, []).append(str(error))
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config) -> None:
    """Need bitcoind and ElectrumX."""
    try:
        for name in ("bitcoind", "electrumx_server"):
            find_program(name)
    except ProgramMissingError as error:
        say_missing(pytestconfig, error)


@pytest.fixture(scope="session")
def backend() -> str:
    """Clients do not see what LightIPN asks."""
    return "electrum"


@pytest.fixture(scope="session")
def sdks(pytestconfig: pytest.Config) -> None:
    """Need the SDKs."""
    try:
        for name in ("blockchain-python", "blockchain-node", "blockcypher-python"):
            find_sdk(name)
    except ProgramMissingError as error:
        say_missing(pytestconfig, error)


@pytest.fixture(scope="session")
def shared_service(shared_electrumx: ElectrumX, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One LightIPN for the session; Receive Payments V2 may be called without a key, the rest not. It forwards."""
    folder = tmp_path_factory.mktemp("lightipn")
    options = forwarding_options(
        folder,
        shared_electrumx,
        api_anonymous="receive",
        dialects_callback_retries=CALLBACK_RETRIES,
        dialects_callback_retry_period_s=CALLBACK_RETRY_PERIOD_S,
        dialects_callback_confirmations=CALLBACK_CONFIRMATIONS,
    )
    service = ServiceProcess(folder, options)
    try:
        trio.run(bind, service)
        trio.run(service.start)
        yield service
    finally:
        if service.process is not None:
            service.kill()


@pytest.fixture
async def service(shared_service: ServiceProcess, electrumx: ElectrumX) -> ServiceProcess:
    """The LightIPN that the session shares: take fresh accounts and paths of URLs, and leave the process alone."""
    await shared_service.wait_ready()
    return shared_service


@pytest.fixture
def other_key(service: ServiceProcess) -> str:
    """A good key of another owner."""
    made = service.cli("key", "create", "other")
    [key] = re.findall(r"lipn_\S+", made.stdout)
    return key


@pytest.fixture
def python_sdk(sdks: None, service: ServiceProcess) -> PythonSdk:
    """The SDK of PyPI with a good key."""
    return PythonSdk(url=service.url, key=service.key)


@pytest.fixture
def node_sdk(sdks: None, service: ServiceProcess) -> NodeSdk:
    """The SDK of npm with a good key."""
    return NodeSdk(url=service.url, key=service.key)


@pytest.fixture
def blockcypher(sdks: None, service: ServiceProcess) -> BlockcypherSdk:
    """The SDK of BlockCypher with a good key."""
    return BlockcypherSdk(url=service.url, key=service.key)


@pytest.fixture(params=[PythonSdk, NodeSdk], ids=["python", "node"])
def keyed_sdk(request: pytest.FixtureRequest, sdks: None, service: ServiceProcess) -> ReceiveSdk:
    """Each SDK with a good key."""
    return request.param(url=service.url, key=service.key)


@pytest.fixture(params=Access, ids=lambda access: access.name.lower())
def sdk(request: pytest.FixtureRequest, keyed_sdk: ReceiveSdk) -> ReceiveSdk:
    """Each SDK with each way to show its key."""
    return keyed_sdk.shown_as(request.param)


@pytest.fixture
def callback_client(service: ServiceProcess) -> CallbackClient:
    """A client of the bitcoin-callback API with a good key."""
    return CallbackClient(url=service.url, key=service.key)
