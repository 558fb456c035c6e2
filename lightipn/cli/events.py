"""``lightipn events``: what happened, in order."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from lightipn.api.feed import DEFAULT_LIMIT, event_json_of
from lightipn.bitcoin.hashes import hex_of
from lightipn.cli.output import print_json_line, print_line, print_table, time_text
from lightipn.cli.run import ConfigOption, ask_service
from lightipn.service.desk import Service
from lightipn.service.feed import MOST_AFTER, MOST_AT_ONCE, EventPage, RecordedEvent

app = typer.Typer(add_completion=False)

AfterOption = Annotated[
    int | None,
    typer.Option("--after", metavar="N", min=0, max=MOST_AFTER, help="What follows event N. Default: the newest."),
]
LimitOption = Annotated[
    int,
    typer.Option("--limit", metavar="M", min=1, max=MOST_AT_ONCE, help="At most so many; then what --follow finds."),
]
FollowOption = Annotated[bool, typer.Option("--follow", help="Go on with new events until Ctrl-C.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of a table.")]


@app.command()
def events(
    after: AfterOption = None,
    limit: LimitOption = DEFAULT_LIMIT,
    config: ConfigOption = None,
    json: JsonLinesOption = False,
    follow: FollowOption = False,
) -> None:
    """Show the events of all payments, blocks and servers, oldest first."""
    show = _show_json if json else _show_lines if follow else _show_table
    if not follow:
        show(ask_service(config, lambda service: _load_page(service, after=after, limit=limit)).events)
        return
    with contextlib.suppress(KeyboardInterrupt):
        ask_service(config, lambda service: _follow(service, show, after=after, limit=limit))


async def _load_page(service: Service, *, after: int | None, limit: int) -> EventPage:
    """Load what follows a number, or the newest events where none is given."""
    if after is None:
        latest = (await service.feed.events(after=0, limit=1, owner=None)).latest
        after = max(0, latest - limit)  # numbers have no gap
    return await service.feed.events(after=after, limit=limit, owner=None)


async def _follow(
    service: Service, show: Callable[[Sequence[RecordedEvent]], None], *, after: int | None, limit: int
) -> None:
    """Show the first page, and whatever comes after it, until the program is interrupted."""
    version = None
    while True:
        version = await service.feed.wait_written(version)  # before the look, so that nothing is missed in between
        while True:
            page = await _load_page(service, after=after, limit=limit)
            show(page.events)
            after = page.next_after
            if after >= page.latest:
                break


def _show_json(found: Sequence[RecordedEvent]) -> None:
    for event in found:
        print_json_line(event_json_of(event))


def _show_lines(found: Sequence[RecordedEvent]) -> None:
    """Print a line for each event: the columns of a table are as wide as what it ends with, and this has no end."""
    for event in found:
        facts = [
            event.address,
            "" if event.txid is None else hex_of(event.txid),
            "" if event.net_sat is None else f"{event.net_sat} sat",
            "" if event.height is None else f"height {event.height}",
            event.trust,
            *_details_of(event),
        ]
        head = f"{event.number:>6}  {time_text(event.happened_at)}  {event.kind:<18}"
        print_line("  ".join([head, *filter(None, facts)]))


def _show_table(found: Sequence[RecordedEvent]) -> None:
    columns = ("NUMBER", "TIME", "KIND", "ADDRESS", "TXID", "NET SAT", "HEIGHT", "TRUST", "DETAILS")
    print_table(columns, [_row_of(event) for event in found], empty="No events.")


def _row_of(event: RecordedEvent) -> tuple[object, ...]:
    return (
        event.number,
        time_text(event.happened_at),
        event.kind,
        event.address,
        "" if event.txid is None else hex_of(event.txid),
        event.net_sat,
        event.height,
        event.trust,
        ", ".join(_details_of(event)),
    )


def _details_of(event: RecordedEvent) -> list[str]:
    """Return what only some kinds have, in words."""
    details = []
    if event.seen_by:
        details.append(f"seen by {event.seen_by}")
    if event.signals_rbf:
        details.append("rbf")
    if event.replaced_by is not None:
        details.append(f"replaced by {hex_of(event.replaced_by)}")
    if event.block_hash is not None:
        details.append(f"block {hex_of(event.block_hash)}")
    return details + [text for text in (event.server, event.reason) if text]
