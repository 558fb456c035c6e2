"""``lightipn server``: the Electrum servers."""

from dataclasses import replace
from functools import partial

import trio
import typer

from lightipn.app import checkpoints_of, servers_of
from lightipn.bitcoin.header import parse_header
from lightipn.chain.source import ServerState
from lightipn.chain.verifier import accept_branch
from lightipn.cli.output import print_json, print_table
from lightipn.cli.run import ConfigOption, JsonOption, configured, reported_errors
from lightipn.electrum.probe import Probe, probe_servers
from lightipn.errors import SourceMisbehavedError

app = typer.Typer(help="Electrum servers: check.", no_args_is_help=True)


@app.command()
def check(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Connect to every configured server (or every built-in one) and say what it is and whether it serves.

    A server is good when it is on the network, has caught up, and proves a transaction of its tip with a merkle branch.
    """
    with reported_errors():
        loaded = configured(config)
        addresses, _ = servers_of(loaded)
        lowest_tip = checkpoints_of(loaded.network).last.height
        probes = trio.run(partial(probe_servers, addresses, loaded.network, lowest_tip=lowest_tip))
        states = [_judged(probe) for probe in probes]
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


def _judged(probe: Probe) -> ServerState:
    """Judge whether the server proved its own tip's coinbase: one that cannot prove is of no use."""
    if probe.coinbase is None:
        return probe.state
    try:
        accept_branch(*probe.coinbase, parse_header(probe.tip_raw))
    except SourceMisbehavedError as error:
        return replace(probe.state, verdict="misbehaved", reason=str(error))
    return replace(probe.state, verdict="good")
