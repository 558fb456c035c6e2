"""What we believe about the chain, and why.

Evidence enters (headers, histories, branches, raw transactions); facts leave. ``verifier`` is the one door at which
evidence becomes a fact, and there is no switch to pass beside it. ``source`` is the interface of every backend.
Law: functions that change belief return the change as a value (``ChainDelta``); whoever called commits it first and
applies it then.
"""
