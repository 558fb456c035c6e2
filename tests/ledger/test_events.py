"""The vocabulary of events."""

import pytest

from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from tests.builders import SCRIPT, entry_of
from tests.builders import payments_of as payments


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (EventKind.SEEN, "payment.seen"),
        (EventKind.CONFIRMED, "payment.confirmed"),
        (EventKind.REVERTED, "payment.reverted"),
        (EventKind.REPLACED, "payment.replaced"),
    ],
)
def test_event_names_are_stable(kind: EventKind, text: str) -> None:
    """The names of events are stored and told, so they never change."""
    assert kind.value == text
    assert EventKind(text) is kind


def test_trust_levels_are_stable() -> None:
    """The names of trust levels are stored and told, so they never change."""
    assert [level.value for level in TrustLevel] == ["proved", "single"]


def test_event_names_no_replacement_unless_there_is_one() -> None:
    """Only a replaced payment's event names another transaction."""
    event = PaymentEvent(
        kind=EventKind.SEEN,
        scripthash=payments(script=SCRIPT).scripthash,
        txid=entry_of().txid,
        net_sat=1,
        height=None,
        trust=TrustLevel.SINGLE,
    )
    assert event.replaced_by is None
