"""``lightipn watch``: IPN subscriptions of the operator."""

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import Progress

from lightipn.cli.output import console, print_json, print_table, time_text
from lightipn.cli.run import MAX_NUMBER, ConfigOption, JsonOption, ask_service, errors
from lightipn.dialects.ipn.policy import DEFAULT_CONFIRMS, MAX_CONFIRMS
from lightipn.dialects.ipn.wire import IpnTerms, encode_terms
from lightipn.errors import RequestError
from lightipn.outbox.subscriptions import Subscription
from lightipn.service.desk import OPERATOR, Service
from lightipn.service.subscribing import Wish
from lightipn.store.ledger import WHOLE, Coverage

app = typer.Typer(help="Watched addresses: add, list, remove, import.", no_args_is_help=True, add_completion=False)
AddressArgument = Annotated[str, typer.Argument(metavar="ADDRESS", help="A bitcoin address of the network.")]
OwnerOption = Annotated[str, typer.Option("--key", metavar="NAME", help="Owner of the subscription.")]
IMPORT_PAGE = 500


@app.command()
def add(
    address: AddressArgument,
    url: Annotated[str, typer.Option("--url", help="Where IPNs are posted.")],
    max_confirms: Annotated[
        int, typer.Option("--max-confirms", min=1, max=MAX_CONFIRMS, help="Depth at which a payment is confirmed.")
    ] = DEFAULT_CONFIRMS,
    owner: OwnerOption = OPERATOR,
    config: ConfigOption = None,
) -> None:
    """Watch an address and post IPNs to a URL. The same address and URL again updates the depth."""
    terms = encode_terms(IpnTerms(max_confirms))
    ask_service(
        config,
        lambda service: service.subscriptions.subscribe(
            Wish(address=address, url=url, terms=terms), dialect="ipn", owner=owner
        ),
        creates=True,
    )
    console.print("Watched.")


@app.command("list")
def list_(
    address: Annotated[str, typer.Option("--address", help="Only this address.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=MAX_NUMBER, help="At most so many.")] = 1000,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List subscriptions of all dialects, oldest first."""

    async def load(service: Service) -> tuple[Sequence[Subscription], Mapping[str, Coverage]]:
        found = await service.subscriptions.list(address=address, limit=limit)
        return found, await service.subscriptions.coverage(item.address for item in found)

    found, coverage = ask_service(config, load)
    if json:
        print_json(
            [
                {
                    "id": item.subscription_id,
                    "dialect": item.dialect,
                    "owner": item.owner,
                    "address": item.address,
                    "url": item.url,
                    "terms": msgspec.json.decode(item.terms),
                    "state": item.state_at(time.time()).value,
                    "expires_at": item.expires_at,
                    "created_at": item.created_at,
                    "history_from": coverage.get(item.address, WHOLE).history_from,
                    "unproved_sat": coverage.get(item.address, WHOLE).unproved_sat,
                }
                for item in found
            ]
        )
        return
    rows = [
        (
            item.subscription_id,
            item.dialect,
            item.owner,
            item.address or "blocks",
            item.url,
            item.terms.decode(),
            item.state_at(time.time()).value,
            time_text(item.created_at),
            _history_text(coverage.get(item.address, WHOLE)),
        )
        for item in found
    ]
    print_table(
        ("ID", "DIALECT", "OWNER", "ADDRESS", "URL", "TERMS", "STATE", "CREATED", "HISTORY"),
        rows,
        empty="Nothing is watched.",
    )


def _history_text(coverage: Coverage) -> str:
    if coverage.history_from is None:
        return "whole"
    unproved = f", {coverage.unproved_sat} sat before" if coverage.unproved_sat else ""
    return f"from block {coverage.history_from}{unproved}"


@app.command()
def remove(
    address: AddressArgument,
    url: Annotated[str | None, typer.Option("--url", help="Only the subscription with this URL.")] = None,
    config: ConfigOption = None,
) -> None:
    """Remove an address' subscriptions, with their messages; an address nobody watches is forgotten."""
    count = ask_service(config, lambda service: service.subscriptions.unsubscribe(address, url=url))
    if not count:
        errors.print("error: there is no such subscription", style="red")
        raise typer.Exit(1)
    console.print(f"{count} removed.")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Lines ADDRESS,URL[,MAX_CONFIRMS]; # starts a comment.")],
    owner: OwnerOption = OPERATOR,
    config: ConfigOption = None,
) -> None:
    """Import subscriptions from a CSV file. A bad line is reported by its number; the others go in all the same."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        errors.print(f"error: cannot read {file} ({reason})", style="red", markup=False)
        raise typer.Exit(2) from None
    added, refused = ask_service(config, lambda service: _import_lines(service, lines, owner), creates=True)
    console.print(f"{added} imported, {refused} refused.")
    if refused:
        raise typer.Exit(1)


async def _import_lines(service: Service, lines: list[str], owner: str) -> tuple[int, int]:
    added = refused = 0

    def report(number: int, error: RequestError) -> None:
        errors.print(f"line {number}: {error}", style="red", markup=False)

    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task("importing", total=len(lines))
        for page in _pages(lines):
            good: list[tuple[int, Wish]] = []
            for number, line in page:
                try:
                    wish = _wish_of(line)
                except RequestError as error:
                    report(number, error)
                    refused += 1
                else:
                    if wish is not None:
                        good.append((number, wish))
            outcomes = await service.subscriptions.subscribe_all([wish for _, wish in good], dialect="ipn", owner=owner)
            for (number, _), outcome in zip(good, outcomes, strict=True):
                if isinstance(outcome, RequestError):
                    report(number, outcome)
                    refused += 1
                else:
                    added += 1
            progress.update(task, advance=len(page))
    return added, refused


def _pages(lines: list[str]) -> Iterator[list[tuple[int, str]]]:
    numbered = list(enumerate(lines, start=1))
    for at in range(0, len(numbered), IMPORT_PAGE):
        yield numbered[at : at + IMPORT_PAGE]


def _wish_of(line: str) -> Wish | None:
    """Read one line; None for an empty one or a comment.

    Raises:
        RequestError: it has the wrong number of fields, or a bad depth.
    """
    if not line.strip() or line.lstrip().startswith("#"):
        return None
    try:
        (fields,) = csv.reader([line], strict=True)
    except (csv.Error, ValueError):
        raise RequestError("the quotes do not match", code="bad-line") from None
    fields = [field.strip() for field in fields]
    if len(fields) not in (2, 3):
        raise RequestError(f"has {len(fields)} fields, want ADDRESS,URL[,MAX_CONFIRMS]", code="bad-line")
    depth = DEFAULT_CONFIRMS
    if len(fields) == 3:
        text = fields[2]
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MAX_CONFIRMS):
            raise RequestError(
                f"max_confirms is {text[:20]!a}, want a whole number from 1 to {MAX_CONFIRMS}", code="bad-number"
            )
        depth = int(text)
    return Wish(address=fields[0], url=fields[1], terms=encode_terms(IpnTerms(depth)))
