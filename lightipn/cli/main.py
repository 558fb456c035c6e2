"""The program ``lightipn``: its commands, put together."""

import importlib
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lightipn.cli import serve

# Each is the module of the same name, and is imported when it is called: a service that runs does not carry them.
OTHERS = ("status", "events", "account", "forwarding", "key", "watch", "delivery", "server", "xpub")


class Commands(TyperGroup):
    """The program's commands, and the groups of commands."""

    # Newer versions of Typer carry a click of their own, so its types have two names.

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names, in the order of the help."""
        return [*super().list_commands(ctx), *OTHERS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command or a group; None where there is none of this name."""
        if cmd_name not in OTHERS:
            return super().get_command(ctx, cmd_name)
        command = typer.main.get_command(importlib.import_module(f"lightipn.cli.{cmd_name}").app)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="lightipn",
    cls=Commands,
    help="Bitcoin payment notifications without a full node: proved, durable, retried until acknowledged.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(serve.init)
app.command("check-config")(serve.check_config)


@app.command()
def demo() -> None:
    """Show the whole story without a network: watched, paid, confirmed, acknowledged, reorged, confirmed again."""
    from lightipn.cli.demo import play  # the simulator is not carried by a service that runs

    play()


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"lightipn {version('lightipn')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options of the program itself."""


def main() -> None:
    """Run the command line."""
    app()
