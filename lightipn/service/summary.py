"""The state of a service as its database tells it, running or not."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.header import parse_header
from lightipn.chain.source import ServerState
from lightipn.store import (
    accounts,
    chain,
    deliveries,
    forwards,
    hooks,
    keys,
    ledger,
    node_findings,
    node_scripts,
    servers,
    subscriptions,
    transfers,
)
from lightipn.store.database import Database

# Of all pauses between two blocks one in a million is longer (exp(-14); blocks come every 600 s on average).
OLD_TIP_S = 8400
LOST_SHOWN_S = 7 * 86400


_LOST = {"unconfirmed": "out of its block again", "replaced": "replaced", "dropped": "dropped"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The state of a service as its database tells it.

    Args:
        tip: height, hash and raw header of our verified tip; None before the first header.
        held_deliveries: of the pending ones, those whose owner has no good key.
        lost_payments: those that a shop acknowledged, and that lost their block or are gone, of the last week.
        suspended_hooks: those whose receivers fail too often.
        costly_forwards: those whose coins wait because the fee would be too high.
        unsigned_forwards: those whose coins wait because the seed file cannot be used.
        troubled_transfers: signed transactions that something keeps from being mined.
        voided_transfers: those of the last week that were given up, because a payment that they passed on is gone.
        active_forwards: how many forwards would pass coins on.
        negative_accounts: those from which more was booked away than is left after a deposit was lost.
        partial_histories: how many addresses' payments are known from some block on only.
        unproved_sat: what one's own node says is unspent at those, and nothing proves: it counts in no total.
        unprovable_payments: unconfirmed ones that stand, or may stand, in blocks that one's own node has pruned.
        pending_histories: for how many addresses one's own node is still searching the past.
        oldest_due_at: unix seconds at which the message that waits longest is or was due; None if none waits.
    """

    tip: tuple[int, bytes, bytes] | None
    tip_height: int
    subscriptions: int
    pending_deliveries: int
    held_deliveries: int
    oldest_due_at: float | None
    servers: tuple[ServerState, ...]
    failing_hosts: tuple[deliveries.FailingHost, ...]
    lost_payments: tuple[deliveries.LostPayment, ...]
    suspended_hooks: tuple[hooks.Hook, ...]
    negative_accounts: tuple[accounts.Account, ...]
    costly_forwards: tuple[forwards.Forward, ...]
    unsigned_forwards: tuple[forwards.Forward, ...]
    troubled_transfers: tuple[transfers.Transfer, ...]
    voided_transfers: tuple[transfers.Transfer, ...]
    active_forwards: int
    partial_histories: int
    unproved_sat: int
    pending_histories: int
    unprovable_payments: int
    is_key_there: bool


def alarms_of(
    summary: Summary, *, now: int, is_running: bool, has_regular_blocks: bool, is_forwarding_on: bool = True
) -> list[str]:
    """Say what an operator must look at, the worst first; empty if nothing.

    Args:
        is_running: the service runs, so that what is said of its servers is so now.
        now: unix seconds.
        has_regular_blocks: False on a network where blocks come when somebody makes them.
    """
    alarms = []
    if not is_running:
        alarms.append("the service does not run: lightipn serve")
    elif not any(server.verdict == "connected" for server in summary.servers):
        alarms.append(f"no server is connected: payments are not seen{_only_reason_of(summary.servers)}")
    for server in summary.servers:
        address = server.name.rpartition(":")[0]
        if server.verdict == "distrusted":
            alarms.append(
                f"{server.name} is not used: {server.reason}. Somebody may be in between. If the certificate was"
                f" renewed: lightipn server trust {address} (and change #fingerprint, if the configuration has one)"
            )
        elif server.banned_until > now:
            alarms.append(
                f"{server.name} lied ({server.reason}) and is banned for {(server.banned_until - now) // 60 + 1} min:"
                " lightipn server evidence"
            )
    alarms += [
        f"payment {hex_of(lost.txid)} to {lost.address} is {_LOST[lost.place]} after {lost.host} acknowledged it:"
        " nothing more is told of it, look at lightipn events"
        for lost in summary.lost_payments
    ]
    alarms += [
        f"hook {hook.hook_id} of {hook.owner} is suspended: {hook.errors} of its webhooks failed all quick tries."
        " All are kept, and one an hour is tried"
        for hook in summary.suspended_hooks
    ]
    alarms += [
        f"account {account.name} of {account.owner} is at {account.balance_sat} sat: a deposit was lost after it had"
        " been booked away: lightipn account movements"
        for account in summary.negative_accounts
    ]
    alarms += _node_alarms(summary)
    alarms += _forwarding_alarms(summary, is_on=is_forwarding_on)
    if summary.tip is not None and has_regular_blocks:
        age_s = now - parse_header(summary.tip[2]).time
        if age_s > OLD_TIP_S:
            alarms.append(f"the newest block is {age_s // 60} min old: the servers may be stuck, or hide newer ones")
    return alarms


