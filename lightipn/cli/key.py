"""``lightipn key``: API keys."""

from typing import Annotated

import typer

from lightipn.cli.output import console, print_json, print_table, time_text
from lightipn.cli.run import MAX_NUMBER, ConfigOption, JsonOption, ask_service, errors

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True, add_completion=False)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The owner: letters, digits and . _ @ -")]


@app.command()
def create(name: NameArgument, config: ConfigOption = None) -> None:
    """Create a key for an owner and print it, alone, this one time. A second key of one name is a rotation."""
    typer.echo(ask_service(config, lambda service: service.owners.create_key(name), creates=True))


@app.command("list")
def list_(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List all keys; the secrets themselves are not stored."""
    keys = ask_service(config, lambda service: service.owners.list_keys())
    if json:
        print_json(
            [
                {"id": key.key_id, "name": key.name, "created_at": key.created_at, "revoked_at": key.revoked_at}
                for key in keys
            ]
        )
        return
    rows = [(key.key_id, key.name, time_text(key.created_at), time_text(key.revoked_at) or "good") for key in keys]
    print_table(("ID", "NAME", "CREATED", "REVOKED"), rows, empty="No keys. Make one: lightipn key create NAME")


@app.command()
def revoke(
    name: NameArgument,
    key_id: Annotated[
        int | None, typer.Option("--id", min=1, max=MAX_NUMBER, help="Only this one of the owner's keys.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Revoke an owner's keys, at once. Without a good key left, nothing more is sent for that owner; all is kept."""
    count = ask_service(config, lambda service: service.owners.revoke_keys(name, key_id=key_id))
    if not count:
        errors.print("error: there is no such good key", style="red")
        raise typer.Exit(1)
    console.print(f"{count} revoked.")
    keys = ask_service(config, lambda service: service.owners.list_keys())
    if not any(key.name == name and key.revoked_at is None for key in keys):
        console.print(
            f"{name} has no good key left: its callbacks are held until `lightipn key create {name}`.", markup=False
        )
