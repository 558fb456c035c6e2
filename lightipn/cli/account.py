"""``lightipn account``: accounts, their addresses, deposits and movements."""

from typing import Annotated

import typer

from lightipn.api.accounts import (
    account_json_of,
    address_json_of,
    deposit_json_of,
    movement_json_of,
)
from lightipn.bitcoin.hashes import hex_of
from lightipn.cli.output import console, print_facts, print_json, print_line, print_table, time_text
from lightipn.cli.run import ConfigOption, JsonOption, ask_service, reported_errors
from lightipn.config import load_config
from lightipn.service.accounting import MOST_CONFIRMATIONS, MOST_SHOWN, AccountWish
from lightipn.service.desk import OPERATOR

app = typer.Typer(help="Accounts: balances out of proved payments.", no_args_is_help=True, add_completion=False)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The account's name.")]
OwnerOption = Annotated[str, typer.Option("--key", metavar="OWNER", help="Owner of the account.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=MOST_SHOWN, help="At most so many, newest first.")]


@app.command()
def create(
    name: NameArgument,
    xpub: Annotated[str, typer.Option("--xpub", help="Extended public key that addresses are derived from.")] = "",
    url: Annotated[str, typer.Option("--url", help="Where webhooks of its addresses are posted.")] = "",
    credit_confirmations: Annotated[
        int | None,
        typer.Option(
            "--credit-confirmations", min=1, max=MOST_CONFIRMATIONS, help="Depth at which a deposit is credited."
        ),
    ] = None,
    owner: OwnerOption = OPERATOR,
    config: ConfigOption = None,
) -> None:
    """Make an account. Without --credit-confirmations it takes the configured depth."""
    with reported_errors():
        depth = load_config(config).accounts.credit_confirmations
    chosen = depth if credit_confirmations is None else credit_confirmations
    wish = AccountWish(name=name, credit_confirmations=chosen, extended_key=xpub, url=url)
    ask_service(config, lambda service: service.accounts.create(wish, owner=owner), creates=True)
    console.print("Made.")


@app.command("list")
def list_(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List everybody's accounts with their balances."""
    found = ask_service(config, lambda service: service.accounts.list(owner=None))
    if json:
        print_json([{"owner": one.owner, "account": account_json_of(one)} for one in found])
        return
    rows = [
        (one.owner, one.name, one.balance_sat, one.locked_sat, one.credit_confirmations, time_text(one.created_at))
        for one in found
    ]
    print_table(("OWNER", "ACCOUNT", "BALANCE", "LOCKED", "CREDITED AT", "CREATED"), rows, empty="There is no account.")


@app.command()
def show(
    name: NameArgument, owner: OwnerOption = OPERATOR, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """Show an account: balance and locked amount in satoshis."""
    found = ask_service(config, lambda service: service.accounts.show(name, owner=owner))
    if json:
        print_json(account_json_of(found))
        return
    print_facts(
        {
            "account": f"{found.name} of {found.owner}",
            "balance": f"{found.balance_sat} sat",
            "locked": f"{found.locked_sat} sat",
            "credited at": f"{found.credit_confirmations} confirmations",
            "key": found.extended_key or "none, addresses are given",
            "webhooks": found.url or "none",
        }
    )


@app.command()
def add(
    name: NameArgument,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="A bitcoin address of the network.")],
    owner: OwnerOption = OPERATOR,
    config: ConfigOption = None,
) -> None:
    """Add an address, with what it was paid before. Fresh ones are derived by the running service's API."""
    ask_service(config, lambda service: service.accounts.add_address(name, address, owner=owner))
    console.print("Added.")


@app.command()
def addresses(
    name: NameArgument, owner: OwnerOption = OPERATOR, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """List an account's addresses, oldest first."""
    found = ask_service(config, lambda service: service.accounts.addresses(name, owner=owner))
    if json:
        print_json([address_json_of(one) for one in found])
        return
    rows = [
        (one.address, one.index, "active" if one.is_active else "inactive", len(one.hook_ids), time_text(one.used_at))
        for one in found
    ]
    print_table(("ADDRESS", "INDEX", "STATE", "WEBHOOKS", "LAST USED"), rows, empty="It has no address.")


@app.command()
def transactions(
    name: NameArgument,
    limit: LimitOption = 100,
    owner: OwnerOption = OPERATOR,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List an account's deposits, newest first."""
    found = ask_service(config, lambda service: service.accounts.deposits(name, owner=owner, limit=limit))
    if json:
        print_json([deposit_json_of(one) for one in found])
        return
    rows = [
        (
            hex_of(one.deposit.txid),
            one.address,
            one.deposit.amount_sat,
            one.deposit.status.value,
            one.deposit.locked_sat,
            one.deposit.credited_sat,
            time_text(one.deposit.seen_at),
        )
        for one in found
    ]
    print_table(
        ("TXID", "ADDRESS", "AMOUNT", "STATUS", "LOCKED", "CREDITED", "SEEN"), rows, empty="Nothing was paid yet."
    )


@app.command()
def movements(
    name: NameArgument,
    limit: LimitOption = 100,
    owner: OwnerOption = OPERATOR,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List an account's movements, newest first: every change of its sums, and the event that caused it."""
    found = ask_service(config, lambda service: service.accounts.movements(name, owner=owner, limit=limit))
    if json:
        print_json([movement_json_of(one) for one in found])
        return
    rows = [
        (
            one.number,
            time_text(one.happened_at),
            one.movement.kind.value,
            one.movement.status.value,
            one.movement.amount_sat,
            one.movement.balance_sat,
            one.movement.locked_sat,
            one.movement.cause,
            one.reference if one.txid is None else hex_of(one.txid),
        )
        for one in found
    ]
    columns = ("NUMBER", "TIME", "KIND", "STATUS", "AMOUNT", "BALANCE", "LOCKED", "CAUSE", "PAYMENT OR REFERENCE")
    print_table(columns, rows, empty="Nothing has moved yet.")


@app.command()
def adjust(
    name: NameArgument,
    amount_sat: Annotated[int, typer.Argument(metavar="SATOSHIS", help="What is added; negative to book away.")],
    reference: Annotated[str, typer.Option("--reference", help="Its name; the same one again books nothing more.")],
    owner: OwnerOption = OPERATOR,
    config: ConfigOption = None,
) -> None:
    """Book an amount to an account, or away from it. Write `--` before a negative amount."""
    ask_service(
        config,
        lambda service: service.accounts.adjust(name, owner=owner, amount_sat=amount_sat, reference=reference),
    )
    console.print("Booked.")


@app.command()
def audit(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Add all accounts up anew and compare them with what is kept and with the ledger. Exit code 1 if any differs."""
    found = ask_service(config, lambda service: service.accounts.audit())
    flawed = [one for one in found if one.flaws]
    if json:
        print_json([{"owner": one.account.owner, "name": one.account.name, "flaws": one.flaws} for one in found])
    else:
        for one in flawed:
            for flaw in one.flaws:
                print_line(f"{one.account.name} of {one.account.owner}: {flaw}")
        console.print(f"{len(found)} accounts, {len(flawed)} with flaws.")
    if flawed:
        raise typer.Exit(1)
