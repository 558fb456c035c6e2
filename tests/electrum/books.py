"""Histories, books whose first subscribes were answered, and the ways in which something is told to them."""

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import History, HistoryEntry, Status, status_of
from lightipn.electrum.subscriptions import Changed, Fetch, SubscribeBatch, SubscriptionBook
from tests.builders import txid_of

A, B, C = (ScriptHash(bytes([number]) * 32) for number in (1, 2, 3))
H1: History = (HistoryEntry(txid_of(1), None),)
H2: History = (HistoryEntry(txid_of(1), None), HistoryEntry(txid_of(2), None))
H3: History = (HistoryEntry(txid_of(3), 7),)
S1, S2, S3 = status_of(H1), status_of(H2), status_of(H3)


def open_book(
    known: dict[ScriptHash, Status | None], *, tip_height: int = 7
) -> tuple[SubscriptionBook, dict[ScriptHash, Status | None]]:
    """Return a book whose first subscribes were answered with what is known already."""
    book = SubscriptionBook(known, now=0.0)
    book.tip_height = tip_height
    batch = book.take_subscribes(100)
    if batch is not None:
        assert book.answered(batch, {scripthash: known[scripthash] for scripthash in batch.scripthashes}, now=0.0) == []
    return book, known


def taken(book: SubscriptionBook, limit: int = 100) -> SubscribeBatch:
    """Take a batch of subscribes, which must be there."""
    batch = book.take_subscribes(limit)
    assert batch is not None
    return batch


def announced(book: SubscriptionBook, scripthash: ScriptHash, status: Status | None) -> Fetch:
    """Announce a status that must cause a fetch, and return that."""
    fetch = book.notified(scripthash, status, now=1.0)
    assert fetch is not None
    assert (fetch.scripthash, fetch.status) == (scripthash, status)
    return fetch


def tell(book: SubscriptionBook, scripthash: ScriptHash, status: Status | None, history: History) -> Changed:
    """Announce a status and answer its fetch; return what the caller is given."""
    fetch = announced(book, scripthash, status)
    changed = book.fetched(fetch, history if fetch.history is None else fetch.history, now=1.0)
    assert isinstance(changed, Changed)
    return changed
