"""Which transactions are known, what they touch, and what was touched lately.

A history costs only its own transactions, however many scripthashes there are. The same goes for a notice: scripthashes
stand in the order in which they were last touched, so a reader walks back to where it was and no further.
"""

from collections.abc import Callable, Iterable

from lightipn.bitcoin.hashes import ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.transaction import Outpoint, Transaction


def leaves_first(starts: Iterable[Txid], followed_by: Callable[[Txid], Iterable[Txid]]) -> list[Txid]:
    """Return the starts and all that can be reached from them; each stands behind everything it leads to."""
    found: dict[Txid, None] = {}
    for start in starts:
        path = [(start, iter(followed_by(start)))] if start not in found else []
        while path:  # no recursion: a chain of payments may be longer than Python's stack
            txid, rest = path[-1]
            following = next((one for one in rest if one not in found), None)
            if following is None:
                found[txid] = None
                path.pop()
            else:
                path.append((following, iter(followed_by(following))))
    return list(found)


class ScriptIndex:
    """The known transactions, by txid, by scripthash and by what they spend."""

    def __init__(self) -> None:
        self.transactions: dict[Txid, Transaction] = {}
        self.spenders: dict[Outpoint, Txid] = {}
        self._scripthashes: dict[Txid, frozenset[ScriptHash]] = {}
        self._touching: dict[ScriptHash, dict[Txid, None]] = {}  # a dict, because a set has no fixed order
        self._touched_at: dict[ScriptHash, int] = {}

    def copy(self) -> "ScriptIndex":
        """Return an index that knows the same, and does not share what happens to this one."""
        twin = ScriptIndex()
        twin.transactions = dict(self.transactions)
        twin.spenders = dict(self.spenders)
        twin._scripthashes = dict(self._scripthashes)
        twin._touching = {scripthash: dict(txids) for scripthash, txids in self._touching.items()}
        twin._touched_at = dict(self._touched_at)
        return twin

    def add(self, transaction: Transaction) -> None:
        """Take a transaction in. It touches what it pays, and what it spends where that is known."""
        scripts = {output.script for output in transaction.outputs}
        for spend in () if transaction.is_coinbase else transaction.spends:  # all coinbases spend one null outpoint
            self.spenders[spend] = transaction.txid
            parent = self.transactions.get(spend.txid)
            if parent is not None and spend.index < len(parent.outputs):
                scripts.add(parent.outputs[spend.index].script)
        self.transactions[transaction.txid] = transaction
        self._scripthashes[transaction.txid] = frozenset(map(scripthash_of, scripts))
        for scripthash in self._scripthashes[transaction.txid]:
            self._touching.setdefault(scripthash, {})[transaction.txid] = None

    def remove(self, txid: Txid) -> None:
        """Forget a transaction."""
        for spend in self.transactions.pop(txid).spends:
            self.spenders.pop(spend, None)
        for scripthash in self._scripthashes.pop(txid):
            del self._touching[scripthash][txid]

    def touching(self, scripthash: ScriptHash) -> Iterable[Txid]:
        """Return the transactions that pay or spend from a scripthash, in no order that means anything."""
        return self._touching.get(scripthash, ())

    def children_of(self, txid: Txid) -> list[Txid]:
        """Return the transactions that spend an output of this one, each once."""
        outputs = self.transactions[txid].outputs
        spenders = (self.spenders.get(Outpoint(txid, index)) for index in range(len(outputs)))
        return list(dict.fromkeys(spender for spender in spenders if spender is not None))

    def family_of(self, txids: Iterable[Txid]) -> list[Txid]:
        """Return these transactions and all their descendants, parents first."""
        return list(reversed(leaves_first(txids, self.children_of)))

    def mark_touched(self, txid: Txid, version: int) -> None:
        """Note that the histories a transaction is part of changed in this version of the chain."""
        for scripthash in self._scripthashes[txid]:
            self._touched_at.pop(scripthash, None)
            self._touched_at[scripthash] = version

    def touched_since(self, version: int) -> list[ScriptHash]:
        """Return the scripthashes touched after this version, the earliest first."""
        touched = []
        for scripthash, touched_at in reversed(self._touched_at.items()):
            if touched_at <= version:
                break
            touched.append(scripthash)
        touched.reverse()
        return touched
