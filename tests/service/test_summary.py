"""The state of the service as its database tells it."""

from dataclasses import replace

import pytest

from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.headers import ChainDelta
from lightipn.chain.source import ServerState
from lightipn.service.summary import Summary, alarms_of
from lightipn.store import chain, servers
from tests.builders import genesis_of, mined_run
from tests.service.rig import Tools
from tests.store.rows import NOW, TIP


async def test_summary_is_what_the_database_says(tools: Tools) -> None:
    """The state of the service is told from its database alone, running or not."""
    empty = await tools.service.summary()
    assert empty == Summary(
        tip=None,
        tip_height=TIP,
        subscriptions=0,
        pending_deliveries=0,
        held_deliveries=0,
        oldest_due_at=None,
        servers=(),
        failing_hosts=(),
        lost_payments=(),
        suspended_hooks=(),
        negative_accounts=(),
        costly_forwards=(),
        unsigned_forwards=(),
        troubled_transfers=(),
        voided_transfers=(),
        active_forwards=0,
        partial_histories=0,
        unproved_sat=0,
        pending_histories=0,
        unprovable_payments=0,
        is_key_there=False,
    )
    headers = tuple(parse_header(raw) for raw in mined_run(genesis_of(REGTEST), 2))
    delta = ChainDelta(fork_height=TIP, disconnected=(), connected=headers)
    server = ServerState(name="a.example:50002:s", verdict="connected")
    await tools.store.transact(lambda db: chain.save_delta(db, delta))
    await tools.store.transact(lambda db: servers.save_servers(db, [server], now=NOW))
    await tools.service.owners.create_key("shop")
    full = await tools.service.summary()
    tip = delta.connected[-1]
    assert (full.tip, full.tip_height) == ((TIP + 2, tip.block_hash, tip.raw), TIP + 2)
    assert (full.servers, full.is_key_there) == ((server,), True)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ((), "no server is connected: payments are not seen"),
        (
            (ServerState(name="127.0.0.1:8332", verdict="unavailable", reason="wrong-password"),),
            "no server is connected: payments are not seen (127.0.0.1:8332: wrong-password)",
        ),
        (
            (
                ServerState(name="127.0.0.1:8332", verdict="connecting", reason="looks through blocks 7 to 60"),
                ServerState(name="a.example:50002:s", verdict="not-configured", reason="timed-out"),
            ),
            "no server is connected: payments are not seen (127.0.0.1:8332: looks through blocks 7 to 60)",
        ),
        (
            tuple(ServerState(name=f"{name}.example:50002:s", verdict="unavailable", reason="x") for name in "ab"),
            "no server is connected: payments are not seen",
        ),
    ],
    ids=["none", "one", "one that is used", "several"],
)
async def test_alarm_names_the_reason_of_an_only_server(
    tools: Tools, shown: tuple[ServerState, ...], words: str
) -> None:
    """Where there is but one, as a node of one's own, the alarm says what is wrong with it."""
    summary = replace(await tools.service.summary(), servers=shown)
    assert alarms_of(summary, now=NOW, is_running=True, has_regular_blocks=False) == [words]


async def test_alarm_says_what_is_wrong_with_a_node_that_is_asked(tools: Tools) -> None:
    """A node that is behind, or silent, is of use; that it is so is said, and so is what it cannot prove any more."""
    node = ServerState(name="127.0.0.1:8332", verdict="connected", reason="its tip is 7, ours is 9")
    summary = replace(await tools.service.summary(), servers=(node,), unprovable_payments=2)
    behind, unprovable = alarms_of(summary, now=NOW, is_running=True, has_regular_blocks=False)
    assert behind == "127.0.0.1:8332 is asked, and its tip is 7, ours is 9"
    assert unprovable.startswith("2 unconfirmed payments may stand in blocks that your node pruned")
