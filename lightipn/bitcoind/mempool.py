"""The node's mempool as far as it concerns us; sans-IO.

Of every transaction a fingerprint of its output scripts is kept (four bytes each), so that a script that is watched
from now on finds the payments that wait for it already; of those that concern a watched script, the match.
"""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from lightipn.bitcoin.hashes import ScriptHash, Txid, hex_of
from lightipn.bitcoin.transaction import PackedOutpoint, Transaction
from lightipn.bitcoind.scanner import Match
from lightipn.chain.history import HistoryEntry

Key = TypeVar("Key")

FINGERPRINT_BYTES = 4
LOOKED_AT_ONCE = 5_000


def fingerprint_of(script: bytes) -> bytes:
    """Return four bytes that tell most scripts apart: within one process, and quick to make."""
    return (hash(script) & 0xFFFFFFFF).to_bytes(FINGERPRINT_BYTES, "little")


class MempoolView:
    """What waits for its block."""

    def __init__(self) -> None:
        self._fingerprints: dict[Txid, bytes] = {}
        self._matches: dict[Txid, Match] = {}
        self._parents: dict[Txid, frozenset[Txid]] = {}  # of the matches: what they spend from, waiting or not
        self._children: dict[Txid, set[Txid]] = {}  # the same the other way round
        self._spenders: dict[PackedOutpoint, Txid] = {}  # of the outpoints that matches name
        self._by_script: dict[ScriptHash, set[Txid]] = {}

    def __contains__(self, txid: Txid) -> bool:
        return txid in self._fingerprints

    def txids(self) -> set[Txid]:
        """Return all that waits."""
        return set(self._fingerprints)

    def compare(self, txids: AbstractSet[Txid], known: AbstractSet[Txid]) -> tuple[list[Txid], list[Txid]]:
        """Return which transactions of a listing are new, and which of ours are not in it any more.

        Args:
            known: what was there when the listing was asked for; what came since then is not missing in it.
        """
        return list(txids - self._fingerprints.keys()), list(known - txids)

    def children_of(self, txid: Txid) -> list[Txid]:
        """Return what concerns watched scripts and spends from a transaction."""
        return list(self._children.get(txid, ()))

    def add(self, transaction: Transaction, match: Match | None) -> frozenset[ScriptHash]:
        """Take up a transaction, and return whom it concerns, also by what it changes about others.

        What it replaces is forgotten: a mempool never holds two that spend the same, and not every notice says which
        one has left.
        """
        txid = transaction.txid
        touched = self._take_match(txid) | self._children_concerned(txid)
        self._fingerprints[txid] = b"".join(fingerprint_of(output.script) for output in transaction.outputs)
        if match is None:
            return touched
        for outpoint in match.spends:
            if outpoint in self._spenders:
                touched |= self.remove(self._spenders[outpoint])
        self._enter(match, frozenset(spend.txid for spend in transaction.spends))
        return touched | match.scripthashes

    def _enter(self, match: Match, parents: frozenset[Txid]) -> None:
        self._matches[match.txid] = match
        self._parents[match.txid] = parents
        for outpoint in match.spends:
            self._spenders[outpoint] = match.txid
        for parent in parents:
            self._children.setdefault(parent, set()).add(match.txid)
        for scripthash in match.scripthashes:
            self._by_script.setdefault(scripthash, set()).add(match.txid)

    def remove(self, txid: Txid) -> frozenset[ScriptHash]:
        """Forget a transaction, and return whom it concerned, and whose payments hang on it."""
        if self._fingerprints.pop(txid, None) is None:
            return frozenset()
        return self._take_match(txid) | self._children_concerned(txid)

    def _children_concerned(self, txid: Txid) -> frozenset[ScriptHash]:
        """Return whose payments spend from a transaction: whether that waits is told with them."""
        return frozenset().union(*(self._matches[child].scripthashes for child in self._children.get(txid, ())))

    def _take_match(self, txid: Txid) -> frozenset[ScriptHash]:
        match = self._matches.pop(txid, None)
        if match is None:
            return frozenset()
        for scripthash in match.scripthashes:
            _discard(self._by_script, scripthash, txid)
        for parent in self._parents.pop(txid):
            _discard(self._children, parent, txid)
        for outpoint in match.spends:
            del self._spenders[outpoint]
        return match.scripthashes

    def forget_script(self, scripthash: ScriptHash) -> None:
        """Say that nobody watches a script any more."""
        for txid in list(self._by_script.get(scripthash, ())):
            match, parents = self._matches[txid], self._parents[txid]
            rest = Match(
                txid=txid,
                outputs={key: owner for key, owner in match.outputs.items() if owner != scripthash},
                spends={key: owner for key, owner in match.spends.items() if owner != scripthash},
            )
            self._take_match(txid)
            if rest.scripthashes:
                self._enter(rest, parents)

    def candidates(self, scripts: Iterable[bytes]) -> Iterator[list[Txid]]:
        """Yield the transactions that may pay one of these scripts, few of which do not; a list for so many looked at.

        A list may be empty: it is there so that whoever looks through a large mempool can let others have their turn.
        """
        wanted = {fingerprint_of(script) for script in scripts}
        waiting = list(self._fingerprints.items()) if wanted else []
        for at in range(0, len(waiting), LOOKED_AT_ONCE):
            yield [txid for txid, packed in waiting[at : at + LOOKED_AT_ONCE] if _has_any(packed, wanted)]

    def matches(self) -> Sequence[Match]:
        """Return what concerns watched scripts."""
        return list(self._matches.values())

    def entries(self, scripthash: ScriptHash) -> list[HistoryEntry]:
        """Return what waits for a script, in the order that Electrum protocol 1.6 lays down."""
        found = [
            HistoryEntry(
                txid=txid,
                height=None,
                has_unconfirmed_parent=any(parent in self._fingerprints for parent in self._parents[txid]),
            )
            for txid in self._by_script.get(scripthash, ())
        ]
        return sorted(found, key=lambda entry: (entry.has_unconfirmed_parent, hex_of(entry.txid)))


def _has_any(packed: bytes, wanted: AbstractSet[bytes]) -> bool:
    return any(packed[at : at + FINGERPRINT_BYTES] in wanted for at in range(0, len(packed), FINGERPRINT_BYTES))


def _discard(index: dict[Key, set[Txid]], key: Key, txid: Txid) -> None:
    found = index[key]
    found.discard(txid)
    if not found:
        del index[key]
