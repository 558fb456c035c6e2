"""How every command runs: its configuration, its database, and its errors as exit codes."""

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import trio
import typer
from rich.console import Console
from rich.text import Text

from lightipn.app import open_service_tools
from lightipn.cli.output import printable
from lightipn.config import Config, load_config
from lightipn.errors import ConfigError, LightIPNError, RequestError, StoreMismatchError
from lightipn.log import configure_logging
from lightipn.service.desk import Service

T = TypeVar("T")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration file. Default: ./lightipn.toml if it is there."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

MAX_NUMBER = (1 << 63) - 1  # what the database can hold

errors = Console(stderr=True, highlight=False, soft_wrap=True)


def exit_code_of(error: LightIPNError) -> int:
    """Return 2 for what the caller or the configuration got wrong, 1 for what failed."""
    if isinstance(error, RequestError):
        return 1 if error.status_hint in (404, 503) else 2
    return 2 if isinstance(error, ConfigError | StoreMismatchError) else 1


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn every error of ours into a short message and an exit code."""
    try:
        yield
    except LightIPNError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        for problem in problems:
            errors.print(Text(printable(f"error: {problem}"), style="red"))
        raise typer.Exit(exit_code_of(error)) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(1) from None


def configured(file: Path | None) -> Config:
    """Load the configuration and set up logging as it says."""
    config = load_config(file)
    configure_logging(level=config.log.level, format=config.log.format)
    return config


def ask_service(file: Path | None, ask: Callable[[Service], Awaitable[T]], *, creates: bool = False) -> T:
    """Open the database, run ``ask`` with a service over it, and return its answer; errors end the program.

    Args:
        creates: make the database if it is not there.
    """

    async def run(config: Config) -> T:
        async with open_service_tools(config, creates=creates) as service:
            return await ask(service)

    with reported_errors():
        return trio.run(run, configured(file))
    raise AssertionError("reported_errors raises")
