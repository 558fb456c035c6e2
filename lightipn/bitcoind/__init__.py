"""A ``ChainSource`` over the RPC of one's own bitcoind; no index, no wallet, and a pruned node is enough.

Blocks and mempool transactions enter (``rpc``, ``node`` and ``answers``, ``notices``), typed evidence leaves
(``source``). In between ``scanner`` and ``targets`` find what concerns watched scripts, ``block_follower`` and
``mempool_follower`` go through all that the node has, ``registrar`` and ``enrolment`` take scripts up, ``past`` finds
what happened before, and ``book`` and ``teller`` say what is news. They share one ``view``.
Law: nothing here concludes anything; merkle branches are made of whole blocks and pass the same verifier as a server's.
What was found is in the store before it is told: a crash between the two is mended by the status that was absorbed.
Rejected: the node's wallet (a descriptor import rescans, and a pruned node refuses), and txindex (few nodes have it).
"""
