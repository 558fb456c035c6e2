"""``lightipn delivery``: what was told, what was answered, and telling it again."""

from typing import Annotated

import typer

from lightipn.cli.output import console, print_facts, print_json, print_table, time_text
from lightipn.cli.run import MAX_NUMBER, ConfigOption, JsonOption, ask_service
from lightipn.store.deliveries import Attempt, Delivery

app = typer.Typer(help="Callbacks: list, show every attempt, retry.", no_args_is_help=True, add_completion=False)
IdArgument = Annotated[
    int, typer.Argument(metavar="ID", min=1, max=MAX_NUMBER, help="The number that `delivery list` shows.")
]
SHOWN_ANSWER_CHARS = 120


@app.command("list")
def list_(
    pending: Annotated[bool, typer.Option("--pending", help="Only what is not acknowledged yet.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MAX_NUMBER, help="At most so many, newest first.")] = 100,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List messages and how far each is."""
    found = ask_service(config, lambda service: service.deliveries.list(limit=limit, is_pending_only=pending))
    if json:
        print_json([_delivery_json(delivery) for delivery in found])
        return
    rows = [
        (d.message_key, d.state, d.attempts, time_text(d.due_at), d.owner, d.address, d.url, d.payload.decode())
        for d in found
    ]
    columns = ("ID", "STATE", "ATTEMPTS", "NEXT", "OWNER", "ADDRESS", "URL", "TELLS")
    print_table(columns, rows, empty="No deliveries.")


@app.command()
def show(delivery_id: IdArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show a message and every attempt: time, status, latency, first bytes of the answer."""
    delivery, attempts = ask_service(config, lambda service: service.deliveries.show(delivery_id))
    if json:
        print_json(_delivery_json(delivery) | {"attempts_made": [_attempt_json(attempt) for attempt in attempts]})
        return
    print_facts(
        {
            "delivery": f"{delivery.message_key} ({delivery.message_id})",
            "state": delivery.state,
            "owner": delivery.owner,
            "address": delivery.address,
            "url": delivery.url,
            "tells": delivery.payload.decode(),
            "next attempt": time_text(delivery.due_at) or "none",
        }
    )
    rows = [
        (
            time_text(attempt.started_at),
            attempt.outcome,
            attempt.status or attempt.trouble,
            "" if attempt.latency_ms is None else f"{attempt.latency_ms:.0f} ms",
            attempt.body.decode("utf-8", "replace"),
            attempt.answer_head.decode("utf-8", "replace")[:SHOWN_ANSWER_CHARS],
        )
        for attempt in attempts
    ]
    columns = ("TIME", "OUTCOME", "STATUS", "LATENCY", "SENT", "ANSWER")
    print_table(columns, rows, empty="No attempts yet.")


@app.command()
def retry(delivery_id: IdArgument, config: ConfigOption = None) -> None:
    """Send a message again at once, whatever its state."""
    ask_service(config, lambda service: service.deliveries.retry(delivery_id))
    console.print("Due now.")


def _delivery_json(delivery: Delivery) -> dict[str, object]:
    return {
        "id": delivery.message_key,
        "message_id": delivery.message_id,
        "dialect": delivery.dialect,
        "owner": delivery.owner,
        "address": delivery.address,
        "url": delivery.url,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_attempt_at": delivery.due_at,
        "tells": delivery.payload.decode(),
    }


def _attempt_json(attempt: Attempt) -> dict[str, object]:
    return {
        "started_at": attempt.started_at,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "trouble": attempt.trouble,
        "latency_ms": attempt.latency_ms,
        "request": {
            "method": attempt.method,
            "url": attempt.url,
            "headers": dict(attempt.headers),
            "body": attempt.body.decode("utf-8", "replace"),
        },
        "answer_head": attempt.answer_head.decode("utf-8", "replace"),
    }
