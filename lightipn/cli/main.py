"""The program ``lightipn``: its commands, put together."""

from importlib.metadata import version
from typing import Annotated

import typer

from lightipn.cli import account, delivery, events, forwarding, key, serve, server, status, watch, xpub

app = typer.Typer(
    name="lightipn",
    help="Bitcoin payment notifications without a full node: proved, durable, retried until acknowledged.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(serve.init)
app.command("check-config")(serve.check_config)
app.command()(status.status)
app.command()(events.events)
app.add_typer(account.app, name="account")
app.add_typer(forwarding.app, name="forwarding")
app.add_typer(key.app, name="key")
app.add_typer(watch.app, name="watch")
app.add_typer(delivery.app, name="delivery")
app.add_typer(server.app, name="server")
app.add_typer(xpub.app, name="xpub")


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
