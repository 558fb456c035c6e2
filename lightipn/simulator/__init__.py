"""A whole Electrum server over a made-up regtest chain, for the demo, the tests and the benchmarks.

Mutations of a ``SimulatedChain`` enter; answers and notices of the Electrum protocol (1.4 to 1.6) leave.
Laws: every byte is real (headers carry their work, txids are hashes, branches fold to roots; only signatures are
made up); nothing reads a clock or a random number; every lie is a row of the table in ``lies``.
Rejected: canned answers. They cannot contradict themselves, so they prove nothing about who checks them.
"""
