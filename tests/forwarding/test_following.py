"""What a signed transfer needs next, case by case."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from lightipn.forwarding.following import FINAL_DEPTH_BLOCKS, Step, View
from lightipn.ledger.entries import Dropped, PaymentState, Replaced
from tests.builders import confirmed, entry_of, txid_of
from tests.forwarding.rig import IN_MEMPOOL, transfer_of
from tests.store.rows import TIP

FIRST, SECOND = 1, 2
WAITS = 6


def view_of(
    places: Mapping[int, PaymentState], *, versions: int = 1, age: int = 0, has_lost_coin: bool = False
) -> View:
    """Return a transfer whose versions the ledger knows at these places.

    Args:
        age: blocks since the newest version was signed.
    """
    transfer = transfer_of(*range(FIRST, FIRST + versions), signed_height=TIP - age)
    entries = {txid_of(number): entry_of(number, state=state) for number, state in places.items()}
    return View(transfer=transfer, entries=entries, has_lost_coin=has_lost_coin, tip_height=TIP)


CASES = {
    "nobody knows it": (view_of({}), Step.BROADCAST),
    "nobody knows it any more": (view_of({FIRST: Dropped()}), Step.BROADCAST),
    "in the mempool": (view_of({FIRST: IN_MEMPOOL}, age=WAITS - 1), Step.WAIT),
    "in the mempool for too long": (view_of({FIRST: IN_MEMPOOL}, age=WAITS), Step.BUMP),
    "the bump is unknown": (view_of({FIRST: IN_MEMPOOL}, versions=2), Step.BROADCAST),
    "the bump lost to what it replaced": (
        view_of({FIRST: IN_MEMPOOL, SECOND: Replaced(txid_of(FIRST))}, versions=2),
        Step.BROADCAST,
    ),
    "the bump is in the mempool": (
        view_of({FIRST: Replaced(txid_of(SECOND)), SECOND: IN_MEMPOOL}, versions=2, age=1),
        Step.WAIT,
    ),
    "mined": (view_of({FIRST: confirmed(TIP)}, age=50), Step.WAIT),
    "the older one is mined": (view_of({FIRST: confirmed(TIP), SECOND: Dropped()}, versions=2, age=50), Step.WAIT),
    "almost final": (view_of({FIRST: confirmed(TIP - FINAL_DEPTH_BLOCKS + 2)}), Step.WAIT),
    "final": (view_of({FIRST: confirmed(TIP - FINAL_DEPTH_BLOCKS + 1)}), Step.FINISH),
    "unknown for too long": (view_of({}, age=WAITS), Step.BUMP),
    "gone for too long": (view_of({FIRST: Dropped()}, age=WAITS), Step.BUMP),
    "a coin is gone": (view_of({}, has_lost_coin=True), Step.VOID),
    "a coin is gone, and it is still in the mempool": (view_of({FIRST: IN_MEMPOOL}, has_lost_coin=True), Step.VOID),
    "mined, and a coin seems gone": (view_of({FIRST: confirmed(TIP)}, has_lost_coin=True), Step.WAIT),
}


@pytest.mark.parametrize(("view", "step"), CASES.values(), ids=CASES)
def test_next_step(view: View, step: Step) -> None:
    """Each state has one next step: a mined transfer is left alone, a lost one given up, a waiting one pays more."""
    assert view.step(bump_after_blocks=WAITS) is step


@pytest.mark.parametrize(
    ("places", "confirmations", "mined"),
    [
        ({}, 0, None),
        ({FIRST: IN_MEMPOOL}, 0, None),
        ({FIRST: confirmed(TIP)}, 1, FIRST),
        ({FIRST: confirmed(TIP - 5), SECOND: Replaced(txid_of(FIRST))}, 6, FIRST),
        ({FIRST: Dropped(), SECOND: confirmed(TIP - 1)}, 2, SECOND),
        ({FIRST: confirmed(TIP + 1)}, 0, FIRST),
    ],
)
def test_depth_is_that_of_the_mined_version(
    places: dict[int, PaymentState], confirmations: int, mined: int | None
) -> None:
    """Confirmations are those of the version that a block holds; a block above our tip has none yet."""
    view = view_of(places, versions=2)
    assert view.confirmations == confirmations
    assert view.mined_txid == (None if mined is None else txid_of(mined))


@pytest.mark.parametrize("state", [IN_MEMPOOL, confirmed(TIP), Replaced(txid_of(SECOND)), Dropped()])
def test_version_that_servers_had_is_to_be_recorded(state: PaymentState) -> None:
    """What the ledger knows was taken by a server, whatever became of it; and it is recorded once."""
    view = view_of({FIRST: state}, versions=2)
    assert view.unrecorded == []
    unsent = [replace(version, broadcast_at=None) for version in view.transfer.versions]
    view = replace(view, transfer=replace(view.transfer, versions=tuple(unsent)))
    assert view.unrecorded == [unsent[0]]
