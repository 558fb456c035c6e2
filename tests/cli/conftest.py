"""The command line in an empty folder, and a database that a service has left there."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import trio
from typer.testing import CliRunner

from lightipn.cli.main import app
from lightipn.store.database import Database, open_store

DATABASE = "lightipn.db"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return msgspec.json.decode(self.out)


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty folder of a regtest operator with a wide terminal; give the loggers back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTIPN_NETWORK", "regtest")
    monkeypatch.setenv("COLUMNS", "400")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield tmp_path
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def run() -> Run:
    """Run a command; whatever it raises besides its exit code fails the test."""

    def run(*arguments: str) -> Ran:
        done = CliRunner().invoke(app, list(arguments), prog_name="lightipn")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise AssertionError(f"{arguments} ended with a traceback") from done.exception
        return Ran(done.exit_code, done.stdout, done.stderr)

    return run


def write(work: Callable[[Database], Any]) -> Any:
    """Run one transaction on the folder's database, and make it if it is not there."""

    async def go() -> Any:
        async with open_store(Path(DATABASE), "regtest", threaded=False) as store:
            return await store.transact(work)

    return trio.run(go)
