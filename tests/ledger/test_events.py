"""The vocabulary of events."""

import pytest

from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel, trust_of
from tests.builders import SCRIPT, entry_of
from tests.builders import payments_of as payments


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (EventKind.SEEN, "payment.seen"),
        (EventKind.CONFIRMED, "payment.confirmed"),
        (EventKind.REVERTED, "payment.reverted"),
        (EventKind.REPLACED, "payment.replaced"),
        (EventKind.DROPPED, "payment.dropped"),
        (EventKind.BLOCK_CONNECTED, "block.connected"),
        (EventKind.BLOCK_DISCONNECTED, "block.disconnected"),
    ],
)
def test_event_names_are_stable(kind: EventKind, text: str) -> None:
    """The names of events are stored and told, so they never change."""
    assert kind.value == text
    assert EventKind(text) is kind


def test_event_names_are_all_listed_here() -> None:
    """A name that is added must be added to the tests, since it can never be changed again."""
    assert len(EventKind) == 7


def test_trust_levels_are_stable() -> None:
    """The names of trust levels are stored and told, so they never change."""
    assert [level.value for level in TrustLevel] == ["proved", "agreed", "single", "own-node"]


@pytest.mark.parametrize(
    ("seen_by", "trust"),
    [(0, TrustLevel.SINGLE), (1, TrustLevel.SINGLE), (2, TrustLevel.AGREED), (9, TrustLevel.AGREED)],
)
def test_two_servers_agree_and_one_is_single(seen_by: int, trust: TrustLevel) -> None:
    """A claim of two independent servers is agreed, of one it is that one's word; none of them makes it proved."""
    assert trust_of(seen_by) is trust


def test_event_says_nothing_that_it_was_not_told() -> None:
    """Block, witnesses, replaceability and the replacing transaction are absent unless there is something to say."""
    event = PaymentEvent(
        kind=EventKind.SEEN,
        scripthash=payments(script=SCRIPT).scripthash,
        txid=entry_of().txid,
        net_sat=1,
        height=None,
        trust=TrustLevel.SINGLE,
    )
    assert (event.block_hash, event.seen_by, event.signals_rbf, event.replaced_by) == (None, 0, False, None)
