"""``lightipn xpub``: the extended keys that addresses are given away of."""

from typing import Annotated

import typer

from lightipn.cli.output import print_facts, print_json, print_table, time_text
from lightipn.cli.run import MAX_NUMBER, ConfigOption, JsonOption, ask_service
from lightipn.service.scanning import GAP_LIMIT
from lightipn.service.supplying import SupplyState

app = typer.Typer(
    help="Extended keys: addresses given away, and how many more there may be.",
    no_args_is_help=True,
    add_completion=False,
)
IdArgument = Annotated[int, typer.Argument(metavar="ID", min=1, max=MAX_NUMBER, help="The number `xpub list` shows.")]
SHOWN_KEY_CHARS = 24


@app.command("list")
def list_(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the keys in use: kind of addresses, next index, gap, and how many more addresses can be given away."""
    found = ask_service(config, lambda service: service.supplies.list())
    if json:
        print_json([_supply_json(state) for state in found])
        return
    rows = [
        (
            state.record.chain_id,
            _key_text(state.record.source),
            state.record.kind or "descriptor",
            state.record.next_index,
            state.gap,
            state.left if state.record.is_scanned else "being scanned",
        )
        for state in found
    ]
    print_table(("ID", "KEY", "ADDRESSES", "NEXT INDEX", "GAP", "LEFT"), rows, empty="No key was used yet.")


@app.command()
def gap(key_id: IdArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show a key's gap: addresses given away since the last one that was paid, and how many more there may be."""
    state, _ = ask_service(config, lambda service: service.supplies.show(key_id, limit=1))
    if json:
        print_json(_supply_json(state))
        return
    record = state.record
    print_facts(
        {
            "key": record.source,
            "addresses": record.kind or "descriptor",
            "scanned": f"{record.scanned_to} addresses" + ("" if record.is_scanned else ", not finished"),
            "next index": record.next_index,
            "gap": f"{state.gap} addresses since the last one that was paid",
            "left": f"{state.left} more before the limit of {GAP_LIMIT}, if none is paid",
        }
    )


@app.command()
def addresses(
    key_id: IdArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MAX_NUMBER, help="At most so many, newest first.")] = 100,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List the addresses that were given away of a key, newest first."""
    _, found = ask_service(config, lambda service: service.supplies.show(key_id, limit=limit))
    if json:
        print_json(
            [
                {
                    "index": one.index,
                    "address": one.address,
                    "owner": one.owner,
                    "url": one.url,
                    "issued_at": one.issued_at,
                    "paid": one.is_paid,
                }
                for one in found
            ]
        )
        return
    rows = [
        (one.index, one.address, "paid" if one.is_paid else "", one.owner, one.url, time_text(one.issued_at))
        for one in found
    ]
    columns = ("INDEX", "ADDRESS", "PAID", "OWNER", "URL", "GIVEN AWAY")
    print_table(columns, rows, empty="No address was given away.")


def _key_text(source: str) -> str:
    return source if len(source) <= SHOWN_KEY_CHARS else f"{source[:12]}...{source[-8:]}"


def _supply_json(state: SupplyState) -> dict[str, object]:
    record = state.record
    return {
        "id": record.chain_id,
        "key": record.source,
        "addresses": record.kind or "descriptor",
        "next_index": record.next_index,
        "gap": state.gap,
        "left": state.left,
        "scanned": record.is_scanned,
        "scanned_to": record.scanned_to,
        "used_to": record.used_to,
    }
