"""``lightipn forwarding``: the recovery words, what was passed on, and passing on what is left."""

import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from lightipn.bitcoin.extended_key import MAX_CHILD_INDEX
from lightipn.bitcoin.hashes import hex_of
from lightipn.cli.output import console, print_json, print_table, time_text
from lightipn.cli.run import MAX_NUMBER, ConfigOption, JsonOption, ask_service, reported_errors
from lightipn.config import load_config
from lightipn.errors import ConfigError
from lightipn.service.desk import OPERATOR
from lightipn.service.forwarding import MOST_LOOKED_AT

app = typer.Typer(help="Forwarding: own keys that pass payments on.", no_args_is_help=True, add_completion=False)


@app.command()
def init(config: ConfigOption = None) -> None:
    """Make the seed file, and print its recovery words: this once. Whoever has them has the coins."""
    from lightipn.forwarding.seed import new_words, write_words

    with reported_errors():
        file = _seed_file(config)
        words = new_words()
        write_words(file, words)
    try:
        ask_service(config, lambda service: service.forwards.bind(), creates=True)
    except typer.Exit:  # the database belongs to other words: these were never shown, and are not kept
        file.unlink()
        raise
    console.print(f"Written to {file}. Write these words down, and keep them where the machine is not:\n", markup=False)
    console.print(f"    {words}\n", markup=False, soft_wrap=True)


@app.command()
def recover(
    count: Annotated[
        int, typer.Option("--count", min=1, max=MOST_LOOKED_AT, help="How many addresses are looked at.")
    ] = 1000,
    first: Annotated[int, typer.Option("--from", min=0, max=MAX_CHILD_INDEX, help="The index to begin at.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Look for coins from the recovery words alone: asked for if there is no seed file yet, and written to it.

    The running service then proves what the addresses hold; `forwarding sweep` passes it on.
    """
    from lightipn.forwarding.seed import check_words, write_words

    with reported_errors():
        file = _seed_file(config)
        if not file.exists():
            text = getpass("Recovery words (not shown): ") if sys.stdin.isatty() else sys.stdin.readline()
            write_words(file, check_words(text))
    new = ask_service(
        config, lambda service: service.forwards.recover(owner=OPERATOR, first=first, count=count), creates=True
    )
    console.print(f"{new} addresses are watched anew, of {count}.")


@app.command()
def sweep(
    to: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Default: the master address.")] = "",
    is_all: Annotated[
        bool, typer.Option("--all", help="Also what waits at forwards that are not deleted, whoever owns them.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Have the running service pass on what is left at deleted and recovered addresses, together."""
    destination = ask_service(config, lambda service: service.forwards.sweep(to, is_all=is_all))
    console.print(f"The running service passes on what is left to {destination}.", markup=False)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=1, max=MAX_NUMBER, help="At most so many.")] = 1000,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List everybody's forwards, oldest first."""
    found = ask_service(config, lambda service: service.forwards.list(owner=None, limit=limit))
    if json:
        print_json(
            [
                {
                    "id": one.forward.forward_id,
                    "owner": one.forward.owner,
                    "index": one.forward.address_index,
                    "input_address": one.forward.address,
                    "destination": one.forward.terms.destination,
                    "active": one.forward.is_active,
                    "hold_reason": one.forward.hold_reason,
                    "txids": [hex_of(txid) for txid in one.txids],
                }
                for one in found
            ]
        )
        return
    rows = [
        (
            one.forward.address_index,
            one.forward.owner,
            one.forward.address,
            one.forward.terms.destination,
            "active" if one.forward.is_active else "deleted",
            one.forward.hold_reason,
            len(one.txids),
        )
        for one in found
    ]
    columns = ("INDEX", "OWNER", "INPUT ADDRESS", "DESTINATION", "STATE", "HELD", "TRANSFERS")
    print_table(columns, rows, empty="There is no forward.")


@app.command()
def transfers(
    limit: Annotated[int, typer.Option("--limit", min=1, max=MAX_NUMBER, help="At most so many, newest first.")] = 100,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List what was passed on, newest first: coins, fee, and the transaction."""
    found = ask_service(config, lambda service: service.forwards.transfers(limit=limit))
    if json:
        print_json(
            [
                {
                    "id": one.transfer_id,
                    "state": one.state,
                    "trouble": one.trouble,
                    "confirmations": one.told_confirmations,
                    "destination": one.destination,
                    "coins": [f"{hex_of(coin.outpoint.txid)}:{coin.outpoint.index}" for coin in one.coins],
                    "versions": [
                        {
                            "txid": hex_of(version.txid),
                            "value_sat": version.value_sat,
                            "fee_sat": version.fee_sat,
                            "broadcast_at": version.broadcast_at,
                        }
                        for version in one.versions
                    ],
                }
                for one in found
            ]
        )
        return
    rows = [
        (
            one.transfer_id,
            one.state,
            one.trouble,
            hex_of(one.newest.txid),
            len(one.coins),
            one.newest.value_sat,
            one.newest.fee_sat,
            len(one.versions),
            one.told_confirmations,
            time_text(one.newest.broadcast_at),
        )
        for one in found
    ]
    columns = ("ID", "STATE", "TROUBLE", "TXID", "COINS", "VALUE", "FEE", "VERSIONS", "CONFIRMED", "BROADCAST")
    print_table(columns, rows, empty="Nothing was passed on yet.")


def _seed_file(config: Path | None) -> Path:
    file = load_config(config).forwarding.seed_file
    if file is None:
        raise ConfigError(["forwarding.seed_file: is not set; name the file in the configuration first"])
    return file
