"""Which transactions concern a script: those that pay it, and those that spend what it was paid.

A server may list a real transaction that has nothing to do with the script, or hide the payment whose coins another one
spends. The first would make honest servers look as if they left something out, the second turns change into a deposit.
"""

from collections.abc import Iterable, Mapping

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Outpoint, Transaction
from lightipn.ledger.entries import ScriptPayments


def own_outputs_of(payments: ScriptPayments, transactions: Iterable[Transaction]) -> set[Outpoint]:
    """Return the outputs that pay the script, of what is recorded and of these transactions."""
    own = {Outpoint(txid, index) for txid, entry in payments.entries.items() for index, _ in entry.outputs}
    own |= payments.unproved.keys()
    for transaction in transactions:
        own |= {Outpoint(transaction.txid, index) for index in transaction.received_by(payments.script)}
    return own


def unrelated_of(payments: ScriptPayments, transactions: Mapping[Txid, Transaction]) -> list[Transaction]:
    """Return the transactions that neither pay the script nor spend what it was paid, as far as that is known."""
    own = own_outputs_of(payments, transactions.values())
    return [
        transaction
        for transaction in transactions.values()
        if not transaction.received_by(payments.script) and own.isdisjoint(transaction.spends)
    ]
