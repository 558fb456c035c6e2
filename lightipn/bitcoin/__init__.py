"""Consensus facts over bytes: hashes, addresses, headers, merkle branches, transactions.

Bytes and text enter; frozen values leave. Nothing here reads a clock, a file or a socket.
Law: hashes are 32 bytes in internal order everywhere; text is made and read in ``hashes`` alone.
Rejected: embit's transaction parser, which reads past the end of its input without noticing.
"""
