"""The state of a service as its database tells it, running or not."""

from dataclasses import dataclass

from lightipn.chain.source import ServerState
from lightipn.store import chain, deliveries, keys, servers, subscriptions
from lightipn.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The state of a service as its database tells it.

    Args:
        tip: height, hash and raw header of our verified tip; None before the first header.
        held_deliveries: of the pending ones, those whose owner has no good key.
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
    is_key_there: bool


def load_summary(db: Database) -> Summary:
    """Return what the database says about the service's state."""
    pending, waiting_since = deliveries.count_pending(db)
    return Summary(
        tip=chain.load_tip(db),
        tip_height=chain.load_tip_height(db),
        subscriptions=subscriptions.count_subscriptions(db),
        pending_deliveries=pending,
        held_deliveries=deliveries.count_held(db),
        oldest_due_at=waiting_since,
        servers=tuple(servers.load_servers(db)),
        failing_hosts=tuple(deliveries.load_failing_hosts(db, limit=20)),
        is_key_there=keys.has_live_key(db),
    )
