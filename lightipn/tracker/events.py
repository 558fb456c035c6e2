"""Payment events as log lines."""

from collections.abc import Mapping, Sequence

import structlog

from lightipn.bitcoin.hashes import ScriptHash, hex_of
from lightipn.ledger.events import PaymentEvent

LOG_EVENTS_AT_MOST = 20

log = structlog.get_logger("tracker")


def log_events(events: Sequence[PaymentEvent], addresses: Mapping[ScriptHash, str]) -> None:
    """Log payment events by their addresses, and only count them where a reorg made very many."""
    for event in events[:LOG_EVENTS_AT_MOST]:
        log.info(
            event.kind.value,
            address=addresses.get(event.scripthash, ""),
            txid=hex_of(event.txid),
            net_sat=event.net_sat,
            height=event.height,
            trust=event.trust.value,
        )
    if len(events) > LOG_EVENTS_AT_MOST:
        log.info("tracker.events_omitted", count=len(events) - LOG_EVENTS_AT_MOST)
