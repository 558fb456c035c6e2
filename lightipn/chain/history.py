"""Histories: which transactions a server claims for a scripthash, and the status that binds the claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

from lightipn.bitcoin.hashes import Txid, hex_of, sha256
from lightipn.errors import HistoryError

Status = NewType("Status", bytes)
"""32 bytes: SHA-256 over a history's text. The empty history has no status; that is ``None``."""

UNKNOWN = Status(b"")
"""Stands for "no status absorbed yet"; differs from every status and from None."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One claim of a server.

    Args:
        height: of the block it is said to be in; None in the mempool.
        has_unconfirmed_parent: in the mempool, and spends an output that is there too.
    """

    txid: Txid
    height: int | None
    has_unconfirmed_parent: bool = False


History = tuple[HistoryEntry, ...]


def status_of(history: Sequence[HistoryEntry]) -> Status | None:
    """Return the status that this history must have been announced with; None for an empty one.

    The order is the one received: below protocol 1.6 the order of mempool entries is not defined.

    Source:
        Electrum protocol 1.4, "Status".
    """
    if not history:
        return None
    parts = []
    for entry in history:
        height = entry.height if entry.height is not None else (-1 if entry.has_unconfirmed_parent else 0)
        parts.append(f"{hex_of(entry.txid)}:{height}:")
    return Status(sha256("".join(parts).encode()))


def check_history(history: Sequence[HistoryEntry]) -> None:
    """Check that a history does not contradict itself.

    Raises:
        HistoryError: a txid appears twice, heights fall, or a mempool entry stands before a confirmed one.
    """
    seen: set[Txid] = set()
    last_height = 0
    in_mempool = False
    for entry in history:
        if entry.txid in seen:
            raise HistoryError("a txid appears twice in one history")
        seen.add(entry.txid)
        if entry.height is None:
            in_mempool = True
            continue
        if in_mempool:
            raise HistoryError("a confirmed entry stands behind a mempool entry")
        if entry.height < last_height:
            raise HistoryError(f"height {entry.height} stands behind height {last_height}")
        last_height = entry.height