def _only_reason_of(servers: Sequence[ServerState]) -> str:
    """Return why the only server is not connected, where there is but one: a node of one's own, most likely."""
    used = [server for server in servers if server.verdict != "not-configured"]
    return f" ({used[0].name}: {used[0].reason})" if len(used) == 1 and used[0].reason else ""


def _node_alarms(summary: Summary) -> list[str]:
    alarms = [
        f"{server.name} is asked, and {server.reason}"
        for server in summary.servers
        if server.verdict == "connected" and server.reason
    ]
    if summary.unprovable_payments:
        alarms.append(
            f"{summary.unprovable_payments} unconfirmed payments may stand in blocks that your node pruned before they"
            " were looked through, so they stay unconfirmed: with backend electrum for a while they are proved"
        )
    return alarms


def _forwarding_alarms(summary: Summary, *, is_on: bool) -> list[str]:
    alarms = [
        f"coins at {forward.address} are held: the mining fee is above [forwarding] max_fee_percent or max_fee_rate"
        for forward in summary.costly_forwards
    ]
    alarms += [
        f"coins at {forward.address} are held: the seed file cannot be read, or belongs to other addresses"
        for forward in summary.unsigned_forwards
    ]
    alarms += [
        f"transfer {transfer.transfer_id} ({hex_of(transfer.newest.txid)}) is not mined: {transfer.trouble}"
        for transfer in summary.troubled_transfers
    ]
    alarms += [
        f"transfer {transfer.transfer_id} ({hex_of(transfer.newest.txid)}) was given up: a payment that it passed on is"
        " gone. If its callback was heard, its receiver does not know"
        for transfer in summary.voided_transfers
    ]
    if summary.active_forwards and not is_on:
        alarms.append(
            f"forwarding is off, and there are {summary.active_forwards} forwards: what is paid to them stays there"
        )
    return alarms


def load_summary(db: Database, *, now: int) -> Summary:
    """Return what the database says about the service's state; ``now`` is in unix seconds."""
    pending, waiting_since = deliveries.count_pending(db)
    partial_histories, unproved_sat = ledger.sum_coverage(db)
    return Summary(
        tip=chain.load_tip(db),
        tip_height=chain.load_tip_height(db),
        subscriptions=subscriptions.count_subscriptions(db),
        pending_deliveries=pending,
        held_deliveries=deliveries.count_held(db),
        oldest_due_at=waiting_since,
        servers=tuple(servers.load_servers(db)),
        failing_hosts=tuple(deliveries.load_failing_hosts(db, limit=20)),
        lost_payments=tuple(deliveries.load_lost(db, since=now - LOST_SHOWN_S, limit=20)),
        suspended_hooks=tuple(hooks.load_suspended(db, limit=20)),
        negative_accounts=tuple(accounts.load_negative(db, limit=20)),
        costly_forwards=tuple(forwards.load_holding(db, reason="fee-too-high", limit=20)),
        unsigned_forwards=tuple(forwards.load_holding(db, reason="seed-unusable", limit=20)),
        troubled_transfers=tuple(transfers.load_troubled(db, limit=20)),
        voided_transfers=tuple(transfers.load_voided(db, since=now - LOST_SHOWN_S, limit=20)),
        active_forwards=forwards.count_active(db),
        partial_histories=partial_histories,
        unproved_sat=unproved_sat,
        pending_histories=node_scripts.count_pending(db),
        unprovable_payments=len(node_findings.load_all_undeniable(db)),
        is_key_there=keys.has_live_key(db),
    )
