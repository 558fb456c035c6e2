"""The spine: evidence from a source enters, one committed transaction per verified update leaves.

    TipChanged          → fetch the headers that are missing → ChainDelta → headers, reverted payments, woken messages
    ScriptHashChanged   → fetch raw transactions and branches → verify → LedgerDelta → payments, messages, status

Everything of one update is one transaction: headers, ledger, absorbed status, and the messages that follow from it. The
in-memory chain takes a delta over only after its commit; a history is checked against the *stored* chain once more
inside its transaction, so it does not matter which of a reorg and a payment is committed first.
"""
