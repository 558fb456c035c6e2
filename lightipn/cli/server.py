"""``lightipn server``: the Electrum servers, and what is held against them."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from lightipn.bitcoin.header import parse_header
from lightipn.bitcoind.greeting import greet
from lightipn.chain.source import ServerState
from lightipn.chain.verifier import accept_branch
from lightipn.cli.output import print_json, print_line, print_table, time_text
from lightipn.cli.run import MAX_NUMBER, ConfigOption, JsonOption, ask_service, configured, reported_errors
from lightipn.config import Config
from lightipn.electrum.connection import Identity
from lightipn.electrum.probe import Probe, probe_servers
from lightipn.errors import SourceError, SourceMisbehavedError
from lightipn.parts import checkpoints_of, connector_of, open_node, servers_of

app = typer.Typer(help="Electrum servers: check, evidence, trust.", no_args_is_help=True, add_completion=False)
SHOWN_RAW_BYTES = 20


@app.command()
def check(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Connect to every configured server (or every built-in one, or your own node) and say what it is.

    A server is good when it is on the network, has caught up, proves a transaction of its tip with a merkle branch, and
    shows the certificate that the service knows; a node, when the service would use it. The exit code is 1 if none is.
    """
    with reported_errors():
        loaded = configured(config)
        is_own_node = loaded.backend == "bitcoind"
        states = [trio.run(_probe_own_node, loaded)] if is_own_node else _probe_servers(loaded, config)
    rows = [
        (
            state.name,
            state.verdict,
            state.reason,
            state.software,
            state.protocol,
            state.tip_height,
            None if state.latency_ms is None else round(state.latency_ms),
        )
        for state in states
    ]
    names = ("name", "verdict", "reason", "software", "protocol", "tip_height", "latency_ms")
    if json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        columns = ("SERVER", "VERDICT", "REASON", "SOFTWARE", "PROTOCOL", "TIP", "LATENCY MS")
        print_table(columns, rows, empty="No servers: set [electrum] servers.")
    if not any(state.verdict == "good" for state in states):
        raise typer.Exit(1)


def _probe_servers(loaded: Config, config: Path | None) -> list[ServerState]:
    known: dict[str, Identity] = {}
    if loaded.database.exists():
        servers = ask_service(config, lambda service: service.summary()).servers
        known = {server.name: Identity(server.fingerprint, server.is_ca_signed) for server in servers}
    addresses, _ = servers_of(loaded)
    lowest_tip = checkpoints_of(loaded.network).last.height
    probes = trio.run(
        partial(probe_servers, addresses, loaded.network, connector_of(loaded), lowest_tip=lowest_tip, known=known)
    )
    return [_judged(probe) for probe in probes]


async def _probe_own_node(loaded: Config) -> ServerState:
    async with open_node(loaded) as node:
        state = ServerState(name=node.name, verdict="unavailable")
        try:
            started = trio.current_time()
            info = await node.fetch_chain_info()
            state = replace(state, tip_height=info.height, latency_ms=(trio.current_time() - started) * 1000)
            return replace(state, verdict="good", software=await greet(node, loaded.network, info))
        except SourceError as error:
            return replace(state, reason=str(error))


@app.command()
def evidence(
    limit: Annotated[int, typer.Option("--limit", min=1, max=MAX_NUMBER, help="At most so many, newest first.")] = 100,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show what servers were caught with: what each said, what shows that it is wrong, and the bytes as hex."""
    found = ask_service(config, lambda service: service.servers.list_evidence(limit=limit))
    if json:
        print_json(
            [
                {
                    "id": item.evidence_id,
                    "observed_at": item.observed_at,
                    "server": item.server,
                    "kind": item.kind,
                    "claim": item.claim,
                    "contradiction": item.contradiction,
                    "raw": item.raw.hex(),
                }
                for item in found
            ]
        )
        return
    rows = [
        (
            item.evidence_id,
            time_text(item.observed_at),
            item.server,
            item.kind,
            item.claim,
            item.contradiction,
            # hex, never text: a server's own words must not reach a person
            item.raw[:SHOWN_RAW_BYTES].hex() + ("..." if len(item.raw) > SHOWN_RAW_BYTES else ""),
        )
        for item in found
    ]
    columns = ("ID", "TIME", "SERVER", "KIND", "CLAIM", "CONTRADICTION", "RAW")
    print_table(columns, rows, empty="No server was caught with anything.")


@app.command()
def trust(
    host: Annotated[str, typer.Argument(metavar="HOST", help="HOST, HOST:PORT, or the name that `status` shows.")],
    config: ConfigOption = None,
) -> None:
    """Trust a server anew: its pinned certificate and its ban are forgotten. A running service acts on it."""
    for name in ask_service(config, lambda service: service.servers.trust(host)):
        print_line(f"{name} is trusted anew.")


def _judged(probe: Probe) -> ServerState:
    """Judge whether the server proved its own tip's coinbase: one that cannot prove is of no use."""
    if probe.coinbase is None:
        return probe.state
    try:
        accept_branch(*probe.coinbase, parse_header(probe.tip_raw))
    except SourceMisbehavedError as error:
        return replace(probe.state, verdict="misbehaved", reason=str(error))
    return replace(probe.state, verdict="good")
