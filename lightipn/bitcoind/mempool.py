"""The node's mempool as far as it concerns us; sans-IO.

Of every transaction a fingerprint of its output scripts is kept (four bytes each), so that a script that is watched
from now on finds the payments that wait for it already; of those that concern a watched script, the match.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Transaction
from lightipn.bitcoind.scanner import Match
from lightipn.chain.history import HistoryEntry

FINGERPRINT_BYTES = 4


def fingerprint_of(script: bytes) -> bytes:
    """Return four bytes that tell most scripts apart: within one process, and quick to make."""
    return (hash(script) & 0xFFFFFFFF).to_bytes(FINGERPRINT_BYTES, "little")


class MempoolView:
    """What waits for its block."""

    def __init__(self) -> None:
        self._fingerprints: dict[Txid, bytes] = {}
        self._matches: dict[Txid, Match] = {}
        self._has_parent: set[Txid] = set()
        self._by_script: dict[ScriptHash, set[Txid]] = {}

    def __contains__(self, txid: Txid) -> bool:
        return txid in self._fingerprints

    def compare(self, txids: AbstractSet[Txid]) -> tuple[list[Txid], list[Txid]]:
        """Return which transactions of a listing are new, and which of ours are not in it any more."""
        known = self._fingerprints.keys()
        return list(txids - known), list(known - txids)

    def add(self, transaction: Transaction, match: Match | None) -> frozenset[ScriptHash]:
        """Take up a transaction, and return whom it concerns."""
        self._fingerprints[transaction.txid] = b"".join(fingerprint_of(output.script) for output in transaction.outputs)
        if match is None:
            return frozenset()
        if any(spend.txid in self._fingerprints for spend in transaction.spends):
            self._has_parent.add(match.txid)
        before = self._matches.get(match.txid)
        touched = match.scripthashes | (before.scripthashes if before is not None else frozenset())
        self._matches[match.txid] = match
        for scripthash in match.scripthashes:
            self._by_script.setdefault(scripthash, set()).add(match.txid)
        return touched

    def remove(self, txid: Txid) -> frozenset[ScriptHash]:
        """Forget a transaction, and return whom it concerned."""
        self._fingerprints.pop(txid, None)
        self._has_parent.discard(txid)
        match = self._matches.pop(txid, None)
        if match is None:
            return frozenset()
        for scripthash in match.scripthashes:
            waiting = self._by_script[scripthash]
            waiting.discard(txid)
            if not waiting:
                del self._by_script[scripthash]
        return match.scripthashes

    def clear(self) -> set[ScriptHash]:
        """Forget everything, since another mempool follows, and return whom that concerns."""
        concerned = set(self._by_script)
        for view in (self._fingerprints, self._matches, self._has_parent, self._by_script):
            view.clear()
        return concerned

    def forget_script(self, scripthash: ScriptHash) -> None:
        """Say that nobody watches a script any more."""
        for txid in self._by_script.pop(scripthash, ()):
            match = self._matches[txid]
            rest = Match(
                txid=txid,
                outputs={key: owner for key, owner in match.outputs.items() if owner != scripthash},
                spends={key: owner for key, owner in match.spends.items() if owner != scripthash},
            )
            if rest.scripthashes:
                self._matches[txid] = rest
            else:
                del self._matches[txid]

    def candidates(self, scripts: Iterable[bytes]) -> list[Txid]:
        """Return the transactions that may pay one of these scripts; few of them do not."""
        wanted = {fingerprint_of(script) for script in scripts}
        return [
            txid
            for txid, packed in self._fingerprints.items()
            if any(packed[at : at + FINGERPRINT_BYTES] in wanted for at in range(0, len(packed), FINGERPRINT_BYTES))
        ]

    def matches(self) -> Sequence[Match]:
        """Return what concerns watched scripts."""
        return list(self._matches.values())

    def entries(self, scripthash: ScriptHash) -> list[HistoryEntry]:
        """Return what waits for a script, always in the same order."""
        return [
            HistoryEntry(txid=txid, height=None, has_unconfirmed_parent=txid in self._has_parent)
            for txid in sorted(self._by_script.get(scripthash, ()))
        ]
