"""What was paid to which script.

Verified histories and chain changes enter; ledger changes (entries and events) leave. The unit is a *payment*: the net
effect of one transaction on one output script, in satoshis, computed from hashed transactions alone.
Law: nothing is removed because a server's list became shorter; a payment leaves the totals only when it was replaced.
"""
