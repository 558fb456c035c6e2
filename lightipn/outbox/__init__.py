"""What must be told to whom, and when.

A subscription and the payments of its script enter; a message to tell leaves (``messages``), with the time of its next
attempt (``schedule``) and the judgement of each answer (``verdict``). What a message says and what counts as heard is
the dialect's business: its ``policy`` implements ``messages.Policy``.
Law: a message is told until it is acknowledged, at least once, and its id never changes.
"""
