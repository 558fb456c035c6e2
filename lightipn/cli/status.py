"""``lightipn status``: the service as its database tells it."""

import time

import typer

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.header import parse_header
from lightipn.cli.output import console, print_facts, print_json, print_table, printable, time_text
from lightipn.cli.run import ConfigOption, JsonOption, ask_service, reported_errors
from lightipn.config import load_config
from lightipn.service.summary import Summary, alarms_of
from lightipn.store.database import is_service_running

app = typer.Typer(add_completion=False)


@app.command()
def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show whether the service runs, its verified tip, its servers, and what waits to be delivered."""
    with reported_errors():
        loaded = load_config(config)
    summary = ask_service(config, lambda service: service.summary())
    is_running = is_service_running(loaded.database)
    has_regular_blocks = loaded.network.name != "regtest"
    alarms = alarms_of(
        summary,
        now=int(time.time()),
        is_running=is_running,
        has_regular_blocks=has_regular_blocks,
        is_forwarding_on=loaded.forwarding.seed_file is not None,
    )
    if json:
        facts = {"running": is_running, "network": loaded.network.name, "alarms": alarms}
        print_json(facts | _summary_json(summary))
        return
    _print_summary(summary, is_running=is_running, network=loaded.network.name)
    for alarm in alarms:
        console.print()
        console.print(f"ALARM: {printable(alarm)}", style="bold red", markup=False, highlight=False, soft_wrap=True)


def _summary_json(summary: Summary) -> dict[str, object]:
    tip = summary.tip
    return {
        "tip_height": tip[0] if tip else None,
        "tip_hash": hex_of(tip[1]) if tip else None,
        "tip_time": parse_header(tip[2]).time if tip else None,
        "subscriptions": summary.subscriptions,
        "pending_deliveries": summary.pending_deliveries,
        "held_deliveries": summary.held_deliveries,
        "oldest_due_at": summary.oldest_due_at,
        "partial_histories": summary.partial_histories,
        "unproved_sat": summary.unproved_sat,
        "pending_histories": summary.pending_histories,
        "failing_hosts": [
            {"host": f.host, "messages": f.messages, "failures": f.failures, "last_trouble": f.last_trouble}
            for f in summary.failing_hosts
        ],
        "servers": [
            {
                "name": server.name,
                "verdict": server.verdict,
                "reason": server.reason,
                "software": server.software,
                "protocol": server.protocol,
                "tip_height": server.tip_height,
                "latency_ms": server.latency_ms,
            }
            for server in summary.servers
        ],
    }


def _history_facts(summary: Summary) -> dict[str, object]:
    """Return what to say of histories that are not whole; nothing where all are."""
    facts: dict[str, object] = {}
    if summary.pending_histories:
        facts["past is searched"] = f"for {summary.pending_histories} addresses"
    if summary.partial_histories:
        unproved = f"; {summary.unproved_sat} sat more in pruned blocks" if summary.unproved_sat else ""
        facts["history not whole"] = f"of {summary.partial_histories} addresses (lightipn watch list){unproved}"
    return facts


def _print_summary(summary: Summary, *, is_running: bool, network: str) -> None:
    tip_text = "none yet"
    if summary.tip is not None:
        height, block_hash, raw = summary.tip
        age_min = max(0, int(time.time()) - parse_header(raw).time) // 60
        tip_text = f"{height} {hex_of(block_hash)}, {age_min} min old"
    facts: dict[str, object] = {
        "service": "running" if is_running else "not running",
        "network": network,
        "verified tip": tip_text,
        "subscriptions": summary.subscriptions,
        "waiting deliveries": summary.pending_deliveries,
        "held (owner has no key)": summary.held_deliveries,
        "oldest is due": time_text(summary.oldest_due_at) or "-",
        "API keys": "there" if summary.is_key_there else "none that is good",
    }
    print_facts(facts | _history_facts(summary))
    console.print()
    print_table(
        ("SERVER", "VERDICT", "REASON", "SOFTWARE", "PROTOCOL", "TIP", "LATENCY"),
        [
            (
                server.name,
                server.verdict if is_running else f"was {server.verdict}",
                server.reason,
                server.software,
                server.protocol,
                server.tip_height,
                "" if server.latency_ms is None else f"{server.latency_ms:.0f} ms",
            )
            for server in summary.servers
            if server.verdict != "not-configured"
        ],
        empty="No server was tried yet.",
    )
    if summary.failing_hosts:
        console.print()
        print_table(
            ("SHOP THAT FAILS", "MESSAGES", "FAILURES", "LAST ANSWER"),
            [(f.host, f.messages, f.failures, f.last_trouble) for f in summary.failing_hosts],
            empty="",
        )
