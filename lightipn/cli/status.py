"""``lightipn status``: the service as its database tells it."""

import time

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.header import parse_header
from lightipn.cli.output import console, print_facts, print_json, print_table, time_text
from lightipn.cli.run import ConfigOption, JsonOption, ask_service, reported_errors
from lightipn.config import load_config
from lightipn.service import Service, Summary
from lightipn.store.database import is_service_running


def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show whether the service runs, its verified tip, its servers, and what waits to be delivered."""
    with reported_errors():
        loaded = load_config(config)

    async def ask(service: Service) -> Summary:
        return await service.summary()

    summary = ask_service(config, ask)
    is_running = is_service_running(loaded.database)
    tip = summary.tip
    tip_time = parse_header(tip[2]).time if tip else None
    if json:
        print_json(
            {
                "running": is_running,
                "network": loaded.network.name,
                "tip_height": tip[0] if tip else None,
                "tip_hash": hex_of(tip[1]) if tip else None,
                "tip_time": tip_time,
                "subscriptions": summary.subscriptions,
                "pending_deliveries": summary.pending_deliveries,
                "oldest_due_at": summary.oldest_due_at,
                "failing_hosts": [
                    {
                        "host": failing.host,
                        "messages": failing.messages,
                        "tries": failing.tries,
                        "last_trouble": failing.last_trouble,
                    }
                    for failing in summary.failing_hosts
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
        )
        return
    age = f", {max(0, int(time.time()) - tip_time) // 60} min old" if tip_time is not None else ""
    print_facts(
        {
            "service": "running" if is_running else "not running",
            "network": loaded.network.name,
            "verified tip": f"{tip[0]} {hex_of(tip[1])}{age}" if tip else "none yet",
            "subscriptions": summary.subscriptions,
            "waiting deliveries": summary.pending_deliveries,
            "oldest is due": time_text(summary.oldest_due_at) or "-",
            "API keys": "there" if summary.is_key_there else "none that is good",
        }
    )
    console.print()
    print_table(
        ("SERVER", "VERDICT", "REASON", "SOFTWARE", "PROTOCOL", "TIP", "LATENCY"),
        [
            (
                server.name,
                server.verdict,
                server.reason,
                server.software,
                server.protocol,
                server.tip_height,
                "" if server.latency_ms is None else f"{server.latency_ms:.0f} ms",
            )
            for server in summary.servers
        ],
        empty="No server was tried yet.",
    )
    if summary.failing_hosts:
        console.print()
        print_table(
            ("SHOP THAT DOES NOT ACKNOWLEDGE", "MESSAGES", "TRIES", "LAST ANSWER"),
            [(f.host, f.messages, f.tries, f.last_trouble) for f in summary.failing_hosts],
            empty="",
        )
