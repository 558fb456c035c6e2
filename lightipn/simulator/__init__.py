"""A whole Electrum server over a made-up regtest chain, for the demo, the tests and the benchmarks.

Mutations of a ``SimulatedChain`` enter; answers and notices of the Electrum protocol (1.4 to 1.6) leave.
Laws: every byte is real (headers carry their work, txids are hashes, branches fold to roots; only signatures are
made up); nothing reads a clock or a random number; every lie is a field of ``Behaviour``. A lie about the chain is a
chain of its own (``outlook``), one about a history or an answer is a row of a table (``lies``), one about lines and
connections is told in ``session`` and ``server``.
Rejected: canned answers. They cannot contradict themselves, so they prove nothing about who checks them.
"""
