"""Histories and the status that binds them."""

import hashlib

import pytest

from lightipn.chain.history import UNKNOWN, HistoryEntry, check_history, status_of
from lightipn.errors import HistoryError
from tests.builders import txid_of

FIRST = HistoryEntry(txid_of(1), 100)
SECOND = HistoryEntry(txid_of(2), 100)
LATER = HistoryEntry(txid_of(3), 250)
IN_MEMPOOL = HistoryEntry(txid_of(4), None)
CHAINED = HistoryEntry(txid_of(5), None, has_unconfirmed_parent=True)


def hex_text(number: int) -> str:
    """Print a txid of the tests as a server does, without the code under test."""
    return bytes(reversed(txid_of(number))).hex()


def test_status_is_the_hash_of_txids_and_heights() -> None:
    """The status is SHA-256 over ``txid:height:`` of every entry; the mempool is height 0, or -1 behind a parent."""
    text = f"{hex_text(1)}:100:{hex_text(3)}:250:{hex_text(4)}:0:{hex_text(5)}:-1:"
    assert status_of([FIRST, LATER, IN_MEMPOOL, CHAINED]) == hashlib.sha256(text.encode()).digest()


def test_status_of_a_single_confirmed_entry() -> None:
    """A history of one entry hashes the text of that entry, with its closing colon."""
    assert status_of((FIRST,)) == hashlib.sha256(f"{hex_text(1)}:100:".encode()).digest()


def test_empty_history_has_no_status() -> None:
    """An empty history has no status, which is neither a hash nor the mark for "nothing absorbed yet"."""
    assert status_of(()) is None
    assert UNKNOWN not in (None, status_of((FIRST,)))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((SECOND, FIRST), id="another order"),
        pytest.param((FIRST,), id="fewer"),
        pytest.param((FIRST, SECOND, LATER), id="more"),
        pytest.param((FIRST, HistoryEntry(SECOND.txid, 101)), id="another height"),
        pytest.param((FIRST, HistoryEntry(SECOND.txid, None)), id="in the mempool"),
        pytest.param((FIRST, HistoryEntry(SECOND.txid, None, has_unconfirmed_parent=True)), id="behind a parent"),
        pytest.param((FIRST, HistoryEntry(LATER.txid, 100)), id="another txid"),
    ],
)
def test_every_difference_shows_in_the_status(other: tuple[HistoryEntry, ...]) -> None:
    """Histories that differ in order, length, place or txid differ in status."""
    assert status_of(other) != status_of((FIRST, SECOND))


@pytest.mark.parametrize(
    "history",
    [
        pytest.param((), id="empty"),
        pytest.param((FIRST, SECOND), id="two of one block"),
        pytest.param((SECOND, FIRST), id="two of one block the other way round"),
        pytest.param((FIRST, LATER, IN_MEMPOOL, CHAINED), id="blocks, then the mempool"),
        pytest.param((CHAINED, IN_MEMPOOL), id="mempool in any order"),
        pytest.param((HistoryEntry(txid_of(1), 0),), id="in the genesis block"),
    ],
)
def test_consistent_histories_pass(history: tuple[HistoryEntry, ...]) -> None:
    """Heights that rise or stay, and the mempool behind them in any order, are consistent."""
    check_history(history)


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        pytest.param((FIRST, FIRST), "twice", id="same entry twice"),
        pytest.param((FIRST, HistoryEntry(FIRST.txid, 101)), "twice", id="same txid at two heights"),
        pytest.param((FIRST, HistoryEntry(FIRST.txid, None)), "twice", id="same txid in the mempool"),
        pytest.param((IN_MEMPOOL, IN_MEMPOOL), "twice", id="twice in the mempool"),
        pytest.param((LATER, FIRST), "height 100 stands behind height 250", id="falling heights"),
        pytest.param((IN_MEMPOOL, FIRST), "behind a mempool entry", id="mempool first"),
        pytest.param((FIRST, CHAINED, LATER), "behind a mempool entry", id="mempool in between"),
        pytest.param((HistoryEntry(txid_of(1), -1),), "height -1", id="a sentinel as height"),
    ],
)
def test_histories_that_contradict_themselves_are_refused(history: tuple[HistoryEntry, ...], reason: str) -> None:
    """A txid twice, falling heights, and a confirmed entry behind the mempool are contradictions."""
    with pytest.raises(HistoryError, match=reason):
        check_history(history)
