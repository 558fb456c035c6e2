"""What every part of the spine stands on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lightipn.chain.source import ChainSource
from lightipn.ledger.events import PaymentEvent, TrustLevel
from lightipn.ledger.rules import LedgerDelta
from lightipn.outbox.policy import Policy
from lightipn.store import ledger as ledger_store
from lightipn.store.database import Store
from lightipn.tracker.events import LOG_EVENTS_AT_MOST, log_events


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """The rooms on both sides of the spine.

    Args:
        policies: by the name of the dialect.
        ring: called after a commit that made a message due.
        is_own_node: evidence comes from the operator's own node; every event then says so.
        clock: unix seconds.
    """

    source: ChainSource
    store: Store
    policies: Mapping[str, Policy]
    ring: Callable[[], None]
    clock: Callable[[], float]
    is_own_node: bool = False

    def attested(self, delta: LedgerDelta) -> LedgerDelta:
        """Say of a change's events that one's own node vouches for them, where it does."""
        return replace(delta, events=self.attested_events(delta.events)) if self.is_own_node else delta

    def attested_events(self, events: Sequence[PaymentEvent]) -> tuple[PaymentEvent, ...]:
        """Say of events that one's own node vouches for them, where it does."""
        return tuple(replace(event, trust=TrustLevel.OWN_NODE) if self.is_own_node else event for event in events)

    async def tell(self, events: Sequence[PaymentEvent], *, is_due: bool) -> None:
        """Say what a commit did: to the dispatcher, and to the log."""
        if is_due:
            self.ring()
        if events:
            named = {event.scripthash for event in events[:LOG_EVENTS_AT_MOST]}
            log_events(events, await self.store.read(lambda db: ledger_store.load_addresses(db, named)))
